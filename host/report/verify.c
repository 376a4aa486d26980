/*
 * verify.c: does a finished directory still hold what its manifest says?
 *
 * What lives here: reading the manifest back, comparing shard sizes and headers, and hashing every tensor again on all
 * processors. The tree hash is computed here from its definition, not with the engine's code, so a mistake in either
 * shows. What it must not know: how the directory was made.
 */
#include "report/report.h"

#include "base/dtype.h"
#include "base/file.h"
#include "base/json.h"
#include "base/machine.h"
#include "methods/tile.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_MANIFEST_BYTES ((size_t)512 << 20)
#define UNIT_PIECES        64 /* pieces that a thread takes at a time: 4 MiB of fp32, 2 MiB of bf16 */
#define MAX_THREADS        64
#define DIGEST_BYTES       16

/* ---- the work: every piece of every tensor ------------------------------------------------------------------ */

struct tensor_check {
    const struct ckpt_tensor *tensor;
    struct hash128 expected, actual;
    uint64_t n_pieces, n_done; /* pieces */
    unsigned char *digests;    /* [n_pieces][DIGEST_BYTES]: alive while the tensor is in work */
};

/* Tensors are handed out in order, a unit at a time, so at most one tensor per thread (and one) has digests. */
struct verification {
    const struct ckpt *ckpt;
    struct tensor_check *checks;
    size_t n_checks, next_check;
    uint64_t next_piece;
    int *fds; /* [ckpt->n_files] */
    pthread_mutex_t mutex;
    struct wm_error err;
};

static uint64_t piece_bytes(const struct ckpt_tensor *t)
{
    return (uint64_t)TILE_CHUNK_ELEMS * dtype_bits(t->dtype) / 8;
}

static void put_digest(unsigned char *at, struct hash128 h)
{
    for (int i = 0; i < 8; i++) {
        at[i] = (unsigned char)(h.high >> (56 - 8 * i));
        at[8 + i] = (unsigned char)(h.low >> (56 - 8 * i));
    }
}

struct unit {
    struct tensor_check *check;
    uint64_t first, n; /* pieces */
};

/* false: nothing left, or somebody failed. */
static bool take_unit(struct verification *v, struct unit *u)
{
    bool got = false;

    pthread_mutex_lock(&v->mutex);
    while (v->next_check < v->n_checks && v->checks[v->next_check].n_pieces == 0) {
        v->checks[v->next_check].actual = hash_xxh3("", 0);
        v->next_check++;
    }
    if (v->err.status == WM_OK && v->next_check < v->n_checks) {
        struct tensor_check *c = &v->checks[v->next_check];
        if (!c->digests)
            c->digests = malloc((size_t)c->n_pieces * DIGEST_BYTES);
        if (c->digests) {
            uint64_t left = c->n_pieces - v->next_piece;
            *u = (struct unit){c, v->next_piece, left < UNIT_PIECES ? left : UNIT_PIECES};
            v->next_piece += u->n;
            if (v->next_piece == c->n_pieces) {
                v->next_check++;
                v->next_piece = 0;
            }
            got = true;
        } else {
            error_no_memory(&v->err, "verifying");
        }
    }
    pthread_mutex_unlock(&v->mutex);
    return got;
}

static enum wm_status hash_unit(struct verification *v, const struct unit *u, unsigned char *buffer,
                                struct wm_error *err)
{
    const struct ckpt_tensor *t = u->check->tensor;
    uint64_t piece = piece_bytes(t), begin = u->first * piece, end = begin + u->n * piece;
    enum wm_status st;

    end = end < t->n_bytes ? end : t->n_bytes;
    TRY(file_read_at(v->fds[t->file], v->ckpt->files[t->file].path, buffer, (size_t)(end - begin), t->begin + begin,
                     err));
    for (uint64_t i = 0; i < u->n; i++) {
        uint64_t from = i * piece, n = end - begin - from;
        put_digest(u->check->digests + (u->first + i) * DIGEST_BYTES, hash_xxh3(buffer + from, n < piece ? n : piece));
    }
out:
    return st;
}

