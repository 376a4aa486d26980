/* file.c: see file.h. */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

/* How long, and how often, what is closed and not yet gone is waited for. */
#define HIDDEN_FILES_SECONDS 1.0
#define HIDDEN_FILES_POLL_NS 5000000

int (*file_fault)(enum file_call call, const char *path);

/* Injected failure first, so that `if (fault(...) || syscall(...) < 0)` leaves errno right in both cases. */
static bool fault(enum file_call call, const char *path)
{
    int code = file_fault ? file_fault(call, path) : 0;

    if (code)
        errno = code;
    return code != 0;
}

/* What the clients of network file systems say when theirs does not answer, or no longer knows the file. */
static bool is_lost_server(int code)
{
    switch (code) {
    case ENOTCONN:
    case ECONNABORTED:
    case ECONNRESET:
    case ETIMEDOUT:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENETDOWN:
    case ESTALE: return true;
    default: return false;
    }
}

static enum wm_status status_of(int code, enum wm_status otherwise)
{
    switch (code) {
    case ENOENT:
    case ENOTDIR: return WM_NO_INPUT;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EROFS: return WM_CANT_CREATE;
    case EMFILE:
    case ENFILE:
    case ENOMEM: return WM_TEMPORARY;
    default: return is_lost_server(code) ? WM_TEMPORARY : otherwise;
    }
}

static const char *remedy_of(int code)
{
    switch (code) {
    case ENOENT: return "check the path";
    case EACCES:
    case EPERM: return "check the permissions";
    case ENOSPC:
    case EDQUOT: return "free some space, then run the same command again: it continues where it stopped";
    case EROFS: return "choose an output on a writable file system";
    case EMFILE:
    case ENFILE: return "raise the limit on open files (ulimit -n)";
    case EIO: return "the storage reported a fault; check it (dmesg), then run the same command again";
    default:
        return is_lost_server(code) ? "the file server was lost; mount it again, then run the same command again"
                                    : "then run the same command again";
    }
}

static enum wm_status fail(struct wm_error *err, enum wm_status otherwise, const char *what, const char *path)
{
    int code = errno;

    return error_set(err, status_of(code, otherwise), "cannot %s %s: %s; %s", what, path, strerror(code),
                     remedy_of(code));
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

/* FUSE clients (sshfs) number files as they meet them, anew after they have forgotten them; so do SMB mounts whose server
 * gives no numbers. Two hosts then see two numbers for one file, and one host another after mounting again. */
uint64_t file_lasting_inode(const char *path, uint64_t inode)
{
    enum { fuse = 0x65735546, cifs = (int)0xff534d42, smb2 = (int)0xfe534d42 }; /* of linux/magic.h */
    struct statfs fs;

    if (statfs(path, &fs) < 0)
        return inode;
    switch ((int)fs.f_type) {
    case fuse:
    case cifs:
    case smb2: return 0;
    default: return inode;
    }
}

enum wm_status file_open_read(int *fd, const char *path, bool *direct, struct file_identity *identity,
                              struct wm_error *err)
{
    enum wm_status st = WM_OK;
    struct stat sb;
    int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK; /* O_NONBLOCK: a FIFO must not hang us */

