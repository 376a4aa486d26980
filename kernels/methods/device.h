/*
 * device.h: the kernels of a CUDA device, as the host sees them.
 *
 * What lives here: for each pass of a tile one launch that only enqueues work on a stream, and the plain functions that
 * take a pass's results home. Everything is C, so that the engine needs no CUDA C. What it must not know: which stream
 * follows which, who owns memory, files.
 *
 * A statistics pass on a device: `device_pass_bytes` of zeroed device memory hold the pass's results for one tensor;
 * every tile's launch adds to them (integers, or per-chunk doubles written once); after the last tile they are copied to
 * the host and `device_pass_collect` puts them where the CPU driver would have, so that statistics_finish_pass and with
 * it every later byte is the same. Passes that a device has no kernel for (device_pass_bytes returns 0) run on the CPU.
 */
#ifndef WM_KERNELS_DEVICE_H
#define WM_KERNELS_DEVICE_H

#include "methods/tile.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* cudaErrorNoKernelImageForDevice (or cudaErrorInvalidDeviceFunction): the build has no code that the current device runs. */
cudaError_t device_has_code(void);

/* What the element-wise pass saw of one input, or of the results; zeroed device memory before the launch. */
struct device_bad {
    unsigned long long n,
        first; /* first: UINT64_MAX - element, so that zero means none and atomicMax finds the lowest */
};
struct device_report {
    struct device_bad seen[1 + TILE_MAX_INPUTS]; /* [0] results, [1 + i] input i; a plain copy on the host */
};
/* The first n_inputs inputs and the results. */
void device_report_add(const struct device_bad *seen, int n_inputs, struct merge_report *report);
void device_report_collect(const struct device_report *device, struct merge_report *report);

/* Bytes of results of the current pass for the whole tensor, at most; 0: no kernel, use the CPU. Host only. */
uint64_t device_pass_bytes(const struct merge_op *op, const struct statistics *s);
/* One tile of the current pass. `tile` and `results` hold device pointers (16-byte aligned or not: unaligned inputs are
 * read by a slower path); op and s are host memory and may change as soon as the call returns. */
cudaError_t device_pass_launch(const struct merge_op *op, const struct statistics *s, const struct merge_tile *tile,
                               void *results, cudaStream_t stream);
/* `results` is the host's copy of device_pass_bytes bytes, after every tile of the pass. Host only. */
void device_pass_collect(const struct merge_op *op, struct statistics *s, const void *results);

/* A search for k-th magnitudes that ends on the device: after COARSE's launches for all tiles of a tensor that lie on the
 * device, one more finds thresholds and tie indexes, and STAT_KTH_FINE, TIES and CUT do not come. Where its results lie,
 * in bytes from the beginning; COARSE's own are the first. */
struct device_select {
    uint64_t n_result_bytes; /* of COARSE and the search, instead of device_pass_bytes; 0: the host searches */
    uint64_t fine_at, chunks_at;
    uint64_t table_at, n_table_bytes;    /* the inputs' addresses on the device, [n_tiles][n_inputs]: uploaded before */
    uint64_t choices_at, n_choice_bytes; /* downloaded afterwards */
    int n_inputs;
};
#define DEVICE_SELECT_CHOICE_BYTES ((size_t)24 * METHOD_MAX_MODELS) /* at most */
/* Host only, at any time of the pass. */
void device_select_plan(const struct merge_op *op, const struct statistics *s, struct device_select *plan);
/* `table` is the host's copy. All else as for device_pass_launch. */
cudaError_t device_select_launch(const struct statistics *s, const struct device_select *plan, const void *const *table,
                                 const enum wm_dtype *in_dtype, void *results, cudaStream_t stream);
/* `choices` is the host's copy, instead of device_pass_collect; statistics_finish_pass follows. Host only. */
void device_select_collect(struct statistics *s, const void *choices);

/* The element-wise pass over one tile. `vector_weights` is the device's copy of op->vector_weights, or NULL. */
cudaError_t device_combine_launch(const struct merge_op *op, const struct merge_tile *tile, const float *vector_weights,
                                  struct device_report *report, cudaStream_t stream);

/* One tile of the current pass of the whole model's statistics. `counts` is device memory for the counts that
 * model_statistics_counts has on the host, zeroed before the first tile of a pass; the other pointers as above. */
struct model_statistics;
cudaError_t device_model_launch(const struct merge_op *op, const struct model_statistics *ms,
                                const struct merge_tile *tile, uint64_t *counts, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
