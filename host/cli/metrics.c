/*
 * metrics.c: a file for Prometheus' node_exporter (its textfile collector).
 *
 * What lives here: names, help and types of the metrics, the exposition format, and replacing the file as a whole, so that
 * a scrape never sees half of it. What it must not know: who calls how often. Nothing here can fail a merge: a file that
 * cannot be written is one warning.
 */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define WRITE_SECONDS 5.0 /* scrapes come every 15 to 60 s */

/* ---- the exposition format ---------------------------------------------------------------------------------- */

/* Three escapes, and UTF-8 throughout. Other control characters mean nothing in a label. */
static void put_label(FILE *f, const char *name, const char *value)
{
    fprintf(f, "%s=\"", name);
    while (*value) {
        size_t n = value_utf8_length(value);
        if (*value == '\\' || *value == '"')
            fprintf(f, "\\%c", *value);
        else if (*value == '\n')
            fputs("\\n", f);
        else if (n == 0 || (unsigned char)*value < 0x20 || *value == 0x7F)
            fputs("\xef\xbf\xbd", f); /* U+FFFD */
        else
            (void)fwrite(value, 1, n, f);
        value += n ? n : 1;
    }
    putc('"', f);
}

/* Begins a metric and its only sample; `phase` NULL: no such label. The value is the caller's to add. */
static void put_metric(const struct metrics *m, FILE *f, const char *name, const char *type, const char *help,
                       const char *phase)
{
    const char *comma = "";

    fprintf(f, "# HELP warpmerge_%s %s\n# TYPE warpmerge_%s %s\nwarpmerge_%s{", name, help, name, type, name);
    if (m->out) {
        put_label(f, "out", m->out);
        comma = ",";
    }
    if (m->terminal->n_ranks > 1) {
        fprintf(f, "%srank=\"%d\",ranks=\"%d\"", comma, m->terminal->rank, m->terminal->n_ranks);
        comma = ",";
    }
    if (m->terminal->n_parts > 0) {
        fprintf(f, "%spart=\"%d\",parts=\"%d\"", comma, m->terminal->part, m->terminal->n_parts);
        comma = ",";
    }
    if (phase) {
        fputs(comma, f);
        put_label(f, "phase", phase);
    }
    fputs("} ", f);
}

static void put_count(const struct metrics *m, FILE *f, const char *name, const char *type, const char *help,
                      uint64_t value)
{
    put_metric(m, f, name, type, help, NULL);
    fprintf(f, "%llu\n", (unsigned long long)value);
}

static void put_seconds(const struct metrics *m, FILE *f, const char *name, const char *help, double value)
{
    put_metric(m, f, name, "gauge", help, NULL);
    fprintf(f, "%.3f\n", value);
}

static uint64_t peak_memory_bytes(void)
{
    struct rusage usage;

    return getrusage(RUSAGE_SELF, &usage) == 0 ? (uint64_t)usage.ru_maxrss * 1024 : 0;
}

static void put_ranks(const struct metrics *m, FILE *f)
{
    const struct wm_progress *now = &m->latest;

    put_count(m, f, "ranks_heard", "gauge", "Ranks that rank 0 has heard of.", (uint64_t)now->n_ranks_heard);
    put_count(m, f, "ranks_bytes_written", "gauge", "Output bytes in place, all ranks.", now->ranks_bytes_written);
    put_count(m, f, "ranks_bytes_to_write", "gauge", "Output bytes in all, all ranks.", now->ranks_bytes_to_write);
    if (now->median_rate > 0.0) {
        put_count(m, f, "slowest_rank", "gauge", "The rank that moves the fewest bytes per second.",
                  (uint64_t)now->slowest_rank);
        put_count(m, f, "slowest_rank_bytes_per_second", "gauge", "Bytes that it reads and writes per second.",
                  (uint64_t)now->slowest_rate);
    }
}

static void put_all(const struct metrics *m, FILE *f, bool up, const char *phase)
{
    const struct wm_progress *now = &m->latest;

    put_count(m, f, "up", "gauge", "1 while a merge runs, 0 once it has ended.", up);
    put_count(m, f, "bytes_read_total", "counter", "Tensor bytes read.", now->bytes_read);
    put_count(m, f, "bytes_to_read", "gauge", "Tensor bytes to read in all.", now->bytes_to_read);
    put_count(m, f, "bytes_written_total", "counter", "Output bytes in place, those of an earlier run included.",
              now->bytes_written);
    put_count(m, f, "bytes_to_write", "gauge", "Output bytes in all.", now->bytes_to_write);
    put_count(m, f, "bytes_resumed", "gauge", "Output bytes taken over from an earlier run.", now->bytes_resumed);
    put_count(m, f, "tensors_done", "gauge", "Tensors finished.", now->tensors_done);
    put_count(m, f, "tensors", "gauge", "Tensors in all.", now->n_tensors);
    put_seconds(m, f, "seconds", "Seconds since the merge began.", now->seconds);
    put_metric(m, f, "phase", "gauge", "1 for what is being done.", phase);
    fputs("1\n", f);
    put_count(m, f, "peak_memory_bytes", "gauge", "Largest resident memory of the process.", peak_memory_bytes());
    if (now->n_ranks > 1 && now->rank == 0)
        put_ranks(m, f);
    if (m->has_exit_code)
        put_count(m, f, "last_exit_code", "gauge", "Exit code of the last run that ended.", (uint64_t)m->exit_code);
    if (m->has_success)
        put_seconds(m, f, "last_success_timestamp_seconds", "When the last run that succeeded ended.", m->success);
}

