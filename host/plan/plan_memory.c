/*
 * plan_memory.c: threads, tiles and buffers under the budget.
 *
 * What lives here: how the user's budget is divided before anything is allocated, so that peak memory is a property of
 * the plan and not of the model (DESIGN promise 4). The engine allocates exactly these numbers. What it must not know:
 * how tiles are processed.
 */
#include "plan/plan_internal.h"

#include "base/machine.h"
#include "base/text.h"
#include "checkpoint/source.h"
#include "methods/tile.h"

#include <stdio.h>
#include <string.h>

/* Code, libraries and libc's arenas: a merge of a model of a few KB peaks at 12 MiB (Debian 12, 2026-11-22); the rest is
 * air for arenas of many threads. */
#define RESERVE_BYTES ((uint64_t)24 << 20)
#define STACK_BYTES   ((uint64_t)512 << 10)
/* More input slots than this many bytes never helped: readers are far enough ahead, and a ring beyond the last-level
 * cache only turns cache hits into memory traffic. Tensors with statistics need room to stay resident on top of it. */
#define RING_BYTES  ((uint64_t)32 << 20)
#define MAX_COMPUTE 256
#define MAX_READERS 64

/* Processes of one machine divide its processors, unless their launcher did. */
static int own_processors(const struct wm_options *options)
{
    int n = machine_processors(), n_sharing = options->n_ranks > 1 ? options->local_size : 1;

    return n_sharing <= 1 || machine_is_bound() ? n : n > n_sharing ? n / n_sharing : 1;
}

static void choose_threads(struct plan_memory *m, const struct wm_options *options)
{
    int n = options->n_threads > 0 ? options->n_threads : own_processors(options);

    m->n_compute = n > MAX_COMPUTE ? MAX_COMPUTE : n;
    /* 8 concurrent reads of a MiB and more saturate what one stream leaves idle (performance notes 2). */
    n = options->n_io_threads > 0 ? options->n_io_threads : m->n_compute < 4 ? 4 : 8;
    m->n_readers = n > MAX_READERS ? MAX_READERS : n;
    m->n_writers = 4; /* one writer reaches a drive's latency, four its bandwidth */
}

/* Bytes of a tile's widest element among everything that is read or written. */
static void widest(const struct plan *plan, uint64_t *in_bits, uint64_t *out_bits, int *max_sources)
{
    *in_bits = *out_bits = 8;
    *max_sources = 1;
    for (size_t j = 0; j < plan->n_jobs; j++) {
        const struct plan_job *job = &plan->jobs[j];
        if (dtype_bits(job->dtype) > *out_bits)
            *out_bits = dtype_bits(job->dtype);
        if (job->n_sources > *max_sources)
            *max_sources = job->n_sources;
        for (int s = 0; s < job->n_sources; s++)
            if (dtype_bits(job->sources[s].tensor->dtype) > *in_bits)
                *in_bits = dtype_bits(job->sources[s].tensor->dtype);
    }
}

static uint64_t n_tiles(uint64_t n_elems, uint64_t tile_elems)
{
    return n_elems ? (n_elems + tile_elems - 1) / tile_elems : 0;
}

static uint64_t slots_of(const struct plan *plan, const struct plan_job *job)
{
    return n_tiles(job->n_elems, plan->memory.tile_elems) * (uint64_t)job->n_sources;
}

bool plan_job_has_statistics(const struct plan *plan, const struct plan_job *job, struct merge_op *op)
{
    struct wm_error ignored = WM_ERROR_INIT;

    return job->action == PLAN_MERGE && plan_job_op(plan, job, op, &ignored) == WM_OK &&
           statistics_first_pass(op) != STAT_READY;
}

static bool stays_on_device(const struct plan *plan, const struct plan_job *job)
{
    const struct plan_device_memory *d = &plan->device;

    return d->n_stay_slots && job->n_elems >= d->stay_min_elems &&
           n_tiles(job->n_elems, d->tile_elems) * (uint64_t)job->n_sources <= d->n_stay_slots;
}

/* Statistics passes read a job's inputs again unless all its tiles fit into the ring at once, or a GPU's memory. */
static bool is_read_once(const struct plan *plan, const struct plan_job *job)
{
    return slots_of(plan, job) <= plan->memory.n_slots || stays_on_device(plan, job);
}

bool plan_job_speculates(const struct plan *plan, const struct plan_job *job, const struct merge_op *op)
{
    for (int s = 0; s < job->n_sources; s++)
        if (dtype_bits(job->sources[s].tensor->dtype) != 16)
            return false;
    return statistics_can_speculate(op, plan->memory.tile_elems);
}

