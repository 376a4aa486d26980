/* Opening models: what a folder or file is, config.json, order and lookup of tensors, and time for many of them; and
 * that headers we write are read back as they were meant. */
#include "base/file.h"
#include "base/text.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors_read.h"
#include "temp_dir.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <time.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

static void write_file(const char *name, const char *text, size_t n)
{
    char path[CORPUS_PATH_BYTES];

    corpus_path(path, "%s/%s", root, name);
    corpus_write(path, text, n);
}

static void assert_mentions(const struct wm_error *err, const char *part)
{
    if (!strstr(err->message, part))
        fail_msg("\"%s\" is not in: %s", part, err->message);
}

/* ---- what a folder holds ------------------------------------------------------------------------------------ */

static void folders_without_a_model_are_named(void **state)
{
    static const struct {
        const char *files; /* separated by spaces */
        enum wm_status status;
        const char *identifier, *part;
    } cases[] = {
        {"", WM_NO_INPUT, "[NO_WEIGHTS]", "no weights here"},
        {"config.json", WM_NO_INPUT, "[NO_WEIGHTS]", "no weights here"},
        {"pytorch_model.bin", WM_BAD_DATA, "[PICKLE]", "save_pretrained"},
        {"pytorch_model.bin.index.json pytorch_model-00001-of-00002.bin", WM_BAD_DATA, "[PICKLE]", "pickles"},
        {"consolidated.00.pth", WM_BAD_DATA, "[PICKLE]", "pickles"},
        {"model.Q4_K_M.gguf", WM_BAD_DATA, "[GGUF]", "llama.cpp"},
        {"adapter_config.json adapter_model.safetensors", WM_BAD_DATA, "[LORA_ADAPTER]", "merge_and_unload"},
        {"adapter_config.json adapter_model.bin", WM_BAD_DATA, "[LORA_ADAPTER]", "LoRA adapter"},
        {"a.safetensors b.safetensors", WM_BAD_DATA, "[AMBIGUOUS_WEIGHTS]", "(a.safetensors, b.safetensors)"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct wm_error err = WM_ERROR_INIT;
        struct ckpt *ckpt;
        char names[128], *name, *rest = names;
        root_tear_down(NULL);
        root_set_up(NULL);
        snprintf(names, sizeof names, "%s", cases[i].files);
        while ((name = strtok_r(rest, " ", &rest)) != NULL)
            write_file(name, "{}", 2);
        assert_int_equal(ckpt_open(&ckpt, root, NULL, NULL, NULL, &err), cases[i].status);
        assert_null(ckpt);
        assert_mentions(&err, cases[i].identifier);
        assert_mentions(&err, cases[i].part);
        assert_mentions(&err, root);
    }
}

static void weights_of_other_kinds_are_named(void **state)
{
    static const struct {
        const char *name, *text;
        size_t n;
        const char *identifier;
    } cases[] = {
        {"model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", 64,
         "model.safetensors: this is a Git LFS pointer"},
        {"model.safetensors.index.json", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", 64,
         "index.json: this is a Git LFS pointer"},
        {"pytorch_model.bin", "PK\3\4\24\0\0\0\0\0aaaaaaaaaa", 20, "pytorch_model.bin: this is a zip archive"},
        {"x.pt", "\200\2}q\0X\6\0\0\0weight", 16, "x.pt: this is a Python pickle"},
        {"x.gguf", "GGUF\3\0\0\0\1\0\0\0\0\0\0\0", 16, "x.gguf: this is a GGUF file"},
        {"model.safetensors.index.json", "{\"weight_map\": {\"a\": \"b.safetensors\"}}", 38,
         "index.json: this is JSON text"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct wm_error err = WM_ERROR_INIT;
        struct ckpt *ckpt;
        char path[CORPUS_PATH_BYTES];
        root_tear_down(NULL);
        root_set_up(NULL);
        write_file(cases[i].name, cases[i].text, cases[i].n);
        corpus_path(path, "%s/%s", root, cases[i].name);
        assert_int_equal(ckpt_open(&ckpt, path, NULL, NULL, NULL, &err), WM_BAD_DATA);
        assert_mentions(&err, cases[i].identifier);
        if (i < 2) { /* the names that a folder is opened by */
            err = (struct wm_error)WM_ERROR_INIT;
            assert_int_equal(ckpt_open(&ckpt, root, NULL, NULL, NULL, &err), WM_BAD_DATA);
            assert_mentions(&err, cases[i].identifier);
        }
    }
}

static void references_that_lead_nowhere_are_named(void **state)
{
    static const char *const references[] = {"/nowhere/at/all", "", "a/b/c", "x.safetensors/", "~/model"};

    (void)state;
    for (size_t i = 0; i < sizeof references / sizeof *references; i++) {
        struct wm_error err = WM_ERROR_INIT;
        struct ckpt *ckpt;
        assert_int_equal(ckpt_open(&ckpt, references[i], NULL, NULL, NULL, &err), WM_NO_INPUT);
        assert_mentions(&err, "[NO_SUCH_MODEL]");
        assert_mentions(&err, references[i]);
    }
}

/* ---- a model, its config and its tensors -------------------------------------------------------------------- */

static void a_single_file_is_a_model_too(void **state)
{
    struct wm_error err = WM_ERROR_INIT;
    char path[CORPUS_PATH_BYTES];
    struct problems problems;
    struct ckpt *ckpt;

    (void)state;
    corpus_path(path, "%s/anything.safetensors", root);
    corpus_write_shard(path, "b,a");
    write_file("config.json", "{\"hidden_size\": 64}", 19);
    problems_init(&problems, NULL, NULL, false);
    assert_int_equal(ckpt_open(&ckpt, path, NULL, NULL, &problems, &err), WM_OK);
    assert_int_equal(problems.n_warnings, 0);
    assert_string_equal(ckpt->reference, path);
    assert_string_equal(ckpt->dir, root);
    assert_null(ckpt->commit);
    assert_int_equal(ckpt->n_files, 1);
    assert_string_equal(ckpt->files[0].name, "anything.safetensors");
    assert_string_equal(ckpt->files[0].path, path);
    assert_null(ckpt->files[0].sha256);
    assert_true(ckpt->files[0].identity.n_bytes > 0);
    assert_int_equal(cJSON_GetObjectItemCaseSensitive(ckpt->config, "hidden_size")->valueint, 64);
    assert_int_equal(ckpt->n_tensors, 2);
    assert_int_equal(ckpt->n_bytes, 8);
    assert_string_equal(ckpt->tensors[0].name, "a");
    ckpt_free(ckpt);
    /* A revision makes no sense there. */
    assert_int_equal(ckpt_open(&ckpt, path, "main", NULL, &problems, &err), WM_OK);
    assert_int_equal(problems.n_warnings, 1);
    ckpt_free(ckpt);
    ckpt_free(NULL);
}

static void a_file_given_by_path_may_be_a_link(void **state)
{
    struct wm_error err = WM_ERROR_INIT;
    char path[CORPUS_PATH_BYTES], link[CORPUS_PATH_BYTES];
    struct ckpt *ckpt;

    (void)state;
    corpus_path(path, "%s/sub", root);
    assert_int_equal(mkdir(path, 0755), 0);
    corpus_path(path, "%s/real.safetensors", root);
    corpus_write_shard(path, "a");
    corpus_path(link, "%s/sub/model.safetensors", root);
    assert_int_equal(symlink("../real.safetensors", link), 0);
    assert_int_equal(ckpt_open(&ckpt, link, NULL, NULL, NULL, &err), WM_OK);
    ckpt_free(ckpt);
    /* The folder's own choice of that link is another matter. */
    corpus_path(path, "%s/sub", root);
    assert_int_equal(ckpt_open(&ckpt, path, NULL, NULL, NULL, &err), WM_BAD_DATA);
    assert_mentions(&err, "[LINK_OUTSIDE_MODEL]");
}

static void configs_are_checked(void **state)
{
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"{\"a\": 1}", NULL},
        {"", "[CONFIG_NOT_JSON]"},
        {"{\"a\": 1,}", "config.json:1:9: not usable JSON"},
        {"{\"a\": 1, \"a\": 2}", "stands twice"},
        {"{\"a\": NaN}", "[CONFIG_NOT_JSON]"},
        {"[1]", "not an object"},
        {"{\"a\": \"x\\u0000y\"}", "NUL"},
        {"version https://git-lfs.github.com/spec/v1\n", "[LFS_POINTER]"},
        {"<html>", "[HTML_PAGE]"},
    };
    char path[CORPUS_PATH_BYTES];
    struct wm_error err = WM_ERROR_INIT;
    struct ckpt *ckpt;

    (void)state;
    corpus_path(path, "%s/model.safetensors", root);
    corpus_write_shard(path, "a");
    assert_int_equal(ckpt_open(&ckpt, root, NULL, NULL, NULL, &err), WM_OK);
    assert_null(ckpt->config);
    ckpt_free(ckpt);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        enum wm_status st;
        err = (struct wm_error)WM_ERROR_INIT;
        write_file("config.json", cases[i].text, strlen(cases[i].text));
        st = ckpt_open(&ckpt, root, NULL, NULL, NULL, &err);
        assert_int_equal(st, cases[i].part ? WM_BAD_DATA : WM_OK);
        if (cases[i].part) {
            assert_mentions(&err, cases[i].part);
            assert_mentions(&err, "config.json");
        }
        ckpt_free(ckpt);
    }
    corpus_path(path, "%s/config.json", root);
    assert_int_equal(truncate(path, ((off_t)16 << 20) + 1), 0);
    err = (struct wm_error)WM_ERROR_INIT;
    assert_int_equal(ckpt_open(&ckpt, root, NULL, NULL, NULL, &err), WM_BAD_DATA);
    assert_mentions(&err, "[FILE_TOO_LARGE]");
}

