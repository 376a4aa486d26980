/*
 * backend_run.h: a tensor through a backend, as the engine drives it.
 *
 * What lives here: passes over the tiles of one tensor, as many at once as the backend takes. What it must not know: which
 * backend it is, and what the right result is.
 */
#ifndef WM_TESTS_BACKEND_RUN_H
#define WM_TESTS_BACKEND_RUN_H

#include "device_cases.h"
#include "engine/backend.h"

struct tiles_run {
    uint64_t tile_elems;
    bool speculate;
    int n_guessed, n_stand; /* tiles that GUESS merged; of these, those that are right */
    int n_stayed;           /* tiles that were looked at without the host's bytes */
    struct merge_report report;
    enum wm_status status;
};

UNUSED_OK static void fill_tile(const struct merge_op *op, const struct merge_tile *arrays, uint64_t tile_elems,
                                size_t index, bool with_output, struct merge_tile *tile)
{
    uint64_t first = index * tile_elems;

    *tile = *arrays;
    tile->index = index;
    tile->first_elem = first;
    tile->n_elems = (size_t)(op->n_elems - first < tile_elems ? op->n_elems - first : tile_elems);
    for (int i = 0; i < merge_op_n_inputs(op); i++)
        tile->in[i] = (const char *)arrays->in[i] + first * dtype_width(arrays->in_dtype[i]);
    tile->out = with_output ? (char *)arrays->out + first * dtype_width(arrays->out_dtype) : NULL;
}

/* One pass over all tiles that need it, as many at once as the backend takes. */
UNUSED_OK static void pass_over_tiles(struct backend *b, void *thread, void *tensor, struct merge_op *op,
                                      struct statistics *s, const struct merge_tile *arrays, struct tiles_run *run,
                                      struct merge_report *reports, bool *stays)
{
    const enum stat_pass pass = s ? statistics_pass(s) : STAT_READY;
    const size_t n_tiles = (size_t)((op->n_elems + run->tile_elems - 1) / run->tile_elems);
    struct backend_task tasks[BACKEND_MAX_DEPTH];
    struct wm_error err = WM_ERROR_INIT;
    size_t n_begun = 0, n_ended = 0, next = 0;

    while (run->status == WM_OK && (next < n_tiles || n_ended < n_begun)) {
        if (next < n_tiles && n_begun - n_ended < (size_t)b->depth) {
            struct backend_task *task = &tasks[n_begun % BACKEND_MAX_DEPTH];
            size_t tile = next++;
            if (pass == STAT_READY ? s && statistics_tile_stands(s, tile) : !statistics_needs_tile(s, tile)) {
                run->n_stand += pass == STAT_READY;
                continue;
            }
            *task = (struct backend_task){.op = op, .statistics = s, .tensor = tensor};
            fill_tile(op, arrays, run->tile_elems, tile, pass == STAT_READY || pass == STAT_KTH_GUESS, &task->tile);
            for (int i = 0; stays[tile] && i < merge_op_n_inputs(op); i++)
                task->tile.in[i] = NULL;
            run->n_stayed += stays[tile];
            run->status = b->ops->submit(b, thread, task, &err);
            run->n_guessed += pass == STAT_KTH_GUESS;
            n_begun++;
            continue;
        }
        struct backend_task *oldest = &tasks[n_ended++ % BACKEND_MAX_DEPTH];
        run->status = b->ops->await(b, thread, oldest, &err);
        stays[oldest->tile.index] |= oldest->stays;
        if (pass == STAT_READY || pass == STAT_KTH_GUESS)
            reports[oldest->tile.index] = oldest->report;
    }
}

UNUSED_OK static void run_tensor(struct backend *b, void *thread, struct merge_op *op, const struct merge_tile *arrays,
                                 struct tiles_run *run)
{
    const size_t n_tiles = (size_t)((op->n_elems + run->tile_elems - 1) / run->tile_elems);
    struct backend_tensor_info info = {.n_tiles = n_tiles,
                                       .n_inputs = merge_op_n_inputs(op),
                                       .n_elems = op->n_elems,
                                       .tile_elems = run->tile_elems,
                                       .has_statistics = statistics_first_pass(op) != STAT_READY};
    struct merge_report *reports = calloc(n_tiles, sizeof *reports);
    bool *stays = calloc(n_tiles, sizeof *stays);
    struct statistics *s = info.has_statistics ? statistics_new(op, run->tile_elems) : NULL;
    enum stat_pass next = s ? statistics_pass(s) : STAT_READY;
    struct wm_error err = WM_ERROR_INIT;
    void *tensor = NULL;

    assert_non_null(reports);
    assert_non_null(stays);
    assert_int_equal(b->ops->tensor_new(b, thread, &info, &tensor, &err), WM_OK);
    if (run->speculate && s) {
        assert_true(statistics_can_speculate(op, run->tile_elems));
        statistics_speculate(s);
        next = statistics_pass(s);
    }
    while (next != STAT_READY && run->status == WM_OK) {
        pass_over_tiles(b, thread, tensor, op, s, arrays, run, reports, stays);
        if (run->status == WM_OK)
            run->status = b->ops->finish_pass(b, thread, tensor, op, s, &next, &err);
    }
    if (run->status == WM_OK)
        pass_over_tiles(b, thread, tensor, op, s, arrays, run, reports, stays);
    merge_report_init(&run->report);
    for (size_t tile = 0; tile < n_tiles; tile++)
        merge_report_add(&run->report, &reports[tile]);
    if (run->status != WM_OK && b->ops->abandon)
        b->ops->abandon(b, thread);
    b->ops->tensor_free(b, thread, tensor);
    statistics_free(s);
    op->vector_weights = NULL;
    free(reports);
    free(stays);
}

#endif
