/* Whole merges by two ranks on pretended GPUs that share the statistics of split tensors through a pretended NCCL, or
 * through files where they cannot: the bytes of one process on the CPU. */
#include "base/file.h"
#include "comm_nccl_rig.h"
#include "cuda_on_cpu.h"
#include "support/fixture.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum {
    N_MODELS = 3,
    N_RANKS = 2,
    COLUMNS = 1024,
    ROWS = 2100
}; /* three grains of a split tensor, the last not whole */

static const char *const recipes[] = {
    "merge_method: ties\nbase_model: %0\nparameters: {density: 0.4, weight: 1}\nmodels: [{model: %1}, {model: %2}]\n",
    "merge_method: ties\nbase_model: %0\nparameters: {density: 0.4, weight: 1, trim: global}\nmodels: [{model: %1}, "
    "{model: %2}]\n",
    "merge_method: slerp\nbase_model: %0\nparameters: {t: 0.3}\nmodels: [{model: %0}, {model: %1}]\n",
    "merge_method: dare_ties\nbase_model: %0\nparameters: {density: 0.4, weight: 1}\nmodels: [{model: %1}, {model: "
    "%2}]\n",
};

static void write_models(const struct fixture *f)
{
    for (int m = 0; m < N_MODELS; m++) {
        uint64_t delta = m ? (uint64_t)(10 * m) : 0;
        const struct fixture_tensor tensors[] = {
            {"large.weight", WM_BF16, 2, {ROWS, COLUMNS}, 1, 0.02, delta, 0.001, NULL},
            {"small.0.weight", WM_BF16, 2, {33, 65}, 2, 0.02, delta, 0.001, NULL},
            {"small.1.weight", WM_F32, 1, {1000}, 3, 0.02, delta, 0.001, NULL},
        };
        char name[8];
        snprintf(name, sizeof name, "m%d", m);
        fixture_write_model(f, name, tensors, sizeof tensors / sizeof *tensors, 0, NULL);
    }
}

static void write_recipe(const struct fixture *f, const char *yaml)
{
    char text[1024];
    size_t n = 0;

    for (const char *at = yaml; *at; at++)
        if (*at == '%') {
            char name[8];
            snprintf(name, sizeof name, "m%c", *++at);
            n += (size_t)snprintf(text + n, sizeof text - n, "%s", fixture_path(f, name));
        } else {
            text[n++] = *at;
        }
    text[n] = '\0';
    fixture_write_file(f, "c.yml", text);
}

struct merge_rank {
    pthread_t thread;
    char config[200], out[200];
    struct wm_options options;
    struct wm_error err;
};

static void *merge(void *argument)
{
    struct merge_rank *r = argument;
    struct wm_merge *handle = NULL;

    if (wm_merge_open(&handle, r->config, &r->options, &r->err) == WM_OK &&
        wm_merge_plan(handle, r->out, &r->err) == WM_OK)
        (void)wm_merge_run(handle, &r->err);
    wm_merge_free(handle);
    return NULL;
}

static void begin_rank(struct merge_rank *r, const struct fixture *f, const char *out, int rank, int n_ranks,
                       enum wm_device device)
{
    const struct wm_options fresh = WM_OPTIONS_INIT;

    memset(r, 0, sizeof *r);
    snprintf(r->config, sizeof r->config, "%s", fixture_path(f, "c.yml"));
    snprintf(r->out, sizeof r->out, "%s", fixture_path(f, out));
    r->options = fresh;
    r->options.device = device;
    r->options.sync = 0;
    r->options.n_threads = 1;
    r->options.n_ranks = n_ranks;
    r->options.rank = r->options.local_rank = rank;
    r->options.local_size = n_ranks;
    r->options.rank_deadline_seconds = 100; /* a sanitizer on a busy machine */
    snprintf(r->options.rank_job, sizeof r->options.rank_job, "%s", out);
}

/* The digest of what `n_ranks` make, as threads. */
static struct hash128 merge_with(const struct fixture *f, const char *out, int n_ranks, enum wm_device device)
{
    struct merge_rank ranks[N_RANKS];

    for (int r = 0; r < n_ranks; r++) {
        begin_rank(&ranks[r], f, out, r, n_ranks, device);
        assert_int_equal(pthread_create(&ranks[r].thread, NULL, merge, &ranks[r]), 0);
    }
    for (int r = 0; r < n_ranks; r++)
        pthread_join(ranks[r].thread, NULL);
    for (int r = 0; r < n_ranks; r++)
        if (ranks[r].err.status != WM_OK)
            fail_msg("%s, rank %d of %d: %s", out, r, n_ranks, ranks[r].err.message);
    return fixture_digest(f, out);
}

/* A GPU each: NCCL carries the sums. One for both, which NCCL does not take, or none: the files do. */
static void two_ranks_give_the_bytes_of_one_process(void **state)
{
    static const struct {
        const char *name;
        enum wm_device device;
        int n_devices;
        bool lazy, by_nccl;
    } cases[] = {{"two GPUs", WM_DEVICE_CUDA, 2, true, true},
                 {"one GPU", WM_DEVICE_CUDA, 1, true, false},
                 {"no GPU", WM_DEVICE_CPU, 0, false, false}};
    struct fixture f;
    char out[32];

    (void)state;
    fixture_init(&f);
    write_models(&f);
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        struct hash128 expected;
        write_recipe(&f, recipes[i]);
        snprintf(out, sizeof out, "single%zu", i);
        expected = merge_with(&f, out, 1, WM_DEVICE_CPU);
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            struct cuda_on_cpu_config devices = cuda_on_cpu_default();
            struct nccl_sim_counts counts;
            devices.n_devices = cases[c].n_devices;
            devices.memory_bytes = (size_t)64 << 20;
            devices.lazy_streams = cases[c].lazy;
            cuda_on_cpu_configure(&devices);
            sim.configure(NULL);
            snprintf(out, sizeof out, "out%zu-%zu", i, c);
            if (!hash128_equal(expected, merge_with(&f, out, N_RANKS, cases[c].device)))
                fail_msg("recipe %zu with %s: other bytes than a single process", i, cases[c].name);
            sim.get_counts(&counts);
            if (counts.misuse)
                fail_msg("recipe %zu with %s: %s", i, cases[c].name, counts.misuse);
            assert_int_equal(counts.live, 0);
            assert_int_equal(counts.collectives > 0, cases[c].by_nccl);
        }
    }
    fixture_release(&f);
}

/* What the test above rests on. */
static void the_large_tensor_is_split(void **state)
{
    struct wm_merge *handle = NULL;
    struct merge_rank r;
    struct fixture f;
    char *text = NULL;

    (void)state;
    fixture_init(&f);
    write_models(&f);
    write_recipe(&f, recipes[0]);
    begin_rank(&r, &f, "plan", 0, N_RANKS, WM_DEVICE_CPU);
    assert_int_equal(wm_merge_open(&handle, r.config, &r.options, &r.err), WM_OK);
    assert_int_equal(wm_merge_plan(handle, NULL, &r.err), WM_OK);
    assert_int_equal(wm_merge_describe(handle, 0, &text, &r.err), WM_OK);
    assert_non_null(strstr(text, "1 tensor split"));
    wm_text_free(text);
    wm_merge_free(handle);
    fixture_release(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_large_tensor_is_split),
        cmocka_unit_test(two_ranks_give_the_bytes_of_one_process),
    };

    return cmocka_run_group_tests(tests, rig_load, NULL);
}
