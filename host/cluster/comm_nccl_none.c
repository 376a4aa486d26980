/* comm_nccl_none.c: what stands in for comm_nccl.c in a build without CUDA. Knows nothing but to say so. */
#include "cluster/comm.h"

#include <stdio.h>

enum wm_status comm_open_nccl(struct comm **comm, struct comm *control, int device, struct wm_error *err)
{
    (void)comm;
    (void)control;
    (void)device;
    return error_set(err, WM_NO_DEVICE, "this build has no CUDA backend, so ranks do not speak through NCCL");
}

const char *comm_describe(const struct comm *comm, char *buffer, size_t size)
{
    snprintf(buffer, size, "%s", comm->ops->name);
    return buffer;
}
