/*
 * device_passes.h: the statistics passes of a CUDA device, one launch each.
 *
 * What lives here: what device_statistics.c calls, and the layout of a pass's results where kernel and host must agree.
 * What it must not know: streams' order, the state machine.
 *
 * Results  GRAM    double [n_pairs][n_chunks], [n_pairs][columns], or [n_pairs][rows] and for rows that a tile leaves open
 *                  [2][n_pairs][FIXED_SUM_LANES]
 *          L1      double [n_l1][2][n_chunks]
 *          COARSE  u64 [models of the pass][KTH_COARSE_BINS]        FINE  u64 [models of the pass][KTH_FINE_BINS]
 *          TIES    u32 [models of the pass][n_tiles]
 *          WHOLE   u64 threshold and, in the upper half, tie index [models of the pass]
 *          GUESS   u32 above, equal: [models of the pass][n_tiles][2]
 *          CUT     u64 element [models of the pass], then u32 equal ones [models of the pass][chunks of a full tile]
 *          a search that ends on the device: COARSE's, FINE's, device_choice [models of the pass], addresses of the inputs
 *                  [n_tiles][n_inputs], u32 equal ones [models of the pass][n_chunks]
 */
#ifndef WM_KERNELS_DEVICE_PASSES_H
#define WM_KERNELS_DEVICE_PASSES_H

#include "methods/device.h"
#include "statistics/statistics.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a search on the device knows of a model. */
struct device_choice {
    uint64_t rank;    /* inside the chosen bin, then among the elements that equal the threshold */
    uint64_t element; /* the tie index */
    uint32_t wanted;  /* the coarse bin, then the threshold */
    uint32_t is_cut;  /* not all of the equal elements are kept */
};

cudaError_t device_gram_launch(const struct merge_op *op, const struct statistics *s, const struct merge_tile *tile,
                               double *results, cudaStream_t stream);
/* Rows or columns: tiles in order. */
cudaError_t device_vector_gram_launch(const struct merge_op *op, const struct statistics *s,
                                      const struct merge_tile *tile, double *results, cudaStream_t stream);
cudaError_t device_l1_launch(const struct merge_op *op, const struct statistics *s, const struct merge_tile *tile,
                             double *results, cudaStream_t stream);
cudaError_t device_kth_launch(const struct statistics *s, const struct merge_tile *tile, void *results,
                              cudaStream_t stream);

cudaError_t device_whole_launch(const struct statistics *s, const struct merge_tile *tile, void *results,
                                cudaStream_t stream);

/* Of device_model_launch: COARSE and FINE, and SIGNS. */
cudaError_t device_model_kth_launch(const struct merge_op *op, const struct model_statistics *ms,
                                    const struct merge_tile *tile, uint64_t *counts, cudaStream_t stream);
cudaError_t device_model_signs_launch(const struct merge_op *op, const struct model_statistics *ms,
                                      const struct merge_tile *tile, uint64_t *counts, cudaStream_t stream);

/* GRAM by rows: where the open ones begin, in doubles. */
static inline uint64_t device_open_rows_at(const struct statistics *s)
{
    return (uint64_t)s->n_pairs * s->vectors.n_vectors;
}

static inline uint64_t device_chunks(uint64_t n_elems)
{
    return (n_elems + TILE_CHUNK_ELEMS - 1) / TILE_CHUNK_ELEMS;
}

#ifdef __cplusplus
}
#endif
#endif
