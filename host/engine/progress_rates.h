/*
 * progress_rates.h: how many bytes a second a merge moves.
 *
 * What lives here: the smoothing of wm_progress's counters, once for everybody who shows or sends a rate. What it must not
 * know: ranks, who draws it.
 */
#ifndef WM_ENGINE_PROGRESS_RATES_H
#define WM_ENGINE_PROGRESS_RATES_H

#include "warpmerge.h"

#include <stdbool.h>

/* Of one run; zero it before the first use. Nothing to release. */
struct progress_rates {
    double read, write; /* bytes per second, smoothed; those of the last phase that moved any */
    bool measured;      /* for long enough to say something about this machine                 */

    const char *phase;                  /* as of the last call; NULL: none yet             */
    double phase_seconds, last_seconds; /* when it began; when the rates were last renewed */
    uint64_t last_read, last_written;   /* then                                            */
};

/* In the other phases a process waits, or makes durable what it has written: that is no rate. */
bool progress_moves_bytes(const struct wm_progress *now);
/* Takes the counters of `now` in, and fills in its rates. */
void progress_rates_renew(struct progress_rates *r, struct wm_progress *now);

#endif
