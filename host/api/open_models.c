/*
 * open_models.c: see open_models.h. Headers of many models are read at the same time: on network file systems each open
 * waits for a round trip per shard, and a dozen models have a few hundred shards.
 */
#include "api/open_models.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OPENERS 8

/* A finding kept until it is its model's turn, so that the order of messages is the order of the recipe. */
struct finding {
    struct wm_problem problem;
    struct finding *next;
};

struct opening {
    const struct recipe_ref *ref;
    struct ckpt *ckpt;
    struct finding *first, **last;
    unsigned n_errors;
    struct wm_error err;
};

struct opener {
    struct opening *openings;
    int n_openings, next;
    struct ckpt_options options;
    pthread_mutex_t mutex;
};

static void keep_finding(void *user, const struct wm_problem *problem)
{
    struct opening *o = user;
    struct finding *f = malloc(sizeof *f);
    char *text = strdup(problem->text);

    o->n_errors += problem->severity == WM_ERROR;
    if (!f || !text) { /* the message is lost, an error is not: n_errors is counted */
        free(f);
        free(text);
        return;
    }
    *f = (struct finding){{problem->severity, problem->status, text}, NULL};
    *o->last = f;
    o->last = &f->next;
}

static void open_one(struct opener *opener, struct opening *o)
{
    struct problems problems;

    problems_init(&problems, keep_finding, o, opener->options.strict);
    if (ckpt_open(&o->ckpt, o->ref->path, o->ref->revision, &opener->options, &problems, &o->err) == WM_OK)
        problems_end(&problems, &o->err);
}

static void *work(void *arg)
{
    struct opener *opener = arg;

    for (;;) {
        int i;
        pthread_mutex_lock(&opener->mutex);
        i = opener->next < opener->n_openings ? opener->next++ : -1;
        pthread_mutex_unlock(&opener->mutex);
        if (i < 0)
            return NULL;
        open_one(opener, &opener->openings[i]);
    }
}

static void open_all(struct opener *opener)
{
    pthread_t threads[MAX_OPENERS];
    int n_started = 0;

    pthread_mutex_init(&opener->mutex, NULL);
    while (n_started < MAX_OPENERS && n_started < opener->n_openings - 1 &&
           pthread_create(&threads[n_started], NULL, work, opener) == 0)
        n_started++;
    work(opener); /* also what happens where no thread can be had */
    for (int i = 0; i < n_started; i++)
        pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&opener->mutex);
}

static void report(struct opening *o, struct problems *problems)
{
    for (struct finding *f = o->first; f; f = f->next)
        problems_add(problems, f->problem.severity, f->problem.status, "%s", f->problem.text);
    if (o->err.status != WM_OK && !o->n_errors) /* otherwise err repeats the first of the findings */
        problems_add(problems, WM_ERROR, o->err.status, "%s", o->err.message);
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool same_model(const struct recipe_ref *a, const struct recipe_ref *b)
{
    return same_text(a->path, b->path) && same_text(a->revision, b->revision);
}

enum wm_status open_models_init(struct open_models *m, const struct recipe *recipe, const struct wm_options *options,
                                struct problems *problems, struct wm_error *err)
{
    int n = (int)recipe->n_models + (recipe->has_base && recipe->base_index < 0);
    struct opening *openings = calloc((size_t)n + 1, sizeof *openings);
    int *which = calloc((size_t)n + 1, sizeof *which);
    struct opener opener = {.openings = openings,
                            .options = {.hub_cache = options->hub_cache, .strict = options->strict != 0}};
    enum wm_status st = WM_OK;

    *m = (struct open_models){NULL, 0, NULL, 0};
    m->models = calloc((size_t)n + 1, sizeof(struct ckpt *));
    m->distinct = calloc((size_t)n + 1, sizeof(struct ckpt *));
    if (!openings || !which || !m->models || !m->distinct) {
        st = error_no_memory(err, "opening the models");
        goto out;
    }
    for (int i = 0; i < n; i++) {
        const struct recipe_ref *ref = i < (int)recipe->n_models ? &recipe->models[i].ref : &recipe->base_model;
        int at = 0;
        while (at < opener.n_openings && !same_model(openings[at].ref, ref))
            at++;
        if (at == opener.n_openings) {
            openings[at].ref = ref;
            openings[at].last = &openings[at].first;
            opener.n_openings++;
        }
        which[i] = at;
    }
    open_all(&opener);
    m->n_models = n;
    m->n_distinct = opener.n_openings;
    for (int i = 0; i < opener.n_openings; i++) {
        report(&openings[i], problems);
        m->distinct[i] = openings[i].ckpt;
    }
    for (int i = 0; i < n; i++)
        m->models[i] = openings[which[i]].ckpt;
out:
    for (int i = 0; openings && i < opener.n_openings; i++) {
        while (openings[i].first) {
            struct finding *f = openings[i].first;
            openings[i].first = f->next;
            free((char *)f->problem.text);
            free(f);
        }
    }
    free(which);
    free(openings);
    if (st != WM_OK)
        open_models_release(m);
    return st;
}

void open_models_release(struct open_models *m)
{
    for (int i = 0; i < m->n_distinct; i++)
        ckpt_free(m->distinct[i]);
    free(m->models);
    free(m->distinct);
    *m = (struct open_models){NULL, 0, NULL, 0};
}
