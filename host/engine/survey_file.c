/*
 * survey_file.c: what a survey has found so far as a file.
 *
 * What lives here: writing it so that it is there whole or not at all, and reading it back without trusting it: a checksum,
 * the plan's fingerprint, and what the plan knows of its models must all fit, else the survey is made again. Between passes it
 * holds where each model's search stands. What it must not know: how the numbers were found.
 */
#include "engine/survey.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT          "warpmerge statistics 2"
#define MAX_FILE_BYTES  ((size_t)4 << 20)
#define MAX_ARENA_BYTES ((size_t)16 << 20)

/* ---- writing ------------------------------------------------------------------------------------------------- */

static const char *majority_word(int majority)
{
    return majority > 0 ? "plus" : majority < 0 ? "minus" : "none";
}

static void add_search(struct text *t, const struct model_search *search)
{
    text_addf(t,
              ", \"rank\": %" PRIu64 ", \"n_above\": %" PRIu64 ", \"n_in_bin\": %" PRIu64 ", \"coarse_bin\": %" PRIu32,
              search->rank, search->n_above, search->n_in_bin, search->coarse_bin);
}

static void add_model(struct text *t, const struct plan *plan, int m, const struct model_statistics *ms)
{
    const struct model_threshold *model = &ms->result.models[m];
    float smallest;

    memcpy(&smallest, &model->threshold, sizeof smallest);
    text_addf(t, "    {\"index\": %d, \"model\": ", m);
    text_add_json(t, plan_model_name(plan, m));
    text_addf(t,
              ", \"density\": %.17g, \"n_elems\": %" PRIu64 ", \"n_kept\": %" PRIu64
              ", \"threshold\": %.9g, \"threshold_bits\": %" PRIu32,
              model->density, model->n_elems, model->n_kept, (double)smallest, model->threshold);
    if (ms->pass == MODEL_FINE && ms->search_of[m] >= 0)
        add_search(t, &ms->searches[ms->search_of[m]]);
    text_addf(t, "}%s\n", m + 1 < ms->result.n_models ? "," : "");
}

/* The last line: over everything before it, and the plan's fingerprint. */
static void checksum_line(char line[64], const char *body, size_t n_bytes, const struct plan *plan)
{
    snprintf(line, 64, "  \"checksum\": \"%016" PRIx64 "\"\n}\n",
             hash_xxh3_64(body, n_bytes, plan->fingerprint.low ^ plan->fingerprint.high));
}

enum wm_status survey_save(const char *dir, const struct plan *plan, const struct model_statistics *statistics,
                           bool sync, struct wm_error *err)
{
    const struct model_thresholds *thresholds = &statistics->result;
    enum wm_status st = WM_OK;
    char *path = file_path_join(dir, SURVEY_FILE_NAME), hex[HASH128_HEX_BYTES], line[64];
    struct text t;

    text_init(&t, MAX_FILE_BYTES);
    text_addf(&t, "{\n  \"format\": \"" FORMAT "\",\n  \"fingerprint\": \"%s\",\n  \"method\": ",
              hash128_hex(hex, plan->fingerprint));
    text_add_json(&t, plan->recipe->method->name);
    text_addf(&t,
              ",\n  \"passes_left\": %d,\n  \"n_plus\": %" PRIu64 ",\n  \"n_minus\": %" PRIu64
              ",\n  \"n_cancelled\": %" PRIu64 ",\n  \"majority\": \"%s\",\n  \"models\": [\n",
              (int)(MODEL_READY - statistics->pass), thresholds->n_plus, thresholds->n_minus, thresholds->n_cancelled,
              majority_word(thresholds->majority));
    for (int m = 0; m < thresholds->n_models; m++)
        add_model(&t, plan, m, statistics);
    text_add(&t, "  ],\n");
    if (!path || t.failed) {
        st = error_no_memory(err, "saving the statistics");
        goto out;
    }
    checksum_line(line, t.data, t.n_bytes, plan);
    text_add(&t, line);
    if (t.failed) {
        st = error_no_memory(err, "saving the statistics");
        goto out;
    }
    TRY(file_write_whole(path, t.data, t.n_bytes, sync, err));
out:
    text_release(&t);
    free(path);
    return st;
}

