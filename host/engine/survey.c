/*
 * survey.c: see survey.h.
 *
 * What lives here: what the survey has to look at, its passes, and whether there is anything to find at all; of ranks, what
 * all of them agree on. A pass in which a GPU was lost begins again. What it must not know: threads and tiles
 * (survey_count.c).
 */
#include "engine/survey_count.h"

#include "base/dtype.h"
#include "checkpoint/source.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- what is to be read --------------------------------------------------------------------------------------- */

static enum wm_status expect(const struct plan *plan, struct model_statistics *statistics, int *max_sources,
                             struct wm_error *err)
{
    char message[256];
    struct merge_op op;

    *max_sources = 1;
    for (size_t j = 0; j < plan->n_jobs; j++) {
        const struct plan_job *job = &plan->jobs[j];
        if (!survey_wants_job(plan, job, &op))
            continue;
        if (model_statistics_add(statistics, &op, message) != WM_OK)
            return error_set(err, WM_BAD_CONFIG, "%s: %s (tensor %s)", plan->recipe->path, message, job->name);
        if (job->n_sources > *max_sources)
            *max_sources = job->n_sources;
    }
    return WM_OK;
}

uint64_t survey_bytes_of(const struct plan *plan, const struct plan_range *ranges, size_t n_ranges)
{
    uint64_t n_bytes = 0;
    struct merge_op op;

    for (size_t r = 0; plan->n_survey_passes && r < n_ranges; r++) {
        const struct plan_job *job = &plan->jobs[ranges[r].job];
        if (!survey_wants_job(plan, job, &op))
            continue;
        for (int i = 0; i < job->n_sources; i++)
            n_bytes += ranges[r].n_elems * dtype_bits(job->sources[i].tensor->dtype) / 8;
    }
    return n_bytes * (uint64_t)plan->n_survey_passes;
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

/* ---- who counts -------------------------------------------------------------------------------------------------- */

/* The CPU, when nobody else is there (any more): the caller's backend, or one of our own. */
static enum wm_status count_on_cpu(struct survey *s, struct wm_error *err)
{
    const struct survey_args *args = s->args;
    struct backend *cpu;
    enum wm_status st = WM_OK;

    if (args->n_backends && args->backends[0]->depth == 1) {
        cpu = args->backends[0];
    } else {
        TRY(backend_open_cpu(&s->own, err));
        cpu = s->own;
    }
    s->places = calloc((size_t)s->plan->memory.n_compute, sizeof *s->places);
    if (!s->places) {
        st = error_no_memory(err, "surveying the models");
        goto out;
    }
    s->cpu = cpu;
    for (; s->n_places < s->plan->memory.n_compute; s->n_places++)
        if (!(s->places[s->n_places] = cpu->ops->thread_new(cpu, err))) {
            st = err->status;
            goto out;
        }
    s->n_free_places = s->n_places;
out:
    return st;
}

/* As many as read at once, and as many as are being counted meanwhile; no more than there are buffers for. */
static size_t choose_readers(const struct survey *s)
{
    const struct plan_memory *m = &s->plan->memory;
    uint64_t room = m->n_slots / (uint64_t)s->max_sources, n = (uint64_t)m->n_readers;

    for (int i = 0; i < s->args->n_backends; i++)
        n += s->args->backends[i]->depth > 1 ? (uint64_t)s->args->backends[i]->depth : 0;
    if (n == (uint64_t)m->n_readers)
        n += (uint64_t)m->n_compute;
    return (size_t)(n < room ? n : room ? room : 1);
}

static enum wm_status allocate_buffers(struct survey *s, struct wm_error *err)
{
    size_t n_bytes = (size_t)s->max_sources * (size_t)s->plan->memory.slot_bytes;

    s->owner = s->args->n_backends ? s->args->backends[0] : s->cpu;
    s->n_readers = choose_readers(s);
    s->readers = calloc(s->n_readers, sizeof *s->readers);
    s->buffers = s->owner->ops->alloc(s->owner, s->n_readers * n_bytes);
    if (!s->readers || !s->buffers)
        return error_no_memory(err, "surveying the models");
    for (size_t i = 0; i < s->n_readers; i++)
        s->readers[i] = (struct survey_reader){.survey = s, .buffers = s->buffers + i * n_bytes};
    return WM_OK;
}

static bool allocate_tables(struct survey *s)
{
    if (!s->ranges && !s->args->reduce) {
        s->everything = calloc(s->plan->n_jobs ? s->plan->n_jobs : 1, sizeof *s->everything);
        if (!s->everything)
            return false;
        for (size_t j = 0; j < s->plan->n_jobs; j++)
            s->everything[j] = (struct plan_range){.job = j, .n_elems = s->plan->jobs[j].n_elems};
        s->ranges = s->everything;
        s->n_ranges = s->plan->n_jobs;
    }
    s->sources = calloc((size_t)s->plan->n_models, sizeof *s->sources);
    if (!s->sources)
        return false;
    for (int i = 0; i < s->plan->n_models; i++) {
        const struct ckpt *ckpt = s->plan->models[i];
        s->sources[i] = calloc(ckpt->n_files ? (size_t)ckpt->n_files : 1, sizeof **s->sources);
        if (!s->sources[i])
            return false;
    }
    return model_statistics_begin(s->statistics);
}

static enum wm_status begin(struct survey *s, struct wm_error *err)
{
    enum wm_status st = WM_OK;

    if (!allocate_tables(s)) {
        st = error_no_memory(err, "surveying the models");
        goto out;
    }
    TRY(survey_drivers_start(s, err));
    if (!s->n_drivers)
        TRY(count_on_cpu(s, err));
    TRY(allocate_buffers(s, err));
out:
    return st;
}

/* After every driver has ended. */
static void release(struct survey *s)
{
    for (int i = 0; s->sources && i < s->plan->n_models; i++) {
        for (int f = 0; s->sources[i] && f < s->plan->models[i]->n_files; f++)
            source_close(s->sources[i][f]);
        free(s->sources[i]);
    }
    free(s->sources);
    if (s->buffers)
        s->owner->ops->free(s->owner, s->buffers, s->n_readers * (size_t)s->max_sources * s->plan->memory.slot_bytes);
    free(s->readers);
    while (s->n_places)
        s->cpu->ops->thread_free(s->cpu, s->places[--s->n_places]);
    free(s->places);
    if (s->own)
        s->own->ops->close(s->own);
    free(s->everything);
}

/* ---- the passes ------------------------------------------------------------------------------------------------ */

/* Until it went through without a loss. Every time there is a GPU less, so it ends. */
static enum wm_status run_pass(struct survey *s, struct wm_error *err)
{
    enum wm_status st = WM_OK;

    do {
        if (s->lost)
            model_statistics_restart_pass(s->statistics);
        TRY(survey_count_pass(s, err));
        if (!s->cpu && !survey_n_driving(s))
            TRY(count_on_cpu(s, err));
    } while (s->lost);
out:
    return st;
}

/* Where an earlier run stopped. All ranks go on from there, or none: they need not see the same of a shared file system. */
static enum wm_status take_known_passes(struct survey *s, struct wm_error *err)
{
    struct model_statistics *ms = s->statistics;
    const enum model_pass first = ms->pass;
    uint64_t votes[MODEL_READY + 1] = {0};
    enum wm_status st = WM_OK;

    if (!s->args->options->restart)
        (void)survey_load_passes(s->args->dir, s->plan, ms);
    if (s->args->reduce) {
        uint64_t n_voters = 0;
        votes[ms->pass] = 1;
        TRY(s->args->reduce(s->args->user, votes, MODEL_READY + 1, err));
        for (int pass = 0; pass <= MODEL_READY; pass++)
            n_voters += votes[pass];
        if (votes[ms->pass] != n_voters && !model_statistics_begin(ms)) {
            st = error_no_memory(err, "surveying the models");
            goto out;
        }
    }
    s->result->n_known_passes = (int)ms->pass - (int)first;
out:
    return st;
}

static enum wm_status run_passes(struct survey *s, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    uint64_t *counts;
    size_t n_counts;

    while (s->statistics->pass != MODEL_READY) {
        TRY(run_pass(s, err));
        counts = model_statistics_counts(s->statistics, &n_counts);
        if (s->args->reduce)
            TRY(s->args->reduce(s->args->user, counts, n_counts, err));
        if (!model_statistics_finish_pass(s->statistics)) {
            st = error_set(err, WM_BUG,
                           "the counts of the whole model do not add up to its %llu elements; please report this",
                           (unsigned long long)s->statistics->n_elems);
            goto out;
        }
        if (s->args->writes_file)
            TRY(survey_save(s->args->dir, s->plan, s->statistics, s->args->options->sync != 0, err));
    }
    s->result->thresholds = s->statistics->result;
out:
    return st;
}

/* ---- the survey ------------------------------------------------------------------------------------------------ */

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
    pthread_condattr_t monotonic;

    pthread_mutex_init(&s.lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&s.changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_cond_init(&s.can_count, NULL);
    pthread_cond_init(&s.can_drive, NULL);
    st = begin(&s, err);
    if (st == WM_OK)
        st = take_known_passes(&s, err);
    if (st == WM_OK)
        st = run_passes(&s, err);
    survey_drivers_stop(&s);
    memcpy(result->notice, s.notice.message, sizeof result->notice);
    release(&s);
    pthread_cond_destroy(&s.can_drive);
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
out:
    model_statistics_release(&statistics);
    return st;
}
