/* recipe_slices.c: the three forms of saying what is merged: `models`, `slices` and `modules`. Knows no method's rules
 * about how many models there must be (recipe_check.c does). */
#include "base/text.h"
#include "recipe/model_ref.h"
#include "recipe/recipe_reader.h"

/* ---- models ------------------------------------------------------------------------------------------------- */

/* In a method that works on differences from the base, the base has no difference and nothing to weigh. */
static bool is_special_base(const struct recipe *recipe, const struct recipe_ref *ref)
{
    return recipe->method && recipe->has_base && ref->path && model_ref_equal(ref, &recipe->base_model) &&
           (recipe->method->base == METHOD_BASE_REQUIRED || recipe->method->base == METHOD_BASE_OPTIONAL);
}

static void read_source_params(struct recipe_reader *r, const struct tree_node *map, const struct recipe_ref *ref,
                               struct recipe_params *params)
{
    const struct tree_node *node = recipe_field(map, "parameters", NULL);

    if (!node)
        return;
    if (!is_special_base(r->recipe, ref))
        recipe_read_params(r, node, PARAMS_MODEL, params);
    else if (node->kind != TREE_MAP || node->n_pairs)
        findings_add(r->findings, FINDING_LINT, node->at,
                     "parameters of the base model have no effect, because %s merges differences from it; remove them",
                     r->recipe->method->name);
}

static void read_model(struct recipe_reader *r, const struct tree_node *node, struct recipe_model *model)
{
    static const char *const known[] = {"model", "parameters", NULL};
    const struct tree_node *ref;

    model->ref.at = node->at;
    if (!recipe_expect(r, node, TREE_MAP,
                       "an entry of models must be a mapping: write \"- model: NAME\", with its parameters below"))
        return;
    recipe_check_keys(r, node, "an entry of models", known);
    ref = recipe_field(node, "model", NULL);
    if (ref)
        recipe_read_ref(r, ref, "model", &model->ref);
    else
        findings_add(r->findings, FINDING_ERROR, node->at, "this entry of models names no \"model\"");
    read_source_params(r, node, &model->ref, &model->params);
}

void recipe_read_models(struct recipe_reader *r, const struct tree_node *list, struct recipe_model **models,
                        size_t *n_models)
{
    if (!recipe_expect(r, list, TREE_LIST, "models must be a list: write each one as \"- model: NAME\""))
        return;
    /* One more than listed: a base that is not listed may be appended. */
    *models = arena_array(r->arena, list->n_items + 1, sizeof **models);
    if (!*models) {
        r->no_memory = true;
        return;
    }
    *n_models = list->n_items;
    for (size_t i = 0; i < list->n_items; i++)
        read_model(r, list->items[i], &(*models)[i]);
}

/* ---- slices ------------------------------------------------------------------------------------------------- */

static bool read_layer_range(struct recipe_reader *r, const struct tree_node *map, struct recipe_source *source)
{
    const struct tree_node *range = recipe_field(map, "layer_range", NULL);
    int64_t layers[2];

    if (!range) {
        findings_add(r->findings, FINDING_ERROR, map->at,
                     "this source has no layer_range; write layer_range: [FIRST, END], END not included");
        return false;
    }
    if (range->kind != TREE_LIST || range->n_items != 2) {
        findings_add(r->findings, FINDING_ERROR, range->at,
                     "layer_range must be two numbers: [FIRST, END], END not included");
        return false;
    }
    for (int i = 0; i < 2; i++) {
        const struct tree_node *item = range->items[i];
        if (item->kind != TREE_SCALAR || !scalar_to_integer(item->scalar, item->text, &layers[i]) || layers[i] < 0 ||
            layers[i] > 1000000) {
            findings_add(r->findings, FINDING_ERROR, item->at,
                         "a layer of layer_range must be a whole number from 0 on; layers are counted from the front");
            return false;
        }
    }
    if (layers[1] < layers[0]) {
        findings_add(r->findings, FINDING_ERROR, range->at,
                     "layer_range ends at %ld, before it begins at %ld; write [FIRST, END], END not included",
                     (long)layers[1], (long)layers[0]);
        return false;
    }
    source->layer_begin = (long)layers[0];
    source->layer_end = (long)layers[1];
    return true;
}

/* false: the range is not known. */
static bool read_source(struct recipe_reader *r, const struct tree_node *node, struct recipe_source *source)
{
    static const char *const known[] = {"model", "layer_range", "parameters", NULL};
    const struct tree_node *ref;
    bool has_range;

    source->ref.at = node->at;
    if (!recipe_expect(r, node, TREE_MAP, "a source must be a mapping with model and layer_range"))
        return false;
    recipe_check_keys(r, node, "a source", known);
    ref = recipe_field(node, "model", NULL);
    if (ref)
        recipe_read_ref(r, ref, "model", &source->ref);
    else
        findings_add(r->findings, FINDING_ERROR, node->at, "this source names no \"model\"");
    has_range = read_layer_range(r, node, source);
    read_source_params(r, node, &source->ref, &source->params);
    return has_range;
}

