/*
 * streams.cpp: streams and events: in which order work runs, and who waits for what.
 *
 * What lives here: the queues, the calls on streams and events, and the door for work of other libraries
 * (stream_work.h). Compiled without any sanitizer. What it must not know: what the work is.
 *
 * Streams follow one of two extreme policies. Eager: an operation runs when it is submitted. Lazy: it runs only when
 * something waits for it (a synchronize, a second query, an event that a waited-for stream depends on), and nothing
 * else runs with it. Code that is right under both waits for what it needs and for no less. Each stream has an identity of
 * its own for ThreadSanitizer, which learns of order only where CUDA promises it: submission, stream order, events and
 * synchronisation. So a forgotten wait is also a reported race.
 */
#include "machine.h"
#include "stream_work.h"

#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace cuda_on_cpu
{

/* The system call itself: ThreadSanitizer watches clock_gettime, and would take its write to this stack, made under a
 * stream's identity, for a race with whatever the host thread keeps there later. */
static double seconds_now()
{
    struct timespec t = {0, 0};
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void release_record(Record *r)
{
    if (r && --r->n_owners == 0)
        free(r);
}

static void flush(Stream *s, const Record *until);

static bool is_dead(const Stream *s)
{
    return error_of(s->device) != cudaSuccess;
}

/* Work of another library may have to wait for its like on other devices; so does what comes after it, and what waits
 * for that on other streams. */
static bool can_run(Stream *s, const Op &op)
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

static void run_op(Stream *s, Op op)
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
static void flush(Stream *s, const Record *until)
{
    while (!s->queue.empty() && !(until && until->done) && can_run(s, s->queue.front())) {
        Op op = s->queue.front();
        s->queue.pop_front();
        run_op(s, op);
    }
}

/* What a stream waits for, another thread submits: it gets the lock meanwhile. */
static void let_others()
{
    unlock();
    syscall(SYS_sched_yield);
    lock();
}

/* To the end, however long that takes. */
static void drain(Stream *s)
{
    for (flush(s, nullptr); !s->queue.empty(); flush(s, nullptr))
        let_others();
}

void enqueue(Stream *s, Op op, bool now)
{
    op.token = static_cast<char *>(malloc(8));
    tsan_release(op.token);
    s->queue.push_back(op);
    if (now)
        drain(s);
    else if (!machine->config.lazy_streams)
        flush(s, nullptr);
}

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
static bool is_busy(int device)
{
    for (Stream *s : machine->streams) {
        if (!is_of(s->device, device))
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
        if (is_of(s->device, device))
            join(s);
    for (int i = 0; i < MAX_DEVICES; i++)
        if (is_of(i, device) && machine->devices[i].null_stream)
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

static Event *event_of(cudaEvent_t handle)
{
    Event *e = reinterpret_cast<Event *>(handle);
    return e && machine->events.count(e) ? e : nullptr;
}

void free_event(Event *e)
{
    release_record(e->latest);
    delete e;
}

} // namespace cuda_on_cpu

using namespace cuda_on_cpu;

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
