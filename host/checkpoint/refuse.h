/*
 * refuse.h: how the checkpoint room says no.
 *
 * What lives here: one shape for all refusals, "PATH: sentence; remedy [IDENTIFIER]". The identifier is stable, so
 * tests and scripts can tell cases apart; paths and names in it were written by strangers and are escaped and cut so
 * that the identifier always fits. What it must not know: what is refused.
 */
#ifndef WM_CHECKPOINT_REFUSE_H
#define WM_CHECKPOINT_REFUSE_H

#include "base/error.h"

#define REFUSE_NAME_BYTES 200 /* room for one tensor or file name in a message */

enum wm_status ckpt_refuse(struct wm_error *err, enum wm_status status, const char *identifier, const char *path,
                           const char *format, ...) __attribute__((format(printf, 5, 6)));

#endif
