/*
 * json.h: reading JSON that somebody else wrote.
 *
 * What lives here: a strict pull scanner (RFC 8259 grammar, valid UTF-8, exact 64-bit integers, ceilings on depth and
 * size) and, on top of it, the gate in front of cJSON. safetensors headers and indexes are read with the scanner
 * itself, since cJSON rounds integers over 2^53, cuts names at NUL and takes duplicates (reliability notes 1.6); small
 * trusted-shape files (config.json) pass the gate and then become a cJSON tree. What it must not know: safetensors.
 */
#ifndef WM_BASE_JSON_H
#define WM_BASE_JSON_H

#include "base/arena.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum json_event {
    JSON_ERROR, /* scanner.problem says what, scanner.line/column where */
    JSON_OBJECT_BEGIN,
    JSON_OBJECT_END,
    JSON_ARRAY_BEGIN,
    JSON_ARRAY_END,
    JSON_KEY,     /* text: the decoded key                               */
    JSON_STRING,  /* text: the decoded value                             */
    JSON_INTEGER, /* digits only, no sign, fits 64 bits: integer         */
    JSON_NUMBER,  /* any other legal number: number (double); text: its spelling; `too_big` for digits > 2^64-1 */
    JSON_TRUE,
    JSON_FALSE,
    JSON_NULL,
    JSON_END /* the one value is complete and only white space followed */
};

enum json_flaw { /* why JSON_ERROR; lets callers pick their own error names */
                 JSON_FLAW_NONE,
                 JSON_FLAW_UTF8,
                 JSON_FLAW_GRAMMAR,
                 JSON_FLAW_DEPTH,
                 JSON_FLAW_MEMORY,
                 JSON_FLAW_DUPLICATE_KEY,
                 JSON_FLAW_CONTROL /* an escaped NUL or other C0 control in a key (refused: it hides data from C readers) */
};

struct json_text {
    const char *data; /* decoded UTF-8, NUL-terminated; lives in the scanner's arena */
    size_t n_bytes;
};

struct json_scanner {
    const char *begin, *at, *end;
    struct arena *arena;  /* decoded strings come from here */
    int depth, max_depth; /* at most JSON_MAX_DEPTH          */
    bool is_object[64], expects_key, expects_value, done;
    bool control_keys;  /* set after init: keys may hold C0 controls other than NUL (vocabularies have "\n") */
    bool leading_space; /* there was white space before the value (legal; --strict warns) */
    struct json_text text;
    uint64_t integer;
    double number;
    bool too_big;
    enum json_flaw flaw;
    char problem[160]; /* "duplicate key \"a\"" ... without location */
    const char *line_begin;
    size_t n_newlines;   /* passed so far */
    size_t line, column; /* 1-based, of the last event or error; columns count bytes */
};
#define JSON_MAX_DEPTH 64

void json_scanner_init(struct json_scanner *s, const char *data, size_t n_bytes, int max_depth, struct arena *arena);
/* The next event. After JSON_ERROR and JSON_END it returns the same again. */
enum json_event json_next(struct json_scanner *s);
/* Reads past the value whose first event was just returned (a scalar: nothing to do). false on error; a duplicate key
 * anywhere inside is one (the scanner itself does not look for them). */
bool json_skip_value(struct json_scanner *s, enum json_event first);

/* A set of decoded keys for duplicate checks: false in *fresh if the key was there already. Hashed with a random seed,
 * so that nobody can prepare colliding names. json_next reports no duplicates; its caller does, through this. */
struct json_keys {
    struct arena *arena;
    struct json_text *slots;
    size_t n_keys, capacity;
    uint64_t seed;
};
void json_keys_init(struct json_keys *k, struct arena *arena);
bool json_keys_add(struct json_keys *k, struct json_text key, bool *fresh); /* false: out of memory */
void json_keys_restart(struct json_keys *k);                                /* empties the set for the next object */

/* The gate: grammar, UTF-8, depth, one value, no duplicate key in any object, no NUL in any string. On failure a sentence naming `path`,
 * line and column with WM_BAD_DATA. After it cJSON may parse the same bytes. */
enum wm_status json_gate(const char *path, const char *data, size_t n_bytes, int max_depth, struct wm_error *err);

#endif
