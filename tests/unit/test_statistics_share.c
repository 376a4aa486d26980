/* Statistics of one tensor by several processes, each with tiles of its own: thresholds, tie indexes, scales and coefficients
 * are those of one process, for every kind of pass, also where a process has no tile at all. */
#include "kernel_harness.h"

enum { MAX_PROCESSES = 4, TILE = 32768, N_TILES = 11, N = TILE * (N_TILES - 1) + 1234, N_MODELS = 2 };

/* What processes exchange, played by threads. */
struct exchange {
    int n_processes;
    pthread_barrier_t barrier;
    uint64_t *words[MAX_PROCESSES];
    size_t n_words[MAX_PROCESSES];
    bool fails;
    int careless;             /* this process leaves out half of its tiles, or counts them twice, ... */
    enum stat_pass in_pass;   /* ... in this pass; STAT_READY: nobody does                            */
    bool counts_twice, alone; /* alone: nothing is shared */
};

struct process {
    struct exchange *exchange;
    int index;
    struct merge_op op;
    const struct merge_tile *arrays;
    bool share_failed, counts_wrong;
    int n_passes;
};

static bool reduce(void *user, uint64_t *words, size_t n_words)
{
    struct process *p = user;
    struct exchange *e = p->exchange;
    uint64_t *sum = calloc(n_words + 1, sizeof *sum);
    assert_non_null(sum);
    e->words[p->index] = words;
    e->n_words[p->index] = n_words;
    pthread_barrier_wait(&e->barrier);
    for (int r = 0; r < e->n_processes; r++) {
        if (e->n_words[r] != n_words)
            abort(); /* processes would wait for one another for ever */
        for (size_t i = 0; i < n_words; i++)
            sum[i] += e->words[r][i];
    }
    pthread_barrier_wait(&e->barrier);
    memcpy(words, sum, n_words * sizeof *words);
    free(sum);
    return !e->fails;
}

/* Process r has the tiles t with t mod (n + 1) = r: with one more place than there are processes, unless it is the last,
 * which takes the rest; process 1 of 4 has none. */
static bool is_ours(const struct process *p, size_t tile)
{
    int n = p->exchange->n_processes, owner = (int)(tile % (size_t)(n + 1));
    owner = owner == n ? n - 1 : owner;
    owner = n == 4 && owner == 1 ? 2 : owner;
    return owner == p->index;
}

static void *run_process(void *user)
{
    struct process *p = user;
    struct statistics *s = statistics_new(&p->op, TILE);
    struct cpu_scratch *scratch = cpu_scratch_new();
    if (s == NULL || scratch == NULL)
        abort();
    if (p->exchange->alone)
        statistics_avoid_repeats(s);
    else
        statistics_share(s, reduce, p);
    for (; statistics_pass(s) != STAT_READY && p->n_passes < 20; p->n_passes++) {
        const struct exchange *e = p->exchange;
        bool careless = p->index == e->careless && statistics_pass(s) == e->in_pass;
        for (size_t t = 0; t < N_TILES; t++) {
            struct merge_tile tile = *p->arrays;
            tile.index = t;
            tile.first_elem = t * TILE;
            tile.n_elems = N - tile.first_elem < TILE ? N - tile.first_elem : TILE;
            for (int i = 0; i < merge_op_n_inputs(&p->op); i++)
                tile.in[i] = (const char *)tile.in[i] + tile.first_elem * dtype_width(tile.in_dtype[i]);
            if (!is_ours(p, t) || !statistics_needs_tile(s, t) || (careless && !e->counts_twice && t % 4 > 1))
                continue;
            cpu_statistics_tile(&p->op, s, &tile, scratch);
            if (careless && e->counts_twice)
                cpu_statistics_tile(&p->op, s, &tile, scratch);
        }
        statistics_finish_pass(s, &p->op);
    }
    p->share_failed = statistics_share_failed(s);
    p->counts_wrong = statistics_counts_wrong(s);
    statistics_free(s);
    cpu_scratch_free(scratch);
    return NULL;
}

static void run_with(struct process *processes, struct exchange exchange, const struct merge_op *op,
                     const struct merge_tile *arrays)
{
    const int n = exchange.n_processes;
    pthread_t threads[MAX_PROCESSES];
    pthread_barrier_init(&exchange.barrier, NULL, (unsigned)n);
    for (int r = 0; r < n; r++) {
        processes[r] = (struct process){.exchange = &exchange, .index = r, .op = *op, .arrays = arrays};
        assert_int_equal(pthread_create(&threads[r], NULL, run_process, &processes[r]), 0);
    }
    for (int r = 0; r < n; r++)
        pthread_join(threads[r], NULL);
    pthread_barrier_destroy(&exchange.barrier);
}

static void run_shared(struct process *processes, int n, const struct merge_op *op, const struct merge_tile *arrays,
                       bool fails)
{
    run_with(processes, (struct exchange){.n_processes = n, .fails = fails, .in_pass = STAT_READY}, op, arrays);
}

struct sample {
    const char *what, *method;
    enum wm_dtype dtype;
    double spread;
    struct setting settings[4];
};

static const struct sample samples[] = {
    {"ties, ties among bf16 deltas", "ties", WM_BF16, 1e-4, {{"density", 0.3, -1}, {"density", 0.7, 1}}},
    {"ties, smooth fp32", "ties", WM_F32, 1e-3, {{"density", 0.5, -1}}},
    {"ties, all deltas zero", "ties", WM_BF16, 0.0, {{"density", 0.2, -1}}},
    {"ties with the L1 scale", "ties", WM_BF16, 2e-4, {{"density", 0.4, -1}, {"rescale", RESCALE_L1, -1}}},
    {"dare_linear, L1 scale of masks",
     "dare_linear",
     WM_F16,
     1e-3,
     {{"density", 0.5, -1}, {"rescale", RESCALE_L1, -1}}},
    {"slerp", "slerp", WM_BF16, 1e-2, {{"t", 0.3, -1}}},
};