static void tensors_stand_in_natural_order_and_are_found(void **state)
{
    static const char *const sorted[] = {"embed",  "h.0.a",  "h.1.a",   "h.2.a",   "h.10.a",
                                         "h.10.b", "h.10.B", "h.100.a", "lm_head", "norm"};
    struct wm_error err = WM_ERROR_INIT;
    char path[CORPUS_PATH_BYTES];
    struct ckpt *ckpt;

    (void)state;
    corpus_path(path, "%s/model-00001-of-00002.safetensors", root);
    corpus_write_shard(path, "norm,h.10.b,h.2.a,embed,h.10.B");
    corpus_path(path, "%s/model-00002-of-00002.safetensors", root);
    corpus_write_shard(path, "h.100.a,h.1.a,h.10.a,h.0.a,lm_head");
    assert_int_equal(ckpt_open(&ckpt, root, NULL, NULL, NULL, &err), WM_OK);
    assert_int_equal(ckpt->n_tensors, 10);
    for (size_t i = 0; i < 10; i++) {
        const struct ckpt_tensor *t = ckpt_find(ckpt, sorted[i]);
        assert_non_null(t);
        assert_string_equal(t->name, sorted[i]);
        assert_int_equal(t->dtype, WM_F32);
        assert_int_equal(t->n_bytes, 4);
        if (i)
            assert_true(text_natural_compare(ckpt->tensors[i - 1].name, ckpt->tensors[i].name) < 0);
    }
    assert_int_equal(ckpt_find(ckpt, "norm")->file, 0);
    assert_int_equal(ckpt_find(ckpt, "h.1.a")->file, 1);
    assert_int_equal(ckpt_find(ckpt, "h.1.a")->begin - ckpt_find(ckpt, "h.100.a")->begin, 4);
    assert_null(ckpt_find(ckpt, "h.3.a"));
    assert_null(ckpt_find(ckpt, "Norm"));
    assert_null(ckpt_find(ckpt, ""));
    ckpt_free(ckpt);
}

