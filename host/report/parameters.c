/* parameters.c: see parameters.h. */
#include "report/parameters.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- ranges ------------------------------------------------------------------------------------------------- */

static void widen(struct parameter_range *r, double value)
{
    if (!r->present)
        *r = (struct parameter_range){true, value, value};
    if (value < r->low)
        r->low = value;
    if (value > r->high)
        r->high = value;
}

struct parameter_range parameter_range(const struct plan *plan, int model, int param)
{
    struct parameter_range range = {false, 0.0, 0.0};
    bool per_model = plan->recipe->method->params[param].per_model;

    for (size_t j = 0; j < plan->n_jobs; j++) {
        const struct plan_job *job = &plan->jobs[j];
        if (job->action != PLAN_MERGE)
            continue;
        if (!per_model) {
            widen(&range, job->params[param]);
            continue;
        }
        for (int s = job->has_base; s < job->n_sources; s++)
            if (job->sources[s].model == model)
                widen(&range, job->model_params[s - job->has_base][param]);
    }
    return range;
}

/* ---- spelling ----------------------------------------------------------------------------------------------- */

void parameter_add_number(struct text *t, double value)
{
    char buffer[32];
    char *comma;

    if (!isfinite(value)) { /* JSON has no such numbers, and no parameter accepts them */
        text_add(t, "null");
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(buffer, sizeof buffer, "%.*g", digits, value);
        if (strtod(buffer, NULL) == value)
            break;
    }
    comma = strchr(buffer, ','); /* a program around us may have set LC_NUMERIC */
    if (comma)
        *comma = '.';
    text_add(t, buffer);
}

void parameter_add_value(struct text *t, const struct method_param *param, double value, bool as_json)
{
    switch (param->type) {
    case METHOD_FLAG: text_add(t, value != 0.0 ? "true" : "false"); break;
    case METHOD_CHOICE:
        if (as_json)
            text_add_json(t, param->choices[(int)value]);
        else
            text_add(t, param->choices[(int)value]);
        break;
    case METHOD_NUMBER: parameter_add_number(t, value); break;
    }
}

void parameter_add_range(struct text *t, const struct method_param *param, struct parameter_range range)
{
    parameter_add_value(t, param, range.low, false);
    if (range.low < range.high) {
        text_add(t, "..");
        parameter_add_value(t, param, range.high, false);
    }
}

bool parameter_add_list(struct text *t, const struct plan *plan, int model, const char *separator)
{
    const struct method *method = plan->recipe->method;
    bool any = false;

    for (int p = 0; p < method->n_params; p++) {
        const struct method_param *param = &method->params[p];
        struct parameter_range range;
        if (param->no_effect || param->per_model != (model >= 0))
            continue;
        range = parameter_range(plan, model, p);
        if (!range.present)
            continue;
        text_addf(t, "%s%s ", any ? separator : "", param->name);
        parameter_add_range(t, param, range);
        any = true;
    }
    return any;
}

const char *parameter_count_text(char *buffer, size_t size, uint64_t n)
{
    double v = (double)n;

    if (n >= 1000000000u)
        snprintf(buffer, size, "%.2f B", v / 1e9);
    else if (n >= 1000000u)
        snprintf(buffer, size, "%.1f M", v / 1e6);
    else
        snprintf(buffer, size, "%" PRIu64, n);
    return buffer;
}

/* ---- sets --------------------------------------------------------------------------------------------------- */

static bool same_set(const struct plan *plan, const struct plan_job *a, const struct plan_job *b)
{
    const struct method *method = plan->recipe->method;
    size_t row_bytes = (size_t)method->n_params * sizeof(double);

    if (a->n_sources != b->n_sources || a->has_base != b->has_base)
        return false;
    if (row_bytes && memcmp(a->params, b->params, row_bytes) != 0)
        return false;
    for (int s = 0; s < a->n_sources; s++) {
        if (a->sources[s].model != b->sources[s].model)
            return false;
        if (s >= a->has_base && row_bytes &&
            memcmp(a->model_params[s - a->has_base], b->model_params[s - b->has_base], row_bytes) != 0)
            return false;
    }
    return true;
}

static uint64_t set_hash(const struct plan *plan, const struct plan_job *job)
{
    size_t row_bytes = (size_t)plan->recipe->method->n_params * sizeof(double);
    uint64_t h = (uint64_t)job->n_sources * 2 + job->has_base;

    if (row_bytes)
        h = hash_xxh3_64(job->params, row_bytes, h);
    for (int s = 0; s < job->n_sources; s++) {
        h = hash_xxh3_64(&job->sources[s].model, sizeof job->sources[s].model, h);
        if (s >= job->has_base && row_bytes)
            h = hash_xxh3_64(job->model_params[s - job->has_base], row_bytes, h);
    }
    return h;
}

enum wm_status parameter_sets_init(struct parameter_sets *sets, const struct plan *plan, struct wm_error *err)
{
    size_t n_slots = 16, *slots = NULL; /* open addressing; a slot holds set number + 1 */

    *sets = (struct parameter_sets){0, NULL, NULL};
    while (n_slots < 2 * plan->n_jobs)
        n_slots *= 2;
    slots = calloc(n_slots, sizeof *slots);
    sets->first_job = calloc(plan->n_jobs + 1, sizeof *sets->first_job);
    sets->set_of_job = calloc(plan->n_jobs + 1, sizeof *sets->set_of_job);
    if (!slots || !sets->first_job || !sets->set_of_job) {
        free(slots);
        parameter_sets_release(sets);
        return error_no_memory(err, "describing the parameters");
    }
    for (size_t j = 0; j < plan->n_jobs; j++) {
        const struct plan_job *job = &plan->jobs[j];
        size_t at;
        if (job->action != PLAN_MERGE) {
            sets->set_of_job[j] = SIZE_MAX;
            continue;
        }
        at = (size_t)set_hash(plan, job) & (n_slots - 1);
        while (slots[at] && !same_set(plan, job, &plan->jobs[sets->first_job[slots[at] - 1]]))
            at = (at + 1) & (n_slots - 1);
        if (!slots[at]) {
            sets->first_job[sets->n_sets] = j;
            slots[at] = ++sets->n_sets;
        }
        sets->set_of_job[j] = slots[at] - 1;
    }
    free(slots);
    return WM_OK;
}

void parameter_sets_release(struct parameter_sets *sets)
{
    free(sets->first_job);
    free(sets->set_of_job);
    *sets = (struct parameter_sets){0, NULL, NULL};
}
