/* The survey by several ranks: what one process finds, and of an unfinished one they take over the same passes or none. */
#include "engine/survey.h"

#include "base/file.h"
#include "survey_case.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { MAX_RANKS = 3, MAX_RANGES = 256 };

struct world {
    struct fixture f;
    struct recipe *recipe;
    struct ckpt *models[4];
    struct plan *plan;
};

static void make_plan(struct world *w, const struct wm_options *options)
{
    struct ckpt_options ckpt_options = {0};
    struct wm_error err = WM_ERROR_INIT;
    struct problems problems;

    begin(&w->f);
    problems_init(&problems, NULL, NULL, false);
    assert_int_equal(recipe_open(&w->recipe, fixture_path(&w->f, "c.yml"), &problems, &err), WM_OK);
    assert_int_equal(w->recipe->n_models, 3);
    for (int m = 0; m < 4; m++) {
        const char *path = m < 3 ? w->recipe->models[m].ref.path : w->recipe->base_model.path;
        assert_int_equal(ckpt_open(&w->models[m], path, NULL, &ckpt_options, &problems, &err), WM_OK);
    }
    assert_int_equal(plan_new(&w->plan, w->recipe, w->models, 4, options, &problems, &err), WM_OK);
}

struct meeting {
    pthread_barrier_t barrier;
    pthread_mutex_t lock;
    uint64_t *sums;
    size_t n_sums;
    int n_ranks;
};

struct rank {
    struct world *w;
    const char *dir;
    const struct wm_options *options;
    struct meeting *meeting;
    int number;
    struct plan_range ranges[MAX_RANGES];
    size_t n_ranges;
    struct survey_result result;
    struct wm_error err;
};

static enum wm_status meet(void *user, uint64_t *counts, size_t n_counts, struct wm_error *err)
{
    struct rank *rank = user;
    struct meeting *m = rank->meeting;

    (void)err;
    pthread_mutex_lock(&m->lock);
    if (!m->sums) {
        m->n_sums = n_counts;
        m->sums = calloc(n_counts, sizeof *m->sums);
    }
    for (size_t i = 0; i < n_counts && n_counts == m->n_sums; i++)
        m->sums[i] += counts[i];
    pthread_mutex_unlock(&m->lock);
    pthread_barrier_wait(&m->barrier);
    memcpy(counts, m->sums, n_counts * sizeof *counts);
    if (pthread_barrier_wait(&m->barrier) == PTHREAD_BARRIER_SERIAL_THREAD) {
        free(m->sums);
        m->sums = NULL;
    }
    pthread_barrier_wait(&m->barrier);
    return WM_OK;
}

static void *run_rank(void *user)
{
    struct rank *rank = user;
    struct survey_args args = {.plan = rank->w->plan,
                               .options = rank->options,
                               .dir = rank->dir,
                               .ranges = rank->ranges,
                               .n_ranges = rank->n_ranges,
                               .reduce = meet,
                               .user = rank,
                               .writes_file = rank->number == 0};

    (void)survey_run(&args, &rank->result, &rank->err);
    return NULL;
}

/* Every job cut into pieces of one chunk, dealt out in turn. */
static void deal(const struct plan *plan, struct rank *ranks, int n_ranks)
{
    size_t next = 0;

    for (size_t j = 0; j < plan->n_jobs; j++)
        for (uint64_t first = 0; first < plan->jobs[j].n_elems; first += TILE_CHUNK_ELEMS, next++) {
            struct rank *rank = &ranks[next % (size_t)n_ranks];
            uint64_t left = plan->jobs[j].n_elems - first;
            assert_true(rank->n_ranges < MAX_RANGES);
            rank->ranges[rank->n_ranges++] =
                (struct plan_range){j, first, left < TILE_CHUNK_ELEMS ? left : TILE_CHUNK_ELEMS};
        }
}

static void free_plan(struct world *w)
{
    plan_free(w->plan);
    for (int m = 0; m < 4; m++)
        ckpt_free(w->models[m]);
    recipe_free(w->recipe);
    fixture_release(&w->f);
}

/* One survey by n ranks, each of which looks for the file in a folder of its own; all of them succeed. */
static void run_ranks(struct world *w, const struct wm_options *o, struct rank *ranks, int n, const char *const *dirs)
{
    struct meeting meeting = {.n_ranks = n};
    pthread_t threads[MAX_RANKS];

    memset(ranks, 0, (size_t)n * sizeof *ranks);
    pthread_barrier_init(&meeting.barrier, NULL, (unsigned)n);
    pthread_mutex_init(&meeting.lock, NULL);
    deal(w->plan, ranks, n);
    for (int r = 0; r < n; r++) {
        ranks[r].w = w;
        ranks[r].dir = dirs[r];
        ranks[r].options = o;
        ranks[r].meeting = &meeting;
        ranks[r].number = r;
        assert_int_equal(pthread_create(&threads[r], NULL, run_rank, &ranks[r]), 0);
    }
    for (int r = 0; r < n; r++)
        pthread_join(threads[r], NULL);
    for (int r = 0; r < n; r++)
        if (ranks[r].err.status != WM_OK)
            fail_msg("%s", ranks[r].err.message);
    pthread_barrier_destroy(&meeting.barrier);
    pthread_mutex_destroy(&meeting.lock);
}