static void shapes_are_shown(void **state)
{
    const uint64_t shape[] = {2048, 4096, 3, UINT64_MAX};
    const struct ckpt_tensor t = {.dtype = WM_BF16, .n_dims = 2, .shape = shape};
    const struct ckpt_tensor scalar = {.dtype = WM_F8_E4M3FNUZ, .n_dims = 0, .shape = shape};
    const struct ckpt_tensor wide = {.dtype = WM_I64, .n_dims = 4, .shape = shape};
    char buffer[64];

    (void)state;
    assert_string_equal(ckpt_shape_text(buffer, sizeof buffer, &t), "BF16 [2048, 4096]");
    assert_string_equal(ckpt_shape_text(buffer, sizeof buffer, &scalar), "F8_E4M3FNUZ []");
    assert_string_equal(ckpt_shape_text(buffer, sizeof buffer, &wide), "I64 [2048, 4096, 3, 18446744073709551615]");
    assert_string_equal(ckpt_shape_text(buffer, 16, &wide), "I64 [2048, ...]");
}

/* ---- writing and reading back ------------------------------------------------------------------------------- */

static void headers_are_read_back(void **state)
{
    static const uint64_t shape[][3] = {{4, 8, 0}, {0, 7, 0}, {0, 0, 0}, {6, 0, 0}, {1, 2, 3}};
    static const struct safetensors_entry entries[] = {
        {"model.w", WM_BF16, 2, shape[0], 0, 64}, {"empty", WM_F32, 2, shape[1], 64, 0},
        {"scalar", WM_I64, 0, shape[2], 64, 8},   {"f4 \"quoted\\\" \xC3\xA9/../\x7F", WM_F4, 1, shape[3], 72, 3},
        {"", WM_U8, 3, shape[4], 75, 6},
    };
    static const char *const metadata[] = {"format", "pt", "note", "a\nb\"", NULL};
    static const size_t aligns[] = {0, 1, 8, 512, 4096};

    (void)state;
    for (size_t a = 0; a < sizeof aligns / sizeof *aligns; a++) {
        struct wm_error err = WM_ERROR_INIT;
        struct safetensors_table table;
        struct problems problems;
        struct arena arena;
        size_t n, n_header;
        void *header;
        assert_int_equal(safetensors_header(entries, 5, a % 2 ? metadata : NULL, aligns[a], &header, &n, &err), WM_OK);
        if (aligns[a])
            assert_int_equal(n % aligns[a], 0);
        arena_init(&arena, 1 << 20);
        problems_init(&problems, NULL, NULL, true);
        assert_int_equal(safetensors_header_bytes("m", header, n, n + 81, 0, &n_header, &err), WM_OK);
        assert_int_equal(n_header, n - 8);
        if (safetensors_parse(&table, "m", (char *)header + 8, n_header, 81, &arena, &problems, &err) != WM_OK)
            fail_msg("%s", err.message);
        assert_int_equal(problems.n_warnings, 0);
        assert_int_equal(table.n_tensors, 5);
        for (int i = 0; i < 5; i++) {
            assert_string_equal(table.tensors[i].name, entries[i].name);
            assert_int_equal(table.tensors[i].dtype, entries[i].dtype);
            assert_int_equal(table.tensors[i].n_dims, entries[i].n_dims);
            assert_memory_equal(table.tensors[i].shape, entries[i].shape, 8 * (size_t)entries[i].n_dims);
            assert_int_equal(table.tensors[i].begin, n + entries[i].begin);
            assert_int_equal(table.tensors[i].n_bytes, entries[i].n_bytes);
        }
        arena_release(&arena);
        free(header);
    }
}

