/* The table of methods: every descriptor is complete and consistent, look-ups find all of them, prepare refuses what it
 * must with a sentence, and the operations say what they need. */
#include "kernel_harness.h"

#define G -1

static void test_descriptors(void **state)
{
    int n_methods = 0;
    (void)state;
    for (size_t i = 0; method_list[i] != NULL; i++, n_methods++) {
        const struct method *m = method_list[i];
        assert_true(m->name != NULL && m->name[0] != 0);
        assert_true(m->summary != NULL && strlen(m->summary) < 100 && strchr(m->summary, '\n') == NULL);
        assert_true(m->formula != NULL && m->source != NULL && m->notes != NULL && m->citation_url != NULL);
        assert_true(m->prepare != NULL);
        assert_true(m->min_models >= 1 && m->min_models <= m->max_models && m->max_models <= METHOD_MAX_MODELS);
        assert_true(m->n_params >= 1 && m->n_params <= METHOD_MAX_PARAMS);
        assert_ptr_equal(method_find(m->name), m);
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(m->name, method_list[j]->name);
        for (int p = 0; p < m->n_params; p++) {
            const struct method_param *param = &m->params[p];
            assert_true(param->name != NULL && param->help != NULL && param->help[0] != 0);
            assert_int_equal(method_param_index(m, param->name), p);
            assert_true(param->min <= param->max);
            if (!param->required)
                assert_true(param->default_value >= param->min && param->default_value <= param->max);
            if (param->type == METHOD_CHOICE) {
                int n_choices = 0;
                while (param->choices[n_choices] != NULL)
                    n_choices++;
                assert_true(param->default_value < n_choices && param->max == n_choices - 1);
            } else {
                assert_null(param->choices);
            }
        }
    }
    assert_int_equal(n_methods, 9);
    assert_null(method_find("tie"));
    assert_null(method_find(""));
    assert_int_equal(method_param_index(method_find("ties"), "densities"), -1);
}

