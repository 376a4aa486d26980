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

#include <pthread.h>

#define KTH_COARSE_BINS 65536 /* upper 16 of the 31 magnitude bits */
#define KTH_FINE_BINS   32768 /* lower 15 bits                      */
#define KTH_FINE_BITS   15
#define KTH_TILE_VALUES 32 /* distinct magnitudes that a tile may list in the chosen bin */

#define KTH_ATOMS 3 /* magnitudes that COARSE counts by comparing */

/* Tensors from this size on are worth a sample. */
#define KTH_BRACKET_ELEMS ((uint64_t)1 << 17)

/* Tensors of one tile and up to this size need no tables: WHOLE. */
#define KTH_WHOLE_ELEMS 65536

/* SAMPLE takes this many magnitudes of this many tiles, in the memory of the histogram: 131,072 know a rank to 0.14 % of
 * the elements. A tensor of less than twice as many tiles is not guessed. */
#define KTH_SAMPLE_TILES      8
#define KTH_SAMPLE_TILE_ELEMS 16384

/* What one tile knows of one model. */
struct kth_tile {
    uint32_t atoms[KTH_ATOMS]; /* COARSE with a bracket: elements equal to each atom                             */
    uint32_t n_equal;          /* TIES, GUESS: elements equal to the threshold                                   */
    uint32_t n_greater;        /* GUESS: elements above it                                                       */
    uint32_t n_values;         /* FINE: distinct magnitudes in the chosen bin; KTH_TILE_VALUES + 1: too many;
                                  SAMPLE: magnitudes taken                                                       */
    struct {
        uint16_t low_bits;
        uint32_t count;
    } values[KTH_TILE_VALUES];
};

/* How COARSE counts a model. A driver may choose BRACKET before it counts the first tile; all tiles of a pass must then
 * use the same bracket. */
enum kth_counting { KTH_ALL_BINS, KTH_UNDECIDED, KTH_BRACKET };

/* The search for one model's k-th magnitude. */
struct kth {
    int model;
    enum stat_pass pass;    /* the next one that this model needs; STAT_READY: none                                 */
    uint64_t rank;          /* of the wanted element, from the largest: 1.. After COARSE: inside the chosen bin     */
    uint64_t *histogram;    /* [KTH_COARSE_BINS], then [KTH_FINE_BINS] in the same memory; added to atomically      */
    struct kth_tile *tiles; /* [n_tiles], each written by its tile                                                */

    enum kth_counting counting;
    uint32_t lo, hi;               /* BRACKET: the first magnitude of a bin and the last one of another               */
    uint32_t atoms[KTH_ATOMS];     /* magnitudes in lo..hi that the histogram leaves out; UINT32_MAX: none            */
    uint64_t n_above;              /* elements above hi; added to atomically                                          */
    uint64_t n_greater[KTH_ATOMS]; /* elements of lo..hi above each atom, atoms excepted; added to atomically     */

    uint32_t coarse_bin;                                /* found by COARSE, ... */
    uint64_t n_in_bin;                                  /* ... with so many elements */
    uint32_t threshold;                                 /* found by FINE, or by COARSE when it is an atom */
    enum { KTH_EQUAL_LISTED, KTH_EQUAL_COUNTED } equal; /* where the tiles' numbers of equal elements are */
    size_t cut_tile;            /* where the last kept one of the equal elements is, ...                       */
    uint64_t cut_rank;          /* ... which of that tile's equal elements it is: 1..                          */
    uint64_t cut_element;       /* ... and its index: found by CUT or WHOLE                                    */
    uint32_t guessed_threshold; /* GUESS worked with these */
    uint64_t guessed_element;
};

/* Dot products of rows or columns, tile after tile. */
struct vector_gram {
    uint64_t n_vectors;
    double *sums;   /* ROWS: [n_pairs][FIXED_SUM_LANES] of the row that is open; COLUMNS: [n_pairs][n_vectors] */
    float *weights; /* [n_vectors][n_models]: becomes op->vector_weights */
};

struct statistics {
    enum stat_pass pass;
    bool guessed;              /* a GUESS pass took place */
    statistics_reduce *reduce; /* NULL: all tiles are ours */
    void *reduce_user;
    bool share_failed;
    bool counts_wrong; /* they cannot be those of all elements */
    uint64_t n_elems, tile_elems;
    size_t n_tiles, n_chunks;
    int n_models, n_pairs;

    int n_kth;
    struct kth *kth;      /* [n_kth] */
    pthread_mutex_t lock; /* held while a driver decides how to count */

    double *gram; /* AXIS_TENSOR: [n_pairs][n_chunks] */
    struct vector_gram vectors;

    int n_l1;
    int l1_models[METHOD_MAX_MODELS];
    double *l1; /* [n_l1][2][n_chunks]: all, kept */
};

/* The current pass's array becomes the sum over all processes. */
bool statistics_share_pass(struct statistics *s);

/* SAMPLE: [KTH_SAMPLE_TILES][KTH_SAMPLE_TILE_ELEMS], each row written by its tile. */
static inline uint32_t *kth_sample(struct kth *kth)
{
    return (uint32_t *)kth->histogram;
}

/* Which row of the sample this tile is, or -1. */
static inline int statistics_sample_row(const struct statistics *s, size_t tile)
{
    size_t row = tile * KTH_SAMPLE_TILES / s->n_tiles;
    return (2 * row + 1) * s->n_tiles / (2 * KTH_SAMPLE_TILES) == tile ? (int)row : -1;
}

/* Row of the upper triangle, i <= j, of an n x n matrix. */
HD int gram_pair(int i, int j, int n)
{
    return i * n - i * (i - 1) / 2 + (j - i);
}

/* The weights of one row or column from its sums of pairs, which lie `stride` apart. */
void statistics_vector_weights(const struct merge_op *op, struct statistics *s, uint64_t vector,
                               const double *pair_sums, size_t stride);

#endif
