/* resume.c: see resume.h. */
#include "engine/resume.h"

#include "methods/tile.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { max_threads = 16, batch_pieces = 32 };

size_t resume_piece_bytes(enum wm_dtype dtype)
{
    return (size_t)TILE_CHUNK_ELEMS * dtype_bits(dtype) / 8;
}

size_t resume_n_pieces(uint64_t n_elems)
{
    return (size_t)((n_elems + TILE_CHUNK_ELEMS - 1) / TILE_CHUNK_ELEMS);
}

void resume_job_free(struct resume_job *job)
{
    if (!job)
        return;
    free(job->digests);
    free(job->piece_done);
    free(job);
}

struct resume_job *resume_take(struct resume *resume, size_t job)
{
    struct resume_job *taken = resume->jobs ? resume->jobs[job] : NULL;

    if (taken)
        resume->jobs[job] = NULL;
    return taken;
}

void resume_release(struct resume *resume, size_t n_jobs)
{
    for (size_t j = 0; resume->jobs && j < n_jobs; j++)
        resume_job_free(resume->jobs[j]);
    free(resume->jobs);
    free(resume->job_done);
    *resume = (struct resume){NULL, NULL, 0, 0};
}

static struct resume_job *job_new(size_t n_pieces)
{
    struct resume_job *job = calloc(1, sizeof *job);

    if (!job)
        return NULL;
    job->digests = malloc((n_pieces ? n_pieces : 1) * sizeof *job->digests);
    job->piece_done = calloc(n_pieces ? n_pieces : 1, 1);
    if (!job->digests || !job->piece_done) {
        resume_job_free(job);
        return NULL;
    }
    return job;
}

/* ---- one record ---------------------------------------------------------------------------------------------- */

/* Reads a range in batches of pieces; true when its bytes are the ones that were journaled. */
static bool range_is_intact(const struct plan *plan, const struct plan_job *job, int fd,
                            const struct journal_record *record, void *buffer, struct hash128 *digests)
{
    size_t piece_bytes = resume_piece_bytes(job->dtype), n_pieces = resume_n_pieces(record->n_elems);
    uint64_t n_bytes = record->n_elems * dtype_bits(job->dtype) / 8;
    uint64_t at = job->begin + record->first_elem * dtype_bits(job->dtype) / 8;
    struct wm_error ignored = WM_ERROR_INIT;

    for (size_t p = 0; p < n_pieces; p += batch_pieces) {
        size_t n = n_bytes < batch_pieces * piece_bytes ? (size_t)n_bytes : batch_pieces * piece_bytes;
        if (file_read_at(fd, plan->shards[job->shard].name, buffer, n, at, &ignored) != WM_OK)
            return false;
        hash_pieces(buffer, n, piece_bytes, digests + p);
        at += n;
        n_bytes -= n;
    }
    return hash128_equal(hash_tree(digests, n_pieces), record->hash);
}

bool resume_record_is_sane(const struct plan *plan, const struct journal_record *record)
{
    const struct plan_job *job;

    if (record->job >= plan->n_jobs)
        return false;
    job = &plan->jobs[record->job];
    return record->n_elems && record->first_elem % TILE_CHUNK_ELEMS == 0 && record->first_elem < job->n_elems &&
           record->n_elems <= job->n_elems - record->first_elem &&
           (record->n_elems % TILE_CHUNK_ELEMS == 0 || record->first_elem + record->n_elems == job->n_elems);
}

/* ---- all records --------------------------------------------------------------------------------------------- */

struct loader {
    struct resume *resume;
    const struct plan *plan;
    const int *shard_fds;
    const struct journal_record *records; /* sorted by job */
    size_t n_records;
    struct hash128 *job_hashes;
    const volatile int *cancel;
    pthread_mutex_t lock;
    size_t next;
    atomic_bool no_memory;
};

/* The next job's run of records; false when there are no more. */
static bool next_group(struct loader *l, size_t *first, size_t *n)
{
    pthread_mutex_lock(&l->lock);
    *first = l->next;
    while (l->next < l->n_records && l->records[l->next].job == l->records[*first].job)
        l->next++;
    *n = l->next - *first;
    pthread_mutex_unlock(&l->lock);
    return *n > 0;
}

