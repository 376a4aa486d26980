/*
 * mpi_ranks.c: one rank of a run that shares bytes by MPI, to be started by mpirun: mpi_ranks FOLDER CASE
 *
 * What lives here: joining as a merge does, mpi_id_share, one line that says how it went. CASE is what befalls rank 1:
 * "well" nothing, "without" it has no MPI, "another" it names a library that is none, "stops" it is stopped for ever once
 * all have agreed on MPI (the launcher would see it die), "cancelled" its user stops it there. What it must not know: what is expected (test_mpi.py).
 */
#include "base/file.h"
#include "cluster/mpi_id.h"
#include "cluster/ranks.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { n_bytes = 128 };
static struct comm *files;
static const char *what;
static volatile int cancel;

static const char *look_up(void *user, const char *name)
{
    const char *value = getenv(name);

    (void)user;
    return value && *value ? value : NULL;
}

/* Between the agreement and MPI: the moment at which the others are going to wait for this rank where nobody can see it. */
static enum wm_status gather_and_suffer(struct comm *comm, const void *mine, size_t n, void *all, struct wm_error *err)
{
    enum wm_status st = files->ops->all_gather(files, mine, n, all, err);

    if (comm->rank == 1 && strcmp(what, "stops") == 0)
        raise(SIGSTOP);
    if (comm->rank == 1 && strcmp(what, "cancelled") == 0)
        cancel = 1;
    return st;
}

/* A child that ends this process when the others have had their time: nobody else may. */
static void end_in_the_end(void)
{
    pid_t parent = getpid();

    if (fork() != 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    sleep(25);
    if (getppid() == parent)
        kill(parent, SIGKILL);
    _Exit(0);
}

static bool has_failed(struct comm *comm, struct wm_error *err)
{
    (void)comm;
    return files->ops->failed(files, err);
}

static void give_up(struct comm *comm, const struct wm_error *why)
{
    (void)comm;
    files->ops->abort(files, why);
}

static void on_term(int number)
{
    _Exit(128 + number);
}

static bool handlers_are_kept(const struct sigaction *before)
{
    struct sigaction now;

    for (int s = 1; s < NSIG; s++)
        if (sigaction(s, NULL, &now) == 0 && now.sa_handler != before[s].sa_handler)
            return false;
    return true;
}

static void say(const char *folder, const struct ranks *ranks, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Into FOLDER.said.RANK; then waits for the other lines: launchers kill what is left when one has ended in disorder. */
static void say(const char *folder, const struct ranks *ranks, const char *format, ...)
{
    double until = file_now_seconds() + 10;
    char path[600];
    va_list args;
    FILE *f;

    snprintf(path, sizeof path, "%s.said.%d", folder, ranks->rank);
    f = fopen(path, "w");
    if (!f)
        return;
    va_start(args, format);
    vfprintf(f, format, args);
    va_end(args);
    fclose(f);
    for (int i = 0; i < ranks->size; i++) {
        snprintf(path, sizeof path, "%s.said.%d", folder, i);
        while (!(i == 1 && strcmp(what, "stops") == 0) && !file_exists(path) && file_now_seconds() < until)
            nanosleep(&(struct timespec){0, 10000000}, NULL);
    }
}

int main(int argc, char **argv)
{
    const struct comm_ops ops = {.all_gather = gather_and_suffer, .failed = has_failed, .abort = give_up};
    struct comm_files_options options = {.dir = argc == 3 ? argv[1] : "", .deadline_seconds = 3};
    struct wm_error err = WM_ERROR_INIT;
    struct sigaction before[NSIG];
    unsigned char bytes[n_bytes];
    struct comm control;
    struct ranks ranks;
    double began;
    bool by_mpi, right = true;
    enum wm_status st;

    if (argc != 3 || ranks_discover(&ranks, &(struct ranks_request){0}, look_up, NULL, &err) != WM_OK)
        return 2;
    what = argv[2];
    if (ranks.rank == 1 && (strcmp(what, "without") == 0 || strcmp(what, "another") == 0))
        setenv(MPI_ID_VARIABLE, strcmp(what, "without") == 0 ? "none" : "libm.so.6", 1);
    if (ranks.rank == 1 && strcmp(what, "stops") == 0)
        end_in_the_end();
    options.job = ranks.job;
    options.rank = ranks.rank;
    options.size = ranks.size;
    if (comm_open_files(&files, &options, &err) != WM_OK)
        return 3;
    control = *files;
    control.ops = &ops;
    files->cancel = control.cancel = &cancel;
    signal(SIGTERM, on_term);
    for (int s = 1; s < NSIG; s++)
        if (sigaction(s, NULL, &before[s]) < 0)
            memset(&before[s], 0, sizeof before[s]);
    for (int i = 0; i < n_bytes; i++)
        bytes[i] = (unsigned char)(ranks.rank == 0 ? 255 - i : 0);
    began = file_now_seconds();
    st = mpi_id_share(&control, bytes, sizeof bytes, &by_mpi, &err);
    for (int i = 0; i < n_bytes; i++)
        right = right && bytes[i] == 255 - i;
    say(argv[1], &ranks, "rank %d of %d: %s, by %s, bytes %s, handlers %s, %.1f s: %s\n", ranks.rank, ranks.size,
        wm_status_name(st), by_mpi ? "MPI" : "files", right ? "right" : "wrong",
        handlers_are_kept(before) ? "kept" : "changed", file_now_seconds() - began, err.message);
    files->ops->close(files);
    return 0;
}
