/* journal.c: see journal.h. */
#include "engine/journal.h"

#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { record_bytes = 64, sum_offset = 56 };
static const char magic[8] = {'W', 'M', 'J', 'O', 'U', 'R', 'N', '1'};
#define MAX_JOURNAL_BYTES ((size_t)1 << 30)

struct raw { /* both kinds; little-endian machines only, like the tensor formats themselves */
    union {
        struct {
            char magic[8];
            uint64_t fingerprint_low, fingerprint_high, traits[JOURNAL_N_TRAITS];
        } header;
        struct {
            uint64_t job, first_elem, n_elems, hash_low, hash_high;
        } record;
        unsigned char bytes[sum_offset];
    } u;
    uint64_t sum;
};
_Static_assert(sizeof(struct raw) == record_bytes, "journal records are 64 bytes");

static void seal(struct raw *raw, uint64_t seed)
{
    raw->sum = hash_xxh3_64(raw->u.bytes, sum_offset, seed);
}

static bool is_sealed(const struct raw *raw, uint64_t seed)
{
    return raw->sum == hash_xxh3_64(raw->u.bytes, sum_offset, seed);
}

static enum wm_status begin(struct journal *j, const struct journal_owner *owner, struct wm_error *err)
{
    struct raw raw;
    enum wm_status st = WM_OK;

    memset(&raw, 0, sizeof raw);
    memcpy(raw.u.header.magic, magic, sizeof magic);
    raw.u.header.fingerprint_low = owner->fingerprint.low;
    raw.u.header.fingerprint_high = owner->fingerprint.high;
    memcpy(raw.u.header.traits, owner->traits, sizeof owner->traits);
    seal(&raw, 0);
    if (ftruncate(j->fd, 0) < 0) {
        st = error_set(err, WM_IO, "cannot empty %s; check the file system, then run the same command again", j->path);
        goto out;
    }
    TRY(file_write_at(j->fd, j->path, &raw, sizeof raw, 0, err));
    j->end = sizeof raw;
out:
    return st;
}

void journal_name(char name[JOURNAL_NAME_BYTES], int index)
{
    snprintf(name, JOURNAL_NAME_BYTES, "journal-%04d.warpmerge", index);
}

enum header_kind { HEADER_NONE, HEADER_OURS, HEADER_FOREIGN };

/* What a journal's first record says. None: new, or killed before it was complete; nothing was recorded then. */
static enum header_kind look_at_header(const char *data, size_t n_bytes, struct hash128 fingerprint)
{
    struct raw raw;

    if (n_bytes < record_bytes)
        return HEADER_NONE;
    memcpy(&raw, data, sizeof raw);
    if (memcmp(raw.u.header.magic, magic, sizeof magic) != 0 || !is_sealed(&raw, 0))
        return HEADER_NONE;
    return raw.u.header.fingerprint_low == fingerprint.low && raw.u.header.fingerprint_high == fingerprint.high
               ? HEADER_OURS
               : HEADER_FOREIGN;
}

/* "its config", "its config and its inputs"; nothing where the header does not know (or all is equal: versions before this
 * one left zeros). */
