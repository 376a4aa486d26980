/* The directory that ranks share: what crashes leave is never taken for a message and is cleared away; two jobs in it do
 * not mix; torn messages, a full disk and a vanished directory end in a sentence, on every rank. */
#include "comm_world.h"

#include <sys/time.h>

#define DEADLINE 0.5

/* ---- leftovers and other jobs -------------------------------------------------------------------------------- */

static void crash_in_a_call(struct place *p)
{
    struct wm_error err = WM_ERROR_INIT;
    int crashing = *(const int *)p->world->user;

    world_meet(p);
    p->mine->killed = 1;
    if (p->index == crashing || crashing < 0) /* all but this one leave a part of call 2 */
        raise(SIGKILL);
    setitimer(ITIMER_REAL, &(struct itimerval){.it_value = {.tv_usec = 150000}}, NULL); /* ends it */
    p->comm->ops->barrier(p->comm, &err);
}

/* The same job again, as a scheduler restarts it: under the same name, on the files of what was killed. */
static void a_crashed_run_leaves_no_message_to_the_next(void **state)
{
    (void)state;
    for (int crashing = -1; crashing < 3; crashing++) {
        world_run(&(struct world){.kind = WORLD_FILES_IN_PROCESSES, .size = 3, .user = &crashing}, crash_in_a_call);
        assert_true(world_n_files(ranks_dir) >= 4);
        world_run(&(struct world){.kind = WORLD_FILES_IN_PROCESSES,
                                  .size = 3,
                                  .deadline_seconds = 2,
                                  .start_seconds = {0.1 * (double)(crashing + 1), 0.1, 0}},
                  world_meet);
        assert_int_equal(world_n_files(ranks_dir), -1);
        world_run(&(struct world){.kind = WORLD_FILES_IN_PROCESSES, .size = 3, .user = &crashing}, crash_in_a_call);
        world_run(&(struct world){.kind = WORLD_FILES_IN_PROCESSES, .size = 2, .deadline_seconds = 2}, world_meet);
        assert_int_equal(world_n_files(ranks_dir), -1); /* with fewer ranks too */
    }
}

/* Rank 1 leaves in peace, or after telling of a failure; the others are killed after it. */
static void crash_after_rank_1_left(struct place *p)
{
    struct wm_error why = {WM_IO, "yesterday's news"};

    world_meet(p);
    if (p->index == 1) {
        if (*(const bool *)p->world->user)
            p->comm->ops->abort(p->comm, &why);
        p->comm->ops->close(p->comm);
        p->comm = NULL;
        world_set(&p->mine->flag);
        return;
    }
    p->mine->killed = 1;
    world_wait(&p->slots[1].flag);
    raise(SIGKILL);
}

/* Its rank 1 finds a session with all that it needs but itself, long before the new rank 0 comes. */
static void an_old_session_is_not_joined(void **state)
{
    (void)state;
    for (int told = 0; told < 2; told++) {
        const bool tell = told == 1;
        world_run(&(struct world){.kind = WORLD_FILES_IN_PROCESSES, .size = 3, .user = &tell}, crash_after_rank_1_left);
        world_run(&(struct world){.kind = WORLD_FILES_IN_PROCESSES, .size = 3, .start_seconds = {0.3, 0, 0.1}},
                  world_meet);
        assert_int_equal(world_n_files(ranks_dir), -1);
    }
}

static void make_old(const char *dir_path)
{
    struct timespec times[2] = {{.tv_sec = time(NULL) - 7200}, {.tv_sec = time(NULL) - 7200}};
    DIR *dir = opendir(dir_path);

    corpus_need(dir != NULL, dir_path);
    for (const struct dirent *e; (e = readdir(dir)) != NULL;)
        if (e->d_name[0] != '.')
            corpus_need(utimensat(dirfd(dir), e->d_name, times, 0) == 0, e->d_name);
    closedir(dir);
}

/* Files of another job are removed when they are old, left alone when they may be in use; what is not ours is never
 * touched. */
static void leftovers_of_other_jobs_go_when_they_are_old(void **state)
{
    const int all = -1;
    char path[CORPUS_PATH_BYTES];
    int n_left;

    (void)state;
    world_run(&(struct world){.kind = WORLD_FILES_IN_PROCESSES, .size = 2, .job = "earlier", .user = &all},
              crash_in_a_call);
    n_left = world_n_files(ranks_dir);
    assert_true(n_left >= 4);
    corpus_path(path, "%s/notes.txt", ranks_dir);
    corpus_write(path, "mine", 4);
    world_run(&(struct world){.kind = WORLD_FILES_IN_PROCESSES, .size = 2}, world_meet);
    assert_int_equal(world_n_files(ranks_dir), n_left + 1);
    make_old(ranks_dir);
    world_run(&(struct world){.kind = WORLD_FILES_IN_PROCESSES, .size = 2}, world_meet);
    assert_int_equal(world_n_files(ranks_dir), 1);
    assert_true(file_exists(path));
}

