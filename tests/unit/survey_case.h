/*
 * survey_case.h: the merge whose survey test_survey.c and test_survey_ranks.c look at.
 *
 * What lives here: its recipe, options that make it quick, and its files. What it must not know: what is expected of it.
 */
#ifndef WM_TESTS_SURVEY_CASE_H
#define WM_TESTS_SURVEY_CASE_H

#include "support/merge_cases.h"

static const char recipe[] =
    "merge_method: ties\nbase_model: '%0'\nparameters: {trim: global, weight: 1, density: 0.2}\n"
    "models:\n- {model: '%1'}\n- {model: '%2', parameters: {density: 0.61}}\n"
    "- {model: '%3'}\n";

static inline struct wm_options quick(void)
{
    struct wm_options o = WM_OPTIONS_INIT;

    o.sync = 0;
    o.n_threads = 2;
    o.tile_bytes = 64 << 10;
    return o;
}

static inline void begin(struct fixture *f)
{
    fixture_init(f);
    merge_cases_write_models(f);
    merge_cases_write_config(f, "c.yml", recipe);
}

#endif
