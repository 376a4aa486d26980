/* loose_weights.c: see loose_weights.h. */
#include "checkpoint/loose_weights.h"

#include "base/text.h"
#include "checkpoint/refuse.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXTENSION   ".safetensors"
#define FILES_MAX   100000
#define LIST_BYTES  600 /* of file names in one message */
#define PART_DIGITS 5   /* model-00001-of-00030.safetensors */

struct listing {
    const char **names; /* ending in .safetensors */
    size_t n_names, capacity;
    bool has_adapter, has_pickle, has_gguf;
};

static bool ends_in(const char *name, const char *ending)
{
    size_t n = strlen(name), n_ending = strlen(ending);

    return n > n_ending && strcmp(name + n - n_ending, ending) == 0;
}

static enum wm_status list_folder(struct listing *l, const char *path, struct arena *arena, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    const struct dirent *entry;
    DIR *dir = opendir(path);

    if (!dir)
        return ckpt_refuse(err, WM_NO_INPUT, "CANNOT_OPEN", path, "cannot be listed: %s; check its permissions",
                           strerror(errno));
    while ((entry = readdir(dir)) != NULL) {
        const char *name = entry->d_name;
        l->has_adapter |= strcmp(name, "adapter_config.json") == 0;
        l->has_pickle |= ends_in(name, ".bin") || ends_in(name, ".pt") || ends_in(name, ".pth") ||
                         ends_in(name, ".ckpt") || ends_in(name, ".bin.index.json");
        l->has_gguf |= ends_in(name, ".gguf");
        if (!ends_in(name, EXTENSION))
            continue;
        if (l->n_names == FILES_MAX) {
            st = ckpt_refuse(err, WM_BAD_DATA, "AMBIGUOUS_WEIGHTS", path,
                             "it holds more than %d " EXTENSION " files; add the index that says which belong to the "
                             "model",
                             FILES_MAX);
            goto out;
        }
        if (!arena_grow(arena, (void **)&l->names, l->n_names, &l->capacity, sizeof *l->names) ||
            (l->names[l->n_names++] = arena_strdup(arena, name)) == NULL) {
            st = error_no_memory(err, "listing a folder");
            goto out;
        }
    }
out:
    closedir(dir);
    return st;
}

/* Nothing to open: says what is there instead. */
static enum wm_status refuse_folder(const struct place *place, const struct listing *l, struct arena *arena,
                                    struct wm_error *err)
{
    const char *line;

    if (l->has_pickle)
        return ckpt_refuse(
            err, WM_BAD_DATA, "PICKLE", place->dir,
            "its weights are pickles (pytorch_model.bin), which can run code when loaded and are never "
            "opened here; convert them on a machine you trust, for example: python -c \"import sys; from "
            "transformers import AutoModelForCausalLM as M; M.from_pretrained(sys.argv[1])"
            ".save_pretrained(sys.argv[2], safe_serialization=True)\" OLD_DIR NEW_DIR");
    if (l->has_gguf)
        return ckpt_refuse(err, WM_BAD_DATA, "GGUF", place->dir,
                           "its weights are GGUF files (llama.cpp), packed for inference; get the model's original "
                           "safetensors files");
    if (!place->hub.repo_id)
        return ckpt_refuse(err, WM_NO_INPUT, "NO_WEIGHTS", place->dir,
                           "no weights here (no model.safetensors, no model.safetensors.index.json); give the folder "
                           "that holds them");
    line = hub_download_line(&place->hub, arena);
    if (!line)
        return error_no_memory(err, "opening a model");
    return ckpt_refuse(err, WM_NO_INPUT, "NO_WEIGHTS", place->dir,
                       "this snapshot of the hub cache holds no weights; complete it: %s", line);
}

/* "model-00002-of-00030.safetensors": the length of "model", part and total. */
static bool parse_part(const char *name, size_t *n_stem, unsigned *part, unsigned *total)
{
    static const char of[] = "-of-";
    size_t n = strlen(name), n_tail = 1 + 2 * PART_DIGITS + strlen(of) + strlen(EXTENSION);
    const char *tail;

    if (n <= n_tail)
        return false;
    tail = name + n - n_tail;
    if (tail[0] != '-' || strncmp(tail + 1 + PART_DIGITS, of, strlen(of)) != 0)
        return false;
    *part = *total = 0;
    for (int i = 0; i < PART_DIGITS; i++) {
        char a = tail[1 + i], b = tail[1 + PART_DIGITS + 4 + i];
        if (a < '0' || a > '9' || b < '0' || b > '9')
            return false;
        *part = *part * 10 + (unsigned)(a - '0');
        *total = *total * 10 + (unsigned)(b - '0');
    }
    *n_stem = n - n_tail;
    return true;
}

