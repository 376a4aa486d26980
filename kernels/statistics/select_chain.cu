/*
 * select_chain.cu: the search for k-th magnitudes from COARSE's counts to threshold and tie index, on a CUDA device alone.
 *
 * maths       of each model the rank-th largest of |x_m - b| by its fp32 bits, and the index of the last kept one of those
 *             that equal it: what FINE, TIES and CUT find, by the same rule (all above, then equal ones by lowest index)
 * shapes      any number of elements at any address, in any number of tiles that are all on the device; F32, F16, BF16 and
 *             F64, mixed as they come; up to 64 models
 * launch      five, whatever the number of tiles: choose the bin (one block of 1024 threads a model, 32 warps that narrow
 *             the range by 32 a step), FINE (blocks of 512 over chunks of 16,384 elements, at most 512 a model; 4 KB of
 *             shared memory), choose the threshold (as the bin), equal ones per chunk and the last kept one (blocks of
 *             256). What the next kernel needs to know lies in device memory; where all equal elements are kept the last
 *             two leave at once
 * bytes       width of each model and of the base read once by FINE and once by the count of equal ones; 768 KB of counts a
 *             model
 * reduction   integers: order-free
 * limits      tiles of whole chunks (the last one excepted), fewer than 2^32 chunks
 * measured    not measured yet: no GPU run so far
 *
 * Tensors of a few tiles are what it is for (the experts of a mixture have 1 to 6 M elements): pass by pass each of them
 * would cost four waits for the host, and a launch a pass and tile.
 */
#include "common/launch.cuh"
#include "statistics/device_passes.h"
#include "statistics/select_block.cuh"

#define CHOOSE_THREADS     1024
#define CHOOSE_WARPS       (CHOOSE_THREADS / 32)
#define CHAIN_FINE_THREADS 512
#define CHAIN_MAX_BLOCKS   512 /* a model */
#define WHOLE_WARP         0xffffffffu

struct chain_model {
    uint64_t rank; /* of the wanted element, from the largest: 1.. */
    int input, dtype;
};

struct chain_args {
    const void *const *table; /* [tile][n_inputs] */
    kth_count *coarse, *fine; /* [model][bins] */
    device_choice *choices;   /* [model] */
    uint32_t *chunks;         /* [model][n_chunks]: equal ones */
    uint64_t n_elems;
    unsigned n_chunks, chunks_per_tile;
    int n_inputs, base_dtype, n_models;
    chain_model models[METHOD_MAX_MODELS];
};
static_assert(sizeof(chain_args) <= 4096, "arguments of a kernel");

/* ---- choosing a bin ----------------------------------------------------------------------------------------- */

static __device__ inline kth_count sum_of_warp(kth_count sum)
{
    for (unsigned step = 16; step > 0; step /= 2)
        sum += __shfl_down_sync(WHOLE_WARP, sum, step);
    return sum;
}

struct choose_shared {
    kth_count sums[CHOOSE_WARPS];
    uint64_t rank; /* that is left */
    uint32_t first;
};

/* The bin, from the last one down, that holds the element of this rank, for all threads; shared->rank becomes its rank
 * inside that bin. n_bins is a power of two. */
static __device__ inline uint32_t choose_bin(const kth_count *bins, uint32_t n_bins, uint64_t rank,
                                             choose_shared *shared)
{
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        shared->rank = rank;
        shared->first = 0;
    }
    __syncthreads();
    while (n_bins > 1) {
        const uint32_t n_ranges = n_bins < CHOOSE_WARPS ? n_bins : CHOOSE_WARPS, width = n_bins / n_ranges;
        const uint32_t first = shared->first;
        if (warp < n_ranges) {
            kth_count sum = 0;
            for (uint32_t i = lane; i < width; i += 32)
                sum += bins[first + warp * width + i];
            sum = sum_of_warp(sum);
            if (lane == 0)
                shared->sums[warp] = sum;
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t range = n_ranges - 1;
            uint64_t left = shared->rank;
            for (; range > 0 && shared->sums[range] < left; range--)
                left -= shared->sums[range];
            shared->rank = left;
            shared->first = first + range * width;
        }
        __syncthreads();
        n_bins = width;
    }
    return shared->first;
}

