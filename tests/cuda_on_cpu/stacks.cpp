/*
 * stacks.cpp: stacks that take turns on this CPU thread, and what the sanitizers must be told of each turn.
 *
 * What lives here: the pools of stacks and the switches between them. Compiled without any sanitizer (sanitizer_hooks.h
 * says why). What it must not know: barriers, warps and what else runs on a stack. One launch runs at a time, so the
 * scheduler's side of a switch is plain globals.
 */
#include "stacks.h"

#include "sanitizer_hooks.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

namespace cuda_on_cpu
{

struct FiberPool {
    Stack stacks[MAX_THREADS];
    unsigned n_stacks;
};

constexpr size_t STACK_BYTES = 256 << 10;
constexpr size_t GUARD_BYTES = 4096;

static Stack *entering;

/* The scheduler's side of a switch: where to go back to, and the OS thread's stack for AddressSanitizer. */
static void *home_jump[5];
static const void *home_bottom;
static size_t home_bytes;

/* Pools of streams that are gone, for the next ones: an identity costs ThreadSanitizer a millisecond. */
static FiberPool *idle_pools[16];
static unsigned n_idle_pools;

/* ---- switching ----
 * The first entry of a stack goes through ucontext; later switches through the compiler's own jumps, because
 * swapcontext makes two system calls and the sanitizers intercept both it and longjmp. */

__attribute__((noinline, noreturn)) static void jump_to(void **place)
{
    __builtin_longjmp(place, 1);
}

__attribute__((noinline)) static void go_home(Stack *from)
{
    if (__builtin_setjmp(from->jump) == 0)
        jump_to(home_jump);
}

__attribute__((noinline)) static void enter(Stack *to)
{
    if (__builtin_setjmp(home_jump) != 0)
        return;
    if (to->started)
        jump_to(to->jump);
    to->started = true;
    entering = to;
    setcontext(&to->entry);
    abort();
}

void leave_stack(Stack *from)
{
    if (__sanitizer_start_switch_fiber)
        __sanitizer_start_switch_fiber(&from->fake, home_bottom, home_bytes);
    go_home(from);
    if (__sanitizer_finish_switch_fiber)
        __sanitizer_finish_switch_fiber(from->fake, &home_bottom, &home_bytes);
}

void enter_stack(Stack *to)
{
    void *fake = nullptr, *host = tsan_current();
    tsan_switch(to->tsan);
    if (__sanitizer_start_switch_fiber)
        __sanitizer_start_switch_fiber(&fake, to->memory + GUARD_BYTES, STACK_BYTES);
    enter(to);
    if (__sanitizer_finish_switch_fiber)
        __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
    tsan_switch(host);
}

static void stack_main()
{
    Stack *stack = entering;
    for (;;) {
        if (__sanitizer_finish_switch_fiber)
            __sanitizer_finish_switch_fiber(stack->fake, &home_bottom, &home_bytes);
        stack->body(stack);
        stack->fake = nullptr;
        if (__sanitizer_start_switch_fiber)
            __sanitizer_start_switch_fiber(nullptr, home_bottom, home_bytes);
        go_home(stack);
    }
}

/* ---- pools ---- */

FiberPool *fresh_pool()
{
    return static_cast<FiberPool *>(calloc(1, sizeof(FiberPool)));
}

void end_pool(FiberPool *pool)
{
    for (unsigned i = 0; i < pool->n_stacks; i++) {
        munmap(pool->stacks[i].memory, GUARD_BYTES + STACK_BYTES);
        tsan_free_fiber(pool->stacks[i].tsan);
    }
    free(pool);
}

FiberPool *new_pool()
{
    return n_idle_pools > 0 ? idle_pools[--n_idle_pools] : fresh_pool();
}

void free_pool(FiberPool *pool)
{
    if (n_idle_pools < sizeof idle_pools / sizeof idle_pools[0])
        idle_pools[n_idle_pools++] = pool;
    else
        end_pool(pool);
}

Stack *stack_of(FiberPool *pool, unsigned i, void (*body)(Stack *self))
{
    for (; pool->n_stacks <= i; pool->n_stacks++) {
        Stack *s = &pool->stacks[pool->n_stacks];
        void *memory = mmap(nullptr, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED || mprotect(memory, GUARD_BYTES, PROT_NONE) != 0) {
            perror("cuda_on_cpu: no memory for the stack of a thread");
            abort();
        }
        s->memory = static_cast<char *>(memory);
        s->tsan = tsan_new_fiber();
        s->body = body;
        getcontext(&s->entry);
        s->entry.uc_stack.ss_sp = s->memory + GUARD_BYTES;
        s->entry.uc_stack.ss_size = STACK_BYTES;
        s->entry.uc_link = nullptr;
        makecontext(&s->entry, stack_main, 0);
    }
    return &pool->stacks[i];
}

} // namespace cuda_on_cpu