static void count_in_own_job(struct place *p)
{
    for (uint64_t round = 0; round < 30; round++) {
        struct wm_error err = WM_ERROR_INIT;
        uint64_t base = *(const uint64_t *)p->world->user + round, sum = base;
        RANK_CHECK(p->comm->ops->all_reduce_u64(p->comm, &sum, 1, &err) == WM_OK, "%s", err.message);
        RANK_CHECK(sum == base * (uint64_t)p->comm->size, "round %llu: %llu of %llu", (unsigned long long)round,
                   (unsigned long long)sum, (unsigned long long)base);
    }
}

/* Processes 0 and 1 are one job, 2 and 3 the other: world_run starts one job, so the other one is a child's. */
static void two_jobs_in_one_directory_do_not_mix(void **state)
{
    uint64_t bases[2] = {1000, 5000000};
    char complaint[WORLD_COMPLAINT_BYTES];
    int status = 0;
    pid_t child;

    (void)state;
    fflush(NULL);
    child = fork();
    corpus_need(child >= 0, "fork");
    if (child == 0) {
        alarm(60);
        world_try(&(struct world){.kind = WORLD_FILES_IN_PROCESSES, .size = 2, .job = "b", .user = &bases[1]},
                  count_in_own_job, complaint);
        _exit(*complaint ? 1 : 0);
    }
    world_run(&(struct world){.kind = WORLD_FILES_IN_PROCESSES, .size = 2, .job = "a", .user = &bases[0]},
              count_in_own_job);
    corpus_need(waitpid(child, &status, 0) == child, "waitpid");
    assert_int_equal(status, 0);
    assert_int_equal(world_n_files(ranks_dir), -1);
}

/* ---- what storage does --------------------------------------------------------------------------------------- */

/* Writes something under the name that rank 1's part of call `sequence` will have. */
static bool plant_part(int sequence, const void *data, size_t n_bytes)
{
    char path[CORPUS_PATH_BYTES], prefix[40] = "";
    DIR *dir = opendir(ranks_dir);

    if (!dir)
        return false;
    for (const struct dirent *e; (e = readdir(dir)) != NULL;)
        if (strstr(e->d_name, ".go.0.0") && !strstr(e->d_name, ".tmp"))
            snprintf(prefix, sizeof prefix, "%.33s", e->d_name);
    closedir(dir);
    corpus_path(path, "%s/%s.part.%d.1", ranks_dir, prefix, sequence);
    corpus_write(path, data, n_bytes);
    return *prefix != '\0';
}

/* Rank 1 finds garbage under its name, as NFS shows a new file before its bytes, and writes the real thing later. */
static void find_torn_part(struct place *p)
{
    unsigned char garbage[300] = {'W', 'M', 'M', 'A', 'I', 'L', '0', '1', 7};
    size_t n_bytes = *(const size_t *)p->world->user;
    struct wm_error err = WM_ERROR_INIT;

    world_meet(p);
    if (p->index == 1) {
        RANK_CHECK(plant_part(2, garbage, n_bytes), "cannot plant");
        world_sleep(0.1);
    }
    world_meet(p);
    if (p->index == 1) { /* and now never */
        RANK_CHECK(plant_part(3, garbage, n_bytes), "cannot plant");
        while (!p->comm->ops->failed(p->comm, &err))
            world_sleep(0.01);
    } else {
        p->comm->ops->barrier(p->comm, &err);
    }
    RANK_CHECK(err.status == WM_TEMPORARY && strstr(err.message, "message 3 of rank 1") &&
                   strstr(err.message, "damaged"),
               "%s", err.message);
}

static void torn_messages_are_read_again_and_named(void **state)
{
    static const size_t lengths[] = {0, 5, 72, 300};

    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        world_run(
            &(struct world){.kind = WORLD_FILES_IN_THREADS, .size = 2, .deadline_seconds = 0.3, .user = &lengths[i]},
            find_torn_part);
}

static int fill_disk_for_parts(enum file_call call, const char *path)
{
    return call == FILE_WRITE && strstr(path, ".part.2.1") ? ENOSPC : 0;
}

static void write_to_full_disk(struct place *p)
{
    enum wm_status want = p->index == 1 ? WM_CANT_CREATE : WM_TEMPORARY; /* 73 where it happened, 75 elsewhere */
    struct wm_error err = WM_ERROR_INIT;

    world_meet(p);
    RANK_CHECK(p->comm->ops->barrier(p->comm, &err) == want, "status %d: %s", (int)err.status, err.message);
    RANK_CHECK(strstr(err.message, "No space left") && strstr(err.message, "free some space"), "%s", err.message);
    RANK_CHECK(p->index == 1 || strstr(err.message, "rank 1 on "), "%s", err.message);
}

