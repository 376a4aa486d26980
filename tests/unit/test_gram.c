/* slerp and nuslerp: coefficients from the Gram matrix of the tensor, of its rows or of its columns equal a reference in
 * double precision, and the bytes do not depend on tiles, threads or instruction set. */
#include "kernel_harness.h"

#define G -1

/* ---- references, in double --------------------------------------------------------------------------------- */

struct pair_sums {
    double aa, ab, bb;
};

static void slerp_weights(struct pair_sums s, double t, double w[2])
{
    double na = sqrt(s.aa), nb = sqrt(s.bb), d = s.ab;
    d /= na > 1e-8 ? na : 1.0;
    d /= nb > 1e-8 ? nb : 1.0;
    w[0] = 1 - t;
    w[1] = t;
    if (fabs(d) <= 0.9995) {
        w[0] = sin(acos(d) * (1 - t)) / sin(acos(d));
        w[1] = sin(acos(d) * t) / sin(acos(d));
    }
}

static void nuslerp_weights(struct pair_sums s, double t, double w[2])
{
    double d = s.ab / (fmax(sqrt(s.aa), 1e-7) * fmax(sqrt(s.bb), 1e-7));
    double a = acos(fmin(fmax(d, -1.0), 1.0));
    w[0] = 1 - t;
    w[1] = t;
    if (fabs(sin(a)) >= 1e-6) {
        w[0] = sin((1 - t) * a) / sin(a);
        w[1] = sin(t * a) / sin(a);
    }
}

enum vectors { WHOLE, ROWS, COLUMNS };

struct gram_case {
    const char *label;
    bool nuslerp, has_base;
    enum vectors vectors;
    double t; /* nuslerp: weights 1 - t and t */
    uint64_t n_rows, row_elems;
};

static size_t vector_of(const struct gram_case *c, size_t i)
{
    return c->vectors == WHOLE ? 0 : c->vectors == ROWS ? i / (size_t)c->row_elems : i % (size_t)c->row_elems;
}

/* What the result should be, unrounded; also how large its terms are. */
static void reference(const struct gram_case *c, const struct merge_tile *arrays, double *expected, double *size)
{
    size_t n = (size_t)(c->n_rows * c->row_elems);
    struct pair_sums *sums = calloc(n + 1, sizeof *sums);
    assert_non_null(sums);
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < n; i++) {
            float base = c->has_base ? ref_load(arrays->in[0], arrays->in_dtype[0], i) : 0.0f;
            const int first = c->has_base ? 1 : 0;
            /* deltas are fp32 by definition: rounding them is part of the method, and small angles feel it */
            double a = (double)(ref_load(arrays->in[first], arrays->in_dtype[first], i) - base);
            double b = (double)(ref_load(arrays->in[first + 1], arrays->in_dtype[first + 1], i) - base);
            double w[2];
            struct pair_sums *s = &sums[vector_of(c, i)];
            if (pass == 0) {
                s->aa += a * a;
                s->ab += a * b;
                s->bb += b * b;
                continue;
            }
            if (c->nuslerp)
                nuslerp_weights(*s, c->t, w);
            else
                slerp_weights(*s, c->t, w);
            expected[i] = (double)base + (w[0] * a + w[1] * b);
            size[i] = fabs((double)base) + fabs(w[0] * a) + fabs(w[1] * b);
        }
    free(sums);
}

static void prepare(struct merge_op *op, const struct gram_case *c)
{
    char message[256] = "";
    const struct setting slerp[] = {{"t", c->t, G}, {NULL, 0, 0}};
    const struct setting nuslerp[] = {{"weight", 1 - c->t, 0},
                                      {"weight", c->t, 1},
                                      {"nuslerp_flatten", c->vectors == WHOLE, G},
                                      {"nuslerp_row_wise", c->vectors == COLUMNS, G},
                                      {NULL, 0, 0}};
    if (prepare_op(op, c->nuslerp ? "nuslerp" : "slerp", 2, c->has_base, c->n_rows, c->row_elems, 0,
                   c->nuslerp ? nuslerp : slerp, message) != WM_OK)
        fail_msg("%s: %s", c->label, message);
}

