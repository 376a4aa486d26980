/*
 * merge_state.h: what a struct wm_merge holds between its phases, for merge.c and run.c. Internal to api/.
 */
#ifndef WM_API_MERGE_STATE_H
#define WM_API_MERGE_STATE_H

#include "api/open_models.h"

#include "engine/engine.h"
#include "engine/rank_progress.h"
#include "recipe/recipe.h"

struct wm_merge {
    struct wm_options options;
    char *config_path;
    struct recipe *recipe;
    struct open_models models;
    struct plan *plan;
    char *out_path; /* NULL: planned without one */
    int n_finishes; /* > 0: so many parts of others; nothing is computed */
    struct engine_result result;
    bool ready;    /* the end of a commit that was cut off is all that is left to do */
    bool complete; /* the output is there already, made by this very merge: nothing is left to do */
    bool done;
    volatile int cancel;         /* set by wm_merge_cancel, also from a signal handler */
    struct wm_progress progress; /* the last one delivered */
    struct comm *comm;           /* while a rank runs; NULL: alone */
    struct progress_rates rates;
    char comm_text[48]; /* what ranks spoke through, for people */
    int slowest_rank;   /* the last that was found to be it; -1: none */
    struct rank_progress rank_progress;
};

static inline void merge_begin_phase(const struct wm_merge *merge, struct problems *problems)
{
    problems_init(problems, merge->options.on_problem, merge->options.user, merge->options.strict != 0);
}

/* Ends a phase: findings first, then the phase's own failure, which may be among them already. */
static inline enum wm_status merge_end_phase(struct problems *problems, enum wm_status st, struct wm_error *err)
{
    enum wm_status ended = problems_end(problems, err);

    return st != WM_OK ? st : ended;
}

#endif
