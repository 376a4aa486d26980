/*
 * backends.c: which devices a run uses.
 *
 * What lives here: the choice between the CPU and the GPUs, from what the user asked for and what the machine has. The
 * one file that is different with and without CUDA. What it must not know: how any backend works.
 */
#include "engine/backends.h"

#include "base/dtype.h"
#include "base/machine.h"

#include <stdio.h>
#include <string.h>

/* Of the host's memory, for each GPU: inputs of drawn blocks (one in a thousand of 16 GiB that stay), but no more of a small
 * budget than that; groups on their way, and what answers its questions. */
#define KEPT_BYTES       ((uint64_t)16 << 20)
#define KEPT_OF_BUDGET   64
#define OTHER_HOST_BYTES ((uint64_t)8 << 20)

static uint64_t kept_bytes(const struct plan_memory *memory)
{
    return memory->budget / KEPT_OF_BUDGET < KEPT_BYTES ? memory->budget / KEPT_OF_BUDGET : KEPT_BYTES;
}

static enum wm_status open_cpu(const struct plan *plan, struct backends *backends, struct wm_error *err)
{
    enum wm_status st = backend_open_cpu(&backends->items[0], err);

    if (st == WM_OK) {
        backends->n_items = 1;
        backends->threads_per_backend = plan->memory.n_compute;
        backends->memory = plan->memory;
    }
    return st;
}

/* Of GPUs: whoever is free takes the next tensor, so that it must fit all. */
static void measure_opened(struct backends *backends)
{
    struct plan_device_memory *d = &backends->device;

    *d = (struct plan_device_memory){.tile_elems = backends->memory.tile_elems,
                                     .n_stay_slots = backends->items[0]->stay_slots,
                                     .stay_min_elems = backends->items[0]->stay_min_elems};
    for (int b = 0; b < backends->n_items; b++) {
        if (backends->items[b]->stay_slots < d->n_stay_slots)
            d->n_stay_slots = backends->items[b]->stay_slots;
        d->n_on_their_way += backends->items[b]->depth;
        d->host_bytes += kept_bytes(&backends->memory) + OTHER_HOST_BYTES;
    }
}

#ifdef WM_HAVE_CUDA

static void fill_options(const struct plan *plan, const struct wm_options *options, const struct plan_memory *memory,
                         struct backend_cuda_options *cuda)
{
    uint64_t tile_elems = memory->tile_elems;

    *cuda = (struct backend_cuda_options){.memory_bytes = options->device_memory_bytes,
                                          .tile_out_bytes = memory->out_slot_bytes,
                                          .max_inputs = 1,
                                          .kept_bytes = kept_bytes(memory),
                                          .verify_per_1000 = (unsigned)options->verify_per_1000};
    for (size_t j = 0; j < plan->n_jobs; j++) {
        const struct plan_job *job = &plan->jobs[j];
        if (job->n_sources > cuda->max_inputs)
            cuda->max_inputs = job->n_sources;
        for (int s = 0; s < job->n_sources; s++) {
            uint64_t n_bytes = tile_elems * dtype_bits(job->sources[s].tensor->dtype) / 8;
            if (n_bytes > cuda->tile_in_bytes)
                cuda->tile_in_bytes = n_bytes;
        }
    }
}

/* The user's choice; or several processes share a machine, and each takes the next GPU in turn. */
int backends_own_device(const struct wm_options *options)
{
    int n_devices = options->device == WM_DEVICE_CPU ? 0 : backend_cuda_count();

    if (options->device == WM_DEVICE_CUDA && options->device_index)
        return options->device_index - 1;
    if (n_devices && options->n_ranks > 1 && options->local_size > 1)
        return options->local_rank % n_devices;
    return n_devices == 1 ? 0 : -1;
}

