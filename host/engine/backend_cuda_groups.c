/*
 * backend_cuda_groups.c: a group of small tensors on a GPU.
 *
 * What lives here: one upload per input for the whole group, rounds of few launches (methods/device_group.h), one download of
 * the outputs. Nothing is launched or copied per tensor: at 10 us each way over PCIe a tensor of a few KB costs less on the
 * CPU than its launch alone. Members that a group cannot hold, and groups for which there is no room, the CPU computes.
 * What it must not know: jobs, files, how kernels work.
 */
#include "engine/backend_cuda.h"

#include "methods/device_group.h"

#include <stdlib.h>
#include <string.h>

#define GROUP_ALIGN 256u

#if BACKEND_GROUP_MEMBERS > DEVICE_GROUP_TENSORS || BACKEND_GROUP_MEMBER_ELEMS > DEVICE_GROUP_ELEMS
#error "a group and each of its tensors fit one table"
#endif

/* Kept by the thread from the first group on. */
struct cuda_group {
    struct device_group_tensor tensors[DEVICE_GROUP_TENSORS];
    size_t members[DEVICE_GROUP_TENSORS]; /* which of the group's members each of them is */
    size_t n_tensors;
    unsigned char *table, *results; /* page-locked */
};

/* Where a group lies on the device. */
struct cuda_group_places {
    struct cuda_memory memory;
    unsigned char *inputs[TILE_MAX_INPUTS], *out, *table, *results;
};

static uint64_t round_up(uint64_t n)
{
    return (n + GROUP_ALIGN - 1) / GROUP_ALIGN * GROUP_ALIGN;
}

void backend_cuda_group_free(struct cuda_group *g)
{
    if (g && g->table)
        cudaFreeHost(g->table);
    free(g);
}

static enum wm_status get_ready(struct backend *b, struct cuda_thread *t, struct wm_error *err)
{
    enum wm_status st = WM_OK;

    if (!t->group && !(t->group = calloc(1, sizeof *t->group)))
        return error_no_memory(err, "starting a group of tensors on a GPU");
    if (t->group->table)
        return WM_OK;
    CUDA(cudaHostAlloc((void **)&t->group->table, DEVICE_GROUP_TABLE_BYTES + DEVICE_GROUP_RESULT_BYTES,
                       cudaHostAllocDefault),
         "allocating host memory");
    t->group->results = t->group->table + DEVICE_GROUP_TABLE_BYTES;
out:
    return st;
}

/* NULL in memory.at without an error: there is no room. */
static enum wm_status find_places(struct backend *b, struct cuda_thread *t, const struct backend_group *group,
                                  struct cuda_group_places *places, struct wm_error *err)
{
    uint64_t n_bytes = DEVICE_GROUP_TABLE_BYTES + DEVICE_GROUP_RESULT_BYTES + round_up(group->n_out_bytes);
    enum wm_status st = WM_OK;
    unsigned char *next;

    memset(places, 0, sizeof *places);
    for (int i = 0; i < group->n_inputs; i++)
        n_bytes += round_up(group->n_input_bytes[i]);
    if (n_bytes > t->side_bytes)
        goto out;
    TRY(backend_cuda_take(b, t, n_bytes, &places->memory, err));
    next = places->memory.at;
    if (!next)
        goto out;
    places->table = next;
    places->results = places->table + DEVICE_GROUP_TABLE_BYTES;
    places->out = places->results + DEVICE_GROUP_RESULT_BYTES;
    next = places->out + round_up(group->n_out_bytes);
    for (int i = 0; i < group->n_inputs; i++) {
        places->inputs[i] = next;
        next += round_up(group->n_input_bytes[i]);
    }
out:
    return st;
}

/* Describes the members that the device takes; every allocation on the host is done here, before the device has anything
 * to do with the group's memory. */
static enum wm_status describe(struct cuda_group *g, const struct backend_group *group,
                               const struct cuda_group_places *places, struct wm_error *err)
{
    g->n_tensors = 0;
    for (size_t i = 0; i < group->n_members; i++) {
        struct backend_member *member = &group->members[i];
        struct device_group_tensor *tensor = &g->tensors[g->n_tensors];
        if (!device_group_takes(member->op))
            continue;
        merge_report_init(&member->report);
        *tensor = (struct device_group_tensor){member->op, NULL, member->tile, &member->report};
        for (int k = 0; k < merge_op_n_inputs(member->op); k++)
            tensor->tile.in[k] = places->inputs[k] +
                                 ((const unsigned char *)member->tile.in[k] - (const unsigned char *)group->inputs[k]);
        tensor->tile.out = places->out + ((unsigned char *)member->tile.out - (unsigned char *)group->out);
        g->members[g->n_tensors++] = i;
        if (statistics_first_pass(member->op) == STAT_READY)
            continue;
        tensor->statistics = statistics_new(member->op, DEVICE_GROUP_ELEMS);
        if (!tensor->statistics)
            return error_no_memory(err, "merging a tensor");
    }
    return WM_OK;
}

