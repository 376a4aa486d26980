/* Holds: what mergekit's `models:` form says arrives in the recipe: models, base, types, settings with filters and
 * gradients, and their precedence. Expected gradient values come from CPython evaluating mergekit's formula. */
#include "support/recipe_capture.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static struct recipe *parse(struct capture *c, const char *text)
{
    capture_text(c, text, strlen(text), false);
    if (c->status != WM_OK || c->lines.n_bytes)
        fail_msg("%d: %s\n%s", (int)c->status, text_string(&c->lines), text);
    return c->recipe;
}

static void check(const struct recipe *recipe, int model, const char *name, const char *tensor, double depth,
                  double expected)
{
    struct recipe_value value;

    if (!recipe_lookup(recipe, model, name, tensor, depth, &value))
        fail_msg("%s of model %d is not set for %s", name, model, tensor);
    if (!(value.number == expected))
        fail_msg("%s of model %d for %s at %.17g is %.17g, not %.17g", name, model, tensor, depth, value.number,
                 expected);
}

static void check_unset(const struct recipe *recipe, int model, const char *name, const char *tensor)
{
    struct recipe_value value;

    if (recipe_lookup(recipe, model, name, tensor, 0.5, &value))
        fail_msg("%s of model %d is %g for %s", name, model, value.number, tensor);
}

/* ---- structure ---------------------------------------------------------------------------------------------- */

static void models_base_and_types(void **state)
{
    static const char text[] = "models:\n"
                               "  - model: org/base\n"
                               "  - model: org/a@v1\n"
                               "    parameters: {weight: 0.5}\n"
                               "merge_method: ties\n"
                               "base_model: org/base\n"
                               "dtype: torch.bfloat16\n"
                               "out_dtype: float16\n";
    struct capture c;
    struct recipe *r = parse(&c, text);

    (void)state;
    assert_string_equal(r->path, "config.yml");
    assert_int_equal(r->n_text_bytes, strlen(text));
    assert_memory_equal(r->text, text, sizeof text);
    assert_string_equal(r->method->name, "ties");
    assert_int_equal(r->method_at.line, 5);
    assert_int_equal(r->method_at.column, 15);
    assert_int_equal(r->n_models, 2);
    assert_string_equal(r->models[0].ref.text, "org/base");
    assert_string_equal(r->models[1].ref.text, "org/a@v1");
    assert_string_equal(r->models[1].ref.path, "org/a");
    assert_string_equal(r->models[1].ref.revision, "v1");
    assert_int_equal(r->models[1].ref.at.line, 3);
    assert_int_equal(r->models[1].ref.at.column, 12);
    assert_true(r->has_base);
    assert_int_equal(r->base_index, 0);
    assert_true(r->has_dtype && r->dtype == WM_BF16);
    assert_true(r->has_out_dtype && r->out_dtype == WM_F16);
    assert_int_equal(r->models[1].params.items[0].at.line, 4);
    assert_int_equal(r->models[1].params.items[0].conditions[0].at.column, 26);
    capture_release(&c);
}

