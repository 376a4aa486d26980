/*
 * launches.cpp: kernel launches, as work of a stream.
 *
 * What lives here: what a launch refuses, how launches are counted, and the attributes of kernels. Compiled without any
 * sanitizer. What it must not know: how a block runs (fibers.cpp) and when a stream's work runs.
 */
#include "machine.h"

namespace cuda_on_cpu
{

constexpr unsigned MAX_BLOCK_Z = 64;

struct KernelOp {
    Launch launch;
    void (*destroy)(void *);
};

static void run_kernel(Stream *s, void *data)
{
    const KernelOp *k = static_cast<const KernelOp *>(data);
    open_device(s->device, true);
    run_launch(k->launch, s->pool, machine->config.order, machine->config.blocks_unordered);
    open_device(s->device, false);
}

static void drop_kernel(void *data)
{
    KernelOp *k = static_cast<KernelOp *>(data);
    k->destroy(k->launch.closure);
    delete k;
}

static cudaError_t check_launch(const KernelOp &k, const void *kernel, const Stream *s)
{
    dim3 g = k.launch.grid, b = k.launch.block;
    if (!s || s->device != device_now)
        return cudaErrorInvalidResourceHandle;
    if (g.x == 0 || g.y == 0 || g.z == 0 || b.x == 0 || b.y == 0 || b.z == 0 || g.x > 0x7fffffff || g.y > MAX_GRID_YZ ||
        g.z > MAX_GRID_YZ || b.z > MAX_BLOCK_Z || (uint64_t)b.x * b.y * b.z > MAX_THREADS)
        return cudaErrorInvalidConfiguration;
    if (machine->config.lacks_code)
        return cudaErrorNoKernelImageForDevice;
    auto limit = machine->shared_limits.find(kernel);
    if (k.launch.n_shared_bytes > (limit == machine->shared_limits.end() ? SHARED_DEFAULT : limit->second))
        return cudaErrorInvalidValue;
    return cudaSuccess;
}

/* What <<<>>> and the cudaGetLastError after it give: an error of an earlier call shows here as well. */
cudaError_t submit(const void *kernel, const char *name, dim3 grid, dim3 block, size_t n_shared_bytes,
                   cudaStream_t stream, void (*work)(void *), void (*destroy)(void *), void *closure)
{
    Call c;
    KernelOp k = {{name, grid, block, n_shared_bytes, work, closure}, destroy};
    cudaError_t e = c.error;
    Stream *s = e == cudaSuccess ? stream_of(stream) : nullptr;
    if (e == cudaSuccess)
        e = check_launch(k, kernel, s);
    if (e == cudaSuccess) {
        machine->counts.launches++;
        machine->counts.blocks += (uint64_t)grid.x * grid.y * grid.z;
        machine->counts.threads += (uint64_t)grid.x * grid.y * grid.z * block.x * block.y * block.z;
        Op op = {};
        op.work = run_kernel;
        op.drop = drop_kernel;
        op.data = new KernelOp(k);
        enqueue(s, op);
    } else {
        destroy(closure);
    }
    c.end(e);
    e = last_error;
    last_error = cudaSuccess;
    return e;
}

} // namespace cuda_on_cpu

using namespace cuda_on_cpu;

cudaError_t cudaFuncSetAttribute(const void *function, cudaFuncAttribute attribute, int value)
{
    return call([=] {
        if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
            return cudaSuccess;
        if (value < 0 || (size_t)value > SHARED_MOST)
            return cudaErrorInvalidValue;
        machine->shared_limits[function] = (size_t)value;
        return cudaSuccess;
    });
}

/* Figures of a pretended kernel would say nothing: callers ask whether there is one. */
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *)
{
    return call([=] {
        if (machine->config.lacks_code)
            return cudaErrorNoKernelImageForDevice;
        *attributes = cudaFuncAttributes{};
        attributes->maxThreadsPerBlock = MAX_THREADS;
        return cudaSuccess;
    });
}
