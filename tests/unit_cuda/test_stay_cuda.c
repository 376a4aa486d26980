/* Tensors that are looked at several times stay in a GPU's memory and leave the host's: they are read once, whatever the ring
 * holds, with the CPU's bytes. Runs on pretended GPUs. */
#include "merge_on_gpu.h"
#include "methods/device.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) /* they take their time */
enum { N_BIG = 32768 * 70 + 1234, STEP = 2 };
#else
enum { N_BIG = 32768 * 80 + 1234, STEP = 1 };
#endif
enum { ROW = 64, N_ROWS = N_BIG / 2 / ROW };

static const char *const recipes[] = {
    "merge_method: ties\nbase_model: '%0'\nparameters: {density: 0.3, weight: 0.5}\nmodels:\n- model: '%1'\n"
    "- model: '%2'\n",
    "merge_method: nuslerp\nparameters: {nuslerp_flatten: false}\nbase_model: '%0'\nmodels:\n"
    "- model: '%1'\n  parameters: {weight: 0.3}\n- model: '%2'\n  parameters: {weight: 0.6}\n",
    "merge_method: ties\nbase_model: '%0'\nparameters: {density: 0.3, weight: 0.5, rescale: true}\nmodels:\n"
    "- model: '%1'\n- model: '%2'\n",
    "merge_method: nuslerp\nparameters: {nuslerp_flatten: false, nuslerp_row_wise: true}\nbase_model: '%0'\nmodels:\n"
    "- model: '%1'\n  parameters: {weight: 0.3}\n- model: '%2'\n  parameters: {weight: 0.6}\n"};
enum { N_RECIPES = sizeof recipes / sizeof *recipes };

/* Larger than the ring that the smallest budget leaves to so many readers, and half as large. */
enum { N_READERS = 46 };

#define BYTES_IN ((uint64_t)3 * 2 * (2 * N_BIG + N_ROWS * ROW))

static void init(struct gpu_rig *r)
{
    memset(r, 0, sizeof *r);
    fixture_init(&r->f);
    for (uint64_t m = 0; m < 3; m++) {
        struct fixture_tensor t[] = {{"first", WM_BF16, 1, {N_BIG}, 1, 0.02, m, 1e-4, NULL},
                                     {"second", WM_BF16, 2, {N_ROWS, ROW}, 2, 0.02, m, 4e-4, NULL},
                                     {"third", WM_BF16, 1, {N_BIG}, 3, 0.02, m, 1e-3, NULL}};
        char name[16];
        snprintf(name, sizeof name, "m%d", (int)m);
        fixture_write_model(&r->f, name, t, 3, 0, NULL);
    }
}

static struct {
    uint64_t bytes_read, bytes_to_read, bytes_written, stop_at;
} seen;

static int note(void *user, const struct wm_progress *progress)
{
    (void)user;
    seen.bytes_read = progress->bytes_read;
    seen.bytes_to_read = progress->bytes_to_read;
    seen.bytes_written = progress->bytes_written;
    return seen.stop_at && progress->bytes_written >= seen.stop_at;
}

