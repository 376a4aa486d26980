/*
 * backend_cuda.c: one NVIDIA GPU behind the backend interface.
 *
 * What lives here: device memory, streams and events. One thread drives the GPU; uploads, kernels and downloads run on
 * three streams that are ordered by events alone; the only waits are for the oldest tile or group, and at a pass's end.
 * A tensor that is looked at several times stays on the device if it fits: its bytes cross the bus once, and the host lets
 * go of them after that. What a device has no kernel for, and tensors too small to be worth a launch, the CPU's functions
 * compute: the bytes are the same. What it must not know: jobs, files, how kernels work (methods/device.h).
 *
 * After a CUDA error everything computed since is worthless and the context may be, too (reliability notes 5.1): the
 * backend is marked lost and never used again. All of a device's memory is taken when it is opened: what does not fit is
 * known before a tile is read.
 */
#include "engine/backend_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Left for results of statistics passes, coefficients and groups; what does not fit there is computed by the CPU. */
#define SIDE_BYTES ((uint64_t)256 << 20)
#define SLOT_ALIGN 256u

/* ---- errors ----------------------------------------------------------------------------------------------------- */

/* Errors that leave the context as it was (reliability notes 5.1). After any other nothing is given back one by one: the
 * driver does not do it any more, and takes everything when the process ends. */
static bool leaves_context(cudaError_t code)
{
    return code == cudaErrorMemoryAllocation || code == cudaErrorInvalidValue ||
           code == cudaErrorInvalidConfiguration || code == cudaErrorInvalidDeviceFunction ||
           code == cudaErrorNoKernelImageForDevice || code == cudaErrorLaunchOutOfResources;
}

enum wm_status backend_cuda_lose(struct backend *b, cudaError_t code, const char *what, struct wm_error *err)
{
    struct cuda_backend *cuda = (struct cuda_backend *)b;

    cuda->dead |= !leaves_context(code);
    if (!cuda->dead)
        (void)cudaGetLastError(); /* not sticky: take it off the record */
    if (!b->lost) {
        b->lost = true;
        snprintf(b->message, sizeof b->message, "GPU %d failed while %s: %s", cuda->options.device, what,
                 cudaGetErrorString(code));
    }
    return error_set(err, WM_NO_DEVICE, "%s; run the same command with --device cpu", b->message);
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static uint64_t round_up(uint64_t n, uint64_t align)
{
    return (n + align - 1) / align * align;
}

static enum wm_status too_small(const struct cuda_backend *cuda, struct wm_error *err)
{
    (void)cudaGetLastError(); /* of an allocation; not sticky */
    return error_set(err, WM_TEMPORARY,
                     "GPU %d has too little free memory for two tiles of every input; free it, raise --device-memory, "
                     "lower --tile, or use --device cpu",
                     cuda->options.device);
}

/* One allocation. Memory that is not there is WM_TEMPORARY, and no reason to give the device up. */
static enum wm_status allocate(struct backend *b, void **memory, uint64_t n_bytes, struct wm_error *err)
{
    cudaError_t code = cudaMalloc(memory, n_bytes);
    enum wm_status st = WM_OK;

    if (code == cudaErrorMemoryAllocation)
        return too_small((struct cuda_backend *)b, err);
    CUDA(code, "allocating memory");
out:
    return st;
}

bool backend_cuda_divide(const struct backend_cuda_options *o, uint64_t free_bytes, struct backend_cuda_memory *m)
{
    uint64_t budget = o->memory_bytes;

    if (!budget)
        budget = free_bytes / 10 * 9 / (unsigned)(o->n_sharing > 1 ? o->n_sharing : 1);
    if (budget > free_bytes)
        budget = free_bytes;
    m->budget = budget;
    m->side_bytes = budget / 8 < SIDE_BYTES ? budget / 8 : SIDE_BYTES;
    m->slot_bytes = round_up(o->tile_in_bytes, SLOT_ALIGN);
    m->out_slot_bytes = round_up(o->tile_out_bytes, SLOT_ALIGN);
    m->out_bytes = CUDA_DEPTH * m->out_slot_bytes + round_up(CUDA_DEPTH * sizeof(struct device_report), SLOT_ALIGN);
    m->n_fewest = (uint64_t)o->max_inputs * 2; /* every tile on its way may need one for each input */
    m->stay_min_elems = CUDA_MIN_ELEMS;
    m->n_on_their_way = CUDA_DEPTH;
    m->n_slots = budget > m->side_bytes + m->out_bytes ? (budget - m->side_bytes - m->out_bytes) / m->slot_bytes : 0;
    return m->n_slots >= m->n_fewest;
}

bool backend_cuda_bus(int device, char *text, size_t size)
{
    if (cudaDeviceGetPCIBusId(text, (int)size, device) == cudaSuccess)
        return true;
    (void)cudaGetLastError(); /* no error of ours */
    return false;
}

uint64_t backend_cuda_free_bytes(int device)
{
    size_t free_bytes = 0, total_bytes = 0;

    if (cudaSetDevice(device) == cudaSuccess && cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess)
        return free_bytes;
    (void)cudaGetLastError(); /* whoever uses the device will hear of it */
    return 0;
}

/* As many input slots as the budget holds; when the device has less than it said, half, and half again, as long as tiles
 * can come and go. After that only smaller tiles help. */
static enum wm_status allocate_slots(struct backend *b, struct cuda_thread *t, struct wm_error *err)
{
    size_t free_bytes = 0, total_bytes = 0;
    struct backend_cuda_memory m;
    enum wm_status st = WM_OK;

