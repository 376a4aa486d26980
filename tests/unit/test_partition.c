/* Holds: a partition gives every element of every job to exactly one rank, is the same each time, splits no more than it
 * must and only what its mode allows, and balances the shapes of well-known models. Plans are made by hand here: a
 * partition looks at jobs alone. */
#include "plan/plan_partition.h"

#include "base/dtype.h"
#include "checkpoint_shapes.h"
#include "methods/tile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define MI ((uint64_t)1 << 20)

/* ---- plans by hand: a base and two models -------------------------------------------------------------------- */

#define N_SOURCES 3

struct world {
    struct recipe recipe;
    struct plan plan;
    struct plan_job *jobs;
    struct ckpt_tensor *tensors; /* [n][N_SOURCES] */
    struct plan_source *sources;
    uint64_t (*shapes)[2];
    double params[METHOD_MAX_PARAMS], model_params[2][METHOD_MAX_PARAMS];
};

static void begin(struct world *w, const char *method, size_t capacity)
{
    memset(w, 0, sizeof *w);
    w->recipe.method = method_find(method);
    assert_non_null(w->recipe.method);
    for (int p = 0; p < w->recipe.method->n_params; p++) {
        const struct method_param *param = &w->recipe.method->params[p];
        double value = strcmp(param->name, "weight") == 0    ? 1.0
                       : strcmp(param->name, "density") == 0 ? 0.5
                       : strcmp(param->name, "t") == 0       ? 0.3
                                                             : param->default_value;
        w->params[p] = w->model_params[0][p] = w->model_params[1][p] = value;
    }
    w->jobs = calloc(capacity + 1, sizeof *w->jobs);
    w->tensors = calloc(capacity * N_SOURCES + 1, sizeof *w->tensors);
    w->sources = calloc(capacity * N_SOURCES + 1, sizeof *w->sources);
    w->shapes = calloc(capacity + 1, sizeof *w->shapes);
    assert_true(w->jobs && w->tensors && w->sources && w->shapes);
    w->plan = (struct plan){.recipe = &w->recipe, .jobs = w->jobs};
}

static void set(struct world *w, const char *param, double value)
{
    int p = method_param_index(w->recipe.method, param);

    assert_true(p >= 0);
    w->params[p] = w->model_params[0][p] = w->model_params[1][p] = value;
}

static struct plan_job *add(struct world *w, uint64_t rows, uint64_t columns, enum wm_dtype in, enum wm_dtype out,
                            int shard)
{
    bool has_base = w->recipe.method->base != METHOD_BASE_ORDINARY && w->recipe.method->base != METHOD_BASE_OPTIONAL;
    size_t j = w->plan.n_jobs++;

    w->shapes[j][0] = rows;
    w->shapes[j][1] = columns;
    for (int s = 0; s < N_SOURCES; s++) {
        struct ckpt_tensor *t = &w->tensors[j * N_SOURCES + (size_t)s];
        *t = (struct ckpt_tensor){.name = "t", .dtype = in, .n_dims = 2, .shape = w->shapes[j]};
        w->sources[j * N_SOURCES + (size_t)s] = (struct plan_source){s, t};
    }
    w->jobs[j] = (struct plan_job){.name = "t",
                                   .action = PLAN_MERGE,
                                   .dtype = out,
                                   .n_dims = 2,
                                   .shape = w->shapes[j],
                                   .n_elems = rows * columns,
                                   .n_bytes = rows * columns * dtype_bits(out) / 8,
                                   .shard = shard,
                                   .sources = &w->sources[j * N_SOURCES],
                                   .n_sources = has_base && w->recipe.method->max_models > 1 ? N_SOURCES : 2,
                                   .has_base = has_base && w->recipe.method->max_models > 1,
                                   .params = w->params,
                                   .model_params = (const double(*)[METHOD_MAX_PARAMS])w->model_params};
    return &w->jobs[j];
}

static void end(struct world *w)
{
    free(w->jobs);
    free(w->tensors);
    free(w->sources);
    free(w->shapes);
}

