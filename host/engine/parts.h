/*
 * parts.h: what is left of a merge in parts. Knows journals' results (resume.h) and who has which ranges, no files.
 */
#ifndef WM_ENGINE_PARTS_H
#define WM_ENGINE_PARTS_H

#include "engine/resume.h"
#include "plan/plan_partition.h"

/* WM_TEMPORARY unless every range of every part is finished: which parts are not. `partition` is that of the parts. */
enum wm_status parts_check_done(const struct plan *plan, const struct plan_partition *partition,
                                const struct resume *resume, struct wm_error *err);

#endif
