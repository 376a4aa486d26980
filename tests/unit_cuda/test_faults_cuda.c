/* What a GPU's faults do to a merge: the n-th call fails, memory is short, devices cannot be used or are lost. The bytes
 * stay what they are, nothing leaks, and the user hears of it. */
#include "merge_on_gpu.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "methods/device.h"

/* Every call is tried up to the first, then one in so many; a sanitizer makes each merge ten times as long. */
#if defined(__SANITIZE_THREAD__)
enum { DENSE_CALLS = 1, FAMILY_CALLS = 1, SPARSE_STEP = 3001, RECIPE_STEP = 7 };
#elif defined(__SANITIZE_ADDRESS__)
enum { DENSE_CALLS = 4, FAMILY_CALLS = 8, SPARSE_STEP = 301, RECIPE_STEP = 3 };
#else
enum { DENSE_CALLS = 60, FAMILY_CALLS = 30, SPARSE_STEP = 53, RECIPE_STEP = 1 };
#endif
enum { ILLEGAL_ADDRESS = 700, OUT_OF_MEMORY = 2, UNKNOWN = 999 }; /* cudaError_t */

/* Tensors that do not stay in a small ring, of a type whose threshold is worth a guess. */
static const char large_ties[] =
    "merge_method: ties\nbase_model: '%7'\nparameters: {density: 0.3, weight: 1}\nmodels:\n- {model: '%8'}\n- {model: "
    "'%9'}\n";

static void write_large_models(const struct fixture *f)
{
    for (int m = 7; m <= 9; m++) {
        char name[16];
        uint64_t s = m > 7 ? 100u + (uint64_t)m : 0;
        struct fixture_tensor t[] = {{"large.weight", WM_BF16, 2, {800, 700}, 1, 0.02, s, 3e-4, NULL},
                                     {"small.weight", WM_BF16, 1, {100}, 2, 0.02, s, 3e-4, NULL}};
        snprintf(name, sizeof name, "m%d", m);
        fixture_write_model(f, name, t, sizeof t / sizeof *t, 0, "{\"model_type\":\"llama\"}");
    }
}

/* The smallest budget that the merge takes: what does not stay in it is streamed. */
static uint64_t least_memory(const struct fixture *f, struct wm_options o)
{
    for (o.memory_bytes = 8u << 20;; o.memory_bytes += 1u << 20) {
        struct wm_merge *merge = NULL;
        enum wm_status st = wm_merge_open(&merge, fixture_path(f, "c.yml"), &o, NULL);
        if (st == WM_OK)
            st = wm_merge_plan(merge, NULL, NULL);
        wm_merge_free(merge);
        if (st == WM_OK)
            return o.memory_bytes;
        assert_true(o.memory_bytes < 256u << 20);
    }
}

/* ---- the n-th call ------------------------------------------------------------------------------------------- */

struct sweep {
    const char *recipe;
    int n_devices, code;
    enum wm_device device;
    bool streamed;
    int n_out, n_went_on, n_ended, n_pageable;
};

/* The n-th CUDA call fails, for good or once: the merge goes on without the device and ends with the right bytes, or where
 * the user insisted on the device, with an error, and another command finishes it. False: there are no n calls. */
static bool one_call_fails(struct gpu_rig *r, struct sweep *s, uint64_t memory_bytes, int n)
{
    struct cuda_on_cpu_config machine = cuda_on_cpu_default();
    struct cuda_on_cpu_counts counts;
    struct wm_error err = WM_ERROR_INIT;
    char out[32];

    machine.n_devices = s->n_devices;
    machine.memory_bytes = (size_t)16 << 20;
    machine.lazy_streams = n % 2 == 0;
    machine.fail_at = (uint64_t)n;
    machine.fail_code = s->code;
    machine.fail_device = -1;
    rig_machine(r, &machine, s->device);
    r->o.memory_bytes = memory_bytes;
    snprintf(out, sizeof out, "out%d", s->n_out++);
    if (fixture_merge(&r->f, "c.yml", out, &r->o, &err) == WM_OK) {
        s->n_went_on += r->h.warning[0] != 0;
        s->n_pageable += strstr(r->h.warning, "page-locked") != NULL;
    } else if (s->device == WM_DEVICE_AUTO) {
        fail_msg("call %d fails with %d on %d devices, and the merge with it: %s", n, s->code, s->n_devices,
                 err.message);
    } else {
        s->n_ended++;
        assert_int_equal(err.status, WM_NO_DEVICE);
        assert_true(strlen(err.message) > 20);
        assert_false(file_exists(fixture_path(&r->f, out)));
    }
    cuda_on_cpu_get_counts(&counts);
    expect_nothing_kept(s->n_devices, n);
    if (err.status != WM_OK) {
        rig_machine(r, NULL, WM_DEVICE_CPU);
        expect_merge(r, out);
    }
    if (!rig_has_cpu_bytes(r, out))
        fail_msg("call %d fails with %d on %d devices: other bytes", n, s->code, s->n_devices);
    return !counts.calls || counts.calls >= (uint64_t)n;
}

