/* recipe_check.c: the rules that need the whole recipe: the base and the number of models against the method, required
 * parameters, and what this version refuses. Reads no YAML. */
#include "base/text.h"
#include "recipe/model_ref.h"
#include "recipe/recipe_reader.h"

#include <stdio.h>
#include <string.h>

/* ---- base --------------------------------------------------------------------------------------------------- */

/* The base is one of the models that are merged, not something they are compared with. */
static bool base_is_a_model(const struct method *method)
{
    return method->base == METHOD_BASE_ORDINARY || method->base == METHOD_BASE_ONE_OF;
}

/* Models[i] is the base and none of the models that are merged. */
static bool is_special_base(const struct recipe *recipe, size_t i)
{
    return recipe->base_index >= 0 && !base_is_a_model(recipe->method) &&
           model_ref_equal(&recipe->models[i].ref, &recipe->base_model);
}

static void find_base(struct recipe_reader *r)
{
    struct recipe *recipe = r->recipe;
    char shown[RECIPE_SHOWN_BYTES];

    for (size_t i = 0; recipe->has_base && i < recipe->n_models; i++) {
        if (!model_ref_equal(&recipe->models[i].ref, &recipe->base_model))
            continue;
        if (recipe->base_index < 0)
            recipe->base_index = (int)i;
        else if (recipe->method && recipe->method->base != METHOD_BASE_ORDINARY)
            findings_add(r->findings, FINDING_ERROR, recipe->models[i].ref.at,
                         "the base model \"%s\" is listed a second time (first at line %d); remove this entry",
                         text_display(shown, sizeof shown, recipe->base_model.text),
                         recipe->models[recipe->base_index].ref.at.line);
    }
}

/* mergekit adds a base that is not listed to every merge as one more model. For methods with a special base that is the
 * base itself; for the others it changes the average, so say what happens when it leads nowhere (see arity, required). */
static bool append_base(struct recipe_reader *r)
{
    struct recipe *recipe = r->recipe;

    if (!recipe->has_base || recipe->base_index >= 0 || !recipe->models || !base_is_a_model(recipe->method))
        return false;
    recipe->models[recipe->n_models].ref = recipe->base_model; /* recipe_read_models left room */
    recipe->base_index = (int)recipe->n_models++;
    return true;
}

static void check_base_given(struct recipe_reader *r)
{
    const struct recipe *recipe = r->recipe;

    if (recipe->base_model.at.line) /* given, or given wrongly and reported */
        return;
    if (recipe->method->base == METHOD_BASE_REQUIRED)
        findings_add(r->findings, FINDING_ERROR, recipe->method_at,
                     "%s merges differences from a base model; add \"base_model:\" with the model that the others were "
                     "trained from",
                     recipe->method->name);
    else if (recipe->method->base == METHOD_BASE_ONE_OF)
        findings_add(r->findings, FINDING_ERROR, recipe->method_at,
                     "%s needs \"base_model:\" to know which of its two models comes first", recipe->method->name);
}

/* ---- number of models --------------------------------------------------------------------------------------- */

static void check_arity(struct recipe_reader *r, bool appended)
{
    const struct recipe *recipe = r->recipe;
    const struct method *method = recipe->method;
    int max = method->max_models < METHOD_MAX_MODELS ? method->max_models : METHOD_MAX_MODELS;
    bool base_counts = base_is_a_model(method);
    size_t n = recipe->n_models - (!base_counts && recipe->base_index >= 0 ? 1 : 0);
    const char *beside = base_counts ? "" : recipe->has_base ? " besides the base" : "";
    char range[64], shown[RECIPE_SHOWN_BYTES], remark[RECIPE_SHOWN_BYTES + 120] = "";

    if (n >= (size_t)method->min_models && n <= (size_t)max)
        return;
    if (method->min_models == max)
        snprintf(range, sizeof range, "exactly %d model%s", max, max == 1 ? "" : "s");
    else
        snprintf(range, sizeof range, "%d to %d models", method->min_models, max);
    if (method->base == METHOD_BASE_ONE_OF && recipe->has_base)
        beside = ", the base among them";
    if (recipe->has_base)
        text_display(shown, sizeof shown, recipe->base_model.text);
    if (appended)
        snprintf(remark, sizeof remark, "; the base model \"%s\" is not listed and counts as one more, %s", shown,
                 method->base == METHOD_BASE_ONE_OF ? "name one of the listed models instead" : "remove base_model");
    else if (!base_counts && recipe->base_index >= 0)
        snprintf(remark, sizeof remark, "; \"%s\" is the base and does not count", shown);
    findings_add(r->findings, FINDING_ERROR, r->models_at, "%s merges %s%s, but this recipe has %zu%s", method->name,
                 range, beside, n, remark);
}

/* ---- the same model twice ----------------------------------------------------------------------------------- */

