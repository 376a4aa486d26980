/* nccl_api.c: see nccl_api.h. */
#include "cluster/nccl_api.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    size_t at; /* of the function pointer in struct nccl_api */
} symbols[] = {
    {"ncclGetVersion", offsetof(struct nccl_api, get_version)},
    {"ncclGetUniqueId", offsetof(struct nccl_api, get_unique_id)},
    {"ncclCommInitRankConfig", offsetof(struct nccl_api, comm_init_rank_config)},
    {"ncclCommGetAsyncError", offsetof(struct nccl_api, comm_get_async_error)},
    {"ncclCommFinalize", offsetof(struct nccl_api, comm_finalize)},
    {"ncclCommDestroy", offsetof(struct nccl_api, comm_destroy)},
    {"ncclCommAbort", offsetof(struct nccl_api, comm_abort)},
    {"ncclAllReduce", offsetof(struct nccl_api, all_reduce)},
    {"ncclAllGather", offsetof(struct nccl_api, all_gather)},
    {"ncclGetErrorString", offsetof(struct nccl_api, get_error_string)},
    {"ncclGetLastError", offsetof(struct nccl_api, get_last_error)},
};

const char *nccl_api_version_text(char *buffer, size_t size, int version)
{
    int major = version / 10000, minor = version % 10000 / 100;

    if (version < 10000) { /* up to 2.8 the number had one digit less (nccl.h, NCCL_VERSION) */
        major = version / 1000;
        minor = version % 1000 / 100;
    }
    snprintf(buffer, size, "%d.%d.%d", major, minor, version % 100);
    return buffer;
}

/* The version is asked for first: what an old library lacks is then said as its age. */
static enum wm_status check_version(struct nccl_api *api, const char *path, void *library, struct wm_error *err)
{
    void *function = dlsym(library, "ncclGetVersion");
    char have[24], least[24];

    if (!function)
        return error_set(err, WM_NO_DEVICE, "%s is not NCCL: it has no ncclGetVersion; check " NCCL_API_VARIABLE, path);
    memcpy(&api->get_version, &function, sizeof function);
    if (api->get_version(&api->version) != NCCL_API_SUCCESS)
        return error_set(err, WM_NO_DEVICE, "%s does not tell its version; check " NCCL_API_VARIABLE, path);
    if (api->version < NCCL_API_MIN_VERSION)
        return error_set(err, WM_NO_DEVICE,
                         "%s is NCCL %s, and %s or newer is needed; install one or name it in " NCCL_API_VARIABLE, path,
                         nccl_api_version_text(have, sizeof have, api->version),
                         nccl_api_version_text(least, sizeof least, NCCL_API_MIN_VERSION));
    return WM_OK;
}

enum wm_status nccl_api_load(struct nccl_api *api, struct wm_error *err)
{
    const char *named = secure_getenv(NCCL_API_VARIABLE), *path = named && *named ? named : NCCL_API_LIBRARY;
    enum wm_status st;
    void *library;

    memset(api, 0, sizeof *api);
    if (strcmp(path, "none") == 0)
        return error_set(err, WM_NO_DEVICE, NCCL_API_VARIABLE " is none: NCCL is not to be used");
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *why = dlerror();
        return error_set(err, WM_NO_DEVICE,
                         "NCCL cannot be loaded: %s; install it, or name the file in " NCCL_API_VARIABLE,
                         why ? why : path);
    }
    st = check_version(api, path, library, err);
    for (size_t i = 0; st == WM_OK && i < sizeof symbols / sizeof *symbols; i++) {
        void *function = dlsym(library, symbols[i].name);
        if (!function)
            st = error_set(err, WM_NO_DEVICE, "%s has no %s; install a whole NCCL or name it in " NCCL_API_VARIABLE,
                           path, symbols[i].name);
        memcpy((char *)api + symbols[i].at, &function, sizeof function);
    }
    return st;
}
