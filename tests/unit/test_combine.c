/* The element-wise pass: every method equals a scalar reference bit for bit, whatever the shape, element types, tile
 * size, thread count and instruction set. */
#include "kernel_reference.h"

#include "common/philox.h"

/* ---- the reference: one element at a time, written from the formulas ---------------------------------------- */

static void reference_mask(const struct merge_model *model, const float *delta, size_t n, bool *keep)
{
    for (size_t i = 0; i < n; i++)
        keep[i] = model->keep == KEEP_ALL;
    if (model->keep == KEEP_TOP) {
        struct ranked *order = new_ranking(delta, n);
        for (uint64_t i = 0; i < model->k; i++)
            keep[order[i].index] = true;
        free(order);
    } else if (model->keep == KEEP_RANDOM) {
        for (size_t i = 0; i < n; i++)
            keep[i] = philox_mask_draw(model->mask_key, i) < model->keep_below;
    }
}

static float reference_l1_scale(const float *delta, const bool *keep, size_t n)
{
    double *all = calloc(n + 1, sizeof *all), *kept = calloc(n + 1, sizeof *kept);
    assert_non_null(all);
    assert_non_null(kept);
    for (size_t i = 0; i < n; i++) {
        all[i] = fabs((double)delta[i]);
        kept[i] = keep[i] ? all[i] : 0.0;
    }
    double a = reference_sum(all, n), k = reference_sum(kept, n);
    free(all);
    free(kept);
    return a < 1e-7 || k < 1e-7 ? 1.0f : (float)(a / k);
}

static void reference_linear(const struct merge_op *op, const struct merge_tile *arrays, void *out)
{
    for (size_t i = 0; i < op->n_elems; i++) {
        float sum = 0.0f;
        for (int m = 0; m < op->n_models; m++) {
            float term = op->models[m].weight * ref_load(arrays->in[m], arrays->in_dtype[m], i);
            sum = m == 0 && !op->sum_from_zero ? term : sum + term;
        }
        ref_store(out, arrays->out_dtype, i, op->normalize ? sum / op->divisor : sum);
    }
}

/* mergekit notes 3.8 and 3.9, in fp32. */
static void reference_task_vector(const struct merge_op *op, const struct merge_tile *arrays, void *out)
{
    size_t n = (size_t)op->n_elems;
    float *values[METHOD_MAX_MODELS];
    bool *keep = calloc(n + 1, sizeof *keep);
    assert_non_null(keep);
    for (int m = 0; m < op->n_models; m++) {
        float *v = values[m] = calloc(n + 1, sizeof *v);
        assert_non_null(v);
        for (size_t i = 0; i < n; i++)
            v[i] = ref_load(arrays->in[m + 1], arrays->in_dtype[m + 1], i) -
                   ref_load(arrays->in[0], arrays->in_dtype[0], i);
        reference_mask(&op->models[m], v, n, keep);
        float scale = op->models[m].scale; /* 1 or 1/density */
        if (op->rescale == RESCALE_L1 && op->models[m].keep != KEEP_ALL && op->models[m].keep != KEEP_NONE)
            scale = reference_l1_scale(v, keep, n);
        for (size_t i = 0; i < n; i++) {
            float masked = keep[i] ? v[i] : 0.0f;
            float scaled = masked * scale;
            v[i] = scaled * op->models[m].weight;
        }
    }
    for (size_t i = 0; i < n; i++) {
        float total = 0.0f, mixed = 0.0f, divisor = 0.0f, base = ref_load(arrays->in[0], arrays->in_dtype[0], i);
        for (int m = 0; m < op->n_models; m++)
            total += values[m][i];
        float major = total >= 0.0f ? 1.0f : -1.0f;
        for (int m = 0; m < op->n_models; m++) {
            float sign = values[m][i] > 0.0f ? 1.0f : values[m][i] < 0.0f ? -1.0f : 0.0f;
            float agrees = !op->consensus || sign == major ? 1.0f : 0.0f;
            mixed += values[m][i] * agrees;
            divisor += op->models[m].weight * agrees;
        }
        if (op->consensus ? divisor == 0.0f : fabsf(divisor) < 1e-8f)
            divisor = 1.0f;
        if (op->normalize)
            mixed /= divisor;
        if (op->lambda != 1.0f)
            mixed *= op->lambda;
        ref_store(out, arrays->out_dtype, i, op->n_models > 0 ? base + mixed : base);
    }
    for (int m = 0; m < op->n_models; m++)
        free(values[m]);
    free(keep);
}

