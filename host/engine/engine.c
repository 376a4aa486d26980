/*
 * engine.c: one run, from an open output directory to durable shards.
 *
 * What lives here: the order of things around the pipeline: journal, shards allocated with their headers, finished ranges
 * taken over, the survey if the plan has one, the run, fsync; for one process alone, a rank, a part, and the end of parts.
 * What it must not know: scheduling (pipeline.c), what ranks tell each other (team.c), the commit (output.c).
 */
#include "engine/engine.h"

#include "base/text.h"
#include "engine/backends.h"
#include "engine/fence.h"
#include "engine/journal.h"
#include "engine/parts.h"
#include "engine/pipeline.h"
#include "engine/rank_progress.h"
#include "engine/resume.h"
#include "engine/survey.h"
#include "engine/team.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* Shards of every model and of the output are open at once; the default soft limit of 1,024 is too low for a merge of
 * ten 70B-class checkpoints. Raising it to the hard limit needs no rights. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static enum wm_status open_shard(const struct plan_shard *shard, const char *dir, bool direct, int *fd, int *direct_fd,
                                 struct wm_error *err)
{
    char *path = file_path_join(dir, shard->name);
    enum wm_status st;

    if (!path)
        return error_no_memory(err, "creating the output");
    TRY(file_open_write(fd, path, true, false, err));
    TRY(file_allocate(*fd, path, shard->n_bytes, err));
    TRY(file_write_at(*fd, path, shard->header, shard->n_header_bytes, 0, err));
    if (direct)
        TRY(file_open_write_direct(direct_fd, path, err));
out:
    free(path);
    return st;
}

static enum wm_status open_shards(const struct plan *plan, const char *dir, bool direct, int *fds, int *direct_fds,
                                  struct wm_error *err)
{
    enum wm_status st = WM_OK;

    for (int s = 0; s < plan->n_shards; s++)
        TRY(open_shard(&plan->shards[s], dir, direct, &fds[s], &direct_fds[s], err));
out:
    return st;
}

static enum wm_status close_shards(const struct plan *plan, const char *dir, int *fds, bool sync,
                                   const volatile int *cancel, struct wm_error *err)
{
    enum wm_status st = WM_OK;

    for (int s = 0; s < plan->n_shards; s++) {
        char *path = file_path_join(dir, plan->shards[s].name);
        if (!path)
            return error_no_memory(err, "finishing the output");
        if (cancel && *cancel && sync)
            st = error_set(err, WM_CANCELLED, "stopped; run the same command again to continue");
        if (st == WM_OK && sync)
            st = file_sync(fds[s], path, err);
        if (st == WM_OK)
            st = file_close_write(&fds[s], path, err);
        free(path);
        if (st != WM_OK)
            return st;
    }
    return st;
}

static void name_limiter(struct engine_result *r, const struct plan *plan)
{
    const struct plan_memory *m = &plan->memory;
    /* Busy share of each stage's threads; the stage whose threads were busiest set the pace. */
    double read = r->read_busy / m->n_readers, compute = r->compute_busy / r->n_compute;
    double write = r->write_busy / m->n_writers;

    r->limiter = "reading";
    if (compute >= read && compute >= write)
        r->limiter = "computing";
    else if (write >= read)
        r->limiter = "writing";
    if (r->sync_seconds > r->seconds / 2)
        r->limiter = "syncing";
}

static void name_compute(struct engine_result *r, const struct backends *backends)
{
    const char *first = backends->items[0]->ops->describe(backends->items[0]);

    if (backends->n_items == 1)
        snprintf(r->compute, sizeof r->compute, "%s", first);
    else
        snprintf(r->compute, sizeof r->compute, "%d GPUs (%s, ...)", backends->n_items, first);
}

static uint64_t peak_rss(void)
{
    struct rusage usage;

    return getrusage(RUSAGE_SELF, &usage) == 0 ? (uint64_t)usage.ru_maxrss * 1024 : 0;
}

/* ---- the run ----------------------------------------------------------------------------------------------------- */