void backends_name_device(const struct wm_options *options, char name[BACKENDS_NAME_BYTES])
{
    int device = options->device == WM_DEVICE_CPU ? -1 : backends_own_device(options);
    char machine[MACHINE_ID_BYTES], bus[32];

    memset(name, 0, BACKENDS_NAME_BYTES);
    if (device < 0 || !backend_cuda_bus(device, bus, sizeof bus))
        return;
    machine_id(machine);
    snprintf(name, BACKENDS_NAME_BYTES, "%s %s", machine, bus);
}

/* The devices that this process would use, and what became of them. */
struct candidates {
    int first, end;
    bool refused[BACKENDS_MAX]; /* by device number less first */
    struct wm_error last;       /* why the last one that was refused was */
};

static void refuse(struct candidates *c, int device, const struct wm_error *why)
{
    c->refused[device - c->first] = true;
    c->last = *why;
}

/* Opens those that are not refused with tiles of one size. Refuses what has a fault of its own; false: some are only short of
 * memory (`is_short`), and all are closed again. */
static bool open_all(struct candidates *c, struct backend_cuda_options *options, struct backends *backends,
                     bool is_short[BACKENDS_MAX])
{
    bool any_short = false;

    for (int d = c->first; d < c->end; d++) {
        struct wm_error why = WM_ERROR_INIT;
        enum wm_status st;
        is_short[d - c->first] = false;
        if (c->refused[d - c->first])
            continue;
        options->device = d;
        st = backend_open_cuda(&backends->items[backends->n_items], options, &why);
        if (st == WM_OK) {
            backends->n_items++;
        } else if (st == WM_TEMPORARY) {
            any_short = is_short[d - c->first] = true;
            c->last = why;
        } else {
            refuse(c, d, &why);
        }
    }
    if (any_short)
        backends_close(backends);
    return !any_short;
}

/* Tiles of half the size, while there are any and the host's budget holds their bookkeeping. Ranks must agree on the size
 * where they share a tensor, so that none of them changes it alone. */
static bool halve_tiles(const struct plan *plan, const struct wm_options *options, struct plan_memory *memory)
{
    struct wm_error ignored = WM_ERROR_INIT;
    uint64_t half = memory->tile_elems / 2 / TILE_CHUNK_ELEMS * TILE_CHUNK_ELEMS;

    return options->n_ranks <= 1 && half && plan_memory_with_tiles(plan, half, memory, &ignored) == WM_OK;
}

/* With tiles as large as fit all devices; one that is too small for any is left out. */
static void open_what_fits(const struct plan *plan, const struct wm_options *options, int n_sharing,
                           struct candidates *c, struct backends *backends)
{
    struct backend_cuda_options cuda;
    bool is_short[BACKENDS_MAX];

    backends->memory = plan->memory;
    for (;;) {
        fill_options(plan, options, &backends->memory, &cuda);
        cuda.n_sharing = n_sharing;
        if (open_all(c, &cuda, backends, is_short))
            return;
        if (halve_tiles(plan, options, &backends->memory))
            continue;
        for (int d = c->first; d < c->end; d++)
            if (is_short[d - c->first])
                c->refused[d - c->first] = true;
        backends->memory = plan->memory;
    }
}

/* What the user should hear of devices that were asked for and are not used, or not used as planned. */
static void tell(const struct plan *plan, const struct candidates *c, struct backends *backends)
{
    uint64_t tile_elems = backends->memory.tile_elems;
    int n_refused = 0;

    for (int d = c->first; d < c->end; d++)
        n_refused += c->refused[d - c->first];
    if (n_refused)
        snprintf(backends->notice, sizeof backends->notice,
                 "%d of %d GPUs could not be used, and %s did the work: %.900s", n_refused, c->end - c->first,
                 backends->n_items ? "the others" : "the CPU", c->last.message);
    else if (tile_elems != plan->memory.tile_elems)
        snprintf(backends->notice, sizeof backends->notice,
                 "tiles had %llu elements instead of %llu: more did not fit a GPU's memory; the result is the same, a "
                 "larger --device-memory may be faster",
                 (unsigned long long)tile_elems, (unsigned long long)plan->memory.tile_elems);
}

