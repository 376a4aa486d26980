/* Sums over elements: L1 norms and dot products equal, to the last bit of fp64, a sum in the documented order, for any
 * number of elements, tile size, thread order and instruction set. */
#include "kernel_reference.h"

#include "common/philox.h"
#include "statistics/statistics.h"

/* Runs the only pass of `op` and adds its chunks up as statistics_finish_pass would. */
static void sums_of(const struct merge_op *op, const struct merge_tile *arrays, uint64_t tile_elems, bool backwards,
                    double *sums, int n_sums)
{
    struct statistics *s = statistics_new(op, tile_elems);
    struct cpu_scratch *scratch = cpu_scratch_new();
    assert_non_null(s);
    assert_non_null(scratch);
    for (size_t t = 0; t < s->n_tiles; t++) {
        struct merge_tile tile = *arrays;
        tile.index = backwards ? s->n_tiles - 1 - t : t;
        tile.first_elem = tile.index * tile_elems;
        tile.n_elems =
            (size_t)(op->n_elems - tile.first_elem < tile_elems ? op->n_elems - tile.first_elem : tile_elems);
        for (int i = 0; i < merge_op_n_inputs(op); i++)
            tile.in[i] = (const char *)tile.in[i] + tile.first_elem * dtype_width(tile.in_dtype[i]);
        cpu_statistics_tile(op, s, &tile, scratch);
    }
    double *chunks = statistics_pass(s) == STAT_L1 ? s->l1 : s->gram;
    for (int i = 0; i < n_sums; i++)
        sums[i] = fixed_sum_tree(chunks + (size_t)i * s->n_chunks, s->n_chunks);
    cpu_scratch_free(scratch);
    statistics_free(s);
}

static const size_t sizes[] = {1, 7, 31, 33, 65, 511, 513, 1025, 16383, 16385, 40000, 65537, 130001};
enum { N_SIZES = sizeof sizes / sizeof sizes[0] };

static void check(const struct merge_op *op, const struct merge_tile *arrays, const double *expected, int n_sums)
{
    static const uint64_t tiles[] = {16384, 32768, 1 << 20};
    for (int isa = 0; isa < N_ISAS; isa++)
        for (int t = 0; cpu_isa_force(all_isas[isa]) && t < 3; t++) {
            double sums[3];
            sums_of(op, arrays, tiles[t], t == 0, sums, n_sums);
            for (int i = 0; i < n_sums; i++)
                if (sums[i] != expected[i])
                    fail_msg("%zu elements, %s: sum %d is %a, expected %a", (size_t)op->n_elems, cpu_isa(), i, sums[i],
                             expected[i]);
        }
    cpu_isa_force(NULL);
}

static void test_l1(void **state)
{
    (void)state;
    for (int i = 0; i < N_SIZES; i++) {
        size_t n = sizes[i];
        char message[256];
        struct merge_op op;
        float *base = new_weights(n, WM_F32, 1), *x = new_fine_tune(base, WM_F32, n, WM_F32, 0.01, 2);
        double *terms = calloc(n, sizeof *terms), expected[2];
        assert_non_null(terms);
        static const struct setting half[] = {{"weight", 1, -1}, {"density", 0.5, -1}, {NULL, 0, 0}};
        assert_int_equal(prepare_op(&op, "dare_linear", 1, true, 1, n, 9, half, message), WM_OK);
        for (size_t e = 0; e < n; e++)
            terms[e] = fabs((double)(x[e] - base[e]));
        expected[0] = reference_sum(terms, n);
        for (size_t e = 0; e < n; e++)
            if (philox_mask_draw(op.models[0].mask_key, e) >= op.models[0].keep_below)
                terms[e] = 0.0;
        expected[1] = reference_sum(terms, n);
        struct merge_tile arrays = {.in = {base, x}, .in_dtype = {WM_F32, WM_F32}};
        check(&op, &arrays, expected, 2);
        free(base);
        free(x);
        free(terms);
    }
}

static void test_dot_products(void **state)
{
    (void)state;
    for (int i = 0; i < N_SIZES; i++) {
        size_t n = sizes[i];
        char message[256];
        struct merge_op op;
        float *a = new_weights(n, WM_F32, 1), *b = new_weights(n, WM_F32, 2);
        double *terms = calloc(n, sizeof *terms), expected[3];
        assert_non_null(terms);
        static const struct setting t[] = {{"t", 0.5, -1}, {NULL, 0, 0}};
        assert_int_equal(prepare_op(&op, "slerp", 2, false, 1, n, 0, t, message), WM_OK);
        for (int p = 0; p < 3; p++) { /* aa, ab, bb */
            for (size_t e = 0; e < n; e++)
                terms[e] = (double)(p < 2 ? a : b)[e] * (double)(p < 1 ? a : b)[e];
            expected[p] = reference_sum(terms, n);
        }
        struct merge_tile arrays = {.in = {a, b}, .in_dtype = {WM_F32, WM_F32}};
        check(&op, &arrays, expected, 3);
        free(a);
        free(b);
        free(terms);
    }
}

/* The tree over chunks, by hand. */
static void test_tree(void **state)
{
    double values[6] = {1e16, 1, -1e16, 1, 3, 5};
    (void)state;
    assert_true(fixed_sum_tree(values, 0) == 0.0);
    assert_true(fixed_sum_tree(values, 1) == 1e16);
    /* three pairs, then two of their sums, the third moving up as it is */
    double left = 1e16 + 1.0, right = -1e16 + 1.0;
    assert_true(fixed_sum_tree(values, 6) == (left + right) + 8.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_l1), cmocka_unit_test(test_dot_products),
                                       cmocka_unit_test(test_tree)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
