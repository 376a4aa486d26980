/*
 * mpi_id.c: see mpi_id.h.
 *
 * Two families of MPI have two binary interfaces: handles are addresses of objects in Open MPI and integers in MPICH and
 * its kin (Intel MPI, MVAPICH, Cray; the common interface of 2013). What differs is in two small tables of functions.
 */
#include "cluster/mpi_id.h"

#include "base/file.h"
#include "base/hash.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LEAST_PAUSE_SECONDS 0.001
#define LOOK_SECONDS        0.02 /* control->failed may look at files */

enum family { NO_MPI, OPEN_MPI, MPICH };

struct mpi {
    enum family family;
    void *library;
    int (*init_thread)(int *argc, char ***argv, int required, int *provided);
    int (*initialized)(int *flag);
    int (*finalized)(int *flag);
    int (*finalize)(void);
    int (*get_library_version)(char *version, int *length);
};

enum { mpi_success = 0, mpi_thread_single = 0, mpi_max_version = 8192 /* of MPICH; Open MPI's is 256 */ };

static bool find(void *library, const char *name, void *pointer)
{
    void *found = dlsym(library, name);

    memcpy(pointer, &found, sizeof found);
    return found != NULL;
}

/* ---- Open MPI ---------------------------------------------------------------------------------------------------- */

static bool open_mpi_return_errors(void *library)
{
    int (*set_errhandler)(void *comm, void *handler);
    void *world, *handler;

    return find(library, "ompi_mpi_comm_world", &world) && find(library, "ompi_mpi_errors_return", &handler) &&
           find(library, "MPI_Comm_set_errhandler", &set_errhandler) && set_errhandler(world, handler) == mpi_success;
}

static bool open_mpi_broadcast(void *library, void *bytes, int n_bytes, void **request)
{
    int (*ibcast)(void *buffer, int count, void *type, int root, void *comm, void **request);
    void *world, *byte;

    return find(library, "ompi_mpi_comm_world", &world) && find(library, "ompi_mpi_byte", &byte) &&
           find(library, "MPI_Ibcast", &ibcast) && ibcast(bytes, n_bytes, byte, 0, world, request) == mpi_success;
}

static bool open_mpi_test(void *library, void **request, int *done)
{
    int (*test)(void **request, int *flag, void *status);

    return find(library, "MPI_Test", &test) && test(request, done, NULL) == mpi_success;
}

/* ---- MPICH: numbers of its mpi.h -------------------------------------------------------------------------------- */

enum { mpich_world = 0x44000000, mpich_byte = 0x4c00010d, mpich_errors_return = 0x54000001 };

static bool mpich_return_errors(void *library)
{
    int (*set_errhandler)(int comm, int handler);

    return find(library, "MPI_Comm_set_errhandler", &set_errhandler) &&
           set_errhandler(mpich_world, mpich_errors_return) == mpi_success;
}

static bool mpich_broadcast(void *library, void *bytes, int n_bytes, void **request)
{
    int (*ibcast)(void *buffer, int count, int type, int root, int comm, int *request);

    return find(library, "MPI_Ibcast", &ibcast) &&
           ibcast(bytes, n_bytes, mpich_byte, 0, mpich_world, (int *)(void *)request) == mpi_success;
}

static bool mpich_test(void *library, void **request, int *done)
{
    int (*test)(int *request, int *flag, void *status);
    void *const status_ignore = (void *)1; /* MPI_STATUS_IGNORE */

    return find(library, "MPI_Test", &test) && test((int *)(void *)request, done, status_ignore) == mpi_success;
}

static const struct {
    const char *sonames[2]; /* the second is Debian's */
    bool (*return_errors)(void *library);
    bool (*broadcast)(void *library, void *bytes, int n_bytes, void **request);
    bool (*test)(void *library, void **request, int *done);
} families[] = {
    [OPEN_MPI] = {{"libmpi.so.40", NULL}, open_mpi_return_errors, open_mpi_broadcast, open_mpi_test},
    [MPICH] = {{"libmpi.so.12", "libmpich.so.12"}, mpich_return_errors, mpich_broadcast, mpich_test},
};

/* ---- loading ----------------------------------------------------------------------------------------------------- */

static bool variable_number(const char *name, long *number)
{
    const char *text = getenv(name);
    char *end;

    if (!text || !*text)
        return false;
    errno = 0;
    *number = strtol(text, &end, 10);
    return !*end && errno == 0;
}

static bool variable_is(const char *name, int value)
{
    long number;

    return variable_number(name, &number) && number == value;
}

/* Only if this process is the launcher's own rank, and the launcher can still be spoken to: a library that finds nobody
 * ends the process. Hydra's children hold a socket to it; Open MPI's are told of a PMIx server. */
static enum family find_family(const struct comm *control)
{
    long fd;

