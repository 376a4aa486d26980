/*
 * comm_world.h: ranks to test a comm with.
 *
 * What lives here: starting n ranks as threads or as forked processes over any implementation, running one function on
 * each, and bringing back what each found wrong. What it must not know: what is tested.
 *
 * cmocka's assertions leave by longjmp and so belong to the main thread: a rank writes its complaint into its slot
 * (RANK_CHECK), and world_run shows it. Slots are shared memory, so that processes can complain too.
 */
#ifndef WM_TESTS_COMM_WORLD_H
#define WM_TESTS_COMM_WORLD_H

#include "base/file.h"
#include "cluster/comm.h"
#include "cluster/comm_threads.h"
#include "temp_dir.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

enum { WORLD_MAX_RANKS = 8, WORLD_MAX_ROUNDS = 64 };
enum world_kind { WORLD_SELF, WORLD_THREADS, WORLD_FILES_IN_THREADS, WORLD_FILES_IN_PROCESSES };
static const char *const world_names[] = {"self", "threads", "files in threads", "files in processes"};

struct slot {
    char complaint[2600];
    int pid;
    int killed; /* this rank is to die: how it ends is no complaint */
    volatile int rounds[WORLD_MAX_ROUNDS];
    volatile int flag;
};

struct world {
    enum world_kind kind;
    int size;
    double deadline_seconds;               /* 0: 20 */
    const char *dir, *job;                 /* NULL: "<root>/ranks", "job" */
    int (*size_of)(int rank);              /* what each rank believes; NULL: size */
    int (*rank_of)(int index);             /* NULL: the index */
    double start_seconds[WORLD_MAX_RANKS]; /* before this rank opens its comm */
    const void *user;
};

struct place {
    const struct world *world;
    struct slot *slots, *mine;
    int index;
    struct comm *comm;
};

typedef void (*rank_body)(struct place *p);

static char world_root[64];

static inline void world_sleep(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};

    nanosleep(&t, NULL);
}

static inline void complain(struct place *p, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));
static inline void complain(struct place *p, int line, const char *format, ...)
{
    char *complaint = p->mine->complaint;
    va_list args;
    int n;

    if (*complaint)
        return;
    n = snprintf(complaint, sizeof p->mine->complaint, "line %d: ", line);
    va_start(args, format);
    vsnprintf(complaint + n, sizeof p->mine->complaint - (size_t)n, format, args);
    va_end(args);
}

/* In a rank_body: the first thing that is wrong ends it. */
#define RANK_CHECK(condition, ...)                                                                                     \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            complain(p, __LINE__, __VA_ARGS__);                                                                        \
            return;                                                                                                    \
        }                                                                                                              \
    } while (0)

/* What another rank has set, within ten seconds. */
static inline bool world_wait(volatile int *flag)
{
    for (int i = 0; i < 10000 && !__atomic_load_n(flag, __ATOMIC_SEQ_CST); i++)
        world_sleep(0.001);
    return __atomic_load_n(flag, __ATOMIC_SEQ_CST) != 0;
}

static inline void world_set(volatile int *flag)
{
    __atomic_store_n(flag, 1, __ATOMIC_SEQ_CST);
}

struct runner {
    struct place place;
    rank_body body;
    pthread_t thread;
};

static inline void *world_run_rank(void *argument)
{
    struct runner *runner = argument;
    struct place *p = &runner->place;
    const struct world *w = p->world;
    struct wm_error err = WM_ERROR_INIT;
    char dir[128];

    p->mine->pid = getpid();
    world_sleep(w->start_seconds[p->index]);
    if (w->kind == WORLD_SELF && comm_open_self(&p->comm, &err) != WM_OK)
        complain(p, __LINE__, "cannot open: %s", err.message);
    if (w->kind == WORLD_FILES_IN_THREADS || w->kind == WORLD_FILES_IN_PROCESSES) {
        struct comm_files_options options = {.dir = w->dir,
                                             .job = w->job ? w->job : "job",
                                             .size = w->size_of ? w->size_of(p->index) : w->size,
                                             .rank = w->rank_of ? w->rank_of(p->index) : p->index,
                                             .deadline_seconds = w->deadline_seconds > 0 ? w->deadline_seconds : 20};
        snprintf(dir, sizeof dir, "%s/ranks", world_root);
        options.dir = w->dir ? w->dir : dir;
        if (comm_open_files(&p->comm, &options, &err) != WM_OK)
            complain(p, __LINE__, "cannot open: %s", err.message);
    }
    if (p->comm) {
        runner->body(p);
        if (p->comm) /* a body may have closed it */
            p->comm->ops->close(p->comm);
    }
    return NULL;
}