/* mergekit 0.1.4 merges the entries into one wrongly (its issue 214), 0.1.5 refuses them. Here each entry counts. */
static void note_repeated(struct recipe_reader *r)
{
    const struct recipe *recipe = r->recipe;
    char shown[RECIPE_SHOWN_BYTES];

    if (recipe->n_models > METHOD_MAX_MODELS + 1) /* too many anyway; keeps the pairs few */
        return;
    for (size_t i = 1; i < recipe->n_models; i++) {
        for (size_t j = 0; j < i; j++) {
            if (!recipe->models[i].ref.path || is_special_base(recipe, i) ||
                !model_ref_equal(&recipe->models[i].ref, &recipe->models[j].ref))
                continue;
            findings_add(r->findings, FINDING_NOTE, recipe->models[i].ref.at,
                         "\"%s\" is listed at line %d already; each entry counts with its own parameters",
                         text_display(shown, sizeof shown, recipe->models[i].ref.text), recipe->models[j].ref.at.line);
            break;
        }
    }
}

/* ---- required parameters ------------------------------------------------------------------------------------ */

static void check_required_global(struct recipe_reader *r, const struct method_param *param)
{
    if (!recipe_find_param(&r->recipe->params, param->name))
        findings_add(r->findings, FINDING_ERROR, r->recipe->method_at,
                     "%s needs the parameter \"%s\", %s; add it to the top-level \"parameters:\"",
                     r->recipe->method->name, param->name, param->help ? param->help : "see `warpmerge methods NAME`");
}

static void check_required_per_model(struct recipe_reader *r, const struct method_param *param, bool appended)
{
    const struct recipe *recipe = r->recipe;
    char shown[RECIPE_SHOWN_BYTES];

    if (recipe_find_param(&recipe->params, param->name))
        return;
    for (size_t i = 0; i < recipe->n_models; i++) {
        const struct recipe_model *model = &recipe->models[i];
        bool is_base = (int)i == recipe->base_index;
        if (!model->ref.path || (is_base && !base_is_a_model(recipe->method)) ||
            recipe_find_param(&model->params, param->name))
            continue;
        text_display(shown, sizeof shown, model->ref.text);
        if (is_base && appended)
            findings_add(r->findings, FINDING_ERROR, model->ref.at,
                         "the base model \"%s\" is not listed under models, so %s merges it as one more model, and it "
                         "has no \"%s\"; list it with a %s of its own, give %s once under the top-level "
                         "\"parameters:\", or remove base_model",
                         shown, recipe->method->name, param->name, param->name, param->name);
        else
            findings_add(r->findings, FINDING_ERROR, model->ref.at,
                         "%s needs a \"%s\" for every model, and \"%s\" has none; add it under this model's "
                         "\"parameters:\", or once for all under the top-level \"parameters:\"",
                         recipe->method->name, param->name, shown);
    }
}

void recipe_check(struct recipe_reader *r)
{
    const struct recipe *recipe = r->recipe;
    const struct method *method = recipe->method;
    bool appended;

    if (!method || (!recipe->n_models && (recipe->n_slices || recipe->n_modules)))
        return;
    find_base(r);
    check_base_given(r);
    note_repeated(r);
    appended = append_base(r);
    if (recipe->n_models)
        check_arity(r, appended);
    for (int i = 0; i < method->n_params; i++) {
        const struct method_param *param = &method->params[i];
        if (!param->required || param->no_effect || r->params_unread)
            continue;
        if (param->per_model)
            check_required_per_model(r, param, appended);
        else
            check_required_global(r, param);
    }
}

/* ---- not yet ------------------------------------------------------------------------------------------------ */

static void refuse_ref(struct findings *f, const struct recipe_ref *ref)
{
    char shown[RECIPE_SHOWN_BYTES];

    if (!ref->path)
        return;
    if (ref->lora_path)
        findings_add(
            f, FINDING_ERROR, ref->at,
            "\"%s\" names a LoRA adapter, which this version does not merge yet; merge it into its model first "
            "and name the result",
            text_display(shown, sizeof shown, ref->text));
    if (ref->override_architecture)
        findings_add(f, FINDING_ERROR, ref->at,
                     "\"%s\" has override_architecture, which this version does not support yet; edit "
                     "\"architectures\" in that model's config.json instead",
                     text_display(shown, sizeof shown, ref->text));
}

void recipe_unsupported(const struct recipe *recipe, struct problems *problems)
{
    struct findings findings, *f = &findings;

    findings_init(f, recipe->path, problems);
    if (recipe->n_slices)
        findings_add(f, FINDING_ERROR, recipe->slices_at,
                     "slices are not merged by this version yet; list whole models under \"models:\"");
    if (recipe->n_modules)
        findings_add(f, FINDING_ERROR, recipe->modules_at,
                     "modules are not merged by this version yet; list whole models under \"models:\", which merges "
                     "every module alike");
    if (recipe->has_tokenizer || recipe->tokenizer_source)
        findings_add(f, FINDING_ERROR, recipe->tokenizer_at,
                     "%s is not supported by this version yet; remove it to copy the tokenizer of the base or first "
                     "model unchanged",
                     recipe->has_tokenizer ? "tokenizer" : "tokenizer_source");
    if (recipe->chat_template)
        findings_add(
            f, FINDING_ERROR, recipe->chat_template_at,
            "chat_template is not supported by this version yet; remove it to keep the template of the base or "
            "first model");
    if (recipe->has_base && recipe->base_index < 0)
        refuse_ref(f, &recipe->base_model);
    for (size_t i = 0; i < recipe->n_models; i++)
        refuse_ref(f, &recipe->models[i].ref);
    findings_flush(f);
    findings_release(f);
}