static void name_differences(char *text, size_t size, const struct journal_owner *owner, const uint64_t *traits)
{
    const char *names[JOURNAL_N_TRAITS];
    int n = 0;
    size_t used = 0;

    for (int i = 0; i < JOURNAL_N_TRAITS; i++)
        if (traits[i] && traits[i] != owner->traits[i])
            names[n++] = owner->trait_names[i];
    *text = '\0';
    for (int i = 0; i < n && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%sits %s", !i ? "" : i == n - 1 ? " and " : ", ", names[i]);
}

static enum wm_status refuse_foreign(const char *dir, const char *data, const struct journal_owner *owner,
                                     struct wm_error *err)
{
    char differences[160];
    struct raw raw;

    memcpy(&raw, data, sizeof raw);
    name_differences(differences, sizeof differences, owner, raw.u.header.traits);
    if (!*differences)
        return error_set(err, WM_CANT_CREATE,
                         "%s holds an unfinished merge of another recipe, of other inputs, or by another version; %s",
                         dir, owner->remedy);
    return error_set(err, WM_CANT_CREATE, "%s holds an unfinished merge that differs from this one in %s; %s", dir,
                     differences, owner->remedy);
}

/* Appends the records up to the first that is torn or not ours. */
static enum wm_status add_records(const char *data, size_t n_bytes, uint64_t seed, struct journal_record **records,
                                  size_t *n_records, struct wm_error *err)
{
    size_t max = n_bytes / record_bytes;
    struct journal_record *grown = realloc(*records, (*n_records + max + 1) * sizeof *grown);
    struct raw raw;

    if (!grown)
        return error_no_memory(err, "reading the journal");
    *records = grown;
    for (size_t i = 1; i < max; i++) {
        memcpy(&raw, data + i * record_bytes, sizeof raw);
        if (!is_sealed(&raw, seed))
            break;
        grown[(*n_records)++] = (struct journal_record){raw.u.record.job,
                                                        raw.u.record.first_elem,
                                                        raw.u.record.n_elems,
                                                        {raw.u.record.hash_low, raw.u.record.hash_high}};
    }
    return WM_OK;
}

enum wm_status journal_open(struct journal *j, const char *dir, const char *name, const struct journal_owner *owner,
                            bool restart, struct journal_record **records, size_t *n_records, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    size_t n_bytes = 0;
    char *data = NULL;
    enum header_kind kind;

    *records = NULL;
    *n_records = 0;
    *j = (struct journal){-1, file_path_join(dir, name), 0, owner->fingerprint.low ^ owner->fingerprint.high};
    if (!j->path)
        return error_no_memory(err, "opening the journal");
    TRY(file_open_write(&j->fd, j->path, true, false, err));
    TRY(file_read_all(j->path, MAX_JOURNAL_BYTES, &data, &n_bytes, err));
    kind = look_at_header(data, n_bytes, owner->fingerprint);
    if (kind == HEADER_NONE || restart) {
        TRY(begin(j, owner, err));
    } else if (kind == HEADER_FOREIGN) {
        st = refuse_foreign(dir, data, owner, err);
        goto out;
    } else {
        TRY(add_records(data, n_bytes, j->seed, records, n_records, err));
        j->end = (*n_records + 1) * record_bytes;
        if (ftruncate(j->fd, (off_t)j->end) < 0)
            st = error_set(err, WM_IO, "cannot cut the torn end of %s; check the file system", j->path);
    }
out:
    free(data);
    if (st != WM_OK) {
        free(*records);
        *records = NULL;
        *n_records = 0;
        journal_close(j);
    }
    return st;
}

static enum wm_status read_other(const char *dir, const char *name, const struct journal_owner *owner,
                                 struct journal_record **records, size_t *n_records, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    char *path = file_path_join(dir, name), *data = NULL;
    size_t n_bytes = 0;

    if (!path)
        return error_no_memory(err, "reading the journals");
    TRY(file_read_all(path, MAX_JOURNAL_BYTES, &data, &n_bytes, err));
    switch (look_at_header(data, n_bytes, owner->fingerprint)) {
    case HEADER_NONE: break;
    case HEADER_FOREIGN: st = refuse_foreign(dir, data, owner, err); break;
    case HEADER_OURS:
        st = add_records(data, n_bytes, owner->fingerprint.low ^ owner->fingerprint.high, records, n_records, err);
        break;
    }
out:
    free(path);
    free(data);
    return st;
}

enum wm_status journal_read_others(const char *dir, const char *own, const struct journal_owner *owner,
                                   struct journal_record **records, size_t *n_records, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    DIR *folder = opendir(dir);
    struct dirent *entry;

    if (!folder)
        return error_set(err, WM_IO, "cannot list %s: %s", dir, strerror(errno));
    while ((entry = readdir(folder)) != NULL) {
        size_t n = strlen(entry->d_name), n_end = strlen(".warpmerge");
        if (strncmp(entry->d_name, "journal", strlen("journal")) != 0 || n < n_end ||
            strcmp(entry->d_name + n - n_end, ".warpmerge") != 0 || strcmp(entry->d_name, own) == 0)
            continue;
        TRY(read_other(dir, entry->d_name, owner, records, n_records, err));
    }
out:
    closedir(folder);
    return st;
}

enum wm_status journal_append(struct journal *j, const struct journal_record *records, size_t n_records,
                              struct wm_error *err)
{
    enum { at_once = 64 };
    enum wm_status st = WM_OK;
    struct raw raw[at_once];

    for (size_t first = 0; first < n_records; first += at_once) {
        size_t n = n_records - first < at_once ? n_records - first : at_once;
        memset(raw, 0, n * sizeof *raw);
        for (size_t i = 0; i < n; i++) {
            const struct journal_record *record = &records[first + i];
            raw[i].u.record.job = record->job;
            raw[i].u.record.first_elem = record->first_elem;
            raw[i].u.record.n_elems = record->n_elems;
            raw[i].u.record.hash_low = record->hash.low;
            raw[i].u.record.hash_high = record->hash.high;
            seal(&raw[i], j->seed);
        }
        TRY(file_write_at(j->fd, j->path, raw, n * sizeof *raw, j->end, err));
        j->end += n * sizeof *raw;
    }
out:
    return st;
}

void journal_close(struct journal *j)
{
    file_close(&j->fd);
    free(j->path);
    j->path = NULL;
}
