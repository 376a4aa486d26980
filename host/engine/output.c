/*
 * output.c: the output directory from lock to commit.
 *
 * What lives here: everything that protects what is on disk already: refusals before anything starts, the lock, the
 * partial directory beside the final name, and the rename that makes the result appear whole. What it must not know:
 * what is written inside.
 */
#include "engine/engine.h"

#include "base/mount.h"
#include "base/text.h"
#include "engine/journal.h"
#include "engine/survey.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_NAME "lock.warpmerge"
/* Side files (tokenizer, card, manifest) beside the shards. */
#define SIDE_FILE_BYTES ((uint64_t)64 << 20)

static char *without_trailing_slashes(const char *path)
{
    size_t n = strlen(path);

    while (n > 1 && path[n - 1] == '/')
        n--;
    return strndup(path, n);
}

static char *partial_of(const char *final_path)
{
    char *parent = file_path_parent(final_path), *name = NULL, *path = NULL;

    if (parent && asprintf(&name, ".%s.warpmerge-partial", file_path_last(final_path)) >= 0)
        path = file_path_join(parent, name);
    free(parent);
    free(name);
    return path;
}

char *output_partial_path(const char *out_path)
{
    char *final_path = without_trailing_slashes(out_path), *path = final_path ? partial_of(final_path) : NULL;

    free(final_path);
    return path;
}

/* Is `inner` the directory `outer` or below it? By device and inode of every ancestor, so names and links do not matter. */
static bool lies_in(const char *inner, const char *outer)
{
    struct stat out, at;
    char *path = strdup(inner);
    bool inside = false;

    if (path && stat(outer, &out) == 0) {
        for (;;) {
            char *real = realpath(path, NULL), *parent;
            if (real && stat(real, &at) == 0 && at.st_dev == out.st_dev && at.st_ino == out.st_ino)
                inside = true;
            if (inside || (real && strcmp(real, "/") == 0)) {
                free(real);
                break;
            }
            parent = file_path_parent(real ? real : path);
            free(real);
            if (!parent || strcmp(parent, path) == 0) {
                free(parent);
                break;
            }
            free(path);
            path = parent;
        }
    }
    free(path);
    return inside;
}

static enum wm_status refuse_inputs(const char *final_path, const struct plan *plan, struct wm_error *err)
{
    for (int m = 0; m < plan->n_models; m++) {
        const char *dir = plan->models[m]->dir;
        if (lies_in(final_path, dir))
            return error_set(err, WM_CANT_CREATE,
                             "the output %s is the input model %s or lies inside it; choose another "
                             "output directory",
                             final_path, plan->models[m]->reference);
        if (file_is_dir(final_path) && lies_in(dir, final_path))
            return error_set(err, WM_CANT_CREATE,
                             "the input model %s lies inside the output %s; choose another output "
                             "directory",
                             plan->models[m]->reference, final_path);
    }
    return WM_OK;
}

static uint64_t allocated_bytes(const char *partial_path, const struct plan *plan)
{
    uint64_t sum = 0;
    struct stat sb;

    for (int s = 0; s < plan->n_shards; s++) {
        char *path = file_path_join(partial_path, plan->shards[s].name);
        if (path && stat(path, &sb) == 0)
            sum += (uint64_t)sb.st_blocks * 512;
        free(path);
    }
    return sum;
}

static enum wm_status check_space(const char *parent, const char *partial_path, const struct plan *plan,
                                  struct wm_error *err)
{
    uint64_t needed = SIDE_FILE_BYTES, available = 0, present = allocated_bytes(partial_path, plan);
    char have[32], want[32];
    enum wm_status st = file_free_space(parent, &available, err);

    if (st != WM_OK)
        return st;
    for (int s = 0; s < plan->n_shards; s++)
        needed += plan->shards[s].n_bytes;
    if (needed > present && needed - present > available)
        return error_set(err, WM_CANT_CREATE,
                         "the output needs %s but %s has %s free; free some space or choose another "
                         "output directory",
                         text_decimal_bytes(want, sizeof want, needed - present), parent,
                         text_decimal_bytes(have, sizeof have, available));
    return WM_OK;
}

