/* The kernels of a CUDA device give the CPU driver's bytes, reports and coefficients: every method, shape, element type,
 * alignment and kind of data. Runs on a GPU, or on the CPU with the kernels compiled for it (tests/cuda_on_cpu). */
#include "device_cases.h"
#include "statistics/statistics.h"

/* ---- an operation on the device ----------------------------------------------------------------------------- */

enum { GUARD_BYTES = 64, GUARD = 0xA5 };

/* Host bytes at an address that is `misalign` bytes past an aligned one. Ends where the data ends. */
struct device_copy {
    void *allocation;
    char *data;
};

static struct device_copy to_device(const void *data, size_t n_bytes, size_t misalign)
{
    struct device_copy copy = {NULL, NULL};
    CHECK_CUDA(cudaMalloc(&copy.allocation, n_bytes + misalign + (n_bytes + misalign == 0)));
    copy.data = (char *)copy.allocation + misalign;
    if (n_bytes > 0)
        upload(copy.data, data, n_bytes);
    return copy;
}

struct device_run {
    uint64_t tile_elems;
    size_t misalign;
    bool speculate;
    struct merge_report report;
    int n_device_passes, n_host_passes; /* SAMPLE is not counted: it is the host's */
    int n_stand, n_guessed;             /* tiles that GUESS computed for good; passes of it */
};

/* The tile of number `index` of the arrays that `whole` describes; false: there is none. */
static bool tile_at(const struct merge_op *op, const struct merge_tile *whole, uint64_t tile_elems, size_t index,
                    struct merge_tile *tile)
{
    *tile = *whole;
    tile->index = index;
    tile->first_elem = index * tile_elems;
    if (tile->first_elem >= op->n_elems)
        return false;
    tile->n_elems = (size_t)(op->n_elems - tile->first_elem < tile_elems ? op->n_elems - tile->first_elem : tile_elems);
    for (int i = 0; i < merge_op_n_inputs(op); i++)
        tile->in[i] = (const char *)tile->in[i] + tile->first_elem * dtype_width(tile->in_dtype[i]);
    if (tile->out != NULL)
        tile->out = (char *)tile->out + tile->first_elem * dtype_width(tile->out_dtype);
    return true;
}

static void host_pass(const struct merge_op *op, struct statistics *s, const struct merge_tile *whole,
                      const struct device_run *run)
{
    struct merge_tile tile;
    struct cpu_scratch *scratch = cpu_scratch_new();
    assert_non_null(scratch);
    for (size_t index = 0; tile_at(op, whole, run->tile_elems, index, &tile); index++)
        if (statistics_needs_tile(s, index))
            cpu_statistics_tile(op, s, &tile, scratch);
    cpu_scratch_free(scratch);
}

/* Every Gram matrix that coefficients are computed from, in order: the coefficients themselves are rounded too often to
 * show a wrong order of sums. */
struct gram_record {
    double *values;
    size_t n, room;
};
static struct gram_record *record; /* of the side that is running */
static const struct method *recorded_method;

static void record_coefficients(const struct merge_op *op, const double *gram, float *weights)
{
    size_t n = (size_t)op->n_models * (size_t)op->n_models;
    if (record->n + n > record->room) {
        record->room = 2 * (record->n + n);
        record->values = realloc(record->values, record->room * sizeof *gram);
        assert_non_null(record->values);
    }
    memcpy(record->values + record->n, gram, n * sizeof *gram);
    record->n += n;
    if (recorded_method->coefficients != NULL)
        recorded_method->coefficients(op, gram, weights);
    else /* of a method that has none: anything that depends on all of the matrix */
        for (int m = 0; m < op->n_models; m++)
            weights[m] = (float)atan(gram[m * op->n_models + (m + 1) % op->n_models]);
}

static void assert_same_record(const struct gram_record *got, const struct gram_record *expected, const char *what)
{
    if (got->n != expected->n)
        fail_msg("%s: %zu dot products, expected %zu", what, got->n, expected->n);
    for (size_t i = 0; i < got->n; i++)
        if (memcmp(&got->values[i], &expected->values[i], sizeof *got->values) != 0 &&
            !(isnan(got->values[i]) && isnan(expected->values[i])))
            fail_msg("%s: dot product %zu of %zu is %a, expected %a", what, i, got->n, got->values[i],
                     expected->values[i]);
}

