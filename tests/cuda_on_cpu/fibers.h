/*
 * fibers.h: running the blocks of one launch on this CPU thread, for launches.cpp.
 *
 * What lives here: the hand-over between the stream simulation and the block scheduler. What it must not know: streams,
 * devices, or why a launch happens now.
 */
#ifndef CUDA_ON_CPU_FIBERS_H
#define CUDA_ON_CPU_FIBERS_H

#include "cuda_on_cpu.h"
#include "cuda_runtime.h"

#include <stddef.h>

namespace cuda_on_cpu
{

constexpr unsigned MAX_THREADS = 1024; /* of a block */

struct Launch {
    const char *name;
    dim3 grid;
    dim3 block;
    size_t n_shared_bytes;
    void (*call)(void *closure);
    void *closure;
};

/* Stacks of the threads of a block, with their identities for ThreadSanitizer. One a stream: what a fiber has learned
 * from earlier launches is then what stream order allows it to know. */
struct FiberPool;
FiberPool *new_pool();
void free_pool(FiberPool *pool);

/* Blocks in turn, threads of a block as fibers. Ends the process with a report where the kernel breaks a rule. */
void run_launch(const Launch &launch, FiberPool *pool, cuda_on_cpu_order order, bool blocks_unordered);

} // namespace cuda_on_cpu

#endif
