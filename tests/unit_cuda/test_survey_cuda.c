/* The survey on pretended GPUs: the CPU's statistics and the CPU's merge, counted by the GPUs, whatever the streams do, the
 * memory holds, the n-th call returns, or the user stops; a GPU that is lost takes nothing with it. */
#include "base/file.h"
#include "cuda_on_cpu.h"
#include "engine/survey.h"
#include "support/merge_cases.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

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

struct heard {
    char warning[1024];
    int n_surveying, stop_at; /* the stop_at-th call of progress in the survey stops the run; 0: none does */
};

static void hear(void *user, const struct wm_problem *problem)
{
    struct heard *h = user;

    if (problem->severity == WM_WARNING)
        snprintf(h->warning, sizeof h->warning, "%s", problem->text);
}

static int look(void *user, const struct wm_progress *progress)
{
    struct heard *h = user;

    if (strcmp(progress->phase, "surveying") == 0)
        h->n_surveying++;
    assert_true(progress->bytes_read <= progress->bytes_to_read);
    return h->stop_at && h->n_surveying == h->stop_at;
}

static void set_up(struct wm_options *o, struct heard *h, enum wm_device device)
{
    struct wm_options fresh = WM_OPTIONS_INIT;

    *o = fresh;
    memset(h, 0, sizeof *h);
    o->device = device;
    o->on_problem = hear;
    o->on_progress = look;
    o->user = h;
    o->sync = 0;
    o->n_threads = 2;
    o->tile_bytes = 64 << 10;
    o->memory_bytes = 64u << 20;
}

static void make_machine(const struct machine *m)
{
    struct cuda_on_cpu_config config = cuda_on_cpu_default();

    config.n_devices = m->devices;
    config.memory_bytes = m->memory;
    config.lazy_streams = m->lazy;
    cuda_on_cpu_configure(&config);
}

static enum wm_status stats(const struct fixture *f, const char *out, const struct wm_options *o, struct wm_error *err)
{
    struct wm_merge *merge = NULL;
    char *text = NULL;
    enum wm_status st = wm_merge_open(&merge, fixture_path(f, "c.yml"), o, err);