/* ---- reading ------------------------------------------------------------------------------------------------- */

static bool checksum_fits(const char *data, size_t n_bytes, const struct plan *plan)
{
    char line[64];
    size_t n_line;

    checksum_line(line, "", 0, plan);
    n_line = strlen(line);
    if (n_bytes < n_line)
        return false;
    checksum_line(line, data, n_bytes - n_line, plan);
    return memcmp(data + n_bytes - n_line, line, n_line) == 0;
}

static bool read_u64(struct json_scanner *s, uint64_t max, uint64_t *value)
{
    if (json_next(s) != JSON_INTEGER || s->integer > max)
        return false;
    *value = s->integer;
    return true;
}

/* What the file says. */
struct survey_record {
    struct model_thresholds found;
    struct model_search searches[MODEL_MAX_MODELS]; /* by model */
    uint64_t n_passes_left;
};

/* The members of one model, its opening brace read. */
static bool read_model(struct json_scanner *s, struct survey_record *record)
{
    uint64_t index = UINT64_MAX, n_elems = UINT64_MAX, n_kept = UINT64_MAX, bits = UINT64_MAX, bin = 0;
    struct model_thresholds *t = &record->found;
    struct model_search search = {0};
    enum json_event event;

    while ((event = json_next(s)) == JSON_KEY) {
        const char *key = s->text.data;
        bool ok;
        if (strcmp(key, "index") == 0)
            ok = read_u64(s, MODEL_MAX_MODELS - 1, &index);
        else if (strcmp(key, "n_elems") == 0)
            ok = read_u64(s, UINT64_MAX - 1, &n_elems);
        else if (strcmp(key, "n_kept") == 0)
            ok = read_u64(s, UINT64_MAX - 1, &n_kept);
        else if (strcmp(key, "threshold_bits") == 0)
            ok = read_u64(s, INT32_MAX, &bits);
        else if (strcmp(key, "rank") == 0)
            ok = read_u64(s, UINT64_MAX - 1, &search.rank);
        else if (strcmp(key, "n_above") == 0)
            ok = read_u64(s, UINT64_MAX - 1, &search.n_above);
        else if (strcmp(key, "n_in_bin") == 0)
            ok = read_u64(s, UINT64_MAX - 1, &search.n_in_bin);
        else if (strcmp(key, "coarse_bin") == 0)
            ok = read_u64(s, INT32_MAX, &bin);
        else
            ok = json_skip_value(s, json_next(s));
        if (!ok)
            return false;
    }
    if (event != JSON_OBJECT_END || index == UINT64_MAX || bits == UINT64_MAX || n_kept > n_elems ||
        index != (uint64_t)t->n_models)
        return false;
    t->models[index] = (struct model_threshold){.n_elems = n_elems, .n_kept = n_kept, .threshold = (uint32_t)bits};
    search.model = (int)index;
    search.coarse_bin = (uint32_t)bin;
    record->searches[index] = search;
    t->n_models++;
    return true;
}

static bool read_models(struct json_scanner *s, struct survey_record *record)
{
    enum json_event event;

    if (json_next(s) != JSON_ARRAY_BEGIN)
        return false;
    while ((event = json_next(s)) == JSON_OBJECT_BEGIN)
        if (!read_model(s, record))
            return false;
    return event == JSON_ARRAY_END;
}

