/*
 * session.c: what every verb does around its call into the library.
 *
 * What lives here: routing findings and progress to the terminal, results to standard output, failures to both and to
 * the exit code. What it must not know: which verb it serves.
 */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void on_problem(void *user, const struct wm_problem *problem)
{
    struct session *s = user;

    terminal_say(&s->terminal, problem->severity, problem->text);
}

static int on_progress(void *user, const struct wm_progress *now)
{
    struct session *s = user;

    progress_update(&s->progress, now);
    return 0;
}

/* One line that says of each ignored option what it means here. */
static void tell_notes(struct session *s)
{
    const struct cli_command *c = s->command;
    char text[2048];
    int n = 0;

    if (!c->n_notes)
        return;
    for (int i = 0; i < c->n_notes && n < (int)sizeof text - 200; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, "%s--%s is %s", i ? "; " : "", c->notes[i]->name,
                      c->notes[i]->help);
    terminal_say(&s->terminal, WM_NOTE, text);
}

void session_init(struct session *s, const struct cli_command *command)
{
    memset(s, 0, sizeof *s);
    s->command = command;
    s->options = command->options;
    s->options.on_problem = on_problem;
    s->options.on_progress = on_progress;
    s->options.user = s;
    terminal_init(&s->terminal, command);
    progress_init(&s->progress, &s->terminal, command->progress);
    tell_notes(s);
}

void session_print(struct session *s, char *text)
{
    if (fputs(text, stdout) == EOF)
        s->output_errno = errno;
    wm_text_free(text);
}

int session_fail_with(struct session *s, const struct wm_error *err, int exit_code)
{
    terminal_fail(&s->terminal, err);
    if (s->command->json) {
        printf("{\n  \"ok\": false,\n  \"status\": \"%s\",\n  \"exit_code\": %d,\n  \"message\": ",
               wm_status_name(err->status), exit_code);
        value_put_json(stdout, err->message);
        printf("\n}\n");
        fflush(stdout);
    }
    return exit_code;
}

int session_fail(struct session *s, const struct wm_error *err)
{
    return session_fail_with(s, err, wm_exit_code(err->status));
}

int session_end(struct session *s)
{
    char text[256];

    if (fflush(stdout) != 0 && !s->output_errno)
        s->output_errno = errno;
    /* A reader that has seen enough (head, less) closes the pipe; that is no failure of ours. */
    if (!s->output_errno || s->output_errno == EPIPE)
        return 0;
    snprintf(text, sizeof text, "cannot write to standard output: %s", strerror(s->output_errno));
    terminal_say(&s->terminal, WM_ERROR, text);
    return wm_exit_code(WM_IO);
}
