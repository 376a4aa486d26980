/*
 * ranks_rig.h: whole merges by ranks that are threads on pretended GPUs.
 *
 * What lives here: models whose large tensors are split, a recipe for every class of methods, and merges of them by any
 * number of ranks, to their end however they end. What it must not know: what a test is about.
 */
#ifndef TESTS_RANKS_RIG_H
#define TESTS_RANKS_RIG_H

#include "comm_nccl_rig.h"
#include "support/fixture.h"

enum { RANKS_RIG_MAX = 8 };

struct ranks_recipe {
    const char *name, *yaml;
    bool splits; /* both large tensors over 8 ranks: what the tests rest on */
};
extern const struct ranks_recipe ranks_recipes[];
extern const size_t ranks_recipes_count;
const struct ranks_recipe *ranks_recipe(const char *name);

/* Of the rank whose thread this is, outside the pipeline; -1: none. */
extern _Thread_local int ranks_number_here;

struct ranks_run;

struct merge_rank {
    struct ranks_run *run;
    int number;
    char config[200], out[200];
    struct wm_options options;
    struct wm_merge *handle;
    struct wm_error err;
    uint64_t bytes_resumed; /* as its progress said */
    char spoke[400];        /* what it said about how the ranks speak */
};

struct ranks_run {
    struct merge_rank ranks[RANKS_RIG_MAX];
    int n_ranks;
    int watched_rank, n_records;                /* once its journal has so many records more, ... */
    void (*interrupt)(struct merge_rank *rank); /* ... this happens to it; NULL: nothing */
    uint64_t bytes_resumed;                     /* of all ranks */
};

/* m0 (the base) to m2, with two tensors that are split, and small ones of mixed types. */
void ranks_write_models(const struct fixture *f);
/* <dir>/<name of the recipe>.yml */
void ranks_write_config(const struct fixture *f, const struct ranks_recipe *recipe);

/* Fresh devices, each with a good part of what the merge would like, and a fresh NCCL. */
void ranks_machine(int n_devices, bool lazy);

/* All options are set for `n_ranks` that make <dir>/<out>; the caller may change them before ranks_merge. */
void ranks_begin(struct ranks_run *run, const struct fixture *f, const struct ranks_recipe *recipe, const char *out,
                 int n_ranks, enum wm_device device);
void ranks_merge(struct ranks_run *run);
/* Fails the test unless every rank has ended well, and NCCL and the devices are as they were found. */
void ranks_expect_well(const struct ranks_run *run, const char *what);
void ranks_expect_tidy(const char *what);
/* The digest of <dir>/<out>, which is gone afterwards: there are hundreds. */
struct hash128 ranks_digest(const struct fixture *f, const char *out);
/* ... of what one process on the CPU makes. */
struct hash128 ranks_digest_of_one(const struct fixture *f, const struct ranks_recipe *recipe);

#endif
