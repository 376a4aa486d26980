/*
 * select_small_cpu.c: k-th magnitudes without histograms of the whole tensor, over one tile, on the CPU.
 *
 * maths       WHOLE    threshold and tie index of a tensor that is this one tile
 *             SAMPLE   some magnitudes of the tile
 *             GUESS    how many |x_m - b| are above and equal to a guessed threshold, and the element-wise pass with it
 * shapes      WHOLE: up to KTH_WHOLE_ELEMS elements; else any number at any address; F32, F16, BF16 and F64, mixed
 * bytes       width of the base and of each model read once per element, in GUESS for both purposes
 * reduction   integers: order-free
 * limits      fewer than 2^32 elements in a tile
 * measured    see bench/RESULTS.md, "Speculation"
 */
#include "statistics/delta_block.h"
#include "statistics/select_small.h"
#include "statistics/select_values.h"

#include <string.h>

_Static_assert((size_t)KTH_WHOLE_ELEMS <= (size_t)CPU_HISTOGRAM_BINS, "magnitudes of a small tensor fit one histogram");
_Static_assert(KTH_SAMPLE_TILE_ELEMS % CPU_BLOCK_ELEMS == 0, "samples are whole blocks");

/* ---- WHOLE -------------------------------------------------------------------------------------------------- */

/* Of the elements equal to the threshold the first `rank` are kept: the index of the last of these. */
static uint64_t last_kept(const uint32_t *magnitudes, uint32_t threshold, size_t rank)
{
    size_t i = 0;
    while (rank > 0)
        rank -= magnitudes[i++] == threshold;
    return i - 1;
}

static void whole_model(struct kth *kth, const struct merge_tile *tile, struct cpu_scratch *scratch)
{
    /* Two histograms' memory, left as zeros: in order for the tie index, and again to select from. */
    uint32_t *magnitudes = scratch->histograms, *values = magnitudes + CPU_HISTOGRAM_BINS;
    const size_t n = tile->n_elems;
    size_t n_greater, n_equal;
    for (size_t first = 0; first < n; first += CPU_BLOCK_ELEMS) {
        load_base(tile, first, block_elems(tile, first), scratch);
        magnitude_block(tile, kth->model, first, block_elems(tile, first), scratch->base, magnitudes + first);
    }
    memcpy(values, magnitudes, n * sizeof *values);
    kth->threshold = select_value(values, n, (size_t)kth->rank, &n_greater, &n_equal);
    size_t n_kept = (size_t)kth->rank - n_greater;
    kth->cut_element = n_kept == n_equal ? n - 1 : last_kept(magnitudes, kth->threshold, n_kept);
    memset(magnitudes, 0, n * sizeof *magnitudes);
    memset(values, 0, n * sizeof *values);
}

/* ---- SAMPLE ------------------------------------------------------------------------------------------------- */

static void sample_model(const struct statistics *s, struct kth *kth, const struct merge_tile *tile,
                         struct cpu_scratch *scratch)
{
    uint32_t *row = kth_sample(kth) + (size_t)statistics_sample_row(s, tile->index) * KTH_SAMPLE_TILE_ELEMS;
    size_t n_blocks = tile->n_elems / CPU_BLOCK_ELEMS, n_taken = KTH_SAMPLE_TILE_ELEMS / CPU_BLOCK_ELEMS;
    n_taken = n_blocks < n_taken ? n_blocks : n_taken;
    for (size_t b = 0; b < n_taken; b++) {
        size_t first = b * n_blocks / n_taken * CPU_BLOCK_ELEMS;
        load_base(tile, first, CPU_BLOCK_ELEMS, scratch);
        magnitude_block(tile, kth->model, first, CPU_BLOCK_ELEMS, scratch->base, row + b * CPU_BLOCK_ELEMS);
    }
    kth->tiles[tile->index].n_values = (uint32_t)(n_taken * CPU_BLOCK_ELEMS);
}

/* ---- GUESS -------------------------------------------------------------------------------------------------- */

static void guess_block(const struct merge_tile *tile, const struct kth *kth, size_t first, size_t n,
                        const float *restrict base, uint32_t *n_greater, uint32_t *n_equal)
{
    enum wm_dtype dtype = tile->in_dtype[kth->model + 1];
    const void *x = block_at(tile->in[kth->model + 1], dtype, first);
    const int32_t threshold = (int32_t)kth->threshold;
    uint32_t greater = 0, equal = 0;
#define LOOP(constant)                                                                                                 \
    for (size_t i = 0; i < n; i++) {                                                                                   \
        int32_t magnitude = task_vector_magnitude(task_vector_delta(load_elem(x, constant, i), base[i]));              \
        greater += magnitude > threshold;                                                                              \
        equal += magnitude == threshold;                                                                               \
    }
    CONVERT_BY_DTYPE(dtype, LOOP)
#undef LOOP
    *n_greater += greater;
    *n_equal += equal;
}

static void count_chunk(struct statistics *s, const struct merge_tile *tile, size_t first, size_t end,
                        struct cpu_scratch *scratch)
{
    for (; first < end; first += CPU_BLOCK_ELEMS) {
        size_t n = end - first < CPU_BLOCK_ELEMS ? end - first : CPU_BLOCK_ELEMS;
        load_base(tile, first, n, scratch);
        for (int i = 0; i < s->n_kth; i++) {
            struct kth_tile *counts = &s->kth[i].tiles[tile->index];
            guess_block(tile, &s->kth[i], first, n, scratch->base, &counts->n_greater, &counts->n_equal);
        }
    }
}

/* Counting and merging take turns chunk by chunk, so that the second finds the inputs in a cache. */
void CPU_ISA_NAME(guess_tile)(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                              struct cpu_scratch *scratch, struct merge_report *report)
{
    for (int i = 0; i < s->n_kth; i++)
        s->kth[i].tiles[tile->index].n_greater = s->kth[i].tiles[tile->index].n_equal = 0;
    for (size_t first = 0; first < tile->n_elems; first += TILE_CHUNK_ELEMS) {
        size_t end = tile->n_elems - first < TILE_CHUNK_ELEMS ? tile->n_elems : first + TILE_CHUNK_ELEMS;
        struct merge_tile chunk = *tile;
        count_chunk(s, tile, first, end, scratch);
        chunk.first_elem += first;
        chunk.n_elems = end - first;
        for (int input = 0; input < merge_op_n_inputs(op); input++)
            chunk.in[input] = block_at(tile->in[input], tile->in_dtype[input], first);
        chunk.out = (char *)tile->out + first * float_dtype_bytes(tile->out_dtype);
        CPU_ISA_NAME(combine_tile)(op, &chunk, scratch, report);
    }
}

/* ---- the tile ----------------------------------------------------------------------------------------------- */

void CPU_ISA_NAME(select_small_tile)(struct statistics *s, const struct merge_tile *tile, struct cpu_scratch *scratch)
{
    for (int i = 0; i < s->n_kth; i++)
        if (s->pass == STAT_KTH_WHOLE)
            whole_model(&s->kth[i], tile, scratch);
        else
            sample_model(s, &s->kth[i], tile, scratch);
}
