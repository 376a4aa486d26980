/*
 * fuzz_safetensors.c: libFuzzer target of the header reader: the input is a whole file. Beyond "no crash": an accepted
 * header covers its data exactly, and written anew it is accepted again as the same table.
 *
 *     cmake -DCMAKE_C_COMPILER=clang-14 -DWM_SANITIZE=asan -DWM_FUZZ=ON; fuzz_safetensors -max_total_time=60 CORPUS
 */
#include "base/dtype.h"
#include "checkpoint/safetensors_read.h"
#include "checkpoint/sniff.h"
#include "need.h"

#include <string.h>

static enum wm_status parse(struct safetensors_table *table, const char *header, size_t n_header, uint64_t n_data,
                            struct arena *arena, struct wm_error *err)
{
    char *exact = malloc(n_header ? n_header : 1); /* so that ASan sees a read past the header */
    struct problems problems;
    enum wm_status st;

    NEED(exact != NULL);
    if (n_header)
        memcpy(exact, header, n_header);
    problems_init(&problems, NULL, NULL, true);
    st = safetensors_parse(table, "f", exact, n_header, n_data, arena, &problems, err);
    free(exact);
    return st;
}

/* Writes what was read and reads it back. */
static void round_trip(const struct safetensors_table *table, uint64_t data_begin, uint64_t n_data)
{
    struct safetensors_entry *entries = calloc(table->n_tensors + 1, sizeof *entries);
    struct wm_error err = WM_ERROR_INIT;
    struct safetensors_table again;
    struct arena arena;
    void *header;
    size_t n;

    NEED(entries != NULL);
    for (size_t i = 0; i < table->n_tensors; i++) {
        const struct ckpt_tensor *t = &table->tensors[i];
        entries[i] =
            (struct safetensors_entry){t->name, t->dtype, t->n_dims, t->shape, t->begin - data_begin, t->n_bytes};
    }
    NEED(safetensors_header(entries, table->n_tensors, NULL, 4096, &header, &n, &err) == WM_OK && n % 4096 == 0);
    arena_init(&arena, (size_t)1 << 28);
    NEED(parse(&again, (const char *)header + 8, n - 8, n_data, &arena, &err) == WM_OK);
    NEED(again.n_tensors == table->n_tensors);
    for (size_t i = 0; i < table->n_tensors; i++) {
        const struct ckpt_tensor *a = &table->tensors[i], *b = &again.tensors[i];
        NEED(strcmp(a->name, b->name) == 0 && a->dtype == b->dtype && a->n_dims == b->n_dims);
        NEED(a->n_bytes == b->n_bytes && a->n_elems == b->n_elems && a->begin - data_begin == b->begin - n);
        NEED(memcmp(a->shape, b->shape, (size_t)a->n_dims * sizeof *a->shape) == 0);
    }
    arena_release(&arena);
    free(header);
    free(entries);
}

/* A header in front of n_data bytes. */
static void check(const char *header, size_t n_header, uint64_t n_data)
{
    struct wm_error err = WM_ERROR_INIT;
    struct safetensors_table table;
    struct arena arena;
    uint64_t at = 8 + n_header;

    arena_init(&arena, (size_t)1 << 28);
    if (parse(&table, header, n_header, n_data, &arena, &err) == WM_OK) {
        NEED(err.status == WM_OK);
        for (size_t i = 0; i < table.n_tensors; i++) {
            const struct ckpt_tensor *t = &table.tensors[i];
            NEED(t->begin == at && t->n_bytes * 8 == t->n_elems * dtype_bits(t->dtype));
            at += t->n_bytes;
        }
        NEED(at == 8 + n_header + n_data && table.n_bytes == n_data);
        round_trip(&table, 8 + n_header, n_data);
    } else {
        NEED(err.status == WM_BAD_DATA && err.message[strlen(err.message) - 1] == ']');
    }
    arena_release(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    struct wm_error err = WM_ERROR_INIT;
    size_t n_head = n_bytes < SNIFF_BYTES ? n_bytes : SNIFF_BYTES, n_header;

    if (safetensors_header_bytes("f", data, n_head, n_bytes, 0, &n_header, &err) == WM_OK)
        check((const char *)data + 8, n_header, n_bytes - 8 - n_header);
    else
        NEED(err.status == WM_BAD_DATA && strchr(err.message, '[') != NULL);
    /* Most mutations die at the length, so the rest is tried as a header too, with the length's bytes as data size. */
    if (n_bytes > 8)
        check((const char *)data + 8, n_bytes - 8, data[0] | (uint64_t)data[1] << 8);
    return 0;
}
