/*
 * team.h: one of several ranks: what they tell each other around and between their pipelines.
 *
 * What lives here: agreeing on the plan, the tensors that are split although they need statistics (all ranks go through
 * their passes together, one tensor after another), and putting the hashes together. Every function is collective: all
 * ranks call it, in the same order. What it must not know: how tiles are computed, who opens the output.
 */
#ifndef WM_ENGINE_TEAM_H
#define WM_ENGINE_TEAM_H

#include "engine/pipeline.h"

/* WM_BAD_CONFIG unless every rank has this plan, with the same tiles, divides it in the same way, and shares the statistics of
 * the same tensors. */
enum wm_status team_agree(const struct engine_team *team, const struct plan *plan, struct wm_error *err);

/* How many ranks have the same non-empty text of n_bytes, this one included; 1 for an empty one. */
enum wm_status team_count_alike(const struct engine_team *team, const char *text, size_t n_bytes, int *n_alike,
                                struct wm_error *err);

/* The reduction of surveys: `user` is the team's comm. */
enum wm_status team_reduce(void *user, uint64_t *counts, size_t n_counts, struct wm_error *err);
/* For pipeline_args.interrupted: `user` is the comm. */
bool team_interrupted(void *user, struct wm_error *err);

/* Runs those tensors. `base` is what a pipeline over all our other ranges will get; totals are added to. */
enum wm_status team_run_shared(const struct engine_team *team, const struct pipeline_args *base,
                               struct pipeline_totals *totals, struct wm_error *err);

/* Afterwards: job_hashes of all tensors on all ranks, those of split ones from their pieces. */
enum wm_status team_exchange_hashes(const struct engine_team *team, const struct plan *plan,
                                    struct hash128 **split_digests, struct hash128 *job_hashes, struct wm_error *err);

#endif
