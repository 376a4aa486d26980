/*
 * stream_work.h: how another pretended library (nccl_sim.c) puts work of its own on the pretended streams.
 *
 * What lives here: the one call for it (C11 and C++). The code under test never includes it. What it must not know: what
 * the work does, and what it waits for.
 */
#ifndef CUDA_ON_CPU_STREAM_WORK_H
#define CUDA_ON_CPU_STREAM_WORK_H

#include "cuda_runtime_api.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* All three are called under the machine's lock, so they call nothing of the runtime. */
struct cuda_on_cpu_work {
    /* Asked when the stream has come to this work, and then whenever somebody asks for the stream: false keeps the
     * stream where it is. It and `run` may touch memory of the stream's device. */
    bool (*ready)(void *data);
    void (*run)(void *data);  /* once, unless the device has failed */
    void (*drop)(void *data); /* once, at the end               */
    void *data;
};

/* A cudaError_t; on failure none of the functions is ever called. `device` is the stream's. */
int cuda_on_cpu_submit(cudaStream_t stream, int device, const struct cuda_on_cpu_work *work);

#ifdef __cplusplus
}
#endif

#endif
