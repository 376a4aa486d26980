/*
 * backend_cuda_model.c: passes over the whole model on a GPU.
 *
 * What lives here: the counts of a pass on the device, from zeros before its first tile until they are added to the host's
 * after the last one. Tiles are streamed like those of a tensor that does not stay; they share nothing but the counts, so
 * that as many are on their way as there are slots. What it must not know: jobs, files, what is counted.
 */
#include "engine/backend_cuda.h"

/* Once a pass; without room for the counts the CPU counts, where all threads do. */
static enum wm_status begin_counting(struct backend *b, struct cuda_thread *t, struct model_statistics *ms,
                                     struct wm_error *err)
{
    enum wm_status st = WM_OK;
    size_t n_counts, n_bytes;

    if (t->counting != CUDA_NOT_COUNTING)
        return WM_OK;
    (void)model_statistics_counts(ms, &n_counts);
    n_bytes = n_counts * sizeof(uint64_t);
    if (n_bytes <= t->side_bytes)
        TRY(backend_cuda_take(b, t, n_bytes, &t->model_counts, err));
    t->counting = t->model_counts.at ? CUDA_COUNTING : CUDA_NO_ROOM_TO_COUNT;
    if (t->model_counts.at)
        CUDA(cudaMemsetAsync(t->model_counts.at, 0, n_bytes, t->compute), "clearing counts");
out:
    return st;
}

enum wm_status backend_cuda_submit_model(struct backend *b, struct cuda_thread *t, struct backend_task *task,
                                         struct wm_error *err)
{
    const bool small = task->op->n_elems < CUDA_MIN_ELEMS;
    struct merge_tile device;
    struct cuda_slot *slot;
    enum wm_status st = WM_OK;

    if (!small)
        TRY(begin_counting(b, t, task->model_statistics, err));
    if (small || t->counting == CUDA_NO_ROOM_TO_COUNT) {
        cpu_model_statistics_tile(task->op, task->model_statistics, &task->tile, t->scratch);
        goto out;
    }
    TRY(backend_cuda_stream_in(b, t, task, &device, err));
    slot = task->slot;
    CUDA(device_model_launch(task->op, task->model_statistics, &device, t->model_counts.at, t->compute),
         "launching statistics");
    CUDA(cudaEventRecord(slot->done, t->compute), "launching statistics");
out:
    return st;
}

/* Downloaded in pieces, through memory that the thread has anyway. */
static enum wm_status add_counts(struct backend *b, struct cuda_thread *t, struct model_statistics *ms,
                                 struct wm_error *err)
{
    const size_t most = CUDA_CHECK_BYTES / sizeof(uint64_t);
    const uint64_t *counts = t->model_counts.at;
    enum wm_status st = WM_OK;
    size_t n_counts;

    (void)model_statistics_counts(ms, &n_counts);
    for (size_t first = 0; first < n_counts; first += most) {
        size_t n = n_counts - first < most ? n_counts - first : most;
        CUDA(cudaMemcpyAsync(t->check, counts + first, n * sizeof *counts, cudaMemcpyDeviceToHost, t->compute),
             "downloading counts");
        CUDA(cudaStreamSynchronize(t->compute), "counting");
        model_statistics_add_counts(ms, first, (const uint64_t *)(const void *)t->check, n);
    }
out:
    return st;
}

enum wm_status backend_cuda_collect_model(struct backend *b, void *thread, struct model_statistics *model_statistics,
                                          struct wm_error *err)
{
    struct cuda_thread *t = thread;
    enum wm_status st = WM_OK;

    if (t->counting == CUDA_COUNTING && model_statistics)
        TRY(add_counts(b, t, model_statistics, err));
    if (t->counting == CUDA_COUNTING)
        backend_cuda_give(t, &t->model_counts);
    t->counting = CUDA_NOT_COUNTING;
out:
    return st;
}
