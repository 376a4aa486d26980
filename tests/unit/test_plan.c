/* The plan: who takes part in which tensor, what differs between models, where every byte will lie, what memory it takes. */
#include "plan/plan.h"

#include "base/file.h"
#include "base/machine.h"
#include "methods/tile.h"
#include "support/fixture.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define LLAMA "{\"model_type\":\"llama\",\"vocab_size\":%d,\"tie_word_embeddings\":%s}"

struct world {
    struct fixture f;
    struct recipe *recipe;
    struct ckpt *models[4];
    int n_models;
    struct plan *plan;
    struct wm_error err;
    char told[8192]; /* every problem, one a line */
};

static void hear(void *user, const struct wm_problem *problem)
{
    struct world *w = user;
    size_t n = strlen(w->told);

    snprintf(w->told + n, sizeof w->told - n, "%s: %s\n",
             problem->severity == WM_ERROR     ? "error"
             : problem->severity == WM_WARNING ? "warning"
                                               : "note",
             problem->text);
}

static void begin(struct world *w)
{
    memset(w, 0, sizeof *w);
    fixture_init(&w->f);
}

/* Plans <dir>/c.yml made of `yaml`, whose model paths %1, %2, %3 are the fixture's a, b, c and %0 its base. */
static enum wm_status make_plan(struct world *w, const char *yaml, const struct wm_options *options)
{
    struct ckpt_options ckpt_options = {0};
    struct problems problems;
    char text[4096] = "";
    enum wm_status st;

    for (const char *p = yaml; *p; p++) {
        static const char *const names[] = {"base", "a", "b", "c"};
        size_t n = strlen(text);
        if (*p == '%')
            snprintf(text + n, sizeof text - n, "%s/%s", w->f.dir, names[*++p - '0']);
        else
            snprintf(text + n, sizeof text - n, "%c", *p);
    }
    fixture_write_file(&w->f, "c.yml", text);
    problems_init(&problems, hear, w, false);
    st = recipe_open(&w->recipe, fixture_path(&w->f, "c.yml"), &problems, &w->err);
    if (st != WM_OK)
        print_message("%s", w->told);
    assert_int_equal(st, WM_OK);
    for (size_t m = 0; m < w->recipe->n_models; m++)
        assert_int_equal(ckpt_open(&w->models[w->n_models++], w->recipe->models[m].ref.path, NULL, &ckpt_options,
                                   &problems, &w->err),
                         WM_OK);
    if (w->recipe->has_base && w->recipe->base_index < 0)
        assert_int_equal(
            ckpt_open(&w->models[w->n_models++], w->recipe->base_model.path, NULL, &ckpt_options, &problems, &w->err),
            WM_OK);
    st = plan_new(&w->plan, w->recipe, w->models, w->n_models, options, &problems, &w->err);
    return st;
}

static void end(struct world *w)
{
    plan_free(w->plan);
    for (int m = 0; m < w->n_models; m++)
        ckpt_free(w->models[m]);
    recipe_free(w->recipe);
    fixture_release(&w->f);
}

static const struct plan_job *job_named(const struct world *w, const char *name)
{
    for (size_t j = 0; j < w->plan->n_jobs; j++)
        if (strcmp(w->plan->jobs[j].name, name) == 0)
            return &w->plan->jobs[j];
    return NULL;
}

static void write_llama(struct world *w, const char *model, uint64_t vocab, bool head, const char *tied, uint64_t seed)
{
    struct fixture_tensor t[] = {
        {"model.embed_tokens.weight", WM_BF16, 2, {vocab, 8}, 1, 0.02, seed, 1e-3, NULL},
        {"model.layers.0.w", WM_BF16, 2, {8, 8}, 2, 0.02, seed, 1e-3, NULL},
        {"model.layers.2.w", WM_BF16, 2, {8, 8}, 3, 0.02, seed, 1e-3, NULL},
        {"model.layers.10.w", WM_BF16, 2, {8, 8}, 4, 0.02, seed, 1e-3, NULL},
        {"model.norm.weight", WM_BF16, 1, {8}, 5, 0.02, seed, 1e-3, NULL},
        {"lm_head.weight", WM_BF16, 2, {vocab, 8}, 6, 0.02, seed, 1e-3, NULL},
    };
    char config[200];

    snprintf(config, sizeof config, LLAMA, (int)vocab, tied);
    fixture_write_model(&w->f, model, t, head ? 6 : 5, 0, config);
}

