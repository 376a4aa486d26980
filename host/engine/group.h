/*
 * group.h: small tensors that go through the pipeline together.
 *
 * What lives here: which consecutive jobs make a group, and a group's reading and computing. A checkpoint may hold a
 * hundred thousand tensors of a few KB; each alone would cost a read per input, a write, and several hand-overs between
 * threads (2026-11-22: 150 us a tensor on 2 cores). A group is read in runs that are contiguous in its inputs, handed to
 * the backend as one, and written at once, since its outputs are neighbours in the shard. What it must not know:
 * scheduling, how backends compute.
 */
#ifndef WM_ENGINE_GROUP_H
#define WM_ENGINE_GROUP_H

#include "engine/stages.h"

/* Where several groups are on their way at once, one is no more than the backend takes at once. */
size_t group_most_members(const struct backend *backend);
/* How many of the n ranges, from the first on, form a group; 1: that one goes alone. Small tensors are never split. Another
 * backend may compute it after all. */
size_t group_count(const struct plan *plan, const struct plan_range *ranges, size_t n_ranges,
                   const struct resume *resume, size_t most_members);
/* Of a group's state of statistics, for one member at a time. */
uint64_t group_statistics_bytes(const struct plan *plan, size_t first, size_t n_members);

/* Reads all members' inputs into the job's slots. Without the lock. */
enum wm_status group_read(struct pipeline *p, struct run_job *job, uint64_t *n_bytes, struct wm_error *err);

/* A group between submit and the last await. */
struct group_flight;

/* Starts all passes of all members; `out` gets their outputs one after the other. *flight is NULL after a failure. Without
 * the lock. */
enum wm_status group_submit(const struct pipeline *p, struct backend *backend, void *thread, struct run_job *job,
                            unsigned char *out, struct group_flight **flight, struct wm_error *err);
/* Waits for what is on its way. *is_done is false while more has been set on its way; else, from a backend that takes one
 * at a time, job->digests has the hash of every member. WM_BAD_DATA when a member's values are refused: nothing of the group
 * may be written then. Without the lock. */
enum wm_status group_await(const struct pipeline *p, struct backend *backend, void *thread, struct group_flight *flight,
                           bool *is_done, struct wm_error *err);
/* The hashes of n members, whose outputs lie in `out`, into job->digests. Without the lock. */
void group_hash(struct run_job *job, size_t first, size_t n, const unsigned char *out);
/* When nobody computes it any more. NULL: nothing. */
void group_flight_free(struct group_flight *flight);
uint64_t group_out_bytes(const struct run_job *job);

#endif