static void load_group(struct loader *l, size_t first, size_t n, void *buffer)
{
    uint64_t index = l->records[first].job, n_kept = 0;
    const struct plan_job *job = &l->plan->jobs[index];
    size_t n_pieces = resume_n_pieces(job->n_elems), n_done = 0;
    struct resume_job *r = job_new(n_pieces);

    if (!r) {
        atomic_store(&l->no_memory, true);
        return;
    }
    for (size_t i = first; i < first + n && !(l->cancel && *l->cancel); i++) {
        const struct journal_record *record = &l->records[i];
        size_t p0 = (size_t)(record->first_elem / TILE_CHUNK_ELEMS), count = resume_n_pieces(record->n_elems);
        /* Records may overlap, when a run with other tiles went on with what one had begun. */
        if (memchr(r->piece_done + p0, 0, count) &&
            range_is_intact(l->plan, job, l->shard_fds[job->shard], record, buffer, r->digests + p0))
            memset(r->piece_done + p0, 1, count);
    }
    for (size_t p = 0; p < n_pieces; p++)
        if (r->piece_done[p]) {
            uint64_t left = job->n_elems - (uint64_t)p * TILE_CHUNK_ELEMS;
            n_done++;
            n_kept += (left < TILE_CHUNK_ELEMS ? left : TILE_CHUNK_ELEMS) * dtype_bits(job->dtype) / 8;
        }
    pthread_mutex_lock(&l->lock);
    l->resume->n_bytes += n_kept;
    if (n_done == n_pieces) {
        l->resume->job_done[index] = 1;
        l->resume->n_jobs_done++;
        l->job_hashes[index] = hash_tree(r->digests, n_pieces);
    } else if (n_done) {
        l->resume->jobs[index] = r;
        r = NULL;
    }
    pthread_mutex_unlock(&l->lock);
    resume_job_free(r);
}

static void *loader_thread(void *arg)
{
    struct loader *l = arg;
    void *buffer = malloc((size_t)batch_pieces * TILE_CHUNK_ELEMS * 8);
    size_t first, n;

    if (!buffer)
        atomic_store(&l->no_memory, true);
    while (buffer && next_group(l, &first, &n))
        load_group(l, first, n, buffer);
    free(buffer);
    return NULL;
}

static int by_job(const void *a, const void *b)
{
    const struct journal_record *x = a, *y = b;

    if (x->job != y->job)
        return x->job < y->job ? -1 : 1;
    return x->first_elem < y->first_elem ? -1 : x->first_elem > y->first_elem;
}

enum wm_status resume_load(struct resume *resume, const struct plan *plan, const int *shard_fds,
                           const struct journal_record *records, size_t n_records, struct hash128 *job_hashes,
                           const volatile int *cancel, struct wm_error *err)
{
    struct journal_record *sorted = malloc((n_records ? n_records : 1) * sizeof *sorted);
    struct loader l = {
        .resume = resume, .plan = plan, .shard_fds = shard_fds, .job_hashes = job_hashes, .cancel = cancel};
    enum wm_status st = WM_OK;
    pthread_t threads[max_threads];
    int n_threads = 0;

    *resume = (struct resume){NULL, NULL, 0, 0};
    resume->jobs = calloc(plan->n_jobs, sizeof *resume->jobs);
    resume->job_done = calloc(plan->n_jobs, 1);
    if (!sorted || !resume->jobs || !resume->job_done) {
        st = error_no_memory(err, "continuing an earlier merge");
        goto out;
    }
    for (size_t i = 0; i < n_records; i++)
        if (resume_record_is_sane(plan, &records[i]))
            sorted[l.n_records++] = records[i];
    qsort(sorted, l.n_records, sizeof *sorted, by_job);
    l.records = sorted;
    pthread_mutex_init(&l.lock, NULL);
    while (n_threads < plan->memory.n_compute && n_threads < max_threads && (size_t)n_threads < l.n_records)
        if (pthread_create(&threads[n_threads++], NULL, loader_thread, &l)) {
            n_threads--;
            break;
        }
    if (!n_threads && l.n_records)
        loader_thread(&l);
    while (n_threads)
        pthread_join(threads[--n_threads], NULL);
    pthread_mutex_destroy(&l.lock);
    if (atomic_load(&l.no_memory))
        st = error_no_memory(err, "continuing an earlier merge");
    else if (cancel && *cancel)
        st = error_set(err, WM_CANCELLED, "stopped; run the same command again to continue");
out:
    free(sorted);
    if (st != WM_OK)
        resume_release(resume, plan->n_jobs);
    return st;
}

bool resume_range_is_done(const struct resume *resume, const struct plan_range *range)
{
    const struct resume_job *r = resume->jobs[range->job];
    size_t first = (size_t)(range->first_elem / TILE_CHUNK_ELEMS);

    if (resume->job_done[range->job])
        return true;
    for (size_t p = first; p < first + resume_n_pieces(range->n_elems); p++)
        if (!r || !r->piece_done[p])
            return false;
    return true;
}
