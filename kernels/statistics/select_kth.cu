/*
 * select_kth.cu: the passes that find a k-th magnitude, of a tensor or of the whole model, on a CUDA device.
 *
 * maths       COARSE, FINE   counts of |x_m - b| by its fp32 bits: upper 16 of 31, then lower 15 inside one bin
 *             TIES, CUT      elements equal to the threshold: how many in the tile, where the last kept one is
 *             GUESS          elements above and equal to a guessed threshold: how many in the tile
 * shapes      any number of elements at any address; F32, F16, BF16 and F64, mixed as they come; up to 64 models
 * launch      COARSE, FINE, TIES, GUESS: blocks of 512 threads, at most 512 a model, models next to each other so that they
 *             find the base in the L2 cache; COARSE 32 KB, FINE 4 KB of shared memory
 *             CUT: one block a chunk of 16,384 elements and model, then one block a model
 * bytes       width of each model read once per pass and element, of the base once per model from the L2 cache and once
 *             from memory (CUT: in one tile)
 * reduction   integers: order-free
 * limits      fewer than 2^32 elements in a tile
 * measured    not measured yet: no GPU run so far
 *
 * A histogram in global memory would send every element to a few addresses: most deltas of bf16 fine-tunes share some
 * tens of values. COARSE counts zeros in a register and the 32 binades below the block's largest magnitude in shared
 * memory; FINE does so for magnitudes whose last five bits are zero, as those of repeated values are. Everything else is
 * rare or spread, and a thread that meets one value many times in a row (a constant delta) sends it once.
 */
#include "common/launch.cuh"
#include "statistics/device_passes.h"
#include "statistics/model_statistics.h"
#include "statistics/select_block.cuh"

#define KTH_THREADS        512
#define KTH_MAX_BLOCKS     512
#define KTH_BLOCK_ELEMS    65536 /* fewest elements that are worth a block's histogram */
#define KTH_WINDOW_BINS    8192
#define KTH_BINS_PER_POWER 256 /* coarse bins of one binade */

struct kth_model {
    const void *x;
    void *results;   /* COARSE, FINE: bins; TIES, GUESS: the tile's counts; CUT: the chunks' counts */
    uint64_t *found; /* CUT: the element */
    uint64_t rank;   /* CUT: of the element, among the equal ones of the tile */
    uint32_t wanted; /* FINE: the coarse bin; TIES, GUESS, CUT: the threshold */
    int dtype;
};

struct kth_args {
    const void *base;
    size_t n_elems;
    uint64_t first_elem;
    int base_dtype, n_models;
    kth_model models[METHOD_MAX_MODELS];
};
static_assert(sizeof(kth_args) <= 4096, "arguments of a kernel");

/* ---- walking a tile ----------------------------------------------------------------------------------------- */

/* A block's share of one model: groups first, first + step, ... */
struct kth_walk {
    int model;
    size_t first, step, n_groups;
};

static __device__ inline kth_walk kth_walk_of(const kth_args &a)
{
    unsigned n_models = static_cast<unsigned>(a.n_models);
    kth_walk walk;
    walk.model = static_cast<int>(blockIdx.x % n_models);
    walk.first = static_cast<size_t>(blockIdx.x / n_models) * blockDim.x + threadIdx.x;
    walk.step = static_cast<size_t>(gridDim.x / n_models) * blockDim.x;
    walk.n_groups = (a.n_elems + GROUP_ELEMS - 1) / GROUP_ELEMS;
    return walk;
}

static __device__ inline kth_vectors vectors_of(const kth_args &a, const kth_model &model)
{
    return {a.base, model.x, a.n_elems, a.base_dtype, model.dtype};
}

/* ---- COARSE ------------------------------------------------------------------------------------------------- */

/* The largest finite magnitude of every thread's first group. */
template <class ELEMS>
static __device__ inline uint32_t largest_of_first_group(const kth_vectors &v, const kth_walk &walk)
{
    uint32_t magnitude[GROUP_ELEMS], largest = 0;
    if (walk.first >= walk.n_groups)
        return 0;
    group_magnitudes<ELEMS>(v, walk.first, magnitude); /* past the end: 0 */
#pragma unroll
    for (int j = 0; j < GROUP_ELEMS; j++)
        if (magnitude[j] < FLOAT_EXPONENT_MASK && magnitude[j] > largest)
            largest = magnitude[j];
    return largest;
}

