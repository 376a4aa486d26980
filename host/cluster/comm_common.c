/* comm_common.c: what every comm can do because of what it can do already. Knows no implementation. */
#include "cluster/comm.h"

#include <stdlib.h>
#include <string.h>

/* Scratch of a gather of blocks, over all ranks: blocks travel in pieces, so that one long block among many short ones
 * does not cost its length times the number of ranks. */
#define GATHER_SCRATCH_BYTES ((size_t)8 << 20)
#define MIN_PIECE_BYTES      ((size_t)64 << 10)

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Lengths to offsets; *longest is the longest block. */
static enum wm_status lay_out(const uint64_t *lengths, int size, size_t *offsets, size_t *longest, struct wm_error *err)
{
    size_t end = 0;

    *longest = 0;
    for (int r = 0; r < size; r++) {
        offsets[r] = end;
        if (lengths[r] > SIZE_MAX / 2 || __builtin_add_overflow(end, (size_t)lengths[r], &end))
            return error_set(err, WM_TEMPORARY, "rank %d announces a block of %llu bytes, more than memory can hold", r,
                             (unsigned long long)lengths[r]);
        *longest = lengths[r] > *longest ? (size_t)lengths[r] : *longest;
    }
    offsets[size] = end;
    return WM_OK;
}

enum wm_status comm_gather_blocks(struct comm *comm, const void *mine, size_t n_bytes, void **all, size_t *offsets,
                                  struct wm_error *err)
{
    size_t n_ranks = (size_t)comm->size, longest, n_piece;
    uint64_t length = n_bytes, *lengths = NULL;
    char *blocks = NULL, *scratch = NULL, *piece;
    struct wm_error own = WM_ERROR_INIT;
    enum wm_status st;

    err = err ? err : &own;
    *all = NULL;
    lengths = malloc(n_ranks * sizeof *lengths);
    if (!lengths) {
        st = error_no_memory(err, "gathering blocks from all ranks");
        goto out;
    }
    TRY(comm->ops->all_gather(comm, &length, sizeof length, lengths, err));
    TRY(lay_out(lengths, comm->size, offsets, &longest, err));
    n_piece = GATHER_SCRATCH_BYTES / (n_ranks + 1);
    n_piece = least(longest, n_piece > MIN_PIECE_BYTES ? n_piece : MIN_PIECE_BYTES);
    blocks = malloc(offsets[n_ranks] ? offsets[n_ranks] : 1);
    scratch = calloc(n_ranks + 1, n_piece ? n_piece : 1);
    if (!blocks || !scratch) {
        st = error_no_memory(err, "gathering blocks from all ranks");
        goto out;
    }
    piece = scratch + n_ranks * n_piece;
    for (size_t done = 0; done < longest; done += n_piece) {
        if (done < n_bytes)
            memcpy(piece, (const char *)mine + done, least(n_piece, n_bytes - done));
        TRY(comm->ops->all_gather(comm, piece, n_piece, scratch, err));
        for (size_t r = 0; r < n_ranks; r++)
            if (done < lengths[r])
                memcpy(blocks + offsets[r] + done, scratch + r * n_piece, least(n_piece, (size_t)lengths[r] - done));
    }
    *all = blocks;
    blocks = NULL;
out:
    if (st != WM_OK) /* the others may be waiting for a piece of this rank; after a failed call this changes nothing */
        comm->ops->abort(comm, err);
    free(blocks);
    free(scratch);
    free(lengths);
    return st;
}
