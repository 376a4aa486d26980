/*
 * bench_kernels.c: how fast the CPU kernels are, against this machine's own memory.
 *
 * What lives here: synthetic bf16 tensors (a base and fine-tunes whose deltas are a few of its ulps), every kernel over
 * them tile by tile on some threads, and one line each: ns per element, GB/s with reads and writes counted, and the
 * share of what memcpy reaches with the same threads. What it must not know: files, plans.
 *
 * On a busy machine --cpu-time 1 counts the threads' processor time instead of the clock's.
 *
 *     bench_kernels [--threads 2] [--elems 67108864] [--tile 524288] [--isa avx512] [--spread 1e-4] [--only WORD]
 */
#include "common/number_format.h"
#include "convert/convert.h"
#include "methods/tile.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_THREADS = 64, N_REPEATS = 5, N_INPUTS = 4 };

struct bench {
    size_t n_elems, tile_elems;
    int n_threads;
    double spread;
    bool cpu_time, guess;
    const char *only;
    uint16_t *in[N_INPUTS], *out; /* a base and three fine-tunes */
};

static double now(const struct bench *b)
{
    struct timespec t;
    clock_gettime(b->cpu_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    double seconds = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    return b->cpu_time ? seconds / b->n_threads : seconds;
}

/* ---- work on threads ---------------------------------------------------------------------------------------- */

struct work {
    const struct bench *bench;
    const struct merge_op *op;
    struct statistics *s;
    bool combine;
    int step; /* 0: op; 1: memcpy; 2: convert to f32 and back */
    size_t next, n_elems;
};

static void do_tile(const struct work *w, size_t first, size_t n, struct cpu_scratch *scratch)
{
    const struct bench *b = w->bench;
    if (w->step == 1) {
        memcpy(b->out + first, b->in[0] + first, 2 * n);
        return;
    }
    if (w->step == 2) {
        cpu_convert_tile(b->in[0] + first, WM_BF16, b->out + first, WM_F16, n);
        return;
    }
    struct merge_tile tile = {.first_elem = first, .n_elems = n, .index = first / b->tile_elems, .out_dtype = WM_BF16};
    struct merge_report report;
    merge_report_init(&report);
    for (int i = 0; i < merge_op_n_inputs(w->op); i++) {
        tile.in[i] = b->in[i] + first;
        tile.in_dtype[i] = WM_BF16;
    }
    tile.out = b->out + first;
    if (w->combine && (w->s == NULL || !statistics_tile_stands(w->s, tile.index)))
        cpu_combine_tile(w->op, w->s, &tile, scratch, &report);
    else if (!w->combine && statistics_pass(w->s) == STAT_KTH_GUESS)
        cpu_guess_tile(w->op, w->s, &tile, scratch, &report);
    else if (!w->combine && statistics_needs_tile(w->s, tile.index))
        cpu_statistics_tile(w->op, w->s, &tile, scratch);
}

static void *worker(void *user)
{
    struct work *w = user;
    struct cpu_scratch *scratch = cpu_scratch_new();
    for (;;) {
        size_t first = __atomic_fetch_add(&w->next, 1, __ATOMIC_RELAXED) * w->bench->tile_elems;
        if (first >= w->n_elems || scratch == NULL)
            break;
        size_t left = w->n_elems - first;
        do_tile(w, first, left < w->bench->tile_elems ? left : w->bench->tile_elems, scratch);
    }
    cpu_scratch_free(scratch);
    return NULL;
}

static double timed(struct work *w)
{
    pthread_t threads[MAX_THREADS];
    int n_started = 0;
    w->next = 0;
    double start = now(w->bench);
    for (int t = 1; t < w->bench->n_threads; t++)
        if (pthread_create(&threads[n_started], NULL, worker, w) == 0)
            n_started++;
    worker(w);
    for (int t = 0; t < n_started; t++)
        pthread_join(threads[t], NULL);
    return now(w->bench) - start;
}

/* ---- cases -------------------------------------------------------------------------------------------------- */

static const char *pass_name(enum stat_pass pass)
{
    static const char *const names[] = {
        [STAT_GRAM] = "gram",           [STAT_KTH_WHOLE] = "kth whole",   [STAT_KTH_SAMPLE] = "kth sample",
        [STAT_KTH_GUESS] = "kth guess", [STAT_KTH_COARSE] = "kth coarse", [STAT_KTH_FINE] = "kth fine",
        [STAT_KTH_TIES] = "kth ties",   [STAT_KTH_CUT] = "kth cut",       [STAT_L1] = "l1",
        [STAT_READY] = "ready"};
    return names[pass];
}

static void print_row(const char *name, const char *part, double seconds, size_t n, double bytes, double copy_rate)
{
    double rate = bytes * (double)n / seconds * 1e-9;
    printf("  %-26s %-11s %7.3f ns/elem  %6.1f GB/s", name, part, seconds / (double)n * 1e9, rate);
    if (copy_rate > 0)
        printf("  %4.0f %% of memcpy", 100.0 * rate / copy_rate);
    printf("\n");
    fflush(stdout);
}

struct setting {
    const char *name;
    double value;
};

static bool prepare(struct merge_op *op, size_t n, const char *name, int n_models, bool has_base,
                    const struct setting *settings, int n_settings)
{
    const struct method *method = method_find(name);
    double params[METHOD_MAX_PARAMS] = {0}, model_params[METHOD_MAX_MODELS][METHOD_MAX_PARAMS] = {{0}};
    int model_index[METHOD_MAX_MODELS] = {0, 1, 2};
    char message[256] = "";
    for (int p = 0; p < method->n_params; p++) {
        params[p] = method->params[p].default_value;
        for (int s = 0; s < n_settings; s++)
            if (strcmp(settings[s].name, method->params[p].name) == 0)
                params[p] = settings[s].value;
        for (int m = 0; m < n_models; m++)
            model_params[m][p] = strcmp(method->params[p].name, "weight") == 0 ? 0.3 + 0.2 * m : params[p];
    }
    struct method_args args = {.n_models = n_models,
                               .has_base = has_base,
                               .params = params,
                               .model_params = (const double(*)[METHOD_MAX_PARAMS])model_params,
                               .model_index = model_index,
                               .tensor_name = "bench",
                               .n_elems = n,
                               .n_rows = n / 4096,
                               .row_elems = 4096};
    if (method->prepare(method, &args, op, message) == WM_OK)
        return true;
    fprintf(stderr, "%s: %s\n", name, message);
    return false;
}

/* One method: each statistics pass and the combine, best of some runs, and their sum. */
static void bench_method(const struct bench *b, size_t n, double copy_rate, const char *label, const char *name,
                         int n_models, bool has_base, const struct setting *settings, int n_settings)
{
    enum { N_ROWS = STAT_READY + 1 };
    double best[N_ROWS];
    bool ran[N_ROWS] = {false};
    int n_inputs = 0;
    if (b->only != NULL && strstr(label, b->only) == NULL)
        return;
    for (int i = 0; i < N_ROWS; i++)
        best[i] = 1e9;
    double best_total = 1e9;
    for (int repeat = 0; repeat < N_REPEATS; repeat++) {
        struct merge_op op;
        double total = 0;
        if (!prepare(&op, n, name, n_models, has_base, settings, n_settings))
            return;
        n_inputs = merge_op_n_inputs(&op);
        struct work w = {.bench = b, .op = &op, .n_elems = n};
        enum stat_pass pass = statistics_first_pass(&op);
        if (pass != STAT_READY) {
            w.s = statistics_new(&op, b->tile_elems);
            if (w.s == NULL)
                return;
            if (b->guess && statistics_can_speculate(&op, b->tile_elems))
                statistics_speculate(w.s);
            pass = statistics_pass(w.s);
        }
        while (pass != STAT_READY) {
            double seconds = timed(&w), start = now(b);
            enum stat_pass next = statistics_finish_pass(w.s, &op);
            seconds += now(b) - start;
            ran[pass] = true;
            best[pass] = seconds < best[pass] ? seconds : best[pass];
            total += seconds;
            pass = next;
        }
        w.combine = true;
        double seconds = timed(&w);
        best[STAT_READY] = seconds < best[STAT_READY] ? seconds : best[STAT_READY];
        total += seconds;
        best_total = total < best_total ? total : best_total;
        statistics_free(w.s);
    }
    for (int pass = 0; pass < STAT_READY; pass++)
        if (ran[pass])
            print_row(label, pass_name((enum stat_pass)pass), best[pass], n, 2.0 * n_inputs, copy_rate);
    print_row(label, "combine", best[STAT_READY], n, 2.0 * (n_inputs + 1), copy_rate);
    if (best_total > best[STAT_READY] * 1.001)
        print_row(label, "all", best_total, n, 2.0 * (n_inputs + 1), copy_rate);
}

static double bench_step(const struct bench *b, size_t n, int step, const char *label, double copy_rate)
{
    double best = 1e9;
    struct work w = {.bench = b, .step = step, .n_elems = n};
    for (int repeat = 0; repeat < N_REPEATS; repeat++) {
        double seconds = timed(&w);
        best = seconds < best ? seconds : best;
    }
    print_row(label, "", best, n, 4.0, copy_rate);
    return 4.0 * (double)n / best * 1e-9;
}

static void bench_size(const struct bench *b, size_t n)
{
    static const struct setting ties[] = {{"density", 0.2}}, half[] = {{"density", 0.5}}, t[] = {{"t", 0.4}};
    static const struct setting paper[] = {{"density", 0.5}, {"rescale", RESCALE_INV_DENSITY}};
    printf("%zu elements, tiles of %zu, %d threads, %s\n", n, b->tile_elems, b->n_threads, cpu_isa());
    double copy = bench_step(b, n, 1, "memcpy", 0);
    bench_step(b, n, 2, "convert bf16 -> f16", copy);
    bench_method(b, n, copy, "passthrough", "passthrough", 1, false, NULL, 0);
    bench_method(b, n, copy, "linear 2", "linear", 2, false, NULL, 0);
    bench_method(b, n, copy, "linear 3", "linear", 3, false, NULL, 0);
    bench_method(b, n, copy, "linear 4 (steps)", "linear", 4, false, NULL, 0);
    bench_method(b, n, copy, "slerp", "slerp", 2, false, t, 1);
    bench_method(b, n, copy, "nuslerp + base", "nuslerp", 2, true, NULL, 0);
    bench_method(b, n, copy, "task_arithmetic 2", "task_arithmetic", 2, true, NULL, 0);
    bench_method(b, n, copy, "ties 2, 0.2", "ties", 2, true, ties, 1);
    bench_method(b, n, copy, "ties 2, 0.5", "ties", 2, true, half, 1);
    bench_method(b, n, copy, "ties 3, 0.5", "ties", 3, true, half, 1);
    bench_method(b, n, copy, "dare_ties 2, 0.5", "dare_ties", 2, true, half, 1);
    bench_method(b, n, copy, "dare_linear 2, 1/p", "dare_linear", 2, true, paper, 2);
}

/* ---- data --------------------------------------------------------------------------------------------------- */

static double uniform(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

/* Near enough to normal for a benchmark, and quick. */
static double bell(uint64_t *state)
{
    return (uniform(state) + uniform(state) + uniform(state) + uniform(state) - 2.0) * 1.7320508;
}

static bool fill(struct bench *b)
{
    uint64_t state = 1;
    for (int i = 0; i < N_INPUTS; i++)
        if ((b->in[i] = aligned_alloc(64, b->n_elems * 2)) == NULL)
            return false;
    if ((b->out = aligned_alloc(64, b->n_elems * 2)) == NULL)
        return false;
    memset(b->out, 1, b->n_elems * 2);
    size_t n_fresh = b->n_elems < (1u << 22) ? b->n_elems : 1u << 22;
    for (size_t e = 0; e < n_fresh; e++) {
        b->in[0][e] = f32_to_bf16((float)(0.02 * bell(&state)));
        for (int i = 1; i < N_INPUTS; i++)
            b->in[i][e] = f32_to_bf16(bf16_to_f32(b->in[0][e]) + (float)(b->spread * bell(&state)));
    }
    for (int i = 0; i < N_INPUTS; i++) /* repeats are invisible to the kernels */
        for (size_t e = n_fresh; e < b->n_elems; e++)
            b->in[i][e] = b->in[i][e - n_fresh];
    return true;
}

/* A number and nothing else. */
static bool read_number(const char *text, double *value)
{
    char *end;
    *value = strtod(text, &end);
    return end != text && *end == 0 && *value >= 0;
}

static bool read_option(struct bench *b, const char *name, const char *text)
{
    double value;
    if (strcmp(name, "--isa") == 0)
        return cpu_isa_force(text);
    if (strcmp(name, "--only") == 0) {
        b->only = text;
        return true;
    }
    if (!read_number(text, &value))
        return false;
    if (strcmp(name, "--threads") == 0)
        b->n_threads = (int)value;
    else if (strcmp(name, "--elems") == 0)
        b->n_elems = (size_t)value;
    else if (strcmp(name, "--tile") == 0)
        b->tile_elems = (size_t)value;
    else if (strcmp(name, "--spread") == 0)
        b->spread = value;
    else if (strcmp(name, "--cpu-time") == 0)
        b->cpu_time = value != 0;
    else if (strcmp(name, "--guess") == 0)
        b->guess = value != 0;
    else
        return false;
    return true;
}

int main(int argc, char **argv)
{
    struct bench b = {.n_elems = (size_t)1 << 26, .tile_elems = (size_t)1 << 19, .n_threads = 2, .spread = 1e-4};
    for (int i = 1; i < argc; i += 2)
        if (i + 1 == argc || !read_option(&b, argv[i], argv[i + 1])) {
            fprintf(stderr, "bench_kernels: cannot use \"%s\"; see the top of bench_kernels.c\n", argv[i]);
            return 2;
        }
    b.n_elems = (b.n_elems + 4095) / 4096 * 4096;
    b.tile_elems = (b.tile_elems + TILE_CHUNK_ELEMS - 1) / TILE_CHUNK_ELEMS * TILE_CHUNK_ELEMS;
    if (b.n_threads < 1 || b.n_threads > MAX_THREADS || b.n_elems == 0 || b.tile_elems == 0 || !fill(&b)) {
        fprintf(stderr, "bench_kernels: %d threads and %zu elements do not fit here\n", b.n_threads, b.n_elems);
        return 1;
    }
    bench_size(&b, b.n_elems);
    for (int i = 0; i < N_INPUTS; i++)
        free(b.in[i]);
    free(b.out);
    return 0;
}