static int fill_disk_altogether(enum file_call call, const char *path)
{
    return call == FILE_OPEN && strstr(path, ".tmp") && !strstr(path, ".part.1.") && !strstr(path, ".whole.1.") &&
                   !strstr(path, ".go.") && !strstr(path, ".session.")
               ? ENOSPC
               : 0;
}

static void a_full_disk_is_told_to_all(void **state)
{
    (void)state;
    file_fault = fill_disk_for_parts;
    world_run(&(struct world){.kind = WORLD_FILES_IN_THREADS, .size = 3}, write_to_full_disk);
    assert_int_equal(world_n_files(ranks_dir), -1);
}

/* Not even the news can be written: it travels in the signs of life, which are rewritten in place. */
static void abort_on_full_disk(struct place *p)
{
    struct wm_error why = {WM_IO, "the disk is full"}, err = WM_ERROR_INIT;
    double began = file_now_seconds();

    world_meet(p);
    if (p->index == 1)
        p->comm->ops->abort(p->comm, &why);
    while (!p->comm->ops->failed(p->comm, &err) && file_now_seconds() < began + 8)
        world_sleep(0.005);
    RANK_CHECK(strstr(err.message, "the disk is full"), "%s", err.message);
    world_sleep(DEADLINE); /* until all have read it */
}

static void news_get_through_a_full_disk(void **state)
{
    (void)state;
    file_fault = fill_disk_altogether;
    world_run(&(struct world){.kind = WORLD_FILES_IN_THREADS, .size = 8, .deadline_seconds = DEADLINE},
              abort_on_full_disk);
}

static void lose_directory(struct place *p)
{
    struct wm_error err = WM_ERROR_INIT;
    double began;

    world_meet(p);
    world_sleep(p->index == 1 ? 0.1 : 0);
    began = file_now_seconds();
    if (p->index == 1) {
        temp_dir_remove(ranks_dir);
        while (!p->comm->ops->failed(p->comm, &err) && file_now_seconds() < began + 8)
            world_sleep(0.005);
    } else {
        p->comm->ops->barrier(p->comm, &err);
    }
    RANK_CHECK(err.status == WM_TEMPORARY && strstr(err.message, ranks_dir), "status %d: %s", (int)err.status,
               err.message);
    RANK_CHECK(file_now_seconds() - began < 3, "noticed after %.3f s", file_now_seconds() - began);
}

static void a_vanished_directory_is_named(void **state)
{
    (void)state;
    for (int size = 2; size <= 3; size++)
        world_run(&(struct world){.kind = WORLD_FILES_IN_PROCESSES, .size = size, .deadline_seconds = 1},
                  lose_directory);
}

static void a_directory_without_parent_is_refused_at_rank_0(void **state)
{
    char dir[CORPUS_PATH_BYTES];
    struct wm_error err = WM_ERROR_INIT;
    struct comm *comm;

    (void)state;
    corpus_path(dir, "%s/plain/ranks", world_root);
    assert_int_equal(comm_open_files(&comm, &(struct comm_files_options){dir, "j", 0, 2, 1, NULL, NULL}, &err),
                     WM_CANT_CREATE);
    assert_non_null(strstr(err.message, "parent"));
    corpus_path(dir, "%s/plain", world_root);
    corpus_write(dir, "", 0);
    corpus_path(dir, "%s/plain/ranks", world_root);
    err.status = WM_OK;
    assert_int_equal(comm_open_files(&comm, &(struct comm_files_options){dir, "j", 0, 2, 1, NULL, NULL}, &err),
                     WM_NO_INPUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_crashed_run_leaves_no_message_to_the_next, ranks_clear),
        cmocka_unit_test_setup(an_old_session_is_not_joined, ranks_clear),
        cmocka_unit_test_setup(leftovers_of_other_jobs_go_when_they_are_old, ranks_clear),
        cmocka_unit_test_setup(two_jobs_in_one_directory_do_not_mix, ranks_clear),
        cmocka_unit_test_setup(torn_messages_are_read_again_and_named, ranks_clear),
        cmocka_unit_test_setup(a_full_disk_is_told_to_all, ranks_clear),
        cmocka_unit_test_setup(news_get_through_a_full_disk, ranks_clear),
        cmocka_unit_test_setup(a_vanished_directory_is_named, ranks_clear),
        cmocka_unit_test_setup(a_directory_without_parent_is_refused_at_rank_0, ranks_clear),
    };

    return cmocka_run_group_tests(tests, ranks_set_up, world_tear_down);
}
