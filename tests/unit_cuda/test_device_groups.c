/* Groups of small tensors on a CUDA device give the CPU's bytes, reports and coefficients, in a number of launches that does
 * not depend on the number of tensors, and leave nothing behind when the n-th call fails. Runs on a GPU, or on the CPU with
 * the kernels compiled for it (tests/cuda_on_cpu), where calls and launches are counted as well. */
#include "group_cases.h"
#include "methods/device_group.h"

static unsigned long long launches(void)
{
#ifdef CUDA_ON_CPU
    struct cuda_on_cpu_counts counts;
    cuda_on_cpu_get_counts(&counts);
    return counts.launches;
#else
    return 0;
#endif
}

static void run_on_device(struct group_case *g, struct backend *backend, void *thread)
{
    unsigned long long before = launches();

    run(g, backend, thread);
#ifdef CUDA_ON_CPU
    assert_in_range(launches() - before, 1, 5); /* L1 sums may be taken twice: some wait for thresholds */
#else
    (void)before;
#endif
}

/* ---- tests -------------------------------------------------------------------------------------------------- */

static const uint64_t sizes[] = {1, 7, 31, 32, 33, 2048, 16383, 16384, 16385, 129, 1000, 8};
enum { N_SIZES = sizeof sizes / sizeof sizes[0] };

/* Every method in one group with all others of as many inputs: each of them at several sizes, types and kinds of data. */
static void every_method_gives_the_cpus_bytes(void **state)
{
    struct group_case *g = new_case();
    struct backend *backend;
    size_t turn = 0;
    void *thread;

    (void)state;
    backend = open_backend(1000, LARGE, &thread);
    assert_non_null(backend);
    for (int n_inputs = 1; n_inputs <= 5; n_inputs++) {
        size_t n = 0;
        for (size_t c = 0; c < N_METHOD_CASES; c++)
            for (size_t i = 0; i < N_SIZES && n_inputs_of(&method_cases[c]) == n_inputs; i++, turn++)
                if (turn % EVERY == 0 && n < MAX_MEMBERS)
                    g->cases[n++] = (struct member_case){&method_cases[c], &dtype_cases[turn % N_DTYPE_CASES], sizes[i],
                                                         (enum pattern)(turn / 3 % N_PATTERNS)};
        assert_true(n > 0);
        build(g, n, backend);
        run_on_device(g, backend, thread);
        release(g, backend);
    }
    close_backend(backend, thread);
    free(g);
}

/* A threshold is looked for in hard data: few values, one value, all values different, and ranks at both ends. */
static void thresholds_are_exact(void **state)
{
    static const struct method_case ties[] = {
        {"ties", 2, true, {GLOBAL("weight", 1.0), {"density", 1e-6, 0}, {"density", 0.9999, 1}}},
        {"ties", 2, true, {GLOBAL("weight", 1.0), {"density", 0.5, 0}, {"density", 0.31, 1}}},
        {"ties", 2, true, {GLOBAL("weight", 1.0), GLOBAL("density", 0.7), GLOBAL("rescale", RESCALE_L1)}},
    };
    static const uint64_t lengths[] = {2, 511, 513, 5000, 16500};
    struct group_case *g = new_case();
    struct backend *backend;
    size_t n = 0, turn = 0;
    void *thread;

    (void)state;
    backend = open_backend(0, LARGE, &thread);
    assert_non_null(backend);
    for (size_t c = 0; c < 3; c++)
        for (int pattern = 0; pattern < N_PATTERNS; pattern++)
            for (size_t i = 0; i < 5; i++, turn++)
                if (turn % EVERY == 0)
                    g->cases[n++] =
                        (struct member_case){&ties[c], &dtype_cases[turn % 3], lengths[i], (enum pattern)pattern};
    build(g, n, backend);
    run_on_device(g, backend, thread);
    release(g, backend);
    close_backend(backend, thread);
    free(g);
}

