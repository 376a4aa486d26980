/*
 * open_models.h: the checkpoints that a recipe names, each opened once. Internal to api/; knows no plan.
 */
#ifndef WM_API_OPEN_MODELS_H
#define WM_API_OPEN_MODELS_H

#include "checkpoint/checkpoint.h"
#include "recipe/recipe.h"

struct open_models {
    struct ckpt **models; /* [n_models], in plan order: recipe->models, then a base that is not listed */
    int n_models;
    struct ckpt **distinct; /* [n_distinct], owned */
    int n_distinct;
};

/* Every model that cannot be opened is reported through `problems`; the caller ends them. */
enum wm_status open_models_init(struct open_models *m, const struct recipe *recipe, const struct wm_options *options,
                                struct problems *problems, struct wm_error *err);
void open_models_release(struct open_models *m);

#endif
