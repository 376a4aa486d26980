/*
 * test_comm_nccl_failure.c: whatever goes wrong between ranks that speak through NCCL ends on all of them, in time, with a
 * reason, and leaves nothing behind.
 *
 * What lives here: faults planted into the pretended NCCL and the pretended GPUs, aborts, ranks that stop. What it must
 * not know: the answers when nothing fails (test_comm_nccl.c).
 */
#include "comm_nccl_rig.h"
#include "cuda_on_cpu.h"
#include "unit/temp_dir.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CUDA_OUT_OF_MEMORY = 2, CUDA_ILLEGAL_ADDRESS = 700 };
/* One call in so many is made to fail; a sanitizer makes each ten times as long. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { STEP = 5 };
#else
enum { STEP = 1 };
#endif

static void until_it_fails(struct rank *k)
{
    struct wm_error first, later = WM_ERROR_INIT;

    for (int i = 0; i < 5 && sum(k, 10) && gather(k, 10) && meet(k); i++)
        continue;
    first = k->error;
    if (first.status == WM_OK) {
        WRONG(k, "nothing failed");
        return;
    }
    if (!k->comm->ops->failed(k->comm, &later) || k->comm->ops->barrier(k->comm, &later) == WM_OK ||
        k->comm->ops->all_gather(k->comm, NULL, 0, NULL, &later) == WM_OK)
        WRONG(k, "a later call worked");
    if (strcmp(first.message, later.message) != 0)
        WRONG(k, "a later call gave another reason: %.150s", later.message);
}

/* Some calls, which may fail; afterwards all ranks are of one opinion. */
static void try_calls(struct rank *k)
{
    uint64_t failed = 0, all[MAX_RANKS];
    struct wm_error err = WM_ERROR_INIT;

    for (int i = 0; i < 3 && sum(k, 10) && gather(k, 10) && meet(k); i++)
        continue;
    failed = k->error.status != WM_OK;
    k->peers->ops->all_gather(k->peers, &failed, sizeof failed, all, &err);
    for (int r = 0; r < k->comm->size; r++)
        failed |= all[r];
    if (failed && meet(k))
        WRONG(k, "a rank failed and this one's next call worked");
    if (failed && k->error.status != WM_TEMPORARY)
        WRONG(k, "status %d", k->error.status);
}

static void expect_reason(const struct run *run, enum wm_status status, const char *words)
{
    for (int r = 0; r < run->size; r++)
        if (run->ranks[r].error.status != status || !strstr(run->ranks[r].error.message, words))
            fail_msg("rank %d has %d, \"%s\", not \"%s\"", r, run->ranks[r].error.status, run->ranks[r].error.message,
                     words);
}

static void a_failure_reaches_all_ranks(void **state)
{
    static const struct {
        enum nccl_sim_fault fault;
        int rank;
        uint64_t at;
        int code;
        const char *words;
    } cases[] = {
        {NCCL_SIM_NEVER_ARRIVES, 1, 1, 0, "NCCL did not get done within 1 s on rank"},
        {NCCL_SIM_NEVER_ARRIVES, 0, 4, 0, "NCCL did not get done within 1 s on rank"},
        {NCCL_SIM_ASYNC_ERROR, 2, 1, NCCL_REMOTE_ERROR,
         "NCCL failed on GPU 2 of rank 2 while adding up over all ranks: remote"},
        {NCCL_SIM_ASYNC_ERROR, 1, 4, NCCL_SYSTEM_ERROR,
         "NCCL failed on GPU 1 of rank 1 while gathering from all ranks: "
         "unhandled system error (pretended by"},
    };

    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (int lazy = 0; lazy < 2; lazy++) {
            struct run run;
            machine(MAX_RANKS, lazy);
            plant(cases[c].fault, cases[c].rank, cases[c].at, cases[c].code);
            begin_run(&run, 3, until_it_fails);
            run.deadline_seconds = cases[c].fault == NCCL_SIM_NEVER_ARRIVES ? 1 : 20;
            go(&run);
            expect_reason(&run, WM_TEMPORARY, cases[c].words);
            expect_reason(&run, WM_TEMPORARY, "run the same command again");
        }
}

