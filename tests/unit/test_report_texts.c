/* Holds: card, index, manifest and plan texts say exactly what a plan holds, quote strangers' names, and are the same
 * bytes for the same plan. The plan is built by hand, so no other room decides what is right here. */
#include "base/json.h"
#include "report/parameters.h"
#include "report/report.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

/* ---- a plan by hand: two models and a base, three tensors in two shards --------------------------------------- */

static const char *const modes[] = {"off", "on", NULL};
static const struct method_param params[] = {
    {.name = "weight", .help = "w", .type = METHOD_NUMBER, .per_model = true, .min = -1e300, .max = 1e300},
    {.name = "mode", .help = "m", .type = METHOD_CHOICE, .choices = modes},
    {.name = "normalize", .help = "n", .type = METHOD_FLAG},
    {.name = "int8_mask", .help = "nothing", .type = METHOD_FLAG, .no_effect = true},
};
static const struct method method = {.name = "toy",
                                     .summary = "adds up",
                                     .formula = "r = b + w d\nsecond line",
                                     .source = "Somebody 2024",
                                     .citation_url = "https://example.org/paper",
                                     .base = METHOD_BASE_REQUIRED,
                                     .params = params,
                                     .n_params = 4};
static const char recipe_text[] = "merge_method: toy\n# ``` and ````\nmodels: \"\xc3\xa4\\\"";

struct hand_plan {
    struct recipe recipe;
    struct recipe_model recipe_models[2];
    struct ckpt ckpts[3];
    struct ckpt_file files[3];
    struct ckpt_tensor tensors[1];
    struct ckpt *models[3];
    struct plan_source sources[3];
    double globals[2][METHOD_MAX_PARAMS], per_model[2][2][METHOD_MAX_PARAMS];
    struct plan_source pairs[2][2];
    struct plan_job jobs[6];
    struct plan_shard shards[2];
    struct plan plan;
    struct hash128 hashes[6];
};

static const uint64_t shape[] = {2, 3};

static void hand_plan_init(struct hand_plan *h)
{
    static const char *const names[] = {"layers.2.w", "layers.10.w", "odd\"\n\x1b[31m", "step", "only.one", "only.two"};
    static const char *const references[] = {"org/math@v1", "./local `model`", "org/base"};

    memset(h, 0, sizeof *h);
    h->recipe.text = recipe_text;
    h->recipe.n_text_bytes = sizeof recipe_text - 1;
    h->recipe.method = &method;
    h->recipe.models = h->recipe_models;
    h->recipe.n_models = 2;
    h->recipe.has_base = true;
    h->recipe.base_index = -1;
    h->recipe_models[0].ref.text = references[0];
    h->recipe_models[1].ref.text = references[1];
    h->recipe.base_model.text = references[2];
    h->tensors[0] = (struct ckpt_tensor){
        .name = "layers.2.w", .dtype = WM_BF16, .n_dims = 2, .shape = shape, .n_elems = 6, .n_bytes = 12};
    for (int m = 0; m < 3; m++) {
        h->files[m] = (struct ckpt_file){.name = "model.safetensors", .path = "/secret/place/model.safetensors"};
        h->files[m].identity = (struct file_identity){1000 + (uint64_t)m, 77, 88, 99};
        h->ckpts[m] = (struct ckpt){.reference = references[m],
                                    .dir = "/secret/place",
                                    .files = &h->files[m],
                                    .n_files = 1,
                                    .tensors = h->tensors,
                                    .n_tensors = 1,
                                    .n_bytes = 12};
        h->models[m] = &h->ckpts[m];
        h->sources[m] = (struct plan_source){(m + 2) % 3, h->tensors}; /* the base first */
    }
    h->ckpts[0].commit = h->ckpts[2].commit = "0123456789abcdef0123456789abcdef01234567";
    h->files[2].sha256 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    for (int set = 0; set < 2; set++) {
        h->globals[set][1] = 1; /* mode: on */
        h->globals[set][2] = set;
        h->per_model[set][0][0] = 0.1;
        h->per_model[set][1][0] = set ? -3e-07 : 2;
    }
    for (int j = 0; j < 4; j++) {
        h->jobs[j] =
            (struct plan_job){.name = names[j],
                              .action = PLAN_MERGE,
                              .dtype = WM_BF16,
                              .n_dims = 2,
                              .shape = shape,
                              .n_elems = 6,
                              .n_bytes = 12,
                              .shard = j / 2,
                              .begin = 4096,
                              .sources = h->sources,
                              .n_sources = 3,
                              .has_base = true,
                              .params = h->globals[j == 1],
                              .model_params = (const double(*)[METHOD_MAX_PARAMS])h->per_model[j == 1 || j == 2]};
        h->hashes[j] = (struct hash128){.low = 0x1234 + (uint64_t)j, .high = 0xabcdef0000000000};
    }
    h->jobs[3] = (struct plan_job){.name = names[3],
                                   .action = PLAN_COPY,
                                   .dtype = WM_I64,
                                   .n_elems = 1,
                                   .n_bytes = 8,
                                   .shard = 1,
                                   .sources = h->sources,
                                   .n_sources = 1,
                                   .note = "copied, since \"it\" is an integer"};
    /* two tensors that one model alone has, each of another, with the same values */
    for (int j = 4; j < 6; j++) {
        h->pairs[j - 4][0] = h->sources[0];
        h->pairs[j - 4][1] = h->sources[j - 3];
        h->jobs[j] = h->jobs[0];
        h->jobs[j].name = names[j];
        h->jobs[j].shard = 1;
        h->jobs[j].sources = h->pairs[j - 4];
        h->jobs[j].n_sources = 2;
        h->hashes[j] = (struct hash128){.low = 0x1234 + (uint64_t)j};
    }
    h->shards[0] = (struct plan_shard){.name = "model-00001-of-00002.safetensors", .n_bytes = 4120, .n_jobs = 2};
    h->shards[1] =
        (struct plan_shard){.name = "model-00002-of-00002.safetensors", .n_bytes = 4116, .first_job = 2, .n_jobs = 2};
    h->plan = (struct plan){.recipe = &h->recipe,
                            .models = h->models,
                            .n_models = 3,
                            .base = 2,
                            .donor = 2,
                            .jobs = h->jobs,
                            .n_jobs = 6,
                            .shards = h->shards,
                            .n_shards = 2,
                            .bytes_in = 116,
                            .bytes_out = 44,
                            .n_params = 19,
                            .bytes_to_read = 1116,
                            .seed = 18446744073709551615u,
                            .config_dtype = WM_BF16,
                            .vocab_size = -1,
                            .tie_word_embeddings = -1};
}

