/*
 * resume.h: taking over finished ranges from an earlier run.
 *
 * What lives here: reading the ranges that the journal names back from the shards, comparing their checksums, and the
 * table of what may be kept. What it must not know: how ranges are computed.
 */
#ifndef WM_ENGINE_RESUME_H
#define WM_ENGINE_RESUME_H

#include "engine/journal.h"
#include "plan/plan.h"
#include "plan/plan_partition.h"

/* A tensor of which some pieces (TILE_CHUNK_ELEMS elements each) are finished. */
struct resume_job {
    struct hash128 *digests;   /* [n_pieces], valid where done */
    unsigned char *piece_done; /* [n_pieces]                   */
};

struct resume {
    struct resume_job **jobs; /* [n_jobs]: NULL where nothing is finished or everything is */
    unsigned char *job_done;  /* [n_jobs]: complete, its hash is in job_hashes              */
    uint64_t n_bytes, n_jobs_done;
};

/* Does the record name a range of this plan? */
bool resume_record_is_sane(const struct plan *plan, const struct journal_record *record);
/* `shard_fds` are open for reading. Wrong or unreadable ranges are left to be computed again. n_threads read at once. */
enum wm_status resume_load(struct resume *resume, const struct plan *plan, const int *shard_fds,
                           const struct journal_record *records, size_t n_records, struct hash128 *job_hashes,
                           const volatile int *cancel, struct wm_error *err);
/* Takes the job's table out of `resume` (the caller frees with resume_job_free); NULL if nothing of it is finished. */
struct resume_job *resume_take(struct resume *resume, size_t job);
bool resume_range_is_done(const struct resume *resume, const struct plan_range *range); /* as loaded, nothing taken */
void resume_job_free(struct resume_job *job);
void resume_release(struct resume *resume, size_t n_jobs);

size_t resume_piece_bytes(enum wm_dtype dtype); /* bytes of one full piece */
size_t resume_n_pieces(uint64_t n_elems);

#endif
