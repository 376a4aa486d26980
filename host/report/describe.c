/*
 * describe.c: a plan, for people and for programs.
 *
 * What lives here: the page that `plan` prints: models, parameters, layout, reading, memory, special tensors. It fits
 * a screen whatever the model's size: long lists are cut with a count. What it must not know: progress, results.
 */
#include "report/parameters.h"
#include "report/report.h"

#include "base/dtype.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define NAME_BYTES  96 /* of a displayed name, cut with an ellipsis */
#define MAX_SHOWN   6  /* shards and groups of special tensors */
#define LABEL_WIDTH 12

static const char *plural(uint64_t n)
{
    return n == 1 ? "" : "s";
}

/* The type most bytes of a checkpoint have. */
static enum wm_dtype main_dtype(const struct ckpt *ckpt)
{
    uint64_t bytes[WM_N_DTYPES] = {0};
    int best = WM_F32;

    for (size_t t = 0; t < ckpt->n_tensors; t++)
        bytes[ckpt->tensors[t].dtype] += ckpt->tensors[t].n_bytes;
    for (int d = 0; d < WM_N_DTYPES; d++)
        if (bytes[d] > bytes[best])
            best = d;
    return (enum wm_dtype)best;
}

/* ---- text --------------------------------------------------------------------------------------------------- */

static void add_label(struct text *t, const char *label)
{
    text_addf(t, "  %-*s", LABEL_WIDTH, label);
}

static void add_model(struct text *t, const struct plan *plan, int m, const char *label, int width)
{
    const struct ckpt *ckpt = plan->models[m];
    char name[NAME_BYTES], size[24];
    struct text list;

    add_label(t, label);
    text_addf(t, "%-*s  %-4s %9s", width, text_display(name, sizeof name, plan_model_name(plan, m)),
              dtype_name(main_dtype(ckpt)), text_decimal_bytes(size, sizeof size, ckpt->n_bytes));
    text_init(&list, TEXT_MAX_BYTES);
    if (parameter_add_list(&list, plan, m, "  "))
        text_addf(t, "   %s", text_string(&list));
    text_release(&list);
    text_add(t, "\n");
}

/* The base first, as in every formula; the others keep the recipe's order. */
static void add_models(struct text *t, const struct plan *plan)
{
    char name[NAME_BYTES], label[24];
    int width = 0, number = 0;

    for (int m = 0; m < plan->n_models; m++) {
        int n = (int)strlen(text_display(name, sizeof name, plan_model_name(plan, m)));
        width = n > width ? n : width;
    }
    if (plan->base >= 0)
        add_model(t, plan, plan->base, "base", width);
    for (int m = 0; m < plan->n_models; m++) {
        if (m == plan->base)
            continue;
        snprintf(label, sizeof label, "model %d", ++number);
        add_model(t, plan, m, label, width);
    }
}

static void add_parameters(struct text *t, const struct plan *plan)
{
    struct text list;

    text_init(&list, TEXT_MAX_BYTES);
    if (parameter_add_list(&list, plan, -1, "  ")) {
        add_label(t, "parameters");
        text_addf(t, "%s\n", text_string(&list));
    }
    text_release(&list);
}

static void add_output(struct text *t, const struct plan *plan, const char *out_path)
{
    char params[24], size[24], name[NAME_BYTES];

    add_label(t, "output");
    if (out_path)
        text_addf(t, "%s: ", text_display(name, sizeof name, out_path));
    text_addf(t, "%s parameters in %zu tensor%s, %s, %s in %d shard%s\n",
              parameter_count_text(params, sizeof params, plan->n_params), plan->n_jobs, plural(plan->n_jobs),
              dtype_name(plan->config_dtype), text_decimal_bytes(size, sizeof size, plan->bytes_out), plan->n_shards,
              plural((uint64_t)plan->n_shards));
    if (plan->n_shards < 2)
        return;
    for (int s = 0; s < plan->n_shards; s++) {
        const struct plan_shard *shard = &plan->shards[s];
        if (plan->n_shards > MAX_SHOWN && s >= MAX_SHOWN / 2 && s < plan->n_shards - 1) {
            add_label(t, "");
            text_addf(t, "... %d more\n", plan->n_shards - 1 - s);
            s = plan->n_shards - 2;
            continue;
        }
        add_label(t, "");
        text_addf(t, "%s %9s  %zu tensor%s\n", shard->name, text_decimal_bytes(size, sizeof size, shard->n_bytes),
                  shard->n_jobs, plural(shard->n_jobs));
    }
}

