/*
 * bounds.cu: planted bugs of addresses: past an end, not aligned, of the wrong side.
 *
 * What lives here: kernels and host code that touch what they must not. What it must not know: how each is caught
 * (test_planted.py).
 */
#include "planted.h"

static const unsigned BLOCK = 64;

__global__ void reverse_dynamic(float *data, unsigned shift)
{
    WM_DYNAMIC_SHARED(float, turned);
    turned[blockDim.x - 1 - threadIdx.x + shift] = data[threadIdx.x];
    __syncthreads();
    data[threadIdx.x] = turned[threadIdx.x + shift];
}

static bool dynamic_shared_end(bool bug)
{
    Bench b(BLOCK);
    CHECK(WM_LAUNCH(reverse_dynamic, 1, BLOCK, BLOCK * sizeof(float), b.stream, b.device, bug ? 1 : 0));
    b.download();
    return b.host[0] == BLOCK;
}

__global__ void reverse_static(float *data, unsigned shift)
{
    __shared__ float array[BLOCK];
    float *volatile turned = array; /* volatile: UBSan would see an index of the array before ASan sees the address */
    turned[blockDim.x - 1 - threadIdx.x + shift] = data[threadIdx.x];
    __syncthreads();
    data[threadIdx.x] = turned[threadIdx.x + shift];
}

static bool static_shared_end(bool bug)
{
    Bench b(BLOCK);
    CHECK(WM_LAUNCH(reverse_static, 1, BLOCK, 0, b.stream, b.device, bug ? 1 : 0));
    b.download();
    return b.host[0] == BLOCK;
}

__global__ void add_one(float *data, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        data[i] += 1.0f;
}

static bool global_end(bool bug)
{
    Bench b(100);
    CHECK(WM_LAUNCH(add_one, 2, BLOCK, 0, b.stream, b.device, bug ? 101 : 100));
    b.download();
    return b.host[99] == 101.0f;
}

__global__ void double_four(float *data)
{
    float4 *four = reinterpret_cast<float4 *>(data) + threadIdx.x;
    float4 v = *four;
    *four = make_float4(2 * v.x, 2 * v.y, 2 * v.z, 2 * v.w);
}

static bool misaligned_load(bool bug)
{
    Bench b(72);
    CHECK(WM_LAUNCH(double_four, 1, 16, 0, b.stream, b.device + (bug ? 1 : 0)));
    b.download();
    return b.host[7] == 16.0f;
}

/* Read by the host: memory that nobody used yet, that a copy filled, that a kernel changed. */
static bool host_reads_new(bool bug)
{
    float *fresh;
    CHECK(cudaMalloc(&fresh, BLOCK * sizeof *fresh));
    float *volatile p = fresh;
    bool right = !bug || p[3] == 4.0f;
    CHECK(cudaFree(fresh));
    return right;
}

static bool host_reads_copied(bool bug)
{
    Bench b(BLOCK);
    b.download();
    const float *volatile p = bug ? b.device : b.host;
    return p[3] == 4.0f;
}

static bool host_reads_computed(bool bug)
{
    Bench b(BLOCK);
    CHECK(WM_LAUNCH(add_one, 1, BLOCK, 0, b.stream, b.device, BLOCK));
    CHECK(cudaStreamSynchronize(b.stream));
    const float *volatile p = b.device;
    if (bug)
        return p[3] == 5.0f;
    b.download();
    return b.host[3] == 5.0f;
}

/* With two devices: a kernel of one works on memory of the other, and there is no peer access here. */
static bool other_device(bool bug)
{
    int n_devices;
    CHECK(cudaGetDeviceCount(&n_devices));
    Bench b(BLOCK);
    CHECK(cudaStreamSynchronize(b.stream));
    CHECK(cudaSetDevice(bug ? n_devices - 1 : 0));
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK(WM_LAUNCH(add_one, 1, BLOCK, 0, stream, b.device, BLOCK));
    CHECK(cudaStreamSynchronize(stream));
    CHECK(cudaStreamDestroy(stream));
    CHECK(cudaSetDevice(0));
    b.download();
    return b.host[3] == 5.0f;
}

const planted_case BOUNDS_CASES[] = {
    {"dynamic_shared_end", dynamic_shared_end},
    {"static_shared_end", static_shared_end},
    {"global_end", global_end},
    {"misaligned_load", misaligned_load},
    {"host_reads_new", host_reads_new},
    {"host_reads_copied", host_reads_copied},
    {"host_reads_computed", host_reads_computed},
    {"other_device", other_device},
    {nullptr, nullptr},
};