static uint64_t job_cost(const struct plan_job *job)
{
    uint64_t n_bytes = job->n_bytes;

    for (int s = 0; s < job->n_sources; s++)
        n_bytes += plan_source_bytes(job, s);
    return n_bytes;
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* ---- what holds for every partition -------------------------------------------------------------------------- */

static int compare_ranges(const void *left, const void *right)
{
    const struct plan_range *a = left, *b = right;

    if (a->job != b->job)
        return a->job < b->job ? -1 : 1;
    return a->first_elem < b->first_elem ? -1 : a->first_elem > b->first_elem;
}

static void check_covers(const struct plan *plan, const struct plan_partition *p)
{
    struct plan_range *all = calloc(p->n_ranges + 1, sizeof *all);
    size_t n = 0, at = 0;

    assert_non_null(all);
    for (int r = 0; r < p->n_ranks; r++) {
        if (p->shares[r].n_ranges)
            memcpy(all + n, p->shares[r].ranges, p->shares[r].n_ranges * sizeof *all);
        n += p->shares[r].n_ranges;
        assert_true(n <= p->n_ranges);
    }
    assert_int_equal(n, p->n_ranges);
    if (n)
        qsort(all, n, sizeof *all, compare_ranges);
    for (size_t j = 0; j < plan->n_jobs; j++) {
        uint64_t elem = 0;
        do { /* a tensor without elements has one range too */
            assert_true(at < n);
            assert_int_equal(all[at].job, j);
            assert_int_equal(all[at].first_elem, elem);
            assert_true(all[at].n_elems <= plan->jobs[j].n_elems - elem);
            assert_true(all[at].n_elems > 0 || plan->jobs[j].n_elems == 0);
            elem += all[at++].n_elems;
        } while (elem < plan->jobs[j].n_elems);
    }
    assert_int_equal(at, n);
    free(all);
}

/* Everything a share says about itself, found again in another way. */
static void check_shares(const struct plan *plan, const struct plan_partition *p)
{
    uint64_t total = 0, largest = 0, n_read = 0, n_written = 0;
    int *owner = calloc(plan->n_jobs + 1, sizeof *owner); /* 0: none yet, -1: several, else rank + 1 */
    size_t n_split = 0;

    assert_non_null(owner);
    for (int r = 0; r < p->n_ranks; r++) {
        const struct plan_rank_share *share = &p->shares[r];
        uint64_t cost = 0;
        for (size_t i = 0; i < share->n_ranges; i++) {
            const struct plan_range *range = &share->ranges[i];
            assert_int_equal(range->first_elem % PARTITION_GRAIN_ELEMS, 0);
            cost += plan_range_cost(plan, range);
            owner[range->job] = owner[range->job] == 0 || owner[range->job] == r + 1 ? r + 1 : -1;
            if (i == 0)
                continue;
            assert_true(compare_ranges(range - 1, range) < 0);
            assert_true(range[-1].job < range->job); /* one range of a job at most */
        }
        assert_int_equal(cost, share->n_bytes_read + share->n_bytes_written);
        largest = cost > largest ? cost : largest;
        n_read += share->n_bytes_read;
        n_written += share->n_bytes_written;
    }
    for (size_t j = 0; j < plan->n_jobs; j++) {
        total += job_cost(&plan->jobs[j]);
        n_written -= plan->jobs[j].n_bytes;
        n_split += owner[j] == -1;
        assert_int_equal(p->job_is_split[j], owner[j] == -1);
    }
    assert_int_equal(n_written, 0);
    assert_int_equal(n_split, p->n_split_jobs);
    for (size_t j = 0; j < plan->n_jobs; j++)
        for (int s = 0; s < plan->jobs[j].n_sources; s++)
            n_read -= plan_source_bytes(&plan->jobs[j], s);
    assert_int_equal(n_read, 0);
    assert_true(p->balance == (total ? (double)largest * p->n_ranks / (double)total : 1.0));
    free(owner);
}

static void check_same(const struct plan_partition *a, const struct plan_partition *b)
{
    assert_int_equal(a->n_ranges, b->n_ranges);
    for (int r = 0; r < a->n_ranks; r++) {
        assert_int_equal(a->shares[r].n_ranges, b->shares[r].n_ranges);
        for (size_t i = 0; i < a->shares[r].n_ranges; i++) {
            assert_int_equal(compare_ranges(&a->shares[r].ranges[i], &b->shares[r].ranges[i]), 0);
            assert_int_equal(a->shares[r].ranges[i].n_elems, b->shares[r].ranges[i].n_elems);
        }
    }
}

static struct plan_partition *divide(const struct plan *plan, int n_ranks, enum plan_partition_mode mode)
{
    struct wm_error err = WM_ERROR_INIT;
    struct plan_partition *p, *again;

    assert_int_equal(plan_partition_new(&p, plan, n_ranks, mode, &err), WM_OK);
    assert_int_equal(plan_partition_new(&again, plan, n_ranks, mode, &err), WM_OK);
    assert_int_equal(p->n_ranks, n_ranks);
    check_covers(plan, p);
    check_shares(plan, p);
    check_same(p, again);
    plan_partition_free(again);
    return p;
}

/* ---- properties over random plans ---------------------------------------------------------------------------- */

static void every_element_once(void **state)
{
    static const enum wm_dtype dtypes[] = {WM_F4, WM_BF16, WM_F32, WM_U8, WM_F64};
    static const uint64_t sizes[] = {0, 1, 7, 1000, MI - 1, MI, MI + 1, 3 * MI, 40 * MI + 5, 700 * MI};

    (void)state;
    for (uint64_t seed = 1; seed <= 150; seed++) {
        uint64_t random = seed;
        size_t n_jobs = next_random(&random) % 120;
        int n_ranks = 1 + (int)(next_random(&random) % (seed % 3 ? 20 : 300));
        struct world w;
        begin(&w, "ties", n_jobs);
        for (size_t j = 0; j < n_jobs; j++) {
            enum wm_dtype in = dtypes[next_random(&random) % 5];
            uint64_t n = sizes[next_random(&random) % 10];
            struct plan_job *job;
            if (in == WM_F4)
                n += n % 2;
            job = add(&w, 1, n, in, in == WM_F32 ? WM_BF16 : in, (int)(j / 10));
            job->action = in == WM_F4 || in == WM_U8 ? PLAN_COPY : PLAN_MERGE;
        }
        for (int mode = 0; mode < PARTITION_N_MODES; mode++)
            plan_partition_free(divide(&w.plan, n_ranks, (enum plan_partition_mode)mode));
        end(&w);
    }
}

/* Loads of longest-first on whole jobs, by the rule's own words: O(jobs x ranks). */
static uint64_t longest_first(const struct plan *plan, int n_ranks)
{
    uint64_t *loads = calloc((size_t)n_ranks, sizeof *loads), largest = 0;
    bool *done = calloc(plan->n_jobs + 1, sizeof *done);

    assert_true(loads && done);
    for (size_t i = 0; i < plan->n_jobs; i++) {
        size_t longest = SIZE_MAX;
        int rank = 0;
        for (size_t j = 0; j < plan->n_jobs; j++)
            if (!done[j] && (longest == SIZE_MAX || job_cost(&plan->jobs[j]) > job_cost(&plan->jobs[longest])))
                longest = j;
        for (int r = 1; r < n_ranks; r++)
            if (loads[r] < loads[rank])
                rank = r;
        done[longest] = true;
        loads[rank] += job_cost(&plan->jobs[longest]);
    }
    for (int r = 0; r < n_ranks; r++)
        largest = loads[r] > largest ? loads[r] : largest;
    free(loads);
    free(done);
    return largest;
}

static void nothing_is_split_without_need(void **state)
{
    int n_whole = 0, n_split = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        uint64_t random = seed, total = 0;
        size_t n_jobs = 1 + next_random(&random) % 150;
        int n_ranks = 1 + (int)(next_random(&random) % 16);
        struct plan_partition *p;
        struct world w;
        double alone;
        begin(&w, "task_arithmetic", n_jobs);
        for (size_t j = 0; j < n_jobs; j++)
            total += job_cost(add(&w, 1, MI / 2 + next_random(&random) % (8 * MI), WM_BF16, WM_BF16, 0));
        alone = (double)longest_first(&w.plan, n_ranks) * n_ranks / (double)total;
        p = divide(&w.plan, n_ranks, PARTITION_RANKS);
        if (alone <= 1.0199) { /* what whole jobs reach is taken */
            assert_int_equal(p->n_split_jobs, 0);
            assert_true(p->balance == alone);
            n_whole++;
        } else if (alone > 1.0201) {
            assert_true(p->balance <= alone + 1e-9);
            n_split += p->n_split_jobs > 0;
        }
        plan_partition_free(p);
        end(&w);
    }
    assert_true(n_whole > 20 && n_split > 20);
}

