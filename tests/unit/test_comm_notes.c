/* Notes: what a rank says about itself reaches every rank that asks, the newest one in the end, with its age, whatever
 * carries it; nothing is there before it was said, and long notes are cut, not overrun. */
#include "comm_world.h"

struct said {
    uint32_t rank, number;
    char text[24];
};

#define PATIENCE_SECONDS 20.0

/* The second one is shorter: nothing of the first may be left behind it. */
static struct said said_by(int rank, int number)
{
    struct said s;

    memset(&s, 0, sizeof s);
    s.rank = (uint32_t)rank;
    s.number = (uint32_t)number;
    if (number == 1)
        snprintf(s.text, sizeof s.text, "first of %d", rank);
    return s;
}

/* Until `rank` is known to have said this and nothing more; the age it has then, or -1. */
static double wait_for_note(struct place *p, int rank, const struct said *want)
{
    unsigned char note[COMM_NOTE_BYTES], whole[COMM_NOTE_BYTES] = {0};
    double until = file_now_seconds() + PATIENCE_SECONDS, age = -1;

    memcpy(whole, want, sizeof *want);
    while (file_now_seconds() < until) {
        if (p->comm->ops->peek(p->comm, rank, note, &age) && memcmp(note, whole, sizeof note) == 0)
            return age;
        world_sleep(0.005);
    }
    return -1;
}

static void say_and_hear(struct place *p)
{
    const struct comm_ops *ops = p->comm->ops;
    unsigned char note[COMM_NOTE_BYTES];
    double age, began;

    for (int rank = -1; rank <= p->comm->size; rank++)
        RANK_CHECK(!ops->peek(p->comm, rank, note, &age), "a note of rank %d before anybody said anything", rank);
    world_meet(p);
    for (int number = 1; number <= 2; number++) {
        struct said mine = said_by(p->index, number);
        began = file_now_seconds();
        ops->publish(p->comm, &mine, number == 1 ? sizeof mine : offsetof(struct said, text));
        for (int rank = 0; rank < p->comm->size; rank++) {
            struct said theirs = said_by(rank, number);
            age = wait_for_note(p, rank, &theirs);
            RANK_CHECK(age >= 0, "note %d of rank %d did not come", number, rank);
            RANK_CHECK(age < PATIENCE_SECONDS, "note %d of rank %d claims an age of %g s", number, rank, age);
            RANK_CHECK(rank != p->index || age <= file_now_seconds() - began, "the own note is too old: %g s", age);
        }
        world_meet(p);
    }
    world_sleep(0.4); /* the same note again and again: it grows older, not younger */
    for (int rank = 0; rank < p->comm->size; rank++) {
        RANK_CHECK(ops->peek(p->comm, rank, note, &age), "the note of rank %d is gone", rank);
        RANK_CHECK(age >= 0.35, "a note of rank %d that is 0.4 s old claims an age of %g s", rank, age);
    }
    world_meet(p);
}

static void notes_reach_everybody(void **state)
{
    static const int sizes[] = {1, 2, 5, 8};

    (void)state;
    for (int kind = WORLD_SELF; kind <= WORLD_FILES_IN_PROCESSES; kind++)
        for (int s = 0; s < (kind == WORLD_SELF ? 1 : 4); s++)
            world_run(&(struct world){.kind = (enum world_kind)kind, .size = sizes[s], .deadline_seconds = 6},
                      say_and_hear);
}

static void say_too_much(struct place *p)
{
    unsigned char much[COMM_NOTE_BYTES * 2], note[COMM_NOTE_BYTES + 1];
    double age;

    memset(much, 0xA5, sizeof much);
    note[COMM_NOTE_BYTES] = 0x5A;
    p->comm->ops->publish(p->comm, much, sizeof much);
    RANK_CHECK(p->comm->ops->peek(p->comm, p->comm->rank, note, &age), "the own note is not there");
    RANK_CHECK(memcmp(note, much, COMM_NOTE_BYTES) == 0, "the own note is another");
    RANK_CHECK(note[COMM_NOTE_BYTES] == 0x5A, "more than a note was written");
    world_meet(p);
}

static void long_notes_are_cut(void **state)
{
    (void)state;
    world_run_all(say_too_much, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(notes_reach_everybody),
        cmocka_unit_test(long_notes_are_cut),
    };

    return cmocka_run_group_tests(tests, world_set_up, world_tear_down);
}
