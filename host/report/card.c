/*
 * card.c: README.md, the model card of a merge.
 *
 * What lives here: Hugging Face front matter, then method, models, parameters and the recipe in Markdown. Names come
 * from strangers' configs, so they are quoted for YAML and Markdown. What it must not know: the output's name or place
 * (the card is the same wherever the merge is run).
 */
#include "report/parameters.h"
#include "report/report.h"

#include "checkpoint/hub_cache.h"

#include <string.h>

/* org/name, and really found in the hub cache: a local folder "models/base" looks the same. */
static bool is_hub_model(const struct plan *plan, int model)
{
    char id[200];
    const char *name = plan_model_name(plan, model);
    size_t n = strcspn(name, "@");

    if (!plan->models[model]->commit || n >= sizeof id)
        return false;
    memcpy(id, name, n);
    id[n] = '\0';
    return hub_is_repo_id(id) && strchr(id, '/');
}

static void add_hub_name(struct text *t, const char *name)
{
    text_add_bytes(t, name, strcspn(name, "@"));
}

/* `name` in backticks; what could end the code span or the line is dropped. */
static void add_code(struct text *t, const char *name)
{
    text_add(t, "`");
    for (; *name; name++)
        if (*name != '`' && (unsigned char)*name >= 0x20 && *name != 0x7F)
            text_add_bytes(t, name, 1);
    text_add(t, "`");
}

static void add_front_matter(struct text *t, const struct plan *plan)
{
    bool any = false;

    text_add(t, "---\n");
    for (int m = 0; m < plan->n_models; m++) {
        bool repeated = false;
        if (!is_hub_model(plan, m))
            continue;
        for (int other = 0; other < m; other++)
            repeated |= is_hub_model(plan, other) && plan->models[other] == plan->models[m];
        if (repeated)
            continue;
        text_add(t, any ? "- " : "base_model:\n- ");
        add_hub_name(t, plan_model_name(plan, m));
        text_add(t, "\n");
        any = true;
    }
    if (any)
        text_add(t, "base_model_relation: merge\n");
    text_add(t, "library_name: transformers\ntags:\n- warpmerge\n- mergekit\n- merge\n---\n\n");
}

static void add_model(struct text *t, const struct plan *plan, int m)
{
    text_add(t, "- ");
    if (is_hub_model(plan, m)) {
        text_add(t, "[");
        add_hub_name(t, plan_model_name(plan, m));
        text_add(t, "](https://huggingface.co/");
        add_hub_name(t, plan_model_name(plan, m));
        text_addf(t, "/tree/%s)", plan->models[m]->commit);
    } else {
        add_code(t, plan_model_name(plan, m));
    }
    if (m == plan->base)
        text_add(t, " (base)");
}

/* The longest run of backticks decides the fence, so that no recipe can end it. */
static void add_recipe(struct text *t, const struct recipe *recipe)
{
    size_t run = 0, longest = 2;

    for (size_t i = 0; i < recipe->n_text_bytes; i++) {
        run = recipe->text[i] == '`' ? run + 1 : 0;
        longest = run > longest ? run : longest;
    }
    for (size_t i = 0; i <= longest; i++)
        text_add(t, "`");
    text_add(t, "yaml\n");
    text_add_bytes(t, recipe->text, recipe->n_text_bytes);
    if (recipe->n_text_bytes && recipe->text[recipe->n_text_bytes - 1] != '\n')
        text_add(t, "\n");
    for (size_t i = 0; i <= longest; i++)
        text_add(t, "`");
    text_add(t, "\n");
}

void report_card(const struct plan *plan, struct text *out)
{
    const struct method *method = plan->recipe->method;
    struct text list;

    add_front_matter(out, plan);
    text_addf(out,
              "# Merged model (%s)\n\nThis is a merge of pre-trained language models created with warpmerge " WM_VERSION
              " from a\n[mergekit](https://github.com/arcee-ai/mergekit) configuration.\n\n## Method\n\n**%s**: %s\n",
              method->name, method->name, method->summary);
    if (method->formula)
        text_addf(out, "\n```\n%s\n```\n", method->formula);
    if (method->source || method->citation_url)
        text_addf(out, "\nSource: %s%s%s\n", method->source ? method->source : "",
                  method->source && method->citation_url ? ", " : "", method->citation_url ? method->citation_url : "");

    text_add(out, "\n## Models\n\n");
    for (int m = 0; m < plan->n_models; m++) {
        add_model(out, plan, m);
        text_init(&list, TEXT_MAX_BYTES);
        if (parameter_add_list(&list, plan, m, ", "))
            text_addf(out, ": %s", text_string(&list));
        text_release(&list);
        text_add(out, "\n");
    }
    text_init(&list, TEXT_MAX_BYTES);
    if (parameter_add_list(&list, plan, -1, "\n- "))
        text_addf(out, "\n## Parameters\n\n- %s\n", text_string(&list));
    text_release(&list);

    text_add(out, "\n## Configuration\n\n");
    add_recipe(out, plan->recipe);
    text_add(out, "\nEvery resolved parameter and the hash of every tensor are in `" REPORT_MANIFEST_NAME "`.\n");
}