static void *worker(void *arg)
{
    struct verification *v = arg;
    struct wm_error err = WM_ERROR_INIT;
    struct unit u;
    unsigned char *buffer = malloc((size_t)UNIT_PIECES * TILE_CHUNK_ELEMS * 8); /* 8: the widest type */

    if (!buffer)
        error_no_memory(&err, "verifying");
    while (err.status == WM_OK && take_unit(v, &u)) {
        if (hash_unit(v, &u, buffer, &err) != WM_OK)
            break;
        pthread_mutex_lock(&v->mutex);
        u.check->n_done += u.n;
        if (u.check->n_done == u.check->n_pieces) {
            u.check->actual = hash_xxh3(u.check->digests, (size_t)u.check->n_pieces * DIGEST_BYTES);
            free(u.check->digests);
            u.check->digests = NULL;
        }
        pthread_mutex_unlock(&v->mutex);
    }
    if (err.status != WM_OK) {
        pthread_mutex_lock(&v->mutex);
        error_set(&v->err, err.status, "%s", err.message);
        pthread_mutex_unlock(&v->mutex);
    }
    free(buffer);
    return NULL;
}

static int choose_threads(const struct wm_options *options)
{
    int n = options->n_threads > 0 ? options->n_threads : machine_processors();

    return n > MAX_THREADS ? MAX_THREADS : n;
}

static enum wm_status hash_all(struct verification *v, int n_threads, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    pthread_t threads[MAX_THREADS];
    int n_started = 0;

    v->fds = malloc(((size_t)v->ckpt->n_files + 1) * sizeof *v->fds);
    if (!v->fds)
        return error_no_memory(err, "verifying");
    for (int f = 0; f < v->ckpt->n_files; f++)
        v->fds[f] = -1;
    pthread_mutex_init(&v->mutex, NULL);
    for (int f = 0; f < v->ckpt->n_files; f++)
        TRY(file_open_read(&v->fds[f], v->ckpt->files[f].path, NULL, NULL, err));
    /* The calling thread works too, so a machine that gives us no threads still verifies. */
    while (n_started < n_threads - 1 && pthread_create(&threads[n_started], NULL, worker, v) == 0)
        n_started++;
    worker(v);
    for (int i = 0; i < n_started; i++)
        pthread_join(threads[i], NULL);
    if (v->err.status != WM_OK)
        st = error_set(err, v->err.status, "%s", v->err.message);
out:
    for (size_t i = 0; i < v->n_checks; i++)
        free(v->checks[i].digests);
    for (int f = 0; f < v->ckpt->n_files; f++)
        file_close(&v->fds[f]);
    free(v->fds);
    pthread_mutex_destroy(&v->mutex);
    return st;
}

/* ---- the manifest ------------------------------------------------------------------------------------------- */