static enum wm_status check(const char *final_path, const char *partial_path, const struct plan *plan,
                            const struct wm_options *options, bool *replaces, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    char *parent = file_path_parent(final_path);

    *replaces = false;
    if (!parent) {
        st = error_no_memory(err, "checking the output directory");
        goto out;
    }
    if (!file_is_dir(parent)) {
        st = error_set(err, WM_CANT_CREATE, "cannot create %s: %s is not a directory; create it first", final_path,
                       parent);
        goto out;
    }
    TRY(refuse_inputs(final_path, plan, err));
    if (file_exists(final_path) && !file_is_dir(final_path)) {
        st = error_set(err, WM_CANT_CREATE, "the output %s exists and is not a directory; choose another name",
                       final_path);
        goto out;
    }
    if (file_is_dir(final_path) && !file_dir_is_empty(final_path)) {
        if (!options->overwrite) {
            st = error_set(err, WM_CANT_CREATE,
                           "the output directory %s is not empty; choose another one, or add "
                           "--overwrite to replace it when the merge is complete",
                           final_path);
            goto out;
        }
        if (file_dir_has_folders(final_path)) {
            st = error_set(err, WM_CANT_CREATE,
                           "the output directory %s has sub-folders, which --overwrite does not "
                           "remove; remove it yourself or choose another one",
                           final_path);
            goto out;
        }
        *replaces = true;
    }
    if (access(parent, W_OK | X_OK) < 0) {
        st = error_set(err, WM_CANT_CREATE, "cannot write to %s: %s; choose another output directory", parent,
                       strerror(errno));
        goto out;
    }
    TRY(check_space(parent, partial_path, plan, err));
out:
    free(parent);
    return st;
}

enum wm_status output_check(const char *out_path, const struct plan *plan, const struct wm_options *options,
                            struct problems *problems, struct wm_error *err)
{
    enum wm_status st;
    char *final_path = without_trailing_slashes(out_path), *partial_path = NULL;
    bool replaces;

    if (!final_path || !(partial_path = partial_of(final_path))) {
        st = error_no_memory(err, "checking the output directory");
        goto out;
    }
    TRY(check(final_path, partial_path, plan, options, &replaces, err));
    if (file_is_dir(partial_path) && !options->restart)
        problems_add(problems, WM_NOTE, WM_OK, "an unfinished merge lies in %s; it is continued if it fits",
                     partial_path);
out:
    free(final_path);
    free(partial_path);
    return st;
}

/* Without locks, or with locks that other machines do not see, nothing keeps two merges into one output apart. The journals'
 * checksums still protect the bytes of each, but what comes out may be neither's. */
static void warn_of_locks(const struct output *output, int code, struct problems *problems)
{
    struct mount mount = {"the output's file system", "of unknown type", ""};

    if (!mount_of(output->partial_path, &mount) && !code)
        return;
    if (code)
        problems_add(
            problems, WM_WARNING, WM_OK,
            "%s (%s) has no locks (flock: %s), so a second merge into %s at the same time would not be noticed; "
            "start one at a time, or mount it with flock",
            mount.point, mount.type, strerror(code), output->final_path);
    else if (*mount.local_locks)
        problems_add(
            problems, WM_WARNING, WM_OK,
            "%s (%s) is mounted with %s, which keeps locks to this machine, so a merge into %s from another one "
            "would not be noticed; start one at a time, or mount it without",
            mount.point, mount.type, mount.local_locks, output->final_path);
}

/* The lock says which process works here, for people; flock decides (and dies with its holder). problems NULL: what is to be
 * said of locks has been said. */
static enum wm_status take_lock(struct output *output, const char *name, bool shared, int *fd,
                                struct problems *problems, struct wm_error *err)
{
    char *path = file_path_join(output->partial_path, name), host[128] = "?", line[256];
    enum wm_status st = WM_OK;
    int n, code;

