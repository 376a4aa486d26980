/*
 * safetensors_write.c: the header of a file that we are about to write (see checkpoint.h). It refuses whatever our
 * reader would refuse, so no file of ours comes out that we could not read. Knows nothing of files.
 */
#include "checkpoint/checkpoint.h"

#include "base/dtype.h"
#include "base/json.h"
#include "base/text.h"
#include "checkpoint/refuse.h"
#include "checkpoint/safetensors_read.h"

#include <stdlib.h>
#include <string.h>

static enum wm_status refuse(struct wm_error *err, const char *name, const char *what)
{
    char shown[REFUSE_NAME_BYTES];

    return error_set(err, WM_BUG, "cannot write tensor \"%s\": %s", text_display(shown, sizeof shown, name), what);
}

static bool is_clean(const char *key)
{
    size_t n = strlen(key);

    for (size_t i = 0; i < n; i++)
        if ((unsigned char)key[i] < 0x20)
            return false;
    return text_valid_utf8(key, n);
}

static bool name_is_writable(const char *name)
{
    return strlen(name) <= SAFETENSORS_NAME_MAX_BYTES && strcmp(name, "__metadata__") != 0 && is_clean(name);
}

static bool size_fits(const struct safetensors_entry *e)
{
    uint64_t n = 1, n_bits;

    for (int i = 0; i < e->n_dims; i++)
        if (e->shape[i] == 0)
            return e->n_bytes == 0;
    for (int i = 0; i < e->n_dims; i++)
        if (__builtin_mul_overflow(n, e->shape[i], &n))
            return false;
    return !__builtin_mul_overflow(n, (uint64_t)dtype_bits(e->dtype), &n_bits) && n_bits % 8 == 0 &&
           n_bits / 8 == e->n_bytes;
}

static enum wm_status add_entry(struct text *t, const struct safetensors_entry *e, uint64_t at, struct json_keys *names,
                                struct wm_error *err)
{
    struct json_text key = {e->name, strlen(e->name)};
    bool fresh;

    if (!name_is_writable(e->name))
        return refuse(err, e->name, "a name must be UTF-8 without control characters, and not __metadata__");
    if (e->n_dims < 0 || e->n_dims > CKPT_MAX_DIMS || (unsigned)e->dtype >= WM_N_DTYPES)
        return refuse(err, e->name, "its type or its number of dimensions does not exist");
    if (!size_fits(e) || e->begin != at || e->begin + e->n_bytes < e->begin)
        return refuse(err, e->name, "its size or its place in the file is wrong");
    if (!json_keys_add(names, key, &fresh))
        return error_no_memory(err, "writing a safetensors header");
    if (!fresh)
        return refuse(err, e->name, "the name is used twice");
    text_add_json(t, e->name);
    text_addf(t, ":{\"dtype\":\"%s\",\"shape\":[", dtype_name(e->dtype));
    for (int i = 0; i < e->n_dims; i++)
        text_addf(t, "%s%llu", i ? "," : "", (unsigned long long)e->shape[i]);
    text_addf(t, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)e->begin,
              (unsigned long long)(e->begin + e->n_bytes));
    return WM_OK;
}

static enum wm_status add_metadata(struct text *t, const char *const *metadata, struct arena *arena,
                                   struct wm_error *err)
{
    struct json_keys keys;
    bool fresh;

    json_keys_init(&keys, arena);
    text_add(t, "\"__metadata__\":{");
    for (size_t i = 0; metadata[i]; i += 2) {
        struct json_text key = {metadata[i], strlen(metadata[i])};
        char shown[REFUSE_NAME_BYTES];
        if (!json_keys_add(&keys, key, &fresh))
            return error_no_memory(err, "writing a safetensors header");
        if (!fresh || !is_clean(key.data))
            return error_set(err, WM_BUG, "cannot write the metadata key \"%s\": it is used twice or not clean UTF-8",
                             text_display(shown, sizeof shown, key.data));
        text_add(t, i ? "," : "");
        text_add_json(t, key.data);
        text_add(t, ":");
        text_add_json(t, metadata[i + 1]);
    }
    text_add(t, "}");
    return WM_OK;
}

enum wm_status safetensors_header(const struct safetensors_entry *entries, size_t n_entries,
                                  const char *const *metadata, size_t align, void **header, size_t *n_bytes,
                                  struct wm_error *err)
{
    static const char zeros[SAFETENSORS_PREFIX_BYTES];
    enum wm_status st = WM_OK;
    struct json_keys names;
    struct arena arena;
    struct text t;
    uint64_t at = 0, n_header;
    size_t padding;

    *header = NULL;
    *n_bytes = 0;
    arena_init(&arena, (size_t)1 << 30);
    json_keys_init(&names, &arena);
    /* What text_add_bytes may fill: prefix, header, padding and the NUL. */
    text_init(&t, SAFETENSORS_PREFIX_BYTES + (size_t)CKPT_HEADER_CAP_FORMAT + 1);
    text_add_bytes(&t, zeros, sizeof zeros);
    text_add(&t, "{");
    if (metadata)
        TRY(add_metadata(&t, metadata, &arena, err));
    for (size_t i = 0; i < n_entries; i++) {
        text_add(&t, i || metadata ? "," : "");
        TRY(add_entry(&t, &entries[i], at, &names, err));
        at += entries[i].n_bytes;
    }
    text_add(&t, "}");
    padding = align > 1 ? (align - t.n_bytes % align) % align : 0;
    for (; padding && !t.failed; padding--)
        text_add_bytes(&t, " ", 1);
    if (t.failed) {
        st = t.n_bytes > CKPT_HEADER_CAP_FORMAT / 2
                 ? error_set(err, WM_CANT_CREATE,
                             "the header of %zu tensors would pass the format's limit of %u bytes; choose smaller "
                             "shards (--out-shard-size)",
                             n_entries, CKPT_HEADER_CAP_FORMAT)
                 : error_no_memory(err, "writing a safetensors header");
        goto out;
    }
    n_header = t.n_bytes - SAFETENSORS_PREFIX_BYTES;
    for (int i = 0; i < SAFETENSORS_PREFIX_BYTES; i++)
        t.data[i] = (char)(n_header >> (8 * i) & 0xFF);
    *n_bytes = t.n_bytes;
    *header = text_take(&t);
out:
    text_release(&t);
    arena_release(&arena);
    return st;
}
