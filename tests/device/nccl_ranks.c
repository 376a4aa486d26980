/*
 * nccl_ranks.c: NCCL itself, under comm_nccl.c: one rank for each GPU of this machine (threads, at most 8).
 *
 * What lives here: sums and gathers with answers that are known, their speed, and the end of it all; run by hand or by
 * bench/gpu_check.sh. What it must not know: how comm_nccl.c works; tests on pretended GPUs make it fail in every way.
 *
 * Exit 0: all right; 1: not; 77: no GPU here, or no NCCL.
 */
#include "base/file.h"
#include "cluster/comm_threads.h"
#include "cluster/nccl_api.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RANKS = 8, N_SMALL = 1000, N_LARGE = 5, SMALL_VALUES = 1000, LARGE_VALUES = 2 << 20 };

struct rank {
    pthread_t thread;
    struct comm *control;
    int device;
    char wrong[256]; /* "": nothing */
    double small_seconds, large_seconds;
};

static bool right(struct rank *k, enum wm_status st, const struct wm_error *err, bool same, const char *what)
{
    if (st == WM_OK && same)
        return true;
    if (!k->wrong[0])
        snprintf(k->wrong, sizeof k->wrong, "%s: %.200s", what, st == WM_OK ? "other values" : err->message);
    return false;
}

static uint64_t value_of(int rank, size_t i)
{
    return ((uint64_t)rank + 1) * 0x9e3779b97f4a7c15u * (i + 1); /* sums of these wrap around */
}

static bool sum(struct rank *k, struct comm *comm, uint64_t *values, size_t n, bool check)
{
    struct wm_error err = WM_ERROR_INIT;
    enum wm_status st;
    bool same = true;

    for (size_t i = 0; check && i < n; i++)
        values[i] = value_of(comm->rank, i);
    st = comm->ops->all_reduce_u64(comm, values, n, &err);
    for (size_t i = 0; check && st == WM_OK && i < n; i++) {
        uint64_t expected = 0;
        for (int r = 0; r < comm->size; r++)
            expected += value_of(r, i);
        same = same && values[i] == expected;
    }
    return right(k, st, &err, same, "all_reduce_u64");
}

static bool gather(struct rank *k, struct comm *comm, size_t n_bytes)
{
    size_t n_all = n_bytes * (size_t)comm->size;
    unsigned char *mine = calloc(1, n_bytes + 1), *all = malloc(n_all + 1);
    struct wm_error err = WM_ERROR_INIT;
    enum wm_status st;
    bool same = mine && all;

    if (same) {
        for (size_t i = 0; i < n_bytes; i++)
            mine[i] = (unsigned char)(value_of(comm->rank, i) >> 32);
        st = comm->ops->all_gather(comm, mine, n_bytes, all, &err);
        for (size_t i = 0; st == WM_OK && i < n_all; i++)
            same = same && all[i] == (unsigned char)(value_of((int)(i / n_bytes), i % n_bytes) >> 32);
        same = right(k, st, &err, same, "all_gather");
    }
    free(mine);
    free(all);
    return same;
}

static void measure(struct rank *k, struct comm *comm, uint64_t *values)
{
    double began = file_now_seconds();

    memset(values, 0, LARGE_VALUES * sizeof *values);
    for (int i = 0; i < N_SMALL && sum(k, comm, values, SMALL_VALUES, false); i++)
        continue;
    k->small_seconds = (file_now_seconds() - began) / N_SMALL;
    began = file_now_seconds();
    for (int i = 0; i < N_LARGE && sum(k, comm, values, LARGE_VALUES, false); i++)
        continue;
    k->large_seconds = (file_now_seconds() - began) / N_LARGE;
}

static void *rank_main(void *data)
{
    struct rank *k = data;
    struct comm *comm = NULL;
    struct wm_error err = WM_ERROR_INIT;
    uint64_t *values = malloc(LARGE_VALUES * sizeof *values);
    enum wm_status st = comm_open_nccl(&comm, k->control, k->device, &err);

    if (right(k, st, &err, values != NULL, "opening")) {
        bool ok = sum(k, comm, values, 1, true) && sum(k, comm, values, LARGE_VALUES, true) && gather(k, comm, 7) &&
                  gather(k, comm, (size_t)9 << 20);
        ok = ok && right(k, comm->ops->barrier(comm, &err), &err, true, "barrier");
        if (ok)
            measure(k, comm, values);
        if (comm->ops->failed(comm, &err))
            right(k, WM_TEMPORARY, &err, false, "afterwards");
        comm->ops->close(comm);
    } else {
        k->control->ops->close(k->control);
    }
    free(values);
    return NULL;
}

int main(void)
{
    struct rank ranks[MAX_RANKS] = {0};
    struct comm *controls[MAX_RANKS];
    struct wm_error err = WM_ERROR_INIT;
    struct nccl_api api;
    int n_devices = 0, n_failed = 0;

    if (cudaGetDeviceCount(&n_devices) != cudaSuccess || n_devices == 0) {
        printf("skipped: no CUDA device\n");
        return 77;
    }
    if (nccl_api_load(&api, &err) != WM_OK) { /* whatever goes wrong from here on is a failure */
        printf("skipped: %s\n", err.message);
        return 77;
    }
    n_devices = n_devices < MAX_RANKS ? n_devices : MAX_RANKS;
    if (comm_open_threads(controls, n_devices, &err) != WM_OK) {
        printf("%s\n", err.message);
        return 1;
    }
    for (int r = 0; r < n_devices; r++) {
        ranks[r].control = controls[r];
        ranks[r].device = r;
        if (pthread_create(&ranks[r].thread, NULL, rank_main, &ranks[r]) != 0)
            return 1;
    }
    for (int r = 0; r < n_devices; r++) {
        pthread_join(ranks[r].thread, NULL);
        if (ranks[r].wrong[0])
            printf("rank %d: %s\n", r, ranks[r].wrong);
        n_failed += ranks[r].wrong[0] != 0;
    }
    printf("%d GPUs, %d failed; a sum of %d values takes %.0f us, one of %d MiB %.1f ms\n", n_devices, n_failed,
           SMALL_VALUES, 1e6 * ranks[0].small_seconds, (int)(LARGE_VALUES * sizeof(uint64_t) >> 20),
           1e3 * ranks[0].large_seconds);
    return n_failed > 0;
}
