/* The survey on pretended GPUs: the CPU's statistics and the CPU's merge, counted by the GPUs, whatever the streams do, the
 * memory holds, the n-th call returns, or the user stops; a GPU that is lost takes nothing with it. */
#include "engine/survey.h"
#include "merge_on_gpu.h"

/* A sanitizer makes each merge ten times as long: there fewer calls fail. */
#if defined(__SANITIZE_THREAD__)
enum { DENSE_STEP = 59, STEP = 97, STOP_STEP = 17 };
#elif defined(__SANITIZE_ADDRESS__)
enum { DENSE_STEP = 7, STEP = 11, STOP_STEP = 5 };
#else
enum { DENSE_STEP = 3, STEP = 1, STOP_STEP = 1 };
#endif
enum { ILLEGAL_ADDRESS = 700, OUT_OF_MEMORY = 2 }; /* cudaError_t */

/* Three of the models' tensors are worth the device, with five tiles each. */
enum { N_TILES = 15, N_PASSES = 3 };
static const char recipe[] =
    "merge_method: ties\nbase_model: '%0'\nparameters: {trim: global, weight: 1, density: 0.2}\n"
    "models:\n- {model: '%1'}\n- {model: '%2', parameters: {density: 0.61}}\n"
    "- {model: '%3'}\n";

struct machine {
    size_t memory;
    uint64_t budget; /* --device-memory; 0: none */
    uint64_t launches;
    int devices;
    bool lazy;
};

/* The stop_at-th call of progress in the survey stops the run; 0: none does. */
static int n_surveying, stop_at;

static int look(void *user, const struct wm_progress *progress)
{
    (void)user;
    if (strcmp(progress->phase, "surveying") == 0)
        n_surveying++;
    assert_true(progress->bytes_read <= progress->bytes_to_read);
    return stop_at && n_surveying == stop_at;
}

/* rig_machine, and the run is watched. */
static void begin_run(struct gpu_rig *r, const struct cuda_on_cpu_config *config, enum wm_device device)
{
    rig_machine(r, config, device);
    r->o.on_progress = look;
    n_surveying = stop_at = 0;
}

static struct cuda_on_cpu_config config_of(const struct machine *m)
{
    struct cuda_on_cpu_config config = cuda_on_cpu_default();

    config.n_devices = m->devices;
    config.memory_bytes = m->memory;
    config.lazy_streams = m->lazy;
    return config;
}

static enum wm_status stats(const struct gpu_rig *r, const char *out, struct wm_error *err)
{
    struct wm_merge *merge = NULL;
    char *text = NULL;
    enum wm_status st = wm_merge_open(&merge, fixture_path(&r->f, "c.yml"), &r->o, err);

    if (st == WM_OK)
        st = wm_merge_plan(merge, fixture_path(&r->f, out), err);
    if (st == WM_OK)
        st = wm_merge_stats(merge, 1, &text, err);
    wm_text_free(text);
    wm_merge_free(merge);
    return st;
}

/* What the survey has left behind; malloc'ed. */
static char *kept(const struct fixture *f, const char *out)
{
    char name[64], *text;
    size_t n_bytes;

    snprintf(name, sizeof name, ".%s.warpmerge-partial/" SURVEY_FILE_NAME, out);
    assert_int_equal(file_read_all(fixture_path(f, name), 1 << 20, &text, &n_bytes, NULL), WM_OK);
    text = realloc(text, n_bytes + 1);
    assert_non_null(text);
    text[n_bytes] = '\0';
    return text;
}

static void expect_kept(const struct fixture *f, const char *out, const char *expected)
{
    char *got = kept(f, out);

    if (strcmp(got, expected) != 0)
        fail_msg("%s: other statistics than the CPU's:\n%s%s", out, got, expected);
    free(got);
}

/* The models, the CPU's statistics and its merge. */
static char *begin(struct gpu_rig *r)
{
    struct wm_error err = WM_ERROR_INIT;
    char *found;

    rig_init(r);
    merge_cases_write_config(&r->f, "c.yml", recipe);
    begin_run(r, NULL, WM_DEVICE_CPU);
    assert_int_equal(stats(r, "cpu", &err), WM_OK);
    found = kept(&r->f, "cpu");
    expect_merge(r, "cpu");
    r->expected = fixture_digest(&r->f, "cpu");
    return found;
}

/* ---- tests -------------------------------------------------------------------------------------------------------- */

/* Every tile of a pass is one launch, and nothing but counts is copied from or to memory that is not pinned. On the small
 * devices only SIGNS has room for its counts. */