/* The largest members, all chunks of a sum, and operations that a group leaves to the CPU among others. */
static void large_and_unusual_members(void **state)
{
    static const struct method_case many[] = {
        {"linear", 9, false, {GLOBAL("weight", 0.3)}},
        {"task_arithmetic", 8, true, {GLOBAL("weight", 0.3)}},
        {"dare_ties", 8, true, {GLOBAL("weight", 0.3), GLOBAL("density", 0.4)}},
        {"linear", 9, false, {GLOBAL("weight", -0.2)}},
    };
    static const struct method_case two[] = {
        {"nuslerp", 2, false, {GLOBAL("weight", 0.5)}},
        {"nuslerp", 2, false, {GLOBAL("weight", 0.5), GLOBAL("nuslerp_flatten", 0.0)}},
        {"slerp", 2, false, {GLOBAL("t", 0.7)}},
        {"dare_linear", 1, true, {GLOBAL("weight", 0.5), GLOBAL("density", 0.5)}},
        {"ties", 1, true, {GLOBAL("weight", 1.0), GLOBAL("density", 0.5)}},
    };
    static const uint64_t largest[] = {65536, 65535, 49153, 65536, 65536};
    struct group_case *g = new_case();
    struct backend *backend;
    void *thread;

    (void)state;
    backend = open_backend(0, LARGE, &thread);
    assert_non_null(backend);
    for (size_t i = 0; i < 4; i++)
        g->cases[i] = (struct member_case){&many[i], &dtype_cases[i], 700 + i, i == 1 ? NOT_FINITE : NORMAL};
    build(g, 4, backend);
    run_on_device(g, backend, thread);
    release(g, backend);
    for (size_t i = 0; i < 5; i++)
        g->cases[i] = (struct member_case){&two[i], &dtype_cases[i % 2], EVERY > 1 ? 16400 : largest[i], NORMAL};
    build(g, 5, backend);
    run_on_device(g, backend, thread);
    release(g, backend);
    close_backend(backend, thread);
    free(g);
}

#ifdef CUDA_ON_CPU

/* Linked in place of device_group_launch: after the last round one byte of the output changes, if it is told to. */
static long spoil_byte = -1;
cudaError_t __real_device_group_launch(const struct device_group_round *round, const void *table, void *results,
                                       cudaStream_t stream);
cudaError_t __wrap_device_group_launch(const struct device_group_round *round, const void *table, void *results,
                                       cudaStream_t stream);

cudaError_t __wrap_device_group_launch(const struct device_group_round *round, const void *table, void *results,
                                       cudaStream_t stream)
{
    cudaError_t error = __real_device_group_launch(round, table, results, stream);

    if (error == cudaSuccess && round->is_last && spoil_byte >= 0)
        error = cudaMemsetAsync((char *)results + DEVICE_GROUP_RESULT_BYTES + spoil_byte, 0x55, 1, stream);
    return error;
}

/* As many calls, launches and copies for many members as for three; streams that run nothing before they are waited for
 * give the same bytes. */
static void calls_do_not_depend_on_the_number_of_members(void **state)
{
    static const size_t numbers[] = {3, 30, UNDER_TSAN ? 64 : 256};
    struct cuda_on_cpu_counts counts[3], before;
    struct group_case *g = new_case();

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct backend *backend;
        void *thread;
        machine(i == 2, 0, 0);
        backend = open_backend(0, SMALL, &thread);
        assert_non_null(backend);
        fill_cases(g, numbers[i]);
        build(g, numbers[i], backend);
        run(g, backend, thread); /* the first group makes room */
        reset(g);
        cuda_on_cpu_get_counts(&before);
        run(g, backend, thread);
        cuda_on_cpu_get_counts(&counts[i]);
        counts[i].calls -= before.calls;
        counts[i].launches -= before.launches;
        counts[i].copies_to_device -= before.copies_to_device;
        counts[i].copies_to_host -= before.copies_to_host;
        assert_int_equal(counts[i].pageable_copies, 0);
        release(g, backend);
        close_backend(backend, thread);
        expect_no_leaks();
    }
    for (size_t i = 1; i < 3; i++) {
        assert_int_equal(counts[i].calls, counts[0].calls);
        assert_int_equal(counts[i].launches, counts[0].launches);
        assert_int_equal(counts[i].copies_to_device, counts[0].copies_to_device);
        assert_int_equal(counts[i].copies_to_host, counts[0].copies_to_host);
    }
    assert_int_equal(counts[0].launches, 4);         /* Gram matrices, thresholds, L1 sums, element-wise */
    assert_int_equal(counts[0].copies_to_device, 6); /* three inputs, three tables */
    assert_int_equal(counts[0].copies_to_host, 4);   /* three times results, one output */
    free(g);
}

