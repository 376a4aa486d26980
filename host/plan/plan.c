/*
 * plan.c: building a plan, step by step, and the fingerprint of the result.
 *
 * What lives here: the order of the steps and what a plan's identity is. The steps are in plan_tensors.c,
 * plan_params.c, plan_layout.c and plan_memory.c. What it must not know: how any of them works.
 */
#include "plan/plan.h"

#include "base/text.h"
#include "plan/plan_internal.h"

#include <stdlib.h>
#include <string.h>

#define PLAN_ARENA_MAX ((size_t)4 << 30)
/* Raised whenever the same recipe and inputs would give other bytes than before, so that an unfinished merge is never
 * continued by a version that computes differently. */
#define PLAN_SEMANTICS_VERSION 1

static void add_u64(struct text *t, uint64_t v)
{
    text_add_bytes(t, (const char *)&v, sizeof v);
}

static void add_f64(struct text *t, double v)
{
    text_add_bytes(t, (const char *)&v, sizeof v);
}

static void add_name(struct text *t, const char *s)
{
    add_u64(t, strlen(s));
    text_add(t, s);
}

static void add_inputs(struct text *t, const struct plan *plan)
{
    for (int m = 0; m < plan->n_models; m++) {
        for (int f = 0; f < plan->models[m]->n_files; f++) {
            const struct ckpt_file *file = &plan->models[m]->files[f];
            add_name(t, file->name);
            add_u64(t, file->identity.n_bytes);
            add_u64(t, file->identity.inode);
            add_u64(t, (uint64_t)file->identity.mtime_ns);
        }
    }
}

/* Everything that decides an output byte, and the identity of every input file: equal fingerprints mean that work
 * finished under one plan may be kept under the other. Tile size, threads, budget and paths do not enter. */
static enum wm_status fingerprint(struct plan *plan, struct wm_error *err)
{
    const struct method *method = plan->recipe->method;
    struct text t;

    text_init(&t, TEXT_MAX_BYTES);
    add_u64(&t, PLAN_SEMANTICS_VERSION);
    add_name(&t, method->name);
    add_u64(&t, plan->seed);
    add_inputs(&t, plan);
    for (int s = 0; s < plan->n_shards; s++) {
        add_name(&t, plan->shards[s].name);
        add_u64(&t, plan->shards[s].n_bytes);
        text_add_bytes(&t, plan->shards[s].header, plan->shards[s].n_header_bytes);
    }
    for (size_t j = 0; j < plan->n_jobs; j++) {
        const struct plan_job *job = &plan->jobs[j];
        int n_models = job->n_sources - (job->has_base ? 1 : 0);

        add_name(&t, job->name);
        add_u64(&t, (uint64_t)job->action << 8 | (uint64_t)job->has_base << 1 | (uint64_t)job->plain);
        add_u64(&t, job->begin);
        for (int s = 0; s < job->n_sources; s++) {
            add_u64(&t, (uint64_t)job->sources[s].model << 8 | (uint64_t)job->sources[s].tensor->dtype);
            add_u64(&t, (uint64_t)job->sources[s].tensor->file);
            add_u64(&t, job->sources[s].tensor->begin);
        }
        if (job->action != PLAN_MERGE || job->plain)
            continue;
        for (int p = 0; p < method->n_params; p++) {
            add_f64(&t, job->params[p]);
            for (int m = 0; m < n_models; m++)
                add_f64(&t, job->model_params[m][p]);
        }
    }
    if (t.failed) {
        text_release(&t);
        return error_no_memory(err, "fingerprinting the plan");
    }
    plan->fingerprint = hash_xxh3(t.data, t.n_bytes);
    text_release(&t);
    return WM_OK;
}

static enum wm_status take_traits(struct plan *plan, const struct wm_options *options, struct wm_error *err)
{
    const uint64_t version = PLAN_SEMANTICS_VERSION;
    const uint64_t chosen[] = {options->seed, options->shard_bytes ? options->shard_bytes : PLAN_DEFAULT_SHARD_BYTES};
    enum wm_status st = WM_OK;
    struct text inputs;

