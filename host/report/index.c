/*
 * index.c: model.safetensors.index.json, which tells loaders the shard of every tensor.
 *
 * What lives here: that file's text, a pure function of the plan. What it must not know: where it is written.
 */
#include "report/report.h"

#include <inttypes.h>
#include <stdlib.h>

static int by_name(const void *a, const void *b)
{
    const struct plan_job *const *x = a, *const *y = b;

    return text_natural_compare((*x)->name, (*y)->name);
}

enum wm_status report_index(const struct plan *plan, struct text *out, struct wm_error *err)
{
    const struct plan_job **jobs = malloc((plan->n_jobs + 1) * sizeof(struct plan_job *));

    if (!jobs)
        return error_no_memory(err, "writing the shard index");
    for (size_t j = 0; j < plan->n_jobs; j++)
        jobs[j] = &plan->jobs[j];
    qsort(jobs, plan->n_jobs, sizeof *jobs, by_name);

    text_addf(out, "{\n  \"metadata\": {\n    \"total_size\": %" PRIu64 "\n  },\n  \"weight_map\": {", plan->bytes_out);
    for (size_t j = 0; j < plan->n_jobs; j++) {
        text_add(out, j ? ",\n    " : "\n    ");
        text_add_json(out, jobs[j]->name);
        text_add(out, ": ");
        text_add_json(out, plan->shards[jobs[j]->shard].name);
    }
    text_add(out, plan->n_jobs ? "\n  }\n}\n" : "}\n}\n");
    free(jobs);
    return out->failed ? error_no_memory(err, "writing the shard index") : WM_OK;
}
