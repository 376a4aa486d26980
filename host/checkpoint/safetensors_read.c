/*
 * safetensors_read.c: see safetensors_read.h. Two passes: the first turns JSON into entries and refuses what does not
 * have the right form; the second walks the entries in offset order, as the reference reader does
 * (huggingface/safetensors, tensor.rs, Metadata::validate), and refuses sizes and offsets that do not fit together.
 */
#include "checkpoint/safetensors_read.h"

#include "base/dtype.h"
#include "base/json.h"
#include "base/text.h"
#include "checkpoint/refuse.h"
#include "checkpoint/sniff.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Top object, tensor entry, shape array: 3. One more for fields we do not know. */
#define HEADER_MAX_DEPTH 4

#define DAMAGED "the file is damaged or was not written by safetensors: download it again or save the model anew"

struct entry {
    struct ckpt_tensor tensor; /* begin relative to the data section */
    uint64_t end;
    size_t order; /* place in the JSON */
};

struct reader {
    const char *path;
    struct arena *arena;  /* of the result */
    struct arena scratch; /* of decoded text and entries */
    struct json_scanner scan;
    struct problems *problems;
    struct wm_error *err;
    struct entry *entries;
    size_t n_entries, capacity;
    bool seen_unknown; /* a field we do not know was reported */
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
    return ckpt_refuse(r->err, WM_BAD_DATA, identifier, r->path, "%s; " DAMAGED, sentence);
}

/* The scanner stopped: says so under the name that fits. `where` is the tensor or NULL. */
static enum wm_status refuse_flaw(struct reader *r, const char *tensor)
{
    char shown[REFUSE_NAME_BYTES];
    const char *identifier = "HEADER_NOT_JSON";

    switch (r->scan.flaw) {
    case JSON_FLAW_MEMORY: return error_no_memory(r->err, "reading a safetensors header");
    case JSON_FLAW_UTF8: identifier = "HEADER_NOT_UTF8"; break;
    case JSON_FLAW_DUPLICATE_KEY: identifier = "DUPLICATE_KEY"; break;
    case JSON_FLAW_CONTROL: identifier = "BAD_NAME"; break;
    default: break;
    }
    if (!tensor)
        return refuse(r, identifier, "the header is not valid at line %zu, column %zu: %s", r->scan.line,
                      r->scan.column, r->scan.problem);
    return refuse(r, identifier, "the header's entry of tensor \"%s\" is not valid at line %zu, column %zu: %s",
                  text_display(shown, sizeof shown, tensor), r->scan.line, r->scan.column, r->scan.problem);
}

static enum wm_status refuse_entry(struct reader *r, const char *identifier, const char *tensor, const char *what)
{
    char shown[REFUSE_NAME_BYTES];

    if (r->scan.flaw != JSON_FLAW_NONE)
        return refuse_flaw(r, tensor);
    return refuse(r, identifier, "tensor \"%s\": %s", text_display(shown, sizeof shown, tensor), what);
}

/* ---- first pass: form --------------------------------------------------------------------------------------- */

static enum wm_status read_dtype(struct reader *r, struct ckpt_tensor *t)
{
    const char *names[WM_N_DTYPES];
    char what[240], shown[80];
    int nearest;

    if (json_next(&r->scan) != JSON_STRING)
        return refuse_entry(r, "HEADER_SCHEMA", t->name, "its dtype is not a string");
    if (strlen(r->scan.text.data) == r->scan.text.n_bytes && dtype_parse(r->scan.text.data, &t->dtype))
        return WM_OK;
    for (int i = 0; i < WM_N_DTYPES; i++)
        names[i] = dtype_name((enum wm_dtype)i);
    nearest = text_nearest(r->scan.text.data, names, WM_N_DTYPES);
    snprintf(what, sizeof what, "its dtype \"%s\" is none of the 22 that safetensors defines%s%s%s",
             text_display(shown, sizeof shown, r->scan.text.data), nearest >= 0 ? " (" : "",
             nearest >= 0 ? names[nearest] : "", nearest >= 0 ? "?)" : "");
    return refuse_entry(r, "UNKNOWN_DTYPE", t->name, what);
}

