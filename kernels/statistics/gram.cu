/*
 * gram.cu: dot products of two models' vectors, on a CUDA device.
 *
 * maths       <v0, v0>, <v0, v1>, <v1, v1> with v = x_m, or x_m - b in the TASK_VECTOR family; products of fp32 numbers
 *             are exact in fp64, so the fused multiply-add rounds as the CPU's product and sum do
 * shapes      any number of elements at any address; F32, F16, BF16 and F64, mixed as they come
 * launch      one block of 64 threads a chunk of 16,384 elements; 12 KB of shared memory
 * bytes       width of each input read once per element; 24 bytes written per chunk
 * reduction   fp64 in the order of fixed_sum.h, whatever the tile
 * limits      two models (every method with a Gram matrix so far); whole tensors, not rows or columns
 * measured    not measured yet: no GPU run so far
 */
#include "common/launch.cuh"
#include "methods/device_group.cuh"
#include "methods/task_vector_math.h"
#include "statistics/chunk_sum.cuh"
#include "statistics/device_passes.h"

#include <math.h>

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

cudaError_t device_gram_launch(const struct merge_op *op, const struct statistics *s, const struct merge_tile *tile,
                               double *results, cudaStream_t stream)
{
    gram_args a = {};
    int first_model = op->has_base ? 1 : 0, first_read = op->family == MERGE_TASK_VECTOR ? 0 : first_model;
    if (op->family == MERGE_TASK_VECTOR) {
        a.base = tile->in[0];
        a.base_dtype = tile->in_dtype[0];
    }
    a.x0 = tile->in[first_model];
    a.x1 = tile->in[first_model + 1];
    a.x0_dtype = tile->in_dtype[first_model];
    a.x1_dtype = tile->in_dtype[first_model + 1];
    a.n_elems = tile->n_elems;
    a.results = results + tile->first_elem / TILE_CHUNK_ELEMS;
    a.stride = s->n_chunks;
    int dtype = common_dtype(tile->in + first_read, tile->in_dtype + first_read, first_model + 2 - first_read);
    void (*kernel)(gram_args) = KERNEL_BY_DTYPE(dtype, gram_kernel);
    return WM_LAUNCH(kernel, launch_blocks(tile->n_elems, TILE_CHUNK_ELEMS), CHUNK_SUM_THREADS,
                     3 * CHUNK_SUM_PARTIALS * sizeof(double), stream, a);
}

cudaError_t group_gram_launch(const group_launch &group, unsigned n_blocks, cudaStream_t stream)
{
    void (*kernel)(const group_launch) = gram_group_kernel;
    return WM_LAUNCH(kernel, n_blocks, CHUNK_SUM_THREADS, 3 * CHUNK_SUM_PARTIALS * sizeof(double), stream, group);
}
