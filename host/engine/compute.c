/*
 * compute.c: compute threads: tiles in slots through a backend, pass after pass, to output slots.
 *
 * What lives here: keeping a backend busy with tiles and groups of small tensors (one at a time on the CPU, several on
 * their way on a GPU), what follows from a finished one, and going on without a GPU that was lost. What it must not know:
 * how a backend computes, and which tile comes next (schedule.c).
 */
#include "engine/fence.h"
#include "engine/group.h"
#include "engine/stages.h"

#include <stdlib.h>
#include <string.h>

/* A tile or a group between submit and await. */
struct flight {
    struct run_job *job;
    size_t tile;
    uint32_t out_slot;
    struct group_flight *group; /* NULL: a tile */
    struct backend_task task;   /* else of no meaning */
    struct wm_error err;
};

struct compute {
    struct pipeline *p;
    struct backend *backend, *own; /* own: opened by this thread after a GPU was lost */
    void *thread;                  /* the backend's */
    struct executor shared_own;    /* of the workers that joined in when the last GPU was lost */
    pthread_t *workers;
    int n_workers;
    struct flight flights[BACKEND_MAX_DEPTH];
    int first, n_flights, n_groups; /* groups among them */
};

/* The oldest one leaves the queue. What it was stays readable until another one joins. */
static struct flight *take_oldest(struct compute *c)
{
    struct flight *f = &c->flights[c->first];

    c->first = (c->first + 1) % BACKEND_MAX_DEPTH;
    c->n_flights--;
    c->n_groups -= f->group != NULL;
    return f;
}

static struct flight *next_place(struct compute *c)
{
    return &c->flights[(c->first + c->n_flights) % BACKEND_MAX_DEPTH];
}

/* One that was launched, or one that was awaited and has more to wait for. */
static void put_last(struct compute *c, const struct flight *f)
{
    struct flight *last = next_place(c);

    if (last != f)
        *last = *f;
    c->n_flights++;
    c->n_groups += f->group != NULL;
}

/* False: there is more to wait for. Called and left with the lock held. */
static bool await(struct compute *c, struct flight *f)
{
    double began = file_now_seconds();
    bool is_done = true;

    if (f->err.status != WM_OK || f->job->plan_job->action != PLAN_MERGE)
        return true;
    pthread_mutex_unlock(&c->p->lock);
    if (f->group)
        (void)group_await(c->p, c->backend, c->thread, f->group, &is_done, &f->err);
    else
        (void)c->backend->ops->await(c->backend, c->thread, &f->task, &f->err);
    began = file_now_seconds() - began;
    pthread_mutex_lock(&c->p->lock);
    c->p->compute_busy += began;
    return is_done || f->err.status != WM_OK;
}

/* Called and left with the lock held. */
static void abandon(struct compute *c)
{
    if (!c->backend->lost || !c->backend->ops->abandon || !c->thread)
        return;
    pthread_mutex_unlock(&c->p->lock);
    c->backend->ops->abandon(c->backend, c->thread);
    pthread_mutex_lock(&c->p->lock);
}

/* ---- tensors that are not computed with ---------------------------------------------------------------------- */

/* Every source must hold the same bytes. */
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
        return error_set(
            err, WM_BAD_DATA,
            "tensor %s has type %s, which cannot be merged, and %s and %s hold different values (first near "
            "element %llu); use models that agree in it, or de-quantised ones",
            text_display(name, sizeof name, pj->name), dtype_name(pj->dtype),
            plan_model_name(p->plan, pj->sources[0].model), plan_model_name(p->plan, pj->sources[s].model),
            (unsigned long long)(tile->first_elem + i * 8 / dtype_bits(pj->dtype)));
    }
    memcpy(tile->out, tile->in[0], n_bytes);
    return WM_OK;
}

/* ---- after the element-wise pass ------------------------------------------------------------------------------ */

/* What a processor has computed is in its cache and hashed at once. The thread that drives a GPU is alone and has its next
 * tile to start: writers hash for it. Called and left with the lock held. */
static struct write_task prepare_write(struct compute *c, const struct flight *f)
{
    struct write_task write = {
        .job = f->job, .tile = f->tile, .out_slot = f->out_slot, .n_elems = f->task.tile.n_elems};

    if (c->backend->depth > 1)
        return write;
    pthread_mutex_unlock(&c->p->lock);
    writer_hash(c->p, &write);
    pthread_mutex_lock(&c->p->lock);
    return write;
}

