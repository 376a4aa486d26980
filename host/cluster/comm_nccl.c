/*
 * comm_nccl.c: ranks that send their data through NCCL, one GPU each.
 *
 * What lives here: agreeing on NCCL or on doing without it, the two collectives on a stream of their own, and every way in
 * which they can go wrong. Another comm, `control`, carries what must arrive even then: who is alive, aborts, and the id
 * where MPI does not (mpi_id.h). What it must not know: what the numbers mean, how control works.
 *
 * Every call begins with a small gather through control: each rank says what it is about to do. Only when all of them
 * have come is NCCL asked. Late ranks are so waited for by control, which tells late from dead; no kernel of NCCL spins
 * on a GPU meanwhile, where it would block every cudaFree; unlike calls are named before they hang; and whatever NCCL
 * then does not finish within the deadline has really failed (reliability notes 5.4: a dead peer or link may show in no
 * other way). The price is control's latency, once a call: about 50 us between threads, 2.5 ms through files on a
 * local disk (4 ranks on 2 busy cores, 2026-11-22), where the files alone take as long for 64 KiB.
 *
 * Communicators are non-blocking: a call of NCCL's may return early, and nothing else is put on the stream before its
 * communicator says that the work is there. After the first failure the communicator is aborted (by the thread that
 * uses it: NCCL allows no other), control tells the other ranks, and every later call fails with the same text.
 * Calls leave the GPU of this rank current on the calling thread. They do not go back to an earlier choice, since that
 * alone would make a context of some 300 MB on a GPU that nobody else uses (cudaSetDevice since CUDA 12).
 */
#include "cluster/comm.h"

#include "base/file.h"
#include "base/machine.h"
#include "base/text.h"
#include "cluster/mpi_id.h"
#include "cluster/nccl_api.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Of pinned and of device memory. Volumes are small, so nothing is overlapped: larger ones go in pieces. */
#define STAGING_BYTES ((size_t)4 << 20)
/* control->failed may look at files. */
#define SECONDS_BETWEEN_LOOKS 0.02
/* An abort makes kernels leave; a GPU that does not obey would block cudaFree for ever. */
#define DRAIN_SECONDS 5.0
#define REMEDY                                                                                                         \
    "; run the same command again, it continues (NCCL_DEBUG=INFO says more, " NCCL_API_VARIABLE                        \
    "=none does without NCCL)"

enum call { CALL_BARRIER, CALL_GATHER, CALL_REDUCE };
static const char *const call_names[] = {"barrier", "all_gather", "all_reduce_u64"};

struct arrival {
    uint64_t number; /* of the call */
    uint64_t call;   /* enum call   */
    uint64_t n;      /* gather: bytes; reduce: values */
};

struct nccl_rank {
    struct comm base; /* first: a comm is cast to its nccl_rank */
    struct comm *control;
    struct nccl_api nccl;
    struct ncclComm *handle; /* NULL: none, or aborted */
    int device;
    const char *remedy; /* how a message ends: while opening there is nothing to be done */
    cudaStream_t stream;
    cudaEvent_t done;
    unsigned char *pinned, *staging; /* STAGING_BYTES each */
    struct arrival *arrivals;        /* [size] */
    uint64_t n_calls;
    pthread_mutex_t lock; /* of why: failed and abort may come from any thread */
    struct wm_error why;  /* status WM_OK: nothing failed */
};

/* ---- failure ---------------------------------------------------------------------------------------------------- */

/* The first reason stays. */
static void remember(struct nccl_rank *r, enum wm_status status, const char *message)
{
    pthread_mutex_lock(&r->lock);
    error_set(&r->why, status, "%s", message);
    pthread_mutex_unlock(&r->lock);
}

static enum wm_status recall(struct nccl_rank *r, struct wm_error *err)
{
    enum wm_status st;

    pthread_mutex_lock(&r->lock);
    st = r->why.status;
    if (st != WM_OK)
        error_set(err, st, "%s", r->why.message);
    pthread_mutex_unlock(&r->lock);
    return st;
}

