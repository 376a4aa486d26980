/* Merges that guess a threshold: the same bytes as without a guess, with bad values, failing calls and resumption; a streamed
 * tensor is read about once, and one that stays in memory is read once and not guessed. */
#include "base/file.h"
#include "support/merge_cases.h"
#include "support/sanitizers.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* 193 and 22 tiles of 64 KiB: enough for a guess, which needs 16. The smallest budget streams the first, and none is streamed
 * (nor guessed) with the default one. */
enum { N_BIG = 32768 * 192 + 1234, N_ELEMS = 32768 * 21 + 1234 };
#define SMALLEST ((uint64_t)64 << 20)

static const char recipe[] = "merge_method: ties\nbase_model: '%0'\nparameters: {density: 0.3, weight: 0.5}\nmodels:\n"
                             "- model: '%1'\n- model: '%2'\n";

static void write_models(const struct fixture *f, const void *replaced)
{
    for (uint64_t m = 0; m < 3; m++) {
        struct fixture_tensor t[] = {{"first", WM_BF16, 1, {N_BIG}, 1, 0.02, m, 1e-4, NULL},
                                     {"second", WM_BF16, 2, {N_ELEMS / 64, 64}, 2, 0.02, m, 4e-4, NULL},
                                     {"third", WM_F16, 1, {N_ELEMS}, 3, 0.02, m, 1e-3, NULL}};
        char name[16];
        snprintf(name, sizeof name, "m%d", (int)m);
        if (m == 2)
            t[0].data = replaced;
        fixture_write_model(f, name, t, 3, 0, NULL);
    }
    merge_cases_write_config(f, "c.yml", recipe);
}

static uint64_t bytes_read;

static int note_bytes_read(void *user, const struct wm_progress *progress)
{
    (void)user;
    bytes_read = progress->bytes_read;
    return 0;
}

static struct hash128 merge(const struct fixture *f, const char *out, const struct wm_options *given)
{
    struct wm_options o = *given;
    struct wm_error err = WM_ERROR_INIT;

    o.sync = 0;
    o.on_progress = note_bytes_read;
    if (fixture_merge(f, "c.yml", out, &o, &err) != WM_OK)
        fail_msg("%s: %s", out, err.message);
    return fixture_digest(f, out);
}

static struct wm_options options(uint64_t tile_bytes, uint64_t memory_bytes, int n_threads)
{
    struct wm_options o = WM_OPTIONS_INIT;

    o.tile_bytes = tile_bytes;
    o.memory_bytes = memory_bytes;
    o.n_threads = n_threads;
    o.n_io_threads = n_threads;
    return o;
}

#define PLAIN options(64u << 20, 0, 2)

static void same_bytes_with_a_guess(void **state)
{
    const uint64_t bytes_in = (uint64_t)3 * 2 * (N_BIG + N_ELEMS / 64 * 64 + N_ELEMS);
    struct wm_options plain = PLAIN, guess;
    struct hash128 expected;
    struct fixture f;

    (void)state;
    fixture_init(&f);
    write_models(&f, NULL);
    expected = merge(&f, "plain", &plain);
    for (int n_threads = UNDER_TSAN ? 4 : 1; n_threads <= 4; n_threads *= 2) {
        char out[32];
        guess = options(64u << 10, SMALLEST, n_threads);
        snprintf(out, sizeof out, "streamed%d", n_threads);
        assert_true(hash128_equal(expected, merge(&f, out, &guess)));
        /* 8 of 193 tiles twice for the sample, and a few for the repair; without a guess it would be read three times */
        assert_true(bytes_read > bytes_in && bytes_read < bytes_in * 12 / 10);
    }
    guess = options(64u << 10, 0, 2);
    assert_true(hash128_equal(expected, merge(&f, "resident", &guess)));
    assert_int_equal(bytes_read, bytes_in);
    fixture_release(&f);
}

/* Values that are not finite, in tiles of the sample and others. */
static void bad_values_are_treated_alike(void **state)
{
    uint16_t *values = malloc(N_BIG * sizeof *values);
    struct wm_options plain = PLAIN, guess = options(64u << 10, SMALLEST, 2);
    struct wm_error err = WM_ERROR_INIT;
    struct fixture f;

    (void)state;
    assert_non_null(values);
    for (size_t i = 0; i < N_BIG; i++)
        values[i] = (uint16_t)(0x3c00 + i % 200);
    values[5] = values[32768 + 7] = values[N_BIG - 1] = 0x7fc0; /* NaN */
    values[32768 * 12] = 0xff80;                                /* -Inf */
    fixture_init(&f);
    write_models(&f, values);
    assert_int_equal(fixture_merge(&f, "c.yml", "refused", &guess, &err), WM_BAD_DATA);
    assert_non_null(strstr(err.message, "4 of 6292690 values"));
    assert_non_null(strstr(err.message, "element 5"));
    plain.nonfinite = guess.nonfinite = WM_POLICY_PROPAGATE;
    assert_true(hash128_equal(merge(&f, "plain", &plain), merge(&f, "guess", &guess)));
    fixture_release(&f);
    free(values);
}

static atomic_int countdown, fault_kind;

static int fail_nth(enum file_call call, const char *path)
{
    (void)path;
    return (int)call == atomic_load(&fault_kind) && atomic_fetch_sub(&countdown, 1) == 1 ? EIO : 0;
}

/* Reads and writes fail in the sample, in the guess and in the repair; the next run ends with the same bytes. */
static void failures_resume(void **state)
{
    static const int kinds[] = {FILE_READ, FILE_WRITE};
    struct wm_options plain = PLAIN, guess;
    struct hash128 expected;
    struct fixture f;
    int n_failed = 0, n_out = 0;

    (void)state;
    fixture_init(&f);
    write_models(&f, NULL);
    expected = merge(&f, "plain", &plain);
    guess = options(64u << 10, SMALLEST, 2);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        for (int n = 5; n < 500; n += UNDER_TSAN ? 400 : 37) {
            struct wm_error err = WM_ERROR_INIT;
            char out[16];
            enum wm_status st;
            snprintf(out, sizeof out, "o%d", n_out++);
            atomic_store(&fault_kind, kinds[k]);
            atomic_store(&countdown, n);
            file_fault = fail_nth;
            st = fixture_merge(&f, "c.yml", out, &guess, &err);
            file_fault = NULL;
            n_failed += st != WM_OK;
            if (st != WM_OK)
                assert_int_equal(st, WM_IO);
            assert_true(hash128_equal(expected, st == WM_OK ? fixture_digest(&f, out) : merge(&f, out, &guess)));
        }
    }
    assert_true(n_failed > (UNDER_TSAN ? 1 : 10));
    fixture_release(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_bytes_with_a_guess),
                                       cmocka_unit_test(bad_values_are_treated_alike),
                                       cmocka_unit_test(failures_resume)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
