/* roster.c: see roster.h. Failing, staying, starting and stopping. */
#include "cluster/roster.h"

#include "base/file.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

/* Beats per deadline: a reader that misses many in a row on a busy server still sees some before the deadline. */
enum { beats_per_deadline = 20 };
#define MAX_TICK_SECONDS     0.5 /* how late a working rank may learn of an abort */
#define GOODBYE_SECONDS      2.0
#define GOODBYE_POLL_SECONDS 0.05

struct abort_card { /* payload of MAIL_ABORT */
    int32_t lost_rank;
    char told[ROSTER_WHY_BYTES];
};

struct letter roster_letter(enum mail_kind kind, int rank, size_t n_bytes)
{
    return (struct letter){.kind = kind, .rank = (uint32_t)rank, .n_bytes = n_bytes};
}

/* For the roster's thread, which alone changes r->box, and for everybody once joined. */
bool roster_get(const struct roster *r, enum mail_kind kind, int rank, void *payload, size_t n_bytes)
{
    struct letter want = roster_letter(kind, rank, n_bytes), found;
    int code;

    return mailbox_get(&r->box, &want, payload, &found, &code) == MAIL_READ;
}

static void copy_text(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%.*s", (int)size - 1, from);
}

/* ---- failing ------------------------------------------------------------------------------------------------ */

static void latch(struct roster *r, enum wm_status status, const char *why, const char *told, int lost_rank,
                  bool announced)
{
    pthread_mutex_lock(&r->lock);
    if (r->why.status == WM_OK) {
        error_set(&r->why, status, "%s", why);
        copy_text(r->told, sizeof r->told, told);
        r->lost_rank = lost_rank;
        r->announced = announced;
        pthread_cond_broadcast(&r->changed);
    }
    pthread_mutex_unlock(&r->lock);
}

/* Once, as soon as there is a session to put it in. A failure to write is no matter: the sign of life says it too. */
void roster_announce(struct roster *r)
{
    struct letter letter = roster_letter(MAIL_ABORT, r->rank, sizeof(struct abort_card));
    struct abort_card card;
    struct mailbox box;
    bool mine;

    memset(&card, 0, sizeof card);
    pthread_mutex_lock(&r->lock);
    box = r->box;
    mine = r->has_life && r->why.status != WM_OK && !r->announced;
    if (mine) {
        r->announced = true;
        card.lost_rank = r->lost_rank;
        memcpy(card.told, r->told, sizeof card.told);
    }
    pthread_mutex_unlock(&r->lock);
    if (mine)
        mailbox_put(&box, &letter, &card, NULL);
}

void roster_fail(struct roster *r, enum wm_status status, const char *why)
{
    char told[ROSTER_WHY_BYTES];
    int n = snprintf(told, sizeof told, "rank %d on %s stopped: ", r->rank, r->life.host);

    copy_text(told + n, sizeof told - (size_t)n, why);
    latch(r, status, why, told, -1, false);
    roster_announce(r);
}

/* Before anybody looks at the others' news: these may be there already, but the thread that brings them was stopped too. */
void roster_check_lease(struct roster *r)
{
    char text[ROSTER_WHY_BYTES];
    double silent;
    bool over;

    pthread_mutex_lock(&r->lock);
    silent = file_now_seconds() - r->last_beat;
    over = r->joined && r->why.status == WM_OK && silent > r->deadline_seconds;
    pthread_mutex_unlock(&r->lock);
    if (!over)
        return;
    snprintf(text, sizeof text,
             "rank %d was stopped for %.3g s, or its storage hung, longer than the deadline of %.3g s: the other ranks "
             "have given it up; run the same command again, it continues where it stopped",
             r->rank, silent, r->deadline_seconds);
    roster_fail(r, WM_TEMPORARY, text);
}

void roster_fail_gone(struct roster *r)
{
    char text[ROSTER_WHY_BYTES];

    snprintf(text, sizeof text,
             "the files of this run in %.512s are gone: the other ranks gave rank %d up, or another run of the same "
             "job began; "
             "see the messages of the other ranks, then run the same command again",
             r->box.dir, r->rank);
    roster_fail(r, WM_TEMPORARY, text);
}

void roster_take_over(struct roster *r, const char *told)
{
    latch(r, WM_TEMPORARY, told, told, -1, false);
    roster_announce(r);
}

void roster_take_abort(struct roster *r, int from)
{
    struct abort_card card;

    if (!roster_get(r, MAIL_ABORT, from, &card, sizeof card))
        return;
    card.told[sizeof card.told - 1] = '\0';
    latch(r, WM_TEMPORARY, card.told, card.told, card.lost_rank, true);
}