static void abort_nccl(struct nccl_rank *r)
{
    if (r->handle)
        (void)r->nccl.comm_abort(r->handle);
    r->handle = NULL;
}

/* A call is over: `why` becomes this rank's answer to all later ones too, and the other ranks hear of it. */
static enum wm_status lose(struct nccl_rank *r, const struct wm_error *why, struct wm_error *err)
{
    struct wm_error others = WM_ERROR_INIT;

    remember(r, why->status, why->message);
    abort_nccl(r);
    if (why->status == WM_CANCELLED)
        error_set(&others, WM_TEMPORARY, "rank %d was stopped on request; run the same command again, it continues",
                  r->base.rank);
    else
        error_set(&others, WM_TEMPORARY, "%s", why->message);
    r->control->ops->abort(r->control, &others);
    return error_set(err, why->status, "%s", why->message);
}

static enum wm_status cuda_failed(const struct nccl_rank *r, cudaError_t code, const char *what, struct wm_error *err)
{
    return error_set(err, WM_TEMPORARY, "GPU %d of rank %d failed while %s: %s%s", r->device, r->base.rank, what,
                     cudaGetErrorString(code), r->remedy);
}

static enum wm_status nccl_failed(const struct nccl_rank *r, enum nccl_result code, const char *what,
                                  struct wm_error *err)
{
    const char *last = r->nccl.get_last_error(r->handle);
    char more[256] = "";

    return error_set(err, WM_TEMPORARY, "NCCL failed on GPU %d of rank %d while %s: %s (%s)%s", r->device, r->base.rank,
                     what, r->nccl.get_error_string(code),
                     text_display(more, sizeof more, last && *last ? last : "no details"), r->remedy);
}

/* Need r, err, st and a label out. */
#define CUDA(call, what)                                                                                               \
    do {                                                                                                               \
        cudaError_t code_ = (call);                                                                                    \
        if (code_ != cudaSuccess) {                                                                                    \
            st = cuda_failed(r, code_, what, err);                                                                     \
            goto out;                                                                                                  \
        }                                                                                                              \
    } while (0)
#define NCCL(call, what)                                                                                               \
    do {                                                                                                               \
        enum nccl_result code_ = (call);                                                                               \
        if (code_ != NCCL_API_SUCCESS && code_ != NCCL_API_IN_PROGRESS) {                                              \
            st = nccl_failed(r, code_, what, err);                                                                     \
            goto out;                                                                                                  \
        }                                                                                                              \
    } while (0)

/* ---- waiting ---------------------------------------------------------------------------------------------------- */

struct wait {
    const char *what;
    double began, next_look;
    unsigned n_rounds;
};

static struct wait wait_for(const char *what)
{
    double now = file_now_seconds();

    return (struct wait){what, now, now + SECONDS_BETWEEN_LOOKS, 0};
}

/* One round of a wait that has to go on, unless there is a reason against it. NCCL's own latency is 10 to 50 us: the first
 * rounds only yield. */
static enum wm_status go_on(struct nccl_rank *r, struct wait *w, struct wm_error *err)
{
    double now = file_now_seconds();

    if (r->base.cancel && __atomic_load_n(r->base.cancel, __ATOMIC_RELAXED))
        return error_set(err, WM_CANCELLED, "stopped on request");
    if (now >= w->next_look) {
        w->next_look = now + SECONDS_BETWEEN_LOOKS;
        if (r->control->ops->failed(r->control, err))
            return WM_TEMPORARY;
    }
    if (now - w->began > r->base.deadline_seconds)
        return error_set(err, WM_TEMPORARY,
                         "NCCL did not get done within %.3g s on rank %d with %s, which all %d ranks had begun%s",
                         r->base.deadline_seconds, r->base.rank, w->what, r->base.size, r->remedy);
    if (w->n_rounds++ < 1000)
        sched_yield();
    else
        nanosleep(&(struct timespec){.tv_nsec = w->n_rounds < 10000 ? 50000 : 500000}, NULL);
    return WM_OK;
}

