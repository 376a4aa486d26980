/*
 * interrupt.c: signals while something long runs.
 *
 * What lives here: the first SIGINT or SIGTERM asks what runs to stop (what is done stays done), the second ends the
 * process at once. What it must not know: what is running.
 */
#include "cli/cli.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

/* A signal handler has no argument of ours, so the running merge has to be where it can find it. */
static struct wm_merge *volatile running;
static volatile sig_atomic_t caught;

/* Process 1 of a container has no ordinary effects of signals: what is not handled is ignored. */
static void leave(int number)
{
    _exit(128 + number);
}

static void leave_on_signals(void)
{
    signal(SIGINT, leave);
    signal(SIGTERM, leave);
}

void interrupt_as_init(void)
{
    if (getpid() == 1)
        leave_on_signals();
}

static void on_signal(int number)
{
    caught = number;
    leave_on_signals(); /* whichever comes second */
    if (running)
        wm_merge_cancel(running);
}

void interrupt_begin(struct wm_merge *merge)
{
    struct sigaction action;

    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    running = merge;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

void interrupt_end(void)
{
    running = NULL;
    leave_on_signals();
}

bool interrupt_came(void)
{
    return caught != 0;
}

int interrupt_exit_code(void)
{
    return 128 + (caught ? caught : SIGINT);
}
