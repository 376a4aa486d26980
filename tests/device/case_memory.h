/*
 * case_memory.h: the tensors of one case of device_equality.c, on the host and on the device.
 *
 * What lives here: their memory, and what they are filled with. What it must not know: what is computed of them.
 */
#ifndef WM_TESTS_DEVICE_CASE_MEMORY_H
#define WM_TESTS_DEVICE_CASE_MEMORY_H

#include "grid.h"

#include "methods/device.h"

#include <stddef.h>

#define MAX_INPUTS TILE_MAX_INPUTS
#define PAD_BYTES  256 /* guard behind every tensor; also room to shift it by one element */

struct buffers {
    char *host[MAX_INPUTS], *device[MAX_INPUTS];
    char *out, *device_out, *device_out_home;
    size_t capacity;
    char *results, *device_results;
    uint64_t results_capacity;
    float *weights;
    size_t weights_capacity;
    struct device_report *report;
    cudaStream_t stream;
};

/* Ends the program with a sentence. */
void must(cudaError_t error, const char *what);
#define CUDA(call) must((call), #call)
void *host_memory(size_t n_bytes);

void buffers_open(struct buffers *b, uint64_t max_elems, int n_inputs);
void buffers_close(struct buffers *b, int n_inputs);

size_t width_of(enum wm_dtype dtype);
enum wm_dtype type_of(const struct grid_case *c, int input);
/* The inputs on both sides. Base and fine-tunes are rounded to bf16 first, so that equal magnitudes are common in every type. */
void fill(const struct grid_case *c, struct buffers *b, int n_inputs, uint64_t n_elems);

#endif
