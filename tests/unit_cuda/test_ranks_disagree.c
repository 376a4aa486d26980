/* Ranks on pretended GPUs that do not do the same: one believes that no tensor has statistics, one loses what it counted, one
 * loses its GPU while all count together. Every rank ends soon, with the reason, and what can be continued is. */
#include "base/file.h"
#include "cuda_on_cpu.h"
#include "methods/device.h"
#include "plan/plan.h"
#include "ranks_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_RANKS = 4, WRONG_RANK = 2, ILLEGAL_ADDRESS = 700 /* a cudaError_t */, FEW_SECONDS = 60 /* a busy machine */ };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { RECORDS_STEP = 8 };
#else
enum { RECORDS_STEP = 4 };
#endif

/* Who lies; -1: nobody. */
static int denies_statistics = -1, loses_counts = -1;

bool __real_plan_job_has_statistics(const struct plan *plan, const struct plan_job *job, struct merge_op *op);
bool __wrap_plan_job_has_statistics(const struct plan *plan, const struct plan_job *job, struct merge_op *op);
void __real_device_pass_collect(const struct merge_op *op, struct statistics *s, const void *results);
void __wrap_device_pass_collect(const struct merge_op *op, struct statistics *s, const void *results);

bool __wrap_plan_job_has_statistics(const struct plan *plan, const struct plan_job *job, struct merge_op *op)
{
    return __real_plan_job_has_statistics(plan, job, op) && ranks_number_here != denies_statistics;
}

/* A rank has the GPU of its number. */
void __wrap_device_pass_collect(const struct merge_op *op, struct statistics *s, const void *results)
{
    int device = -1;

    if (cudaGetDevice(&device) != cudaSuccess || device != loses_counts)
        __real_device_pass_collect(op, s, results);
}

static void begin(struct ranks_run *run, const struct fixture *f, const char *recipe, int n_ranks)
{
    ranks_begin(run, f, ranks_recipe(recipe), "out", n_ranks, WM_DEVICE_CUDA);
}

static void expect_ends(const struct ranks_run *run, const char *what, enum wm_status status, const char *reason)
{
    for (int i = 0; i < run->n_ranks; i++)
        if (run->ranks[i].err.status != status || !strstr(run->ranks[i].err.message, reason))
            fail_msg("%s, rank %d ended with %s: %s", what, i, wm_status_name(run->ranks[i].err.status),
                     run->ranks[i].err.message);
}

static void expect_continued(const struct fixture *f, const char *recipe, int n_ranks, struct hash128 expected)
{
    struct ranks_run run;

    ranks_machine(n_ranks, false);
    begin(&run, f, recipe, n_ranks);
    ranks_merge(&run);
    ranks_expect_well(&run, recipe);
    if (!hash128_equal(expected, ranks_digest(f, "out")))
        fail_msg("%s, continued: other bytes than a single process", recipe);
}

static void ranks_that_share_other_tensors_are_told(void **state)
{
    const struct fixture *f = *state;
    double began = file_now_seconds();
    struct ranks_run run;

    ranks_machine(N_RANKS, true);
    begin(&run, f, "ties", N_RANKS);
    denies_statistics = WRONG_RANK;
    ranks_merge(&run);
    denies_statistics = -1;
    expect_ends(&run, "one denies statistics", WM_BAD_CONFIG, "rank 2 divides the merge otherwise than rank 0");
    assert_true(file_now_seconds() - began < FEW_SECONDS);
    expect_continued(f, "ties", 2, ranks_digest_of_one(f, ranks_recipe("ties")));
}

static void lost_counts_end_every_rank(void **state)
{
    const struct fixture *f = *state;
    double began = file_now_seconds();
    struct ranks_run run;

    ranks_machine(N_RANKS, false);
    begin(&run, f, "ties", N_RANKS);
    loses_counts = WRONG_RANK;
    ranks_merge(&run);
    loses_counts = -1;
    expect_ends(&run, "one loses its counts", WM_TEMPORARY, "the counts of tensor large.");
    assert_true(file_now_seconds() - began < FEW_SECONDS);
    expect_continued(f, "ties", 2, ranks_digest_of_one(f, ranks_recipe("ties")));
}

static void lose_gpu(struct merge_rank *rank)
{
    cuda_on_cpu_fail_at(1, ILLEGAL_ADDRESS, rank->number);
}

/* The sums go through files, which a lost GPU does not touch. */
static void a_gpu_lost_while_all_count(void **state)
{
    const struct fixture *f = *state;
    struct hash128 expected = ranks_digest_of_one(f, ranks_recipe("ties"));
    int n_told = 0;

    assert_int_equal(setenv("WM_NCCL_LIBRARY", "none", 1), 0);
    for (int n_records = 1; n_records < 14; n_records += RECORDS_STEP) {
        struct ranks_run run;
        ranks_machine(2, false);
        begin(&run, f, "ties", 2);
        run.watched_rank = 1;
        run.n_records = n_records;
        run.interrupt = lose_gpu;
        ranks_merge(&run);
        if (run.ranks[0].err.status == WM_OK) { /* too late, or while it was alone with its tensors */
            if (!hash128_equal(expected, ranks_digest(f, "out")))
                fail_msg("a GPU was lost after %d records: other bytes", n_records);
            continue;
        }
        expect_ends(&run, "a GPU was lost", WM_TEMPORARY, "GPU 1 failed while");
        n_told++;
        expect_continued(f, "ties", 1 + n_records % 3, expected);
    }
    assert_int_equal(setenv("WM_NCCL_LIBRARY", NCCL_SIM, 1), 0);
    assert_true(n_told > 0);
}

static int set_up(void **state)
{
    static struct fixture f;

    fixture_init(&f);
    ranks_write_models(&f);
    ranks_write_config(&f, ranks_recipe("ties"));
    *state = &f;
    return rig_load(state) == 0 ? 0 : -1;
}

static int tear_down(void **state)
{
    fixture_release(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_that_share_other_tensors_are_told),
        cmocka_unit_test(lost_counts_end_every_rank),
        cmocka_unit_test(a_gpu_lost_while_all_count),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
