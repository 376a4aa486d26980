/*
 * error.h: how a function of ours fails.
 *
 * What lives here: filling a caller's wm_error, the one-exit macro, and the list of findings that a phase collects so
 * that all of them are reported together. What it must not know: what the findings are about.
 *
 * Shape of a fallible function:
 *
 *     enum wm_status thing_load(struct thing *t, struct wm_error *err)
 *     {
 *         enum wm_status st = WM_OK;
 *         TRY(thing_step(t, err));
 *     out:
 *         ...release in reverse order...
 *         return st;
 *     }
 */
#ifndef WM_BASE_ERROR_H
#define WM_BASE_ERROR_H

#include "warpmerge.h"

#include <stdarg.h>
#include <stdbool.h>

/* Needs a local `enum wm_status st` and a label `out`. */
#define TRY(expr)                                                                                                      \
    do {                                                                                                               \
        st = (expr);                                                                                                   \
        if (st != WM_OK)                                                                                               \
            goto out;                                                                                                  \
    } while (0)

/* Fills err unless it already holds an error (the first one wins; err may be NULL) and returns `status`, so that
 * `return error_set(err, WM_IO, "...")` and `st = error_set(...); goto out;` both read well. */
enum wm_status error_set(struct wm_error *err, enum wm_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
enum wm_status error_setv(struct wm_error *err, enum wm_status status, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));
/* "out of memory while <what>": WM_TEMPORARY. */
enum wm_status error_no_memory(struct wm_error *err, const char *what);

/* ---- findings of a phase ------------------------------------------------------------------------------------ */

#define PROBLEMS_MAX_SHOWN 20

/* Delivers findings as they come, counts them, and remembers the first error. At most PROBLEMS_MAX_SHOWN errors and as
 * many warnings are delivered; problems_end says how many more there were. Not thread-safe. */
struct problems {
    void (*emit)(void *user, const struct wm_problem *problem); /* may be NULL */
    void *user;
    bool strict; /* turn warnings made with problems_lint into errors */
    unsigned n_errors, n_warnings, n_notes;
    struct wm_error first;
};

void problems_init(struct problems *p, void (*emit)(void *, const struct wm_problem *), void *user, bool strict);
void problems_add(struct problems *p, enum wm_severity severity, enum wm_status status, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* A warning, or under --strict an error with `status`. */
void problems_lint(struct problems *p, enum wm_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* WM_OK if no error was added; otherwise the first error's status, copied into err with the number of others. */
enum wm_status problems_end(struct problems *p, struct wm_error *err);

#endif
