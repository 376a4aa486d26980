/* yaml_scalar.c: see yaml_scalar.h. The matchers mirror the regular expressions of PyYAML 6.0 (resolver.py); the test
 * table was written by running PyYAML and pydantic themselves. */
#include "recipe/yaml_scalar.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define DIGITS "0123456789"

/* Spellings longer than this are strings: no number of ours needs more, and buffers stay on the stack. */
#define NUMBER_MAX_BYTES 400

static bool one_of(const char *text, const char *const *words)
{
    for (; *words; words++)
        if (strcmp(text, *words) == 0)
            return true;
    return false;
}

/* Copies text without its underscores. false when it does not fit. */
static bool without_underscores(const char *text, char buffer[NUMBER_MAX_BYTES])
{
    size_t used = 0;

    for (; *text; text++) {
        if (*text == '_')
            continue;
        if (used + 1 >= NUMBER_MAX_BYTES)
            return false;
        buffer[used++] = *text;
    }
    buffer[used] = '\0';
    return true;
}

/* strtod in the C locale, whatever locale the program that links us has chosen. */
static double to_double(const char *text)
{
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    double value;

    if (!c)
        return strtod(text, NULL);
    value = strtod_l(text, NULL, c);
    freelocale(c);
    return value;
}

/* ---- matchers: each returns whether the whole text has the form --------------------------------------------- */

/* [0-9]{n} at *p, advancing it. */
static bool digits(const char **p, int n)
{
    for (; n > 0; n--, (*p)++)
        if (**p < '0' || **p > '9')
            return false;
    return true;
}

/* (?::[0-5]?[0-9])+ at p: the end, or NULL when there is none. */
static const char *sixties(const char *p)
{
    const char *end = NULL;

    while (*p == ':') {
        p++;
        if (*p >= '0' && *p <= '5' && p[1] >= '0' && p[1] <= '9')
            p += 2;
        else if (*p >= '0' && *p <= '9')
            p++;
        else
            return NULL;
        end = p;
    }
    return end;
}

static bool is_float(const char *p, bool *sixty)
{
    const char *after;
    bool sign = *p == '-' || *p == '+', exponent = true;

    *sixty = false;
    p += sign;
    if (*p >= '0' && *p <= '9') {
        p += strspn(p, DIGITS "_");
        after = sixties(p);
        if (after) {
            p = after;
            exponent = false;
            *sixty = true;
        }
        if (*p != '.')
            return false;
        p++;
        p += strspn(p, DIGITS "_");
    } else if (!sign && *p == '.' && p[1] >= '0' && p[1] <= '9') {
        p++;
        p += strspn(p, DIGITS "_");
    } else {
        return false;
    }
    if (exponent && (*p == 'e' || *p == 'E')) {
        p++;
        if (*p != '-' && *p != '+')
            return false; /* YAML 1.1 wants the sign: this is why 1e3 is a string */
        p++;
        if (!strspn(p, DIGITS))
            return false;
        p += strspn(p, DIGITS);
    }
    return *p == '\0';
}

enum integer_form { NOT_INTEGER, DECIMAL, OCTAL, BINARY, HEX, SIXTY };

static enum integer_form integer_form(const char *p)
{
    size_t n;

    p += *p == '-' || *p == '+';
    if (p[0] == '0' && p[1] == 'b') {
        n = strspn(p + 2, "01_");
        return n && !p[2 + n] && strpbrk(p + 2, "01") ? BINARY : NOT_INTEGER;
    }
    if (p[0] == '0' && p[1] == 'x') {
        n = strspn(p + 2, DIGITS "abcdefABCDEF_");
        return n && !p[2 + n] && strspn(p + 2, "_") < n ? HEX : NOT_INTEGER;
    }
    if (p[0] == '0')
        return p[1 + strspn(p + 1, "01234567_")] ? NOT_INTEGER : OCTAL;
    if (*p < '1' || *p > '9')
        return NOT_INTEGER;
    p += strspn(p, DIGITS "_");
    if (!*p)
        return DECIMAL;
    p = sixties(p);
    return p && !*p ? SIXTY : NOT_INTEGER;
}

