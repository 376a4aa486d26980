/*
 * device_statistics.c: the statistics passes of a CUDA device, seen from the host.
 *
 * What lives here: how many bytes of results a pass has, which kernel serves it, and where its results go in the state,
 * so that statistics_finish_pass cannot tell which backend ran. What it must not know: elements, streams' order.
 */
#include "statistics/device_passes.h"
#include "statistics/model_statistics.h"

#include <string.h>

/* ---- sizes -------------------------------------------------------------------------------------------------- */

static uint64_t count_active(const struct statistics *s)
{
    uint64_t n = 0;
    for (int i = 0; i < s->n_kth; i++)
        n += s->kth[i].pass == s->pass;
    return n;
}

static uint64_t gram_bytes(const struct merge_op *op, const struct statistics *s)
{
    uint64_t n_pairs = (uint64_t)s->n_pairs;
    if (op->axis == AXIS_TENSOR)
        return n_pairs * s->n_chunks * sizeof(double);
    if (op->axis == AXIS_COLUMNS)
        return n_pairs * s->vectors.n_vectors * sizeof(double);
    return (device_open_rows_at(s) + 2 * n_pairs * FIXED_SUM_LANES) * sizeof(double);
}

uint64_t device_pass_bytes(const struct merge_op *op, const struct statistics *s)
{
    switch (s->pass) {
    case STAT_GRAM: return gram_bytes(op, s);
    case STAT_KTH_COARSE: return count_active(s) * KTH_COARSE_BINS * sizeof(uint64_t);
    case STAT_KTH_FINE: return count_active(s) * KTH_FINE_BINS * sizeof(uint64_t);
    case STAT_KTH_TIES: return count_active(s) * s->n_tiles * sizeof(uint32_t);
    case STAT_KTH_CUT: return count_active(s) * (sizeof(uint64_t) + device_chunks(s->tile_elems) * sizeof(uint32_t));
    case STAT_KTH_GUESS: return count_active(s) * s->n_tiles * 2 * sizeof(uint32_t);
    case STAT_L1: return (uint64_t)s->n_l1 * 2 * s->n_chunks * sizeof(double);
    case STAT_KTH_WHOLE: return count_active(s) * sizeof(uint64_t);
    case STAT_KTH_SAMPLE:
    case STAT_READY: break;
    }
    return 0;
}

_Static_assert(METHOD_MAX_MODELS * sizeof(struct device_choice) <= DEVICE_SELECT_CHOICE_BYTES, "as device.h promises");

/* Other processes' tiles are not here, and nobody else sees what is found. */
void device_select_plan(const struct merge_op *op, const struct statistics *s, struct device_select *plan)
{
    const uint64_t n_models = count_active(s);

    *plan = (struct device_select){.n_inputs = merge_op_n_inputs(op)};
    if (s->pass != STAT_KTH_COARSE || s->reduce != NULL || s->tile_elems % TILE_CHUNK_ELEMS != 0 ||
        s->n_chunks > UINT32_MAX || s->tile_elems / TILE_CHUNK_ELEMS > UINT32_MAX)
        return;
    plan->fine_at = n_models * KTH_COARSE_BINS * sizeof(uint64_t);
    plan->choices_at = plan->fine_at + n_models * KTH_FINE_BINS * sizeof(uint64_t);
    plan->n_choice_bytes = n_models * sizeof(struct device_choice);
    plan->table_at = plan->choices_at + plan->n_choice_bytes;
    plan->n_table_bytes = (uint64_t)s->n_tiles * (uint64_t)plan->n_inputs * sizeof(void *);
    plan->chunks_at = plan->table_at + plan->n_table_bytes;
    plan->n_result_bytes = plan->chunks_at + n_models * s->n_chunks * sizeof(uint32_t);
}

/* ---- one tile ----------------------------------------------------------------------------------------------- */

cudaError_t device_pass_launch(const struct merge_op *op, const struct statistics *s, const struct merge_tile *tile,
                               void *results, cudaStream_t stream)
{
    if (tile->n_elems == 0)
        return cudaSuccess;
    switch (s->pass) {
    case STAT_GRAM:
        return op->axis == AXIS_TENSOR ? device_gram_launch(op, s, tile, results, stream)
                                       : device_vector_gram_launch(op, s, tile, results, stream);
    case STAT_L1: return device_l1_launch(op, s, tile, results, stream);
    case STAT_KTH_GUESS:
    case STAT_KTH_COARSE:
    case STAT_KTH_FINE:
    case STAT_KTH_TIES:
    case STAT_KTH_CUT: return device_kth_launch(s, tile, results, stream);
    case STAT_KTH_WHOLE: return device_whole_launch(s, tile, results, stream);
    case STAT_KTH_SAMPLE:
    case STAT_READY: break;
    }
    return cudaErrorInvalidValue;
}