static void check(const struct gram_case *c, struct merge_tile *arrays)
{
    static const struct run runs[] = {{.tile_elems = 0},
                                      {.tile_elems = 16384},
                                      {.tile_elems = 16384, .n_threads = 3, .backwards = true},
                                      {.tile_elems = 49152}};
    size_t n = (size_t)(c->n_rows * c->row_elems), width = dtype_width(arrays->out_dtype);
    double *expected = calloc(n + 1, sizeof *expected), *size = calloc(n + 1, sizeof *size);
    unsigned char *first = NULL;
    assert_non_null(expected);
    assert_non_null(size);
    reference(c, arrays, expected, size);
    for (int isa = 0; isa < N_ISAS; isa++)
        for (size_t r = 0; cpu_isa_force(all_isas[isa]) && r < sizeof runs / sizeof runs[0]; r++) {
            struct merge_op op;
            struct run run = runs[r];
            prepare(&op, c);
            memset(arrays->out, 0, n * width);
            run_op(&op, arrays, &run);
            for (size_t i = 0; i < n; i++) {
                double got = (double)ref_load(arrays->out, arrays->out_dtype, i);
                /* three fp32 roundings of terms of this size (one of them the weight's) and the output's rounding */
                double unit = arrays->out_dtype == WM_BF16 ? 0x1p-8 : 0x1p-24;
                if (!(fabs(got - expected[i]) <= size[i] * 4 * 0x1p-24 + fabs(expected[i]) * unit + 1e-37))
                    fail_msg("%s, %zu, %s, run %zu: element %zu is %a, expected %a (%g)", c->label, n, cpu_isa(), r, i,
                             got, expected[i], size[i]);
            }
            if (first == NULL) {
                first = malloc(n * width + 1);
                assert_non_null(first);
                memcpy(first, arrays->out, n * width);
            }
            assert_same_elements(arrays->out, first, arrays->out_dtype, n, c->label);
        }
    cpu_isa_force(NULL);
    free(first);
    free(expected);
    free(size);
}

/* ---- random tensors of many shapes -------------------------------------------------------------------------- */

static void test_shapes(void **state)
{
    static const struct gram_case cases[] = {
        {"slerp", false, false, WHOLE, 0.35, 1, 1},
        {"slerp", false, false, WHOLE, 0.35, 33, 65},
        {"slerp", false, false, WHOLE, 0.0, 7, 31},
        {"slerp", false, false, WHOLE, 1.5, 129, 517},
        {"slerp, a tile + 1", false, false, WHOLE, 0.5, 1, 16385},
        {"nuslerp", true, false, WHOLE, 0.3, 64, 300},
        {"nuslerp, base", true, true, WHOLE, 0.7, 129, 517},
        {"nuslerp, rows", true, false, ROWS, 0.4, 33, 1},
        {"nuslerp, rows", true, false, ROWS, 0.4, 5, 7},
        {"nuslerp, rows", true, false, ROWS, 0.4, 200, 333},
        {"nuslerp, long rows", true, true, ROWS, 0.4, 3, 40000},
        {"nuslerp, rows, base", true, true, ROWS, 0.2, 64, 1024},
        {"nuslerp, columns", true, false, COLUMNS, 0.4, 200, 333},
        {"nuslerp, columns, base", true, true, COLUMNS, 0.9, 77, 1025},
        {"nuslerp, columns", true, true, COLUMNS, 0.9, 3, 40000},
        {"nuslerp, columns", true, false, COLUMNS, 0.9, 40000, 3},
    };
    static const enum wm_dtype dtypes[] = {WM_F32, WM_BF16};
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++)
        for (int d = 0; d < 2; d++) {
            size_t n = (size_t)(cases[c].n_rows * cases[c].row_elems);
            void *base = new_weights(n, dtypes[d], c);
            void *a = new_fine_tune(base, dtypes[d], n, dtypes[d], 0.01, c + 100);
            void *b = new_fine_tune(base, dtypes[d], n, dtypes[d], 0.03, c + 200);
            struct merge_tile arrays = {.out = new_array(n, dtypes[d]), .out_dtype = dtypes[d]};
            int next = 0;
            if (cases[c].has_base)
                arrays.in[next++] = base;
            arrays.in[next++] = a;
            arrays.in[next++] = b;
            for (int i = 0; i < next; i++)
                arrays.in_dtype[i] = dtypes[d];
            check(&cases[c], &arrays);
            free(base);
            free(a);
            free(b);
            free(arrays.out);
        }
}

/* ---- special vectors ---------------------------------------------------------------------------------------- */

enum { N = 4096 };

