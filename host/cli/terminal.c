/*
 * terminal.c: messages on standard error, in colour where somebody looks.
 *
 * What lives here: "error: ...", "warning: ...", "note: ...", and what standard error is. What it must not know: what
 * the messages say, and what is on the progress line.
 */
#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static bool is_set(const char *variable)
{
    const char *value = getenv(variable);

    return value && *value;
}

/* no-color.org and bixense.com/clicolors; the option beats the environment. */
static bool wants_color(enum cli_color when, bool can_redraw)
{
    const char *force = getenv("CLICOLOR_FORCE");

    if (when != COLOR_AUTO)
        return when == COLOR_ALWAYS;
    if (is_set("NO_COLOR"))
        return false;
    return can_redraw || (force && *force && strcmp(force, "0") != 0);
}

static bool speaks_utf8(void)
{
    static const char *const variables[] = {"LC_ALL", "LC_CTYPE", "LANG"};

    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        if (is_set(variables[i])) /* the first one that is set decides */
            return strstr(getenv(variables[i]), "UTF-8") || strstr(getenv(variables[i]), "utf8");
    return false;
}

void terminal_init(struct terminal *t, const struct cli_command *command)
{
    const char *term = getenv("TERM");

    memset(t, 0, sizeof *t);
    t->can_redraw = isatty(STDERR_FILENO) && term && *term && strcmp(term, "dumb") != 0;
    t->color = wants_color(command->color, t->can_redraw);
    t->utf8 = speaks_utf8();
    t->quiet = command->quiet;
    t->json_lines = command->progress == PROGRESS_JSON;
    clock_gettime(CLOCK_REALTIME, &t->began);
}

int terminal_width(void)
{
    struct winsize size;
    const char *columns = getenv("COLUMNS");
    uint64_t n;

    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    return columns && value_u64(columns, &n) && n > 0 && n < 10000 ? (int)n : 80;
}

void terminal_clear_line(struct terminal *t)
{
    if (t->line_open)
        fputs("\r\033[K", stderr);
    t->line_open = false;
}

/* Names in messages are strangers' bytes: an escape sequence must not reach the terminal. */
static void put_clean(const char *s)
{
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7F)
            fprintf(stderr, "\\x%02x", c);
        else
            putc(c, stderr);
    }
}

void terminal_say(struct terminal *t, enum wm_severity severity, const char *text)
{
    static const char *const words[] = {"note", "warning", "error"};
    static const char *const colors[] = {"\033[36m", "\033[33m", "\033[1;31m"};

    if (severity == WM_ERROR && !t->first_error[0])
        snprintf(t->first_error, sizeof t->first_error, "%s", text);
    if (severity == WM_NOTE && (t->quiet || (t->rank > 0 && !t->json_lines)))
        return;
    terminal_clear_line(t);
    if (t->json_lines) {
        event_problem(t, severity, text);
        return;
    }
    if (t->n_ranks > 1)
        fprintf(stderr, "rank %d: ", t->rank);
    fprintf(stderr, "%s%s:%s ", t->color ? colors[severity] : "", words[severity], t->color ? "\033[0m" : "");
    put_clean(text);
    putc('\n', stderr);
}

void terminal_fail(struct terminal *t, const struct wm_error *err)
{
    size_t n = strlen(t->first_error);

    /* A phase's failure repeats its first finding, perhaps cut, with the number of others. */
    n = n > WM_ERROR_BYTES - 64 ? WM_ERROR_BYTES - 64 : n;
    if (n && strncmp(err->message, t->first_error, n) == 0)
        return;
    terminal_say(t, WM_ERROR, err->message);
}
