/* Holds: warpmerge.h as a program sees it: options are checked, calls out of order are refused with a sentence, progress
 * begins and ends, cancelling leaves something to resume, and findings of all models arrive before the phase fails. */
#include "warpmerge.h"

#include "support/fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const struct fixture_tensor tensors[] = {
    {.name = "model.layers.0.w", .dtype = WM_F32, .n_dims = 2, .shape = {64, 32}, .seed = 1, .spread = 1.0},
    {.name = "model.layers.1.w", .dtype = WM_F32, .n_dims = 1, .shape = {40000}, .seed = 2, .spread = 1.0},
};

static void write_pair(const struct fixture *f)
{
    char text[512];

    fixture_write_model(f, "a", tensors, 2, 0, "{\"torch_dtype\": \"float32\"}");
    fixture_write_model(f, "b", tensors, 2, 0, "{}");
    snprintf(
        text, sizeof text,
        "merge_method: linear\nmodels:\n- {model: %s/a, parameters: {weight: 1}}\n- {model: %s/b, parameters: {weight: "
        "3}}\ndtype: float32\n",
        f->dir, f->dir);
    fixture_write_file(f, "linear.yml", text);
}

static void bad_options(void **state)
{
    struct {
        const char *what, *part;
        enum wm_status status;
        struct wm_options options;
    } cases[] = {
        {"size", "wm_options.size", WM_USAGE, WM_OPTIONS_INIT},
        {"memory", "64 MiB", WM_USAGE, WM_OPTIONS_INIT},
        {"tile", "tile size", WM_USAGE, WM_OPTIONS_INIT},
        {"threads", "numbers of threads", WM_USAGE, WM_OPTIONS_INIT},
        {"flag", "neither 0 nor 1", WM_USAGE, WM_OPTIONS_INIT},
        {"policy", "nonfinite", WM_USAGE, WM_OPTIONS_INIT},
        {"device", "--device cpu", WM_NO_DEVICE, WM_OPTIONS_INIT},
        {"direct", "direct_io", WM_USAGE, WM_OPTIONS_INIT},
    };

    (void)state;
    cases[0].options.size = 3;
    cases[1].options.memory_bytes = 1;
    cases[2].options.tile_bytes = 1;
    cases[3].options.n_threads = -1;
    cases[4].options.sha256 = 2;
    cases[5].options.nonfinite = (enum wm_policy)7;
    cases[6].options.device = WM_DEVICE_CUDA;
    cases[7].options.direct_io = (enum wm_direct_io) - 1;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct wm_error err = WM_ERROR_INIT;
        struct wm_merge *merge = (struct wm_merge *)&err;
        if (wm_merge_open(&merge, "x.yml", &cases[i].options, &err) != cases[i].status)
            fail_msg("%s: %s", cases[i].what, err.message);
        assert_null(merge);
        if (!strstr(err.message, cases[i].part))
            fail_msg("%s: %s", cases[i].what, err.message);
    }
}

static void out_of_order(void **state)
{
    struct fixture f;
    struct wm_merge *merge = NULL;
    char *text = NULL;

    (void)state;
    fixture_init(&f);
    write_pair(&f);
    {
        struct wm_error err = WM_ERROR_INIT;
        assert_int_equal(wm_merge_open(&merge, NULL, NULL, &err), WM_USAGE);
        assert_int_equal(wm_merge_plan(NULL, NULL, NULL), WM_USAGE);
        assert_int_equal(wm_merge_run(NULL, NULL), WM_USAGE);
        wm_merge_cancel(NULL);
        wm_merge_free(NULL);
    }
    struct wm_error err = WM_ERROR_INIT;
    assert_int_equal(wm_merge_open(&merge, fixture_path(&f, "linear.yml"), NULL, &err), WM_OK);
    assert_int_equal(wm_merge_describe(merge, 0, &text, NULL), WM_USAGE);
    assert_null(text);
    assert_int_equal(wm_merge_run(merge, NULL), WM_USAGE);
    assert_int_equal(wm_merge_plan(merge, "", NULL), WM_USAGE);
    assert_int_equal(wm_merge_plan(merge, NULL, &err), WM_OK);
    assert_int_equal(wm_merge_run(merge, NULL), WM_USAGE); /* no output directory */
    assert_int_equal(wm_merge_plan(merge, fixture_path(&f, "out"), &err), WM_OK);
    assert_int_equal(wm_merge_summary(merge, 0, &text, NULL), WM_USAGE);
    assert_int_equal(wm_merge_run(merge, &err), WM_OK);
    assert_int_equal(wm_merge_run(merge, NULL), WM_USAGE);
    assert_int_equal(wm_merge_summary(merge, 1, &text, &err), WM_OK);
    assert_non_null(strstr(text, "\"n_tensors\": 2"));
    wm_text_free(text);
    /* the same object again, into another place */
    assert_int_equal(wm_merge_plan(merge, fixture_path(&f, "out2"), &err), WM_OK);
    assert_int_equal(wm_merge_run(merge, &err), WM_OK);
    struct hash128 first = fixture_digest(&f, "out"), second = fixture_digest(&f, "out2");
    assert_true(hash128_equal(first, second));
    assert_int_equal(err.status, WM_OK);
    wm_merge_free(merge);
    fixture_release(&f);
}

