/*
 * device_cases.h: what the tests of a CUDA device share.
 *
 * What lives here: operations of every method, element types and data that are hard on kernels, their way to the device,
 * and comparisons with what the CPU made of the same. What it must not know: what runs on the device, and on which streams.
 */
#ifndef WM_TESTS_DEVICE_CASES_H
#define WM_TESTS_DEVICE_CASES_H

#include "../unit/kernel_harness.h"

#include "methods/device.h"

#define CHECK_CUDA(call) assert_int_equal((call), cudaSuccess)

/* There for every stream. A plain copy is not: it may still be in the null stream, for which those of the tests do not wait. */
UNUSED_OK static void upload(void *to, const void *from, size_t n_bytes)
{
    CHECK_CUDA(cudaMemcpy(to, from, n_bytes, cudaMemcpyHostToDevice));
    CHECK_CUDA(cudaStreamSynchronize(NULL));
}

/* ---- comparing ---------------------------------------------------------------------------------------------- */

UNUSED_OK static bool same_float(float a, float b)
{
    uint32_t a_bits, b_bits;
    memcpy(&a_bits, &a, sizeof a);
    memcpy(&b_bits, &b, sizeof b);
    return a_bits == b_bits || (isnan(a) && isnan(b));
}

UNUSED_OK static void assert_same_op(const struct merge_op *got, const struct merge_op *expected, const char *what)
{
    for (int m = 0; m < expected->n_models; m++) {
        const struct merge_model *a = &got->models[m], *b = &expected->models[m];
        if (!same_float(a->weight, b->weight) || !same_float(a->scale, b->scale))
            fail_msg("%s: model %d has weight %a scale %a, expected %a and %a", what, m, (double)a->weight,
                     (double)a->scale, (double)b->weight, (double)b->scale);
        if (b->keep == KEEP_TOP && (a->threshold != b->threshold || a->tie_index != b->tie_index))
            fail_msg("%s: model %d has threshold %08x up to %llu, expected %08x up to %llu", what, m,
                     (unsigned)a->threshold, (unsigned long long)a->tie_index, (unsigned)b->threshold,
                     (unsigned long long)b->tie_index);
    }
}

UNUSED_OK static void assert_same_count(uint64_t n, uint64_t first, uint64_t expected_n, uint64_t expected_first,
                                        const char *what, int input)
{
    if (n != expected_n || (n > 0 && first != expected_first))
        fail_msg("%s: input %d has %llu values that are not finite from %llu on, expected %llu from %llu on", what,
                 input, (unsigned long long)n, (unsigned long long)first, (unsigned long long)expected_n,
                 (unsigned long long)expected_first);
}

UNUSED_OK static void assert_same_report(const struct merge_report *got, const struct merge_report *expected,
                                         const char *what)
{
    for (int i = 0; i < TILE_MAX_INPUTS; i++)
        assert_same_count(got->n_bad_in[i], got->first_bad_in[i], expected->n_bad_in[i], expected->first_bad_in[i],
                          what, i);
    assert_same_count(got->n_bad_out, got->first_bad_out, expected->n_bad_out, expected->first_bad_out, what, -1);
}

/* ---- cases -------------------------------------------------------------------------------------------------- */

#define MAX_SETTINGS 6
struct method_case {
    const char *method;
    int n_models;
    bool has_base;
    struct setting settings[MAX_SETTINGS];
};
#define GLOBAL(name, value)                                                                                            \
    {                                                                                                                  \
        name, value, -1                                                                                                \
    }

static const struct method_case method_cases[] = {
    {"linear", 1, false, {GLOBAL("weight", 0.7), GLOBAL("normalize", 0.0)}},
    {"linear", 2, false, {GLOBAL("weight", 0.3)}},
    {"linear", 3, false, {GLOBAL("weight", 0.3), {"weight", 0.9, 1}}},
    {"linear", 4, false, {GLOBAL("weight", -0.5)}},
    {"passthrough", 1, false, {GLOBAL("scale", 1.0)}},
    {"passthrough", 1, false, {GLOBAL("scale", -1.7)}},
    {"slerp", 2, false, {GLOBAL("t", 0.3)}},
    {"nuslerp", 2, false, {GLOBAL("weight", 0.5)}},
    {"nuslerp", 2, true, {GLOBAL("weight", 0.5), {"weight", 0.2, 1}}},
    {"nuslerp", 2, true, {GLOBAL("weight", 0.5), GLOBAL("nuslerp_flatten", 0.0)}},
    {"nuslerp", 2, false, {GLOBAL("weight", 0.5), GLOBAL("nuslerp_flatten", 0.0), GLOBAL("nuslerp_row_wise", 1.0)}},
    {"task_arithmetic", 0, true, {{NULL, 0.0, 0}}},
    {"task_arithmetic", 1, true, {GLOBAL("weight", 0.6)}},
    {"task_arithmetic", 3, true, {GLOBAL("weight", 0.6), GLOBAL("lambda", 0.4), GLOBAL("normalize", 1.0)}},
    {"ties", 1, true, {GLOBAL("weight", 1.0), GLOBAL("density", 0.5)}},
    {"ties", 2, true, {GLOBAL("weight", 0.5), GLOBAL("density", 0.2)}},
    {"ties", 3, true, {GLOBAL("weight", 0.4), GLOBAL("density", 0.37), {"weight", -0.3, 2}}},
    {"ties", 4, true, {GLOBAL("weight", 0.4), {"density", 0.0, 0}, {"density", 0.9, 1}, {"density", 1e-6, 2}}},
    {"ties", 2, true, {GLOBAL("weight", 0.5), GLOBAL("density", 0.6), GLOBAL("rescale", RESCALE_L1)}},
    {"ties", 2, true, {GLOBAL("weight", 0.5), GLOBAL("density", 0.6), GLOBAL("rescale", RESCALE_INV_DENSITY)}},
    {"dare_linear", 2, true, {GLOBAL("weight", 0.5), GLOBAL("density", 0.5)}},
    {"dare_linear", 3, true, {GLOBAL("weight", 0.5), GLOBAL("density", 0.1), GLOBAL("rescale", RESCALE_INV_DENSITY)}},
    {"dare_ties", 2, true, {GLOBAL("weight", 0.5), GLOBAL("density", 0.7), GLOBAL("lambda", 1.5)}},
    {"dare_ties", 3, true, {GLOBAL("weight", 0.5), {"density", 0.0, 0}, {"density", 0.3, 1}, GLOBAL("rescale", 0.0)}},
    {"mergealign", 2, true, {{NULL, 0.0, 0}}},
};
enum { N_METHOD_CASES = sizeof method_cases / sizeof method_cases[0] };

