/*
 * test_machine.c: the pretended CUDA machine itself: its errors come at the exact call, work runs exactly when its
 * policy says, and nothing that is alive escapes the count.
 *
 * What lives here: tests of the runtime half of the shim, as C sees it. What it must not know: kernels
 * (test_kernels.cu).
 */
#include "cuda_on_cpu.h"
#include "cuda_runtime_api.h"
#include "stream_work.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define N_ELEMS 16

/* Everything a small pipeline needs. Releases whatever there is. */
struct rig {
    cudaStream_t up, down;
    cudaEvent_t ready;
    int *host, *back, *device;
};

static struct cuda_on_cpu_config config_with(bool lazy)
{
    struct cuda_on_cpu_config c = cuda_on_cpu_default();
    c.n_devices = 2;
    c.memory_bytes = 1 << 20;
    c.lazy_streams = lazy;
    c.fail_at = 0;
    return c;
}

static void start(bool lazy)
{
    struct cuda_on_cpu_config c = config_with(lazy);
    cuda_on_cpu_configure(&c);
}

static void assert_no_leak(void)
{
    char text[256];
    if (cuda_on_cpu_leaks(text, sizeof text) != 0)
        fail_msg("%s", text);
}

static cudaError_t rig_init(struct rig *r)
{
    cudaError_t e;
    memset(r, 0, sizeof *r);
    if ((e = cudaSetDevice(0)) || (e = cudaStreamCreateWithFlags(&r->up, cudaStreamNonBlocking)) ||
        (e = cudaStreamCreateWithFlags(&r->down, cudaStreamNonBlocking)) ||
        (e = cudaEventCreateWithFlags(&r->ready, cudaEventDisableTiming)) ||
        (e = cudaMallocHost((void **)&r->host, N_ELEMS * sizeof *r->host)) ||
        (e = cudaMallocHost((void **)&r->back, N_ELEMS * sizeof *r->back)) ||
        (e = cudaMalloc((void **)&r->device, (N_ELEMS + 1) * sizeof *r->device)))
        return e;
    for (int i = 0; i < N_ELEMS; i++)
        r->host[i] = 3 * i + 1;
    return cudaSuccess;
}

static cudaError_t rig_copy(struct rig *r)
{
    cudaError_t e;
    size_t n_bytes = N_ELEMS * sizeof *r->host;
    if ((e = cudaMemcpyAsync(r->device, r->host, n_bytes, cudaMemcpyHostToDevice, r->up)) ||
        (e = cudaEventRecord(r->ready, r->up)) || (e = cudaStreamWaitEvent(r->down, r->ready, 0)) ||
        (e = cudaMemcpyAsync(r->back, r->device, n_bytes, cudaMemcpyDeviceToHost, r->down)))
        return e;
    return cudaSuccess;
}

static void rig_release(struct rig *r)
{
    (void)cudaSetDevice(0);
    if (r->device)
        (void)cudaFree(r->device);
    if (r->back)
        (void)cudaFreeHost(r->back);
    if (r->host)
        (void)cudaFreeHost(r->host);
    if (r->ready)
        (void)cudaEventDestroy(r->ready);
    if (r->down)
        (void)cudaStreamDestroy(r->down);
    if (r->up)
        (void)cudaStreamDestroy(r->up);
}

/* Looks before anybody waited, which ThreadSanitizer would rightly call a race. */
__attribute__((no_sanitize("thread"))) static bool rig_arrived(const struct rig *r)
{
    for (int i = 0; i < N_ELEMS; i++)
        if (r->host[i] != r->back[i])
            return false;
    return true;
}

