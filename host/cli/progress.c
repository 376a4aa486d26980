/*
 * progress.c: how far a merge is, on one line of a terminal, as plain lines in a log, or as JSON lines.
 *
 * What lives here: rates, time left, and the three drawings. What it must not know: what is being merged.
 */
#include "cli/cli.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PLAIN_SECONDS 10.0 /* a log gets a line when both have passed since the last one */
#define PLAIN_SHARE   0.05
#define JSON_SECONDS  1.0
#define PHASE_WIDTH   9 /* of "finishing", the longest: the bar stays in place */
#define MAX_CELLS     30
#define SMOOTHING     0.3 /* weight of the newest interval; updates come about 5 times a second */

void progress_init(struct progress *p, struct terminal *terminal, enum cli_progress mode)
{
    memset(p, 0, sizeof *p);
    p->terminal = terminal;
    p->mode = mode;
    if (mode == PROGRESS_AUTO)
        p->mode = terminal->quiet ? PROGRESS_NONE : terminal->can_redraw ? PROGRESS_BAR : PROGRESS_PLAIN;
}

static double share_of(const struct wm_progress *now)
{
    return now->bytes_to_write ? (double)now->bytes_written / (double)now->bytes_to_write : 0.0;
}

static void update_rates(struct progress *p, const struct wm_progress *now)
{
    double interval = now->seconds - p->last.seconds;

    if (interval < 0.1 || now->bytes_read < p->last.bytes_read || now->bytes_written < p->last.bytes_written)
        return;
    double read = (double)(now->bytes_read - p->last.bytes_read) / interval;
    double write = (double)(now->bytes_written - p->last.bytes_written) / interval;
    bool fresh = p->last.seconds == p->first.seconds;
    p->read_rate = fresh ? read : p->read_rate + SMOOTHING * (read - p->read_rate);
    p->write_rate = fresh ? write : p->write_rate + SMOOTHING * (write - p->write_rate);
    p->last = *now;
}

/* From the average of this run, which is steadier than the rate of the moment; what was resumed took no time. */
static bool seconds_left(const struct progress *p, const struct wm_progress *now, double *seconds)
{
    double took = now->seconds - p->first.seconds;
    double done = (double)now->bytes_written - (double)now->bytes_resumed;

    if (took < 1.0 || done <= 0 || now->bytes_written >= now->bytes_to_write)
        return false;
    *seconds = took / done * (double)(now->bytes_to_write - now->bytes_written);
    return true;
}

/* ---- a terminal's line -------------------------------------------------------------------------------------- */

/* Adds a part if the line keeps within `width` columns; all parts are ASCII. */
static void add_part(char *line, size_t size, int width, const char *part)
{
    size_t n = strlen(line);

    if (*part && width > 0 && n + 3 + strlen(part) <= (size_t)width && n + 3 + strlen(part) < size)
        snprintf(line + n, size - n, "   %s", part);
}

static void draw_bar(struct progress *p, const struct wm_progress *now)
{
    const struct terminal *t = p->terminal;
    char done[24], all[24], rate[24], rate2[24], left[24], part[96], line[512] = "";
    int width = terminal_width() - 1, cells = width / 4, fixed = PHASE_WIDTH + 1 + 6; /* "merging   " ... " 100 %" */
    double share = share_of(now), seconds;
    const char *full = t->utf8 ? "\xe2\x94\x81" : "=", *empty = t->utf8 ? "\xe2\x94\x80" : "-"; /* box drawing lines */

    cells = cells > MAX_CELLS ? MAX_CELLS : cells;
    cells = cells > width - fixed ? width - fixed : cells;
    cells = cells < 0 ? 0 : cells;
    width -= fixed + cells;
    value_bytes_text(done, sizeof done, (double)now->bytes_written);
    value_bytes_text(all, sizeof all, (double)now->bytes_to_write);
    snprintf(part, sizeof part, "%s of %s", done, all);
    add_part(line, sizeof line, width, part);
    if (p->read_rate > 0 && now->bytes_written < now->bytes_to_write) {
        snprintf(part, sizeof part, "read %s/s  write %s/s", value_bytes_text(rate, sizeof rate, p->read_rate),
                 value_bytes_text(rate2, sizeof rate2, p->write_rate));
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
    char done[24], all[24], rate[24], rate2[24], left[24];
    double seconds;

    fprintf(stderr, "%s: %d %%, %s of %s", now->phase, (int)(share_of(now) * 100.0),
            value_bytes_text(done, sizeof done, (double)now->bytes_written),
            value_bytes_text(all, sizeof all, (double)now->bytes_to_write));
    if (p->read_rate > 0)
        fprintf(stderr, ", read %s/s, write %s/s", value_bytes_text(rate, sizeof rate, p->read_rate),
                value_bytes_text(rate2, sizeof rate2, p->write_rate));
    if (seconds_left(p, now, &seconds))
        fprintf(stderr, ", %s left", value_seconds_text(left, sizeof left, seconds));
    fprintf(stderr, "%s%s\n", now->shard && *now->shard ? ", " : "", now->shard ? now->shard : "");
    fflush(stderr);
}

/* Phase and shard are names of ours: no character in them needs an escape. */
static void print_json(const struct progress *p, const struct wm_progress *now)
{
    fprintf(stderr,
            "{\"event\": \"progress\", \"phase\": \"%s\", \"seconds\": %.3f, \"bytes_read\": %" PRIu64
            ", \"bytes_to_read\": %" PRIu64 ", \"bytes_written\": %" PRIu64 ", \"bytes_to_write\": %" PRIu64
            ", \"bytes_resumed\": %" PRIu64 ", \"tensors_done\": %" PRIu64 ", \"n_tensors\": %" PRIu64
            ", \"read_bytes_per_second\": %.0f, \"write_bytes_per_second\": %.0f, \"shard\": \"%s\"}\n",
            now->phase, now->seconds, now->bytes_read, now->bytes_to_read, now->bytes_written, now->bytes_to_write,
            now->bytes_resumed, now->tensors_done, now->n_tensors, p->read_rate, p->write_rate,
            now->shard ? now->shard : "");
    fflush(stderr);
}

static void print_line(struct progress *p, const struct wm_progress *now)
{
    if (p->mode == PROGRESS_JSON)
        print_json(p, now);
    else
        print_plain(p, now);
    p->last_seconds = now->seconds;
    p->last_share = share_of(now);
}

void progress_update(struct progress *p, const struct wm_progress *now)
{
    bool first = !p->started, due;

    if (p->mode == PROGRESS_NONE)
        return;
    if (first) {
        p->started = true;
        p->first = p->last = *now;
    }
    p->latest = *now;
    update_rates(p, now);
    if (p->mode == PROGRESS_BAR) {
        draw_bar(p, now);
        return;
    }
    if (p->mode == PROGRESS_JSON)
        due = now->seconds - p->last_seconds >= JSON_SECONDS;
    else
        due = now->seconds - p->last_seconds >= PLAIN_SECONDS && share_of(now) - p->last_share >= PLAIN_SHARE;
    if (first || due)
        print_line(p, now);
}

void progress_end(struct progress *p, bool ok)
{
    char wrote[24], took[24];

    terminal_clear_line(p->terminal);
    if (!p->started || p->mode == PROGRESS_BAR)
        return;
    if (p->mode == PROGRESS_JSON) {
        print_json(p, &p->latest);
        return;
    }
    fprintf(stderr, "%s: %s in %s\n", ok ? "merged" : "stopped",
            value_bytes_text(wrote, sizeof wrote, (double)p->latest.bytes_written),
            value_seconds_text(took, sizeof took, p->latest.seconds));
}
