/*
 * backend_cuda.h: one NVIDIA GPU, among the files that drive it.
 *
 * What lives here: the state of the thread that drives a GPU, of a tensor and of a tile on its way, and what backend_cuda.c
 * (opening, thread, tensors), backend_cuda_tiles.c, backend_cuda_select.c, backend_cuda_check.c, backend_cuda_model.c and
 * backend_cuda_groups.c take from each other. What it must not know: jobs, files, how kernels work.
 */
#ifndef WM_ENGINE_BACKEND_CUDA_H
#define WM_ENGINE_BACKEND_CUDA_H

#include "engine/backend.h"
#include "methods/device.h"
#include "methods/device_check.h"

#define CUDA_DEPTH     6 /* tiles on their way: one uploading, one computing, one downloading, and as many waiting */
#define CUDA_GROUPS    3 /* groups of small tensors among them: the same, each with memory of its own on the host */
#define CUDA_MAX_SPARE 4
#define CUDA_NO_SLOT   UINT32_MAX
/* Below this a launch and two copies cost more than the CPU's work (PCIe latency about 10 us each way). */
#define CUDA_MIN_ELEMS 65536u
/* Of cuda_thread's `check`, at least: the largest output of a group's member. */
#define CUDA_CHECK_BYTES ((size_t)BACKEND_GROUP_MEMBER_ELEMS * 8) /* of the widest type */

struct cuda_memory {
    void *at;
    uint64_t n_bytes;
};

struct cuda_block; /* inputs of one drawn block, of backend_cuda_check.c */

struct cuda_tensor {
    bool resident, on_device;   /* has slots of its own; worth the device at all   */
    uint32_t *slots;            /* [n_tiles][n_inputs], resident only              */
    unsigned char *uploaded;    /* [n_tiles][n_inputs]                             */
    unsigned char *stays;       /* [n_tiles] nobody need upload it again ...       */
    struct cuda_block **blocks; /* [n_tiles] ... or has what is checked of it      */
    size_t first_tile, n_tiles;
    int n_inputs;
    struct cuda_memory results; /* of the current pass, on the device              */
    uint64_t n_result_bytes;
    enum stat_pass results_of;         /* STAT_READY: none                                */
    size_t n_launched;                 /* tiles of the current pass                       */
    bool selects;                      /* the current pass ends with a search ...         */
    struct device_select select;       /* ... whose results lie so                        */
    struct cuda_memory vector_weights; /* the device's copy of op->vector_weights         */
    struct device_sample sample;       /* of its blocks, for the CPU to compute again     */
};

struct cuda_slot {                    /* one tile on its way */
    uint32_t inputs[TILE_MAX_INPUTS]; /* borrowed device slots, or CUDA_NO_SLOT                */
    unsigned char *out;
    struct device_report *report, *host_report;
    cudaEvent_t uploaded, computed, done;
    const void **table; /* a search after this tile: addresses of the tensor's tiles, ... */
    void *choices;      /* ... and what it found; both page-locked                        */
    bool selected;
    uint64_t age; /* when it was taken */
    bool busy;
};

/* A pipeline's input and output slots. */
#define CUDA_RINGS 2

struct cuda_backend {
    struct backend backend;
    struct backend_cuda_options options;
    char name[128];
    void *allocated[CUDA_RINGS]; /* of the ring's memory what the driver has allocated (backend_cuda_ring.c) */
    bool dead;                   /* lost with its context: what was allocated there is gone already */
    struct cuda_thread *idle;    /* the driving thread's state while nobody drives                   */
};

struct cuda_group;

/* Where a pass over the whole model is counted, from its first tile on this thread to its end. */
enum cuda_counting { CUDA_NOT_COUNTING, CUDA_COUNTING, CUDA_NO_ROOM_TO_COUNT };

/* Everything of the driving thread. */
struct cuda_thread {
    cudaStream_t upload, compute, download;
    cudaStream_t select, home; /* searches; results of a pass that has ended: neither waits for other tensors' tiles */
    unsigned char *select_memory;
    struct cuda_slot slots[CUDA_DEPTH];
    unsigned char *memory, *out_memory;
    uint64_t slot_bytes, out_slot_bytes;
    uint32_t *free_slots, n_slots, n_free;
    struct device_report *reports, *host_reports;
    struct cuda_memory
        spare[CUDA_MAX_SPARE]; /* of finished tensors, to be used again: cudaFree would wait for the whole device */
    uint64_t submitted;
    struct cpu_scratch *scratch;
    unsigned char *check;            /* one block's or one group member's output, done again on the CPU; or counts */
    uint64_t side_bytes;             /* of the device's memory, that are kept free for everything but tiles ... */
    uint64_t side_used;              /* ... and how many are taken, spare ones included */
    uint64_t n_kept_bytes;           /* of the host's memory, in blocks of tensors that stay ... */
    uint64_t most_kept_bytes;        /* ... and how many there may be */
    enum cuda_counting counting;     /* of backend_cuda_model.c */
    struct cuda_memory model_counts; /* ... on the device: all that this thread has counted in the pass */
    /* Of backend_cuda_groups.c; NULL until so many are on their way at once. */
    struct cuda_group *groups[CUDA_GROUPS];
};

static inline void *backend_cuda_slot_at(const struct cuda_thread *t, uint32_t slot)
{
    return t->memory + (uint64_t)slot * t->slot_bytes;
}

