/* The survey before a whole-model merge: the same thresholds for any threads and budget; found once, kept for the
 * next run, and made again whenever what was kept is not whole or not this merge's. */
#include "engine/survey.h"

#include "base/file.h"
#include "support/sanitizers.h"
#include "survey_case.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- through the public API ------------------------------------------------------------------------------------- */

/* A number of a JSON text that is written by us. */
static uint64_t number_in(const char *json, const char *key)
{
    char quoted[64];
    const char *at;

    snprintf(quoted, sizeof quoted, "\"%s\": ", key);
    at = strstr(json, quoted);
    assert_non_null(at);
    return strtoull(at + strlen(quoted), NULL, 10);
}

struct ran {
    uint64_t bytes_in, bytes_to_read, bytes_read;
    int n_passes;
};

/* `stats` or a merge of c.yml into `out`, and what plan and result say about reading. */
static enum wm_status run(const struct fixture *f, const char *out, bool only_stats, const struct wm_options *options,
                          struct ran *ran, struct wm_error *err)
{
    struct wm_merge *merge = NULL;
    enum wm_status st = wm_merge_open(&merge, fixture_path(f, "c.yml"), options, err);
    char *text = NULL;

    memset(ran, 0, sizeof *ran);
    if (st == WM_OK)
        st = wm_merge_plan(merge, fixture_path(f, out), err);
    if (st == WM_OK)
        st = wm_merge_describe(merge, 1, &text, err);
    if (st == WM_OK) {
        ran->bytes_in = number_in(text, "bytes_in");
        ran->bytes_to_read = number_in(text, "bytes_to_read");
        ran->n_passes = (int)number_in(text, "survey_passes");
        wm_text_free(text);
        text = NULL;
        st = only_stats ? wm_merge_stats(merge, 1, &text, err) : wm_merge_run(merge, err);
    }
    if (st == WM_OK && !only_stats)
        st = wm_merge_summary(merge, 1, &text, err);
    if (st == WM_OK)
        ran->bytes_read = number_in(text, "bytes_read");
    wm_text_free(text);
    wm_merge_free(merge);
    return st;
}

static void must_run(const struct fixture *f, const char *out, bool only_stats, const struct wm_options *options,
                     struct ran *ran)
{
    struct wm_error err = WM_ERROR_INIT;

    if (run(f, out, only_stats, options, ran, &err) != WM_OK)
        fail_msg("%s", err.message);
}

static void the_survey_is_planned(void **state)
{
    static const struct {
        const char *yaml;
        int n_passes;
    } table[] = {
        {"merge_method: ties\nbase_model: '%0'\nparameters: {weight: 1, density: 0.2}\nmodels:\n- model: '%1'\n", 0},
        {"merge_method: ties\nbase_model: '%0'\nparameters: {trim: tensor, weight: 1, density: 0.2}\nmodels:\n"
         "- model: '%1'\n",
         0},
        {"merge_method: ties\nbase_model: '%0'\nparameters: {trim: global, weight: 1}\nmodels:\n- model: '%1'\n", 1},
        {recipe, 3},
    };
    struct wm_options o = quick();
    struct fixture f;

    (void)state;
    begin(&f);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct ran ran;
        char out[16];
        snprintf(out, sizeof out, "out%zu", i);
        merge_cases_write_config(&f, "c.yml", table[i].yaml);
        must_run(&f, out, false, &o, &ran);
        assert_int_equal(ran.n_passes, table[i].n_passes);
        assert_int_equal(ran.bytes_read, ran.bytes_to_read);
        if (!table[i].n_passes)
            assert_int_equal(ran.bytes_read, ran.bytes_in);
        else /* integers are copied: the survey passes them over */
            assert_true(ran.bytes_read > ran.bytes_in &&
                        ran.bytes_read < (uint64_t)(1 + table[i].n_passes) * ran.bytes_in);
    }
    fixture_release(&f);
}

