/* recipe.c: opening, parsing and freeing a recipe; the top level of the schema. See recipe.h. */
#include "recipe/recipe.h"

#include "base/dtype.h"
#include "base/file.h"
#include "base/text.h"
#include "recipe/recipe_reader.h"

#include <stdlib.h>
#include <string.h>

/* A million nodes of about 150 bytes, and lists that double as they grow; a usual recipe needs some 10 KiB. */
#define TREE_MAX_BYTES   ((size_t)512 << 20)
#define RECIPE_MAX_BYTES ((size_t)512 << 20)

#define MAX_METHODS 64

/* ---- merge_method ------------------------------------------------------------------------------------------- */

static void report_unknown_method(struct recipe_reader *r, const struct tree_node *node, const char *name)
{
    /* mergekit's others: a known name deserves a better answer than a guess at a typo. */
    static const char *const not_yet[] = {"multislerp",       "karcher",     "model_stock", "arcee_fusion",
                                          "nearswap",         "breadcrumbs", "della",       "sce",
                                          "breadcrumbs_ties", "ram",         "ramplus_tl",  "della_linear"};
    const char *names[MAX_METHODS];
    char shown[RECIPE_SHOWN_BYTES];
    size_t n_names = 0;
    int nearest;

    text_display(shown, sizeof shown, name);
    for (size_t i = 0; i < sizeof not_yet / sizeof *not_yet; i++) {
        if (strcmp(name, not_yet[i]) != 0)
            continue;
        findings_add(r->findings, FINDING_ERROR, node->at,
                     "merge_method \"%s\" is a method of mergekit that this version does not have yet; `warpmerge "
                     "methods` lists those it has",
                     shown);
        return;
    }
    while (method_list[n_names] && n_names < MAX_METHODS) {
        names[n_names] = method_list[n_names]->name;
        n_names++;
    }
    nearest = text_nearest(name, names, n_names);
    if (nearest >= 0)
        findings_add(r->findings, FINDING_ERROR, node->at,
                     "unknown merge_method \"%s\"; did you mean \"%s\"? `warpmerge methods` lists all", shown,
                     names[nearest]);
    else
        findings_add(r->findings, FINDING_ERROR, node->at, "unknown merge_method \"%s\"; `warpmerge methods` lists all",
                     shown);
}

static void read_method(struct recipe_reader *r, const struct tree_node *root)
{
    const struct tree_node *node = recipe_field(root, "merge_method", NULL);
    const char *name = NULL;

    if (!node) {
        findings_add(r->findings, FINDING_ERROR, root->at,
                     "the recipe has no merge_method; add one, `warpmerge methods` lists all");
        return;
    }
    r->recipe->method_at = node->at;
    recipe_read_string(r, node, "merge_method", &name);
    if (!name)
        return;
    r->recipe->method = method_find(name);
    if (!r->recipe->method)
        report_unknown_method(r, node, name);
}

/* ---- dtype -------------------------------------------------------------------------------------------------- */

static void read_dtype(struct recipe_reader *r, const struct tree_node *node, const char *field, bool *given,
                       enum wm_dtype *dtype)
{
    static const struct {
        const char *alias, *name;
    } aliases[] = {{"bf16", "bfloat16"}, {"fp16", "float16"}, {"f16", "float16"},   {"half", "float16"},
                   {"fp32", "float32"},  {"f32", "float32"},  {"float", "float32"}, {"full", "float32"}};
    const char *name = NULL;
    char shown[RECIPE_SHOWN_BYTES];

