/*
 * device_group.cuh: a group of small tensors, as kernels take it.
 *
 * What lives here: the table that a round uploads, and its launches. A tensor is described once; a list per pass says which
 * tensor, model and piece each block works on and where its result goes. What it must not know: rounds, statistics.
 */
#ifndef WM_KERNELS_DEVICE_GROUP_CUH
#define WM_KERNELS_DEVICE_GROUP_CUH

#include "methods/device_group.h"
#include "methods/device_op.cuh"

#define GROUP_PIECE_ELEMS 2048 /* of a tensor, that one block of the element-wise pass takes */

typedef device_op_of<DEVICE_GROUP_MODELS> group_tensor;

struct group_block {
    uint16_t tensor, model; /* GRAM, COMBINE: every model */
    uint32_t piece;  /* GRAM, L1: the chunk; KTH: the rank that is looked for; COMBINE: which GROUP_PIECE_ELEMS */
    uint32_t result; /* where its results begin, in units of 8 bytes */
};

/* Results of a tensor, 8 bytes each  GRAM  double [3 pairs][n_chunks]    KTH  threshold, tie index: u32 pairs [models]
 *                                    L1    double [models][2][n_chunks]  COMBINE  struct device_bad [1 + n_inputs] */
struct group_launch {
    const group_tensor *tensors;
    const group_block *blocks;
    uint64_t *results;
};

cudaError_t group_gram_launch(const group_launch &group, unsigned n_blocks, cudaStream_t stream);
cudaError_t group_kth_launch(const group_launch &group, unsigned n_blocks, cudaStream_t stream);
cudaError_t group_l1_launch(const group_launch &group, unsigned n_blocks, cudaStream_t stream);
cudaError_t group_combine_launch(const group_launch &group, unsigned n_blocks, cudaStream_t stream);

#endif
