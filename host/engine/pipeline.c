/*
 * pipeline.c: readers, compute threads and writers over a ring of tiles.
 *
 * What lives here: the threads. What each does next is decided in schedule.c under one lock; all reading, computing and
 * writing happens outside it. What it must not know: what the numbers mean.
 *
 *     unread tile --reader--> input slots --compute--> (next pass ...) --compute--> output slot --writer--> shard
 */
#include "engine/pipeline.h"

#include "base/text.h"
#include "checkpoint/source.h"
#include "engine/schedule.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MIN_DIRECT_BYTES    ((size_t)64 << 10)
#define PROGRESS_SECONDS    0.2
#define CANCEL_POLL_SECONDS 0.05

/* ---- readers ------------------------------------------------------------------------------------------------- */

static enum wm_status source_of(struct pipeline *p, const struct plan_source *src, struct source **source,
                                struct wm_error *err)
{
    const struct ckpt_file *file = &p->plan->models[src->model]->files[src->tensor->file];
    enum wm_status st = WM_OK;
    struct source **slot = &p->sources[src->model][src->tensor->file];

    pthread_mutex_lock(&p->lock);
    *source = *slot;
    pthread_mutex_unlock(&p->lock);
    if (*source)
        return WM_OK;
    TRY(source_open_file(source, file->path, &file->identity, p->args->options->direct_io, err));
    pthread_mutex_lock(&p->lock);
    if (*slot) { /* another reader was faster */
        source_close(*source);
        *source = *slot;
    }
    *slot = *source;
    pthread_mutex_unlock(&p->lock);
out:
    return st;
}

static enum wm_status read_tile(struct pipeline *p, struct run_job *job, size_t tile, uint64_t *n_bytes,
                                struct wm_error *err)
{
    const struct plan_job *pj = job->plan_job;
    uint64_t tile_elems = p->plan->memory.tile_elems, first = tile * tile_elems;
    uint64_t n_elems = pj->n_elems - first < tile_elems ? pj->n_elems - first : tile_elems;
    enum wm_status st = WM_OK;

    *n_bytes = 0;
    for (int s = 0; s < pj->n_sources; s++) {
        const struct plan_source *src = &pj->sources[s];
        size_t at = tile * (size_t)pj->n_sources + (size_t)s;
        uint64_t bits = dtype_bits(src->tensor->dtype);
        struct source *source;

        TRY(source_of(p, src, &source, err));
        st = source_read(source, src->tensor->begin + first * bits / 8, (size_t)(n_elems * bits / 8),
                         p->slots + (size_t)job->slots[at] * p->plan->memory.slot_bytes, &job->data[at], err);
        if (st != WM_OK)
            goto out;
        *n_bytes += n_elems * bits / 8;
    }
out:
    return st;
}

