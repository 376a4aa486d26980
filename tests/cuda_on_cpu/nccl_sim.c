/*
 * nccl_sim.c: NCCL for the pretended machine, as a shared library that is loaded in its place.
 *
 * What lives here: the few calls that warpmerge makes, for communicators whose ranks are threads of this process. They
 * are non-blocking as the manual says: a call returns "in progress" and takes effect, a collective's place on its stream
 * included, only after its communicator was asked about it some times; whoever goes on earlier is caught by wrong data or by
 * `misuse`. A collective stands on its stream (nccl_sim_stream.c) until every rank's stream has come to it, like the real
 * kernels, which spin; an abort ends the rank's own part alone. What it must not know: the code under test.
 *
 * Compiled without any sanitizer and locked by a lock that ThreadSanitizer does not see: NCCL's own workings order
 * nothing for the caller. Only a collective does: each rank's output comes after all ranks' inputs.
 */
#include "nccl_sim_state.h"

#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

/* ---- what nccl.h declares (NCCL 2.28.9), of which the tests need no copy -------------------------------------- */

enum { ncclUint8 = 1, ncclUint64 = 5, ncclSum = 0 };
typedef struct {
    char internal[128];
} ncclUniqueId;
struct config {
    size_t size;
    unsigned magic, version;
    int blocking, cga_cluster_size;
};
typedef struct ncclComm *ncclComm_t;

EXPORT ncclResult_t ncclGetVersion(int *version);
EXPORT ncclResult_t ncclGetUniqueId(ncclUniqueId *id);
EXPORT ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int n_ranks, ncclUniqueId id, int rank, void *config);
EXPORT ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error);
EXPORT ncclResult_t ncclCommFinalize(ncclComm_t comm);
EXPORT ncclResult_t ncclCommDestroy(ncclComm_t comm);
EXPORT ncclResult_t ncclCommAbort(ncclComm_t comm);
EXPORT ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, int type, int op, ncclComm_t comm,
                                  cudaStream_t stream);
EXPORT ncclResult_t ncclAllGather(const void *from, void *to, size_t count, int type, ncclComm_t comm,
                                  cudaStream_t stream);
EXPORT const char *ncclGetErrorString(ncclResult_t result);
EXPORT const char *ncclGetLastError(ncclComm_t comm);

/* ---- state ----------------------------------------------------------------------------------------------------- */

struct nccl_sim_state nccl_sim;
static int lock_word;

void nccl_sim_lock(void)
{
    while (__atomic_exchange_n(&lock_word, 1, __ATOMIC_ACQUIRE))
        sched_yield();
    if (!nccl_sim.configured) {
        nccl_sim.config = (struct nccl_sim_config){.version = 22809, .n_polls = 2, .rank = -1};
        nccl_sim.configured = true;
    }
}

void nccl_sim_unlock(void)
{
    __atomic_store_n(&lock_word, 0, __ATOMIC_RELEASE);
}

ncclResult_t nccl_sim_misuse(const char *sentence)
{
    if (!nccl_sim.counts.misuse)
        nccl_sim.counts.misuse = sentence;
    return ncclInvalidUsage;
}

bool nccl_sim_planted(enum nccl_sim_fault fault, int rank)
{
    return nccl_sim.config.fault == fault && (nccl_sim.config.rank < 0 || nccl_sim.config.rank == rank);
}

/* Counts a call; what it returns at once. */
static ncclResult_t enter(const struct ncclComm *comm)
{
    int rank = comm ? comm->rank : -1;

    nccl_sim_lock();
    nccl_sim.counts.calls++;
    if ((nccl_sim_planted(NCCL_SIM_CALL_FAILS, rank) && ++nccl_sim.n_calls_of_rank == nccl_sim.config.at) ||
        (nccl_sim_planted(NCCL_SIM_CALLS_FAIL, rank) && ++nccl_sim.n_calls_of_rank >= nccl_sim.config.at))
        return (ncclResult_t)nccl_sim.config.code;
    return comm && comm->gone ? nccl_sim_misuse("a communicator was used after its end") : ncclSuccess;
}

/* ---- what takes effect later ------------------------------------------------------------------------------------ */

