/*
 * backend_cuda_groups.c: groups of small tensors on a GPU.
 *
 * What lives here: one upload per input for a whole group, rounds of few launches (methods/device_group.h), one download of
 * the outputs. Nothing is launched or copied per tensor: at 10 us each way over PCIe a tensor of a few KB costs less on the
 * CPU than its launch alone. Several groups are on their way at once, over the same three streams as tiles, ordered by
 * events alone: uploads of one group, kernels of another and downloads of a third overlap. The one wait is for a group's own
 * round, since the host makes the next one of its results. Members that a group cannot hold, and groups for which there can
 * be no room, the CPU computes. What it must not know: jobs, files, how kernels work.
 */
#include "engine/backend_cuda.h"

#include "methods/device_group.h"

#include <stdlib.h>
#include <string.h>

#define GROUP_ALIGN 256u

#if BACKEND_GROUP_MEMBERS > DEVICE_GROUP_TENSORS || BACKEND_GROUP_MEMBER_ELEMS > DEVICE_GROUP_ELEMS
#error "a group and each of its tensors fit one table"
#endif

enum group_stage {
    GROUP_NONE,   /* nobody's */
    GROUP_WAITS,  /* for room that others on their way take up */
    GROUP_RUNS,   /* has device memory, and a round on its way */
    GROUP_ON_CPU, /* is left to the CPU */
};

/* A place for one group on its way. Made at first use, and kept for groups to come. */
struct cuda_group {
    enum group_stage stage;
    uint64_t age; /* when it was submitted */
    struct backend_group *group;
    struct device_group_tensor tensors[DEVICE_GROUP_TENSORS];
    size_t members[DEVICE_GROUP_TENSORS]; /* which of the group's members each of them is */
    size_t n_tensors;
    struct device_group_round round; /* that is on its way */
    unsigned char *table, *results;  /* page-locked */
    cudaEvent_t uploaded, computed, done;
    struct cuda_memory memory; /* on the device; without a group, whoever needs it may have it */
    struct {
        unsigned char *inputs[TILE_MAX_INPUTS], *out, *table, *results;
    } at;
};

static uint64_t round_up(uint64_t n)
{
    return (n + GROUP_ALIGN - 1) / GROUP_ALIGN * GROUP_ALIGN;
}

/* ---- places for groups ------------------------------------------------------------------------------------------ */

static void drop_memory(struct cuda_thread *t, struct cuda_group *g)
{
    if (g->memory.at)
        cudaFree(g->memory.at);
    t->side_used -= g->memory.n_bytes;
    g->memory = (struct cuda_memory){NULL, 0};
}

void backend_cuda_shrink_groups(struct cuda_thread *t)
{
    for (int i = 0; i < CUDA_GROUPS; i++)
        if (t->groups[i] && t->groups[i]->stage == GROUP_NONE)
            drop_memory(t, t->groups[i]);
}

/* The group's end. Its memory on the host is not looked at: after a failure it may be gone. */
static void release(struct cuda_group *g)
{
    for (size_t i = 0; i < g->n_tensors; i++)
        statistics_free(g->tensors[i].statistics);
    g->n_tensors = 0;
    g->group = NULL;
    g->stage = GROUP_NONE;
}

void backend_cuda_free_groups(struct backend *b, struct cuda_thread *t)
{
    for (int i = 0; i < CUDA_GROUPS; i++) {
        struct cuda_group *g = t->groups[i];
        if (!g)
            continue;
        release(g);
        if (!((struct cuda_backend *)b)->dead) {
            if (g->uploaded)
                cudaEventDestroy(g->uploaded);
            if (g->computed)
                cudaEventDestroy(g->computed);
            if (g->done)
                cudaEventDestroy(g->done);
            drop_memory(t, g);
        }
        cudaFreeHost(g->table);
        free(g);
        t->groups[i] = NULL;
    }
}

static uint64_t device_bytes(const struct backend_group *group)
{
    uint64_t n_bytes = DEVICE_GROUP_TABLE_BYTES + DEVICE_GROUP_RESULT_BYTES + round_up(group->n_out_bytes);

    for (int i = 0; i < group->n_inputs; i++)
        n_bytes += round_up(group->n_input_bytes[i]);
    return n_bytes;
}

