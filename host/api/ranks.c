/*
 * ranks.c: wm_options_find_ranks and wm_merge_open_parts: how a process learns that it is one of several, and how the work
 * of several is taken up again. Knows the environment and the parts' file, no engine.
 */
#include "api/merge_state.h"
#include "api/parts_file.h"

#include "base/file.h"
#include "base/text.h"
#include "cluster/ranks.h"
#include "report/report.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *look_up(void *user, const char *name)
{
    (void)user;
    return getenv(name);
}

/* mpirun binds a rank to one processor unless told otherwise, on which a merge is as slow as on a machine with one. What Slurm
 * and Kubernetes leave is what the job has asked for. */
static void warn_of_binding(const struct wm_options *options, const char *launcher)
{
    static const char *const binders[] = {"Open MPI", "PMI", "PMIx"};
    long n_online = sysconf(_SC_NPROCESSORS_ONLN);
    char text[320];
    const struct wm_problem problem = {WM_WARNING, WM_OK, text};
    bool may_bind = false;
    cpu_set_t set;
    int n_own;

    for (size_t i = 0; i < sizeof binders / sizeof *binders; i++)
        may_bind = may_bind || strcmp(launcher, binders[i]) == 0;
    if (!may_bind || !options->on_problem || options->rank > 0 || options->n_threads > 0 || options->local_size < 1 ||
        sched_getaffinity(0, sizeof set, &set) != 0)
        return;
    n_own = CPU_COUNT(&set);
    if (n_online < 1 || n_own >= n_online / options->local_size)
        return;
    snprintf(text, sizeof text,
             "the launcher binds this rank to %d of %ld processors, which %d rank%s on this machine could share; with "
             "Open MPI add --bind-to none behind mpirun",
             n_own, n_online, options->local_size, options->local_size == 1 ? "" : "s");
    options->on_problem(options->user, &problem);
}

enum wm_status wm_options_find_ranks(struct wm_options *options, const char *rank, const char *ranks, const char *job,
                                     struct wm_error *err)
{
    struct ranks_request request = {rank, ranks, job, options->n_parts > 0};
    struct ranks found;
    enum wm_status st = ranks_discover(&found, &request, look_up, NULL, err);

    if (st != WM_OK)
        return st;
    options->n_ranks = found.size > 1 ? found.size : 0; /* one is nobody to share with */
    options->rank = found.rank;
    options->local_rank = found.local_rank < 0 ? 0 : found.local_rank;
    options->local_size = found.local_size;
    memcpy(options->rank_job, found.job, sizeof options->rank_job);
    if (options->n_ranks > 1)
        warn_of_binding(options, found.launcher);
    return WM_OK;
}

/* ---- the end of parts -------------------------------------------------------------------------------------------- */

static enum wm_status check_folder(const struct parts_file *parts, struct wm_error *err)
{
    char *here = getcwd(NULL, 0);
    bool same = here && strcmp(here, parts->folder) == 0;

    free(here);
    return same ? WM_OK
                : error_set(err, WM_USAGE,
                            "the parts were merged from %s, and paths in the config may be relative to it; change to "
                            "that folder and finish there",
                            parts->folder);
}

/* finish after finish: the folder of the parts is gone, for it has become the output. */
static enum wm_status open_finished(struct wm_merge **out, const char *out_path, const struct wm_options *options,
                                    bool ready, struct wm_error *err)
{
    struct wm_merge *merge = calloc(1, sizeof *merge);

    if (!merge || !(merge->out_path = strdup(out_path))) {
        wm_merge_free(merge);
        return error_no_memory(err, "finishing the parts");
    }
    merge->options = *options;
    merge->ready = ready;
    merge->complete = !ready;
    *out = merge;
    return WM_OK;
}

enum wm_status wm_merge_open_parts(struct wm_merge **out, const char *out_path, const struct wm_options *given,
                                   struct wm_error *err)
{
    struct wm_options options = WM_OPTIONS_INIT;
    struct parts_file parts = {NULL, NULL, NULL, 0};
    char *partial = NULL;
    enum wm_status st = WM_OK;
    bool ready;

    *out = NULL;
    if (given)
        memcpy(&options, given, given->size < sizeof options ? given->size : sizeof options);
    options.size = sizeof options;
    if (!out_path || !*out_path)
        return error_set(err, WM_USAGE, "the output path is empty; give the directory that the parts were merged into");
    if (options.n_ranks > 1)
        return error_set(err, WM_USAGE,
                         "finish is one process, and a launcher has started %d: start it once, or add "
                         "--ranks none",
                         options.n_ranks);
    partial = output_partial_path(out_path);
    if (!partial) {
        st = error_no_memory(err, "finishing the parts");
        goto out;
    }
    ready = output_is_ready(partial) && report_is_complete(partial, NULL);
    if (ready || (!file_exists(partial) && report_is_complete(out_path, NULL))) {
        st = open_finished(out, out_path, &options, ready, err);
        goto out;
    }
    TRY(parts_file_read(partial, &parts, &options, err));
    TRY(check_folder(&parts, err));
    if (!options.hub_cache)
        options.hub_cache = parts.hub_cache;
    options.n_parts = 0;
    options.n_ranks = 0;
    options.restart = 0;
    TRY(wm_merge_open(out, parts.config_path, &options, err));
    (*out)->n_finishes = parts.n_parts;
    TRY(wm_merge_plan(*out, out_path, err));
    (*out)->options.hub_cache =
        given ? given->hub_cache : NULL; /* the file's text goes away; it is not needed any more */
out:
    if (st != WM_OK) {
        wm_merge_free(*out);
        *out = NULL;
    }
    parts_file_release(&parts);
    free(partial);
    return st;
}
