/*
 * philox.h: the counter-based random generator behind random masks.
 *
 * What lives here: Philox4x32 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011) and
 * the definition of a keep draw. A draw is a pure function of (key, element index): no stream, no order, so tiles,
 * threads, devices and resumed runs agree. What it must not know: tensors, tiles, densities.
 *
 * Definition of a keep draw: element e uses the call with counter {low 32 bits of e / 8, high 32 bits of e / 8, 0, 0}
 * and the 64-bit key as {low, high}. Its four output words are cut into eight 16-bit lanes, low half first; element e
 * takes lane e mod 8. The element is kept if its lane is below `keep_below` (0..65536). Densities are therefore
 * multiples of 2^-16, and rescaling by 1/density uses the multiple that was drawn with, not the configured number.
 * Seven rounds pass BigCrush (the paper, table 2); ten are the library default and are used to derive keys.
 */
#ifndef WM_KERNELS_PHILOX_H
#define WM_KERNELS_PHILOX_H

#include "common/hd.h"

#define PHILOX_MASK_ROUNDS    7
#define PHILOX_KEY_ROUNDS     10
#define PHILOX_DRAWS_PER_CALL 8

struct philox_words {
    uint32_t w[4];
};

HD struct philox_words philox4x32(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1,
                                  int n_rounds)
{
    struct philox_words out;
    for (int round = 0; round < n_rounds; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        uint32_t n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u; /* Weyl sequence: golden ratio and sqrt(3)-1 */
        k1 += 0xBB67AE85u;
    }
    out.w[0] = c0;
    out.w[1] = c1;
    out.w[2] = c2;
    out.w[3] = c3;
    return out;
}

/* The four words that hold the draws of elements 8 * call .. 8 * call + 7. */
HD struct philox_words philox_mask_call(uint64_t key, uint64_t call)
{
    return philox4x32((uint32_t)call, (uint32_t)(call >> 32), 0, 0, (uint32_t)key, (uint32_t)(key >> 32),
                      PHILOX_MASK_ROUNDS);
}

/* The key of one model's mask on one tensor: FNV-1a 64 of the name and the model's position in the recipe, encrypted
 * under the seed. Ten rounds make keys of neighbouring seeds, names and positions unrelated. */
HD uint64_t philox_mask_key(uint64_t seed, const char *tensor_name, uint32_t model_index)
{
    uint64_t hash = 0xcbf29ce484222325ull;
    for (const char *c = tensor_name; *c != 0; c++)
        hash = (hash ^ (uint64_t)(unsigned char)*c) * 0x100000001b3ull;
    struct philox_words words =
        philox4x32((uint32_t)hash, (uint32_t)(hash >> 32), model_index, 0x4d41534bu /* "MASK" */, (uint32_t)seed,
                   (uint32_t)(seed >> 32), PHILOX_KEY_ROUNDS);
    return ((uint64_t)words.w[1] << 32) | words.w[0];
}

/* One draw, 0..65535; the drivers compute eight at a time. */
HD uint32_t philox_mask_draw(uint64_t key, uint64_t element)
{
    struct philox_words words = philox_mask_call(key, element / PHILOX_DRAWS_PER_CALL);
    uint32_t lane = (uint32_t)(element % PHILOX_DRAWS_PER_CALL);
    return (words.w[lane / 2] >> (16 * (lane % 2))) & 0xffffu;
}

#endif