static void contains(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("missing: %s\nin:\n%s", part, text);
}

static void contains_not(const char *text, const char *part)
{
    if (strstr(text, part))
        fail_msg("should not be there: %s\nin:\n%s", part, text);
}

static cJSON *parse(const struct text *t)
{
    struct wm_error err = WM_ERROR_INIT;
    cJSON *tree;

    if (json_gate("report", text_string(t), t->n_bytes, JSON_MAX_DEPTH, &err) != WM_OK)
        fail_msg("%s\n%s", err.message, text_string(t));
    tree = cJSON_ParseWithLength(text_string(t), t->n_bytes);
    assert_non_null(tree);
    return tree;
}

/* ---- the texts ---------------------------------------------------------------------------------------------- */

static void card(void **state)
{
    struct hand_plan h;
    struct text out;

    (void)state;
    hand_plan_init(&h);
    text_init(&out, TEXT_MAX_BYTES);
    report_card(&h.plan, &out);
    contains(text_string(&out),
             "---\nbase_model:\n- org/math\n- org/base\nbase_model_relation: merge\nlibrary_name: transformers\n"
             "tags:\n- warpmerge\n- mergekit\n- merge\n---\n");
    contains(text_string(&out), "**toy**: adds up\n\n```\nr = b + w d\nsecond line\n```\n");
    contains(text_string(&out), "- `./local model`: weight -3e-07..2\n"); /* its backticks would end the code span */
    contains(text_string(&out),
             "[org/math](https://huggingface.co/org/math/tree/0123456789abcdef0123456789abcdef01234567): "
             "weight 0.1\n");
    contains(text_string(&out), "- mode on\n- normalize false..true\n");
    contains(text_string(&out), "`````yaml\nmerge_method: toy\n"); /* one backtick more than the recipe has */
    contains_not(text_string(&out), "int8_mask");
    contains_not(text_string(&out), "/secret/place");
    text_release(&out);
}

static void card_without_hub_models(void **state)
{
    struct hand_plan h;
    struct text out;

    (void)state;
    hand_plan_init(&h);
    h.ckpts[0].commit = h.ckpts[2].commit = NULL; /* folders that only look like hub names */
    text_init(&out, TEXT_MAX_BYTES);
    report_card(&h.plan, &out);
    contains_not(text_string(&out), "base_model");
    contains(text_string(&out), "---\nlibrary_name: transformers\n");
    text_release(&out);
}

