/*
 * device_cuda.c: kernels measured on a GPU.
 *
 * What lives here: tensors in device memory, one stream, times between events, a buffer twice the size of the second
 * level cache that is overwritten before a cold sample, and the speed of the wires. What it must not know: which
 * kernels, how often; the engine's streaming.
 */
#include "measure/measure.h"

#include "base/dtype.h"
#include "base/file.h"
#include "methods/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TILE_ELEMS       ((uint64_t)32 << 20) /* 64 MiB of bf16: the largest tile that the engine makes */
#define WIRE_BYTES       ((size_t)512 << 20)
#define QUICK_WIRE_BYTES ((size_t)64 << 20)

struct gpu {
    struct measure_device device;
    struct cudaDeviceProp properties;
    int clock_khz;
    cudaStream_t stream, second;
    cudaEvent_t began, ended, joined;
    char *in[MEASURE_MAX_INPUTS], *out;
    int n_inputs;
    enum wm_dtype dtype;
    uint64_t n_elems;
    char *flush;
    size_t flush_bytes;
    struct device_report *report;
    char *results, *host_results; /* of a statistics pass */
    uint64_t results_bytes;
    float *vector_weights;
    size_t vector_bytes;
};

static enum wm_status check(cudaError_t error, const char *what, struct wm_error *err)
{
    if (error == cudaSuccess)
        return WM_OK;
    return error_set(err, error == cudaErrorMemoryAllocation ? WM_TEMPORARY : WM_NO_DEVICE,
                     "measuring the GPU: %s failed: %s; see `nvidia-smi`, or use --device cpu", what,
                     cudaGetErrorString(error));
}

#define CUDA(call) TRY(check((call), #call, err))

bool measure_has_gpu(void)
{
    int n = 0;

    return cudaGetDeviceCount(&n) == cudaSuccess && n > 0;
}