/* Passes over the data before the element-wise one, at most: the exact k-th magnitude needs three, sums one. */
static uint64_t extra_passes(const struct merge_op *op)
{
    bool kth = false;

    for (int i = 0; i < op->n_models; i++)
        kth = kth || op->models[i].keep == KEEP_TOP;
    return (op->needs_gram ? 1 : 0) + (kth ? 3 : 0) + (op->rescale == RESCALE_L1 ? 1 : 0);
}

static enum wm_status too_small(const struct plan_memory *m, uint64_t needed, struct wm_error *err)
{
    char have[32], want[32];

    return error_set(err, WM_USAGE,
                     "--memory %s is too small: this merge needs at least %s; raise --memory or lower "
                     "--tile and --threads",
                     text_bytes(have, sizeof have, m->budget),
                     text_bytes(want, sizeof want, (needed + 0xFFFFF) & ~(uint64_t)0xFFFFF));
}

/* What one tile size costs. Returns the bytes needed at least. */
static uint64_t divide(struct plan *plan, uint64_t tile_bytes, uint64_t in_bits, uint64_t out_bits, int max_sources)
{
    struct plan_memory *m = &plan->memory;
    uint64_t fixed, useful, largest = 0, statistics = 0, at_work = (uint64_t)m->n_compute;
    struct merge_op op;

    m->tile_elems = tile_bytes * 8 / in_bits / TILE_CHUNK_ELEMS * TILE_CHUNK_ELEMS;
    if (m->tile_elems < TILE_CHUNK_ELEMS)
        m->tile_elems = TILE_CHUNK_ELEMS;
    m->slot_bytes = SOURCE_BUFFER_BYTES(m->tile_elems * in_bits / 8);
    /* A tile's bytes start in its slot where they start in their page of the file, so that whole pages can be written
     * with O_DIRECT whatever the tensor's offset is. */
    m->out_slot_bytes = m->tile_elems * out_bits / 8 + PLAN_DATA_ALIGN;
    if (plan->device.n_on_their_way)
        at_work = (uint64_t)plan->device.n_on_their_way;
    m->n_out_slots = at_work + 2 * (uint64_t)m->n_writers;

    for (size_t j = 0; j < plan->n_jobs; j++) {
        const struct plan_job *job = &plan->jobs[j];
        uint64_t bytes;
        if (!plan_job_has_statistics(plan, job, &op))
            continue;
        bytes = statistics_max_bytes(&op, m->tile_elems);
        if (bytes > statistics)
            statistics = bytes;
        if (slots_of(plan, job) > largest && !stays_on_device(plan, job))
            largest = slots_of(plan, job);
    }
    m->statistics = statistics * PLAN_MAX_STATISTICS_JOBS;
    if (m->statistics < plan->survey_counts_bytes) /* the survey is over when the merge begins */
        m->statistics = plan->survey_counts_bytes;
    m->scratch = (uint64_t)m->n_compute * cpu_scratch_bytes();
    m->output_slots = m->n_out_slots * m->out_slot_bytes;

    fixed = m->reserve + m->tables + m->scratch + m->statistics + m->output_slots;
    m->n_slots = (m->budget > fixed ? m->budget - fixed : 0) / m->slot_bytes;
    /* Room for the largest tensor and, while it is computed, for reading the next ones. */
    useful = RING_BYTES / m->slot_bytes;
    if (useful < 2 * (uint64_t)max_sources * (at_work + (uint64_t)m->n_readers))
        useful = 2 * (uint64_t)max_sources * (at_work + (uint64_t)m->n_readers);
    useful += largest + largest / 2;
    if (m->n_slots > useful)
        m->n_slots = useful;
    m->input_slots = m->n_slots * m->slot_bytes;
    m->total = fixed + m->input_slots;
    return fixed + 2 * (uint64_t)max_sources * m->slot_bytes;
}

static void measure_survey(struct plan *plan)
{
    struct wm_error ignored = WM_ERROR_INIT;
    struct merge_op op;

    for (size_t j = 0; plan->n_survey_passes && j < plan->n_jobs; j++) {
        const struct plan_job *job = &plan->jobs[j];
        if (job->action != PLAN_MERGE || plan_job_op(plan, job, &op, &ignored) != WM_OK || !op.model_statistics)
            continue;
        for (int s = 0; s < job->n_sources; s++)
            plan->survey_bytes += (uint64_t)plan->n_survey_passes * plan_source_bytes(job, s);
    }
}

