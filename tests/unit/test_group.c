/* Small tensors that go through the pipeline together: the same bytes as one at a time, whatever their order, types and
 * neighbours; a bad value names its own tensor; stopped groups are done again. */
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

enum { N_TENSORS = 160 };

static const uint64_t sizes[] = {1, 7, 31, 32, 33, 255, 1024, 4097, 16385, 65536, 65537, 100};

/* Model `m`'s tensors are written in an order of its own, so that neighbours in the output are not neighbours in every
 * input. Names sort 0, 1, 2, ... */
static void write_model(const struct fixture *f, int m, const void *bad)
{
    static const enum wm_dtype types[] = {WM_BF16, WM_F32, WM_BF16, WM_BF16, WM_F16};
    struct fixture_tensor t[N_TENSORS];
    char names[N_TENSORS][24], model[16];

    for (int i = 0; i < N_TENSORS; i++) {
        int n = m == 1 ? N_TENSORS - 1 - i : m == 2 ? (i * 7) % N_TENSORS : i;
        size_t kind = (size_t)n;
        snprintf(names[i], sizeof names[i], "t.%d.weight", n);
        t[i] = (struct fixture_tensor){
            names[i], types[kind / 9 % 5], 1, {sizes[kind % 12]}, 1 + kind, 0.02, m ? 10 + (uint64_t)m : 0, 3e-4, NULL};
        if (n == 77)
            t[i].data = bad;
    }
    snprintf(model, sizeof model, "m%d", m);
    fixture_write_model(f, model, t, N_TENSORS, m == 2 ? 200000 : 0, NULL);
}

static void write_models(const struct fixture *f, const void *bad)
{
    for (int m = 0; m < 4; m++)
        write_model(f, m, m == 2 ? bad : NULL);
}

static struct hash128 merge(const struct fixture *f, const char *out, const struct wm_options *o)
{
    struct wm_error err = WM_ERROR_INIT;

    if (fixture_merge(f, "c.yml", out, o, &err) != WM_OK)
        fail_msg("%s: %s", out, err.message);
    return fixture_digest(f, out);
}

/* Groups of many, of few (small tiles), and across small shards. */
static void same_bytes_in_any_company(void **state)
{
    static const struct {
        int threads;
        uint64_t tile, shard;
    } ways[] = {{1, 0, 0}, {3, 1 << 20, 0}, {2, 64 << 10, 0}, {4, 4 << 20, 0}};
    struct fixture f;
    int n_out = 0;

    (void)state;
    fixture_init(&f);
    write_models(&f, NULL);
    for (size_t r = 0; r < merge_cases_count; r += UNDER_TSAN ? 3 : 1) {
        struct hash128 first = {0, 0};
        merge_cases_write_config(&f, "c.yml", merge_cases_recipes[r]);
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
            struct wm_options o = WM_OPTIONS_INIT;
            struct hash128 digest;
            char out[16];
            o.n_threads = ways[w].threads;
            o.tile_bytes = ways[w].tile;
            o.sync = 0;
            snprintf(out, sizeof out, "o%d", n_out++);
            digest = merge(&f, out, &o);
            if (w == 0)
                first = digest;
            else if (!hash128_equal(first, digest))
                fail_msg("recipe %zu, way %zu: other bytes", r, w);
        }
    }
    fixture_release(&f);
}

