/* Collectives: self, threads and files give the same answers with 1, 2, 3 and 8 ranks: barriers wait, gathers are in rank
 * order, sums wrap, blocks may be empty; an abort, a cancelled rank and one that leaves reach everybody, for good. */
#include "comm_world.h"

/* Uneven on purpose: ranks arrive in another order every round. */
static void dawdle(const struct place *p, int round)
{
    world_sleep(0.0001 * (double)((p->index * 7 + round * 5) % 11));
}

static void wait_for_all(struct place *p)
{
    enum { n_rounds = 12 };

    for (int round = 0; round < n_rounds; round++) {
        struct wm_error err = WM_ERROR_INIT;
        dawdle(p, round);
        world_set(&p->mine->rounds[round]);
        RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == WM_OK, "barrier: %s", err.message);
        for (int r = 0; r < p->comm->size; r++)
            RANK_CHECK(__atomic_load_n(&p->slots[r].rounds[round], __ATOMIC_SEQ_CST),
                       "left barrier %d before rank %d came", round, r);
    }
    RANK_CHECK(!p->comm->ops->failed(p->comm, NULL), "a failure where there is none");
}

static void a_barrier_waits_for_all(void **state)
{
    (void)state;
    world_run_all(wait_for_all, NULL);
}

/* Another content for every rank, in runs of 64 bytes: ThreadSanitizer makes single bytes slow. */
static void fill(unsigned char *block, size_t n_bytes, int rank)
{
    for (size_t i = 0; i < n_bytes; i += 64)
        memset(block + i, (int)((size_t)rank * 31 + (i / 64) * 5 + (i >> 13)), n_bytes - i < 64 ? n_bytes - i : 64);
}

static bool is_filled(const unsigned char *block, size_t n_bytes, int rank)
{
    unsigned char *want = malloc(n_bytes + 1);
    bool same;

    fill(want, n_bytes, rank);
    same = memcmp(block, want, n_bytes) == 0;
    free(want);
    return same;
}

static void gather_and_compare(struct place *p)
{
    static const size_t lengths[] = {1, 0, 7, 8, 4096, 100003, (size_t)2 << 20};
    size_t size = (size_t)p->comm->size;

    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        size_t n = lengths[k] / (lengths[k] > 1000000 ? size * size : 1);
        unsigned char *mine = malloc(n + 1), *all = malloc(n * size + 1);
        struct wm_error err = WM_ERROR_INIT;
        enum wm_status st;
        size_t wrong = 0;
        fill(mine, n, p->index);
        all[n * size] = 0xA5;
        dawdle(p, (int)k);
        st = p->comm->ops->all_gather(p->comm, mine, n, all, &err);
        for (size_t r = 0; st == WM_OK && r < size; r++)
            wrong += !is_filled(all + r * n, n, (int)r);
        wrong += all[n * size] != 0xA5;
        free(mine);
        free(all);
        RANK_CHECK(st == WM_OK, "all_gather of %zu: %s", n, err.message);
        RANK_CHECK(wrong == 0, "all_gather of %zu: %zu blocks are wrong", n, wrong);
    }
}

static void a_gather_is_in_rank_order(void **state)
{
    (void)state;
    world_run_all(gather_and_compare, NULL);
}

static void sum_and_compare(struct place *p)
{
    static const size_t counts[] = {1, 5, 0, 70000};
    uint64_t size = (uint64_t)p->comm->size, rank = (uint64_t)p->index;

    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        size_t n = counts[k], wrong = 0;
        uint64_t *values = malloc((n + 1) * sizeof *values);
        struct wm_error err = WM_ERROR_INIT;
        enum wm_status st;
        for (size_t i = 0; i < n; i++) /* the last ones wrap around */
            values[i] = i % 5 == 4 ? UINT64_MAX - rank : (rank + 1) * (i + 1);
        values[n] = 42;
        dawdle(p, (int)k);
        st = p->comm->ops->all_reduce_u64(p->comm, values, n, &err);
        for (size_t i = 0; i < n; i++) {
            uint64_t ranks_sum = size * (size - 1) / 2;
            wrong += values[i] != (i % 5 == 4 ? 0 - size - ranks_sum : (ranks_sum + size) * (i + 1));
        }
        wrong += values[n] != 42;
        free(values);
        RANK_CHECK(st == WM_OK, "all_reduce of %zu: %s", n, err.message);
        RANK_CHECK(wrong == 0, "all_reduce of %zu: %zu sums are wrong", n, wrong);
    }
}

