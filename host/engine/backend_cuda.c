/*
 * backend_cuda.c: one NVIDIA GPU behind the backend interface.
 *
 * What lives here: device memory, streams and events. One thread drives the GPU; uploads, kernels and downloads run on
 * three streams that are ordered by events alone, and the only waits are for the oldest tile and at the end of a pass.
 * A tensor that is looked at several times stays on the device if it fits, so its bytes cross the bus once. What a device
 * has no kernel for, and tensors too small to be worth a launch, the CPU's functions compute: the bytes are the same.
 * What it must not know: jobs, files, how kernels work (methods/device.h).
 *
 * After a CUDA error everything computed since is worthless and the context may be, too (reliability notes 5.1): the
 * backend is marked lost and never used again.
 */
#include "engine/backend.h"

#include "base/dtype.h"
#include "methods/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH 6 /* tiles on their way: one uploading, one computing, one downloading, and as many waiting */
/* Below this a launch and two copies cost more than the CPU's work (PCIe latency about 10 us each way). */
#define MIN_DEVICE_ELEMS 65536u
/* Left for results of statistics passes and coefficients; what does not fit there is computed by the CPU. */
#define STATISTICS_BYTES ((uint64_t)64 << 20)
#define SLOT_ALIGN       256u
#define MAX_SPARE        4
#define NO_SLOT          UINT32_MAX

struct cuda_tensor {
    bool resident, on_device; /* has slots of its own; worth the device at all   */
    uint32_t *slots;          /* [n_tiles][n_inputs], resident only              */
    unsigned char *uploaded;  /* [n_tiles][n_inputs]                             */
    size_t n_tiles;
    int n_inputs;
    void *results; /* of the current pass, on the device              */
    uint64_t n_result_bytes, result_capacity;
    enum stat_pass results_of; /* STAT_READY: none                                */
    float *vector_weights;     /* the device's copy of op->vector_weights         */
};

struct cuda_slot {                    /* one tile on its way */
    uint32_t inputs[TILE_MAX_INPUTS]; /* borrowed device slots, or NO_SLOT                */
    unsigned char *out;
    struct device_report *report, *host_report;
    cudaEvent_t uploaded, computed, done;
    uint64_t age; /* when it was taken */
    bool busy;
};

struct cuda_backend {
    struct backend backend;
    struct backend_cuda_options options;
    char name[128];
};

/* Everything of the driving thread. */
struct cuda_thread {
    cudaStream_t upload, compute, download;
    struct cuda_slot slots[DEPTH];
    unsigned char *memory, *out_memory;
    uint64_t slot_bytes, out_slot_bytes;
    uint32_t *free_slots, n_slots, n_free;
    struct device_report *reports, *host_reports;
    struct { /* results of finished tensors, to be used again: cudaFree would wait for the whole device */
        void *memory;
        uint64_t n_bytes;
    } spare[MAX_SPARE];
    uint64_t submitted;
    struct cpu_scratch *scratch;
    unsigned char *check; /* one output tile, for recomputing on the CPU */
};

/* ---- errors ----------------------------------------------------------------------------------------------------- */

static enum wm_status lose(struct backend *b, cudaError_t code, const char *what, struct wm_error *err)
{
    struct cuda_backend *cuda = (struct cuda_backend *)b;

    if (!b->lost) {
        b->lost = true;
        snprintf(b->message, sizeof b->message, "GPU %d failed while %s: %s", cuda->options.device, what,
                 cudaGetErrorString(code));
    }
    return error_set(err, WM_NO_DEVICE, "%s; run the same command with --device cpu", b->message);
}

/* Needs b, st, err and a label out. */
#define CUDA(call, what)                                                                                               \
    do {                                                                                                               \
        cudaError_t code_ = (call);                                                                                    \
        if (code_ != cudaSuccess) {                                                                                    \
            st = lose(b, code_, what, err);                                                                            \
            goto out;                                                                                                  \
        }                                                                                                              \
    } while (0)

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static uint64_t round_up(uint64_t n, uint64_t align)
{
    return (n + align - 1) / align * align;
}