/* ---- one case ----------------------------------------------------------------------------------------------- */

struct arrays {
    struct merge_tile tile;
    void *owned[TILE_MAX_INPUTS], *expected;
    int n_inputs;
};

static void make_arrays(struct arrays *a, size_t n, int n_inputs, const enum wm_dtype *dtypes, enum wm_dtype out_dtype,
                        uint64_t seed)
{
    memset(a, 0, sizeof *a);
    a->n_inputs = n_inputs;
    for (int i = 0; i < n_inputs; i++) {
        a->owned[i] = i == 0 ? new_weights(n, dtypes[0], seed)
                             : new_fine_tune(a->owned[0], dtypes[0], n, dtypes[i], 1e-4, seed + (uint64_t)i);
        a->tile.in[i] = a->owned[i];
        a->tile.in_dtype[i] = dtypes[i];
    }
    for (size_t i = 0; n_inputs > 1 && i < n; i += 5) { /* zeros of both signs, everywhere and in one place */
        ref_store(a->owned[0], dtypes[0], i, i % 2 == 0 ? -0.0f : 0.0f);
        ref_store(a->owned[1], dtypes[1], i, i % 3 == 0 ? -0.0f : ref_load(a->owned[1], dtypes[1], i));
        if (i % 4 == 0)
            for (int m = 1; m < n_inputs; m++)
                ref_store(a->owned[m], dtypes[m], i, -0.0f);
    }
    a->tile.out_dtype = out_dtype;
    a->tile.out = new_array(n, out_dtype);
    a->expected = new_array(n, out_dtype);
}

static void free_arrays(struct arrays *a)
{
    for (int i = 0; i < a->n_inputs; i++)
        free(a->owned[i]);
    free(a->tile.out);
    free(a->expected);
}

static void check(const struct merge_op *prepared, struct arrays *a, const char *what)
{
    static const uint64_t tile_sizes[] = {0, 16384, 32768};
    size_t n = (size_t)prepared->n_elems, width = dtype_width(a->tile.out_dtype);
    if (prepared->family == MERGE_LINEAR)
        reference_linear(prepared, &a->tile, a->expected);
    else
        reference_task_vector(prepared, &a->tile, a->expected);
    for (int isa = 0; isa < N_ISAS; isa++) {
        if (!cpu_isa_force(all_isas[isa]))
            continue;
        for (size_t t = 0; t < sizeof tile_sizes / sizeof tile_sizes[0]; t++) {
            struct run run = {.tile_elems = tile_sizes[t], .n_threads = t == 1 ? 3 : 1, .backwards = t == 2};
            if (UNDER_TSAN && run.n_threads == 1)
                continue;
            struct merge_op op = *prepared;
            char label[160];
            snprintf(label, sizeof label, "%s, n %zu, %s, tile %llu", what, n, cpu_isa(),
                     (unsigned long long)tile_sizes[t]);
            memset(a->tile.out, 0x5a, (n + 1) * width);
            run_op(&op, &a->tile, &run);
            assert_same_elements(a->tile.out, a->expected, a->tile.out_dtype, n, label);
            for (size_t b = n * width; b < (n + 1) * width; b++)
                if (((unsigned char *)a->tile.out)[b] != 0x5a)
                    fail_msg("%s: wrote behind the end", label);
            assert_int_equal(run.report.n_bad_out, 0);
        }
    }
    cpu_isa_force(NULL);
}

#define G -1
struct method_case {
    const char *label, *method;
    bool has_base;
    struct setting settings[8];
};

