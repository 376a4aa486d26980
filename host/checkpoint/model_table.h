/*
 * model_table.h: the tables of several files as the one table of a model.
 *
 * What lives here: joining, natural order, lookup by name, and showing a tensor in a message. What it must not know:
 * where files come from.
 */
#ifndef WM_CHECKPOINT_MODEL_TABLE_H
#define WM_CHECKPOINT_MODEL_TABLE_H

#include "checkpoint/checkpoint.h"

/* Takes ckpt->tensors as they are, n_tensors of them; sorts them, fills names and n_bytes. A name that stands in two
 * files is refused. */
enum wm_status model_table_build(struct ckpt *ckpt, struct wm_error *err);

#endif
