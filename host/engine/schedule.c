/*
 * schedule.c: see schedule.h. Jobs are admitted in file order. A job with statistics that fits gets all its slots at once
 * (so that two half-loaded tensors can never wait for each other) and keeps them between passes; one that stays in a
 * device's memory is read once, through any slots; one that fits neither is read once per pass. Work is always taken from
 * the oldest job that has some, which frees slots soonest.
 */
#include "engine/schedule.h"

#include "base/text.h"
#include "engine/backend.h"

#include <string.h>

#define MAX_ACTIVE_JOBS 64 /* enough that thousands of tiny tensors keep every thread busy */

static void wake_everybody(struct pipeline *p)
{
    pthread_cond_broadcast(&p->can_read);
    pthread_cond_broadcast(&p->can_compute);
    pthread_cond_broadcast(&p->can_write);
    pthread_cond_broadcast(&p->changed);
}

void schedule_fail(struct pipeline *p, const struct wm_error *err)
{
    error_set(&p->error, err->status, "%s", err->message);
    p->stop = true;
    wake_everybody(p);
}

void schedule_release_slots(struct pipeline *p, struct run_job *job, size_t tile)
{
    int n_sources = job->plan_job->n_sources;

    for (int s = 0; s < n_sources; s++) {
        uint32_t *slot = &job->slots[tile * (size_t)n_sources + (size_t)s];
        if (*slot != RUN_NO_SLOT) {
            p->free_slots[p->n_free_slots++] = *slot;
            *slot = RUN_NO_SLOT;
        }
    }
    pthread_cond_signal(&p->can_read);
}

bool schedule_is_refused(const struct pipeline *p, const struct merge_report *r)
{
    uint64_t n_bad_in = 0;

    for (int s = 0; s < TILE_MAX_INPUTS; s++)
        n_bad_in += r->n_bad_in[s];
    return (n_bad_in && p->args->options->nonfinite == WM_POLICY_ERROR) ||
           (r->n_bad_out && p->args->options->overflow == WM_POLICY_ERROR);
}

void schedule_refusal(const struct pipeline *p, const struct plan_job *pj, const struct merge_report *r,
                      struct wm_error *err)
{
    char name[300];

    text_display(name, sizeof name, pj->name);
    for (int s = 0; s < pj->n_sources; s++) {
        if (r->n_bad_in[s] && p->args->options->nonfinite == WM_POLICY_ERROR) {
            error_set(err, WM_BAD_DATA,
                      "tensor %s of %s: %llu of %llu values are NaN or infinite, the first at element "
                      "%llu; repair that checkpoint, or add --nonfinite propagate to merge them as they are",
                      name, plan_model_name(p->plan, pj->sources[s].model), (unsigned long long)r->n_bad_in[s],
                      (unsigned long long)pj->n_elems, (unsigned long long)r->first_bad_in[s]);
            return;
        }
    }
    error_set(err, WM_BAD_DATA,
              "tensor %s: %llu of %llu merged values do not fit %s, the first at element %llu; choose "
              "out_dtype bfloat16 or float32, or add --overflow propagate to write infinities",
              name, (unsigned long long)r->n_bad_out, (unsigned long long)pj->n_elems, dtype_name(pj->dtype),
              (unsigned long long)r->first_bad_out);
}

