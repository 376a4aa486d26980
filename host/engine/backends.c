/*
 * backends.c: which devices a run uses.
 *
 * What lives here: the choice between the CPU and the GPUs, from what the user asked for and what the machine has. The
 * one file that is different with and without CUDA. What it must not know: how any backend works.
 */
#include "engine/backends.h"

#include "base/dtype.h"

#include <stdio.h>

static enum wm_status open_cpu(const struct plan *plan, struct backends *backends, struct wm_error *err)
{
    enum wm_status st = backend_open_cpu(&backends->items[0], err);

    if (st == WM_OK) {
        backends->n_items = 1;
        backends->threads_per_backend = plan->memory.n_compute;
    }
    return st;
}

#ifdef WM_HAVE_CUDA

static void fill_options(const struct plan *plan, const struct wm_options *options, struct backend_cuda_options *cuda)
{
    uint64_t tile_elems = plan->memory.tile_elems;

    *cuda = (struct backend_cuda_options){.memory_bytes = options->device_memory_bytes,
                                          .tile_out_bytes = plan->memory.out_slot_bytes,
                                          .max_inputs = 1,
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

/* How many ranks of this machine drive the GPU that this one drives. */
static int ranks_on_device(const struct wm_options *options, int n_devices)
{
    if (options->n_ranks <= 1 || options->local_size <= 1)
        return 1;
    if (options->device == WM_DEVICE_CUDA && options->device_index)
        return options->local_size;
    return (options->local_size + n_devices - 1) / n_devices;
}

static enum wm_status open_cuda(const struct plan *plan, const struct wm_options *options, int n_devices,
                                struct backends *backends, struct wm_error *err)
{
    int only = backends_own_device(options);
    struct backend_cuda_options cuda;
    enum wm_status st = WM_OK;

    fill_options(plan, options, &cuda);
    cuda.n_sharing = ranks_on_device(options, n_devices);
    for (int d = only >= 0 ? only : 0; d < (only >= 0 ? only + 1 : n_devices); d++) {
        if (backends->n_items == BACKENDS_MAX)
            break;
        cuda.device = d;
        TRY(backend_open_cuda(&backends->items[backends->n_items], &cuda, err));
        backends->n_items++;
    }
    backends->threads_per_backend = 1;
out:
    if (st != WM_OK)
        backends_close(backends);
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

enum wm_status backends_open(const struct plan *plan, const struct wm_options *options, struct backends *backends,
                             struct wm_error *err)
{
    int n_devices = options->device == WM_DEVICE_CPU ? 0 : backend_cuda_count();
    enum wm_status st = backends_check(options, err);

    *backends = (struct backends){.n_items = 0};
    if (st != WM_OK)
        return st;
    return n_devices ? open_cuda(plan, options, n_devices, backends, err) : open_cpu(plan, backends, err);
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

enum wm_status backends_open(const struct plan *plan, const struct wm_options *options, struct backends *backends,
                             struct wm_error *err)
{
    enum wm_status st = backends_check(options, err);

    *backends = (struct backends){.n_items = 0};
    return st == WM_OK ? open_cpu(plan, backends, err) : st;
}

int backends_own_device(const struct wm_options *options)
{
    (void)options;
    return -1;
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
    return n_left ? WM_OK : open_cpu(plan, backends, err);
}

void backends_close(struct backends *backends)
{
    while (backends->n_items) {
        struct backend *b = backends->items[--backends->n_items];
        b->ops->close(b);
    }
}
