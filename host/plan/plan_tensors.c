/*
 * plan_tensors.c: which tensors the output has and who takes part in each.
 *
 * What lives here: the union of the models' tensor names, and for each the rules of DESIGN section 8 for what differs
 * between models: tied heads, vocabularies of different length, tensors that some models lack, types that cannot be
 * computed with. Architecture files are not needed: names, shapes and each model's config.json are enough. What it must
 * not know: parameters, offsets, memory.
 */
#include "plan/plan_internal.h"

#include "base/text.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Facts about one model, gathered once. */
struct model_facts {
    int64_t vocab_size;                   /* of config.json, or -1                               */
    int tied;                             /* tie_word_embeddings: 0, 1, or -1: config is silent */
    const struct ckpt_tensor *embeddings; /* the input embedding matrix, if recognisable         */
    bool uses_embeddings_as_head;         /* stores no head, another model does                  */
    size_t n_missing;                     /* tensors that others have and this one lacks         */
    const char *first_missing;
};

struct layer_group { /* tensors "<prefix>.<i>.": how many layers there are */
    const char *prefix;
    size_t n_prefix;
    uint64_t n_layers;
};

struct matcher {
    struct plan_build *b;
    struct model_facts *facts;
    struct layer_group *groups;
    size_t n_groups, groups_capacity;
    bool head_is_written; /* some model has a head of its own */
};

/* ---- names --------------------------------------------------------------------------------------------------- */

static bool has_suffix(const char *name, const char *suffix)
{
    size_t n = strlen(name), k = strlen(suffix);

    return n >= k && strcmp(name + n - k, suffix) == 0 && (n == k || name[n - k - 1] == '.');
}

static bool is_head_name(const char *name)
{
    return has_suffix(name, "lm_head.weight") || has_suffix(name, "embed_out.weight");
}

static bool is_embedding_name(const char *name)
{
    static const char *const suffixes[] = {
        "embed_tokens.weight",   "wte.weight",    "word_embeddings.weight", "embed_in.weight",
        "tok_embeddings.weight", "shared.weight", "embeddings.word.weight", NULL};

    for (int i = 0; suffixes[i]; i++)
        if (has_suffix(name, suffixes[i]))
            return true;
    return false;
}

/* "model.layers.12.mlp..." -> prefix "model.layers", 12. The first all-digit component counts: experts come later. */
static bool split_layer(const char *name, size_t *n_prefix, uint64_t *layer)
{
    for (const char *dot = strchr(name, '.'); dot; dot = strchr(dot + 1, '.')) {
        const char *digit = dot + 1;
        uint64_t value = 0;
        while (isdigit((unsigned char)*digit) && value < 1000000)
            value = value * 10 + (uint64_t)(*digit++ - '0');
        if (digit > dot + 1 && *digit == '.') {
            *n_prefix = (size_t)(dot - name);
            *layer = value;
            return true;
        }
    }
    return false;
}

static struct layer_group *find_group(struct matcher *m, const char *name, size_t n_prefix)
{
    for (size_t g = 0; g < m->n_groups; g++)
        if (m->groups[g].n_prefix == n_prefix && memcmp(m->groups[g].prefix, name, n_prefix) == 0)
            return &m->groups[g];
    return NULL;
}

static enum wm_status note_layer(struct matcher *m, const char *name, struct wm_error *err)
{
    struct layer_group *group;
    size_t n_prefix;
    uint64_t layer;

    if (!split_layer(name, &n_prefix, &layer))
        return WM_OK;
    group = find_group(m, name, n_prefix);
    if (!group) {
        if (!arena_grow(&m->b->plan->arena, (void **)&m->groups, m->n_groups, &m->groups_capacity, sizeof *group))
            return error_no_memory(err, "planning");
        group = &m->groups[m->n_groups++];
        *group = (struct layer_group){name, n_prefix, 0};
    }
    if (layer + 1 > group->n_layers)
        group->n_layers = layer + 1;
    return WM_OK;
}

/* Gradient position (mergekit notes 2.5): i/(L-1) inside the layers, 1 if there is one layer, 0 outside. */
static double depth_of(struct matcher *m, const char *name)
{
    const struct layer_group *group;
    size_t n_prefix;
    uint64_t layer;

    if (!split_layer(name, &n_prefix, &layer))
        return 0.0;
    group = find_group(m, name, n_prefix);
    if (!group || group->n_layers <= 1)
        return 1.0;
    return (double)layer / (double)(group->n_layers - 1);
}

