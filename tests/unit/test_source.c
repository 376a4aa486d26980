/* Byte sources: every offset and length gives the file's bytes, buffered and past the page cache, in a buffer of the
 * documented size and nowhere else; a changed or shrunken file is an error; memory and faulty sources do as they say. */
#include "checkpoint/source.h"
#include "temp_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/uio.h>
#include <time.h>

#include <cmocka.h>

#define N_FILE (5 * SOURCE_ALIGN + 123)

static char path[CORPUS_PATH_BYTES];
static unsigned char content[N_FILE];

static int set_up(void **state)
{
    root_set_up(state);
    corpus_path(path, "%s/file", root);
    for (size_t i = 0; i < sizeof content; i++)
        content[i] = (unsigned char)(i * 2654435761u >> 13);
    corpus_write(path, content, sizeof content);
    return 0;
}

static const enum wm_direct_io modes[] = {WM_DIRECT_AUTO, WM_DIRECT_ON, WM_DIRECT_OFF};

static void assert_reads(struct source *source, uint64_t offset, size_t n)
{
    enum { guard = 64 };
    size_t n_buffer = SOURCE_BUFFER_BYTES(n);
    unsigned char *block = aligned_alloc(SOURCE_ALIGN, n_buffer + SOURCE_ALIGN);
    struct wm_error err = WM_ERROR_INIT;
    const void *data = NULL;

    assert_non_null(block);
    memset(block + n_buffer, 0xA5, guard);
    if (source_read(source, offset, n, block, &data, &err) != WM_OK)
        fail_msg("%zu bytes at %llu: %s", n, (unsigned long long)offset, err.message);
    assert_non_null(data);
    assert_true((const unsigned char *)data >= block && (const unsigned char *)data + n <= block + n_buffer);
    assert_memory_equal(data, content + offset, n);
    for (int i = 0; i < guard; i++)
        assert_int_equal(block[n_buffer + (size_t)i], 0xA5);
    free(block);
}

static void all_ranges_of_a_file_are_read(void **state)
{
    static const uint64_t edges[] = {0,          1,     7,    511,  512,  513,          4095,         4096,
                                     4097,       8191,  8192, 8193, 9000, N_FILE - 124, N_FILE - 123, N_FILE - 122,
                                     N_FILE - 1, N_FILE};

    (void)state;
    for (int m = 0; m < 3; m++) {
        struct wm_error err = WM_ERROR_INIT;
        struct source *source;
        assert_int_equal(source_open_file(&source, path, NULL, modes[m], &err), WM_OK);
        assert_int_equal(source_size(source), N_FILE);
        for (size_t i = 0; i < sizeof edges / sizeof *edges; i++)
            for (size_t k = i; k < sizeof edges / sizeof *edges; k++)
                assert_reads(source, edges[i], (size_t)(edges[k] - edges[i]));
        source_close(source);
    }
    source_close(NULL);
}

static void files_of_odd_sizes_are_read(void **state)
{
    static const size_t sizes[] = {0, 1, 511, 4095, 4096, 4097};

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int m = 0; m < 3; m++) {
            struct wm_error err = WM_ERROR_INIT;
            struct source *source;
            corpus_write(path, content, sizes[i]);
            assert_int_equal(source_open_file(&source, path, NULL, modes[m], &err), WM_OK);
            assert_int_equal(source_size(source), sizes[i]);
            assert_reads(source, 0, sizes[i]);
            source_close(source);
        }
}

static void reads_past_the_end_are_refused(void **state)
{
    static const struct {
        uint64_t offset;
        size_t n;
    } cases[] = {{0, N_FILE + 1}, {N_FILE, 1}, {N_FILE + 1, 0}, {UINT64_MAX, 1}, {UINT64_MAX - 5, 100}, {1, SIZE_MAX}};
    struct wm_error err = WM_ERROR_INIT;
    struct source *sources[2];
    void *buffer = aligned_alloc(SOURCE_ALIGN, SOURCE_BUFFER_BYTES(N_FILE));

    (void)state;
    assert_non_null(buffer);
    assert_int_equal(source_open_file(&sources[0], path, NULL, WM_DIRECT_OFF, &err), WM_OK);
    assert_int_equal(source_open_memory(&sources[1], content, N_FILE, &err), WM_OK);
    for (int s = 0; s < 2; s++) {
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            const void *data = buffer;
            err = (struct wm_error)WM_ERROR_INIT;
            assert_int_equal(source_read(sources[s], cases[i].offset, cases[i].n, buffer, &data, &err), WM_BUG);
            assert_null(data);
        }
        source_close(sources[s]);
    }
    free(buffer);
}

