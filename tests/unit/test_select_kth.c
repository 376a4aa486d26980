/* The k-th magnitude: threshold and tie index equal those of a full stable sort, for every kind of distribution, tile
 * size, thread count, tile order and instruction set. */
#include "kernel_harness.h"

struct ranked {
    uint32_t magnitude;
    size_t index;
};

static int by_rank(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->magnitude != y->magnitude)
        return x->magnitude > y->magnitude ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

static struct ranked *new_ranking(const void *base, const void *x, enum wm_dtype dtype, size_t n)
{
    struct ranked *order = malloc((n + 1) * sizeof *order);
    assert_non_null(order);
    for (size_t i = 0; i < n; i++) {
        float magnitude = fabsf(ref_load(x, dtype, i) - ref_load(base, dtype, i));
        memcpy(&order[i].magnitude, &magnitude, 4);
        order[i].index = i;
    }
    qsort(order, n, sizeof *order, by_rank);
    return order;
}

/* Of the elements equal to the k-th, those up to its index are kept; all of them: any index from the last one on. */
static void check_model(const struct merge_model *model, const struct ranked *order, size_t n, const char *label)
{
    const struct ranked *last = &order[model->k - 1];
    bool more_equal = model->k < n && order[model->k].magnitude == last->magnitude;
    if (model->threshold != last->magnitude)
        fail_msg("%s: threshold %08x, expected %08x", label, model->threshold, last->magnitude);
    if (more_equal ? model->tie_index != last->index : model->tie_index < last->index)
        fail_msg("%s: tie index %llu, expected %zu", label, (unsigned long long)model->tie_index, last->index);
}

static void check(const void *base, void *const *x, int n_models, enum wm_dtype dtype, size_t n, const uint64_t *k,
                  const char *what)
{
    static const struct run runs[] = {{.tile_elems = 0},
                                      {.tile_elems = 16384},
                                      {.tile_elems = 16384, .n_threads = 4},
                                      {.tile_elems = 16384, .backwards = true},
                                      {.tile_elems = 49152, .n_threads = 3, .backwards = true}};
    struct ranked *order[METHOD_MAX_MODELS];
    for (int m = 0; m < n_models; m++)
        order[m] = new_ranking(base, x[m], dtype, n);
    for (int isa = 0; isa < N_ISAS; isa++)
        for (size_t r = 0; cpu_isa_force(all_isas[isa]) && r < sizeof runs / sizeof runs[0]; r++) {
            struct merge_op op = {.method = method_find("ties"),
                                  .family = MERGE_TASK_VECTOR,
                                  .has_base = true,
                                  .n_models = n_models,
                                  .n_elems = n,
                                  .n_rows = 1,
                                  .row_elems = n};
            struct merge_tile arrays = {.in = {base}, .in_dtype = {dtype}};
            struct run run = runs[r];
            char label[160];
            snprintf(label, sizeof label, "%s, n %zu, k %llu, %s, run %zu", what, n, (unsigned long long)k[0],
                     all_isas[isa], r);
            for (int m = 0; m < n_models; m++) {
                arrays.in[m + 1] = x[m];
                arrays.in_dtype[m + 1] = dtype;
                op.models[m] = (struct merge_model){.weight = 1, .scale = 1, .keep = KEEP_TOP, .k = k[m]};
            }
            run_op(&op, &arrays, &run);
            for (int m = 0; m < n_models; m++)
                check_model(&op.models[m], order[m], n, label);
        }
    cpu_isa_force(NULL);
    for (int m = 0; m < n_models; m++)
        free(order[m]);
}

enum kind { SMOOTH, BF16_DELTAS, COARSE_DELTAS, ALL_EQUAL, ALL_ZERO, TWO_VALUES, MANY_IN_ONE_BIN, WIDE, SORTED, LATE };

static const char *const kind_names[] = {"smooth fp32", "bf16 deltas",         "coarse bf16 deltas", "all equal",
                                         "all zero",    "two values",          "many in one bin",    "whole range",
                                         "ascending",   "only the last tenth"};