    if (!path)
        return error_no_memory(err, "locking the output directory");
    TRY(file_open_write(fd, path, true, false, err));
    code = flock(*fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) < 0 ? errno : 0;
    if (problems && code != EWOULDBLOCK)
        warn_of_locks(output, code, problems);
    if (code == EWOULDBLOCK) {
        ssize_t got = pread(*fd, line, sizeof line - 1, 0);
        line[got > 0 ? got : 0] = '\0';
        line[strcspn(line, "\n")] = '\0';
        st = error_set(err, WM_TEMPORARY, "another process (%s) is writing %s; wait for it to end, or stop it", line,
                       output->final_path);
        goto out;
    }
    gethostname(host, sizeof host - 1);
    if (shared) /* the same words from everybody, for there may be many */
        n = snprintf(line, sizeof line, "merge --part of the same output\n");
    else
        n = snprintf(line, sizeof line, "host %s, process %ld\n", host, (long)getpid());
    TRY(file_write_at(*fd, path, line, (size_t)n, 0, err));
    if (ftruncate(*fd, n) < 0)
        st = error_set(err, WM_IO, "cannot cut %s to size: %s; check the file system", path, strerror(errno));
out:
    free(path);
    return st;
}

enum wm_status output_open(struct output *output, const char *out_path, const struct plan *plan,
                           const struct wm_options *options, enum output_user user, int part, struct problems *problems,
                           struct wm_error *err)
{
    enum wm_status st = WM_OK;
    char part_lock[40];

    *output = (struct output){NULL, NULL, -1, -1, false, false};
    output->final_path = without_trailing_slashes(out_path);
    if (output->final_path)
        output->partial_path = partial_of(output->final_path);
    if (!output->final_path || !output->partial_path) {
        st = error_no_memory(err, "creating the output directory");
        goto out;
    }
    if (user == OUTPUT_RANK)
        goto out;
    TRY(check(output->final_path, output->partial_path, plan, options, &output->replaces, err));
    output->resumes = file_is_dir(output->partial_path);
    if (user == OUTPUT_FINISH && !output->resumes) {
        st = error_set(err, WM_NO_INPUT, "there is nothing to finish: %s does not exist; merge the parts first",
                       output->partial_path);
        goto out;
    }
    TRY(file_make_dir(output->partial_path, err));
    TRY(take_lock(output, LOCK_NAME, user == OUTPUT_PART, &output->lock_fd, problems, err));
    snprintf(part_lock, sizeof part_lock, "part-%04d.warpmerge", part);
    if (user == OUTPUT_PART)
        TRY(take_lock(output, part_lock, false, &output->part_lock_fd, NULL, err));
    if (output->resumes && !options->restart && user == OUTPUT_ALONE)
        problems_add(problems, WM_NOTE, WM_OK, "continuing the unfinished merge in %s", output->partial_path);
out:
    if (st != WM_OK)
        output_release(output);
    return st;
}

static enum wm_status remove_side_file(const struct output *output, const char *name, struct wm_error *err)
{
    char *path = file_path_join(output->partial_path, name);
    enum wm_status st = path ? file_unlink(path, err) : error_no_memory(err, "finishing the output directory");

    free(path);
    return st;
}

/* What `finish` finds the parts by. */
static bool is_of_parts(const char *name)
{
    static const char begin[] = "part-", end[] = ".json";
    size_t n = strlen(name);

    return strncmp(name, begin, strlen(begin)) == 0 && n > strlen(end) && strcmp(name + n - strlen(end), end) == 0;
}

/* One listing's worth of them. */
static enum wm_status remove_listed(const struct output *output, bool of_parts, size_t *n_removed, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    DIR *folder = opendir(output->partial_path);
    struct dirent *entry;

    if (!folder)
        return error_set(err, WM_IO, "cannot list %s: %s", output->partial_path, strerror(errno));
    *n_removed = 0;
    while ((entry = readdir(folder)) != NULL)
        if (strstr(entry->d_name, ".warpmerge") && strcmp(entry->d_name, LOCK_NAME) != 0 &&
            is_of_parts(entry->d_name) == of_parts) {
            TRY(remove_side_file(output, entry->d_name, err));
            ++*n_removed;
        }
out:
    closedir(folder);
    return st;
}

