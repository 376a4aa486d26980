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

/* The first are the passes of a tensor by their numbers, then those of a model by theirs. */
enum { PART_MODEL = STAT_READY, PART_COMBINE = PART_MODEL + MODEL_READY, PART_WHOLE, N_PARTS };

#define GROUP_TENSOR_BYTES 4096u

/* From the largest embedding to norms and biases, what says most first, since time may run out; the other types are measured
 * in two sizes. */
static const uint64_t thorough_sizes[] = {256 << 20, 64 << 20, 16 << 20, 1 << 20, 65536, 4096};
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

/* Every statistics pass of a tensor. seconds[PART_WHOLE]: also of what the host does between them. */
static enum wm_status tensor_passes(struct session *s, struct merge_op *op, struct statistics *statistics, bool cold,
                                    int n_repeats, double seconds[N_PARTS], struct measure_row *parts,
                                    struct wm_error *err)
{
    const struct measure_device_ops *ops = s->device->ops;
    enum wm_status st = WM_OK;

    while (statistics_pass(statistics) != STAT_READY) {
        enum stat_pass pass = statistics_pass(statistics);
        double began, in_kernels = 0, after = 0;
        measure_pass_work(s->device, op, statistics, &parts[pass]);
        if (cold)
            TRY(ops->flush(s->device, err));
        TRY(ops->pass(s->device, op, statistics, n_repeats, &in_kernels, &after, err));
        seconds[pass] += in_kernels;
        began = file_now_seconds();
        statistics_finish_pass(statistics, op);
        seconds[PART_WHOLE] += in_kernels + after + file_now_seconds() - began;
        if (pass == STAT_KTH_COARSE && s->device->searching)
            measure_search_work(s->device, op, &parts[pass]);
    }
out:
    return st;
}

/* The passes over a model of which this tensor is all there is. */
static enum wm_status model_passes(struct session *s, struct merge_op *op, bool cold, int n_repeats,
                                   double seconds[N_PARTS], struct measure_row *parts, struct wm_error *err)
{
    const struct measure_device_ops *ops = s->device->ops;
    struct model_statistics ms;
    char message[256];
    enum wm_status st = WM_OK;

    model_statistics_init(&ms);
    if (model_statistics_add(&ms, op, message) != WM_OK || !model_statistics_begin(&ms)) {
        st = error_no_memory(err, "measuring kernels");
        goto out;
    }
    while (ms.pass != MODEL_READY) {
        int part = PART_MODEL + (int)ms.pass;
        double began, in_kernels = 0, after = 0;
        measure_model_pass_work(s->device, op, &ms, &parts[part]);
        if (cold)
            TRY(ops->flush(s->device, err));
        TRY(ops->model_pass(s->device, op, &ms, n_repeats, &in_kernels, &after, err));
        seconds[part] += in_kernels;
        began = file_now_seconds();
        if (!model_statistics_finish_pass(&ms)) {
            st = error_set(err, WM_BUG, "measuring %s: it did not count every element", parts[part].kernel);
            goto out;
        }
        seconds[PART_WHOLE] += in_kernels + after + file_now_seconds() - began;
    }
    model_thresholds_apply(&ms.result, op);
out:
    model_statistics_release(&ms);
    return st;
}

/* Every pass of a tensor and its merge once, `n_repeats` times each. seconds: of one of them; 0: there is no such part. What
 * each part moves and computes goes to `parts`. */