/* The sums of every chunk are the CPU's, bit for bit: whatever becomes of them is rounded too often to show a wrong order. */
static void check_chunk_sums(const struct merge_op *op, struct statistics *s, const struct merge_tile *arrays,
                             const struct device_run *run)
{
    double *sums = s->pass == STAT_GRAM ? s->gram : s->l1;
    size_t n_sums = (s->pass == STAT_GRAM ? (size_t)s->n_pairs : 2 * (size_t)s->n_l1) * s->n_chunks;
    double *got = malloc(n_sums * sizeof *got);
    assert_non_null(got);
    memcpy(got, sums, n_sums * sizeof *got);
    host_pass(op, s, arrays, run); /* writes them again */
    for (size_t i = 0; i < n_sums; i++)
        if (memcmp(&got[i], &sums[i], sizeof *got) != 0 && !(isnan(got[i]) && isnan(sums[i])))
            fail_msg("%s: sum %zu of %zu is %a, expected %a", op->method->name, i, n_sums, got[i], sums[i]);
    free(got);
}

/* A wrong count would only lose the bet: the counts themselves are the CPU's. */
static void check_guess_counts(const struct merge_op *op, struct statistics *s, const struct merge_tile *arrays,
                               const struct device_run *run)
{
    struct cpu_scratch *scratch = cpu_scratch_new();
    struct merge_report report;
    struct merge_tile tile;
    uint32_t got[METHOD_MAX_MODELS][2] = {{0, 0}};
    assert_non_null(scratch);
    merge_report_init(&report);
    for (size_t index = 0; tile_at(op, arrays, run->tile_elems, index, &tile); index++) {
        for (int i = 0; i < s->n_kth; i++) {
            got[i][0] = s->kth[i].tiles[index].n_greater;
            got[i][1] = s->kth[i].tiles[index].n_equal;
        }
        cpu_guess_tile(op, s, &tile, scratch, &report); /* writes them again */
        for (int i = 0; i < s->n_kth; i++) {
            assert_int_equal(got[i][0], s->kth[i].tiles[index].n_greater);
            assert_int_equal(got[i][1], s->kth[i].tiles[index].n_equal);
        }
    }
    cpu_scratch_free(scratch);
}

/* GUESS merges as well; a tile that is computed again gets a new report. */
static void guess_combine(const struct merge_op *op, const struct merge_tile *tile, struct device_report *reports,
                          cudaStream_t stream)
{
    CHECK_CUDA(cudaMemsetAsync(&reports[tile->index], 0, sizeof *reports, stream));
    CHECK_CUDA(device_combine_launch(op, tile, NULL, &reports[tile->index], stream));
}

/* `whole` has device pointers, `arrays` the host's to the same values. */
static void device_pass(const struct merge_op *op, struct statistics *s, const struct merge_tile *whole,
                        const struct merge_tile *arrays, struct device_run *run, struct device_report *reports,
                        cudaStream_t stream)
{
    struct merge_tile tile;
    uint64_t n_bytes = device_pass_bytes(op, s);
    void *results, *host = malloc(n_bytes);
    assert_non_null(host);
    CHECK_CUDA(cudaMalloc(&results, n_bytes));
    CHECK_CUDA(cudaMemsetAsync(results, 0, n_bytes, stream));
    for (size_t index = 0; tile_at(op, whole, run->tile_elems, index, &tile); index++)
        if (statistics_needs_tile(s, index)) {
            CHECK_CUDA(device_pass_launch(op, s, &tile, results, stream));
            if (s->pass == STAT_KTH_GUESS)
                guess_combine(op, &tile, reports, stream);
        }
    CHECK_CUDA(cudaStreamSynchronize(stream));
    CHECK_CUDA(cudaMemcpy(host, results, n_bytes, cudaMemcpyDeviceToHost));
    device_pass_collect(op, s, host);
    CHECK_CUDA(cudaFree(results));
    free(host);
    run->n_device_passes++;
    run->n_guessed += s->pass == STAT_KTH_GUESS;
    if (s->pass == STAT_KTH_GUESS)
        check_guess_counts(op, s, arrays, run);
    if ((s->pass == STAT_GRAM && op->axis == AXIS_TENSOR) || s->pass == STAT_L1)
        check_chunk_sums(op, s, arrays, run);
}