static enum wm_status open_cuda(const struct plan *plan, const struct wm_options *options, int n_devices, int n_sharing,
                                struct backends *backends, struct wm_error *err)
{
    int only = backends_own_device(options);
    struct candidates c = {.first = only >= 0 ? only : 0, .end = only >= 0 ? only + 1 : n_devices};
    enum wm_status st = WM_OK;

    if (c.end - c.first > BACKENDS_MAX)
        c.end = c.first + BACKENDS_MAX;
    open_what_fits(plan, options, n_sharing, &c, backends);
    backends->threads_per_backend = 1;
    if (!backends->n_items && options->device == WM_DEVICE_CUDA)
        return error_set(err, WM_NO_DEVICE, "%s", c.last.message);
    tell(plan, &c, backends);
    backends->has_devices = backends->n_items > 0;
    if (backends->n_items)
        measure_opened(backends);
    else
        st = open_cpu(plan, backends, err);
    return st;
}

enum wm_status backends_check(const struct wm_options *options, struct wm_error *err)
{
    int n_devices = options->device == WM_DEVICE_CUDA ? backend_cuda_count() : 0, only = options->device_index - 1;

    if (options->device != WM_DEVICE_CUDA)
        return WM_OK;
    if (!n_devices)
        return error_set(err, WM_NO_DEVICE,
                         "no usable GPU was found (driver or device missing, or hidden by CUDA_VISIBLE_DEVICES); use "
                         "--device cpu or auto");
    if (only >= n_devices)
        return error_set(err, WM_NO_DEVICE, "there is no GPU %d, the last one is %d; use --device cuda for all, or cpu",
                         only, n_devices - 1);
    return WM_OK;
}

enum wm_status backends_open(const struct plan *plan, const struct wm_options *options, int n_sharing,
                             struct backends *backends, struct wm_error *err)
{
    int n_devices = options->device == WM_DEVICE_CPU ? 0 : backend_cuda_count();
    const char *trouble = n_devices || options->device == WM_DEVICE_CPU ? NULL : backend_cuda_trouble();
    enum wm_status st = backends_check(options, err);

    *backends = (struct backends){.n_items = 0};
    if (st != WM_OK)
        return st;
    if (trouble)
        snprintf(backends->notice, sizeof backends->notice,
                 "the CPU did the work: asked for its GPUs, the driver said \"%s\"; --device cpu asks for none",
                 trouble);
    return n_devices ? open_cuda(plan, options, n_devices, n_sharing, backends, err) : open_cpu(plan, backends, err);
}

/* Launchers say how many processes a machine has, and each of them takes the next GPU. */
static int guess_sharing(const struct wm_options *options, int n_devices)
{
    int n = options->n_ranks > 1 ? options->local_size : 1;

    return n > n_devices && n_devices ? (n + n_devices - 1) / n_devices : 1;
}

bool backends_measure(const struct plan *plan, const struct wm_options *options, struct plan_device_memory *memory)
{
    int n_devices = options->device == WM_DEVICE_CPU ? 0 : backend_cuda_count(), only = backends_own_device(options);
    uint64_t free_bytes = n_devices ? backend_cuda_free_bytes(only >= 0 ? only : 0) : 0;
    const int n_used = only >= 0 || n_devices == 0 ? 1 : n_devices < BACKENDS_MAX ? n_devices : BACKENDS_MAX;
    struct plan_memory host = plan->memory;
    struct backend_cuda_options cuda;
    struct backend_cuda_memory m;
    bool fits;

    *memory = (struct plan_device_memory){.budget = 0};
    if (options->device == WM_DEVICE_CPU || (!free_bytes && !options->device_memory_bytes))
        return false;
    do {
        fill_options(plan, options, &host, &cuda);
        cuda.n_sharing = guess_sharing(options, n_devices);
        fits = backend_cuda_divide(&cuda, free_bytes ? free_bytes : options->device_memory_bytes, &m);
    } while (!fits && halve_tiles(plan, options, &host));
    memory->budget = m.budget;
    if (!fits)
        return false;
    memory->tile_elems = host.tile_elems;
    memory->tiles = m.n_fewest * m.slot_bytes + m.out_bytes;
    memory->n_stay_slots = m.n_slots - m.n_fewest;
    memory->resident = memory->n_stay_slots * m.slot_bytes;
    memory->stay_min_elems = m.stay_min_elems;
    memory->n_on_their_way = n_used * m.n_on_their_way;
    memory->host_bytes = (uint64_t)n_used * (cuda.kept_bytes + OTHER_HOST_BYTES);
    memory->side = m.side_bytes;
    return free_bytes != 0;
}