/* Byte for byte what the reference writer makes of the same tensors (its padding is to 8 bytes). */
static void headers_have_the_usual_form(void **state)
{
    static const uint64_t shape[] = {2, 3};
    static const struct safetensors_entry entries[] = {{"a", WM_F32, 2, shape, 0, 24}, {"b", WM_F32, 0, shape, 24, 4}};
    static const char *const metadata[] = {"format", "pt", NULL};
    static const char expected[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                   "\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                                   "\"b\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[24,28]}}  ";
    struct wm_error err = WM_ERROR_INIT;
    void *header;
    size_t n;

    (void)state;
    assert_int_equal(safetensors_header(entries, 2, metadata, 8, &header, &n, &err), WM_OK);
    assert_int_equal(((unsigned char *)header)[0], n - 8);
    assert_int_equal(n - 8, strlen(expected));
    assert_memory_equal((char *)header + 8, expected, n - 8);
    free(header);
    assert_int_equal(safetensors_header(NULL, 0, NULL, 8, &header, &n, &err), WM_OK);
    assert_int_equal(n, 16);
    assert_memory_equal(header, "\10\0\0\0\0\0\0\0{}      ", 16);
    free(header);
}

static void headers_we_could_not_read_are_not_written(void **state)
{
    static const uint64_t shape[] = {2, UINT64_MAX, UINT64_MAX}, odd[] = {3};
    static const struct {
        struct safetensors_entry entries[2];
        const char *part;
    } cases[] = {
        {{{"__metadata__", WM_F32, 0, shape, 0, 4}, {"b", WM_F32, 0, shape, 4, 4}}, "__metadata__"},
        {{{"a\n", WM_F32, 0, shape, 0, 4}, {"b", WM_F32, 0, shape, 4, 4}}, "control"},
        {{{"a\xFF", WM_F32, 0, shape, 0, 4}, {"b", WM_F32, 0, shape, 4, 4}}, "UTF-8"},
        {{{"a", WM_F32, 0, shape, 0, 4}, {"a", WM_F32, 0, shape, 4, 4}}, "used twice"},
        {{{"a", WM_F32, 0, shape, 4, 4}, {"b", WM_F32, 0, shape, 8, 4}}, "place in the file"},
        {{{"a", WM_F32, 0, shape, 0, 4}, {"b", WM_F32, 0, shape, 5, 4}}, "place in the file"},
        {{{"a", WM_F32, 0, shape, 0, 4}, {"b", WM_F32, 1, shape, 4, 4}}, "\"b\": its size"},
        {{{"a", WM_F32, 0, shape, 0, 4}, {"b", WM_F4, 0, shape, 4, 1}}, "\"b\": its size"},
        {{{"a", WM_F32, 0, shape, 0, 4}, {"b", WM_F4, 1, odd, 4, 1}}, "\"b\": its size"},
        {{{"a", WM_F32, 3, shape, 0, 4}, {"b", WM_F32, 0, shape, 4, 4}}, "\"a\": its size"},
        {{{"a", WM_N_DTYPES, 0, shape, 0, 4}, {"b", WM_F32, 0, shape, 4, 4}}, "its type"},
        {{{"a", WM_F32, 65, shape, 0, 4}, {"b", WM_F32, 0, shape, 4, 4}}, "dimensions"},
    };
    static const char *const twice[] = {"a", "1", "a", "2", NULL}, *const control[] = {"a\n", "1", NULL};
    static const struct safetensors_entry good = {"a", WM_F32, 0, shape, 0, 4};
    struct wm_error err = WM_ERROR_INIT;
    void *header;
    size_t n;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        err = (struct wm_error)WM_ERROR_INIT;
        assert_int_equal(safetensors_header(cases[i].entries, 2, NULL, 8, &header, &n, &err), WM_BUG);
        assert_null(header);
        assert_mentions(&err, cases[i].part);
    }
    assert_int_equal(safetensors_header(&good, 1, twice, 8, &header, &n, &err), WM_BUG);
    assert_int_equal(safetensors_header(&good, 1, control, 8, &header, &n, &err), WM_BUG);
}

