/* Progress of ranks: rank 0 knows the exact sums of what all ranks last said, a rank's rate is that of its own moving of
 * bytes and not of what it found done, the slowest is one that still works, and a wait for the others keeps telling. */
#include "engine/rank_progress.h"

#include "cluster/comm_threads.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { max_ranks = 8 };

struct ranks {
    struct comm *comms[max_ranks];
    struct progress_rates rates[max_ranks];
    struct rank_progress progress[max_ranks];
    int n;
};

static void open_ranks(struct ranks *ranks, int n)
{
    struct wm_error err = WM_ERROR_INIT;

    memset(ranks, 0, sizeof *ranks);
    ranks->n = n;
    assert_int_equal(comm_open_threads(ranks->comms, n, &err), WM_OK);
}

static void close_ranks(struct ranks *ranks)
{
    for (int r = 0; r < ranks->n; r++)
        ranks->comms[r]->ops->close(ranks->comms[r]);
}

static struct wm_progress at(const char *phase, double seconds, uint64_t read, uint64_t written, uint64_t to_write)
{
    return (struct wm_progress){.phase = phase,
                                .shard = "",
                                .seconds = seconds,
                                .bytes_read = read,
                                .bytes_to_read = 3 * to_write,
                                .bytes_written = written,
                                .bytes_to_write = to_write,
                                .tensors_done = written / 10,
                                .n_tensors = to_write / 10};
}

static struct wm_progress summed(struct ranks *ranks, int rank)
{
    struct wm_progress now = at("merging", 0, 1, 2, 3);

    rank_progress_sum(&ranks->progress[rank], ranks->comms[rank], &now);
    assert_true(now.bytes_read == 1 && now.bytes_written == 2 && now.bytes_to_write == 3); /* the own share stays */
    return now;
}

static void say(struct ranks *ranks, int rank, struct wm_progress now)
{
    progress_rates_renew(&ranks->rates[rank], &now);
    rank_progress_publish(&ranks->rates[rank], ranks->comms[rank], &now);
}

/* ---- sums --------------------------------------------------------------------------------------------------- */

static void alone_nothing_is_summed(void **state)
{
    struct wm_progress now = at("merging", 1, 2, 3, 4), before = now;
    struct wm_error err = WM_ERROR_INIT;
    struct progress_rates rates = {0};
    struct rank_progress r = {0};
    struct comm *self;

    (void)state;
    assert_int_equal(comm_open_self(&self, &err), WM_OK);
    rank_progress_publish(&rates, NULL, &now);
    rank_progress_sum(&r, NULL, &now);
    assert_memory_equal(&now, &before, sizeof now);
    rank_progress_publish(&rates, self, &now);
    rank_progress_sum(&r, self, &now);
    assert_memory_equal(&now, &before, sizeof now);
    self->ops->close(self);
}

static void rank_0_knows_the_sums(void **state)
{
    struct ranks ranks;
    struct wm_progress sum;

    (void)state;
    open_ranks(&ranks, 3);
    sum = summed(&ranks, 0);
    assert_int_equal(sum.n_ranks_heard, 0);
    assert_int_equal(sum.n_ranks, 3);
    say(&ranks, 2, at("merging", 1, 700, 200, 1000));
    sum = summed(&ranks, 0);
    assert_int_equal(sum.n_ranks_heard, 1);
    assert_int_equal(sum.ranks_bytes_to_write, 1000);
    say(&ranks, 0, at("merging", 1, 100, 50, 900));
    say(&ranks, 1, at("surveying", 1, 10, 0, 800));
    sum = summed(&ranks, 0);
    assert_int_equal(sum.n_ranks_heard, 3);
    assert_int_equal(sum.ranks_bytes_read, 810);
    assert_int_equal(sum.ranks_bytes_to_read, 8100);
    assert_int_equal(sum.ranks_bytes_written, 250);
    assert_int_equal(sum.ranks_bytes_to_write, 2700);
    assert_int_equal(sum.ranks_tensors_done, 25);
    assert_int_equal(sum.ranks_n_tensors, 270);
    assert_true(sum.slowest_rate == 0.0 && sum.median_rate == 0.0 && !sum.slowest_host);
    for (int r = 1; r < 3; r++) {
        sum = summed(&ranks, r);
        assert_int_equal(sum.rank, r);
        assert_int_equal(sum.n_ranks, 3);
        assert_int_equal(sum.n_ranks_heard, 0);
        assert_int_equal(sum.ranks_bytes_to_write, 0);
    }
    close_ranks(&ranks);
}

