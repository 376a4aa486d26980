/* source_memory.c: the sources of tests and embedding programs (see source.h): bytes in memory, and one that fails. */
#include "checkpoint/source.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory ------------------------------------------------------------------------------------------------- */

struct source_memory {
    struct source base; /* first member: a source is cast back */
    const char *data;
    size_t n_bytes;
};

static uint64_t memory_size(const struct source *source)
{
    return ((const struct source_memory *)(const void *)source)->n_bytes;
}

/* Hands out the bytes where they are; the buffer is not needed. */
static enum wm_status memory_read(struct source *source, uint64_t offset, size_t n, void *buffer, const void **data,
                                  struct wm_error *err)
{
    const struct source_memory *m = (const struct source_memory *)(const void *)source;

    (void)buffer;
    *data = NULL;
    if (offset > m->n_bytes || n > m->n_bytes - offset)
        return error_set(err, WM_BUG, "a read of %zu bytes at %llu passes the end of the %zu in memory", n,
                         (unsigned long long)offset, m->n_bytes);
    *data = m->data + offset;
    return WM_OK;
}

static void memory_close(struct source *source)
{
    free(source);
}

enum wm_status source_open_memory(struct source **source, const void *data, size_t n_bytes, struct wm_error *err)
{
    static const struct source_ops ops = {memory_size, memory_read, memory_close};
    struct source_memory *m = malloc(sizeof *m);

    *source = NULL;
    if (!m)
        return error_no_memory(err, "opening bytes in memory");
    *m = (struct source_memory){{&ops}, data, n_bytes};
    *source = &m->base;
    return WM_OK;
}

/* ---- faulty ------------------------------------------------------------------------------------------------- */

struct source_faulty {
    struct source base; /* first member: a source is cast back */
    struct source *inner;
    uint64_t fail_at;
    atomic_uint_least64_t n_reads;
};

static uint64_t faulty_size(const struct source *source)
{
    return source_size(((const struct source_faulty *)(const void *)source)->inner);
}

static enum wm_status faulty_read(struct source *source, uint64_t offset, size_t n, void *buffer, const void **data,
                                  struct wm_error *err)
{
    struct source_faulty *f = (struct source_faulty *)(void *)source;
    uint64_t number = atomic_fetch_add(&f->n_reads, 1) + 1;

    *data = NULL;
    if (number == f->fail_at)
        return error_set(err, WM_IO, "cannot read %zu bytes at %llu: injected fault in read %llu; this is a test", n,
                         (unsigned long long)offset, (unsigned long long)number);
    return source_read(f->inner, offset, n, buffer, data, err);
}

static void faulty_close(struct source *source)
{
    source_close(((struct source_faulty *)(void *)source)->inner);
    free(source);
}

enum wm_status source_open_faulty(struct source **source, struct source *inner, uint64_t fail_at, struct wm_error *err)
{
    static const struct source_ops ops = {faulty_size, faulty_read, faulty_close};
    struct source_faulty *f = malloc(sizeof *f);

    *source = NULL;
    if (!f)
        return error_no_memory(err, "opening a faulty source");
    f->base.ops = &ops;
    f->inner = inner;
    f->fail_at = fail_at;
    atomic_init(&f->n_reads, 0);
    *source = &f->base;
    return WM_OK;
}
