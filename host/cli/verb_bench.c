/* verb_bench.c: `warpmerge bench`: this machine's ceilings and the kernels. Knows no more than warpmerge.h. */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* One line that is written over: a measurement takes minutes. */
static int on_step(void *user, const char *what)
{
    struct session *s = user;

    if (s->terminal.can_redraw && !s->terminal.quiet && s->progress.mode != PROGRESS_NONE) {
        fprintf(stderr, "\r\033[K%s", what);
        s->terminal.line_open = true;
    }
    return interrupt_came();
}

static enum wm_status write_file(const struct wm_bench *bench, enum wm_bench_format format, const char *path,
                                 struct wm_error *err)
{
    char *text = NULL;
    FILE *f;

    if (!path)
        return WM_OK;
    if (wm_bench_report(bench, format, &text, err) != WM_OK)
        return err->status;
    f = fopen(path, "w");
    if (!f || fputs(text, f) == EOF) {
        snprintf(err->message, sizeof err->message, "cannot write %.1000s: %s", path, strerror(errno));
        err->status = WM_CANT_CREATE;
    }
    if (f && fclose(f) != 0 && err->status == WM_OK) {
        snprintf(err->message, sizeof err->message, "cannot write %.1000s: %s", path, strerror(errno));
        err->status = WM_IO;
    }
    wm_text_free(text);
    return err->status;
}

int verb_bench(const struct cli_command *command)
{
    struct wm_bench_options what = WM_BENCH_OPTIONS_INIT;
    struct wm_error err = WM_ERROR_INIT, stopped;
    struct wm_bench *bench = NULL;
    enum wm_status status;
    struct session s;
    char *text = NULL;
    int code;

    session_init(&s, command);
    what.quick = command->quick;
    what.dir = command->dir;
    what.only = command->only;
    what.on_step = on_step;
    what.user = &s;
    interrupt_begin(NULL);
    status = wm_bench_run(&bench, &what, &s.options, &err);
    stopped = err;
    err = (struct wm_error)WM_ERROR_INIT;
    /* What was measured until a signal came is said all the same, but for the plot. */
    if (!bench) {
        terminal_clear_line(&s.terminal);
        code = session_fail(&s, &stopped);
        goto out;
    }
    if (write_file(bench, WM_BENCH_CSV, command->csv, &err) != WM_OK ||
        (status == WM_OK && write_file(bench, WM_BENCH_SVG, command->svg, &err) != WM_OK) ||
        wm_bench_report(bench, command->json ? WM_BENCH_JSON : WM_BENCH_TEXT, &text, &err) != WM_OK) {
        terminal_clear_line(&s.terminal);
        code = session_fail(&s, &err);
        goto out;
    }
    terminal_clear_line(&s.terminal);
    session_print(&s, text);
    if (status == WM_OK)
        code = session_end(&s);
    else if (command->json) /* nothing behind the one object: its "complete" says it */
        code = session_end(&s) ? wm_exit_code(WM_IO) : interrupt_exit_code();
    else
        code = session_fail_with(&s, &stopped, interrupt_exit_code());
out:
    interrupt_end();
    wm_bench_free(bench);
    return code;
}
