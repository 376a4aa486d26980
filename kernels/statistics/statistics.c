/*
 * statistics.c: the state machine of one tensor's statistics.
 *
 * What lives here: which passes an operation needs, the memory for them, and after each pass the reduction of what the
 * tiles left behind to a few numbers in the operation. What it must not know: elements (statistics_cpu.c and its CUDA
 * twin see those), threads, devices.
 *
 * The k-th magnitude is an exact radix selection on 31 bits: COARSE finds the upper 16, FINE the lower 15. Equal
 * magnitudes are common (bf16 deltas are small multiples of one ulp: up to a third of a tensor, methods notes 21), and
 * the rule is mergekit's: lowest index first. The tiles' own counts name the one where the last kept element is, and CUT
 * looks into that tile alone for its index. A COARSE pass may count a bracket of bins only (select_kth_cpu.c); if the
 * wanted rank turns out to be outside, the pass is repeated over all bins. With a bracket, the commonest values in it
 * (atoms) are counted by themselves; if the wanted element is one of them, FINE is not needed.
 *
 * Tensors of one small tile have their own pass (WHOLE), and where reading twice is dear SAMPLE and GUESS come first:
 * the sample names threshold and tie index, the element-wise pass runs with them while two counts per tile say whether
 * the threshold is right, and CUT finds the true tie index. Only tiles in which an equal element lies between the two tie
 * indexes are computed again; if the threshold was wrong, the plain passes follow and everything is.
 */
#include "statistics/statistics.h"
#include "statistics/select_values.h"

#include <stdlib.h>
#include <string.h>

/* ---- which passes ------------------------------------------------------------------------------------------- */

static int count_top(const struct merge_op *op)
{
    int n = 0;
    for (int m = 0; m < op->n_models && !op->model_statistics; m++)
        n += op->models[m].keep == KEEP_TOP;
    return n;
}

static bool needs_l1(const struct merge_op *op, int m)
{
    return op->rescale == RESCALE_L1 && (op->models[m].keep == KEEP_TOP || op->models[m].keep == KEEP_RANDOM);
}

static int count_l1(const struct merge_op *op)
{
    int n = 0;
    for (int m = 0; m < op->n_models; m++)
        n += needs_l1(op, m);
    return n;
}

static int count_pairs(const struct merge_op *op)
{
    return op->n_models * (op->n_models + 1) / 2;
}

static enum stat_pass pass_after_gram(const struct merge_op *op)
{
    return count_top(op) > 0 ? STAT_KTH_COARSE : count_l1(op) > 0 ? STAT_L1 : STAT_READY;
}

enum stat_pass statistics_first_pass(const struct merge_op *op)
{
    if (op->n_elems == 0)
        return STAT_READY;
    return op->needs_gram ? STAT_GRAM : pass_after_gram(op);
}

/* Small enough for everything about its magnitudes to be found at once. */
static bool is_whole(const struct merge_op *op, uint64_t tile_elems)
{
    return op->n_elems <= KTH_WHOLE_ELEMS && op->n_elems <= tile_elems;
}

/* ---- memory ------------------------------------------------------------------------------------------------- */

static uint64_t ceil_div(uint64_t n, uint64_t by)
{
    return n / by + (n % by != 0);
}

uint64_t statistics_max_bytes(const struct merge_op *op, uint64_t tile_elems)
{
    uint64_t n_tiles = ceil_div(op->n_elems, tile_elems), n_chunks = ceil_div(op->n_elems, TILE_CHUNK_ELEMS);
    uint64_t bytes = sizeof(struct statistics);
    if (op->n_elems == 0)
        return bytes;
    bytes += (uint64_t)count_top(op) * sizeof(struct kth);
    if (!is_whole(op, tile_elems))
        bytes += (uint64_t)count_top(op) * (KTH_COARSE_BINS * sizeof(uint64_t) + n_tiles * sizeof(struct kth_tile));
    bytes += (uint64_t)count_l1(op) * 2 * n_chunks * sizeof(double);
    if (op->needs_gram) {
        uint64_t n_pairs = (uint64_t)count_pairs(op), n_models = (uint64_t)op->n_models;
        if (op->axis == AXIS_TENSOR)
            bytes += n_pairs * n_chunks * sizeof(double);
        else if (op->axis == AXIS_ROWS)
            bytes += n_pairs * FIXED_SUM_LANES * sizeof(double) + op->n_rows * n_models * sizeof(float);
        else
            bytes += op->row_elems * (n_pairs * sizeof(double) + n_models * sizeof(float));
    }
    return bytes;
}

