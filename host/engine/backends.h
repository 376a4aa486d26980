/* backends.h: the devices of one run. See backends.c. */
#ifndef WM_ENGINE_BACKENDS_H
#define WM_ENGINE_BACKENDS_H

#include "engine/backend.h"
#include "engine/engine.h"

#define BACKENDS_MAX        ENGINE_MAX_DEVICES
#define BACKENDS_NAME_BYTES 80

struct backends {
    struct backend *items[BACKENDS_MAX]; /* the CPU's alone, or one for each GPU */
    int n_items, threads_per_backend;
    bool has_devices;
    struct plan_memory memory;        /* the plan's, or with smaller tiles where the plan's do not fit a device */
    struct plan_device_memory device; /* what every device has, as far as plan_use_device goes by it */
    char notice[WM_ERROR_BYTES];      /* of devices that are not used as they might be; "" */
};

/* n_sharing: processes that open the same device, each of which takes its share of the memory.
 * WM_NO_DEVICE when a GPU was asked for and there is none that can be used. With --device auto the CPU does the work then;
 * of several GPUs those that can be used do. */
enum wm_status backends_open(const struct plan *plan, const struct wm_options *options, int n_sharing,
                             struct backends *backends, struct wm_error *err);
/* What is read, and how much of the host's memory that takes, goes by the devices that there are. */
void backends_fit_plan(const struct backends *backends, struct plan *plan);
/* The one GPU that a process of several on a machine uses, counted from 0; -1: none, or more than one. */
int backends_own_device(const struct wm_options *options);
/* Names that one among all machines; "" when it is none, or more than one. */
void backends_name_device(const struct wm_options *options, char name[BACKENDS_NAME_BYTES]);
void backends_close(struct backends *backends);
/* Goes on without the devices that were lost: the others, or the CPU. */
enum wm_status backends_drop_lost(const struct plan *plan, struct backends *backends, struct wm_error *err);

#endif
