/*
 * look.c: wm_inspect, wm_verify, wm_methods, wm_env: each a thin wrapper around one report.
 *
 * What lives here: options, phases of findings, and who owns the text. What it must not know: what the texts say.
 */
#include "api/options.h"

#include "base/file.h"
#include "base/text.h"
#include "checkpoint/checkpoint.h"
#include "engine/engine.h"
#include "report/report.h"

#include <stdlib.h>
#include <string.h>

static enum wm_status hand_over(enum wm_status st, struct text *out, char **text, struct wm_error *err)
{
    *text = NULL;
    if (st == WM_OK) {
        *text = text_take(out);
        if (!*text)
            st = error_no_memory(err, "writing a report");
    }
    text_release(out);
    return st;
}

enum wm_status wm_inspect(const char *model, const struct wm_options *options, int as_json, char **text,
                          struct wm_error *err)
{
    enum wm_status st;
    struct wm_options checked;
    struct ckpt_options ckpt_options;
    struct problems problems;
    struct ckpt *ckpt = NULL;
    struct text out;
    char *reference = NULL, *revision = NULL;

    text_init(&out, TEXT_MAX_BYTES);
    TRY(api_options_take(&checked, options, err));
    if (!model || !*model) {
        st = error_set(err, WM_USAGE, "no model was given; give a directory, a .safetensors file or a cached hub id");
        goto out;
    }
    ckpt_options = (struct ckpt_options){.hub_cache = checked.hub_cache, .strict = checked.strict != 0};
    problems_init(&problems, checked.on_problem, checked.user, checked.strict != 0);
    reference = strdup(model);
    if (!reference) {
        st = error_no_memory(err, "inspecting a model");
        goto out;
    }
    /* org/name@revision, unless something of that very name exists */
    revision = file_exists(model) ? NULL : strrchr(reference, '@');
    if (revision)
        *revision++ = '\0';
    st = ckpt_open(&ckpt, reference, revision, &ckpt_options, &problems, err);
    if (st == WM_OK)
        st = problems_end(&problems, err);
    if (st != WM_OK)
        goto out;
    if (as_json)
        report_inspect_json(ckpt, &out);
    else
        report_inspect_text(ckpt, &out);
out:
    ckpt_free(ckpt);
    free(reference);
    return hand_over(st, &out, text, err);
}

enum wm_status wm_verify(const char *out_path, const struct wm_options *options, int as_json, char **text,
                         struct wm_error *err)
{
    enum wm_status st;
    struct wm_options checked;
    struct problems problems;
    struct text out;

    text_init(&out, TEXT_MAX_BYTES);
    TRY(api_options_take(&checked, options, err));
    if (!out_path || !*out_path) {
        st = error_set(err, WM_USAGE, "no directory was given; give one that warpmerge wrote");
        goto out;
    }
    problems_init(&problems, checked.on_problem, checked.user, checked.strict != 0);
    st = report_verify(out_path, &checked, &problems, as_json, &out, err);
out:
    return hand_over(st, &out, text, err);
}

enum wm_status wm_methods(const char *name, int as_json, char **text, struct wm_error *err)
{
    struct text out;

    text_init(&out, TEXT_MAX_BYTES);
    return hand_over(report_methods(name, as_json, &out, err), &out, text, err);
}

enum wm_status wm_env(const struct wm_options *options, int as_json, char **text, struct wm_error *err)
{
    enum wm_status st;
    struct wm_options checked;
    struct text out;
    char devices[128];

    text_init(&out, TEXT_MAX_BYTES);
    TRY(api_options_take(&checked, options, err));
    report_environment(&checked, backends_summary(devices, sizeof devices), as_json, &out);
out:
    return hand_over(st, &out, text, err);
}
