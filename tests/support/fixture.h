/*
 * fixture.h: small models for tests.
 *
 * What lives here: a temporary folder, model directories written tensor by tensor, whole merges through the public API,
 * and digests of what came out. For tests only.
 */
#ifndef WM_TESTS_FIXTURE_H
#define WM_TESTS_FIXTURE_H

#include "base/hash.h"
#include "warpmerge.h"

#include <stddef.h>
#include <stdint.h>

struct fixture {
    char dir[64];
};

void fixture_init(struct fixture *f);    /* asserts */
void fixture_release(struct fixture *f); /* removes the folder and all below it */
/* "<dir>/<name>"; a ring of 16 static buffers */
const char *fixture_path(const struct fixture *f, const char *name);

struct fixture_tensor {
    const char *name;
    enum wm_dtype dtype;
    int n_dims;
    uint64_t shape[4];
    uint64_t seed;       /* values N(0, spread)-like, rounded to the type; integers: small counts */
    double spread;       /* 0: all zero */
    uint64_t delta_seed; /* non-zero: a second draw is added before rounding (a fine-tune) */
    double delta_spread;
    const void *data; /* not NULL: these bytes instead */
};

/* <dir>/<model>/model.safetensors (or shards of at most shard_bytes with an index) and config.json (NULL: none). */
void fixture_write_model(const struct fixture *f, const char *model, const struct fixture_tensor *tensors,
                         size_t n_tensors, uint64_t shard_bytes, const char *config_json);
void fixture_write_file(const struct fixture *f, const char *name, const char *text);

/* Runs a whole merge of <dir>/<config> into <dir>/<out>. Returns its status; err may be NULL. */
enum wm_status fixture_merge(const struct fixture *f, const char *config, const char *out, const struct wm_options *opt,
                             struct wm_error *err);
/* XXH3 over names and bytes of every file in <dir>/<out>, in name order. */
struct hash128 fixture_digest(const struct fixture *f, const char *out);
/* The bytes of one tensor of <dir>/<model>; malloc'ed. Asserts that it is there. */
void *fixture_read_tensor(const struct fixture *f, const char *model, const char *tensor, size_t *n_bytes);

#endif
