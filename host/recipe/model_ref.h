/*
 * model_ref.h: the name of a model.
 *
 * What lives here: mergekit's string form path[@revision][+lora[@revision]] taken apart, and the canonical text of a
 * reference. What it must not know: YAML, and where models are stored.
 */
#ifndef WM_RECIPE_MODEL_REF_H
#define WM_RECIPE_MODEL_REF_H

#include "base/arena.h"
#include "recipe/recipe.h"

/* Takes `text` apart into *ref (everything but `at`). On false *flaw says what is wrong with it and what to write, or is
 * NULL when memory ran out. */
bool model_ref_parse(struct arena *arena, const char *text, struct recipe_ref *ref, const char **flaw);

/* path[@revision] alone, as a model or a lora field of the mapping form holds it. Same rules. */
bool model_ref_parse_path(struct arena *arena, const char *text, const char **path, const char **revision,
                          const char **flaw);

/* Fills ref->text from the parts. false when memory ran out. */
bool model_ref_write(struct arena *arena, struct recipe_ref *ref);

/* The same model, revision, LoRA and architecture; spelling (string or mapping) does not matter. */
bool model_ref_equal(const struct recipe_ref *a, const struct recipe_ref *b);

#endif