static void complete_job(struct pipeline *p, struct run_job *job)
{
    struct run_job **at = &p->jobs;

    if (job->refused) {
        struct wm_error err = WM_ERROR_INIT;
        schedule_refusal(p, job->plan_job, &job->report, &err);
        schedule_fail(p, &err);
    } else if (job->n_members > 1) {
        memcpy(p->args->job_hashes + job->index, job->digests, job->n_members * sizeof *job->digests);
        p->tensors_done += job->n_members;
    } else if (job->n_elems < job->plan_job->n_elems) { /* whoever has all parts knows the hash */
        size_t first = (size_t)(job->first_elem / TILE_CHUNK_ELEMS), n = resume_n_pieces(job->n_elems);
        memcpy(p->args->split_digests[job->index] + first, job->digests + first, n * sizeof *job->digests);
        p->tensors_done++;
    } else {
        p->args->job_hashes[job->index] = hash_tree(job->digests, resume_n_pieces(job->plan_job->n_elems));
        p->tensors_done++;
    }
    while (*at != job)
        at = &(*at)->next;
    *at = job->next;
    p->last_job = NULL;
    for (struct run_job *j = p->jobs; j; j = j->next)
        p->last_job = j;
    p->n_active--;
    p->statistics_bytes -= job->statistics_bytes;
    if (job->tensor) {
        job->next = p->retired;
        p->retired = job;
        pthread_cond_broadcast(&p->can_compute);
    } else {
        run_job_free(job);
    }
    pthread_cond_signal(&p->can_read); /* the next job may come in, or the run is over */
}

void schedule_tile_finished(struct pipeline *p, struct run_job *job, size_t tile, bool written)
{
    job->tile_written[tile] = written;
    if (job->restarting)
        pthread_cond_broadcast(&p->can_compute);
    if (++job->n_finished == job->n_tiles)
        complete_job(p, job);
}

/* Takes the next job in; false if it has to wait (or there is none). A job that waits is kept as the candidate. */
static bool admit(struct pipeline *p)
{
    const struct plan *plan = p->plan;
    struct run_job *job;
    uint64_t needed;

    const struct pipeline_args *args = p->args;

    while (!args->share && p->next_job < args->n_ranges && args->resume->job_done[args->ranges[p->next_job].job]) {
        p->next_job++;
        p->tensors_done++;
    }
    if (p->next_job == args->n_ranges || p->n_active >= MAX_ACTIVE_JOBS)
        return false;
    if (!p->candidate) {
        struct wm_error err = WM_ERROR_INIT;
        p->candidate = run_job_new(plan, args->ranges + p->next_job, args->n_ranges - p->next_job, args->share,
                                   &p->devices, args->resume, &err);
        if (!p->candidate) {
            schedule_fail(p, &err);
            return false;
        }
    }
    job = p->candidate;
    needed = job->resident ? run_job_n_slots(job) : 0;
    /* The planned memory holds the states of the active jobs and of one candidate. */
    if (p->n_active && (p->statistics_bytes + job->statistics_bytes >
                            plan->memory.statistics / PLAN_MAX_STATISTICS_JOBS * (PLAN_MAX_STATISTICS_JOBS - 1) ||
                        needed > p->n_free_slots - p->n_reserved))
        return false;
    p->candidate = NULL;
    job->n_slots_reserved = needed;
    p->n_reserved += needed;
    if (p->last_job)
        p->last_job->next = job;
    else
        p->jobs = job;
    p->last_job = job;
    p->next_job += job->n_members;
    p->n_active++;
    p->statistics_bytes += job->statistics_bytes;
    run_job_begin_pass(job, false);
    if (!job->n_tiles)
        complete_job(p, job);
    return true;
}

/* Passes over tiles of a streamed job that need no reading: those that stay with the owner, those the statistics pass does
 * not look at, and in the element-wise pass those finished by an earlier run. */
static void skip_tiles(struct pipeline *p, struct run_job *job)
{
    for (; job->next_read < job->n_tiles; job->next_read++) {
        size_t t = job->next_read;
        if (job->tile_stays[t])
            continue;
        if (job->pass == STAT_READY && !job->tile_written[t] &&
            run_job_tile_is_done(job, t, p->plan->memory.tile_elems))
            job->n_finished++;
        else if (run_job_needs_tile(job, t))
            return;
    }
}

