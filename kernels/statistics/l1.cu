/*
 * l1.cu: L1 norms of task vectors before and after their mask, on a CUDA device.
 *
 * maths       sum |d| and sum |kept d| with d = x_m - b; kept: the largest magnitudes, or by random draw
 * shapes      any number of elements at any address; F32, F16, BF16 and F64, mixed as they come; up to 64 models
 * launch      one block of 64 threads a chunk of 16,384 elements and model, models next to each other so that they find
 *             the base in the L2 cache; 8 KB of shared memory
 * bytes       width of each model read once per element, of the base once per model from the L2 cache and once from
 *             memory; 16 bytes written per chunk and model
 * reduction   fp64 in the order of fixed_sum.h, whatever the tile
 * limits      none
 * measured    not measured yet: no GPU run so far
 */
#include "common/launch.cuh"
#include "methods/device_group.cuh"
#include "statistics/chunk_sum.cuh"
#include "statistics/device_passes.h"

struct l1_args {
    const void *base;
    size_t n_elems, stride;
    uint64_t first_elem;
    double *results; /* of the tile's first chunk */
    int base_dtype, n_models;
    device_model models[METHOD_MAX_MODELS];
};
static_assert(sizeof(l1_args) <= 4096, "arguments of a kernel");

/* The part of |d| that is kept. */
static __device__ inline void kept_group(const device_model &model, uint64_t element,
                                         const float (&magnitude)[GROUP_ELEMS], float (&kept)[GROUP_ELEMS])
{
    if (model.random) {
        struct philox_words draws = philox_mask_call(model.mask_key, element / PHILOX_DRAWS_PER_CALL);
#pragma unroll
        for (int j = 0; j < GROUP_ELEMS; j++)
            kept[j] =
                task_vector_keep_random(magnitude[j], (draws.w[j / 2] >> (16 * (j % 2))) & 0xffffu, model.keep_below);
        return;
    }
#pragma unroll
    for (int j = 0; j < GROUP_ELEMS; j++)
        kept[j] = task_vector_keep_top(magnitude[j], keep_above(model, element + j));
}

/* One chunk of one model: both sums go to results[0] and results[stride]. */
template <class ELEMS>
static __device__ inline void l1_chunk(const void *base, int base_dtype, const device_model &model, size_t n_elems,
                                       uint64_t first_elem, size_t chunk, double *partials, double *results,
                                       size_t stride)
{
    double all[GROUP_ELEMS] = {0.0}, sum_kept[GROUP_ELEMS] = {0.0};
#pragma unroll 2
    for (int row = 0; row < CHUNK_SUM_ROWS; row++) {
        size_t first = chunk * TILE_CHUNK_ELEMS + chunk_sum_elem(row);
        float x[GROUP_ELEMS], b[GROUP_ELEMS], kept[GROUP_ELEMS];
        reader<ELEMS>::load(base, base_dtype, first, n_elems, b);
        reader<ELEMS>::load(model.x, model.dtype, first, n_elems, x);
#pragma unroll
        for (int j = 0; j < GROUP_ELEMS; j++)
            x[j] = float_from_bits(static_cast<uint32_t>(task_vector_magnitude(task_vector_delta(x[j], b[j]))));
        kept_group(model, first_elem + first, x, kept);
#pragma unroll
        for (int j = 0; j < GROUP_ELEMS; j++) {
            all[j] = all[j] + static_cast<double>(x[j]);
            sum_kept[j] = sum_kept[j] + static_cast<double>(kept[j]);
        }
    }
    chunk_sum_put(partials, all);
    chunk_sum_put(partials + CHUNK_SUM_PARTIALS, sum_kept);
    chunk_sum_finish(partials, 2, results, stride);
}

template <class ELEMS>
static __global__ void __launch_bounds__(CHUNK_SUM_THREADS, 10) l1_kernel(const __grid_constant__ l1_args a)
{
    WM_DYNAMIC_SHARED(double, partials);
    const int m = static_cast<int>(blockIdx.x) % a.n_models;
    const size_t chunk = blockIdx.x / a.n_models;
    l1_chunk<ELEMS>(a.base, a.base_dtype, a.models[m], a.n_elems, a.first_elem, chunk, partials,
                    a.results + static_cast<size_t>(m) * 2 * a.stride + chunk, a.stride);
}

/* Small tensors: each block has its own, a model and a chunk of it. */
static __global__ void __launch_bounds__(CHUNK_SUM_THREADS, 10) l1_group_kernel(const group_launch group)
{
    WM_DYNAMIC_SHARED(double, partials);
    const group_block block = group.blocks[blockIdx.x];
    const group_tensor &tensor = group.tensors[block.tensor];
    l1_chunk<any_elems>(tensor.base, tensor.base_dtype, tensor.models[block.model], tensor.n_elems, 0, block.piece,
                        partials, reinterpret_cast<double *>(group.results + block.result),
                        (tensor.n_elems + TILE_CHUNK_ELEMS - 1) / TILE_CHUNK_ELEMS);
}

cudaError_t device_l1_launch(const struct merge_op *op, const struct statistics *s, const struct merge_tile *tile,
                             double *results, cudaStream_t stream)
{
    l1_args a = {};
    const void *in[METHOD_MAX_MODELS + 1] = {tile->in[0]};
    enum wm_dtype in_dtype[METHOD_MAX_MODELS + 1] = {tile->in_dtype[0]};
    a.base = tile->in[0];
    a.base_dtype = tile->in_dtype[0];
    a.n_elems = tile->n_elems;
    a.stride = s->n_chunks;
    a.first_elem = tile->first_elem;
    a.results = results + tile->first_elem / TILE_CHUNK_ELEMS;
    a.n_models = s->n_l1;
    for (int i = 0; i < s->n_l1; i++) {
        a.models[i] = device_model_of(op, s->l1_models[i], tile);
        in[i + 1] = a.models[i].x;
        in_dtype[i + 1] = tile->in_dtype[s->l1_models[i] + 1];
    }
    void (*kernel)(const l1_args) = KERNEL_BY_DTYPE(common_dtype(in, in_dtype, s->n_l1 + 1), l1_kernel);
    unsigned n_chunks = launch_blocks(tile->n_elems, TILE_CHUNK_ELEMS);
    return WM_LAUNCH(kernel, n_chunks * static_cast<unsigned>(s->n_l1), CHUNK_SUM_THREADS,
                     2 * CHUNK_SUM_PARTIALS * sizeof(double), stream, a);
}

cudaError_t group_l1_launch(const group_launch &group, unsigned n_blocks, cudaStream_t stream)
{
    void (*kernel)(const group_launch) = l1_group_kernel;
    return WM_LAUNCH(kernel, n_blocks, CHUNK_SUM_THREADS, 2 * CHUNK_SUM_PARTIALS * sizeof(double), stream, group);
}

/* Any kernel can be asked: all are compiled for the same architectures. */
cudaError_t device_has_code(void)
{
    struct cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, l1_group_kernel);
}