bool roster_failed(struct roster *r, struct wm_error *err)
{
    bool failed;

    pthread_mutex_lock(&r->lock);
    failed = r->why.status != WM_OK;
    if (failed)
        error_set(err, r->why.status, "%s", r->why.message);
    pthread_mutex_unlock(&r->lock);
    return failed;
}

bool roster_joined(struct roster *r)
{
    bool joined;

    pthread_mutex_lock(&r->lock);
    joined = r->joined;
    pthread_mutex_unlock(&r->lock);
    return joined;
}

bool roster_is_stopping(struct roster *r)
{
    bool stopping;

    pthread_mutex_lock(&r->lock);
    stopping = r->stopping;
    pthread_mutex_unlock(&r->lock);
    return stopping;
}

void roster_sleep(struct roster *r, double seconds)
{
    long ns = (long)(seconds * 1e9);
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += ns % 1000000000;
    until.tv_sec += ns / 1000000000 + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&r->lock);
    pthread_cond_timedwait(&r->changed, &r->lock, &until);
    pthread_mutex_unlock(&r->lock);
}

/* ---- staying ------------------------------------------------------------------------------------------------ */

enum wm_status roster_beat(struct roster *r, struct wm_error *err)
{
    struct letter life = roster_letter(MAIL_LIFE, r->rank, sizeof r->life);

    pthread_mutex_lock(&r->lock);
    memcpy(r->life.told, r->told, sizeof r->life.told);
    roster_pack_note(r);
    pthread_mutex_unlock(&r->lock);
    r->life.counter++;
    return mailbox_put_in_place(&r->box, &life, &r->life, false, NULL, err);
}

/* A rank whose own sign of life does not get through says so itself, before the others can only guess. */
static void show_life(struct roster *r, double now)
{
    struct wm_error err = WM_ERROR_INIT;

    if (roster_beat(r, &err) == WM_OK) {
        pthread_mutex_lock(&r->lock);
        r->last_beat = now;
        pthread_mutex_unlock(&r->lock);
    } else if (err.status == WM_NO_INPUT) {
        roster_fail_gone(r);
    } else if (now - r->last_beat > r->deadline_seconds / 2) {
        roster_fail(r, err.status, err.message);
    }
}

static void judge(struct roster *r, struct watched *w, double passed)
{
    char text[ROSTER_WHY_BYTES];
    struct life life;

    w->silent_seconds += passed;
    if (roster_get(r, MAIL_LIFE, w->rank, &life, sizeof life)) {
        life.host[sizeof life.host - 1] = life.told[sizeof life.told - 1] = '\0';
        if (life.counter != w->last.counter)
            w->silent_seconds = 0;
        w->last = life;
        if (*life.told)
            roster_take_over(r, life.told);
    }
    if (w->silent_seconds <= r->deadline_seconds)
        return;
    snprintf(
        text, sizeof text,
        "rank %d (process %lld on %s) has given no sign of life for %.3g s: it or its host died, or its storage hangs; "
        "see its own messages, then run the same command again, it continues where it stopped",
        w->rank, (long long)w->last.pid, *w->last.host ? w->last.host : "an unknown host", w->silent_seconds);
    latch(r, WM_TEMPORARY, text, text, w->rank, false);
    roster_announce(r);
}

static void watch(struct roster *r, double now, double period)
{
    double passed = now - r->last_check;

    /* When this rank itself was stopped for a while (a suspended machine, a hung file server), so were others: they get
     * the time to show themselves. */
    if (passed > 2 * period)
        passed = 2 * period;
    r->last_check = now;
    for (int i = 0; i < r->n_watched; i++)
        if (!(r->view.ranks[r->watched[i].rank] & MAIL_HAS_LEFT))
            judge(r, &r->watched[i], passed);
}

static void begin_to_watch(struct roster *r)
{
    r->n_watched = r->size - 1 < ROSTER_WATCHED ? r->size - 1 : ROSTER_WATCHED;
    for (int i = 0; i < r->n_watched; i++)
        r->watched[i].rank = (r->rank + 1 + i) % r->size;
    r->last_check = file_now_seconds();
}

static void *serve(void *argument)
{
    struct roster *r = argument;
    double period = r->deadline_seconds / beats_per_deadline, next = 0;

    roster_come_together(r);
    begin_to_watch(r);
    while (!roster_is_stopping(r)) {
        double now = file_now_seconds();
        roster_step(r);
        roster_announce(r);
        if (mailbox_look(&r->box, 0, &r->view) == 0 && r->view.abort_rank >= 0)
            roster_take_abort(r, r->view.abort_rank);
        if (now >= next) {
            next = now + period;
            show_life(r, now);
            watch(r, now, period);
            roster_read_notes(r);
        }
        roster_sleep(r, period < MAX_TICK_SECONDS ? period : MAX_TICK_SECONDS);
    }
    return NULL;
}

