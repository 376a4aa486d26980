/* rank_progress.c: see rank_progress.h. */
#include "engine/rank_progress.h"

#include "base/error.h"
#include "base/file.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TELL_SECONDS 0.2

/* What travels. All ranks are the same program on little-endian machines. */
struct rank_note {
    uint64_t bytes_read, bytes_to_read, bytes_written, bytes_to_write, bytes_resumed, tensors_done, n_tensors;
    double read_rate, write_rate;
    uint32_t measured, working;
    char host[RANK_PROGRESS_HOST_BYTES];
};
_Static_assert(sizeof(struct rank_note) <= COMM_NOTE_BYTES, "it travels in a note");

/* ---- telling ------------------------------------------------------------------------------------------------ */

void rank_progress_publish(const struct progress_rates *rates, struct comm *comm, const struct wm_progress *now)
{
    struct rank_note note;

    if (!comm || comm->size < 2)
        return;
    memset(&note, 0, sizeof note);
    note.bytes_read = now->bytes_read;
    note.bytes_to_read = now->bytes_to_read;
    note.bytes_written = now->bytes_written;
    note.bytes_to_write = now->bytes_to_write;
    note.bytes_resumed = now->bytes_resumed;
    note.tensors_done = now->tensors_done;
    note.n_tensors = now->n_tensors;
    note.read_rate = rates->read;
    note.write_rate = rates->write;
    note.measured = rates->measured;
    note.working = progress_moves_bytes(now) && now->bytes_written < now->bytes_to_write;
    if (gethostname(note.host, sizeof note.host - 1) != 0)
        note.host[0] = '\0';
    comm->ops->publish(comm, &note, sizeof note);
}

/* ---- summing ------------------------------------------------------------------------------------------------ */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The upper of the two in the middle where there are two: of two ranks, the faster one is the measure of the other. */
static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    return values[n / 2];
}

static void add(struct wm_progress *sum, const struct rank_note *note)
{
    sum->n_ranks_heard++;
    sum->ranks_bytes_read += note->bytes_read;
    sum->ranks_bytes_to_read += note->bytes_to_read;
    sum->ranks_bytes_written += note->bytes_written;
    sum->ranks_bytes_to_write += note->bytes_to_write;
    sum->ranks_bytes_resumed += note->bytes_resumed;
    sum->ranks_tensors_done += note->tensors_done;
    sum->ranks_n_tensors += note->n_tensors;
    if (note->working) {
        sum->ranks_read_rate += note->read_rate;
        sum->ranks_write_rate += note->write_rate;
    }
}

static void forget_slowest(struct wm_progress *sum)
{
    sum->slowest_rank = 0;
    sum->slowest_rate = sum->median_rate = 0.0;
    sum->slowest_host = NULL;
}

/* Ranks that are through are part of the median, but nobody waits for them. */
static void sum_up(struct rank_progress *r, struct comm *comm, struct wm_progress *sum)
{
    union {
        struct rank_note note;
        unsigned char bytes[COMM_NOTE_BYTES];
    } heard;
    double rates[COMM_MAX_RANKS], rate, age;
    int n_measured = 0;

    for (int rank = 0; rank < comm->size; rank++) {
        if (!comm->ops->peek(comm, rank, &heard, &age))
            continue;
        add(sum, &heard.note);
        if (!heard.note.measured)
            continue;
        rate = heard.note.read_rate + heard.note.write_rate;
        rates[n_measured++] = rate;
        if (heard.note.working && (!sum->slowest_host || rate < sum->slowest_rate)) {
            sum->slowest_rank = rank;
            sum->slowest_rate = rate;
            memcpy(r->slowest_host, heard.note.host, sizeof r->slowest_host);
            r->slowest_host[sizeof r->slowest_host - 1] = '\0';
            sum->slowest_host = r->slowest_host;
        }
    }
    if (n_measured >= 2 && sum->slowest_host) {
        sum->median_rate = median(rates, n_measured);
        return;
    }
    forget_slowest(sum);
}

