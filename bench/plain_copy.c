/*
 * plain_copy.c: the machine's floor for a merge: reads every input byte and writes as many bytes as the output has.
 *
 * What lives here: N threads with pread and pwrite in 4 MiB blocks from page-aligned buffers, nothing else: what a
 * merge of the same files cannot beat without reading less. Prints one JSON object. What it must not know: warpmerge;
 * it stands alone so that a change of the engine cannot change its own yardstick.
 *
 *     plain_copy [--threads N] [--block BYTES] [--fsync] --write BYTES OUT INPUT...
 *
 * OUT is created (and preallocated, as a merge does it), filled and left there; an existing file is refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_THREADS 256

struct copy {
    int n_inputs, n_threads;
    int *fds;             /* [n_inputs]                                       */
    uint64_t *ends;       /* [n_inputs] end of each input in one joined range */
    const char **names;   /* [n_inputs]                                       */
    uint64_t n_in, n_out; /* bytes                                            */
    size_t block_bytes;
    int out_fd;
    const char *out;
    bool sync;
    /* Work is handed out by output block: block i comes after its share of the input. */
    _Atomic uint64_t next_block;
    uint64_t n_blocks;
    _Atomic int failed; /* errno of the first failure */
};

static void fail(struct copy *c, int error)
{
    int none = 0;
    atomic_compare_exchange_strong(&c->failed, &none, error ? error : EIO);
}

static bool read_range(struct copy *c, uint64_t begin, uint64_t end, char *buffer)
{
    int i = 0;
    while (begin < end) {
        while (begin >= c->ends[i])
            i++;
        uint64_t file_begin = i ? c->ends[i - 1] : 0;
        uint64_t stop = end < c->ends[i] ? end : c->ends[i];
        size_t n = stop - begin < c->block_bytes ? (size_t)(stop - begin) : c->block_bytes;
        ssize_t got = pread(c->fds[i], buffer, n, (off_t)(begin - file_begin));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            fail(c, got < 0 ? errno : EIO);
            return false;
        }
        begin += (uint64_t)got;
    }
    return true;
}

static bool write_range(struct copy *c, uint64_t begin, uint64_t end, const char *buffer)
{
    uint64_t at = begin;
    while (at < end) {
        ssize_t put = pwrite(c->out_fd, buffer + (at - begin), (size_t)(end - at), (off_t)at);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0) {
            fail(c, put < 0 ? errno : EIO);
            return false;
        }
        at += (uint64_t)put;
    }
    return true;
}

/* a * part / parts without overflow for any file size. */
static uint64_t share(uint64_t a, uint64_t part, uint64_t parts)
{
    return (uint64_t)((long double)a * (long double)part / (long double)parts);
}

