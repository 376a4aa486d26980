/*
 * make_checkpoint: the same seed gives the same bytes, its shapes are those of the models they are named after, what it
 * writes loads through our reader, and its weights and deltas have the spread that was asked for.
 */
#include "base/dtype.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/text.h"
#include "checkpoint/checkpoint.h"
#include "common/number_format.h"

#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct place {
    char dir[64];
};

static int make_place(void **state)
{
    struct place *p = calloc(1, sizeof *p);
    assert_non_null(p);
    snprintf(p->dir, sizeof p->dir, "/tmp/warpmerge-test-XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    *state = p;
    return 0;
}

static int spawn_and_wait(char *const *argv)
{
    posix_spawn_file_actions_t quiet;
    pid_t pid;
    int status = -1;
    assert_int_equal(posix_spawn_file_actions_init(&quiet), 0);
    assert_int_equal(posix_spawn_file_actions_addopen(&quiet, 1, "/dev/null", O_WRONLY, 0), 0);
    assert_int_equal(posix_spawn_file_actions_addopen(&quiet, 2, "/dev/null", O_WRONLY, 0), 0);
    assert_int_equal(posix_spawnp(&pid, argv[0], &quiet, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&quiet);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int remove_place(void **state)
{
    struct place *p = *state;
    char rm[] = "rm", rf[] = "-rf";
    char *argv[] = {rm, rf, p->dir, NULL};
    int code = spawn_and_wait(argv);
    free(p);
    return code;
}

/* Runs make_checkpoint with space-separated options and --out <dir>/<out>; returns its exit code. */
static int make(const struct place *p, const char *out, const char *options)
{
    char line[1024];
    char *argv[32] = {0};
    int n = 0;
    snprintf(line, sizeof line, "%s %s --out %s/%s", MAKE_CHECKPOINT, options, p->dir, out);
    char *rest = line;
    for (char *word = strtok_r(line, " ", &rest); word && n < 31; word = strtok_r(NULL, " ", &rest))
        argv[n++] = word;
    return spawn_and_wait(argv);
}

static struct ckpt *open_model(const struct place *p, const char *name)
{
    struct ckpt *ckpt = NULL;
    struct wm_error err = WM_ERROR_INIT;
    struct problems problems;
    struct ckpt_options options = {.strict = true};
    char path[256];
    snprintf(path, sizeof path, "%s/%s", p->dir, name);
    problems_init(&problems, NULL, NULL, true);
    if (ckpt_open(&ckpt, path, NULL, &options, &problems, &err) != WM_OK)
        fail_msg("%s", err.message);
    if (problems.n_errors + problems.n_warnings > 0)
        fail_msg("findings on opening %s: %s", path, problems.first.message);
    return ckpt;
}

static void *tensor_bytes(const struct ckpt *ckpt, const struct ckpt_tensor *t)
{
    struct wm_error err = WM_ERROR_INIT;
    int fd = -1;
    bool direct = false;
    void *bytes = malloc(t->n_bytes + 1);
    assert_non_null(bytes);
    const char *path = ckpt->files[t->file].path;
    assert_int_equal(file_open_read(&fd, path, &direct, NULL, &err), WM_OK);
    assert_int_equal(file_read_at(fd, path, bytes, t->n_bytes, t->begin, &err), WM_OK);
    file_close(&fd);
    return bytes;
}

static struct hash128 file_hash(const struct place *p, const char *name)
{
    char path[256];
    char *data = NULL;
    size_t n = 0;
    struct wm_error err = WM_ERROR_INIT;
    snprintf(path, sizeof path, "%s/%s", p->dir, name);
    if (file_read_all(path, (size_t)1 << 30, &data, &n, &err) != WM_OK)
        fail_msg("%s", err.message);
    struct hash128 hash = hash_xxh3(data, n);
    free(data);
    return hash;
}

static void test_same_seed_same_bytes(void **state)
{
    static const char *const files[] = {"base/model-00001-of-00003.safetensors",
                                        "base/model.safetensors.index.json",
                                        "ft1/model-00003-of-00003.safetensors",
                                        "ft2/model-00002-of-00003.safetensors",
                                        "ft2/config.json",
                                        "ft1/tokenizer.json"};
    const struct place *p = *state;
    char a[128], b[128];
    assert_int_equal(make(p, "a", "tiny-mixtral --shard-size 200KiB --seed 7 --threads 1"), 0);
    assert_int_equal(make(p, "b", "tiny-mixtral --shard-size 200KiB --seed 7 --threads 3"), 0);
    assert_int_equal(make(p, "c", "tiny-mixtral --shard-size 200KiB --seed 8"), 0);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(a, sizeof a, "a/%s", files[i]);
        snprintf(b, sizeof b, "b/%s", files[i]);
        assert_true(hash128_equal(file_hash(p, a), file_hash(p, b)));
    }
    assert_false(hash128_equal(file_hash(p, "a/base/model-00001-of-00003.safetensors"),
                               file_hash(p, "c/base/model-00001-of-00003.safetensors")));
    assert_false(hash128_equal(file_hash(p, "a/ft1/model-00001-of-00003.safetensors"),
                               file_hash(p, "a/ft2/model-00001-of-00003.safetensors")));
}

/* The values do not depend on how the files are cut. */
static void test_shards_do_not_show(void **state)
{
    const struct place *p = *state;
    assert_int_equal(make(p, "one", "tiny-llama --fine-tunes 1"), 0);
    assert_int_equal(make(p, "many", "tiny-llama --fine-tunes 1 --shard-size 50kB"), 0);
    struct ckpt *one = open_model(p, "one/ft1"), *many = open_model(p, "many/ft1");
    assert_int_equal(one->n_files, 1);
    assert_true(many->n_files > 3);
    assert_int_equal(one->n_tensors, many->n_tensors);
    for (size_t i = 0; i < one->n_tensors; i++) {
        const struct ckpt_tensor *t = &one->tensors[i], *u = ckpt_find(many, t->name);
        assert_non_null(u);
        assert_int_equal(t->n_bytes, u->n_bytes);
        void *x = tensor_bytes(one, t), *y = tensor_bytes(many, u);
        assert_memory_equal(x, y, t->n_bytes);
        free(x);
        free(y);
    }
    ckpt_free(one);
    ckpt_free(many);
}

/* Parameter counts as published on the models' pages (Llama 3, Qwen, Mixtral, TinyLlama, all-MiniLM-L6-v2). */
static void test_shapes_are_the_published_ones(void **state)
{
    static const struct {
        const char *preset;
        uint64_t n_params;
        size_t n_tensors;
    } cases[] = {
        {"tinyllama-1.1b", 1100048384, 201}, {"llama-3-8b", 8030261248, 291},
        {"llama-3-70b", 70553706496, 723},   {"mixtral-8x7b", 46702792704, 995},
        {"qwen2-0.5b", 494032768, 290},      {"qwen3-235b-a22b", 235093634560, 36945},
        {"minilm", 22713216, 103},           {"tiny-llama", 222784, 39},
        {"tiny-qwen2", 202816, 50},          {"tiny-mixtral", 238400, 41},
        {"tiny-qwen3-moe", 239040, 69},      {"tiny-bert", 107288, 39},
        {"--tensors 250", 250 * 256, 250},   {"qwen3-30b-a3b", 30532122624, 18867},
    };
    const struct place *p = *state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char options[128], name[32], model[48];
        snprintf(options, sizeof options, "%s --sparse --fine-tunes 0", cases[i].preset);
        snprintf(name, sizeof name, "shape%zu", i);
        snprintf(model, sizeof model, "%s/base", name);
        assert_int_equal(make(p, name, options), 0);
        struct ckpt *ckpt = open_model(p, model);
        uint64_t n_params = 0;
        for (size_t t = 0; t < ckpt->n_tensors; t++)
            n_params += ckpt->tensors[t].n_elems;
        if (n_params != cases[i].n_params || ckpt->n_tensors != cases[i].n_tensors)
            fail_msg("%s has %llu parameters in %zu tensors, expected %llu in %zu", cases[i].preset,
                     (unsigned long long)n_params, ckpt->n_tensors, (unsigned long long)cases[i].n_params,
                     cases[i].n_tensors);
        assert_non_null(ckpt->config);
        ckpt_free(ckpt);
    }
}

static double spread(const float *x, size_t n)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)x[i];
        squares += (double)x[i] * (double)x[i];
    }
    return sqrt(squares / (double)n - sum / (double)n * (sum / (double)n));
}

