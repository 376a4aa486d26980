/*
 * tile.h: the unit of work that a backend executes, and the statistics state of one tensor.
 *
 * What lives here: the description of a tile (a range of one tensor in every input), what the element-wise pass reports
 * about values, and the passes of the statistics. What it must not know: where tiles come from or go to.
 */
#ifndef WM_KERNELS_TILE_H
#define WM_KERNELS_TILE_H

#include "methods/method.h"

#define TILE_MAX_INPUTS (METHOD_MAX_MODELS + 1)

/* Fixed chunk of every floating-point sum and piece of every checksum: sums and hashes are taken per chunk and then
 * combined in an order that depends on chunk numbers alone, so no tile size, thread or device shows in the bytes.
 * Tiles are multiples of it (the last one of a tensor excepted). */
#define TILE_CHUNK_ELEMS 16384

struct merge_tile {
    uint64_t first_elem; /* a multiple of TILE_CHUNK_ELEMS */
    size_t n_elems;
    size_t index; /* tile number within the tensor  */
    const void *in[TILE_MAX_INPUTS];
    enum wm_dtype in_dtype[TILE_MAX_INPUTS]; /* F32, F16, BF16 or F64 */
    void *out;                               /* NULL in statistics passes      */
    enum wm_dtype out_dtype;
};

/* What one element-wise pass over a tile saw. Integers, so that sums over tiles are order-free. */
struct merge_report {
    uint64_t n_bad_in[TILE_MAX_INPUTS];     /* NaN or Inf per input                                            */
    uint64_t first_bad_in[TILE_MAX_INPUTS]; /* element index of the first; valid when the count is non-zero  */
    uint64_t n_bad_out, first_bad_out;      /* non-finite results from finite inputs: overflow of the final cast
                                             or of the arithmetic                                            */
};
void merge_report_init(struct merge_report *r);
void merge_report_add(struct merge_report *sum, const struct merge_report *tile);

/* ---- statistics --------------------------------------------------------------------------------------------- */

/* The passes that may come before the element-wise one. After each, statistics_finish_pass names the next. */
enum stat_pass {
    STAT_GRAM,       /* dot products of inputs or deltas, per chunk (or per vector: tiles in order)            */
    STAT_KTH_WHOLE,  /* small tensors of one tile: threshold and tie index at once                             */
    STAT_KTH_SAMPLE, /* a few tiles: magnitudes from which threshold and tie index are guessed                 */
    STAT_KTH_GUESS,  /* the element-wise pass with the guess; per tile, magnitudes above and equal to it       */
    STAT_KTH_COARSE, /* histogram of the upper 16 of the 31 magnitude bits of |delta|; may come twice          */
    STAT_KTH_FINE,   /* within the chosen bin: histogram of the lower 15 bits, and per tile the values met     */
    STAT_KTH_TIES,   /* elements equal to the threshold, per tile (only when FINE could not hold the list)     */
    STAT_KTH_CUT,    /* index of the last element kept among the equal ones: in one tile per model             */
    STAT_L1,         /* sum |delta| and sum |kept delta|, per chunk                                            */
    STAT_READY       /* the operation's coefficients are complete                                              */
};

struct statistics; /* the state of one tensor */

/* First pass the operation needs (STAT_READY: none), and an upper bound for the state's memory. */
enum stat_pass statistics_first_pass(const struct merge_op *op);
uint64_t statistics_max_bytes(const struct merge_op *op, uint64_t tile_elems);

/* tile_elems: elements of every tile but the last. NULL when out of memory. */
struct statistics *statistics_new(const struct merge_op *op, uint64_t tile_elems);
void statistics_free(struct statistics *s);
enum stat_pass statistics_pass(const struct statistics *s);
/* True when the current pass must see its tiles one after another in index order (vector Gram sums). */
bool statistics_in_order(const struct statistics *s);
/* Can SAMPLE and GUESS come before COARSE, so that most tiles are read once? Before the first pass, `statistics_speculate`
 * asks for it where they can. */
bool statistics_can_speculate(const struct merge_op *op, uint64_t tile_elems);
void statistics_speculate(struct statistics *s);
/* After STAT_READY: what GUESS computed for this tile is what the element-wise pass would compute now. */
bool statistics_tile_stands(const struct statistics *s, size_t tile_index);
/* Before the first pass, for a tensor of which other processes look at other tiles (whole ones, each tile by one process):
 * the array that every pass ends with becomes the sum over all of them. All must go through the same passes, those without
 * a tile as well. Not for sums by row or column. After a false answer statistics_share_failed says so and nothing counts. */
typedef bool statistics_reduce(void *user, uint64_t *words, size_t n_words);
void statistics_share(struct statistics *s, statistics_reduce *reduce, void *user);
bool statistics_share_failed(const struct statistics *s);
/* After STAT_READY: elements are missing from the counts of a pass, or were counted twice, and the results are none. */
bool statistics_counts_wrong(const struct statistics *s);
/* Says before the first pass that reading all tiles again is dear (they do not stay in memory). Otherwise COARSE may
 * bet on a sample and be named again by statistics_finish_pass when the bet is lost. Same results either way. */
void statistics_avoid_repeats(struct statistics *s);
/* False when the current pass has nothing to do in this tile: it need not be read again (or given to a backend). */
bool statistics_needs_tile(const struct statistics *s, size_t tile_index);
/* After every tile of the current pass went through a backend: reduces, writes what became known into op, and moves to
 * the next pass, which is returned. One caller at a time. */
enum stat_pass statistics_finish_pass(struct statistics *s, struct merge_op *op);

/* ---- the CPU driver ----------------------------------------------------------------------------------------- */

/* Per-thread scratch memory of the CPU driver (histograms, blocks). */
struct cpu_scratch;
struct cpu_scratch *cpu_scratch_new(void);
void cpu_scratch_free(struct cpu_scratch *scratch);
uint64_t cpu_scratch_bytes(void);

/* Different tiles may run at once on different threads (with statistics_in_order: one at a time, in order). Not for
 * STAT_KTH_GUESS. */
void cpu_statistics_tile(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                         struct cpu_scratch *scratch);
/* s may be NULL for operations without statistics. Adds to *report. */
void cpu_combine_tile(const struct merge_op *op, const struct statistics *s, const struct merge_tile *tile,
                      struct cpu_scratch *scratch, struct merge_report *report);
/* STAT_KTH_GUESS: statistics and the element-wise pass of one tile in one walk over it. */
void cpu_guess_tile(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                    struct cpu_scratch *scratch, struct merge_report *report);
/* Instruction set in use: "avx512", "avx2", "portable". cpu_isa_force (NULL: automatic) is for tests and benches;
 * false if this machine lacks it. */
const char *cpu_isa(void);
bool cpu_isa_force(const char *isa);

#endif