    if (st == WM_OK)
        st = wm_merge_plan(merge, fixture_path(f, out), err);
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
static char *begin(struct fixture *f, struct hash128 *merged)
{
    struct wm_error err = WM_ERROR_INIT;
    struct wm_options o;
    struct heard h;
    char *found;

    fixture_init(f);
    merge_cases_write_models(f);
    merge_cases_write_config(f, "c.yml", recipe);
    set_up(&o, &h, WM_DEVICE_CPU);
    assert_int_equal(stats(f, "cpu", &o, &err), WM_OK);
    found = kept(f, "cpu");
    assert_int_equal(fixture_merge(f, "c.yml", "cpu", &o, &err), WM_OK);
    *merged = fixture_digest(f, "cpu");
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
    struct hash128 merged;
    struct fixture f;
    char *found = begin(&f, &merged), text[300], out[16];

    (void)state;
    for (size_t i = 0; i < sizeof machines / sizeof *machines; i++) {
        const struct machine *m = &machines[i];
        struct wm_error err = WM_ERROR_INIT;
        struct cuda_on_cpu_counts counts;
        struct cuda_on_cpu_live live;
        struct wm_options o;
        struct heard h;
        snprintf(out, sizeof out, "gpu%zu", i);
        make_machine(m);
        set_up(&o, &h, WM_DEVICE_CUDA);
        o.device_memory_bytes = m->budget;
        if (stats(&f, out, &o, &err) != WM_OK)
            fail_msg("machine %zu: %s", i, err.message);
        expect_kept(&f, out, found);
        assert_string_equal(h.warning, "");
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
        if (fixture_merge(&f, "c.yml", out, &o, &err) != WM_OK)
            fail_msg("machine %zu: %s", i, err.message);
        assert_true(hash128_equal(merged, fixture_digest(&f, out)));
    }
    free(found);
    fixture_release(&f);
}

/* In the middle of each pass, and where its counts are collected: the last GPU of several, or the only one. */
static void a_lost_gpu_is_done_without(void **state)
{
    struct hash128 merged;
    struct fixture f;
    char *found = begin(&f, &merged), out[32];
    int n_lost = 0;

    (void)state;
    for (int devices = 1; devices <= 3; devices++) {
        for (uint64_t n = 20; n < 600; n += 7 * STEP) {
            struct wm_error err = WM_ERROR_INIT;
            struct cuda_on_cpu_config config = cuda_on_cpu_default();
            struct cuda_on_cpu_counts counts;
            struct wm_options o;
            struct heard h;
            config.n_devices = devices;
            config.memory_bytes = (size_t)64 << 20;
            config.lazy_streams = n % 2 == 0;
            config.fail_at = n;
            config.fail_code = ILLEGAL_ADDRESS;
            config.fail_device = devices - 1;
            cuda_on_cpu_configure(&config);
            set_up(&o, &h, WM_DEVICE_CUDA);
            snprintf(out, sizeof out, "lost%d-%d", devices, (int)n);
            if (stats(&f, out, &o, &err) != WM_OK) {
                assert_non_null(strstr(err.message, "GPU")); /* while it was being started */
                assert_true(n < 60);
                continue;
            }
            expect_kept(&f, out, found);
            if (!h.warning[0])
                break; /* more calls than there are */
            n_lost++;
            assert_non_null(strstr(h.warning, "failed while"));
            assert_non_null(strstr(h.warning, "began again without it"));
            cuda_on_cpu_get_counts(&counts);
            if (devices > 1) /* the others did it all */
                assert_true(counts.launches >= N_PASSES * N_TILES);
        }
    }
    assert_true(n_lost >= (STEP > 1 ? 1 : 40));
    free(found);
    fixture_release(&f);
}

/* The merge goes on with the GPUs that are left, or the CPU, and says what happened. */
static void the_merge_does_not_use_a_gpu_that_was_lost(void **state)
{
    struct hash128 merged;
    struct fixture f;
    char *found = begin(&f, &merged), out[32];

    (void)state;
    for (int devices = 1; devices <= 2; devices++)
        for (int lost = 0; lost < devices; lost++) {
            struct cuda_on_cpu_config config = cuda_on_cpu_default();
            struct wm_error err = WM_ERROR_INIT;
            struct wm_options o;
            struct heard h;
            char name[32];
            config.n_devices = devices;
            config.memory_bytes = (size_t)64 << 20;
            config.lazy_streams = true;
            config.fail_at = 45; /* its first tiles */
            config.fail_code = ILLEGAL_ADDRESS;
            config.fail_device = lost;
            cuda_on_cpu_configure(&config);
            set_up(&o, &h, WM_DEVICE_CUDA);
            snprintf(out, sizeof out, "merged%d-%d", devices, lost);
            if (fixture_merge(&f, "c.yml", out, &o, &err) != WM_OK)
                fail_msg("GPU %d of %d lost: %s", lost, devices, err.message);
            assert_true(hash128_equal(merged, fixture_digest(&f, out)));
            snprintf(name, sizeof name, "GPU %d failed while", lost);
            assert_non_null(strstr(h.warning, name));
            assert_non_null(strstr(h.warning, "began again without it"));
        }
    free(found);
    fixture_release(&f);
}

/* Once or for good, at any call of the survey: the right statistics, or an error and no statistics, and then the same
 * command finds them. */
static void the_nth_call_may_fail(void **state)
{
    static const int codes[] = {ILLEGAL_ADDRESS, OUT_OF_MEMORY};
    struct hash128 merged;
    struct fixture f;
    char *found = begin(&f, &merged), out[32];
    int n_went_on = 0, n_ended = 0;

    (void)state;
    for (size_t c = 0; c < sizeof codes / sizeof *codes; c++) {
        for (uint64_t n = 1; n < 2000; n += n < 60 ? DENSE_STEP : 17 * STEP) {
            struct cuda_on_cpu_config config = cuda_on_cpu_default();
            struct cuda_on_cpu_counts counts;
            struct wm_error err = WM_ERROR_INIT;
            struct wm_options o;
            struct heard h;
            config.n_devices = 2;
            config.memory_bytes = (size_t)16 << 20;
            config.lazy_streams = n % 2 == 0;
            config.fail_at = n;
            config.fail_code = codes[c];
            config.fail_device = -1;
            cuda_on_cpu_configure(&config);
            set_up(&o, &h, WM_DEVICE_CUDA);
            snprintf(out, sizeof out, "out%zu-%d", c, (int)n);
            if (stats(&f, out, &o, &err) == WM_OK) {
                n_went_on += h.warning[0] != 0;
            } else {
                n_ended++;
                assert_true(strlen(err.message) > 20);
                cuda_on_cpu_configure(NULL);
                set_up(&o, &h, WM_DEVICE_CPU);
                err = (struct wm_error)WM_ERROR_INIT;
                assert_int_equal(stats(&f, out, &o, &err), WM_OK);
            }
            expect_kept(&f, out, found);
            cuda_on_cpu_get_counts(&counts);
            if (counts.calls && counts.calls < n)
                break;
        }
    }
    assert_true(n_went_on > (STEP > 1 ? 0 : 20));
    assert_true(n_ended > 0);
    free(found);
    fixture_release(&f);
}

/* At every call of progress: nothing is left on the devices, and the next run finds the same. */
static void stopped_anywhere(void **state)
{
    static const struct machine machine = {.memory = (size_t)64 << 20, .devices = 2, .lazy = true};
    struct hash128 merged;
    struct fixture f;
    char *found = begin(&f, &merged), text[300], out[16];
    int n_stopped = 0;

    (void)state;
    for (int stop_at = 1; stop_at < 40; stop_at += STOP_STEP) {
        struct wm_error err = WM_ERROR_INIT;
        struct wm_options o;
        struct heard h;
        make_machine(&machine);
        snprintf(out, sizeof out, "out%d", stop_at);
        set_up(&o, &h, WM_DEVICE_CUDA);
        h.stop_at = stop_at;
        if (stats(&f, out, &o, &err) == WM_OK)
            break;
        n_stopped++;
        assert_int_equal(err.status, WM_CANCELLED);
        if (cuda_on_cpu_leaks(text, sizeof text))
            fail_msg("stopped at call %d: %s", stop_at, text);
        h.stop_at = 0;
        err = (struct wm_error)WM_ERROR_INIT;
        assert_int_equal(stats(&f, out, &o, &err), WM_OK);
        expect_kept(&f, out, found);
    }
    assert_true(n_stopped >= (STOP_STEP > 1 ? 1 : N_PASSES));
    free(found);
    fixture_release(&f);
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
