/*
 * hub_cache.h: models in Hugging Face's local cache.
 *
 * What lives here: where the cache is, how a repository id and a revision become a snapshot folder, and which folder
 * its files' links lead to (reliability notes 2.4; huggingface/hub-docs, local-cache.md). Nothing is downloaded: what
 * is missing is named together with the command that fetches it. What it must not know: what is in the files.
 */
#ifndef WM_CHECKPOINT_HUB_CACHE_H
#define WM_CHECKPOINT_HUB_CACHE_H

#include "base/arena.h"
#include "base/error.h"

#include <stdbool.h>

struct hub_snapshot {
    const char *repo_id;   /* "org/name"; NULL: not a hub snapshot */
    const char *revision;  /* as asked for; "main" by default; the commit when only the folder is known */
    const char *commit;    /* 40 hex digits */
    const char *dir;       /* real path of snapshots/<commit> */
    const char *blobs;     /* real path of blobs; NULL if the cache has none (no links on that file system) */
    const char *cache_dir; /* only where it was chosen by option, for the command to print; else NULL */
};

/* "org/name" or "name" by the hub's rules; no "--", no "..", at most one slash. */
bool hub_is_repo_id(const char *reference);

/* The cache folder: `option`, else HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub,
 * ~/.cache/huggingface/hub. Empty variables count as unset; "~" and $VAR in them are expanded. */
enum wm_status hub_cache_dir(const char **dir, const char *option, struct arena *arena, struct wm_error *err);

/* A snapshot by id. WM_NO_INPUT when it is not in the cache; WM_BAD_DATA when the cache is inconsistent. */
enum wm_status hub_find(struct hub_snapshot *snapshot, const char *repo_id, const char *revision, const char *cache_dir,
                        struct arena *arena, struct wm_error *err);

/* Recognises a folder given as a path: fills snapshot, or leaves repo_id NULL. real_dir is a real path. */
enum wm_status hub_recognise(struct hub_snapshot *snapshot, const char *real_dir, struct arena *arena,
                             struct wm_error *err);

/* "hf download org/name --revision main"; NULL when out of memory. */
const char *hub_download_line(const struct hub_snapshot *snapshot, struct arena *arena);

/* The SHA-256 that a blob's name is (64 hex digits: an LFS file), or NULL. Borrowed from real_path. */
const char *hub_blob_sha256(const struct hub_snapshot *snapshot, const char *real_path);

#endif
