/*
 * comm_files.c: ranks as processes that share a directory: NFS, Lustre, a local disk, whoever started them.
 *
 * What lives here: the collectives. Every rank leaves its part; rank 0 waits for all parts, leaves the whole, and the
 * others wait for that: two steps, but each rank opens a handful of files whatever the number of ranks. What it must not
 * know: who is alive and how ranks meet (roster.h), how a letter is written (mailbox.h). There are no sockets: a cluster
 * that shares the output's file system needs no open port, no address and no name service for this.
 *
 * A part is removed by its writer once the whole is there; the whole by rank 0 once all parts of the next call are: the
 * directory never holds more than the letters of two calls.
 */
#include "cluster/comm.h"

#include "base/file.h"
#include "cluster/roster.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MIN_POLL_SECONDS 0.0002
#define MAX_POLL_SECONDS 0.05
enum {
    ranks_per_poll_unit = 64
};                            /* more ranks than this poll more slowly, so that the file server sees no more of them */
#define MAX_TORN_SECONDS 10.0 /* a letter that cannot be read for so long will not heal */

enum call { CALL_BARRIER = 1, CALL_GATHER, CALL_REDUCE };

_Static_assert(ROSTER_NOTE_BYTES == COMM_NOTE_BYTES, "a sign of life carries a whole note");

struct files {
    struct comm base; /* first: a comm is cast to its files */
    struct roster roster;
    struct mail_view view;
    unsigned char *left_before; /* [size]: seen as gone in an earlier look too */
    uint64_t sequence;          /* of the current call; the first is 1 */
};

/* One collective while it runs. */
struct exchange {
    struct files *files;
    enum call call;
    double poll, torn_since; /* torn_since 0: everything that was there could be read */
    bool torn;               /* in the current round */
    struct wm_error *err;
};

