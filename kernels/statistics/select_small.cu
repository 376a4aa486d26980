/*
 * select_small.cu: k-th magnitudes of small tensors, in groups or alone, on a CUDA device.
 *
 * maths       WHOLE    the rank-th largest of |x_m - b| by its fp32 bits, and the index of the last kept one of those that
 *                      equal it
 * shapes      up to 65,536 elements at any address; F32, F16, BF16 and F64, mixed as they come
 * launch      one block of 512 threads a tensor and model; 9 KB of shared memory
 * bytes       width of the base and of the model read four to six times per element, all but the first time from a cache
 * reduction   integers: order-free
 * limits      none
 * measured    not measured yet: no GPU run so far
 *
 * Radix selection: four digits of 8, 8, 8 and 7 bits, each counted in shared memory over the elements that agree so far.
 * Deltas share few exponents, so the first digits of a warp fall into few bins: neighbouring lanes count in eight copies.
 */
#include "common/launch.cuh"
#include "common/vector_load.cuh"
#include "methods/device_group.cuh"
#include "statistics/device_passes.h"

#define SMALL_THREADS   512
#define SMALL_WARPS     (SMALL_THREADS / 32)
#define SMALL_BINS      256
#define SMALL_COPIES    8
#define SMALL_BATCH     4 /* elements of a thread that are on their way at once */
#define SMALL_LANE_BINS (SMALL_BINS / 32)
#define NO_MAGNITUDE    UINT32_MAX
#define WHOLE_WARP      0xffffffffu

struct small_shared {
    uint32_t counts[SMALL_BINS][SMALL_COPIES], totals[SMALL_BINS];
    uint32_t bin, rank, n_equal; /* the digit that was found, the rank among its elements, their number */
    uint32_t equal[SMALL_WARPS];
};

struct small_vector {
    const void *base, *x;
    int base_dtype, dtype;
    uint32_t n;
};

static __device__ inline uint32_t magnitude_at(const small_vector &v, uint32_t i)
{
    if (i >= v.n)
        return NO_MAGNITUDE;
    float b = load_elem_any(v.base, v.base_dtype, i).value, x = load_elem_any(v.x, v.dtype, i).value;
    return static_cast<uint32_t>(task_vector_magnitude(task_vector_delta(x, b)));
}

/* Counts a digit of the elements whose bits above it are `found`. */
static __device__ inline void count_digit(const small_vector &v, uint32_t found, int shift, int n_bits,
                                          small_shared *shared)
{
    for (unsigned i = threadIdx.x; i < SMALL_BINS * SMALL_COPIES; i += SMALL_THREADS)
        shared->counts[i / SMALL_COPIES][i % SMALL_COPIES] = 0;
    __syncthreads();
    for (uint32_t first = threadIdx.x; first < v.n; first += SMALL_BATCH * SMALL_THREADS) {
        uint32_t magnitude[SMALL_BATCH];
#pragma unroll
        for (int k = 0; k < SMALL_BATCH; k++)
            magnitude[k] = magnitude_at(v, first + static_cast<uint32_t>(k) * SMALL_THREADS);
#pragma unroll
        for (int k = 0; k < SMALL_BATCH; k++)
            if (magnitude[k] != NO_MAGNITUDE && magnitude[k] >> (shift + n_bits) == found)
                atomicAdd(&shared->counts[magnitude[k] >> shift & ((1u << n_bits) - 1)][threadIdx.x % SMALL_COPIES],
                          1u);
    }
    __syncthreads();
    if (threadIdx.x < SMALL_BINS) {
        uint32_t total = 0;
        for (int copy = 0; copy < SMALL_COPIES; copy++)
            total += shared->counts[threadIdx.x][copy];
        shared->totals[threadIdx.x] = total;
    }
    __syncthreads();
}

/* The first warp: the bin, from the highest down, that holds the element of shared->rank. */
static __device__ inline void find_digit(small_shared *shared)
{
    const int lane = static_cast<int>(threadIdx.x);
    const int highest = SMALL_BINS - 1 - lane * SMALL_LANE_BINS;
    const uint32_t rank = shared->rank;
    uint32_t here = 0, through;
    for (int k = 0; k < SMALL_LANE_BINS; k++)
        here += shared->totals[highest - k];
    through = here;
    for (unsigned step = 1; step < 32; step *= 2) {
        uint32_t before = __shfl_up_sync(WHOLE_WARP, through, step);
        if (lane >= static_cast<int>(step))
            through += before;
    }
    __syncwarp(); /* every lane has read the rank: a shuffle orders no memory */
    if (rank > through || rank <= through - here)
        return;
    uint32_t left = rank - (through - here);
    int bin = highest;
    for (; shared->totals[bin] < left; bin--)
        left -= shared->totals[bin];
    shared->bin = static_cast<uint32_t>(bin);
    shared->rank = left;
    shared->n_equal = shared->totals[bin];
}