/* ---- many tensors ------------------------------------------------------------------------------------------- */

/* Writes n_tensors of a Mixture-of-Experts-like model into n_shards shards with an index; tensors have no bytes, so
 * that only headers count. */
static void write_large_model(int n_tensors, int n_shards)
{
    static const uint64_t shape[] = {4096, 0};
    struct safetensors_entry *entries = calloc((size_t)n_tensors, sizeof *entries);
    struct wm_error err = WM_ERROR_INIT;
    char(*names)[80] = calloc((size_t)n_tensors, sizeof *names), path[CORPUS_PATH_BYTES];
    struct text index;
    int first = 0;

    assert_non_null(entries);
    assert_non_null(names);
    text_init(&index, TEXT_MAX_BYTES);
    text_add(&index, "{\"metadata\":{\"total_size\":0},\"weight_map\":{");
    for (int i = 0; i < n_tensors; i++) {
        snprintf(names[i], sizeof names[i], "model.layers.%d.block_sparse_moe.experts.%d.w%d.weight", i / 1000,
                 (n_tensors - i) / 3 % 400, i % 3);
        entries[i] = (struct safetensors_entry){names[i], WM_BF16, 2, shape, 0, 0};
        text_addf(&index, "%s\"%s\":\"model-%05d-of-%05d.safetensors\"", i ? "," : "", names[i],
                  (int)((long long)i * n_shards / n_tensors) + 1, n_shards);
    }
    text_add(&index, "}}");
    write_file("model.safetensors.index.json", text_string(&index), index.n_bytes);
    text_release(&index);
    for (int s = 0; s < n_shards; s++) {
        int end = first;
        size_t n;
        void *header;
        while (end < n_tensors && (int)((long long)end * n_shards / n_tensors) == s)
            end++;
        assert_int_equal(safetensors_header(entries + first, (size_t)(end - first), NULL, 8, &header, &n, &err), WM_OK);
        corpus_path(path, "%s/model-%05d-of-%05d.safetensors", root, s + 1, n_shards);
        corpus_write(path, header, n);
        free(header);
        first = end;
    }
    free(names);
    free(entries);
}