static void sums_are_exact_and_wrap(void **state)
{
    (void)state;
    world_run_all(sum_and_compare, NULL);
}

static size_t block_length(int pattern, int rank, int size)
{
    switch (pattern) {
    case 0: return 0;
    case 1: return (size_t)rank * 1000;                                 /* the first is empty */
    case 2: return rank == 1 && size == 3 ? ((size_t)2 << 20) + 17 : 3; /* longer than a piece of 3 ranks */
    case 3: return rank % 2 ? 0 : 65536;
    default: return 1;
    }
}

static void gather_blocks_and_compare(struct place *p)
{
    for (int pattern = 0; pattern < 5; pattern++) {
        size_t n = block_length(pattern, p->index, p->comm->size), at = 0, wrong = 0, offsets[WORLD_MAX_RANKS + 1];
        unsigned char *mine = n ? malloc(n) : NULL;
        struct wm_error err = WM_ERROR_INIT;
        enum wm_status st;
        void *all = NULL;
        if (n)
            fill(mine, n, p->index);
        st = comm_gather_blocks(p->comm, mine, n, &all, offsets, &err);
        for (int r = 0; st == WM_OK && r < p->comm->size; r++) {
            wrong += offsets[r] != at;
            wrong += !is_filled((unsigned char *)all + at, block_length(pattern, r, p->comm->size), r);
            at += block_length(pattern, r, p->comm->size);
        }
        wrong += st == WM_OK && (offsets[p->comm->size] != at || !all);
        free(all);
        free(mine);
        RANK_CHECK(st == WM_OK, "blocks of pattern %d: %s", pattern, err.message);
        RANK_CHECK(wrong == 0, "blocks of pattern %d are wrong", pattern);
    }
}

static void blocks_of_any_length_are_gathered(void **state)
{
    (void)state;
    world_run_all(gather_blocks_and_compare, NULL);
}

/* Many calls of changing kinds: no answer is taken for that of another call. */
static void call_many_times(struct place *p)
{
    int n_rounds = p->world->kind >= WORLD_FILES_IN_THREADS ? 60 : 500;

    for (int round = 0; round < n_rounds; round++) {
        uint64_t sum = (uint64_t)round, mine = (uint64_t)round << 8 | (uint64_t)p->index, all[WORLD_MAX_RANKS];
        struct wm_error err = WM_ERROR_INIT;
        if (round % 3 == 0)
            RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == WM_OK, "barrier: %s", err.message);
        RANK_CHECK(p->comm->ops->all_gather(p->comm, &mine, sizeof mine, all, &err) == WM_OK, "%s", err.message);
        for (int r = 0; r < p->comm->size; r++)
            RANK_CHECK(all[r] == ((uint64_t)round << 8 | (uint64_t)r), "round %d: rank %d said %#llx", round, r,
                       (unsigned long long)all[r]);
        RANK_CHECK(p->comm->ops->all_reduce_u64(p->comm, &sum, 1, &err) == WM_OK, "%s", err.message);
        RANK_CHECK(sum == (uint64_t)(round * p->comm->size), "round %d: the sum is %llu", round,
                   (unsigned long long)sum);
    }
}

static void calls_in_a_row_do_not_mix(void **state)
{
    (void)state;
    world_run_all(call_many_times, NULL);
}

/* ---- failures that reach everybody --------------------------------------------------------------------------- */