/* Tiles that stand keep what GUESS made of them, and its report. */
static void device_combine(const struct merge_op *op, const struct statistics *s, const struct merge_tile *whole,
                           struct device_run *run, struct device_report *reports, cudaStream_t stream)
{
    struct merge_tile tile;
    struct device_report report;
    struct device_copy weights = {NULL, NULL};
    if (op->vector_weights != NULL) {
        uint64_t n_vectors = op->axis == AXIS_ROWS ? op->n_rows : op->row_elems;
        weights = to_device(op->vector_weights, (size_t)n_vectors * (size_t)op->n_models * sizeof(float), 0);
    }
    for (size_t index = 0; tile_at(op, whole, run->tile_elems, index, &tile); index++) {
        if (s != NULL && statistics_tile_stands(s, index)) {
            run->n_stand++;
            continue;
        }
        CHECK_CUDA(cudaMemsetAsync(&reports[index], 0, sizeof *reports, stream));
        CHECK_CUDA(device_combine_launch(op, &tile, (const float *)weights.data, &reports[index], stream));
    }
    CHECK_CUDA(cudaStreamSynchronize(stream));
    merge_report_init(&run->report);
    for (size_t index = 0; tile_at(op, whole, run->tile_elems, index, &tile); index++) {
        CHECK_CUDA(cudaMemcpy(&report, &reports[index], sizeof report, cudaMemcpyDeviceToHost));
        device_report_collect(&report, &run->report);
    }
    CHECK_CUDA(cudaFree(weights.allocation));
}

