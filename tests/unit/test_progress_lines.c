/* What a watcher sees: lines when they are due and not more often, one rank that speaks for all and names the slow one,
 * the others silent but for problems, and a metrics file that is renewed every few seconds. */
#include "cli/cli.h"
#include "temp_dir.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define GB 1000000000ull

/* ---- standard error in a file ------------------------------------------------------------------------------- */

enum { max_text = 1 << 16 };
static int real_stderr = -1;

static void capture_begin(void)
{
    char path[128];
    int fd;

    snprintf(path, sizeof path, "%s/stderr", root);
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    fflush(stderr);
    real_stderr = dup(STDERR_FILENO);
    assert_true(fd >= 0 && real_stderr >= 0 && dup2(fd, STDERR_FILENO) >= 0);
    close(fd);
}

static const char *capture_end(void)
{
    static char text[max_text];
    ssize_t n;

    fflush(stderr);
    n = pread(STDERR_FILENO, text, sizeof text - 1, 0);
    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    assert_true(n >= 0);
    text[n] = '\0';
    return text;
}

static int count(const char *text, const char *what)
{
    int n = 0;

    for (; (text = strstr(text, what)) != NULL; text++)
        n++;
    return n;
}

#define assert_has(text, part)                                                                                         \
    do {                                                                                                               \
        if (!strstr(text, part))                                                                                       \
            fail_msg("missing \"%s\" in:\n%s", part, text);                                                            \
    } while (0)

/* ---- a merge that goes 1 GB a second ------------------------------------------------------------------------ */

static struct wm_progress at(const char *phase, double seconds)
{
    uint64_t written = (uint64_t)(seconds * (double)GB);

    return (struct wm_progress){.phase = phase,
                                .shard = "model-00001-of-00002.safetensors",
                                .seconds = seconds,
                                .read_rate = seconds > 0.0 ? 3e9 : 0.0,
                                .write_rate = seconds > 0.0 ? 1e9 : 0.0,
                                .bytes_read = 3 * written,
                                .bytes_to_read = 300 * GB,
                                .bytes_written = written,
                                .bytes_to_write = 100 * GB,
                                .n_tensors = 10};
}

/* As rank 0 of eight sees it; the others are as far. */
static struct wm_progress of_eight(double seconds, double slowest, double median)
{
    struct wm_progress now = at("merging", seconds);

    now.n_ranks = now.n_ranks_heard = 8;
    now.ranks_bytes_read = 8 * now.bytes_read;
    now.ranks_bytes_to_read = 8 * now.bytes_to_read;
    now.ranks_bytes_written = 8 * now.bytes_written;
    now.ranks_bytes_to_write = 8 * now.bytes_to_write;
    now.ranks_read_rate = 24e9;
    now.ranks_write_rate = 8e9;
    now.slowest_rate = slowest;
    now.median_rate = median;
    now.slowest_rank = 3;
    now.slowest_host = "node7";
    return now;
}

static const char *watch(enum cli_progress mode, int rank, int n_ranks, double seconds, double step)
{
    struct terminal t = {.rank = rank, .n_ranks = n_ranks, .json_lines = mode == PROGRESS_JSON};
    struct progress p;

    capture_begin();
    progress_init(&p, &t, mode);
    for (int i = 0; i * step <= seconds; i++) {
        struct wm_progress now = at("merging", i * step);
        now.rank = rank;
        now.n_ranks = n_ranks;
        progress_update(&p, &now);
    }
    return capture_end();
}

static void lines_come_when_they_are_due(void **state)
{
    const char *text;

    (void)state;
    text = watch(PROGRESS_PLAIN, 0, 0, 61, 0.2); /* the first, then every 10 s */
    assert_int_equal(count(text, "\n"), 7);
    assert_has(text, "merging: 0 %, 0 B of 100 GB, model-00001");
    assert_has(text, "merging: 20 %, 20.0 GB of 100 GB, read 3.00 GB/s, write 1.00 GB/s, 80 s left, model-00001");
    text = watch(PROGRESS_JSON, 0, 0, 9.9, 0.2); /* start, the phase, then one a second */
    assert_int_equal(count(text, "\n"), 11);
    assert_int_equal(count(text, "\"event\": \"start\""), 1);
    assert_int_equal(count(text, "\"event\": \"phase\""), 1);
    assert_int_equal(count(text, "\"event\": \"progress\""), 9);
    assert_has(text, "\"read_rate\": 3000000000, \"write_rate\": 1000000000");
    assert_int_equal(*watch(PROGRESS_NONE, 0, 0, 9.9, 0.2), 0);
}

