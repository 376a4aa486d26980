/* Shard indexes: every row of the corpus gets its verdict when its folder is opened, nothing outside a folder is ever
 * opened, and the parsed table is right. */
#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/shard_index.h"
#include "temp_dir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <time.h>

#include <cmocka.h>

static char opened[64][CORPUS_PATH_BYTES]; /* by the reader, in order */
static int n_opened;

static int note_open(enum file_call call, const char *path)
{
    if (call == FILE_OPEN && n_opened < 64)
        snprintf(opened[n_opened++], sizeof *opened, "%s", path);
    return 0;
}

static int set_up(void **state)
{
    root_set_up(state);
    file_fault = note_open;
    return 0;
}

static void run_case(void **state)
{
    const struct corpus_index *c = *state;
    char path[CORPUS_PATH_BYTES], ending[64], outside[CORPUS_PATH_BYTES];

    corpus_path(outside, "%s/outside.safetensors", root);
    corpus_write_folder(c, root);
    corpus_path(path, "%s/%s", root, c->name);
    for (int strict = 0; strict < 2; strict++) {
        const struct ckpt_options options = {.strict = strict};
        struct wm_error err = WM_ERROR_INIT;
        struct problems problems;
        struct ckpt *ckpt;
        enum wm_status st;
        problems_init(&problems, NULL, NULL, false);
        n_opened = 0;
        st = ckpt_open(&ckpt, path, NULL, &options, &problems, &err);
        assert_false(problems.strict);
        for (int i = 0; i < n_opened; i++) {
            char real[CORPUS_PATH_BYTES];
            assert_non_null(realpath(opened[i], real));
            assert_string_not_equal(real, outside);
            assert_int_equal(strncmp(real, root, strlen(root)), 0);
        }
        if (c->identifier) {
            size_t n = strlen(err.message), n_ending;
            n_ending = (size_t)snprintf(ending, sizeof ending, " [%s]", c->identifier);
            assert_int_equal(wm_exit_code(st), c->exit_code);
            assert_null(ckpt);
            if (n < n_ending || strcmp(err.message + n - n_ending, ending) != 0)
                fail_msg("expected%s, got: %s", ending, err.message);
            if (!strstr(err.message, path) && !strstr(err.message, "model.safetensors.index.json"))
                fail_msg("names no file: %s", err.message);
            continue;
        }
        if (st != WM_OK)
            fail_msg("refused: %s", err.message);
        assert_true(ckpt->n_tensors == c->n_tensors);
        assert_int_equal(problems.n_warnings, strict ? c->n_warnings - c->n_strict_errors : c->n_warnings);
        assert_int_equal(problems.n_errors, strict ? c->n_strict_errors : 0);
        ckpt_free(ckpt);
        /* Without a list of findings, what strict finds fails the call. */
        st = ckpt_open(&ckpt, path, NULL, &options, NULL, &err);
        assert_int_equal(st, strict && c->n_strict_errors ? WM_BAD_DATA : WM_OK);
        ckpt_free(ckpt);
    }
}

/* ---- details ------------------------------------------------------------------------------------------------ */

static void the_table_is_right(void **state)
{
    static const char text[] =
        "{\"weight_map\":{\"b\":\"y.safetensors\",\"a\":\"x.safetensors\",\"c\":\"y.safetensors\"},"
        "\"metadata\":{\"total_size\":123}}";
    struct wm_error err = WM_ERROR_INIT;
    struct shard_index index;
    struct arena arena;

    (void)state;
    arena_init(&arena, 1 << 20);
    assert_int_equal(shard_index_parse(&index, "i", text, strlen(text), &arena, &err), WM_OK);
    assert_int_equal(index.n_entries, 3);
    assert_int_equal(index.n_shards, 2);
    assert_string_equal(index.shards[0].name, "y.safetensors");
    assert_string_equal(index.shards[1].name, "x.safetensors");
    assert_string_equal(index.entries[0].tensor, "b");
    assert_int_equal(index.entries[0].shard, 0);
    assert_int_equal(index.entries[1].shard, 1);
    assert_int_equal(index.entries[2].shard, 0);
    assert_int_equal(name_map_find(&index.tensors, "c"), 2);
    assert_true(name_map_find(&index.tensors, "d") == NAME_MAP_NONE);
    assert_true(index.has_total_size && index.total_size == 123.0);
    arena_release(&arena);
}

