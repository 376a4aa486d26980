/*
 * storage.c: how fast a folder's storage takes and gives bytes.
 *
 * What lives here: one file of bounded size, written and read in blocks by a few threads, past the page cache and
 * through it. The file has no name while it exists, so nothing is left behind however this ends. What it must not know:
 * tensors.
 */
#include "measure/measure.h"

#include "base/file.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK_BYTES      ((size_t)4 << 20) /* the engine's tiles are of this order */
#define FILE_BYTES       ((uint64_t)2 << 30)
#define QUICK_FILE_BYTES ((uint64_t)128 << 20)
#define MAX_WORKERS      16

struct storage {
    char self[64]; /* the file's only name: /proc/self/fd/N */
    int fd, direct_fd;
    bool is_direct; /* direct_fd is a direct one */
    uint64_t n_bytes;
    int n_workers;
    char *buffers[MAX_WORKERS];
    /* of the pass that runs */
    bool writes;
    int pass_fd;
    uint64_t next;
    struct wm_error errors[MAX_WORKERS];
};

static void storage_worker(void *user, int worker)
{
    struct storage *s = user;

    if (worker >= s->n_workers)
        return;
    for (;;) {
        uint64_t at = __atomic_fetch_add(&s->next, BLOCK_BYTES, __ATOMIC_RELAXED);
        enum wm_status st;
        if (at >= s->n_bytes)
            return;
        if (s->writes)
            st = file_write_at(s->pass_fd, s->self, s->buffers[worker], BLOCK_BYTES, at, &s->errors[worker]);
        else
            st = file_read_at(s->pass_fd, s->self, s->buffers[worker], BLOCK_BYTES, at, &s->errors[worker]);
        if (st != WM_OK)
            return;
    }
}

/* One pass over the file; a write ends when the bytes are durable. */
static enum wm_status timed_pass(struct storage *s, struct measure_team *team, int fd, bool writes, double *seconds,
                                 struct wm_error *err)
{
    double began = file_now_seconds();
    enum wm_status st = WM_OK;

    s->writes = writes;
    s->pass_fd = fd;
    s->next = 0;
    measure_team_run(team, storage_worker, s);
    for (int i = 0; i < s->n_workers; i++)
        if (s->errors[i].status != WM_OK)
            return error_set(err, s->errors[i].status, "measuring the storage: %s", s->errors[i].message);
    if (writes)
        st = file_sync(fd, s->self, err);
    *seconds = file_now_seconds() - began;
    return st;
}

static enum wm_status measure_pass(struct storage *s, struct measure *m, struct measure_team *team, const char *id,
                                   const char *what, int fd, bool writes, bool cold, struct wm_error *err)
{
    struct sampler *sampler = malloc(sizeof *sampler);
    struct sample_time time;
    struct measure_ceiling *c;
    enum wm_status st = WM_OK;
    double seconds = 0;

    if (!sampler)
        return error_no_memory(err, "measuring the storage");
    sampler_begin(sampler, m->quick ? &sample_quick : &sample_thorough);
    /* Storage is too slow and too noisy for the rules' ten samples: three passes over the file. */
    for (int i = 0; i < (m->quick ? 1 : 3); i++) {
        if (cold)
            (void)posix_fadvise(s->fd, 0, 0, POSIX_FADV_DONTNEED);
        TRY(timed_pass(s, team, fd, writes, &seconds, err));
        sampler_add(sampler, seconds);
    }
    time = sampler_end(sampler);
    c = measure_add_ceiling(m, id, what);
    measure_set_ceiling(c, s->n_bytes, &time);
    snprintf(c->detail, sizeof c->detail, "%d threads, blocks of 4 MiB%s", s->n_workers, writes ? ", fsync" : "");
out:
    free(sampler);
    return st;
}

static enum wm_status storage_open(struct storage *s, const char *dir, bool quick, struct wm_error *err)
{
    char name[64];
    char *path = NULL;
    uint64_t free_bytes = 0;
    bool direct = true;
    struct file_identity identity;
    struct wm_error ignored = WM_ERROR_INIT;
    enum wm_status st;

    TRY(file_free_space(dir, &free_bytes, err));
    s->n_bytes = quick ? QUICK_FILE_BYTES : FILE_BYTES;
    if (s->n_bytes > free_bytes / 4)
        s->n_bytes = free_bytes / 4 / BLOCK_BYTES * BLOCK_BYTES;
    if (s->n_bytes < 4 * BLOCK_BYTES) {
        st = error_set(err, WM_CANT_CREATE, "%s has too little free space to measure its storage; name another folder",
                       dir);
        goto out;
    }
    snprintf(name, sizeof name, "warpmerge-bench-%ld.tmp", (long)getpid());
    path = file_path_join(dir, name);
    if (!path) {
        st = error_no_memory(err, "measuring the storage");
        goto out;
    }
    TRY(file_open_write(&s->fd, path, true, true, err));
    snprintf(s->self, sizeof s->self, "/proc/self/fd/%d", s->fd);
    /* Opened a second time while it has a name. Where O_DIRECT does not exist (tmpfs) reads are buffered. */
    st = file_open_read(&s->direct_fd, path, &direct, &identity, &ignored);
    s->is_direct = st == WM_OK && direct;
    TRY(file_unlink(path, err));
    TRY(file_allocate(s->fd, s->self, s->n_bytes, err));
    for (int i = 0; i < s->n_workers; i++) {
        s->buffers[i] = aligned_alloc(4096, BLOCK_BYTES);
        if (!s->buffers[i]) {
            st = error_no_memory(err, "measuring the storage");
            goto out;
        }
        for (size_t b = 0; b < BLOCK_BYTES; b++) /* nothing that a file system would compress */
            s->buffers[i][b] = (char)((b * 2654435761u + (size_t)i) >> 13);
    }
out:
    free(path);
    return st;
}

enum wm_status measure_storage(struct measure *m, const char *dir, struct measure_team *team, bool quick,
                               struct wm_error *err)
{
    struct storage s = {.fd = -1, .direct_fd = -1, .n_workers = measure_team_size(team)};
    struct wm_error ignored = WM_ERROR_INIT;
    enum wm_status st;
    int write_fd = -1;

    if (s.n_workers > MAX_WORKERS)
        s.n_workers = MAX_WORKERS;
    TRY(storage_open(&s, dir, quick, err));
    TRY(measure_pass(&s, m, team, "storage_write", "storage, write", s.fd, true, false, err));
    if (s.is_direct) {
        if (file_open_write_direct(&write_fd, s.self, &ignored) == WM_OK && write_fd >= 0)
            TRY(measure_pass(&s, m, team, "storage_write_direct", "storage, write, direct", write_fd, true, false,
                             err));
        TRY(measure_pass(&s, m, team, "storage_read_direct", "storage, read, direct", s.direct_fd, false, true, err));
    }
    TRY(measure_pass(&s, m, team, "storage_read", "storage, read, cold", s.fd, false, true, err));
    TRY(measure_pass(&s, m, team, "storage_read_cached", "storage, read, page cache", s.fd, false, false, err));
out:
    file_close(&write_fd);
    file_close(&s.direct_fd);
    file_close(&s.fd);
    for (int i = 0; i < s.n_workers; i++)
        free(s.buffers[i]);
    return st;
}
