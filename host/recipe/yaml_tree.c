/* yaml_tree.c: see yaml_tree.h. libyaml 0.2.5 limits neither depth nor aliases, so both are limited here. */
#include "recipe/yaml_tree.h"

#include "base/text.h"
#include "recipe/yaml_text.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define SHOWN_BYTES 96

struct tree_anchor {
    const char *name;
    struct tree_node *node; /* complete only when !open */
    bool open;
    struct tree_anchor *next; /* a later anchor of the same name shadows an earlier one */
};

struct tree_builder {
    yaml_parser_t parser;
    struct arena *arena;
    const char *text;
    size_t n_bytes;
    struct findings *findings;
    struct tree_anchor *anchors;
    size_t n_nodes, n_anchors;
};

/* What a build step came to. A finding (STEP_STOP) and no memory both leave no node. */
enum tree_step { STEP_OK, STEP_STOP, STEP_NO_MEMORY };

static struct recipe_mark mark_of(const yaml_mark_t *mark)
{
    return (struct recipe_mark){(int)mark->line + 1, (int)mark->column + 1};
}

static void report(struct tree_builder *b, struct recipe_mark at, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void report(struct tree_builder *b, struct recipe_mark at, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    findings_addv(b->findings, FINDING_ERROR, at, format, args);
    va_end(args);
}

/* Reports the finding that ends the walk. */
#define REFUSE(...) (report(__VA_ARGS__), STEP_STOP)

static enum tree_step syntax_error(struct tree_builder *b)
{
    if (b->parser.error == YAML_MEMORY_ERROR)
        return STEP_NO_MEMORY;
    yaml_text_report(b->text, b->n_bytes, &b->parser, b->findings);
    return STEP_STOP;
}

/* ---- events to nodes ---------------------------------------------------------------------------------------- */

static enum tree_step next_event(struct tree_builder *b, yaml_event_t *event)
{
    return yaml_parser_parse(&b->parser, event) ? STEP_OK : syntax_error(b);
}

static enum tree_step new_node(struct tree_builder *b, enum tree_kind kind, const yaml_event_t *event,
                               struct tree_node **node)
{
    struct tree_node *n = arena_alloc(b->arena, sizeof *n);

    if (!n)
        return STEP_NO_MEMORY;
    n->kind = kind;
    n->at = mark_of(&event->start_mark);
    n->n_nodes = 1;
    n->height = 1;
    *node = n;
    return STEP_OK;
}

/* Adds a finished child's size to its parent's and holds the ceilings. */
static enum tree_step adopt(struct tree_builder *b, struct tree_node *parent, const struct tree_node *child, int depth,
                            struct recipe_mark at)
{
    parent->n_nodes += child->n_nodes; /* both are at most YAML_TREE_MAX_NODES: no overflow */
    if (parent->n_nodes > YAML_TREE_MAX_NODES)
        return REFUSE(b, at,
                      "the file has more than %d values once its aliases are written out; no recipe needs that many",
                      YAML_TREE_MAX_NODES);
    if (child->height >= parent->height)
        parent->height = child->height + 1;
    if (depth + child->height > YAML_TREE_MAX_DEPTH)
        return REFUSE(b, at, "lists and mappings are nested more than %d deep; no recipe needs that",
                      YAML_TREE_MAX_DEPTH);
    return STEP_OK;
}

static enum tree_step open_anchor(struct tree_builder *b, const yaml_char_t *name, struct tree_node *node,
                                  struct tree_anchor **anchor)
{
    struct tree_anchor *a;

    *anchor = NULL;
    if (!name)
        return STEP_OK;
    /* Look-up is linear: a thousand anchors are plenty and keep it cheap. */
    if (++b->n_anchors > 1000)
        return REFUSE(b, node->at, "the file has more than 1000 anchors (&name); no recipe needs that many");
    a = arena_alloc(b->arena, sizeof *a);
    if (!a || !(a->name = arena_strdup(b->arena, (const char *)name)))
        return STEP_NO_MEMORY;
    a->node = node;
    a->open = node->kind != TREE_SCALAR;
    a->next = b->anchors;
    b->anchors = a;
    *anchor = a;
    return STEP_OK;
}

static enum tree_step find_alias(struct tree_builder *b, const yaml_event_t *event, struct tree_node **node)
{
    const char *name = (const char *)event->data.alias.anchor;
    struct recipe_mark at = mark_of(&event->start_mark);
    char shown[SHOWN_BYTES];

    for (const struct tree_anchor *a = b->anchors; a; a = a->next) {
        if (strcmp(a->name, name) != 0)
            continue;
        if (a->open)
            return REFUSE(b, at,
                          "the alias *%s stands inside the value it stands for (line %d); it cannot contain itself",
                          text_display(shown, sizeof shown, name), a->node->at.line);
        *node = a->node;
        return STEP_OK;
    }
    return REFUSE(b, at,
                  "the alias *%s has no anchor &%s before it; define it above, or quote the text if it is no alias",
                  text_display(shown, sizeof shown, name), shown);
}

/* A scalar with an explicit tag (!!str 5): the core types are honoured, anything else is refused as PyYAML's safe
 * loader refuses it. */
static enum tree_step tagged_scalar(struct tree_builder *b, struct tree_node *node, const char *tag)
{
    static const char core[] = "tag:yaml.org,2002:";
    struct scalar plain = scalar_resolve(node->text);
    const char *type = strncmp(tag, core, sizeof core - 1) == 0 ? tag + sizeof core - 1 : "";
    char shown[SHOWN_BYTES], shown_tag[SHOWN_BYTES];
    bool fits;

    if (strcmp(tag, "!") == 0 || strcmp(type, "str") == 0)
        return STEP_OK;
    if (strcmp(type, "null") == 0) {
        node->scalar = (struct scalar){SCALAR_NULL, 0.0};
        return STEP_OK;
    }
    if (strcmp(type, "int") == 0) {
        fits = plain.kind == SCALAR_INTEGER;
    } else if (strcmp(type, "float") == 0) {
        double number = plain.number;
        fits = plain.kind != SCALAR_BOOL && scalar_to_number(plain, node->text, &number);
        plain = (struct scalar){SCALAR_FLOAT, number};
    } else if (strcmp(type, "bool") == 0) {
        fits = plain.kind == SCALAR_BOOL;
    } else {
        return REFUSE(b, node->at, "the tag %s is not one that recipes use; remove it",
                      text_display(shown_tag, sizeof shown_tag, tag));
    }
    if (!fits)
        return REFUSE(b, node->at, "\"%s\" does not fit its tag !!%s", text_display(shown, sizeof shown, node->text),
                      type);
    node->scalar = plain;
    return STEP_OK;
}

static enum tree_step build_scalar(struct tree_builder *b, const yaml_event_t *event, struct tree_node *node)
{
    const char *value = (const char *)event->data.scalar.value;
    size_t n = event->data.scalar.length;

    if (memchr(value, '\0', n))
        return REFUSE(b, node->at, "a value contains a NUL character (\\0); remove it");
    node->text = arena_strndup(b->arena, value, n);
    if (!node->text)
        return STEP_NO_MEMORY;
    if (event->data.scalar.tag)
        return tagged_scalar(b, node, (const char *)event->data.scalar.tag);
    if (event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
        node->scalar = scalar_resolve(node->text);
    return STEP_OK;
}

/* !!seq on a list and !!map on a mapping say nothing new; other tags (!!set, !!omap, !mine) change what they are. */
static enum tree_step check_tag(struct tree_builder *b, const struct tree_node *node, const yaml_char_t *tag,
                                const char *own)
{
    char shown[SHOWN_BYTES];

    if (!tag || strcmp((const char *)tag, "!") == 0 || strcmp((const char *)tag, own) == 0)
        return STEP_OK;
    return REFUSE(b, node->at, "the tag %s is not one that recipes use; remove it",
                  text_display(shown, sizeof shown, (const char *)tag));
}

static enum tree_step build_node(struct tree_builder *b, yaml_event_t *event, int depth, struct tree_node **node);

static enum tree_step build_list(struct tree_builder *b, struct tree_node *list, int depth)
{
    size_t capacity = 0;
    void *items = NULL;
    enum tree_step step;

    for (;;) {
        struct tree_node *item = NULL;
        yaml_event_t event;
        struct recipe_mark at;
        step = next_event(b, &event);
        if (step != STEP_OK)
            return step;
        if (event.type == YAML_SEQUENCE_END_EVENT) {
            yaml_event_delete(&event);
            return STEP_OK;
        }
        at = mark_of(&event.start_mark);
        step = build_node(b, &event, depth + 1, &item);
        if (step == STEP_OK)
            step = adopt(b, list, item, depth, at);
        if (step != STEP_OK)
            return step;
        if (!arena_grow(b->arena, &items, list->n_items, &capacity, sizeof(struct tree_node *)))
            return STEP_NO_MEMORY;
        list->items = items;
        list->items[list->n_items++] = item;
    }
}

struct tree_map_builder {
    struct tree_node *map;
    size_t capacity;
    struct tree_node *merge; /* the value of `<<`, or NULL */
    struct recipe_mark merge_at;
};

static enum tree_step add_pair(struct tree_builder *b, struct tree_map_builder *m, struct tree_pair pair)
{
    void *pairs = m->map->pairs;

    if (!arena_grow(b->arena, &pairs, m->map->n_pairs, &m->capacity, sizeof pair))
        return STEP_NO_MEMORY;
    m->map->pairs = pairs;
    m->map->pairs[m->map->n_pairs++] = pair;
    return STEP_OK;
}

/* One key of a mapping: a plain word, or the merge key (then *key is NULL). */
static enum tree_step build_key(struct tree_builder *b, yaml_event_t *event, const char **key, struct recipe_mark *at)
{
    struct tree_node *node = NULL;
    bool is_scalar = event->type == YAML_SCALAR_EVENT;
    char shown[SHOWN_BYTES];
    enum tree_step step;

    *at = mark_of(&event->start_mark);
    if (!is_scalar) {
        yaml_event_delete(event);
        return REFUSE(b, *at, "a key must be a word, not a list, a mapping or an alias");
    }
    if (event->data.scalar.length > YAML_TREE_MAX_KEY_BYTES) {
        yaml_event_delete(event);
        return REFUSE(b, *at, "a key is longer than %d bytes", YAML_TREE_MAX_KEY_BYTES);
    }
    step = build_node(b, event, 1, &node);
    if (step != STEP_OK)
        return step;
    *key = node->text;
    if (node->scalar.kind == SCALAR_MERGE)
        *key = NULL;
    else if (node->scalar.kind != SCALAR_STRING)
        return REFUSE(b, *at, "the key \"%s\" is read as %s; write it in quotes if you mean the word",
                      text_display(shown, sizeof shown, node->text), scalar_kind_name(node->scalar.kind));
    return STEP_OK;
}

static int compare_pairs(const void *a, const void *b)
{
    const struct tree_pair *x = *(const struct tree_pair *const *)a, *y = *(const struct tree_pair *const *)b;
    int order = x->key == y->key ? 0 : strcmp(x->key, y->key);

    return order ? order : (x > y) - (x < y); /* both point into one array: equal keys stay in order */
}

/* Reports keys that are there twice and keeps the first of each. Merged pairs stand behind all own pairs and the earlier
 * mapping of a `<<: [a, b]` stands first, so keeping the first is also what merging means. Sorting keeps a mapping of
 * a million keys from costing a million squared. */
static enum tree_step drop_duplicates(struct tree_builder *b, struct tree_node *map)
{
    struct tree_pair **sorted;
    size_t n = map->n_pairs, kept = 0;
    char shown[SHOWN_BYTES];

    if (n < 2)
        return STEP_OK;
    sorted = malloc(n * sizeof(struct tree_pair *));
    if (!sorted)
        return STEP_NO_MEMORY;
    for (size_t i = 0; i < n; i++)
        sorted[i] = &map->pairs[i];
    qsort(sorted, n, sizeof(struct tree_pair *), compare_pairs);
    for (size_t i = 1, first = 0; i < n; i++) {
        if (strcmp(sorted[i]->key, sorted[first]->key) != 0) {
            first = i;
            continue;
        }
        if (!sorted[i]->merged)
            report(b, sorted[i]->key_at,
                   "the key \"%s\" is given twice in one mapping (first at line %d); remove one of the two",
                   text_display(shown, sizeof shown, sorted[i]->key), sorted[first]->key_at.line);
        sorted[i]->value = NULL;
    }
    free(sorted);
    for (size_t i = 0; i < n; i++)
        if (map->pairs[i].value)
            map->pairs[kept++] = map->pairs[i];
    map->n_pairs = kept;
    return STEP_OK;
}

static enum tree_step merge_one(struct tree_builder *b, struct tree_map_builder *m, const struct tree_node *from)
{
    if (from->kind != TREE_MAP)
        return REFUSE(b, m->merge_at, "`<<` takes a mapping or a list of mappings, usually an alias (*name)");
    for (size_t i = 0; i < from->n_pairs; i++) {
        struct tree_pair pair = from->pairs[i];
        enum tree_step step;
        pair.merged = true;
        step = add_pair(b, m, pair);
        if (step != STEP_OK)
            return step;
    }
    return STEP_OK;
}

static enum tree_step apply_merge(struct tree_builder *b, struct tree_map_builder *m)
{
    enum tree_step step = STEP_OK;

    if (!m->merge)
        return STEP_OK;
    if (m->merge->kind != TREE_LIST)
        return merge_one(b, m, m->merge);
    for (size_t i = 0; i < m->merge->n_items && step == STEP_OK; i++)
        step = merge_one(b, m, m->merge->items[i]);
    return step;
}

static enum tree_step build_map(struct tree_builder *b, struct tree_node *map, int depth)
{
    struct tree_map_builder m = {.map = map};
    enum tree_step step;

    for (;;) {
        struct tree_pair pair = {0};
        yaml_event_t event;
        step = next_event(b, &event);
        if (step != STEP_OK)
            return step;
        if (event.type == YAML_MAPPING_END_EVENT) {
            yaml_event_delete(&event);
            break;
        }
        step = build_key(b, &event, &pair.key, &pair.key_at);
        if (step == STEP_OK)
            step = next_event(b, &event);
        if (step == STEP_OK)
            step = build_node(b, &event, depth + 1, &pair.value);
        if (step == STEP_OK)
            step = adopt(b, map, pair.value, depth, pair.key_at);
        if (step == STEP_OK && pair.key)
            step = add_pair(b, &m, pair);
        if (step != STEP_OK)
            return step;
        if (pair.key)
            continue;
        if (m.merge)
            return REFUSE(b, pair.key_at, "`<<` is given twice in one mapping (first at line %d); write `<<: [*a, *b]`",
                          m.merge_at.line);
        m.merge = pair.value;
        m.merge_at = pair.key_at;
    }
    step = apply_merge(b, &m);
    return step == STEP_OK ? drop_duplicates(b, map) : step;
}

/* Builds the node that begins with *event and takes the event over. depth is the number of lists and mappings around
 * it; the recursion ends at YAML_TREE_MAX_DEPTH. */
static enum tree_step build_node(struct tree_builder *b, yaml_event_t *event, int depth, struct tree_node **node)
{
    struct tree_anchor *anchor = NULL;
    enum tree_step step;

    if (depth >= YAML_TREE_MAX_DEPTH) {
        step = REFUSE(b, mark_of(&event->start_mark),
                      "lists and mappings are nested more than %d deep; no recipe needs that", YAML_TREE_MAX_DEPTH);
    } else if (++b->n_nodes > YAML_TREE_MAX_NODES) {
        step = REFUSE(b, mark_of(&event->start_mark), "the file has more than %d values; no recipe needs that many",
                      YAML_TREE_MAX_NODES);
    } else if (event->type == YAML_ALIAS_EVENT) {
        step = find_alias(b, event, node);
    } else if (event->type == YAML_SCALAR_EVENT) {
        step = new_node(b, TREE_SCALAR, event, node);
        if (step == STEP_OK)
            step = build_scalar(b, event, *node);
        if (step == STEP_OK)
            step = open_anchor(b, event->data.scalar.anchor, *node, &anchor);
    } else if (event->type == YAML_SEQUENCE_START_EVENT) {
        step = new_node(b, TREE_LIST, event, node);
        if (step == STEP_OK)
            step = check_tag(b, *node, event->data.sequence_start.tag, YAML_SEQ_TAG);
        if (step == STEP_OK)
            step = open_anchor(b, event->data.sequence_start.anchor, *node, &anchor);
        if (step == STEP_OK)
            step = build_list(b, *node, depth);
    } else { /* the parser lets only a mapping begin here */
        step = new_node(b, TREE_MAP, event, node);
        if (step == STEP_OK)
            step = check_tag(b, *node, event->data.mapping_start.tag, YAML_MAP_TAG);
        if (step == STEP_OK)
            step = open_anchor(b, event->data.mapping_start.anchor, *node, &anchor);
        if (step == STEP_OK)
            step = build_map(b, *node, depth);
    }
    if (anchor)
        anchor->open = false;
    yaml_event_delete(event);
    return step;
}

/* ---- the document ------------------------------------------------------------------------------------------- */

static enum tree_step build_document(struct tree_builder *b, struct tree_node **root)
{
    struct tree_node *node = NULL;
    yaml_event_t event;
    enum tree_step step;
    yaml_event_type_t type;
    struct recipe_mark at;

    do { /* STREAM-START, DOCUMENT-START */
        step = next_event(b, &event);
        if (step != STEP_OK)
            return step;
        type = event.type;
        if (type == YAML_STREAM_START_EVENT || type == YAML_DOCUMENT_START_EVENT)
            yaml_event_delete(&event);
    } while (type == YAML_STREAM_START_EVENT || type == YAML_DOCUMENT_START_EVENT);
    if (type == YAML_STREAM_END_EVENT) {
        yaml_event_delete(&event);
        return REFUSE(b, (struct recipe_mark){1, 1},
                      "the file is empty; a recipe needs at least merge_method and models");
    }
    step = build_node(b, &event, 0, &node);
    while (step == STEP_OK) {
        step = next_event(b, &event);
        if (step != STEP_OK)
            break;
        type = event.type;
        at = mark_of(&event.start_mark);
        yaml_event_delete(&event);
        if (type == YAML_STREAM_END_EVENT) {
            *root = node;
            return STEP_OK;
        }
        if (type == YAML_DOCUMENT_START_EVENT)
            return REFUSE(b, at,
                          "a second document begins here; files with several documents (mergekit-multi) are not merged "
                          "yet: put each document into a file of its own");
    }
    return step;
}

enum wm_status yaml_tree_parse(struct tree_node **root, struct arena *arena, const char *text, size_t n_bytes,
                               struct findings *findings, struct wm_error *err)
{
    struct tree_builder b = {.arena = arena, .text = text, .n_bytes = n_bytes, .findings = findings};
    enum tree_step step;

    *root = NULL;
    if (n_bytes > YAML_TREE_MAX_BYTES) {
        report(&b, (struct recipe_mark){1, 1}, "the file is larger than 16 MiB; it is hardly a recipe");
        return WM_OK;
    }
    if (!yaml_text_check_encoding(text, n_bytes, findings))
        return WM_OK;
    if (!yaml_parser_initialize(&b.parser))
        return error_no_memory(err, "reading a recipe");
    yaml_parser_set_input_string(&b.parser, (const unsigned char *)text, n_bytes);
    step = build_document(&b, root);
    yaml_parser_delete(&b.parser);
    return step == STEP_NO_MEMORY ? error_no_memory(err, "reading a recipe") : WM_OK;
}

const struct tree_node *yaml_tree_get(const struct tree_node *map, const char *key, const struct tree_pair **pair)
{
    for (size_t i = 0; map->kind == TREE_MAP && i < map->n_pairs; i++) {
        if (strcmp(map->pairs[i].key, key) == 0) {
            if (pair)
                *pair = &map->pairs[i];
            return map->pairs[i].value;
        }
    }
    return NULL;
}
