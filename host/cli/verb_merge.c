/*
 * verb_merge.c: `warpmerge merge`.
 *
 * What lives here: the order of calls, the plan shown first, and signals: the first one asks the merge to stop (what is
 * done stays done), the second ends the process at once. What it must not know: how findings and progress are drawn.
 */
#include "cli/cli.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

/* A signal handler has no argument of ours, so the running merge has to be where it can find it. */
static struct wm_merge *volatile running;
static volatile sig_atomic_t caught;

static void on_signal(int number)
{
    caught = number;
    signal(SIGINT, SIG_DFL); /* whichever comes second has its ordinary effect */
    signal(SIGTERM, SIG_DFL);
    wm_merge_cancel(running);
}

static void catch_signals(struct wm_merge *merge)
{
    struct sigaction action;

    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    running = merge;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static int stopped(struct session *s, const struct wm_error *err)
{
    return session_fail_with(s, err, 128 + (caught ? caught : SIGINT));
}

/* The plan belongs to the story of a merge, not to its result: standard error. */
static void show_plan(struct session *s, const struct wm_merge *merge)
{
    struct wm_error ignored = WM_ERROR_INIT;
    char *text;

    if (s->command->quiet || s->command->json || s->terminal.json_lines ||
        wm_merge_describe(merge, 0, &text, &ignored) != WM_OK)
        return;
    fputs(text, stderr);
    putc('\n', stderr);
    wm_text_free(text);
}

int verb_merge(const struct cli_command *command)
{
    const char *config = command->operands[0], *out = command->operands[1];
    struct wm_error err = WM_ERROR_INIT;
    struct wm_merge *merge = NULL;
    struct session s;
    char *text = NULL;
    enum wm_status status;
    int code;

    session_init(&s, command);
    if (wm_merge_open(&merge, config, &s.options, &err) != WM_OK || wm_merge_plan(merge, out, &err) != WM_OK) {
        code = session_fail(&s, &err);
        goto out;
    }
    show_plan(&s, merge);
    catch_signals(merge);
    status = wm_merge_run(merge, &err);
    progress_end(&s.progress, status == WM_OK);
    if (status != WM_OK) {
        code = status == WM_CANCELLED ? stopped(&s, &err) : session_fail(&s, &err);
        goto out;
    }
    if (command->quiet && !command->json) {
        printf("%s\n", out);
    } else if (wm_merge_summary(merge, command->json, &text, &err) == WM_OK) {
        session_print(&s, text);
    } else {
        code = session_fail(&s, &err);
        goto out;
    }
    code = session_end(&s);
out:
    running = NULL;
    wm_merge_free(merge);
    return code;
}
