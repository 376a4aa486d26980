/* Holds: every wrong recipe is refused with all its problems in one run, in the order of its lines, each a sentence with
 * file, line and column. tests/configs/broken/NAME.yml and NAME.expect are the cases: the first line of .expect is the
 * exit code, every other line a text that must appear. The same folder is run through the command line tool. */
#include "support/recipe_capture.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

static void config_folder(char *folder, size_t size, const char *name)
{
    static const char here[] = __FILE__, own[] = "unit/test_recipe_errors.c";

    snprintf(folder, size, "%.*sconfigs/%s", (int)(sizeof here - sizeof own), here, name);
}

static size_t count_lines(const char *text)
{
    size_t n = 0;

    for (; *text; text++)
        n += *text == '\n';
    return n;
}

/* ---- the corpus --------------------------------------------------------------------------------------------- */

static void check_config(const char *config, const char *expect_path)
{
    char line[4096];
    struct capture c;
    size_t n_expected = 0;
    FILE *expect = fopen(expect_path, "r");
    int exit_code = -1;

    if (!expect)
        fail_msg("%s is missing", expect_path);
    capture_file(&c, config, false);
    while (expect && fgets(line, sizeof line, expect)) {
        line[strcspn(line, "\n")] = '\0';
        if (exit_code < 0) {
            exit_code = (int)strtol(line, NULL, 10);
            continue;
        }
        n_expected++;
        if (!strstr(text_string(&c.lines), line))
            fail_msg("%s: expected\n  %s\ngot\n%s", config, line, text_string(&c.lines));
    }
    if (expect)
        fclose(expect);
    if (wm_exit_code(c.status) != exit_code)
        fail_msg("%s: exit code %d, expected %d\n%s", config, wm_exit_code(c.status), exit_code, c.err.message);
    /* Nothing but what was expected: a second sentence about the same slip only confuses. */
    if (count_lines(text_string(&c.lines)) != n_expected)
        fail_msg("%s: %zu findings expected, got\n%s", config, n_expected, text_string(&c.lines));
    if (c.err.status != c.status || !*c.err.message)
        fail_msg("%s: err is \"%s\"", config, c.err.message);
    capture_release(&c);
}

static void broken_files(void **state)
{
    char folder[4096];
    struct dirent *entry;
    DIR *dir;
    int n = 0;

    (void)state;
    config_folder(folder, sizeof folder, "broken");
    dir = opendir(folder);
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        char config[8192], expect[8192];
        size_t n_name = strlen(entry->d_name);
        if (n_name < 4 || strcmp(entry->d_name + n_name - 4, ".yml") != 0)
            continue;
        snprintf(config, sizeof config, "%s/%s", folder, entry->d_name);
        snprintf(expect, sizeof expect, "%s/%.*s.expect", folder, (int)n_name - 4, entry->d_name);
        check_config(config, expect);
        n++;
    }
    closedir(dir);
    assert_true(n >= 80);
}

/* ---- lint: a warning, or an error where strict -------------------------------------------------------------- */

