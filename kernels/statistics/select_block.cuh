/*
 * select_block.cuh: what the kernels that look for k-th magnitudes do inside a block.
 *
 * What lives here: magnitudes of a group of elements, counts on their way to global memory, FINE's histogram, numbers of
 * equal elements, and the steps down to the element of a rank. Shared by the passes that go tile by tile (select_kth.cu)
 * and the search that a device ends alone (select_chain.cu), so that both follow one rule. What it must not know: which
 * tile or model a block works on.
 */
#ifndef WM_KERNELS_SELECT_BLOCK_CUH
#define WM_KERNELS_SELECT_BLOCK_CUH

#include "common/vector_load.cuh"
#include "methods/task_vector_math.h"
#include "statistics/statistics.h"

#define KTH_ROUND_BITS   5
#define KTH_ROUND_BINS   (KTH_FINE_BINS >> KTH_ROUND_BITS)
#define KTH_CHUNK_GROUPS (TILE_CHUNK_ELEMS / GROUP_ELEMS)
#define CUT_THREADS      256

/* Blocks that a multiprocessor must hold: room for 40 registers a thread, or 64 where the types are known at run time. */
template <class ELEMS> struct kth_blocks {
    static const int N = 3;
};
template <> struct kth_blocks<mixed_elems> {
    static const int N = 2;
};
template <> struct kth_blocks<any_elems> {
    static const int N = 2;
};

typedef unsigned long long kth_count; /* what atomicAdd takes for uint64_t */

/* One model's part of a tile, and the base's. */
struct kth_vectors {
    const void *base, *x;
    size_t n_elems;
    int base_dtype, dtype;
};

/* Returns how many of the group's elements there are. */
template <class ELEMS>
static __device__ inline int group_magnitudes(const kth_vectors &v, size_t group, uint32_t (&magnitude)[GROUP_ELEMS])
{
    size_t first = group * GROUP_ELEMS;
    float x[GROUP_ELEMS], b[GROUP_ELEMS];
    reader<ELEMS>::load(v.base, v.base_dtype, first, v.n_elems, b);
    reader<ELEMS>::load(v.x, v.dtype, first, v.n_elems, x);
#pragma unroll
    for (int j = 0; j < GROUP_ELEMS; j++)
        magnitude[j] = static_cast<uint32_t>(task_vector_magnitude(task_vector_delta(x[j], b[j])));
    return v.n_elems - first < GROUP_ELEMS ? static_cast<int>(v.n_elems - first) : GROUP_ELEMS;
}

/* ---- histograms --------------------------------------------------------------------------------------------- */

/* Counts on their way to global memory: neighbours that are equal travel together. */
struct kth_run {
    uint32_t bin, count;
};

static __device__ inline void run_flush(const kth_run &run, kth_count *bins)
{
    if (run.count != 0)
        atomicAdd(&bins[run.bin], static_cast<kth_count>(run.count));
}

static __device__ inline void run_add(kth_run &run, uint32_t bin, kth_count *bins)
{
    if (bin != run.bin) {
        run_flush(run, bins);
        run.bin = bin;
        run.count = 0;
    }
    run.count++;
}

/* FINE counts magnitudes whose last five bits are zero, as those of repeated values are, in `round` of shared memory,
 * [KTH_ROUND_BINS]; the others are rare or spread. */
static __device__ inline void fine_begin(uint32_t *round)
{
    for (unsigned i = threadIdx.x; i < KTH_ROUND_BINS; i += blockDim.x)
        round[i] = 0;
    __syncthreads();
}

static __device__ inline void fine_add(const uint32_t (&magnitude)[GROUP_ELEMS], int n, uint32_t coarse_bin,
                                       uint32_t *round, kth_run &run, kth_count *bins)
{
#pragma unroll
    for (int j = 0; j < GROUP_ELEMS; j++) {
        uint32_t low = magnitude[j] & (KTH_FINE_BINS - 1);
        if (j >= n || magnitude[j] >> KTH_FINE_BITS != coarse_bin)
            continue;
        if (low % (1u << KTH_ROUND_BITS) == 0)
            atomicAdd(&round[low >> KTH_ROUND_BITS], 1u);
        else
            run_add(run, low, bins);
    }
}

static __device__ inline void fine_end(const uint32_t *round, const kth_run &run, kth_count *bins)
{
    run_flush(run, bins);
    __syncthreads();
    for (unsigned i = threadIdx.x; i < KTH_ROUND_BINS; i += blockDim.x)
        if (round[i] != 0)
            atomicAdd(&bins[i << KTH_ROUND_BITS], static_cast<kth_count>(round[i]));
}

