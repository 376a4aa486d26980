/*
 * describe_ranks.c: who of n ranks does what, for people and for programs.
 *
 * What lives here: the part of the `plan` page that --ranks adds: a row per rank, how even the shares are, and what the
 * same number of parts that never talk would come to. What it must not know: how the partition was found, or how ranks
 * reach each other.
 */
#include "report/report.h"

#include <inttypes.h>
#include <stdio.h>

#define INDENT     14 /* of the page's second column */
#define MAX_ROWS   12 /* ranks shown, all of them */
#define FIRST_ROWS 8  /* ... and otherwise so many from the start, */
#define LAST_ROWS  2  /* ... so many from the end */
#define UNEVEN     1.05
#define NAME_BYTES 96

static size_t n_split(const struct plan_partition *p, const struct plan_rank_share *share)
{
    size_t n = 0;

    for (size_t i = 0; i < share->n_ranges; i++)
        n += p->job_is_split[share->ranges[i].job];
    return n;
}

static double cost(const struct plan_rank_share *share)
{
    return (double)share->n_bytes_read + (double)share->n_bytes_written;
}

/* 1 where there is nothing to do. */
static double mean_cost(const struct plan_partition *p)
{
    double total = 0.0;

    for (int r = 0; r < p->n_ranks; r++)
        total += cost(&p->shares[r]);
    return total > 0.0 ? total / p->n_ranks : 1.0;
}

static void add_row(struct text *t, const struct plan_partition *p, int rank, double mean)
{
    const struct plan_rank_share *share = &p->shares[rank];
    char n_read[24], n_written[24];

    text_addf(t, "%*s%5d %8zu %6zu %10s %10s   %.3f\n", INDENT, "", rank, share->n_ranges, n_split(p, share),
              text_decimal_bytes(n_read, sizeof n_read, share->n_bytes_read),
              text_decimal_bytes(n_written, sizeof n_written, share->n_bytes_written), cost(share) / mean);
}

/* What stands in the way of even shares: the largest thing that the fullest rank has. */
static void add_reason(struct text *t, const struct plan *plan, const struct plan_partition *p)
{
    const struct plan_rank_share *fullest = &p->shares[0];
    const struct plan_range *largest;
    char name[NAME_BYTES];

    for (int r = 1; r < p->n_ranks; r++)
        if (cost(&p->shares[r]) > cost(fullest))
            fullest = &p->shares[r];
    if (p->balance <= UNEVEN || fullest->n_ranges == 0)
        return;
    largest = &fullest->ranges[0];
    for (size_t i = 1; i < fullest->n_ranges; i++)
        if (plan_range_cost(plan, &fullest->ranges[i]) > plan_range_cost(plan, largest))
            largest = &fullest->ranges[i];
    text_addf(t, "; rank %d has %s%s", (int)(fullest - p->shares), p->job_is_split[largest->job] ? "a piece of " : "",
              text_display(name, sizeof name, plan->jobs[largest->job].name));
}

/* "the fullest 0.3 % above the mean, no tensor split" */
static void add_balance(struct text *t, const struct plan *plan, const struct plan_partition *p)
{
    text_addf(t, "the fullest %.1f %% above the mean, ", (p->balance - 1.0) * 100.0);
    if (p->n_split_jobs)
        text_addf(t, "%zu tensor%s split", p->n_split_jobs, p->n_split_jobs == 1 ? "" : "s");
    else
        text_add(t, "no tensor split");
    add_reason(t, plan, p);
    text_add(t, "\n");
}

void report_ranks_text(const struct plan *plan, const struct plan_partition *const *partitions, struct text *out)
{
    const struct plan_partition *p = partitions[PARTITION_RANKS];
    const double mean = mean_cost(p);

    text_addf(out, "  %-*s%d: ", INDENT - 2, "ranks", p->n_ranks);
    add_balance(out, plan, p);
    text_addf(out, "%*s rank  tensors  split      reads     writes  of mean\n", INDENT, "");
    for (int r = 0; r < p->n_ranks; r++) {
        if (p->n_ranks > MAX_ROWS && r == FIRST_ROWS) {
            text_addf(out, "%*s  ... %d more: see --json\n", INDENT, "", p->n_ranks - FIRST_ROWS - LAST_ROWS);
            r = p->n_ranks - LAST_ROWS;
        }
        add_row(out, p, r, mean);
    }
    p = partitions[PARTITION_PARTS];
    if (p->n_ranks == 1)
        return;
    text_addf(out, "%*swithout communication (--part): ", INDENT, "");
    add_balance(out, plan, p);
}

void report_ranks_json(const struct plan_partition *const *partitions, struct text *out)
{
    const struct plan_partition *p = partitions[PARTITION_RANKS];
    const double mean = mean_cost(p);

    text_addf(
        out,
        "  \"ranks\": {\"n_ranks\": %d, \"balance\": %.6f, \"n_split_tensors\": %zu, \"balance_of_parts\": %.6f,\n"
        "    \"shares\": [",
        p->n_ranks, p->balance, p->n_split_jobs, partitions[PARTITION_PARTS]->balance);
    for (int r = 0; r < p->n_ranks; r++) {
        const struct plan_rank_share *share = &p->shares[r];
        text_addf(out,
                  "%s\n      {\"rank\": %d, \"n_tensors\": %zu, \"n_split_tensors\": %zu, \"bytes_read\": %" PRIu64
                  ", \"bytes_written\": %" PRIu64 ", \"share_of_mean\": %.6f, \"ranges\": [",
                  r ? "," : "", r, share->n_ranges, n_split(p, share), share->n_bytes_read, share->n_bytes_written,
                  cost(share) / mean);
        for (size_t i = 0; i < share->n_ranges; i++) /* tensor: its place in "tensors" */
            text_addf(out, "%s{\"tensor\": %zu, \"first_elem\": %" PRIu64 ", \"n_elems\": %" PRIu64 "}", i ? ", " : "",
                      share->ranges[i].job, share->ranges[i].first_elem, share->ranges[i].n_elems);
        text_add(out, "]}");
    }
    text_add(out, "\n    ]},\n");
}
