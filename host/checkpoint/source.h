/*
 * source.h: the byte source, where tensor bytes come from.
 *
 * What lives here: the four-function interface and its file and memory implementations. A source hands out bytes at
 * offsets and hides how (buffered or O_DIRECT). What it must not know: tensors.
 */
#ifndef WM_CHECKPOINT_SOURCE_H
#define WM_CHECKPOINT_SOURCE_H

#include "base/error.h"
#include "base/file.h"

#include <stddef.h>
#include <stdint.h>

#define SOURCE_ALIGN 4096u
/* A read of n bytes needs a buffer of this size: O_DIRECT reads the enclosing aligned range. */
#define SOURCE_BUFFER_BYTES(n) (((n) + 2 * (size_t)SOURCE_ALIGN) / SOURCE_ALIGN * SOURCE_ALIGN)

struct source;

struct source_ops {
    uint64_t (*size)(const struct source *source);
    /* Makes bytes [offset, offset + n) available at *data, inside `buffer` (SOURCE_ALIGN-aligned, at least
     * SOURCE_BUFFER_BYTES(n) long). Thread-safe. WM_IO. */
    enum wm_status (*read_at)(struct source *source, uint64_t offset, size_t n, void *buffer, const void **data,
                              struct wm_error *err);
    void (*close)(struct source *source); /* frees the source */
};

struct source {
    const struct source_ops *ops;
};

/* expected (may be NULL): the identity seen when the headers were read; a file that changed since is refused
 * (WM_BAD_DATA). direct: AUTO uses O_DIRECT when the file system takes it and the file is mostly not in the page
 * cache (probed with RWF_NOWAIT reads, never mapped). */
enum wm_status source_open_file(struct source **source, const char *path, const struct file_identity *expected,
                                enum wm_direct_io direct, struct wm_error *err);
/* Borrowed bytes; for tests and embedding. */
enum wm_status source_open_memory(struct source **source, const void *data, size_t n_bytes, struct wm_error *err);
/* Wraps another source (taken over on success): the n-th read (from 1) fails with WM_IO. For tests. */
enum wm_status source_open_faulty(struct source **source, struct source *inner, uint64_t fail_at, struct wm_error *err);

static inline uint64_t source_size(const struct source *s)
{
    return s->ops->size(s);
}
static inline enum wm_status source_read(struct source *s, uint64_t offset, size_t n, void *buffer, const void **data,
                                         struct wm_error *err)
{
    return s->ops->read_at(s, offset, n, buffer, data, err);
}
static inline void source_close(struct source *s)
{
    if (s)
        s->ops->close(s);
}

#endif
