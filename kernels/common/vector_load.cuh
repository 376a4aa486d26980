/*
 * vector_load.cuh: tensor elements in and out of registers.
 *
 * What lives here: groups of eight consecutive elements through 16-byte loads and stores (one for 16-bit floats, two
 * for fp32), and single elements of any type at any address. Kernels are templates over a reader or an element type, so
 * that the usual types have no branch in the inner loop. Types are asked for at run time only in the general reader.
 * What it must not know: what is computed.
 */
#ifndef WM_KERNELS_VECTOR_LOAD_CUH
#define WM_KERNELS_VECTOR_LOAD_CUH

#include "common/number_format.h"
#include "warpmerge.h"

#include <cuda_runtime.h>

#include <stddef.h>

#define GROUP_ELEMS 8

static inline size_t group_dtype_bytes(enum wm_dtype dtype)
{
    return dtype == WM_F64 ? 8 : dtype == WM_F32 ? 4 : 2;
}

static inline bool is_vector_aligned(const void *p)
{
    return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

/* ---- single elements at any address ------------------------------------------------------------------------- */

static __device__ inline uint32_t load_u16_any(const unsigned char *p)
{
    if (reinterpret_cast<uintptr_t>(p) % 2 == 0)
        return *reinterpret_cast<const uint16_t *>(p);
    return static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8;
}

static __device__ inline uint32_t load_u32_any(const unsigned char *p)
{
    if (reinterpret_cast<uintptr_t>(p) % 4 == 0)
        return *reinterpret_cast<const uint32_t *>(p);
    return load_u16_any(p) | load_u16_any(p + 2) << 16;
}

static __device__ inline uint64_t load_u64_any(const unsigned char *p)
{
    return static_cast<uint64_t>(load_u32_any(p)) | static_cast<uint64_t>(load_u32_any(p + 4)) << 32;
}

static __device__ inline void store_u16_any(unsigned char *p, uint32_t bits)
{
    if (reinterpret_cast<uintptr_t>(p) % 2 == 0) {
        *reinterpret_cast<uint16_t *>(p) = static_cast<uint16_t>(bits);
        return;
    }
    p[0] = static_cast<unsigned char>(bits);
    p[1] = static_cast<unsigned char>(bits >> 8);
}

static __device__ inline void store_u32_any(unsigned char *p, uint32_t bits)
{
    if (reinterpret_cast<uintptr_t>(p) % 4 == 0) {
        *reinterpret_cast<uint32_t *>(p) = bits;
        return;
    }
    store_u16_any(p, bits & 0xffffu);
    store_u16_any(p + 2, bits >> 16);
}

struct loaded_elem {
    float value;
    bool finite; /* as stored: an f64 beyond fp32's range is finite */
};

static __device__ inline loaded_elem load_elem_any(const void *data, int dtype, size_t i)
{
    const unsigned char *p = static_cast<const unsigned char *>(data);
    if (dtype == WM_BF16) {
        float x = bf16_to_f32(static_cast<uint16_t>(load_u16_any(p + 2 * i)));
        return {x, f32_is_finite(x) != 0};
    }
    if (dtype == WM_F16) {
        float x = f16_to_f32(static_cast<uint16_t>(load_u16_any(p + 2 * i)));
        return {x, f32_is_finite(x) != 0};
    }
    if (dtype == WM_F64) {
        double x = double_from_bits(load_u64_any(p + 8 * i));
        return {f64_to_f32(x), f64_is_finite(x) != 0};
    }
    float x = float_from_bits(load_u32_any(p + 4 * i));
    return {x, f32_is_finite(x) != 0};
}

/* Rounds once, stores, and says whether the stored value is finite. */
static __device__ inline bool store_elem_any(void *data, int dtype, size_t i, float x)
{
    unsigned char *p = static_cast<unsigned char *>(data);
    if (dtype == WM_BF16) {
        uint16_t bits = f32_to_bf16(x);
        store_u16_any(p + 2 * i, bits);
        return f32_is_finite(bf16_to_f32(bits)) != 0;
    }
    if (dtype == WM_F16) {
        uint16_t bits = f32_to_f16(x);
        store_u16_any(p + 2 * i, bits);
        return f32_is_finite(f16_to_f32(bits)) != 0;
    }
    if (dtype == WM_F64) {
        uint64_t bits = double_bits(f32_to_f64(x));
        store_u32_any(p + 8 * i, static_cast<uint32_t>(bits));
        store_u32_any(p + 8 * i + 4, static_cast<uint32_t>(bits >> 32));
        return f32_is_finite(x) != 0;
    }
    store_u32_any(p + 4 * i, float_bits(f32_canonical(x)));
    return f32_is_finite(x) != 0;
}

/* ---- groups of one element type ----------------------------------------------------------------------------- */

static __device__ inline void put_words(uint32_t *words, uint4 v)
{
    words[0] = v.x;
    words[1] = v.y;
    words[2] = v.z;
    words[3] = v.w;
}

static __device__ inline void load_words(const void *data, size_t group, uint32_t (&words)[4])
{
    put_words(words, static_cast<const uint4 *>(data)[group]);
}

static __device__ inline void load_words(const void *data, size_t group, uint32_t (&words)[8])
{
    uint4 v = static_cast<const uint4 *>(data)[2 * group], w = static_cast<const uint4 *>(data)[2 * group + 1];
    put_words(words, v);
    put_words(words + 4, w);
}

static __device__ inline void store_words(void *data, size_t group, const uint32_t (&words)[4])
{
    static_cast<uint4 *>(data)[group] = make_uint4(words[0], words[1], words[2], words[3]);
}

static __device__ inline void store_words(void *data, size_t group, const uint32_t (&words)[8])
{
    static_cast<uint4 *>(data)[2 * group] = make_uint4(words[0], words[1], words[2], words[3]);
    static_cast<uint4 *>(data)[2 * group + 1] = make_uint4(words[4], words[5], words[6], words[7]);
}

/* A 16-bit element: the lower half of a word is set before the upper one. */
static __device__ inline void put_half(uint32_t (&words)[4], int j, uint32_t bits)
{
    words[j / 2] = j % 2 == 0 ? bits : words[j / 2] | bits << 16;
}

/* Each element type: the words of a group, element j of them, and whether a word holds NaN or infinity. An exponent of
 * all ones, and only that, carries into the bit above it. */
struct bf16_elems {
    static const int n_words = 4;
    static const int dtype = WM_BF16;
    static __device__ inline float get(const uint32_t (&words)[4], int j)
    {
        return float_from_bits(j % 2 == 0 ? words[j / 2] << 16 : words[j / 2] & 0xffff0000u);
    }
    static __device__ inline void set(uint32_t (&words)[4], int j, float x) { put_half(words, j, f32_to_bf16(x)); }
    static __device__ inline uint32_t nonfinite(uint32_t word)
    {
        return ((word & 0x7f807f80u) + 0x00800080u) & 0x80008000u;
    }
};

struct f16_elems {
    static const int n_words = 4;
    static const int dtype = WM_F16;
    static __device__ inline float get(const uint32_t (&words)[4], int j)
    {
        return f16_to_f32(static_cast<uint16_t>(words[j / 2] >> (16 * (j % 2))));
    }
    static __device__ inline void set(uint32_t (&words)[4], int j, float x) { put_half(words, j, f32_to_f16(x)); }
    static __device__ inline uint32_t nonfinite(uint32_t word)
    {
        return ((word & 0x7c007c00u) + 0x04000400u) & 0x80008000u;
    }
};

struct f32_elems {
    static const int n_words = 8;
    static const int dtype = WM_F32;
    static __device__ inline float get(const uint32_t (&words)[8], int j) { return float_from_bits(words[j]); }
    static __device__ inline void set(uint32_t (&words)[8], int j, float x) { words[j] = float_bits(f32_canonical(x)); }
    static __device__ inline uint32_t nonfinite(uint32_t word)
    {
        return ((word & FLOAT_EXPONENT_MASK) + 0x00800000u) & 0x80000000u;
    }
};

/* Types that are known at run time, the same for all threads of a block: F32, F16 and BF16. A group is kept as fp32. */
struct mixed_elems {
    static const int n_words = 8;
    static __device__ inline float get(const uint32_t (&words)[8], int j) { return float_from_bits(words[j]); }
    static __device__ inline void set(uint32_t (&words)[8], int j, float x) { words[j] = float_bits(x); }
};

/* A group in and out. load and widen come one after the other, so that the loads of several inputs are on their way
 * before the first one is waited for. store does nothing and says false when an element is not finite. */
template <class ELEMS> struct group_io {
    static __device__ inline void load(const void *data, int, size_t group, uint32_t (&words)[ELEMS::n_words])
    {
        load_words(data, group, words);
    }
    static __device__ inline void widen(int, uint32_t (&)[ELEMS::n_words]) {}
    static __device__ inline bool store(void *data, int, size_t group, const uint32_t (&words)[ELEMS::n_words])
    {
        uint32_t bad = 0;
#pragma unroll
        for (int w = 0; w < ELEMS::n_words; w++)
            bad |= ELEMS::nonfinite(words[w]);
        if (bad == 0)
            store_words(data, group, words);
        return bad == 0;
    }
};

template <> struct group_io<mixed_elems> {
    static __device__ inline void load(const void *data, int dtype, size_t group, uint32_t (&words)[8])
    {
        const uint4 *at = static_cast<const uint4 *>(data) + (dtype == WM_F32 ? 2 * group : group);
        uint4 v = *at, w = make_uint4(0, 0, 0, 0);
        if (dtype == WM_F32)
            w = at[1];
        put_words(words, v);
        put_words(words + 4, w);
    }
    template <class ELEMS> static __device__ inline void widen_as(uint32_t (&words)[8])
    {
        const uint32_t packed[4] = {words[0], words[1], words[2], words[3]};
#pragma unroll
        for (int j = 0; j < GROUP_ELEMS; j++)
            words[j] = float_bits(ELEMS::get(packed, j));
    }
    static __device__ inline void widen(int dtype, uint32_t (&words)[8])
    {
        if (dtype == WM_BF16)
            widen_as<bf16_elems>(words);
        else if (dtype == WM_F16)
            widen_as<f16_elems>(words);
    }
    template <class ELEMS>
    static __device__ inline bool store_as(void *data, int dtype, size_t group, const uint32_t (&words)[8])
    {
        uint32_t rounded[ELEMS::n_words];
#pragma unroll
        for (int j = 0; j < GROUP_ELEMS; j++)
            ELEMS::set(rounded, j, float_from_bits(words[j]));
        return group_io<ELEMS>::store(data, dtype, group, rounded);
    }
    static __device__ inline bool store(void *data, int dtype, size_t group, const uint32_t (&words)[8])
    {
        return dtype == WM_BF16  ? store_as<bf16_elems>(data, dtype, group, words)
               : dtype == WM_F16 ? store_as<f16_elems>(data, dtype, group, words)
                                 : store_as<f32_elems>(data, dtype, group, words);
    }
};

/* ---- readers: a group as fp32; elements past the end are 0 -------------------------------------------------- */

struct any_elems {
};

/* The type of an element where it is looked at by itself. */
template <class ELEMS> struct single {
    static __device__ inline int dtype(int) { return ELEMS::dtype; }
};
template <> struct single<mixed_elems> {
    static __device__ inline int dtype(int at_run_time) { return at_run_time; }
};
template <> struct single<any_elems> {
    static __device__ inline int dtype(int at_run_time) { return at_run_time; }
};

/* At any address, one by one. */
static __device__ inline void load_singly(const void *data, int dtype, size_t first, size_t n_elems,
                                          float (&x)[GROUP_ELEMS])
{
#pragma unroll
    for (int j = 0; j < GROUP_ELEMS; j++)
        x[j] = first + j < n_elems ? load_elem_any(data, dtype, first + j).value : 0.0f;
}

/* 16-byte aligned inputs. */
template <class ELEMS> struct reader {
    static __device__ inline void load(const void *data, int dtype, size_t first, size_t n_elems,
                                       float (&x)[GROUP_ELEMS])
    {
        if (first + GROUP_ELEMS > n_elems) {
            load_singly(data, single<ELEMS>::dtype(dtype), first, n_elems, x);
            return;
        }
        uint32_t words[ELEMS::n_words];
        group_io<ELEMS>::load(data, dtype, first / GROUP_ELEMS, words);
        group_io<ELEMS>::widen(dtype, words);
#pragma unroll
        for (int j = 0; j < GROUP_ELEMS; j++)
            x[j] = ELEMS::get(words, j);
    }
};

template <> struct reader<any_elems> {
    static __device__ inline void load(const void *data, int dtype, size_t first, size_t n_elems,
                                       float (&x)[GROUP_ELEMS])
    {
        load_singly(data, dtype, first, n_elems, x);
    }
};

/* How a kernel reads its inputs: the type that all of them have, or one of these. */
enum { READ_MIXED = -1, READ_ANY = -2 };

static inline int common_dtype(const void *const *in, const enum wm_dtype *in_dtype, int n_inputs)
{
    bool same = true;
    for (int i = 0; i < n_inputs; i++) {
        if (in_dtype[i] == WM_F64 || !is_vector_aligned(in[i]))
            return READ_ANY;
        same &= in_dtype[i] == in_dtype[0];
    }
    return n_inputs == 0 ? READ_ANY : same ? static_cast<int>(in_dtype[0]) : READ_MIXED;
}

/* One instantiation of a kernel template per reader, chosen by common_dtype. */
#define KERNEL_BY_DTYPE(dtype, kernel)                                                                                 \
    ((dtype) == WM_BF16      ? kernel<bf16_elems>                                                                      \
     : (dtype) == WM_F16     ? kernel<f16_elems>                                                                       \
     : (dtype) == WM_F32     ? kernel<f32_elems>                                                                       \
     : (dtype) == READ_MIXED ? kernel<mixed_elems>                                                                     \
                             : kernel<any_elems>)

#endif
