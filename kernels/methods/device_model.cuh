/*
 * device_model.cuh: one model of an operation, as kernels take it by value.
 *
 * What lives here: 48 bytes a model, so that 64 of them fit a kernel's 4 KB of arguments, and the two ways to keep an
 * element (largest magnitudes, random draw) in one form that needs no branch. What it must not know: kernels.
 */
#ifndef WM_KERNELS_DEVICE_MODEL_CUH
#define WM_KERNELS_DEVICE_MODEL_CUH

#include "common/philox.h"
#include "methods/task_vector_math.h"
#include "methods/tile.h"

#include <cuda_runtime.h>

/* Keeps an element when |delta| > threshold - (element < tie_end) and, if `random`, its draw is below keep_below. */
struct device_model {
    const void *x;
    uint64_t tie_end, mask_key;
    float weight, scale;
    uint32_t threshold, keep_below;
    int dtype, random;
};

static inline device_model device_model_of(const struct merge_op *op, int m, const struct merge_tile *tile)
{
    const struct merge_model *model = &op->models[m];
    int input = m + (op->has_base ? 1 : 0);
    device_model d = {};
    d.x = tile->in[input];
    d.dtype = static_cast<int>(tile->in_dtype[input]);
    d.weight = model->weight;
    d.scale = model->scale;
    d.random = model->keep == KEEP_RANDOM;
    d.mask_key = model->mask_key;
    d.keep_below = model->keep_below;
    d.tie_end = UINT64_MAX; /* with threshold 0: everything is kept */
    if (model->keep == KEEP_TOP) {
        d.threshold = model->threshold;
        d.tie_end = model->tie_index == UINT64_MAX ? UINT64_MAX : model->tie_index + 1;
    } else if (model->keep == KEEP_NONE) {
        d.threshold = FLOAT_ABS_MASK;
        d.tie_end = 0;
    }
    return d;
}

static __device__ inline int32_t keep_above(const device_model &model, uint64_t element)
{
    return static_cast<int32_t>(model.threshold) - (element < model.tie_end ? 1 : 0);
}

#endif
