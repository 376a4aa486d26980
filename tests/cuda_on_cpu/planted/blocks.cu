/*
 * blocks.cu: planted bugs between the threads of a block, and between blocks.
 *
 * What lives here: barriers left out or taken apart, and a sum without an atomic. What it must not know: how each is
 * caught (test_planted.py).
 */
#include "planted.h"

static const unsigned BLOCK = 128;

/* Sum of 128 numbers in two stages, warps first; the second stage reads what other warps wrote. */
__global__ void two_stage_sum(float *data, bool with_barrier)
{
    __shared__ float warp_sums[BLOCK / 32];
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float sum = data[threadIdx.x];
    for (unsigned step = 16; step > 0; step /= 2)
        sum += __shfl_down_sync(0xffffffffu, sum, step);
    if (lane == 0)
        warp_sums[warp] = sum;
    if (with_barrier)
        __syncthreads();
    if (threadIdx.x == 0) {
        float total = 0.0f;
        for (unsigned i = 0; i < BLOCK / 32; i++)
            total += warp_sums[i];
        data[0] = total;
    }
}

static bool missing_barrier(bool bug)
{
    Bench b(BLOCK);
    CHECK(WM_LAUNCH(two_stage_sum, 1, BLOCK, 0, b.stream, b.device, !bug));
    b.download();
    return b.host[0] == BLOCK * (BLOCK + 1) / 2;
}

/* A ring buffer of one slot: without the second barrier a fast thread overwrites what a slow one still reads. */
__global__ void shift_rounds(float *data, bool with_second)
{
    WM_DYNAMIC_SHARED(float, slot);
    float x = data[threadIdx.x];
    for (int round = 0; round < 4; round++) {
        slot[threadIdx.x] = x;
        __syncthreads();
        x = slot[(threadIdx.x + 1) % blockDim.x];
        if (with_second)
            __syncthreads();
    }
    data[threadIdx.x] = x;
}

static bool missing_second_barrier(bool bug)
{
    Bench b(BLOCK);
    CHECK(WM_LAUNCH(shift_rounds, 1, BLOCK, BLOCK * sizeof(float), b.stream, b.device, !bug));
    b.download();
    for (unsigned i = 0; i < BLOCK; i++)
        if (b.host[i] != (float)((i + 4) % BLOCK + 1))
            return false;
    return true;
}

__global__ void two_barriers(float *data, bool apart)
{
    if (apart && threadIdx.x < 64)
        __syncthreads();
    else
        __syncthreads();
    data[threadIdx.x] += 1.0f;
}

static bool divergent_barrier(bool bug)
{
    Bench b(BLOCK);
    CHECK(WM_LAUNCH(two_barriers, 1, BLOCK, 0, b.stream, b.device, bug));
    b.download();
    return b.host[5] == 7.0f;
}

/* Half of the block waits for the other at a block barrier, the other half for the first at a warp operation. */
__global__ void cross_waits(float *data, bool crossed)
{
    if (crossed && threadIdx.x % 2 == 0)
        __syncthreads();
    __syncwarp();
    if (!crossed || threadIdx.x % 2 == 1)
        __syncthreads();
    data[threadIdx.x] += 1.0f;
}

static bool deadlock(bool bug)
{
    Bench b(BLOCK);
    CHECK(WM_LAUNCH(cross_waits, 1, BLOCK, 0, b.stream, b.device, bug));
    b.download();
    return b.host[5] == 7.0f;
}

__global__ void count_blocks(float *data, bool atomically)
{
    if (threadIdx.x != 0)
        return;
    if (atomically)
        atomicAdd(&data[0], 1.0f);
    else
        data[0] += 1.0f;
}

static bool race_between_blocks(bool bug)
{
    Bench b(BLOCK);
    CHECK(WM_LAUNCH(count_blocks, 8, 64, 0, b.stream, b.device, !bug));
    b.download();
    return b.host[0] == 9.0f;
}

const planted_case BLOCK_CASES[] = {
    {"missing_barrier", missing_barrier},         {"missing_second_barrier", missing_second_barrier},
    {"divergent_barrier", divergent_barrier},     {"deadlock", deadlock},
    {"race_between_blocks", race_between_blocks}, {nullptr, nullptr},
};