bool schedule_take_read(struct pipeline *p, struct run_job **out, size_t *tile)
{
    struct run_job *job, *next;

again:
    for (job = p->jobs; job; job = next) {
        uint64_t n_sources = (uint64_t)job->plan_job->n_sources;
        next = job->next;
        if (job->finishing || job->next_read == job->n_tiles)
            continue;
        skip_tiles(p, job);
        if (job->next_read == job->n_tiles) {
            if (job->n_finished == job->n_tiles)
                complete_job(p, job);
            continue;
        }
        if (job->n_slots_reserved) {
            job->n_slots_reserved -= n_sources;
            p->n_reserved -= n_sources;
        } else if (p->n_free_slots - p->n_reserved < n_sources) {
            return false; /* the oldest first: later jobs must not take what this one waits for */
        }
        *out = job;
        *tile = job->next_read++;
        job->n_reading++;
        for (uint64_t s = 0; s < n_sources; s++)
            job->slots[*tile * n_sources + s] = p->free_slots[--p->n_free_slots];
        return true;
    }
    if (!p->stop && admit(p))
        goto again;
    return false;
}

/* A tensor that is to stay where others stay now would be read again for every pass if it began before they ended. They end
 * without its slots: every tile that they need is read, or being read. */
static bool waits_for_memory(const struct pipeline *p, const struct run_job *job, const struct backend *backend)
{
    if (job->owner || !job->stays || run_job_n_slots(job) <= backend->stay_slots_free)
        return false;
    for (const struct run_job *other = p->jobs; other != job; other = other->next)
        if (other->owner == backend && other->stays && other->tensor && other->next_read == other->n_tiles)
            return true;
    return false;
}

bool schedule_take_compute(struct pipeline *p, const struct backend *backend, bool takes_groups, struct run_job **out,
                           size_t *tile, uint32_t *out_slot)
{
    for (struct run_job *job = p->jobs; job; job = job->next) {
        if (!job->n_ready || (job->owner && job->owner != backend) || (run_job_writes(job) && !p->n_free_out_slots) ||
            (job->n_members > 1 && !takes_groups) || waits_for_memory(p, job, backend))
            continue;
        *out = job;
        *tile = run_job_pop_ready(job);
        *out_slot = run_job_writes(job) ? p->free_out_slots[--p->n_free_out_slots] : RUN_NO_SLOT;
        return true;
    }
    return false;
}

bool schedule_bind(struct pipeline *p, struct run_job *job, struct backend *backend)
{
    (void)p;
    if (job->owner)
        return false;
    job->owner = backend;
    return true;
}

void schedule_wake_compute(struct pipeline *p, const struct run_job *job)
{
    if (p->args->n_backends > 1 || job->restarting)
        pthread_cond_broadcast(&p->can_compute);
    else
        pthread_cond_signal(&p->can_compute);
}

/* The guess has been judged. Tiles that were written with it and stand are finished, and the journal may say so. */
static void keep_what_stands(struct pipeline *p, struct run_job *job)
{
    const uint64_t tile_elems = p->plan->memory.tile_elems;
    struct wm_error err = WM_ERROR_INIT;

    job->finishing = true;
    while (job->n_writing && !p->stop)
        pthread_cond_wait(&p->can_compute, &p->lock);
    job->finishing = false;
    for (size_t t = 0; t < job->n_tiles && !p->stop; t++) {
        uint64_t first = run_job_tile_elem(job, t, tile_elems), left = job->n_elems - t * tile_elems;
        struct journal_record record = {job->index, first, left < tile_elems ? left : tile_elems, {0, 0}};
        if (!job->tile_guessed[t] || !statistics_tile_stands(job->statistics, t))
            continue;
        record.hash = hash_tree(job->digests + first / TILE_CHUNK_ELEMS, resume_n_pieces(record.n_elems));
        if (journal_append(p->args->journal, &record, 1, &err) != WM_OK)
            schedule_fail(p, &err);
        job->tile_written[t] = 1;
        job->n_finished++;
    }
}