    recipe_read_string(r, node, field, &name);
    if (!name || !*name) /* mergekit takes an empty string as not given */
        return;
    if (dtype_parse_torch(name, dtype)) {
        *given = *dtype == WM_BF16 || *dtype == WM_F16 || *dtype == WM_F32;
        if (!*given)
            findings_add(r->findings, FINDING_ERROR, node->at,
                         "%s cannot be \"%s\", weights are not merged in it; write bfloat16, float16 or float32", field,
                         text_display(shown, sizeof shown, name));
        return;
    }
    text_display(shown, sizeof shown, name);
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++) {
        if (strcmp(name, aliases[i].alias) != 0)
            continue;
        findings_add(r->findings, FINDING_ERROR, node->at, "%s \"%s\" is unknown; write %s", field, shown,
                     aliases[i].name);
        return;
    }
    findings_add(r->findings, FINDING_ERROR, node->at, "%s \"%s\" is unknown; write bfloat16, float16 or float32",
                 field, shown);
}

/* ---- tokenizer and chat template: read so that they can be refused by name ---------------------------------- */

static void read_tokenizer(struct recipe_reader *r, const struct tree_node *root)
{
    static const char *const known[] = {"source", "tokens", "pad_to_multiple_of", NULL};
    struct recipe *recipe = r->recipe;
    struct recipe_mark tokenizer_at = {0, 0}, source_at = {0, 0};
    const struct tree_node *tokenizer = recipe_field(root, "tokenizer", &tokenizer_at);
    const struct tree_node *source = recipe_field(root, "tokenizer_source", &source_at);

    if (tokenizer) {
        recipe->has_tokenizer = true;
        recipe->tokenizer_at = tokenizer_at;
        if (recipe_expect(r, tokenizer, TREE_MAP, "tokenizer must be a mapping like {source: union}"))
            recipe_check_keys(r, tokenizer, "tokenizer", known);
    }
    if (source) {
        struct recipe_ref ref;
        recipe_read_ref(r, source, "tokenizer_source", &ref);
        recipe->tokenizer_source = ref.text;
        recipe->tokenizer_at = source_at;
    }
    if (tokenizer && source)
        findings_add(r->findings, FINDING_ERROR, source_at,
                     "tokenizer_source and tokenizer (line %d) are both given; keep one", tokenizer_at.line);
}

/* ---- the top level ------------------------------------------------------------------------------------------ */

/* An empty list or mapping counts as not given, as in mergekit. */
static const struct tree_node *filled_field(const struct tree_node *root, const char *key, struct recipe_mark *at)
{
    const struct tree_node *node = recipe_field(root, key, at);

    return node && node->kind != TREE_SCALAR && node->n_items == 0 && node->n_pairs == 0 ? NULL : node;
}

static void read_inputs(struct recipe_reader *r, const struct tree_node *root)
{
    static const char *const names[] = {"models", "slices", "modules"};
    struct recipe *recipe = r->recipe;
    struct recipe_mark at[3] = {{0, 0}};
    const struct tree_node *nodes[3];
    int first = -1;

    for (int i = 0; i < 3; i++) {
        nodes[i] = filled_field(root, names[i], &at[i]);
        if (nodes[i] && first >= 0)
            findings_add(r->findings, FINDING_ERROR, at[i],
                         "%s and %s (line %d) are both given; a recipe has one of models, slices and modules", names[i],
                         names[first], at[first].line);
        else if (nodes[i])
            first = i;
    }
    if (first < 0)
        findings_add(r->findings, FINDING_ERROR, root->at,
                     "the recipe names nothing to merge; add \"models:\" with a list of \"- model: NAME\"");
    if (nodes[0]) {
        r->models_at = at[0];
        recipe_read_models(r, nodes[0], &recipe->models, &recipe->n_models);
    }
    if (nodes[1]) {
        recipe->slices_at = at[1];
        recipe_read_slices(r, nodes[1], &recipe->slices, &recipe->n_slices);
    }
    if (nodes[2]) {
        recipe->modules_at = at[2];
        recipe_read_modules(r, nodes[2]);
    }
}

