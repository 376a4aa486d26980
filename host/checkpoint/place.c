/* place.c: see place.h. Links are resolved and judged before anything is opened; whoever opens
 * the file compares its inode with the one seen here, so a link that is swapped in between does not go unnoticed. */
#include "checkpoint/place.h"

#include "base/file.h"
#include "checkpoint/refuse.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool is_inside(const char *dir, const char *real)
{
    size_t n = dir ? strlen(dir) : 0;

    return n && strncmp(real, dir, n) == 0 && (real[n] == '/' || strcmp(dir, "/") == 0);
}

enum wm_status place_member(const struct place *place, const char *name, enum place_rule rule, struct member *member,
                            struct arena *arena, struct wm_error *err)
{
    char real[PATH_MAX];
    const char *sha256;
    struct stat sb;

    memset(member, 0, sizeof *member);
    member->name = arena_strdup(arena, name);
    member->path = arena_printf(arena, "%s/%s", strcmp(place->dir, "/") == 0 ? "" : place->dir, name);
    if (!member->name || !member->path)
        return error_no_memory(err, "opening a model");
    if (!realpath(member->path, real)) {
        if (errno == ENOENT || errno == ENOTDIR) {
            member->broken = lstat(member->path, &sb) == 0;
            return WM_OK;
        }
        return ckpt_refuse(err, errno == ELOOP ? WM_BAD_DATA : WM_NO_INPUT, "CANNOT_OPEN", member->path,
                           "cannot be looked at: %s; check the file and its permissions", strerror(errno));
    }
    if (rule == PLACE_INSIDE && !is_inside(place->dir, real) && !is_inside(place->hub.blobs, real))
        return ckpt_refuse(
            err, WM_BAD_DATA, "LINK_OUTSIDE_MODEL", member->path,
            "it is a link to %.700s, outside of the model's folder; put the file itself into the folder, "
            "or give the folder that it lies in",
            real);
    if (stat(real, &sb) < 0)
        return ckpt_refuse(err, WM_NO_INPUT, "CANNOT_OPEN", member->path,
                           "cannot be looked at: %s; check the file and its permissions", strerror(errno));
    if (!S_ISREG(sb.st_mode))
        return ckpt_refuse(err, WM_BAD_DATA, "NOT_A_REGULAR_FILE", member->path,
                           "it is a %s where a file should be; remove it and download the model again",
                           S_ISDIR(sb.st_mode) ? "folder" : "pipe or device");
    sha256 = hub_blob_sha256(&place->hub, real);
    if (sha256) {
        member->sha256 = arena_strdup(arena, sha256);
        if (!member->sha256)
            return error_no_memory(err, "opening a model");
    }
    member->exists = true;
    member->n_bytes = (uint64_t)sb.st_size;
    member->inode = file_lasting_inode(real, (uint64_t)sb.st_ino);
    member->device = (uint64_t)sb.st_dev;
    return WM_OK;
}