/* GPUs of 256 MiB. */
static void use_machine(struct gpu_rig *r, int n_devices, bool lazy)
{
    struct cuda_on_cpu_config machine = cuda_on_cpu_default();

    machine.n_devices = n_devices;
    machine.lazy_streams = lazy;
    rig_machine(r, &machine, WM_DEVICE_CUDA);
    r->o.n_io_threads = N_READERS;
    r->o.verify_per_1000 = 0;
    r->o.on_progress = note;
    memset(&seen, 0, sizeof seen);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static void everything_is_read_once(void **state)
{
    static const struct {
        int devices;
        bool lazy;
        int per_1000;
    } machines[] = {{1, false, 0}, {1, true, 20}, {2, true, 0}};
    struct gpu_rig r;
    char out[32];

    (void)state;
    init(&r);
    for (size_t i = 0; i < N_RECIPES; i += STEP) {
        rig_recipe(&r, recipes[i]);
        for (size_t m = 0; m < sizeof machines / sizeof *machines; m++) {
            use_machine(&r, machines[m].devices, machines[m].lazy);
            r.o.verify_per_1000 = machines[m].per_1000;
            snprintf(out, sizeof out, "gpu%zu-%zu", i, m);
            expect_merge(&r, out);
            if (!rig_has_cpu_bytes(&r, out))
                fail_msg("recipe %zu, machine %zu: other bytes than the CPU's", i, m);
            if (seen.bytes_read != BYTES_IN || seen.bytes_to_read != BYTES_IN)
                fail_msg("recipe %zu, machine %zu: read %llu of %llu bytes, and there are %llu", i, m,
                         (unsigned long long)seen.bytes_read, (unsigned long long)seen.bytes_to_read,
                         (unsigned long long)BYTES_IN);
            expect_no_leaks();
        }
    }
    fixture_release(&r.f);
}

/* One of the large tensors fills the budget: the second one begins when the first has ended, and is read once as well. */
static void a_tensor_waits_for_the_one_before(void **state)
{
    struct gpu_rig r;

    (void)state;
    init(&r);
    rig_recipe(&r, recipes[0]);
    for (int lazy = 0; lazy < 2; lazy++) {
        use_machine(&r, 1, lazy);
        r.o.device_memory_bytes = 6u * N_BIG * 3 / 2;
        expect_merge(&r, lazy ? "lazy" : "eager");
        assert_true(rig_has_cpu_bytes(&r, lazy ? "lazy" : "eager"));
        assert_int_equal(seen.bytes_read, BYTES_IN);
        expect_no_leaks();
    }
    fixture_release(&r.f);
}

/* What is drawn for checking is copied before it leaves the host; where that is too much the tile does not leave it for good. */
static void what_cannot_be_checked_is_read_again(void **state)
{
    struct gpu_rig r;

    (void)state;
    init(&r);
    rig_recipe(&r, recipes[0]);
    use_machine(&r, 1, true);
    r.o.verify_per_1000 = 100;
    expect_merge(&r, "out");
    assert_true(rig_has_cpu_bytes(&r, "out"));
    assert_true(seen.bytes_read > BYTES_IN && seen.bytes_read < 3 * BYTES_IN);
    expect_no_leaks();
    fixture_release(&r.f);
}

/* What `plan` says: a number behind its name. */
static unsigned long long planned(const struct gpu_rig *r, const char *name)
{
    struct wm_merge *merge = NULL;
    struct wm_error err = WM_ERROR_INIT;
    unsigned long long value;
    char *text, *at;

    assert_int_equal(wm_merge_open(&merge, fixture_path(&r->f, "c.yml"), &r->o, &err), WM_OK);
    assert_int_equal(wm_merge_plan(merge, NULL, &err), WM_OK);
    assert_int_equal(wm_merge_describe(merge, 1, &text, &err), WM_OK);
    at = strstr(text, name);
    assert_non_null(at);
    assert_int_equal(sscanf(at + strlen(name), "\": %llu", &value), 1);
    wm_text_free(text);
    wm_merge_free(merge);
    return value;
}

/* What stays on the GPU needs no ring of its own, and is read once; what is kept for checking it, a 64th of a small budget, and
 * groups on their way have their place. */
static void the_plan_says_so(void **state)
{
    unsigned long long ring, reserve;
    struct gpu_rig r;

    (void)state;
    init(&r);
    merge_cases_write_config(&r.f, "c.yml", recipes[2]);
    use_machine(&r, 1, false);
    assert_int_equal(planned(&r, "bytes_to_read"), BYTES_IN);
    reserve = planned(&r, "reserve");
    r.o.device = WM_DEVICE_CPU;
    assert_int_equal(planned(&r, "reserve") + (9u << 20), reserve);
    assert_true(planned(&r, "bytes_to_read") > BYTES_IN);
    r.o.memory_bytes = 1u << 30;
    ring = planned(&r, "input_slots"); /* the CPU's holds the largest tensor and half of one more */
    r.o.device = WM_DEVICE_CUDA;
    assert_true(planned(&r, "input_slots") + 6ull * N_BIG <= ring);
    fixture_release(&r.f);
}

/* ---- memory for what comes after the first pass ------------------------------------------------------------------ */

static struct {
    int n_left; /* calls that succeed; then none does */
    int n_refused;
} allocations = {1000000, 0};

cudaError_t __real_cudaMalloc(void **memory, size_t n_bytes);
cudaError_t __wrap_cudaMalloc(void **memory, size_t n_bytes);

cudaError_t __wrap_cudaMalloc(void **memory, size_t n_bytes)
{
    if (allocations.n_left-- > 0)
        return __real_cudaMalloc(memory, n_bytes);
    allocations.n_refused++;
    return cudaErrorMemoryAllocation;
}

/* Where the device has no memory for a pass or for coefficients the CPU does that part, with inputs that come back for it. */
static void what_finds_no_memory_comes_home(void **state)
{
    struct gpu_rig r;
    char out[32];

    (void)state;
    init(&r);
    for (size_t i = 0; i < 2; i++) {
        rig_recipe(&r, recipes[i]);
        for (int n = 3; n < 7; n++) { /* the ring, the outputs and the reports are always there */
            use_machine(&r, 1, true);
            allocations.n_left = n;
            allocations.n_refused = 0;
            snprintf(out, sizeof out, "out%zu-%d", i, n);
            expect_merge(&r, out);
            allocations.n_left = 1000000;
            if (!rig_has_cpu_bytes(&r, out))
                fail_msg("recipe %zu with %d allocations: other bytes", i, n);
            assert_true(allocations.n_refused > 0 || n > 4);
            expect_no_leaks();
        }
    }
    fixture_release(&r.f);
}

/* ---- endings ------------------------------------------------------------------------------------------------------- */

static void a_stopped_merge_goes_on(void **state)
{
    struct wm_error err = WM_ERROR_INIT;
    struct gpu_rig r;

    (void)state;
    init(&r);
    rig_recipe(&r, recipes[0]);
    use_machine(&r, 1, true);
    seen.stop_at = N_BIG / 2;
    assert_int_equal(fixture_merge(&r.f, "c.yml", "out", &r.o, &err), WM_CANCELLED);
    assert_true(seen.bytes_written >= N_BIG / 2 && seen.bytes_written < BYTES_IN / 3);
    seen.stop_at = 0;
    expect_merge(&r, "out");
    assert_true(rig_has_cpu_bytes(&r, "out"));
    assert_true(seen.bytes_read <= BYTES_IN);
    expect_no_leaks();
    fixture_release(&r.f);
}

/* A failing call after the host has let go of a tensor: it is read again, and computed by another GPU or by the CPU. */
static void a_gpu_that_fails_gives_nothing_back(void **state)
{
    struct gpu_rig r;
    uint64_t n_again[3] = {0};
    int n_devices = 1;

    (void)state;
    init(&r);
    rig_recipe(&r, recipes[0]);
    for (unsigned nth = 600; nth < 3000; nth += 400 * STEP) {
        char out[32];
        n_devices = 3 - n_devices;
        use_machine(&r, n_devices, true);
        cuda_on_cpu_fail_at(nth, cudaErrorIllegalAddress, 0);
        snprintf(out, sizeof out, "out%u", nth);
        expect_merge(&r, out);
        if (!rig_has_cpu_bytes(&r, out))
            fail_msg("call %u failed: other bytes", nth);
        n_again[n_devices] += seen.bytes_read > BYTES_IN;
        assert_true(n_devices == 2 || r.h.warning[0]);
    }
    assert_true(n_again[1] > 0); /* of two, the other may have been so quick that this one kept nothing */
    fixture_release(&r.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_is_read_once),
        cmocka_unit_test(a_tensor_waits_for_the_one_before),
        cmocka_unit_test(what_cannot_be_checked_is_read_again),
        cmocka_unit_test(the_plan_says_so),
        cmocka_unit_test(what_finds_no_memory_comes_home),
        cmocka_unit_test(a_stopped_merge_goes_on),
        cmocka_unit_test(a_gpu_that_fails_gives_nothing_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