/* ---- equal elements ----------------------------------------------------------------------------------------- */

template <class ELEMS>
static __device__ inline uint32_t count_equal(const kth_vectors &v, size_t group, uint32_t threshold)
{
    uint32_t magnitude[GROUP_ELEMS], n_equal = 0;
    int n = group_magnitudes<ELEMS>(v, group, magnitude);
#pragma unroll
    for (int j = 0; j < GROUP_ELEMS; j++)
        n_equal += j < n && magnitude[j] == threshold;
    return n_equal;
}

/* The block's sum, for all threads; `shared` is one zeroed word. */
static __device__ inline uint32_t block_count(uint32_t *shared, uint32_t count)
{
    if (count != 0)
        atomicAdd(shared, count);
    __syncthreads();
    return *shared;
}

/* The block's number of equal elements in the chunk that begins with first_group. */
template <class ELEMS>
static __device__ inline uint32_t count_chunk(const kth_vectors &v, size_t first_group, uint32_t threshold,
                                              uint32_t *shared)
{
    uint32_t n_equal = 0;
    __syncthreads(); /* the sum of the chunk before was read */
    if (threadIdx.x == 0)
        *shared = 0;
    __syncthreads();
    for (unsigned i = threadIdx.x; i < KTH_CHUNK_GROUPS; i += blockDim.x)
        if ((first_group + i) * GROUP_ELEMS < v.n_elems)
            n_equal += count_equal<ELEMS>(v, first_group + i, threshold);
    return block_count(shared, n_equal);
}

/* ---- the element of a rank among the equal ones ------------------------------------------------------------- */

/* Of a block of CUT_THREADS that looks for it. */
struct find_shared {
    uint64_t rank; /* that is left */
    uint32_t chunk;
    uint32_t counts[CUT_THREADS];
};

/* Which of the ranges, of counts[0..n-1], holds the element of rank *rank, which becomes its rank inside the range. */
static __device__ inline unsigned find_range(const uint32_t *counts, unsigned n, uint64_t *rank)
{
    unsigned i = 0;
    for (; i + 1 < n && counts[i] < *rank; i++)
        *rank -= counts[i];
    return i;
}

/* Two steps down: a range of chunks, the chunk, which every thread gets; shared->rank becomes the rank inside it. */
static __device__ inline uint32_t find_chunk(const uint32_t *chunks, unsigned n_chunks, uint64_t rank,
                                             find_shared *shared)
{
    const unsigned per_thread = (n_chunks + CUT_THREADS - 1) / CUT_THREADS, first_chunk = threadIdx.x * per_thread;
    uint32_t sum = 0;
    for (unsigned c = first_chunk; c < first_chunk + per_thread && c < n_chunks; c++)
        sum += chunks[c];
    shared->counts[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        unsigned first = find_range(shared->counts, CUT_THREADS, &rank) * per_thread;
        first += find_range(chunks + first, n_chunks - first < per_thread ? n_chunks - first : per_thread, &rank);
        shared->chunk = first;
        shared->rank = rank;
    }
    __syncthreads();
    return shared->chunk;
}

/* The third step: the range of groups; its thread then counts elements and gives the index in v to *found + first_elem. */
template <class ELEMS>
static __device__ inline void find_element(const kth_vectors &v, size_t chunk_group, uint32_t threshold,
                                           uint64_t first_elem, find_shared *shared, uint64_t *found)
{
    const unsigned groups_per_thread = KTH_CHUNK_GROUPS / CUT_THREADS;
    const size_t first_group = chunk_group + static_cast<size_t>(threadIdx.x) * groups_per_thread;
    uint64_t rank = shared->rank;
    uint32_t sum = 0;
    for (unsigned g = 0; g < groups_per_thread && (first_group + g) * GROUP_ELEMS < v.n_elems; g++)
        sum += count_equal<ELEMS>(v, first_group + g, threshold);
    shared->counts[threadIdx.x] = sum;
    __syncthreads();
    if (find_range(shared->counts, CUT_THREADS, &rank) != threadIdx.x)
        return;
    for (unsigned g = 0; g < groups_per_thread && (first_group + g) * GROUP_ELEMS < v.n_elems; g++) {
        uint32_t magnitude[GROUP_ELEMS];
        int n = group_magnitudes<ELEMS>(v, first_group + g, magnitude);
        for (int j = 0; j < n; j++) {
            rank -= magnitude[j] == threshold;
            if (rank == 0) {
                *found = first_elem + (first_group + g) * GROUP_ELEMS + j;
                return;
            }
        }
    }
}

#endif
