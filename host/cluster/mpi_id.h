/*
 * mpi_id.h: a few bytes of rank 0's to every rank, by MPI where an MPI launcher started the ranks.
 *
 * What lives here: loading MPI at run time, agreeing on it, one broadcast with a deadline. What it must not know: what the
 * bytes are for (the id of an NCCL communicator).
 *
 * MPI is a guest that behaves like a host: initialising it waits for all ranks for ever, it installs signal handlers, and
 * a broken one ends the process. So it is asked only when every rank has said, through `control`, that it can load the
 * same one and that the launcher is its own; in a thread that can be left behind; its handlers go with it; and when
 * anything fails on any rank, all of them take the bytes from `control` instead. Nothing of a merge depends on it.
 */
#ifndef WM_CLUSTER_MPI_ID_H
#define WM_CLUSTER_MPI_ID_H

#include "cluster/comm.h"

#define MPI_ID_VARIABLE  "WM_MPI_LIBRARY" /* names another libmpi of the launcher's family, or is "none" */
#define MPI_ID_MAX_BYTES 256

/* Collective. `bytes` is rank 0's on every rank afterwards; *by_mpi, the same everywhere, tells which way they took.
 * Fails only where control does; n_bytes up to MPI_ID_MAX_BYTES. */
enum wm_status mpi_id_share(struct comm *control, void *bytes, size_t n_bytes, bool *by_mpi, struct wm_error *err);

#endif
