/* text.c: see text.h. */
#include "base/text.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void text_init(struct text *t, size_t max_bytes)
{
    *t = (struct text){NULL, 0, 0, max_bytes, false};
}

void text_release(struct text *t)
{
    free(t->data);
    text_init(t, t->max_bytes);
}

void text_add_bytes(struct text *t, const char *s, size_t n)
{
    if (t->failed)
        return;
    if (n >= t->max_bytes - t->n_bytes) {
        t->failed = true;
        return;
    }
    if (t->n_bytes + n + 1 > t->capacity) {
        size_t capacity = t->capacity ? t->capacity : 256;
        char *data;
        while (capacity < t->n_bytes + n + 1)
            capacity *= 2;
        data = realloc(t->data, capacity);
        if (!data) {
            t->failed = true;
            return;
        }
        t->data = data;
        t->capacity = capacity;
    }
    memcpy(t->data + t->n_bytes, s, n);
    t->n_bytes += n;
    t->data[t->n_bytes] = '\0';
}

void text_add(struct text *t, const char *s)
{
    text_add_bytes(t, s, strlen(s));
}

void text_addfv(struct text *t, const char *format, va_list args)
{
    char small[256];
    va_list again;
    int n;

    va_copy(again, args);
    n = vsnprintf(small, sizeof small, format, args);
    if (n < 0) {
        t->failed = true;
    } else if ((size_t)n < sizeof small) {
        text_add_bytes(t, small, (size_t)n);
    } else {
        char *big = malloc((size_t)n + 1);
        if (big) {
            vsnprintf(big, (size_t)n + 1, format, again);
            text_add_bytes(t, big, (size_t)n);
            free(big);
        } else {
            t->failed = true;
        }
    }
    va_end(again);
}

void text_addf(struct text *t, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    text_addfv(t, format, args);
    va_end(args);
}

/* Bytes of the valid UTF-8 sequence at s, or 0 (RFC 3629: no overlong forms, no surrogates, up to U+10FFFF). */
static size_t utf8_sequence(const unsigned char *s, size_t n)
{
    size_t len, i;

    if (s[0] < 0x80)
        return 1;
    if (s[0] >= 0xC2 && s[0] <= 0xDF)
        len = 2;
    else if (s[0] >= 0xE0 && s[0] <= 0xEF)
        len = 3;
    else if (s[0] >= 0xF0 && s[0] <= 0xF4)
        len = 4;
    else
        return 0;
    if (n < len)
        return 0;
    for (i = 1; i < len; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) || (s[0] == 0xF0 && s[1] < 0x90) ||
        (s[0] == 0xF4 && s[1] > 0x8F))
        return 0;
    return len;
}

bool text_valid_utf8(const char *s, size_t n)
{
    const unsigned char *p = (const unsigned char *)s;

    while (n) {
        size_t len = utf8_sequence(p, n);
        if (!len)
            return false;
        p += len;
        n -= len;
    }
    return true;
}

void text_add_json(struct text *t, const char *s)
{
    const unsigned char *p = (const unsigned char *)s;
    size_t n = strlen(s);

    text_add(t, "\"");
    while (n) {
        size_t len = utf8_sequence(p, n);
        if (*p == '"' || *p == '\\')
            text_addf(t, "\\%c", *p);
        else if (*p == '\n')
            text_add(t, "\\n");
        else if (*p < 0x20 || *p == 0x7F)
            text_addf(t, "\\u%04x", *p);
        else if (len)
            text_add_bytes(t, (const char *)p, len);
        else
            text_add(t, "\\ufffd");
        len = len ? len : 1;
        p += len;
        n -= len;
    }
    text_add(t, "\"");
}

const char *text_string(const struct text *t)
{
    return t->data ? t->data : "";
}

char *text_take(struct text *t)
{
    char *data;

    if (!t->data)
        text_add_bytes(t, "", 0);
    data = t->failed ? NULL : t->data;
    if (t->failed)
        free(t->data);
    t->data = NULL;
    text_init(t, t->max_bytes);
    return data;
}

static const char *with_unit(char *buffer, size_t size, uint64_t n, double step, const char *const *units)
{
    double value = (double)n;
    int unit = 0;

    while (value >= step && unit < 5) {
        value /= step;
        unit++;
    }
    if (unit == 0)
        snprintf(buffer, size, "%llu %s", (unsigned long long)n, units[0]);
    else
        snprintf(buffer, size, value < 10 ? "%.2f %s" : value < 100 ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return buffer;
}

const char *text_bytes(char *buffer, size_t size, uint64_t n_bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};

    return with_unit(buffer, size, n_bytes, 1024.0, units);
}

const char *text_decimal_bytes(char *buffer, size_t size, uint64_t n_bytes)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};

    return with_unit(buffer, size, n_bytes, 1000.0, units);
}

const char *text_seconds(char *buffer, size_t size, double seconds)
{
    if (seconds < 0.0995)
        snprintf(buffer, size, "%.0f ms", seconds * 1e3);
    else if (seconds < 9.95)
        snprintf(buffer, size, "%.1f s", seconds);
    else if (seconds < 99.5)
        snprintf(buffer, size, "%.0f s", seconds);
    else if (seconds < 3600)
        snprintf(buffer, size, "%d min %02d s", (int)(seconds / 60), (int)seconds % 60);
    else
        snprintf(buffer, size, "%d h %02d min", (int)(seconds / 3600), (int)(seconds / 60) % 60);
    return buffer;
}

