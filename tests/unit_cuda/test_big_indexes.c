/* Elements beyond 2^31, 2^32 and 2^35 (where the counter of the random masks carries) of one tensor: masks, tie indexes,
 * chunk numbers, weights by row and reports name the right ones, on a device and on the CPU. The tensor is zero but for a
 * few tiles, and only those exist: leaving the others out changes no sum, and no magnitude that is looked for. */
#include "common/philox.h"
#include "device_cases.h"
#include "statistics/statistics.h"

enum { CHUNK = TILE_CHUNK_ELEMS, MAX_WINDOWS = 10 };
#define ELEMS_2_31 ((uint64_t)1 << 31)
#define ELEMS_2_32 ((uint64_t)1 << 32)
#define ELEMS_2_35 ((uint64_t)1 << 35)

/* ---- a tensor of which few tiles exist -------------------------------------------------------------------------- */

struct windows {
    uint64_t n_elems, tile_elems;
    int n_windows;
    size_t tiles[MAX_WINDOWS]; /* their numbers, ascending; their elements lie one after another in the arrays */
};

/* Both sides of 2^31, 2^32 and 2^35, as far as the tensor reaches, and both ends. */
static struct windows windows_of(uint64_t n_elems, uint64_t tile_elems)
{
    static const uint64_t borders[] = {ELEMS_2_31, ELEMS_2_32, ELEMS_2_35};
    struct windows w = {.n_elems = n_elems, .tile_elems = tile_elems};

    w.tiles[w.n_windows++] = 0;
    for (size_t i = 0; i < 3 && borders[i] < n_elems; i++) {
        w.tiles[w.n_windows++] = (size_t)(borders[i] / tile_elems - 1);
        w.tiles[w.n_windows++] = (size_t)(borders[i] / tile_elems);
    }
    w.tiles[w.n_windows++] = (size_t)((n_elems - 1) / tile_elems);
    return w;
}

static uint64_t window_first(const struct windows *w, int i)
{
    return w->tiles[i] * w->tile_elems;
}

static size_t window_elems(const struct windows *w, int i)
{
    uint64_t left = w->n_elems - window_first(w, i);
    return (size_t)(left < w->tile_elems ? left : w->tile_elems);
}

static size_t array_elems(const struct windows *w)
{
    return (size_t)w->n_windows * (size_t)w->tile_elems;
}

/* Where in the arrays an element is. */
static size_t position(const struct windows *w, uint64_t element)
{
    for (int i = 0; i < w->n_windows; i++)
        if (element / w->tile_elems == w->tiles[i])
            return (size_t)(w->tile_elems * (uint64_t)i + element % w->tile_elems);
    fail_msg("element %llu is in none of the tiles that exist", (unsigned long long)element);
    return 0;
}

static struct merge_tile window_tile(const struct windows *w, const struct merge_op *op,
                                     const struct merge_tile *arrays, int i)
{
    struct merge_tile tile = *arrays;
    size_t skip = (size_t)w->tile_elems * (size_t)i;

    tile.index = w->tiles[i];
    tile.first_elem = window_first(w, i);
    tile.n_elems = window_elems(w, i);
    for (int k = 0; k < merge_op_n_inputs(op); k++)
        tile.in[k] = (const char *)tile.in[k] + skip * dtype_width(tile.in_dtype[k]);
    tile.out = (char *)tile.out + skip * dtype_width(tile.out_dtype);
    return tile;
}

/* ---- both sides ------------------------------------------------------------------------------------------------- */

struct outcome {
    struct merge_op op;
    struct merge_report report;
    void *out;    /* as the inputs */
    double *sums; /* of the last pass with sums; n_sums of them */
    size_t n_sums;
};

static void keep_sums(struct outcome *o, const struct statistics *s)
{
    const double *sums = s->pass == STAT_GRAM ? s->gram : s->l1;

    o->n_sums = (s->pass == STAT_GRAM ? (size_t)s->n_pairs : 2 * (size_t)s->n_l1) * s->n_chunks;
    o->sums = malloc(o->n_sums * sizeof *sums);
    assert_non_null(o->sums);
    memcpy(o->sums, sums, o->n_sums * sizeof *sums);
}

static struct statistics *first_statistics(const struct windows *w, const struct merge_op *op)
{
    struct statistics *s = NULL;

    if (statistics_first_pass(op) != STAT_READY) {
        s = statistics_new(op, w->tile_elems);
        assert_non_null(s);
        statistics_avoid_repeats(s);
    }
    return s;
}

