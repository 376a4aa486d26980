/* device_check.c: see device_check.h. The layout of a pass's results is device_passes.h's. */
#include "methods/device_check.h"

#include "statistics/device_passes.h"

#include <string.h>

/* ---- the draw ----------------------------------------------------------------------------------------------- */

/* SplitMix64's last step (Steele, Lea, Flood, OOPSLA 2014, figure 16) over both numbers. */
bool device_sample_has(const struct device_sample *sample, uint64_t chunk)
{
    uint64_t x = sample->tensor + (chunk + 1) * 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return (x ^ (x >> 31)) % 1000 < sample->per_1000;
}

static uint64_t chunk_of(uint64_t element)
{
    return element / TILE_CHUNK_ELEMS;
}

static bool has_tile(const struct device_sample *sample, const struct statistics *s, size_t tile)
{
    return device_sample_has(sample, chunk_of(tile * s->tile_elems));
}

static size_t width_of(enum wm_dtype dtype)
{
    return dtype == WM_F64 ? 8 : dtype == WM_F32 ? 4 : 2;
}

/* The tile's chunk that begins at its element `first`, with its results in `out`. */
static struct merge_tile chunk_at(const struct merge_op *op, const struct merge_tile *tile, size_t first, void *out)
{
    struct merge_tile chunk = *tile;
    chunk.first_elem += first;
    chunk.n_elems = tile->n_elems - first < TILE_CHUNK_ELEMS ? tile->n_elems - first : TILE_CHUNK_ELEMS;
    for (int i = 0; i < merge_op_n_inputs(op); i++)
        chunk.in[i] = (const char *)tile->in[i] + first * width_of(tile->in_dtype[i]);
    chunk.out = out;
    return chunk;
}

/* ---- the element-wise pass ---------------------------------------------------------------------------------- */

bool device_check_combine(const struct merge_op *op, const struct merge_tile *tile, const struct device_sample *sample,
                          struct cpu_scratch *scratch, void *block, uint64_t *n_blocks, uint64_t *first_bad)
{
    const size_t width = width_of(tile->out_dtype);
    for (size_t first = 0; first < tile->n_elems; first += TILE_CHUNK_ELEMS) {
        struct merge_tile chunk = chunk_at(op, tile, first, block);
        struct merge_report report;
        if (!device_sample_has(sample, chunk_of(chunk.first_elem)))
            continue;
        merge_report_init(&report);
        cpu_combine_tile(op, NULL, &chunk, scratch, &report);
        ++*n_blocks;
        if (memcmp(block, (const char *)tile->out + first * width, chunk.n_elems * width) != 0) {
            *first_bad = chunk_of(chunk.first_elem);
            return false;
        }
    }
    return true;
}

/* ---- a statistics pass, tile by tile ------------------------------------------------------------------------- */

/* guess_tile counts and merges; the merged chunks are compared elsewhere, and here only take their place. */
static void guess_tile(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                       struct cpu_scratch *scratch, void *block)
{
    struct merge_report report;
    uint32_t n_greater[METHOD_MAX_MODELS] = {0}, n_equal[METHOD_MAX_MODELS] = {0};
    merge_report_init(&report);
    for (size_t first = 0; first < tile->n_elems; first += TILE_CHUNK_ELEMS) {
        struct merge_tile chunk = chunk_at(op, tile, first, block);
        cpu_guess_tile(op, s, &chunk, scratch, &report);
        for (int i = 0; i < s->n_kth; i++) {
            n_greater[i] += s->kth[i].tiles[tile->index].n_greater;
            n_equal[i] += s->kth[i].tiles[tile->index].n_equal;
        }
    }
    for (int i = 0; i < s->n_kth; i++) {
        s->kth[i].tiles[tile->index].n_greater = n_greater[i];
        s->kth[i].tiles[tile->index].n_equal = n_equal[i];
    }
}

static void whole_tile(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                       const struct device_sample *sample, struct cpu_scratch *scratch, void *block, uint64_t *n_blocks)
{
    if (!has_tile(sample, s, tile->index))
        return;
    if (s->pass == STAT_KTH_GUESS)
        guess_tile(op, s, tile, scratch, block);
    else
        cpu_statistics_tile(op, s, tile, scratch);
    *n_blocks += device_chunks(tile->n_elems);
}

void device_check_tile(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                       const struct device_sample *sample, struct cpu_scratch *scratch, void *block, uint64_t *n_blocks)
{
    switch (s->pass) {
    case STAT_GRAM:
        if (s->gram == NULL)
            break; /* rows or columns, whose sums need all tiles in order */
        /* fall through */
    case STAT_L1:
    case STAT_KTH_COARSE:
    case STAT_KTH_FINE:
        for (size_t first = 0; first < tile->n_elems; first += TILE_CHUNK_ELEMS) {
            struct merge_tile chunk = chunk_at(op, tile, first, NULL);
            if (!device_sample_has(sample, chunk_of(chunk.first_elem)))
                continue;
            cpu_statistics_tile(op, s, &chunk, scratch);
            ++*n_blocks;
        }
        break;
    case STAT_KTH_TIES:
    case STAT_KTH_CUT:
    case STAT_KTH_GUESS:
    case STAT_KTH_WHOLE: whole_tile(op, s, tile, sample, scratch, block, n_blocks); break;
    case STAT_KTH_SAMPLE: /* has no kernel */
    case STAT_READY: break;
    }
}

