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

constexpr int CAPABILITY_MAJOR = 9;
constexpr int N_MULTIPROCESSORS = 2; /* few, so that grids sized by it stay small here */
constexpr int MULTIPROCESSOR_THREADS = 2048, MULTIPROCESSOR_SHARED = SHARED_MOST + 1024;
constexpr int BLOCK_REGISTERS = 65536;
constexpr int L2_BYTES = 1 << 20, BUS_BITS = 512;
constexpr int N_COPY_ENGINES = 2;

static bool exists(int device)
{
    return device >= 0 && device < machine->config.n_devices;
}

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
    if (!exists(device))
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
        if (!exists(device))
            return cudaErrorInvalidDevice;
        *p = cudaDeviceProp{};
        snprintf(p->name, sizeof p->name, "CUDA on CPU %d", device);
        p->totalGlobalMem = machine->config.memory_bytes;
        p->sharedMemPerBlock = SHARED_DEFAULT;
        p->sharedMemPerBlockOptin = SHARED_MOST;
        p->sharedMemPerMultiprocessor = MULTIPROCESSOR_SHARED;
        p->regsPerBlock = BLOCK_REGISTERS;
        p->warpSize = warpSize;
        p->maxThreadsPerBlock = MAX_THREADS;
        p->maxThreadsPerMultiProcessor = MULTIPROCESSOR_THREADS;
        p->multiProcessorCount = N_MULTIPROCESSORS;
        p->major = CAPABILITY_MAJOR;
        p->l2CacheSize = L2_BYTES;
        p->memoryBusWidth = BUS_BITS;
        p->asyncEngineCount = N_COPY_ENGINES;
        p->concurrentKernels = p->unifiedAddressing = p->canMapHostMemory = 1;
        p->pciBusID = device + 1;
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    return call([=] {
        if (!exists(device))
            return cudaErrorInvalidDevice;
        switch (attribute) {
        case cudaDevAttrMaxThreadsPerBlock: *value = MAX_THREADS; break;
        case cudaDevAttrMaxGridDimX: *value = 0x7fffffff; break;
        case cudaDevAttrMaxGridDimY:
        case cudaDevAttrMaxGridDimZ: *value = (int)MAX_GRID_YZ; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)SHARED_DEFAULT; break;
        case cudaDevAttrWarpSize: *value = warpSize; break;
        case cudaDevAttrMaxRegistersPerBlock: *value = BLOCK_REGISTERS; break;
        case cudaDevAttrClockRate:
        case cudaDevAttrMemoryClockRate: *value = 1000000; break;
        case cudaDevAttrMultiProcessorCount: *value = N_MULTIPROCESSORS; break;
        case cudaDevAttrAsyncEngineCount: *value = N_COPY_ENGINES; break;
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
        case cudaDevAttrGlobalMemoryBusWidth: *value = BUS_BITS; break;
        case cudaDevAttrL2CacheSize: *value = L2_BYTES; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *value = MULTIPROCESSOR_THREADS; break;
        case cudaDevAttrComputeCapabilityMajor: *value = CAPABILITY_MAJOR; break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = MULTIPROCESSOR_SHARED; break;
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
        if (!exists(device))
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
    clear_device(device_now);
    machine->devices[device_now].sticky = cudaSuccess;
    last_error = cudaSuccess;
    return cudaSuccess;
}
