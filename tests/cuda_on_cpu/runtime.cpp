/*
 * runtime.cpp: the pretended machine: devices with little memory, streams, events, and calls that fail on demand.
 *
 * What lives here: every call of cuda_runtime_api.h and the control interface. Compiled without any sanitizer. What it
 * must not know: how a block runs (fibers.cpp) and what any kernel computes.
 *
 * Streams follow one of two extreme policies. Eager: an operation runs when it is submitted. Lazy: it runs only when
 * something waits for it (a synchronize, a second query, an event that a waited-for stream depends on), and nothing
 * else runs with it. Code that is right under both waits for what it needs and for no less. Each stream has an identity of
 * its own for ThreadSanitizer, which learns of order only where CUDA promises it: submission, stream order, events and
 * synchronisation. So a forgotten wait is also a reported race.
 *
 * One lock covers everything, and a kernel runs under it: threads may call from everywhere at once, one of them runs.
 */
#include "cuda_on_cpu.h"
#include "cuda_runtime.h"
#include "fibers.h"
#include "sanitizer_hooks.h"
#include "stream_work.h"

#include <deque>
#include <linux/futex.h>
#include <map>
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace
{

constexpr int MAX_DEVICES = 16;
constexpr size_t SHARED_DEFAULT = 48 << 10, SHARED_MOST = 227 << 10;
constexpr size_t GRANULE = 256; /* alignment of device buffers, and what their sizes are rounded up to in the budget */
constexpr unsigned MAX_GRID_YZ = 65535;
constexpr unsigned MAX_BLOCK_Z = 64;

struct Stream;

/* One recording of an event. Its address is the token that orders those who wait for it. */
struct Record {
    int n_owners;
    Stream *stream;
    bool done;
    double seconds;
};

struct Event {
    int device;
    unsigned flags;
    unsigned n_polls;
    Record *latest;
};

/* Work, a record, or a wait for one. */
struct Op {
    char *token;
    Record *record;
    bool waits;
    bool (*ready)(Stream *stream, void *data); /* null: always */
    void (*work)(Stream *stream, void *data);
    void (*drop)(void *data);
    void *data;
};

struct Stream {
    int device;
    unsigned n_polls;
    std::deque<Op> queue;
    cuda_on_cpu::FiberPool *pool;
    void *tsan;
};

struct Buffer {
    size_t n_bytes;
    int device; /* -1: pinned host memory */
};

struct Device {
    size_t n_used, n_peak;
    cudaError_t sticky;
    Stream *null_stream;
};

struct Machine {
    cuda_on_cpu_config config;
    cuda_on_cpu_counts counts;
    uint64_t n_until_failure_seen;
    Device devices[MAX_DEVICES];
    size_t n_pinned;
    std::map<uintptr_t, Buffer> buffers;
    std::set<Stream *> streams;
    std::set<Event *> events;
    std::map<const void *, Buffer> shared_limits; /* n_bytes: what cudaFuncSetAttribute allowed a kernel */
};

Machine *machine;
thread_local int device_now;
thread_local cudaError_t last_error;

/* A lock that ThreadSanitizer does not see: calls of the real runtime do not synchronise host threads with each other,
 * and a mutex here would hide their races. 0 free, 1 held, 2 held and waited for. */
int lock_word;

void lock()
{
    int free_word = 0;
    if (__atomic_compare_exchange_n(&lock_word, &free_word, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
        return;
    while (__atomic_exchange_n(&lock_word, 2, __ATOMIC_ACQUIRE) != 0)
        syscall(SYS_futex, &lock_word, FUTEX_WAIT_PRIVATE, 2, nullptr, nullptr, 0);
}

void unlock()
{
    if (__atomic_exchange_n(&lock_word, 0, __ATOMIC_RELEASE) == 2)
        syscall(SYS_futex, &lock_word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

uint64_t number_from(const char *variable, uint64_t otherwise)
{
    const char *text = getenv(variable);
    return text && *text ? strtoull(text, nullptr, 0) : otherwise;
}

int signed_from(const char *variable, int otherwise)
{
    const char *text = getenv(variable);
    return text && *text ? (int)strtol(text, nullptr, 0) : otherwise;
}

bool is_sticky(cudaError_t e)
{
    switch (e) {
    case cudaErrorECCUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorUnknown: return true;
    default: return false;
    }
}

/* ---- device memory ---- */

/* Device memory can be touched by AddressSanitizer's reckoning only while its device works on it. */
void open_device(int device, bool open)
{
    for (const auto &entry : machine->buffers) {
        if (entry.second.device != device)
            continue;
        if (open)
            asan_unpoison((void *)entry.first, entry.second.n_bytes);
        else
            asan_poison((void *)entry.first, entry.second.n_bytes);
    }
}

enum class Memory { pageable, pinned, device, outside };

/* outside: begins in a buffer of ours and ends past it. */
Memory classify(const void *pointer, size_t n_bytes, int *device)
{
    uintptr_t at = (uintptr_t)pointer;
    auto next = machine->buffers.upper_bound(at);
    if (next == machine->buffers.begin())
        return Memory::pageable;
    const auto &entry = *--next;
    size_t offset = at - entry.first;
    if (offset >= entry.second.n_bytes)
        return Memory::pageable;
    if (device)
        *device = entry.second.device;
    if (n_bytes > entry.second.n_bytes - offset)
        return Memory::outside;
    return entry.second.device < 0 ? Memory::pinned : Memory::device;
}

size_t granules(size_t n_bytes)
{
    return (n_bytes + GRANULE - 1) / GRANULE * GRANULE;
}

cudaError_t new_buffer(void **out, size_t n_bytes, int device)
{
    if (!out)
        return cudaErrorInvalidValue;
    if (n_bytes == 0) {
        *out = nullptr;
        return cudaSuccess;
    }
    Device *d = device < 0 ? nullptr : &machine->devices[device];
    if (d && (n_bytes > machine->config.memory_bytes || granules(n_bytes) > machine->config.memory_bytes - d->n_used))
        return cudaErrorMemoryAllocation;
    if (!d && machine->config.pinned_bytes && n_bytes > machine->config.pinned_bytes - machine->n_pinned)
        return cudaErrorMemoryAllocation;
    void *p = nullptr;
    if (posix_memalign(&p, GRANULE, n_bytes) != 0)
        return cudaErrorMemoryAllocation;
    memset(p, 0xff, n_bytes); /* what nobody wrote reads as NaN */
    machine->buffers[(uintptr_t)p] = {n_bytes, device};
    if (d) {
        d->n_used += granules(n_bytes);
        d->n_peak = d->n_used > d->n_peak ? d->n_used : d->n_peak;
        asan_poison(p, n_bytes);
    } else {
        machine->n_pinned += n_bytes;
    }
    *out = p;
    return cudaSuccess;
}

void free_buffer(std::map<uintptr_t, Buffer>::iterator at)
{
    asan_unpoison((void *)at->first, at->second.n_bytes);
    if (at->second.device >= 0)
        machine->devices[at->second.device].n_used -= granules(at->second.n_bytes);
    else
        machine->n_pinned -= at->second.n_bytes;
    free((void *)at->first);
    machine->buffers.erase(at);
}

/* ---- streams ---- */

/* The system call itself: ThreadSanitizer watches clock_gettime, and would take its write to this stack, made under a
 * stream's identity, for a race with whatever the host thread keeps there later. */
double seconds_now()
{
    struct timespec t = {0, 0};
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void release_record(Record *r)
{
    if (r && --r->n_owners == 0)
        free(r);
}

void flush(Stream *s, const Record *until);

bool is_dead(const Stream *s)
{
    return machine->devices[s->device].sticky != cudaSuccess;
}

/* Work of another library may have to wait for its like on other devices; so does what comes after it, and what waits
 * for that on other streams. */
bool can_run(Stream *s, const Op &op)
{
    if (op.waits && !op.record->done) {
        flush(op.record->stream, op.record);
        return op.record->done;
    }
    if (!op.ready || is_dead(s))
        return true;
    void *host = tsan_current();
    tsan_switch(s->tsan);
    tsan_acquire(op.token);
    bool ready = op.ready(s, op.data);
    tsan_switch(host);
    return ready;
}

void run_op(Stream *s, Op op)
{
    bool dead = is_dead(s);
    /* Not read as the stream: the C library writes the time to this thread's stack, where the host goes on. */
    double now = op.record ? seconds_now() : 0;
    void *host = tsan_current();
    tsan_switch(s->tsan);
    tsan_acquire(op.token);
    if (op.waits)
        tsan_acquire(op.record);
    else if (op.record) {
        op.record->seconds = now;
        op.record->done = true;
        tsan_release(op.record);
    } else if (!dead)
        op.work(s, op.data);
    else
        machine->counts.operations_dropped++;
    tsan_switch(host);
    if (op.drop)
        op.drop(op.data);
    release_record(op.record);
    free(op.token);
}

/* As far as it goes. */
void flush(Stream *s, const Record *until)
{
    while (!s->queue.empty() && !(until && until->done) && can_run(s, s->queue.front())) {
        Op op = s->queue.front();
        s->queue.pop_front();
        run_op(s, op);
    }
}

/* What a stream waits for, another thread submits: it gets the lock meanwhile. */
void let_others()
{
    unlock();
    syscall(SYS_sched_yield);
    lock();
}

/* To the end, however long that takes. */
void drain(Stream *s)
{
    for (flush(s, nullptr); !s->queue.empty(); flush(s, nullptr))
        let_others();
}

void enqueue(Stream *s, Op op, bool now = false)
{
    op.token = static_cast<char *>(malloc(8));
    tsan_release(op.token);
    s->queue.push_back(op);
    if (now)
        drain(s);
    else if (!machine->config.lazy_streams)
        flush(s, nullptr);
}

/* The host has waited for the stream: it may now touch what the stream touched. */
void join(Stream *s)
{
    drain(s);
    if (!tsan_present())
        return;
    char *token = static_cast<char *>(malloc(8));
    void *host = tsan_current();
    tsan_switch(s->tsan);
    tsan_release(token);
    tsan_switch(host);
    tsan_acquire(token);
    free(token);
}

/* A stream with something left to do, as far as can be told now. */
bool is_busy(int device)
{
    for (Stream *s : machine->streams) {
        if (device >= 0 && s->device != device)
            continue;
        flush(s, nullptr);
        if (!s->queue.empty())
            return true;
    }
    return false;
}

void join_device(int device)
{
    while (is_busy(device)) /* streams come and go meanwhile */
        let_others();
    for (Stream *s : machine->streams)
        if (device < 0 || s->device == device)
            join(s);
    for (int i = 0; i < MAX_DEVICES; i++)
        if ((device < 0 || i == device) && machine->devices[i].null_stream)
            join(machine->devices[i].null_stream);
}

Stream *new_stream(int device)
{
    Stream *s = new Stream();
    s->device = device;
    s->pool = cuda_on_cpu::new_pool();
    s->tsan = tsan_new_fiber();
    return s;
}

void free_stream(Stream *s)
{
    drain(s);
    cuda_on_cpu::free_pool(s->pool);
    tsan_free_fiber(s->tsan);
    delete s;
}

Stream *stream_of(cudaStream_t handle)
{
    Stream *s = reinterpret_cast<Stream *>(handle);
    if (s)
        return machine->streams.count(s) ? s : nullptr;
    Device *d = &machine->devices[device_now];
    if (!d->null_stream)
        d->null_stream = new_stream(device_now);
    return d->null_stream;
}

Event *event_of(cudaEvent_t handle)
{
    Event *e = reinterpret_cast<Event *>(handle);
    return e && machine->events.count(e) ? e : nullptr;
}

void free_event(Event *e)
{
    release_record(e->latest);
    delete e;
}

/* ---- the machine ---- */

void clear_machine()
{
    for (Device &d : machine->devices)
        if (d.sticky == cudaSuccess)
            d.sticky = cudaErrorUnknown; /* what is still queued is dropped */
    while (!machine->streams.empty()) {
        free_stream(*machine->streams.begin());
        machine->streams.erase(machine->streams.begin());
    }
    for (Device &d : machine->devices)
        if (d.null_stream)
            free_stream(d.null_stream);
    while (!machine->events.empty()) {
        free_event(*machine->events.begin());
        machine->events.erase(machine->events.begin());
    }
    while (!machine->buffers.empty())
        free_buffer(machine->buffers.begin());
    delete machine;
    machine = nullptr;
}

void start_machine(const cuda_on_cpu_config *config)
{
    if (machine)
        clear_machine();
    machine = new Machine();
    machine->config = config ? *config : cuda_on_cpu_default();
    if (machine->config.n_devices > MAX_DEVICES)
        machine->config.n_devices = MAX_DEVICES;
}

/* The entry of every call: takes the lock, counts, and says whether this call fails. */
struct Call {
    Quiet quiet;
    cudaError_t error = cudaSuccess;

    explicit Call(bool counted = true)
    {
        lock();
        if (!machine)
            start_machine(nullptr);
        if (machine->config.n_devices <= 0) {
            error = machine->config.n_devices < 0 ? cudaErrorInsufficientDriver : cudaErrorNoDevice;
            return;
        }
        if (device_now >= machine->config.n_devices)
            device_now = 0;
        if (counted)
            count();
    }
    ~Call() { unlock(); }

    void count()
    {
        cuda_on_cpu_config *c = &machine->config;
        machine->counts.calls++;
        Device *d = &machine->devices[device_now];
        if (c->fail_at && (c->fail_device < 0 || c->fail_device == device_now) &&
            ++machine->n_until_failure_seen == c->fail_at) {
            error = (cudaError_t)c->fail_code;
            if (is_sticky(error) && d->sticky == cudaSuccess)
                d->sticky = error;
        }
        if (d->sticky != cudaSuccess)
            error = d->sticky;
    }
    cudaError_t end(cudaError_t e)
    {
        if (e != cudaSuccess)
            last_error = e;
        return e;
    }
};

/* A call that stops when it fails: runs the body, whose value is its result. */
template <typename Body> cudaError_t call(Body body)
{
    Call c;
    return c.end(c.error != cudaSuccess ? c.error : body());
}

/* A call that gives something back does so even when it reports a failure, which as a rule is that of earlier work. */
template <typename Body> cudaError_t call_that_frees(Body body)
{
    Call c;
    cudaError_t e = c.error == cudaErrorNoDevice || c.error == cudaErrorInsufficientDriver ? c.error : body();
    return c.end(c.error != cudaSuccess ? c.error : e);
}

/* ---- copies ---- */

struct Copy {
    char *to;
    const char *from; /* null: set to value */
    size_t to_pitch, from_pitch, width, height;
    int value;
};

void run_copy(Stream *, void *data)
{
    const Copy *c = static_cast<const Copy *>(data);
    for (size_t y = 0; y < c->height; y++) {
        char *to = c->to + y * c->to_pitch;
        const char *from = c->from ? c->from + y * c->from_pitch : nullptr;
        int to_device = -1, from_device = -1;
        classify(to, c->width, &to_device);
        if (from)
            classify(from, c->width, &from_device);
        if (to_device >= 0)
            asan_unpoison(to, c->width);
        if (from_device >= 0)
            asan_unpoison(from, c->width);
        if (from)
            memcpy(to, from, c->width);
        else
            memset(to, c->value, c->width);
        if (to_device >= 0)
            asan_poison(to, c->width);
        if (from_device >= 0)
            asan_poison(from, c->width);
    }
}

void drop_copy(void *data)
{
    delete static_cast<Copy *>(data);
}

cudaError_t copy(const Copy &c, cudaMemcpyKind kind, cudaStream_t handle, bool waits)
{
    Stream *s = stream_of(handle);
    if (!s)
        return cudaErrorInvalidResourceHandle;
    if (c.width == 0 || c.height == 0)
        return cudaSuccess;
    if (c.height > 1 && (c.to_pitch < c.width || (c.from && c.from_pitch < c.width)))
        return cudaErrorInvalidValue;
    Memory to = classify(c.to, c.to_pitch * (c.height - 1) + c.width, nullptr), from = Memory::pageable;
    if (c.from)
        from = classify(c.from, c.from_pitch * (c.height - 1) + c.width, nullptr);
    if (to == Memory::outside || from == Memory::outside || !c.to)
        return cudaErrorInvalidValue;
    bool to_device = to == Memory::device, from_device = from == Memory::device, fits = true;
    cuda_on_cpu_counts *counts = &machine->counts;
    size_t n_bytes = c.width * c.height;
    if (!c.from) {
        fits = to_device;
    } else {
        if (kind == cudaMemcpyDefault)
            kind = (cudaMemcpyKind)((to_device ? 1 : 0) + (from_device ? 2 : 0));
        fits = kind == (cudaMemcpyKind)((to_device ? 1 : 0) + (from_device ? 2 : 0));
    }
    if (!fits)
        return cudaErrorInvalidValue;
    if (c.from && to_device && from_device)
        counts->copies_on_device++;
    else if (c.from && to_device) {
        counts->copies_to_device++;
        counts->bytes_to_device += n_bytes;
    } else if (from_device) {
        counts->copies_to_host++;
        counts->bytes_to_host += n_bytes;
    }
    bool pageable = c.from && ((!to_device && to == Memory::pageable) || (!from_device && from == Memory::pageable));
    if (pageable && !waits)
        counts->pageable_copies++;
    Op op = {};
    op.work = run_copy;
    op.drop = drop_copy;
    op.data = new Copy(c);
    enqueue(s, op, pageable); /* memory that is not pinned goes through a staging buffer while the caller waits */
    if (waits)
        join(s);
    return cudaSuccess;
}

/* ---- launches ---- */

struct KernelOp {
    cuda_on_cpu::Launch launch;
    void (*destroy)(void *);
};

void run_kernel(Stream *s, void *data)
{
    const KernelOp *k = static_cast<const KernelOp *>(data);
    open_device(s->device, true);
    cuda_on_cpu::run_launch(k->launch, s->pool, machine->config.order, machine->config.blocks_unordered);
    open_device(s->device, false);
}

void drop_kernel(void *data)
{
    KernelOp *k = static_cast<KernelOp *>(data);
    k->destroy(k->launch.closure);
    delete k;
}

cudaError_t check_launch(const KernelOp &k, const void *kernel, const Stream *s)
{
    dim3 g = k.launch.grid, b = k.launch.block;
    if (!s || s->device != device_now)
        return cudaErrorInvalidResourceHandle;
    if (g.x == 0 || g.y == 0 || g.z == 0 || b.x == 0 || b.y == 0 || b.z == 0 || g.x > 0x7fffffff || g.y > MAX_GRID_YZ ||
        g.z > MAX_GRID_YZ || b.z > MAX_BLOCK_Z || (uint64_t)b.x * b.y * b.z > 1024)
        return cudaErrorInvalidConfiguration;
    if (machine->config.lacks_code)
        return cudaErrorNoKernelImageForDevice;
    auto limit = machine->shared_limits.find(kernel);
    if (k.launch.n_shared_bytes > (limit == machine->shared_limits.end() ? SHARED_DEFAULT : limit->second.n_bytes))
        return cudaErrorInvalidValue;
    return cudaSuccess;
}

} // namespace

namespace cuda_on_cpu
{

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

/* ---- work of other libraries ---- */

static bool foreign_ready(Stream *s, void *data)
{
    const cuda_on_cpu_work *w = static_cast<const cuda_on_cpu_work *>(data);
    open_device(s->device, true);
    bool ready = w->ready(w->data);
    open_device(s->device, false);
    return ready;
}

static void run_foreign(Stream *s, void *data)
{
    const cuda_on_cpu_work *w = static_cast<const cuda_on_cpu_work *>(data);
    open_device(s->device, true);
    w->run(w->data);
    open_device(s->device, false);
}

static void drop_foreign(void *data)
{
    cuda_on_cpu_work *w = static_cast<cuda_on_cpu_work *>(data);
    w->drop(w->data);
    delete w;
}

int cuda_on_cpu_submit(cudaStream_t stream, int device, const cuda_on_cpu_work *work)
{
    return call([=] {
        Stream *s = stream_of(stream);
        if (!s || s->device != device)
            return cudaErrorInvalidResourceHandle;
        Op op = {};
        op.ready = foreign_ready;
        op.work = run_foreign;
        op.drop = drop_foreign;
        op.data = new cuda_on_cpu_work(*work);
        enqueue(s, op);
        return cudaSuccess;
    });
}

/* ---- control ---- */

cuda_on_cpu_config cuda_on_cpu_default(void)
{
    cuda_on_cpu_config c = {};
    const char *order = getenv("CUDA_ON_CPU_ORDER");
    c.n_devices = signed_from("CUDA_ON_CPU_DEVICES", 1);
    c.memory_bytes = number_from("CUDA_ON_CPU_MEMORY", 256 << 20);
    c.lazy_streams = number_from("CUDA_ON_CPU_LAZY", 0) != 0;
    c.order = CUDA_ON_CPU_FORWARD;
    if (order && strcmp(order, "reverse") == 0)
        c.order = CUDA_ON_CPU_REVERSE;
    else if (order && strcmp(order, "shuffled") == 0)
        c.order = CUDA_ON_CPU_SHUFFLED;
    c.blocks_unordered = number_from("CUDA_ON_CPU_UNORDERED", 0) != 0;
    c.fail_at = number_from("CUDA_ON_CPU_FAIL_AT", 0);
    c.fail_code = signed_from("CUDA_ON_CPU_FAIL_CODE", cudaErrorLaunchFailure);
    c.fail_device = signed_from("CUDA_ON_CPU_FAIL_DEVICE", -1);
    return c;
}

void cuda_on_cpu_configure(const cuda_on_cpu_config *config)
{
    Quiet quiet;
    lock();
    start_machine(config);
    device_now = 0;
    last_error = cudaSuccess;
    unlock();
}

void cuda_on_cpu_fail_at(uint64_t nth_call, int code, int device)
{
    Call c(false);
    machine->config.fail_at = nth_call;
    machine->config.fail_code = code;
    machine->config.fail_device = device;
    machine->n_until_failure_seen = 0;
}

void cuda_on_cpu_get_counts(cuda_on_cpu_counts *out)
{
    Call c(false);
    *out = machine->counts;
}

static void count_live(int device, cuda_on_cpu_live *out)
{
    *out = {};
    for (const auto &entry : machine->buffers) {
        if (entry.second.device < 0 && device < 0) {
            out->pinned_buffers++;
            out->pinned_bytes += entry.second.n_bytes;
        } else if (entry.second.device >= 0 && (device < 0 || entry.second.device == device)) {
            out->device_buffers++;
            out->device_bytes += entry.second.n_bytes;
        }
    }
    for (const Stream *s : machine->streams)
        out->streams += device < 0 || s->device == device;
    for (const Event *e : machine->events)
        out->events += device < 0 || e->device == device;
    for (int i = 0; i < MAX_DEVICES; i++) {
        if (device >= 0 && i != device)
            continue;
        out->peak_device_bytes += machine->devices[i].n_peak;
        out->failed |= machine->devices[i].sticky != cudaSuccess;
    }
}

void cuda_on_cpu_get_live(int device, struct cuda_on_cpu_live *out)
{
    Call c(false);
    count_live(device, out);
}

size_t cuda_on_cpu_leaks(char *text, size_t cap)
{
    Call c(false);
    struct cuda_on_cpu_live all;
    count_live(-1, &all);
    if (text && cap)
        snprintf(text, cap,
                 "%zu device buffers (%zu bytes), %zu pinned buffers (%zu bytes), %zu streams and %zu events are live",
                 all.device_buffers, all.device_bytes, all.pinned_buffers, all.pinned_bytes, all.streams, all.events);
    return all.device_buffers + all.pinned_buffers + all.streams + all.events;
}

/* ---- errors, versions, devices ---- */

static const struct {
    cudaError_t code;
    const char *name;
    const char *text;
} ERRORS[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidDevicePointer, "cudaErrorInvalidDevicePointer", "invalid device pointer"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorDevicesUnavailable, "cudaErrorDevicesUnavailable", "CUDA-capable device(s) is/are busy or unavailable"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources", "too many resources requested for launch"},
    {cudaErrorLaunchTimeout, "cudaErrorLaunchTimeout", "the launch timed out and was terminated"},
    {cudaErrorAssert, "cudaErrorAssert", "device-side assert triggered"},
    {cudaErrorHostMemoryAlreadyRegistered, "cudaErrorHostMemoryAlreadyRegistered",
     "part or all of the requested memory range is already mapped"},
    {cudaErrorHostMemoryNotRegistered, "cudaErrorHostMemoryNotRegistered",
     "pointer does not correspond to a registered memory region"},
    {cudaErrorHardwareStackError, "cudaErrorHardwareStackError", "hardware stack error"},
    {cudaErrorIllegalInstruction, "cudaErrorIllegalInstruction", "an illegal instruction was encountered"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorInvalidAddressSpace, "cudaErrorInvalidAddressSpace",
     "operation not supported on global/shared address space"},
    {cudaErrorInvalidPc, "cudaErrorInvalidPc", "invalid program counter"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

const char *cudaGetErrorName(cudaError_t error)
{
    for (const auto &e : ERRORS)
        if (e.code == error)
            return e.name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    for (const auto &e : ERRORS)
        if (e.code == error)
            return e.text;
    return "unrecognized error code";
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t e = last_error;
    last_error = cudaSuccess;
    return e;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

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

/* Work of a device that failed is dropped while it is flushed; the wait then reports the failure. */
static cudaError_t error_of(int device)
{
    return machine->devices[device].sticky;
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

/* ---- memory ---- */

cudaError_t cudaMemGetInfo(size_t *n_free, size_t *n_total)
{
    return call([=] {
        *n_total = machine->config.memory_bytes;
        *n_free = *n_total - machine->devices[device_now].n_used;
        return cudaSuccess;
    });
}

cudaError_t cudaMalloc(void **pointer, size_t n_bytes)
{
    return call([=] { return new_buffer(pointer, n_bytes, device_now); });
}

cudaError_t cudaHostAlloc(void **pointer, size_t n_bytes, unsigned int)
{
    return call([=] { return new_buffer(pointer, n_bytes, -1); });
}

cudaError_t cudaMallocHost(void **pointer, size_t n_bytes)
{
    return cudaHostAlloc(pointer, n_bytes, cudaHostAllocDefault);
}

/* Freeing waits for all work that may still use the memory, as drivers do. */
static cudaError_t give_back(void *pointer, bool pinned)
{
    if (!pointer)
        return cudaSuccess;
    auto at = machine->buffers.find((uintptr_t)pointer);
    if (at == machine->buffers.end() || (at->second.device < 0) != pinned)
        return cudaErrorInvalidValue;
    join_device(-1);
    free_buffer(at);
    return cudaSuccess;
}

cudaError_t cudaFree(void *pointer)
{
    return call_that_frees([=] { return give_back(pointer, false); });
}

cudaError_t cudaFreeHost(void *pointer)
{
    return call_that_frees([=] { return give_back(pointer, true); });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *pointer)
{
    return call([=] {
        int device = -1;
        Memory kind = classify(pointer, 1, &device);
        *attributes = {};
        attributes->device = device >= 0 ? device : device_now;
        attributes->type = kind == Memory::device   ? cudaMemoryTypeDevice
                           : kind == Memory::pinned ? cudaMemoryTypeHost
                                                    : cudaMemoryTypeUnregistered;
        attributes->devicePointer = kind == Memory::pageable ? nullptr : const_cast<void *>(pointer);
        attributes->hostPointer = kind == Memory::device ? nullptr : const_cast<void *>(pointer);
        return cudaSuccess;
    });
}

static Copy plain_copy(void *to, const void *from, size_t n_bytes, int value)
{
    return {static_cast<char *>(to), static_cast<const char *>(from), n_bytes, n_bytes, n_bytes, 1, value};
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t n_bytes, cudaMemcpyKind kind)
{
    return call([=] {
        return n_bytes && !from ? cudaErrorInvalidValue : copy(plain_copy(to, from, n_bytes, 0), kind, nullptr, true);
    });
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n_bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    return call([=] {
        return n_bytes && !from ? cudaErrorInvalidValue : copy(plain_copy(to, from, n_bytes, 0), kind, stream, false);
    });
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream)
{
    return call([=] {
        Copy c = {static_cast<char *>(to), static_cast<const char *>(from), to_pitch, from_pitch, width, height, 0};
        return width && height && !from ? cudaErrorInvalidValue : copy(c, kind, stream, false);
    });
}

cudaError_t cudaMemset(void *to, int value, size_t n_bytes)
{
    return call([=] { return copy(plain_copy(to, nullptr, n_bytes, value), cudaMemcpyDefault, nullptr, true); });
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t n_bytes, cudaStream_t stream)
{
    return call([=] { return copy(plain_copy(to, nullptr, n_bytes, value), cudaMemcpyDefault, stream, false); });
}

/* ---- streams and events ---- */

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned int flags, int)
{
    return call([=] {
        /* A blocking stream waits for the null stream behind the caller's back: not simulated, so not allowed. */
        if (flags != cudaStreamNonBlocking)
            return cudaErrorNotSupported;
        Stream *s = new_stream(device_now);
        machine->streams.insert(s);
        *stream = reinterpret_cast<cudaStream_t>(s);
        return cudaSuccess;
    });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags)
{
    return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    return call([=] {
        *least = 0;
        *greatest = -5;
        return cudaSuccess;
    });
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    return call_that_frees([=] {
        Stream *s = stream ? stream_of(stream) : nullptr;
        if (!s)
            return cudaErrorInvalidResourceHandle;
        machine->streams.erase(s);
        free_stream(s);
        return cudaSuccess;
    });
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    return call_that_frees([=] {
        Stream *s = stream_of(stream);
        if (!s)
            return cudaErrorInvalidResourceHandle;
        join(s);
        return error_of(s->device);
    });
}

/* Lazy streams: the first question finds the work not ready, the second one finds it done, so that polling ends. */
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    return call([=] {
        Stream *s = stream_of(stream);
        if (!s)
            return cudaErrorInvalidResourceHandle;
        if (!s->queue.empty() && s->n_polls++ % 2 == 0)
            return cudaErrorNotReady;
        flush(s, nullptr);
        if (!s->queue.empty())
            return cudaErrorNotReady;
        join(s);
        return error_of(s->device);
    });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags)
{
    return call([=] {
        Stream *s = stream_of(stream);
        Event *e = event_of(event);
        if (!s || !e)
            return cudaErrorInvalidResourceHandle;
        if (flags != 0)
            return cudaErrorInvalidValue;
        if (!e->latest)
            return cudaSuccess;
        Op op = {};
        op.record = e->latest;
        op.record->n_owners++;
        op.waits = true;
        enqueue(s, op);
        return cudaSuccess;
    });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags)
{
    return call([=] {
        if (flags & ~(cudaEventBlockingSync | cudaEventDisableTiming))
            return cudaErrorInvalidValue;
        Event *e = new Event{device_now, flags, 0, nullptr};
        machine->events.insert(e);
        *event = reinterpret_cast<cudaEvent_t>(e);
        return cudaSuccess;
    });
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    return call_that_frees([=] {
        Event *e = event_of(event);
        if (!e)
            return cudaErrorInvalidResourceHandle;
        machine->events.erase(e);
        free_event(e);
        return cudaSuccess;
    });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    return call([=] {
        Stream *s = stream_of(stream);
        Event *e = event_of(event);
        if (!s || !e || e->device != s->device)
            return cudaErrorInvalidResourceHandle;
        Record *r = static_cast<Record *>(calloc(1, sizeof *r));
        r->n_owners = 2; /* the event and the operation */
        r->stream = s;
        release_record(e->latest);
        e->latest = r;
        Op op = {};
        op.record = r;
        enqueue(s, op);
        return cudaSuccess;
    });
}

static cudaError_t wait_for(Event *e, bool to_the_end)
{
    if (!e->latest)
        return cudaSuccess;
    for (;; let_others()) {
        if (!e->latest->done)
            flush(e->latest->stream, e->latest);
        if (e->latest->done)
            break;
        if (!to_the_end)
            return cudaErrorNotReady;
    }
    tsan_acquire(e->latest);
    return error_of(e->device);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    return call([=] {
        Event *e = event_of(event);
        if (!e)
            return cudaErrorInvalidResourceHandle;
        if (e->latest && !e->latest->done && e->n_polls++ % 2 == 0)
            return cudaErrorNotReady;
        return wait_for(e, false);
    });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    return call_that_frees([=] {
        Event *e = event_of(event);
        return e ? wait_for(e, true) : cudaErrorInvalidResourceHandle;
    });
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    return call([=] {
        Event *a = event_of(start), *b = event_of(end);
        if (!a || !b || !a->latest || !b->latest || ((a->flags | b->flags) & cudaEventDisableTiming))
            return cudaErrorInvalidResourceHandle;
        if (!a->latest->done || !b->latest->done)
            return cudaErrorNotReady;
        *milliseconds = (float)(1e3 * (b->latest->seconds - a->latest->seconds));
        return cudaSuccess;
    });
}

cudaError_t cudaFuncSetAttribute(const void *function, cudaFuncAttribute attribute, int value)
{
    return call([=] {
        if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
            return cudaSuccess;
        if (value < 0 || (size_t)value > SHARED_MOST)
            return cudaErrorInvalidValue;
        machine->shared_limits[function] = {(size_t)value, 0};
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
        attributes->maxThreadsPerBlock = 1024;
        return cudaSuccess;
    });
}
