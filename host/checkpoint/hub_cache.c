/* hub_cache.c: see hub_cache.h. */
#include "checkpoint/hub_cache.h"

#include "base/file.h"
#include "base/text.h"
#include "checkpoint/refuse.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define REPO_ID_MAX_BYTES  96 /* the hub's limit */
#define REVISION_MAX_BYTES 200
#define COMMIT_BYTES       40
#define REF_MAX_BYTES      64

static bool is_hex(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!((s[i] >= '0' && s[i] <= '9') || (s[i] >= 'a' && s[i] <= 'f')))
            return false;
    return true;
}

static bool is_commit(const char *s)
{
    return strlen(s) == COMMIT_BYTES && is_hex(s, COMMIT_BYTES);
}

static bool is_word_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/* An organisation or a model name. */
static bool is_id_part(const char *s, size_t n)
{
    if (n == 0 || !is_word_char(s[0]) || !is_word_char(s[n - 1]))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!is_word_char(s[i]) && s[i] != '-' && s[i] != '.')
            return false;
    return true;
}

bool hub_is_repo_id(const char *reference)
{
    const char *slash = strchr(reference, '/');
    size_t n = strlen(reference), n_org = slash ? (size_t)(slash - reference) : 0;

    if (n > REPO_ID_MAX_BYTES || strstr(reference, "--") || strstr(reference, ".."))
        return false;
    return slash ? is_id_part(reference, n_org) && is_id_part(slash + 1, n - n_org - 1) : is_id_part(reference, n);
}

/* A branch, tag or pull request ("refs/pr/1"): it becomes a path below refs/ and a word of a shell command. */
static bool is_revision(const char *s)
{
    size_t n = strlen(s);

    if (n == 0 || n > REVISION_MAX_BYTES || s[0] == '/' || s[0] == '-' || s[n - 1] == '/' || strstr(s, "..") ||
        strstr(s, "//") || strncmp(s, "./", 2) == 0 || strstr(s, "/./"))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!is_word_char(s[i]) && !strchr("./+@=-", s[i]))
            return false;
    return true;
}

/* ---- where the cache is ------------------------------------------------------------------------------------- */

static const char *variable(const char *name)
{
    const char *value = getenv(name);

    return value && *value ? value : NULL;
}

/* As Python's expandvars(expanduser(value)): "~" alone or before a slash, $VAR and ${VAR}; unknown ones stay. */
static char *expand(const char *value, struct arena *arena)
{
    struct text t;
    char *result;

    text_init(&t, (size_t)1 << 16);
    if (value[0] == '~' && (value[1] == '/' || value[1] == '\0') && variable("HOME")) {
        text_add(&t, variable("HOME"));
        value++;
    }
    while (*value) {
        const char *name = value + 1, *after;
        char key[128];
        size_t n;
        bool braces = value[0] == '$' && name[0] == '{';
        if (braces)
            name++;
        for (n = 0; is_word_char(name[n]);)
            n++;
        after = name + n + (braces ? 1 : 0);
        if (value[0] == '$' && n && n < sizeof key && (!braces || name[n] == '}')) {
            memcpy(key, name, n);
            key[n] = '\0';
            if (getenv(key)) {
                text_add(&t, getenv(key));
                value = after;
                continue;
            }
        }
        text_add_bytes(&t, value++, 1);
    }
    result = t.failed ? NULL : arena_strdup(arena, text_string(&t));
    text_release(&t);
    return result;
}

enum wm_status hub_cache_dir(const char **dir, const char *option, struct arena *arena, struct wm_error *err)
{
    const char *base, *tail = "";

    if ((base = option) != NULL && *base) {
        *dir = arena_strdup(arena, base);
        return *dir ? WM_OK : error_no_memory(err, "looking for the hub cache");
    }
    if ((base = variable("HF_HUB_CACHE")) == NULL && (base = variable("HUGGINGFACE_HUB_CACHE")) == NULL) {
        tail = "/hub";
        if ((base = variable("HF_HOME")) == NULL) {
            tail = "/huggingface/hub";
            if ((base = variable("XDG_CACHE_HOME")) == NULL) {
                tail = "/.cache/huggingface/hub";
                base = "~";
            }
        }
    }
    base = expand(base, arena);
    *dir = base ? arena_printf(arena, "%s%s", base, tail) : NULL;
    return *dir ? WM_OK : error_no_memory(err, "looking for the hub cache");
}