template <class ELEMS>
static __global__ void __launch_bounds__(KTH_THREADS, kth_blocks<ELEMS>::N)
    coarse_kernel(const __grid_constant__ kth_args a)
{
    WM_DYNAMIC_SHARED(uint32_t, window); /* [KTH_WINDOW_BINS], the largest magnitude, the number in bin 0 */
    uint32_t *largest = window + KTH_WINDOW_BINS, *n_zero = window + KTH_WINDOW_BINS + 1;
    const kth_walk walk = kth_walk_of(a);
    const kth_model &model = a.models[walk.model];
    const kth_vectors v = vectors_of(a, model);
    kth_count *bins = static_cast<kth_count *>(model.results);
    for (unsigned i = threadIdx.x; i < KTH_WINDOW_BINS + 2; i += blockDim.x)
        window[i] = 0;
    __syncthreads();
    atomicMax(largest, largest_of_first_group<ELEMS>(v, walk));
    __syncthreads();
    const uint32_t end = (*largest >> KTH_FINE_BITS) + KTH_BINS_PER_POWER; /* one binade more than was seen */
    const uint32_t lowest = end > KTH_WINDOW_BINS ? end - KTH_WINDOW_BINS : 1;
    uint32_t zeros = 0;
    kth_run run = {0, 0};
    for (size_t group = walk.first; group < walk.n_groups; group += walk.step) {
        uint32_t magnitude[GROUP_ELEMS];
        int n = group_magnitudes<ELEMS>(v, group, magnitude);
#pragma unroll
        for (int j = 0; j < GROUP_ELEMS; j++) {
            uint32_t bin = magnitude[j] >> KTH_FINE_BITS;
            if (j >= n)
                continue;
            if (bin == 0)
                zeros++;
            else if (bin - lowest < KTH_WINDOW_BINS)
                atomicAdd(&window[bin - lowest], 1u);
            else
                run_add(run, bin, bins);
        }
    }
    run_flush(run, bins);
    if (zeros != 0)
        atomicAdd(n_zero, zeros);
    __syncthreads();
    for (unsigned i = threadIdx.x; i < KTH_WINDOW_BINS; i += blockDim.x)
        if (window[i] != 0)
            atomicAdd(&bins[lowest + i], static_cast<kth_count>(window[i]));
    if (threadIdx.x == 0 && *n_zero != 0)
        atomicAdd(&bins[0], static_cast<kth_count>(*n_zero));
}

/* ---- FINE --------------------------------------------------------------------------------------------------- */

template <class ELEMS>
static __global__ void __launch_bounds__(KTH_THREADS, kth_blocks<ELEMS>::N)
    fine_kernel(const __grid_constant__ kth_args a)
{
    WM_DYNAMIC_SHARED(uint32_t, round); /* [KTH_ROUND_BINS] */
    const kth_walk walk = kth_walk_of(a);
    const kth_model &model = a.models[walk.model];
    const kth_vectors v = vectors_of(a, model);
    kth_count *bins = static_cast<kth_count *>(model.results);
    fine_begin(round);
    kth_run run = {0, 0};
    for (size_t group = walk.first; group < walk.n_groups; group += walk.step) {
        uint32_t magnitude[GROUP_ELEMS];
        int n = group_magnitudes<ELEMS>(v, group, magnitude);
        fine_add(magnitude, n, model.wanted, round, run, bins);
    }
    fine_end(round, run, bins);
}

/* ---- TIES --------------------------------------------------------------------------------------------------- */

template <class ELEMS>
static __global__ void __launch_bounds__(KTH_THREADS, kth_blocks<ELEMS>::N)
    ties_kernel(const __grid_constant__ kth_args a)
{
    WM_DYNAMIC_SHARED(uint32_t, total);
    const kth_walk walk = kth_walk_of(a);
    const kth_model &model = a.models[walk.model];
    const kth_vectors v = vectors_of(a, model);
    uint32_t n_equal = 0;
    if (threadIdx.x == 0)
        *total = 0;
    __syncthreads();
    for (size_t group = walk.first; group < walk.n_groups; group += walk.step)
        n_equal += count_equal<ELEMS>(v, group, model.wanted);
    n_equal = block_count(total, n_equal);
    if (threadIdx.x == 0 && n_equal != 0)
        atomicAdd(static_cast<uint32_t *>(model.results), n_equal);
}

/* ---- GUESS -------------------------------------------------------------------------------------------------- */