/* ---- models -------------------------------------------------------------------------------------------------- */

static const cJSON *config_item(const struct ckpt *ckpt, const char *key)
{
    const cJSON *item = ckpt->config ? cJSON_GetObjectItemCaseSensitive(ckpt->config, key) : NULL;
    const cJSON *text = ckpt->config ? cJSON_GetObjectItemCaseSensitive(ckpt->config, "text_config") : NULL;

    return !item && text ? cJSON_GetObjectItemCaseSensitive(text, key) : item;
}

static void gather_facts(struct model_facts *f, const struct ckpt *ckpt)
{
    const cJSON *vocab = config_item(ckpt, "vocab_size"), *tied = config_item(ckpt, "tie_word_embeddings");

    f->vocab_size = cJSON_IsNumber(vocab) ? (int64_t)vocab->valuedouble : -1;
    f->tied = cJSON_IsBool(tied) ? cJSON_IsTrue(tied) : -1;
    for (size_t t = 0; t < ckpt->n_tensors && !f->embeddings; t++)
        if (ckpt->tensors[t].n_dims == 2 && is_embedding_name(ckpt->tensors[t].name))
            f->embeddings = &ckpt->tensors[t];
}

/* A head is written when at least one model has one of its own: stored, and not declared tied. Models without one then
 * take part with their embedding matrix, which is what they use as a head. */
static void decide_head(struct matcher *m)
{
    struct plan *plan = m->b->plan;

    for (int i = 0; i < plan->n_models; i++) {
        const struct ckpt *ckpt = plan->models[i];
        bool stores = false;
        for (size_t t = 0; t < ckpt->n_tensors && !stores; t++)
            stores = is_head_name(ckpt->tensors[t].name);
        if (stores && m->facts[i].tied != 1)
            m->head_is_written = true;
        m->facts[i].uses_embeddings_as_head = !stores && m->facts[i].embeddings;
    }
    if (m->head_is_written && m->facts[plan->donor].tied == 1)
        plan->tie_word_embeddings = 0;
    if (m->head_is_written && m->facts[plan->donor].uses_embeddings_as_head)
        plan->tie_word_embeddings = 0;
}

static const struct ckpt_tensor *tensor_of(struct matcher *m, int model, const char *name)
{
    const struct ckpt_tensor *t = ckpt_find(m->b->plan->models[model], name);

    if (!t && is_head_name(name) && m->facts[model].uses_embeddings_as_head)
        t = m->facts[model].embeddings;
    return t;
}

/* ---- one tensor ---------------------------------------------------------------------------------------------- */

static bool base_is_special(const struct plan *plan)
{
    enum method_base rule = plan->recipe->method->base;

    return plan->base >= 0 && (rule == METHOD_BASE_REQUIRED || rule == METHOD_BASE_OPTIONAL);
}

/* Sources in the order of the operation: a special base first, or for ONE_OF the base first; then recipe order. */
static enum wm_status collect_sources(struct matcher *m, struct plan_job *job, struct wm_error *err)
{
    struct plan *plan = m->b->plan;
    bool base_first = base_is_special(plan) || (plan->base >= 0 && plan->recipe->method->base == METHOD_BASE_ONE_OF);

    job->sources = arena_array(&plan->arena, (size_t)plan->n_models, sizeof *job->sources);
    if (!job->sources)
        return error_no_memory(err, "planning");
    for (int k = -1; k < plan->n_models; k++) {
        int model = k < 0 ? plan->base : k;
        const struct ckpt_tensor *t;
        if ((k < 0 && !base_first) || (k >= 0 && base_first && k == plan->base))
            continue;
        t = tensor_of(m, model, job->name);
        if (t) {
            job->sources[job->n_sources++] = (struct plan_source){model, t};
        } else {
            if (m->facts[model].n_missing++ == 0)
                m->facts[model].first_missing = job->name;
        }
    }
    job->has_base = base_is_special(plan) && job->n_sources && job->sources[0].model == plan->base;
    return WM_OK;
}

