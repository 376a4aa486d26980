/*
 * chunk_sum.cuh: fp64 sums over one chunk by one thread block, in the order of fixed_sum.h.
 *
 * What lives here: which elements a thread adds, and how the block's partial sums become one number. 64 threads a
 * chunk: thread t owns eight neighbouring lanes of block t / 2 of the chunk and walks its 32 rows in order. What it must
 * not know: what is summed.
 */
#ifndef WM_KERNELS_CHUNK_SUM_CUH
#define WM_KERNELS_CHUNK_SUM_CUH

#include "common/fixed_sum.h"
#include "common/vector_load.cuh"
#include "methods/tile.h"

#define CHUNK_SUM_BLOCKS  (TILE_CHUNK_ELEMS / FIXED_SUM_BLOCK_ELEMS)
#define CHUNK_SUM_THREADS (CHUNK_SUM_BLOCKS * FIXED_SUM_LANES / GROUP_ELEMS)
#define CHUNK_SUM_ROWS    (FIXED_SUM_BLOCK_ELEMS / FIXED_SUM_LANES)
/* Shared memory of one sum, as doubles. */
#define CHUNK_SUM_PARTIALS (CHUNK_SUM_BLOCKS * FIXED_SUM_LANES)

/* First element, in the chunk, of row `row` of this thread. */
static __device__ inline size_t chunk_sum_elem(int row)
{
    int half = static_cast<int>(threadIdx.x) % 2;
    return threadIdx.x / 2 * FIXED_SUM_BLOCK_ELEMS + static_cast<size_t>(row * FIXED_SUM_LANES + half * GROUP_ELEMS);
}

static __device__ inline void chunk_sum_put(double *partials, const double (&sums)[GROUP_ELEMS])
{
#pragma unroll
    for (int j = 0; j < GROUP_ELEMS; j++)
        partials[threadIdx.x * GROUP_ELEMS + j] = sums[j];
}

/* After every thread has put its sums: sum i of the block goes to results[i * stride]. */
static __device__ inline void chunk_sum_finish(double *partials, int n_sums, double *results, size_t stride)
{
    __syncthreads();
    int column = static_cast<int>(threadIdx.x);
    if (column < n_sums * FIXED_SUM_LANES) {
        double *lane = partials + column / FIXED_SUM_LANES * CHUNK_SUM_PARTIALS + column % FIXED_SUM_LANES;
        double sum = 0.0;
        for (int block = 0; block < CHUNK_SUM_BLOCKS; block++)
            sum = sum + lane[block * FIXED_SUM_LANES];
        lane[0] = sum;
    }
    __syncthreads();
    if (column < n_sums)
        results[static_cast<size_t>(column) * stride] = fixed_sum_lanes(partials + column * CHUNK_SUM_PARTIALS);
}

#endif
