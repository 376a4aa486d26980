/*
 * nccl_api.h: the part of NCCL that we call, in declarations of our own.
 *
 * What lives here: what is needed of nccl.h, so that building needs no NCCL, and loading the library at run time. A test
 * compares every number and size with nccl.h where there is one. What it must not know: ranks, comm.h.
 */
#ifndef WM_CLUSTER_NCCL_API_H
#define WM_CLUSTER_NCCL_API_H

#include "base/error.h"

#include <cuda_runtime_api.h>
#include <limits.h>

#define NCCL_API_LIBRARY     "libnccl.so.2"
#define NCCL_API_VARIABLE    "WM_NCCL_LIBRARY" /* names another file, or is "none" */
#define NCCL_API_MIN_VERSION 21400 /* 2.14.0: the first with non-blocking communicators and ncclCommFinalize */
#define NCCL_API_ID_BYTES    128

enum nccl_result { NCCL_API_SUCCESS = 0, NCCL_API_IN_PROGRESS = 7 }; /* the others come as text */
enum nccl_type { NCCL_API_UINT8 = 1, NCCL_API_UINT64 = 5 };
enum nccl_op { NCCL_API_SUM = 0 };

struct nccl_id {
    char bytes[NCCL_API_ID_BYTES];
};

/* ncclConfig_t as version 2.14.0 had it. Libraries up to now take fields from a configuration only up to its own size, and
 * of those only what its version knew (NVIDIA/nccl src/init.cc, parseCommConfig): this one is right for all of them. */
struct nccl_config {
    size_t size;
    unsigned magic, version;
    int blocking;
    int undefined; /* padding in 2.14, cgaClusterSize since 2.17 */
};
#define NCCL_API_NONBLOCKING                                                                                           \
    {                                                                                                                  \
        sizeof(struct nccl_config), 0xcafebeef, NCCL_API_MIN_VERSION, 0, INT_MIN                                       \
    }

struct ncclComm; /* NCCL's own */

struct nccl_api {
    int version; /* 22809: 2.28.9 */
    enum nccl_result (*get_version)(int *version);
    enum nccl_result (*get_unique_id)(struct nccl_id *id);
    enum nccl_result (*comm_init_rank_config)(struct ncclComm **comm, int n_ranks, struct nccl_id id, int rank,
                                              struct nccl_config *config);
    enum nccl_result (*comm_get_async_error)(struct ncclComm *comm, enum nccl_result *error);
    enum nccl_result (*comm_finalize)(struct ncclComm *comm);
    enum nccl_result (*comm_destroy)(struct ncclComm *comm);
    enum nccl_result (*comm_abort)(struct ncclComm *comm);
    enum nccl_result (*all_reduce)(const void *from, void *to, size_t count, enum nccl_type type, enum nccl_op op,
                                   struct ncclComm *comm, cudaStream_t stream);
    enum nccl_result (*all_gather)(const void *from, void *to, size_t count, enum nccl_type type, struct ncclComm *comm,
                                   cudaStream_t stream);
    const char *(*get_error_string)(enum nccl_result result);
    const char *(*get_last_error)(struct ncclComm *comm);
};

/* WM_NO_DEVICE with the reason when there is no NCCL, or one that is too old. What was loaded stays loaded: NCCL keeps
 * threads of its own. */
enum wm_status nccl_api_load(struct nccl_api *api, struct wm_error *err);
/* "2.28.9"; buffer of at least 24 bytes, returned. */
const char *nccl_api_version_text(char *buffer, size_t size, int version);

#endif