static int compare_names(const void *left, const void *right)
{
    return text_natural_compare(*(const char *const *)left, *(const char *const *)right);
}

/* Whether the sorted names are parts 1 to n of one model; *first_missing is the first part that is not there. */
static bool is_one_set(const struct listing *l, unsigned *first_missing, unsigned *total)
{
    size_t n_stem = 0, n_stem_here;
    unsigned part, total_here;

    *first_missing = 0;
    for (size_t i = 0; i < l->n_names; i++) {
        if (!parse_part(l->names[i], &n_stem_here, &part, &total_here))
            return false;
        if (i == 0) {
            n_stem = n_stem_here;
            *total = total_here;
        }
        if (n_stem_here != n_stem || strncmp(l->names[i], l->names[0], n_stem) != 0 || total_here != *total ||
            part > *total)
            return false;
        if (part != i + 1 && !*first_missing)
            *first_missing = (unsigned)i + 1;
    }
    if (l->n_names < *total && !*first_missing)
        *first_missing = (unsigned)l->n_names + 1;
    return true;
}

static enum wm_status refuse_ambiguous(const struct place *place, const struct listing *l, struct wm_error *err)
{
    enum wm_status st;
    char shown[REFUSE_NAME_BYTES];
    struct text list;

    text_init(&list, LIST_BYTES);
    for (size_t i = 0; i < l->n_names && !list.failed; i++)
        text_addf(&list, "%s%s", i ? ", " : "", text_display(shown, sizeof shown, l->names[i]));
    st = ckpt_refuse(err, WM_BAD_DATA, "AMBIGUOUS_WEIGHTS", place->dir,
                     "it holds %zu " EXTENSION
                     " files and neither an index nor model.safetensors (%s%s); add the index, "
                     "or give one of the files itself",
                     l->n_names, text_string(&list), list.failed ? ", ..." : "");
    text_release(&list);
    return st;
}

enum wm_status loose_weights(const struct place *place, const char *const **names, size_t *n_names, struct arena *arena,
                             struct problems *problems, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    struct listing l = {0};
    unsigned missing = 0, total = 0;
    char shown[REFUSE_NAME_BYTES];

    TRY(list_folder(&l, place->dir, arena, err));
    if (l.has_adapter) {
        st = ckpt_refuse(err, WM_BAD_DATA, "LORA_ADAPTER", place->dir,
                         "it holds a LoRA adapter (adapter_config.json) and no model; merge the adapter into its base "
                         "model first (peft's merge_and_unload), then give that");
        goto out;
    }
    if (l.n_names == 0) {
        st = refuse_folder(place, &l, arena, err);
        goto out;
    }
    qsort(l.names, l.n_names, sizeof *l.names, compare_names);
    if (is_one_set(&l, &missing, &total)) {
        if (missing) {
            const char *line = place->hub.repo_id ? hub_download_line(&place->hub, arena) : NULL;
            st = ckpt_refuse(err, WM_NO_INPUT, "INDEX_SHARD_MISSING", place->dir,
                             "the index and %u of its %u shards are missing (first: part %u); %s%s",
                             total > l.n_names ? total - (unsigned)l.n_names : 0, total, missing,
                             line ? "complete the snapshot: " : "download them", line ? line : "");
            goto out;
        }
        problems_add(problems, WM_WARNING, WM_OK,
                     "%s: no model.safetensors.index.json; all %zu shards are taken as the model", place->dir,
                     l.n_names);
    } else if (l.n_names == 1) {
        problems_add(problems, WM_WARNING, WM_OK, "%s: no model.safetensors; %s is taken as the model", place->dir,
                     text_display(shown, sizeof shown, l.names[0]));
    } else {
        st = refuse_ambiguous(place, &l, err);
        goto out;
    }
    *names = l.names;
    *n_names = l.n_names;
out:
    return st;
}