/* Hands the tile to a writer. Called and left with the lock held. */
static void deliver(struct compute *c, struct flight *f)
{
    struct pipeline *p = c->p;
    struct run_job *job = f->job;
    struct write_task write = {.job = job};
    bool refused = schedule_is_refused(p, &f->task.report);

    if (!refused)
        write = prepare_write(c, f);
    merge_report_add(&job->report, &f->task.report);
    schedule_release_slots(p, job, f->tile);
    if (refused) {
        /* Not written and not journaled; the rest of the tensor is still looked at, so that the counts are whole. */
        job->refused = true;
        schedule_release_out_slot(p, f->out_slot);
        schedule_tile_finished(p, job, f->tile, false);
        return;
    }
    job->n_writing++;
    if (job->n_tiles == 1 && job->plan_job->n_bytes < WRITER_SMALL_BYTES)
        writer_write(p, &write); /* cheaper than handing it over */
    else
        schedule_push_write(p, &write);
}

/* Of several ranks, one that is given up may have a guess on its way to the file server. Threads that come here before the
 * first one is through do the same: none writes before a mark of its own, or an earlier one, is safe. */
static bool mark_guesses(struct pipeline *p, struct flight *f)
{
    enum wm_status st = fence_mark(p->args->journal, f->job->index, &f->err);

    if (st == WM_OK) {
        pthread_mutex_unlock(&p->lock);
        st = fence_sync_mark(p->args->journal, &f->err);
        pthread_mutex_lock(&p->lock);
    }
    f->job->guess_is_marked = f->job->guess_is_marked || st == WM_OK;
    return st == WM_OK;
}

/* The same for a tile that was computed with a guess. One with values that are not finite is left to the element-wise pass,
 * which counts them and judges. */
static void deliver_guess(struct compute *c, struct flight *f)
{
    struct pipeline *p = c->p;
    struct run_job *job = f->job;
    struct write_task write;
    uint64_t n_bad = f->task.report.n_bad_out;

    for (int s = 0; s < job->plan_job->n_sources; s++)
        n_bad += f->task.report.n_bad_in[s];
    if (n_bad) {
        schedule_release_out_slot(p, f->out_slot);
        return;
    }
    if (p->args->interrupted && !job->guess_is_marked && !mark_guesses(p, f)) {
        schedule_release_out_slot(p, f->out_slot);
        return;
    }
    write = prepare_write(c, f);
    write.is_guess = true;
    job->tile_guessed[f->tile] = 1;
    job->n_writing++;
    schedule_push_write(p, &write);
}

/* ---- after a statistics pass ---------------------------------------------------------------------------------- */

/* Why a pass has failed although the backend has not noticed. */
static enum wm_status check_pass(const struct pipeline *p, const struct run_job *job, struct wm_error *err)
{
    if (statistics_share_failed(job->statistics))
        p->args->share_error(p->args->share->user, err);
    else if (statistics_counts_wrong(job->statistics))
        run_job_counts_wrong(job->plan_job, err);
    return err->status;
}

/* One tile of a statistics pass is through; the last one ends the pass. Called and left with the lock held. */
static void gather(struct compute *c, struct flight *f)
{
    struct pipeline *p = c->p;
    struct run_job *job = f->job;
    enum stat_pass next;

    if (c->backend->depth == 1)
        run_job_advance_order(job);
    if (job->n_ready)
        pthread_cond_signal(&p->can_compute);
    job->tile_stays[f->tile] |= f->task.stays;
    if (!job->resident || job->tile_stays[f->tile])
        schedule_release_slots(p, job, f->tile);
    if (++job->n_pass_done < job->n_tiles)
        return;
    do {                       /* a pass that needs none of our tiles (they may be other ranks') is over as it begins */
        job->finishing = true; /* nobody else has work in this job now */
        pthread_mutex_unlock(&p->lock);
        c->backend->ops->finish_pass(c->backend, c->thread, job->tensor, &job->op, job->statistics, &next, &f->err);
        if (f->err.status == WM_OK)
            (void)check_pass(p, job, &f->err);
        pthread_mutex_lock(&p->lock);
        job->finishing = false;
        if (f->err.status != WM_OK)
            return;
        schedule_begin_pass(p, job, next);
    } while (next != STAT_READY && job->n_pass_done == job->n_tiles);
}

/* A tensor of one tile goes through all its passes at once: thousands of tiny tensors must not cost a hand-over each
 * time. Not where several tiles are on their way at once: there its waits would hold up the others'. Without the lock. */
static enum wm_status all_passes(struct compute *c, struct flight *f)
{
    const struct backend_ops *ops = c->backend->ops;
    enum wm_status st = WM_OK;
    enum stat_pass next = f->job->pass;

    while (next != STAT_READY) {
        TRY(ops->submit(c->backend, c->thread, &f->task, &f->err));
        TRY(ops->await(c->backend, c->thread, &f->task, &f->err));
        TRY(ops->finish_pass(c->backend, c->thread, f->job->tensor, &f->job->op, f->job->statistics, &next, &f->err));
        TRY(check_pass(c->p, f->job, &f->err));
    }
out:
    return st;
}

