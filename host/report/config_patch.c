/*
 * config_patch.c: replaces a few values of a config.json and keeps every other byte.
 *
 * What lives here: a walk over JSON text that has passed the strict gate, which finds where values begin and end. A
 * round trip through a JSON tree would reprint numbers (1e-05, 500000.0, integers over 2^53) and lose key order in
 * some libraries; people diff these files. What it must not know: plans, or which values are wanted.
 */
#include "report/report.h"

#include "base/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- a walk over valid JSON --------------------------------------------------------------------------------- */

static const char *skip_space(const char *p)
{
    return p + strspn(p, " \t\r\n");
}

static const char *skip_string(const char *p)
{
    for (p++; *p != '"'; p++)
        if (*p == '\\')
            p++;
    return p + 1;
}

/* p is at a value's first byte; returns the byte after the value. */
static const char *skip_value(const char *p)
{
    int depth = 0;

    do {
        if (*p == '"') {
            p = skip_string(p);
        } else if (*p == '{' || *p == '[') {
            depth++;
            p++;
        } else if (*p == '}' || *p == ']') {
            depth--;
            p++;
        } else if (strchr(",: \t\r\n", *p)) {
            p++;
        } else {
            p += strcspn(p, ",:]} \t\r\n");
        }
    } while (depth > 0);
    return p;
}

struct member {
    const char *value, *value_end;
};

struct object {
    const char *begin;     /* the opening brace                    */
    const char *first_key; /* NULL when the object is empty        */
    const char *last_value_end;
};

static void object_scan(const char *begin, struct object *o)
{
    const char *p = skip_space(begin + 1);

    *o = (struct object){begin, *p == '}' ? NULL : p, NULL};
    while (*p != '}') {
        p = skip_space(skip_string(p));
        p = skip_value(skip_space(p + 1));
        o->last_value_end = p;
        p = skip_space(p);
        if (*p == ',')
            p = skip_space(p + 1);
    }
}

/* Keys of ours have no characters that need an escape; a key spelt with escapes is not found and left alone. */
static bool object_find(const struct object *o, const char *key, struct member *m)
{
    size_t n = strlen(key);
    const char *p = o->first_key;

    while (p && *p != '}') {
        const char *end = skip_string(p);
        bool same = (size_t)(end - p) == n + 2 && memcmp(p + 1, key, n) == 0;

        p = skip_space(skip_space(end) + 1);
        m->value = p;
        m->value_end = skip_value(p);
        if (same)
            return true;
        p = skip_space(m->value_end);
        if (*p == ',')
            p = skip_space(p + 1);
    }
    return false;
}

/* ---- edits -------------------------------------------------------------------------------------------------- */

#define MAX_EDITS 8

struct replacement {
    const char *from, *to; /* [from, to) of the input; equal: insertion */
    char text[160];
};

struct edits {
    struct replacement items[MAX_EDITS];
    int n;
};

static void edit_at(struct edits *e, const char *from, const char *to, const char *text)
{
    struct replacement *r = &e->items[e->n++];
    int i;

    r->from = from;
    r->to = to;
    snprintf(r->text, sizeof r->text, "%s", text);
    /* insertion sort by place: there are at most a handful; equal places keep their order */
    for (i = e->n - 1; i > 0 && e->items[i - 1].from > e->items[i].from; i--) {
        struct replacement swap = e->items[i];
        e->items[i] = e->items[i - 1];
        e->items[i - 1] = swap;
    }
}

static bool replace(struct edits *e, const struct object *o, const char *key, const char *value)
{
    struct member m;

    if (!object_find(o, key, &m))
        return false;
    edit_at(e, m.value, m.value_end, value);
    return true;
}

/* A new last member, laid out like the first one. */
static void insert(struct edits *e, const struct object *o, const char *key, const char *value)
{
    char text[160];
    bool first = true;

    if (o->first_key) {
        int n_space = (int)(o->first_key - (o->begin + 1));
        bool short_enough = n_space < 64;
        snprintf(text, sizeof text, ",%.*s\"%s\": %s", short_enough ? n_space : 0, o->begin + 1, key, value);
        edit_at(e, o->last_value_end, o->last_value_end, text);
    } else {
        for (int i = 0; i < e->n; i++)
            first &= e->items[i].from != o->begin + 1;
        snprintf(text, sizeof text, "%s\"%s\": %s", first ? "" : ", ", key, value);
        edit_at(e, o->begin + 1, o->begin + 1, text);
    }
}

enum wm_status report_config_patch(const char *path, const char *data, size_t n_bytes,
                                   const struct report_config_edit *edit, struct text *out, struct wm_error *err)
{
    enum wm_status st;
    struct object top, nested;
    struct member m;
    struct edits edits = {.n = 0};
    bool has_nested, found;
    char value[64];
    const char *at = data;

    TRY(json_gate(path, data, n_bytes, JSON_MAX_DEPTH, err));
    if (*skip_space(data) != '{') {
        st = error_set(err, WM_BAD_DATA, "%s is not a JSON object; restore the model's config.json", path);
        goto out;
    }
    object_scan(skip_space(data), &top);
    /* Multimodal configs keep the language model's numbers one level down. */
    has_nested = object_find(&top, "text_config", &m) && *m.value == '{';
    if (has_nested)
        object_scan(m.value, &nested);

    if (edit->dtype) {
        snprintf(value, sizeof value, "\"%s\"", edit->dtype);
        /* transformers 4.56 renamed torch_dtype to dtype; whatever the donor has stays, and torch_dtype, which old
         * and new versions read, is added where there is neither. */
        found = replace(&edits, &top, "torch_dtype", value);
        found |= replace(&edits, &top, "dtype", value);
        if (has_nested) {
            replace(&edits, &nested, "torch_dtype", value);
            replace(&edits, &nested, "dtype", value);
        }
        if (!found)
            insert(&edits, &top, "torch_dtype", value);
    }
    if (edit->vocab_size >= 0) {
        snprintf(value, sizeof value, "%" PRId64, edit->vocab_size);
        found = replace(&edits, &top, "vocab_size", value);
        if (has_nested)
            found |= replace(&edits, &nested, "vocab_size", value);
        if (!found)
            insert(&edits, has_nested ? &nested : &top, "vocab_size", value);
    }
    if (edit->tie_word_embeddings >= 0) {
        const char *word = edit->tie_word_embeddings ? "true" : "false";
        found = replace(&edits, &top, "tie_word_embeddings", word);
        if (has_nested)
            found |= replace(&edits, &nested, "tie_word_embeddings", word);
        if (!found)
            insert(&edits, &top, "tie_word_embeddings", word);
    }
    for (int i = 0; i < edits.n; i++) {
        text_add_bytes(out, at, (size_t)(edits.items[i].from - at));
        text_add(out, edits.items[i].text);
        at = edits.items[i].to;
    }
    text_add_bytes(out, at, (size_t)(data + n_bytes - at));
    if (out->failed)
        st = error_no_memory(err, "writing config.json");
out:
    return st;
}