static void read_root(struct recipe_reader *r, const struct tree_node *root)
{
    struct recipe *recipe = r->recipe;
    const struct tree_node *base;

    if (!recipe_expect(r, root, TREE_MAP,
                       "the recipe must be a mapping with merge_method and models; is a space missing after a colon?"))
        return;
    read_method(r, root); /* first: keys and parameters are judged by it */
    recipe_check_keys(r, root, "a recipe", recipe_top_keys);
    base = recipe_field(root, "base_model", NULL);
    if (base) {
        recipe_read_ref(r, base, "base_model", &recipe->base_model);
        recipe->has_base = recipe->base_model.path != NULL;
    }
    read_dtype(r, yaml_tree_get(root, "dtype", NULL), "dtype", &recipe->has_dtype, &recipe->dtype);
    read_dtype(r, yaml_tree_get(root, "out_dtype", NULL), "out_dtype", &recipe->has_out_dtype, &recipe->out_dtype);
    recipe_read_params(r, recipe_field(root, "parameters", NULL), PARAMS_GLOBAL, &recipe->params);
    read_inputs(r, root);
    read_tokenizer(r, root);
    recipe_read_string(r, recipe_field(root, "chat_template", &recipe->chat_template_at), "chat_template",
                       &recipe->chat_template);
    recipe_check(r);
}

/* ---- open and free ------------------------------------------------------------------------------------------ */

static enum wm_status copy_source(struct recipe *recipe, const char *path, const char *text, size_t n_bytes,
                                  struct wm_error *err)
{
    char *copy = arena_alloc(&recipe->arena, n_bytes + 1);

    recipe->path = arena_strdup(&recipe->arena, path);
    if (!copy || !recipe->path)
        return error_no_memory(err, "reading a recipe");
    memcpy(copy, text, n_bytes);
    recipe->text = copy;
    recipe->n_text_bytes = n_bytes;
    recipe->base_index = -1;
    return WM_OK;
}

enum wm_status recipe_parse(struct recipe **recipe, const char *path, const char *text, size_t n_bytes,
                            struct problems *problems, struct wm_error *err)
{
    struct recipe *made = calloc(1, sizeof *made);
    struct findings findings;
    struct recipe_reader reader = {.recipe = made, .findings = &findings};
    struct tree_node *root = NULL;
    struct arena tree;
    enum wm_status st = WM_OK;

    *recipe = NULL;
    if (!made)
        return error_no_memory(err, "reading a recipe");
    if (!n_bytes)
        text = ""; /* so that NULL is as good as empty */
    arena_init(&made->arena, RECIPE_MAX_BYTES);
    arena_init(&tree, TREE_MAX_BYTES);
    findings_init(&findings, path, problems);
    reader.arena = &made->arena;
    TRY(yaml_tree_parse(&root, &tree, text, n_bytes, &findings, err));
    TRY(copy_source(made, path, text, n_bytes, err));
    if (root)
        read_root(&reader, root);
    if (reader.no_memory)
        TRY(error_no_memory(err, "reading a recipe"));
    findings_flush(&findings);
    if (findings.any_error) {
        st = WM_BAD_CONFIG;
    } else {
        *recipe = made;
        made = NULL;
    }
out:
    findings_release(&findings);
    arena_release(&tree);
    recipe_free(made);
    return st;
}

enum wm_status recipe_open(struct recipe **recipe, const char *path, struct problems *problems, struct wm_error *err)
{
    struct wm_error unread = WM_ERROR_INIT;
    char *text = NULL;
    size_t n_bytes = 0;
    enum wm_status st;

    *recipe = NULL;
    st = file_read_all(path, YAML_TREE_MAX_BYTES, &text, &n_bytes, &unread);
    if (st == WM_OK)
        st = recipe_parse(recipe, path, text, n_bytes, problems, err);
    else if (st == WM_TEMPORARY)
        error_set(err, st, "%s", unread.message);
    else
        problems_add(problems, WM_ERROR, st = st == WM_BAD_DATA ? WM_BAD_CONFIG : st, "%s", unread.message);
    free(text);
    return st;
}

void recipe_free(struct recipe *recipe)
{
    if (!recipe)
        return;
    arena_release(&recipe->arena);
    free(recipe);
}
