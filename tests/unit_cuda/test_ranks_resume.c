/* A merge by ranks on pretended GPUs that ends in the middle (NCCL fails, a GPU is lost, one rank is stopped), twice, each
 * time with another number of ranks, leaves no output; the next one continues and gives the bytes of one process. */
#include "cuda_on_cpu.h"
#include "ranks_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { CASE_STEP = 3 };
#else
enum { CASE_STEP = 1 };
#endif
enum { ILLEGAL_ADDRESS = 700 /* a cudaError_t */, TRIES = 10 };

enum end { NCCL_FAILS, GPU_IS_LOST, ONE_IS_STOPPED };
static const char *const ends[] = {"NCCL fails", "a GPU is lost", "one is stopped"};

static const struct resume_case {
    const char *recipe;
    enum end end;
    int n_first, n_second, n_last;
} cases[] = {
    {"ties", NCCL_FAILS, 4, 8, 2},
    {"linear", ONE_IS_STOPPED, 4, 1, 8},
    {"ties", ONE_IS_STOPPED, 1, 4, 2},
    {"slerp", GPU_IS_LOST, 4, 2, 8},
    {"ties_global", NCCL_FAILS, 8, 2, 1},
    {"dare_ties", GPU_IS_LOST, 8, 4, 1},
    {"nuslerp_columns", ONE_IS_STOPPED, 2, 4, 8},
};

/* Calls of NCCL of one rank in an undisturbed merge. */
static uint64_t count_collectives(const struct fixture *f, const struct ranks_recipe *recipe, int n_ranks, bool lazy)
{
    struct nccl_sim_counts counts;
    struct ranks_run run;

    ranks_machine(n_ranks, lazy);
    ranks_begin(&run, f, recipe, "count", n_ranks, WM_DEVICE_CUDA);
    ranks_merge(&run);
    ranks_expect_well(&run, recipe->name);
    sim.get_counts(&counts);
    (void)ranks_digest(f, "count");
    return counts.collectives / (uint64_t)n_ranks;
}

static void lose_gpu(struct merge_rank *rank)
{
    cuda_on_cpu_fail_at(1, ILLEGAL_ADDRESS, rank->number);
}

static void stop(struct merge_rank *rank)
{
    wm_merge_cancel(rank->handle);
}

static bool exists(const struct fixture *f, const char *name)
{
    struct stat status;

    return stat(fixture_path(f, name), &status) == 0;
}

static void expect_end(const struct ranks_run *run, const struct fixture *f, const char *what)
{
    for (int i = 0; i < run->n_ranks; i++) {
        enum wm_status status = run->ranks[i].err.status;
        bool stopped = run->interrupt == stop && i == run->watched_rank;
        if (status != (stopped ? WM_CANCELLED : WM_TEMPORARY))
            fail_msg("%s, rank %d of %d ended with %s: %s", what, i, run->n_ranks, wm_status_name(status),
                     run->ranks[i].err.message);
    }
    if (exists(f, "out"))
        fail_msg("%s: the output's name is there although the merge is not done", what);
    if (!exists(f, ".out.warpmerge-partial"))
        fail_msg("%s: nothing is left to continue from", what);
}

/* Runs n ranks to an end before the end: at three quarters of NCCL's calls, or when the last rank has a record of work.
 * Where that comes too late, it is tried again. */
static void end_early(const struct fixture *f, const struct ranks_recipe *recipe, enum end end, int n_ranks, bool lazy,
                      const char *what)
{
    uint64_t n_collectives = end == NCCL_FAILS ? count_collectives(f, recipe, n_ranks, lazy) : 0;

    for (int i = 0; i < TRIES; i++) {
        struct ranks_run run;
        ranks_machine(n_ranks, lazy);
        ranks_begin(&run, f, recipe, "out", n_ranks, WM_DEVICE_CUDA);
        run.watched_rank = n_ranks - 1;
        if (end == NCCL_FAILS)
            plant(NCCL_SIM_ASYNC_ERROR, n_ranks - 1, n_collectives * 3 / 4, NCCL_REMOTE_ERROR);
        else
            run.interrupt = end == GPU_IS_LOST ? lose_gpu : stop;
        ranks_merge(&run);
        if (run.ranks[0].err.status != WM_OK) { /* it puts the output in place, as the last thing of all */
            expect_end(&run, f, what);
            return;
        }
        (void)ranks_digest(f, "out");
    }
    fail_msg("%s: no end of %d came before the merge was done", what, TRIES);
}

static void a_merge_continues_with_other_ranks(void **state)
{
    uint64_t bytes_resumed[] = {0, 0, 0};
    struct fixture f;

    (void)state;
    fixture_init(&f);
    ranks_write_models(&f);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i += CASE_STEP) {
        const struct resume_case *c = &cases[i];
        const struct ranks_recipe *recipe = ranks_recipe(c->recipe);
        struct hash128 expected;
        struct ranks_run run;
        char what[200];
        ranks_write_config(&f, recipe);
        expected = ranks_digest_of_one(&f, recipe);
        snprintf(what, sizeof what, "%s by %d ranks, then %d, then %d: %s", c->recipe, c->n_first, c->n_second,
                 c->n_last, ends[c->end]);
        end_early(&f, recipe, c->end, c->n_first, i % 2 == 0, what);
        end_early(&f, recipe, c->end, c->n_second, i % 2 != 0, what);
        ranks_machine(c->n_last, i % 2 == 0);
        ranks_begin(&run, &f, recipe, "out", c->n_last, WM_DEVICE_CUDA);
        ranks_merge(&run);
        ranks_expect_well(&run, what);
        if (!hash128_equal(expected, ranks_digest(&f, "out")))
            fail_msg("%s: other bytes than a single process on the CPU", what);
        print_message("%-80s %llu bytes taken over\n", what, (unsigned long long)run.bytes_resumed);
        bytes_resumed[c->end] += run.bytes_resumed;
    }
    for (int e = 0; e < 3; e++)
        if (CASE_STEP == 1 && !bytes_resumed[e])
            fail_msg("%s: nothing of any merge was there to continue from", ends[e]);
    fixture_release(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_merge_continues_with_other_ranks),
    };

    return cmocka_run_group_tests(tests, rig_load, NULL);
}
