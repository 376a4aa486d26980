/*
 * statistics_cpu.c: the statistics passes over one tile, on the CPU.
 *
 * maths       COARSE, FINE   counts of |x_m - b| by its fp32 bits: upper 16 of 31, then lower 15 inside one bin
 *             TIES, CUT      elements equal to the threshold: how many in the tile, where the last kept one is
 *             L1             sum |d|, sum |kept d|            GRAM   <v_i, v_j> of inputs or of deltas
 * shapes      any number of elements at any address; F32, F16, BF16 and F64, mixed as they come
 * bytes       width of the base and of each model read once per pass and element
 * reduction   counts are integers; sums are fp64 in the order of fixed_sum.h, or along each row or column
 * limits      fewer than 2^32 elements in a tile
 * measured    see kernels/README.md
 *
 * Histograms belong to the thread (scratch) and are added to the tensor's atomically, bins in use only.
 */
#include "common/cpu_dispatch.h"
#include "common/draw_block.h"
#include "convert/convert_block.h"
#include "methods/task_vector_math.h"
#include "statistics/statistics.h"

#include <string.h>

_Static_assert(CPU_BLOCK_ELEMS % FIXED_SUM_BLOCK_ELEMS == 0, "sums walk a chunk in whole blocks");
_Static_assert(TILE_CHUNK_ELEMS % CPU_BLOCK_ELEMS == 0, "blocks do not cross chunks");

static size_t block_elems(const struct merge_tile *tile, size_t first)
{
    return tile->n_elems - first < CPU_BLOCK_ELEMS ? tile->n_elems - first : CPU_BLOCK_ELEMS;
}

static void load_base(const struct merge_tile *tile, size_t first, size_t n, struct cpu_scratch *scratch)
{
    load_block(block_at(tile->in[0], tile->in_dtype[0], first), tile->in_dtype[0], n, scratch->base);
}

/* Bits of |x_m - b| of a block whose base is loaded. */
static void magnitude_block(const struct merge_tile *tile, int model, size_t first, size_t n,
                            const float *restrict base, uint32_t *restrict magnitudes)
{
    enum wm_dtype dtype = tile->in_dtype[model + 1];
    const void *x = block_at(tile->in[model + 1], dtype, first);
#define LOOP(constant)                                                                                                 \
    for (size_t i = 0; i < n; i++)                                                                                     \
    magnitudes[i] = (uint32_t)task_vector_magnitude(task_vector_delta(load_elem(x, constant, i), base[i]))
    CONVERT_BY_DTYPE(dtype, LOOP)
#undef LOOP
}

/* ---- COARSE ------------------------------------------------------------------------------------------------- */

static uint32_t *histogram_of(struct cpu_scratch *scratch, int slot)
{
    return scratch->histograms + (size_t)slot * CPU_HISTOGRAM_COPIES * CPU_HISTOGRAM_BINS;
}

/* The bins of a tile that are not zero: bin 0, and lowest..highest. */
struct bin_range {
    uint32_t lowest, highest;
};

static void key_block(const uint32_t *restrict magnitudes, size_t n, uint16_t *restrict keys, struct bin_range *range)
{
    uint16_t lowest = UINT16_MAX, highest = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t key = (uint16_t)(magnitudes[i] >> KTH_FINE_BITS);
        uint16_t below = (uint16_t)(key - 1u); /* zero becomes the largest */
        keys[i] = key;
        lowest = below < lowest ? below : lowest;
        highest = key > highest ? key : highest;
    }
    if (lowest < range->lowest)
        range->lowest = lowest;
    if (highest > range->highest)
        range->highest = highest;
}

static void count_keys(const uint16_t *restrict keys, size_t n, uint32_t *restrict histogram)
{
    uint32_t *restrict even = histogram, *restrict odd = histogram + CPU_HISTOGRAM_BINS;
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        uint64_t four;
        memcpy(&four, keys + i, sizeof four);
        even[four & 0xffffu]++;
        odd[(four >> 16) & 0xffffu]++;
        even[(four >> 32) & 0xffffu]++;
        odd[four >> 48]++;
    }
    for (; i < n; i++)
        even[keys[i]]++;
}

