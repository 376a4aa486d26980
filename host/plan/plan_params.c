/*
 * plan_params.c: from the recipe's settings to one tensor's numbers, and from those to its operation.
 *
 * What lives here: resolving every parameter of the method for every job (filters, gradients, precedence come from the
 * recipe room), checking values where only the tensor decides them, and building the merge_op. All problems of all
 * tensors are found before anything runs; one that repeats over many tensors is told once. What it must not know:
 * offsets, memory.
 */
#include "plan/plan_internal.h"

#include "base/text.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define MAX_TOLD 64

/* Problems told so far, as hashes of their text without the tensor's name. */
struct told {
    uint64_t seen[MAX_TOLD];
    int n_seen;
};

static bool first_time(struct told *told, const char *text)
{
    uint64_t h = hash_xxh3_64(text, strlen(text), 0);

    for (int i = 0; i < told->n_seen; i++)
        if (told->seen[i] == h)
            return false;
    if (told->n_seen == MAX_TOLD)
        return false;
    told->seen[told->n_seen++] = h;
    return true;
}

static void complain(struct plan_build *b, struct told *told, const struct plan_job *job, struct recipe_mark at,
                     const char *text)
{
    char name[200];

    if (!first_time(told, text))
        return;
    text_display(name, sizeof name, job->name);
    if (at.line)
        problems_add(b->problems, WM_ERROR, WM_BAD_CONFIG, "%s:%d:%d: %s (tensor %s)", b->recipe->path, at.line,
                     at.column, text, name);
    else
        problems_add(b->problems, WM_ERROR, WM_BAD_CONFIG, "%s: %s (tensor %s)", b->recipe->path, text, name);
}

/* The word or number that the recipe gives, as the double that the method takes. false: not a legal value. */
static bool to_number(const struct method_param *param, const struct recipe_value *value, double *number)
{
    if (param->type == METHOD_CHOICE) {
        const char *word = value->word ? value->word : value->number != 0.0 ? "true" : "false";
        for (int c = 0; param->choices[c]; c++) {
            if (strcasecmp(param->choices[c], word) == 0) {
                *number = c;
                return true;
            }
        }
        return false;
    }
    if (value->word)
        return false;
    *number = param->type == METHOD_FLAG ? value->number != 0.0 : value->number;
    return param->type == METHOD_FLAG || (value->number >= param->min && value->number <= param->max);
}

static void resolve_one(struct plan_build *b, struct told *told, const struct plan_job *job, int p, int model,
                        double *number)
{
    const struct method_param *param = &b->recipe->method->params[p];
    struct recipe_value value = {NULL, 0.0, {0, 0}};
    char text[400];

    if (recipe_lookup(b->recipe, model, param->name, job->name, job->depth, &value)) {
        if (to_number(param, &value, number))
            return;
        if (value.word)
            snprintf(text, sizeof text, "\"%.60s\" is not a value of `%s`; see `warpmerge methods %s`", value.word,
                     param->name, b->recipe->method->name);
        else
            snprintf(text, sizeof text, "%g is outside the range of `%s` (%g to %g)", value.number, param->name,
                     param->min, param->max);
        complain(b, told, job, value.at, text);
        return;
    }
    *number = param->default_value;
    if (param->required) {
        if (model >= 0)
            snprintf(text, sizeof text,
                     "model %s has no `%s`, which %s needs; add it under the model's parameters, or "
                     "once under the global parameters",
                     plan_model_name(b->plan, model), param->name, b->recipe->method->name);
        else
            snprintf(text, sizeof text,
                     "`%s`, which %s needs, is not set; add it under parameters (a condition without "
                     "a filter covers every tensor)",
                     param->name, b->recipe->method->name);
        complain(b, told, job, value.at, text);
    }
}

static enum wm_status resolve_job(struct plan_build *b, struct told *told, struct plan_job *job, struct wm_error *err)
{
    const struct method *method = b->recipe->method;
    struct plan *plan = b->plan;
    int base = job->has_base ? 1 : 0, n_models = job->n_sources - base;
    double *params = arena_array(&plan->arena, METHOD_MAX_PARAMS, sizeof *params);
    double(*model_params)[METHOD_MAX_PARAMS] = arena_array(&plan->arena, (size_t)n_models, sizeof *model_params);