/* Until the last call has taken effect: its work, if it has any, is on the stream then. */
static enum wm_status wait_for_nccl(struct nccl_rank *r, const char *what, struct wm_error *err)
{
    struct wait w = wait_for(what);
    enum wm_status st = WM_OK;

    for (;;) {
        enum nccl_result state = NCCL_API_SUCCESS;
        NCCL(r->nccl.comm_get_async_error(r->handle, &state), what);
        NCCL(state, what);
        if (state == NCCL_API_SUCCESS)
            break;
        TRY(go_on(r, &w, err));
    }
out:
    return st;
}

/* Until the stream is through: a rank that is lost, or a link, shows in the communicator's state or not at all. */
static enum wm_status wait_for_stream(struct nccl_rank *r, const char *what, struct wm_error *err)
{
    struct wait w = wait_for(what);
    enum wm_status st = WM_OK;

    CUDA(cudaEventRecord(r->done, r->stream), what);
    for (;;) {
        enum nccl_result state = NCCL_API_SUCCESS;
        cudaError_t code = cudaEventQuery(r->done);
        if (code == cudaSuccess)
            break;
        if (code != cudaErrorNotReady)
            CUDA(code, what);
        (void)
            cudaGetLastError(); /* off the record: the engine's next launch on this thread would take it for its own */
        NCCL(r->nccl.comm_get_async_error(r->handle, &state), what);
        NCCL(state, what);
        TRY(go_on(r, &w, err));
    }
out:
    return st;
}

/* ---- the collectives -------------------------------------------------------------------------------------------- */

/* Every rank says what it is about to do, and all go on together or none does. */
static enum wm_status arrive(struct nccl_rank *r, enum call call, size_t n, struct wm_error *err)
{
    struct arrival mine = {r->n_calls++, (uint64_t)call, n};
    enum wm_status st = WM_OK;

    TRY(recall(r, err));
    if (r->control->cancel != r->base.cancel) /* set since the last call */
        r->control->cancel = r->base.cancel;
    TRY(r->control->ops->all_gather(r->control, &mine, sizeof mine, r->arrivals, err));
    for (int i = 1; i < r->base.size; i++) {
        const struct arrival *a = &r->arrivals[0], *b = &r->arrivals[i];
        if (a->number != b->number || a->call != b->call || a->n != b->n) {
            st = error_set(err, WM_TEMPORARY,
                           "rank %d called %s of %llu where rank 0 called %s of %llu; this is a fault of the program: "
                           "report it",
                           i, call_names[b->call <= CALL_REDUCE ? b->call : 0], (unsigned long long)b->n,
                           call_names[a->call <= CALL_REDUCE ? a->call : 0], (unsigned long long)a->n);
            goto out;
        }
    }
    CUDA(cudaSetDevice(r->device), "being chosen for communication");
out:
    return st;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* To the device, through NCCL and back, in place: a gather's own part lies where it will be found. */
static enum wm_status exchange(struct nccl_rank *r, enum call call, size_t n_bytes, struct wm_error *err)
{
    size_t first = call == CALL_GATHER ? (size_t)r->base.rank * n_bytes : 0;
    size_t n_back = call == CALL_GATHER ? (size_t)r->base.size * n_bytes : n_bytes;
    const char *what = call == CALL_GATHER ? "gathering from all ranks" : "adding up over all ranks";
    enum wm_status st = WM_OK;

    CUDA(cudaMemcpyAsync(r->staging + first, r->pinned, n_bytes, cudaMemcpyHostToDevice, r->stream), what);
    if (call == CALL_GATHER)
        NCCL(r->nccl.all_gather(r->staging + first, r->staging, n_bytes, NCCL_API_UINT8, r->handle, r->stream), what);
    else
        NCCL(r->nccl.all_reduce(r->staging, r->staging, n_bytes / sizeof(uint64_t), NCCL_API_UINT64, NCCL_API_SUM,
                                r->handle, r->stream),
             what);
    TRY(wait_for_nccl(r, what, err));
    CUDA(cudaMemcpyAsync(r->pinned, r->staging, n_back, cudaMemcpyDeviceToHost, r->stream), what);
    TRY(wait_for_stream(r, what, err));
out:
    return st;
}

static enum wm_status nccl_barrier(struct comm *comm, struct wm_error *err)
{
    struct nccl_rank *r = (struct nccl_rank *)comm;
    struct wm_error why = WM_ERROR_INIT;