static void on_cpu(const struct windows *w, const struct merge_tile *arrays, struct outcome *o)
{
    struct cpu_scratch *scratch = cpu_scratch_new();
    struct statistics *s = first_statistics(w, &o->op);
    struct merge_tile whole = *arrays;

    assert_non_null(scratch);
    merge_report_init(&o->report);
    whole.out = o->out = new_array(array_elems(w), arrays->out_dtype);
    while (s != NULL && s->pass != STAT_READY) {
        for (int i = 0; i < w->n_windows; i++)
            if (statistics_needs_tile(s, w->tiles[i])) {
                struct merge_tile tile = window_tile(w, &o->op, &whole, i);
                cpu_statistics_tile(&o->op, s, &tile, scratch);
            }
        if (s->pass == STAT_GRAM || s->pass == STAT_L1)
            keep_sums(o, s);
        statistics_finish_pass(s, &o->op);
    }
    for (int i = 0; i < w->n_windows; i++) {
        struct merge_tile tile = window_tile(w, &o->op, &whole, i);
        cpu_combine_tile(&o->op, s, &tile, scratch, &o->report);
    }
    statistics_free(s);
    cpu_scratch_free(scratch);
}

static void *to_device(const void *data, size_t n_bytes)
{
    void *copy;

    CHECK_CUDA(cudaMalloc(&copy, n_bytes));
    upload(copy, data, n_bytes);
    return copy;
}

static void device_pass(const struct windows *w, const struct merge_tile *whole, struct outcome *o,
                        struct statistics *s, cudaStream_t stream)
{
    uint64_t n_bytes = device_pass_bytes(&o->op, s);
    void *results, *host = malloc(n_bytes);

    assert_non_null(host);
    assert_true(n_bytes > 0);
    CHECK_CUDA(cudaMalloc(&results, n_bytes));
    CHECK_CUDA(cudaMemsetAsync(results, 0, n_bytes, stream));
    for (int i = w->n_windows - 1; i >= 0; i--)
        if (statistics_needs_tile(s, w->tiles[i])) {
            struct merge_tile tile = window_tile(w, &o->op, whole, i);
            CHECK_CUDA(device_pass_launch(&o->op, s, &tile, results, stream));
        }
    CHECK_CUDA(cudaStreamSynchronize(stream));
    CHECK_CUDA(cudaMemcpy(host, results, n_bytes, cudaMemcpyDeviceToHost));
    device_pass_collect(&o->op, s, host);
    CHECK_CUDA(cudaFree(results));
    free(host);
    if (s->pass == STAT_GRAM || s->pass == STAT_L1)
        keep_sums(o, s);
}

static void device_combine(const struct windows *w, const struct merge_tile *whole, struct outcome *o,
                           cudaStream_t stream)
{
    const float *weights = o->op.vector_weights;
    struct device_report *report, home;
    void *copy = NULL;

    if (weights != NULL) {
        uint64_t n_vectors = o->op.axis == AXIS_ROWS ? o->op.n_rows : o->op.row_elems;
        copy = to_device(weights, (size_t)n_vectors * (size_t)o->op.n_models * sizeof *weights);
    }
    CHECK_CUDA(cudaMalloc((void **)&report, sizeof *report));
    CHECK_CUDA(cudaMemsetAsync(report, 0, sizeof *report, stream));
    for (int i = w->n_windows - 1; i >= 0; i--) {
        struct merge_tile tile = window_tile(w, &o->op, whole, i);
        CHECK_CUDA(device_combine_launch(&o->op, &tile, copy, report, stream));
    }
    CHECK_CUDA(cudaStreamSynchronize(stream));
    CHECK_CUDA(cudaMemcpy(&home, report, sizeof home, cudaMemcpyDeviceToHost));
    device_report_collect(&home, &o->report);
    CHECK_CUDA(cudaFree(report));
    if (copy != NULL)
        CHECK_CUDA(cudaFree(copy));
}