/* What was found written already says nothing of the time left. */
static void what_is_resumed_took_no_time(void **state)
{
    struct terminal t = {0};
    struct progress p;

    (void)state;
    capture_begin();
    progress_init(&p, &t, PROGRESS_PLAIN);
    for (int i = 0; i <= 20; i++) {
        struct wm_progress now = at("merging", i);
        now.bytes_resumed = i ? 40 * GB : 0;
        now.bytes_written += now.bytes_resumed;
        progress_update(&p, &now);
    }
    assert_has(capture_end(), "merging: 50 %, 50.0 GB of 100 GB, read 3.00 GB/s, write 1.00 GB/s, 50 s left");
}

/* Hours between two lines that nothing happens in are no reason for a line each ten seconds. */
static void nothing_new_is_not_said(void **state)
{
    struct terminal t = {0};
    struct progress p;

    (void)state;
    capture_begin();
    progress_init(&p, &t, PROGRESS_PLAIN);
    for (int i = 0; i < 1000; i++) {
        struct wm_progress now = at("merging", 1);
        now.seconds = i;
        progress_update(&p, &now);
    }
    assert_int_equal(count(capture_end(), "\n"), 1);
}

static void a_new_phase_is_an_event(void **state)
{
    static const char *const phases[] = {"surveying", "surveying", "merging", "syncing", "finishing", "finishing"};
    struct terminal t = {.json_lines = true};
    struct progress p;
    const char *text;

    (void)state;
    capture_begin();
    progress_init(&p, &t, PROGRESS_JSON);
    for (int i = 0; i < 6; i++) {
        struct wm_progress now = at(phases[i], 0.1 * i);
        progress_update(&p, &now);
    }
    progress_end(&p, true);
    event_end(&t, 0, NULL, &p.latest);
    text = capture_end();
    assert_int_equal(count(text, "\n"), 6);
    assert_int_equal(count(text, "\"event\": \"phase\""), 4);
    assert_has(text, "\"exit_code\": 0, \"error\": null, \"phase\": \"finishing\"");
}

/* ---- ranks -------------------------------------------------------------------------------------------------- */

static const char *one_drawing(enum cli_progress mode, const struct wm_progress *now, const char *columns)
{
    struct terminal t = {.n_ranks = now->n_ranks, .utf8 = true, .can_redraw = true};
    struct progress p;

    setenv("COLUMNS", columns, 1);
    capture_begin();
    progress_init(&p, &t, mode);
    progress_update(&p, now);
    return capture_end();
}

