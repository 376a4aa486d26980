/*
 * nccl_sim.c: NCCL for the pretended machine, as a shared library that is loaded in its place.
 *
 * What lives here: the few calls that warpmerge makes, for communicators whose ranks are threads of this process. They
 * are non-blocking as the manual says: a call returns "in progress" and takes effect, a collective's place on its stream
 * included, only after its communicator was asked about it some times; whoever goes on earlier is caught by wrong data or by
 * `misuse`. A collective stands on its stream until every rank's stream has come to it, like the real kernels, which
 * spin; an abort ends the rank's own part alone. What it must not know: the code under test.
 *
 * Compiled without any sanitizer and locked by a lock that ThreadSanitizer does not see: NCCL's own workings order
 * nothing for the caller. Only a collective does: each rank's output comes after all ranks' inputs.
 */
#include "nccl_sim.h"
#include "stream_work.h"

#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { MAX_RANKS = 16 };

/* ---- what nccl.h declares (NCCL 2.28.9), of which the tests need no copy -------------------------------------- */

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

/* Only under ThreadSanitizer. */
__attribute__((weak)) void __tsan_acquire(void *address);
__attribute__((weak)) void __tsan_release(void *address);
__attribute__((weak)) void AnnotateIgnoreWritesBegin(const char *file, int line);
__attribute__((weak)) void AnnotateIgnoreWritesEnd(const char *file, int line);

/* ---- state ----------------------------------------------------------------------------------------------------- */

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

static struct {
    struct nccl_sim_config config;
    bool configured;
    struct nccl_sim_counts counts;
    uint64_t n_calls_of_rank, last_id;
    struct group *groups;
} sim;

static int lock_word;

static void lock(void)
{
    while (__atomic_exchange_n(&lock_word, 1, __ATOMIC_ACQUIRE))
        sched_yield();
    if (!sim.configured) {
        sim.config = (struct nccl_sim_config){.version = 22809, .n_polls = 2, .rank = -1};
        sim.configured = true;
    }
}

static void unlock(void)
{
    __atomic_store_n(&lock_word, 0, __ATOMIC_RELEASE);
}

static ncclResult_t misuse(const char *sentence)
{
    if (!sim.counts.misuse)
        sim.counts.misuse = sentence;
    return ncclInvalidUsage;
}

static bool planted(enum nccl_sim_fault fault, int rank)
{
    return sim.config.fault == fault && (sim.config.rank < 0 || sim.config.rank == rank);
}

/* Counts a call; what it returns at once. */
static ncclResult_t enter(const struct ncclComm *comm)
{
    int rank = comm ? comm->rank : -1;

    lock();
    sim.counts.calls++;
    if ((planted(NCCL_SIM_CALL_FAILS, rank) && ++sim.n_calls_of_rank == sim.config.at) ||
        (planted(NCCL_SIM_CALLS_FAIL, rank) && ++sim.n_calls_of_rank >= sim.config.at))
        return (ncclResult_t)sim.config.code;
    return comm && comm->gone ? misuse("a communicator was used after its end") : ncclSuccess;
}

static void disown(struct group *g)
{
    struct group **at = &sim.groups;

    if (--g->n_owners > 0)
        return;
    while (*at != g)
        at = &(*at)->next;
    *at = g->next;
    if (AnnotateIgnoreWritesBegin) /* nobody is left who could mind */
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    while (g->collectives) {
        struct collective *c = g->collectives;
        g->collectives = c->next;
        for (int r = 0; r < MAX_RANKS; r++)
            free(c->sent[r]);
        free(c);
    }
    for (int r = 0; r < MAX_RANKS; r++)
        free(g->ranks[r]);
    free(g);
    if (AnnotateIgnoreWritesEnd)
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
}

/* ---- a collective on its stream --------------------------------------------------------------------------------- */

static void everywhere(struct group *g, ncclResult_t error)
{
    for (int r = 0; r < g->n_ranks; r++)
        if (g->ranks[r] && g->ranks[r]->error == ncclSuccess)
            g->ranks[r]->error = error;
}

static size_t n_bytes_of(const struct collective *c)
{
    return c->count * (c->kind == ALL_REDUCE ? sizeof(uint64_t) : 1);
}