/* 20,480 values: the standard deviation of a sample is within 2 % of the truth at four of its own sigmas. */
static void test_weights_and_deltas_have_their_spread(void **state)
{
    const struct place *p = *state;
    assert_int_equal(make(p, "m", "tiny-bert --fine-tunes 1 --delta-std 0.001"), 0);
    struct ckpt *base = open_model(p, "m/base"), *tuned = open_model(p, "m/ft1");
    const struct ckpt_tensor *t = ckpt_find(base, "embeddings.word_embeddings.weight");
    assert_non_null(t);
    float *x = tensor_bytes(base, t);
    float *y = tensor_bytes(tuned, ckpt_find(tuned, t->name));
    double base_spread = spread(x, t->n_elems);
    for (size_t i = 0; i < t->n_elems; i++)
        y[i] -= x[i];
    double delta_spread = spread(y, t->n_elems);
    assert_true(fabs(base_spread / 0.02 - 1) < 0.02);
    assert_true(delta_spread > 0.00049 && delta_spread < 0.00205); /* each tensor has a factor of 1/2 to 2 */
    free(x);
    free(y);
    ckpt_free(base);
    ckpt_free(tuned);
}

/* bf16 and f16 weights are the fp32 weights rounded once. */
static void test_types_agree(void **state)
{
    const struct place *p = *state;
    assert_int_equal(make(p, "f32", "tiny-llama --dtype f32 --fine-tunes 0"), 0);
    assert_int_equal(make(p, "bf16", "tiny-llama --dtype bf16 --fine-tunes 0"), 0);
    assert_int_equal(make(p, "f16", "tiny-llama --dtype f16 --fine-tunes 0"), 0);
    struct ckpt *wide = open_model(p, "f32/base"), *bf16 = open_model(p, "bf16/base"), *f16 = open_model(p, "f16/base");
    static const char name[] = "model.layers.2.mlp.up_proj.weight";
    const struct ckpt_tensor *t = ckpt_find(wide, name);
    float *x = tensor_bytes(wide, t);
    uint16_t *b = tensor_bytes(bf16, ckpt_find(bf16, name)), *h = tensor_bytes(f16, ckpt_find(f16, name));
    for (size_t i = 0; i < t->n_elems; i++) {
        assert_int_equal(b[i], f32_to_bf16(x[i]));
        assert_int_equal(h[i], f32_to_f16(x[i]));
    }
    free(x);
    free(b);
    free(h);
    ckpt_free(wide);
    ckpt_free(bf16);
    ckpt_free(f16);
}

