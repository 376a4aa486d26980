/*
 * json.c: see json.h. One pass, no recursion: the state between two events is the stack of open containers and what
 * may come next. Knows nothing about what the JSON means.
 */
#include "base/json.h"

#include "base/text.h"

#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* cJSON 1.7 takes the first 63 characters of a number and stumbles over the rest; a double's longest spelling has 24. */
#define NUMBER_MAX_BYTES 63

void json_scanner_init(struct json_scanner *s, const char *data, size_t n_bytes, int max_depth, struct arena *arena)
{
    memset(s, 0, sizeof *s);
    s->begin = s->at = s->line_begin = data;
    s->end = data + n_bytes;
    s->arena = arena;
    s->max_depth = max_depth < JSON_MAX_DEPTH ? max_depth : JSON_MAX_DEPTH;
    s->expects_value = true;
    s->line = s->column = 1;
}

static void mark(struct json_scanner *s)
{
    s->line = s->n_newlines + 1;
    s->column = (size_t)(s->at - s->line_begin) + 1;
}

static enum json_event fail(struct json_scanner *s, enum json_flaw flaw, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static enum json_event fail_event(struct json_scanner *s, enum json_flaw flaw, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void set_flaw(struct json_scanner *s, enum json_flaw flaw, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));

static void set_flaw(struct json_scanner *s, enum json_flaw flaw, const char *format, va_list args)
{
    vsnprintf(s->problem, sizeof s->problem, format, args);
    s->flaw = flaw;
}

/* The flaw is where the scanner stands. */
static enum json_event fail(struct json_scanner *s, enum json_flaw flaw, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    set_flaw(s, flaw, format, args);
    va_end(args);
    mark(s);
    return JSON_ERROR;
}

/* The flaw is where the last event began. */
static enum json_event fail_event(struct json_scanner *s, enum json_flaw flaw, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    set_flaw(s, flaw, format, args);
    va_end(args);
    return JSON_ERROR;
}

static void skip_space(struct json_scanner *s)
{
    for (; s->at < s->end; s->at++) {
        if (*s->at == '\n') {
            s->n_newlines++;
            s->line_begin = s->at + 1;
        } else if (*s->at != ' ' && *s->at != '\t' && *s->at != '\r') {
            return;
        }
    }
}

/* Something other than `wanted` stands at s->at. */
static enum json_event unexpected(struct json_scanner *s, const char *wanted)
{
    size_t left = (size_t)(s->end - s->at), n;
    unsigned char c;

    if (!left)
        return fail(s, JSON_FLAW_GRAMMAR, "the text ends where %s should come", wanted);
    c = (unsigned char)*s->at;
    if (c >= 0x80) {
        for (n = 2; n <= 4 && n <= left; n++)
            if (text_valid_utf8(s->at, n))
                return fail(s, JSON_FLAW_GRAMMAR, "%s where %s should come",
                            n == 3 && memcmp(s->at, "\xEF\xBB\xBF", 3) == 0 ? "a byte order mark" : "a character",
                            wanted);
        return fail(s, JSON_FLAW_UTF8, "byte 0x%02x is not UTF-8", c);
    }
    if (c < 0x20 || c == 0x7F)
        return fail(s, JSON_FLAW_GRAMMAR, "byte 0x%02x where %s should come", c, wanted);
    return fail(s, JSON_FLAW_GRAMMAR, "'%c' where %s should come", c, wanted);
}

/* ---- strings ------------------------------------------------------------------------------------------------ */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* The four digits of \uXXXX at p, or -1. */
static int hex_unit(const char *p, const char *end)
{
    int value = 0;

    if (end - p < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(p[i]);
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

static char *put_utf8(char *out, unsigned code)
{
    if (code < 0x80) {
        *out++ = (char)code;
    } else if (code < 0x800) {
        *out++ = (char)(0xC0 | code >> 6);
        *out++ = (char)(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        *out++ = (char)(0xE0 | code >> 12);
        *out++ = (char)(0x80 | (code >> 6 & 0x3F));
        *out++ = (char)(0x80 | (code & 0x3F));
    } else {
        *out++ = (char)(0xF0 | code >> 18);
        *out++ = (char)(0x80 | (code >> 12 & 0x3F));
        *out++ = (char)(0x80 | (code >> 6 & 0x3F));
        *out++ = (char)(0x80 | (code & 0x3F));
    }
    return out;
}

/* Decodes the escape whose backslash is at *p, moves *p past it, and appends to *out. NULL or what is wrong. */
static const char *unescape(const char **p, const char *end, char **out)
{
    static const char letters[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    const char *letter;
    int unit, low;

    if (end - *p < 2)
        return "an unfinished escape";
    if ((*p)[1] != 'u') {
        letter = (*p)[1] ? strchr(letters, (*p)[1]) : NULL;
        if (!letter)
            return "an escape that JSON does not know";
        *(*out)++ = values[letter - letters];
        *p += 2;
        return NULL;
    }
    unit = hex_unit(*p + 2, end);
    if (unit < 0)
        return "\\u without four hexadecimal digits";
    *p += 6;
    if (unit >= 0xDC00 && unit <= 0xDFFF)
        return "the second half of a surrogate pair alone";
    if (unit >= 0xD800 && unit <= 0xDBFF) {
        low = end - *p >= 2 && (*p)[0] == '\\' && (*p)[1] == 'u' ? hex_unit(*p + 2, end) : -1;
        if (low < 0xDC00 || low > 0xDFFF)
            return "the first half of a surrogate pair alone";
        *p += 6;
        *out = put_utf8(*out, 0x10000u + (((unsigned)unit - 0xD800u) << 10) + ((unsigned)low - 0xDC00u));
        return NULL;
    }
    *out = put_utf8(*out, (unsigned)unit);
    return NULL;
}

/* Reads the string whose opening quote is at s->at into s->text. */
static bool scan_string(struct json_scanner *s)
{
    const char *begin = s->at + 1, *p = begin, *problem;
    bool escaped = false, high = false;
    char *data, *out;
    size_t n_raw;

    for (;; p++) {
        unsigned char c;
        if (p == s->end) {
            fail(s, JSON_FLAW_GRAMMAR, "a string without its closing quote");
            return false;
        }
        c = (unsigned char)*p;
        if (c == '"')
            break;
        if (c < 0x20) {
            s->at = p;
            fail(s, JSON_FLAW_GRAMMAR, "control character 0x%02x in a string (it must be escaped)", c);
            return false;
        }
        high |= c >= 0x80;
        if (c == '\\') {
            escaped = true;
            if (++p == s->end)
                p--; /* the check above reports it */
        }
    }
    n_raw = (size_t)(p - begin);
    if (high && !text_valid_utf8(begin, n_raw)) {
        fail(s, JSON_FLAW_UTF8, "a string is not valid UTF-8");
        return false;
    }
    data = escaped ? arena_alloc(s->arena, n_raw + 1) : arena_strndup(s->arena, begin, n_raw);
    if (!data) {
        fail(s, JSON_FLAW_MEMORY, "out of memory");
        return false;
    }
    s->text = (struct json_text){data, n_raw};
    s->at = p + 1;
    if (!escaped)
        return true;
    for (p = begin, out = data; p < begin + n_raw;) {
        if (*p != '\\') {
            *out++ = *p++;
            continue;
        }
        problem = unescape(&p, begin + n_raw, &out);
        if (problem) {
            s->at = p;
            fail(s, JSON_FLAW_GRAMMAR, "%s", problem);
            return false;
        }
    }
    *out = '\0';
    s->text.n_bytes = (size_t)(out - data);
    return true;
}

/* ---- numbers and words -------------------------------------------------------------------------------------- */

/* At least one digit from *p on, which moves behind them; false: there is none, and s->at says where. */
static bool take_digits(struct json_scanner *s, const char **p)
{
    const char *begin = *p;

    while (*p < s->end && **p >= '0' && **p <= '9')
        (*p)++;
    if (*p > begin)
        return true;
    s->at = begin;
    return false;
}

static enum json_event scan_number(struct json_scanner *s)
{
    const char *begin = s->at, *p = begin, *digits;
    bool digits_only = true;
    uint64_t value = 0;
    locale_t c_locale;

    if (*p == '-') {
        digits_only = false;
        p++;
    }
    digits = p;
    if (!take_digits(s, &p))
        return unexpected(s, "a digit");
    if (*digits == '0' && p - digits > 1)
        return fail(s, JSON_FLAW_GRAMMAR, "a number with a leading zero");
    if (p < s->end && *p == '.') {
        digits_only = false;
        p++;
        if (!take_digits(s, &p))
            return unexpected(s, "a digit");
    }
    if (p < s->end && (*p == 'e' || *p == 'E')) {
        digits_only = false;
        p++;
        if (p < s->end && (*p == '+' || *p == '-'))
            p++;
        if (!take_digits(s, &p))
            return unexpected(s, "a digit");
    }
    if (p - begin > NUMBER_MAX_BYTES)
        return fail(s, JSON_FLAW_GRAMMAR, "a number of more than %d characters", NUMBER_MAX_BYTES);
    mark(s);
    s->at = p;
    s->expects_value = false;
    s->too_big = false;
    if (digits_only) {
        for (p = begin; p < s->at && !s->too_big; p++)
            s->too_big = __builtin_mul_overflow(value, 10u, &value) ||
                         __builtin_add_overflow(value, (uint64_t)(*p - '0'), &value);
        if (!s->too_big) {
            s->integer = value;
            return JSON_INTEGER;
        }
    }
    s->text.n_bytes = (size_t)(s->at - begin);
    s->text.data = arena_strndup(s->arena, begin, s->text.n_bytes);
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); /* a host program may have chosen a decimal comma */
    if (!s->text.data || !c_locale)
        return fail_event(s, JSON_FLAW_MEMORY, "out of memory");
    s->number = strtod_l(s->text.data, NULL, c_locale);
    freelocale(c_locale);
    return JSON_NUMBER;
}

static enum json_event scan_word(struct json_scanner *s, const char *word, enum json_event event)
{
    size_t n = strlen(word);

    if ((size_t)(s->end - s->at) < n || memcmp(s->at, word, n) != 0)
        return unexpected(s, "a value");
    mark(s);
    s->at += n;
    s->expects_value = false;
    return event;
}

/* ---- structure ---------------------------------------------------------------------------------------------- */

static enum json_event open_container(struct json_scanner *s, bool is_object)
{
    if (s->depth == s->max_depth)
        return fail(s, JSON_FLAW_DEPTH, "nesting deeper than %d levels", s->max_depth);
    mark(s);
    s->at++;
    s->is_object[s->depth++] = is_object;
    s->expects_key = is_object;
    s->expects_value = !is_object;
    return is_object ? JSON_OBJECT_BEGIN : JSON_ARRAY_BEGIN;
}

static enum json_event close_container(struct json_scanner *s)
{
    mark(s);
    s->at++;
    s->expects_key = s->expects_value = false;
    return s->is_object[--s->depth] ? JSON_OBJECT_END : JSON_ARRAY_END;
}

static enum json_event scan_value(struct json_scanner *s)
{
    switch (s->at < s->end ? *s->at : '\0') {
    case '{': return open_container(s, true);
    case '[': return open_container(s, false);
    case '"':
        mark(s);
        s->expects_value = false;
        return scan_string(s) ? JSON_STRING : JSON_ERROR;
    case 't': return scan_word(s, "true", JSON_TRUE);
    case 'f': return scan_word(s, "false", JSON_FALSE);
    case 'n': return scan_word(s, "null", JSON_NULL);
    case '-':
    case '0':
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
    case '7':
    case '8':
    case '9': return scan_number(s);
    default: return unexpected(s, "a value");
    }
}

static enum json_event scan_key(struct json_scanner *s)
{
    if (s->at == s->end || *s->at != '"')
        return unexpected(s, "a key in double quotes");
    mark(s);
    if (!scan_string(s))
        return JSON_ERROR;
    for (size_t i = 0; i < s->text.n_bytes; i++) {
        unsigned char c = (unsigned char)s->text.data[i];
        if (c < 0x20 && (c == 0 || !s->control_keys))
            return fail_event(s, JSON_FLAW_CONTROL, "a key holds the control character 0x%02x", c);
    }
    skip_space(s);
    if (s->at == s->end || *s->at != ':')
        return unexpected(s, "':'");
    s->at++;
    s->expects_key = false;
    s->expects_value = true;
    return JSON_KEY;
}

enum json_event json_next(struct json_scanner *s)
{
    bool in_object, may_close;
    char closing;

    if (s->flaw != JSON_FLAW_NONE)
        return JSON_ERROR;
    if (s->done)
        return JSON_END;
    if (s->at == s->begin && s->at < s->end)
        s->leading_space = *s->at == ' ' || *s->at == '\t' || *s->at == '\r' || *s->at == '\n';
    skip_space(s);
    if (s->depth == 0) {
        if (s->expects_value)
            return scan_value(s);
        if (s->at < s->end)
            return unexpected(s, "the end of the text");
        mark(s);
        s->done = true;
        return JSON_END;
    }
    in_object = s->is_object[s->depth - 1];
    if (in_object && s->expects_value) /* after a key */
        return scan_value(s);
    closing = in_object ? '}' : ']';
    may_close = s->at < s->end && *s->at == closing;
    if (may_close)
        return close_container(s);
    if (!s->expects_key && !s->expects_value) { /* after an item */
        if (s->at == s->end || *s->at != ',')
            return unexpected(s, in_object ? "',' or '}'" : "',' or ']'");
        s->at++;
        skip_space(s);
    }
    return in_object ? scan_key(s) : scan_value(s);
}

/* ---- whole values ------------------------------------------------------------------------------------------- */

static bool walk(struct json_scanner *s, enum json_event first, bool allow_nul)
{
    struct json_keys keys[JSON_MAX_DEPTH];
    int depth = 0, n_ready = 0;
    char shown[100];
    bool fresh;

    for (enum json_event event = first;; event = json_next(s)) {
        switch (event) {
        case JSON_ERROR:
        case JSON_END: return false;
        case JSON_OBJECT_BEGIN:
        case JSON_ARRAY_BEGIN:
            while (n_ready <= depth)
                json_keys_init(&keys[n_ready++], s->arena);
            json_keys_restart(&keys[depth++]);
            break;
        case JSON_OBJECT_END:
        case JSON_ARRAY_END:
            if (depth-- == 0)
                return false; /* the caller gave the end of its own container */
            break;
        case JSON_KEY:
            if (!json_keys_add(&keys[depth - 1], s->text, &fresh)) {
                fail_event(s, JSON_FLAW_MEMORY, "out of memory");
                return false;
            }
            if (!fresh) {
                fail_event(s, JSON_FLAW_DUPLICATE_KEY, "the key \"%s\" stands twice in one object",
                           text_display(shown, sizeof shown, s->text.data));
                return false;
            }
            break;
        case JSON_STRING:
            if (!allow_nul && memchr(s->text.data, '\0', s->text.n_bytes)) {
                fail_event(s, JSON_FLAW_CONTROL, "a string holds an escaped NUL");
                return false;
            }
            break;
        default: break;
        }
        if (depth == 0)
            return true;
    }
}

bool json_skip_value(struct json_scanner *s, enum json_event first)
{
    return walk(s, first, true);
}

enum wm_status json_gate(const char *path, const char *data, size_t n_bytes, int max_depth, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    struct json_scanner s;
    struct arena arena;

    /* The worst legal text is one object of one-letter keys: 6 bytes of text against 16 for the key and up to 86 for
     * its slots, old tables included. */
    arena_init(&arena, n_bytes > (SIZE_MAX >> 6) ? SIZE_MAX : n_bytes * 32 + ((size_t)1 << 20));
    json_scanner_init(&s, data, n_bytes, max_depth, &arena);
    s.control_keys = true;
    if (!walk(&s, json_next(&s), false) || json_next(&s) != JSON_END) {
        if (s.flaw == JSON_FLAW_MEMORY)
            st = error_no_memory(err, "reading JSON");
        else
            st = error_set(err, WM_BAD_DATA, "%s:%zu:%zu: not usable JSON: %s; restore the file or download it again",
                           path, s.line, s.column, s.problem);
    }
    arena_release(&arena);
    return st;
}
