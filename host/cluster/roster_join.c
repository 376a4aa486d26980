/* roster_join.c: how ranks find each other; see roster.h. All of it runs in the roster's thread. Knows no collectives. */
#include "cluster/roster.h"

#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JOIN_POLL_SECONDS 0.05
#define MIN_STALE_SECONDS 300.0 /* files of other jobs are leftovers once nothing changed for so long */
enum { max_missing_named = 8 };

enum wm_status roster_need_dir(struct roster *r, bool *is_there, struct wm_error *err)
{
    char *parent = NULL;
    enum wm_status st = WM_OK;

    *is_there = file_is_dir(r->box.dir);
    if (*is_there)
        return WM_OK;
    parent = file_path_parent(r->box.dir);
    if (!parent)
        return error_no_memory(err, "opening the ranks' directory");
    if (file_is_dir(parent)) {
        TRY(file_make_dir(r->box.dir, err));
        *is_there = true;
    }
out:
    free(parent);
    return st;
}

static void enter_session(struct roster *r, uint64_t session)
{
    struct letter life = roster_letter(MAIL_LIFE, r->rank, sizeof r->life);

    if (r->has_life)
        mailbox_remove(&r->box, &life);
    pthread_mutex_lock(&r->lock);
    r->box.session = session;
    r->has_life = r->leader_moves = false;
    if (r->lost_rank < 0) /* a failure of our own is news to this session too */
        r->announced = false;
    pthread_mutex_unlock(&r->lock);
    r->leader_counter = 0;
}

static enum wm_status create_life(struct roster *r, struct wm_error *err)
{
    struct letter life = roster_letter(MAIL_LIFE, r->rank, sizeof r->life);
    bool taken = false;
    enum wm_status st;

    r->life.counter++;
    TRY(mailbox_put_in_place(&r->box, &life, &r->life, true, &taken, err));
    if (taken)
        r->taken_in = r->box.session;
    pthread_mutex_lock(&r->lock);
    r->has_life = !taken;
    pthread_mutex_unlock(&r->lock);
out:
    return st;
}

