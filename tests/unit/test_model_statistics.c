/* Whole-model trimming: thresholds, the majority sign and the merged elements equal those of a full sort over all tensors,
 * for every instruction set, tile size, number of threads and number of ranks, in one run or in one a pass. */
#include "kernel_harness.h"

#include "statistics/model_statistics.h"

enum { MAX_TENSORS = 8, MAX_MODELS = 6, MAX_RANKS = 3 };

/* ---- models of several tensors -------------------------------------------------------------------------------- */

enum kind {
    TUNED,     /* deltas of a few ulps: many zeros, many ties          */
    OPPOSED,   /* the second model undoes the first in every third element */
    EQUAL,     /* every delta is the same magnitude                     */
    UNTOUCHED, /* the last model is the base                            */
    FALLING,   /* most deltas are negative; a quarter cancels           */
    BALANCED,  /* as many elements elect plus as minus; a third cancels */
    WIDE       /* deltas over the whole range of exponents              */
};

struct tensor {
    size_t n;
    enum wm_dtype dtype[MAX_MODELS + 1]; /* the base first */
    void *data[MAX_MODELS + 1];
};

struct model_case {
    const char *what;
    enum kind kind;
    enum wm_dtype dtype, base_dtype, out_dtype;
    int n_models;
    double density[MAX_MODELS], weight[MAX_MODELS];
    double normalize, lambda, rescale;
    size_t sizes[MAX_TENSORS]; /* 0 ends them */
};

static double delta_of(enum kind kind, int model, int n_models, size_t i, uint64_t *seed)
{
    double normal = random_normal(seed), sign = model == 0 ? 1.0 : model == 1 ? -1.0 : 0.0, step = 0x1p-9;
    switch (kind) {
    case TUNED: return 1e-4 * normal;
    case OPPOSED: return i % 3 == 0 ? sign * step * (double)(1 + i % 5) : 1e-3 * normal;
    case EQUAL: return normal < 0.0 ? -step : step;
    case UNTOUCHED: return model == n_models - 1 ? 0.0 : 1e-3 * normal;
    case FALLING: return i % 4 == 0 ? sign * step : i % 4 == 1 ? step : -step;
    case BALANCED: return i % 3 == 0 ? sign * step : i % 3 == 1 ? step : -step;
    case WIDE: return ldexp(normal, (int)(random_u64(seed) % 120) - 100);
    }
    return 0.0;
}

static int make_tensors(const struct model_case *c, struct tensor tensors[MAX_TENSORS])
{
    int n_tensors = 0;
    uint64_t seed = 20;
    for (; n_tensors < MAX_TENSORS && c->sizes[n_tensors] != 0; n_tensors++) {
        struct tensor *t = &tensors[n_tensors];
        bool exact = c->kind != TUNED && c->kind != UNTOUCHED && c->kind != WIDE; /* deltas survive a zero base alone */
        t->n = c->sizes[n_tensors];
        t->dtype[0] = c->base_dtype;
        t->data[0] = exact || c->kind == WIDE ? new_array(t->n, c->base_dtype) : new_weights(t->n, c->base_dtype, seed);
        for (int m = 0; m < c->n_models; m++) {
            t->dtype[m + 1] = c->dtype;
            t->data[m + 1] = new_array(t->n, c->dtype);
            for (size_t i = 0; i < t->n; i++)
                ref_store(t->data[m + 1], c->dtype, i,
                          (float)((double)ref_load(t->data[0], c->base_dtype, i) +
                                  delta_of(c->kind, m, c->n_models, i, &seed)));
        }
    }
    return n_tensors;
}

static void free_tensors(struct tensor *tensors, int n_tensors, int n_models)
{
    for (int t = 0; t < n_tensors; t++)
        for (int m = 0; m <= n_models; m++)
            free(tensors[t].data[m]);
}

/* ---- the reference: a sort of everything ------------------------------------------------------------------------ */