static void add_reading(struct text *t, const struct plan *plan)
{
    uint64_t in_merge = plan->bytes_to_read - plan->survey_bytes;
    uint64_t again = in_merge > plan->bytes_in ? in_merge - plan->bytes_in : 0;
    char once[24], twice[24], survey[24];

    add_label(t, "reading");
    text_addf(t, "%s", text_decimal_bytes(once, sizeof once, plan->bytes_in));
    if (again)
        text_addf(t, ", and %s again: tensors larger than the input ring (more --memory avoids it)",
                  text_decimal_bytes(twice, sizeof twice, again));
    else
        text_add(t, ", every byte once");
    text_add(t, "\n");
    if (!plan->n_survey_passes)
        return;
    add_label(t, "");
    text_addf(t, "before that %s in %d pass%s over all models: thresholds for the whole of each\n",
              text_decimal_bytes(survey, sizeof survey, plan->survey_bytes), plan->n_survey_passes,
              plan->n_survey_passes == 1 ? "" : "es");
}

static void add_memory_row(struct text *t, const char *what, uint64_t n_bytes, const char *detail)
{
    char size[24];

    if (!n_bytes)
        return;
    add_label(t, "");
    text_addf(t, "%-13s %9s", what, text_bytes(size, sizeof size, n_bytes));
    if (*detail)
        text_addf(t, "   %s", detail);
    text_add(t, "\n");
}

static void add_memory(struct text *t, const struct plan *plan)
{
    const struct plan_memory *m = &plan->memory;
    char total[24], budget[24], slot[24], detail[96];

    add_label(t, "memory");
    text_addf(t, "%s of %s allowed\n", text_bytes(total, sizeof total, m->total),
              text_bytes(budget, sizeof budget, m->budget));
    snprintf(detail, sizeof detail, "%" PRIu64 " x %s", m->n_slots, text_bytes(slot, sizeof slot, m->slot_bytes));
    add_memory_row(t, "input ring", m->input_slots, detail);
    snprintf(detail, sizeof detail, "%" PRIu64 " x %s", m->n_out_slots,
             text_bytes(slot, sizeof slot, m->out_slot_bytes));
    add_memory_row(t, "output ring", m->output_slots, detail);
    add_memory_row(t, "statistics", m->statistics, "");
    add_memory_row(t, "scratch", m->scratch, "");
    add_memory_row(t, "tables", m->tables, "");
    add_memory_row(t, "reserve", m->reserve, "");
    add_label(t, "threads");
    text_addf(t, "%d compute, %d reader%s, %d writer%s; tiles of %" PRIu64 " elements\n", m->n_compute, m->n_readers,
              plural((uint64_t)m->n_readers), m->n_writers, plural((uint64_t)m->n_writers), m->tile_elems);
}

/* What CUDA itself takes comes on top: it is not ours to plan. */
static void add_device_memory(struct text *t, const struct plan *plan)
{
    const struct plan_device_memory *d = &plan->device;
    char total[24], budget[24], detail[64];

    if (!d->budget)
        return;
    add_label(t, "GPU memory");
    text_addf(t, "%s of %s allowed on each\n", text_bytes(total, sizeof total, d->tiles + d->resident + d->side),
              text_bytes(budget, sizeof budget, d->budget));
    if (!d->tile_elems) {
        add_label(t, "");
        text_add(t, "too little for two tiles of every input: the CPU does the work\n");
        return;
    }
    snprintf(detail, sizeof detail, "on their way, of %" PRIu64 " elements", d->tile_elems);
    add_memory_row(t, "tiles", d->tiles, detail);
    add_memory_row(t, "tensors", d->resident, "that stay between passes");
    add_memory_row(t, "results", d->side, "of passes, and small tensors");
}

