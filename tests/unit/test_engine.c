/* Whole merges: the same bytes whatever the threads, tiles and budget; failures leave nothing wrong and resume. */
#include "base/file.h"
#include "support/merge_cases.h"
#include "support/sanitizers.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include <cmocka.h>

static void expect_merge(const struct fixture *f, const char *out, const struct wm_options *options)
{
    struct wm_error err = WM_ERROR_INIT;

    if (fixture_merge(f, "c.yml", out, options, &err) != WM_OK)
        fail_msg("%s", err.message);
}

static void same_bytes_whatever_the_machine_does(void **state)
{
    static const struct {
        int threads, io;
        uint64_t tile, memory;
    } ways[] = {{1, 1, 1 << 20, 0},
                {2, 3, 64 << 10, 0},
                {4, 4, 64 << 20, (uint64_t)1 << 31},
                {3, 2, 128 << 10, 64u << 20},
                {4, 8, 100000, 0}};
    struct fixture f;
    int n_out = 0;

    (void)state;
    fixture_init(&f);
    merge_cases_write_models(&f);
    for (size_t r = 0; r < merge_cases_count; r++) {
        struct hash128 first = {0, 0};
        merge_cases_write_config(&f, "c.yml", merge_cases_recipes[r]);
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w += UNDER_TSAN ? 2 : 1) {
            struct wm_options o = WM_OPTIONS_INIT;
            struct hash128 digest;
            char out[16];
            o.n_threads = ways[w].threads;
            o.n_io_threads = ways[w].io;
            o.tile_bytes = ways[w].tile;
            o.memory_bytes = ways[w].memory;
            o.sync = 0;
            o.shard_bytes = 300000;
            snprintf(out, sizeof out, "out%d", n_out++);
            expect_merge(&f, out, &o);
            digest = fixture_digest(&f, out);
            if (w == 0)
                first = digest;
            else if (!hash128_equal(first, digest))
                fail_msg("recipe %zu, way %zu: other bytes", r, w);
        }
    }
    fixture_release(&f);
}

static void a_streamed_tensor_equals_a_resident_one(void **state)
{
    struct fixture_tensor t[] = {{"big", WM_F32, 1, {9000001}, 1, 0.02, 0, 1e-3, NULL}};
    struct wm_options o = WM_OPTIONS_INIT;
    struct fixture f;

    (void)state;
    fixture_init(&f);
    for (uint64_t m = 0; m < 3; m++) {
        char name[16];
        snprintf(name, sizeof name, "m%d", (int)m);
        t[0].delta_seed = m;
        fixture_write_model(&f, name, t, 1, 0, NULL);
    }
    merge_cases_write_config(&f, "c.yml",
                             "merge_method: ties\nbase_model: '%0'\nparameters: {density: 0.37, weight: 1, rescale: "
                             "true}\nmodels:\n- model: '%1'\n- model: '%2'\n");
    o.sync = 0;
    o.n_threads = 2;
    expect_merge(&f, "resident", &o);
    o.memory_bytes = 64u << 20; /* the tensor's three copies are 108 MB */
    expect_merge(&f, "streamed", &o);
    assert_true(hash128_equal(fixture_digest(&f, "resident"), fixture_digest(&f, "streamed")));
    fixture_release(&f);
}

/* ---- failures -------------------------------------------------------------------------------------------------- */

static atomic_int countdown, fault_code, fault_kind;

static int fail_nth(enum file_call call, const char *path)
{
    (void)path;
    if (atomic_load(&fault_kind) >= 0 && (int)call != atomic_load(&fault_kind))
        return 0;
    return atomic_fetch_sub(&countdown, 1) == 1 ? atomic_load(&fault_code) : 0;
}

/* Every write, sync, open, rename... fails once, in turn; each time the final name is absent or right, and the same
 * command then finishes with the same bytes. */