static void sweep_calls(struct gpu_rig *r, struct sweep *s, int dense, int step)
{
    uint64_t memory_bytes;

    rig_recipe(r, s->recipe);
    set_up(&r->o, &r->h, s->device);
    memory_bytes = s->streamed ? least_memory(&r->f, r->o) : r->o.memory_bytes;
    for (int n = 1; one_call_fails(r, s, memory_bytes, n); n += n < dense ? 1 : step)
        ;
}

/* On one and on two devices, for good and once, insisting on the device and not. */
static void the_nth_call_may_fail(void **state)
{
    struct sweep s = {.recipe = merge_cases_recipes[1]};
    struct gpu_rig r;

    (void)state;
    rig_init(&r);
    for (int i = 0; i < 8; i++) {
        s.device = i % 2 ? WM_DEVICE_CUDA : WM_DEVICE_AUTO;
        s.code = i / 2 % 2 ? ILLEGAL_ADDRESS : OUT_OF_MEMORY;
        s.n_devices = 1 + i / 4;
        sweep_calls(&r, &s, DENSE_CALLS, SPARSE_STEP);
    }
    assert_true(s.n_went_on > DENSE_CALLS);
    assert_true(s.n_ended > 0);
    assert_true(s.n_pageable > 0 || RECIPE_STEP > 1);
    fixture_release(&r.f);
}

/* A recipe for each family of kernels, and one that streams its tensors and bets on thresholds. */
static void the_nth_call_may_fail_in_every_family(void **state)
{
    const char *recipes[] = {merge_cases_recipes[0], merge_cases_recipes[2], merge_cases_recipes[3], large_ties,
                             merge_cases_recipes[6]};
    struct gpu_rig r;

    (void)state;
    rig_init(&r);
    write_large_models(&r.f);
    for (size_t c = 0; c < sizeof recipes / sizeof *recipes; c += RECIPE_STEP) {
        for (int i = 0; i < 2; i++) {
            struct sweep s = {.recipe = recipes[c],
                              .n_devices = 1,
                              .code = i ? ILLEGAL_ADDRESS : OUT_OF_MEMORY,
                              .device = WM_DEVICE_AUTO,
                              .streamed = recipes[c] == large_ties,
                              .n_out = (int)(1000 * (2 * c + (size_t)i + 1))};
            sweep_calls(&r, &s, FAMILY_CALLS, SPARSE_STEP);
            assert_true(s.n_went_on > 0);
        }
    }
    fixture_release(&r.f);
}

/* ---- memory -------------------------------------------------------------------------------------------------- */

