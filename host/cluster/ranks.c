/*
 * ranks.c: see ranks.h. One function per launcher fills a `struct statement`; the first that speaks of more than one
 * rank is believed, the rest must agree with it. Knows no getenv.
 */
#include "cluster/ranks.h"

#include "base/hash.h"
#include "base/text.h"
#include "cluster/comm.h"

#include <stdio.h>
#include <string.h>

enum { shown_bytes = 80 };

/* What one source says. */
struct statement {
    const char *launcher;
    const char *rank_name, *size_name; /* variables or flags, for messages */
    bool spoken;                       /* rank and size are known          */
    int rank, size, local_rank, local_size;
    char job[RANKS_JOB_BYTES];
};

struct finder {
    ranks_lookup lookup;
    void *user;
    struct wm_error *err;
    int own_size, own_rank; /* by flag or WARPMERGE_*; own_size 0, own_rank -1: not said */
    const char *own_size_name, *own_rank_name;
};

static const char *value_of(const struct finder *f, const char *name)
{
    const char *value = f->lookup(f->user, name);

    return value && *value ? value : NULL;
}

static enum wm_status parse(const struct finder *f, const char *name, const char *value, int min, int max, int *number)
{
    char shown[shown_bytes];
    uint64_t n;

    if (!text_parse_u64(value, &n) || n < (uint64_t)min || n > (uint64_t)max)
        return error_set(f->err, WM_USAGE, "%s is \"%s\", not a whole number from %d to %d; correct it%s", name,
                         text_display(shown, sizeof shown, value), min, max,
                         *name == '-' ? "" : ", or unset it, or add --ranks none to run as a single process");
    *number = (int)n;
    return WM_OK;
}

/* A variable that need not be there; *number stays as it is without it. */
static enum wm_status parse_optional(const struct finder *f, const char *name, int min, int max, int *number)
{
    const char *value = value_of(f, name);

    return value ? parse(f, name, value, min, max, number) : WM_OK;
}

static enum wm_status check_order(const struct finder *f, const char *rank_name, int rank, const char *size_name,
                                  int size)
{
    if (rank < size)
        return WM_OK;
    return error_set(f->err, WM_USAGE,
                     "%s is %d but %s is %d: ranks count from 0, so the last one is %d; correct them%s", rank_name,
                     rank, size_name, size, size - 1, *rank_name == '-' ? "" : ", or add --ranks none");
}

/* The pair that every launcher has. With `strict` one without the other is refused: a name that only this launcher
 * uses is no accident. */
static enum wm_status read_pair(const struct finder *f, struct statement *s, bool strict)
{
    const char *rank = value_of(f, s->rank_name), *size = value_of(f, s->size_name);
    enum wm_status st = WM_OK;

    if (!rank && !size)
        return WM_OK;
    if (!rank || !size) {
        if (!strict)
            return WM_OK;
        return error_set(f->err, WM_USAGE,
                         "%s is set but %s is not; set both, or unset both, or add --ranks none to run as a single "
                         "process",
                         rank ? s->rank_name : s->size_name, rank ? s->size_name : s->rank_name);
    }
    TRY(parse(f, s->rank_name, rank, 0, COMM_MAX_RANKS - 1, &s->rank));
    TRY(parse(f, s->size_name, size, 1, COMM_MAX_RANKS, &s->size));
    TRY(check_order(f, s->rank_name, s->rank, s->size_name, s->size));
    s->spoken = true;
out:
    return st;
}

static enum wm_status read_local(const struct finder *f, struct statement *s, const char *rank_name,
                                 const char *size_name)
{
    enum wm_status st;

    TRY(parse_optional(f, rank_name, 0, COMM_MAX_RANKS - 1, &s->local_rank));
    TRY(parse_optional(f, size_name, 1, COMM_MAX_RANKS, &s->local_size));
    if (s->local_rank >= 0 && s->local_size)
        TRY(check_order(f, rank_name, s->local_rank, size_name, s->local_size));
out:
    return st;
}

