/* Whole merges of many small tensors, among larger ones, on a pretended GPU: groups are flights beside tiles, writers hash
 * them, and a bad value, a failed write or a lost device in the middle of several groups costs nothing but time. */
#include "merge_on_gpu.h"

#include "engine/group.h"
#include "engine/schedule.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#if defined(__SANITIZE_THREAD__)
enum { FIRST_RECIPE = 3, RECIPE_STEP = 4, SWEEP_STEP = 31, N_TENSORS = 600 }; /* searches take it minutes */
#elif defined(__SANITIZE_ADDRESS__)
enum { FIRST_RECIPE = 1, RECIPE_STEP = 4, SWEEP_STEP = 31, N_TENSORS = 600 };
#else
enum { FIRST_RECIPE = 0, RECIPE_STEP = 1, SWEEP_STEP = 5, N_TENSORS = 600 };
#endif
enum { BAD = 512, LEAST = 100, SIZES = 161, N_BAD = LEAST + BAD % SIZES / 4 * 4, LARGE_STEP = 300 };
enum { ILLEGAL_ADDRESS = 700, OUT_OF_MEMORY = 2 }; /* cudaError_t */

/* ---- what the engine does ----------------------------------------------------------------------------------------- */

static struct {
    pthread_mutex_t lock;
    int n_in_flight, most_in_flight; /* of one thread; with several GPUs, of all */
    int n_submitted, n_not_done;
    size_t most_members;
    pthread_t driver;
    int n_hashed, n_large_hashed, n_large_hashed_by_driver; /* large: not written by who computed it */
    bool waits_for_readers;   /* the first group lands when a second one is on its way, however late its bytes come */
    uint64_t fail_at_overlap; /* the n-th call after that fails; 0: none */
    uint64_t calls_before;
    uint64_t n_done, n_slots_kept; /* pipelines that were done, and slots of their rings that were not free then */
    int fail_code;
} seen = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Linked in place of the functions. */
enum wm_status __real_group_submit(const struct pipeline *p, struct backend *backend, void *thread, struct run_job *job,
                                   unsigned char *out, struct group_flight **flight, struct wm_error *err);
enum wm_status __wrap_group_submit(const struct pipeline *p, struct backend *backend, void *thread, struct run_job *job,
                                   unsigned char *out, struct group_flight **flight, struct wm_error *err);
enum wm_status __real_group_await(const struct pipeline *p, struct backend *backend, void *thread,
                                  struct group_flight *flight, bool *is_done, struct wm_error *err);
enum wm_status __wrap_group_await(const struct pipeline *p, struct backend *backend, void *thread,
                                  struct group_flight *flight, bool *is_done, struct wm_error *err);
void __real_group_hash(struct run_job *job, size_t first, size_t n, const unsigned char *out);
void __wrap_group_hash(struct run_job *job, size_t first, size_t n, const unsigned char *out);
bool __real_schedule_is_done(struct pipeline *p);
bool __wrap_schedule_is_done(struct pipeline *p);

/* Called with the pipeline's lock held. */
bool __wrap_schedule_is_done(struct pipeline *p)
{
    const struct plan_memory *m = &p->plan->memory;
    bool is_done = __real_schedule_is_done(p);

    if (!is_done)
        return false;
    pthread_mutex_lock(&seen.lock);
    seen.n_done++;
    seen.n_slots_kept += m->n_slots - p->n_free_slots + m->n_out_slots - p->n_free_out_slots;
    pthread_mutex_unlock(&seen.lock);
    return true;
}

enum wm_status __wrap_group_submit(const struct pipeline *p, struct backend *backend, void *thread, struct run_job *job,
                                   unsigned char *out, struct group_flight **flight, struct wm_error *err)
{
    enum wm_status st = __real_group_submit(p, backend, thread, job, out, flight, err);

    if (backend->depth == 1)
        return st;
    pthread_mutex_lock(&seen.lock);
    seen.driver = pthread_self();
    seen.n_submitted++;
    if (st == WM_OK && ++seen.n_in_flight > seen.most_in_flight) {
        seen.most_in_flight = seen.n_in_flight;
        if (seen.n_in_flight == 2 && seen.fail_at_overlap) {
            struct cuda_on_cpu_counts counts;
            cuda_on_cpu_get_counts(&counts);
            seen.calls_before = counts.calls;
            cuda_on_cpu_fail_at(seen.fail_at_overlap, seen.fail_code, -1);
        }
    }
    if (job->n_members > seen.most_members)
        seen.most_members = job->n_members;
    pthread_mutex_unlock(&seen.lock);
    return st;
}