static void lint(void **state)
{
    static const struct {
        const char *text, *finding;
    } cases[] = {
        {"merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}]\ndtpye: float16\n",
         "config.yml:4:1: unknown key \"dtpye\" in a recipe; did you mean \"dtype\"?"},
        {"merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}]\nname: mine\n",
         "config.yml:4:1: unknown key \"name\" in a recipe; it has no effect, remove it"},
        {"merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a, paramters: {}}]\n",
         "config.yml:3:21: unknown key \"paramters\" in an entry of models; did you mean \"parameters\"?"},
        {"merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a, dtype: float16}]\n",
         "config.yml:3:21: \"dtype\" has no effect in an entry of models; move it to the top level of the file"},
        {"merge_method: linear\nparameters: {weight: 1, dtype: float16}\nmodels: [{model: a}]\n",
         "config.yml:2:25: \"dtype\" is not a parameter and has no effect here; move it to the top level of the file"},
        {"merge_method: linear\nnormalize: true\nparameters: {weight: 1}\nmodels: [{model: a}]\n",
         "config.yml:2:1: \"normalize\" is a parameter of linear and has no effect here; write it under "
         "\"parameters:\""},
        {"merge_method: linear\nparameters: {weight: 1, density: 0.5}\nmodels: [{model: a}]\n",
         "config.yml:2:25: \"density\" is a parameter of task_arithmetic but not of linear; it has no effect, remove "
         "it"},
        {"merge_method: linear\nparameters: {weight: 1, normalise: 1}\nmodels: [{model: a}]\n",
         "config.yml:2:25: linear has no parameter \"normalise\"; did you mean \"normalize\"?"},
        {"merge_method: linear\nparameters: {weight: 1, colour: blue}\nmodels: [{model: a}]\n",
         "config.yml:2:25: linear has no parameter \"colour\"; it has no effect, see `warpmerge methods linear`"},
        {"merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a, parameters: {normalize: false}}]\n",
         "config.yml:3:34: \"normalize\" is one value for the whole merge and has no effect under a model; move it to "
         "the top-level \"parameters:\""},
        {"merge_method: ties\nbase_model: b\nparameters: {weight: 1}\n"
         "models: [{model: a}, {model: b, parameters: {weight: 1}}]\n",
         "config.yml:4:45: parameters of the base model have no effect, because ties merges differences from it; "
         "remove "
         "them"},
        {"merge_method: linear\nmodels: [{model: a}]\nparameters:\n  weight:\n    - value: 1\n    - {filter: mlp, "
         "value: "
         "2}\n",
         "config.yml:6:7: weight: this pair is never reached, because the one before it has no filter and matches "
         "every "
         "tensor; put the pair without a filter last"},
        {"merge_method: linear\nmodels: [{model: a}]\nparameters:\n  weight: [{fitler: mlp, value: 2}]\n",
         "config.yml:4:13: unknown key \"fitler\" in a filter/value pair; did you mean \"filter\"?"},
        {"merge_method: passthrough\nmodels: [{model: {model: {path: a, rev: b}}}]\n",
         "config.yml:2:36: unknown key \"rev\" in a model path; it has no effect, remove it"},
        {"merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}]\n\"a\\tb\\x1b[31m\": 1\n",
         "config.yml:4:1: unknown key \"a\\x09b\\x1b[31m\" in a recipe; it has no effect, remove it"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct capture relaxed, strict;
        char expected[1024];
        snprintf(expected, sizeof expected, "%s\n", cases[i].finding);
        capture_text(&relaxed, cases[i].text, strlen(cases[i].text), false);
        capture_text(&strict, cases[i].text, strlen(cases[i].text), true);
        assert_int_equal(relaxed.status, WM_OK);
        assert_non_null(relaxed.recipe);
        assert_string_equal(text_string(&relaxed.lines), expected);
        assert_int_equal(strict.status, WM_BAD_CONFIG);
        assert_null(strict.recipe);
        assert_string_equal(text_string(&strict.lines), expected);
        assert_string_equal(strict.err.message, cases[i].finding);
        capture_release(&relaxed);
        capture_release(&strict);
    }
}

/* The same model twice is allowed (unlike in mergekit) and noted; strictness does not touch notes. */
static void repeated_model_is_noted(void **state)
{
    static const char text[] = "merge_method: linear\nparameters: {weight: 1}\nmodels:\n- model: a\n- model: a\n";
    struct capture c;

    (void)state;
    capture_text(&c, text, strlen(text), true);
    assert_int_equal(c.status, WM_OK);
    assert_int_equal(c.recipe->n_models, 2);
    assert_string_equal(text_string(&c.lines),
                        "note: config.yml:5:10: \"a\" is listed at line 4 already; each entry counts with its own "
                        "parameters\n");
    capture_release(&c);
}

/* ---- files -------------------------------------------------------------------------------------------------- */

static void unreadable_files(void **state)
{
    struct capture c;

    (void)state;
    capture_file(&c, "/nonexistent/config.yml", false);
    assert_int_equal(wm_exit_code(c.status), 66);
    assert_int_equal(count_lines(text_string(&c.lines)), 1);
    assert_non_null(strstr(c.err.message, "/nonexistent/config.yml"));
    capture_release(&c);
    capture_file(&c, "/", false);
    assert_int_not_equal(c.status, WM_OK);
    assert_null(c.recipe);
    assert_int_equal(count_lines(text_string(&c.lines)), 1);
    capture_release(&c);
}

/* ---- hostile text: refused soon, whatever its size ---------------------------------------------------------- */

static void add_repeated(struct text *t, const char *s, size_t n)
{
    while (n--)
        text_add(t, s);
}

static void hostile(void **state)
{
    static const struct {
        const char *head, *repeated, *tail;
        size_t n;
        const char *finding; /* NULL: any */
    } cases[] = {
        {"#", "x", "\n", ((size_t)16 << 20) + 1, "larger than 16 MiB"},
        {"merge_method: linear\nmodels: ", "[", "", 100000, "nested more than 64 deep"},
        {"merge_method: linear\nmodels: ", "{a: ", "", 100000, "nested more than 64 deep"},
        {"", "- ", "a\n", 100000, "nested more than 64 deep"},
        {"merge_method: linear\nmodels: [", "a,", "a]\n", 1100000, "more than 1000000 values"},
        {"merge_method: linear\nmodels:\n", "  - &a x\n", "", 1001, "more than 1000 anchors"},
        {"{\"", "k", "\": 1}\n", 1025, "longer than 1024 bytes"},
        {"? ", "k", "\n: 1\n", 5000, "longer than 1024 bytes"},
        {"? [", "k,", "]\n: 1\n", 50, "a key must be a word"},
        {"merge_method: ", "x", "\nmodels: [{model: a}]\n", 100000, "unknown merge_method"},
        {"{", "a: 1,", "}\n", 100000, "is given twice"},
        {"merge_method: linear\nmodels:\n", "- model: 1\n", "", 100000, "write it in quotes"},
        {"a: &a {k: &k [1, 2]}\nb: [", "{<<: *a},", "{<<: *a}]\nmodels: [{model: x}]\n", 150000, NULL},
        {"a: &a [", "*b,", "]\n", 10, "has no anchor"},
        {"k: &a x\n", "*a : 1\n", "", 10, "not a list, a mapping or an alias"},
        {"a: \"", "\\0", "\"\n", 10, "NUL"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct text text;
        struct capture c;
        clock_t begin;
        text_init(&text, (size_t)64 << 20);
        text_add(&text, cases[i].head);
        add_repeated(&text, cases[i].repeated, cases[i].n);
        text_add(&text, cases[i].tail);
        assert_false(text.failed);
        begin = clock();
        capture_text(&c, text.data, text.n_bytes, false);
        /* Processor time; 50 times what it takes here with sanitizers off, so that only a blow-up is red. */
        if ((double)(clock() - begin) / CLOCKS_PER_SEC > 30.0)
            fail_msg("case %zu took too long", i);
        if (c.status != WM_BAD_CONFIG || c.recipe)
            fail_msg("case %zu: %d\n%s", i, (int)c.status, text_string(&c.lines));
        if (cases[i].finding && !strstr(text_string(&c.lines), cases[i].finding))
            fail_msg("case %zu:\n%s", i, text_string(&c.lines));
        if (count_lines(text_string(&c.lines)) > 2 * PROBLEMS_MAX_SHOWN + 2)
            fail_msg("case %zu has %zu lines", i, count_lines(text_string(&c.lines)));
        capture_release(&c);
        text_release(&text);
    }
}

/* A NULL text of no bytes, and every prefix of a rich config: none crashes, none is taken for the whole. */
static void prefixes(void **state)
{
    static const char text[] =
        "merge_method: ties\nbase_model: &b {model: {path: base, revision: r}}\n"
        "parameters: &p {weight: [0, .5], density: [{filter: mlp, value: 0.5}, {value: \"1\"}]}\n"
        "models:\n  - {model: *b}\n  - model: a@r+l@s\n    parameters: {<<: *p}\n"
        "tokenizer: {source: union, tokens: {\"<|x|>\": {source: a}}}\n"
        "slices: []\nmodules: {}\nchat_template: |\n  {{ x }}\n";
    struct capture c;

    (void)state;
    capture_text(&c, NULL, 0, false);
    assert_int_equal(c.status, WM_BAD_CONFIG);
    capture_release(&c);
    for (size_t n = 0; n < sizeof text; n++) {
        char *exact = malloc(n + 1); /* a block of its own, so that reading past the end shows */
        assert_non_null(exact);
        memcpy(exact, text, n);
        exact = realloc(exact, n ? n : 1);
        assert_non_null(exact);
        capture_text(&c, exact, n, n % 2);
        capture_release(&c);
        free(exact);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(broken_files),     cmocka_unit_test(lint),    cmocka_unit_test(repeated_model_is_noted),
        cmocka_unit_test(unreadable_files), cmocka_unit_test(hostile), cmocka_unit_test(prefixes),
    };

    return cmocka_run_group_tests_name("recipe_errors", tests, NULL, NULL);
}