/* Control by files, as between processes: the same answers, and the reason for a failure reaches everybody. */
static void control_may_be_files(void **state)
{
    char dir[] = "/tmp/wm_test_XXXXXX", inner[40];
    struct run run;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(inner, sizeof inner, "%s/comm", dir);
    for (int fails = 0; fails < 2; fails++) {
        machine(MAX_RANKS, true);
        if (fails)
            plant(NCCL_SIM_ASYNC_ERROR, 2, 3, NCCL_REMOTE_ERROR);
        begin_run(&run, 3, fails ? until_it_fails : try_calls);
        run.dir = inner;
        go(&run);
        if (fails)
            expect_reason(&run, WM_TEMPORARY, "NCCL failed on GPU 2 of rank 2");
        else
            assert_int_equal(run.ranks[0].error.status, WM_OK);
    }
    temp_dir_remove(dir);
}

static void *abort_soon(void *data)
{
    struct rank *k = data;
    struct wm_error why = WM_ERROR_INIT;

    sleep_ms(100);
    error_set(&why, WM_IO, "rank %d has a full disk", k->number);
    k->comm->ops->abort(k->comm, &why);
    return NULL;
}

static void wait_and_abort(struct rank *k)
{
    pthread_t thread;
    bool aborts = k->number == 1 && pthread_create(&thread, NULL, abort_soon, k) == 0;

    until_it_fails(k);
    if (aborts)
        pthread_join(thread, NULL);
}

static void late_for_ever(struct rank *k)
{
    struct wm_error why = WM_ERROR_INIT;

    if (k->number != 1) {
        until_it_fails(k);
        return;
    }
    error_set(&why, WM_IO, "rank %d has a full disk", k->number);
    sleep_ms(100);
    k->comm->ops->abort(k->comm, &why);
    until_it_fails(k);
}

/* Both where ranks stand: in NCCL, which hangs, and before it. */
static void an_abort_reaches_all_ranks(void **state)
{
    struct run run;

    (void)state;
    machine(MAX_RANKS, false);
    plant(NCCL_SIM_NEVER_ARRIVES, 0, 1, 0);
    begin_run(&run, 3, wait_and_abort);
    go(&run);
    expect_reason(&run, WM_TEMPORARY, "rank 1 has a full disk");
    machine(MAX_RANKS, true);
    begin_run(&run, 3, late_for_ever);
    go(&run);
    expect_reason(&run, WM_TEMPORARY, "rank 1 has a full disk");
}

static void a_rank_that_is_stopped_stops_all(void **state)
{
    struct run run;

    (void)state;
    machine(MAX_RANKS, false);
    plant(NCCL_SIM_NEVER_ARRIVES, 0, 1, 0);
    begin_run(&run, 3, until_it_fails);
    run.cancelled_rank = 1;
    run.n_open_to_stop = 3;
    go(&run);
    assert_int_equal(run.ranks[1].error.status, WM_CANCELLED);
    assert_int_equal(run.ranks[0].error.status, WM_TEMPORARY);
    assert_int_equal(run.ranks[2].error.status, WM_TEMPORARY);
    assert_non_null(strstr(run.ranks[2].error.message, "rank 1 was stopped on request"));
}

static void watch_or_abort(struct rank *k)
{
    struct wm_error why = WM_ERROR_INIT;
    int n_looks = 0;

    error_set(&why, WM_IO, "rank %d has a full disk", k->number);
    if (k->number == 1)
        k->comm->ops->abort(k->comm, &why);
    while (!k->comm->ops->failed(k->comm, &k->error) && n_looks++ < 1000)
        sleep_ms(5);
}

static void ranks_at_work_see_an_abort(void **state)
{
    struct run run;

    (void)state;
    machine(MAX_RANKS, false);
    begin_run(&run, 3, watch_or_abort);
    go(&run);
    expect_reason(&run, WM_TEMPORARY, "rank 1 has a full disk");
}

static void opens_nothing(struct rank *k)
{
    WRONG(k, "NCCL opened");
}

static void opening_can_be_stopped(void **state)
{
    struct run run;

    (void)state;
    machine(MAX_RANKS, false);
    plant(NCCL_SIM_INIT_HANGS, 0, 0, 0);
    begin_run(&run, 3, opens_nothing);
    run.cancelled_rank = 2;
    go(&run);
    for (int r = 0; r < 3; r++)
        assert_int_equal(run.ranks[r].opened.status, r == 2 ? WM_CANCELLED : WM_TEMPORARY);
    assert_non_null(strstr(run.ranks[0].opened.message, "rank 2 was stopped on request"));
}

