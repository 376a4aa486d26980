/*
 * backend_cuda_tiles.c: the way of one tile over a GPU.
 *
 * What lives here: uploads, launches and downloads of a tile, and the results of a statistics pass. Uploads, kernels and
 * downloads run on three streams that are ordered by events alone; the only waits are for the oldest tile and at the end of
 * a pass. What it must not know: jobs, files, how kernels work.
 */
#include "engine/backend_cuda.h"

#include "base/dtype.h"

#include <stdlib.h>
#include <string.h>

/* ---- one tile ----------------------------------------------------------------------------------------------------- */

/* What a tile's turn consists of. */
struct turn {
    bool statistics, combine;
};

static struct turn turn_of(const struct backend_task *task)
{
    enum stat_pass pass = task->statistics ? statistics_pass(task->statistics) : STAT_READY;
    if (task->model_statistics)
        return (struct turn){false, false};
    return (struct turn){pass != STAT_READY, pass == STAT_READY || pass == STAT_KTH_GUESS};
}

enum wm_status backend_cuda_bring_home(struct backend *b, struct cuda_thread *t, const struct cuda_tensor *x,
                                       const struct backend_task *task, struct merge_tile *tile, void **memory,
                                       struct wm_error *err)
{
    const size_t at = backend_cuda_tile_of(x, &task->tile) * (size_t)x->n_inputs;
    enum wm_status st = WM_OK;
    unsigned char *next;

    *tile = task->tile;
    next = *memory = malloc((size_t)x->n_inputs * t->slot_bytes);
    if (!next)
        return error_no_memory(err, "taking a tile from a GPU");
    for (int i = 0; i < x->n_inputs; i++) {
        size_t n_bytes = tile->n_elems * dtype_bits(tile->in_dtype[i]) / 8;
        CUDA(cudaMemcpyAsync(next, backend_cuda_slot_at(t, x->slots[at + (size_t)i]), n_bytes, cudaMemcpyDeviceToHost,
                             t->home),
             "taking a tile home");
        b->n_bytes += n_bytes;
        tile->in[i] = next;
        next += t->slot_bytes;
    }
    CUDA(cudaStreamSynchronize(t->home), "taking a tile home");
out:
    return st;
}

/* A tile that has left the host comes back for it. */
static enum wm_status on_cpu(struct backend *b, struct cuda_thread *t, struct backend_task *task, struct wm_error *err)
{
    const struct turn turn = turn_of(task);
    struct merge_tile tile = task->tile;
    enum wm_status st = WM_OK;
    void *memory = NULL;

    merge_report_init(&task->report);
    if (!tile.in[0])
        TRY(backend_cuda_bring_home(b, t, task->tensor, task, &tile, &memory, err));
    if (turn.statistics && turn.combine)
        cpu_guess_tile(task->op, task->statistics, &tile, t->scratch, &task->report);
    else if (turn.statistics)
        cpu_statistics_tile(task->op, task->statistics, &tile, t->scratch);
    else
        cpu_combine_tile(task->op, task->statistics, &tile, t->scratch, &task->report);
out:
    free(memory);
    return st;
}

/* n_result_bytes becomes 0 when there is no room. */
static enum wm_status place_results(struct backend *b, struct cuda_thread *t, struct cuda_tensor *x, uint64_t n_bytes,
                                    struct wm_error *err)
{
    enum wm_status st = WM_OK;

    x->n_result_bytes = n_bytes;
    if (n_bytes > x->results.n_bytes) {
        backend_cuda_give(t, &x->results);
        TRY(backend_cuda_take(b, t, n_bytes, &x->results, err));
        if (!x->results.at)
            x->n_result_bytes = 0;
    }
out:
    return st;
}

