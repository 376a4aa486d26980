/*
 * plan_partition.c: longest-first partition of a plan's jobs over ranks.
 *
 * What lives here: the costs, which jobs may be split, and the placing: items in falling order of cost, each on the rank
 * that has least so far (Graham 1969, LPT). An item that would lift that rank over the limit of 1.02 of the mean is
 * split so that its pieces fit the room that is left; so nothing is split where longest-first alone meets the limit,
 * only what overflows where it does not, and nothing where that does not help. What it must not know: ranks' addresses,
 * tiles, budgets.
 */
#include "plan/plan_partition.h"

#include "base/dtype.h"
#include "methods/tile.h"

#include <stdlib.h>
#include <string.h>

/* 1/50 above the mean is the limit. As the limits of all ranks together exceed the work by that much, the emptiest rank
 * always has room for 1/50 of the mean, which bounds the pieces: none is below 1/100 of the mean (or one grain). */
#define LIMIT_DIVISOR 50
/* Consecutive tensors below this size stay together: they are read and written in one go. */
#define SMALL_BYTES ((uint64_t)1 << 20)
/* ... in runs of at most this share of the mean, so that a model of small tensors alone can be balanced. */
#define RUN_DIVISOR 128

/* What is placed as one: a run of whole jobs, or a range of one. */
struct item {
    size_t first_job, n_jobs;
    uint64_t first_elem, n_elems; /* of n_jobs == 1 */
    uint64_t cost;
};

struct rank_load {
    uint64_t load;
    int rank;
};

struct placed {
    struct plan_range range;
    int rank;
};

struct placing {
    const struct plan *plan;
    enum plan_partition_mode mode;
    int n_ranks;
    uint64_t total, largest; /* largest: load of the fullest rank, once all is placed */
    struct item *items;      /* a heap, the dearest on top */
    size_t n_items, items_capacity;
    struct rank_load *ranks; /* [n_ranks], a heap, the emptiest on top */
    struct placed *placed;
    size_t n_placed, placed_capacity;
};

/* ---- costs -------------------------------------------------------------------------------------------------- */

/* Differences of ends, so that ranges of one tensor add up to it. */
static uint64_t range_bytes(const struct plan_range *range, enum wm_dtype dtype)
{
    return (range->first_elem + range->n_elems) * dtype_bits(dtype) / 8 - range->first_elem * dtype_bits(dtype) / 8;
}

static uint64_t range_bytes_read(const struct plan *plan, const struct plan_range *range)
{
    const struct plan_job *job = &plan->jobs[range->job];
    uint64_t n_bytes = 0;

    for (int s = 0; s < job->n_sources; s++)
        n_bytes += range_bytes(range, job->sources[s].tensor->dtype);
    return n_bytes;
}

static uint64_t range_bytes_written(const struct plan *plan, const struct plan_range *range)
{
    return range_bytes(range, plan->jobs[range->job].dtype);
}

/* Bytes alone: storage and wires bind every method of today (performance notes 1). A method bound by arithmetic adds
 * its operations here, in bytes' worth of time. */
uint64_t plan_range_cost(const struct plan *plan, const struct plan_range *range)
{
    return range_bytes_read(plan, range) + range_bytes_written(plan, range);
}

static bool may_split(const struct placing *p, size_t j)
{
    const struct plan_job *job = &p->plan->jobs[j];
    struct wm_error ignored = WM_ERROR_INIT;
    struct merge_op op;

    if (job->action != PLAN_MERGE)
        return true;
    if (plan_job_op(p->plan, job, &op, &ignored) != WM_OK)
        return false;
    if (p->mode == PARTITION_PARTS)
        return statistics_first_pass(&op) == STAT_READY;
    return !op.needs_gram || op.axis == AXIS_TENSOR;
}

/* ---- items: a heap by falling cost, then file order ---------------------------------------------------------- */

static bool item_before(const struct item *a, const struct item *b)
{
    if (a->cost != b->cost)
        return a->cost > b->cost;
    if (a->first_job != b->first_job)
        return a->first_job < b->first_job;
    return a->first_elem < b->first_elem;
}

static enum wm_status push_item(struct placing *p, const struct item *item, struct wm_error *err)
{
    size_t i = p->n_items;

