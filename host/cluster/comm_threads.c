/*
 * comm_threads.c: see comm_threads.h. Every rank leaves its arguments in the shared state and waits; the last one to
 * arrive does the whole call for all of them, under the lock, so that results do not depend on who came when.
 */
#include "cluster/comm_threads.h"

#include "base/file.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum call { CALL_BARRIER, CALL_GATHER, CALL_REDUCE };
static const char *const call_names[] = {"barrier", "all_gather", "all_reduce_u64"};

struct arrival {
    enum call call;
    const void *mine;
    void *all; /* gather: the result; reduce: the values */
    size_t n;  /* gather: bytes; reduce: values          */
    bool here;
};

struct note {
    unsigned char bytes[COMM_NOTE_BYTES];
    double at; /* 0: never */
};

struct shared {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t generation; /* calls completed */
    int size, n_open, n_here;
    int closed_rank;     /* the first that closed, or -1 */
    struct wm_error why; /* status WM_OK: nothing failed */
    struct note *notes;  /* [size] */
    struct arrival arrivals[];
};

struct thread_rank {
    struct comm base; /* first: a comm is cast to its thread_rank */
    struct shared *shared;
};

static bool is_cancelled(const struct comm *comm)
{
    return comm->cancel && __atomic_load_n(comm->cancel, __ATOMIC_RELAXED);
}

static void fail(struct shared *sh, const char *message)
{
    error_set(&sh->why, WM_TEMPORARY, "%s", message);
    pthread_cond_broadcast(&sh->changed);
}

/* Every rank must have made the same call: anything else is a mistake of ours, said before bytes are mixed up. */
static bool calls_agree(struct shared *sh)
{
    const struct arrival *first = &sh->arrivals[0];

    for (int r = 1; r < sh->size; r++) {
        const struct arrival *a = &sh->arrivals[r];
        if (a->call == first->call && a->n == first->n)
            continue;
        error_set(&sh->why, WM_TEMPORARY,
                  "rank %d called %s of %zu where rank 0 called %s of %zu; this is a fault of the program: report it",
                  r, call_names[a->call], a->n, call_names[first->call], first->n);
        return false;
    }
    return true;
}

static void perform(struct shared *sh)
{
    struct arrival *first = &sh->arrivals[0];
    uint64_t *sum = first->all;

    if (first->call == CALL_GATHER && first->n) {
        for (int to = 0; to < sh->size; to++)
            for (int from = 0; from < sh->size; from++)
                memmove((char *)sh->arrivals[to].all + (size_t)from * first->n, sh->arrivals[from].mine, first->n);
    } else if (first->call == CALL_REDUCE && first->n) {
        for (int r = 1; r < sh->size; r++)
            for (size_t i = 0; i < first->n; i++)
                sum[i] += ((const uint64_t *)sh->arrivals[r].all)[i];
        for (int r = 1; r < sh->size; r++)
            memcpy(sh->arrivals[r].all, sum, first->n * sizeof *sum);
    }
}

static void wait_a_little(struct shared *sh)
{
    enum { cancel_poll_ns = 20000000 };
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += cancel_poll_ns;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(&sh->changed, &sh->lock, &until);
}

static enum wm_status meet(struct comm *comm, struct arrival arrival, struct wm_error *err)
{
    struct shared *sh = ((struct thread_rank *)comm)->shared;
    enum wm_status st = WM_OK;
    uint64_t generation;

    pthread_mutex_lock(&sh->lock);
    generation = sh->generation;
    if (sh->why.status == WM_OK && !is_cancelled(comm)) {
        sh->arrivals[comm->rank] = arrival;
        if (++sh->n_here == sh->size && calls_agree(sh)) {
            perform(sh);
            sh->n_here = 0;
            sh->generation++;
        }
        if (sh->n_here == 0 || sh->n_here == sh->size)
            pthread_cond_broadcast(&sh->changed);
    }
    while (sh->generation == generation && sh->why.status == WM_OK && !is_cancelled(comm)) {
        if (sh->closed_rank >= 0)
            error_set(&sh->why, WM_TEMPORARY,
                      "rank %d ended while others waited for it; see its own message, then run the same command again",
                      sh->closed_rank);
        else
            wait_a_little(sh);
    }
    if (sh->generation == generation) { /* a call that others completed is complete, whatever happened since */
        if (is_cancelled(comm)) {
            st = error_set(err, WM_CANCELLED, "stopped on request");
            error_set(&sh->why, WM_TEMPORARY,
                      "rank %d was stopped on request; run the same command again, it continues", comm->rank);
        } else {
            st = error_set(err, WM_TEMPORARY, "%s", sh->why.message);
        }
        pthread_cond_broadcast(&sh->changed);
    }
    pthread_mutex_unlock(&sh->lock);
    return st;
}

static enum wm_status threads_barrier(struct comm *comm, struct wm_error *err)
{
    return meet(comm, (struct arrival){.call = CALL_BARRIER}, err);
}

