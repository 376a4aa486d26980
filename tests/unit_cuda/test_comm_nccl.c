/*
 * test_comm_nccl.c: ranks that speak through NCCL get the answers that threads get, and where there is no NCCL all of them
 * find that out together.
 *
 * What lives here: comm_nccl.c on pretended GPUs with a pretended NCCL (cuda_on_cpu/nccl_sim.h); control is comm_threads.
 * What it must not know: what happens when a call fails (test_comm_nccl_failure.c).
 */
#include "../support/sanitizers.h"
#include "comm_nccl_rig.h"
#include "cuda_on_cpu.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- the answers ------------------------------------------------------------------------------------------------- */

static void several_calls(struct rank *k)
{
    /* Pieces of 4 MiB: one value or byte less, as many, one more, and several. */
    static const size_t n_values[] = {0, 1, 3, 1000, 524288, 524289};
    const size_t piece = ((size_t)4 << 20) / (size_t)k->comm->size / 16 * 16;
    const size_t n_bytes[] = {0, 1, 5, 65536, piece - 1, piece, 2 * piece + 7};
    bool ok = true;

    for (size_t i = 0; i < sizeof n_values / sizeof *n_values; i++)
        ok = sum(k, n_values[i]) && sum_by(k->peers, k, n_values[i]) && meet(k) && ok;
    for (size_t i = 0; i < sizeof n_bytes / sizeof *n_bytes; i++)
        ok = gather(k, n_bytes[i]) && gather_by(k->peers, k, n_bytes[i]) && ok;
    if (!ok)
        WRONG(k, "a call failed: %.150s", k->error.message);
}

/* What control carries, NCCL's ranks say and hear as well. */
static void say_and_hear(struct rank *k)
{
    unsigned char note[COMM_NOTE_BYTES];
    double age;

    k->comm->ops->publish(k->comm, &k->number, sizeof k->number);
    if (!meet(k))
        WRONG(k, "a call failed: %.150s", k->error.message);
    for (int r = 0; r < k->comm->size; r++)
        if (!k->comm->ops->peek(k->comm, r, note, &age) || memcmp(note, &r, sizeof r) != 0)
            WRONG(k, "the note of rank %d did not come", r);
}

static void notes_go_through_control(void **state)
{
    struct run run;

    (void)state;
    machine(MAX_RANKS, false);
    begin_run(&run, 3, say_and_hear);
    go(&run);
}

static void answers_are_those_of_threads(void **state)
{
    static const int sizes[] = {1, 2, 3, 4};
    struct nccl_sim_counts counts;
    struct run run;

    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s += UNDER_TSAN ? 3 : 1)
        for (int lazy = 0; lazy < 2; lazy++)
            for (unsigned n_polls = 0; n_polls < 4; n_polls += 3) {
                if ((UNDER_ASAN || UNDER_TSAN) && (n_polls == 0) == (lazy == 0)) /* half of it is still minutes */
                    continue;
                struct nccl_sim_config config = {.version = 22809, .n_polls = n_polls, .rank = -1};
                machine(MAX_RANKS, lazy);
                sim.configure(&config);
                begin_run(&run, sizes[s], several_calls);
                go(&run);
                sim.get_counts(&counts);
                assert_true(counts.collectives > 10);
                assert_int_equal(counts.aborted, 0);
            }
}

static void blocks(struct rank *k)
{
    size_t offsets[MAX_RANKS + 1], n_mine = (size_t)k->number * 1000, at = 0;
    char *mine = malloc(n_mine + 1), *all = NULL;
    struct wm_error err = WM_ERROR_INIT;

    memset(mine, 'a' + k->number, n_mine + 1);
    if (comm_gather_blocks(k->comm, mine, n_mine, (void **)&all, offsets, &err) != WM_OK) {
        WRONG(k, "%.150s", err.message);
    } else {
        for (int r = 0; r < k->comm->size; r++) {
            if (offsets[r] != at)
                WRONG(k, "block %d begins at %zu", r, offsets[r]);
            for (size_t i = 0; i < (size_t)r * 1000; i++)
                if (all[at + i] != 'a' + r)
                    WRONG(k, "byte %zu of block %d is wrong", i, r);
            at += (size_t)r * 1000;
        }
        free(all);
    }
    free(mine);
}

static void blocks_may_be_of_any_length(void **state)
{
    struct run run;

    (void)state;
    machine(MAX_RANKS, true);
    begin_run(&run, MAX_RANKS, blocks);
    go(&run);
}

/* ---- waiting ----------------------------------------------------------------------------------------------------- */

static int n_arrived;

/* The last rank is later than the deadline, and that is no failure. */
static void late_once(struct rank *k)
{
    if (k->number == k->comm->size - 1)
        sleep_ms(1500);
    __atomic_add_fetch(&n_arrived, 1, __ATOMIC_RELAXED);
    if (!meet(k))
        WRONG(k, "a late rank failed a barrier: %.150s", k->error.message);
    if (__atomic_load_n(&n_arrived, __ATOMIC_RELAXED) != k->comm->size)
        WRONG(k, "the barrier let a rank go before all had come");
    if (k->number == 0)
        sleep_ms(1500);
    if (!sum(k, 10))
        WRONG(k, "a late rank failed a sum: %.150s", k->error.message);
}