/* ---- rates -------------------------------------------------------------------------------------------------- */

#define MB 1000000.0

/* So many seconds of steady work, told five times a second as a merge does; reads three times what it writes. */
static void work(struct ranks *ranks, int rank, double from, double to, double written_per_second, double done_before,
                 double to_write)
{
    for (int i = 0; i <= (int)((to - from) * 5 + 0.5); i++) {
        double seconds = from + i * 0.2;
        struct wm_progress now =
            at("merging", seconds, (uint64_t)((seconds - from) * written_per_second * 3),
               (uint64_t)(done_before + (seconds - from) * written_per_second), (uint64_t)to_write);
        now.bytes_resumed = (uint64_t)done_before;
        say(ranks, rank, now);
    }
}

#define assert_near(value, expected) assert_true(fabs((value) - (expected)) <= 1e-3 * (expected))

static void the_plan_knows_the_whole(void **state)
{
    static const struct {
        const char *phase;
        int n_heard;
        uint64_t read, to_read, written;
    } cases[] = {{"merging", 1, 50, 5000, 20},
                 {"waiting", 1, 50, 5000, 20},
                 {"surveying", 1, 50, 5000, 20},
                 {"hashing", 3, 5000, 5000, 2000},
                 {"finishing", 3, 5000, 5000, 2000}};
    struct wm_progress sum;
    struct ranks ranks;

    (void)state;
    open_ranks(&ranks, 3);
    ranks.progress[0].all_to_read = 5000;
    ranks.progress[0].all_to_write = 2000;
    ranks.progress[0].all_tensors = 77;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct wm_progress now = at(cases[i].phase, 1, 50, 20, 100);
        say(&ranks, 0, now);
        rank_progress_sum(&ranks.progress[0], ranks.comms[0], &now);
        assert_int_equal(now.n_ranks_heard, cases[i].n_heard);
        assert_int_equal(now.ranks_bytes_read, cases[i].read);
        assert_int_equal(now.ranks_bytes_to_read, cases[i].to_read);
        assert_int_equal(now.ranks_bytes_written, cases[i].written);
        assert_int_equal(now.ranks_bytes_to_write, 2000);
        assert_int_equal(now.ranks_n_tensors, 77);
    }
    for (int r = 0; r < 3; r++) /* whatever was heard last, nobody is slow once all are through */
        work(&ranks, r, 0, 10, (r + 1) * MB, 0, 1e12);
    sum = at("finishing", 11, 1, 1, 1);
    rank_progress_sum(&ranks.progress[0], ranks.comms[0], &sum);
    assert_true(sum.median_rate == 0.0 && !sum.slowest_host && sum.ranks_write_rate == 0.0);
    close_ranks(&ranks);
}

