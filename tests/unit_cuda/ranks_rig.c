/* ranks_rig.c: see ranks_rig.h. */
#include "ranks_rig.h"

#include "cuda_on_cpu.h"
#include "support/merge_cases.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

enum { N_MODELS = 3, JOURNAL_RECORD_BYTES = 64, PATIENCE_MS = 60000 };

#define TWO_TASKS                                                                                                      \
    "base_model: '%0'\nmodels:\n- {model: '%1', parameters: {weight: 0.6}}\n- {model: '%2', parameters: {weight: "     \
    "0.7, density: 0.3}}\n"
#define TWO_MODELS "models:\n- {model: '%1', parameters: {weight: 0.6}}\n- {model: '%2', parameters: {weight: 0.4}}\n"

const struct ranks_recipe ranks_recipes[] = {
    {"linear", "merge_method: linear\n" TWO_MODELS, 2},
    {"passthrough", "merge_method: passthrough\nmodels: [{model: '%1'}]\n", 2},
    {"convert", "merge_method: passthrough\ndtype: float16\nparameters: {scale: 0.5}\nmodels: [{model: '%1'}]\n", 2},
    {"task_arithmetic", "merge_method: task_arithmetic\nparameters: {lambda: 0.9}\n" TWO_TASKS, 2},
    {"ties", "merge_method: ties\nparameters: {density: 0.4}\n" TWO_TASKS, 2},
    {"ties_rescale", "merge_method: ties\ndtype: float32\nparameters: {density: 0.4, rescale: true}\n" TWO_TASKS, 2},
    {"ties_global", "merge_method: ties\nparameters: {density: 0.4, trim: global}\n" TWO_TASKS, 2},
    {"dare_linear", "merge_method: dare_linear\nparameters: {density: 0.4, rescale: false}\n" TWO_TASKS, 2},
    {"dare_ties", "merge_method: dare_ties\nparameters: {density: 0.4, rescale: true}\n" TWO_TASKS, 2},
    {"slerp", "merge_method: slerp\nbase_model: '%0'\nparameters: {t: 0.3}\nmodels: [{model: '%0'}, {model: '%1'}]\n",
     2},
    {"nuslerp", "merge_method: nuslerp\n" TWO_MODELS, 2},
    {"nuslerp_base", "merge_method: nuslerp\nbase_model: '%0'\n" TWO_MODELS, 2},
    {"nuslerp_rows", "merge_method: nuslerp\nparameters: {nuslerp_flatten: false, nuslerp_row_wise: true}\n" TWO_MODELS,
     0},
    {"nuslerp_columns", "merge_method: nuslerp\nbase_model: '%0'\nparameters: {nuslerp_flatten: false}\n" TWO_MODELS,
     0},
    {"mergealign", "merge_method: mergealign\nbase_model: '%0'\nmodels: [{model: '%1'}, {model: '%2'}]\n", 2},
};
const size_t ranks_recipes_count = sizeof ranks_recipes / sizeof *ranks_recipes;

const struct ranks_recipe *ranks_recipe(const char *name)
{
    for (size_t i = 0; i < ranks_recipes_count; i++)
        if (strcmp(ranks_recipes[i].name, name) == 0)
            return &ranks_recipes[i];
    fail_msg("there is no recipe %s", name);
    return NULL;
}

/* A grain of a split tensor is 2^20 elements: three of one tensor and two of another, the last of each not whole. 8 ranks
 * have five pieces between them, so that some go through the passes of a tensor of which they have no part. */
void ranks_write_models(const struct fixture *f)
{
    for (int m = 0; m < N_MODELS; m++) {
        uint64_t delta = m ? (uint64_t)(10 * m) : 0;
        const struct fixture_tensor tensors[] = {
            {"large.0.weight", WM_BF16, 2, {2100, 1024}, 1, 0.02, delta, 0.001, NULL},
            {"large.1.weight", m == 2 ? WM_F32 : WM_F16, 2, {1025, 1031}, 2, 0.02, delta, 0.001, NULL},
            {"small.0.weight", WM_BF16, 2, {33, 65}, 3, 0.02, delta, 0.001, NULL},
            {"small.1.weight", WM_F32, 1, {1000}, 4, 0.02, delta, 0.001, NULL},
            {"small.2.weight", m == 1 ? WM_F16 : WM_BF16, 2, {257, 311}, 5, 0.02, delta, 0.001, NULL},
            {"small.3.scalar", WM_F32, 0, {0}, 6, 1.0, delta, 0.1, NULL},
            {"small.4.empty", WM_BF16, 2, {0, 4}, 0, 0, 0, 0, NULL},
        };
        char name[8];
        snprintf(name, sizeof name, "m%d", m);
        fixture_write_model(f, name, tensors, sizeof tensors / sizeof *tensors, 0, NULL);
    }
}

static const char *config_name(char name[64], const struct ranks_recipe *recipe)
{
    snprintf(name, 64, "%s.yml", recipe->name);
    return name;
}

void ranks_write_config(const struct fixture *f, const struct ranks_recipe *recipe)
{
    char name[64];

    merge_cases_write_config(f, config_name(name, recipe), recipe->yaml);
}

void ranks_machine(int n_devices, bool lazy)
{
    struct cuda_on_cpu_config devices = cuda_on_cpu_default();

    devices.n_devices = n_devices;
    devices.memory_bytes = (size_t)48 << 20;
    devices.lazy_streams = lazy;
    cuda_on_cpu_configure(&devices);
    sim.configure(NULL);
}