/* The results of a pass begin as zeros, once per pass. 0 bytes: the device has no kernel for it. */
static enum wm_status begin_results(struct backend *b, struct cuda_thread *t, struct cuda_tensor *x,
                                    const struct backend_task *task, struct wm_error *err)
{
    enum wm_status st = WM_OK;

    statistics_avoid_repeats(task->statistics); /* a device counts all bins: bets on samples are the CPU's */
    TRY(place_results(b, t, x, backend_cuda_select_plan(x, task), err));
    x->selects = x->n_result_bytes != 0;
    if (!x->selects)
        TRY(place_results(b, t, x, device_pass_bytes(task->op, task->statistics), err));
    x->results_of = statistics_pass(task->statistics);
    x->n_launched = 0;
    if (x->n_result_bytes)
        CUDA(cudaMemsetAsync(x->results.at, 0, x->n_result_bytes, t->compute), "clearing statistics");
out:
    return st;
}

/* Before the tile's inputs on the same stream: the event after these orders both. The source is pageable memory, which the
 * driver copies before it comes back, and lives until every tile was awaited. */
static enum wm_status upload_weights(struct backend *b, struct cuda_thread *t, struct cuda_tensor *x,
                                     const struct merge_op *op, struct wm_error *err)
{
    uint64_t n_vectors = op->axis == AXIS_ROWS ? op->n_rows : op->row_elems;
    size_t n_bytes = (size_t)(n_vectors * (uint64_t)op->n_models * sizeof(float));
    enum wm_status st = WM_OK;

    if (x->vector_weights.at || !op->vector_weights)
        return WM_OK;
    TRY(backend_cuda_take(b, t, n_bytes, &x->vector_weights, err));
    if (!x->vector_weights.at)
        goto out;
    CUDA(cudaMemcpyAsync(x->vector_weights.at, op->vector_weights, n_bytes, cudaMemcpyHostToDevice, t->upload),
         "uploading coefficients");
out:
    return st;
}

/* Puts the tile's inputs on the device (those that are not there yet) and their addresses into `device`. Of a tile that stays
 * nothing is needed on the host from then on. */
static enum wm_status upload_inputs(struct backend *b, struct cuda_thread *t, struct cuda_tensor *x,
                                    struct cuda_slot *slot, const struct backend_task *task, struct merge_tile *device,
                                    struct wm_error *err)
{
    const struct merge_tile *tile = &task->tile;
    enum wm_status st = WM_OK;

    for (int i = 0; i < x->n_inputs; i++) {
        size_t n_bytes = tile->n_elems * dtype_bits(tile->in_dtype[i]) / 8;
        size_t at = backend_cuda_tile_of(x, tile) * (size_t)x->n_inputs + (size_t)i;
        uint32_t where = x->resident ? x->slots[at] : (slot->inputs[i] = t->free_slots[--t->n_free]);
        void *memory = backend_cuda_slot_at(t, where);
        device->in[i] = memory;
        if (x->resident && x->uploaded[at])
            continue;
        CUDA(cudaMemcpyAsync(memory, tile->in[i], n_bytes, cudaMemcpyHostToDevice, t->upload), "uploading a tile");
        b->n_bytes += n_bytes;
        if (x->resident)
            x->uploaded[at] = 1;
    }
    if (x->resident && !x->stays[backend_cuda_tile_of(x, tile)])
        x->stays[backend_cuda_tile_of(x, tile)] = backend_cuda_check_keep(t, x, tile);
    CUDA(cudaEventRecord(slot->uploaded, t->upload), "uploading a tile");
    CUDA(cudaStreamWaitEvent(t->compute, slot->uploaded, 0), "uploading a tile");
out:
    return st;
}

static struct cuda_slot *take_slot(struct cuda_thread *t)
{
    for (int i = 0; i < CUDA_DEPTH; i++) {
        if (!t->slots[i].busy) {
            t->slots[i].busy = true;
            t->slots[i].selected = false;
            t->slots[i].age = t->submitted++;
            for (int k = 0; k < TILE_MAX_INPUTS; k++)
                t->slots[i].inputs[k] = CUDA_NO_SLOT;
            return &t->slots[i];
        }
    }
    return NULL; /* the caller keeps to backend->depth */
}

