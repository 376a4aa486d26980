/*
 * fixed_sum.h: fp64 sums over elements whose value does not depend on who computes them.
 *
 * What lives here: the order in which the elements of one chunk (TILE_CHUNK_ELEMS, counted from the tensor's start) are
 * added, and the tree over chunks. A GPU block and a CPU loop that follow it give the same bits. What it must not know:
 * what is summed, tiles, threads.
 *
 * Order: the chunk is cut into blocks of 512 elements; element i of a block belongs to lane i mod 16, and each
 * (block, lane) adds its 32 elements in ascending order from +0: 512 independent sums a chunk for a GPU, two vector
 * registers for a CPU. A lane then adds its blocks in ascending order from +0, the 16 lanes are added in a tree
 * (l + 8, l + 4, l + 2, l + 1), and the chunks are added pairwise by chunk number (fixed_sum_tree). Elements past the
 * end of a tensor are left out, which equals adding +0.
 */
#ifndef WM_KERNELS_FIXED_SUM_H
#define WM_KERNELS_FIXED_SUM_H

#include "common/hd.h"

#include <stddef.h>

#define FIXED_SUM_LANES       16
#define FIXED_SUM_BLOCK_ELEMS 512

HD double fixed_sum_lanes(const double lanes[FIXED_SUM_LANES])
{
    double sum[FIXED_SUM_LANES];
    for (int l = 0; l < FIXED_SUM_LANES; l++)
        sum[l] = lanes[l];
    for (int half = FIXED_SUM_LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++)
            sum[l] = sum[l] + sum[l + half];
    return sum[0];
}

/* Adds n values in neighbouring pairs, then the pairs' sums in pairs, and so on; an odd last one moves up as it is.
 * Overwrites values. 0 for n = 0. */
HD double fixed_sum_tree(double *values, size_t n)
{
    if (n == 0)
        return 0.0;
    while (n > 1) {
        for (size_t i = 0; i < n / 2; i++)
            values[i] = values[2 * i] + values[2 * i + 1];
        if (n % 2 == 1)
            values[n / 2] = values[n - 1];
        n = n / 2 + n % 2;
    }
    return values[0];
}

#endif
