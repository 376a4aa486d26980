/* One safetensors header: every row of the corpus gets its verdict, from memory and from a file; names, sizes, offsets
 * and warnings come out right; a failing read is an error of its own. */
#include "base/text.h"
#include "checkpoint/safetensors_read.h"
#include "checkpoint/sniff.h"
#include "temp_dir.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

struct verdict {
    enum wm_status status;
    struct wm_error err;
    struct safetensors_table table;
    struct problems problems;
    struct arena arena;
};

static void release(struct verdict *v)
{
    arena_release(&v->arena);
}

/* The verdict on a whole file in memory. */
static void judge(struct verdict *v, const unsigned char *file, size_t n, bool strict)
{
    size_t n_header, n_head = n < SNIFF_BYTES ? n : SNIFF_BYTES;

    memset(v, 0, sizeof *v);
    arena_init(&v->arena, (size_t)1 << 30);
    problems_init(&v->problems, NULL, NULL, strict);
    v->status = safetensors_header_bytes("m.safetensors", file, n_head, n, 0, &n_header, &v->err);
    if (v->status == WM_OK)
        v->status = safetensors_parse(&v->table, "m.safetensors", (const char *)file + 8, n_header, n - 8 - n_header,
                                      &v->arena, &v->problems, &v->err);
}

static void assert_identifier(const struct wm_error *err, const char *identifier)
{
    char ending[64];
    size_t n = strlen(err->message), n_ending;

    n_ending = (size_t)snprintf(ending, sizeof ending, " [%s]", identifier);
    if (n < n_ending || strcmp(err->message + n - n_ending, ending) != 0)
        fail_msg("expected%s, got: %s", ending, err->message);
}

static void assert_table_sound(const struct safetensors_table *t, size_t n_file)
{
    uint64_t at = t->n_tensors ? t->tensors[0].begin : 0;

    for (size_t i = 0; i < t->n_tensors; i++) {
        assert_true(t->tensors[i].begin == at);
        at += t->tensors[i].n_bytes;
    }
    if (t->n_tensors)
        assert_true(at == n_file);
}

static void run_case(void **state)
{
    const struct corpus_header *c = *state;
    size_t n;
    unsigned char *file = corpus_header_bytes(c, &n);
    struct verdict v;

    for (int strict = 0; strict < 2; strict++) {
        judge(&v, file, n, strict);
        if (c->identifier) {
            assert_int_equal(v.status, WM_BAD_DATA);
            assert_int_equal(v.err.status, WM_BAD_DATA);
            assert_identifier(&v.err, c->identifier);
            assert_memory_equal(v.err.message, "m.safetensors: ", 15);
            assert_null(v.table.tensors);
        } else {
            if (v.status != WM_OK)
                fail_msg("refused: %s", v.err.message);
            assert_int_equal(v.err.status, WM_OK);
            assert_true(v.table.n_tensors == c->n_tensors);
            assert_true(v.table.n_bytes == c->n_data);
            assert_table_sound(&v.table, n);
            assert_int_equal(v.problems.n_warnings, strict ? c->n_strict_warnings : c->n_warnings);
            assert_int_equal(v.problems.n_errors, 0);
        }
        release(&v);
    }
    free(file);
}

/* ---- the same from files ------------------------------------------------------------------------------------ */

static void files_get_the_same_verdicts(void **state)
{
    char path[CORPUS_PATH_BYTES];

    (void)state;
    corpus_path(path, "%s/m.safetensors", root);
    for (size_t i = 0; i < CORPUS_N_HEADERS; i++) {
        const struct corpus_header *c = &corpus_headers[i];
        struct wm_error err = WM_ERROR_INIT;
        struct safetensors_table table = {0};
        struct file_identity id = {0};
        struct problems problems;
        struct arena arena;
        size_t n;
        unsigned char *file = corpus_header_bytes(c, &n);
        enum wm_status st;
        corpus_write(path, file, n);
        free(file);
        arena_init(&arena, (size_t)1 << 30);
        problems_init(&problems, NULL, NULL, false);
        st = safetensors_read(&table, path, "shown", 0, &id, &arena, &problems, &err);
        assert_true(id.n_bytes == n && id.inode != 0);
        if (c->identifier) {
            assert_int_equal(st, WM_BAD_DATA);
            assert_identifier(&err, c->identifier);
            assert_memory_equal(err.message, "shown: ", 7);
        } else {
            assert_int_equal(st, WM_OK);
            assert_true(table.n_tensors == c->n_tensors);
        }
        arena_release(&arena);
    }
}

