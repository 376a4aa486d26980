/*
 * convert_cpu.c: changing the element type of a run of elements, on the CPU.
 *
 * maths       r = round_to_out_type(fp32(x)), nearest even
 * shapes      n elements, any alignment; F32, F16, BF16, F64 in and out
 * bytes       width of the input read and of the output written, per element
 * reduction   none
 * limits      F64 goes through fp32
 * measured    AMD EPYC Zen 4, 2 threads, AVX-512, bf16 to f16, 2026-11-22: 85 % of memcpy
 */
#include "common/cpu_dispatch.h"
#include "convert/convert_block.h"

enum { CONVERT_BLOCK = 1024 };

void CPU_ISA_NAME(convert_tile)(const void *in, enum wm_dtype in_dtype, void *out, enum wm_dtype out_dtype, size_t n)
{
    _Alignas(64) float block[CONVERT_BLOCK];
    for (size_t first = 0; first < n; first += CONVERT_BLOCK) {
        size_t n_block = n - first < CONVERT_BLOCK ? n - first : CONVERT_BLOCK;
        load_block(block_at(in, in_dtype, first), in_dtype, n_block, block);
        store_block((char *)out + first * float_dtype_bytes(out_dtype), out_dtype, n_block, block);
    }
}
