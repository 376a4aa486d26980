/*
 * backend.h: who executes a tile.
 *
 * What lives here: the table of functions between the pipeline and a device. The CPU fills it; a GPU overrides what it
 * has kernels for and leaves the rest to the CPU's functions, so a missing kernel is slow, never wrong. Work is started
 * and awaited separately: the CPU does everything in `submit`, a GPU enqueues there and several tiles are on their way
 * at once. What it must not know: files, jobs, plans.
 */
#ifndef WM_ENGINE_BACKEND_H
#define WM_ENGINE_BACKEND_H

#include "base/error.h"
#include "methods/tile.h"
#include "statistics/model_statistics.h"

#include <stdbool.h>
#include <stddef.h>

#define BACKEND_MAX_DEPTH 16

struct backend {
    const struct backend_ops *ops;
    int depth; /* tiles and groups that one thread may have submitted and not yet awaited, at most BACKEND_MAX_DEPTH. With
                  more than one there is one thread, and a pass sees a tensor's tiles in the order in which they are
                  submitted */
    int group_depth;      /* groups among them, at most */
    size_t group_members; /* small tensors that submit_group wants at once, at most BACKEND_GROUP_MEMBERS */
    /* Tensors that are seen more than once stay in a device's memory: of so many tiles of inputs, and of at least so many
     * elements each. 0: there is no such memory. Free ones: at the moment, for its own thread. */
    uint64_t stay_slots, stay_slots_free, stay_min_elems;
    bool lost;         /* the device failed for good (seen by its thread or by alloc); nothing computed on it counts */
    char message[512]; /* ... and how: a sentence without its end */
    /* Set by its own thread as well: bytes of tiles and groups copied to and from the device, and blocks of
     * TILE_CHUNK_ELEMS, one for each pass, that the CPU has computed as well. */
    uint64_t n_bytes, n_checked;
};

/* One tile's turn: a statistics pass (statistics given and not ready), the element-wise pass, or in STAT_KTH_GUESS both
 * (tile.out is given). The tile's host memory belongs to the task until it was awaited. Inputs of a tile that stays may be
 * NULL in later tasks. */
struct backend_task {
    const struct merge_op *op;
    struct statistics *statistics; /* NULL: none */
    /* Not NULL: the tile is counted for its current pass, and there are no statistics, tensor and report. */
    struct model_statistics *model_statistics;
    void *tensor; /* from tensor_new */
    struct merge_tile tile;
    struct merge_report report; /* filled by `await` when there was an element-wise pass */
    bool stays;                 /* ... as is this: the tile's inputs are on the device until tensor_free */
    void *slot;                 /* the backend's, between submit and await      */
};

/* What a backend may want to know of a tensor before its first tile. */
struct backend_tensor_info {
    size_t n_tiles;
    int n_inputs;
    uint64_t n_elems, tile_elems;
    bool has_statistics; /* its tiles are seen more than once */
    size_t first_tile;   /* number of the first one: 0, but for a tensor that is split over ranks */
    uint64_t key;        /* the tensor's own number, well mixed */
};

/* A small tensor as a whole: one tile, number 0, inputs and output in host memory. */
struct backend_member {
    struct merge_op *op;
    struct merge_tile tile;
    struct merge_report report; /* filled */
    uint64_t key;               /* as in backend_tensor_info */
};

#define BACKEND_GROUP_MEMBERS      256
#define BACKEND_GROUP_MEMBER_ELEMS 65536

/* Small tensors that are computed at one go, so that none of them costs a hand-over or a launch of its own. They have the
 * same number of inputs; types and operations may differ. All of this stays where it is between submit_group and the end. */
struct backend_group {
    struct backend_member *members;
    size_t n_members; /* at most BACKEND_GROUP_MEMBERS, each of at most BACKEND_GROUP_MEMBER_ELEMS elements */
    int n_inputs;
    const void *inputs[TILE_MAX_INPUTS]; /* the members' inputs of that number lie in here, at any address */
    size_t n_input_bytes[TILE_MAX_INPUTS];
    void *out; /* and their outputs, one after the other, in here */
    size_t n_out_bytes;
    void *slot; /* the backend's, until the group was awaited to its end */
};