static bool part_ready(void *data)
{
    struct part *p = data;
    struct ncclComm *comm = p->comm;
    struct collective *c = p->collective;
    bool ready;

    lock();
    ready = comm->aborted; /* the kernel is told to leave */
    if (!ready && !comm->error) {
        bool late = comm->n_collectives >= sim.config.at;
        if (late && planted(NCCL_SIM_ASYNC_ERROR, comm->rank))
            comm->error = (ncclResult_t)sim.config.code;
        else if (!p->begun && !(late && planted(NCCL_SIM_NEVER_ARRIVES, comm->rank))) {
            p->begun = true;
            memcpy(c->sent[comm->rank], p->from, n_bytes_of(c));
            c->n_begun++;
            if (__tsan_release)
                __tsan_release(c);
        }
        ready = c->n_begun == comm->group->n_ranks;
    }
    unlock();
    return ready;
}

static void part_run(void *data)
{
    struct part *p = data;
    struct collective *c = p->collective;
    size_t n_bytes = n_bytes_of(c);

    lock();
    if (!p->comm->aborted) {
        if (__tsan_acquire)
            __tsan_acquire(c);
        if (c->kind == ALL_GATHER) {
            for (int r = 0; r < p->comm->group->n_ranks; r++)
                memcpy(p->to + (size_t)r * n_bytes, c->sent[r], n_bytes);
        } else {
            for (size_t i = 0; i < n_bytes; i += sizeof(uint64_t)) {
                uint64_t sum = 0, one;
                for (int r = 0; r < p->comm->group->n_ranks; r++) {
                    memcpy(&one, c->sent[r] + i, sizeof one);
                    sum += one;
                }
                memcpy(p->to + i, &sum, sizeof sum);
            }
        }
    }
    unlock();
}

static void part_drop(void *data)
{
    struct part *p = data;
    struct group *g = p->comm->group;
    struct collective *c = p->collective, **at = &g->collectives;

    lock();
    p->comm->n_on_stream--;
    if (__tsan_release)
        __tsan_release(c);
    if (++c->n_dropped == g->n_ranks) {
        if (__tsan_acquire)
            __tsan_acquire(c);
        while (*at != c)
            at = &(*at)->next;
        *at = c->next;
        for (int r = 0; r < MAX_RANKS; r++)
            free(c->sent[r]);
        free(c);
    }
    disown(g);
    unlock();
    free(p);
}

/* The group's collective of this number; the first rank to come makes it, the others must want the same. */
static struct collective *find_collective(struct ncclComm *comm, enum kind kind, size_t count)
{
    struct collective *c = comm->group->collectives;

    while (c && c->number != comm->n_collectives)
        c = c->next;
    if (c && (c->kind != kind || c->count != count)) {
        everywhere(comm->group, ncclInvalidUsage);
        misuse("ranks made different calls");
        return NULL;
    }
    if (!c) {
        c = calloc(1, sizeof *c);
        c->number = comm->n_collectives;
        c->kind = kind;
        c->count = count;
        c->next = comm->group->collectives;
        comm->group->collectives = c;
    }
    c->sent[comm->rank] = malloc(n_bytes_of(c) + 1);
    return c;
}

/* ---- what takes effect later ------------------------------------------------------------------------------------ */

/* Called under the lock, which it gives up for a while: the machine's own lock is taken before ours, not after it. */
static void submit(struct ncclComm *comm)
{
    struct part *p = comm->submitted;
    struct cuda_on_cpu_work work = {part_ready, part_run, part_drop, p};

    comm->submitted = NULL;
    comm->n_on_stream++;
    comm->group->n_owners++;
    unlock();
    if (cuda_on_cpu_submit(p->stream, comm->device, &work) != cudaSuccess) {
        lock();
        comm->error = ncclUnhandledCudaError;
        unlock();
        part_drop(p);
    }
    lock();
}

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
        if (!comm->joined && !planted(NCCL_SIM_INIT_HANGS, comm->rank)) {
            comm->joined = true;
            comm->group->n_joined++;
            if (planted(NCCL_SIM_INIT_FAILS, comm->rank))
                comm->error = (ncclResult_t)sim.config.code;
        }
        if (!comm->error && comm->group->n_joined < comm->group->n_ranks)
            return ncclInProgress;
        break;
    case SUBMITTING: submit(comm); break;
    case FINALIZING:
        if (comm->n_on_stream > 0 || planted(NCCL_SIM_NEVER_FINALIZED, comm->rank))
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
    comm->n_polls_left = sim.config.n_polls;
    return comm->n_polls_left ? ncclInProgress : take_step(comm);
}

