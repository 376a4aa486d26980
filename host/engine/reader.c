/* reader.c: reader threads: tiles from the inputs into slots. See stages.h. Knows sources, not what tiles mean. */
#include "engine/group.h"
#include "engine/stages.h"

#include "base/dtype.h"

enum wm_status reader_source(struct pipeline *p, const struct plan_source *src, struct source **source,
                             struct wm_error *err)
{
    const struct ckpt_file *file = &p->plan->models[src->model]->files[src->tensor->file];
    enum wm_status st = WM_OK;
    struct source **slot = &p->sources[src->model][src->tensor->file];

    pthread_mutex_lock(&p->lock);
    *source = *slot;
    pthread_mutex_unlock(&p->lock);
    if (*source)
        return WM_OK;
    TRY(source_open_file(source, file->path, &file->identity, p->args->options->direct_io, err));
    pthread_mutex_lock(&p->lock);
    if (*slot) { /* another reader was faster */
        source_close(*source);
        *source = *slot;
    }
    *slot = *source;
    pthread_mutex_unlock(&p->lock);
out:
    return st;
}

static enum wm_status read_tile(struct pipeline *p, struct run_job *job, size_t tile, uint64_t *n_bytes,
                                struct wm_error *err)
{
    const struct plan_job *pj = job->plan_job;
    uint64_t tile_elems = p->plan->memory.tile_elems, first = run_job_tile_elem(job, tile, tile_elems);
    uint64_t left = job->n_elems - tile * tile_elems, n_elems = left < tile_elems ? left : tile_elems;
    enum wm_status st = WM_OK;

    *n_bytes = 0;
    for (int s = 0; s < pj->n_sources; s++) {
        const struct plan_source *src = &pj->sources[s];
        size_t at = tile * (size_t)pj->n_sources + (size_t)s;
        uint64_t bits = dtype_bits(src->tensor->dtype);
        struct source *source;

        TRY(reader_source(p, src, &source, err));
        st = source_read(source, src->tensor->begin + first * bits / 8, (size_t)(n_elems * bits / 8),
                         p->slots + (size_t)job->slots[at] * p->plan->memory.slot_bytes, &job->data[at], err);
        if (st != WM_OK)
            goto out;
        *n_bytes += n_elems * bits / 8;
    }
out:
    return st;
}

void *reader_thread(void *arg)
{
    struct pipeline *p = arg;
    struct run_job *job;
    uint64_t n_bytes;
    size_t tile;

    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        struct wm_error err = WM_ERROR_INIT;
        double began;
        if (!schedule_take_read(p, &job, &tile)) {
            if (schedule_is_done(p))
                break;
            if (!p->stop)
                pthread_cond_wait(&p->can_read, &p->lock);
            continue;
        }
        pthread_cond_signal(&p->can_read); /* there may be more to read */
        pthread_mutex_unlock(&p->lock);
        began = file_now_seconds();
        if (job->n_members > 1)
            (void)group_read(p, job, &n_bytes, &err);
        else
            (void)read_tile(p, job, tile, &n_bytes, &err);
        began = file_now_seconds() - began;
        pthread_mutex_lock(&p->lock);
        p->read_busy += began;
        if (err.status != WM_OK) {
            schedule_fail(p, &err);
            break;
        }
        p->bytes_read += n_bytes;
        job->n_reading--;
        if (job->restarting)
            schedule_release_slots(p, job, tile);
        else
            run_job_arrived(job, tile);
        schedule_wake_compute(p, job);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}
