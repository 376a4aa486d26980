/*
 * model_dir.c: from what the user wrote to an open checkpoint (ckpt_open, see checkpoint.h).
 *
 * What lives here: path, file or hub id; index, single file or loose shards; which tensor of which shard counts; and
 * config.json. Files are closed once their header is read, since a merge of many sharded models would run out of
 * descriptors. What it must not know: how headers and indexes are checked.
 */
#include "checkpoint/checkpoint.h"

#include "base/json.h"
#include "base/text.h"
#include "checkpoint/loose_weights.h"
#include "checkpoint/model_table.h"
#include "checkpoint/place.h"
#include "checkpoint/refuse.h"
#include "checkpoint/safetensors_read.h"
#include "checkpoint/shard_index.h"
#include "checkpoint/sniff.h"

#include <cjson/cJSON.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define INDEX_NAME       "model.safetensors.index.json"
#define SINGLE_NAME      "model.safetensors"
#define CONFIG_NAME      "config.json"
#define CONFIG_MAX_BYTES ((size_t)16 << 20)
#define CKPT_MAX_BYTES   ((size_t)2 << 30) /* of tables; 100,000 tensors take some 30 MB */
#define LIST_BYTES       700               /* of missing shards in one message */

struct opening {
    struct ckpt *ckpt;
    struct place place;
    uint64_t header_cap;
    struct arena scratch; /* index and per-file tables */
    struct member *members;
    struct safetensors_table *tables;
    struct problems *problems;
    struct wm_error *err;
};

/* ---- config.json -------------------------------------------------------------------------------------------- */

/* A JSON member, whole (free it). */
static enum wm_status read_member(struct opening *o, const struct member *m, size_t max_bytes, char **data,
                                  size_t *n_bytes)
{
    enum wm_status st = WM_OK;
    const struct sniffed *other;

    *data = NULL;
    if (m->n_bytes > max_bytes) {
        st = ckpt_refuse(o->err, WM_BAD_DATA, "FILE_TOO_LARGE", m->path,
                         "it has %llu bytes, more than the %zu that it may have; check that it is the right file",
                         (unsigned long long)m->n_bytes, max_bytes);
        goto out;
    }
    TRY(file_read_all(m->path, max_bytes, data, n_bytes, o->err));
    other = sniff(*data, *n_bytes);
    if (other && strcmp(other->identifier, "NOT_SAFETENSORS") != 0) /* JSON text is what it should be */
        st = ckpt_refuse(o->err, WM_BAD_DATA, other->identifier, m->path, "%s", other->sentence);
out:
    if (st != WM_OK) {
        free(*data);
        *data = NULL;
    }
    return st;
}

static enum wm_status refuse_broken(struct opening *o, const struct member *m)
{
    const char *line = o->place.hub.repo_id ? hub_download_line(&o->place.hub, &o->scratch) : NULL;

    return ckpt_refuse(o->err, WM_NO_INPUT, "LINK_BROKEN", m->path, "it is a link whose target is missing; %s%s",
                       line ? "complete the snapshot: " : "restore the target", line ? line : "");
}

static enum wm_status read_config(struct opening *o)
{
    enum wm_status st = WM_OK;
    struct wm_error gate = WM_ERROR_INIT;
    struct member m;
    char *data = NULL;
    size_t n = 0;

    TRY(place_member(&o->place, CONFIG_NAME, PLACE_INSIDE, &m, &o->ckpt->arena, o->err));
    if (m.broken) {
        st = refuse_broken(o, &m);
        goto out;
    }
    if (!m.exists)
        goto out;
    TRY(read_member(o, &m, CONFIG_MAX_BYTES, &data, &n));
    st = json_gate(CONFIG_NAME, data, n, JSON_MAX_DEPTH, &gate);
    if (st == WM_BAD_DATA)
        ckpt_refuse(o->err, st, "CONFIG_NOT_JSON", m.path, "%s", gate.message);
    else if (st != WM_OK)
        error_set(o->err, st, "%s", gate.message);
    if (st != WM_OK)
        goto out;
    o->ckpt->config = cJSON_ParseWithLength(data, n);
    if (!o->ckpt->config)
        st = error_no_memory(o->err, "reading config.json");
    else if (!cJSON_IsObject(o->ckpt->config))
        st = ckpt_refuse(o->err, WM_BAD_DATA, "CONFIG_NOT_JSON", m.path,
                         "it is JSON, but not an object; restore the file or download it again");
out:
    free(data);
    return st;
}

