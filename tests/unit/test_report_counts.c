/* What the element-wise pass reports: NaN and infinity per input, overflow of results, each with its first element,
 * exactly, for any tile size, thread count and instruction set; and what becomes of such elements. */
#include "kernel_harness.h"

#define G -1

enum { N = 50000, N_INPUTS = 4 };

struct expected {
    uint64_t n_bad_in[N_INPUTS], first_bad_in[N_INPUTS], n_bad_out, first_bad_out;
};

static void note(uint64_t *n, uint64_t *first, size_t i)
{
    if ((*n)++ == 0)
        *first = i;
}

static void assert_report(const struct merge_report *got, const struct expected *want, int n_inputs, const char *label)
{
    for (int i = 0; i < n_inputs; i++) {
        if (got->n_bad_in[i] != want->n_bad_in[i])
            fail_msg("%s: input %d has %llu bad, expected %llu", label, i, (unsigned long long)got->n_bad_in[i],
                     (unsigned long long)want->n_bad_in[i]);
        if (want->n_bad_in[i] != 0)
            assert_true(got->first_bad_in[i] == want->first_bad_in[i]);
    }
    if (got->n_bad_out != want->n_bad_out)
        fail_msg("%s: %llu results overflow, expected %llu", label, (unsigned long long)got->n_bad_out,
                 (unsigned long long)want->n_bad_out);
    if (want->n_bad_out != 0)
        assert_true(got->first_bad_out == want->first_bad_out);
}

static const struct {
    const char *method;
    bool has_base;
    enum wm_dtype in, out;
    double density;
} cases[] = {
    {"linear", false, WM_BF16, WM_BF16, 1},       {"linear", false, WM_F16, WM_F16, 1},
    {"linear", false, WM_F32, WM_BF16, 1},        {"linear", false, WM_F64, WM_F32, 1},
    {"ties", true, WM_BF16, WM_BF16, 0.5},        {"ties", true, WM_F32, WM_F16, 0.3},
    {"task_arithmetic", true, WM_F16, WM_F16, 1}, {"dare_linear", true, WM_BF16, WM_BF16, 0.5},
};

static bool is_finite_at(const void *data, enum wm_dtype dtype, size_t i)
{
    return isfinite(ref_load(data, dtype, i));
}

/* Inputs with NaN and infinity here and there, runs of them, one in the last element; also elements that overflow. */
static void test_counts(void **state)
{
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        uint64_t seed = 40 + c;
        int n_inputs = cases[c].has_base ? N_INPUTS : N_INPUTS - 1, n_models = N_INPUTS - 1;
        struct expected want = {{0}, {0}, 0, 0};
        struct merge_tile arrays = {.out = new_array(N, cases[c].out), .out_dtype = cases[c].out};
        void *owned[N_INPUTS];
        for (int i = 0; i < n_inputs; i++) {
            arrays.in[i] = owned[i] = new_weights(N, cases[c].in, seed + (uint64_t)i);
            arrays.in_dtype[i] = cases[c].in;
        }
        for (int bad = 0; bad < 120; bad++) {
            size_t i = bad == 0 ? N - 1 : bad == 1 ? 0 : (size_t)(random_u64(&seed) % N);
            static const float values[] = {NAN, INFINITY, -INFINITY};
            int input = (int)(random_u64(&seed) % (uint64_t)n_inputs);
            for (size_t r = i; r < N && r < i + (size_t)(bad % 7 == 0 ? 70 : 1); r++)
                ref_store(owned[input], cases[c].in, r, values[bad % 3]);
        }
        struct setting settings[] = {
            {"weight", 1.0, G}, {"density", cases[c].density, G}, {"rescale", 0, G}, {NULL, 0, 0}};
        if (!cases[c].has_base)
            settings[1].name = NULL;
        for (int i = 0; i < n_inputs; i++)
            for (size_t e = 0; e < N; e++)
                if (!is_finite_at(owned[i], cases[c].in, e))
                    note(&want.n_bad_in[i], &want.first_bad_in[i], e);
        for (int isa = 0; isa < N_ISAS; isa++)
            for (int r = 0; cpu_isa_force(all_isas[isa]) && r < 3; r++) {
                struct run run = {.tile_elems = r == 0 ? 0 : 16384, .n_threads = r + 1, .backwards = r == 1};
                struct merge_op op;
                char message[256];
                assert_int_equal(
                    prepare_op(&op, cases[c].method, n_models, cases[c].has_base, 1, N, 3, settings, message), WM_OK);
                run_op(&op, &arrays, &run);
                assert_report(&run.report, &want, n_inputs, cases[c].method);
                for (size_t e = 0; e < N; e++) { /* a bad input shows in the result, a good one does not */
                    bool good = true;
                    for (int i = 0; i < n_inputs; i++)
                        good &= is_finite_at(owned[i], cases[c].in, e);
                    float result = ref_load(arrays.out, cases[c].out, e);
                    assert_true(good ? isfinite(result) : cases[c].has_base ? isnan(result) : !isfinite(result));
                }
            }
        cpu_isa_force(NULL);
        for (int i = 0; i < n_inputs; i++)
            free(owned[i]);
        free(arrays.out);
    }
}

