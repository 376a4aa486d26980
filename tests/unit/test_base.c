/* Errors, findings, arenas, files and hashes: the first error wins, ceilings hold, known digests come out. */
#include "base/arena.h"
#include "base/dtype.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"

#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static void the_first_error_wins(void **state)
{
    struct wm_error err = WM_ERROR_INIT;

    (void)state;
    assert_int_equal(error_set(&err, WM_IO, "one %d", 1), WM_IO);
    assert_int_equal(error_set(&err, WM_BUG, "two"), WM_BUG);
    assert_int_equal(err.status, WM_IO);
    assert_string_equal(err.message, "one 1");
    assert_int_equal(error_set(NULL, WM_IO, "nobody listens"), WM_IO);
}

static void exit_codes_are_the_documented_ones(void **state)
{
    static const int codes[] = {0, 2, 65, 66, 69, 70, 73, 74, 75, 78, 130, 1};

    (void)state;
    for (int s = WM_OK; s <= WM_BUG; s++)
        assert_int_equal(wm_exit_code((enum wm_status)s), codes[s]);
    assert_int_equal(wm_exit_code((enum wm_status)999), 1);
}

struct heard {
    int n_errors, n_warnings;
    char last[256];
};

static void hear(void *user, const struct wm_problem *problem)
{
    struct heard *h = user;

    h->n_errors += problem->severity == WM_ERROR;
    h->n_warnings += problem->severity == WM_WARNING;
    snprintf(h->last, sizeof h->last, "%.255s", problem->text);
}

static void findings_are_delivered_and_capped(void **state)
{
    struct heard h = {0, 0, ""};
    struct wm_error err = WM_ERROR_INIT;
    struct problems p;

    (void)state;
    problems_init(&p, hear, &h, false);
    problems_lint(&p, WM_BAD_CONFIG, "odd");
    assert_int_equal(problems_end(&p, &err), WM_OK);
    assert_int_equal(h.n_warnings, 1);
    problems_init(&p, hear, &h, true);
    problems_lint(&p, WM_BAD_CONFIG, "odd under strict");
    assert_int_equal(problems_end(&p, &err), WM_BAD_CONFIG);
    assert_string_equal(err.message, "odd under strict");
    err = (struct wm_error)WM_ERROR_INIT;
    h = (struct heard){0, 0, ""};
    problems_init(&p, hear, &h, false);
    for (int i = 0; i < 50; i++)
        problems_add(&p, WM_ERROR, WM_BAD_DATA, "finding %d", i);
    assert_int_equal(problems_end(&p, &err), WM_BAD_DATA);
    assert_int_equal(h.n_errors, PROBLEMS_MAX_SHOWN + 1);
    assert_string_equal(h.last, "... and 30 more errors");
    assert_string_equal(err.message, "finding 0 (and 49 more)");
}

static void an_arena_stops_at_its_ceiling(void **state)
{
    struct arena a;
    size_t n = 0;

    (void)state;
    arena_init(&a, 100000);
    while (arena_alloc(&a, 1000))
        n++;
    assert_in_range(n, 60, 100);
    assert_true(a.n_bytes <= 100000);
    assert_null(arena_array(&a, SIZE_MAX / 2, 4));
    assert_null(arena_alloc(&a, SIZE_MAX));
    arena_release(&a);
    assert_string_equal(arena_printf(&a, "%s-%d", "x", 7), "x-7");
    assert_int_equal((uintptr_t)arena_alloc(&a, 1) % 16, 0);
    arena_release(&a);
}

static void arena_arrays_grow(void **state)
{
    struct arena a;
    int *items = NULL;
    size_t capacity = 0;

    (void)state;
    arena_init(&a, 1 << 20);
    for (size_t i = 0; i < 1000; i++) {
        assert_true(arena_grow(&a, (void **)&items, i, &capacity, sizeof *items));
        items[i] = (int)i;
    }
    for (int i = 0; i < 1000; i++)
        assert_int_equal(items[i], i);
    arena_release(&a);
}