#define LINEAR2                                                                                                        \
    "merge_method: linear\nmodels:\n  - model: %1\n    parameters: {weight: 1}\n  - model: %2\n    parameters: "       \
    "{weight: 2}\n"
#define TA2                                                                                                            \
    "merge_method: task_arithmetic\nbase_model: %0\nmodels:\n  - model: %1\n    parameters: {weight: 1}\n  - model: "  \
    "%2\n    parameters: {weight: 2}\n"

static void layers_go_in_order_and_offsets_touch(void **state)
{
    static const char *const order[] = {"lm_head.weight",   "model.embed_tokens.weight", "model.layers.0.w",
                                        "model.layers.2.w", "model.layers.10.w",         "model.norm.weight"};
    struct wm_options options = WM_OPTIONS_INIT;
    struct world w;
    uint64_t at;

    (void)state;
    begin(&w);
    write_llama(&w, "a", 32, true, "false", 11);
    write_llama(&w, "b", 32, true, "false", 12);
    assert_int_equal(make_plan(&w, LINEAR2, &options), WM_OK);
    assert_int_equal(w.plan->n_jobs, 6);
    assert_int_equal(w.plan->n_shards, 1);
    assert_string_equal(w.plan->shards[0].name, "model.safetensors");
    at = w.plan->shards[0].n_header_bytes;
    assert_int_equal(at % 4096, 0);
    for (size_t j = 0; j < 6; j++) {
        assert_string_equal(w.plan->jobs[j].name, order[j]);
        assert_int_equal(w.plan->jobs[j].begin, at);
        assert_int_equal(w.plan->jobs[j].n_bytes, w.plan->jobs[j].n_elems * 2);
        at += w.plan->jobs[j].n_bytes;
    }
    assert_int_equal(w.plan->shards[0].n_bytes, at);
    assert_int_equal(w.plan->bytes_out, (32 * 8 * 2 + 3 * 64 + 8) * 2);
    assert_int_equal(w.plan->bytes_in, 2 * w.plan->bytes_out);
    assert_true(job_named(&w, "model.layers.0.w")->depth == 0.0);
    assert_true(job_named(&w, "model.layers.2.w")->depth == 0.2);
    assert_true(job_named(&w, "model.layers.10.w")->depth == 1.0);
    assert_true(job_named(&w, "lm_head.weight")->depth == 0.0);
    end(&w);
}

static void shards_are_cut_by_bytes(void **state)
{
    struct wm_options options = WM_OPTIONS_INIT;
    struct world w;

    (void)state;
    begin(&w);
    write_llama(&w, "a", 32, true, "false", 11);
    write_llama(&w, "b", 32, true, "false", 12);
    options.shard_bytes = 600; /* embeddings are 512, layers 128, the norm 16 */
    assert_int_equal(make_plan(&w, LINEAR2, &options), WM_OK);
    assert_int_equal(w.plan->n_shards, 3);
    assert_string_equal(w.plan->shards[0].name, "model-00001-of-00003.safetensors");
    assert_int_equal(w.plan->shards[0].n_jobs, 1);
    assert_int_equal(w.plan->shards[1].n_jobs, 1);
    assert_int_equal(w.plan->shards[2].n_jobs, 4);
    for (int s = 0; s < 3; s++)
        for (size_t i = 0; i < w.plan->shards[s].n_jobs; i++)
            assert_int_equal(w.plan->jobs[w.plan->shards[s].first_job + i].shard, s);
    end(&w);
}

static void odd_sizes_go_last_and_stay_aligned(void **state)
{
    struct wm_options options = WM_OPTIONS_INIT;
    struct fixture_tensor t[] = {{"a", WM_U8, 1, {3}, 1, 0, 0, 0, NULL},
                                 {"b", WM_F32, 1, {3}, 2, 1, 0, 0, NULL},
                                 {"c", WM_I64, 1, {3}, 3, 0, 0, 0, NULL},
                                 {"d", WM_BF16, 1, {5}, 4, 1, 0, 0, NULL}};
    struct world w;

    (void)state;
    begin(&w);
    fixture_write_model(&w.f, "a", t, 4, 0, NULL);
    fixture_write_model(&w.f, "b", t, 4, 0, NULL);
    assert_int_equal(make_plan(&w, LINEAR2, &options), WM_OK);
    for (size_t j = 0; j < 4; j++) {
        const struct plan_job *job = &w.plan->jobs[j];
        assert_int_equal(job->begin % (dtype_bits(job->dtype) / 8), 0);
    }
    assert_int_equal(job_named(&w, "a")->action, PLAN_COPY);
    assert_int_equal(job_named(&w, "c")->action, PLAN_COPY);
    assert_int_equal(job_named(&w, "b")->dtype, WM_F32);
    end(&w);
}

