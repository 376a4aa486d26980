/*
 * planted.h: the list of small programs that hold one bug each, and what they share.
 *
 * What lives here: the table's type and the buffers every case needs. Each case runs with its bug or without, from the
 * same kernel source: what test_planted.py expects of the first must never come from the second. What it must not know:
 * which means catches which bug (test_planted.py).
 */
#ifndef CUDA_ON_CPU_PLANTED_H
#define CUDA_ON_CPU_PLANTED_H

#include "common/launch.cuh"

#include <stdio.h>
#include <stdlib.h>

struct planted_case {
    const char *name;
    bool (*run)(bool bug); /* false: the numbers came out wrong */
};

extern const planted_case BLOCK_CASES[], BOUNDS_CASES[], WARP_CASES[], STREAM_CASES[]; /* ended by a null name */

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        cudaError_t check_error = (call);                                                                              \
        if (check_error != cudaSuccess) {                                                                              \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorName(check_error));                         \
            exit(3);                                                                                                   \
        }                                                                                                              \
    } while (0)

/* One stream, n floats of pinned memory that hold 1, 2, 3 ... and as many on the device. */
struct Bench {
    size_t n;
    cudaStream_t stream;
    float *host, *device;

    explicit Bench(size_t n_elems) : n(n_elems)
    {
        CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        CHECK(cudaMallocHost(&host, n * sizeof *host));
        CHECK(cudaMalloc(&device, n * sizeof *device));
        for (size_t i = 0; i < n; i++)
            host[i] = (float)(i + 1);
        CHECK(cudaMemcpyAsync(device, host, n * sizeof *host, cudaMemcpyHostToDevice, stream));
    }
    ~Bench()
    {
        CHECK(cudaFree(device));
        CHECK(cudaFreeHost(host));
        CHECK(cudaStreamDestroy(stream));
    }
    Bench(const Bench &) = delete;
    Bench &operator=(const Bench &) = delete;

    void download()
    {
        CHECK(cudaMemcpyAsync(host, device, n * sizeof *host, cudaMemcpyDeviceToHost, stream));
        CHECK(cudaStreamSynchronize(stream));
    }
};

#endif
