/* team.c: see team.h. */
#include "engine/team.h"

#include "base/text.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(struct plan_range) == sizeof(size_t) + 2 * sizeof(uint64_t), "ranges are hashed as bytes");
_Static_assert(sizeof(struct hash128) == 2 * sizeof(uint64_t), "hashes travel as words");

/* ---- agreement ------------------------------------------------------------------------------------------------- */

/* Who has which elements, and which tensors all go through together. */
static uint64_t division_of(const struct plan_partition *partition, const struct plan *plan)
{
    uint64_t hash = hash_xxh3_64(partition->job_is_split, plan->n_jobs * sizeof *partition->job_is_split, 0);

    hash = hash_xxh3_64(partition->job_is_shared, plan->n_jobs * sizeof *partition->job_is_shared, hash);
    for (int r = 0; r < partition->n_ranks; r++) {
        const struct plan_rank_share *share = &partition->shares[r];
        hash = hash_xxh3_64(&share->n_ranges, sizeof share->n_ranges, hash);
        if (share->n_ranges)
            hash = hash_xxh3_64(share->ranges, share->n_ranges * sizeof *share->ranges, hash);
    }
    return hash;
}

enum wm_status team_agree(const struct engine_team *team, const struct plan *plan, struct wm_error *err)
{
    const uint64_t mine[] = {plan->fingerprint.low, plan->fingerprint.high, plan->memory.tile_elems,
                             division_of(team->partition, plan)};
    const size_t n = sizeof mine / sizeof *mine;
    uint64_t *all = malloc((size_t)team->size * sizeof mine);
    enum wm_status st = WM_OK;

    if (!all) {
        st = error_no_memory(err, "comparing plans");
        goto out;
    }
    TRY(team->comm->ops->all_gather(team->comm, mine, sizeof mine, all, err));
    for (int r = 0; r < team->size && st == WM_OK; r++) {
        const uint64_t *theirs = all + (size_t)r * n;
        if (theirs[0] != all[0] || theirs[1] != all[1])
            st = error_set(err, WM_BAD_CONFIG,
                           "rank %d plans another merge than rank 0: start all ranks with the same version, config, "
                           "options and inputs (a checkpoint that differs between machines is such a difference)",
                           r);
        else if (theirs[2] != all[2])
            st = error_set(err, WM_BAD_CONFIG,
                           "rank %d would use tiles of %llu elements and rank 0 of %llu: give all ranks the same "
                           "--memory and --threads, or --tile",
                           r, (unsigned long long)theirs[2], (unsigned long long)all[2]);
        else if (theirs[3] != all[3])
            st = error_set(err, WM_BAD_CONFIG,
                           "rank %d divides the merge otherwise than rank 0, although both plan the same: start all "
                           "ranks from the same build of the program",
                           r);
    }
out:
    free(all);
    return st;
}

enum wm_status team_count_alike(const struct engine_team *team, const char *text, size_t n_bytes, int *n_alike,
                                struct wm_error *err)
{
    char *all = malloc((size_t)team->size * n_bytes);
    enum wm_status st = WM_OK;

    *n_alike = 0;
    if (!all) {
        st = error_no_memory(err, "dividing GPUs");
        goto out;
    }
    TRY(team->comm->ops->all_gather(team->comm, text, n_bytes, all, err));
    for (int r = 0; r < team->size; r++)
        *n_alike += *text ? memcmp(text, all + (size_t)r * n_bytes, n_bytes) == 0 : r == team->index;
out:
    free(all);
    return st;
}

enum wm_status team_reduce(void *user, uint64_t *counts, size_t n_counts, struct wm_error *err)
{
    struct comm *comm = user;

    return comm->ops->all_reduce_u64(comm, counts, n_counts, err);
}

bool team_interrupted(void *user, struct wm_error *err)
{
    struct comm *comm = user;

    return comm->ops->failed(comm, err);
}

/* ---- split tensors with statistics -------------------------------------------------------------------------------- */

/* Of one tensor's passes, on one rank. */
struct reduction {
    struct comm *comm;
    const char *tensor;
    uint64_t job, n_passes;
    struct wm_error err;
};