/* Tensors with statistics that do not stay in the ring are read again for every pass. */
static void measure_reading(struct plan *plan)
{
    struct merge_op op;

    plan->bytes_to_read = plan->bytes_in + plan->survey_bytes;
    for (size_t j = 0; j < plan->n_jobs; j++) {
        const struct plan_job *job = &plan->jobs[j];
        if (is_read_once(plan, job) || !plan_job_has_statistics(plan, job, &op))
            continue;
        if (plan_job_speculates(plan, job, &op))
            continue; /* a few tiles more, if the guess is good; three passes more if it is bad, which is rare */
        for (int s = 0; s < job->n_sources; s++)
            plan->bytes_to_read += extra_passes(&op) * plan_source_bytes(job, s);
    }
}

static void measure_reserve(struct plan *plan)
{
    struct plan_memory *m = &plan->memory;

    m->reserve =
        RESERVE_BYTES + (uint64_t)(m->n_compute + m->n_readers + m->n_writers) * STACK_BYTES + plan->device.host_bytes;
}

static void measure_tables(struct plan_build *b)
{
    struct plan *plan = b->plan;
    struct plan_memory *m = &plan->memory;

    measure_reserve(plan);
    m->tables = plan->arena.n_bytes + b->recipe->arena.n_bytes;
    for (int i = 0; i < plan->n_models; i++)
        m->tables += plan->models[i]->arena.n_bytes;
    for (int s = 0; s < plan->n_shards; s++)
        m->tables += plan->shards[s].n_header_bytes;
    m->tables += plan->n_jobs * sizeof(struct hash128);
}

enum wm_status plan_build_memory(struct plan_build *b, struct wm_error *err)
{
    struct plan *plan = b->plan;
    struct plan_memory *m = &plan->memory;
    uint64_t in_bits, out_bits, needed;
    uint64_t tile_bytes = b->options->tile_bytes ? b->options->tile_bytes : PLAN_DEFAULT_TILE_BYTES;
    int max_sources;

    memset(m, 0, sizeof *m);
    m->budget = b->options->memory_bytes ? b->options->memory_bytes : PLAN_DEFAULT_MEMORY_BYTES;
    choose_threads(m, b->options);
    widest(plan, &in_bits, &out_bits, &max_sources);
    measure_tables(b);
    needed = divide(plan, tile_bytes, in_bits, out_bits, max_sources);
    /* Many models or many threads: smaller tiles, unless the user chose their size. The bytes of the result stay. */
    while (needed > m->budget && !b->options->tile_bytes && m->tile_elems > TILE_CHUNK_ELEMS)
        needed = divide(plan, tile_bytes /= 2, in_bits, out_bits, max_sources);
    if (needed > m->budget)
        return too_small(m, needed, err);

    measure_survey(plan);
    measure_reading(plan);
    return WM_OK;
}

enum wm_status plan_memory_with_tiles(const struct plan *plan, uint64_t tile_elems, struct plan_memory *memory,
                                      struct wm_error *err)
{
    struct plan other = *plan;
    uint64_t in_bits, out_bits, needed;
    int max_sources;

    widest(plan, &in_bits, &out_bits, &max_sources);
    needed = divide(&other, tile_elems * in_bits / 8, in_bits, out_bits, max_sources);
    if (needed > other.memory.budget)
        return too_small(&other.memory, needed, err);
    *memory = other.memory;
    return WM_OK;
}

/* Fewer tiles than these of every input would make readers, device and writers wait for each other. */
#define RING_TILES 8

void plan_enlarge_tiles(struct plan *plan, uint64_t tile_bytes)
{
    struct wm_error ignored = WM_ERROR_INIT;
    uint64_t in_bits, out_bits;
    struct plan_memory memory;
    int max_sources;

    widest(plan, &in_bits, &out_bits, &max_sources);
    for (; tile_bytes > plan->memory.tile_elems * in_bits / 8; tile_bytes /= 2) {
        uint64_t tile_elems = tile_bytes * 8 / in_bits / TILE_CHUNK_ELEMS * TILE_CHUNK_ELEMS;
        if (plan_memory_with_tiles(plan, tile_elems, &memory, &ignored) != WM_OK ||
            memory.n_slots < RING_TILES * (uint64_t)max_sources)
            continue;
        plan->memory = memory;
        measure_reading(plan);
        return;
    }
}

void plan_use_device(struct plan *plan, const struct plan_device_memory *device)
{
    struct wm_error ignored = WM_ERROR_INIT;
    struct plan_memory memory;

    plan->device = *device;
    measure_reserve(plan);
    if (plan_memory_with_tiles(plan, plan->memory.tile_elems, &memory, &ignored) == WM_OK)
        plan->memory = memory;
    measure_reading(plan);
}
