/*
 * nccl_sim.h: how a test breaks the pretended NCCL, and asks what happened in it.
 *
 * What lives here: the control interface of the shared library libnccl_sim.so (C11 and C++), whose ranks are threads of
 * one process on the pretended devices. The code under test loads it as it loads NCCL; a test finds these functions with
 * dlsym. What it must not know: who calls NCCL, and what for.
 */
#ifndef CUDA_ON_CPU_NCCL_SIM_H
#define CUDA_ON_CPU_NCCL_SIM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum nccl_sim_fault {
    NCCL_SIM_NO_FAULT,
    NCCL_SIM_VERSIONS_DIFFER, /* ncclGetVersion says another one each time                                   */
    NCCL_SIM_CALL_FAILS,      /* the at-th call returns `code`                                               */
    NCCL_SIM_CALLS_FAIL,      /* so does every call after it                                                 */
    NCCL_SIM_INIT_FAILS,      /* `code` is found while the communicator is made                              */
    NCCL_SIM_INIT_HANGS,      /* the rank never joins the communicator                                       */
    NCCL_SIM_NEVER_ARRIVES,   /* from the at-th collective on the rank's part does not begin: the others wait */
    NCCL_SIM_ASYNC_ERROR,     /* the same, and the rank's communicator says `code`                           */
    NCCL_SIM_NEVER_FINALIZED  /* ncclCommFinalize does not end                                               */
};

struct nccl_sim_config {
    int version;      /* what ncclGetVersion says */
    unsigned n_polls; /* how often a call is asked about before it takes effect; 0: effect at once */
    enum nccl_sim_fault fault;
    int rank;    /* that it happens to; -1: any */
    uint64_t at; /* counted from 1, since nccl_sim_configure */
    int code;    /* an ncclResult_t */
};

struct nccl_sim_counts {
    uint64_t calls;
    uint64_t collectives; /* of all ranks */
    int live;             /* communicators neither destroyed nor aborted */
    int aborted;
    const char *misuse; /* the first call that NCCL's manual forbids, as a sentence; NULL: none */
};

/* Only while nothing is alive. NULL: version 2.28.9, two polls, no fault. */
void nccl_sim_configure(const struct nccl_sim_config *config);
void nccl_sim_get_counts(struct nccl_sim_counts *out);

#ifdef __cplusplus
}
#endif

#endif
