/*
 * warps.cu: planted bugs in warp operations: masks that do not match who is there.
 *
 * What lives here: one kernel for each rule of masks. What it must not know: how each is caught (test_planted.py).
 */
#include "planted.h"

static const unsigned FULL = 0xffffffffu;

__global__ void sum_first(float *data, unsigned n, bool leave)
{
    float x = threadIdx.x < n ? data[threadIdx.x] : 0.0f;
    if (leave && threadIdx.x >= n)
        return;
    for (unsigned step = 16; step > 0; step /= 2)
        x += __shfl_down_sync(FULL, x, step);
    if (threadIdx.x == 0)
        data[0] = x;
}

static bool shuffle_after_return(bool bug)
{
    Bench b(32);
    CHECK(WM_LAUNCH(sum_first, 1, 32, 0, b.stream, b.device, 20u, bug));
    b.download();
    return b.host[0] == 210.0f;
}

static bool lane_that_is_not_there(bool bug)
{
    Bench b(32);
    CHECK(WM_LAUNCH(sum_first, 1, bug ? 20 : 32, 0, b.stream, b.device, 20u, false));
    b.download();
    return b.host[0] == 210.0f;
}

__global__ void count_low_lanes(float *data, unsigned n_low, unsigned mask)
{
    if (threadIdx.x < n_low) {
        unsigned votes = __ballot_sync(mask, 1);
        if (threadIdx.x == 0)
            data[0] = (float)__popc(votes);
    }
}

static bool lane_not_in_its_mask(bool bug)
{
    Bench b(32);
    CHECK(WM_LAUNCH(count_low_lanes, 1, 32, 0, b.stream, b.device, 8u, bug ? 0x0fu : 0xffu));
    b.download();
    return b.host[0] == 8.0f;
}

__global__ void read_lane(float *data, int lane)
{
    if (threadIdx.x < 16)
        data[threadIdx.x] = __shfl_sync(0xffffu, data[threadIdx.x], lane);
}

static bool lane_outside_the_mask(bool bug)
{
    Bench b(32);
    CHECK(WM_LAUNCH(read_lane, 1, 32, 0, b.stream, b.device, bug ? 20 : 3));
    b.download();
    return b.host[9] == 4.0f;
}

/* Lanes of one warp hand numbers on through shared memory: since Volta they need not run in step. */
__global__ void pass_on(float *data, bool with_sync)
{
    __shared__ float slot[32];
    slot[threadIdx.x] = data[threadIdx.x];
    if (with_sync)
        __syncwarp();
    data[threadIdx.x] = slot[(threadIdx.x + 1) % 32];
}

static bool missing_syncwarp(bool bug)
{
    Bench b(32);
    CHECK(WM_LAUNCH(pass_on, 1, 32, 0, b.stream, b.device, !bug));
    b.download();
    return b.host[9] == 11.0f && b.host[31] == 1.0f;
}

const planted_case WARP_CASES[] = {
    {"shuffle_after_return", shuffle_after_return}, {"lane_that_is_not_there", lane_that_is_not_there},
    {"lane_not_in_its_mask", lane_not_in_its_mask}, {"lane_outside_the_mask", lane_outside_the_mask},
    {"missing_syncwarp", missing_syncwarp},         {nullptr, nullptr},
};
