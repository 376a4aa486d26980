/* The journal: records come back, a torn tail is cut, another plan's journal is refused, restart empties it. */
#include "engine/journal.h"

#include "base/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define OWNER(low, high, ...)                                                                                          \
    {                                                                                                                  \
        {low, high}, {__VA_ARGS__}, {"version", "config", "inputs", "options"}, "add --restart"                        \
    }
static const struct journal_owner plan_a = OWNER(1, 2, 11, 12, 13, 14), plan_b = OWNER(1, 3, 11, 12, 13, 14);

static void write_three(const char *dir)
{
    struct journal_record *records;
    struct journal j;
    size_t n;

    assert_int_equal(journal_open(&j, dir, JOURNAL_NAME, &plan_a, false, &records, &n, NULL), WM_OK);
    assert_int_equal(n, 0);
    free(records);
    for (uint64_t i = 0; i < 3; i++) {
        struct journal_record r = {i, i * 16384, 16384, {i, ~i}};
        assert_int_equal(journal_append(&j, &r, 1, NULL), WM_OK);
    }
    journal_close(&j);
}

static size_t reopen(const char *dir, struct journal_owner plan, bool restart, enum wm_status expected)
{
    struct wm_error err = WM_ERROR_INIT;
    struct journal_record *records;
    struct journal j;
    size_t n;

    assert_int_equal(journal_open(&j, dir, JOURNAL_NAME, &plan, restart, &records, &n, &err), expected);
    if (expected != WM_OK) {
        assert_non_null(strstr(err.message, "--restart"));
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(records[i].job, i);
        assert_int_equal(records[i].first_elem, i * 16384);
        assert_true(records[i].hash.high == ~(uint64_t)i);
    }
    free(records);
    journal_close(&j);
    return n;
}

static void records_survive_and_torn_tails_do_not(void **state)
{
    char dir[] = "/tmp/wm-journal-XXXXXX", *path;

    (void)state;
    assert_non_null(mkdtemp(dir));
    path = file_path_join(dir, JOURNAL_NAME);
    write_three(dir);
    assert_int_equal(reopen(dir, plan_a, false, WM_OK), 3);
    unlink(path);
    for (int cut = 255; cut >= 0; cut--) { /* every length that a crash can leave */
        write_three(dir);
        assert_int_equal(truncate(path, cut), 0);
        assert_int_equal(reopen(dir, plan_a, false, WM_OK), cut >= 64 ? cut / 64 - 1 : 0);
        unlink(path);
    }
    free(path);
    file_remove_flat_dir(dir, NULL);
}

static void a_flipped_byte_ends_the_journal_there(void **state)
{
    char dir[] = "/tmp/wm-journal-XXXXXX", *path, *data;
    size_t n_bytes;

    (void)state;
    assert_non_null(mkdtemp(dir));
    path = file_path_join(dir, JOURNAL_NAME);
    for (size_t at = 64; at < 256; at += 7) {
        write_three(dir);
        assert_int_equal(file_read_all(path, 1000, &data, &n_bytes, NULL), WM_OK);
        data[at] ^= 0x40;
        assert_int_equal(file_write_whole(path, data, n_bytes, false, NULL), WM_OK);
        free(data);
        assert_int_equal(reopen(dir, plan_a, false, WM_OK), at / 64 - 1);
        unlink(path);
    }
    free(path);
    file_remove_flat_dir(dir, NULL);
}

static void another_plan_is_refused_unless_restarted(void **state)
{
    char dir[] = "/tmp/wm-journal-XXXXXX";

    (void)state;
    assert_non_null(mkdtemp(dir));
    write_three(dir);
    reopen(dir, plan_b, false, WM_CANT_CREATE);
    assert_int_equal(reopen(dir, plan_a, false, WM_OK), 3); /* the refusal touched nothing */
    assert_int_equal(reopen(dir, plan_b, true, WM_OK), 0);
    assert_int_equal(reopen(dir, plan_b, false, WM_OK), 0);
    file_remove_flat_dir(dir, NULL);
}

static void a_refusal_says_what_differs_and_what_to_do(void **state)
{
    static const struct {
        struct journal_owner owner;
        const char *says, *says_not;
    } cases[] = {
        {OWNER(9, 9, 11, 99, 13, 14), "differs from this one in its config; add --restart", "inputs"},
        {OWNER(9, 9, 99, 12, 13, 99), "in its version and its options; ", "config"},
        {OWNER(9, 9, 99, 99, 99, 99), "in its version, its config, its inputs and its options; ", "another"},
        {OWNER(9, 9, 11, 12, 13, 14), "of another recipe, of other inputs, or by another version; ", "differs"},
    };
    char dir[] = "/tmp/wm-journal-XXXXXX";

    (void)state;
    assert_non_null(mkdtemp(dir));
    write_three(dir);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct wm_error err = WM_ERROR_INIT;
        struct journal_record *records = NULL;
        size_t n = 0;
        assert_int_equal(journal_read_others(dir, "", &cases[i].owner, &records, &n, &err), WM_CANT_CREATE);
        assert_non_null(strstr(err.message, cases[i].says));
        assert_null(strstr(err.message, cases[i].says_not));
    }
    file_remove_flat_dir(dir, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_survive_and_torn_tails_do_not),
        cmocka_unit_test(a_flipped_byte_ends_the_journal_there),
        cmocka_unit_test(another_plan_is_refused_unless_restarted),
        cmocka_unit_test(a_refusal_says_what_differs_and_what_to_do),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
