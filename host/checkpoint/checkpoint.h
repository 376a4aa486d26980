/*
 * checkpoint.h: a Hugging Face model directory as a table of tensors.
 *
 * What lives here: resolving a model reference to a directory, reading safetensors headers and indexes strictly, and
 * the table of names, types, shapes and byte ranges that comes out. What it must not know: recipes, plans, and how
 * tensor bytes are streamed (byte sources are in source.h).
 */
#ifndef WM_CHECKPOINT_H
#define WM_CHECKPOINT_H

#include "base/arena.h"
#include "base/error.h"
#include "base/file.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CKPT_MAX_DIMS           64
#define CKPT_HEADER_CAP_DEFAULT 25000000u /* huggingface_hub's limit; the format's own is 100,000,000 */
#define CKPT_HEADER_CAP_FORMAT  100000000u

struct cJSON;
struct name_map;

struct ckpt_tensor {
    const char *name;
    enum wm_dtype dtype;
    int n_dims;
    const uint64_t *shape; /* [n_dims] */
    uint64_t n_elems, n_bytes;
    int file;       /* index into ckpt.files */
    uint64_t begin; /* absolute offset of the first byte in that file */
};

struct ckpt_file {
    const char *name; /* within the directory */
    const char *path;
    struct file_identity identity;
    const char *sha256; /* 64 hex digits where the hub cache names it, else NULL */
};

struct ckpt {
    struct arena arena;
    const char *reference; /* as the user wrote it */
    const char *dir;       /* real directory; for a single file its folder */
    const char *commit;    /* 40 hex digits for a hub snapshot, else NULL */
    struct ckpt_file *files;
    int n_files;
    struct ckpt_tensor *tensors; /* in natural name order */
    size_t n_tensors;
    uint64_t n_bytes;       /* of all tensors */
    struct cJSON *config;   /* config.json; NULL if there is none */
    struct name_map *names; /* of tensors, for ckpt_find */
};

struct ckpt_options {
    const char *hub_cache; /* NULL: from the environment */
    uint64_t header_cap;   /* 0: CKPT_HEADER_CAP_DEFAULT */
    bool strict;           /* extra findings become errors in `problems` */
};

/* Opens a directory, a single .safetensors file, or (when no such path exists) a cached hub snapshot org/name with
 * `revision` (NULL: main). Findings that do not stop it (unlisted tensors, wrong total_size) go to problems; under
 * strict some of them are errors there, which the caller's problems_end turns into a failure of the phase. With
 * problems NULL such errors fail the call itself. options may be NULL.
 * Messages about a model's contents end in an identifier in square brackets, such as [DUPLICATE_KEY]; the tests and
 * scripts of others may rely on it. WM_BAD_DATA: malformed or not a safetensors model. WM_NO_INPUT: missing. */
enum wm_status ckpt_open(struct ckpt **ckpt, const char *reference, const char *revision,
                         const struct ckpt_options *options, struct problems *problems, struct wm_error *err);
void ckpt_free(struct ckpt *ckpt);
const struct ckpt_tensor *ckpt_find(const struct ckpt *ckpt, const char *name); /* NULL if absent */

/* "BF16 [2048, 2048]" for messages. */
const char *ckpt_shape_text(char *buffer, size_t size, const struct ckpt_tensor *tensor);

/* ---- writing headers ---------------------------------------------------------------------------------------- */

struct safetensors_entry {
    const char *name;
    enum wm_dtype dtype;
    int n_dims;
    const uint64_t *shape;
    uint64_t begin, n_bytes; /* relative to the data section; entries in ascending order, touching */
};

/* Length prefix, JSON header with `metadata` as its __metadata__ object (pairs, NULL-terminated; may be NULL) and space
 * padding so that the data section starts at a multiple of `align`. malloc'ed; refuses names our reader would refuse. */
enum wm_status safetensors_header(const struct safetensors_entry *entries, size_t n_entries,
                                  const char *const *metadata, size_t align, void **header, size_t *n_bytes,
                                  struct wm_error *err);

#endif