static __global__ void __launch_bounds__(CHOOSE_THREADS) choose_coarse_kernel(const __grid_constant__ chain_args a)
{
    WM_DYNAMIC_SHARED(choose_shared, shared);
    const kth_count *bins = a.coarse + static_cast<size_t>(blockIdx.x) * KTH_COARSE_BINS;
    const uint32_t bin = choose_bin(bins, KTH_COARSE_BINS, a.models[blockIdx.x].rank, shared);
    if (threadIdx.x == 0)
        a.choices[blockIdx.x] = {shared->rank, a.n_elems - 1, bin, 0};
}

static __global__ void __launch_bounds__(CHOOSE_THREADS) choose_fine_kernel(const __grid_constant__ chain_args a)
{
    WM_DYNAMIC_SHARED(choose_shared, shared);
    const kth_count *bins = a.fine + static_cast<size_t>(blockIdx.x) * KTH_FINE_BINS;
    device_choice *choice = &a.choices[blockIdx.x];
    const uint32_t bin = choose_bin(bins, KTH_FINE_BINS, choice->rank, shared);
    if (threadIdx.x == 0) {
        choice->wanted = choice->wanted << KTH_FINE_BITS | bin;
        choice->rank = shared->rank;
        choice->is_cut = bins[bin] != shared->rank;
    }
}

/* ---- walking a tensor --------------------------------------------------------------------------------------- */

/* Where a chunk lies: the tile that it is in, and the chunk's first group there. */
struct chain_place {
    kth_vectors vectors;
    size_t group;
    uint64_t tile_elem; /* the tile's first element */
};

static __device__ inline chain_place place_of(const chain_args &a, const chain_model &model, uint32_t chunk)
{
    const uint32_t tile = chunk / a.chunks_per_tile;
    const uint64_t tile_elems = static_cast<uint64_t>(a.chunks_per_tile) * TILE_CHUNK_ELEMS, first = tile * tile_elems;
    const void *const *in = a.table + static_cast<size_t>(tile) * static_cast<size_t>(a.n_inputs);
    const size_t n_elems = static_cast<size_t>(a.n_elems - first < tile_elems ? a.n_elems - first : tile_elems);
    return {{in[0], in[model.input], n_elems, a.base_dtype, model.dtype},
            static_cast<size_t>(chunk % a.chunks_per_tile) * KTH_CHUNK_GROUPS,
            first};
}

template <class ELEMS>
static __global__ void __launch_bounds__(CHAIN_FINE_THREADS, kth_blocks<ELEMS>::N)
    chain_fine_kernel(const __grid_constant__ chain_args a)
{
    WM_DYNAMIC_SHARED(uint32_t, round); /* [KTH_ROUND_BINS] */
    const unsigned n_models = static_cast<unsigned>(a.n_models), m = blockIdx.x % n_models;
    const uint32_t coarse_bin = a.choices[m].wanted;
    kth_count *bins = a.fine + static_cast<size_t>(m) * KTH_FINE_BINS;
    kth_run run = {0, 0};
    fine_begin(round);
    for (uint32_t chunk = blockIdx.x / n_models; chunk < a.n_chunks; chunk += gridDim.x / n_models) {
        const chain_place at = place_of(a, a.models[m], chunk);
        for (unsigned i = threadIdx.x; i < KTH_CHUNK_GROUPS; i += blockDim.x) {
            uint32_t magnitude[GROUP_ELEMS];
            if ((at.group + i) * GROUP_ELEMS >= at.vectors.n_elems)
                break;
            int n = group_magnitudes<ELEMS>(at.vectors, at.group + i, magnitude);
            fine_add(magnitude, n, coarse_bin, round, run, bins);
        }
    }
    fine_end(round, run, bins);
}

template <class ELEMS>
static __global__ void __launch_bounds__(CUT_THREADS, 4) chain_count_kernel(const __grid_constant__ chain_args a)
{
    WM_DYNAMIC_SHARED(uint32_t, total);
    const unsigned n_models = static_cast<unsigned>(a.n_models), m = blockIdx.x % n_models;
    const device_choice choice = a.choices[m];
    if (!choice.is_cut)
        return;
    for (uint32_t chunk = blockIdx.x / n_models; chunk < a.n_chunks; chunk += gridDim.x / n_models) {
        const chain_place at = place_of(a, a.models[m], chunk);
        uint32_t n_equal = count_chunk<ELEMS>(at.vectors, at.group, choice.wanted, total);
        if (threadIdx.x == 0)
            a.chunks[static_cast<size_t>(m) * a.n_chunks + chunk] = n_equal;
    }
}