static enum wm_status read_shape(struct reader *r, struct ckpt_tensor *t)
{
    uint64_t shape[CKPT_MAX_DIMS], *kept;
    enum json_event event;

    t->n_dims = 0;
    if (json_next(&r->scan) != JSON_ARRAY_BEGIN)
        return refuse_entry(r, "HEADER_SCHEMA", t->name, "its shape is not an array of whole numbers");
    while ((event = json_next(&r->scan)) != JSON_ARRAY_END) {
        if (event == JSON_NUMBER && r->scan.too_big)
            return refuse_entry(r, "SHAPE_OVERFLOW", t->name, "a dimension of its shape does not fit 64 bits");
        if (event != JSON_INTEGER)
            return refuse_entry(r, "HEADER_SCHEMA", t->name,
                                "its shape holds something other than whole numbers written in digits");
        if (t->n_dims == CKPT_MAX_DIMS)
            return refuse_entry(r, "TOO_MANY_DIMENSIONS", t->name, "its shape has more than 64 dimensions");
        shape[t->n_dims++] = r->scan.integer;
    }
    kept = arena_array(r->arena, (size_t)t->n_dims, sizeof *kept);
    if (!kept)
        return error_no_memory(r->err, "reading a safetensors header");
    memcpy(kept, shape, (size_t)t->n_dims * sizeof *kept);
    t->shape = kept;
    return WM_OK;
}

static enum wm_status read_offsets(struct reader *r, struct entry *e)
{
    static const char what[] = "its data_offsets are not two whole numbers [begin, end]";
    uint64_t ends[2] = {0, 0};

    if (json_next(&r->scan) != JSON_ARRAY_BEGIN)
        return refuse_entry(r, "HEADER_SCHEMA", e->tensor.name, what);
    for (int i = 0; i < 2; i++) {
        enum json_event event = json_next(&r->scan);
        if (event == JSON_NUMBER && r->scan.too_big)
            return refuse_entry(r, "BAD_OFFSET", e->tensor.name, "an offset of its data does not fit 64 bits");
        if (event != JSON_INTEGER)
            return refuse_entry(r, "HEADER_SCHEMA", e->tensor.name, what);
        ends[i] = r->scan.integer;
    }
    if (json_next(&r->scan) != JSON_ARRAY_END)
        return refuse_entry(r, "HEADER_SCHEMA", e->tensor.name, what);
    e->tensor.begin = ends[0];
    e->end = ends[1];
    return WM_OK;
}

/* A field that safetensors does not define: skipped, and named under strict. */
static enum wm_status skip_field(struct reader *r, const char *tensor, const char *field)
{
    char shown[REFUSE_NAME_BYTES], shown_field[80];

    if (!json_skip_value(&r->scan, json_next(&r->scan)))
        return refuse_flaw(r, tensor);
    if (r->problems->strict && !r->seen_unknown)
        problems_add(r->problems, WM_WARNING, WM_OK,
                     "%s: tensor \"%s\" has the field \"%s\", which safetensors does not define; ignored", r->path,
                     text_display(shown, sizeof shown, tensor), text_display(shown_field, sizeof shown_field, field));
    r->seen_unknown = true;
    return WM_OK;
}

enum { FIELD_DTYPE = 1, FIELD_SHAPE = 2, FIELD_OFFSETS = 4, FIELD_ALL = 7 };

static enum wm_status read_entry(struct reader *r, const char *name)
{
    enum wm_status st = WM_OK;
    struct json_keys unknown;
    enum json_event event;
    struct entry *e;
    unsigned seen = 0;

