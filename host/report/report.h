/*
 * report.h: everything that is written for people and for other programs to read.
 *
 * What lives here: the output kit around the weights (config.json, tokenizer files, model card, index, manifest), the
 * texts of `plan`, `inspect`, `methods` and `env`, and the check of a finished directory against its manifest. What it
 * must not know: how a merge runs (the engine); results reach this room as plain numbers and hashes.
 *
 * Everything that ends up inside an output directory is a pure function of the recipe, the inputs and the options: no
 * time, host, user, path or thread count, so that the same recipe gives the same bytes anywhere (DESIGN section 1).
 */
#ifndef WM_REPORT_H
#define WM_REPORT_H

#include "base/error.h"
#include "base/hash.h"
#include "base/text.h"
#include "plan/plan_partition.h"

#define REPORT_MANIFEST_NAME    "warpmerge-manifest.json"
#define REPORT_MANIFEST_VERSION 1
#define REPORT_INDEX_NAME       "model.safetensors.index.json"

/* ---- config.json -------------------------------------------------------------------------------------------- */

struct report_config_edit {
    const char *dtype;       /* torch's name ("bfloat16"), or NULL: unchanged             */
    int64_t vocab_size;      /* -1: unchanged                                             */
    int tie_word_embeddings; /* 0 or 1; -1: unchanged                                     */
};

/* The text of a config.json with a few values replaced and every other byte kept: key order, spacing and numbers that
 * a parser would round stay as they are. `path` is for messages. WM_BAD_DATA. */
enum wm_status report_config_patch(const char *path, const char *data, size_t n_bytes,
                                   const struct report_config_edit *edit, struct text *out, struct wm_error *err);

/* ---- the output kit ----------------------------------------------------------------------------------------- */

#define REPORT_KIT_MAX_FILES 48

struct report_kit_file {
    const char *name; /* static */
    uint64_t n_bytes;
    char sha256[HASH_SHA256_HEX_BYTES];
};

struct report_kit {
    struct report_kit_file files[REPORT_KIT_MAX_FILES]; /* in the order written */
    int n_files;
};

/* What report_kit_write would stumble over, found before hours of merging instead of after them. */
enum wm_status report_kit_check(const struct plan *plan, const struct wm_options *options, struct problems *problems,
                                struct wm_error *err);
/* Writes config.json, the donor's tokenizer and generation files, README.md and mergekit_config.yml into `dir`, and
 * removes those that an earlier, interrupted run left there but this one does not write. */
enum wm_status report_kit_write(const struct plan *plan, const struct wm_options *options, const char *dir,
                                struct report_kit *kit, struct wm_error *err);

/* README.md: Hugging Face front matter, method, models, parameters, the recipe. */
void report_card(const struct plan *plan, struct text *out);
/* model.safetensors.index.json; only useful when there is more than one shard. */
enum wm_status report_index(const struct plan *plan, struct text *out, struct wm_error *err);
/* warpmerge-manifest.json. job_hashes: [n_jobs] tree hashes; shard_sha256: [n_shards] or NULL. */
enum wm_status report_manifest(const struct plan *plan, const struct report_kit *kit, const struct hash128 *job_hashes,
                               const char (*shard_sha256)[HASH_SHA256_HEX_BYTES], struct text *out,
                               struct wm_error *err);

/* Of all that the manifest says of a merge before its first byte is computed; in the manifest as plan_xxh3. Says nothing of
 * times and places (plan->fingerprint does), so that copies of the inputs give the same manifest. */
enum wm_status report_plan_hash(const struct plan *plan, struct hash128 *hash, struct wm_error *err);
/* Has a merge by this plan (NULL: any) put `dir` in place, with shards that have their sizes, and are the inputs older? A
 * look, no verification. */
bool report_is_complete(const char *dir, const struct plan *plan);

/* Re-reads a finished directory and compares it with its manifest; every difference goes to `problems`. On success a
 * line of text or a JSON object. WM_VERIFY_FAILED names the first difference. */
enum wm_status report_verify(const char *dir, const struct wm_options *options, struct problems *problems, int as_json,
                             struct text *out, struct wm_error *err);

/* ---- texts -------------------------------------------------------------------------------------------------- */

/* out_path may be NULL: no output directory was named. partitions: by mode, over the same ranks; NULL: not asked for. */
void report_plan_text(const struct plan *plan, const struct plan_partition *const *partitions, const char *out_path,
                      struct text *out);
void report_plan_json(const struct plan *plan, const struct plan_partition *const *partitions, const char *out_path,
                      struct text *out);
/* The part of them that is about ranks. */
void report_ranks_text(const struct plan *plan, const struct plan_partition *const *partitions, struct text *out);
void report_ranks_json(const struct plan_partition *const *partitions, struct text *out);
void report_inspect_text(const struct ckpt *ckpt, struct text *out);
void report_inspect_json(const struct ckpt *ckpt, struct text *out);
/* name NULL: all methods. WM_USAGE for an unknown name, with the nearest known one. */
enum wm_status report_methods(const char *name, int as_json, struct text *out, struct wm_error *err);
/* devices: what merges can run on here, in words. */
void report_environment(const struct wm_options *options, const char *devices, int as_json, struct text *out);

#endif
