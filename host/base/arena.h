/*
 * arena.h: memory that lives as long as one object.
 *
 * What lives here: a bump allocator with a ceiling. Recipes, headers and plans are trees of small things that die
 * together; they come from here, so nothing in them is freed one by one. What it must not know: who uses it.
 */
#ifndef WM_BASE_ARENA_H
#define WM_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

struct arena {
    struct arena_block *last;
    size_t n_bytes;   /* taken from the system so far */
    size_t max_bytes; /* ceiling on n_bytes           */
};

void arena_init(struct arena *a, size_t max_bytes);
void arena_release(struct arena *a); /* frees everything; the arena may be used again */

/* Zeroed, aligned to 16. NULL when memory or the ceiling is reached. n_bytes 0 gives a valid pointer. */
void *arena_alloc(struct arena *a, size_t n_bytes);
/* As arena_alloc for n items; NULL when n * item_bytes overflows. */
void *arena_array(struct arena *a, size_t n, size_t item_bytes);
char *arena_strdup(struct arena *a, const char *s);
char *arena_strndup(struct arena *a, const char *s, size_t n);
char *arena_printf(struct arena *a, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A growable array inside an arena: makes room for one more item, doubling; old storage stays with the arena.
 * `*items` is updated. false when out of memory. */
bool arena_grow(struct arena *a, void **items, size_t n_items, size_t *capacity, size_t item_bytes);

#endif
