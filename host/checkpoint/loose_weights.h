/*
 * loose_weights.h: a model folder without an index and without model.safetensors.
 *
 * What lives here: finding the weights all the same when it is clear which they are, and otherwise saying what the
 * folder holds instead: an adapter, pickles, GGUF, a half-finished download. What it must not know: what is in the
 * files.
 */
#ifndef WM_CHECKPOINT_LOOSE_WEIGHTS_H
#define WM_CHECKPOINT_LOOSE_WEIGHTS_H

#include "checkpoint/place.h"

#include <stddef.h>

/* Names of the files to open, in natural order, at least one. */
enum wm_status loose_weights(const struct place *place, const char *const **names, size_t *n_names, struct arena *arena,
                             struct problems *problems, struct wm_error *err);

#endif
