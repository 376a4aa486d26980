/* The k-th magnitude: threshold and tie index equal those of a full stable sort, for every kind of distribution, tile
 * size, thread count, tile order and instruction set. */
#include "kernel_reference.h"

static struct ranked *new_delta_ranking(const void *base, const void *x, enum wm_dtype dtype, size_t n)
{
    float *delta = malloc((n + 1) * sizeof *delta);
    assert_non_null(delta);
    for (size_t i = 0; i < n; i++)
        delta[i] = ref_load(x, dtype, i) - ref_load(base, dtype, i);
    struct ranked *order = new_ranking(delta, n);
    free(delta);
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

struct tensors {
    const void *base;
    void *const *x;
    int n_models;
    enum wm_dtype dtype;
    size_t n;
    const uint64_t *k; /* [n_models] */
    const char *what;
};

static void run_once(const struct tensors *t, struct ranked *const *order, struct run *run)
{
    struct merge_op op = {.method = method_find("ties"),
                          .family = MERGE_TASK_VECTOR,
                          .has_base = true,
                          .n_models = t->n_models,
                          .n_elems = t->n,
                          .n_rows = 1,
                          .row_elems = t->n};
    struct merge_tile arrays = {.in = {t->base}, .in_dtype = {t->dtype}};
    char label[160];
    snprintf(label, sizeof label, "%s, n %zu, k %llu, %s, tile %llu, %d threads%s", t->what, t->n,
             (unsigned long long)t->k[0], cpu_isa(), (unsigned long long)run->tile_elems, run->n_threads,
             run->backwards ? ", backwards" : "");
    for (int m = 0; m < t->n_models; m++) {
        arrays.in[m + 1] = t->x[m];
        arrays.in_dtype[m + 1] = t->dtype;
        op.models[m] = (struct merge_model){.weight = 1, .scale = 1, .keep = KEEP_TOP, .k = t->k[m]};
    }
    run_op(&op, &arrays, run);
    for (int m = 0; m < t->n_models; m++)
        check_model(&op.models[m], order[m], t->n, label);
}

static void check(const struct tensors *t, struct ranked *const *order)
{
    static const struct run runs[] = {{.tile_elems = 0},
                                      {.tile_elems = 16384},
                                      {.tile_elems = 16384, .avoid_repeats = true},
                                      {.tile_elems = 32768, .n_threads = 4},
                                      {.tile_elems = 49152, .n_threads = 3, .backwards = true}};
    for (int isa = 0; isa < N_ISAS; isa++)
        for (size_t r = 0; cpu_isa_force(all_isas[isa]) && r < sizeof runs / sizeof runs[0]; r++) {
            struct run run = runs[r];
            if (UNDER_TSAN && run.n_threads == 0)
                continue;
            run_once(t, order, &run);
        }
    cpu_isa_force(NULL);
}

enum kind {
    SMOOTH,
    BF16_DELTAS,
    COARSE_DELTAS,
    ALL_EQUAL,
    ALL_ZERO,
    TWO_VALUES,
    MANY_IN_ONE_BIN,
    WIDE,
    SORTED,
    EDGES,
    LATE,
    UNLUCKY
};

static const char *const kind_names[] = {"smooth fp32",
                                         "bf16 deltas",
                                         "coarse bf16 deltas",
                                         "all equal",
                                         "all zero",
                                         "two values",
                                         "many in one bin",
                                         "whole range",
                                         "ascending",
                                         "edges of bins and atoms",
                                         "only the last tenth",
                                         "a sample unlike the rest"};

/* Two heavy values, and light ones that are their neighbours or the first and last of a bin (15 low bits). */
static double edge_value(double u, uint32_t bits)
{
    static const uint32_t light[] = {0x3f000001u, 0x3effffffu, 0x3f007fffu, 0x3f008000u, 0x3f400001u,
                                     0x3f3fffffu, 0x3f407fffu, 0x3f408000u, 0x3efeffffu, 0x3f410000u};
    uint32_t chosen = u < 0.4 ? 0x3f000000u : u < 0.8 ? 0x3f400000u : light[bits % 10];
    float value;
    memcpy(&value, &chosen, 4);
    return (double)value;
}

/* Tiles that a guess is made from (KTH_SAMPLE_TILES, evenly spread), with tiles of 16,384 elements. */
static bool is_sampled(size_t tile, size_t n)
{
    size_t n_tiles = (n + 16383) / 16384;
    for (size_t row = 0; row < 8; row++)
        if ((2 * row + 1) * n_tiles / 16 == tile)
            return true;
    return false;
}

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
        case EDGES: value = edge_value(u, bits); break;
        case LATE: value = i < n - n / 10 ? 0.0 : normal; break;
        case UNLUCKY: value = is_sampled(i / 16384, n) ? 0.25 : 0.5 + 0.25 * (double)(bits % 3); break;
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

/* Small enough for one histogram, and large enough for a sample and a bracket. */
static void test_kinds(void **state)
{
    static const size_t sizes[] = {20003, 140007};
    (void)state;
    for (int kind = SMOOTH; kind <= UNLUCKY; kind++)
        for (int s = 0; s < 2; s++) {
            size_t n = sizes[s];
            const uint64_t ks[] = {1, n / 20, n / 2, n - n / 10, n - 1};
            enum wm_dtype dtype = is_bf16_kind((enum kind)kind) ? WM_BF16 : WM_F32;
            void *base = new_base((enum kind)kind, n);
            void *x = new_deltas((enum kind)kind, base, dtype, n, 11 + (uint64_t)kind);
            struct ranked *order = new_delta_ranking(base, x, dtype, n);
            for (size_t k = 0; k < sizeof ks / sizeof ks[0]; k++) {
                struct tensors t = {base, &x, 1, dtype, n, &ks[k], kind_names[kind]};
                check(&t, &order);
            }
            free(base);
            free(x);
            free(order);
        }
}

static void test_small_tensors(void **state)
{
    static const size_t sizes[] = {2, 3, 7, 31, 32, 33, 65, 1025};
    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (int kind = SMOOTH; kind <= UNLUCKY; kind++) {
            size_t n = sizes[s];
            enum wm_dtype dtype = is_bf16_kind((enum kind)kind) ? WM_BF16 : WM_F32;
            void *base = new_base((enum kind)kind, n);
            void *x = new_deltas((enum kind)kind, base, dtype, n, 5);
            struct ranked *order = new_delta_ranking(base, x, dtype, n);
            for (uint64_t k = 1; k < n; k += 1 + n / 5) {
                struct tensors t = {base, &x, 1, dtype, n, &k, kind_names[kind]};
                check(&t, &order);
            }
            free(base);
            free(x);
            free(order);
        }
}

/* Every rank near the places where one value gives way to the next: the counts around atoms and edges are exact. */
static void test_boundaries(void **state)
{
    enum { N = 140000 };
    void *base = new_array(N, WM_F32), *x = new_deltas(EDGES, base, WM_F32, N, 8);
    struct ranked *order = new_delta_ranking(base, x, WM_F32, N);
    (void)state;
    for (size_t i = 1; i + 1 < N && !UNDER_TSAN; i++)
        for (uint64_t k = i; k < i + 2 && order[i].magnitude != order[i - 1].magnitude; k++) {
            struct tensors t = {base, &x, 1, WM_F32, N, &k, "boundary"};
            struct run run = {.tile_elems = 32768};
            run_once(&t, &order, &run);
        }
    free(base);
    free(x);
    free(order);
}

/* Several models at once, more than are counted in one walk, with different k and different needs: some end after the
 * first pass, some have lost their bet, some need every pass. */
static void test_many_models(void **state)
{
    enum { N_MODELS = 6 };
    static const size_t sizes[] = {40000, 140000};
    static const enum kind kinds[N_MODELS] = {SMOOTH, ALL_EQUAL, MANY_IN_ONE_BIN, TWO_VALUES, LATE, ALL_ZERO};
    (void)state;
    for (int s = 0; s < 2; s++) {
        size_t n = sizes[s];
        void *base = new_array(n, WM_F32), *x[N_MODELS];
        struct ranked *order[N_MODELS];
        uint64_t k[N_MODELS];
        for (int m = 0; m < N_MODELS; m++) {
            x[m] = new_deltas(kinds[m], base, WM_F32, n, 100 + (uint64_t)m);
            k[m] = 1000 + n / 7 * (uint64_t)m;
            order[m] = new_delta_ranking(base, x[m], WM_F32, n);
        }
        struct tensors t = {base, x, N_MODELS, WM_F32, n, k, "six models"};
        check(&t, order);
        free(base);
        for (int m = 0; m < N_MODELS; m++) {
            free(x[m]);
            free(order[m]);
        }
    }
}

/* The bet on a sample pays: bf16 deltas need one walk and a look into one tile. A first tile that is unlike the rest
 * costs a second walk and no more, and none where repeats are to be avoided. */
static void test_passes(void **state)
{
    enum { N = 140000 };
    static const struct {
        uint64_t k;
        enum kind kind;
        int n_coarse, n_fine;
        bool avoid_repeats;
    } table[] = {{N / 2, BF16_DELTAS, 1, 0, false},    {N / 2, BF16_DELTAS, 1, 1, true},
                 {N / 20, COARSE_DELTAS, 1, 0, false}, {N / 2, ALL_ZERO, 1, 0, false},
                 {N / 5, TWO_VALUES, 1, 0, false},     {N / 2, SMOOTH, 1, 1, false},
                 {N / 20, LATE, 2, 1, false},          {N / 20, LATE, 1, 1, true}};
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        enum wm_dtype dtype = is_bf16_kind(table[i].kind) ? WM_BF16 : WM_F32;
        void *base = new_base(table[i].kind, N), *x = new_deltas(table[i].kind, base, dtype, N, 3);
        struct ranked *order = new_delta_ranking(base, x, dtype, N);
        struct tensors t = {base, &x, 1, dtype, N, &table[i].k, kind_names[table[i].kind]};
        struct run run = {.tile_elems = 32768, .avoid_repeats = table[i].avoid_repeats};
        run_once(&t, &order, &run);
        if (run.n_passes[STAT_KTH_COARSE] != table[i].n_coarse || run.n_passes[STAT_KTH_FINE] != table[i].n_fine)
            fail_msg("%s: %d coarse and %d fine passes", t.what, run.n_passes[STAT_KTH_COARSE],
                     run.n_passes[STAT_KTH_FINE]);
        free(base);
        free(x);
        free(order);
    }
}

