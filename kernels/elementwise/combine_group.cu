/*
 * combine_group.cu: the element-wise pass over a group of small tensors, on a CUDA device.
 *
 * maths       as elementwise.cu, one element at a time (combine.cuh)
 * shapes      up to 256 tensors of up to 65,536 elements and 8 models, each with its own operation and types, at any address
 * launch      one block of 256 threads for 2,048 elements of one tensor; 0.5 KB of shared memory
 * bytes       width of each input read once and of the output written once, per element
 * reduction   none across elements; models are added left to right
 * limits      no weights by row or column
 * measured    not measured yet: no GPU run so far
 */
#include "common/launch.cuh"
#include "elementwise/combine.cuh"
#include "methods/device_group.cuh"

#define COMBINE_GROUP_THREADS 256

static __global__ void __launch_bounds__(COMBINE_GROUP_THREADS) combine_group_kernel(const group_launch group)
{
    WM_DYNAMIC_SHARED(uint64_t, words); /* the block's tensor */
    const group_block block = group.blocks[blockIdx.x];
    const uint64_t *from = reinterpret_cast<const uint64_t *>(&group.tensors[block.tensor]);
    for (unsigned i = threadIdx.x; i < sizeof(group_tensor) / sizeof(uint64_t); i += COMBINE_GROUP_THREADS)
        words[i] = from[i];
    __syncthreads();
    group_tensor *tensor = reinterpret_cast<group_tensor *>(words);
    if (threadIdx.x == 0)
        tensor->report = reinterpret_cast<struct device_bad *>(group.results + block.result);
    __syncthreads();
    size_t first = static_cast<size_t>(block.piece) * GROUP_PIECE_ELEMS;
    for (size_t i = first + threadIdx.x; i < first + GROUP_PIECE_ELEMS && i < tensor->n_elems;
         i += COMBINE_GROUP_THREADS)
        combine_any<any_elems>(*tensor, i);
}

cudaError_t group_combine_launch(const group_launch &group, unsigned n_blocks, cudaStream_t stream)
{
    void (*kernel)(const group_launch) = combine_group_kernel;
    return WM_LAUNCH(kernel, n_blocks, COMBINE_GROUP_THREADS, sizeof(group_tensor), stream, group);
}
