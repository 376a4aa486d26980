/*
 * checkpoint_weights.c: seeded normal weights, deltas, and the threads that write them.
 *
 * What lives here: the generator and the work sharing. Every value depends on the seed, the
 * tensor's name and the element's index alone, so neither threads nor shards show in the bytes. What it must not know:
 * architectures, headers, options.
 */
#include "checkpoint_weights.h"

#include "base/dtype.h"
#include "base/file.h"
#include "base/hash.h"
#include "common/number_format.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* ---- the generator ------------------------------------------------------------------------------------------ */

/* Quantiles of the standard normal distribution at i / NORMAL_BINS, interpolated linearly: one multiplication per value
 * where Box-Muller takes a logarithm and a sine. The outermost bins end at 4.2 sigma. */
#define NORMAL_BINS 4096
struct normal_table {
    float quantile[NORMAL_BINS + 1];
};

static double normal_quantile(double p)
{
    double low = -4.2, high = 4.2;
    for (int i = 0; i < 60; i++) {
        double middle = (low + high) / 2;
        if (0.5 * erfc(-middle / sqrt(2.0)) < p)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static void normal_table_init(struct normal_table *t)
{
    /* Rounded to 2^-16, so that the last bits of the C library's erfc do not show. */
    for (int i = 0; i <= NORMAL_BINS; i++)
        t->quantile[i] = (float)(round(normal_quantile((double)i / NORMAL_BINS) * 65536) / 65536);
}

/* splitmix64's output function (Steele, Lea, Flood 2014) over a counter. */
static uint64_t random_bits(uint64_t key, uint64_t counter)
{
    uint64_t z = key + (counter + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static float normal_value(const struct normal_table *t, uint32_t bits)
{
    const float *q = &t->quantile[bits >> 20];
    return q[0] + (q[1] - q[0]) * ((float)(bits & 0xfffffu) * 0x1p-20f);
}

/* values[i] = element first + i of the stream; first is even. */
static void normal_fill(const struct normal_table *t, uint64_t key, uint64_t first, float *values, size_t n)
{
    for (size_t i = 0; i < n; i += 2) {
        uint64_t bits = random_bits(key, (first + i) / 2);
        values[i] = normal_value(t, (uint32_t)bits);
        if (i + 1 < n)
            values[i + 1] = normal_value(t, (uint32_t)(bits >> 32));
    }
}

/* ---- element types ------------------------------------------------------------------------------------------ */

static void narrow(enum wm_dtype dtype, const float *values, size_t n, void *out)
{
    uint16_t *out16 = out;
    double *out64 = out;
    if (dtype == WM_BF16)
        for (size_t i = 0; i < n; i++)
            out16[i] = f32_to_bf16(values[i]);
    else if (dtype == WM_F16)
        for (size_t i = 0; i < n; i++)
            out16[i] = f32_to_f16(values[i]);
    else if (dtype == WM_F64)
        for (size_t i = 0; i < n; i++)
            out64[i] = values[i];
    else
        memcpy(out, values, n * sizeof *values);
}

static void widen(enum wm_dtype dtype, const void *in, size_t n, float *values)
{
    const uint16_t *in16 = in;
    const double *in64 = in;
    if (dtype == WM_BF16)
        for (size_t i = 0; i < n; i++)
            values[i] = bf16_to_f32(in16[i]);
    else if (dtype == WM_F16)
        for (size_t i = 0; i < n; i++)
            values[i] = f16_to_f32(in16[i]);
    else if (dtype == WM_F64)
        for (size_t i = 0; i < n; i++)
            values[i] = (float)in64[i];
    else
        memcpy(values, in, n * sizeof *values);
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

#define CHUNK_ELEMS ((size_t)1 << 19)
#define CHUNK_BYTES (CHUNK_ELEMS * 8)

struct work {
    const struct weights_job *job;
    const struct normal_table *table;
    atomic_size_t next_tensor;
    pthread_mutex_t lock; /* of status and error */
    enum wm_status status;
    struct wm_error *err;
    atomic_bool failed;
};

struct buffers {
    float *base, *value;
    void *bytes;
};

static enum wm_status write_variants(const struct work *w, const struct shape_tensor *t, int from_variant,
                                     uint64_t offset, const void *bytes, size_t n_bytes, int to_variant,
                                     struct wm_error *err)
{
    for (int v = from_variant; v < to_variant; v++) {
        const struct weights_file *out = &w->job->outputs[v * w->job->n_shards + t->shard];
        enum wm_status st = file_write_at(out->fd, out->path, bytes, n_bytes, t->begin + offset, err);
        if (st != WM_OK)
            return st;
    }
    return WM_OK;
}

/* Root mean square of the start of a tensor: what its deltas are scaled with. */
static enum wm_status source_spread(const struct work *w, const struct shape_tensor *t, struct buffers *b,
                                    double *spread, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    size_t n = t->n_elems < 65536 ? (size_t)t->n_elems : 65536;
    const struct weights_file *in = &w->job->sources[t->source_file];
    TRY(file_read_at(in->fd, in->path, b->bytes, n * (dtype_bits(t->dtype) / 8), t->source_begin, err));
    widen(t->dtype, b->bytes, n, b->value);
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)b->value[i] * b->value[i];
    *spread = n ? sqrt(sum / (double)n) : 0;
out:
    return st;
}

static enum wm_status write_chunk(const struct work *w, const struct shape_tensor *t, uint64_t first, size_t n,
                                  double spread, struct buffers *b, struct wm_error *err)
{
    const struct weights_job *job = w->job;
    enum wm_status st = WM_OK;
    size_t elem_bytes = dtype_bits(t->dtype) / 8, n_bytes = n * elem_bytes, name_bytes = strlen(t->name);
    uint64_t offset = first * elem_bytes;

    if (job->sources) {
        const struct weights_file *in = &job->sources[t->source_file];
        TRY(file_read_at(in->fd, in->path, b->bytes, n_bytes, t->source_begin + offset, err));
    } else {
        normal_fill(w->table, hash_xxh3_64(t->name, name_bytes, job->seed), first, b->base, n);
        for (size_t i = 0; i < n; i++)
            b->base[i] = (float)t->mean + (float)WEIGHTS_STD * b->base[i];
        narrow(t->dtype, b->base, n, b->bytes);
    }
    widen(t->dtype, b->bytes, n, b->base);
    if (job->writes_base)
        TRY(write_variants(w, t, 0, offset, b->bytes, n_bytes, 1, err));
    for (int v = job->writes_base ? 1 : 0; v < job->n_variants; v++) {
        uint64_t fine_tune = (uint64_t)v + (job->writes_base ? 0 : 1); /* from 1 */
        uint64_t key = hash_xxh3_64(t->name, name_bytes, random_bits(job->seed, fine_tune));
        double uneven = exp2(2 * (double)(random_bits(key, UINT64_MAX - 1) >> 11) * 0x1p-53 - 1);
        float scale = (float)(job->delta_std * (spread / WEIGHTS_STD) * uneven);
        normal_fill(w->table, key, first, b->value, n);
        for (size_t i = 0; i < n; i++)
            b->value[i] = b->base[i] + scale * b->value[i];
        narrow(t->dtype, b->value, n, b->bytes);
        TRY(write_variants(w, t, v, offset, b->bytes, n_bytes, v + 1, err));
    }
out:
    return st;
}

static enum wm_status write_tensor(const struct work *w, const struct shape_tensor *t, struct buffers *b,
                                   struct wm_error *err)
{
    enum wm_status st = WM_OK;
    if (w->job->sources && !dtype_is_float(t->dtype)) {
        const struct weights_file *in = &w->job->sources[t->source_file];
        for (uint64_t done = 0; done < t->n_bytes; done += CHUNK_BYTES) {
            size_t n = t->n_bytes - done < CHUNK_BYTES ? (size_t)(t->n_bytes - done) : CHUNK_BYTES;
            TRY(file_read_at(in->fd, in->path, b->bytes, n, t->source_begin + done, err));
            TRY(write_variants(w, t, 0, done, b->bytes, n, w->job->n_variants, err));
        }
        return WM_OK;
    }
    double spread = WEIGHTS_STD;
    if (w->job->sources)
        TRY(source_spread(w, t, b, &spread, err));
    for (uint64_t first = 0; first < t->n_elems && !atomic_load(&w->failed); first += CHUNK_ELEMS) {
        size_t n = t->n_elems - first < CHUNK_ELEMS ? (size_t)(t->n_elems - first) : CHUNK_ELEMS;
        TRY(write_chunk(w, t, first, n, spread, b, err));
    }
out:
    return st;
}

static void *worker(void *argument)
{
    struct work *w = argument;
    struct wm_error err = WM_ERROR_INIT;
    enum wm_status st = WM_OK;
    struct buffers b = {.base = malloc(CHUNK_ELEMS * sizeof(float)),
                        .value = malloc(CHUNK_ELEMS * sizeof(float)),
                        .bytes = malloc(CHUNK_BYTES)};
    if (!b.base || !b.value || !b.bytes) {
        st = error_no_memory(&err, "making weights");
    } else {
        size_t i;
        while (st == WM_OK && !atomic_load(&w->failed) &&
               (i = atomic_fetch_add(&w->next_tensor, 1)) < w->job->tensors->n_items)
            st = write_tensor(w, &w->job->tensors->items[i], &b, &err);
    }
    if (st != WM_OK) {
        atomic_store(&w->failed, true);
        pthread_mutex_lock(&w->lock);
        if (w->status == WM_OK)
            w->status = error_set(w->err, st, "%s", err.message);
        pthread_mutex_unlock(&w->lock);
    }
    free(b.base);
    free(b.value);
    free(b.bytes);
    return NULL;
}

enum wm_status weights_write(const struct weights_job *job, struct wm_error *err)
{
    struct normal_table *table = malloc(sizeof *table);
    pthread_t *threads = calloc((size_t)job->n_threads, sizeof *threads);
    struct work work = {.job = job, .table = table, .lock = PTHREAD_MUTEX_INITIALIZER, .err = err};
    int n_started = 0;
    if (!table || !threads) {
        work.status = error_no_memory(err, "starting the writers");
        goto out;
    }
    normal_table_init(table);
    while (n_started < job->n_threads && pthread_create(&threads[n_started], NULL, worker, &work) == 0)
        n_started++;
    if (n_started == 0)
        worker(&work);
    for (int i = 0; i < n_started; i++)
        pthread_join(threads[i], NULL);
out:
    pthread_mutex_destroy(&work.lock);
    free(threads);
    free(table);
    return work.status;
}