    *fd = -1;
    if (fault(FILE_OPEN, path) || (*fd = open(path, flags)) < 0)
        return fail(err, WM_NO_INPUT, "open", path);
    if (fstat(*fd, &sb) < 0) {
        st = fail(err, WM_IO, "examine", path);
        goto out;
    }
    if (!S_ISREG(sb.st_mode)) {
        st = error_set(err, WM_BAD_DATA, "%s is not a regular file; give a file or a model directory", path);
        goto out;
    }
    if (direct && *direct && fcntl(*fd, F_SETFL, O_DIRECT) < 0)
        *direct = false;
    if (identity)
        *identity =
            (struct file_identity){(uint64_t)sb.st_size, file_lasting_inode(path, (uint64_t)sb.st_ino),
                                   (uint64_t)sb.st_dev, (int64_t)sb.st_mtim.tv_sec * 1000000000 + sb.st_mtim.tv_nsec};
out:
    if (st != WM_OK)
        file_close(fd);
    return st;
}

static enum wm_status read_loop(int fd, const char *path, unsigned char *buffer, size_t n, size_t n_wanted,
                                uint64_t offset, struct wm_error *err)
{
    size_t done = 0;

    while (done < n_wanted) {
        ssize_t got = fault(FILE_READ, path) ? -1 : pread(fd, buffer + done, n - done, (off_t)(offset + done));
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (got < 0)
            return fail(err, WM_IO, "read", path);
        if (got == 0)
            return error_set(err, WM_IO,
                             "%s ends at byte %llu, before the %zu bytes wanted at offset %llu: the file "
                             "shrank while it was read; restore it, then run the same command again",
                             path, (unsigned long long)(offset + done), n_wanted, (unsigned long long)offset);
        done += (size_t)got;
    }
    return WM_OK;
}

enum wm_status file_read_at(int fd, const char *path, void *buffer, size_t n, uint64_t offset, struct wm_error *err)
{
    return read_loop(fd, path, buffer, n, n, offset, err);
}

enum wm_status file_read_direct(int fd, const char *path, void *buffer, size_t n, size_t n_wanted, uint64_t offset,
                                struct wm_error *err)
{
    return read_loop(fd, path, buffer, n, n_wanted, offset, err);
}

enum wm_status file_read_all(const char *path, size_t max_bytes, char **data, size_t *n_bytes, struct wm_error *err)
{
    enum wm_status st;
    struct file_identity id = {0};
    int fd = -1;

    *data = NULL;
    *n_bytes = 0;
    TRY(file_open_read(&fd, path, NULL, &id, err));
    if (id.n_bytes > max_bytes) {
        st = error_set(err, WM_BAD_DATA, "%s has %llu bytes, more than the %zu that such a file may have", path,
                       (unsigned long long)id.n_bytes, max_bytes);
        goto out;
    }
    *data = malloc((size_t)id.n_bytes + 1);
    if (!*data) {
        st = error_no_memory(err, "reading a file");
        goto out;
    }
    TRY(file_read_at(fd, path, *data, (size_t)id.n_bytes, 0, err));
    (*data)[id.n_bytes] = '\0';
    *n_bytes = (size_t)id.n_bytes;
out:
    file_close(&fd);
    if (st != WM_OK) {
        free(*data);
        *data = NULL;
    }
    return st;
}

void file_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

enum wm_status file_open_write(int *fd, const char *path, bool create, bool exclusive, struct wm_error *err)
{
    int flags = O_RDWR | O_CLOEXEC | (create ? O_CREAT : 0) | (exclusive ? O_EXCL : 0);

    *fd = -1;
    if (fault(FILE_OPEN, path) || (*fd = open(path, flags, 0644)) < 0)
        return fail(err, WM_CANT_CREATE, create ? "create" : "open for writing", path);
    return WM_OK;
}

enum wm_status file_open_write_direct(int *fd, const char *path, struct wm_error *err)
{
    *fd = -1;
    if (fault(FILE_OPEN, path) || (*fd = open(path, O_WRONLY | O_CLOEXEC | O_DIRECT)) < 0)
        return errno == EINVAL || errno == ENOTSUP ? WM_OK : fail(err, WM_CANT_CREATE, "open for writing", path);
    return WM_OK;
}

enum wm_status file_write_at(int fd, const char *path, const void *buffer, size_t n, uint64_t offset,
                             struct wm_error *err)
{
    const unsigned char *p = buffer;
    size_t done = 0;

    while (done < n) {
        ssize_t put = fault(FILE_WRITE, path) ? -1 : pwrite(fd, p + done, n - done, (off_t)(offset + done));
        if (put < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (put <= 0) {
            errno = put == 0 ? EIO : errno;
            return fail(err, WM_IO, "write", path);
        }
        done += (size_t)put;
    }
    return WM_OK;
}

enum wm_status file_allocate(int fd, const char *path, uint64_t n_bytes, struct wm_error *err)
{
    if (n_bytes) {
        int failed = fault(FILE_ALLOCATE, path) ? -1 : fallocate(fd, 0, 0, (off_t)n_bytes);
        if (failed && errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL)
            return fail(err, WM_CANT_CREATE, "reserve space for", path);
    }
    if (ftruncate(fd, (off_t)n_bytes) < 0)
        return fail(err, WM_CANT_CREATE, "set the size of", path);
    return WM_OK;
}

enum wm_status file_sync(int fd, const char *path, struct wm_error *err)
{
    if (fault(FILE_SYNC, path) || fsync(fd) < 0) {
        if (errno == EINVAL || errno == ENOTSUP)
            return WM_OK;
        return fail(err, WM_IO, "make durable (fsync)", path);
    }
    return WM_OK;
}

enum wm_status file_sync_dir(const char *path, struct wm_error *err)
{
    enum wm_status st;
    int fd = fault(FILE_OPEN, path) ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return fail(err, WM_IO, "open", path);
    st = file_sync(fd, path, err);
    file_close(&fd);
    return st;
}

enum wm_status file_close_write(int *fd, const char *path, struct wm_error *err)
{
    int failed;

