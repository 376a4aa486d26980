/*
 * measure.c: the order in which a machine is measured.
 *
 * What lives here: ceilings first, then every kernel over sizes and types: each part cold, then back to back. What it
 * must not know: how a device does it, how results are shown.
 */
#include "measure/measure.h"

#include "base/dtype.h"
#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct session {
    struct measure *m;
    const struct measure_options *options;
    const struct sample_rules *rules;
    struct measure_device *device;
    struct sampler *samplers; /* [N_PARTS] */
};

enum { PART_COMBINE = STAT_READY, PART_WHOLE, N_PARTS };

/* From tiny (norms, biases) to the largest embedding; the last one is measured in the other types as well. */
static const uint64_t thorough_sizes[] = {4096, 65536, 1 << 20, 16 << 20, 64 << 20, 256 << 20};
static const uint64_t quick_sizes[] = {4096, 1 << 20, 8 << 20};

static enum wm_status step(struct session *s, const char *what, struct wm_error *err)
{
    if (s->options->on_step && s->options->on_step(s->options->user, what))
        return error_set(err, WM_CANCELLED, "the measurement was stopped");
    return WM_OK;
}

/* ---- ceilings ----------------------------------------------------------------------------------------------- */

struct measure_ceiling *measure_add_ceiling(struct measure *m, const char *id, const char *what)
{
    struct measure_ceiling *c =
        &m->ceilings[m->n_ceilings < MEASURE_MAX_CEILINGS - 1 ? m->n_ceilings++ : m->n_ceilings];

    *c = (struct measure_ceiling){.id = id, .what = what};
    return c;
}

void measure_set_ceiling(struct measure_ceiling *c, uint64_t n_bytes, const struct sample_time *time)
{
    c->n_bytes = n_bytes;
    c->bytes_per_second = (double)n_bytes / time->fastest; /* a ceiling is what was reached once */
    c->noise = time->noise;
    c->n_samples = time->n_samples;
}

const struct measure_ceiling *measure_find_ceiling(const struct measure *m, const char *id)
{
    for (int i = 0; i < m->n_ceilings; i++)
        if (strcmp(m->ceilings[i].id, id) == 0)
            return &m->ceilings[i];
    return NULL;
}

static enum wm_status ceilings(struct session *s, struct wm_error *err)
{
    struct measure_team *team = measure_team_new(s->options->n_threads);
    enum wm_status st;

    if (!team)
        return error_no_memory(err, "measuring this machine");
    if (s->options->dir) {
        TRY(step(s, "storage", err));
        TRY(measure_storage(s->m, s->options->dir, team, s->options->quick, err));
    }
    TRY(step(s, "host memory", err));
    TRY(measure_host_copy(s->m, team, s->rules, err));
    TRY(s->device->ops->ceilings(s->device, s->m, s->rules, err));
out:
    measure_team_free(team);
    return st;
}

/* ---- kernels ------------------------------------------------------------------------------------------------ */

static enum wm_status add_row(struct measure *m, const struct measure_row *row, struct wm_error *err)
{
    if (m->n_rows == m->capacity) {
        size_t capacity = m->capacity ? 2 * m->capacity : 256;
        struct measure_row *rows = realloc(m->rows, capacity * sizeof *rows);
        if (!rows)
            return error_no_memory(err, "measuring kernels");
        m->rows = rows;
        m->capacity = capacity;
    }
    m->rows[m->n_rows++] = *row;
    return WM_OK;
}

/* Elements that a statistics pass reads, all inputs together, and for how many it computes. Base and models are read in
 * every tile that the pass needs, the cut of a model in one tile alone. */
static void pass_work(const struct merge_op *op, const struct statistics *s, uint64_t tile_elems, uint64_t *n_read,
                      double *n_operations)
{
    enum stat_pass pass = statistics_pass(s);
    uint64_t n_elems = 0, n_needed = 0, n_models = 0, first_tile = op->n_elems < tile_elems ? op->n_elems : tile_elems;

    for (uint64_t first = 0, index = 0; first < op->n_elems; first += tile_elems, index++)
        if (statistics_needs_tile(s, (size_t)index)) {
            n_elems += op->n_elems - first < tile_elems ? op->n_elems - first : tile_elems;
            n_needed++;
        }
    for (int m = 0; m < op->n_models; m++) {
        enum merge_keep keep = op->models[m].keep;
        n_models += pass == STAT_GRAM || keep == KEEP_TOP || (pass == STAT_L1 && keep == KEEP_RANDOM);
    }
    if (pass == STAT_KTH_CUT) {
        *n_read = (n_needed + n_models) * first_tile;
        *n_operations = 2.0 * (double)(n_models * first_tile);
    } else {
        *n_read = n_elems * (n_models + op->has_base);
        *n_operations = measure_operations(op, pass) * (double)n_elems;
    }
}