static void test_copies_under_both_policies(void **state)
{
    (void)state;
    for (int lazy = 0; lazy < 2; lazy++) {
        struct rig r;
        start(lazy);
        assert_int_equal(rig_init(&r), cudaSuccess);
        assert_int_equal(rig_copy(&r), cudaSuccess);
        assert_int_equal(rig_arrived(&r), !lazy);
        assert_int_equal(cudaStreamSynchronize(r.down), cudaSuccess);
        assert_true(rig_arrived(&r));
        struct cuda_on_cpu_counts n;
        cuda_on_cpu_get_counts(&n);
        assert_int_equal(n.copies_to_device, 1);
        assert_int_equal(n.copies_to_host, 1);
        assert_int_equal(n.bytes_to_host, N_ELEMS * sizeof *r.host);
        assert_int_equal(n.pageable_copies, 0);
        rig_release(&r);
        assert_no_leak();
    }
}

/* What is not page-locked may be changed as soon as the call returns, and yet arrives no earlier than its stream's turn. */
static void test_pageable_copies_arrive_in_turn(void **state)
{
    (void)state;
    for (int lazy = 0; lazy < 2; lazy++) {
        struct rig r;
        int source[2] = {1234, 5678};
        start(lazy);
        assert_int_equal(rig_init(&r), cudaSuccess);
        assert_int_equal(cudaMemcpyAsync(r.device, source, sizeof source, cudaMemcpyHostToDevice, r.up), cudaSuccess);
        source[0] = source[1] = 0;
#ifndef __SANITIZE_THREAD__ /* what is looked at too early is a race */
        assert_int_equal(cudaMemcpy(r.back, r.device, sizeof source, cudaMemcpyDeviceToHost), cudaSuccess);
        assert_int_equal(r.back[1] == 5678, !lazy);
#endif
        assert_int_equal(cudaStreamSynchronize(r.up), cudaSuccess);
        assert_int_equal(cudaMemcpy(r.back, r.device, sizeof source, cudaMemcpyDeviceToHost), cudaSuccess);
        assert_int_equal(r.back[0], 1234);
        assert_int_equal(r.back[1], 5678);
        rig_release(&r);
        assert_no_leak();
    }
}

#ifndef __SANITIZE_THREAD__ /* what is looked at too early is a race */

/* What a stream that nothing orders finds on the device. */
static int seen_by_others(struct rig *r)
{
    assert_int_equal(cudaMemcpyAsync(r->back, r->device, sizeof *r->back, cudaMemcpyDeviceToHost, r->down),
                     cudaSuccess);
    assert_int_equal(cudaStreamSynchronize(r->down), cudaSuccess);
    return r->back[0];
}

/* Of the calls without Async in their names, only copies from page-locked memory and copies to the host are done when they
 * return. The others are still in the null stream, for which other streams do not wait. */
static void test_the_null_stream(void **state)
{
    (void)state;
    for (int lazy = 0; lazy < 2; lazy++) {
        struct rig r;
        int source = 0x07070707;
        start(lazy);
        assert_int_equal(rig_init(&r), cudaSuccess);
        r.host[0] = 0x01010101;
        assert_int_equal(cudaMemcpy(r.device, r.host, 4, cudaMemcpyHostToDevice), cudaSuccess);
        assert_int_equal(seen_by_others(&r), 0x01010101);
        assert_int_equal(cudaMemset(r.device, 2, 4), cudaSuccess);
        assert_int_equal(seen_by_others(&r), lazy ? 0x01010101 : 0x02020202);
        assert_int_equal(cudaMemset(r.device + 1, 3, 4), cudaSuccess);
        assert_int_equal(cudaEventRecord(r.ready, NULL), cudaSuccess);
        assert_int_equal(cudaStreamWaitEvent(r.down, r.ready, 0), cudaSuccess);
        assert_int_equal(seen_by_others(&r), 0x02020202);
        assert_int_equal(cudaMemcpy(r.device, r.device + 1, 4, cudaMemcpyDeviceToDevice), cudaSuccess);
        assert_int_equal(seen_by_others(&r), lazy ? 0x02020202 : 0x03030303);
        assert_int_equal(cudaMemcpy(r.device, &source, 4, cudaMemcpyHostToDevice), cudaSuccess);
        source = 0;
        assert_int_equal(seen_by_others(&r), lazy ? 0x03030303 : 0x07070707); /* the copy before it has run */
        assert_int_equal(cudaMemcpy(&source, r.device + 1, 4, cudaMemcpyDeviceToHost), cudaSuccess);
        assert_int_equal(source, 0x03030303);
        assert_int_equal(seen_by_others(&r), 0x07070707);
        assert_int_equal(cudaMemset(r.device, 4, 4), cudaSuccess);
        assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
        assert_int_equal(seen_by_others(&r), 0x04040404);
        rig_release(&r);
        assert_no_leak();
    }
}