/* ---- speculation -------------------------------------------------------------------------------------------- */

/* One model or two through the plain passes and with a guess: thresholds, tie indexes and every output byte are the same. */
static size_t compare_guess(enum kind kind, int n_models, const uint64_t *k, size_t n, const struct run *way)
{
    enum wm_dtype dtype = is_bf16_kind(kind) ? WM_BF16 : WM_F32;
    void *base = new_base(kind, n), *out[2] = {new_array(n, dtype), new_array(n, dtype)}, *x[2];
    struct run runs[2] = {{.tile_elems = way->tile_elems}, *way};
    struct merge_op ops[2];
    for (int m = 0; m < n_models; m++)
        x[m] = new_deltas(kind, base, dtype, n, 21 + (uint64_t)m);
    for (int r = 0; r < 2; r++) {
        struct merge_tile arrays = {.in = {base}, .in_dtype = {dtype}, .out = out[r], .out_dtype = dtype};
        ops[r] = (struct merge_op){.method = method_find("ties"),
                                   .family = MERGE_TASK_VECTOR,
                                   .has_base = true,
                                   .n_models = n_models,
                                   .n_elems = n,
                                   .n_rows = 1,
                                   .row_elems = n,
                                   .consensus = true,
                                   .normalize = true,
                                   .lambda = 1,
                                   .divisor = 1};
        for (int m = 0; m < n_models; m++) {
            arrays.in[m + 1] = x[m];
            arrays.in_dtype[m + 1] = dtype;
            ops[r].models[m] = (struct merge_model){.weight = 1, .scale = 1, .keep = KEEP_TOP, .k = k[m]};
        }
        runs[r].speculate = r == 1;
        run_op(&ops[r], &arrays, &runs[r]);
    }
    for (int m = 0; m < n_models; m++)
        if (ops[0].models[m].threshold != ops[1].models[m].threshold ||
            ops[0].models[m].tie_index != ops[1].models[m].tie_index)
            fail_msg("%s, k %llu, model %d: guess ends with %08x up to %llu, the plain passes with %08x up to %llu",
                     kind_names[kind], (unsigned long long)k[0], m, ops[1].models[m].threshold,
                     (unsigned long long)ops[1].models[m].tie_index, ops[0].models[m].threshold,
                     (unsigned long long)ops[0].models[m].tie_index);
    assert_same_elements(out[1], out[0], dtype, n, kind_names[kind]);
    for (int m = 0; m < n_models; m++)
        free(x[m]);
    free(out[0]);
    free(out[1]);
    free(base);
    return runs[1].n_stood;
}

