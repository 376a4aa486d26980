/* The JSON scanner and the gate: every event, exact integers, decoded text, positions, and each kind of flaw; what the
 * gate lets through, cJSON reads. */
#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>
#include <locale.h>

#define T(text) text, sizeof(text) - 1

/* One letter per event, so that a whole text fits one string: { } [ ] k s i n t f 0 . and ! for an error. */
static void events_of(const char *text, size_t n, int max_depth, char *events, size_t size, struct json_scanner *s,
                      struct arena *arena)
{
    static const char letters[] = {'!', '{', '}', '[', ']', 'k', 's', 'i', 'n', 't', 'f', '0', '.'};
    size_t n_events = 0;
    enum json_event event;

    json_scanner_init(s, text, n, max_depth, arena);
    do {
        event = json_next(s);
        assert_true(n_events + 2 < size);
        events[n_events++] = letters[event];
    } while (event != JSON_ERROR && event != JSON_END);
    events[n_events] = '\0';
    assert_int_equal(json_next(s), event);
    assert_int_equal(json_next(s), event);
}

static void texts_become_events(void **state)
{
    static const struct {
        const char *text;
        size_t n_text;
        const char *events;
        enum json_flaw flaw;
        size_t line, column;
    } cases[] = {
        {T("{}"), "{}.", JSON_FLAW_NONE, 1, 3},
        {T("[]"), "[].", JSON_FLAW_NONE, 1, 3},
        {T(" 12 \n"), "i.", JSON_FLAW_NONE, 2, 1},
        {T("\"a\""), "s.", JSON_FLAW_NONE, 1, 4},
        {T("{\"a\":1,\"b\":[true,false,null,-1,1.5,\"x\"]}"), "{kik[tf0nns]}.", JSON_FLAW_NONE, 1, 41},
        {T("{\"a\":{\"b\":{}}}"), "{k{k{}}}.", JSON_FLAW_NONE, 1, 15},
        {T("[[],{},[[]]]"), "[[]{}[[]]].", JSON_FLAW_NONE, 1, 13},
        {T(""), "!", JSON_FLAW_GRAMMAR, 1, 1},
        {T("  "), "!", JSON_FLAW_GRAMMAR, 1, 3},
        {T("{"), "{!", JSON_FLAW_GRAMMAR, 1, 2},
        {T("[1"), "[i!", JSON_FLAW_GRAMMAR, 1, 3},
        {T("[1,]"), "[i!", JSON_FLAW_GRAMMAR, 1, 4},
        {T("[,1]"), "[!", JSON_FLAW_GRAMMAR, 1, 2},
        {T("[1 2]"), "[i!", JSON_FLAW_GRAMMAR, 1, 4},
        {T("[1}"), "[i!", JSON_FLAW_GRAMMAR, 1, 3},
        {T("{]"), "{!", JSON_FLAW_GRAMMAR, 1, 2},
        {T("{\"a\"}"), "{!", JSON_FLAW_GRAMMAR, 1, 5},
        {T("{\"a\":}"), "{k!", JSON_FLAW_GRAMMAR, 1, 6},
        {T("{\"a\":1,}"), "{ki!", JSON_FLAW_GRAMMAR, 1, 8},
        {T("{\"a\":1 \"b\":2}"), "{ki!", JSON_FLAW_GRAMMAR, 1, 8},
        {T("{1:2}"), "{!", JSON_FLAW_GRAMMAR, 1, 2},
        {T("1 2"), "i!", JSON_FLAW_GRAMMAR, 1, 3},
        {T("{}{}"), "{}!", JSON_FLAW_GRAMMAR, 1, 3},
        {T("1\0"), "i!", JSON_FLAW_GRAMMAR, 1, 2},
        {T("tru"), "!", JSON_FLAW_GRAMMAR, 1, 1},
        {T("truex"), "t!", JSON_FLAW_GRAMMAR, 1, 5},
        {T("nul\0"), "!", JSON_FLAW_GRAMMAR, 1, 1},
        {T("True"), "!", JSON_FLAW_GRAMMAR, 1, 1},
        {T("NaN"), "!", JSON_FLAW_GRAMMAR, 1, 1},
        {T("-Infinity"), "!", JSON_FLAW_GRAMMAR, 1, 2},
        {T("01"), "!", JSON_FLAW_GRAMMAR, 1, 1},
        {T("-01"), "!", JSON_FLAW_GRAMMAR, 1, 1},
        {T("00"), "!", JSON_FLAW_GRAMMAR, 1, 1},
        {T("1."), "!", JSON_FLAW_GRAMMAR, 1, 3},
        {T(".5"), "!", JSON_FLAW_GRAMMAR, 1, 1},
        {T("1e"), "!", JSON_FLAW_GRAMMAR, 1, 3},
        {T("1e+"), "!", JSON_FLAW_GRAMMAR, 1, 4},
        {T("-"), "!", JSON_FLAW_GRAMMAR, 1, 2},
        {T("+1"), "!", JSON_FLAW_GRAMMAR, 1, 1},
        {T("0x10"), "i!", JSON_FLAW_GRAMMAR, 1, 2},
        {T("\"a"), "!", JSON_FLAW_GRAMMAR, 1, 1},
        {T("\"a\\"), "!", JSON_FLAW_GRAMMAR, 1, 1},
        {T("\"a\\\""), "!", JSON_FLAW_GRAMMAR, 1, 1},
        {T("\"\\q\""), "!", JSON_FLAW_GRAMMAR, 1, 2},
        {T("\"\\\0\""), "!", JSON_FLAW_GRAMMAR, 1, 2},
        {T("\"\\u12\""), "!", JSON_FLAW_GRAMMAR, 1, 2},
        {T("\"\\ud800\""), "!", JSON_FLAW_GRAMMAR, 1, 8},
        {T("\"\\ud800\\u0041\""), "!", JSON_FLAW_GRAMMAR, 1, 8},
        {T("\"\\udc00\""), "!", JSON_FLAW_GRAMMAR, 1, 8},
        {T("\"\t\""), "!", JSON_FLAW_GRAMMAR, 1, 2},
        {T("\"\0\""), "!", JSON_FLAW_GRAMMAR, 1, 2},
        {T("\xEF\xBB\xBF{}"), "!", JSON_FLAW_GRAMMAR, 1, 1},
        {T("\xC3\xA9"), "!", JSON_FLAW_GRAMMAR, 1, 1},
        {T("\xC3"), "!", JSON_FLAW_UTF8, 1, 1},
        {T("[\n\n  \xFF]"), "[!", JSON_FLAW_UTF8, 3, 3},
        {T("\"\xC0\x80\""), "!", JSON_FLAW_UTF8, 1, 1},
        {T("\"\xED\xA0\x80\""), "!", JSON_FLAW_UTF8, 1, 1},
        {T("{\"a\\u0000b\":1}"), "{!", JSON_FLAW_CONTROL, 1, 2},
        {T("{\"\\n\":1}"), "{!", JSON_FLAW_CONTROL, 1, 2},
        {T("{\"a\":\"\\u0000\\n\"}"), "{ks}.", JSON_FLAW_NONE, 1, 17},
        {T("[[[[]]]]"), "[[[[]]]].", JSON_FLAW_NONE, 1, 9},
        {T("[[[[[]]]]]"), "[[[[!", JSON_FLAW_DEPTH, 1, 5},
        {T("100000000000000000000000000000000000000000000000000000000000000"), "n.", JSON_FLAW_NONE, 1, 64},
        {T("1000000000000000000000000000000000000000000000000000000000000000"), "!", JSON_FLAW_GRAMMAR, 1, 1},
        {T("/**/1"), "!", JSON_FLAW_GRAMMAR, 1, 1},
        {T("\v1"), "!", JSON_FLAW_GRAMMAR, 1, 1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct json_scanner s;
        struct arena arena;
        char events[64], *copy = malloc(cases[i].n_text + 1);
        assert_non_null(copy);
        memcpy(copy, cases[i].text, cases[i].n_text + 1);
        copy = realloc(copy, cases[i].n_text ? cases[i].n_text : 1); /* a read past the end shows under ASan */
        arena_init(&arena, 1 << 20);
        events_of(copy, cases[i].n_text, 4, events, sizeof events, &s, &arena);
        if (strcmp(events, cases[i].events) != 0 || s.flaw != cases[i].flaw || s.line != cases[i].line ||
            s.column != cases[i].column)
            fail_msg("%s: events %s, flaw %d (%s) at %zu:%zu", cases[i].text, events, (int)s.flaw, s.problem, s.line,
                     s.column);
        assert_true((s.flaw == JSON_FLAW_NONE) == (s.problem[0] == '\0'));
        arena_release(&arena);
        free(copy);
    }
}

static void numbers_are_exact(void **state)
{
    static const struct {
        const char *text;
        enum json_event event;
        uint64_t integer;
        double number;
        bool too_big;
    } cases[] = {
        {"0", JSON_INTEGER, 0, 0, false},
        {"9007199254740993", JSON_INTEGER, 9007199254740993u, 0, false},
        {"18446744073709551615", JSON_INTEGER, UINT64_MAX, 0, false},
        {"18446744073709551616", JSON_NUMBER, 0, 18446744073709551616.0, true},
        {"18446744073709551625", JSON_NUMBER, 0, 18446744073709551625.0, true},
        {"99999999999999999999999", JSON_NUMBER, 0, 99999999999999999999999.0, true},
        {"-0", JSON_NUMBER, 0, 0, false},
        {"-1", JSON_NUMBER, 0, -1, false},
        {"1.5", JSON_NUMBER, 0, 1.5, false},
        {"2.0", JSON_NUMBER, 0, 2, false},
        {"-2.5e-3", JSON_NUMBER, 0, -2.5e-3, false},
        {"1E5", JSON_NUMBER, 0, 1e5, false},
        {"1e+5", JSON_NUMBER, 0, 1e5, false},
        {"0.1", JSON_NUMBER, 0, 0.1, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct json_scanner s;
        struct arena arena;
        arena_init(&arena, 1 << 20);
        json_scanner_init(&s, cases[i].text, strlen(cases[i].text), 4, &arena);
        assert_int_equal(json_next(&s), cases[i].event);
        if (cases[i].event == JSON_INTEGER) {
            assert_true(s.integer == cases[i].integer);
        } else {
            assert_true(s.number == cases[i].number);
            assert_string_equal(s.text.data, cases[i].text);
        }
        assert_int_equal(s.too_big, cases[i].too_big);
        assert_int_equal(json_next(&s), JSON_END);
        arena_release(&arena);
    }
}

/* A program around the library may have set a locale with a decimal comma. */
static void numbers_ignore_the_locale(void **state)
{
    struct json_scanner s;
    struct arena arena;

    (void)state;
    if (!setlocale(LC_NUMERIC, "de_DE.UTF-8") && !setlocale(LC_NUMERIC, "de_DE.utf8"))
        skip();
    arena_init(&arena, 1 << 20);
    json_scanner_init(&s, "1.5", 3, 4, &arena);
    assert_int_equal(json_next(&s), JSON_NUMBER);
    setlocale(LC_NUMERIC, "C");
    assert_true(s.number == 1.5);
    arena_release(&arena);
}

static void strings_are_decoded(void **state)
{
    static const struct {
        const char *text, *decoded;
        size_t n_decoded;
    } cases[] = {
        {"\"\"", T("")},
        {"\"abc\"", T("abc")},
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", T("\"\\/\b\f\n\r\t")},
        {"\"\\u0041\\u00e9\\u20AC\\ud83d\\ude00\"", T("A\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80")},
        {"\"\\u0000x\"", T("\0x")},
        {"\"\\uD800\\uDC00\\uDBFF\\uDFFF\"", T("\xF0\x90\x80\x80\xF4\x8F\xBF\xBF")},
        {"\"\xC3\xA9\\u007f\x7F\"", T("\xC3\xA9\x7F\x7F")},
        {"\"\\u07ff\\u0800\\uffff\"", T("\xDF\xBF\xE0\xA0\x80\xEF\xBF\xBF")},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct json_scanner s;
        struct arena arena;
        arena_init(&arena, 1 << 20);
        json_scanner_init(&s, cases[i].text, strlen(cases[i].text), 4, &arena);
        assert_int_equal(json_next(&s), JSON_STRING);
        assert_int_equal(s.text.n_bytes, cases[i].n_decoded);
        assert_memory_equal(s.text.data, cases[i].decoded, cases[i].n_decoded + 1);
        arena_release(&arena);
    }
}