/* ---- from an id to a snapshot ------------------------------------------------------------------------------- */

const char *hub_download_line(const struct hub_snapshot *snapshot, struct arena *arena)
{
    if (!snapshot->cache_dir)
        return arena_printf(arena, "hf download %s --revision %s", snapshot->repo_id, snapshot->revision);
    return arena_printf(arena, "hf download %s --revision %s --cache-dir '%s'", snapshot->repo_id, snapshot->revision,
                        snapshot->cache_dir);
}

static enum wm_status refuse_absent(const struct hub_snapshot *s, const char *identifier, const char *what,
                                    struct arena *arena, struct wm_error *err)
{
    const char *line = hub_download_line(s, arena);

    if (!line)
        return error_no_memory(err, "looking into the hub cache");
    return ckpt_refuse(err, WM_NO_INPUT, identifier, s->repo_id, "%s; fetch it first: %s", what, line);
}

/* refs/<revision> holds the commit. */
static enum wm_status read_ref(const char **commit, const char *path, struct arena *arena, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    struct wm_error ignored = WM_ERROR_INIT;
    char *data = NULL;
    size_t n = 0;

    if (file_read_all(path, REF_MAX_BYTES, &data, &n, &ignored) == WM_OK && n == COMMIT_BYTES + 1 &&
        data[n - 1] == '\n')
        data[--n] = '\0';
    if (n != COMMIT_BYTES || !is_commit(data)) {
        st = ckpt_refuse(err, WM_BAD_DATA, "BAD_REF", path,
                         "it should hold a commit of 40 hexadecimal digits and nothing else; delete the file and "
                         "download the model again");
        goto out;
    }
    *commit = arena_strdup(arena, data);
    if (!*commit)
        st = error_no_memory(err, "looking into the hub cache");
out:
    free(data);
    return st;
}

/* repo/<part>'s real path into *real if that part exists and really lies in the repository's folder. */
static enum wm_status inner_dir(const char **real, const char *repo, const char *part, struct arena *arena,
                                struct wm_error *err)
{
    const char *path = arena_printf(arena, "%s/%s", repo, part);
    char found[PATH_MAX];

    *real = NULL;
    if (!path)
        return error_no_memory(err, "looking into the hub cache");
    if (!file_is_dir(path))
        return WM_OK;
    if (!realpath(path, found) || strcmp(found, path) != 0)
        return ckpt_refuse(err, WM_BAD_DATA, "LINK_OUTSIDE_MODEL", path,
                           "this folder of the hub cache is a link that leaves its repository; remove it and download "
                           "the model again");
    *real = path;
    return WM_OK;
}

