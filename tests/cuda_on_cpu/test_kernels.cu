/*
 * test_kernels.cu: kernels without bugs get from the shim what CUDA's manual promises: shuffles, votes, atomics,
 * barriers that count, shared memory, indices, and launches refused for their shape.
 *
 * What lives here: tests of the device half of the shim, every value against one computed another way. What it must
 * not know: the machine's policies (test_machine.c).
 */
#include "common/launch.cuh"

#include "cuda_on_cpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

extern "C" {
#include <cmocka.h>
}

static const unsigned FULL = 0xffffffffu;
static const size_t N_OUT = 4096;

/* Launches on a stream of its own and hands the numbers that came out to the test. */
struct Output {
    uint64_t *host, *device;
    cudaStream_t stream;

    Output()
    {
        assert_int_equal(cudaMallocHost(&host, N_OUT * sizeof *host), cudaSuccess);
        assert_int_equal(cudaMalloc(&device, N_OUT * sizeof *device), cudaSuccess);
        assert_int_equal(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
        assert_int_equal(cudaMemsetAsync(device, 0, N_OUT * sizeof *device, stream), cudaSuccess);
    }
    ~Output()
    {
        assert_int_equal(cudaStreamDestroy(stream), cudaSuccess);
        assert_int_equal(cudaFree(device), cudaSuccess);
        assert_int_equal(cudaFreeHost(host), cudaSuccess);
        assert_int_equal(cuda_on_cpu_leaks(nullptr, 0), 0);
    }
    Output(const Output &) = delete;
    Output &operator=(const Output &) = delete;

    void finish(cudaError_t launched)
    {
        assert_int_equal(launched, cudaSuccess);
        assert_int_equal(cudaMemcpyAsync(host, device, N_OUT * sizeof *host, cudaMemcpyDeviceToHost, stream),
                         cudaSuccess);
        assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
    }
};

static __host__ __device__ uint64_t value_of(unsigned lane)
{
    return 0x100000000ull * lane + 1000 - lane;
}

__global__ void all_shuffles(uint64_t *out, int width)
{
    unsigned long long v = value_of(threadIdx.x);
    for (int a = 0; a < 32; a++) {
        uint64_t *row = out + 128 * a + threadIdx.x;
        row[0] = __shfl_up_sync(FULL, v, (unsigned)a, width);
        row[32] = __shfl_down_sync(FULL, v, (unsigned)a, width);
        row[64] = __shfl_xor_sync(FULL, v, a, width);
        row[96] = __shfl_sync(FULL, v, a, width);
    }
}

static void test_shuffles(void **)
{
    for (unsigned width = 1; width <= 32; width *= 2) {
        Output o;
        o.finish(WM_LAUNCH(all_shuffles, 1, 32, 0, o.stream, o.device, (int)width));
        for (unsigned a = 0; a < 32; a++)
            for (unsigned lane = 0; lane < 32; lane++) {
                unsigned within = lane % width, first = lane - within;
                unsigned up = within >= a ? lane - a : lane, down = within + a < width ? lane + a : lane;
                /* A lane of an earlier segment may be read; one of a later segment gives the lane's own value. */
                unsigned xored = (lane ^ a) < first + width ? lane ^ a : lane;
                const uint64_t *row = o.host + 128 * a + lane;
                assert_int_equal(row[0], value_of(up));
                assert_int_equal(row[32], value_of(down));
                assert_int_equal(row[64], value_of(xored));
                assert_int_equal(row[96], value_of(first + a % width));
            }
    }
}

__global__ void votes(uint64_t *out)
{
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned mask = lane < 12 ? 0xfffu : 0xfffff000u;
    uint64_t *mine = out + 8 * threadIdx.x;
    mine[0] = __ballot_sync(mask, lane % 3 == warp);
    mine[1] = (uint64_t)__any_sync(mask, lane == 11);
    mine[2] = (uint64_t)__all_sync(mask, lane >= 12);
    mine[3] = __reduce_add_sync(mask, lane);
    mine[4] = (uint64_t)__reduce_max_sync(mask, -(int)lane);
    mine[5] = __reduce_xor_sync(mask, 1u << lane);
    mine[6] = (uint64_t)__shfl_xor_sync(mask, (double)lane, 1);
    mine[7] = (uint64_t)__shfl_down_sync(FULL, (float)lane, 1u);
}

static void test_votes(void **)
{
    Output o;
    o.finish(WM_LAUNCH(votes, 1, 64, 0, o.stream, o.device));
    for (unsigned t = 0; t < 64; t++) {
        unsigned lane = t % 32, warp = t / 32, ballot = 0, sum = 0;
        unsigned from = lane < 12 ? 0 : 12, to = lane < 12 ? 12 : 32;
        for (unsigned i = from; i < to; i++) {
            ballot |= (unsigned)(i % 3 == warp) << i;
            sum += i;
        }
        const uint64_t *got = o.host + 8 * t;
        assert_int_equal(got[0], ballot);
        assert_int_equal(got[1], lane < 12);
        assert_int_equal(got[2], lane >= 12);
        assert_int_equal(got[3], sum);
        assert_int_equal((int64_t)got[4], -(int64_t)from);
        assert_int_equal(got[5], lane < 12 ? 0xfffu : 0xfffff000u);
        assert_int_equal(got[6], lane ^ 1);
        assert_int_equal(got[7], lane == 31 ? 31 : lane + 1);
    }
}

__global__ void atomics(uint64_t *out)
{
    __shared__ unsigned counter;
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned long long *wide = reinterpret_cast<unsigned long long *>(out);
    if (threadIdx.x == 0) {
        if (counter != 0xffffffffu) /* shared memory starts as NaN in every block */
            atomicAdd(&wide[0], 1000000ull);
        counter = 0;
    }
    __syncthreads();
    atomicAdd(&counter, 1u);
    atomicAdd(&wide[0], (unsigned long long)i);
    atomicMax(&wide[1], (unsigned long long)(i * 7 % 97));
    atomicOr(&wide[2], 1ull << i % 50);
    atomicAdd(reinterpret_cast<double *>(&out[3]), 0.5);
    for (unsigned long long seen = 0, old; (old = atomicCAS(&wide[4], seen, seen + 2)) != seen;)
        seen = old;
    __syncthreads();
    if (threadIdx.x == 0)
        atomicAdd(&wide[5], counter);
    atomicMin(reinterpret_cast<int *>(&out[6]), -(int)i);
}

static void test_atomics(void **)
{
    Output o;
    double halves;
    o.finish(WM_LAUNCH(atomics, 5, 96, 0, o.stream, o.device));
    assert_int_equal(o.host[0], 480 * 479 / 2);
    assert_int_equal(o.host[1], 96);
    assert_int_equal(o.host[2], (1ull << 50) - 1);
    memcpy(&halves, &o.host[3], sizeof halves);
    assert_true(halves == 240.0);
    assert_int_equal(o.host[4], 960);
    assert_int_equal(o.host[5], 480);
    assert_int_equal((int)o.host[6], -479);
}

__global__ void places(uint64_t *out)
{
    unsigned t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    unsigned b = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    int n_even = __syncthreads_count(t % 2 == 0), any = __syncthreads_or(t == 5), all = __syncthreads_and(t != 5);
    out[b * blockDim.x * blockDim.y * blockDim.z + t] += 1 + 10 * (unsigned)n_even + 1000 * any + 10000 * all;
}

static void test_indices_and_counting_barriers(void **)
{
    Output o;
    o.finish(WM_LAUNCH(places, dim3(2, 3, 4), dim3(4, 3, 2), 0, o.stream, o.device));
    for (size_t i = 0; i < 24 * 24; i++)
        assert_int_equal(o.host[i], 1 + 10 * 12 + 1000);
}

/* An identity costs ThreadSanitizer a millisecond. */
#ifdef __SANITIZE_THREAD__
static const unsigned LARGE_BLOCK = 128;
#else
static const unsigned LARGE_BLOCK = 1024;
#endif
static const unsigned N_STAYING = LARGE_BLOCK - 24;

/* Many barriers with live locals on every stack, threads that leave early, and dynamic shared memory. */
__global__ void many_rounds(uint64_t *out, unsigned n_rounds)
{
    WM_DYNAMIC_SHARED(uint64_t, slots);
    uint64_t history[8] = {0};
    if (threadIdx.x >= N_STAYING)
        return;
    slots[threadIdx.x] = threadIdx.x;
    for (unsigned r = 0; r < n_rounds; r++) {
        __syncthreads();
        uint64_t v = slots[(threadIdx.x + 1) % N_STAYING];
        history[r % 8] = v;
        __syncthreads();
        slots[threadIdx.x] = v + 1000;
    }
    out[threadIdx.x] = slots[threadIdx.x] + 1000000 * history[0];
}

static void test_many_barriers(void **)
{
    Output o;
    o.finish(WM_LAUNCH(many_rounds, 1, LARGE_BLOCK, N_STAYING * sizeof(uint64_t), o.stream, o.device, 16u));
    for (uint64_t i = 0; i < N_STAYING; i++)
        assert_int_equal(o.host[i], (i + 16) % N_STAYING + 16 * 1000 + 1000000 * ((i + 9) % N_STAYING + 8 * 1000));
}

__global__ void integer_maths(uint64_t *out, unsigned x, unsigned long long y)
{
    out[0] = (uint64_t)__popc(x);
    out[1] = (uint64_t)__clz((int)x);
    out[2] = (uint64_t)__ffs((int)x);
    out[3] = __brev(x);
    out[4] = __brevll(y);
    out[5] = __umulhi(x, x);
    out[6] = __umul64hi(y, y);
    out[7] = __funnelshift_l(x, 0x12345678u, 8);
    out[8] = __funnelshift_r(x, 0x12345678u, 8);
    out[9] = __byte_perm(x, 0x12345678u, 0x7a40u);
    out[10] = (uint64_t)__clz(0);
    out[11] = __float_as_uint(__uint_as_float(x));
}

static void test_integer_maths(void **)
{
    Output o;
    o.finish(WM_LAUNCH(integer_maths, 1, 1, 0, o.stream, o.device, 0x00f08040u, 0x8000000000000003ull));
    const uint64_t expected[] = {
        6,           8,           7,  0x02010f00u, 0xc000000000000001ull, 0xe1f0, 0x4000000000000003ull, 0x34567800u,
        0x7800f080u, 0x12ff7840u, 32, 0x00f08040u}; /* [9]: bytes 0 and 4, the sign of byte 2, byte 7 */
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++)
        assert_int_equal(o.host[i], expected[i]);
}