/* A checkpoint with an integer tensor and a constant one: what --from must carry over. */
static void write_small_model(const struct place *p)
{
    static const uint64_t four[] = {4}, wide[] = {2, 3};
    const struct safetensors_entry entries[] = {{"position_ids", WM_I64, 1, four, 0, 32},
                                                {"dense.weight", WM_F32, 2, wide, 32, 24}};
    const int64_t ids[] = {0, 1, 2, 3};
    const float weights[] = {1, -2, 3, -4, 5, -6};
    struct wm_error err = WM_ERROR_INIT;
    void *header = NULL;
    size_t n_header = 0;
    int fd = -1;
    char path[256];
    snprintf(path, sizeof path, "%s/small", p->dir);
    assert_int_equal(file_make_dir(path, &err), WM_OK);
    snprintf(path, sizeof path, "%s/small/config.json", p->dir);
    assert_int_equal(file_write_whole(path, "{\"model_type\": \"bert\"}", 22, false, &err), WM_OK);
    snprintf(path, sizeof path, "%s/small/vocab.txt", p->dir);
    assert_int_equal(file_write_whole(path, "a\nb\n", 4, false, &err), WM_OK);
    snprintf(path, sizeof path, "%s/small/model.safetensors", p->dir);
    assert_int_equal(safetensors_header(entries, 2, NULL, 8, &header, &n_header, &err), WM_OK);
    assert_int_equal(file_open_write(&fd, path, true, true, &err), WM_OK);
    assert_int_equal(file_write_at(fd, path, header, n_header, 0, &err), WM_OK);
    assert_int_equal(file_write_at(fd, path, ids, sizeof ids, n_header, &err), WM_OK);
    assert_int_equal(file_write_at(fd, path, weights, sizeof weights, n_header + sizeof ids, &err), WM_OK);
    assert_int_equal(file_close_write(&fd, path, &err), WM_OK);
    free(header);
}

