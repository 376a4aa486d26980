/*
 * work.c: what a kernel has to do, by which its time is judged.
 *
 * What lives here: the bytes that passes must read and write and the operations they must do, from what an operation is
 * and not from how a device does it. What it must not know: time.
 */
#include "base/dtype.h"
#include "measure/measure.h"

#define SAMPLE_ELEMS 16384u /* of a tile that a guess's sample looks at (kernels/statistics) */

uint64_t measure_elements_left(const struct merge_op *op, const struct statistics *s, uint64_t tile_elems)
{
    uint64_t n = 0;

    for (uint64_t first = 0, index = 0; first < op->n_elems; first += tile_elems, index++)
        if (!s || !statistics_tile_stands(s, (size_t)index))
            n += op->n_elems - first < tile_elems ? op->n_elems - first : tile_elems;
    return n;
}

uint64_t measure_input_bytes(const struct measure_device *device, int n_inputs)
{
    uint64_t n = 0;

    for (int i = 0; i < n_inputs; i++)
        n += dtype_bits(device->tensors.in_dtype[i]) / 8;
    return n;
}

/* Base and models are read in every tile that the pass needs, the cut of a model in one tile alone, a sample in a part of a
 * tile. Mixed types: every input takes part. */
void measure_pass_work(const struct measure_device *device, const struct merge_op *op, const struct statistics *s,
                       struct measure_row *row)
{
    enum stat_pass pass = statistics_pass(s);
    uint64_t tile_elems = device->tile_elems, n_elems = 0, n_needed = 0, n_models = 0, n_read;
    uint64_t first_tile = op->n_elems < tile_elems ? op->n_elems : tile_elems, n_inputs = (uint64_t)op->n_models;

    for (uint64_t first = 0, index = 0; first < op->n_elems; first += tile_elems, index++)
        if (statistics_needs_tile(s, (size_t)index)) {
            uint64_t n = op->n_elems - first < tile_elems ? op->n_elems - first : tile_elems;
            n_elems += pass == STAT_KTH_SAMPLE && n > SAMPLE_ELEMS ? SAMPLE_ELEMS : n;
            n_needed++;
        }
    for (int m = 0; m < op->n_models; m++) {
        enum merge_keep keep = op->models[m].keep;
        n_models += pass == STAT_GRAM || keep == KEEP_TOP || (pass == STAT_L1 && keep == KEEP_RANDOM);
    }
    n_inputs += op->has_base;
    n_read = pass == STAT_KTH_CUT ? (n_needed + n_models) * first_tile : n_elems * (n_models + op->has_base);
    row->n_bytes += n_read * measure_input_bytes(device, (int)n_inputs) / n_inputs;
    row->n_operations +=
        pass == STAT_KTH_CUT ? 2.0 * (double)(n_models * first_tile) : measure_operations(op, pass) * (double)n_elems;
    if (pass == STAT_KTH_GUESS) { /* merges as well */
        row->n_bytes += n_elems * (dtype_bits(device->tensors.dtype) / 8);
        row->n_operations += (measure_operations(op, STAT_READY) - op->n_models) * (double)n_elems;
    }
}

/* After COARSE the search reads base and models for FINE, and for a model of which not all equal elements are kept once more,
 * to count them (kernels/statistics/select_chain.cu). */
void measure_search_work(const struct measure_device *device, const struct merge_op *op, struct measure_row *row)
{
    uint64_t n_models = 0, n_cut = 0, n_inputs = (uint64_t)merge_op_n_inputs(op), n_reads;

    for (int m = 0; m < op->n_models; m++) {
        n_models += op->models[m].keep == KEEP_TOP;
        n_cut += op->models[m].keep == KEEP_TOP && op->models[m].tie_index + 1 < op->n_elems;
    }
    n_reads = n_models + 1 + (n_cut ? n_cut + 1 : 0);
    row->n_bytes += op->n_elems * n_reads * measure_input_bytes(device, (int)n_inputs) / n_inputs;
    row->n_operations += 2.0 * (double)(op->n_elems * (n_models + n_cut));
}

/* SIGNS looks at models that are not trimmed as well. */
void measure_model_pass_work(const struct measure_device *device, const struct merge_op *op,
                             const struct model_statistics *ms, struct measure_row *row)
{
    uint64_t n_bytes = dtype_bits(device->tensors.in_dtype[0]) / 8;

    for (int m = 0; m < op->n_models; m++)
        if (ms->pass == MODEL_SIGNS || ms->search_of[op->models[m].index] >= 0)
            n_bytes += dtype_bits(device->tensors.in_dtype[m + 1]) / 8;
    row->n_bytes += n_bytes * op->n_elems;
    row->n_operations += measure_model_operations(op, ms->pass) * (double)op->n_elems;
}
