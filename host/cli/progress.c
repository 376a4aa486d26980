/*
 * progress.c: how far a merge is, on one line of a terminal, as plain lines in a log, or as events (events.c).
 *
 * What lives here: time left, when a line is due, and the drawings. Of several ranks the first one draws for all;
 * the others draw nothing. What it must not know: what is being merged.
 */
#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

#define PLAIN_SECONDS 10.0 /* a log gets a line when both have passed since the last one */
#define PLAIN_SHARE   0.05
#define JSON_SECONDS  1.0
#define PHASE_WIDTH   9 /* of "finishing", the longest: the bar stays in place */
#define MAX_CELLS     30
/* A name from another machine is shown if it is one. */
#define HOST_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"
#define SLOW_FACTOR     1.5 /* a rank that much slower than the median is named */

void progress_init(struct progress *p, struct terminal *terminal, enum cli_progress mode)
{
    memset(p, 0, sizeof *p);
    p->terminal = terminal;
    p->mode = mode;
    if (mode == PROGRESS_AUTO)
        p->mode = terminal->quiet ? PROGRESS_NONE : terminal->can_redraw ? PROGRESS_BAR : PROGRESS_PLAIN;
}

/* Passes over the models come before the first byte is written: they are measured by what is read. */
static bool only_reads(const struct wm_progress *now)
{
    return strcmp(now->phase, "surveying") == 0;
}

static double bytes_done(const struct wm_progress *now)
{
    return (double)(only_reads(now) ? now->bytes_read : now->bytes_written);
}

static double bytes_to_do(const struct wm_progress *now)
{
    return (double)(only_reads(now) ? now->bytes_to_read : now->bytes_to_write);
}

static double share_of(const struct wm_progress *now)
{
    return bytes_to_do(now) > 0.0 ? bytes_done(now) / bytes_to_do(now) : 0.0;
}

/* From the average of this run, which is steadier than the rate of the moment. */
static bool seconds_left(const struct progress *p, const struct wm_progress *now, double *seconds)
{
    double took = now->seconds - p->first.seconds;
    double done = bytes_done(now) - (double)now->bytes_resumed;

    /* When this rank is through and others are not, the average says little: the slow ones are left. */
    if (strcmp(now->phase, "waiting") == 0 && now->ranks_write_rate > 0.0) {
        *seconds = (bytes_to_do(now) - bytes_done(now)) / now->ranks_write_rate;
        return *seconds > 0.0;
    }
    if (took < 1.0 || done <= 0 || bytes_done(now) >= bytes_to_do(now))
        return false;
    *seconds = took / done * (bytes_to_do(now) - bytes_done(now));
    return true;
}

/* What rank 0 shows: everybody's bytes as if they were its own. */
static struct wm_progress of_all_ranks(const struct wm_progress *now)
{
    struct wm_progress all = *now;

    if (now->n_ranks_heard) {
        all.bytes_read = now->ranks_bytes_read;
        all.bytes_to_read = now->ranks_bytes_to_read;
        all.bytes_written = now->ranks_bytes_written;
        all.bytes_to_write = now->ranks_bytes_to_write;
        all.bytes_resumed = now->ranks_bytes_resumed;
        all.read_rate = now->ranks_read_rate;
        all.write_rate = now->ranks_write_rate;
        all.tensors_done = now->ranks_tensors_done;
        all.n_tensors = now->ranks_n_tensors;
        all.shard = "";
    }
    return all;
}

/* By one rank that is much slower than the others. */
static bool is_held_up(const struct wm_progress *now)
{
    return now->slowest_rate * SLOW_FACTOR < now->median_rate;
}

/* "8 ranks", "5 of 8 ranks", and the one that the others will wait for; "" alone. */
static const char *ranks_text(char *text, size_t size, const struct wm_progress *now)
{
    char rate[24], host[72] = "";
    int n = 0;

    *text = '\0';
    if (!now->n_ranks_heard)
        return text;
    if (now->n_ranks_heard < now->n_ranks)
        n = snprintf(text, size, "%d of ", now->n_ranks_heard);
    n += snprintf(text + n, size - (size_t)n, "%d ranks", now->n_ranks);
    if (!is_held_up(now))
        return text;
    if (now->slowest_host && strspn(now->slowest_host, HOST_CHARACTERS) == strlen(now->slowest_host))
        snprintf(host, sizeof host, " on %.60s", now->slowest_host);
    snprintf(text + n, size - (size_t)n, ", slowest rank %d%s: %s/s", now->slowest_rank, host,
             value_bytes_text(rate, sizeof rate, now->slowest_rate));
    return text;
}

/* ---- a terminal's line -------------------------------------------------------------------------------------- */

/* Adds a part if the line keeps within `width` columns; all parts are ASCII. False: it does not fit. */
static bool add_part(char *line, size_t size, int width, const char *part)
{
    size_t n = strlen(line);

    if (width <= 0 || n + 3 + strlen(part) > (size_t)width || n + 3 + strlen(part) >= size)
        return false;
    if (*part)
        snprintf(line + n, size - n, "   %s", part);
    return true;
}

