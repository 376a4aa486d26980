/* verb_help.c: `warpmerge help` and `warpmerge completion`: texts that the option table gives. */
#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

static int refuse(struct session *s, const char *what, const char *name, const char *more)
{
    struct wm_error err = {WM_USAGE, ""};

    snprintf(err.message, sizeof err.message, "%s \"%.100s\"%s", what, name, more);
    return session_fail(s, &err);
}

int verb_help(const struct cli_command *command)
{
    struct session s;
    const char *names[N_VERBS];
    char more[96];
    int nearest;

    session_init(&s, command);
    if (command->n_operands == 0) {
        help_overview();
        return session_end(&s);
    }
    for (int v = 0; v < N_VERBS; v++) {
        names[v] = cli_verbs[v].name;
        if (strcmp(command->operands[0], names[v]) == 0) {
            help_verb((enum cli_verb)v);
            return session_end(&s);
        }
    }
    nearest = value_nearest(command->operands[0], names, N_VERBS);
    snprintf(more, sizeof more, nearest >= 0 ? "; did you mean \"%s\"?" : "; see `warpmerge --help`",
             nearest >= 0 ? names[nearest] : "");
    return refuse(&s, "there is no verb", command->operands[0], more);
}

int verb_completion(const struct cli_command *command)
{
    struct session s;

    session_init(&s, command);
    if (!completion_print(command->operands[0]))
        return refuse(&s, "there are no completions for", command->operands[0], "; give bash, zsh or fish");
    return session_end(&s);
}
