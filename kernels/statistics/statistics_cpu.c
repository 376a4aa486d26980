/*
 * statistics_cpu.c: the statistics passes over one tile, on the CPU: sums.
 *
 * maths       L1     sum |d|, sum |kept d| with d = x_m - b
 *             GRAM   <v_i, v_j> of inputs or of deltas: whole tensors, rows or columns
 * shapes      any number of elements at any address; F32, F16, BF16 and F64, mixed as they come
 * bytes       width of the base (if any) and of each model read once per element
 * reduction   fp64 in the order of fixed_sum.h, or along each row or column
 * limits      rows and columns: tiles one after another
 * measured    AMD EPYC Zen 4, 2 threads, AVX-512, bf16, 2026-11-22, share of memcpy: L1 with masks of 2 models 25 %
 *             (0.67 ns an element), Gram matrix of 2 36 %
 *
 * The passes that look for a k-th magnitude are in select_kth_cpu.c and select_small_cpu.c.
 */
#include "common/draw_block.h"
#include "statistics/delta_block.h"
#include "statistics/select_kth.h"
#include "statistics/select_small.h"
#include "statistics/statistics.h"

#include <string.h>

_Static_assert(CPU_BLOCK_ELEMS % FIXED_SUM_BLOCK_ELEMS == 0, "sums walk a chunk in whole blocks");
_Static_assert(TILE_CHUNK_ELEMS % CPU_BLOCK_ELEMS == 0, "blocks do not cross chunks");

/* ---- L1 ----------------------------------------------------------------------------------------------------- */

/* Kept magnitudes of a block, 0 for the others, as fp32. */
static void kept_block(const struct merge_model *model, uint64_t element, size_t n, struct cpu_scratch *scratch,
                       const uint32_t *restrict magnitudes, float *restrict kept)
{
    if (model->keep == KEEP_RANDOM) {
        const unaligned_u16 *restrict draws = draw_block(scratch->draw_words[0], model->mask_key, element, n);
        const uint32_t keep_below = model->keep_below;
        for (size_t i = 0; i < n; i++)
            kept[i] = task_vector_keep_random(float_from_bits(magnitudes[i]), draws[i], keep_below);
        return;
    }
    size_t n_ties = element > model->tie_index            ? 0
                    : model->tie_index - element >= n - 1 ? n
                                                          : (size_t)(model->tie_index - element) + 1;
    const int32_t threshold = (int32_t)model->threshold;
    for (size_t i = 0; i < n_ties; i++)
        kept[i] = task_vector_keep_top(float_from_bits(magnitudes[i]), threshold - 1);
    for (size_t i = n_ties; i < n; i++)
        kept[i] = task_vector_keep_top(float_from_bits(magnitudes[i]), threshold);
}

/* One block of fixed_sum.h: adds the block's lane sums to `lanes`. */
static void add_sum_block(const float *restrict x, size_t n, double *restrict lanes)
{
    double sum[FIXED_SUM_LANES] = {0};
    size_t i = 0;
    for (; i + FIXED_SUM_LANES <= n; i += FIXED_SUM_LANES)
        for (size_t l = 0; l < FIXED_SUM_LANES; l++)
            sum[l] += (double)x[i + l];
    for (size_t l = 0; i + l < n; l++)
        sum[l] += (double)x[i + l];
    for (size_t l = 0; l < FIXED_SUM_LANES; l++)
        lanes[l] += sum[l];
}

