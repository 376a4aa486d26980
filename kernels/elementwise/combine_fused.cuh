/*
 * combine_fused.cuh: the element-wise pass on groups of eight elements, everything in registers.
 *
 * What lives here: the kernel for aligned inputs and up to eight models, one instantiation per kind of operation, number of
 * models and element type (or mixed_elems), and the choice among those of one type. Its instantiations are spread over
 * elementwise.cu and elementwise_mixed.cu, which compile side by side: nvcc takes minutes. What a kernel knows of a model is
 * shared with elementwise_wide.cu, which takes more of them. What it must not know: tiles, streams.
 */
#ifndef WM_KERNELS_COMBINE_FUSED_CUH
#define WM_KERNELS_COMBINE_FUSED_CUH

#include "elementwise/combine.cuh"

#define COMBINE_THREADS 256
/* Blocks that a multiprocessor must hold: room for 64, 80 or 128 registers a thread, enough for none to spill. */
#define FUSED_BLOCKS(n_models) ((n_models) <= 2 ? 4 : (n_models) <= 4 ? 3 : 2)

/* More models than these have a kernel whose number is not known at compile time. */
#define FUSED_MAX_MODELS 8

typedef device_op_of<METHOD_MAX_MODELS> combine_args;
static_assert(sizeof(combine_args) <= 4096, "arguments of a kernel");

/* PLAIN: whole or the largest magnitudes, scale 1. MASKED: also random draws and scales. */
enum fused_kind { FUSED_LINEAR, FUSED_PLAIN, FUSED_MASKED, FUSED_PLAIN_VOTE, FUSED_MASKED_VOTE };

/* What a thread knows of one model for all eight elements. */
struct fused_keep {
    float above; /* keep |delta| greater than this: for finite values the same order as that of the bits */
    struct philox_words draws;
};

/* False when the threshold changes inside the group. */
static __device__ inline bool fused_keep_top(const device_model &model, uint64_t element, fused_keep *keep)
{
    int32_t above = keep_above(model, element);
    keep->above = above < 0 ? -1.0f : float_from_bits(static_cast<uint32_t>(above));
    return above == keep_above(model, element + GROUP_ELEMS - 1);
}

static __device__ inline void fused_keep_random(const device_model &model, uint64_t element, fused_keep *keep)
{
    if (model.random)
        keep->draws = philox_mask_call(model.mask_key, element / PHILOX_DRAWS_PER_CALL);
    else
        keep->draws = {{0, 0, 0, 0}};
}

template <int KIND>
static __device__ inline float fused_value(const device_model &model, const fused_keep &keep, float delta, int j)
{
    float kept = fabsf(delta) > keep.above ? delta : 0.0f;
    if (KIND == FUSED_PLAIN || KIND == FUSED_PLAIN_VOTE)
        return kept * model.weight;
    uint32_t draw = (keep.draws.w[j / 2] >> (16 * (j % 2))) & 0xffffu;
    return task_vector_value(task_vector_keep_random(kept, draw, model.keep_below), model.scale, model.weight);
}

/* The term of a model. */
template <int KIND>
static __device__ inline float fused_term(const device_model &model, const fused_keep &keep, float x, float b, int j,
                                          float *poison)
{
    if (KIND == FUSED_LINEAR)
        return linear_term(model.weight, x);
    float delta = task_vector_delta(x, b);
    *poison = fmaf(delta, 0.0f, *poison);
    return fused_value<KIND>(model, keep, delta, j);
}

template <int N> static __device__ inline float fused_vote(const combine_args &a, const float (&value)[N], float total)
{
    const uint32_t vote = task_vector_vote(total, a.plus_from);
    float mixed = 0.0f, divisor = 0.0f;
#pragma unroll
    for (int m = 0; m < N; m++)
        vote_add(a.models[m], value[m], vote, &mixed, &divisor);
    return vote_result(a, mixed, divisor);
}

