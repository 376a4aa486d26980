/*
 * survey.c: see survey.h.
 *
 * What lives here: threads that read a tile of every input and then count in it. Reading waits for storage and counting for
 * a processor, so there are more threads than processors, and as many count at once as the plan has scratch memory for. No
 * order shows in integers, so the threads need no other coordination than who takes which tile.
 */
#include "engine/survey.h"

#include "base/dtype.h"
#include "base/file.h"
#include "checkpoint/source.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PROGRESS_SECONDS    0.2
#define CANCEL_POLL_SECONDS 0.05

struct survey {
    const struct survey_args *args;
    const struct plan *plan;
    struct model_statistics *statistics;
    struct survey_result *result;
    struct plan_range *everything; /* when the caller named no ranges */
    const struct plan_range *ranges;
    size_t n_ranges;
    struct source ***sources; /* [n_models][n_files], opened on first use */
    int max_sources;
    enum wm_direct_io direct_io;
    size_t n_threads, n_running;

    pthread_mutex_t lock;
    pthread_cond_t changed, can_count;
    struct cpu_scratch **scratch; /* [n_compute], the free ones first */
    int n_free_scratch;
    size_t next_range;    /* of this pass, ... */
    uint64_t next_offset; /* ... and the element in it */
    struct wm_error error;
};

struct tile_task {
    const struct plan_job *job;
    uint64_t first;
    size_t n_elems;
};

/* ---- what is to be read --------------------------------------------------------------------------------------- */

static bool wants_job(const struct plan *plan, const struct plan_job *job, struct merge_op *op)
{
    struct wm_error ignored = WM_ERROR_INIT;

    return job->action == PLAN_MERGE && plan_job_op(plan, job, op, &ignored) == WM_OK && op->model_statistics;
}

static enum wm_status expect(const struct plan *plan, struct model_statistics *statistics, int *max_sources,
                             struct wm_error *err)
{
    char message[256];
    struct merge_op op;

    *max_sources = 1;
    for (size_t j = 0; j < plan->n_jobs; j++) {
        const struct plan_job *job = &plan->jobs[j];
        if (!wants_job(plan, job, &op))
            continue;
        if (model_statistics_add(statistics, &op, message) != WM_OK)
            return error_set(err, WM_BAD_CONFIG, "%s: %s (tensor %s)", plan->recipe->path, message, job->name);
        if (job->n_sources > *max_sources)
            *max_sources = job->n_sources;
    }
    return WM_OK;
}

/* Everything is read several times, the merge included: what the page cache can hold should go through it once. Half of the
 * memory is a guess at what it can hold; where that is wrong, reading costs what a first reading does. */
static enum wm_direct_io reading_mode(const struct plan *plan, const struct wm_options *options)
{
    long n_pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);

    if (options->direct_io == WM_DIRECT_AUTO && n_pages > 0 && page_bytes > 0 &&
        plan->survey_bytes / (uint64_t)plan->n_survey_passes <= (uint64_t)n_pages * (uint64_t)page_bytes / 2)
        return WM_DIRECT_OFF;
    return options->direct_io;
}

/* Called with the lock held: the next tile of this pass; false: none is left. */
static bool take_tile(struct survey *s, struct tile_task *task)
{
    struct merge_op op;

    for (; s->next_range < s->n_ranges; s->next_range++, s->next_offset = 0) {
        const struct plan_range *range = &s->ranges[s->next_range];
        uint64_t left = range->n_elems - s->next_offset;
        if (left == 0 || (s->next_offset == 0 && !wants_job(s->plan, &s->plan->jobs[range->job], &op)))
            continue;
        task->job = &s->plan->jobs[range->job];
        task->first = range->first_elem + s->next_offset;
        task->n_elems = (size_t)(left < s->plan->memory.tile_elems ? left : s->plan->memory.tile_elems);
        s->next_offset += task->n_elems;
        return true;
    }
    return false;
}

/* ---- one tile -------------------------------------------------------------------------------------------------- */

static enum wm_status source_of(struct survey *s, const struct plan_source *src, struct source **source,
                                struct wm_error *err)
{
    const struct ckpt_file *file = &s->plan->models[src->model]->files[src->tensor->file];
    struct source **slot = &s->sources[src->model][src->tensor->file];
    enum wm_status st = WM_OK;

    pthread_mutex_lock(&s->lock);
    if (!*slot)
        st = source_open_file(slot, file->path, &file->identity, s->direct_io, err);
    *source = *slot;
    pthread_mutex_unlock(&s->lock);
    return st;
}

static enum wm_status read_tile(struct survey *s, const struct tile_task *task, unsigned char *buffers,
                                struct merge_tile *tile, uint64_t *n_bytes, struct wm_error *err)
{
    enum wm_status st = WM_OK;

    *n_bytes = 0;
    *tile = (struct merge_tile){.first_elem = task->first, .n_elems = task->n_elems};
    for (int i = 0; i < task->job->n_sources; i++) {
        const struct plan_source *src = &task->job->sources[i];
        uint64_t bits = dtype_bits(src->tensor->dtype);
        size_t n = (size_t)(task->n_elems * bits / 8);
        struct source *source;

        TRY(source_of(s, src, &source, err));
        TRY(source_read(source, src->tensor->begin + task->first * bits / 8, n,
                        buffers + (size_t)i * s->plan->memory.slot_bytes, &tile->in[i], err));
        tile->in_dtype[i] = src->tensor->dtype;
        *n_bytes += n;
    }
out:
    return st;
}