/* Everything of one run that has to be given back at its end. */
struct run {
    const struct plan *plan;
    const struct output *output;
    const struct wm_options *options;
    const struct engine_team *team; /* NULL: alone */
    const volatile int *cancel;
    double start;

    struct plan known; /* with the thresholds, and memory as the devices allow; everything else is borrowed */
    struct backends backends;
    struct journal journal;
    struct journal_record *records;
    size_t n_records;
    struct resume resume;
    int *fds, *direct_fds;
    struct plan_range *ranges; /* what the pipeline runs */
    size_t n_ranges;
    struct hash128 **split_digests;
    struct pipeline_totals totals;
};

static bool is_role(const struct run *run, enum output_user role)
{
    return run->team ? run->team->role == role : role == OUTPUT_ALONE;
}

static bool is_team(const struct run *run)
{
    return run->team && run->team->comm;
}

static const struct plan_rank_share *share_of(const struct engine_team *team)
{
    return team && team->partition && team->role != OUTPUT_FINISH ? &team->partition->shares[team->index] : NULL;
}

static enum wm_status barrier(const struct run *run, struct wm_error *err)
{
    return is_team(run) ? run->team->comm->ops->barrier(run->team->comm, err) : WM_OK;
}

/* What a process reads for the survey: ranks their ranges, parts nothing. */
static uint64_t survey_bytes(const struct plan *plan, const struct engine_team *team)
{
    const struct plan_rank_share *share = share_of(team);

    if (!team)
        return plan->survey_bytes;
    return share && team->comm ? survey_bytes_of(plan, share->ranges, share->n_ranges) : 0;
}

uint64_t engine_bytes_to_read(const struct plan *plan, const struct engine_team *team)
{
    const struct plan_rank_share *share = share_of(team);
    uint64_t merge_bytes = share ? share->n_bytes_read : plan->bytes_to_read - plan->survey_bytes;

    return merge_bytes + survey_bytes(plan, team);
}

/* Everything of ours is done; what is left has no numbers of its own. */
static struct wm_progress all_done(const struct run *run, const char *phase)
{
    const struct plan_rank_share *share = share_of(run->team);
    uint64_t to_read = engine_bytes_to_read(&run->known, run->team);
    uint64_t to_write = share ? share->n_bytes_written : run->plan->bytes_out;
    size_t n_tensors = share ? share->n_ranges : run->plan->n_jobs;

    return (struct wm_progress){.bytes_read = to_read,
                                .bytes_to_read = to_read,
                                .bytes_written = to_write,
                                .bytes_to_write = to_write,
                                .tensors_done = n_tensors,
                                .n_tensors = n_tensors,
                                .seconds = file_now_seconds() - run->start,
                                .phase = phase,
                                .shard = ""};
}

static void tell_phase(const struct run *run, const char *phase)
{
    struct wm_progress progress = all_done(run, phase);

    if (run->options->on_progress)
        (void)run->options->on_progress(run->options->user, &progress);
}

/* The first call after the work in which ranks meet: who is early watches the others. */
static enum wm_status wait_for_all(const struct run *run, struct wm_error *err)
{
    struct wm_progress progress = all_done(run, "waiting");

    return rank_progress_barrier(run->team->comm, run->options, &progress, err);
}

/* Ranks find out who shares a GPU with whom: launchers say how many are on a machine, and not which GPUs each of them sees. */
static enum wm_status open_backends(struct run *run, struct wm_error *err)
{
    char name[BACKENDS_NAME_BYTES];
    enum wm_status st = WM_OK;
    int n_sharing = 1;

    if (is_team(run)) {
        backends_name_device(run->options, name);
        TRY(team_count_alike(run->team, name, sizeof name, &n_sharing, err));
    }
    TRY(backends_open(run->plan, run->options, n_sharing, &run->backends, err));
    backends_fit_plan(&run->backends, &run->known);
out:
    return st;
}

/* ---- the survey ------------------------------------------------------------------------------------------------ */

/* Fills result->thresholds with what the plan's survey finds, or found in an earlier run. A GPU that it loses is none of
 * ours any more. */