/* One sample of everything: each pass and the combine, with the caches emptied before each. */
static enum wm_status cold_sample(struct session *s, const struct measure_case *c, uint64_t n_elems,
                                  struct measure_row *parts, bool *seen, struct wm_error *err)
{
    const struct measure_device_ops *device = s->device->ops;
    uint64_t tile_elems = device->tile_elems(s->device);
    size_t width = dtype_bits(parts[PART_COMBINE].dtype) / 8;
    struct statistics *statistics = NULL;
    struct merge_op op;
    double seconds = 0, whole = 0;
    enum stat_pass pass;
    enum wm_status st;

    TRY(measure_prepare(c, n_elems, &op, err));
    pass = statistics_first_pass(&op);
    if (pass != STAT_READY) {
        statistics = statistics_new(&op, tile_elems);
        if (!statistics) {
            st = error_no_memory(err, "measuring kernels");
            goto out;
        }
        pass = statistics_pass(statistics);
    }
    while (pass != STAT_READY) {
        double began, in_kernels = 0, after = 0;
        uint64_t n_read;
        if (!seen[pass]) {
            pass_work(&op, statistics, tile_elems, &n_read, &parts[pass].n_operations);
            parts[pass].n_bytes = n_read * width;
            sampler_begin(&s->samplers[pass], s->rules);
            seen[pass] = true;
        }
        TRY(device->flush(s->device, err));
        TRY(device->pass(s->device, &op, statistics, &in_kernels, &after, err));
        sampler_add(&s->samplers[pass], in_kernels);
        began = file_now_seconds();
        pass = statistics_finish_pass(statistics, &op);
        whole += in_kernels + after + file_now_seconds() - began;
    }
    parts[PART_COMBINE].n_operations = measure_operations(&op, STAT_READY) * (double)n_elems;
    parts[PART_COMBINE].n_bytes = n_elems * width * (uint64_t)(merge_op_n_inputs(&op) + 1);
    TRY(device->flush(s->device, err));
    TRY(device->combine(s->device, &op, 1, &seconds, err));
    sampler_add(&s->samplers[PART_COMBINE], seconds);
    sampler_add(&s->samplers[PART_WHOLE], whole + seconds);
out:
    statistics_free(statistics);
    return st;
}

/* The combine back to back: as often as fills the rules' time, in a few batches of which the median counts. */
static enum wm_status batch(struct session *s, const struct measure_case *c, uint64_t n_elems, double cold_seconds,
                            struct measure_row *row, struct wm_error *err)
{
    const struct measure_device_ops *device = s->device->ops;
    struct sampler *sampler = &s->samplers[PART_COMBINE];
    struct statistics *statistics = NULL;
    struct merge_op op;
    double seconds = 0, after = 0, wanted = s->rules->min_seconds / 10;
    int n_repeats = cold_seconds > 0 && wanted / cold_seconds < 10000 ? (int)(wanted / cold_seconds) + 1 : 10000;
    enum stat_pass pass;
    enum wm_status st;

    TRY(measure_prepare(c, n_elems, &op, err));
    pass = statistics_first_pass(&op);
    if (pass != STAT_READY && !(statistics = statistics_new(&op, device->tile_elems(s->device)))) {
        st = error_no_memory(err, "measuring kernels");
        goto out;
    }
    pass = statistics ? statistics_pass(statistics) : STAT_READY;
    while (pass != STAT_READY) {
        TRY(device->pass(s->device, &op, statistics, &seconds, &after, err));
        pass = statistics_finish_pass(statistics, &op);
    }
    sampler_begin(sampler, s->rules);
    for (int i = 0; i < 5; i++) {
        TRY(device->combine(s->device, &op, n_repeats, &seconds, err));
        sampler_add(sampler, seconds / n_repeats);
    }
    row->batch = sampler_end(sampler);
out:
    statistics_free(statistics);
    return st;
}

static enum wm_status measure_case_at(struct session *s, const struct measure_case *c, enum wm_dtype dtype,
                                      uint64_t tensor_bytes, struct wm_error *err)
{
    uint64_t n_elems = tensor_bytes / (dtype_bits(dtype) / 8);
    struct measure_row parts[N_PARTS];
    bool seen[N_PARTS] = {false};
    enum wm_status st;

    memset(parts, 0, sizeof parts);
    for (int p = 0; p < N_PARTS; p++) {
        struct measure_row *row = &parts[p];
        snprintf(row->kernel, sizeof row->kernel, "%s", c->kernel);
        row->part = p == PART_WHOLE ? "whole" : measure_pass_name((enum stat_pass)p);
        row->dtype = dtype;
        row->n_models = c->n_models;
        row->n_elems = n_elems;
        row->tensor_bytes = tensor_bytes;
    }
    sampler_begin(&s->samplers[PART_COMBINE], s->rules);
    sampler_begin(&s->samplers[PART_WHOLE], s->rules);
    TRY(cold_sample(s, c, n_elems, parts, seen, err)); /* warms up pages, tables and the device's code */
    for (int p = 0; p < N_PARTS; p++)
        sampler_begin(&s->samplers[p], s->rules);
    while (sampler_wants_more(&s->samplers[PART_WHOLE]))
        TRY(cold_sample(s, c, n_elems, parts, seen, err));
    for (int p = 0; p < STAT_READY; p++)
        if (seen[p]) {
            parts[p].cold = sampler_end(&s->samplers[p]);
            parts[PART_WHOLE].n_bytes += parts[p].n_bytes;
            parts[PART_WHOLE].n_operations += parts[p].n_operations;
            seen[PART_WHOLE] = true;
            TRY(add_row(s->m, &parts[p], err));
        }
    parts[PART_COMBINE].cold = sampler_end(&s->samplers[PART_COMBINE]);
    parts[PART_WHOLE].cold = sampler_end(&s->samplers[PART_WHOLE]);
    parts[PART_WHOLE].n_bytes += parts[PART_COMBINE].n_bytes;
    parts[PART_WHOLE].n_operations += parts[PART_COMBINE].n_operations;
    TRY(batch(s, c, n_elems, parts[PART_COMBINE].cold.seconds, &parts[PART_COMBINE], err));
    TRY(add_row(s->m, &parts[PART_COMBINE], err));
    if (seen[PART_WHOLE])
        TRY(add_row(s->m, &parts[PART_WHOLE], err));
out:
    return st;
}