/* ---- details ------------------------------------------------------------------------------------------------ */

static void judge_text(struct verdict *v, const char *header, size_t n_data)
{
    const struct corpus_header c = {.text = header, .n_text = strlen(header), .n_data = n_data};
    size_t n;
    unsigned char *file = corpus_header_bytes(&c, &n);

    judge(v, file, n, false);
    free(file);
}

static void every_field_comes_out(void **state)
{
    struct verdict v;
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"model.layers.10.w\\u00e9\":{\"dtype\":\"BF16\",\"shape\":[3,5],\"data_offsets\":[8,38]},"
        "\"b\":{\"shape\":[],\"data_offsets\":[0,8],\"dtype\":\"I64\"}}";
    const struct ckpt_tensor *t;

    (void)state;
    judge_text(&v, header, 38);
    assert_int_equal(v.status, WM_OK);
    assert_int_equal(v.table.n_tensors, 2);
    t = v.table.tensors;
    assert_string_equal(t[0].name, "b");
    assert_int_equal(t[0].dtype, WM_I64);
    assert_int_equal(t[0].n_dims, 0);
    assert_int_equal(t[0].n_elems, 1);
    assert_int_equal(t[0].n_bytes, 8);
    assert_int_equal(t[0].begin, 8 + strlen(header));
    assert_string_equal(t[1].name, "model.layers.10.w\303\251");
    assert_int_equal(t[1].dtype, WM_BF16);
    assert_int_equal(t[1].n_dims, 2);
    assert_int_equal(t[1].shape[0], 3);
    assert_int_equal(t[1].shape[1], 5);
    assert_int_equal(t[1].n_elems, 15);
    assert_int_equal(t[1].n_bytes, 30);
    assert_int_equal(t[1].begin, 8 + strlen(header) + 8);
    release(&v);
}

static void messages_name_what_is_wrong(void **state)
{
    static const struct {
        const char *header, *parts[3];
        size_t n_data;
    } cases[] = {
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}",
         {"\"b\" begins at offset 2", "\"a\" before it ends at 4", "overlap"},
         6},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}",
         {"\"b\" begins at offset 8", "\"a\" before it ends at 4", "gap"},
         12},
        {"{\"w\":{\"dtype\":\"bf16\",\"shape\":[1],\"data_offsets\":[0,2]}}", {"\"w\"", "\"bf16\"", "(BF16?)"}, 2},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,4]}}",
         {"\"w\", F32 [2, 3]", "needs 24 bytes", "hold 4"},
         4},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
         {"need 8 bytes", "5 are there", "fetch the file again"},
         5},
        {"{\"w\":\n {\"dtype\":\"F32\",\n  \"shape\":[1x]}}", {"\"w\"", "line 3, column 13", "'x'"}, 0},
        {"{\"\xe2\x80\xae"
         "b\":1}",
         {"tensor \"\xe2\x80\xae"
          "b\"",
          "not an object", ""},
         0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct verdict v;
        judge_text(&v, cases[i].header, cases[i].n_data);
        assert_int_equal(v.status, WM_BAD_DATA);
        for (int k = 0; k < 3; k++)
            if (!strstr(v.err.message, cases[i].parts[k]))
                fail_msg("\"%s\" is not in: %s", cases[i].parts[k], v.err.message);
        release(&v);
    }
}

