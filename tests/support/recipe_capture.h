/* recipe_capture.h: a recipe parsed for a test, with everything that was said about it. */
#ifndef WM_TESTS_RECIPE_CAPTURE_H
#define WM_TESTS_RECIPE_CAPTURE_H

#include "base/text.h"
#include "recipe/recipe.h"

#include <string.h>

struct capture {
    struct problems problems;
    struct text lines; /* all findings, one a line */
    struct wm_error err;
    struct recipe *recipe;
    enum wm_status status;
};

static inline void capture_line(void *user, const struct wm_problem *problem)
{
    struct capture *c = user;

    text_addf(&c->lines, "%s%s\n", problem->severity == WM_NOTE ? "note: " : "", problem->text);
}

static inline void capture_begin(struct capture *c, bool strict)
{
    memset(c, 0, sizeof *c);
    text_init(&c->lines, (size_t)1 << 22);
    problems_init(&c->problems, capture_line, c, strict);
}

/* As the planner does: parse, refuse what is not there yet, end the phase. */
static inline void capture_end(struct capture *c)
{
    enum wm_status ended;

    if (c->recipe)
        recipe_unsupported(c->recipe, &c->problems);
    ended = problems_end(&c->problems, &c->err);
    if (c->status == WM_OK)
        c->status = ended;
}

static inline void capture_text(struct capture *c, const char *text, size_t n_bytes, bool strict)
{
    capture_begin(c, strict);
    c->status = recipe_parse(&c->recipe, "config.yml", text, n_bytes, &c->problems, &c->err);
    capture_end(c);
}

static inline void capture_file(struct capture *c, const char *path, bool strict)
{
    capture_begin(c, strict);
    c->status = recipe_open(&c->recipe, path, &c->problems, &c->err);
    capture_end(c);
}

static inline void capture_release(struct capture *c)
{
    recipe_free(c->recipe);
    text_release(&c->lines);
}

#endif
