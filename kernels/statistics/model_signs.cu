/*
 * model_signs.cu: the pass over the whole model that counts which sign its elements elect, on a CUDA device.
 *
 * maths       SIGNS    sign of sum_m w_m * s_m * keep_m * (x_m - b), added up as the element-wise pass does it: how many
 *                      elements elect plus, minus, or cancel to zero, and how many were looked at
 * shapes      any number of elements at any address; F32, F16, BF16 and F64, mixed as they come; up to 64 models
 * launch      blocks of 256 threads, at most 2,048, that walk the tile in groups of eight elements; 16 bytes of shared memory
 * bytes       width of the base and of each model read once per element
 * reduction   integers: order-free; models are added left to right
 * limits      fewer than 2^32 elements in a tile
 * measured    not measured yet: no GPU run so far
 *
 * The passes before it, COARSE and FINE, are those of a tensor: select_kth.cu.
 */
#include "common/launch.cuh"
#include "common/vector_load.cuh"
#include "methods/task_vector_math.h"
#include "statistics/device_passes.h"
#include "statistics/model_statistics.h"

#define SIGNS_THREADS    256
#define SIGNS_MAX_BLOCKS 2048
/* Blocks that a multiprocessor must hold: room for 64 registers a thread, enough for none to spill. */
#define SIGNS_BLOCKS 4

struct signs_model {
    const void *x;
    float scale, weight;
    int32_t above; /* keep |delta| whose bits are greater */
    int dtype;
};

struct signs_args {
    const void *base;
    unsigned long long *counts; /* [MODEL_SIGN_COUNTS] */
    size_t n_elems;
    int base_dtype, n_models;
    signs_model models[METHOD_MAX_MODELS];
};
static_assert(sizeof(signs_args) <= 4096, "arguments of a kernel");

template <class ELEMS>
static __device__ inline void count_group(const signs_args &a, size_t first, uint32_t (&counts)[MODEL_SIGN_COUNTS])
{
    const int n = a.n_elems - first < GROUP_ELEMS ? static_cast<int>(a.n_elems - first) : GROUP_ELEMS;
    float base[GROUP_ELEMS], sum[GROUP_ELEMS];
    uint32_t any = 0; /* bit j: element j has a value that is not zero */
    reader<ELEMS>::load(a.base, a.base_dtype, first, a.n_elems, base);
#pragma unroll
    for (int j = 0; j < GROUP_ELEMS; j++)
        sum[j] = 0.0f;
#pragma unroll 1
    for (int m = 0; m < a.n_models; m++) {
        const signs_model &model = a.models[m];
        float x[GROUP_ELEMS];
        reader<ELEMS>::load(model.x, model.dtype, first, a.n_elems, x);
#pragma unroll
        for (int j = 0; j < GROUP_ELEMS; j++) {
            float kept = task_vector_keep_top(task_vector_delta(x[j], base[j]), model.above);
            float value = task_vector_value(kept, model.scale, model.weight);
            sum[j] = sum[j] + value;
            any |= ((float_bits(value) & FLOAT_ABS_MASK) != 0 ? 1u : 0u) << j;
        }
    }
#pragma unroll
    for (int j = 0; j < GROUP_ELEMS; j++) { /* past the end: all zeros, which count as nothing */
        counts[MODEL_SIGN_PLUS] += sum[j] > 0.0f;
        counts[MODEL_SIGN_MINUS] += sum[j] < 0.0f;
        counts[MODEL_SIGN_CANCELLED] += sum[j] == 0.0f && (any >> j & 1u) != 0;
    }
    counts[MODEL_SIGN_SEEN] += static_cast<uint32_t>(n);
}

template <class ELEMS>
static __global__ void __launch_bounds__(SIGNS_THREADS, SIGNS_BLOCKS) signs_kernel(const __grid_constant__ signs_args a)
{
    WM_DYNAMIC_SHARED(uint32_t, totals); /* [MODEL_SIGN_COUNTS] */
    const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x * GROUP_ELEMS;
    uint32_t counts[MODEL_SIGN_COUNTS] = {0, 0, 0, 0};
    if (threadIdx.x < MODEL_SIGN_COUNTS)
        totals[threadIdx.x] = 0;
    __syncthreads();
    for (size_t first = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * GROUP_ELEMS; first < a.n_elems;
         first += step)
        count_group<ELEMS>(a, first, counts);
#pragma unroll
    for (int c = 0; c < MODEL_SIGN_COUNTS; c++)
        if (counts[c] != 0)
            atomicAdd(&totals[c], counts[c]);
    __syncthreads();
    if (threadIdx.x < MODEL_SIGN_COUNTS && totals[threadIdx.x] != 0)
        atomicAdd(&a.counts[threadIdx.x], static_cast<unsigned long long>(totals[threadIdx.x]));
}

/* ---- launches ----------------------------------------------------------------------------------------------- */

static int32_t keep_above(const struct model_statistics *ms, const struct merge_model *model)
{
    if (model->keep == KEEP_NONE)
        return INT32_MAX;
    return model->keep == KEEP_TOP ? static_cast<int32_t>(ms->result.models[model->index].threshold) - 1 : -1;
}

cudaError_t device_model_signs_launch(const struct merge_op *op, const struct model_statistics *ms,
                                      const struct merge_tile *tile, uint64_t *counts, cudaStream_t stream)
{
    signs_args a = {};
    a.base = tile->in[0];
    a.base_dtype = static_cast<int>(tile->in_dtype[0]);
    a.counts = reinterpret_cast<unsigned long long *>(counts);
    a.n_elems = tile->n_elems;
    a.n_models = op->n_models;
    for (int m = 0; m < op->n_models; m++) {
        const struct merge_model *model = &op->models[m];
        a.models[m] = {tile->in[m + 1], model->scale, model->weight, keep_above(ms, model),
                       static_cast<int>(tile->in_dtype[m + 1])};
    }
    void (*kernel)(const signs_args) =
        KERNEL_BY_DTYPE(common_dtype(tile->in, tile->in_dtype, op->n_models + 1), signs_kernel);
    unsigned n_blocks = launch_blocks(tile->n_elems, SIGNS_THREADS * GROUP_ELEMS);
    return WM_LAUNCH(kernel, n_blocks < SIGNS_MAX_BLOCKS ? n_blocks : SIGNS_MAX_BLOCKS, SIGNS_THREADS,
                     MODEL_SIGN_COUNTS * sizeof(uint32_t), stream, a);
}
