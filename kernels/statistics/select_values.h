/*
 * select_values.h: the k-th largest of an array of magnitudes.
 *
 * What lives here: an exact radix selection in memory, for small tensors and for samples. No sort: each round counts one
 * digit of those that are left and keeps the ones in the wanted bin. What it must not know: where magnitudes come from.
 */
#ifndef WM_KERNELS_SELECT_VALUES_H
#define WM_KERNELS_SELECT_VALUES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Magnitudes have 31 bits: three digits of 8 and one of 7. */
#define SELECT_DIGIT_BINS 256

/* The rank-th largest of n values of 31 bits, 1 <= rank <= n. *n_greater: how many are larger, *n_equal: how many equal
 * it. The values are overwritten. */
static inline __attribute__((unused)) uint32_t select_value(uint32_t *values, size_t n, size_t rank, size_t *n_greater,
                                                            size_t *n_equal)
{
    static const unsigned char shifts[] = {23, 15, 7, 0};
    uint32_t found = 0;
    *n_greater = 0;
    for (int digit = 0; digit < 4; digit++) {
        uint32_t counts[SELECT_DIGIT_BINS], bin = SELECT_DIGIT_BINS - 1;
        const unsigned shift = shifts[digit], mask = digit == 3 ? 127u : 255u;
        memset(counts, 0, sizeof counts);
        for (size_t i = 0; i < n; i++)
            counts[values[i] >> shift & mask]++;
        while (counts[bin] < rank) {
            rank -= counts[bin];
            *n_greater += counts[bin--];
        }
        found |= bin << shift;
        if (counts[bin] == n)
            continue; /* all of them are in it */
        size_t n_kept = 0;
        for (size_t i = 0; i < n; i++) {
            values[n_kept] = values[i];
            n_kept += (values[i] >> shift & mask) == bin;
        }
        n = n_kept;
    }
    *n_equal = n;
    return found;
}

#endif