/* Page-locked for every GPU of the process: uploads and downloads need no bounce buffer. Zeroed pages are not asked for. */
static void *cuda_alloc(struct backend *b, size_t n_bytes)
{
    void *memory = NULL;

    (void)b;
    return cudaHostAlloc(&memory, n_bytes, cudaHostAllocPortable) == cudaSuccess ? memory : NULL;
}

static void cuda_free(struct backend *b, void *memory, size_t n_bytes)
{
    (void)b;
    (void)n_bytes;
    if (memory)
        cudaFreeHost(memory);
}

/* As many input slots as the budget holds; when the device has less than it said, half, and half again: the tile size,
 * and with it every byte of the result, stays what it is. */
static enum wm_status allocate_slots(struct backend *b, struct cuda_thread *t, struct wm_error *err)
{
    const struct backend_cuda_options *o = &((struct cuda_backend *)b)->options;
    uint64_t fewest = (uint64_t)o->max_inputs * 2, budget = o->memory_bytes, fixed;
    size_t free_bytes = 0, total_bytes = 0;
    enum wm_status st = WM_OK;
    cudaError_t code;

    t->slot_bytes = round_up(o->tile_in_bytes, SLOT_ALIGN);
    t->out_slot_bytes = round_up(o->tile_out_bytes, SLOT_ALIGN);
    fixed = DEPTH * (t->out_slot_bytes + sizeof(struct device_report));
    CUDA(cudaMemGetInfo(&free_bytes, &total_bytes), "asking for its memory");
    if (!budget)
        budget = free_bytes / 10 * 9;
    if (budget > free_bytes)
        budget = free_bytes;
    budget -= budget / 8 < STATISTICS_BYTES ? budget / 8 : STATISTICS_BYTES;
    t->n_slots = (uint32_t)(budget > fixed ? (budget - fixed) / t->slot_bytes : 0);
    CUDA(cudaMalloc((void **)&t->out_memory, DEPTH * t->out_slot_bytes), "allocating memory");
    CUDA(cudaMalloc((void **)&t->reports, DEPTH * sizeof *t->reports), "allocating memory");
    for (;; t->n_slots /= 2) {
        if (t->n_slots < fewest) {
            st = lose(b, cudaErrorMemoryAllocation, "allocating memory for its tiles", err);
            goto out;
        }
        code = cudaMalloc((void **)&t->memory, t->n_slots * t->slot_bytes);
        if (code == cudaSuccess)
            break;
        if (code != cudaErrorMemoryAllocation)
            CUDA(code, "allocating memory");
        (void)cudaGetLastError(); /* not sticky: take it off the record */
    }
    t->free_slots = malloc(t->n_slots * sizeof *t->free_slots);
    if (!t->free_slots) {
        st = error_no_memory(err, "starting a GPU");
        goto out;
    }
    for (uint32_t i = 0; i < t->n_slots; i++)
        t->free_slots[i] = t->n_slots - 1 - i;
    t->n_free = t->n_slots;
out:
    return st;
}

static void *slot_at(const struct cuda_thread *t, uint32_t slot)
{
    return t->memory + (uint64_t)slot * t->slot_bytes;
}

/* ---- the thread -------------------------------------------------------------------------------------------------- */

static void cuda_thread_free(struct backend *b, void *thread)
{
    struct cuda_thread *t = thread;

    if (!t)
        return;
    if (!b->lost) { /* a lost device is not asked to do anything any more */
        for (int i = 0; i < DEPTH; i++) {
            if (t->slots[i].uploaded)
                cudaEventDestroy(t->slots[i].uploaded);
            if (t->slots[i].computed)
                cudaEventDestroy(t->slots[i].computed);
            if (t->slots[i].done)
                cudaEventDestroy(t->slots[i].done);
        }
        if (t->upload)
            cudaStreamDestroy(t->upload);
        if (t->compute)
            cudaStreamDestroy(t->compute);
        if (t->download)
            cudaStreamDestroy(t->download);
        for (int i = 0; i < MAX_SPARE; i++)
            cudaFree(t->spare[i].memory);
        cudaFree(t->memory);
        cudaFree(t->out_memory);
        cudaFree(t->reports);
    }
    cudaFreeHost(t->host_reports);
    cpu_scratch_free(t->scratch);
    free(t->check);
    free(t->free_slots);
    free(t);
}

