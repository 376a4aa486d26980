/* group.c: see group.h. */
#include "engine/group.h"

#include "base/dtype.h"
#include "engine/backend.h"

#include <stdlib.h>
#include <string.h>

/* Journal records of one group are written together: enough members that nothing of it shows, few enough that a stop soon
 * takes effect. */
#define MAX_MEMBERS 1024

/* ---- who belongs together ------------------------------------------------------------------------------------ */

size_t group_most_members(const struct backend *backend)
{
    return backend->depth > 1 ? backend->group_members : MAX_MEMBERS;
}

static bool is_small(const struct plan *plan, const struct plan_job *job)
{
    return job->action == PLAN_MERGE && job->n_elems > 0 && job->n_elems <= BACKEND_GROUP_MEMBER_ELEMS &&
           job->n_elems <= plan->memory.tile_elems;
}

static bool is_untouched(const struct resume *resume, size_t job)
{
    return !resume->job_done[job] && !resume->jobs[job];
}

/* Bytes that lie behind each other in one file of source s. */
static bool follows(const struct plan_job *before, const struct plan_job *job, int s)
{
    const struct plan_source *a = &before->sources[s], *b = &job->sources[s];

    return a->model == b->model && a->tensor->file == b->tensor->file &&
           b->tensor->begin == a->tensor->begin + plan_source_bytes(before, s);
}

size_t group_count(const struct plan *plan, const struct plan_range *ranges, size_t n_ranges,
                   const struct resume *resume, size_t most_members)
{
    const size_t first = ranges[0].job;
    const struct plan_job *jobs = plan->jobs + first;
    uint64_t run[TILE_MAX_INPUTS], closed[TILE_MAX_INPUTS] = {0}, n_out;
    size_t n = 1;

    if (!is_small(plan, jobs) || !is_untouched(resume, first))
        return 1;
    for (int s = 0; s < jobs->n_sources; s++)
        run[s] = plan_source_bytes(jobs, s);
    n_out = jobs->n_bytes;
    for (; n < n_ranges && n < most_members && ranges[n].job == first + n; n++) {
        const struct plan_job *job = &jobs[n];
        bool fits = is_small(plan, job) && is_untouched(resume, first + n) && job->n_sources == jobs->n_sources &&
                    job->shard == jobs->shard && n_out + job->n_bytes <= plan->memory.out_slot_bytes - PLAN_DATA_ALIGN;
        for (int s = 0; fits && s < job->n_sources; s++) {
            uint64_t more = plan_source_bytes(job, s);
            if (follows(job - 1, job, s)) {
                run[s] += more;
            } else {
                closed[s] += SOURCE_BUFFER_BYTES(run[s]);
                run[s] = more;
            }
            fits = closed[s] + SOURCE_BUFFER_BYTES(run[s]) <= plan->memory.slot_bytes;
        }
        if (!fits)
            break;
        n_out += job->n_bytes;
    }
    return n;
}

uint64_t group_statistics_bytes(const struct plan *plan, size_t first, size_t n_members)
{
    uint64_t most = 0;

    for (size_t m = 0; m < n_members; m++) {
        struct wm_error ignored = WM_ERROR_INIT;
        struct merge_op op;
        uint64_t bytes = 0;
        if (plan_job_op(plan, &plan->jobs[first + m], &op, &ignored) == WM_OK &&
            statistics_first_pass(&op) != STAT_READY)
            bytes = statistics_max_bytes(&op, plan->memory.tile_elems);
        if (bytes > most)
            most = bytes;
    }
    return most;
}