static bool allocate_kth(struct statistics *s, const struct merge_op *op)
{
    s->kth = calloc((size_t)s->n_kth, sizeof *s->kth);
    if (s->kth == NULL)
        return false;
    int next = 0;
    for (int m = 0; m < op->n_models; m++) {
        if (op->models[m].keep != KEEP_TOP)
            continue;
        struct kth *kth = &s->kth[next++];
        kth->model = m;
        kth->rank = op->models[m].k;
        kth->pass = is_whole(op, s->tile_elems) ? STAT_KTH_WHOLE : STAT_KTH_COARSE;
        if (kth->pass == STAT_KTH_WHOLE)
            continue;
        kth->counting = op->n_elems >= KTH_BRACKET_ELEMS ? KTH_UNDECIDED : KTH_ALL_BINS;
        kth->histogram = calloc(KTH_COARSE_BINS, sizeof *kth->histogram);
        kth->tiles = calloc(s->n_tiles, sizeof *kth->tiles);
        if (kth->histogram == NULL || kth->tiles == NULL)
            return false;
    }
    return true;
}

static bool allocate_gram(struct statistics *s, const struct merge_op *op)
{
    if (op->axis == AXIS_TENSOR) {
        s->gram = calloc((size_t)s->n_pairs * s->n_chunks, sizeof *s->gram);
        return s->gram != NULL;
    }
    s->vectors.n_vectors = op->axis == AXIS_ROWS ? op->n_rows : op->row_elems;
    size_t sums_per_pair = op->axis == AXIS_ROWS ? FIXED_SUM_LANES : (size_t)op->row_elems;
    s->vectors.sums = calloc((size_t)s->n_pairs * sums_per_pair, sizeof *s->vectors.sums);
    s->vectors.weights = calloc(s->vectors.n_vectors * (size_t)op->n_models, sizeof *s->vectors.weights);
    return s->vectors.sums != NULL && s->vectors.weights != NULL;
}

struct statistics *statistics_new(const struct merge_op *op, uint64_t tile_elems)
{
    struct statistics *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    if (pthread_mutex_init(&s->lock, NULL) != 0) {
        free(s);
        return NULL;
    }
    s->n_elems = op->n_elems;
    s->tile_elems = tile_elems;
    s->n_tiles = (size_t)ceil_div(op->n_elems, tile_elems);
    s->n_chunks = (size_t)ceil_div(op->n_elems, TILE_CHUNK_ELEMS);
    s->n_models = op->n_models;
    s->n_pairs = count_pairs(op);
    s->pass = statistics_first_pass(op);
    if (s->pass == STAT_READY)
        return s;
    if (s->pass == STAT_KTH_COARSE && is_whole(op, tile_elems))
        s->pass = STAT_KTH_WHOLE;
    s->n_kth = count_top(op);
    for (int m = 0; m < op->n_models; m++)
        if (needs_l1(op, m))
            s->l1_models[s->n_l1++] = m;
    bool ok = s->n_kth == 0 || allocate_kth(s, op);
    if (ok && op->needs_gram)
        ok = allocate_gram(s, op);
    if (ok && s->n_l1 > 0) {
        s->l1 = calloc((size_t)s->n_l1 * 2 * s->n_chunks, sizeof *s->l1);
        ok = s->l1 != NULL;
    }
    if (!ok) {
        statistics_free(s);
        return NULL;
    }
    return s;
}

void statistics_free(struct statistics *s)
{
    if (s == NULL)
        return;
    for (int i = 0; s->kth != NULL && i < s->n_kth; i++) {
        free(s->kth[i].histogram);
        free(s->kth[i].tiles);
    }
    free(s->kth);
    pthread_mutex_destroy(&s->lock);
    free(s->gram);
    free(s->vectors.sums);
    free(s->vectors.weights);
    free(s->l1);
    free(s);
}

enum stat_pass statistics_pass(const struct statistics *s)
{
    return s->pass;
}

void statistics_avoid_repeats(struct statistics *s)
{
    for (int i = 0; i < s->n_kth; i++)
        if (s->kth[i].counting == KTH_UNDECIDED)
            s->kth[i].counting = KTH_ALL_BINS;
}

