/* backend_cpu.c: the backend every machine has: tiles are executed where they lie. Knows the CPU drivers of kernels/. */
#include "engine/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

struct cpu_backend {
    struct backend backend;
    char name[32];
};

static const char *cpu_describe(const struct backend *backend)
{
    return ((const struct cpu_backend *)backend)->name;
}

/* Anonymous pages straight from the kernel: nothing is resident until a tile touches it, and it all goes back at once. */
static void *cpu_alloc(struct backend *backend, size_t n_bytes)
{
    void *memory = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    (void)backend;
    return memory == MAP_FAILED ? NULL : memory;
}

static void cpu_free(struct backend *backend, void *memory, size_t n_bytes)
{
    (void)backend;
    if (memory)
        munmap(memory, n_bytes);
}

static void *cpu_thread_new(struct backend *backend, struct wm_error *err)
{
    struct cpu_scratch *scratch = cpu_scratch_new();

    (void)backend;
    if (!scratch)
        error_no_memory(err, "starting a compute thread");
    return scratch;
}

static void cpu_thread_free(struct backend *backend, void *thread)
{
    (void)backend;
    cpu_scratch_free(thread);
}

static enum wm_status cpu_tensor_new(struct backend *backend, void *thread, const struct backend_tensor_info *info,
                                     void **tensor, struct wm_error *err)
{
    (void)backend;
    (void)thread;
    (void)info;
    (void)tensor; /* stays NULL: threads share a tensor, and none of them needs state of it */
    (void)err;
    return WM_OK;
}

static void cpu_tensor_free(struct backend *backend, void *thread, void *tensor)
{
    (void)backend;
    (void)thread;
    (void)tensor;
}

static enum wm_status cpu_submit(struct backend *backend, void *thread, struct backend_task *task, struct wm_error *err)
{
    enum stat_pass pass = task->statistics ? statistics_pass(task->statistics) : STAT_READY;

    (void)backend;
    (void)err;
    merge_report_init(&task->report);
    if (task->model_statistics)
        cpu_model_statistics_tile(task->op, task->model_statistics, &task->tile, thread);
    else if (pass == STAT_READY)
        cpu_combine_tile(task->op, task->statistics, &task->tile, thread, &task->report);
    else if (pass == STAT_KTH_GUESS)
        cpu_guess_tile(task->op, task->statistics, &task->tile, thread, &task->report);
    else
        cpu_statistics_tile(task->op, task->statistics, &task->tile, thread);
    return WM_OK;
}

static enum wm_status cpu_await(struct backend *backend, void *thread, struct backend_task *task, struct wm_error *err)
{
    (void)backend;
    (void)thread;
    (void)task;
    (void)err;
    return WM_OK;
}

static enum wm_status cpu_finish_pass(struct backend *backend, void *thread, void *tensor, struct merge_op *op,
                                      struct statistics *statistics, enum stat_pass *next, struct wm_error *err)
{
    (void)backend;
    (void)thread;
    (void)tensor;
    (void)err;
    *next = statistics_finish_pass(statistics, op);
    return WM_OK;
}

/* Tiles are counted where all threads count. */
static enum wm_status cpu_collect_model(struct backend *backend, void *thread,
                                        struct model_statistics *model_statistics, struct wm_error *err)
{
    (void)backend;
    (void)thread;
    (void)model_statistics;
    (void)err;
    return WM_OK;
}

static enum wm_status run_member(struct backend_member *member, struct cpu_scratch *scratch, struct wm_error *err)
{
    struct statistics *statistics = NULL;

    merge_report_init(&member->report);
    if (statistics_first_pass(member->op) != STAT_READY) {
        statistics = statistics_new(member->op, BACKEND_GROUP_MEMBER_ELEMS);
        if (!statistics)
            return error_no_memory(err, "merging a tensor");
        while (statistics_pass(statistics) != STAT_READY) {
            cpu_statistics_tile(member->op, statistics, &member->tile, scratch);
            statistics_finish_pass(statistics, member->op);
        }
    }
    cpu_combine_tile(member->op, statistics, &member->tile, scratch, &member->report);
    statistics_free(statistics);
    return WM_OK;
}

enum wm_status backend_cpu_run_group(struct backend_group *group, struct cpu_scratch *scratch, struct wm_error *err)
{
    enum wm_status st = WM_OK;

    for (size_t i = 0; i < group->n_members; i++)
        TRY(run_member(&group->members[i], scratch, err));
out:
    return st;
}

static enum wm_status cpu_submit_group(struct backend *backend, void *thread, struct backend_group *group,
                                       struct wm_error *err)
{
    (void)backend;
    return backend_cpu_run_group(group, thread, err);
}

static enum wm_status cpu_await_group(struct backend *backend, void *thread, struct backend_group *group, bool *is_done,
                                      struct wm_error *err)
{
    (void)backend;
    (void)thread;
    (void)group;
    (void)err;
    *is_done = true;
    return WM_OK;
}

static void cpu_close(struct backend *backend)
{
    free(backend);
}

static const struct backend_ops cpu_ops = {.describe = cpu_describe,
                                           .alloc = cpu_alloc,
                                           .free = cpu_free,
                                           .thread_new = cpu_thread_new,
                                           .thread_free = cpu_thread_free,
                                           .tensor_new = cpu_tensor_new,
                                           .tensor_free = cpu_tensor_free,
                                           .submit = cpu_submit,
                                           .await = cpu_await,
                                           .finish_pass = cpu_finish_pass,
                                           .collect_model = cpu_collect_model,
                                           .submit_group = cpu_submit_group,
                                           .await_group = cpu_await_group,
                                           .close = cpu_close};

enum wm_status backend_open_cpu(struct backend **backend, struct wm_error *err)
{
    struct cpu_backend *cpu = calloc(1, sizeof *cpu);

    if (!cpu)
        return error_no_memory(err, "starting the CPU backend");
    cpu->backend.ops = &cpu_ops;
    cpu->backend.depth = cpu->backend.group_depth = 1;
    cpu->backend.group_members = 16; /* one after the other anyway: as many as keep their descriptions in the cache */
    snprintf(cpu->name, sizeof cpu->name, "cpu %s", cpu_isa());
    *backend = &cpu->backend;
    return WM_OK;
}
