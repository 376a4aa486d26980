/* summary.c: see summary.h. */
#include "api/summary.h"

#include <inttypes.h>

static double rate(uint64_t n_bytes, double seconds)
{
    return seconds > 0 ? (double)n_bytes / seconds / 1e9 : 0.0;
}

static void add_text(const struct plan *plan, const struct engine_result *r, const char *out_path, struct text *out)
{
    char read[24], wrote[24], took[24], peak[24], resumed[24];
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
}

static void add_json(const struct plan *plan, const struct engine_result *r, const char *out_path, struct text *out)
{
    text_add(out, "{\n  \"schema\": \"warpmerge-summary\",\n  \"schema_version\": 1,\n  \"ok\": true,\n  \"version\": "
                  "\"" WM_VERSION "\",\n  \"out\": ");
    text_add_json(out, out_path);
    text_add(out, ",\n  \"method\": ");
    text_add_json(out, plan->recipe->method->name);
    text_addf(out,
              ",\n  \"n_tensors\": %zu,\n  \"n_params\": %" PRIu64 ",\n  \"n_shards\": %d,\n  \"bytes_out\": %" PRIu64
              ",\n  \"bytes_read\": %" PRIu64 ",\n  \"bytes_written\": %" PRIu64 ",\n  \"bytes_resumed\": %" PRIu64
              ",\n  \"seconds\": %.6f,\n  \"sync_seconds\": %.6f,\n  \"read_busy_seconds\": %.6f,\n"
              "  \"compute_busy_seconds\": %.6f,\n  \"write_busy_seconds\": %.6f,\n  \"peak_rss_bytes\": %" PRIu64
              ",\n  \"limiter\": \"%s\",\n  \"compute\": \"%s\"\n}\n",
              plan->n_jobs, plan->n_params, plan->n_shards, plan->bytes_out, r->bytes_read, r->bytes_written,
              r->bytes_resumed, r->seconds, r->sync_seconds, r->read_busy, r->compute_busy, r->write_busy,
              r->peak_rss_bytes, r->limiter, r->compute);
}

void api_summary(const struct plan *plan, const struct engine_result *result, const char *out_path, int as_json,
                 struct text *out)
{
    if (as_json)
        add_json(plan, result, out_path, out);
    else
        add_text(plan, result, out_path, out);
}
