/*
 * cuda_runtime.h: the device side of CUDA for g++ and clang, so that an unchanged .cu file runs on the CPU in tests.
 *
 * What lives here: keywords, vector types, indices, barriers, warp primitives, atomics and integer maths under CUDA's
 * names, each a thin layer over the scheduler (fibers.cpp). Overloads are those of CUDA and no more: what compiles here
 * is meant to compile under nvcc. Left out on purpose: __activemask, implicit-mask shuffles, approximate maths
 * (__expf, rsqrtf), whose results differ from the CPU's. What it must not know: how threads take turns.
 */
#ifndef CUDA_ON_CPU_RUNTIME_H
#define CUDA_ON_CPU_RUNTIME_H

#include "cuda_runtime_api.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#ifndef CUDA_ON_CPU
#error "compile with -DCUDA_ON_CPU (wm_cuda_on_cpu_library does)"
#endif

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __launch_bounds__(...)
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n)    __attribute__((aligned(n)))
/* Its own section, so that the scheduler can refill it with 0xFF before each block. g++ ignores the attribute in
 * templates and inline functions: shared arrays there are not refilled. */
#define __shared__ static __attribute__((section("cuda_on_cpu_shared")))

#define CUDA_ON_CPU_VECTOR(type, base, n_aligned)                                                                      \
    struct __attribute__((aligned(n_aligned))) type##2                                                                 \
    {                                                                                                                  \
        base x, y;                                                                                                     \
    };                                                                                                                 \
    struct type##3                                                                                                     \
    {                                                                                                                  \
        base x, y, z;                                                                                                  \
    };                                                                                                                 \
    static inline type##2 make_##type##2(base x, base y)                                                               \
    {                                                                                                                  \
        return {x, y};                                                                                                 \
    }                                                                                                                  \
    static inline type##3 make_##type##3(base x, base y, base z)                                                       \
    {                                                                                                                  \
        return {x, y, z};                                                                                              \
    }
#define CUDA_ON_CPU_VECTOR4(type, base, n_aligned)                                                                     \
    struct __attribute__((aligned(n_aligned))) type##4                                                                 \
    {                                                                                                                  \
        base x, y, z, w;                                                                                               \
    };                                                                                                                 \
    static inline type##4 make_##type##4(base x, base y, base z, base w)                                               \
    {                                                                                                                  \
        return {x, y, z, w};                                                                                           \
    }
CUDA_ON_CPU_VECTOR(char, signed char, 2)
CUDA_ON_CPU_VECTOR4(char, signed char, 4)
CUDA_ON_CPU_VECTOR(uchar, unsigned char, 2)
CUDA_ON_CPU_VECTOR4(uchar, unsigned char, 4)
CUDA_ON_CPU_VECTOR(short, short, 4)
CUDA_ON_CPU_VECTOR4(short, short, 8)
CUDA_ON_CPU_VECTOR(ushort, unsigned short, 4)
CUDA_ON_CPU_VECTOR4(ushort, unsigned short, 8)
CUDA_ON_CPU_VECTOR(int, int, 8)
CUDA_ON_CPU_VECTOR4(int, int, 16)
CUDA_ON_CPU_VECTOR(uint, unsigned int, 8)
CUDA_ON_CPU_VECTOR4(uint, unsigned int, 16)
CUDA_ON_CPU_VECTOR(longlong, long long, 16)
CUDA_ON_CPU_VECTOR(ulonglong, unsigned long long, 16)
CUDA_ON_CPU_VECTOR(float, float, 8)
CUDA_ON_CPU_VECTOR4(float, float, 16)
CUDA_ON_CPU_VECTOR(double, double, 16)
#undef CUDA_ON_CPU_VECTOR
#undef CUDA_ON_CPU_VECTOR4