#endif

/* Only what is waited for runs: the download does not drag the rest of the upload stream along. */
static void test_lazy_runs_no_more_than_asked(void **state)
{
    (void)state;
    struct rig r;
    start(true);
    assert_int_equal(rig_init(&r), cudaSuccess);
    assert_int_equal(rig_copy(&r), cudaSuccess);
    assert_int_equal(cudaMemsetAsync(r.device + N_ELEMS, 0, sizeof *r.device, r.up), cudaSuccess);
    assert_int_equal(cudaEventQuery(r.ready), cudaErrorNotReady);
    assert_int_equal(cudaGetLastError(), cudaErrorNotReady);
    assert_int_equal(cudaStreamSynchronize(r.down), cudaSuccess);
    assert_true(rig_arrived(&r));
    assert_int_equal(cudaEventQuery(r.ready), cudaSuccess);
    assert_int_equal(cudaStreamQuery(r.up), cudaErrorNotReady);
    assert_int_equal(cudaStreamQuery(r.up), cudaSuccess);
    assert_int_equal(cudaMemcpy(r.back, r.device + N_ELEMS, sizeof *r.back, cudaMemcpyDeviceToHost), cudaSuccess);
    assert_int_equal(r.back[0], 0);
    rig_release(&r);
    assert_no_leak();
}

/* A wait is for the recording that was the latest when the wait was submitted; a query is about the latest. */
static void test_event_recorded_again(void **state)
{
    (void)state;
    struct rig r;
    int value = 0;
    start(true);
    assert_int_equal(rig_init(&r), cudaSuccess);
    assert_int_equal(cudaEventQuery(r.ready), cudaSuccess); /* never recorded */
    assert_int_equal(cudaMemsetAsync(r.device, 1, 4, r.up), cudaSuccess);
    assert_int_equal(cudaEventRecord(r.ready, r.up), cudaSuccess);
    assert_int_equal(cudaStreamWaitEvent(r.down, r.ready, 0), cudaSuccess);
    assert_int_equal(cudaMemcpyAsync(r.back, r.device, 4, cudaMemcpyDeviceToHost, r.down), cudaSuccess);
    assert_int_equal(cudaMemsetAsync(r.device + 1, 2, 4, r.up), cudaSuccess);
    assert_int_equal(cudaEventRecord(r.ready, r.up), cudaSuccess);
    assert_int_equal(cudaStreamSynchronize(r.down), cudaSuccess);
    assert_int_equal(r.back[0], 0x01010101);
    assert_int_equal(cudaEventQuery(r.ready), cudaErrorNotReady);
    assert_int_equal(cudaEventSynchronize(r.ready), cudaSuccess);
    assert_int_equal(cudaMemcpy(&value, r.device + 1, 4, cudaMemcpyDeviceToHost), cudaSuccess);
    assert_int_equal(value, 0x02020202);
    rig_release(&r);
    assert_no_leak();
}

