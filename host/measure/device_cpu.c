/*
 * device_cpu.c: kernels measured on the processor.
 *
 * What lives here: tensors in host memory, tiles shared out over a team of threads, and cache lines flushed one by one
 * (no buffer is large enough for every last-level cache). What it must not know: which kernels, how often.
 */
#include "measure/measure.h"

#include "base/dtype.h"
#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TILE_ELEMS  ((uint64_t)1 << 18)
#define FLUSH_BYTES ((size_t)64 << 20) /* where lines cannot be flushed by address: written once */

struct cpu {
    struct measure_device device;
    struct measure_team *team;
    struct cpu_scratch **scratch; /* [n_threads] */
    size_t tensor_bytes;          /* of the widest */
    char *flush_memory;
    /* of the pass that runs */
    const struct merge_op *op;
    struct statistics *s;        /* NULL: combine */
    struct model_statistics *ms; /* NULL: no pass over a model */
    uint64_t next_tile;
    struct measure_group *group;
    bool failed; /* out of memory */
};

static void cpu_describe(const struct measure_device *device, char text[MEASURE_DEVICE_BYTES])
{
    const struct cpu *c = (const struct cpu *)device;
    char line[256], *colon;
    FILE *f = fopen("/proc/cpuinfo", "r");
    const char *name = "processor";

    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "model name", 10) == 0 && (colon = strchr(line, ':')) != NULL) {
            line[strcspn(line, "\n")] = '\0';
            name = colon + 2;
            break;
        }
    if (f)
        (void)fclose(f);
    snprintf(text, MEASURE_DEVICE_BYTES, "%.100s, %s, %d threads", name, cpu_isa(), measure_team_size(c->team));
}

static uint64_t cpu_tensor_limit(const struct measure_device *device, int n_inputs)
{
    long pages = sysconf(_SC_AVPHYS_PAGES), page = sysconf(_SC_PAGESIZE);

    (void)device;
    return pages < 0 || page < 0 ? (uint64_t)64 << 20 : (uint64_t)pages * (uint64_t)page / 2 / (uint64_t)(n_inputs + 1);
}

static void cpu_unload(struct measure_device *device)
{
    for (int i = 0; i < MEASURE_MAX_INPUTS; i++) {
        free(device->tensors.in[i]);
        device->tensors.in[i] = NULL;
    }
    free(device->tensors.out);
    device->tensors.out = NULL;
}

static void fill_share(void *user, int worker)
{
    struct cpu *c = user;
    struct measure_device *d = &c->device;

    for (int i = worker; i < d->tensors.n_inputs; i += measure_team_size(c->team))
        measure_fill(d->tensors.in[i], d->tensors.in_dtype[i], d->tensors.n_elems, i);
}

static size_t bytes_of(const struct measure_device *device, enum wm_dtype dtype)
{
    return (size_t)(device->tensors.n_elems * dtype_bits(dtype) / 8);
}

static enum wm_status cpu_load(struct measure_device *device, struct wm_error *err)
{
    struct cpu *c = (struct cpu *)device;
    size_t n_bytes = bytes_of(device, device->tensors.dtype);

    cpu_unload(device);
    c->tensor_bytes = n_bytes;
    device->tensors.out = aligned_alloc(4096, (n_bytes + 4095) / 4096 * 4096);
    if (!device->tensors.out)
        return error_no_memory(err, "measuring kernels");
    memset(device->tensors.out, 1, n_bytes);
    for (int i = 0; i < device->tensors.n_inputs; i++) {
        n_bytes = bytes_of(device, device->tensors.in_dtype[i]);
        if (n_bytes > c->tensor_bytes)
            c->tensor_bytes = n_bytes;
        device->tensors.in[i] = aligned_alloc(4096, (n_bytes + 4095) / 4096 * 4096);
        if (!device->tensors.in[i])
            return error_no_memory(err, "measuring kernels");
    }
    measure_team_run(c->team, fill_share, c);
    return WM_OK;
}

