/*
 * comm.h: what ranks say to each other.
 *
 * What lives here: the few collectives that a merge needs, behind one table of functions: self (one process), threads
 * (tests), files (processes that share the output's file system, whoever started them), NCCL (GPUs; its control plane
 * is files). What it must not know: plans, tensors, what the numbers mean.
 *
 * Volumes are small (histograms of a few 100 KB, counts, hashes); what matters is that no answer depends on the number
 * of ranks or the order of arrival, and that a rank that dies is noticed: every call ends within the deadline, and after
 * the first failure every later call on every rank fails too with WM_TEMPORARY (exit code 75: run again, it resumes); only
 * the rank whose own failure it was (a full disk, a wrong number of ranks) may keep its own status.
 * Integers are summed in any order; doubles are only ever gathered and then added by the caller in an order of its own.
 * Calls are collective: every rank makes the same calls in the same order, from one thread at a time; `failed`,
 * `abort`, `publish` and `peek` may be called from any thread at any time.
 */
#ifndef WM_CLUSTER_COMM_H
#define WM_CLUSTER_COMM_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COMM_DEFAULT_DEADLINE_SECONDS 60.0
#define COMM_MAX_RANKS                4096
#define COMM_NOTE_BYTES               192

struct comm;

struct comm_ops {
    const char *name; /* "self", "threads", "files", "nccl" */
    enum wm_status (*barrier)(struct comm *comm, struct wm_error *err);
    /* `all` is [size][n_bytes] in rank order; n_bytes is the same on every rank. */
    enum wm_status (*all_gather)(struct comm *comm, const void *mine, size_t n_bytes, void *all, struct wm_error *err);
    /* values[i] becomes the sum over the ranks. */
    enum wm_status (*all_reduce_u64)(struct comm *comm, uint64_t *values, size_t n, struct wm_error *err);
    /* True when a rank failed, aborted or was not heard of for the deadline; fills err with which and why. Cheap: polled
     * several times a second while ranks work on their own. */
    bool (*failed)(struct comm *comm, struct wm_error *err);
    /* Tells every rank to stop; `why` reaches their errors. */
    void (*abort)(struct comm *comm, const struct wm_error *why);
    /* What this rank has to say for itself just now (n_bytes <= COMM_NOTE_BYTES, the rest becomes zero); the newest note
     * counts. Nobody waits: it travels with the signs of life, and the last notes before the end may reach nobody. */
    void (*publish)(struct comm *comm, const void *note, size_t n_bytes);
    /* The newest note of `rank` that is known here, and the seconds since it was published: as old as a sign of life or
     * two (deadline / 20 each), more with hundreds of ranks. False: none yet. Looks at memory alone. The first call makes
     * this rank begin to collect notes, so that ranks that do not ask cost the file system nothing. */
    bool (*peek)(struct comm *comm, int rank, void *note /* [COMM_NOTE_BYTES] */, double *age_seconds);
    void (*close)(struct comm *comm); /* frees comm */
};

struct comm {
    const struct comm_ops *ops;
    int rank, size;
    double deadline_seconds;    /* without a sign of life; a call that others are late for waits as long as they live */
    const volatile int *cancel; /* NULL, or set to non-zero: pending and later calls fail with WM_CANCELLED */
};

/* One process. Never fails but for want of memory. */
enum wm_status comm_open_self(struct comm **comm, struct wm_error *err);

struct comm_files_options {
    const char *dir; /* of this job alone, on a file system that all ranks see; created by whoever comes first */
    const char *job; /* the same text on every rank of this run and no other (a scheduler's job id and restart
                                count, or what rank 0 wrote): messages of an earlier run are never taken for this one's */
    int rank, size;
    double deadline_seconds; /* 0: the default */
    /* NULL, or told once, from another thread, when this rank hangs in storage (or after a failure in anything) for twice
     * the deadline and can do nothing about it: the others have ended or are about to. */
    void (*on_stuck)(void *user, const struct wm_error *why);
    void *user;
};
enum wm_status comm_open_files(struct comm **comm, const struct comm_files_options *options, struct wm_error *err);

/* Removes what runs other than `job` (NULL: any) have left in `dir`, and the directory if it is empty then. For who knows
 * that no other run is at work there: whoever puts the output in place. */
void comm_files_clear(const char *dir, const char *job);

/* NCCL, loaded at run time (libnccl.so.2), on `device`; takes `control` (files or threads) over for everything but data:
 * the id, signs of life, aborts. WM_NO_DEVICE with a reason, the same on every rank, when there is no NCCL: the caller
 * goes on with `control`, which then stays its own. A failure leaves *comm as it was, so comm_open_nccl(&c, c, ...) gives
 * the better of the two. */
enum wm_status comm_open_nccl(struct comm **comm, struct comm *control, int device, struct wm_error *err);

/* What carries the data, for people: "NCCL 2.27.3", "files". Returns buffer. */
const char *comm_describe(const struct comm *comm, char *buffer, size_t size);

/* ---- built from the above ------------------------------------------------------------------------------------ */

/* Blocks of different lengths: `all` becomes malloc'ed memory with the blocks in rank order, offsets [size + 1] where
 * each begins. */
enum wm_status comm_gather_blocks(struct comm *comm, const void *mine, size_t n_bytes, void **all, size_t *offsets,
                                  struct wm_error *err);

#endif