cudaError_t device_model_launch(const struct merge_op *op, const struct model_statistics *ms,
                                const struct merge_tile *tile, uint64_t *counts, cudaStream_t stream)
{
    if (tile->n_elems == 0)
        return cudaSuccess;
    switch (ms->pass) {
    case MODEL_COARSE:
    case MODEL_FINE: return device_model_kth_launch(op, ms, tile, counts, stream);
    case MODEL_SIGNS: return device_model_signs_launch(op, ms, tile, counts, stream);
    case MODEL_READY: break;
    }
    return cudaErrorInvalidValue;
}

/* ---- results ------------------------------------------------------------------------------------------------ */

/* A device keeps no lists of values: tiles that say they met too many send ties through TIES. */
static void collect_kth(const struct statistics *s, struct kth *kth, uint64_t slot, const void *results)
{
    const uint64_t *counts = results;
    if (s->pass == STAT_KTH_COARSE) {
        memcpy(kth->histogram, counts + slot * KTH_COARSE_BINS, KTH_COARSE_BINS * sizeof *counts);
        kth->counting = KTH_ALL_BINS;
    } else if (s->pass == STAT_KTH_FINE) {
        memcpy(kth->histogram, counts + slot * KTH_FINE_BINS, KTH_FINE_BINS * sizeof *counts);
        for (size_t tile = 0; tile < s->n_tiles; tile++)
            kth->tiles[tile].n_values = KTH_TILE_VALUES + 1;
    } else if (s->pass == STAT_KTH_TIES) {
        for (size_t tile = 0; tile < s->n_tiles; tile++)
            kth->tiles[tile].n_equal = ((const uint32_t *)results)[slot * s->n_tiles + tile];
    } else if (s->pass == STAT_KTH_GUESS) {
        const uint32_t *above_and_equal = (const uint32_t *)results + 2 * slot * s->n_tiles;
        for (size_t tile = 0; tile < s->n_tiles; tile++) {
            kth->tiles[tile].n_greater = above_and_equal[2 * tile];
            kth->tiles[tile].n_equal = above_and_equal[2 * tile + 1];
        }
    } else if (s->pass == STAT_KTH_WHOLE) {
        kth->threshold = (uint32_t)counts[slot];
        kth->cut_element = counts[slot] >> 32;
    } else {
        kth->cut_element = counts[slot];
    }
}

/* Columns are finished by statistics_finish_pass, rows, as on the CPU, as soon as their sums are there. */
static void collect_gram(const struct merge_op *op, struct statistics *s, const double *results)
{
    if (op->axis == AXIS_TENSOR)
        memcpy(s->gram, results, gram_bytes(op, s));
    else if (op->axis == AXIS_COLUMNS)
        memcpy(s->vectors.sums, results, gram_bytes(op, s));
    else
        for (uint64_t row = 0; row < s->vectors.n_vectors; row++)
            statistics_vector_weights(op, s, row, results + row, (size_t)s->vectors.n_vectors);
}

void device_pass_collect(const struct merge_op *op, struct statistics *s, const void *results)
{
    if (s->pass == STAT_GRAM) {
        collect_gram(op, s, results);
        return;
    }
    if (s->pass == STAT_L1) {
        memcpy(s->l1, results, device_pass_bytes(op, s));
        return;
    }
    uint64_t slot = 0;
    for (int i = 0; i < s->n_kth; i++)
        if (s->kth[i].pass == s->pass)
            collect_kth(s, &s->kth[i], slot++, results);
}

/* These models need no pass more: statistics_finish_pass goes on with the others, or to what follows the search. */
void device_select_collect(struct statistics *s, const void *choices)
{
    const struct device_choice *choice = choices;
    for (int i = 0; i < s->n_kth; i++) {
        struct kth *kth = &s->kth[i];
        if (kth->pass != STAT_KTH_COARSE)
            continue;
        kth->threshold = choice->wanted;
        kth->cut_element = choice->element;
        kth->pass = STAT_READY;
        choice++;
    }
}

static void collect_count(const struct device_bad *seen, uint64_t *n, uint64_t *first)
{
    *n = seen->n;
    *first = seen->n != 0 ? UINT64_MAX - seen->first : 0;
}

void device_report_add(const struct device_bad *seen, int n_inputs, struct merge_report *report)
{
    struct merge_report tile;
    merge_report_init(&tile);
    for (int i = 0; i < n_inputs; i++)
        collect_count(&seen[1 + i], &tile.n_bad_in[i], &tile.first_bad_in[i]);
    collect_count(&seen[0], &tile.n_bad_out, &tile.first_bad_out);
    merge_report_add(report, &tile);
}

void device_report_collect(const struct device_report *device, struct merge_report *report)
{
    device_report_add(device->seen, TILE_MAX_INPUTS, report);
}