static void flush_share(void *user, int worker)
{
    struct cpu *c = user;
    const struct measure_device *d = &c->device;
    size_t n_workers = (size_t)measure_team_size(c->team);

    for (int i = 0; i <= d->tensors.n_inputs; i++) {
        bool is_input = i < d->tensors.n_inputs;
        char *tensor = is_input ? d->tensors.in[i] : d->tensors.out;
        size_t n_bytes = bytes_of(d, is_input ? d->tensors.in_dtype[i] : d->tensors.dtype);
        size_t share = (n_bytes / n_workers + 63) / 64 * 64, first = share * (size_t)worker;
        size_t end = first + share < n_bytes ? first + share : n_bytes;
#if defined(__x86_64__)
        for (size_t at = first; at < end; at += 64)
            __builtin_ia32_clflush(tensor + at);
#else
        (void)tensor;
        (void)end;
        memset(c->flush_memory + FLUSH_BYTES / n_workers * (size_t)worker, i, FLUSH_BYTES / n_workers);
#endif
    }
}

/* Lines flushed by address cost more than reading them; above this size a pass leaves nothing of the last one behind. */
static enum wm_status cpu_flush(struct measure_device *device, struct wm_error *err)
{
    struct cpu *c = (struct cpu *)device;

    (void)err;
    if (c->tensor_bytes * (size_t)(device->tensors.n_inputs + 1) <= (size_t)512 << 20)
        measure_team_run(c->team, flush_share, c);
    return WM_OK;
}

static void run_share(void *user, int worker)
{
    struct cpu *c = user;
    uint64_t n_tiles = (c->op->n_elems + c->device.tile_elems - 1) / c->device.tile_elems;
    enum stat_pass pass = c->s ? statistics_pass(c->s) : STAT_READY;
    struct merge_report report;
    struct merge_tile tile;

    merge_report_init(&report);
    for (;;) {
        uint64_t index = __atomic_fetch_add(&c->next_tile, 1, __ATOMIC_RELAXED);
        if (index >= n_tiles)
            return;
        measure_tile(&tile, &c->device, c->op, index, !c->ms && (pass == STAT_READY || pass == STAT_KTH_GUESS));
        if (c->ms) {
            cpu_model_statistics_tile(c->op, c->ms, &tile, c->scratch[worker]);
        } else if (pass == STAT_READY) {
            if (!c->s || !statistics_tile_stands(c->s, tile.index))
                cpu_combine_tile(c->op, c->s, &tile, c->scratch[worker], &report);
        } else if (!statistics_needs_tile(c->s, tile.index)) {
            continue;
        } else if (pass == STAT_KTH_GUESS) {
            cpu_guess_tile(c->op, c->s, &tile, c->scratch[worker], &report);
        } else {
            cpu_statistics_tile(c->op, c->s, &tile, c->scratch[worker]);
        }
    }
}

/* Small tensors and passes that want their tiles in order stay on this thread, as in the engine. s: all that it is used
 * for once it is ready is to say which tiles are done. */
static void run(struct cpu *c, const struct merge_op *op, struct statistics *s)
{
    c->op = op;
    c->s = s;
    c->next_tile = 0;
    if (op->n_elems <= c->device.tile_elems || (s && statistics_pass(s) != STAT_READY && statistics_in_order(s)))
        run_share(c, 0);
    else
        measure_team_run(c->team, run_share, c);
}

static enum wm_status cpu_combine(struct measure_device *device, const struct merge_op *op, const struct statistics *s,
                                  int n_repeats, double *seconds, struct wm_error *err)
{
    double began = file_now_seconds();

    (void)err;
    for (int i = 0; i < n_repeats; i++)
        run((struct cpu *)device, op, (struct statistics *)s);
    *seconds = (file_now_seconds() - began) / n_repeats;
    return WM_OK;
}

static uint64_t cpu_tile_elems(const struct measure_device *device, int which, enum wm_dtype dtype)
{
    (void)device;
    (void)dtype;
    return which == 0 ? TILE_ELEMS : 0;
}

static enum wm_status cpu_pass(struct measure_device *device, const struct merge_op *op, struct statistics *s,
                               int n_repeats, double *seconds, double *after, struct wm_error *err)
{
    double began = file_now_seconds();

    (void)n_repeats;
    (void)err;
    run((struct cpu *)device, op, s);
    *after = 0;
    *seconds = file_now_seconds() - began;
    return WM_OK;
}

static enum wm_status cpu_model_pass(struct measure_device *device, const struct merge_op *op,
                                     struct model_statistics *ms, int n_repeats, double *seconds, double *after,
                                     struct wm_error *err)
{
    struct cpu *c = (struct cpu *)device;
    double began = file_now_seconds();

