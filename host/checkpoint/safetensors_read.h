/*
 * safetensors_read.h: one safetensors file's header as a table of tensors.
 *
 * What lives here: the checks of everything a header claims, before anything is allocated or computed from it. The
 * format: 8 bytes little-endian header length N, N bytes of JSON, then the data section, which the tensors must cover
 * exactly. Verdicts follow the reliability notes, section 1.5, column "Ours". What it must not know: directories,
 * indexes and what the tensors mean.
 */
#ifndef WM_CHECKPOINT_SAFETENSORS_READ_H
#define WM_CHECKPOINT_SAFETENSORS_READ_H

#include "checkpoint/checkpoint.h"

#define SAFETENSORS_PREFIX_BYTES   8
#define SAFETENSORS_NAME_MAX_BYTES 65536

struct safetensors_table {
    struct ckpt_tensor *tensors; /* in offset order; `begin` is absolute, `file` 0 */
    size_t n_tensors;
    uint64_t n_bytes; /* of all tensors */
};

/* The header's length out of a file's first bytes (`head`, at most SNIFF_BYTES of them needed), checked against the
 * file's size and the caps (header_cap 0: the default). */
enum wm_status safetensors_header_bytes(const char *path, const void *head, size_t n_head, uint64_t file_bytes,
                                        uint64_t header_cap, size_t *n_header, struct wm_error *err);

/* Checks a header of a file whose data section has n_data bytes. The table lives in `arena`; path is for messages.
 * problems gets the warnings. */
enum wm_status safetensors_parse(struct safetensors_table *table, const char *path, const char *header, size_t n_header,
                                 uint64_t n_data, struct arena *arena, struct problems *problems, struct wm_error *err);

/* Both, for a file, which is closed again. `shown` names it in messages. */
enum wm_status safetensors_read(struct safetensors_table *table, const char *path, const char *shown,
                                uint64_t header_cap, struct file_identity *identity, struct arena *arena,
                                struct problems *problems, struct wm_error *err);

#endif