static enum wm_status threads_all_gather(struct comm *comm, const void *mine, size_t n_bytes, void *all,
                                         struct wm_error *err)
{
    return meet(comm, (struct arrival){.call = CALL_GATHER, .mine = mine, .all = all, .n = n_bytes}, err);
}

static enum wm_status threads_all_reduce_u64(struct comm *comm, uint64_t *values, size_t n, struct wm_error *err)
{
    return meet(comm, (struct arrival){.call = CALL_REDUCE, .all = values, .n = n}, err);
}

static bool threads_failed(struct comm *comm, struct wm_error *err)
{
    struct shared *sh = ((struct thread_rank *)comm)->shared;
    bool failed;

    pthread_mutex_lock(&sh->lock);
    failed = sh->why.status != WM_OK;
    if (failed)
        error_set(err, WM_TEMPORARY, "%s", sh->why.message);
    pthread_mutex_unlock(&sh->lock);
    return failed;
}

static void threads_abort(struct comm *comm, const struct wm_error *why)
{
    struct shared *sh = ((struct thread_rank *)comm)->shared;

    pthread_mutex_lock(&sh->lock);
    fail(sh, why->message);
    pthread_mutex_unlock(&sh->lock);
}

static void threads_publish(struct comm *comm, const void *bytes, size_t n_bytes)
{
    struct shared *sh = ((struct thread_rank *)comm)->shared;
    struct note *note = &sh->notes[comm->rank];

    pthread_mutex_lock(&sh->lock);
    memset(note->bytes, 0, sizeof note->bytes);
    memcpy(note->bytes, bytes, n_bytes < sizeof note->bytes ? n_bytes : sizeof note->bytes);
    note->at = file_now_seconds();
    pthread_mutex_unlock(&sh->lock);
}

static bool threads_peek(struct comm *comm, int rank, void *bytes, double *age_seconds)
{
    struct shared *sh = ((struct thread_rank *)comm)->shared;
    bool there = false;

    if (rank < 0 || rank >= sh->size)
        return false;
    pthread_mutex_lock(&sh->lock);
    there = sh->notes[rank].at > 0;
    if (there) {
        memcpy(bytes, sh->notes[rank].bytes, COMM_NOTE_BYTES);
        *age_seconds = file_now_seconds() - sh->notes[rank].at;
    }
    pthread_mutex_unlock(&sh->lock);
    return there;
}

static void shared_free(struct shared *sh)
{
    free(sh->notes);
    pthread_cond_destroy(&sh->changed);
    pthread_mutex_destroy(&sh->lock);
    free(sh);
}

static void threads_close(struct comm *comm)
{
    struct shared *sh = ((struct thread_rank *)comm)->shared;
    int n_open;

    pthread_mutex_lock(&sh->lock);
    if (sh->closed_rank < 0)
        sh->closed_rank = comm->rank;
    n_open = --sh->n_open;
    pthread_cond_broadcast(&sh->changed);
    pthread_mutex_unlock(&sh->lock);
    if (n_open == 0)
        shared_free(sh);
    free(comm);
}

static const struct comm_ops threads_ops = {
    "threads",     threads_barrier, threads_all_gather, threads_all_reduce_u64, threads_failed,
    threads_abort, threads_publish, threads_peek,       threads_close,
};

static struct shared *shared_new(int size)
{
    struct shared *sh = calloc(1, sizeof *sh + (size_t)size * sizeof *sh->arrivals);
    pthread_condattr_t monotonic;

    if (!sh)
        return NULL;
    sh->notes = calloc((size_t)size, sizeof *sh->notes);
    if (!sh->notes) {
        free(sh);
        return NULL;
    }
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&sh->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&sh->lock, NULL);
    sh->size = sh->n_open = size;
    sh->closed_rank = -1;
    return sh;
}

enum wm_status comm_open_threads(struct comm **comms, int size, struct wm_error *err)
{
    struct shared *sh = NULL;
    enum wm_status st = WM_OK;

    if (size < 1 || size > COMM_MAX_RANKS)
        return error_set(err, WM_USAGE, "%d ranks were asked for; there can be 1 to %d", size, COMM_MAX_RANKS);
    for (int r = 0; r < size; r++)
        comms[r] = NULL;
    sh = shared_new(size);
    for (int r = 0; sh && r < size; r++) {
        struct thread_rank *t = calloc(1, sizeof *t);
        if (!t) {
            st = error_no_memory(err, "opening the communication of threads");
            goto out;
        }
        t->base = (struct comm){&threads_ops, r, size, COMM_DEFAULT_DEADLINE_SECONDS, NULL};
        t->shared = sh;
        comms[r] = &t->base;
    }
    if (!sh)
        st = error_no_memory(err, "opening the communication of threads");
out:
    if (st != WM_OK) {
        for (int r = 0; r < size; r++) {
            free(comms[r]);
            comms[r] = NULL;
        }
        if (sh)
            shared_free(sh);
    }
    return st;
}
