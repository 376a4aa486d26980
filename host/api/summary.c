/* summary.c: see summary.h. */
#include "api/summary.h"

#include <inttypes.h>
#include <string.h>

static double rate(uint64_t n_bytes, double seconds)
{
    return seconds > 0 ? (double)n_bytes / seconds / 1e9 : 0.0;
}

static void add_text(const struct plan *plan, const struct engine_result *r, const char *out_path, struct text *out)
{
    char read[24], wrote[24], took[24], peak[24], resumed[24], moved_there[24];
    uint64_t moved = r->bytes_read + r->bytes_written;

    text_addf(out, "%s: %zu tensors, %s in %d shard%s\n", out_path, plan->n_jobs,
              text_decimal_bytes(wrote, sizeof wrote, plan->bytes_out), plan->n_shards, plan->n_shards == 1 ? "" : "s");
    text_addf(out, "  read %s and wrote %s in %s: %.2f GB/s, limited by %s\n",
              text_decimal_bytes(read, sizeof read, r->bytes_read),
              text_decimal_bytes(wrote, sizeof wrote, r->bytes_written), text_seconds(took, sizeof took, r->seconds),
              rate(moved, r->seconds), r->limiter);
    if (r->bytes_resumed)
        text_addf(out, "  took %s over from an earlier run\n",
                  text_decimal_bytes(resumed, sizeof resumed, r->bytes_resumed));
    text_addf(out, "  peak memory %s on %s\n", text_bytes(peak, sizeof peak, r->peak_rss_bytes), r->compute);
    if (r->n_devices > 1) {
        text_add(out, "  moved");
        for (int d = 0; d < r->n_devices; d++)
            text_addf(out, "%s %s", d ? "," : "",
                      text_decimal_bytes(moved_there, sizeof moved_there, r->device_bytes[d]));
        text_add(out, " over the GPUs' buses\n");
    }
    if (r->n_checked)
        text_addf(out, "  %" PRIu64 " blocks of the GPU's work done again on the CPU: the same bytes\n", r->n_checked);
}

static void add_ranks(const struct api_ranks *ranks, struct text *out)
{
    text_addf(out, ",\n  \"n_ranks\": %d,\n  \"comm\": ", ranks->n_ranks);
    if (ranks->n_ranks > 1)
        text_add_json(out, ranks->comm);
    else
        text_add(out, "null");
    if (ranks->slowest_rank >= 0)
        text_addf(out, ",\n  \"slowest_rank\": %d", ranks->slowest_rank);
    else
        text_add(out, ",\n  \"slowest_rank\": null");
}

static void add_json(const struct plan *plan, const struct engine_result *r, const struct api_ranks *ranks,
                     const char *out_path, struct text *out)
{
    text_add(out, "{\n  \"schema\": \"warpmerge-summary\",\n  \"schema_version\": 1,\n  \"ok\": true,\n  \"version\": "
                  "\"" WM_VERSION "\",\n  \"out\": ");
    text_add_json(out, out_path);
    text_add(out, ",\n  \"method\": ");
    text_add_json(out, plan->recipe->method->name);
    text_addf(out,
              ",\n  \"n_tensors\": %zu,\n  \"n_params\": %" PRIu64 ",\n  \"n_shards\": %d,\n  \"bytes_out\": %" PRIu64
              ",\n  \"bytes_read\": %" PRIu64 ",\n  \"bytes_written\": %" PRIu64 ",\n  \"bytes_resumed\": %" PRIu64
              ",\n  \"seconds\": %.6f,\n  \"sync_seconds\": %.6f,\n  \"setup_seconds\": %.6f,\n  "
              "\"read_busy_seconds\": %.6f,\n"
              "  \"compute_busy_seconds\": %.6f,\n  \"write_busy_seconds\": %.6f,\n  \"peak_rss_bytes\": %" PRIu64
              ",\n  \"limiter\": \"%s\",\n  \"compute\": \"%s\",\n  \"blocks_checked\": %" PRIu64
              ",\n  \"device_bytes\": [",
              plan->n_jobs, plan->n_params, plan->n_shards, plan->bytes_out, r->bytes_read, r->bytes_written,
              r->bytes_resumed, r->seconds, r->sync_seconds, r->setup_seconds, r->read_busy, r->compute_busy,
              r->write_busy, r->peak_rss_bytes, r->limiter, r->compute, r->n_checked);
    for (int d = 0; d < r->n_devices; d++)
        text_addf(out, "%s%" PRIu64, d ? ", " : "", r->device_bytes[d]);
    text_add(out, "]");
    add_ranks(ranks, out);
    text_add(out, "\n}\n");
}

void api_summary(const struct plan *plan, const struct engine_result *result, const struct api_ranks *ranks,
                 const char *out_path, int as_json, struct text *out)
{
    if (as_json)
        add_json(plan, result, ranks, out_path, out);
    else
        add_text(plan, result, out_path, out);
}

