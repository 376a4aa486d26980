/*
 * group_cases.h: groups of small tensors whose results are known.
 *
 * What lives here: a group of members of any methods, types and sizes in memory of a backend, what the CPU makes of each of
 * them alone, and the comparison. What it must not know: how groups are computed.
 */
#ifndef WM_TESTS_GROUP_CASES_H
#define WM_TESTS_GROUP_CASES_H

#include "device_cases.h"
#include "engine/backend.h"

#ifdef CUDA_ON_CPU
#include "cuda_on_cpu.h"
#endif

enum { MAX_MEMBERS = BACKEND_GROUP_MEMBERS, GUARD_BYTES = 64, GUARD = 0xA5 };
/* Of the device; the shim fills what is allocated. A group may have an eighth. */
enum { LARGE = EVERY > 1 ? 48 << 20 : 192 << 20, SMALL = 16 << 20 };

struct member_case {
    const struct method_case *method;
    const struct dtype_case *types;
    uint64_t n_elems;
    enum pattern pattern;
};

/* A group, and the same tensors by themselves, as the CPU computes them. */
struct group_case {
    struct member_case cases[MAX_MEMBERS];
    struct backend_member members[MAX_MEMBERS];
    struct merge_op ops[MAX_MEMBERS], expected_ops[MAX_MEMBERS];
    struct merge_report expected_reports[MAX_MEMBERS];
    unsigned char *expected; /* laid out as out */
    struct backend_group group;
    unsigned char *regions[TILE_MAX_INPUTS], *out;
    size_t region_bytes[TILE_MAX_INPUTS], out_bytes;
};

UNUSED_OK static int n_inputs_of(const struct method_case *method)
{
    return method->n_models + (method->has_base ? 1 : 0);
}

UNUSED_OK static enum wm_dtype input_dtype(const struct member_case *c, int input)
{
    if (c->method->has_base)
        return input == 0 ? c->types->base : c->types->models[(input - 1) % 3];
    return c->types->models[input % 3];
}

/* Members lie one after the other, some with a gap, so that most are at odd addresses. */
UNUSED_OK static size_t gap_of(size_t member)
{
    return member % 5 == 3 ? member % 7 : 0;
}

UNUSED_OK static struct backend *open_backend(unsigned verify_per_1000, uint64_t memory_bytes, void **thread)
{
    struct backend_cuda_options options = {.tile_in_bytes = 64 << 10,
                                           .tile_out_bytes = 64 << 10,
                                           .memory_bytes = memory_bytes,
                                           .max_inputs = 4,
                                           .verify_per_1000 = verify_per_1000};
    struct wm_error err = WM_ERROR_INIT;
    struct backend *backend = NULL;

    *thread = NULL;
    if (backend_open_cuda(&backend, &options, &err) != WM_OK)
        return NULL;
    *thread = backend->ops->thread_new(backend, &err);
    if (!*thread) {
        backend->ops->close(backend);
        return NULL;
    }
    return backend;
}

UNUSED_OK static void close_backend(struct backend *backend, void *thread)
{
    backend->ops->thread_free(backend, thread);
    backend->ops->close(backend);
}

UNUSED_OK static void prepare_member(struct group_case *g, size_t i)
{
    const struct member_case *c = &g->cases[i];
    char message[256] = "";

    if (prepare_op(&g->ops[i], c->method->method, c->method->n_models, c->method->has_base, 1, c->n_elems, 40 + i,
                   c->method->settings, message) != WM_OK)
        fail_msg("%s: %s", c->method->method, message);
}

