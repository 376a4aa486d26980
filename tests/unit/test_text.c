/* Strings for people: sizes both ways, hostile names shown safely, suggestions, natural order, JSON escapes. */
#include "base/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void sizes_are_parsed(void **state)
{
    static const struct {
        const char *text;
        int mergekit, ok;
        uint64_t n_bytes;
    } cases[] = {
        {"0", 0, 1, 0},
        {"123", 0, 1, 123},
        {"64K", 0, 1, 65536},
        {"64KiB", 0, 1, 65536},
        {"64kb", 0, 1, 64000},
        {"2GiB", 0, 1, 2147483648u},
        {"2g", 0, 1, 2147483648u},
        {"1.5M", 0, 1, 1572864},
        {"5B", 0, 1, 5},
        {"1T", 0, 1, 1099511627776u},
        {"", 0, 0, 0},
        {"-1", 0, 0, 0},
        {"K", 0, 0, 0},
        {"5X", 0, 0, 0},
        {"5GBB", 0, 0, 0},
        {"5 G", 0, 0, 0},
        {"1e30", 0, 0, 0},
        {"nan", 0, 0, 0},
        {"5B", 1, 1, 5000000000u},
        {"500M", 1, 1, 500000000},
        {"10k", 1, 1, 10000},
        {"4GiB", 1, 1, 4294967296u},
        {"5000000000", 1, 1, 5000000000u},
        {"5Q", 1, 0, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t n = 77;
        assert_int_equal(text_parse_bytes(cases[i].text, cases[i].mergekit, &n), cases[i].ok);
        if (cases[i].ok)
            assert_int_equal(n, cases[i].n_bytes);
    }
}

static void whole_numbers_are_exact(void **state)
{
    uint64_t n = 0;

    (void)state;
    assert_true(text_parse_u64("18446744073709551615", &n));
    assert_true(n == UINT64_MAX);
    assert_false(text_parse_u64("18446744073709551616", &n));
    assert_false(text_parse_u64("", &n));
    assert_false(text_parse_u64("1.0", &n));
    assert_false(text_parse_u64("+1", &n));
}

static void sizes_are_shown(void **state)
{
    char b[32];

    (void)state;
    assert_string_equal(text_bytes(b, sizeof b, 1023), "1023 B");
    assert_string_equal(text_bytes(b, sizeof b, 1024), "1.00 KiB");
    assert_string_equal(text_bytes(b, sizeof b, (uint64_t)3 << 29), "1.50 GiB");
    assert_string_equal(text_decimal_bytes(b, sizeof b, 2200000000u), "2.20 GB");
    assert_string_equal(text_seconds(b, sizeof b, 0.0421), "42 ms");
    assert_string_equal(text_seconds(b, sizeof b, 3.44), "3.4 s");
    assert_string_equal(text_seconds(b, sizeof b, 65), "65 s");
    assert_string_equal(text_seconds(b, sizeof b, 125), "2 min 05 s");
    assert_string_equal(text_seconds(b, sizeof b, 3725), "1 h 02 min");
}

static void hostile_names_are_shown_safely(void **state)
{
    char b[24];

    (void)state;
    assert_string_equal(text_display(b, sizeof b, "plain.weight"), "plain.weight");
    assert_string_equal(text_display(b, sizeof b, "a\033[31m"), "a\\x1b[31m");
    assert_string_equal(text_display(b, sizeof b, "\xff\xc3\xa9"), "\\xff\xc3\xa9");
    assert_string_equal(text_display(b, sizeof b, "0123456789012345678901234567890"), "01234567890123456789...");
    assert_string_equal(text_display(b, sizeof b, "\xc2\x9b"), "\\xc2\\x9b"); /* C1 control: a terminal would obey it */
}

static void json_strings_are_escaped(void **state)
{
    struct text t;

    (void)state;
    text_init(&t, 1000);
    text_add_json(&t, "a\"b\\c\n\t\x01\xff\xe2\x82\xac");
    assert_string_equal(text_string(&t), "\"a\\\"b\\\\c\\n\\u0009\\u0001\\ufffd\xe2\x82\xac\"");
    text_release(&t);
}

static void a_ceiling_holds(void **state)
{
    struct text t;

    (void)state;
    text_init(&t, 8);
    text_add(&t, "1234567");
    assert_false(t.failed);
    text_add(&t, "8");
    assert_true(t.failed);
    assert_string_equal(text_string(&t), "1234567");
    assert_null(text_take(&t));
}

static void utf8_is_checked_strictly(void **state)
{
    static const struct {
        const char *bytes;
        int ok;
    } cases[] = {{"abc", 1},      {"\xc3\xa9", 1},         {"\xf0\x9f\x98\x80", 1}, {"\xf4\x8f\xbf\xbf", 1},
                 {"\xc0\xaf", 0}, {"\xed\xa0\x80", 0},     {"\xf4\x90\x80\x80", 0}, {"\xe2\x82", 0},
                 {"\x80", 0},     {"\xf0\x80\x80\x80", 0}, {"\xe0\x80\x80", 0},     {"\xfe", 0}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(text_valid_utf8(cases[i].bytes, strlen(cases[i].bytes)), cases[i].ok);
}

static void typos_find_their_name(void **state)
{
    static const char *const names[] = {"linear", "task_arithmetic", "ties",        "dare_ties", "dare_linear",
                                        "slerp",  "nuslerp",         "passthrough", "mergealign"};
    static const struct {
        const char *typo;
        int found;
    } cases[] = {{"tie", 2},      {"tise", 2},      {"TIES", 2},        {"slrep", 5},
                 {"nuslurp", 6},  {"dare-ties", 3}, {"lineer", 0},      {"task_arithmetics", 1},
                 {"passthru", 7}, {"xyzzy", -1},    {"merge_align", 8}, {"", -1}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(text_nearest(cases[i].typo, names, 9), cases[i].found);
}

static void layers_sort_by_number(void **state)
{
    static const char *const sorted[] = {"lm_head.weight",           "model.embed_tokens.weight", "model.layers.0.a",
                                         "model.layers.2.a",         "model.layers.2.b",          "model.layers.10.a",
                                         "model.layers.010.a.extra", "model.norm.weight"};
    size_t n = sizeof sorted / sizeof *sorted;

    (void)state;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < n; k++) {
            int order = text_natural_compare(sorted[i], sorted[k]);
            assert_int_equal((order > 0) - (order < 0), (i > k) - (i < k));
        }
    assert_int_not_equal(text_natural_compare("a.1", "a.01"), 0); /* distinct names never compare equal */
    assert_true(text_natural_compare("x18446744073709551616", "x18446744073709551617") < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_parsed),         cmocka_unit_test(whole_numbers_are_exact),
        cmocka_unit_test(sizes_are_shown),          cmocka_unit_test(hostile_names_are_shown_safely),
        cmocka_unit_test(json_strings_are_escaped), cmocka_unit_test(a_ceiling_holds),
        cmocka_unit_test(utf8_is_checked_strictly), cmocka_unit_test(typos_find_their_name),
        cmocka_unit_test(layers_sort_by_number),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