    if (*fd < 0)
        return WM_OK;
    failed = close(*fd);
    *fd = -1;
    if (fault(FILE_CLOSE, path) || failed < 0)
        return fail(err, WM_IO, "close", path);
    return WM_OK;
}

enum wm_status file_write_whole(const char *path, const void *data, size_t n_bytes, bool sync, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    char *tmp = NULL;
    int fd = -1;

    if (asprintf(&tmp, "%s.tmp", path) < 0) {
        tmp = NULL;
        return error_no_memory(err, "writing a file");
    }
    TRY(file_open_write(&fd, tmp, true, false, err));
    if (ftruncate(fd, 0) < 0) {
        st = fail(err, WM_IO, "empty", tmp);
        goto out;
    }
    TRY(file_write_at(fd, tmp, data, n_bytes, 0, err));
    if (sync)
        TRY(file_sync(fd, tmp, err));
    TRY(file_close_write(&fd, tmp, err));
    TRY(file_rename(tmp, path, err));
out:
    file_close(&fd);
    if (st != WM_OK)
        unlink(tmp);
    free(tmp);
    return st;
}

enum wm_status file_copy_whole(const char *from, const char *to, bool sync, struct wm_error *err)
{
    enum wm_status st;
    char *data = NULL;
    size_t n_bytes = 0;

    TRY(file_read_all(from, (size_t)1 << 30, &data, &n_bytes, err));
    TRY(file_write_whole(to, data, n_bytes, sync, err));
out:
    free(data);
    return st;
}

/* ---- directories and paths ---------------------------------------------------------------------------------- */

enum wm_status file_make_dir(const char *path, struct wm_error *err)
{
    if (fault(FILE_MKDIR, path) || mkdir(path, 0755) < 0) {
        if (errno == EEXIST && file_is_dir(path))
            return WM_OK;
        if (errno == ENOENT)
            return error_set(err, WM_CANT_CREATE,
                             "cannot create the directory %s: its parent does not exist; create "
                             "the parent first",
                             path);
        return fail(err, WM_CANT_CREATE, "create the directory", path);
    }
    return WM_OK;
}

enum wm_status file_rename(const char *from, const char *to, struct wm_error *err)
{
    if (fault(FILE_RENAME, to) || rename(from, to) < 0)
        return fail(err, WM_CANT_CREATE, "rename into place", to);
    return WM_OK;
}

enum wm_status file_unlink(const char *path, struct wm_error *err)
{
    if ((fault(FILE_UNLINK, path) || unlink(path) < 0) && errno != ENOENT)
        return fail(err, WM_IO, "remove", path);
    return WM_OK;
}

/* What is removed while a process has it open stays under a name of the file system's own until it is closed (NFS). Where
 * closing reaches the file system behind the process (FUSE), what has just been closed does so too, and for good when both
 * meet there: of 600 merges by ranks on sshfs 27 left such a file, 2026-11-22. */
static bool is_hidden_name(const char *name)
{
    return strncmp(name, ".nfs", 4) == 0 || strncmp(name, ".fuse_hidden", 12) == 0;
}

enum wm_status file_empty_dir(const char *path, const char *const *keep, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    struct dirent *entry;
    DIR *dir = opendir(path);

    if (!dir)
        return fail(err, WM_IO, "open", path);
    while ((entry = readdir(dir)) != NULL) {
        bool kept = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
        for (int k = 0; keep && keep[k]; k++)
            kept = kept || strcmp(entry->d_name, keep[k]) == 0;
        if (!kept && (fault(FILE_UNLINK, path) || unlinkat(dirfd(dir), entry->d_name, 0) < 0) &&
            !is_hidden_name(entry->d_name)) {
            st = fail(err, WM_IO, "empty", path);
            break;
        }
    }
    closedir(dir);
    return st;
}

/* Asks for the hidden files in a directory to be removed once more. Their number, or -1 (and nothing removed): there are
 * others, which are not ours to remove. Listed by two opens: sshfs cannot rewind. */
static int remove_hidden(const char *path)
{
    int n_hidden = 0, n_others = -2; /* "." and ".." */

    for (int removing = 0; removing < 2 && n_others <= 0; removing++) {
        DIR *dir = opendir(path);
        struct dirent *entry;
        if (!dir)
            return -1;
        while ((entry = readdir(dir)) != NULL)
            if (!removing)
                *(is_hidden_name(entry->d_name) ? &n_hidden : &n_others) += 1;
            else if (is_hidden_name(entry->d_name) && !fault(FILE_UNLINK, path))
                unlinkat(dirfd(dir), entry->d_name, 0);
        closedir(dir);
    }
    return n_others > 0 ? -1 : n_hidden;
}

/* What rmdir says of a directory that is not empty is not asked for: SFTP has no word for it, and sshfs makes it EPERM. */
int file_remove_empty_dir(const char *path)
{
    double until = file_now_seconds() + HIDDEN_FILES_SECONDS;

    while (rmdir(path) < 0) {
        int code = errno, n_hidden = remove_hidden(path);
        if (n_hidden <= 0)
            return n_hidden < 0 && code == EPERM ? ENOTEMPTY : code;
        if (file_now_seconds() > until)
            return EBUSY;
        nanosleep(&(struct timespec){.tv_nsec = HIDDEN_FILES_POLL_NS}, NULL);
    }
    return 0;
}

enum wm_status file_remove_flat_dir(const char *path, struct wm_error *err)
{
    enum wm_status st;

