/*
 * histogram_block.h: counting magnitudes in a thread's histograms, for the CPU drivers that look for k-th magnitudes.
 *
 * What lives here: the coarse histogram of a block, and moving a thread's counts into shared ones. Included by files that
 * are compiled per instruction set, so everything is inline. What it must not know: passes, what the counts are for.
 */
#ifndef WM_KERNELS_HISTOGRAM_BLOCK_H
#define WM_KERNELS_HISTOGRAM_BLOCK_H

#include "common/cpu_dispatch.h"
#include "statistics/statistics.h"

#include <string.h>

CPU_INLINE uint32_t *histogram_of(struct cpu_scratch *scratch, int slot)
{
    return scratch->histograms + (size_t)slot * CPU_HISTOGRAM_COPIES * CPU_HISTOGRAM_BINS;
}

/* The bins of a tile that are not zero: bin 0, and lowest..highest. */
struct bin_range {
    uint32_t lowest, highest;
};
#define BIN_RANGE_EMPTY                                                                                                \
    {                                                                                                                  \
        CPU_HISTOGRAM_BINS - 1, 0                                                                                      \
    }

CPU_INLINE void key_block(const uint32_t *restrict magnitudes, size_t n, uint16_t *restrict keys,
                          struct bin_range *range)
{
    uint16_t lowest = UINT16_MAX, highest = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t key = (uint16_t)(magnitudes[i] >> KTH_FINE_BITS);
        uint16_t below = (uint16_t)(key - 1u); /* zero becomes the largest */
        keys[i] = key;
        lowest = below < lowest ? below : lowest;
        highest = key > highest ? key : highest;
    }
    if (lowest < range->lowest)
        range->lowest = lowest;
    if (highest > range->highest)
        range->highest = highest;
}

CPU_INLINE void count_keys(const uint16_t *restrict keys, size_t n, uint32_t *restrict histogram)
{
    uint32_t *restrict even = histogram, *restrict odd = histogram + CPU_HISTOGRAM_BINS;
    const size_t n_whole = n - n % 4;
    for (size_t i = 0; i < n_whole; i += 4) {
        uint64_t four;
        memcpy(&four, keys + i, sizeof four);
        even[four & 0xffffu]++;
        odd[(four >> 16) & 0xffffu]++;
        even[(four >> 32) & 0xffffu]++;
        odd[four >> 48]++;
    }
    for (size_t i = n_whole; i < n; i++)
        even[keys[i]]++;
}

CPU_INLINE uint32_t take_bin(uint32_t *histogram, size_t bin)
{
    uint32_t count = histogram[bin] + histogram[CPU_HISTOGRAM_BINS + bin];
    if (count != 0)
        histogram[bin] = histogram[CPU_HISTOGRAM_BINS + bin] = 0;
    return count;
}

/* Moves a thread's counts into shared ones. */
CPU_INLINE void flush_histogram(uint64_t *total, uint32_t *histogram, const struct bin_range *range)
{
    size_t bin = 0;
    for (size_t next = (size_t)range->lowest + 1;; bin = next++) {
        uint32_t count = take_bin(histogram, bin);
        if (count != 0)
            __atomic_fetch_add(&total[bin], count, __ATOMIC_RELAXED);
        if (next > range->highest)
            break;
    }
}

#endif
