/*
 * main.c: from a command line to a verb's exit code.
 *
 * What lives here: parsing, --help and --version, and the jump to the verb. What it must not know: anything else.
 */
#include "cli/cli.h"

#include <signal.h>
#include <stdio.h>

static int (*const verbs[N_VERBS])(const struct cli_command *) = {
    [VERB_MERGE] = verb_merge,           [VERB_PLAN] = verb_plan,       [VERB_STATS] = verb_stats,
    [VERB_FINISH] = verb_finish,         [VERB_INSPECT] = verb_inspect, [VERB_METHODS] = verb_methods,
    [VERB_VERIFY] = verb_verify,         [VERB_ENV] = verb_env,         [VERB_BENCH] = verb_bench,
    [VERB_COMPLETION] = verb_completion, [VERB_HELP] = verb_help,
};

int main(int argc, char **argv)
{
    struct cli_command command;
    struct session s;
    struct wm_error err = {WM_USAGE, ""};
    char problem[512];

    setvbuf(stdout, NULL, _IOFBF, (size_t)1 << 16); /* help goes out in one write, whose failure session_end sees */
    interrupt_as_init();
    signal(SIGPIPE, SIG_IGN); /* a closed pipe shows as EPIPE, which session_end takes for a quiet end */
    if (!cli_parse(&command, argc, argv, problem)) {
        session_init(&s, &command);
        snprintf(err.message, sizeof err.message, "%s", problem);
        return session_fail(&s, &err);
    }
    if (command.version) {
        session_init(&s, &command);
        printf("warpmerge " WM_VERSION "\n");
        return session_end(&s);
    }
    if (command.help) {
        session_init(&s, &command);
        if (command.verb == VERB_HELP)
            help_overview();
        else
            help_verb(command.verb);
        return session_end(&s);
    }
    if (argc < 2) {
        session_init(&s, &command);
        snprintf(err.message, sizeof err.message, "nothing to do; try `warpmerge CONFIG OUT` or `warpmerge --help`");
        return session_fail(&s, &err);
    }
    return verbs[command.verb](&command);
}