template <class ELEMS>
static __global__ void __launch_bounds__(CUT_THREADS, 4) chain_find_kernel(const __grid_constant__ chain_args a)
{
    WM_DYNAMIC_SHARED(find_shared, shared);
    device_choice *choice = &a.choices[blockIdx.x];
    if (!choice->is_cut)
        return;
    const uint32_t *chunks = a.chunks + static_cast<size_t>(blockIdx.x) * a.n_chunks;
    const uint32_t chunk = find_chunk(chunks, a.n_chunks, choice->rank, shared);
    const chain_place at = place_of(a, a.models[blockIdx.x], chunk);
    find_element<ELEMS>(at.vectors, at.group, choice->wanted, at.tile_elem, shared, &choice->element);
}

/* ---- launches ----------------------------------------------------------------------------------------------- */

/* The way that all tiles can be read in. */
static int dtype_of_tiles(const struct statistics *s, const chain_args &a, const void *const *table,
                          const enum wm_dtype *in_dtype)
{
    const void *in[METHOD_MAX_MODELS + 1];
    enum wm_dtype dtypes[METHOD_MAX_MODELS + 1];
    int dtype = READ_ANY;
    for (size_t tile = 0; tile < s->n_tiles; tile++, table += a.n_inputs) {
        for (int i = 0; i <= a.n_models; i++) {
            int input = i == 0 ? 0 : a.models[i - 1].input;
            in[i] = table[input];
            dtypes[i] = in_dtype[input];
        }
        dtype = common_dtype(in, dtypes, a.n_models + 1);
        if (dtype == READ_ANY)
            break;
    }
    return dtype;
}

static cudaError_t launch_chain(const chain_args &a, int dtype, cudaStream_t stream)
{
    void (*fine)(const chain_args) = KERNEL_BY_DTYPE(dtype, chain_fine_kernel);
    void (*count)(const chain_args) = KERNEL_BY_DTYPE(dtype, chain_count_kernel);
    void (*find)(const chain_args) = KERNEL_BY_DTYPE(dtype, chain_find_kernel);
    const unsigned n_models = static_cast<unsigned>(a.n_models);
    const unsigned n_blocks = (a.n_chunks < CHAIN_MAX_BLOCKS ? a.n_chunks : CHAIN_MAX_BLOCKS) * n_models;
    cudaError_t err =
        WM_LAUNCH(choose_coarse_kernel, n_models, CHOOSE_THREADS, sizeof(struct choose_shared), stream, a);
    if (err == cudaSuccess)
        err = WM_LAUNCH(fine, n_blocks, CHAIN_FINE_THREADS, KTH_ROUND_BINS * sizeof(uint32_t), stream, a);
    if (err == cudaSuccess)
        err = WM_LAUNCH(choose_fine_kernel, n_models, CHOOSE_THREADS, sizeof(struct choose_shared), stream, a);
    if (err == cudaSuccess)
        err = WM_LAUNCH(count, n_blocks, CUT_THREADS, sizeof(uint32_t), stream, a);
    if (err == cudaSuccess)
        err = WM_LAUNCH(find, n_models, CUT_THREADS, sizeof(struct find_shared), stream, a);
    return err;
}

cudaError_t device_select_launch(const struct statistics *s, const struct device_select *plan, const void *const *table,
                                 const enum wm_dtype *in_dtype, void *results, cudaStream_t stream)
{
    unsigned char *at = static_cast<unsigned char *>(results);
    chain_args a = {};
    a.coarse = reinterpret_cast<kth_count *>(at);
    a.fine = reinterpret_cast<kth_count *>(at + plan->fine_at);
    a.choices = reinterpret_cast<device_choice *>(at + plan->choices_at);
    a.table = reinterpret_cast<const void *const *>(at + plan->table_at);
    a.chunks = reinterpret_cast<uint32_t *>(at + plan->chunks_at);
    a.n_elems = s->n_elems;
    a.n_chunks = static_cast<unsigned>(s->n_chunks);
    a.chunks_per_tile = static_cast<unsigned>(device_chunks(s->tile_elems));
    a.n_inputs = plan->n_inputs;
    a.base_dtype = in_dtype[0];
    for (int i = 0; i < s->n_kth; i++)
        if (s->kth[i].pass == STAT_KTH_COARSE)
            a.models[a.n_models++] = {s->kth[i].rank, s->kth[i].model + 1, in_dtype[s->kth[i].model + 1]};
    return launch_chain(a, dtype_of_tiles(s, a, table, in_dtype), stream);
}
