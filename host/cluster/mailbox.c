/* mailbox.c: see mailbox.h. */
#include "cluster/mailbox.h"

#include "base/file.h"
#include "base/hash.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const kind_names[MAIL_N_KINDS] = {
    [MAIL_SESSION] = "session", [MAIL_LIFE] = "life", [MAIL_LEFT] = "left",  [MAIL_GO] = "go",
    [MAIL_ABORT] = "abort",     [MAIL_PART] = "part", [MAIL_WHOLE] = "whole"};

static const char magic[8] = {'W', 'M', 'M', 'A', 'I', 'L', '0', '1'};

struct header { /* little-endian machines only, like the tensor formats themselves */
    char magic[8];
    uint64_t job, session, sequence, n_bytes;
    uint32_t kind, rank, call, zero;
    uint64_t payload_hash;
    uint64_t own_hash; /* of all that is before it */
};
_Static_assert(sizeof(struct header) == 72, "the header has no holes");

enum wm_status mailbox_init(struct mailbox *box, const char *dir, const char *job, struct wm_error *err)
{
    *box = (struct mailbox){strdup(dir), hash_xxh3_64(job, strlen(job), 0), 0};
    return box->dir ? WM_OK : error_no_memory(err, "opening the ranks' directory");
}

void mailbox_release(struct mailbox *box)
{
    free(box->dir);
    box->dir = NULL;
}

/* ---- names -------------------------------------------------------------------------------------------------- */

struct name {
    uint64_t job, session, sequence;
    enum mail_kind kind;
    int rank;
    bool temporary;
};

static uint64_t session_in_name(const struct mailbox *box, enum mail_kind kind)
{
    return kind == MAIL_SESSION ? 0 : box->session;
}

enum wm_status mailbox_path(const struct mailbox *box, const struct letter *letter, char **path, struct wm_error *err)
{
    if (asprintf(path, "%s/%016llx.%016llx.%s.%llu.%u", box->dir, (unsigned long long)box->job,
                 (unsigned long long)session_in_name(box, letter->kind), kind_names[letter->kind],
                 (unsigned long long)letter->sequence, letter->rank) >= 0)
        return WM_OK;
    *path = NULL;
    return error_no_memory(err, "naming a message");
}