    text_init(&inputs, TEXT_MAX_BYTES);
    add_inputs(&inputs, plan);
    plan->traits[PLAN_VERSION] = hash_xxh3_64(&version, sizeof version, 0);
    plan->traits[PLAN_CONFIG] = hash_xxh3_64(plan->recipe->text, plan->recipe->n_text_bytes, 0);
    plan->traits[PLAN_INPUTS] = hash_xxh3_64(text_string(&inputs), inputs.n_bytes, 0);
    plan->traits[PLAN_OPTIONS] = hash_xxh3_64(chosen, sizeof chosen, 0);
    if (inputs.failed)
        st = error_no_memory(err, "fingerprinting the plan");
    text_release(&inputs);
    return st;
}

static void sum_up(struct plan *plan)
{
    uint64_t by_dtype[WM_N_DTYPES] = {0};

    for (size_t j = 0; j < plan->n_jobs; j++) {
        const struct plan_job *job = &plan->jobs[j];
        plan->bytes_out += job->n_bytes;
        plan->n_params += job->n_elems;
        by_dtype[job->dtype] += job->n_bytes;
        for (int s = 0; s < job->n_sources; s++)
            plan->bytes_in += plan_source_bytes(job, s);
    }
    plan->config_dtype = WM_F32;
    for (int d = 0; d < WM_N_DTYPES; d++)
        if (dtype_is_float((enum wm_dtype)d) && by_dtype[d] > by_dtype[plan->config_dtype])
            plan->config_dtype = (enum wm_dtype)d;
}

enum wm_status plan_new(struct plan **out, const struct recipe *recipe, struct ckpt *const *models, int n_models,
                        const struct wm_options *options, struct problems *problems, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    struct plan *plan = calloc(1, sizeof *plan);
    struct plan_build build = {plan, recipe, options, problems};

    *out = NULL;
    if (!plan)
        return error_no_memory(err, "planning");
    arena_init(&plan->arena, PLAN_ARENA_MAX);
    plan->recipe = recipe;
    plan->seed = options->seed;
    plan->vocab_size = -1;
    plan->tie_word_embeddings = -1;
    plan->n_models = n_models;
    plan->base = !recipe->has_base ? -1 : recipe->base_index >= 0 ? recipe->base_index : n_models - 1;
    plan->donor = plan->base >= 0 ? plan->base : 0;
    plan->models = arena_array(&plan->arena, (size_t)n_models, sizeof(struct ckpt *));
    if (!plan->models) {
        st = error_no_memory(err, "planning");
        goto out;
    }
    memcpy(plan->models, models, (size_t)n_models * sizeof *models);

    TRY(plan_build_tensors(&build, err));
    TRY(plan_build_params(&build, err));
    if (problems->n_errors) { /* the caller ends the problems; everything findable without a layout was reported */
        st = error_set(err, problems->first.status, "%s", problems->first.message);
        goto out;
    }
    TRY(plan_build_layout(&build, err));
    sum_up(plan);
    TRY(plan_build_memory(&build, err));
    TRY(fingerprint(plan, err));
    TRY(take_traits(plan, options, err));
    *out = plan;
    plan = NULL;
out:
    plan_free(plan);
    return st;
}

void plan_free(struct plan *plan)
{
    if (!plan)
        return;
    for (int s = 0; s < plan->n_shards; s++)
        free((void *)plan->shards[s].header);
    arena_release(&plan->arena);
    free(plan);
}

uint64_t plan_source_bytes(const struct plan_job *job, int source)
{
    return job->n_elems * dtype_bits(job->sources[source].tensor->dtype) / 8;
}

const char *plan_model_name(const struct plan *plan, int model)
{
    if ((size_t)model < plan->recipe->n_models)
        return plan->recipe->models[model].ref.text;
    return plan->recipe->base_model.text;
}
