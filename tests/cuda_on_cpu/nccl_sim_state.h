/*
 * nccl_sim_state.h: what the two halves of the pretended NCCL share.
 *
 * What lives here: communicators, groups and collectives, all under one lock, and the functions that change them on both
 * sides: NCCL's calls (nccl_sim.c) and work on streams (nccl_sim_stream.c). What it must not know: the code under test.
 */
#ifndef CUDA_ON_CPU_NCCL_SIM_STATE_H
#define CUDA_ON_CPU_NCCL_SIM_STATE_H

#include "nccl_sim.h"
#include "stream_work.h"

#include <stdbool.h>
#include <stddef.h>

enum { MAX_RANKS = 16 };

/* As in nccl.h. */
typedef enum {
    ncclSuccess,
    ncclUnhandledCudaError,
    ncclSystemError,
    ncclInternalError,
    ncclInvalidArgument,
    ncclInvalidUsage,
    ncclRemoteError,
    ncclInProgress
} ncclResult_t;

enum kind { ALL_REDUCE, ALL_GATHER };

/* One collective of one group: its place is its number. */
struct collective {
    struct collective *next;
    uint64_t number;
    enum kind kind;
    size_t count;
    int n_begun, n_dropped;
    unsigned char *sent[MAX_RANKS]; /* each rank's input as it was when its stream came here */
};

struct group {
    struct group *next;
    uint64_t id;
    int n_ranks, n_joined, n_owners; /* owners: communicators and work on streams */
    struct ncclComm *ranks[MAX_RANKS];
    struct collective *collectives;
};

/* A rank's part of a collective. */
struct part {
    struct ncclComm *comm;
    struct collective *collective;
    const unsigned char *from;
    unsigned char *to;
    cudaStream_t stream;
    bool begun;
};

enum step { NOTHING, JOINING, SUBMITTING, FINALIZING };

struct ncclComm {
    struct group *group;
    int rank, device;
    ncclResult_t error; /* found later than in the call */
    enum step step;
    unsigned n_polls_left;
    struct part *submitted; /* SUBMITTING */
    uint64_t n_collectives;
    int n_on_stream;
    bool joined, finalized, aborted, gone;
};

struct nccl_sim_state {
    struct nccl_sim_config config;
    bool configured;
    struct nccl_sim_counts counts;
    uint64_t n_calls_of_rank, last_id;
    struct group *groups;
};
extern struct nccl_sim_state nccl_sim;

/* ---- nccl_sim.c ------------------------------------------------------------------------------------------------- */

void nccl_sim_lock(void);
void nccl_sim_unlock(void);
/* Everything below is called under the lock. */
ncclResult_t nccl_sim_misuse(const char *sentence);
bool nccl_sim_planted(enum nccl_sim_fault fault, int rank);

/* ---- nccl_sim_stream.c ------------------------------------------------------------------------------------------ */

/* The error for every rank that has none yet. */
void nccl_sim_everywhere(struct group *g, ncclResult_t error);
/* The group's collective of this number; the first rank to come makes it, the others must want the same. */
struct collective *nccl_sim_find_collective(struct ncclComm *comm, enum kind kind, size_t count);
/* Gives the lock up for a while: the machine's own lock is taken before ours, not after it. */
void nccl_sim_submit(struct ncclComm *comm);
/* One owner less; the last one takes the group with it. */
void nccl_sim_disown(struct group *g);

#endif
