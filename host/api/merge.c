/*
 * merge.c: the wm_merge_* functions, from a config's path to a finished directory.
 *
 * What lives here: the order of the phases and what is kept between them. Each phase is one call into its room; no
 * phase knows the next. What it must not know: how any of them works, and terminals.
 */
#include "api/open_models.h"
#include "api/options.h"
#include "api/summary.h"

#include "base/file.h"
#include "base/text.h"
#include "engine/engine.h"
#include "recipe/recipe.h"
#include "report/report.h"

#include <stdlib.h>
#include <string.h>

struct wm_merge {
    struct wm_options options;
    struct recipe *recipe;
    struct open_models models;
    struct plan *plan;
    char *out_path; /* NULL: planned without one */
    struct engine_result result;
    bool done;
    volatile int cancel;         /* set by wm_merge_cancel, also from a signal handler */
    struct wm_progress progress; /* the last one delivered */
};

/* ---- recipe and plan ---------------------------------------------------------------------------------------- */

static void begin_phase(const struct wm_merge *merge, struct problems *problems)
{
    problems_init(problems, merge->options.on_problem, merge->options.user, merge->options.strict != 0);
}

/* Ends a phase: findings first, then the phase's own failure, which may be among them already. */
static enum wm_status end_phase(struct problems *problems, enum wm_status st, struct wm_error *err)
{
    enum wm_status ended = problems_end(problems, err);

    return st != WM_OK ? st : ended;
}

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
    begin_phase(merge, &problems);
    st = recipe_open(&merge->recipe, config_path, &problems, err);
    if (st == WM_OK)
        recipe_unsupported(merge->recipe, &problems);
    TRY(end_phase(&problems, st, err));
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
    merge->done = false;
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

    begin_phase(merge, &problems);
    st = open_models_init(&merge->models, merge->recipe, &merge->options, &problems, err);
    TRY(end_phase(&problems, st, err));

    begin_phase(merge, &problems);
    st = plan_new(&merge->plan, merge->recipe, merge->models.models, merge->models.n_models, &merge->options, &problems,
                  err);
    TRY(end_phase(&problems, st, err));

    begin_phase(merge, &problems);
    st = report_kit_check(merge->plan, &merge->options, &problems, err);
    if (st == WM_OK && merge->out_path)
        st = output_check(merge->out_path, merge->plan, &merge->options, &problems, err);
    TRY(end_phase(&problems, st, err));
out:
    if (st != WM_OK)
        forget_plan(merge);
    return st;
}

enum wm_status wm_merge_describe(const struct wm_merge *merge, int as_json, char **text, struct wm_error *err)
{
    struct text out;

    *text = NULL;
    if (!merge || !merge->plan)
        return error_set(err, WM_USAGE, "there is no plan to describe; call wm_merge_plan first");
    text_init(&out, TEXT_MAX_BYTES);
    if (as_json)
        report_plan_json(merge->plan, merge->out_path, &out);
    else
        report_plan_text(merge->plan, merge->out_path, &out);
    *text = text_take(&out);
    return *text ? WM_OK : error_no_memory(err, "describing the plan");
}

/* ---- the run ------------------------------------------------------------------------------------------------ */

static int on_progress(void *user, const struct wm_progress *progress)
{
    struct wm_merge *merge = user;

    merge->progress = *progress;
    if (merge->options.on_progress && merge->options.on_progress(merge->options.user, progress))
        merge->cancel = 1; /* also when the engine has no use for the answer any more: the commit is still to come */
    return merge->cancel;
}

/* The phases around the engine's: the last numbers under another name. */
static enum wm_status tell_progress(struct wm_merge *merge, const char *phase, double began, struct wm_error *err)
{
    merge->progress.phase = phase;
    merge->progress.seconds = file_now_seconds() - began;
    if (merge->options.on_progress && merge->options.on_progress(merge->options.user, &merge->progress))
        merge->cancel = 1;
    if (merge->cancel)
        return error_set(err, WM_CANCELLED,
                         "stopped before the output was put in place; run the same command again to finish it");
    return WM_OK;
}

static enum wm_status hash_shards(struct wm_merge *merge, const char *dir, char (**sha256)[HASH_SHA256_HEX_BYTES],
                                  struct wm_error *err)
{
    enum wm_status st = WM_OK;
    char *path = NULL;

    *sha256 = calloc((size_t)merge->plan->n_shards + 1, sizeof **sha256);
    if (!*sha256)
        return error_no_memory(err, "hashing the output");
    for (int s = 0; s < merge->plan->n_shards; s++) {
        path = file_path_join(dir, merge->plan->shards[s].name);
        if (!path) {
            st = error_no_memory(err, "hashing the output");
            goto out;
        }
        TRY(hash_sha256_file((*sha256)[s], path, &merge->cancel, err));
        free(path);
        path = NULL;
    }
out:
    free(path);
    return st;
}