/* As run_op of the harness, on the device. `arrays` are the host's; arrays->out receives the result. */
static void device_run_op(struct merge_op *op, const struct merge_tile *arrays, struct device_run *run)
{
    struct device_copy inputs[TILE_MAX_INPUTS], out;
    struct merge_tile whole = *arrays;
    struct statistics *s = NULL;
    struct device_report *reports;
    cudaStream_t stream;
    size_t n_tiles = (size_t)(op->n_elems / run->tile_elems) + 1;
    size_t n_out = (size_t)op->n_elems * dtype_width(arrays->out_dtype), room = n_out + 2 * GUARD_BYTES;
    unsigned char *host = malloc(room);
    assert_non_null(host);
    memset(host, GUARD, room);
    CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    for (int i = 0; i < merge_op_n_inputs(op); i++) {
        inputs[i] = to_device(arrays->in[i], (size_t)op->n_elems * dtype_width(arrays->in_dtype[i]), run->misalign);
        whole.in[i] = inputs[i].data;
    }
    out = to_device(host, room, run->misalign);
    CHECK_CUDA(cudaMalloc((void **)&reports, n_tiles * sizeof *reports));
    whole.out = out.data + GUARD_BYTES;
    if (statistics_first_pass(op) != STAT_READY) {
        s = statistics_new(op, run->tile_elems);
        assert_non_null(s);
        statistics_avoid_repeats(s);
        if (run->speculate) {
            assert_true(statistics_can_speculate(op, run->tile_elems));
            statistics_speculate(s);
        }
        while (statistics_pass(s) != STAT_READY) {
            if (device_pass_bytes(op, s) > 0) {
                device_pass(op, s, &whole, arrays, run, reports, stream);
            } else {
                host_pass(op, s, arrays, run);
                run->n_host_passes += s->pass != STAT_KTH_SAMPLE;
            }
            statistics_finish_pass(s, op);
        }
    }
    device_combine(op, s, &whole, run, reports, stream);
    CHECK_CUDA(cudaMemcpy(host, out.data, room, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < GUARD_BYTES; i++) {
        assert_int_equal(host[i], GUARD);
        assert_int_equal(host[GUARD_BYTES + n_out + i], GUARD);
    }
    if (n_out > 0)
        memcpy(arrays->out, host + GUARD_BYTES, n_out);
    statistics_free(s);
    op->vector_weights = NULL;
    free(host);
    for (int i = 0; i < merge_op_n_inputs(op); i++)
        CHECK_CUDA(cudaFree(inputs[i].allocation));
    CHECK_CUDA(cudaFree(out.allocation));
    CHECK_CUDA(cudaFree(reports));
    CHECK_CUDA(cudaStreamDestroy(stream));
}

/* ---- cases -------------------------------------------------------------------------------------------------- */

struct shape {
    uint64_t n_rows, row_elems, tile_elems;
    bool speculate;
};

static int n_stand, n_guessed; /* of all cases so far */

/* `c` with its Gram matrices recorded; with `gram`, also for a method that asks for none, along this axis. */
static void check_gram(const struct method_case *c, const struct shape *shape, const struct dtype_case *types,
                       size_t misalign, enum pattern pattern, bool gram, enum merge_axis axis)
{
    static size_t n_cases;
    if (n_cases++ % EVERY != 0)
        return;
    struct merge_op cpu_op, device_op;
    char message[256] = "", what[512];
    size_t n = (size_t)(shape->n_rows * shape->row_elems);
    snprintf(what, sizeof what, "%s of %d, %llu x %llu in tiles of %llu, %s, %zu bytes off, %s, axis %d", c->method,
             c->n_models, (unsigned long long)shape->n_rows, (unsigned long long)shape->row_elems,
             (unsigned long long)shape->tile_elems, types->name, misalign, pattern_names[pattern], (int)axis);
    if (prepare_op(&cpu_op, c->method, c->n_models, c->has_base, shape->n_rows, shape->row_elems, 42, c->settings,
                   message) != WM_OK)
        fail_msg("%s: %s", what, message);
    struct gram_record records[2] = {{NULL, 0, 0}, {NULL, 0, 0}};
    struct method recording = *cpu_op.method;
    recording.coefficients = record_coefficients;
    recorded_method = cpu_op.method;
    cpu_op.method = &recording;
    if (gram) {
        cpu_op.needs_gram = true;
        cpu_op.axis = axis;
    }
    device_op = cpu_op;
    struct merge_tile arrays = {.n_elems = n, .out_dtype = types->out};
    void *owned[TILE_MAX_INPUTS + 1], *base = new_base(pattern, n, types->base);
    int n_owned = 0;
    owned[n_owned++] = base;
    if (c->has_base) {
        arrays.in[0] = base;
        arrays.in_dtype[0] = types->base;
    }
    for (int m = 0; m < c->n_models; m++) {
        int input = m + (c->has_base ? 1 : 0);
        arrays.in_dtype[input] = types->models[m % 3];
        arrays.in[input] = owned[n_owned++] = new_model(pattern, base, types->base, n, types->models[m % 3], m);
    }
    void *expected = new_array(n, types->out), *got = new_array(n, types->out);
    struct run run = {.tile_elems = shape->tile_elems};
    struct device_run device_run = {
        .tile_elems = shape->tile_elems, .misalign = misalign, .speculate = shape->speculate};
    arrays.out = expected;
    record = &records[0];
    run_op(&cpu_op, &arrays, &run);
    arrays.out = got;
    record = &records[1];
    device_run_op(&device_op, &arrays, &device_run);
    assert_same_record(&records[1], &records[0], what);
    assert_same_op(&device_op, &cpu_op, what);
    assert_same_elements(got, expected, types->out, n, what);
    assert_same_report(&device_run.report, &run.report, what);
    n_stand += device_run.n_stand;
    n_guessed += device_run.n_guessed;
    if (device_run.n_host_passes > 0)
        fail_msg("%s: %d passes ran on the host", what, device_run.n_host_passes);
    free(records[0].values);
    free(records[1].values);
    free(expected);
    free(got);
    for (int i = 0; i < n_owned; i++)
        free(owned[i]);
}

static void check(const struct method_case *c, const struct shape *shape, const struct dtype_case *types,
                  size_t misalign, enum pattern pattern)
{
    check_gram(c, shape, types, misalign, pattern, false, AXIS_TENSOR);
}

/* ---- tests -------------------------------------------------------------------------------------------------- */

enum { CHUNK = TILE_CHUNK_ELEMS };
static const size_t misaligns[] = {0, 1, 2, 4, 8};

/* Every method, element type and small size; alignments and data in turn. */
static void test_small_shapes(void **state)
{
    static const uint64_t sizes[] = {0, 1, 7, 8, 31, 32, 33, 65};
    size_t turn = 0;
    (void)state;
    for (size_t c = 0; c < N_METHOD_CASES; c++)
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            for (size_t t = 0; t < N_DTYPE_CASES; t++, turn++) {
                struct shape shape = {1, sizes[i], CHUNK, false};
                check(&method_cases[c], &shape, &dtype_cases[t], turn % 2 == 0 ? 0 : misaligns[turn / 2 % 5],
                      (enum pattern)(turn % N_PATTERNS));
            }
}

/* Every method around the ends of chunks and tiles, with several tiles. */
static void test_tile_ends(void **state)
{
    static const struct shape shapes[] = {{1, CHUNK - 1, CHUNK, false},         {1, CHUNK, CHUNK, false},
                                          {1, CHUNK + 1, CHUNK, false},         {1, 2 * CHUNK - 1, 2 * CHUNK, false},
                                          {1, 2 * CHUNK + 1, 2 * CHUNK, false}, {1, 3 * CHUNK + 17, CHUNK, false}};
    size_t turn = 0;
    (void)state;
    for (size_t c = 0; c < N_METHOD_CASES; c++)
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++, turn++)
            check(&method_cases[c], &shapes[i], &dtype_cases[turn % 3], turn % 7 == 0 ? 8 : 0,
                  (enum pattern)(turn / 2 % N_PATTERNS));
}

