/*
 * gram.cu: dot products of all pairs of models' vectors over whole tensors, on a CUDA device.
 *
 * maths       <v_i, v_j>, i <= j, with v = x_m, or x_m - b in the TASK_VECTOR family; products of fp32 numbers are exact
 *             in fp64, so the fused multiply-add rounds as the CPU's product and sum do
 * shapes      any number of elements at any address; F32, F16, BF16 and F64, mixed as they come; up to 64 models
 * launch      two models: one block of 64 threads a chunk of 16,384 elements; 12 KB of shared memory
 *             more: one block of 512 threads a chunk and square of 4 x 4 models, squares of a chunk next to each other so
 *             that they find its elements in the L2 cache; 16 KB of shared memory
 * bytes       two models: width of each input read once per element; 24 bytes written per chunk
 *             more: width of each model read once per square that it is in, (n + 3) / 4 times, all but the first from the
 *             L2 cache; 8 bytes written per chunk and pair
 * reduction   fp64 in the order of fixed_sum.h, whatever the tile
 * limits      groups of small tensors: two models (every method with a Gram matrix so far)
 * measured    not measured yet: no GPU run so far
 */
#include "common/launch.cuh"
#include "methods/device_group.cuh"
#include "methods/task_vector_math.h"
#include "statistics/chunk_sum.cuh"
#include "statistics/device_passes.h"
#include "statistics/gram_walk.cuh"

#include <math.h>

/* ---- two models ---------------------------------------------------------------------------------------------- */

struct gram_args {
    const void *base, *x0, *x1; /* base: NULL when the vectors are the inputs */
    int base_dtype, x0_dtype, x1_dtype;
    size_t n_elems;
    double *results; /* of the tile's first chunk */
    size_t stride;
};

template <class ELEMS> static __device__ inline void gram_chunk(const gram_args &a, size_t chunk, double *partials)
{
    double s00[GROUP_ELEMS] = {0.0}, s01[GROUP_ELEMS] = {0.0}, s11[GROUP_ELEMS] = {0.0};
    size_t chunk_first = chunk * TILE_CHUNK_ELEMS;
#pragma unroll 2
    for (int row = 0; row < CHUNK_SUM_ROWS; row++) {
        size_t first = chunk_first + chunk_sum_elem(row);
        float x0[GROUP_ELEMS], x1[GROUP_ELEMS], b[GROUP_ELEMS];
        reader<ELEMS>::load(a.x0, a.x0_dtype, first, a.n_elems, x0);
        reader<ELEMS>::load(a.x1, a.x1_dtype, first, a.n_elems, x1);
        if (a.base != nullptr) {
            reader<ELEMS>::load(a.base, a.base_dtype, first, a.n_elems, b);
#pragma unroll
            for (int j = 0; j < GROUP_ELEMS; j++) {
                x0[j] = task_vector_delta(x0[j], b[j]);
                x1[j] = task_vector_delta(x1[j], b[j]);
            }
        }
#pragma unroll
        for (int j = 0; j < GROUP_ELEMS; j++) {
            double v0 = static_cast<double>(x0[j]), v1 = static_cast<double>(x1[j]);
            s00[j] = fma(v0, v0, s00[j]);
            s01[j] = fma(v0, v1, s01[j]);
            s11[j] = fma(v1, v1, s11[j]);
        }
    }
    chunk_sum_put(partials, s00);
    chunk_sum_put(partials + CHUNK_SUM_PARTIALS, s01);
    chunk_sum_put(partials + 2 * CHUNK_SUM_PARTIALS, s11);
    chunk_sum_finish(partials, 3, a.results + chunk, a.stride);
}

template <class ELEMS> static __global__ void __launch_bounds__(CHUNK_SUM_THREADS, 8) gram_kernel(gram_args a)
{
    WM_DYNAMIC_SHARED(double, partials);
    gram_chunk<ELEMS>(a, blockIdx.x, partials);
}

/* Small tensors: each block has its own, and a chunk of it. */
static __global__ void __launch_bounds__(CHUNK_SUM_THREADS, 8) gram_group_kernel(const group_launch group)
{
    WM_DYNAMIC_SHARED(double, partials);
    const group_block block = group.blocks[blockIdx.x];
    const group_tensor &tensor = group.tensors[block.tensor];
    gram_args a = {};
    if (tensor.task_vector) {
        a.base = tensor.base;
        a.base_dtype = tensor.base_dtype;
    }
    a.x0 = tensor.models[0].x;
    a.x1 = tensor.models[1].x;
    a.x0_dtype = tensor.models[0].dtype;
    a.x1_dtype = tensor.models[1].dtype;
    a.n_elems = tensor.n_elems;
    a.results = reinterpret_cast<double *>(group.results + block.result);
    a.stride = (tensor.n_elems + TILE_CHUNK_ELEMS - 1) / TILE_CHUNK_ELEMS;
    gram_chunk<any_elems>(a, block.piece, partials);
}