static void test_small_device(void **state)
{
    (void)state;
    void *a = NULL, *b = NULL;
    size_t n_free, n_total;
    start(false);
    assert_int_equal(cudaMalloc(&a, 1000 * 1024), cudaSuccess);
    assert_int_equal(cudaMalloc(&b, 100 * 1024), cudaErrorMemoryAllocation);
    assert_null(b);
    assert_int_equal(cudaGetLastError(), cudaErrorMemoryAllocation);
    assert_int_equal(cudaGetLastError(), cudaSuccess); /* not sticky */
    assert_int_equal(cudaMemGetInfo(&n_free, &n_total), cudaSuccess);
    assert_int_equal(n_total, 1 << 20);
    assert_int_equal(n_free, 24 * 1024);
    assert_int_equal(cudaSetDevice(1), cudaSuccess);
    assert_int_equal(cudaMalloc(&b, 100 * 1024), cudaSuccess); /* the other device has memory of its own */
    struct cuda_on_cpu_live live;
    cuda_on_cpu_get_live(1, &live);
    assert_int_equal(live.device_bytes, 100 * 1024);
    assert_int_equal(cuda_on_cpu_leaks(NULL, 0), 2);
    assert_int_equal(cudaFree(a), cudaSuccess);
    assert_int_equal(cudaFree(a), cudaErrorInvalidValue);
    assert_int_equal(cudaFree(b), cudaSuccess);
    assert_no_leak();
}