    if (variable_is("OMPI_COMM_WORLD_RANK", control->rank) && variable_is("OMPI_COMM_WORLD_SIZE", control->size) &&
        variable_is("PMIX_RANK", control->rank) && getenv("PMIX_NAMESPACE"))
        return OPEN_MPI;
    if (variable_is("PMI_RANK", control->rank) && variable_is("PMI_SIZE", control->size) &&
        variable_number("PMI_FD", &fd) && fd >= 0 && fd <= INT_MAX && fcntl((int)fd, F_GETFD) >= 0)
        return MPICH;
    return NO_MPI;
}

/* A program that uses MPI itself keeps it to itself: which threads may call it is its business. */
static bool is_free(const struct mpi *m)
{
    int initialized = 1, finalized = 1;

    return m->initialized(&initialized) == mpi_success && m->finalized(&finalized) == mpi_success && !initialized &&
           !finalized;
}

/* Open MPI's own modules look for its symbols among the global ones. */
static void *open_library(const char *name)
{
    return dlopen(name, RTLD_NOW | RTLD_GLOBAL);
}

static void load(struct mpi *m, const struct comm *control)
{
    const char *named = secure_getenv(MPI_ID_VARIABLE);

    memset(m, 0, sizeof *m);
    m->family = find_family(control);
    if (m->family == NO_MPI || (named && strcmp(named, "none") == 0))
        goto none;
    m->library = open_library(named && *named ? named : families[m->family].sonames[0]);
    if (!m->library && !(named && *named) && families[m->family].sonames[1])
        m->library = open_library(families[m->family].sonames[1]);
    if (m->library && find(m->library, "MPI_Init_thread", &m->init_thread) &&
        find(m->library, "MPI_Initialized", &m->initialized) && find(m->library, "MPI_Finalized", &m->finalized) &&
        find(m->library, "MPI_Finalize", &m->finalize) &&
        find(m->library, "MPI_Get_library_version", &m->get_library_version) && is_free(m))
        return;
none:
    m->family = NO_MPI;
}

/* ---- signal handlers --------------------------------------------------------------------------------------------- */

struct handlers {
    struct sigaction of[NSIG];
};

static void save_handlers(struct handlers *h)
{
    for (int s = 1; s < NSIG; s++)
        if (sigaction(s, NULL, &h->of[s]) < 0)
            h->of[s].sa_handler = SIG_ERR; /* none to have */
}

static void restore_handlers(const struct handlers *h)
{
    struct sigaction now;

    for (int s = 1; s < NSIG; s++)
        if (h->of[s].sa_handler != SIG_ERR && sigaction(s, NULL, &now) == 0 && now.sa_handler != h->of[s].sa_handler)
            sigaction(s, &h->of[s], NULL);
}

/* ---- the broadcast ----------------------------------------------------------------------------------------------- */

struct broadcast { /* shared with a thread that may be left behind: the last of the two frees it */
    struct mpi mpi;
    struct handlers handlers;
    int n_bytes;
    unsigned char bytes[MPI_ID_MAX_BYTES];
    pthread_mutex_t lock;
    bool done, well, left_behind; /* under the lock */
};

static void pause_for(double seconds)
{
    struct timespec t = {0, (long)(seconds * 1e9)};

    nanosleep(&t, NULL);
}

static void broadcast_free(struct broadcast *b)
{
    pthread_mutex_destroy(&b->lock);
    free(b);
}

static bool broadcast(struct broadcast *b)
{
    enum family f = b->mpi.family;
    void *request = NULL;
    int provided, done = 0;
    double pause = LEAST_PAUSE_SECONDS;
    bool well;

    if (b->mpi.init_thread(NULL, NULL, mpi_thread_single, &provided) != mpi_success)
        return false;
    well = families[f].return_errors(b->mpi.library) &&
           families[f].broadcast(b->mpi.library, b->bytes, b->n_bytes, &request);
    while (well && !done) {
        well = families[f].test(b->mpi.library, &request, &done);
        if (!done)
            pause_for(pause);
        pause = pause < LOOK_SECONDS ? 2 * pause : pause;
    }
    /* Where a rank is missing this thread never gets here or stays here, and nobody waits for it. Where all were only slow
     * it still takes leave: launchers end a job whose processes do not. */
    return well && done && b->mpi.finalize() == mpi_success;
}

static void *broadcast_thread(void *argument)
{
    struct broadcast *b = argument;
    bool well = broadcast(b), nobody_waits;

    restore_handlers(&b->handlers);
    pthread_mutex_lock(&b->lock);
    b->done = true;
    b->well = well;
    nobody_waits = b->left_behind;
    pthread_mutex_unlock(&b->lock);
    if (nobody_waits)
        broadcast_free(b);
    return NULL;
}