/* Tensors with the same note together: how many, and the first few by name. */
static void add_special(struct text *t, const struct plan *plan)
{
    const char *seen[MAX_SHOWN];
    size_t n_special = 0, n_shown_tensors = 0;
    int n_seen = 0;
    char name[NAME_BYTES];

    for (size_t j = 0; j < plan->n_jobs; j++)
        n_special += plan->jobs[j].note != NULL;
    if (!n_special)
        return;
    add_label(t, "special");
    text_addf(t, "%zu tensor%s\n", n_special, plural(n_special));
    for (size_t j = 0; j < plan->n_jobs && n_seen < MAX_SHOWN; j++) {
        const char *note = plan->jobs[j].note;
        size_t n_same = 0;
        bool known = note == NULL;
        for (int i = 0; i < n_seen; i++)
            known |= strcmp(seen[i], note ? note : "") == 0;
        if (known)
            continue;
        seen[n_seen++] = note;
        for (size_t k = j; k < plan->n_jobs; k++)
            n_same += plan->jobs[k].note && strcmp(plan->jobs[k].note, note) == 0;
        n_shown_tensors += n_same;
        add_label(t, "");
        text_addf(t, "%s", text_display(name, sizeof name, plan->jobs[j].name));
        if (n_same > 1)
            text_addf(t, " and %zu more", n_same - 1);
        text_addf(t, ": %s\n", note);
    }
    if (n_shown_tensors < n_special) {
        add_label(t, "");
        text_addf(t, "... %zu more: see --json\n", n_special - n_shown_tensors);
    }
}

void report_plan_text(const struct plan *plan, const struct plan_partition *const *partitions, const char *out_path,
                      struct text *out)
{
    const struct method *method = plan->recipe->method;
    char donor[NAME_BYTES];

    add_label(out, "method");
    text_addf(out, "%s: %s\n", method->name, method->summary);
    add_models(out, plan);
    add_parameters(out, plan);
    if (plan->donor != plan->base) {
        add_label(out, "config from");
        text_addf(out, "%s\n", text_display(donor, sizeof donor, plan_model_name(plan, plan->donor)));
    }
    add_output(out, plan, out_path);
    add_special(out, plan);
    add_reading(out, plan);
    add_memory(out, plan);
    add_device_memory(out, plan);
    if (partitions)
        report_ranks_text(plan, partitions, out);
}

/* ---- JSON --------------------------------------------------------------------------------------------------- */

static void add_json_models(struct text *t, const struct plan *plan)
{
    text_add(t, "  \"models\": [");
    for (int m = 0; m < plan->n_models; m++) {
        const struct ckpt *ckpt = plan->models[m];
        text_add(t, m ? ",\n    {\"reference\": " : "\n    {\"reference\": ");
        text_add_json(t, plan_model_name(plan, m));
        text_add(t, ", \"directory\": ");
        text_add_json(t, ckpt->dir);
        text_addf(t,
                  ", \"base\": %s, \"donor\": %s, \"dtype\": \"%s\", \"n_files\": %d, \"n_tensors\": %zu, "
                  "\"n_bytes\": %" PRIu64 "}",
                  m == plan->base ? "true" : "false", m == plan->donor ? "true" : "false", dtype_name(main_dtype(ckpt)),
                  ckpt->n_files, ckpt->n_tensors, ckpt->n_bytes);
    }
    text_add(t, "\n  ],\n");
}

static void add_json_memory(struct text *t, const struct plan_memory *m)
{
    text_addf(t,
              "  \"memory\": {\"budget\": %" PRIu64 ", \"total\": %" PRIu64 ", \"reserve\": %" PRIu64
              ", \"tables\": %" PRIu64 ", \"scratch\": %" PRIu64 ", \"statistics\": %" PRIu64
              ", \"input_slots\": %" PRIu64 ", \"output_slots\": %" PRIu64 "},\n",
              m->budget, m->total, m->reserve, m->tables, m->scratch, m->statistics, m->input_slots, m->output_slots);
    text_addf(t,
              "  \"pipeline\": {\"tile_elems\": %" PRIu64 ", \"slot_bytes\": %" PRIu64 ", \"n_slots\": %" PRIu64
              ", \"out_slot_bytes\": %" PRIu64 ", \"n_out_slots\": %" PRIu64
              ", \"n_compute\": %d, \"n_readers\": %d, \"n_writers\": %d},\n",
              m->tile_elems, m->slot_bytes, m->n_slots, m->out_slot_bytes, m->n_out_slots, m->n_compute, m->n_readers,
              m->n_writers);
}

static void add_json_device_memory(struct text *t, const struct plan_device_memory *d)
{
    if (!d->budget)
        text_add(t, "  \"device_memory\": null,\n");
    else
        text_addf(t,
                  "  \"device_memory\": {\"budget\": %" PRIu64 ", \"tiles\": %" PRIu64 ", \"resident\": %" PRIu64
                  ", \"side\": %" PRIu64 ", \"tile_elems\": %" PRIu64 "},\n",
                  d->budget, d->tiles, d->resident, d->side, d->tile_elems);
}

