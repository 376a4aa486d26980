/*
 * rank_progress.h: how far all ranks are together.
 *
 * What lives here: what a rank tells about its share in a note (cluster/comm.h), and rank 0's sum of the notes. What it
 * must not know: who draws it, and what the ranks work on. Nothing here makes a collective call.
 */
#ifndef WM_ENGINE_RANK_PROGRESS_H
#define WM_ENGINE_RANK_PROGRESS_H

#include "cluster/comm.h"
#include "engine/progress_rates.h"
#include "warpmerge.h"

#define RANK_PROGRESS_HOST_BYTES 64

/* Of one run; zero it before the first use. Nothing to release. */
struct rank_progress {
    /* Of all ranks, by the plan: the caller's to fill. 0: what the ranks heard of add up to. */
    uint64_t all_to_read, all_to_write, all_tensors;

    char slowest_host[RANK_PROGRESS_HOST_BYTES];
};

/* Tells the others how this rank's share goes, and how fast. comm NULL: nobody. */
void rank_progress_publish(const struct progress_rates *rates, struct comm *comm, const struct wm_progress *progress);
/* Fills the ranks' part of `progress`: on rank 0 the sums. comm NULL, or of one: leaves it alone. */
void rank_progress_sum(struct rank_progress *r, struct comm *comm, struct wm_progress *progress);

/* comm's barrier, during which options->on_progress (may be NULL) is called a few times a second on the calling thread
 * with `progress` in the phase "waiting", so that a rank that is through shows what the others still do. When it returns
 * non-zero the wait ends for all ranks: here with WM_CANCELLED. */
enum wm_status rank_progress_barrier(struct comm *comm, const struct wm_options *options,
                                     const struct wm_progress *progress, struct wm_error *err);

#endif