static void pieces_are_few_and_not_small(void **state)
{
    struct plan_partition *p;
    struct world w;

    (void)state;
    begin(&w, "linear", 1);
    add(&w, 1024, 1024 * 1000, WM_BF16, WM_BF16, 0);
    p = divide(&w.plan, 8, PARTITION_RANKS); /* one tensor of 1000 grains on 8 ranks: a piece for each */
    assert_int_equal(p->n_ranges, 8);
    assert_int_equal(p->n_split_jobs, 1);
    for (int r = 0; r < 8; r++) {
        assert_int_equal(p->shares[r].n_ranges, 1);
        assert_int_equal(p->shares[r].ranges[0].n_elems, 125 * MI);
    }
    assert_true(p->balance == 1.0);
    plan_partition_free(p);
    p = divide(&w.plan, 3000, PARTITION_PARTS); /* more ranks than grains: none gets less than one */
    assert_int_equal(p->n_ranges, 1000);
    plan_partition_free(p);
    end(&w);
}

static void small_neighbours_stay_together(void **state)
{
    struct plan_partition *p;
    struct world w;

    (void)state;
    begin(&w, "linear", 40);
    for (int j = 0; j < 40; j++) /* in tens: nine small ones and a large one; two shards */
        add(&w, 1, j % 10 == 9 ? 20 * MI : 1000, WM_BF16, WM_BF16, j / 20);
    p = divide(&w.plan, 4, PARTITION_RANKS);
    for (size_t first = 0; first < 40; first += 10)
        for (int r = 0; r < 4; r++) {
            int n_small = 0;
            for (size_t i = 0; i < p->shares[r].n_ranges; i++)
                n_small += p->shares[r].ranges[i].job / 10 == first / 10 && p->shares[r].ranges[i].job % 10 != 9;
            assert_true(n_small == 0 || n_small == 9);
        }
    plan_partition_free(p);
    end(&w);

    begin(&w, "linear", 4000); /* small ones alone are still spread */
    for (int j = 0; j < 4000; j++)
        add(&w, 1, 256, WM_BF16, WM_BF16, 0);
    p = divide(&w.plan, 8, PARTITION_RANKS);
    assert_true(p->balance < 1.02);
    plan_partition_free(p);
    end(&w);
}