static int hear_progress(void *user, const struct wm_progress *progress)
{
    struct merge_rank *r = user;

    if (progress->bytes_resumed > r->bytes_resumed)
        r->bytes_resumed = progress->bytes_resumed;
    return 0;
}

static void hear_problem(void *user, const struct wm_problem *problem)
{
    struct merge_rank *r = user;

    if (strstr(problem->text, "the ranks speak"))
        snprintf(r->spoke, sizeof r->spoke, "%s", problem->text);
}

void ranks_begin(struct ranks_run *run, const struct fixture *f, const struct ranks_recipe *recipe, const char *out,
                 int n_ranks, enum wm_device device)
{
    const struct wm_options fresh = WM_OPTIONS_INIT;
    char config[64];

    memset(run, 0, sizeof *run);
    run->n_ranks = n_ranks;
    run->n_records = 1;
    for (int i = 0; i < n_ranks; i++) {
        struct merge_rank *r = &run->ranks[i];
        r->run = run;
        r->number = i;
        snprintf(r->config, sizeof r->config, "%s", fixture_path(f, config_name(config, recipe)));
        snprintf(r->out, sizeof r->out, "%s", fixture_path(f, out));
        r->options = fresh;
        r->options.device = device;
        r->options.sync = 0;
        r->options.n_threads = r->options.n_io_threads = 1;
        r->options.memory_bytes = (uint64_t)128 << 20;
        r->options.tile_bytes = (uint64_t)512 << 10;
        r->options.on_progress = hear_progress;
        r->options.on_problem = hear_problem;
        r->options.user = r;
        r->options.n_ranks = n_ranks;
        r->options.rank = r->options.local_rank = i;
        r->options.local_size = n_ranks;
        r->options.rank_deadline_seconds = 100; /* a sanitizer on a busy machine */
        snprintf(r->options.rank_job, sizeof r->options.rank_job, "%.100s", out);
    }
}

_Thread_local int ranks_number_here = -1;

static void *merge(void *argument)
{
    struct merge_rank *r = argument;

    ranks_number_here = r->number;
    if (wm_merge_plan(r->handle, r->out, &r->err) == WM_OK)
        (void)wm_merge_run(r->handle, &r->err);
    return NULL;
}

static int64_t n_records_of(const struct merge_rank *r)
{
    const char *name = strrchr(r->out, '/') + 1;
    struct stat status;
    char path[400];

    snprintf(path, sizeof path, "%.*s.%s.warpmerge-partial/journal", (int)(name - r->out), r->out, name);
    if (r->run->n_ranks > 1)
        snprintf(path + strlen(path), 16, "-%04d", r->number);
    snprintf(path + strlen(path), 16, ".warpmerge");
    return stat(path, &status) == 0 ? status.st_size / JOURNAL_RECORD_BYTES - 1 : 0;
}

static void interrupt_in_time(struct ranks_run *run, int64_t n_before)
{
    struct merge_rank *r = &run->ranks[run->watched_rank];
    struct stat status;

    for (int ms = 0; ms < PATIENCE_MS && n_records_of(r) - n_before < run->n_records && stat(r->out, &status) != 0;
         ms++)
        sleep_ms(1);
    run->interrupt(r);
}

void ranks_merge(struct ranks_run *run)
{
    const int64_t n_before = n_records_of(&run->ranks[run->watched_rank]); /* of an earlier merge */
    pthread_t threads[RANKS_RIG_MAX] = {0};

    for (int i = 0; i < run->n_ranks; i++) {
        struct merge_rank *r = &run->ranks[i];
        if (wm_merge_open(&r->handle, r->config, &r->options, &r->err) != WM_OK)
            fail_msg("rank %d of %d: %s", i, run->n_ranks, r->err.message);
    }
    for (int i = 0; i < run->n_ranks; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, merge, &run->ranks[i]), 0);
    if (run->interrupt)
        interrupt_in_time(run, n_before);
    for (int i = 0; i < run->n_ranks; i++) {
        pthread_join(threads[i], NULL);
        wm_merge_free(run->ranks[i].handle);
        run->ranks[i].handle = NULL;
        run->bytes_resumed += run->ranks[i].bytes_resumed;
    }
}

void ranks_expect_tidy(const char *what)
{
    struct nccl_sim_counts counts;
    char text[300];

    sim.get_counts(&counts);
    if (counts.misuse)
        fail_msg("%s: %s", what, counts.misuse);
    if (counts.live)
        fail_msg("%s: %d communicators are left", what, counts.live);
    if (cuda_on_cpu_leaks(text, sizeof text))
        fail_msg("%s: %s", what, text);
}

void ranks_expect_well(const struct ranks_run *run, const char *what)
{
    for (int i = 0; i < run->n_ranks; i++)
        if (run->ranks[i].err.status != WM_OK)
            fail_msg("%s, rank %d of %d: %s", what, i, run->n_ranks, run->ranks[i].err.message);
    ranks_expect_tidy(what);
}

struct hash128 ranks_digest(const struct fixture *f, const char *out)
{
    struct hash128 digest = fixture_digest(f, out);
    struct fixture inner;

    snprintf(inner.dir, sizeof inner.dir, "%.31s/%.31s", f->dir, out);
    fixture_release(&inner);
    return digest;
}

struct hash128 ranks_digest_of_one(const struct fixture *f, const struct ranks_recipe *recipe)
{
    struct ranks_run run;

    ranks_machine(0, false);
    ranks_begin(&run, f, recipe, "single", 1, WM_DEVICE_CPU);
    ranks_merge(&run);
    ranks_expect_well(&run, recipe->name);
    return ranks_digest(f, "single");
}
