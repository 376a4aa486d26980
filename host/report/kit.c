/*
 * kit.c: the files around the weights that make a directory a Hugging Face model.
 *
 * What lives here: config.json kept true, the donor's tokenizer and generation files, and the card. Files are copied
 * by a fixed list of names, never by what happens to lie in the donor's folder, and nothing that runs is among them.
 * What it must not know: shards, and when the directory becomes visible.
 */
#include "report/report.h"

#include "base/dtype.h"
#include "base/file.h"
#include "checkpoint/place.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CONFIG_BYTES    ((size_t)16 << 20)
#define MAX_SIDE_FILE_BYTES ((size_t)256 << 20) /* the largest tokenizer.json in use has about 35 MB */

enum side_kind {
    SIDE_TOKENIZER, /* only with copy_tokenizer */
    SIDE_ALWAYS
};

/* mergekit's list (tokenizer files and "tagalong" files of its architectures), and what it forgets: sentencepiece
 * models by their older names, the vocabulary files of BERT and GPT-2, chat templates. */
static const struct {
    const char *name;
    enum side_kind kind;
} side_files[] = {
    {"generation_config.json", SIDE_ALWAYS},
    {"tokenizer_config.json", SIDE_TOKENIZER},
    {"tokenizer.json", SIDE_TOKENIZER},
    {"tokenizer.model", SIDE_TOKENIZER},
    {"tokenizer.model.v3", SIDE_TOKENIZER},
    {"tekken.json", SIDE_TOKENIZER},
    {"sentencepiece.bpe.model", SIDE_TOKENIZER},
    {"spiece.model", SIDE_TOKENIZER},
    {"spm.model", SIDE_TOKENIZER},
    {"source.spm", SIDE_TOKENIZER},
    {"target.spm", SIDE_TOKENIZER},
    {"special_tokens_map.json", SIDE_TOKENIZER},
    {"added_tokens.json", SIDE_TOKENIZER},
    {"vocab.json", SIDE_TOKENIZER},
    {"vocab.txt", SIDE_TOKENIZER},
    {"merges.txt", SIDE_TOKENIZER},
    {"normalizer.json", SIDE_TOKENIZER},
    {"chat_template.jinja", SIDE_TOKENIZER},
    {"chat_template.json", SIDE_TOKENIZER},
    {"preprocessor_config.json", SIDE_ALWAYS},
    {"video_preprocessor_config.json", SIDE_ALWAYS},
    {"processor_config.json", SIDE_ALWAYS},
    {"modules.json", SIDE_ALWAYS},
    {"sentence_bert_config.json", SIDE_ALWAYS},
    {"config_sentence_transformers.json", SIDE_ALWAYS},
};
#define N_SIDE_FILES (sizeof side_files / sizeof *side_files)

_Static_assert(N_SIDE_FILES + 3 <= REPORT_KIT_MAX_FILES, "config.json, README.md, mergekit_config.yml and these");

/* ---- where a side file may lie ------------------------------------------------------------------------------ */

/* The donor's folder. A link out of it is refused by the checkpoint's own rule: a published merge must not carry a
 * stranger's file along. */
struct donor {
    struct arena arena;
    struct place place;
};

#define DONOR_ARENA_BYTES ((size_t)1 << 20)

static enum wm_status donor_init(struct donor *d, const struct plan *plan, struct wm_error *err)
{
    arena_init(&d->arena, DONOR_ARENA_BYTES);
    d->place = (struct place){.dir = plan->models[plan->donor]->dir};
    return hub_recognise(&d->place.hub, d->place.dir, &d->arena, err);
}

/* NULL in *path when there is no such file. */
static enum wm_status side_path(struct donor *d, const char *name, const char **path, struct wm_error *err)
{
    struct member member;
    enum wm_status st = place_member(&d->place, name, PLACE_INSIDE, &member, &d->arena, err);