static void a_separate_head_unties_the_output(void **state)
{
    struct wm_options options = WM_OPTIONS_INIT;
    const struct plan_job *head;
    struct world w;

    (void)state;
    begin(&w);
    write_llama(&w, "base", 32, false, "true", 10);
    write_llama(&w, "a", 32, true, "false", 11);
    write_llama(&w, "b", 32, false, "true", 12);
    assert_int_equal(make_plan(&w, TA2, &options), WM_OK);
    head = job_named(&w, "lm_head.weight");
    assert_non_null(head);
    assert_int_equal(head->n_sources, 3);
    assert_string_equal(head->sources[0].tensor->name, "model.embed_tokens.weight"); /* of the tied base */
    assert_string_equal(head->sources[1].tensor->name, "lm_head.weight");
    assert_string_equal(head->sources[2].tensor->name, "model.embed_tokens.weight");
    assert_int_equal(w.plan->tie_word_embeddings, 0);
    end(&w);
}

static void tied_models_stay_tied(void **state)
{
    struct wm_options options = WM_OPTIONS_INIT;
    struct world w;

    (void)state;
    begin(&w);
    write_llama(&w, "base", 32, false, "true", 10);
    write_llama(&w, "a", 32, true, "true", 11); /* a stored copy of tied embeddings */
    write_llama(&w, "b", 32, false, "true", 12);
    assert_int_equal(make_plan(&w, TA2, &options), WM_OK);
    assert_null(job_named(&w, "lm_head.weight"));
    assert_int_equal(w.plan->tie_word_embeddings, -1);
    end(&w);
}

static void vocabularies_that_differ(void **state)
{
    struct wm_options options = WM_OPTIONS_INIT;
    struct world w;

    (void)state;
    begin(&w); /* without a base: the rows that all have, and config.json says so */
    write_llama(&w, "a", 40, true, "false", 11);
    write_llama(&w, "b", 32, true, "false", 12);
    assert_int_equal(make_plan(&w, LINEAR2, &options), WM_OK);
    assert_int_equal(job_named(&w, "lm_head.weight")->shape[0], 32);
    assert_int_equal(job_named(&w, "lm_head.weight")->n_elems, 32 * 8);
    assert_int_equal(w.plan->vocab_size, 32);
    assert_non_null(strstr(w.told, "warning: vocabularies differ"));
    end(&w);

    begin(&w); /* with a base: the base's rows */
    write_llama(&w, "base", 32, true, "false", 10);
    write_llama(&w, "a", 40, true, "false", 11);
    write_llama(&w, "b", 32, true, "false", 12);
    assert_int_equal(make_plan(&w, TA2, &options), WM_OK);
    assert_int_equal(job_named(&w, "model.embed_tokens.weight")->shape[0], 32);
    assert_int_equal(w.plan->vocab_size, -1); /* as the base's config already says */
    end(&w);

    begin(&w); /* a model with fewer rows than the base cannot give the rest */
    write_llama(&w, "base", 40, true, "false", 10);
    write_llama(&w, "a", 40, true, "false", 11);
    write_llama(&w, "b", 32, true, "false", 12);
    assert_int_equal(make_plan(&w, TA2, &options), WM_BAD_DATA);
    assert_non_null(strstr(w.told, "lm_head.weight: shapes differ"));
    assert_non_null(strstr(w.told, "model.embed_tokens.weight: shapes differ"));
    end(&w);
}