    CUDA(cudaMemGetInfo(&free_bytes, &total_bytes), "asking for its memory");
    if (!backend_cuda_divide(&((struct cuda_backend *)b)->options, free_bytes, &m)) {
        st = too_small((struct cuda_backend *)b, err);
        goto out;
    }
    t->slot_bytes = m.slot_bytes;
    t->out_slot_bytes = m.out_slot_bytes;
    t->side_bytes = m.side_bytes;
    t->n_slots = (uint32_t)m.n_slots;
    TRY(allocate(b, (void **)&t->out_memory, CUDA_DEPTH * t->out_slot_bytes, err));
    TRY(allocate(b, (void **)&t->reports, CUDA_DEPTH * sizeof *t->reports, err));
    for (;; t->n_slots /= 2) {
        struct wm_error refused = WM_ERROR_INIT;
        st = allocate(b, (void **)&t->memory, t->n_slots * t->slot_bytes, &refused);
        if (st == WM_OK)
            break;
        if (st != WM_TEMPORARY || t->n_slots / 2 < m.n_fewest) {
            error_set(err, st, "%s", refused.message);
            goto out;
        }
    }
    t->free_slots = malloc(t->n_slots * sizeof *t->free_slots);
    if (!t->free_slots) {
        st = error_no_memory(err, "starting a GPU");
        goto out;
    }
    for (uint32_t i = 0; i < t->n_slots; i++)
        t->free_slots[i] = t->n_slots - 1 - i;
    t->n_free = t->n_slots;
    b->stay_slots = b->stay_slots_free = t->n_slots - m.n_fewest;
    b->stay_min_elems = m.stay_min_elems;
out:
    return st;
}

/* ---- the thread -------------------------------------------------------------------------------------------------- */

static void release_thread(struct backend *b, struct cuda_thread *t)
{
    if (!t)
        return;
    if (!((struct cuda_backend *)b)->dead) {
        for (int i = 0; i < CUDA_DEPTH; i++) {
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
        if (t->select)
            cudaStreamDestroy(t->select);
        if (t->home)
            cudaStreamDestroy(t->home);
        for (int i = 0; i < CUDA_MAX_SPARE; i++)
            cudaFree(t->spare[i].at);
        cudaFree(t->model_counts.at);
        cudaFree(t->memory);
        cudaFree(t->out_memory);
        cudaFree(t->reports);
    }
    backend_cuda_free_groups(b, t);
    cudaFreeHost(t->host_reports);
    cudaFreeHost(t->select_memory);
    cpu_scratch_free(t->scratch);
    free(t->check);
    free(t->free_slots);
    free(t);
}

static enum wm_status make_thread(struct backend *b, struct cuda_thread **thread, struct wm_error *err)
{
    struct cuda_thread *t = *thread = calloc(1, sizeof *t);
    enum wm_status st = WM_OK;

    if (!t || !(t->scratch = cpu_scratch_new()) || !(t->check = malloc(CUDA_CHECK_BYTES))) {
        st = error_no_memory(err, "starting a GPU");
        goto out;
    }
    t->most_kept_bytes = ((struct cuda_backend *)b)->options.kept_bytes;
    CUDA(cudaStreamCreateWithFlags(&t->upload, cudaStreamNonBlocking), "creating a stream");
    CUDA(cudaStreamCreateWithFlags(&t->compute, cudaStreamNonBlocking), "creating a stream");
    CUDA(cudaStreamCreateWithFlags(&t->download, cudaStreamNonBlocking), "creating a stream");
    CUDA(cudaStreamCreateWithFlags(&t->home, cudaStreamNonBlocking), "creating a stream");
    TRY(backend_cuda_select_open(b, t, err));
    TRY(allocate_slots(b, t, err));
    CUDA(cudaHostAlloc((void **)&t->host_reports, CUDA_DEPTH * sizeof *t->host_reports, cudaHostAllocDefault),
         "allocating host memory");
    for (int i = 0; i < CUDA_DEPTH; i++) {
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
        release_thread(b, t);
        *thread = NULL;
    }
    return st;
}

/* What opening has made, or an earlier thread has left. */
static void *cuda_thread_new(struct backend *b, struct wm_error *err)
{
    struct cuda_backend *cuda = (struct cuda_backend *)b;
    struct cuda_thread *t = cuda->idle;
    enum wm_status st = WM_OK;

    if (b->lost || !t) {
        st = error_set(err, WM_NO_DEVICE, "%s; run the same command with --device cpu",
                       b->lost ? b->message : "a GPU has one thread, and it is at work");
        goto out;
    }
    CUDA(cudaSetDevice(cuda->options.device), "being selected");
    cuda->idle = NULL;
out:
    return st == WM_OK ? t : NULL;
}

static void cuda_thread_free(struct backend *b, void *thread)
{
    struct cuda_backend *cuda = (struct cuda_backend *)b;

    if (!b->lost && thread)
        cuda->idle = thread;
    else
        release_thread(b, thread);
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

static void free_side(struct cuda_thread *t, struct cuda_memory *memory)
{
    if (memory->at)
        cudaFree(memory->at);
    t->side_used -= memory->n_bytes;
    *memory = (struct cuda_memory){NULL, 0};
}

/* The smallest spare place gives way to a larger one. */
void backend_cuda_give(struct cuda_thread *t, struct cuda_memory *memory)
{
    struct cuda_memory *least = &t->spare[0];

    for (int i = 1; i < CUDA_MAX_SPARE; i++)
        if (t->spare[i].n_bytes < least->n_bytes)
            least = &t->spare[i];
    if (memory->n_bytes > least->n_bytes) {
        free_side(t, least);
        *least = *memory;
        *memory = (struct cuda_memory){NULL, 0};
    } else {
        free_side(t, memory);
    }
}

enum wm_status backend_cuda_take(struct backend *b, struct cuda_thread *t, uint64_t n_bytes, struct cuda_memory *memory,
                                 struct wm_error *err)
{
    struct cuda_memory *least = NULL; /* of those that are large enough */
    enum wm_status st = WM_OK;
    cudaError_t code;

    for (int i = 0; i < CUDA_MAX_SPARE; i++)
        if (t->spare[i].n_bytes >= n_bytes && (!least || t->spare[i].n_bytes < least->n_bytes))
            least = &t->spare[i];
    *memory = least ? *least : (struct cuda_memory){NULL, 0};
    if (least) {
        *least = (struct cuda_memory){NULL, 0};
        return WM_OK;
    }
    for (int i = 0; i < CUDA_MAX_SPARE && t->side_used + n_bytes > t->side_bytes; i++)
        free_side(t, &t->spare[i]);
    if (t->side_used + n_bytes > t->side_bytes)
        backend_cuda_shrink_groups(t);
    if (t->side_used + n_bytes > t->side_bytes)
        return WM_OK; /* the budget is the user's: the CPU does what does not fit it */
    code = cudaMalloc(&memory->at, n_bytes);
    if (code == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError(); /* not sticky: take it off the record */
        memory->at = NULL;
        return WM_OK;
    }
    CUDA(code, "allocating memory");
    memory->n_bytes = n_bytes;
    t->side_used += n_bytes;
out:
    return st;
}

static void cuda_tensor_free(struct backend *b, void *thread, void *tensor)
{
    struct cuda_thread *t = thread;
    struct cuda_tensor *x = tensor;

    if (!x)
        return;
    if (!b->lost) {
        const size_t n = x->resident ? x->n_tiles * (size_t)x->n_inputs : 0;
        backend_cuda_give(t, &x->results);
        backend_cuda_give(t, &x->vector_weights);
        for (size_t i = 0; i < n; i++)
            t->free_slots[t->n_free++] = x->slots[i];
        b->stay_slots_free += n;
    } else if (!((struct cuda_backend *)b)->dead) { /* the thread may be gone */
        cudaFree(x->results.at);
        cudaFree(x->vector_weights.at);
    }
    backend_cuda_check_forget(t, x);
    free(x->slots);
    free(x->uploaded);
    free(x->stays);
    free(x->blocks);
    free(x);
}

/* Every tile gets slots for good, if tiles that are on their way keep enough. */
static enum wm_status let_stay(struct backend *b, struct cuda_thread *t, struct cuda_tensor *x, struct wm_error *err)
{
    const size_t n = x->n_tiles * (size_t)x->n_inputs;
    enum wm_status st = WM_OK;

    if (n > b->stay_slots_free)
        return WM_OK;
    TRY(backend_cuda_make_room(b, t, n, err));
    x->slots = malloc(n * sizeof *x->slots);
    x->uploaded = calloc(n, 1);
    x->stays = calloc(x->n_tiles, 1);
    x->blocks = calloc(x->n_tiles, sizeof *x->blocks);
    if (!x->slots || !x->uploaded || !x->stays || !x->blocks) {
        st = error_no_memory(err, "starting a tensor on a GPU");
        goto out;
    }
    x->resident = true;
    b->stay_slots_free -= n;
    for (size_t i = 0; i < n; i++)
        x->slots[i] = t->free_slots[--t->n_free];
out:
    return st;
}

static enum wm_status cuda_tensor_new(struct backend *b, void *thread, const struct backend_tensor_info *info,
                                      void **tensor, struct wm_error *err)
{
    struct cuda_thread *t = thread;
    struct cuda_tensor *x = calloc(1, sizeof *x);
    enum wm_status st = WM_OK;

    if (!x)
        return error_no_memory(err, "starting a tensor on a GPU");
    x->first_tile = info->first_tile;
    x->n_tiles = info->n_tiles;
    x->n_inputs = info->n_inputs;
    x->on_device = info->n_elems >= CUDA_MIN_ELEMS;
    x->sample = (struct device_sample){info->key, ((struct cuda_backend *)b)->options.verify_per_1000};
    x->results_of = STAT_READY;
    if (x->on_device && info->has_statistics)
        st = let_stay(b, t, x, err);
    if (st == WM_OK)
        *tensor = x;
    else
        cuda_tensor_free(b, t, x);
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
    (void)cudaStreamSynchronize(t->select);
    (void)cudaStreamSynchronize(t->home);
}

static void cuda_close(struct backend *b)
{
    struct cuda_backend *cuda = (struct cuda_backend *)b;

    if (cuda->idle && !cuda->dead)
        (void)cudaSetDevice(cuda->options.device);
    release_thread(b, cuda->idle);
    free(b);
}

static const struct backend_ops cuda_ops = {.describe = cuda_describe,
                                            .alloc = backend_cuda_alloc,
                                            .free = backend_cuda_free,
                                            .thread_new = cuda_thread_new,
                                            .thread_free = cuda_thread_free,
                                            .tensor_new = cuda_tensor_new,
                                            .tensor_free = cuda_tensor_free,
                                            .submit = backend_cuda_submit,
                                            .await = backend_cuda_await,
                                            .finish_pass = backend_cuda_finish_pass,
                                            .collect_model = backend_cuda_collect_model,
                                            .submit_group = backend_cuda_submit_group,
                                            .await_group = backend_cuda_await_group,
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

const char *backend_cuda_trouble(void)
{
    int n = 0;
    cudaError_t code = cudaGetDeviceCount(&n);

    (void)cudaGetLastError(); /* whatever it is, it is told here */
    return code == cudaSuccess || code == cudaErrorNoDevice || code == cudaErrorInsufficientDriver
               ? NULL
               : cudaGetErrorString(code);
}

/* A newer or older GPU than the build was made for. */
static enum wm_status check_code(struct backend *b, const struct cudaDeviceProp *properties, struct wm_error *err)
{
    cudaError_t code = device_has_code();
    enum wm_status st = WM_OK;

    if (code == cudaErrorNoKernelImageForDevice || code == cudaErrorInvalidDeviceFunction) {
        (void)cudaGetLastError(); /* not sticky */
        st = error_set(err, WM_NO_DEVICE,
                       "this build has no code for GPU %d, which has compute capability %d.%d (it has code for: %s); "
                       "rebuild it with -DWM_CUDA_ARCHS=%d%d",
                       ((struct cuda_backend *)b)->options.device, properties->major, properties->minor, WM_CUDA_ARCHS,
                       properties->major, properties->minor);
        goto out;
    }
    CUDA(code, "looking for its code");
out:
    return st;
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
    b->depth = CUDA_DEPTH;
    b->group_depth = CUDA_GROUPS;
    b->group_members = BACKEND_GROUP_MEMBERS;
    cuda->options = *options;
    CUDA(cudaSetDevice(options->device), "being selected"); /* first: the one before may have failed */
    CUDA(cudaGetDeviceProperties(&properties, options->device), "being examined");
    TRY(check_code(b, &properties, err));
    TRY(make_thread(b, &cuda->idle, err));
    snprintf(cuda->name, sizeof cuda->name, "cuda:%d %.100s", options->device, properties.name);
    *backend = b;
    cuda = NULL;
out:
    free(cuda);
    return st;
}
