/* Whole-model trimming refuses densities that differ and methods that cannot have it, and believes no state of an earlier run
 * that cannot be. */
#include "kernel_harness.h"

#include "statistics/model_statistics.h"

/* Of a file nothing is believed that cannot be, and what was begun goes on as if nothing had been asked. */
static void test_states_that_cannot_be(void **state)
{
    static const struct {
        const char *what;
        enum model_pass pass;
        int model;
        struct model_search search;
        uint32_t threshold;
        uint64_t n_kept;
        bool ok;
    } cases[] = {
        {"COARSE over", MODEL_FINE, 1, {1, 3, 20, 10, 100}, 0, 0, true},
        {"FINE over", MODEL_SIGNS, 1, {1, 0, 0, 0, 0}, 0x3f800000, 21, true},
        {"nothing over", MODEL_COARSE, 1, {1, 3, 20, 10, 100}, 0, 0, false},
        {"everything over", MODEL_READY, 1, {1, 3, 20, 10, 100}, 0, 0, false},
        {"another model", MODEL_FINE, 1, {0, 3, 20, 10, 100}, 0, 0, false},
        {"no rank", MODEL_FINE, 1, {1, 0, 20, 10, 100}, 0, 0, false},
        {"rank outside of the bin", MODEL_FINE, 1, {1, 11, 20, 10, 100}, 0, 0, false},
        {"a bin larger than the model", MODEL_FINE, 1, {1, 3, 20, 101, 100}, 0, 0, false},
        {"more above than there is", MODEL_FINE, 1, {1, 3, 91, 10, 100}, 0, 0, false},
        {"no such bin", MODEL_FINE, 1, {1, 3, 20, 10, 65536}, 0, 0, false},
        {"more kept than there is", MODEL_SIGNS, 1, {1, 0, 0, 0, 0}, 0, 101, false},
        {"no magnitude", MODEL_SIGNS, 1, {1, 0, 0, 0, 0}, 0x80000000, 3, false},
    };
    struct setting settings[] = {
        {"trim", 1.0, -1}, {"weight", 1.0, -1}, {"density", 1.0, 0}, {"density", 0.2, 1}, {NULL, 0.0, 0}};
    struct merge_op op;
    char message[256] = "";
    (void)state;
    assert_int_equal(prepare_op(&op, "ties", 2, true, 1, 100, 0, settings, message), WM_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_thresholds result = {.n_models = 2};
        struct model_statistics ms;
        model_statistics_init(&ms);
        assert_int_equal(model_statistics_add(&ms, &op, message), WM_OK);
        assert_true(model_statistics_begin(&ms));
        assert_int_equal(ms.n_searches, 1); /* of model 1: model 0 is not trimmed */
        result.models[1].threshold = cases[i].threshold;
        result.models[1].n_kept = cases[i].n_kept;
        if (model_statistics_resume(&ms, cases[i].pass, &cases[i].search, &result) != cases[i].ok)
            fail_msg("%s", cases[i].what);
        assert_int_equal(ms.pass, cases[i].ok ? cases[i].pass : MODEL_COARSE);
        assert_int_equal(ms.result.models[0].n_kept, 100);
        if (!cases[i].ok)
            assert_int_equal(ms.searches[0].rank, 21);
        model_statistics_release(&ms);
    }
}

static void test_densities_must_agree(void **state)
{
    struct setting settings[] = {{"trim", 1.0, -1}, {"weight", 1.0, -1}, {"density", 0.2, -1}, {NULL, 0.0, 0}};
    struct model_statistics ms;
    struct merge_op op;
    char message[256] = "";
    (void)state;
    model_statistics_init(&ms);
    assert_true(model_statistics_empty(&ms));
    assert_int_equal(prepare_op(&op, "ties", 2, true, 1, 100, 0, settings, message), WM_OK);
    assert_int_equal(model_statistics_add(&ms, &op, message), WM_OK);
    assert_int_equal(model_statistics_add(&ms, &op, message), WM_OK);
    assert_false(model_statistics_empty(&ms));
    assert_int_equal(ms.result.models[1].n_elems, 200);
    settings[2].value = 0.3;
    assert_int_equal(prepare_op(&op, "ties", 2, true, 1, 100, 0, settings, message), WM_OK);
    assert_int_equal(model_statistics_add(&ms, &op, message), WM_BAD_CONFIG);
    assert_non_null(strstr(message, "0.3 here and 0.2"));
    /* `trim: tensor` neither needs them nor minds. */
    settings[0].value = 0.0;
    assert_int_equal(prepare_op(&op, "ties", 2, true, 1, 100, 0, settings, message), WM_OK);
    assert_int_equal(model_statistics_add(&ms, &op, message), WM_OK);
    assert_int_equal(ms.result.models[1].n_elems, 200);
    model_statistics_release(&ms);
}

static void test_l1_is_refused(void **state)
{
    const struct setting settings[] = {
        {"trim", 1.0, -1}, {"weight", 1.0, -1}, {"density", 0.2, -1}, {"rescale", RESCALE_L1, -1}, {NULL, 0.0, 0}};
    struct merge_op op;
    char message[256] = "";
    (void)state;
    assert_int_equal(prepare_op(&op, "ties", 2, true, 1, 100, 0, settings, message), WM_BAD_CONFIG);
    assert_non_null(strstr(message, "rescale: true"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_states_that_cannot_be),
                                       cmocka_unit_test(test_densities_must_agree),
                                       cmocka_unit_test(test_l1_is_refused)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