static void test_guesses(void **state)
{
    enum { N = 16384 * 17 + 77 };
    static const struct run ways[N_ISAS < 3 ? 3 : N_ISAS] = {
        {.tile_elems = 16384, .n_threads = 4, .backwards = true}, {.tile_elems = 16384},
        {
            .tile_elems = 16384, .n_threads = 2
        }
    };
    (void)state;
    for (int isa = 0; isa < N_ISAS; isa++)
        for (int kind = SMOOTH; kind <= UNLUCKY && cpu_isa_force(all_isas[isa]); kind += UNDER_TSAN ? 4 : 1) {
            const uint64_t ks[][2] = {{1, N - 1}, {N / 5, N / 20}, {N - N / 10, N / 3}};
            for (size_t i = 0; i < sizeof ks / sizeof ks[0]; i++)
                compare_guess((enum kind)kind, 2, ks[i], N, &ways[isa]);
            compare_guess((enum kind)kind, 1, ks[1], N, &ways[isa]);
        }
    cpu_isa_force(NULL);
}

/* A good guess leaves little to do, a bad one everything; in a tensor too small for a sample, and where no value holds
 * much, none is made. */
static void test_guess_pays(void **state)
{
    enum { N = 16384 * 64, SMALL = 16384 * 15 };
    const uint64_t k = N / 5, small_k = SMALL / 5;
    const struct run way = {.tile_elems = 16384};
    (void)state;
    assert_true(compare_guess(BF16_DELTAS, 1, &k, N, &way) >= 56);
    assert_int_equal(compare_guess(ALL_ZERO, 1, &k, N, &way), 64);
    assert_int_equal(compare_guess(UNLUCKY, 1, &k, N, &way), 0);
    assert_int_equal(compare_guess(SMOOTH, 1, &k, N, &way), 0);
    assert_int_equal(compare_guess(BF16_DELTAS, 1, &small_k, SMALL, &way), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kinds),       cmocka_unit_test(test_small_tensors),
                                       cmocka_unit_test(test_many_models), cmocka_unit_test(test_boundaries),
                                       cmocka_unit_test(test_passes),      cmocka_unit_test(test_guesses),
                                       cmocka_unit_test(test_guess_pays)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
