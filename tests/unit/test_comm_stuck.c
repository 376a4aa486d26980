/* A rank whose storage hangs learns of it from a thread that touches no file, once; one that goes on, or whose failure comes
 * to an orderly end, does not. */
#include "cluster/comm.h"

#include "base/file.h"
#include "temp_dir.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static atomic_bool hangs;
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER; /* held: storage does not answer */

static int wait_at_gate(enum file_call call, const char *path)
{
    if (call == FILE_OPEN && atomic_load(&hangs) && strstr(path, "/hangs/")) {
        pthread_mutex_lock(&gate);
        pthread_mutex_unlock(&gate);
    }
    return 0;
}

struct heard {
    atomic_int n;
    struct wm_error why;
};

static void on_stuck(void *user, const struct wm_error *why)
{
    struct heard *heard = user;

    heard->why = *why;
    atomic_fetch_add(&heard->n, 1);
}

static void sleep_seconds(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};

    nanosleep(&t, NULL);
}

static struct comm *open_comm(const char *name, struct heard *heard)
{
    char dir[128];
    struct comm_files_options options = {dir, "job", 0, 1, 0.5, on_stuck, heard};
    struct wm_error err = WM_ERROR_INIT;
    struct comm *comm;

    snprintf(dir, sizeof dir, "%s/%s", root, name);
    assert_int_equal(comm_open_files(&comm, &options, &err), WM_OK);
    assert_int_equal(comm->ops->barrier(comm, &err), WM_OK);
    return comm;
}

static void a_rank_whose_storage_hangs_is_told_and_no_other(void **state)
{
    struct heard heard = {0, WM_ERROR_INIT}, nothing = {0, WM_ERROR_INIT};
    struct wm_error why = WM_ERROR_INIT;
    struct comm *comm, *lives;
    double began;

    (void)state;
    file_fault = wait_at_gate;
    lives = open_comm("lives", &nothing);
    comm = open_comm("hangs", &heard);
    pthread_mutex_lock(&gate);
    atomic_store(&hangs, true);
    began = file_now_seconds();
    while (!atomic_load(&heard.n) && file_now_seconds() - began < 60)
        sleep_seconds(0.05);
    sleep_seconds(0.5);
    atomic_store(&hangs, false);
    pthread_mutex_unlock(&gate);
    assert_int_equal(atomic_load(&heard.n), 1);
    assert_true(file_now_seconds() - began > 9);
    assert_int_equal(heard.why.status, WM_TEMPORARY);
    assert_non_null(strstr(heard.why.message, "rank 0 on "));
    assert_non_null(strstr(heard.why.message, root));
    assert_non_null(strstr(heard.why.message, "run the same command again"));
    comm->ops->close(comm);
    assert_int_equal(atomic_load(&heard.n), 1);
    error_set(&why, WM_IO, "a fault");
    lives->ops->abort(lives, &why);
    lives->ops->close(lives);
    assert_int_equal(atomic_load(&nothing.n), 0);
}

static void a_failure_that_never_ends_is_told_with_its_reason(void **state)
{
    struct wm_error why = WM_ERROR_INIT;
    struct heard heard = {0, WM_ERROR_INIT};
    struct comm *comm;
    double began;

    (void)state;
    file_fault = NULL;
    comm = open_comm("fails", &heard);
    error_set(&why, WM_CANT_CREATE, "the disk is full");
    comm->ops->abort(comm, &why);
    began = file_now_seconds();
    while (!atomic_load(&heard.n) && file_now_seconds() - began < 60)
        sleep_seconds(0.05);
    assert_int_equal(atomic_load(&heard.n), 1);
    assert_non_null(strstr(heard.why.message, "the disk is full"));
    comm->ops->close(comm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rank_whose_storage_hangs_is_told_and_no_other),
        cmocka_unit_test(a_failure_that_never_ends_is_told_with_its_reason),
    };

    return cmocka_run_group_tests(tests, root_set_up, root_tear_down);
}
