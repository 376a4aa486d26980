/*
 * complete.c: is an output directory finished, and by this very merge?
 *
 * What lives here: the look at a finished directory that lets a command be repeated: a job that was lost between the
 * commit and its end is started again, and has to end well. Cheap on purpose (names and sizes; `verify` reads bytes), and
 * doubtful cases are "no". What it must not know: what happens then.
 */
#include "report/report.h"

#include "base/file.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_MANIFEST_BYTES ((size_t)512 << 20)
#define MAX_ARENA_BYTES    ((size_t)1 << 30)

struct found {
    bool is_ours, is_this_plan;
    size_t n_shards; /* that are there with the size that the manifest says */
};

static bool string_is(struct json_scanner *s, const char *value)
{
    return json_next(s) == JSON_STRING && strcmp(s->text.data, value) == 0;
}

static bool file_has_size(const char *dir, const char *name, uint64_t n_bytes)
{
    char *path = strchr(name, '/') ? NULL : file_path_join(dir, name);
    struct stat sb;
    bool has = path && stat(path, &sb) == 0 && S_ISREG(sb.st_mode) && (uint64_t)sb.st_size == n_bytes;

    free(path);
    return has;
}

/* The members of one shard, its opening brace read. */
static bool read_shard(struct json_scanner *s, const char *dir, struct found *found)
{
    const char *name = NULL;
    uint64_t n_bytes = UINT64_MAX;
    enum json_event event;

    while ((event = json_next(s)) == JSON_KEY) {
        const char *key = s->text.data;
        if (strcmp(key, "name") == 0) {
            if (json_next(s) != JSON_STRING)
                return false;
            name = s->text.data;
        } else if (strcmp(key, "n_bytes") == 0) {
            if (json_next(s) != JSON_INTEGER)
                return false;
            n_bytes = s->integer;
        } else if (!json_skip_value(s, json_next(s))) {
            return false;
        }
    }
    if (event != JSON_OBJECT_END || !name || !file_has_size(dir, name, n_bytes))
        return false;
    found->n_shards++;
    return true;
}

static bool read_shards(struct json_scanner *s, const char *dir, struct found *found)
{
    enum json_event event;

    if (json_next(s) != JSON_ARRAY_BEGIN)
        return false;
    while ((event = json_next(s)) == JSON_OBJECT_BEGIN)
        if (!read_shard(s, dir, found))
            return false;
    return event == JSON_ARRAY_END;
}

static bool read_output(struct json_scanner *s, const char *dir, struct found *found)
{
    enum json_event event;

    if (json_next(s) != JSON_OBJECT_BEGIN)
        return false;
    while ((event = json_next(s)) == JSON_KEY)
        if (strcmp(s->text.data, "shards") == 0 ? !read_shards(s, dir, found) : !json_skip_value(s, json_next(s)))
            return false;
    return event == JSON_OBJECT_END;
}

static bool read_manifest(struct json_scanner *s, const char *dir, const char *plan_hash, struct found *found)
{
    enum json_event event;

    if (json_next(s) != JSON_OBJECT_BEGIN)
        return false;
    while ((event = json_next(s)) == JSON_KEY) {
        const char *key = s->text.data;
        bool ok = true;
        if (strcmp(key, "schema") == 0)
            found->is_ours = string_is(s, "warpmerge-manifest");
        else if (strcmp(key, "plan_xxh3") == 0)
            found->is_this_plan = string_is(s, plan_hash);
        else if (strcmp(key, "output") == 0)
            ok = read_output(s, dir, found);
        else
            ok = json_skip_value(s, json_next(s));
        if (!ok)
            return false;
    }
    return event == JSON_OBJECT_END;
}

static bool is_later(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec != b->tv_sec ? a->tv_sec > b->tv_sec : a->tv_nsec > b->tv_nsec;
}

/* The manifest holds no times, so an input that was exchanged for another of the same shape shows by its own alone: also
 * the change time, which nobody sets back. */
static bool inputs_are_older(const struct plan *plan, const char *manifest_path)
{
    struct stat made, input;

    if (stat(manifest_path, &made) != 0)
        return false;
    for (int m = 0; m < plan->n_models; m++)
        for (int f = 0; f < plan->models[m]->n_files; f++)
            if (stat(plan->models[m]->files[f].path, &input) != 0 || is_later(&input.st_mtim, &made.st_mtim) ||
                is_later(&input.st_ctim, &made.st_mtim))
                return false;
    return true;
}

bool report_is_complete(const char *dir, const struct plan *plan)
{
    struct wm_error ignored = WM_ERROR_INIT;
    char *path = file_path_join(dir, REPORT_MANIFEST_NAME), *data = NULL, hex[HASH128_HEX_BYTES] = "";
    struct found found = {false, false, 0};
    struct json_scanner scanner;
    struct hash128 hash;
    struct arena arena;
    size_t n_bytes;
    bool complete = false;

    arena_init(&arena, MAX_ARENA_BYTES);
    if (!path || !file_exists(path))
        goto out;
    if (plan) {
        if (!inputs_are_older(plan, path) || report_plan_hash(plan, &hash, &ignored) != WM_OK)
            goto out;
        hash128_hex(hex, hash);
    }
    if (file_read_all(path, MAX_MANIFEST_BYTES, &data, &n_bytes, &ignored) != WM_OK)
        goto out;
    json_scanner_init(&scanner, data, n_bytes, JSON_MAX_DEPTH, &arena);
    complete = read_manifest(&scanner, dir, hex, &found) && found.is_ours && found.n_shards > 0 &&
               (!plan || (found.is_this_plan && found.n_shards == (size_t)plan->n_shards));
out:
    arena_release(&arena);
    free(data);
    free(path);
    return complete;
}
