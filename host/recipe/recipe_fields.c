/* recipe_fields.c: the kinds of field that occur at several levels of the schema. Knows no level by itself. */
#include "base/text.h"
#include "recipe/model_ref.h"
#include "recipe/recipe_reader.h"

#include <string.h>
#include <strings.h>

bool recipe_given(const struct tree_node *node)
{
    return node && !(node->kind == TREE_SCALAR && node->scalar.kind == SCALAR_NULL);
}

const struct tree_node *recipe_field(const struct tree_node *map, const char *key, struct recipe_mark *key_at)
{
    const struct tree_pair *pair;
    const struct tree_node *node = yaml_tree_get(map, key, &pair);

    if (!recipe_given(node))
        return NULL;
    if (key_at)
        *key_at = pair->key_at;
    return node;
}

bool recipe_expect(struct recipe_reader *r, const struct tree_node *node, enum tree_kind kind, const char *sentence)
{
    if (node->kind == kind)
        return true;
    findings_add(r->findings, FINDING_ERROR, node->at, "%s", sentence);
    return false;
}

/* ---- keys --------------------------------------------------------------------------------------------------- */

const char *const recipe_top_keys[] = {"merge_method", "models",           "base_model",    "parameters",
                                       "dtype",        "out_dtype",        "slices",        "modules",
                                       "tokenizer",    "tokenizer_source", "chat_template", NULL};

static size_t n_words(const char *const *words)
{
    size_t n = 0;

    while (words[n])
        n++;
    return n;
}

static bool is_word(const char *const *words, const char *word)
{
    for (; *words; words++)
        if (strcmp(*words, word) == 0)
            return true;
    return false;
}

/* The nearest by spelling, or one with the same beginning ("params" for "parameters"). -1: none. */
static int nearest_key(const char *key, const char *const *known)
{
    int nearest = text_nearest(key, known, n_words(known));

    for (int i = 0; nearest < 0 && known[i]; i++)
        if (strncasecmp(key, known[i], 5) == 0)
            nearest = i;
    return nearest;
}

/* A parameter that stands beside `parameters:` instead of inside is the commonest slip; so is a top-level key further
 * in (mergekit issue 376). Both get an answer of their own. */
static void report_unknown_key(struct recipe_reader *r, const struct tree_pair *pair, const char *where,
                               const char *const *known)
{
    const struct method *method = r->recipe->method;
    char shown[RECIPE_SHOWN_BYTES];
    int nearest = nearest_key(pair->key, known);

    text_display(shown, sizeof shown, pair->key);
    if (method && method_param_index(method, pair->key) >= 0 && is_word(known, "parameters"))
        findings_add(r->findings, FINDING_LINT, pair->key_at,
                     "\"%s\" is a parameter of %s and has no effect here; write it under \"parameters:\"", shown,
                     method->name);
    else if (is_word(recipe_top_keys, pair->key))
        findings_add(r->findings, FINDING_LINT, pair->key_at,
                     "\"%s\" has no effect in %s; move it to the top level of the file", shown, where);
    else if (nearest >= 0)
        findings_add(r->findings, FINDING_LINT, pair->key_at, "unknown key \"%s\" in %s; did you mean \"%s\"?", shown,
                     where, known[nearest]);
    else
        findings_add(r->findings, FINDING_LINT, pair->key_at, "unknown key \"%s\" in %s; it has no effect, remove it",
                     shown, where);
}

void recipe_check_keys(struct recipe_reader *r, const struct tree_node *map, const char *where,
                       const char *const *known)
{
    for (size_t i = 0; i < map->n_pairs; i++)
        if (!is_word(known, map->pairs[i].key))
            report_unknown_key(r, &map->pairs[i], where, known);
}

/* ---- strings and references --------------------------------------------------------------------------------- */

void recipe_read_string(struct recipe_reader *r, const struct tree_node *node, const char *field, const char **string)
{
    char shown[RECIPE_SHOWN_BYTES];
    const char *copy;

    if (!recipe_given(node))
        return;
    if (node->kind != TREE_SCALAR) {
        findings_add(r->findings, FINDING_ERROR, node->at, "%s must be a word, not a %s", field,
                     node->kind == TREE_LIST ? "list" : "mapping");
        return;
    }
    if (node->scalar.kind != SCALAR_STRING) {
        findings_add(r->findings, FINDING_ERROR, node->at,
                     "%s must be a word, but YAML reads \"%s\" as %s; write it in quotes", field,
                     text_display(shown, sizeof shown, node->text), scalar_kind_name(node->scalar.kind));
        return;
    }
    copy = arena_strdup(r->arena, node->text);
    if (copy)
        *string = copy;
    else
        r->no_memory = true;
}

static void report_flaw(struct recipe_reader *r, const struct tree_node *node, const char *flaw)
{
    char shown[RECIPE_SHOWN_BYTES];

    if (flaw)
        findings_add(r->findings, FINDING_ERROR, node->at, "the model reference \"%s\" %s",
                     text_display(shown, sizeof shown, node->text), flaw);
    else
        r->no_memory = true;
}

/* The fields `model` and `lora` of the mapping form: path[@revision], or {path, revision}. */
static void read_ref_part(struct recipe_reader *r, const struct tree_node *node, const char *field, const char **path,
                          const char **revision)
{
    static const char *const known[] = {"path", "revision", NULL};
    const char *text = NULL, *flaw;

    if (node->kind == TREE_MAP) {
        recipe_check_keys(r, node, "a model path", known);
        recipe_read_string(r, recipe_field(node, "path", NULL), "path", path);
        recipe_read_string(r, recipe_field(node, "revision", NULL), "revision", revision);
        if (!recipe_field(node, "path", NULL) || (*path && !**path)) {
            *path = NULL;
            findings_add(r->findings, FINDING_ERROR, node->at, "%s has no path; write {path: ..., revision: ...}",
                         field);
        }
        return;
    }
    recipe_read_string(r, node, field, &text);
    if (text && !model_ref_parse_path(r->arena, text, path, revision, &flaw)) {
        *path = NULL;
        report_flaw(r, node, flaw);
    }
}

static void read_ref_map(struct recipe_reader *r, const struct tree_node *node, const char *field,
                         struct recipe_ref *ref)
{
    static const char *const known[] = {"model", "lora", "override_architecture", NULL};
    const struct tree_node *model = recipe_field(node, "model", NULL), *lora = recipe_field(node, "lora", NULL);

    if (!model) {
        findings_add(r->findings, FINDING_ERROR, node->at,
                     "%s is a mapping without \"model\"; write a name, or {model: {path: ..., revision: ...}}", field);
        return;
    }
    recipe_check_keys(r, node, "a model reference", known);
    if (lora)
        read_ref_part(r, lora, "lora", &ref->lora_path, &ref->lora_revision);
    recipe_read_string(r, recipe_field(node, "override_architecture", NULL), "override_architecture",
                       &ref->override_architecture);
    read_ref_part(r, model, "model", &ref->path, &ref->revision);
    if (ref->path && !model_ref_write(r->arena, ref))
        r->no_memory = true;
}

void recipe_read_ref(struct recipe_reader *r, const struct tree_node *node, const char *field, struct recipe_ref *ref)
{
    struct recipe_ref empty = {.at = node->at};
    const char *text = NULL, *flaw;

    *ref = empty;
    if (node->kind == TREE_MAP) {
        read_ref_map(r, node, field, ref);
    } else {
        recipe_read_string(r, node, field, &text);
        if (text && !model_ref_parse(r->arena, text, ref, &flaw)) {
            *ref = empty;
            report_flaw(r, node, flaw);
        }
    }
}