template <class ELEMS>
static __global__ void __launch_bounds__(KTH_THREADS, kth_blocks<ELEMS>::N)
    guess_kernel(const __grid_constant__ kth_args a)
{
    WM_DYNAMIC_SHARED(uint32_t, total); /* above, equal */
    const kth_walk walk = kth_walk_of(a);
    const kth_model &model = a.models[walk.model];
    const kth_vectors v = vectors_of(a, model);
    uint32_t n_greater = 0, n_equal = 0;
    if (threadIdx.x < 2)
        total[threadIdx.x] = 0;
    __syncthreads();
    for (size_t group = walk.first; group < walk.n_groups; group += walk.step) {
        uint32_t magnitude[GROUP_ELEMS];
        int n = group_magnitudes<ELEMS>(v, group, magnitude);
#pragma unroll
        for (int j = 0; j < GROUP_ELEMS; j++) {
            n_greater += j < n && magnitude[j] > model.wanted;
            n_equal += j < n && magnitude[j] == model.wanted;
        }
    }
    if (n_greater != 0)
        atomicAdd(&total[0], n_greater);
    n_equal = block_count(total + 1, n_equal);
    if (threadIdx.x == 0) {
        atomicAdd(&static_cast<uint32_t *>(model.results)[0], *total);
        atomicAdd(&static_cast<uint32_t *>(model.results)[1], n_equal);
    }
}

/* ---- CUT ---------------------------------------------------------------------------------------------------- */

template <class ELEMS>
static __global__ void __launch_bounds__(CUT_THREADS, 4) cut_count_kernel(const __grid_constant__ kth_args a)
{
    WM_DYNAMIC_SHARED(uint32_t, total);
    const unsigned n_models = static_cast<unsigned>(a.n_models), chunk = blockIdx.x / n_models;
    const kth_model &model = a.models[blockIdx.x % n_models];
    uint32_t n_equal =
        count_chunk<ELEMS>(vectors_of(a, model), static_cast<size_t>(chunk) * KTH_CHUNK_GROUPS, model.wanted, total);
    if (threadIdx.x == 0)
        static_cast<uint32_t *>(model.results)[chunk] = n_equal;
}

template <class ELEMS>
static __global__ void __launch_bounds__(CUT_THREADS, 4) cut_find_kernel(const __grid_constant__ kth_args a)
{
    WM_DYNAMIC_SHARED(find_shared, shared);
    const kth_model &model = a.models[blockIdx.x];
    const unsigned n_chunks = static_cast<unsigned>((a.n_elems + TILE_CHUNK_ELEMS - 1) / TILE_CHUNK_ELEMS);
    const size_t chunk = find_chunk(static_cast<const uint32_t *>(model.results), n_chunks, model.rank, shared);
    find_element<ELEMS>(vectors_of(a, model), chunk * KTH_CHUNK_GROUPS, model.wanted, a.first_elem, shared,
                        model.found);
}

/* ---- launches ----------------------------------------------------------------------------------------------- */

typedef void (*kth_kernel)(const kth_args);

static cudaError_t launch_cut(const kth_args &a, int dtype, cudaStream_t stream)
{
    kth_kernel count = KERNEL_BY_DTYPE(dtype, cut_count_kernel), find = KERNEL_BY_DTYPE(dtype, cut_find_kernel);
    unsigned n_models = static_cast<unsigned>(a.n_models);
    cudaError_t err = WM_LAUNCH(count, launch_blocks(a.n_elems, TILE_CHUNK_ELEMS) * n_models, CUT_THREADS,
                                sizeof(uint32_t), stream, a);
    if (err != cudaSuccess)
        return err;
    return WM_LAUNCH(find, n_models, CUT_THREADS, sizeof(find_shared), stream, a);
}

static cudaError_t launch_walk(const kth_args &a, enum stat_pass pass, int dtype, cudaStream_t stream)
{
    kth_kernel kernel = pass == STAT_KTH_COARSE ? KERNEL_BY_DTYPE(dtype, coarse_kernel)
                        : pass == STAT_KTH_FINE ? KERNEL_BY_DTYPE(dtype, fine_kernel)
                        : pass == STAT_KTH_TIES ? KERNEL_BY_DTYPE(dtype, ties_kernel)
                                                : KERNEL_BY_DTYPE(dtype, guess_kernel);
    size_t shared_words = pass == STAT_KTH_COARSE ? KTH_WINDOW_BINS + 2 : pass == STAT_KTH_FINE ? KTH_ROUND_BINS : 2;
    unsigned n_blocks = launch_blocks(a.n_elems, KTH_BLOCK_ELEMS);
    n_blocks = (n_blocks < KTH_MAX_BLOCKS ? n_blocks : KTH_MAX_BLOCKS) * static_cast<unsigned>(a.n_models);
    return WM_LAUNCH(kernel, n_blocks, KTH_THREADS, shared_words * sizeof(uint32_t), stream, a);
}

