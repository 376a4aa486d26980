/*
 * machine.h: how much of this machine the process may use.
 *
 * What lives here: processors and memory, as affinity and control groups leave them to us. Containers and batch systems limit
 * both without hiding the rest: a pod with 8 processors of 192 sees all of them, and 192 threads would share a time
 * slice of 8. What it must not know: what they are used for.
 */
#ifndef WM_BASE_MACHINE_H
#define WM_BASE_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Processors that this process may keep busy at once: those it may run on, or fewer where a control group's quota of time
 * says so. At least 1. */
int machine_processors(void);
/* May it run on some of the machine's processors only? A launcher that binds its processes has divided them already. */
bool machine_is_bound(void);
/* Bytes that the control groups above this process leave it; 0: no limit. */
uint64_t machine_memory_limit(void);

/* Tells this machine from others, also for containers on it, which have host names of their own but the same kernel. "" where it
 * does not say. */
#define MACHINE_ID_BYTES 40
void machine_id(char id[MACHINE_ID_BYTES]);

/* The same from the files below `root`, "" for those of this machine. Quota: processors, rounded up; 0: none. */
int machine_quota_below(const char *root);
uint64_t machine_memory_limit_below(const char *root);

#endif
