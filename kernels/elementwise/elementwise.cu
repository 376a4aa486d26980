/*
 * elementwise.cu: the element-wise pass of every method over one tile, on a CUDA device.
 *
 * maths       LINEAR       r = (sum_m w_m x_m) [/ divisor]
 *             TASK_VECTOR  r = b + lambda * (sum_m agree_m * w_m * s_m * keep_m * (x_m - b)) [/ divisor]
 *             one fp32 operation at a time (linear_math.h, task_vector_math.h), one rounding to the output type
 * shapes      any number of elements at any address; 0..64 models; F32, F16, BF16 and F64, mixed as they come
 * launch      one thread a group of eight elements (combine_kernel, combine_wide_kernel) or a single element
 *             (combine_any_kernel), blocks of 256, no shared memory
 * bytes       width of each input read once and of the output written once, per element (a vote over more than eight
 *             models reads inputs twice, the second time from a cache)
 * reduction   none across elements; models are added left to right
 * limits      none
 * measured    not measured yet: no GPU run so far
 *
 * Four ways through. combine_kernel of one type for all inputs and the output: aligned, up to eight models, everything in
 * registers, all loads of a group in flight at once. combine_kernel of mixed_elems: the same with the types of F32, F16 and
 * BF16 known at run time, at the price of some branches that are uniform in a block. combine_wide_kernel, of
 * elementwise_wide.cu: aligned, more than eight models, a few of them in registers at a time. combine_any: one element at a
 * time with every choice at run time; it is the whole kernel for all other operations and the rare way of the others for
 * groups at the end of a tile, across a tie index, or with a value that is not finite. All give the same bits.
 */
#include "common/launch.cuh"
#include "elementwise/combine_fused.cuh"

/* ---- one element, every choice at run time ------------------------------------------------------------------ */

static __global__ void __launch_bounds__(COMBINE_THREADS) combine_any_kernel(const __grid_constant__ combine_args a)
{
    size_t i = static_cast<size_t>(blockIdx.x) * COMBINE_THREADS + threadIdx.x;
    if (i < a.n_elems)
        combine_any<any_elems>(a, i);
}

/* ---- launches ----------------------------------------------------------------------------------------------- */

template <int KIND> static combine_function choose_elems(int dtype, int n_models)
{
    if (n_models > FUSED_MAX_MODELS)
        return choose_wide(static_cast<enum fused_kind>(KIND), dtype);
    combine_function one_type = dtype == WM_BF16  ? choose_many<bf16_elems, KIND>(n_models)
                                : dtype == WM_F16 ? choose_few<f16_elems, KIND>(n_models)
                                : dtype == WM_F32 ? choose_few<f32_elems, KIND>(n_models)
                                                  : nullptr;
    return one_type != nullptr ? one_type : choose_mixed(static_cast<enum fused_kind>(KIND), n_models);
}

/* NULL: only the general kernel serves this. */
static combine_function choose_fused(const struct merge_op *op, const struct merge_tile *tile, bool vector_weights)
{
    int dtype = common_dtype(tile->in, tile->in_dtype, merge_op_n_inputs(op));
    if (op->n_models == 0 || vector_weights || dtype == READ_ANY || tile->out_dtype == WM_F64 ||
        !is_vector_aligned(tile->out) || tile->first_elem % GROUP_ELEMS != 0)
        return nullptr;
    if (dtype != static_cast<int>(tile->out_dtype))
        dtype = READ_MIXED;
    if (op->family == MERGE_LINEAR)
        return op->has_base ? nullptr : choose_elems<FUSED_LINEAR>(dtype, op->n_models);
    bool masked = false;
    for (int m = 0; m < op->n_models; m++)
        masked |= op->models[m].keep == KEEP_RANDOM || op->models[m].scale != 1.0f;
    if (masked)
        return op->consensus ? choose_elems<FUSED_MASKED_VOTE>(dtype, op->n_models)
                             : choose_elems<FUSED_MASKED>(dtype, op->n_models);
    return op->consensus ? choose_elems<FUSED_PLAIN_VOTE>(dtype, op->n_models)
                         : choose_elems<FUSED_PLAIN>(dtype, op->n_models);
}

cudaError_t device_combine_launch(const struct merge_op *op, const struct merge_tile *tile, const float *vector_weights,
                                  struct device_report *report, cudaStream_t stream)
{
    if (tile->n_elems == 0)
        return cudaSuccess;
    combine_args a = {};
    device_op_fill(&a, op, tile, vector_weights, report->seen);
    combine_function fused = choose_fused(op, tile, vector_weights != nullptr);
    if (fused != nullptr)
        return WM_LAUNCH(fused, launch_blocks(tile->n_elems, COMBINE_THREADS * GROUP_ELEMS), COMBINE_THREADS, 0, stream,
                         a);
    combine_function any = combine_any_kernel;
    return WM_LAUNCH(any, launch_blocks(tile->n_elems, COMBINE_THREADS), COMBINE_THREADS, 0, stream, a);
}