static void every_call_may_fail_once(void **state)
{
    static const int kinds[] = {FILE_OPEN,  FILE_READ,     FILE_WRITE, FILE_SYNC,  FILE_RENAME,
                                FILE_MKDIR, FILE_ALLOCATE, FILE_CLOSE, FILE_UNLINK};
    struct wm_options o = WM_OPTIONS_INIT;
    struct hash128 expected;
    struct fixture f;
    int n_failed = 0, n_out = 0;

    (void)state;
    fixture_init(&f);
    merge_cases_write_models(&f);
    merge_cases_write_config(&f, "c.yml", merge_cases_recipes[1]);
    o.n_threads = 2;
    o.tile_bytes = 64 << 10;
    o.shard_bytes = 300000;
    expect_merge(&f, "good", &o);
    expected = fixture_digest(&f, "good");
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        for (int n = 1; n < 400; n += UNDER_TSAN ? 29 : n < 12 ? 1 : 9) {
            struct wm_error err = WM_ERROR_INIT;
            enum wm_status st;
            char out[16];
            bool fired;
            snprintf(out, sizeof out, "o%d", n_out++);
            atomic_store(&fault_kind, kinds[k]);
            atomic_store(&fault_code, n % 2 ? EIO : ENOSPC);
            atomic_store(&countdown, n);
            file_fault = fail_nth;
            st = fixture_merge(&f, "c.yml", out, &o, &err);
            file_fault = NULL;
            fired = atomic_load(&countdown) <= 0;
            if (st != WM_OK) {
                n_failed++;
                assert_int_equal(err.status, st);
                assert_true(strlen(err.message) > 20);
                if (file_exists(fixture_path(&f, out))) /* failed after the commit's rename: it must be whole */
                    assert_true(hash128_equal(expected, fixture_digest(&f, out)));
                else
                    expect_merge(&f, out, &o);
            }
            assert_true(hash128_equal(expected, fixture_digest(&f, out)));
            if (!fired)
                break;
        }
    }
    assert_true(n_failed > (UNDER_TSAN ? 8 : 50));
    fixture_release(&f);
}

static int cancel_at_once(void *user, const struct wm_progress *progress)
{
    (void)progress;
    ++*(int *)user;
    return 1;
}

static void a_cancelled_merge_resumes(void **state)
{
    struct wm_options o = WM_OPTIONS_INIT;
    struct wm_error err = WM_ERROR_INIT;
    struct hash128 expected;
    struct fixture f;
    int calls = 0;

    (void)state;
    fixture_init(&f);
    merge_cases_write_models(&f);
    merge_cases_write_config(&f, "c.yml", merge_cases_recipes[0]);
    expect_merge(&f, "good", &o);
    expected = fixture_digest(&f, "good");
    o.on_progress = cancel_at_once;
    o.user = &calls;
    assert_int_equal(fixture_merge(&f, "c.yml", "out", &o, &err), WM_CANCELLED);
    assert_true(calls > 0);
    assert_non_null(strstr(err.message, "again"));
    assert_false(file_exists(fixture_path(&f, "out")));
    o.on_progress = NULL;
    expect_merge(&f, "out", &o);
    assert_true(hash128_equal(expected, fixture_digest(&f, "out")));
    fixture_release(&f);
}

static void flip_a_byte(const char *path, long offset)
{
    FILE *file = fopen(path, "r+b");
    int c;

    assert_non_null(file);
    assert_int_equal(fseek(file, offset, SEEK_SET), 0);
    c = fgetc(file);
    assert_int_equal(fseek(file, offset, SEEK_SET), 0);
    fputc(c ^ 0x55, file);
    fclose(file);
}

/* Everything is written and journaled, then the sync fails. */
static void stop_at_the_sync(const struct fixture *f, const char *out, const struct wm_options *o)
{
    struct wm_error err = WM_ERROR_INIT;

    atomic_store(&fault_kind, FILE_SYNC);
    atomic_store(&fault_code, EIO);
    atomic_store(&countdown, 1);
    file_fault = fail_nth;
    assert_int_equal(fixture_merge(f, "c.yml", out, o, &err), WM_IO);
    file_fault = NULL;
}

static uint64_t bytes_resumed, bytes_to_write;

static int note_resumed(void *user, const struct wm_progress *progress)
{
    (void)user;
    if (progress->bytes_resumed) /* "syncing" tells of no numbers of its own */
        bytes_resumed = progress->bytes_resumed;
    bytes_to_write = progress->bytes_to_write;
    return 0;
}

/* A finished range whose bytes did not survive (power loss) is found out by its checksum and computed again, and no other. */
static void damaged_ranges_are_computed_again(void **state)
{
    struct wm_options o = WM_OPTIONS_INIT;
    struct hash128 expected;
    struct fixture f;

    (void)state;
    fixture_init(&f);
    merge_cases_write_models(&f);
    merge_cases_write_config(&f, "c.yml", merge_cases_recipes[1]);
    o.n_threads = 2;
    o.tile_bytes = 128 << 10; /* several pieces each */
    o.on_progress = note_resumed;
    expect_merge(&f, "good", &o);
    expected = fixture_digest(&f, "good");
    stop_at_the_sync(&f, "whole", &o);
    expect_merge(&f, "whole", &o);
    assert_int_equal(bytes_resumed, bytes_to_write);
    stop_at_the_sync(&f, "out", &o);
    bytes_resumed = 0;
    flip_a_byte(fixture_path(&f, ".out.warpmerge-partial/model.safetensors"), 4096 + 70000);
    flip_a_byte(fixture_path(&f, ".out.warpmerge-partial/model.safetensors"), 20); /* the header is rewritten */
    expect_merge(&f, "out", &o);
    assert_true(bytes_resumed < bytes_to_write && bytes_resumed + (128 << 10) >= bytes_to_write);
    assert_true(hash128_equal(expected, fixture_digest(&f, "out")));
    fixture_release(&f);
}

