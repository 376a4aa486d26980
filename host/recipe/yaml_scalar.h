/*
 * yaml_scalar.h: what a scalar of a YAML 1.1 document means.
 *
 * What lives here: the resolution of an untagged plain scalar exactly as PyYAML's safe loader does it (mergekit reads
 * its configs with that), and the coercions that pydantic's lax mode then applies to number, integer and boolean fields.
 * Surprises are kept on purpose: `1e-3` is a string that a number field accepts, `012` is ten, `1:30` is ninety, `no` is
 * false, `y` is a string. What it must not know: trees, keys, recipes.
 */
#ifndef WM_RECIPE_YAML_SCALAR_H
#define WM_RECIPE_YAML_SCALAR_H

#include <stdbool.h>
#include <stdint.h>

enum scalar_kind {
    SCALAR_STRING,
    SCALAR_NULL,
    SCALAR_BOOL,
    SCALAR_INTEGER,
    SCALAR_FLOAT,
    SCALAR_TIMESTAMP,
    SCALAR_MERGE, /* a plain `<<`: only a key may be that                    */
    SCALAR_VALUE  /* a plain `=`: YAML 1.1's default value; no loader has it */
};

struct scalar {
    enum scalar_kind kind;
    double number; /* BOOL: 1 or 0; INTEGER and FLOAT: the value (inf and nan are possible) */
};

/* The meaning of a plain scalar. Quoted and block scalars are always SCALAR_STRING. */
struct scalar scalar_resolve(const char *text);

/* "a number", "a date", ...: for messages of the form "... is read as %s". */
const char *scalar_kind_name(enum scalar_kind kind);

/* A float field: numbers, booleans, and strings that Python's float() would take. inf and nan come back as such. */
bool scalar_to_number(struct scalar scalar, const char *text, double *number);
/* A boolean field: booleans, the numbers 0 and 1, and the words of pydantic (y, yes, t, true, on, 1 and so on). */
bool scalar_to_flag(struct scalar scalar, const char *text, bool *flag);
/* An integer field: anything scalar_to_number takes that is whole and below 2^53. */
bool scalar_to_integer(struct scalar scalar, const char *text, int64_t *integer);

#endif
