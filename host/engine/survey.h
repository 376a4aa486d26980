/*
 * survey.h: statistics of the whole model, before the merge: what `ties` with `trim: global` has to know first.
 *
 * What lives here: reading every tensor once per pass, counting, and the file in which the result waits for the merge or
 * for the next run. Bounded like the merge itself: it uses the memory that the plan sets aside for the ring of tiles. What
 * it must not know: what the counts mean (kernels/statistics/model_statistics.h), outputs, who the other ranks are.
 */
#ifndef WM_ENGINE_SURVEY_H
#define WM_ENGINE_SURVEY_H

#include "plan/plan.h"
#include "plan/plan_partition.h"
#include "statistics/model_statistics.h"

struct backend;

/* In the partial directory until the commit. */
#define SURVEY_FILE_NAME "statistics.warpmerge.json"

struct survey_args {
    const struct plan *plan;
    const struct wm_options *options;
    const char *dir;                 /* where the file is, or will be */
    struct backend *const *backends; /* [n_backends]: the CPU's alone, or one for each GPU; none: the CPU counts */
    int n_backends;

    const struct plan_range *ranges; /* [n_ranges] what is read here; NULL: everything if alone, nothing for a rank */
    size_t n_ranges;
    /* counts[i] becomes the sum over all ranks; called on the calling thread, as often on every rank. NULL: alone. */
    enum wm_status (*reduce)(void *user, uint64_t *counts, size_t n_counts, struct wm_error *err);
    void *user;
    bool writes_file; /* one rank does */

    const volatile int *cancel;
    uint64_t bytes_to_read; /* by all passes, here; for progress                         */
    uint64_t bytes_after;   /* ... and by what comes after the survey                    */
    double start_seconds;   /* file_now_seconds() when the run began, for progress */
};

struct survey_result {
    struct model_thresholds thresholds;
    bool was_known;     /* from the file of an earlier run: nothing was read                 */
    int n_known_passes; /* ... or these many passes of an unfinished one were                */
    uint64_t bytes_read;
    double read_busy, compute_busy; /* thread-seconds */
    char notice[WM_ERROR_BYTES];    /* something the user should hear although the survey succeeded; or "" */
};

/* Runs the passes that the file of an earlier run does not have yet, if that belongs to this plan and options->restart is not
 * set. Only for plans with survey passes (plan->n_survey_passes). Goes on without a GPU that is lost, whose backend says so
 * then. */
enum wm_status survey_run(const struct survey_args *args, struct survey_result *result, struct wm_error *err);
/* What all passes read of the ranges. */
uint64_t survey_bytes_of(const struct plan *plan, const struct plan_range *ranges, size_t n_ranges);

/* The file of a survey that is finished. false: there is none, or it is not whole, or it is of another plan; `expected` says
 * what the plan's models are (model_statistics_add of every job); NULL: whose file it is is all that is asked. */
bool survey_load(const char *dir, const struct plan *plan, const struct model_statistics *expected,
                 struct model_thresholds *thresholds);
/* Goes on where the file's survey stopped, after model_statistics_begin. false, and nothing is changed: as above, or no pass
 * of it is over. */
bool survey_load_passes(const char *dir, const struct plan *plan, struct model_statistics *statistics);
/* Between passes, and after the last one. */
enum wm_status survey_save(const char *dir, const struct plan *plan, const struct model_statistics *statistics,
                           bool sync, struct wm_error *err);

#endif