/* Where two tiles of every input do not fit, tiles become smaller; where the smallest do not, the device is left out. */
static void little_memory_means_smaller_tiles(void **state)
{
    static const struct {
        size_t machine;
        uint64_t budget;
        const char *warning; /* NULL: nothing is said */
        enum wm_status if_asked_for;
    } cases[] = {{(size_t)256 << 20, 0, NULL, WM_OK},
                 {(size_t)6 << 20, 0, "instead of 131072", WM_OK},
                 {(size_t)256 << 20, 6u << 20, "instead of 131072", WM_OK},
                 {(size_t)300 << 10, 0, "too little free memory", WM_NO_DEVICE},
                 {(size_t)256 << 20, 300u << 10, "too little free memory", WM_NO_DEVICE}};
    struct gpu_rig r;
    int n_out = 0;

    (void)state;
    rig_init(&r);
    rig_recipe(&r, merge_cases_recipes[1]);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        for (int insists = 0; insists < 2; insists++) {
            struct cuda_on_cpu_config machine = cuda_on_cpu_default();
            enum wm_status wanted = insists ? cases[c].if_asked_for : WM_OK;
            struct wm_error err = WM_ERROR_INIT;
            struct cuda_on_cpu_counts counts;
            struct cuda_on_cpu_live live;
            char out[32];
            machine.memory_bytes = cases[c].machine;
            rig_machine(&r, &machine, insists ? WM_DEVICE_CUDA : WM_DEVICE_AUTO);
            r.o.tile_bytes = 1 << 20;
            r.o.device_memory_bytes = cases[c].budget;
            snprintf(out, sizeof out, "out%d", n_out++);
            if (fixture_merge(&r.f, "c.yml", out, &r.o, &err) != wanted)
                fail_msg("case %zu: ended with %d: %s", c, err.status, err.message);
            cuda_on_cpu_get_counts(&counts);
            cuda_on_cpu_get_live(0, &live);
            assert_true((counts.launches > 0) == (cases[c].if_asked_for == WM_OK));
            assert_true(!cases[c].budget || live.peak_device_bytes <= cases[c].budget);
            if (cases[c].warning && !strstr(wanted == WM_OK ? r.h.warning : err.message, cases[c].warning))
                fail_msg("case %zu: said \"%s\" and \"%s\"", c, r.h.warning, err.message);
            if (!cases[c].warning)
                assert_string_equal(r.h.warning, "");
            if (wanted == WM_OK && !rig_has_cpu_bytes(&r, out))
                fail_msg("case %zu: other bytes", c);
            expect_no_leaks();
        }
    }
    fixture_release(&r.f);
}

static struct ring {
    int n_registered, n_refused; /* calls */
    bool is_slow;
} ring;

/* Linked in place of the function. */
cudaError_t __real_cudaHostRegister(void *memory, size_t n_bytes, unsigned int flags);
cudaError_t __wrap_cudaHostRegister(void *memory, size_t n_bytes, unsigned int flags);

cudaError_t __wrap_cudaHostRegister(void *memory, size_t n_bytes, unsigned int flags)
{
    cudaError_t code = __real_cudaHostRegister(memory, n_bytes, flags);

    if (ring.is_slow)
        nanosleep(&(struct timespec){.tv_nsec = 60000000}, NULL);
    ring.n_registered++;
    ring.n_refused += code == cudaErrorNotSupported;
    assert_int_equal(flags, cudaHostRegisterPortable); /* for all GPUs */
    return code;
}

static void memory_that_cannot_be_locked_is_used_as_it_is(void **state)
{
    struct cuda_on_cpu_config machine = cuda_on_cpu_default();
    struct cuda_on_cpu_counts counts;
    struct gpu_rig r;

    (void)state;
    rig_init(&r);
    rig_recipe(&r, merge_cases_recipes[1]);
    machine.pinned_bytes = 3u << 20;
    machine.lazy_streams = true;
    rig_machine(&r, &machine, WM_DEVICE_CUDA);
    expect_merge(&r, "out");
    assert_true(rig_has_cpu_bytes(&r, "out"));
    assert_non_null(strstr(r.h.warning, "page-locked"));
    cuda_on_cpu_get_counts(&counts);
    assert_true(counts.launches > 0 && counts.pageable_copies > 0);
    expect_no_leaks();
    fixture_release(&r.f);
}

/* The ring is registered with the driver, and where it does not do that allocated by it: no tile is copied through other
 * memory, and nothing is kept, even if the context ends. */
static void the_ring_is_page_locked(void **state)
{
    struct gpu_rig r;
    char out[32];

    (void)state;
    rig_init(&r);
    rig_recipe(&r, merge_cases_recipes[1]);
    for (int i = 0; i < 4; i++) {
        struct cuda_on_cpu_config machine = cuda_on_cpu_default();
        struct cuda_on_cpu_counts counts;
        machine.cannot_register = i % 2;
        machine.lazy_streams = true;
        machine.fail_at = i < 2 ? 0 : 150;
        machine.fail_code = ILLEGAL_ADDRESS;
        rig_machine(&r, &machine, WM_DEVICE_AUTO);
        ring = (struct ring){0};
        snprintf(out, sizeof out, "out%d", i);
        expect_merge(&r, out);
        assert_true(rig_has_cpu_bytes(&r, out));
        assert_int_equal(r.h.warning[0] != 0, i >= 2);
        cuda_on_cpu_get_counts(&counts);
        if (i < 2) /* thresholds and the like alone are copied from anywhere */
            assert_true(counts.pageable_copies * 10 < counts.copies_to_device + counts.copies_to_host);
        assert_int_equal(ring.n_registered, 2);
        assert_int_equal(ring.n_refused, i % 2 ? 2 : 0);
        expect_nothing_kept(1, i);
    }
    fixture_release(&r.f);
}

