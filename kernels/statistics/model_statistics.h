/*
 * model_statistics.h: statistics of the whole model: the thresholds and the majority sign of `ties` with `trim: global`.
 *
 * What lives here: the passes over all tensors together (Yadav et al. 2023, TIES-Merging, section 4, as the authors' code
 * has it), their counts, and the few numbers that come out. The task vector of a model is that of all its tensors, one
 * after another; the same tensor in two places of a sliced model counts twice. Every count is an integer, so tiles,
 * threads and ranks may add in any order. What it must not know: files, threads, who adds the counts of ranks.
 *
 *     COARSE  per model, histogram of the upper 16 of the 31 magnitude bits of |delta|
 *     FINE    per model, histogram of the lower 15 bits within the chosen bin: the threshold is known
 *     SIGNS   over the values kept by these thresholds: how many elements elect plus, minus, or cancel to zero
 */
#ifndef WM_KERNELS_MODEL_STATISTICS_H
#define WM_KERNELS_MODEL_STATISTICS_H

#include "methods/tile.h"

#define MODEL_MAX_MODELS TILE_MAX_INPUTS /* of a recipe, a listed base included */

enum model_pass { MODEL_COARSE, MODEL_FINE, MODEL_SIGNS, MODEL_READY };

/* What is known of one model, by its position in the recipe. */
struct model_threshold {
    double density;
    uint64_t n_elems;   /* of its task vector; 0: no tensor of it is trimmed this way           */
    uint64_t n_kept;    /* elements at or above the threshold                                   */
    uint32_t threshold; /* kept from these bits of |delta| as fp32 on; 0: everything            */
};

/* The whole result. */
struct model_thresholds {
    int n_models; /* models[0..n_models) are valid */
    struct model_threshold models[MODEL_MAX_MODELS];
    uint64_t n_plus, n_minus; /* elements that elected each sign                                       */
    uint64_t n_cancelled;     /* elements whose values, not all zero, add up to exactly zero          */
    int majority;             /* sign of n_plus - n_minus: what the cancelled ones take; 0 acts as -1  */
};

/* Places of the counts in MODEL_SIGNS. The last one is every element that was looked at. */
enum { MODEL_SIGN_PLUS, MODEL_SIGN_MINUS, MODEL_SIGN_CANCELLED, MODEL_SIGN_SEEN, MODEL_SIGN_COUNTS };

/* One model in the middle of its search. */
struct model_search {
    int model;           /* in the recipe */
    uint64_t rank;       /* of the threshold, from the largest: 1..; after COARSE: inside the chosen bin */
    uint64_t n_above;    /* elements above the chosen bin, and ... */
    uint64_t n_in_bin;   /* ... in it */
    uint32_t coarse_bin; /* found by COARSE */
};

struct model_statistics {
    enum model_pass pass;
    struct model_thresholds result;
    int n_searches;
    struct model_search searches[MODEL_MAX_MODELS];
    int search_of[MODEL_MAX_MODELS]; /* index into searches, or -1: nothing of this model is trimmed            */
    uint64_t n_elems;                /* of all tensors */
    uint64_t *counts;                /* [n_searches][KTH_COARSE_BINS], [n_searches][KTH_FINE_BINS], or
                                        [MODEL_SIGN_COUNTS]; added to atomically                                */
    size_t n_counts;
};

void model_statistics_init(struct model_statistics *ms);
void model_statistics_release(struct model_statistics *ms);

/* Tells of one tensor's operation before the passes; every one of the merge, also those that other ranks will read.
 * Those without model_statistics are passed over. WM_BAD_CONFIG when a model's density differs from that of an earlier
 * tensor; the sentence does not name the tensor (the caller adds it). */
enum wm_status model_statistics_add(struct model_statistics *ms, const struct merge_op *op, char message[256]);
/* No operation asked for them. */
bool model_statistics_empty(const struct model_statistics *ms);
/* Of the counts, at most. */
uint64_t model_statistics_bytes(const struct model_statistics *ms);
/* Passes over all tensors that they take. */
int model_statistics_n_passes(const struct model_statistics *ms);
/* Begins the first pass. false: out of memory. */
bool model_statistics_begin(struct model_statistics *ms);

/* Counts of the current pass. Between its last tile and finish_pass the caller adds those of the other ranks to them. */
uint64_t *model_statistics_counts(struct model_statistics *ms, size_t *n_counts);
/* Adds what was counted elsewhere to n counts from `first` on. Different threads may do so at once. */
void model_statistics_add_counts(struct model_statistics *ms, size_t first, const uint64_t *counts, size_t n);
/* Forgets the counts of the current pass: all of its tiles have to come again. */
void model_statistics_restart_pass(struct model_statistics *ms);
/* After every tile of every tensor: takes what the pass found and goes on to the next. false: the counts are not those of
 * all tensors, a tile was left out or counted twice. */
bool model_statistics_finish_pass(struct model_statistics *ms);
/* After begin: goes on with `pass`, of which an earlier run knew `searches` and `result` (that run's fields of the same names) when it
 * began. false, and nothing is changed: they cannot be of these models. */
bool model_statistics_resume(struct model_statistics *ms, enum model_pass pass, const struct model_search *searches,
                             const struct model_thresholds *result);

/* Completes an operation that has model_statistics; leaves others alone. */
void model_thresholds_apply(const struct model_thresholds *thresholds, struct merge_op *op);

/* One tile of the current pass, on the CPU. Different tiles may run at once on different threads. */
void cpu_model_statistics_tile(const struct merge_op *op, struct model_statistics *ms, const struct merge_tile *tile,
                               struct cpu_scratch *scratch);

#endif
