/*
 * machine.cpp: the pretended machine as a whole: its lock, its start and end, its set-up, and what is live on it.
 *
 * What lives here: the control interface (planned failures are errors.cpp's) and what it is made from. Compiled without
 * any sanitizer. What it must not know: what any call of the runtime does.
 */
#include "machine.h"

#include <iterator>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace cuda_on_cpu
{

Machine *machine;

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

static uint64_t number_from(const char *variable, uint64_t otherwise)
{
    const char *text = getenv(variable);
    return text && *text ? strtoull(text, nullptr, 0) : otherwise;
}

static int signed_from(const char *variable, int otherwise)
{
    const char *text = getenv(variable);
    return text && *text ? (int)strtol(text, nullptr, 0) : otherwise;
}

void clear_device(int device)
{
    for (int i = 0; i < MAX_DEVICES; i++)
        if (is_of(i, device))
            machine->devices[i].sticky = cudaErrorUnknown; /* what is still queued is dropped */
    for (auto at = machine->streams.begin(); at != machine->streams.end();) {
        if (!is_of((*at)->device, device)) {
            ++at;
            continue;
        }
        free_stream(*at);
        at = machine->streams.erase(at);
    }
    for (int i = 0; i < MAX_DEVICES; i++)
        if (is_of(i, device) && machine->devices[i].null_stream) {
            free_stream(machine->devices[i].null_stream);
            machine->devices[i].null_stream = nullptr;
        }
    for (auto at = machine->events.begin(); at != machine->events.end();) {
        if (!is_of((*at)->device, device)) {
            ++at;
            continue;
        }
        free_event(*at);
        at = machine->events.erase(at);
    }
    for (auto at = machine->buffers.begin(); at != machine->buffers.end();)
        at = is_of(at->second.device, device) ? free_buffer(at) : std::next(at);
}

void start_machine(const cuda_on_cpu_config *config)
{
    if (machine)
        clear_device(-1);
    delete machine;
    machine = new Machine();
    machine->config = config ? *config : cuda_on_cpu_default();
    if (machine->config.n_devices > MAX_DEVICES)
        machine->config.n_devices = MAX_DEVICES;
}

} // namespace cuda_on_cpu

using namespace cuda_on_cpu;

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
        } else if (entry.second.device >= 0 && is_of(entry.second.device, device)) {
            out->device_buffers++;
            out->device_bytes += entry.second.n_bytes;
        }
    }
    for (const Stream *s : machine->streams)
        out->streams += is_of(s->device, device);
    for (const Event *e : machine->events)
        out->events += is_of(e->device, device);
    for (int i = 0; i < MAX_DEVICES; i++) {
        if (!is_of(i, device))
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
