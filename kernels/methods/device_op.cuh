/*
 * device_op.cuh: an operation on one tile, as kernels take it.
 *
 * What lives here: the numbers of struct merge_op and struct merge_tile that arithmetic on elements needs, with pointers of
 * a device, and how to fill them in. What it must not know: kernels.
 */
#ifndef WM_KERNELS_DEVICE_OP_CUH
#define WM_KERNELS_DEVICE_OP_CUH

#include "methods/device.h"
#include "methods/device_model.cuh"

/* Everything but the models. */
struct device_op_head {
    const void *base; /* NULL: none */
    void *out;
    const float *vector_weights; /* NULL: none */
    struct device_bad *report;   /* [0] results, [1 + i] input i */
    size_t n_elems;
    uint64_t first_elem, row_elems;
    float zero, divisor, lambda, plus_from; /* zero: +0 or -0, whichever starts a sum; adding -0 changes nothing */
    int base_dtype, out_dtype, n_models, by_rows;
    bool task_vector, consensus, normalize;
};

/* With room for some models: a kernel has 4 KB of arguments. */
template <int MAX_MODELS> struct device_op_of : device_op_head {
    device_model models[MAX_MODELS];
};

/* From pointers of a device. */
template <int MAX_MODELS>
static inline void device_op_fill(device_op_of<MAX_MODELS> *a, const struct merge_op *op, const struct merge_tile *tile,
                                  const float *vector_weights, struct device_bad *report)
{
    a->base = op->has_base ? tile->in[0] : nullptr;
    a->base_dtype = op->has_base ? static_cast<int>(tile->in_dtype[0]) : 0;
    a->out = tile->out;
    a->out_dtype = tile->out_dtype;
    a->vector_weights = vector_weights;
    a->report = report;
    a->n_elems = tile->n_elems;
    a->first_elem = tile->first_elem;
    a->row_elems = op->row_elems;
    a->by_rows = op->axis == AXIS_ROWS;
    a->zero = op->sum_from_zero ? 0.0f : -0.0f;
    a->divisor = op->divisor;
    a->lambda = op->lambda;
    a->plus_from = op->plus_from;
    a->n_models = op->n_models;
    a->task_vector = op->family == MERGE_TASK_VECTOR;
    a->consensus = op->consensus;
    a->normalize = op->normalize;
    for (int m = 0; m < op->n_models; m++) {
        a->models[m] = device_model_of(op, m, tile);
        if (!a->models[m].random)
            a->models[m].keep_below = 65536; /* above every draw */
    }
}

#endif
