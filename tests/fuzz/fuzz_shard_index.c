/*
 * fuzz_shard_index.c: libFuzzer target of the shard index. Beyond "no crash": whatever is accepted names only plain
 * files, every tensor has one of the shards, and every name is found.
 *
 *     cmake -DCMAKE_C_COMPILER=clang-14 -DWM_SANITIZE=asan -DWM_FUZZ=ON; fuzz_shard_index -max_total_time=60 CORPUS
 */
#include "checkpoint/shard_index.h"
#include "need.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    struct wm_error err = WM_ERROR_INIT;
    struct shard_index index;
    struct arena arena;
    char *text = malloc(n_bytes ? n_bytes : 1); /* exactly n_bytes, so that ASan sees a read past them */

    NEED(text != NULL);
    if (n_bytes)
        memcpy(text, data, n_bytes);
    arena_init(&arena, (size_t)1 << 28);
    if (shard_index_parse(&index, "f", text, n_bytes, &arena, &err) == WM_OK) {
        NEED(index.n_entries >= 1 && index.n_shards >= 1 && index.n_shards <= index.n_entries);
        for (size_t i = 0; i < index.n_shards; i++) {
            const char *name = index.shards[i].name;
            NEED(!strpbrk(name, "/\\:") && strcmp(name, "..") != 0 && strlen(name) > strlen(".safetensors"));
            for (size_t k = 0; k < i; k++)
                NEED(strcmp(name, index.shards[k].name) != 0);
        }
        for (size_t i = 0; i < index.n_entries; i++) {
            NEED(index.entries[i].shard < index.n_shards);
            NEED(name_map_find(&index.tensors, index.entries[i].tensor) == i);
        }
    } else {
        NEED(err.status == WM_BAD_DATA && err.message[strlen(err.message) - 1] == ']');
    }
    arena_release(&arena);
    free(text);
    return 0;
}