static void rank_0_speaks_for_all(void **state)
{
    struct {
        double slowest, median;
        int n_heard;
        const char *host, *text;
    } cases[] = {
        {25e6, 100e6, 8, "node7", "8 ranks, slowest rank 3 on node7: 25.0 MB/s"},
        {25e6, 100e6, 5, "node7", "5 of 8 ranks, slowest rank 3 on node7: 25.0 MB/s"},
        {66e6, 100e6, 8, "node7", "8 ranks, slowest rank 3"},
        {67e6, 100e6, 8, "node7", "8 ranks\n"}, /* within the factor of 1.5 */
        {0, 0, 8, NULL, "8 ranks\n"},           /* not known yet */
        {0, 100e6, 8, "\033[2J", "8 ranks, slowest rank 3: 0 B/s"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct wm_progress now = of_eight(50, cases[i].slowest, cases[i].median);
        const char *text, *want = cases[i].text;
        char part[80];
        now.n_ranks_heard = cases[i].n_heard;
        now.slowest_host = cases[i].host;
        text = one_drawing(PROGRESS_PLAIN, &now, "80");
        assert_has(text, "merging: 50 %, 400 GB of 800 GB, read 24.0 GB/s, write 8.00 GB/s, ");
        assert_has(text, want);
        snprintf(part, sizeof part, "%.*s", (int)strcspn(want, "\n"), want);
        text = one_drawing(PROGRESS_BAR, &now, "240");
        assert_has(text, "50 %   400 GB of 800 GB   ");
        assert_has(text, part);
        assert_has(text, "   read 24.0 GB/s  write 8.00 GB/s");
        text = one_drawing(PROGRESS_BAR, &now, "80");
        assert_int_equal(count(text, "rank 3 is slow"), strstr(want, "slowest") != NULL);
        if (strchr(want, '\n'))
            assert_null(strstr(text, "slowest"));
        assert_null(strstr(text, "\033[2J"));
        assert_null(strstr(text, "safetensors")); /* whose? */
    }
}

/* Nine seconds at the average of all ranks so far, but only a slow one still works. */
static void the_time_left_is_that_of_who_still_works(void **state)
{
    struct terminal t = {.n_ranks = 8};
    struct progress p;

    (void)state;
    capture_begin();
    progress_init(&p, &t, PROGRESS_PLAIN);
    for (int i = 0; i < 2; i++) {
        struct wm_progress now = of_eight(90.0 * i, 0, 0);
        now.phase = i ? "waiting" : "merging";
        now.ranks_write_rate = 1e9;
        progress_update(&p, &now);
    }
    assert_has(capture_end(), "waiting: 90 %, 720 GB of 800 GB, read 24.0 GB/s, write 1.00 GB/s, 80 s left, 8 ranks\n");
}

/* Columns as a terminal counts them: no escapes, one for each character. */
static size_t n_columns(const char *s)
{
    size_t n = 0;

    for (; *s; s++)
        if (*s == '\033')
            s += strcspn(s, "mK");
        else
            n += *s != '\r' && ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

static void a_bar_keeps_within_its_line(void **state)
{
    struct wm_progress now = of_eight(50, 1, 100e6);
    char columns[8];

    (void)state;
    for (size_t width = 20; width < 300; width += 7) {
        snprintf(columns, sizeof columns, "%zu", width);
        assert_true(n_columns(one_drawing(PROGRESS_BAR, &now, columns)) < width);
    }
}

static void the_other_ranks_are_silent(void **state)
{
    struct terminal t = {.rank = 2, .n_ranks = 8};
    const char *text;

    (void)state;
    assert_int_equal(*watch(PROGRESS_PLAIN, 2, 8, 100, 0.2), 0);
    assert_int_equal(*watch(PROGRESS_BAR, 2, 8, 100, 0.2), 0);
    text = watch(PROGRESS_JSON, 2, 8, 4.9, 0.2);
    assert_int_equal(count(text, "\"rank\": 2, \"ranks\": 8"), 6);
    assert_int_equal(count(text, "ranks_bytes"), 0);
    capture_begin();
    terminal_say(&t, WM_NOTE, "nothing of importance");
    terminal_say(&t, WM_WARNING, "odd");
    terminal_say(&t, WM_ERROR, "bad");
    t.rank = 0;
    terminal_say(&t, WM_NOTE, "said once");
    t.n_ranks = 0;
    terminal_say(&t, WM_WARNING, "alone");
    assert_string_equal(capture_end(), "rank 2: warning: odd\nrank 2: error: bad\nrank 0: note: said once\n"
                                       "warning: alone\n");
}

static void events_of_rank_0_have_the_sums(void **state)
{
    struct terminal t = {.n_ranks = 8, .json_lines = true};
    struct wm_progress now = of_eight(50, 25e6, 100e6);
    const char *text;

    (void)state;
    capture_begin();
    event_progress(&t, "progress", &now);
    text = capture_end();
    assert_has(text, "\"bytes_written\": 50000000000, ");
    assert_has(text, "\"ranks_bytes_written\": 400000000000, \"ranks_bytes_to_write\": 800000000000, "
                     "\"ranks_read_rate\": 24000000000, \"ranks_write_rate\": 8000000000, "
                     "\"slowest_rank\": 3, \"slowest_rate\": 25000000, \"median_rate\": 100000000}\n");
}

/* ---- metrics ------------------------------------------------------------------------------------------------ */

static bool is_there(const char *name)
{
    char path[128];

    snprintf(path, sizeof path, "%s/%s", root, name);
    return unlink(path) == 0;
}

static void metrics_are_renewed_every_few_seconds(void **state)
{
    static const struct {
        const char *phase;
        double seconds;
        bool written;
    } steps[] = {{"merging", 0, true},     {"merging", 0.2, false}, {"merging", 4.9, false}, {"merging", 5.1, true},
                 {"merging", 10.0, false}, {"syncing", 10.1, true}, {"syncing", 15, false},  {"syncing", 15.2, true},
                 {"merging", 3600, true},  {"merging", 3601, false}};
    struct terminal t = {0};
    struct metrics m;
    char path[96];

    (void)state;
    snprintf(path, sizeof path, "%s/m.prom", root);
    metrics_init(&m, &t, path, NULL);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        struct wm_progress now = at(steps[i].phase, steps[i].seconds);
        metrics_update(&m, &now);
        assert_int_equal(is_there("m.prom"), steps[i].written);
    }
    metrics_end(&m, 75);
    assert_true(is_there("m.prom"));
    metrics_end(&m, 75); /* once */
    assert_false(is_there("m.prom"));
}

static void every_process_has_a_file(void **state)
{
    static const struct {
        const char *path, *file;
        struct terminal t;
    } cases[] = {
        {"m.prom", "m.prom", {.n_ranks = 1}},
        {"m.prom", "m.rank0.prom", {.n_ranks = 2}},
        {"m.prom", "m.rank11.prom", {.rank = 11, .n_ranks = 16}},
        {"m", "m.rank1", {.rank = 1, .n_ranks = 2}},
        {".m", ".m.rank1", {.rank = 1, .n_ranks = 2}},
        {"a.b/m", "a.b/m.rank1", {.rank = 1, .n_ranks = 2}},
        {"m.tar.gz", "m.tar.part3.gz", {.part = 3, .n_parts = 4}},
    };
    char path[128];

    (void)state;
    snprintf(path, sizeof path, "%s/a.b", root);
    assert_int_equal(mkdir(path, 0700), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct terminal t = cases[i].t;
        struct metrics m;
        snprintf(path, sizeof path, "%s/%s", root, cases[i].path);
        metrics_init(&m, &t, path, "out");
        metrics_end(&m, 0);
        assert_true(is_there(cases[i].file));
    }
}

static void rank_0_writes_the_sums(void **state)
{
    struct wm_progress now = of_eight(50, 25e6, 100e6);
    struct terminal t = {.n_ranks = 8};
    char path[96], text[8192] = "";
    struct metrics m;
    int fd;

    (void)state;
    snprintf(path, sizeof path, "%s/m.prom", root);
    metrics_init(&m, &t, path, NULL);
    metrics_update(&m, &now);
    snprintf(path, sizeof path, "%s/m.rank0.prom", root);
    fd = open(path, O_RDONLY);
    assert_true(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    close(fd);
    assert_has(text, "\nwarpmerge_bytes_written_total{rank=\"0\",ranks=\"8\"} 50000000000\n");
    assert_has(text, "\nwarpmerge_ranks_bytes_written{rank=\"0\",ranks=\"8\"} 400000000000\n");
    assert_has(text, "\nwarpmerge_slowest_rank{rank=\"0\",ranks=\"8\"} 3\n");
    metrics_end(&m, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_come_when_they_are_due),   cmocka_unit_test(what_is_resumed_took_no_time),
        cmocka_unit_test(nothing_new_is_not_said),        cmocka_unit_test(a_new_phase_is_an_event),
        cmocka_unit_test(rank_0_speaks_for_all),          cmocka_unit_test(the_time_left_is_that_of_who_still_works),
        cmocka_unit_test(a_bar_keeps_within_its_line),    cmocka_unit_test(the_other_ranks_are_silent),
        cmocka_unit_test(events_of_rank_0_have_the_sums), cmocka_unit_test(metrics_are_renewed_every_few_seconds),
        cmocka_unit_test(every_process_has_a_file),       cmocka_unit_test(rank_0_writes_the_sums),
    };

    return cmocka_run_group_tests(tests, root_set_up, root_tear_down);
}