static void an_unfinished_merge_of_another_recipe_is_kept(void **state)
{
    struct wm_options o = WM_OPTIONS_INIT;
    struct wm_error err = WM_ERROR_INIT;
    struct fixture f;

    (void)state;
    fixture_init(&f);
    merge_cases_write_models(&f);
    merge_cases_write_config(&f, "c.yml", merge_cases_recipes[0]);
    stop_at_the_sync(&f, "out", &o);
    merge_cases_write_config(&f, "c.yml", merge_cases_recipes[6]);
    assert_int_equal(fixture_merge(&f, "c.yml", "out", &o, &err), WM_CANT_CREATE);
    assert_non_null(strstr(err.message, "--restart"));
    o.restart = 1;
    expect_merge(&f, "out", &o);
    fixture_release(&f);
}

/* ---- refusals -------------------------------------------------------------------------------------------------- */

static void outputs_that_are_refused(void **state)
{
    struct wm_options o = WM_OPTIONS_INIT;
    struct wm_error err;
    struct fixture f;
    static const struct {
        const char *out, *says;
    } cases[] = {{"m1", "is the input model"},    {"m1/inside", "lies inside it"},
                 {".", "lies inside the output"}, {"c.yml", "is not a directory"},
                 {"full", "is not empty"},        {"no/such/parent", "is not a directory; create it first"}};

    (void)state;
    fixture_init(&f);
    merge_cases_write_models(&f);
    merge_cases_write_config(&f, "c.yml", merge_cases_recipes[0]);
    assert_int_equal(file_make_dir(fixture_path(&f, "full"), NULL), WM_OK);
    fixture_write_file(&f, "full/precious.txt", "do not lose me");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        err = (struct wm_error)WM_ERROR_INIT;
        assert_int_equal(fixture_merge(&f, "c.yml", cases[i].out, &o, &err), WM_CANT_CREATE);
        if (!strstr(err.message, cases[i].says))
            fail_msg("%s: %s", cases[i].out, err.message);
    }
    assert_true(file_exists(fixture_path(&f, "full/precious.txt")));
    o.overwrite = 1;
    expect_merge(&f, "full", &o);
    assert_false(file_exists(fixture_path(&f, "full/precious.txt")));
    assert_true(file_exists(fixture_path(&f, "full/model.safetensors")));
    assert_int_equal(file_make_dir(fixture_path(&f, "full/sub"), NULL), WM_OK);
    err = (struct wm_error)WM_ERROR_INIT;
    assert_int_equal(fixture_merge(&f, "c.yml", "full", &o, &err), WM_CANT_CREATE);
    assert_non_null(strstr(err.message, "sub-folders"));
    assert_int_equal(file_make_dir(fixture_path(&f, "empty"), NULL), WM_OK);
    o.overwrite = 0;
    expect_merge(&f, "empty", &o); /* an empty directory is taken */
    fixture_release(&f);
}

static void bad_values_are_refused_and_counted(void **state)
{
    static float values[50000];
    struct fixture_tensor t[] = {{"w", WM_F32, 1, {50000}, 0, 0, 0, 0, values}};
    struct wm_options o = WM_OPTIONS_INIT;
    struct wm_error err = WM_ERROR_INIT;
    struct fixture f;

    (void)state;
    fixture_init(&f);
    fixture_write_model(&f, "m1", t, 1, 0, NULL);
    values[123] = NAN;
    values[40000] = INFINITY;
    values[40001] = -INFINITY;
    fixture_write_model(&f, "m2", t, 1, 0, NULL);
    merge_cases_write_config(&f, "c.yml",
                             "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: '%1'}, {model: '%2'}]\n");
    o.tile_bytes = 64 << 10;
    for (int attempt = 0; attempt < 2; attempt++) { /* the second must not resume into acceptance */
        err = (struct wm_error)WM_ERROR_INIT;
        assert_int_equal(fixture_merge(&f, "c.yml", "out", &o, &err), WM_BAD_DATA);
        assert_non_null(strstr(err.message, "tensor w of"));
        assert_non_null(strstr(err.message, "/m2"));
        assert_non_null(strstr(err.message, "3 of 50000 values"));
        assert_non_null(strstr(err.message, "element 123"));
        assert_false(file_exists(fixture_path(&f, "out")));
    }
    o.nonfinite = WM_POLICY_PROPAGATE;
    expect_merge(&f, "out", &o);

    memset(values, 0, sizeof values);
    values[7] = 70000.0f;
    fixture_write_model(&f, "m1", t, 1, 0, NULL);
    fixture_write_model(&f, "m2", t, 1, 0, NULL);
    merge_cases_write_config(&f, "c.yml",
                             "merge_method: linear\ndtype: float16\nparameters: {weight: 1}\nmodels: [{model: '%1'}, "
                             "{model: '%2'}]\n");
    o.nonfinite = WM_POLICY_ERROR;
    err = (struct wm_error)WM_ERROR_INIT;
    assert_int_equal(fixture_merge(&f, "c.yml", "half", &o, &err), WM_BAD_DATA);
    assert_non_null(strstr(err.message, "1 of 50000 merged values do not fit F16"));
    o.overflow = WM_POLICY_PROPAGATE;
    expect_merge(&f, "half", &o);
    fixture_release(&f);
}

