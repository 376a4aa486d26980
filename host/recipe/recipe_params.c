/* recipe_params.c: `parameters:` maps, checked against the method's descriptor. The grammar of a setting is mergekit's: a
 * value, a list of values (a gradient over the layers), or filter/value pairs. Knows nothing of precedence. */
#include "base/text.h"
#include "recipe/recipe_reader.h"

#include <math.h>
#include <string.h>

#define NAMES_MAX (METHOD_MAX_PARAMS + 1)

/* One setting being read. `param` is NULL when only its grammar can be checked (unknown method, no_effect). */
struct setting {
    const struct method_param *param;
    const char *name;
    struct recipe_param *out;
};

const struct recipe_param *recipe_find_param(const struct recipe_params *params, const char *name)
{
    for (size_t i = 0; i < params->n_items; i++)
        if (strcmp(params->items[i].name, name) == 0)
            return &params->items[i];
    return NULL;
}

/* ---- one value ---------------------------------------------------------------------------------------------- */

static bool choice_index(const struct method_param *param, const char *word, double *index)
{
    for (size_t i = 0; param->choices[i]; i++) {
        if (strcmp(param->choices[i], word) == 0) {
            *index = (double)i;
            return true;
        }
    }
    return false;
}

static void report_choice(struct recipe_reader *r, const struct setting *s, const struct tree_node *node)
{
    struct text list;
    char shown[RECIPE_SHOWN_BYTES];

    text_init(&list, 512);
    for (size_t i = 0; s->param->choices[i]; i++)
        text_addf(&list, "%s%s", i ? ", " : "", s->param->choices[i]);
    findings_add(r->findings, FINDING_ERROR, node->at, "%s cannot be \"%s\"; it is one of: %s", s->name,
                 text_display(shown, sizeof shown, node->text), text_string(&list));
    text_release(&list);
}

static void check_range(struct recipe_reader *r, const struct setting *s, const struct tree_node *node, double number)
{
    const struct method_param *p = s->param;
    bool has_min = isfinite(p->min) && fabs(p->min) < 1e300, has_max = isfinite(p->max) && fabs(p->max) < 1e300;

    if ((!has_min || number >= p->min) && (!has_max || number <= p->max))
        return;
    if (has_min && has_max)
        findings_add(r->findings, FINDING_ERROR, node->at, "%s is %.10g, but it must be between %.10g and %.10g",
                     s->name, number, p->min, p->max);
    else
        findings_add(r->findings, FINDING_ERROR, node->at, "%s is %.10g, but it must be at %s %.10g", s->name, number,
                     has_min ? "least" : "most", has_min ? p->min : p->max);
}

static bool read_number(struct recipe_reader *r, const struct setting *s, const struct tree_node *node, double *number)
{
    char shown[RECIPE_SHOWN_BYTES];

    text_display(shown, sizeof shown, node->text);
    if (!scalar_to_number(node->scalar, node->text, number)) {
        if (node->scalar.kind == SCALAR_STRING && strpbrk(node->text, "0123456789") &&
            !node->text[strspn(node->text, "0123456789,")])
            findings_add(r->findings, FINDING_ERROR, node->at,
                         "%s must be a number, not \"%s\"; write a decimal point instead of the comma", s->name, shown);
        else
            findings_add(r->findings, FINDING_ERROR, node->at, "%s must be a number, not \"%s\"", s->name, shown);
        return false;
    }
    if (!isfinite(*number)) {
        findings_add(r->findings, FINDING_ERROR, node->at, "%s is \"%s\", but it must be a finite number", s->name,
                     shown);
        return false;
    }
    check_range(r, s, node, *number);
    return true;
}

static bool read_flag(struct recipe_reader *r, const struct setting *s, const struct tree_node *node, double *number)
{
    char shown[RECIPE_SHOWN_BYTES];
    bool flag;

    if (!scalar_to_flag(node->scalar, node->text, &flag)) {
        findings_add(r->findings, FINDING_ERROR, node->at, "%s must be true or false, not \"%s\"", s->name,
                     text_display(shown, sizeof shown, node->text));
        return false;
    }
    *number = flag ? 1.0 : 0.0;
    return true;
}

/* A choice by its word; words for booleans ("yes", 1) name the choices "true" and "false" where a method has them. */
static bool read_choice(struct recipe_reader *r, const struct setting *s, const struct tree_node *node, double *index)
{
    bool flag;

    if (node->scalar.kind == SCALAR_STRING && choice_index(s->param, node->text, index))
        return true;
    if (scalar_to_flag(node->scalar, node->text, &flag) && choice_index(s->param, flag ? "true" : "false", index))
        return true;
    report_choice(r, s, node);
    return false;
}

