/* families.h: the descriptors that methods.def names, and what their prepare functions share. For kernels/methods only. */
#ifndef WM_KERNELS_FAMILIES_H
#define WM_KERNELS_FAMILIES_H

#include "methods/method.h"

#define METHOD(symbol) extern const struct method symbol;
#include "methods/methods.def"
#undef METHOD

#define METHOD_COUNT_PARAMS(params) ((int)(sizeof(params) / sizeof((params)[0])))

/* What every operation starts from: sizes, keep everything, weights and scales 1, lambda 1. */
void method_start_op(struct merge_op *op, const struct method *method, const struct method_args *args);

/* A weight as the arithmetic sees it: rounded to fp32 once. WM_BAD_CONFIG when it is not finite there. */
enum wm_status method_weight(float *weight, double value, const char *name, char message[256]);

#endif