static enum wm_status all_parts(struct session *s, const struct measure_case *c, bool cold, int n_repeats,
                                double seconds[N_PARTS], struct measure_row *parts, struct wm_error *err)
{
    const struct measure_device_ops *ops = s->device->ops;
    uint64_t n_elems = parts[PART_COMBINE].n_elems, n_left;
    struct statistics *statistics = NULL;
    struct merge_op op;
    enum wm_status st;

    memset(seconds, 0, N_PARTS * sizeof *seconds);
    for (int p = 0; p < N_PARTS; p++) {
        parts[p].n_bytes = 0;
        parts[p].n_operations = 0;
    }
    TRY(measure_prepare(c, n_elems, &op, err));
    if (statistics_first_pass(&op) != STAT_READY) {
        statistics = statistics_new(&op, s->device->tile_elems);
        if (!statistics) {
            st = error_no_memory(err, "measuring kernels");
            goto out;
        }
        if (c->way == WAY_GUESS)
            statistics_speculate(statistics);
        if (ops->repeats)
            statistics_avoid_repeats(statistics); /* a GPU counts all bins: bets on samples are the CPU's */
        TRY(tensor_passes(s, &op, statistics, cold, n_repeats, seconds, parts, err));
    }
    if (op.model_statistics)
        TRY(model_passes(s, &op, cold, n_repeats, seconds, parts, err));
    n_left = measure_elements_left(&op, statistics, s->device->tile_elems);
    parts[PART_COMBINE].n_operations = measure_operations(&op, STAT_READY) * (double)n_left;
    parts[PART_COMBINE].n_bytes =
        n_left * (measure_input_bytes(s->device, merge_op_n_inputs(&op)) + dtype_bits(s->device->tensors.dtype) / 8);
    if (n_left) {
        if (cold)
            TRY(ops->flush(s->device, err));
        TRY(ops->combine(s->device, &op, statistics, n_repeats, &seconds[PART_COMBINE], err));
    }
    if (statistics || op.model_statistics)
        seconds[PART_WHOLE] += seconds[PART_COMBINE];
    for (int p = 0; p < PART_WHOLE; p++) {
        parts[PART_WHOLE].n_bytes += parts[p].n_bytes;
        parts[PART_WHOLE].n_operations += parts[p].n_operations;
    }
out:
    statistics_free(statistics);
    return st;
}

static void add_samples(struct session *s, const double seconds[N_PARTS], double divisor)
{
    for (int p = 0; p < N_PARTS; p++)
        if (seconds[p] > 0)
            sampler_add(&s->samplers[p], seconds[p] / divisor);
}

static void begin_samples(struct session *s)
{
    for (int p = 0; p < N_PARTS; p++)
        sampler_begin(&s->samplers[p], s->rules);
}

/* Back to back, as often as fills the rules' time, in a few batches of which the median counts. Where a pass adds to what it
 * found before (the CPU's), all of a tensor's passes come one after another instead. */
static enum wm_status batches(struct session *s, const struct measure_case *c, double cold_seconds,
                              struct measure_row *parts, struct wm_error *err)
{
    double wanted = s->rules->min_seconds / 10;
    int n = cold_seconds > 0 && wanted / cold_seconds < 10000 ? (int)(wanted / cold_seconds) + 1 : 10000;
    bool repeats = s->device->ops->repeats;
    enum wm_status st = WM_OK;

    begin_samples(s);
    for (int i = 0; i < 5; i++) {
        double sum[N_PARTS] = {0}, seconds[N_PARTS], began = file_now_seconds();
        int n_done = 0;
        do {
            TRY(all_parts(s, c, false, repeats ? n : 1, seconds, parts, err));
            for (int p = 0; p < N_PARTS; p++)
                sum[p] += seconds[p];
            n_done++;
        } while (!repeats && n_done < n && file_now_seconds() - began < 3 * wanted);
        add_samples(s, sum, n_done);
    }
    for (int p = 0; p < PART_WHOLE; p++) /* the whole is not: the host's part in it is not repeated */
        parts[p].batch = sampler_end(&s->samplers[p]);
out:
    return st;
}

static const char *part_name(int part)
{
    if (part == PART_WHOLE)
        return "whole";
    return part < PART_MODEL ? measure_pass_name((enum stat_pass)part)
                             : measure_model_pass_name((enum model_pass)(part - PART_MODEL));
}

static void name_row(struct measure_row *row, const struct session *s, const struct measure_case *c, uint64_t n_elems,
                     uint64_t tensor_bytes)
{
    memset(row, 0, sizeof *row);
    snprintf(row->kernel, sizeof row->kernel, "%s", c->kernel);
    row->dtype = s->device->tensors.dtype;
    row->n_models = c->n_models;
    row->n_elems = n_elems;
    row->tensor_bytes = tensor_bytes;
    row->n_tensors = 1;
    row->tile_elems = s->device->tile_elems;
}

static enum wm_status measure_case_at(struct session *s, const struct measure_case *c, uint64_t tensor_bytes,
                                      struct wm_error *err)
{
    struct measure_row parts[N_PARTS];
    double seconds[N_PARTS], cold = 0;
    enum wm_status st;

