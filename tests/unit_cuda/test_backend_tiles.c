/* Tiles on a GPU behind the backend interface: the CPU's bytes, reports and coefficients with and without a guessed
 * threshold, whether tensors stay on the device or not, and a wrong byte is noticed. Runs on the pretended device. */
#include "backend_run.h"
#include "cuda_on_cpu.h"

enum { CHUNK = TILE_CHUNK_ELEMS };

/* ---- cases -------------------------------------------------------------------------------------------------- */

struct device {
    bool lazy;
    unsigned verify_per_1000;
    uint64_t memory_bytes, tile_out_bytes;
};

static struct backend *open_backend(const struct device *device, void **thread)
{
    struct cuda_on_cpu_config machine = cuda_on_cpu_default();
    struct backend_cuda_options options = {.tile_in_bytes = CHUNK * 8,
                                           .tile_out_bytes = device->tile_out_bytes,
                                           .memory_bytes = device->memory_bytes,
                                           .max_inputs = 5,
                                           .verify_per_1000 = device->verify_per_1000};
    struct wm_error err = WM_ERROR_INIT;
    struct backend *b = NULL;

    machine.lazy_streams = device->lazy;
    cuda_on_cpu_configure(&machine);
    assert_int_equal(backend_open_cuda(&b, &options, &err), WM_OK);
    *thread = b->ops->thread_new(b, &err);
    assert_non_null(*thread);
    return b;
}

static void close_backend(struct backend *b, void *thread)
{
    char text[300];

    b->ops->thread_free(b, thread);
    b->ops->close(b);
    if (cuda_on_cpu_leaks(text, sizeof text))
        fail_msg("%s", text);
}

/* Linked in place of cpu_statistics_tile: the GPU leaves nothing but samples to the CPU. */
static int n_cpu_tiles;
void __real_cpu_statistics_tile(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                                struct cpu_scratch *scratch);
void __wrap_cpu_statistics_tile(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                                struct cpu_scratch *scratch);

void __wrap_cpu_statistics_tile(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                                struct cpu_scratch *scratch)
{
    n_cpu_tiles += statistics_pass(s) != STAT_KTH_SAMPLE;
    __real_cpu_statistics_tile(op, s, tile, scratch);
}

static void check(const struct method_case *c, const struct dtype_case *types, uint64_t n, enum pattern pattern,
                  const struct device *device, bool speculate, struct tiles_run *run)
{
    struct merge_tile arrays = {.n_elems = (size_t)n, .out_dtype = types->out};
    void *base = new_weights((size_t)n, types->base, 5), *thread, *out = new_array((size_t)n, types->out);
    void *expected = new_array((size_t)n, types->out), *owned[TILE_MAX_INPUTS] = {NULL};
    struct run cpu = {.tile_elems = CHUNK};
    struct merge_op op, cpu_op;
    char message[256] = "", what[256];
    struct backend *b = open_backend(device, &thread);
    uint64_t n_rows = n % 11 == 0 ? 11 : 1; /* rows that cross tiles */

    snprintf(what, sizeof what, "%s of %d, %s, %s%s", c->method, c->n_models, types->name, pattern_names[pattern],
             speculate ? ", speculated" : "");
    assert_int_equal(prepare_op(&op, c->method, c->n_models, c->has_base, n_rows, n / n_rows, 9, c->settings, message),
                     WM_OK);
    cpu_op = op;
    for (int i = 0; i < merge_op_n_inputs(&op); i++) {
        int m = i - (c->has_base ? 1 : 0);
        enum wm_dtype dtype = m < 0 ? types->base : types->models[m % 3];
        owned[i] = m < 0 ? base : new_model(pattern, base, types->base, (size_t)n, dtype, m);
        arrays.in[i] = owned[i];
        arrays.in_dtype[i] = dtype;
    }
    arrays.out = expected;
    run_op(&cpu_op, &arrays, &cpu);
    arrays.out = out;
    *run = (struct tiles_run){.tile_elems = CHUNK, .speculate = speculate};
    n_cpu_tiles = 0;
    run_tensor(b, thread, &op, &arrays, run);
    if (!device->verify_per_1000) /* else it does them all again */
        assert_int_equal(n_cpu_tiles, 0);
    if (run->status == WM_OK) {
        assert_same_op(&op, &cpu_op, what);
        assert_same_elements(out, expected, types->out, (size_t)n, what);
        assert_same_report(&run->report, &cpu.report, what);
    }
    close_backend(b, thread);
    for (int i = 0; i < merge_op_n_inputs(&op); i++)
        if (owned[i] != base)
            free(owned[i]);
    free(base);
    free(out);
    free(expected);
}