static void test_fine_tunes_of_an_existing_checkpoint(void **state)
{
    const struct place *p = *state;
    char options[256];
    write_small_model(p);
    snprintf(options, sizeof options, "--from %s/small --fine-tunes 2", p->dir);
    assert_int_equal(make(p, "ft", options), 0);
    snprintf(options, sizeof options, "--from %s/small --fine-tunes 1 --delta-std 0", p->dir);
    assert_int_equal(make(p, "same", options), 0);

    struct ckpt *small = open_model(p, "small"), *tuned = open_model(p, "ft/ft2"), *same = open_model(p, "same/ft1");
    for (size_t i = 0; i < small->n_tensors; i++) {
        const struct ckpt_tensor *t = &small->tensors[i];
        void *x = tensor_bytes(small, t), *y = tensor_bytes(tuned, ckpt_find(tuned, t->name));
        void *z = tensor_bytes(same, ckpt_find(same, t->name));
        assert_memory_equal(x, z, t->n_bytes);
        if (dtype_is_float(t->dtype))
            assert_memory_not_equal(x, y, t->n_bytes);
        else
            assert_memory_equal(x, y, t->n_bytes);
        free(x);
        free(y);
        free(z);
    }
    ckpt_free(small);
    ckpt_free(tuned);
    ckpt_free(same);
    assert_true(hash128_equal(file_hash(p, "small/vocab.txt"), file_hash(p, "ft/ft1/vocab.txt")));
    assert_true(hash128_equal(file_hash(p, "small/config.json"), file_hash(p, "ft/ft2/config.json")));
}

static void test_wrong_use_is_refused(void **state)
{
    static const struct {
        const char *options;
        enum wm_status status;
    } cases[] = {
        {"llama-9", WM_USAGE},
        {"tiny-llama --hidden", WM_USAGE},
        {"tiny-llama --hidden x", WM_USAGE},
        {"tiny-llama --hidden 65", WM_USAGE},
        {"tiny-llama --heads 3 --kv-heads 2 --hidden 63", WM_USAGE},
        {"tiny-llama --experts 4", WM_USAGE},
        {"tiny-mixtral --experts 0", WM_USAGE},
        {"tiny-llama --dtype i8", WM_USAGE},
        {"tiny-llama --delta-std nan", WM_USAGE},
        {"tiny-llama --fine-tunes 65", WM_USAGE},
        {"--from /nowhere/at/all", WM_NO_INPUT},
        {"--from /nowhere/at/all --fine-tunes 0", WM_USAGE},
    };
    const struct place *p = *state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (make(p, "x", cases[i].options) != wm_exit_code(cases[i].status))
            fail_msg("\"%s\" should end with %d", cases[i].options, wm_exit_code(cases[i].status));
    assert_int_equal(make(p, "y", "tiny-llama"), 0);
    assert_int_equal(make(p, "y", "tiny-llama"), wm_exit_code(WM_CANT_CREATE));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_same_seed_same_bytes, make_place, remove_place),
        cmocka_unit_test_setup_teardown(test_shards_do_not_show, make_place, remove_place),
        cmocka_unit_test_setup_teardown(test_shapes_are_the_published_ones, make_place, remove_place),
        cmocka_unit_test_setup_teardown(test_weights_and_deltas_have_their_spread, make_place, remove_place),
        cmocka_unit_test_setup_teardown(test_types_agree, make_place, remove_place),
        cmocka_unit_test_setup_teardown(test_fine_tunes_of_an_existing_checkpoint, make_place, remove_place),
        cmocka_unit_test_setup_teardown(test_wrong_use_is_refused, make_place, remove_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
