/* A search for k-th magnitudes on a GPU costs few launches and no wait of its own, holds up no other tensor, and gives the
 * CPU's bytes when there is no room for it or any call fails. Runs on the pretended device. */
#include "backend_run.h"
#include "cuda_on_cpu.h"
#include "support/fixture.h"

enum { CHUNK = TILE_CHUNK_ELEMS, ILLEGAL_ADDRESS = 700, OUT_OF_MEMORY = 2 };

/* ---- waits, counted ----------------------------------------------------------------------------------------- */

static size_t n_stream_waits, n_event_waits;
cudaError_t __real_cudaStreamSynchronize(cudaStream_t stream);
cudaError_t __wrap_cudaStreamSynchronize(cudaStream_t stream);
cudaError_t __real_cudaEventSynchronize(cudaEvent_t event);
cudaError_t __wrap_cudaEventSynchronize(cudaEvent_t event);

/* Linked in place of the calls. One thread drives the device. */
cudaError_t __wrap_cudaStreamSynchronize(cudaStream_t stream)
{
    n_stream_waits++;
    return __real_cudaStreamSynchronize(stream);
}

cudaError_t __wrap_cudaEventSynchronize(cudaEvent_t event)
{
    n_event_waits++;
    return __real_cudaEventSynchronize(event);
}

/* ---- whole merges of experts -------------------------------------------------------------------------------- */

enum { N_EXPERTS = EVERY > 1 ? 3 : 24, EXPERT_TILES = 3, EXPERT_ROWS = 85, EXPERT_COLUMNS = 1000, MODELS = 2 };
enum {
    EXPERT_BYTES = EXPERT_ROWS * EXPERT_COLUMNS * 2,
    TILE_BYTES = EXPERT_BYTES / EXPERT_TILES / 32768 * 32768 + 32768
};

static void write_experts(const struct fixture *f)
{
    struct fixture_tensor tensors[N_EXPERTS];
    char names[N_EXPERTS][64], model[8];

    for (int m = 0; m <= MODELS; m++) {
        for (unsigned e = 0; e < N_EXPERTS; e++) {
            snprintf(names[e], sizeof names[e], "model.layers.0.mlp.experts.%u.up_proj.weight", e);
            tensors[e] = (struct fixture_tensor){.name = names[e],
                                                 .dtype = WM_BF16,
                                                 .n_dims = 2,
                                                 .shape = {EXPERT_ROWS, EXPERT_COLUMNS},
                                                 .seed = 100 + e,
                                                 .spread = 0.02,
                                                 .delta_seed = m == 0 ? 0 : (uint64_t)(1000 * m) + e,
                                                 .delta_spread = 2e-4};
        }
        snprintf(model, sizeof model, "m%d", m);
        fixture_write_model(f, model, tensors, N_EXPERTS, 0, "{\"model_type\": \"llama\"}");
    }
}

static struct hash128 merge_experts(const struct fixture *f, const char *more, enum wm_device device, const char *out)
{
    struct wm_options o = WM_OPTIONS_INIT;
    struct wm_error err = WM_ERROR_INIT;
    char yaml[1024], paths[MODELS + 1][128];

    for (int m = 0; m <= MODELS; m++) {
        snprintf(yaml, sizeof yaml, "m%d", m);
        snprintf(paths[m], sizeof paths[m], "%s", fixture_path(f, yaml));
    }
    snprintf(yaml, sizeof yaml,
             "merge_method: ties\nbase_model: %s\nparameters: {density: 0.4, weight: 0.5%s}\nmodels:\n  - {model: %s}\n"
             "  - {model: %s}\n",
             paths[0], more, paths[1], paths[2]);
    fixture_write_file(f, "c.yml", yaml);
    o.device = device;
    o.sync = 0;
    o.n_threads = 2;
    o.tile_bytes = TILE_BYTES;
    o.memory_bytes = 64u << 20;
    o.verify_per_1000 = 0; /* what is drawn is searched by the host */
    n_stream_waits = n_event_waits = 0;
    if (fixture_merge(f, "c.yml", out, &o, &err) != WM_OK)
        fail_msg("%s: %s", out, err.message);
    return fixture_digest(f, out);
}

/* Per tensor: COARSE and the element-wise pass once a tile, and five launches between; a wait for each tile that is under
 * way and none beside; and home come the result, the tiles' reports and 24 bytes a model. */