static enum wm_status kernels_at(struct session *s, enum wm_dtype dtype, uint64_t tensor_bytes, struct wm_error *err)
{
    const struct measure_case *cases;
    size_t n_cases = measure_cases(&cases);
    char what[96], size[24];
    int n_loaded = 0;
    enum wm_status st = WM_OK;

    for (size_t i = 0; i < n_cases; i++) {
        int n_inputs = cases[i].n_models + cases[i].has_base;
        if (s->options->only && !strstr(cases[i].kernel, s->options->only))
            continue;
        if (tensor_bytes > s->device->ops->tensor_limit(s->device, n_inputs) && n_inputs > n_loaded)
            continue;
        snprintf(what, sizeof what, "%s, %s, %s", cases[i].kernel, dtype_name(dtype),
                 text_bytes(size, sizeof size, tensor_bytes));
        TRY(step(s, what, err));
        if (n_inputs > n_loaded) {
            TRY(s->device->ops->load(s->device, n_inputs, dtype, tensor_bytes / (dtype_bits(dtype) / 8), err));
            n_loaded = n_inputs;
        }
        TRY(measure_case_at(s, &cases[i], dtype, tensor_bytes, err));
    }
out:
    return st;
}

static enum wm_status kernels(struct session *s, struct wm_error *err)
{
    static const enum wm_dtype others[] = {WM_F16, WM_F32};
    const uint64_t *sizes = s->m->quick ? quick_sizes : thorough_sizes;
    size_t n_sizes = s->m->quick ? sizeof quick_sizes / sizeof *sizes : sizeof thorough_sizes / sizeof *sizes;
    enum wm_status st = WM_OK;

    for (size_t i = 0; i < n_sizes; i++)
        TRY(kernels_at(s, WM_BF16, sizes[i], err));
    for (size_t d = 0; d < 2 && !s->m->quick; d++)
        TRY(kernels_at(s, others[d], thorough_sizes[4], err));
out:
    return st;
}

/* ---- all of it ---------------------------------------------------------------------------------------------- */

#ifndef WM_HAVE_CUDA
bool measure_has_gpu(void)
{
    return false;
}
#endif

static enum wm_status open_device(struct session *s, struct wm_error *err)
{
#ifdef WM_HAVE_CUDA
    if (s->options->use_gpu)
        return measure_open_cuda(&s->device, err);
#endif
    return measure_open_cpu(&s->device, s->options->n_threads, err);
}

enum wm_status measure_run(struct measure *m, const struct measure_options *options, struct wm_error *err)
{
    struct session s = {.m = m, .options = options, .rules = options->quick ? &sample_quick : &sample_thorough};
    double began = file_now_seconds();
    enum wm_status st;

    memset(m, 0, sizeof *m);
    m->quick = options->quick;
    m->on_gpu = options->use_gpu;
    m->n_threads = options->n_threads;
    s.samplers = calloc(N_PARTS, sizeof *s.samplers);
    if (!s.samplers) {
        st = error_no_memory(err, "measuring this machine");
        goto out;
    }
    TRY(open_device(&s, err));
    s.device->ops->describe(s.device, m->device);
    TRY(ceilings(&s, err));
    TRY(kernels(&s, err));
    m->seconds = file_now_seconds() - began;
out:
    if (s.device)
        s.device->ops->close(s.device);
    free(s.samplers);
    return st;
}

void measure_release(struct measure *m)
{
    free(m->rows);
    m->rows = NULL;
}

double measure_row_seconds(const struct measure_row *row)
{
    return row->batch.n_samples ? row->batch.seconds : row->cold.seconds;
}

/* Of the cold time: repeated small tensors would be judged by a cache's speed. */
double measure_row_share(const struct measure *m, const struct measure_row *row)
{
    return (double)row->n_bytes / row->cold.seconds / m->copy_bytes_per_second;
}

bool measure_row_memory_bound(const struct measure *m, const struct measure_row *row)
{
    return row->n_operations / (double)row->n_bytes < m->peak_operations_per_second / m->copy_bytes_per_second;
}
