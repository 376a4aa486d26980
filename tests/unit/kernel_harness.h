/*
 * kernel_harness.h: what the tests of the kernels share.
 *
 * What lives here: number formats written a second time (through ldexp and rint, sharing nothing with
 * number_format.h), a seeded generator, and running an operation over whole arrays with any tile size, thread count,
 * order and instruction set. What it must not know: what the right result is.
 */
#ifndef WM_TESTS_KERNEL_HARNESS_H
#define WM_TESTS_KERNEL_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/sanitizers.h"
#include "methods/tile.h"

#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNUSED_OK __attribute__((unused))

/* ---- number formats, independently -------------------------------------------------------------------------- */

/* Nearest even to `mantissa_bits` explicit bits with exponents from min_exponent on (of the leading bit); beyond
 * `largest` infinity. */
UNUSED_OK static double ref_round(double x, int mantissa_bits, int min_exponent, double largest)
{
    if (!isfinite(x) || x == 0.0)
        return x;
    int exponent;
    frexp(x, &exponent);
    exponent -= 1; /* of the leading bit */
    int unit = (exponent < min_exponent ? min_exponent : exponent) - mantissa_bits;
    double rounded = ldexp(rint(ldexp(x, -unit)), unit);
    return fabs(rounded) > largest ? copysign(INFINITY, x) : rounded;
}

