/*
 * merge_on_gpu.h: what the tests of whole merges on pretended GPUs share.
 *
 * What lives here: a rig that merges one recipe by the CPU and then on one machine after the other, and hears what is said
 * while it does. What it must not know: which machines, and what happens on them.
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

/* Small models, a recipe, what the CPU makes of it, and the merge that comes next. */
struct gpu_rig {
    struct fixture f;
    struct hash128 expected; /* what rig_recipe found */
    int n_recipes;
    struct wm_options o;
    struct heard h;
};

static inline void expect_merge(const struct gpu_rig *r, const char *out)
{
    struct wm_error err = WM_ERROR_INIT;

    if (fixture_merge(&r->f, "c.yml", out, &r->o, &err) != WM_OK)
        fail_msg("%s: %s", out, err.message);
}

static inline void expect_no_leaks(void)
{
    char text[300];

    if (cuda_on_cpu_leaks(text, sizeof text))
        fail_msg("%s", text);
}

/* What a context held that has ended is gone with it; everything else is given back. */
static inline void expect_nothing_kept(int n_devices, int n)
{
    struct cuda_on_cpu_live live;

    for (int d = 0; d < n_devices; d++) {
        cuda_on_cpu_get_live(d, &live);
        if (!live.failed && live.device_buffers + live.streams + live.events)
            fail_msg("call %d fails: device %d keeps %zu buffers, %zu streams, %zu events", n, d, live.device_buffers,
                     live.streams, live.events);
    }
    cuda_on_cpu_get_live(-1, &live);
    if (live.pinned_buffers)
        fail_msg("call %d fails: %zu page-locked buffers are kept", n, live.pinned_buffers);
}

/* The caller ends it with fixture_release(&r->f). */
static inline void rig_init(struct gpu_rig *r)
{
    memset(r, 0, sizeof *r);
    fixture_init(&r->f);
    merge_cases_write_models(&r->f);
}

/* c.yml from now on; the CPU merges it. */
static inline void rig_recipe(struct gpu_rig *r, const char *yaml)
{
    char out[32];

    merge_cases_write_config(&r->f, "c.yml", yaml);
    snprintf(out, sizeof out, "cpu%d", r->n_recipes++);
    set_up(&r->o, &r->h, WM_DEVICE_CPU);
    expect_merge(r, out);
    r->expected = fixture_digest(&r->f, out);
}

/* A fresh machine (NULL: the default), and options as set_up makes them, for the caller to change before the merge. */
static inline void rig_machine(struct gpu_rig *r, const struct cuda_on_cpu_config *machine, enum wm_device device)
{
    cuda_on_cpu_configure(machine);
    set_up(&r->o, &r->h, device);
}

static inline bool rig_has_cpu_bytes(const struct gpu_rig *r, const char *out)
{
    return hash128_equal(r->expected, fixture_digest(&r->f, out));
}

#endif