/* Another group's bytes are there, and nobody computes it yet. */
static bool one_is_ready(struct pipeline *p)
{
    bool is_ready = false;

    pthread_mutex_lock(&p->lock);
    for (const struct run_job *job = p->jobs; job; job = job->next)
        is_ready |= job->n_members > 1 && job->n_ready && !job->owner && p->n_free_out_slots;
    pthread_mutex_unlock(&p->lock);
    return is_ready;
}

enum wm_status __wrap_group_await(const struct pipeline *p, struct backend *backend, void *thread,
                                  struct group_flight *flight, bool *is_done, struct wm_error *err)
{
    enum wm_status st;

    if (backend->depth == 1)
        return __real_group_await(p, backend, thread, flight, is_done, err);
    if (seen.waits_for_readers && seen.most_in_flight == 1) {
        struct pipeline *ours = (struct pipeline *)(uintptr_t)p;
        for (int ms = 0; ms < 20000; ms++) {
            if (one_is_ready(ours)) {
                *is_done = false; /* the driver looks at what is ready, and comes back */
                return WM_OK;
            }
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        }
    }
    st = __real_group_await(p, backend, thread, flight, is_done, err);
    pthread_mutex_lock(&seen.lock);
    seen.n_not_done += st == WM_OK && !*is_done;
    seen.n_in_flight -= st != WM_OK || *is_done;
    pthread_mutex_unlock(&seen.lock);
    return st;
}

void __wrap_group_hash(struct run_job *job, size_t first, size_t n, const unsigned char *out)
{
    pthread_mutex_lock(&seen.lock);
    seen.n_hashed++;
    if (group_out_bytes(job) >= WRITER_SMALL_BYTES) {
        seen.n_large_hashed++;
        seen.n_large_hashed_by_driver += pthread_equal(seen.driver, pthread_self()) != 0;
    }
    pthread_mutex_unlock(&seen.lock);
    __real_group_hash(job, first, n, out);
}

static void forget(void)
{
    seen.n_in_flight = seen.most_in_flight = seen.n_submitted = seen.n_not_done = 0;
    seen.most_members = 0;
    seen.waits_for_readers = false;
    seen.n_done = seen.n_slots_kept = 0;
    seen.fail_at_overlap = 0;
    seen.n_hashed = seen.n_large_hashed = seen.n_large_hashed_by_driver = 0;
}

/* ---- models ---------------------------------------------------------------------------------------------------- */

static void name_of(int n, char name[24])
{
    snprintf(name, 24, "t.%04d.weight", n);
}

/* Sizes are multiples of what a shard aligns, so that neighbours in name are neighbours in every file. Model m2's tensor BAD
 * has these bytes, unless NULL. */
static void write_models(const struct fixture *f, const void *bad)
{
    static struct fixture_tensor t[N_TENSORS];
    static char names[N_TENSORS][24];

    for (int m = 0; m < 4; m++) {
        char model[8];
        for (int n = 0; n < N_TENSORS; n++) {
            uint64_t n_elems = n % LARGE_STEP == LARGE_STEP - 1 ? 70000u : LEAST + (unsigned)n % SIZES / 4 * 4;
            name_of(n, names[n]);
            t[n] = (struct fixture_tensor){.name = names[n],
                                           .dtype = n / 100 % 3 == 2 ? WM_F32 : WM_BF16,
                                           .n_dims = 1,
                                           .shape = {n_elems},
                                           .seed = 1 + (uint64_t)n,
                                           .spread = 0.02,
                                           .delta_seed = m ? 10 + (uint64_t)m : 0,
                                           .delta_spread = 3e-4,
                                           .data = n == BAD && m == 2 ? bad : NULL};
        }
        snprintf(model, sizeof model, "m%d", m);
        fixture_write_model(f, model, t, N_TENSORS, 0, "{\"model_type\":\"llama\"}");
    }
}

static void init(struct gpu_rig *r, const void *bad)
{
    memset(r, 0, sizeof *r);
    fixture_init(&r->f);
    write_models(&r->f, bad);
}

static void use_machine(struct gpu_rig *r, const struct cuda_on_cpu_config *machine, enum wm_device device)
{
    rig_machine(r, machine, device);
    r->o.tile_bytes = 128 << 10;
    r->o.verify_per_1000 = 0;
}

