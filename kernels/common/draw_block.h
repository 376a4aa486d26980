/*
 * draw_block.h: keep draws of a run of elements, for the CPU drivers.
 *
 * What lives here: the loop over philox.h's calls, shaped so that compilers vectorise it. Included by files that are
 * compiled per instruction set, so everything is inline. What it must not know: what the draws decide.
 */
#ifndef WM_KERNELS_DRAW_BLOCK_H
#define WM_KERNELS_DRAW_BLOCK_H

#include "common/cpu_isa.h"
#include "common/philox.h"

#include <stddef.h>

/* Words that n elements need, whichever lane the first one has. */
#define DRAW_BLOCK_WORDS(n) ((n) / 2 + 8)

/* The draws of elements element .. element + n - 1 as 16-bit numbers in a row: on a little-endian machine (as
 * safetensors is) the words' low halves come first, as philox.h has it. Overwrites `words`; returns the first draw. */
CPU_INLINE const unaligned_u16 *draw_block(uint32_t *restrict words, uint64_t key, uint64_t element, size_t n)
{
    uint64_t first_call = element / PHILOX_DRAWS_PER_CALL;
    size_t n_calls = (size_t)((element + n - 1) / PHILOX_DRAWS_PER_CALL - first_call) + 1;
    for (size_t c = 0; c < n_calls; c++) {
        struct philox_words call = philox_mask_call(key, first_call + c);
        words[4 * c] = call.w[0];
        words[4 * c + 1] = call.w[1];
        words[4 * c + 2] = call.w[2];
        words[4 * c + 3] = call.w[3];
    }
    return (const unaligned_u16 *)words + element % PHILOX_DRAWS_PER_CALL;
}

#endif