    if (!arena_grow(&r->scratch, (void **)&r->entries, r->n_entries, &r->capacity, sizeof *e)) {
        st = error_no_memory(r->err, "reading a safetensors header");
        goto out;
    }
    e = &r->entries[r->n_entries];
    memset(e, 0, sizeof *e);
    e->tensor.name = name;
    e->order = r->n_entries++;
    json_keys_init(&unknown, &r->scratch);
    if (json_next(&r->scan) != JSON_OBJECT_BEGIN) {
        st = refuse_entry(r, "HEADER_SCHEMA", name, "its entry is not an object with dtype, shape and data_offsets");
        goto out;
    }
    while ((event = json_next(&r->scan)) == JSON_KEY) {
        struct json_text key = r->scan.text;
        unsigned field = strcmp(key.data, "dtype") == 0          ? FIELD_DTYPE
                         : strcmp(key.data, "shape") == 0        ? FIELD_SHAPE
                         : strcmp(key.data, "data_offsets") == 0 ? FIELD_OFFSETS
                                                                 : 0;
        bool fresh = !(seen & field);
        if (!field && !json_keys_add(&unknown, key, &fresh)) {
            st = error_no_memory(r->err, "reading a safetensors header");
            goto out;
        }
        if (!fresh) {
            st = refuse_entry(r, "DUPLICATE_KEY", name, "a field stands twice in its entry");
            goto out;
        }
        seen |= field;
        switch (field) {
        case FIELD_DTYPE: TRY(read_dtype(r, &e->tensor)); break;
        case FIELD_SHAPE: TRY(read_shape(r, &e->tensor)); break;
        case FIELD_OFFSETS: TRY(read_offsets(r, e)); break;
        default: TRY(skip_field(r, name, key.data)); break;
        }
    }
    if (event != JSON_OBJECT_END)
        st = refuse_flaw(r, name);
    else if (seen != FIELD_ALL)
        st = refuse_entry(r, "HEADER_SCHEMA", name,
                          !(seen & FIELD_DTYPE)   ? "its entry has no dtype"
                          : !(seen & FIELD_SHAPE) ? "its entry has no shape"
                                                  : "its entry has no data_offsets");
out:
    return st;
}

/* __metadata__: a flat map of strings to strings. We keep none of it. */
static enum wm_status read_metadata(struct reader *r)
{
    struct json_keys keys;
    enum json_event event = json_next(&r->scan);
    char shown[REFUSE_NAME_BYTES];
    bool fresh;

    if (event == JSON_NULL) {
        problems_add(r->problems, WM_WARNING, WM_OK, "%s: __metadata__ is null; taken as empty", r->path);
        return WM_OK;
    }
    if (r->scan.flaw != JSON_FLAW_NONE)
        return refuse_flaw(r, NULL);
    if (event != JSON_OBJECT_BEGIN)
        return refuse(r, "HEADER_SCHEMA", "__metadata__ is not an object of strings");
    json_keys_init(&keys, &r->scratch);
    while ((event = json_next(&r->scan)) == JSON_KEY) {
        struct json_text key = r->scan.text;
        if (!json_keys_add(&keys, key, &fresh))
            return error_no_memory(r->err, "reading a safetensors header");
        text_display(shown, sizeof shown, key.data);
        if (!fresh)
            return refuse(r, "DUPLICATE_KEY", "the key \"%s\" stands twice in __metadata__", shown);
        if (json_next(&r->scan) != JSON_STRING && r->scan.flaw == JSON_FLAW_NONE)
            return refuse(r, "HEADER_SCHEMA", "__metadata__ holds \"%s\", whose value is not a string", shown);
    }
    return event == JSON_OBJECT_END ? WM_OK : refuse_flaw(r, NULL);
}

static enum wm_status read_top(struct reader *r)
{
    enum wm_status st = WM_OK;
    enum json_event event;
    struct json_keys names;
    char shown[REFUSE_NAME_BYTES];
    bool fresh;

