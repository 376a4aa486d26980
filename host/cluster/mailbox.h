/*
 * mailbox.h: a directory in which processes leave each other small sealed files.
 *
 * What lives here: the names of the files, writing and reading them so that nobody takes a half-written one for whole,
 * seeing which are there, and clearing them away. What it must not know: threads, waiting, what the letters say.
 *
 * A name is job.session.kind.sequence.rank: the job is a hash of the run's text, the session a random number of this
 * start of it. A letter is written under a temporary name and renamed; its header repeats the name and carries XXH3
 * checksums of itself and of the payload, because network file systems may show a name before its bytes.
 * Names are found with readdir: opening a directory makes an NFS client ask its server, whereas looking a name up may be
 * answered "no such file" from its cache for a minute (acdirmax).
 */
#ifndef WM_CLUSTER_MAILBOX_H
#define WM_CLUSTER_MAILBOX_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum mail_kind {
    MAIL_SESSION, /* rank 0 names the session; the only one with session 0 in its name     */
    MAIL_LIFE,    /* a rank's sign of life, rewritten in place                             */
    MAIL_LEFT,    /* what a sign of life is renamed to at the end                          */
    MAIL_GO,      /* rank 0: everybody is here                                             */
    MAIL_ABORT,   /* a rank tells all to stop                                              */
    MAIL_PART,    /* a rank's part of a collective                                         */
    MAIL_WHOLE,   /* rank 0: the result of a collective                                    */
    MAIL_N_KINDS
};

struct mailbox {
    char *dir;
    uint64_t job, session;
};

enum wm_status mailbox_init(struct mailbox *box, const char *dir, const char *job, struct wm_error *err);
void mailbox_release(struct mailbox *box);

struct letter {
    enum mail_kind kind;
    uint64_t sequence; /* of a collective; else 0                                              */
    uint32_t rank;     /* of the writer                                                        */
    uint32_t call;     /* which collective: a letter about another call is seen as such        */
    size_t n_bytes;
};

/* Temporary name, write, rename. */
enum wm_status mailbox_put(const struct mailbox *box, const struct letter *letter, const void *payload,
                           struct wm_error *err);
/* Rewrites a letter in place (`create`: makes it, and *taken is set when somebody else already did). Readers may see a
 * mixture of the old and the new bytes, and find it torn. */
enum wm_status mailbox_put_in_place(const struct mailbox *box, const struct letter *letter, const void *payload,
                                    bool create, bool *taken, struct wm_error *err);

enum mail_state {
    MAIL_READ,
    MAIL_MISSING,
    MAIL_TORN,      /* not whole, or not yet whole; `code` is the errno of a read that failed, else 0 */
    MAIL_DIFFERENT, /* whole, but about another call or of another length                             */
    MAIL_TOO_BIG    /* out of memory while checking it                                                */
};

/* `letter` says what is wanted; its n_bytes go to payload. On MAIL_DIFFERENT *found says what is there. */
enum mail_state mailbox_get(const struct mailbox *box, const struct letter *letter, void *payload, struct letter *found,
                            int *code);

enum { MAIL_HAS_LIFE = 1, MAIL_HAS_LEFT = 2, MAIL_HAS_PART = 4 };
struct mail_view {
    unsigned char *ranks; /* [size]: MAIL_HAS_...; the caller's memory */
    int size, abort_rank; /* -1: nobody */
    bool has_session, has_go, has_whole;
};

/* What is there of this session; parts and the whole of `sequence` alone. An errno, or 0. */
int mailbox_look(const struct mailbox *box, uint64_t sequence, struct mail_view *view);

enum wm_status mailbox_path(const struct mailbox *box, const struct letter *letter, char **path, struct wm_error *err);
void mailbox_remove(const struct mailbox *box, const struct letter *letter);
/* False when it was not there. */
bool mailbox_rename(const struct mailbox *box, const struct letter *from, enum mail_kind to);

/* Everything of this job, but only of this session (`this_session`) or of all others. */
void mailbox_clear(const struct mailbox *box, bool this_session);
/* Files of other jobs of which none has changed for `seconds` by the file system's own clock: what crashes left. */
void mailbox_clear_stale(const struct mailbox *box, double seconds);
void mailbox_clear_others(const struct mailbox *box); /* all other jobs, however new their files are */
void mailbox_remove_dir(const struct mailbox *box);   /* if it is empty */

#endif