static void on_device(const struct windows *w, const struct merge_tile *arrays, struct outcome *o)
{
    const size_t n_out = array_elems(w) * dtype_width(arrays->out_dtype);
    const int n_inputs = merge_op_n_inputs(&o->op);
    struct statistics *s = first_statistics(w, &o->op);
    struct merge_tile whole = *arrays;
    void *in[TILE_MAX_INPUTS] = {NULL};
    cudaStream_t stream;

    merge_report_init(&o->report);
    CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    o->out = new_array(array_elems(w), arrays->out_dtype);
    for (int i = 0; i < n_inputs; i++)
        whole.in[i] = in[i] = to_device(arrays->in[i], array_elems(w) * dtype_width(arrays->in_dtype[i]));
    whole.out = to_device(o->out, n_out);
    while (s != NULL && s->pass != STAT_READY) {
        device_pass(w, &whole, o, s, stream);
        statistics_finish_pass(s, &o->op);
    }
    device_combine(w, &whole, o, stream);
    CHECK_CUDA(cudaMemcpy(o->out, whole.out, n_out, cudaMemcpyDeviceToHost));
    statistics_free(s);
    for (int i = 0; i < n_inputs; i++)
        CHECK_CUDA(cudaFree(in[i]));
    CHECK_CUDA(cudaFree(whole.out));
    CHECK_CUDA(cudaStreamDestroy(stream));
}

static void outcome_release(struct outcome *o)
{
    free(o->out);
    free(o->sums);
}

static bool same_bits(double a, double b)
{
    uint64_t a_bits, b_bits;

    memcpy(&a_bits, &a, sizeof a);
    memcpy(&b_bits, &b, sizeof b);
    return a_bits == b_bits;
}

/* Runs both; the device's outcome is kept in *got for what the test knows besides. */
static void run_both(const struct windows *w, const struct merge_tile *arrays, const struct merge_op *op,
                     struct outcome *got, const char *what)
{
    struct outcome expected = {.op = *op};

    *got = (struct outcome){.op = *op};
    on_cpu(w, arrays, &expected);
    on_device(w, arrays, got);
    assert_same_op(&got->op, &expected.op, what);
    assert_same_report(&got->report, &expected.report, what);
    assert_int_equal(got->n_sums, expected.n_sums);
    for (size_t i = 0; i < got->n_sums; i++)
        if (!same_bits(got->sums[i], expected.sums[i]))
            fail_msg("%s: sum %zu is %a, expected %a", what, i, got->sums[i], expected.sums[i]);
    assert_same_elements(got->out, expected.out, arrays->out_dtype, array_elems(w), what);
    outcome_release(&expected);
}

/* ---- data ------------------------------------------------------------------------------------------------------- */

/* Inputs that are the same number everywhere (exact in every type), so that every sum and result is known. */
struct inputs {
    struct merge_tile arrays;
    void *data[TILE_MAX_INPUTS];
    int n;
};

static struct inputs constant_inputs(const struct windows *w, const struct dtype_case *types, bool has_base,
                                     const float *values, int n)
{
    struct inputs in = {.arrays = {.out_dtype = types->out}, .n = n};

    for (int i = 0; i < n; i++) {
        enum wm_dtype dtype = has_base && i == 0 ? types->base : types->models[(i - has_base) % 3];
        in.arrays.in_dtype[i] = dtype;
        in.arrays.in[i] = in.data[i] = new_array(array_elems(w), dtype);
        ref_store(in.data[i], dtype, 0, values[i]);
        for (size_t e = 1; e < array_elems(w); e++)
            memcpy((char *)in.data[i] + e * dtype_width(dtype), in.data[i], dtype_width(dtype));
    }
    return in;
}

static void inputs_set(const struct inputs *in, const struct windows *w, int input, uint64_t element, float x)
{
    ref_store(in->data[input], in->arrays.in_dtype[input], position(w, element), x);
}

static void inputs_release(struct inputs *in)
{
    for (int i = 0; i < in->n; i++)
        free(in->data[i]);
}

static struct merge_op prepared(const struct method_case *c, uint64_t n_rows, uint64_t row_elems)
{
    struct merge_op op;
    char message[256] = "";

    if (prepare_op(&op, c->method, c->n_models, c->has_base, n_rows, row_elems, 42, c->settings, message) != WM_OK)
        fail_msg("%s: %s", c->method, message);
    return op;
}

static void expect_element(const struct outcome *o, const struct windows *w, enum wm_dtype dtype, uint64_t element,
                           float expected, const char *what)
{
    char rounded[8] = {0}; /* room for a double */
    size_t width = dtype_width(dtype), at = position(w, element);

    ref_store(rounded, dtype, 0, expected);
    if (memcmp((const char *)o->out + at * width, rounded, width) != 0)
        fail_msg("%s: element %llu is %a, expected %a", what, (unsigned long long)element,
                 (double)ref_load(o->out, dtype, at), (double)expected);
}