    return arrive(r, CALL_BARRIER, 0, &why) == WM_OK ? WM_OK : lose(r, &why, err);
}

static enum wm_status nccl_all_gather(struct comm *comm, const void *mine, size_t n_bytes, void *all,
                                      struct wm_error *err)
{
    struct nccl_rank *r = (struct nccl_rank *)comm;
    size_t n_ranks = (size_t)comm->size, piece = STAGING_BYTES / n_ranks / 16 * 16;
    struct wm_error why = WM_ERROR_INIT;
    enum wm_status st = WM_OK;

    TRY(arrive(r, CALL_GATHER, n_bytes, &why));
    for (size_t at = 0; at < n_bytes; at += piece) {
        size_t n = least(piece, n_bytes - at);
        memcpy(r->pinned, (const unsigned char *)mine + at, n);
        TRY(exchange(r, CALL_GATHER, n, &why));
        for (size_t from = 0; from < n_ranks; from++)
            memcpy((unsigned char *)all + from * n_bytes + at, r->pinned + from * n, n);
    }
out:
    return st == WM_OK ? WM_OK : lose(r, &why, err);
}

static enum wm_status nccl_all_reduce_u64(struct comm *comm, uint64_t *values, size_t n, struct wm_error *err)
{
    struct nccl_rank *r = (struct nccl_rank *)comm;
    const size_t piece = STAGING_BYTES / sizeof *values;
    struct wm_error why = WM_ERROR_INIT;
    enum wm_status st = WM_OK;