struct backend_ops {
    const char *(*describe)(const struct backend *backend); /* "cpu avx512"; static or the backend's storage */
    /* Memory for tiles, aligned to SOURCE_ALIGN; NULL when there is none. */
    void *(*alloc)(struct backend *backend, size_t n_bytes);
    void (*free)(struct backend *backend, void *memory, size_t n_bytes);
    /* What one compute thread needs; called on that thread. NULL on failure, with err filled. */
    void *(*thread_new)(struct backend *backend, struct wm_error *err);
    void (*thread_free)(struct backend *backend, void *thread);
    /* What is kept for one tensor, on the thread that works on it. *tensor is NULL before and may stay so. */
    enum wm_status (*tensor_new)(struct backend *backend, void *thread, const struct backend_tensor_info *info,
                                 void **tensor, struct wm_error *err);
    void (*tensor_free)(struct backend *backend, void *thread, void *tensor);
    enum wm_status (*submit)(struct backend *backend, void *thread, struct backend_task *task, struct wm_error *err);
    enum wm_status (*await)(struct backend *backend, void *thread, struct backend_task *task, struct wm_error *err);
    /* After every tile of a pass was awaited: *next is the pass after it. */
    enum wm_status (*finish_pass)(struct backend *backend, void *thread, void *tensor, struct merge_op *op,
                                  struct statistics *statistics, enum stat_pass *next, struct wm_error *err);
    /* After every tile of a pass over the whole model was awaited: what this thread has counted in it is in the counts of
     * `model_statistics`, or forgotten (NULL). */
    enum wm_status (*collect_model)(struct backend *backend, void *thread, struct model_statistics *model_statistics,
                                    struct wm_error *err);
    /* All passes of all members. await_group waits for as much as is on its way and, where that was not the end, sets more
     * on its way: *is_done is false then, and it is called again, after others were awaited. A failure is an end. */
    enum wm_status (*submit_group)(struct backend *backend, void *thread, struct backend_group *group,
                                   struct wm_error *err);
    enum wm_status (*await_group)(struct backend *backend, void *thread, struct backend_group *group, bool *is_done,
                                  struct wm_error *err);
    /* After the device was lost: returns when nothing started on it can touch host memory any more. NULL: cannot happen. */
    void (*abandon)(struct backend *backend, void *thread);
    void (*close)(struct backend *backend);
};

enum wm_status backend_open_cpu(struct backend **backend, struct wm_error *err);
/* What the CPU's submit_group does, for backends that have none of their own. */
enum wm_status backend_cpu_run_group(struct backend_group *group, struct cpu_scratch *scratch, struct wm_error *err);

#ifdef WM_HAVE_CUDA
/* Number of usable CUDA devices; 0 also where there is no driver. */
int backend_cuda_count(void);
/* When there is none: what the driver says of it; NULL where there is just no driver or no device. */
const char *backend_cuda_trouble(void);
struct backend_cuda_options {
    int device;
    int n_sharing;            /* processes that drive the device at once; 0 is 1         */
    uint64_t memory_bytes;    /* budget on the device; 0: nine tenths of what is free, shared fairly */
    uint64_t tile_in_bytes;   /* of one tile of one input, at most                     */
    uint64_t tile_out_bytes;  /* of one tile of the output, at most                    */
    int max_inputs;           /* of any tensor                                         */
    unsigned verify_per_1000; /* blocks recomputed on the CPU and compared, per thousand */
    uint64_t kept_bytes; /* of the host's memory, at most, for what is compared of tensors that stay on the device */
};
/* What a device's memory is for. */
struct backend_cuda_memory {
    uint64_t budget;                    /* of all of it together                                     */
    uint64_t slot_bytes, n_slots;       /* tiles of inputs: those on their way, and tensors that stay */
    uint64_t n_fewest;                  /* slots that are kept for tiles on their way                */
    uint64_t stay_min_elems;            /* of a tensor that stays                                    */
    int n_on_their_way;                 /* tiles at once                                             */
    uint64_t out_slot_bytes, out_bytes; /* tiles of outputs                                          */
    uint64_t side_bytes;                /* results of passes, coefficients, groups                   */
};
/* False: not even two tiles of every input find room. */
bool backend_cuda_divide(const struct backend_cuda_options *options, uint64_t free_bytes,
                         struct backend_cuda_memory *memory);
uint64_t backend_cuda_free_bytes(int device);               /* 0: it does not say */
bool backend_cuda_bus(int device, char *text, size_t size); /* where it is in this machine */
/* Takes all memory that it will use. WM_NO_DEVICE, or WM_TEMPORARY when two tiles of every input do not fit: smaller ones
 * may. */
enum wm_status backend_open_cuda(struct backend **backend, const struct backend_cuda_options *options,
                                 struct wm_error *err);
#endif

#endif