static void experts_cost_few_launches_and_no_wait(void **state)
{
    struct cuda_on_cpu_config machine = cuda_on_cpu_default();
    struct cuda_on_cpu_counts counts;
    struct hash128 expected;
    struct fixture f;

    (void)state;
    fixture_init(&f);
    write_experts(&f);
    for (int lazy = 0; lazy < 2; lazy++) {
        machine.lazy_streams = lazy;
        expected = merge_experts(&f, "", WM_DEVICE_CPU, lazy ? "cpu1" : "cpu0");
        cuda_on_cpu_configure(&machine);
        assert_true(hash128_equal(expected, merge_experts(&f, "", WM_DEVICE_CUDA, lazy ? "gpu1" : "gpu0")));
        cuda_on_cpu_get_counts(&counts);
        assert_int_equal(counts.launches, N_EXPERTS * (2 * EXPERT_TILES + 5));
        assert_int_equal(n_event_waits, N_EXPERTS * 2 * EXPERT_TILES);
        assert_int_equal(n_stream_waits, 0);
        assert_int_equal(counts.bytes_to_host,
                         N_EXPERTS * (EXPERT_BYTES + 24 * MODELS + EXPERT_TILES * sizeof(struct device_report)));
        assert_int_equal(counts.bytes_to_device,
                         N_EXPERTS * (MODELS + 1) * (EXPERT_BYTES + EXPERT_TILES * sizeof(void *)));
        assert_int_equal(counts.pageable_copies, 0);
    }
    fixture_release(&f);
}

/* A pass after the search has results that come home by themselves: one wait a tensor. */
static void a_pass_after_it_costs_one_wait(void **state)
{
    struct cuda_on_cpu_counts counts;
    struct hash128 expected;
    struct fixture f;

    (void)state;
    fixture_init(&f);
    write_experts(&f);
    expected = merge_experts(&f, ", rescale: true", WM_DEVICE_CPU, "cpu");
    cuda_on_cpu_configure(NULL);
    assert_true(hash128_equal(expected, merge_experts(&f, ", rescale: true", WM_DEVICE_CUDA, "gpu")));
    cuda_on_cpu_get_counts(&counts);
    assert_int_equal(counts.launches, N_EXPERTS * (3 * EXPERT_TILES + 5));
    assert_int_equal(n_event_waits, N_EXPERTS * 3 * EXPERT_TILES);
    assert_int_equal(n_stream_waits, N_EXPERTS);
    fixture_release(&f);
}

/* ---- one tensor, and another one beside it ------------------------------------------------------------------ */

struct sample {
    struct merge_op op, cpu_op;
    struct merge_tile arrays; /* out: the device's */
    void *expected;
    struct run cpu;
};

static void sample_init(struct sample *x, const char *method, uint64_t n_elems, uint64_t seed)
{
    static const struct setting ties[MAX_SETTINGS] = {GLOBAL("weight", 0.5), {"density", 0.3, 0}, {"density", 0.6, 1}};
    static const struct setting slerp[MAX_SETTINGS] = {GLOBAL("t", 0.3)};
    const bool has_base = strcmp(method, "ties") == 0;
    void *base = new_weights((size_t)n_elems, WM_BF16, seed);
    char message[256] = "";

    *x = (struct sample){.arrays = {.n_elems = (size_t)n_elems, .out_dtype = WM_BF16}, .cpu = {.tile_elems = CHUNK}};
    assert_int_equal(prepare_op(&x->op, method, 2, has_base, 1, n_elems, seed, has_base ? ties : slerp, message),
                     WM_OK);
    x->cpu_op = x->op;
    for (int i = 0; i < merge_op_n_inputs(&x->op); i++) {
        x->arrays.in[i] = has_base && i == 0 ? base : new_model(NORMAL, base, WM_BF16, (size_t)n_elems, WM_BF16, i);
        x->arrays.in_dtype[i] = WM_BF16;
    }
    if (!has_base)
        free(base);
    x->arrays.out = x->expected = new_array((size_t)n_elems, WM_BF16);
    run_op(&x->cpu_op, &x->arrays, &x->cpu);
    x->arrays.out = new_array((size_t)n_elems, WM_BF16);
}

