/*
 * machine.h: what the parts of the pretended machine share, and what each of them offers to the others.
 *
 * What lives here: the machine's state, and declarations for machine.cpp, errors.cpp, devices.cpp, memory.cpp, copies.cpp,
 * streams.cpp and launches.cpp, which together are every call of cuda_runtime_api.h and the control interface. No other
 * file includes it. What it must not know: how a block runs (fibers.h) and what any kernel computes.
 *
 * One lock covers everything, and a kernel runs under it: threads may call from everywhere at once, one of them runs.
 */
#ifndef CUDA_ON_CPU_MACHINE_H
#define CUDA_ON_CPU_MACHINE_H

#include "cuda_on_cpu.h"
#include "cuda_runtime.h"
#include "fibers.h"
#include "sanitizer_hooks.h"

#include <deque>
#include <map>
#include <set>

namespace cuda_on_cpu
{

constexpr int MAX_DEVICES = 16;
constexpr size_t SHARED_DEFAULT = 48 << 10, SHARED_MOST = 227 << 10;
constexpr unsigned MAX_GRID_YZ = 65535;

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
    FiberPool *pool;
    void *tsan;
};

struct Buffer {
    size_t n_bytes;
    int device;       /* -1: pinned host memory */
    bool is_borrowed; /* the caller's, registered */
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
    std::map<const void *, size_t> shared_limits; /* of kernels, where cudaFuncSetAttribute set one */
};

extern Machine *machine;
extern thread_local int device_now;
extern thread_local cudaError_t last_error;

/* Of one device, or of all with -1. What is pinned is of device -1. */
inline bool is_of(int owner, int device)
{
    return device < 0 || owner == device;
}

/* ---- machine.cpp ---- */

void lock();
void unlock();
/* Ends the streams of a device, or of all with -1, and drops what is queued; frees its events and buffers. The device is
 * left failed. Pinned memory is nobody's: only -1 frees it. */
void clear_device(int device);
/* A fresh machine in the place of the one there may be; null stands for the default. Under the lock. */
void start_machine(const cuda_on_cpu_config *config);

/* ---- errors.cpp ---- */

/* The entry of every call: takes the lock, counts, and says whether this call fails. */
struct Call {
    Quiet quiet;
    cudaError_t error = cudaSuccess;

    explicit Call(bool counted = true);
    ~Call();
    void count();                   /* now, where the entry did not */
    cudaError_t end(cudaError_t e); /* e, which becomes the thread's last error if it is one */
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

/* Work of a device that failed is dropped while it is flushed; the wait then reports the failure. */
cudaError_t error_of(int device);

/* ---- memory.cpp ---- */

/* Device memory can be touched by AddressSanitizer's reckoning only while its device works on it. */
void open_device(int device, bool open);

enum class Memory { pageable, pinned, device, outside };

/* outside: begins in a buffer of ours and ends past it. */
Memory classify(const void *pointer, size_t n_bytes, int *device);

/* Returns the next one. */
std::map<uintptr_t, Buffer>::iterator free_buffer(std::map<uintptr_t, Buffer>::iterator at);

/* ---- streams.cpp ---- */

Stream *new_stream(int device);
void free_stream(Stream *s);
/* The caller's device's own for 0; null for what is no stream. */
Stream *stream_of(cudaStream_t handle);
void free_event(Event *e);

/* At the end of the stream's queue. now: and waits until it has run. */
void enqueue(Stream *s, Op op, bool now = false);
/* The host has waited for the stream: it may now touch what the stream touched. */
void join(Stream *s);
void join_device(int device); /* -1: all */

} // namespace cuda_on_cpu

#endif