uint64_t backends_tile_bytes(const struct wm_options *options)
{
    bool has_devices = options->device == WM_DEVICE_CUDA ||
                       (options->device == WM_DEVICE_AUTO && options->n_ranks <= 1 && backend_cuda_count() > 0);

    return options->tile_bytes || !has_devices ? 0 : PLAN_DEVICE_TILE_BYTES;
}

const char *backends_summary(char *buffer, size_t size)
{
    int n_devices = backend_cuda_count();

    if (!n_devices)
        snprintf(buffer, size, "cpu (CUDA is built in, but there is no usable GPU)");
    else
        snprintf(buffer, size, "cpu, %d GPU%s", n_devices, n_devices == 1 ? "" : "s");
    return buffer;
}

#else

enum wm_status backends_check(const struct wm_options *options, struct wm_error *err)
{
    if (options->device == WM_DEVICE_CUDA)
        return error_set(
            err, WM_NO_DEVICE,
            "a GPU was asked for, but this build has no CUDA backend; use --device cpu (or auto), or build "
            "with the CUDA toolkit installed");
    return WM_OK;
}

enum wm_status backends_open(const struct plan *plan, const struct wm_options *options, int n_sharing,
                             struct backends *backends, struct wm_error *err)
{
    enum wm_status st = backends_check(options, err);

    (void)n_sharing;
    *backends = (struct backends){.n_items = 0};
    return st == WM_OK ? open_cpu(plan, backends, err) : st;
}

int backends_own_device(const struct wm_options *options)
{
    (void)options;
    return -1;
}

void backends_name_device(const struct wm_options *options, char name[BACKENDS_NAME_BYTES])
{
    (void)options;
    memset(name, 0, BACKENDS_NAME_BYTES);
}

uint64_t backends_tile_bytes(const struct wm_options *options)
{
    (void)options;
    return 0;
}

bool backends_measure(const struct plan *plan, const struct wm_options *options, struct plan_device_memory *memory)
{
    (void)plan;
    (void)options;
    *memory = (struct plan_device_memory){.budget = 0};
    return false;
}

const char *backends_summary(char *buffer, size_t size)
{
    snprintf(buffer, size, "cpu (this build has no CUDA backend)");
    return buffer;
}

#endif

enum wm_status backends_drop_lost(const struct plan *plan, struct backends *backends, struct wm_error *err)
{
    int n_left = 0;

    for (int i = 0; i < backends->n_items; i++) {
        struct backend *b = backends->items[i];
        if (b->lost)
            b->ops->close(b);
        else
            backends->items[n_left++] = b;
    }
    backends->n_items = n_left;
    backends->device = (struct plan_device_memory){.budget = 0};
    backends->has_devices &= n_left > 0;
    if (backends->has_devices)
        measure_opened(backends);
    return n_left ? WM_OK : open_cpu(plan, backends, err);
}

void backends_fit_plan(const struct backends *backends, struct plan *plan)
{
    const bool had_devices = plan->device.n_on_their_way > 0;

    plan->memory = backends->memory;
    /* It looks at every tensor again: not where the plan is the CPU's already. */
    if (backends->has_devices || had_devices)
        plan_use_device(plan, &backends->device);
}

void backends_close(struct backends *backends)
{
    while (backends->n_items) {
        struct backend *b = backends->items[--backends->n_items];
        b->ops->close(b);
    }
}