/* ---- tests -------------------------------------------------------------------------------------------------- */

/* In the last two the outputs leave so few slots that nothing stays, but room for every pass's results. */
static const struct device devices[] = {{false, 1000, 32u << 20, CHUNK * 8},
                                        {true, 0, 32u << 20, CHUNK * 8},
                                        {true, 1000, 14u << 20, 1536u << 10},
                                        {false, 0, 14u << 20, 1536u << 10}};
static const struct method_case ties[] = {
    {"ties", 2, true, {GLOBAL("weight", 0.5), GLOBAL("density", 0.3)}},
    {"ties", 3, true, {GLOBAL("weight", 0.5), {"density", 0.6, 0}, {"density", 0.2, 1}, {"density", 1.0, 2}}},
};

static void every_method(void **state)
{
    struct tiles_run result;

    (void)state;
    for (size_t c = 0; c < N_METHOD_CASES; c++)
        if (method_cases[c].n_models > 0 && c % EVERY == 0) {
            check(&method_cases[c], &dtype_cases[c % N_DTYPE_CASES], 5 * CHUNK - 3, (enum pattern)(c % N_PATTERNS),
                  &devices[c % 4], false, &result);
            assert_int_equal(result.status, WM_OK);
        }
}

/* Every tile is merged with the guess; those in which it was wrong are merged again, and only those. */
static void speculation(void **state)
{
    static const enum pattern patterns[] = {NORMAL, NOT_FINITE, NO_CHANGE, CONSTANT};
    const int n_tiles = 18;
    int n_stand = 0, n_guessed = 0;
    struct tiles_run result;

    (void)state;
    for (size_t i = 0; i<8; i += EVERY> 1 ? 3 : 1) {
        check(&ties[i % 2], &dtype_cases[i % 3 == 0 ? 0 : 6], (uint64_t)n_tiles * CHUNK - 100, patterns[i / 2],
              &devices[i % 4], true, &result);
        assert_int_equal(result.status, WM_OK);
        assert_true(result.n_guessed == 0 || result.n_guessed == n_tiles);
        n_stand += result.n_stand;
        n_guessed += result.n_guessed;
    }
    assert_in_range(n_stand, n_tiles / 2, n_guessed - 1);
}

static long spoil_byte = -1;
cudaError_t __real_device_combine_launch(const struct merge_op *op, const struct merge_tile *tile,
                                         const float *vector_weights, struct device_report *report,
                                         cudaStream_t stream);
cudaError_t __wrap_device_combine_launch(const struct merge_op *op, const struct merge_tile *tile,
                                         const float *vector_weights, struct device_report *report,
                                         cudaStream_t stream);

/* Linked in place of device_combine_launch. */
cudaError_t __wrap_device_combine_launch(const struct merge_op *op, const struct merge_tile *tile,
                                         const float *vector_weights, struct device_report *report, cudaStream_t stream)
{
    cudaError_t error = __real_device_combine_launch(op, tile, vector_weights, report, stream);

    if (error == cudaSuccess && spoil_byte >= 0 && tile->index == 3)
        error = cudaMemsetAsync((char *)tile->out + spoil_byte, 0x55, 1, stream);
    return error;
}

static void a_wrong_byte_is_noticed(void **state)
{
    struct tiles_run result;

    (void)state;
    for (int speculate = 0; speculate < 2; speculate++) {
        spoil_byte = 77;
        check(&ties[0], &dtype_cases[0], 18 * CHUNK, NORMAL, &devices[0], speculate, &result);
        assert_int_equal(result.status, WM_VERIFY_FAILED);
        spoil_byte = -1;
        check(&ties[0], &dtype_cases[0], 18 * CHUNK, NORMAL, &devices[0], speculate, &result);
        assert_int_equal(result.status, WM_OK);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_method),
        cmocka_unit_test(speculation),
        cmocka_unit_test(a_wrong_byte_is_noticed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
