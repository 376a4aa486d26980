/*
 * team.c: threads that wait for work, so that starting them is in no measurement. Knows nothing of the work.
 */
#include "measure/measure.h"

#include <pthread.h>
#include <stdlib.h>

struct member {
    struct measure_team *team;
    pthread_t thread;
    int number;
};

struct measure_team {
    pthread_mutex_t lock;
    pthread_cond_t begin, end;
    unsigned turn;
    int n_threads, n_started, n_busy;
    bool closing;
    void (*work)(void *user, int worker);
    void *user;
    struct member *members; /* [n_threads - 1] */
};

static void *serve(void *argument)
{
    struct member *m = argument;
    struct measure_team *team = m->team;
    unsigned seen = 0;

    pthread_mutex_lock(&team->lock);
    for (;;) {
        while (team->turn == seen && !team->closing)
            pthread_cond_wait(&team->begin, &team->lock);
        if (team->closing)
            break;
        seen = team->turn;
        pthread_mutex_unlock(&team->lock);
        team->work(team->user, m->number);
        pthread_mutex_lock(&team->lock);
        if (--team->n_busy == 0)
            pthread_cond_signal(&team->end);
    }
    pthread_mutex_unlock(&team->lock);
    return NULL;
}

struct measure_team *measure_team_new(int n_threads)
{
    struct measure_team *team = calloc(1, sizeof *team);

    if (!team)
        return NULL;
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->begin, NULL);
    pthread_cond_init(&team->end, NULL);
    team->n_threads = n_threads;
    team->members = calloc((size_t)n_threads, sizeof *team->members);
    for (int i = 0; team->members && i < n_threads - 1; i++) {
        team->members[i] = (struct member){.team = team, .number = i + 1};
        if (pthread_create(&team->members[i].thread, NULL, serve, &team->members[i]) != 0)
            break;
        team->n_started++;
    }
    if (!team->members || team->n_started < n_threads - 1) {
        measure_team_free(team);
        return NULL;
    }
    return team;
}

void measure_team_free(struct measure_team *team)
{
    if (!team)
        return;
    pthread_mutex_lock(&team->lock);
    team->closing = true;
    pthread_cond_broadcast(&team->begin);
    pthread_mutex_unlock(&team->lock);
    for (int i = 0; i < team->n_started; i++)
        pthread_join(team->members[i].thread, NULL);
    pthread_cond_destroy(&team->begin);
    pthread_cond_destroy(&team->end);
    pthread_mutex_destroy(&team->lock);
    free(team->members);
    free(team);
}

int measure_team_size(const struct measure_team *team)
{
    return team->n_threads;
}

void measure_team_run(struct measure_team *team, void (*work)(void *user, int worker), void *user)
{
    pthread_mutex_lock(&team->lock);
    team->work = work;
    team->user = user;
    team->n_busy = team->n_threads - 1;
    team->turn++;
    pthread_cond_broadcast(&team->begin);
    pthread_mutex_unlock(&team->lock);
    work(user, 0);
    pthread_mutex_lock(&team->lock);
    while (team->n_busy > 0)
        pthread_cond_wait(&team->end, &team->lock);
    pthread_mutex_unlock(&team->lock);
}
