/* parts.c: see parts.h. */
#include "engine/parts.h"

#include "base/text.h"

#include <string.h>

enum { max_named = 12 }; /* parts in a message; the rest is counted */

static bool part_is_done(const struct plan_rank_share *share, const struct resume *resume)
{
    for (size_t i = 0; i < share->n_ranges; i++)
        if (!resume_range_is_done(resume, &share->ranges[i]))
            return false;
    return true;
}

/* "part 1", "parts 1 and 5", "parts 0, 1, 2 and 40 more"; the number of parts that are not done. */
static int name_parts(const struct plan_partition *partition, const struct resume *resume, struct text *t)
{
    int missing[max_named], n_missing = 0, n_named;

    for (int p = 0; p < partition->n_ranks; p++)
        if (!part_is_done(&partition->shares[p], resume)) {
            if (n_missing < max_named)
                missing[n_missing] = p;
            n_missing++;
        }
    n_named = n_missing < max_named ? n_missing : max_named;
    text_add(t, n_missing == 1 ? "part " : "parts ");
    for (int i = 0; i < n_named; i++)
        text_addf(t, "%s%d", !i ? "" : i == n_missing - 1 ? " and " : ", ", missing[i]);
    if (n_missing > n_named)
        text_addf(t, " and %d more", n_missing - n_named);
    return n_missing;
}

enum wm_status parts_check_done(const struct plan *plan, const struct plan_partition *partition,
                                const struct resume *resume, struct wm_error *err)
{
    size_t n_missing = 0, first = 0;
    enum wm_status st = WM_OK;
    char name[300];
    struct text who;
    int n_parts;

    for (size_t j = plan->n_jobs; j-- > 0;)
        if (!resume->job_done[j] && plan->jobs[j].n_elems) {
            n_missing++;
            first = j;
        }
    if (!n_missing)
        return WM_OK;
    text_init(&who, TEXT_MAX_BYTES);
    n_parts = name_parts(partition, resume, &who);
    st = error_set(err, WM_TEMPORARY,
                   "%s of %d %s not done: %zu of %zu tensors are not finished, the first is %s; run %s again (--part "
                   "K/%d; what is done stays done), then finish",
                   text_string(&who), partition->n_ranks, n_parts == 1 ? "is" : "are", n_missing, plan->n_jobs,
                   text_display(name, sizeof name, plan->jobs[first].name), n_parts == 1 ? "it" : "them",
                   partition->n_ranks);
    text_release(&who);
    return st;
}
