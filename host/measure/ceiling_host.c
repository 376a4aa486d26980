/*
 * ceiling_host.c: what this machine's memory and arithmetic units can do at most.
 *
 * What lives here: memcpy on all threads, and a loop of independent multiplications and additions on registers (the
 * kernels contract nothing, so no fma). What it must not know: kernels.
 */
#include "measure/measure.h"

#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COPY_BYTES       ((size_t)256 << 20)
#define QUICK_COPY_BYTES ((size_t)64 << 20)

struct copy {
    char *from, *to;
    size_t n_bytes;
    int n_workers;
};

static void copy_share(void *user, int worker)
{
    const struct copy *c = user;
    size_t share = c->n_bytes / (size_t)c->n_workers, first = share * (size_t)worker;

    memcpy(c->to + first, c->from + first, worker == c->n_workers - 1 ? c->n_bytes - first : share);
}

static void touch_share(void *user, int worker)
{
    const struct copy *c = user;
    size_t share = c->n_bytes / (size_t)c->n_workers, first = share * (size_t)worker;
    size_t n = worker == c->n_workers - 1 ? c->n_bytes - first : share;

    memset(c->from + first, 1, n);
    memset(c->to + first, 2, n);
}

enum wm_status measure_host_copy(struct measure *m, struct measure_team *team, const struct sample_rules *rules,
                                 struct wm_error *err)
{
    struct copy c = {.n_bytes = m->quick ? QUICK_COPY_BYTES : COPY_BYTES, .n_workers = measure_team_size(team)};
    struct sampler *s = malloc(sizeof *s);
    struct measure_ceiling *ceiling;
    struct sample_time time;
    enum wm_status st = WM_OK;

    c.from = aligned_alloc(4096, c.n_bytes);
    c.to = aligned_alloc(4096, c.n_bytes);
    if (!s || !c.from || !c.to) {
        st = error_no_memory(err, "measuring the memory's speed");
        goto out;
    }
    measure_team_run(team, touch_share, &c);
    for (sampler_begin(s, rules); sampler_wants_more(s);) {
        double began = file_now_seconds();
        measure_team_run(team, copy_share, &c);
        sampler_add(s, file_now_seconds() - began);
    }
    time = sampler_end(s);
    ceiling = measure_add_ceiling(m, "host_copy", "host memory, copy");
    measure_set_ceiling(ceiling, 2 * c.n_bytes, &time);
    snprintf(ceiling->detail, sizeof ceiling->detail, "memcpy, %d threads, reads and writes", c.n_workers);
out:
    free(c.from);
    free(c.to);
    free(s);
    return st;
}

/* ---- arithmetic --------------------------------------------------------------------------------------------- */

/* Eight accumulators hide the latency of one; every step is a multiplication and an addition per lane. */
enum { PEAK_STEPS = 1 << 14, PEAK_ACCUMULATORS = 8 };

#define PEAK_LOOP(name, lanes, target)                                                                                 \
    typedef float name##_vector __attribute__((vector_size(4 * (lanes))));                                             \
    target static float name(void)                                                                                     \
    {                                                                                                                  \
        name##_vector a[PEAK_ACCUMULATORS], sum = {0};                                                                 \
        for (int i = 0; i < PEAK_ACCUMULATORS; i++)                                                                    \
            a[i] = sum + (float)i;                                                                                     \
        for (int step = 0; step < PEAK_STEPS; step++)                                                                  \
            for (int i = 0; i < PEAK_ACCUMULATORS; i++)                                                                \
                a[i] = a[i] * 0.999f + 0.001f;                                                                         \
        for (int i = 0; i < PEAK_ACCUMULATORS; i++)                                                                    \
            sum += a[i];                                                                                               \
        return sum[0];                                                                                                 \
    }

PEAK_LOOP(peak_portable, 4, )
#ifdef __x86_64__
PEAK_LOOP(peak_avx2, 8, __attribute__((target("avx2"))))
PEAK_LOOP(peak_avx512, 16, __attribute__((target("avx512f"))))
#endif

struct peak {
    float (*loop)(void);
    int n_rounds;
    float results[1024]; /* kept, so that no loop is found to be useless */
};

static void peak_work(void *user, int worker)
{
    struct peak *p = user;
    float sum = 0;

    for (int round = 0; round < p->n_rounds; round++)
        sum += p->loop();
    p->results[worker % 1024] = sum;
}

double measure_peak_operations(struct measure_team *team)
{
    struct peak p = {.loop = peak_portable, .n_rounds = 64};
    double lanes = 4, best = 1e9;

#ifdef __x86_64__
    if (strcmp(cpu_isa(), "avx512") == 0) {
        p.loop = peak_avx512;
        lanes = 16;
    } else if (strcmp(cpu_isa(), "avx2") == 0) {
        p.loop = peak_avx2;
        lanes = 8;
    }
#endif
    for (int repeat = 0; repeat < 5; repeat++) {
        double began = file_now_seconds(), seconds;
        measure_team_run(team, peak_work, &p);
        seconds = file_now_seconds() - began;
        best = seconds < best ? seconds : best;
    }
    return 2.0 * lanes * PEAK_ACCUMULATORS * PEAK_STEPS * p.n_rounds * measure_team_size(team) / best;
}
