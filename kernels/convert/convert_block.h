/*
 * convert_block.h: blocks of a tensor to and from fp32, for the CPU drivers.
 *
 * What lives here: loops over number_format.h, one per element type, and the question whether a block holds NaN or
 * infinity. Included by files that are compiled per instruction set, so everything is inline. What it must not know:
 * tiles, methods.
 */
#ifndef WM_KERNELS_CONVERT_BLOCK_H
#define WM_KERNELS_CONVERT_BLOCK_H

#include "common/cpu_isa.h"
#include "common/number_format.h"
#include "warpmerge.h"

#include <stdbool.h>
#include <stddef.h>

CPU_INLINE size_t float_dtype_bytes(enum wm_dtype dtype)
{
    return dtype == WM_F64 ? 8 : dtype == WM_F32 ? 4 : 2;
}

/* Address of element `first`. */
CPU_INLINE const void *block_at(const void *data, enum wm_dtype dtype, size_t first)
{
    return (const char *)data + first * float_dtype_bytes(dtype);
}

CPU_INLINE float load_elem(const void *src, enum wm_dtype dtype, size_t i)
{
    switch (dtype) {
    case WM_BF16: return bf16_to_f32(((const unaligned_u16 *)src)[i]);
    case WM_F16: return f16_to_f32(((const unaligned_u16 *)src)[i]);
    case WM_F64: return f64_to_f32(((const unaligned_f64 *)src)[i]);
    default: return ((const unaligned_f32 *)src)[i];
    }
}

/* `dtype` is a constant in each call, so that each becomes one vector loop. */
#define CONVERT_BY_DTYPE(dtype, loop)                                                                                  \
    switch (dtype) {                                                                                                   \
    case WM_BF16: loop(WM_BF16); break;                                                                                \
    case WM_F16: loop(WM_F16); break;                                                                                  \
    case WM_F64: loop(WM_F64); break;                                                                                  \
    default: loop(WM_F32); break;                                                                                      \
    }

CPU_INLINE void load_block(const void *restrict src, enum wm_dtype dtype, size_t n, float *restrict dst)
{
#define LOOP(constant)                                                                                                 \
    for (size_t i = 0; i < n; i++)                                                                                     \
    dst[i] = load_elem(src, constant, i)
    CONVERT_BY_DTYPE(dtype, LOOP)
#undef LOOP
}

CPU_INLINE void store_elem(void *dst, enum wm_dtype dtype, size_t i, float x)
{
    switch (dtype) {
    case WM_BF16: ((unaligned_u16 *)dst)[i] = f32_to_bf16(x); break;
    case WM_F16: ((unaligned_u16 *)dst)[i] = f32_to_f16(x); break;
    case WM_F64: ((unaligned_f64 *)dst)[i] = f32_to_f64(x); break;
    default: ((unaligned_f32 *)dst)[i] = f32_canonical(x); break;
    }
}

CPU_INLINE void store_block(void *restrict dst, enum wm_dtype dtype, size_t n, const float *restrict src)
{
#define LOOP(constant)                                                                                                 \
    for (size_t i = 0; i < n; i++)                                                                                     \
    store_elem(dst, constant, i, src[i])
    CONVERT_BY_DTYPE(dtype, LOOP)
#undef LOOP
}

/* Of the stored value, so that an f64 beyond fp32's range is finite here. */
CPU_INLINE bool elem_is_finite(const void *src, enum wm_dtype dtype, size_t i)
{
    switch (dtype) {
    case WM_BF16: return (((const unaligned_u16 *)src)[i] & 0x7fffu) < BF16_EXPONENT_MASK;
    case WM_F16: return (((const unaligned_u16 *)src)[i] & 0x7fffu) < F16_EXPONENT_MASK;
    case WM_F64: return f64_is_finite(((const unaligned_f64 *)src)[i]) != 0;
    default: return f32_is_finite(((const unaligned_f32 *)src)[i]) != 0;
    }
}

/* NaN or infinity anywhere? A maximum over magnitudes: one or two vector instructions per load. */
CPU_INLINE bool block_has_nonfinite(const void *src, enum wm_dtype dtype, size_t n)
{
    if (dtype == WM_BF16 || dtype == WM_F16) {
        const unaligned_u16 *p = src;
        int16_t most = 0;
        for (size_t i = 0; i < n; i++) {
            int16_t magnitude = (int16_t)(p[i] & 0x7fffu);
            most = magnitude > most ? magnitude : most;
        }
        return most >= (int16_t)(dtype == WM_BF16 ? BF16_EXPONENT_MASK : F16_EXPONENT_MASK);
    }
    if (dtype == WM_F64) {
        const unaligned_u64 *p = src;
        uint64_t any = 0;
        for (size_t i = 0; i < n; i++) /* the addition carries into bit 63 exactly when the exponent is all ones */
            any |= (p[i] & DOUBLE_EXPONENT_MASK) + (1ull << 52);
        return (any >> 63) != 0;
    }
    const unaligned_u32 *p = src;
    int32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t magnitude = (int32_t)(p[i] & FLOAT_ABS_MASK);
        most = magnitude > most ? magnitude : most;
    }
    return most >= (int32_t)FLOAT_EXPONENT_MASK;
}

#endif
