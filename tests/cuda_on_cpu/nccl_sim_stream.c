/*
 * nccl_sim_stream.c: collectives of the pretended NCCL on the machine's streams; see nccl_sim.c.
 *
 * What lives here: a rank's part of a collective from its place on a stream to its end. What it must not know: NCCL's
 * calls, and the code under test.
 */
#include "nccl_sim_state.h"

#include <stdlib.h>
#include <string.h>

/* Only under ThreadSanitizer. */
__attribute__((weak)) void __tsan_acquire(void *address);
__attribute__((weak)) void __tsan_release(void *address);
__attribute__((weak)) void AnnotateIgnoreWritesBegin(const char *file, int line);
__attribute__((weak)) void AnnotateIgnoreWritesEnd(const char *file, int line);

void nccl_sim_disown(struct group *g)
{
    struct group **at = &nccl_sim.groups;

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

void nccl_sim_everywhere(struct group *g, ncclResult_t error)
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

    nccl_sim_lock();
    ready = comm->aborted; /* the kernel is told to leave */
    if (!ready && !comm->error) {
        bool late = comm->n_collectives >= nccl_sim.config.at;
        if (late && nccl_sim_planted(NCCL_SIM_ASYNC_ERROR, comm->rank))
            comm->error = (ncclResult_t)nccl_sim.config.code;
        else if (!p->begun && !(late && nccl_sim_planted(NCCL_SIM_NEVER_ARRIVES, comm->rank))) {
            p->begun = true;
            memcpy(c->sent[comm->rank], p->from, n_bytes_of(c));
            c->n_begun++;
            if (__tsan_release)
                __tsan_release(c);
        }
        ready = c->n_begun == comm->group->n_ranks;
    }
    nccl_sim_unlock();
    return ready;
}

static void part_run(void *data)
{
    struct part *p = data;
    struct collective *c = p->collective;
    size_t n_bytes = n_bytes_of(c);

    nccl_sim_lock();
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
    nccl_sim_unlock();
}

static void part_drop(void *data)
{
    struct part *p = data;
    struct group *g = p->comm->group;
    struct collective *c = p->collective, **at = &g->collectives;

    nccl_sim_lock();
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
    nccl_sim_disown(g);
    nccl_sim_unlock();
    free(p);
}

struct collective *nccl_sim_find_collective(struct ncclComm *comm, enum kind kind, size_t count)
{
    struct collective *c = comm->group->collectives;

    while (c && c->number != comm->n_collectives)
        c = c->next;
    if (c && (c->kind != kind || c->count != count)) {
        nccl_sim_everywhere(comm->group, ncclInvalidUsage);
        nccl_sim_misuse("ranks made different calls");
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

void nccl_sim_submit(struct ncclComm *comm)
{
    struct part *p = comm->submitted;
    struct cuda_on_cpu_work work = {part_ready, part_run, part_drop, p};

    comm->submitted = NULL;
    comm->n_on_stream++;
    comm->group->n_owners++;
    nccl_sim_unlock();
    if (cuda_on_cpu_submit(p->stream, comm->device, &work) != cudaSuccess) {
        nccl_sim_lock();
        comm->error = ncclUnhandledCudaError;
        nccl_sim_unlock();
        part_drop(p);
    }
    nccl_sim_lock();
}
