/*
 * select_kth_cpu.c: the passes that find a k-th magnitude, over one tile, on the CPU.
 *
 * maths       COARSE, FINE   counts of |x_m - b| by its fp32 bits: upper 16 of 31, then lower 15 inside one bin
 *             TIES, CUT      elements equal to the threshold: how many in the tile, where the last kept one is
 * shapes      any number of elements at any address; F32, F16, BF16 and F64, mixed as they come
 * bytes       width of the base and of each model read once per pass and element (CUT: in one tile)
 * reduction   integers: order-free
 * limits      fewer than 2^32 elements in a tile
 * measured    AMD EPYC Zen 4, 2 threads, AVX-512, bf16, 2 models, 2026-11-22, share of memcpy: COARSE with a bracket
 *             65 % (0.26 ns an element), over all bins about 17 % (0.9 ns), FINE about 60 %
 *
 * A histogram costs one dependent memory access per element and model. COARSE avoids most of them: the first tile's
 * thread takes a sample, which names a bracket of bins around the wanted rank and the commonest values in it. From then
 * on vector compares count what is above the bracket and what equals one of these values, and only the rest inside the
 * bracket goes through a histogram. The counts are exact, so a bad sample can cost a repeated pass but never a wrong
 * answer: the state machine sees that the rank is not inside the bracket.
 */
#include "statistics/delta_block.h"
#include "statistics/histogram_block.h"
#include "statistics/select_kth.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

/* Magnitudes lo..hi except some: what is left for a histogram when the exceptions are counted by comparing. */
struct bracket {
    uint32_t lo, hi, atoms[KTH_ATOMS];
};

/* Appends those of a block to `members`, which has room for n + 16; returns how many. */
static size_t collect_members(const uint32_t *restrict magnitudes, size_t n, const struct bracket *bracket,
                              uint32_t *restrict members)
{
    const uint32_t lo = bracket->lo, width = bracket->hi - bracket->lo;
    size_t n_members = 0, i = 0;
#ifdef __AVX512F__
    /* Compress in a register and store all of it: the memory form of the instruction is microcoded on Zen 4. */
    for (; i + 16 <= n; i += 16) {
        __m512i magnitude = _mm512_loadu_si512(magnitudes + i);
        __m512i offset = _mm512_sub_epi32(magnitude, _mm512_set1_epi32((int)lo));
        __mmask16 member = _mm512_cmple_epu32_mask(offset, _mm512_set1_epi32((int)width));
        for (int a = 0; a < KTH_ATOMS; a++)
            member = _mm512_mask_cmpneq_epi32_mask(member, magnitude, _mm512_set1_epi32((int)bracket->atoms[a]));
        _mm512_storeu_si512(members + n_members, _mm512_maskz_compress_epi32(member, magnitude));
        n_members += (size_t)__builtin_popcount(member);
    }
#endif
    for (; i < n; i++) { /* without a branch: every magnitude is stored, members advance */
        members[n_members] = magnitudes[i];
        n_members += (magnitudes[i] - lo <= width) & (magnitudes[i] != bracket->atoms[0]) &
                     (magnitudes[i] != bracket->atoms[1]) & (magnitudes[i] != bracket->atoms[2]);
    }
    return n_members;
}

/* ---- COARSE: all bins --------------------------------------------------------------------------------------- */

static void count_all_bins(struct kth *kth, const struct merge_tile *tile, size_t first, size_t n,
                           struct cpu_scratch *scratch, int slot, struct bin_range *range)
{
    magnitude_block(tile, kth->model, first, n, scratch->base, scratch->magnitudes);
    key_block(scratch->magnitudes, n, scratch->keys, range);
    count_keys(scratch->keys, n, histogram_of(scratch, slot));
}

/* ---- COARSE: a bracket -------------------------------------------------------------------------------------- */

/* Half the bracket's width as a share of the elements. A sample of 32 K knows a rank to about 0.3 %; the rest is room
 * for a first tile that is unlike the others. */
#define BRACKET_MARGIN 0.04