static bool same_shape(const struct ckpt_tensor *a, const struct ckpt_tensor *b)
{
    return a->n_dims == b->n_dims && memcmp(a->shape, b->shape, (size_t)a->n_dims * sizeof *a->shape) == 0;
}

/* Rows are vocabulary entries: by its name, or because the first dimension is every model's vocab_size. */
static bool is_vocabulary(struct matcher *m, const struct plan_job *job)
{
    const struct ckpt_tensor *first = job->sources[0].tensor;
    bool by_name = first->n_dims == 2 && (is_embedding_name(job->name) || is_head_name(job->name));
    bool by_size = first->n_dims == 1 || first->n_dims == 2;

    for (int s = 0; s < job->n_sources; s++) {
        const struct ckpt_tensor *t = job->sources[s].tensor;
        if (t->n_dims != first->n_dims || (t->n_dims == 2 && t->shape[1] != first->shape[1]))
            return false;
        by_size = by_size && m->facts[job->sources[s].model].vocab_size == (int64_t)t->shape[0];
    }
    return by_name || by_size;
}

static void report_shapes(struct matcher *m, const struct plan_job *job, const char *remedy)
{
    struct text t;
    char name[200], shape[200];

    text_init(&t, 4096);
    for (int s = 0; s < job->n_sources; s++)
        text_addf(&t, "%s%s has %s", s ? ", " : "", plan_model_name(m->b->plan, job->sources[s].model),
                  ckpt_shape_text(shape, sizeof shape, job->sources[s].tensor));
    problems_add(m->b->problems, WM_ERROR, WM_BAD_DATA, "tensor %s: shapes differ: %s; %s",
                 text_display(name, sizeof name, job->name), text_string(&t), remedy);
    text_release(&t);
}

/* Vocabularies that differ: with a base the output has the base's rows, without one the rows that all have in common
 * (mergekit's rule); rows are entries, so the common part is a prefix of every matrix. */
static bool fit_vocabulary(struct matcher *m, struct plan_job *job, uint64_t *rows)
{
    uint64_t fewest = UINT64_MAX, wanted;

    for (int s = 0; s < job->n_sources; s++)
        if (job->sources[s].tensor->shape[0] < fewest)
            fewest = job->sources[s].tensor->shape[0];
    wanted = job->has_base ? job->sources[0].tensor->shape[0] : fewest;
    if (fewest < wanted) {
        report_shapes(m, job,
                      "a model with fewer vocabulary entries than the base has no rows for the rest; extend its "
                      "embeddings to the base's size, or take it as the base");
        return false;
    }
    *rows = wanted;
    return true;
}

static enum wm_status set_shape(struct matcher *m, struct plan_job *job, struct wm_error *err)
{
    const struct ckpt_tensor *first = job->sources[0].tensor;
    struct plan *plan = m->b->plan;
    bool all_equal = true;
    uint64_t rows, *shape;

    job->n_dims = first->n_dims;
    job->shape = first->shape;
    job->n_elems = first->n_elems;
    for (int s = 1; s < job->n_sources; s++)
        all_equal = all_equal && same_shape(first, job->sources[s].tensor);
    if (all_equal)
        return WM_OK;
    if (!is_vocabulary(m, job)) {
        report_shapes(m, job, "only models of one size can be merged; remove the one that differs");
        return WM_OK;
    }
    if (!fit_vocabulary(m, job, &rows))
        return WM_OK;
    shape = arena_array(&plan->arena, (size_t)first->n_dims, sizeof *shape);
    if (!shape)
        return error_no_memory(err, "planning");
    memcpy(shape, first->shape, (size_t)first->n_dims * sizeof *shape);
    shape[0] = rows;
    job->shape = shape;
    job->n_elems = first->n_dims == 2 ? rows * shape[1] : rows;
    job->note = arena_printf(&plan->arena, "vocabularies differ: the first %llu rows of each model are merged",
                             (unsigned long long)rows);
    if (!job->note)
        return error_no_memory(err, "planning");
    if (m->facts[plan->donor].vocab_size != (int64_t)rows)
        plan->vocab_size = (int64_t)rows;
    return WM_OK;
}

/* torch's promotion among the types we compute with: bf16 with f16 gives f32. */
static enum wm_dtype promote(enum wm_dtype a, enum wm_dtype b)
{
    if (a == b)
        return a;
    if (a == WM_F64 || b == WM_F64)
        return WM_F64;
    return WM_F32;
}

