/*
 * manifest.c: warpmerge-manifest.json, which says what went into a merge and what came out.
 *
 * What lives here: the manifest's text with a fixed order of keys and one spelling of numbers. `verify` reads it back.
 * What it must not know: anything that differs between machines or runs: time, host, paths, threads.
 */
#include "report/parameters.h"
#include "report/report.h"

#include "base/dtype.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void add_string_or_null(struct text *t, const char *s)
{
    if (s)
        text_add_json(t, s);
    else
        text_add(t, "null");
}

static void add_shape(struct text *t, const struct plan_job *job)
{
    text_add(t, "[");
    for (int d = 0; d < job->n_dims; d++)
        text_addf(t, "%s%" PRIu64, d ? ", " : "", job->shape[d]);
    text_add(t, "]");
}

static enum wm_status add_recipe(struct text *t, const struct recipe *recipe, struct wm_error *err)
{
    char sha256[HASH_SHA256_HEX_BYTES];
    enum wm_status st = hash_sha256(sha256, recipe->text, recipe->n_text_bytes, err);

    if (st == WM_OK) {
        text_addf(t, "  \"recipe\": {\n    \"sha256\": \"%s\",\n    \"text\": ", sha256);
        text_add_json(t, recipe->text);
        text_add(t, "\n  },\n");
    }
    return st;
}

static void add_models(struct text *t, const struct plan *plan)
{
    text_add(t, "  \"models\": [");
    for (int m = 0; m < plan->n_models; m++) {
        const struct ckpt *ckpt = plan->models[m];
        text_add(t, m ? ",\n    {\n" : "\n    {\n");
        text_add(t, "      \"reference\": ");
        text_add_json(t, plan_model_name(plan, m));
        text_add(t, ",\n      \"commit\": ");
        add_string_or_null(t, ckpt->commit);
        text_addf(
            t, ",\n      \"base\": %s,\n      \"donor\": %s,\n      \"n_tensors\": %zu,\n      \"n_bytes\": %" PRIu64,
            m == plan->base ? "true" : "false", m == plan->donor ? "true" : "false", ckpt->n_tensors, ckpt->n_bytes);
        text_add(t, ",\n      \"files\": [");
        for (int f = 0; f < ckpt->n_files; f++) {
            text_add(t, f ? ",\n        {\"name\": " : "\n        {\"name\": ");
            text_add_json(t, ckpt->files[f].name);
            text_addf(t, ", \"n_bytes\": %" PRIu64 ", \"sha256\": ", ckpt->files[f].identity.n_bytes);
            add_string_or_null(t, ckpt->files[f].sha256);
            text_add(t, "}");
        }
        text_add(t, "\n      ]\n    }");
    }
    text_add(t, "\n  ],\n");
}

/* {"weight": 0.5, ...}: the global values with row NULL's twin `job->params`, or one model's. */
static void add_values(struct text *t, const struct method *method, const double *values, bool per_model)
{
    bool any = false;

    text_add(t, "{");
    for (int p = 0; p < method->n_params; p++) {
        const struct method_param *param = &method->params[p];
        if (param->no_effect || param->per_model != per_model)
            continue;
        text_add(t, any ? ", " : "");
        text_add_json(t, param->name);
        text_add(t, ": ");
        parameter_add_value(t, param, values[p], true);
        any = true;
    }
    text_add(t, "}");
}

static void add_parameter_sets(struct text *t, const struct plan *plan, const struct parameter_sets *sets)
{
    const struct method *method = plan->recipe->method;

    text_add(t, "  \"parameter_sets\": [");
    for (size_t i = 0; i < sets->n_sets; i++) {
        const struct plan_job *job = &plan->jobs[sets->first_job[i]];
        text_add(t, i ? ",\n    {\"global\": " : "\n    {\"global\": ");
        add_values(t, method, job->params, false);
        text_addf(t, ", \"base\": %s, \"models\": [", job->has_base ? "true" : "false");
        for (int s = job->has_base; s < job->n_sources; s++) {
            text_addf(t, "%s{\"model\": %d, \"values\": ", s > job->has_base ? ", " : "", job->sources[s].model);
            add_values(t, method, job->model_params[s - job->has_base], true);
            text_add(t, "}");
        }
        text_add(t, "]}");
    }
    text_add(t, sets->n_sets ? "\n  ],\n" : "],\n");
}

static void add_notes(struct text *t, const struct plan *plan)
{
    bool any = false;

    text_add(t, "  \"notes\": [");
    for (size_t j = 0; j < plan->n_jobs; j++) {
        if (!plan->jobs[j].note)
            continue;
        text_add(t, any ? ",\n    {\"tensor\": " : "\n    {\"tensor\": ");
        text_add_json(t, plan->jobs[j].name);
        text_add(t, ", \"note\": ");
        text_add_json(t, plan->jobs[j].note);
        text_add(t, "}");
        any = true;
    }
    text_add(t, any ? "\n  ],\n" : "],\n");
}

