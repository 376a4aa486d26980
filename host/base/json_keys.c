/*
 * json_keys.c: sets of keys; see json.h.
 *
 * What lives here: the hash table behind the search for duplicate keys. What it must not know: how JSON is read.
 */
#include "base/json.h"

#include "base/hash.h"

#include <string.h>
#include <sys/random.h>
#include <time.h>

#define KEYS_LINEAR 8 /* up to so many keys a plain scan is quicker than hashing */

void json_keys_init(struct json_keys *k, struct arena *arena)
{
    memset(k, 0, sizeof *k);
    k->arena = arena;
}

static uint64_t random_seed(const void *salt)
{
    struct timespec now;
    uint64_t seed;

    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) == (ssize_t)sizeof seed)
        return seed;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return hash_xxh3_64(&now, sizeof now, (uint64_t)(uintptr_t)salt);
}

static bool same_text(struct json_text a, struct json_text b)
{
    return a.n_bytes == b.n_bytes && memcmp(a.data, b.data, a.n_bytes) == 0;
}

/* The slot that holds the key, or the free one where it belongs (data NULL). The table is never full. */
static struct json_text *find_slot(const struct json_keys *k, struct json_text key)
{
    size_t i = 0;

    if (k->capacity > KEYS_LINEAR)
        i = (size_t)hash_xxh3_64(key.data, key.n_bytes, k->seed) & (k->capacity - 1);
    while (k->slots[i].data && !same_text(k->slots[i], key))
        i = (i + 1) & (k->capacity - 1);
    return &k->slots[i];
}

static bool grow_keys(struct json_keys *k)
{
    struct json_keys bigger = *k;

    bigger.capacity = k->capacity ? k->capacity * 4 : KEYS_LINEAR;
    bigger.slots = arena_array(k->arena, bigger.capacity, sizeof *bigger.slots);
    if (!bigger.slots)
        return false;
    if (k->capacity == KEYS_LINEAR)
        bigger.seed = random_seed(k);
    for (size_t i = 0; i < k->capacity; i++)
        if (k->slots[i].data)
            *find_slot(&bigger, k->slots[i]) = k->slots[i];
    *k = bigger;
    return true;
}

bool json_keys_add(struct json_keys *k, struct json_text key, bool *fresh)
{
    struct json_text *slot;

    /* Room for one more and a free slot after it, at a load of at most 3/4. */
    if (k->n_keys + 1 > k->capacity / 4 * 3 && !grow_keys(k))
        return false;
    slot = find_slot(k, key);
    *fresh = slot->data == NULL;
    if (*fresh) {
        *slot = key;
        k->n_keys++;
    }
    return true;
}

/* A small table is used again, so that a million small objects need one; a large one is left to the arena, so that
 * emptying stays cheap. */
void json_keys_restart(struct json_keys *k)
{
    if (k->capacity > KEYS_LINEAR) {
        k->capacity = 0;
        k->slots = NULL;
    } else if (k->n_keys) {
        memset(k->slots, 0, k->capacity * sizeof *k->slots);
    }
    k->n_keys = 0;
}
