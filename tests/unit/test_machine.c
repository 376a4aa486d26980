/* What control groups leave to a process: the tightest limit from its group up to the root, of either version of them. */
#include "base/machine.h"
#include "support/fixture.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct limits {
    const char *name;
    const char *files[8][2]; /* path and text */
    int n_processors;
    uint64_t n_bytes;
};

static const struct limits cases[] = {
    {"nothing at all", {{NULL, NULL}}, 0, 0},
    {"version 2, none",
     {{"proc/self/cgroup", "0::/a\n"},
      {"sys/fs/cgroup/a/cpu.max", "max 100000\n"},
      {"sys/fs/cgroup/a/memory.max", "max\n"}},
     0,
     0},
    {"version 2",
     {{"proc/self/cgroup", "0::/a\n"},
      {"sys/fs/cgroup/a/cpu.max", "800000 100000\n"},
      {"sys/fs/cgroup/a/memory.max", "1073741824\n"}},
     8,
     1073741824},
    {"a part of a processor counts",
     {{"proc/self/cgroup", "0::/\n"}, {"sys/fs/cgroup/cpu.max", "150000 100000\n"}},
     2,
     0},
    {"less than one", {{"proc/self/cgroup", "0::/\n"}, {"sys/fs/cgroup/cpu.max", "5000 100000\n"}}, 1, 0},
    {"the group above is tighter",
     {{"proc/self/cgroup", "0::/a/b\n"},
      {"sys/fs/cgroup/a/b/cpu.max", "800000 100000\n"},
      {"sys/fs/cgroup/a/cpu.max", "300000 100000\n"},
      {"sys/fs/cgroup/a/b/memory.max", "max\n"},
      {"sys/fs/cgroup/a/memory.max", "4096\n"}},
     3,
     4096},
    {"a container: the host's name, our files at the root",
     {{"proc/self/cgroup", "0::/kubepods/x\n"}, {"sys/fs/cgroup/cpu.max", "400000 100000\n"}},
     4,
     0},
    {"version 1",
     {{"proc/self/cgroup", "5:cpuacct,cpu:/a\n4:memory:/m\n1:cpuset:/s\n"},
      {"sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "250000\n"},
      {"sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "50000\n"},
      {"sys/fs/cgroup/memory/m/memory.limit_in_bytes", "8192\n"}},
     5,
     8192},
    {"version 1, none",
     {{"proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/\n"},
      {"sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "-1\n"},
      {"sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n"},
      {"sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"}},
     0,
     0},
    {"not a number",
     {{"proc/self/cgroup", "0::/\n"}, {"sys/fs/cgroup/cpu.max", "many\n"}, {"sys/fs/cgroup/memory.max", "-5\n"}},
     0,
     0},
};

static void make_folders(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        (void)mkdir(path, 0700);
        *slash = '/';
    }
}

static void the_tightest_limit_holds(void **state)
{
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct fixture f;
        char root[512];

        fixture_init(&f);
        snprintf(root, sizeof root, "%s", fixture_path(&f, ""));
        root[strlen(root) - 1] = '\0';
        for (size_t i = 0; i < 8 && cases[c].files[i][0]; i++) {
            char path[1024];
            snprintf(path, sizeof path, "%s", fixture_path(&f, cases[c].files[i][0]));
            make_folders(path);
            fixture_write_file(&f, cases[c].files[i][0], cases[c].files[i][1]);
        }
        if (machine_quota_below(root) != cases[c].n_processors || machine_memory_limit_below(root) != cases[c].n_bytes)
            fail_msg("%s: %d processors, %llu bytes", cases[c].name, machine_quota_below(root),
                     (unsigned long long)machine_memory_limit_below(root));
        fixture_release(&f);
    }
}

static void there_is_always_a_processor(void **state)
{
    cpu_set_t all, one;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    assert_in_range(machine_processors(), 1, CPU_COUNT(&all));
    if (sysconf(_SC_NPROCESSORS_ONLN) == 1)
        return;
    CPU_ZERO(&one);
    for (int p = 0; p < CPU_SETSIZE && !CPU_COUNT(&one); p++)
        if (CPU_ISSET(p, &all))
            CPU_SET(p, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(machine_processors(), 1);
    assert_true(machine_is_bound());
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_tightest_limit_holds),
                                       cmocka_unit_test(there_is_always_a_processor)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
