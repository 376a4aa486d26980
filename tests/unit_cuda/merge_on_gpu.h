/*
 * merge_on_gpu.h: what the tests of whole merges on pretended GPUs share.
 *
 * What lives here: options for small merges, and what was heard while one ran. What it must not know: machines.
 */
#ifndef WM_TESTS_MERGE_ON_GPU_H
#define WM_TESTS_MERGE_ON_GPU_H

#include "base/file.h"
#include "cuda_on_cpu.h"
#include "support/merge_cases.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct heard {
    char warning[2048];
};

static inline void hear(void *user, const struct wm_problem *problem)
{
    struct heard *h = user;

    if (problem->severity == WM_WARNING)
        snprintf(h->warning, sizeof h->warning, "%s", problem->text);
}

static inline void set_up(struct wm_options *o, struct heard *h, enum wm_device device)
{
    struct wm_options fresh = WM_OPTIONS_INIT;

    *o = fresh;
    memset(h, 0, sizeof *h);
    o->device = device;
    o->on_problem = hear;
    o->user = h;
    o->sync = 0;
    o->n_threads = 2;
    o->tile_bytes = 64 << 10;
    o->memory_bytes = 64u << 20; /* the shim fills what is allocated, and hundreds of merges follow */
}

static inline void expect_merge(const struct fixture *f, const char *out, const struct wm_options *o)
{
    struct wm_error err = WM_ERROR_INIT;

    if (fixture_merge(f, "c.yml", out, o, &err) != WM_OK)
        fail_msg("%s: %s", out, err.message);
}

static inline void expect_no_leaks(void)
{
    char text[300];

    if (cuda_on_cpu_leaks(text, sizeof text))
        fail_msg("%s", text);
}

static inline struct hash128 on_the_cpu(const struct fixture *f, const char *out)
{
    struct wm_options o;
    struct heard h;

    set_up(&o, &h, WM_DEVICE_CPU);
    expect_merge(f, out, &o);
    return fixture_digest(f, out);
}

#endif