    if (p->n_items == p->items_capacity) {
        size_t capacity = p->items_capacity ? 2 * p->items_capacity : 256;
        struct item *items = reallocarray(p->items, capacity, sizeof *items);
        if (!items)
            return error_no_memory(err, "dividing the plan over ranks");
        p->items = items;
        p->items_capacity = capacity;
    }
    for (; i > 0 && item_before(item, &p->items[(i - 1) / 2]); i = (i - 1) / 2)
        p->items[i] = p->items[(i - 1) / 2];
    p->items[i] = *item;
    p->n_items++;
    return WM_OK;
}

static struct item pop_item(struct placing *p)
{
    struct item top = p->items[0], last = p->items[--p->n_items];
    size_t i = 0;

    for (size_t child = 1; child < p->n_items; child = 2 * i + 1) {
        if (child + 1 < p->n_items && item_before(&p->items[child + 1], &p->items[child]))
            child++;
        if (!item_before(&p->items[child], &last))
            break;
        p->items[i] = p->items[child];
        i = child;
    }
    p->items[i] = last;
    return top;
}

static enum wm_status measure_total(struct placing *p, struct wm_error *err)
{
    for (size_t j = 0; j < p->plan->n_jobs; j++) {
        struct plan_range whole = {j, 0, p->plan->jobs[j].n_elems};
        if (__builtin_add_overflow(p->total, plan_range_cost(p->plan, &whole), &p->total))
            return error_set(
                err, WM_BAD_DATA,
                "the merge reads and writes more than 2^64 bytes; check the shapes in the inputs' headers");
    }
    return WM_OK;
}

/* Whole jobs, and runs of small neighbours. */
static enum wm_status list_items(struct placing *p, struct wm_error *err)
{
    const struct plan *plan = p->plan;
    const uint64_t longest_run = p->total / (uint64_t)p->n_ranks / RUN_DIVISOR;
    enum wm_status st = WM_OK;

    for (size_t j = 0; j < plan->n_jobs;) {
        struct plan_range range = {j, 0, plan->jobs[j].n_elems};
        struct item item = {j, 1, 0, range.n_elems, plan_range_cost(plan, &range)};
        bool run = plan->jobs[j].n_bytes < SMALL_BYTES;
        for (j++; run && j < plan->n_jobs && plan->jobs[j].n_bytes < SMALL_BYTES; j++) {
            uint64_t cost;
            range = (struct plan_range){j, 0, plan->jobs[j].n_elems};
            cost = plan_range_cost(plan, &range);
            if (item.cost > longest_run || cost > longest_run - item.cost)
                break;
            item.cost += cost;
            item.n_jobs++;
        }
        TRY(push_item(p, &item, err));
    }
out:
    return st;
}

/* Pushes the item back as pieces of whole grains that fit `room` if grains can; false in *done: it cannot be split. */
static enum wm_status split_item(struct placing *p, const struct item *item, uint64_t room, bool *done,
                                 struct wm_error *err)
{
    const uint64_t n_grains = (item->n_elems + PARTITION_GRAIN_ELEMS - 1) / PARTITION_GRAIN_ELEMS;
    const uint64_t end = item->first_elem + item->n_elems;
    enum wm_status st = WM_OK;
    uint64_t n_pieces, grain = 0;

    *done = item->n_jobs == 1 && n_grains > 1 && may_split(p, item->first_job);
    if (!*done)
        return WM_OK;
    n_pieces = room ? item->cost / room + (item->cost % room != 0) : n_grains;
    n_pieces = n_pieces < 2 ? 2 : n_pieces > n_grains ? n_grains : n_pieces;
    for (uint64_t i = 0; i < n_pieces; i++) {
        uint64_t n = n_grains / n_pieces + (i < n_grains % n_pieces);
        uint64_t first = item->first_elem + grain * PARTITION_GRAIN_ELEMS;
        struct plan_range range = {item->first_job, first, n * PARTITION_GRAIN_ELEMS};
        struct item piece;
        if (range.n_elems > end - first)
            range.n_elems = end - first;
        piece = (struct item){range.job, 1, first, range.n_elems, plan_range_cost(p->plan, &range)};
        TRY(push_item(p, &piece, err));
        grain += n;
    }
out:
    return st;
}

/* ---- ranks: a heap by rising load, then number ---------------------------------------------------------------- */

static bool rank_before(const struct rank_load *a, const struct rank_load *b)
{
    return a->load != b->load ? a->load < b->load : a->rank < b->rank;
}