static void draw_bar(struct progress *p, const struct wm_progress *now)
{
    const struct terminal *t = p->terminal;
    char done[24], all[24], rate[24], rate2[24], left[24], part[160], line[512] = "";
    int width = terminal_width() - 1, cells = width / 4, fixed = PHASE_WIDTH + 1 + 6; /* "merging   " ... " 100 %" */
    double share = share_of(now), seconds;
    const char *full = t->utf8 ? "\xe2\x94\x81" : "=", *empty = t->utf8 ? "\xe2\x94\x80" : "-"; /* box drawing lines */

    cells = cells > MAX_CELLS ? MAX_CELLS : cells;
    cells = cells > width - fixed ? width - fixed : cells;
    cells = cells < 0 ? 0 : cells;
    width -= fixed + cells;
    value_bytes_text(done, sizeof done, bytes_done(now));
    value_bytes_text(all, sizeof all, bytes_to_do(now));
    snprintf(part, sizeof part, "%s of %s", done, all);
    add_part(line, sizeof line, width, part);
    if (!add_part(line, sizeof line, width, ranks_text(part, sizeof part, now)) && is_held_up(now)) {
        snprintf(part, sizeof part, "rank %d is slow", now->slowest_rank);
        add_part(line, sizeof line, width, part);
    }
    if (now->read_rate > 0 && now->bytes_written < now->bytes_to_write) {
        snprintf(part, sizeof part, "read %s/s  write %s/s", value_bytes_text(rate, sizeof rate, now->read_rate),
                 value_bytes_text(rate2, sizeof rate2, now->write_rate));
        add_part(line, sizeof line, width, part);
    }
    if (seconds_left(p, now, &seconds)) {
        snprintf(part, sizeof part, "%s left", value_seconds_text(left, sizeof left, seconds));
        add_part(line, sizeof line, width, part);
    }
    add_part(line, sizeof line, width, now->shard ? now->shard : "");

    fprintf(stderr, "\r%-*s %s", PHASE_WIDTH, now->phase, t->color ? "\033[36m" : "");
    for (int i = 0; i < cells; i++) {
        if (i == (int)(share * cells) && t->color)
            fputs("\033[2m", stderr);
        fputs(i < (int)(share * cells) ? full : empty, stderr);
    }
    fprintf(stderr, "%s %3d %%%s\033[K", t->color ? "\033[0m" : "", (int)(share * 100.0), line);
    fflush(stderr);
    p->terminal->line_open = true;
}

/* ---- lines -------------------------------------------------------------------------------------------------- */

static void print_plain(struct progress *p, const struct wm_progress *now)
{
    char done[24], all[24], rate[24], rate2[24], left[24], ranks[160];
    double seconds;

    fprintf(stderr, "%s: %d %%, %s of %s", now->phase, (int)(share_of(now) * 100.0),
            value_bytes_text(done, sizeof done, bytes_done(now)), value_bytes_text(all, sizeof all, bytes_to_do(now)));
    if (now->read_rate > 0)
        fprintf(stderr, ", read %s/s, write %s/s", value_bytes_text(rate, sizeof rate, now->read_rate),
                value_bytes_text(rate2, sizeof rate2, now->write_rate));
    if (seconds_left(p, now, &seconds))
        fprintf(stderr, ", %s left", value_seconds_text(left, sizeof left, seconds));
    if (*ranks_text(ranks, sizeof ranks, now))
        fprintf(stderr, ", %s", ranks);
    fprintf(stderr, "%s%s\n", now->shard && *now->shard ? ", " : "", now->shard ? now->shard : "");
    fflush(stderr);
}

/* Every rank has its own events, of its own share; drawings are of all. */
static void remember(struct progress *p, const struct wm_progress *now)
{
    if (!p->started)
        p->first = *now;
    else if (only_reads(now) != only_reads(&p->latest)) { /* the time left is that of this phase */
        p->first = *now;
        p->last_share = 0.0;
    }
    p->latest = *now;
    p->latest.shard = p->latest.slowest_host = ""; /* valid during the call only */
    p->started = true;
}

static void tell_event(struct progress *p, const struct wm_progress *now, bool new_phase)
{
    if (!new_phase && now->seconds - p->last_seconds < JSON_SECONDS)
        return;
    event_progress(p->terminal, new_phase ? "phase" : "progress", now);
    p->last_seconds = now->seconds;
}

void progress_update(struct progress *p, const struct wm_progress *now)
{
    bool first = !p->started, new_phase = first || strcmp(now->phase, p->latest.phase) != 0;
    struct wm_progress shown = p->mode == PROGRESS_JSON ? *now : of_all_ranks(now);

    if (p->mode == PROGRESS_NONE || (p->mode != PROGRESS_JSON && p->terminal->rank > 0))
        return;
    remember(p, &shown);
    if (p->mode == PROGRESS_JSON) {
        tell_event(p, &shown, new_phase);
    } else if (p->mode == PROGRESS_BAR) {
        draw_bar(p, &shown);
    } else if (first ||
               (now->seconds - p->last_seconds >= PLAIN_SECONDS && share_of(&shown) - p->last_share >= PLAIN_SHARE)) {
        print_plain(p, &shown);
        p->last_seconds = now->seconds;
        p->last_share = share_of(&shown);
    }
}

void progress_end(struct progress *p, bool ok)
{
    char wrote[24], took[24];

    terminal_clear_line(p->terminal);
    if (!p->started || p->mode == PROGRESS_BAR || p->mode == PROGRESS_JSON) /* the last event has the exit code too */
        return;
    fprintf(stderr, "%s: %s in %s\n", ok ? "merged" : "stopped",
            value_bytes_text(wrote, sizeof wrote, (double)p->latest.bytes_written),
            value_seconds_text(took, sizeof took, p->latest.seconds));
}