/* Without room on the device the CPU computes the group. */
static void little_memory_gives_the_same_bytes(void **state)
{
    struct cuda_on_cpu_config config = cuda_on_cpu_default();
    struct group_case *g = new_case();
    struct cuda_on_cpu_counts counts;
    struct backend *backend;
    void *thread;

    (void)state;
    config.memory_bytes = (size_t)3 << 20;
    cuda_on_cpu_configure(&config);
    backend = open_backend(0, SMALL, &thread);
    assert_non_null(backend);
    fill_cases(g, 60);
    build(g, 60, backend);
    run(g, backend, thread);
    cuda_on_cpu_get_counts(&counts);
    assert_int_equal(counts.launches, 0);
    release(g, backend);
    close_backend(backend, thread);
    expect_no_leaks();
    free(g);
}

/* Any call may fail, for good or for lack of memory: the right bytes, or an error that names the GPU and a lost backend. */
static void the_nth_call_may_fail(void **state)
{
    static const int codes[] = {cudaErrorIllegalAddress, cudaErrorMemoryAllocation};
    struct group_case *g = new_case();
    int n_lost = 0, n_right = 0;

    (void)state;
    for (size_t c = 0; c < 2; c++) {
        for (uint64_t n = 1; n < 60; n += UNDER_TSAN ? 5 : 1) {
            struct wm_error err = WM_ERROR_INIT;
            struct cuda_on_cpu_counts before, after;
            struct backend *backend;
            void *thread;
            machine(n % 2 == 0, 0, 0);
            backend = open_backend(0, SMALL, &thread);
            assert_non_null(backend);
            fill_cases(g, 9);
            build(g, 9, backend);
            cuda_on_cpu_get_counts(&before);
            cuda_on_cpu_fail_at(n, codes[c], -1);
            if (run_group(g, backend, thread, &err) == WM_OK) {
                check_results(g);
                n_right++;
            } else {
                assert_int_equal(err.status, WM_NO_DEVICE);
                assert_true(backend->lost);
                assert_non_null(strstr(err.message, "GPU 0 failed"));
                n_lost++;
            }
            cuda_on_cpu_get_counts(&after);
            cuda_on_cpu_fail_at(0, 0, -1);
            backend->ops->abandon(backend, thread);
            release(g, backend);
            bool lost = backend->lost;
            close_backend(backend, thread);
            if (!lost)
                expect_no_leaks();
        }
    }
    assert_true(n_lost > (UNDER_TSAN ? 4 : 20));
    assert_true(n_right > (UNDER_TSAN ? 4 : 20));
    machine(false, 0, 0);
    free(g);
}

/* A byte that comes out wrong on the device does not pass where members are sampled. */
static void a_wrong_byte_is_noticed(void **state)
{
    struct group_case *g = new_case();
    struct wm_error err = WM_ERROR_INIT;
    struct backend *backend;
    void *thread;

    (void)state;
    machine(false, 0, 0);
    backend = open_backend(1000, SMALL, &thread);
    assert_non_null(backend);
    fill_cases(g, 6);
    build(g, 6, backend);
    spoil_byte = (long)g->group.n_out_bytes - 1;
    assert_int_equal(run_group(g, backend, thread, &err), WM_VERIFY_FAILED);
    assert_non_null(strstr(err.message, "other bytes than the CPU"));
    spoil_byte = -1;
    reset(g);
    run(g, backend, thread);
    release(g, backend);
    close_backend(backend, thread);
    expect_no_leaks();
    free(g);
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_method_gives_the_cpus_bytes),
        cmocka_unit_test(thresholds_are_exact),
        cmocka_unit_test(large_and_unusual_members),
#ifdef CUDA_ON_CPU
        cmocka_unit_test(calls_do_not_depend_on_the_number_of_members),
        cmocka_unit_test(little_memory_gives_the_same_bytes),
        cmocka_unit_test(the_nth_call_may_fail),
        cmocka_unit_test(a_wrong_byte_is_noticed),
#endif
    };

    if (backend_cuda_count() == 0) {
        printf("skipped: no CUDA device here\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
