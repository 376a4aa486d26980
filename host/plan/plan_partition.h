/*
 * plan_partition.h: who of n ranks computes which part of a plan.
 *
 * What lives here: the partition, a pure function of (jobs of the plan, number of ranks, mode), in integers alone, so
 * that every rank finds the same one without a message (DESIGN section 5). Thread counts, tiles and the memory budget,
 * which may differ between machines, do not enter. What it must not know: how ranks find or reach each other.
 */
#ifndef WM_PLAN_PARTITION_H
#define WM_PLAN_PARTITION_H

#include "plan/plan.h"

/* Pieces of a tensor start at multiples of this: whole chunks of every fixed-order sum (TILE_CHUNK_ELEMS), and even for
 * 4-bit types a page multiple of bytes. */
#define PARTITION_GRAIN_ELEMS ((uint64_t)1 << 20)
#define PARTITION_MAX_RANKS   65536

enum plan_partition_mode {
    PARTITION_RANKS, /* ranks can reduce statistics together: every tensor may be split, except those whose statistics
                        walk rows or columns in order */
    PARTITION_PARTS, /* ranks never talk: only tensors without statistics may be split */
    PARTITION_N_MODES
};

/* A whole job, or elements of it. */
struct plan_range {
    size_t job;
    uint64_t first_elem; /* a multiple of PARTITION_GRAIN_ELEMS */
    uint64_t n_elems;
};

struct plan_rank_share {
    const struct plan_range *ranges; /* in file order, at most one of each job */
    size_t n_ranges;
    uint64_t n_bytes_read, n_bytes_written; /* every input byte counted once */
};

struct plan_partition {
    enum plan_partition_mode mode;
    int n_ranks;
    struct plan_rank_share *shares; /* [n_ranks]; empty ones where there are more ranks than work */
    bool *job_is_split;             /* [plan.n_jobs]: more than one rank has elements of it */
    bool *job_is_shared;            /* [plan.n_jobs]: split, and its statistics are summed over the ranks */
    size_t n_split_jobs;
    double balance;            /* cost of the largest share over the mean: 1 is perfect */
    struct plan_range *ranges; /* what the shares point into */
    size_t n_ranges;           /* of all shares */
};

/* WM_USAGE (n_ranks outside 1..PARTITION_MAX_RANKS), WM_TEMPORARY. */
enum wm_status plan_partition_new(struct plan_partition **partition, const struct plan *plan, int n_ranks,
                                  enum plan_partition_mode mode, struct wm_error *err);
void plan_partition_free(struct plan_partition *partition); /* NULL is allowed */

/* What a range costs: bytes read once plus bytes written. Additive: the costs of a job's ranges sum to the job's. */
uint64_t plan_range_cost(const struct plan *plan, const struct plan_range *range);

#endif
