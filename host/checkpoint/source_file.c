/*
 * source_file.c: bytes of a file (see source.h), through the page cache or past it.
 *
 * O_DIRECT saves a copy and leaves the page cache to others, but a file that is cached already is read faster through
 * the cache: AUTO samples which is the case. Inputs are never mapped: a file that shrinks must be an error, not a
 * signal. Knows nothing of tensors.
 */
#include "checkpoint/source.h"

#include "base/text.h"
#include "checkpoint/refuse.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>

#define N_PROBES 32 /* pages looked at to judge what share of a file is cached */

struct source_file {
    struct source base; /* first member: a source is cast back */
    int fd;
    bool direct;
    uint64_t n_bytes;
    char path[];
};

static uint64_t file_size(const struct source *source)
{
    return ((const struct source_file *)(const void *)source)->n_bytes;
}

static enum wm_status read_at(struct source *source, uint64_t offset, size_t n, void *buffer, const void **data,
                              struct wm_error *err)
{
    const struct source_file *f = (const struct source_file *)(const void *)source;
    uint64_t begin = offset / SOURCE_ALIGN * SOURCE_ALIGN, end;
    size_t skip = (size_t)(offset - begin);
    enum wm_status st = WM_OK;

    *data = NULL;
    if (__builtin_add_overflow(offset, (uint64_t)n, &end) || end > f->n_bytes) {
        st = error_set(err, WM_BUG, "a read of %zu bytes at %llu passes the end of %s", n, (unsigned long long)offset,
                       f->path);
        goto out;
    }
    if (n == 0) {
        *data = buffer;
    } else if (f->direct) {
        TRY(file_read_direct(f->fd, f->path, buffer, (skip + n + SOURCE_ALIGN - 1) / SOURCE_ALIGN * SOURCE_ALIGN,
                             skip + n, begin, err));
        *data = (const char *)buffer + skip;
    } else {
        TRY(file_read_at(f->fd, f->path, buffer, n, offset, err));
        *data = buffer;
    }
out:
    return st;
}

static void close_file(struct source *source)
{
    struct source_file *f = (struct source_file *)(void *)source;

    file_close(&f->fd);
    free(f);
}

static const struct source_ops ops = {file_size, read_at, close_file};

/* Whether most of the file would have to come from storage. RWF_NOWAIT reads what is cached and fails with EAGAIN
 * otherwise, without starting a read. A file system that does not know the flag keeps the page cache. */
static bool mostly_uncached(int fd, uint64_t n_bytes)
{
    unsigned n_uncached = 0, n_probes = n_bytes / SOURCE_ALIGN < N_PROBES ? 1 : N_PROBES;
    char byte;

    for (unsigned i = 0; i < n_probes && n_bytes; i++) {
        struct iovec piece = {&byte, 1};
        uint64_t offset = n_bytes / n_probes * i;
        if (preadv2(fd, &piece, 1, (off_t)offset, RWF_NOWAIT) >= 0)
            continue;
        if (errno != EAGAIN)
            return false;
        n_uncached++;
    }
    return 2 * n_uncached > n_probes;
}

/* One real read: some file systems take the flag and refuse the read, or want another alignment. */
static bool direct_works(int fd, uint64_t n_bytes)
{
    void *page = n_bytes ? aligned_alloc(SOURCE_ALIGN, SOURCE_ALIGN) : NULL;
    struct wm_error ignored = WM_ERROR_INIT;
    bool works =
        page && file_read_direct(fd, "", page, SOURCE_ALIGN, n_bytes < SOURCE_ALIGN ? (size_t)n_bytes : SOURCE_ALIGN, 0,
                                 &ignored) == WM_OK;

    free(page);
    return works;
}

static bool same_identity(const struct file_identity *a, const struct file_identity *b)
{
    return a->n_bytes == b->n_bytes && a->inode == b->inode && a->device == b->device && a->mtime_ns == b->mtime_ns;
}

enum wm_status source_open_file(struct source **source, const char *path, const struct file_identity *expected,
                                enum wm_direct_io direct, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    size_t n_path = strlen(path) + 1;
    struct source_file *f = malloc(sizeof *f + n_path);
    struct file_identity id;
    int fd_direct = -1;
    bool try_direct;

    *source = NULL;
    if (!f) {
        st = error_no_memory(err, "opening a file");
        goto out;
    }
    *f = (struct source_file){{&ops}, -1, false, 0};
    memcpy(f->path, path, n_path);
    TRY(file_open_read(&f->fd, path, NULL, &id, err));
    if (expected && !same_identity(&id, expected)) {
        st = ckpt_refuse(err, WM_BAD_DATA, "FILE_CHANGED", path,
                         "it changed since its header was read; run the same command again when nobody else writes to "
                         "it (an unfinished output has to be started anew)");
        goto out;
    }
    f->n_bytes = id.n_bytes;
    try_direct = direct == WM_DIRECT_ON || (direct == WM_DIRECT_AUTO && mostly_uncached(f->fd, id.n_bytes));
    if (try_direct) {
        struct wm_error ignored = WM_ERROR_INIT;
        struct file_identity id_direct;
        bool flag = true;
        if (file_open_read(&fd_direct, path, &flag, &id_direct, &ignored) == WM_OK && flag &&
            same_identity(&id, &id_direct) && direct_works(fd_direct, id.n_bytes)) {
            file_close(&f->fd);
            f->fd = fd_direct;
            f->direct = true;
            fd_direct = -1;
        }
    }
    *source = &f->base;
    f = NULL;
out:
    file_close(&fd_direct);
    if (f)
        close_file(&f->base);
    return st;
}