static void l1_chunk(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile, size_t first,
                     struct cpu_scratch *scratch)
{
    size_t chunk = (size_t)((tile->first_elem + first) / TILE_CHUNK_ELEMS);
    size_t end = tile->n_elems - first < TILE_CHUNK_ELEMS ? tile->n_elems : first + TILE_CHUNK_ELEMS;
    memset(scratch->lanes, 0, (size_t)(2 * s->n_l1) * sizeof scratch->lanes[0]);
    for (; first < end; first += FIXED_SUM_BLOCK_ELEMS) {
        size_t n = end - first < FIXED_SUM_BLOCK_ELEMS ? end - first : FIXED_SUM_BLOCK_ELEMS;
        load_base(tile, first, n, scratch);
        for (int i = 0; i < s->n_l1; i++) {
            int m = s->l1_models[i];
            magnitude_block(tile, m, first, n, scratch->base, scratch->magnitudes);
            kept_block(&op->models[m], tile->first_elem + first, n, scratch, scratch->magnitudes, scratch->sum);
            add_sum_block((const float *)scratch->magnitudes, n, scratch->lanes[2 * i]);
            add_sum_block(scratch->sum, n, scratch->lanes[2 * i + 1]);
        }
    }
    for (int sum = 0; sum < 2 * s->n_l1; sum++)
        s->l1[(size_t)sum * s->n_chunks + chunk] = fixed_sum_lanes(scratch->lanes[sum]);
}

/* ---- GRAM --------------------------------------------------------------------------------------------------- */

/* The vectors of a run of elements: inputs, or deltas if the operation works on those. */
static void vector_block(const struct merge_op *op, const struct merge_tile *tile, size_t first, size_t n,
                         struct cpu_scratch *scratch)
{
    bool deltas = op->family == MERGE_TASK_VECTOR;
    if (deltas)
        load_base(tile, first, n, scratch);
    for (int m = 0; m < op->n_models; m++) {
        int input = m + (op->has_base ? 1 : 0);
        float *restrict v = scratch->inputs[m];
        const float *restrict base = scratch->base;
        load_block(block_at(tile->in[input], tile->in_dtype[input], first), tile->in_dtype[input], n, v);
        if (deltas)
            for (size_t i = 0; i < n; i++)
                v[i] = task_vector_delta(v[i], base[i]);
    }
}

static void add_dot_block(const float *restrict a, const float *b, size_t n, double *restrict lanes)
{
    double sum[FIXED_SUM_LANES] = {0};
    size_t i = 0;
    for (; i + FIXED_SUM_LANES <= n; i += FIXED_SUM_LANES)
        for (size_t l = 0; l < FIXED_SUM_LANES; l++)
            sum[l] += (double)a[i + l] * (double)b[i + l];
    for (size_t l = 0; i + l < n; l++)
        sum[l] += (double)a[i + l] * (double)b[i + l];
    for (size_t l = 0; l < FIXED_SUM_LANES; l++)
        lanes[l] += sum[l];
}

static void gram_chunk(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile, size_t first,
                       struct cpu_scratch *scratch)
{
    size_t chunk = (size_t)((tile->first_elem + first) / TILE_CHUNK_ELEMS);
    size_t end = tile->n_elems - first < TILE_CHUNK_ELEMS ? tile->n_elems : first + TILE_CHUNK_ELEMS;
    memset(scratch->lanes, 0, (size_t)s->n_pairs * sizeof scratch->lanes[0]);
    for (; first < end; first += FIXED_SUM_BLOCK_ELEMS) {
        size_t n = end - first < FIXED_SUM_BLOCK_ELEMS ? end - first : FIXED_SUM_BLOCK_ELEMS;
        vector_block(op, tile, first, n, scratch);
        for (int i = 0; i < op->n_models; i++)
            for (int j = i; j < op->n_models; j++)
                add_dot_block(scratch->inputs[i], scratch->inputs[j], n, scratch->lanes[gram_pair(i, j, op->n_models)]);
    }
    for (int p = 0; p < s->n_pairs; p++)
        s->gram[(size_t)p * s->n_chunks + chunk] = fixed_sum_lanes(scratch->lanes[p]);
}