/* ---- starting and stopping ---------------------------------------------------------------------------------- */

static void init_locks(struct roster *r)
{
    pthread_condattr_t monotonic;

    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&r->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&r->lock, NULL);
}

static void release(struct roster *r)
{
    mailbox_release(&r->box);
    free(r->view.ranks);
    free(r->nonces);
    free(r->notes);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
}

static enum wm_status introduce_self(struct life *life, struct wm_error *err)
{
    life->pid = getpid();
    if (gethostname(life->host, sizeof life->host - 1) < 0)
        snprintf(life->host, sizeof life->host, "an unnamed host");
    while (life->nonce == 0)
        if (getrandom(&life->nonce, sizeof life->nonce, 0) < 0 && errno != EINTR)
            return error_set(err, WM_IO, "the system gives no random numbers: %s", strerror(errno));
    return WM_OK;
}

static void end_guard(struct roster *r)
{
    if (!r->on_stuck)
        return;
    pthread_mutex_lock(&r->lock);
    r->guard_ends = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->guard, NULL);
}

static enum wm_status start_threads(struct roster *r, struct wm_error *err)
{
    sigset_t all, old;
    int failed = 0;

    sigfillset(&all); /* signals are the caller's business */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    if (r->on_stuck)
        failed = pthread_create(&r->guard, NULL, roster_guard, r);
    if (!failed && (failed = pthread_create(&r->thread, NULL, serve, r)) != 0)
        end_guard(r);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (failed)
        return error_set(err, WM_TEMPORARY,
                         "cannot start the threads that watch the other ranks; raise the limit on processes (ulimit "
                         "-u), then run the same command again");
    return WM_OK;
}

enum wm_status roster_start(struct roster *r, const char *dir, const char *job, int rank, int size,
                            double deadline_seconds, roster_stuck on_stuck, void *user, struct wm_error *err)
{
    enum wm_status st;
    bool is_there;

    memset(r, 0, sizeof *r);
    r->on_stuck = on_stuck;
    r->user = user;
    r->rank = rank;
    r->size = r->view.size = size;
    r->deadline_seconds = deadline_seconds;
    r->lost_rank = -1;
    r->began = file_now_seconds();
    init_locks(r);
    r->view.ranks = calloc((size_t)size, 1);
    r->nonces = calloc((size_t)size, sizeof *r->nonces);
    r->notes = calloc((size_t)size, sizeof *r->notes);
    if (!r->view.ranks || !r->nonces || !r->notes) {
        st = error_no_memory(err, "meeting the other ranks");
        goto out;
    }
    TRY(introduce_self(&r->life, err));
    TRY(mailbox_init(&r->box, dir, job, err));
    TRY(roster_need_dir(r, &is_there, err));
    if (rank == 0 && !is_there) /* nobody else is going to make its parent */
        TRY(file_make_dir(dir, err));
    TRY(start_threads(r, err));
out:
    if (st != WM_OK)
        release(r);
    return st;
}

/* Renames the sign of life; whoever then sees that nobody is left but those that were found dead clears up. Two that do
 * so at once do no harm. */
static void say_goodbye(struct roster *r)
{
    struct letter life = roster_letter(MAIL_LIFE, r->rank, sizeof r->life);
    struct letter session = roster_letter(MAIL_SESSION, 0, sizeof(struct session_card));
    struct session_card card;

    if (!r->has_life || !mailbox_rename(&r->box, &life, MAIL_LEFT) || mailbox_look(&r->box, 0, &r->view) != 0)
        return;
    for (int i = 0; i < r->size; i++)
        if (i != r->lost_rank && (r->view.ranks[i] & MAIL_HAS_LIFE))
            return;
    mailbox_clear(&r->box, true);
    if (roster_get(r, MAIL_SESSION, 0, &card, sizeof card) && card.session == r->box.session)
        mailbox_remove(&r->box, &session);
    mailbox_remove_dir(&r->box);
}

void roster_stop(struct roster *r)
{
    double until = file_now_seconds() + (r->deadline_seconds < GOODBYE_SECONDS ? r->deadline_seconds : GOODBYE_SECONDS);
    bool unsaid = true;

    /* A rank that fails before all have come together waits a moment, so that the others learn of it. */
    for (;;) {
        pthread_mutex_lock(&r->lock);
        unsaid = r->why.status != WM_OK && !r->joined && !(r->announced && r->leader_moves);
        pthread_mutex_unlock(&r->lock);
        if (!unsaid || file_now_seconds() > until)
            break;
        roster_sleep(r, GOODBYE_POLL_SECONDS);
    }
    pthread_mutex_lock(&r->lock);
    r->stopping = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->thread, NULL);
    roster_announce(r);
    say_goodbye(r);
    end_guard(r);
    release(r);
}