/* A tensor merged among others has the bytes that it has when it is merged alone. */
static void company_changes_nothing(void **state)
{
    struct wm_options o = WM_OPTIONS_INIT;
    struct fixture f;

    (void)state;
    fixture_init(&f);
    write_models(&f, NULL);
    merge_cases_write_config(&f, "c.yml", merge_cases_recipes[1]);
    o.sync = 0;
    merge(&f, "all", &o);
    for (int n = 0; n < N_TENSORS; n += 37) {
        char name[24];
        size_t n_bytes, n_alone;
        void *among, *alone;
        snprintf(name, sizeof name, "t.%d.weight", n);
        among = fixture_read_tensor(&f, "all", name, &n_bytes);
        for (int m = 0; m < 4; m++) {
            size_t n_in;
            char path[16];
            struct fixture_tensor t = {name, WM_BF16, 1, {sizes[n % 12]}, 0, 0, 0, 0, NULL};
            static const enum wm_dtype types[] = {WM_BF16, WM_F32, WM_BF16, WM_BF16, WM_F16};
            void *data;
            snprintf(path, sizeof path, "m%d", m);
            data = fixture_read_tensor(&f, path, name, &n_in);
            t.dtype = types[n / 9 % 5];
            t.data = data;
            snprintf(path, sizeof path, "alone/m%d", m);
            assert_int_equal(file_make_dir(fixture_path(&f, "alone"), NULL), WM_OK);
            fixture_write_model(&f, path, &t, 1, 0, NULL);
            free(data);
        }
        {
            struct fixture inner;
            struct wm_options again = o;
            assert_true(snprintf(inner.dir, sizeof inner.dir, "%.50s/alone", f.dir) < (int)sizeof inner.dir);
            again.overwrite = 1;
            merge_cases_write_config(&inner, "c.yml", merge_cases_recipes[1]);
            merge(&inner, "out", &again);
            alone = fixture_read_tensor(&inner, "out", name, &n_alone);
        }
        assert_int_equal(n_bytes, n_alone);
        assert_memory_equal(among, alone, n_bytes);
        free(among);
        free(alone);
    }
    fixture_release(&f);
}

static void a_bad_member_is_named(void **state)
{
    static uint16_t values[255]; /* tensor 77 has 255 elements */
    struct wm_options o = WM_OPTIONS_INIT;
    struct wm_error err = WM_ERROR_INIT;
    struct fixture f;

    (void)state;
    values[200] = 0x7f80;
    fixture_init(&f);
    write_models(&f, values);
    merge_cases_write_config(&f, "c.yml", merge_cases_recipes[1]);
    for (int attempt = 0; attempt < 2; attempt++) {
        err = (struct wm_error)WM_ERROR_INIT;
        assert_int_equal(fixture_merge(&f, "c.yml", "out", &o, &err), WM_BAD_DATA);
        assert_non_null(strstr(err.message, "tensor t.77.weight of"));
        assert_non_null(strstr(err.message, "/m2"));
        assert_non_null(strstr(err.message, "1 of 255 values"));
        assert_non_null(strstr(err.message, "element 200"));
    }
    o.nonfinite = WM_POLICY_PROPAGATE;
    merge(&f, "out", &o);
    fixture_release(&f);
}

static atomic_int countdown;

static int fail_nth_write(enum file_call call, const char *path)
{
    (void)path;
    return call == FILE_WRITE && atomic_fetch_sub(&countdown, 1) == 1 ? ENOSPC : 0;
}

static void stopped_groups_are_done_again(void **state)
{
    struct wm_options o = WM_OPTIONS_INIT;
    struct hash128 expected;
    struct fixture f;
    int n_failed = 0;

    (void)state;
    fixture_init(&f);
    write_models(&f, NULL);
    merge_cases_write_config(&f, "c.yml", merge_cases_recipes[0]);
    o.n_threads = 2;
    o.tile_bytes = 128 << 10;
    o.sync = 0;
    expected = merge(&f, "good", &o);
    for (int n = 1; n < 80; n += UNDER_TSAN ? 13 : 3) {
        struct wm_error err = WM_ERROR_INIT;
        enum wm_status st;
        char out[16];
        snprintf(out, sizeof out, "o%d", n);
        atomic_store(&countdown, n);
        file_fault = fail_nth_write;
        st = fixture_merge(&f, "c.yml", out, &o, &err);
        file_fault = NULL;
        n_failed += st != WM_OK;
        assert_true(hash128_equal(expected, st == WM_OK ? fixture_digest(&f, out) : merge(&f, out, &o)));
    }
    assert_true(n_failed > (UNDER_TSAN ? 3 : 12));
    fixture_release(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bytes_in_any_company), cmocka_unit_test(company_changes_nothing),
        cmocka_unit_test(a_bad_member_is_named), cmocka_unit_test(stopped_groups_are_done_again)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
