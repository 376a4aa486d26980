/*
 * journal.h: what of the output is finished.
 *
 * What lives here: an append-only file in the partial directory with one record per finished range of a tensor. A
 * record carries the checksum of the range's bytes, and on resumption the bytes are read again and compared, so a
 * record may reach the disk before its data does: after a power loss such a range is simply computed again. The file:
 *
 *     64 bytes  header   "WMJOURN1", fingerprint of the plan (16), its traits (32), XXH3-64 of the first 56 bytes
 *     64 bytes  record   job, first element, number of elements, XXH3-128 over the range's piece digests, zero,
 *                        XXH3-64 of the first 56 bytes (seeded with the fingerprint)
 *
 * A torn or foreign tail is cut off. What it must not know: plans, tensors, threads (the caller serialises appends).
 */
#ifndef WM_ENGINE_JOURNAL_H
#define WM_ENGINE_JOURNAL_H

#include "base/hash.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JOURNAL_NAME "journal.warpmerge"

struct journal_record {
    uint64_t job, first_elem, n_elems; /* no elements: a mark, see fence.h */
    struct hash128 hash;               /* hash_tree over the digests of the range's pieces */
};

/* Whose journal it is. The fingerprint decides; of another's the traits say in what it differs, `remedy` what to do. */
enum { JOURNAL_N_TRAITS = 4 };
struct journal_owner {
    struct hash128 fingerprint;
    uint64_t traits[JOURNAL_N_TRAITS];
    const char *trait_names[JOURNAL_N_TRAITS]; /* "config" */
    const char *remedy;
};

struct journal {
    int fd;
    char *path;
    uint64_t end;  /* offset of the next record */
    uint64_t seed; /* of record checksums       */
};

/* Every process that writes has a journal of its own: JOURNAL_NAME, or for number `index` of several (0..) this. */
enum { JOURNAL_NAME_BYTES = 40 };
void journal_name(char name[JOURNAL_NAME_BYTES], int index);

/* Opens or creates the journal `name` in `dir`. Finished ranges of the same plan come back in *records (malloc'ed). A
 * journal of another plan: WM_CANT_CREATE, unless restart, which empties it. */
enum wm_status journal_open(struct journal *journal, const char *dir, const char *name,
                            const struct journal_owner *owner, bool restart, struct journal_record **records,
                            size_t *n_records, struct wm_error *err);
/* Adds what the other journals in `dir` say, whoever wrote them, to *records. */
enum wm_status journal_read_others(const char *dir, const char *name, const struct journal_owner *owner,
                                   struct journal_record **records, size_t *n_records, struct wm_error *err);
enum wm_status journal_append(struct journal *journal, const struct journal_record *records, size_t n_records,
                              struct wm_error *err);
void journal_close(struct journal *journal);

#endif
