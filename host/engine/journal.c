/* journal.c: see journal.h. */
#include "engine/journal.h"

#include "base/file.h"

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
            uint64_t fingerprint_low, fingerprint_high;
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

static enum wm_status begin(struct journal *j, struct hash128 fingerprint, struct wm_error *err)
{
    struct raw raw;
    enum wm_status st = WM_OK;

    memset(&raw, 0, sizeof raw);
    memcpy(raw.u.header.magic, magic, sizeof magic);
    raw.u.header.fingerprint_low = fingerprint.low;
    raw.u.header.fingerprint_high = fingerprint.high;
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

/* Records up to the first that is torn or not ours; the file is cut there. */
static enum wm_status take_records(struct journal *j, const char *data, size_t n_bytes, struct journal_record **records,
                                   size_t *n_records, struct wm_error *err)
{
    size_t n = 0, max = n_bytes / record_bytes;
    struct raw raw;

    *records = malloc((max ? max : 1) * sizeof **records);
    if (!*records)
        return error_no_memory(err, "reading the journal");
    for (size_t i = 1; i < max; i++) {
        memcpy(&raw, data + i * record_bytes, sizeof raw);
        if (!is_sealed(&raw, j->seed))
            break;
        (*records)[n++] = (struct journal_record){raw.u.record.job,
                                                  raw.u.record.first_elem,
                                                  raw.u.record.n_elems,
                                                  {raw.u.record.hash_low, raw.u.record.hash_high}};
    }
    *n_records = n;
    j->end = (n + 1) * record_bytes;
    if (ftruncate(j->fd, (off_t)j->end) < 0)
        return error_set(err, WM_IO, "cannot cut the torn end of %s; check the file system", j->path);
    return WM_OK;
}

enum wm_status journal_open(struct journal *j, const char *dir, struct hash128 fingerprint, bool restart,
                            struct journal_record **records, size_t *n_records, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    size_t n_bytes = 0;
    char *data = NULL;
    struct raw raw;
    bool ours;

    *records = NULL;
    *n_records = 0;
    *j = (struct journal){-1, file_path_join(dir, JOURNAL_NAME), 0, fingerprint.low ^ fingerprint.high};
    if (!j->path)
        return error_no_memory(err, "opening the journal");
    TRY(file_open_write(&j->fd, j->path, true, false, err));
    TRY(file_read_all(j->path, MAX_JOURNAL_BYTES, &data, &n_bytes, err));
    ours = false;
    if (n_bytes >= record_bytes) {
        memcpy(&raw, data, sizeof raw);
        ours = memcmp(raw.u.header.magic, magic, sizeof magic) == 0 && is_sealed(&raw, 0);
    }
    if (!ours || restart) {
        /* New, or killed before its header was complete: no range was recorded, nothing is lost. */
        TRY(begin(j, fingerprint, err));
    } else if (raw.u.header.fingerprint_low != fingerprint.low || raw.u.header.fingerprint_high != fingerprint.high) {
        st = error_set(err, WM_CANT_CREATE,
                       "%s holds an unfinished merge of another recipe, of other inputs, or by another version; repeat "
                       "the command that began it to finish it, or add --restart to throw it away",
                       dir);
        goto out;
    } else {
        TRY(take_records(j, data, n_bytes, records, n_records, err));
    }
out:
    free(data);
    if (st != WM_OK) {
        free(*records);
        *records = NULL;
        journal_close(j);
    }
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