static ncclResult_t take_step(struct ncclComm *comm)
{
    if (comm->error)
        return comm->error;
    if (comm->step == NOTHING)
        return ncclSuccess;
    if (comm->n_polls_left > 0) {
        comm->n_polls_left--;
        return ncclInProgress;
    }
    switch (comm->step) {
    case JOINING:
        if (!comm->joined && !nccl_sim_planted(NCCL_SIM_INIT_HANGS, comm->rank)) {
            comm->joined = true;
            comm->group->n_joined++;
            if (nccl_sim_planted(NCCL_SIM_INIT_FAILS, comm->rank))
                comm->error = (ncclResult_t)nccl_sim.config.code;
        }
        if (!comm->error && comm->group->n_joined < comm->group->n_ranks)
            return ncclInProgress;
        break;
    case SUBMITTING: nccl_sim_submit(comm); break;
    case FINALIZING:
        if (comm->n_on_stream > 0 || nccl_sim_planted(NCCL_SIM_NEVER_FINALIZED, comm->rank))
            return ncclInProgress;
        comm->finalized = true;
        break;
    case NOTHING: break;
    }
    comm->step = NOTHING;
    return comm->error;
}

static ncclResult_t begin_step(struct ncclComm *comm, enum step step)
{
    comm->step = step;
    comm->n_polls_left = nccl_sim.config.n_polls;
    return comm->n_polls_left ? ncclInProgress : take_step(comm);
}

/* ---- NCCL's calls ----------------------------------------------------------------------------------------------- */

ncclResult_t ncclGetVersion(int *version)
{
    ncclResult_t e = enter(NULL);

    *version = nccl_sim.config.version;
    if (nccl_sim_planted(NCCL_SIM_VERSIONS_DIFFER, -1))
        nccl_sim.config.version++;
    nccl_sim_unlock();
    return e;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    ncclResult_t e = enter(NULL);

    memset(id, 0x5a, sizeof *id);
    nccl_sim.last_id++;
    memcpy(id->internal, &nccl_sim.last_id, sizeof nccl_sim.last_id);
    nccl_sim_unlock();
    return e;
}

static struct group *find_group(uint64_t id, int n_ranks)
{
    struct group *g = nccl_sim.groups;

    while (g && g->id != id)
        g = g->next;
    if (!g) {
        g = calloc(1, sizeof *g);
        g->id = id;
        g->n_ranks = n_ranks;
        g->next = nccl_sim.groups;
        nccl_sim.groups = g;
    }
    return g;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int n_ranks, ncclUniqueId id, int rank, void *config)
{
    const struct config *c = config;
    struct ncclComm *comm = calloc(1, sizeof *comm);
    int device = -1;
    ncclResult_t e;
    uint64_t number;

    *out = NULL;
    comm->rank = rank;
    if (cudaGetDevice(&device) != cudaSuccess) {
        free(comm);
        return ncclUnhandledCudaError;
    }
    e = enter(comm);
    memcpy(&number, id.internal, sizeof number);
    if (!e && (c->size < sizeof *c || c->magic != 0xcafebeef || c->version < 21400 || c->blocking != 0 ||
               (c->version >= 21700 && c->size < 48) || (c->version < 21700 && c->cga_cluster_size != INT_MIN)))
        e = nccl_sim_misuse("the configuration is not as NCCL_CONFIG_INITIALIZER makes it");
    if (!e && (n_ranks < 1 || n_ranks > MAX_RANKS || rank < 0 || rank >= n_ranks || number > nccl_sim.last_id))
        e = nccl_sim_misuse("there is no such rank or id");
    if (!e) {
        struct group *g = find_group(number, n_ranks);
        if (g->n_ranks != n_ranks || g->ranks[rank]) {
            e = nccl_sim_misuse("two ranks of one communicator contradict each other");
        } else {
            comm->group = g;
            comm->device = device;
            g->n_owners++;
            g->ranks[rank] = comm;
            nccl_sim.counts.live++;
            *out = comm;
            for (int r = 0; r < n_ranks; r++)
                if (r != rank && g->ranks[r] && g->ranks[r]->device == device)
                    nccl_sim_everywhere(g, nccl_sim_misuse("two ranks of one communicator have the same GPU"));
            e = begin_step(comm, JOINING);
        }
    }
    nccl_sim_unlock();
    if (!*out)
        free(comm);
    return e;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
    ncclResult_t e = enter(comm);

    *error = e ? e : take_step(comm);
    nccl_sim_unlock();
    return e;
}

