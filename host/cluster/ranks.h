/*
 * ranks.h: which of how many processes this one is.
 *
 * What lives here: rank discovery from the user's own flags and from the variables that launchers set, and the refusal
 * of statements that contradict each other. What it must not know: what ranks do, and where variables come from (the
 * caller hands in a look-up, so that a test is a table).
 *
 * Order: own flags (or WARPMERGE_RANK, WARPMERGE_RANKS), torchrun, Open MPI, Slurm step, PMI, PMIx, Kubernetes Indexed
 * Job, none. A launcher that says "1 of 1" says nothing: `srun -n 1` around an mpirun of four is four ranks.
 */
#ifndef WM_CLUSTER_RANKS_H
#define WM_CLUSTER_RANKS_H

#include "base/error.h"

#include <stdbool.h>

#define RANKS_JOB_BYTES 128

/* What the user said on the command line, word for word; NULL where nothing was said. */
struct ranks_request {
    const char *rank;  /* --rank K                                                                        */
    const char *ranks; /* --ranks N, or "none": one process, whatever the environment says                */
    const char *job;   /* --job ID                                                                        */
    bool part;         /* --part k/n: ranks do not talk, so an index without a size is no contradiction   */
};

struct ranks {
    int rank, size;
    int local_rank, local_size; /* among the ranks of this host; -1 and 0 where nobody says */
    const char *launcher; /* "flags", "torchrun", "Open MPI", "Slurm", "PMI", "PMIx", "Kubernetes", "none"; static */
    /* The same text on every rank of one run and another one for every other run, restarts included; "" where the
     * launcher gives none. Printable or not as the launcher had it: show it through text_display. */
    char job[RANKS_JOB_BYTES];
};

/* The value of a variable, or NULL; an empty value counts as none. */
typedef const char *(*ranks_lookup)(void *user, const char *name);

/* WM_USAGE, with a sentence that names the variables, their values and the remedy. */
enum wm_status ranks_discover(struct ranks *ranks, const struct ranks_request *request, ranks_lookup lookup, void *user,
                              struct wm_error *err);

#endif
