/*
 * roster_guard.c: the thread that notices when all others of this rank hang; see roster.h.
 *
 * What lives here: telling the program that a file server, or a GPU, holds on to a thread for ever, so that a rank that was
 * cut off ends like the others. A call that waits for a lost server (an NFS mount that is "hard", FUSE) returns when the
 * server does, which may be never, and no other thread can call it back. What it must not know: files; it would hang too.
 */
#include "cluster/roster.h"

#include "base/file.h"

#include <stdio.h>

/* Ranks are given up after one deadline; as long again is for calls that fail by themselves in the end. */
#define DEADLINES_TO_END   2
#define LEAST_SECONDS      10.0 /* an orderly end on a busy machine is no hang, whatever the deadline */
#define STEPS_PER_PATIENCE 50

void roster_step(struct roster *r)
{
    pthread_mutex_lock(&r->lock);
    r->steps++;
    pthread_mutex_unlock(&r->lock);
}

static void tell(struct roster *r, const struct wm_error *why, double seconds)
{
    struct wm_error err = WM_ERROR_INIT;

    if (why->status == WM_OK)
        error_set(&err, WM_TEMPORARY,
                  "rank %d on %s waits for the files of this run in %.512s since %.3g s, longer than the deadline: the "
                  "other ranks have given it up; see that the storage answers again, then run the same command again, "
                  "it continues where it stopped",
                  r->rank, r->life.host, r->box.dir, seconds);
    else
        error_set(&err, why->status,
                  "%.1500s (and rank %d has not come to an end in %.3g s since: its storage or its GPU hangs)",
                  why->message, r->rank, seconds);
    r->on_stuck(r->user, &err);
}

/* A rank that was stopped as a whole (SIGSTOP, a suspended machine) has not hung: passed time counts up to two steps. */
void *roster_guard(void *argument)
{
    struct roster *r = argument;
    double patience = DEADLINES_TO_END * r->deadline_seconds, last = file_now_seconds(), silent = 0, failing = 0;
    struct wm_error why = WM_ERROR_INIT;
    uint64_t seen = 0;
    bool ends = false;

    if (patience < LEAST_SECONDS)
        patience = LEAST_SECONDS;
    while (!ends && silent <= patience && failing <= patience) {
        double step = patience / STEPS_PER_PATIENCE, now, passed;
        roster_sleep(r, step);
        now = file_now_seconds();
        passed = now - last < 2 * step ? now - last : 2 * step;
        last = now;
        pthread_mutex_lock(&r->lock);
        silent = r->steps == seen ? silent + passed : 0;
        seen = r->steps;
        failing = r->why.status == WM_OK ? 0 : failing + passed;
        why = r->why;
        ends = r->guard_ends;
        pthread_mutex_unlock(&r->lock);
    }
    if (!ends)
        tell(r, &why, silent > failing ? silent : failing);
    return NULL;
}