template <class ELEMS, int KIND, int N>
static __global__ void __launch_bounds__(COMBINE_THREADS, FUSED_BLOCKS(N))
    combine_kernel(const __grid_constant__ combine_args a)
{
    typedef group_io<ELEMS> io;
    const size_t group = static_cast<size_t>(blockIdx.x) * COMBINE_THREADS + threadIdx.x;
    const size_t first = group * GROUP_ELEMS;
    const uint64_t element = a.first_elem + first;
    if (first >= a.n_elems)
        return;
    const int n = a.n_elems - first < GROUP_ELEMS ? static_cast<int>(a.n_elems - first) : GROUP_ELEMS;
    bool usual = n == GROUP_ELEMS;
    if (usual) {
        uint32_t base[ELEMS::n_words], x[N][ELEMS::n_words], out[ELEMS::n_words];
        fused_keep keep[N];
        float poison = 0.0f; /* NaN as soon as a delta is not finite */
        if (KIND != FUSED_LINEAR)
            io::load(a.base, a.base_dtype, group, base);
#pragma unroll
        for (int m = 0; m < N; m++)
            io::load(a.models[m].x, a.models[m].dtype, group, x[m]);
#pragma unroll
        for (int m = 0; m < N && KIND != FUSED_LINEAR; m++) {
            usual &= fused_keep_top(a.models[m], element, &keep[m]);
            if (KIND == FUSED_MASKED || KIND == FUSED_MASKED_VOTE)
                fused_keep_random(a.models[m], element, &keep[m]);
        }
        if (KIND != FUSED_LINEAR)
            io::widen(a.base_dtype, base);
#pragma unroll
        for (int m = 0; m < N; m++)
            io::widen(a.models[m].dtype, x[m]);
#pragma unroll
        for (int j = 0; j < GROUP_ELEMS; j++) {
            float value[N], sum = a.zero, b = KIND != FUSED_LINEAR ? ELEMS::get(base, j) : 0.0f;
#pragma unroll
            for (int m = 0; m < N; m++) {
                value[m] = fused_term<KIND>(a.models[m], keep[m], ELEMS::get(x[m], j), b, j, &poison);
                sum = sum + value[m];
            }
            if (KIND == FUSED_PLAIN_VOTE || KIND == FUSED_MASKED_VOTE)
                sum = fused_vote<N>(a, value, sum);
            else if (a.normalize)
                sum = sum / a.divisor;
            ELEMS::set(out, j, KIND == FUSED_LINEAR ? sum : task_vector_result(b, sum, a.lambda));
        }
        /* LINEAR: an input that is not finite always shows in the output. */
        usual = usual && poison == 0.0f && io::store(a.out, a.out_dtype, group, out);
    }
#pragma unroll 1
    for (int j = 0; j < n && !usual; j++)
        combine_any<ELEMS>(a, first + j);
}

/* ---- choosing ----------------------------------------------------------------------------------------------- */

typedef void (*combine_function)(const combine_args);

template <class ELEMS, int KIND> static combine_function choose_few(int n_models)
{
    switch (n_models) {
    case 1: return combine_kernel<ELEMS, KIND, 1>;
    case 2: return combine_kernel<ELEMS, KIND, 2>;
    case 3: return combine_kernel<ELEMS, KIND, 3>;
    case 4: return combine_kernel<ELEMS, KIND, 4>;
    default: return nullptr;
    }
}

template <class ELEMS, int KIND> static combine_function choose_many(int n_models)
{
    switch (n_models) {
    case 5: return combine_kernel<ELEMS, KIND, 5>;
    case 6: return combine_kernel<ELEMS, KIND, 6>;
    case 7: return combine_kernel<ELEMS, KIND, 7>;
    case 8: return combine_kernel<ELEMS, KIND, 8>;
    default: return choose_few<ELEMS, KIND>(n_models);
    }
}

/* Of elementwise_mixed.cu. NULL: too many models. */
combine_function choose_mixed(enum fused_kind kind, int n_models);
/* Of elementwise_wide.cu, for any number of models. dtype: that of all inputs and the output, or READ_MIXED. */
combine_function choose_wide(enum fused_kind kind, int dtype);

#endif
