/*
 * backend_cuda_check.c: what a GPU computed, against the CPU.
 *
 * What lives here: when the sample that methods/device_check.h draws is computed again, and the error that a difference is.
 * A GPU that computes wrongly raises no error, and its other results are no better: the merge stops. What it must not know:
 * streams, jobs, how kernels work.
 */
#include "engine/backend_cuda.h"

#include "base/dtype.h"

#include <stdio.h>
#include <string.h>

#if BACKEND_GROUP_MEMBER_ELEMS < TILE_CHUNK_ELEMS
#error "the memory for what the CPU computes again holds a block"
#endif

static enum wm_status differs(const struct backend *b, const char *where, struct wm_error *err)
{
    return error_set(err, WM_VERIFY_FAILED,
                     "GPU %d computed other bytes than the CPU in a sample (%s); do not trust this GPU: test it, and "
                     "run the same command with --device cpu",
                     ((const struct cuda_backend *)b)->options.device, where);
}

enum wm_status backend_cuda_check_merged(struct backend *b, struct cuda_thread *t, const struct cuda_tensor *x,
                                         const struct backend_task *task, struct wm_error *err)
{
    uint64_t first_bad;
    char where[80];

    if (device_check_combine(task->op, &task->tile, &x->sample, t->scratch, t->check, &b->n_checked, &first_bad))
        return WM_OK;
    snprintf(where, sizeof where, "merged elements from number %llu of a tensor on",
             (unsigned long long)(first_bad * TILE_CHUNK_ELEMS));
    return differs(b, where, err);
}

void backend_cuda_check_counted(struct backend *b, struct cuda_thread *t, const struct cuda_tensor *x,
                                const struct backend_task *task)
{
    device_check_tile(task->op, task->statistics, &task->tile, &x->sample, t->scratch, t->check, &b->n_checked);
}

enum wm_status backend_cuda_check_pass(struct backend *b, const struct cuda_tensor *x,
                                       const struct statistics *statistics, const void *results, struct wm_error *err)
{
    if (device_check_pass(statistics, &x->sample, x->first_tile, x->n_tiles, results))
        return WM_OK;
    return differs(b, "sums or counts over a tensor", err);
}

/* A member is drawn as its first block is, and then computed as a whole, statistics and all. */
enum wm_status backend_cuda_check_member(struct backend *b, struct cuda_thread *t, const struct backend_member *member,
                                         struct wm_error *err)
{
    const struct device_sample sample = {member->key, ((struct cuda_backend *)b)->options.verify_per_1000};
    size_t n_bytes = member->tile.n_elems * dtype_bits(member->tile.out_dtype) / 8;
    struct backend_member again = *member;
    struct merge_op op = *member->op;
    struct backend_group alone = {.members = &again, .n_members = 1};
    enum wm_status st = WM_OK;

    if (!device_sample_has(&sample, 0))
        goto out;
    again.op = &op;
    again.tile.out = t->check;
    TRY(backend_cpu_run_group(&alone, t->scratch, err));
    b->n_checked += (member->tile.n_elems + TILE_CHUNK_ELEMS - 1) / TILE_CHUNK_ELEMS;
    if (memcmp(t->check, member->tile.out, n_bytes) != 0)
        st = differs(b, "a small tensor", err);
out:
    return st;
}
