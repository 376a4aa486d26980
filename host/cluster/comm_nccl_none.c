/* comm_nccl_none.c: what stands in for comm_nccl.c in a build without CUDA. Knows nothing but to say so. */
#include "cluster/comm.h"

enum wm_status comm_open_nccl(struct comm **comm, struct comm *control, int device, struct wm_error *err)
{
    (void)comm;
    (void)control;
    (void)device;
    return error_set(err, WM_NO_DEVICE, "this build has no CUDA backend, so ranks do not speak through NCCL");
}