/* What page-locking takes is set-up. */
static void set_up_is_timed(void **state)
{
    struct wm_error err = WM_ERROR_INIT;
    struct wm_merge *merge = NULL;
    double setup_seconds = 0;
    struct gpu_rig r;
    char *text, *at;

    (void)state;
    rig_init(&r);
    rig_recipe(&r, merge_cases_recipes[1]);
    rig_machine(&r, NULL, WM_DEVICE_CUDA);
    ring = (struct ring){.is_slow = true};
    assert_int_equal(wm_merge_open(&merge, fixture_path(&r.f, "c.yml"), &r.o, &err), WM_OK);
    assert_int_equal(wm_merge_plan(merge, fixture_path(&r.f, "out"), &err), WM_OK);
    assert_int_equal(wm_merge_run(merge, &err), WM_OK);
    assert_int_equal(wm_merge_summary(merge, 1, &text, &err), WM_OK);
    ring.is_slow = false;
    at = strstr(text, "\"setup_seconds\": ");
    assert_non_null(at);
    setup_seconds = strtod(strchr(at, ':') + 1, NULL);
    assert_true(setup_seconds >= ring.n_registered * 0.06 && ring.n_registered == 2);
    wm_text_free(text);
    wm_merge_free(merge);
    fixture_release(&r.f);
}

/* What `plan` says of a GPU before anything is read. */
static void read_planned(const struct fixture *f, const struct wm_options *o, unsigned long long *budget,
                         unsigned long long *tiles, unsigned long long *resident)
{
    struct wm_merge *merge = NULL;
    struct wm_error err = WM_ERROR_INIT;
    char *text, *at;

    assert_int_equal(wm_merge_open(&merge, fixture_path(f, "c.yml"), o, &err), WM_OK);
    assert_int_equal(wm_merge_plan(merge, NULL, &err), WM_OK);
    assert_int_equal(wm_merge_describe(merge, 1, &text, &err), WM_OK);
    at = strstr(text, "\"device_memory\": {");
    assert_non_null(at);
    assert_int_equal(sscanf(at, "\"device_memory\": {\"budget\": %llu, \"tiles\": %llu, \"resident\": %llu,", budget,
                            tiles, resident),
                     3);
    wm_text_free(text);
    wm_merge_free(merge);
}

/* Whether tensors stay, are streamed or come in groups: never more than the budget, and as the plan says. */
static void the_device_budget_holds(void **state)
{
    static const uint64_t budgets[] = {64u << 20, 12u << 20, 3u << 20};
    unsigned long long budget, tiles, resident;
    struct gpu_rig rig;
    char out[32];

    (void)state;
    rig_init(&rig);
    for (size_t r = 0; r < merge_cases_count; r += RECIPE_STEP) {
        merge_cases_write_config(&rig.f, "c.yml", merge_cases_recipes[r]);
        for (size_t b = 0; b < sizeof budgets / sizeof *budgets; b++) {
            struct cuda_on_cpu_live live;
            rig_machine(&rig, NULL, WM_DEVICE_CUDA);
            rig.o.device_memory_bytes = budgets[b];
            snprintf(out, sizeof out, "out%zu-%zu", r, b);
            read_planned(&rig.f, &rig.o, &budget, &tiles, &resident);
            assert_int_equal(budget, budgets[b]);
            expect_merge(&rig, out);
            cuda_on_cpu_get_live(0, &live);
            if (live.peak_device_bytes > budgets[b] || live.peak_device_bytes < tiles + resident)
                fail_msg("recipe %zu: %zu bytes of a budget of %llu", r, live.peak_device_bytes,
                         (unsigned long long)budgets[b]);
        }
    }
    fixture_release(&rig.f);
}

/* ---- devices that are not used -------------------------------------------------------------------------------- */