/* Matrices whose rows are odd, cross tiles, or are longer than they are. */
static void test_rows(void **state)
{
    static const struct shape shapes[] = {
        {3, 7, CHUNK, false},         {129, 131, CHUNK, false}, {5, 8193, 2 * CHUNK, false},  {17000, 1, CHUNK, false},
        {2, CHUNK + 1, CHUNK, false}, {3, 40001, CHUNK, false}, {3, 2 * CHUNK, CHUNK, false}, {6000, 3, CHUNK, false}};
    (void)state;
    for (size_t c = 0; c < N_METHOD_CASES; c++)
        if (strcmp(method_cases[c].method, "nuslerp") == 0)
            for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
                check(&method_cases[c], &shapes[i], &dtype_cases[(c + i) % N_DTYPE_CASES], misaligns[i % 2 * c % 5],
                      i == 1 || i == 3 ? NOT_FINITE : NORMAL);
}

static const struct method_case many_inputs = {"linear", 0, false, {GLOBAL("weight", 1.0)}};
static const struct method_case many_deltas = {"task_arithmetic", 0, true, {GLOBAL("weight", 1.0)}};

/* Gram matrices of vectors of every small size: one row, one column, rows that end in every lane. */
static void test_small_vectors(void **state)
{
    static const uint64_t sizes[] = {1, 7, 31, 32, 33, 65};
    const size_t n_sizes = sizeof sizes / sizeof sizes[0];
    size_t turn = 0;
    (void)state;
    for (size_t r = 0; r < n_sizes; r++)
        for (size_t e = 0; e < n_sizes; e++)
            for (int axis = AXIS_TENSOR; axis <= AXIS_COLUMNS; axis++, turn++) {
                struct method_case c = turn % 2 == 0 ? many_inputs : many_deltas;
                struct shape shape = {sizes[r], sizes[e], CHUNK, false};
                c.n_models = 2 + (int)(turn / 6 % 4);
                check_gram(&c, &shape, &dtype_cases[turn % N_DTYPE_CASES], turn % 4 < 2 ? 0 : misaligns[turn / 4 % 5],
                           turn % 5 == 0 ? NOT_FINITE : NORMAL, true, (enum merge_axis)axis);
            }
}