    *path = st == WM_OK && member.exists ? member.path : NULL;
    return st;
}

/* A link into nothing is what an interrupted download leaves in a hub cache. */
static enum wm_status warn_if_broken(struct donor *d, const char *name, struct problems *problems, struct wm_error *err)
{
    struct member member;
    enum wm_status st = place_member(&d->place, name, PLACE_INSIDE, &member, &d->arena, err);

    if (st == WM_OK && member.broken)
        problems_add(
            problems, WM_WARNING, WM_OK,
            "%s is a link to a file that is not there, and is left out; complete the download to have it copied",
            member.path);
    return st;
}

static bool side_wanted(size_t i, const struct wm_options *options)
{
    return side_files[i].kind == SIDE_ALWAYS || options->copy_tokenizer;
}

/* modules.json sends sentence-transformers into sub-folders (1_Pooling); without those it would not load at all, while
 * without modules.json the library falls back to mean pooling. */
static bool names_sub_folders(const char *data)
{
    cJSON *modules = cJSON_Parse(data), *module;
    bool any = false;

    cJSON_ArrayForEach(module, modules)
    {
        const cJSON *path = cJSON_GetObjectItemCaseSensitive(module, "path");
        any |= cJSON_IsString(path) && path->valuestring[0];
    }
    cJSON_Delete(modules);
    return any;
}

static enum wm_status modules_usable(const char *path, bool *usable, struct wm_error *err)
{
    enum wm_status st;
    char *data = NULL;
    size_t n_bytes;

    TRY(file_read_all(path, MAX_CONFIG_BYTES, &data, &n_bytes, err));
    *usable = !names_sub_folders(data);
out:
    free(data);
    return st;
}

/* ---- config.json -------------------------------------------------------------------------------------------- */

/* *found false: the donor has none. */
static enum wm_status make_config(struct donor *donor, const struct plan *plan, struct text *out, bool *found,
                                  struct wm_error *err)
{
    const struct report_config_edit edit = {dtype_torch_name(plan->config_dtype), plan->vocab_size,
                                            plan->tie_word_embeddings};
    enum wm_status st;
    const char *path;
    char *data = NULL;
    size_t n_bytes;

    *found = false;
    TRY(side_path(donor, "config.json", &path, err));
    if (!path)
        goto out;
    TRY(file_read_all(path, MAX_CONFIG_BYTES, &data, &n_bytes, err));
    TRY(report_config_patch(path, data, n_bytes, &edit, out, err));
    *found = true;
out:
    free(data);
    return st;
}

static void warn_about_code(const struct plan *plan, struct problems *problems)
{
    const struct ckpt *donor = plan->models[plan->donor];

    if (cJSON_GetObjectItemCaseSensitive(donor->config, "auto_map"))
        problems_add(problems, WM_WARNING, WM_OK,
                     "%s: config.json asks for code of its own (auto_map); warpmerge neither runs nor copies .py "
                     "files: copy them into the output by hand if you trust them",
                     plan_model_name(plan, plan->donor));
}

enum wm_status report_kit_check(const struct plan *plan, const struct wm_options *options, struct problems *problems,
                                struct wm_error *err)
{
    enum wm_status st;
    struct donor donor;
    struct text config;
    const char *path;
    bool found;

