/*
 * plan_layout.c: where every output byte will lie.
 *
 * What lives here: the order of tensors (natural name order, so that layers go 0, 1, 2, whatever the inputs' shards
 * look like), cutting into shards, and the headers, whose length fixes every absolute offset. What it must not know:
 * what the bytes will be.
 */
#include "plan/plan_internal.h"

#include "base/text.h"

#include <stdlib.h>
#include <string.h>

/* Tensors whose size is no multiple of 8 go last in their shard, widest elements first, so that every tensor starts at
 * a multiple of its element size (the reference writer reaches the same by sorting everything by type). */
static int tail_rank(const struct plan_job *job)
{
    if (job->n_bytes % 8 == 0)
        return 0;
    return 1 + (64 - (int)dtype_bits(job->dtype));
}

static int by_alignment(const void *a, const void *b)
{
    const struct plan_job *x = a, *y = b;

    if (x->shard != y->shard)
        return x->shard < y->shard ? -1 : 1;
    if (tail_rank(x) != tail_rank(y))
        return tail_rank(x) < tail_rank(y) ? -1 : 1;
    return text_natural_compare(x->name, y->name);
}

/* mergekit's rule: a shard is closed when the next tensor would exceed the limit; a larger tensor gets its own. */
static int cut(struct plan *plan, uint64_t shard_bytes)
{
    uint64_t used = 0;
    int shard = 0;

    for (size_t j = 0; j < plan->n_jobs; j++) {
        struct plan_job *job = &plan->jobs[j];
        if (used && job->n_bytes > shard_bytes - (used < shard_bytes ? used : shard_bytes)) {
            shard++;
            used = 0;
        }
        job->shard = shard;
        used += job->n_bytes;
    }
    return shard + 1;
}

static enum wm_status make_header(struct plan *plan, struct plan_shard *shard, struct safetensors_entry *entries,
                                  struct wm_error *err)
{
    static const char *const metadata[] = {"format", "pt", NULL};
    enum wm_status st;
    uint64_t at = 0;
    void *header;

    for (size_t i = 0; i < shard->n_jobs; i++) {
        const struct plan_job *job = &plan->jobs[shard->first_job + i];
        entries[i] = (struct safetensors_entry){job->name, job->dtype, job->n_dims, job->shape, at, job->n_bytes};
        at += job->n_bytes;
    }
    st = safetensors_header(entries, shard->n_jobs, metadata, PLAN_DATA_ALIGN, &header, &shard->n_header_bytes, err);
    if (st != WM_OK)
        return st;
    shard->header = header;
    shard->n_bytes = shard->n_header_bytes + at;
    for (size_t i = 0; i < shard->n_jobs; i++)
        plan->jobs[shard->first_job + i].begin = shard->n_header_bytes + entries[i].begin;
    return WM_OK;
}

enum wm_status plan_build_layout(struct plan_build *b, struct wm_error *err)
{
    struct plan *plan = b->plan;
    uint64_t shard_bytes = b->options->shard_bytes ? b->options->shard_bytes : PLAN_DEFAULT_SHARD_BYTES;
    struct safetensors_entry *entries = malloc((plan->n_jobs + 1) * sizeof *entries);
    enum wm_status st = WM_OK;
    size_t j = 0;

    plan->n_shards = cut(plan, shard_bytes);
    plan->shards = arena_array(&plan->arena, (size_t)plan->n_shards, sizeof *plan->shards);
    if (!entries || !plan->shards) {
        plan->n_shards = 0;
        st = error_no_memory(err, "planning");
        goto out;
    }
    qsort(plan->jobs, plan->n_jobs, sizeof *plan->jobs, by_alignment);
    for (int s = 0; s < plan->n_shards; s++) {
        struct plan_shard *shard = &plan->shards[s];
        shard->first_job = j;
        while (j < plan->n_jobs && plan->jobs[j].shard == s)
            j++;
        shard->n_jobs = j - shard->first_job;
        shard->name = plan->n_shards == 1
                          ? "model.safetensors"
                          : arena_printf(&plan->arena, "model-%05d-of-%05d.safetensors", s + 1, plan->n_shards);
        if (!shard->name) {
            st = error_no_memory(err, "planning");
            goto out;
        }
        TRY(make_header(plan, shard, entries, err));
    }
out:
    free(entries);
    return st;
}