static void read_slice(struct recipe_reader *r, const struct tree_node *node, struct recipe_slice *slice)
{
    static const char *const known[] = {"sources", "base_model", "parameters", "residual_weight", NULL};
    const struct tree_node *sources, *base;
    long n_expected = -1;

    slice->at = node->at;
    if (!recipe_expect(r, node, TREE_MAP, "a slice must be a mapping with a list of sources"))
        return;
    recipe_check_keys(r, node, "a slice", known);
    base = recipe_field(node, "base_model", NULL);
    if (base)
        recipe_read_ref(r, base, "base_model", &slice->base_model);
    recipe_read_params(r, recipe_field(node, "parameters", NULL), PARAMS_GLOBAL, &slice->params);
    sources = recipe_field(node, "sources", NULL);
    if (!sources || sources->kind != TREE_LIST || sources->n_items == 0) {
        findings_add(r->findings, FINDING_ERROR, sources ? sources->at : node->at,
                     "a slice needs \"sources\": a list of {model, layer_range}");
        return;
    }
    slice->sources = arena_array(r->arena, sources->n_items, sizeof *slice->sources);
    if (!slice->sources) {
        r->no_memory = true;
        return;
    }
    slice->n_sources = sources->n_items;
    for (size_t i = 0; i < sources->n_items; i++) {
        struct recipe_source *source = &slice->sources[i];
        long n_layers;
        if (!read_source(r, sources->items[i], source))
            continue;
        n_layers = source->layer_end - source->layer_begin;
        if (n_expected < 0)
            n_expected = n_layers;
        else if (n_layers != n_expected)
            findings_add(r->findings, FINDING_ERROR, source->ref.at,
                         "this source has %ld layers, others of its slice have %ld; all need equally many", n_layers,
                         n_expected);
    }
}

void recipe_read_slices(struct recipe_reader *r, const struct tree_node *list, struct recipe_slice **slices,
                        size_t *n_slices)
{
    if (!recipe_expect(r, list, TREE_LIST, "slices must be a list of mappings with sources"))
        return;
    *slices = arena_array(r->arena, list->n_items, sizeof **slices);
    if (!*slices) {
        r->no_memory = true;
        return;
    }
    *n_slices = list->n_items;
    for (size_t i = 0; i < list->n_items; i++)
        read_slice(r, list->items[i], &(*slices)[i]);
}

/* ---- modules ------------------------------------------------------------------------------------------------ */

static bool is_filled_list(const struct tree_node *node)
{
    return node && !(node->kind == TREE_LIST && node->n_items == 0);
}

static void read_module(struct recipe_reader *r, const struct tree_pair *pair, struct recipe_module *module)
{
    static const char *const known[] = {"models", "slices", "parameters", NULL};
    const struct tree_node *node = pair->value, *models, *slices;

    module->at = pair->key_at;
    module->name = arena_strdup(r->arena, pair->key);
    if (!module->name)
        r->no_memory = true;
    if (!recipe_expect(r, node, TREE_MAP, "a module must be a mapping with models or slices"))
        return;
    recipe_check_keys(r, node, "a module", known);
    recipe_read_params(r, recipe_field(node, "parameters", NULL), PARAMS_GLOBAL, &module->params);
    models = recipe_field(node, "models", NULL);
    slices = recipe_field(node, "slices", NULL);
    if (is_filled_list(models) == is_filled_list(slices))
        findings_add(r->findings, FINDING_ERROR, pair->key_at, "a module needs either models or slices%s",
                     is_filled_list(models) ? ", not both" : "");
    if (is_filled_list(models))
        recipe_read_models(r, models, &module->models, &module->n_models);
    if (is_filled_list(slices))
        recipe_read_slices(r, slices, &module->slices, &module->n_slices);
}

void recipe_read_modules(struct recipe_reader *r, const struct tree_node *map)
{
    struct recipe *recipe = r->recipe;

    if (!recipe_expect(r, map, TREE_MAP, "modules must be a mapping from module names to models or slices"))
        return;
    recipe->modules = arena_array(r->arena, map->n_pairs, sizeof *recipe->modules);
    if (!recipe->modules) {
        r->no_memory = true;
        return;
    }
    recipe->n_modules = map->n_pairs;
    for (size_t i = 0; i < map->n_pairs; i++)
        read_module(r, &map->pairs[i], &recipe->modules[i]);
}