static void add_shards(struct text *t, const struct plan *plan, const char (*sha256)[HASH_SHA256_HEX_BYTES])
{
    text_add(t, "    \"shards\": [");
    for (int s = 0; s < plan->n_shards; s++) {
        text_add(t, s ? ",\n      {\"name\": " : "\n      {\"name\": ");
        text_add_json(t, plan->shards[s].name);
        text_addf(t, ", \"n_bytes\": %" PRIu64 ", \"sha256\": ", plan->shards[s].n_bytes);
        add_string_or_null(t, sha256 ? sha256[s] : NULL);
        text_add(t, "}");
    }
    text_add(t, plan->n_shards ? "\n    ],\n" : "],\n");
}

static void add_files(struct text *t, const struct report_kit *kit)
{
    text_add(t, "    \"files\": [");
    for (int f = 0; f < kit->n_files; f++) {
        text_add(t, f ? ",\n      {\"name\": " : "\n      {\"name\": ");
        text_add_json(t, kit->files[f].name);
        text_addf(t, ", \"n_bytes\": %" PRIu64 ", \"sha256\": \"%s\"}", kit->files[f].n_bytes, kit->files[f].sha256);
    }
    text_add(t, kit->n_files ? "\n    ],\n" : "],\n");
}

static void add_tensors(struct text *t, const struct plan *plan, const struct parameter_sets *sets,
                        const struct hash128 *hashes)
{
    char hex[HASH128_HEX_BYTES];

    text_add(t, "    \"tensors\": [");
    for (size_t j = 0; j < plan->n_jobs; j++) {
        const struct plan_job *job = &plan->jobs[j];
        text_add(t, j ? ",\n      {\"name\": " : "\n      {\"name\": ");
        text_add_json(t, job->name);
        text_addf(t, ", \"dtype\": \"%s\", \"shape\": ", dtype_name(job->dtype));
        add_shape(t, job);
        text_addf(t, ", \"shard\": %d, \"parameters\": ", job->shard);
        if (sets->set_of_job[j] == SIZE_MAX)
            text_add(t, "null");
        else
            text_addf(t, "%zu", sets->set_of_job[j]);
        text_addf(t, ", \"xxh3_tree\": \"%s\"}", hashes ? hash128_hex(hex, hashes[j]) : "");
    }
    text_add(t, plan->n_jobs ? "\n    ]\n" : "]\n");
}

/* What is decided before the first tensor byte is read. */
static enum wm_status add_plan(struct text *t, const struct plan *plan, const struct parameter_sets *sets,
                               struct wm_error *err)
{
    enum wm_status st = add_recipe(t, plan->recipe, err);

    if (st != WM_OK)
        return st;
    text_add(t, "  \"method\": ");
    text_add_json(t, plan->recipe->method->name);
    text_addf(t, ",\n  \"seed\": %" PRIu64 ",\n", plan->seed);
    add_models(t, plan);
    add_parameter_sets(t, plan, sets);
    add_notes(t, plan);
    return WM_OK;
}

enum wm_status report_plan_hash(const struct plan *plan, struct hash128 *hash, struct wm_error *err)
{
    enum wm_status st;
    struct parameter_sets sets = {0, NULL, NULL};
    struct text t;

    text_init(&t, TEXT_MAX_BYTES);
    TRY(parameter_sets_init(&sets, plan, err));
    text_add(&t, WM_VERSION "\n");
    TRY(add_plan(&t, plan, &sets, err));
    add_shards(&t, plan, NULL);
    add_tensors(&t, plan, &sets, NULL);
    if (t.failed)
        st = error_no_memory(err, "hashing the plan");
    else
        *hash = hash_xxh3(t.data, t.n_bytes);
out:
    parameter_sets_release(&sets);
    text_release(&t);
    return st;
}

enum wm_status report_manifest(const struct plan *plan, const struct report_kit *kit, const struct hash128 *job_hashes,
                               const char (*shard_sha256)[HASH_SHA256_HEX_BYTES], struct text *out,
                               struct wm_error *err)
{
    enum wm_status st;
    struct parameter_sets sets = {0, NULL, NULL};
    char hex[HASH128_HEX_BYTES];
    struct hash128 hash = {0, 0};

    TRY(report_plan_hash(plan, &hash, err));
    TRY(parameter_sets_init(&sets, plan, err));
    text_addf(out,
              "{\n  \"schema\": \"warpmerge-manifest\",\n  \"schema_version\": %d,\n"
              "  \"tool\": {\"name\": \"warpmerge\", \"version\": \"" WM_VERSION "\"},\n"
              "  \"plan_xxh3\": \"%s\",\n",
              REPORT_MANIFEST_VERSION, hash128_hex(hex, hash));
    TRY(add_plan(out, plan, &sets, err));
    text_addf(out, "  \"output\": {\n    \"n_params\": %" PRIu64 ",\n    \"n_bytes\": %" PRIu64 ",\n", plan->n_params,
              plan->bytes_out);
    text_add(out, "    \"tensor_hash\": \"XXH3-128 over the concatenated XXH3-128 digests (canonical, big-endian) of "
                  "consecutive pieces of 16384 elements\",\n");
    add_shards(out, plan, shard_sha256);
    add_files(out, kit);
    add_tensors(out, plan, &sets, job_hashes);
    text_add(out, "  }\n}\n");
    if (out->failed)
        st = error_no_memory(err, "writing the manifest");
out:
    parameter_sets_release(&sets);
    return st;
}
