/*
 * cpu_isa.h: how one CPU driver becomes several functions.
 *
 * What lives here: the naming of symbols in files that are compiled once per instruction set (the build defines WM_ISA
 * as portable, avx2 or avx512 and passes the matching -m options), and types for data at any address. Such a file
 * exports only CPU_ISA_NAME(...) symbols; everything else in it is static. What it must not know: which variant runs.
 */
#ifndef WM_KERNELS_CPU_ISA_H
#define WM_KERNELS_CPU_ISA_H

#include <stdint.h>

#ifndef WM_ISA
#define WM_ISA portable
#endif
#define CPU_ISA_PASTE2(name, isa) name##_##isa
#define CPU_ISA_PASTE(name, isa)  CPU_ISA_PASTE2(name, isa)
#define CPU_ISA_NAME(name)        CPU_ISA_PASTE(name, WM_ISA)

#define CPU_INLINE static inline __attribute__((always_inline, unused))

/* Tensor data starts wherever a file put it: loads and stores must not assume alignment. */
typedef uint16_t __attribute__((aligned(1), may_alias)) unaligned_u16;
typedef uint32_t __attribute__((aligned(1), may_alias)) unaligned_u32;
typedef uint64_t __attribute__((aligned(1), may_alias)) unaligned_u64;
typedef float __attribute__((aligned(1), may_alias)) unaligned_f32;
typedef double __attribute__((aligned(1), may_alias)) unaligned_f64;

#endif
