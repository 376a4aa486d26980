/*
 * cuda_on_cpu_launch.h: the CUDA_ON_CPU branch of kernels/common/launch.cuh.
 *
 * What lives here: WM_LAUNCH and WM_DYNAMIC_SHARED without the two pieces of syntax that need a CUDA compiler. What it
 * must not know: how a launch runs.
 */
#ifndef CUDA_ON_CPU_LAUNCH_H
#define CUDA_ON_CPU_LAUNCH_H

#include "cuda_runtime.h"

#include <tuple>

namespace cuda_on_cpu
{

/* Takes the closure over in every case. */
cudaError_t submit(const void *kernel, const char *name, dim3 grid, dim3 block, size_t n_shared_bytes,
                   cudaStream_t stream, void (*call)(void *), void (*destroy)(void *), void *closure);

template <typename... P> struct KernelCall {
    void (*kernel)(P...);
    std::tuple<P...> arguments; /* converted to the parameters' types and copied at the launch, as CUDA does */

    static void call(void *self)
    {
        KernelCall *me = static_cast<KernelCall *>(self);
        std::apply(me->kernel, me->arguments);
    }
    static void destroy(void *self) { delete static_cast<KernelCall *>(self); }
};

template <typename... P, typename... A>
cudaError_t launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t n_shared_bytes,
                   cudaStream_t stream, A &&...arguments)
{
    static_assert(sizeof...(P) == sizeof...(A), "a kernel launch passes every parameter");
    using Call = KernelCall<P...>;
    Call *closure = new Call{kernel, std::tuple<P...>(static_cast<P>(arguments)...)};
    return submit(reinterpret_cast<const void *>(kernel), name, grid, block, n_shared_bytes, stream, Call::call,
                  Call::destroy, closure);
}

} // namespace cuda_on_cpu

/* A kernel that is a template with several arguments comes in parentheses, here and under nvcc. */
#define WM_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                                      \
    cuda_on_cpu::launch(#kernel, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)

#define WM_DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(cuda_on_cpu::dynamic_shared())

#endif
