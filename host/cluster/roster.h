/*
 * roster.h: who takes part in a run of ranks that share a directory, and who of them is still alive.
 *
 * What lives here: a thread that brings the ranks together, shows that this one lives, watches others, and carries the
 * first failure to everybody. What it must not know: collectives.
 *
 * Coming together (roster_join.c): rank 0 draws a random session number and publishes it; every rank answers by creating
 * its sign of life under that session (O_EXCL: no two processes are one rank); when all are there rank 0 lists their
 * random numbers, and whoever finds its own in the list has joined. What crashed starts have left can therefore never be
 * taken for this one's, even when a scheduler starts the same job again under the same name.
 * Staying (roster.c): a sign of life is a counter that moves; readers time it by their own monotonic clock, so clocks
 * need not agree. Every rank watches the next few ranks in a circle: if some ranks die and one lives, some dead rank is
 * watched by a living one, and the work does not grow with the square of the ranks.
 * Hanging (roster_guard.c): a second thread, which touches no file, tells the program when this rank cannot even fail.
 */
#ifndef WM_CLUSTER_ROSTER_H
#define WM_CLUSTER_ROSTER_H

#include "cluster/mailbox.h"

#include <pthread.h>

enum { ROSTER_WATCHED = 4, ROSTER_HOST_BYTES = 128, ROSTER_WHY_BYTES = 1024, ROSTER_NOTE_BYTES = 192 };

/* A rank that never appears is a failure only after this many deadlines: schedulers start late. */
#define ROSTER_GRACE_DEADLINES 5

struct life { /* payload of a sign of life */
    uint64_t nonce, counter;
    int64_t pid;
    char host[ROSTER_HOST_BYTES];
    char told[ROSTER_WHY_BYTES]; /* "" or what this rank tells about its failure: gets through on a full disk too */
    double note_age_seconds;     /* by its own clock, when this was written; negative: no note yet */
    unsigned char note[ROSTER_NOTE_BYTES];
};

struct watched {
    int rank;
    double silent_seconds;
    struct life last; /* counter 0: not read yet */
};

/* What a rank has said about itself; times are this process's. */
struct note {
    double since;     /* when it was published                                                       */
    uint64_t counter; /* of the sign of life that brought it; the roster's thread alone looks at it */
    bool is_there;
    unsigned char bytes[ROSTER_NOTE_BYTES];
};

/* Called once, from a thread of its own, when this rank hangs: nothing that it can do brings its other threads back. */
typedef void (*roster_stuck)(void *user, const struct wm_error *why);

struct roster {
    int rank, size;
    double deadline_seconds;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* joined, failed, or stopping; CLOCK_MONOTONIC */
    pthread_t thread;

    /* Under the lock; once joined nobody changes box any more. */
    struct mailbox box; /* session 0: none known yet                                    */
    bool has_life;      /* our sign of life is in box.session                           */
    bool joined, stopping;
    bool leader_moves;           /* rank 0 was seen alive in box.session: it is no leftover      */
    struct wm_error why;         /* status WM_OK: nothing failed                                 */
    char told[ROSTER_WHY_BYTES]; /* the same for other ranks, with our name in front if it is us */
    int lost_rank;               /* whom the failure says to be dead, or -1                      */
    bool announced;              /* others know from the directory                               */
    struct note *notes;          /* [size], this rank's own among them                           */
    bool wants_notes;            /* somebody has asked for one: others' are read from then on    */
    double last_beat;            /* our last sign of life that got through, or when we joined    */

    /* The thread's own. */
    double began, last_check;
    struct life life;
    uint64_t taken_in;       /* session in which another process is this rank, or 0 */
    uint64_t leader_counter; /* rank 0's, when last read before joining             */
    uint64_t *nonces;        /* [size] */
    struct mail_view view;
    int next_note; /* whose is read next */
    int n_watched;
    struct watched watched[ROSTER_WATCHED];

    /* roster_guard.c */
    roster_stuck on_stuck; /* NULL: there is no guard */
    void *user;
    pthread_t guard;
    uint64_t steps;  /* under the lock: grows while the roster's thread gets on */
    bool guard_ends; /* under the lock */
};

enum wm_status roster_start(struct roster *r, const char *dir, const char *job, int rank, int size,
                            double deadline_seconds, roster_stuck on_stuck, void *user, struct wm_error *err);
/* Says goodbye, ends the thread; the last one out removes the run's files. */
void roster_stop(struct roster *r);

/* This rank's own failures keep their status here; on other ranks they are WM_TEMPORARY. */
bool roster_failed(struct roster *r, struct wm_error *err);
/* The first failure wins and is told to everybody. */
void roster_fail(struct roster *r, enum wm_status status, const char *why);
/* This rank has shown no sign of life for the deadline, because it was stopped or its file server hung: the others have
 * given it up, and another run may be writing where it did. It fails before it does anything more. */
void roster_check_lease(struct roster *r);
/* The files of this run have been removed under it. */
void roster_fail_gone(struct roster *r);
/* Takes over what another rank's abort says, if it can be read. */
void roster_take_abort(struct roster *r, int from);
bool roster_joined(struct roster *r);
/* A note travels with the next sign of life. Memory alone. */
void roster_publish(struct roster *r, const void *note, size_t n_bytes);
bool roster_peek(struct roster *r, int rank, void *note, double *age_seconds);
/* Sleeps, but wakes early when something above changes. */
void roster_sleep(struct roster *r, double seconds);

/* ---- between roster.c, roster_join.c, roster_notes.c and roster_guard.c ---------------------------------------- */

struct session_card { /* payload of MAIL_SESSION */
    uint64_t session;
    int32_t size;
    char host[ROSTER_HOST_BYTES];
};

void roster_come_together(struct roster *r); /* until joined or stopping */
/* Makes the directory, once its parent is there: another rank may be about to make that. */
enum wm_status roster_need_dir(struct roster *r, bool *is_there, struct wm_error *err);
/* Another rank's failure, as it told it. */
void roster_take_over(struct roster *r, const char *told);
void roster_announce(struct roster *r);
bool roster_is_stopping(struct roster *r);
enum wm_status roster_beat(struct roster *r, struct wm_error *err);
struct letter roster_letter(enum mail_kind kind, int rank, size_t n_bytes);
/* This rank's note into its next sign of life; called under the lock. */
void roster_pack_note(struct roster *r);
/* Others' notes, if anybody asked: a few hundred at each call, the next few hundred at the next. */
void roster_read_notes(struct roster *r);
bool roster_get(const struct roster *r, enum mail_kind kind, int rank, void *payload, size_t n_bytes);
/* The roster's thread says so once in every round. */
void roster_step(struct roster *r);
void *roster_guard(void *roster);

#endif