/* ---- shards ------------------------------------------------------------------------------------------------- */

static enum wm_status refuse_missing(struct opening *o, size_t n_members)
{
    enum wm_status st;
    const char *line = o->place.hub.repo_id ? hub_download_line(&o->place.hub, &o->scratch) : NULL;
    char shown[REFUSE_NAME_BYTES];
    struct text list;
    size_t n_missing = 0;

    text_init(&list, LIST_BYTES);
    for (size_t i = 0; i < n_members; i++)
        if (!o->members[i].exists)
            text_addf(&list, "%s%s", n_missing++ ? ", " : "", text_display(shown, sizeof shown, o->members[i].name));
    st = ckpt_refuse(
        o->err, WM_NO_INPUT, "INDEX_SHARD_MISSING", o->place.dir, "%zu of %zu shards are missing: %s%s; %s%s",
        n_missing, n_members, text_string(&list), list.failed ? ", ..." : "",
        line ? "complete the snapshot: " : "download them, or restore them beside the index", line ? line : "");
    text_release(&list);
    return st;
}

/* Looks at all files first, so that everything missing is named together, then reads their headers. */
static enum wm_status read_files(struct opening *o, const char *const *names, size_t n_names, enum place_rule rule)
{
    enum wm_status st = WM_OK;
    struct ckpt *ckpt = o->ckpt;
    bool complete = true;

    o->members = arena_array(&o->scratch, n_names, sizeof *o->members);
    o->tables = arena_array(&o->scratch, n_names, sizeof *o->tables);
    ckpt->files = arena_array(&ckpt->arena, n_names, sizeof *ckpt->files);
    if (!o->members || !o->tables || !ckpt->files) {
        st = error_no_memory(o->err, "opening a model");
        goto out;
    }
    for (size_t i = 0; i < n_names; i++) {
        TRY(place_member(&o->place, names[i], rule, &o->members[i], &ckpt->arena, o->err));
        complete = complete && o->members[i].exists;
    }
    if (!complete) {
        st = refuse_missing(o, n_names);
        goto out;
    }
    for (size_t i = 0; i < n_names; i++) {
        struct ckpt_file *file = &ckpt->files[i];
        *file =
            (struct ckpt_file){.name = o->members[i].name, .path = o->members[i].path, .sha256 = o->members[i].sha256};
        TRY(safetensors_read(&o->tables[i], file->path, file->path, o->header_cap, &file->identity, &ckpt->arena,
                             o->problems, o->err));
        if (file->identity.inode != o->members[i].inode || file->identity.device != o->members[i].device) {
            st = ckpt_refuse(o->err, WM_BAD_DATA, "FILE_CHANGED", file->path,
                             "it was replaced while it was opened; run the same command again when nobody else writes "
                             "to the folder");
            goto out;
        }
    }
    ckpt->n_files = (int)n_names;
out:
    return st;
}

/* Where an index lists its tensors, they count; what else is in the shards is reported once per shard. */
static enum wm_status select_indexed(struct opening *o, struct shard_index *index)
{
    struct ckpt *ckpt = o->ckpt;
    char shown[REFUSE_NAME_BYTES];

    for (int f = 0; f < ckpt->n_files; f++) {
        const struct safetensors_table *table = &o->tables[f];
        const char *unlisted = NULL;
        size_t n_unlisted = 0;
        for (size_t i = 0; i < table->n_tensors; i++) {
            size_t at = name_map_find(&index->tensors, table->tensors[i].name);
            if (at != NAME_MAP_NONE && index->entries[at].shard == (size_t)f) {
                index->entries[at].found = true;
                ckpt->tensors[ckpt->n_tensors] = table->tensors[i];
                ckpt->tensors[ckpt->n_tensors++].file = f;
            } else if (n_unlisted++ == 0) {
                unlisted = table->tensors[i].name;
            }
        }
        if (n_unlisted)
            problems_lint(o->problems, WM_BAD_DATA,
                          "%s: %zu tensors of this shard are not in the index (first: \"%s\"); ignored "
                          "[TENSOR_NOT_IN_INDEX]",
                          ckpt->files[f].path, n_unlisted, text_display(shown, sizeof shown, unlisted));
    }
    if (ckpt->n_tensors < index->n_entries) {
        size_t i = 0;
        while (index->entries[i].found)
            i++;
        return ckpt_refuse(o->err, WM_BAD_DATA, "INDEX_TENSOR_MISSING", o->place.dir,
                           "the index places %zu tensors in shards that do not have them (first: \"%s\" in %s); the "
                           "files are of different versions: download the model again",
                           index->n_entries - ckpt->n_tensors,
                           text_display(shown, sizeof shown, index->entries[i].tensor),
                           index->shards[index->entries[i].shard].name);
    }
    return WM_OK;
}