static bool read_all(struct json_scanner *s, const char *fingerprint, struct survey_record *record)
{
    struct model_thresholds *t = &record->found;
    uint64_t n_plus = UINT64_MAX, n_minus = UINT64_MAX, n_cancelled = UINT64_MAX;
    bool is_ours = false, is_this_plan = false;
    enum json_event event;

    if (json_next(s) != JSON_OBJECT_BEGIN)
        return false;
    while ((event = json_next(s)) == JSON_KEY) {
        const char *key = s->text.data;
        bool ok = true;
        if (strcmp(key, "format") == 0)
            is_ours = json_next(s) == JSON_STRING && strcmp(s->text.data, FORMAT) == 0;
        else if (strcmp(key, "fingerprint") == 0)
            is_this_plan = json_next(s) == JSON_STRING && strcmp(s->text.data, fingerprint) == 0;
        else if (strcmp(key, "n_plus") == 0)
            ok = read_u64(s, UINT64_MAX - 1, &n_plus);
        else if (strcmp(key, "n_minus") == 0)
            ok = read_u64(s, UINT64_MAX - 1, &n_minus);
        else if (strcmp(key, "n_cancelled") == 0)
            ok = read_u64(s, UINT64_MAX - 1, &n_cancelled);
        else if (strcmp(key, "models") == 0)
            ok = read_models(s, record);
        else if (strcmp(key, "passes_left") == 0)
            ok = read_u64(s, MODEL_READY, &record->n_passes_left);
        else
            ok = json_skip_value(s, json_next(s));
        if (!ok)
            return false;
    }
    t->n_plus = n_plus;
    t->n_minus = n_minus;
    t->n_cancelled = n_cancelled;
    t->majority = (n_plus > n_minus) - (n_plus < n_minus);
    return event == JSON_OBJECT_END && is_ours && is_this_plan && n_plus != UINT64_MAX && n_minus != UINT64_MAX &&
           n_cancelled != UINT64_MAX;
}

/* The models of the plan, and counts that they can have. Takes the densities from it. */
static bool fits(struct model_thresholds *t, const struct model_statistics *expected)
{
    uint64_t left = expected->n_elems;

    if (t->n_models != expected->result.n_models || t->n_plus > left || t->n_minus > left - t->n_plus ||
        t->n_cancelled > left - t->n_plus - t->n_minus)
        return false;
    for (int m = 0; m < t->n_models; m++) {
        if (t->models[m].n_elems != expected->result.models[m].n_elems)
            return false;
        t->models[m].density = expected->result.models[m].density;
    }
    return true;
}

static bool load(const char *dir, const struct plan *plan, const struct model_statistics *expected,
                 struct survey_record *record)
{
    struct wm_error ignored = WM_ERROR_INIT;
    char *path = file_path_join(dir, SURVEY_FILE_NAME), *data = NULL, hex[HASH128_HEX_BYTES];
    struct json_scanner scanner;
    struct arena arena;
    size_t n_bytes;
    bool ok = false;

    memset(record, 0, sizeof *record);
    record->n_passes_left = MODEL_READY;
    arena_init(&arena, MAX_ARENA_BYTES);
    if (path && file_exists(path) && file_read_all(path, MAX_FILE_BYTES, &data, &n_bytes, &ignored) == WM_OK) {
        json_scanner_init(&scanner, data, n_bytes, 8, &arena);
        ok = checksum_fits(data, n_bytes, plan) && read_all(&scanner, hash128_hex(hex, plan->fingerprint), record) &&
             (!expected || fits(&record->found, expected));
    }
    arena_release(&arena);
    free(data);
    free(path);
    return ok;
}

bool survey_load(const char *dir, const struct plan *plan, const struct model_statistics *expected,
                 struct model_thresholds *thresholds)
{
    struct survey_record record;
    bool ok = load(dir, plan, expected, &record) && record.n_passes_left == 0;

    *thresholds = record.found;
    return ok;
}

bool survey_load_passes(const char *dir, const struct plan *plan, struct model_statistics *statistics)
{
    struct model_search searches[MODEL_MAX_MODELS];
    struct survey_record record;

    if (!load(dir, plan, statistics, &record) || record.n_passes_left == 0)
        return false;
    for (int i = 0; i < statistics->n_searches; i++)
        searches[i] = record.searches[statistics->searches[i].model];
    return model_statistics_resume(statistics, (enum model_pass)(MODEL_READY - (int)record.n_passes_left), searches,
                                   &record.found);
}