    TRY(arrive(r, CALL_REDUCE, n, &why));
    for (size_t at = 0; at < n; at += piece) {
        size_t n_bytes = least(piece, n - at) * sizeof *values;
        memcpy(r->pinned, values + at, n_bytes);
        TRY(exchange(r, CALL_REDUCE, n_bytes, &why));
        memcpy(values + at, r->pinned, n_bytes);
    }
out:
    return st == WM_OK ? WM_OK : lose(r, &why, err);
}

/* ---- the rest of comm.h ----------------------------------------------------------------------------------------- */

static bool nccl_has_failed(struct comm *comm, struct wm_error *err)
{
    struct nccl_rank *r = (struct nccl_rank *)comm;

    return recall(r, err) != WM_OK || r->control->ops->failed(r->control, err);
}

/* The thread inside NCCL, if there is one, sees it at its next look and leaves. */
static void nccl_abort(struct comm *comm, const struct wm_error *why)
{
    struct comm *control = ((struct nccl_rank *)comm)->control;

    control->ops->abort(control, why);
}

/* Notes travel with control's signs of life. */
static void nccl_publish(struct comm *comm, const void *note, size_t n_bytes)
{
    struct comm *control = ((struct nccl_rank *)comm)->control;

    control->ops->publish(control, note, n_bytes);
}

static bool nccl_peek(struct comm *comm, int rank, void *note, double *age_seconds)
{
    struct comm *control = ((struct nccl_rank *)comm)->control;

    return control->ops->peek(control, rank, note, age_seconds);
}

/* Everything but control. */
static void nccl_rank_free(struct nccl_rank *r)
{
    double until = file_now_seconds() + DRAIN_SECONDS;
    bool idle = true;

    if (r->stream) {
        (void)cudaSetDevice(r->device);
        while (cudaStreamQuery(r->stream) == cudaErrorNotReady && (idle = file_now_seconds() < until))
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        (void)cudaGetLastError();
    }
    if (idle) { /* otherwise it is left to the end of the process, which must come */
        if (r->done)
            (void)cudaEventDestroy(r->done);
        if (r->stream)
            (void)cudaStreamDestroy(r->stream);
        if (r->staging) /* cudaFree(NULL) makes a context */
            (void)cudaFree(r->staging);
        if (r->pinned)
            (void)cudaFreeHost(r->pinned);
    }
    pthread_mutex_destroy(&r->lock);
    free(r->arrivals);
    free(r);
}

/* Finalizing lets other ranks' kernels end first; a rank that does not get there is not waited for longer than allowed. */
static void nccl_close(struct comm *comm)
{
    struct nccl_rank *r = (struct nccl_rank *)comm;
    struct comm *control = r->control;
    const char *what = "ending";
    struct wm_error *err = NULL;
    enum wm_status st;

    TRY(recall(r, err));
    CUDA(cudaSetDevice(r->device), what);
    NCCL(r->nccl.comm_finalize(r->handle), what);
    TRY(wait_for_nccl(r, what, err));
    (void)r->nccl.comm_destroy(r->handle);
    r->handle = NULL;
out:
    abort_nccl(r);
    nccl_rank_free(r);
    control->ops->close(control);
}

static const struct comm_ops nccl_ops = {
    "nccl",     nccl_barrier, nccl_all_gather, nccl_all_reduce_u64, nccl_has_failed,
    nccl_abort, nccl_publish, nccl_peek,       nccl_close,
};

/* ---- opening ---------------------------------------------------------------------------------------------------- */

/* What every rank tells the others before anybody calls NCCL. All then come to the same verdict from the same table. */
struct introduction {
    int32_t version;
    char host[64];
    char gpu[32]; /* its PCI bus id: with the next field, one physical GPU, wherever it is seen from */
    char machine[MACHINE_ID_BYTES];
    char problem[352]; /* "": ready */
};

static void name_machine(char host[64], char machine[MACHINE_ID_BYTES])
{
    if (gethostname(host, 63) != 0)
        snprintf(host, 64, "unknown");
    host[63] = 0;
    machine_id(machine);
    if (!*machine)
        snprintf(machine, MACHINE_ID_BYTES, "%.39s", host);
}

static enum wm_status prepare(struct nccl_rank *r, struct introduction *me, struct nccl_id *id, struct wm_error *err)
{
    enum wm_status st = WM_OK;

    name_machine(me->host, me->machine);
    TRY(nccl_api_load(&r->nccl, err));
    me->version = r->nccl.version;
    CUDA(cudaSetDevice(r->device), "being chosen for NCCL");
    CUDA(cudaDeviceGetPCIBusId(me->gpu, (int)sizeof me->gpu, r->device), "telling its PCI bus id");
    CUDA(cudaStreamCreateWithFlags(&r->stream, cudaStreamNonBlocking), "making a stream for NCCL");
    CUDA(cudaEventCreateWithFlags(&r->done, cudaEventDisableTiming), "making an event for NCCL");
    CUDA(cudaMalloc((void **)&r->staging, STAGING_BYTES), "allocating memory for NCCL");
    CUDA(cudaHostAlloc((void **)&r->pinned, STAGING_BYTES, cudaHostAllocPortable), "allocating memory for NCCL");
    if (r->base.rank == 0)
        NCCL(r->nccl.get_unique_id(id), "making an id");
out:
    return st;
}

/* The first rank that is not ready, or two that cannot be in one communicator. */
static enum wm_status judge(const struct introduction *all, int size, struct wm_error *err)
{
    char a[24], b[24];

