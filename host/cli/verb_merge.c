/*
 * verb_merge.c: `warpmerge merge`, and `warpmerge finish` for what was merged in parts.
 *
 * What lives here: the order of calls, and the plan shown first. What it must not know: how findings and progress are
 * drawn.
 */
#include "cli/cli.h"

#include <stdio.h>

/* The plan belongs to the story of a merge, not to its result: standard error. */
static void show_plan(struct session *s, const struct wm_merge *merge)
{
    struct wm_error ignored = WM_ERROR_INIT;
    char *text;

    if (s->command->quiet || s->command->json || s->options.rank > 0 || s->options.n_parts > 0 ||
        s->terminal.json_lines || wm_merge_describe(merge, 0, &text, &ignored) != WM_OK)
        return;
    fputs(text, stderr);
    putc('\n', stderr);
    wm_text_free(text);
}

/* From a planned merge to an exit code. Frees it. */
static int run(struct session *s, struct wm_merge *merge, const char *out)
{
    const struct cli_command *command = s->command;
    struct wm_error err = WM_ERROR_INIT;
    char *text = NULL;
    enum wm_status status;
    int code;

    interrupt_begin(merge);
    status = wm_merge_run(merge, &err);
    progress_end(&s->progress, status == WM_OK);
    if (status != WM_OK) {
        code = status == WM_CANCELLED ? session_fail_with(s, &err, interrupt_exit_code()) : session_fail(s, &err);
        goto out;
    }
    if (s->options.rank > 0) {
        /* rank 0 speaks for all */
    } else if (command->quiet && !command->json) {
        printf("%s\n", out);
    } else if (wm_merge_summary(merge, command->json, &text, &err) == WM_OK) {
        session_print(s, text);
    } else {
        code = session_fail(s, &err);
        goto out;
    }
    code = session_end(s);
out:
    interrupt_end();
    wm_merge_free(merge);
    return code;
}

int verb_merge(const struct cli_command *command)
{
    const char *config = command->operands[0], *out = command->operands[1];
    struct wm_error err = WM_ERROR_INIT;
    struct wm_merge *merge = NULL;
    struct session s;
    int code;

    session_init(&s, command);
    if (wm_options_find_ranks(&s.options, command->rank, command->ranks, command->job, &err) != WM_OK ||
        wm_merge_open(&merge, config, &s.options, &err) != WM_OK || wm_merge_plan(merge, out, &err) != WM_OK) {
        code = session_fail(&s, &err);
        wm_merge_free(merge);
        return code;
    }
    show_plan(&s, merge);
    return run(&s, merge, out);
}

int verb_finish(const struct cli_command *command)
{
    const char *out = command->operands[0];
    struct wm_error err = WM_ERROR_INIT;
    struct wm_merge *merge = NULL;
    struct session s;

    session_init(&s, command);
    if (wm_options_find_ranks(&s.options, NULL, command->ranks, NULL, &err) != WM_OK ||
        wm_merge_open_parts(&merge, out, &s.options, &err) != WM_OK)
        return session_fail(&s, &err);
    return run(&s, merge, out);
}
