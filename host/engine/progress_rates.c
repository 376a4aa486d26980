/* progress_rates.c: see progress_rates.h. */
#include "engine/progress_rates.h"

#include <string.h>

#define WINDOW_SECONDS  10.0 /* over which rates are smoothed: long enough for readers and writers to take turns */
#define RENEW_SECONDS   0.5
#define MEASURE_SECONDS 2.0 /* a rate from less than this says more about start-up than about the machine */

bool progress_moves_bytes(const struct wm_progress *now)
{
    return strcmp(now->phase, "surveying") == 0 || strcmp(now->phase, "merging") == 0;
}

/* What was taken over from an earlier run took no time. */
static uint64_t written_now(const struct wm_progress *now)
{
    return now->bytes_written > now->bytes_resumed ? now->bytes_written - now->bytes_resumed : 0;
}

static void take_in(struct progress_rates *r, const struct wm_progress *now)
{
    uint64_t written = written_now(now);
    double passed = now->seconds - r->last_seconds, window = now->seconds - r->phase_seconds;

    if (!r->phase || strcmp(r->phase, now->phase) != 0 || now->bytes_read < r->last_read || written < r->last_written) {
        r->phase_seconds = now->seconds; /* counters may jump where a phase begins: it is measured from here */
    } else {
        if (passed < RENEW_SECONDS || !progress_moves_bytes(now))
            return;
        window = window < WINDOW_SECONDS ? window : WINDOW_SECONDS;
        passed = passed < window ? passed : window;
        r->read += passed / window * ((double)(now->bytes_read - r->last_read) / passed - r->read);
        r->write += passed / window * ((double)(written - r->last_written) / passed - r->write);
        r->measured = r->measured || now->seconds - r->phase_seconds >= MEASURE_SECONDS;
    }
    r->phase = now->phase;
    r->last_seconds = now->seconds;
    r->last_read = now->bytes_read;
    r->last_written = written;
}

void progress_rates_renew(struct progress_rates *r, struct wm_progress *now)
{
    take_in(r, now);
    now->read_rate = progress_moves_bytes(now) ? r->read : 0.0;
    now->write_rate = progress_moves_bytes(now) ? r->write : 0.0;
}
