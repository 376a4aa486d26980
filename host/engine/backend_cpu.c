/* backend_cpu.c: the backend every machine has: tiles are executed where they lie. Knows the CPU drivers of kernels/. */
#include "engine/backend.h"

#include <stdlib.h>
#include <sys/mman.h>

static const char *cpu_describe(const struct backend *backend)
{
    (void)backend;
    switch (cpu_isa()[0] == 'a' ? cpu_isa()[3] : 'p') {
    case '5': return "cpu avx512";
    case '2': return "cpu avx2";
    default: return "cpu portable";
    }
}

/* Anonymous pages straight from the kernel: nothing is resident until a tile touches it, and it all goes back at once. */
static void *cpu_alloc(struct backend *backend, size_t n_bytes)
{
    void *memory = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    (void)backend;
    return memory == MAP_FAILED ? NULL : memory;
}

static void cpu_free(struct backend *backend, void *memory, size_t n_bytes)
{
    (void)backend;
    if (memory)
        munmap(memory, n_bytes);
}

static void *cpu_thread_new(struct backend *backend)
{
    (void)backend;
    return cpu_scratch_new();
}

static void cpu_thread_free(struct backend *backend, void *thread)
{
    (void)backend;
    cpu_scratch_free(thread);
}

static enum wm_status cpu_statistics(struct backend *backend, void *thread, const struct merge_op *op,
                                     struct statistics *statistics, const struct merge_tile *tile, struct wm_error *err)
{
    (void)backend;
    (void)err;
    cpu_statistics_tile(op, statistics, tile, thread);
    return WM_OK;
}

static enum wm_status cpu_combine(struct backend *backend, void *thread, const struct merge_op *op,
                                  const struct statistics *statistics, const struct merge_tile *tile,
                                  struct merge_report *report, struct wm_error *err)
{
    (void)backend;
    (void)err;
    cpu_combine_tile(op, statistics, tile, thread, report);
    return WM_OK;
}

static void cpu_close(struct backend *backend)
{
    free(backend);
}

static const struct backend_ops cpu_ops = {cpu_describe,    cpu_alloc,      cpu_free,    cpu_thread_new,
                                           cpu_thread_free, cpu_statistics, cpu_combine, cpu_close};

enum wm_status backend_open_cpu(struct backend **backend, struct wm_error *err)
{
    *backend = calloc(1, sizeof **backend);
    if (!*backend)
        return error_no_memory(err, "starting the CPU backend");
    (*backend)->ops = &cpu_ops;
    return WM_OK;
}