void api_complete_summary(const char *out_path, int as_json, struct text *out)
{
    if (!as_json) {
        text_addf(out, "%s is already complete\n", out_path);
        return;
    }
    text_add(out, "{\n  \"schema\": \"warpmerge-summary\",\n  \"schema_version\": 1,\n  \"ok\": true,\n  \"version\": "
                  "\"" WM_VERSION "\",\n  \"out\": ");
    text_add_json(out, out_path);
    text_add(out, ",\n  \"already_complete\": true\n}\n");
}

/* ---- a survey ------------------------------------------------------------------------------------------------ */

static const char *majority_word(const struct model_thresholds *t)
{
    return t->majority > 0 ? "plus" : t->majority < 0 ? "minus" : "none";
}

static double threshold_value(const struct model_threshold *model)
{
    float value;

    memcpy(&value, &model->threshold, sizeof value);
    return (double)value;
}

static void add_survey_text(const struct plan *plan, const struct engine_result *r, const char *out_path,
                            struct text *out)
{
    const struct model_thresholds *t = &r->thresholds;
    char read[24], took[24], name[96];

    if (!plan->n_survey_passes) {
        text_addf(out, "%s: nothing to find before the merge, %s as configured works tensor by tensor\n", out_path,
                  plan->recipe->method->name);
        return;
    }
    if (r->survey_was_known)
        text_addf(out, "%s: known from an earlier run\n", out_path);
    else
        text_addf(out, "%s: read %s in %s\n", out_path, text_decimal_bytes(read, sizeof read, r->bytes_read),
                  text_seconds(took, sizeof took, r->seconds));
    for (int m = 0; m < t->n_models; m++)
        if (t->models[m].n_elems)
            text_addf(out, "  %s: density %g keeps %" PRIu64 " of %" PRIu64 " elements, |delta| from %.6g on\n",
                      text_display(name, sizeof name, plan_model_name(plan, m)), t->models[m].density,
                      t->models[m].n_kept, t->models[m].n_elems, threshold_value(&t->models[m]));
    text_addf(out, "  signs: %" PRIu64 " plus, %" PRIu64 " minus, %" PRIu64 " cancel exactly; majority: %s\n",
              t->n_plus, t->n_minus, t->n_cancelled, majority_word(t));
}

static void add_survey_json(const struct plan *plan, const struct engine_result *r, const char *out_path,
                            struct text *out)
{
    const struct model_thresholds *t = &r->thresholds;
    const char *comma = "";

    text_add(out, "{\n  \"schema\": \"warpmerge-stats\",\n  \"schema_version\": 1,\n  \"ok\": true,\n  \"version\": "
                  "\"" WM_VERSION "\",\n  \"out\": ");
    text_add_json(out, out_path);
    text_addf(out, ",\n  \"passes\": %d,\n  \"was_known\": %s,\n  \"bytes_read\": %" PRIu64 ",\n  \"seconds\": %.6f",
              plan->n_survey_passes, r->survey_was_known ? "true" : "false", r->bytes_read, r->seconds);
    text_addf(out,
              ",\n  \"n_plus\": %" PRIu64 ",\n  \"n_minus\": %" PRIu64 ",\n  \"n_cancelled\": %" PRIu64
              ",\n  \"majority\": \"%s\",\n  \"models\": [",
              t->n_plus, t->n_minus, t->n_cancelled, majority_word(t));
    for (int m = 0; m < t->n_models; m++) {
        if (!t->models[m].n_elems)
            continue;
        text_addf(out, "%s\n    {\"model\": ", comma);
        text_add_json(out, plan_model_name(plan, m));
        text_addf(out, ", \"density\": %.17g, \"n_elems\": %" PRIu64 ", \"n_kept\": %" PRIu64 ", \"threshold\": %.9g}",
                  t->models[m].density, t->models[m].n_elems, t->models[m].n_kept, threshold_value(&t->models[m]));
        comma = ",";
    }
    text_addf(out, "%s]\n}\n", *comma ? "\n  " : "");
}

void api_survey_summary(const struct plan *plan, const struct engine_result *result, const char *out_path, int as_json,
                        struct text *out)
{
    if (as_json)
        add_survey_json(plan, result, out_path, out);
    else
        add_survey_text(plan, result, out_path, out);
}

void api_part_summary(const struct wm_options *options, const struct engine_result *r, const char *out_path,
                      int as_json, struct text *out)
{
    char read[32], written[32];

    if (as_json) {
        text_addf(out, "{\"part\": %d, \"n_parts\": %d, \"out\": ", options->part, options->n_parts);
        text_add_json(out, out_path);
        text_addf(out, ", \"bytes_read\": %llu, \"bytes_written\": %llu, \"bytes_resumed\": %llu, \"seconds\": %.3f}\n",
                  (unsigned long long)r->bytes_read, (unsigned long long)r->bytes_written,
                  (unsigned long long)r->bytes_resumed, r->seconds);
        return;
    }
    text_addf(out, "part %d of %d is done: read %s and wrote %s in %.1f s\n", options->part, options->n_parts,
              text_decimal_bytes(read, sizeof read, r->bytes_read),
              text_decimal_bytes(written, sizeof written, r->bytes_written), r->seconds);
    text_addf(out, "  when all are: warpmerge finish %s\n", out_path);
}