static void ranks_find_what_one_finds(void **state)
{
    struct rank *ranks = calloc(MAX_RANKS, sizeof *ranks);
    struct wm_options o = quick();
    struct survey_result alone;
    struct wm_error err = WM_ERROR_INIT;
    struct world w;

    (void)state;
    assert_non_null(ranks);
    make_plan(&w, &o);
    struct survey_args args = {.plan = w.plan, .options = &o, .dir = w.f.dir};
    if (survey_run(&args, &alone, &err) != WM_OK)
        fail_msg("%s", err.message);
    assert_true(alone.thresholds.models[0].threshold != 0);
    assert_int_equal(alone.thresholds.n_models, 3);
    assert_false(file_exists(fixture_path(&w.f, SURVEY_FILE_NAME))); /* writes_file was not set */
    for (int n = 1; n <= MAX_RANKS; n++) {
        const char *const dirs[MAX_RANKS] = {w.f.dir, w.f.dir, w.f.dir};
        for (int again = 0; again < 2; again++) {
            uint64_t bytes_read = 0;
            run_ranks(&w, &o, ranks, n, dirs);
            for (int r = 0; r < n; r++) {
                assert_memory_equal(&ranks[r].result.thresholds, &alone.thresholds, sizeof alone.thresholds);
                assert_int_equal(ranks[r].result.was_known, again == 1);
                bytes_read += ranks[r].result.bytes_read;
            }
            assert_int_equal(bytes_read, again ? 0 : alone.bytes_read);
        }
        unlink(fixture_path(&w.f, SURVEY_FILE_NAME));
    }
    free(ranks);
    free_plan(&w);
}

/* Ends a survey of one process at the n-th sum: the first two are votes, then comes one a pass. */
static enum wm_status end_at(void *user, uint64_t *counts, size_t n_counts, struct wm_error *err)
{
    int *left = user;

    (void)counts;
    (void)n_counts;
    return --*left ? WM_OK : error_set(err, WM_TEMPORARY, "enough");
}

/* A shared file system may show one rank the file of a pass that another does not see yet: they go on together or begin
 * together, never apart. */
static void ranks_go_on_from_one_pass(void **state)
{
    static const struct {
        int n_passes; /* in the file that rank 0 sees */
        bool all_see_it;
    } cases[] = {{1, true}, {2, true}, {1, false}, {2, false}};
    struct rank *ranks = calloc(2, sizeof *ranks);
    struct wm_options o = quick();
    struct survey_result alone;
    struct wm_error err = WM_ERROR_INIT;
    char elsewhere[300];
    struct world w;

    (void)state;
    assert_non_null(ranks);
    make_plan(&w, &o);
    snprintf(elsewhere, sizeof elsewhere, "%s", fixture_path(&w.f, "elsewhere"));
    assert_int_equal(mkdir(elsewhere, 0700), 0);
    struct survey_args args = {.plan = w.plan, .options = &o, .dir = elsewhere};
    assert_int_equal(survey_run(&args, &alone, &err), WM_OK);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const char *const dirs[] = {w.f.dir, cases[c].all_see_it ? w.f.dir : elsewhere};
        int left = 3 + cases[c].n_passes, n_known = cases[c].all_see_it ? cases[c].n_passes : 0;
        struct rank everything = {.n_ranges = 0};
        struct survey_result ended;
        deal(w.plan, &everything, 1);
        args.dir = w.f.dir;
        args.ranges = everything.ranges;
        args.n_ranges = everything.n_ranges;
        args.reduce = end_at;
        args.user = &left;
        args.writes_file = true;
        err = (struct wm_error)WM_ERROR_INIT;
        assert_int_equal(survey_run(&args, &ended, &err), WM_TEMPORARY);
        assert_true(file_exists(fixture_path(&w.f, SURVEY_FILE_NAME)));
        run_ranks(&w, &o, ranks, 2, dirs);
        for (int r = 0; r < 2; r++) {
            assert_int_equal(ranks[r].result.n_known_passes, n_known);
            assert_memory_equal(&ranks[r].result.thresholds, &alone.thresholds, sizeof alone.thresholds);
        }
        assert_int_equal(ranks[0].result.bytes_read + ranks[1].result.bytes_read,
                         alone.bytes_read / 3 * (uint64_t)(3 - n_known));
        unlink(fixture_path(&w.f, SURVEY_FILE_NAME));
    }
    free(ranks);
    free_plan(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ranks_find_what_one_finds),
                                       cmocka_unit_test(ranks_go_on_from_one_pass)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