static bool read_value(struct recipe_reader *r, const struct setting *s, const struct tree_node *node, double *number)
{
    char shown[RECIPE_SHOWN_BYTES];

    if (node->kind != TREE_SCALAR) {
        findings_add(r->findings, FINDING_ERROR, node->at, "%s: a %s stands where one value belongs", s->name,
                     node->kind == TREE_LIST ? "list" : "mapping");
        return false;
    }
    if (!recipe_given(node)) {
        findings_add(r->findings, FINDING_ERROR, node->at, "%s has no value; give one or remove the line", s->name);
        return false;
    }
    *number = 0.0;
    if (s->param) {
        switch (s->param->type) {
        case METHOD_NUMBER: return read_number(r, s, node, number);
        case METHOD_FLAG: return read_flag(r, s, node, number);
        case METHOD_CHOICE: return read_choice(r, s, node, number);
        }
    }
    if (node->scalar.kind == SCALAR_TIMESTAMP || node->scalar.kind == SCALAR_MERGE ||
        node->scalar.kind == SCALAR_VALUE) {
        findings_add(r->findings, FINDING_ERROR, node->at, "%s cannot be \"%s\"; give a number, a word or a boolean",
                     s->name, text_display(shown, sizeof shown, node->text));
        return false;
    }
    return true;
}

/* ---- the forms of a setting --------------------------------------------------------------------------------- */

/* A value or a gradient of values into a condition that matches everything. */
static bool read_points(struct recipe_reader *r, const struct setting *s, const struct tree_node *node,
                        struct recipe_condition *condition)
{
    bool is_list = node->kind == TREE_LIST, fine = true;
    size_t n = is_list ? node->n_items : 1;

    condition->at = node->at;
    if (n == 0) {
        findings_add(r->findings, FINDING_ERROR, node->at, "%s is an empty list; give at least one value", s->name);
        return false;
    }
    condition->points = arena_array(r->arena, n, sizeof *condition->points);
    if (!condition->points) {
        r->no_memory = true;
        return false;
    }
    condition->n_points = n;
    for (size_t i = 0; i < n; i++)
        fine &= read_value(r, s, is_list ? node->items[i] : node, &condition->points[i]);
    if (fine && n == 1 && s->param && s->param->type == METHOD_CHOICE)
        condition->word = s->param->choices[(size_t)condition->points[0]];
    return fine;
}

static bool read_condition(struct recipe_reader *r, const struct setting *s, const struct tree_node *map,
                           struct recipe_condition *condition)
{
    static const char *const known[] = {"filter", "value", NULL};
    const struct tree_node *value = yaml_tree_get(map, "value", NULL);
    bool fine;

    recipe_check_keys(r, map, "a filter/value pair", known);
    recipe_read_string(r, yaml_tree_get(map, "filter", NULL), "filter", &condition->filter);
    if (condition->filter && strcmp(condition->filter, "*") == 0)
        condition->filter = NULL;
    if (!value) {
        findings_add(r->findings, FINDING_ERROR, map->at, "%s: this filter/value pair has no \"value\"", s->name);
        return false;
    }
    fine = read_points(r, s, value, condition);
    condition->at = map->at;
    return fine;
}

static bool read_conditions(struct recipe_reader *r, const struct setting *s, const struct tree_node *const *maps,
                            size_t n)
{
    bool fine = true;

    s->out->conditions = arena_array(r->arena, n, sizeof *s->out->conditions);
    if (!s->out->conditions) {
        r->no_memory = true;
        return false;
    }
    s->out->n_conditions = n;
    for (size_t i = 0; i < n; i++)
        fine &= read_condition(r, s, maps[i], &s->out->conditions[i]);
    for (size_t i = 0; fine && i + 1 < n; i++) {
        if (s->out->conditions[i].filter)
            continue;
        findings_add(r->findings, FINDING_LINT, s->out->conditions[i + 1].at,
                     "%s: this pair is never reached, because the one before it has no filter and matches every "
                     "tensor; put the pair without a filter last",
                     s->name);
        break;
    }
    return fine;
}

/* A list is a gradient or a list of filter/value pairs, never both. */
static bool read_list(struct recipe_reader *r, const struct setting *s, const struct tree_node *list)
{
    size_t n_maps = 0;

    for (size_t i = 0; i < list->n_items; i++)
        n_maps += list->items[i]->kind == TREE_MAP;
    if (n_maps == 0) {
        s->out->conditions = arena_alloc(r->arena, sizeof *s->out->conditions);
        if (!s->out->conditions) {
            r->no_memory = true;
            return false;
        }
        s->out->n_conditions = 1;
        return read_points(r, s, list, s->out->conditions);
    }
    if (n_maps < list->n_items) {
        findings_add(r->findings, FINDING_ERROR, list->at,
                     "%s mixes plain values with filter/value pairs; write {value: ...} for the plain ones", s->name);
        return false;
    }
    return read_conditions(r, s, (const struct tree_node *const *)list->items, list->n_items);
}