static void sample_expect(const struct sample *x, const char *what)
{
    assert_same_op(&x->op, &x->cpu_op, what);
    assert_same_elements(x->arrays.out, x->expected, WM_BF16, x->arrays.n_elems, what);
}

static void sample_release(struct sample *x)
{
    for (int i = 0; i < merge_op_n_inputs(&x->op); i++)
        free((void *)x->arrays.in[i]);
    free(x->arrays.out);
    free(x->expected);
}

/* NULL when a call failed. */
static struct backend *open_backend(const struct cuda_on_cpu_config *machine, void **thread)
{
    struct backend_cuda_options options = {
        .tile_in_bytes = CHUNK * 2, .tile_out_bytes = CHUNK * 2, .memory_bytes = 48u << 20, .max_inputs = 3};
    struct wm_error err = WM_ERROR_INIT;
    struct backend *b = NULL;

    cuda_on_cpu_configure(machine);
    if (backend_open_cuda(&b, &options, &err) != WM_OK)
        return NULL;
    *thread = b->ops->thread_new(b, &err);
    if (!*thread)
        b->ops->close(b);
    return *thread ? b : NULL;
}

static void close_backend(struct backend *b, void *thread)
{
    const bool lost = b->lost;
    char text[300];

    b->ops->thread_free(b, thread);
    b->ops->close(b);
    if (!lost && cuda_on_cpu_leaks(text, sizeof text))
        fail_msg("%s", text);
}

/* Nothing of a lazy stream runs before somebody waits for it: the inputs of the tile that is behind may still change after
 * a whole other tensor went through its passes, and were not looked at yet. That is a race on purpose. */
static void a_tensor_waits_for_no_other(void **state)
{
    static const char *const methods[] = {"ties", "slerp"};
    struct cuda_on_cpu_config machine = cuda_on_cpu_default();

    (void)state;
#if defined(__SANITIZE_THREAD__)
    skip();
#endif
    machine.lazy_streams = true;
    for (int i = 0; i < 2; i++) {
        const uint64_t n = 5 * CHUNK - 7;
        struct backend_tensor_info info = {5, i == 0 ? 3 : 2, n, CHUNK, true, 0, 0};
        struct backend_task tasks[6];
        struct wm_error err = WM_ERROR_INIT;
        struct tiles_run run = {.tile_elems = CHUNK};
        struct sample first, second;
        struct statistics *s[2];
        enum stat_pass next = STAT_READY;
        void *thread, *tensors[2] = {NULL, NULL}, *late;
        struct backend *b = open_backend(&machine, &thread);
        assert_non_null(b);
        late = b->ops->alloc(b, CHUNK * 2); /* page-locked: other memory is read as the copy is asked for */
        assert_non_null(late);
        sample_init(&first, methods[i], n, 5);
        sample_init(&second, methods[i], n, 6);
        s[0] = statistics_new(&first.op, CHUNK);
        s[1] = statistics_new(&second.op, CHUNK);
        for (int k = 0; k < 2; k++)
            assert_int_equal(b->ops->tensor_new(b, thread, &info, &tensors[k], &err), WM_OK);
        for (size_t t = 0; t < 6; t++) { /* five tiles of one, and the first of the other with wrong values */
            struct sample *x = t < 5 ? &first : &second;
            tasks[t] = (struct backend_task){.op = &x->op, .statistics = s[t / 5], .tensor = tensors[t / 5]};
            fill_tile(&x->op, &x->arrays, CHUNK, t % 5, false, &tasks[t].tile);
        }
        memset(late, 0x3e, CHUNK * 2);
        tasks[5].tile.in[info.n_inputs - 1] = late;
        for (size_t t = 0; t < 6; t++)
            assert_int_equal(b->ops->submit(b, thread, &tasks[t], &err), WM_OK);
        n_stream_waits = 0;
        for (size_t t = 0; t < 5; t++)
            assert_int_equal(b->ops->await(b, thread, &tasks[t], &err), WM_OK);
        assert_int_equal(b->ops->finish_pass(b, thread, tensors[0], &first.op, s[0], &next, &err), WM_OK);
        assert_int_equal(next, STAT_READY);
        assert_int_equal(n_stream_waits, i); /* the sums of slerp come home by themselves */
        assert_same_op(&first.op, &first.cpu_op, methods[i]);

        memcpy(late, second.arrays.in[info.n_inputs - 1], CHUNK * 2);
        assert_int_equal(b->ops->await(b, thread, &tasks[5], &err), WM_OK);
        b->ops->tensor_free(b, thread, tensors[0]);
        for (size_t t = 1; t < 5; t++) {
            tasks[t] = (struct backend_task){.op = &second.op, .statistics = s[1], .tensor = tensors[1]};
            fill_tile(&second.op, &second.arrays, CHUNK, t, false, &tasks[t].tile);
            assert_int_equal(b->ops->submit(b, thread, &tasks[t], &err), WM_OK);
        }
        for (size_t t = 1; t < 5; t++)
            assert_int_equal(b->ops->await(b, thread, &tasks[t], &err), WM_OK);
        assert_int_equal(b->ops->finish_pass(b, thread, tensors[1], &second.op, s[1], &next, &err), WM_OK);
        assert_same_op(&second.op, &second.cpu_op, "the other");
        b->ops->tensor_free(b, thread, tensors[1]);
        run_tensor(b, thread, &first.op, &first.arrays, &run); /* and as a whole, on what is left of the device */
        assert_int_equal(run.status, WM_OK);
        sample_expect(&first, methods[i]);
        for (int k = 0; k < 2; k++)
            statistics_free(s[k]);
        sample_release(&first);
        sample_release(&second);
        b->ops->free(b, late, CHUNK * 2);
        close_backend(b, thread);
    }
}

