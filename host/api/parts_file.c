/* parts_file.c: see parts_file.h. */
#include "api/parts_file.h"

#include "base/file.h"
#include "base/json.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_BYTES ((size_t)1 << 20)
enum { PART_NAME_BYTES = 40 };

/* The options that decide what the output is; all small numbers. */
static const struct {
    const char *name;
    size_t offset;
} int_fields[] = {{"nonfinite", offsetof(struct wm_options, nonfinite)},
                  {"overflow", offsetof(struct wm_options, overflow)},
                  {"copy_tokenizer", offsetof(struct wm_options, copy_tokenizer)},
                  {"write_card", offsetof(struct wm_options, write_card)},
                  {"sha256", offsetof(struct wm_options, sha256)},
                  {"strict", offsetof(struct wm_options, strict)},
                  {"overwrite", offsetof(struct wm_options, overwrite)}};
enum { N_INT_FIELDS = sizeof int_fields / sizeof *int_fields };
_Static_assert(sizeof(enum wm_policy) == sizeof(int), "policies are read and written as int");

static int *int_field(struct wm_options *options, size_t i)
{
    return (int *)(void *)((char *)options + int_fields[i].offset);
}

/* 64-bit numbers as text: JSON's are doubles. */
static bool add_u64(cJSON *object, const char *name, uint64_t value)
{
    char text[24];

    snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    return cJSON_AddStringToObject(object, name, text) != NULL;
}

static bool fill(cJSON *object, const char *config, const char *folder, const struct wm_options *options)
{
    struct wm_options copy = *options;
    bool ok = cJSON_AddNumberToObject(object, "warpmerge_parts", 1) &&
              cJSON_AddStringToObject(object, "config", config) && cJSON_AddStringToObject(object, "folder", folder) &&
              cJSON_AddNumberToObject(object, "n_parts", options->n_parts) &&
              add_u64(object, "shard_bytes", options->shard_bytes) && add_u64(object, "seed", options->seed);

    if (ok && options->hub_cache)
        ok = cJSON_AddStringToObject(object, "hub_cache", options->hub_cache) != NULL;
    for (size_t i = 0; ok && i < N_INT_FIELDS; i++)
        ok = cJSON_AddNumberToObject(object, int_fields[i].name, *int_field(&copy, i)) != NULL;
    return ok;
}

static bool is_part_name(const char *name)
{
    static const char begin[] = "part-", end[] = ".warpmerge.json";
    size_t n = strlen(name), n_begin = strlen(begin), n_end = strlen(end);

    return n > n_begin + n_end && n < PART_NAME_BYTES && strncmp(name, begin, n_begin) == 0 &&
           strcmp(name + n - n_end, end) == 0;
}

/* The name of a part's file in `dir`, the first in name order; false: there is none. */
static bool find_file(const char *dir, char name[PART_NAME_BYTES])
{
    DIR *folder = opendir(dir);
    struct dirent *entry;

    *name = '\0';
    while (folder && (entry = readdir(folder)) != NULL) {
        if (!is_part_name(entry->d_name))
            continue;
        if (!*name || strcmp(entry->d_name, name) < 0)
            memcpy(name, entry->d_name, strlen(entry->d_name) + 1);
    }
    if (folder)
        closedir(folder);
    return *name != '\0';
}

static enum wm_status read_file(const char *dir, const char *name, struct parts_file *parts, struct wm_options *options,
                                struct wm_error *err);

enum wm_status parts_file_write(const char *dir, const char *config_path, const struct wm_options *options,
                                struct wm_error *err)
{
    enum wm_status st = WM_OK;
    char own[PART_NAME_BYTES], other[PART_NAME_BYTES];
    char *path, *config = realpath(config_path, NULL), *folder = getcwd(NULL, 0), *text = NULL;
    cJSON *object = cJSON_CreateObject();
    struct parts_file there = {NULL, NULL, NULL, 0};
    struct wm_options ignored = *options;

