/*
 * engine.h: carrying a plan out.
 *
 * What lives here: the run over a plan's jobs (readers, compute, writers over a ring of tiles), resumption from the
 * journal, and the output directory from lock to commit. What it must not know: how recipes become plans, and what
 * goes into cards and manifests (the caller writes those between engine_run and output_commit).
 */
#ifndef WM_ENGINE_H
#define WM_ENGINE_H

#include "cluster/comm.h"
#include "plan/plan.h"
#include "plan/plan_partition.h"

/* ---- the output directory ----------------------------------------------------------------------------------- */

/* Built as "<parent>/.<name>.warpmerge-partial", renamed to <out> at the commit. */
struct output {
    char *final_path;   /* the name the user gave, without trailing slashes */
    char *partial_path; /* where everything is written until the commit     */
    int lock_fd, part_lock_fd;
    bool replaces; /* final_path exists and is to be replaced (overwrite) */
    bool resumes;  /* an earlier run's partial directory was found        */
};

/* Who opens an output, and so what is locked. Parts lock it against everybody but other parts. */
enum output_user {
    OUTPUT_ALONE, /* one process, or rank 0 for all ranks */
    OUTPUT_RANK,  /* another rank: takes what rank 0 has opened, checks and locks nothing */
    OUTPUT_PART,  /* one of several processes that do not talk */
    OUTPUT_FINISH /* after all parts: there must be something unfinished */
};

/* Before anything is started: refuses an output that is one of the inputs or contains or lies in one, a non-empty
 * output (unless options->overwrite), a parent that does not exist or cannot be written, too little free space, and a
 * partial directory another process works on. Creates and locks the partial directory. WM_CANT_CREATE, WM_TEMPORARY. */
enum wm_status output_open(struct output *output, const char *out_path, const struct plan *plan,
                           const struct wm_options *options, enum output_user user, int part, struct problems *problems,
                           struct wm_error *err);
/* The checks of output_open alone, creating nothing (for `plan`). */
enum wm_status output_check(const char *out_path, const struct plan *plan, const struct wm_options *options,
                            struct problems *problems, struct wm_error *err);
/* Removes the journal, syncs the directory, renames it into place, syncs the parent. */
enum wm_status output_commit(struct output *output, const struct wm_options *options, struct wm_error *err);
/* A commit that was cut off: in the partial directory nothing of ours is left but the lock, so that all that it needs is its
 * name. (Every run has a journal there before it touches a shard.) */
bool output_is_ready(const char *partial_path);
/* Ends it. WM_CANT_CREATE where the name is taken, WM_TEMPORARY. */
enum wm_status output_commit_ready(const char *out_path, const struct wm_options *options, struct problems *problems,
                                   struct wm_error *err);
char *output_partial_path(const char *out_path); /* malloc'ed; NULL without memory */
void output_release(struct output *output);      /* unlocks; an uncommitted partial directory stays for the next run */

/* Bytes of a tile that suit the devices that the options choose; 0: the plan's own size, which suits the CPU. Ranks, which
 * must agree, go by what was asked for and not by what each of them finds. */
uint64_t backends_tile_bytes(const struct wm_options *options);

/* Is there a device such as the options ask for? WM_NO_DEVICE. Opens nothing. */
enum wm_status backends_check(const struct wm_options *options, struct wm_error *err);

/* What a run would take of each GPU: from options->device_memory_bytes, else from what the first of them has free now. False:
 * there is none that the run would use, and *memory is what one would need to have. */
bool backends_measure(const struct plan *plan, const struct wm_options *options, struct plan_device_memory *memory);

/* "cpu, 8 GPUs", "cpu (this build has no CUDA backend)": for people. Returns buffer. */
const char *backends_summary(char *buffer, size_t size);

/* ---- the run ------------------------------------------------------------------------------------------------ */

#define ENGINE_MAX_DEVICES 16

struct engine_result {
    struct hash128 *job_hashes; /* [n_jobs] of each output tensor (tree hash, see journal.h); malloc'ed */
    uint64_t bytes_read, bytes_written, bytes_resumed;
    uint64_t n_resumed_jobs;
    uint64_t device_bytes[ENGINE_MAX_DEVICES]; /* copied to and from each GPU ... */
    int n_devices;                             /* ... that was used; 0: the CPU did everything */
    uint64_t n_checked; /* blocks of GPU work that the CPU has computed as well, and found the same */
    double seconds;     /* whole run, fsync included */
    double sync_seconds;
    double setup_seconds; /* devices opened, memory page-locked and given back: nothing is read, computed or written */
    double read_busy, compute_busy, write_busy; /* thread-seconds spent in each stage */
    uint64_t peak_rss_bytes;                    /* of the process so far */
    const char *limiter;                        /* "reading", "computing", "writing", "syncing": where most time went */
    int n_compute;                              /* compute threads */
    char compute[128];                          /* "cpu avx512" */
    char notice[WM_ERROR_BYTES];                /* something the user should hear although the run succeeded; or "" */
    struct model_thresholds thresholds;         /* plan->n_survey_passes: what the survey found */
    bool survey_was_known;                      /* ... in an earlier run */
};

/* One of several processes that write one output. */
struct engine_team {
    enum output_user role;
    int index, size;                        /* OUTPUT_RANK and rank 0: the rank; OUTPUT_PART: the part */
    const struct plan_partition *partition; /* with OUTPUT_FINISH: of the parts */
    struct comm *comm;                      /* ranks; NULL with parts */
};

/* Writes every shard of the plan into output->partial_path and makes them durable. Continues from the journal if there
 * is one that fits the plan's fingerprint; a journal of another plan is refused unless options->restart. Calls
 * options->on_progress on the calling thread. `cancel` may be set at any time by anyone.
 *
 * team (NULL: alone): ranks each write their share, and when the call returns every share is durable and result has all
 * hashes on every rank; a part writes its share and knows no other's hashes; OUTPUT_FINISH computes nothing: what the
 * journals say is read and compared, and WM_TEMPORARY names what is missing. */
enum wm_status engine_run(const struct plan *plan, const struct output *output, const struct wm_options *options,
                          const struct engine_team *team, const volatile int *cancel, struct engine_result *result,
                          struct wm_error *err);
/* What a process of a merge reads in all, survey and repeated reading included. */
uint64_t engine_bytes_to_read(const struct plan *plan, const struct engine_team *team);
/* The survey alone, of a plan that has one: leaves its file in output->partial_path, where engine_run finds it. Nothing to
 * do for other plans. team (NULL: alone): ranks each count their share; when the call returns the file is there. */
enum wm_status engine_survey(const struct plan *plan, const struct output *output, const struct wm_options *options,
                             const struct engine_team *team, const volatile int *cancel, struct engine_result *result,
                             struct wm_error *err);
void engine_result_release(struct engine_result *result);

#endif