/* Processor time: other tests that run beside this one do not count. */
static double cpu_seconds(void)
{
    return (double)clock() / CLOCKS_PER_SEC;
}

static void large_models_open_quickly(void **state)
{
    static const struct {
        int n_tensors, n_shards;
        double max_seconds; /* here: 4 ms, 0.25 s, 0.25 s, 0.3 s without a sanitizer, which may take ten times that */
    } cases[] = {{723, 30, 0.5}, {100000, 1, 4}, {100000, 50, 4}, {100000, 5000, 6}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct wm_error err = WM_ERROR_INIT;
        struct problems problems;
        struct ckpt *ckpt;
        double seconds;
        root_tear_down(NULL);
        root_set_up(NULL);
        write_large_model(cases[i].n_tensors, cases[i].n_shards);
        problems_init(&problems, NULL, NULL, false);
        seconds = cpu_seconds();
        if (ckpt_open(&ckpt, root, NULL, NULL, &problems, &err) != WM_OK)
            fail_msg("%s", err.message);
        seconds = cpu_seconds() - seconds;
        print_message("%d tensors in %d shards: %.3f s, %.1f MB\n", cases[i].n_tensors, cases[i].n_shards, seconds,
                      (double)ckpt->arena.n_bytes * 1e-6);
        assert_true(seconds < cases[i].max_seconds);
        assert_int_equal(problems.n_warnings, 0);
        assert_int_equal(ckpt->n_tensors, cases[i].n_tensors);
        assert_int_equal(ckpt->n_files, cases[i].n_shards);
        for (size_t k = 1; k < ckpt->n_tensors; k++)
            assert_true(text_natural_compare(ckpt->tensors[k - 1].name, ckpt->tensors[k].name) < 0);
        ckpt_free(ckpt);
    }
}