/* Where the results of a pass lie for its model number `slot`. */
static void place_results(kth_model *model, const struct statistics *s, size_t tile_index, void *results, size_t slot,
                          size_t n_slots)
{
    kth_count *counts = static_cast<kth_count *>(results);
    if (s->pass == STAT_KTH_COARSE)
        model->results = counts + slot * KTH_COARSE_BINS;
    else if (s->pass == STAT_KTH_FINE)
        model->results = counts + slot * KTH_FINE_BINS;
    else if (s->pass == STAT_KTH_TIES)
        model->results = static_cast<uint32_t *>(results) + slot * s->n_tiles + tile_index;
    else if (s->pass == STAT_KTH_GUESS)
        model->results = static_cast<uint32_t *>(results) + 2 * (slot * s->n_tiles + tile_index);
    else
        model->results = reinterpret_cast<uint32_t *>(counts + n_slots) + slot * device_chunks(s->tile_elems);
    model->found = static_cast<uint64_t *>(results) + slot;
}

/* The arguments for a tile, without models yet. */
static kth_args kth_args_of(const struct merge_tile *tile)
{
    kth_args a = {};
    a.base = tile->in[0];
    a.base_dtype = tile->in_dtype[0];
    a.n_elems = tile->n_elems;
    a.first_elem = tile->first_elem;
    return a;
}

/* Model number m of the operation comes next. */
static kth_model *kth_args_add(kth_args *a, const struct merge_tile *tile, int m)
{
    kth_model *model = &a->models[a->n_models++];
    model->x = tile->in[m + 1];
    model->dtype = tile->in_dtype[m + 1];
    return model;
}

static int kth_args_dtype(const kth_args &a)
{
    const void *in[METHOD_MAX_MODELS + 1] = {a.base};
    enum wm_dtype in_dtype[METHOD_MAX_MODELS + 1] = {static_cast<enum wm_dtype>(a.base_dtype)};
    for (int m = 0; m < a.n_models; m++) {
        in[m + 1] = a.models[m].x;
        in_dtype[m + 1] = static_cast<enum wm_dtype>(a.models[m].dtype);
    }
    return common_dtype(in, in_dtype, a.n_models + 1);
}

cudaError_t device_kth_launch(const struct statistics *s, const struct merge_tile *tile, void *results,
                              cudaStream_t stream)
{
    kth_args a = kth_args_of(tile);
    size_t slot = 0, n_slots = 0;
    for (int i = 0; i < s->n_kth; i++)
        n_slots += s->kth[i].pass == s->pass;
    for (int i = 0; i < s->n_kth; i++) {
        const struct kth *kth = &s->kth[i];
        if (kth->pass != s->pass)
            continue;
        size_t own_slot = slot++;
        if (s->pass == STAT_KTH_CUT && kth->cut_tile != tile->index)
            continue;
        kth_model *model = kth_args_add(&a, tile, kth->model);
        model->wanted = s->pass == STAT_KTH_FINE ? kth->coarse_bin : kth->threshold;
        model->rank = kth->cut_rank;
        place_results(model, s, tile->index, results, own_slot, n_slots);
    }
    if (a.n_models == 0)
        return cudaSuccess;
    int dtype = kth_args_dtype(a);
    return s->pass == STAT_KTH_CUT ? launch_cut(a, dtype, stream) : launch_walk(a, s->pass, dtype, stream);
}

/* COARSE and FINE of the whole model are those of a tensor, with counts that all tensors share. */
cudaError_t device_model_kth_launch(const struct merge_op *op, const struct model_statistics *ms,
                                    const struct merge_tile *tile, uint64_t *counts, cudaStream_t stream)
{
    const bool coarse = ms->pass == MODEL_COARSE;
    kth_args a = kth_args_of(tile);
    for (int m = 0; m < op->n_models; m++) {
        int search = ms->search_of[op->models[m].index];
        if (search < 0)
            continue;
        kth_model *model = kth_args_add(&a, tile, m);
        model->wanted = ms->searches[search].coarse_bin;
        model->results = counts + static_cast<size_t>(search) * (coarse ? KTH_COARSE_BINS : KTH_FINE_BINS);
    }
    if (a.n_models == 0)
        return cudaSuccess;
    return launch_walk(a, coarse ? STAT_KTH_COARSE : STAT_KTH_FINE, kth_args_dtype(a), stream);
}