/* Weights of the models are set by weight_of; settings here are the rest. */
static const struct method_case cases[] = {
    {"linear", "linear", false, {{NULL, 0, 0}}},
    {"linear unnormalized", "linear", false, {{"normalize", 0, G}, {NULL, 0, 0}}},
    {"task arithmetic", "task_arithmetic", true, {{NULL, 0, 0}}},
    {"task arithmetic, lambda", "task_arithmetic", true, {{"lambda", 0.7, G}, {"normalize", 1, G}, {NULL, 0, 0}}},
    {"mergealign", "mergealign", true, {{NULL, 0, 0}}},
    {"ties", "ties", true, {{"density", 0.2, G}, {NULL, 0, 0}}},
    {"ties, mixed densities",
     "ties",
     true,
     {{"density", 0.53, G}, {"density", 1.0, 1}, {"density", 0, 2}, {NULL, 0, 0}}},
    {"ties, lambda", "ties", true, {{"density", 0.8, G}, {"lambda", 1.7, G}, {NULL, 0, 0}}},
    {"ties unnormalized", "ties", true, {{"density", 0.5, G}, {"normalize", 0, G}, {NULL, 0, 0}}},
    {"ties, rescale", "ties", true, {{"density", 0.3, G}, {"rescale", RESCALE_L1, G}, {NULL, 0, 0}}},
    {"ties, 1/density", "ties", true, {{"density", 0.3, G}, {"rescale", RESCALE_INV_DENSITY, G}, {NULL, 0, 0}}},
    {"ties, all kept", "ties", true, {{NULL, 0, 0}}},
    {"dare linear", "dare_linear", true, {{"density", 0.5, G}, {NULL, 0, 0}}},
    {"dare linear, 1/density", "dare_linear", true, {{"density", 0.1, G}, {"rescale", 2, G}, {NULL, 0, 0}}},
    {"dare linear, plain",
     "dare_linear",
     true,
     {{"density", 0.9, G}, {"rescale", 0, G}, {"normalize", 1, G}, {NULL, 0, 0}}},
    {"dare linear, one whole", "dare_linear", true, {{"density", 0.4, G}, {"density", 1.0, 0}, {NULL, 0, 0}}},
    {"dare ties", "dare_ties", true, {{"density", 0.7, G}, {"lambda", 0.5, G}, {NULL, 0, 0}}},
    {"dare ties, normalized", "dare_ties", true, {{"density", 0.7, G}, {"normalize", 1, G}, {NULL, 0, 0}}},
};

static double weight_of(int m)
{
    static const double some[] = {0.6, 0.4, -0.3, 1.25, 0.1};
    int round = m / 5;
    return some[m % 5] + 0.01 * round;
}

static void prepare_case(struct merge_op *op, const struct method_case *c, int n_models, size_t n)
{
    struct setting settings[METHOD_MAX_MODELS + 16];
    int next = 0;
    char message[256] = "";
    for (int m = 0; m < n_models; m++)
        settings[next++] = (struct setting){"weight", weight_of(m), m};
    for (const struct setting *s = c->settings; s->name != NULL; s++)
        settings[next++] = *s;
    settings[next] = (struct setting){NULL, 0, 0};
    enum wm_status st = prepare_op(op, c->method, n_models, c->has_base, 1, n, 42, settings, message);
    if (st != WM_OK)
        fail_msg("%s: %s", c->label, message);
}

static void run_cases(size_t n, int n_models, const enum wm_dtype *dtypes, enum wm_dtype out_dtype)
{
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct arrays a;
        struct merge_op op;
        if (UNDER_TSAN && n <= 16384) /* one tile: one thread */
            continue;
        if (strcmp(cases[c].method, "mergealign") == 0 && n_models < 2)
            continue;
        prepare_case(&op, &cases[c], n_models, n);
        make_arrays(&a, n, n_models + (cases[c].has_base ? 1 : 0), dtypes, out_dtype, 1000 + c);
        check(&op, &a, cases[c].label);
        free_arrays(&a);
    }
}

static void test_shapes(void **state)
{
    static const size_t sizes[] = {0, 1, 7, 31, 32, 33, 65, 1023, 1025, 16383, 16384, 16385, 32767, 32769};
    static const enum wm_dtype bf16[] = {WM_BF16, WM_BF16, WM_BF16, WM_BF16};
    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        run_cases(sizes[s], 2, bf16, WM_BF16);
}