/* Deltas of the kind, as base + x of fp32 (or bf16 for the bf16 kinds). */
static void *new_deltas(enum kind kind, const void *base, enum wm_dtype dtype, size_t n, uint64_t seed)
{
    void *x = new_array(n, dtype);
    for (size_t i = 0; i < n; i++) {
        double b = (double)ref_load(base, dtype, i), u = random_unit(&seed), normal = random_normal(&seed);
        uint32_t bits = (uint32_t)random_u64(&seed) & 0x7f7fffffu;
        float whole;
        memcpy(&whole, &bits, 4);
        double value = 0;
        switch (kind) {
        case SMOOTH: value = b + 0.001 * normal; break;
        case BF16_DELTAS: value = b + 1e-4 * normal; break;
        case COARSE_DELTAS: value = b + 2e-5 * normal; break;
        case ALL_EQUAL: value = u < 0.5 ? -0.25 : 0.25; break;
        case ALL_ZERO: value = b; break;
        case TWO_VALUES: value = u < 0.3 ? 0.5 : u < 0.4 ? -0.5 : 0.25; break;
        case MANY_IN_ONE_BIN: value = 1.0 + (double)(bits % 20000) * 0x1p-23; break;
        case WIDE: value = (double)whole; break;
        case SORTED: value = (double)i * 1e-6; break;
        case LATE: value = i < n - n / 10 ? 0.0 : normal; break;
        }
        ref_store(x, dtype, i, (float)value);
    }
    return x;
}

static bool is_bf16_kind(enum kind kind)
{
    return kind == BF16_DELTAS || kind == COARSE_DELTAS;
}

/* Kinds whose delta is given directly want a zero base. */
static void *new_base(enum kind kind, size_t n)
{
    enum wm_dtype dtype = is_bf16_kind(kind) ? WM_BF16 : WM_F32;
    return kind == SMOOTH || kind == ALL_ZERO || is_bf16_kind(kind) ? new_weights(n, dtype, 77) : new_array(n, dtype);
}

static void test_kinds(void **state)
{
    (void)state;
    for (int kind = SMOOTH; kind <= LATE; kind++) {
        size_t n = 100003;
        const uint64_t ks[] = {1, 2, n / 10, n / 5, n / 2, n - n / 10, n - 2, n - 1};
        enum wm_dtype dtype = is_bf16_kind((enum kind)kind) ? WM_BF16 : WM_F32;
        void *base = new_base((enum kind)kind, n);
        void *x = new_deltas((enum kind)kind, base, dtype, n, 11 + (uint64_t)kind);
        for (size_t k = 0; k < sizeof ks / sizeof ks[0]; k++)
            check(base, &x, 1, dtype, n, &ks[k], kind_names[kind]);
        free(base);
        free(x);
    }
}

static void test_small_tensors(void **state)
{
    static const size_t sizes[] = {2, 3, 7, 31, 32, 33, 65, 1025};
    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (int kind = SMOOTH; kind <= LATE; kind++) {
            size_t n = sizes[s];
            enum wm_dtype dtype = is_bf16_kind((enum kind)kind) ? WM_BF16 : WM_F32;
            void *base = new_base((enum kind)kind, n);
            void *x = new_deltas((enum kind)kind, base, dtype, n, 5);
            for (uint64_t k = 1; k < n; k += 1 + n / 20)
                check(base, &x, 1, dtype, n, &k, kind_names[kind]);
            free(base);
            free(x);
        }
}

/* Several models at once, more than are counted in one walk, with different k and different needs. */
static void test_many_models(void **state)
{
    enum { N_MODELS = 6, N = 80000 };
    void *base = new_array(N, WM_F32), *x[N_MODELS];
    uint64_t k[N_MODELS];
    static const enum kind kinds[N_MODELS] = {SMOOTH, ALL_EQUAL, MANY_IN_ONE_BIN, TWO_VALUES, SORTED, ALL_ZERO};
    (void)state;
    for (int m = 0; m < N_MODELS; m++) {
        x[m] = new_deltas(kinds[m], base, WM_F32, N, 100 + (uint64_t)m);
        k[m] = 1000 + 12000 * (uint64_t)m;
    }
    check(base, x, N_MODELS, WM_F32, N, k, "six models");
    free(base);
    for (int m = 0; m < N_MODELS; m++)
        free(x[m]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kinds), cmocka_unit_test(test_small_tensors),
                                       cmocka_unit_test(test_many_models)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