static void gpus_find_what_the_cpu_finds(void **state)
{
    static const struct machine machines[] = {{(size_t)256 << 20, 0, N_PASSES * N_TILES, 1, false},
                                              {(size_t)256 << 20, 0, N_PASSES * N_TILES, 1, true},
                                              {(size_t)256 << 20, 0, N_PASSES * N_TILES, 2, true},
                                              {(size_t)32 << 20, 0, N_PASSES * N_TILES, 3, true},
                                              {(size_t)3 << 20, 0, N_TILES, 1, true},
                                              {(size_t)256 << 20, 3 << 20, N_TILES, 2, true}};
    enum { COUNT_COPIES = 3 + 2 + 1 }; /* the counts of three models, in pieces of 512 KB */
    struct gpu_rig r;
    char *found = begin(&r), text[300], out[16];

    (void)state;
    for (size_t i = 0; i < sizeof machines / sizeof *machines; i++) {
        const struct machine *m = &machines[i];
        const struct cuda_on_cpu_config config = config_of(m);
        struct wm_error err = WM_ERROR_INIT;
        struct cuda_on_cpu_counts counts;
        struct cuda_on_cpu_live live;
        snprintf(out, sizeof out, "gpu%zu", i);
        begin_run(&r, &config, WM_DEVICE_CUDA);
        r.o.device_memory_bytes = m->budget;
        if (stats(&r, out, &err) != WM_OK)
            fail_msg("machine %zu: %s", i, err.message);
        expect_kept(&r.f, out, found);
        assert_string_equal(r.h.warning, "");
        cuda_on_cpu_get_counts(&counts);
        assert_int_equal(counts.launches, m->launches);
        assert_true(counts.pageable_copies <= (uint64_t)(m->devices * COUNT_COPIES));
        for (int d = 0; d < m->devices; d++) {
            cuda_on_cpu_get_live(d, &live);
            assert_true(live.peak_device_bytes > 0);
            assert_true(!m->budget || live.peak_device_bytes <= m->budget);
        }
        if (cuda_on_cpu_leaks(text, sizeof text))
            fail_msg("machine %zu: %s", i, text);
        if (fixture_merge(&r.f, "c.yml", out, &r.o, &err) != WM_OK)
            fail_msg("machine %zu: %s", i, err.message);
        assert_true(rig_has_cpu_bytes(&r, out));
    }
    free(found);
    fixture_release(&r.f);
}

/* In the middle of each pass, and where its counts are collected: the last GPU of several, or the only one. */
static void a_lost_gpu_is_done_without(void **state)
{
    struct gpu_rig r;
    char *found = begin(&r), out[32];
    int n_lost = 0;

    (void)state;
    for (int devices = 1; devices <= 3; devices++) {
        for (uint64_t n = 20; n < 600; n += 7 * STEP) {
            struct wm_error err = WM_ERROR_INIT;
            struct cuda_on_cpu_config config = cuda_on_cpu_default();
            struct cuda_on_cpu_counts counts;
            config.n_devices = devices;
            config.memory_bytes = (size_t)64 << 20;
            config.lazy_streams = n % 2 == 0;
            config.fail_at = n;
            config.fail_code = ILLEGAL_ADDRESS;
            config.fail_device = devices - 1;
            begin_run(&r, &config, WM_DEVICE_CUDA);
            snprintf(out, sizeof out, "lost%d-%d", devices, (int)n);
            if (stats(&r, out, &err) != WM_OK) {
                assert_non_null(strstr(err.message, "GPU")); /* while it was being started */
                assert_true(n < 60);
                continue;
            }
            expect_kept(&r.f, out, found);
            cuda_on_cpu_get_counts(&counts);
            if (counts.calls < n)
                break;             /* more calls than there are */
            if (!r.h.warning[0]) { /* it had not so many, since others were quicker, or it gave back what it had */
                assert_int_equal(counts.launches, N_PASSES * N_TILES);
                continue;
            }
            n_lost++;
            assert_non_null(strstr(r.h.warning, "failed while"));
            assert_non_null(strstr(r.h.warning, "began again without it"));
            if (devices > 1) /* the others did it all */
                assert_true(counts.launches >= N_PASSES * N_TILES);
        }
    }
    assert_true(n_lost >= (STEP > 1 ? 1 : 40));
    free(found);
    fixture_release(&r.f);
}

