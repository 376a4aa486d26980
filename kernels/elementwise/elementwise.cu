/*
 * elementwise.cu: the element-wise pass of every method over one tile, on a CUDA device.
 *
 * maths       LINEAR       r = (sum_m w_m x_m) [/ divisor]
 *             TASK_VECTOR  r = b + lambda * (sum_m agree_m * w_m * s_m * keep_m * (x_m - b)) [/ divisor]
 *             one fp32 operation at a time (linear_math.h, task_vector_math.h), one rounding to the output type
 * shapes      any number of elements at any address; 0..64 models; F32, F16, BF16 and F64, mixed as they come
 * launch      one thread a group of eight elements (combine_kernel) or a single element (combine_any_kernel), blocks of
 *             256, no shared memory
 * bytes       width of each input read once and of the output written once, per element (a vote over more than eight
 *             models reads inputs twice, the second time from a cache)
 * reduction   none across elements; models are added left to right
 * limits      none
 * measured    not measured yet: no GPU run so far
 *
 * Two ways through. combine_kernel: one type for all inputs and the output, aligned, up to eight models, everything in
 * registers, all loads of a group in flight at once. combine_any: one element at a time with every choice at run time;
 * it is the whole kernel for all other operations and the rare way of combine_kernel for groups at the end of a tile,
 * across a tie index, or with a value that is not finite. Both give the same bits.
 */
#include "common/launch.cuh"
#include "common/vector_load.cuh"
#include "methods/device.h"
#include "methods/device_model.cuh"
#include "methods/linear_math.h"

#include <math.h>

#define COMBINE_THREADS 256
/* Blocks that a multiprocessor must hold: room for 64, 80 or 128 registers a thread, enough for none to spill. */
#define FUSED_BLOCKS(n_models) ((n_models) <= 2 ? 4 : (n_models) <= 4 ? 3 : 2)

struct combine_args {
    const void *base; /* NULL: none */
    void *out;
    const float *vector_weights; /* NULL: none */
    struct device_report *report;
    size_t n_elems;
    uint64_t first_elem, row_elems;
    float zero, divisor, lambda; /* zero: +0 or -0, whichever starts a sum; adding -0 changes nothing */
    int base_dtype, out_dtype, n_models, by_rows;
    bool task_vector, consensus, normalize;
    device_model models[METHOD_MAX_MODELS];
};
static_assert(sizeof(combine_args) <= 4096, "arguments of a kernel");

/* ---- one element, every choice at run time ------------------------------------------------------------------ */

/* Inlined into every kernel, although it is the rare way of most: a call would cost them all 60 registers. In kernels of
 * one element type (TYPED) the type is a constant and weights do not differ by vector. */
template <class ELEMS> struct choices {
    static const bool TYPED = true;
    static __device__ inline int dtype(int) { return ELEMS::dtype; }
};

template <> struct choices<any_elems> {
    static const bool TYPED = false;
    static __device__ inline int dtype(int at_run_time) { return at_run_time; }
};

template <class ELEMS> static __device__ inline float any_weight(const combine_args &a, int m, uint64_t element)
{
    if (choices<ELEMS>::TYPED || a.vector_weights == nullptr)
        return a.models[m].weight;
    uint64_t vector;
    if (((element | a.row_elems) >> 32) == 0) { /* a 64-bit division takes several times as long */
        uint32_t e = static_cast<uint32_t>(element), n = static_cast<uint32_t>(a.row_elems);
        vector = a.by_rows ? e / n : e % n;
    } else {
        vector = a.by_rows ? element / a.row_elems : element % a.row_elems;
    }
    return a.vector_weights[vector * static_cast<uint64_t>(a.n_models) + static_cast<uint64_t>(m)];
}

/* The term of model m. */
template <class ELEMS>
static __device__ inline float any_value(const combine_args &a, int m, float b, float x, uint64_t element)
{
    const device_model &model = a.models[m];
    float weight = any_weight<ELEMS>(a, m, element);
    if (!a.task_vector)
        return linear_term(weight, x);
    float delta = task_vector_delta(x, b);
    float kept = model.random
                     ? task_vector_keep_random(delta, philox_mask_draw(model.mask_key, element), model.keep_below)
                     : task_vector_keep_top(delta, keep_above(model, element));
    return task_vector_value(kept, model.scale, weight);
}

template <class ELEMS> static __device__ inline float any_vote(const combine_args &a, size_t i, float b, float total)
{
    const uint32_t vote = task_vector_vote(total);
    float mixed = 0.0f, divisor = 0.0f;
#pragma unroll 1
    for (int m = 0; m < a.n_models; m++) {
        float x = load_elem_any(a.models[m].x, choices<ELEMS>::dtype(a.models[m].dtype), i).value;
        float value = any_value<ELEMS>(a, m, b, x, a.first_elem + i);
        if (!(task_vector_agreement(value, vote) > 0.0f))
            continue;
        mixed = mixed + value;
        divisor = divisor + a.models[m].weight;
    }
    return a.normalize ? mixed / task_vector_vote_divisor(divisor) : mixed;
}