/* Room for COARSE's counts alone: the host leads the search. */
static void without_room_the_host_searches(void **state)
{
    struct cuda_on_cpu_config machine = cuda_on_cpu_default();
    struct tiles_run run = {.tile_elems = CHUNK};
    struct sample x;
    void *thread = NULL;
    struct backend *b = open_backend(&machine, &thread);

    (void)state;
    assert_non_null(b);
    sample_init(&x, "ties", 5 * CHUNK + 9, 7);
    cuda_on_cpu_fail_at(1, OUT_OF_MEMORY, -1); /* the tensor's first call asks for memory */
    n_stream_waits = 0;
    run_tensor(b, thread, &x.op, &x.arrays, &run);
    assert_int_equal(run.status, WM_OK);
    assert_in_range(n_stream_waits, 2, 4);
    sample_expect(&x, "without room");
    sample_release(&x);
    close_backend(b, thread);
}

/* The n-th call fails: the device is lost with a sentence, or the bytes are right. */
static void every_call_may_fail(void **state)
{
    static const int codes[] = {ILLEGAL_ADDRESS, OUT_OF_MEMORY};
    int n_right = 0, n_lost = 0;
    struct sample fresh;

    (void)state;
    sample_init(&fresh, "ties", 5 * CHUNK + 9, 8);
    for (int c = 0; c < 2; c++)
        for (uint64_t n = 1; n < 2000; n += UNDER_TSAN ? 29 : EVERY) {
            struct cuda_on_cpu_config machine = cuda_on_cpu_default();
            struct tiles_run run = {.tile_elems = CHUNK};
            struct cuda_on_cpu_counts counts;
            struct sample x = fresh;
            struct backend *b;
            void *thread;
            machine.lazy_streams = n % 2 == 0;
            machine.fail_at = n;
            machine.fail_code = codes[c];
            machine.fail_device = -1;
            b = open_backend(&machine, &thread);
            if (!b)
                continue;
            run_tensor(b, thread, &x.op, &x.arrays, &run);
            if (run.status == WM_OK) {
                sample_expect(&x, "with a call that failed");
                n_right++;
            } else {
                assert_int_equal(run.status, WM_NO_DEVICE);
                assert_true(b->lost);
                n_lost++;
            }
            close_backend(b, thread);
            cuda_on_cpu_get_counts(&counts);
            if (counts.calls < n)
                break;
        }
    assert_true(n_right > 0);
    assert_true(n_lost > (UNDER_TSAN ? 3 : 100 / EVERY));
    sample_release(&fresh);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_cost_few_launches_and_no_wait),
        cmocka_unit_test(a_pass_after_it_costs_one_wait),
        cmocka_unit_test(a_tensor_waits_for_no_other),
        cmocka_unit_test(without_room_the_host_searches),
        cmocka_unit_test(every_call_may_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