static void shard_index(void **state)
{
    struct hand_plan h;
    struct text out;
    struct wm_error err = WM_ERROR_INIT;

    (void)state;
    hand_plan_init(&h);
    text_init(&out, TEXT_MAX_BYTES);
    assert_int_equal(report_index(&h.plan, &out, &err), WM_OK);
    assert_string_equal(text_string(&out), "{\n  \"metadata\": {\n    \"total_size\": 44\n  },\n  \"weight_map\": {\n"
                                           "    \"layers.2.w\": \"model-00001-of-00002.safetensors\",\n"
                                           "    \"layers.10.w\": \"model-00001-of-00002.safetensors\",\n"
                                           "    \"odd\\\"\\n\\u001b[31m\": \"model-00002-of-00002.safetensors\",\n"
                                           "    \"only.one\": \"model-00002-of-00002.safetensors\",\n"
                                           "    \"only.two\": \"model-00002-of-00002.safetensors\",\n"
                                           "    \"step\": \"model-00002-of-00002.safetensors\"\n  }\n}\n");
    cJSON_Delete(parse(&out));
    text_release(&out);
}

static void make_manifest(struct hand_plan *h, struct text *out)
{
    struct report_kit kit = {.n_files = 1};
    struct wm_error err = WM_ERROR_INIT;
    char sha256[2][HASH_SHA256_HEX_BYTES] = {"bb", "cc"};

    kit.files[0].name = "config.json";
    kit.files[0].n_bytes = 5;
    text_init(out, TEXT_MAX_BYTES);
    assert_int_equal(
        report_manifest(&h->plan, &kit, h->hashes, (const char(*)[HASH_SHA256_HEX_BYTES])sha256, out, &err), WM_OK);
}

static void manifest(void **state)
{
    struct hand_plan h;
    struct text out;
    cJSON *tree, *sets, *tensors;

    (void)state;
    hand_plan_init(&h);
    make_manifest(&h, &out);
    tree = parse(&out);
    sets = cJSON_GetObjectItem(tree, "parameter_sets");
    assert_int_equal(cJSON_GetArraySize(sets), 5); /* they differ in global values, a model's values, or models */
    contains(text_string(&out),
             "{\"global\": {\"mode\": \"on\", \"normalize\": true}, \"base\": true, \"models\": [{\"model\": 0, "
             "\"values\": {\"weight\": 0.1}}, {\"model\": 1, \"values\": {\"weight\": -3e-07}}]}");
    contains(text_string(&out), "\"seed\": 18446744073709551615,");
    contains(text_string(&out),
             "{\"name\": \"layers.2.w\", \"dtype\": \"BF16\", \"shape\": [2, 3], \"shard\": 0, \"parameters\": 0, "
             "\"xxh3_tree\": \"abcdef00000000000000000000001234\"}");
    contains(text_string(&out), "\"parameters\": 1, \"xxh3_tree\": \"abcdef00000000000000000000001235\"");
    contains(text_string(&out), "\"shape\": [], \"shard\": 1, \"parameters\": null,");
    contains(text_string(&out), "{\"tensor\": \"step\", \"note\": \"copied, since \\\"it\\\" is an integer\"}");
    contains(text_string(&out), "{\"name\": \"model.safetensors\", \"n_bytes\": 1002, \"sha256\": \"aaaa");
    contains(text_string(&out), "\"sha256\": \"cc\"");
    tensors = cJSON_GetObjectItem(cJSON_GetObjectItem(tree, "output"), "tensors");
    assert_int_equal(cJSON_GetArraySize(tensors), 6);
    assert_string_equal(cJSON_GetObjectItem(cJSON_GetObjectItem(tree, "recipe"), "text")->valuestring, recipe_text);
    cJSON_Delete(tree);
    text_release(&out);
}

/* No byte may come from a machine: folders, times, inodes, threads, memory. */
static void manifest_is_the_same_anywhere(void **state)
{
    struct hand_plan here, there;
    struct text a, b;

    (void)state;
    hand_plan_init(&here);
    hand_plan_init(&there);
    for (int m = 0; m < 3; m++) {
        there.ckpts[m].dir = "/elsewhere";
        there.files[m].path = "/elsewhere/model.safetensors";
        there.files[m].identity = (struct file_identity){there.files[m].identity.n_bytes, 1, 2, 3};
    }
    there.plan.memory = (struct plan_memory){.budget = 5, .n_compute = 64};
    there.plan.bytes_to_read = 9;
    there.plan.fingerprint.low = 4;
    make_manifest(&here, &a);
    make_manifest(&there, &b);
    assert_string_equal(text_string(&a), text_string(&b));
    contains_not(text_string(&a), "/secret");
    text_release(&a);
    text_release(&b);
}

