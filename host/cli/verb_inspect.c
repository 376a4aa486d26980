/* verb_inspect.c: `warpmerge inspect`: a model's headers. Knows no more than warpmerge.h. */
#include "cli/cli.h"

int verb_inspect(const struct cli_command *command)
{
    struct wm_error err = WM_ERROR_INIT;
    struct session s;
    char *text = NULL;

    session_init(&s, command);
    if (wm_inspect(command->operands[0], &s.options, command->json, &text, &err) != WM_OK)
        return session_fail(&s, &err);
    session_print(&s, text);
    return session_end(&s);
}
