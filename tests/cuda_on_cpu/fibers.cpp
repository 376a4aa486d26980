/*
 * fibers.cpp: the threads of a block as fibers, their barriers, and the report when a kernel breaks a rule.
 *
 * What lives here: the scheduler. Compiled without any sanitizer (sanitizer_hooks.h says why). What it must not know:
 * streams and devices. One launch runs at a time (launches.cpp runs it under the machine's lock), so its state is plain globals.
 *
 * Rules that it enforces: all live threads of a block meet at the same barrier, by source line; exactly the lanes of a
 * mask meet at a warp operation, all of them alive, with the same mask and operation; a shuffle reads only from lanes
 * that take part; whoever waits is met (else: a deadlock, with the place of every thread).
 */
#include "fibers.h"

#include "sanitizer_hooks.h"
#include "stacks.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where the linker put the __shared__ variables of all kernels. */
extern "C" {
extern char __start_cuda_on_cpu_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_cuda_on_cpu_shared[] __attribute__((weak, visibility("hidden")));
}

namespace cuda_on_cpu
{

namespace
{

constexpr unsigned LANES = 32;
/* ThreadSanitizer of gcc 12 ends the process at 8,128 identities; some are the program's own. */
constexpr size_t MAX_TSAN_FIBERS = 6000;
constexpr size_t START_TOKEN = 0, FINISH_TOKEN = 8, FENCE_TOKEN = 16, TOKENS_BYTES = 24;

enum class State { unstarted, ready, at_barrier, at_warp, done };

struct Thread {
    uint3 index;
    State state;
    Stack *stack;
    void *tsan;
    const char *file;
    int line;
    Warp operation;
    unsigned mask;
    uint64_t value;
    uint64_t *all;
    int asked; /* the lane, or the distance to it */
    int width;
    uint64_t result;
};

Thread threads[MAX_THREADS];
unsigned order_of[MAX_THREADS]; /* turn -> thread */
unsigned n_threads, n_live, next_turn;
Thread *current;

const Launch *launch_now;
uint3 block_now;
void *shared_now;
char *tokens; /* of this launch: a token remembers every release, and launches of other streams are unordered */

struct {
    unsigned n_waiting;
    Barrier kind;
    const char *file;
    int line;
    unsigned first;
    unsigned n_true;
    int result;
} barrier;

const char *const WARP_NAMES[] = {"__syncwarp",      "__shfl_sync",   "__shfl_up_sync", "__shfl_down_sync",
                                  "__shfl_xor_sync", "__ballot_sync", "__reduce_sync"};

unsigned number_of(const Thread *t)
{
    return (unsigned)(t - threads);
}

void resume(Thread *t)
{
    current = t;
    enter_stack(t->stack);
}

/* Orders everything before among these threads, and nothing else. All of them wait, so that their identities can be
 * borrowed; a token of its own keeps a thread that runs ahead from lending its later knowledge to a slow one. */
void synchronise(unsigned first, unsigned n, unsigned mask)
{
    if (!tsan_present())
        return;
    void *self = tsan_current();
    char *token = static_cast<char *>(malloc(8));
    for (int pass = 0; pass < 2; pass++)
        for (unsigned i = 0; i < n; i++) {
            Thread *t = &threads[first + i];
            if (t->state == State::done || (n <= LANES && !(mask >> i & 1)))
                continue;
            tsan_switch(t->tsan);
            if (pass == 0)
                tsan_release(token);
            else
                tsan_acquire(token);
        }
    tsan_switch(self);
    free(token);
}

/* ---- reports ---- */

void print_where(const Thread *t)
{
    switch (t->state) {
    case State::at_barrier: fprintf(stderr, "wait at the block barrier of %s:%d\n", t->file, t->line); break;
    case State::at_warp:
        fprintf(stderr, "wait at %s with mask %08x of %s:%d\n", WARP_NAMES[(int)t->operation], t->mask, t->file,
                t->line);
        break;
    case State::done: fprintf(stderr, "have returned\n"); break;
    case State::unstarted: fprintf(stderr, "have not started\n"); break;
    case State::ready: fprintf(stderr, "can run\n"); break;
    }
}

bool same_place(const Thread *a, const Thread *b)
{
    if (a->state != b->state)
        return false;
    if (a->state == State::at_warp && (a->mask != b->mask || a->operation != b->operation))
        return false;
    return (a->state != State::at_warp && a->state != State::at_barrier) ||
           (a->line == b->line && strcmp(a->file, b->file) == 0);
}

void print_places()
{
    for (unsigned i = 0, end; i < n_threads; i = end) {
        for (end = i + 1; end < n_threads && same_place(&threads[i], &threads[end]); end++)
            ;
        if (end == i + 1)
            fprintf(stderr, "  thread %u ", i);
        else
            fprintf(stderr, "  threads %u to %u ", i, end - 1);
        print_where(&threads[i]);
    }
}

/* ---- barriers ---- */

void release_barrier_if_complete()
{
    if (barrier.n_waiting == 0 || barrier.n_waiting < n_live)
        return;
    unsigned n = barrier.n_waiting;
    switch (barrier.kind) {
    case Barrier::plain: barrier.result = 0; break;
    case Barrier::count: barrier.result = (int)barrier.n_true; break;
    case Barrier::any: barrier.result = barrier.n_true > 0; break;
    case Barrier::all: barrier.result = barrier.n_true == n; break;
    }
    synchronise(0, n_threads, ~0u);
    for (unsigned i = 0; i < n_threads; i++)
        if (threads[i].state == State::at_barrier) {
            threads[i].state = State::ready;
            threads[i].result = (uint64_t)barrier.result;
        }
    barrier.n_waiting = 0;
    barrier.n_true = 0;
}

/* The lane that a shuffle of this thread reads, by the rules of PTX's shfl.sync. */
unsigned source_lane(const Thread *t, unsigned lane)
{
    int segment = (int)lane & ~(t->width - 1), last = segment + t->width - 1, from = (int)lane;
    switch (t->operation) {
    case Warp::shuffle: from = segment + (t->asked & (t->width - 1)); break;
    case Warp::shuffle_up: from = (int)lane - t->asked; break;
    case Warp::shuffle_down: from = (int)lane + t->asked; break;
    case Warp::shuffle_xor: from = (int)lane ^ t->asked; break;
    default: break;
    }
    bool outside = t->operation == Warp::shuffle_up ? from < segment : from > last;
    return outside ? lane : (unsigned)from;
}

void finish_warp(unsigned first, unsigned mask)
{
    Thread *lanes = &threads[first];
    unsigned ballot = 0;
    Warp operation = lanes[__builtin_ctz(mask)].operation;
    for (unsigned i = 0; i < LANES; i++)
        if (mask >> i & 1)
            ballot |= (lanes[i].value != 0 ? 1u : 0u) << i;
    for (unsigned i = 0; i < LANES; i++) {
        if (!(mask >> i & 1))
            continue;
        unsigned from = source_lane(&lanes[i], i);
        if (!(mask >> from & 1)) {
            current = &lanes[i];
            report(lanes[i].file, lanes[i].line,
                   "lane %u asks %s for the value of lane %u, which mask "
                   "%08x leaves out",
                   i, WARP_NAMES[(int)operation], from, mask);
        }
        lanes[i].result = operation == Warp::ballot ? ballot : lanes[from].value;
        for (unsigned j = 0; lanes[i].all && j < LANES; j++)
            lanes[i].all[j] = mask >> j & 1 ? lanes[j].value : 0;
    }
    /* Of the warp operations only __syncwarp promises an order of memory. */
    if (operation == Warp::sync)
        synchronise(first, LANES, mask);
    for (unsigned i = 0; i < LANES; i++)
        if (mask >> i & 1)
            lanes[i].state = State::ready;
}

/* ---- life of a thread ---- */

void finish_thread(Thread *t)
{
    tsan_release(tokens + FINISH_TOKEN);
    t->state = State::done;
    n_live--;
    unsigned first = number_of(t) / LANES * LANES;
    for (unsigned i = first; i < first + LANES && i < n_threads; i++)
        if (threads[i].state == State::at_warp && threads[i].mask >> (number_of(t) - first) & 1) {
            current = &threads[i];
            report(threads[i].file, threads[i].line,
                   "%s with mask %08x waits for lane %u, which has returned from the kernel",
                   WARP_NAMES[(int)threads[i].operation], threads[i].mask, number_of(t) - first);
        }
    release_barrier_if_complete();
}

/* A stack runs threads one after another until one of them waits: kernels without barriers need a single switch a
 * block. Not under ThreadSanitizer, to which two threads that use the same stack race with each other. */
void run_threads(Stack *stack)
{
    for (;;) {
        Thread *t = current;
        tsan_acquire(tokens + START_TOKEN);
        launch_now->call(launch_now->closure);
        finish_thread(t);
        if (tsan_present() || next_turn == n_threads)
            break;
        current = &threads[order_of[next_turn++]];
        current->stack = stack;
    }
}

void fill_with_ones(char *from, char *end)
{
    /* Not memset: AddressSanitizer's checks it against its own zones between the variables. */
    for (; from < end && ((uintptr_t)from % 8 != 0 || end - from < 8); from++)
        *(volatile char *)from = (char)0xff;
    for (; end - from >= 8; from += 8)
        *(volatile uint64_t *)from = ~(uint64_t)0;
    for (; from < end; from++)
        *(volatile char *)from = (char)0xff;
}

void set_order(cuda_on_cpu_order order, uint64_t seed)
{
    for (unsigned i = 0; i < n_threads; i++)
        order_of[i] = order == CUDA_ON_CPU_REVERSE ? n_threads - 1 - i : i;
    if (order != CUDA_ON_CPU_SHUFFLED)
        return;
    for (unsigned i = n_threads; i > 1; i--) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        unsigned j = (unsigned)((seed >> 33) % i), swapped = order_of[j];
        order_of[j] = order_of[i - 1];
        order_of[i - 1] = swapped;
    }
}

} // namespace