/* false when a problem was reported. */
static bool set_type(struct matcher *m, struct plan_job *job)
{
    const struct recipe *recipe = m->b->recipe;
    enum wm_dtype first = job->sources[0].tensor->dtype;
    bool any_float = false, all_float = true, all_same = true;
    char name[200];

    for (int s = 0; s < job->n_sources; s++) {
        enum wm_dtype d = job->sources[s].tensor->dtype;
        any_float = any_float || dtype_is_float(d);
        all_float = all_float && dtype_is_float(d);
        all_same = all_same && d == first;
    }
    if (!all_float) {
        if (any_float || !all_same) {
            for (int s = 1; s < job->n_sources; s++) {
                if (job->sources[s].tensor->dtype == first)
                    continue;
                problems_add(m->b->problems, WM_ERROR, WM_BAD_DATA,
                             "tensor %s: %s stores it as %s, %s as %s; these types cannot be merged with each other: "
                             "use checkpoints of one kind (de-quantise the quantised ones first)",
                             text_display(name, sizeof name, job->name),
                             plan_model_name(m->b->plan, job->sources[0].model), dtype_name(first),
                             plan_model_name(m->b->plan, job->sources[s].model),
                             dtype_name(job->sources[s].tensor->dtype));
                return false;
            }
        }
        job->action = PLAN_COPY;
        job->dtype = first;
        return true;
    }
    job->action = PLAN_MERGE;
    job->dtype = first;
    if (recipe->has_out_dtype) {
        job->dtype = recipe->out_dtype;
    } else if (recipe->has_dtype) {
        job->dtype = recipe->dtype;
    } else if (!job->has_base && recipe->method->base != METHOD_BASE_ONE_OF) {
        for (int s = 1; s < job->n_sources; s++)
            job->dtype = promote(job->dtype, job->sources[s].tensor->dtype);
    }
    return true;
}

/* What happens to a tensor that not everybody has (DESIGN section 8). false when a problem was reported. */
static bool settle_missing(struct matcher *m, struct plan_job *job)
{
    struct plan *plan = m->b->plan;
    const struct method *method = plan->recipe->method;
    int n_models = job->n_sources - (job->has_base ? 1 : 0);
    char name[200];

    text_display(name, sizeof name, job->name);
    if (base_is_special(plan) && !job->has_base) {
        if (job->n_sources > 1) {
            problems_add(
                m->b->problems, WM_ERROR, WM_BAD_DATA,
                "tensor %s: %s and %d more models have it but the base %s does not, so there is no task vector; "
                "remove the tensor from those models or choose a base that has it",
                name, plan_model_name(plan, job->sources[0].model), job->n_sources - 1,
                plan_model_name(plan, plan->base));
            return false;
        }
        job->plain = true;
        job->note = arena_printf(&plan->arena, "taken from %s: the base lacks it",
                                 plan_model_name(plan, job->sources[0].model));
    } else if (job->has_base && n_models == 0) {
        job->plain = true;
        job->has_base = false;
        job->note = "taken from the base: no other model has it";
    } else if (n_models < method->min_models && method->min_models == method->max_models) {
        /* a method of exactly two models met a tensor that one of them lacks */
        if (job->has_base) {
            job->sources[0] = job->sources[1];
            job->has_base = false;
        }
        job->n_sources = 1;
        job->plain = true;
        job->note = arena_printf(&plan->arena, "taken from %s: the only model that has it",
                                 plan_model_name(plan, job->sources[0].model));
    }
    return true;
}

static enum wm_status add_job(struct matcher *m, const char *name, size_t *capacity, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    struct plan *plan = m->b->plan;
    struct plan_job *job;

    if (is_head_name(name) && !m->head_is_written)
        return WM_OK; /* a stored copy of tied embeddings: the output stays tied */
    if (!arena_grow(&plan->arena, (void **)&plan->jobs, plan->n_jobs, capacity, sizeof *plan->jobs))
        return error_no_memory(err, "planning");
    job = &plan->jobs[plan->n_jobs];
    memset(job, 0, sizeof *job);
    job->name = name;
    TRY(collect_sources(m, job, err));
    if (!job->n_sources || !settle_missing(m, job))
        goto out; /* a problem was reported, or a head that only tied models store */
    TRY(set_shape(m, job, err));
    if (!set_type(m, job))
        goto out;
    if (job->action == PLAN_COPY)
        job->plain = false;
    job->depth = depth_of(m, name);
    if (__builtin_mul_overflow(job->n_elems, (uint64_t)dtype_bits(job->dtype), &job->n_bytes)) {
        st = error_set(err, WM_BAD_DATA, "tensor %s is too large", name);
        goto out;
    }
    job->n_bytes /= 8;
    plan->n_jobs++;
out:
    return st;
}