static bool start_thread(struct broadcast *b)
{
    pthread_attr_t detached;
    pthread_t thread;
    sigset_t all, old;
    int code;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    code = pthread_create(&thread, &detached, broadcast_thread, b);
    pthread_attr_destroy(&detached);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return code == 0;
}

/* Waits for the thread until the deadline or a failure elsewhere, of which control then tells. The user's wish to stop waits
 * for MPI, which is done in a second: a launcher that loses processes in the midst of it may hang (mpirun 4.1.4). */
static bool wait_for_thread(struct comm *control, struct broadcast *b)
{
    double until = file_now_seconds() + control->deadline_seconds, next_look = 0;

    for (;;) {
        double now = file_now_seconds();
        bool stop = now > until, done;
        if (!stop && now >= next_look) {
            struct wm_error ignored = WM_ERROR_INIT;
            stop = control->ops->failed(control, &ignored);
            next_look = now + LOOK_SECONDS;
        }
        pthread_mutex_lock(&b->lock);
        done = b->done;
        b->left_behind = stop && !done;
        pthread_mutex_unlock(&b->lock);
        if (done || stop)
            return done;
        pause_for(LEAST_PAUSE_SECONDS);
    }
}

static bool by_mpi(struct comm *control, const struct mpi *mpi, void *bytes, size_t n_bytes)
{
    struct broadcast *b = calloc(1, sizeof *b);
    struct handlers handlers;
    bool well;

    if (!b)
        return false;
    save_handlers(&handlers);
    b->handlers = handlers;
    b->mpi = *mpi;
    b->n_bytes = (int)n_bytes;
    if (control->rank == 0)
        memcpy(b->bytes, bytes, n_bytes);
    pthread_mutex_init(&b->lock, NULL);
    if (!start_thread(b)) {
        broadcast_free(b);
        return false;
    }
    if (!wait_for_thread(control, b)) {
        restore_handlers(&handlers); /* b is the thread's now */
        return false;
    }
    well = b->well;
    if (well)
        memcpy(bytes, b->bytes, n_bytes);
    broadcast_free(b);
    return well;
}

/* ---- agreement --------------------------------------------------------------------------------------------------- */

struct note {
    int32_t family;                        /* enum family */
    int32_t well;                          /* after the broadcast: it worked here */
    uint64_t version;                      /* before: a hash of the library's own words; after: of the bytes */
    unsigned char bytes[MPI_ID_MAX_BYTES]; /* rank 0's, unless it has hope for MPI */
};

static bool all_alike(const struct note *all, int size)
{
    for (int i = 0; i < size; i++)
        if (all[i].family != all[0].family || all[i].well != 1 || all[i].version != all[0].version)
            return false;
    return true;
}

static struct note before(const struct mpi *mpi)
{
    struct note note = {.family = (int32_t)mpi->family, .well = mpi->family != NO_MPI};
    char version[mpi_max_version] = "";
    int length = 0;

    if (note.well && mpi->get_library_version(version, &length) == mpi_success)
        note.version = hash_xxh3_64(version, strnlen(version, sizeof version), 0);
    return note;
}

enum wm_status mpi_id_share(struct comm *control, void *bytes, size_t n_bytes, bool *by, struct wm_error *err)
{
    struct note *all = calloc((size_t)control->size, sizeof *all), mine;
    enum wm_status st = WM_OK;
    struct handlers handlers;
    struct mpi mpi;

    *by = false;
    if (!all || n_bytes > MPI_ID_MAX_BYTES) {
        st = all ? error_set(err, WM_BUG, "%zu bytes are too many to share; report this", n_bytes)
                 : error_no_memory(err, "sharing an id");
        control->ops->abort(control, err);
        goto out;
    }
    save_handlers(&handlers);
    load(&mpi, control);
    restore_handlers(&handlers); /* libraries install some while they are loaded (UCX, below MPICH) */
    mine = before(&mpi);
    if (control->rank == 0 && !mine.well)
        memcpy(mine.bytes, bytes, n_bytes);
    TRY(control->ops->all_gather(control, &mine, sizeof mine, all, err));
    if (all_alike(all, control->size)) {
        mine.well = by_mpi(control, &mpi, bytes, n_bytes);
        mine.version = hash_xxh3_64(bytes, n_bytes, 0);
        if (control->rank == 0) /* they are needed if it did not work somewhere */
            memcpy(mine.bytes, bytes, n_bytes);
        TRY(control->ops->all_gather(control, &mine, sizeof mine, all, err));
        *by = all_alike(all, control->size);
    } else if (all[0].well) {
        if (control->rank == 0)
            memcpy(mine.bytes, bytes, n_bytes);
        TRY(control->ops->all_gather(control, &mine, sizeof mine, all, err));
    }
    if (!*by)
        memcpy(bytes, all[0].bytes, n_bytes);
out:
    free(all);
    return st;
}
