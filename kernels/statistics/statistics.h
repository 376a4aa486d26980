/*
 * statistics.h: the inside of one tensor's statistics, shared by the state machine and the drivers that fill it.
 *
 * What lives here: what each pass collects and who may write it. Drivers of different tiles run at once: they write
 * per-tile or per-chunk places, or add integers atomically, so no order shows. What it must not know: threads, devices.
 */
#ifndef WM_KERNELS_STATISTICS_H
#define WM_KERNELS_STATISTICS_H

#include "common/fixed_sum.h"
#include "methods/tile.h"

#define KTH_COARSE_BINS 65536 /* upper 16 of the 31 magnitude bits */
#define KTH_FINE_BINS   32768 /* lower 15 bits                      */
#define KTH_FINE_BITS   15
#define KTH_TILE_VALUES 32 /* distinct magnitudes that a tile may list in the chosen bin */

/* What one tile holds in the chosen coarse bin (FINE), or how many elements equal to the threshold (TIES). */
struct kth_tile {
    uint32_t n_values; /* KTH_TILE_VALUES + 1: more than fit, `values` is void */
    uint32_t n_equal;  /* TIES                                                  */
    struct {
        uint16_t low_bits;
        uint32_t count;
    } values[KTH_TILE_VALUES];
};

/* The search for one model's k-th magnitude. */
struct kth {
    int model;
    uint64_t rank;       /* of the wanted element among those of the chosen bin, counted from the largest: 1.. */
    uint32_t coarse_bin; /* chosen by COARSE                                                              */
    uint32_t threshold;  /* chosen by FINE                                                                */
    uint64_t n_keep_equal, n_equal;
    bool needs_ties; /* some tile's list overflowed                                                       */
    bool needs_cut;
    size_t cut_tile;       /* where the last kept one of the equal elements is,                             */
    uint64_t cut_rank;     /* ... and which of that tile's equal elements it is: 1..                       */
    uint64_t cut_element;  /* filled by CUT                                                               */
    uint64_t *histogram;   /* [KTH_COARSE_BINS], then [KTH_FINE_BINS] in the same memory; added to atomically */
    struct kth_tile *tiles; /* [n_tiles], each written by its tile                                         */
};

/* Dot products of rows or columns, tile after tile. */
struct vector_gram {
    uint64_t n_vectors;
    double *sums; /* ROWS: [n_pairs][FIXED_SUM_LANES] of the row that is open; COLUMNS: [n_pairs][n_vectors] */
    float *weights; /* [n_vectors][n_models]: becomes op->vector_weights */
};

struct statistics {
    enum stat_pass pass;
    uint64_t n_elems, tile_elems;
    size_t n_tiles, n_chunks;
    int n_models, n_pairs;

    int n_kth;
    struct kth *kth; /* [n_kth] */

    double *gram; /* AXIS_TENSOR: [n_pairs][n_chunks] */
    struct vector_gram vectors;

    int n_l1;
    int l1_models[METHOD_MAX_MODELS];
    double *l1; /* [n_l1][2][n_chunks]: all, kept */
};

/* Row of the upper triangle, i <= j, of an n x n matrix. */
static inline int gram_pair(int i, int j, int n)
{
    return i * n - i * (i - 1) / 2 + (j - i);
}

/* The full symmetric matrix from sums of pairs that lie `stride` apart. */
void statistics_fill_gram(const double *pair_sums, size_t stride, int n, double *gram);

#endif