/* ---- modes --------------------------------------------------------------------------------------------------- */

static void modes_split_only_what_they_may(void **state)
{
    static const struct {
        const char *method;
        struct {
            const char *param;
            double value;
        } settings[2];
        bool ranks, parts;
    } cases[] = {
        {"linear", {{NULL, 0}}, true, true},
        {"task_arithmetic", {{NULL, 0}}, true, true},
        {"dare_linear", {{NULL, 0}}, true, false}, /* it rescales to the L1 norm */
        {"dare_linear", {{"rescale", 0}}, true, true},
        {"ties", {{NULL, 0}}, true, false},
        {"ties", {{"density", 1}}, true, true},
        {"ties", {{"trim", 1}}, true, true}, /* thresholds of the whole model are known before */
        {"slerp", {{NULL, 0}}, true, false},
        {"nuslerp", {{"nuslerp_flatten", 0}}, false, false},
        {"nuslerp", {{"nuslerp_flatten", 0}, {"nuslerp_row_wise", 1}}, false, false},
        {"nuslerp", {{NULL, 0}}, true, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct plan_partition *p;
        struct plan_job *job;
        struct merge_op op;
        struct wm_error err = WM_ERROR_INIT;
        struct world w;
        begin(&w, cases[i].method, 2);
        for (int s = 0; s < 2 && cases[i].settings[s].param; s++)
            set(&w, cases[i].settings[s].param, cases[i].settings[s].value);
        job = add(&w, 4096, 16384, WM_BF16, WM_BF16, 0);
        if (w.recipe.method->base == METHOD_BASE_ONE_OF) {
            job->has_base = false;
            job->n_sources = 2;
        }
        if (plan_job_op(&w.plan, job, &op, &err) != WM_OK)
            fail_msg("%s: %s", cases[i].method, err.message);
        p = divide(&w.plan, 4, PARTITION_RANKS);
        assert_int_equal(p->job_is_split[0], cases[i].ranks);
        assert_int_equal(p->job_is_shared[0], cases[i].ranks && !cases[i].parts);
        plan_partition_free(p);
        p = divide(&w.plan, 4, PARTITION_PARTS);
        assert_int_equal(p->job_is_split[0], cases[i].parts);
        assert_false(p->job_is_shared[0]);
        assert_true(p->balance == (cases[i].parts ? 1.0 : 4.0));
        plan_partition_free(p);
        job->action = PLAN_COPY; /* bytes taken over have no statistics, whatever the method */
        for (int mode = 0; mode < PARTITION_N_MODES; mode++) {
            p = divide(&w.plan, 4, (enum plan_partition_mode)mode);
            assert_true(p->job_is_split[0] && !p->job_is_shared[0]);
            plan_partition_free(p);
        }
        end(&w);
    }
}

static void an_unavoidable_giant_splits_nobody_else(void **state)
{
    struct plan_partition *p;
    struct world w;

    (void)state;
    begin(&w, "nuslerp", 20);
    set(&w, "nuslerp_flatten", 0);
    add(&w, 4096, 1024 * 100, WM_BF16, WM_BF16, 0); /* cannot be split: half of all the work */
    for (int j = 0; j < 10; j++)
        add(&w, 1, 39 * MI, WM_BF16, WM_BF16, 0)->action = PLAN_COPY; /* could be */
    p = divide(&w.plan, 8, PARTITION_RANKS);
    assert_int_equal(p->n_split_jobs, 0);
    assert_true(p->balance > 3.9);
    assert_int_equal(p->shares[0].n_ranges, 1);
    plan_partition_free(p);
    end(&w);
}

/* ---- edges --------------------------------------------------------------------------------------------------- */

static void empty_shares_are_fine(void **state)
{
    struct plan_partition *p;
    struct world w;
    int n_empty = 0;

    (void)state;
    begin(&w, "ties", 3);
    p = divide(&w.plan, 5, PARTITION_RANKS); /* no work at all */
    assert_int_equal(p->n_ranges, 0);
    assert_true(p->balance == 1.0);
    plan_partition_free(p);
    add(&w, 1, 0, WM_BF16, WM_BF16, 0);
    add(&w, 3, 5, WM_BF16, WM_BF16, 0);
    add(&w, 2048, 1024, WM_BF16, WM_BF16, 0);
    p = divide(&w.plan, 1000, PARTITION_RANKS);
    for (int r = 0; r < 1000; r++)
        n_empty += p->shares[r].n_ranges == 0;
    assert_true(n_empty >= 996);
    plan_partition_free(p);
    end(&w);
}

static void impossible_numbers_are_refused(void **state)
{
    static const int numbers[] = {0, -1, PARTITION_MAX_RANKS + 1};
    struct plan_partition *p;
    struct plan_job *job;
    struct world w;

    (void)state;
    begin(&w, "linear", 40);
    for (size_t i = 0; i < 3; i++) {
        struct wm_error err = WM_ERROR_INIT;
        assert_int_equal(plan_partition_new(&p, &w.plan, numbers[i], PARTITION_RANKS, &err), WM_USAGE);
        assert_null(p);
        assert_non_null(strstr(err.message, "--ranks"));
    }
    for (int j = 0; j < 20; j++) { /* 20 x 2^60 bytes in, as much out */
        job = add(&w, (uint64_t)1 << 30, (uint64_t)1 << 30, WM_U8, WM_U8, 0);
        job->action = PLAN_COPY;
        job->n_sources = 1;
    }
    {
        struct wm_error err = WM_ERROR_INIT;
        assert_int_equal(plan_partition_new(&p, &w.plan, 2, PARTITION_RANKS, &err), WM_BAD_DATA);
    }
    end(&w);
}

static void many_tensors_on_many_ranks(void **state)
{
    struct wm_error err = WM_ERROR_INIT;
    struct plan_partition *p;
    struct world w;
    uint64_t random = 1;
    clock_t began;
    double seconds;

    (void)state;
    begin(&w, "ties", 100000);
    for (size_t j = 0; j < 100000; j++)
        add(&w, 1, MI + next_random(&random) % (4 * MI), WM_BF16, WM_BF16, (int)(j / 1000));
    began = clock();
    assert_int_equal(plan_partition_new(&p, &w.plan, 4096, PARTITION_RANKS, &err), WM_OK);
    seconds = (double)(clock() - began) / CLOCKS_PER_SEC;
    print_message("100,000 tensors on 4,096 ranks: %.3f s, balance %.4f, %zu split\n", seconds, p->balance,
                  p->n_split_jobs);
    assert_true(p->balance < 1.03);
    assert_true(seconds < 1.0); /* of processor time: a heap, no table of tensors x ranks */
    plan_partition_free(p);
    end(&w);
}

/* ---- well-known models ---------------------------------------------------------------------------------------- */

static void load_shape(struct world *w, const char *name, const char *method)
{
    struct shape_tensors tensors = {0};
    struct wm_error err = WM_ERROR_INIT;
    struct arena arena;
    uint64_t n_shard_bytes = 0;
    int shard = 0;

    assert_non_null(shape_preset(name));
    arena_init(&arena, (size_t)1 << 30);
    assert_int_equal(shape_list_tensors(shape_preset(name), &arena, &tensors, &err), WM_OK);
    begin(w, method, tensors.n_items);
    for (size_t i = 0; i < tensors.n_items; i++) {
        const struct shape_tensor *t = &tensors.items[i];
        if (n_shard_bytes + t->n_bytes > PLAN_DEFAULT_SHARD_BYTES) {
            n_shard_bytes = 0;
            shard++;
        }
        n_shard_bytes += t->n_bytes;
        add(w, t->shape[0], t->n_dims > 1 ? t->shape[1] : 1, t->dtype, t->dtype, shard);
    }
    arena_release(&arena);
}

static void well_known_models_are_balanced(void **state)
{
    static const struct {
        const char *name;
        uint64_t n_params;
    } models[] = {{"llama-3-8b", 8030261248},
                  {"llama-3-70b", 70553706496},
                  {"mixtral-8x7b", 46702792704},
                  {"qwen3-235b-a22b", 235093634560}};
    static const char *const methods[] = {"linear", "ties"};
    static const int numbers[] = {8, 64};

    (void)state;
    print_message("%-16s %-7s %5s   %8s %6s   %8s %6s\n", "model", "method", "ranks", "ranks", "split", "parts",
                  "split");
    for (size_t m = 0; m < 4; m++)
        for (int k = 0; k < 2; k++) {
            struct world w;
            uint64_t n_params = 0;
            load_shape(&w, models[m].name, methods[k]);
            for (size_t j = 0; j < w.plan.n_jobs; j++)
                n_params += w.jobs[j].n_elems;
            assert_int_equal(n_params, models[m].n_params);
            for (int i = 0; i < 2; i++) {
                struct plan_partition *ranks = divide(&w.plan, numbers[i], PARTITION_RANKS);
                struct plan_partition *parts = divide(&w.plan, numbers[i], PARTITION_PARTS);
                print_message("%-16s %-7s %5d   %8.4f %6zu   %8.4f %6zu\n", models[m].name, methods[k], numbers[i],
                              ranks->balance, ranks->n_split_jobs, parts->balance, parts->n_split_jobs);
                assert_true(ranks->balance < 1.05);
                assert_true(parts->n_split_jobs == 0 || strcmp(methods[k], "linear") == 0);
                plan_partition_free(ranks);
                plan_partition_free(parts);
            }
            end(&w);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_element_once),
        cmocka_unit_test(nothing_is_split_without_need),
        cmocka_unit_test(pieces_are_few_and_not_small),
        cmocka_unit_test(small_neighbours_stay_together),
        cmocka_unit_test(modes_split_only_what_they_may),
        cmocka_unit_test(an_unavoidable_giant_splits_nobody_else),
        cmocka_unit_test(empty_shares_are_fine),
        cmocka_unit_test(impossible_numbers_are_refused),
        cmocka_unit_test(many_tensors_on_many_ranks),
        cmocka_unit_test(well_known_models_are_balanced),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
