/* plan_internal.h: the steps of plan_new, for the files of host/plan only. Each step fills its part of struct plan. */
#ifndef WM_PLAN_INTERNAL_H
#define WM_PLAN_INTERNAL_H

#include "plan/plan.h"

struct plan_build {
    struct plan *plan;
    const struct recipe *recipe;
    const struct wm_options *options;
    struct problems *problems;
};

/* plan_tensors.c: which tensors the output has, who takes part in each, its shape, type and depth. */
enum wm_status plan_build_tensors(struct plan_build *b, struct wm_error *err);
/* plan_params.c: resolved parameters of every job, checked by preparing every operation once. */
enum wm_status plan_build_params(struct plan_build *b, struct wm_error *err);
/* plan_layout.c: order, shards, headers, offsets. */
enum wm_status plan_build_layout(struct plan_build *b, struct wm_error *err);
/* plan_memory.c: threads, tile size and the ring under the budget; bytes that are read twice. */
enum wm_status plan_build_memory(struct plan_build *b, struct wm_error *err);

#endif