static void flush_bin(uint64_t *total, uint32_t *histogram, size_t bin)
{
    uint64_t count = (uint64_t)histogram[bin] + histogram[CPU_HISTOGRAM_BINS + bin];
    if (count == 0)
        return;
    histogram[bin] = 0;
    histogram[CPU_HISTOGRAM_BINS + bin] = 0;
    __atomic_fetch_add(&total[bin], count, __ATOMIC_RELAXED);
}

static void coarse_tile(struct statistics *s, const struct merge_tile *tile, struct cpu_scratch *scratch)
{
    for (int group = 0; group < s->n_kth; group += CPU_HISTOGRAM_MODELS) {
        int n_group = s->n_kth - group < CPU_HISTOGRAM_MODELS ? s->n_kth - group : CPU_HISTOGRAM_MODELS;
        struct bin_range ranges[CPU_HISTOGRAM_MODELS];
        for (int g = 0; g < n_group; g++)
            ranges[g] = (struct bin_range){CPU_HISTOGRAM_BINS - 1, 0};
        for (size_t first = 0; first < tile->n_elems; first += CPU_BLOCK_ELEMS) {
            size_t n = block_elems(tile, first);
            load_base(tile, first, n, scratch);
            for (int g = 0; g < n_group; g++) {
                magnitude_block(tile, s->kth[group + g].model, first, n, scratch->base, scratch->magnitudes);
                key_block(scratch->magnitudes, n, scratch->keys, &ranges[g]);
                count_keys(scratch->keys, n, histogram_of(scratch, g));
            }
        }
        for (int g = 0; g < n_group; g++) {
            uint64_t *total = s->kth[group + g].histogram;
            flush_bin(total, histogram_of(scratch, g), 0);
            for (size_t bin = (size_t)ranges[g].lowest + 1; bin <= ranges[g].highest; bin++)
                flush_bin(total, histogram_of(scratch, g), bin);
        }
    }
}

/* ---- FINE --------------------------------------------------------------------------------------------------- */

/* How many are in the chosen bin, and how many equal `value`. */
static void count_block(const uint32_t *restrict magnitudes, size_t n, uint32_t bin, uint32_t value, uint32_t *in_bin,
                        uint32_t *equal)
{
    uint32_t n_bin = 0, n_equal = 0;
    for (size_t i = 0; i < n; i++) {
        n_bin += magnitudes[i] >> KTH_FINE_BITS == bin;
        n_equal += magnitudes[i] == value;
    }
    *in_bin = n_bin;
    *equal = n_equal;
}

/* Usually a bin holds one value (bf16 deltas): comparing whole vectors with it counts a block without a histogram. Any
 * other value in the block sends its members through the thread's histogram. */
static void fine_model(struct kth *kth, const struct merge_tile *tile, struct cpu_scratch *scratch)
{
    uint32_t *histogram = histogram_of(scratch, 0);
    uint32_t guess = UINT32_MAX, lowest = KTH_FINE_BINS, highest = 0;
    for (size_t first = 0; first < tile->n_elems; first += CPU_BLOCK_ELEMS) {
        size_t n = block_elems(tile, first);
        uint32_t in_bin, equal;
        load_base(tile, first, n, scratch);
        magnitude_block(tile, kth->model, first, n, scratch->base, scratch->magnitudes);
        count_block(scratch->magnitudes, n, kth->coarse_bin, guess, &in_bin, &equal);
        if (in_bin == equal) {
            if (equal > 0)
                histogram[guess & (KTH_FINE_BINS - 1)] += equal;
            continue;
        }
        uint32_t n_members = 0;
        for (size_t i = 0; i < n; i++) { /* without a branch: every magnitude is stored, members advance */
            scratch->keys[n_members] = (uint16_t)(scratch->magnitudes[i] & (KTH_FINE_BINS - 1));
            n_members += scratch->magnitudes[i] >> KTH_FINE_BITS == kth->coarse_bin;
        }
        for (uint32_t i = 0; i < n_members; i++) {
            uint32_t low = scratch->keys[i];
            histogram[low]++;
            lowest = low < lowest ? low : lowest;
            highest = low > highest ? low : highest;
        }
        guess = (kth->coarse_bin << KTH_FINE_BITS) | scratch->keys[0];
    }
    struct kth_tile *list = &kth->tiles[tile->index];
    list->n_values = 0;
    for (uint32_t low = lowest; low <= highest && low < KTH_FINE_BINS; low++) {
        uint32_t count = histogram[low];
        if (count == 0)
            continue;
        histogram[low] = 0;
        __atomic_fetch_add(&kth->histogram[low], count, __ATOMIC_RELAXED);
        if (list->n_values < KTH_TILE_VALUES) {
            list->values[list->n_values].low_bits = (uint16_t)low;
            list->values[list->n_values].count = count;
        }
        if (list->n_values <= KTH_TILE_VALUES)
            list->n_values++;
    }
}

