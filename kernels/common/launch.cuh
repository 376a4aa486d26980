/*
 * launch.cuh: the one way to start a kernel.
 *
 * What lives here: the launch macro, dynamic shared memory, and the size of a grid. Streams are always named, a launch
 * never waits, and its error is the value of the macro. The test build runs the same sources on the CPU
 * (CUDA_ON_CPU), where both macros come from its own header. What it must not know: kernels.
 */
#ifndef WM_KERNELS_LAUNCH_CUH
#define WM_KERNELS_LAUNCH_CUH

#include <cuda_runtime.h>

#include <stdint.h>

#ifdef CUDA_ON_CPU
#include "cuda_on_cpu_launch.h"
#else
/* The value is a cudaError_t. `kernel` may be a pointer to a kernel. The formatter takes the brackets apart. */
/* clang-format off */
#define WM_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                                      \
    ((kernel)<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__), cudaGetLastError())
/* clang-format on */
/* Declares `type *name`: the block's shared memory of the size given at the launch. */
#define WM_DYNAMIC_SHARED(type, name)                                                                                  \
    extern __shared__ __align__(16) unsigned char wm_dynamic_shared[];                                                 \
    type *name = reinterpret_cast<type *>(wm_dynamic_shared)
#endif

static inline unsigned launch_blocks(uint64_t n_items, unsigned items_per_block)
{
    return static_cast<unsigned>((n_items + items_per_block - 1) / items_per_block);
}

#endif