/* Inputs of one member at `at` in their regions, and what the CPU makes of them. */
UNUSED_OK static void fill_member(struct group_case *g, size_t i, const size_t *at, size_t out_at)
{
    const struct member_case *c = &g->cases[i];
    struct backend_member *member = &g->members[i];
    size_t n = (size_t)c->n_elems;
    void *base = new_weights(n, c->types->base, 1 + i), *result = new_array(n, c->types->out);
    struct run run = {.tile_elems = i % 2 == 0 ? 0 : TILE_CHUNK_ELEMS};
    void *owned[TILE_MAX_INPUTS];
    struct merge_tile arrays;

    if (c->pattern == NOT_FINITE && n > 20)
        ref_store(base, c->types->base, 20, INFINITY);
    memset(&member->tile, 0, sizeof member->tile);
    member->op = &g->ops[i];
    member->tile.n_elems = n;
    member->tile.out = g->out + GUARD_BYTES + out_at;
    member->tile.out_dtype = c->types->out;
    arrays = member->tile;
    for (int k = 0; k < g->group.n_inputs; k++) {
        int m = k - (c->method->has_base ? 1 : 0);
        enum wm_dtype dtype = input_dtype(c, k);
        void *data = owned[k] = m < 0 ? base : new_model(c->pattern, base, c->types->base, n, dtype, m);
        member->tile.in_dtype[k] = arrays.in_dtype[k] = dtype;
        member->tile.in[k] = g->regions[k] + at[k];
        arrays.in[k] = data;
        memcpy(g->regions[k] + at[k], data, n * dtype_width(dtype));
    }
    arrays.out = result;
    run_op(&g->expected_ops[i], &arrays, &run);
    g->expected_reports[i] = run.report;
    memcpy(g->expected + out_at, result, n * dtype_width(c->types->out));
    for (int k = 0; k < g->group.n_inputs; k++)
        if (owned[k] != base)
            free(owned[k]);
    free(base);
    free(result);
}

/* g->cases[0..n-1] are given; everything lies in memory of the backend, as the engine's does. */
UNUSED_OK static void build(struct group_case *g, size_t n, struct backend *backend)
{
    size_t at[TILE_MAX_INPUTS] = {0}, out_at = 0;

    g->group =
        (struct backend_group){.members = g->members, .n_members = n, .n_inputs = n_inputs_of(g->cases[0].method)};
    for (int k = 0; k < g->group.n_inputs; k++) {
        g->region_bytes[k] = 3;
        for (size_t i = 0; i < n; i++)
            g->region_bytes[k] += gap_of(i) + (size_t)g->cases[i].n_elems * dtype_width(input_dtype(&g->cases[i], k));
        g->regions[k] = backend->ops->alloc(backend, g->region_bytes[k]);
        assert_non_null(g->regions[k]);
        memset(g->regions[k], 0x7f, g->region_bytes[k]);
        g->group.inputs[k] = g->regions[k] + k % 3; /* not aligned either */
        g->group.n_input_bytes[k] = g->region_bytes[k] - (size_t)(k % 3);
        at[k] = (size_t)(k % 3);
    }
    for (size_t i = 0; i < n; i++)
        out_at += (size_t)g->cases[i].n_elems * dtype_width(g->cases[i].types->out);
    g->out_bytes = out_at + 2 * GUARD_BYTES;
    g->out = backend->ops->alloc(backend, g->out_bytes);
    g->expected = malloc(out_at + 1);
    assert_non_null(g->out);
    assert_non_null(g->expected);
    memset(g->out, GUARD, g->out_bytes);
    g->group.out = g->out + GUARD_BYTES;
    g->group.n_out_bytes = out_at;
    out_at = 0;
    for (size_t i = 0; i < n; i++) {
        prepare_member(g, i);
        g->expected_ops[i] = g->ops[i];
        for (int k = 0; k < g->group.n_inputs; k++)
            at[k] += gap_of(i);
        fill_member(g, i, at, out_at);
        for (int k = 0; k < g->group.n_inputs; k++)
            at[k] += (size_t)g->cases[i].n_elems * dtype_width(input_dtype(&g->cases[i], k));
        out_at += (size_t)g->cases[i].n_elems * dtype_width(g->cases[i].types->out);
    }
}

