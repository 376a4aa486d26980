/* case_memory.c: see case_memory.h. */
#include "case_memory.h"

#include "common/number_format.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void must(cudaError_t error, const char *what)
{
    if (error == cudaSuccess)
        return;
    printf("device_equality: %s: %s\n", what, cudaGetErrorString(error));
    exit(1);
}

void *host_memory(size_t n_bytes)
{
    void *p = aligned_alloc(4096, (n_bytes + 4095) / 4096 * 4096);

    if (!p) {
        printf("device_equality: out of memory\n");
        exit(1);
    }
    return p;
}

void buffers_open(struct buffers *b, uint64_t max_elems, int n_inputs)
{
    b->capacity = (size_t)max_elems * 8 + 2 * PAD_BYTES;
    CUDA(cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking));
    for (int i = 0; i < n_inputs; i++) {
        b->host[i] = host_memory(b->capacity);
        CUDA(cudaMalloc((void **)&b->device[i], b->capacity));
    }
    b->out = host_memory(b->capacity);
    b->device_out_home = host_memory(b->capacity);
    CUDA(cudaMalloc((void **)&b->device_out, b->capacity));
    CUDA(cudaMalloc((void **)&b->report, sizeof *b->report));
}

void buffers_close(struct buffers *b, int n_inputs)
{
    for (int i = 0; i < n_inputs; i++) {
        free(b->host[i]);
        CUDA(cudaFree(b->device[i]));
    }
    free(b->out);
    free(b->device_out_home);
    free(b->results);
    CUDA(cudaFree(b->device_out));
    CUDA(cudaFree(b->device_results));
    CUDA(cudaFree(b->weights));
    CUDA(cudaFree(b->report));
    CUDA(cudaStreamDestroy(b->stream));
}

size_t width_of(enum wm_dtype dtype)
{
    return dtype == WM_F64 ? 8 : dtype == WM_F32 ? 4 : 2;
}

static uint64_t next_random(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static double bell(uint64_t *state)
{
    uint64_t bits = next_random(state);

    return ((double)(bits & 0xffffff) + (double)(bits >> 24 & 0xffffff) - 16777216.0) / 6849000.0;
}

static void put(char *data, enum wm_dtype dtype, uint64_t i, double x)
{
    float single = (float)x;
    uint16_t half;

    switch (dtype) {
    case WM_F64: memcpy(data + 8 * i, &x, 8); break;
    case WM_F32: memcpy(data + 4 * i, &single, 4); break;
    default: half = dtype == WM_F16 ? f32_to_f16(single) : f32_to_bf16(single); memcpy(data + 2 * i, &half, 2);
    }
}

enum wm_dtype type_of(const struct grid_case *c, int input)
{
    return input == 0 ? c->types[0] : c->types[1 + input % 2];
}

void fill(const struct grid_case *c, struct buffers *b, int n_inputs, uint64_t n_elems)
{
    for (int i = 0; i < n_inputs; i++) {
        uint64_t base_state = 7, state = 100u + (uint64_t)i;
        char *data = b->host[i] + (c->shifted ? width_of(type_of(c, i)) : 0);
        memset(b->host[i], 0x5a, b->capacity < 4096 ? b->capacity : 4096);
        for (uint64_t e = 0; e < n_elems; e++) {
            double x = (double)bf16_to_f32(f32_to_bf16((float)(0.02 * bell(&base_state))));
            double delta = (double)bf16_to_f32(f32_to_bf16((float)(2e-4 * bell(&state))));
            uint64_t draw = next_random(&state);
            if (c->values == VALUES_EQUAL)
                delta = (draw & 3) == 0 ? 0.0 : (draw & 4) != 0 ? 0x1p-9 : -0x1p-9;
            if (i > 0)
                x += delta;
            if (c->values == VALUES_WILD && draw % 97 == 0)
                x = draw % 3 == 0 ? __builtin_inf() : draw % 3 == 1 ? -__builtin_inf() : __builtin_nan("");
            if (c->values == VALUES_WILD && draw % 89 == 1)
                x = draw & 8 ? 65504.0 : 3e38;
            put(data, type_of(c, i), e, x);
        }
        CUDA(cudaMemcpyAsync(b->device[i], b->host[i], b->capacity, cudaMemcpyHostToDevice, b->stream));
    }
    CUDA(cudaStreamSynchronize(b->stream));
}
