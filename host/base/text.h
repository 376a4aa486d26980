/*
 * text.h: strings that people read.
 *
 * What lives here: a growable string with a ceiling, numbers and sizes to and from text, safe display of hostile
 * names, the nearest of several names, and natural order (layer 2 before layer 10). Knows nothing of files or formats.
 */
#ifndef WM_BASE_TEXT_H
#define WM_BASE_TEXT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEXT_MAX_BYTES ((size_t)1 << 30)

/* Always NUL-terminated once something was added. After an allocation failure or at the ceiling `failed` is set and
 * nothing more is added, so callers check once at the end. */
struct text {
    char *data; /* never NULL after text_init's first add; use text_string to read */
    size_t n_bytes, capacity, max_bytes;
    bool failed;
};

void text_init(struct text *t, size_t max_bytes); /* no allocation */
void text_release(struct text *t);
void text_add(struct text *t, const char *s);
void text_add_bytes(struct text *t, const char *s, size_t n);
void text_addf(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_addfv(struct text *t, const char *format, va_list args) __attribute__((format(printf, 2, 0)));
/* s as a JSON string, quotes included: control characters and invalid UTF-8 (as U+FFFD) escaped. */
void text_add_json(struct text *t, const char *s);
const char *text_string(const struct text *t); /* "" when empty */
char *text_take(struct text *t);               /* the buffer is the caller's (free); NULL if failed */

/* 1234567 -> "1.18 MiB"; buffer of at least 24 bytes, returned. Binary and decimal units. */
const char *text_bytes(char *buffer, size_t size, uint64_t n_bytes);
const char *text_decimal_bytes(char *buffer, size_t size, uint64_t n_bytes); /* "2.20 GB" */
const char *text_seconds(char *buffer, size_t size, double seconds);         /* "1 h 02 min", "3.4 s" */

/* "5B", "5e9"?, "512MiB", "2G", "64K": k/m/g/t are powers of 1024 with "iB" or alone, of 1000 with "B" ("5GB"), except
 * that `mergekit` true reads mergekit's own dialect for --out-shard-size (plain powers of 1000, "B" = 1e9).
 * false on anything else or overflow. */
bool text_parse_bytes(const char *s, bool mergekit, uint64_t *n_bytes);
bool text_parse_u64(const char *s, uint64_t *value); /* decimal digits only */

/* For messages: non-printing bytes as \xNN, cut to about max bytes with an ellipsis. Returns buffer. */
const char *text_display(char *buffer, size_t size, const char *s);

/* Index of the candidate nearest to name (Damerau-Levenshtein, case-blind), or -1 if none is near enough to suggest. */
int text_nearest(const char *name, const char *const *candidates, size_t n_candidates);

/* strcmp that compares runs of digits by value: "layers.2." < "layers.10.". A total order on distinct strings. */
int text_natural_compare(const char *a, const char *b);

bool text_valid_utf8(const char *s, size_t n);

#endif
