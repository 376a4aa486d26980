/*
 * pipeline.h: tiles from the inputs through the backend to the shards.
 *
 * What lives here: the entry point of the streaming run and what it needs. What it must not know: how the output
 * directory is locked, resumed or committed.
 */
#ifndef WM_ENGINE_PIPELINE_H
#define WM_ENGINE_PIPELINE_H

#include "engine/backends.h"
#include "engine/engine.h"
#include "engine/journal.h"
#include "engine/resume.h"
#include "engine/run_job.h"

struct pipeline_totals {
    uint64_t bytes_read, bytes_written; /* written: computed in this run */
    uint64_t tensors_done;
    double read_busy, compute_busy, write_busy;
    double setup_seconds;        /* before its first thread began and after the last one ended */
    char notice[WM_ERROR_BYTES]; /* something the user should hear although the run succeeded; "" */
};

struct pipeline_args {
    const struct plan *plan;
    const struct wm_options *options;
    struct backend *const *backends; /* [n_backends]: the CPU's alone, or one for each GPU */
    int n_backends, threads_per_backend;
    const int *shard_fds;  /* [n_shards], open for writing, allocated, headers written */
    const int *direct_fds; /* [n_shards], the same files with O_DIRECT, or -1 */
    struct journal *journal;
    struct resume *resume;           /* entries are taken out as their jobs begin */
    const struct plan_range *ranges; /* [n_ranges] what is ours, in file order */
    size_t n_ranges;
    const struct run_share
        *share; /* not NULL: the ranges are parts of tensors with statistics that other ranks share in */
    void (*share_error)(void *user, struct wm_error *err); /* ... why reduce said false */
    struct hash128 *job_hashes;                            /* [n_jobs], filled for tensors that are ours alone */
    struct hash128 **split_digests; /* [n_jobs]: of pieces, filled for parts of tensors that are split; may be NULL when
                                       none is */
    bool (*interrupted)(void *user, struct wm_error *err); /* NULL, or asked often: must the run end, and why? */
    void *interrupted_user;
    const volatile int *cancel;
    double start_seconds;          /* file_now_seconds() when the run began, for progress */
    struct pipeline_totals before; /* of earlier pipelines of this run; and what all of them together have to do: */
    uint64_t bytes_to_read, bytes_to_write;
    size_t n_tensors;
};

/* Runs every job that is not finished yet. On return all threads have ended; on failure what was journaled stays. */
enum wm_status pipeline_run(const struct pipeline_args *args, struct pipeline_totals *totals, struct wm_error *err);

#endif