    if (!params || !model_params)
        return error_no_memory(err, "planning");
    for (int p = 0; p < method->n_params; p++) {
        params[p] = method->params[p].default_value;
        if (!method->params[p].per_model) {
            resolve_one(b, told, job, p, -1, &params[p]);
            continue;
        }
        for (int m = 0; m < n_models; m++)
            resolve_one(b, told, job, p, job->sources[base + m].model, &model_params[m][p]);
    }
    job->params = params;
    job->model_params = (const double(*)[METHOD_MAX_PARAMS])model_params;
    return WM_OK;
}

static void plain_op(const struct plan_job *job, struct merge_op *op)
{
    memset(op, 0, sizeof *op);
    op->family = MERGE_LINEAR;
    op->n_models = 1;
    op->divisor = 1.0f;
    op->lambda = 1.0f;
    op->n_elems = job->n_elems;
    op->n_rows = 1;
    op->row_elems = job->n_elems;
    op->models[0].weight = 1.0f;
    op->models[0].scale = 1.0f;
    op->models[0].keep = KEEP_ALL;
}

enum wm_status plan_job_op(const struct plan *plan, const struct plan_job *job, struct merge_op *op,
                           struct wm_error *err)
{
    const struct method *method = plan->recipe->method;
    int model_index[METHOD_MAX_MODELS], base = job->has_base ? 1 : 0;
    char message[256] = "";
    struct method_args args = {.n_models = job->n_sources - base,
                               .has_base = job->has_base,
                               .params = job->params,
                               .model_params = job->model_params,
                               .model_index = model_index,
                               .seed = plan->seed,
                               .tensor_name = job->name,
                               .n_elems = job->n_elems,
                               .n_rows = 1,
                               .row_elems = job->n_elems};
    enum wm_status st;

    if (job->plain) {
        plain_op(job, op);
        return WM_OK;
    }
    if (args.n_models > METHOD_MAX_MODELS)
        return error_set(err, WM_BAD_CONFIG,
                         "%d models are more than the %d that one merge can have; merge in two steps", args.n_models,
                         METHOD_MAX_MODELS);
    for (int m = 0; m < args.n_models; m++)
        model_index[m] = job->sources[base + m].model;
    if (job->n_dims > 1 && job->n_elems) {
        args.row_elems = job->shape[job->n_dims - 1];
        args.n_rows = job->n_elems / args.row_elems;
        args.n_first = job->shape[0];
    }
    st = method->prepare(method, &args, op, message);
    if (st != WM_OK)
        return error_set(err, st, "%s", message);
    if (plan->thresholds)
        model_thresholds_apply(plan->thresholds, op);
    return WM_OK;
}

enum wm_status plan_build_params(struct plan_build *b, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    struct plan *plan = b->plan;
    struct told told = {.n_seen = 0};
    struct model_statistics statistics;
    struct merge_op op;
    char message[256];
    bool one_density = true;

    model_statistics_init(&statistics);
    for (size_t j = 0; j < plan->n_jobs; j++) {
        struct plan_job *job = &plan->jobs[j];
        struct wm_error problem = WM_ERROR_INIT;
        unsigned n_before = b->problems->n_errors;

        if (job->action != PLAN_MERGE || job->plain)
            continue;
        TRY(resolve_job(b, &told, job, err));
        if (b->problems->n_errors != n_before)
            continue;
        if (plan_job_op(plan, job, &op, &problem) != WM_OK) {
            complain(b, &told, job, b->recipe->method_at, problem.message);
        } else if (one_density && model_statistics_add(&statistics, &op, message) != WM_OK) {
            complain(b, &told, job, b->recipe->method_at, message);
            one_density = false; /* a gradient would say it once a layer */
        }
    }
    plan->n_survey_passes = model_statistics_n_passes(&statistics);
    plan->survey_counts_bytes = plan->n_survey_passes ? model_statistics_bytes(&statistics) : 0;
out:
    return st;
}
