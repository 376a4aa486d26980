/* shard_index.c: see shard_index.h. */
#include "checkpoint/shard_index.h"

#include "base/json.h"
#include "base/text.h"
#include "checkpoint/refuse.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* weight_map needs 2; metadata is free-form. */
#define INDEX_MAX_DEPTH 8
#define SHARDS_MAX      100000
#define FILE_NAME_MAX   255
#define INDEX_EXTENSION ".safetensors"
#define INDEX_FORM      "an index is {\"metadata\": {...}, \"weight_map\": {\"tensor\": \"file.safetensors\", ...}}"
#define INDEX_FETCH     "download the index again, or write it anew from the shards"

struct reader {
    const char *path;
    struct json_scanner scan;
    struct arena *arena;
    struct shard_index *index;
    struct json_text *shard_of; /* per entry, as written */
    size_t entries_capacity, shard_of_capacity;
    struct wm_error *err;
};

static enum wm_status refuse(struct reader *r, const char *identifier, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static enum wm_status refuse(struct reader *r, const char *identifier, const char *format, ...)
{
    char sentence[1000];
    va_list args;

    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    return ckpt_refuse(r->err, WM_BAD_DATA, identifier, r->path, "%s", sentence);
}

static enum wm_status refuse_flaw(struct reader *r)
{
    const char *identifier = "INDEX_NOT_JSON";

    switch (r->scan.flaw) {
    case JSON_FLAW_MEMORY: return error_no_memory(r->err, "reading a shard index");
    case JSON_FLAW_DUPLICATE_KEY: identifier = "DUPLICATE_KEY"; break;
    case JSON_FLAW_CONTROL: identifier = "BAD_NAME"; break;
    default: break;
    }
    return refuse(r, identifier, "not valid at line %zu, column %zu: %s; " INDEX_FETCH, r->scan.line, r->scan.column,
                  r->scan.problem);
}

/* NULL if `value` is a plain name that every system reads the same way; else what is wrong with it. */
static const char *flaw_of_name(struct json_text value)
{
    size_t n_extension = strlen(INDEX_EXTENSION);

    if (value.n_bytes == 0)
        return "it is empty";
    if (value.n_bytes > FILE_NAME_MAX)
        return "it is longer than 255 bytes";
    for (size_t i = 0; i < value.n_bytes; i++)
        if ((unsigned char)value.data[i] < 0x20 || value.data[i] == 0x7F)
            return "it holds a control character";
    if (strchr(value.data, '/'))
        return value.data[0] == '/' ? "it is an absolute path" : "it is a path, and shards lie beside the index";
    if (strchr(value.data, '\\'))
        return "it holds a backslash";
    if (strchr(value.data, ':'))
        return "it names a drive";
    if (value.n_bytes <= n_extension || strcmp(value.data + value.n_bytes - n_extension, INDEX_EXTENSION) != 0)
        return "it does not end in " INDEX_EXTENSION;
    return NULL;
}

/* ---- members of the top object ------------------------------------------------------------------------------ */

static enum wm_status read_weight_map(struct reader *r)
{
    struct shard_index *index = r->index;
    enum json_event event = json_next(&r->scan);
    char shown[REFUSE_NAME_BYTES], shown_tensor[REFUSE_NAME_BYTES];
    const char *flaw;

    if (event == JSON_ERROR)
        return refuse_flaw(r);
    if (event != JSON_OBJECT_BEGIN)
        return refuse(r, "INDEX_SCHEMA", "its weight_map is not an object; " INDEX_FORM);
    while ((event = json_next(&r->scan)) == JSON_KEY) {
        struct json_text tensor = r->scan.text;
        if (!arena_grow(r->arena, (void **)&index->entries, index->n_entries, &r->entries_capacity,
                        sizeof *index->entries) ||
            !arena_grow(r->arena, (void **)&r->shard_of, index->n_entries, &r->shard_of_capacity, sizeof *r->shard_of))
            return error_no_memory(r->err, "reading a shard index");
        event = json_next(&r->scan);
        if (event == JSON_ERROR)
            return refuse_flaw(r);
        text_display(shown_tensor, sizeof shown_tensor, tensor.data);
        if (event != JSON_STRING)
            return refuse(r, "INDEX_SCHEMA", "the shard of tensor \"%s\" is not a string; " INDEX_FORM, shown_tensor);
        flaw = flaw_of_name(r->scan.text);
        if (flaw)
            return refuse(r, "INDEX_BAD_PATH",
                          "the shard of tensor \"%s\" is \"%s\": %s; an index may only name " INDEX_EXTENSION
                          " files in its own folder; do not use this model unless you trust where it comes from",
                          shown_tensor, text_display(shown, sizeof shown, r->scan.text.data), flaw);
        r->shard_of[index->n_entries] = r->scan.text;
        index->entries[index->n_entries++] = (struct shard_entry){tensor.data, 0, false};
    }
    return event == JSON_OBJECT_END ? WM_OK : refuse_flaw(r);
}

static enum wm_status read_metadata(struct reader *r)
{
    enum json_event event = json_next(&r->scan);
    struct json_keys keys;
    bool fresh;

    if (event != JSON_OBJECT_BEGIN) /* advisory, so any other value is skipped */
        return json_skip_value(&r->scan, event) ? WM_OK : refuse_flaw(r);
    json_keys_init(&keys, r->arena);
    while ((event = json_next(&r->scan)) == JSON_KEY) {
        bool is_total = strcmp(r->scan.text.data, "total_size") == 0;
        if (!json_keys_add(&keys, r->scan.text, &fresh))
            return error_no_memory(r->err, "reading a shard index");
        if (!fresh)
            return refuse(r, "DUPLICATE_KEY", "a key stands twice in its metadata; " INDEX_FETCH);
        event = json_next(&r->scan);
        if (is_total && (event == JSON_INTEGER || event == JSON_NUMBER)) {
            r->index->has_total_size = true;
            r->index->total_size = event == JSON_INTEGER ? (double)r->scan.integer : r->scan.number;
        }
        if (!json_skip_value(&r->scan, event))
            return refuse_flaw(r);
    }
    return event == JSON_OBJECT_END ? WM_OK : refuse_flaw(r);
}

static enum wm_status read_top(struct reader *r, bool *has_weight_map)
{
    enum wm_status st = WM_OK;
    enum json_event event = json_next(&r->scan);
    struct json_keys keys;
    char shown[REFUSE_NAME_BYTES];
    bool fresh;

    *has_weight_map = false;
    json_keys_init(&keys, r->arena);
    if (event != JSON_OBJECT_BEGIN) {
        st = event == JSON_ERROR ? refuse_flaw(r)
                                 : refuse(r, "INDEX_SCHEMA", "it is JSON, but not an object; " INDEX_FORM);
        goto out;
    }
    while ((event = json_next(&r->scan)) == JSON_KEY) {
        struct json_text key = r->scan.text;
        if (!json_keys_add(&keys, key, &fresh)) {
            st = error_no_memory(r->err, "reading a shard index");
            goto out;
        }
        if (!fresh) {
            st = refuse(r, "DUPLICATE_KEY", "the key \"%s\" stands twice; " INDEX_FETCH,
                        text_display(shown, sizeof shown, key.data));
            goto out;
        }
        if (strcmp(key.data, "weight_map") == 0) {
            *has_weight_map = true;
            TRY(read_weight_map(r));
        } else if (strcmp(key.data, "metadata") == 0) {
            TRY(read_metadata(r));
        } else if (!json_skip_value(&r->scan, json_next(&r->scan))) {
            st = refuse_flaw(r);
            goto out;
        }
    }
    if (event != JSON_OBJECT_END || json_next(&r->scan) != JSON_END)
        st = refuse_flaw(r);
out:
    return st;
}

/* ---- tables ------------------------------------------------------------------------------------------------- */

static enum wm_status build_tables(struct reader *r)
{
    struct shard_index *index = r->index;
    struct name_map shards;
    char shown[REFUSE_NAME_BYTES];

    index->shards = arena_array(r->arena, index->n_entries, sizeof *index->shards);
    if (!index->shards || !name_map_init(&shards, r->arena, index->shards, sizeof *index->shards, index->n_entries) ||
        !name_map_init(&index->tensors, r->arena, index->entries, sizeof *index->entries, index->n_entries))
        return error_no_memory(r->err, "reading a shard index");
    for (size_t i = 0; i < index->n_entries; i++) {
        size_t at;
        if (name_map_add(&index->tensors, i) != i)
            return refuse(r, "DUPLICATE_KEY", "the tensor \"%s\" stands twice in its weight_map; " INDEX_FETCH,
                          text_display(shown, sizeof shown, index->entries[i].tensor));
        index->shards[index->n_shards].name = r->shard_of[i].data;
        at = name_map_add(&shards, index->n_shards);
        index->entries[i].shard = at;
        if (at == index->n_shards && ++index->n_shards > SHARDS_MAX)
            return refuse(r, "INDEX_SCHEMA", "it names more than %d shards; " INDEX_FETCH, SHARDS_MAX);
    }
    return WM_OK;
}

enum wm_status shard_index_parse(struct shard_index *index, const char *path, const char *json, size_t n_bytes,
                                 struct arena *arena, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    struct reader r = {.path = path, .arena = arena, .index = index, .err = err};
    bool has_weight_map;

    memset(index, 0, sizeof *index);
    json_scanner_init(&r.scan, json, n_bytes, INDEX_MAX_DEPTH, arena);
    TRY(read_top(&r, &has_weight_map));
    if (!has_weight_map) {
        st = refuse(&r, "INDEX_SCHEMA", "it has no weight_map; " INDEX_FORM);
        goto out;
    }
    if (index->n_entries == 0) {
        st = refuse(&r, "INDEX_SCHEMA", "its weight_map is empty, so it names no shard; " INDEX_FETCH);
        goto out;
    }
    TRY(build_tables(&r));
out:
    return st;
}
