/* writer.c: writer threads: tiles from output slots into shards and the journal. See stages.h. Knows no arithmetic. */
#include "engine/group.h"
#include "engine/stages.h"

#include "base/dtype.h"

#include <stdlib.h>

/* Where a tile's output lies: in its slot at the offset that it has in its page of the file. */
unsigned char *writer_out_bytes(const struct pipeline *p, const struct run_job *job, size_t tile, uint32_t out_slot)
{
    const struct plan_job *pj = job->plan_job;
    uint64_t first = run_job_tile_elem(job, tile, p->plan->memory.tile_elems);
    uint64_t offset = pj->begin + first * dtype_bits(pj->dtype) / 8;

    return p->out_slots + (size_t)out_slot * p->plan->memory.out_slot_bytes + offset % PLAN_DATA_ALIGN;
}

/* Whole pages go past the page cache: what is written once and read by nobody soon should not cost a copy, push the
 * inputs out of memory, and then be waited for in one long fsync (ext4 on a virtual NVMe drive, 2026-11-22: 2 GiB with
 * fsync 1.1 s with O_DIRECT, 2.5 to 9 s without). The ends of a tile share their pages with its neighbours and go
 * through the cache; no page is written both ways. */
static enum wm_status write_bytes(struct pipeline *p, int shard, const unsigned char *bytes, size_t n_bytes,
                                  uint64_t offset, struct wm_error *err)
{
    const char *name = p->plan->shards[shard].name;
    int fd = p->args->shard_fds[shard], direct_fd = p->args->direct_fds[shard];
    size_t head = (size_t)(-offset % PLAN_DATA_ALIGN), middle;
    enum wm_status st = WM_OK;

    if (direct_fd < 0 || n_bytes < WRITER_SMALL_BYTES)
        return file_write_at(fd, name, bytes, n_bytes, offset, err);
    middle = (n_bytes - head) / PLAN_DATA_ALIGN * PLAN_DATA_ALIGN;
    if (head)
        TRY(file_write_at(fd, name, bytes, head, offset, err));
    TRY(file_write_at(direct_fd, name, bytes + head, middle, offset + head, err));
    if (head + middle < n_bytes)
        TRY(file_write_at(fd, name, bytes + head + middle, n_bytes - head - middle, offset + head + middle, err));
out:
    return st;
}

/* What is written now belongs to the output for good. */
static enum wm_status record(struct pipeline *p, const struct write_task *task, struct wm_error *err)
{
    const struct run_job *job = task->job;
    struct journal_record one = {job->index, run_job_tile_elem(job, task->tile, p->plan->memory.tile_elems),
                                 task->n_elems, task->hash};
    struct journal_record *records = &one;
    enum wm_status st;

    if (job->n_members > 1) {
        records = malloc(job->n_members * sizeof *records);
        if (!records)
            return error_no_memory(err, "writing small tensors");
        for (size_t m = 0; m < job->n_members; m++)
            records[m] = (struct journal_record){job->index + m, 0, job->plan_job[m].n_elems, job->digests[m]};
    }
    st = journal_append(p->args->journal, records, job->n_members, err);
    if (records != &one)
        free(records);
    return st;
}

void writer_hash(const struct pipeline *p, struct write_task *task)
{
    struct run_job *job = task->job;
    uint64_t first = run_job_tile_elem(job, task->tile, p->plan->memory.tile_elems);
    uint64_t n_bytes = task->n_elems * dtype_bits(job->plan_job->dtype) / 8;
    const unsigned char *out = writer_out_bytes(p, job, task->tile, task->out_slot);
    struct hash128 *digests = job->digests + first / TILE_CHUNK_ELEMS;

    task->is_hashed = true;
    if (job->n_members > 1) {
        group_hash(job, 0, job->n_members, out);
        return;
    }
    hash_pieces(out, (size_t)n_bytes, resume_piece_bytes(job->plan_job->dtype), digests);
    task->hash = hash_tree(digests, resume_n_pieces(task->n_elems));
}

void writer_write(struct pipeline *p, struct write_task *task)
{
    const struct plan_job *pj = task->job->plan_job;
    uint64_t bits = dtype_bits(pj->dtype);
    uint64_t first = run_job_tile_elem(task->job, task->tile, p->plan->memory.tile_elems);
    uint64_t n_bytes = task->job->n_members > 1 ? group_out_bytes(task->job) : task->n_elems * bits / 8;
    struct wm_error err = WM_ERROR_INIT;
    enum wm_status st;
    double began;

    pthread_mutex_unlock(&p->lock);
    began = file_now_seconds();
    /* A rank that was stopped and given up must not go on where another run may be by now: above all not with a guess, which
     * nobody would repair. */
    st = p->args->interrupted && p->args->interrupted(p->args->interrupted_user, &err) ? err.status : WM_OK;
    if (st == WM_OK && !task->is_hashed)
        writer_hash(p, task);
    if (st == WM_OK)
        st = write_bytes(p, pj->shard, writer_out_bytes(p, task->job, task->tile, task->out_slot), (size_t)n_bytes,
                         pj->begin + first * bits / 8, &err);
    began = file_now_seconds() - began;
    pthread_mutex_lock(&p->lock);
    p->write_busy += began;
    if (st == WM_OK && !task->is_guess)
        st = record(p, task, &err);
    if (st != WM_OK) {
        schedule_fail(p, &err);
        return;
    }
    if (task->is_guess || !task->job->tile_guessed[task->tile]) /* the second time is no progress */
        p->bytes_written += n_bytes;
    p->shard = p->plan->shards[pj->shard].name;
    schedule_release_out_slot(p, task->out_slot);
    task->job->n_writing--;
    if (task->is_guess) {
        if (task->job->finishing && !task->job->n_writing)
            pthread_cond_broadcast(&p->can_compute); /* somebody waits for exactly this */
        return;
    }
    schedule_tile_finished(p, task->job, task->tile, true);
}

void *writer_thread(void *arg)
{
    struct pipeline *p = arg;

    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        struct write_task task;
        if (schedule_take_write(p, &task)) {
            writer_write(p, &task);
        } else if (p->all_done) {
            break;
        } else {
            pthread_cond_wait(&p->can_write, &p->lock);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}
