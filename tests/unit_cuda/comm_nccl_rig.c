/* comm_nccl_rig.c: see comm_nccl_rig.h. */
#include "comm_nccl_rig.h"

#include "base/file.h"
#include "cuda_on_cpu.h"

#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

struct sim sim;

int rig_load(void **state)
{
    void *library = dlopen(NCCL_SIM, RTLD_NOW | RTLD_LOCAL), *function;

    (void)state;
    if (!library) {
        print_error("%s\n", dlerror());
        return -1;
    }
    function = dlsym(library, "nccl_sim_configure");
    memcpy(&sim.configure, &function, sizeof function);
    function = dlsym(library, "nccl_sim_get_counts");
    memcpy(&sim.get_counts, &function, sizeof function);
    return sim.configure && sim.get_counts ? setenv("WM_NCCL_LIBRARY", NCCL_SIM, 1) : -1;
}

static bool open_files(struct rank *k)
{
    struct comm_files_options options = {k->run->dir, "test", k->number, k->run->size, k->run->deadline_seconds,
                                         NULL,        NULL};
    struct wm_error err = WM_ERROR_INIT;

    if (comm_open_files(&k->control, &options, &err) == WM_OK)
        k->control->cancel = &k->cancel;
    else
        WRONG(k, "files: %.180s", err.message);
    return k->control != NULL;
}

static void *rank_main(void *data)
{
    struct rank *k = data;

    if (k->run->dir && !open_files(k))
        return NULL;
    k->comm = k->control;
    if (comm_open_nccl(&k->comm, k->control, k->device, &k->opened) != WM_OK) {
        /* The caller goes on with control, which is whole unless that is what failed. */
        if (k->comm != k->control)
            WRONG(k, "a failure touched the caller's comm");
        if (k->opened.status == WM_NO_DEVICE && k->control->ops->barrier(k->control, &k->error) != WM_OK)
            WRONG(k, "control does not work any more: %.150s", k->error.message);
        k->control->ops->close(k->control);
        return NULL;
    }
    __atomic_add_fetch(&k->run->n_open, 1, __ATOMIC_RELAXED);
    k->run->body(k);
    k->comm->ops->close(k->comm);
    return NULL;
}

void begin_run(struct run *run, int size, void (*body)(struct rank *))
{
    memset(run, 0, sizeof *run);
    run->size = size;
    run->body = body;
    run->deadline_seconds = 20;
    run->cancelled_rank = -1;
    for (int r = 0; r < MAX_RANKS; r++)
        run->device_of[r] = -1;
}

static void expect_tidy(void)
{
    struct nccl_sim_counts counts;
    char text[300];

    sim.get_counts(&counts);
    if (counts.misuse)
        fail_msg("%s", counts.misuse);
    assert_int_equal(counts.live, 0);
    if (cuda_on_cpu_leaks(text, sizeof text))
        fail_msg("%s", text);
}

void go(struct run *run)
{
    struct comm *controls[MAX_RANKS], *peers[MAX_RANKS];
    pthread_t threads[MAX_RANKS] = {0};
    struct wm_error err = WM_ERROR_INIT;
    double began = file_now_seconds();

    if (run->dir)
        memset(controls, 0, sizeof controls);
    else
        assert_int_equal(comm_open_threads(controls, run->size, &err), WM_OK);
    assert_int_equal(comm_open_threads(peers, run->size, &err), WM_OK);
    for (int r = 0; r < run->size; r++) {
        struct rank *k = &run->ranks[r];
        if (controls[r]) {
            controls[r]->deadline_seconds = run->deadline_seconds;
            controls[r]->cancel = &k->cancel;
        }
        *k = (struct rank){
            .run = run, .control = controls[r], .peers = peers[r], .number = r, .device = run->device_of[r]};
        if (k->device < 0)
            k->device = r;
        assert_int_equal(pthread_create(&threads[r], NULL, rank_main, k), 0);
    }
    if (run->cancelled_rank >= 0) {
        while (__atomic_load_n(&run->n_open, __ATOMIC_RELAXED) < run->n_open_to_stop)
            sleep_ms(1);
        sleep_ms(100);
        __atomic_store_n(&run->ranks[run->cancelled_rank].cancel, 1, __ATOMIC_RELAXED);
    }
    for (int r = 0; r < run->size; r++)
        pthread_join(threads[r], NULL);
    for (int r = 0; r < run->size; r++) {
        peers[r]->ops->close(peers[r]);
        if (run->ranks[r].wrong[0])
            fail_msg("rank %d of %d: %s", r, run->size, run->ranks[r].wrong);
    }
    if (file_now_seconds() - began > 30)
        fail_msg("it took %.1f s", file_now_seconds() - began);
    expect_tidy();
}

