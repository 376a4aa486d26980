/* arena.c: see arena.h. Blocks grow from 4 KiB to 1 MiB; a large request gets a block of its own. */
#include "base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct arena_block {
    struct arena_block *previous;
    size_t used, size; /* of data[] */
    _Alignas(16) unsigned char data[];
};

void arena_init(struct arena *a, size_t max_bytes)
{
    *a = (struct arena){NULL, 0, max_bytes};
}

void arena_release(struct arena *a)
{
    while (a->last) {
        struct arena_block *previous = a->last->previous;
        free(a->last);
        a->last = previous;
    }
    a->n_bytes = 0;
}

void *arena_alloc(struct arena *a, size_t n_bytes)
{
    struct arena_block *b = a->last;
    size_t need;

    if (n_bytes > SIZE_MAX / 2)
        return NULL;
    need = (n_bytes + 15) & ~(size_t)15;
    if (need == 0)
        need = 16;
    if (!b || b->size - b->used < need) {
        size_t size = b ? b->size * 2 : 4096;
        if (size > (size_t)1 << 20)
            size = (size_t)1 << 20;
        if (size < need)
            size = need;
        if (size > a->max_bytes - a->n_bytes) { /* n_bytes never exceeds max_bytes */
            size = need;
            if (size > a->max_bytes - a->n_bytes)
                return NULL;
        }
        b = calloc(1, sizeof *b + size);
        if (!b)
            return NULL;
        b->size = size;
        b->previous = a->last;
        a->last = b;
        a->n_bytes += size;
    }
    b->used += need;
    return b->data + b->used - need;
}

void *arena_array(struct arena *a, size_t n, size_t item_bytes)
{
    size_t n_bytes;

    return __builtin_mul_overflow(n, item_bytes, &n_bytes) ? NULL : arena_alloc(a, n_bytes);
}

char *arena_strndup(struct arena *a, const char *s, size_t n)
{
    char *copy = arena_alloc(a, n + 1);

    if (copy)
        memcpy(copy, s, n);
    return copy;
}

char *arena_strdup(struct arena *a, const char *s)
{
    return arena_strndup(a, s, strlen(s));
}

char *arena_printf(struct arena *a, const char *format, ...)
{
    va_list args, again;
    char *s = NULL;
    int n;

    va_start(args, format);
    va_copy(again, args);
    n = vsnprintf(NULL, 0, format, args);
    if (n >= 0 && (s = arena_alloc(a, (size_t)n + 1)) != NULL)
        vsnprintf(s, (size_t)n + 1, format, again);
    va_end(again);
    va_end(args);
    return s;
}

bool arena_grow(struct arena *a, void **items, size_t n_items, size_t *capacity, size_t item_bytes)
{
    size_t wanted = *capacity ? *capacity * 2 : 8;
    void *bigger;

    if (n_items < *capacity)
        return true;
    bigger = arena_array(a, wanted, item_bytes);
    if (!bigger)
        return false;
    if (n_items)
        memcpy(bigger, *items, n_items * item_bytes);
    *items = bigger;
    *capacity = wanted;
    return true;
}