/* "kind:text", or "kind:<hash of text>" where that does not fit: a job is compared as a whole, so it is never cut. */
static void set_job(char job[RANKS_JOB_BYTES], const char *kind, const char *text)
{
    char hex[HASH128_HEX_BYTES];

    if (strlen(kind) + strlen(text) + 2 > RANKS_JOB_BYTES)
        text = hash128_hex(hex, hash_xxh3(text, strlen(text)));
    snprintf(job, RANKS_JOB_BYTES, "%s%s%s", kind, *kind ? ":" : "", text);
}

/* ---- the sources -------------------------------------------------------------------------------------------- */

/* Rank and size may come from different places: a Kubernetes manifest can only set the size. */
static enum wm_status read_own(struct finder *f, const struct ranks_request *request)
{
    const char *rank = request->rank, *size = request->ranks;
    enum wm_status st = WM_OK;

    f->own_rank_name = rank ? "--rank" : "WARPMERGE_RANK";
    f->own_size_name = size ? "--ranks" : "WARPMERGE_RANKS";
    rank = rank ? rank : value_of(f, "WARPMERGE_RANK");
    size = size ? size : value_of(f, "WARPMERGE_RANKS");
    if (rank)
        TRY(parse(f, f->own_rank_name, rank, 0, COMM_MAX_RANKS - 1, &f->own_rank));
    if (size)
        TRY(parse(f, f->own_size_name, size, 1, COMM_MAX_RANKS, &f->own_size));
    if (rank && !size) {
        st = error_set(f->err, WM_USAGE, "%s is %d but nothing says how many ranks there are; add --ranks N",
                       f->own_rank_name, f->own_rank);
        goto out;
    }
    if (rank)
        TRY(check_order(f, f->own_rank_name, f->own_rank, f->own_size_name, f->own_size));
out:
    return st;
}

static void own_flags(const struct finder *f, struct statement *s)
{
    *s = (struct statement){
        .launcher = "flags", .rank_name = f->own_rank_name, .size_name = f->own_size_name, .local_rank = -1};
    s->spoken = f->own_rank >= 0;
    s->rank = f->own_rank;
    s->size = f->own_size;
}

static enum wm_status torchrun(const struct finder *f, struct statement *s)
{
    const char *run = value_of(f, "TORCHELASTIC_RUN_ID"), *restart = value_of(f, "TORCHELASTIC_RESTART_COUNT");
    char text[512];
    enum wm_status st;

    *s = (struct statement){.launcher = "torchrun", .rank_name = "RANK", .size_name = "WORLD_SIZE", .local_rank = -1};
    TRY(read_pair(f, s, false)); /* both names are so plain that one alone may be anybody's */
    if (!s->spoken)
        goto out;
    TRY(read_local(f, s, "LOCAL_RANK", "LOCAL_WORLD_SIZE"));
    /* "none" is torchrun's default id: every run without --rdzv-id has it, so it tells no run from another. */
    if (run && strcmp(run, "none") != 0 && strlen(run) < sizeof text - 32) {
        snprintf(text, sizeof text, "%s.%.20s", run, restart ? restart : "0");
        set_job(s->job, "torchrun", text);
    }
out:
    return st;
}

static enum wm_status open_mpi(const struct finder *f, struct statement *s)
{
    const char *job = value_of(f, "PMIX_NAMESPACE");
    enum wm_status st;

    *s = (struct statement){.launcher = "Open MPI",
                            .rank_name = "OMPI_COMM_WORLD_RANK",
                            .size_name = "OMPI_COMM_WORLD_SIZE",
                            .local_rank = -1};
    TRY(read_pair(f, s, true));
    if (!s->spoken)
        goto out;
    TRY(read_local(f, s, "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"));
    job = job ? job : value_of(f, "OMPI_MCA_ess_base_jobid");
    if (job)
        set_job(s->job, "openmpi", job);
out:
    return st;
}

/* The n-th number of "4(x2),3": tasks on each node, repeats in brackets. 0 when it is written otherwise: the number of
 * ranks on this host is a help, not a need. */