static __device__ inline void report_bad(unsigned long long *n, unsigned long long *first, uint64_t element)
{
    atomicAdd(n, 1ull);
    atomicMax(first, static_cast<unsigned long long>(UINT64_MAX - element));
}

template <class ELEMS> static __device__ inline void combine_any(const combine_args &a, size_t i)
{
    const uint64_t element = a.first_elem + i;
    struct device_report *report = a.report;
    bool bad_in = false;
    float b = 0.0f, sum = a.zero;
    int input = 0;
    if (a.base != nullptr) {
        loaded_elem base = load_elem_any(a.base, choices<ELEMS>::dtype(a.base_dtype), i);
        b = base.value;
        if (!base.finite) {
            bad_in = true;
            report_bad(&report->n_bad_in[0], &report->first_bad_in[0], element);
        }
        input = 1;
    }
#pragma unroll 1
    for (int m = 0; m < a.n_models; m++, input++) {
        loaded_elem x = load_elem_any(a.models[m].x, choices<ELEMS>::dtype(a.models[m].dtype), i);
        sum = sum + any_value<ELEMS>(a, m, b, x.value, element);
        if (!x.finite) {
            bad_in = true;
            report_bad(&report->n_bad_in[input], &report->first_bad_in[input], element);
        }
    }
    float result = sum;
    if (a.n_models == 0)
        result = b;
    else if (a.consensus)
        result = any_vote<ELEMS>(a, i, b, sum);
    else if (a.normalize)
        result = sum / a.divisor;
    if (a.n_models > 0 && a.task_vector)
        result = bad_in ? float_from_bits(F32_NAN) : task_vector_result(b, result, a.lambda);
    bool finite = store_elem_any(a.out, choices<ELEMS>::dtype(a.out_dtype), i, result);
    if (!finite && !bad_in)
        report_bad(&report->n_bad_out, &report->first_bad_out, element);
}

static __global__ void __launch_bounds__(COMBINE_THREADS) combine_any_kernel(const __grid_constant__ combine_args a)
{
    size_t i = static_cast<size_t>(blockIdx.x) * COMBINE_THREADS + threadIdx.x;
    if (i < a.n_elems)
        combine_any<any_elems>(a, i);
}

/* ---- eight elements of one type, up to eight models --------------------------------------------------------- */

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

template <int N> static __device__ inline float fused_vote(const combine_args &a, const float (&value)[N], float total)
{
    const uint32_t vote = task_vector_vote(total);
    float mixed = 0.0f, divisor = 0.0f;
#pragma unroll
    for (int m = 0; m < N; m++)
        if (task_vector_agreement(value[m], vote) > 0.0f) {
            mixed = mixed + value[m];
            divisor = divisor + a.models[m].weight;
        }
    return a.normalize ? mixed / task_vector_vote_divisor(divisor) : mixed;
}

template <class ELEMS, int KIND, int N>
static __global__ void __launch_bounds__(COMBINE_THREADS, FUSED_BLOCKS(N))
    combine_kernel(const __grid_constant__ combine_args a)
{
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
            load_words(a.base, group, base);
#pragma unroll
        for (int m = 0; m < N; m++)
            load_words(a.models[m].x, group, x[m]);
#pragma unroll
        for (int m = 0; m < N && KIND != FUSED_LINEAR; m++) {
            usual &= fused_keep_top(a.models[m], element, &keep[m]);
            if (KIND == FUSED_MASKED || KIND == FUSED_MASKED_VOTE)
                fused_keep_random(a.models[m], element, &keep[m]);
        }
#pragma unroll
        for (int j = 0; j < GROUP_ELEMS; j++) {
            float value[N], sum = a.zero, b = KIND != FUSED_LINEAR ? ELEMS::get(base, j) : 0.0f;
#pragma unroll
            for (int m = 0; m < N; m++) {
                float elem = ELEMS::get(x[m], j);
                if (KIND == FUSED_LINEAR) {
                    value[m] = linear_term(a.models[m].weight, elem);
                } else {
                    float delta = task_vector_delta(elem, b);
                    poison = fmaf(delta, 0.0f, poison);
                    value[m] = fused_value<KIND>(a.models[m], keep[m], delta, j);
                }
                sum = sum + value[m];
            }
            if (KIND == FUSED_PLAIN_VOTE || KIND == FUSED_MASKED_VOTE)
                sum = fused_vote<N>(a, value, sum);
            else if (a.normalize)
                sum = sum / a.divisor;
            ELEMS::set(out, j, KIND == FUSED_LINEAR ? sum : task_vector_result(b, sum, a.lambda));
        }
        uint32_t bad = 0; /* LINEAR: an input that is not finite always shows in the output */
#pragma unroll
        for (int w = 0; w < ELEMS::n_words; w++)
            bad |= ELEMS::nonfinite(out[w]);
        usual &= bad == 0 && poison == 0.0f;
        if (usual)
            store_words(a.out, group, out);
    }