/* GPU `lost` of a machine with `devices` fails at one of its first tiles. False: it got none, since others were quicker. */
static bool a_gpu_is_lost(struct gpu_rig *r, int devices, int lost, int again)
{
    struct cuda_on_cpu_config config = cuda_on_cpu_default();
    struct wm_error err = WM_ERROR_INIT;
    struct cuda_on_cpu_live live;
    char name[32], out[32];

    config.n_devices = devices;
    config.memory_bytes = (size_t)64 << 20;
    config.lazy_streams = true;
    config.fail_at = 45;
    config.fail_code = ILLEGAL_ADDRESS;
    config.fail_device = lost;
    begin_run(r, &config, WM_DEVICE_CUDA);
    snprintf(out, sizeof out, "merged%d-%d-%d", devices, lost, again);
    if (fixture_merge(&r->f, "c.yml", out, &r->o, &err) != WM_OK)
        fail_msg("GPU %d of %d lost: %s", lost, devices, err.message);
    assert_true(rig_has_cpu_bytes(r, out));
    cuda_on_cpu_get_live(lost, &live);
    if (!live.failed)
        return false;
    snprintf(name, sizeof name, "GPU %d failed while", lost);
    assert_non_null(strstr(r->h.warning, name));
    assert_non_null(strstr(r->h.warning, "began again without it"));
    return true;
}

/* The merge goes on with the GPUs that are left, or the CPU, and says what happened. */
static void the_merge_does_not_use_a_gpu_that_was_lost(void **state)
{
    struct gpu_rig r;
    char *found = begin(&r);

    (void)state;
    for (int devices = 1; devices <= 2; devices++)
        for (int lost = 0; lost < devices; lost++) {
            int again = 0;
            while (!a_gpu_is_lost(&r, devices, lost, again))
                assert_true(++again < (devices == 1 ? 1 : 20));
        }
    free(found);
    fixture_release(&r.f);
}

/* Once or for good, at any call of the survey: the right statistics, or an error and no statistics, and then the same
 * command finds them. */
static void the_nth_call_may_fail(void **state)
{
    static const int codes[] = {ILLEGAL_ADDRESS, OUT_OF_MEMORY};
    struct gpu_rig r;
    char *found = begin(&r), out[32];
    int n_went_on = 0, n_ended = 0;

    (void)state;
    for (size_t c = 0; c < sizeof codes / sizeof *codes; c++) {
        for (uint64_t n = 1; n < 2000; n += n < 60 ? DENSE_STEP : 17 * STEP) {
            struct cuda_on_cpu_config config = cuda_on_cpu_default();
            struct cuda_on_cpu_counts counts;
            struct wm_error err = WM_ERROR_INIT;
            config.n_devices = 2;
            config.memory_bytes = (size_t)16 << 20;
            config.lazy_streams = n % 2 == 0;
            config.fail_at = n;
            config.fail_code = codes[c];
            config.fail_device = -1;
            begin_run(&r, &config, WM_DEVICE_CUDA);
            snprintf(out, sizeof out, "out%zu-%d", c, (int)n);
            if (stats(&r, out, &err) == WM_OK) {
                n_went_on += r.h.warning[0] != 0;
            } else {
                n_ended++;
                assert_true(strlen(err.message) > 20);
                begin_run(&r, NULL, WM_DEVICE_CPU);
                err = (struct wm_error)WM_ERROR_INIT;
                assert_int_equal(stats(&r, out, &err), WM_OK);
            }
            expect_kept(&r.f, out, found);
            cuda_on_cpu_get_counts(&counts);
            if (counts.calls && counts.calls < n)
                break;
        }
    }
    assert_true(n_went_on > (STEP > 1 ? 0 : 20));
    assert_true(n_ended > 0);
    free(found);
    fixture_release(&r.f);
}

/* At every call of progress: nothing is left on the devices, and the next run finds the same. */
static void stopped_anywhere(void **state)
{
    static const struct machine machine = {.memory = (size_t)64 << 20, .devices = 2, .lazy = true};
    const struct cuda_on_cpu_config config = config_of(&machine);
    struct gpu_rig r;
    char *found = begin(&r), text[300], out[16];
    int n_stopped = 0;

    (void)state;
    for (int stop = 1; stop < 40; stop += STOP_STEP) {
        struct wm_error err = WM_ERROR_INIT;
        begin_run(&r, &config, WM_DEVICE_CUDA);
        snprintf(out, sizeof out, "out%d", stop);
        stop_at = stop;
        if (stats(&r, out, &err) == WM_OK)
            break;
        n_stopped++;
        assert_int_equal(err.status, WM_CANCELLED);
        if (cuda_on_cpu_leaks(text, sizeof text))
            fail_msg("stopped at call %d: %s", stop, text);
        stop_at = 0;
        err = (struct wm_error)WM_ERROR_INIT;
        assert_int_equal(stats(&r, out, &err), WM_OK);
        expect_kept(&r.f, out, found);
    }
    assert_true(n_stopped >= (STOP_STEP > 1 ? 1 : N_PASSES));
    free(found);
    fixture_release(&r.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpus_find_what_the_cpu_finds),
        cmocka_unit_test(a_lost_gpu_is_done_without),
        cmocka_unit_test(the_merge_does_not_use_a_gpu_that_was_lost),
        cmocka_unit_test(the_nth_call_may_fail),
        cmocka_unit_test(stopped_anywhere),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