static void other_shapes_that_differ_are_all_named(void **state)
{
    struct wm_options options = WM_OPTIONS_INIT;
    struct fixture_tensor t[] = {{"x.weight", WM_BF16, 2, {4, 4}, 1, 1, 0, 0, NULL},
                                 {"y.weight", WM_BF16, 2, {4, 4}, 1, 1, 0, 0, NULL}};
    struct world w;

    (void)state;
    begin(&w);
    fixture_write_model(&w.f, "a", t, 2, 0, NULL);
    t[0].shape[1] = 5;
    t[1].n_dims = 1;
    fixture_write_model(&w.f, "b", t, 2, 0, NULL);
    assert_int_equal(make_plan(&w, LINEAR2, &options), WM_BAD_DATA);
    assert_non_null(strstr(w.told, "tensor x.weight: shapes differ: "));
    assert_non_null(strstr(w.told, "BF16 [4, 5]"));
    assert_non_null(strstr(w.told, "tensor y.weight: shapes differ: "));
    end(&w);
}

static void missing_tensors(void **state)
{
    struct wm_options options = WM_OPTIONS_INIT;
    struct fixture_tensor t[] = {{"common", WM_BF16, 1, {8}, 1, 1, 0, 0, NULL},
                                 {"extra", WM_BF16, 1, {8}, 2, 1, 0, 0, NULL},
                                 {"third", WM_BF16, 1, {8}, 3, 1, 0, 0, NULL}};
    const struct plan_job *job;
    struct world w;

    (void)state;
    begin(&w); /* only a model has it: taken over; only the base has it: taken over */
    fixture_write_model(&w.f, "a", t, 2, 0, NULL);
    fixture_write_model(&w.f, "b", t, 1, 0, NULL);
    t[1] = t[2];
    fixture_write_model(&w.f, "base", t, 2, 0, NULL);
    assert_int_equal(make_plan(&w, TA2, &options), WM_OK);
    assert_int_equal(w.plan->n_jobs, 3);
    job = job_named(&w, "extra");
    assert_true(job->plain && job->n_sources == 1 && !job->has_base);
    assert_string_equal(plan_model_name(w.plan, job->sources[0].model), w.recipe->models[0].ref.text);
    job = job_named(&w, "third");
    assert_true(job->plain && job->n_sources == 1);
    assert_int_equal(job->sources[0].model, w.plan->base);
    assert_non_null(strstr(w.told, "lacks 1 tensor that other models have (first: extra)"));
    end(&w);

    begin(&w); /* several models have it and the base does not: no task vector */
    t[1].name = "extra";
    fixture_write_model(&w.f, "a", t, 2, 0, NULL);
    fixture_write_model(&w.f, "b", t, 2, 0, NULL);
    fixture_write_model(&w.f, "base", t, 1, 0, NULL);
    assert_int_equal(make_plan(&w, TA2, &options), WM_BAD_DATA);
    assert_non_null(strstr(w.told, "error: tensor extra: "));
    end(&w);
}

static void types_that_cannot_be_merged(void **state)
{
    struct wm_options options = WM_OPTIONS_INIT;
    struct fixture_tensor t[] = {{"q", WM_U8, 1, {8}, 1, 0, 0, 0, NULL}, {"w", WM_F16, 1, {8}, 1, 1, 0, 0, NULL}};
    struct world w;

    (void)state;
    begin(&w);
    fixture_write_model(&w.f, "a", t, 2, 0, NULL);
    t[0].dtype = WM_F8_E4M3;
    t[1].dtype = WM_BF16;
    fixture_write_model(&w.f, "b", t, 2, 0, NULL);
    assert_int_equal(make_plan(&w, LINEAR2, &options), WM_BAD_DATA);
    assert_non_null(strstr(w.told, "tensor q: "));
    assert_non_null(strstr(w.told, "as U8"));
    assert_non_null(strstr(w.told, "as F8_E4M3"));
    assert_null(strstr(w.told, "tensor w"));
    end(&w);
}

