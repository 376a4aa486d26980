/*
 * comm_nccl_rig.h: ranks as threads on pretended GPUs, for the tests of comm_nccl.c.
 *
 * What lives here: starting them, what every run has to leave behind, and calls whose answers are checked. A thread cannot
 * fail a test of cmocka's: ranks note what happens to them. What it must not know: what a test is about.
 */
#ifndef TESTS_COMM_NCCL_RIG_H
#define TESTS_COMM_NCCL_RIG_H

#include "cluster/comm_threads.h"
#include "cuda_on_cpu/nccl_sim.h"

#include <stdio.h>

enum { MAX_RANKS = 4, NCCL_SYSTEM_ERROR = 2, NCCL_REMOTE_ERROR = 6 };

struct rank {
    struct run *run;
    struct comm *control, *comm, *peers; /* peers: the same ranks as threads alone */
    int number, device;
    volatile int cancel;
    struct wm_error opened, error; /* of comm_open_nccl, and of the first call that failed */
    char wrong[200];               /* "": every answer was right */
};

struct run {
    struct rank ranks[MAX_RANKS];
    int size;
    void (*body)(struct rank *rank);
    double deadline_seconds;
    int cancelled_rank;         /* is stopped a little after the start; -1: none */
    int n_open, n_open_to_stop; /* that is, when so many ranks have opened NCCL */
    const char *dir;            /* control goes through files in it; NULL: it is threads */
    int device_of[MAX_RANKS];   /* -1: the rank's number */
};

/* The pretended NCCL's own functions; rig_load is a group's setup of cmocka's. */
struct sim {
    void (*configure)(const struct nccl_sim_config *config);
    void (*get_counts)(struct nccl_sim_counts *out);
};
extern struct sim sim;
int rig_load(void **state);

#define WRONG(rank, ...)                                                                                               \
    do {                                                                                                               \
        if (!(rank)->wrong[0])                                                                                         \
            snprintf((rank)->wrong, sizeof(rank)->wrong, __VA_ARGS__);                                                 \
    } while (0)

/* A fresh machine without faults, and a fault on it. */
void machine(int n_devices, bool lazy);
void plant(enum nccl_sim_fault fault, int rank, uint64_t at, int code);

void begin_run(struct run *run, int size, void (*body)(struct rank *rank));
/* All ranks to their end, which must come soon and leave nothing behind; `body` runs where NCCL opens. */
void go(struct run *run);

/* Calls by k->comm (sum_by: by another one). False where one failed: the first failure is in k->error. Wrong answers are
 * noted. Lengths are in values and in bytes. */
bool works(struct rank *k, enum wm_status st, const struct wm_error *err);
bool meet(struct rank *k);
bool sum(struct rank *k, size_t n);
bool sum_by(struct comm *comm, struct rank *k, size_t n);
bool gather(struct rank *k, size_t n_bytes);
bool gather_by(struct comm *comm, struct rank *k, size_t n_bytes);
void sleep_ms(int ms);

#endif