static inline struct slot *world_slots(void)
{
    void *slots =
        mmap(NULL, WORLD_MAX_RANKS * sizeof(struct slot), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    corpus_need(slots != MAP_FAILED, "shared memory");
    return slots;
}

enum { WORLD_COMPLAINT_BYTES = 3000 };

/* Runs `body` on every rank; the first complaint, or "". */
static inline void world_try(const struct world *w, rank_body body, char complaint[WORLD_COMPLAINT_BYTES])
{
    struct comm *comms[WORLD_MAX_RANKS] = {NULL};
    struct wm_error err = WM_ERROR_INIT;
    struct runner runners[WORLD_MAX_RANKS] = {0};
    struct slot *slots = world_slots();
    pid_t pids[WORLD_MAX_RANKS] = {0};

    *complaint = '\0';
    if (w->kind == WORLD_THREADS)
        corpus_need(comm_open_threads(comms, w->size, &err) == WM_OK, "comm_open_threads");
    for (int i = 0; i < w->size; i++)
        runners[i] = (struct runner){.place = {w, slots, &slots[i], i, comms[i]}, .body = body};
    fflush(NULL);
    for (int i = 0; i < w->size; i++) {
        if (w->kind != WORLD_FILES_IN_PROCESSES) {
            corpus_need(pthread_create(&runners[i].thread, NULL, world_run_rank, &runners[i]) == 0, "pthread_create");
            continue;
        }
        pids[i] = fork();
        corpus_need(pids[i] >= 0, "fork");
        if (pids[i] == 0) {
            alarm(60); /* a test that hangs ends */
            world_run_rank(&runners[i]);
            _exit(0);
        }
    }
    for (int i = 0; i < w->size; i++) {
        int status = 0;
        if (w->kind != WORLD_FILES_IN_PROCESSES) {
            pthread_join(runners[i].thread, NULL);
        } else {
            corpus_need(waitpid(pids[i], &status, 0) == pids[i], "waitpid");
            if (status != 0 && !slots[i].killed && !*slots[i].complaint)
                snprintf(slots[i].complaint, sizeof slots[i].complaint, "ended with status %#x", (unsigned)status);
        }
    }
    for (int i = 0; i < w->size && !*complaint; i++)
        if (*slots[i].complaint)
            snprintf(complaint, WORLD_COMPLAINT_BYTES, "%s, rank %d of %d: %s", world_names[w->kind], i, w->size,
                     slots[i].complaint);
    munmap(slots, WORLD_MAX_RANKS * sizeof(struct slot));
}

static inline void world_run(const struct world *w, rank_body body)
{
    char complaint[WORLD_COMPLAINT_BYTES];

    world_try(w, body, complaint);
    if (*complaint)
        fail_msg("%s", complaint);
}

/* Every implementation, with 1, 2, 3 and 8 ranks. */
static inline void world_run_all(rank_body body, const void *user)
{
    static const int sizes[] = {1, 2, 3, 8};

    for (int kind = WORLD_SELF; kind <= WORLD_FILES_IN_PROCESSES; kind++)
        for (int s = 0; s < (kind == WORLD_SELF ? 1 : 4); s++)
            world_run(&(struct world){.kind = (enum world_kind)kind, .size = sizes[s], .user = user}, body);
}

static inline int world_set_up(void **state)
{
    (void)state;
    temp_dir_make(world_root);
    return 0;
}

static inline int world_tear_down(void **state)
{
    (void)state;
    temp_dir_remove(world_root);
    return 0;
}

/* The number of files of ranks; -1 when the directory itself is gone. */
static inline int world_n_files(const char *path)
{
    DIR *dir = opendir(path);
    int n = 0;

    if (!dir)
        return -1;
    for (const struct dirent *e; (e = readdir(dir)) != NULL;)
        n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

/* A call that all must be in. */
static inline void world_meet(struct place *p)
{
    struct wm_error err = WM_ERROR_INIT;
    uint64_t one = 1;

    RANK_CHECK(p->comm->ops->all_reduce_u64(p->comm, &one, 1, &err) == WM_OK, "%s", err.message);
    RANK_CHECK(one == (uint64_t)p->comm->size, "the sum is %llu", (unsigned long long)one);
}

/* ---- ranks that share a directory ------------------------------------------------------------------------------ */

static char ranks_dir[128];

static inline int ranks_set_up(void **state)
{
    world_set_up(state);
    snprintf(ranks_dir, sizeof ranks_dir, "%s/ranks", world_root);
    return 0;
}

/* Every test begins without the directory. */
static inline int ranks_clear(void **state)
{
    (void)state;
    file_fault = NULL;
    temp_dir_remove(ranks_dir);
    return 0;
}

#endif
