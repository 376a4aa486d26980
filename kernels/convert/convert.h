/* convert.h: changing the element type of a tensor without merging. */
#ifndef WM_KERNELS_CONVERT_H
#define WM_KERNELS_CONVERT_H

#include "warpmerge.h"

#include <stddef.h>

/* n elements of F32, F16, BF16 or F64 to another of these, through fp32 (so F64 to F64 rounds: copy bytes instead).
 * `out` must not overlap `in`. */
void cpu_convert_tile(const void *in, enum wm_dtype in_dtype, void *out, enum wm_dtype out_dtype, size_t n_elems);

#endif