static void use_plan(const struct rank_progress *r, const struct wm_progress *own, struct wm_progress *sum)
{
    if (r->all_to_read)
        sum->ranks_bytes_to_read = r->all_to_read;
    if (r->all_to_write)
        sum->ranks_bytes_to_write = r->all_to_write;
    if (r->all_tensors)
        sum->ranks_n_tensors = r->all_tensors;
    /* These phases of rank 0 begin when all have written: what was last heard is older than that. */
    if (strcmp(own->phase, "hashing") != 0 && strcmp(own->phase, "finishing") != 0)
        return;
    sum->n_ranks_heard = sum->n_ranks;
    sum->ranks_bytes_read = sum->ranks_bytes_to_read;
    sum->ranks_bytes_written = sum->ranks_bytes_to_write;
    sum->ranks_tensors_done = sum->ranks_n_tensors;
    sum->ranks_read_rate = sum->ranks_write_rate = 0.0;
    forget_slowest(sum);
}

void rank_progress_sum(struct rank_progress *r, struct comm *comm, struct wm_progress *progress)
{
    struct wm_progress sum = {.rank = comm ? comm->rank : 0};

    if (!comm || comm->size < 2)
        return;
    sum.n_ranks = comm->size;
    if (comm->rank == 0) {
        sum_up(r, comm, &sum);
        use_plan(r, progress, &sum);
    }
    memcpy((char *)progress + offsetof(struct wm_progress, rank), (char *)&sum + offsetof(struct wm_progress, rank),
           sizeof sum - offsetof(struct wm_progress, rank));
}

/* ---- waiting ------------------------------------------------------------------------------------------------ */

struct waiting {
    struct comm *comm;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
    enum wm_status status;
    struct wm_error err;
};

static void *wait_for_all(void *argument)
{
    struct waiting *w = argument;
    struct wm_error err = WM_ERROR_INIT;
    enum wm_status status = w->comm->ops->barrier(w->comm, &err);

    pthread_mutex_lock(&w->lock);
    w->status = status;
    w->err = err;
    w->done = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static bool wait_a_little(struct waiting *w)
{
    struct timespec until;
    bool done;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(TELL_SECONDS * 1e9);
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&w->lock);
    if (!w->done)
        pthread_cond_timedwait(&w->changed, &w->lock, &until);
    done = w->done;
    pthread_mutex_unlock(&w->lock);
    return done;
}

/* A caller that sets comm->cancel itself has ended the wait already. */
static void stop_waiting(struct comm *comm)
{
    struct wm_error why = WM_ERROR_INIT;

    if (comm->cancel && __atomic_load_n(comm->cancel, __ATOMIC_RELAXED))
        return;
    error_set(&why, WM_TEMPORARY, "rank %d was stopped on request; run the same command again, it continues",
              comm->rank);
    comm->ops->abort(comm, &why);
}

enum wm_status rank_progress_barrier(struct comm *comm, const struct wm_options *options,
                                     const struct wm_progress *progress, struct wm_error *err)
{
    struct waiting w = {.comm = comm, .err = WM_ERROR_INIT};
    struct wm_progress now = *progress;
    double began = file_now_seconds();
    pthread_condattr_t monotonic;
    bool stopped = false;
    pthread_t thread;

    if (!options->on_progress)
        return comm->ops->barrier(comm, err);
    pthread_mutex_init(&w.lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&w.changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (pthread_create(&thread, NULL, wait_for_all, &w) == 0) {
        now.phase = "waiting";
        while (!wait_a_little(&w)) {
            now.seconds = progress->seconds + file_now_seconds() - began;
            if (!stopped && options->on_progress(options->user, &now)) {
                stopped = true;
                stop_waiting(comm);
            }
        }
        pthread_join(thread, NULL);
    } else {
        wait_for_all(&w); /* no thread to be had: the display stands still meanwhile */
    }
    pthread_cond_destroy(&w.changed);
    pthread_mutex_destroy(&w.lock);
    if (w.status != WM_OK && stopped)
        return error_set(err, WM_CANCELLED, "stopped on request");
    return w.status == WM_OK ? WM_OK : error_set(err, w.status, "%s", w.err.message);
}
