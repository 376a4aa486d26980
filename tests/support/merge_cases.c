/* merge_cases.c: see merge_cases.h. */
#include "support/merge_cases.h"

#include <stdio.h>
#include <string.h>

/* Sizes around chunk and tile borders, an odd tail, a scalar, an empty tensor, integers, and mixed types. */
void merge_cases_write_models(const struct fixture *f)
{
    for (int m = 0; m < 4; m++) {
        char name[16];
        uint64_t s = m ? 100u + (uint64_t)m : 0;
        struct fixture_tensor t[] = {
            {"model.embed_tokens.weight", WM_BF16, 2, {700, 100}, 1, 0.02, s, 3e-4, NULL},
            {"model.layers.0.a", WM_BF16, 2, {257, 311}, 2, 0.02, s, 3e-4, NULL},
            {"model.layers.0.b", WM_F32, 1, {16384}, 3, 0.02, s, 3e-4, NULL},
            {"model.layers.1.a", WM_F16, 2, {129, 127}, 4, 0.02, s, 3e-4, NULL},
            {"model.layers.1.b", m == 2 ? WM_F32 : WM_BF16, 1, {65537}, 5, 0.02, s, 3e-4, NULL},
            {"model.layers.1.position_ids", WM_I64, 1, {513}, 0, 0, 0, 0, NULL},
            {"model.layers.1.scalar", WM_F32, 0, {0}, 6, 1.0, s, 0.1, NULL},
            {"model.layers.1.empty", WM_BF16, 2, {0, 4}, 0, 0, 0, 0, NULL},
            {"model.norm.weight", WM_BF16, 1, {100}, 7, 1.0, s, 1e-2, NULL},
            {"untouched", WM_BF16, 1, {40000}, 8, 0.02, 0, 0, NULL},
        };
        snprintf(name, sizeof name, "m%d", m);
        fixture_write_model(f, name, t, sizeof t / sizeof *t, m == 1 ? 100000 : 0,
                            "{\"model_type\":\"llama\",\"vocab_size\":700,\"torch_dtype\":\"bfloat16\"}");
    }
}

/* A config whose model paths %0..%3 are the fixture's. */
void merge_cases_write_config(const struct fixture *f, const char *name, const char *yaml)
{
    char text[4096] = "";

    for (const char *p = yaml; *p; p++) {
        size_t n = strlen(text);
        if (*p == '%')
            snprintf(text + n, sizeof text - n, "%s/m%c", f->dir, *++p);
        else
            snprintf(text + n, sizeof text - n, "%c", *p);
    }
    fixture_write_file(f, name, text);
}

const char *const merge_cases_recipes[] = {
    "merge_method: linear\nmodels:\n- {model: '%1', parameters: {weight: 0.3}}\n- {model: '%2', parameters: {weight: "
    "[0.1, 0.9]}}\n- {model: '%3', parameters: {weight: -0.2}}\n",
    "merge_method: ties\nbase_model: '%0'\nparameters: {density: 0.3, rescale: true}\nmodels:\n- {model: '%1', "
    "parameters: {weight: 0.5}}\n- {model: '%2', parameters: {weight: 0.7, density: 0.61}}\n- {model: '%3', "
    "parameters: "
    "{weight: 1}}\n",
    "merge_method: dare_ties\nbase_model: '%0'\nparameters: {density: 0.4}\nmodels:\n- {model: '%1', parameters: "
    "{weight: "
    "0.5}}\n- {model: '%2', parameters: {weight: 0.7}}\n",
    "merge_method: slerp\nbase_model: '%0'\nparameters: {t: [0.2, 0.8]}\nmodels:\n- {model: '%0'}\n- {model: '%1'}\n",
    "merge_method: nuslerp\nbase_model: '%0'\nparameters: {nuslerp_flatten: false, nuslerp_row_wise: true}\nmodels:\n- "
    "{model: '%1', parameters: {weight: 1}}\n- {model: '%2', parameters: {weight: 2}}\n",
    "merge_method: nuslerp\nparameters: {nuslerp_flatten: false}\nmodels:\n- {model: '%1', parameters: {weight: 1}}\n- "
    "{model: '%2', parameters: {weight: 2}}\n",
    "merge_method: mergealign\nbase_model: '%0'\nmodels:\n- {model: '%1'}\n- {model: '%2'}\n",
    "merge_method: passthrough\ndtype: float32\nparameters: {scale: 0.5}\nmodels:\n- {model: '%1'}\n",
    "merge_method: ties\nbase_model: '%0'\nparameters: {trim: global, weight: 1, density: 0.2}\nmodels:\n- {model: "
    "'%1'}\n- {model: '%2', parameters: {density: 0.61}}\n- {model: '%3'}\n",
};

const size_t merge_cases_count = sizeof merge_cases_recipes / sizeof *merge_cases_recipes;