/* Finite inputs, results beyond the output type: by the final cast, by the arithmetic, and just not. */
static void test_overflow(void **state)
{
    static const struct {
        enum wm_dtype in, out;
        double weight, largest_kept, smallest_lost;
    } casts[] = {
        {WM_F32, WM_F16, 1.0, 65519.99, 65520.0},       {WM_F32, WM_BF16, 1.0, 0x1.fefffep127, 0x1.ffp127},
        {WM_BF16, WM_BF16, 2.0, 0x1.fep126, 0x1.0p127}, {WM_F32, WM_F32, 2.0, 0x1.fffffep126, 0x1.0p127},
        {WM_F64, WM_F32, 1.0, F32_LARGEST, 0x1p128},    {WM_F64, WM_F64, 1.0, F32_LARGEST, 1e300},
    };
    enum { M = 20000 };
    (void)state;
    for (size_t c = 0; c < sizeof casts / sizeof casts[0]; c++) {
        struct expected want = {{0}, {0}, 0, 0};
        struct setting settings[] = {{"weight", casts[c].weight, G}, {"normalize", 0, G}, {NULL, 0, 0}};
        void *x = new_array(M, casts[c].in);
        for (size_t i = 0; i < M; i++) {
            double value = i % 997 == 5 ? casts[c].smallest_lost : casts[c].largest_kept;
            if (casts[c].in == WM_F64)
                memcpy((char *)x + 8 * i, &value, 8);
            else
                ref_store(x, casts[c].in, i, (float)(i % 2 == 0 ? value : -value));
            if (i % 997 == 5)
                note(&want.n_bad_out, &want.first_bad_out, i);
        }
        struct merge_tile arrays = {
            .in = {x}, .in_dtype = {casts[c].in}, .out = new_array(M, casts[c].out), .out_dtype = casts[c].out};
        for (int isa = 0; isa < N_ISAS; isa++)
            for (int r = 0; cpu_isa_force(all_isas[isa]) && r < 2; r++) {
                struct run run = {.tile_elems = r == 0 ? 0 : 16384, .n_threads = r + 1};
                struct merge_op op;
                char message[256];
                assert_int_equal(prepare_op(&op, "linear", 1, false, 1, M, 0, settings, message), WM_OK);
                run_op(&op, &arrays, &run);
                assert_report(&run.report, &want, 1, "overflow");
            }
        cpu_isa_force(NULL);
        free(x);
        free(arrays.out);
    }
}

/* The sum of reports does not depend on their order. */
static void test_adding_reports(void **state)
{
    struct merge_report a, b, sum, other;
    (void)state;
    merge_report_init(&a);
    merge_report_init(&b);
    a.n_bad_in[2] = 3;
    a.first_bad_in[2] = 100;
    b.n_bad_in[2] = 1;
    b.first_bad_in[2] = 7;
    b.n_bad_out = 2;
    b.first_bad_out = 50;
    merge_report_init(&sum);
    merge_report_add(&sum, &a);
    merge_report_add(&sum, &b);
    merge_report_init(&other);
    merge_report_add(&other, &b);
    merge_report_add(&other, &a);
    assert_memory_equal(&sum, &other, sizeof sum);
    assert_true(sum.n_bad_in[2] == 4 && sum.first_bad_in[2] == 7 && sum.n_bad_out == 2 && sum.first_bad_out == 50);
    assert_true(sum.n_bad_in[0] == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_counts), cmocka_unit_test(test_overflow),
                                       cmocka_unit_test(test_adding_reports)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