#pragma unroll 1
    for (int j = 0; j < n && !usual; j++)
        combine_any<ELEMS>(a, first + j);
}

/* ---- launches ----------------------------------------------------------------------------------------------- */

typedef void (*combine_function)(const combine_args);

template <class ELEMS, int KIND> static combine_function choose_models(int n_models)
{
    switch (n_models) {
    case 1: return combine_kernel<ELEMS, KIND, 1>;
    case 2: return combine_kernel<ELEMS, KIND, 2>;
    case 3: return combine_kernel<ELEMS, KIND, 3>;
    case 4: return combine_kernel<ELEMS, KIND, 4>;
    default: return nullptr;
    }
}

template <int KIND> static combine_function choose_elems(int dtype, int n_models)
{
    switch (dtype == WM_BF16 ? n_models : 0) {
    case 5: return combine_kernel<bf16_elems, KIND, 5>;
    case 6: return combine_kernel<bf16_elems, KIND, 6>;
    case 7: return combine_kernel<bf16_elems, KIND, 7>;
    case 8: return combine_kernel<bf16_elems, KIND, 8>;
    default: break;
    }
    switch (dtype) {
    case WM_BF16: return choose_models<bf16_elems, KIND>(n_models);
    case WM_F16: return choose_models<f16_elems, KIND>(n_models);
    case WM_F32: return choose_models<f32_elems, KIND>(n_models);
    default: return nullptr;
    }
}

/* NULL: only the general kernel serves this. */
static combine_function choose_fused(const struct merge_op *op, const struct merge_tile *tile, bool vector_weights)
{
    int dtype = common_dtype(tile->in, tile->in_dtype, merge_op_n_inputs(op));
    if (op->n_models == 0 || vector_weights || dtype != static_cast<int>(tile->out_dtype) ||
        !is_vector_aligned(tile->out) || tile->first_elem % GROUP_ELEMS != 0)
        return nullptr;
    if (op->family == MERGE_LINEAR)
        return op->has_base ? nullptr : choose_elems<FUSED_LINEAR>(dtype, op->n_models);
    bool masked = false;
    for (int m = 0; m < op->n_models; m++)
        masked |= op->models[m].keep == KEEP_RANDOM || op->models[m].scale != 1.0f;
    if (masked)
        return op->consensus ? choose_elems<FUSED_MASKED_VOTE>(dtype, op->n_models)
                             : choose_elems<FUSED_MASKED>(dtype, op->n_models);
    return op->consensus ? choose_elems<FUSED_PLAIN_VOTE>(dtype, op->n_models)
                         : choose_elems<FUSED_PLAIN>(dtype, op->n_models);
}

cudaError_t device_combine_launch(const struct merge_op *op, const struct merge_tile *tile, const float *vector_weights,
                                  struct device_report *report, cudaStream_t stream)
{
    if (tile->n_elems == 0)
        return cudaSuccess;
    combine_args a = {};
    if (op->has_base) {
        a.base = tile->in[0];
        a.base_dtype = tile->in_dtype[0];
    }
    a.out = tile->out;
    a.out_dtype = tile->out_dtype;
    a.vector_weights = vector_weights;
    a.report = report;
    a.n_elems = tile->n_elems;
    a.first_elem = tile->first_elem;
    a.row_elems = op->row_elems;
    a.by_rows = op->axis == AXIS_ROWS;
    a.zero = op->sum_from_zero ? 0.0f : -0.0f;
    a.divisor = op->divisor;
    a.lambda = op->lambda;
    a.n_models = op->n_models;
    a.task_vector = op->family == MERGE_TASK_VECTOR;
    a.consensus = op->consensus;
    a.normalize = op->normalize;
    for (int m = 0; m < op->n_models; m++) {
        a.models[m] = device_model_of(op, m, tile);
        if (!a.models[m].random)
            a.models[m].keep_below = 65536; /* above every draw */
    }
    combine_function fused = choose_fused(op, tile, vector_weights != nullptr);
    if (fused != nullptr)
        return WM_LAUNCH(fused, launch_blocks(tile->n_elems, COMBINE_THREADS * GROUP_ELEMS), COMBINE_THREADS, 0, stream,
                         a);
    combine_function any = combine_any_kernel;
    return WM_LAUNCH(any, launch_blocks(tile->n_elems, COMBINE_THREADS), COMBINE_THREADS, 0, stream, a);
}