/* From now on every call fails, with `text` in its message, and `failed` says so. */
static void expect_failed(struct place *p, const char *text)
{
    uint64_t value = 0, all[WORLD_MAX_RANKS];
    const struct comm_ops *ops = p->comm->ops;

    for (int again = 0; again < 2; again++) {
        struct wm_error err[4] = {WM_ERROR_INIT, WM_ERROR_INIT, WM_ERROR_INIT, WM_ERROR_INIT};
        enum wm_status st[3] = {ops->barrier(p->comm, &err[0]),
                                ops->all_gather(p->comm, &value, sizeof value, all, &err[1]),
                                ops->all_reduce_u64(p->comm, &value, 1, &err[2])};
        for (int k = 0; k < 3; k++) {
            RANK_CHECK(st[k] == WM_TEMPORARY && err[k].status == WM_TEMPORARY, "call %d gave status %d", k, (int)st[k]);
            RANK_CHECK(strstr(err[k].message, text), "\"%s\" lacks \"%s\"", err[k].message, text);
        }
        RANK_CHECK(ops->failed(p->comm, &err[3]) && strstr(err[3].message, text), "failed says \"%s\"", err[3].message);
        RANK_CHECK(wm_exit_code(err[3].status) == 75, "exit code %d", wm_exit_code(err[3].status));
    }
}

static void abort_at_rank_1(struct place *p)
{
    int aborting = p->comm->size > 1 ? 1 : 0;
    struct wm_error err = WM_ERROR_INIT;

    RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == WM_OK, "barrier: %s", err.message);
    if (p->index == aborting) {
        struct wm_error why = {WM_BAD_DATA, "shard 3 is rotten"};
        world_sleep(0.02);
        p->comm->ops->abort(p->comm, &why);
    } else if (p->index == 0) { /* works on its own, and asks now and then */
        for (int i = 0; i < 10000 && !p->comm->ops->failed(p->comm, NULL); i++)
            world_sleep(0.001);
    }
    expect_failed(p, "shard 3 is rotten");
}

static void an_abort_reaches_all(void **state)
{
    (void)state;
    world_run_all(abort_at_rank_1, NULL);
}

static void cancel_at_last_rank(struct place *p)
{
    int last = p->comm->size - 1;
    volatile int cancel = 1;
    struct wm_error err = WM_ERROR_INIT, later = WM_ERROR_INIT;

    RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == WM_OK, "barrier: %s", err.message);
    if (p->index != last) {
        expect_failed(p, "stopped on request");
        return;
    }
    p->comm->cancel = &cancel;
    RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == WM_CANCELLED, "a cancelled rank: %s", err.message);
    RANK_CHECK(err.status == WM_CANCELLED, "status %d", (int)err.status);
    RANK_CHECK(p->comm->ops->barrier(p->comm, &later) == WM_CANCELLED, "again: %s", later.message);
}

static void a_cancelled_rank_stops_all(void **state)
{
    (void)state;
    world_run_all(cancel_at_last_rank, NULL);
}

static void *set_after_a_while(void *cancel)
{
    world_sleep(0.05);
    world_set(cancel);
    return NULL;
}

/* Rank 0 waits for ranks that do not come until it has been cancelled. */
static void cancel_while_waiting(struct place *p)
{
    struct wm_error err = WM_ERROR_INIT;
    pthread_t thread;
    volatile int cancel = 0;

    RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == WM_OK, "barrier: %s", err.message);
    if (p->index) {
        RANK_CHECK(world_wait(&p->slots[0].flag), "rank 0 still waits");
        expect_failed(p, "stopped on request");
        return;
    }
    p->comm->cancel = &cancel;
    pthread_create(&thread, NULL, set_after_a_while, (void *)&cancel);
    RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == WM_CANCELLED, "cancelled while waiting: %s", err.message);
    world_set(&p->mine->flag);
    pthread_join(thread, NULL);
}

static void a_waiting_rank_can_be_cancelled(void **state)
{
    (void)state;
    for (int kind = WORLD_THREADS; kind <= WORLD_FILES_IN_PROCESSES; kind++)
        world_run(&(struct world){.kind = (enum world_kind)kind, .size = 3}, cancel_while_waiting);
}

static void leave_at_rank_1(struct place *p)
{
    struct wm_error err = WM_ERROR_INIT;

    RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == WM_OK, "barrier: %s", err.message);
    if (p->index != p->comm->size - 1)
        expect_failed(p, "ended while");
}