/* Sum `which` of every chunk: what `chunk_sum` says of the elements that exist, zero elsewhere. */
static void expect_sums(const struct outcome *o, const struct windows *w, size_t which,
                        double (*chunk_sum)(const void *user, uint64_t first, size_t n), const void *user)
{
    size_t n_chunks = (size_t)((w->n_elems + CHUNK - 1) / CHUNK);

    for (size_t c = 0, i = 0; c < n_chunks; c++) {
        uint64_t first = (uint64_t)c * CHUNK;
        double expected = 0.0;
        while (i + 1 < (size_t)w->n_windows && w->tiles[i] < first / w->tile_elems)
            i++;
        if (w->tiles[i] == first / w->tile_elems)
            expected = chunk_sum(user, first, (size_t)(w->n_elems - first < CHUNK ? w->n_elems - first : CHUNK));
        if (o->sums[which * n_chunks + c] != expected)
            fail_msg("sum %zu of chunk %zu is %a, expected %a", which, c, o->sums[which * n_chunks + c], expected);
    }
}

/* One type in registers, several types, and element by element. */
static const size_t type_choice[] = {0, 4, 3};
enum { N_TYPE_CHOICES = EVERY > 1 ? 1 : 3, TILE_CHUNKS = EVERY > 1 ? 1 : 4 };

/* ---- random masks ----------------------------------------------------------------------------------------------- */

struct mask {
    uint64_t key;
    uint32_t keep_below; /* 65536: everything */
    double magnitude;
};

static double sum_of_kept(const void *user, uint64_t first, size_t n)
{
    const struct mask *mask = user;
    size_t n_kept = 0;

    for (uint64_t e = first; e < first + n; e++)
        n_kept += philox_mask_draw(mask->key, e) < mask->keep_below;
    return (double)n_kept * mask->magnitude;
}

static double sum_over_windows(const struct windows *w, const struct mask *mask)
{
    double sum = 0.0;

    for (int i = 0; i < w->n_windows; i++)
        sum += sum_of_kept(mask, window_first(w, i), window_elems(w, i));
    return sum;
}

static void random_masks(void **state)
{
    static const struct method_case dare = {
        "dare_linear", 2, true, {GLOBAL("weight", 0.5), {"density", 0.7, 0}, {"density", 0.3, 1}}};
    static const float values[] = {0.25f, 1.25f, -0.25f}; /* deltas 1 and -1/2 */
    const struct windows w =
        windows_of(ELEMS_2_35 + 3 * (uint64_t)CHUNK * TILE_CHUNKS + 77, (uint64_t)CHUNK * TILE_CHUNKS);

    (void)state;
    for (size_t t = 0; t < N_TYPE_CHOICES; t++) {
        const struct dtype_case *types = &dtype_cases[type_choice[t]];
        struct merge_op op = prepared(&dare, 1, w.n_elems);
        struct inputs in = constant_inputs(&w, types, true, values, 3);
        struct mask masks[2], everything[2];
        struct outcome got;
        float scale[2];
        run_both(&w, &in.arrays, &op, &got, types->name);
        for (int m = 0; m < 2; m++) {
            masks[m] = (struct mask){op.models[m].mask_key, op.models[m].keep_below, m == 0 ? 1.0 : 0.5};
            everything[m] = (struct mask){0, 65536, masks[m].magnitude};
            expect_sums(&got, &w, (size_t)(2 * m), sum_of_kept, &everything[m]);
            expect_sums(&got, &w, (size_t)(2 * m + 1), sum_of_kept, &masks[m]);
            scale[m] = (float)(sum_over_windows(&w, &everything[m]) / sum_over_windows(&w, &masks[m]));
        }
        for (int i = 0; i < w.n_windows; i++)
            for (uint64_t e = window_first(&w, i); e < window_first(&w, i) + window_elems(&w, i); e++) {
                float sum = 0.0f;
                if (philox_mask_draw(masks[0].key, e) < masks[0].keep_below)
                    sum += scale[0] * 0.5f;
                if (philox_mask_draw(masks[1].key, e) < masks[1].keep_below)
                    sum += -0.5f * scale[1] * 0.5f;
                expect_element(&got, &w, types->out, e, 0.25f + sum, types->name);
            }
        outcome_release(&got);
        inputs_release(&in);
    }
}

/* ---- tie indexes ------------------------------------------------------------------------------------------------ */

/* Elements of the tensor that exist, up to and with this one. */
static uint64_t n_until(const struct windows *w, uint64_t element)
{
    uint64_t n = 0;

    for (int i = 0; i < w->n_windows && window_first(w, i) <= element; i++) {
        uint64_t here = element - window_first(w, i) + 1;
        n += here < window_elems(w, i) ? here : window_elems(w, i);
    }
    return n;
}

