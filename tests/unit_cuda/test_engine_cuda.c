/* Whole merges on a pretended GPU: the CPU's bytes, whatever the streams do or the memory holds. */
#include "merge_on_gpu.h"
#include "methods/device.h"
#include "support/sanitizers.h"

#include <time.h>

/* A sanitizer makes each merge ten times as long. */
enum { RECIPE_STEP = UNDER_ASAN || UNDER_TSAN ? 3 : 1 };

/* Every recipe on every pretended machine: eager and lazy streams (a forgotten event shows in the latter), several
 * devices, and a device so small that nothing stays on it. Every tile is also recomputed by the backend itself. */
static void a_gpu_gives_the_cpus_bytes(void **state)
{
    static const struct {
        int devices;
        size_t memory;
        bool lazy;
    } machines[] = {{1, (size_t)256 << 20, false},
                    {1, (size_t)256 << 20, true},
                    {1, (size_t)3 << 20, true},
                    {3, (size_t)32 << 20, true}};
    struct gpu_rig rig;
    char out[32];

    (void)state;
    rig_init(&rig);
    for (size_t r = RECIPE_STEP > 1; r < merge_cases_count; r += RECIPE_STEP) {
        rig_recipe(&rig, merge_cases_recipes[r]);
        for (size_t m = UNDER_TSAN; m < sizeof machines / sizeof *machines; m += 1 + UNDER_TSAN) {
            struct cuda_on_cpu_config machine = cuda_on_cpu_default();
            struct cuda_on_cpu_counts counts;
            machine.n_devices = machines[m].devices;
            machine.memory_bytes = machines[m].memory;
            machine.lazy_streams = machines[m].lazy;
            rig_machine(&rig, &machine, WM_DEVICE_CUDA);
            rig.o.verify_per_1000 = m == 1 ? 1000 : 0;
            snprintf(out, sizeof out, "gpu%zu-%zu", r, m);
            expect_merge(&rig, out);
            if (!rig_has_cpu_bytes(&rig, out))
                fail_msg("recipe %zu, machine %zu: other bytes than the CPU's", r, m);
            assert_string_equal(rig.h.warning, "");
            cuda_on_cpu_get_counts(&counts);
            assert_true(counts.launches > 0);
            expect_no_leaks();
        }
    }
    fixture_release(&rig.f);
}

/* ---- who computes Gram matrices of rows and columns ------------------------------------------------------------- */

/* Of merges on one GPU, whose one thread makes all of these calls. */
static struct {
    bool counting;
    int on_gpu, on_cpu;              /* tiles of tensors that are worth a GPU                     */
    const struct statistics *of;     /* the tensor of the last one on the GPU ...                 */
    int n_unawaited, most_unawaited; /* ... and its tiles there since something was waited for  */
    int n_stream_waits;
} vector_passes;

cudaError_t __real_device_pass_launch(const struct merge_op *op, const struct statistics *s,
                                      const struct merge_tile *tile, void *results, cudaStream_t stream);
cudaError_t __wrap_device_pass_launch(const struct merge_op *op, const struct statistics *s,
                                      const struct merge_tile *tile, void *results, cudaStream_t stream);
void __real_cpu_statistics_tile(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                                struct cpu_scratch *scratch);
void __wrap_cpu_statistics_tile(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                                struct cpu_scratch *scratch);
cudaError_t __real_cudaEventSynchronize(cudaEvent_t event);
cudaError_t __wrap_cudaEventSynchronize(cudaEvent_t event);
cudaError_t __real_cudaStreamSynchronize(cudaStream_t stream);
cudaError_t __wrap_cudaStreamSynchronize(cudaStream_t stream);

/* Linked in place of device_pass_launch, and so on. */
cudaError_t __wrap_device_pass_launch(const struct merge_op *op, const struct statistics *s,
                                      const struct merge_tile *tile, void *results, cudaStream_t stream)
{
    if (vector_passes.counting && op->axis != AXIS_TENSOR) {
        vector_passes.on_gpu++;
        vector_passes.n_unawaited = vector_passes.of == s ? vector_passes.n_unawaited + 1 : 1;
        vector_passes.of = s;
        if (vector_passes.n_unawaited > vector_passes.most_unawaited)
            vector_passes.most_unawaited = vector_passes.n_unawaited;
    }
    return __real_device_pass_launch(op, s, tile, results, stream);
}