static void known_digests(void **state)
{
    char hex[HASH128_HEX_BYTES], sha[HASH_SHA256_HEX_BYTES];
    struct hash128 pieces[3];

    (void)state;
    assert_string_equal(hash128_hex(hex, hash_xxh3("", 0)), "99aa06d3014798d86001c324468d497f"); /* xxhsum -H128 */
    assert_int_equal(hash_sha256(sha, "abc", 3, NULL), WM_OK);
    assert_string_equal(sha, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"); /* FIPS 180-4 */
    hash_pieces("aaaabbbbcc", 10, 4, pieces);
    assert_true(hash128_equal(pieces[0], hash_xxh3("aaaa", 4)));
    assert_true(hash128_equal(pieces[2], hash_xxh3("cc", 2)));
    assert_false(hash128_equal(hash_tree(pieces, 3), hash_tree(pieces, 2)));
}

static int fail_next_sync(enum file_call call, const char *path)
{
    (void)path;
    return call == FILE_SYNC ? EIO : 0;
}

static void files_are_written_whole_or_not_at_all(void **state)
{
    char dir[] = "/tmp/wm-base-XXXXXX", *path, *tmp, *data;
    struct wm_error err = WM_ERROR_INIT;
    size_t n;

    (void)state;
    assert_non_null(mkdtemp(dir));
    path = file_path_join(dir, "a.json");
    tmp = file_path_join(dir, "a.json.tmp");
    assert_int_equal(file_write_whole(path, "hello", 5, true, &err), WM_OK);
    file_fault = fail_next_sync;
    assert_int_equal(file_write_whole(path, "other", 5, true, &err), WM_IO);
    file_fault = NULL;
    assert_non_null(strstr(err.message, "a.json"));
    assert_false(file_exists(tmp));
    err = (struct wm_error)WM_ERROR_INIT;
    assert_int_equal(file_read_all(path, 100, &data, &n, &err), WM_OK);
    assert_string_equal(data, "hello");
    free(data);
    assert_int_equal(file_read_all(path, 4, &data, &n, &err), WM_BAD_DATA);
    assert_int_equal(file_remove_flat_dir(dir, NULL), WM_OK);
    assert_false(file_exists(dir));
    free(path);
    free(tmp);
}

static int n_busy; /* calls that still find the file open elsewhere */

static int still_open(enum file_call call, const char *path)
{
    (void)path;
    return call == FILE_UNLINK && n_busy-- > 0 ? EBUSY : 0;
}

/* Network file systems keep removed files that somebody has open, under names of their own. */
static void hidden_files_keep_no_folder(void **state)
{
    static const char *const names[] = {".nfs000000000001", ".fuse_hidden000000ab00000001"};
    char dir[] = "/tmp/wm-base-XXXXXX", *paths[3];

    (void)state;
    assert_non_null(mkdtemp(dir));
    for (int i = 0; i < 3; i++) {
        paths[i] = file_path_join(dir, i < 2 ? names[i] : "notes.txt");
        assert_int_equal(file_write_whole(paths[i], "x", 1, false, NULL), WM_OK);
    }
    assert_int_equal(file_remove_empty_dir(dir), ENOTEMPTY); /* notes.txt: not a folder that is given up */
    assert_true(file_exists(paths[0]) && file_exists(paths[1]) && file_exists(paths[2]));
    assert_int_equal(file_unlink(paths[2], NULL), WM_OK);
    file_fault = still_open;
    n_busy = INT_MAX; /* open for longer than anybody waits */
    assert_int_equal(file_remove_empty_dir(dir), EBUSY);
    assert_int_equal(file_remove_flat_dir(dir, NULL), WM_OK);
    assert_true(file_exists(paths[0]));
    n_busy = 6; /* each is found open thrice */
    assert_int_equal(file_remove_empty_dir(dir), 0);
    assert_int_equal(n_busy, -2);
    file_fault = NULL;
    assert_false(file_exists(dir));
    assert_int_equal(file_remove_empty_dir(dir), ENOENT);
    for (int i = 0; i < 3; i++)
        free(paths[i]);
}

static void odd_files_are_refused(void **state)
{
    char dir[] = "/tmp/wm-base-XXXXXX", *fifo, buffer[10];
    struct wm_error err = WM_ERROR_INIT;
    int fd;

    (void)state;
    assert_non_null(mkdtemp(dir));
    fifo = file_path_join(dir, "fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(file_open_read(&fd, fifo, NULL, NULL, &err), WM_BAD_DATA); /* and does not hang */
    err = (struct wm_error)WM_ERROR_INIT;
    assert_int_equal(file_open_read(&fd, "/nonexistent/x", NULL, NULL, &err), WM_NO_INPUT);
    assert_int_equal(fd, -1);
    unlink(fifo);
    assert_int_equal(file_write_whole(fifo, "abc", 3, false, NULL), WM_OK);
    err = (struct wm_error)WM_ERROR_INIT;
    assert_int_equal(file_open_read(&fd, fifo, NULL, NULL, &err), WM_OK);
    assert_int_equal(file_read_at(fd, fifo, buffer, 10, 0, &err), WM_IO);
    assert_non_null(strstr(err.message, "shrank"));
    file_close(&fd);
    file_remove_flat_dir(dir, NULL);
    free(fifo);
}

static void paths_are_taken_apart(void **state)
{
    static const struct {
        const char *path, *parent;
    } cases[] = {{"a", "."}, {"a/b", "a"}, {"/a", "/"}, {"a/b//", "a"}, {"a//b", "a"}, {"/", "."}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *parent = file_path_parent(cases[i].path);
        if (strcmp(cases[i].path, "/") != 0)
            assert_string_equal(parent, cases[i].parent);
        free(parent);
    }
    assert_string_equal(file_path_last("a/b"), "b");
}

static void every_dtype_has_a_name_and_a_width(void **state)
{
    enum wm_dtype d;

    (void)state;
    for (int i = 0; i < WM_N_DTYPES; i++) {
        assert_true(dtype_parse(dtype_name((enum wm_dtype)i), &d));
        assert_int_equal(d, i);
        assert_in_range(dtype_bits((enum wm_dtype)i), 4, 64);
    }
    assert_false(dtype_parse("f32", &d));
    assert_false(dtype_parse("F8_E4M3FN", &d));
    assert_true(dtype_parse_torch("torch.bfloat16", &d));
    assert_int_equal(d, WM_BF16);
    assert_false(dtype_parse_torch("bf16", &d));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_error_wins),
        cmocka_unit_test(exit_codes_are_the_documented_ones),
        cmocka_unit_test(findings_are_delivered_and_capped),
        cmocka_unit_test(an_arena_stops_at_its_ceiling),
        cmocka_unit_test(arena_arrays_grow),
        cmocka_unit_test(known_digests),
        cmocka_unit_test(files_are_written_whole_or_not_at_all),
        cmocka_unit_test(hidden_files_keep_no_folder),
        cmocka_unit_test(odd_files_are_refused),
        cmocka_unit_test(paths_are_taken_apart),
        cmocka_unit_test(every_dtype_has_a_name_and_a_width),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