/* Gram matrices of 1 to 9 models and the most there can be, in tiles that end within rows. */
static void test_gram_of_many(void **state)
{
    static const int counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, METHOD_MAX_MODELS};
    static const struct shape shapes[] = {{131, 263, CHUNK, false}, {33, 521, CHUNK, false}};
    size_t turn = 0;
    (void)state;
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        for (int axis = AXIS_TENSOR; axis <= AXIS_COLUMNS; axis++)
            for (int deltas = 0; deltas < 2; deltas++, turn++) {
                struct method_case c = deltas ? many_deltas : many_inputs;
                c.n_models = counts[i];
                check_gram(&c, &shapes[counts[i] > 9], &dtype_cases[turn % N_DTYPE_CASES], 0,
                           turn % 3 == 0 ? NOT_FINITE : NORMAL, true, (enum merge_axis)axis);
            }
}

/* The search for a k-th magnitude over data that is hard on histograms. */
static void test_adversarial_data(void **state)
{
    static const struct shape shape = {1, 2 * CHUNK + 333, CHUNK, false};
    (void)state;
    for (size_t c = 0; c < N_METHOD_CASES; c++)
        if (strcmp(method_cases[c].method, "ties") == 0)
            for (int pattern = 0; pattern < N_PATTERNS; pattern++)
                for (size_t t = 0; t < 3; t++)
                    check(&method_cases[c], &shape, &dtype_cases[t], 0, (enum pattern)pattern);
}

/* The search for a k-th magnitude in tiles of every small size: a tensor of one small tile has a pass of its own. */
static void test_tile_tails(void **state)
{
    static const uint64_t tails[] = {1, 7, 8, 31, 32, 33, 65};
    size_t turn = 0;
    (void)state;
    for (size_t c = 0; c < N_METHOD_CASES; c++)
        for (size_t i = 0; i < sizeof tails / sizeof tails[0] && strcmp(method_cases[c].method, "ties") == 0;
             i++, turn++) {
            struct shape shape = {1, CHUNK + tails[i], CHUNK, false};
            check(&method_cases[c], &shape, &dtype_cases[turn % N_DTYPE_CASES],
                  turn % 2 == 0 ? 0 : misaligns[turn / 2 % 5], (enum pattern)(turn % N_PATTERNS));
        }
}

/* GUESS and the element-wise pass at once: right bets, wrong ones, and none because no value is common. */
static void test_speculation(void **state)
{
    static const struct method_case cases[] = {
        {"ties", 2, true, {GLOBAL("weight", 0.5), GLOBAL("density", 0.2)}},
        {"ties", 2, true, {GLOBAL("weight", 0.5), {"density", 0.5, 0}, {"density", 0.8, 1}}},
        {"ties", 3, true, {GLOBAL("weight", 0.5), {"density", 1.0, 0}, {"density", 0.4, 1}, {"density", 0.3, 2}}},
    };
    static const struct shape shape = {1, 17 * (uint64_t)CHUNK - 77, CHUNK, true};
    static const enum pattern patterns[] = {NORMAL, NO_CHANGE, CONSTANT, SORTED, NOT_FINITE};
    (void)state;
    n_stand = n_guessed = 0;
    for (size_t c = 0; c < 3; c++)
        for (size_t i = 0; i < 5; i++)
            check(&cases[c], &shape, &dtype_cases[(c + i) % 2 == 0 ? 0 : 4 + (c + i) % 3], 0, patterns[i]);
    if (EVERY == 1) {
        assert_in_range(n_guessed, 3, 15);
        assert_in_range(n_stand, 17, 17 * n_guessed - 1); /* some tiles are computed again */
    }
}

/* So many chunks in a tile that CUT looks for the chunk in two steps. */
static void test_large_tile(void **state)
{
    static const struct method_case ties = {
        "ties", 3, true, {GLOBAL("weight", 1.0), {"density", 0.31, 0}, {"density", 0.55, 1}, {"density", 0.12, 2}}};
    static const struct shape shape = {1, 600 * (uint64_t)CHUNK + 5, 600 * (uint64_t)CHUNK + CHUNK, false};
    (void)state;
    if (EVERY > 1)
        skip();
    check(&ties, &shape, &dtype_cases[0], 0, NORMAL);
}

