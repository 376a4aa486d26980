/* A search for k-th magnitudes that a CUDA device ends alone finds the CPU's thresholds and tie indexes, over data that is
 * hard on histograms and at every edge of tiles. Runs on a GPU, or on the CPU with the kernels compiled for it. */
#include "device_cases.h"
#include "statistics/statistics.h"

enum { CHUNK = TILE_CHUNK_ELEMS, MAX_TILES = 8 };

/* ---- data --------------------------------------------------------------------------------------------------- */

enum fill {
    USUAL, /* few distinct deltas, as of a bf16 fine-tune */
    ALL_ZERO,
    ALL_EQUAL,
    ONE_LARGE, /* ... in the middle of zeros */
    RISING,    /* no two deltas are equal */
    FALLING,
    ONE_BIN,  /* all in one coarse bin, with low bits of every kind */
    AT_ENDS,  /* equal ones at the first and last element of every tile alone, larger ones between */
    WITH_NAN, /* and infinities */
    N_FILLS
};
static const char *const fill_names[N_FILLS] = {"usual",   "all zero", "all equal", "one large", "rising",
                                                "falling", "one bin",  "at ends",   "with NaN"};

static float delta_at(enum fill fill, uint64_t i, uint64_t n, uint64_t tile_elems, int m)
{
    const uint64_t in_tile = i % tile_elems;
    uint64_t draw = (i + 1) * 0x9E3779B97F4A7C15u * (uint64_t)(2 * m + 1);

    draw ^= draw >> 29;
    switch (fill) {
    case USUAL: return (float)(int)(draw % 13) * 0x1p-9f * (draw & 64 ? 1.0f : -1.0f);
    case ALL_ZERO: return 0.0f;
    case ALL_EQUAL: return draw & 64 ? 0.375f : -0.375f;
    case ONE_LARGE: return i == n / 2 ? 4e4f : 0.0f;
    case RISING: return (float)(i + 1) * 0x1p-20f;
    case FALLING: return (float)(n - i) * 0x1p-20f;
    case ONE_BIN: return 1.0f + (float)(draw % 32768) * 0x1p-23f;
    case AT_ENDS: return in_tile == 0 || in_tile == tile_elems - 1 || i == n - 1 ? 0.5f : 1.0f + (float)(i % 3);
    default: return i % 13 == 0 ? NAN : i % 17 == 0 ? INFINITY : i % 19 == 0 ? -INFINITY : (float)(draw % 7);
    }
}

/* One tensor: on the host in one piece, on the device every tile of every input by itself. */
struct tensor {
    uint64_t n_elems, tile_elems;
    size_t n_tiles, misalign;
    int n_inputs;
    struct merge_tile arrays;
    void *allocations[MAX_TILES][TILE_MAX_INPUTS];
    const void *table[MAX_TILES][TILE_MAX_INPUTS]; /* rows of n_inputs once it is packed */
};

/* Base zero: deltas are what is stored, rounded to its type. */
static void tensor_init(struct tensor *x, enum fill fill, const struct dtype_case *types, int n_models)
{
    x->n_tiles = (size_t)((x->n_elems + x->tile_elems - 1) / x->tile_elems);
    x->n_inputs = n_models + 1;
    x->arrays = (struct merge_tile){.n_elems = (size_t)x->n_elems};
    assert_true(x->n_tiles <= MAX_TILES);
    for (int i = 0; i < x->n_inputs; i++) {
        enum wm_dtype dtype = i == 0 ? types->base : types->models[(i - 1) % 3];
        void *data = new_array((size_t)x->n_elems, dtype);
        for (uint64_t e = 0; e < x->n_elems; e++)
            ref_store(data, dtype, (size_t)e, i == 0 ? 0.0f : delta_at(fill, e, x->n_elems, x->tile_elems, i));
        x->arrays.in[i] = data;
        x->arrays.in_dtype[i] = dtype;
    }
}

static struct merge_tile tile_at(const struct tensor *x, size_t index)
{
    const uint64_t first = index * x->tile_elems;
    struct merge_tile tile = x->arrays;

    tile.index = index;
    tile.first_elem = first;
    tile.n_elems = (size_t)(x->n_elems - first < x->tile_elems ? x->n_elems - first : x->tile_elems);
    for (int i = 0; i < x->n_inputs; i++)
        tile.in[i] = (const char *)tile.in[i] + first * dtype_width(tile.in_dtype[i]);
    return tile;
}

static void tensor_upload(struct tensor *x)
{
    for (size_t t = 0; t < x->n_tiles; t++) {
        struct merge_tile tile = tile_at(x, t);
        for (int i = 0; i < x->n_inputs; i++) {
            size_t n_bytes = tile.n_elems * dtype_width(tile.in_dtype[i]);
            void **at = &x->allocations[t][i];
            CHECK_CUDA(cudaMalloc(at, n_bytes + x->misalign));
            upload((char *)*at + x->misalign, tile.in[i], n_bytes);
            (&x->table[0][0])[t * (size_t)x->n_inputs + (size_t)i] = (char *)*at + x->misalign;
        }
    }
}