static void add_json_values(struct text *t, const struct method *method, const double *values, bool per_model)
{
    bool any = false;

    text_add(t, "{");
    for (int p = 0; p < method->n_params; p++) {
        if (method->params[p].no_effect || method->params[p].per_model != per_model)
            continue;
        text_addf(t, "%s\"%s\": ", any ? ", " : "", method->params[p].name);
        parameter_add_value(t, &method->params[p], values[p], true);
        any = true;
    }
    text_add(t, "}");
}

static void add_json_tensor(struct text *t, const struct plan *plan, const struct plan_job *job)
{
    text_add(t, "{\"name\": ");
    text_add_json(t, job->name);
    text_addf(t, ", \"dtype\": \"%s\", \"shape\": [", dtype_name(job->dtype));
    for (int d = 0; d < job->n_dims; d++)
        text_addf(t, "%s%" PRIu64, d ? ", " : "", job->shape[d]);
    text_addf(t,
              "], \"shard\": %d, \"begin\": %" PRIu64 ", \"n_bytes\": %" PRIu64 ", \"action\": \"%s\", \"inputs\": [",
              job->shard, job->begin, job->n_bytes, job->action == PLAN_MERGE ? "merge" : "copy");
    for (int s = 0; s < job->n_sources; s++) {
        text_addf(t, "%s{\"model\": %d", s ? ", " : "", job->sources[s].model);
        if (job->action == PLAN_MERGE && s >= job->has_base) {
            text_add(t, ", \"values\": ");
            add_json_values(t, plan->recipe->method, job->model_params[s - job->has_base], true);
        }
        text_add(t, "}");
    }
    text_add(t, "]");
    if (job->action == PLAN_MERGE) {
        text_add(t, ", \"values\": ");
        add_json_values(t, plan->recipe->method, job->params, false);
    }
    if (job->note) {
        text_add(t, ", \"note\": ");
        text_add_json(t, job->note);
    }
    text_add(t, "}");
}

void report_plan_json(const struct plan *plan, const struct plan_partition *const *partitions, const char *out_path,
                      struct text *out)
{
    char hex[HASH128_HEX_BYTES];

    text_add(out, "{\n  \"schema\": \"warpmerge-plan\",\n  \"schema_version\": 1,\n  \"version\": \"" WM_VERSION
                  "\",\n  \"method\": ");
    text_add_json(out, plan->recipe->method->name);
    text_addf(out, ",\n  \"seed\": %" PRIu64 ",\n  \"fingerprint\": \"%s\",\n  \"out\": ", plan->seed,
              hash128_hex(hex, plan->fingerprint));
    if (out_path)
        text_add_json(out, out_path);
    else
        text_add(out, "null");
    text_addf(out,
              ",\n  \"n_params\": %" PRIu64 ",\n  \"n_tensors\": %zu,\n  \"bytes_in\": %" PRIu64
              ",\n  \"bytes_to_read\": %" PRIu64 ",\n  \"survey_passes\": %d,\n  \"survey_bytes\": %" PRIu64
              ",\n  \"bytes_out\": %" PRIu64 ",\n",
              plan->n_params, plan->n_jobs, plan->bytes_in, plan->bytes_to_read, plan->n_survey_passes,
              plan->survey_bytes, plan->bytes_out);
    add_json_models(out, plan);
    add_json_memory(out, &plan->memory);
    add_json_device_memory(out, &plan->device);
    if (partitions)
        report_ranks_json(partitions, out);
    text_add(out, "  \"shards\": [");
    for (int s = 0; s < plan->n_shards; s++) {
        text_add(out, s ? ",\n    {\"name\": " : "\n    {\"name\": ");
        text_add_json(out, plan->shards[s].name);
        text_addf(out, ", \"n_bytes\": %" PRIu64 ", \"n_tensors\": %zu}", plan->shards[s].n_bytes,
                  plan->shards[s].n_jobs);
    }
    text_add(out, "\n  ],\n  \"tensors\": [");
    for (size_t j = 0; j < plan->n_jobs; j++) {
        text_add(out, j ? ",\n    " : "\n    ");
        add_json_tensor(out, plan, &plan->jobs[j]);
    }
    text_add(out, "\n  ]\n}\n");
}
