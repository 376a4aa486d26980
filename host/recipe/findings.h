/*
 * findings.h: what is wrong with a recipe, in the order of its lines.
 *
 * What lives here: a buffer between the readers of a recipe, which look things up by key, and the caller's problems, which
 * people read from top to bottom. Each finding gets its "file:line:column: " here. What it must not know: recipes.
 */
#ifndef WM_RECIPE_FINDINGS_H
#define WM_RECIPE_FINDINGS_H

#include "base/arena.h"
#include "base/error.h"
#include "recipe/recipe.h"

enum finding_kind {
    FINDING_ERROR, /* always an error                        */
    FINDING_LINT,  /* a warning; an error where lint is strict */
    FINDING_NOTE   /* worth knowing, never an error          */
};

struct finding {
    enum finding_kind kind;
    struct recipe_mark at;
    size_t sequence;
    const char *text;
};

struct findings {
    const char *path; /* fit for display */
    struct problems *problems;
    struct arena arena;
    struct finding *items;
    size_t n_items, capacity;
    bool full; /* the ceiling was reached: findings now go straight through */
    bool any_error;
};

/* `path` is as the user gave it; it is copied. */
void findings_init(struct findings *f, const char *path, struct problems *problems);
void findings_flush(struct findings *f); /* delivers everything so far, sorted by place */
void findings_release(struct findings *f);

void findings_add(struct findings *f, enum finding_kind kind, struct recipe_mark at, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void findings_addv(struct findings *f, enum finding_kind kind, struct recipe_mark at, const char *format, va_list args)
    __attribute__((format(printf, 4, 0)));

#endif
