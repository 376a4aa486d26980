/*
 * device_group.h: many small tensors in few launches on a CUDA device, as the host sees them.
 *
 * What lives here: rounds of work over a group of tensors. A round is one upload of a table (what each tensor is, and which
 * tensor each block works on), at most three launches whatever the number of tensors, and one download of results. As long
 * as any tensor still needs statistics a round runs the next pass of each of these; the last round is the element-wise
 * pass of all. What it must not know: which stream follows which, who owns memory.
 *
 *     do {
 *         device_group_plan(tensors, n, table, &round);     upload the table, clear the results
 *         device_group_launch(&round, ...);                 download the results
 *         device_group_collect(tensors, n, results);        statistics_finish_pass where a pass was done
 *     } while (!round.is_last);
 */
#ifndef WM_KERNELS_DEVICE_GROUP_H
#define WM_KERNELS_DEVICE_GROUP_H

#include "methods/device.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DEVICE_GROUP_TENSORS 256
#define DEVICE_GROUP_ELEMS   65536
#define DEVICE_GROUP_MODELS  8
/* Enough for every group, on the host and on the device. */
#define DEVICE_GROUP_TABLE_BYTES  ((size_t)320 << 10)
#define DEVICE_GROUP_RESULT_BYTES ((size_t)192 << 10)

/* A whole tensor of 1 to DEVICE_GROUP_ELEMS elements. */
struct device_group_tensor {
    const struct merge_op *op;
    struct statistics *statistics; /* NULL: none; else made for one tile of at least DEVICE_GROUP_ELEMS elements */
    struct merge_tile tile;        /* device pointers, at any address */
    struct merge_report *report;   /* added to in the last round */
};

enum device_group_pass { GROUP_GRAM, GROUP_KTH, GROUP_L1, GROUP_COMBINE, GROUP_N_PASSES };

struct device_group_round {
    bool is_last;
    size_t n_table_bytes, n_result_bytes;
    size_t blocks_at[GROUP_N_PASSES]; /* in the table, bytes */
    unsigned n_blocks[GROUP_N_PASSES];
};

/* False: a group cannot hold a tensor with this operation. */
bool device_group_takes(const struct merge_op *op);
/* Host only; `table` has DEVICE_GROUP_TABLE_BYTES bytes. The state of the statistics is only looked at. */
void device_group_plan(const struct device_group_tensor *tensors, size_t n_tensors, void *table,
                       struct device_group_round *round);
/* `table` is the device's copy, `results` zeroed device memory; both 16-byte aligned. */
cudaError_t device_group_launch(const struct device_group_round *round, const void *table, void *results,
                                cudaStream_t stream);
/* Host only. After a round that is not the last: statistics_finish_pass follows for every tensor with a pass to finish. */
void device_group_collect(const struct device_group_tensor *tensors, size_t n_tensors, const void *results);

#ifdef __cplusplus
}
#endif
#endif