static enum wm_status write_text(const char *dir, const char *name, const struct text *text, bool sync,
                                 struct wm_error *err)
{
    char *path = file_path_join(dir, name);
    enum wm_status st = path ? file_write_whole(path, text_string(text), text->n_bytes, sync, err)
                             : error_no_memory(err, "finishing the output");

    free(path);
    return st;
}

static enum wm_status remove_file(const char *dir, const char *name, struct wm_error *err)
{
    char *path = file_path_join(dir, name);
    enum wm_status st = path ? file_unlink(path, err) : error_no_memory(err, "finishing the output");

    free(path);
    return st;
}

/* The shards are durable by now. Loaders look at the index first, so it comes last: a directory without it is visibly
 * unfinished. */
static enum wm_status write_side_files(struct wm_merge *merge, const char *dir,
                                       const char (*sha256)[HASH_SHA256_HEX_BYTES], struct wm_error *err)
{
    const bool sync = merge->options.sync != 0;
    enum wm_status st;
    struct report_kit kit;
    struct text text;

    text_init(&text, TEXT_MAX_BYTES);
    TRY(report_kit_write(merge->plan, &merge->options, dir, &kit, err));
    TRY(report_manifest(merge->plan, &kit, merge->result.job_hashes, sha256, &text, err));
    TRY(write_text(dir, REPORT_MANIFEST_NAME, &text, sync, err));
    text_release(&text);
    if (merge->plan->n_shards > 1) {
        TRY(report_index(merge->plan, &text, err));
        TRY(write_text(dir, REPORT_INDEX_NAME, &text, sync, err));
    } else {
        TRY(remove_file(dir, REPORT_INDEX_NAME, err));
    }
out:
    text_release(&text);
    return st;
}

enum wm_status wm_merge_run(struct wm_merge *merge, struct wm_error *err)
{
    enum wm_status st;
    struct problems problems;
    struct output output = {NULL, NULL, -1, false, false};
    struct wm_options options;
    char(*sha256)[HASH_SHA256_HEX_BYTES] = NULL;
    double began = file_now_seconds();

    if (!merge || !merge->plan || !merge->out_path)
        return error_set(err, WM_USAGE, "there is no plan with an output directory to run; call wm_merge_plan first");
    if (merge->done)
        return error_set(err, WM_USAGE, "this merge has been run; call wm_merge_plan again to run another");
    options = merge->options;
    options.on_progress = on_progress;
    options.user = merge;

    begin_phase(merge, &problems);
    st = output_open(&output, merge->out_path, merge->plan, &merge->options, &problems, err);
    TRY(end_phase(&problems, st, err));
    engine_result_release(&merge->result);
    merge->progress = (struct wm_progress){.bytes_to_read = merge->plan->bytes_to_read,
                                           .bytes_to_write = merge->plan->bytes_out,
                                           .n_tensors = merge->plan->n_jobs,
                                           .phase = "merging",
                                           .shard = ""};
    TRY(tell_progress(merge, "merging", began, err)); /* a caller sees the start however short the merge is */
    TRY(engine_run(merge->plan, &output, &options, &merge->cancel, &merge->result, err));
    if (merge->result.notice[0]) {
        begin_phase(merge, &problems);
        problems_add(&problems, WM_WARNING, WM_OK, "%s", merge->result.notice);
    }
    if (options.sha256) {
        TRY(tell_progress(merge, "hashing", began, err));
        TRY(hash_shards(merge, output.partial_path, &sha256, err));
    }
    TRY(tell_progress(merge, "finishing", began, err));
    TRY(write_side_files(merge, output.partial_path, (const char(*)[HASH_SHA256_HEX_BYTES])sha256, err));
    TRY(tell_progress(merge, "finishing", began, err));
    TRY(output_commit(&output, &options, err));
    merge->result.seconds = file_now_seconds() - began;
    merge->done = true;
out:
    output_release(&output);
    free(sha256);
    return st;
}

enum wm_status wm_merge_summary(const struct wm_merge *merge, int as_json, char **text, struct wm_error *err)
{
    struct text out;

    *text = NULL;
    if (!merge || !merge->done)
        return error_set(err, WM_USAGE, "there is no finished merge to sum up; call wm_merge_run first");
    text_init(&out, TEXT_MAX_BYTES);
    api_summary(merge->plan, &merge->result, merge->out_path, as_json, &out);
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
    free(merge);
}

void wm_text_free(char *text)
{
    free(text);
}
