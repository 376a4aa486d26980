/*
 * test_nccl_api.c: our declarations of NCCL are those of its header, and the library that is installed has what we call.
 *
 * What lives here: comparisons with nccl.h, made by the compiler where there is one (a real one: the shim has none), and
 * as much of the real library as works without a GPU. What it must not know: comm.h.
 */
#include "cluster/nccl_api.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#if __has_include(<nccl.h>)
#include "nccl.h" /* the real one: searched for like <nccl.h> */

#define SAME(ours, theirs) _Static_assert((long long)(ours) == (long long)(theirs), #ours " is not " #theirs)
SAME(NCCL_API_SUCCESS, ncclSuccess);
SAME(NCCL_API_IN_PROGRESS, ncclInProgress);
SAME(NCCL_API_UINT8, ncclUint8);
SAME(NCCL_API_UINT64, ncclUint64);
SAME(NCCL_API_SUM, ncclSum);
SAME(NCCL_API_MIN_VERSION, NCCL_VERSION(2, 14, 0));
SAME(NCCL_API_ID_BYTES, NCCL_UNIQUE_ID_BYTES);
SAME(sizeof(struct nccl_id), sizeof(ncclUniqueId));
SAME(_Alignof(struct nccl_id), _Alignof(ncclUniqueId));
SAME(sizeof(enum nccl_result), sizeof(ncclResult_t));
SAME(sizeof(enum nccl_type), sizeof(ncclDataType_t));
SAME(sizeof(enum nccl_op), sizeof(ncclRedOp_t));
SAME(offsetof(struct nccl_config, size), offsetof(ncclConfig_t, size));
SAME(offsetof(struct nccl_config, magic), offsetof(ncclConfig_t, magic));
SAME(offsetof(struct nccl_config, version), offsetof(ncclConfig_t, version));
SAME(offsetof(struct nccl_config, blocking), offsetof(ncclConfig_t, blocking));
SAME(offsetof(struct nccl_config, undefined), offsetof(ncclConfig_t, cgaClusterSize));
SAME(sizeof(struct nccl_config), offsetof(ncclConfig_t, cgaClusterSize) + sizeof(int));

static void the_configuration_begins_like_ncclconfig(void **state)
{
    struct nccl_config ours = NCCL_API_NONBLOCKING;
    ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;

    (void)state;
    theirs.size = sizeof ours;
    theirs.version = NCCL_API_MIN_VERSION;
    theirs.blocking = 0;
    assert_memory_equal(&ours, &theirs, sizeof ours);
}
#else
static void the_configuration_begins_like_ncclconfig(void **state)
{
    (void)state;
    skip(); /* no nccl.h here */
}
#endif

static void versions_are_read(void **state)
{
    static const struct {
        int version;
        const char *text;
    } cases[] = {{22809, "2.28.9"}, {21400, "2.14.0"}, {2708, "2.7.8"}, {2804, "2.8.4"}, {20900, "2.9.0"}};
    char text[24];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(nccl_api_version_text(text, sizeof text, cases[i].version), cases[i].text);
}

static void the_installed_library_is_whole(void **state)
{
    struct wm_error err = WM_ERROR_INIT;
    struct nccl_api api;

    (void)state;
    if (nccl_api_load(&api, &err) != WM_OK) {
        assert_int_equal(err.status, WM_NO_DEVICE);
        assert_non_null(strstr(err.message, "cannot be loaded"));
        print_message("%s\n", err.message);
        skip();
    }
    assert_true(api.version >= NCCL_API_MIN_VERSION);
    assert_string_equal(api.get_error_string(NCCL_API_SUCCESS), "no error");
    assert_non_null(strstr(api.get_error_string(NCCL_API_IN_PROGRESS), "in progress"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_configuration_begins_like_ncclconfig),
        cmocka_unit_test(versions_are_read),
        cmocka_unit_test(the_installed_library_is_whole),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