static void tie_indexes(void **state)
{
    static const struct method_case ties = {
        "ties", 2, true, {GLOBAL("weight", 0.5), GLOBAL("density", 0.5), GLOBAL("normalize", 0.0)}};
    static const float values[] = {1.0f, 1.5f, 0.75f};
    static const uint64_t last_kept[][2] = {{ELEMS_2_31 - 1, ELEMS_2_31},
                                            {ELEMS_2_32 - 1, ELEMS_2_32},
                                            {ELEMS_2_32 - 2, ELEMS_2_32 + 9},
                                            {ELEMS_2_31 + CHUNK - 1, 2 * ELEMS_2_32 + 5}};
    const struct windows w = windows_of(2 * ELEMS_2_32 + (uint64_t)CHUNK + 77, 2 * (uint64_t)CHUNK * TILE_CHUNKS);

    (void)state;
    for (size_t t = 0; t < N_TYPE_CHOICES; t++)
        for (size_t c = 0; c < sizeof last_kept / sizeof last_kept[0]; c++) {
            const struct dtype_case *types = &dtype_cases[type_choice[t]];
            struct merge_op op = prepared(&ties, 1, w.n_elems);
            struct inputs in = constant_inputs(&w, types, true, values, 3);
            struct outcome got;
            uint64_t larger = ELEMS_2_32 + 1; /* its delta comes first, wherever it is */
            inputs_set(&in, &w, 1, larger, 9.0f);
            for (int m = 0; m < 2; m++)
                op.models[m].k = n_until(&w, last_kept[c][m]) + (m == 0 && larger > last_kept[c][m]);
            run_both(&w, &in.arrays, &op, &got, types->name);
            for (int m = 0; m < 2; m++)
                if (got.op.models[m].tie_index != last_kept[c][m])
                    fail_msg("%s: the last kept one is %llu, expected %llu", types->name,
                             (unsigned long long)got.op.models[m].tie_index, (unsigned long long)last_kept[c][m]);
            for (int i = 0; i < w.n_windows; i++)
                for (uint64_t e = window_first(&w, i); e < window_first(&w, i) + window_elems(&w, i); e++) {
                    bool kept[2] = {e <= last_kept[c][0] || e == larger, e <= last_kept[c][1]};
                    float sum = kept[0] ? 0.5f * (e == larger ? 8.0f : 0.5f) : kept[1] ? -0.125f : 0.0f;
                    expect_element(&got, &w, types->out, e, 1.0f + sum, types->name); /* plus wins where both are */
                }
            outcome_release(&got);
            inputs_release(&in);
        }
}

/* ---- Gram matrices ---------------------------------------------------------------------------------------------- */

static double sum_of_product(const void *user, uint64_t first, size_t n)
{
    (void)first;
    return (double)n * *(const double *)user;
}

static void gram_sums(void **state)
{
    static const struct method_case cases[] = {
        {"slerp", 2, false, {GLOBAL("t", 0.3)}},
        {"nuslerp", 2, true, {GLOBAL("weight", 0.5), {"weight", 0.2, 1}}},
    };
    static const float values[] = {0.5f, 2.0f, -0.25f};
    static const double products[2][3] = {{4.0, -0.5, 0.0625}, {2.25, -1.125, 0.5625}};
    const struct windows w = windows_of(ELEMS_2_35 + 5 * (uint64_t)CHUNK + 77, 2 * (uint64_t)CHUNK);

    (void)state;
    for (int c = 0; c < 2; c++)
        for (size_t t = 0; t < N_TYPE_CHOICES; t++) {
            const struct dtype_case *types = &dtype_cases[type_choice[t]];
            struct merge_op op = prepared(&cases[c], 1, w.n_elems);
            struct inputs in = constant_inputs(&w, types, c == 1, values + (c == 0), 2 + c);
            struct outcome got;
            run_both(&w, &in.arrays, &op, &got, types->name);
            for (size_t p = 0; p < 3; p++)
                expect_sums(&got, &w, p, sum_of_product, &products[c][p]);
            outcome_release(&got);
            inputs_release(&in);
        }
}

/* ---- weights by row or column ----------------------------------------------------------------------------------- */