static bool read_setting(struct recipe_reader *r, const struct setting *s, const struct tree_node *node)
{
    if (node->kind == TREE_LIST)
        return read_list(r, s, node);
    if (node->kind == TREE_MAP)
        return read_conditions(r, s, &node, 1);
    s->out->conditions = arena_alloc(r->arena, sizeof *s->out->conditions);
    if (!s->out->conditions) {
        r->no_memory = true;
        return false;
    }
    s->out->n_conditions = 1;
    return read_points(r, s, node, s->out->conditions);
}

/* ---- the map ------------------------------------------------------------------------------------------------ */

static const struct method *another_method_with(const struct method *method, const char *name)
{
    for (size_t i = 0; method_list[i]; i++)
        if (method_list[i] != method && method_param_index(method_list[i], name) >= 0)
            return method_list[i];
    return NULL;
}

static void report_unknown_param(struct recipe_reader *r, const struct tree_pair *pair)
{
    static const char *const misplaced[] = {"dtype", "out_dtype", "base_model", "merge_method", "tokenizer_source"};
    const struct method *method = r->recipe->method, *other = another_method_with(method, pair->key);
    const char *names[NAMES_MAX];
    char shown[RECIPE_SHOWN_BYTES];
    size_t n_names = 0;
    int nearest;

    text_display(shown, sizeof shown, pair->key);
    for (size_t i = 0; i < sizeof misplaced / sizeof *misplaced; i++) {
        if (strcmp(pair->key, misplaced[i]) != 0)
            continue;
        findings_add(r->findings, FINDING_LINT, pair->key_at,
                     "\"%s\" is not a parameter and has no effect here; move it to the top level of the file", shown);
        return;
    }
    for (int i = 0; i < method->n_params && n_names < NAMES_MAX; i++)
        if (!method->params[i].no_effect)
            names[n_names++] = method->params[i].name;
    nearest = text_nearest(pair->key, names, n_names);
    if (other)
        findings_add(r->findings, FINDING_LINT, pair->key_at,
                     "\"%s\" is a parameter of %s but not of %s; it has no effect, remove it", shown, other->name,
                     method->name);
    else if (nearest >= 0)
        findings_add(r->findings, FINDING_LINT, pair->key_at, "%s has no parameter \"%s\"; did you mean \"%s\"?",
                     method->name, shown, names[nearest]);
    else
        findings_add(r->findings, FINDING_LINT, pair->key_at,
                     "%s has no parameter \"%s\"; it has no effect, see `warpmerge methods %s`", method->name, shown,
                     method->name);
}

static bool expect_params_map(struct recipe_reader *r, const struct tree_node *node)
{
    if (node->kind == TREE_MAP)
        return true;
    r->params_unread = true;
    if (node->kind == TREE_LIST)
        findings_add(r->findings, FINDING_ERROR, node->at,
                     "parameters must be a mapping like {weight: 0.5}, not a list; remove the dashes");
    else
        findings_add(r->findings, FINDING_ERROR, node->at, "parameters must be a mapping like {weight: 0.5}");
    return false;
}

void recipe_read_params(struct recipe_reader *r, const struct tree_node *node, enum params_scope scope,
                        struct recipe_params *params)
{
    const struct method *method = r->recipe->method;
    char shown[RECIPE_SHOWN_BYTES];

    if (!recipe_given(node) || !expect_params_map(r, node))
        return;
    params->items = arena_array(r->arena, node->n_pairs, sizeof *params->items);
    if (!params->items) {
        r->no_memory = true;
        return;
    }
    for (size_t i = 0; i < node->n_pairs; i++) {
        const struct tree_pair *pair = &node->pairs[i];
        struct recipe_param scratch = {.at = pair->key_at};
        struct setting s = {.name = text_display(shown, sizeof shown, pair->key), .out = &scratch};
        int index = method ? method_param_index(method, pair->key) : -1;
        if (method && index < 0) {
            report_unknown_param(r, pair);
            continue;
        }
        if (method && scope == PARAMS_MODEL && !method->params[index].per_model && !method->params[index].no_effect) {
            findings_add(r->findings, FINDING_LINT, pair->key_at,
                         "\"%s\" is one value for the whole merge and has no effect under a model; move it to the "
                         "top-level \"parameters:\"",
                         s.name);
            continue;
        }
        if (index >= 0 && !method->params[index].no_effect) {
            s.param = &method->params[index];
            s.name = scratch.name = method->params[index].name;
        }
        /* A wrong value is kept as well: the recipe fails, but not for want of this parameter. */
        read_setting(r, &s, pair->value);
        if (s.param)
            params->items[params->n_items++] = scratch;
    }
}