    text_init(&config, TEXT_MAX_BYTES);
    TRY(donor_init(&donor, plan, err));
    TRY(make_config(&donor, plan, &config, &found, err));
    if (!found)
        problems_add(problems, WM_WARNING, WM_OK,
                     "%s has no config.json, so the merged model gets none; copy a fitting one into the output",
                     plan_model_name(plan, plan->donor));
    warn_about_code(plan, problems);
    for (size_t i = 0; i < N_SIDE_FILES; i++) {
        bool usable = true;
        if (!side_wanted(i, options))
            continue;
        TRY(warn_if_broken(&donor, side_files[i].name, problems, err));
        TRY(side_path(&donor, side_files[i].name, &path, err));
        if (path && strcmp(side_files[i].name, "modules.json") == 0)
            TRY(modules_usable(path, &usable, err));
        if (!usable)
            problems_add(problems, WM_NOTE, WM_OK,
                         "%s: modules.json (sentence-transformers) is not copied, as it names sub-folders; copy it and "
                         "them into the "
                         "output by hand if you need it",
                         plan_model_name(plan, plan->donor));
    }
out:
    text_release(&config);
    arena_release(&donor.arena);
    return st;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

struct kit_target {
    const char *dir;
    bool sync;
    struct report_kit *kit;
};

static enum wm_status put(const struct kit_target *target, const char *name, const void *data, size_t n_bytes,
                          struct wm_error *err)
{
    enum wm_status st = WM_OK;
    struct report_kit_file *file = &target->kit->files[target->kit->n_files];
    char *path = file_path_join(target->dir, name);

    if (!path)
        return error_no_memory(err, "writing side files");
    TRY(hash_sha256(file->sha256, data, n_bytes, err));
    TRY(file_write_whole(path, data, n_bytes, target->sync, err));
    file->name = name;
    file->n_bytes = n_bytes;
    target->kit->n_files++;
out:
    free(path);
    return st;
}

/* An interrupted run with other options may have left files that do not belong to this one. */
static enum wm_status drop(const char *dir, const char *name, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    char *path = file_path_join(dir, name), *half = NULL;

    if (!path || asprintf(&half, "%s.tmp", path) < 0) {
        half = NULL;
        st = error_no_memory(err, "clearing old side files");
        goto out;
    }
    TRY(file_unlink(path, err));
    TRY(file_unlink(half, err));
out:
    free(half);
    free(path);
    return st;
}

static enum wm_status put_side_file(const struct kit_target *target, struct donor *donor, const char *name,
                                    struct wm_error *err)
{
    enum wm_status st;
    const char *path;
    char *data = NULL;
    size_t n_bytes;
    bool usable = true;

    TRY(side_path(donor, name, &path, err));
    if (path && strcmp(name, "modules.json") == 0)
        TRY(modules_usable(path, &usable, err));
    if (path && usable) {
        TRY(file_read_all(path, MAX_SIDE_FILE_BYTES, &data, &n_bytes, err));
        TRY(put(target, name, data, n_bytes, err));
    } else {
        TRY(drop(target->dir, name, err));
    }
out:
    free(data);
    return st;
}

enum wm_status report_kit_write(const struct plan *plan, const struct wm_options *options, const char *dir,
                                struct report_kit *kit, struct wm_error *err)
{
    const struct kit_target target = {dir, options->sync != 0, kit};
    enum wm_status st;
    struct donor donor;
    struct text text;
    bool found;

    text_init(&text, TEXT_MAX_BYTES);
    kit->n_files = 0;
    TRY(donor_init(&donor, plan, err));
    TRY(make_config(&donor, plan, &text, &found, err));
    TRY(found ? put(&target, "config.json", text_string(&text), text.n_bytes, err) : drop(dir, "config.json", err));
    for (size_t i = 0; i < N_SIDE_FILES; i++)
        TRY(side_wanted(i, options) ? put_side_file(&target, &donor, side_files[i].name, err)
                                    : drop(dir, side_files[i].name, err));
    if (options->write_card) {
        text_release(&text);
        report_card(plan, &text);
        if (text.failed) {
            st = error_no_memory(err, "writing the model card");
            goto out;
        }
        TRY(put(&target, "README.md", text_string(&text), text.n_bytes, err));
        TRY(put(&target, "mergekit_config.yml", plan->recipe->text, plan->recipe->n_text_bytes, err));
    } else {
        TRY(drop(dir, "README.md", err));
        TRY(drop(dir, "mergekit_config.yml", err));
    }
out:
    text_release(&text);
    arena_release(&donor.arena);
    return st;
}
