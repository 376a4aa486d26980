/*
 * cuda_on_cpu.h: how a test sets up the pretended machine, breaks it, and asks what happened on it.
 *
 * What lives here: the control interface (C11 and C++). The code under test never includes it. What it must not know:
 * any kernel.
 *
 * Without cuda_on_cpu_configure the machine is as cuda_on_cpu_default says: one device of 256 MiB, eager streams, and
 * what these variables change: CUDA_ON_CPU_DEVICES, _MEMORY (bytes), _LAZY (0, 1), _ORDER (forward, reverse,
 * shuffled), _UNORDERED (0, 1), _FAIL_AT, _FAIL_CODE, _FAIL_DEVICE.
 */
#ifndef CUDA_ON_CPU_H
#define CUDA_ON_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum cuda_on_cpu_order { CUDA_ON_CPU_FORWARD, CUDA_ON_CPU_REVERSE, CUDA_ON_CPU_SHUFFLED };

struct cuda_on_cpu_config {
    int n_devices;        /* 0: a machine without a GPU; -1: one without even a driver */
    size_t memory_bytes;  /* of each device */
    size_t pinned_bytes;  /* that can be page-locked; 0: all */
    bool cannot_register; /* memory that the caller has, as where the driver is not the kernel's own */
    bool lacks_code;      /* the program was not compiled for these devices */
    /* false: an operation runs when it is submitted. true: it runs only when something waits for it, and no others. */
    bool lazy_streams;
    enum cuda_on_cpu_order order; /* in which threads of a block take their turns */
    /* true: under ThreadSanitizer nothing orders the blocks of a launch, so that races between blocks show. Not for
     * kernels with static shared memory (its blocks reuse the same array here). */
    bool blocks_unordered;
    uint64_t fail_at; /* the n-th call from now (from 1) that can fail does; 0: none */
    int fail_code;    /* a cudaError_t; those that end a context on hardware stay until cudaDeviceReset */
    int fail_device;  /* count only calls made with this device current; -1: any */
};

struct cuda_on_cpu_counts {
    uint64_t calls; /* that fail_at counts */
    uint64_t launches;
    uint64_t blocks;
    uint64_t threads;
    uint64_t copies_to_device;
    uint64_t copies_to_host;
    uint64_t copies_on_device;
    uint64_t bytes_to_device;
    uint64_t bytes_to_host;
    uint64_t pageable_copies;    /* asynchronous copies from or to memory that is not pinned: slow on hardware */
    uint64_t operations_dropped; /* never run, because their device had failed */
};

struct cuda_on_cpu_live {
    size_t device_buffers;
    size_t device_bytes;
    size_t pinned_buffers; /* belong to no device: counted for device -1 only */
    size_t pinned_bytes;
    size_t streams;
    size_t events;
    size_t peak_device_bytes;
    bool failed; /* a context has ended: what it held cannot be given back on hardware */
};

struct cuda_on_cpu_config cuda_on_cpu_default(void);
/* A fresh machine: everything that is still allocated is gone, all counts are 0. NULL stands for the default. */
void cuda_on_cpu_configure(const struct cuda_on_cpu_config *config);
/* Changes the next failure alone, in the middle of a run; counting starts again from here. */
void cuda_on_cpu_fail_at(uint64_t nth_call, int code, int device);
void cuda_on_cpu_get_counts(struct cuda_on_cpu_counts *out);
/* Live objects of one device, or of all with -1. */
void cuda_on_cpu_get_live(int device, struct cuda_on_cpu_live *out);
/* The number of live objects; text (may be NULL) receives a sentence that names them, for a test's message. */
size_t cuda_on_cpu_leaks(char *text, size_t cap);

#ifdef __cplusplus
}
#endif

#endif
