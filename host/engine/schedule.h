/*
 * schedule.h: who does what next.
 *
 * What lives here: the pipeline's shared state and the decisions made on it, all under its one lock: which tile is read
 * next, which is computed next, what a finished tile sets free. For pipeline.c and schedule.c only. What it must not
 * know: how tiles are read, computed or written.
 */
#ifndef WM_ENGINE_SCHEDULE_H
#define WM_ENGINE_SCHEDULE_H

#include "engine/pipeline.h"
#include "engine/run_job.h"

#include <pthread.h>

struct write_task {
    struct run_job *job;
    size_t tile;
    uint32_t out_slot;
    uint64_t n_elems;
    struct hash128 hash;
    bool is_hashed; /* else the writer makes the hash, and those of the pieces */
    bool is_guess;  /* stays out of the journal until the guess is judged */
};

struct pipeline {
    const struct pipeline_args *args;
    const struct plan *plan;
    struct source ***sources; /* [n_models][n_files], opened on first use */

    pthread_mutex_t lock;
    pthread_cond_t can_read, can_compute, can_write, changed;
    struct run_job *jobs, *last_job; /* active, oldest first */
    struct run_job *retired;         /* complete; their owners' threads free them */
    struct run_job *candidate;       /* built, waiting for its slots */
    size_t next_job;                 /* range to admit */
    size_t n_active;
    uint64_t statistics_bytes; /* of the active jobs */
    uint32_t *free_slots, *free_out_slots;
    uint64_t n_free_slots, n_free_out_slots, n_reserved;
    struct write_task *writes; /* a ring of n_out_slots */
    uint64_t first_write, n_writes;
    bool stop, all_done;
    struct wm_error error, notice;
    uint64_t tensors_done, bytes_read, bytes_written;
    const char *shard; /* last written */
    double read_busy, compute_busy, write_busy;
    int n_lost; /* backends whose threads went on without them */
    struct run_devices devices;

    unsigned char *slots, *out_slots;
    struct backend *slots_of, *out_slots_of; /* whose memory they are ...           */
    struct backend *pageable;                /* ... ours, if the device's was refused */
};

/* Every function below is called with the lock held. */

/* Values that the options do not let pass, and the error that says so. Without the lock, too. */
bool schedule_is_refused(const struct pipeline *p, const struct merge_report *r);
void schedule_refusal(const struct pipeline *p, const struct plan_job *pj, const struct merge_report *r,
                      struct wm_error *err);
/* Records the first error and wakes everybody up to stop. */
void schedule_fail(struct pipeline *p, const struct wm_error *err);
/* A tile to read, its slots taken; false: wait on can_read (or everything is admitted and done). */
bool schedule_take_read(struct pipeline *p, struct run_job **job, size_t *tile);
/* A tile to compute; for the element-wise pass with an output slot. No group, unless takes_groups. false: wait on
 * can_compute. */
bool schedule_take_compute(struct pipeline *p, const struct backend *backend, bool takes_groups, struct run_job **job,
                           size_t *tile, uint32_t *out_slot);
/* The job is this backend's from now on; true for the first tile, when its tensor_new has to be called. */
bool schedule_bind(struct pipeline *p, struct run_job *job, struct backend *backend);
/* A tile of the job can be computed: wakes one thread, or where several backends wait, all of them. */
void schedule_wake_compute(struct pipeline *p, const struct run_job *job);
void schedule_push_write(struct pipeline *p, const struct write_task *task);
bool schedule_take_write(struct pipeline *p, struct write_task *task);
void schedule_release_slots(struct pipeline *p, struct run_job *job, size_t tile);
void schedule_release_out_slot(struct pipeline *p, uint32_t out_slot);
/* Every tile of the current statistics pass is through, and `next` comes after it. */
void schedule_begin_pass(struct pipeline *p, struct run_job *job, enum stat_pass next);
/* One tile of the element-wise pass is through; the last one completes the job. It is freed, or if its owner keeps state
 * of it, retired until the owner's thread reaps it. */
void schedule_tile_finished(struct pipeline *p, struct run_job *job, size_t tile, bool written);
void schedule_reap(struct pipeline *p, struct backend *backend, void *thread);
/* At a thread's end: also the state of jobs that were never completed. */
void schedule_reap_all(struct pipeline *p, struct backend *backend, void *thread);
/* A lost backend's jobs begin again, elsewhere; waits until readers and writers have let go of them. */
void schedule_restart_jobs(struct pipeline *p, struct backend *lost);
/* When nothing is left: marks the run as done and wakes everybody. */
bool schedule_is_done(struct pipeline *p);

#endif
