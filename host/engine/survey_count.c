/*
 * survey_count.c: one pass of the survey: every tile read once, and counted.
 *
 * What lives here: threads that read a tile of every input and then see to it that it is counted. Where the CPU counts they
 * do so themselves: reading waits for storage and counting for a processor, so there are more threads than processors, and
 * as many count at once as the plan has scratch memory for. Where GPUs count, tiles are handed over to the threads that
 * drive them. No order shows in integers, so the threads need no other coordination than who takes which tile. What it must
 * not know: what counts mean, which pass comes next.
 */
#include "engine/survey_count.h"

#include "base/dtype.h"
#include "base/file.h"
#include "checkpoint/source.h"

#include <time.h>

#define PROGRESS_SECONDS    0.2
#define CANCEL_POLL_SECONDS 0.05

/* ---- what is to be read --------------------------------------------------------------------------------------- */

bool survey_wants_job(const struct plan *plan, const struct plan_job *job, struct merge_op *op)
{
    struct wm_error ignored = WM_ERROR_INIT;

    return job->action == PLAN_MERGE && plan_job_op(plan, job, op, &ignored) == WM_OK && op->model_statistics;
}

struct tile_task {
    const struct plan_job *job;
    uint64_t first;
    size_t n_elems;
};

/* Called with the lock held: the next tile of this pass; false: none is left, or the pass must end. */
static bool take_tile(struct survey *s, struct tile_task *task)
{
    struct merge_op op;

    if (s->lost || s->error.status != WM_OK)
        return false;
    for (; s->next_range < s->n_ranges; s->next_range++, s->next_offset = 0) {
        const struct plan_range *range = &s->ranges[s->next_range];
        uint64_t left = range->n_elems - s->next_offset;
        if (left == 0 || (s->next_offset == 0 && !survey_wants_job(s->plan, &s->plan->jobs[range->job], &op)))
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
static enum wm_status count_here(struct survey *s, struct survey_hand *hand, struct wm_error *err)
{
    const struct backend_ops *ops = s->cpu->ops;
    enum wm_status st;
    double began;
    void *place;

    pthread_mutex_lock(&s->lock);
    while (!s->n_free_places)
        pthread_cond_wait(&s->can_count, &s->lock);
    place = s->places[--s->n_free_places];
    pthread_mutex_unlock(&s->lock);
    began = file_now_seconds();
    st = ops->submit(s->cpu, place, &hand->task, err);
    if (st == WM_OK)
        st = ops->await(s->cpu, place, &hand->task, err);
    began = file_now_seconds() - began;
    pthread_mutex_lock(&s->lock);
    s->places[s->n_free_places++] = place;
    pthread_cond_signal(&s->can_count);
    s->result->compute_busy += began;
    pthread_mutex_unlock(&s->lock);
    return st;
}

static enum wm_status survey_tile(struct survey *s, const struct tile_task *task, unsigned char *buffers,
                                  struct survey_hand *hand, struct wm_error *err)
{
    enum wm_status st;
    double began = file_now_seconds();
    uint64_t n_bytes;

    TRY(plan_job_op(s->plan, task->job, &hand->op, err));
    TRY(read_tile(s, task, buffers, &hand->task.tile, &n_bytes, err));
    began = file_now_seconds() - began;
    pthread_mutex_lock(&s->lock);
    s->result->bytes_read += n_bytes;
    s->result->read_busy += began;
    if (!s->cpu)
        survey_hand_over(s, hand);
    pthread_mutex_unlock(&s->lock);
    if (s->cpu)
        TRY(count_here(s, hand, err));
out:
    return st;
}

static void *reader_thread(void *user)
{
    struct survey_reader *reader = user;
    struct survey *s = reader->survey;
    struct survey_hand hand = {.task = {.op = &hand.op, .model_statistics = s->statistics}};
    struct wm_error err = WM_ERROR_INIT;
    struct tile_task task;

    pthread_cond_init(&hand.counted, NULL);
    pthread_mutex_lock(&s->lock);
    while (err.status == WM_OK && take_tile(s, &task)) {
        pthread_mutex_unlock(&s->lock);
        (void)survey_tile(s, &task, reader->buffers, &hand, &err);
        pthread_mutex_lock(&s->lock);
    }
    if (err.status != WM_OK)
        survey_fail(s, &err);
    if (--s->n_running == 0) {
        s->all_read = true;
        pthread_cond_broadcast(&s->can_drive);
    }
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    pthread_cond_destroy(&hand.counted);
    return NULL;
}

/* ---- the pass -------------------------------------------------------------------------------------------------- */

void survey_fail(struct survey *s, const struct wm_error *err)
{
    error_set(&s->error, err->status, "%s", err->message);
    survey_drop_queue(s);
}

/* Called and left with the lock held; the caller's function runs without it. */
static int tell_progress(struct survey *s)
{
    const struct wm_options *options = s->args->options;
    const struct survey_args *args = s->args;
    uint64_t bytes_known =
        args->bytes_to_read / (uint64_t)s->plan->n_survey_passes * (uint64_t)s->result->n_known_passes;
    struct wm_progress progress = {.bytes_read = bytes_known + s->result->bytes_read - s->bytes_again,
                                   .bytes_to_read = args->bytes_to_read + args->bytes_after,
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
    struct wm_error err = WM_ERROR_INIT;

    error_set(&err, WM_CANCELLED, "stopped; run the same command again, it continues after the last finished pass");
    survey_fail(s, &err);
}

/* The calling thread, with the lock held: progress and cancellation until everything is counted. */
static void supervise(struct survey *s)
{
    double told = file_now_seconds();

    while (s->n_running || survey_drivers_are_busy(s)) {
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
    if (s->error.status == WM_OK && !s->lost && tell_progress(s))
        stop(s);
}

enum wm_status survey_count_pass(struct survey *s, struct wm_error *err)
{
    struct wm_error no_threads = WM_ERROR_INIT;
    uint64_t bytes_before;
    size_t n_started = 0;

    pthread_mutex_lock(&s->lock);
    bytes_before = s->result->bytes_read;
    s->n_passes_begun++;
    s->all_read = s->lost = false;
    s->next_range = 0;
    s->next_offset = 0;
    for (; n_started < s->n_readers; n_started++) {
        if (pthread_create(&s->readers[n_started].thread, NULL, reader_thread, &s->readers[n_started]))
            break;
        s->n_running++;
    }
    if (!n_started) {
        error_set(&no_threads, WM_TEMPORARY, "cannot start threads; raise the limit on processes (ulimit -u)");
        survey_fail(s, &no_threads);
        s->all_read = true;
        pthread_cond_broadcast(&s->can_drive);
    }
    supervise(s);
    if (s->lost)
        s->bytes_again += s->result->bytes_read - bytes_before;
    pthread_mutex_unlock(&s->lock);
    while (n_started)
        pthread_join(s->readers[--n_started].thread, NULL);
    return s->error.status == WM_OK ? WM_OK : error_set(err, s->error.status, "%s", s->error.message);
}
