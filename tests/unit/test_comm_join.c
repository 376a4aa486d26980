/* Ranks that share a directory and come together: in any order; one that never appears is named after a time of grace;
 * ranks that disagree on their number, two processes that are one rank, and one that fails early are told. */
#include "comm_world.h"

#define NEVER 0.15 /* deadline of those who wait for a rank that does not come */

static int two_ranks(int rank)
{
    (void)rank;
    return 2;
}

static void miss_somebody(struct place *p)
{
    struct wm_error err = WM_ERROR_INIT;
    double began = file_now_seconds();

    RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == WM_TEMPORARY, "status %d", (int)err.status);
    RANK_CHECK(strstr(err.message, p->world->user), "\"%s\" lacks \"%s\"", err.message, (const char *)p->world->user);
    RANK_CHECK(strstr(err.message, "did not appear") && strstr(err.message, ranks_dir), "%s", err.message);
    RANK_CHECK(file_now_seconds() - began > 3 * NEVER, "no time to start: %.3f s", file_now_seconds() - began);
    RANK_CHECK(file_now_seconds() - began < 6 * NEVER + 3, "too late: %.3f s", file_now_seconds() - began);
}

static int one_more(int rank)
{
    return rank + 1;
}

static int three_ranks(int rank)
{
    (void)rank;
    return 3;
}

static void a_rank_that_never_appears_is_named(void **state)
{
    struct world w = {.kind = WORLD_FILES_IN_THREADS,
                      .size = 1,
                      .deadline_seconds = NEVER,
                      .size_of = two_ranks,
                      .user = "of 2 ranks these did not appear"};

    (void)state;
    world_run(&w, miss_somebody);
    assert_int_equal(world_n_files(ranks_dir), -1);
    w.user = ": 1;";
    world_run(&w, miss_somebody);
    w = (struct world){
        .kind = WORLD_FILES_IN_THREADS, .size = 2, .deadline_seconds = NEVER, .size_of = three_ranks, .user = ": 2;"};
    world_run(&w, miss_somebody); /* rank 1 hears it from rank 0 */
    w.rank_of = one_more;
    w.user = "rank 0 of 3 did not appear";
    world_run(&w, miss_somebody);
}

/* In whatever order schedulers start them, and rank 0 last. */
static void ranks_may_start_late(void **state)
{
    (void)state;
    world_run(
        &(struct world){
            .kind = WORLD_FILES_IN_PROCESSES, .size = 3, .deadline_seconds = 1, .start_seconds = {0.8, 0, 0.4}},
        world_meet);
    world_run(
        &(struct world){
            .kind = WORLD_FILES_IN_PROCESSES, .size = 3, .deadline_seconds = 1, .start_seconds = {0, 0.8, 0.4}},
        world_meet);
    assert_int_equal(world_n_files(ranks_dir), -1);
}

static int count_differently(int rank)
{
    return 2 + rank;
}

static void disagree_on_size(struct place *p)
{
    struct wm_error err = WM_ERROR_INIT;
    enum wm_status want = p->index ? WM_USAGE : WM_TEMPORARY; /* it is known whose fault it is: not rank 0's */

    RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == want, "status %d: %s", (int)err.status, err.message);
    RANK_CHECK(strstr(err.message, "counts 2 ranks but rank 1 counts 3"), "%s", err.message);
}

static void different_sizes_are_refused(void **state)
{
    (void)state;
    world_run(&(struct world){.kind = WORLD_FILES_IN_THREADS, .size = 2, .size_of = count_differently},
              disagree_on_size);
}

static int same_rank(int rank)
{
    return rank == 2 ? 1 : rank;
}

static void be_twice(struct place *p)
{
    struct wm_error err = WM_ERROR_INIT;

    if (p->index < 2) {
        world_meet(p);
        RANK_CHECK(world_wait(&p->slots[2].flag), "the second rank 1 does not give up");
        world_meet(p);
        return;
    }
    RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == WM_TEMPORARY, "status %d", (int)err.status);
    RANK_CHECK(strstr(err.message, "rank 1 is taken by process"), "%s", err.message);
    world_set(&p->mine->flag);
}

static void a_rank_cannot_be_two_processes(void **state)
{
    (void)state;
    world_run(&(struct world){.kind = WORLD_FILES_IN_THREADS,
                              .size = 3,
                              .deadline_seconds = 0.4,
                              .size_of = two_ranks,
                              .rank_of = same_rank,
                              .start_seconds = {0, 0, 0.2}},
              be_twice);
}

static void fail_before_meeting(struct place *p)
{
    struct wm_error why = {WM_NO_DEVICE, "no GPU here"}, err = WM_ERROR_INIT;
    double began = file_now_seconds();

    if (p->index == *(const int *)p->world->user)
        p->comm->ops->abort(p->comm, &why);
    RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == WM_TEMPORARY, "status %d", (int)err.status);
    RANK_CHECK(strstr(err.message, "no GPU here"), "%s", err.message);
    RANK_CHECK(file_now_seconds() - began < 3, "told after %.3f s only", file_now_seconds() - began);
}

static void a_rank_that_fails_early_tells_the_others(void **state)
{
    (void)state;
    for (int failing = 0; failing < 3; failing++)
        world_run(&(struct world){.kind = WORLD_FILES_IN_PROCESSES, .size = 3, .user = &failing}, fail_before_meeting);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_rank_that_never_appears_is_named, ranks_clear),
        cmocka_unit_test_setup(ranks_may_start_late, ranks_clear),
        cmocka_unit_test_setup(different_sizes_are_refused, ranks_clear),
        cmocka_unit_test_setup(a_rank_cannot_be_two_processes, ranks_clear),
        cmocka_unit_test_setup(a_rank_that_fails_early_tells_the_others, ranks_clear),
    };

    return cmocka_run_group_tests(tests, ranks_set_up, world_tear_down);
}
