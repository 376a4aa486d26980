/*
 * sanitizer_hooks.h: what the shim tells AddressSanitizer and ThreadSanitizer, or nobody where neither is linked.
 *
 * What lives here: weak declarations of their interfaces and inline wrappers that test for presence, so that one
 * uninstrumented build of the shim serves every test program. It must be uninstrumented: ThreadSanitizer would report
 * the scheduler's variables as races, and a fiber switch made in an instrumented function corrupts its shadow stack.
 * What it must not know: streams, blocks or kernels.
 */
#ifndef CUDA_ON_CPU_SANITIZER_HOOKS_H
#define CUDA_ON_CPU_SANITIZER_HOOKS_H

#include <stddef.h>

extern "C" {
#define HOOK __attribute__((weak))
HOOK void __sanitizer_start_switch_fiber(void **fake_stack, const void *bottom, size_t n_bytes);
HOOK void __sanitizer_finish_switch_fiber(void *fake_stack, const void **bottom_old, size_t *n_bytes_old);
HOOK void __asan_poison_memory_region(const volatile void *address, size_t n_bytes);
HOOK void __asan_unpoison_memory_region(const volatile void *address, size_t n_bytes);
HOOK void *__tsan_get_current_fiber(void);
HOOK void *__tsan_create_fiber(unsigned flags);
HOOK void __tsan_destroy_fiber(void *fiber);
HOOK void __tsan_switch_to_fiber(void *fiber, unsigned flags);
HOOK void __tsan_acquire(void *address);
HOOK void __tsan_release(void *address);
HOOK void AnnotateIgnoreReadsBegin(const char *file, int line);
HOOK void AnnotateIgnoreReadsEnd(const char *file, int line);
HOOK void AnnotateIgnoreWritesBegin(const char *file, int line);
HOOK void AnnotateIgnoreWritesEnd(const char *file, int line);
#undef HOOK
}

namespace cuda_on_cpu
{

inline bool tsan_present()
{
    return __tsan_create_fiber != nullptr;
}

inline void *tsan_new_fiber()
{
    return tsan_present() ? __tsan_create_fiber(0) : nullptr;
}

inline void tsan_free_fiber(void *fiber)
{
    if (fiber)
        __tsan_destroy_fiber(fiber);
}

inline void *tsan_current()
{
    return tsan_present() ? __tsan_get_current_fiber() : nullptr;
}

/* No order comes from the switch itself (flag 1): only barriers, streams and events order anything. */
inline void tsan_switch(void *fiber)
{
    if (tsan_present())
        __tsan_switch_to_fiber(fiber, 1);
}

inline void tsan_acquire(void *token)
{
    if (tsan_present())
        __tsan_acquire(token);
}

inline void tsan_release(void *token)
{
    if (tsan_present())
        __tsan_release(token);
}

inline void asan_poison(const void *address, size_t n_bytes)
{
    if (__asan_poison_memory_region)
        __asan_poison_memory_region(address, n_bytes);
}

inline void asan_unpoison(const void *address, size_t n_bytes)
{
    if (__asan_unpoison_memory_region)
        __asan_unpoison_memory_region(address, n_bytes);
}

/* While one lives, the shim's own allocations and copies race with nothing. */
struct Quiet {
    Quiet()
    {
        if (!tsan_present())
            return;
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    }
    ~Quiet()
    {
        if (!tsan_present())
            return;
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    }
    Quiet(const Quiet &) = delete;
    Quiet &operator=(const Quiet &) = delete;
};

} // namespace cuda_on_cpu

#endif
