/*
 * statistics_share.c: statistics of a tensor that several processes look at, each at its own tiles.
 *
 * What lives here: what a pass collected as one array of 64-bit words that may be summed over the processes, in any order,
 * and the way back. Counts are sums by nature. A double is written by the one process whose chunk it is and is +0, all
 * bits zero, everywhere else: the sum of the bit patterns is the double itself, and the sums over chunks are then taken in
 * their fixed order. What it must not know: who sums, how many there are.
 */
#include "statistics/statistics.h"

#include <stdlib.h>
#include <string.h>

void statistics_share(struct statistics *s, statistics_reduce *reduce, void *user)
{
    statistics_avoid_repeats(s); /* no bets on samples: every process must count the same bins */
    s->reduce = reduce;
    s->reduce_user = user;
}

bool statistics_share_failed(const struct statistics *s)
{
    return s->share_failed;
}

static size_t words_of(const struct statistics *s)
{
    size_t n_active = 0;
    for (int i = 0; i < s->n_kth; i++)
        n_active += s->kth[i].pass == s->pass;
    switch (s->pass) {
    case STAT_GRAM: return (size_t)s->n_pairs * s->n_chunks;
    case STAT_L1: return (size_t)s->n_l1 * 2 * s->n_chunks;
    case STAT_KTH_COARSE: return n_active * KTH_COARSE_BINS;
    case STAT_KTH_FINE: return n_active * KTH_FINE_BINS;
    case STAT_KTH_TIES: return n_active * s->n_tiles;
    case STAT_KTH_CUT: return n_active;
    case STAT_KTH_WHOLE:
    case STAT_KTH_SAMPLE:
    case STAT_KTH_GUESS:
    case STAT_READY: break;
    }
    return 0;
}

/* One model's part of a k-th pass, out to the words or in from them. */
static size_t move_kth(const struct statistics *s, struct kth *kth, uint64_t *words, bool in)
{
    size_t n = s->pass == STAT_KTH_COARSE ? KTH_COARSE_BINS : KTH_FINE_BINS;
    if (s->pass == STAT_KTH_COARSE || s->pass == STAT_KTH_FINE) {
        memcpy(in ? kth->histogram : words, in ? words : kth->histogram, n * sizeof *words);
        for (size_t tile = 0; in && s->pass == STAT_KTH_FINE && tile < s->n_tiles; tile++)
            kth->tiles[tile].n_values = KTH_TILE_VALUES + 1; /* lists do not travel: ties go through TIES */
        return n;
    }
    if (s->pass == STAT_KTH_TIES) {
        for (size_t tile = 0; tile < s->n_tiles; tile++)
            if (in)
                kth->tiles[tile].n_equal = (uint32_t)words[tile];
            else
                words[tile] = kth->tiles[tile].n_equal;
        return s->n_tiles;
    }
    if (in)
        kth->cut_element = words[0];
    else
        words[0] = kth->cut_element; /* 0 unless the cut is in a tile of ours */
    return 1;
}

static void move(struct statistics *s, uint64_t *words, bool in)
{
    double *doubles = s->pass == STAT_GRAM ? s->gram : s->pass == STAT_L1 ? s->l1 : NULL;
    if (doubles != NULL) {
        size_t n_bytes = words_of(s) * sizeof *words;
        memcpy(in ? (void *)doubles : words, in ? words : (void *)doubles, n_bytes);
        return;
    }
    for (int i = 0; i < s->n_kth; i++)
        if (s->kth[i].pass == s->pass)
            words += move_kth(s, &s->kth[i], words, in);
}

/* Every element has a bin of the first pass, whoever counted it. */
static bool counted_all(const struct statistics *s)
{
    for (int i = 0; s->pass == STAT_KTH_COARSE && i < s->n_kth; i++) {
        uint64_t n = 0;
        for (size_t bin = 0; bin < KTH_COARSE_BINS; bin++)
            n += s->kth[i].histogram[bin];
        if (s->kth[i].pass == s->pass && n != s->n_elems)
            return false;
    }
    return true;
}

bool statistics_share_pass(struct statistics *s)
{
    size_t n = words_of(s);
    uint64_t *words = malloc((n + 1) * sizeof *words);
    if (words == NULL) {
        s->share_failed = true;
        return false;
    }
    move(s, words, false);
    s->share_failed = !s->reduce(s->reduce_user, words, n);
    if (!s->share_failed) {
        move(s, words, true);
        s->counts_wrong = !counted_all(s);
    }
    free(words);
    return !s->share_failed && !s->counts_wrong;
}