    json_keys_init(&names, &r->scratch);
    event = json_next(&r->scan);
    if (event != JSON_OBJECT_BEGIN) {
        st = event == JSON_ERROR ? refuse_flaw(r, NULL)
                                 : refuse(r, "HEADER_NOT_JSON", "the header is JSON, but not an object of tensors");
        goto out;
    }
    while ((event = json_next(&r->scan)) == JSON_KEY) {
        struct json_text key = r->scan.text;
        const char *name;
        if (!json_keys_add(&names, key, &fresh)) {
            st = error_no_memory(r->err, "reading a safetensors header");
            goto out;
        }
        if (!fresh) {
            st = refuse(r, "DUPLICATE_KEY", "the name \"%s\" stands twice in the header",
                        text_display(shown, sizeof shown, key.data));
            goto out;
        }
        if (strcmp(key.data, "__metadata__") == 0) {
            TRY(read_metadata(r));
            continue;
        }
        if (key.n_bytes > SAFETENSORS_NAME_MAX_BYTES) {
            st = refuse(r, "BAD_NAME", "the name of tensor \"%s\" has %zu bytes, more than %d",
                        text_display(shown, sizeof shown, key.data), key.n_bytes, SAFETENSORS_NAME_MAX_BYTES);
            goto out;
        }
        name = arena_strndup(r->arena, key.data, key.n_bytes);
        if (!name) {
            st = error_no_memory(r->err, "reading a safetensors header");
            goto out;
        }
        TRY(read_entry(r, name));
    }
    if (event != JSON_OBJECT_END || json_next(&r->scan) != JSON_END)
        st = refuse_flaw(r, NULL);
    else if (r->scan.leading_space && r->problems->strict)
        problems_add(r->problems, WM_WARNING, WM_OK, "%s: the header begins with white space instead of '{'", r->path);
out:
    return st;
}

/* ---- second pass: sizes and offsets ------------------------------------------------------------------------- */

static int compare_entries(const void *left, const void *right)
{
    const struct entry *a = left, *b = right;

    if (a->tensor.begin != b->tensor.begin)
        return a->tensor.begin < b->tensor.begin ? -1 : 1;
    if (a->end != b->end)
        return a->end < b->end ? -1 : 1;
    return a->order < b->order ? -1 : a->order > b->order;
}

/* n_elems and n_bytes from shape and dtype. A dimension of 0 makes the tensor empty wherever it stands; the reference
 * multiplies from the left and accepts [0, huge, huge] only. */
static enum wm_status measure(struct reader *r, struct ckpt_tensor *t)
{
    uint64_t n = 1, n_bits;
    bool overflow = false;

    for (int i = 0; i < t->n_dims; i++)
        if (t->shape[i] == 0)
            n = 0;
    for (int i = 0; i < t->n_dims && n; i++)
        overflow |= __builtin_mul_overflow(n, t->shape[i], &n);
    overflow |= __builtin_mul_overflow(n, (uint64_t)dtype_bits(t->dtype), &n_bits);
    if (overflow)
        return refuse_entry(r, "SHAPE_OVERFLOW", t->name, "the size of its shape does not fit 64 bits");
    if (n_bits % 8)
        return refuse_entry(r, "SUBBYTE_MISALIGNED", t->name,
                            "its elements are narrower than a byte and do not fill whole bytes");
    t->n_elems = n;
    t->n_bytes = n_bits / 8;
    return WM_OK;
}

static enum wm_status refuse_offset(struct reader *r, const struct entry *e, const struct entry *before, uint64_t at)
{
    char shown[REFUSE_NAME_BYTES], shown_before[REFUSE_NAME_BYTES];
    unsigned long long begin = e->tensor.begin, end = e->end;

