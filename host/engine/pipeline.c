/*
 * pipeline.c: readers, compute threads and writers over a ring of tiles.
 *
 * What lives here: the threads. What each does next is decided in schedule.c under one lock; all reading, computing and
 * writing happens outside it. What it must not know: what the numbers mean.
 *
 *     unread tile --reader--> input slots --compute--> (next pass ...) --compute--> output slot --writer--> shard
 */
#include "engine/pipeline.h"

#include "engine/group.h"
#include "engine/stages.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PROGRESS_SECONDS    0.2
#define CANCEL_POLL_SECONDS 0.05

/* ---- the run ------------------------------------------------------------------------------------------------- */

/* Called and left with the lock held; the caller's function runs without it. */
static int tell_progress(struct pipeline *p)
{
    const struct wm_options *options = p->args->options;
    int cancelled;
    const struct pipeline_args *args = p->args;
    struct wm_progress progress = {.bytes_read = args->before.bytes_read + p->bytes_read,
                                   .bytes_to_read = args->bytes_to_read,
                                   .bytes_written =
                                       args->before.bytes_written + p->bytes_written + args->resume->n_bytes,
                                   .bytes_to_write = args->bytes_to_write,
                                   .bytes_resumed = args->resume->n_bytes,
                                   .tensors_done = args->before.tensors_done + p->tensors_done,
                                   .n_tensors = args->n_tensors,
                                   .seconds = file_now_seconds() - p->args->start_seconds,
                                   .phase = "merging",
                                   .shard = p->shard ? p->shard : ""};

    if (!options->on_progress)
        return 0;
    pthread_mutex_unlock(&p->lock);
    cancelled = options->on_progress(options->user, &progress);
    pthread_mutex_lock(&p->lock);
    return cancelled;
}

static void cancel_run(struct pipeline *p)
{
    struct wm_error err = WM_ERROR_INIT;

    error_set(&err, WM_CANCELLED, "stopped; run the same command again to continue");
    schedule_fail(p, &err);
}

/* Called and left with the lock held. */
static void ask_others(struct pipeline *p)
{
    struct wm_error err = WM_ERROR_INIT;
    bool ends;

    pthread_mutex_unlock(&p->lock);
    ends = p->args->interrupted(p->args->interrupted_user, &err);
    pthread_mutex_lock(&p->lock);
    if (ends)
        schedule_fail(p, &err);
}

/* The calling thread: progress and cancellation until everything is done or something failed. */
static void supervise(struct pipeline *p)
{
    double told = file_now_seconds();

    pthread_mutex_lock(&p->lock);
    while (!p->stop && !p->all_done) {
        struct timespec until;
        double now;
        int cancelled = p->args->cancel && *p->args->cancel;

        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += (long)(CANCEL_POLL_SECONDS * 1e9);
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&p->changed, &p->lock, &until);
        now = file_now_seconds();
        if (now - told >= PROGRESS_SECONDS && !cancelled) {
            told = now;
            cancelled = tell_progress(p);
        }
        if (cancelled)
            cancel_run(p);
        else if (p->args->interrupted && !p->stop)
            ask_others(p);
    }
    if (!p->stop)
        tell_progress(p);
    pthread_mutex_unlock(&p->lock);
}

/* Memory that all devices reach; where page-locked memory is refused, ordinary memory, which is slower to copy. */
static void *ring_memory(struct pipeline *p, uint64_t n_bytes, struct backend **owner)
{
    struct wm_error ignored = WM_ERROR_INIT;
    void *memory;

    *owner = p->args->backends[0]; /* the ring is one for all devices */
    memory = (*owner)->ops->alloc(*owner, n_bytes);
    if (memory || (!p->pageable && backend_open_cpu(&p->pageable, &ignored) != WM_OK))
        return memory;
    *owner = p->pageable;
    memory = (*owner)->ops->alloc(*owner, n_bytes);
    if (memory)
        error_set(
            &p->notice, WM_NO_DEVICE,
            "page-locked memory for the GPU was refused, so that copies were slower; lower --memory, or raise the "
            "limits of this container or machine");
    return memory;
}

static bool allocate(struct pipeline *p)
{
    const struct plan_memory *m = &p->plan->memory;

    p->free_slots = malloc(m->n_slots * sizeof *p->free_slots);
    p->free_out_slots = malloc(m->n_out_slots * sizeof *p->free_out_slots);
    p->writes = malloc(m->n_out_slots * sizeof *p->writes);
    p->sources = calloc((size_t)p->plan->n_models, sizeof *p->sources);
    p->slots = ring_memory(p, m->n_slots * m->slot_bytes, &p->slots_of);
    p->out_slots = ring_memory(p, m->n_out_slots * m->out_slot_bytes, &p->out_slots_of);
    if (!p->free_slots || !p->free_out_slots || !p->writes || !p->sources || !p->slots || !p->out_slots)
        return false;
    /* Lowest slots are handed out first, so that a small model touches little memory. */
    for (uint64_t i = 0; i < m->n_slots; i++)
        p->free_slots[i] = (uint32_t)(m->n_slots - 1 - i);
    for (uint64_t i = 0; i < m->n_out_slots; i++)
        p->free_out_slots[i] = (uint32_t)(m->n_out_slots - 1 - i);
    p->n_free_slots = m->n_slots;
    p->n_free_out_slots = m->n_out_slots;
    for (int i = 0; i < p->plan->n_models; i++) {
        const struct ckpt *ckpt = p->plan->models[i];
        p->sources[i] = calloc(ckpt->n_files ? (size_t)ckpt->n_files : 1, sizeof **p->sources);
        if (!p->sources[i])
            return false;
    }
    return true;
}