struct dim3 {
    unsigned int x, y, z;
    constexpr dim3(unsigned int vx = 1, unsigned int vy = 1, unsigned int vz = 1) : x(vx), y(vy), z(vz) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

namespace cuda_on_cpu
{

/* Constant for as long as one thread of the kernel runs, which is all that the compiler sees at once. */
__attribute__((const)) uint3 thread_index();
__attribute__((const)) uint3 block_index();
__attribute__((const)) dim3 block_size();
__attribute__((const)) dim3 grid_size();
void *dynamic_shared();
void fence();

enum class Barrier { plain, count, any, all };
int block_barrier(Barrier kind, int predicate, const char *file, int line);

enum class Warp { sync, shuffle, shuffle_up, shuffle_down, shuffle_xor, ballot, reduce };
/* Returns the value that the lane asked for; with all set, every lane's value instead (index: lane). */
uint64_t warp(Warp operation, unsigned mask, uint64_t value, int lane, int width, uint64_t *all, const char *file,
              int line);
unsigned lane_index();

[[noreturn]] __attribute__((format(printf, 3, 4))) void report(const char *file, int line, const char *format, ...);

template <typename T> uint64_t bits_of(T value)
{
    static_assert(std::is_arithmetic<T>::value && (sizeof(T) == 4 || sizeof(T) == 8), "shuffles move 32 or 64 bits");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    return bits;
}

template <typename T> T from_bits(uint64_t bits)
{
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

} // namespace cuda_on_cpu

#define threadIdx (cuda_on_cpu::thread_index())
#define blockIdx  (cuda_on_cpu::block_index())
#define blockDim  (cuda_on_cpu::block_size())
#define gridDim   (cuda_on_cpu::grid_size())
static constexpr int warpSize = 32;

/* The place of a call, taken where the kernel makes it. */
#define CUDA_ON_CPU_HERE   const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define CUDA_ON_CPU_INLINE static inline __attribute__((always_inline, unused))

CUDA_ON_CPU_INLINE void __syncthreads(CUDA_ON_CPU_HERE)
{
    cuda_on_cpu::block_barrier(cuda_on_cpu::Barrier::plain, 0, file, line);
}
CUDA_ON_CPU_INLINE int __syncthreads_count(int predicate, CUDA_ON_CPU_HERE)
{
    return cuda_on_cpu::block_barrier(cuda_on_cpu::Barrier::count, predicate, file, line);
}
CUDA_ON_CPU_INLINE int __syncthreads_or(int predicate, CUDA_ON_CPU_HERE)
{
    return cuda_on_cpu::block_barrier(cuda_on_cpu::Barrier::any, predicate, file, line);
}
CUDA_ON_CPU_INLINE int __syncthreads_and(int predicate, CUDA_ON_CPU_HERE)
{
    return cuda_on_cpu::block_barrier(cuda_on_cpu::Barrier::all, predicate, file, line);
}

CUDA_ON_CPU_INLINE void __threadfence()
{
    cuda_on_cpu::fence();
}
CUDA_ON_CPU_INLINE void __threadfence_block()
{
    cuda_on_cpu::fence();
}

CUDA_ON_CPU_INLINE void __syncwarp(unsigned mask = 0xffffffffu, CUDA_ON_CPU_HERE)
{
    cuda_on_cpu::warp(cuda_on_cpu::Warp::sync, mask, 0, 0, 32, nullptr, file, line);
}
template <typename T> static inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32, CUDA_ON_CPU_HERE)
{
    using namespace cuda_on_cpu;
    return from_bits<T>(warp(Warp::shuffle, mask, bits_of(value), lane, width, nullptr, file, line));
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_HERE)
{
    using namespace cuda_on_cpu;
    return from_bits<T>(warp(Warp::shuffle_up, mask, bits_of(value), (int)delta, width, nullptr, file, line));
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_HERE)
{
    using namespace cuda_on_cpu;
    return from_bits<T>(warp(Warp::shuffle_down, mask, bits_of(value), (int)delta, width, nullptr, file, line));
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, CUDA_ON_CPU_HERE)
{
    using namespace cuda_on_cpu;
    return from_bits<T>(warp(Warp::shuffle_xor, mask, bits_of(value), lanes, width, nullptr, file, line));
}
CUDA_ON_CPU_INLINE unsigned __ballot_sync(unsigned mask, int predicate, CUDA_ON_CPU_HERE)
{
    return (unsigned)cuda_on_cpu::warp(cuda_on_cpu::Warp::ballot, mask, predicate != 0, 0, 32, nullptr, file, line);
}
CUDA_ON_CPU_INLINE int __any_sync(unsigned mask, int predicate, CUDA_ON_CPU_HERE)
{
    return __ballot_sync(mask, predicate, file, line) != 0;
}
CUDA_ON_CPU_INLINE int __all_sync(unsigned mask, int predicate, CUDA_ON_CPU_HERE)
{
    return __ballot_sync(mask, predicate, file, line) == mask;
}
unsigned __activemask() = delete; /* what it answers depends on the hardware's schedule: write the mask down */

#define CUDA_ON_CPU_REDUCE(name, type, expression)                                                                     \
    static inline type name(unsigned mask, type value, CUDA_ON_CPU_HERE)                                               \
    {                                                                                                                  \
        uint64_t all[32];                                                                                              \
        cuda_on_cpu::warp(cuda_on_cpu::Warp::reduce, mask, cuda_on_cpu::bits_of(value), 0, 32, all, file, line);       \
        unsigned first = (unsigned)__builtin_ctz(mask);                                                                \
        type a = cuda_on_cpu::from_bits<type>(all[first]);                                                             \
        for (unsigned i = first + 1; i < 32; i++) {                                                                    \
            if (!(mask >> i & 1))                                                                                      \
                continue;                                                                                              \
            type b = cuda_on_cpu::from_bits<type>(all[i]);                                                             \
            a = expression;                                                                                            \
        }                                                                                                              \
        return a;                                                                                                      \
    }
CUDA_ON_CPU_REDUCE(__reduce_add_sync, unsigned, a + b)
CUDA_ON_CPU_REDUCE(__reduce_add_sync, int, (int)((unsigned)a + (unsigned)b))
CUDA_ON_CPU_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
CUDA_ON_CPU_REDUCE(__reduce_min_sync, int, a < b ? a : b)
CUDA_ON_CPU_REDUCE(__reduce_max_sync, unsigned, a > b ? a : b)
CUDA_ON_CPU_REDUCE(__reduce_max_sync, int, a > b ? a : b)
CUDA_ON_CPU_REDUCE(__reduce_or_sync, unsigned, a | b)
CUDA_ON_CPU_REDUCE(__reduce_and_sync, unsigned, a &b)
CUDA_ON_CPU_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
#undef CUDA_ON_CPU_REDUCE

/* Atomics are relaxed, as on hardware: they order nothing else. */
#define CUDA_ON_CPU_ATOMIC(name, type, expression)                                                                     \
    static inline type name(type *address, type value)                                                                 \
    {                                                                                                                  \
        type old = cuda_on_cpu::atomic_load(address);                                                                  \
        for (;;) {                                                                                                     \
            type wanted = (expression);                                                                                \
            if (cuda_on_cpu::atomic_exchange_if(address, &old, wanted))                                                \
                return old;                                                                                            \
        }                                                                                                              \
    }

namespace cuda_on_cpu
{
template <typename T> T atomic_load(const T *address)
{
    T value;
    __atomic_load(address, &value, __ATOMIC_RELAXED);
    return value;
}
template <typename T> bool atomic_exchange_if(T *address, T *expected, T wanted)
{
    return __atomic_compare_exchange(address, expected, &wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}
} // namespace cuda_on_cpu

CUDA_ON_CPU_ATOMIC(atomicAdd, int, (int)((unsigned)old + (unsigned)value))
CUDA_ON_CPU_ATOMIC(atomicAdd, unsigned, old + value)
CUDA_ON_CPU_ATOMIC(atomicAdd, unsigned long long, old + value)
CUDA_ON_CPU_ATOMIC(atomicAdd, float, old + value)
CUDA_ON_CPU_ATOMIC(atomicAdd, double, old + value)
CUDA_ON_CPU_ATOMIC(atomicSub, int, (int)((unsigned)old - (unsigned)value))
CUDA_ON_CPU_ATOMIC(atomicSub, unsigned, old - value)
CUDA_ON_CPU_ATOMIC(atomicExch, int, value)
CUDA_ON_CPU_ATOMIC(atomicExch, unsigned, value)
CUDA_ON_CPU_ATOMIC(atomicExch, unsigned long long, value)
CUDA_ON_CPU_ATOMIC(atomicExch, float, value)
CUDA_ON_CPU_ATOMIC(atomicMax, int, old > value ? old : value)
CUDA_ON_CPU_ATOMIC(atomicMax, unsigned, old > value ? old : value)
CUDA_ON_CPU_ATOMIC(atomicMax, long long, old > value ? old : value)
CUDA_ON_CPU_ATOMIC(atomicMax, unsigned long long, old > value ? old : value)
CUDA_ON_CPU_ATOMIC(atomicMin, int, old < value ? old : value)
CUDA_ON_CPU_ATOMIC(atomicMin, unsigned, old < value ? old : value)
CUDA_ON_CPU_ATOMIC(atomicMin, long long, old < value ? old : value)
CUDA_ON_CPU_ATOMIC(atomicMin, unsigned long long, old < value ? old : value)
CUDA_ON_CPU_ATOMIC(atomicOr, int, old | value)
CUDA_ON_CPU_ATOMIC(atomicOr, unsigned, old | value)
CUDA_ON_CPU_ATOMIC(atomicOr, unsigned long long, old | value)
CUDA_ON_CPU_ATOMIC(atomicAnd, int, old &value)
CUDA_ON_CPU_ATOMIC(atomicAnd, unsigned, old &value)
CUDA_ON_CPU_ATOMIC(atomicAnd, unsigned long long, old &value)
CUDA_ON_CPU_ATOMIC(atomicXor, int, old ^ value)
CUDA_ON_CPU_ATOMIC(atomicXor, unsigned, old ^ value)
CUDA_ON_CPU_ATOMIC(atomicXor, unsigned long long, old ^ value)
CUDA_ON_CPU_ATOMIC(atomicInc, unsigned, old >= value ? 0 : old + 1)
CUDA_ON_CPU_ATOMIC(atomicDec, unsigned, old == 0 || old > value ? value : old - 1)
#undef CUDA_ON_CPU_ATOMIC

#define CUDA_ON_CPU_CAS(type)                                                                                          \
    static inline type atomicCAS(type *address, type expected, type wanted)                                            \
    {                                                                                                                  \
        cuda_on_cpu::atomic_exchange_if(address, &expected, wanted);                                                   \
        return expected;                                                                                               \
    }
CUDA_ON_CPU_CAS(int)
CUDA_ON_CPU_CAS(unsigned)
CUDA_ON_CPU_CAS(unsigned long long)
CUDA_ON_CPU_CAS(unsigned short)
#undef CUDA_ON_CPU_CAS

/* Loads and stores with a cache hint: the hint has no meaning here, the alignment has (UBSan checks it). */
template <typename T> static inline T __ldg(const T *address)
{
    return *address;
}
template <typename T> static inline T __ldca(const T *address)
{
    return *address;
}
template <typename T> static inline T __ldcg(const T *address)
{
    return *address;
}
template <typename T> static inline T __ldcs(const T *address)
{
    return *address;
}
template <typename T> static inline T __ldlu(const T *address)
{
    return *address;
}
template <typename T> static inline T __ldcv(const T *address)
{
    return *address;
}
template <typename T> static inline void __stwb(T *address, T value)
{
    *address = value;
}
template <typename T> static inline void __stcg(T *address, T value)
{
    *address = value;
}
template <typename T> static inline void __stcs(T *address, T value)
{
    *address = value;
}
template <typename T> static inline void __stwt(T *address, T value)
{
    *address = value;
}

CUDA_ON_CPU_INLINE int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
CUDA_ON_CPU_INLINE int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}
CUDA_ON_CPU_INLINE int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
CUDA_ON_CPU_INLINE int __clzll(long long x)
{
    return x ? __builtin_clzll((unsigned long long)x) : 64;
}
CUDA_ON_CPU_INLINE int __ffs(int x)
{
    return __builtin_ffs(x);
}
CUDA_ON_CPU_INLINE int __ffsll(long long x)
{
    return __builtin_ffsll(x);
}
CUDA_ON_CPU_INLINE unsigned __brev(unsigned x)
{
    x = (x & 0x55555555u) << 1 | (x >> 1 & 0x55555555u);
    x = (x & 0x33333333u) << 2 | (x >> 2 & 0x33333333u);
    x = (x & 0x0f0f0f0fu) << 4 | (x >> 4 & 0x0f0f0f0fu);
    return __builtin_bswap32(x);
}
CUDA_ON_CPU_INLINE unsigned long long __brevll(unsigned long long x)
{
    return (unsigned long long)__brev((unsigned)x) << 32 | __brev((unsigned)(x >> 32));
}
CUDA_ON_CPU_INLINE unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((uint64_t)a * b >> 32);
}
CUDA_ON_CPU_INLINE int __mulhi(int a, int b)
{
    return (int)((int64_t)a * b >> 32);
}
CUDA_ON_CPU_INLINE unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
CUDA_ON_CPU_INLINE unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((uint64_t)high << 32 | low) << (shift & 31) >> 32);
}
CUDA_ON_CPU_INLINE unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((uint64_t)high << 32 | low) >> (shift & 31));
}
CUDA_ON_CPU_INLINE unsigned __byte_perm(unsigned a, unsigned b, unsigned selector)
{
    uint64_t bytes = (uint64_t)b << 32 | a;
    unsigned out = 0;
    for (unsigned i = 0; i < 4; i++) {
        unsigned pick = selector >> 4 * i & 0xf;
        unsigned byte = (unsigned)(bytes >> 8 * (pick & 7)) & 0xff;
        if (pick & 8)
            byte = byte & 0x80 ? 0xff : 0;
        out |= byte << 8 * i;
    }
    return out;
}

