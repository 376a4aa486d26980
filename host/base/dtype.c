/* dtype.c: see dtype.h. */
#include "base/dtype.h"

#include <string.h>

static const struct {
    const char *name, *torch;
    unsigned bits;
} table[WM_N_DTYPES] = {
    [WM_BOOL] = {"BOOL", "bool", 8},
    [WM_F4] = {"F4", NULL, 4},
    [WM_F6_E2M3] = {"F6_E2M3", NULL, 6},
    [WM_F6_E3M2] = {"F6_E3M2", NULL, 6},
    [WM_U8] = {"U8", "uint8", 8},
    [WM_I8] = {"I8", "int8", 8},
    [WM_F8_E5M2] = {"F8_E5M2", "float8_e5m2", 8},
    [WM_F8_E4M3] = {"F8_E4M3", "float8_e4m3fn", 8},
    [WM_F8_E8M0] = {"F8_E8M0", "float8_e8m0fnu", 8},
    [WM_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", "float8_e4m3fnuz", 8},
    [WM_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", "float8_e5m2fnuz", 8},
    [WM_I16] = {"I16", "int16", 16},
    [WM_U16] = {"U16", "uint16", 16},
    [WM_F16] = {"F16", "float16", 16},
    [WM_BF16] = {"BF16", "bfloat16", 16},
    [WM_I32] = {"I32", "int32", 32},
    [WM_U32] = {"U32", "uint32", 32},
    [WM_F32] = {"F32", "float32", 32},
    [WM_C64] = {"C64", "complex64", 64},
    [WM_F64] = {"F64", "float64", 64},
    [WM_I64] = {"I64", "int64", 64},
    [WM_U64] = {"U64", "uint64", 64},
};

const char *dtype_name(enum wm_dtype dtype)
{
    return (unsigned)dtype < WM_N_DTYPES ? table[dtype].name : "?";
}

unsigned dtype_bits(enum wm_dtype dtype)
{
    return (unsigned)dtype < WM_N_DTYPES ? table[dtype].bits : 0;
}

const char *dtype_torch_name(enum wm_dtype dtype)
{
    return (unsigned)dtype < WM_N_DTYPES ? table[dtype].torch : NULL;
}

bool dtype_parse(const char *name, enum wm_dtype *dtype)
{
    for (int i = 0; i < WM_N_DTYPES; i++) {
        if (strcmp(name, table[i].name) == 0) {
            *dtype = (enum wm_dtype)i;
            return true;
        }
    }
    return false;
}

bool dtype_is_float(enum wm_dtype dtype)
{
    return dtype == WM_F16 || dtype == WM_BF16 || dtype == WM_F32 || dtype == WM_F64;
}

bool dtype_parse_torch(const char *name, enum wm_dtype *dtype)
{
    if (strncmp(name, "torch.", 6) == 0)
        name += 6;
    for (int i = 0; i < WM_N_DTYPES; i++) {
        if (table[i].torch && strcmp(name, table[i].torch) == 0) {
            *dtype = (enum wm_dtype)i;
            return true;
        }
    }
    return false;
}