/* The emptiest rank gets `cost` more and sinks to its place. */
static void load_emptiest(struct placing *p, uint64_t cost)
{
    struct rank_load moved = p->ranks[0];
    size_t i = 0, n = (size_t)p->n_ranks;

    moved.load += cost;
    for (size_t child = 1; child < n; child = 2 * i + 1) {
        if (child + 1 < n && rank_before(&p->ranks[child + 1], &p->ranks[child]))
            child++;
        if (!rank_before(&p->ranks[child], &moved))
            break;
        p->ranks[i] = p->ranks[child];
        i = child;
    }
    p->ranks[i] = moved;
}

static enum wm_status place_item(struct placing *p, const struct item *item, struct wm_error *err)
{
    int rank = p->ranks[0].rank;

    if (p->placed_capacity - p->n_placed < item->n_jobs) {
        size_t capacity = 2 * p->placed_capacity + item->n_jobs;
        struct placed *placed = reallocarray(p->placed, capacity, sizeof *placed);
        if (!placed)
            return error_no_memory(err, "dividing the plan over ranks");
        p->placed = placed;
        p->placed_capacity = capacity;
    }
    for (size_t i = 0; i < item->n_jobs; i++) {
        size_t j = item->first_job + i;
        struct plan_range range = {j, 0, p->plan->jobs[j].n_elems};
        if (item->n_jobs == 1)
            range = (struct plan_range){j, item->first_elem, item->n_elems};
        p->placed[p->n_placed++] = (struct placed){range, rank};
    }
    load_emptiest(p, item->cost);
    return WM_OK;
}

/* Everything anew, with or without splitting. */
static enum wm_status place_all(struct placing *p, bool splitting, struct wm_error *err)
{
    const uint64_t mean = p->total / (uint64_t)p->n_ranks;
    const uint64_t limit = mean + mean / LIMIT_DIVISOR;
    enum wm_status st = WM_OK;

    p->n_items = p->n_placed = 0;
    for (int r = 0; r < p->n_ranks; r++)
        p->ranks[r] = (struct rank_load){0, r};
    TRY(list_items(p, err));
    while (p->n_items > 0) {
        struct item item = pop_item(p);
        uint64_t load = p->ranks[0].load, room = limit > load ? limit - load : 0;
        bool split = false;
        if (item.cost > room && splitting)
            TRY(split_item(p, &item, room, &split, err));
        if (split)
            continue;
        TRY(place_item(p, &item, err));
    }
    p->largest = 0;
    for (int r = 0; r < p->n_ranks; r++)
        if (p->ranks[r].load > p->largest)
            p->largest = p->ranks[r].load;
out:
    return st;
}

/* Where something that cannot be split decides, or whole grains pack worse than whole tensors, nothing is split. */
static enum wm_status place_best(struct placing *p, struct wm_error *err)
{
    const uint64_t mean = p->total / (uint64_t)p->n_ranks;
    enum wm_status st = WM_OK;
    uint64_t whole;

    TRY(place_all(p, false, err));
    whole = p->largest;
    if (whole <= mean + mean / LIMIT_DIVISOR)
        return WM_OK;
    TRY(place_all(p, true, err));
    if (p->largest >= whole)
        TRY(place_all(p, false, err));
out:
    return st;
}

/* ---- the result ----------------------------------------------------------------------------------------------- */

static int by_job_and_rank(const void *left, const void *right)
{
    const struct placed *a = left, *b = right;

    if (a->range.job != b->range.job)
        return a->range.job < b->range.job ? -1 : 1;
    if (a->rank != b->rank)
        return a->rank < b->rank ? -1 : 1;
    return a->range.first_elem < b->range.first_elem ? -1 : a->range.first_elem > b->range.first_elem;
}

/* The pieces [n] of one job, in order of rank, trade places until those of every rank lie side by side. All but the last
 * piece are whole grains, so no load changes as long as that one stays the last. */
static void lay_side_by_side(struct placed *pieces, size_t n)
{
    uint64_t at = 0;
    size_t tail = 0;

    for (size_t i = 1; i < n; i++)
        if (pieces[i].range.first_elem > pieces[tail].range.first_elem)
            tail = i;
    for (int last = 0; last <= 1; last++)
        for (size_t i = 0; i < n; i++)
            if ((pieces[i].rank == pieces[tail].rank) == last) {
                pieces[i].range.first_elem = at;
                at += pieces[i].range.n_elems;
            }
}

