/* The directory of letters: what was put is got; a letter with any byte changed or cut off anywhere is torn, one of another
 * session, rank or call is not taken for it; clearing removes what it should and no file that is not ours. */
#include "cluster/mailbox.h"

#include "base/file.h"
#include "temp_dir.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const char payload[] = "what rank 3 says in call 7";
static const struct letter letter = {.kind = MAIL_PART, .sequence = 7, .rank = 3, .call = 2, .n_bytes = sizeof payload};

static struct mailbox open_box(const char *job, uint64_t session)
{
    struct wm_error err = WM_ERROR_INIT;
    struct mailbox box;

    assert_int_equal(mailbox_init(&box, root, job, &err), WM_OK);
    box.session = session;
    return box;
}

static enum mail_state get(const struct mailbox *box, const struct letter *want)
{
    char got[sizeof payload] = "";
    struct letter found;
    int code;
    enum mail_state state = mailbox_get(box, want, got, &found, &code);

    if (state == MAIL_READ)
        assert_memory_equal(got, payload, want->n_bytes);
    return state;
}

static void a_damaged_letter_is_torn(void **state)
{
    struct mailbox box = open_box("job", 5);
    struct wm_error err = WM_ERROR_INIT;
    char *path = NULL, *whole = NULL;
    size_t n_bytes = 0;

    (void)state;
    assert_int_equal(get(&box, &letter), MAIL_MISSING);
    assert_int_equal(mailbox_put(&box, &letter, payload, &err), WM_OK);
    assert_int_equal(get(&box, &letter), MAIL_READ);
    assert_int_equal(mailbox_path(&box, &letter, &path, &err), WM_OK);
    assert_int_equal(file_read_all(path, 4096, &whole, &n_bytes, &err), WM_OK);
    for (size_t i = 0; i < n_bytes; i++) {
        corpus_write(path, whole, i);
        assert_int_equal(get(&box, &letter), MAIL_TORN);
        whole[i] ^= 0x40;
        corpus_write(path, whole, n_bytes);
        assert_int_equal(get(&box, &letter), MAIL_TORN);
        whole[i] ^= 0x40;
    }
    corpus_write(path, whole, n_bytes);
    assert_int_equal(get(&box, &letter), MAIL_READ);
    mailbox_remove(&box, &letter);
    assert_int_equal(get(&box, &letter), MAIL_MISSING);
    free(whole);
    free(path);
    mailbox_release(&box);
}

/* The same bytes under another letter's name: a copy is not taken for the letter. */
static void a_letter_is_about_one_thing(void **state)
{
    static const struct letter others[] = {
        {.kind = MAIL_WHOLE, .sequence = 7, .rank = 3, .call = 2, .n_bytes = sizeof payload},
        {.kind = MAIL_PART, .sequence = 8, .rank = 3, .call = 2, .n_bytes = sizeof payload},
        {.kind = MAIL_PART, .sequence = 7, .rank = 4, .call = 2, .n_bytes = sizeof payload},
    };
    struct mailbox box = open_box("job", 5), boxes[2] = {open_box("job", 6), open_box("bob", 5)};
    struct wm_error err = WM_ERROR_INIT;
    struct letter shorter = letter, other_call = letter, found;
    char *from = NULL, *to = NULL, got[sizeof payload];
    int code;

    (void)state;
    assert_int_equal(mailbox_put(&box, &letter, payload, &err), WM_OK);
    assert_int_equal(mailbox_path(&box, &letter, &from, &err), WM_OK);
    for (int i = 0; i < 5; i++) {
        const struct mailbox *other_box = i < 3 ? &box : &boxes[i - 3];
        const struct letter *other = i < 3 ? &others[i] : &letter;
        assert_int_equal(get(other_box, other), MAIL_MISSING);
        assert_int_equal(mailbox_path(other_box, other, &to, &err), WM_OK);
        assert_int_equal(file_copy_whole(from, to, false, &err), WM_OK);
        assert_int_equal(get(other_box, other), MAIL_TORN);
        unlink(to);
        free(to);
    }
    shorter.n_bytes--;
    other_call.call = 3;
    assert_int_equal(mailbox_get(&box, &shorter, got, &found, &code), MAIL_DIFFERENT);
    assert_int_equal(found.n_bytes, sizeof payload);
    assert_int_equal(mailbox_get(&box, &other_call, got, &found, &code), MAIL_DIFFERENT);
    assert_int_equal(found.call, 2);
    mailbox_remove(&box, &letter);
    free(from);
    mailbox_release(&box);
    mailbox_release(&boxes[0]);
    mailbox_release(&boxes[1]);
}