/* Sums that belong to different passes may have the same length: a word more says which one this is. */
static bool reduce(void *user, uint64_t *words, size_t n_words)
{
    struct reduction *r = user;
    const uint64_t place[] = {r->job, r->n_passes++}, mark = hash_xxh3_64(place, sizeof place, 0);
    uint64_t *marked = malloc((n_words + 1) * sizeof *marked);
    char name[300];
    bool ok = false;

    if (!marked) {
        error_no_memory(&r->err, "sharing statistics");
        goto out;
    }
    memcpy(marked, words, n_words * sizeof *words);
    marked[n_words] = mark;
    if (r->comm->ops->all_reduce_u64(r->comm, marked, n_words + 1, &r->err) != WM_OK)
        goto out;
    ok = marked[n_words] == mark * (uint64_t)r->comm->size;
    if (ok)
        memcpy(words, marked, n_words * sizeof *words);
    else
        error_set(&r->err, WM_TEMPORARY,
                  "rank %d is in pass %llu over tensor %s and another rank is not; run the same command again, it "
                  "continues, and report it if it happens again",
                  r->comm->rank, (unsigned long long)r->n_passes, text_display(name, sizeof name, r->tensor));
out:
    free(marked);
    return ok;
}

static void share_error(void *user, struct wm_error *err)
{
    const struct reduction *r = user;

    if (r->err.status == WM_OK)
        error_no_memory(err, "sharing statistics");
    else
        error_set(err, r->err.status, "%s", r->err.message);
}

/* Our range of a job, or NULL; a share has one of each job at most. */
static const struct plan_range *own_range(const struct engine_team *team, size_t job)
{
    const struct plan_rank_share *share = &team->partition->shares[team->index];

    for (size_t i = 0; i < share->n_ranges; i++)
        if (share->ranges[i].job == job)
            return &share->ranges[i];
    return NULL;
}

/* A rank without a part goes through the passes too: it adds zeros, and hears the sums. */
static enum wm_status follow(const struct plan *plan, size_t job, const struct run_share *share, struct wm_error *err)
{
    struct statistics *s = NULL;
    struct merge_op op;
    enum wm_status st = WM_OK;

    TRY(plan_job_op(plan, &plan->jobs[job], &op, err));
    s = statistics_new(&op, plan->memory.tile_elems);
    if (!s) {
        st = error_no_memory(err, "sharing statistics");
        goto out;
    }
    statistics_share(s, share->reduce, share->user);
    while (statistics_finish_pass(s, &op) != STAT_READY)
        ;
    if (statistics_share_failed(s)) {
        share_error(share->user, err);
        st = err->status;
    } else if (statistics_counts_wrong(s)) {
        st = run_job_counts_wrong(&plan->jobs[job], err);
    }
out:
    statistics_free(s);
    return st;
}

static void add_totals(struct pipeline_totals *sum, const struct pipeline_totals *more)
{
    sum->bytes_read += more->bytes_read;
    sum->bytes_written += more->bytes_written;
    sum->tensors_done += more->tensors_done;
    sum->read_busy += more->read_busy;
    sum->compute_busy += more->compute_busy;
    sum->write_busy += more->write_busy;
    sum->setup_seconds += more->setup_seconds;
    if (more->notice[0])
        memcpy(sum->notice, more->notice, sizeof sum->notice);
}

static enum wm_status run_one(const struct engine_team *team, const struct pipeline_args *base, size_t job,
                              struct pipeline_totals *totals, struct wm_error *err)
{
    const struct plan_range *range = own_range(team, job);
    struct reduction reduction = {team->comm, base->plan->jobs[job].name, job, 0, WM_ERROR_INIT};
    struct run_share share = {reduce, &reduction};
    struct pipeline_args args = *base;
    struct pipeline_totals more;
    enum wm_status st;

    if (!range)
        return follow(base->plan, job, &share, err);
    args.ranges = range;
    args.n_ranges = 1;
    args.share = &share;
    args.share_error = share_error;
    args.before = *totals;
    st = pipeline_run(&args, &more, err);
    add_totals(totals, &more);
    return st;
}

enum wm_status team_run_shared(const struct engine_team *team, const struct pipeline_args *base,
                               struct pipeline_totals *totals, struct wm_error *err)
{
    const struct plan *plan = base->plan;
    enum wm_status st = WM_OK;
    size_t *jobs = malloc((team->partition->n_split_jobs + 1) * sizeof *jobs), n = 0;
    uint64_t *unfinished = calloc(team->partition->n_split_jobs + 1, sizeof *unfinished);