/* mergekit notes, table of section 3. */
static void test_mergekit_defaults(void **state)
{
    static const struct {
        const char *method, *param;
        double value;
        bool required;
    } table[] = {
        {"linear", "normalize", 1, false},
        {"linear", "weight", 0, true},
        {"slerp", "t", 0, true},
        {"nuslerp", "weight", 0, true},
        {"nuslerp", "nuslerp_flatten", 1, false},
        {"nuslerp", "nuslerp_row_wise", 0, false},
        {"task_arithmetic", "normalize", 0, false},
        {"task_arithmetic", "lambda", 1, false},
        {"task_arithmetic", "rescale", 0, false},
        {"ties", "normalize", 1, false},
        {"ties", "rescale", 0, false},
        {"ties", "density", 1, false},
        {"ties", "weight", 0, true},
        {"dare_ties", "normalize", 0, false},
        {"dare_ties", "rescale", 1, false},
        {"dare_linear", "normalize", 0, false},
        {"dare_linear", "rescale", 1, false},
        {"dare_linear", "lambda", 1, false},
        {"mergealign", "weight", 0.5, false},
        {"mergealign", "normalize", 1, false},
        {"mergealign", "lambda", 1, false},
        {"passthrough", "scale", 1, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        const struct method *m = method_find(table[i].method);
        assert_non_null(m);
        int p = method_param_index(m, table[i].param);
        assert_true(p >= 0);
        assert_int_equal(m->params[p].required, table[i].required);
        if (!table[i].required)
            assert_true(m->params[p].default_value == table[i].value);
    }
    assert_true(method_find("task_arithmetic")
                    ->params[method_param_index(method_find("task_arithmetic"), "density")]
                    .no_effect);
    assert_int_equal(method_find("linear")->base, METHOD_BASE_ORDINARY);
    assert_int_equal(method_find("slerp")->base, METHOD_BASE_ONE_OF);
    assert_int_equal(method_find("nuslerp")->base, METHOD_BASE_OPTIONAL);
    assert_int_equal(method_find("mergealign")->base, METHOD_BASE_REQUIRED);
    assert_int_equal(method_find("mergealign")->min_models, 2);
}

static void test_refusals(void **state)
{
    static const struct {
        const char *method;
        int n_models;
        bool has_base;
        struct setting settings[3];
        const char *says;
    } table[] = {
        {"linear", 2, false, {{"weight", 1, 0}, {"weight", -1, 1}, {NULL, 0, 0}}, "add up to 0"},
        {"linear", 2, false, {{"weight", 1e300, G}, {NULL, 0, 0}}, "not a finite"},
        {"linear", 2, false, {{"weight", (double)NAN, G}, {NULL, 0, 0}}, "not a finite"},
        {"ties", 2, false, {{"weight", 1, G}, {NULL, 0, 0}}, "base_model"},
        {"ties", 2, true, {{"weight", 1, G}, {"lambda", 1e39, G}, {NULL, 0, 0}}, "lambda"},
        {"passthrough", 2, false, {{NULL, 0, 0}}, "exactly one model"},
        {"slerp", 3, false, {{"t", 0.5, G}, {NULL, 0, 0}}, "two models"},
        {"slerp", 2, false, {{"t", (double)INFINITY, G}, {NULL, 0, 0}}, "t inf"},
        {"nuslerp", 3, false, {{"weight", 1, G}, {NULL, 0, 0}}, "exactly two"},
        {"nuslerp", 1, true, {{"weight", 1, G}, {NULL, 0, 0}}, "besides the base_model"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        struct merge_op op;
        char message[256] = "";
        enum wm_status st =
            prepare_op(&op, table[i].method, table[i].n_models, table[i].has_base, 4, 4, 0, table[i].settings, message);
        assert_int_equal(st, WM_BAD_CONFIG);
        if (strstr(message, table[i].says) == NULL)
            fail_msg("%s: \"%s\" does not say \"%s\"", table[i].method, message, table[i].says);
    }
}

/* k = trunc(density * N) in double, like Python's int(): 0.29 * 100 is 28.999999999999996; at least 1. */
static void test_density(void **state)
{
    static const struct {
        const char *method;
        double density;
        uint64_t n;
        enum merge_keep keep;
        uint64_t amount; /* k or keep_below */
    } table[] = {
        {"ties", 0.29, 100, KEEP_TOP, 28},
        {"ties", 0.5, 7, KEEP_TOP, 3},
        {"ties", 1.0, 7, KEEP_ALL, 0},
        {"ties", 0.0, 7, KEEP_NONE, 0},
        {"ties", 0.1, 9, KEEP_TOP, 1},
        {"ties", 0.2, 5, KEEP_TOP, 1},
        {"ties", 0.1, 1, KEEP_ALL, 0},
        {"ties", 1e-9, 7, KEEP_TOP, 1},
        {"ties", 0.999999, 10, KEEP_TOP, 9},
        {"dare_ties", 0.5, 7, KEEP_RANDOM, 32768},
        {"dare_ties", 1.0, 7, KEEP_ALL, 65536},
        {"dare_ties", 0.0, 7, KEEP_NONE, 0},
        {"dare_ties", 1e-9, 7, KEEP_NONE, 0},
        {"dare_linear", 0.53, 7, KEEP_RANDOM, 34734},
        {"task_arithmetic", 0.1, 9, KEEP_ALL, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        const struct setting settings[] = {{"weight", 1, G}, {"density", table[i].density, G}, {NULL, 0, 0}};
        struct merge_op op;
        char message[256];
        assert_int_equal(prepare_op(&op, table[i].method, 1, true, 1, table[i].n, 0, settings, message), WM_OK);
        assert_int_equal(op.models[0].keep, table[i].keep);
        assert_true((op.models[0].keep == KEEP_TOP ? op.models[0].k : op.models[0].keep_below) == table[i].amount);
    }
}

/* The divisor without a vote: the fp32 sum of fp32 weights, left to right; a sum near zero divides by 1 (mergekit 3.8). */
static void test_divisor(void **state)
{
    static const struct {
        double weights[3];
        float divisor;
    } table[] = {{{0.6, 0.4, 0.5}, (0.6f + 0.4f) + 0.5f},
                 {{0.05, 0, 0}, 0.05f},
                 {{2e-8, 0, 0}, 2e-8f},
                 {{0.5e-8, 0, 0}, 1.0f},
                 {{1, -1, 0}, 1.0f},
                 {{1e8, 1, -1e8}, 1.0f}};
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        const struct setting settings[] = {{"weight", table[i].weights[0], 0},
                                           {"weight", table[i].weights[1], 1},
                                           {"weight", table[i].weights[2], 2},
                                           {"normalize", 1, G},
                                           {NULL, 0, 0}};
        struct merge_op op;
        char message[256];
        assert_int_equal(prepare_op(&op, "task_arithmetic", 3, true, 1, 100, 0, settings, message), WM_OK);
        assert_true(op.divisor == table[i].divisor);
    }
}

/* The paper's rescale divides by the density that was drawn with, a multiple of 2^-16. */
static void test_inverse_density(void **state)
{
    const struct setting settings[] = {{"weight", 1, G}, {"density", 0.53, G}, {"rescale", 2, G}, {NULL, 0, 0}};
    struct merge_op op;
    char message[256];
    (void)state;
    assert_int_equal(prepare_op(&op, "dare_linear", 1, true, 1, 100, 0, settings, message), WM_OK);
    assert_true(op.models[0].scale == (float)(65536.0 / 34734.0));
    assert_int_equal(statistics_first_pass(&op), STAT_READY);
    assert_int_equal(prepare_op(&op, "ties", 1, true, 1, 100, 0, settings, message), WM_OK);
    assert_true(op.models[0].scale == (float)(1.0 / 0.53));
}

static void test_first_passes(void **state)
{
    static const struct setting sparse[] = {{"weight", 1, G}, {"density", 0.5, G}, {NULL, 0, 0}};
    static const struct setting t[] = {{"t", 0.5, G}, {NULL, 0, 0}};
    struct merge_op op;
    char message[256];
    (void)state;
    assert_int_equal(prepare_op(&op, "linear", 2, false, 4, 4, 0, sparse + 2, message), WM_BAD_CONFIG);
    assert_int_equal(prepare_op(&op, "ties", 2, true, 4, 4, 0, sparse, message), WM_OK);
    assert_int_equal(statistics_first_pass(&op), STAT_KTH_COARSE);
    assert_int_equal(prepare_op(&op, "ties", 2, true, 0, 4, 0, sparse, message), WM_OK);
    assert_int_equal(statistics_first_pass(&op), STAT_READY);
    assert_int_equal(prepare_op(&op, "dare_ties", 2, true, 4, 4, 0, sparse, message), WM_OK);
    assert_int_equal(statistics_first_pass(&op), STAT_L1);
    assert_int_equal(prepare_op(&op, "task_arithmetic", 2, true, 4, 4, 0, sparse, message), WM_OK);
    assert_int_equal(statistics_first_pass(&op), STAT_READY);
    assert_int_equal(prepare_op(&op, "slerp", 2, false, 4, 4, 0, t, message), WM_OK);
    assert_int_equal(statistics_first_pass(&op), STAT_GRAM);
}

/* The bound on memory: proportional to tiles and chunks, never to elements, except for one vector a row or column. */
static void test_memory_bound(void **state)
{
    static const struct setting sparse[] = {{"weight", 1, G}, {"density", 0.5, G}, {NULL, 0, 0}};
    struct merge_op op;
    char message[256];
    (void)state;
    assert_int_equal(prepare_op(&op, "ties", 2, true, 128256, 8192, 0, sparse, message), WM_OK);
    assert_true(statistics_max_bytes(&op, 1 << 20) < 4u << 20);
    assert_int_equal(prepare_op(&op, "dare_ties", 2, true, 128256, 8192, 0, sparse, message), WM_OK);
    assert_true(statistics_max_bytes(&op, 1 << 20) < 4u << 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_descriptors),  cmocka_unit_test(test_mergekit_defaults),
        cmocka_unit_test(test_refusals),     cmocka_unit_test(test_density),
        cmocka_unit_test(test_divisor),      cmocka_unit_test(test_inverse_density),
        cmocka_unit_test(test_first_passes), cmocka_unit_test(test_memory_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
