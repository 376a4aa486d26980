/*
 * name_map.h: finding an item of an array by its name.
 *
 * What lives here: an open-addressing hash table over items that the caller keeps and whose first member is a
 * `const char *name`. Names come from strangers, so the hash is seeded. What it must not know: what the items are.
 */
#ifndef WM_CHECKPOINT_NAME_MAP_H
#define WM_CHECKPOINT_NAME_MAP_H

#include "base/arena.h"

#include <stddef.h>
#include <stdint.h>

#define NAME_MAP_NONE SIZE_MAX

struct name_map {
    const void *items;
    size_t item_bytes;
    uint64_t seed;
    size_t *slots; /* index + 1; 0: free */
    size_t n_slots;
};

/* Room for max_items names. false: out of memory. */
bool name_map_init(struct name_map *map, struct arena *arena, const void *items, size_t item_bytes, size_t max_items);
size_t name_map_find(const struct name_map *map, const char *name); /* index or NAME_MAP_NONE */
/* Adds items[index], unless its name is there: then the index that has it is returned, else `index`. */
size_t name_map_add(struct name_map *map, size_t index);

#endif
