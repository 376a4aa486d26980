/*
 * yaml_tree.h: one YAML document as a tree with places.
 *
 * What lives here: libyaml's events turned into nodes that remember line and column, with aliases resolved, merge keys
 * (`<<`) applied, duplicate keys refused, and ceilings on everything a hostile file can grow. What it must not know: what a
 * recipe is.
 */
#ifndef WM_RECIPE_YAML_TREE_H
#define WM_RECIPE_YAML_TREE_H

#include "base/arena.h"
#include "base/error.h"
#include "recipe/findings.h"
#include "recipe/recipe.h"
#include "recipe/yaml_scalar.h"

#define YAML_TREE_MAX_BYTES     ((size_t)16 << 20)
#define YAML_TREE_MAX_NODES     1000000 /* counted as if every alias were written out, so walks are bounded too */
#define YAML_TREE_MAX_DEPTH     64      /* likewise                                                             */
#define YAML_TREE_MAX_KEY_BYTES 1024    /* libyaml's own limit for simple keys                                   */

enum tree_kind { TREE_SCALAR, TREE_LIST, TREE_MAP };

struct tree_pair {
    const char *key;
    struct recipe_mark key_at;
    struct tree_node *value;
    bool merged; /* came through `<<` */
};

struct tree_node {
    enum tree_kind kind;
    struct recipe_mark at; /* of an alias: where its anchor stands, which is where the text to mend is */
    const char *text;      /* SCALAR: NUL-terminated, without NUL inside */
    struct scalar scalar;
    struct tree_node **items; /* LIST */
    size_t n_items;
    struct tree_pair *pairs; /* MAP: keys are distinct */
    size_t n_pairs;
    size_t n_nodes; /* in this subtree, itself and aliases written out included */
    int height;     /* 1 for a scalar */
};

/* Parses text into *root, which lives in `arena` (give it room: a node costs about 150 bytes). Duplicate keys are findings
 * that do not stop the walk (the first value counts). *root is NULL, with a finding that says why, when the text is no
 * YAML, is empty, or exceeds a ceiling. WM_TEMPORARY (out of memory) is the only failure. */
enum wm_status yaml_tree_parse(struct tree_node **root, struct arena *arena, const char *text, size_t n_bytes,
                               struct findings *findings, struct wm_error *err);

/* The value of a key, or NULL. `pair` may be NULL. */
const struct tree_node *yaml_tree_get(const struct tree_node *map, const char *key, const struct tree_pair **pair);

#endif