static void select_all(struct opening *o)
{
    struct ckpt *ckpt = o->ckpt;

    for (int f = 0; f < ckpt->n_files; f++)
        for (size_t i = 0; i < o->tables[f].n_tensors; i++) {
            ckpt->tensors[ckpt->n_tensors] = o->tables[f].tensors[i];
            ckpt->tensors[ckpt->n_tensors++].file = f;
        }
}

/* The model's one table out of the files'; index may be NULL. */
static enum wm_status build_model(struct opening *o, struct shard_index *index)
{
    enum wm_status st = WM_OK;
    struct ckpt *ckpt = o->ckpt;
    size_t n = 0;

    for (int f = 0; f < ckpt->n_files; f++)
        n += o->tables[f].n_tensors;
    ckpt->tensors = arena_array(&ckpt->arena, n, sizeof *ckpt->tensors);
    if (!ckpt->tensors) {
        st = error_no_memory(o->err, "opening a model");
        goto out;
    }
    if (index)
        TRY(select_indexed(o, index));
    else
        select_all(o);
    TRY(model_table_build(ckpt, o->err));
    if (index && index->has_total_size && index->total_size != (double)ckpt->n_bytes)
        problems_add(o->problems, WM_WARNING, WM_OK,
                     "%s/" INDEX_NAME
                     ": metadata.total_size is %.0f, the tensors have %llu bytes; ignored, since it is "
                     "often wrong",
                     ckpt->dir, index->total_size, (unsigned long long)ckpt->n_bytes);
out:
    return st;
}

static enum wm_status open_indexed(struct opening *o, const struct member *m)
{
    enum wm_status st = WM_OK;
    struct shard_index index;
    const char **names;
    char *data = NULL;
    size_t n = 0;

    TRY(read_member(o, m, (size_t)o->header_cap, &data, &n));
    TRY(shard_index_parse(&index, m->path, data, n, &o->scratch, o->err));
    names = arena_array(&o->scratch, index.n_shards, sizeof *names);
    if (!names) {
        st = error_no_memory(o->err, "opening a model");
        goto out;
    }
    for (size_t i = 0; i < index.n_shards; i++)
        names[i] = index.shards[i].name;
    TRY(read_files(o, names, index.n_shards, PLACE_INSIDE));
    TRY(build_model(o, &index));
out:
    free(data);
    return st;
}

/* ---- what the user wrote ------------------------------------------------------------------------------------ */

static enum wm_status open_dir(struct opening *o)
{
    enum wm_status st = WM_OK;
    static const char *const single[] = {SINGLE_NAME};
    const char *const *names = single;
    struct member index, weights;
    size_t n_names = 1;

    TRY(place_member(&o->place, INDEX_NAME, PLACE_INSIDE, &index, &o->ckpt->arena, o->err));
    TRY(place_member(&o->place, SINGLE_NAME, PLACE_INSIDE, &weights, &o->ckpt->arena, o->err));
    if (index.broken || (weights.broken && !index.exists)) {
        st = refuse_broken(o, index.broken ? &index : &weights);
        goto out;
    }
    if (index.exists) {
        if (weights.exists)
            problems_add(o->problems, WM_WARNING, WM_OK,
                         "%s: both " INDEX_NAME " and " SINGLE_NAME " are here; the index is followed", o->place.dir);
        TRY(open_indexed(o, &index));
        goto out;
    }
    if (!weights.exists)
        TRY(loose_weights(&o->place, &names, &n_names, &o->scratch, o->problems, o->err));
    TRY(read_files(o, names, n_names, PLACE_INSIDE));
    TRY(build_model(o, NULL));
out:
    return st;
}

static void settle(struct opening *o)
{
    o->ckpt->dir = o->place.dir;
    o->ckpt->commit = o->place.hub.repo_id ? o->place.hub.commit : NULL;
}