/* ---- TIES and CUT ------------------------------------------------------------------------------------------- */

static uint32_t count_equal(const uint32_t *restrict magnitudes, size_t n, uint32_t value)
{
    uint32_t n_equal = 0;
    for (size_t i = 0; i < n; i++)
        n_equal += magnitudes[i] == value;
    return n_equal;
}

static void ties_model(struct kth *kth, const struct merge_tile *tile, struct cpu_scratch *scratch)
{
    uint32_t n_equal = 0;
    for (size_t first = 0; first < tile->n_elems; first += CPU_BLOCK_ELEMS) {
        size_t n = block_elems(tile, first);
        load_base(tile, first, n, scratch);
        magnitude_block(tile, kth->model, first, n, scratch->base, scratch->magnitudes);
        n_equal += count_equal(scratch->magnitudes, n, kth->threshold);
    }
    kth->tiles[tile->index].n_equal = n_equal;
}

static void cut_model(struct kth *kth, const struct merge_tile *tile, struct cpu_scratch *scratch)
{
    uint64_t left = kth->cut_rank;
    for (size_t first = 0; first < tile->n_elems; first += CPU_BLOCK_ELEMS) {
        size_t n = block_elems(tile, first);
        load_base(tile, first, n, scratch);
        magnitude_block(tile, kth->model, first, n, scratch->base, scratch->magnitudes);
        uint32_t n_equal = count_equal(scratch->magnitudes, n, kth->threshold);
        if (n_equal < left) {
            left -= n_equal;
            continue;
        }
        size_t i = 0;
        while (left > 0)
            left -= scratch->magnitudes[i++] == kth->threshold;
        kth->cut_element = tile->first_elem + first + i - 1;
        return;
    }
}

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
                add_dot_block(scratch->inputs[i], scratch->inputs[j], n,
                              scratch->lanes[gram_pair(i, j, op->n_models)]);
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
    double sums[METHOD_MAX_MODELS * (METHOD_MAX_MODELS + 1) / 2], gram[METHOD_MAX_MODELS * METHOD_MAX_MODELS];
    for (int p = 0; p < s->n_pairs; p++)
        sums[p] = fixed_sum_lanes(&s->vectors.sums[p * FIXED_SUM_LANES]);
    statistics_fill_gram(sums, 1, op->n_models, gram);
    op->method->coefficients(op, gram, &s->vectors.weights[row * (uint64_t)op->n_models]);
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
    case STAT_KTH_COARSE: coarse_tile(s, tile, scratch); break;
    case STAT_KTH_FINE:
        for (int i = 0; i < s->n_kth; i++)
            fine_model(&s->kth[i], tile, scratch);
        break;
    case STAT_KTH_TIES:
        for (int i = 0; i < s->n_kth; i++)
            if (s->kth[i].needs_ties)
                ties_model(&s->kth[i], tile, scratch);
        break;
    case STAT_KTH_CUT:
        for (int i = 0; i < s->n_kth; i++)
            if (s->kth[i].needs_cut && s->kth[i].cut_tile == tile->index)
                cut_model(&s->kth[i], tile, scratch);
        break;
    case STAT_READY: break;
    }
}
