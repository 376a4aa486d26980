/*
 * delta_block.h: blocks of deltas, for the CPU drivers of the statistics.
 *
 * What lives here: walking a tile in blocks that fit the L1 cache, the base of a block as fp32, and |x_m - b| as bits.
 * Included by files that are compiled per instruction set, so everything is inline. What it must not know: passes.
 */
#ifndef WM_KERNELS_DELTA_BLOCK_H
#define WM_KERNELS_DELTA_BLOCK_H

#include "common/cpu_dispatch.h"
#include "convert/convert_block.h"
#include "methods/task_vector_math.h"

CPU_INLINE size_t block_elems(const struct merge_tile *tile, size_t first)
{
    return tile->n_elems - first < CPU_BLOCK_ELEMS ? tile->n_elems - first : CPU_BLOCK_ELEMS;
}

CPU_INLINE void load_base(const struct merge_tile *tile, size_t first, size_t n, struct cpu_scratch *scratch)
{
    load_block(block_at(tile->in[0], tile->in_dtype[0], first), tile->in_dtype[0], n, scratch->base);
}

/* Bits of |x_m - b| of a block whose base is loaded. */
CPU_INLINE void magnitude_block(const struct merge_tile *tile, int model, size_t first, size_t n,
                                const float *restrict base, uint32_t *restrict magnitudes)
{
    enum wm_dtype dtype = tile->in_dtype[model + 1];
    const void *x = block_at(tile->in[model + 1], dtype, first);
#define LOOP(constant)                                                                                                 \
    for (size_t i = 0; i < n; i++)                                                                                     \
    magnitudes[i] = (uint32_t)task_vector_magnitude(task_vector_delta(load_elem(x, constant, i), base[i]))
    CONVERT_BY_DTYPE(dtype, LOOP)
#undef LOOP
}

#endif
