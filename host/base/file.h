/*
 * file.h: every system call on files that we make.
 *
 * What lives here: whole reads and writes at offsets, durable creation, directory work, and one seam at which tests
 * make the n-th call fail. What it must not know: what is in the files. Messages name the path and say what to do.
 */
#ifndef WM_BASE_FILE_H
#define WM_BASE_FILE_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- fault seam (tests only) -------------------------------------------------------------------------------- */

enum file_call {
    FILE_OPEN,
    FILE_READ,
    FILE_WRITE,
    FILE_SYNC,
    FILE_RENAME,
    FILE_MKDIR,
    FILE_ALLOCATE,
    FILE_CLOSE,
    FILE_UNLINK,
    FILE_N_CALLS
};
/* When set, called before each system call; a non-zero errno value is returned instead of making the call. */
extern int (*file_fault)(enum file_call call, const char *path);

/* ---- reading ------------------------------------------------------------------------------------------------ */

struct file_identity {
    uint64_t n_bytes, inode, device; /* inode 0: the file system has no lasting ones */
    int64_t mtime_ns;
};
/* `inode`, or 0 on a file system that may give the file another one at the next look or on the next host. */
uint64_t file_lasting_inode(const char *path, uint64_t inode);

/* Opens a regular file for reading (a FIFO or device is refused). direct: with O_DIRECT; *direct is cleared when the
 * file system refuses it. WM_NO_INPUT, WM_IO. */
enum wm_status file_open_read(int *fd, const char *path, bool *direct, struct file_identity *identity,
                              struct wm_error *err);
/* Reads exactly n bytes; a file that ends earlier is WM_IO ("the file shrank"). */
enum wm_status file_read_at(int fd, const char *path, void *buffer, size_t n, uint64_t offset, struct wm_error *err);
/* O_DIRECT: offset, n and buffer aligned to 4096; reads at least n_wanted <= n bytes (the file may end inside). */
enum wm_status file_read_direct(int fd, const char *path, void *buffer, size_t n, size_t n_wanted, uint64_t offset,
                                struct wm_error *err);
/* The whole file, NUL-terminated (malloc; caller frees), refused above max_bytes. WM_NO_INPUT, WM_IO, WM_BAD_DATA. */
enum wm_status file_read_all(const char *path, size_t max_bytes, char **data, size_t *n_bytes, struct wm_error *err);
void file_close(int *fd); /* for read descriptors: errors ignored; *fd becomes -1; -1 is allowed */

/* ---- writing ------------------------------------------------------------------------------------------------ */

/* Opens for writing (and reading) in place; create: makes the file, exclusive: fails if it exists. */
enum wm_status file_open_write(int *fd, const char *path, bool create, bool exclusive, struct wm_error *err);
/* Opens an existing file for writing past the page cache; *fd is -1 without an error where that cannot be done. */
enum wm_status file_open_write_direct(int *fd, const char *path, struct wm_error *err);
enum wm_status file_write_at(int fd, const char *path, const void *buffer, size_t n, uint64_t offset,
                             struct wm_error *err);
/* Reserves n_bytes and sets the size, so that a full disk shows now. Falls back to setting the size. */
enum wm_status file_allocate(int fd, const char *path, uint64_t n_bytes, struct wm_error *err);
enum wm_status file_sync(int fd, const char *path, struct wm_error *err);         /* never retried after a failure */
enum wm_status file_sync_dir(const char *path, struct wm_error *err);             /* tolerates EINVAL, ENOTSUP      */
enum wm_status file_close_write(int *fd, const char *path, struct wm_error *err); /* close errors count      */
/* A small file, whole: temporary name in the same folder, write, fsync (if sync), rename over path. */
enum wm_status file_write_whole(const char *path, const void *data, size_t n_bytes, bool sync, struct wm_error *err);
enum wm_status file_copy_whole(const char *from, const char *to, bool sync, struct wm_error *err);

/* ---- directories and paths ---------------------------------------------------------------------------------- */

enum wm_status file_make_dir(const char *path, struct wm_error *err); /* exists already: fine */
enum wm_status file_rename(const char *from, const char *to, struct wm_error *err);
enum wm_status file_unlink(const char *path, struct wm_error *err); /* missing already: fine */
/* 0, or an errno: ENOTEMPTY; EBUSY when all that is in it after a second are removed files that other processes have open,
 * which NFS and FUSE keep under names of their own until they are closed. */
int file_remove_empty_dir(const char *path);
/* Removes a directory whose entries are plain files (one level; no sub-folders). What others have open there is no error,
 * and keeps the directory. */
enum wm_status file_remove_flat_dir(const char *path, struct wm_error *err);
bool file_exists(const char *path);
bool file_is_dir(const char *path);
bool file_dir_has_folders(const char *path);
/* Unlinks every plain file in a directory except those named in `keep` (NULL-terminated). */
enum wm_status file_empty_dir(const char *path, const char *const *keep, struct wm_error *err);
bool file_dir_is_empty(const char *path); /* false too when it cannot be read */
enum wm_status file_free_space(const char *path, uint64_t *n_bytes, struct wm_error *err);
/* malloc'ed; NULL when out of memory. */
char *file_path_join(const char *dir, const char *name);
char *file_path_parent(const char *path);     /* "." for a plain name; trailing slashes ignored */
const char *file_path_last(const char *path); /* borrowed: after the last slash */

double file_now_seconds(void); /* monotonic clock */

#endif