/* ---- faults ------------------------------------------------------------------------------------------------- */

static int n_calls, fail_call;

static int fail_nth(enum file_call call, const char *path)
{
    (void)call;
    (void)path;
    return ++n_calls == fail_call ? EIO : 0;
}

/* Every file call of an opening fails once: an error that names a file, no crash, no leak (ASan). */
static void every_failing_call_is_an_error(void **state)
{
    bool done = false;

    (void)state;
    write_large_model(30, 3);
    write_file("config.json", "{}", 2);
    for (fail_call = 1; !done; fail_call++) {
        struct wm_error err = WM_ERROR_INIT;
        struct ckpt *ckpt;
        enum wm_status st;
        n_calls = 0;
        file_fault = fail_nth;
        st = ckpt_open(&ckpt, root, NULL, NULL, NULL, &err);
        file_fault = NULL;
        done = n_calls < fail_call;
        assert_int_equal(st == WM_OK, done);
        if (!done) {
            assert_true(st == WM_IO || st == WM_NO_INPUT);
            assert_mentions(&err, root);
            assert_null(ckpt);
        }
        ckpt_free(ckpt);
    }
    assert_true(fail_call > 10);
}

static int swap_before_open(enum file_call call, const char *path)
{
    char other[CORPUS_PATH_BYTES];

    corpus_path(other, "%s/other", root);
    if (call == FILE_OPEN && strstr(path, "model.safetensors"))
        corpus_need(rename(other, path) == 0, path);
    return 0;
}

/* Somebody puts another file in place between our look at it and our opening. */
static void a_file_swapped_while_opening_is_noticed(void **state)
{
    struct wm_error err = WM_ERROR_INIT;
    char path[CORPUS_PATH_BYTES];
    struct ckpt *ckpt;

    (void)state;
    corpus_path(path, "%s/model.safetensors", root);
    corpus_write_shard(path, "a");
    corpus_path(path, "%s/other", root);
    corpus_write_shard(path, "b");
    file_fault = swap_before_open;
    assert_int_equal(ckpt_open(&ckpt, root, NULL, NULL, NULL, &err), WM_BAD_DATA);
    assert_mentions(&err, "[FILE_CHANGED]");
}

/* Shards are closed once read: a model of more shards than descriptors opens. */
static void descriptors_are_given_back(void **state)
{
    struct wm_error err = WM_ERROR_INIT;
    struct ckpt *ckpt;
    int before, after;

    (void)state;
    write_large_model(3000, 1500);
    before = open("/dev/null", O_RDONLY | O_CLOEXEC);
    close(before);
    assert_int_equal(ckpt_open(&ckpt, root, NULL, NULL, NULL, &err), WM_OK);
    after = open("/dev/null", O_RDONLY | O_CLOEXEC);
    close(after);
    assert_int_equal(before, after);
    ckpt_free(ckpt);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, root_set_up, root_tear_down)
    static const struct CMUnitTest tests[] = {
        CASE(folders_without_a_model_are_named),
        CASE(weights_of_other_kinds_are_named),
        CASE(references_that_lead_nowhere_are_named),
        CASE(a_single_file_is_a_model_too),
        CASE(a_file_given_by_path_may_be_a_link),
        CASE(configs_are_checked),
        CASE(tensors_stand_in_natural_order_and_are_found),
        CASE(shapes_are_shown),
        CASE(headers_are_read_back),
        CASE(headers_have_the_usual_form),
        CASE(headers_we_could_not_read_are_not_written),
        CASE(large_models_open_quickly),
        CASE(every_failing_call_is_an_error),
        CASE(a_file_swapped_while_opening_is_noticed),
        CASE(descriptors_are_given_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