static void set_joined(struct roster *r)
{
    pthread_mutex_lock(&r->lock);
    r->joined = true;
    r->last_beat = file_now_seconds();
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static bool heed_aborts(struct roster *r)
{
    if (mailbox_look(&r->box, 0, &r->view) != 0)
        return false;
    if (r->view.abort_rank >= 0)
        roster_take_abort(r, r->view.abort_rank);
    return true;
}

/* ---- rank 0 ------------------------------------------------------------------------------------------------- */

static enum wm_status publish_session(struct roster *r, struct wm_error *err)
{
    struct letter letter = roster_letter(MAIL_SESSION, 0, sizeof(struct session_card));
    double stale = ROSTER_GRACE_DEADLINES * r->deadline_seconds;
    struct session_card card;
    enum wm_status st;

    enter_session(r, r->life.nonce);
    memset(&card, 0, sizeof card);
    card.session = r->box.session;
    card.size = r->size;
    memcpy(card.host, r->life.host, sizeof card.host);
    mailbox_clear(&r->box, false);
    TRY(create_life(r, err));
    mailbox_clear_stale(&r->box, stale > MIN_STALE_SECONDS ? stale : MIN_STALE_SECONDS);
    TRY(mailbox_put(&r->box, &letter, &card, err));
out:
    return st;
}

static enum wm_status lead(struct roster *r, struct wm_error *err)
{
    struct letter go = roster_letter(MAIL_GO, 0, (size_t)r->size * sizeof *r->nonces);
    enum wm_status st = WM_OK;
    struct life life;

    if (!r->has_life)
        TRY(publish_session(r, err));
    else
        TRY(roster_beat(r, err)); /* tells this session from those that were left behind */
    if (!heed_aborts(r))
        goto out;
    for (int i = 0; i < r->size; i++) {
        if (!(r->view.ranks[i] & MAIL_HAS_LIFE))
            goto out;
        if (r->nonces[i])
            continue;
        if (!roster_get(r, MAIL_LIFE, i, &life, sizeof life))
            goto out;
        r->nonces[i] = life.nonce;
    }
    TRY(mailbox_put(&r->box, &go, r->nonces, err));
    set_joined(r);
out:
    return st;
}

/* ---- the others --------------------------------------------------------------------------------------------- */

/* A session whose rank 0 moves is this start's; aborts in any other are old news. */
static void look_at_leader(struct roster *r)
{
    struct life life;

    if (!roster_get(r, MAIL_LIFE, 0, &life, sizeof life))
        return;
    if (r->leader_counter && life.counter != r->leader_counter) {
        pthread_mutex_lock(&r->lock);
        r->leader_moves = true;
        pthread_mutex_unlock(&r->lock);
    }
    r->leader_counter = life.counter;
    if (r->leader_moves)
        heed_aborts(r);
}

static enum wm_status follow(struct roster *r, struct wm_error *err)
{
    struct session_card card;
    enum wm_status st = WM_OK;

    if (mailbox_look(&r->box, 0, &r->view) != 0 || !r->view.has_session ||
        !roster_get(r, MAIL_SESSION, 0, &card, sizeof card))
        goto out;
    if (card.session != r->box.session)
        enter_session(r, card.session);
    if (!r->has_life && r->taken_in != r->box.session)
        TRY(create_life(r, err));
    if (!r->has_life)
        goto out;
    look_at_leader(r);
    if (card.size != r->size) {
        if (!r->leader_moves)
            goto out;
        card.host[sizeof card.host - 1] = '\0';
        st = error_set(err, WM_USAGE,
                       "rank 0 (on %s) counts %d ranks but rank %d counts %d; start them all with the same number",
                       card.host, card.size, r->rank, r->size);
        goto out;
    }
    if (r->view.has_go && roster_get(r, MAIL_GO, 0, r->nonces, (size_t)r->size * sizeof *r->nonces) &&
        r->nonces[r->rank] == r->life.nonce)
        set_joined(r);
out:
    return st;
}

/* ---- giving up ---------------------------------------------------------------------------------------------- */

/* Ranks without a sign of life, as "1, 2, 7"; how many there are. */
static int name_missing(struct roster *r, char *list, size_t size)
{
    int n_missing = 0;
    size_t n = 0;

    *list = '\0';
    if (mailbox_look(&r->box, 0, &r->view) != 0)
        return 0;
    for (int i = 0; i < r->size; i++) {
        if (r->view.ranks[i] & (MAIL_HAS_LIFE | MAIL_HAS_LEFT))
            continue;
        if (n_missing < max_missing_named && n < size)
            n += (size_t)snprintf(list + n, size - n, "%s%d", n_missing ? ", " : "", i);
        else if (n_missing == max_missing_named && n < size)
            snprintf(list + n, size - n, ", ...");
        n_missing++;
    }
    return n_missing;
}

static void give_up(struct roster *r, double waited)
{
    char text[ROSTER_WHY_BYTES], list[128];
    struct life other;

    if (r->box.session && r->taken_in == r->box.session && roster_get(r, MAIL_LIFE, r->rank, &other, sizeof other)) {
        other.host[sizeof other.host - 1] = '\0';
        snprintf(text, sizeof text,
                 "rank %d is taken by process %lld on %s; start every rank once, each with a number of its own",
                 r->rank, (long long)other.pid, other.host);
    } else if (!r->box.session) {
        snprintf(text, sizeof text,
                 "rank 0 of %d did not appear in %.512s within %.3g s; check that all ranks were started, see this "
                 "directory "
                 "and were given the same job, then run the same command again",
                 r->size, r->box.dir, waited);
    } else if (name_missing(r, list, sizeof list)) {
        snprintf(
            text, sizeof text,
            "of %d ranks these did not appear in %.512s within %.3g s: %s; check that all ranks were started, see this "
            "directory and were given the same job, then run the same command again",
            r->size, r->box.dir, waited, list);
    } else {
        snprintf(text, sizeof text,
                 "rank 0 ended before all %d ranks had come together in %.512s; see its own message, then run the same "
                 "command again",
                 r->size, r->box.dir);
    }
    roster_fail(r, WM_TEMPORARY, text);
}

void roster_come_together(struct roster *r)
{
    /* Rank 0 knows best who is missing: the others give it a head start. */
    double grace = (ROSTER_GRACE_DEADLINES + (r->rank ? 1 : 0)) * r->deadline_seconds;
    double poll = JOIN_POLL_SECONDS / 64;

    r->view.abort_rank = -1;
    while (!roster_is_stopping(r) && !roster_joined(r)) {
        struct wm_error err = WM_ERROR_INIT;
        double waited = file_now_seconds() - r->began;
        bool is_there = false;
        enum wm_status st;
        roster_step(r);
        st = roster_need_dir(r, &is_there, &err);
        if (st == WM_OK && is_there)
            st = r->rank == 0 ? lead(r, &err) : follow(r, &err);
        /* The last rank of an earlier run may remove the directory between two steps, and a new rank 0 clears away what
         * an old session has: such names are made again. Anything else is for good. */
        if (st != WM_OK && (st != WM_NO_INPUT || waited > grace))
            roster_fail(r, st, err.message);
        else if (waited > grace)
            give_up(r, waited);
        roster_announce(r);
        if (!roster_joined(r))
            roster_sleep(r, poll);
        poll = poll * 2 < JOIN_POLL_SECONDS ? poll * 2 : JOIN_POLL_SECONDS;
    }
}
