/*
 * memory.cpp: device memory and pinned memory: a ledger of buffers with a small budget, and who may touch them.
 *
 * What lives here: the calls that allocate, free and ask about memory. Compiled without any sanitizer. What it must not
 * know: how bytes move (copies.cpp).
 */
#include "machine.h"

#include <stdlib.h>
#include <string.h>

namespace cuda_on_cpu
{

constexpr size_t GRANULE = 256; /* alignment of device buffers, and what their sizes are rounded up to in the budget */

void open_device(int device, bool open)
{
    for (const auto &entry : machine->buffers) {
        if (entry.second.device != device)
            continue;
        if (open)
            asan_unpoison((void *)entry.first, entry.second.n_bytes);
        else
            asan_poison((void *)entry.first, entry.second.n_bytes);
    }
}

Memory classify(const void *pointer, size_t n_bytes, int *device)
{
    uintptr_t at = (uintptr_t)pointer;
    auto next = machine->buffers.upper_bound(at);
    if (next == machine->buffers.begin())
        return Memory::pageable;
    const auto &entry = *--next;
    size_t offset = at - entry.first;
    if (offset >= entry.second.n_bytes)
        return Memory::pageable;
    if (device)
        *device = entry.second.device;
    if (n_bytes > entry.second.n_bytes - offset)
        return Memory::outside;
    return entry.second.device < 0 ? Memory::pinned : Memory::device;
}

static size_t granules(size_t n_bytes)
{
    return (n_bytes + GRANULE - 1) / GRANULE * GRANULE;
}

static cudaError_t new_buffer(void **out, size_t n_bytes, int device)
{
    if (!out)
        return cudaErrorInvalidValue;
    if (n_bytes == 0) {
        *out = nullptr;
        return cudaSuccess;
    }
    Device *d = device < 0 ? nullptr : &machine->devices[device];
    if (d && (n_bytes > machine->config.memory_bytes || granules(n_bytes) > machine->config.memory_bytes - d->n_used))
        return cudaErrorMemoryAllocation;
    if (!d && machine->config.pinned_bytes && n_bytes > machine->config.pinned_bytes - machine->n_pinned)
        return cudaErrorMemoryAllocation;
    void *p = nullptr;
    if (posix_memalign(&p, GRANULE, n_bytes) != 0)
        return cudaErrorMemoryAllocation;
    memset(p, 0xff, n_bytes); /* what nobody wrote reads as NaN */
    machine->buffers[(uintptr_t)p] = {n_bytes, device, false};
    if (d) {
        d->n_used += granules(n_bytes);
        d->n_peak = d->n_used > d->n_peak ? d->n_used : d->n_peak;
        asan_poison(p, n_bytes);
    } else {
        machine->n_pinned += n_bytes;
    }
    *out = p;
    return cudaSuccess;
}

std::map<uintptr_t, Buffer>::iterator free_buffer(std::map<uintptr_t, Buffer>::iterator at)
{
    asan_unpoison((void *)at->first, at->second.n_bytes);
    if (at->second.device >= 0)
        machine->devices[at->second.device].n_used -= granules(at->second.n_bytes);
    else
        machine->n_pinned -= at->second.n_bytes;
    if (!at->second.is_borrowed)
        free((void *)at->first);
    return machine->buffers.erase(at);
}

} // namespace cuda_on_cpu

using namespace cuda_on_cpu;

cudaError_t cudaMemGetInfo(size_t *n_free, size_t *n_total)
{
    return call([=] {
        *n_total = machine->config.memory_bytes;
        *n_free = *n_total - machine->devices[device_now].n_used;
        return cudaSuccess;
    });
}

cudaError_t cudaMalloc(void **pointer, size_t n_bytes)
{
    return call([=] { return new_buffer(pointer, n_bytes, device_now); });
}

cudaError_t cudaHostAlloc(void **pointer, size_t n_bytes, unsigned int)
{
    return call([=] { return new_buffer(pointer, n_bytes, -1); });
}

cudaError_t cudaMallocHost(void **pointer, size_t n_bytes)
{
    return cudaHostAlloc(pointer, n_bytes, cudaHostAllocDefault);
}

/* Any part of it may be registered already, or belong to a buffer. */
static bool is_taken(uintptr_t from, size_t n_bytes)
{
    auto next = machine->buffers.lower_bound(from);
    return (next != machine->buffers.end() && next->first - from < n_bytes) ||
           classify((void *)from, 1, nullptr) != Memory::pageable;
}

static cudaError_t borrow(void *pointer, size_t n_bytes)
{
    if (!pointer || n_bytes == 0)
        return cudaErrorInvalidValue;
    if (machine->config.cannot_register)
        return cudaErrorNotSupported;
    if (is_taken((uintptr_t)pointer, n_bytes))
        return cudaErrorHostMemoryAlreadyRegistered;
    if (machine->config.pinned_bytes && n_bytes > machine->config.pinned_bytes - machine->n_pinned)
        return cudaErrorMemoryAllocation;
    machine->buffers[(uintptr_t)pointer] = {n_bytes, -1, true};
    machine->n_pinned += n_bytes;
    return cudaSuccess;
}

cudaError_t cudaHostRegister(void *pointer, size_t n_bytes, unsigned int)
{
    return call([=] { return borrow(pointer, n_bytes); });
}

cudaError_t cudaHostUnregister(void *pointer)
{
    return call_that_frees([=] {
        auto at = machine->buffers.find((uintptr_t)pointer);
        if (at == machine->buffers.end() || !at->second.is_borrowed)
            return cudaErrorHostMemoryNotRegistered;
        join_device(-1);
        free_buffer(at);
        return cudaSuccess;
    });
}

/* Freeing waits for all work that may still use the memory, as drivers do. */
static cudaError_t give_back(void *pointer, bool pinned)
{
    if (!pointer)
        return cudaSuccess;
    auto at = machine->buffers.find((uintptr_t)pointer);
    if (at == machine->buffers.end() || (at->second.device < 0) != pinned || at->second.is_borrowed)
        return cudaErrorInvalidValue;
    join_device(-1);
    free_buffer(at);
    return cudaSuccess;
}

cudaError_t cudaFree(void *pointer)
{
    return call_that_frees([=] { return give_back(pointer, false); });
}

cudaError_t cudaFreeHost(void *pointer)
{
    return call_that_frees([=] { return give_back(pointer, true); });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *pointer)
{
    return call([=] {
        int device = -1;
        Memory kind = classify(pointer, 1, &device);
        *attributes = {};
        attributes->device = device >= 0 ? device : device_now;
        attributes->type = kind == Memory::device   ? cudaMemoryTypeDevice
                           : kind == Memory::pinned ? cudaMemoryTypeHost
                                                    : cudaMemoryTypeUnregistered;
        attributes->devicePointer = kind == Memory::pageable ? nullptr : const_cast<void *>(pointer);
        attributes->hostPointer = kind == Memory::device ? nullptr : const_cast<void *>(pointer);
        return cudaSuccess;
    });
}