/* A rank that reduces the statistics of a tensor with others has one range of it, and so has one pipeline. */
static void join_pieces(struct placing *p)
{
    if (p->n_placed)
        qsort(p->placed, p->n_placed, sizeof *p->placed, by_job_and_rank);
    for (size_t i = 0, end; i < p->n_placed; i = end) {
        for (end = i + 1; end < p->n_placed && p->placed[end].range.job == p->placed[i].range.job;)
            end++;
        lay_side_by_side(p->placed + i, end - i);
    }
}

static int compare_placed(const void *left, const void *right)
{
    const struct placed *a = left, *b = right;

    if (a->rank != b->rank)
        return a->rank < b->rank ? -1 : 1;
    if (a->range.job != b->range.job)
        return a->range.job < b->range.job ? -1 : 1;
    return a->range.first_elem < b->range.first_elem ? -1 : a->range.first_elem > b->range.first_elem;
}

static enum wm_status gather(struct plan_partition *partition, struct placing *p, struct wm_error *err)
{
    const size_t n_jobs = p->plan->n_jobs;
    struct merge_op op;

    partition->shares = calloc((size_t)p->n_ranks, sizeof *partition->shares);
    partition->job_is_split = calloc(n_jobs + 1, sizeof *partition->job_is_split);
    partition->job_is_shared = calloc(n_jobs + 1, sizeof *partition->job_is_shared);
    partition->ranges = calloc(p->n_placed + 1, sizeof *partition->ranges);
    if (!partition->shares || !partition->job_is_split || !partition->job_is_shared || !partition->ranges)
        return error_no_memory(err, "dividing the plan over ranks");
    join_pieces(p);
    if (p->n_placed)
        qsort(p->placed, p->n_placed, sizeof *p->placed, compare_placed);
    for (size_t i = 0; i < p->n_placed; i++) {
        const struct plan_range *range = &p->placed[i].range;
        struct plan_rank_share *share = &partition->shares[p->placed[i].rank];
        struct plan_range *last = &partition->ranges[partition->n_ranges];
        if (share->n_ranges == 0)
            share->ranges = last;
        share->n_bytes_read += range_bytes_read(p->plan, range);
        share->n_bytes_written += range_bytes_written(p->plan, range);
        if (share->n_ranges && last[-1].job == range->job &&
            last[-1].first_elem + last[-1].n_elems == range->first_elem) {
            last[-1].n_elems += range->n_elems;
            continue;
        }
        *last = *range;
        share->n_ranges++;
        partition->n_ranges++;
    }
    for (size_t i = 0; i < partition->n_ranges; i++) {
        const struct plan_range *range = &partition->ranges[i];
        bool *split = &partition->job_is_split[range->job];
        if (range->n_elems == p->plan->jobs[range->job].n_elems || *split)
            continue;
        *split = true;
        partition->job_is_shared[range->job] = plan_job_has_statistics(p->plan, &p->plan->jobs[range->job], &op);
        partition->n_split_jobs++;
    }
    partition->balance = p->total ? (double)p->largest * p->n_ranks / (double)p->total : 1.0;
    return WM_OK;
}

enum wm_status plan_partition_new(struct plan_partition **out, const struct plan *plan, int n_ranks,
                                  enum plan_partition_mode mode, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    struct placing p = {.plan = plan, .mode = mode, .n_ranks = n_ranks};
    struct plan_partition *partition = NULL;

    *out = NULL;
    if (n_ranks < 1 || n_ranks > PARTITION_MAX_RANKS)
        return error_set(err, WM_USAGE, "a merge runs on 1 to %d ranks, not on %d; correct --ranks",
                         PARTITION_MAX_RANKS, n_ranks);
    partition = calloc(1, sizeof *partition);
    p.ranks = calloc((size_t)n_ranks, sizeof *p.ranks);
    if (!partition || !p.ranks) {
        st = error_no_memory(err, "dividing the plan over ranks");
        goto out;
    }
    partition->mode = mode;
    partition->n_ranks = n_ranks;
    TRY(measure_total(&p, err));
    TRY(place_best(&p, err));
    TRY(gather(partition, &p, err));
    *out = partition;
    partition = NULL;
out:
    plan_partition_free(partition);
    free(p.ranks);
    free(p.items);
    free(p.placed);
    return st;
}

void plan_partition_free(struct plan_partition *partition)
{
    if (!partition)
        return;
    free(partition->shares);
    free(partition->job_is_split);
    free(partition->job_is_shared);
    free(partition->ranges);
    free(partition);
}
