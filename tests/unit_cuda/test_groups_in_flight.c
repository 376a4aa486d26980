/* Several groups of small tensors on their way over a GPU: nothing waits but for the round that is asked for, the bytes are
 * the CPU's in whatever order groups begin, end and wait for room, and nothing is left behind when a call fails. Runs on the
 * pretended device. */
#include "backend_run.h"
#include "group_cases.h"
#include "methods/device_group.h"

enum { GROUPS = 3 };
enum { SIDE_OF = 8 }; /* of a budget, what is not for tiles; several groups together may have half of that */

/* ---- what is called --------------------------------------------------------------------------------------------- */

/* Linked in place of the calls. One thread drives the device. */
static struct {
    bool watching;
    size_t n_stream_waits, n_event_waits, n_launches, n_on_cpu;
    cudaStream_t up, down, compute; /* the one that is used for it */
    bool several_streams;           /* ... or there are more */
    cudaEvent_t computed[2][64];    /* after the kernels of each launch; a lazy machine answers one question truly */
} seen;

cudaError_t __real_cudaStreamSynchronize(cudaStream_t stream);
cudaError_t __wrap_cudaStreamSynchronize(cudaStream_t stream);
cudaError_t __real_cudaEventSynchronize(cudaEvent_t event);
cudaError_t __wrap_cudaEventSynchronize(cudaEvent_t event);
cudaError_t __real_cudaMemcpyAsync(void *to, const void *from, size_t n_bytes, enum cudaMemcpyKind kind,
                                   cudaStream_t stream);
cudaError_t __wrap_cudaMemcpyAsync(void *to, const void *from, size_t n_bytes, enum cudaMemcpyKind kind,
                                   cudaStream_t stream);
cudaError_t __real_device_group_launch(const struct device_group_round *round, const void *table, void *results,
                                       cudaStream_t stream);
cudaError_t __wrap_device_group_launch(const struct device_group_round *round, const void *table, void *results,
                                       cudaStream_t stream);
void __real_cpu_combine_tile(const struct merge_op *op, const struct statistics *s, const struct merge_tile *tile,
                             struct cpu_scratch *scratch, struct merge_report *report);
void __wrap_cpu_combine_tile(const struct merge_op *op, const struct statistics *s, const struct merge_tile *tile,
                             struct cpu_scratch *scratch, struct merge_report *report);
void __real_cpu_statistics_tile(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                                struct cpu_scratch *scratch);
void __wrap_cpu_statistics_tile(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                                struct cpu_scratch *scratch);

cudaError_t __wrap_cudaStreamSynchronize(cudaStream_t stream)
{
    seen.n_stream_waits++;
    return __real_cudaStreamSynchronize(stream);
}

cudaError_t __wrap_cudaEventSynchronize(cudaEvent_t event)
{
    seen.n_event_waits++;
    return __real_cudaEventSynchronize(event);
}

static void see(cudaStream_t *known, cudaStream_t stream)
{
    seen.several_streams |= *known && *known != stream;
    *known = stream;
}

cudaError_t __wrap_cudaMemcpyAsync(void *to, const void *from, size_t n_bytes, enum cudaMemcpyKind kind,
                                   cudaStream_t stream)
{
    see(kind == cudaMemcpyHostToDevice ? &seen.up : &seen.down, stream);
    return __real_cudaMemcpyAsync(to, from, n_bytes, kind, stream);
}

cudaError_t __wrap_device_group_launch(const struct device_group_round *round, const void *table, void *results,
                                       cudaStream_t stream)
{
    cudaError_t error = __real_device_group_launch(round, table, results, stream);

    see(&seen.compute, stream);
    for (int i = 0; seen.watching && error == cudaSuccess && i < 2; i++) {
        assert_int_equal(cudaEventCreateWithFlags(&seen.computed[i][seen.n_launches], cudaEventDisableTiming), 0);
        assert_int_equal(cudaEventRecord(seen.computed[i][seen.n_launches], stream), 0);
    }
    seen.n_launches++;
    return error;
}

void __wrap_cpu_combine_tile(const struct merge_op *op, const struct statistics *s, const struct merge_tile *tile,
                             struct cpu_scratch *scratch, struct merge_report *report)
{
    seen.n_on_cpu++;
    __real_cpu_combine_tile(op, s, tile, scratch, report);
}

void __wrap_cpu_statistics_tile(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                                struct cpu_scratch *scratch)
{
    seen.n_on_cpu++;
    __real_cpu_statistics_tile(op, s, tile, scratch);
}

static void watch(void)
{
    memset(&seen, 0, sizeof seen);
    seen.watching = true;
}

/* A second question about the same event would run what it stands for. */
static bool has_run(cudaEvent_t event)
{
    cudaError_t error = cudaEventQuery(event);

    (void)cudaGetLastError();
    return error == cudaSuccess;
}