/* Elements of this warp's share of the tensor that equal the threshold; with `wanted` > 0 the index of that one of them. */
static __device__ inline uint32_t walk_equal(const small_vector &v, uint32_t threshold, uint32_t wanted,
                                             uint32_t *index)
{
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t per_warp = (v.n + SMALL_THREADS - 1) / SMALL_THREADS * 32, first = warp * per_warp;
    uint32_t n_equal = 0;
    for (uint32_t i = first; i < first + per_warp; i += 32) {
        uint32_t equal = __ballot_sync(WHOLE_WARP, magnitude_at(v, i + lane) == threshold);
        uint32_t here = static_cast<uint32_t>(__popc(equal));
        if (wanted > n_equal && wanted <= n_equal + here) {
            for (uint32_t k = n_equal + 1; k < wanted; k++)
                equal &= equal - 1; /* takes the lowest away */
            *index = i + static_cast<uint32_t>(__ffs(static_cast<int>(equal))) - 1;
        }
        n_equal += here;
    }
    return n_equal;
}

/* Of the elements that equal the threshold the first `rank` are kept: the index of the last of these. The warp that has it
 * gives it to its lane 0, all others get NO_MAGNITUDE. */
static __device__ inline uint32_t last_kept(const small_vector &v, uint32_t threshold, uint32_t rank,
                                            small_shared *shared)
{
    const unsigned warp = threadIdx.x / 32;
    uint32_t index = NO_MAGNITUDE, before = 0, n_equal = walk_equal(v, threshold, 0, &index);
    if (threadIdx.x % 32 == 0)
        shared->equal[warp] = n_equal;
    __syncthreads();
    for (unsigned w = 0; w < warp; w++)
        before += shared->equal[w];
    if (rank > before && rank <= before + n_equal)
        walk_equal(v, threshold, rank - before, &index);
    return threadIdx.x % 32 == 0 ? index : NO_MAGNITUDE;
}

/* One vector: *result becomes the threshold (low half) and the tie index. */
static __device__ inline void whole_vector(const small_vector &v, uint32_t first_rank, small_shared *shared,
                                           uint64_t *result)
{
    uint32_t found = 0;
    if (threadIdx.x == 0)
        shared->rank = first_rank;
    for (int shift = 23; shift >= 0; shift = shift == 7 ? 0 : shift - 8) {
        int n_bits = shift == 0 ? 7 : 8;
        count_digit(v, found, shift, n_bits, shared);
        if (threadIdx.x < 32)
            find_digit(shared);
        __syncthreads();
        found = found << n_bits | shared->bin;
        if (shift == 0)
            break;
    }
    const uint32_t rank = shared->rank;
    uint32_t index = threadIdx.x == 0 ? v.n - 1 : NO_MAGNITUDE; /* all that are equal are kept */
    if (rank != shared->n_equal)
        index = last_kept(v, found, rank, shared);
    if (index != NO_MAGNITUDE)
        *result = static_cast<uint64_t>(index) << 32 | found;
}

static __global__ void __launch_bounds__(SMALL_THREADS, 2) whole_group_kernel(const group_launch group)
{
    WM_DYNAMIC_SHARED(small_shared, shared);
    const group_block block = group.blocks[blockIdx.x];
    const group_tensor &tensor = group.tensors[block.tensor];
    const device_model &model = tensor.models[block.model];
    const small_vector v = {tensor.base, model.x, tensor.base_dtype, model.dtype,
                            static_cast<uint32_t>(tensor.n_elems)};
    whole_vector(v, block.piece, shared, &group.results[block.result]);
}

cudaError_t group_kth_launch(const group_launch &group, unsigned n_blocks, cudaStream_t stream)
{
    void (*kernel)(const group_launch) = whole_group_kernel;
    return WM_LAUNCH(kernel, n_blocks, SMALL_THREADS, sizeof(small_shared), stream, group);
}

/* ---- a tensor by itself ------------------------------------------------------------------------------------- */

struct whole_args {
    small_vector models[METHOD_MAX_MODELS];
    uint32_t ranks[METHOD_MAX_MODELS];
    uint64_t *results;
};
static_assert(sizeof(whole_args) <= 4096, "arguments of a kernel");

static __global__ void __launch_bounds__(SMALL_THREADS, 2) whole_kernel(const __grid_constant__ whole_args a)
{
    WM_DYNAMIC_SHARED(small_shared, shared);
    whole_vector(a.models[blockIdx.x], a.ranks[blockIdx.x], shared, &a.results[blockIdx.x]);
}

cudaError_t device_whole_launch(const struct statistics *s, const struct merge_tile *tile, void *results,
                                cudaStream_t stream)
{
    whole_args a = {};
    unsigned n_models = 0;
    a.results = static_cast<uint64_t *>(results);
    for (int i = 0; i < s->n_kth; i++) {
        const struct kth *kth = &s->kth[i];
        if (kth->pass != STAT_KTH_WHOLE)
            continue;
        a.models[n_models] = {tile->in[0], tile->in[kth->model + 1], static_cast<int>(tile->in_dtype[0]),
                              static_cast<int>(tile->in_dtype[kth->model + 1]), static_cast<uint32_t>(tile->n_elems)};
        a.ranks[n_models++] = static_cast<uint32_t>(kth->rank);
    }
    return WM_LAUNCH(whole_kernel, n_models, SMALL_THREADS, sizeof(small_shared), stream, a);
}