static void run_block(FiberPool *pool)
{
    dim3 size = launch_now->block;
    for (unsigned i = 0; i < n_threads; i++) {
        Thread *t = &threads[i];
        *t = Thread{};
        t->index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
        t->tsan = tsan_present() ? stack_of(pool, i, run_threads)->tsan : nullptr;
    }
    n_live = n_threads;
    next_turn = 0;
    unsigned n_stacks = 0;
    while (next_turn < n_threads) {
        unsigned i = order_of[next_turn++];
        threads[i].stack = stack_of(pool, tsan_present() ? i : n_stacks++, run_threads);
        resume(&threads[i]);
    }
    while (n_live > 0) {
        bool moved = false;
        for (unsigned turn = 0; turn < n_threads; turn++) {
            Thread *t = &threads[order_of[turn]];
            if (t->state != State::ready)
                continue;
            moved = true;
            resume(t);
        }
        if (!moved) {
            current = nullptr;
            report(nullptr, 0, "deadlock: no thread of the block can move");
        }
    }
}

void run_launch(const Launch &launch, FiberPool *pool, cuda_on_cpu_order order, bool blocks_unordered)
{
    static uint64_t n_launches;
    launch_now = &launch;
    n_threads = launch.block.x * launch.block.y * launch.block.z;
    /* Identities must live on while later blocks are compared with them: the sanitizer reuses dead ones. */
    bool fresh = blocks_unordered && tsan_present();
    size_t n_pools = 0, n_pools_max = MAX_TSAN_FIBERS / n_threads;
    FiberPool **pools = fresh ? static_cast<FiberPool **>(calloc(n_pools_max, sizeof *pools)) : nullptr;
    void **shareds = fresh ? static_cast<void **>(calloc(n_pools_max, sizeof *shareds)) : nullptr;
    void *shared = launch.n_shared_bytes && !fresh ? malloc(launch.n_shared_bytes) : nullptr;

    tokens = static_cast<char *>(malloc(TOKENS_BYTES));
    tsan_release(tokens + START_TOKEN);
    for (unsigned z = 0; z < launch.grid.z; z++)
        for (unsigned y = 0; y < launch.grid.y; y++)
            for (unsigned x = 0; x < launch.grid.x; x++) {
                if (fresh) {
                    if (n_pools == n_pools_max) {
                        tsan_acquire(tokens + FINISH_TOKEN);
                        while (n_pools > 0) {
                            end_pool(pools[--n_pools]);
                            free(shareds[n_pools]);
                        }
                    }
                    pool = pools[n_pools] = fresh_pool();
                    shared = launch.n_shared_bytes ? malloc(launch.n_shared_bytes) : nullptr;
                    shareds[n_pools++] = shared;
                }
                block_now = {x, y, z};
                shared_now = shared;
                if (shared)
                    fill_with_ones(static_cast<char *>(shared), static_cast<char *>(shared) + launch.n_shared_bytes);
                fill_with_ones(__start_cuda_on_cpu_shared, __stop_cuda_on_cpu_shared);
                set_order(order, ++n_launches);
                run_block(pool);
                if (!fresh) { /* the next block uses the same shared memory: ordered after this one */
                    tsan_acquire(tokens + FINISH_TOKEN);
                    tsan_release(tokens + START_TOKEN);
                }
            }
    tsan_acquire(tokens + FINISH_TOKEN);
    while (n_pools > 0) {
        end_pool(pools[--n_pools]);
        free(shareds[n_pools]);
    }
    free(pools);
    free(shareds);
    free(tokens);
    if (!fresh)
        free(shared);
    launch_now = nullptr;
    current = nullptr;
}