CUDA_ON_CPU_INLINE unsigned __float_as_uint(float x)
{
    return (unsigned)cuda_on_cpu::bits_of(x);
}
CUDA_ON_CPU_INLINE int __float_as_int(float x)
{
    return (int)cuda_on_cpu::bits_of(x);
}
CUDA_ON_CPU_INLINE float __uint_as_float(unsigned x)
{
    return cuda_on_cpu::from_bits<float>(x);
}
CUDA_ON_CPU_INLINE float __int_as_float(int x)
{
    return cuda_on_cpu::from_bits<float>((unsigned)x);
}
CUDA_ON_CPU_INLINE long long __double_as_longlong(double x)
{
    return (long long)cuda_on_cpu::bits_of(x);
}
CUDA_ON_CPU_INLINE double __longlong_as_double(long long x)
{
    return cuda_on_cpu::from_bits<double>((uint64_t)x);
}

/* Rounded to nearest and never contracted; the build sets -ffp-contract=off. */
CUDA_ON_CPU_INLINE float __fadd_rn(float a, float b)
{
    return a + b;
}
CUDA_ON_CPU_INLINE float __fsub_rn(float a, float b)
{
    return a - b;
}
CUDA_ON_CPU_INLINE float __fmul_rn(float a, float b)
{
    return a * b;
}
CUDA_ON_CPU_INLINE float __fdiv_rn(float a, float b)
{
    return a / b;
}
CUDA_ON_CPU_INLINE float __fsqrt_rn(float a)
{
    return __builtin_sqrtf(a);
}
CUDA_ON_CPU_INLINE float __fmaf_rn(float a, float b, float c)
{
    return __builtin_fmaf(a, b, c);
}
CUDA_ON_CPU_INLINE double __dadd_rn(double a, double b)
{
    return a + b;
}
CUDA_ON_CPU_INLINE double __dsub_rn(double a, double b)
{
    return a - b;
}
CUDA_ON_CPU_INLINE double __dmul_rn(double a, double b)
{
    return a * b;
}
CUDA_ON_CPU_INLINE double __ddiv_rn(double a, double b)
{
    return a / b;
}
CUDA_ON_CPU_INLINE double __dsqrt_rn(double a)
{
    return __builtin_sqrt(a);
}
CUDA_ON_CPU_INLINE double __fma_rn(double a, double b, double c)
{
    return __builtin_fma(a, b, c);
}