/* ---- tests ----------------------------------------------------------------------------------------------------- */

/* On streams that run at once and late, with room for one group at a time, without room for any, and on three devices. */
static void groups_among_tiles_give_the_cpus_bytes(void **state)
{
    static const struct {
        int devices;
        size_t memory;
        bool lazy, overlaps;
    } machines[] = {{1, (size_t)256 << 20, false, true},
                    {1, (size_t)256 << 20, true, true},
                    {1, (size_t)28 << 20, true, false},
                    {1, (size_t)5 << 20, false, false},
                    {3, (size_t)64 << 20, true, false}};
    int n_full = 0, n_large = 0, n_out = 0;
    struct gpu_rig rig;
    char out[32];

    (void)state;
    init(&rig, NULL);
    for (size_t r = FIRST_RECIPE; r < 5; r += RECIPE_STEP) {
        rig_recipe(&rig, merge_cases_recipes[r]);
        for (size_t m = 0; m < sizeof machines / sizeof *machines; m++) {
            struct cuda_on_cpu_config machine = cuda_on_cpu_default();
            machine.n_devices = machines[m].devices;
            machine.memory_bytes = machines[m].memory;
            machine.lazy_streams = machines[m].lazy;
            use_machine(&rig, &machine, WM_DEVICE_CUDA);
            forget();
            seen.waits_for_readers = machines[m].overlaps;
            snprintf(out, sizeof out, "gpu%d", n_out++);
            expect_merge(&rig, out);
            if (!rig_has_cpu_bytes(&rig, out))
                fail_msg("recipe %zu, machine %zu: other bytes than the CPU's", r, m);
            assert_string_equal(rig.h.warning, "");
            expect_no_leaks();
            assert_true(seen.n_submitted > 3);
            assert_true(seen.n_done > 0);
            assert_int_equal(seen.n_slots_kept, 0);
            assert_in_range(seen.most_members, 2, 256);
            n_full += seen.most_members == 256;
            assert_int_equal(seen.n_in_flight, 0);
            assert_true(seen.most_in_flight <= 3 * machines[m].devices);
            if (machines[m].overlaps)
                assert_true(seen.most_in_flight > 1);
            assert_int_equal(seen.n_hashed, seen.n_submitted);
            n_large += seen.n_large_hashed;
            if (machines[m].devices == 1)
                assert_int_equal(seen.n_large_hashed_by_driver, 0);
        }
    }
    assert_true(n_full > 0 && n_large > 0);
    fixture_release(&rig.f);
}

/* What the stopped merge has written of a tensor. */
static bool is_written(const struct fixture *f, const char *out, const char *name)
{
    unsigned long long begin, end, n_header = 0;
    char path[256], key[64], *header, *at;
    bool written = false;
    FILE *shard;

    snprintf(path, sizeof path, ".%s.warpmerge-partial/model.safetensors", out);
    shard = fopen(fixture_path(f, path), "rb");
    assert_non_null(shard);
    assert_int_equal(fread(&n_header, 8, 1, shard), 1);
    header = calloc(1, (size_t)n_header + 1);
    assert_non_null(header);
    assert_int_equal(fread(header, 1, (size_t)n_header, shard), n_header);
    snprintf(key, sizeof key, "\"%s\":", name);
    at = strstr(header, key);
    assert_non_null(at);
    at = strstr(at, "\"data_offsets\":");
    assert_non_null(at);
    assert_int_equal(sscanf(at, "\"data_offsets\":[%llu,%llu]", &begin, &end), 2);
    assert_int_equal(fseek(shard, (long)(8 + n_header + begin), SEEK_SET), 0);
    for (; begin < end; begin++)
        written |= fgetc(shard) != 0;
    free(header);
    fclose(shard);
    return written;
}

/* The merge stops while other groups are on their way; nothing of the bad one's is written, and what is taken up again later
 * has the CPU's bytes. */