    (void)n_repeats;
    (void)err;
    c->ms = ms;
    run(c, op, NULL);
    c->ms = NULL;
    *after = 0;
    *seconds = file_now_seconds() - began;
    return WM_OK;
}

/* As the engine's CPU backend merges a group: each member by itself, on one thread. */
static void group_share(void *user, int worker)
{
    struct cpu *c = user;
    struct merge_report report;
    struct merge_tile tile;

    merge_report_init(&report);
    for (;;) {
        uint64_t index = __atomic_fetch_add(&c->next_tile, 1, __ATOMIC_RELAXED);
        struct statistics *s = NULL;
        struct merge_op *op;
        if (index >= c->group->n_tensors)
            return;
        op = &c->group->ops[index];
        measure_group_tile(&tile, &c->device, op, (size_t)index);
        if (statistics_first_pass(op) != STAT_READY && !(s = statistics_new(op, TILE_ELEMS))) {
            __atomic_store_n(&c->failed, true, __ATOMIC_RELAXED);
            return;
        }
        while (s && statistics_pass(s) != STAT_READY) {
            cpu_statistics_tile(op, s, &tile, c->scratch[worker]);
            statistics_finish_pass(s, op);
        }
        cpu_combine_tile(op, s, &tile, c->scratch[worker], &report);
        statistics_free(s);
    }
}

static enum wm_status cpu_group(struct measure_device *device, struct measure_group *group, double *seconds,
                                struct wm_error *err)
{
    struct cpu *c = (struct cpu *)device;
    double began = file_now_seconds();

    c->group = group;
    c->next_tile = 0;
    measure_team_run(c->team, group_share, c);
    *seconds = file_now_seconds() - began;
    return c->failed ? error_no_memory(err, "measuring kernels") : WM_OK;
}

static enum wm_status cpu_ceilings(struct measure_device *device, struct measure *m, const struct sample_rules *rules,
                                   struct wm_error *err)
{
    struct cpu *c = (struct cpu *)device;

    (void)rules;
    (void)err;
    m->copy_bytes_per_second = measure_find_ceiling(m, "host_copy")->bytes_per_second;
    m->peak_operations_per_second = measure_peak_operations(c->team);
    m->peak_source = "measured: multiplications and additions on registers, all threads, no fma";
    return WM_OK;
}

static void cpu_close(struct measure_device *device)
{
    struct cpu *c = (struct cpu *)device;

    cpu_unload(device);
    for (int i = 0; c->scratch && i < measure_team_size(c->team); i++)
        cpu_scratch_free(c->scratch[i]);
    free(c->scratch);
    free(c->flush_memory);
    measure_team_free(c->team);
    free(c);
}

static const struct measure_device_ops cpu_ops = {.describe = cpu_describe,
                                                  .tensor_limit = cpu_tensor_limit,
                                                  .tile_elems = cpu_tile_elems,
                                                  .load = cpu_load,
                                                  .unload = cpu_unload,
                                                  .flush = cpu_flush,
                                                  .combine = cpu_combine,
                                                  .pass = cpu_pass,
                                                  .model_pass = cpu_model_pass,
                                                  .group = cpu_group,
                                                  .ceilings = cpu_ceilings,
                                                  .close = cpu_close};

enum wm_status measure_open_cpu(struct measure_device **device, int n_threads, struct wm_error *err)
{
    struct cpu *c = calloc(1, sizeof *c);
    bool complete = false;

    *device = NULL;
    if (!c)
        return error_no_memory(err, "measuring kernels");
    c->device.ops = &cpu_ops;
    c->team = measure_team_new(n_threads);
    if (c->team) {
        c->scratch = calloc((size_t)n_threads, sizeof *c->scratch);
        c->flush_memory = malloc(FLUSH_BYTES);
        complete = c->scratch && c->flush_memory;
        for (int i = 0; complete && i < n_threads; i++)
            complete = (c->scratch[i] = cpu_scratch_new()) != NULL;
    }
    if (!complete) {
        if (c->team)
            cpu_close(&c->device);
        else
            free(c);
        return error_no_memory(err, "measuring kernels");
    }
    *device = &c->device;
    return WM_OK;
}
