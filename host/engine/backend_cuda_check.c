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
#include <stdlib.h>
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

/* ---- tiles that have left the host ------------------------------------------------------------------------------ */

/* What is compared are the inputs as they came from storage, not as they are on the device: its memory is on trial, too. */
struct cuda_block {
    struct cuda_block *next;
    uint64_t first_elem;
    size_t n_elems, n_bytes;
    size_t input_at[TILE_MAX_INPUTS]; /* in `inputs` */
    unsigned char inputs[];
};

static size_t bytes_of(size_t n_elems, enum wm_dtype dtype)
{
    return n_elems * dtype_bits(dtype) / 8;
}

static struct cuda_block *copy_block(const struct cuda_tensor *x, const struct merge_tile *tile, size_t first)
{
    size_t left = tile->n_elems - first, n_elems = left < TILE_CHUNK_ELEMS ? left : TILE_CHUNK_ELEMS, n_bytes = 0;
    struct cuda_block *block;

    for (int i = 0; i < x->n_inputs; i++)
        n_bytes += bytes_of(n_elems, tile->in_dtype[i]);
    block = malloc(sizeof *block + n_bytes);
    if (!block)
        return NULL;
    *block = (struct cuda_block){.first_elem = tile->first_elem + first, .n_elems = n_elems, .n_bytes = n_bytes};
    n_bytes = 0;
    for (int i = 0; i < x->n_inputs; i++) {
        block->input_at[i] = n_bytes;
        memcpy(block->inputs + n_bytes, (const unsigned char *)tile->in[i] + bytes_of(first, tile->in_dtype[i]),
               bytes_of(n_elems, tile->in_dtype[i]));
        n_bytes += bytes_of(n_elems, tile->in_dtype[i]);
    }
    return block;
}

static void forget_tile(struct cuda_thread *t, struct cuda_block **blocks)
{
    while (*blocks) {
        struct cuda_block *block = *blocks;
        *blocks = block->next;
        if (t)
            t->n_kept_bytes -= block->n_bytes;
        free(block);
    }
}

bool backend_cuda_check_keep(struct cuda_thread *t, struct cuda_tensor *x, const struct merge_tile *tile)
{
    struct cuda_block **blocks = &x->blocks[backend_cuda_tile_of(x, tile)];

    for (size_t first = 0; first < tile->n_elems; first += TILE_CHUNK_ELEMS) {
        struct cuda_block *block;
        if (!device_sample_has(&x->sample, (tile->first_elem + first) / TILE_CHUNK_ELEMS))
            continue;
        block = t->n_kept_bytes < t->most_kept_bytes ? copy_block(x, tile, first) : NULL;
        if (!block) {
            forget_tile(t, blocks);
            return false;
        }
        t->n_kept_bytes += block->n_bytes;
        block->next = *blocks;
        *blocks = block;
    }
    return true;
}

void backend_cuda_check_forget(struct cuda_thread *t, struct cuda_tensor *x)
{
    for (size_t tile = 0; x->blocks && tile < x->n_tiles; tile++)
        forget_tile(t, &x->blocks[tile]);
}

/* The block as a tile of its own. */
static struct merge_tile tile_of(const struct cuda_tensor *x, const struct merge_tile *tile,
                                 const struct cuda_block *block)
{
    struct merge_tile alone = *tile;

    alone.first_elem = block->first_elem;
    alone.n_elems = block->n_elems;
    for (int i = 0; i < x->n_inputs; i++)
        alone.in[i] = block->inputs + block->input_at[i];
    if (tile->out)
        alone.out =
            (unsigned char *)tile->out + bytes_of((size_t)(block->first_elem - tile->first_elem), tile->out_dtype);
    return alone;
}

/* ---- after a tile ------------------------------------------------------------------------------------------------ */

static enum wm_status check_merged(struct backend *b, struct cuda_thread *t, const struct cuda_tensor *x,
                                   const struct merge_op *op, const struct merge_tile *tile, struct wm_error *err)
{
    uint64_t first_bad;
    char where[80];

    if (device_check_combine(op, tile, &x->sample, t->scratch, t->check, &b->n_checked, &first_bad))
        return WM_OK;
    snprintf(where, sizeof where, "merged elements from number %llu of a tensor on",
             (unsigned long long)(first_bad * TILE_CHUNK_ELEMS));
    return differs(b, where, err);
}

static const struct cuda_block *blocks_of(const struct cuda_tensor *x, const struct merge_tile *tile)
{
    return x->blocks[backend_cuda_tile_of(x, tile)];
}

enum wm_status backend_cuda_check_merged(struct backend *b, struct cuda_thread *t, const struct cuda_tensor *x,
                                         const struct backend_task *task, struct wm_error *err)
{
    enum wm_status st = WM_OK;

    if (task->tile.in[0])
        return check_merged(b, t, x, task->op, &task->tile, err);
    for (const struct cuda_block *block = blocks_of(x, &task->tile); block; block = block->next) {
        struct merge_tile alone = tile_of(x, &task->tile, block);
        TRY(check_merged(b, t, x, task->op, &alone, err));
    }
out:
    return st;
}

/* A pass that is told tile by tile is checked by whole tiles: one in a thousand comes home for it. */
enum wm_status backend_cuda_check_counted(struct backend *b, struct cuda_thread *t, const struct cuda_tensor *x,
                                          const struct backend_task *task, struct wm_error *err)
{
    struct statistics *s = task->statistics;
    struct merge_tile tile = task->tile;
    enum wm_status st = WM_OK;
    void *memory = NULL;

    if (!tile.in[0] && device_check_wants_tile(s, &x->sample, &tile))
        TRY(backend_cuda_bring_home(b, t, x, task, &tile, &memory, err));
    if (tile.in[0]) {
        device_check_tile(task->op, s, &tile, &x->sample, t->scratch, t->check, &b->n_checked);
        goto out;
    }
    for (const struct cuda_block *block = blocks_of(x, &tile); block; block = block->next) {
        struct merge_tile alone = tile_of(x, &tile, block);
        device_check_tile(task->op, s, &alone, &x->sample, t->scratch, t->check, &b->n_checked);
    }
out:
    free(memory);
    return st;
}

/* ---- at a pass's end, and of a group ---------------------------------------------------------------------------- */

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