static void same_bytes_whatever_the_machine_does(void **state)
{
    static const struct {
        int threads, io;
        uint64_t tile, memory;
    } ways[] = {{1, 1, 1 << 20, 0},  {2, 4, 64 << 10, 0},        {8, 8, 64 << 10, 0},
                {2, 1, 0, 64 << 20}, {8, 2, 64 << 10, 96 << 20}, {1, 8, 64 << 20, (uint64_t)1 << 31}};
    struct hash128 first = {0, 0};
    struct fixture f;

    (void)state;
    begin(&f);
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        struct wm_options o = quick();
        struct ran ran;
        char out[16];
        o.n_threads = ways[w].threads;
        o.n_io_threads = ways[w].io;
        o.tile_bytes = ways[w].tile;
        o.memory_bytes = ways[w].memory;
        snprintf(out, sizeof out, "out%zu", w);
        must_run(&f, out, false, &o, &ran);
        if (w == 0)
            first = fixture_digest(&f, out);
        else if (!hash128_equal(first, fixture_digest(&f, out)))
            fail_msg("way %zu: other bytes", w);
    }
    fixture_release(&f);
}

/* ---- what is kept ------------------------------------------------------------------------------------------------ */

#define KEPT ".out.warpmerge-partial/" SURVEY_FILE_NAME

static void stats_are_used_by_the_merge(void **state)
{
    struct wm_options o = quick();
    struct ran alone, found, again, merged;
    struct fixture f;

    (void)state;
    begin(&f);
    must_run(&f, "alone", false, &o, &alone);
    must_run(&f, "out", true, &o, &found);
    assert_int_equal(found.bytes_read + found.bytes_in, alone.bytes_read);
    assert_int_not_equal(access(fixture_path(&f, "out"), F_OK), 0);
    must_run(&f, "out", true, &o, &again);
    assert_int_equal(again.bytes_read, 0);
    must_run(&f, "out", false, &o, &merged);
    assert_int_equal(merged.bytes_read, merged.bytes_in);
    assert_int_not_equal(access(fixture_path(&f, "out/" SURVEY_FILE_NAME), F_OK), 0);
    assert_true(hash128_equal(fixture_digest(&f, "alone"), fixture_digest(&f, "out")));
    /* --restart trusts nothing that lies there. */
    must_run(&f, "fresh", true, &o, &again);
    o.restart = 1;
    must_run(&f, "fresh", false, &o, &merged);
    assert_int_equal(merged.bytes_read, merged.bytes_to_read);
    fixture_release(&f);
}

static void nothing_to_find_is_no_error(void **state)
{
    struct wm_options o = quick();
    struct ran ran;
    struct fixture f;

    (void)state;
    begin(&f);
    merge_cases_write_config(&f, "c.yml", merge_cases_recipes[0]);
    must_run(&f, "out", true, &o, &ran);
    assert_int_equal(ran.bytes_read, 0);
    assert_int_not_equal(access(fixture_path(&f, ".out.warpmerge-partial"), F_OK), 0);
    fixture_release(&f);
}

/* Every 7th byte changed, and the file cut: the survey is made again, and the merge is right. */
static void a_damaged_file_is_not_believed(void **state)
{
    struct wm_options o = quick();
    struct ran ran;
    struct fixture f;
    char *good;
    size_t n_bytes;

    (void)state;
    begin(&f);
    must_run(&f, "out", true, &o, &ran);
    assert_int_equal(file_read_all(fixture_path(&f, KEPT), 1 << 20, &good, &n_bytes, NULL), WM_OK);
    for (size_t i = 0; i < 2 * n_bytes; i += UNDER_TSAN ? 499 : 7) {
        size_t n = i < n_bytes ? n_bytes : i - n_bytes;
        char *bad = malloc(n_bytes);
        assert_non_null(bad);
        memcpy(bad, good, n_bytes);
        if (i < n_bytes)
            bad[i] = (char)(bad[i] ^ 1);
        assert_int_equal(file_write_whole(fixture_path(&f, KEPT), bad, n, false, NULL), WM_OK);
        must_run(&f, "out", true, &o, &ran);
        if (ran.bytes_read == 0)
            fail_msg("believed with byte %zu changed, %zu of %zu bytes", i, n, n_bytes);
        free(bad);
    }
    free(good);
    fixture_release(&f);
}