/* Rows of more than 2^32 elements, and columns of a tensor with as many: the weight of model 0 is the vector's number. */
static void weights_by_vector(void **state)
{
    static const struct method_case cases[] = {
        {"nuslerp", 2, false, {GLOBAL("weight", 0.5), GLOBAL("nuslerp_flatten", 0.0)}},
        {"nuslerp", 2, false, {GLOBAL("weight", 0.5), GLOBAL("nuslerp_flatten", 0.0), GLOBAL("nuslerp_row_wise", 1.0)}},
    };
    static const struct {
        uint64_t n_rows, row_elems;
    } shapes[] = {{3, ELEMS_2_32 + 12345}, {123457, 70001}};
    static const float values[] = {1.0f, 2.0f};

    (void)state;
    for (int c = 0; c < 2; c++) {
        struct merge_op op = prepared(&cases[c], shapes[c].n_rows, shapes[c].row_elems);
        struct windows w = windows_of(shapes[c].n_rows * shapes[c].row_elems, CHUNK);
        struct inputs in = constant_inputs(&w, &dtype_cases[2], false, values, 2);
        size_t n_vectors = (size_t)(c == 0 ? shapes[c].n_rows : shapes[c].row_elems);
        float *weights = calloc(2 * n_vectors, sizeof *weights);
        struct outcome got;
        assert_non_null(weights);
        assert_int_equal(op.axis, c == 0 ? AXIS_ROWS : AXIS_COLUMNS);
        for (size_t v = 0; v < n_vectors; v++)
            weights[2 * v] = (float)v;
        op.needs_gram = false; /* as after its passes, which the CPU makes */
        op.vector_weights = weights;
        run_both(&w, &in.arrays, &op, &got, cases[c].method);
        for (int i = 0; i < w.n_windows; i++)
            for (uint64_t e = window_first(&w, i); e < window_first(&w, i) + window_elems(&w, i); e++)
                expect_element(&got, &w, WM_F32, e, (float)(c == 0 ? e / shapes[c].row_elems : e % shapes[c].row_elems),
                               cases[c].method);
        outcome_release(&got);
        inputs_release(&in);
        free(weights);
    }
}

/* ---- reports ---------------------------------------------------------------------------------------------------- */

static void reports(void **state)
{
    static const struct method_case cases[] = {
        {"linear", 3, false, {GLOBAL("weight", 2.0), GLOBAL("normalize", 0.0)}},
        {"task_arithmetic", 2, true, {GLOBAL("weight", 2.0)}},
    };
    static const float values[] = {0.25f, 1.0f, 0.5f};
    const struct windows w = windows_of(ELEMS_2_35 + CHUNK + 77, CHUNK);

    (void)state;
    for (int c = 0; c < 2; c++)
        for (size_t t = 0; t < N_TYPE_CHOICES; t++) {
            const struct dtype_case *types = &dtype_cases[type_choice[t]];
            struct merge_op op = prepared(&cases[c], 1, w.n_elems);
            struct inputs in = constant_inputs(&w, types, c == 1, values, 3);
            struct outcome got;
            inputs_set(&in, &w, 0, ELEMS_2_35 + 5, NAN);
            inputs_set(&in, &w, 1, ELEMS_2_31 - 1, INFINITY);
            inputs_set(&in, &w, 1, ELEMS_2_32 + 3, NAN);
            inputs_set(&in, &w, 2, ELEMS_2_32, -INFINITY);
            inputs_set(&in, &w, 2, w.n_elems - 1, NAN);
            inputs_set(&in, &w, 1, ELEMS_2_32 + 7, 3e38f); /* twice as much is infinite, but in F64 */
            run_both(&w, &in.arrays, &op, &got, types->name);
            assert_same_count(got.report.n_bad_in[0], got.report.first_bad_in[0], 1, ELEMS_2_35 + 5, types->name, 0);
            assert_same_count(got.report.n_bad_in[1], got.report.first_bad_in[1], 2, ELEMS_2_31 - 1, types->name, 1);
            assert_same_count(got.report.n_bad_in[2], got.report.first_bad_in[2], 2, ELEMS_2_32, types->name, 2);
            assert_same_count(got.report.n_bad_out, got.report.first_bad_out, 1, ELEMS_2_32 + 7, types->name, -1);
            outcome_release(&got);
            inputs_release(&in);
        }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_masks),      cmocka_unit_test(tie_indexes), cmocka_unit_test(gram_sums),
        cmocka_unit_test(weights_by_vector), cmocka_unit_test(reports),
    };
    int n_devices = 0;

    if (cudaGetDeviceCount(&n_devices) != cudaSuccess || n_devices == 0) {
        printf("skipped: no CUDA device here\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