static bool is_timestamp(const char *p)
{
    const char *begin = p;
    size_t space;

    if (strlen(p) == 10 && digits(&p, 4) && *p++ == '-' && digits(&p, 2) && *p++ == '-' && digits(&p, 2))
        return true;
    p = begin;
    if (!digits(&p, 4) || *p++ != '-' || !digits(&p, 1))
        return false;
    digits(&p, 1);
    if (*p++ != '-' || !digits(&p, 1))
        return false;
    digits(&p, 1);
    space = strspn(p, " \t");
    if (*p == 'T' || *p == 't')
        p++;
    else if (space)
        p += space;
    else
        return false;
    if (!digits(&p, 1))
        return false;
    digits(&p, 1);
    if (*p++ != ':' || !digits(&p, 2) || *p++ != ':' || !digits(&p, 2))
        return false;
    if (*p == '.')
        p += 1 + strspn(p + 1, DIGITS);
    if (!*p)
        return true;
    p += strspn(p, " \t");
    if (*p == 'Z')
        return p[1] == '\0';
    if (*p != '-' && *p != '+')
        return false;
    p++;
    if (!digits(&p, 1))
        return false;
    digits(&p, 1);
    if (*p == ':') {
        p++;
        if (!digits(&p, 2))
            return false;
    }
    return *p == '\0';
}

/* ---- values ------------------------------------------------------------------------------------------------- */

/* Parts between colons, the last one counting one: the sum runs from there, as PyYAML's does. */
static double from_sixties(char *text)
{
    double value = 0.0, base = 1.0;
    char *colon;

    do {
        colon = strrchr(text, ':');
        value += to_double(colon ? colon + 1 : text) * base;
        base *= 60.0;
        if (colon)
            *colon = '\0';
    } while (colon);
    return value;
}

static double from_digits(const char *text, int base)
{
    double value = 0.0; /* exact below 2^53 */

    for (; *text; text++)
        value = value * base + (*text - '0');
    return value;
}

static double integer_value(char *text, enum integer_form form)
{
    bool minus = *text == '-';
    double value = 0.0;

    text += *text == '-' || *text == '+';
    switch (form) {
    case NOT_INTEGER: break;
    case DECIMAL:
    case HEX: value = to_double(text); break;
    case OCTAL: value = from_digits(text, 8); break;
    case BINARY: value = from_digits(text + 2, 2); break;
    case SIXTY: value = from_sixties(text); break;
    }
    return minus && value != 0.0 ? -value : value; /* an integer has no -0 */
}

static double float_value(char *text, bool sixty)
{
    bool minus = *text == '-';
    double value;

    text += *text == '-' || *text == '+';
    value = sixty ? from_sixties(text) : to_double(text);
    return minus ? -value : value;
}

struct scalar scalar_resolve(const char *text)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const yes[] = {"yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON", NULL};
    static const char *const no[] = {"no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF", NULL};
    static const char *const infinities[] = {".inf", ".Inf", ".INF", NULL};
    static const char *const nans[] = {".nan", ".NaN", ".NAN", NULL};
    char spelling[NUMBER_MAX_BYTES];
    enum integer_form form;
    bool sixty;

    if (one_of(text, nulls))
        return (struct scalar){SCALAR_NULL, 0.0};
    if (one_of(text, yes))
        return (struct scalar){SCALAR_BOOL, 1.0};
    if (one_of(text, no))
        return (struct scalar){SCALAR_BOOL, 0.0};
    if (strcmp(text, "<<") == 0)
        return (struct scalar){SCALAR_MERGE, 0.0};
    if (strcmp(text, "=") == 0)
        return (struct scalar){SCALAR_VALUE, 0.0};
    if (one_of(text + (*text == '-' || *text == '+'), infinities))
        return (struct scalar){SCALAR_FLOAT, *text == '-' ? -(double)INFINITY : (double)INFINITY};
    if (one_of(text, nans))
        return (struct scalar){SCALAR_FLOAT, (double)NAN};
    if (!strchr("+-." DIGITS, *text) || !without_underscores(text, spelling))
        return (struct scalar){SCALAR_STRING, 0.0};
    if (is_float(text, &sixty))
        return (struct scalar){SCALAR_FLOAT, float_value(spelling, sixty)};
    form = integer_form(text);
    if (form != NOT_INTEGER)
        return (struct scalar){SCALAR_INTEGER, integer_value(spelling, form)};
    if (is_timestamp(text))
        return (struct scalar){SCALAR_TIMESTAMP, 0.0};
    return (struct scalar){SCALAR_STRING, 0.0};
}