static void plan_texts(void **state)
{
    struct hand_plan h;
    struct text out;
    cJSON *tree;

    (void)state;
    hand_plan_init(&h);
    text_init(&out, TEXT_MAX_BYTES);
    report_plan_text(&h.plan, NULL, "some/out", &out);
    contains(text_string(&out), "  base        org/base ");
    contains(text_string(&out), "  model 2     ./local `model`  BF16      12 B   weight -3e-07..2\n");
    contains(text_string(&out), "  parameters  mode on  normalize false..true\n");
    contains(text_string(&out), "  output      some/out: 19 parameters in 6 tensors, BF16, 44 B in 2 shards\n");
    contains(text_string(&out), "  special     1 tensor\n              step: copied, since");
    contains(text_string(&out), "116 B, and 1.00 kB again");
    contains_not(text_string(&out), "GPU memory");
    text_release(&out);

    report_plan_json(&h.plan, NULL, NULL, &out);
    tree = parse(&out);
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(tree, "device_memory")));
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(tree, "out")));
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(tree, "tensors")), 6);
    cJSON_Delete(tree);
    text_release(&out);
}

static void plan_texts_with_a_gpu(void **state)
{
    struct hand_plan h;
    struct text out;
    cJSON *tree, *device;

    (void)state;
    hand_plan_init(&h);
    h.plan.device = (struct plan_device_memory){
        .budget = 8u << 20, .tiles = 2u << 20, .resident = 4u << 20, .side = 1u << 20, .tile_elems = 16384};
    text_init(&out, TEXT_MAX_BYTES);
    report_plan_text(&h.plan, NULL, NULL, &out);
    contains(text_string(&out), "  GPU memory  7.00 MiB of 8.00 MiB allowed on each\n");
    contains(text_string(&out), "2.00 MiB   on their way, of 16384 elements\n");
    contains(text_string(&out), "4.00 MiB   that stay between passes\n");
    text_release(&out);

    report_plan_json(&h.plan, NULL, NULL, &out);
    tree = parse(&out);
    device = cJSON_GetObjectItem(tree, "device_memory");
    assert_int_equal(cJSON_GetObjectItem(device, "budget")->valueint, 8 << 20);
    assert_int_equal(cJSON_GetObjectItem(device, "resident")->valueint, 4 << 20);
    cJSON_Delete(tree);
    text_release(&out);

    h.plan.device = (struct plan_device_memory){.budget = 1000};
    report_plan_text(&h.plan, NULL, NULL, &out);
    contains(text_string(&out), "too little for two tiles of every input: the CPU does the work\n");
    text_release(&out);
}

static void many_shards_and_notes_fit_a_screen(void **state)
{
    enum { n = 1000 };
    static struct plan_shard shards[n];
    static struct plan_job jobs[n];
    static char notes[n][24];
    struct hand_plan h;
    struct text out;
    size_t n_lines = 0;

    (void)state;
    hand_plan_init(&h);
    for (int i = 0; i < n; i++) {
        snprintf(notes[i], sizeof notes[i], "note %d", i);
        shards[i] = (struct plan_shard){.name = "s", .n_bytes = 1, .n_jobs = 1};
        jobs[i] = h.jobs[3];
        jobs[i].note = notes[i];
    }
    h.plan.shards = shards;
    h.plan.n_shards = n;
    h.plan.jobs = jobs;
    h.plan.n_jobs = n;
    text_init(&out, TEXT_MAX_BYTES);
    report_plan_text(&h.plan, NULL, NULL, &out);
    for (const char *p = text_string(&out); *p; p++)
        n_lines += *p == '\n';
    assert_in_range(n_lines, 10, 40);
    contains(text_string(&out), "... 996 more");
    contains(text_string(&out), "... 994 more: see --json");
    text_release(&out);
}

/* Rank 1 has nearly all, in a piece of one tensor; the parts cannot share it at all. */
static void hand_partition(struct plan_partition *p, struct plan_rank_share *shares, int n_ranks, bool *split)
{
    static const struct plan_range ranges[] = {{4, 0, 6}, {0, 0, 3}, {1, 0, 6}};

    memset(shares, 0, (size_t)n_ranks * sizeof *shares);
    shares[0] = (struct plan_rank_share){.ranges = ranges, .n_ranges = 1, .n_bytes_read = 24, .n_bytes_written = 12};
    shares[1] = (struct plan_rank_share){
        .ranges = ranges + 1, .n_ranges = 2, .n_bytes_read = 1000000, .n_bytes_written = 500000};
    split[0] = true;
    *p = (struct plan_partition){
        .n_ranks = n_ranks, .shares = shares, .job_is_split = split, .n_split_jobs = 1, .balance = 1.9};
}