/* The folder of `path` as a place: its real path, and the hub snapshot it may be. */
static enum wm_status set_place(struct opening *o, const char *path)
{
    enum wm_status st = WM_OK;
    char real[PATH_MAX];

    if (!realpath(path, real)) {
        st = ckpt_refuse(o->err, WM_NO_INPUT, "CANNOT_OPEN", path, "cannot be opened; check the path and permissions");
        goto out;
    }
    o->place.dir = arena_strdup(&o->ckpt->arena, real);
    if (!o->place.dir) {
        st = error_no_memory(o->err, "opening a model");
        goto out;
    }
    TRY(hub_recognise(&o->place.hub, o->place.dir, &o->ckpt->arena, o->err));
    settle(o);
out:
    return st;
}

static enum wm_status open_single(struct opening *o, const char *reference)
{
    enum wm_status st = WM_OK;
    const char *names[] = {file_path_last(reference)};
    char *folder = file_path_parent(reference);

    if (!folder) {
        st = error_no_memory(o->err, "opening a model");
        goto out;
    }
    TRY(set_place(o, folder));
    TRY(read_files(o, names, 1, PLACE_ANYWHERE));
    TRY(build_model(o, NULL));
out:
    free(folder);
    return st;
}

static enum wm_status open_reference(struct opening *o, const char *reference, const char *revision,
                                     const char *hub_cache)
{
    enum wm_status st = WM_OK;
    bool exists = file_exists(reference);

    if (exists && revision)
        problems_add(o->problems, WM_WARNING, WM_OK, "%s: a path has no revisions; \"%s\" is ignored", reference,
                     revision);
    if (exists && !file_is_dir(reference)) {
        TRY(open_single(o, reference));
    } else {
        if (exists) {
            TRY(set_place(o, reference));
        } else if (hub_is_repo_id(reference)) {
            TRY(hub_find(&o->place.hub, reference, revision, hub_cache, &o->ckpt->arena, o->err));
            o->place.dir = o->place.hub.dir;
            settle(o);
        } else {
            st = ckpt_refuse(o->err, WM_NO_INPUT, "NO_SUCH_MODEL", reference,
                             "no such file or folder; give a model's folder, a .safetensors file, or the id of a model "
                             "in the hub cache (org/name)");
            goto out;
        }
        TRY(open_dir(o));
    }
    TRY(read_config(o));
out:
    return st;
}

enum wm_status ckpt_open(struct ckpt **ckpt, const char *reference, const char *revision,
                         const struct ckpt_options *options, struct problems *problems, struct wm_error *err)
{
    static const struct ckpt_options defaults;
    enum wm_status st = WM_OK;
    struct problems own;
    struct opening o = {.problems = problems ? problems : &own, .err = err};
    bool strict;

    *ckpt = NULL;
    options = options ? options : &defaults;
    problems_init(&own, NULL, NULL, options->strict);
    strict = o.problems->strict;
    o.problems->strict = strict || options->strict;
    o.header_cap = options->header_cap ? options->header_cap : CKPT_HEADER_CAP_DEFAULT;
    if (o.header_cap > CKPT_HEADER_CAP_FORMAT)
        o.header_cap = CKPT_HEADER_CAP_FORMAT;
    arena_init(&o.scratch, CKPT_MAX_BYTES);
    o.ckpt = calloc(1, sizeof *o.ckpt);
    if (!o.ckpt) {
        st = error_no_memory(err, "opening a model");
        goto out;
    }
    arena_init(&o.ckpt->arena, CKPT_MAX_BYTES);
    o.ckpt->reference = arena_strdup(&o.ckpt->arena, reference);
    if (!o.ckpt->reference) {
        st = error_no_memory(err, "opening a model");
        goto out;
    }
    TRY(open_reference(&o, reference, revision, options->hub_cache));
    TRY(problems_end(&own, err));
    *ckpt = o.ckpt;
out:
    o.problems->strict = strict;
    arena_release(&o.scratch);
    if (st != WM_OK)
        ckpt_free(o.ckpt);
    return st;
}

void ckpt_free(struct ckpt *ckpt)
{
    if (!ckpt)
        return;
    cJSON_Delete(ckpt->config);
    arena_release(&ckpt->arena);
    free(ckpt);
}