static int tasks_on_node(const char *list, int node)
{
    while (*list) {
        int n_tasks = 0, n_times = 1;
        for (; *list >= '0' && *list <= '9' && n_tasks <= COMM_MAX_RANKS; list++)
            n_tasks = n_tasks * 10 + (*list - '0');
        if (strncmp(list, "(x", 2) == 0) {
            n_times = 0;
            for (list += 2; *list >= '0' && *list <= '9' && n_times <= COMM_MAX_RANKS; list++)
                n_times = n_times * 10 + (*list - '0');
            if (*list++ != ')')
                return 0;
        }
        if (n_tasks < 1 || n_tasks > COMM_MAX_RANKS || (*list && *list != ','))
            return 0;
        if (node < n_times)
            return n_tasks;
        node -= n_times;
        list += *list == ',';
    }
    return 0;
}

/* Batch, extern and interactive shells are steps too, with numbers from 0xfffffff0 on (slurm.h, SLURM_BATCH_SCRIPT and
 * its neighbours): in them SLURM_NTASKS is what the job may start, not what is running. */
static bool is_task_step(const char *step)
{
    uint64_t n;

    return text_parse_u64(step, &n) && n < 0xfffffff0u;
}

static enum wm_status slurm(const struct finder *f, struct statement *s)
{
    const char *step = value_of(f, "SLURM_STEP_ID"), *job = value_of(f, "SLURM_JOB_ID");
    const char *restart = value_of(f, "SLURM_RESTART_COUNT"), *layout = value_of(f, "SLURM_STEP_TASKS_PER_NODE");
    char text[96];
    enum wm_status st = WM_OK;
    int node = 0;

    *s = (struct statement){.launcher = "Slurm", .rank_name = "SLURM_PROCID", .local_rank = -1};
    s->size_name = value_of(f, "SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS";
    /* Shells of salloc and batch scripts have SLURM_NTASKS, the latter SLURM_PROCID too, and are no steps. */
    if (!value_of(f, "SLURM_PROCID") || !step || !is_task_step(step))
        goto out;
    TRY(read_pair(f, s, true));
    TRY(parse_optional(f, "SLURM_LOCALID", 0, COMM_MAX_RANKS - 1, &s->local_rank));
    TRY(parse_optional(f, "SLURM_NODEID", 0, COMM_MAX_RANKS - 1, &node));
    layout = layout ? layout : value_of(f, "SLURM_TASKS_PER_NODE");
    s->local_size = layout ? tasks_on_node(layout, node) : 0;
    /* Tasks of an array have job ids of their own: nothing more to do for them. */
    if (job && (size_t)snprintf(text, sizeof text, "%s.%s.%s", job, step, restart ? restart : "0") < sizeof text)
        set_job(s->job, "slurm", text);
out:
    return st;
}

static enum wm_status pmi(const struct finder *f, struct statement *s)
{
    const char *job = value_of(f, "PMI_JOBID");
    enum wm_status st;

    *s = (struct statement){.launcher = "PMI", .rank_name = "PMI_RANK", .size_name = "PMI_SIZE", .local_rank = -1};
    TRY(read_pair(f, s, true));
    if (!s->spoken)
        goto out;
    TRY(read_local(f, s, "MPI_LOCALRANKID", "MPI_LOCALNRANKS"));
    if (job)
        set_job(s->job, "pmi", job);
out:
    return st;
}

/* Sources that know an index and no size: the size is ours to be told. */
static enum wm_status read_index(const struct finder *f, struct statement *s, bool part)
{
    const char *index = value_of(f, s->rank_name);
    char shown[shown_bytes];
    enum wm_status st = WM_OK;

