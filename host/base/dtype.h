/* dtype.h: facts about element types: their names in safetensors headers and their width. Knows no arithmetic. */
#ifndef WM_BASE_DTYPE_H
#define WM_BASE_DTYPE_H

#include "warpmerge.h"

#include <stdbool.h>

const char *dtype_name(enum wm_dtype dtype);              /* "BF16"; static */
unsigned dtype_bits(enum wm_dtype dtype);                 /* 4..64 */
bool dtype_parse(const char *name, enum wm_dtype *dtype); /* exact, case-sensitive safetensors names */
/* Types whose values we compute with: F16, BF16, F32, F64. */
bool dtype_is_float(enum wm_dtype dtype);
/* "bfloat16", "torch.float16", "float32" as mergekit writes them; false for anything else. */
bool dtype_parse_torch(const char *name, enum wm_dtype *dtype);
const char *dtype_torch_name(enum wm_dtype dtype); /* "bfloat16"; NULL where torch has none we write */

#endif