#define CUDA_ON_CPU_MIN_MAX(type)                                                                                      \
    CUDA_ON_CPU_INLINE type min(type a, type b)                                                                        \
    {                                                                                                                  \
        return a < b ? a : b;                                                                                          \
    }                                                                                                                  \
    CUDA_ON_CPU_INLINE type max(type a, type b)                                                                        \
    {                                                                                                                  \
        return a > b ? a : b;                                                                                          \
    }
CUDA_ON_CPU_MIN_MAX(int)
CUDA_ON_CPU_MIN_MAX(unsigned)
CUDA_ON_CPU_MIN_MAX(long)
CUDA_ON_CPU_MIN_MAX(unsigned long)
CUDA_ON_CPU_MIN_MAX(long long)
CUDA_ON_CPU_MIN_MAX(unsigned long long)
#undef CUDA_ON_CPU_MIN_MAX
CUDA_ON_CPU_INLINE float min(float a, float b)
{
    return fminf(a, b);
}
CUDA_ON_CPU_INLINE float max(float a, float b)
{
    return fmaxf(a, b);
}
CUDA_ON_CPU_INLINE double min(double a, double b)
{
    return fmin(a, b);
}
CUDA_ON_CPU_INLINE double max(double a, double b)
{
    return fmax(a, b);
}

[[noreturn]] static inline void __trap(CUDA_ON_CPU_HERE)
{
    cuda_on_cpu::report(file, line, "__trap() was reached");
}

/* The toolkit's typed forms of calls that take void pointers. */
template <typename T> static inline cudaError_t cudaMalloc(T **pointer, size_t n_bytes)
{
    return cudaMalloc(reinterpret_cast<void **>(pointer), n_bytes);
}
template <typename T> static inline cudaError_t cudaMallocHost(T **pointer, size_t n_bytes)
{
    return cudaMallocHost(reinterpret_cast<void **>(pointer), n_bytes);
}
template <typename T> static inline cudaError_t cudaHostAlloc(T **pointer, size_t n_bytes, unsigned flags)
{
    return cudaHostAlloc(reinterpret_cast<void **>(pointer), n_bytes, flags);
}
template <typename... P>
static inline cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute attribute, int value)
{
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), attribute, value);
}
template <typename... P>
static inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, void (*kernel)(P...))
{
    return cudaFuncGetAttributes(attributes, reinterpret_cast<const void *>(kernel));
}

#endif
