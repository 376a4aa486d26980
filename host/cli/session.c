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
#include <unistd.h>

/* The verb finds out which rank it is after the session began. For `plan` ranks are a question, not a state. */
static void know_self(struct session *s)
{
    if (s->command->verb != VERB_MERGE && s->command->verb != VERB_STATS)
        return;
    s->terminal.rank = s->options.rank;
    s->terminal.n_ranks = s->options.n_ranks;
    s->terminal.part = s->options.part;
    s->terminal.n_parts = s->options.n_parts;
}

static void on_problem(void *user, const struct wm_problem *problem)
{
    struct session *s = user;

    know_self(s);
    terminal_say(&s->terminal, problem->severity, problem->text);
}

static int on_progress(void *user, const struct wm_progress *now)
{
    struct session *s = user;

    know_self(s);
    progress_update(&s->progress, now);
    metrics_update(&s->metrics, now);
    return 0;
}

/* From another thread, while the one that merges hangs: whatever may wait for storage, as the monitor's file, is left. */
static void on_stuck(void *user, const struct wm_error *why)
{
    struct session *s = user;
    int code = wm_exit_code(why->status);

    know_self(s);
    terminal_fail(&s->terminal, why);
    if (s->terminal.json_lines)
        event_end(&s->terminal, code, why->message, NULL);
    fflush(stderr);
    _exit(code);
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
    s->options.on_stuck = on_stuck;
    s->options.user = s;
    terminal_init(&s->terminal, command);
    progress_init(&s->progress, &s->terminal, command->progress);
    metrics_init(&s->metrics, &s->terminal, command->metrics,
                 command->n_operands ? command->operands[command->n_operands - 1] : NULL);
    tell_notes(s);
}

/* What standard error and the monitor hear last. */
static void close_books(struct session *s, int exit_code, const char *error)
{
    const struct progress *p = &s->progress;

    metrics_end(&s->metrics, exit_code);
    if (s->terminal.json_lines)
        event_end(&s->terminal, exit_code, error, p->started ? &p->latest : NULL);
}

void session_print(struct session *s, char *text)
{
    if (fputs(text, stdout) == EOF)
        s->output_errno = errno;
    wm_text_free(text);
}

int session_fail_with(struct session *s, const struct wm_error *err, int exit_code)
{
    know_self(s);
    terminal_fail(&s->terminal, err);
    close_books(s, exit_code, err->message);
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

    know_self(s);
    if (fflush(stdout) != 0 && !s->output_errno)
        s->output_errno = errno;
    /* A reader that has seen enough (head, less) closes the pipe; that is no failure of ours. */
    if (!s->output_errno || s->output_errno == EPIPE) {
        close_books(s, 0, NULL);
        return 0;
    }
    snprintf(text, sizeof text, "cannot write to standard output: %s", strerror(s->output_errno));
    terminal_say(&s->terminal, WM_ERROR, text);
    close_books(s, wm_exit_code(WM_IO), text);
    return wm_exit_code(WM_IO);
}
