/* The passes over a whole model on a CUDA device count what the CPU counts, count by count: every element type, alignment,
 * size and kind of data, several tensors and models. Runs on a GPU, or on the pretended device. */
#include "device_cases.h"

#include "statistics/model_statistics.h"
#include "statistics/statistics.h"

enum { CHUNK = TILE_CHUNK_ELEMS, MAX_TENSORS = 6, MAX_MODELS = METHOD_MAX_MODELS, GUARD_COUNTS = 8 };
#define GUARD 0x5a5a5a5a5a5a5a5au

/* ---- one survey on both sides ----------------------------------------------------------------------------------- */

struct tensor {
    struct merge_op op;
    struct merge_tile host, device; /* all of it */
    void *owned[TILE_MAX_INPUTS], *allocations[TILE_MAX_INPUTS];
};

struct model_case {
    const char *what;
    int n_models;
    struct setting settings[6];
    uint64_t sizes[MAX_TENSORS]; /* 0 ends them */
    const struct dtype_case *types[MAX_TENSORS];
    enum pattern pattern;
    size_t misalign;
    uint64_t tile_elems;
    int first_index; /* of the operation's models in the recipe, which go down from it; 0: they go up from 0 */
};

/* What all cases together must have met, or they test less than they say. */
static struct {
    uint64_t plus, minus, cancelled, neither;
    int n_thresholds, n_whole, n_none;
} met;

static void make_tensor(const struct model_case *c, int t, struct tensor *x)
{
    struct setting settings[8] = {{"trim", 1.0, -1}};
    const struct dtype_case *types = c->types[t];
    char message[256] = "";
    size_t n = (size_t)c->sizes[t];

    memcpy(settings + 1, c->settings, sizeof c->settings);
    memset(x, 0, sizeof *x);
    if (prepare_op(&x->op, "ties", c->n_models, true, 1, n, 0, settings, message) != WM_OK)
        fail_msg("%s", message);
    assert_true(x->op.model_statistics);
    x->host.n_elems = n;
    x->host.in[0] = x->owned[0] = new_weights(n, types->base, 1 + (uint64_t)t);
    x->host.in_dtype[0] = types->base;
    for (int m = 0; m < c->n_models; m++) {
        x->host.in_dtype[m + 1] = types->models[m % 3];
        x->host.in[m + 1] = x->owned[m + 1] =
            new_model(c->pattern, x->host.in[0], types->base, n, types->models[m % 3], m);
        if (c->first_index)
            x->op.models[m].index = c->first_index - m;
    }
    x->device = x->host;
    for (int i = 0; i <= c->n_models; i++) {
        size_t n_bytes = n * dtype_width(x->host.in_dtype[i]);
        CHECK_CUDA(cudaMalloc(&x->allocations[i], n_bytes + c->misalign));
        x->device.in[i] = (char *)x->allocations[i] + c->misalign;
        upload((char *)x->allocations[i] + c->misalign, x->host.in[i], n_bytes);
    }
}

static void free_tensor(struct tensor *x)
{
    for (int i = 0; i < merge_op_n_inputs(&x->op); i++) {
        CHECK_CUDA(cudaFree(x->allocations[i]));
        free(x->owned[i]);
    }
}

static bool tile_at(const struct merge_tile *whole, int n_inputs, uint64_t first, uint64_t tile_elems,
                    struct merge_tile *tile)
{
    if (first >= whole->n_elems)
        return false;
    *tile = *whole;
    tile->first_elem = first;
    tile->n_elems = whole->n_elems - first < tile_elems ? whole->n_elems - first : tile_elems;
    for (int i = 0; i < n_inputs; i++)
        tile->in[i] = (const char *)whole->in[i] + first * dtype_width(whole->in_dtype[i]);
    return true;
}

static void cpu_pass(const struct model_case *c, const struct tensor *tensors, int n_tensors,
                     struct model_statistics *ms)
{
    struct cpu_scratch *scratch = cpu_scratch_new();
    struct merge_tile tile;

    assert_non_null(scratch);
    for (int t = 0; t < n_tensors; t++)
        for (uint64_t first = 0; tile_at(&tensors[t].host, c->n_models + 1, first, c->tile_elems, &tile);
             first += c->tile_elems)
            cpu_model_statistics_tile(&tensors[t].op, ms, &tile, scratch);
    cpu_scratch_free(scratch);
}

/* The counts, with guards around them; backwards, since no order may show. */
static void device_pass(const struct model_case *c, const struct tensor *tensors, int n_tensors,
                        struct model_statistics *ms, uint64_t *counts, size_t n_counts)
{
    const size_t n_bytes = (n_counts + 2 * GUARD_COUNTS) * sizeof *counts;
    cudaStream_t stream;
    struct merge_tile tile;
    uint64_t *device;