static void changed_files_are_refused(void **state)
{
    struct wm_error err = WM_ERROR_INIT;
    struct file_identity id, other;
    struct source *source;
    int fd;

    (void)state;
    assert_int_equal(file_open_read(&fd, path, NULL, &id, &err), WM_OK);
    file_close(&fd);
    assert_int_equal(source_open_file(&source, path, &id, WM_DIRECT_AUTO, &err), WM_OK);
    source_close(source);
    for (int field = 0; field < 4; field++) {
        other = id;
        if (field == 0)
            other.n_bytes--;
        else if (field == 1)
            other.inode++;
        else if (field == 2)
            other.device++;
        else
            other.mtime_ns++;
        err = (struct wm_error)WM_ERROR_INIT;
        assert_int_equal(source_open_file(&source, path, &other, WM_DIRECT_AUTO, &err), WM_BAD_DATA);
        assert_null(source);
        assert_non_null(strstr(err.message, path));
        assert_non_null(strstr(err.message, "[FILE_CHANGED]"));
    }
    err = (struct wm_error)WM_ERROR_INIT;
    temp_dir_remove(path);
    assert_int_equal(source_open_file(&source, path, &id, WM_DIRECT_AUTO, &err), WM_NO_INPUT);
    assert_null(source);
}

/* The file loses its end while it is open: an error that names it, no signal. */
static void shrunken_files_are_an_error(void **state)
{
    void *buffer = aligned_alloc(SOURCE_ALIGN, SOURCE_BUFFER_BYTES(N_FILE));

    (void)state;
    assert_non_null(buffer);
    for (int m = 0; m < 3; m++) {
        struct wm_error err = WM_ERROR_INIT;
        struct source *source;
        const void *data;
        corpus_write(path, content, N_FILE);
        assert_int_equal(source_open_file(&source, path, NULL, modes[m], &err), WM_OK);
        assert_int_equal(truncate(path, 8192), 0);
        assert_int_equal(source_read(source, 4096, 8192, buffer, &data, &err), WM_IO);
        assert_non_null(strstr(err.message, path));
        source_close(source);
    }
    free(buffer);
}

static int n_reads, fail_read;

static int fail_nth_read(enum file_call call, const char *unused)
{
    (void)unused;
    return call == FILE_READ && ++n_reads == fail_read ? EIO : 0;
}

static void a_failing_read_is_an_error(void **state)
{
    struct wm_error err = WM_ERROR_INIT;
    struct source *source;
    void *buffer = aligned_alloc(SOURCE_ALIGN, SOURCE_BUFFER_BYTES(100));
    const void *data;

    (void)state;
    assert_non_null(buffer);
    assert_int_equal(source_open_file(&source, path, NULL, WM_DIRECT_OFF, &err), WM_OK);
    n_reads = 0;
    fail_read = 2;
    file_fault = fail_nth_read;
    assert_int_equal(source_read(source, 0, 100, buffer, &data, &err), WM_OK);
    assert_int_equal(source_read(source, 0, 100, buffer, &data, &err), WM_IO);
    assert_null(data);
    assert_non_null(strstr(err.message, path));
    source_close(source);
    /* Where the trial read of O_DIRECT fails, the page cache serves. */
    err = (struct wm_error)WM_ERROR_INIT;
    n_reads = 0;
    fail_read = 1;
    assert_int_equal(source_open_file(&source, path, NULL, WM_DIRECT_ON, &err), WM_OK);
    file_fault = NULL;
    assert_reads(source, 5, 100);
    source_close(source);
    free(buffer);
}

static void memory_and_faulty_sources(void **state)
{
    struct wm_error err = WM_ERROR_INIT;
    struct source *memory, *faulty;
    const void *data;

    (void)state;
    assert_int_equal(source_open_memory(&memory, content, N_FILE, &err), WM_OK);
    assert_int_equal(source_open_faulty(&faulty, memory, 2, &err), WM_OK);
    assert_int_equal(source_size(faulty), N_FILE);
    assert_int_equal(source_read(faulty, 10, 20, NULL, &data, &err), WM_OK);
    assert_ptr_equal(data, content + 10);
    assert_int_equal(source_read(faulty, 10, 20, NULL, &data, &err), WM_IO);
    assert_null(data);
    assert_int_equal(source_read(faulty, N_FILE, 0, NULL, &data, &err), WM_OK);
    source_close(faulty);
}