/* ---- all tensors --------------------------------------------------------------------------------------------- */

/* Calls visit for every distinct name in natural order: an n-way merge of the models' sorted tables. */
static enum wm_status each_name(struct matcher *m, size_t *cursors,
                                enum wm_status (*visit)(struct matcher *, const char *, size_t *, struct wm_error *),
                                size_t *capacity, struct wm_error *err)
{
    struct plan *plan = m->b->plan;
    enum wm_status st = WM_OK;

    memset(cursors, 0, (size_t)plan->n_models * sizeof *cursors);
    for (;;) {
        const char *next = NULL;
        for (int i = 0; i < plan->n_models; i++) {
            const struct ckpt *c = plan->models[i];
            if (cursors[i] < c->n_tensors && (!next || text_natural_compare(c->tensors[cursors[i]].name, next) < 0))
                next = c->tensors[cursors[i]].name;
        }
        if (!next)
            break;
        for (int i = 0; i < plan->n_models; i++) {
            const struct ckpt *c = plan->models[i];
            if (cursors[i] < c->n_tensors && strcmp(c->tensors[cursors[i]].name, next) == 0)
                cursors[i]++;
        }
        TRY(visit(m, next, capacity, err));
    }
out:
    return st;
}

static enum wm_status visit_layer(struct matcher *m, const char *name, size_t *capacity, struct wm_error *err)
{
    (void)capacity;
    return note_layer(m, name, err);
}

static void report_missing(struct matcher *m)
{
    struct plan *plan = m->b->plan;
    char name[200];

    for (int i = 0; i < plan->n_models; i++) {
        if (m->facts[i].n_missing)
            problems_add(
                m->b->problems, WM_WARNING, WM_OK,
                "%s lacks %zu tensor%s that other models have (first: %s); %s merged from the models that have "
                "%s",
                plan_model_name(plan, i), m->facts[i].n_missing, m->facts[i].n_missing == 1 ? "" : "s",
                text_display(name, sizeof name, m->facts[i].first_missing),
                m->facts[i].n_missing == 1 ? "it is" : "they are", m->facts[i].n_missing == 1 ? "it" : "them");
    }
    if (plan->vocab_size >= 0)
        problems_add(m->b->problems, WM_WARNING, WM_OK,
                     "vocabularies differ: only the first %lld entries, which all models have, are merged, and "
                     "config.json says so; tokens beyond them are lost",
                     (long long)plan->vocab_size);
    if (plan->tie_word_embeddings == 0)
        problems_add(
            m->b->problems, WM_NOTE, WM_OK,
            "some models have a head of their own and others reuse their embeddings: the output gets a separate "
            "head and config.json says tie_word_embeddings: false");
}

enum wm_status plan_build_tensors(struct plan_build *b, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    struct plan *plan = b->plan;
    struct matcher m = {.b = b};
    size_t *cursors, capacity = 0;

    cursors = arena_array(&plan->arena, (size_t)plan->n_models, sizeof *cursors);
    m.facts = arena_array(&plan->arena, (size_t)plan->n_models, sizeof *m.facts);
    if (!cursors || !m.facts) {
        st = error_no_memory(err, "planning");
        goto out;
    }
    for (int i = 0; i < plan->n_models; i++)
        gather_facts(&m.facts[i], plan->models[i]);
    decide_head(&m);
    TRY(each_name(&m, cursors, visit_layer, NULL, err));
    TRY(each_name(&m, cursors, add_job, &capacity, err));
    report_missing(&m);
    if (!plan->n_jobs && !b->problems->n_errors)
        problems_add(b->problems, WM_ERROR, WM_BAD_DATA, "the models have no tensors; there is nothing to merge");
out:
    return st;
}