static void values_are_skipped(void **state)
{
    static const struct {
        const char *text;
        enum json_event after;
        enum json_flaw flaw;
    } cases[] = {
        {"[1,2]", JSON_INTEGER, JSON_FLAW_NONE},
        {"[[1],\"s\"]", JSON_STRING, JSON_FLAW_NONE},
        {"[[[1],{\"a\":[{}]}]]", JSON_ARRAY_END, JSON_FLAW_NONE},
        {"[{\"a\":1,\"b\":1},2]", JSON_INTEGER, JSON_FLAW_NONE},
        {"[[{\"a\":1},{\"a\":1}],2]", JSON_INTEGER, JSON_FLAW_NONE},
        {"[{\"a\":{\"a\":{\"a\":1}}},2]", JSON_INTEGER, JSON_FLAW_NONE},
        {"[{\"a\":1,\"a\":1},2]", JSON_ERROR, JSON_FLAW_DUPLICATE_KEY},
        {"[{\"a\":{\"b\":1},\"\\u0061\":1},2]", JSON_ERROR, JSON_FLAW_DUPLICATE_KEY},
        {"[{\"b\":{\"x\":1,\"x\":1}},2]", JSON_ERROR, JSON_FLAW_DUPLICATE_KEY},
        {"[{\"b\":1,,2]", JSON_ERROR, JSON_FLAW_GRAMMAR},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct json_scanner s;
        struct arena arena;
        enum json_event first;
        arena_init(&arena, 1 << 20);
        json_scanner_init(&s, cases[i].text, strlen(cases[i].text), 64, &arena);
        assert_int_equal(json_next(&s), JSON_ARRAY_BEGIN);
        first = json_next(&s);
        assert_int_equal(json_skip_value(&s, first), cases[i].after != JSON_ERROR);
        assert_int_equal(s.flaw, cases[i].flaw);
        assert_int_equal(json_next(&s), cases[i].after);
        arena_release(&arena);
    }
}