uint64_t group_out_bytes(const struct run_job *job)
{
    const struct plan_job *last = job->plan_job + job->n_members - 1;

    return last->begin + last->n_bytes - job->plan_job->begin;
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

/* Source s of all members, a read for each run. */
static enum wm_status read_source(struct pipeline *p, struct run_job *job, int s, uint64_t *n_bytes,
                                  struct wm_error *err)
{
    const size_t n_sources = (size_t)job->plan_job->n_sources;
    unsigned char *slot = p->slots + (size_t)job->slots[s] * p->plan->memory.slot_bytes;
    enum wm_status st = WM_OK;
    size_t first, end;

    for (first = 0; first < job->n_members; first = end) {
        const struct plan_job *jobs = job->plan_job + first;
        size_t run = (size_t)plan_source_bytes(jobs, s);
        struct source *source;
        const void *data;
        for (end = first + 1; end < job->n_members && follows(&job->plan_job[end - 1], &job->plan_job[end], s); end++)
            run += (size_t)plan_source_bytes(&job->plan_job[end], s);
        TRY(reader_source(p, &jobs->sources[s], &source, err));
        TRY(source_read(source, jobs->sources[s].tensor->begin, run, slot, &data, err));
        for (size_t m = first; m < end; m++) {
            job->data[m * n_sources + (size_t)s] = data;
            data = (const unsigned char *)data + plan_source_bytes(&job->plan_job[m], s);
        }
        slot += SOURCE_BUFFER_BYTES(run);
        *n_bytes += run;
    }
out:
    return st;
}

enum wm_status group_read(struct pipeline *p, struct run_job *job, uint64_t *n_bytes, struct wm_error *err)
{
    enum wm_status st = WM_OK;

    *n_bytes = 0;
    for (int s = 0; s < job->plan_job->n_sources; s++)
        TRY(read_source(p, job, s, n_bytes, err));
out:
    return st;
}

/* ---- computing ------------------------------------------------------------------------------------------------ */

/* A backend gets as many members as it wants at once: a slice. */
struct group_flight {
    struct run_job *job;
    unsigned char *out;
    size_t first;                   /* of the slice, among the job's members */
    struct backend_member *members; /* [members at once] */
    struct merge_op *ops;
    struct backend_group slice;
};

/* Where the slice's inputs of each number begin and end, for backends that move them as a whole. */
static void find_regions(struct backend_group *g)
{
    for (int s = 0; s < g->n_inputs; s++) {
        const unsigned char *low = NULL, *high = NULL;
        for (size_t m = 0; m < g->n_members; m++) {
            const struct merge_tile *tile = &g->members[m].tile;
            const unsigned char *begin = tile->in[s], *end = begin + tile->n_elems * dtype_bits(tile->in_dtype[s]) / 8;
            if (!low || begin < low)
                low = begin;
            if (!high || end > high)
                high = end;
        }
        g->inputs[s] = low;
        g->n_input_bytes[s] = (size_t)(high - low);
    }
}

static enum wm_status fill_slice(const struct pipeline *p, struct group_flight *f, size_t n, struct wm_error *err)
{
    const struct run_job *job = f->job;
    const size_t n_sources = (size_t)job->plan_job->n_sources;
    enum wm_status st = WM_OK;

    f->slice = (struct backend_group){.members = f->members, .n_members = n, .n_inputs = (int)n_sources};
    f->slice.out = f->out + (job->plan_job[f->first].begin - job->plan_job->begin);
    for (size_t i = 0; i < n; i++) {
        const struct plan_job *pj = &job->plan_job[f->first + i];
        struct backend_member *member = &f->members[i];
        memset(&member->tile, 0, sizeof member->tile);
        member->op = &f->ops[i];
        member->key = run_job_key(pj);
        TRY(plan_job_op(p->plan, pj, member->op, err));
        member->tile.n_elems = (size_t)pj->n_elems;
        member->tile.out_dtype = pj->dtype;
        member->tile.out = f->out + (pj->begin - job->plan_job->begin);
        for (size_t s = 0; s < n_sources; s++) {
            member->tile.in[s] = job->data[(f->first + i) * n_sources + s];
            member->tile.in_dtype[s] = pj->sources[s].tensor->dtype;
        }
        f->slice.n_out_bytes += (size_t)pj->n_bytes;
    }
    find_regions(&f->slice);
out:
    return st;
}

static enum wm_status submit_slice(const struct pipeline *p, struct backend *backend, void *thread,
                                   struct group_flight *f, struct wm_error *err)
{
    size_t left = f->job->n_members - f->first;
    enum wm_status st = WM_OK;

    TRY(fill_slice(p, f, left < backend->group_members ? left : backend->group_members, err));
    TRY(backend->ops->submit_group(backend, thread, &f->slice, err));
out:
    return st;
}

void group_hash(struct run_job *job, size_t first, size_t n, const unsigned char *out)
{
    struct hash128 pieces[BACKEND_GROUP_MEMBER_ELEMS / TILE_CHUNK_ELEMS];

    for (size_t i = first; i < first + n; i++) {
        const struct plan_job *pj = &job->plan_job[i];
        hash_pieces(out + (pj->begin - job->plan_job->begin), (size_t)pj->n_bytes, resume_piece_bytes(pj->dtype),
                    pieces);
        job->digests[i] = hash_tree(pieces, resume_n_pieces(pj->n_elems));
    }
}

/* Refused values are an error as soon as a slice is through: nothing of the group is written. What a processor has computed
 * is in its cache and hashed at once, as a tile is (compute.c). */
static enum wm_status finish_slice(const struct pipeline *p, const struct backend *backend,
                                   const struct group_flight *f, struct wm_error *err)
{
    for (size_t i = 0; i < f->slice.n_members; i++) {
        if (schedule_is_refused(p, &f->members[i].report)) {
            schedule_refusal(p, &f->job->plan_job[f->first + i], &f->members[i].report, err);
            return err->status;
        }
    }
    if (backend->depth == 1)
        group_hash(f->job, f->first, f->slice.n_members, f->out);
    return WM_OK;
}

enum wm_status group_submit(const struct pipeline *p, struct backend *backend, void *thread, struct run_job *job,
                            unsigned char *out, struct group_flight **flight, struct wm_error *err)
{
    const size_t at_once = job->n_members < backend->group_members ? job->n_members : backend->group_members;
    struct group_flight *f = *flight = calloc(1, sizeof *f);
    enum wm_status st = WM_OK;

    if (!f || !(f->members = malloc(at_once * sizeof *f->members)) || !(f->ops = malloc(at_once * sizeof *f->ops))) {
        st = error_no_memory(err, "merging small tensors");
        goto out;
    }
    f->job = job;
    f->out = out;
    TRY(submit_slice(p, backend, thread, f, err));
out:
    if (st != WM_OK) {
        group_flight_free(f);
        *flight = NULL;
    }
    return st;
}

enum wm_status group_await(const struct pipeline *p, struct backend *backend, void *thread, struct group_flight *flight,
                           bool *is_done, struct wm_error *err)
{
    enum wm_status st = WM_OK;

    for (;;) {
        TRY(backend->ops->await_group(backend, thread, &flight->slice, is_done, err));
        if (!*is_done)
            goto out;
        TRY(finish_slice(p, backend, flight, err));
        flight->first += flight->slice.n_members;
        if (flight->first == flight->job->n_members)
            goto out;
        TRY(submit_slice(p, backend, thread, flight, err));
    }
out:
    return st;
}

void group_flight_free(struct group_flight *flight)
{
    if (!flight)
        return;
    free(flight->members);
    free(flight->ops);
    free(flight);
}