/* A piece of one row: element c of the row belongs to lane c mod 16, each lane adds in ascending order. */
static void add_row_piece(const float *restrict a, const float *b, size_t n, uint64_t column, double *restrict lanes)
{
    size_t i = 0;
    for (; i < n && (column + i) % FIXED_SUM_LANES != 0; i++)
        lanes[(column + i) % FIXED_SUM_LANES] += (double)a[i] * (double)b[i];
    for (; i + FIXED_SUM_LANES <= n; i += FIXED_SUM_LANES)
        for (size_t l = 0; l < FIXED_SUM_LANES; l++)
            lanes[l] += (double)a[i + l] * (double)b[i + l];
    for (size_t l = 0; i + l < n; l++)
        lanes[l] += (double)a[i + l] * (double)b[i + l];
}

static void finish_row(const struct merge_op *op, struct statistics *s, uint64_t row)
{
    double sums[METHOD_MAX_MODELS * (METHOD_MAX_MODELS + 1) / 2];
    for (int p = 0; p < s->n_pairs; p++)
        sums[p] = fixed_sum_lanes(&s->vectors.sums[p * FIXED_SUM_LANES]);
    statistics_vector_weights(op, s, row, sums, 1);
    memset(s->vectors.sums, 0, (size_t)s->n_pairs * FIXED_SUM_LANES * sizeof *s->vectors.sums);
}

/* Tiles come in order, so the sums of a row that crosses tiles go on where they stopped. */
static void vector_gram_tile(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                             struct cpu_scratch *scratch)
{
    uint64_t row = tile->first_elem / op->row_elems, column = tile->first_elem % op->row_elems;
    for (size_t first = 0, n; first < tile->n_elems; first += n) {
        n = block_elems(tile, first);
        n = op->row_elems - column < n ? (size_t)(op->row_elems - column) : n;
        vector_block(op, tile, first, n, scratch);
        for (int i = 0; i < op->n_models; i++)
            for (int j = i; j < op->n_models; j++) {
                const float *restrict a = scratch->inputs[i], *b = scratch->inputs[j];
                size_t pair = (size_t)gram_pair(i, j, op->n_models);
                if (op->axis == AXIS_ROWS) {
                    add_row_piece(a, b, n, column, &s->vectors.sums[pair * FIXED_SUM_LANES]);
                } else {
                    double *restrict sums = &s->vectors.sums[pair * (size_t)op->row_elems + (size_t)column];
                    for (size_t e = 0; e < n; e++)
                        sums[e] += (double)a[e] * (double)b[e];
                }
            }
        column += n;
        if (column == op->row_elems) {
            if (op->axis == AXIS_ROWS)
                finish_row(op, s, row);
            column = 0;
            row++;
        }
    }
}

/* ---- the tile ----------------------------------------------------------------------------------------------- */

static void sum_tile(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                     struct cpu_scratch *scratch)
{
    for (size_t first = 0; first < tile->n_elems; first += TILE_CHUNK_ELEMS)
        if (s->pass == STAT_L1)
            l1_chunk(op, s, tile, first, scratch);
        else
            gram_chunk(op, s, tile, first, scratch);
}

void CPU_ISA_NAME(statistics_tile)(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                                   struct cpu_scratch *scratch)
{
    switch (s->pass) {
    case STAT_GRAM:
        if (op->axis != AXIS_TENSOR)
            vector_gram_tile(op, s, tile, scratch);
        else
            sum_tile(op, s, tile, scratch);
        break;
    case STAT_L1: sum_tile(op, s, tile, scratch); break;
    case STAT_KTH_WHOLE:
    case STAT_KTH_SAMPLE: CPU_ISA_NAME(select_small_tile)(s, tile, scratch); break;
    case STAT_KTH_COARSE:
    case STAT_KTH_FINE:
    case STAT_KTH_TIES:
    case STAT_KTH_CUT: CPU_ISA_NAME(select_kth_tile)(s, tile, scratch); break;
    case STAT_KTH_GUESS: /* guess_tile */
    case STAT_READY: break;
    }
}
