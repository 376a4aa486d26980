/* run_job.c: see run_job.h. */
#include "engine/run_job.h"

#include "base/text.h"
#include "engine/group.h"

#include <stdlib.h>
#include <string.h>

static bool allocate(struct run_job *job, uint64_t tile_elems)
{
    size_t n_tiles, n_pairs;

    job->n_tiles = job->n_members > 1 ? 1 : (size_t)((job->n_elems + tile_elems - 1) / tile_elems);
    n_tiles = job->n_tiles ? job->n_tiles : 1;
    n_pairs = n_tiles * (size_t)job->plan_job->n_sources;
    job->ready = malloc(n_tiles * sizeof *job->ready);
    job->arrived = calloc(n_tiles, 1);
    job->tile_stays = calloc(n_tiles, 1);
    job->tile_written = calloc(n_tiles, 1);
    job->tile_guessed = calloc(n_tiles, 1);
    job->slots = malloc(n_pairs * sizeof *job->slots);
    job->data = calloc(n_pairs * job->n_members, sizeof *job->data);
    if (!job->ready || !job->arrived || !job->tile_stays || !job->tile_written || !job->tile_guessed || !job->slots ||
        !job->data)
        return false;
    for (size_t i = 0; i < n_pairs; i++)
        job->slots[i] = RUN_NO_SLOT;
    return true;
}

static bool adopt(struct run_job *job, struct resume_job *finished)
{
    size_t n_pieces = job->n_members > 1 ? job->n_members : resume_n_pieces(job->plan_job->n_elems);

    if (!finished) {
        job->digests = malloc((n_pieces ? n_pieces : 1) * sizeof *job->digests);
        return job->digests != NULL;
    }
    job->digests = finished->digests;
    job->piece_done = finished->piece_done;
    finished->digests = NULL;
    finished->piece_done = NULL;
    resume_job_free(finished);
    return true;
}

/* The operation and its statistics, at their beginning. What stays in a device's memory passes the ring once, and a guess
 * would save nothing. */
static enum wm_status prepare(struct run_job *job, const struct plan *plan, const struct run_share *share,
                              const struct run_devices *devices, struct wm_error *err)
{
    enum wm_status st = WM_OK;

    job->pass = STAT_READY;
    if (job->n_members > 1) {
        job->statistics_bytes = group_statistics_bytes(plan, job->index, job->n_members);
        goto out;
    }
    if (job->plan_job->action != PLAN_MERGE || !job->n_tiles)
        goto out;
    TRY(plan_job_op(plan, job->plan_job, &job->op, err));
    if (statistics_first_pass(&job->op) == STAT_READY)
        goto out;
    job->statistics = statistics_new(&job->op, plan->memory.tile_elems);
    if (!job->statistics) {
        st = error_no_memory(err, "merging a tensor");
        goto out;
    }
    job->statistics_bytes = statistics_max_bytes(&job->op, plan->memory.tile_elems);
    job->stays = job->n_elems >= devices->stay_min_elems && run_job_n_slots(job) <= devices->n_stay_slots;
    job->resident = !job->stays && run_job_n_slots(job) <= plan->memory.n_slots;
    if (!job->resident)
        statistics_avoid_repeats(job->statistics);
    if (share)
        statistics_share(job->statistics, share->reduce, share->user);
    else if (!job->resident && !job->stays && !job->piece_done && plan_job_speculates(plan, job->plan_job, &job->op))
        statistics_speculate(job->statistics);
    job->pass = statistics_pass(job->statistics);
out:
    return st;
}

struct run_job *run_job_new(const struct plan *plan, const struct plan_range *ranges, size_t n_ranges,
                            const struct run_share *share, const struct run_devices *devices, struct resume *resume,
                            struct wm_error *err)
{
    struct run_job *job = calloc(1, sizeof *job);
    size_t index = ranges[0].job;

    if (job) {
        job->index = index;
        job->plan_job = &plan->jobs[index];
        job->first_elem = ranges[0].first_elem;
        job->n_elems = ranges[0].n_elems;
        job->first_tile = (size_t)(job->first_elem / plan->memory.tile_elems);
        job->share = share;
        job->n_members = share ? 1 : group_count(plan, ranges, n_ranges, resume, devices->group_members);
        merge_report_init(&job->report);
    }
    if (!job || !allocate(job, plan->memory.tile_elems) || !adopt(job, resume_take(resume, index))) {
        error_no_memory(err, "merging a tensor");
    } else if (prepare(job, plan, share, devices, err) == WM_OK) {
        return job;
    }
    run_job_free(job);
    return NULL;
}