    for (int i = 0; i < size; i++)
        if (all[i].problem[0])
            return error_set(err, WM_NO_DEVICE, "NCCL is not used: rank %d on %.63s: %.351s", i, all[i].host,
                             all[i].problem);
    for (int i = 1; i < size; i++)
        if (all[i].version != all[0].version)
            return error_set(err, WM_NO_DEVICE,
                             "NCCL is not used: rank 0 has version %s and rank %d version %s; install the same",
                             nccl_api_version_text(a, sizeof a, all[0].version), i,
                             nccl_api_version_text(b, sizeof b, all[i].version));
    for (int i = 0; i < size; i++)
        for (int j = i + 1; j < size; j++)
            if (strncmp(all[i].gpu, all[j].gpu, sizeof all[i].gpu) == 0 &&
                strncmp(all[i].machine, all[j].machine, sizeof all[i].machine) == 0)
                return error_set(
                    err, WM_NO_DEVICE,
                    "NCCL is not used: ranks %d and %d share GPU %.31s of %.63s, which it refuses; start one "
                    "rank for each GPU",
                    i, j, all[i].gpu, all[i].host);
    return WM_OK;
}

static enum wm_status connect(struct nccl_rank *r, struct nccl_id id, struct wm_error *err)
{
    struct nccl_config config = NCCL_API_NONBLOCKING;
    const char *what = "connecting the ranks";
    enum wm_status st = WM_OK;

    NCCL(r->nccl.comm_init_rank_config(&r->handle, r->base.size, id, r->base.rank, &config), what);
    TRY(wait_for_nccl(r, what, err));
out:
    return st;
}

/* Says how it went here, hears how it went elsewhere. Only control's own failure makes it fail. */
static enum wm_status tell(struct nccl_rank *r, struct introduction *me, const struct wm_error *how,
                           struct introduction *all, struct wm_error *err)
{
    struct comm *control = r->control;

    snprintf(me->problem, sizeof me->problem, "%.*s", (int)sizeof me->problem - 1,
             how->status == WM_OK ? "" : how->message);
    return control->ops->all_gather(control, me, sizeof *me, all, err);
}

static struct nccl_rank *nccl_rank_new(struct comm *control, int device)
{
    struct nccl_rank *r = calloc(1, sizeof *r);

    if (!r)
        return NULL;
    r->base = *control;
    r->base.ops = &nccl_ops;
    r->control = control;
    r->device = device;
    r->remedy = "";
    pthread_mutex_init(&r->lock, NULL);
    r->arrivals = malloc((size_t)control->size * sizeof *r->arrivals);
    if (r->arrivals)
        return r;
    nccl_rank_free(r);
    return NULL;
}

/* A rank that cannot go on still goes to the next gather, so that nobody waits for it in vain; that fails by itself where
 * control has failed or the user has stopped the run. */
enum wm_status comm_open_nccl(struct comm **comm, struct comm *control, int device, struct wm_error *err)
{
    struct introduction me = {0}, *all = malloc((size_t)control->size * sizeof *all);
    struct nccl_rank *r = nccl_rank_new(control, device);
    struct wm_error how = WM_ERROR_INIT;
    struct nccl_id id = {{0}};
    enum wm_status st;
    bool by_mpi;

    if (!all || !r) {
        st = error_no_memory(&how, "opening NCCL");
        control->ops->abort(control, &how);
        error_set(err, st, "%s", how.message);
        goto out;
    }
    (void)prepare(r, &me, &id, &how);
    TRY(tell(r, &me, &how, all, err));
    TRY(judge(all, control->size, err));
    TRY(mpi_id_share(control, &id, sizeof id, &by_mpi, err));
    (void)connect(r, id, &how);
    TRY(tell(r, &me, &how, all, err));
    TRY(judge(all, control->size, err));
    r->remedy = REMEDY;
    *comm = &r->base;
out:
    free(all);
    if (st != WM_OK && r) {
        abort_nccl(r);
        nccl_rank_free(r);
    }
    return st;
}

const char *comm_describe(const struct comm *comm, char *buffer, size_t size)
{
    char version[32];

    if (comm->ops == &nccl_ops)
        snprintf(buffer, size, "NCCL %s",
                 nccl_api_version_text(version, sizeof version, ((const struct nccl_rank *)comm)->nccl.version));
    else
        snprintf(buffer, size, "%s", comm->ops->name);
    return buffer;
}
