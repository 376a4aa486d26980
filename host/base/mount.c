/* mount.c: see mount.h. */
#include "base/mount.h"

#include <stdlib.h>
#include <string.h>

/* nfs(5): "nolock", and "local_lock=flock" or "all" with flock among what stays local; mount.lustre(8): "localflock". */
static const char *const local_options[] = {"nolock", "local_lock=all", "local_lock=flock", "localflock"};

/* Blanks, tabs, newlines and backslashes in names are octal there. */
static void unescape(char *s)
{
    char *to = s;

    for (; *s; s++)
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' && s[3] >= '0' && s[3] <= '7') {
            *to++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
            s += 3;
        } else {
            *to++ = *s;
        }
    *to = '\0';
}

static bool lies_on(const char *path, const char *point)
{
    size_t n = strlen(point);

    return strcmp(point, "/") == 0 || (strncmp(path, point, n) == 0 && (path[n] == '/' || path[n] == '\0'));
}

static void take_options(struct mount *mount, char *options)
{
    char *rest = NULL;

    for (char *o = strtok_r(options, ",\n", &rest); o; o = strtok_r(NULL, ",\n", &rest))
        for (size_t i = 0; i < sizeof local_options / sizeof *local_options; i++)
            if (strcmp(o, local_options[i]) == 0)
                snprintf(mount->local_locks, sizeof mount->local_locks, "%s", o);
}

/* "36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/root rw,errors=continue"; any number of fields before "-". */
static bool parse_line(char *line, struct mount *mount, const char **point)
{
    char *fields[5], *rest = NULL, *type, *options, *end = strstr(line, " - ");

    if (!end)
        return false;
    *end = '\0';
    for (int i = 0; i < 5; i++)
        if (!(fields[i] = strtok_r(i ? NULL : line, " ", &rest)))
            return false;
    unescape(fields[4]);
    *point = fields[4];
    type = strtok_r(end + 3, " ", &rest);
    (void)strtok_r(NULL, " ", &rest); /* the source */
    options = strtok_r(NULL, " ", &rest);
    if (!type || !options)
        return false;
    memset(mount, 0, sizeof *mount);
    snprintf(mount->point, sizeof mount->point, "%s", fields[4]);
    snprintf(mount->type, sizeof mount->type, "%s", type);
    take_options(mount, options);
    return true;
}

bool mount_find(FILE *table, const char *path, struct mount *mount)
{
    char *line = NULL;
    size_t size = 0, longest = 0;
    bool found = false;

    while (getline(&line, &size, table) > 0) {
        struct mount this;
        const char *point;
        /* Of mounts at one place the later one hides the earlier. */
        if (parse_line(line, &this, &point) && lies_on(path, point) && strlen(point) >= longest) {
            longest = strlen(point);
            *mount = this;
            found = true;
        }
    }
    free(line);
    return found;
}

bool mount_of(const char *path, struct mount *mount)
{
    char *real = realpath(path, NULL);
    FILE *table = real ? fopen("/proc/self/mountinfo", "re") : NULL;
    bool found = table && mount_find(table, real, mount);

    if (table)
        fclose(table);
    free(real);
    return found;
}
