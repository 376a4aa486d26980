/* fence.c: see fence.h. A mark is a journal record of no elements, which taking over finished ranges passes by. */
#include "engine/fence.h"

#include "base/dtype.h"
#include "base/file.h"
#include "engine/resume.h"

#include <stdio.h>
#include <stdlib.h>

#define COPY_BYTES ((size_t)1 << 20)

enum wm_status fence_mark(struct journal *journal, size_t job, struct wm_error *err)
{
    const struct journal_record mark = {job, 0, 0, {0, 0}};

    return journal_append(journal, &mark, 1, err);
}

enum wm_status fence_sync_mark(const struct journal *journal, struct wm_error *err)
{
    return file_sync(journal->fd, journal->path, err);
}

struct copy {
    const struct plan *plan;
    int from, to;
    const char *old_path, *new_path;
    unsigned char *buffer;
    const volatile int *cancel;
};

/* A range that cannot be read is left out: its checksum tells later that it has to be computed again. */
static enum wm_status copy_range(const struct copy *c, const struct journal_record *record, struct wm_error *err)
{
    const struct plan_job *job = &c->plan->jobs[record->job];
    uint64_t at = job->begin + record->first_elem * dtype_bits(job->dtype) / 8;
    uint64_t left = record->n_elems * dtype_bits(job->dtype) / 8;
    enum wm_status st = WM_OK;

    while (left) {
        size_t n = left < COPY_BYTES ? (size_t)left : COPY_BYTES;
        struct wm_error unread = WM_ERROR_INIT;
        if (c->cancel && *c->cancel) {
            st = error_set(err, WM_CANCELLED, "stopped; run the same command again to continue");
            goto out;
        }
        if (file_read_at(c->from, c->old_path, c->buffer, n, at, &unread) != WM_OK)
            goto out;
        TRY(file_write_at(c->to, c->new_path, c->buffer, n, at, err));
        at += n;
        left -= n;
    }
out:
    return st;
}

/* The new file takes the name in one step; one that was cut off under its temporary name goes with the journals. */
static enum wm_status renew(const struct plan *plan, int shard, const char *dir, const struct journal_record *records,
                            size_t n_records, const volatile int *cancel, struct wm_error *err)
{
    char *old_path = file_path_join(dir, plan->shards[shard].name), *new_path = NULL;
    struct copy c = {plan, -1, -1, old_path, NULL, malloc(COPY_BYTES), cancel};
    enum wm_status st = WM_OK;

    if (!old_path || !c.buffer || asprintf(&new_path, "%s.warpmerge-new", old_path) < 0) {
        new_path = NULL;
        st = error_no_memory(err, "continuing an earlier merge");
        goto out;
    }
    if (!file_exists(old_path))
        goto out;
    c.new_path = new_path;
    TRY(file_open_read(&c.from, old_path, NULL, NULL, err));
    TRY(file_unlink(new_path, err));
    TRY(file_open_write(&c.to, new_path, true, false, err));
    TRY(file_allocate(c.to, new_path, plan->shards[shard].n_bytes, err));
    for (size_t i = 0; i < n_records; i++)
        if (resume_record_is_sane(plan, &records[i]) && plan->jobs[records[i].job].shard == shard)
            TRY(copy_range(&c, &records[i], err));
    TRY(file_close_write(&c.to, new_path, err));
    TRY(file_rename(new_path, old_path, err));
out:
    file_close(&c.from);
    file_close(&c.to);
    free(c.buffer);
    free(new_path);
    free(old_path);
    return st;
}

enum wm_status fence_raise(const struct plan *plan, const char *dir, const struct journal_record *records,
                           size_t n_records, const volatile int *cancel, struct wm_error *err)
{
    unsigned char *marked = calloc(plan->n_jobs + 1, 1), *open = calloc((size_t)plan->n_shards + 1, 1);
    uint64_t *n_done = calloc(plan->n_jobs + 1, sizeof *n_done);
    enum wm_status st = WM_OK;

    if (!marked || !open || !n_done) {
        st = error_no_memory(err, "continuing an earlier merge");
        goto out;
    }
    for (size_t i = 0; i < n_records; i++) {
        const struct journal_record *r = &records[i];
        if (resume_record_is_sane(plan, r))
            n_done[r->job] += r->n_elems;
        else if (r->job < plan->n_jobs && r->n_elems == 0)
            marked[r->job] = 1;
    }
    /* A guess is judged when all writes of its tensor have returned, and then recorded whole by whoever made it. */
    for (size_t j = 0; j < plan->n_jobs; j++)
        if (marked[j] && n_done[j] < plan->jobs[j].n_elems)
            open[plan->jobs[j].shard] = 1;
    for (int s = 0; s < plan->n_shards; s++)
        if (open[s])
            TRY(renew(plan, s, dir, records, n_records, cancel, err));
out:
    free(n_done);
    free(open);
    free(marked);
    return st;
}
