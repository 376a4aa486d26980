/*
 * stages.h: the three kinds of threads of the pipeline.
 *
 * What lives here: their entry points and the few functions they share. For pipeline.c, reader.c, compute.c, writer.c.
 * What it must not know: scheduling decisions (schedule.h).
 */
#ifndef WM_ENGINE_STAGES_H
#define WM_ENGINE_STAGES_H

#include "base/text.h"
#include "checkpoint/source.h"
#include "engine/schedule.h"

/* A compute thread and the backend it drives: the CPU's is shared by all its threads, a GPU has one thread. */
struct executor {
    struct pipeline *pipeline;
    struct backend *backend;
};

void *reader_thread(void *pipeline);
/* The open file of a source. Without the lock. */
enum wm_status reader_source(struct pipeline *p, const struct plan_source *src, struct source **source,
                             struct wm_error *err);
void *compute_thread(void *executor);
void *writer_thread(void *pipeline);

/* Less than this is written by the thread that computed it, and never with O_DIRECT. */
#define WRITER_SMALL_BYTES ((size_t)64 << 10)

/* Where a tile's output lies: in its slot at the offset that it has in its page of the file. */
unsigned char *writer_out_bytes(const struct pipeline *p, const struct run_job *job, size_t tile, uint32_t out_slot);
/* The hash of a tile in its output slot, and those of its pieces into the job's table; of a group, those of its members.
 * Without the lock. */
void writer_hash(const struct pipeline *p, struct write_task *task);
/* Writes and journals one tile. Called and left with the lock held. */
void writer_write(struct pipeline *p, struct write_task *task);

#endif
