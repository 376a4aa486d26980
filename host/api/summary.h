/* summary.h: what a finished merge did, in words and as JSON. Internal to api/, the one room that sees both the plan's
 * reports and the engine's results. */
#ifndef WM_API_SUMMARY_H
#define WM_API_SUMMARY_H

#include "base/text.h"
#include "engine/engine.h"

/* The ranks of a run. */
struct api_ranks {
    int n_ranks;      /* 1: a process alone */
    const char *comm; /* what they spoke through */
    int slowest_rank; /* -1: nobody knows */
};

void api_summary(const struct plan *plan, const struct engine_result *result, const struct api_ranks *ranks,
                 const char *out_path, int as_json, struct text *out);
/* Nothing was left to do. */
void api_complete_summary(const char *out_path, int as_json, struct text *out);
/* One of several parts. */
void api_part_summary(const struct wm_options *options, const struct engine_result *r, const char *out_path,
                      int as_json, struct text *out);
/* What a survey found: the models' thresholds and the majority sign. */
void api_survey_summary(const struct plan *plan, const struct engine_result *result, const char *out_path, int as_json,
                        struct text *out);

#endif
