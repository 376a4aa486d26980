/* error.c: see error.h. Knows nothing about what went wrong; holds the texts of the status codes. */
#include "base/error.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int exit_code;
} status_table[] = {
    [WM_OK] = {"ok", 0},
    [WM_USAGE] = {"usage", 2},
    [WM_BAD_DATA] = {"bad input data", 65},
    [WM_NO_INPUT] = {"input missing", 66},
    [WM_NO_DEVICE] = {"no usable GPU", 69},
    [WM_VERIFY_FAILED] = {"verification failed", 70},
    [WM_CANT_CREATE] = {"cannot create output", 73},
    [WM_IO] = {"input/output error", 74},
    [WM_TEMPORARY] = {"temporary failure", 75},
    [WM_BAD_CONFIG] = {"bad config", 78},
    [WM_CANCELLED] = {"cancelled", 130},
    [WM_BUG] = {"internal error", 1},
};

int wm_exit_code(enum wm_status status)
{
    return (size_t)status < sizeof status_table / sizeof *status_table ? status_table[status].exit_code : 1;
}

const char *wm_status_name(enum wm_status status)
{
    return (size_t)status < sizeof status_table / sizeof *status_table ? status_table[status].name : "unknown";
}

enum wm_status error_setv(struct wm_error *err, enum wm_status status, const char *format, va_list args)
{
    if (err && err->status == WM_OK) {
        err->status = status;
        vsnprintf(err->message, sizeof err->message, format, args);
    }
    return status;
}

enum wm_status error_set(struct wm_error *err, enum wm_status status, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    error_setv(err, status, format, args);
    va_end(args);
    return status;
}

enum wm_status error_no_memory(struct wm_error *err, const char *what)
{
    return error_set(err, WM_TEMPORARY,
                     "out of memory while %s; close other programs or lower --memory, then run the "
                     "same command again",
                     what);
}

void problems_init(struct problems *p, void (*emit)(void *, const struct wm_problem *), void *user, bool strict)
{
    memset(p, 0, sizeof *p);
    p->emit = emit;
    p->user = user;
    p->strict = strict;
}

static void add_v(struct problems *p, enum wm_severity severity, enum wm_status status, const char *format,
                  va_list args)
{
    char text[WM_ERROR_BYTES];
    struct wm_problem problem = {severity, status, text};
    unsigned *n = severity == WM_ERROR ? &p->n_errors : severity == WM_WARNING ? &p->n_warnings : &p->n_notes;

    vsnprintf(text, sizeof text, format, args);
    if (severity == WM_ERROR)
        error_set(&p->first, status, "%s", text);
    if (++*n <= PROBLEMS_MAX_SHOWN && p->emit)
        p->emit(p->user, &problem);
}

void problems_add(struct problems *p, enum wm_severity severity, enum wm_status status, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    add_v(p, severity, status, format, args);
    va_end(args);
}

void problems_lint(struct problems *p, enum wm_status status, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    if (p->strict)
        add_v(p, WM_ERROR, status, format, args);
    else
        add_v(p, WM_WARNING, WM_OK, format, args);
    va_end(args);
}

static void emit_rest(struct problems *p, unsigned n, enum wm_severity severity, const char *what)
{
    char text[128];
    struct wm_problem problem = {severity, WM_OK, text};

    if (n <= PROBLEMS_MAX_SHOWN || !p->emit)
        return;
    snprintf(text, sizeof text, "... and %u more %s", n - PROBLEMS_MAX_SHOWN, what);
    p->emit(p->user, &problem);
}

enum wm_status problems_end(struct problems *p, struct wm_error *err)
{
    emit_rest(p, p->n_notes, WM_NOTE, "notes");
    emit_rest(p, p->n_warnings, WM_WARNING, "warnings");
    emit_rest(p, p->n_errors, WM_ERROR, "errors");
    p->n_warnings = p->n_notes = 0;
    if (!p->n_errors)
        return WM_OK;
    if (p->n_errors == 1)
        return error_set(err, p->first.status, "%s", p->first.message);
    return error_set(err, p->first.status, "%.*s (and %u more)", WM_ERROR_BYTES - 40, p->first.message,
                     p->n_errors - 1);
}