static enum wm_status fail(struct files *f, enum wm_status status, struct wm_error *err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Tells the others too: a rank that leaves a call never comes back to it. What failed first is what is reported. */
static enum wm_status fail(struct files *f, enum wm_status status, struct wm_error *err, const char *format, ...)
{
    struct wm_error own = WM_ERROR_INIT, first = WM_ERROR_INIT;
    va_list args;

    va_start(args, format);
    error_setv(&own, status, format, args);
    va_end(args);
    roster_fail(&f->roster, status == WM_CANCELLED ? WM_TEMPORARY : status, own.message);
    if (status != WM_CANCELLED && roster_failed(&f->roster, &first))
        own = first;
    return error_set(err, own.status, "%s", own.message);
}

static bool is_cancelled(const struct comm *comm)
{
    return comm->cancel && __atomic_load_n(comm->cancel, __ATOMIC_RELAXED);
}

/* Own wishes first, so that a rank that the user stopped says so even when the others' news has arrived. */
static enum wm_status check(struct exchange *x)
{
    struct wm_error why = WM_ERROR_INIT;

    if (is_cancelled(&x->files->base))
        return fail(x->files, WM_CANCELLED, x->err, "stopped on request");
    if (roster_failed(&x->files->roster, &why))
        return error_set(x->err, why.status, "%s", why.message);
    return WM_OK;
}

static void pause_between_looks(struct exchange *x)
{
    double most = MAX_POLL_SECONDS * (1 + (double)x->files->base.size / ranks_per_poll_unit);

    roster_sleep(&x->files->roster, x->poll);
    x->poll = x->poll * 1.5 < most ? x->poll * 1.5 : most;
}

static enum wm_status wait_for_all_to_join(struct exchange *x)
{
    enum wm_status st = check(x);

    while (st == WM_OK && !roster_joined(&x->files->roster)) {
        pause_between_looks(x);
        st = check(x);
    }
    x->poll = MIN_POLL_SECONDS;
    return st;
}

/* ---- letters ------------------------------------------------------------------------------------------------ */

static struct letter letter_of(const struct exchange *x, enum mail_kind kind, int rank, size_t n_bytes)
{
    return (struct letter){kind, x->files->sequence, (uint32_t)rank, x->call, n_bytes};
}

static enum wm_status put(struct exchange *x, enum mail_kind kind, const void *payload, size_t n_bytes)
{
    struct letter letter = letter_of(x, kind, x->files->base.rank, n_bytes);
    struct wm_error err = WM_ERROR_INIT;
    enum wm_status st = mailbox_put(&x->files->roster.box, &letter, payload, &err);

    if (st == WM_NO_INPUT) {
        roster_fail_gone(&x->files->roster);
        return check(x);
    }
    return st == WM_OK ? WM_OK : fail(x->files, st, x->err, "%s", err.message);
}

/* Sets *done once it could be read. Torn letters are tried again: NFS shows names before bytes. */
static enum wm_status get(struct exchange *x, enum mail_kind kind, int rank, void *payload, size_t n_bytes, bool *done)
{
    static const char *const call_names[] = {"nothing", "barrier", "all_gather", "all_reduce_u64"};
    struct letter want = letter_of(x, kind, rank, n_bytes), found;
    int code = 0;

    switch (mailbox_get(&x->files->roster.box, &want, payload, &found, &code)) {
    case MAIL_READ: *done = true; return WM_OK;
    case MAIL_MISSING: return WM_OK;
    case MAIL_TOO_BIG: return fail(x->files, WM_TEMPORARY, x->err, "out of memory while reading a message");
    case MAIL_DIFFERENT:
        return fail(
            x->files, WM_BUG, x->err,
            "rank %d called %s of %zu bytes where rank %d called %s of %zu; this is a fault of the program: report it",
            rank, call_names[found.call & 3], found.n_bytes, x->files->base.rank, call_names[x->call], n_bytes);
    case MAIL_TORN: break;
    }
    x->torn = true;
    if (x->torn_since == 0)
        x->torn_since = file_now_seconds();
    if (file_now_seconds() - x->torn_since <
        (x->files->base.deadline_seconds < MAX_TORN_SECONDS ? x->files->base.deadline_seconds : MAX_TORN_SECONDS))
        return WM_OK;
    return fail(x->files, WM_TEMPORARY, x->err,
                "message %llu of rank %d in %s is damaged%s%s; check the file system, then run the same command again",
                (unsigned long long)x->files->sequence, rank, x->files->roster.box.dir, code ? ": " : "",
                code ? strerror(code) : "");
}

/* What is there, and who is gone. A directory that cannot be listed is tried again like a torn letter. */
static enum wm_status look(struct exchange *x)
{
    struct files *f = x->files;
    int code;

    for (int r = 0; r < f->base.size; r++)
        f->left_before[r] = (f->view.ranks[r] & MAIL_HAS_LEFT) != 0;
    code = mailbox_look(&f->roster.box, f->sequence, &f->view);
    if (code == 0 && f->view.abort_rank >= 0)
        roster_take_abort(&f->roster, f->view.abort_rank);
    if (code == 0)
        return WM_OK;
    if (code == ENOENT) {
        roster_fail_gone(&f->roster);
        return check(x);
    }
    x->torn = true;
    if (x->torn_since == 0)
        x->torn_since = file_now_seconds();
    if (file_now_seconds() - x->torn_since < MAX_TORN_SECONDS)
        return WM_OK;
    return fail(f, WM_TEMPORARY, x->err, "cannot list %s, through which the ranks talk: %s; run the same command again",
                f->roster.box.dir, strerror(code));
}

/* Two looks, because a listing is no snapshot: it may show the departure and miss the letter written before it. */
static enum wm_status check_presence(struct exchange *x, int rank)
{
    struct files *f = x->files;

    if (!(f->view.ranks[rank] & MAIL_HAS_LEFT) || !f->left_before[rank])
        return WM_OK;
    return fail(f, WM_TEMPORARY, x->err,
                "rank %d ended while rank %d waited for it; see its own message, then run the same command again", rank,
                f->base.rank);
}

/* ---- the exchange ------------------------------------------------------------------------------------------- */

typedef void (*take_part)(void *user, int rank, const void *part);

/* Rank 0: every other rank's part, in order of arrival. `scratch` holds one part. */
static enum wm_status collect(struct exchange *x, void *scratch, size_t n_bytes, take_part take, void *user)
{
    struct files *f = x->files;
    unsigned char *have = calloc((size_t)f->base.size, 1);
    int n_missing = f->base.size - 1;
    enum wm_status st = WM_OK;

    if (!have) {
        st = fail(f, WM_TEMPORARY, x->err, "out of memory while collecting from all ranks");
        goto out;
    }
    while (n_missing) {
        TRY(check(x));
        x->torn = false;
        TRY(look(x));
        for (int r = 1; r < f->base.size; r++) {
            bool done = false;
            if (have[r])
                continue;
            if (f->view.ranks[r] & MAIL_HAS_PART)
                TRY(get(x, MAIL_PART, r, scratch, n_bytes, &done));
            else
                TRY(check_presence(x, r));
            if (!done)
                continue;
            take(user, r, scratch);
            have[r] = 1;
            n_missing--;
            x->poll = MIN_POLL_SECONDS;
        }
        if (!x->torn)
            x->torn_since = 0;
        if (n_missing)
            pause_between_looks(x);
    }
out:
    free(have);
    return st;
}

static enum wm_status await_whole(struct exchange *x, void *whole, size_t n_bytes)
{
    enum wm_status st = WM_OK;
    bool done = false;

    while (!done) {
        TRY(check(x));
        x->torn = false;
        TRY(look(x));
        if (x->files->view.has_whole)
            TRY(get(x, MAIL_WHOLE, 0, whole, n_bytes, &done));
        else
            TRY(check_presence(x, 0));
        if (!x->torn)
            x->torn_since = 0;
        if (!done)
            pause_between_looks(x);
    }
out:
    return st;
}

/* mine [n_mine] becomes whole [n_whole] on every rank; at rank 0 `whole` already holds its own part. */
static enum wm_status exchange(struct files *f, enum call call, const void *mine, size_t n_mine, void *whole,
                               size_t n_whole, take_part take, void *user, struct wm_error *err)
{
    struct exchange x = {.files = f, .call = call, .poll = MIN_POLL_SECONDS, .err = err};
    struct letter old;
    enum wm_status st;
    void *scratch = NULL;

    TRY(wait_for_all_to_join(&x));
    f->sequence++;
    if (f->base.rank) {
        TRY(put(&x, MAIL_PART, mine, n_mine));
        TRY(await_whole(&x, whole, n_whole));
        old = letter_of(&x, MAIL_PART, f->base.rank, 0);
        mailbox_remove(&f->roster.box, &old);
    } else if (f->base.size > 1) {
        scratch = malloc(n_mine ? n_mine : 1);
        if (!scratch) {
            st = fail(f, WM_TEMPORARY, err, "out of memory while collecting from all ranks");
            goto out;
        }
        TRY(collect(&x, scratch, n_mine, take, user));
        TRY(put(&x, MAIL_WHOLE, whole, n_whole));
        /* Everybody is in this call, so nobody still reads the whole of the one before. */
        old = (struct letter){.kind = MAIL_WHOLE, .sequence = f->sequence - 1};
        mailbox_remove(&f->roster.box, &old);
    }
out:
    free(scratch);
    return st;
}

/* ---- the table ---------------------------------------------------------------------------------------------- */

static void take_nothing(void *user, int rank, const void *part)
{
    (void)user;
    (void)rank;
    (void)part;
}

static enum wm_status files_barrier(struct comm *comm, struct wm_error *err)
{
    return exchange((struct files *)comm, CALL_BARRIER, "", 0, NULL, 0, take_nothing, NULL, err);
}

struct gather {
    unsigned char *all;
    size_t n_bytes;
};

static void take_block(void *user, int rank, const void *part)
{
    struct gather *g = user;

    if (g->n_bytes)
        memcpy(g->all + (size_t)rank * g->n_bytes, part, g->n_bytes);
}

static enum wm_status files_all_gather(struct comm *comm, const void *mine, size_t n_bytes, void *all,
                                       struct wm_error *err)
{
    struct gather g = {all, n_bytes};
    size_t n_whole;

    if (__builtin_mul_overflow(n_bytes, (size_t)comm->size, &n_whole))
        return fail((struct files *)comm, WM_BUG, err, "a gather of %zu bytes from each of %d ranks is too large",
                    n_bytes, comm->size);
    if (comm->rank == 0 && n_bytes)
        memmove(all, mine, n_bytes);
    return exchange((struct files *)comm, CALL_GATHER, mine, n_bytes, all, n_whole, take_block, &g, err);
}

struct sums {
    uint64_t *values;
    size_t n;
};

static void add_values(void *user, int rank, const void *part)
{
    const uint64_t *more = part;
    struct sums *s = user;

    (void)rank;
    for (size_t i = 0; i < s->n; i++)
        s->values[i] += more[i];
}

static enum wm_status files_all_reduce_u64(struct comm *comm, uint64_t *values, size_t n, struct wm_error *err)
{
    struct sums s = {values, n};
    size_t n_bytes;

    if (__builtin_mul_overflow(n, sizeof *values, &n_bytes))
        return fail((struct files *)comm, WM_BUG, err, "a sum of %zu values is too large", n);
    return exchange((struct files *)comm, CALL_REDUCE, values, n_bytes, values, n_bytes, add_values, &s, err);
}

static bool files_failed(struct comm *comm, struct wm_error *err)
{
    struct wm_error why = WM_ERROR_INIT;

    roster_check_lease(&((struct files *)comm)->roster);
    if (!roster_failed(&((struct files *)comm)->roster, &why))
        return false;
    error_set(err, why.status, "%s", why.message);
    return true;
}

static void files_abort(struct comm *comm, const struct wm_error *why)
{
    roster_fail(&((struct files *)comm)->roster, WM_TEMPORARY, why->message);
}

static void files_publish(struct comm *comm, const void *note, size_t n_bytes)
{
    roster_publish(&((struct files *)comm)->roster, note, n_bytes);
}

static bool files_peek(struct comm *comm, int rank, void *note, double *age_seconds)
{
    return roster_peek(&((struct files *)comm)->roster, rank, note, age_seconds);
}

static void files_free(struct files *f)
{
    free(f->view.ranks);
    free(f->left_before);
    free(f);
}

static void files_close(struct comm *comm)
{
    struct files *f = (struct files *)comm;

    roster_stop(&f->roster);
    files_free(f);
}

static const struct comm_ops files_ops = {
    "files",     files_barrier, files_all_gather, files_all_reduce_u64, files_failed,
    files_abort, files_publish, files_peek,       files_close,
};

enum wm_status comm_open_files(struct comm **comm, const struct comm_files_options *options, struct wm_error *err)
{
    double deadline = options->deadline_seconds != 0 ? options->deadline_seconds : COMM_DEFAULT_DEADLINE_SECONDS;
    size_t size = (size_t)options->size;
    struct files *f = NULL;
    enum wm_status st;

    *comm = NULL;
    if (options->size < 1 || options->size > COMM_MAX_RANKS || options->rank < 0 || options->rank >= options->size)
        return error_set(err, WM_USAGE, "rank %d of %d was asked for; there can be 1 to %d ranks, counted from 0",
                         options->rank, options->size, COMM_MAX_RANKS);
    if (!(deadline >= 0.1 && deadline <= 86400))
        return error_set(err, WM_USAGE, "a deadline of %.3g s was asked for; it can be 0.1 s to a day", deadline);
    f = calloc(1, sizeof *f);
    if (!f)
        return error_no_memory(err, "opening the communication of ranks");
    f->base = (struct comm){&files_ops, options->rank, options->size, deadline, NULL};
    f->view.size = options->size;
    f->view.ranks = calloc(size, 1);
    f->left_before = calloc(size, 1);
    if (!f->view.ranks || !f->left_before) {
        st = error_no_memory(err, "opening the communication of ranks");
        goto out;
    }
    TRY(roster_start(&f->roster, options->dir, options->job, options->rank, options->size, deadline, options->on_stuck,
                     options->user, err));
    *comm = &f->base;
out:
    if (st != WM_OK)
        files_free(f);
    return st;
}

void comm_files_clear(const char *dir, const char *job)
{
    struct wm_error ignored = WM_ERROR_INIT;
    struct mailbox box;

    /* No job has an empty line for its name. */
    if (mailbox_init(&box, dir, job ? job : "\n", &ignored) != WM_OK)
        return;
    mailbox_clear_others(&box);
    mailbox_remove_dir(&box);
    mailbox_release(&box);
}