    if (!jobs || !unfinished) {
        st = error_no_memory(err, "sharing statistics");
        goto out;
    }
    for (size_t j = 0; j < plan->n_jobs; j++) {
        const struct plan_range *range;
        if (!team->partition->job_is_shared[j])
            continue;
        range = own_range(team, j);
        unfinished[n] = range && !resume_range_is_done(base->resume, range);
        jobs[n++] = j;
    }
    if (n && PARTITION_GRAIN_ELEMS % plan->memory.tile_elems != 0) {
        st = error_set(err, WM_USAGE,
                       "with this --tile, tensors that need statistics cannot be split over ranks; give a power of "
                       "two, or leave it out");
        goto out;
    }
    /* What an earlier run has finished needs no statistics any more, but only if no rank needs them. */
    TRY(team->comm->ops->all_reduce_u64(team->comm, unfinished, n, err));
    for (size_t i = 0; i < n; i++)
        if (unfinished[i])
            TRY(run_one(team, base, jobs[i], totals, err));
out:
    free(jobs);
    free(unfinished);
    return st;
}

/* ---- hashes ------------------------------------------------------------------------------------------------------- */

static bool hash_is_set(struct hash128 hash)
{
    return hash.low || hash.high;
}

/* Every piece of every tensor has been computed by somebody and by nobody twice: whatever else is wrong, an output with a
 * hole does not appear. `n_given` becomes the sum over the ranks. */
static enum wm_status check_complete(const struct engine_team *team, const struct plan *plan,
                                     struct hash128 *const *split_digests, const struct hash128 *job_hashes,
                                     uint64_t *n_given, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    char name[300];

    for (size_t j = 0; j < plan->n_jobs; j++) {
        size_t n_pieces = team->partition->job_is_split[j] ? resume_n_pieces(plan->jobs[j].n_elems) : 1;
        const struct hash128 *digests = team->partition->job_is_split[j] ? split_digests[j] : &job_hashes[j];
        for (size_t p = 0; p < n_pieces; p++)
            n_given[j] += hash_is_set(digests[p]);
    }
    TRY(team->comm->ops->all_reduce_u64(team->comm, n_given, plan->n_jobs, err));
    for (size_t j = 0; j < plan->n_jobs && st == WM_OK; j++) {
        uint64_t n_pieces = team->partition->job_is_split[j] ? resume_n_pieces(plan->jobs[j].n_elems) : 1;
        if (n_given[j] != n_pieces && plan->jobs[j].n_elems)
            st = error_set(err, WM_BUG,
                           "of the %llu pieces of %s the ranks have computed %llu; this is a fault of the program: "
                           "report it, and merge with --ranks none",
                           (unsigned long long)n_pieces, text_display(name, sizeof name, plan->jobs[j].name),
                           (unsigned long long)n_given[j]);
    }
out:
    return st;
}

/* Every hash is known to one rank and zero on the others, so sums of words put them together. */
enum wm_status team_exchange_hashes(const struct engine_team *team, const struct plan *plan,
                                    struct hash128 **split_digests, struct hash128 *job_hashes, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    const struct plan_rank_share *share = &team->partition->shares[team->index];
    unsigned char *ours = calloc(plan->n_jobs + 1, 1);
    uint64_t *n_given = calloc(plan->n_jobs + 1, sizeof *n_given);

    if (!ours || !n_given) {
        st = error_no_memory(err, "putting hashes together");
        goto out;
    }
    for (size_t i = 0; i < share->n_ranges; i++)
        ours[share->ranges[i].job] = !team->partition->job_is_split[share->ranges[i].job];
    for (size_t j = 0; j < plan->n_jobs; j++)
        if (!ours[j])
            job_hashes[j] = (struct hash128){0, 0};
    TRY(check_complete(team, plan, split_digests, job_hashes, n_given, err));
    TRY(team->comm->ops->all_reduce_u64(team->comm, (uint64_t *)(void *)job_hashes, 2 * plan->n_jobs, err));
    for (size_t j = 0; j < plan->n_jobs; j++) {
        size_t n_pieces = resume_n_pieces(plan->jobs[j].n_elems);
        if (!team->partition->job_is_split[j])
            continue;
        TRY(team->comm->ops->all_reduce_u64(team->comm, (uint64_t *)(void *)split_digests[j], 2 * n_pieces, err));
        job_hashes[j] = hash_tree(split_digests[j], n_pieces);
    }
out:
    free(n_given);
    free(ours);
    return st;
}
