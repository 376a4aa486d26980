/*
 * verb_stats.c: `warpmerge stats`: the passes that a whole-model method needs before its merge, and nothing else. Knows no
 * more than warpmerge.h.
 */
#include "cli/cli.h"

int verb_stats(const struct cli_command *command)
{
    struct wm_error err = WM_ERROR_INIT;
    struct wm_merge *merge = NULL;
    enum wm_status status;
    struct session s;
    char *text = NULL;
    int code;

    session_init(&s, command);
    if (wm_options_find_ranks(&s.options, command->rank, command->ranks, command->job, &err) != WM_OK ||
        wm_merge_open(&merge, command->operands[0], &s.options, &err) != WM_OK ||
        wm_merge_plan(merge, command->operands[1], &err) != WM_OK) {
        code = session_fail(&s, &err);
        goto out;
    }
    interrupt_begin(merge);
    status = wm_merge_stats(merge, command->json, &text, &err);
    terminal_clear_line(&s.terminal);
    if (status != WM_OK) {
        code = status == WM_CANCELLED ? session_fail_with(&s, &err, interrupt_exit_code()) : session_fail(&s, &err);
        goto out;
    }
    if (s.options.rank > 0)
        wm_text_free(text); /* rank 0 speaks for all */
    else
        session_print(&s, text);
    code = session_end(&s);
out:
    interrupt_end();
    wm_merge_free(merge);
    return code;
}
