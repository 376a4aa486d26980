/* need.h: what a fuzz target is, and its way to say that a promise was broken. */
#ifndef WM_TESTS_FUZZ_NEED_H
#define WM_TESTS_FUZZ_NEED_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

#define NEED(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            abort();                                                                                                   \
    } while (0)

#endif