/* Scratch memory bounds how many count at once. */
static struct cpu_scratch *take_scratch(struct survey *s)
{
    struct cpu_scratch *scratch;

    pthread_mutex_lock(&s->lock);
    while (!s->n_free_scratch)
        pthread_cond_wait(&s->can_count, &s->lock);
    scratch = s->scratch[--s->n_free_scratch];
    pthread_mutex_unlock(&s->lock);
    return scratch;
}

static enum wm_status survey_tile(struct survey *s, const struct tile_task *task, unsigned char *buffers,
                                  struct wm_error *err)
{
    enum wm_status st;
    double began = file_now_seconds(), read, computed;
    struct cpu_scratch *scratch;
    struct merge_tile tile;
    struct merge_op op;
    uint64_t n_bytes;

    TRY(plan_job_op(s->plan, task->job, &op, err));
    TRY(read_tile(s, task, buffers, &tile, &n_bytes, err));
    read = file_now_seconds();
    scratch = take_scratch(s);
    computed = file_now_seconds();
    cpu_model_statistics_tile(&op, s->statistics, &tile, scratch);
    computed = file_now_seconds() - computed;
    pthread_mutex_lock(&s->lock);
    s->scratch[s->n_free_scratch++] = scratch;
    pthread_cond_signal(&s->can_count);
    s->result->bytes_read += n_bytes;
    s->result->read_busy += read - began;
    s->result->compute_busy += computed;
    pthread_mutex_unlock(&s->lock);
out:
    return st;
}

static void *survey_thread(void *user)
{
    struct survey *s = user;
    struct wm_error err = WM_ERROR_INIT;
    unsigned char *buffers = aligned_alloc(SOURCE_ALIGN, (size_t)s->max_sources * (size_t)s->plan->memory.slot_bytes);
    struct tile_task task;

    if (!buffers)
        error_no_memory(&err, "reading tensors");
    pthread_mutex_lock(&s->lock);
    while (err.status == WM_OK && s->error.status == WM_OK && take_tile(s, &task)) {
        pthread_mutex_unlock(&s->lock);
        (void)survey_tile(s, &task, buffers, &err);
        pthread_mutex_lock(&s->lock);
    }
    if (err.status != WM_OK)
        error_set(&s->error, err.status, "%s", err.message);
    s->n_running--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    free(buffers);
    return NULL;
}

/* ---- one pass -------------------------------------------------------------------------------------------------- */

/* Called and left with the lock held; the caller's function runs without it. */
static int tell_progress(struct survey *s)
{
    const struct wm_options *options = s->args->options;
    struct wm_progress progress = {.bytes_read = s->result->bytes_read,
                                   .bytes_to_read = s->plan->survey_bytes,
                                   .bytes_to_write = s->plan->bytes_out,
                                   .n_tensors = s->plan->n_jobs,
                                   .seconds = file_now_seconds() - s->args->start_seconds,
                                   .phase = "surveying",
                                   .shard = ""};
    int cancelled;

    if (!options->on_progress)
        return 0;
    pthread_mutex_unlock(&s->lock);
    cancelled = options->on_progress(options->user, &progress);
    pthread_mutex_lock(&s->lock);
    return cancelled;
}

static void stop(struct survey *s)
{
    error_set(&s->error, WM_CANCELLED, "stopped; run the same command again to start over");
}

/* The calling thread, with the lock held: progress and cancellation until the threads have ended. */
static void supervise(struct survey *s)
{
    double told = file_now_seconds();

    while (s->n_running) {
        int cancelled = s->args->cancel && *s->args->cancel;
        struct timespec until;

        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += (long)(CANCEL_POLL_SECONDS * 1e9);
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&s->changed, &s->lock, &until);
        if (file_now_seconds() - told >= PROGRESS_SECONDS && !cancelled) {
            told = file_now_seconds();
            cancelled = tell_progress(s);
        }
        if (cancelled)
            stop(s);
    }
    if (s->error.status == WM_OK && tell_progress(s))
        stop(s);
}

static enum wm_status run_pass(struct survey *s, pthread_t *threads, struct wm_error *err)
{
    size_t n_started = 0;

    pthread_mutex_lock(&s->lock);
    s->next_range = 0;
    s->next_offset = 0;
    for (; n_started < s->n_threads; n_started++) {
        if (pthread_create(&threads[n_started], NULL, survey_thread, s))
            break;
        s->n_running++;
    }
    if (!n_started)
        error_set(&s->error, WM_TEMPORARY, "cannot start threads; raise the limit on processes (ulimit -u)");
    supervise(s);
    pthread_mutex_unlock(&s->lock);
    while (n_started)
        pthread_join(threads[--n_started], NULL);
    return s->error.status == WM_OK ? WM_OK : error_set(err, s->error.status, "%s", s->error.message);
}