/* Where the base goes: special bases stay outside; for the others mergekit appends one that is not listed. */
static void base_by_method(void **state)
{
    static const struct {
        const char *text;
        int base_index;
        size_t n_models;
    } cases[] = {
        {"merge_method: ties\nparameters: {weight: 1}\nmodels: [{model: a}]\nbase_model: b", -1, 1},
        {"merge_method: ties\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}]\nbase_model: b", 1, 2},
        {"merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}]", -1, 1},
        {"merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}]\nbase_model: b", 1, 2},
        {"merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: b}, {model: a}]\nbase_model: b", 0, 2},
        {"merge_method: slerp\nparameters: {t: 1}\nmodels: [{model: a}]\nbase_model: b", 1, 2},
        {"merge_method: slerp\nparameters: {t: 1}\nmodels: [{model: b}, {model: a}]\nbase_model: b", 0, 2},
        {"merge_method: nuslerp\nparameters: {weight: 1}\nmodels: [{model: a}, {model: c}]\nbase_model: b", -1, 2},
        {"merge_method: nuslerp\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}, {model: c}]\nbase_model: b",
         1, 3},
        /* the mapping form is the same model */
        {"merge_method: slerp\nparameters: {t: 1}\nmodels: [{model: a}, {model: b@x}]\n"
         "base_model: {model: {path: b, revision: x}}",
         1, 2},
        /* another revision is another model */
        {"merge_method: ties\nparameters: {weight: 1}\nmodels: [{model: b@x}]\nbase_model: b", -1, 1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct capture c;
        const struct recipe *r = parse(&c, cases[i].text);
        if (r->base_index != cases[i].base_index || r->n_models != cases[i].n_models)
            fail_msg("base at %d of %zu models:\n%s", r->base_index, r->n_models, cases[i].text);
        if (r->base_index >= 0)
            assert_string_equal(r->models[r->base_index].ref.text, r->base_model.text);
        capture_release(&c);
    }
}

static void references(void **state)
{
    static const struct {
        const char *yaml, *text, *path, *revision, *lora_path, *lora_revision;
    } cases[] = {
        {"org/name", "org/name", "org/name", NULL, NULL, NULL},
        {"org/name@main", "org/name@main", "org/name", "main", NULL, NULL},
        {"a+b", "a+b", "a", NULL, "b", NULL},
        {"a@1+b@2", "a@1+b@2", "a", "1", "b", "2"},
        {"a+b@2", "a+b@2", "a", NULL, "b", "2"},
        {"{model: a@1}", "a@1", "a", "1", NULL, NULL},
        {"{model: {path: 'x+y@z'}}", "x+y@z", "x+y@z", NULL, NULL, NULL},
        {"{model: {path: a, revision: r}, lora: {path: l, revision: s}}", "a@r+l@s", "a", "r", "l", "s"},
        {"{model: a, lora: l@s}", "a+l@s", "a", NULL, "l", "s"},
        {"{model: a+b}", "a+b", "a+b", NULL, NULL, NULL}, /* `model:` is a path: mergekit splits it at @ only */
        {"'no'", "no", "no", NULL, NULL, NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[300];
        struct capture c;
        const struct recipe_ref *ref;
        snprintf(text, sizeof text, "merge_method: passthrough\nmodels:\n  - model: %s\n", cases[i].yaml);
        capture_begin(&c, true);
        assert_int_equal(recipe_parse(&c.recipe, "config.yml", text, strlen(text), &c.problems, &c.err), WM_OK);
        ref = &c.recipe->models[0].ref;
        assert_string_equal(ref->text, cases[i].text);
        assert_string_equal(ref->path, cases[i].path);
        assert_string_equal(ref->revision ? ref->revision : "-", cases[i].revision ? cases[i].revision : "-");
        assert_string_equal(ref->lora_path ? ref->lora_path : "-", cases[i].lora_path ? cases[i].lora_path : "-");
        assert_string_equal(ref->lora_revision ? ref->lora_revision : "-",
                            cases[i].lora_revision ? cases[i].lora_revision : "-");
        capture_release(&c);
    }
}

/* ---- settings ----------------------------------------------------------------------------------------------- */

static void gradients(void **state)
{
    static const char text[] = "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\n"
                               "parameters: {t: [0.1, 0.5, 0.3, 0.7, 1]}\n";
    /* python3: s=t*4; i0=int(s); i1=min(4,i0+1); f=s-i0; print(((1-f)*v[i0]+f*v[i1]).hex()) */
    static const struct {
        double depth, value;
    } cases[] = {
        {0x1.0000000000000p+0, 0x1.0000000000000p+0}, {0x0.0p+0, 0x1.999999999999ap-4},
        {0x1.0000000000000p-1, 0x1.3333333333333p-2}, {0x1.5555555555555p-3, 0x1.7777777777777p-2},
        {0x1.5555555555555p-2, 0x1.bbbbbbbbbbbbcp-2}, {0x1.5555555555555p-1, 0x1.2222222222221p-1},
        {0x1.aaaaaaaaaaaabp-1, 0x1.999999999999ap-1}, {0x1.4a5294a5294a5p-3, 0x1.6ea876ea876eap-2},
        {0x1.4a5294a5294a5p-2, 0x1.c48abc48abc49p-2}, {0x1.ef7bdef7bdef8p-2, 0x1.4069b4069b406p-2},
        {0x1.4a5294a5294a5p-1, 0x1.1084210842108p-1}, {0x1.9ce739ce739cep-1, 0x1.8915789157890p-1},
        {0x1.ef7bdef7bdef8p-1, 0x1.ec2e3ec2e3ec3p-1},
    };
    struct capture c;
    const struct recipe *r = parse(&c, text);

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check(r, -1, "t", "model.layers.3.mlp.up_proj.weight", cases[i].depth, cases[i].value);
    /* Outside [0, 1] nothing is extrapolated. */
    check(r, -1, "t", "x", -1.0, 0.1);
    check(r, -1, "t", "x", 2.0, 1.0);
    check(r, -1, "t", "x", (double)NAN, 0.1);
    capture_release(&c);
}

static void filters(void **state)
{
    static const char text[] = "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\n"
                               "parameters:\n"
                               "  t:\n"
                               "    - {filter: self_attn, value: [0, 1]}\n"
                               "    - {filter: layers.1, value: 0.25}\n"
                               "    - {filter: MLP, value: 9}\n"
                               "    - {filter: \"*.bias\", value: 8}\n"
                               "    - {filter: '*', value: 0.5}\n";
    struct capture c;
    const struct recipe *r = parse(&c, text);

    (void)state;
    check(r, -1, "t", "model.layers.1.self_attn.q_proj.weight", 0.75, 0.75); /* the first match wins */
    check(r, -1, "t", "model.layers.1.mlp.up_proj.weight", 0.75, 0.25);      /* cases differ from MLP */
    check(r, -1, "t", "model.layers.12.mlp.up_proj.weight", 0.75, 0.25);     /* a substring, not a component */
    check(r, -1, "t", "model.layers.2.mlp.up_proj.bias", 0.75, 0.5);         /* no glob */
    check(r, -1, "t", "lm_head.weight", 0.0, 0.5);
    capture_release(&c);
}

/* Model, then global, then nothing (the method's default is the caller's). A setting whose filters all miss counts as
 * not set at its level. */
static void precedence(void **state)
{
    static const char text[] = "merge_method: ties\nbase_model: base\n"
                               "models:\n"
                               "  - model: base\n"
                               "  - model: a\n"
                               "    parameters:\n"
                               "      weight: 0.1\n"
                               "      density:\n"
                               "        - {filter: mlp, value: 0.2}\n"
                               "  - model: b\n"
                               "parameters:\n"
                               "  weight: 0.3\n"
                               "  density:\n"
                               "    - {filter: attn, value: 0.4}\n"
                               "  normalize: false\n";
    struct capture c;
    const struct recipe *r = parse(&c, text);

    (void)state;
    check(r, 1, "weight", "x", 0, 0.1);
    check(r, 2, "weight", "x", 0, 0.3);
    check(r, 0, "weight", "x", 0, 0.3); /* the base has none of its own */
    check(r, -1, "weight", "x", 0, 0.3);
    check(r, 1, "density", "l.mlp.w", 0, 0.2);
    check(r, 1, "density", "l.attn.w", 0, 0.4); /* falls through to the global level */
    check_unset(r, 1, "density", "norm");
    check(r, 2, "density", "l.attn.w", 0, 0.4);
    check_unset(r, 2, "density", "l.mlp.w");
    check(r, -1, "normalize", "x", 0, 0.0);
    check_unset(r, -1, "lambda", "x");
    check_unset(r, -1, "no_such_parameter", "x");
    check_unset(r, 99, "lambda", "x");
    capture_release(&c);
}

static void implicit_base_uses_global(void **state)
{
    struct capture c;
    const struct recipe *r = parse(&c, "merge_method: linear\nbase_model: base\nparameters: {weight: 0.7}\n"
                                       "models: [{model: a, parameters: {weight: 0.2}}]\n");

    (void)state;
    assert_int_equal(r->base_index, 1);
    check(r, 0, "weight", "x", 0, 0.2);
    check(r, 1, "weight", "x", 0, 0.7);
    capture_release(&c);
}

/* ---- types -------------------------------------------------------------------------------------------------- */

static void numbers(void **state)
{
    static const struct {
        const char *yaml;
        double value;
    } cases[] = {
        {"1", 1},       {"-0.5", -0.5},   {"1e-3", 1e-3}, {"'0.25'", 0.25},  {"\"1e2\"", 100},      {"yes", 1},
        {"false", 0},   {"012", 10},      {"0x10", 16},   {"1:30", 90},      {"1_000", 1000},       {".5", 0.5},
        {"[0.5]", 0.5}, {"!!float 3", 3}, {"!!str 3", 3}, {"{value: 2}", 2}, {"[{value: [2]}]", 2},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[200];
        struct capture c;
        snprintf(text, sizeof text, "merge_method: linear\nparameters:\n  weight: %s\nmodels: [{model: a}]\n",
                 cases[i].yaml);
        check(parse(&c, text), 0, "weight", "x", 1.0, cases[i].value);
        capture_release(&c);
    }
}

static void flags(void **state)
{
    static const struct {
        const char *yaml;
        double value;
    } cases[] = {
        {"true", 1}, {"no", 0}, {"1", 1}, {"0.0", 0}, {"\"yes\"", 1}, {"n", 0}, {"[on, off]", 1},
    };
    struct recipe_value value;
    struct capture c;
    const struct recipe *r;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[200];
        snprintf(text, sizeof text,
                 "merge_method: linear\nparameters: {weight: 1, normalize: %s}\nmodels: [{model: a}]\n", cases[i].yaml);
        check(parse(&c, text), -1, "normalize", "x", 0.0, cases[i].value);
        capture_release(&c);
    }
    /* A gradient of flags steps; nothing is half true. */
    r = parse(&c,
              "merge_method: linear\nparameters: {weight: 1, normalize: [false, true, false]}\nmodels: [{model: a}]\n");
    check(r, -1, "normalize", "x", 0.49, 0.0);
    check(r, -1, "normalize", "x", 0.5, 1.0);
    check(r, -1, "normalize", "x", 0.99, 1.0);
    check(r, -1, "normalize", "x", 1.0, 0.0);
    assert_true(recipe_lookup(r, -1, "normalize", "x", 1.0, &value));
    assert_null(value.word);
    capture_release(&c);
}

static void choices(void **state)
{
    static const struct {
        const char *yaml, *word;
    } cases[] = {
        {"true", "true"},
        {"no", "false"},
        {"1", "true"},
        {"\"false\"", "false"},
        {"\"on\"", "true"},
        {"inv_density", "inv_density"},
        {"'inv_density'", "inv_density"},
        {"[inv_density, true]", "inv_density"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[200];
        struct capture c;
        struct recipe_value value;
        const struct method_param *param;
        const struct recipe *r;
        snprintf(text, sizeof text,
                 "merge_method: dare_ties\nbase_model: b\nparameters: {weight: 1, rescale: %s}\nmodels: [{model: a}]\n",
                 cases[i].yaml);
        r = parse(&c, text);
        assert_true(recipe_lookup(r, -1, "rescale", "x", 0.5, &value));
        assert_string_equal(value.word, cases[i].word);
        param = &r->method->params[method_param_index(r->method, "rescale")];
        assert_string_equal(param->choices[(int)value.number], cases[i].word);
        capture_release(&c);
    }
}

/* ---- YAML --------------------------------------------------------------------------------------------------- */

static void merge_keys(void **state)
{
    static const char text[] = "merge_method: ties\nbase_model: base\n"
                               "models:\n"
                               "  - model: a\n"
                               "    parameters: &a {weight: 0.1, density: 0.2}\n"
                               "  - model: b\n"
                               "    parameters: {density: 0.5, <<: *a}\n" /* own keys win wherever they stand */
                               "  - model: c\n"
                               "    parameters: {<<: [{weight: 0.8}, *a]}\n" /* the earlier mapping wins */
                               "  - model: d\n"
                               "    parameters: {<<: {<<: *a, weight: 0.9}}\n";
    struct capture c;
    const struct recipe *r = parse(&c, text);

    (void)state;
    check(r, 1, "weight", "x", 0, 0.1);
    check(r, 1, "density", "x", 0, 0.5);
    check(r, 2, "weight", "x", 0, 0.8);
    check(r, 2, "density", "x", 0, 0.2);
    check(r, 3, "weight", "x", 0, 0.9);
    check(r, 3, "density", "x", 0, 0.2);
    capture_release(&c);
}

/* What has no effect is not kept, so nothing can pick it up by accident. */
static void ineffective_parameters_are_dropped(void **state)
{
    static const char text[] = "merge_method: task_arithmetic\nbase_model: base\n"
                               "models:\n  - model: a\n    parameters: {weight: 1, density: 0.5, lambda: 3}\n"
                               "parameters: {int8_mask: true, gama: 2}\n";
    struct capture c;

    (void)state;
    capture_text(&c, text, strlen(text), false);
    assert_int_equal(c.status, WM_OK);
    assert_non_null(strstr(text_string(&c.lines), "task_arithmetic has no parameter \"gama\""));
    assert_int_equal(c.recipe->params.n_items, 0);
    assert_int_equal(c.recipe->models[0].params.n_items, 1);
    check_unset(c.recipe, 0, "lambda", "x");
    check_unset(c.recipe, 0, "density", "x");
    capture_release(&c);
}

/* ---- files -------------------------------------------------------------------------------------------------- */

/* Every config of tests/configs/good parses without a word, strictly too. */
static void good_files(void **state)
{
    static const char here[] = __FILE__, name[] = "unit/test_recipe.c";
    char folder[4096];
    struct dirent *entry;
    DIR *dir;
    int n = 0;

    (void)state;
    snprintf(folder, sizeof folder, "%.*sconfigs/good", (int)(sizeof here - sizeof name), here);
    dir = opendir(folder);
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        char path[8192];
        struct capture c;
        if (!strstr(entry->d_name, ".yml"))
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        capture_file(&c, path, true);
        if (c.status != WM_OK || c.lines.n_bytes)
            fail_msg("%s: %d\n%s", path, (int)c.status, text_string(&c.lines));
        capture_release(&c);
        n++;
    }
    closedir(dir);
    assert_true(n >= 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(models_base_and_types),
        cmocka_unit_test(base_by_method),
        cmocka_unit_test(references),
        cmocka_unit_test(gradients),
        cmocka_unit_test(filters),
        cmocka_unit_test(precedence),
        cmocka_unit_test(implicit_base_uses_global),
        cmocka_unit_test(numbers),
        cmocka_unit_test(flags),
        cmocka_unit_test(choices),
        cmocka_unit_test(merge_keys),
        cmocka_unit_test(ineffective_parameters_are_dropped),
        cmocka_unit_test(good_files),
    };

    return cmocka_run_group_tests_name("recipe", tests, NULL, NULL);
}
