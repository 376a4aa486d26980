/* name_map.c: see name_map.h. */
#include "checkpoint/name_map.h"

#include "base/hash.h"

#include <string.h>
#include <sys/random.h>

static const char *name_of(const struct name_map *map, size_t index)
{
    return *(const char *const *)(const void *)((const char *)map->items + index * map->item_bytes);
}

bool name_map_init(struct name_map *map, struct arena *arena, const void *items, size_t item_bytes, size_t max_items)
{
    size_t n_slots = 16;

    while (n_slots / 2 < max_items && n_slots <= SIZE_MAX / 4)
        n_slots *= 2;
    *map = (struct name_map){items, item_bytes, 0, NULL, n_slots};
    if (getrandom(&map->seed, sizeof map->seed, GRND_NONBLOCK) != (ssize_t)sizeof map->seed)
        map->seed = (uint64_t)(uintptr_t)map; /* early in boot: the address will do */
    map->slots = arena_array(arena, n_slots, sizeof *map->slots);
    return map->slots != NULL;
}

static size_t *find_slot(const struct name_map *map, const char *name)
{
    size_t i = (size_t)hash_xxh3_64(name, strlen(name), map->seed) & (map->n_slots - 1);

    while (map->slots[i] && strcmp(name_of(map, map->slots[i] - 1), name) != 0)
        i = (i + 1) & (map->n_slots - 1);
    return &map->slots[i];
}

size_t name_map_find(const struct name_map *map, const char *name)
{
    size_t slot = *find_slot(map, name);

    return slot ? slot - 1 : NAME_MAP_NONE;
}

size_t name_map_add(struct name_map *map, size_t index)
{
    size_t *slot = find_slot(map, name_of(map, index));

    if (!*slot)
        *slot = index + 1;
    return *slot - 1;
}