    for (int p = 0; p < N_PARTS; p++) {
        name_row(&parts[p], s, c, s->device->tensors.n_elems, tensor_bytes);
        parts[p].part = part_name(p);
    }
    s->device->searching = c->way == WAY_SEARCH;
    TRY(all_parts(s, c, true, 1, seconds, parts, err)); /* warms up pages, tables and the device's code */
    begin_samples(s);
    do {
        TRY(all_parts(s, c, true, 1, seconds, parts, err));
        add_samples(s, seconds, 1);
    } while (sampler_wants_more(&s->samplers[seconds[PART_WHOLE] > 0 ? PART_WHOLE : PART_COMBINE]));
    for (int p = 0; p < N_PARTS; p++) {
        parts[p].cold = sampler_end(&s->samplers[p]);
        cold += p == PART_WHOLE ? 0 : parts[p].cold.seconds;
    }
    TRY(batches(s, c, cold, parts, err));
    for (int p = 0; p < N_PARTS; p++)
        if (parts[p].cold.n_samples)
            TRY(add_row(s->m, &parts[p], err));
out:
    s->device->searching = false;
    return st;
}

/* Many small tensors at once, as routers, norms and the experts of small models come. */
static enum wm_status measure_group_at(struct session *s, const struct measure_case *c, size_t n_tensors,
                                       struct wm_error *err)
{
    uint64_t tensor_elems = s->device->tensors.n_elems / n_tensors;
    struct measure_group group = {malloc(n_tensors * sizeof *group.ops), n_tensors, tensor_elems};
    struct sampler *sampler = &s->samplers[PART_WHOLE];
    struct measure_row row;
    struct merge_op op;
    double seconds = 0;
    enum wm_status st;

    if (!group.ops)
        return error_no_memory(err, "measuring kernels");
    name_row(&row, s, c, tensor_elems, tensor_elems * (dtype_bits(s->device->tensors.dtype) / 8));
    row.part = "group";
    row.n_tensors = n_tensors;
    snprintf(row.kernel, sizeof row.kernel, "%s, x %zu", c->kernel, n_tensors);
    TRY(measure_prepare(c, tensor_elems, &op, err));
    row.n_bytes = n_tensors * tensor_elems *
                  (measure_input_bytes(s->device, merge_op_n_inputs(&op)) + dtype_bits(s->device->tensors.dtype) / 8);
    row.n_operations = measure_operations(&op, STAT_READY) * (double)(n_tensors * tensor_elems);
    if (statistics_first_pass(&op) != STAT_READY)
        row.n_operations += measure_operations(&op, statistics_first_pass(&op)) * (double)(n_tensors * tensor_elems);
    for (int turn = 0;; turn++) {
        for (size_t i = 0; i < n_tensors; i++)
            group.ops[i] = op;
        TRY(s->device->ops->flush(s->device, err));
        TRY(s->device->ops->group(s->device, &group, &seconds, err));
        if (turn == 0)
            sampler_begin(sampler, s->rules); /* the first one warmed up */
        else
            sampler_add(sampler, seconds);
        if (turn && !sampler_wants_more(sampler))
            break;
    }
    row.cold = sampler_end(sampler);
    TRY(add_row(s->m, &row, err));
out:
    free(group.ops);
    return st;
}

static bool can_measure(const struct session *s, const struct measure_case *c, uint64_t n_elems)
{
    struct merge_op op;
    struct wm_error err;

    if (c->way == WAY_SEARCH)
        return s->device->ops->searches;
    return c->way != WAY_GUESS ||
           (measure_prepare(c, n_elems, &op, &err) == WM_OK && statistics_can_speculate(&op, s->device->tile_elems));
}

/* What one set of tensors is for: which cases take it, and how. */
struct load {
    enum wm_dtype dtype;
    bool mixed;
    uint64_t tensor_bytes;
    size_t n_group; /* tensors that it consists of; 0: it is one */
};

static enum wm_status load_tensors(struct session *s, const struct load *load, int n_inputs, struct wm_error *err)
{
    struct measure_device *device = s->device;

    device->tensors.n_inputs = n_inputs;
    device->tensors.dtype = load->dtype;
    device->tensors.n_elems = load->tensor_bytes / (dtype_bits(load->dtype) / 8) * (load->n_group ? load->n_group : 1);
    for (int i = 0; i < n_inputs; i++)
        device->tensors.in_dtype[i] = measure_input_type(load->dtype, load->mixed, i);
    return device->ops->load(device, err);
}