/* The bins of ranks rank - margin and rank + margin in a sample, as magnitudes. Empties the histogram. */
static void choose_bracket(struct bracket *bracket, uint32_t *histogram, const struct bin_range *range, double rank,
                           double margin)
{
    uint32_t hi_bin = UINT32_MAX, lo_bin = 0;
    bool has_lo = false;
    double above = 0.0;
    for (uint32_t bin = range->highest;; bin = bin > range->lowest + 1 ? bin - 1 : 0) {
        above += (double)take_bin(histogram, bin);
        if (hi_bin == UINT32_MAX && above >= rank - margin)
            hi_bin = rank > margin ? bin : KTH_COARSE_BINS - 1;
        if (!has_lo && above >= rank + margin) {
            lo_bin = bin;
            has_lo = true;
        }
        if (bin == 0)
            break;
    }
    bracket->lo = lo_bin << KTH_FINE_BITS;
    bracket->hi = (hi_bin << KTH_FINE_BITS) | (KTH_FINE_BINS - 1);
}

/* The commonest values of a sample's members. Counted by a hash without chains: values that share a place pass for the
 * one seen first, which may waste an atom but costs no exactness. */
static void choose_atoms(struct bracket *bracket, const uint32_t *members, size_t n, uint32_t *restrict histogram)
{
    uint32_t counts[KTH_ATOMS] = {0};
    for (size_t i = 0; i < n; i++)
        histogram[(members[i] * 0x9E3779B1u) >> 16]++;
    for (size_t i = 0; i < n; i++) {
        uint32_t *place = &histogram[(members[i] * 0x9E3779B1u) >> 16], count = *place, value = members[i];
        *place = 0;
        for (int a = 0; a < KTH_ATOMS; a++)
            if (count > counts[a]) {
                uint32_t less = counts[a], lesser = bracket->atoms[a];
                counts[a] = count;
                bracket->atoms[a] = value;
                count = less;
                value = lesser;
            }
    }
}

static void sample_bracket(struct kth *kth, uint64_t n_elems, const struct merge_tile *tile,
                           struct cpu_scratch *scratch)
{
    uint32_t *histogram = histogram_of(scratch, 0);
    struct bracket bracket = {0, 0, {UINT32_MAX, UINT32_MAX, UINT32_MAX}}; /* no magnitude */
    struct bin_range range = BIN_RANGE_EMPTY;
    size_t n_blocks = tile->n_elems / CPU_BLOCK_ELEMS, n_taken = CPU_SAMPLE_ELEMS / CPU_BLOCK_ELEMS;
    n_taken = n_blocks < n_taken ? n_blocks : n_taken;
    for (size_t b = 0; b < n_taken; b++) {
        size_t first = b * n_blocks / n_taken * CPU_BLOCK_ELEMS;
        load_base(tile, first, CPU_BLOCK_ELEMS, scratch);
        count_all_bins(kth, tile, first, CPU_BLOCK_ELEMS, scratch, 0, &range);
        memcpy(scratch->sample + b * CPU_BLOCK_ELEMS, scratch->magnitudes, sizeof scratch->magnitudes);
    }
    double n_sample = (double)(n_taken * CPU_BLOCK_ELEMS);
    choose_bracket(&bracket, histogram, &range, (double)kth->rank / (double)n_elems * n_sample,
                   BRACKET_MARGIN * n_sample);
    size_t n_members = collect_members(scratch->sample, n_taken * CPU_BLOCK_ELEMS, &bracket, scratch->members);
    choose_atoms(&bracket, scratch->members, n_members, histogram);
    kth->lo = bracket.lo;
    kth->hi = bracket.hi;
    memcpy(kth->atoms, bracket.atoms, sizeof kth->atoms);
}

/* The first tile decides for all; tiles that come meanwhile wait, which takes less than their own counting. */
static void decide_counting(struct statistics *s, const struct merge_tile *tile, struct cpu_scratch *scratch)
{
    enum { FEWEST_BLOCKS = 16 };
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < s->n_kth; i++) {
        struct kth *kth = &s->kth[i];
        if (kth->counting != KTH_UNDECIDED)
            continue;
        kth->counting = tile->n_elems >= FEWEST_BLOCKS * CPU_BLOCK_ELEMS ? KTH_BRACKET : KTH_ALL_BINS;
        if (kth->counting == KTH_BRACKET)
            sample_bracket(kth, s->n_elems, tile, scratch);
    }
    pthread_mutex_unlock(&s->lock);
}