static void test_refused_arguments(void **state)
{
    (void)state;
    struct rig r;
    int pageable[N_ELEMS] = {0};
    void *p = NULL;
    cudaStream_t stream;
    start(false);
    assert_int_equal(rig_init(&r), cudaSuccess);
    size_t n_bytes = N_ELEMS * sizeof *r.host;
    const struct {
        void *to;
        const void *from;
        size_t n_bytes;
        enum cudaMemcpyKind kind;
        cudaError_t expected;
    } copies[] = {
        {r.device, r.host, n_bytes, cudaMemcpyHostToDevice, cudaSuccess},
        {r.device, r.host, n_bytes, cudaMemcpyDefault, cudaSuccess},
        {r.device, pageable, n_bytes, cudaMemcpyHostToDevice, cudaSuccess},
        {r.device, r.host, n_bytes + 1, cudaMemcpyHostToDevice, cudaErrorInvalidValue},
        {r.device + 2, r.host, n_bytes, cudaMemcpyHostToDevice, cudaErrorInvalidValue},
        {r.host, r.device, n_bytes, cudaMemcpyHostToDevice, cudaErrorInvalidValue},
        {r.device, r.host, n_bytes, cudaMemcpyDeviceToHost, cudaErrorInvalidValue},
        {r.back, r.host, n_bytes, cudaMemcpyDeviceToHost, cudaErrorInvalidValue},
        {r.device, NULL, n_bytes, cudaMemcpyHostToDevice, cudaErrorInvalidValue},
        {NULL, NULL, 0, cudaMemcpyHostToDevice, cudaSuccess},
    };
    for (size_t i = 0; i < sizeof copies / sizeof copies[0]; i++)
        assert_int_equal(cudaMemcpyAsync(copies[i].to, copies[i].from, copies[i].n_bytes, copies[i].kind, r.up),
                         copies[i].expected);
    struct cuda_on_cpu_counts n;
    cuda_on_cpu_get_counts(&n);
    assert_int_equal(n.pageable_copies, 1);
    assert_int_equal(cudaMemsetAsync(r.host, 0, 4, r.up), cudaErrorInvalidValue);
    assert_int_equal(cudaStreamCreateWithFlags(&stream, cudaStreamDefault), cudaErrorNotSupported);
    assert_int_equal(cudaSetDevice(2), cudaErrorInvalidDevice);
    assert_int_equal(cudaStreamSynchronize((cudaStream_t)&r), cudaErrorInvalidResourceHandle);
    assert_int_equal(cudaFree(r.host), cudaErrorInvalidValue);
    assert_int_equal(cudaFreeHost(r.device), cudaErrorInvalidValue);
    assert_int_equal(cudaMalloc(&p, 0), cudaSuccess);
    assert_null(p);
    assert_int_equal(cudaFree(NULL), cudaSuccess);
    assert_int_equal(cudaSetDevice(1), cudaSuccess);
    cudaEvent_t event;
    assert_int_equal(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
    assert_int_equal(cudaEventRecord(event, r.up), cudaErrorInvalidResourceHandle); /* of another device */
    assert_int_equal(cudaEventDestroy(event), cudaSuccess);
    rig_release(&r);
    assert_no_leak();
}

/* Every call of the pipeline fails in turn, with an error that passes and with one that stays: no leak, and an error is
 * reported before anybody could take the result for good. */
static void test_every_call_fails(void **state)
{
    (void)state;
    static const int codes[] = {cudaErrorMemoryAllocation, cudaErrorIllegalAddress};
    for (int lazy = 0; lazy < 2; lazy++)
        for (size_t c = 0; c < sizeof codes / sizeof codes[0]; c++)
            for (uint64_t nth = 1;; nth++) {
                struct cuda_on_cpu_config config = config_with(lazy);
                struct cuda_on_cpu_counts n;
                struct rig r;
                config.fail_at = nth;
                config.fail_code = codes[c];
                cuda_on_cpu_configure(&config);
                cudaError_t e = rig_init(&r);
                if (!e)
                    e = rig_copy(&r);
                if (!e)
                    e = cudaStreamSynchronize(r.down);
                cuda_on_cpu_get_counts(&n);
                bool failed = n.calls >= nth;
                assert_int_equal(e, failed ? codes[c] : cudaSuccess);
                if (!failed)
                    assert_true(rig_arrived(&r));
                rig_release(&r);
                assert_no_leak();
                if (!failed) {
                    assert_true(nth > 10);
                    break;
                }
            }
}

static void test_sticky_error(void **state)
{
    (void)state;
    struct rig r;
    struct cuda_on_cpu_counts n;
    int device = -1;
    void *p = NULL;
    start(true);
    assert_int_equal(rig_init(&r), cudaSuccess);
    memset(r.back, 0x55, sizeof *r.back);
    assert_int_equal(rig_copy(&r), cudaSuccess);
    cuda_on_cpu_fail_at(1, cudaErrorECCUncorrectable, 0);
    assert_int_equal(cudaMemsetAsync(r.device, 0, 4, r.up), cudaErrorECCUncorrectable);
    assert_int_equal(cudaGetLastError(), cudaErrorECCUncorrectable);
    assert_int_equal(cudaStreamSynchronize(r.down), cudaErrorECCUncorrectable);
    assert_int_equal(r.back[0], 0x55555555); /* what was queued never ran */
    cuda_on_cpu_get_counts(&n);
    assert_int_equal(n.operations_dropped, 2);
    assert_int_equal(cudaMalloc(&p, 16), cudaErrorECCUncorrectable);
    assert_int_equal(cudaSetDevice(1), cudaSuccess); /* the other device lives */
    assert_int_equal(cudaMalloc(&p, 16), cudaSuccess);
    assert_int_equal(cudaFree(p), cudaSuccess);
    assert_int_equal(cudaSetDevice(0), cudaErrorECCUncorrectable);
    assert_int_equal(cudaGetDevice(&device), cudaSuccess);
    assert_int_equal(device, 0);
    assert_int_equal(cudaFreeHost(r.host), cudaErrorECCUncorrectable);
    assert_int_equal(cudaFreeHost(r.back), cudaErrorECCUncorrectable);
    assert_int_equal(cudaDeviceReset(), cudaSuccess);
    assert_int_equal(cudaMalloc(&p, 16), cudaSuccess);
    assert_int_equal(cudaFree(p), cudaSuccess);
    assert_no_leak();
}

/* A reset ends one device: what is queued there never runs. The other one and page-locked memory stay. */
static void test_reset(void **state)
{
    (void)state;
    struct rig r;
    struct cuda_on_cpu_counts n;
    struct cuda_on_cpu_live live;
    void *p = NULL;
    start(true);
    assert_int_equal(cudaSetDevice(1), cudaSuccess);
    assert_int_equal(cudaMalloc(&p, 16), cudaSuccess);
    assert_int_equal(rig_init(&r), cudaSuccess);
    memset(r.back, 0x55, sizeof *r.back);
    assert_int_equal(rig_copy(&r), cudaSuccess);
    assert_int_equal(cudaDeviceReset(), cudaSuccess);
    assert_int_equal(r.back[0], 0x55555555);
    cuda_on_cpu_get_counts(&n);
    assert_int_equal(n.operations_dropped, 2);
    cuda_on_cpu_get_live(0, &live);
    assert_int_equal(live.device_buffers + live.streams + live.events, 0);
    cuda_on_cpu_get_live(-1, &live);
    assert_int_equal(live.device_buffers, 1);
    assert_int_equal(live.pinned_buffers, 2);
    assert_int_equal(cudaFreeHost(r.host), cudaSuccess);
    assert_int_equal(cudaFreeHost(r.back), cudaSuccess);
    assert_int_equal(cudaSetDevice(1), cudaSuccess);
    assert_int_equal(cudaFree(p), cudaSuccess);
    assert_no_leak();
}

/* What ends a context on hardware stays until the reset; the rest is over with the call. */
static void test_which_errors_stay(void **state)
{
    (void)state;
    static const struct {
        int code;
        bool stays;
    } cases[] = {
        {cudaErrorMemoryAllocation, false},
        {cudaErrorInvalidValue, false},
        {cudaErrorLaunchOutOfResources, false},
        {cudaErrorNotReady, false},
        {cudaErrorECCUncorrectable, true},
        {cudaErrorIllegalAddress, true},
        {cudaErrorLaunchTimeout, true},
        {cudaErrorAssert, true},
        {cudaErrorHardwareStackError, true},
        {cudaErrorIllegalInstruction, true},
        {cudaErrorMisalignedAddress, true},
        {cudaErrorInvalidAddressSpace, true},
        {cudaErrorInvalidPc, true},
        {cudaErrorLaunchFailure, true},
        {cudaErrorUnknown, true},
    };
    start(false);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t n_free, n_total;
        cuda_on_cpu_fail_at(2, cases[i].code, 0);
        assert_int_equal(cudaMemGetInfo(&n_free, &n_total), cudaSuccess);
        assert_int_equal(cudaMemGetInfo(&n_free, &n_total), cases[i].code);
        assert_int_equal(cudaMemGetInfo(&n_free, &n_total), cases[i].stays ? cases[i].code : cudaSuccess);
        assert_int_equal(cudaDeviceReset(), cudaSuccess);
        assert_int_equal(cudaMemGetInfo(&n_free, &n_total), cudaSuccess);
        assert_string_not_equal(cudaGetErrorName((cudaError_t)cases[i].code), "unrecognized error code");
    }
}

