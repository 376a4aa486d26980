/*
 * backend.h: who executes a tile.
 *
 * What lives here: the table of functions between the pipeline and a device. The CPU fills it; other devices override
 * what they have kernels for. What it must not know: files, jobs, plans.
 */
#ifndef WM_ENGINE_BACKEND_H
#define WM_ENGINE_BACKEND_H

#include "base/error.h"
#include "methods/tile.h"

#include <stddef.h>

struct backend {
    const struct backend_ops *ops;
};

struct backend_ops {
    const char *(*describe)(const struct backend *backend); /* "cpu avx512"; static storage */
    /* Memory for tiles, aligned to SOURCE_ALIGN; NULL when there is none. */
    void *(*alloc)(struct backend *backend, size_t n_bytes);
    void (*free)(struct backend *backend, void *memory, size_t n_bytes);
    /* What one compute thread needs; NULL when out of memory. */
    void *(*thread_new)(struct backend *backend);
    void (*thread_free)(struct backend *backend, void *thread);
    /* One tile of the statistics' current pass; different tiles from different threads at once. */
    enum wm_status (*statistics)(struct backend *backend, void *thread, const struct merge_op *op,
                                 struct statistics *statistics, const struct merge_tile *tile, struct wm_error *err);
    /* The element-wise pass over one tile. Adds to *report. */
    enum wm_status (*combine)(struct backend *backend, void *thread, const struct merge_op *op,
                              const struct statistics *statistics, const struct merge_tile *tile,
                              struct merge_report *report, struct wm_error *err);
    void (*close)(struct backend *backend);
};

enum wm_status backend_open_cpu(struct backend **backend, struct wm_error *err);

#endif
