/* Whole merges of every class of methods by 1, 2, 4 and 8 ranks on pretended GPUs, which share the statistics of split
 * tensors through a pretended NCCL, or through files where they cannot: the bytes of one process on the CPU. */
#include "ranks_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* A sanitizer makes each merge ten times as long and more: there a class has one or two of the cases. */
#if defined(__SANITIZE_THREAD__)
enum { CASE_STEP = 5 };
#elif defined(__SANITIZE_ADDRESS__)
enum { CASE_STEP = 3 };
#else
enum { CASE_STEP = 1 };
#endif

static const struct machine_case {
    const char *name;
    int n_ranks, n_devices;
    bool by_nccl;
    const char *spoke; /* what rank 0 says about how they speak, or NULL: nothing, as all others do */
} cases[] = {
    {"1 rank", 1, 1, false, NULL},
    {"2 ranks", 2, 2, true, "the ranks speak through NCCL 2."},
    {"4 ranks", 4, 4, true, "the ranks speak through NCCL 2."},
    {"8 ranks", 8, 8, true, "the ranks speak through NCCL 2."},
    /* which NCCL does not take: the files carry the sums */
    {"2 ranks on one GPU", 2, 1, false, "the ranks speak through files: NCCL is not used: ranks 0"},
    {"2 ranks without a GPU", 2, 0, false, NULL},
};

static void expect_bytes(const struct fixture *f, const struct ranks_recipe *recipe, const struct machine_case *c,
                         bool lazy, struct hash128 expected)
{
    struct nccl_sim_counts counts;
    struct ranks_run run;
    char what[100];

    snprintf(what, sizeof what, "%s by %s, %s", recipe->name, c->name, lazy ? "lazy" : "eager");
    ranks_machine(c->n_devices, lazy);
    ranks_begin(&run, f, recipe, "out", c->n_ranks, c->n_devices ? WM_DEVICE_CUDA : WM_DEVICE_CPU);
    ranks_merge(&run);
    ranks_expect_well(&run, what);
    if (!hash128_equal(expected, ranks_digest(f, "out")))
        fail_msg("%s: other bytes than a single process on the CPU", what);
    for (int r = 0; r < c->n_ranks; r++)
        if (!c->spoke || r ? run.ranks[r].spoke[0] : strncmp(run.ranks[r].spoke, c->spoke, strlen(c->spoke)) != 0)
            fail_msg("%s: rank %d says \"%s\"", what, r, run.ranks[r].spoke);
    sim.get_counts(&counts);
    assert_int_equal(counts.collectives > 0, c->by_nccl);
}

/* A forgotten event shows on lazy streams, one that comes too early on eager ones: in turns. */
static void ranks_give_the_bytes_of_one_process(void **state)
{
    struct fixture f;

    (void)state;
    fixture_init(&f);
    ranks_write_models(&f);
    for (size_t i = 0; i < ranks_recipes_count; i++) {
        struct hash128 expected;
        ranks_write_config(&f, &ranks_recipes[i]);
        expected = ranks_digest_of_one(&f, &ranks_recipes[i]);
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
            if ((i + c) % CASE_STEP == 0)
                expect_bytes(&f, &ranks_recipes[i], &cases[c], (i + c) % 2 != 0, expected);
    }
    fixture_release(&f);
}

/* What the test above rests on. */
static void large_tensors_are_split(void **state)
{
    struct wm_error err = WM_ERROR_INIT;
    struct fixture f;

    (void)state;
    fixture_init(&f);
    ranks_write_models(&f);
    for (size_t i = 0; i < ranks_recipes_count; i++) {
        const struct ranks_recipe *recipe = &ranks_recipes[i];
        struct wm_merge *handle = NULL;
        struct ranks_run run;
        char *text = NULL;
        ranks_write_config(&f, recipe);
        ranks_begin(&run, &f, recipe, "plan", 8, WM_DEVICE_CPU);
        assert_int_equal(wm_merge_open(&handle, run.ranks[0].config, &run.ranks[0].options, &err), WM_OK);
        assert_int_equal(wm_merge_plan(handle, NULL, &err), WM_OK);
        assert_int_equal(wm_merge_describe(handle, 0, &text, &err), WM_OK);
        if ((strstr(text, ", 2 tensors split;") != NULL) != recipe->splits)
            fail_msg("%s splits other tensors than the test believes:\n%s", recipe->name, text);
        wm_text_free(text);
        wm_merge_free(handle);
    }
    fixture_release(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(large_tensors_are_split),
        cmocka_unit_test(ranks_give_the_bytes_of_one_process),
    };

    return cmocka_run_group_tests(tests, rig_load, NULL);
}