__global__ void nothing(uint64_t *) {}

static void test_refused_launches(void **)
{
    Output o;
    const struct {
        dim3 grid, block;
        size_t shared;
        cudaError_t expected;
    } shapes[] = {
        {1, LARGE_BLOCK, 48 << 10, cudaSuccess},
        {1, 1025, 0, cudaErrorInvalidConfiguration},
        {1, dim3(33, 32), 0, cudaErrorInvalidConfiguration},
        {0, 32, 0, cudaErrorInvalidConfiguration},
        {1, 0, 0, cudaErrorInvalidConfiguration},
        {dim3(1, 65536), 32, 0, cudaErrorInvalidConfiguration},
        {dim3(1, 1, 65536), 32, 0, cudaErrorInvalidConfiguration},
        {1, dim3(1, 1, 65), 0, cudaErrorInvalidConfiguration},
        {1, 32, (48 << 10) + 1, cudaErrorInvalidValue},
    };
    for (const auto &s : shapes) {
        assert_int_equal(WM_LAUNCH(nothing, s.grid, s.block, s.shared, o.stream, o.device), s.expected);
        assert_int_equal(cudaGetLastError(), cudaSuccess); /* the launch has taken it */
    }
    assert_int_equal(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 100 << 10),
                     cudaSuccess);
    assert_int_equal(WM_LAUNCH(nothing, 1, 32, 100 << 10, o.stream, o.device), cudaSuccess);
    assert_int_equal(WM_LAUNCH(nothing, 1, 32, (100 << 10) + 1, o.stream, o.device), cudaErrorInvalidValue);
    assert_int_equal(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 << 10),
                     cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    cuda_on_cpu_fail_at(1, cudaErrorLaunchOutOfResources, -1);
    assert_int_equal(WM_LAUNCH(nothing, 1, 32, 0, o.stream, o.device), cudaErrorLaunchOutOfResources);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shuffles),         cmocka_unit_test(test_votes),
        cmocka_unit_test(test_atomics),          cmocka_unit_test(test_indices_and_counting_barriers),
        cmocka_unit_test(test_many_barriers),    cmocka_unit_test(test_integer_maths),
        cmocka_unit_test(test_refused_launches),
    };
    for (int lazy = 0; lazy < 2; lazy++) {
        struct cuda_on_cpu_config c = cuda_on_cpu_default();
        c.lazy_streams = lazy != 0;
        c.order = lazy ? CUDA_ON_CPU_SHUFFLED : CUDA_ON_CPU_FORWARD;
        cuda_on_cpu_configure(&c);
        int n_failed = cmocka_run_group_tests(tests, nullptr, nullptr);
        if (n_failed)
            return n_failed;
    }
    return 0;
}
