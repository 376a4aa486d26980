/*
 * kernel_reference.h: the two slow answers that several tests of the kernels compare with.
 *
 * What lives here: elements ranked by a full sort, and a sum in the order of fixed_sum.h with that order spelled out. Both
 * share nothing with the kernels. What it must not know: methods, tiles.
 */
#ifndef WM_TESTS_KERNEL_REFERENCE_H
#define WM_TESTS_KERNEL_REFERENCE_H

#include "kernel_harness.h"

struct ranked {
    uint32_t magnitude;
    size_t index;
};

UNUSED_OK static int by_rank(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->magnitude != y->magnitude)
        return x->magnitude > y->magnitude ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

/* The largest |delta| first, of equal ones the lowest index; freed by the caller. */
UNUSED_OK static struct ranked *new_ranking(const float *delta, size_t n)
{
    struct ranked *order = malloc((n + 1) * sizeof *order);
    assert_non_null(order);
    for (size_t i = 0; i < n; i++) {
        float magnitude = fabsf(delta[i]);
        memcpy(&order[i].magnitude, &magnitude, 4);
        order[i].index = i;
    }
    qsort(order, n, sizeof *order, by_rank);
    return order;
}

/* Blocks of 512, 16 lanes, 32 elements each; lanes over blocks; lanes in a tree; chunks of 16384 in pairs. */
UNUSED_OK static double reference_sum(const double *x, size_t n)
{
    size_t n_chunks = (n + 16383) / 16384;
    double *chunks = calloc(n_chunks + 1, sizeof *chunks);
    assert_non_null(chunks);
    for (size_t c = 0; c < n_chunks; c++) {
        double lanes[16] = {0};
        for (size_t b = 0; b < 32; b++)
            for (size_t l = 0; l < 16; l++) {
                double sum = 0.0;
                for (size_t t = 0; t < 32; t++) {
                    size_t i = c * 16384 + b * 512 + t * 16 + l;
                    sum += i < n ? x[i] : 0.0;
                }
                lanes[l] += sum;
            }
        double eight[8], four[4];
        for (int l = 0; l < 8; l++)
            eight[l] = lanes[l] + lanes[l + 8];
        for (int l = 0; l < 4; l++)
            four[l] = eight[l] + eight[l + 4];
        chunks[c] = (four[0] + four[2]) + (four[1] + four[3]);
    }
    for (; n_chunks > 1; n_chunks = (n_chunks + 1) / 2)
        for (size_t c = 0; c < n_chunks; c += 2)
            chunks[c / 2] = c + 1 < n_chunks ? chunks[c] + chunks[c + 1] : chunks[c];
    double sum = chunks[0];
    free(chunks);
    return sum;
}

#endif