static enum wm_status run_rounds(struct backend *b, struct cuda_thread *t, const struct backend_group *group,
                                 const struct cuda_group_places *places, struct wm_error *err)
{
    struct cuda_group *g = t->group;
    struct device_group_round round;
    enum wm_status st = WM_OK;

    for (int i = 0; i < group->n_inputs; i++) {
        CUDA(cudaMemcpyAsync(places->inputs[i], group->inputs[i], group->n_input_bytes[i], cudaMemcpyHostToDevice,
                             t->compute),
             "uploading a group of tensors");
        b->n_bytes += group->n_input_bytes[i];
    }
    b->n_bytes += group->n_out_bytes;
    do {
        device_group_plan(g->tensors, g->n_tensors, g->table, &round);
        CUDA(cudaMemcpyAsync(places->table, g->table, round.n_table_bytes, cudaMemcpyHostToDevice, t->compute),
             "uploading a group of tensors");
        CUDA(cudaMemsetAsync(places->results, 0, round.n_result_bytes, t->compute), "launching a group of tensors");
        CUDA(device_group_launch(&round, places->table, places->results, t->compute), "launching a group of tensors");
        CUDA(cudaMemcpyAsync(g->results, places->results, round.n_result_bytes, cudaMemcpyDeviceToHost, t->compute),
             "downloading a group of tensors");
        if (round.is_last)
            CUDA(cudaMemcpyAsync(group->out, places->out, group->n_out_bytes, cudaMemcpyDeviceToHost, t->compute),
                 "downloading a group of tensors");
        CUDA(cudaStreamSynchronize(t->compute), "computing a group of tensors");
        device_group_collect(g->tensors, g->n_tensors, g->results);
        for (size_t i = 0; i < g->n_tensors; i++)
            if (g->tensors[i].statistics) {
                (void)statistics_finish_pass(g->tensors[i].statistics, group->members[g->members[i]].op);
                if (statistics_counts_wrong(g->tensors[i].statistics)) {
                    st = error_set(err, WM_TEMPORARY,
                                   "GPU %d miscounted the elements of a small tensor; run the same command again, it "
                                   "continues, and test that GPU if it happens again",
                                   ((const struct cuda_backend *)b)->options.device);
                    goto out;
                }
            }
    } while (!round.is_last);
out:
    return st;
}

/* After the download, which may have gone over their places. */
static enum wm_status finish_members(struct backend *b, struct cuda_thread *t, struct backend_group *group,
                                     struct wm_error *err)
{
    enum wm_status st = WM_OK;
    size_t next = 0;

    for (size_t i = 0; i < group->n_members; i++) {
        struct backend_member *member = &group->members[i];
        struct backend_group alone = {.members = member, .n_members = 1};
        if (next < t->group->n_tensors && t->group->members[next] == i) {
            next++;
            TRY(backend_cuda_check_member(b, t, member, err));
        } else {
            TRY(backend_cpu_run_group(&alone, t->scratch, err));
        }
    }
out:
    return st;
}

enum wm_status backend_cuda_submit_group(struct backend *b, void *thread, struct backend_group *group,
                                         struct wm_error *err)
{
    struct cuda_thread *t = thread;
    struct cuda_group_places places = {.memory = {NULL, 0}};
    enum wm_status st = WM_OK;

    TRY(get_ready(b, t, err));
    t->group->n_tensors = 0;
    TRY(find_places(b, t, group, &places, err));
    if (places.memory.at) {
        TRY(describe(t->group, group, &places, err));
        if (t->group->n_tensors)
            TRY(run_rounds(b, t, group, &places, err));
    }
    TRY(finish_members(b, t, group, err));
out:
    for (size_t i = 0; t->group && i < t->group->n_tensors; i++) {
        statistics_free(t->group->tensors[i].statistics);
        t->group->tensors[i].statistics = NULL;
    }
    if (!((struct cuda_backend *)b)->dead && places.memory.at)
        backend_cuda_give(t, &places.memory);
    return st;
}

enum wm_status backend_cuda_await_group(struct backend *b, void *thread, struct backend_group *group, bool *is_done,
                                        struct wm_error *err)
{
    (void)b;
    (void)thread;
    (void)group;
    (void)err;
    *is_done = true;
    return WM_OK;
}