static void a_rank_that_leaves_is_not_waited_for(void **state)
{
    (void)state;
    for (int kind = WORLD_THREADS; kind <= WORLD_FILES_IN_PROCESSES; kind++)
        for (int size = 2; size <= 3; size++)
            world_run(&(struct world){.kind = (enum world_kind)kind, .size = size}, leave_at_rank_1);
}

/* Leaving after the last call disturbs nobody who is still busy. */
static void leave_in_turn(struct place *p)
{
    struct wm_error err = WM_ERROR_INIT;

    RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == WM_OK, "barrier: %s", err.message);
    world_sleep(0.05 * (double)p->index);
    RANK_CHECK(!p->comm->ops->failed(p->comm, &err), "failed: %s", err.message);
}

static void ranks_may_leave_in_turn(void **state)
{
    char dir[128];

    (void)state;
    snprintf(dir, sizeof dir, "%s/ranks", world_root);
    for (int kind = WORLD_THREADS; kind <= WORLD_FILES_IN_PROCESSES; kind++) {
        world_run(&(struct world){.kind = (enum world_kind)kind, .size = 3, .deadline_seconds = 2}, leave_in_turn);
        assert_int_equal(world_n_files(dir), -1); /* the last one out removes everything */
    }
}

/* Ranks that do not make the same call are told so, before bytes are mixed up. */
static void call_differently(struct place *p)
{
    uint64_t values[2 * WORLD_MAX_RANKS] = {0};
    struct wm_error err = WM_ERROR_INIT;
    enum wm_status st;

    if (p->index == 1)
        st = p->comm->ops->all_gather(p->comm, values, 16, values, &err);
    else
        st = p->comm->ops->all_gather(p->comm, values, 8, values, &err);
    RANK_CHECK(st == WM_TEMPORARY || st == WM_BUG, "status %d", (int)st);
    RANK_CHECK(strstr(err.message, "called all_gather of 16"), "%s", err.message);
}

static void different_calls_are_a_fault(void **state)
{
    (void)state;
    for (int kind = WORLD_THREADS; kind <= WORLD_FILES_IN_PROCESSES; kind++)
        world_run(&(struct world){.kind = (enum world_kind)kind, .size = 3}, call_differently);
}

static void impossible_sizes_are_refused(void **state)
{
    static const struct {
        int rank, size;
        double deadline_seconds;
    } cases[] = {{0, 0, 1}, {-1, 2, 1}, {2, 2, 1}, {0, 5000, 1}, {0, 1, -1}, {0, 1, 1e9}, {0, 1, 0.0 / 0.0}};
    struct comm *comms[1];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct comm_files_options options = {.dir = "/tmp",
                                                   .job = "j",
                                                   .rank = cases[i].rank,
                                                   .size = cases[i].size,
                                                   .deadline_seconds = cases[i].deadline_seconds};
        struct wm_error err = WM_ERROR_INIT;
        assert_int_equal(comm_open_files(&comms[0], &options, &err), WM_USAGE);
        assert_null(comms[0]);
    }
    assert_int_equal(comm_open_threads(comms, 0, NULL), WM_USAGE);
    assert_int_equal(comm_open_threads(comms, 5000, NULL), WM_USAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_barrier_waits_for_all),
        cmocka_unit_test(a_gather_is_in_rank_order),
        cmocka_unit_test(sums_are_exact_and_wrap),
        cmocka_unit_test(blocks_of_any_length_are_gathered),
        cmocka_unit_test(calls_in_a_row_do_not_mix),
        cmocka_unit_test(an_abort_reaches_all),
        cmocka_unit_test(a_cancelled_rank_stops_all),
        cmocka_unit_test(a_waiting_rank_can_be_cancelled),
        cmocka_unit_test(a_rank_that_leaves_is_not_waited_for),
        cmocka_unit_test(ranks_may_leave_in_turn),
        cmocka_unit_test(different_calls_are_a_fault),
        cmocka_unit_test(impossible_sizes_are_refused),
    };

    return cmocka_run_group_tests(tests, world_set_up, world_tear_down);
}
