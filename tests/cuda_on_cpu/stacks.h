/*
 * stacks.h: stacks that take turns on this CPU thread, for fibers.cpp.
 *
 * What lives here: what a pool of stacks (fibers.h) holds, and the two switches: from the scheduler to a stack and back.
 * What it must not know: barriers, warps and what else runs on a stack.
 */
#ifndef CUDA_ON_CPU_STACKS_H
#define CUDA_ON_CPU_STACKS_H

#include "fibers.h"

#include <ucontext.h>

namespace cuda_on_cpu
{

struct Stack {
    char *memory;
    ucontext_t entry;
    void (*body)(Stack *self);
    void *jump[5];
    bool started;
    void *fake; /* AddressSanitizer's second stack of the fiber, while it waits */
    void *tsan;
};

/* A pool that was never used, and the end of one. new_pool and free_pool keep some for the next streams. */
FiberPool *fresh_pool();
void end_pool(FiberPool *pool);

/* The pool's i-th stack, of MAX_THREADS, on which `body` runs anew each time that it is entered after it has returned. */
Stack *stack_of(FiberPool *pool, unsigned i, void (*body)(Stack *self));

/* Goes to the stack under its identity for ThreadSanitizer; comes back when it is left or its body returns. */
void enter_stack(Stack *to);
/* Called on the stack itself: comes back when it is entered again. */
void leave_stack(Stack *from);

} // namespace cuda_on_cpu

#endif