static enum wm_status survey(struct run *run, struct engine_result *result, struct wm_error *err)
{
    /* parts: from the file */
    const struct plan_rank_share *share = is_team(run) ? share_of(run->team) : NULL;
    struct survey_args args = {.plan = &run->known,
                               .options = run->options,
                               .dir = run->output->partial_path,
                               .backends = run->backends.items,
                               .n_backends = run->backends.n_items,
                               .ranges = share ? share->ranges : NULL,
                               .n_ranges = share ? share->n_ranges : 0,
                               .reduce = is_team(run) ? team_reduce : NULL,
                               .user = is_team(run) ? run->team->comm : NULL,
                               .writes_file = !is_role(run, OUTPUT_RANK),
                               .cancel = run->cancel,
                               .bytes_to_read = survey_bytes(run->plan, run->team),
                               .bytes_after =
                                   engine_bytes_to_read(&run->known, run->team) - survey_bytes(run->plan, run->team),
                               .start_seconds = run->start};
    struct survey_result found;
    enum wm_status st = survey_run(&args, &found, err);

    if (st != WM_OK)
        return st;
    result->thresholds = found.thresholds;
    result->survey_was_known = found.was_known;
    result->bytes_read += found.bytes_read;
    result->read_busy += found.read_busy;
    result->compute_busy += found.compute_busy;
    memcpy(result->notice, found.notice, sizeof result->notice);
    TRY(backends_drop_lost(run->plan, &run->backends, err));
    backends_fit_plan(&run->backends, &run->known);
out:
    return st;
}

enum wm_status engine_survey(const struct plan *plan, const struct output *output, const struct wm_options *options,
                             const struct engine_team *team, const volatile int *cancel, struct engine_result *result,
                             struct wm_error *err)
{
    struct run run = {.plan = plan, .output = output, .options = options, .team = team, .cancel = cancel};
    enum wm_status st = WM_OK;

    run.start = file_now_seconds();
    run.known = *plan;
    memset(result, 0, sizeof *result);
    raise_descriptor_limit();
    if (is_team(&run))
        TRY(team_agree(team, plan, err));
    if (plan->n_survey_passes) {
        TRY(open_backends(&run, err));
        TRY(survey(&run, result, err));
    }
    if (is_team(&run)) /* nobody ends before the file is there */
        TRY(team_reduce(team->comm, &result->bytes_read, 1, err));
out:
    if (st != WM_OK && is_team(&run))
        team->comm->ops->abort(team->comm, err);
    backends_close(&run.backends);
    result->seconds = file_now_seconds() - run.start;
    result->peak_rss_bytes = peak_rss();
    return st;
}

/* ---- stages ------------------------------------------------------------------------------------------------------ */

/* What is ours, but for the tensors that all ranks go through together. */
static enum wm_status list_ranges(struct run *run, struct wm_error *err)
{
    const struct plan_rank_share *share = share_of(run->team);
    size_t n = share ? share->n_ranges : is_role(run, OUTPUT_FINISH) ? 0 : run->plan->n_jobs;

    run->ranges = malloc((n + 1) * sizeof *run->ranges);
    run->split_digests = calloc(run->plan->n_jobs + 1, sizeof *run->split_digests);
    if (!run->ranges || !run->split_digests)
        return error_no_memory(err, "starting the merge");
    for (size_t i = 0; i < n; i++) {
        struct plan_range whole = {i, 0, run->plan->jobs[i].n_elems};
        const struct plan_range *range = share ? &share->ranges[i] : &whole;
        if (!is_team(run) || !run->team->partition->job_is_shared[range->job])
            run->ranges[run->n_ranges++] = *range;
    }
    for (size_t j = 0; share && j < run->plan->n_jobs; j++)
        if (run->team->partition->job_is_split[j] &&
            !(run->split_digests[j] = calloc(resume_n_pieces(run->plan->jobs[j].n_elems), sizeof **run->split_digests)))
            return error_no_memory(err, "starting the merge");
    return WM_OK;
}

_Static_assert((int)PLAN_N_TRAITS == (int)JOURNAL_N_TRAITS, "a journal keeps a plan's traits");

/* What may be done about a journal of another merge depends on who finds it: parts have no --restart, which would throw
 * other parts' work away. */