static void leading_space_is_noted(void **state)
{
    static const char *const texts[] = {"{}", "{} ", " {}", "\n{}", "\t{}", "\r{}"};

    (void)state;
    for (int i = 0; i < 6; i++) {
        struct json_scanner s;
        struct arena arena;
        arena_init(&arena, 1 << 20);
        json_scanner_init(&s, texts[i], strlen(texts[i]), 4, &arena);
        while (json_next(&s) != JSON_END)
            ;
        assert_int_equal(s.leading_space, i >= 2);
        arena_release(&arena);
    }
}

static void keys_are_a_set(void **state)
{
    enum { n_keys = 20000 };
    struct json_keys keys;
    struct arena arena;
    bool fresh;

    (void)state;
    arena_init(&arena, (size_t)1 << 24);
    json_keys_init(&keys, &arena);
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < n_keys; i++) {
            char *name = arena_printf(&arena, "model.layers.%d.weight", i);
            assert_true(json_keys_add(&keys, (struct json_text){name, strlen(name)}, &fresh));
            assert_int_equal(fresh, round == 0);
        }
    assert_int_equal(keys.n_keys, n_keys);
    arena_release(&arena);
    /* Told apart by length and by the bytes after a NUL. */
    arena_init(&arena, 1 << 20);
    json_keys_init(&keys, &arena);
    assert_true(json_keys_add(&keys, (struct json_text){"a\0b", 3}, &fresh) && fresh);
    assert_true(json_keys_add(&keys, (struct json_text){"a\0c", 3}, &fresh) && fresh);
    assert_true(json_keys_add(&keys, (struct json_text){"a", 1}, &fresh) && fresh);
    assert_true(json_keys_add(&keys, (struct json_text){"a\0b", 3}, &fresh) && !fresh);
    arena_release(&arena);
    arena_init(&arena, 300); /* room for the first table only */
    json_keys_init(&keys, &arena);
    for (int i = 0; i < 10; i++) {
        static const char letters[] = "0123456789";
        assert_int_equal(json_keys_add(&keys, (struct json_text){letters + i, 1}, &fresh), i < 6);
    }
    arena_release(&arena);
}

