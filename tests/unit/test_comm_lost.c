/* Ranks that share a directory and die: one that is killed or stopped is noticed within the deadline, by ranks that wait
 * and ranks that work, and named with its process and host; one that is only late is waited for. */
#include "comm_world.h"

#define DEADLINE 0.5

static bool is_host_named(const char *message)
{
    char host[128] = "";

    gethostname(host, sizeof host - 1);
    return strstr(message, host) != NULL;
}

struct death {
    int rank;     /* who dies   */
    int signal;   /* of what    */
    bool working; /* the others do not wait for it but work on their own */
};

static void survive(struct place *p)
{
    const struct death *death = p->world->user;
    struct wm_error err = WM_ERROR_INIT, later = WM_ERROR_INIT;
    const struct comm_ops *ops = p->comm->ops;
    char process[64];
    double began;

    RANK_CHECK(ops->barrier(p->comm, &err) == WM_OK, "barrier: %s", err.message);
    if (p->index == death->rank) {
        p->mine->killed = 1;
        raise(death->signal);
        return;
    }
    began = file_now_seconds();
    if (death->working) {
        while (!ops->failed(p->comm, &err) && file_now_seconds() < began + 10)
            world_sleep(0.005);
    } else {
        RANK_CHECK(ops->barrier(p->comm, &err) == WM_TEMPORARY, "status %d", (int)err.status);
    }
    RANK_CHECK(err.status == WM_TEMPORARY, "status %d", (int)err.status);
    snprintf(process, sizeof process, "rank %d (process %d on ", death->rank, p->slots[death->rank].pid);
    RANK_CHECK(strstr(err.message, process) && strstr(err.message, "no sign of life"), "\"%s\" lacks \"%s\"",
               err.message, process);
    RANK_CHECK(is_host_named(err.message), "no host in \"%s\"", err.message);
    RANK_CHECK(file_now_seconds() - began > 0.6 * DEADLINE, "given up after %.3f s", file_now_seconds() - began);
    /* The deadline, a beat, and what a loaded machine of two cores adds. */
    RANK_CHECK(file_now_seconds() - began < DEADLINE + 3, "noticed after %.3f s only", file_now_seconds() - began);
    RANK_CHECK(ops->barrier(p->comm, &later) == WM_TEMPORARY, "a later call works");
    if (death->signal == SIGSTOP && p->index == 0) {
        world_sleep(0.2);
        kill(p->slots[death->rank].pid, SIGKILL);
    }
}

static void a_dead_rank_is_noticed_and_named(void **state)
{
    static const struct death deaths[] = {
        {1, SIGKILL, false}, {0, SIGKILL, false}, {2, SIGKILL, true}, {0, SIGKILL, true}, {1, SIGSTOP, true},
    };

    (void)state;
    for (size_t i = 0; i < sizeof deaths / sizeof *deaths; i++) {
        world_run(
            &(struct world){
                .kind = WORLD_FILES_IN_PROCESSES, .size = 3, .deadline_seconds = DEADLINE, .user = &deaths[i]},
            survive);
        assert_int_equal(world_n_files(ranks_dir), -1); /* the survivors know that nobody else will clear up */
    }
}

/* Ranks 2 to 6 die together: those who would watch them are among them. */
static void lose_most(struct place *p)
{
    struct wm_error err = WM_ERROR_INIT;

    RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == WM_OK, "barrier: %s", err.message);
    if (p->index >= 1 && p->index <= 6) {
        p->mine->killed = 1;
        raise(SIGKILL);
    }
    RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == WM_TEMPORARY, "status %d", (int)err.status);
    RANK_CHECK(strstr(err.message, "no sign of life"), "%s", err.message);
}

static void a_dead_host_of_many_ranks_is_noticed(void **state)
{
    (void)state;
    world_run(&(struct world){.kind = WORLD_FILES_IN_PROCESSES, .size = 8, .deadline_seconds = DEADLINE}, lose_most);
}

/* A rank that was stopped for too long and wakes up learns that the others gave it up. */
static void sleep_too_long(struct place *p)
{
    struct wm_error err = WM_ERROR_INIT;

    RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == WM_OK, "barrier: %s", err.message);
    if (p->index == 1) {
        raise(SIGSTOP);
        RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == WM_TEMPORARY, "woken: status %d", (int)err.status);
        RANK_CHECK(strstr(err.message, "no sign of life") || strstr(err.message, "gave rank 1 up"), "woken: %s",
                   err.message);
        return;
    }
    RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == WM_TEMPORARY, "status %d", (int)err.status);
    p->comm->ops->close(p->comm);
    p->comm = NULL;
    kill(p->slots[1].pid, SIGCONT);
}

static void a_rank_that_wakes_too_late_gives_up(void **state)
{
    (void)state;
    world_run(&(struct world){.kind = WORLD_FILES_IN_PROCESSES, .size = 2, .deadline_seconds = DEADLINE},
              sleep_too_long);
}

/* The same while it works on its own: the first question it asks is answered before the news can have come, so that it
 * writes nothing more. */
static void wake_and_ask(struct place *p)
{
    struct wm_error err = WM_ERROR_INIT;

    RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == WM_OK, "barrier: %s", err.message);
    if (p->index == 1) {
        RANK_CHECK(!p->comm->ops->failed(p->comm, &err), "failed before it was stopped: %s", err.message);
        raise(SIGSTOP);
        RANK_CHECK(p->comm->ops->failed(p->comm, &err), "it may go on where another run may be");
        RANK_CHECK(err.status == WM_TEMPORARY, "woken: status %d", (int)err.status);
        return;
    }
    RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == WM_TEMPORARY, "status %d", (int)err.status);
    kill(p->slots[1].pid, SIGCONT);
}

static void a_rank_that_wakes_while_it_works_stops_at_once(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        world_run(&(struct world){.kind = WORLD_FILES_IN_PROCESSES, .size = 2, .deadline_seconds = DEADLINE},
                  wake_and_ask);
}

/* Late is not dead: a call waits for a rank that lives far longer than the deadline. */
static void come_late(struct place *p)
{
    struct wm_error err = WM_ERROR_INIT;

    RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == WM_OK, "barrier: %s", err.message);
    world_sleep(p->index == 1 ? 3 * p->comm->deadline_seconds : 0);
    RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == WM_OK, "a late rank: %s", err.message);
}

static void a_late_rank_is_waited_for(void **state)
{
    (void)state;
    world_run(&(struct world){.kind = WORLD_FILES_IN_PROCESSES, .size = 3, .deadline_seconds = 1}, come_late);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_dead_rank_is_noticed_and_named, ranks_clear),
        cmocka_unit_test_setup(a_dead_host_of_many_ranks_is_noticed, ranks_clear),
        cmocka_unit_test_setup(a_rank_that_wakes_too_late_gives_up, ranks_clear),
        cmocka_unit_test_setup(a_rank_that_wakes_while_it_works_stops_at_once, ranks_clear),
        cmocka_unit_test_setup(a_late_rank_is_waited_for, ranks_clear),
    };

    return cmocka_run_group_tests(tests, ranks_set_up, world_tear_down);
}
