/*
 * events.c: standard error as JSON Lines, for programs that watch a merge.
 *
 * What lives here: the names and the order of the fields, which are documented in README.md and stay as they are. What it
 * must not know: when a line is due.
 */
#include "cli/cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- lines -------------------------------------------------------------------------------------------------- */

/* A line is put together in memory and written at once: ranks that share a pipe would else mix theirs. */
struct line {
    char *bytes;
    size_t n_bytes;
    FILE *f; /* NULL: no memory for it; the line is left out */
};

/* RFC 3339, UTC, milliseconds. */
static void put_time(FILE *f, const struct timespec *t)
{
    char text[32] = "";
    struct tm utc;

    if (gmtime_r(&t->tv_sec, &utc))
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    fprintf(f, "{\"time\": \"%s.%03dZ\"", text, (int)(t->tv_nsec / 1000000));
}

static bool begin(struct line *l, const struct terminal *t, const struct timespec *when, const char *level,
                  const char *event)
{
    struct timespec now;
    char host[256] = "";

    *l = (struct line){NULL, 0, NULL};
    l->f = open_memstream(&l->bytes, &l->n_bytes);
    if (!l->f)
        return false;
    clock_gettime(CLOCK_REALTIME, &now);
    put_time(l->f, when ? when : &now);
    fprintf(l->f, ", \"level\": \"%s\", \"event\": \"%s\", \"rank\": %d, \"ranks\": %d, \"host\": ", level, event,
            t->rank, t->n_ranks > 1 ? t->n_ranks : 1);
    if (gethostname(host, sizeof host - 1) != 0)
        host[0] = '\0';
    value_put_json(l->f, host);
    if (t->n_parts > 0)
        fprintf(l->f, ", \"part\": %d, \"parts\": %d", t->part, t->n_parts);
    return true;
}

static void end(struct line *l)
{
    fputs("}\n", l->f);
    if (fclose(l->f) == 0)
        (void)fwrite(l->bytes, 1, l->n_bytes, stderr);
    fflush(stderr);
    free(l->bytes);
}

/* Whatever comes first, the first line says that it began, and when. */
static void start(struct terminal *t)
{
    struct line l;

    if (t->started)
        return;
    t->started = true;
    if (!begin(&l, t, &t->began, "info", "start"))
        return;
    fprintf(l.f, ", \"version\": \"" WM_VERSION "\", \"pid\": %ld", (long)getpid());
    end(&l);
}

/* ---- fields ------------------------------------------------------------------------------------------------- */

static void put_ranks(FILE *f, const struct wm_progress *now)
{
    if (now->n_ranks < 2 || now->rank != 0)
        return;
    fprintf(f,
            ", \"ranks_heard\": %d, \"ranks_bytes_read\": %" PRIu64 ", \"ranks_bytes_to_read\": %" PRIu64
            ", \"ranks_bytes_written\": %" PRIu64 ", \"ranks_bytes_to_write\": %" PRIu64
            ", \"ranks_read_rate\": %.0f, \"ranks_write_rate\": %.0f",
            now->n_ranks_heard, now->ranks_bytes_read, now->ranks_bytes_to_read, now->ranks_bytes_written,
            now->ranks_bytes_to_write, now->ranks_read_rate, now->ranks_write_rate);
    if (now->median_rate > 0.0)
        fprintf(f, ", \"slowest_rank\": %d, \"slowest_rate\": %.0f, \"median_rate\": %.0f", now->slowest_rank,
                now->slowest_rate, now->median_rate);
}

static void put_progress(FILE *f, const struct wm_progress *now)
{
    fprintf(f, ", \"phase\": \"%s\", \"seconds\": %.3f", now->phase, now->seconds); /* phases are words of ours */
    fprintf(f,
            ", \"bytes_read\": %" PRIu64 ", \"bytes_to_read\": %" PRIu64 ", \"bytes_written\": %" PRIu64
            ", \"bytes_to_write\": %" PRIu64 ", \"bytes_resumed\": %" PRIu64 ", \"tensors_done\": %" PRIu64
            ", \"n_tensors\": %" PRIu64 ", \"read_rate\": %.0f, \"write_rate\": %.0f, \"shard\": ",
            now->bytes_read, now->bytes_to_read, now->bytes_written, now->bytes_to_write, now->bytes_resumed,
            now->tensors_done, now->n_tensors, now->read_rate, now->write_rate);
    value_put_json(f, now->shard ? now->shard : "");
    put_ranks(f, now);
}

/* ---- events ------------------------------------------------------------------------------------------------- */

void event_problem(struct terminal *t, enum wm_severity severity, const char *text)
{
    static const char *const levels[] = {"note", "warning", "error"};
    struct line l;

    start(t);
    if (!begin(&l, t, NULL, levels[severity], "problem"))
        return;
    fputs(", \"text\": ", l.f);
    value_put_json(l.f, text);
    end(&l);
}

void event_progress(struct terminal *t, const char *event, const struct wm_progress *now)
{
    struct line l;

    start(t);
    if (!begin(&l, t, NULL, "info", event))
        return;
    put_progress(l.f, now);
    end(&l);
}

void event_end(struct terminal *t, int exit_code, const char *error, const struct wm_progress *last)
{
    struct line l;

    start(t);
    if (!begin(&l, t, NULL, error ? "error" : "info", "end"))
        return;
    fprintf(l.f, ", \"exit_code\": %d, \"error\": ", exit_code);
    if (error)
        value_put_json(l.f, error);
    else
        fputs("null", l.f);
    if (last)
        put_progress(l.f, last);
    end(&l);
}
