/*
 * roster_notes.c: what ranks say about themselves, carried by their signs of life; see roster.h.
 *
 * What lives here: the newest note of every rank, its age, and reading those of the others. What it must not know: what a
 * note says.
 */
#include "cluster/roster.h"

#include "base/file.h"

#include <string.h>

/* Each is an open and a read at the file server, and the thread that makes them has its own sign of life to show. */
enum { max_notes_per_beat = 256 };

void roster_publish(struct roster *r, const void *note, size_t n_bytes)
{
    struct note *mine = &r->notes[r->rank];

    pthread_mutex_lock(&r->lock);
    memset(mine->bytes, 0, sizeof mine->bytes);
    memcpy(mine->bytes, note, n_bytes < sizeof mine->bytes ? n_bytes : sizeof mine->bytes);
    mine->since = file_now_seconds();
    mine->is_there = true;
    pthread_mutex_unlock(&r->lock);
}

bool roster_peek(struct roster *r, int rank, void *note, double *age_seconds)
{
    bool is_there;

    if (rank < 0 || rank >= r->size)
        return false;
    pthread_mutex_lock(&r->lock);
    r->wants_notes = true;
    is_there = r->notes[rank].is_there;
    if (is_there) {
        memcpy(note, r->notes[rank].bytes, sizeof r->notes[rank].bytes);
        *age_seconds = file_now_seconds() - r->notes[rank].since;
    }
    pthread_mutex_unlock(&r->lock);
    return is_there;
}

void roster_pack_note(struct roster *r)
{
    const struct note *mine = &r->notes[r->rank];

    r->life.note_age_seconds = mine->is_there ? file_now_seconds() - mine->since : -1.0;
    memcpy(r->life.note, mine->bytes, sizeof r->life.note);
}

/* A sign of life that has been seen before brings nothing new: its note ages here. */
static void take_note(struct roster *r, int rank, const struct life *life)
{
    struct note *note = &r->notes[rank];

    if (life->counter == note->counter || !(life->note_age_seconds >= 0))
        return;
    pthread_mutex_lock(&r->lock);
    memcpy(note->bytes, life->note, sizeof note->bytes);
    note->since = file_now_seconds() - life->note_age_seconds;
    note->counter = life->counter;
    note->is_there = true;
    pthread_mutex_unlock(&r->lock);
}

void roster_read_notes(struct roster *r)
{
    int n = r->size < max_notes_per_beat ? r->size : max_notes_per_beat;
    struct life life;
    bool wanted;

    pthread_mutex_lock(&r->lock);
    wanted = r->wants_notes;
    pthread_mutex_unlock(&r->lock);
    for (int i = 0; wanted && i < n; i++) {
        int rank = r->next_note;
        r->next_note = (rank + 1) % r->size;
        if (rank != r->rank && !(r->view.ranks[rank] & MAIL_HAS_LEFT) &&
            roster_get(r, MAIL_LIFE, rank, &life, sizeof life))
            take_note(r, rank, &life);
    }
}
