/*
 * merge.c: the wm_merge_* functions, from a config's path to a finished directory.
 *
 * What lives here: opening, planning, describing and summing up. Each phase is one call into its room; no phase knows the
 * next. What it must not know: how any of them works, running (run.c), and terminals.
 */
#include "api/merge_state.h"
#include "api/options.h"
#include "api/parts_file.h"
#include "api/summary.h"

#include "base/file.h"
#include "base/text.h"
#include "report/report.h"

#include <stdlib.h>
#include <string.h>

enum wm_status wm_merge_open(struct wm_merge **out, const char *config_path, const struct wm_options *options,
                             struct wm_error *err)
{
    enum wm_status st;
    struct problems problems;
    struct wm_merge *merge = NULL;
    struct wm_options checked;

    *out = NULL;
    TRY(api_options_take(&checked, options, err));
    if (!config_path || !*config_path) {
        st = error_set(err, WM_USAGE, "no config was given; give the path of a mergekit YAML file");
        goto out;
    }
    merge = calloc(1, sizeof *merge);
    if (!merge) {
        st = error_no_memory(err, "starting");
        goto out;
    }
    merge->options = checked;
    merge->config_path = strdup(config_path);
    if (!merge->config_path) {
        st = error_no_memory(err, "starting");
        goto out;
    }
    merge_begin_phase(merge, &problems);
    st = recipe_open(&merge->recipe, config_path, &problems, err);
    if (st == WM_OK)
        recipe_unsupported(merge->recipe, &problems);
    TRY(merge_end_phase(&problems, st, err));
    *out = merge;
    merge = NULL;
out:
    wm_merge_free(merge);
    return st;
}

static void forget_plan(struct wm_merge *merge)
{
    plan_free(merge->plan);
    merge->plan = NULL;
    open_models_release(&merge->models);
    free(merge->out_path);
    merge->out_path = NULL;
    engine_result_release(&merge->result);
    merge->complete = false;
    merge->done = false;
}

/* A job that was lost behind its commit is started again and has nothing left to do. Who asks for the output to be replaced
 * or for a new start gets that. */
static bool is_complete(const struct wm_merge *merge)
{
    return merge->out_path && !merge->options.overwrite && !merge->options.restart &&
           report_is_complete(merge->out_path, merge->plan);
}

enum wm_status wm_merge_plan(struct wm_merge *merge, const char *out_path, struct wm_error *err)
{
    enum wm_status st;
    struct problems problems;

    if (!merge)
        return error_set(err, WM_USAGE, "there is no merge to plan; call wm_merge_open first");
    if (out_path && !*out_path)
        return error_set(err, WM_USAGE, "the output path is empty; give the directory to create");
    forget_plan(merge);
    if (out_path && !(merge->out_path = strdup(out_path)))
        return error_no_memory(err, "planning");

    merge_begin_phase(merge, &problems);
    st = open_models_init(&merge->models, merge->recipe, &merge->options, &problems, err);
    TRY(merge_end_phase(&problems, st, err));

    merge_begin_phase(merge, &problems);
    st = plan_new(&merge->plan, merge->recipe, merge->models.models, merge->models.n_models, &merge->options, &problems,
                  err);
    TRY(merge_end_phase(&problems, st, err));
    plan_enlarge_tiles(merge->plan, backends_tile_bytes(&merge->options));

    merge_begin_phase(merge, &problems);
    st = report_kit_check(merge->plan, &merge->options, &problems, err);
    merge->complete = st == WM_OK && is_complete(merge);
    if (merge->complete)
        problems_add(&problems, WM_NOTE, WM_OK, "%s is already complete; nothing is left to do", merge->out_path);
    else if (st == WM_OK && merge->out_path)
        st = output_check(merge->out_path, merge->plan, &merge->options, &problems, err);
    TRY(merge_end_phase(&problems, st, err));
out:
    if (st != WM_OK)
        forget_plan(merge);
    return st;
}

enum wm_status wm_merge_describe(const struct wm_merge *merge, int as_json, char **text, struct wm_error *err)
{
    struct plan_partition *made[PARTITION_N_MODES] = {NULL, NULL};
    const struct plan_partition *partitions[PARTITION_N_MODES];
    struct plan_device_memory device;
    enum wm_status st = WM_OK;
    struct plan plan;
    struct text out;
    int n_ranks;

    *text = NULL;
    if (!merge || !merge->plan)
        return error_set(err, WM_USAGE, "there is no plan to describe; call wm_merge_plan first");
    plan = *merge->plan;
    if (backends_measure(&plan, &merge->options, &device))
        plan_use_device(&plan, &device);
    else
        plan.device = device;
    n_ranks = merge->options.n_ranks;
    for (int mode = 0; n_ranks > 0 && mode < PARTITION_N_MODES; mode++) {
        TRY(plan_partition_new(&made[mode], merge->plan, n_ranks, (enum plan_partition_mode)mode, err));
        partitions[mode] = made[mode];
    }
    text_init(&out, TEXT_MAX_BYTES);
    if (as_json)
        report_plan_json(&plan, n_ranks > 0 ? partitions : NULL, merge->out_path, &out);
    else
        report_plan_text(&plan, n_ranks > 0 ? partitions : NULL, merge->out_path, &out);
    *text = text_take(&out);
    if (!*text)
        st = error_no_memory(err, "describing the plan");
out:
    for (int mode = 0; mode < PARTITION_N_MODES; mode++)
        plan_partition_free(made[mode]);
    return st;
}

enum wm_status wm_merge_summary(const struct wm_merge *merge, int as_json, char **text, struct wm_error *err)
{
    struct api_ranks ranks;
    struct text out;

    *text = NULL;
    if (!merge || !merge->done)
        return error_set(err, WM_USAGE, "there is no finished merge to sum up; call wm_merge_run first");
    ranks = (struct api_ranks){merge->options.n_ranks > 1 ? merge->options.n_ranks : 1, merge->comm_text,
                               merge->slowest_rank};
    text_init(&out, TEXT_MAX_BYTES);
    if (merge->complete)
        api_complete_summary(merge->out_path, as_json, &out);
    else if (merge->options.n_parts)
        api_part_summary(&merge->options, &merge->result, merge->out_path, as_json, &out);
    else
        api_summary(merge->plan, &merge->result, &ranks, merge->out_path, as_json, &out);
    *text = text_take(&out);
    return *text ? WM_OK : error_no_memory(err, "summing up");
}

void wm_merge_cancel(struct wm_merge *merge)
{
    if (merge)
        merge->cancel = 1;
}

void wm_merge_free(struct wm_merge *merge)
{
    if (!merge)
        return;
    forget_plan(merge);
    recipe_free(merge->recipe);
    free(merge->config_path);
    free(merge);
}

void wm_text_free(char *text)
{
    free(text);
}