void machine(int n_devices, bool lazy)
{
    struct cuda_on_cpu_config config = cuda_on_cpu_default();

    config.n_devices = n_devices;
    config.memory_bytes = (size_t)8 << 20;
    config.lazy_streams = lazy;
    cuda_on_cpu_configure(&config);
    sim.configure(NULL);
}

void plant(enum nccl_sim_fault fault, int rank, uint64_t at, int code)
{
    struct nccl_sim_config config = {22809, 2, fault, rank, at, code};

    sim.configure(&config);
}

/* A failed call, remembered; the first reason stays. */
bool works(struct rank *k, enum wm_status st, const struct wm_error *err)
{
    if (st != WM_OK && k->error.status == WM_OK)
        k->error = *err;
    if (st != WM_OK && err->status != st)
        WRONG(k, "status %d and message %d differ", (int)st, (int)err->status);
    return st == WM_OK;
}

bool meet(struct rank *k)
{
    struct wm_error err = WM_ERROR_INIT;

    return works(k, k->comm->ops->barrier(k->comm, &err), &err);
}

static uint64_t random_u64(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15u; /* splitmix64 */
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t seed_of(size_t n, int rank)
{
    return n * 64 + (uint64_t)rank;
}

/* Whole random words: their sums wrap around. */
bool sum_by(struct comm *comm, struct rank *k, size_t n)
{
    uint64_t *values = calloc(n + 1, sizeof *values), *expected = calloc(n + 1, sizeof *values);
    struct wm_error err = WM_ERROR_INIT;
    bool ok;

    for (int r = 0; r < comm->size; r++) {
        uint64_t state = seed_of(n, r);
        for (size_t i = 0; i < n; i++) {
            uint64_t value = random_u64(&state);
            expected[i] += value;
            if (r == k->number)
                values[i] = value;
        }
    }
    ok = works(k, comm->ops->all_reduce_u64(comm, values, n, &err), &err);
    if (ok && memcmp(values, expected, (n + 1) * sizeof *values) != 0)
        WRONG(k, "the sum of %zu values by %s is wrong", n, comm->ops->name);
    free(values);
    free(expected);
    return ok;
}

bool gather_by(struct comm *comm, struct rank *k, size_t n_bytes)
{
    size_t n_all = n_bytes * (size_t)comm->size;
    unsigned char *mine = calloc(n_bytes + 1, 1), *all = calloc(n_all + 1, 1), *expected = calloc(n_all + 1, 1);
    struct wm_error err = WM_ERROR_INIT;
    bool ok;

    for (int r = 0; r < comm->size; r++) {
        uint64_t state = seed_of(n_bytes, r);
        for (size_t i = 0; i < n_bytes; i++)
            expected[(size_t)r * n_bytes + i] = (unsigned char)random_u64(&state);
    }
    memcpy(mine, expected + (size_t)k->number * n_bytes, n_bytes);
    ok = works(k, comm->ops->all_gather(comm, mine, n_bytes, all, &err), &err);
    if (ok && memcmp(all, expected, n_all + 1) != 0)
        WRONG(k, "what %s gathered of %zu bytes each is wrong", comm->ops->name, n_bytes);
    free(mine);
    free(all);
    free(expected);
    return ok;
}

bool sum(struct rank *k, size_t n)
{
    return sum_by(k->comm, k, n);
}

bool gather(struct rank *k, size_t n_bytes)
{
    return gather_by(k->comm, k, n_bytes);
}

void sleep_ms(int ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, NULL);
}