bool text_parse_u64(const char *s, uint64_t *value)
{
    uint64_t v = 0;

    if (!*s)
        return false;
    for (; *s; s++) {
        if (*s < '0' || *s > '9' || __builtin_mul_overflow(v, 10u, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
            return false;
    }
    *value = v;
    return true;
}

bool text_parse_bytes(const char *s, bool mergekit, uint64_t *n_bytes)
{
    double number, step = 1.0;
    char *end;
    int power = 0;

    if (!isdigit((unsigned char)*s) && *s != '.')
        return false;
    number = strtod(s, &end);
    switch (tolower((unsigned char)*end)) {
    case 'k': power = 1; break;
    case 'm': power = 2; break;
    case 'g': power = 3; break;
    case 't': power = 4; break;
    case 'b': power = mergekit ? 3 : 0; break;
    case '\0': break;
    default: return false;
    }
    if (mergekit) {
        /* mergekit: "5B" is 5e9, "500M" is 5e8, and its own --out-shard-size compares the result with bytes. */
        if (*end && end[1] && strcasecmp(end + 1, "b") != 0 && strcasecmp(end + 1, "ib") != 0)
            return false;
        step = *end && end[1] && tolower((unsigned char)end[1]) == 'i' ? 1024.0 : 1000.0;
    } else if (power) {
        if (end[1] == '\0' || strcasecmp(end + 1, "ib") == 0)
            step = 1024.0;
        else if (strcasecmp(end + 1, "b") == 0)
            step = 1000.0;
        else
            return false;
    } else if (*end && end[1]) {
        return false;
    }
    while (power--)
        number *= step;
    if (!(number >= 0.0 && number < 9.2e18))
        return false;
    *n_bytes = (uint64_t)(number + 0.5);
    return true;
}

const char *text_display(char *buffer, size_t size, const char *s)
{
    const unsigned char *p = (const unsigned char *)s;
    size_t n = strlen(s), used = 0;

    while (n) {
        size_t len = utf8_sequence(p, n);
        bool plain = len && *p >= 0x20 && *p != 0x7F && !(len == 2 && p[0] == 0xC2 && p[1] < 0xA0);
        size_t room = plain ? len : 4;
        if (used + room + 4 > size) {
            snprintf(buffer + used, size - used, "...");
            return buffer;
        }
        if (plain) {
            memcpy(buffer + used, p, len);
        } else {
            char hex[5];
            snprintf(hex, sizeof hex, "\\x%02x", *p);
            memcpy(buffer + used, hex, 4);
            len = 1;
        }
        used += room;
        p += len;
        n -= len;
    }
    buffer[used] = '\0';
    return buffer;
}

/* Optimal string alignment distance, case-blind; names longer than 63 bytes are not suggested. */
static unsigned name_distance(const char *a, const char *b)
{
    unsigned rows[3][64];
    size_t na = strlen(a), nb = strlen(b), i, j;

    if (na > 63 || nb > 63)
        return 1000;
    for (j = 0; j <= nb; j++)
        rows[0][j] = (unsigned)j;
    for (i = 1; i <= na; i++) {
        unsigned *row = rows[i % 3], *up = rows[(i + 2) % 3], *up2 = rows[(i + 1) % 3];
        row[0] = (unsigned)i;
        for (j = 1; j <= nb; j++) {
            int ca = tolower((unsigned char)a[i - 1]), cb = tolower((unsigned char)b[j - 1]);
            unsigned best = up[j - 1] + (ca != cb);
            if (up[j] + 1 < best)
                best = up[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            if (i > 1 && j > 1 && ca == tolower((unsigned char)b[j - 2]) && cb == tolower((unsigned char)a[i - 2]) &&
                up2[j - 2] + 1 < best)
                best = up2[j - 2] + 1;
            row[j] = best;
        }
    }
    return rows[na % 3][nb];
}

int text_nearest(const char *name, const char *const *candidates, size_t n_candidates)
{
    unsigned best = 1000;
    int nearest = -1;
    size_t i, limit = strlen(name) / 3 + 1;

    for (i = 0; i < n_candidates; i++) {
        unsigned d = name_distance(name, candidates[i]);
        if (d < best) {
            best = d;
            nearest = (int)i;
        }
    }
    return best <= (limit < 4 ? limit : 4) ? nearest : -1;
}

int text_natural_compare(const char *a, const char *b)
{
    const char *a0 = a, *b0 = b;

    while (*a && *b) {
        if (isdigit((unsigned char)*a) && isdigit((unsigned char)*b)) {
            size_t na = 0, nb = 0;
            int order;
            while (*a == '0')
                a++;
            while (*b == '0')
                b++;
            while (isdigit((unsigned char)a[na]))
                na++;
            while (isdigit((unsigned char)b[nb]))
                nb++;
            if (na != nb)
                return na < nb ? -1 : 1;
            order = memcmp(a, b, na);
            if (order)
                return order;
            a += na;
            b += nb;
        } else {
            if (*a != *b)
                return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
            a++;
            b++;
        }
    }
    if (*a || *b)
        return *a ? 1 : -1;
    return strcmp(a0, b0); /* "01" and "1" are equal by value but distinct names */
}