void schedule_begin_pass(struct pipeline *p, struct run_job *job, enum stat_pass next)
{
    job->pass = next;
    if (next == STAT_READY && job->statistics)
        keep_what_stands(p, job);
    if (job->n_finished == job->n_tiles) {
        complete_job(p, job);
        return;
    }
    run_job_begin_pass(job, job->resident);
    pthread_cond_signal(&p->can_read);
    if (job->n_ready > 1) /* the caller is about to take one itself */
        pthread_cond_broadcast(&p->can_compute);
}

void schedule_push_write(struct pipeline *p, const struct write_task *task)
{
    p->writes[(p->first_write + p->n_writes++) % p->plan->memory.n_out_slots] = *task;
    pthread_cond_signal(&p->can_write);
}

bool schedule_take_write(struct pipeline *p, struct write_task *task)
{
    if (!p->n_writes)
        return false;
    *task = p->writes[p->first_write];
    p->first_write = (p->first_write + 1) % p->plan->memory.n_out_slots;
    p->n_writes--;
    return true;
}

void schedule_release_out_slot(struct pipeline *p, uint32_t out_slot)
{
    p->free_out_slots[p->n_free_out_slots++] = out_slot;
    pthread_cond_signal(&p->can_compute);
}

bool schedule_is_done(struct pipeline *p)
{
    if (p->next_job < p->args->n_ranges || p->jobs)
        return false;
    p->all_done = true;
    wake_everybody(p);
    return true;
}

/* ---- what backends keep of jobs ------------------------------------------------------------------------------ */

void schedule_reap(struct pipeline *p, struct backend *backend, void *thread)
{
    struct run_job **at = &p->retired;

    while (*at) {
        struct run_job *job = *at;
        if (job->owner != backend) {
            at = &job->next;
            continue;
        }
        *at = job->next;
        pthread_mutex_unlock(&p->lock);
        backend->ops->tensor_free(backend, thread, job->tensor);
        run_job_free(job);
        pthread_mutex_lock(&p->lock);
        at = &p->retired; /* it may have changed meanwhile */
    }
}

void schedule_reap_all(struct pipeline *p, struct backend *backend, void *thread)
{
    schedule_reap(p, backend, thread);
    for (struct run_job *job = p->jobs; job; job = job->next) {
        if (job->owner == backend && job->tensor) {
            backend->ops->tensor_free(backend, thread, job->tensor);
            job->tensor = NULL;
        }
    }
}

static void restart(struct pipeline *p, struct run_job *job)
{
    struct wm_error err = WM_ERROR_INIT;

    for (size_t t = 0; t < job->n_tiles; t++)
        schedule_release_slots(p, job, t);
    p->n_reserved -= job->n_slots_reserved;
    job->n_slots_reserved = 0;
    if (!run_job_restart(job, p->plan, &err)) {
        schedule_fail(p, &err);
        return;
    }
    job->resident = false; /* its slots may be somebody else's by now */
    if (job->statistics)
        statistics_avoid_repeats(job->statistics);
    run_job_begin_pass(job, false);
    pthread_cond_broadcast(&p->can_read);
}

void schedule_restart_jobs(struct pipeline *p, struct backend *lost)
{
    for (;;) {
        struct run_job *job = p->jobs;
        while (job && job->owner != lost)
            job = job->next;
        if (!job || p->stop)
            return;
        if (job->share) { /* the other ranks have gone on to later passes, and will not count the first ones again */
            struct wm_error err = WM_ERROR_INIT;
            char name[300];
            error_set(&err, WM_TEMPORARY,
                      "%s while all ranks counted tensor %s together, which one alone cannot begin again; run the same "
                      "command again, it continues",
                      lost->message, text_display(name, sizeof name, job->plan_job->name));
            schedule_fail(p, &err);
            return;
        }
        job->restarting = job->finishing = true;
        job->n_ready = 0;
        if (job->n_reading || job->n_writing) {
            pthread_cond_wait(&p->can_compute, &p->lock);
            continue; /* it may even be complete now */
        }
        if (job->tensor) {
            lost->ops->tensor_free(lost, NULL, job->tensor);
            job->tensor = NULL;
        }
        restart(p, job);
    }
}