struct bracket_counts {
    uint32_t above, inside, atoms[KTH_ATOMS];
};

/* Everything by comparing: two or three vector instructions a count. Signed, as task_vector_magnitude explains; lo - 1
 * is -1 for 0, and no magnitude equals an atom of UINT32_MAX. */
static void compare_block(const struct merge_tile *tile, int model, size_t first, size_t n, const float *restrict base,
                          const struct bracket *bracket, struct bracket_counts *counts)
{
    enum wm_dtype dtype = tile->in_dtype[model + 1];
    const void *x = block_at(tile->in[model + 1], dtype, first);
    const int32_t hi = (int32_t)bracket->hi, below = (int32_t)bracket->lo - 1;
    const int32_t atom0 = (int32_t)bracket->atoms[0], atom1 = (int32_t)bracket->atoms[1];
    const int32_t atom2 = (int32_t)bracket->atoms[2];
    uint32_t above = 0, from_lo = 0, n0 = 0, n1 = 0, n2 = 0;
#define LOOP(constant)                                                                                                 \
    for (size_t i = 0; i < n; i++) {                                                                                   \
        int32_t magnitude = task_vector_magnitude(task_vector_delta(load_elem(x, constant, i), base[i]));              \
        above += magnitude > hi;                                                                                       \
        from_lo += magnitude > below;                                                                                  \
        n0 += magnitude == atom0;                                                                                      \
        n1 += magnitude == atom1;                                                                                      \
        n2 += magnitude == atom2;                                                                                      \
    }
    CONVERT_BY_DTYPE(dtype, LOOP)
#undef LOOP
    *counts = (struct bracket_counts){above, from_lo - above, {n0, n1, n2}};
}

/* What one tile's walk collects for one model. */
struct coarse_walk {
    uint64_t n_above, n_greater[KTH_ATOMS];
    struct bin_range range;
    struct bracket bracket;
    uint32_t atoms[KTH_ATOMS];
};

static uint32_t count_greater(const uint32_t *restrict values, size_t n, uint32_t than)
{
    uint32_t n_greater = 0;
    for (size_t i = 0; i < n; i++)
        n_greater += values[i] > than;
    return n_greater;
}

static void count_bracket(struct kth *kth, const struct merge_tile *tile, size_t first, size_t n,
                          struct cpu_scratch *scratch, int slot, struct coarse_walk *walk)
{
    struct bracket_counts counts;
    uint32_t n_others, *restrict histogram = histogram_of(scratch, slot);
    compare_block(tile, kth->model, first, n, scratch->base, &walk->bracket, &counts);
    walk->n_above += counts.above;
    n_others = counts.inside;
    for (int a = 0; a < KTH_ATOMS; a++) {
        walk->atoms[a] += counts.atoms[a];
        n_others -= counts.atoms[a];
    }
    if (n_others == 0)
        return;
    magnitude_block(tile, kth->model, first, n, scratch->base, scratch->magnitudes);
    size_t n_members = collect_members(scratch->magnitudes, n, &walk->bracket, scratch->members);
    for (size_t i = 0; i < n_members; i++)
        histogram[scratch->members[i] >> KTH_FINE_BITS]++;
    for (int a = 0; a < KTH_ATOMS; a++)
        walk->n_greater[a] += count_greater(scratch->members, n_members, walk->bracket.atoms[a]);
}

