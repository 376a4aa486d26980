/*
 * corpus.h: turning the rows of the corpus tables into files.
 *
 * What lives here: building a header case in memory and a shard folder on disk. Failures of the machine end the
 * program, as in any test. What it must not know: the verdicts.
 */
#ifndef WM_TESTS_CORPUS_H
#define WM_TESTS_CORPUS_H

#include "corpus_headers.h"
#include "corpus_indexes.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CORPUS_PATH_BYTES 4096

static inline void corpus_need(int condition, const char *what)
{
    if (!condition) {
        perror(what);
        exit(EXIT_FAILURE);
    }
}

static inline void corpus_path(char path[CORPUS_PATH_BYTES], const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static inline void corpus_path(char path[CORPUS_PATH_BYTES], const char *format, ...)
{
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(path, CORPUS_PATH_BYTES, format, args);
    va_end(args);
    corpus_need(n >= 0 && n < CORPUS_PATH_BYTES, "a path is too long");
}

static inline void corpus_write(const char *path, const void *data, size_t n_bytes)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    corpus_need(fd >= 0, path);
    for (size_t done = 0; done < n_bytes;) {
        ssize_t n = write(fd, (const char *)data + done, n_bytes - done);
        corpus_need(n > 0, path);
        done += (size_t)n;
    }
    close(fd);
}

static inline void corpus_put_length(unsigned char *to, uint64_t n)
{
    for (int i = 0; i < 8; i++)
        to[i] = (unsigned char)(n >> (8 * i));
}

/* text with each `mark` replaced by `times` copies of `unit` (and `after` after them). malloc'ed. */
static inline char *corpus_replace(const char *text, size_t n_text, char mark, uint64_t times, const char *unit,
                                   const char *after, size_t *n_bytes)
{
    size_t n_unit = strlen(unit), n_after = strlen(after), n = 0;
    char *out = malloc(n_text + 2 * (size_t)times * (n_unit + n_after) + 1);

    corpus_need(out != NULL, "malloc");
    for (size_t i = 0; i < n_text; i++) {
        if (text[i] != mark) {
            out[n++] = text[i];
            continue;
        }
        for (uint64_t k = 0; k < times; k++, n += n_unit)
            memcpy(out + n, unit, n_unit);
        for (uint64_t k = 0; k < times; k++, n += n_after)
            memcpy(out + n, after, n_after);
        mark = '\0';
    }
    *n_bytes = n;
    return out;
}

/* The bytes of one case's file. malloc'ed. */
static inline unsigned char *corpus_header_bytes(const struct corpus_header *c, size_t *n_bytes)
{
    char *text = NULL;
    const char *header = c->text;
    size_t n_header = c->n_text, n_padded;
    int is_raw = c->shape == CORPUS_RAW || c->shape == CORPUS_RAW_REPEATED;
    unsigned char *file;

    if (c->shape == CORPUS_NESTED)
        header = text = corpus_replace(c->text, c->n_text, 'x', c->value, "[", "]", &n_header);
    else if (c->shape == CORPUS_REPEATED || c->shape == CORPUS_RAW_REPEATED)
        header = text = corpus_replace(c->text, c->n_text, '#', c->value, c->unit, "", &n_header);
    n_padded = c->shape == CORPUS_SPACES ? (size_t)c->value : n_header;
    *n_bytes = is_raw ? n_header : 8 + n_padded + (size_t)c->n_data;
    file = calloc(1, *n_bytes + 1);
    corpus_need(file != NULL, "malloc");
    if (is_raw) {
        memcpy(file, header, n_header);
    } else {
        corpus_put_length(file, c->shape == CORPUS_PREFIX ? c->value : n_padded);
        memset(file + 8, ' ', n_padded);
        memcpy(file + 8, header, n_header);
    }
    free(text);
    return file;
}

/* A shard with F32 [1] tensors "a,b,..."; a byte above 0x7F in the list spoils the header. */
static inline void corpus_write_shard(const char *path, const char *tensors)
{
    char header[1024], name[64];
    unsigned char file[2048] = {0};
    size_t n = 0, n_tensors = 0, n_name;

    n += (size_t)sprintf(header + n, "{");
    for (const char *p = tensors; *p; p += n_name + (p[n_name] == ',')) {
        n_name = strcspn(p, ",");
        memcpy(name, p, n_name);
        name[n_name] = '\0';
        if (strchr(name, '\x80'))
            n += (size_t)sprintf(header + n, "!");
        n += (size_t)sprintf(header + n, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[%zu,%zu]}",
                             n_tensors ? "," : "", name, 4 * n_tensors, 4 * n_tensors + 4);
        n_tensors++;
    }
    n += (size_t)sprintf(header + n, "}");
    corpus_put_length(file, n);
    memcpy(file + 8, header, n);
    corpus_write(path, file, 8 + n + 4 * n_tensors);
}

/* Makes root/<name> (and root/outside.safetensors, to which links may lead). */
static inline void corpus_write_folder(const struct corpus_index *c, const char *root)
{
    char path[CORPUS_PATH_BYTES], target[CORPUS_PATH_BYTES], file[256];
    const char *p = c->shards;

    corpus_path(path, "%s/%s", root, c->name);
    corpus_need(mkdir(path, 0755) == 0, path);
    if (c->n_index) {
        corpus_path(path, "%s/%s/model.safetensors.index.json", root, c->name);
        corpus_write(path, c->index, c->n_index);
    }
    while (*p) {
        char tensors[256];
        size_t n_file = strcspn(p, ":"), n_tensors = strcspn(p + n_file + 1, ";");
        snprintf(file, sizeof file, "%.*s", (int)n_file, p);
        snprintf(tensors, sizeof tensors, "%.*s", (int)n_tensors, p + n_file + 1);
        corpus_path(path, "%s/%s/%s", root, c->name, file);
        corpus_write_shard(path, tensors);
        p += n_file + 1 + n_tensors;
        p += *p == ';';
    }
    corpus_path(path, "%s/%s/s.safetensors", root, c->name);
    switch (c->beside) {
    case CORPUS_NOTHING: break;
    case CORPUS_SINGLE:
        corpus_path(path, "%s/%s/model.safetensors", root, c->name);
        corpus_write_shard(path, "single");
        break;
    case CORPUS_FIFO: corpus_need(mkfifo(path, 0644) == 0, path); break;
    case CORPUS_FOLDER: corpus_need(mkdir(path, 0755) == 0, path); break;
    case CORPUS_LINK_INSIDE:
        corpus_path(target, "%s/%s/real.bin", root, c->name);
        corpus_write_shard(target, "a");
        corpus_need(symlink("real.bin", path) == 0, path);
        break;
    case CORPUS_LINK_OUTSIDE:
        corpus_path(target, "%s/outside.safetensors", root);
        corpus_write_shard(target, "a");
        corpus_need(symlink("../outside.safetensors", path) == 0, path);
        break;
    case CORPUS_LINK_BROKEN: corpus_need(symlink("gone.safetensors", path) == 0, path); break;
    case CORPUS_LINK_LOOP: corpus_need(symlink("s.safetensors", path) == 0, path); break;
    }
}

#endif