struct watcher {
    int n_calls, cancel_at, n_errors;
    struct wm_progress first, last;
    char texts[4096];
};

static int watch(void *user, const struct wm_progress *progress)
{
    struct watcher *w = user;

    if (w->n_calls++ == 0)
        w->first = *progress;
    w->last = *progress;
    return w->n_calls == w->cancel_at;
}

static void collect(void *user, const struct wm_problem *problem)
{
    struct watcher *w = user;
    size_t n = strlen(w->texts);

    w->n_errors += problem->severity == WM_ERROR;
    snprintf(w->texts + n, sizeof w->texts - n, "%s\n", problem->text);
}

static void progress_and_cancel(void **state)
{
    struct fixture f;
    struct wm_options options = WM_OPTIONS_INIT;
    struct watcher w = {.n_calls = 0};
    struct wm_error err = WM_ERROR_INIT;

    (void)state;
    fixture_init(&f);
    write_pair(&f);
    options.on_progress = watch;
    options.user = &w;
    assert_int_equal(fixture_merge(&f, "linear.yml", "whole", &options, &err), WM_OK);
    assert_int_equal(w.first.bytes_written, 0);
    assert_int_equal(w.first.bytes_to_write, (64 * 32 + 40000) * 4);
    assert_int_equal(w.last.bytes_written, w.last.bytes_to_write);
    assert_int_equal(w.last.bytes_read, w.last.bytes_to_read);
    assert_string_equal(w.last.phase, "finishing");

    /* stopped at every one of its progress calls: never a visible output, and the next run ends with the same bytes */
    int n_calls = w.n_calls;
    for (int stop = 1; stop <= n_calls; stop++) {
        struct wm_error stopped = WM_ERROR_INIT;
        w = (struct watcher){.cancel_at = stop};
        enum wm_status st = fixture_merge(&f, "linear.yml", "out", &options, &stopped);
        if (st == WM_OK) { /* it had fewer calls this time */
            assert_true(w.n_calls < stop);
            break;
        }
        assert_int_equal(st, WM_CANCELLED);
        assert_int_not_equal(access(fixture_path(&f, "out"), F_OK), 0);
    }
    w.cancel_at = 0;
    if (access(fixture_path(&f, "out"), F_OK) != 0)
        assert_int_equal(fixture_merge(&f, "linear.yml", "out", &options, &err), WM_OK);
    assert_true(hash128_equal(fixture_digest(&f, "whole"), fixture_digest(&f, "out")));
    fixture_release(&f);
}

static void all_models_are_reported(void **state)
{
    struct fixture f;
    struct wm_options options = WM_OPTIONS_INIT;
    struct watcher w = {.n_calls = 0};
    struct wm_merge *merge = NULL;
    struct wm_error err = WM_ERROR_INIT;
    char text[1024];

    (void)state;
    fixture_init(&f);
    write_pair(&f);
    snprintf(text, sizeof text,
             "merge_method: linear\nparameters: {weight: 1}\nmodels:\n- {model: %s/gone1}\n- {model: %s/a}\n- {model: "
             "%s/gone2}\n- {model: %s/gone1}\n- {model: %s/gone3}\n",
             f.dir, f.dir, f.dir, f.dir, f.dir);
    fixture_write_file(&f, "gone.yml", text);
    options.on_problem = collect;
    options.user = &w;
    assert_int_equal(wm_merge_open(&merge, fixture_path(&f, "gone.yml"), &options, &err), WM_OK);
    assert_int_equal(wm_merge_plan(merge, NULL, &err), WM_NO_INPUT);
    assert_int_equal(w.n_errors, 3); /* gone1 once, though it is named twice; in the recipe's order */
    const char *one = strstr(w.texts, "gone1"), *two = strstr(w.texts, "gone2"), *three = strstr(w.texts, "gone3");
    assert_true(one && two && three && one < two && two < three);
    assert_non_null(strstr(err.message, "gone1"));
    assert_non_null(strstr(err.message, "and 2 more"));
    wm_merge_free(merge);
    fixture_release(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_options),
        cmocka_unit_test(out_of_order),
        cmocka_unit_test(progress_and_cancel),
        cmocka_unit_test(all_models_are_reported),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
