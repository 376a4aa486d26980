/*
 * devices.cpp: the devices of the pretended machine: how many, which one is chosen, what they say of themselves.
 *
 * What lives here: the calls on devices and versions, with the wait for a device and its reset. Compiled without any
 * sanitizer. What it must not know: the order in which a stream's work runs, and which call a test wants to fail.
 */
#include "machine.h"

#include <stdio.h>

namespace cuda_on_cpu
{

thread_local int device_now;

} // namespace cuda_on_cpu

using namespace cuda_on_cpu;

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    Call c(false);
    *version = machine->config.n_devices < 0 ? 0 : CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    Call c;
    *count = c.error == cudaSuccess ? machine->config.n_devices : 0;
    return c.end(c.error);
}

cudaError_t cudaGetDevice(int *device)
{
    Call c(false);
    if (c.error == cudaSuccess)
        *device = device_now;
    return c.end(c.error);
}

/* Choosing a device is the one call that works while the chosen one, or the last, has failed. */
cudaError_t cudaSetDevice(int device)
{
    Call c(false);
    if (c.error != cudaSuccess)
        return c.end(c.error);
    if (device < 0 || device >= machine->config.n_devices)
        return c.end(cudaErrorInvalidDevice);
    device_now = device;
    c.count();
    return c.end(c.error);
}

cudaError_t cudaSetDeviceFlags(unsigned int)
{
    return call([] { return cudaSuccess; });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device)
{
    return call([=] {
        if (device < 0 || device >= machine->config.n_devices)
            return cudaErrorInvalidDevice;
        *p = cudaDeviceProp{};
        snprintf(p->name, sizeof p->name, "CUDA on CPU %d", device);
        p->totalGlobalMem = machine->config.memory_bytes;
        p->sharedMemPerBlock = SHARED_DEFAULT;
        p->sharedMemPerBlockOptin = SHARED_MOST;
        p->sharedMemPerMultiprocessor = SHARED_MOST + 1024;
        p->regsPerBlock = 65536;
        p->warpSize = 32;
        p->maxThreadsPerBlock = 1024;
        p->maxThreadsPerMultiProcessor = 2048;
        p->multiProcessorCount = 2; /* few, so that grids sized by it stay small here */
        p->major = 9;
        p->l2CacheSize = 1 << 20;
        p->memoryBusWidth = 512;
        p->asyncEngineCount = 2;
        p->concurrentKernels = p->unifiedAddressing = p->canMapHostMemory = 1;
        p->pciBusID = device + 1;
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    return call([=] {
        if (device < 0 || device >= machine->config.n_devices)
            return cudaErrorInvalidDevice;
        switch (attribute) {
        case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
        case cudaDevAttrMaxGridDimX: *value = 0x7fffffff; break;
        case cudaDevAttrMaxGridDimY:
        case cudaDevAttrMaxGridDimZ: *value = (int)MAX_GRID_YZ; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)SHARED_DEFAULT; break;
        case cudaDevAttrWarpSize: *value = 32; break;
        case cudaDevAttrMaxRegistersPerBlock: *value = 65536; break;
        case cudaDevAttrClockRate:
        case cudaDevAttrMemoryClockRate: *value = 1000000; break;
        case cudaDevAttrMultiProcessorCount:
        case cudaDevAttrAsyncEngineCount: *value = 2; break;
        case cudaDevAttrIntegrated:
        case cudaDevAttrEccEnabled:
        case cudaDevAttrPciDeviceId:
        case cudaDevAttrPciDomainId:
        case cudaDevAttrComputeCapabilityMinor:
        case cudaDevAttrMemoryPoolsSupported: *value = 0; break;
        case cudaDevAttrCanMapHostMemory:
        case cudaDevAttrConcurrentKernels:
        case cudaDevAttrUnifiedAddressing: *value = 1; break;
        case cudaDevAttrPciBusId: *value = device + 1; break;
        case cudaDevAttrGlobalMemoryBusWidth: *value = 512; break;
        case cudaDevAttrL2CacheSize: *value = 1 << 20; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
        case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)SHARED_MOST + 1024; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)SHARED_MOST; break;
        case cudaDevAttrMaxBlocksPerMultiprocessor: *value = 32; break;
        case cudaDevAttrHostNumaId: *value = -1; break;
        default: return cudaErrorInvalidValue;
        }
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int cap, int device)
{
    return call([=] {
        if (device < 0 || device >= machine->config.n_devices)
            return cudaErrorInvalidDevice;
        snprintf(text, (size_t)cap, "0000:%02x:00.0", device + 1);
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceSynchronize(void)
{
    return call_that_frees([] {
        join_device(device_now);
        return error_of(device_now);
    });
}

cudaError_t cudaDeviceReset(void)
{
    Call c(false);
    if (c.error != cudaSuccess)
        return c.end(c.error);
    Device *d = &machine->devices[device_now];
    d->sticky = cudaErrorUnknown; /* drops what is queued */
    for (auto at = machine->streams.begin(); at != machine->streams.end();) {
        Stream *s = *at;
        if (s->device == device_now) {
            free_stream(s);
            at = machine->streams.erase(at);
        } else {
            ++at;
        }
    }
    if (d->null_stream)
        free_stream(d->null_stream);
    for (auto at = machine->events.begin(); at != machine->events.end();) {
        Event *e = *at;
        if (e->device == device_now) {
            free_event(e);
            at = machine->events.erase(at);
        } else {
            ++at;
        }
    }
    for (auto at = machine->buffers.begin(); at != machine->buffers.end();) {
        auto next = at;
        ++next;
        if (at->second.device == device_now)
            free_buffer(at);
        at = next;
    }
    d->null_stream = nullptr;
    d->sticky = cudaSuccess;
    last_error = cudaSuccess;
    return cudaSuccess;
}
