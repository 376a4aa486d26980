/*
 * shard_index.h: model.safetensors.index.json as a table from tensor to shard.
 *
 * What lives here: the index's form and its rule for file names: a shard is a plain file name beside the index, never
 * a path, since an index comes from strangers and a merge would copy what it points at into a published model
 * (reliability notes 2.1). What it must not know: whether the shards exist and what is in them.
 */
#ifndef WM_CHECKPOINT_SHARD_INDEX_H
#define WM_CHECKPOINT_SHARD_INDEX_H

#include "base/arena.h"
#include "base/error.h"
#include "checkpoint/name_map.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct shard_entry {
    const char *tensor; /* first member: see name_map.h */
    size_t shard;
    bool found; /* for whoever opens the shards */
};

struct shard_file {
    const char *name; /* first member; a plain file name that ends in .safetensors */
};

struct shard_index {
    struct shard_entry *entries; /* in the file's order */
    size_t n_entries;
    struct name_map tensors; /* of entries */
    struct shard_file *shards;
    size_t n_shards;
    bool has_total_size;
    double total_size; /* metadata.total_size, advisory; some writers put a fraction there */
};

/* Everything in the result lives in `arena`. path is for messages. WM_BAD_DATA. */
enum wm_status shard_index_parse(struct shard_index *index, const char *path, const char *json, size_t n_bytes,
                                 struct arena *arena, struct wm_error *err);

#endif
