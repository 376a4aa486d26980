/*
 * model_statistics.c: the state machine of the whole model's statistics. See model_statistics.h.
 *
 * What lives here: which element of a task vector is its threshold, and after each pass the reduction of the counts to a
 * few numbers. What it must not know: elements (model_statistics_cpu.c sees those), threads, devices, files.
 *
 * The authors' rule, for a share K of d elements to keep: with k = d - int(d K), the threshold is the k-th smallest
 * magnitude, and everything from it on is kept, ties included. That is the (int(d K) + 1)-th largest. K = 1 would make k
 * zero, which their code refuses; here it means no trimming.
 */
#include "statistics/model_statistics.h"
#include "methods/task_vector_math.h"
#include "statistics/statistics.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void model_statistics_init(struct model_statistics *ms)
{
    memset(ms, 0, sizeof *ms);
    for (int m = 0; m < MODEL_MAX_MODELS; m++)
        ms->search_of[m] = -1;
}

void model_statistics_release(struct model_statistics *ms)
{
    free(ms->counts);
    model_statistics_init(ms);
}

/* ---- before the passes -------------------------------------------------------------------------------------- */

enum wm_status model_statistics_add(struct model_statistics *ms, const struct merge_op *op, char message[256])
{
    for (int m = 0; m < op->n_models && op->model_statistics; m++) {
        int index = op->models[m].index;
        if (index < 0 || index >= MODEL_MAX_MODELS) {
            snprintf(message, 256, "a merge has at most %d models; merge in two steps", MODEL_MAX_MODELS);
            return WM_BAD_CONFIG;
        }
        struct model_threshold *model = &ms->result.models[index];
        if (model->n_elems > 0 && model->density != op->models[m].density) {
            snprintf(
                message, 256,
                "`trim: global` finds one threshold for a whole model, but its density is %.9g here and %.9g for an "
                "earlier tensor; give every model one density, without filters or gradients",
                op->models[m].density, model->density);
            return WM_BAD_CONFIG;
        }
        model->density = op->models[m].density;
        model->n_elems += op->n_elems;
        if (index >= ms->result.n_models)
            ms->result.n_models = index + 1;
    }
    ms->n_elems += op->model_statistics ? op->n_elems : 0;
    return WM_OK;
}

bool model_statistics_empty(const struct model_statistics *ms)
{
    return ms->result.n_models == 0;
}

/* From the largest, 1..n_elems; 0: everything is kept. */
static uint64_t threshold_rank(const struct model_threshold *model)
{
    double n_wanted = trunc(model->density * (double)model->n_elems);
    if (!(model->density > 0.0) || model->density >= 1.0 || n_wanted >= (double)model->n_elems)
        return 0;
    return (uint64_t)n_wanted + 1;
}

static int count_searches(const struct model_statistics *ms)
{
    int n = 0;
    for (int m = 0; m < ms->result.n_models; m++)
        n += threshold_rank(&ms->result.models[m]) > 0;
    return n;
}

uint64_t model_statistics_bytes(const struct model_statistics *ms)
{
    uint64_t n = (uint64_t)count_searches(ms) * KTH_COARSE_BINS;
    return (n > MODEL_SIGN_COUNTS ? n : MODEL_SIGN_COUNTS) * sizeof *ms->counts;
}

int model_statistics_n_passes(const struct model_statistics *ms)
{
    if (model_statistics_empty(ms))
        return 0;
    return count_searches(ms) > 0 ? MODEL_READY - MODEL_COARSE : MODEL_READY - MODEL_SIGNS;
}

static void begin_pass(struct model_statistics *ms, enum model_pass pass)
{
    static const size_t counts_per_search[] = {[MODEL_COARSE] = KTH_COARSE_BINS, [MODEL_FINE] = KTH_FINE_BINS};
    ms->pass = pass;
    ms->n_counts = pass == MODEL_READY   ? 0
                   : pass == MODEL_SIGNS ? (size_t)MODEL_SIGN_COUNTS
                                         : (size_t)ms->n_searches * counts_per_search[pass];
    memset(ms->counts, 0, ms->n_counts * sizeof *ms->counts);
}

bool model_statistics_begin(struct model_statistics *ms)
{
    ms->n_searches = 0;
    for (int m = 0; m < ms->result.n_models; m++) {
        struct model_threshold *model = &ms->result.models[m];
        uint64_t rank = threshold_rank(model);
        ms->search_of[m] = -1;
        model->threshold = 0;
        model->n_kept = model->density > 0.0 ? model->n_elems : 0;
        if (rank == 0)
            continue;
        ms->search_of[m] = ms->n_searches;
        ms->searches[ms->n_searches++] = (struct model_search){.model = m, .rank = rank};
    }
    free(ms->counts);
    ms->counts = malloc((size_t)model_statistics_bytes(ms));
    if (ms->counts == NULL)
        return false;
    begin_pass(ms, ms->n_searches > 0 ? MODEL_COARSE : MODEL_SIGNS);
    return true;
}

/* ---- between the passes ------------------------------------------------------------------------------------- */

uint64_t *model_statistics_counts(struct model_statistics *ms, size_t *n_counts)
{
    *n_counts = ms->n_counts;
    return ms->counts;
}

void model_statistics_add_counts(struct model_statistics *ms, size_t first, const uint64_t *counts, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (counts[i] != 0)
            __atomic_fetch_add(&ms->counts[first + i], counts[i], __ATOMIC_RELAXED);
}