/* A path and a name of many kilobytes must not push the identifier out of the message. */
static void long_names_leave_room_for_the_identifier(void **state)
{
    const struct corpus_header c = {.text = "{\"#\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]}}",
                                    .n_text = 55,
                                    .n_data = 8,
                                    .shape = CORPUS_REPEATED,
                                    .value = 5000,
                                    .unit = "\\u000e\\u0000"};
    char path[5000];
    size_t n, n_header;
    unsigned char *file = corpus_header_bytes(&c, &n);
    struct verdict v;

    (void)state;
    memset(path, '\1', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    memset(&v, 0, sizeof v);
    arena_init(&v.arena, (size_t)1 << 30);
    problems_init(&v.problems, NULL, NULL, false);
    assert_int_equal(safetensors_header_bytes(path, file, SNIFF_BYTES, n, 0, &n_header, &v.err), WM_OK);
    assert_int_equal(
        safetensors_parse(&v.table, path, (const char *)file + 8, n_header, 8, &v.arena, &v.problems, &v.err),
        WM_BAD_DATA);
    assert_identifier(&v.err, "BAD_NAME");
    assert_null(strchr(v.err.message, '\1'));
    release(&v);
    free(file);
}

static void the_cap_can_be_moved(void **state)
{
    static const struct {
        uint64_t n_header, cap;
        const char *identifier;
    } cases[] = {{1000, 1000, NULL},
                 {1001, 1000, "HEADER_TOO_LARGE"},
                 {25000001, CKPT_HEADER_CAP_FORMAT, NULL},
                 {100000000, CKPT_HEADER_CAP_FORMAT, NULL},
                 {100000001, UINT64_MAX, "HEADER_TOO_LARGE"}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct wm_error err = WM_ERROR_INIT;
        unsigned char head[8];
        size_t n_header;
        enum wm_status st;
        corpus_put_length(head, cases[i].n_header);
        st = safetensors_header_bytes("m", head, 8, 1000000000, cases[i].cap, &n_header, &err);
        assert_int_equal(st, cases[i].identifier ? WM_BAD_DATA : WM_OK);
        if (cases[i].identifier)
            assert_identifier(&err, cases[i].identifier);
        else
            assert_true(n_header == cases[i].n_header);
    }
}

static int n_calls, fail_call;

static int fail_nth(enum file_call call, const char *path)
{
    (void)path;
    return (call == FILE_OPEN || call == FILE_READ) && ++n_calls == fail_call ? EIO : 0;
}

/* Each of the three system calls of a header fails once: an input/output error naming the file, and nothing leaks. */
static void failing_reads_are_reported(void **state)
{
    char path[CORPUS_PATH_BYTES];

    (void)state;
    corpus_path(path, "%s/m.safetensors", root);
    corpus_write_shard(path, "a,b");
    for (fail_call = 1; fail_call <= 4; fail_call++) {
        struct wm_error err = WM_ERROR_INIT;
        struct safetensors_table table;
        struct file_identity id;
        struct problems problems;
        struct arena arena;
        enum wm_status st;
        n_calls = 0;
        arena_init(&arena, (size_t)1 << 20);
        problems_init(&problems, NULL, NULL, false);
        file_fault = fail_nth;
        st = safetensors_read(&table, path, path, 0, &id, &arena, &problems, &err);
        file_fault = NULL;
        if (fail_call == 4) {
            assert_int_equal(st, WM_OK);
            assert_int_equal(n_calls, 3);
        } else {
            assert_true(st == WM_IO || st == WM_NO_INPUT);
            assert_non_null(strstr(err.message, path));
        }
        arena_release(&arena);
    }
}

/* With too little memory a parse ends in WM_TEMPORARY, with enough in the right table, and nothing in between. */
static void memory_ceilings_are_reported(void **state)
{
    static const char header[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    bool fitted = false;

    (void)state;
    for (size_t max = 0; max < 4096; max += 16) {
        struct wm_error err = WM_ERROR_INIT;
        struct safetensors_table table;
        struct problems problems;
        struct arena arena;
        enum wm_status st;
        arena_init(&arena, max);
        problems_init(&problems, NULL, NULL, false);
        st = safetensors_parse(&table, "m", header, strlen(header), 4, &arena, &problems, &err);
        assert_int_equal(st, fitted || st == WM_OK ? WM_OK : WM_TEMPORARY);
        assert_int_equal(table.n_tensors, st == WM_OK);
        fitted = st == WM_OK;
        arena_release(&arena);
    }
    assert_true(fitted);
}

int main(void)
{
    static const struct CMUnitTest others[] = {
        cmocka_unit_test(files_get_the_same_verdicts),  cmocka_unit_test(every_field_comes_out),
        cmocka_unit_test(messages_name_what_is_wrong),  cmocka_unit_test(long_names_leave_room_for_the_identifier),
        cmocka_unit_test(the_cap_can_be_moved),         cmocka_unit_test(failing_reads_are_reported),
        cmocka_unit_test(memory_ceilings_are_reported),
    };
    static struct CMUnitTest tests[CORPUS_N_HEADERS + sizeof others / sizeof *others];

    for (size_t i = 0; i < CORPUS_N_HEADERS; i++)
        tests[i] =
            (struct CMUnitTest){corpus_headers[i].name, run_case, NULL, NULL, (void *)(uintptr_t)&corpus_headers[i]};
    memcpy(tests + CORPUS_N_HEADERS, others, sizeof others);
    return cmocka_run_group_tests(tests, root_set_up, root_tear_down);
}
