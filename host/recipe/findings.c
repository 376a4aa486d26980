/* findings.c: see findings.h. */
#include "recipe/findings.h"

#include "base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Ten times what is shown: enough to sort what people see, and a bound on what a hostile file can make us keep. */
#define FINDINGS_MAX ((size_t)10 * PROBLEMS_MAX_SHOWN)

#define PATH_BYTES 512

void findings_init(struct findings *f, const char *path, struct problems *problems)
{
    char shown[PATH_BYTES];

    *f = (struct findings){.problems = problems};
    arena_init(&f->arena, (FINDINGS_MAX + 16) * WM_ERROR_BYTES);
    f->path = arena_strdup(&f->arena, text_display(shown, sizeof shown, path));
    if (!f->path)
        f->path = "recipe";
}

void findings_release(struct findings *f)
{
    arena_release(&f->arena);
}

static void deliver(struct findings *f, enum finding_kind kind, struct recipe_mark at, const char *text)
{
    switch (kind) {
    case FINDING_ERROR:
        problems_add(f->problems, WM_ERROR, WM_BAD_CONFIG, "%s:%d:%d: %s", f->path, at.line, at.column, text);
        break;
    case FINDING_LINT:
        problems_lint(f->problems, WM_BAD_CONFIG, "%s:%d:%d: %s", f->path, at.line, at.column, text);
        break;
    case FINDING_NOTE:
        problems_add(f->problems, WM_NOTE, WM_OK, "%s:%d:%d: %s", f->path, at.line, at.column, text);
        break;
    }
}

static int compare_findings(const void *a, const void *b)
{
    const struct finding *x = a, *y = b;

    if (x->at.line != y->at.line)
        return x->at.line < y->at.line ? -1 : 1;
    if (x->at.column != y->at.column)
        return x->at.column < y->at.column ? -1 : 1;
    return x->sequence < y->sequence ? -1 : 1;
}

void findings_flush(struct findings *f)
{
    if (f->n_items > 1)
        qsort(f->items, f->n_items, sizeof *f->items, compare_findings);
    for (size_t i = 0; i < f->n_items; i++)
        deliver(f, f->items[i].kind, f->items[i].at, f->items[i].text);
    f->n_items = 0;
}

void findings_addv(struct findings *f, enum finding_kind kind, struct recipe_mark at, const char *format, va_list args)
{
    char text[WM_ERROR_BYTES - PATH_BYTES];
    struct finding finding = {kind, at, f->n_items, NULL};
    void *items = f->items;

    vsnprintf(text, sizeof text, format, args);
    if (kind == FINDING_ERROR || (kind == FINDING_LINT && f->problems->strict))
        f->any_error = true;
    if (!f->full && f->n_items < FINDINGS_MAX)
        finding.text = arena_strdup(&f->arena, text);
    if (!finding.text || !arena_grow(&f->arena, &items, f->n_items, &f->capacity, sizeof finding)) {
        f->full = true;
        findings_flush(f);
        deliver(f, kind, at, text);
        return;
    }
    f->items = items;
    f->items[f->n_items++] = finding;
}

void findings_add(struct findings *f, enum finding_kind kind, struct recipe_mark at, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    findings_addv(f, kind, at, format, args);
    va_end(args);
}