/* ---- what kernels call ---- */

uint3 thread_index()
{
    return current->index;
}

uint3 block_index()
{
    return block_now;
}

dim3 block_size()
{
    return launch_now->block;
}

dim3 grid_size()
{
    return launch_now->grid;
}

unsigned lane_index()
{
    return number_of(current) % LANES;
}

void *dynamic_shared()
{
    if (!shared_now)
        report(nullptr, 0, "the kernel uses dynamic shared memory, and its launch asked for none");
    return shared_now;
}

/* Order in which fences run is order of memory: enough for "write, fence, count" without false reports. */
void fence()
{
    tsan_acquire(tokens + FENCE_TOKEN);
    tsan_release(tokens + FENCE_TOKEN);
}

int block_barrier(Barrier kind, int predicate, const char *file, int line)
{
    Thread *t = current;
    t->file = file;
    t->line = line;
    if (barrier.n_waiting == 0) {
        barrier.kind = kind;
        barrier.file = file;
        barrier.line = line;
        barrier.first = number_of(t);
    } else if (kind != barrier.kind || line != barrier.line || strcmp(file, barrier.file) != 0) {
        report(file, line, "divergent barrier: thread %u is here while thread %u waits at the barrier of %s:%d",
               number_of(t), barrier.first, barrier.file, barrier.line);
    }
    t->state = State::at_barrier;
    barrier.n_waiting++;
    barrier.n_true += predicate != 0;
    release_barrier_if_complete();
    leave_stack(t->stack);
    return (int)t->result;
}

