/*
 * backend_cuda_ring.c: memory of the host that GPUs copy from and to without a bounce buffer.
 *
 * What lives here: page-locked memory for rings. What it must not know: slots, tiles, streams.
 *
 * cudaHostAlloc has one thread of the driver find, clear and lock every 4 KiB page, at about 2 GB/s: half a second for a
 * ring. Pages that are there already, made by a few threads and 2 MiB large, are registered in a fifth of that
 * (github.com/NVIDIA/cudf/pull/23457: 1 GiB in 97 instead of 492 ms, on an L4's host; not measured by us).
 */
#include "engine/backend_cuda.h"

#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>

#define HUGE_PAGE_BYTES ((size_t)2 << 20)
#define PAGE_BYTES      ((size_t)4096) /* the smallest there is */
/* More threads wait for the same lock of the kernel (the measurement above); few pages are not worth a thread. */
#define MOST_THREADS     4
#define BYTES_PER_THREAD ((size_t)32 << 20)

static size_t mapped_bytes(size_t n_bytes)
{
    return (n_bytes + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
}

/* Whole large pages: more is mapped, and what is before and behind them given back. */
static unsigned char *map(size_t n_bytes)
{
    const size_t n_mapped = mapped_bytes(n_bytes);
    unsigned char *at = mmap(NULL, n_mapped + HUGE_PAGE_BYTES, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    size_t n_before;

    if (at == MAP_FAILED)
        return NULL;
    n_before = (HUGE_PAGE_BYTES - (uintptr_t)at % HUGE_PAGE_BYTES) % HUGE_PAGE_BYTES;
    if (n_before)
        munmap(at, n_before);
    munmap(at + n_before + n_mapped, HUGE_PAGE_BYTES - n_before);
    (void)madvise(at + n_before, n_mapped, MADV_HUGEPAGE); /* where they are switched off, small ones do */
    return at + n_before;
}

struct part {
    unsigned char *at;
    size_t n_bytes;
};

static void *touch(void *arg)
{
    const struct part *part = arg;

    for (size_t i = 0; i < part->n_bytes; i += PAGE_BYTES)
        ((volatile unsigned char *)part->at)[i] = 0;
    return NULL;
}

static void touch_all(unsigned char *memory, size_t n_bytes)
{
    const size_t wanted = n_bytes / BYTES_PER_THREAD, n = wanted < 1              ? 1
                                                          : wanted > MOST_THREADS ? MOST_THREADS
                                                                                  : wanted;
    const size_t each = mapped_bytes(n_bytes / n);
    struct part parts[MOST_THREADS];
    pthread_t threads[MOST_THREADS];
    size_t n_threads = 0, from = 0;

    for (; n_threads + 1 < n; n_threads++, from += each) {
        parts[n_threads] = (struct part){memory + from, each};
        if (pthread_create(&threads[n_threads], NULL, touch, &parts[n_threads]))
            break;
    }
    touch(&(struct part){memory + from, n_bytes - from});
    while (n_threads)
        pthread_join(threads[--n_threads], NULL);
}

/* Not every machine registers what it has not allocated; those that refuse memory itself are not asked again. */
static bool cannot_register(cudaError_t code)
{
    return code == cudaErrorNotSupported || code == cudaErrorInvalidValue || code == cudaErrorOperatingSystem ||
           code == cudaErrorHostMemoryAlreadyRegistered;
}

/* What the driver has allocated is remembered: a context that is dead does not tell it from what was registered. */
static cudaError_t alloc_by_driver(struct cuda_backend *cuda, size_t n_bytes, void **memory)
{
    int i = 0;
    cudaError_t code;

    while (i < CUDA_RINGS && cuda->allocated[i])
        i++;
    if (i == CUDA_RINGS)
        return cudaErrorMemoryAllocation;
    code = cudaHostAlloc(memory, n_bytes, cudaHostAllocPortable);
    if (code == cudaSuccess)
        cuda->allocated[i] = *memory;
    return code;
}

/* The GPU that the calling thread used last may be lost by now, which would fail this as well: it is ours that is asked. */
void *backend_cuda_alloc(struct backend *b, size_t n_bytes)
{
    struct cuda_backend *cuda = (struct cuda_backend *)b;
    void *memory = NULL;
    cudaError_t code;

    if (b->lost)
        return NULL;
    code = cudaSetDevice(cuda->options.device);
    if (code == cudaSuccess && (memory = map(n_bytes)) != NULL) {
        touch_all(memory, mapped_bytes(n_bytes));
        code = cudaHostRegister(memory, n_bytes, cudaHostRegisterPortable);
        if (code != cudaSuccess) {
            munmap(memory, mapped_bytes(n_bytes));
            memory = NULL;
        }
        if (cannot_register(code)) {
            (void)cudaGetLastError();
            code = alloc_by_driver(cuda, n_bytes, &memory);
        }
    }
    if (code == cudaErrorMemoryAllocation)
        (void)cudaGetLastError(); /* or the next launch would report it */
    else if (code != cudaSuccess)
        (void)backend_cuda_lose(b, code, "pinning memory", NULL);
    return memory;
}

/* Where the context is dead the pages stay locked until the process ends, and are nobody's any more. */
void backend_cuda_free(struct backend *b, void *memory, size_t n_bytes)
{
    struct cuda_backend *cuda = (struct cuda_backend *)b;

    if (!memory)
        return;
    for (int i = 0; i < CUDA_RINGS; i++) {
        if (cuda->allocated[i] == memory) {
            cuda->allocated[i] = NULL;
            cudaFreeHost(memory);
            return;
        }
    }
    cudaHostUnregister(memory);
    munmap(memory, mapped_bytes(n_bytes));
}
