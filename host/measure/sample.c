/*
 * sample.c: when a measurement has seen enough, and what it says.
 *
 * What lives here: nvbench's stopping rules (its docs/benchmarks.md: at least 10 samples, 0.5 s of them, noise below
 * 0.5 %, a time-out), and the median. What it must not know: what is timed.
 */
#include "measure/measure.h"

#include "base/file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct sample_rules sample_thorough = {10, SAMPLE_MAX, 0.5, 1.5, 0.005};
const struct sample_rules sample_quick = {3, 50, 0.02, 0.06, 0.005};

void sampler_begin(struct sampler *s, const struct sample_rules *rules)
{
    s->rules = rules;
    s->began = file_now_seconds();
    s->n = 0;
    s->sum = s->mean = s->squares = 0;
}

static double noise(const struct sampler *s)
{
    return s->n < 2 || s->mean <= 0 ? 1.0 : sqrt(s->squares / (s->n - 1)) / s->mean;
}

bool sampler_wants_more(const struct sampler *s)
{
    const struct sample_rules *r = s->rules;

    if (s->n < r->min_samples)
        return true;
    if (s->n >= r->max_samples || file_now_seconds() - s->began >= r->max_seconds)
        return false;
    return s->sum < r->min_seconds || noise(s) > r->max_noise;
}

void sampler_add(struct sampler *s, double seconds)
{
    double distance = seconds - s->mean;

    if (s->n == SAMPLE_MAX)
        return;
    s->samples[s->n++] = seconds;
    s->sum += seconds;
    s->mean += distance / s->n;
    s->squares += distance * (seconds - s->mean);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

struct sample_time sampler_end(struct sampler *s)
{
    struct sample_time t = {0, 0, 0, s->n};

    if (s->n == 0)
        return t;
    qsort(s->samples, (size_t)s->n, sizeof *s->samples, by_value);
    t.seconds = s->n % 2 ? s->samples[s->n / 2] : 0.5 * (s->samples[s->n / 2 - 1] + s->samples[s->n / 2]);
    t.fastest = s->samples[0];
    t.noise = s->n < 2 ? 0 : noise(s);
    return t;
}