static void output_types(void **state)
{
    struct wm_options options = WM_OPTIONS_INIT;
    struct fixture_tensor t[] = {{"w", WM_F16, 1, {8}, 1, 1, 0, 0, NULL}};
    static const struct {
        const char *more;
        enum wm_dtype linear, task;
    } cases[] = {{"", WM_F32, WM_BF16}, /* f16 + bf16 promote to f32; with a base its type */
                 {"dtype: float16\n", WM_F16, WM_F16},
                 {"dtype: float32\nout_dtype: bfloat16\n", WM_BF16, WM_BF16}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int task = 0; task < 2; task++) {
            char yaml[1000];
            struct world w;
            begin(&w);
            t[0].dtype = WM_F16;
            fixture_write_model(&w.f, "a", t, 1, 0, NULL);
            t[0].dtype = WM_BF16;
            fixture_write_model(&w.f, "b", t, 1, 0, NULL);
            fixture_write_model(&w.f, "base", t, 1, 0, NULL);
            snprintf(yaml, sizeof yaml, "%s%s", task ? TA2 : LINEAR2, cases[i].more);
            assert_int_equal(make_plan(&w, yaml, &options), WM_OK);
            assert_int_equal(w.plan->jobs[0].dtype, task ? cases[i].task : cases[i].linear);
            assert_int_equal(w.plan->config_dtype, task ? cases[i].task : cases[i].linear);
            end(&w);
        }
    }
}

static void the_fingerprint_names_the_bytes(void **state)
{
    struct wm_options options = WM_OPTIONS_INIT;
    struct hash128 first;
    struct world w;

    (void)state;
    begin(&w);
    write_llama(&w, "a", 32, true, "false", 11);
    write_llama(&w, "b", 32, true, "false", 12);
    assert_int_equal(make_plan(&w, LINEAR2, &options), WM_OK);
    first = w.plan->fingerprint;
    for (int change = 0; change < 5; change++) {
        struct problems problems;
        struct plan *again;
        struct wm_options o = WM_OPTIONS_INIT;
        problems_init(&problems, NULL, NULL, false);
        o.tile_bytes = change == 1 ? 1 << 17 : 0;
        o.n_threads = change == 2 ? 7 : 0;
        o.memory_bytes = change == 3 ? 512 << 20 : 0;
        o.shard_bytes = change == 4 ? 600 : 0; /* the only one that moves bytes */
        assert_int_equal(plan_new(&again, w.recipe, w.models, w.n_models, &o, &problems, NULL), WM_OK);
        assert_int_equal(hash128_equal(again->fingerprint, first), change < 4);
        plan_free(again);
    }
    end(&w);
}

static void memory_stays_under_the_budget(void **state)
{
    struct wm_options options = WM_OPTIONS_INIT;
    struct world w;

    (void)state;
    begin(&w);
    write_llama(&w, "base", 32, true, "false", 10);
    write_llama(&w, "a", 32, true, "false", 11);
    write_llama(&w, "b", 32, true, "false", 12);
    assert_int_equal(make_plan(&w,
                               "merge_method: ties\nbase_model: %0\nmodels:\n  - model: %1\n    parameters: {weight: "
                               "1, density: 0.5}\n  - model: %2\n    parameters: {weight: 1, density: 0.5}\n",
                               &options),
                     WM_OK);
    for (uint64_t mib = 64; mib <= 8192; mib *= 2) {
        struct wm_options o = WM_OPTIONS_INIT;
        struct problems problems;
        struct plan *again;
        struct wm_error err = WM_ERROR_INIT;
        o.memory_bytes = mib << 20;
        o.n_threads = 4;
        problems_init(&problems, NULL, NULL, false);
        assert_int_equal(plan_new(&again, w.recipe, w.models, w.n_models, &o, &problems, &err), WM_OK);
        assert_true(again->memory.total <= o.memory_bytes);
        assert_int_equal(again->memory.tile_elems % TILE_CHUNK_ELEMS, 0);
        plan_free(again);
    }
    {
        struct wm_options o = WM_OPTIONS_INIT;
        struct problems problems;
        struct plan *again;
        struct wm_error err = WM_ERROR_INIT;
        o.memory_bytes = 1 << 20;
        problems_init(&problems, NULL, NULL, false);
        assert_int_equal(plan_new(&again, w.recipe, w.models, w.n_models, &o, &problems, &err), WM_USAGE);
        assert_non_null(strstr(err.message, "--memory"));
    }
    end(&w);
}