/* Marks the backend as lost, with the reason. */
enum wm_status backend_cuda_lose(struct backend *b, cudaError_t code, const char *what, struct wm_error *err);

/* Of backend_ops: page-locked memory that every GPU of the process reaches; NULL where it is refused. */
void *backend_cuda_alloc(struct backend *b, size_t n_bytes);
void backend_cuda_free(struct backend *b, void *memory, size_t n_bytes);

/* Needs b, st, err and a label out. */
#define CUDA(call, what)                                                                                               \
    do {                                                                                                               \
        cudaError_t code_ = (call);                                                                                    \
        if (code_ != cudaSuccess) {                                                                                    \
            st = backend_cuda_lose(b, code_, what, err);                                                               \
            goto out;                                                                                                  \
        }                                                                                                              \
    } while (0)

/* Device memory for results. memory->at is NULL without an error when there is no room: the CPU then does that part. */
enum wm_status backend_cuda_take(struct backend *b, struct cuda_thread *t, uint64_t n_bytes, struct cuda_memory *memory,
                                 struct wm_error *err);
void backend_cuda_give(struct cuda_thread *t, struct cuda_memory *memory);

/* A tile's number among the tensor's. */
static inline size_t backend_cuda_tile_of(const struct cuda_tensor *x, const struct merge_tile *tile)
{
    return tile->index - x->first_tile;
}
/* Room for n slots: tiles that are computed already, oldest first, give their inputs' slots back before they are
 * awaited. */
enum wm_status backend_cuda_make_room(struct backend *b, struct cuda_thread *t, uint64_t n, struct wm_error *err);
/* A tile that stays, with its inputs on the host again: *tile points into *memory, which is the caller's to free. */
enum wm_status backend_cuda_bring_home(struct backend *b, struct cuda_thread *t, const struct cuda_tensor *x,
                                       const struct backend_task *task, struct merge_tile *tile, void **memory,
                                       struct wm_error *err);

/* Of backend_cuda_check.c: the sample that the CPU computes again. A difference is WM_VERIFY_FAILED. After a tile of the
 * element-wise pass, after one of a statistics pass, at such a pass's end, and after a member of a group. */
enum wm_status backend_cuda_check_merged(struct backend *b, struct cuda_thread *t, const struct cuda_tensor *x,
                                         const struct backend_task *task, struct wm_error *err);
enum wm_status backend_cuda_check_counted(struct backend *b, struct cuda_thread *t, const struct cuda_tensor *x,
                                          const struct backend_task *task, struct wm_error *err);
/* Copies what of the tile is drawn before it leaves the host. False: no memory for it, so that the tile must come again. */
bool backend_cuda_check_keep(struct cuda_thread *t, struct cuda_tensor *x, const struct merge_tile *tile);
void backend_cuda_check_forget(struct cuda_thread *t, struct cuda_tensor *x); /* t is NULL: it is gone */
enum wm_status backend_cuda_check_pass(struct backend *b, const struct cuda_tensor *x,
                                       const struct statistics *statistics, const void *results, struct wm_error *err);
enum wm_status backend_cuda_check_member(struct backend *b, struct cuda_thread *t, const struct backend_member *member,
                                         struct wm_error *err);

/* Takes a slot for the task and uploads its tile, no part of which stays on the device. `device` becomes the tile with the
 * addresses there; what comes next on the compute stream finds it. */
enum wm_status backend_cuda_stream_in(struct backend *b, struct cuda_thread *t, struct backend_task *task,
                                      struct merge_tile *device, struct wm_error *err);
/* A task with model_statistics. */
enum wm_status backend_cuda_submit_model(struct backend *b, struct cuda_thread *t, struct backend_task *task,
                                         struct wm_error *err);
/* What searches on the device need for good. */
enum wm_status backend_cuda_select_open(struct backend *b, struct cuda_thread *t, struct wm_error *err);
/* As a pass begins: will it end with a search? Bytes of its results, or 0. */
uint64_t backend_cuda_select_plan(struct cuda_tensor *x, const struct backend_task *task);
/* After the launch of the pass's last tile, which is this one: the tile is done when the search is. */
enum wm_status backend_cuda_select(struct backend *b, struct cuda_thread *t, struct cuda_tensor *x,
                                   struct cuda_slot *slot, const struct backend_task *task, struct wm_error *err);

/* Device memory that groups have had and none has now is given back. */
void backend_cuda_shrink_groups(struct cuda_thread *t);
/* At the thread's end, whatever is on its way. */
void backend_cuda_free_groups(struct backend *b, struct cuda_thread *t);

/* Of backend_ops. */
enum wm_status backend_cuda_submit(struct backend *b, void *thread, struct backend_task *task, struct wm_error *err);
enum wm_status backend_cuda_await(struct backend *b, void *thread, struct backend_task *task, struct wm_error *err);
enum wm_status backend_cuda_finish_pass(struct backend *b, void *thread, void *tensor, struct merge_op *op,
                                        struct statistics *statistics, enum stat_pass *next, struct wm_error *err);
enum wm_status backend_cuda_collect_model(struct backend *b, void *thread, struct model_statistics *model_statistics,
                                          struct wm_error *err);
enum wm_status backend_cuda_submit_group(struct backend *b, void *thread, struct backend_group *group,
                                         struct wm_error *err);
enum wm_status backend_cuda_await_group(struct backend *b, void *thread, struct backend_group *group, bool *is_done,
                                        struct wm_error *err);

#endif
