/*
 * mount.h: what a path is mounted from.
 *
 * What lives here: finding the mount that a path lies on in the kernel's table, its type, and whether its locks hold on other
 * machines too. What it must not know: what is locked.
 */
#ifndef WM_BASE_MOUNT_H
#define WM_BASE_MOUNT_H

#include <stdbool.h>
#include <stdio.h>

struct mount {
    char point[256], type[64];
    char local_locks[32]; /* the option that keeps flock to this machine ("nolock"); "" without one */
};

/* Of an existing path. false: the kernel does not say. */
bool mount_of(const char *path, struct mount *mount);
/* The same in a table as /proc/self/mountinfo has it (proc(5)), for a path without links. */
bool mount_find(FILE *table, const char *path, struct mount *mount);

#endif