static void *cuda_thread_new(struct backend *b, struct wm_error *err)
{
    const struct backend_cuda_options *o = &((struct cuda_backend *)b)->options;
    struct cuda_thread *t = calloc(1, sizeof *t);
    enum wm_status st = WM_OK;

    if (!t || !(t->scratch = cpu_scratch_new()) || !(t->check = malloc(o->tile_out_bytes))) {
        st = error_no_memory(err, "starting a GPU");
        goto out;
    }
    CUDA(cudaSetDevice(o->device), "being selected");
    CUDA(cudaStreamCreateWithFlags(&t->upload, cudaStreamNonBlocking), "creating a stream");
    CUDA(cudaStreamCreateWithFlags(&t->compute, cudaStreamNonBlocking), "creating a stream");
    CUDA(cudaStreamCreateWithFlags(&t->download, cudaStreamNonBlocking), "creating a stream");
    TRY(allocate_slots(b, t, err));
    CUDA(cudaHostAlloc((void **)&t->host_reports, DEPTH * sizeof *t->host_reports, cudaHostAllocDefault),
         "allocating host memory");
    for (int i = 0; i < DEPTH; i++) {
        struct cuda_slot *slot = &t->slots[i];
        slot->out = t->out_memory + (uint64_t)i * t->out_slot_bytes;
        slot->report = t->reports + i;
        slot->host_report = t->host_reports + i;
        CUDA(cudaEventCreateWithFlags(&slot->uploaded, cudaEventDisableTiming), "creating an event");
        CUDA(cudaEventCreateWithFlags(&slot->computed, cudaEventDisableTiming), "creating an event");
        CUDA(cudaEventCreateWithFlags(&slot->done, cudaEventDisableTiming), "creating an event");
    }
out:
    if (st != WM_OK) {
        cuda_thread_free(b, t);
        return NULL;
    }
    return t;
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

/* The smallest spare place gives way to a larger one. */
static void keep_results(struct cuda_thread *t, void *memory, uint64_t n_bytes)
{
    int least = 0;

    for (int i = 1; i < MAX_SPARE; i++)
        if (t->spare[i].n_bytes < t->spare[least].n_bytes)
            least = i;
    if (n_bytes > t->spare[least].n_bytes) {
        cudaFree(t->spare[least].memory);
        t->spare[least].memory = memory;
        t->spare[least].n_bytes = n_bytes;
    } else {
        cudaFree(memory);
    }
}

static bool reuse_results(struct cuda_thread *t, struct cuda_tensor *x, uint64_t n_bytes)
{
    for (int i = 0; i < MAX_SPARE; i++) {
        if (t->spare[i].n_bytes < n_bytes)
            continue;
        x->results = t->spare[i].memory;
        x->result_capacity = t->spare[i].n_bytes;
        t->spare[i].memory = NULL;
        t->spare[i].n_bytes = 0;
        return true;
    }
    return false;
}

static void cuda_tensor_free(struct backend *b, void *thread, void *tensor)
{
    struct cuda_thread *t = thread;
    struct cuda_tensor *x = tensor;

    if (!x)
        return;
    if (!b->lost) {
        keep_results(t, x->results, x->result_capacity);
        cudaFree(x->vector_weights);
        for (size_t i = 0; x->resident && i < x->n_tiles * (size_t)x->n_inputs; i++)
            t->free_slots[t->n_free++] = x->slots[i];
    }
    free(x->slots);
    free(x->uploaded);
    free(x);
}

/* Slots for streaming stay free: every tile on its way may need one for each input. */
static uint64_t streaming_slots(const struct backend *b)
{
    return (uint64_t)((const struct cuda_backend *)b)->options.max_inputs * 2;
}

static enum wm_status cuda_tensor_new(struct backend *b, void *thread, const struct backend_tensor_info *info,
                                      void **tensor, struct wm_error *err)
{
    struct cuda_thread *t = thread;
    struct cuda_tensor *x = calloc(1, sizeof *x);
    size_t n = info->n_tiles * (size_t)info->n_inputs;

    if (!x)
        return error_no_memory(err, "starting a tensor on a GPU");
    x->n_tiles = info->n_tiles;
    x->n_inputs = info->n_inputs;
    x->on_device = info->n_elems >= MIN_DEVICE_ELEMS;
    x->results_of = STAT_READY;
    x->resident = x->on_device && info->has_statistics && t->n_free >= n + streaming_slots(b);
    if (x->resident) {
        x->slots = malloc(n * sizeof *x->slots);
        x->uploaded = calloc(n, 1);
        if (!x->slots || !x->uploaded) {
            x->resident = false;
            cuda_tensor_free(b, t, x);
            return error_no_memory(err, "starting a tensor on a GPU");
        }
        for (size_t i = 0; i < n; i++)
            x->slots[i] = t->free_slots[--t->n_free];
    }
    *tensor = x;
    return WM_OK;
}

/* ---- one tile ----------------------------------------------------------------------------------------------------- */

static bool is_statistics(const struct backend_task *task)
{
    return task->statistics && statistics_pass(task->statistics) != STAT_READY;
}

static void on_cpu(struct cuda_thread *t, struct backend_task *task)
{
    merge_report_init(&task->report);
    if (is_statistics(task) && statistics_pass(task->statistics) == STAT_KTH_GUESS) {
        cpu_guess_tile(task->op, task->statistics, &task->tile, t->scratch, &task->report);
    } else if (is_statistics(task)) {
        cpu_statistics_tile(task->op, task->statistics, &task->tile, t->scratch);
    } else {
        cpu_combine_tile(task->op, task->statistics, &task->tile, t->scratch, &task->report);
    }
}

/* *memory is NULL without an error when there is no room: the CPU then does that part. */
static enum wm_status try_alloc(struct backend *b, void **memory, size_t n_bytes, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    cudaError_t code = cudaMalloc(memory, n_bytes);

    if (code == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError(); /* not sticky: take it off the record */
        *memory = NULL;
        return WM_OK;
    }
    CUDA(code, "allocating memory");
out:
    return st;
}

/* The results of a pass begin as zeros, once per pass. 0 bytes: the device has no kernel for it. */
static enum wm_status begin_results(struct backend *b, struct cuda_thread *t, struct cuda_tensor *x,
                                    const struct backend_task *task, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    uint64_t n_bytes;

    statistics_avoid_repeats(task->statistics); /* a device counts all bins: bets on samples are the CPU's */
    n_bytes = device_pass_bytes(task->op, task->statistics);
    if (n_bytes > x->result_capacity) {
        keep_results(t, x->results, x->result_capacity);
        x->results = NULL;
        x->result_capacity = 0;
        if (!reuse_results(t, x, n_bytes)) {
            TRY(try_alloc(b, &x->results, n_bytes, err));
            x->result_capacity = x->results ? n_bytes : 0;
        }
        if (!x->results)
            n_bytes = 0;
    }
    x->n_result_bytes = n_bytes;
    x->results_of = statistics_pass(task->statistics);
    if (n_bytes)
        CUDA(cudaMemsetAsync(x->results, 0, n_bytes, t->compute), "clearing statistics");
out:
    return st;
}

static enum wm_status upload_weights(struct backend *b, struct cuda_thread *t, struct cuda_tensor *x,
                                     const struct merge_op *op, struct wm_error *err)
{
    uint64_t n_vectors = op->axis == AXIS_ROWS ? op->n_rows : op->row_elems;
    size_t n_bytes = (size_t)(n_vectors * (uint64_t)op->n_models * sizeof(float));
    enum wm_status st = WM_OK;

    if (x->vector_weights || !op->vector_weights)
        return WM_OK;
    TRY(try_alloc(b, (void **)&x->vector_weights, n_bytes, err));
    if (!x->vector_weights)
        goto out;
    CUDA(cudaMemcpyAsync(x->vector_weights, op->vector_weights, n_bytes, cudaMemcpyHostToDevice, t->compute),
         "uploading coefficients");
    CUDA(cudaStreamSynchronize(t->compute), "uploading coefficients"); /* the source is pageable memory */
out:
    return st;
}

/* Puts the tile's inputs on the device (those that are not there yet) and their addresses into `device`. */
static enum wm_status upload_inputs(struct backend *b, struct cuda_thread *t, struct cuda_tensor *x,
                                    struct cuda_slot *slot, const struct backend_task *task, struct merge_tile *device,
                                    struct wm_error *err)
{
    const struct merge_tile *tile = &task->tile;
    enum wm_status st = WM_OK;

    for (int i = 0; i < x->n_inputs; i++) {
        size_t n_bytes = tile->n_elems * dtype_bits(tile->in_dtype[i]) / 8;
        size_t at = tile->index * (size_t)x->n_inputs + (size_t)i;
        uint32_t where = x->resident ? x->slots[at] : (slot->inputs[i] = t->free_slots[--t->n_free]);
        void *memory = slot_at(t, where);
        device->in[i] = memory;
        if (x->resident && x->uploaded[at])
            continue;
        CUDA(cudaMemcpyAsync(memory, tile->in[i], n_bytes, cudaMemcpyHostToDevice, t->upload), "uploading a tile");
        if (x->resident)
            x->uploaded[at] = 1;
    }
    CUDA(cudaEventRecord(slot->uploaded, t->upload), "uploading a tile");
    CUDA(cudaStreamWaitEvent(t->compute, slot->uploaded, 0), "uploading a tile");
out:
    return st;
}

static struct cuda_slot *take_slot(struct cuda_thread *t)
{
    for (int i = 0; i < DEPTH; i++) {
        if (!t->slots[i].busy) {
            t->slots[i].busy = true;
            t->slots[i].age = t->submitted++;
            for (int k = 0; k < TILE_MAX_INPUTS; k++)
                t->slots[i].inputs[k] = NO_SLOT;
            return &t->slots[i];
        }
    }
    return NULL; /* the caller keeps to backend->depth */
}

static void release_inputs(struct cuda_thread *t, struct cuda_slot *slot)
{
    for (int i = 0; i < TILE_MAX_INPUTS; i++) {
        if (slot->inputs[i] != NO_SLOT)
            t->free_slots[t->n_free++] = slot->inputs[i];
        slot->inputs[i] = NO_SLOT;
    }
}

/* Room for n inputs: tiles that are computed already, oldest first, give their inputs' slots back before they are
 * awaited. There is always enough, since slots for streaming are never given to resident tensors. */
static enum wm_status make_room(struct backend *b, struct cuda_thread *t, uint32_t n, struct wm_error *err)
{
    enum wm_status st = WM_OK;

    while (t->n_free < n) {
        struct cuda_slot *oldest = NULL;
        for (int i = 0; i < DEPTH; i++) {
            struct cuda_slot *slot = &t->slots[i];
            if (slot->busy && slot->inputs[0] != NO_SLOT && (!oldest || slot->age < oldest->age))
                oldest = slot;
        }
        if (!oldest) {
            st = error_set(err, WM_BUG, "a GPU has no slots although none is in use");
            goto out;
        }
        CUDA(cudaEventSynchronize(oldest->done), "computing");
        release_inputs(t, oldest);
    }
out:
    return st;
}

static enum wm_status launch_pass(struct backend *b, struct cuda_thread *t, struct cuda_tensor *x,
                                  struct cuda_slot *slot, struct backend_task *task, struct wm_error *err)
{
    struct merge_tile device = task->tile;
    enum wm_status st = WM_OK;

    TRY(upload_inputs(b, t, x, slot, task, &device, err));
    CUDA(device_pass_launch(task->op, task->statistics, &device, x->results, t->compute), "launching statistics");
    CUDA(cudaEventRecord(slot->done, t->compute), "launching statistics");
out:
    return st;
}

static enum wm_status launch_combine(struct backend *b, struct cuda_thread *t, struct cuda_tensor *x,
                                     struct cuda_slot *slot, struct backend_task *task, struct wm_error *err)
{
    struct merge_tile device = task->tile;
    size_t n_bytes = task->tile.n_elems * dtype_bits(task->tile.out_dtype) / 8;
    enum wm_status st = WM_OK;

    TRY(upload_inputs(b, t, x, slot, task, &device, err));
    device.out = slot->out;
    CUDA(cudaMemsetAsync(slot->report, 0, sizeof *slot->report, t->compute), "launching a merge");
    CUDA(device_combine_launch(task->op, &device, x->vector_weights, slot->report, t->compute), "launching a merge");
    CUDA(cudaEventRecord(slot->computed, t->compute), "launching a merge");
    CUDA(cudaStreamWaitEvent(t->download, slot->computed, 0), "downloading a tile");
    CUDA(cudaMemcpyAsync(task->tile.out, slot->out, n_bytes, cudaMemcpyDeviceToHost, t->download),
         "downloading a tile");
    CUDA(cudaMemcpyAsync(slot->host_report, slot->report, sizeof *slot->report, cudaMemcpyDeviceToHost, t->download),
         "downloading a tile");
    CUDA(cudaEventRecord(slot->done, t->download), "downloading a tile");
out:
    return st;
}

static enum wm_status cuda_submit(struct backend *b, void *thread, struct backend_task *task, struct wm_error *err)
{
    struct cuda_thread *t = thread;
    struct cuda_tensor *x = task->tensor;
    bool statistics = is_statistics(task);
    enum wm_status st = WM_OK;
    struct cuda_slot *slot;

    task->slot = NULL;
    if (x->on_device && statistics && x->results_of != statistics_pass(task->statistics))
        TRY(begin_results(b, t, x, task, err));
    if (x->on_device && !statistics)
        TRY(upload_weights(b, t, x, task->op, err));
    if (!x->on_device || (statistics ? !x->n_result_bytes : task->op->vector_weights && !x->vector_weights)) {
        on_cpu(t, task); /* too small, no kernel, or no room: the same bytes */
        goto out;
    }
    if (!x->resident)
        TRY(make_room(b, t, (uint32_t)x->n_inputs, err));
    task->slot = slot = take_slot(t);
    st = statistics ? launch_pass(b, t, x, slot, task, err) : launch_combine(b, t, x, slot, task, err);
out:
    return st;
}

/* A share of the tiles is computed once more by the CPU: a GPU or a kernel that computes wrongly must not go unnoticed. */
static enum wm_status verify(struct backend *b, struct cuda_thread *t, const struct backend_task *task,
                             struct wm_error *err)
{
    const struct cuda_backend *cuda = (const struct cuda_backend *)b;
    uint64_t draw = (task->tile.first_elem / TILE_CHUNK_ELEMS + 1) * 0x9E3779B97F4A7C15u ^ task->op->n_elems;
    size_t n_bytes = task->tile.n_elems * dtype_bits(task->tile.out_dtype) / 8;
    struct merge_tile tile = task->tile;
    struct merge_report report;

    if ((draw * 0xBF58476D1CE4E5B9u >> 32) % 1000 >= cuda->options.verify_per_1000)
        return WM_OK;
    tile.out = t->check;
    merge_report_init(&report);
    cpu_combine_tile(task->op, task->statistics, &tile, t->scratch, &report);
    if (memcmp(t->check, task->tile.out, n_bytes) == 0)
        return WM_OK;
    return error_set(
        err, WM_VERIFY_FAILED,
        "GPU %d computed other bytes than the CPU in a sampled tile (elements %llu to %llu of a tensor); do "
        "not trust this GPU: test it, and run the same command with --device cpu",
        cuda->options.device, (unsigned long long)task->tile.first_elem,
        (unsigned long long)(task->tile.first_elem + task->tile.n_elems));
}

static enum wm_status cuda_await(struct backend *b, void *thread, struct backend_task *task, struct wm_error *err)
{
    struct cuda_thread *t = thread;
    struct cuda_slot *slot = task->slot;
    enum wm_status st = WM_OK;

    if (!slot)
        return WM_OK; /* the CPU did it */
    CUDA(cudaEventSynchronize(slot->done), "computing");
    release_inputs(t, slot);
    slot->busy = false;
    if (!is_statistics(task)) {
        merge_report_init(&task->report);
        device_report_collect(slot->host_report, &task->report);
        st = verify(b, t, task, err);
    }
out:
    task->slot = NULL;
    return st;
}

static enum wm_status cuda_finish_pass(struct backend *b, void *thread, void *tensor, struct merge_op *op,
                                       struct statistics *statistics, enum stat_pass *next, struct wm_error *err)
{
    struct cuda_thread *t = thread;
    struct cuda_tensor *x = tensor;
    enum wm_status st = WM_OK;
    void *results = NULL;

    if (x->on_device && x->n_result_bytes && x->results_of == statistics_pass(statistics)) {
        results = malloc(x->n_result_bytes);
        if (!results) {
            st = error_no_memory(err, "collecting statistics");
            goto out;
        }
        CUDA(cudaMemcpyAsync(results, x->results, x->n_result_bytes, cudaMemcpyDeviceToHost, t->compute),
             "downloading statistics");
        CUDA(cudaStreamSynchronize(t->compute), "computing statistics");
        device_pass_collect(op, statistics, results);
    }
    x->results_of = STAT_READY;
    x->n_result_bytes = 0;
    *next = statistics_finish_pass(statistics, op);
out:
    free(results);
    return st;
}

/* ---- opening -------------------------------------------------------------------------------------------------------- */

static const char *cuda_describe(const struct backend *b)
{
    return ((const struct cuda_backend *)b)->name;
}

/* A copy that was under way when another call failed may still read or write the ring: its slots must not be given to
 * anybody before it has ended. On a context that is dead these calls return at once; what they say does not matter. */
static void cuda_abandon(struct backend *b, void *thread)
{
    struct cuda_thread *t = thread;

    (void)b;
    (void)cudaStreamSynchronize(t->upload);
    (void)cudaStreamSynchronize(t->compute);
    (void)cudaStreamSynchronize(t->download);
}

static enum wm_status cuda_run_group(struct backend *b, void *thread, struct backend_group *group, struct wm_error *err)
{
    (void)b;
    return backend_cpu_run_group(group, ((struct cuda_thread *)thread)->scratch, err);
}

static void cuda_close(struct backend *b)
{
    free(b);
}

static const struct backend_ops cuda_ops = {.describe = cuda_describe,
                                            .alloc = cuda_alloc,
                                            .free = cuda_free,
                                            .thread_new = cuda_thread_new,
                                            .thread_free = cuda_thread_free,
                                            .tensor_new = cuda_tensor_new,
                                            .tensor_free = cuda_tensor_free,
                                            .submit = cuda_submit,
                                            .await = cuda_await,
                                            .finish_pass = cuda_finish_pass,
                                            .run_group = cuda_run_group,
                                            .abandon = cuda_abandon,
                                            .close = cuda_close};

int backend_cuda_count(void)
{
    int n = 0;

    if (cudaGetDeviceCount(&n) == cudaSuccess)
        return n;
    (void)cudaGetLastError(); /* no driver, no device: not an error of ours */
    return 0;
}

enum wm_status backend_open_cuda(struct backend **backend, const struct backend_cuda_options *options,
                                 struct wm_error *err)
{
    struct cuda_backend *cuda = calloc(1, sizeof *cuda);
    struct cudaDeviceProp properties;
    struct backend *b = &cuda->backend;
    enum wm_status st = WM_OK;

    *backend = NULL;
    if (!cuda)
        return error_no_memory(err, "starting a GPU");
    b->ops = &cuda_ops;
    b->depth = DEPTH;
    b->group_members = 16;
    cuda->options = *options;
    CUDA(cudaGetDeviceProperties(&properties, options->device), "being examined");
    CUDA(cudaSetDevice(options->device), "being selected");
    snprintf(cuda->name, sizeof cuda->name, "cuda:%d %.100s", options->device, properties.name);
    *backend = b;
    cuda = NULL;
out:
    free(cuda);
    return st;
}
