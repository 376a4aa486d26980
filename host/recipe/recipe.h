/*
 * recipe.h: a mergekit config as typed data.
 *
 * What lives here: everything a YAML config can say, checked as far as the text alone allows, and the look-up of a
 * parameter for a tensor with mergekit's precedence. What it must not know: checkpoints, shapes, plans.
 */
#ifndef WM_RECIPE_H
#define WM_RECIPE_H

#include "base/arena.h"
#include "base/error.h"
#include "methods/method.h"

#include <stdbool.h>
#include <stddef.h>

struct recipe_mark {
    int line, column; /* 1-based; 0: nowhere */
};

/* path[@revision][+lora[@revision]], or the mapping form. Absent parts are NULL. */
struct recipe_ref {
    const char *text; /* canonical string form, for messages and cards */
    const char *path, *revision, *lora_path, *lora_revision, *override_architecture;
    struct recipe_mark at;
};

/* One alternative of a setting: for tensors whose name contains `filter` (NULL: all). */
struct recipe_condition {
    const char *filter;
    const char *word; /* the one value of a CHOICE; else NULL */
    double *points;   /* 1 value, or a gradient over the layers. FLAG: 0 or 1. CHOICE: index into the choices */
    size_t n_points;
    struct recipe_mark at;
};

struct recipe_param {
    const char *name;
    struct recipe_condition *conditions; /* first match wins */
    size_t n_conditions;
    struct recipe_mark at;
};

struct recipe_params {
    struct recipe_param *items;
    size_t n_items;
};

struct recipe_model {
    struct recipe_ref ref;
    struct recipe_params params;
};

struct recipe_source { /* of a slice */
    struct recipe_ref ref;
    long layer_begin, layer_end;
    struct recipe_params params;
};

struct recipe_slice {
    struct recipe_source *sources;
    size_t n_sources;
    struct recipe_ref base_model; /* path NULL: none */
    struct recipe_params params;
    struct recipe_mark at;
};

struct recipe_module {
    const char *name;
    struct recipe_model *models; /* one of models and slices */
    size_t n_models;
    struct recipe_slice *slices;
    size_t n_slices;
    struct recipe_params params;
    struct recipe_mark at;
};

/* Parameters that change nothing (unknown, no_effect, or at a place where the method does not look) are not kept. */
struct recipe {
    struct arena arena;
    const char *path; /* as given, for messages */
    const char *text; /* the file, verbatim (for mergekit_config.yml) */
    size_t n_text_bytes;

    const struct method *method;
    struct recipe_mark method_at;
    /* In file order, the base included if it is listed. ORDINARY and ONE_OF methods: a base that is not listed is
     * appended, without parameters of its own, as mergekit does. */
    struct recipe_model *models;
    size_t n_models;
    bool has_base;
    struct recipe_ref base_model;
    int base_index; /* the base's position in models, or -1 */
    struct recipe_params params;
    bool has_dtype, has_out_dtype;
    enum wm_dtype dtype, out_dtype; /* F32, F16, BF16 */

    /* Parsed whole, refused by the planner until their issues land (recipe_unsupported names them). */
    struct recipe_slice *slices;
    size_t n_slices;
    struct recipe_module *modules;
    size_t n_modules;
    const char *tokenizer_source, *chat_template;
    bool has_tokenizer; /* the `tokenizer:` mapping */
    struct recipe_mark slices_at, modules_at, tokenizer_at, chat_template_at;
};

/* Reads and checks a config. Every problem goes to `problems` as "file:line:column: sentence"; unknown keys and
 * parameters through problems_lint with the nearest known name. The caller ends the problems, which fills `err`; only out
 * of memory (WM_TEMPORARY) fills it here. *recipe is NULL on failure. WM_BAD_CONFIG, WM_NO_INPUT, WM_IO. */
enum wm_status recipe_open(struct recipe **recipe, const char *path, struct problems *problems, struct wm_error *err);
/* The same from memory; `path` is for messages. */
enum wm_status recipe_parse(struct recipe **recipe, const char *path, const char *text, size_t n_bytes,
                            struct problems *problems, struct wm_error *err);
void recipe_free(struct recipe *recipe);

/* Adds an error for each thing the recipe asks for that this version does not merge yet (slices, modules, tokenizer,
 * chat_template, LoRA references), each one clear sentence with its location. */
void recipe_unsupported(const struct recipe *recipe, struct problems *problems);

struct recipe_value {
    const char *word; /* CHOICE: the choice; else NULL          */
    double number;    /* FLAG: 0 or 1. CHOICE: the choice's index */
    struct recipe_mark at;
};

/* The value of parameter `name` for a tensor: model >= 0 looks at that model's parameters first, then at the global
 * ones; -1 at the global ones only. `depth` is the tensor's position t in [0,1] for gradients (mergekit: layer
 * i of L has i/(L-1), 1 if L is 1, and 0 outside the layers). Numbers are interpolated; a gradient of flags or choices
 * steps. false: not set for this tensor. */
bool recipe_lookup(const struct recipe *recipe, int model, const char *name, const char *tensor, double depth,
                   struct recipe_value *value);

#endif
