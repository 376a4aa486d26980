/*
 * options.h: a caller's wm_options, checked and completed. Internal to api/; knows no merge.
 */
#ifndef WM_API_OPTIONS_H
#define WM_API_OPTIONS_H

#include "base/error.h"

/* A copy of `given` (NULL: defaults), with fields that an older caller's struct does not have at their defaults.
 * WM_USAGE, WM_NO_DEVICE. */
enum wm_status api_options_take(struct wm_options *options, const struct wm_options *given, struct wm_error *err);

#endif