/* b = factor * a + noise, with a possibly zero. */
static void special(bool nuslerp, enum vectors vectors, double a_size, double factor, double noise, const char *label)
{
    struct gram_case c = {label, nuslerp, false, vectors, 0.25, 64, N / 64};
    float *a = new_array(N, WM_F32), *b = new_array(N, WM_F32);
    uint64_t seed = 6;
    for (int i = 0; i < N; i++) {
        a[i] = (float)(a_size * random_normal(&seed));
        b[i] = (float)(factor * (double)a[i] + noise * random_normal(&seed));
    }
    struct merge_tile arrays = {
        .in = {a, b}, .in_dtype = {WM_F32, WM_F32}, .out = new_array(N, WM_F32), .out_dtype = WM_F32};
    check(&c, &arrays);
    free(a);
    free(b);
    free(arrays.out);
}

static void test_special_vectors(void **state)
{
    (void)state;
    for (int v = WHOLE; v <= COLUMNS; v++) {
        special(true, (enum vectors)v, 1, -1, 0, "antiparallel: the straight line");
        special(true, (enum vectors)v, 1, 2, 0, "parallel");
        special(true, (enum vectors)v, 0, 1, 1, "zero and not: orthogonal");
        special(true, (enum vectors)v, 0, 1, 0, "both zero");
        special(true, (enum vectors)v, 1e-9, 1, 1e-9, "tiny");
        special(true, (enum vectors)v, 1, 0, 1, "unrelated");
    }
    special(false, WHOLE, 1, -1, 0, "antiparallel");
    special(false, WHOLE, 1, 1, 0, "identical");
    special(false, WHOLE, 0, 1, 1, "zero and not");
    special(false, WHOLE, 1, 1, 0.01, "above the cut-off");
    special(false, WHOLE, 1, 1, 0.05, "below the cut-off");
    special(false, WHOLE, 1e-12, 1, 1e-12, "norms not divided by");
}

/* Answers that can be written down: orthogonal unit vectors at t = 1/2 give both times sin 45 / sin 90. */
static void test_by_hand(void **state)
{
    float a[2] = {1, 0}, b[2] = {0, 1}, out[2];
    struct merge_tile arrays = {.in = {a, b}, .in_dtype = {WM_F32, WM_F32}, .out = out, .out_dtype = WM_F32};
    static const struct gram_case half = {"half", false, false, WHOLE, 0.5, 1, 2};
    struct merge_op op;
    struct run run = {0};
    char message[256];
    (void)state;
    prepare(&op, &half);
    run_op(&op, &arrays, &run);
    assert_true(out[0] == (float)sqrt(0.5) && out[1] == (float)sqrt(0.5));
    /* nuslerp: weights that cancel mean t = 1/2; identical vectors stay as they are */
    static const struct setting cancel[] = {{"weight", 1, 0}, {"weight", -1, 1}, {NULL, 0, 0}};
    float same[2] = {3, 4};
    assert_int_equal(prepare_op(&op, "nuslerp", 2, false, 1, 2, 0, cancel, message), WM_OK);
    run_op(&op, &arrays, &run);
    assert_true(out[0] == (float)sqrt(0.5) && out[1] == (float)sqrt(0.5));
    arrays.in[0] = arrays.in[1] = same;
    assert_int_equal(prepare_op(&op, "nuslerp", 2, false, 1, 2, 0, cancel, message), WM_OK);
    run_op(&op, &arrays, &run);
    assert_true(out[0] == 3 && out[1] == 4);
}

/* Only one model has the tensor: it is copied. */
static void test_one_model(void **state)
{
    float x[2] = {-0.0f, 2.5f}, out[2];
    struct merge_tile arrays = {.in = {x}, .in_dtype = {WM_F32}, .out = out, .out_dtype = WM_F32};
    static const struct setting t[] = {{"t", 0.5, G}, {NULL, 0, 0}};
    struct merge_op op;
    struct run run = {0};
    char message[256];
    (void)state;
    assert_int_equal(prepare_op(&op, "slerp", 1, false, 1, 2, 0, t, message), WM_OK);
    run_op(&op, &arrays, &run);
    assert_same_elements(out, x, WM_F32, 2, "slerp of one");
    assert_int_equal(prepare_op(&op, "nuslerp", 1, false, 1, 2, 0, NULL, message), WM_OK);
    run_op(&op, &arrays, &run);
    assert_same_elements(out, x, WM_F32, 2, "nuslerp of one");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_special_vectors),
                                       cmocka_unit_test(test_by_hand), cmocka_unit_test(test_one_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