/* For devices: as large as asked for, or as the budget leaves a ring of them, and never smaller than planned. */
static void larger_tiles_stay_under_the_budget(void **state)
{
    struct wm_options options = WM_OPTIONS_INIT;
    uint64_t smallest = UINT64_MAX, largest = 0;
    struct world w;

    (void)state;
    begin(&w);
    write_llama(&w, "a", 32, true, "false", 11);
    write_llama(&w, "b", 32, true, "false", 12);
    assert_int_equal(make_plan(&w, LINEAR2, &options), WM_OK);
    for (uint64_t mib = 48; mib <= 4096; mib *= 2) {
        struct wm_options o = WM_OPTIONS_INIT;
        struct problems problems;
        struct plan *plan;
        uint64_t before, tile_bytes;
        o.memory_bytes = mib << 20;
        o.n_threads = 4;
        problems_init(&problems, NULL, NULL, false);
        assert_int_equal(plan_new(&plan, w.recipe, w.models, w.n_models, &o, &problems, NULL), WM_OK);
        before = plan->memory.tile_elems;
        plan_enlarge_tiles(plan, 0);
        assert_int_equal(plan->memory.tile_elems, before);
        plan_enlarge_tiles(plan, PLAN_DEVICE_TILE_BYTES);
        assert_true(plan->memory.tile_elems >= before && plan->memory.total <= o.memory_bytes);
        assert_int_equal(plan->memory.tile_elems % TILE_CHUNK_ELEMS, 0);
        assert_true(plan->memory.tile_elems == before || plan->memory.n_slots >= 2 * 8);
        tile_bytes = plan->memory.tile_elems * 2; /* bf16 */
        smallest = tile_bytes < smallest ? tile_bytes : smallest;
        largest = tile_bytes > largest ? tile_bytes : largest;
        plan_free(plan);
    }
    assert_true(smallest < PLAN_DEVICE_TILE_BYTES);
    assert_int_equal(largest, PLAN_DEVICE_TILE_BYTES);
    end(&w);
}

static int n_compute(const struct world *w, int n_ranks, int local_size)
{
    struct wm_options o = WM_OPTIONS_INIT;
    struct problems problems;
    struct plan *again;
    int n;

    o.n_ranks = n_ranks;
    o.local_size = local_size;
    problems_init(&problems, NULL, NULL, false);
    assert_int_equal(plan_new(&again, w->recipe, w->models, w->n_models, &o, &problems, NULL), WM_OK);
    n = again->memory.n_compute;
    plan_free(again);
    return n;
}

/* Bound ones have their share already. */
static void processes_of_one_machine_divide_its_processors(void **state)
{
    struct wm_options options = WM_OPTIONS_INIT;
    int n = machine_processors();
    cpu_set_t all, one;
    struct world w;

    (void)state;
    begin(&w);
    write_llama(&w, "a", 32, true, "false", 11);
    write_llama(&w, "b", 32, true, "false", 12);
    assert_int_equal(make_plan(&w, LINEAR2, &options), WM_OK);
    assert_int_equal(n_compute(&w, 0, 0), n);
    assert_int_equal(n_compute(&w, 64, 1), n);
    assert_int_equal(n_compute(&w, 64, 0), n); /* nobody said how many */
    if (!machine_is_bound()) {
        assert_int_equal(n_compute(&w, 64, 2), n < 2 ? 1 : n / 2);
        assert_int_equal(n_compute(&w, 1000000, 1000000), 1);
    }
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    if (sysconf(_SC_NPROCESSORS_ONLN) > 2) {
        int p = 0;
        one = all;
        while (!CPU_ISSET(p, &one))
            p++;
        CPU_CLR(p, &one);
        assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
        assert_int_equal(n_compute(&w, 64, 2), machine_processors());
        assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
    }
    end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_go_in_order_and_offsets_touch),
        cmocka_unit_test(shards_are_cut_by_bytes),
        cmocka_unit_test(odd_sizes_go_last_and_stay_aligned),
        cmocka_unit_test(a_separate_head_unties_the_output),
        cmocka_unit_test(tied_models_stay_tied),
        cmocka_unit_test(vocabularies_that_differ),
        cmocka_unit_test(other_shapes_that_differ_are_all_named),
        cmocka_unit_test(missing_tensors),
        cmocka_unit_test(types_that_cannot_be_merged),
        cmocka_unit_test(output_types),
        cmocka_unit_test(the_fingerprint_names_the_bytes),
        cmocka_unit_test(memory_stays_under_the_budget),
        cmocka_unit_test(larger_tiles_stay_under_the_budget),
        cmocka_unit_test(processes_of_one_machine_divide_its_processors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
