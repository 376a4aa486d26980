/* comm_self.c: the comm of a process that is alone. What lives here: collectives that have nothing to wait for. */
#include "cluster/comm.h"

#include "base/file.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct self {
    struct comm base; /* first: a comm is cast to its self */
    pthread_mutex_t lock;
    struct wm_error why; /* status WM_OK: not aborted */
    unsigned char note[COMM_NOTE_BYTES];
    double noted_at; /* 0: never */
};

static bool self_failed(struct comm *comm, struct wm_error *err)
{
    struct self *s = (struct self *)comm;
    bool failed;

    pthread_mutex_lock(&s->lock);
    failed = s->why.status != WM_OK;
    if (failed)
        error_set(err, WM_TEMPORARY, "%s", s->why.message);
    pthread_mutex_unlock(&s->lock);
    return failed;
}

static enum wm_status self_barrier(struct comm *comm, struct wm_error *err)
{
    if (comm->cancel && __atomic_load_n(comm->cancel, __ATOMIC_RELAXED))
        return error_set(err, WM_CANCELLED, "stopped on request");
    return self_failed(comm, err) ? WM_TEMPORARY : WM_OK;
}

static enum wm_status self_all_gather(struct comm *comm, const void *mine, size_t n_bytes, void *all,
                                      struct wm_error *err)
{
    enum wm_status st = self_barrier(comm, err);

    if (st == WM_OK && n_bytes)
        memmove(all, mine, n_bytes);
    return st;
}

static enum wm_status self_all_reduce_u64(struct comm *comm, uint64_t *values, size_t n, struct wm_error *err)
{
    (void)values;
    (void)n;
    return self_barrier(comm, err);
}

static void self_abort(struct comm *comm, const struct wm_error *why)
{
    struct self *s = (struct self *)comm;

    pthread_mutex_lock(&s->lock);
    error_set(&s->why, WM_TEMPORARY, "%s", why->message);
    pthread_mutex_unlock(&s->lock);
}

static void self_publish(struct comm *comm, const void *note, size_t n_bytes)
{
    struct self *s = (struct self *)comm;

    pthread_mutex_lock(&s->lock);
    memset(s->note, 0, sizeof s->note);
    memcpy(s->note, note, n_bytes < sizeof s->note ? n_bytes : sizeof s->note);
    s->noted_at = file_now_seconds();
    pthread_mutex_unlock(&s->lock);
}

static bool self_peek(struct comm *comm, int rank, void *note, double *age_seconds)
{
    struct self *s = (struct self *)comm;
    bool there;

    pthread_mutex_lock(&s->lock);
    there = rank == 0 && s->noted_at > 0;
    if (there) {
        memcpy(note, s->note, sizeof s->note);
        *age_seconds = file_now_seconds() - s->noted_at;
    }
    pthread_mutex_unlock(&s->lock);
    return there;
}

static void self_close(struct comm *comm)
{
    struct self *s = (struct self *)comm;

    pthread_mutex_destroy(&s->lock);
    free(s);
}

static const struct comm_ops self_ops = {
    "self",     self_barrier, self_all_gather, self_all_reduce_u64, self_failed,
    self_abort, self_publish, self_peek,       self_close,
};

enum wm_status comm_open_self(struct comm **comm, struct wm_error *err)
{
    struct self *s = calloc(1, sizeof *s);

    *comm = NULL;
    if (!s)
        return error_no_memory(err, "opening the communication of one rank");
    s->base = (struct comm){&self_ops, 0, 1, COMM_DEFAULT_DEADLINE_SECONDS, NULL};
    pthread_mutex_init(&s->lock, NULL);
    *comm = &s->base;
    return WM_OK;
}
