/*
 * elementwise_mixed.cu: the element-wise pass over one tile whose inputs and output have different types, on a CUDA device.
 *
 * maths       as elementwise.cu
 * shapes      F32, F16 and BF16, mixed as they come, aligned; up to eight models
 * launch      one thread a group of eight elements, blocks of 256, no shared memory; branches are uniform in a block
 * bytes       width of each input read once and of the output written once, per element
 * reduction   none across elements; models are added left to right
 * limits      everything else is elementwise.cu's
 * measured    not measured yet: no GPU run so far
 */
#include "common/launch.cuh"
#include "elementwise/combine_fused.cuh"

combine_function choose_mixed(enum fused_kind kind, int n_models)
{
    switch (kind) {
    case FUSED_LINEAR: return choose_many<mixed_elems, FUSED_LINEAR>(n_models);
    case FUSED_PLAIN: return choose_many<mixed_elems, FUSED_PLAIN>(n_models);
    case FUSED_MASKED: return choose_many<mixed_elems, FUSED_MASKED>(n_models);
    case FUSED_PLAIN_VOTE: return choose_many<mixed_elems, FUSED_PLAIN_VOTE>(n_models);
    case FUSED_MASKED_VOTE: return choose_many<mixed_elems, FUSED_MASKED_VOTE>(n_models);
    }
    return nullptr;
}
