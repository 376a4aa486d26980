/*
 * combine.cuh: the element-wise pass on one element, every choice at run time.
 *
 * What lives here: the slow way through an operation, which is the whole kernel for unusual ones and the rare way of all
 * others. The same code serves one large tile and a group of small tensors. What it must not know: threads, launches.
 */
#ifndef WM_KERNELS_COMBINE_CUH
#define WM_KERNELS_COMBINE_CUH

#include "common/vector_load.cuh"
#include "methods/device_op.cuh"
#include "methods/linear_math.h"

#include <math.h>

/* ---- one element, every choice at run time ------------------------------------------------------------------ */

/* Inlined into every kernel, although it is the rare way of most: a call would cost them all 60 registers. In kernels of
 * one element type the type is a constant; only in the kernel for everything do weights differ by vector. */
template <class ELEMS> struct by_vector {
    static const bool MAY_BE = false;
};
template <> struct by_vector<any_elems> {
    static const bool MAY_BE = true;
};

template <class ELEMS, class ARGS> static __device__ inline float any_weight(const ARGS &a, int m, uint64_t element)
{
    if (!by_vector<ELEMS>::MAY_BE || a.vector_weights == nullptr)
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
template <class ELEMS, class ARGS>
static __device__ inline float any_value(const ARGS &a, int m, float b, float x, uint64_t element)
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

/* The value of a model joins the sum if its sign is the elected one. */
static __device__ inline void vote_add(const device_model &model, float value, uint32_t vote, float *mixed,
                                       float *divisor)
{
    if (task_vector_agreement(value, vote) > 0.0f) {
        *mixed = *mixed + value;
        *divisor = *divisor + model.weight;
    }
}

static __device__ inline float vote_result(const device_op_head &a, float mixed, float divisor)
{
    return a.normalize ? mixed / task_vector_vote_divisor(divisor) : mixed;
}

template <class ELEMS, class ARGS>
static __device__ inline float any_vote(const ARGS &a, size_t i, float b, float total)
{
    const uint32_t vote = task_vector_vote(total, a.plus_from);
    float mixed = 0.0f, divisor = 0.0f;
#pragma unroll 1
    for (int m = 0; m < a.n_models; m++) {
        float x = load_elem_any(a.models[m].x, single<ELEMS>::dtype(a.models[m].dtype), i).value;
        vote_add(a.models[m], any_value<ELEMS>(a, m, b, x, a.first_elem + i), vote, &mixed, &divisor);
    }
    return vote_result(a, mixed, divisor);
}

static __device__ inline void report_bad(struct device_bad *bad, uint64_t element)
{
    atomicAdd(&bad->n, 1ull);
    atomicMax(&bad->first, static_cast<unsigned long long>(UINT64_MAX - element));
}

template <class ELEMS, class ARGS> static __device__ inline void combine_any(const ARGS &a, size_t i)
{
    const uint64_t element = a.first_elem + i;
    bool bad_in = false;
    float b = 0.0f, sum = a.zero;
    int input = 0;
    if (a.base != nullptr) {
        loaded_elem base = load_elem_any(a.base, single<ELEMS>::dtype(a.base_dtype), i);
        b = base.value;
        if (!base.finite) {
            bad_in = true;
            report_bad(&a.report[1], element);
        }
        input = 1;
    }
#pragma unroll 1
    for (int m = 0; m < a.n_models; m++, input++) {
        loaded_elem x = load_elem_any(a.models[m].x, single<ELEMS>::dtype(a.models[m].dtype), i);
        sum = sum + any_value<ELEMS>(a, m, b, x.value, element);
        if (!x.finite) {
            bad_in = true;
            report_bad(&a.report[1 + input], element);
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
    bool finite = store_elem_any(a.out, single<ELEMS>::dtype(a.out_dtype), i, result);
    if (!finite && !bad_in)
        report_bad(&a.report[0], element);
}

#endif
