/*
 * table.c: a measurement as text for people, JSON and CSV for programs.
 *
 * What lives here: units, columns, keys. What it must not know: how anything was measured.
 */
#include "measure/measure.h"

#include "base/dtype.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define GIGA 1e-9

static const char *seconds_text(char *buffer, size_t size, double seconds)
{
    if (seconds < 1e-3)
        snprintf(buffer, size, "%.2f us", seconds * 1e6);
    else if (seconds < 1)
        snprintf(buffer, size, "%.3f ms", seconds * 1e3);
    else
        snprintf(buffer, size, "%.3f s", seconds);
    return buffer;
}

static double intensity(const struct measure_row *row)
{
    return row->n_operations / (double)row->n_bytes;
}

static void heading(struct text *out, const struct measure_row *row)
{
    char size[24];

    text_addf(out, "\n%s, tensors of %s (%" PRIu64 " elements)", dtype_name(row->dtype),
              text_bytes(size, sizeof size, row->tensor_bytes), row->n_elems);
    if (row->tile_elems < row->n_elems)
        text_addf(out, " in tiles of %" PRIu64, row->tile_elems);
    text_add(out, "\n");
    text_addf(out, "  %-40s %-12s %11s %11s %9s %7s %7s %7s %7s\n", "kernel", "part", "cold", "batched", "GB/s",
              "% copy", "+- %", "ops/B", "bound");
}

void measure_text(const struct measure *m, struct text *out)
{
    char cold[32], batch[32];

    text_addf(out, "%s\n\nceilings\n", m->device);
    for (int i = 0; i < m->n_ceilings; i++) {
        const struct measure_ceiling *c = &m->ceilings[i];
        text_addf(out, "  %-34s %9.2f GB/s  +- %4.1f %%  %s\n", c->what, c->bytes_per_second * GIGA, c->noise * 100,
                  c->detail);
    }
    if (!measure_find_ceiling(m, "storage_read"))
        text_add(out, "  storage                            not measured; name a folder with --dir\n");
    text_addf(out, "  %-34s %9.1f Gop/s          %s\n", "fp32 arithmetic", m->peak_operations_per_second * GIGA,
              m->peak_source);
    text_addf(out, "  %-34s %9.3f ops/B\n", "ridge of the roofline",
              m->peak_operations_per_second / m->copy_bytes_per_second);
    for (size_t i = 0; i < m->n_rows; i++) {
        const struct measure_row *row = &m->rows[i];
        if (i == 0 || row->dtype != row[-1].dtype || row->tensor_bytes != row[-1].tensor_bytes ||
            row->tile_elems != row[-1].tile_elems)
            heading(out, row);
        text_addf(out, "  %-40s %-12s %11s %11s %9.2f %7.1f %7.1f %7.2f %7s\n", row->kernel, row->part,
                  seconds_text(cold, sizeof cold, row->cold.seconds),
                  row->batch.n_samples ? seconds_text(batch, sizeof batch, row->batch.seconds) : "",
                  (double)row->n_bytes / row->cold.seconds * GIGA, 100 * measure_row_share(m, row),
                  100 * row->cold.noise, intensity(row), measure_row_memory_bound(m, row) ? "memory" : "compute");
    }
    text_add(
        out,
        "\ncold: caches emptied before every sample; batched: the same tensors again and again. GB/s and share of\n"
        "the measured copy are of the cold time, with the bytes that the part has to move counted once.\n");
    text_addf(out, "%.1f s\n", m->seconds);
}

/* ---- for programs ------------------------------------------------------------------------------------------- */

static void json_time(struct text *out, const char *name, const struct sample_time *t)
{
    if (t->n_samples == 0) {
        text_addf(out, ", \"%s\": null", name);
        return;
    }
    text_addf(out, ", \"%s\": {\"seconds\": %.9g, \"fastest_seconds\": %.9g, \"noise\": %.4g, \"n_samples\": %d}", name,
              t->seconds, t->fastest, t->noise, t->n_samples);
}

