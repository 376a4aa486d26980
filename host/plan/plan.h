/*
 * plan.h: the whole merge, decided before the first tensor byte is read.
 *
 * What lives here: recipe x checkpoints -> jobs (one per output tensor), the complete output layout (every shard's
 * name, header and offsets), the memory plan, and the fingerprint that says whether two plans give the same bytes. A
 * plan is a pure function of the recipe, the headers and the options. What it must not know: threads, progress, or how
 * tiles are computed.
 */
#ifndef WM_PLAN_H
#define WM_PLAN_H

#include "base/arena.h"
#include "base/dtype.h"
#include "base/error.h"
#include "base/hash.h"
#include "checkpoint/checkpoint.h"
#include "methods/method.h"
#include "recipe/recipe.h"
#include "statistics/model_statistics.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PLAN_DATA_ALIGN           4096u       /* the data section of every shard starts on a page */
#define PLAN_DEFAULT_SHARD_BYTES  5000000000u /* mergekit's --out-shard-size default */
#define PLAN_DEFAULT_MEMORY_BYTES ((uint64_t)2 << 30)
#define PLAN_MIN_TILE_BYTES       ((uint64_t)64 << 10)
#define PLAN_MAX_TILE_BYTES       ((uint64_t)64 << 20)
#define PLAN_MAX_STATISTICS_JOBS  3u                  /* tensors whose statistics state may exist at once */
#define PLAN_DEFAULT_TILE_BYTES   ((uint64_t)1 << 20) /* a processor's caches hold a tile of every input */
#define PLAN_DEVICE_TILE_BYTES    ((uint64_t)8 << 20) /* ... and a GPU is kept busy by it (plan_enlarge_tiles) */

/* What a fingerprint is made of, with a hash each: they decide nothing, and tell people which of them differs. */
enum plan_trait { PLAN_VERSION, PLAN_CONFIG, PLAN_INPUTS, PLAN_OPTIONS, PLAN_N_TRAITS };

enum plan_action {
    PLAN_MERGE, /* run the method */
    PLAN_COPY   /* the bytes of source 0; every other source must hold the same bytes (integers, packed types), unless
                   there is only one source */
};

/* One input of a job: the first n_elems elements of a tensor (fewer than it has when vocabularies differ). */
struct plan_source {
    int model; /* index into plan.models */
    const struct ckpt_tensor *tensor;
};

struct plan_job {
    const char *name;
    enum plan_action action;
    enum wm_dtype dtype; /* of the output */
    int n_dims;
    const uint64_t *shape;
    uint64_t n_elems, n_bytes;
    int shard;
    uint64_t begin;              /* absolute offset in the shard's file */
    struct plan_source *sources; /* in the order of the operation's inputs (a special base first) */
    int n_sources;
    bool has_base;        /* source 0 is a special base */
    bool plain;           /* PLAN_MERGE of one source that is taken over as it is (its type may still change) */
    double depth;         /* gradient position t */
    const double *params; /* resolved global values, by method->params index  */
    const double (*model_params)[METHOD_MAX_PARAMS]; /* [n_sources - has_base]                           */
    const char *note; /* why this tensor is handled specially ("copied from m: base lacks it"), or NULL  */
};

struct plan_shard {
    const char *name;   /* "model-00001-of-00003.safetensors" */
    uint64_t n_bytes;   /* of the file, header included       */
    const void *header; /* length prefix + JSON + padding      */
    size_t n_header_bytes;
    size_t first_job, n_jobs;
};

/* Who gets how much of the budget (bytes). The engine takes exactly this. */
struct plan_memory {
    uint64_t budget;       /* what the user allowed for the process                        */
    uint64_t reserve;      /* code, stacks, library, allocator                             */
    uint64_t tables;       /* headers, plan, journal                                       */
    uint64_t scratch;      /* compute threads' scratch                                     */
    uint64_t statistics;   /* statistics state of the jobs in flight                       */
    uint64_t input_slots;  /* the ring: n_slots x slot_bytes                               */
    uint64_t output_slots; /* n_out_slots x out_slot_bytes                                 */
    uint64_t total;
    uint64_t tile_elems; /* elements of a tile: a multiple of TILE_CHUNK_ELEMS           */
    uint64_t slot_bytes; /* one tile of one input, O_DIRECT slack included               */
    uint64_t n_slots;
    uint64_t out_slot_bytes;
    uint64_t n_out_slots;
    int n_compute, n_readers, n_writers; /* threads */
};