static void release_inputs(struct cuda_thread *t, struct cuda_slot *slot)
{
    for (int i = 0; i < TILE_MAX_INPUTS; i++) {
        if (slot->inputs[i] != CUDA_NO_SLOT)
            t->free_slots[t->n_free++] = slot->inputs[i];
        slot->inputs[i] = CUDA_NO_SLOT;
    }
}

/* There is always enough, since slots for streaming are never given to tensors that stay. */
enum wm_status backend_cuda_make_room(struct backend *b, struct cuda_thread *t, uint64_t n, struct wm_error *err)
{
    enum wm_status st = WM_OK;

    while (t->n_free < n) {
        struct cuda_slot *oldest = NULL;
        for (int i = 0; i < CUDA_DEPTH; i++) {
            struct cuda_slot *slot = &t->slots[i];
            if (slot->busy && slot->inputs[0] != CUDA_NO_SLOT && (!oldest || slot->age < oldest->age))
                oldest = slot;
        }
        if (!oldest) {
            st = error_set(err, WM_BUG, "a GPU has no slots although none is in use");
            goto out;
        }
        CUDA(cudaEventSynchronize(oldest->done), "computing");
        release_inputs(t, oldest);
    }
out:
    return st;
}

enum wm_status backend_cuda_stream_in(struct backend *b, struct cuda_thread *t, struct backend_task *task,
                                      struct merge_tile *device, struct wm_error *err)
{
    struct cuda_tensor streamed = {.n_inputs = merge_op_n_inputs(task->op)};
    enum wm_status st = WM_OK;

    TRY(backend_cuda_make_room(b, t, (uint64_t)streamed.n_inputs, err));
    task->slot = take_slot(t);
    *device = task->tile;
    TRY(upload_inputs(b, t, &streamed, task->slot, task, device, err));
out:
    return st;
}

static enum wm_status combine(struct backend *b, struct cuda_thread *t, struct cuda_tensor *x, struct cuda_slot *slot,
                              struct backend_task *task, struct merge_tile *device, struct wm_error *err)
{
    size_t n_bytes = task->tile.n_elems * dtype_bits(task->tile.out_dtype) / 8;
    enum wm_status st = WM_OK;

    device->out = slot->out;
    CUDA(cudaMemsetAsync(slot->report, 0, sizeof *slot->report, t->compute), "launching a merge");
    CUDA(device_combine_launch(task->op, device, x->vector_weights.at, slot->report, t->compute), "launching a merge");
    CUDA(cudaEventRecord(slot->computed, t->compute), "launching a merge");
    CUDA(cudaStreamWaitEvent(t->download, slot->computed, 0), "downloading a tile");
    CUDA(cudaMemcpyAsync(task->tile.out, slot->out, n_bytes, cudaMemcpyDeviceToHost, t->download),
         "downloading a tile");
    b->n_bytes += n_bytes;
    CUDA(cudaMemcpyAsync(slot->host_report, slot->report, sizeof *slot->report, cudaMemcpyDeviceToHost, t->download),
         "downloading a tile");
out:
    return st;
}

static enum wm_status launch(struct backend *b, struct cuda_thread *t, struct cuda_tensor *x, struct cuda_slot *slot,
                             struct backend_task *task, struct turn turn, struct wm_error *err)
{
    struct merge_tile device = task->tile;
    enum wm_status st = WM_OK;

