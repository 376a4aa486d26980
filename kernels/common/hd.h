/*
 * hd.h: one word in front of every function that both the host and a GPU run.
 *
 * What lives here: the macros that let a maths header compile as C11, under nvcc (where it is C++ for two targets) and
 * under g++ with the CUDA shim of the tests. Rules for such headers: no libm, no statics, no unions for type punning
 * (C++ forbids them), no contraction (the build sets it off), NaN results made canonical where they leave. What it
 * must not know: which operations there are.
 */
#ifndef WM_KERNELS_HD_H
#define WM_KERNELS_HD_H

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define HD static inline __host__ __device__
#else
/* always_inline: the CPU drivers compile the same header once per instruction set, and a copy of a function that the
 * linker could share between them might use instructions that the machine lacks. */
#define HD static inline __attribute__((always_inline, unused))
#endif

/* A sum or difference that is a NaN has a payload of the machine's: x86 keeps an input's, NVIDIA's is 0x7fffffff. Kernels that
 * run on the CPU in tests define this to do as NVIDIA does, so that it shows where a result depends on it. */
#ifndef HD_RESULT
#define HD_RESULT(x) (x)
#endif

/* The bits of a float and back, without undefined behaviour; compilers turn the copy into a register move. */
HD uint32_t float_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

HD float float_from_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

HD uint64_t double_bits(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

HD double double_from_bits(uint64_t u)
{
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

#endif
