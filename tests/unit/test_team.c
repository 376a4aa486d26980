/* Ranks that see the same GPU count each other, whatever they are called and wherever it is in their own list. */
#include "cluster/comm_threads.h"
#include "engine/team.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { N_RANKS = 5, N_BYTES = 40 };

struct rank {
    pthread_t thread;
    struct engine_team team;
    char name[N_BYTES];
    int n_alike;
    struct wm_error err;
};

static void *count(void *user)
{
    struct rank *r = user;

    (void)team_count_alike(&r->team, r->name, sizeof r->name, &r->n_alike, &r->err);
    return NULL;
}

static void ranks_count_who_shares(void **state)
{
    static const struct {
        const char *names[N_RANKS];
        int expected[N_RANKS];
    } cases[] = {
        {{"m1 0000:3b:00.0", "m1 0000:86:00.0", "m1 0000:af:00.0", "m2 0000:3b:00.0", "m2 0000:86:00.0"},
         {1, 1, 1, 1, 1}}, /* one each, as each sees it alone */
        {{"m1 0000:3b:00.0", "m1 0000:3b:00.0", "m2 0000:3b:00.0", "m1 0000:3b:00.0", ""}, {3, 3, 1, 3, 1}},
        {{"", "", "", "", ""}, {1, 1, 1, 1, 1}},
    };
    struct wm_error err = WM_ERROR_INIT;

    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct comm *comms[N_RANKS];
        struct rank ranks[N_RANKS];
        assert_int_equal(comm_open_threads(comms, N_RANKS, &err), WM_OK);
        memset(ranks, 0, sizeof ranks);
        for (int r = 0; r < N_RANKS; r++) {
            ranks[r].team = (struct engine_team){.index = r, .size = N_RANKS, .comm = comms[r]};
            snprintf(ranks[r].name, sizeof ranks[r].name, "%s", cases[c].names[r]);
            assert_int_equal(pthread_create(&ranks[r].thread, NULL, count, &ranks[r]), 0);
        }
        for (int r = 0; r < N_RANKS; r++)
            pthread_join(ranks[r].thread, NULL);
        for (int r = 0; r < N_RANKS; r++) {
            assert_int_equal(ranks[r].err.status, WM_OK);
            assert_int_equal(ranks[r].n_alike, cases[c].expected[r]);
            comms[r]->ops->close(comms[r]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ranks_count_who_shares)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