    if (!index || part)
        goto out;
    TRY(parse(f, s->rank_name, index, 0, COMM_MAX_RANKS - 1, &s->rank));
    if (!f->own_size) {
        st =
            error_set(f->err, WM_USAGE,
                      "%s is %s, but %s does not say how many ranks there are; set WARPMERGE_RANKS to that number (for "
                      "a Kubernetes job its completions), or use --part k/n, or --ranks none for a single process",
                      s->rank_name, text_display(shown, sizeof shown, index), s->launcher);
        goto out;
    }
    TRY(check_order(f, s->rank_name, s->rank, f->own_size_name, f->own_size));
    s->size = f->own_size;
    s->spoken = true;
out:
    return st;
}

static enum wm_status pmix(const struct finder *f, struct statement *s, bool part)
{
    const char *job = value_of(f, "PMIX_NAMESPACE");

    *s = (struct statement){
        .launcher = "PMIx", .rank_name = "PMIX_RANK", .size_name = f->own_size_name, .local_rank = -1};
    if (job)
        set_job(s->job, "pmix", job);
    return read_index(f, s, part);
}

/* A pod of an Indexed Job is called after its job and its index, "merge-7b-3": all pods of a run share what is before
 * the last dash. A job that is deleted and made again has the same name, so manifests set WARPMERGE_JOB to its uid. */
static enum wm_status kubernetes(const struct finder *f, struct statement *s, bool part)
{
    const char *pod = value_of(f, "HOSTNAME"), *index = value_of(f, "JOB_COMPLETION_INDEX");
    size_t n_pod = pod ? strlen(pod) : 0, n_index = index ? strlen(index) : 0;
    char name[256];

    *s = (struct statement){
        .launcher = "Kubernetes", .rank_name = "JOB_COMPLETION_INDEX", .local_rank = -1, .size_name = f->own_size_name};
    if (n_index && n_pod > n_index + 1 && n_pod < sizeof name && pod[n_pod - n_index - 1] == '-' &&
        strcmp(pod + n_pod - n_index, index) == 0) {
        snprintf(name, sizeof name, "%.*s", (int)(n_pod - n_index - 1), pod);
        set_job(s->job, "kubernetes", name);
    }
    return read_index(f, s, part);
}

/* ---- agreeing ----------------------------------------------------------------------------------------------- */

enum { OWN, TORCHRUN, OPEN_MPI, SLURM, PMI, N_PAIRED };

static enum wm_status contradiction(const struct finder *f, const struct statement *a, const char *name_a, int value_a,
                                    const struct statement *b, const char *name_b, int value_b)
{
    return error_set(f->err, WM_USAGE,
                     "%s is %d (%s) but %s is %d (%s), and both cannot be; unset the one that is not meant, or add "
                     "--ranks none to run as a single process",
                     name_a, value_a, a->launcher, name_b, value_b, b->launcher);
}

/* Launchers are nested in practice: one srun task per node starts torchrun or the daemon of mpirun, and what those
 * start inherits the variables of the srun. Such an outer step counts nodes, not ranks, and contradicts nothing. */
static bool counts_agents(const struct finder *f, const struct statement *all, int outer, int inner)
{
    const char *n_agents = value_of(f, "GROUP_WORLD_SIZE"), *n_nodes = value_of(f, "SLURM_STEP_NUM_NODES");
    const struct statement *o = &all[outer], *i = &all[inner];
    uint64_t n;

    if (outer <= inner || inner == OWN || o->size >= i->size)
        return false;
    if (inner == TORCHRUN && n_agents && text_parse_u64(n_agents, &n) && n == (uint64_t)o->size)
        return true;
    /* srun's own PMI tells the story of its step a second time. */
    if (outer == PMI && all[SLURM].spoken && all[SLURM].size == o->size && all[SLURM].rank == o->rank)
        return counts_agents(f, all, SLURM, inner);
    return outer == SLURM && n_nodes && text_parse_u64(n_nodes, &n) && n == (uint64_t)o->size;
}

/* The first that speaks of several ranks, else the first that speaks at all, else -1. */
static int choose(const struct statement *all)
{
    int chosen = -1;

    if (all[OWN].spoken)
        return OWN;
    for (int i = 0; i < N_PAIRED; i++)
        if (all[i].spoken && (chosen < 0 || (all[chosen].size == 1 && all[i].size > 1)))
            chosen = i;
    return chosen;
}

/* Checks the others against the chosen one and takes over what they know beyond it. */
static enum wm_status agree(const struct finder *f, struct statement *all, int chosen)
{
    struct statement *c = &all[chosen];

