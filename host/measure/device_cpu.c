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
    char *in[MEASURE_MAX_INPUTS], *out;
    int n_inputs;
    enum wm_dtype dtype;
    uint64_t n_elems;
    size_t tensor_bytes;
    char *flush_memory;
    /* of the pass that runs */
    const struct merge_op *op;
    struct statistics *s; /* NULL: combine */
    uint64_t next_tile;
    bool flushing;
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

static void unload(struct cpu *c)
{
    for (int i = 0; i < MEASURE_MAX_INPUTS; i++) {
        free(c->in[i]);
        c->in[i] = NULL;
    }
    free(c->out);
    c->out = NULL;
}

static void fill_share(void *user, int worker)
{
    struct cpu *c = user;

    for (int i = worker; i < c->n_inputs; i += measure_team_size(c->team))
        measure_fill(c->in[i], c->dtype, c->n_elems, i);
}

static enum wm_status cpu_load(struct measure_device *device, int n_inputs, enum wm_dtype dtype, uint64_t n_elems,
                               struct wm_error *err)
{
    struct cpu *c = (struct cpu *)device;
    size_t n_bytes = (size_t)(n_elems * dtype_bits(dtype) / 8), room = (n_bytes + 4095) / 4096 * 4096;

    unload(c);
    c->n_inputs = n_inputs;
    c->dtype = dtype;
    c->n_elems = n_elems;
    c->tensor_bytes = n_bytes;
    c->out = aligned_alloc(4096, room);
    for (int i = 0; i < n_inputs; i++)
        c->in[i] = aligned_alloc(4096, room);
    for (int i = 0; i < n_inputs; i++)
        if (!c->in[i] || !c->out)
            return error_no_memory(err, "measuring kernels");
    memset(c->out, 1, n_bytes);
    measure_team_run(c->team, fill_share, c);
    return WM_OK;
}

static void flush_share(void *user, int worker)
{
    struct cpu *c = user;
    size_t n_workers = (size_t)measure_team_size(c->team), share = (c->tensor_bytes / n_workers + 63) / 64 * 64;
    size_t first = share * (size_t)worker;
    size_t end = first + share < c->tensor_bytes ? first + share : c->tensor_bytes;

    for (int i = 0; i <= c->n_inputs; i++) {
        char *tensor = i < c->n_inputs ? c->in[i] : c->out;
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
    if (c->tensor_bytes * (size_t)(c->n_inputs + 1) <= (size_t)512 << 20)
        measure_team_run(c->team, flush_share, c);
    return WM_OK;
}

static void run_share(void *user, int worker)
{
    struct cpu *c = user;
    uint64_t n_tiles = (c->n_elems + TILE_ELEMS - 1) / TILE_ELEMS;
    struct merge_report report;
    struct merge_tile tile;

    merge_report_init(&report);
    for (;;) {
        uint64_t index = __atomic_fetch_add(&c->next_tile, 1, __ATOMIC_RELAXED);
        if (index >= n_tiles)
            return;
        measure_tile(&tile, c->op, TILE_ELEMS, index, c->dtype, c->in, c->s ? NULL : c->out);
        if (!c->s)
            cpu_combine_tile(c->op, NULL, &tile, c->scratch[worker], &report);
        else if (statistics_needs_tile(c->s, tile.index))
            cpu_statistics_tile(c->op, c->s, &tile, c->scratch[worker]);
    }
}

/* Small tensors and passes that want their tiles in order stay on this thread, as in the engine. */
static void run(struct cpu *c, const struct merge_op *op, struct statistics *s)
{
    c->op = op;
    c->s = s;
    c->next_tile = 0;
    if (c->n_elems <= TILE_ELEMS || (s && statistics_in_order(s)))
        run_share(c, 0);
    else
        measure_team_run(c->team, run_share, c);
}

static enum wm_status cpu_combine(struct measure_device *device, const struct merge_op *op, int n_repeats,
                                  double *seconds, struct wm_error *err)
{
    double began = file_now_seconds();

    (void)err;
    for (int i = 0; i < n_repeats; i++)
        run((struct cpu *)device, op, NULL);
    *seconds = file_now_seconds() - began;
    return WM_OK;
}

static uint64_t cpu_tile_elems(const struct measure_device *device)
{
    (void)device;
    return TILE_ELEMS;
}

static enum wm_status cpu_pass(struct measure_device *device, const struct merge_op *op, struct statistics *s,
                               double *seconds, double *after, struct wm_error *err)
{
    double began = file_now_seconds();

    (void)err;
    run((struct cpu *)device, op, s);
    *after = 0;
    *seconds = file_now_seconds() - began;
    return WM_OK;
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

    unload(c);
    for (int i = 0; c->scratch && i < measure_team_size(c->team); i++)
        cpu_scratch_free(c->scratch[i]);
    free(c->scratch);
    free(c->flush_memory);
    measure_team_free(c->team);
    free(c);
}

static const struct measure_device_ops cpu_ops = {cpu_describe, cpu_tensor_limit, cpu_load,
                                                  cpu_flush,    cpu_combine,      cpu_tile_elems,
                                                  cpu_pass,     cpu_ceilings,     cpu_close};

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
