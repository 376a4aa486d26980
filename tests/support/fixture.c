/* fixture.c: see fixture.h. */
#include "support/fixture.h"

#include "base/dtype.h"
#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "common/number_format.h"

#include <dirent.h>
#include <ftw.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

void fixture_init(struct fixture *f)
{
    snprintf(f->dir, sizeof f->dir, "/tmp/wm-test-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
}

static int remove_entry(const char *path, const struct stat *sb, int kind, struct FTW *ftw)
{
    (void)sb;
    (void)kind;
    (void)ftw;
    return remove(path);
}

void fixture_release(struct fixture *f)
{
    nftw(f->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

const char *fixture_path(const struct fixture *f, const char *name)
{
    static char ring[16][1024];
    static unsigned next;
    char *path = ring[next++ % 16];

    snprintf(path, sizeof ring[0], "%s/%s", f->dir, name);
    return path;
}

void fixture_write_file(const struct fixture *f, const char *name, const char *text)
{
    assert_int_equal(file_write_whole(fixture_path(f, name), text, strlen(text), false, NULL), WM_OK);
}

/* splitmix64: a counter-based stream, so that a tensor's values do not depend on its place in the file. */
static uint64_t draw(uint64_t seed, uint64_t i)
{
    uint64_t z = seed * 0x9E3779B97F4A7C15u + (i + 1) * 0xBF58476D1CE4E5B9u;

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Sum of four uniforms: near enough to a normal for tests. */
static double noise(uint64_t seed, uint64_t i)
{
    uint64_t z = draw(seed, i);
    double sum = 0.0;

    for (int k = 0; k < 4; k++)
        sum += (double)((z >> (16 * k)) & 0xFFFF) / 65536.0 - 0.5;
    return sum * 1.7320508;
}

static void fill(const struct fixture_tensor *t, void *data, uint64_t n_elems)
{
    for (uint64_t i = 0; i < n_elems; i++) {
        double value = t->spread * noise(t->seed, i);
        if (t->delta_seed)
            value += t->delta_spread * noise(t->delta_seed, i);
        switch (t->dtype) {
        case WM_F64: ((double *)data)[i] = value; break;
        case WM_F32: ((float *)data)[i] = (float)value; break;
        case WM_BF16: ((uint16_t *)data)[i] = f32_to_bf16((float)value); break;
        case WM_F16: ((uint16_t *)data)[i] = f32_to_f16((float)value); break;
        case WM_I64: ((int64_t *)data)[i] = (int64_t)(i % 512); break;
        default: ((uint8_t *)data)[i * dtype_bits(t->dtype) / 8] = (uint8_t)draw(t->seed, i); break;
        }
    }
}

static uint64_t n_elems_of(const struct fixture_tensor *t)
{
    uint64_t n = 1;

    for (int d = 0; d < t->n_dims; d++)
        n *= t->shape[d];
    return n;
}

static void write_shard(const char *path, const struct fixture_tensor *tensors, size_t n_tensors)
{
    struct safetensors_entry *entries = calloc(n_tensors + 1, sizeof *entries);
    uint64_t at = 0;
    void *header;
    size_t n_header;
    FILE *out = fopen(path, "wb");

    assert_non_null(out);
    for (size_t i = 0; i < n_tensors; i++) {
        uint64_t n_bytes = n_elems_of(&tensors[i]) * dtype_bits(tensors[i].dtype) / 8;
        entries[i] = (struct safetensors_entry){
            tensors[i].name, tensors[i].dtype, tensors[i].n_dims, tensors[i].shape, at, n_bytes};
        at += n_bytes;
    }
    assert_int_equal(safetensors_header(entries, n_tensors, NULL, 8, &header, &n_header, NULL), WM_OK);
    assert_int_equal(fwrite(header, 1, n_header, out), n_header);
    for (size_t i = 0; i < n_tensors; i++) {
        size_t n_bytes = (size_t)entries[i].n_bytes;
        void *data = malloc(n_bytes ? n_bytes : 1);
        if (tensors[i].data)
            memcpy(data, tensors[i].data, n_bytes);
        else
            fill(&tensors[i], data, n_elems_of(&tensors[i]));
        assert_int_equal(fwrite(data, 1, n_bytes, out), n_bytes);
        free(data);
    }
    fclose(out);
    free(header);
    free(entries);
}

void fixture_write_model(const struct fixture *f, const char *model, const struct fixture_tensor *tensors,
                         size_t n_tensors, uint64_t shard_bytes, const char *config_json)
{
    char path[512], index[32768];
    size_t used = 0, first = 0;
    int n_shards = 0;

    snprintf(path, sizeof path, "%s/%s", f->dir, model);
    assert_int_equal(file_make_dir(path, NULL), WM_OK);
    if (config_json) {
        snprintf(path, sizeof path, "%s/config.json", model);
        fixture_write_file(f, path, config_json);
    }
    if (!shard_bytes) {
        snprintf(path, sizeof path, "%s/%s/model.safetensors", f->dir, model);
        write_shard(path, tensors, n_tensors);
        return;
    }
    used = (size_t)snprintf(index, sizeof index, "{\"metadata\":{},\"weight_map\":{");
    while (first < n_tensors) {
        size_t n = 0;
        uint64_t bytes = 0;
        while (first + n < n_tensors && (n == 0 || bytes < shard_bytes)) {
            bytes += n_elems_of(&tensors[first + n]) * dtype_bits(tensors[first + n].dtype) / 8;
            used += (size_t)snprintf(index + used, sizeof index - used, "%s\"%s\":\"part-%d.safetensors\"",
                                     first + n ? "," : "", tensors[first + n].name, n_shards);
            assert_true(used < sizeof index);
            n++;
        }
        snprintf(path, sizeof path, "%s/%s/part-%d.safetensors", f->dir, model, n_shards++);
        write_shard(path, tensors + first, n);
        first += n;
    }
    snprintf(index + used, sizeof index - used, "}}");
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", model);
    fixture_write_file(f, path, index);
}

enum wm_status fixture_merge(const struct fixture *f, const char *config, const char *out, const struct wm_options *opt,
                             struct wm_error *err)
{
    struct wm_error local = WM_ERROR_INIT;
    struct wm_merge *merge = NULL;
    enum wm_status st = wm_merge_open(&merge, fixture_path(f, config), opt, &local);

    if (st == WM_OK)
        st = wm_merge_plan(merge, fixture_path(f, out), &local);
    if (st == WM_OK)
        st = wm_merge_run(merge, &local);
    wm_merge_free(merge);
    if (err)
        *err = local;
    return st;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

struct hash128 fixture_digest(const struct fixture *f, const char *out)
{
    struct hash128 digests[64];
    struct dirent **names;
    int n = scandir(fixture_path(f, out), &names, NULL, by_name), k = 0;

    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        if (names[i]->d_name[0] != '.') {
            char path[512], *data;
            size_t n_bytes;
            snprintf(path, sizeof path, "%s/%s/%s", f->dir, out, names[i]->d_name);
            assert_int_equal(file_read_all(path, (size_t)1 << 32, &data, &n_bytes, NULL), WM_OK);
            assert_true(k + 2 <= 64);
            digests[k++] = hash_xxh3(names[i]->d_name, strlen(names[i]->d_name));
            digests[k++] = hash_xxh3(data, n_bytes);
            free(data);
        }
        free(names[i]);
    }
    free(names);
    return hash_tree(digests, (size_t)k);
}

void *fixture_read_tensor(const struct fixture *f, const char *model, const char *tensor, size_t *n_bytes)
{
    struct ckpt_options options = {0};
    const struct ckpt_tensor *t;
    struct problems problems;
    struct ckpt *ckpt;
    void *data;
    int fd;

    problems_init(&problems, NULL, NULL, false);
    assert_int_equal(ckpt_open(&ckpt, fixture_path(f, model), NULL, &options, &problems, NULL), WM_OK);
    t = ckpt_find(ckpt, tensor);
    assert_non_null(t);
    *n_bytes = (size_t)t->n_bytes;
    data = malloc(*n_bytes ? *n_bytes : 1);
    assert_int_equal(file_open_read(&fd, ckpt->files[t->file].path, NULL, NULL, NULL), WM_OK);
    assert_int_equal(file_read_at(fd, ckpt->files[t->file].path, data, *n_bytes, t->begin, NULL), WM_OK);
    file_close(&fd);
    ckpt_free(ckpt);
    return data;
}