static void late_ranks_are_waited_for(void **state)
{
    struct run run;

    (void)state;
    machine(MAX_RANKS, false);
    n_arrived = 0;
    begin_run(&run, 3, late_once);
    run.deadline_seconds = 1;
    go(&run);
}

static void *sum_on_another_thread(void *data)
{
    struct rank *k = data;

    if (!sum(k, 100) || !gather(k, 100) || !meet(k))
        WRONG(k, "%.150s", k->error.message);
    return NULL;
}

static void another_thread_each_time(struct rank *k)
{
    for (int i = 0; i < 3; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, sum_on_another_thread, k) != 0)
            WRONG(k, "no thread");
        else
            pthread_join(thread, NULL);
    }
}

/* A new thread's GPU is GPU 0. */
static void calls_may_come_from_any_thread(void **state)
{
    struct run run;

    (void)state;
    machine(MAX_RANKS, true);
    begin_run(&run, 3, another_thread_each_time);
    go(&run);
}

/* ---- doing without ----------------------------------------------------------------------------------------------- */

static void never(struct rank *k)
{
    WRONG(k, "NCCL opened");
}

static void expect_no_nccl(struct run *run, const char *words)
{
    go(run);
    for (int r = 0; r < run->size; r++)
        if (run->ranks[r].opened.status != WM_NO_DEVICE || !strstr(run->ranks[r].opened.message, words))
            fail_msg("rank %d has %d, \"%s\", not \"%s\"", r, run->ranks[r].opened.status, run->ranks[r].opened.message,
                     words);
}

/* Every rank gives the same reason and goes on with control. */
static void without_nccl_all_do_without(void **state)
{
    static const struct {
        const char *library, *words;
    } libraries[] = {{"/nowhere/libnccl.so.2", "rank 0 on "},
                     {"/nowhere/libnccl.so.2", "NCCL cannot be loaded: /nowhere/libnccl.so.2: cannot open"},
                     {"libm.so.6", "libm.so.6 is not NCCL"},
                     {"none", "not to be used"}};
    struct nccl_sim_config old = {.version = 21304, .rank = -1};
    struct run run;

    (void)state;
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
        machine(2, false);
        setenv("WM_NCCL_LIBRARY", libraries[i].library, 1);
        begin_run(&run, 2, never);
        expect_no_nccl(&run, libraries[i].words);
        setenv("WM_NCCL_LIBRARY", NCCL_SIM, 1);
    }
    machine(2, false);
    sim.configure(&old);
    begin_run(&run, 2, never);
    expect_no_nccl(&run, "is NCCL 2.13.4, and 2.14.0 or newer is needed");
    machine(2, false);
    plant(NCCL_SIM_VERSIONS_DIFFER, -1, 0, 0);
    begin_run(&run, 2, never);
    expect_no_nccl(&run, "install the same");
}

static void unfit_gpus_are_named(void **state)
{
    struct run run;

    (void)state;
    machine(3, false);
    begin_run(&run, 3, never);
    run.device_of[2] = 1;
    expect_no_nccl(&run, "ranks 1 and 2 share GPU 0000:02:00.0 of ");
    begin_run(&run, 3, never);
    run.device_of[2] = 7;
    expect_no_nccl(&run, "GPU 7 of rank 2 failed while being chosen for NCCL: invalid device ordinal");
    machine(0, false);
    begin_run(&run, 2, never);
    expect_no_nccl(&run, "no CUDA-capable device");
}

static void what_cannot_connect_does_without(void **state)
{
    struct run run;

    (void)state;
    machine(3, false);
    plant(NCCL_SIM_INIT_HANGS, 1, 0, 0);
    begin_run(&run, 3, never);
    run.deadline_seconds = 0.3;
    expect_no_nccl(&run, "NCCL did not get done within 0.3 s");
    plant(NCCL_SIM_INIT_FAILS, 0, 0, NCCL_SYSTEM_ERROR);
    begin_run(&run, 3, never);
    run.deadline_seconds = 0.3;
    expect_no_nccl(&run, "NCCL failed on GPU 0 of rank 0 while connecting the ranks: unhandled system error");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(notes_go_through_control),       cmocka_unit_test(answers_are_those_of_threads),
        cmocka_unit_test(blocks_may_be_of_any_length),    cmocka_unit_test(late_ranks_are_waited_for),
        cmocka_unit_test(calls_may_come_from_any_thread), cmocka_unit_test(without_nccl_all_do_without),
        cmocka_unit_test(unfit_gpus_are_named),           cmocka_unit_test(what_cannot_connect_does_without),
    };

    return cmocka_run_group_tests(tests, rig_load, NULL);
}
