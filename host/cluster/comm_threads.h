/*
 * comm_threads.h: ranks that are threads of one process.
 *
 * What lives here: making them. Simulated GPUs and tests use it, and it is the model for what the others must do. What
 * it must not know: who runs the threads. A thread cannot die alone, so there is no deadline: a rank that closes while
 * others wait for it is the failure that there is.
 */
#ifndef WM_CLUSTER_COMM_THREADS_H
#define WM_CLUSTER_COMM_THREADS_H

#include "cluster/comm.h"

/* comms[size], one for each thread; each is closed on its own. On failure none is made. */
enum wm_status comm_open_threads(struct comm **comms, int size, struct wm_error *err);

#endif