void measure_json(const struct measure *m, struct text *out)
{
    text_add(out, "{\n  \"schema\": \"warpmerge-bench\",\n  \"schema_version\": 1,\n  \"version\": \"" WM_VERSION
                  "\",\n  \"device\": ");
    text_add_json(out, m->device);
    text_addf(out,
              ",\n  \"gpu\": %s,\n  \"quick\": %s,\n  \"complete\": %s,\n  \"n_threads\": %d,\n  \"seconds\": %.3f,\n",
              m->on_gpu ? "true" : "false", m->quick ? "true" : "false", m->complete ? "true" : "false", m->n_threads,
              m->seconds);
    if (m->on_gpu)
        text_addf(out, "  \"device_index\": %d,\n", m->gpu);
    else
        text_add(out, "  \"device_index\": null,\n");
    text_addf(out, "  \"copy_bytes_per_second\": %.6g,\n  \"peak_operations_per_second\": %.6g,\n  \"peak_source\": ",
              m->copy_bytes_per_second, m->peak_operations_per_second);
    text_add_json(out, m->peak_source);
    text_add(out, ",\n  \"ceilings\": [");
    for (int i = 0; i < m->n_ceilings; i++) {
        const struct measure_ceiling *c = &m->ceilings[i];
        text_addf(
            out,
            "%s\n    {\"id\": \"%s\", \"bytes_per_second\": %.6g, \"noise\": %.4g, \"n_samples\": %d, \"n_bytes\": "
            "%" PRIu64 ", \"what\": ",
            i ? "," : "", c->id, c->bytes_per_second, c->noise, c->n_samples, c->n_bytes);
        text_add_json(out, c->what);
        text_add(out, ", \"detail\": ");
        text_add_json(out, c->detail);
        text_add(out, "}");
    }
    text_add(out, "\n  ],\n  \"kernels\": [");
    for (size_t i = 0; i < m->n_rows; i++) {
        const struct measure_row *row = &m->rows[i];
        text_add(out, i ? ",\n    {\"kernel\": " : "\n    {\"kernel\": ");
        text_add_json(out, row->kernel);
        text_addf(out,
                  ", \"part\": \"%s\", \"dtype\": \"%s\", \"n_models\": %d, \"n_elems\": %" PRIu64
                  ", \"tensor_bytes\": %" PRIu64 ", \"n_tensors\": %" PRIu64 ", \"tile_elems\": %" PRIu64
                  ", \"bytes\": %" PRIu64 ", \"operations\": %.0f",
                  row->part, dtype_name(row->dtype), row->n_models, row->n_elems, row->tensor_bytes, row->n_tensors,
                  row->tile_elems, row->n_bytes, row->n_operations);
        json_time(out, "cold", &row->cold);
        json_time(out, "batch", &row->batch);
        text_addf(out, ", \"copy_share\": %.4g, \"bound\": \"%s\"}", measure_row_share(m, row),
                  measure_row_memory_bound(m, row) ? "memory" : "compute");
    }
    text_add(out, "\n  ]\n}\n");
}

void measure_csv(const struct measure *m, struct text *out)
{
    text_add(out, "kernel,part,dtype,n_models,n_elems,tensor_bytes,bytes,operations,cold_seconds,cold_noise,"
                  "cold_samples,batch_seconds,batch_noise,bytes_per_second,copy_share,operations_per_byte,bound,n_"
                  "tensors,tile_elems\n");
    for (size_t i = 0; i < m->n_rows; i++) {
        const struct measure_row *row = &m->rows[i];
        text_addf(out, "\"%s\",%s,%s,%d,%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%.0f,%.9g,%.4g,%d,", row->kernel, row->part,
                  dtype_name(row->dtype), row->n_models, row->n_elems, row->tensor_bytes, row->n_bytes,
                  row->n_operations, row->cold.seconds, row->cold.noise, row->cold.n_samples);
        if (row->batch.n_samples)
            text_addf(out, "%.9g,%.4g", row->batch.seconds, row->batch.noise);
        else
            text_add(out, ",");
        text_addf(out, ",%.6g,%.4g,%.4g,%s,%" PRIu64 ",%" PRIu64 "\n", (double)row->n_bytes / row->cold.seconds,
                  measure_row_share(m, row), intensity(row), measure_row_memory_bound(m, row) ? "memory" : "compute",
                  row->n_tensors, row->tile_elems);
    }
}
