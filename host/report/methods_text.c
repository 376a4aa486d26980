/*
 * methods_text.c: what methods there are and what they take, from their descriptors.
 *
 * What lives here: the texts of `methods` and `methods NAME`. Nothing about any single method is written down here, so
 * a new method documents itself. What it must not know: recipes or checkpoints.
 */
#include "report/parameters.h"
#include "report/report.h"

#include <string.h>

static const char *base_text(enum method_base base)
{
    switch (base) {
    case METHOD_BASE_ORDINARY: return "a base_model is one more model of the merge";
    case METHOD_BASE_OPTIONAL: return "optional base_model; with one the method works on differences from it";
    case METHOD_BASE_REQUIRED: return "needs a base_model and works on differences from it";
    case METHOD_BASE_ONE_OF: return "needs a base_model, which is one of the two models";
    }
    return "";
}

static void add_type(struct text *t, const struct method_param *p)
{
    switch (p->type) {
    case METHOD_FLAG: text_add(t, "true or false"); break;
    case METHOD_CHOICE:
        for (int i = 0; p->choices[i]; i++)
            text_addf(t, "%s%s", i ? " | " : "", p->choices[i]);
        break;
    case METHOD_NUMBER:
        text_add(t, "number");
        if (p->min > -1e30 && p->max < 1e30) {
            text_add(t, " ");
            parameter_add_number(t, p->min);
            text_add(t, "..");
            parameter_add_number(t, p->max);
        } else if (p->min > -1e30) {
            text_add(t, " from ");
            parameter_add_number(t, p->min);
        }
        break;
    }
}

static void add_lines(struct text *t, const char *indent, const char *s)
{
    while (*s) {
        size_t n = strcspn(s, "\n");
        text_add(t, indent);
        text_add_bytes(t, s, n);
        text_add(t, "\n");
        s += n + (s[n] == '\n');
    }
}

static void add_models_allowed(struct text *t, const struct method *m)
{
    if (m->max_models >= METHOD_MAX_MODELS)
        text_addf(t, "%d or more", m->min_models);
    else if (m->min_models == m->max_models)
        text_addf(t, "%d", m->min_models);
    else
        text_addf(t, "%d to %d", m->min_models, m->max_models);
}

static void add_detail(struct text *t, const struct method *m)
{
    struct text type;

    text_addf(t, "%s: %s\n\n", m->name, m->summary);
    if (m->formula) {
        add_lines(t, "    ", m->formula);
        text_add(t, "\n");
    }
    text_addf(t, "  base       %s\n  models     ", base_text(m->base));
    add_models_allowed(t, m);
    text_add(t, "\n");
    if (m->source)
        text_addf(t, "  source     %s\n", m->source);
    if (m->citation_url)
        text_addf(t, "             %s\n", m->citation_url);
    if (m->n_params)
        text_add(t, "\nparameters\n");
    for (int i = 0; i < m->n_params; i++) {
        const struct method_param *p = &m->params[i];
        text_init(&type, 1024);
        add_type(&type, p);
        text_addf(t, "  %-14s %s; %s; ", p->name, text_string(&type), p->per_model ? "per model or global" : "global");
        text_release(&type);
        if (p->required) {
            text_add(t, "required");
        } else {
            text_add(t, "default ");
            parameter_add_value(t, p, p->default_value, false);
        }
        text_addf(t, "\n  %-14s %s%s\n", "", p->help, p->no_effect ? " (accepted, has no effect)" : "");
    }
    if (m->notes) {
        text_add(t, "\nnotes\n");
        add_lines(t, "  ", m->notes);
    }
}

static void add_string(struct text *t, const char *key, const char *value)
{
    text_addf(t, ", \"%s\": ", key);
    if (value)
        text_add_json(t, value);
    else
        text_add(t, "null");
}

static void add_json(struct text *t, const struct method *m)
{
    static const char *const bases[] = {"ordinary", "optional", "required", "one_of"};
    static const char *const types[] = {"number", "flag", "choice"};

    text_add(t, "{\"name\": ");
    text_add_json(t, m->name);
    add_string(t, "summary", m->summary);
    add_string(t, "formula", m->formula);
    add_string(t, "source", m->source);
    add_string(t, "citation_url", m->citation_url);
    add_string(t, "notes", m->notes);
    text_addf(t, ", \"base\": \"%s\", \"min_models\": %d, \"max_models\": %d, \"parameters\": [", bases[m->base],
              m->min_models, m->max_models);
    for (int i = 0; i < m->n_params; i++) {
        const struct method_param *p = &m->params[i];
        text_add(t, i ? ", {\"name\": " : "{\"name\": ");
        text_add_json(t, p->name);
        add_string(t, "help", p->help);
        text_addf(t, ", \"type\": \"%s\", \"per_model\": %s, \"required\": %s, \"has_effect\": %s, \"default\": ",
                  types[p->type], p->per_model ? "true" : "false", p->required ? "true" : "false",
                  p->no_effect ? "false" : "true");
        if (p->required)
            text_add(t, "null");
        else
            parameter_add_value(t, p, p->default_value, true);
        if (p->type == METHOD_CHOICE) {
            text_add(t, ", \"choices\": [");
            for (int c = 0; p->choices[c]; c++) {
                text_add(t, c ? ", " : "");
                text_add_json(t, p->choices[c]);
            }
            text_add(t, "]");
        }
        text_add(t, "}");
    }
    text_add(t, "]}");
}

static enum wm_status unknown(const char *name, struct wm_error *err)
{
    const char *names[256];
    size_t n = 0;
    char shown[96];
    int nearest;

    while (method_list[n] && n < sizeof names / sizeof *names) {
        names[n] = method_list[n]->name;
        n++;
    }
    nearest = text_nearest(name, names, n);
    text_display(shown, sizeof shown, name);
    if (nearest >= 0)
        return error_set(err, WM_USAGE, "there is no method \"%s\"; did you mean \"%s\"?", shown, names[nearest]);
    return error_set(err, WM_USAGE, "there is no method \"%s\"; `warpmerge methods` lists them", shown);
}

enum wm_status report_methods(const char *name, int as_json, struct text *out, struct wm_error *err)
{
    const struct method *one = name ? method_find(name) : NULL;
    bool any = false;

    if (name && !one)
        return unknown(name, err);
    if (one) {
        if (as_json) {
            add_json(out, one);
            text_add(out, "\n");
        } else {
            add_detail(out, one);
        }
    } else {
        text_add(out, as_json ? "{\n  \"methods\": [\n    " : "");
        for (size_t i = 0; method_list[i]; i++) {
            if (as_json) {
                text_add(out, any ? ",\n    " : "");
                add_json(out, method_list[i]);
            } else {
                text_addf(out, "%-16s %s\n", method_list[i]->name, method_list[i]->summary);
            }
            any = true;
        }
        text_add(out, as_json ? "\n  ]\n}\n" : "\n`warpmerge methods NAME` shows formula, parameters and source.\n");
    }
    return out->failed ? error_no_memory(err, "listing methods") : WM_OK;
}