/* The communicator itself stays until nothing on any stream knows it. */
static void end(struct ncclComm *comm)
{
    comm->gone = true;
    nccl_sim.counts.live--;
    free(comm->submitted);
    comm->submitted = NULL;
    nccl_sim_disown(comm->group);
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    ncclResult_t e = enter(comm);

    if (!e && comm->step != NOTHING)
        e = nccl_sim_misuse("a communicator was finalized while a call was in progress");
    if (!e)
        e = begin_step(comm, FINALIZING);
    nccl_sim_unlock();
    return e;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    ncclResult_t e = enter(comm);

    if (!e && !comm->finalized)
        e = nccl_sim_misuse("a communicator was destroyed before it was finalized");
    if (!comm->gone)
        end(comm);
    nccl_sim_unlock();
    return e;
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    ncclResult_t e = enter(comm);

    if (!comm->gone) {
        comm->aborted = true;
        nccl_sim.counts.aborted++;
        end(comm);
    }
    nccl_sim_unlock();
    return e;
}

/* In place is allowed, any other overlap is not: a rank's input would be overwritten while others still read it. */
static bool overlaps(const struct ncclComm *comm, const unsigned char *from, const unsigned char *to, size_t count,
                     enum kind kind)
{
    size_t n_in = kind == ALL_GATHER ? count : count * sizeof(uint64_t);
    size_t n_out = kind == ALL_GATHER ? count * (size_t)comm->group->n_ranks : n_in;
    size_t in_place = kind == ALL_GATHER ? count * (size_t)comm->rank : 0;

    return from != to + in_place && from < to + n_out && to < from + n_in;
}

static ncclResult_t collective(const void *from, void *to, size_t count, enum kind kind, bool known, ncclComm_t comm,
                               cudaStream_t stream)
{
    int device = -1;
    cudaError_t asked = cudaGetDevice(&device);
    ncclResult_t e = enter(comm);

    nccl_sim.counts.collectives++;
    if (!e && (asked != cudaSuccess || device != comm->device))
        e = nccl_sim_misuse("a collective was called while another GPU was current");
    if (!e && !known)
        e = nccl_sim_misuse("this type or operation is not pretended");
    if (!e && comm->step != NOTHING)
        e = nccl_sim_misuse("a collective was called while an earlier call was in progress");
    if (!e && overlaps(comm, from, to, count, kind))
        e = nccl_sim_misuse("input and output of a collective overlap, but not as in place");
    if (!e) {
        comm->n_collectives++;
        e = comm->error;
    }
    if (!e) {
        struct collective *c = nccl_sim_find_collective(comm, kind, count);
        if (!c) {
            e = ncclInvalidUsage;
        } else {
            comm->submitted = malloc(sizeof *comm->submitted);
            *comm->submitted = (struct part){comm, c, from, to, stream, false};
            e = begin_step(comm, SUBMITTING);
        }
    }
    nccl_sim_unlock();
    return e;
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, int type, int op, ncclComm_t comm,
                           cudaStream_t stream)
{
    return collective(from, to, count, ALL_REDUCE, type == ncclUint64 && op == ncclSum, comm, stream);
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count, int type, ncclComm_t comm, cudaStream_t stream)
{
    return collective(from, to, count, ALL_GATHER, type == ncclUint8, comm, stream);
}

const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const texts[] = {"no error",
                                        "unhandled cuda error",
                                        "unhandled system error",
                                        "internal error",
                                        "invalid argument",
                                        "invalid usage",
                                        "remote process exited or there was a network error",
                                        "NCCL operation in progress"};

    return (unsigned)result < sizeof texts / sizeof *texts ? texts[result] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t comm)
{
    (void)comm;
    return "pretended by\nthe test";
}

/* ---- control ---------------------------------------------------------------------------------------------------- */

EXPORT void nccl_sim_configure(const struct nccl_sim_config *config)
{
    nccl_sim_lock();
    memset(&nccl_sim.counts, 0, sizeof nccl_sim.counts);
    nccl_sim.n_calls_of_rank = 0;
    nccl_sim.configured = config != NULL;
    if (config)
        nccl_sim.config = *config;
    nccl_sim_unlock();
}

EXPORT void nccl_sim_get_counts(struct nccl_sim_counts *out)
{
    nccl_sim_lock();
    *out = nccl_sim.counts;
    nccl_sim_unlock();
}