/* 1..9 models and the most there can be. */
static void test_model_counts(void **state)
{
    static const struct method_case cases[] = {
        {"linear", 0, false, {GLOBAL("weight", 0.3)}},
        {"task_arithmetic", 0, true, {GLOBAL("weight", 0.3)}},
        {"ties", 0, true, {GLOBAL("weight", 0.3), GLOBAL("density", 0.4)}},
        {"dare_linear", 0, true, {GLOBAL("weight", 0.3), GLOBAL("density", 0.6)}},
        {"dare_ties", 0, true, {GLOBAL("weight", 0.3), GLOBAL("density", 0.6), GLOBAL("normalize", 1.0)}},
    };
    static const int counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, METHOD_MAX_MODELS};
    static const struct shape shape = {1, 701, CHUNK, false};
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++)
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
            for (size_t t = 0; t < 3; t++) {
                struct method_case with = cases[c];
                with.n_models = counts[i];
                check(&with, &shape, &dtype_cases[t], 0, t == 1 ? NOT_FINITE : NORMAL);
            }
}

/* More models than a kernel has a version for: batches that are full and not, tiles that do not start at 0, tails. */
static void test_many_models(void **state)
{
    static const struct method_case cases[] = {
        {"linear", 0, false, {GLOBAL("weight", 0.3), {"weight", -0.7, 5}}},
        {"linear", 0, false, {GLOBAL("weight", 0.2), GLOBAL("normalize", 0.0)}},
        {"task_arithmetic", 0, true, {GLOBAL("weight", -0.1), GLOBAL("normalize", 1.0), GLOBAL("lambda", 0.7)}},
        {"ties", 0, true, {GLOBAL("weight", 0.3), GLOBAL("density", 0.4), {"weight", -0.9, 2}, {"density", 1.0, 7}}},
        {"ties", 0, true, {GLOBAL("weight", -0.3), GLOBAL("density", 0.7), GLOBAL("normalize", 0.0)}},
        {"dare_linear", 0, true, {GLOBAL("weight", 0.3), GLOBAL("density", 0.2), {"density", 0.0, 4}}},
        {"dare_ties", 0, true, {GLOBAL("weight", 0.3), GLOBAL("density", 0.6), {"weight", -0.9, 8}}},
    };
    static const int counts[] = {9, 16, 33, METHOD_MAX_MODELS};
    static const enum pattern patterns[] = {NORMAL, NOT_FINITE, CONSTANT, OVERFLOW, ZEROS};
    static const size_t types[] = {0, 1, 2, 4, 6, 7, 8}; /* those that have no F64 */
    static const struct shape one_tile = {1, 701, CHUNK, false}, two_tiles = {1, CHUNK + 701, CHUNK, false};
    size_t turn = 0;
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++)
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
            for (size_t t = 0; t < sizeof types / sizeof types[0]; t++, turn++) {
                struct method_case with = cases[c];
                with.n_models = counts[i];
                check(&with, turn % 4 == 0 ? &two_tiles : &one_tile, &dtype_cases[types[t]], 0, patterns[turn % 5]);
            }
}

/* Every path at every alignment. */
static void test_alignments(void **state)
{
    static const size_t cases[] = {1, 6, 13, 16, 20, 22};
    static const struct shape shape = {1, 1000, CHUNK, false};
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++)
        for (size_t t = 0; t < N_DTYPE_CASES; t++)
            for (size_t i = 0; i < sizeof misaligns / sizeof misaligns[0]; i++)
                check(&method_cases[cases[c]], &shape, &dtype_cases[t], misaligns[i], NORMAL);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_shapes), cmocka_unit_test(test_tile_ends),
        cmocka_unit_test(test_rows),         cmocka_unit_test(test_adversarial_data),
        cmocka_unit_test(test_large_tile),   cmocka_unit_test(test_model_counts),
        cmocka_unit_test(test_alignments),   cmocka_unit_test(test_tile_tails),
        cmocka_unit_test(test_speculation),  cmocka_unit_test(test_small_vectors),
        cmocka_unit_test(test_gram_of_many), cmocka_unit_test(test_many_models),
    };
    int n_devices = 0;
    if (cudaGetDeviceCount(&n_devices) != cudaSuccess || n_devices == 0) {
        printf("skipped: no CUDA device here\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