/* Not with the L1 scale, on which every value depends, nor with weights that are still to come from a Gram matrix. */
bool statistics_can_speculate(const struct merge_op *op, uint64_t tile_elems)
{
    return statistics_first_pass(op) == STAT_KTH_COARSE && count_l1(op) == 0 &&
           ceil_div(op->n_elems, tile_elems) >= (uint64_t)2 * KTH_SAMPLE_TILES;
}

void statistics_speculate(struct statistics *s)
{
    s->pass = STAT_KTH_SAMPLE;
    for (int i = 0; i < s->n_kth; i++)
        s->kth[i].pass = STAT_KTH_SAMPLE;
}

bool statistics_tile_stands(const struct statistics *s, size_t tile_index)
{
    uint64_t first = tile_index * s->tile_elems;
    uint64_t end = s->n_elems - first < s->tile_elems ? s->n_elems : first + s->tile_elems;
    if (!s->guessed || s->pass != STAT_READY)
        return false;
    for (int i = 0; i < s->n_kth; i++) {
        const struct kth *kth = &s->kth[i];
        if (kth->threshold != kth->guessed_threshold)
            return false;
        /* Equal elements with an index above the one and not above the other tie index were decided wrongly. Where the
         * threshold is zero it makes no difference: a delta of zero counts for nothing, kept or not. */
        uint64_t low = kth->cut_element, high = kth->guessed_element;
        if (low > high) {
            low = kth->guessed_element;
            high = kth->cut_element;
        }
        if (kth->threshold != 0 && low != high && first <= high && end > low + 1 && kth->tiles[tile_index].n_equal > 0)
            return false;
    }
    return true;
}

bool statistics_in_order(const struct statistics *s)
{
    return s->pass == STAT_GRAM && s->gram == NULL;
}

bool statistics_needs_tile(const struct statistics *s, size_t tile_index)
{
    if (s->pass == STAT_READY)
        return false;
    if (s->pass == STAT_KTH_SAMPLE)
        return statistics_sample_row(s, tile_index) >= 0;
    if (s->pass != STAT_KTH_CUT)
        return true;
    for (int i = 0; i < s->n_kth; i++)
        if (s->kth[i].pass == STAT_KTH_CUT && s->kth[i].cut_tile == tile_index)
            return true;
    return false;
}

/* ---- after the k-th passes ---------------------------------------------------------------------------------- */

/* The bin, from `bin` down to `last`, that holds the element of this rank; *rank becomes its rank inside that bin.
 * UINT32_MAX: none does. */
static uint32_t find_bin(const uint64_t *histogram, uint32_t bin, uint32_t last, uint64_t *rank)
{
    while (histogram[bin] < *rank) {
        *rank -= histogram[bin];
        if (bin == last)
            return UINT32_MAX;
        bin--;
    }
    return bin;
}

static uint64_t equal_in_tile(const struct kth *kth, size_t tile)
{
    const struct kth_tile *t = &kth->tiles[tile];
    if (kth->equal == KTH_EQUAL_COUNTED)
        return t->n_equal;
    for (uint32_t v = 0; v < t->n_values; v++)
        if (t->values[v].low_bits == (kth->threshold & (KTH_FINE_BINS - 1)))
            return t->values[v].count;
    return 0;
}

/* The wanted element is in no bin, although all were counted: a backend, its memory or another process has lost some, and
 * another pass would find no more. */
static void lose(struct statistics *s, struct kth *kth)
{
    s->counts_wrong = true;
    kth->pass = STAT_READY;
}

/* Names the tile in which the last kept one of the equal elements lies. */
static void find_cut_tile(const struct statistics *s, struct kth *kth)
{
    uint64_t left = kth->rank;
    size_t tile = 0;
    for (; tile + 1 < s->n_tiles; tile++) {
        uint64_t here = equal_in_tile(kth, tile);
        if (here >= left)
            break;
        left -= here;
    }
    kth->pass = STAT_KTH_CUT;
    kth->cut_tile = tile;
    kth->cut_rank = left;
}

/* The threshold is known, and that `rank` of n_equal elements are kept. */
static void found_threshold(const struct statistics *s, struct kth *kth, uint32_t threshold, uint64_t n_equal)
{
    kth->threshold = threshold;
    if (kth->rank == n_equal) {
        kth->cut_element = s->n_elems - 1; /* all of them: every index from the last one on says so */
        kth->pass = STAT_READY;
        return;
    }
    bool fits = true;
    for (size_t tile = 0; kth->equal == KTH_EQUAL_LISTED && tile < s->n_tiles; tile++)
        fits &= kth->tiles[tile].n_values <= KTH_TILE_VALUES;
    if (fits) {
        find_cut_tile(s, kth);
    } else {
        kth->pass = STAT_KTH_TIES;
        kth->equal = KTH_EQUAL_COUNTED;
    }
}