static void a_gpu_that_cannot_start_is_left_out(void **state)
{
    static const struct {
        int n_devices, device_index;
        enum wm_device device;
        bool lacks_code;
        enum wm_status ends;
        const char *says;
    } cases[] = {{3, 0, WM_DEVICE_AUTO, false, WM_OK, "1 of 3 GPUs could not be used, and the others"},
                 {3, 0, WM_DEVICE_CUDA, false, WM_OK, "1 of 3 GPUs could not be used, and the others"},
                 {3, 2, WM_DEVICE_CUDA, false, WM_NO_DEVICE, "GPU 1 failed"},
                 {3, 3, WM_DEVICE_CUDA, false, WM_OK, ""},
                 {2, 0, WM_DEVICE_AUTO, true, WM_OK, "2 of 2 GPUs could not be used, and the CPU"},
                 {1, 0, WM_DEVICE_AUTO, true, WM_OK, "-DWM_CUDA_ARCHS=90"},
                 {1, 0, WM_DEVICE_CUDA, true, WM_NO_DEVICE, "no code for GPU 0, which has compute capability 9.0"}};
    struct gpu_rig r;

    (void)state;
    rig_init(&r);
    rig_recipe(&r, merge_cases_recipes[0]);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct cuda_on_cpu_config machine = cuda_on_cpu_default();
        struct wm_error err = WM_ERROR_INIT;
        char out[32];
        machine.n_devices = cases[c].n_devices;
        machine.lacks_code = cases[c].lacks_code;
        machine.fail_at = cases[c].lacks_code ? 0 : 1;
        machine.fail_code = ILLEGAL_ADDRESS;
        machine.fail_device = 1;
        rig_machine(&r, &machine, cases[c].device);
        r.o.device_index = cases[c].device_index;
        snprintf(out, sizeof out, "out%zu", c);
        if (fixture_merge(&r.f, "c.yml", out, &r.o, &err) != cases[c].ends)
            fail_msg("case %zu: ended with %d: %s", c, err.status, err.message);
        if (!strstr(err.status == WM_OK ? r.h.warning : err.message, cases[c].says))
            fail_msg("case %zu: said \"%s\" and \"%s\"", c, r.h.warning, err.message);
        if (err.status == WM_OK && !rig_has_cpu_bytes(&r, out))
            fail_msg("case %zu: other bytes", c);
        expect_nothing_kept(cases[c].n_devices, 1);
    }
    fixture_release(&r.f);
}

static void a_driver_that_fails_is_told_of(void **state)
{
    struct cuda_on_cpu_config machine = cuda_on_cpu_default();
    struct gpu_rig r;

    (void)state;
    rig_init(&r);
    merge_cases_write_config(&r.f, "c.yml", merge_cases_recipes[0]);
    machine.fail_at = 1;
    machine.fail_code = UNKNOWN;
    machine.fail_device = -1;
    rig_machine(&r, &machine, WM_DEVICE_AUTO);
    expect_merge(&r, "out");
    assert_non_null(strstr(r.h.warning, "the driver said \"unknown error\""));
    machine.n_devices = 0;
    rig_machine(&r, &machine, WM_DEVICE_AUTO);
    expect_merge(&r, "none");
    assert_string_equal(r.h.warning, "");
    fixture_release(&r.f);
}

/* ---- after the last GPU ---------------------------------------------------------------------------------------- */

void __real_cpu_combine_tile(const struct merge_op *op, const struct statistics *s, const struct merge_tile *tile,
                             struct cpu_scratch *scratch, struct merge_report *report);
void __wrap_cpu_combine_tile(const struct merge_op *op, const struct statistics *s, const struct merge_tile *tile,
                             struct cpu_scratch *scratch, struct merge_report *report);

/* Threads that were in cpu_combine_tile at once. While `wanted` are expected, those that are there wait for more. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int wanted, n_in, most;
} together = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, 0};

/* Linked in place of cpu_combine_tile. */
void __wrap_cpu_combine_tile(const struct merge_op *op, const struct statistics *s, const struct merge_tile *tile,
                             struct cpu_scratch *scratch, struct merge_report *report)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 5;
    pthread_mutex_lock(&together.lock);
    if (++together.n_in > together.most)
        together.most = together.n_in;
    pthread_cond_broadcast(&together.changed);
    while (together.most < together.wanted &&
           pthread_cond_timedwait(&together.changed, &together.lock, &until) != ETIMEDOUT)
        ;
    if (together.most < together.wanted)
        together.wanted = 0; /* nobody comes */
    pthread_mutex_unlock(&together.lock);
    __real_cpu_combine_tile(op, s, tile, scratch, report);
    pthread_mutex_lock(&together.lock);
    together.n_in--;
    pthread_mutex_unlock(&together.lock);
}