static struct journal_owner journal_owner(const struct run *run)
{
    static const char *const remedies[] = {
        [OUTPUT_ALONE] = "repeat the command that began it to finish it, or add --restart to throw it away",
        [OUTPUT_RANK] = "repeat the command that began it to finish it, or add --restart on all ranks to throw it away",
        [OUTPUT_PART] = "run every part with what the first was run with, or remove that folder and run all parts anew",
        [OUTPUT_FINISH] =
            "put back what the parts were merged with and finish again, or remove that folder and run all "
            "parts anew"};
    struct journal_owner owner = {.fingerprint = run->plan->fingerprint,
                                  .trait_names = {[PLAN_VERSION] = "version of warpmerge",
                                                  [PLAN_CONFIG] = "config",
                                                  [PLAN_INPUTS] = "inputs",
                                                  [PLAN_OPTIONS] = "options (--seed, --out-shard-size)"},
                                  .remedy = remedies[run->team ? run->team->role : OUTPUT_ALONE]};

    memcpy(owner.traits, run->plan->traits, sizeof owner.traits);
    return owner;
}

/* Opens the journal and the shards. Of ranks the first one does it alone, so that the others find everything there. */
static enum wm_status open_output(struct run *run, struct wm_error *err)
{
    char name[JOURNAL_NAME_BYTES] = JOURNAL_NAME;
    const char *const kept[] = {name, SURVEY_FILE_NAME, "lock.warpmerge", NULL};
    const char *dir = run->output->partial_path;
    const struct journal_owner owner = journal_owner(run);
    bool direct = run->options->direct_io == WM_DIRECT_ON ||
                  /* Without the fsync at the end the page cache may as well keep the bytes. */
                  (run->options->direct_io == WM_DIRECT_AUTO && run->options->sync);
    bool restart = run->options->restart && !is_role(run, OUTPUT_RANK);
    enum wm_status st = WM_OK;

    if (run->team && !is_role(run, OUTPUT_FINISH))
        journal_name(name, run->team->index);
    if (is_role(run, OUTPUT_RANK))
        TRY(barrier(run, err));
    if (!restart) {
        /* Another merge is refused before it has a journal here, which would keep the right one out. */
        TRY(journal_read_others(dir, "", &owner, &run->records, &run->n_records, err));
        free(run->records);
    }
    TRY(journal_open(&run->journal, dir, name, &owner, restart, &run->records, &run->n_records, err));
    if (!restart)
        TRY(journal_read_others(dir, name, &owner, &run->records, &run->n_records, err));
    /* Whatever else lies there is of no use and must not reach the result. Parts come in any order: they keep it. */
    if (!run->n_records && (is_role(run, OUTPUT_ALONE)))
        TRY(file_empty_dir(dir, kept, err));
    if (is_role(run, OUTPUT_ALONE))
        TRY(fence_raise(run->plan, dir, run->records, run->n_records, run->cancel, err));
    TRY(open_shards(run->plan, dir, direct, run->fds, run->direct_fds, err));
    if (is_team(run) && !is_role(run, OUTPUT_RANK))
        TRY(barrier(run, err));
    /* Nobody writes before everybody has read the journals. */
    TRY(barrier(run, err));
out:
    return st;
}

/* Of the records those that lie within our ranges; the others are somebody else's to check. What a run with larger tiles
 * wrote across the border of two ranges is nobody's, and is computed again: its hash is of all of it. */
static void keep_own_records(struct run *run)
{
    const struct plan_rank_share *share = share_of(run->team);
    size_t n = 0;

    for (size_t i = 0; share && i < run->n_records; i++) {
        const struct journal_record *r = &run->records[i];
        size_t low = 0, high = share->n_ranges;
        while (low < high) { /* the last range that does not begin behind the record */
            size_t middle = low + (high - low) / 2;
            const struct plan_range *range = &share->ranges[middle];
            if (range->job < r->job || (range->job == r->job && range->first_elem <= r->first_elem))
                low = middle + 1;
            else
                high = middle;
        }
        if (low && share->ranges[low - 1].job == r->job &&
            r->first_elem - share->ranges[low - 1].first_elem < share->ranges[low - 1].n_elems &&
            r->n_elems <= share->ranges[low - 1].n_elems - (r->first_elem - share->ranges[low - 1].first_elem))
            run->records[n++] = *r;
    }
    if (share)
        run->n_records = n;
}