static void coarse_group(struct kth *const *group, int n_group, const struct merge_tile *tile,
                         struct cpu_scratch *scratch)
{
    struct coarse_walk walks[CPU_HISTOGRAM_MODELS];
    for (int g = 0; g < n_group; g++) {
        walks[g] = (struct coarse_walk){.range = BIN_RANGE_EMPTY, .bracket = {group[g]->lo, group[g]->hi, {0}}};
        memcpy(walks[g].bracket.atoms, group[g]->atoms, sizeof group[g]->atoms);
    }
    for (size_t first = 0; first < tile->n_elems; first += CPU_BLOCK_ELEMS) {
        size_t n = block_elems(tile, first);
        load_base(tile, first, n, scratch);
        for (int g = 0; g < n_group; g++)
            if (group[g]->counting == KTH_BRACKET)
                count_bracket(group[g], tile, first, n, scratch, g, &walks[g]);
            else
                count_all_bins(group[g], tile, first, n, scratch, g, &walks[g].range);
    }
    for (int g = 0; g < n_group; g++) {
        struct kth *kth = group[g];
        if (kth->counting == KTH_BRACKET) {
            memcpy(kth->tiles[tile->index].atoms, walks[g].atoms, sizeof walks[g].atoms);
            __atomic_fetch_add(&kth->n_above, walks[g].n_above, __ATOMIC_RELAXED);
            for (int a = 0; a < KTH_ATOMS; a++)
                __atomic_fetch_add(&kth->n_greater[a], walks[g].n_greater[a], __ATOMIC_RELAXED);
            walks[g].range.highest = kth->hi >> KTH_FINE_BITS;
            walks[g].range.lowest = kth->lo >> KTH_FINE_BITS > 0 ? (kth->lo >> KTH_FINE_BITS) - 1 : 0;
        }
        flush_histogram(kth->histogram, histogram_of(scratch, g), &walks[g].range);
    }
}

static void coarse_tile(struct statistics *s, const struct merge_tile *tile, struct cpu_scratch *scratch)
{
    struct kth *group[CPU_HISTOGRAM_MODELS];
    int n_group = 0;
    decide_counting(s, tile, scratch);
    for (int i = 0; i < s->n_kth; i++) {
        if (s->kth[i].pass == STAT_KTH_COARSE)
            group[n_group++] = &s->kth[i];
        if (n_group == CPU_HISTOGRAM_MODELS || (n_group > 0 && i == s->n_kth - 1)) {
            coarse_group(group, n_group, tile, scratch);
            n_group = 0;
        }
    }
}

/* ---- FINE --------------------------------------------------------------------------------------------------- */

/* Usually a bin holds one value, or few (bf16 deltas): the last ones met are counted by comparing, and only other values
 * go through the thread's histogram. */
static void fine_model(struct kth *kth, const struct merge_tile *tile, struct cpu_scratch *scratch)
{
    uint32_t *histogram = histogram_of(scratch, 0), next_atom = 0, lowest = KTH_FINE_BINS, highest = 0;
    const uint32_t first_of_bin = kth->coarse_bin << KTH_FINE_BITS;
    struct bracket bin = {first_of_bin, first_of_bin | (KTH_FINE_BINS - 1), {UINT32_MAX, UINT32_MAX, UINT32_MAX}};
    for (size_t first = 0; first < tile->n_elems; first += CPU_BLOCK_ELEMS) {
        size_t n = block_elems(tile, first);
        struct bracket_counts counts;
        load_base(tile, first, n, scratch);
        compare_block(tile, kth->model, first, n, scratch->base, &bin, &counts);
        uint32_t n_others = counts.inside;
        for (int a = 0; a < KTH_ATOMS; a++) {
            if (counts.atoms[a] > 0)
                histogram[bin.atoms[a] - first_of_bin] += counts.atoms[a];
            n_others -= counts.atoms[a];
        }
        if (n_others == 0)
            continue;
        magnitude_block(tile, kth->model, first, n, scratch->base, scratch->magnitudes);
        size_t n_members = collect_members(scratch->magnitudes, n, &bin, scratch->members);
        for (size_t i = 0; i < n_members; i++) {
            uint32_t low = scratch->members[i] - first_of_bin;
            histogram[low]++;
            lowest = low < lowest ? low : lowest;
            highest = low > highest ? low : highest;
        }
        bin.atoms[next_atom++ % KTH_ATOMS] = scratch->members[0];
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

/* ---- the tile ----------------------------------------------------------------------------------------------- */

void CPU_ISA_NAME(select_kth_tile)(struct statistics *s, const struct merge_tile *tile, struct cpu_scratch *scratch)
{
    if (s->pass == STAT_KTH_COARSE) {
        coarse_tile(s, tile, scratch);
        return;
    }
    for (int i = 0; i < s->n_kth; i++) {
        struct kth *kth = &s->kth[i];
        if (kth->pass != s->pass)
            continue;
        if (s->pass == STAT_KTH_FINE)
            fine_model(kth, tile, scratch);
        else if (s->pass == STAT_KTH_TIES)
            ties_model(kth, tile, scratch);
        else if (kth->cut_tile == tile->index)
            cut_model(kth, tile, scratch);
    }
}