static void a_bad_value_stops_groups_on_their_way(void **state)
{
    static uint16_t values[2 * N_BAD];
    struct cuda_on_cpu_config machine = cuda_on_cpu_default();
    struct gpu_rig r;
    char name[24], out[16];

    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        values[i] = 0x3c00;
    values[1] = values[200] = 0x7f80; /* infinite, as bf16 and as the upper half of f32 */
    init(&r, values);
    name_of(BAD, name);
    merge_cases_write_config(&r.f, "c.yml", merge_cases_recipes[1]);
    use_machine(&r, &machine, WM_DEVICE_CPU);
    r.o.nonfinite = WM_POLICY_PROPAGATE;
    expect_merge(&r, "cpu");
    r.expected = fixture_digest(&r.f, "cpu");
    for (int lazy = 0; lazy < 2; lazy++) {
        struct wm_error err = WM_ERROR_INIT;
        machine.lazy_streams = lazy;
        use_machine(&r, &machine, WM_DEVICE_CUDA);
        snprintf(out, sizeof out, "gpu%d", lazy);
        assert_int_equal(fixture_merge(&r.f, "c.yml", out, &r.o, &err), WM_BAD_DATA);
        assert_non_null(strstr(err.message, name));
        assert_false(is_written(&r.f, out, name));
        expect_no_leaks();
        r.o.nonfinite = WM_POLICY_PROPAGATE;
        expect_merge(&r, out);
        assert_true(rig_has_cpu_bytes(&r, out));
        expect_no_leaks();
    }
    fixture_release(&r.f);
}

static atomic_int countdown;

static int fail_nth_write(enum file_call call, const char *path)
{
    (void)path;
    return call == FILE_WRITE && atomic_fetch_sub(&countdown, 1) == 1 ? ENOSPC : 0;
}

static void a_failed_write_stops_groups_on_their_way(void **state)
{
    struct cuda_on_cpu_config machine = cuda_on_cpu_default();
    struct gpu_rig r;
    int n_failed = 0;

    (void)state;
    init(&r, NULL);
    rig_recipe(&r, merge_cases_recipes[3]);
    for (int n = 1, step = RECIPE_STEP > 1 ? 7 : 3; n < 15; n += step) {
        struct wm_error err = WM_ERROR_INIT;
        char out[16];
        machine.lazy_streams = n % 2;
        use_machine(&r, &machine, WM_DEVICE_CUDA);
        snprintf(out, sizeof out, "gpu%d", n);
        atomic_store(&countdown, n);
        file_fault = fail_nth_write;
        n_failed += fixture_merge(&r.f, "c.yml", out, &r.o, &err) != WM_OK;
        file_fault = NULL;
        expect_no_leaks();
        if (err.status != WM_OK)
            expect_merge(&r, out);
        assert_true(rig_has_cpu_bytes(&r, out));
    }
    assert_true(n_failed > 1);
    fixture_release(&r.f);
}

/* A device is lost at any call after two groups are on their way, among them those between a group's rounds: the CPU does
 * what was on its way. */
static void a_device_is_lost_with_groups_on_their_way(void **state)
{
    struct cuda_on_cpu_config machine = cuda_on_cpu_default();
    struct cuda_on_cpu_counts counts;
    struct gpu_rig r;
    int n_lost = 0;
    bool has_ended = false;

    (void)state;
    init(&r, NULL);
    rig_recipe(&r, merge_cases_recipes[3]);
    for (uint64_t n = 1; !has_ended; n += SWEEP_STEP) {
        bool is_lost;
        char out[16];
        machine.lazy_streams = n / 2 % 2;
        use_machine(&r, &machine, WM_DEVICE_AUTO);
        forget();
        seen.waits_for_readers = true;
        seen.fail_at_overlap = n;
        seen.fail_code = n % 4 < 2 ? ILLEGAL_ADDRESS : OUT_OF_MEMORY;
        snprintf(out, sizeof out, "gpu%d", (int)n);
        expect_merge(&r, out);
        if (!rig_has_cpu_bytes(&r, out))
            fail_msg("call %d fails: other bytes", (int)n);
        assert_true(seen.most_in_flight > 1);
        assert_true(seen.n_done > 0);
        assert_int_equal(seen.n_slots_kept, 0);
        expect_nothing_kept(1, (int)n);
        is_lost = strstr(r.h.warning, "GPU 0 failed") != NULL;
        n_lost += is_lost;
        if (n == 1)
            assert_true(is_lost); /* the very next call, with two on their way */
        cuda_on_cpu_get_counts(&counts);
        has_ended = counts.calls - seen.calls_before < n;
    }
    assert_true(n_lost > (RECIPE_STEP > 1 ? 1 : 3));
    fixture_release(&r.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_among_tiles_give_the_cpus_bytes),
        cmocka_unit_test(a_bad_value_stops_groups_on_their_way),
        cmocka_unit_test(a_failed_write_stops_groups_on_their_way),
        cmocka_unit_test(a_device_is_lost_with_groups_on_their_way),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
