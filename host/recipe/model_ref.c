/* model_ref.c: see model_ref.h. */
#include "recipe/model_ref.h"

#include <string.h>

bool model_ref_parse_path(struct arena *arena, const char *text, const char **path, const char **revision,
                          const char **flaw)
{
    const char *at = strchr(text, '@');
    size_t n_path = at ? (size_t)(at - text) : strlen(text);

    *flaw = NULL;
    *revision = NULL;
    if (at && strchr(at + 1, '@'))
        *flaw = "has more than one `@`; for a path that contains `@` write the mapping form "
                "{model: {path: ..., revision: ...}}";
    else if (n_path == 0)
        *flaw = "has an empty path; write path, path@revision or path+lora";
    else if (at && at[1] == '\0')
        *flaw = "has an empty revision after `@`; name one or remove the `@`";
    if (*flaw)
        return false;
    *path = arena_strndup(arena, text, n_path);
    if (*path && at)
        *revision = arena_strdup(arena, at + 1);
    return *path && (*revision || !at);
}

bool model_ref_parse(struct arena *arena, const char *text, struct recipe_ref *ref, const char **flaw)
{
    const char *plus = strchr(text, '+');
    const char *model = text;

    *flaw = NULL;
    if (plus && strchr(plus + 1, '+')) {
        *flaw = "has more than one `+`; for a path that contains `+` write the mapping form "
                "{model: {path: ...}, lora: {path: ...}}";
        return false;
    }
    if (plus) {
        model = arena_strndup(arena, text, (size_t)(plus - text));
        if (!model)
            return false;
        if (plus[1] == '\0') {
            *flaw = "names no LoRA after `+`; name one or remove the `+`";
            return false;
        }
        if (!model_ref_parse_path(arena, plus + 1, &ref->lora_path, &ref->lora_revision, flaw))
            return false;
    }
    return model_ref_parse_path(arena, model, &ref->path, &ref->revision, flaw) && model_ref_write(arena, ref);
}

bool model_ref_write(struct arena *arena, struct recipe_ref *ref)
{
    ref->text =
        arena_printf(arena, "%s%s%s%s%s%s%s", ref->path, ref->revision ? "@" : "", ref->revision ? ref->revision : "",
                     ref->lora_path ? "+" : "", ref->lora_path ? ref->lora_path : "", ref->lora_revision ? "@" : "",
                     ref->lora_revision ? ref->lora_revision : "");
    return ref->text != NULL;
}

static bool same(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

bool model_ref_equal(const struct recipe_ref *a, const struct recipe_ref *b)
{
    return same(a->path, b->path) && same(a->revision, b->revision) && same(a->lora_path, b->lora_path) &&
           same(a->lora_revision, b->lora_revision) && same(a->override_architecture, b->override_architecture);
}