static cudaError_t launch_two(const struct merge_op *op, const struct statistics *s, const struct merge_tile *tile,
                              double *results, cudaStream_t stream)
{
    int dtype;
    const gram_inputs in = gram_inputs_of(op, tile, &dtype);
    gram_args a = {};
    a.base = in.base;
    a.base_dtype = in.base_dtype;
    a.x0 = in.x[0];
    a.x1 = in.x[1];
    a.x0_dtype = in.dtypes[0];
    a.x1_dtype = in.dtypes[1];
    a.n_elems = tile->n_elems;
    a.results = results;
    a.stride = s->n_chunks;
    void (*kernel)(gram_args) = KERNEL_BY_DTYPE(dtype, gram_kernel);
    return WM_LAUNCH(kernel, launch_blocks(tile->n_elems, TILE_CHUNK_ELEMS), CHUNK_SUM_THREADS,
                     3 * CHUNK_SUM_PARTIALS * sizeof(double), stream, a);
}

cudaError_t group_gram_launch(const group_launch &group, unsigned n_blocks, cudaStream_t stream)
{
    void (*kernel)(const group_launch) = gram_group_kernel;
    return WM_LAUNCH(kernel, n_blocks, CHUNK_SUM_THREADS, 3 * CHUNK_SUM_PARTIALS * sizeof(double), stream, group);
}

/* ---- any number of models ------------------------------------------------------------------------------------ */

#define SQUARE_THREADS CHUNK_SUM_PARTIALS /* one for each lane of each block of a chunk */

struct gram_square_args {
    gram_inputs in;
    size_t n_elems;
    double *results; /* of the tile's first chunk */
    size_t stride;
};

template <class ELEMS, int SIDE>
static __global__ void __launch_bounds__(SQUARE_THREADS, 1)
    gram_square_kernel(const __grid_constant__ gram_square_args a)
{
    WM_DYNAMIC_SHARED(double, partials);
    const unsigned n_squares = gram_squares<SIDE>(a.in.n_models);
    const gram_square square = gram_square_at<SIDE>(blockIdx.x % n_squares, a.in.n_models);
    const size_t chunk = blockIdx.x / n_squares;
    const size_t block = chunk * TILE_CHUNK_ELEMS + threadIdx.x / FIXED_SUM_LANES * FIXED_SUM_BLOCK_ELEMS;
    const size_t first = block + threadIdx.x % FIXED_SUM_LANES;
    const size_t end = block + FIXED_SUM_BLOCK_ELEMS < a.n_elems ? block + FIXED_SUM_BLOCK_ELEMS : a.n_elems;
    double sums[SIDE][SIDE] = {};
    gram_walk<ELEMS, SIDE>(a.in, square, first, FIXED_SUM_LANES,
                           first < end ? (end - first + FIXED_SUM_LANES - 1) / FIXED_SUM_LANES : 0, sums);
#pragma unroll
    for (int i = 0; i < SIDE; i++) {
        if (square.i + i >= a.in.n_models)
            continue;
        const int skip = square.i == square.j ? i : 0, left = a.in.n_models - square.j;
        __syncthreads(); /* the row of sums before this one has left shared memory */
#pragma unroll
        for (int j = 0; j < SIDE; j++)
            if (j >= skip)
                partials[(j - skip) * CHUNK_SUM_PARTIALS + static_cast<int>(threadIdx.x)] = sums[i][j];
        /* the pairs of one model lie one after the other */
        const int pair = gram_pair(square.i + i, square.j + skip, a.in.n_models);
        chunk_sum_finish(partials, (left < SIDE ? left : SIDE) - skip,
                         a.results + static_cast<size_t>(pair) * a.stride + chunk, a.stride);
    }
}

static cudaError_t launch_squares(const struct merge_op *op, const struct statistics *s, const struct merge_tile *tile,
                                  double *results, cudaStream_t stream)
{
    int dtype;
    gram_square_args a = {};
    a.in = gram_inputs_of(op, tile, &dtype);
    a.n_elems = tile->n_elems;
    a.results = results;
    a.stride = s->n_chunks;
    void (*kernel)(const gram_square_args) = WALK_KERNEL_BY_DTYPE(dtype, gram_square_kernel, GRAM_SIDE);
    unsigned n_chunks = launch_blocks(tile->n_elems, TILE_CHUNK_ELEMS);
    return WM_LAUNCH(kernel, n_chunks * gram_squares<GRAM_SIDE>(op->n_models), SQUARE_THREADS,
                     GRAM_SIDE * CHUNK_SUM_PARTIALS * sizeof(double), stream, a);
}

cudaError_t device_gram_launch(const struct merge_op *op, const struct statistics *s, const struct merge_tile *tile,
                               double *results, cudaStream_t stream)
{
    double *of_tile = results + tile->first_elem / TILE_CHUNK_ELEMS;
    return op->n_models == 2 ? launch_two(op, s, tile, of_tile, stream) : launch_squares(op, s, tile, of_tile, stream);
}