/* With a bracket the atoms' ranks are known exactly: is the wanted element one of them? */
static bool choose_atom(const struct statistics *s, struct kth *kth, const uint64_t totals[KTH_ATOMS])
{
    for (int a = 0; a < KTH_ATOMS; a++) {
        uint64_t above = kth->n_above + kth->n_greater[a];
        for (int other = 0; other < KTH_ATOMS; other++)
            if (kth->atoms[other] > kth->atoms[a])
                above += totals[other]; /* 0 for the one that stands for none */
        if (kth->rank <= above || kth->rank > above + totals[a])
            continue;
        kth->rank -= above;
        kth->equal = KTH_EQUAL_COUNTED;
        for (size_t tile = 0; tile < s->n_tiles; tile++)
            kth->tiles[tile].n_equal = kth->tiles[tile].atoms[a];
        found_threshold(s, kth, kth->atoms[a], totals[a]);
        return true;
    }
    return false;
}

/* The wanted element's bin, or UINT32_MAX if the bracket missed it; rank becomes its rank inside the bin. */
static uint32_t choose_bin(struct kth *kth, const uint64_t totals[KTH_ATOMS])
{
    if (kth->counting != KTH_BRACKET)
        return find_bin(kth->histogram, KTH_COARSE_BINS - 1, 0, &kth->rank);
    if (kth->rank <= kth->n_above)
        return UINT32_MAX;
    for (int a = 0; a < KTH_ATOMS; a++)
        if (kth->atoms[a] != UINT32_MAX)
            kth->histogram[kth->atoms[a] >> KTH_FINE_BITS] += totals[a];
    kth->rank -= kth->n_above;
    return find_bin(kth->histogram, kth->hi >> KTH_FINE_BITS, kth->lo >> KTH_FINE_BITS, &kth->rank);
}

static void finish_coarse(struct statistics *s, struct kth *kth)
{
    uint64_t totals[KTH_ATOMS] = {0}, wanted = kth->rank;
    if (kth->counting == KTH_BRACKET) {
        for (size_t tile = 0; tile < s->n_tiles; tile++)
            for (int a = 0; a < KTH_ATOMS; a++)
                totals[a] += kth->tiles[tile].atoms[a];
        if (choose_atom(s, kth, totals))
            return;
    }
    kth->coarse_bin = choose_bin(kth, totals);
    kth->n_in_bin = kth->coarse_bin != UINT32_MAX ? kth->histogram[kth->coarse_bin] : 0;
    memset(kth->histogram, 0, KTH_COARSE_BINS * sizeof *kth->histogram);
    if (kth->coarse_bin != UINT32_MAX) {
        kth->pass = STAT_KTH_FINE;
        return;
    }
    if (kth->counting != KTH_BRACKET) {
        lose(s, kth);
        return;
    }
    kth->rank = wanted; /* once more, this time over all bins */
    kth->counting = KTH_ALL_BINS;
}

static void finish_fine(struct statistics *s, struct kth *kth)
{
    uint32_t low = find_bin(kth->histogram, KTH_FINE_BINS - 1, 0, &kth->rank);
    if (low == UINT32_MAX)
        lose(s, kth);
    else
        found_threshold(s, kth, (kth->coarse_bin << KTH_FINE_BITS) | low, kth->histogram[low]);
}

/* ---- speculation -------------------------------------------------------------------------------------------- */

/* Where the tie index lies if the tensor's equal elements are spread as the sample's are: `share` of them come before. */
static uint64_t guess_element(const struct statistics *s, const size_t equal[KTH_SAMPLE_TILES], double share)
{
    double wanted = 0.0, region = (double)s->n_elems / KTH_SAMPLE_TILES, element = 0.0;
    for (int row = 0; row < KTH_SAMPLE_TILES; row++)
        wanted += share * (double)equal[row];
    for (int row = 0; row < KTH_SAMPLE_TILES; row++) {
        double here = (double)equal[row];
        if (wanted <= here) {
            element += here > 0.0 ? region * wanted / here : 0.0;
            break;
        }
        wanted -= here;
        element += region;
    }
    return element < (double)s->n_elems - 1.0 ? (uint64_t)element : s->n_elems - 1;
}