/* Pieces of split tensors that an earlier run has finished. */
static void take_over_split(struct run *run)
{
    for (size_t j = 0; j < run->plan->n_jobs; j++) {
        const struct resume_job *r = run->resume.jobs[j];
        size_t n_pieces = resume_n_pieces(run->plan->jobs[j].n_elems);
        for (size_t p = 0; run->split_digests[j] && r && p < n_pieces; p++)
            if (r->piece_done[p])
                run->split_digests[j][p] = r->digests[p];
    }
}

static enum wm_status run_pipelines(struct run *run, struct engine_result *result, struct wm_error *err)
{
    const struct plan_rank_share *share = share_of(run->team);
    const uint64_t surveyed = survey_bytes(run->plan, run->team); /* whoever did it, and when */
    enum wm_status st = WM_OK;
    struct pipeline_args args = {.plan = &run->known,
                                 .options = run->options,
                                 .backends = run->backends.items,
                                 .n_backends = run->backends.n_items,
                                 .threads_per_backend = run->backends.threads_per_backend,
                                 .shard_fds = run->fds,
                                 .direct_fds = run->direct_fds,
                                 .journal = &run->journal,
                                 .resume = &run->resume,
                                 .ranges = run->ranges,
                                 .n_ranges = run->n_ranges,
                                 .job_hashes = result->job_hashes,
                                 .split_digests = run->split_digests,
                                 .cancel = run->cancel,
                                 .start_seconds = run->start,
                                 .bytes_to_read = engine_bytes_to_read(&run->known, run->team),
                                 .bytes_to_write = share ? share->n_bytes_written : run->plan->bytes_out,
                                 .n_tensors = share ? share->n_ranges : run->plan->n_jobs};
    struct pipeline_totals last;

    run->totals.bytes_read = surveyed;
    if (is_team(run)) {
        args.interrupted = team_interrupted;
        args.interrupted_user = run->team->comm;
        TRY(team_run_shared(run->team, &args, &run->totals, err));
    }
    args.before = run->totals;
    st = pipeline_run(&args, &last, err);
    result->bytes_read += args.before.bytes_read - surveyed + last.bytes_read;
    result->bytes_written = args.before.bytes_written + last.bytes_written;
    result->read_busy += args.before.read_busy + last.read_busy;
    result->compute_busy += args.before.compute_busy + last.compute_busy;
    result->write_busy = args.before.write_busy + last.write_busy;
    result->setup_seconds += args.before.setup_seconds + last.setup_seconds;
    for (int b = 0; b < run->backends.n_items; b++) {
        result->n_checked += run->backends.items[b]->n_checked;
        result->device_bytes[b] = run->backends.items[b]->n_bytes;
    }
    result->n_devices = run->backends.has_devices ? run->backends.n_items : 0;
    if (last.notice[0] || args.before.notice[0])
        memcpy(result->notice, last.notice[0] ? last.notice : args.before.notice, sizeof result->notice);
    if (run->backends.notice[0] && !result->notice[0])
        memcpy(result->notice, run->backends.notice, sizeof result->notice);
    else if (run->backends.notice[0])
        snprintf(result->notice, sizeof result->notice, "%.1000s; and %.1000s", run->backends.notice,
                 last.notice[0] ? last.notice : args.before.notice);
out:
    return st;
}

/* OUTPUT_FINISH: everything that has bytes is done and has its hash from the journals; no journal speaks of empty tensors. */
static enum wm_status take_parts(const struct run *run, struct engine_result *result, struct wm_error *err)
{
    for (size_t j = 0; j < run->plan->n_jobs; j++)
        if (!run->plan->jobs[j].n_elems)
            result->job_hashes[j] = hash_xxh3("", 0);
    return parts_check_done(run->plan, run->team->partition, &run->resume, err);
}

static enum wm_status allocate(struct run *run, struct engine_result *result, struct wm_error *err)
{
    const struct plan *plan = run->plan;