/* Work of another library, which is ready when somebody says so. */
struct foreign {
    bool ready;
    int n_run, n_dropped;
};

static bool foreign_ready(void *data)
{
    return __atomic_load_n(&((struct foreign *)data)->ready, __ATOMIC_ACQUIRE);
}

static void foreign_run(void *data)
{
    ((struct foreign *)data)->n_run++;
}

static void foreign_drop(void *data)
{
    ((struct foreign *)data)->n_dropped++;
}

static void *foreign_release(void *data)
{
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    __atomic_store_n(&((struct foreign *)data)->ready, true, __ATOMIC_RELEASE);
    return NULL;
}

/* Until it is ready, what comes after it waits, on this stream and on those that wait for this one: questions say so,
 * waits wait. */
static void test_foreign_work_holds_up(void **state)
{
    (void)state;
    for (int lazy = 0; lazy < 2; lazy++) {
        struct foreign f = {0};
        struct cuda_on_cpu_work work = {foreign_ready, foreign_run, foreign_drop, &f};
        cudaEvent_t after;
        pthread_t thread;
        struct rig r;
        start(lazy);
        assert_int_equal(rig_init(&r), cudaSuccess);
        assert_int_equal(cudaEventCreateWithFlags(&after, cudaEventDisableTiming), cudaSuccess);
        assert_int_equal(cuda_on_cpu_submit(r.up, 1, &work), cudaErrorInvalidResourceHandle);
        assert_int_equal(cuda_on_cpu_submit(r.up, 0, &work), cudaSuccess);
        assert_int_equal(rig_copy(&r), cudaSuccess);
        assert_int_equal(cudaEventRecord(after, r.down), cudaSuccess);
        for (int i = 0; i < 4; i++) {
            assert_int_equal(cudaEventQuery(after), cudaErrorNotReady);
            assert_int_equal(cudaStreamQuery(r.up), cudaErrorNotReady);
        }
        assert_false(rig_arrived(&r));
        assert_int_equal(pthread_create(&thread, NULL, foreign_release, &f), 0);
        assert_int_equal(lazy ? cudaEventSynchronize(after) : cudaDeviceSynchronize(), cudaSuccess);
        assert_true(rig_arrived(&r));
        assert_int_equal(f.n_run, 1);
        assert_int_equal(f.n_dropped, 1);
        pthread_join(thread, NULL);
        assert_int_equal(cudaEventDestroy(after), cudaSuccess);
        rig_release(&r);
        assert_no_leak();
    }
}

