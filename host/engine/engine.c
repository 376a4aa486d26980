/*
 * engine.c: one run, from an open output directory to durable shards.
 *
 * What lives here: the order of things around the pipeline: journal, shards allocated with their headers, finished
 * ranges taken over, the run, fsync. What it must not know: scheduling (pipeline.c) and the commit (output.c).
 */
#include "engine/engine.h"

#include "base/text.h"
#include "engine/backends.h"
#include "engine/journal.h"
#include "engine/pipeline.h"
#include "engine/resume.h"

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

static void tell_phase(const struct wm_options *options, const struct plan *plan, const char *phase, double start)
{
    struct wm_progress progress = {.bytes_read = plan->bytes_to_read,
                                   .bytes_to_read = plan->bytes_to_read,
                                   .bytes_written = plan->bytes_out,
                                   .bytes_to_write = plan->bytes_out,
                                   .tensors_done = plan->n_jobs,
                                   .n_tensors = plan->n_jobs,
                                   .seconds = file_now_seconds() - start,
                                   .phase = phase,
                                   .shard = ""};

    if (options->on_progress)
        (void)options->on_progress(options->user, &progress);
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

enum wm_status engine_run(const struct plan *plan, const struct output *output, const struct wm_options *options,
                          const volatile int *cancel, struct engine_result *result, struct wm_error *err)
{
    static const char *const kept[] = {JOURNAL_NAME, "lock.warpmerge", NULL};
    enum wm_status st = WM_OK;
    double start = file_now_seconds(), synced;
    struct journal journal = {-1, NULL, 0, 0};
    struct journal_record *records = NULL;
    struct resume resume = {NULL, NULL, 0, 0};
    struct backends backends = {.n_items = 0};
    struct pipeline_totals totals;
    size_t n_records = 0;
    /* Without the fsync at the end the page cache may as well keep the bytes. */
    bool direct = options->direct_io == WM_DIRECT_ON || (options->direct_io == WM_DIRECT_AUTO && options->sync);
    int *fds = malloc(2 * (size_t)(plan->n_shards + 1) * sizeof *fds), *direct_fds = fds + plan->n_shards;

    memset(result, 0, sizeof *result);
    result->job_hashes = calloc(plan->n_jobs ? plan->n_jobs : 1, sizeof *result->job_hashes);
    for (int s = 0; fds && s < 2 * plan->n_shards; s++)
        fds[s] = -1;
    if (!fds || !result->job_hashes) {
        st = error_no_memory(err, "starting the merge");
        goto out;
    }
    raise_descriptor_limit();
    TRY(backends_open(plan, options, &backends, err));
    name_compute(result, &backends);
    TRY(journal_open(&journal, output->partial_path, plan->fingerprint, options->restart, &records, &n_records, err));
    if (!n_records) /* whatever else lies there is of no use and must not reach the result */
        TRY(file_empty_dir(output->partial_path, kept, err));
    TRY(open_shards(plan, output->partial_path, direct, fds, direct_fds, err));
    TRY(resume_load(&resume, plan, fds, records, n_records, result->job_hashes, cancel, err));
    result->bytes_resumed = resume.n_bytes;
    result->n_resumed_jobs = resume.n_jobs_done;
    {
        struct pipeline_args args = {.plan = plan,
                                     .options = options,
                                     .backends = backends.items,
                                     .n_backends = backends.n_items,
                                     .threads_per_backend = backends.threads_per_backend,
                                     .shard_fds = fds,
                                     .direct_fds = direct_fds,
                                     .journal = &journal,
                                     .resume = &resume,
                                     .job_hashes = result->job_hashes,
                                     .cancel = cancel,
                                     .start_seconds = start};
        st = pipeline_run(&args, &totals, err);
    }
    result->bytes_read = totals.bytes_read;
    result->bytes_written = totals.bytes_written;
    result->read_busy = totals.read_busy;
    result->compute_busy = totals.compute_busy;
    result->write_busy = totals.write_busy;
    result->n_compute = backends.n_items * backends.threads_per_backend;
    memcpy(result->notice, totals.notice, sizeof result->notice);
    if (st != WM_OK)
        goto out;
    synced = file_now_seconds();
    if (options->sync)
        tell_phase(options, plan, "syncing", start);
    TRY(close_shards(plan, output->partial_path, fds, options->sync, cancel, err));
    result->sync_seconds = file_now_seconds() - synced;
out:
    result->seconds = file_now_seconds() - start;
    backends_close(&backends);
    if (st == WM_OK)
        name_limiter(result, plan);
    result->peak_rss_bytes = peak_rss();
    for (int s = 0; fds && s < 2 * plan->n_shards; s++)
        file_close(&fds[s]);
    free(fds);
    free(records);
    resume_release(&resume, plan->n_jobs);
    journal_close(&journal);
    if (st != WM_OK)
        engine_result_release(result);
    return st;
}

void engine_result_release(struct engine_result *result)
{
    free(result->job_hashes);
    result->job_hashes = NULL;
}