static enum wm_status run_passes(struct survey *s, pthread_t *threads, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    uint64_t *counts;
    size_t n_counts;

    while (s->statistics->pass != MODEL_READY) {
        TRY(run_pass(s, threads, err));
        counts = model_statistics_counts(s->statistics, &n_counts);
        if (s->args->reduce)
            TRY(s->args->reduce(s->args->user, counts, n_counts, err));
        if (!model_statistics_finish_pass(s->statistics)) {
            st = error_set(err, WM_BUG,
                           "the counts of the whole model do not add up to its %llu elements; please report this",
                           (unsigned long long)s->statistics->n_elems);
            goto out;
        }
    }
    s->result->thresholds = s->statistics->result;
out:
    return st;
}

/* ---- the survey ------------------------------------------------------------------------------------------------ */

static bool allocate(struct survey *s)
{
    const struct plan_memory *m = &s->plan->memory;
    uint64_t room = m->n_slots / (uint64_t)s->max_sources;

    s->n_threads = (size_t)(m->n_compute + m->n_readers);
    if (room < s->n_threads)
        s->n_threads = room ? (size_t)room : 1;
    if (!s->ranges && !s->args->reduce) {
        s->everything = calloc(s->plan->n_jobs ? s->plan->n_jobs : 1, sizeof *s->everything);
        if (!s->everything)
            return false;
        for (size_t j = 0; j < s->plan->n_jobs; j++)
            s->everything[j] = (struct plan_range){.job = j, .n_elems = s->plan->jobs[j].n_elems};
        s->ranges = s->everything;
        s->n_ranges = s->plan->n_jobs;
    }
    s->scratch = calloc((size_t)m->n_compute, sizeof *s->scratch);
    s->sources = calloc((size_t)s->plan->n_models, sizeof *s->sources);
    if (!s->scratch || !s->sources)
        return false;
    for (; s->n_free_scratch < m->n_compute; s->n_free_scratch++)
        if (!(s->scratch[s->n_free_scratch] = cpu_scratch_new()))
            return false;
    for (int i = 0; i < s->plan->n_models; i++) {
        const struct ckpt *ckpt = s->plan->models[i];
        s->sources[i] = calloc(ckpt->n_files ? (size_t)ckpt->n_files : 1, sizeof **s->sources);
        if (!s->sources[i])
            return false;
    }
    return model_statistics_begin(s->statistics);
}

static void release(struct survey *s)
{
    for (int i = 0; s->sources && i < s->plan->n_models; i++) {
        for (int f = 0; s->sources[i] && f < s->plan->models[i]->n_files; f++)
            source_close(s->sources[i][f]);
        free(s->sources[i]);
    }
    free(s->sources);
    while (s->n_free_scratch)
        cpu_scratch_free(s->scratch[--s->n_free_scratch]);
    free(s->scratch);
    free(s->everything);
}

static enum wm_status count_everything(const struct survey_args *args, struct model_statistics *statistics,
                                       int max_sources, struct survey_result *result, struct wm_error *err)
{
    struct survey s = {.args = args,
                       .plan = args->plan,
                       .statistics = statistics,
                       .result = result,
                       .ranges = args->ranges,
                       .n_ranges = args->n_ranges,
                       .max_sources = max_sources,
                       .direct_io = reading_mode(args->plan, args->options)};
    enum wm_status st;
    pthread_t *threads = NULL;
    pthread_condattr_t monotonic;

    pthread_mutex_init(&s.lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&s.changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_cond_init(&s.can_count, NULL);
    if (!allocate(&s) || !(threads = malloc(s.n_threads * sizeof *threads)))
        st = error_no_memory(err, "surveying the models");
    else
        st = run_passes(&s, threads, err);
    free(threads);
    release(&s);
    pthread_cond_destroy(&s.can_count);
    pthread_cond_destroy(&s.changed);
    pthread_mutex_destroy(&s.lock);
    return st;
}

/* All ranks take the file, or none: they need not see the same of a shared file system. */
static enum wm_status agree(const struct survey_args *args, bool *found, struct wm_error *err)
{
    uint64_t votes[2] = {*found, 1};
    enum wm_status st = WM_OK;

    if (args->reduce)
        TRY(args->reduce(args->user, votes, 2, err));
    *found = votes[0] == votes[1];
out:
    return st;
}

enum wm_status survey_run(const struct survey_args *args, struct survey_result *result, struct wm_error *err)
{
    enum wm_status st;
    struct model_statistics statistics;
    int max_sources;

    memset(result, 0, sizeof *result);
    model_statistics_init(&statistics);
    TRY(expect(args->plan, &statistics, &max_sources, err));
    result->was_known = !args->options->restart && survey_load(args->dir, args->plan, &statistics, &result->thresholds);
    TRY(agree(args, &result->was_known, err));
    if (result->was_known)
        goto out;
    TRY(count_everything(args, &statistics, max_sources, result, err));
    if (args->writes_file)
        TRY(survey_save(args->dir, args->plan, &result->thresholds, args->options->sync != 0, err));
out:
    model_statistics_release(&statistics);
    return st;
}