void __wrap_cpu_statistics_tile(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                                struct cpu_scratch *scratch)
{
    if (vector_passes.counting)
        vector_passes.on_cpu += op->axis != AXIS_TENSOR && op->n_elems >= 65536;
    __real_cpu_statistics_tile(op, s, tile, scratch);
}

cudaError_t __wrap_cudaEventSynchronize(cudaEvent_t event)
{
    if (vector_passes.counting) {
        if (vector_passes.most_unawaited < 2) /* on a busy machine: readers get ahead of the thread that waits here */
            nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        vector_passes.n_unawaited = 0;
    }
    return __real_cudaEventSynchronize(event);
}

cudaError_t __wrap_cudaStreamSynchronize(cudaStream_t stream)
{
    if (vector_passes.counting) /* one GPU alone */
        vector_passes.n_stream_waits++;
    return __real_cudaStreamSynchronize(stream);
}

/* Tensors that are merged row by row or column by column in tiles that begin in the middle of a row: every tile's sums are
 * the GPU's, the next tile is launched before the last one is waited for, nothing but each tensor's sums is waited for
 * beside the tiles, and the bytes are the CPU's. */
static void rows_and_columns_stay_on_the_gpu(void **state)
{
    struct gpu_rig rig;
    char out[32];
    int n_merges = 0;

    (void)state;
    rig_init(&rig);
    for (size_t r = 0; r < merge_cases_count; r++) {
        if (!strstr(merge_cases_recipes[r], "nuslerp_flatten: false"))
            continue;
        rig_recipe(&rig, merge_cases_recipes[r]);
        for (int lazy = 0; lazy < 2; lazy++, n_merges++) {
            struct cuda_on_cpu_config machine = cuda_on_cpu_default();
            machine.lazy_streams = lazy;
            rig_machine(&rig, &machine, WM_DEVICE_CUDA);
            rig.o.verify_per_1000 = 1000;
            vector_passes.on_gpu = vector_passes.on_cpu = vector_passes.n_stream_waits = 0;
            vector_passes.counting = true;
            snprintf(out, sizeof out, "gpu%zu-%d", r, lazy);
            expect_merge(&rig, out);
            vector_passes.counting = false;
            assert_true(rig_has_cpu_bytes(&rig, out));
            assert_int_equal(vector_passes.on_gpu, 5 + 5); /* model.embed_tokens.weight and model.layers.0.a */
            assert_int_equal(vector_passes.on_cpu, 0);
            assert_int_equal(vector_passes.n_stream_waits, 3); /* and model.layers.1.b */
            expect_no_leaks();
        }
    }
    assert_int_equal(n_merges, 4);
    assert_true(vector_passes.most_unawaited > 1);
    fixture_release(&rig.f);
}

static void no_gpu_is_said_or_done_without(void **state)
{
    struct cuda_on_cpu_config machine = cuda_on_cpu_default();
    struct wm_error err = WM_ERROR_INIT;
    struct gpu_rig r;

    (void)state;
    rig_init(&r);
    merge_cases_write_config(&r.f, "c.yml", merge_cases_recipes[0]);
    for (int n = -1; n <= 0; n++) {
        machine.n_devices = n;
        rig_machine(&r, &machine, WM_DEVICE_CUDA);
        err = (struct wm_error)WM_ERROR_INIT;
        assert_int_equal(fixture_merge(&r.f, "c.yml", "none", &r.o, &err), WM_NO_DEVICE);
        set_up(&r.o, &r.h, WM_DEVICE_AUTO);
        expect_merge(&r, n ? "auto1" : "auto0");
    }
    machine.n_devices = 2;
    rig_machine(&r, &machine, WM_DEVICE_CUDA);
    r.o.device_index = 3; /* cuda:2 */
    err = (struct wm_error)WM_ERROR_INIT;
    assert_int_equal(fixture_merge(&r.f, "c.yml", "third", &r.o, &err), WM_NO_DEVICE);
    assert_non_null(strstr(err.message, "no GPU 2"));
    fixture_release(&r.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_gpu_gives_the_cpus_bytes),
        cmocka_unit_test(rows_and_columns_stay_on_the_gpu),
        cmocka_unit_test(no_gpu_is_said_or_done_without),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
