/*
 * survey_count.h: one pass of the survey, among the files that run it.
 *
 * What lives here: what survey.c (the passes), survey_count.c (threads that read, and count where the CPU counts) and
 * survey_drive.c (threads that drive a GPU each) share. Everything changes under the lock. What it must not know: the file
 * of the result, other ranks.
 */
#ifndef WM_ENGINE_SURVEY_COUNT_H
#define WM_ENGINE_SURVEY_COUNT_H

#include "engine/backends.h"
#include "engine/survey.h"

#include <pthread.h>

struct source;
struct survey;

/* A tile that was read and is to be counted; lives with the thread that read it, which waits. */
struct survey_hand {
    struct merge_op op;
    struct backend_task task;
    pthread_cond_t counted;
    bool done;
    struct survey_hand *next; /* in the queue */
};

struct survey_reader {
    struct survey *survey;
    pthread_t thread;
    unsigned char *buffers; /* [max_sources][slot_bytes] */
};

struct survey_driver {
    struct survey *survey;
    struct backend *backend;
    pthread_t thread;
    bool gone;          /* lost, or it failed: it takes no tiles any more */
    size_t n_collected; /* the last pass that it has collected            */
};

struct survey {
    const struct survey_args *args;
    const struct plan *plan;
    struct model_statistics *statistics;
    struct survey_result *result;
    struct plan_range *everything; /* when the caller named no ranges */
    const struct plan_range *ranges;
    size_t n_ranges;
    struct source ***sources; /* [n_models][n_files], opened on first use */
    int max_sources;
    enum wm_direct_io direct_io;

    struct backend *own; /* the CPU's, where the caller has none that is of use */
    struct backend *cpu; /* NULL: drivers count; else tiles are counted by the threads that read them, ... */
    void **places;       /* ... as many at once as there are of these: [n_places], the free ones first     */
    int n_places, n_free_places;
    struct backend *owner; /* of the buffers */
    unsigned char *buffers;
    struct survey_reader *readers; /* [n_readers] */
    size_t n_readers, n_running;
    struct survey_driver drivers[BACKENDS_MAX];
    int n_drivers;
    bool closing;

    pthread_mutex_t lock;
    pthread_cond_t changed, can_count, can_drive;
    struct survey_hand *first, *last; /* the queue of the drivers */
    size_t n_passes_begun;            /* those that had to start over included */
    bool all_read;                    /* of this pass                          */
    bool lost;                        /* a GPU, in this pass: it starts over   */
    uint64_t bytes_again;             /* read in passes that started over      */
    size_t next_range;                /* of this pass, ...                     */
    uint64_t next_offset;             /* ... and the element in it             */
    struct wm_error error, notice;
};

/* ---- survey_count.c ---- */

/* Does the survey read this tensor? *op is its operation. */
bool survey_wants_job(const struct plan *plan, const struct plan_job *job, struct merge_op *op);
/* All tiles of a pass are read and counted, what drivers have counted is collected. With survey->lost the counts are worth
 * nothing. */
enum wm_status survey_count_pass(struct survey *s, struct wm_error *err);
/* The pass must end: nothing is read any more, and no tile waits for a driver. With the lock held. */
void survey_fail(struct survey *s, const struct wm_error *err);

/* ---- survey_drive.c ---- */

enum wm_status survey_drivers_start(struct survey *s, struct wm_error *err);
void survey_drivers_stop(struct survey *s);
/* With the lock held: */
int survey_n_driving(const struct survey *s);         /* drivers that are not gone                            */
bool survey_drivers_are_busy(const struct survey *s); /* one has not collected the pass                    */
void survey_hand_over(struct survey *s, struct survey_hand *hand); /* ... and wait until it is counted     */
void survey_drop_queue(struct survey *s); /* whose owners go on as if the tiles were counted      */

#endif