static void *reader_thread(void *arg)
{
    struct pipeline *p = arg;
    struct run_job *job;
    uint64_t n_bytes;
    size_t tile;

    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        struct wm_error err = WM_ERROR_INIT;
        double began;
        if (!schedule_take_read(p, &job, &tile)) {
            if (schedule_is_done(p))
                break;
            if (!p->stop)
                pthread_cond_wait(&p->can_read, &p->lock);
            continue;
        }
        pthread_cond_signal(&p->can_read); /* there may be more to read */
        pthread_mutex_unlock(&p->lock);
        began = file_now_seconds();
        (void)read_tile(p, job, tile, &n_bytes, &err);
        began = file_now_seconds() - began;
        pthread_mutex_lock(&p->lock);
        p->read_busy += began;
        if (err.status != WM_OK) {
            schedule_fail(p, &err);
            break;
        }
        p->bytes_read += n_bytes;
        run_job_arrived(job, tile);
        pthread_cond_signal(&p->can_compute);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* Where a tile's output lies: in its slot at the offset that it has in its page of the file. */
static unsigned char *out_bytes(const struct pipeline *p, const struct plan_job *pj, size_t tile, uint32_t out_slot)
{
    uint64_t offset = pj->begin + tile * p->plan->memory.tile_elems * dtype_bits(pj->dtype) / 8;

    return p->out_slots + (size_t)out_slot * p->plan->memory.out_slot_bytes + offset % PLAN_DATA_ALIGN;
}

/* ---- writers ------------------------------------------------------------------------------------------------- */

/* Whole pages go past the page cache: what is written once and read by nobody soon should not cost a copy, push the
 * inputs out of memory, and then be waited for in one long fsync (ext4 on a virtual NVMe drive, 2026-11-22: 2 GiB with
 * fsync 1.1 s with O_DIRECT, 2.5 to 9 s without). The ends of a tile share their pages with its neighbours and go
 * through the cache; no page is written both ways. */
static enum wm_status write_bytes(struct pipeline *p, int shard, const unsigned char *bytes, size_t n_bytes,
                                  uint64_t offset, struct wm_error *err)
{
    const char *name = p->plan->shards[shard].name;
    int fd = p->args->shard_fds[shard], direct_fd = p->args->direct_fds[shard];
    size_t head = (size_t)(-offset % PLAN_DATA_ALIGN), middle;
    enum wm_status st = WM_OK;

    if (direct_fd < 0 || n_bytes < MIN_DIRECT_BYTES)
        return file_write_at(fd, name, bytes, n_bytes, offset, err);
    middle = (n_bytes - head) / PLAN_DATA_ALIGN * PLAN_DATA_ALIGN;
    if (head)
        TRY(file_write_at(fd, name, bytes, head, offset, err));
    TRY(file_write_at(direct_fd, name, bytes + head, middle, offset + head, err));
    if (head + middle < n_bytes)
        TRY(file_write_at(fd, name, bytes + head + middle, n_bytes - head - middle, offset + head + middle, err));
out:
    return st;
}

/* Called and left with the lock held. */
static void write_one(struct pipeline *p, const struct write_task *task)
{
    const struct plan_job *pj = task->job->plan_job;
    uint64_t bits = dtype_bits(pj->dtype), first = task->tile * p->plan->memory.tile_elems;
    struct journal_record record = {task->job->index, first, task->n_elems, task->hash};
    struct wm_error err = WM_ERROR_INIT;
    enum wm_status st;
    double began;

    pthread_mutex_unlock(&p->lock);
    began = file_now_seconds();
    st = write_bytes(p, pj->shard, out_bytes(p, pj, task->tile, task->out_slot), (size_t)(task->n_elems * bits / 8),
                     pj->begin + first * bits / 8, &err);
    began = file_now_seconds() - began;
    pthread_mutex_lock(&p->lock);
    p->write_busy += began;
    if (st == WM_OK)
        st = journal_append(p->args->journal, &record, &err);
    if (st != WM_OK) {
        schedule_fail(p, &err);
        return;
    }
    p->bytes_written += task->n_elems * bits / 8;
    p->shard = p->plan->shards[pj->shard].name;
    schedule_release_out_slot(p, task->out_slot);
    schedule_tile_finished(p, task->job);
}

/* ---- compute ------------------------------------------------------------------------------------------------- */

/* A tensor that is not computed with: every source must hold the same bytes. */
static enum wm_status copy_tile(struct pipeline *p, const struct run_job *job, const struct merge_tile *tile,
                                struct wm_error *err)
{
    const struct plan_job *pj = job->plan_job;
    size_t n_bytes = (size_t)((uint64_t)tile->n_elems * dtype_bits(pj->dtype) / 8);
    char name[300];

    for (int s = 1; s < pj->n_sources; s++) {
        const unsigned char *a = tile->in[0], *b = tile->in[s];
        size_t i = 0;
        if (memcmp(a, b, n_bytes) == 0)
            continue;
        while (a[i] == b[i])
            i++;
        return error_set(err, WM_BAD_DATA,
                         "tensor %s has type %s, which cannot be merged, and %s and %s hold different "
                         "values (first near element %llu); use models that agree in it, or de-quantised ones",
                         text_display(name, sizeof name, pj->name), dtype_name(pj->dtype),
                         plan_model_name(p->plan, pj->sources[0].model), plan_model_name(p->plan, pj->sources[s].model),
                         (unsigned long long)(tile->first_elem + i * 8 / dtype_bits(pj->dtype)));
    }
    memcpy(tile->out, tile->in[0], n_bytes);
    return WM_OK;
}

static bool is_refused(const struct pipeline *p, const struct merge_report *r)
{
    uint64_t n_bad_in = 0;

    for (int s = 0; s < TILE_MAX_INPUTS; s++)
        n_bad_in += r->n_bad_in[s];
    return (n_bad_in && p->args->options->nonfinite == WM_POLICY_ERROR) ||
           (r->n_bad_out && p->args->options->overflow == WM_POLICY_ERROR);
}

/* The element-wise pass over one tile, and what follows from it. Called and left with the lock held. */
static void combine(struct pipeline *p, void *thread, struct run_job *job, size_t tile_index, uint32_t out_slot)
{
    const struct plan *plan = p->plan;
    struct wm_error err = WM_ERROR_INIT;
    struct merge_report report;
    struct merge_tile tile;
    struct hash128 *digests;
    struct hash128 hash = {0, 0};
    bool refused;
    double began;

    if (run_job_tile_is_done(job, tile_index, plan->memory.tile_elems)) { /* of a resident job */
        schedule_release_slots(p, job, tile_index);
        schedule_release_out_slot(p, out_slot);
        schedule_tile_finished(p, job);
        return;
    }
    run_job_fill_tile(job, tile_index, plan->memory.tile_elems, &tile);
    tile.out = out_bytes(p, job->plan_job, tile_index, out_slot);
    pthread_mutex_unlock(&p->lock);

    began = file_now_seconds();
    merge_report_init(&report);
    digests = job->digests + tile.first_elem / TILE_CHUNK_ELEMS;
    if (job->plan_job->action == PLAN_COPY)
        (void)copy_tile(p, job, &tile, &err);
    else
        (void)p->args->backend->ops->combine(p->args->backend, thread, &job->op, job->statistics, &tile, &report, &err);
    refused = is_refused(p, &report);
    if (err.status == WM_OK && !refused) {
        size_t n_bytes = (size_t)((uint64_t)tile.n_elems * dtype_bits(job->plan_job->dtype) / 8);
        hash_pieces(tile.out, n_bytes, resume_piece_bytes(job->plan_job->dtype), digests);
        hash = hash_tree(digests, resume_n_pieces(tile.n_elems));
    }
    began = file_now_seconds() - began;

    pthread_mutex_lock(&p->lock);
    p->compute_busy += began;
    merge_report_add(&job->report, &report);
    schedule_release_slots(p, job, tile_index);
    if (err.status != WM_OK) {
        schedule_fail(p, &err);
    } else if (refused) {
        /* Not written and not journaled; the rest of the tensor is still looked at, so that the counts are whole. */
        job->refused = true;
        schedule_release_out_slot(p, out_slot);
        schedule_tile_finished(p, job);
    } else {
        struct write_task task = {job, tile_index, out_slot, tile.n_elems, hash};
        if (job->n_tiles == 1 && job->plan_job->n_bytes < MIN_DIRECT_BYTES)
            write_one(p, &task); /* cheaper than handing it over */
        else
            schedule_push_write(p, &task);
    }
}

/* One tile of a statistics pass; the last one ends the pass. A tensor of one tile goes through all its passes at once:
 * thousands of tiny tensors must not cost a hand-over each time. Called and left with the lock held. */
static void gather(struct pipeline *p, void *thread, struct run_job *job, size_t tile_index)
{
    const struct backend_ops *ops = p->args->backend->ops;
    bool whole = job->resident && job->n_tiles == 1;
    enum stat_pass pass = job->pass;
    struct wm_error err = WM_ERROR_INIT;
    struct merge_tile tile;
    double began;

    run_job_fill_tile(job, tile_index, p->plan->memory.tile_elems, &tile);
    pthread_mutex_unlock(&p->lock);
    began = file_now_seconds();
    do {
        if (ops->statistics(p->args->backend, thread, &job->op, job->statistics, &tile, &err) == WM_OK && whole)
            pass = statistics_finish_pass(job->statistics, &job->op);
    } while (whole && pass != STAT_READY && err.status == WM_OK);
    began = file_now_seconds() - began;
    pthread_mutex_lock(&p->lock);
    p->compute_busy += began;
    if (err.status != WM_OK) {
        schedule_fail(p, &err);
        return;
    }
    if (whole) {
        schedule_begin_pass(p, job, pass);
        return;
    }
    run_job_advance_order(job);
    if (job->n_ready)
        pthread_cond_signal(&p->can_compute);
    if (!job->resident)
        schedule_release_slots(p, job, tile_index);
    if (++job->n_pass_done < job->n_tiles)
        return;
    job->finishing = true; /* nobody else has work in this job now */
    pthread_mutex_unlock(&p->lock);
    began = file_now_seconds();
    pass = statistics_finish_pass(job->statistics, &job->op);
    began = file_now_seconds() - began;
    pthread_mutex_lock(&p->lock);
    p->compute_busy += began;
    job->finishing = false;
    schedule_begin_pass(p, job, pass);
}

static void *compute_thread(void *arg)
{
    struct pipeline *p = arg;
    void *thread = p->args->backend->ops->thread_new(p->args->backend);
    struct run_job *job;
    uint32_t out_slot;
    size_t tile;

    pthread_mutex_lock(&p->lock);
    if (!thread) {
        struct wm_error err = WM_ERROR_INIT;
        error_no_memory(&err, "starting a compute thread");
        schedule_fail(p, &err);
    }
    while (!p->stop) {
        if (schedule_take_compute(p, &job, &tile, &out_slot)) {
            if (job->pass == STAT_READY)
                combine(p, thread, job, tile, out_slot);
            else
                gather(p, thread, job, tile);
        } else if (p->all_done) {
            break;
        } else {
            pthread_cond_wait(&p->can_compute, &p->lock);
        }
    }
    pthread_mutex_unlock(&p->lock);
    if (thread)
        p->args->backend->ops->thread_free(p->args->backend, thread);
    return NULL;
}

static void *writer_thread(void *arg)
{
    struct pipeline *p = arg;

    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        struct write_task task;
        if (schedule_take_write(p, &task)) {
            write_one(p, &task);
        } else if (p->all_done) {
            break;
        } else {
            pthread_cond_wait(&p->can_write, &p->lock);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* ---- the run ------------------------------------------------------------------------------------------------- */

/* Called and left with the lock held; the caller's function runs without it. */
static int tell_progress(struct pipeline *p)
{
    const struct wm_options *options = p->args->options;
    int cancelled;
    struct wm_progress progress = {.bytes_read = p->bytes_read,
                                   .bytes_to_read = p->plan->bytes_to_read,
                                   .bytes_written = p->bytes_written + p->args->resume->n_bytes,
                                   .bytes_to_write = p->plan->bytes_out,
                                   .bytes_resumed = p->args->resume->n_bytes,
                                   .tensors_done = p->tensors_done,
                                   .n_tensors = p->plan->n_jobs,
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
    }
    if (!p->stop)
        tell_progress(p);
    pthread_mutex_unlock(&p->lock);
}

static bool allocate(struct pipeline *p)
{
    const struct plan_memory *m = &p->plan->memory;
    struct backend *b = p->args->backend;

    p->free_slots = malloc(m->n_slots * sizeof *p->free_slots);
    p->free_out_slots = malloc(m->n_out_slots * sizeof *p->free_out_slots);
    p->writes = malloc(m->n_out_slots * sizeof *p->writes);
    p->sources = calloc((size_t)p->plan->n_models, sizeof *p->sources);
    p->slots = b->ops->alloc(b, m->n_slots * m->slot_bytes);
    p->out_slots = b->ops->alloc(b, m->n_out_slots * m->out_slot_bytes);
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
    struct backend *b = p->args->backend;

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
    b->ops->free(b, p->slots, m->n_slots * m->slot_bytes);
    b->ops->free(b, p->out_slots, m->n_out_slots * m->out_slot_bytes);
    free(p->free_slots);
    free(p->free_out_slots);
    free(p->writes);
}

/* Starts n threads of one kind; fewer than wished are only slower, none is a failure. */
static bool start(struct pipeline *p, pthread_t *threads, int *n_threads, void *(*body)(void *), int n)
{
    for (int i = 0; i < n; i++) {
        if (pthread_create(&threads[*n_threads], NULL, body, p))
            return i > 0;
        ++*n_threads;
    }
    return true;
}

static void run_threads(struct pipeline *p, pthread_t *threads)
{
    const struct plan_memory *m = &p->plan->memory;
    int n_threads = 0;

    if (start(p, threads, &n_threads, writer_thread, m->n_writers) &&
        start(p, threads, &n_threads, compute_thread, m->n_compute) &&
        start(p, threads, &n_threads, reader_thread, m->n_readers)) {
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
    pthread_t *threads = malloc((size_t)(m->n_readers + m->n_compute + m->n_writers) * sizeof *threads);
    pthread_condattr_t monotonic;

    memset(totals, 0, sizeof *totals);
    pthread_mutex_init(&p.lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&p.changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_cond_init(&p.can_read, NULL);
    pthread_cond_init(&p.can_compute, NULL);
    pthread_cond_init(&p.can_write, NULL);
    if (threads && allocate(&p))
        run_threads(&p, threads);
    else
        error_no_memory(&p.error, "allocating the ring of tiles");
    *totals = (struct pipeline_totals){p.bytes_read, p.bytes_written, p.read_busy, p.compute_busy, p.write_busy};
    release(&p);
    free(threads);
    pthread_cond_destroy(&p.can_write);
    pthread_cond_destroy(&p.can_compute);
    pthread_cond_destroy(&p.can_read);
    pthread_cond_destroy(&p.changed);
    pthread_mutex_destroy(&p.lock);
    return p.error.status == WM_OK ? WM_OK : error_set(err, p.error.status, "%s", p.error.message);
}