const char *scalar_kind_name(enum scalar_kind kind)
{
    switch (kind) {
    case SCALAR_STRING: return "a string";
    case SCALAR_NULL: return "null";
    case SCALAR_BOOL: return "a boolean";
    case SCALAR_INTEGER:
    case SCALAR_FLOAT: return "a number";
    case SCALAR_TIMESTAMP: return "a date";
    case SCALAR_MERGE: return "a merge key";
    case SCALAR_VALUE: return "a default value";
    }
    return "a value";
}

/* ---- coercions ---------------------------------------------------------------------------------------------- */

/* Python's float() on a string as pydantic calls it: white space around it, single underscores between other characters,
 * decimal digits, inf, infinity and nan in any case. Hexadecimal, which strtod would take, is refused. */
static bool number_from_string(const char *text, double *number)
{
    static const char space[] = " \t\n\r\f\v";
    char trimmed[NUMBER_MAX_BYTES], spelling[NUMBER_MAX_BYTES];
    const char *p;
    size_t n_whole = strlen(text), n, n_digits;

    text += strspn(text, space);
    n = strlen(text);
    while (n && strchr(space, text[n - 1]))
        n--;
    if (!n || n >= sizeof trimmed || text[0] == '_' || text[n - 1] == '_')
        return false;
    if (n < n_whole && memchr(text, '_', n)) /* pydantic takes white space or underscores, not both */
        return false;
    memcpy(trimmed, text, n);
    trimmed[n] = '\0';
    if (strstr(trimmed, "__") || !without_underscores(trimmed, spelling))
        return false;
    p = spelling + (*spelling == '-' || *spelling == '+');
    if (strcasecmp(p, "inf") == 0 || strcasecmp(p, "infinity") == 0) {
        *number = *spelling == '-' ? -(double)INFINITY : (double)INFINITY;
        return true;
    }
    if (strcasecmp(p, "nan") == 0) {
        *number = (double)NAN;
        return true;
    }
    n_digits = strspn(p, DIGITS);
    p += n_digits;
    if (*p == '.') {
        n = strspn(++p, DIGITS);
        n_digits += n;
        p += n;
    }
    if (!n_digits)
        return false;
    if (*p == 'e' || *p == 'E') {
        p++;
        p += *p == '-' || *p == '+';
        if (!strspn(p, DIGITS))
            return false;
        p += strspn(p, DIGITS);
    }
    if (*p)
        return false;
    *number = to_double(spelling);
    return true;
}

bool scalar_to_number(struct scalar scalar, const char *text, double *number)
{
    switch (scalar.kind) {
    case SCALAR_BOOL:
    case SCALAR_INTEGER:
    case SCALAR_FLOAT: *number = scalar.number; return true;
    case SCALAR_STRING: return number_from_string(text, number);
    case SCALAR_NULL:
    case SCALAR_TIMESTAMP:
    case SCALAR_MERGE:
    case SCALAR_VALUE: break;
    }
    return false;
}

bool scalar_to_flag(struct scalar scalar, const char *text, bool *flag)
{
    static const char *const yes[] = {"1", "y", "t", "on", "yes", "true"};
    static const char *const no[] = {"0", "n", "f", "off", "no", "false"};

    if (scalar.kind == SCALAR_BOOL || scalar.kind == SCALAR_INTEGER || scalar.kind == SCALAR_FLOAT) {
        *flag = scalar.number == 1.0;
        return *flag || scalar.number == 0.0;
    }
    if (scalar.kind != SCALAR_STRING)
        return false;
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
        *flag = strcasecmp(text, yes[i]) == 0;
        if (*flag || strcasecmp(text, no[i]) == 0)
            return true;
    }
    return false;
}

bool scalar_to_integer(struct scalar scalar, const char *text, int64_t *integer)
{
    double number;

    if (!scalar_to_number(scalar, text, &number) || !(fabs(number) < 9007199254740992.0) || number != trunc(number))
        return false;
    *integer = (int64_t)number;
    return true;
}
