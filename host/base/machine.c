/* machine.c: see machine.h. */
#include "base/machine.h"

#include "base/text.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_GROUP 400

/* ---- control groups ------------------------------------------------------------------------------------------- */

static bool first_line(const char *root, const char *path, char *line, size_t size)
{
    char whole[2 * MAX_GROUP + 200];
    bool found;
    FILE *f;

    snprintf(whole, sizeof whole, "%s%s", root, path);
    f = fopen(whole, "re");
    found = f && fgets(line, (int)size, f);
    if (f)
        fclose(f);
    if (found)
        line[strcspn(line, "\n")] = '\0';
    return found;
}

/* Our group of cgroup v2, or of the v1 hierarchy that has `controller`. */
static bool own_group(const char *root, const char *controller, char group[MAX_GROUP])
{
    char path[600], line[MAX_GROUP + 100];
    bool found = false;
    FILE *f;

    snprintf(path, sizeof path, "%.500s/proc/self/cgroup", root);
    f = fopen(path, "re");
    while (f && !found && fgets(line, sizeof line, f)) { /* 4:memory:/a/b, or 0::/a/b */
        char *controllers = strchr(line, ':'), *at = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!at)
            continue;
        *at++ = '\0';
        controllers++;
        if (!*controller) {
            found = !*controllers;
        } else {
            size_t n = strlen(controller);
            for (char *c = strstr(controllers, controller); c && !found; c = strstr(c + 1, controller))
                found = (c == controllers || c[-1] == ',') && (c[n] == '\0' || c[n] == ',');
        }
        if (found)
            snprintf(group, MAX_GROUP, "%.*s", (int)strcspn(at, "\n"), at);
    }
    if (f)
        fclose(f);
    return found;
}

/* Calls `see` with the files of that name of every group from ours up to the root. Inside a container the names from
 * /proc may be the host's, and then the root alone is there, which is ours. */
static void walk(const char *root, const char *controller, const char *mount, const char *file,
                 void (*see)(const char *root, const char *dir, const char *file, void *user), void *user)
{
    char group[MAX_GROUP], dir[MAX_GROUP + 100];
    char *slash;

    if (!own_group(root, controller, group))
        return;
    do {
        snprintf(dir, sizeof dir, "%s%s", mount, strcmp(group, "/") ? group : "");
        see(root, dir, file, user);
        slash = strrchr(group, '/');
        if (slash)
            *slash = '\0';
    } while (slash);
}

static void see_memory(const char *root, const char *dir, const char *file, void *user)
{
    char path[2 * MAX_GROUP], line[100];
    uint64_t *limit = user, n;

    snprintf(path, sizeof path, "%s/%s", dir, file);
    if (first_line(root, path, line, sizeof line) && text_parse_u64(line, &n) && (!*limit || n < *limit))
        *limit = n; /* else: no such file, or "max" */
}

uint64_t machine_memory_limit_below(const char *root)
{
    uint64_t limit = 0;

    walk(root, "", "/sys/fs/cgroup", "memory.max", see_memory, &limit);
    walk(root, "memory", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", see_memory, &limit);
    return limit > (uint64_t)1 << 60 ? 0 : limit; /* v1's word for none */
}

static void note_quota(int *fewest, double quota_us, double period_us)
{
    double n = period_us > 0 ? quota_us / period_us : 0;

    if (n > 0 && n < 1e6 && (!*fewest || n < *fewest)) /* -1 of v1 is none */
        *fewest = (int)n + (n > (int)n);
}

static void see_quota(const char *root, const char *dir, const char *file, void *user)
{
    char path[2 * MAX_GROUP], line[100], *end;
    double quota;

    snprintf(path, sizeof path, "%s/%s", dir, file);
    if (!first_line(root, path, line, sizeof line))
        return;
    quota = strtod(line, &end); /* "max 100000", "800000 100000" */
    if (end != line)
        note_quota(user, quota, strtod(end, NULL));
}

static void see_quota_v1(const char *root, const char *dir, const char *file, void *user)
{
    char path[2 * MAX_GROUP], quota[100], period[100];

    snprintf(path, sizeof path, "%s/%s", dir, file);
    if (!first_line(root, path, quota, sizeof quota))
        return;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", dir);
    if (first_line(root, path, period, sizeof period))
        note_quota(user, strtod(quota, NULL), strtod(period, NULL));
}

int machine_quota_below(const char *root)
{
    int fewest = 0;

    walk(root, "", "/sys/fs/cgroup", "cpu.max", see_quota, &fewest);
    walk(root, "cpu", "/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", see_quota_v1, &fewest);
    return fewest;
}

uint64_t machine_memory_limit(void)
{
    return machine_memory_limit_below("");
}

/* ---- processors ----------------------------------------------------------------------------------------------- */

static int may_run_on(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0 ? CPU_COUNT(&set) : 1;
}

int machine_processors(void)
{
    int n = may_run_on(), quota = machine_quota_below("");

    return quota && quota < n ? quota : n;
}

bool machine_is_bound(void)
{
    return may_run_on() < sysconf(_SC_NPROCESSORS_ONLN);
}

void machine_id(char id[MACHINE_ID_BYTES])
{
    if (!first_line("", "/proc/sys/kernel/random/boot_id", id, MACHINE_ID_BYTES))
        *id = '\0';
}