static enum wm_status kernels_at(struct session *s, const struct load *load, struct wm_error *err)
{
    uint64_t n_elems = load->tensor_bytes / (dtype_bits(load->dtype) / 8);
    const struct measure_case *cases;
    size_t n_cases = measure_cases(&cases);
    char what[96], size[24];
    int n_loaded = 0;
    enum wm_status st = WM_OK;

    for (size_t i = 0; i < n_cases; i++) {
        const struct measure_case *c = &cases[i];
        int n_inputs = c->n_models + c->has_base;
        uint64_t all_bytes = load->tensor_bytes * (load->n_group ? load->n_group : 1) * (load->mixed ? 2 : 1);
        if ((s->options->only && !strstr(c->kernel, s->options->only)) || c->mixed != load->mixed ||
            (load->n_group && !c->group) || !can_measure(s, c, n_elems) ||
            (all_bytes > s->device->ops->tensor_limit(s->device, n_inputs) && n_inputs > n_loaded))
            continue;
        snprintf(what, sizeof what, "%s, %s, %s", c->kernel, dtype_name(load->dtype),
                 text_bytes(size, sizeof size, load->tensor_bytes));
        TRY(step(s, what, err));
        if (n_inputs > n_loaded) {
            TRY(load_tensors(s, load, n_inputs, err));
            n_loaded = n_inputs;
        }
        if (load->n_group)
            TRY(measure_group_at(s, c, load->n_group, err));
        else
            TRY(measure_case_at(s, c, load->tensor_bytes, err));
    }
out:
    s->device->ops->unload(s->device);
    return st;
}

/* In every size of tile that the device knows: the largest shows the kernels, the engine's what a merge gets of them. */
static enum wm_status kernels_in_tiles(struct session *s, const struct load *load, struct wm_error *err)
{
    uint64_t n_elems = load->tensor_bytes / (dtype_bits(load->dtype) / 8), tile_elems;
    enum wm_status st = WM_OK;

    for (int which = 0; (tile_elems = s->device->ops->tile_elems(s->device, which, load->dtype)) != 0; which++) {
        s->device->tile_elems = tile_elems;
        if (which == 0 || n_elems > tile_elems)
            TRY(kernels_at(s, load, err));
    }
out:
    return st;
}

static enum wm_status kernels(struct session *s, struct wm_error *err)
{
    static const enum wm_dtype others[] = {WM_F16, WM_F32};
    static const uint64_t other_sizes[] = {1 << 20, 64 << 20};
    bool quick = s->m->quick;
    const uint64_t *sizes = quick ? quick_sizes : thorough_sizes;
    size_t n_sizes = quick ? sizeof quick_sizes / sizeof *sizes : sizeof thorough_sizes / sizeof *sizes;
    struct load load = {.dtype = WM_BF16, .tensor_bytes = GROUP_TENSOR_BYTES, .n_group = quick ? 256 : 4096};
    enum wm_status st = WM_OK;

    TRY(kernels_in_tiles(s, &load, err));
    load.n_group = 0;
    for (size_t i = 0; i < n_sizes; i++) {
        load.tensor_bytes = sizes[i];
        TRY(kernels_in_tiles(s, &load, err));
    }
    load.mixed = true;
    for (size_t i = quick; i < 2; i++) {
        load.tensor_bytes = quick ? quick_sizes[1] : other_sizes[i];
        TRY(kernels_in_tiles(s, &load, err));
    }
    load.mixed = false;
    for (size_t d = 0; d < 2 && !quick; d++)
        for (size_t i = 0; i < 2; i++) {
            load.dtype = others[d];
            load.tensor_bytes = other_sizes[i];
            TRY(kernels_in_tiles(s, &load, err));
        }
out:
    return st;
}

/* ---- all of it ---------------------------------------------------------------------------------------------- */

#ifndef WM_HAVE_CUDA
int measure_n_gpus(void)
{
    return 0;
}
#endif

static enum wm_status open_device(struct session *s, struct wm_error *err)
{
#ifdef WM_HAVE_CUDA
    if (s->options->use_gpu)
        return measure_open_cuda(&s->device, s->options->gpu, s->options->gpu_tile_bytes, err);
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
    m->gpu = options->gpu;
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
    m->complete = true;
out:
    m->seconds = file_now_seconds() - began;
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