static bool take_hex16(const char **at, uint64_t *value)
{
    uint64_t v = 0;

    for (int i = 0; i < 16; i++) {
        char c = (*at)[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
            return false;
        v = v << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    *value = v;
    *at += 16;
    return true;
}

static bool take_decimal(const char **at, uint64_t *value)
{
    const char *begin = *at;
    uint64_t v = 0;

    for (; **at >= '0' && **at <= '9' && *at - begin < 19; ++*at)
        v = v * 10 + (uint64_t)(**at - '0');
    *value = v;
    return *at > begin;
}

static bool take_kind(const char **at, enum mail_kind *kind)
{
    for (int k = 0; k < MAIL_N_KINDS; k++) {
        size_t n = strlen(kind_names[k]);
        if (strncmp(*at, kind_names[k], n) == 0 && (*at)[n] == '.') {
            *at += n;
            *kind = (enum mail_kind)k;
            return true;
        }
    }
    return false;
}

static bool take_dot(const char **at)
{
    return *(*at)++ == '.';
}

/* False for names that are not ours: those are never touched. */
static bool parse_name(const char *s, struct name *n)
{
    uint64_t rank;

    if (!take_hex16(&s, &n->job) || !take_dot(&s) || !take_hex16(&s, &n->session) || !take_dot(&s) ||
        !take_kind(&s, &n->kind) || !take_dot(&s) || !take_decimal(&s, &n->sequence) || !take_dot(&s) ||
        !take_decimal(&s, &rank) || rank > INT32_MAX)
        return false;
    n->rank = (int)rank;
    n->temporary = strcmp(s, ".tmp") == 0;
    return n->temporary || *s == '\0';
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

static void seal(const struct mailbox *box, const struct letter *l, const void *payload, struct header *h)
{
    *h = (struct header){.job = box->job,
                         .session = session_in_name(box, l->kind),
                         .sequence = l->sequence,
                         .n_bytes = l->n_bytes,
                         .kind = l->kind,
                         .rank = l->rank,
                         .call = l->call,
                         .payload_hash = hash_xxh3_64(payload, l->n_bytes, box->session)};
    memcpy(h->magic, magic, sizeof magic);
    if (l->kind == MAIL_SESSION)
        h->payload_hash = hash_xxh3_64(payload, l->n_bytes, 0);
    h->own_hash = hash_xxh3_64(h, offsetof(struct header, own_hash), 0);
}

/* Nothing is synced: letters are for processes that live now, and closing is what makes an NFS client send them. */
enum wm_status mailbox_put(const struct mailbox *box, const struct letter *letter, const void *payload,
                           struct wm_error *err)
{
    char *path = NULL, *tmp = NULL;
    enum wm_status st = WM_OK;
    struct header header;
    int fd = -1;

    seal(box, letter, payload, &header);
    TRY(mailbox_path(box, letter, &path, err));
    if (asprintf(&tmp, "%s.tmp", path) < 0) {
        tmp = NULL;
        st = error_no_memory(err, "writing a message");
        goto out;
    }
    TRY(file_open_write(&fd, tmp, true, false, err));
    TRY(file_write_at(fd, tmp, &header, sizeof header, 0, err));
    TRY(file_write_at(fd, tmp, payload, letter->n_bytes, sizeof header, err));
    TRY(file_close_write(&fd, tmp, err));
    TRY(file_rename(tmp, path, err));
out:
    if (st != WM_OK && tmp)
        unlink(tmp);
    file_close(&fd);
    free(tmp);
    free(path);
    return st;
}

/* One write, so that readers on the same host (and on Lustre) never see a mixture. */
enum wm_status mailbox_put_in_place(const struct mailbox *box, const struct letter *letter, const void *payload,
                                    bool create, bool *taken, struct wm_error *err)
{
    size_t n_bytes = sizeof(struct header) + letter->n_bytes;
    unsigned char *whole = malloc(n_bytes);
    enum wm_status st = WM_OK;
    struct header header;
    char *path = NULL;
    int fd = -1;

    if (!whole) {
        st = error_no_memory(err, "writing a sign of life");
        goto out;
    }
    seal(box, letter, payload, &header);
    memcpy(whole, &header, sizeof header);
    memcpy(whole + sizeof header, payload, letter->n_bytes);
    TRY(mailbox_path(box, letter, &path, err));
    if (create) { /* O_EXCL decides which of two processes is this rank */
        fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        *taken = fd < 0 && errno == EEXIST;
        if (*taken)
            goto out;
        file_close(&fd);
    }
    TRY(file_open_write(&fd, path, create, false, err));
    TRY(file_write_at(fd, path, whole, n_bytes, 0, err));
    TRY(file_close_write(&fd, path, err));
out:
    file_close(&fd);
    free(path);
    free(whole);
    return st;
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

/* All n bytes or not: 0, an errno, or EPIPE for a file that ends early. */
static int read_exactly(int fd, void *to, size_t n, size_t offset)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(fd, (char *)to + done, n - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? errno : EPIPE;
        done += (size_t)got;
    }
    return 0;
}

static bool is_about(const struct mailbox *box, const struct letter *l, const struct header *h)
{
    return memcmp(h->magic, magic, sizeof magic) == 0 &&
           h->own_hash == hash_xxh3_64(h, offsetof(struct header, own_hash), 0) && h->job == box->job &&
           h->session == session_in_name(box, l->kind) && h->kind == (uint32_t)l->kind && h->sequence == l->sequence &&
           h->rank == l->rank;
}

enum mail_state mailbox_get(const struct mailbox *box, const struct letter *letter, void *payload, struct letter *found,
                            int *code)
{
    enum mail_state state = MAIL_TORN;
    struct header h;
    char *path = NULL;
    uint64_t seed = letter->kind == MAIL_SESSION ? 0 : box->session;
    int fd = -1;

    *code = 0;
    if (mailbox_path(box, letter, &path, NULL) != WM_OK)
        return MAIL_TOO_BIG;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        *code = errno;
        state = errno == ENOENT ? MAIL_MISSING : MAIL_TORN;
        goto out;
    }
    *code = read_exactly(fd, &h, sizeof h, 0);
    if (*code || !is_about(box, letter, &h))
        goto out;
    *found = (struct letter){(enum mail_kind)h.kind, h.sequence, h.rank, h.call, (size_t)h.n_bytes};
    if (h.call != letter->call || h.n_bytes != letter->n_bytes) {
        state = MAIL_DIFFERENT;
        goto out;
    }
    *code = read_exactly(fd, payload, letter->n_bytes, sizeof h);
    if (*code == 0 && h.payload_hash == hash_xxh3_64(payload, letter->n_bytes, seed))
        state = MAIL_READ;
out:
    file_close(&fd);
    free(path);
    return state;
}

int mailbox_look(const struct mailbox *box, uint64_t sequence, struct mail_view *view)
{
    struct dirent *entry;
    DIR *dir = opendir(box->dir);
    struct name n;
    int code = 0;

    memset(view->ranks, 0, (size_t)view->size);
    view->abort_rank = -1;
    view->has_session = view->has_go = view->has_whole = false;
    if (!dir)
        return errno;
    while (errno = 0, (entry = readdir(dir)) != NULL) {
        if (!parse_name(entry->d_name, &n) || n.temporary || n.job != box->job ||
            n.session != session_in_name(box, n.kind) || n.rank >= view->size)
            continue;
        switch (n.kind) {
        case MAIL_SESSION: view->has_session = true; break;
        case MAIL_GO: view->has_go = true; break;
        case MAIL_LIFE: view->ranks[n.rank] |= MAIL_HAS_LIFE; break;
        case MAIL_LEFT: view->ranks[n.rank] |= MAIL_HAS_LEFT; break;
        case MAIL_PART: view->ranks[n.rank] |= n.sequence == sequence ? MAIL_HAS_PART : 0; break;
        case MAIL_WHOLE: view->has_whole = view->has_whole || n.sequence == sequence; break;
        case MAIL_ABORT: view->abort_rank = n.rank; break;
        default: break;
        }
    }
    code = errno;
    closedir(dir);
    return code;
}

/* ---- clearing away ------------------------------------------------------------------------------------------ */

void mailbox_remove(const struct mailbox *box, const struct letter *letter)
{
    char *path;

    if (mailbox_path(box, letter, &path, NULL) == WM_OK) {
        unlink(path);
        free(path);
    }
}

bool mailbox_rename(const struct mailbox *box, const struct letter *from, enum mail_kind to)
{
    struct letter target = *from;
    char *old = NULL, *new = NULL;
    bool done = false;

    target.kind = to;
    if (mailbox_path(box, from, &old, NULL) == WM_OK && mailbox_path(box, &target, &new, NULL) == WM_OK)
        done = rename(old, new) == 0;
    free(old);
    free(new);
    return done;
}

/* Removes entries that `condemned` names. A listing may skip entries while others are removed (NFS pages it), so it is
 * repeated until nothing more is found. */
static void remove_where(const struct mailbox *box, bool (*condemned)(const void *user, const struct name *name),
                         const void *user)
{
    enum { max_passes = 8 };
    bool again = true;

    for (int pass = 0; again && pass < max_passes; pass++) {
        DIR *dir = opendir(box->dir);
        struct dirent *entry;
        struct name n;
        again = false;
        while (dir && (entry = readdir(dir)) != NULL)
            if (parse_name(entry->d_name, &n) && condemned(user, &n))
                again = unlinkat(dirfd(dir), entry->d_name, 0) == 0 || again;
        if (dir)
            closedir(dir);
    }
}

static bool is_of_this_session(const void *user, const struct name *n)
{
    const struct mailbox *box = user;

    return n->job == box->job && n->session == box->session;
}

static bool is_of_other_sessions(const void *user, const struct name *n)
{
    const struct mailbox *box = user;

    return n->job == box->job && n->session != box->session && n->kind != MAIL_SESSION;
}

void mailbox_clear(const struct mailbox *box, bool this_session)
{
    remove_where(box, this_session ? is_of_this_session : is_of_other_sessions, box);
}

static bool is_of_another_job(const void *user, const struct name *n)
{
    const struct mailbox *box = user;

    return n->job != box->job;
}

void mailbox_clear_others(const struct mailbox *box)
{
    remove_where(box, is_of_another_job, box);
}

enum { max_stale_jobs = 64 }; /* more than that are cleared in later runs */
struct stale_jobs {
    int n;
    struct {
        uint64_t job;
        double newest;
    } jobs[max_stale_jobs];
};

static bool is_stale(const void *user, const struct name *n)
{
    const struct stale_jobs *stale = user;

    for (int i = 0; i < stale->n; i++)
        if (stale->jobs[i].job == n->job)
            return true;
    return false;
}

static void note_change(struct stale_jobs *jobs, uint64_t job, double changed)
{
    int i = 0;

    while (i < jobs->n && jobs->jobs[i].job != job)
        i++;
    if (i == jobs->n) {
        if (i == max_stale_jobs)
            return;
        jobs->jobs[jobs->n].job = job;
        jobs->jobs[jobs->n++].newest = changed;
    }
    if (changed > jobs->jobs[i].newest)
        jobs->jobs[i].newest = changed;
}

static double seconds_of(struct timespec t)
{
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void mailbox_clear_stale(const struct mailbox *box, double seconds)
{
    struct stale_jobs jobs = {0};
    DIR *dir = opendir(box->dir);
    double now = 0; /* the newest change of any file of ours: the server's clock, not this host's */
    struct dirent *entry;
    struct name n;
    struct stat sb;
    int kept = 0;

    while (dir && (entry = readdir(dir)) != NULL) {
        if (!parse_name(entry->d_name, &n) || fstatat(dirfd(dir), entry->d_name, &sb, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        if (n.job != box->job)
            note_change(&jobs, n.job, seconds_of(sb.st_mtim));
        else if (seconds_of(sb.st_mtim) > now)
            now = seconds_of(sb.st_mtim);
    }
    if (dir)
        closedir(dir);
    for (int i = 0; i < jobs.n; i++) /* keep only those that are to go */
        if (jobs.jobs[i].newest < now - seconds)
            jobs.jobs[kept++] = jobs.jobs[i];
    jobs.n = kept;
    if (kept)
        remove_where(box, is_stale, &jobs);
}

void mailbox_remove_dir(const struct mailbox *box)
{
    file_remove_empty_dir(box->dir);
}