static const cJSON *get(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

static const char *string_of(const cJSON *object, const char *key)
{
    const cJSON *item = get(object, key);

    return cJSON_IsString(item) ? item->valuestring : NULL;
}

/* Sizes in a manifest are far below 2^53, where cJSON's doubles are exact. */
static bool number_is(const cJSON *item, uint64_t value)
{
    return cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble < 9007199254740992.0 &&
           (uint64_t)item->valuedouble == value;
}

static bool parse_hash(const char *hex, struct hash128 *h)
{
    uint64_t half[2] = {0, 0};

    for (int i = 0; i < 32; i++) {
        const char *digits = "0123456789abcdef", *at = hex[i] ? strchr(digits, hex[i]) : NULL;
        if (!at)
            return false;
        half[i / 16] = half[i / 16] << 4 | (uint64_t)(at - digits);
    }
    *h = (struct hash128){.high = half[0], .low = half[1]};
    return hex[32] == '\0';
}

static enum wm_status read_manifest(const char *dir, cJSON **manifest, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    char *path = file_path_join(dir, REPORT_MANIFEST_NAME), *data = NULL;
    const char *schema;
    size_t n_bytes;

    *manifest = NULL;
    if (!path)
        return error_no_memory(err, "reading the manifest");
    if (!file_is_dir(dir)) {
        st = error_set(err, WM_NO_INPUT, "%s is not a directory; give a directory that warpmerge wrote", dir);
        goto out;
    }
    if (!file_exists(path)) {
        st = error_set(err, WM_NO_INPUT, "%s has no " REPORT_MANIFEST_NAME "; give a directory that warpmerge wrote",
                       dir);
        goto out;
    }
    TRY(file_read_all(path, MAX_MANIFEST_BYTES, &data, &n_bytes, err));
    TRY(json_gate(path, data, n_bytes, JSON_MAX_DEPTH, err));
    *manifest = cJSON_ParseWithLength(data, n_bytes);
    schema = string_of(*manifest, "schema");
    if (!schema || strcmp(schema, "warpmerge-manifest") != 0)
        st = error_set(err, WM_BAD_DATA, "%s is not a warpmerge manifest", path);
    else if (!number_is(get(*manifest, "schema_version"), REPORT_MANIFEST_VERSION))
        st = error_set(
            err, WM_BAD_DATA,
            "%s has a schema version that warpmerge " WM_VERSION " does not read; use the version that wrote it", path);
out:
    if (st != WM_OK) {
        cJSON_Delete(*manifest);
        *manifest = NULL;
    }
    free(data);
    free(path);
    return st;
}

static void differs(struct problems *problems, const char *dir, const char *what, const char *name, const char *how)
{
    char shown[160];

    problems_add(problems, WM_ERROR, WM_VERIFY_FAILED, "%s: %s %s %s; restore the directory or merge again", dir, what,
                 text_display(shown, sizeof shown, name ? name : "(without a name)"), how);
}

/* Sizes of shards and, where the manifest has it, their SHA-256. */
static enum wm_status check_shards(const char *dir, const cJSON *shards, struct problems *problems,
                                   struct wm_error *err)
{
    enum wm_status st = WM_OK;
    const cJSON *shard;
    char *path = NULL, hex[HASH_SHA256_HEX_BYTES];
    int fd = -1;

    cJSON_ArrayForEach(shard, shards)
    {
        const char *name = string_of(shard, "name"), *sha256 = string_of(shard, "sha256");
        struct file_identity id;
        if (!name || strchr(name, '/')) {
            differs(problems, dir, "shard", name, "is not named properly by the manifest");
            continue;
        }
        path = file_path_join(dir, name);
        if (!path) {
            st = error_no_memory(err, "verifying");
            goto out;
        }
        if (!file_exists(path)) {
            differs(problems, dir, "shard", name, "is missing");
        } else {
            TRY(file_open_read(&fd, path, NULL, &id, err));
            file_close(&fd);
            if (!number_is(get(shard, "n_bytes"), id.n_bytes)) {
                differs(problems, dir, "shard", name, "has another size than the manifest says");
            } else if (sha256) {
                TRY(hash_sha256_file(hex, path, NULL, err));
                if (strcmp(hex, sha256) != 0)
                    differs(problems, dir, "shard", name, "has another SHA-256 than the manifest says");
            }
        }
        free(path);
        path = NULL;
    }
out:
    free(path);
    return st;
}

/* People edit cards and templates, so a changed side file is worth a warning and no more. */
static enum wm_status check_files(const char *dir, const cJSON *files, struct problems *problems, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    const cJSON *file;
    char *path = NULL, hex[HASH_SHA256_HEX_BYTES];

    cJSON_ArrayForEach(file, files)
    {
        const char *name = string_of(file, "name"), *sha256 = string_of(file, "sha256");
        if (!name || strchr(name, '/') || !sha256)
            continue;
        path = file_path_join(dir, name);
        if (!path) {
            st = error_no_memory(err, "verifying");
            goto out;
        }
        if (!file_exists(path)) {
            problems_add(problems, WM_WARNING, WM_OK, "%s: %s is gone since the merge", dir, name);
        } else {
            TRY(hash_sha256_file(hex, path, NULL, err));
            if (strcmp(hex, sha256) != 0)
                problems_add(problems, WM_WARNING, WM_OK, "%s: %s was changed since the merge", dir, name);
        }
        free(path);
        path = NULL;
    }
out:
    free(path);
    return st;
}

static bool same_shape(const cJSON *shape, const struct ckpt_tensor *t)
{
    const cJSON *dim;
    int d = 0;

    if (!cJSON_IsArray(shape) || cJSON_GetArraySize(shape) != t->n_dims)
        return false;
    cJSON_ArrayForEach(dim, shape)
    {
        if (!number_is(dim, t->shape[d]))
            return false;
        d++;
    }
    return true;
}

/* Manifest against headers; fills the checks of the tensors that agree. */
static void match_tensors(const char *dir, const cJSON *output, struct verification *v, struct problems *problems)
{
    const cJSON *entry, *shards = get(output, "shards");
    size_t n_listed = 0;

    cJSON_ArrayForEach(entry, get(output, "tensors"))
    {
        const char *name = string_of(entry, "name"), *dtype = string_of(entry, "dtype");
        const char *hash = string_of(entry, "xxh3_tree"), *shard;
        const cJSON *number = get(entry, "shard");
        const struct ckpt_tensor *t = name ? ckpt_find(v->ckpt, name) : NULL;
        struct hash128 expected;
        n_listed++;
        shard = cJSON_IsNumber(number) ? string_of(cJSON_GetArrayItem(shards, number->valueint), "name") : NULL;
        if (!t)
            differs(problems, dir, "tensor", name, "is missing");
        else if (!dtype || strcmp(dtype, dtype_name(t->dtype)) != 0 || !same_shape(get(entry, "shape"), t))
            differs(problems, dir, "tensor", name, "has another type or shape than the manifest says");
        else if (!shard || strcmp(shard, v->ckpt->files[t->file].name) != 0)
            differs(problems, dir, "tensor", name, "lies in another shard than the manifest says");
        else if (!hash || !parse_hash(hash, &expected))
            differs(problems, dir, "tensor", name, "has no readable hash in the manifest");
        else if (v->n_checks < v->ckpt->n_tensors)
            v->checks[v->n_checks++] = (struct tensor_check){
                .tensor = t, .expected = expected, .n_pieces = (t->n_bytes + piece_bytes(t) - 1) / piece_bytes(t)};
    }
    if (n_listed != v->ckpt->n_tensors)
        problems_add(problems, WM_ERROR, WM_VERIFY_FAILED, "%s: the shards hold %zu tensors, the manifest lists %zu",
                     dir, v->ckpt->n_tensors, n_listed);
}

/* ---- the verb ----------------------------------------------------------------------------------------------- */

static void add_result(struct text *out, const char *dir, const struct verification *v, double seconds, int as_json)
{
    char size[24], took[24];
    uint64_t n_bytes = v->ckpt->n_bytes;

    if (as_json) {
        text_add(out, "{\n  \"schema\": \"warpmerge-verify\",\n  \"schema_version\": 1,\n  \"ok\": true,\n  \"out\": ");
        text_add_json(out, dir);
        text_addf(
            out, ",\n  \"n_tensors\": %zu,\n  \"n_shards\": %d,\n  \"n_bytes\": %" PRIu64 ",\n  \"seconds\": %.3f\n}\n",
            v->n_checks, v->ckpt->n_files, n_bytes, seconds);
        return;
    }
    text_addf(out, "%s: %zu tensors in %d shard%s are what the manifest says (%s in %s)\n", dir, v->n_checks,
              v->ckpt->n_files, v->ckpt->n_files == 1 ? "" : "s", text_decimal_bytes(size, sizeof size, n_bytes),
              text_seconds(took, sizeof took, seconds));
}

enum wm_status report_verify(const char *dir, const struct wm_options *options, struct problems *problems, int as_json,
                             struct text *out, struct wm_error *err)
{
    const struct ckpt_options ckpt_options = {.hub_cache = options->hub_cache, .header_cap = CKPT_HEADER_CAP_FORMAT};
    struct verification v = {.err = WM_ERROR_INIT};
    enum wm_status st;
    cJSON *manifest = NULL;
    struct ckpt *ckpt = NULL;
    const cJSON *output;
    struct wm_error opening = WM_ERROR_INIT;
    double began = file_now_seconds();

    TRY(read_manifest(dir, &manifest, err));
    output = get(manifest, "output");
    TRY(check_shards(dir, get(output, "shards"), problems, err));
    TRY(check_files(dir, get(output, "files"), problems, err));
    TRY(problems_end(problems, err)); /* a missing shard would only be reported again */
    st = ckpt_open(&ckpt, dir, NULL, &ckpt_options, problems, &opening);
    if (st != WM_OK) { /* we wrote this directory whole: what is malformed now was damaged since */
        st = error_set(err, st == WM_BAD_DATA ? WM_VERIFY_FAILED : st, "%s", opening.message);
        goto out;
    }
    v.ckpt = ckpt;
    v.checks = calloc(ckpt->n_tensors + 1, sizeof *v.checks);
    if (!v.checks) {
        st = error_no_memory(err, "verifying");
        goto out;
    }
    match_tensors(dir, output, &v, problems);
    TRY(hash_all(&v, choose_threads(options), err));
    for (size_t i = 0; i < v.n_checks; i++)
        if (!hash128_equal(v.checks[i].expected, v.checks[i].actual))
            differs(problems, dir, "tensor", v.checks[i].tensor->name, "does not have the bytes that were written");
    TRY(problems_end(problems, err));
    add_result(out, dir, &v, file_now_seconds() - began, as_json);
    if (out->failed)
        st = error_no_memory(err, "verifying");
out:
    free(v.checks);
    ckpt_free(ckpt);
    cJSON_Delete(manifest);
    return st;
}
