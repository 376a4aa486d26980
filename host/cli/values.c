/* values.c: numbers, sizes and names as people type and read them. See cli.h; knows no options. */
#include "cli/cli.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

bool value_u64(const char *s, uint64_t *value)
{
    uint64_t v = 0;

    if (!*s)
        return false;
    for (; *s; s++) {
        if (!isdigit((unsigned char)*s) || __builtin_mul_overflow(v, 10u, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
            return false;
    }
    *value = v;
    return true;
}

/* k, m, g, t: 1 to 4; 0 for none. */
static int power_of(char c)
{
    const char *units = "kmgt", *at = c ? strchr(units, tolower((unsigned char)c)) : NULL;

    return at ? (int)(at - units) + 1 : 0;
}

bool value_bytes(const char *s, bool mergekit, uint64_t *n_bytes)
{
    double number, step;
    const char *end = s + strspn(s, "0123456789."), *unit = end;
    char digits[32];
    int power;

    if (end == s || (size_t)(end - s) >= sizeof digits)
        return false;
    memcpy(digits, s, (size_t)(end - s));
    digits[end - s] = '\0';
    number = strtod(digits, (char **)&end);
    if (*end)
        return false;
    power = power_of(*unit);
    unit += power > 0;
    if (mergekit && power == 0 && strcasecmp(unit, "b") == 0) {
        power = 3; /* billions of parameters by mergekit's help, of bytes by its code */
        step = 1000.0;
    } else if (*unit == '\0') {
        step = mergekit ? 1000.0 : 1024.0;
    } else if (strcasecmp(unit, "b") == 0) {
        step = 1000.0;
    } else if (power && strcasecmp(unit, "ib") == 0) {
        step = 1024.0;
    } else {
        return false;
    }
    while (power--)
        number *= step;
    if (!(number >= 0.0 && number < 9.2e18))
        return false;
    *n_bytes = (uint64_t)(number + 0.5);
    return true;
}

const char *value_bytes_text(char *buffer, size_t size, double n_bytes)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    int unit = 0;

    while (n_bytes >= 999.5 && unit < 5) {
        n_bytes /= 1000.0;
        unit++;
    }
    snprintf(buffer, size,
             unit == 0         ? "%.0f %s"
             : n_bytes < 9.995 ? "%.2f %s"
             : n_bytes < 99.95 ? "%.1f %s"
                               : "%.0f %s",
             n_bytes, units[unit]);
    return buffer;
}

const char *value_seconds_text(char *buffer, size_t size, double n_seconds)
{
    if (n_seconds < 9.95)
        snprintf(buffer, size, "%.1f s", n_seconds);
    else if (n_seconds < 99.5)
        snprintf(buffer, size, "%.0f s", n_seconds);
    else if (n_seconds < 3600)
        snprintf(buffer, size, "%d min %02d s", (int)(n_seconds / 60), (int)n_seconds % 60);
    else
        snprintf(buffer, size, "%d h %02d min", (int)(n_seconds / 3600), (int)(n_seconds / 60) % 60);
    return buffer;
}

/* Levenshtein distance with swaps of neighbours, case-blind. */
static unsigned distance(const char *a, const char *b)
{
    enum { max = 48 };
    unsigned rows[3][max + 1];
    size_t na = strlen(a), nb = strlen(b);

    if (na > max || nb > max)
        return 1000;
    for (size_t j = 0; j <= nb; j++)
        rows[0][j] = (unsigned)j;
    for (size_t i = 1; i <= na; i++) {
        unsigned *row = rows[i % 3];
        const unsigned *up = rows[(i + 2) % 3], *up2 = rows[(i + 1) % 3];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= nb; j++) {
            int ca = tolower((unsigned char)a[i - 1]), cb = tolower((unsigned char)b[j - 1]);
            unsigned best = up[j - 1] + (ca != cb);
            best = up[j] + 1 < best ? up[j] + 1 : best;
            best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            if (i > 1 && j > 1 && ca == tolower((unsigned char)b[j - 2]) && cb == tolower((unsigned char)a[i - 2]))
                best = up2[j - 2] + 1 < best ? up2[j - 2] + 1 : best;
            row[j] = best;
        }
    }
    return rows[na % 3][nb];
}

int value_nearest(const char *name, const char *const *candidates, size_t n_candidates)
{
    unsigned best = 1000, limit = (unsigned)(strlen(name) / 3 + 1);
    int nearest = -1;

    for (size_t i = 0; i < n_candidates; i++) {
        unsigned d = distance(name, candidates[i]);
        if (d < best) {
            best = d;
            nearest = (int)i;
        }
    }
    return best <= (limit < 4 ? limit : 4) ? nearest : -1;
}

size_t value_utf8_length(const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t n = 0;

    if (s[0] < 0x80)
        n = 1;
    else if (s[0] >= 0xC2 && s[0] <= 0xF4)
        n = s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) || (s[0] == 0xF0 && s[1] < 0x90) ||
        (s[0] == 0xF4 && s[1] > 0x8F))
        return 0;
    return n;
}

void value_put_json(FILE *f, const char *s)
{
    putc('"', f);
    while (*s) {
        unsigned char c = (unsigned char)*s;
        size_t n = value_utf8_length(s);
        if (c == '"' || c == '\\')
            fprintf(f, "\\%c", c);
        else if (c < 0x20 || c == 0x7F)
            fprintf(f, "\\u%04x", c);
        else if (n)
            fprintf(f, "%.*s", (int)n, s);
        else
            fputs("\\ufffd", f);
        s += n ? n : 1;
    }
    putc('"', f);
}