enum wm_status hub_find(struct hub_snapshot *snapshot, const char *repo_id, const char *revision, const char *cache_dir,
                        struct arena *arena, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    const char *cache, *slash = strchr(repo_id, '/'), *repo, *ref, *part;
    char real_repo[PATH_MAX];

    memset(snapshot, 0, sizeof *snapshot);
    snapshot->repo_id = arena_strdup(arena, repo_id);
    snapshot->revision = arena_strdup(arena, revision ? revision : "main");
    snapshot->cache_dir = cache_dir && *cache_dir ? arena_strdup(arena, cache_dir) : NULL;
    if (!snapshot->repo_id || !snapshot->revision || (cache_dir && *cache_dir && !snapshot->cache_dir)) {
        st = error_no_memory(err, "looking into the hub cache");
        goto out;
    }
    if (!is_revision(snapshot->revision)) {
        char shown[REFUSE_NAME_BYTES];
        st = ckpt_refuse(err, WM_BAD_DATA, "BAD_REVISION", repo_id,
                         "\"%s\" is no revision; give a branch, a tag or a commit of 40 hexadecimal digits",
                         text_display(shown, sizeof shown, snapshot->revision));
        goto out;
    }
    TRY(hub_cache_dir(&cache, cache_dir, arena, err));
    repo = slash ? arena_printf(arena, "%s/models--%.*s--%s", cache, (int)(slash - repo_id), repo_id, slash + 1)
                 : arena_printf(arena, "%s/models--%s", cache, repo_id);
    if (!repo) {
        st = error_no_memory(err, "looking into the hub cache");
        goto out;
    }
    if (!file_is_dir(repo) || !realpath(repo, real_repo)) {
        const char *what = arena_printf(arena, "no such path here, and no such model in the hub cache %s", cache);
        st = refuse_absent(snapshot, "NOT_IN_CACHE", what ? what : "it is not in the hub cache", arena, err);
        goto out;
    }
    if (is_commit(snapshot->revision)) {
        snapshot->commit = snapshot->revision;
    } else {
        ref = arena_printf(arena, "%s/refs/%s", real_repo, snapshot->revision);
        if (!ref) {
            st = error_no_memory(err, "looking into the hub cache");
            goto out;
        }
        if (!file_exists(ref)) {
            st = refuse_absent(snapshot, "NOT_IN_CACHE", "the hub cache has this model, but not this revision", arena,
                               err);
            goto out;
        }
        TRY(read_ref(&snapshot->commit, ref, arena, err));
    }
    part = arena_printf(arena, "snapshots/%s", snapshot->commit);
    if (!part) {
        st = error_no_memory(err, "looking into the hub cache");
        goto out;
    }
    TRY(inner_dir(&snapshot->dir, real_repo, part, arena, err));
    TRY(inner_dir(&snapshot->blobs, real_repo, "blobs", arena, err));
    if (!snapshot->dir)
        st = refuse_absent(snapshot, "NOT_IN_CACHE", "the hub cache knows this revision, but its snapshot is not there",
                           arena, err);
out:
    return st;
}

enum wm_status hub_recognise(struct hub_snapshot *snapshot, const char *real_dir, struct arena *arena,
                             struct wm_error *err)
{
    static const char prefix[] = "models--", middle[] = "/snapshots/";
    const char *commit = file_path_last(real_dir), *name, *split;
    size_t n_dir = strlen(real_dir), n_tail = COMMIT_BYTES + strlen(middle);
    char *repo, *id;

    memset(snapshot, 0, sizeof *snapshot);
    if (!is_commit(commit) || n_dir < n_tail || strncmp(real_dir + n_dir - n_tail, middle, strlen(middle)) != 0)
        return WM_OK;
    repo = arena_strndup(arena, real_dir, n_dir - n_tail);
    snapshot->dir = arena_strdup(arena, real_dir);
    snapshot->revision = snapshot->commit = arena_strdup(arena, commit);
    if (!repo || !snapshot->dir || !snapshot->commit)
        return error_no_memory(err, "looking into the hub cache");
    name = file_path_last(repo);
    if (strncmp(name, prefix, strlen(prefix)) != 0)
        return WM_OK;
    name += strlen(prefix);
    split = strstr(name, "--");
    id = split ? arena_printf(arena, "%.*s/%s", (int)(split - name), name, split + 2) : arena_strdup(arena, name);
    if (!id)
        return error_no_memory(err, "looking into the hub cache");
    if (hub_is_repo_id(id))
        snapshot->repo_id = id;
    return snapshot->repo_id ? inner_dir(&snapshot->blobs, repo, "blobs", arena, err) : WM_OK;
}

const char *hub_blob_sha256(const struct hub_snapshot *snapshot, const char *real_path)
{
    const char *name = file_path_last(real_path);
    size_t n = snapshot->blobs ? strlen(snapshot->blobs) : 0;

    return n && name > real_path && (size_t)(name - 1 - real_path) == n && memcmp(real_path, snapshot->blobs, n) == 0 &&
                   strlen(name) == 64 && is_hex(name, 64)
               ? name
               : NULL;
}