static void *work(void *arg)
{
    struct copy *c = arg;
    char *buffer = NULL;
    if (posix_memalign((void **)&buffer, 4096, c->block_bytes)) {
        fail(c, ENOMEM);
        return NULL;
    }
    memset(buffer, 1, c->block_bytes); /* pages of its own before the clock matters */
    while (!atomic_load(&c->failed)) {
        uint64_t block = atomic_fetch_add(&c->next_block, 1);
        if (block >= c->n_blocks)
            break;
        uint64_t in_end = block + 1 == c->n_blocks ? c->n_in : share(c->n_in, block + 1, c->n_blocks);
        if (!read_range(c, share(c->n_in, block, c->n_blocks), in_end, buffer))
            break;
        uint64_t begin = block * c->block_bytes;
        uint64_t end = begin + c->block_bytes < c->n_out ? begin + c->block_bytes : c->n_out;
        if (begin < end && !write_range(c, begin, end, buffer))
            break;
    }
    free(buffer);
    return NULL;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int usage(const char *problem)
{
    fprintf(stderr,
            "plain_copy: %s\nusage: plain_copy [--threads N] [--block BYTES] [--fsync] --write BYTES OUT INPUT...\n",
            problem);
    return 2;
}

static int system_error(const char *what, const char *name, int error)
{
    fprintf(stderr, "plain_copy: cannot %s %s: %s\n", what, name, strerror(error));
    return 74;
}

static bool parse_bytes(const char *text, uint64_t *value)
{
    char *end = NULL;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    *value = v;
    return !errno && end != text && !*end && text[0] != '-';
}

static int open_all(struct copy *c)
{
    for (int i = 0; i < c->n_inputs; i++) {
        struct stat st;
        c->fds[i] = open(c->names[i], O_RDONLY | O_CLOEXEC);
        if (c->fds[i] < 0 || fstat(c->fds[i], &st))
            return system_error("open", c->names[i], errno);
        c->n_in += (uint64_t)st.st_size;
        c->ends[i] = c->n_in;
    }
    c->out_fd = open(c->out, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (c->out_fd < 0)
        return system_error("create", c->out, errno);
    return 0;
}

static int run(struct copy *c)
{
    pthread_t threads[MAX_THREADS];
    c->n_blocks = (c->n_out + c->block_bytes - 1) / c->block_bytes;
    if (c->n_blocks == 0)
        c->n_blocks = (c->n_in + c->block_bytes - 1) / c->block_bytes;
    double begin = now();
    if (c->n_out) {
        int error = posix_fallocate(c->out_fd, 0, (off_t)c->n_out);
        if (error)
            return system_error("preallocate", c->out, error);
    }
    for (int i = 0; i < c->n_threads; i++) {
        int error = pthread_create(&threads[i], NULL, work, c);
        if (error) {
            fail(c, error);
            c->n_threads = i;
        }
    }
    for (int i = 0; i < c->n_threads; i++)
        pthread_join(threads[i], NULL);
    int error = atomic_load(&c->failed);
    if (!error && c->sync && fsync(c->out_fd))
        error = errno;
    double seconds = now() - begin;
    if (error)
        return system_error("copy to", c->out, error);
    uint64_t n_bytes = c->n_in + c->n_out;
    printf("{\"seconds\": %.6f, \"bytes_read\": %" PRIu64 ", \"bytes_written\": %" PRIu64
           ", \"threads\": %d, \"block_bytes\": %zu, \"fsync\": %s, \"gb_per_s\": %.3f}\n",
           seconds, c->n_in, c->n_out, c->n_threads, c->block_bytes, c->sync ? "true" : "false",
           (double)n_bytes / seconds * 1e-9);
    return 0;
}

int main(int argc, char **argv)
{
    struct copy c = {.n_threads = 2, .block_bytes = (size_t)4 << 20, .out_fd = -1};
    uint64_t value = 0;
    bool has_write = false;
    int i = 1;
    for (; i < argc && !strncmp(argv[i], "--", 2); i++) {
        if (!strcmp(argv[i], "--fsync")) {
            c.sync = true;
            continue;
        }
        if (i + 1 == argc || !parse_bytes(argv[i + 1], &value))
            return usage("an option needs a number");
        if (!strcmp(argv[i], "--threads") && value >= 1 && value <= MAX_THREADS)
            c.n_threads = (int)value;
        else if (!strcmp(argv[i], "--block") && value >= 4096 && value <= (uint64_t)1 << 30)
            c.block_bytes = (size_t)value;
        else if (!strcmp(argv[i], "--write") && value <= INT64_MAX)
            c.n_out = value, has_write = true;
        else
            return usage("an option is unknown or out of range");
        i++;
    }
    if (!has_write || argc - i < 2)
        return usage("--write, OUT and at least one INPUT are required");
    c.out = argv[i];
    c.n_inputs = argc - i - 1;
    c.names = (const char **)(argv + i + 1);
    c.fds = calloc((size_t)c.n_inputs, sizeof *c.fds);
    c.ends = calloc((size_t)c.n_inputs, sizeof *c.ends);
    int rc = c.fds && c.ends ? open_all(&c) : system_error("start", "it", ENOMEM);
    if (!rc)
        rc = run(&c);
    free(c.fds);
    free(c.ends);
    return rc; /* the files close with the process */
}