static void test_model_counts(void **state)
{
    enum wm_dtype bf16[TILE_MAX_INPUTS];
    for (int i = 0; i < TILE_MAX_INPUTS; i++)
        bf16[i] = WM_BF16;
    (void)state;
    for (int n_models = 1; n_models <= 5; n_models++)
        run_cases(17000, n_models, bf16, WM_BF16);
    run_cases(2000, 64, bf16, WM_BF16);
}

static void test_dtypes(void **state)
{
    static const enum wm_dtype all[] = {WM_F32, WM_F16, WM_BF16, WM_F64};
    static const enum wm_dtype mixed[] = {WM_BF16, WM_F32, WM_F16, WM_F64};
    (void)state;
    for (int d = 0; d < 4; d++) {
        enum wm_dtype same[] = {all[d], all[d], all[d], all[d]};
        run_cases(16500, 2, same, all[d]);
        run_cases(3000, 3, same, all[(d + 1) % 4]);
        run_cases(3000, 3, mixed, all[d]);
    }
}

static void test_unaligned_data(void **state)
{
    enum { N = 3001 };
    static const enum wm_dtype bf16[] = {WM_BF16, WM_BF16, WM_BF16, WM_BF16};
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct arrays a;
        struct merge_op op;
        struct run run = {0};
        prepare_case(&op, &cases[c], 2, N);
        make_arrays(&a, N, 2 + (cases[c].has_base ? 1 : 0), bf16, WM_BF16, 7);
        if (op.family == MERGE_LINEAR)
            reference_linear(&op, &a.tile, a.expected);
        else
            reference_task_vector(&op, &a.tile, a.expected);
        struct merge_tile odd = a.tile;
        char *moved[4];
        for (int i = 0; i < a.n_inputs; i++) {
            moved[i] = malloc(2 * N + 1);
            assert_non_null(moved[i]);
            memcpy(moved[i] + 1, a.owned[i], 2 * N);
            odd.in[i] = moved[i] + 1;
        }
        char *out = malloc(2 * N + 1);
        assert_non_null(out);
        odd.out = out + 1;
        run_op(&op, &odd, &run);
        memcpy(a.tile.out, out + 1, 2 * N);
        assert_same_elements(a.tile.out, a.expected, WM_BF16, N, cases[c].label);
        for (int i = 0; i < a.n_inputs; i++)
            free(moved[i]);
        free(out);
        free_arrays(&a);
    }
}

/* No method mixes masks, but the driver takes any operation: a tie index cuts a run of draws in two. */
static void test_mixed_masks(void **state)
{
    enum { N = 40001 };
    static const enum wm_dtype bf16[] = {WM_BF16, WM_BF16, WM_BF16, WM_BF16};
    struct merge_op op;
    struct arrays a;
    (void)state;
    for (uint64_t k = 3000; k < N; k += 5001) {
        prepare_case(&op, &cases[5], 3, N);
        op.models[0].k = k;
        op.models[1].keep = KEEP_RANDOM;
        op.models[1].keep_below = 30000;
        op.models[1].mask_key = 77;
        op.models[2].keep = KEEP_NONE;
        make_arrays(&a, N, 4, bf16, WM_BF16, k);
        check(&op, &a, "mixed masks");
        free_arrays(&a);
    }
}

/* Exact answers without a reference: passthrough copies bits, a base without task vectors is copied. */
static void test_copies(void **state)
{
    enum { N = 65536 };
    char message[256];
    struct merge_op op;
    uint16_t *x = new_array(N, WM_BF16), *out = new_array(N, WM_BF16);
    (void)state;
    for (size_t i = 0; i < N; i++)
        x[i] = (uint16_t)((i & 0x7fffu) > 0x7f80u ? 0x7fc0u : i); /* every value; NaN canonical */
    struct merge_tile tile = {.in = {x}, .in_dtype = {WM_BF16}, .out = out, .out_dtype = WM_BF16};
    struct run run = {.tile_elems = 16384};
    assert_int_equal(prepare_op(&op, "passthrough", 1, false, 256, 256, 0, NULL, message), WM_OK);
    run_op(&op, &tile, &run);
    assert_same_elements(out, x, WM_BF16, N, "passthrough");
    static const char *const with_base[] = {"ties", "task_arithmetic", "dare_ties", "nuslerp"};
    for (size_t i = 0; i < 4; i++) {
        memset(out, 0, 2 * N);
        assert_int_equal(prepare_op(&op, with_base[i], 0, true, 256, 256, 0, NULL, message), WM_OK);
        run_op(&op, &tile, &run);
        assert_same_elements(out, x, WM_BF16, N, with_base[i]);
    }
    free(x);
    free(out);
}