static void release(struct pipeline *p)
{
    const struct plan_memory *m = &p->plan->memory;

    while (p->jobs) {
        struct run_job *next = p->jobs->next;
        run_job_free(p->jobs);
        p->jobs = next;
    }
    run_job_free(p->candidate);
    for (int i = 0; p->sources && i < p->plan->n_models; i++) {
        for (int f = 0; p->sources[i] && f < p->plan->models[i]->n_files; f++)
            source_close(p->sources[i][f]);
        free(p->sources[i]);
    }
    free(p->sources);
    if (p->slots)
        p->slots_of->ops->free(p->slots_of, p->slots, m->n_slots * m->slot_bytes);
    if (p->out_slots)
        p->out_slots_of->ops->free(p->out_slots_of, p->out_slots, m->n_out_slots * m->out_slot_bytes);
    if (p->pageable)
        p->pageable->ops->close(p->pageable);
    free(p->free_slots);
    free(p->free_out_slots);
    free(p->writes);
}

/* Starts n threads of one kind; fewer than wished are only slower, none is a failure. */
static bool start(void *arg, pthread_t *threads, int *n_threads, void *(*body)(void *), int n)
{
    for (int i = 0; i < n; i++) {
        if (pthread_create(&threads[*n_threads], NULL, body, arg))
            return i > 0;
        ++*n_threads;
    }
    return true;
}

static void run_threads(struct pipeline *p, pthread_t *threads)
{
    const struct plan_memory *m = &p->plan->memory;
    struct executor executors[BACKENDS_MAX];
    int n_threads = 0;
    bool started = start(p, threads, &n_threads, writer_thread, m->n_writers);

    for (int b = 0; started && b < p->args->n_backends; b++) {
        executors[b] = (struct executor){p, p->args->backends[b]};
        started = start(&executors[b], threads, &n_threads, compute_thread, p->args->threads_per_backend);
    }
    if (started && start(p, threads, &n_threads, reader_thread, m->n_readers)) {
        supervise(p);
    } else {
        struct wm_error err = WM_ERROR_INIT;
        error_set(&err, WM_TEMPORARY, "cannot start threads; raise the limit on processes (ulimit -u)");
        pthread_mutex_lock(&p->lock);
        schedule_fail(p, &err);
        pthread_mutex_unlock(&p->lock);
    }
    while (n_threads)
        pthread_join(threads[--n_threads], NULL);
}

enum wm_status pipeline_run(const struct pipeline_args *args, struct pipeline_totals *totals, struct wm_error *err)
{
    const struct plan_memory *m = &args->plan->memory;
    struct pipeline p = {.args = args, .plan = args->plan};
    pthread_t *threads =
        malloc((size_t)(m->n_readers + args->n_backends * args->threads_per_backend + m->n_writers) * sizeof *threads);
    pthread_condattr_t monotonic;
    double began = file_now_seconds(), ended;

    p.devices = (struct run_devices){args->plan->device.n_stay_slots, args->plan->device.stay_min_elems,
                                     group_most_members(args->backends[0])};
    memset(totals, 0, sizeof *totals);
    pthread_mutex_init(&p.lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&p.changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_cond_init(&p.can_read, NULL);
    pthread_cond_init(&p.can_compute, NULL);
    pthread_cond_init(&p.can_write, NULL);
    if (threads && allocate(&p)) {
        totals->setup_seconds = file_now_seconds() - began;
        run_threads(&p, threads);
    } else if (args->backends[0]->lost) /* now, or in a pipeline of this run before */
        error_set(&p.error, WM_TEMPORARY, "%s; run the same command again, it continues", args->backends[0]->message);
    else
        error_no_memory(&p.error, "allocating the ring of tiles");
    totals->bytes_read = p.bytes_read;
    totals->bytes_written = p.bytes_written;
    totals->tensors_done = p.tensors_done;
    totals->read_busy = p.read_busy;
    totals->compute_busy = p.compute_busy;
    totals->write_busy = p.write_busy;
    memcpy(totals->notice, p.notice.message, sizeof totals->notice);
    ended = file_now_seconds();
    release(&p);
    totals->setup_seconds += file_now_seconds() - ended;
    free(threads);
    pthread_cond_destroy(&p.can_write);
    pthread_cond_destroy(&p.can_compute);
    pthread_cond_destroy(&p.can_read);
    pthread_cond_destroy(&p.changed);
    pthread_mutex_destroy(&p.lock);
    return p.error.status == WM_OK ? WM_OK : error_set(err, p.error.status, "%s", p.error.message);
}