static void watch_no_more(void)
{
    seen.watching = false;
    for (size_t n = 0; n < seen.n_launches; n++)
        for (int i = 0; i < 2; i++)
            assert_int_equal(cudaEventDestroy(seen.computed[i][n]), 0);
}

/* ---- groups ------------------------------------------------------------------------------------------------------ */

static const struct method_case kinds[] = {
    {"ties", 2, true, {GLOBAL("weight", 0.5), GLOBAL("density", 0.6), GLOBAL("rescale", RESCALE_L1)}},
    {"ties", 2, true, {GLOBAL("weight", 0.5), GLOBAL("density", 0.4)}},
    {"linear", 3, false, {GLOBAL("weight", 0.3)}},
};
static const size_t n_rounds[] = {3, 2, 1};

/* n members of one kind, of n_elems elements at least. */
static struct group_case *new_group(struct backend *b, size_t kind, size_t n, uint64_t n_elems)
{
    struct group_case *g = new_case();

    for (size_t i = 0; i < n; i++)
        g->cases[i] = (struct member_case){&kinds[kind], &dtype_cases[(kind + i) % N_DTYPE_CASES], n_elems + i % 37,
                                           (enum pattern)(i % N_PATTERNS)};
    build(g, n, b);
    return g;
}

static void free_group(struct group_case *g, struct backend *b)
{
    release(g, b);
    free(g);
}

static void submit(struct group_case *g, struct backend *b, void *thread)
{
    struct wm_error err = WM_ERROR_INIT;

    if (b->ops->submit_group(b, thread, &g->group, &err) != WM_OK)
        fail_msg("%s", err.message);
}

static bool await(struct group_case *g, struct backend *b, void *thread)
{
    struct wm_error err = WM_ERROR_INIT;
    bool is_done;

    if (b->ops->await_group(b, thread, &g->group, &is_done, &err) != WM_OK)
        fail_msg("%s", err.message);
    return is_done;
}

