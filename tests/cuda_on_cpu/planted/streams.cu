/*
 * streams.cu: planted bugs of host code: a wait between streams, or between a stream and the host, that is forgotten.
 *
 * What lives here: small copies of the engine's ring: upload, compute and download on streams of their own. What it
 * must not know: how each is caught (test_planted.py).
 */
#include "planted.h"

static const size_t N_ELEMS = 8;

__global__ void add_ten(float *data)
{
    data[threadIdx.x] += 10.0f;
}

/* Four tiles go up through one staging buffer, which is refilled for the next while its copy may still run. */
static bool staging_refilled(bool bug)
{
    Bench b(4 * N_ELEMS);
    float *staging;
    bool right = true;
    CHECK(cudaMallocHost(&staging, N_ELEMS * sizeof *staging));
    for (size_t tile = 0; tile < 4; tile++) {
        for (size_t i = 0; i < N_ELEMS; i++)
            staging[i] = (float)(100 * tile + i);
        CHECK(cudaMemcpyAsync(b.device + tile * N_ELEMS, staging, N_ELEMS * sizeof *staging, cudaMemcpyHostToDevice,
                              b.stream));
        if (!bug)
            CHECK(cudaStreamSynchronize(b.stream));
    }
    b.download();
    for (size_t i = 0; i < 4 * N_ELEMS; i++)
        right = right && b.host[i] == (float)(100 * (i / N_ELEMS) + i % N_ELEMS);
    CHECK(cudaFreeHost(staging));
    return right;
}

/* Upload and compute on two streams; the second must wait for the event of the first. */
static bool upload_not_awaited(bool bug)
{
    Bench b(N_ELEMS);
    cudaStream_t compute;
    cudaEvent_t uploaded, computed;
    CHECK(cudaStreamSynchronize(b.stream));
    CHECK(cudaStreamCreateWithFlags(&compute, cudaStreamNonBlocking));
    CHECK(cudaEventCreateWithFlags(&uploaded, cudaEventDisableTiming));
    CHECK(cudaEventCreateWithFlags(&computed, cudaEventDisableTiming));
    for (size_t i = 0; i < N_ELEMS; i++)
        b.host[i] = (float)i;
    CHECK(cudaMemcpyAsync(b.device, b.host, N_ELEMS * sizeof(float), cudaMemcpyHostToDevice, b.stream));
    CHECK(cudaEventRecord(uploaded, b.stream));
    if (!bug)
        CHECK(cudaStreamWaitEvent(compute, uploaded, 0));
    CHECK(WM_LAUNCH(add_ten, 1, N_ELEMS, 0, compute, b.device));
    CHECK(cudaEventRecord(computed, compute));
    CHECK(cudaEventSynchronize(computed));
    CHECK(cudaStreamWaitEvent(b.stream, computed, 0));
    b.download();
    bool right = true;
    for (size_t i = 0; i < N_ELEMS; i++)
        right = right && b.host[i] == (float)i + 10.0f;
    CHECK(cudaEventDestroy(uploaded));
    CHECK(cudaEventDestroy(computed));
    CHECK(cudaStreamDestroy(compute));
    return right;
}

/* A plain copy from memory that is not page-locked returns when its bytes are in a staging buffer, and goes on in the null
 * stream, for which the bench's does not wait. */
static bool plain_upload_not_awaited(bool bug)
{
    float source[N_ELEMS];
    Bench b(N_ELEMS);
    CHECK(cudaStreamSynchronize(b.stream));
    for (size_t i = 0; i < N_ELEMS; i++)
        source[i] = (float)(100 + i);
    CHECK(cudaMemcpy(b.device, source, sizeof source, cudaMemcpyHostToDevice));
    if (!bug)
        CHECK(cudaDeviceSynchronize());
    CHECK(WM_LAUNCH(add_ten, 1, N_ELEMS, 0, b.stream, b.device));
    b.download();
    bool right = true;
    for (size_t i = 0; i < N_ELEMS; i++)
        right = right && b.host[i] == (float)i + 110.0f;
    return right;
}

/* The result is read before anybody waited for it. */
static bool download_not_awaited(bool bug)
{
    Bench b(N_ELEMS);
    CHECK(WM_LAUNCH(add_ten, 1, N_ELEMS, 0, b.stream, b.device));
    CHECK(cudaMemcpyAsync(b.host, b.device, N_ELEMS * sizeof(float), cudaMemcpyDeviceToHost, b.stream));
    if (!bug)
        CHECK(cudaStreamSynchronize(b.stream));
    return b.host[3] == 14.0f;
}

const planted_case STREAM_CASES[] = {
    {"staging_refilled", staging_refilled},
    {"upload_not_awaited", upload_not_awaited},
    {"plain_upload_not_awaited", plain_upload_not_awaited},
    {"download_not_awaited", download_not_awaited},
    {nullptr, nullptr},
};
