/*
 * checkpoint_shapes.h: what synthetic checkpoints look like: named model shapes, their tensors, their config files.
 *
 * What lives here: the architectures that make_checkpoint can imitate, down to tensor names, and the JSON files beside
 * the weights that let transformers load the result. What it must not know: values, files, threads.
 */
#ifndef WM_BENCH_CHECKPOINT_SHAPES_H
#define WM_BENCH_CHECKPOINT_SHAPES_H

#include "base/arena.h"
#include "base/error.h"
#include "base/text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum shape_arch { SHAPE_LLAMA, SHAPE_QWEN2, SHAPE_MIXTRAL, SHAPE_QWEN3_MOE, SHAPE_BERT, SHAPE_MANY, SHAPE_N_ARCHS };

struct shape {
    const char *name; /* of the preset */
    enum shape_arch arch;
    uint64_t hidden, layers, intermediate, heads, kv_heads, head_dim, vocab;
    uint64_t experts, experts_per_token; /* 0: dense; with experts `intermediate` is the size of one expert */
    uint64_t positions;
    double rope_theta, norm_eps;
    bool tied;           /* no lm_head: it is the embedding */
    enum wm_dtype dtype; /* default element type */
    uint64_t n_many;     /* SHAPE_MANY: number of tensors of 16 x 16 */
};

struct shape_tensor {
    const char *name;
    enum wm_dtype dtype;
    int n_dims;
    const uint64_t *shape;
    uint64_t n_elems, n_bytes;
    double mean;     /* of the weights: 1 for norms, else 0 */
    int shard;       /* filled by the layout */
    uint64_t begin;  /* absolute offset in its shard, filled by the layout */
    int source_file; /* fine-tunes of an existing checkpoint: where the base's bytes are */
    uint64_t source_begin;
};

struct shape_tensors {
    struct shape_tensor *items;
    size_t n_items, capacity;
};

/* NULL when there is no preset of that name. shape_preset_at lists them all; NULL at the end. */
const struct shape *shape_preset(const char *name);
const struct shape *shape_preset_at(size_t index);
/* "llama", "qwen2", ...; SHAPE_N_ARCHS when unknown. */
enum shape_arch shape_arch_find(const char *name);
const char *shape_arch_name(enum shape_arch arch);

/* WM_USAGE when the numbers do not make a model (heads that do not divide the width, zero sizes). */
enum wm_status shape_check(const struct shape *shape, struct wm_error *err);
/* Every tensor of the model, in natural name order of the layers. WM_TEMPORARY, WM_USAGE (sizes overflow). */
enum wm_status shape_list_tensors(const struct shape *shape, struct arena *arena, struct shape_tensors *tensors,
                                  struct wm_error *err);

/* The text files of a model directory. */
void shape_config_json(const struct shape *shape, struct text *json);
void shape_generation_json(const struct shape *shape, struct text *json);
void shape_tokenizer_json(const struct shape *shape, struct text *json);
void shape_tokenizer_config_json(const struct shape *shape, struct text *json);

#endif