/* The same for each GPU, as far as it is known before a run. */
struct plan_device_memory {
    uint64_t budget;         /* 0: no GPU takes part, or nothing is known of it         */
    uint64_t tiles;          /* inputs and outputs on their way                         */
    uint64_t resident;       /* tensors that stay while they are looked at several times */
    uint64_t side;           /* results of passes, coefficients, groups of small tensors */
    uint64_t tile_elems;     /* 0: too little for the smallest tile; the CPU does the work */
    uint64_t n_stay_slots;   /* tiles of inputs that `resident` holds ...               */
    uint64_t stay_min_elems; /* ... of tensors of at least so many elements             */
    int n_on_their_way;      /* tiles that all GPUs of the process work on at once ...  */
    uint64_t host_bytes;     /* ... and what they need of the host's memory beside tiles */
};

struct plan {
    struct arena arena;
    const struct recipe *recipe; /* borrowed */
    struct ckpt **models;        /* [n_models]: recipe->models in order, then the base if it is not listed; entries that
                                    name the same checkpoint share one pointer */
    int n_models;
    int base;  /* index into models, or -1 */
    int donor; /* whose config, tokenizer and side files the output gets: the base, else the first model */

    struct plan_job *jobs; /* in file order: shard, then offset */
    size_t n_jobs;
    struct plan_shard *shards;
    int n_shards;

    uint64_t bytes_in, bytes_out, n_params; /* tensor bytes read once, written; elements written */
    uint64_t bytes_to_read;       /* with the survey, and extra passes of tensors that do not fit the budget */
    int n_survey_passes;          /* over all tensors before the merge (ties with trim: global); 0: no survey */
    uint64_t survey_bytes;        /* read in them together */
    uint64_t survey_counts_bytes; /* of memory */
    const struct model_thresholds *thresholds; /* what the survey found, once the engine knows it; NULL before */
    uint64_t seed;
    enum wm_dtype config_dtype; /* for config.json: of the largest part of the output */
    int64_t vocab_size;         /* new vocab_size for config.json, or -1: unchanged */
    int tie_word_embeddings;    /* 0 or 1: set it in config.json; -1: unchanged */
    struct plan_memory memory;
    struct plan_device_memory device; /* whoever knows devices fills it in: plan_use_device */
    struct hash128 fingerprint;
    uint64_t traits[PLAN_N_TRAITS];
};

/* Opens nothing: the checkpoints are given, in the order of plan.models (ownership stays with the caller). Every
 * problem of every tensor is reported through `problems` (also when the result is a failure). WM_BAD_CONFIG,
 * WM_BAD_DATA, WM_TEMPORARY. */
enum wm_status plan_new(struct plan **plan, const struct recipe *recipe, struct ckpt *const *models, int n_models,
                        const struct wm_options *options, struct problems *problems, struct wm_error *err);
void plan_free(struct plan *plan);

/* The operation of a PLAN_MERGE job. Deterministic; cheap. With model_statistics it is complete once plan->thresholds is
 * there. */
enum wm_status plan_job_op(const struct plan *plan, const struct plan_job *job, struct merge_op *op,
                           struct wm_error *err);
/* Does a job go over its inputs before the element-wise pass? *op: its operation. */
bool plan_job_has_statistics(const struct plan *plan, const struct plan_job *job, struct merge_op *op);
/* Is a job that does not stay in the ring worth a guess (DESIGN section 3)? Where all sources have 16 bits, deltas are small
 * multiples of an ulp and one value holds much of a tensor; elsewhere nearly every tile would be computed twice. What stays
 * in the ring gains nothing that shows (2026-11-22: 2.54 s with, 2.58 s without, medians of 6, 1.1 B shape on 2 cores). */
bool plan_job_speculates(const struct plan *plan, const struct plan_job *job, const struct merge_op *op);
/* The plan's memory if tiles had so many elements (a multiple of TILE_CHUNK_ELEMS): the same budget
 * and threads. WM_USAGE if the budget does not hold it. */
enum wm_status plan_memory_with_tiles(const struct plan *plan, uint64_t tile_elems, struct plan_memory *memory,
                                      struct wm_error *err);
/* Tiles of up to so many bytes of the widest input, as far as the budget leaves a ring of them; else the plan stays as it is.
 * For devices, where every tile costs launches and copies of its own: a tile of 1 MiB occupies a GPU of 132 multiprocessors
 * for less time than starting it takes. */
void plan_enlarge_tiles(struct plan *plan, uint64_t tile_bytes);
/* With GPUs that have so much memory: what stays there needs no ring of its own, and is read once. The tiles stay as they are.
 * A ring that is page-locked costs time before the first tile is read. May be called again, with others. */
void plan_use_device(struct plan *plan, const struct plan_device_memory *device);
uint64_t plan_source_bytes(const struct plan_job *job, int source); /* that the job reads of one source */
/* Which checkpoint the recipe's model i is, in messages: the reference text. */
const char *plan_model_name(const struct plan *plan, int model);

#endif