static void gpu_describe(const struct measure_device *device, char text[MEASURE_DEVICE_BYTES])
{
    const struct gpu *g = (const struct gpu *)device;
    int driver = 0, runtime = 0;

    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    snprintf(text, MEASURE_DEVICE_BYTES, "%.64s, %d multiprocessors, sm_%d%d, driver API %d.%d, runtime %d.%d",
             g->properties.name, g->properties.multiProcessorCount, g->properties.major, g->properties.minor,
             driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
}

static uint64_t gpu_tensor_limit(const struct measure_device *device, int n_inputs)
{
    const struct gpu *g = (const struct gpu *)device;

    return g->properties.totalGlobalMem / 2 / (uint64_t)(n_inputs + 1);
}

static void unload(struct gpu *g)
{
    for (int i = 0; i < MEASURE_MAX_INPUTS; i++) {
        (void)cudaFree(g->in[i]);
        g->in[i] = NULL;
    }
    (void)cudaFree(g->out);
    g->out = NULL;
}

static enum wm_status gpu_load(struct measure_device *device, int n_inputs, enum wm_dtype dtype, uint64_t n_elems,
                               struct wm_error *err)
{
    struct gpu *g = (struct gpu *)device;
    size_t n_bytes;
    char *host = NULL;
    enum wm_status st = WM_OK;

    unload(g);
    g->n_inputs = n_inputs;
    g->dtype = dtype;
    g->n_elems = n_elems;
    n_bytes = (size_t)(n_elems * dtype_bits(dtype) / 8);
    host = malloc(n_bytes);
    if (!host)
        return error_no_memory(err, "measuring the GPU");
    CUDA(cudaMalloc((void **)&g->out, n_bytes));
    for (int i = 0; i < n_inputs; i++) {
        CUDA(cudaMalloc((void **)&g->in[i], n_bytes));
        measure_fill(host, dtype, n_elems, i);
        CUDA(cudaMemcpyAsync(g->in[i], host, n_bytes, cudaMemcpyHostToDevice, g->stream));
        CUDA(cudaStreamSynchronize(g->stream));
    }
out:
    free(host);
    return st;
}

static enum wm_status gpu_flush(struct measure_device *device, struct wm_error *err)
{
    struct gpu *g = (struct gpu *)device;
    enum wm_status st = WM_OK;

    CUDA(cudaMemsetAsync(g->flush, 1, g->flush_bytes, g->stream));
out:
    return st;
}

static enum wm_status elapsed(struct gpu *g, double *seconds, struct wm_error *err)
{
    float milliseconds = 0;
    enum wm_status st = WM_OK;

    CUDA(cudaEventSynchronize(g->ended));
    CUDA(cudaEventElapsedTime(&milliseconds, g->began, g->ended));
    *seconds = 1e-3 * (double)milliseconds;
out:
    return st;
}

static uint64_t n_tiles(const struct gpu *g)
{
    return (g->n_elems + TILE_ELEMS - 1) / TILE_ELEMS;
}

/* Row or column weights travel before the clock starts: the engine sends them once a tensor. */
static enum wm_status send_weights(struct gpu *g, const struct merge_op *op, struct wm_error *err)
{
    size_t n_vectors = (size_t)(op->axis == AXIS_COLUMNS ? op->row_elems : op->n_rows);
    size_t n_bytes = n_vectors * (size_t)op->n_models * sizeof(float);
    enum wm_status st = WM_OK;

    if (!op->vector_weights)
        return WM_OK;
    if (n_bytes > g->vector_bytes) {
        CUDA(cudaFree(g->vector_weights));
        g->vector_weights = NULL;
        CUDA(cudaMalloc((void **)&g->vector_weights, n_bytes));
        g->vector_bytes = n_bytes;
    }
    CUDA(cudaMemcpyAsync(g->vector_weights, op->vector_weights, n_bytes, cudaMemcpyHostToDevice, g->stream));
    CUDA(cudaStreamSynchronize(g->stream));
out:
    return st;
}

static enum wm_status gpu_combine(struct measure_device *device, const struct merge_op *op, int n_repeats,
                                  double *seconds, struct wm_error *err)
{
    struct gpu *g = (struct gpu *)device;
    struct merge_tile tile;
    enum wm_status st = WM_OK;

    TRY(send_weights(g, op, err));
    CUDA(cudaEventRecord(g->began, g->stream));
    for (int repeat = 0; repeat < n_repeats; repeat++)
        for (uint64_t i = 0; i < n_tiles(g); i++) {
            measure_tile(&tile, op, TILE_ELEMS, i, g->dtype, g->in, g->out);
            CUDA(device_combine_launch(op, &tile, op->vector_weights ? g->vector_weights : NULL, g->report, g->stream));
        }
    CUDA(cudaEventRecord(g->ended, g->stream));
    TRY(elapsed(g, seconds, err));
out:
    return st;
}

static uint64_t gpu_tile_elems(const struct measure_device *device)
{
    (void)device;
    return TILE_ELEMS;
}

static enum wm_status room_for_results(struct gpu *g, uint64_t n_bytes, struct wm_error *err)
{
    enum wm_status st = WM_OK;

    if (n_bytes <= g->results_bytes)
        return WM_OK;
    CUDA(cudaFree(g->results));
    CUDA(cudaFreeHost(g->host_results));
    g->results = g->host_results = NULL;
    CUDA(cudaMalloc((void **)&g->results, (size_t)n_bytes));
    CUDA(cudaMallocHost((void **)&g->host_results, (size_t)n_bytes));
    g->results_bytes = n_bytes;
out:
    return st;
}

/* Nothing waits between the flush and the kernels: the clock's first event then stands right before them. */
static enum wm_status gpu_pass(struct measure_device *device, const struct merge_op *op, struct statistics *s,
                               double *seconds, double *after, struct wm_error *err)
{
    struct gpu *g = (struct gpu *)device;
    uint64_t n_bytes = device_pass_bytes(op, s);
    struct merge_tile tile;
    double kernels_ended;
    enum wm_status st = WM_OK;

    if (n_bytes == 0)
        return error_set(err, WM_BUG, "the GPU has no kernel for the pass \"%s\"",
                         measure_pass_name(statistics_pass(s)));
    TRY(room_for_results(g, n_bytes, err));
    CUDA(cudaEventRecord(g->began, g->stream));
    CUDA(cudaMemsetAsync(g->results, 0, (size_t)n_bytes, g->stream));
    for (uint64_t i = 0; i < n_tiles(g); i++) {
        if (!statistics_needs_tile(s, (size_t)i))
            continue;
        measure_tile(&tile, op, TILE_ELEMS, i, g->dtype, g->in, NULL);
        CUDA(device_pass_launch(op, s, &tile, g->results, g->stream));
    }
    CUDA(cudaEventRecord(g->ended, g->stream));
    CUDA(cudaMemcpyAsync(g->host_results, g->results, (size_t)n_bytes, cudaMemcpyDeviceToHost, g->stream));
    TRY(elapsed(g, seconds, err));
    kernels_ended = file_now_seconds();
    CUDA(cudaStreamSynchronize(g->stream));
    device_pass_collect(op, s, g->host_results);
    *after = file_now_seconds() - kernels_ended;
out:
    return st;
}

/* ---- wires -------------------------------------------------------------------------------------------------- */

struct wires {
    char *host_out, *host_in, *a, *b; /* pinned, pinned, device, device */
    size_t n_bytes;
};

enum wire { H2D, D2H, BOTH, DEVICE_COPY, N_WIRES };

static enum wm_status wire_sample(struct gpu *g, const struct wires *w, enum wire wire, double *seconds,
                                  struct wm_error *err)
{
    enum wm_status st = WM_OK;

    CUDA(cudaEventRecord(g->began, g->stream));
    if (wire == BOTH)
        CUDA(cudaStreamWaitEvent(g->second, g->began, 0));
    if (wire == H2D || wire == BOTH)
        CUDA(cudaMemcpyAsync(w->a, w->host_out, w->n_bytes, cudaMemcpyHostToDevice, g->stream));
    if (wire == D2H || wire == BOTH)
        CUDA(cudaMemcpyAsync(w->host_in, w->b, w->n_bytes, cudaMemcpyDeviceToHost,
                             wire == BOTH ? g->second : g->stream));
    if (wire == DEVICE_COPY)
        CUDA(cudaMemcpyAsync(w->a, w->b, w->n_bytes, cudaMemcpyDeviceToDevice, g->stream));
    if (wire == BOTH) {
        CUDA(cudaEventRecord(g->joined, g->second));
        CUDA(cudaStreamWaitEvent(g->stream, g->joined, 0));
    }
    CUDA(cudaEventRecord(g->ended, g->stream));
    TRY(elapsed(g, seconds, err));
out:
    return st;
}

static enum wm_status gpu_ceilings(struct measure_device *device, struct measure *m, const struct sample_rules *rules,
                                   struct wm_error *err)
{
    static const struct {
        const char *id, *what, *detail;
        unsigned n_ways;
    } names[N_WIRES] = {{"h2d", "host to device, pinned", "one stream", 1},
                        {"d2h", "device to host, pinned", "one stream", 1},
                        {"h2d_d2h", "both ways at once, pinned", "two streams, sum of both", 2},
                        {"device_copy", "device memory, copy", "reads and writes", 2}};
    struct gpu *g = (struct gpu *)device;
    struct wires w = {.n_bytes = m->quick ? QUICK_WIRE_BYTES : WIRE_BYTES};
    struct sampler *sampler = malloc(sizeof *sampler);
    double seconds = 0;
    enum wm_status st = WM_OK;

    if (!sampler)
        return error_no_memory(err, "measuring the GPU");
    CUDA(cudaMallocHost((void **)&w.host_out, w.n_bytes));
    CUDA(cudaMallocHost((void **)&w.host_in, w.n_bytes));
    CUDA(cudaMalloc((void **)&w.a, w.n_bytes));
    CUDA(cudaMalloc((void **)&w.b, w.n_bytes));
    memset(w.host_out, 1, w.n_bytes);
    CUDA(cudaMemsetAsync(w.b, 2, w.n_bytes, g->stream));
    for (int wire = 0; wire < N_WIRES; wire++) {
        struct measure_ceiling *c;
        struct sample_time time;
        TRY(wire_sample(g, &w, (enum wire)wire, &seconds, err));
        for (sampler_begin(sampler, rules); sampler_wants_more(sampler); sampler_add(sampler, seconds))
            TRY(wire_sample(g, &w, (enum wire)wire, &seconds, err));
        time = sampler_end(sampler);
        c = measure_add_ceiling(m, names[wire].id, names[wire].what);
        measure_set_ceiling(c, names[wire].n_ways * w.n_bytes, &time);
        snprintf(c->detail, sizeof c->detail, "%s, %zu MiB", names[wire].detail, w.n_bytes >> 20);
        m->copy_bytes_per_second = c->bytes_per_second; /* the last one is the device's memory */
    }
    /* 128 fp32 lanes a multiprocessor since compute capability 8.6 and on 9.0, 64 before and on 8.0 (CUDA C++
     * Programming Guide, arithmetic instructions); one operation a lane and cycle, since nothing is contracted. */
    m->peak_operations_per_second = (g->properties.major == 8 && g->properties.minor == 0 ? 64.0 : 128.0) *
                                    g->properties.multiProcessorCount * 1e3 * g->clock_khz;
    m->peak_source = "computed: lanes, multiprocessors and the highest clock, no fma";
out:
    free(sampler);
    (void)cudaFreeHost(w.host_out);
    (void)cudaFreeHost(w.host_in);
    (void)cudaFree(w.a);
    (void)cudaFree(w.b);
    return st;
}

static void gpu_close(struct measure_device *device)
{
    struct gpu *g = (struct gpu *)device;

    unload(g);
    (void)cudaFree(g->flush);
    (void)cudaFree(g->report);
    (void)cudaFree(g->results);
    (void)cudaFreeHost(g->host_results);
    (void)cudaFree(g->vector_weights);
    if (g->began)
        (void)cudaEventDestroy(g->began);
    if (g->ended)
        (void)cudaEventDestroy(g->ended);
    if (g->joined)
        (void)cudaEventDestroy(g->joined);
    if (g->stream)
        (void)cudaStreamDestroy(g->stream);
    if (g->second)
        (void)cudaStreamDestroy(g->second);
    free(g);
}

static const struct measure_device_ops gpu_ops = {gpu_describe, gpu_tensor_limit, gpu_load,
                                                  gpu_flush,    gpu_combine,      gpu_tile_elems,
                                                  gpu_pass,     gpu_ceilings,     gpu_close};

enum wm_status measure_open_cuda(struct measure_device **device, struct wm_error *err)
{
    struct gpu *g = calloc(1, sizeof *g);
    enum wm_status st = WM_OK;

    *device = NULL;
    if (!g)
        return error_no_memory(err, "measuring the GPU");
    g->device.ops = &gpu_ops;
    CUDA(cudaSetDevice(0));
    CUDA(cudaGetDeviceProperties(&g->properties, 0));
    CUDA(cudaDeviceGetAttribute(&g->clock_khz, cudaDevAttrClockRate, 0));
    CUDA(cudaStreamCreateWithFlags(&g->stream, cudaStreamNonBlocking));
    CUDA(cudaStreamCreateWithFlags(&g->second, cudaStreamNonBlocking));
    CUDA(cudaEventCreate(&g->began));
    CUDA(cudaEventCreate(&g->ended));
    CUDA(cudaEventCreate(&g->joined));
    g->flush_bytes = 2 * (size_t)g->properties.l2CacheSize + ((size_t)1 << 20);
    CUDA(cudaMalloc((void **)&g->flush, g->flush_bytes));
    CUDA(cudaMalloc((void **)&g->report, sizeof *g->report));
    CUDA(cudaMemsetAsync(g->report, 0, sizeof *g->report, g->stream));
    CUDA(cudaStreamSynchronize(g->stream));
    *device = &g->device;
out:
    if (st != WM_OK)
        gpu_close(&g->device);
    return st;
}
