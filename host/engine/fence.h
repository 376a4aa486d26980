/*
 * fence.h: keeping late writes of a rank that was given up out of the output.
 *
 * What lives here: the mark that a rank leaves before it writes a guess, and giving shards with such marks a new file
 * before the next run goes on. What it must not know: ranks, guesses, how ranges are computed.
 *
 * A write that was under way, or lay in the page cache of its host, when that was cut off reaches the file server when the
 * host is back: hours later, when the merge has long been finished without it. Finished tiles bring the bytes that are
 * there anyway. A guess does not, and nobody would repair it. No lease of ours can call it back, but the server keeps it
 * away from a file that it was not meant for.
 */
#ifndef WM_ENGINE_FENCE_H
#define WM_ENGINE_FENCE_H

#include "engine/journal.h"
#include "plan/plan.h"

/* Appends; the caller serialises. */
enum wm_status fence_mark(struct journal *journal, size_t job, struct wm_error *err);
/* Marks must be safe before the guess is on its way, even if this host is never heard of again. May wait for storage. */
enum wm_status fence_sync_mark(const struct journal *journal, struct wm_error *err);

/* Shards in which a marked tensor is unfinished become new files in `dir`, with all finished ranges that `records` name.
 * Nobody may have them open. */
enum wm_status fence_raise(const struct plan *plan, const char *dir, const struct journal_record *records,
                           size_t n_records, const volatile int *cancel, struct wm_error *err);

#endif