    text_display(shown, sizeof shown, e->tensor.name);
    if (end < begin)
        return refuse(r, "BAD_OFFSET", "tensor \"%s\": its data_offsets [%llu, %llu] run backwards", shown, begin, end);
    if (!before)
        return refuse(r, "BAD_OFFSET", "the first tensor, \"%s\", begins at offset %llu instead of 0", shown, begin);
    return refuse(r, "BAD_OFFSET", "tensor \"%s\" begins at offset %llu, but \"%s\" before it ends at %llu: %s", shown,
                  begin, text_display(shown_before, sizeof shown_before, before->tensor.name), (unsigned long long)at,
                  begin < at ? "they overlap" : "there is a gap");
}

static enum wm_status validate(struct reader *r, uint64_t n_data)
{
    enum wm_status st = WM_OK;
    char shown[REFUSE_NAME_BYTES];
    uint64_t at = 0;
    bool sorted = true;

    for (size_t i = 1; i < r->n_entries && sorted; i++)
        sorted = compare_entries(&r->entries[i - 1], &r->entries[i]) < 0;
    if (!sorted)
        qsort(r->entries, r->n_entries, sizeof *r->entries, compare_entries);
    for (size_t i = 0; i < r->n_entries; i++) {
        struct entry *e = &r->entries[i];
        if (e->tensor.begin != at || e->end < e->tensor.begin) {
            st = refuse_offset(r, e, i ? e - 1 : NULL, at);
            goto out;
        }
        TRY(measure(r, &e->tensor));
        if (e->end - e->tensor.begin != e->tensor.n_bytes) {
            char shape[160];
            st = refuse(r, "SIZE_MISMATCH", "tensor \"%s\", %s, needs %llu bytes, but its data_offsets hold %llu",
                        text_display(shown, sizeof shown, e->tensor.name),
                        ckpt_shape_text(shape, sizeof shape, &e->tensor), (unsigned long long)e->tensor.n_bytes,
                        (unsigned long long)(e->end - e->tensor.begin));
            goto out;
        }
        at = e->end;
    }
    if (at > n_data)
        st = ckpt_refuse(r->err, WM_BAD_DATA, "DATA_NOT_COVERED", r->path,
                         "the file ends too early: its tensors need %llu bytes of data and %llu are there; an "
                         "incomplete download or copy: fetch the file again",
                         (unsigned long long)at, (unsigned long long)n_data);
    else if (at < n_data)
        st = refuse(r, "DATA_NOT_COVERED", "%llu bytes at the end belong to no tensor",
                    (unsigned long long)(n_data - at));
out:
    return st;
}

/* ---- entry points ------------------------------------------------------------------------------------------- */

enum wm_status safetensors_parse(struct safetensors_table *table, const char *path, const char *header, size_t n_header,
                                 uint64_t n_data, struct arena *arena, struct problems *problems, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    struct reader r = {.path = path, .arena = arena, .problems = problems, .err = err};

    *table = (struct safetensors_table){NULL, 0, 0};
    /* Worst legal ratio: an entry with a one-byte name is some 50 bytes of text and 250 of memory; json_gate's bound
     * covers the unknown rest. */
    arena_init(&r.scratch, n_header * 32 + ((size_t)1 << 20));
    json_scanner_init(&r.scan, header, n_header, HEADER_MAX_DEPTH, &r.scratch);
    TRY(read_top(&r));
    TRY(validate(&r, n_data));
    table->tensors = arena_array(arena, r.n_entries, sizeof *table->tensors);
    if (!table->tensors) {
        st = error_no_memory(err, "reading a safetensors header");
        goto out;
    }
    for (size_t i = 0; i < r.n_entries; i++) {
        table->tensors[i] = r.entries[i].tensor;
        table->tensors[i].begin += SAFETENSORS_PREFIX_BYTES + (uint64_t)n_header; /* within the file, so no overflow */
    }
    table->n_tensors = r.n_entries;
    table->n_bytes = n_data;
out:
    arena_release(&r.scratch);
    return st;
}