UNUSED_OK static double ref_decode(uint32_t bits, int mantissa_bits, int exponent_bits)
{
    int bias = (1 << (exponent_bits - 1)) - 1;
    uint32_t mantissa = bits & ((1u << mantissa_bits) - 1);
    int exponent = (int)(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
    double sign = (bits >> (mantissa_bits + exponent_bits)) & 1 ? -1.0 : 1.0;
    if (exponent == (1 << exponent_bits) - 1)
        return mantissa != 0 ? (double)NAN : sign * INFINITY;
    if (exponent == 0)
        return sign * ldexp((double)mantissa, 1 - bias - mantissa_bits);
    return sign * ldexp((double)(mantissa + (1u << mantissa_bits)), exponent - bias - mantissa_bits);
}

/* Bits of a value that the format holds exactly. */
UNUSED_OK static uint32_t ref_encode(double x, int mantissa_bits, int exponent_bits)
{
    int bias = (1 << (exponent_bits - 1)) - 1;
    uint32_t sign = (signbit(x) ? 1u : 0u) << (mantissa_bits + exponent_bits);
    if (isnan(x))
        return (((1u << exponent_bits) - 1) << mantissa_bits) | (1u << (mantissa_bits - 1));
    if (isinf(x))
        return sign | (((1u << exponent_bits) - 1) << mantissa_bits);
    if (x == 0.0)
        return sign;
    int exponent;
    frexp(x, &exponent);
    exponent += bias - 1;
    if (exponent < 1)
        return sign | (uint32_t)ldexp(fabs(x), bias - 1 + mantissa_bits);
    uint32_t mantissa = (uint32_t)ldexp(fabs(x), mantissa_bits - (exponent - bias)) - (1u << mantissa_bits);
    return sign | ((uint32_t)exponent << mantissa_bits) | mantissa;
}

#define BF16_LARGEST 0x1.fep127
#define F16_LARGEST  65504.0
#define F32_LARGEST  0x1.fffffep127

UNUSED_OK static size_t dtype_width(enum wm_dtype dtype)
{
    return dtype == WM_F64 ? 8 : dtype == WM_F32 ? 4 : 2;
}

/* Element i as the kernels must see it: fp32. */
UNUSED_OK static float ref_load(const void *data, enum wm_dtype dtype, size_t i)
{
    const char *at = (const char *)data + i * dtype_width(dtype);
    uint16_t half;
    float single;
    double wide;
    switch (dtype) {
    case WM_BF16: memcpy(&half, at, 2); return (float)ref_decode(half, 7, 8);
    case WM_F16: memcpy(&half, at, 2); return (float)ref_decode(half, 10, 5);
    case WM_F64: memcpy(&wide, at, 8); return (float)ref_round(wide, 23, -126, F32_LARGEST);
    default: memcpy(&single, at, 4); return single;
    }
}

/* Rounds x once into element i. NaN becomes the type's canonical pattern. */
UNUSED_OK static void ref_store(void *data, enum wm_dtype dtype, size_t i, float x)
{
    char *at = (char *)data + i * dtype_width(dtype);
    uint16_t half;
    uint32_t canonical = 0x7fc00000u;
    uint64_t wide_canonical = 0x7ff8000000000000u;
    double wide = (double)x;
    switch (dtype) {
    case WM_BF16:
        half = (uint16_t)ref_encode(ref_round(wide, 7, -126, BF16_LARGEST), 7, 8);
        memcpy(at, &half, 2);
        break;
    case WM_F16:
        half = (uint16_t)ref_encode(ref_round(wide, 10, -14, F16_LARGEST), 10, 5);
        memcpy(at, &half, 2);
        break;
    case WM_F64: memcpy(at, isnan(x) ? (void *)&wide_canonical : (void *)&wide, 8); break;
    default: memcpy(at, isnan(x) ? (void *)&canonical : (void *)&x, 4); break;
    }
}

/* ---- data --------------------------------------------------------------------------------------------------- */

UNUSED_OK static uint64_t random_u64(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

UNUSED_OK static double random_unit(uint64_t *state) /* [0, 1) */
{
    return (double)(random_u64(state) >> 11) * 0x1p-53;
}

UNUSED_OK static double random_normal(uint64_t *state)
{
    double sum = -6.0;
    for (int i = 0; i < 12; i++)
        sum += random_unit(state);
    return sum;
}

/* n elements and a guard zone; freed by the caller. */
UNUSED_OK static void *new_array(size_t n, enum wm_dtype dtype)
{
    void *data = calloc(n + 1, dtype_width(dtype));
    assert_non_null(data);
    return data;
}

/* A base like weights, and fine-tunes of it whose deltas are a few of its ulps: many zeros, many equal magnitudes. */
UNUSED_OK static void *new_weights(size_t n, enum wm_dtype dtype, uint64_t seed)
{
    void *data = new_array(n, dtype);
    for (size_t i = 0; i < n; i++)
        ref_store(data, dtype, i, (float)(0.02 * random_normal(&seed)));
    return data;
}

UNUSED_OK static void *new_fine_tune(const void *base, enum wm_dtype base_dtype, size_t n, enum wm_dtype dtype,
                                     double spread, uint64_t seed)
{
    void *data = new_array(n, dtype);
    for (size_t i = 0; i < n; i++)
        ref_store(data, dtype, i, (float)((double)ref_load(base, base_dtype, i) + spread * random_normal(&seed)));
    return data;
}

/* ---- running ------------------------------------------------------------------------------------------------ */

/* Under ThreadSanitizer the best variant alone. */
enum { N_ISAS = UNDER_TSAN ? 1 : 3 };
static const char *const all_isas[3] = {UNDER_TSAN ? NULL : "portable", "avx2", "avx512"};

struct run {
    uint64_t tile_elems; /* 0: one tile */
    int n_threads;       /* 0: 1 */
    bool backwards;      /* tiles in descending order where the pass allows it */
    bool avoid_repeats;  /* as for tensors that do not stay in memory */
    bool speculate;      /* where the operation can; needs an output */
    size_t n_stood;      /* tiles that were right the first time */
    struct merge_report report;
    int n_passes[STAT_READY];
};

struct run_shared {
    const struct merge_op *op;
    struct statistics *s; /* NULL in the combine pass */
    const struct merge_tile *model;
    struct run *run;
    uint64_t tile_elems;
    size_t n_tiles, next;
    bool combine;
    pthread_mutex_t lock;
};

UNUSED_OK static void *run_tiles(void *user)
{
    struct run_shared *shared = user;
    struct cpu_scratch *scratch = cpu_scratch_new();
    struct merge_report report;
    merge_report_init(&report);
    if (scratch == NULL)
        abort();
    for (;;) {
        size_t next = __atomic_fetch_add(&shared->next, 1, __ATOMIC_RELAXED);
        if (next >= shared->n_tiles)
            break;
        bool ordered = shared->s != NULL && !shared->combine && statistics_in_order(shared->s);
        struct merge_tile tile = *shared->model;
        tile.index = shared->run->backwards && !ordered ? shared->n_tiles - 1 - next : next;
        tile.first_elem = tile.index * shared->tile_elems;
        uint64_t left = shared->op->n_elems - tile.first_elem;
        tile.n_elems = (size_t)(left < shared->tile_elems ? left : shared->tile_elems);
        for (int i = 0; i < merge_op_n_inputs(shared->op); i++)
            tile.in[i] = (const char *)tile.in[i] + tile.first_elem * dtype_width(tile.in_dtype[i]);
        if (!shared->combine) {
            bool guesses = statistics_pass(shared->s) == STAT_KTH_GUESS;
            tile.out = guesses ? (char *)tile.out + tile.first_elem * dtype_width(tile.out_dtype) : NULL;
            if (guesses)
                cpu_guess_tile(shared->op, shared->s, &tile, scratch, &report);
            else if (statistics_needs_tile(shared->s, tile.index))
                cpu_statistics_tile(shared->op, shared->s, &tile, scratch);
            continue;
        }
        if (shared->s != NULL && statistics_tile_stands(shared->s, tile.index)) {
            __atomic_fetch_add(&shared->run->n_stood, 1, __ATOMIC_RELAXED);
            continue;
        }
        tile.out = (char *)tile.out + tile.first_elem * dtype_width(tile.out_dtype);
        cpu_combine_tile(shared->op, shared->s, &tile, scratch, &report);
    }
    pthread_mutex_lock(&shared->lock);
    merge_report_add(&shared->run->report, &report);
    pthread_mutex_unlock(&shared->lock);
    cpu_scratch_free(scratch);
    return NULL;
}

UNUSED_OK static void run_pass(struct run_shared *shared, int n_threads)
{
    pthread_t threads[8];
    shared->next = 0;
    for (int t = 1; t < n_threads; t++)
        assert_int_equal(pthread_create(&threads[t], NULL, run_tiles, shared), 0);
    run_tiles(shared);
    for (int t = 1; t < n_threads; t++)
        pthread_join(threads[t], NULL);
}

/* All passes of an operation. `arrays` is a tile that covers the whole tensor. Leaves *op completed; what it owns
 * (vector weights) is gone. */
UNUSED_OK static void run_op(struct merge_op *op, const struct merge_tile *arrays, struct run *run)
{
    struct run_shared shared = {.op = op, .model = arrays, .run = run};
    pthread_mutex_init(&shared.lock, NULL);
    shared.tile_elems = run->tile_elems != 0 ? run->tile_elems : op->n_elems > 0 ? op->n_elems : 1;
    shared.n_tiles = (size_t)((op->n_elems + shared.tile_elems - 1) / shared.tile_elems);
    merge_report_init(&run->report);
    memset(run->n_passes, 0, sizeof run->n_passes);
    run->n_stood = 0;
    struct statistics *s = NULL;
    if (statistics_first_pass(op) != STAT_READY) {
        s = statistics_new(op, shared.tile_elems);
        assert_non_null(s);
        shared.s = s;
        if (run->avoid_repeats)
            statistics_avoid_repeats(s);
        if (run->speculate && statistics_can_speculate(op, shared.tile_elems))
            statistics_speculate(s);
        while (statistics_pass(s) != STAT_READY) {
            run_pass(&shared, statistics_in_order(s) || run->n_threads == 0 ? 1 : run->n_threads);
            enum stat_pass pass = statistics_pass(s);
            statistics_finish_pass(s, op);
            run->n_passes[pass]++;
        }
    }
    shared.combine = true;
    if (arrays->out != NULL)
        run_pass(&shared, run->n_threads == 0 ? 1 : run->n_threads);
    statistics_free(s);
    op->vector_weights = NULL;
    pthread_mutex_destroy(&shared.lock);
}

/* Fails with the first element that differs, in bits. */
UNUSED_OK static void assert_same_elements(const void *got, const void *expected, enum wm_dtype dtype, size_t n,
                                           const char *what)
{
    size_t width = dtype_width(dtype);
    for (size_t i = 0; i < n; i++) {
        const char *a = (const char *)got + i * width, *b = (const char *)expected + i * width;
        if (memcmp(a, b, width) != 0)
            fail_msg("%s: element %zu of %zu is %a, expected %a", what, i, n, (double)ref_load(got, dtype, i),
                     (double)ref_load(expected, dtype, i));
    }
}

/* ---- building operations through the descriptors ------------------------------------------------------------ */

struct setting {
    const char *name;
    double value;
    int model; /* -1: global */
};

/* Prepares `method_name` with its defaults and then the settings (ended by a NULL name). */
UNUSED_OK static enum wm_status prepare_op(struct merge_op *op, const char *method_name, int n_models, bool has_base,
                                           uint64_t n_rows, uint64_t row_elems, uint64_t seed,
                                           const struct setting *settings, char message[256])
{
    const struct method *method = method_find(method_name);
    assert_non_null(method);
    double params[METHOD_MAX_PARAMS] = {0};
    static double model_params[METHOD_MAX_MODELS][METHOD_MAX_PARAMS];
    int model_index[METHOD_MAX_MODELS];
    for (int p = 0; p < method->n_params; p++) {
        params[p] = method->params[p].default_value;
        for (int m = 0; m < n_models; m++)
            model_params[m][p] = params[p];
    }
    for (int m = 0; m < n_models; m++)
        model_index[m] = m;
    for (; settings != NULL && settings->name != NULL; settings++) {
        int p = method_param_index(method, settings->name);
        assert_true(p >= 0);
        for (int m = 0; m < n_models; m++)
            if (settings->model == m || settings->model < 0)
                model_params[m][p] = settings->value;
        if (settings->model < 0)
            params[p] = settings->value;
    }
    struct method_args args = {.n_models = n_models,
                               .has_base = has_base,
                               .params = params,
                               .model_params = (const double(*)[METHOD_MAX_PARAMS])model_params,
                               .model_index = model_index,
                               .seed = seed,
                               .tensor_name = "model.layers.0.mlp.up_proj.weight",
                               .n_elems = n_rows * row_elems,
                               .n_rows = n_rows,
                               .row_elems = row_elems};
    return method->prepare(method, &args, op, message);
}

#endif