static void test_equals_one_process(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        const struct sample *c = &samples[i];
        bool has_base = strcmp(c->method, "slerp") != 0;
        void *base = new_weights(N, c->dtype, 3), *x[N_MODELS];
        struct merge_tile arrays = {.in_dtype = {c->dtype, c->dtype, c->dtype}};
        struct run run = {.tile_elems = TILE};
        struct merge_op op, alone;
        char message[256];
        arrays.in[0] = base;
        for (int m = 0; m < N_MODELS; m++) {
            x[m] = new_fine_tune(base, c->dtype, N, c->dtype, c->spread, 40 + (uint64_t)m);
            arrays.in[m + has_base] = x[m];
        }
        if (prepare_op(&op, c->method, N_MODELS, has_base, N, 1, 7, c->settings, message) != WM_OK)
            fail_msg("%s: %s", c->what, message);
        alone = op;
        run_op(&alone, &arrays, &run);
        for (int n = 1; n <= MAX_PROCESSES; n++) {
            struct process processes[MAX_PROCESSES];
            run_shared(processes, n, &op, &arrays, false);
            for (int r = 0; r < n; r++)
                for (int m = 0; m < N_MODELS; m++) {
                    const struct merge_model *got = &processes[r].op.models[m], *want = &alone.models[m];
                    if (got->threshold != want->threshold || got->tie_index != want->tie_index ||
                        memcmp(&got->scale, &want->scale, sizeof got->scale) != 0 ||
                        memcmp(&got->weight, &want->weight, sizeof got->weight) != 0)
                        fail_msg(
                            "%s: model %d of process %d of %d: threshold %08x up to %llu, scale %a, weight %a; alone "
                            "%08x up to %llu, %a, %a",
                            c->what, m, r, n, got->threshold, (unsigned long long)got->tie_index, (double)got->scale,
                            (double)got->weight, want->threshold, (unsigned long long)want->tie_index,
                            (double)want->scale, (double)want->weight);
                }
        }
        for (int m = 0; m < N_MODELS; m++)
            free(x[m]);
        free(base);
    }
}

static void test_failure_is_told(void **state)
{
    void *base = new_weights(N, WM_BF16, 3), *x = new_fine_tune(base, WM_BF16, N, WM_BF16, 1e-4, 4);
    static const struct setting settings[] = {{"density", 0.5, -1}, {NULL, 0, 0}};
    struct merge_tile arrays = {.in = {base, x}, .in_dtype = {WM_BF16, WM_BF16}};
    struct process processes[MAX_PROCESSES];
    struct merge_op op;
    char message[256];
    (void)state;
    assert_int_equal(prepare_op(&op, "ties", 1, true, N, 1, 7, settings, message), WM_OK);
    run_shared(processes, 2, &op, &arrays, true);
    assert_true(processes[0].share_failed && processes[1].share_failed);
    free(base);
    free(x);
}

/* Counts that no tensor can have end the passes, on all processes in the same one: passes that go on looking for the wanted
 * element never end. */
static void test_wrong_counts_end(void **state)
{
    static const struct {
        const char *what;
        int n_processes;
        enum stat_pass in_pass;
        bool counts_twice, alone;
    } cases[] = {
        {"alone, half is not counted", 1, STAT_KTH_COARSE, false, true},
        {"alone, half of the fine bins", 1, STAT_KTH_FINE, false, true},
        {"one process, half is not counted", 1, STAT_KTH_COARSE, false, false},
        {"one of two leaves some out", 2, STAT_KTH_COARSE, false, false},
        {"one of four counts twice", 4, STAT_KTH_COARSE, true, false},
        {"one of three, fine bins", 3, STAT_KTH_FINE, false, false},
    };
    float *base = calloc(N, sizeof *base), *x = calloc(N, sizeof *x);
    static const struct setting settings[] = {{"density", 0.9, -1}, {NULL, 0, 0}};
    struct merge_tile arrays = {.in = {base, x}, .in_dtype = {WM_F32, WM_F32}};
    struct merge_op op;
    char message[256];
    (void)state;
    for (size_t i = 0; i < N; i++)
        x[i] = 1.0f + (float)(i % 32768) * 0x1p-23f; /* all in one coarse bin */
    assert_int_equal(prepare_op(&op, "ties", 1, true, N, 1, 7, settings, message), WM_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct exchange exchange = {.n_processes = cases[i].n_processes,
                                    .careless = cases[i].n_processes - 1,
                                    .in_pass = cases[i].in_pass,
                                    .counts_twice = cases[i].counts_twice,
                                    .alone = cases[i].alone};
        struct process processes[MAX_PROCESSES];
        run_with(processes, exchange, &op, &arrays);
        for (int r = 0; r < exchange.n_processes; r++)
            if (!processes[r].counts_wrong || processes[r].n_passes != processes[0].n_passes)
                fail_msg("%s: process %d went through %d passes, the first through %d, and the counts were%s wrong",
                         cases[i].what, r, processes[r].n_passes, processes[0].n_passes,
                         processes[r].counts_wrong ? "" : " not");
    }
    free(base);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_equals_one_process),
                                       cmocka_unit_test(test_failure_is_told), cmocka_unit_test(test_wrong_counts_end)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