/* passthrough with a scale, and the sign of zero: linear gives +0 (torch.sum), passthrough keeps -0. */
static void test_zero_signs(void **state)
{
    char message[256];
    struct merge_op op;
    float x[2] = {-0.0f, -3.0f}, out[2];
    struct merge_tile tile = {.in = {x}, .in_dtype = {WM_F32}, .out = out, .out_dtype = WM_F32};
    struct run run = {0};
    static const struct setting half[] = {{"scale", 0.5, G}, {NULL, 0, 0}}, one[] = {{"weight", 1.0, G}, {NULL, 0, 0}};
    (void)state;
    assert_int_equal(prepare_op(&op, "passthrough", 1, false, 1, 2, 0, half, message), WM_OK);
    run_op(&op, &tile, &run);
    assert_true(signbit(out[0]) && out[0] == 0.0f && out[1] == -1.5f);
    assert_int_equal(prepare_op(&op, "linear", 1, false, 1, 2, 0, one, message), WM_OK);
    run_op(&op, &tile, &run);
    assert_true(!signbit(out[0]) && out[0] == 0.0f && out[1] == -3.0f);
}

/* A hand-made vote: total 0 counts as plus, zeros never agree, no agreeing weight divides by 1. */
static void test_vote_by_hand(void **state)
{
    char message[256];
    struct merge_op op;
    /* element:          tie -> plus   both minus   one zero     all zero   outvoted */
    float base[5] = {10.0f, 10.0f, 10.0f, 10.0f, 10.0f};
    float x1[5] = {12.0f, 8.0f, 10.0f, 10.0f, 11.0f};
    float x2[5] = {8.0f, 4.0f, 7.0f, 10.0f, 6.0f};
    float out[5];
    static const float expected[5] = {12.0f, 6.0f, 7.0f, 10.0f, 6.0f};
    static const struct setting settings[] = {{"weight", 0.5, G}, {NULL, 0, 0}};
    struct merge_tile tile = {
        .in = {base, x1, x2}, .in_dtype = {WM_F32, WM_F32, WM_F32}, .out = out, .out_dtype = WM_F32};
    struct run run = {0};
    (void)state;
    assert_int_equal(prepare_op(&op, "ties", 2, true, 1, 5, 0, settings, message), WM_OK);
    run_op(&op, &tile, &run);
    for (int i = 0; i < 5; i++)
        assert_true(out[i] == expected[i]);
}

static void test_convert(void **state);

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),      cmocka_unit_test(test_model_counts), cmocka_unit_test(test_dtypes),
        cmocka_unit_test(test_mixed_masks), cmocka_unit_test(test_copies),       cmocka_unit_test(test_unaligned_data),
        cmocka_unit_test(test_zero_signs),  cmocka_unit_test(test_vote_by_hand), cmocka_unit_test(test_convert),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* ---- plain conversion --------------------------------------------------------------------------------------- */

#include "convert/convert.h"

static void test_convert(void **state)
{
    static const enum wm_dtype all[] = {WM_F32, WM_F16, WM_BF16, WM_F64};
    enum { N = 3333 };
    (void)state;
    for (int isa = 0; isa < N_ISAS; isa++)
        for (int from = 0; cpu_isa_force(all_isas[isa]) && from < 4; from++)
            for (int to = 0; to < 4; to++) {
                void *in = new_weights(N, all[from], 5), *out = new_array(N, all[to]),
                     *expected = new_array(N, all[to]);
                for (size_t i = 0; i < N; i++)
                    ref_store(expected, all[to], i, ref_load(in, all[from], i));
                cpu_convert_tile(in, all[from], out, all[to], N);
                assert_same_elements(out, expected, all[to], N, "convert");
                free(in);
                free(out);
                free(expected);
            }
    cpu_isa_force(NULL);
}
