/* verb_plan.c: `warpmerge plan`: the first half of a merge, printed instead of run. Knows no more than warpmerge.h. */
#include "cli/cli.h"

int verb_plan(const struct cli_command *command)
{
    struct wm_error err = WM_ERROR_INIT;
    struct wm_merge *merge = NULL;
    struct session s;
    char *text = NULL;
    int code;

    session_init(&s, command);
    if (wm_merge_open(&merge, command->operands[0], &s.options, &err) != WM_OK ||
        wm_merge_plan(merge, command->n_operands > 1 ? command->operands[1] : NULL, &err) != WM_OK ||
        wm_merge_describe(merge, command->json, &text, &err) != WM_OK) {
        code = session_fail(&s, &err);
    } else {
        session_print(&s, text);
        code = session_end(&s);
    }
    wm_merge_free(merge);
    return code;
}