struct reference {
    struct model_thresholds found;
    bool keeps_none[MAX_MODELS];
    void *out[MAX_TENSORS];
};

static int by_magnitude(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static float delta_at(const struct tensor *t, int m, size_t i)
{
    return ref_load(t->data[m + 1], t->dtype[m + 1], i) - ref_load(t->data[0], t->dtype[0], i);
}

static void reference_threshold(const struct model_case *c, const struct tensor *tensors, int n_tensors, int m,
                                struct reference *r)
{
    struct model_threshold *found = &r->found.models[m];
    size_t d = 0, next = 0;
    for (int t = 0; t < n_tensors; t++)
        d += tensors[t].n;
    float *all = malloc((d + 1) * sizeof *all);
    assert_non_null(all);
    for (int t = 0; t < n_tensors; t++)
        for (size_t i = 0; i < tensors[t].n; i++)
            all[next++] = fabsf(delta_at(&tensors[t], m, i));
    qsort(all, d, sizeof *all, by_magnitude);
    size_t k = d - (size_t)((double)d * c->density[m]);
    float threshold = k > 0 ? all[k - 1] : 0.0f;
    *found = (struct model_threshold){.density = c->density[m], .n_elems = d};
    r->keeps_none[m] = c->density[m] == 0.0;
    if (!r->keeps_none[m]) {
        memcpy(&found->threshold, &threshold, 4);
        for (size_t i = 0; i < d; i++)
            found->n_kept += all[i] >= threshold;
    }
    free(all);
}

static float value_at(const struct model_case *c, const struct tensor *t, int m, size_t i, const struct reference *r)
{
    float delta = delta_at(t, m, i), threshold, scale = 1.0f;
    memcpy(&threshold, &r->found.models[m].threshold, 4);
    if (r->keeps_none[m] || fabsf(delta) < threshold)
        delta = 0.0f;
    if (c->rescale != 0.0 && c->density[m] > 0.0 && c->density[m] < 1.0)
        scale = (float)(1.0 / c->density[m]);
    return (float)c->weight[m] * (delta * scale);
}

static float sum_at(const struct model_case *c, const struct tensor *t, size_t i, const struct reference *r, bool *any)
{
    float sum = 0.0f;
    *any = false;
    for (int m = 0; m < c->n_models; m++) {
        float value = value_at(c, t, m, i, r);
        sum += value;
        *any |= value != 0.0f;
    }
    return sum;
}

static float merged_at(const struct model_case *c, const struct tensor *t, size_t i, const struct reference *r)
{
    bool any;
    float total = sum_at(c, t, i, r, &any), mixed = 0.0f, divisor = 0.0f;
    bool plus = total > 0.0f || (total == 0.0f && r->found.majority > 0);
    for (int m = 0; m < c->n_models; m++) {
        float value = value_at(c, t, m, i, r);
        if (plus ? value > 0.0f : value < 0.0f) {
            mixed += value;
            divisor += (float)c->weight[m];
        }
    }
    if (c->normalize != 0.0)
        mixed /= divisor == 0.0f ? 1.0f : divisor;
    return ref_load(t->data[0], t->dtype[0], i) + mixed * (float)c->lambda;
}

static void make_reference(const struct model_case *c, const struct tensor *tensors, int n_tensors, struct reference *r)
{
    memset(r, 0, sizeof *r);
    r->found.n_models = c->n_models;
    for (int m = 0; m < c->n_models; m++)
        reference_threshold(c, tensors, n_tensors, m, r);
    for (int t = 0; t < n_tensors; t++)
        for (size_t i = 0; i < tensors[t].n; i++) {
            bool any;
            float sum = sum_at(c, &tensors[t], i, r, &any);
            r->found.n_plus += sum > 0.0f;
            r->found.n_minus += sum < 0.0f;
            r->found.n_cancelled += sum == 0.0f && any;
        }
    r->found.majority = r->found.n_plus > r->found.n_minus ? 1 : r->found.n_plus < r->found.n_minus ? -1 : 0;
    for (int t = 0; t < n_tensors; t++) {
        r->out[t] = new_array(tensors[t].n, c->out_dtype);
        for (size_t i = 0; i < tensors[t].n; i++)
            ref_store(r->out[t], c->out_dtype, i, merged_at(c, &tensors[t], i, r));
    }
}

/* ---- running the passes ----------------------------------------------------------------------------------------- */

struct survey {
    const struct tensor *tensors;
    const struct merge_op *ops;
    struct model_statistics *ranks; /* [n_ranks]: tensor t belongs to rank t mod n_ranks */
    int n_tensors, n_ranks, n_threads;
    size_t tile_elems, skipped_tensor;
    size_t next;
};

static void fill_tile(const struct tensor *t, int n_inputs, size_t first, size_t n, struct merge_tile *tile)
{
    *tile = (struct merge_tile){.first_elem = first, .n_elems = n};
    for (int i = 0; i < n_inputs; i++) {
        tile->in[i] = (const char *)t->data[i] + first * dtype_width(t->dtype[i]);
        tile->in_dtype[i] = t->dtype[i];
    }
}

/* Tiles of all tensors, numbered through, backwards. */
static void *survey_thread(void *user)
{
    struct survey *s = user;
    struct cpu_scratch *scratch = cpu_scratch_new();
    if (scratch == NULL)
        abort();
    for (;;) {
        size_t left = __atomic_fetch_add(&s->next, 1, __ATOMIC_RELAXED), n_tiles;
        int t = s->n_tensors - 1;
        for (; t >= 0; left -= n_tiles, t--) {
            n_tiles = (s->tensors[t].n + s->tile_elems - 1) / s->tile_elems;
            if (left < n_tiles)
                break;
        }
        if (t < 0)
            break;
        struct merge_tile tile;
        size_t first = left * s->tile_elems, n = s->tensors[t].n - first;
        fill_tile(&s->tensors[t], s->ops[t].n_models + 1, first, n < s->tile_elems ? n : s->tile_elems, &tile);
        if ((size_t)t != s->skipped_tensor)
            cpu_model_statistics_tile(&s->ops[t], &s->ranks[t % s->n_ranks], &tile, scratch);
    }
    cpu_scratch_free(scratch);
    return NULL;
}

static void run_model_pass(struct survey *s)
{
    pthread_t threads[8] = {0};
    s->next = 0;
    for (int t = 1; t < s->n_threads; t++)
        assert_int_equal(pthread_create(&threads[t], NULL, survey_thread, s), 0);
    survey_thread(s);
    for (int t = 1; t < s->n_threads; t++)
        pthread_join(threads[t], NULL);
}

/* Every rank gets the sum of all ranks' counts. */
static void reduce(struct survey *s)
{
    uint64_t *counts[MAX_RANKS];
    size_t n, n_others;
    for (int r = 0; r < s->n_ranks; r++) {
        counts[r] = model_statistics_counts(&s->ranks[r], r == 0 ? &n : &n_others);
        assert_true(r == 0 || n == n_others);
    }
    for (size_t i = 0; i < n; i++) {
        uint64_t sum = 0;
        for (int r = 0; r < s->n_ranks; r++)
            sum += counts[r][i];
        for (int r = 0; r < s->n_ranks; r++)
            counts[r][i] = sum;
    }
}

static void begin_rank(const struct survey *s, struct model_statistics *ms)
{
    char message[256] = "";
    model_statistics_init(ms);
    for (int t = 0; t < s->n_tensors; t++)
        if (model_statistics_add(ms, &s->ops[t], message) != WM_OK)
            fail_msg("%s", message);
    assert_true(model_statistics_begin(ms));
}

/* What another run would find in the file. */
static void begin_again(const struct survey *s, struct model_statistics *ms)
{
    struct model_statistics before = *ms;
    begin_rank(s, ms);
    assert_true(model_statistics_resume(ms, before.pass, before.searches, &before.result));
    model_statistics_release(&before);
}

static void run_survey(struct survey *s)
{
    for (int r = 0; r < s->n_ranks; r++)
        begin_rank(s, &s->ranks[r]);
    while (s->ranks[0].pass != MODEL_READY) {
        run_model_pass(s);
        reduce(s);
        for (int r = 0; r < s->n_ranks; r++)
            assert_true(model_statistics_finish_pass(&s->ranks[r]));
        for (int r = 0; r < s->n_ranks && s->n_threads == 1 && s->ranks[r].pass != MODEL_READY; r++)
            begin_again(s, &s->ranks[r]);
    }
}

static void prepare_ops(const struct model_case *c, const struct tensor *tensors, int n_tensors, struct merge_op *ops)
{
    struct setting settings[2 * MAX_MODELS + 5] = {{"trim", 1.0, -1},
                                                   {"normalize", c->normalize, -1},
                                                   {"lambda", c->lambda, -1},
                                                   {"rescale", c->rescale != 0.0 ? RESCALE_INV_DENSITY : 0.0, -1}};
    char message[256] = "";
    int n = 4;
    for (int m = 0; m < c->n_models; m++) {
        settings[n++] = (struct setting){"density", c->density[m], m};
        settings[n++] = (struct setting){"weight", c->weight[m], m};
    }
    for (int t = 0; t < n_tensors; t++) {
        if (prepare_op(&ops[t], "ties", c->n_models, true, 1, tensors[t].n, 0, settings, message) != WM_OK)
            fail_msg("%s", message);
        assert_true(ops[t].model_statistics);
        assert_int_equal(statistics_first_pass(&ops[t]), STAT_READY);
    }
}

/* ---- comparing -------------------------------------------------------------------------------------------------- */

static void check_found(const struct model_thresholds *got, const struct model_thresholds *want, const char *label)
{
    assert_int_equal(got->n_models, want->n_models);
    for (int m = 0; m < want->n_models; m++) {
        const struct model_threshold *g = &got->models[m], *w = &want->models[m];
        if (g->n_elems != w->n_elems || g->threshold != w->threshold || g->n_kept != w->n_kept ||
            g->density != w->density)
            fail_msg("%s: model %d: threshold %08x keeps %llu of %llu, expected %08x, %llu of %llu", label, m,
                     (unsigned)g->threshold, (unsigned long long)g->n_kept, (unsigned long long)g->n_elems,
                     (unsigned)w->threshold, (unsigned long long)w->n_kept, (unsigned long long)w->n_elems);
    }
    if (got->n_plus != want->n_plus || got->n_minus != want->n_minus || got->n_cancelled != want->n_cancelled ||
        got->majority != want->majority)
        fail_msg("%s: %llu plus, %llu minus, %llu cancelled, majority %d, expected %llu, %llu, %llu, %d", label,
                 (unsigned long long)got->n_plus, (unsigned long long)got->n_minus,
                 (unsigned long long)got->n_cancelled, got->majority, (unsigned long long)want->n_plus,
                 (unsigned long long)want->n_minus, (unsigned long long)want->n_cancelled, want->majority);
}

static void check_merged(const struct model_case *c, const struct survey *s, const struct reference *want,
                         const char *label)
{
    for (int t = 0; t < s->n_tensors; t++) {
        const struct tensor *tensor = &s->tensors[t];
        struct run run = {.tile_elems = s->tile_elems, .n_threads = s->n_threads, .backwards = true};
        struct merge_op op = s->ops[t];
        struct merge_tile arrays;
        void *out = new_array(tensor->n, c->out_dtype);
        fill_tile(tensor, c->n_models + 1, 0, tensor->n, &arrays);
        arrays.out = out;
        arrays.out_dtype = c->out_dtype;
        model_thresholds_apply(&s->ranks[0].result, &op);
        run_op(&op, &arrays, &run);
        assert_same_elements(out, want->out[t], c->out_dtype, tensor->n, label);
        free(out);
    }
}

/* What a case must hold, or it tests less than it says. */
static void check_case(const struct model_case *c, const struct reference *r)
{
    const struct model_thresholds *f = &r->found;
    if (c->kind == OPPOSED || c->kind == FALLING || c->kind == BALANCED)
        assert_true(f->n_cancelled > 0);
    if (c->kind == FALLING)
        assert_int_equal(f->majority, -1);
    if (c->kind == BALANCED)
        assert_int_equal(f->majority, 0);
}

static void check(const struct model_case *c)
{
    static const struct {
        size_t tile_elems;
        int n_threads, n_ranks;
    } runs[] = {{1 << 20, 1, 1}, {16384, 1, 2}, {16384, 4, 1}, {49152, 3, 3}};
    struct tensor tensors[MAX_TENSORS];
    struct merge_op ops[MAX_TENSORS];
    struct reference want;
    int n_tensors = make_tensors(c, tensors);
    make_reference(c, tensors, n_tensors, &want);
    check_case(c, &want);
    prepare_ops(c, tensors, n_tensors, ops);
    for (int isa = 0; isa < N_ISAS; isa++)
        for (size_t r = 0; cpu_isa_force(all_isas[isa]) && r < sizeof runs / sizeof runs[0]; r++) {
            if (UNDER_TSAN && runs[r].n_threads == 1)
                continue;
            struct model_statistics ranks[MAX_RANKS];
            struct survey survey = {
                tensors, ops, ranks, n_tensors, runs[r].n_ranks, runs[r].n_threads, runs[r].tile_elems, SIZE_MAX, 0};
            char label[160];
            snprintf(label, sizeof label, "%s, %s, tile %zu, %d threads, %d ranks", c->what, cpu_isa(),
                     runs[r].tile_elems, runs[r].n_threads, runs[r].n_ranks);
            run_survey(&survey);
            for (int rank = 0; rank < survey.n_ranks; rank++)
                check_found(&ranks[rank].result, &want.found, label);
            if (!UNDER_TSAN)
                check_merged(c, &survey, &want, label);
            for (int rank = 0; rank < survey.n_ranks; rank++)
                model_statistics_release(&ranks[rank]);
        }
    cpu_isa_force(NULL);
    for (int t = 0; t < n_tensors; t++)
        free(want.out[t]);
    free_tensors(tensors, n_tensors, c->n_models);
}

/* ---- the tests -------------------------------------------------------------------------------------------------- */

#define SIZES                                                                                                          \
    {                                                                                                                  \
        1, 7, 20003, 65, 50000, 1024                                                                                   \
    }

static void test_cases(void **state)
{
    static const struct model_case table[] = {
        {"the paper's rule", TUNED, WM_F32, WM_F32, WM_F32, 2, {0.2, 0.2}, {1, 1}, 1, 1, 0, SIZES},
        {"bf16", TUNED, WM_BF16, WM_BF16, WM_BF16, 3, {0.2, 0.5, 0.7}, {1, 1, 1}, 1, 1, 0, SIZES},
        {"bf16 into fp32", TUNED, WM_BF16, WM_BF16, WM_F32, 2, {0.2, 0.01}, {1, 1}, 1, 0.8, 0, SIZES},
        {"mixed types", TUNED, WM_F16, WM_F32, WM_BF16, 2, {0.4, 0.4}, {1, 0.5}, 1, 1, 0, SIZES},
        {"whole model kept", OPPOSED, WM_F32, WM_F32, WM_F32, 2, {1, 1}, {1, 1}, 1, 1, 0, SIZES},
        {"one kept whole", OPPOSED, WM_F32, WM_F32, WM_F32, 3, {1, 0.3, 0.5}, {1, 1, 1}, 1, 1, 0, SIZES},
        {"none kept", TUNED, WM_BF16, WM_BF16, WM_BF16, 3, {0, 0.3, 0.5}, {1, 1, 1}, 1, 1, 0, SIZES},
        {"none kept at all", TUNED, WM_BF16, WM_BF16, WM_BF16, 1, {0}, {1}, 1, 1, 0, SIZES},
        {"one in a hundred", TUNED, WM_F32, WM_F32, WM_F32, 2, {0.01, 0.01}, {1, 1}, 1, 1, 0, SIZES},
        {"the largest alone", TUNED, WM_F32, WM_F32, WM_F32, 2, {1e-9, 1e-9}, {1, 1}, 1, 1, 0, SIZES},
        {"all but the smallest", WIDE, WM_F32, WM_F32, WM_F32, 2, {0.999999, 0.99}, {1, 1}, 1, 1, 0, SIZES},
        {"cancelling", OPPOSED, WM_BF16, WM_BF16, WM_BF16, 2, {0.5, 0.5}, {1, 1}, 1, 1, 0, SIZES},
        {"cancelling, four models",
         OPPOSED,
         WM_F32,
         WM_F32,
         WM_F32,
         4,
         {0.9, 0.9, 0.9, 0.9},
         {1, 1, 1, 1},
         1,
         1,
         0,
         SIZES},
        {"equal magnitudes", EQUAL, WM_F32, WM_F32, WM_F32, 2, {0.2, 0.2}, {1, 1}, 1, 1, 0, SIZES},
        {"equal magnitudes, bf16", EQUAL, WM_BF16, WM_BF16, WM_BF16, 3, {0.2, 0.2, 0.2}, {1, 1, 1}, 0, 1, 0, SIZES},
        {"an untouched model", UNTOUCHED, WM_F32, WM_F32, WM_F32, 3, {0.2, 0.3, 0.2}, {1, 1, 1}, 1, 1, 0, SIZES},
        {"majority minus", FALLING, WM_BF16, WM_BF16, WM_BF16, 2, {0.5, 0.5}, {1, 1}, 1, 1, 0, SIZES},
        {"majority minus, fp32", FALLING, WM_F32, WM_F32, WM_F32, 2, {0.5, 0.5}, {1, 1}, 0, 1, 0, SIZES},
        {"majority minus, four models",
         FALLING,
         WM_BF16,
         WM_BF16,
         WM_BF16,
         4,
         {1, 1, 1, 1},
         {1, 1, 1, 1},
         1,
         1,
         0,
         SIZES},
        {"no majority", BALANCED, WM_BF16, WM_BF16, WM_BF16, 2, {0.5, 0.5}, {1, 1}, 1, 1, 0, {3 * 4000, 3, 999}},
        {"weights", TUNED, WM_BF16, WM_BF16, WM_BF16, 3, {0.3, 0.3, 0.3}, {0.5, -0.25, 1.5}, 1, 0.7, 0, SIZES},
        {"rescaled", TUNED, WM_BF16, WM_BF16, WM_F32, 2, {0.3, 0.6}, {0.5, 1}, 1, 1, 1, SIZES},
        {"whole range", WIDE, WM_F32, WM_F32, WM_F32, 3, {0.2, 0.5, 0.01}, {1, 1, 1}, 1, 1, 0, SIZES},
        {"one element", TUNED, WM_F32, WM_F32, WM_F32, 2, {0.2, 0.9}, {1, 1}, 1, 1, 0, {1}},
        {"more than one walk's models",
         TUNED,
         WM_BF16,
         WM_F32,
         WM_BF16,
         6,
         {0.2, 0.3, 1, 0.5, 0.6, 0.7},
         {1, 1, 1, 1, 1, 1},
         1,
         1,
         0,
         SIZES},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i += UNDER_TSAN ? 4 : 1)
        check(&table[i]);
}

static void test_small_models(void **state)
{
    static const size_t sizes[] = {1, 2, 3, 5, 9, 16, 33};
    static const double densities[] = {0.1, 0.2, 0.5, 0.7, 0.9};
    (void)state;
    for (size_t n = 0; !UNDER_TSAN && n < sizeof sizes / sizeof sizes[0]; n++)
        for (size_t d = 0; d < sizeof densities / sizeof densities[0]; d++) {
            struct model_case c = {
                "small", TUNED, WM_BF16, WM_BF16, WM_F32,          2, {densities[d], 1.0 - densities[d]},
                {1, 1},  1,     1,       0,       {sizes[n], 1, 4}};
            check(&c);
        }
}

/* A model may miss from some tensors: indexes, not places, say whose counts they are. */
static void test_models_by_index(void **state)
{
    static const struct model_case c = {"by index", TUNED,  WM_F32, WM_F32, WM_F32, 2,
                                        {0.2, 0.6}, {1, 1}, 1,      1,      0,      {5000}};
    struct tensor tensors[MAX_TENSORS], second;
    struct merge_op ops[2];
    struct model_statistics ms;
    struct reference want;
    int n_tensors = make_tensors(&c, tensors);
    (void)state;
    make_reference(&c, tensors, n_tensors, &want);
    prepare_ops(&c, tensors, n_tensors, ops);
    /* The same data again as two tensors with one model each. */
    second = tensors[0];
    ops[1] = ops[0];
    ops[0].n_models = ops[1].n_models = 1;
    ops[1].models[0] = ops[1].models[1];
    second.data[1] = second.data[2];
    second.dtype[1] = second.dtype[2];
    struct tensor both[2] = {tensors[0], second};
    struct survey survey = {both, ops, &ms, 2, 1, 1, 16384, SIZE_MAX, 0};
    run_survey(&survey);
    for (int m = 0; m < 2; m++)
        assert_int_equal(ms.result.models[m].threshold, want.found.models[m].threshold);
    model_thresholds_apply(&ms.result, &ops[1]);
    assert_int_equal(ops[1].models[0].threshold, want.found.models[1].threshold);
    model_statistics_release(&ms);
    free(want.out[0]);
    free_tensors(tensors, n_tensors, 2);
}

/* A tensor that was left out must not pass for a smaller model. */
static void test_missing_counts_are_noticed(void **state)
{
    static const struct model_case c = {"missing",  TUNED,  WM_F32, WM_F32, WM_F32, 2,
                                        {0.2, 0.6}, {1, 1}, 1,      1,      0,      {5000, 3}};
    struct tensor tensors[MAX_TENSORS];
    struct merge_op ops[MAX_TENSORS];
    struct model_statistics ms;
    int n_tensors = make_tensors(&c, tensors);
    char message[256];
    (void)state;
    prepare_ops(&c, tensors, n_tensors, ops);
    for (int missing = MODEL_COARSE; missing < MODEL_READY; missing++) {
        model_statistics_init(&ms);
        for (int t = 0; t < n_tensors; t++)
            assert_int_equal(model_statistics_add(&ms, &ops[t], message), WM_OK);
        assert_true(model_statistics_begin(&ms));
        for (int pass = MODEL_COARSE; pass <= missing; pass++) {
            struct survey survey = {tensors, ops, &ms, n_tensors, 1, 1, 16384, pass == missing ? 0 : SIZE_MAX, 0};
            assert_int_equal(ms.pass, pass);
            run_model_pass(&survey);
            assert_true(model_statistics_finish_pass(&ms) == (pass != missing));
        }
        model_statistics_release(&ms);
    }
    free_tensors(tensors, n_tensors, c.n_models);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cases), cmocka_unit_test(test_small_models),
                                       cmocka_unit_test(test_models_by_index),
                                       cmocka_unit_test(test_missing_counts_are_noticed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