bool device_check_wants_tile(const struct statistics *s, const struct device_sample *sample,
                             const struct merge_tile *tile)
{
    const bool by_tiles =
        s->pass == STAT_KTH_TIES || s->pass == STAT_KTH_CUT || s->pass == STAT_KTH_GUESS || s->pass == STAT_KTH_WHOLE;
    return by_tiles && has_tile(sample, s, tile->index);
}

/* ---- a statistics pass, at its end --------------------------------------------------------------------------- */

/* Bit for bit, but for the payload of a NaN. */
static bool same_sum(double a, double b)
{
    uint64_t bits_a, bits_b;
    memcpy(&bits_a, &a, sizeof a);
    memcpy(&bits_b, &b, sizeof b);
    return bits_a == bits_b || (a != a && b != b);
}

/* Sums of chunks: n_sums rows of n_chunks. */
static bool same_sums(const struct statistics *s, const struct device_sample *sample, size_t first_tile, size_t n_tiles,
                      const double *cpu, const double *device, size_t n_sums)
{
    size_t first = (size_t)chunk_of(first_tile * s->tile_elems), end = first + n_tiles * chunk_of(s->tile_elems);
    for (size_t chunk = first; chunk < end && chunk < s->n_chunks; chunk++)
        for (size_t i = 0; device_sample_has(sample, chunk) && i < n_sums; i++)
            if (!same_sum(cpu[i * s->n_chunks + chunk], device[i * s->n_chunks + chunk]))
                return false;
    return true;
}

/* Counts of the drawn blocks are part of all counts. */
static bool contains(const uint64_t *all, const uint64_t *part, size_t n_bins)
{
    for (size_t bin = 0; bin < n_bins; bin++)
        if (all[bin] < part[bin])
            return false;
    return true;
}

static uint64_t sum_of(const uint64_t *counts, size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += counts[i];
    return sum;
}

/* The search of one model, which has place `slot` among those of the pass. */
static bool same_kth(const struct statistics *s, const struct kth *kth, uint64_t slot,
                     const struct device_sample *sample, size_t first_tile, size_t n_tiles, const void *results)
{
    const uint64_t *counts = results, first = first_tile * s->tile_elems, end = first + n_tiles * s->tile_elems;
    const uint64_t n_elems = (end < s->n_elems ? end : s->n_elems) - first;
    if (s->pass == STAT_KTH_COARSE) {
        counts += slot * KTH_COARSE_BINS;
        return sum_of(counts, KTH_COARSE_BINS) == n_elems && contains(counts, kth->histogram, KTH_COARSE_BINS);
    }
    if (s->pass == STAT_KTH_FINE) {
        counts += slot * KTH_FINE_BINS;
        return (n_elems < s->n_elems || sum_of(counts, KTH_FINE_BINS) == kth->n_in_bin) &&
               contains(counts, kth->histogram, KTH_FINE_BINS);
    }
    if (s->pass == STAT_KTH_WHOLE)
        return !has_tile(sample, s, 0) ||
               ((uint32_t)counts[slot] == kth->threshold && counts[slot] >> 32 == kth->cut_element);
    if (s->pass == STAT_KTH_CUT)
        return kth->cut_tile < first_tile || kth->cut_tile >= first_tile + n_tiles ||
               !has_tile(sample, s, kth->cut_tile) || counts[slot] == kth->cut_element;
    for (size_t tile = first_tile; tile < first_tile + n_tiles; tile++) {
        const uint32_t *per_tile = results;
        if (!has_tile(sample, s, tile))
            continue;
        if (s->pass == STAT_KTH_TIES && per_tile[slot * s->n_tiles + tile] != kth->tiles[tile].n_equal)
            return false;
        if (s->pass == STAT_KTH_GUESS && (per_tile[2 * (slot * s->n_tiles + tile)] != kth->tiles[tile].n_greater ||
                                          per_tile[2 * (slot * s->n_tiles + tile) + 1] != kth->tiles[tile].n_equal))
            return false;
    }
    return true;
}

bool device_check_pass(const struct statistics *s, const struct device_sample *sample, size_t first_tile,
                       size_t n_tiles, const void *results)
{
    uint64_t slot = 0;
    if (sample->per_1000 == 0)
        return true;
    if (s->pass == STAT_GRAM)
        return s->gram == NULL || same_sums(s, sample, first_tile, n_tiles, s->gram, results, (size_t)s->n_pairs);
    if (s->pass == STAT_L1)
        return same_sums(s, sample, first_tile, n_tiles, s->l1, results, 2 * (size_t)s->n_l1);
    for (int i = 0; i < s->n_kth; i++)
        if (s->kth[i].pass == s->pass && !same_kth(s, &s->kth[i], slot++, sample, first_tile, n_tiles, results))
            return false;
    return true;
}