/* Side files of ours, whose names all have one thing in common, even those that were cut off under their temporary names,
 * must not reach the final directory. What parts have left to be finished by goes behind the rest: whoever is killed in
 * between finds parts that are not done, and not that there never were any. The lock goes last. A listing is opened anew
 * each time, until nothing is found: NFS skips entries while others are removed, and sshfs cannot rewind one. */
static enum wm_status remove_side_files(const struct output *output, struct wm_error *err)
{
    enum { max_listings = 1000 };
    enum wm_status st = WM_OK;

    for (int of_parts = 0; of_parts < 2; of_parts++) {
        size_t n_removed = 1;
        for (int listing = 0; n_removed && listing < max_listings; listing++)
            TRY(remove_listed(output, of_parts, &n_removed, err));
    }
    TRY(remove_side_file(output, LOCK_NAME, err));
out:
    return st;
}

/* --overwrite: the two directories trade names in one step, then the old one is removed. Where the file system cannot
 * exchange names, the old directory steps aside first, for one that is there already: a run that was killed here, or
 * somebody who had a file of it open, has left it behind an output that was complete. */
static enum wm_status replace(const struct output *output, const char *aside, struct wm_error *err)
{
    enum wm_status st = WM_OK;

    if (renameat2(AT_FDCWD, output->partial_path, AT_FDCWD, output->final_path, RENAME_EXCHANGE) == 0)
        return file_remove_flat_dir(output->partial_path, err);
    TRY(file_remove_flat_dir(aside, err));
    TRY(file_rename(output->final_path, aside, err));
    st = file_rename(output->partial_path, output->final_path, err);
    if (st != WM_OK)
        rename(aside, output->final_path);
out:
    return st;
}

enum wm_status output_commit(struct output *output, const struct wm_options *options, struct wm_error *err)
{
    enum wm_status st;
    char *parent = file_path_parent(output->final_path), *aside = NULL;

    if (!parent || asprintf(&aside, "%s.replaced", output->partial_path) < 0) {
        aside = NULL;
        st = error_no_memory(err, "finishing the output directory");
        goto out;
    }
    TRY(remove_side_files(output, err));
    if (options->sync)
        TRY(file_sync_dir(output->partial_path, err));
    TRY(output->replaces ? replace(output, aside, err) : file_rename(output->partial_path, output->final_path, err));
    TRY(file_remove_flat_dir(aside, err));
    if (options->sync)
        TRY(file_sync_dir(parent, err));
out:
    free(aside);
    free(parent);
    return st;
}

bool output_is_ready(const char *partial_path)
{
    DIR *folder = opendir(partial_path);
    struct dirent *entry;
    bool ready = folder != NULL;

    while (ready && (entry = readdir(folder)) != NULL)
        ready = !strstr(entry->d_name, ".warpmerge") || strcmp(entry->d_name, LOCK_NAME) == 0;
    if (folder)
        closedir(folder);
    return ready;
}

enum wm_status output_commit_ready(const char *out_path, const struct wm_options *options, struct problems *problems,
                                   struct wm_error *err)
{
    struct output output = {NULL, NULL, -1, -1, false, false};
    enum wm_status st = WM_OK;

    output.final_path = without_trailing_slashes(out_path);
    output.partial_path = output.final_path ? partial_of(output.final_path) : NULL;
    if (!output.partial_path) {
        st = error_no_memory(err, "finishing the output directory");
        goto out;
    }
    TRY(take_lock(&output, LOCK_NAME, false, &output.lock_fd, problems, err));
    if (!output_is_ready(output.partial_path))
        st = error_set(err, WM_TEMPORARY, "another process has begun to merge in %s; finish again when it has ended",
                       output.partial_path);
    else if (file_exists(output.final_path) && !file_dir_is_empty(output.final_path))
        st = error_set(err, WM_CANT_CREATE,
                       "%s is complete and cannot get its name: %s is not empty; move that away and finish again",
                       output.partial_path, output.final_path);
    else
        st = output_commit(&output, options, err);
out:
    output_release(&output);
    return st;
}

void output_release(struct output *output)
{
    file_close(&output->part_lock_fd);
    file_close(&output->lock_fd);
    free(output->final_path);
    free(output->partial_path);
    *output = (struct output){NULL, NULL, -1, -1, false, false};
}