    run->fds = malloc(2 * (size_t)(plan->n_shards + 1) * sizeof *run->fds);
    result->job_hashes = calloc(plan->n_jobs ? plan->n_jobs : 1, sizeof *result->job_hashes);
    if (!run->fds || !result->job_hashes)
        return error_no_memory(err, "starting the merge");
    run->direct_fds = run->fds + plan->n_shards;
    for (int s = 0; s < 2 * plan->n_shards; s++)
        run->fds[s] = -1;
    return list_ranges(run, err);
}

static enum wm_status do_run(struct run *run, struct engine_result *result, struct wm_error *err)
{
    const struct plan *plan = run->plan;
    enum wm_status st = WM_OK;
    double began;

    TRY(allocate(run, result, err));
    raise_descriptor_limit();
    began = file_now_seconds();
    TRY(open_backends(run, err));
    result->setup_seconds = file_now_seconds() - began;
    name_compute(result, &run->backends);
    result->n_compute = run->backends.n_items * run->backends.threads_per_backend;
    if (is_team(run))
        TRY(team_agree(run->team, plan, err));
    TRY(open_output(run, err));
    keep_own_records(run);
    TRY(resume_load(&run->resume, plan, run->fds, run->records, run->n_records, result->job_hashes, run->cancel, err));
    take_over_split(run);
    result->bytes_resumed = run->resume.n_bytes;
    result->n_resumed_jobs = run->resume.n_jobs_done;
    if (is_role(run, OUTPUT_FINISH))
        TRY(take_parts(run, result, err));
    if (plan->n_survey_passes && !is_role(run, OUTPUT_FINISH)) {
        TRY(survey(run, result, err));
        run->known.thresholds = &result->thresholds;
    }
    if (!is_role(run, OUTPUT_FINISH))
        TRY(run_pipelines(run, result, err));
    began = file_now_seconds();
    if (run->options->sync)
        tell_phase(run, "syncing");
    TRY(close_shards(plan, run->output->partial_path, run->fds, run->options->sync, run->cancel, err));
    result->sync_seconds = file_now_seconds() - began;
    if (is_team(run)) {
        uint64_t totals[] = {result->bytes_read, result->bytes_written, result->bytes_resumed, result->n_checked};
        TRY(wait_for_all(run, err));
        TRY(team_exchange_hashes(run->team, plan, run->split_digests, result->job_hashes, err));
        TRY(team_reduce(run->team->comm, totals, sizeof totals / sizeof *totals, err));
        result->bytes_read = totals[0];
        result->bytes_written = totals[1];
        result->bytes_resumed = totals[2];
        result->n_checked = totals[3];
    }
out:
    return st;
}

enum wm_status engine_run(const struct plan *plan, const struct output *output, const struct wm_options *options,
                          const struct engine_team *team, const volatile int *cancel, struct engine_result *result,
                          struct wm_error *err)
{
    struct run run = {.plan = plan, .output = output, .options = options, .team = team, .cancel = cancel};
    enum wm_status st;

    run.start = file_now_seconds();
    run.known = *plan;
    run.journal.fd = -1;
    memset(result, 0, sizeof *result);
    st = do_run(&run, result, err);
    if (st != WM_OK && is_team(&run))
        team->comm->ops->abort(team->comm, err);
    result->seconds = file_now_seconds() - run.start;
    backends_close(&run.backends);
    if (st == WM_OK)
        name_limiter(result, plan);
    result->peak_rss_bytes = peak_rss();
    for (int s = 0; run.fds && s < 2 * plan->n_shards; s++)
        file_close(&run.fds[s]);
    free(run.fds);
    free(run.records);
    free(run.ranges);
    for (size_t j = 0; run.split_digests && j < plan->n_jobs; j++)
        free(run.split_digests[j]);
    free(run.split_digests);
    resume_release(&run.resume, plan->n_jobs);
    journal_close(&run.journal);
    if (st != WM_OK)
        engine_result_release(result);
    return st;
}

void engine_result_release(struct engine_result *result)
{
    free(result->job_hashes);
    result->job_hashes = NULL;
}