bool run_job_restart(struct run_job *job, const struct plan *plan, struct wm_error *err)
{
    size_t n_pieces = resume_n_pieces(job->plan_job->n_elems);
    size_t per_tile = (size_t)(plan->memory.tile_elems / TILE_CHUNK_ELEMS);
    size_t first = (size_t)(job->first_elem / TILE_CHUNK_ELEMS), end = first + resume_n_pieces(job->n_elems);
    const struct run_devices none = {0, 0, 0};

    statistics_free(job->statistics);
    job->statistics = NULL;
    if (job->n_members == 1 && !job->piece_done && !(job->piece_done = calloc(n_pieces ? n_pieces : 1, 1)))
        return error_no_memory(err, "merging a tensor") == WM_OK;
    for (size_t p = first; job->piece_done && p < end; p++)
        job->piece_done[p] |= job->tile_written[(p - first) / per_tile];
    memset(job->tile_written, 0, job->n_tiles);
    memset(job->tile_guessed, 0, job->n_tiles);
    memset(job->tile_stays, 0, job->n_tiles);
    merge_report_init(&job->report);
    job->refused = job->finishing = job->restarting = false;
    job->n_finished = job->ready_first = job->n_ready = 0;
    job->owner = NULL;
    job->tensor = NULL;
    return prepare(job, plan, job->share, &none, err) == WM_OK;
}

void run_job_free(struct run_job *job)
{
    if (!job)
        return;
    statistics_free(job->statistics);
    free(job->ready);
    free(job->arrived);
    free(job->tile_stays);
    free(job->tile_written);
    free(job->tile_guessed);
    free(job->slots);
    free(job->data);
    free(job->digests);
    free(job->piece_done);
    free(job);
}

enum wm_status run_job_counts_wrong(const struct plan_job *job, struct wm_error *err)
{
    char name[300];

    return error_set(err, WM_TEMPORARY,
                     "the counts of tensor %s are not those of its %llu elements: a device, its memory or another rank "
                     "has miscounted; run the same command again, it continues, and report it if it happens again",
                     text_display(name, sizeof name, job->name), (unsigned long long)job->n_elems);
}

void run_job_push_ready(struct run_job *job, size_t tile)
{
    job->ready[(job->ready_first + job->n_ready++) % job->n_tiles] = (uint32_t)tile;
}

size_t run_job_pop_ready(struct run_job *job)
{
    size_t tile = job->ready[job->ready_first];

    job->ready_first = (job->ready_first + 1) % job->n_tiles;
    job->n_ready--;
    return tile;
}

static bool in_order(const struct run_job *job)
{
    return job->pass != STAT_READY && statistics_in_order(job->statistics);
}

void run_job_arrived(struct run_job *job, size_t tile)
{
    job->arrived[tile] = 1;
    if (!in_order(job) || tile == job->next_in_order)
        run_job_push_ready(job, tile);
}

void run_job_advance_order(struct run_job *job)
{
    if (!in_order(job))
        return;
    job->next_in_order++;
    if (job->next_in_order < job->n_tiles && job->arrived[job->next_in_order])
        run_job_push_ready(job, job->next_in_order);
}

bool run_job_needs_tile(const struct run_job *job, size_t tile)
{
    return job->pass == STAT_READY ? !job->tile_written[tile]
                                   : statistics_needs_tile(job->statistics, job->first_tile + tile);
}

bool run_job_writes(const struct run_job *job)
{
    return job->pass == STAT_READY || job->pass == STAT_KTH_GUESS;
}

void run_job_begin_pass(struct run_job *job, bool data_is_there)
{
    job->n_pass_done = 0;
    job->next_in_order = 0;
    memset(job->arrived, 0, job->n_tiles);
    job->next_read = job->n_tiles;
    for (size_t t = 0; t < job->n_tiles; t++) {
        if (!run_job_needs_tile(job, t))
            job->n_pass_done++;
        else if (data_is_there || job->tile_stays[t])
            run_job_arrived(job, t);
        else if (job->next_read == job->n_tiles)
            job->next_read = t;
    }
}

uint64_t run_job_n_slots(const struct run_job *job)
{
    return job->n_tiles * (uint64_t)job->plan_job->n_sources;
}

uint64_t run_job_tile_elem(const struct run_job *job, size_t tile, uint64_t tile_elems)
{
    return job->first_elem + tile * tile_elems;
}

bool run_job_tile_is_done(const struct run_job *job, size_t tile, uint64_t tile_elems)
{
    size_t first = (size_t)(run_job_tile_elem(job, tile, tile_elems) / TILE_CHUNK_ELEMS);
    size_t end = (size_t)(job->first_elem / TILE_CHUNK_ELEMS) + resume_n_pieces(job->n_elems);

    if (!job->piece_done)
        return false;
    for (size_t p = first; p < first + (size_t)(tile_elems / TILE_CHUNK_ELEMS) && p < end; p++)
        if (!job->piece_done[p])
            return false;
    return true;
}

void run_job_fill_tile(const struct run_job *job, size_t tile, uint64_t tile_elems, struct merge_tile *out)
{
    const struct plan_job *p = job->plan_job;
    uint64_t left = job->n_elems - tile * tile_elems;

    memset(out, 0, sizeof *out);
    out->index = job->first_tile + tile;
    out->first_elem = run_job_tile_elem(job, tile, tile_elems);
    out->n_elems = (size_t)(left < tile_elems ? left : tile_elems);
    out->out_dtype = p->dtype;
    for (int s = 0; s < p->n_sources; s++) {
        out->in[s] = job->tile_stays[tile] ? NULL : job->data[tile * (size_t)p->n_sources + (size_t)s];
        out->in_dtype[s] = p->sources[s].tensor->dtype;
    }
}

uint64_t run_job_key(const struct plan_job *job)
{
    return hash_xxh3_64(job->name, strlen(job->name), 0);
}
