/*
 * environment.c: everything that a bug report needs to say about a machine and a build.
 *
 * What lives here: what `env` prints. A fact that cannot be found out is left out, never an error. What it must not
 * know: models or merges.
 */
#include "report/report.h"

#include "base/machine.h"
#include "checkpoint/hub_cache.h"
#include "methods/tile.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>

struct environment {
    const char *devices;
    char cpu[128], kernel[200];
    const char *hub_cache; /* NULL: unknown */
    int n_cpus;
    uint64_t memory_total, memory_available, memory_limit; /* bytes; 0: unknown, limit 0: none */
    uint64_t max_open_files, max_locked_bytes;             /* UINT64_MAX: unlimited             */
};

/* The rest of the first line of a /proc file that begins with `key`, leading blanks and colon skipped. */
static bool proc_value(const char *path, const char *key, char *value, size_t size)
{
    char line[512];
    bool found = false;
    FILE *f = fopen(path, "re");

    while (f && !found && fgets(line, sizeof line, f)) {
        size_t n = strlen(key);
        if (strncmp(line, key, n) != 0)
            continue;
        n += strspn(line + n, " \t:");
        snprintf(value, size, "%s", line + n);
        value[strcspn(value, "\n")] = '\0';
        found = true;
    }
    if (f)
        fclose(f);
    return found;
}

static uint64_t proc_kib(const char *key)
{
    char value[64];

    return proc_value("/proc/meminfo", key, value, sizeof value) ? strtoull(value, NULL, 10) * 1024 : 0;
}

static uint64_t resource_limit(int resource)
{
    struct rlimit r;

    if (getrlimit(resource, &r) || r.rlim_cur == RLIM_INFINITY)
        return UINT64_MAX;
    return r.rlim_cur;
}

static void environment_take(struct environment *e, const struct wm_options *options, struct arena *arena)
{
    struct wm_error ignored = WM_ERROR_INIT;
    struct utsname name;

    memset(e, 0, sizeof *e);
    if (!proc_value("/proc/cpuinfo", "model name", e->cpu, sizeof e->cpu))
        snprintf(e->cpu, sizeof e->cpu, "unknown");
    if (uname(&name) == 0)
        snprintf(e->kernel, sizeof e->kernel, "%s %s %s", name.sysname, name.release, name.machine);
    e->n_cpus = machine_processors();
    e->memory_total = proc_kib("MemTotal");
    e->memory_available = proc_kib("MemAvailable");
    e->memory_limit = machine_memory_limit();
    e->max_open_files = resource_limit(RLIMIT_NOFILE);
    e->max_locked_bytes = resource_limit(RLIMIT_MEMLOCK);
    if (hub_cache_dir(&e->hub_cache, options->hub_cache, arena, &ignored) != WM_OK)
        e->hub_cache = NULL;
}

static void add_text(struct text *t, const struct environment *e)
{
    char a[24], b[24], shown[200];

    text_addf(t, "warpmerge    " WM_VERSION "\n");
    text_addf(t, "compiler     " __VERSION__ "\n");
    text_addf(t, "kernel       %s\n", e->kernel);
    text_addf(t, "processor    %s\n", text_display(shown, sizeof shown, e->cpu));
    text_addf(t, "threads      %d\n", e->n_cpus);
    text_addf(t, "instructions %s\n", cpu_isa());
    text_addf(t, "memory       %s, %s available\n", text_bytes(a, sizeof a, e->memory_total),
              text_bytes(b, sizeof b, e->memory_available));
    if (e->memory_limit)
        text_addf(t, "cgroup limit %s\n", text_bytes(a, sizeof a, e->memory_limit));
    if (e->max_open_files != UINT64_MAX)
        text_addf(t, "open files   %" PRIu64 "\n", e->max_open_files);
    text_addf(t, "locked mem   %s\n",
              e->max_locked_bytes == UINT64_MAX ? "unlimited" : text_bytes(a, sizeof a, e->max_locked_bytes));
    text_addf(t, "devices      %s\n", e->devices);
    text_addf(t, "hub cache    %s\n", e->hub_cache ? text_display(shown, sizeof shown, e->hub_cache) : "unknown");
}

static void add_json(struct text *t, const struct environment *e)
{
    text_add(t, "{\n  \"schema\": \"warpmerge-env\",\n  \"schema_version\": 1,\n  \"version\": \"" WM_VERSION
                "\",\n  \"compiler\": ");
    text_add_json(t, __VERSION__);
    text_add(t, ",\n  \"kernel\": ");
    text_add_json(t, e->kernel);
    text_add(t, ",\n  \"processor\": ");
    text_add_json(t, e->cpu);
    text_addf(t,
              ",\n  \"n_threads\": %d,\n  \"instructions\": \"%s\",\n  \"memory_bytes\": %" PRIu64
              ",\n  \"memory_available_bytes\": %" PRIu64 ",\n  \"memory_limit_bytes\": ",
              e->n_cpus, cpu_isa(), e->memory_total, e->memory_available);
    if (e->memory_limit)
        text_addf(t, "%" PRIu64, e->memory_limit);
    else
        text_add(t, "null");
    text_add(t, ",\n  \"devices\": ");
    text_add_json(t, e->devices);
    text_add(t, ",\n  \"hub_cache\": ");
    if (e->hub_cache)
        text_add_json(t, e->hub_cache);
    else
        text_add(t, "null");
    text_add(t, "\n}\n");
}

void report_environment(const struct wm_options *options, const char *devices, int as_json, struct text *out)
{
    struct environment e;
    struct arena arena;

    arena_init(&arena, (size_t)1 << 20);
    environment_take(&e, options, &arena);
    e.devices = devices;
    if (as_json)
        add_json(out, &e);
    else
        add_text(out, &e);
    arena_release(&arena);
}