/* A guess is a bet that one value holds much of the tensor, as a bf16 delta's threshold does; with less than this share of
 * the sample, nearly every tile would have to be computed again. */
#define GUESS_MIN_SHARE 0.005

/* Guesses one model's threshold and tie index from its sample; false: do not bet on it. Counting per row comes first, as
 * the selection overwrites the sample. */
static bool guess(const struct statistics *s, struct kth *kth, uint32_t *values)
{
    const uint32_t *sample = kth_sample(kth);
    size_t n = 0, taken[KTH_SAMPLE_TILES], equal[KTH_SAMPLE_TILES] = {0}, n_greater, n_equal;
    for (size_t row = 0; row < KTH_SAMPLE_TILES; row++) {
        taken[row] = kth->tiles[(2 * row + 1) * s->n_tiles / (2 * KTH_SAMPLE_TILES)].n_values;
        memcpy(values + n, sample + row * KTH_SAMPLE_TILE_ELEMS, taken[row] * sizeof *values);
        n += taken[row];
    }
    double rank = (double)kth->rank / (double)s->n_elems * (double)n;
    if (n == 0)
        return false;
    kth->threshold = select_value(values, n, rank < 1.0 ? 1 : (size_t)rank, &n_greater, &n_equal);
    for (size_t row = 0; row < KTH_SAMPLE_TILES; row++)
        for (size_t i = 0; i < taken[row]; i++)
            equal[row] += sample[row * KTH_SAMPLE_TILE_ELEMS + i] == kth->threshold;
    kth->guessed_threshold = kth->threshold;
    kth->guessed_element = guess_element(s, equal, (rank - (double)n_greater) / (double)n_equal);
    return (double)n_equal >= GUESS_MIN_SHARE * (double)n;
}

/* All models bet, or none does: a tile has to be computed again if any of them was wrong. */
static enum stat_pass finish_sample(struct statistics *s, struct merge_op *op)
{
    uint32_t *values = malloc((size_t)KTH_SAMPLE_TILES * KTH_SAMPLE_TILE_ELEMS * sizeof *values);
    bool bets = values != NULL; /* without memory the plain passes do */
    for (int i = 0; i < s->n_kth; i++) {
        bets = bets && guess(s, &s->kth[i], values);
        memset(s->kth[i].histogram, 0, KTH_COARSE_BINS * sizeof *s->kth[i].histogram);
    }
    free(values);
    for (int i = 0; i < s->n_kth; i++) {
        s->kth[i].pass = bets ? STAT_KTH_GUESS : STAT_KTH_COARSE;
        op->models[s->kth[i].model].threshold = s->kth[i].guessed_threshold;
        op->models[s->kth[i].model].tie_index = s->kth[i].guessed_element;
    }
    s->guessed = bets;
    return bets ? STAT_KTH_GUESS : STAT_KTH_COARSE;
}

/* The tiles' counts say whether the k-th magnitude is the guessed one. */
static void finish_guess(const struct statistics *s, struct kth *kth)
{
    uint64_t n_greater = 0, n_equal = 0;
    for (size_t tile = 0; tile < s->n_tiles; tile++) {
        n_greater += kth->tiles[tile].n_greater;
        n_equal += kth->tiles[tile].n_equal;
    }
    if (kth->rank <= n_greater || kth->rank > n_greater + n_equal) {
        kth->pass = STAT_KTH_COARSE;
        return;
    }
    kth->rank -= n_greater;
    kth->equal = KTH_EQUAL_COUNTED;
    found_threshold(s, kth, kth->guessed_threshold, n_equal);
}