    snprintf(own, sizeof own, "part-%04d.warpmerge.json", options->part);
    path = file_path_join(dir, own);
    if (find_file(dir, other)) {
        TRY(read_file(dir, other, &there, &ignored, err));
        if (there.n_parts != options->n_parts) {
            st = error_set(err, WM_USAGE,
                           "%s was begun in %d parts; go on with --part K/%d, or remove that folder to start anew", dir,
                           there.n_parts, there.n_parts);
            goto out;
        }
    }
    if (!path || !config || !folder || !object || !fill(object, config, folder, options) ||
        !(text = cJSON_Print(object))) {
        st = error_no_memory(err, "writing down the part");
        goto out;
    }
    TRY(file_write_whole(path, text, strlen(text), options->sync != 0, err));
out:
    parts_file_release(&there);
    cJSON_Delete(object);
    cJSON_free(text);
    free(path);
    free(config);
    free(folder);
    return st;
}

static bool take_text(const cJSON *object, const char *name, char **text)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

    *text = cJSON_IsString(item) ? strdup(item->valuestring) : NULL;
    return *text != NULL;
}

static bool take_u64(const cJSON *object, const char *name, uint64_t *value)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    char *end = NULL;

    if (!cJSON_IsString(item) || !*item->valuestring)
        return false;
    *value = strtoull(item->valuestring, &end, 10);
    return *end == '\0';
}

static bool take(const cJSON *object, struct parts_file *parts, struct wm_options *options)
{
    const cJSON *n_parts = cJSON_GetObjectItemCaseSensitive(object, "n_parts");

    if (!cJSON_IsNumber(n_parts) || n_parts->valueint < 1 || !take_text(object, "config", &parts->config_path) ||
        !take_text(object, "folder", &parts->folder) || !take_u64(object, "shard_bytes", &options->shard_bytes) ||
        !take_u64(object, "seed", &options->seed))
        return false;
    parts->n_parts = n_parts->valueint;
    (void)take_text(object, "hub_cache", &parts->hub_cache);
    for (size_t i = 0; i < N_INT_FIELDS; i++) {
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, int_fields[i].name);
        if (!cJSON_IsNumber(item))
            return false;
        *int_field(options, i) = item->valueint;
    }
    return true;
}

static enum wm_status read_file(const char *dir, const char *name, struct parts_file *parts, struct wm_options *options,
                                struct wm_error *err)
{
    enum wm_status st = WM_OK;
    char *path = file_path_join(dir, name), *data = NULL;
    size_t n_bytes = 0;
    cJSON *object = NULL;

    if (!path) {
        st = error_no_memory(err, "reading the parts");
        goto out;
    }
    TRY(file_read_all(path, MAX_BYTES, &data, &n_bytes, err));
    TRY(json_gate(path, data, n_bytes, 8, err));
    object = cJSON_ParseWithLength(data, n_bytes);
    if (!object || !take(object, parts, options))
        st = error_set(err, WM_BAD_DATA, "%s is not what a part has written; remove the folder and merge again", path);
out:
    cJSON_Delete(object);
    free(data);
    free(path);
    return st;
}

enum wm_status parts_file_read(const char *dir, struct parts_file *parts, struct wm_options *options,
                               struct wm_error *err)
{
    char name[PART_NAME_BYTES];
    enum wm_status st;

    *parts = (struct parts_file){NULL, NULL, NULL, 0};
    if (!find_file(dir, name))
        return error_set(err, WM_NO_INPUT,
                         "there is nothing to finish: no part has written to %s; merge the parts first (--part K/N)",
                         dir);
    st = read_file(dir, name, parts, options, err);
    if (st != WM_OK)
        parts_file_release(parts);
    return st;
}

void parts_file_release(struct parts_file *parts)
{
    free(parts->config_path);
    free(parts->folder);
    free(parts->hub_cache);
    *parts = (struct parts_file){NULL, NULL, NULL, 0};
}