/* Is a place with n bytes of device memory better than one with `than`? The least that is enough, else the most. */
static bool fits_better(uint64_t n, uint64_t than, uint64_t needed)
{
    return n >= needed ? than < needed || n < than : n > than;
}

/* A place that nobody has; a new one only when all have been taken before. */
static struct cuda_group *take(struct cuda_thread *t, struct backend_group *group, struct wm_error *err)
{
    const uint64_t n_bytes = device_bytes(group);
    struct cuda_group **best = NULL, *g;

    for (int i = 0; i < CUDA_GROUPS; i++) {
        struct cuda_group **at = &t->groups[i];
        if (*at && (*at)->stage != GROUP_NONE)
            continue;
        if (!best || (*at && (!*best || fits_better((*at)->memory.n_bytes, (*best)->memory.n_bytes, n_bytes))))
            best = at;
    }
    if (!best) {
        error_set(err, WM_BUG, "a GPU was given more groups of tensors than it takes");
        return NULL;
    }
    if (!*best && !(*best = calloc(1, sizeof **best))) {
        error_no_memory(err, "starting a group of tensors on a GPU");
        return NULL;
    }
    g = *best;
    g->stage = GROUP_WAITS;
    g->age = t->submitted++;
    g->group = group;
    group->slot = g;
    return g;
}

/* ---- room -------------------------------------------------------------------------------------------------------- */

/* What a place needs besides device memory. *is_ready is false without an error where page-locked memory is refused. */
static enum wm_status get_ready(struct backend *b, struct cuda_group *g, bool *is_ready, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    cudaError_t code;

    *is_ready = false;
    if (!g->uploaded)
        CUDA(cudaEventCreateWithFlags(&g->uploaded, cudaEventDisableTiming), "creating an event");
    if (!g->computed)
        CUDA(cudaEventCreateWithFlags(&g->computed, cudaEventDisableTiming), "creating an event");
    if (!g->done)
        CUDA(cudaEventCreateWithFlags(&g->done, cudaEventDisableTiming), "creating an event");
    if (!g->table) {
        code = cudaHostAlloc((void **)&g->table, DEVICE_GROUP_TABLE_BYTES + DEVICE_GROUP_RESULT_BYTES,
                             cudaHostAllocDefault);
        if (code != cudaSuccess)
            g->table = NULL;
        if (code == cudaErrorMemoryAllocation) {
            (void)cudaGetLastError(); /* not sticky: take it off the record */
            goto out;
        }
        CUDA(code, "allocating host memory");
        g->results = g->table + DEVICE_GROUP_TABLE_BYTES;
    }
    *is_ready = true;
out:
    return st;
}

/* Bytes of all groups that run. */
static uint64_t running_bytes(const struct cuda_thread *t)
{
    uint64_t n_bytes = 0;

    for (int i = 0; i < CUDA_GROUPS; i++)
        if (t->groups[i] && t->groups[i]->stage == GROUP_RUNS)
            n_bytes += t->groups[i]->memory.n_bytes;
    return n_bytes;
}

static bool waits_behind_another(const struct cuda_thread *t, const struct cuda_group *g)
{
    for (int i = 0; i < CUDA_GROUPS; i++)
        if (t->groups[i] && t->groups[i]->stage == GROUP_WAITS && t->groups[i]->age < g->age)
            return true;
    return false;
}

/* Device memory for the group, if there is room. A group that is alone may have all that is not for tiles; several leave
 * half of it to the results of larger tensors, which would be the CPU's otherwise. */
static enum wm_status find_places(struct backend *b, struct cuda_thread *t, struct cuda_group *g, bool *has_places,
                                  struct wm_error *err)
{
    const struct backend_group *group = g->group;
    const uint64_t n_bytes = device_bytes(group), running = running_bytes(t), share = t->side_bytes / 2;
    enum wm_status st = WM_OK;
    unsigned char *next;