/* ---- what the last run has left ----------------------------------------------------------------------------- */

static bool sample(const char *text, const char *name, double *value)
{
    size_t n = strlen(name);

    for (const char *line = text; line; line = strchr(line, '\n')) {
        char *end;
        const char *space;
        line += *line == '\n';
        if (strncmp(line, name, n) != 0 || line[n] != '{')
            continue;
        space = line + strcspn(line, "\n");
        while (space > line && *space != ' ')
            space--;
        *value = strtod(space, &end);
        return end > space && *end == '\n';
    }
    return false;
}

/* The time of the last success outlives the runs after it: that is what an alert looks at. */
static void recall(struct metrics *m)
{
    enum { max_bytes = 1 << 16 };
    int fd = open(m->file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    char *text = malloc(max_bytes + 1);
    ssize_t n = text && fd >= 0 ? read(fd, text, max_bytes) : -1;
    double code = 0.0;

    if (n >= 0) {
        text[n] = '\0';
        m->has_success = sample(text, "warpmerge_last_success_timestamp_seconds", &m->success);
        m->has_exit_code = sample(text, "warpmerge_last_exit_code", &code) && code >= 0.0 && code <= 255.0;
        m->exit_code = m->has_exit_code ? (int)code : 0;
    }
    free(text);
    if (fd >= 0)
        close(fd);
}

/* ---- the file ----------------------------------------------------------------------------------------------- */

/* merge.prom becomes merge.rank3.prom, or merge.part3.prom: each process has a file of its own. */
static char *name_file(const struct metrics *m)
{
    const char *base = strrchr(m->path, '/'), *dot;
    char *file = NULL;

    base = base ? base + 1 : m->path;
    dot = strrchr(base, '.');
    if (m->terminal->n_ranks < 2 && m->terminal->n_parts < 1)
        return strdup(m->path);
    if (!dot || dot == base)
        dot = base + strlen(base);
    if (asprintf(&file, "%.*s.%s%d%s", (int)(dot - m->path), m->path, m->terminal->n_parts ? "part" : "rank",
                 m->terminal->n_parts ? m->terminal->part : m->terminal->rank, dot) < 0)
        return NULL;
    return file;
}

static int open_new(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);

    if (fd < 0 && errno == EEXIST && unlink(path) == 0) /* a process with our number died here */
        fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    return fd;
}

/* 0 or an errno. Nothing is synced: after a power failure these numbers are of no use. */
static int replace(const struct metrics *m, const char *temporary, bool up, const char *phase)
{
    int fd = open_new(temporary), code = errno;
    FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;

    if (!f) {
        code = fd >= 0 ? errno : code;
        if (fd >= 0)
            close(fd);
        return code;
    }
    errno = 0;
    put_all(m, f, up, phase);
    code = ferror(f) ? errno : 0;
    if (fclose(f) != 0 && code == 0)
        code = errno;
    if (code == 0 && rename(temporary, m->file) != 0)
        code = errno;
    if (code != 0)
        unlink(temporary);
    return code;
}

static void give_up(struct metrics *m, const char *why)
{
    char text[1024];

    m->failed = true;
    snprintf(text, sizeof text, "cannot write the metrics to %.700s: %s; the merge goes on without them",
             m->file ? m->file : m->path, why);
    terminal_say(m->terminal, WM_WARNING, text);
}

/* Other things than files would be replaced by one: /dev/stdout among them. */
static bool prepare(struct metrics *m)
{
    struct stat sb;

    if (m->file)
        return true;
    m->file = name_file(m);
    if (!m->file) {
        give_up(m, strerror(ENOMEM));
        return false;
    }
    if (lstat(m->file, &sb) == 0 && !S_ISREG(sb.st_mode)) {
        give_up(m, "it exists and is no ordinary file");
        return false;
    }
    recall(m);
    return true;
}

static void write_now(struct metrics *m, bool up, const char *phase)
{
    char *temporary = NULL;
    int code = ENOMEM;

    if (!prepare(m))
        return;
    if (asprintf(&temporary, "%s.%ld.tmp", m->file, (long)getpid()) >= 0)
        code = replace(m, temporary, up, phase);
    else
        temporary = NULL;
    if (code != 0)
        give_up(m, strerror(code));
    free(temporary);
    m->written_at = m->latest.seconds;
}

/* ---- a run -------------------------------------------------------------------------------------------------- */

void metrics_init(struct metrics *m, struct terminal *terminal, const char *path, const char *out)
{
    memset(m, 0, sizeof *m);
    m->terminal = terminal;
    m->path = path;
    m->out = out;
    m->latest.phase = "starting";
    m->written_at = -1.0;
}

void metrics_update(struct metrics *m, const struct wm_progress *now)
{
    bool due = m->written_at < 0.0 || now->seconds - m->written_at >= WRITE_SECONDS ||
               strcmp(now->phase, m->latest.phase) != 0;

    m->latest = *now;
    m->latest.shard = m->latest.slowest_host = NULL; /* valid during the call only */
    if (m->path && !m->failed && due)
        write_now(m, true, now->phase);
}

void metrics_end(struct metrics *m, int exit_code)
{
    struct timespec now;

    if (m->path && !m->failed && prepare(m)) {
        m->has_exit_code = true;
        m->exit_code = exit_code;
        if (exit_code == 0) {
            m->has_success = true;
            clock_gettime(CLOCK_REALTIME, &now);
            m->success = (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
        }
        write_now(m, false, exit_code == 0 ? "done" : "failed");
    }
    free(m->file);
    m->file = NULL;
    m->path = NULL;
}
