/*
 * run_job.h: one tensor on its way through the pipeline.
 *
 * What lives here: the state of a job between its first read and its last write: passes, tiles, the slots its tiles
 * hold. Everything is touched under the pipeline's lock unless it says otherwise. What it must not know: threads.
 */
#ifndef WM_ENGINE_RUN_JOB_H
#define WM_ENGINE_RUN_JOB_H

#include "engine/resume.h"
#include "methods/tile.h"
#include "plan/plan.h"
#include "plan/plan_partition.h"

struct backend;

#define RUN_NO_SLOT UINT32_MAX

/* What jobs need to know of the run's devices. Of tensors with statistics all of them have memory for those of at most so many
 * tiles of inputs (0: none) and of at least so many elements. A group has at most so many members. */
struct run_devices {
    uint64_t n_stay_slots, stay_min_elems;
    size_t group_members;
};

/* Statistics of a tensor that other ranks have parts of. */
struct run_share {
    statistics_reduce *reduce;
    void *user;
};

struct run_job {
    size_t index;
    const struct plan_job *plan_job;
    uint64_t first_elem, n_elems; /* the range of it that is ours: everything, but for a tensor split over ranks */
    size_t first_tile;            /* number of its first tile in the whole tensor (with statistics) */
    size_t n_members; /* above 1: a group (group.h) of this and the next jobs, which has one tile and no passes */
    const struct run_share *share; /* NULL: ours alone                                        */
    struct merge_op op;            /* PLAN_MERGE                                              */
    struct statistics *statistics; /* NULL: none needed                                       */
    uint64_t statistics_bytes;     /* of its state, at most */
    enum stat_pass pass;           /* STAT_READY: the element-wise pass                       */
    bool resident;                 /* all tiles stay in their slots between passes            */
    bool stays;                    /* all tiles shall stay in a device's memory               */
    bool finishing;                /* a thread is in statistics_finish_pass                   */
    size_t n_tiles;

    size_t next_read;          /* tile to read next in this pass; n_tiles: none           */
    size_t n_pass_done;        /* tiles that went through this statistics pass            */
    size_t n_finished;         /* tiles whose output is written, taken over, or refused   */
    uint64_t n_slots_reserved; /* resident: slots set aside and not yet taken             */

    uint32_t *ready; /* FIFO of tiles waiting for a compute thread, a ring      */
    size_t ready_first, n_ready;
    unsigned char *arrived;    /* in-order passes: the tile's data is there               */
    unsigned char *tile_stays; /* [n_tiles] it is in the owner's memory, and its slots are somebody else's */
    size_t next_in_order;

    uint32_t *slots;           /* [n_tiles][n_sources] or RUN_NO_SLOT                     */
    const void **data;         /* [n_tiles][n_sources] where in the slot the bytes begin; group: [n_members][...] */
    struct hash128 *digests;   /* [n_pieces]; group: [n_members]                          */
    unsigned char *piece_done; /* [n_pieces] taken over from an earlier run; NULL: none   */
    struct merge_report report;
    bool refused; /* a tile's values were refused; nothing of it was written */

    struct backend *owner;         /* who computes it; NULL: nobody yet                       */
    void *tensor;                  /* the owner's state of it                                 */
    unsigned char *tile_written;   /* [n_tiles]                                               */
    unsigned char *tile_guessed;   /* [n_tiles] written by a guess that may not stand         */
    bool guess_is_marked;          /* in the journal                                          */
    unsigned n_reading, n_writing; /* tiles that readers and writers are at                   */
    bool restarting;               /* its device was lost: waits for those to be 0            */

    struct run_job *next; /* in the list of active jobs, oldest first                */
};

/* The first of n ranges, or the group that begins with it. Without statistics state when the operation needs none. share:
 * NULL for tensors that are ours alone. NULL on failure, with err filled. */
struct run_job *run_job_new(const struct plan *plan, const struct plan_range *ranges, size_t n_ranges,
                            const struct run_share *share, const struct run_devices *devices, struct resume *resume,
                            struct wm_error *err);
void run_job_free(struct run_job *job);
/* From the first pass again, keeping what is written. Nothing of it may be in anybody's hands, its slots are released. */
bool run_job_restart(struct run_job *job, const struct plan *plan, struct wm_error *err);

/* What statistics_counts_wrong means to the user. */
enum wm_status run_job_counts_wrong(const struct plan_job *job, struct wm_error *err);

void run_job_push_ready(struct run_job *job, size_t tile);
size_t run_job_pop_ready(struct run_job *job);
/* Begins the job's current pass: nothing read but what stays with the owner, or for a resident job after its first pass
 * everything ready. Tiles that the pass does not need count as done. */
void run_job_begin_pass(struct run_job *job, bool data_is_there);
uint64_t run_job_n_slots(const struct run_job *job); /* of all its tiles */
/* Does the current pass have an output? */
bool run_job_writes(const struct run_job *job);
bool run_job_needs_tile(const struct run_job *job, size_t tile); /* in the current pass */
/* The tile's data has arrived: makes it ready, or remembers it where tiles must go in order. */
void run_job_arrived(struct run_job *job, size_t tile);
/* After a tile of an in-order pass, or as soon as its backend sees to the order: makes the next one ready if it has
 * arrived. */
void run_job_advance_order(struct run_job *job);
uint64_t run_job_tile_elem(const struct run_job *job, size_t tile, uint64_t tile_elems); /* its first element */
bool run_job_tile_is_done(const struct run_job *job, size_t tile, uint64_t tile_elems);
void run_job_fill_tile(const struct run_job *job, size_t tile, uint64_t tile_elems, struct merge_tile *out);
/* The tensor's own number, for drawing samples: the same in every run. */
uint64_t run_job_key(const struct plan_job *job);

#endif