    *has_places = false;
    if (n_bytes > t->side_bytes || (running && running + n_bytes > share))
        goto out;
    if (g->memory.n_bytes < n_bytes || (n_bytes <= share && running + g->memory.n_bytes > share)) {
        drop_memory(t, g);
        TRY(backend_cuda_take(b, t, n_bytes, &g->memory, err));
    }
    next = g->memory.at;
    if (!next)
        goto out;
    g->at.table = next;
    g->at.results = g->at.table + DEVICE_GROUP_TABLE_BYTES;
    g->at.out = g->at.results + DEVICE_GROUP_RESULT_BYTES;
    next = g->at.out + round_up(group->n_out_bytes);
    for (int i = 0; i < group->n_inputs; i++) {
        g->at.inputs[i] = next;
        next += round_up(group->n_input_bytes[i]);
    }
    *has_places = true;
out:
    return st;
}

/* ---- rounds ------------------------------------------------------------------------------------------------------ */

/* Describes the members that the device takes; every allocation on the host is done here, before the device has anything
 * to do with the group's memory. */
static enum wm_status describe(struct cuda_group *g, struct wm_error *err)
{
    const struct backend_group *group = g->group;

    for (size_t i = 0; i < group->n_members; i++) {
        struct backend_member *member = &group->members[i];
        struct device_group_tensor *tensor = &g->tensors[g->n_tensors];
        if (!device_group_takes(member->op))
            continue;
        merge_report_init(&member->report);
        *tensor = (struct device_group_tensor){member->op, NULL, member->tile, &member->report};
        for (int k = 0; k < merge_op_n_inputs(member->op); k++)
            tensor->tile.in[k] =
                g->at.inputs[k] + ((const unsigned char *)member->tile.in[k] - (const unsigned char *)group->inputs[k]);
        tensor->tile.out = g->at.out + ((unsigned char *)member->tile.out - (unsigned char *)group->out);
        g->members[g->n_tensors++] = i;
        if (statistics_first_pass(member->op) == STAT_READY)
            continue;
        tensor->statistics = statistics_new(member->op, DEVICE_GROUP_ELEMS);
        if (!tensor->statistics)
            return error_no_memory(err, "merging a tensor");
    }
    return WM_OK;
}

static enum wm_status upload_inputs(struct backend *b, struct cuda_thread *t, const struct cuda_group *g,
                                    struct wm_error *err)
{
    const struct backend_group *group = g->group;
    enum wm_status st = WM_OK;

    for (int i = 0; i < group->n_inputs; i++) {
        CUDA(cudaMemcpyAsync(g->at.inputs[i], group->inputs[i], group->n_input_bytes[i], cudaMemcpyHostToDevice,
                             t->upload),
             "uploading a group of tensors");
        b->n_bytes += group->n_input_bytes[i];
    }
out:
    return st;
}

/* Nothing of the group is on its way: its places, the table and the results are free to be written. */
static enum wm_status start_round(struct backend *b, struct cuda_thread *t, struct cuda_group *g, struct wm_error *err)
{
    const struct backend_group *group = g->group;
    struct device_group_round *round = &g->round;
    enum wm_status st = WM_OK;

    device_group_plan(g->tensors, g->n_tensors, g->table, round);
    CUDA(cudaMemcpyAsync(g->at.table, g->table, round->n_table_bytes, cudaMemcpyHostToDevice, t->upload),
         "uploading a group of tensors");
    CUDA(cudaEventRecord(g->uploaded, t->upload), "uploading a group of tensors");
    CUDA(cudaStreamWaitEvent(t->compute, g->uploaded, 0), "uploading a group of tensors");
    CUDA(cudaMemsetAsync(g->at.results, 0, round->n_result_bytes, t->compute), "launching a group of tensors");
    CUDA(device_group_launch(round, g->at.table, g->at.results, t->compute), "launching a group of tensors");
    CUDA(cudaEventRecord(g->computed, t->compute), "launching a group of tensors");
    CUDA(cudaStreamWaitEvent(t->download, g->computed, 0), "downloading a group of tensors");
    CUDA(cudaMemcpyAsync(g->results, g->at.results, round->n_result_bytes, cudaMemcpyDeviceToHost, t->download),
         "downloading a group of tensors");
    if (round->is_last) {
        CUDA(cudaMemcpyAsync(group->out, g->at.out, group->n_out_bytes, cudaMemcpyDeviceToHost, t->download),
             "downloading a group of tensors");
        b->n_bytes += group->n_out_bytes;
    }
    CUDA(cudaEventRecord(g->done, t->download), "downloading a group of tensors");
out:
    return st;
}

