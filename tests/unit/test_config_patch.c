/* Holds: a config.json keeps every byte but the values that a merge changes: numbers, key order and layout survive. */
#include "report/report.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct patch_case {
    const char *what, *before;
    struct report_config_edit edit;
    const char *after;
};

#define KEEP_DTYPE NULL
#define KEEP       (-1)

static const struct patch_case cases[] = {
    {"nothing to do", "{\"a\": 1e-05, \"b\": 500000.0}", {KEEP_DTYPE, KEEP, KEEP}, "{\"a\": 1e-05, \"b\": 500000.0}"},
    {"numbers that a tree would reprint",
     "{\n  \"eps\": 1e-05,\n  \"theta\": 500000.0,\n  \"big\": 9007199254740993,\n  \"neg\": -0.0,\n  "
     "\"torch_dtype\": \"float32\"\n}\n",
     {"bfloat16", KEEP, KEEP},
     "{\n  \"eps\": 1e-05,\n  \"theta\": 500000.0,\n  \"big\": 9007199254740993,\n  \"neg\": -0.0,\n  "
     "\"torch_dtype\": \"bfloat16\"\n}\n"},
    {"the newer name stays",
     "{\"dtype\":\"float16\",\"x\":[1, 2]}",
     {"float32", KEEP, KEEP},
     "{\"dtype\":\"float32\",\"x\":[1, 2]}"},
    {"both names",
     "{\"dtype\": null, \"torch_dtype\": \"float16\"}",
     {"float32", KEEP, KEEP},
     "{\"dtype\": \"float32\", \"torch_dtype\": \"float32\"}"},
    {"added where there is none",
     "{\n  \"a\": [1,\n 2]\n}",
     {"bfloat16", KEEP, KEEP},
     "{\n  \"a\": [1,\n 2],\n  \"torch_dtype\": \"bfloat16\"\n}"},
    {"added to one line",
     "{\"a\": {\"dtype\": \"x\"}}",
     {"float16", KEEP, KEEP},
     "{\"a\": {\"dtype\": \"x\"},\"torch_dtype\": \"float16\"}"},
    {"added to an empty object",
     "{}",
     {"float16", 5, 1},
     "{\"torch_dtype\": \"float16\", \"vocab_size\": 5, \"tie_word_embeddings\": true}"},
    {"an empty object with blanks", " { } ", {"float16", KEEP, KEEP}, " {\"torch_dtype\": \"float16\" } "},
    {"vocabulary and tied head",
     "{\"tie_word_embeddings\": true, \"vocab_size\": 32000, \"z\": 0}",
     {KEEP_DTYPE, 32064, 0},
     "{\"tie_word_embeddings\": false, \"vocab_size\": 32064, \"z\": 0}"},
    {"inside text_config",
     "{\"text_config\": {\"vocab_size\": 7, \"torch_dtype\": \"float32\"}, \"torch_dtype\": \"float32\"}",
     {"bfloat16", 9, KEEP},
     "{\"text_config\": {\"vocab_size\": 9, \"torch_dtype\": \"bfloat16\"}, \"torch_dtype\": \"bfloat16\"}"},
    {"in both places",
     "{\"vocab_size\": 7, \"text_config\": {\"vocab_size\": 7}}",
     {KEEP_DTYPE, 9, KEEP},
     "{\"vocab_size\": 9, \"text_config\": {\"vocab_size\": 9}}"},
    {"into an empty text_config",
     "{\"text_config\": {}}",
     {"float16", 9, KEEP},
     "{\"text_config\": {\"vocab_size\": 9},\"torch_dtype\": \"float16\"}"},
    {"everything, text_config last",
     "{\"torch_dtype\": 1, \"dtype\": 2, \"vocab_size\": 3, \"tie_word_embeddings\": 4, \"text_config\": "
     "{\"torch_dtype\": 5, "
     "\"dtype\": 6, \"vocab_size\": 7, \"tie_word_embeddings\": 8}}",
     {"float32", 1, 1},
     "{\"torch_dtype\": \"float32\", \"dtype\": \"float32\", \"vocab_size\": 1, \"tie_word_embeddings\": true, "
     "\"text_config\": {\"torch_dtype\": \"float32\", \"dtype\": \"float32\", \"vocab_size\": 1, "
     "\"tie_word_embeddings\": true}}"},
    {"text_config that is no object",
     "{\"text_config\": null, \"vocab_size\": 3}",
     {KEEP_DTYPE, 4, KEEP},
     "{\"text_config\": null, \"vocab_size\": 4}"},
    {"not in deeper places",
     "{\"vision_config\": {\"vocab_size\": 1, \"dtype\": \"x\"}, \"vocab_size\": 3}",
     {KEEP_DTYPE, 4, KEEP},
     "{\"vision_config\": {\"vocab_size\": 1, \"dtype\": \"x\"}, \"vocab_size\": 4}"},
    {"values that look like keys",
     "{\"a\": \"vocab_size\", \"b\": [\"vocab_size\", {\"vocab_size\": 1}], \"vocab_size\": {\"x\": [1]}}",
     {KEEP_DTYPE, 4, KEEP},
     "{\"a\": \"vocab_size\", \"b\": [\"vocab_size\", {\"vocab_size\": 1}], \"vocab_size\": 4}"},
    {"strings with quotes, brackets and escapes",
     "{\"a\\\"}\": \"\\\\\\\"{[,:\", \"vocab_size\":3 ,\"c\":\"}\"}",
     {KEEP_DTYPE, 4, KEEP},
     "{\"a\\\"}\": \"\\\\\\\"{[,:\", \"vocab_size\":4 ,\"c\":\"}\"}"},
    {"a key that only begins alike",
     "{\"vocab_size_extra\": 1, \"vocab_siz\": 2}",
     {KEEP_DTYPE, 4, KEEP},
     "{\"vocab_size_extra\": 1, \"vocab_siz\": 2,\"vocab_size\": 4}"},
};

static void patched(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct patch_case *c = &cases[i];
        struct wm_error err = WM_ERROR_INIT;
        struct text out;
        text_init(&out, TEXT_MAX_BYTES);
        if (report_config_patch("config.json", c->before, strlen(c->before), &c->edit, &out, &err) != WM_OK)
            fail_msg("%s: %s", c->what, err.message);
        if (strcmp(text_string(&out), c->after) != 0)
            fail_msg("%s:\n  expected %s\n  got      %s", c->what, c->after, text_string(&out));
        text_release(&out);
    }
}

static void refused(void **state)
{
    static const char *const bad[] = {"",
                                      "[]",
                                      "3",
                                      "{\"a\": 1,}",
                                      "{\"a\": 1} x",
                                      "{\"a\": 1, \"a\": 2}",
                                      "{\"a\": 01}",
                                      "{\"a\": NaN}",
                                      "{\"a\": \"\xff\"}"};
    const struct report_config_edit edit = {"float32", 1, 1};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct wm_error err = WM_ERROR_INIT;
        struct text out;
        text_init(&out, TEXT_MAX_BYTES);
        if (report_config_patch("dir/config.json", bad[i], strlen(bad[i]), &edit, &out, &err) != WM_BAD_DATA)
            fail_msg("accepted: %s", bad[i]);
        if (!strstr(err.message, "dir/config.json"))
            fail_msg("does not name the file: %s", err.message);
        text_release(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(patched), cmocka_unit_test(refused)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