static void ranks_texts(void **state)
{
    struct plan_rank_share shares[100];
    bool split[6] = {false}, none[6] = {false};
    struct plan_partition ranks, parts;
    const struct plan_partition *partitions[PARTITION_N_MODES] = {&ranks, &parts};
    const cJSON *tree, *one, *range;
    struct hand_plan h;
    struct text out;
    cJSON *root;

    (void)state;
    hand_plan_init(&h);
    text_init(&out, TEXT_MAX_BYTES);
    hand_partition(&ranks, shares, 2, split);
    parts = ranks;
    parts.job_is_split = none;
    parts.n_split_jobs = 0;
    parts.balance = 1.05;
    report_plan_text(&h.plan, partitions, NULL, &out);
    contains(text_string(&out), "\n  ranks       2: the fullest 90.0 % above the mean, 1 tensor split; rank 1 has "
                                "layers.10.w\n"
                                "               rank  tensors  split      reads     writes  of mean\n"
                                "                  0        1      0       24 B       12 B   0.000\n"
                                "                  1        2      1    1.00 MB     500 kB   2.000\n"
                                "              without communication (--part): the fullest 5.0 % above the mean, no "
                                "tensor split\n");
    text_release(&out);

    report_plan_json(&h.plan, partitions, NULL, &out);
    root = parse(&out);
    tree = cJSON_GetObjectItem(root, "ranks");
    assert_int_equal(cJSON_GetObjectItem(tree, "n_ranks")->valueint, 2);
    assert_true(cJSON_GetObjectItem(tree, "balance")->valuedouble == 1.9);
    assert_true(cJSON_GetObjectItem(tree, "balance_of_parts")->valuedouble == 1.05);
    tree = cJSON_GetObjectItem(tree, "shares");
    assert_int_equal(cJSON_GetArraySize(tree), 2);
    one = cJSON_GetArrayItem(tree, 1);
    assert_int_equal(cJSON_GetObjectItem(one, "rank")->valueint, 1);
    assert_int_equal(cJSON_GetObjectItem(one, "n_split_tensors")->valueint, 1);
    assert_int_equal(cJSON_GetObjectItem(one, "bytes_read")->valueint, 1000000);
    assert_int_equal(cJSON_GetObjectItem(one, "bytes_written")->valueint, 500000);
    range = cJSON_GetArrayItem(cJSON_GetObjectItem(one, "ranges"), 1);
    assert_int_equal(cJSON_GetObjectItem(range, "tensor")->valueint, 1);
    assert_int_equal(cJSON_GetObjectItem(range, "n_elems")->valueint, 6);
    cJSON_Delete(root);
    text_release(&out);

    hand_partition(&ranks, shares, 100, split); /* many: the first eight and the last two */
    parts = ranks;
    report_ranks_text(&h.plan, partitions, &out);
    contains(text_string(&out), "\n                  7 ");
    contains(text_string(&out), "\n                ... 90 more: see --json\n                 98 ");
    contains(text_string(&out), "\n                 99 ");
    contains_not(text_string(&out), "\n                  8 ");
    contains_not(text_string(&out), "\n                 97 ");
    text_release(&out);
}

static void numbers_read_back(void **state)
{
    static const double values[] = {0.0,   -0.0,  0.1,    1.0 / 3.0,           1e-05,
                                    3e-07, 1e300, 5e-324, 0.30000000000000004, 123456789012345680.0};

    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        struct text t;
        text_init(&t, 100);
        parameter_add_number(&t, values[i]);
        if (!(strtod(text_string(&t), NULL) == values[i]) || t.n_bytes > 24)
            fail_msg("%.17g became %s", values[i], text_string(&t));
        text_release(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(card),
        cmocka_unit_test(card_without_hub_models),
        cmocka_unit_test(shard_index),
        cmocka_unit_test(manifest),
        cmocka_unit_test(manifest_is_the_same_anywhere),
        cmocka_unit_test(plan_texts),
        cmocka_unit_test(plan_texts_with_a_gpu),
        cmocka_unit_test(many_shards_and_notes_fit_a_screen),
        cmocka_unit_test(ranks_texts),
        cmocka_unit_test(numbers_read_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