static void test_no_device(void **state)
{
    (void)state;
    for (int n_devices = -1; n_devices <= 0; n_devices++) {
        struct cuda_on_cpu_config c = cuda_on_cpu_default();
        cudaError_t expected = n_devices < 0 ? cudaErrorInsufficientDriver : cudaErrorNoDevice;
        int n = 7, version = 7;
        void *p = NULL;
        c.n_devices = n_devices;
        cuda_on_cpu_configure(&c);
        assert_int_equal(cudaGetDeviceCount(&n), expected);
        assert_int_equal(n, 0);
        assert_int_equal(cudaMalloc(&p, 16), expected);
        assert_int_equal(cudaFree(NULL), expected);
        assert_int_equal(cudaDriverGetVersion(&version), cudaSuccess);
        assert_int_equal(version == 0, n_devices < 0);
    }
}

static void *run_rig(void *device)
{
    int d = *(int *)device;
    for (int i = 0; i < 20; i++) {
        cudaStream_t stream;
        int *host, *memory;
        if (cudaSetDevice(d) || cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) ||
            cudaMallocHost((void **)&host, 64) || cudaMalloc((void **)&memory, 64) ||
            cudaMemsetAsync(memory, d + 1, 64, stream) ||
            cudaMemcpyAsync(host, memory, 64, cudaMemcpyDeviceToHost, stream) || cudaStreamSynchronize(stream))
            return NULL;
        bool right = host[15] == (d + 1) * 0x01010101;
        if (cudaFree(memory) || cudaFreeHost(host) || cudaStreamDestroy(stream) || !right)
            return NULL;
    }
    return device;
}

static void test_a_thread_a_device(void **state)
{
    (void)state;
    for (int lazy = 0; lazy < 2; lazy++) {
        pthread_t threads[2];
        int devices[2] = {0, 1};
        void *result;
        start(lazy);
        for (int i = 0; i < 2; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, run_rig, &devices[i]), 0);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(pthread_join(threads[i], &result), 0);
            assert_ptr_equal(result, &devices[i]);
        }
        assert_no_leak();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copies_under_both_policies),
        cmocka_unit_test(test_pageable_copies_arrive_in_turn),
#ifndef __SANITIZE_THREAD__
        cmocka_unit_test(test_the_null_stream),
#endif
        cmocka_unit_test(test_lazy_runs_no_more_than_asked),
        cmocka_unit_test(test_event_recorded_again),
        cmocka_unit_test(test_small_device),
        cmocka_unit_test(test_refused_arguments),
        cmocka_unit_test(test_every_call_fails),
        cmocka_unit_test(test_sticky_error),
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_which_errors_stay),
        cmocka_unit_test(test_foreign_work_holds_up),
        cmocka_unit_test(test_no_device),
        cmocka_unit_test(test_a_thread_a_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