/* Each model moves on by itself; the tensor's next pass is the earliest that any of them needs. */
static enum stat_pass finish_kth(struct statistics *s, struct merge_op *op)
{
    enum stat_pass next = STAT_READY;
    if (s->pass == STAT_KTH_SAMPLE)
        return finish_sample(s, op);
    for (int i = 0; i < s->n_kth; i++) {
        struct kth *kth = &s->kth[i];
        if (kth->pass == s->pass) {
            if (s->pass == STAT_KTH_GUESS)
                finish_guess(s, kth);
            else if (s->pass == STAT_KTH_COARSE)
                finish_coarse(s, kth);
            else if (s->pass == STAT_KTH_FINE)
                finish_fine(s, kth);
            else if (s->pass == STAT_KTH_TIES)
                find_cut_tile(s, kth);
            else
                kth->pass = STAT_READY; /* WHOLE and CUT have found everything */
        }
        if (kth->pass < next)
            next = kth->pass;
    }
    if (s->counts_wrong)
        return STAT_READY;
    if (next != STAT_READY)
        return next;
    for (int i = 0; i < s->n_kth; i++) {
        op->models[s->kth[i].model].threshold = s->kth[i].threshold;
        op->models[s->kth[i].model].tie_index = s->kth[i].cut_element;
    }
    return s->n_l1 > 0 ? STAT_L1 : STAT_READY;
}

bool statistics_counts_wrong(const struct statistics *s)
{
    return s->counts_wrong;
}

/* ---- after the others --------------------------------------------------------------------------------------- */

/* mergekit notes 3.9.0, with the sums in fp64 and the ratio rounded once. */
static void finish_l1(struct statistics *s, struct merge_op *op)
{
    for (int i = 0; i < s->n_l1; i++) {
        double all = fixed_sum_tree(&s->l1[(size_t)(2 * i) * s->n_chunks], s->n_chunks);
        double kept = fixed_sum_tree(&s->l1[(size_t)(2 * i + 1) * s->n_chunks], s->n_chunks);
        op->models[s->l1_models[i]].scale = all < 1e-7 || kept < 1e-7 ? 1.0f : (float)(all / kept);
    }
}

/* The full symmetric matrix. */
static void fill_gram(const double *pair_sums, size_t stride, int n, double *gram)
{
    for (int i = 0; i < n; i++)
        for (int j = i; j < n; j++)
            gram[i * n + j] = gram[j * n + i] = pair_sums[(size_t)gram_pair(i, j, n) * stride];
}

void statistics_vector_weights(const struct merge_op *op, struct statistics *s, uint64_t vector,
                               const double *pair_sums, size_t stride)
{
    double gram[METHOD_MAX_MODELS * METHOD_MAX_MODELS];
    fill_gram(pair_sums, stride, op->n_models, gram);
    op->method->coefficients(op, gram, &s->vectors.weights[vector * (uint64_t)op->n_models]);
}

static void finish_gram(struct statistics *s, struct merge_op *op)
{
    int n = s->n_models;
    if (op->axis == AXIS_TENSOR) {
        double sums[METHOD_MAX_MODELS * (METHOD_MAX_MODELS + 1) / 2], gram[METHOD_MAX_MODELS * METHOD_MAX_MODELS];
        float weights[METHOD_MAX_MODELS];
        for (int p = 0; p < s->n_pairs; p++)
            sums[p] = fixed_sum_tree(&s->gram[(size_t)p * s->n_chunks], s->n_chunks);
        fill_gram(sums, 1, n, gram);
        op->method->coefficients(op, gram, weights);
        for (int m = 0; m < n; m++)
            op->models[m].weight = weights[m];
        return;
    }
    if (op->axis == AXIS_COLUMNS)
        for (uint64_t v = 0; v < s->vectors.n_vectors; v++)
            statistics_vector_weights(op, s, v, &s->vectors.sums[v], (size_t)s->vectors.n_vectors);
    op->vector_weights = s->vectors.weights; /* rows are finished as they end, by the driver */
}

enum stat_pass statistics_finish_pass(struct statistics *s, struct merge_op *op)
{
    if (s->reduce != NULL && s->pass != STAT_READY && !statistics_share_pass(s))
        s->pass = STAT_READY; /* the caller asks why */
    switch (s->pass) {
    case STAT_GRAM:
        finish_gram(s, op);
        s->pass = pass_after_gram(op);
        if (s->pass == STAT_KTH_COARSE && is_whole(op, s->tile_elems))
            s->pass = STAT_KTH_WHOLE;
        break;
    case STAT_KTH_WHOLE:
    case STAT_KTH_SAMPLE:
    case STAT_KTH_GUESS:
    case STAT_KTH_COARSE:
    case STAT_KTH_FINE:
    case STAT_KTH_TIES:
    case STAT_KTH_CUT: s->pass = finish_kth(s, op); break;
    case STAT_L1:
        finish_l1(s, op);
        s->pass = STAT_READY;
        break;
    case STAT_READY: break;
    }
    return s->pass;
}