static void integers_must_agree(void **state)
{
    static int64_t ids[100];
    struct fixture_tensor t[] = {{"position_ids", WM_I64, 1, {100}, 0, 0, 0, 0, ids}};
    struct wm_options o = WM_OPTIONS_INIT;
    struct wm_error err = WM_ERROR_INIT;
    struct fixture f;

    (void)state;
    fixture_init(&f);
    fixture_write_model(&f, "m1", t, 1, 0, NULL);
    ids[42] = 1;
    fixture_write_model(&f, "m2", t, 1, 0, NULL);
    merge_cases_write_config(&f, "c.yml",
                             "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: '%1'}, {model: '%2'}]\n");
    assert_int_equal(fixture_merge(&f, "c.yml", "out", &o, &err), WM_BAD_DATA);
    assert_non_null(strstr(err.message, "position_ids"));
    assert_non_null(strstr(err.message, "element 42"));
    fixture_release(&f);
}

static void an_input_that_changes_is_noticed(void **state)
{
    struct wm_options o = WM_OPTIONS_INIT;
    struct wm_error err = WM_ERROR_INIT;
    struct wm_merge *merge;
    struct fixture f;

    (void)state;
    fixture_init(&f);
    merge_cases_write_models(&f);
    merge_cases_write_config(&f, "c.yml", merge_cases_recipes[0]);
    assert_int_equal(wm_merge_open(&merge, fixture_path(&f, "c.yml"), &o, &err), WM_OK);
    assert_int_equal(wm_merge_plan(merge, fixture_path(&f, "out"), &err), WM_OK);
    assert_int_equal(truncate(fixture_path(&f, "m2/model.safetensors"), 5000), 0);
    assert_int_equal(wm_merge_run(merge, &err), WM_BAD_DATA);
    assert_non_null(strstr(err.message, "m2/model.safetensors"));
    wm_merge_free(merge);
    fixture_release(&f);
}

static void two_runs_on_one_output_refuse_each_other(void **state)
{
    struct wm_options o = WM_OPTIONS_INIT;
    struct wm_error err = WM_ERROR_INIT;
    struct fixture f;
    pid_t holder;
    int ready[2];
    char c;

    (void)state;
    fixture_init(&f);
    merge_cases_write_models(&f);
    merge_cases_write_config(&f, "c.yml", merge_cases_recipes[0]);
    assert_int_equal(file_make_dir(fixture_path(&f, ".out.warpmerge-partial"), NULL), WM_OK);
    assert_int_equal(pipe(ready), 0);
    holder = fork();
    if (holder == 0) {
        FILE *lock = fopen(fixture_path(&f, ".out.warpmerge-partial/lock.warpmerge"), "w");
        if (lock && flock(fileno(lock), LOCK_EX) == 0 && write(ready[1], "x", 1) == 1)
            pause();
        _exit(0);
    }
    assert_int_equal(read(ready[0], &c, 1), 1);
    assert_int_equal(fixture_merge(&f, "c.yml", "out", &o, &err), WM_TEMPORARY);
    assert_non_null(strstr(err.message, "another process"));
    kill(holder, 9);
    close(ready[0]);
    close(ready[1]);
    fixture_release(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bytes_whatever_the_machine_does),
        cmocka_unit_test(a_streamed_tensor_equals_a_resident_one),
        cmocka_unit_test(every_call_may_fail_once),
        cmocka_unit_test(a_cancelled_merge_resumes),
        cmocka_unit_test(damaged_ranges_are_computed_again),
        cmocka_unit_test(an_unfinished_merge_of_another_recipe_is_kept),
        cmocka_unit_test(outputs_that_are_refused),
        cmocka_unit_test(bad_values_are_refused_and_counted),
        cmocka_unit_test(integers_must_agree),
        cmocka_unit_test(an_input_that_changes_is_noticed),
        cmocka_unit_test(two_runs_on_one_output_refuse_each_other),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