static void the_slowest_is_named(void **state)
{
    char host[RANK_PROGRESS_HOST_BYTES] = "";
    struct wm_progress sum;
    struct ranks ranks;

    (void)state;
    open_ranks(&ranks, 5);
    gethostname(host, sizeof host - 1);
    for (int r = 0; r < 5; r++)
        work(&ranks, r, 0, 1.8, 100 * MB, 0, 1e12);
    assert_true(summed(&ranks, 0).median_rate == 0.0); /* too early to say */
    for (int r = 0; r < 5; r++)
        work(&ranks, r, 2, 30, (r == 3 ? 25 : 100 + r) * MB, 500e9, 1e12);
    sum = summed(&ranks, 0);
    assert_int_equal(sum.slowest_rank, 3);
    assert_near(sum.slowest_rate, 4 * 25 * MB);
    assert_near(sum.median_rate, 4 * 101 * MB);
    assert_near(sum.ranks_read_rate, 3 * (100 + 101 + 102 + 25 + 104) * MB);
    assert_near(sum.ranks_write_rate, (100 + 101 + 102 + 25 + 104) * MB);
    assert_string_equal(sum.slowest_host, host);
    assert_int_equal(sum.ranks_bytes_resumed, 2500000000000);
    close_ranks(&ranks);
}

static void who_is_through_is_not_waited_for(void **state)
{
    struct wm_progress sum;
    struct ranks ranks;

    (void)state;
    open_ranks(&ranks, 3);
    work(&ranks, 0, 0, 10, 100 * MB, 0, 1e12);
    work(&ranks, 1, 0, 10, 10 * MB, 0, 100 * MB); /* had little to do and did it */
    work(&ranks, 2, 0, 10, 90 * MB, 0, 1e12);
    sum = summed(&ranks, 0);
    assert_int_equal(sum.slowest_rank, 2);
    assert_near(sum.median_rate, 4 * 90 * MB);
    assert_near(sum.ranks_write_rate, 190 * MB);
    say(&ranks, 0, at("syncing", 11, 3000, 1000, 1000));
    say(&ranks, 2, at("waiting", 11, 3000, 1000, 1000));
    sum = summed(&ranks, 0);
    assert_true(!sum.slowest_host && sum.slowest_rate == 0.0 && sum.median_rate == 0.0);
    assert_true(sum.ranks_write_rate == 0.0);
    close_ranks(&ranks);
}

/* A rank that slows down is seen to within some ten seconds, and one that hangs too. */
static void a_rate_is_that_of_late(void **state)
{
    struct wm_progress sum;
    struct ranks ranks;

    (void)state;
    open_ranks(&ranks, 2);
    work(&ranks, 0, 0, 100, 100 * MB, 0, 1e12);
    work(&ranks, 1, 0, 100, 100 * MB, 0, 1e12);
    for (int i = 1; i <= 100; i++)
        say(&ranks, 1, at("merging", 100 + i * 0.2, (uint64_t)(30000 * MB), (uint64_t)(10000 * MB), (uint64_t)1e12));
    sum = summed(&ranks, 0);
    assert_int_equal(sum.slowest_rank, 1);
    assert_true(sum.slowest_rate < 0.2 * sum.median_rate);
    close_ranks(&ranks);
}

/* What an earlier run has surveyed or written is counted at once; that is nobody's speed. */
static void a_jump_is_no_rate(void **state)
{
    struct wm_progress sum;
    struct ranks ranks;

    (void)state;
    open_ranks(&ranks, 2);
    say(&ranks, 0, at("merging", 0, 0, 0, (uint64_t)1e12));
    work(&ranks, 0, 0.8, 10, 100 * MB, 500e9, 1e12);
    say(&ranks, 1, at("surveying", 0, 0, 0, (uint64_t)1e12));
    for (int i = 0; i <= 50; i++)
        say(&ranks, 1,
            at("merging", 0.2 + i * 0.2, (uint64_t)(1e12 + i * 30 * MB), (uint64_t)(i * 10 * MB), (uint64_t)1e12));
    sum = summed(&ranks, 0);
    assert_int_equal(sum.slowest_rank, 1);
    assert_near(sum.slowest_rate, 200 * MB);
    assert_true(sum.median_rate < 401 * MB && sum.median_rate > 350 * MB);
    close_ranks(&ranks);
}