static void another_merge_s_file_is_not_believed(void **state)
{
    struct wm_options o = quick();
    struct ran ran;
    struct fixture f;

    (void)state;
    begin(&f);
    must_run(&f, "out", true, &o, &ran);
    merge_cases_write_config(&f, "c.yml",
                             "merge_method: ties\nbase_model: '%0'\nparameters: {trim: global, weight: 1, "
                             "density: 0.3}\nmodels:\n- {model: '%1'}\n- {model: '%2'}\n- {model: '%3'}\n");
    must_run(&f, "out", false, &o, &ran);
    assert_int_equal(ran.bytes_read, ran.bytes_to_read);
    must_run(&f, "fresh", false, &o, &ran);
    assert_true(hash128_equal(fixture_digest(&f, "fresh"), fixture_digest(&f, "out")));
    fixture_release(&f);
}

/* ---- interruptions ----------------------------------------------------------------------------------------------- */

struct stopper {
    int n_calls, stop_at;
    int n_surveying;
    uint64_t bytes_read, bytes_to_read; /* last heard */
};

static int count_calls(void *user, const struct wm_progress *progress)
{
    struct stopper *s = user;

    s->n_surveying += strcmp(progress->phase, "surveying") == 0;
    /* one account for the survey and the merge, from the first call on */
    if (s->n_calls)
        assert_int_equal(progress->bytes_to_read, s->bytes_to_read);
    assert_in_range(progress->bytes_read, s->bytes_read, progress->bytes_to_read);
    s->bytes_read = progress->bytes_read;
    s->bytes_to_read = progress->bytes_to_read;
    return ++s->n_calls == s->stop_at;
}

/* Passes that the file says are left, or all of them where there is none. */
static int passes_left(const struct fixture *f, const char *kept)
{
    struct wm_error ignored = WM_ERROR_INIT;
    char *text = NULL;
    size_t n_bytes;
    int n;

    if (!file_exists(fixture_path(f, kept)))
        return 3;
    assert_int_equal(file_read_all(fixture_path(f, kept), 1 << 20, &text, &n_bytes, &ignored), WM_OK);
    n = (int)number_in(text, "passes_left");
    free(text);
    return n;
}

/* Stopped at every progress call, during the survey, between it and the merge, and after: never a visible output, and the
 * next run reads no finished pass again and ends with the same bytes. */
static void stopped_anywhere(void **state)
{
    struct stopper s = {0};
    uint64_t bytes_of_pass;
    bool was_left[4] = {false};
    struct wm_options o = quick();
    struct hash128 expected;
    struct fixture f;
    struct ran ran;
    int n_calls;

    (void)state;
    begin(&f);
    o.on_progress = count_calls;
    o.user = &s;
    must_run(&f, "good", false, &o, &ran);
    expected = fixture_digest(&f, "good");
    n_calls = s.n_calls;
    assert_true(s.n_surveying >= 4);
    assert_int_equal(s.bytes_read, s.bytes_to_read);
    bytes_of_pass = (ran.bytes_read - ran.bytes_in) / 3;
    for (int stop_at = 1; stop_at <= n_calls; stop_at += UNDER_TSAN ? 3 : 1) {
        struct wm_error err = WM_ERROR_INIT;
        char out[16], kept[64];
        snprintf(out, sizeof out, "out%d", stop_at);
        snprintf(kept, sizeof kept, ".out%d.warpmerge-partial/" SURVEY_FILE_NAME, stop_at);
        s = (struct stopper){.stop_at = stop_at};
        if (run(&f, out, false, &o, &ran, &err) == WM_OK)
            continue; /* it had fewer calls this time */
        assert_int_equal(err.status, WM_CANCELLED);
        assert_int_not_equal(access(fixture_path(&f, out), F_OK), 0);
        int n_left = passes_left(&f, kept);
        was_left[n_left] = true;
        s = (struct stopper){.stop_at = 0};
        must_run(&f, out, false, &o, &ran);
        assert_true(ran.bytes_read <= ran.bytes_in + (uint64_t)n_left * bytes_of_pass);
        assert_true(hash128_equal(expected, fixture_digest(&f, out)));
    }
    for (int n = 0; n < 4 && !UNDER_TSAN; n++)
        assert_true(was_left[n]);
    fixture_release(&f);
}