static void ends_early(struct rank *k)
{
    if (k->number == 1)
        return;
    until_it_fails(k);
}

static void a_rank_that_ends_early_is_noticed(void **state)
{
    struct run run;

    (void)state;
    machine(MAX_RANKS, false);
    begin_run(&run, 2, ends_early);
    go(&run);
    assert_int_equal(run.ranks[0].error.status, WM_TEMPORARY);
    assert_non_null(strstr(run.ranks[0].error.message, "rank 1"));
}

static void unlike_calls(struct rank *k)
{
    uint64_t values[4] = {0};
    struct wm_error err = WM_ERROR_INIT;

    works(k, k->comm->ops->all_reduce_u64(k->comm, values, k->number == 1 ? 3 : 4, &err), &err);
}

static void unlike_calls_are_named(void **state)
{
    struct run run;

    (void)state;
    machine(MAX_RANKS, false);
    begin_run(&run, 2, unlike_calls);
    go(&run);
    expect_reason(&run, WM_TEMPORARY, "rank 1 called all_reduce_u64 of 3 where rank 0 called all_reduce_u64 of 4");
}

static void nothing(struct rank *k)
{
    (void)k;
}

static void closing_ends_in_time(void **state)
{
    struct nccl_sim_counts counts;
    struct run run;

    (void)state;
    machine(MAX_RANKS, false);
    plant(NCCL_SIM_NEVER_FINALIZED, 1, 0, 0);
    begin_run(&run, 2, nothing);
    run.deadline_seconds = 1;
    go(&run);
    sim.get_counts(&counts);
    assert_int_equal(counts.aborted, 1);
}

/* Every call of NCCL's and of CUDA's in turn. */
static void the_nth_call_may_fail(void **state)
{
    static const struct {
        bool of_nccl, for_good;
        int code;
    } kinds[] = {{true, false, NCCL_SYSTEM_ERROR},
                 {true, true, NCCL_SYSTEM_ERROR},
                 {false, false, CUDA_OUT_OF_MEMORY},
                 {false, false, CUDA_ILLEGAL_ADDRESS}};
    int n_unopened = 0, n_failed = 0, n_fine = 0;

    (void)state;
    for (size_t c = 0; c < sizeof kinds / sizeof *kinds; c++)
        for (uint64_t n = 1; n <= 70; n += STEP) {
            struct run run;
            bool unopened;
            machine(2, n % 2);
            if (kinds[c].of_nccl)
                plant(kinds[c].for_good ? NCCL_SIM_CALLS_FAIL : NCCL_SIM_CALL_FAILS, n % 3 == 0 ? -1 : (int)n % 2, n,
                      kinds[c].code);
            else
                cuda_on_cpu_fail_at(n, kinds[c].code, (int)n % 2);
            begin_run(&run, 2, try_calls);
            run.deadline_seconds = 0.3; /* a rank that cannot open is waited for */
            go(&run);
            unopened = run.ranks[0].opened.status != WM_OK;
            n_unopened += unopened;
            n_failed += !unopened && run.ranks[0].error.status != WM_OK;
            n_fine += !unopened && run.ranks[0].error.status == WM_OK;
            assert_int_equal(run.ranks[0].opened.status, run.ranks[1].opened.status);
            assert_true(!unopened || run.ranks[0].opened.status == WM_NO_DEVICE);
        }
    assert_true(n_unopened > 20 / STEP);
    assert_true(n_failed > 20 / STEP);
    assert_true(n_fine > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failure_reaches_all_ranks),
        cmocka_unit_test(control_may_be_files),
        cmocka_unit_test(an_abort_reaches_all_ranks),
        cmocka_unit_test(a_rank_that_is_stopped_stops_all),
        cmocka_unit_test(ranks_at_work_see_an_abort),
        cmocka_unit_test(opening_can_be_stopped),
        cmocka_unit_test(a_rank_that_ends_early_is_noticed),
        cmocka_unit_test(unlike_calls_are_named),
        cmocka_unit_test(closing_ends_in_time),
        cmocka_unit_test(the_nth_call_may_fail),
    };

    return cmocka_run_group_tests(tests, rig_load, NULL);
}
