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
#include "methods/device_group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TILE_ELEMS       ((uint64_t)32 << 20) /* 64 MiB of bf16: the largest tile that the engine can make */
#define WIRE_BYTES       ((size_t)512 << 20)
#define QUICK_WIRE_BYTES ((size_t)64 << 20)

struct gpu {
    struct measure_device device;
    struct cudaDeviceProp properties;
    int index;
    int clock_khz;
    cudaStream_t stream, second;
    cudaEvent_t began, ended, joined;
    uint64_t tile_bytes; /* the engine's */
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

int measure_n_gpus(void)
{
    int n = 0;

    return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
}

static void gpu_describe(const struct measure_device *device, char text[MEASURE_DEVICE_BYTES])
{
    const struct gpu *g = (const struct gpu *)device;
    int driver = 0, runtime = 0;

    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    snprintf(text, MEASURE_DEVICE_BYTES, "GPU %d, %.64s, %d multiprocessors, sm_%d%d, driver API %d.%d, runtime %d.%d",
             g->index, g->properties.name, g->properties.multiProcessorCount, g->properties.major, g->properties.minor,
             driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
}

static uint64_t gpu_tensor_limit(const struct measure_device *device, int n_inputs)
{
    const struct gpu *g = (const struct gpu *)device;

    return g->properties.totalGlobalMem / 2 / (uint64_t)(n_inputs + 1);
}

static void gpu_unload(struct measure_device *device)
{
    for (int i = 0; i < MEASURE_MAX_INPUTS; i++) {
        (void)cudaFree(device->tensors.in[i]);
        device->tensors.in[i] = NULL;
    }
    (void)cudaFree(device->tensors.out);
    device->tensors.out = NULL;
}

static enum wm_status gpu_load(struct measure_device *device, struct wm_error *err)
{
    struct gpu *g = (struct gpu *)device;
    uint64_t n_elems = device->tensors.n_elems;
    char *host = NULL;
    enum wm_status st = WM_OK;

    gpu_unload(device);
    host = malloc((size_t)n_elems * 4); /* of the widest type that is filled */
    if (!host)
        return error_no_memory(err, "measuring the GPU");
    CUDA(cudaMalloc((void **)&device->tensors.out, (size_t)(n_elems * dtype_bits(device->tensors.dtype) / 8)));
    for (int i = 0; i < device->tensors.n_inputs; i++) {
        enum wm_dtype dtype = device->tensors.in_dtype[i];
        size_t n_bytes = (size_t)(n_elems * dtype_bits(dtype) / 8);
        CUDA(cudaMalloc((void **)&device->tensors.in[i], n_bytes));
        measure_fill(host, dtype, n_elems, i);
        CUDA(cudaMemcpyAsync(device->tensors.in[i], host, n_bytes, cudaMemcpyHostToDevice, g->stream));
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
    return (g->device.tensors.n_elems + g->device.tile_elems - 1) / g->device.tile_elems;
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

static enum wm_status gpu_combine(struct measure_device *device, const struct merge_op *op, const struct statistics *s,
                                  int n_repeats, double *seconds, struct wm_error *err)
{
    struct gpu *g = (struct gpu *)device;
    struct merge_tile tile;
    enum wm_status st = WM_OK;

    TRY(send_weights(g, op, err));
    CUDA(cudaEventRecord(g->began, g->stream));
    for (int repeat = 0; repeat < n_repeats; repeat++)
        for (uint64_t i = 0; i < n_tiles(g); i++) {
            if (s && statistics_tile_stands(s, (size_t)i))
                continue;
            measure_tile(&tile, device, op, i, true);
            CUDA(device_combine_launch(op, &tile, op->vector_weights ? g->vector_weights : NULL, g->report, g->stream));
        }
    CUDA(cudaEventRecord(g->ended, g->stream));
    TRY(elapsed(g, seconds, err));
    *seconds /= n_repeats;
out:
    return st;
}

static uint64_t gpu_tile_elems(const struct measure_device *device, int which, enum wm_dtype dtype)
{
    uint64_t sizes[] = {TILE_ELEMS, ((const struct gpu *)device)->tile_bytes / (dtype_bits(dtype) / 8), 0};

    return sizes[which];
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

/* COARSE and all that follows it, without a word from the host. */
static enum wm_status launch_search(struct gpu *g, const struct merge_op *op, const struct statistics *s,
                                    const struct device_select *plan, struct wm_error *err)
{
    const void **table = (const void **)(g->host_results + plan->table_at);
    struct merge_tile tile;
    enum wm_status st = WM_OK;

    for (uint64_t i = 0; i < n_tiles(g); i++) {
        measure_tile(&tile, &g->device, op, i, false);
        memcpy(table + i * (uint64_t)plan->n_inputs, tile.in, (size_t)plan->n_inputs * sizeof *table);
    }
    CUDA(cudaMemcpyAsync(g->results + plan->table_at, table, plan->n_table_bytes, cudaMemcpyHostToDevice, g->stream));
    CUDA(device_select_launch(s, plan, table, g->device.tensors.in_dtype, g->results, g->stream));
out:
    return st;
}

static enum wm_status launch_pass(struct gpu *g, const struct merge_op *op, const struct statistics *s,
                                  struct wm_error *err)
{
    bool merges = statistics_pass(s) == STAT_KTH_GUESS;
    struct merge_tile tile;
    enum wm_status st = WM_OK;

    for (uint64_t i = 0; i < n_tiles(g); i++) {
        if (!statistics_needs_tile(s, (size_t)i))
            continue;
        measure_tile(&tile, &g->device, op, i, merges);
        CUDA(device_pass_launch(op, s, &tile, g->results, g->stream));
        if (merges)
            CUDA(device_combine_launch(op, &tile, op->vector_weights ? g->vector_weights : NULL, g->report, g->stream));
    }
out:
    return st;
}

/* A pass that has no kernel: in a merge the CPU looks at tiles that are still in its memory. The way there is not timed. */
static enum wm_status pass_on_cpu(struct gpu *g, const struct merge_op *op, struct statistics *s, double *seconds,
                                  struct wm_error *err)
{
    struct cpu_scratch *scratch = cpu_scratch_new();
    size_t n_bytes = (size_t)g->device.tile_elems * sizeof(float);
    char *host = malloc((size_t)merge_op_n_inputs(op) * n_bytes);
    struct merge_tile tile;
    enum wm_status st = WM_OK;

    *seconds = 0;
    if (!host || !scratch) {
        st = error_no_memory(err, "measuring the GPU");
        goto out;
    }
    for (uint64_t i = 0; i < n_tiles(g); i++) {
        double began;
        if (!statistics_needs_tile(s, (size_t)i))
            continue;
        measure_tile(&tile, &g->device, op, i, false);
        for (int input = 0; input < merge_op_n_inputs(op); input++) {
            char *home = host + (size_t)input * n_bytes;
            CUDA(cudaMemcpyAsync(home, tile.in[input], tile.n_elems * dtype_bits(tile.in_dtype[input]) / 8,
                                 cudaMemcpyDeviceToHost, g->stream));
            tile.in[input] = home;
        }
        CUDA(cudaStreamSynchronize(g->stream));
        began = file_now_seconds();
        cpu_statistics_tile(op, s, &tile, scratch);
        *seconds += file_now_seconds() - began;
    }
out:
    free(host);
    cpu_scratch_free(scratch);
    return st;
}

/* Nothing waits between the flush and the kernels: the clock's first event then stands right before them. */
static enum wm_status gpu_pass(struct measure_device *device, const struct merge_op *op, struct statistics *s,
                               int n_repeats, double *seconds, double *after, struct wm_error *err)
{
    struct gpu *g = (struct gpu *)device;
    uint64_t n_bytes = device_pass_bytes(op, s), home_at = 0, n_home;
    struct device_select plan = {0};
    double kernels_ended;
    enum wm_status st = WM_OK;

    *after = 0;
    if (n_bytes == 0)
        return pass_on_cpu(g, op, s, seconds, err);
    n_home = n_bytes;
    if (device->searching)
        device_select_plan(op, s, &plan);
    if (plan.n_result_bytes) {
        n_bytes = plan.n_result_bytes;
        home_at = plan.choices_at;
        n_home = plan.n_choice_bytes;
    }
    TRY(room_for_results(g, n_bytes, err));
    CUDA(cudaEventRecord(g->began, g->stream));
    for (int repeat = 0; repeat < n_repeats; repeat++) {
        CUDA(cudaMemsetAsync(g->results, 0, (size_t)n_bytes, g->stream));
        TRY(launch_pass(g, op, s, err));
        if (plan.n_result_bytes)
            TRY(launch_search(g, op, s, &plan, err));
    }
    CUDA(cudaEventRecord(g->ended, g->stream));
    CUDA(cudaMemcpyAsync(g->host_results + home_at, g->results + home_at, (size_t)n_home, cudaMemcpyDeviceToHost,
                         g->stream));
    TRY(elapsed(g, seconds, err));
    *seconds /= n_repeats;
    kernels_ended = file_now_seconds();
    CUDA(cudaStreamSynchronize(g->stream));
    if (plan.n_result_bytes)
        device_select_collect(s, g->host_results + home_at);
    else
        device_pass_collect(op, s, g->host_results);
    *after = file_now_seconds() - kernels_ended;
out:
    return st;
}

static enum wm_status gpu_model_pass(struct measure_device *device, const struct merge_op *op,
                                     struct model_statistics *ms, int n_repeats, double *seconds, double *after,
                                     struct wm_error *err)
{
    struct gpu *g = (struct gpu *)device;
    struct merge_tile tile;
    size_t n_counts, n_bytes;
    double kernels_ended;
    enum wm_status st = WM_OK;

    (void)model_statistics_counts(ms, &n_counts);
    n_bytes = n_counts * sizeof(uint64_t);
    TRY(room_for_results(g, n_bytes, err));
    CUDA(cudaEventRecord(g->began, g->stream));
    for (int repeat = 0; repeat < n_repeats; repeat++) {
        CUDA(cudaMemsetAsync(g->results, 0, n_bytes, g->stream));
        for (uint64_t i = 0; i < n_tiles(g); i++) {
            measure_tile(&tile, device, op, i, false);
            CUDA(device_model_launch(op, ms, &tile, (uint64_t *)(void *)g->results, g->stream));
        }
    }
    CUDA(cudaEventRecord(g->ended, g->stream));
    CUDA(cudaMemcpyAsync(g->host_results, g->results, n_bytes, cudaMemcpyDeviceToHost, g->stream));
    TRY(elapsed(g, seconds, err));
    *seconds /= n_repeats;
    kernels_ended = file_now_seconds();
    CUDA(cudaStreamSynchronize(g->stream));
    model_statistics_add_counts(ms, 0, (const uint64_t *)(const void *)g->host_results, n_counts);
    *after = file_now_seconds() - kernels_ended;
out:
    return st;
}

/* ---- groups ------------------------------------------------------------------------------------------------- */

/* Rounds over one group of at most DEVICE_GROUP_TENSORS tensors, as the engine's backend runs them, which has other groups on
 * their way meanwhile. */
static enum wm_status run_rounds(struct gpu *g, struct device_group_tensor *tensors, size_t n, char *table,
                                 char *device_table, struct wm_error *err)
{
    struct device_group_round round;
    enum wm_status st = WM_OK;

    do {
        device_group_plan(tensors, n, table, &round);
        CUDA(cudaMemcpyAsync(device_table, table, round.n_table_bytes, cudaMemcpyHostToDevice, g->stream));
        CUDA(cudaMemsetAsync(g->results, 0, round.n_result_bytes, g->stream));
        CUDA(device_group_launch(&round, device_table, g->results, g->stream));
        CUDA(cudaMemcpyAsync(g->host_results, g->results, round.n_result_bytes, cudaMemcpyDeviceToHost, g->stream));
        CUDA(cudaStreamSynchronize(g->stream));
        device_group_collect(tensors, n, g->host_results);
        for (size_t i = 0; i < n && !round.is_last; i++)
            if (tensors[i].statistics && statistics_pass(tensors[i].statistics) != STAT_READY)
                statistics_finish_pass(tensors[i].statistics, (struct merge_op *)tensors[i].op);
    } while (!round.is_last);
out:
    return st;
}

static enum wm_status gpu_group(struct measure_device *device, struct measure_group *group, double *seconds,
                                struct wm_error *err)
{
    struct gpu *g = (struct gpu *)device;
    struct device_group_tensor tensors[DEVICE_GROUP_TENSORS] = {{0}};
    struct merge_report report;
    char *table = NULL, *device_table = NULL;
    double began;
    enum wm_status st = WM_OK;

    merge_report_init(&report);
    CUDA(cudaMallocHost((void **)&table, DEVICE_GROUP_TABLE_BYTES));
    CUDA(cudaMalloc((void **)&device_table, DEVICE_GROUP_TABLE_BYTES));
    TRY(room_for_results(g, DEVICE_GROUP_RESULT_BYTES, err));
    CUDA(cudaStreamSynchronize(g->stream));
    began = file_now_seconds();
    for (size_t first = 0; first < group->n_tensors; first += DEVICE_GROUP_TENSORS) {
        size_t left = group->n_tensors - first, n = left < DEVICE_GROUP_TENSORS ? left : DEVICE_GROUP_TENSORS;
        for (size_t i = 0; i < n; i++) {
            struct merge_op *op = &group->ops[first + i];
            tensors[i].op = op;
            tensors[i].report = &report;
            measure_group_tile(&tensors[i].tile, device, op, first + i);
            if (statistics_first_pass(op) != STAT_READY &&
                !(tensors[i].statistics = statistics_new(op, DEVICE_GROUP_ELEMS))) {
                st = error_no_memory(err, "measuring the GPU");
                goto out;
            }
        }
        TRY(run_rounds(g, tensors, n, table, device_table, err));
        for (size_t i = 0; i < n; i++) {
            statistics_free(tensors[i].statistics);
            tensors[i].statistics = NULL;
        }
    }
    *seconds = file_now_seconds() - began;
out:
    for (size_t i = 0; i < DEVICE_GROUP_TENSORS; i++)
        statistics_free(tensors[i].statistics);
    (void)cudaFreeHost(table);
    (void)cudaFree(device_table);
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

    gpu_unload(device);
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

static const struct measure_device_ops gpu_ops = {.describe = gpu_describe,
                                                  .tensor_limit = gpu_tensor_limit,
                                                  .tile_elems = gpu_tile_elems,
                                                  .load = gpu_load,
                                                  .unload = gpu_unload,
                                                  .flush = gpu_flush,
                                                  .combine = gpu_combine,
                                                  .pass = gpu_pass,
                                                  .model_pass = gpu_model_pass,
                                                  .repeats = true,
                                                  .searches = true,
                                                  .group = gpu_group,
                                                  .ceilings = gpu_ceilings,
                                                  .close = gpu_close};

enum wm_status measure_open_cuda(struct measure_device **device, int gpu, uint64_t tile_bytes, struct wm_error *err)
{
    struct gpu *g = calloc(1, sizeof *g);
    enum wm_status st = WM_OK;

    *device = NULL;
    if (!g)
        return error_no_memory(err, "measuring the GPU");
    g->device.ops = &gpu_ops;
    g->index = gpu;
    g->tile_bytes = tile_bytes;
    CUDA(cudaSetDevice(gpu));
    CUDA(cudaGetDeviceProperties(&g->properties, gpu));
    CUDA(cudaDeviceGetAttribute(&g->clock_khz, cudaDevAttrClockRate, gpu));
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