/* ---- NCCL's calls ----------------------------------------------------------------------------------------------- */

ncclResult_t ncclGetVersion(int *version)
{
    ncclResult_t e = enter(NULL);

    *version = sim.config.version;
    if (planted(NCCL_SIM_VERSIONS_DIFFER, -1))
        sim.config.version++;
    unlock();
    return e;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    ncclResult_t e = enter(NULL);

    memset(id, 0x5a, sizeof *id);
    sim.last_id++;
    memcpy(id->internal, &sim.last_id, sizeof sim.last_id);
    unlock();
    return e;
}

static struct group *find_group(uint64_t id, int n_ranks)
{
    struct group *g = sim.groups;

    while (g && g->id != id)
        g = g->next;
    if (!g) {
        g = calloc(1, sizeof *g);
        g->id = id;
        g->n_ranks = n_ranks;
        g->next = sim.groups;
        sim.groups = g;
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
        e = misuse("the configuration is not as NCCL_CONFIG_INITIALIZER makes it");
    if (!e && (n_ranks < 1 || n_ranks > MAX_RANKS || rank < 0 || rank >= n_ranks || number > sim.last_id))
        e = misuse("there is no such rank or id");
    if (!e) {
        struct group *g = find_group(number, n_ranks);
        if (g->n_ranks != n_ranks || g->ranks[rank]) {
            e = misuse("two ranks of one communicator contradict each other");
        } else {
            comm->group = g;
            comm->device = device;
            g->n_owners++;
            g->ranks[rank] = comm;
            sim.counts.live++;
            *out = comm;
            for (int r = 0; r < n_ranks; r++)
                if (r != rank && g->ranks[r] && g->ranks[r]->device == device)
                    everywhere(g, misuse("two ranks of one communicator have the same GPU"));
            e = begin_step(comm, JOINING);
        }
    }
    unlock();
    if (!*out)
        free(comm);
    return e;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
    ncclResult_t e = enter(comm);

    *error = e ? e : take_step(comm);
    unlock();
    return e;
}

/* The communicator itself stays until nothing on any stream knows it. */
static void end(struct ncclComm *comm)
{
    comm->gone = true;
    sim.counts.live--;
    free(comm->submitted);
    comm->submitted = NULL;
    disown(comm->group);
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    ncclResult_t e = enter(comm);

    if (!e && comm->step != NOTHING)
        e = misuse("a communicator was finalized while a call was in progress");
    if (!e)
        e = begin_step(comm, FINALIZING);
    unlock();
    return e;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    ncclResult_t e = enter(comm);

    if (!e && !comm->finalized)
        e = misuse("a communicator was destroyed before it was finalized");
    if (!comm->gone)
        end(comm);
    unlock();
    return e;
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    ncclResult_t e = enter(comm);

    if (!comm->gone) {
        comm->aborted = true;
        sim.counts.aborted++;
        end(comm);
    }
    unlock();
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

    sim.counts.collectives++;
    if (!e && (asked != cudaSuccess || device != comm->device))
        e = misuse("a collective was called while another GPU was current");
    if (!e && !known)
        e = misuse("this type or operation is not pretended");
    if (!e && comm->step != NOTHING)
        e = misuse("a collective was called while an earlier call was in progress");
    if (!e && overlaps(comm, from, to, count, kind))
        e = misuse("input and output of a collective overlap, but not as in place");
    if (!e) {
        comm->n_collectives++;
        e = comm->error;
    }
    if (!e) {
        struct collective *c = find_collective(comm, kind, count);
        if (!c) {
            e = ncclInvalidUsage;
        } else {
            comm->submitted = malloc(sizeof *comm->submitted);
            *comm->submitted = (struct part){comm, c, from, to, stream, false};
            e = begin_step(comm, SUBMITTING);
        }
    }
    unlock();
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
    lock();
    memset(&sim.counts, 0, sizeof sim.counts);
    sim.n_calls_of_rank = 0;
    sim.configured = config != NULL;
    if (config)
        sim.config = *config;
    unlock();
}

EXPORT void nccl_sim_get_counts(struct nccl_sim_counts *out)
{
    lock();
    *out = sim.counts;
    unlock();
}