static void the_cpu_goes_on_with_all_its_threads(void **state)
{
    struct cuda_on_cpu_config machine = cuda_on_cpu_default();
    struct gpu_rig r;

    (void)state;
    rig_init(&r);
    rig_recipe(&r, merge_cases_recipes[0]);
    machine.fail_device = 0;
    machine.fail_at = 45; /* in the middle of the merge */
    machine.fail_code = ILLEGAL_ADDRESS;
    rig_machine(&r, &machine, WM_DEVICE_AUTO);
    r.o.n_threads = 4;
    together.wanted = 4;
    together.most = 0;
    expect_merge(&r, "out");
    assert_true(rig_has_cpu_bytes(&r, "out"));
    assert_non_null(strstr(r.h.warning, "GPU 0 failed"));
    assert_int_equal(together.most, 4);
    together.wanted = 0;
    fixture_release(&r.f);
}

/* ---- several GPUs ---------------------------------------------------------------------------------------------- */

/* Of many tensors, each of three devices does a fair part, and the summary says which. */
static void devices_share_the_work(void **state)
{
    struct cuda_on_cpu_config machine = cuda_on_cpu_default();
    struct wm_error err = WM_ERROR_INIT;
    unsigned long long moved[3], most = 0, least;
    struct wm_merge *merge = NULL;
    struct wm_options o;
    char *summary, *at;
    struct fixture f;
    struct heard h;

    (void)state;
    fixture_init(&f);
    for (int m = 1; m <= 3; m++) {
        struct fixture_tensor t[60];
        char names[60][32], model[8];
        for (size_t i = 0; i < 60; i++) {
            snprintf(names[i], sizeof names[i], "layers.%zu.weight", i);
            t[i] = (struct fixture_tensor){names[i], WM_BF16, 2, {300, 300}, i + 1, 0.02, (uint64_t)m, 3e-4, NULL};
        }
        snprintf(model, sizeof model, "m%d", m);
        fixture_write_model(&f, model, t, 60, 0, "{\"model_type\":\"llama\"}");
    }
    merge_cases_write_config(&f, "c.yml", merge_cases_recipes[0]);
    machine.n_devices = 3;
    cuda_on_cpu_configure(&machine);
    set_up(&o, &h, WM_DEVICE_CUDA);
    o.verify_per_1000 = 1000;
    assert_int_equal(wm_merge_open(&merge, fixture_path(&f, "c.yml"), &o, &err), WM_OK);
    assert_int_equal(wm_merge_plan(merge, fixture_path(&f, "out"), &err), WM_OK);
    assert_int_equal(wm_merge_run(merge, &err), WM_OK);
    assert_int_equal(wm_merge_summary(merge, 1, &summary, &err), WM_OK);
    at = strstr(summary, "\"device_bytes\": [");
    assert_non_null(at);
    assert_int_equal(sscanf(at, "\"device_bytes\": [%llu, %llu, %llu]", &moved[0], &moved[1], &moved[2]), 3);
    assert_non_null(strstr(summary, "\"blocks_checked\": 360,")); /* 60 tensors of 90,000 elements */
    least = moved[0];
    for (int d = 0; d < 3; d++) {
        most = moved[d] > most ? moved[d] : most;
        least = moved[d] < least ? moved[d] : least;
    }
    assert_int_equal(moved[0] + moved[1] + moved[2], 60ull * 4 * 180000);
    if (most > 4 * least)
        fail_msg("the devices moved %llu, %llu and %llu bytes", moved[0], moved[1], moved[2]);
    wm_text_free(summary);
    wm_merge_free(merge);
    fixture_release(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(little_memory_means_smaller_tiles),
        cmocka_unit_test(memory_that_cannot_be_locked_is_used_as_it_is),
        cmocka_unit_test(the_ring_is_page_locked),
        cmocka_unit_test(set_up_is_timed),
        cmocka_unit_test(the_device_budget_holds),
        cmocka_unit_test(a_gpu_that_cannot_start_is_left_out),
        cmocka_unit_test(a_driver_that_fails_is_told_of),
        cmocka_unit_test(the_cpu_goes_on_with_all_its_threads),
        cmocka_unit_test(devices_share_the_work),
        cmocka_unit_test(the_nth_call_may_fail),
        cmocka_unit_test(the_nth_call_may_fail_in_every_family),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