static void tensor_release(struct tensor *x)
{
    for (int i = 0; i < x->n_inputs; i++) {
        for (size_t t = 0; t < x->n_tiles; t++)
            CHECK_CUDA(cudaFree(x->allocations[t][i]));
        free((void *)x->arrays.in[i]);
    }
}

/* ---- both ways ---------------------------------------------------------------------------------------------- */

static void search_on_cpu(const struct tensor *x, struct merge_op *op)
{
    struct statistics *s = statistics_new(op, x->tile_elems);
    struct cpu_scratch *scratch = cpu_scratch_new();

    assert_non_null(s);
    assert_non_null(scratch);
    while (statistics_pass(s) != STAT_READY) {
        for (size_t t = 0; t < x->n_tiles; t++) {
            struct merge_tile tile = tile_at(x, t);
            if (statistics_needs_tile(s, t))
                cpu_statistics_tile(op, s, &tile, scratch);
        }
        statistics_finish_pass(s, op);
    }
    cpu_scratch_free(scratch);
    statistics_free(s);
}

/* COARSE from the last tile on, then the search; no other pass may follow. */
static void search_on_device(const struct tensor *x, struct merge_op *op, const char *what)
{
    struct statistics *s = statistics_new(op, x->tile_elems);
    struct device_select plan;
    cudaStream_t stream;
    char *results;
    void *choices;

    assert_non_null(s);
    statistics_avoid_repeats(s);
    device_select_plan(op, s, &plan);
    if (plan.n_result_bytes == 0)
        fail_msg("%s: the device does not search", what);
    choices = malloc((size_t)plan.n_choice_bytes);
    assert_non_null(choices);
    CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK_CUDA(cudaMalloc((void **)&results, (size_t)plan.n_result_bytes));
    CHECK_CUDA(cudaMemsetAsync(results, 0, (size_t)plan.n_result_bytes, stream));
    for (size_t t = x->n_tiles; t-- > 0;) {
        struct merge_tile tile = tile_at(x, t);
        memcpy(tile.in, &x->table[0][0] + t * (size_t)x->n_inputs, (size_t)x->n_inputs * sizeof *tile.in);
        CHECK_CUDA(device_pass_launch(op, s, &tile, results, stream));
    }
    assert_int_equal(plan.n_table_bytes, x->n_tiles * (size_t)x->n_inputs * sizeof(void *));
    CHECK_CUDA(
        cudaMemcpyAsync(results + plan.table_at, x->table, (size_t)plan.n_table_bytes, cudaMemcpyHostToDevice, stream));
    CHECK_CUDA(device_select_launch(s, &plan, &x->table[0][0], x->arrays.in_dtype, results, stream));
    CHECK_CUDA(cudaMemcpyAsync(choices, results + plan.choices_at, (size_t)plan.n_choice_bytes, cudaMemcpyDeviceToHost,
                               stream));
    CHECK_CUDA(cudaStreamSynchronize(stream));
    device_select_collect(s, choices);
    assert_int_equal(statistics_finish_pass(s, op), STAT_READY);
    statistics_free(s);
    CHECK_CUDA(cudaFree(results));
    CHECK_CUDA(cudaStreamDestroy(stream));
    free(choices);
}

static void check(struct tensor *x, enum fill fill, const struct dtype_case *types, const uint64_t *ks, int n_models)
{
    static const struct setting settings[MAX_SETTINGS] = {GLOBAL("weight", 0.5), GLOBAL("density", 0.5)};
    static unsigned n_cases;
    struct merge_op op, cpu_op;
    char message[256] = "", what[256];

    if (n_cases++ % EVERY != 0)
        return;
    snprintf(what, sizeof what, "%s, %s, %llu elements in tiles of %llu, %zu bytes off, k %llu ...", fill_names[fill],
             types->name, (unsigned long long)x->n_elems, (unsigned long long)x->tile_elems, x->misalign,
             (unsigned long long)ks[0]);
    assert_int_equal(prepare_op(&op, "ties", n_models, true, 1, x->n_elems, 9, settings, message), WM_OK);
    for (int m = 0; m < n_models; m++)
        op.models[m].k = ks[m];
    cpu_op = op;
    tensor_init(x, fill, types, n_models);
    tensor_upload(x);
    search_on_cpu(x, &cpu_op);
    search_on_device(x, &op, what);
    assert_same_op(&op, &cpu_op, what);
    tensor_release(x);
}

/* ---- tests -------------------------------------------------------------------------------------------------- */

/* Every kind of data, with ranks at both ends and between, in tensors of several tiles; types in turn. */
static void hard_data(void **state)
{
    const uint64_t n = 3 * (uint64_t)CHUNK + 333;
    const uint64_t ks[][3] = {{1, n - 1, n / 2}, {2, n / 3, n - 2}, {n / 10, 7, CHUNK}};
    size_t turn = 0;

    (void)state;
    for (int fill = 0; fill < N_FILLS; fill++)
        for (size_t k = 0; k < 3; k++, turn++) {
            struct tensor x = {.n_elems = n, .tile_elems = CHUNK};
            check(&x, (enum fill)fill, &dtype_cases[k == 0 ? 2 : turn % N_DTYPE_CASES], ks[k], 3);
        }
}

