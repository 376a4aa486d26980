/*
 * survey_drive.c: GPUs that count for the survey.
 *
 * What lives here: a thread for each GPU, which keeps as many tiles on their way as the GPU takes, and at the end of a pass
 * collects what it has counted. Tiles come from the threads that read them, first come, first served, so a faster GPU counts
 * more. What it must not know: how a backend counts, what is read.
 *
 * When a GPU is lost, all that it has counted in the pass is lost with it, and nobody knows which tiles that were: the pass
 * starts over without it.
 */
#include "base/file.h"
#include "engine/survey_count.h"

/* What one driver has on its GPU. */
struct drive {
    struct survey_driver *driver;
    struct survey *s;
    struct backend *b;
    void *thread; /* the backend's */
    struct survey_hand *flights[BACKEND_MAX_DEPTH];
    int first, n_flights;
    struct wm_error err;
};

/* ---- the queue ------------------------------------------------------------------------------------------------- */

static void hand_back(struct survey_hand *hand)
{
    hand->done = true;
    pthread_cond_signal(&hand->counted);
}

static struct survey_hand *take_first(struct survey *s)
{
    struct survey_hand *hand = s->first;

    s->first = hand->next;
    if (!s->first)
        s->last = NULL;
    return hand;
}

void survey_hand_over(struct survey *s, struct survey_hand *hand)
{
    if (s->lost || s->error.status != WM_OK)
        return; /* it would not count any more */
    hand->done = false;
    hand->next = NULL;
    if (s->last)
        s->last->next = hand;
    else
        s->first = hand;
    s->last = hand;
    pthread_cond_signal(&s->can_drive);
    while (!hand->done)
        pthread_cond_wait(&hand->counted, &s->lock);
}

void survey_drop_queue(struct survey *s)
{
    while (s->first)
        hand_back(take_first(s));
}

int survey_n_driving(const struct survey *s)
{
    int n = 0;

    for (int i = 0; i < s->n_drivers; i++)
        n += !s->drivers[i].gone;
    return n;
}

bool survey_drivers_are_busy(const struct survey *s)
{
    for (int i = 0; i < s->n_drivers; i++)
        if (!s->drivers[i].gone && s->drivers[i].n_collected != s->n_passes_begun)
            return true;
    return false;
}

/* ---- one GPU --------------------------------------------------------------------------------------------------- */

/* The next three are called and left with the lock held. */
static void start_tile(struct drive *d)
{
    struct survey_hand *hand = take_first(d->s);
    double began;

    d->flights[(d->first + d->n_flights++) % BACKEND_MAX_DEPTH] = hand;
    pthread_mutex_unlock(&d->s->lock);
    began = file_now_seconds();
    (void)d->b->ops->submit(d->b, d->thread, &hand->task, &d->err);
    began = file_now_seconds() - began;
    pthread_mutex_lock(&d->s->lock);
    d->s->result->compute_busy += began;
}

static struct survey_hand *take_oldest(struct drive *d)
{
    struct survey_hand *hand = d->flights[d->first];

    d->first = (d->first + 1) % BACKEND_MAX_DEPTH;
    d->n_flights--;
    return hand;
}

static void await_oldest(struct drive *d)
{
    struct survey_hand *hand = d->flights[d->first];
    double began;

    pthread_mutex_unlock(&d->s->lock);
    began = file_now_seconds();
    (void)d->b->ops->await(d->b, d->thread, &hand->task, &d->err);
    began = file_now_seconds() - began;
    pthread_mutex_lock(&d->s->lock);
    d->s->result->compute_busy += began;
    if (d->err.status == WM_OK)
        hand_back(take_oldest(d));
}

static void collect(struct drive *d)
{
    struct survey *s = d->s;
    bool counts = !s->lost && s->error.status == WM_OK;

    pthread_mutex_unlock(&s->lock);
    (void)d->b->ops->collect_model(d->b, d->thread, counts ? s->statistics : NULL, &d->err);
    pthread_mutex_lock(&s->lock);
    if (d->err.status != WM_OK)
        return;
    d->driver->n_collected = s->n_passes_begun;
    pthread_cond_broadcast(&s->changed);
}

/* Nothing may touch the tiles of others any more when they are handed back. With the lock held. */
static void leave(struct drive *d)
{
    struct survey *s = d->s;
    const bool was_lost = d->b->lost, has_begun = d->thread != NULL;

    pthread_mutex_unlock(&s->lock);
    for (int i = 0; i < d->n_flights && !d->b->lost; i++) {
        struct survey_hand *hand = d->flights[(d->first + i) % BACKEND_MAX_DEPTH];
        (void)d->b->ops->await(d->b, d->thread, &hand->task, &d->err);
    }
    if (has_begun && d->b->lost && d->b->ops->abandon)
        d->b->ops->abandon(d->b, d->thread);
    if (has_begun)
        d->b->ops->thread_free(d->b, d->thread);
    pthread_mutex_lock(&s->lock);
    while (d->n_flights)
        hand_back(take_oldest(d));
    d->driver->gone = true;
    if (has_begun && was_lost) {
        s->lost = true;
        error_set(&s->notice, WM_NO_DEVICE, "%s; the pass over the models began again without it", d->b->message);
        survey_drop_queue(s);
    } else if (d->err.status != WM_OK) {
        survey_fail(s, &d->err);
    }
    pthread_cond_broadcast(&s->changed);
}

static void *driver_thread(void *user)
{
    struct survey_driver *driver = user;
    struct survey *s = driver->survey;
    struct drive d = {.driver = driver, .s = s, .b = driver->backend};

    d.thread = d.b->ops->thread_new(d.b, &d.err);
    pthread_mutex_lock(&s->lock);
    while (!s->closing && d.err.status == WM_OK) {
        if (s->first && d.n_flights < d.b->depth)
            start_tile(&d);
        else if (d.n_flights)
            await_oldest(&d);
        else if (s->all_read && driver->n_collected != s->n_passes_begun)
            collect(&d);
        else
            pthread_cond_wait(&s->can_drive, &s->lock);
    }
    leave(&d);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- all GPUs -------------------------------------------------------------------------------------------------- */

enum wm_status survey_drivers_start(struct survey *s, struct wm_error *err)
{
    for (int i = 0; i < s->args->n_backends; i++) {
        struct survey_driver *driver = &s->drivers[s->n_drivers];
        if (s->args->backends[i]->depth == 1)
            continue; /* the CPU's does everything in `submit`: the threads that read call it */
        *driver = (struct survey_driver){.survey = s, .backend = s->args->backends[i]};
        if (pthread_create(&driver->thread, NULL, driver_thread, driver))
            return error_set(err, WM_TEMPORARY, "cannot start threads; raise the limit on processes (ulimit -u)");
        s->n_drivers++;
    }
    return WM_OK;
}

void survey_drivers_stop(struct survey *s)
{
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    pthread_cond_broadcast(&s->can_drive);
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; i < s->n_drivers; i++)
        pthread_join(s->drivers[i].thread, NULL);
}