    memset(counts, 0, n_bytes);
    for (int i = 0; i < GUARD_COUNTS; i++)
        counts[i] = counts[GUARD_COUNTS + n_counts + (size_t)i] = GUARD;
    CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK_CUDA(cudaMalloc((void **)&device, n_bytes));
    upload(device, counts, n_bytes);
    for (int t = n_tensors - 1; t >= 0; t--)
        for (uint64_t first = 0; tile_at(&tensors[t].device, c->n_models + 1, first, c->tile_elems, &tile);
             first += c->tile_elems)
            CHECK_CUDA(device_model_launch(&tensors[t].op, ms, &tile, device + GUARD_COUNTS, stream));
    CHECK_CUDA(cudaStreamSynchronize(stream));
    CHECK_CUDA(cudaMemcpy(counts, device, n_bytes, cudaMemcpyDeviceToHost));
    CHECK_CUDA(cudaFree(device));
    CHECK_CUDA(cudaStreamDestroy(stream));
    for (int i = 0; i < GUARD_COUNTS; i++) {
        assert_true(counts[i] == GUARD);
        assert_true(counts[GUARD_COUNTS + n_counts + (size_t)i] == GUARD);
    }
}

static void same_counts(const struct model_case *c, struct model_statistics *cpu, const uint64_t *got)
{
    size_t n;
    const uint64_t *expected = model_statistics_counts(cpu, &n);

    for (size_t i = 0; i < n; i++)
        if (got[i] != expected[i])
            fail_msg("%s, %s, %zu bytes off, pass %d: count %zu of %zu is %llu, expected %llu", c->what,
                     pattern_names[c->pattern], c->misalign, (int)cpu->pass, i, n, (unsigned long long)got[i],
                     (unsigned long long)expected[i]);
}

static void note(const struct model_case *c, const struct model_statistics *cpu)
{
    met.plus += cpu->result.n_plus;
    met.minus += cpu->result.n_minus;
    met.cancelled += cpu->result.n_cancelled;
    met.neither += cpu->n_elems - cpu->result.n_plus - cpu->result.n_minus - cpu->result.n_cancelled;
    for (int m = 0; m < cpu->result.n_models; m++) {
        met.n_thresholds += cpu->result.models[m].threshold != 0;
        met.n_whole += cpu->result.models[m].density == 1.0;
        met.n_none += cpu->result.models[m].n_elems > 0 && cpu->result.models[m].density == 0.0;
    }
    assert_int_equal(cpu->result.n_models, c->first_index ? c->first_index + 1 : c->n_models);
}

/* The device's counts go the way that the engine sends them, and end in the same result. */
static void check(const struct model_case *c)
{
    static size_t n_cases;
    static struct tensor tensors[MAX_TENSORS];
    struct model_statistics cpu, device;
    char message[256] = "";
    int n_tensors = 0;
    uint64_t *counts;

    if (n_cases++ % EVERY != 0)
        return;
    model_statistics_init(&cpu);
    model_statistics_init(&device);
    for (; n_tensors < MAX_TENSORS && c->sizes[n_tensors]; n_tensors++) {
        make_tensor(c, n_tensors, &tensors[n_tensors]);
        assert_int_equal(model_statistics_add(&cpu, &tensors[n_tensors].op, message), WM_OK);
        assert_int_equal(model_statistics_add(&device, &tensors[n_tensors].op, message), WM_OK);
    }
    assert_true(model_statistics_begin(&cpu) && model_statistics_begin(&device));
    counts = malloc((size_t)model_statistics_bytes(&cpu) + 2 * GUARD_COUNTS * sizeof *counts);
    assert_non_null(counts);
    while (cpu.pass != MODEL_READY) {
        size_t n_counts, half;
        (void)model_statistics_counts(&cpu, &n_counts);
        half = n_counts / 3;
        cpu_pass(c, tensors, n_tensors, &cpu);
        device_pass(c, tensors, n_tensors, &device, counts, n_counts);
        same_counts(c, &cpu, counts + GUARD_COUNTS);
        model_statistics_add_counts(&device, 0, counts + GUARD_COUNTS, n_counts); /* of a pass that starts over */
        model_statistics_restart_pass(&device);
        model_statistics_add_counts(&device, half, counts + GUARD_COUNTS + half, n_counts - half);
        model_statistics_add_counts(&device, 0, counts + GUARD_COUNTS, half);
        assert_true(model_statistics_finish_pass(&cpu));
        assert_true(model_statistics_finish_pass(&device));
    }
    assert_memory_equal(&cpu.result, &device.result, sizeof cpu.result);
    note(c, &cpu);
    model_statistics_release(&cpu);
    model_statistics_release(&device);
    free(counts);
    while (n_tensors)
        free_tensor(&tensors[--n_tensors]);
}

