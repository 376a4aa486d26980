/*
 * checkpoint_weights.h: the values of synthetic checkpoints, and writing them fast.
 *
 * What lives here: a counter-based generator (value = function of seed, tensor name and element index) and the threads
 * that fill the laid-out files of a base and its fine-tunes in one pass. What it must not know: architectures, headers,
 * options.
 */
#ifndef WM_BENCH_CHECKPOINT_WEIGHTS_H
#define WM_BENCH_CHECKPOINT_WEIGHTS_H

#include "base/error.h"
#include "checkpoint_shapes.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WEIGHTS_STD 0.02 /* of base weights: the initializer_range of nearly every published model */

struct weights_file {
    int fd;
    const char *path; /* for messages */
};

struct weights_job {
    const struct shape_tensors *tensors;
    uint64_t seed;
    /* Standard deviation of a fine-tune's change where weights have WEIGHTS_STD; scaled with the tensor's own spread
     * and, as in real fine-tunes, uneven over tensors (a seeded factor of 1/2 to 2 each). */
    double delta_std;
    const struct weights_file *sources; /* files of an existing base; NULL: the base is generated */
    bool writes_base;                   /* variant 0 is the base itself, else all variants are fine-tunes */
    int n_variants, n_shards;
    const struct weights_file *outputs; /* [n_variants][n_shards] */
    int n_threads;
};

/* Fills the data of every output. Deltas are added in fp32 and rounded to the element type again, so fine-tunes are
 * quantised as real ones are; types that are not floats are copied. WM_IO, WM_TEMPORARY. */
enum wm_status weights_write(const struct weights_job *job, struct wm_error *err);

#endif
