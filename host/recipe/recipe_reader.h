/*
 * recipe_reader.h: what the files that read a recipe share.
 *
 * What lives here: the state of one reading, and the steps that several levels of the schema need (known keys, strings,
 * model references, parameters). Internal to host/recipe. Every step reports into `findings` and goes on; memory that
 * runs out is remembered in `no_memory` and looked at once, at the end.
 */
#ifndef WM_RECIPE_READER_H
#define WM_RECIPE_READER_H

#include "recipe/findings.h"
#include "recipe/recipe.h"
#include "recipe/yaml_tree.h"

#define RECIPE_SHOWN_BYTES 96 /* of a name in a message */

struct recipe_reader {
    struct recipe *recipe;
    struct arena *arena; /* the recipe's */
    struct findings *findings;
    struct recipe_mark models_at;
    bool no_memory;
    bool params_unread; /* some `parameters:` was no mapping: do not complain of what it may have held */
};

/* Which parameters of a method mean something at a level of the schema. */
enum params_scope {
    PARAMS_GLOBAL, /* all                          */
    PARAMS_MODEL   /* those that differ by model   */
};

/* ---- recipe_fields.c ---------------------------------------------------------------------------------------- */

extern const char *const recipe_top_keys[]; /* NULL-terminated */

/* `null` and a missing value mean "not given" at every level of mergekit's schema. */
bool recipe_given(const struct tree_node *node);

/* A key's value if it is given, and where the key stands. */
const struct tree_node *recipe_field(const struct tree_node *map, const char *key, struct recipe_mark *key_at);

/* Warns of every key of `map` that is not one of `known` (NULL-terminated). `where`: "a recipe", "an entry of models". */
void recipe_check_keys(struct recipe_reader *r, const struct tree_node *map, const char *where,
                       const char *const *known);

/* A string field into *string (untouched when not given or wrong). */
void recipe_read_string(struct recipe_reader *r, const struct tree_node *node, const char *field, const char **string);

/* A model reference. On an error ref->path stays NULL. */
void recipe_read_ref(struct recipe_reader *r, const struct tree_node *node, const char *field, struct recipe_ref *ref);

bool recipe_expect(struct recipe_reader *r, const struct tree_node *node, enum tree_kind kind, const char *sentence);

/* ---- recipe_params.c ---------------------------------------------------------------------------------------- */

void recipe_read_params(struct recipe_reader *r, const struct tree_node *node, enum params_scope scope,
                        struct recipe_params *params);
const struct recipe_param *recipe_find_param(const struct recipe_params *params, const char *name);

/* ---- recipe_slices.c ---------------------------------------------------------------------------------------- */

void recipe_read_models(struct recipe_reader *r, const struct tree_node *list, struct recipe_model **models,
                        size_t *n_models);
void recipe_read_slices(struct recipe_reader *r, const struct tree_node *list, struct recipe_slice **slices,
                        size_t *n_slices);
void recipe_read_modules(struct recipe_reader *r, const struct tree_node *map);

/* ---- recipe_check.c ----------------------------------------------------------------------------------------- */

/* What only the whole recipe shows: base and number of models against the method, required parameters. */
void recipe_check(struct recipe_reader *r);

#endif