    TRY(upload_inputs(b, t, x, slot, task, &device, err));
    if (turn.statistics) {
        CUDA(device_pass_launch(task->op, task->statistics, &device, x->results.at, t->compute),
             "launching statistics");
        if (++x->n_launched == x->n_tiles && x->selects)
            TRY(backend_cuda_select(b, t, x, slot, task, err));
    }
    if (turn.combine)
        TRY(combine(b, t, x, slot, task, &device, err));
    CUDA(cudaEventRecord(slot->done, turn.combine     ? t->download
                                     : slot->selected ? t->select
                                                      : t->compute),
         "launching a tile's work");
out:
    return st;
}

enum wm_status backend_cuda_submit(struct backend *b, void *thread, struct backend_task *task, struct wm_error *err)
{
    struct cuda_thread *t = thread;
    struct cuda_tensor *x = task->tensor;
    struct turn turn = turn_of(task);
    enum wm_status st = WM_OK;
    struct cuda_slot *slot;

    task->slot = NULL;
    if (task->model_statistics)
        return backend_cuda_submit_model(b, t, task, err);
    if (x->on_device && turn.statistics && x->results_of != statistics_pass(task->statistics))
        TRY(begin_results(b, t, x, task, err));
    if (x->on_device && turn.combine)
        TRY(upload_weights(b, t, x, task->op, err));
    if (!x->on_device || (turn.statistics && !x->n_result_bytes) ||
        (turn.combine && task->op->vector_weights && !x->vector_weights.at)) {
        st = on_cpu(b, t, task, err); /* too small, no kernel, or no room: the same bytes */
        goto out;
    }
    if (!x->resident)
        TRY(backend_cuda_make_room(b, t, (uint64_t)x->n_inputs, err));
    task->slot = slot = take_slot(t);
    st = launch(b, t, x, slot, task, turn, err);
out:
    return st;
}

enum wm_status backend_cuda_await(struct backend *b, void *thread, struct backend_task *task, struct wm_error *err)
{
    struct cuda_thread *t = thread;
    struct cuda_slot *slot = task->slot;
    const struct turn turn = turn_of(task);
    struct cuda_tensor *x = task->tensor;
    enum wm_status st = WM_OK;

    task->stays = x && x->stays && x->stays[backend_cuda_tile_of(x, &task->tile)];
    if (!slot)
        return WM_OK; /* the CPU did it */
    CUDA(cudaEventSynchronize(slot->done), "computing");
    release_inputs(t, slot);
    slot->busy = false;
    if (slot->selected)
        device_select_collect(task->statistics, slot->choices);
    if (turn.statistics && !x->selects)
        TRY(backend_cuda_check_counted(b, t, x, task, err));
    if (turn.combine) {
        merge_report_init(&task->report);
        device_report_collect(slot->host_report, &task->report);
        st = backend_cuda_check_merged(b, t, x, task, err);
    }
out:
    task->slot = NULL;
    return st;
}

enum wm_status backend_cuda_finish_pass(struct backend *b, void *thread, void *tensor, struct merge_op *op,
                                        struct statistics *statistics, enum stat_pass *next, struct wm_error *err)
{
    struct cuda_thread *t = thread;
    struct cuda_tensor *x = tensor;
    enum wm_status st = WM_OK;
    void *results = NULL;

    /* Every tile was awaited, so the results are there; on the compute stream the copy would wait for tiles of others. */
    if (x->on_device && x->n_result_bytes && !x->selects && x->results_of == statistics_pass(statistics)) {
        results = malloc(x->n_result_bytes);
        if (!results) {
            st = error_no_memory(err, "collecting statistics");
            goto out;
        }
        CUDA(cudaMemcpyAsync(results, x->results.at, x->n_result_bytes, cudaMemcpyDeviceToHost, t->home),
             "downloading statistics");
        CUDA(cudaStreamSynchronize(t->home), "downloading statistics");
        TRY(backend_cuda_check_pass(b, x, statistics, results, err));
        device_pass_collect(op, statistics, results);
    }
    x->results_of = STAT_READY;
    x->n_result_bytes = 0;
    *next = statistics_finish_pass(statistics, op);
out:
    free(results);
    return st;
}
