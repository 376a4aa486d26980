/*
 * number_format.h: bf16, f16, f32 and f64 as bits, and the exact conversions between them.
 *
 * What lives here: widening to fp32 (exact, except that f64 is rounded), narrowing with round-to-nearest-even, and
 * tests for non-finite values. 16-bit floats are stored as uint16_t everywhere. Every function is free of branches and
 * tables so that compilers vectorise loops over it. NaN leaves as one pattern per type (0x7FC0, 0x7E00, 0x7FC00000):
 * processors disagree about payloads and signs, and promise 2 of the design is about bytes. Overflow gives infinity, as
 * IEEE 754 and PyTorch do. What it must not know: arrays, tiles, threads.
 */
#ifndef WM_KERNELS_NUMBER_FORMAT_H
#define WM_KERNELS_NUMBER_FORMAT_H

#include "common/hd.h"

#define FLOAT_ABS_MASK       0x7fffffffu
#define FLOAT_EXPONENT_MASK  0x7f800000u /* |bits| at or above: infinity or NaN */
#define BF16_EXPONENT_MASK   0x7f80u
#define F16_EXPONENT_MASK    0x7c00u
#define DOUBLE_EXPONENT_MASK 0x7ff0000000000000u

#define BF16_NAN 0x7fc0u
#define F16_NAN  0x7e00u
#define F32_NAN  0x7fc00000u
#define F64_NAN  0x7ff8000000000000u

HD float bf16_to_f32(uint16_t h)
{
    return float_from_bits((uint32_t)h << 16);
}

/* Adding 0x7fff plus the last kept bit carries exactly when nearest-even rounds up; the largest finite value carries
 * into infinity. */
HD uint16_t f32_to_bf16(float x)
{
    uint32_t u = float_bits(x);
    uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    return (uint16_t)((u & FLOAT_ABS_MASK) > FLOAT_EXPONENT_MASK ? BF16_NAN : rounded);
}

/* Subnormals are their integer mantissa times 2^-24, which is exact; no fp32 subnormal appears on the way, so the
 * result does not depend on a flush-to-zero mode. NaN keeps its payload here and loses it at the store. */
HD float f16_to_f32(uint16_t h)
{
    uint32_t sign = ((uint32_t)h & 0x8000u) << 16;
    uint32_t magnitude = (uint32_t)h & 0x7fffu;
    uint32_t special = magnitude >= F16_EXPONENT_MASK ? 0x38000000u : 0u; /* exponent 31 becomes 255, not 143 */
    uint32_t normal = (magnitude << 13) + 0x38000000u + special;
    uint32_t subnormal = float_bits((float)(int32_t)magnitude * 0x1p-24f);
    return float_from_bits(sign | (magnitude < 0x0400u ? subnormal : normal));
}

/* Normal results: integer rounding as for bf16 after moving the exponent by 112. Results below 2^-14: adding 0.5 puts
 * the value's 2^-24 units into the last mantissa bits and lets the FPU round to nearest even once. */
HD uint16_t f32_to_f16(float x)
{
    uint32_t u = float_bits(x);
    uint32_t sign = (u >> 16) & 0x8000u;
    uint32_t magnitude = u & FLOAT_ABS_MASK;
    uint32_t normal = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
    uint32_t subnormal = float_bits(float_from_bits(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    uint32_t result = magnitude >= 0x477ff000u ? F16_EXPONENT_MASK : finite; /* 65520 and above round to infinity */
    return (uint16_t)(magnitude > FLOAT_EXPONENT_MASK ? F16_NAN : sign | result);
}

HD float f32_canonical(float x)
{
    uint32_t u = float_bits(x);
    return float_from_bits((u & FLOAT_ABS_MASK) > FLOAT_EXPONENT_MASK ? F32_NAN : u);
}

HD float f64_to_f32(double x)
{
    return (float)x;
}

HD double f32_to_f64(float x)
{
    double wide = (double)x;
    return (float_bits(x) & FLOAT_ABS_MASK) > FLOAT_EXPONENT_MASK ? double_from_bits(F64_NAN) : wide;
}

HD int f32_is_finite(float x)
{
    return (float_bits(x) & FLOAT_ABS_MASK) < FLOAT_EXPONENT_MASK;
}

HD int f64_is_finite(double x)
{
    return (double_bits(x) & ~(1ull << 63)) < DOUBLE_EXPONENT_MASK;
}

#endif