    if (!file_is_dir(path))
        return WM_OK;
    TRY(file_empty_dir(path, NULL, err));
    errno = file_remove_empty_dir(path);
    if (errno && errno != EBUSY)
        st = fail(err, WM_IO, "remove", path);
out:
    return st;
}

bool file_dir_has_folders(const char *path)
{
    struct dirent *entry;
    DIR *dir = opendir(path);
    bool found = false;
    struct stat sb;

    while (dir && !found && (entry = readdir(dir)) != NULL)
        found = strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
                fstatat(dirfd(dir), entry->d_name, &sb, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(sb.st_mode);
    if (dir)
        closedir(dir);
    return found;
}

bool file_exists(const char *path)
{
    struct stat sb;

    return stat(path, &sb) == 0;
}

bool file_is_dir(const char *path)
{
    struct stat sb;

    return stat(path, &sb) == 0 && S_ISDIR(sb.st_mode);
}

bool file_dir_is_empty(const char *path)
{
    struct dirent *entry;
    DIR *dir = opendir(path);
    bool empty = true;

    if (!dir)
        return false;
    while (empty && (entry = readdir(dir)) != NULL)
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    closedir(dir);
    return empty;
}

enum wm_status file_free_space(const char *path, uint64_t *n_bytes, struct wm_error *err)
{
    struct statvfs vfs;

    if (statvfs(path, &vfs) < 0)
        return fail(err, WM_IO, "examine the file system of", path);
    *n_bytes = (uint64_t)vfs.f_bavail * vfs.f_frsize;
    return WM_OK;
}

char *file_path_join(const char *dir, const char *name)
{
    size_t n = strlen(dir);
    char *path;

    while (n > 1 && dir[n - 1] == '/')
        n--;
    return asprintf(&path, "%.*s%s%s", (int)n, dir, n == 1 && *dir == '/' ? "" : "/", name) < 0 ? NULL : path;
}

char *file_path_parent(const char *path)
{
    size_t n = strlen(path);

    while (n > 1 && path[n - 1] == '/')
        n--;
    while (n && path[n - 1] != '/')
        n--;
    while (n > 1 && path[n - 1] == '/')
        n--;
    return n ? strndup(path, n) : strdup(".");
}

const char *file_path_last(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

double file_now_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}