static const struct dtype_case {
    const char *name;
    enum wm_dtype base, models[3], out;
} dtype_cases[] = {
    {"bf16", WM_BF16, {WM_BF16, WM_BF16, WM_BF16}, WM_BF16},
    {"f16", WM_F16, {WM_F16, WM_F16, WM_F16}, WM_F16},
    {"f32", WM_F32, {WM_F32, WM_F32, WM_F32}, WM_F32},
    {"f64", WM_F64, {WM_F64, WM_F64, WM_F64}, WM_F64},
    {"bf16 to f32", WM_BF16, {WM_BF16, WM_BF16, WM_BF16}, WM_F32},
    {"mixed", WM_F32, {WM_BF16, WM_F16, WM_F64}, WM_F16},
    {"f32 base, bf16 models", WM_F32, {WM_BF16, WM_BF16, WM_BF16}, WM_BF16},
    {"bf16 and f32 to f32", WM_BF16, {WM_F32, WM_BF16, WM_F32}, WM_F32},
    {"three types to f16", WM_F16, {WM_BF16, WM_F32, WM_F16}, WM_F16},
};
enum { N_DTYPE_CASES = sizeof dtype_cases / sizeof dtype_cases[0] };

/* Those from N_PATTERNS on only where they are asked for by name. */
enum pattern { NORMAL, NO_CHANGE, CONSTANT, ONE_HUGE, SORTED, NOT_FINITE, OVERFLOW, N_PATTERNS, ZEROS = N_PATTERNS };
UNUSED_OK static const char *const pattern_names[] = {"normal", "no change",  "constant delta", "one huge delta",
                                                      "sorted", "not finite", "overflow",       "zeros of both signs"};

UNUSED_OK static void *new_base(enum pattern pattern, size_t n, enum wm_dtype dtype)
{
    void *data = new_weights(n, dtype, 1);
    if (pattern == NOT_FINITE && n > 20)
        ref_store(data, dtype, 20, INFINITY);
    for (size_t i = 0; i < n && pattern == ZEROS; i += 2)
        ref_store(data, dtype, i, -0.0f);
    return data;
}

UNUSED_OK static void *new_model(enum pattern pattern, const void *base, enum wm_dtype base_dtype, size_t n,
                                 enum wm_dtype dtype, int m)
{
    void *data = new_fine_tune(base, base_dtype, n, dtype, pattern == NO_CHANGE ? 0.0 : 3e-4, 77 + (uint64_t)m);
    for (size_t i = 0; i < n; i++)
        if (pattern == CONSTANT)
            ref_store(data, dtype, i, ref_load(base, base_dtype, i) + 0.375f);
        else if (pattern == SORTED)
            ref_store(data, dtype, i, (float)i * 1.1e-7f);
        else if (pattern == OVERFLOW)
            ref_store(data, dtype, i, i % 5 == 0 ? 3e38f : -6e4f);
        else if (pattern == ZEROS && i % 4 < 2)
            ref_store(data, dtype, i, -0.0f);
    if (n > 0 && pattern == ONE_HUGE)
        ref_store(data, dtype, n / 2, 4e4f);
    if (pattern == NOT_FINITE)
        for (size_t i = (size_t)m; i < n; i += 13 + 7 * (size_t)m)
            ref_store(data, dtype, i, i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY);
    return data;
}

/* Fibers under a sanitizer are slow: there every so many-th case runs. A prime, so that no size or type is left out. */
enum { EVERY = UNDER_TSAN ? 11 : UNDER_ASAN ? 5 : 1 };

#endif