void model_statistics_restart_pass(struct model_statistics *ms)
{
    memset(ms->counts, 0, ms->n_counts * sizeof *ms->counts);
}

/* False when `counts` do not add up to `n_elems`, which bounds every loop over them. */
static bool adds_up(const uint64_t *counts, size_t n_counts, uint64_t n_elems)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n_counts; i++)
        if (__builtin_add_overflow(sum, counts[i], &sum))
            return false;
    return sum == n_elems;
}

/* The bin that holds the rank-th element from the largest. *rank becomes the rank inside it; what is in larger bins is
 * added to *n_above. */
static uint32_t find_bin(const uint64_t *counts, uint32_t n_bins, uint64_t *rank, uint64_t *n_above)
{
    uint32_t bin = n_bins - 1;
    while (counts[bin] < *rank) {
        *rank -= counts[bin];
        *n_above += counts[bin--];
    }
    return bin;
}

static bool finish_coarse(struct model_statistics *ms)
{
    for (int i = 0; i < ms->n_searches; i++) {
        struct model_search *search = &ms->searches[i];
        uint64_t *counts = &ms->counts[(size_t)i * KTH_COARSE_BINS];
        if (!adds_up(counts, KTH_COARSE_BINS, ms->result.models[search->model].n_elems))
            return false;
        search->coarse_bin = find_bin(counts, KTH_COARSE_BINS, &search->rank, &search->n_above);
        search->n_in_bin = counts[search->coarse_bin];
    }
    begin_pass(ms, MODEL_FINE);
    return true;
}

static bool finish_fine(struct model_statistics *ms)
{
    for (int i = 0; i < ms->n_searches; i++) {
        struct model_search *search = &ms->searches[i];
        struct model_threshold *model = &ms->result.models[search->model];
        const uint64_t *counts = &ms->counts[(size_t)i * KTH_FINE_BINS];
        if (!adds_up(counts, KTH_FINE_BINS, search->n_in_bin))
            return false;
        uint32_t low = find_bin(counts, KTH_FINE_BINS, &search->rank, &search->n_above);
        model->threshold = search->coarse_bin << KTH_FINE_BITS | low;
        model->n_kept = search->n_above + counts[low];
    }
    begin_pass(ms, MODEL_SIGNS);
    return true;
}

static bool finish_signs(struct model_statistics *ms)
{
    struct model_thresholds *result = &ms->result;
    if (ms->counts[MODEL_SIGN_SEEN] != ms->n_elems)
        return false;
    result->n_plus = ms->counts[MODEL_SIGN_PLUS];
    result->n_minus = ms->counts[MODEL_SIGN_MINUS];
    result->n_cancelled = ms->counts[MODEL_SIGN_CANCELLED];
    result->majority = (result->n_plus > result->n_minus) - (result->n_plus < result->n_minus);
    begin_pass(ms, MODEL_READY);
    return true;
}

bool model_statistics_finish_pass(struct model_statistics *ms)
{
    switch (ms->pass) {
    case MODEL_COARSE: return finish_coarse(ms);
    case MODEL_FINE: return finish_fine(ms);
    case MODEL_SIGNS: return finish_signs(ms);
    case MODEL_READY: break;
    }
    return true;
}

/* What a pass needs of the one before it, and nothing that a loop would not survive. */
static bool can_go_on(const struct model_statistics *ms, enum model_pass pass, const struct model_search *searches,
                      const struct model_thresholds *result)
{
    if (pass != MODEL_FINE && pass != MODEL_SIGNS)
        return false;
    for (int i = 0; i < ms->n_searches; i++) {
        const struct model_search *search = &searches[i];
        const struct model_threshold *own = &ms->result.models[ms->searches[i].model];
        const struct model_threshold *found = &result->models[ms->searches[i].model];
        if (search->model != ms->searches[i].model)
            return false;
        if (pass == MODEL_FINE &&
            (search->coarse_bin >= KTH_COARSE_BINS || search->n_in_bin > own->n_elems ||
             search->n_above > own->n_elems - search->n_in_bin || search->rank == 0 || search->rank > search->n_in_bin))
            return false;
        if (pass == MODEL_SIGNS && (found->threshold > FLOAT_ABS_MASK || found->n_kept > own->n_elems))
            return false;
    }
    return true;
}

bool model_statistics_resume(struct model_statistics *ms, enum model_pass pass, const struct model_search *searches,
                             const struct model_thresholds *result)
{
    if (!can_go_on(ms, pass, searches, result))
        return false;
    for (int i = 0; i < ms->n_searches; i++) {
        struct model_threshold *model = &ms->result.models[searches[i].model];
        ms->searches[i] = searches[i];
        model->threshold = pass == MODEL_SIGNS ? result->models[searches[i].model].threshold : 0;
        model->n_kept = pass == MODEL_SIGNS ? result->models[searches[i].model].n_kept : model->n_elems;
    }
    begin_pass(ms, pass);
    return true;
}

/* ---- the result --------------------------------------------------------------------------------------------- */

/* "if sign > 0 keep the positive entries, else the negative ones": no majority acts as minus (methods notes 3, step 4). */
void model_thresholds_apply(const struct model_thresholds *thresholds, struct merge_op *op)
{
    if (!op->model_statistics)
        return;
    op->plus_from = thresholds->majority > 0 ? PLUS_WITH_ZERO : PLUS_WITHOUT_ZERO;
    for (int m = 0; m < op->n_models; m++)
        if (op->models[m].keep == KEEP_TOP)
            op->models[m].threshold = thresholds->models[op->models[m].index].threshold;
}