uint64_t warp(Warp operation, unsigned mask, uint64_t value, int lane, int width, uint64_t *all, const char *file,
              int line)
{
    Thread *t = current;
    const char *name = WARP_NAMES[(int)operation];
    unsigned me = number_of(t) % LANES, first = number_of(t) - me;
    t->file = file;
    t->line = line;
    if (!(mask >> me & 1))
        report(file, line, "lane %u is not in its own mask %08x of %s", me, mask, name);
    if (width <= 0 || width > (int)LANES || (width & (width - 1)))
        report(file, line, "%s with a width of %d: a power of 2 up to 32 is needed", name, width);
    bool complete = true;
    for (unsigned i = 0; i < LANES; i++) {
        Thread *other = &threads[first + i];
        if (!(mask >> i & 1) || i == me)
            continue;
        if (first + i >= n_threads)
            report(file, line, "mask %08x of %s names lane %u, which the block of %u threads does not have", mask, name,
                   i, n_threads);
        if (other->state == State::done)
            report(file, line, "mask %08x of %s names lane %u, which has returned from the kernel", mask, name, i);
        if (other->state != State::at_warp || other->mask != mask || other->operation != operation)
            complete = false;
    }
    t->state = State::at_warp;
    t->operation = operation;
    t->mask = mask;
    t->value = value;
    t->all = all;
    t->asked = lane;
    t->width = width;
    if (complete)
        finish_warp(first, mask);
    leave_stack(t->stack);
    return t->result;
}

void report(const char *file, int line, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "cuda_on_cpu: ");
    if (file)
        fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    if (launch_now) {
        fprintf(stderr, "\n  in %s, block (%u, %u, %u) of (%u, %u, %u)", launch_now->name, block_now.x, block_now.y,
                block_now.z, launch_now->grid.x, launch_now->grid.y, launch_now->grid.z);
        if (current)
            fprintf(stderr, ", thread (%u, %u, %u)", current->index.x, current->index.y, current->index.z);
        fprintf(stderr, "\n");
        print_places();
    }
    fflush(stderr);
    abort();
}

} // namespace cuda_on_cpu