/* Of each process, alone or not; only while it moves bytes. */
static void a_rate_is_filled_in(void **state)
{
    struct progress_rates rates = {0};
    struct wm_progress now;

    (void)state;
    for (int i = 0; i <= 100; i++) {
        now = at("merging", i * 0.2, (uint64_t)(i * 60 * MB), (uint64_t)(7e9 + i * 20 * MB), (uint64_t)1e12);
        now.bytes_resumed = (uint64_t)7e9;
        now.read_rate = now.write_rate = -1.0;
        progress_rates_renew(&rates, &now);
        assert_true(now.read_rate >= 0.0 && now.write_rate >= 0.0);
    }
    assert_near(now.read_rate, 300 * MB);
    assert_near(now.write_rate, 100 * MB);
    now = at("syncing", 21, (uint64_t)(6000 * MB), (uint64_t)1e12, (uint64_t)1e12);
    progress_rates_renew(&rates, &now);
    assert_true(now.read_rate == 0.0 && now.write_rate == 0.0);
}

/* ---- waiting ------------------------------------------------------------------------------------------------ */

struct watcher {
    int n_calls, stop_at;
    volatile int *cancel; /* set as well, or NULL */
    double last_seconds;
    bool ok;
};

static int watch(void *user, const struct wm_progress *now)
{
    struct watcher *w = user;

    w->ok = w->ok && strcmp(now->phase, "waiting") == 0 && now->bytes_written == 7 && now->seconds > w->last_seconds;
    w->last_seconds = now->seconds;
    if (++w->n_calls != w->stop_at)
        return 0;
    if (w->cancel)
        __atomic_store_n(w->cancel, 1, __ATOMIC_RELAXED);
    return 1;
}

static void *come_late(void *argument)
{
    struct comm *comm = argument;
    struct wm_error err = WM_ERROR_INIT;

    nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
    return (void *)(intptr_t)comm->ops->barrier(comm, &err);
}

static void waiting_goes_on_telling(void **state)
{
    static const struct {
        bool watched, sets_cancel;
        int stop_at;
        enum wm_status status, other_status;
    } cases[] = {{true, false, 0, WM_OK, WM_OK},
                 {true, false, 2, WM_CANCELLED, WM_TEMPORARY},
                 {true, true, 2, WM_CANCELLED, WM_TEMPORARY},
                 {false, false, 0, WM_OK, WM_OK}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct wm_progress now = at("merging", 5, 6, 7, 8);
        struct watcher w = {0, cases[i].stop_at, NULL, 5, true};
        void *others = NULL;
        struct wm_options options = WM_OPTIONS_INIT;
        struct wm_error err = WM_ERROR_INIT;
        volatile int cancel = 0;
        struct ranks ranks;
        pthread_t late;

        open_ranks(&ranks, 2);
        options.on_progress = cases[i].watched ? watch : NULL;
        options.user = &w;
        ranks.comms[0]->cancel = &cancel;
        w.cancel = cases[i].sets_cancel ? &cancel : NULL;
        assert_int_equal(pthread_create(&late, NULL, come_late, ranks.comms[1]), 0);
        assert_int_equal(rank_progress_barrier(ranks.comms[0], &options, &now, &err), cases[i].status);
        pthread_join(late, &others);
        assert_int_equal((enum wm_status)(intptr_t)others, cases[i].other_status);
        assert_true(w.ok);
        assert_true(cases[i].watched ? w.n_calls >= 2 : w.n_calls == 0);
        assert_int_equal(err.status, cases[i].status);
        close_ranks(&ranks);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alone_nothing_is_summed),
        cmocka_unit_test(rank_0_knows_the_sums),
        cmocka_unit_test(the_plan_knows_the_whole),
        cmocka_unit_test(the_slowest_is_named),
        cmocka_unit_test(who_is_through_is_not_waited_for),
        cmocka_unit_test(a_rate_is_that_of_late),
        cmocka_unit_test(a_jump_is_no_rate),
        cmocka_unit_test(a_rate_is_filled_in),
        cmocka_unit_test(waiting_goes_on_telling),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