static void the_first_to_create_a_letter_has_it(void **state)
{
    struct letter life = {.kind = MAIL_LIFE, .rank = 1, .n_bytes = sizeof payload};
    struct mailbox box = open_box("job", 5);
    struct wm_error err = WM_ERROR_INIT;
    static const char other[sizeof payload] = "another process";
    bool taken = true;

    (void)state;
    assert_int_equal(mailbox_put_in_place(&box, &life, payload, false, NULL, &err), WM_NO_INPUT);
    err.status = WM_OK;
    assert_int_equal(mailbox_put_in_place(&box, &life, payload, true, &taken, &err), WM_OK);
    assert_false(taken);
    assert_int_equal(mailbox_put_in_place(&box, &life, other, true, &taken, &err), WM_OK);
    assert_true(taken);
    assert_int_equal(get(&box, &life), MAIL_READ);
    assert_true(mailbox_rename(&box, &life, MAIL_LEFT));
    assert_int_equal(get(&box, &life), MAIL_MISSING);
    assert_false(mailbox_rename(&box, &life, MAIL_LEFT));
    mailbox_clear(&box, true);
    mailbox_release(&box);
}

static void touch(const char *name)
{
    char path[CORPUS_PATH_BYTES];

    corpus_path(path, "%s/%s", root, name);
    corpus_write(path, "x", 1);
}

static int n_files(void)
{
    DIR *dir = opendir(root);
    int n = 0;

    corpus_need(dir != NULL, root);
    for (const struct dirent *e; (e = readdir(dir)) != NULL;)
        n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

static void a_look_sees_this_session_alone(void **state)
{
    struct mailbox box = open_box("job", 5), next = open_box("job", 6), other = open_box("bob", 5);
    const struct mailbox *all[] = {&box, &next, &other};
    unsigned char ranks[4];
    struct mail_view view = {.ranks = ranks, .size = 4};
    struct wm_error err = WM_ERROR_INIT;

    (void)state;
    for (int i = 0; i < 3; i++)
        for (int kind = 0; kind < MAIL_N_KINDS; kind++) {
            struct letter l = {.kind = (enum mail_kind)kind, .rank = (uint32_t)i, .sequence = kind < MAIL_PART ? 0 : 7};
            assert_int_equal(mailbox_put(all[i], &l, "", &err), WM_OK);
        }
    for (int i = 0; i < 3; i++) {
        assert_int_equal(mailbox_look(all[i], 7, &view), 0);
        for (int r = 0; r < 4; r++)
            assert_int_equal(ranks[r], r == i ? MAIL_HAS_LIFE | MAIL_HAS_LEFT | MAIL_HAS_PART : 0);
        assert_true(view.has_session && view.has_go && view.has_whole);
        assert_int_equal(view.abort_rank, i);
        assert_int_equal(mailbox_look(all[i], 8, &view), 0);
        assert_int_equal(ranks[i], MAIL_HAS_LIFE | MAIL_HAS_LEFT);
        assert_false(view.has_whole);
    }
    /* Not ours, half-written or out of range: not seen, and never removed but for the half-written. */
    touch("notes.txt");
    touch("0000000000000005.0000000000000005.part.7.1x");
    touch("0000000000000005.0000000000000005.PART.7.1");
    mailbox_clear(&box, false); /* session 6 of this job, but not the card that names a session */
    assert_int_equal(n_files(), MAIL_N_KINDS + 1 + MAIL_N_KINDS + 3);
    mailbox_clear(&box, true);
    mailbox_clear(&other, true);
    assert_int_equal(n_files(), 3 + 3);
    mailbox_release(&box);
    mailbox_release(&next);
    mailbox_release(&other);
}

/* A letter that a network file system keeps under a name of its own does not keep the folder; another file does. */
static void the_folder_goes_with_what_is_hidden_in_it(void **state)
{
    struct mailbox box = open_box("job", 5);
    char note[CORPUS_PATH_BYTES];

    (void)state;
    touch(".fuse_hidden0000012b00000006");
    touch("notes.txt");
    mailbox_remove_dir(&box);
    assert_int_equal(n_files(), 1);
    corpus_path(note, "%s/notes.txt", root);
    assert_int_equal(unlink(note), 0);
    mailbox_remove_dir(&box);
    assert_false(file_is_dir(root));
    mailbox_release(&box);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_damaged_letter_is_torn, root_set_up, root_tear_down),
        cmocka_unit_test_setup_teardown(a_letter_is_about_one_thing, root_set_up, root_tear_down),
        cmocka_unit_test_setup_teardown(the_first_to_create_a_letter_has_it, root_set_up, root_tear_down),
        cmocka_unit_test_setup_teardown(a_look_sees_this_session_alone, root_set_up, root_tear_down),
        cmocka_unit_test_setup_teardown(the_folder_goes_with_what_is_hidden_in_it, root_set_up, root_tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