/* The last kept one of the equal elements is the last of a tile, the first of the next, the last of all but one. */
static void ties_at_the_ends_of_tiles(void **state)
{
    static const uint64_t tile_elems[] = {CHUNK, 2 * CHUNK, 3 * CHUNK};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct tensor x = {.n_elems = 5 * (uint64_t)CHUNK + 1, .tile_elems = tile_elems[i]};
        const uint64_t n_equal = 2 * ((x.n_elems + x.tile_elems - 1) / x.tile_elems) - (x.n_elems % x.tile_elems == 1);
        for (uint64_t kept = 1; kept < n_equal; kept++) {
            const uint64_t k = x.n_elems - n_equal + kept;
            check(&x, AT_ENDS, &dtype_cases[(i + kept) % 2 == 0 ? 0 : 2], &k, 1);
        }
        for (uint64_t k = tile_elems[i] - 1; k <= tile_elems[i] + 1; k++)
            check(&x, ALL_EQUAL, &dtype_cases[1], &k, 1);
    }
}

/* One tile, several, and a last one of every small size; addresses that are not aligned; many models. */
static void shapes(void **state)
{
    static const uint64_t tails[] = {1, 7, 8, 9, 31, 33, CHUNK - 1};
    static const size_t misaligns[] = {0, 1, 2, 8, 0, 4, 16};

    (void)state;
    for (size_t i = 0; i < 7; i++) {
        const uint64_t n = (1 + i % 3) * CHUNK + tails[i], ks[] = {n / 2, n / 5};
        struct tensor several = {.n_elems = n, .tile_elems = CHUNK, .misalign = misaligns[i]};
        check(&several, USUAL, &dtype_cases[i], ks, 2);
    }
    for (size_t i = 0; i < 4; i++) { /* above what WHOLE takes */
        struct tensor one = {.n_elems = KTH_WHOLE_ELEMS + tails[i], .tile_elems = 5 * CHUNK, .misalign = misaligns[i]};
        const uint64_t ks[] = {one.n_elems / 2, 1};
        check(&one, i % 2 == 0 ? USUAL : ONE_BIN, &dtype_cases[i], ks, 2);
    }
    uint64_t ks[METHOD_MAX_MODELS];
    struct tensor many = {.n_elems = CHUNK + 99, .tile_elems = CHUNK};
    for (uint64_t m = 0; m < METHOD_MAX_MODELS; m++)
        ks[m] = 1 + 250 * m;
    check(&many, USUAL, &dtype_cases[0], ks, METHOD_MAX_MODELS);
}

/* Chunks in ranges of several for the last kernel, and more of them than blocks: several a block. */
static void many_chunks(void **state)
{
    struct tensor x = {.n_elems = 600 * (uint64_t)CHUNK + 5, .tile_elems = 100 * CHUNK};
    const uint64_t ks[] = {x.n_elems / 2, x.n_elems - 3 * CHUNK};

    (void)state;
    if (EVERY > 1)
        skip();
    check(&x, USUAL, &dtype_cases[0], ks, 2);
    check(&x, ONE_BIN, &dtype_cases[2], ks, 1);
}

/* The host searches where tiles are other processes', and where a pass is not COARSE. */
static bool no_reduce(void *user, uint64_t *words, size_t n_words)
{
    (void)user;
    (void)words;
    (void)n_words;
    return false;
}

static void what_the_device_leaves_alone(void **state)
{
    static const struct setting settings[MAX_SETTINGS] = {GLOBAL("weight", 0.5), GLOBAL("density", 0.5)};
    struct device_select plan;
    struct statistics *s;
    struct merge_op op;
    char message[256];

    (void)state;
    assert_int_equal(prepare_op(&op, "ties", 2, true, 1, 20 * CHUNK, 9, settings, message), WM_OK);
    s = statistics_new(&op, CHUNK);
    assert_non_null(s);
    device_select_plan(&op, s, &plan);
    assert_true(plan.n_result_bytes > device_pass_bytes(&op, s));
    statistics_speculate(s);
    device_select_plan(&op, s, &plan);
    assert_int_equal(plan.n_result_bytes, 0);
    statistics_free(s);
    s = statistics_new(&op, CHUNK);
    assert_non_null(s);
    statistics_share(s, no_reduce, NULL);
    device_select_plan(&op, s, &plan);
    assert_int_equal(plan.n_result_bytes, 0);
    statistics_free(s);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(hard_data),   cmocka_unit_test(ties_at_the_ends_of_tiles),    cmocka_unit_test(shapes),
        cmocka_unit_test(many_chunks), cmocka_unit_test(what_the_device_leaves_alone),
    };
    int n_devices = 0;
    if (cudaGetDeviceCount(&n_devices) != cudaSuccess || n_devices == 0) {
        printf("skipped: no CUDA device here\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
