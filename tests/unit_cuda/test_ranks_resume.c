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

/* What an undisturbed merge asks of NCCL and of each device, so that the end comes after a given share of it. */
struct effort {
    uint64_t collectives, calls; /* of one rank */
};

static struct effort measure(const struct fixture *f, const struct ranks_recipe *recipe, int n_ranks, bool lazy)
{
    struct cuda_on_cpu_counts counts;
    struct nccl_sim_counts nccl;
    struct ranks_run run;

    ranks_machine(n_ranks, lazy);
    ranks_begin(&run, f, recipe, "measure", n_ranks, WM_DEVICE_CUDA);
    ranks_merge(&run);
    ranks_expect_well(&run, recipe->name);
    cuda_on_cpu_get_counts(&counts);
    sim.get_counts(&nccl);
    (void)ranks_digest(f, "measure");
    return (struct effort){nccl.collectives / (uint64_t)n_ranks, counts.calls / (uint64_t)n_ranks};
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
        if (status != WM_TEMPORARY && (i != run->stopped_rank || status != WM_CANCELLED))
            fail_msg("%s, rank %d of %d ended with %s: %s", what, i, run->n_ranks, wm_status_name(status),
                     run->ranks[i].err.message);
    }
    if (exists(f, "out"))
        fail_msg("%s: the output's name is there although the merge is not done", what);
    if (!exists(f, ".out.warpmerge-partial"))
        fail_msg("%s: nothing is left to continue from", what);
}

/* Runs n ranks to an end before the end: at three quarters of the calls of NCCL; in the first half of the calls of the last
 * rank's GPU, whose number depends on how long others are waited for; or when the last rank has a record of work. Where it
 * comes too late, it is tried again. */
static void end_early(const struct fixture *f, const struct ranks_recipe *recipe, enum end end, int n_ranks, bool lazy,
                      const char *what)
{
    struct effort effort = {0, 0};
    int last = n_ranks - 1;

    if (end != ONE_IS_STOPPED)
        effort = measure(f, recipe, n_ranks, lazy);
    for (int i = 0; i < TRIES; i++) {
        struct ranks_run run;
        ranks_machine(n_ranks, lazy);
        ranks_begin(&run, f, recipe, "out", n_ranks, WM_DEVICE_CUDA);
        if (end == NCCL_FAILS)
            plant(NCCL_SIM_ASYNC_ERROR, last, effort.collectives * 3 / 4, NCCL_REMOTE_ERROR);
        else if (end == GPU_IS_LOST)
            cuda_on_cpu_fail_at(effort.calls * (uint64_t)(TRIES - i) / (2 * TRIES), ILLEGAL_ADDRESS, last);
        else
            run.stopped_rank = last;
        run.n_records = 1;
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
