/*
 * inspect.c: the headers of a model, for people and for programs.
 *
 * What lives here: what `inspect` prints: files, types, layers, the biggest tensors. What it must not know: tensor
 * values; nothing but headers is read.
 */
#include "report/parameters.h"
#include "report/report.h"

#include "base/dtype.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define N_BIGGEST   5
#define N_FILES_MAX 12 /* files shown; the rest as a count */

/* The number in the first all-digit part of a dotted name ("model.layers.12.mlp.up.weight"), or -1. */
static long layer_of(const char *name)
{
    for (const char *p = name; p; p = strchr(p, '.') ? strchr(p, '.') + 1 : NULL) {
        size_t n = strspn(p, "0123456789");
        long value = 0;
        if (p != name && n > 0 && n < 8 && p[n] == '.') {
            for (size_t i = 0; i < n; i++)
                value = 10 * value + (p[i] - '0');
            return value;
        }
    }
    return -1;
}

struct census {
    uint64_t n_params, n_tensors[WM_N_DTYPES], n_bytes[WM_N_DTYPES], n_elems[WM_N_DTYPES];
    long n_layers;
    const struct ckpt_tensor *biggest[N_BIGGEST];
    int n_biggest;
};

static void census_take(struct census *c, const struct ckpt *ckpt)
{
    memset(c, 0, sizeof *c);
    for (size_t i = 0; i < ckpt->n_tensors; i++) {
        const struct ckpt_tensor *t = &ckpt->tensors[i];
        long layer = layer_of(t->name);
        int at;
        c->n_params += t->n_elems;
        c->n_tensors[t->dtype]++;
        c->n_bytes[t->dtype] += t->n_bytes;
        c->n_elems[t->dtype] += t->n_elems;
        if (layer >= c->n_layers)
            c->n_layers = layer + 1;
        for (at = c->n_biggest; at > 0 && c->biggest[at - 1]->n_bytes < t->n_bytes; at--)
            if (at < N_BIGGEST)
                c->biggest[at] = c->biggest[at - 1];
        if (at < N_BIGGEST) {
            c->biggest[at] = t;
            c->n_biggest += c->n_biggest < N_BIGGEST;
        }
    }
}

static void add_files(struct text *out, const struct ckpt *ckpt)
{
    char size[24], name[96];
    int width = 0;

    for (int f = 0; f < ckpt->n_files && f < N_FILES_MAX; f++) {
        int n = (int)strlen(text_display(name, sizeof name, ckpt->files[f].name));
        width = n > width ? n : width;
    }
    text_add(out, "\nfiles\n");
    for (int f = 0; f < ckpt->n_files && f < N_FILES_MAX; f++) {
        size_t n_tensors = 0;
        for (size_t i = 0; i < ckpt->n_tensors; i++)
            n_tensors += ckpt->tensors[i].file == f;
        text_addf(out, "  %-*s %9s %6zu tensors", width, text_display(name, sizeof name, ckpt->files[f].name),
                  text_decimal_bytes(size, sizeof size, ckpt->files[f].identity.n_bytes), n_tensors);
        if (ckpt->files[f].sha256)
            text_addf(out, "  sha256 %.12s...", ckpt->files[f].sha256);
        text_add(out, "\n");
    }
    if (ckpt->n_files > N_FILES_MAX)
        text_addf(out, "  ... %d more\n", ckpt->n_files - N_FILES_MAX);
}

void report_inspect_text(const struct ckpt *ckpt, struct text *out)
{
    struct census c;
    char size[24], count[24], name[160], shape[160];

    census_take(&c, ckpt);
    text_addf(out, "%s\n", text_display(name, sizeof name, ckpt->reference));
    if (ckpt->commit)
        text_addf(out, "  commit %s in %s\n", ckpt->commit, text_display(name, sizeof name, ckpt->dir));
    text_addf(out, "  %s parameters, %zu tensors, %s in %d file%s",
              parameter_count_text(count, sizeof count, c.n_params), ckpt->n_tensors,
              text_decimal_bytes(size, sizeof size, ckpt->n_bytes), ckpt->n_files, ckpt->n_files == 1 ? "" : "s");
    if (c.n_layers)
        text_addf(out, ", %ld layers", c.n_layers);
    text_add(out, "\n\ntypes\n");
    for (int d = 0; d < WM_N_DTYPES; d++)
        if (c.n_tensors[d])
            text_addf(out, "  %-10s %9s %6" PRIu64 " tensors  %s elements\n", dtype_name((enum wm_dtype)d),
                      text_decimal_bytes(size, sizeof size, c.n_bytes[d]), c.n_tensors[d],
                      parameter_count_text(count, sizeof count, c.n_elems[d]));
    add_files(out, ckpt);
    text_add(out, "\nbiggest tensors\n");
    for (int i = 0; i < c.n_biggest; i++)
        text_addf(out, "  %9s  %-24s %s\n", text_decimal_bytes(size, sizeof size, c.biggest[i]->n_bytes),
                  ckpt_shape_text(shape, sizeof shape, c.biggest[i]),
                  text_display(name, sizeof name, c.biggest[i]->name));
}

void report_inspect_json(const struct ckpt *ckpt, struct text *out)
{
    struct census c;

    census_take(&c, ckpt);
    text_add(out, "{\n  \"schema\": \"warpmerge-inspect\",\n  \"schema_version\": 1,\n  \"reference\": ");
    text_add_json(out, ckpt->reference);
    text_add(out, ",\n  \"directory\": ");
    text_add_json(out, ckpt->dir);
    text_add(out, ",\n  \"commit\": ");
    if (ckpt->commit)
        text_add_json(out, ckpt->commit);
    else
        text_add(out, "null");
    text_addf(out,
              ",\n  \"n_params\": %" PRIu64 ",\n  \"n_tensors\": %zu,\n  \"n_bytes\": %" PRIu64
              ",\n  \"n_layers\": %ld,\n  \"files\": [",
              c.n_params, ckpt->n_tensors, ckpt->n_bytes, c.n_layers);
    for (int f = 0; f < ckpt->n_files; f++) {
        text_add(out, f ? ",\n    {\"name\": " : "\n    {\"name\": ");
        text_add_json(out, ckpt->files[f].name);
        text_addf(out, ", \"n_bytes\": %" PRIu64 ", \"sha256\": ", ckpt->files[f].identity.n_bytes);
        if (ckpt->files[f].sha256)
            text_add_json(out, ckpt->files[f].sha256);
        else
            text_add(out, "null");
        text_add(out, "}");
    }
    text_add(out, "\n  ],\n  \"tensors\": [");
    for (size_t i = 0; i < ckpt->n_tensors; i++) {
        const struct ckpt_tensor *t = &ckpt->tensors[i];
        text_add(out, i ? ",\n    {\"name\": " : "\n    {\"name\": ");
        text_add_json(out, t->name);
        text_addf(out, ", \"dtype\": \"%s\", \"shape\": [", dtype_name(t->dtype));
        for (int d = 0; d < t->n_dims; d++)
            text_addf(out, "%s%" PRIu64, d ? ", " : "", t->shape[d]);
        text_addf(out, "], \"file\": %d, \"begin\": %" PRIu64 ", \"n_bytes\": %" PRIu64 "}", t->file, t->begin,
                  t->n_bytes);
    }
    text_add(out, "\n  ]\n}\n");
}