/* All at once, in turns. */
static void run_all(struct group_case *const *groups, struct backend *b, void *thread)
{
    bool is_done[GROUPS] = {false};

    for (int i = 0; i < GROUPS; i++)
        submit(groups[i], b, thread);
    for (int n_done = 0, i = 0; n_done < GROUPS; i = (i + 1) % GROUPS)
        if (!is_done[i]) {
            is_done[i] = await(groups[i], b, thread);
            n_done += is_done[i];
        }
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

/* Groups of three, two and one rounds. Uploads, kernels and downloads have one stream each; the uploads of all groups are
 * through before the first kernel has run, and the kernels of one group before those of the next. What is waited for are
 * rounds, and one event for each. */
static void several_groups_wait_for_nothing_but_their_rounds(void **state)
{
    struct group_case *groups[GROUPS];
    size_t n_awaits[GROUPS] = {0};
    struct backend *b;
    void *thread;

    (void)state;
    machine(true, 0, 0);
    b = open_backend(0, 64u << 20, &thread);
    assert_non_null(b);
    assert_true(b->group_depth >= GROUPS && b->depth >= b->group_depth);
    for (size_t i = 0; i < GROUPS; i++)
        groups[i] = new_group(b, i, 20, 300);
    run_all(groups, b, thread); /* makes room */
    for (int i = 0; i < GROUPS; i++)
        reset(groups[i]);
    watch();
    for (int i = 0; i < GROUPS; i++)
        submit(groups[i], b, thread);
    assert_int_equal(seen.n_launches, GROUPS);
    assert_int_equal(seen.n_stream_waits + seen.n_event_waits, 0);
    assert_int_equal(__real_cudaStreamSynchronize(seen.up), cudaSuccess);
    for (int i = 0; i < GROUPS; i++)
        assert_false(has_run(seen.computed[0][i]));
    assert_false(await(groups[0], b, thread));
    assert_true(has_run(seen.computed[1][0]));
    assert_false(has_run(seen.computed[1][1]));
    n_awaits[0] = 1;
    for (int i = 1, n_done = 0; n_done < GROUPS; i = (i + 1) % GROUPS)
        if (n_awaits[i] < n_rounds[i]) {
            bool is_done = await(groups[i], b, thread);
            assert_int_equal(is_done, ++n_awaits[i] == n_rounds[i]);
            n_done += is_done;
        }
    assert_int_equal(seen.n_stream_waits, 0);
    assert_int_equal(seen.n_event_waits, 3 + 2 + 1);
    assert_int_equal(seen.n_launches, 3 + 2 + 1);
    assert_int_equal(seen.n_on_cpu, 0);
    assert_false(seen.several_streams);
    assert_true(seen.up != seen.compute && seen.compute != seen.down && seen.up != seen.down);
    watch_no_more();
    for (int i = 0; i < GROUPS; i++) {
        check_results(groups[i]);
        free_group(groups[i], b);
    }
    close_backend(b, thread);
    expect_no_leaks();
}

/* More groups than are on their way at once, awaited in any order, on streams that run at once or as late as they can. */
static void any_order_gives_the_cpus_bytes(void **state)
{
    enum { ALL = UNDER_TSAN ? 5 : 8 };
    struct group_case *groups[ALL];
    uint64_t random = 12345;

    (void)state;
    for (int way = 0; way < 4; way += UNDER_TSAN ? 3 : 1) {
        struct cuda_on_cpu_config config = cuda_on_cpu_default();
        size_t on_their_way[GROUPS], n = 0, next = 0;
        struct backend *b;
        void *thread;
        config.lazy_streams = way % 2 == 0;
        config.order = way < 2 ? CUDA_ON_CPU_FORWARD : CUDA_ON_CPU_SHUFFLED;
        cuda_on_cpu_configure(&config);
        b = open_backend(way == 3 ? 1000 : 0, way == 0 ? 16u << 20 : 64u << 20, &thread);
        assert_non_null(b);
        for (size_t i = 0; i < ALL; i++)
            groups[i] = new_group(b, i % 3, 3 + 7 * i, 1 + 50 * i);
        while (n || next < ALL) {
            size_t one;
            random = random * 6364136223846793005u + 1442695040888963407u;
            if (n < GROUPS && next < ALL && (n == 0 || random >> 63)) {
                submit(groups[next], b, thread);
                on_their_way[n++] = next++;
                continue;
            }
            one = (size_t)(random >> 33) % n;
            if (await(groups[on_their_way[one]], b, thread)) {
                check_results(groups[on_their_way[one]]);
                on_their_way[one] = on_their_way[--n];
            }
        }
        for (size_t i = 0; i < ALL; i++) {
            check_results(groups[i]); /* nobody has written there later */
            free_group(groups[i], b);
        }
        close_backend(b, thread);
        expect_no_leaks();
    }
}

static uint64_t device_bytes(const struct group_case *g)
{
    uint64_t n_bytes = DEVICE_GROUP_TABLE_BYTES + DEVICE_GROUP_RESULT_BYTES + g->group.n_out_bytes;

    for (int i = 0; i < g->group.n_inputs; i++)
        n_bytes += g->group.n_input_bytes[i];
    return n_bytes;
}

/* A group for which there is no room beside those on their way begins when there is, and not on the CPU; nobody overtakes
 * it. One that is alone gets what several would not. */
static void a_group_waits_for_room(void **state)
{
    enum { BUDGET = 40 << 20, SIDE = BUDGET / SIDE_OF };
    struct group_case *large, *other, *small;
    struct cuda_on_cpu_live live;
    struct backend *b;
    void *thread;

    (void)state;
    for (int lazy = UNDER_TSAN; lazy < 2; lazy++) {
        machine(lazy, 0, 0);
        b = open_backend(0, BUDGET, &thread);
        assert_non_null(b);
        large = new_group(b, 1, 60, 2800);
        other = new_group(b, 0, 60, 1200);
        small = new_group(b, 2, 4, 10);
        assert_true(device_bytes(large) > SIDE / 2);
        assert_true(device_bytes(large) + device_bytes(other) < SIDE); /* half is for others than groups */
        assert_true(device_bytes(other) + device_bytes(small) < SIDE / 2);
        memset(&seen, 0, sizeof seen);
        submit(large, b, thread);
        submit(other, b, thread);
        submit(small, b, thread);
        assert_int_equal(seen.n_launches, 1);
        assert_false(await(other, b, thread));
        assert_false(await(small, b, thread));
        assert_int_equal(seen.n_launches, 1);
        assert_int_equal(seen.n_event_waits, 0);
        assert_false(await(large, b, thread));
        assert_true(await(large, b, thread));
        assert_int_equal(seen.n_launches, 2);
        check_results(large);
        assert_false(await(small, b, thread)); /* its turn is later */
        assert_int_equal(seen.n_launches, 2);
        assert_false(await(other, b, thread));
        assert_int_equal(seen.n_launches, 3);
        assert_false(await(small, b, thread)); /* beside the other */
        assert_int_equal(seen.n_launches, 4);
        assert_true(await(small, b, thread));
        assert_false(await(other, b, thread));
        assert_false(await(other, b, thread));
        assert_true(await(other, b, thread));
        check_results(other);
        check_results(small);
        assert_int_equal(seen.n_on_cpu, 0);
        assert_int_equal(seen.n_stream_waits, 0);
        cuda_on_cpu_get_live(0, &live);
        assert_true(live.peak_device_bytes <= BUDGET);
        free_group(large, b);
        free_group(other, b);
        free_group(small, b);
        close_backend(b, thread);
        expect_no_leaks();
    }
}

/* What groups had on the device is a larger tensor's when it needs it, and the groups' again afterwards. */
static void memory_of_groups_that_ended_is_given_away(void **state)
{
    enum { BUDGET = 24 << 20, SIDE = BUDGET / SIDE_OF, CHUNK = TILE_CHUNK_ELEMS, N = 6 * CHUNK };
    static unsigned char inputs[3][2 * N], out[2 * N];
    struct merge_tile arrays = {
        .n_elems = N, .in = {inputs[0], inputs[1], inputs[2]}, .out = out, .out_dtype = WM_BF16};
    char message[256] = "";
    struct backend *b;
    void *thread;

    (void)state;
    machine(false, 0, 0);
    b = open_backend(0, BUDGET, &thread);
    assert_non_null(b);
    for (int i = 0; i < 3; i++)
        arrays.in_dtype[i] = WM_BF16;
    for (int turn = 0; turn < 2; turn++) {
        struct tiles_run result = {.tile_elems = CHUNK};
        struct group_case *g = new_group(b, 1, 60, 3000);
        struct merge_op op;
        assert_in_range(device_bytes(g), SIDE * 7 / 10, SIDE);
        memset(&seen, 0, sizeof seen);
        run(g, b, thread);
        assert_int_equal(seen.n_launches, 2);
        assert_int_equal(prepare_op(&op, kinds[1].method, 2, true, 1, N, 9, kinds[1].settings, message), WM_OK);
        run_tensor(b, thread, &op, &arrays, &result);
        assert_int_equal(result.status, WM_OK);
        assert_int_equal(seen.n_on_cpu, 0);
        free_group(g, b);
    }
    close_backend(b, thread);
    expect_no_leaks();
}

/* Any call may fail while three groups are on their way, or while two wait for the third: right bytes, or a lost backend,
 * which is left with groups in every state. */
static void the_nth_call_may_fail(void **state)
{
    static const int codes[] = {cudaErrorIllegalAddress, cudaErrorMemoryAllocation};
    static const uint64_t budgets[] = {64u << 20, 16u << 20};
    int n_lost = 0, n_right = 0, n_unfinished = 0;

    (void)state;
    for (int way = 0; way < 4; way++)
        for (uint64_t n = 1 + (uint64_t)way; n < 110; n += UNDER_TSAN ? 41 : EVERY > 1 ? 23 : 3) {
            struct group_case *groups[GROUPS];
            bool is_done[GROUPS] = {false}, was_lost = false;
            enum wm_status st = WM_OK;
            struct wm_error err = WM_ERROR_INIT;
            struct backend *b;
            void *thread;
            machine(n % 2 == 0, 0, 0);
            b = open_backend(0, budgets[way / 2], &thread);
            assert_non_null(b);
            for (size_t i = 0; i < GROUPS; i++)
                groups[i] = new_group(b, i, 5, 10);
            cuda_on_cpu_fail_at(n, codes[way % 2], -1);
            for (int i = 0; st == WM_OK && i < GROUPS; i++)
                st = b->ops->submit_group(b, thread, &groups[i]->group, &err);
            for (int n_done = 0, i = 0; st == WM_OK && n_done < GROUPS; i = (i + 1) % GROUPS)
                if (!is_done[i]) {
                    st = b->ops->await_group(b, thread, &groups[i]->group, &is_done[i], &err);
                    n_done += is_done[i];
                }
            cuda_on_cpu_fail_at(0, 0, -1);
            if (st == WM_OK) {
                n_right++;
            } else {
                assert_int_equal(st, WM_NO_DEVICE);
                assert_non_null(strstr(err.message, "GPU 0 failed"));
                was_lost = b->lost;
                assert_true(was_lost);
                n_lost++;
            }
            b->ops->abandon(b, thread);
            for (int i = 0; i < GROUPS; i++) {
                n_unfinished += !is_done[i];
                if (is_done[i])
                    check_results(groups[i]);
                free_group(groups[i], b); /* before the thread ends, as the engine does */
            }
            close_backend(b, thread);
            if (!was_lost || codes[way % 2] == cudaErrorMemoryAllocation)
                expect_no_leaks();
        }
    assert_true(n_lost > (EVERY > 1 ? 6 : 60));
    assert_true(n_right > (UNDER_TSAN ? 0 : EVERY > 1 ? 1 : 20));
    assert_true(n_unfinished > n_lost);
    machine(false, 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(several_groups_wait_for_nothing_but_their_rounds),
        cmocka_unit_test(any_order_gives_the_cpus_bytes),
        cmocka_unit_test(a_group_waits_for_room),
        cmocka_unit_test(memory_of_groups_that_ended_is_given_away),
        cmocka_unit_test(the_nth_call_may_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