enum wm_status safetensors_header_bytes(const char *path, const void *head, size_t n_head, uint64_t file_bytes,
                                        uint64_t header_cap, size_t *n_header, struct wm_error *err)
{
    const unsigned char *prefix = head;
    const struct sniffed *other;
    uint64_t n = 0;

    *n_header = 0;
    if (n_head >= SAFETENSORS_PREFIX_BYTES)
        for (int i = 0; i < SAFETENSORS_PREFIX_BYTES; i++)
            n |= (uint64_t)prefix[i] << (8 * i);
    /* Only what is refused in any case is sniffed: a true header's length may look like the start of a pickle. */
    if (n_head < SAFETENSORS_PREFIX_BYTES || n > file_bytes - SAFETENSORS_PREFIX_BYTES ||
        (n_head > SAFETENSORS_PREFIX_BYTES && !memchr(" \t\r\n{", prefix[SAFETENSORS_PREFIX_BYTES], 5))) {
        other = sniff(head, n_head);
        if (other)
            return ckpt_refuse(err, WM_BAD_DATA, other->identifier, path, "%s", other->sentence);
    }
    if (n_head < SAFETENSORS_PREFIX_BYTES)
        return ckpt_refuse(err, WM_BAD_DATA, "HEADER_TOO_SMALL", path,
                           "the file has %zu bytes, and the 8 of the header's length do not fit; an incomplete "
                           "download or copy: fetch the file again",
                           n_head);
    if (n > CKPT_HEADER_CAP_FORMAT)
        return ckpt_refuse(err, WM_BAD_DATA, "HEADER_TOO_LARGE", path,
                           "it says that its header has %llu bytes, and the format allows %u: this is no safetensors "
                           "file, or a damaged one; download it again",
                           (unsigned long long)n, CKPT_HEADER_CAP_FORMAT);
    if (n > file_bytes - SAFETENSORS_PREFIX_BYTES)
        return ckpt_refuse(err, WM_BAD_DATA, "INVALID_HEADER_LENGTH", path,
                           "it says that its header has %llu bytes, and only %llu follow; an incomplete download or "
                           "copy: fetch the file again",
                           (unsigned long long)n, (unsigned long long)(file_bytes - SAFETENSORS_PREFIX_BYTES));
    if (header_cap == 0)
        header_cap = CKPT_HEADER_CAP_DEFAULT;
    if (n > header_cap)
        return ckpt_refuse(err, WM_BAD_DATA, "HEADER_TOO_LARGE", path,
                           "its header has %llu bytes, more than the limit of %llu (the hub's own is 25000000); split "
                           "the model into more shards, or raise the header limit if you trust the file",
                           (unsigned long long)n, (unsigned long long)header_cap);
    *n_header = (size_t)n;
    return WM_OK;
}

enum wm_status safetensors_read(struct safetensors_table *table, const char *path, const char *shown,
                                uint64_t header_cap, struct file_identity *identity, struct arena *arena,
                                struct problems *problems, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    unsigned char head[SNIFF_BYTES];
    char *header = NULL;
    size_t n_head, n_header;
    int fd = -1;

    TRY(file_open_read(&fd, path, NULL, identity, err));
    n_head = identity->n_bytes < sizeof head ? (size_t)identity->n_bytes : sizeof head;
    TRY(file_read_at(fd, path, head, n_head, 0, err));
    TRY(safetensors_header_bytes(shown, head, n_head, identity->n_bytes, header_cap, &n_header, err));
    header = malloc(n_header + 1);
    if (!header) {
        st = error_no_memory(err, "reading a safetensors header");
        goto out;
    }
    TRY(file_read_at(fd, path, header, n_header, SAFETENSORS_PREFIX_BYTES, err));
    TRY(safetensors_parse(table, shown, header, n_header, identity->n_bytes - SAFETENSORS_PREFIX_BYTES - n_header,
                          arena, problems, err));
out:
    free(header);
    file_close(&fd);
    return st;
}