static int countdown;

static int fail_nth(enum file_call call, const char *path)
{
    (void)path;
    if (call != FILE_READ && call != FILE_WRITE && call != FILE_RENAME)
        return 0;
    return __atomic_fetch_sub(&countdown, 1, __ATOMIC_RELAXED) == 1 ? EIO : 0;
}

static void every_call_may_fail_once(void **state)
{
    struct wm_options o = quick();
    struct hash128 expected;
    struct fixture f;
    struct ran ran;
    int n_failed = 0;

    (void)state;
    begin(&f);
    must_run(&f, "good", false, &o, &ran);
    expected = fixture_digest(&f, "good");
    for (int n = 1; n < 400; n += UNDER_TSAN ? 57 : n < 8 ? 1 : 13) {
        struct wm_error err = WM_ERROR_INIT;
        char out[16];
        enum wm_status st;
        snprintf(out, sizeof out, "out%d", n);
        __atomic_store_n(&countdown, n, __ATOMIC_RELAXED);
        file_fault = fail_nth;
        st = run(&f, out, false, &o, &ran, &err);
        file_fault = NULL;
        if (st != WM_OK) {
            n_failed++;
            assert_int_equal(err.status, st);
            assert_true(strlen(err.message) > 20);
            must_run(&f, out, false, &o, &ran);
        }
        assert_true(hash128_equal(expected, fixture_digest(&f, out)));
    }
    assert_true(n_failed > (UNDER_TSAN ? 2 : 10));
    fixture_release(&f);
}

/* ---- recipes that cannot be ---------------------------------------------------------------------------------------- */

static void one_density_for_each_model(void **state)
{
    struct wm_options o = quick();
    struct wm_error err = WM_ERROR_INIT;
    struct ran ran;
    struct fixture f;

    (void)state;
    begin(&f);
    merge_cases_write_config(&f, "c.yml",
                             "merge_method: ties\nbase_model: '%0'\nparameters: {trim: global, weight: 1}\nmodels:\n"
                             "- {model: '%1', parameters: {density: [{filter: norm, value: 0.9}, {value: 0.2}]}}\n");
    assert_int_equal(run(&f, "out", false, &o, &ran, &err), WM_BAD_CONFIG);
    assert_non_null(strstr(err.message, "one density"));
    assert_non_null(strstr(err.message, "c.yml:1:"));
    err = (struct wm_error)WM_ERROR_INIT;
    merge_cases_write_config(
        &f, "c.yml",
        "merge_method: ties\nbase_model: '%0'\nparameters: {trim: global, weight: 1, density: 0.5, "
        "rescale: true}\nmodels:\n- {model: '%1'}\n");
    assert_int_equal(run(&f, "out", false, &o, &ran, &err), WM_BAD_CONFIG);
    assert_non_null(strstr(err.message, "rescale"));
    /* Weights are free. */
    merge_cases_write_config(&f, "c.yml",
                             "merge_method: ties\nbase_model: '%0'\nparameters: {trim: global, density: 0.2}\nmodels:\n"
                             "- {model: '%1', parameters: {weight: [{filter: norm, value: 0.9}, {value: 0.2}]}}\n");
    must_run(&f, "out", false, &o, &ran);
    fixture_release(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_survey_is_planned),
        cmocka_unit_test(same_bytes_whatever_the_machine_does),
        cmocka_unit_test(stats_are_used_by_the_merge),
        cmocka_unit_test(nothing_to_find_is_no_error),
        cmocka_unit_test(a_damaged_file_is_not_believed),
        cmocka_unit_test(another_merge_s_file_is_not_believed),
        cmocka_unit_test(stopped_anywhere),
        cmocka_unit_test(every_call_may_fail_once),
        cmocka_unit_test(one_density_for_each_model),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