UNUSED_OK static void release(struct group_case *g, struct backend *backend)
{
    for (int k = 0; k < g->group.n_inputs; k++)
        backend->ops->free(backend, g->regions[k], g->region_bytes[k]);
    backend->ops->free(backend, g->out, g->out_bytes);
    free(g->expected);
}

UNUSED_OK static void check_results(const struct group_case *g)
{
    for (size_t i = 0; i < g->group.n_members; i++) {
        const struct member_case *c = &g->cases[i];
        const struct merge_tile *tile = &g->members[i].tile;
        char what[256];
        snprintf(what, sizeof what, "member %zu of %zu: %s of %d, %zu elements, %s, %s", i, g->group.n_members,
                 c->method->method, c->method->n_models, tile->n_elems, c->types->name, pattern_names[c->pattern]);
        assert_same_op(&g->ops[i], &g->expected_ops[i], what);
        assert_same_elements(tile->out, g->expected + ((unsigned char *)tile->out - (unsigned char *)g->group.out),
                             tile->out_dtype, tile->n_elems, what);
        assert_same_report(&g->members[i].report, &g->expected_reports[i], what);
    }
    for (size_t i = 0; i < GUARD_BYTES; i++) {
        assert_int_equal(g->out[i], GUARD);
        assert_int_equal(g->out[g->out_bytes - 1 - i], GUARD);
    }
}

UNUSED_OK static struct group_case *new_case(void)
{
    struct group_case *g = calloc(1, sizeof *g);

    assert_non_null(g);
    return g;
}

/* From submit to the end, alone. */
UNUSED_OK static enum wm_status run_group(struct group_case *g, struct backend *backend, void *thread,
                                          struct wm_error *err)
{
    enum wm_status st = backend->ops->submit_group(backend, thread, &g->group, err);
    bool is_done = false;

    while (st == WM_OK && !is_done)
        st = backend->ops->await_group(backend, thread, &g->group, &is_done, err);
    return st;
}

UNUSED_OK static void run(struct group_case *g, struct backend *backend, void *thread)
{
    struct wm_error err = WM_ERROR_INIT;

    if (run_group(g, backend, thread, &err) != WM_OK)
        fail_msg("%s", err.message);
    check_results(g);
}

/* As before it ran: the operations without what the statistics fill in. */
UNUSED_OK static void reset(struct group_case *g)
{
    for (size_t i = 0; i < g->group.n_members; i++)
        prepare_member(g, i);
    memset(g->out, GUARD, g->out_bytes);
}

/* n members of two kinds: a search for thresholds with sums after it, and no statistics at all. */
UNUSED_OK static void fill_cases(struct group_case *g, size_t n)
{
    static const struct method_case kinds[] = {
        {"ties", 2, true, {GLOBAL("weight", 0.5), GLOBAL("density", 0.6), GLOBAL("rescale", RESCALE_L1)}},
        {"nuslerp", 2, true, {GLOBAL("weight", 0.5), {"weight", 0.2, 1}}},
        {"linear", 3, false, {GLOBAL("weight", 0.3)}},
    };

    for (size_t i = 0; i < n; i++)
        g->cases[i] = (struct member_case){&kinds[i % 3], &dtype_cases[i % N_DTYPE_CASES], 5 + i % 37, NORMAL};
}

#ifdef CUDA_ON_CPU

UNUSED_OK static void machine(bool lazy, uint64_t fail_at, int fail_code)
{
    struct cuda_on_cpu_config config = cuda_on_cpu_default();

    config.lazy_streams = lazy;
    config.fail_at = fail_at;
    config.fail_code = fail_code;
    config.fail_device = -1;
    cuda_on_cpu_configure(&config);
}

UNUSED_OK static void expect_no_leaks(void)
{
    char text[300];

    if (cuda_on_cpu_leaks(text, sizeof text))
        fail_msg("%s", text);
}

#endif

#endif