/* ---- a group ---------------------------------------------------------------------------------------------------- */

/* Starts a group. Called and left with the lock held. */
static void launch_group(struct compute *c, struct flight *f)
{
    struct pipeline *p = c->p;
    double began;

    pthread_mutex_unlock(&p->lock);
    began = file_now_seconds();
    (void)group_submit(p, c->backend, c->thread, f->job, writer_out_bytes(p, f->job, 0, f->out_slot), &f->group,
                       &f->err);
    began = file_now_seconds() - began;
    pthread_mutex_lock(&p->lock);
    p->compute_busy += began;
    put_last(c, f);
}

/* Hands a group to a writer. Called and left with the lock held. */
static void deliver_group(struct compute *c, const struct flight *f)
{
    struct pipeline *p = c->p;
    struct run_job *job = f->job;
    struct write_task write = {.job = job, .out_slot = f->out_slot, .is_hashed = c->backend->depth == 1};

    schedule_release_slots(p, job, 0);
    job->n_writing++;
    if (group_out_bytes(job) < WRITER_SMALL_BYTES)
        writer_write(p, &write);
    else
        schedule_push_write(p, &write);
}

/* ---- one tile -------------------------------------------------------------------------------------------------- */

static enum wm_status begin_tensor(struct compute *c, struct run_job *job, struct wm_error *err)
{
    struct backend_tensor_info info = {job->n_tiles,
                                       job->plan_job->n_sources,
                                       job->n_elems,
                                       c->p->plan->memory.tile_elems,
                                       job->statistics != NULL,
                                       job->first_tile,
                                       run_job_key(job->plan_job)};

    return c->backend->ops->tensor_new(c->backend, c->thread, &info, &job->tensor, err);
}

/* Starts a tile or a group. Called and left with the lock held; false when there was nothing to wait for. */
static bool launch(struct compute *c, struct run_job *job, size_t tile, uint32_t out_slot)
{
    struct pipeline *p = c->p;
    struct flight *f = next_place(c);
    bool begins = schedule_bind(p, job, c->backend), whole;
    enum stat_pass pass = job->pass;
    double began;

    if (pass == STAT_READY && run_job_tile_is_done(job, tile, p->plan->memory.tile_elems)) { /* of a resident job */
        schedule_release_slots(p, job, tile);
        schedule_release_out_slot(p, out_slot);
        schedule_tile_finished(p, job, tile, false);
        return false;
    }
    memset(&f->err, 0, sizeof f->err);
    f->job = job;
    f->tile = tile;
    f->out_slot = out_slot;
    f->task.stays = false;
    f->group = NULL;
    if (job->n_members > 1) {
        launch_group(c, f);
        return true;
    }
    merge_report_init(&f->task.report);
    run_job_fill_tile(job, tile, p->plan->memory.tile_elems, &f->task.tile);
    if (out_slot != RUN_NO_SLOT)
        f->task.tile.out = writer_out_bytes(p, job, tile, out_slot);
    whole = pass != STAT_READY && job->resident && job->n_tiles == 1 && c->backend->depth == 1;
    pthread_mutex_unlock(&p->lock);

    began = file_now_seconds();
    if (begins)
        (void)begin_tensor(c, job, &f->err);
    f->task.op = &job->op;
    f->task.statistics = job->statistics;
    f->task.tensor = job->tensor;
    if (f->err.status == WM_OK) {
        if (job->plan_job->action == PLAN_COPY)
            (void)copy_tile(p, job, &f->task.tile, &f->err);
        else if (whole)
            (void)all_passes(c, f);
        else
            (void)c->backend->ops->submit(c->backend, c->thread, &f->task, &f->err);
    }
    began = file_now_seconds() - began;
    pthread_mutex_lock(&p->lock);
    p->compute_busy += began;
    if (whole && f->err.status == WM_OK) {
        schedule_begin_pass(p, job, STAT_READY);
        return false;
    }
    if (c->backend->depth > 1 && f->err.status == WM_OK)
        run_job_advance_order(job); /* what is submitted in order is computed in order: the next one need not wait */
    put_last(c, f);
    return true;
}