/* ---- past the page cache or through it ---------------------------------------------------------------------- */

/* Where the bytes of offset 1 land tells: O_DIRECT reads the enclosing page, the page cache just the bytes. */
static bool reads_direct(enum wm_direct_io mode)
{
    struct wm_error err = WM_ERROR_INIT;
    unsigned char *buffer = aligned_alloc(SOURCE_ALIGN, SOURCE_BUFFER_BYTES(1));
    struct source *source;
    const void *data;
    bool direct;

    assert_non_null(buffer);
    assert_int_equal(source_open_file(&source, path, NULL, mode, &err), WM_OK);
    assert_int_equal(source_read(source, 1, 1, buffer, &data, &err), WM_OK);
    direct = data != buffer;
    source_close(source);
    free(buffer);
    return direct;
}

static void auto_asks_the_page_cache(void **state)
{
    enum { n_large = 4 << 20 };
    unsigned char *large = calloc(1, n_large);
    int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    char byte;
    struct iovec piece = {&byte, 1};
    const struct timespec pause = {0, 10000000};
    bool still_cached = true, direct = false;

    (void)state;
    assert_non_null(large);
    corpus_write(path, large, n_large);
    free(large);
    assert_false(reads_direct(WM_DIRECT_OFF));
    if (fd < 0) { /* tmpfs before Linux 6.6 */
        assert_false(reads_direct(WM_DIRECT_ON));
        skip();
    }
    close(fd);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_true(reads_direct(WM_DIRECT_ON));
    assert_false(reads_direct(WM_DIRECT_AUTO)); /* just written, so cached */
    assert_int_equal(fsync(fd), 0);
    for (int i = 0; still_cached && i < 100; i++) { /* pages that a processor still holds in a batch stay */
        assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
        still_cached = preadv2(fd, &piece, 1, n_large / 2, RWF_NOWAIT) >= 0 || errno != EAGAIN;
        nanosleep(&pause, NULL);
    }
    if (still_cached) /* a file system that keeps its pages, or cannot tell */
        skip();
    for (int i = 0; !direct && i < 100; i++) { /* the probe looks at other pages than the one above */
        assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
        direct = reads_direct(WM_DIRECT_AUTO);
        nanosleep(&pause, NULL);
    }
    close(fd);
    assert_true(direct);
}

/* ---- threads ------------------------------------------------------------------------------------------------ */

/* pthreads, not <threads.h>: ThreadSanitizer of GCC 12 does not know thrd_create and crashes in the new thread. Returns
 * NULL when every byte was right. */
static void *read_much(void *user)
{
    struct source *source = user;
    unsigned char *buffer = aligned_alloc(SOURCE_ALIGN, SOURCE_BUFFER_BYTES(5000));
    int n_wrong = buffer == NULL;

    for (unsigned i = 0; i < 500 && !n_wrong; i++) {
        uint64_t offset = (uint64_t)i * 7919 % (N_FILE - 5000);
        struct wm_error err = WM_ERROR_INIT;
        const void *data;
        n_wrong = source_read(source, offset, 5000, buffer, &data, &err) != WM_OK ||
                  memcmp(data, content + offset, 5000) != 0;
    }
    free(buffer);
    return n_wrong ? source : NULL;
}

static void threads_share_a_source(void **state)
{
    (void)state;
    for (int m = 0; m < 3; m++) {
        struct wm_error err = WM_ERROR_INIT;
        struct source *source;
        pthread_t threads[4];
        int n_wrong = 0;
        assert_int_equal(source_open_file(&source, path, NULL, modes[m], &err), WM_OK);
        for (int i = 0; i < 4; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, read_much, source), 0);
        for (int i = 0; i < 4; i++) {
            void *result;
            assert_int_equal(pthread_join(threads[i], &result), 0);
            n_wrong += result != NULL;
        }
        assert_int_equal(n_wrong, 0);
        source_close(source);
    }
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, root_tear_down)
    static const struct CMUnitTest tests[] = {
        CASE(all_ranges_of_a_file_are_read), CASE(files_of_odd_sizes_are_read), CASE(reads_past_the_end_are_refused),
        CASE(changed_files_are_refused),     CASE(shrunken_files_are_an_error), CASE(a_failing_read_is_an_error),
        CASE(memory_and_faulty_sources),     CASE(auto_asks_the_page_cache),    CASE(threads_share_a_source),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
