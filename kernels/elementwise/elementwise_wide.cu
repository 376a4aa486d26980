/*
 * elementwise_wide.cu: the element-wise pass over one tile of more than eight models, on a CUDA device.
 *
 * maths       as elementwise.cu
 * shapes      9..64 models; BF16 throughout, or F32, F16 and BF16, mixed as they come; aligned
 * launch      one thread a group of eight elements, blocks of 256, no shared memory; branches are uniform in a block
 * bytes       width of each input read once and of the output written once, per element; with a vote the models twice, the
 *             second time from a cache if one holds what all threads on the device read: 12 KB a multiprocessor and model
 *             of BF16
 * reduction   none across elements; models are added left to right
 * limits      everything else is elementwise.cu's
 * measured    not measured yet: no GPU run so far
 *
 * A thread keeps eight running sums and walks the models in batches: the loads of a batch are in flight at once. A vote
 * needs every value twice, and of the first walk nothing is kept but the sums: a second one computes the values again.
 */
#include "common/launch.cuh"
#include "elementwise/combine_fused.cuh"

/* Models whose loads are in flight at once. */
#define WIDE_BATCH(ELEMS) ((ELEMS::n_words) == 4 ? 4 : 3)
/* Blocks that a multiprocessor must hold: room for 80 registers a thread, enough for none to spill. */
#define WIDE_BLOCKS 3

/* The first walk: all values. */
struct wide_sums {
    float sum[GROUP_ELEMS];
    __device__ inline void add(const device_model &, int j, float value) { sum[j] = sum[j] + value; }
};

/* The second walk: those that agree with the sign of the first one's sums. */
struct wide_votes {
    uint32_t vote[GROUP_ELEMS];
    float mixed[GROUP_ELEMS], divisor[GROUP_ELEMS];
    __device__ inline void add(const device_model &model, int j, float value)
    {
        vote_add(model, value, vote[j], &mixed[j], &divisor[j]);
    }
};

/* Adds the values of every model, in order, to `to`. False: they are not the right ones, since a threshold changes inside
 * the group or an input is not finite (LINEAR: that always shows in the output). */
template <class ELEMS, int KIND, class ADDER>
static __device__ inline bool wide_walk(const combine_args &a, size_t group, const uint32_t (&base)[ELEMS::n_words],
                                        ADDER *to)
{
    typedef group_io<ELEMS> io;
    const int batch = WIDE_BATCH(ELEMS);
    const uint64_t element = a.first_elem + group * GROUP_ELEMS;
    bool usual = true;
    float poison = 0.0f; /* NaN as soon as a delta is not finite */
#pragma unroll 1
    for (int first = 0; first < a.n_models; first += batch) {
        const device_model *models = &a.models[first];
        const int n = a.n_models - first;
        uint32_t x[batch][ELEMS::n_words] = {}; /* GCC 13 does not see that what was not loaded is not used */
#pragma unroll
        for (int m = 0; m < batch; m++)
            if (m < n)
                io::load(models[m].x, models[m].dtype, group, x[m]);
#pragma unroll
        for (int m = 0; m < batch; m++) {
            fused_keep keep;
            if (m >= n)
                break;
            if (KIND != FUSED_LINEAR)
                usual &= fused_keep_top(models[m], element, &keep);
            if (KIND == FUSED_MASKED || KIND == FUSED_MASKED_VOTE)
                fused_keep_random(models[m], element, &keep);
            io::widen(models[m].dtype, x[m]);
#pragma unroll
            for (int j = 0; j < GROUP_ELEMS; j++) {
                float b = KIND != FUSED_LINEAR ? ELEMS::get(base, j) : 0.0f;
                to->add(models[m], j, fused_term<KIND>(models[m], keep, ELEMS::get(x[m], j), b, j, &poison));
            }
        }
    }
    return usual && poison == 0.0f;
}

/* False: nothing was stored, the group goes element by element. */
template <class ELEMS, int KIND> static __device__ inline bool wide_group(const combine_args &a, size_t group)
{
    typedef group_io<ELEMS> io;
    const bool votes = KIND == FUSED_PLAIN_VOTE || KIND == FUSED_MASKED_VOTE;
    uint32_t base[ELEMS::n_words] = {0}, out[ELEMS::n_words];
    wide_sums sums;
    wide_votes agreeing;
    if (KIND != FUSED_LINEAR) {
        io::load(a.base, a.base_dtype, group, base);
        io::widen(a.base_dtype, base);
    }
#pragma unroll
    for (int j = 0; j < GROUP_ELEMS; j++)
        sums.sum[j] = a.zero;
    if (!wide_walk<ELEMS, KIND>(a, group, base, &sums))
        return false;
    if (votes) {
#pragma unroll
        for (int j = 0; j < GROUP_ELEMS; j++) {
            agreeing.vote[j] = task_vector_vote(sums.sum[j], a.plus_from);
            agreeing.mixed[j] = agreeing.divisor[j] = 0.0f;
        }
        wide_walk<ELEMS, KIND>(a, group, base, &agreeing);
    }
#pragma unroll
    for (int j = 0; j < GROUP_ELEMS; j++) {
        float sum = votes         ? vote_result(a, agreeing.mixed[j], agreeing.divisor[j])
                    : a.normalize ? sums.sum[j] / a.divisor
                                  : sums.sum[j];
        ELEMS::set(out, j, KIND == FUSED_LINEAR ? sum : task_vector_result(ELEMS::get(base, j), sum, a.lambda));
    }
    return io::store(a.out, a.out_dtype, group, out);
}

template <class ELEMS, int KIND>
static __global__ void __launch_bounds__(COMBINE_THREADS, WIDE_BLOCKS)
    combine_wide_kernel(const __grid_constant__ combine_args a)
{
    const size_t group = static_cast<size_t>(blockIdx.x) * COMBINE_THREADS + threadIdx.x;
    const size_t first = group * GROUP_ELEMS;
    if (first + GROUP_ELEMS <= a.n_elems && wide_group<ELEMS, KIND>(a, group))
        return;
#pragma unroll 1
    for (size_t i = first; i < first + GROUP_ELEMS && i < a.n_elems; i++)
        combine_any<ELEMS>(a, i);
}

/* F16 and F32 throughout are mixed types as well: that costs three branches a model and group, which all threads take
 * alike, and the same number of blocks fits a multiprocessor. */
template <int KIND> static combine_function choose_elems(int dtype)
{
    return dtype == WM_BF16 ? combine_wide_kernel<bf16_elems, KIND> : combine_wide_kernel<mixed_elems, KIND>;
}

combine_function choose_wide(enum fused_kind kind, int dtype)
{
    switch (kind) {
    case FUSED_LINEAR: return choose_elems<FUSED_LINEAR>(dtype);
    case FUSED_PLAIN: return choose_elems<FUSED_PLAIN>(dtype);
    case FUSED_MASKED: return choose_elems<FUSED_MASKED>(dtype);
    case FUSED_PLAIN_VOTE: return choose_elems<FUSED_PLAIN_VOTE>(dtype);
    case FUSED_MASKED_VOTE: return choose_elems<FUSED_MASKED_VOTE>(dtype);
    }
    return nullptr;
}
