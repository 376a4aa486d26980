/*
 * parts_file.h: what the end of parts must know of their beginning: config, folder and the options that decide bytes, kept
 * in the partial directory so that `finish` needs the output's name alone. Internal to api/; knows no engine.
 */
#ifndef WM_API_PARTS_FILE_H
#define WM_API_PARTS_FILE_H

#include "base/error.h"

struct parts_file {
    char *config_path, *folder, *hub_cache; /* absolute; hub_cache may be NULL */
    int n_parts;
};

/* Every part writes one of its own, "part-0003.warpmerge.json", since parts may start at the same moment. Those that are
 * there must name the same number of parts (WM_USAGE). */
enum wm_status parts_file_write(const char *dir, const char *config_path, const struct wm_options *options,
                                struct wm_error *err);
/* Also completes *options. WM_NO_INPUT, WM_BAD_DATA. */
enum wm_status parts_file_read(const char *dir, struct parts_file *parts, struct wm_options *options,
                               struct wm_error *err);
void parts_file_release(struct parts_file *parts);

#endif