    for (int i = 0; i < N_PAIRED; i++) {
        const struct statement *s = &all[i];
        if (i == chosen || !s->spoken || s->size == 1 || c->size == 1 || counts_agents(f, all, i, chosen))
            continue;
        if (s->size != c->size)
            return contradiction(f, c, c->size_name, c->size, s, s->size_name, s->size);
        if (s->rank != c->rank)
            return contradiction(f, c, c->rank_name, c->rank, s, s->rank_name, s->rank);
        if (c->local_rank < 0)
            c->local_rank = s->local_rank;
        if (!c->local_size)
            c->local_size = s->local_size;
        if (!*c->job)
            memcpy(c->job, s->job, sizeof c->job);
    }
    if (f->own_size > 1 && c->size > 1 && f->own_size != c->size)
        return contradiction(f, &all[OWN], f->own_size_name, f->own_size, c, c->size_name, c->size);
    return WM_OK;
}

static enum wm_status find(struct finder *f, const struct ranks_request *request, struct statement *found)
{
    struct statement all[N_PAIRED];
    enum wm_status st = WM_OK;
    int chosen;

    TRY(read_own(f, request));
    if (f->own_size == 1 && f->own_rank < 0 && request->ranks)
        goto out; /* --ranks 1: the user means one process */
    own_flags(f, &all[OWN]);
    TRY(torchrun(f, &all[TORCHRUN]));
    TRY(open_mpi(f, &all[OPEN_MPI]));
    TRY(slurm(f, &all[SLURM]));
    TRY(pmi(f, &all[PMI]));
    chosen = choose(all);
    if (chosen >= 0) {
        TRY(agree(f, all, chosen));
        *found = all[chosen];
    }
    /* An index beside a launcher's ranks may count pods or daemons: only where nobody else speaks of several is it one. */
    if (chosen != OWN && (!found->spoken || found->size == 1)) {
        struct statement index;
        if (!found->spoken) {
            TRY(pmix(f, &index, request->part));
            if (index.spoken)
                *found = index;
        }
        if (!found->spoken || found->size == 1) {
            TRY(kubernetes(f, &index, request->part));
            if (index.spoken)
                *found = index;
        }
    }
    if (f->own_size > 1 && (!found->spoken || found->size == 1) && !request->part)
        st = error_set(f->err, WM_USAGE,
                       "%s is %d, but nothing says which rank this is; add --rank K, or start it with a launcher "
                       "(torchrun, mpirun, srun), or use --ranks none",
                       f->own_size_name, f->own_size);
out:
    return st;
}

enum wm_status ranks_discover(struct ranks *ranks, const struct ranks_request *request, ranks_lookup lookup, void *user,
                              struct wm_error *err)
{
    struct finder f = {.lookup = lookup, .user = user, .err = err, .own_rank = -1};
    struct statement found = {.launcher = "none", .size = 1, .local_rank = -1};
    bool off = request->ranks && strcmp(request->ranks, "none") == 0;
    const char *job = request->job ? request->job : value_of(&f, "WARPMERGE_JOB");
    enum wm_status st = WM_OK;

    if (off && request->rank) {
        st =
            error_set(err, WM_USAGE, "--ranks none means a single process, so --rank has no meaning; drop one of them");
        goto out;
    }
    if (request->job && !*request->job) {
        st = error_set(err, WM_USAGE, "--job is empty; give a text that only this run has, the same on every rank");
        goto out;
    }
    if (!off)
        TRY(find(&f, request, &found));
    if (job)
        set_job(found.job, "", job);
    *ranks = (struct ranks){found.rank, found.size, found.local_rank, found.local_size, found.launcher, ""};
    memcpy(ranks->job, found.job, sizeof ranks->job);
    if (found.size == 1) {
        ranks->local_rank = 0;
        ranks->local_size = 1;
    }
out:
    return st;
}