static void the_gate_admits_what_cjson_reads(void **state)
{
    static const struct {
        const char *text;
        size_t n_text;
        const char *part; /* of the refusal; NULL: admitted */
    } cases[] = {
        {T("{\"a\":[1,2.5,-3e2,true,null,\"x\\n\"],\"b\":{}}"), NULL},
        {T("1"), NULL},
        {T("{\"\\n\":1,\"\\t\":2}"), NULL},
        {T("[{\"a\":1},{\"a\":2}]"), NULL},
        {T("{\"a\":1,\"a\":2}"), "c.json:1:8: not usable JSON: the key \"a\" stands twice"},
        {T("{\"x\":{\"a\":1,\n \"\\u0061\"\n:2}}"), "c.json:2:2:"},
        {T("{\"a\\u0000\":1}"), "control character 0x00"},
        {T("[\"a\\u0000b\"]"), "escaped NUL"},
        {T("{\"a\":1}}"), "c.json:1:8: not usable JSON: '}'"},
        {T("\xEF\xBB\xBF{}"), "byte order mark"},
        {T("{\"a\":\"\xFF\"}"), "UTF-8"},
        {T("{\"a\":02}"), "leading zero"},
        {T("[[[[[1]]]]]"), "deeper than 4"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct wm_error err = WM_ERROR_INIT;
        enum wm_status st = json_gate("c.json", cases[i].text, cases[i].n_text, 4, &err);
        if (cases[i].part) {
            assert_int_equal(st, WM_BAD_DATA);
            if (!strstr(err.message, cases[i].part))
                fail_msg("\"%s\" is not in: %s", cases[i].part, err.message);
        } else {
            cJSON *tree = cJSON_ParseWithLength(cases[i].text, cases[i].n_text);
            assert_int_equal(st, WM_OK);
            assert_int_equal(err.status, WM_OK);
            assert_non_null(tree);
            cJSON_Delete(tree);
        }
    }
}

/* The worst legal texts stay within the gate's ceiling on memory: each is admitted. */
static void the_gate_has_room_for_dense_texts(void **state)
{
    enum { n = 100000 };
    char *text = malloc(n * 24);
    struct wm_error err = WM_ERROR_INIT;

    (void)state;
    assert_non_null(text);
    for (int kind = 0; kind < 4; kind++) {
        size_t at = 0;
        text[at++] = kind ? '[' : '{';
        for (int i = 0; i < n; i++) {
            at += kind == 0   ? (size_t)sprintf(text + at, "%s\"%x\":0", i ? "," : "", i)
                  : kind == 1 ? (size_t)sprintf(text + at, "%s\"\"", i ? "," : "")
                  : kind == 2 ? (size_t)sprintf(text + at, "%s{\"\":0}", i ? "," : "")
                              : (size_t)sprintf(text + at, "%s0", i ? "," : "");
        }
        text[at++] = kind ? ']' : '}';
        if (json_gate("dense", text, at, 4, &err) != WM_OK)
            fail_msg("kind %d: %s", kind, err.message);
    }
    free(text);
}

/* Every ceiling on the arena ends in an error or in the same events, never in a crash. */
static void memory_ceilings_are_errors(void **state)
{
    static const char text[] = "{\"a\":\"b\\u0041\",\"c\":1.5,\"d\":[\"e\"]}";
    bool fitted = false;

    (void)state;
    for (size_t max = 0; max < 256; max += 8) {
        struct json_scanner s;
        struct arena arena;
        enum json_event event;
        arena_init(&arena, max);
        json_scanner_init(&s, text, strlen(text), 4, &arena);
        while ((event = json_next(&s)) != JSON_END && event != JSON_ERROR)
            ;
        assert_true(event == JSON_END || s.flaw == JSON_FLAW_MEMORY);
        assert_true(!fitted || event == JSON_END);
        fitted = event == JSON_END;
        arena_release(&arena);
    }
    assert_true(fitted);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_become_events),
        cmocka_unit_test(numbers_are_exact),
        cmocka_unit_test(numbers_ignore_the_locale),
        cmocka_unit_test(strings_are_decoded),
        cmocka_unit_test(values_are_skipped),
        cmocka_unit_test(leading_space_is_noted),
        cmocka_unit_test(keys_are_a_set),
        cmocka_unit_test(the_gate_admits_what_cjson_reads),
        cmocka_unit_test(the_gate_has_room_for_dense_texts),
        cmocka_unit_test(memory_ceilings_are_errors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
