/* Mounts: the innermost one of a path is found, with its type and the options that keep locks to one machine. */
#include "base/mount.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static const char table[] =
    "22 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw\n"
    "30 22 0:41 / /data rw,relatime shared:5 - nfs4 server:/export rw,vers=4.2,local_lock=none,addr=10.0.0.1\n"
    "31 30 0:42 / /data/a\\040b rw master:1 propagate_from:2 - nfs server:/a rw,vers=3,nolock,local_lock=all\n"
    "32 22 0:43 / /data2 rw - lustre 10.0.0.2@tcp:/fs rw,flock,lazystatfs\n"
    "33 22 0:44 / /scratch rw - lustre 10.0.0.2@tcp:/fs rw,localflock\n"
    "34 22 0:45 / /over rw - tmpfs tmpfs rw\n"
    "35 22 0:46 / /over rw - nfs server:/o rw,local_lock=flock\n"
    "36 22 0:47 / /posix rw - nfs server:/p rw,local_lock=posix\n"
    "cut off";

static void the_innermost_mount_counts(void **state)
{
    static const struct {
        const char *path, *point, *type, *local_locks;
    } cases[] = {
        {"/", "/", "ext4", ""},
        {"/home/me", "/", "ext4", ""},
        {"/data", "/data", "nfs4", ""},
        {"/data/merged", "/data", "nfs4", ""},
        {"/data/a b/merged", "/data/a b", "nfs", "local_lock=all"},
        {"/data2/merged", "/data2", "lustre", ""},
        {"/data23", "/", "ext4", ""},
        {"/scratch/x", "/scratch", "lustre", "localflock"},
        {"/over/x", "/over", "nfs", "local_lock=flock"},
        {"/posix", "/posix", "nfs", ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        FILE *file = fmemopen((void *)(size_t)table, sizeof table - 1, "r");
        struct mount m;
        assert_non_null(file);
        assert_true(mount_find(file, cases[i].path, &m));
        assert_string_equal(m.point, cases[i].point);
        assert_string_equal(m.type, cases[i].type);
        assert_string_equal(m.local_locks, cases[i].local_locks);
        fclose(file);
    }
}

/* Where there is a table it is on a mount of its own, also in a chroot, whose root is none. */
static void the_table_itself_is_found(void **state)
{
    struct mount m;

    (void)state;
    assert_true(mount_of("/proc/self", &m));
    assert_string_equal(m.point, "/proc");
    assert_string_equal(m.type, "proc");
    assert_false(mount_of("/no/such/path", &m));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_innermost_mount_counts),
        cmocka_unit_test(the_table_itself_is_found),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