/* ---- tests -------------------------------------------------------------------------------------------------- */

static const size_t misaligns[] = {0, 1, 2, 4, 8};
/* One model; two that cancel where they agree; every kind of trimming, rescaled; many. */
static const struct {
    int n_models;
    struct setting settings[6];
} operations[] = {{1, {{"density", 0.5, -1}}},
                  {2, {{"density", 0.3, -1}, {"weight", 1.0, 0}, {"weight", -1.0, 1}}},
                  {4,
                   {{"density", 0.4, -1},
                    {"density", 1.0, 0},
                    {"density", 0.0, 2},
                    {"weight", -0.7, 1},
                    {"weight", 0.3, 3},
                    {"rescale", RESCALE_INV_DENSITY, -1}}},
                  {9, {{"density", 0.2, -1}}}};
enum { N_OPERATIONS = sizeof operations / sizeof operations[0] };

/* One tensor of every size around groups of eight, warps, chunks and tiles; types, alignments and data in turn. */
static void test_sizes(void **state)
{
    static const uint64_t sizes[] = {1,   7,         8,         31,    32,        33,           65,
                                     511, CHUNK - 1, CHUNK + 1, CHUNK, 3 * CHUNK, 65536 + 4097, 5 * CHUNK + 17};
    size_t turn = 0;

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (size_t t = 0; t < N_DTYPE_CASES; t++)
            for (size_t o = 0; o < N_OPERATIONS; o++, turn++) {
                struct model_case c = {.what = "sizes",
                                       .n_models = operations[o].n_models,
                                       .sizes = {sizes[i]},
                                       .types = {&dtype_cases[t]},
                                       .pattern = (enum pattern)(turn % N_PATTERNS),
                                       .misalign = turn % 2 ? misaligns[turn / 2 % 5] : 0,
                                       .tile_elems = i % 2 ? 2 * CHUNK : CHUNK};
                memcpy(c.settings, operations[o].settings, sizeof c.settings);
                check(&c);
            }
}

/* Every kind of data in every type, with several models; enough elements for several blocks and their windows. */
static void test_data(void **state)
{
    (void)state;
    for (size_t t = 0; t < N_DTYPE_CASES; t++)
        for (size_t p = 0; p < N_PATTERNS; p++)
            for (size_t o = 1; o < N_OPERATIONS; o++) {
                struct model_case c = {.what = "data",
                                       .n_models = operations[o].n_models,
                                       .sizes = {66001},
                                       .types = {&dtype_cases[t]},
                                       .pattern = (enum pattern)p,
                                       .tile_elems = 9 * CHUNK};
                memcpy(c.settings, operations[o].settings, sizeof c.settings);
                check(&c);
            }
}

/* Tensors of different types and sizes share the counts; models are found by their place in the recipe. */
static void test_models_of_several_tensors(void **state)
{
    (void)state;
    for (size_t o = 0; o < N_OPERATIONS; o++)
        for (int first_index = 0; first_index <= 20; first_index += 10) {
            struct model_case c = {.what = "several tensors",
                                   .n_models = operations[o].n_models,
                                   .sizes = {70001, 1, 33, 40000, 65537, 8},
                                   .types = {&dtype_cases[0], &dtype_cases[2], &dtype_cases[5], &dtype_cases[1],
                                             &dtype_cases[6], &dtype_cases[3]},
                                   .tile_elems = 2 * CHUNK,
                                   .first_index = first_index};
            memcpy(c.settings, operations[o].settings, sizeof c.settings);
            check(&c);
        }
}

/* As many models as there can be. */
static void test_all_models(void **state)
{
    struct model_case c = {.what = "all models",
                           .n_models = MAX_MODELS,
                           .settings = {GLOBAL("density", 0.2)},
                           .sizes = {701},
                           .types = {&dtype_cases[0]},
                           .tile_elems = CHUNK};

    (void)state;
    check(&c);
    c.types[0] = &dtype_cases[5];
    check(&c);
}

static void test_that_cases_met_everything(void **state)
{
    (void)state;
    assert_true(met.plus > 0 && met.minus > 0 && met.cancelled > 0 && met.neither > 0);
    assert_true(met.n_thresholds > 0 && met.n_whole > 0 && met.n_none > 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_data),
        cmocka_unit_test(test_models_of_several_tensors),
        cmocka_unit_test(test_all_models),
        cmocka_unit_test(test_that_cases_met_everything),
    };
    int n_devices = 0;

    if (cudaGetDeviceCount(&n_devices) != cudaSuccess || n_devices == 0) {
        printf("skipped: no CUDA device here\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