/* Waits for the oldest tile or group. Called and left with the lock held. */
static void land(struct compute *c)
{
    struct pipeline *p = c->p;
    struct flight *f = take_oldest(c);

    if (!await(c, f)) {
        put_last(c, f); /* others may come first */
        return;
    }
    if (f->err.status != WM_OK && c->backend->lost) {
        put_last(c, f); /* its output slot is released with those of the others, when the device is done with them */
        return;
    }
    if (f->err.status == WM_OK) {
        if (f->group) {
            deliver_group(c, f);
        } else if (f->job->pass == STAT_READY) {
            deliver(c, f);
        } else {
            if (f->out_slot != RUN_NO_SLOT)
                deliver_guess(c, f);
            gather(c, f);
        }
    }
    if (f->err.status != WM_OK && !c->backend->lost)
        schedule_fail(p, &f->err);
    group_flight_free(f->group);
}

/* ---- a lost device --------------------------------------------------------------------------------------------- */

/* The last GPU is gone: as many threads as the plan has for computing go on together. Fewer are only slower. Called and left
 * with the lock held. */
static void start_workers(struct compute *c)
{
    int n = c->p->plan->memory.n_compute - c->p->n_lost; /* every lost GPU's thread is one already */

    c->workers = n > 0 ? malloc((size_t)n * sizeof *c->workers) : NULL;
    c->shared_own = (struct executor){c->p, c->own};
    while (c->workers && c->n_workers < n &&
           pthread_create(&c->workers[c->n_workers], NULL, compute_thread, &c->shared_own) == 0)
        c->n_workers++;
}

/* Everything that was on the device is gone; nothing of it was written. Its jobs start again elsewhere, keeping the tiles
 * that are in the output already, and this thread goes on as one more CPU thread. Called and left with the lock held. */
static void go_on_without(struct compute *c)
{
    struct pipeline *p = c->p;
    struct backend *lost = c->backend, *cpu = NULL;
    struct wm_error err = WM_ERROR_INIT;

    abandon(c);
    while (c->n_flights) {
        const struct flight *f = take_oldest(c);
        if (f->out_slot != RUN_NO_SLOT)
            schedule_release_out_slot(p, f->out_slot);
        group_flight_free(f->group);
    }
    error_set(&p->notice, WM_NO_DEVICE, "%s; its unfinished tensors were computed elsewhere", lost->message);
    schedule_restart_jobs(p, lost);
    schedule_reap_all(p, lost, c->thread); /* all: where the run ends instead, its jobs are still there */
    pthread_mutex_unlock(&p->lock);
    lost->ops->thread_free(lost, c->thread);
    c->thread = NULL;
    if (backend_open_cpu(&cpu, &err) == WM_OK)
        c->thread = cpu->ops->thread_new(cpu, &err);
    pthread_mutex_lock(&p->lock);
    c->own = cpu;
    c->backend = cpu ? cpu : lost;
    if (err.status != WM_OK)
        schedule_fail(p, &err);
    else if (++p->n_lost == p->args->n_backends) {
        p->devices.n_stay_slots = 0;
        start_workers(c);
    }
}

/* Called without the lock. */
static void end(struct compute *c)
{
    while (c->n_workers)
        pthread_join(c->workers[--c->n_workers], NULL);
    free(c->workers);
    if (c->thread)
        c->backend->ops->thread_free(c->backend, c->thread);
    if (c->own)
        c->own->ops->close(c->own);
}

/* ---- the thread -------------------------------------------------------------------------------------------------- */

void *compute_thread(void *arg)
{
    struct executor *executor = arg;
    struct compute c = {.p = executor->pipeline, .backend = executor->backend};
    struct pipeline *p = c.p;
    struct wm_error err = WM_ERROR_INIT;
    struct run_job *job;
    uint32_t out_slot;
    size_t tile;

    c.thread = c.backend->ops->thread_new(c.backend, &err);
    pthread_mutex_lock(&p->lock);
    if (!c.thread && c.backend->lost)
        go_on_without(&c);
    else if (!c.thread)
        schedule_fail(p, &err);
    while (!p->stop) {
        if (c.n_flights < c.backend->depth &&
            schedule_take_compute(p, c.backend, c.n_groups < c.backend->group_depth, &job, &tile, &out_slot)) {
            if (launch(&c, job, tile, out_slot) && c.backend->depth == 1)
                land(&c);
        } else if (c.n_flights) {
            land(&c);
        } else if (p->all_done) {
            break;
        } else {
            pthread_cond_wait(&p->can_compute, &p->lock);
        }
        if (c.backend->lost && !p->stop)
            go_on_without(&c);
        schedule_reap(p, c.backend, c.thread);
    }
    while (c.n_flights) { /* stopping: the device must be done with our memory before it goes away */
        struct flight *f = take_oldest(&c);
        if (await(&c, f))
            group_flight_free(f->group);
        else
            put_last(&c, f);
    }
    abandon(&c);
    schedule_reap_all(p, c.backend, c.thread);
    pthread_mutex_unlock(&p->lock);
    end(&c);
    return NULL;
}