static void all_missing_shards_are_named(void **state)
{
    static const struct corpus_index c = {.name = "three-missing",
                                          .index = "{\"weight_map\":{\"a\":\"s.safetensors\",\"b\":\"t.safetensors\","
                                                   "\"c\":\"u.safetensors\",\"d\":\"v.safetensors\"}}",
                                          .n_index = 96,
                                          .shards = "t.safetensors:b"};
    struct wm_error err = WM_ERROR_INIT;
    char path[CORPUS_PATH_BYTES];
    struct ckpt *ckpt;

    (void)state;
    assert_int_equal(strlen(c.index), c.n_index);
    corpus_write_folder(&c, root);
    corpus_path(path, "%s/%s", root, c.name);
    assert_int_equal(ckpt_open(&ckpt, path, NULL, NULL, NULL, &err), WM_NO_INPUT);
    assert_non_null(strstr(err.message, "3 of 4 shards are missing: s.safetensors, u.safetensors, v.safetensors;"));
}

/* Without an index the numbers in the shards' names tell. */
static void the_first_missing_part_is_named(void **state)
{
    static const struct {
        struct corpus_index folder;
        const char *part;
    } cases[] = {
        {{.name = "no-first", .shards = "m-00002-of-00003.safetensors:b;m-00003-of-00003.safetensors:c"},
         "1 of its 3 shards are missing (first: part 1)"},
        {{.name = "no-second", .shards = "m-00001-of-00004.safetensors:a;m-00003-of-00004.safetensors:c"},
         "2 of its 4 shards are missing (first: part 2)"},
        {{.name = "no-last", .shards = "m-00001-of-00003.safetensors:a;m-00002-of-00003.safetensors:b"},
         "1 of its 3 shards are missing (first: part 3)"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct wm_error err = WM_ERROR_INIT;
        char path[CORPUS_PATH_BYTES];
        struct ckpt *ckpt;
        corpus_write_folder(&cases[i].folder, root);
        corpus_path(path, "%s/%s", root, cases[i].folder.name);
        assert_int_equal(ckpt_open(&ckpt, path, NULL, NULL, NULL, &err), WM_NO_INPUT);
        if (!strstr(err.message, cases[i].part))
            fail_msg("\"%s\" is not in: %s", cases[i].part, err.message);
    }
}

/* 100,000 tensors in 1,000 shards, so that anything quadratic shows. */
static void a_large_index_is_quick(void **state)
{
    enum { n = 100000 };
    char *text = malloc((size_t)n * 96 + 64);
    struct wm_error err = WM_ERROR_INIT;
    struct shard_index index;
    struct arena arena;
    size_t at = 0;
    clock_t begin; /* of processor time: other tests that run beside this one do not count */

    (void)state;
    assert_non_null(text);
    at += (size_t)sprintf(text, "{\"weight_map\":{");
    for (int i = 0; i < n; i++)
        at += (size_t)sprintf(text + at, "%s\"model.layers.%d.mlp.weight\":\"model-%05d-of-01000.safetensors\"",
                              i ? "," : "", i, i % 1000 + 1);
    at += (size_t)sprintf(text + at, "}}");
    arena_init(&arena, (size_t)1 << 30);
    begin = clock();
    assert_int_equal(shard_index_parse(&index, "i", text, at, &arena, &err), WM_OK);
    assert_true(clock() - begin < 2 * CLOCKS_PER_SEC); /* 0.05 s here; a sanitizer takes ten times that */
    assert_int_equal(index.n_entries, n);
    assert_int_equal(index.n_shards, 1000);
    arena_release(&arena);
    free(text);
}

int main(void)
{
    static const struct CMUnitTest others[] = {
        cmocka_unit_test(the_table_is_right),
        cmocka_unit_test(all_missing_shards_are_named),
        cmocka_unit_test(the_first_missing_part_is_named),
        cmocka_unit_test(a_large_index_is_quick),
    };
    static struct CMUnitTest tests[CORPUS_N_INDEXES + sizeof others / sizeof *others];

    for (size_t i = 0; i < CORPUS_N_INDEXES; i++)
        tests[i] =
            (struct CMUnitTest){corpus_indexes[i].name, run_case, NULL, NULL, (void *)(uintptr_t)&corpus_indexes[i]};
    memcpy(tests + CORPUS_N_INDEXES, others, sizeof others);
    return cmocka_run_group_tests(tests, set_up, root_tear_down);
}