/* After a round. */
static enum wm_status collect(const struct backend *b, struct cuda_group *g, struct wm_error *err)
{
    device_group_collect(g->tensors, g->n_tensors, g->results);
    for (size_t i = 0; i < g->n_tensors; i++) {
        struct statistics *statistics = g->tensors[i].statistics;
        if (!statistics)
            continue;
        (void)statistics_finish_pass(statistics, g->group->members[g->members[i]].op);
        if (statistics_counts_wrong(statistics))
            return error_set(err, WM_TEMPORARY,
                             "GPU %d miscounted the elements of a small tensor; run the same command again, it "
                             "continues, and test that GPU if it happens again",
                             ((const struct cuda_backend *)b)->options.device);
    }
    return WM_OK;
}

/* After the download, which may have gone over the places of those that the CPU computes. */
static enum wm_status finish_members(struct backend *b, struct cuda_thread *t, const struct cuda_group *g,
                                     struct wm_error *err)
{
    enum wm_status st = WM_OK;
    size_t next = 0;

    for (size_t i = 0; i < g->group->n_members; i++) {
        struct backend_member *member = &g->group->members[i];
        struct backend_group alone = {.members = member, .n_members = 1};
        if (next < g->n_tensors && g->members[next] == i) {
            next++;
            TRY(backend_cuda_check_member(b, t, member, err));
        } else {
            TRY(backend_cpu_run_group(&alone, t->scratch, err));
        }
    }
out:
    return st;
}

/* ---- a group ------------------------------------------------------------------------------------------------------ */

/* Sets the first round on its way if there is room. Else the group waits for those that run, behind those that wait for them
 * already; the CPU computes it where nobody runs, since there will be no more room. */
static enum wm_status begin(struct backend *b, struct cuda_thread *t, struct cuda_group *g, struct wm_error *err)
{
    bool has_places = false;
    enum wm_status st = WM_OK;

    if (waits_behind_another(t, g))
        goto out;
    TRY(get_ready(b, g, &has_places, err));
    if (has_places)
        TRY(find_places(b, t, g, &has_places, err));
    if (has_places)
        TRY(describe(g, err));
    if (g->n_tensors) {
        g->stage = GROUP_RUNS;
        TRY(upload_inputs(b, t, g, err));
        TRY(start_round(b, t, g, err));
    } else if (has_places || !running_bytes(t) || device_bytes(g->group) > t->side_bytes) {
        g->stage = GROUP_ON_CPU;
    }
out:
    return st;
}

enum wm_status backend_cuda_submit_group(struct backend *b, void *thread, struct backend_group *group,
                                         struct wm_error *err)
{
    struct cuda_group *g = take(thread, group, err);
    enum wm_status st;

    if (!g)
        return err->status;
    st = begin(b, thread, g, err);
    if (st != WM_OK)
        release(g);
    return st;
}

enum wm_status backend_cuda_await_group(struct backend *b, void *thread, struct backend_group *group, bool *is_done,
                                        struct wm_error *err)
{
    struct cuda_thread *t = thread;
    struct cuda_group *g = group->slot;
    enum wm_status st = WM_OK;

    *is_done = false;
    if (g->stage == GROUP_RUNS) {
        CUDA(cudaEventSynchronize(g->done), "computing a group of tensors");
        TRY(collect(b, g, err));
        *is_done = g->round.is_last;
        if (!*is_done)
            TRY(start_round(b, t, g, err));
    } else if (g->stage == GROUP_WAITS) {
        TRY(begin(b, t, g, err));
    }
    *is_done |= g->stage == GROUP_ON_CPU;
    if (*is_done)
        TRY(finish_members(b, t, g, err));
out:
    if (st != WM_OK || *is_done)
        release(g);
    return st;
}
