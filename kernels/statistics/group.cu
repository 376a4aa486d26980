/*
 * group.cu: rounds of work over a group of small tensors, on a CUDA device.
 *
 * What lives here: the table of a round, its launches, and where its results go in the states of the statistics. Host code
 * alone; in C++, since the table is what kernels take. What it must not know: elements, streams' order.
 */
#include "methods/device_group.cuh"
#include "statistics/device_passes.h"

#include <string.h>

static_assert(DEVICE_GROUP_ELEMS <= KTH_WHOLE_ELEMS, "a tensor of a group needs no histogram of its own");

/* Of one tensor, at most. */
#define MAX_PIECES     (DEVICE_GROUP_ELEMS / GROUP_PIECE_ELEMS)
#define MAX_L1_BLOCKS  (DEVICE_GROUP_MODELS * DEVICE_GROUP_ELEMS / TILE_CHUNK_ELEMS)
#define MAX_L1_RESULTS (2 * MAX_L1_BLOCKS)
static_assert(MAX_PIECES <= MAX_L1_BLOCKS && DEVICE_GROUP_MODELS <= MAX_L1_BLOCKS, "L1 needs the most blocks");
static_assert(2 * (2 + DEVICE_GROUP_MODELS) <= MAX_L1_RESULTS, "... and the most results");
static_assert(DEVICE_GROUP_TENSORS * (sizeof(group_tensor) + MAX_L1_BLOCKS * sizeof(group_block)) <=
                  DEVICE_GROUP_TABLE_BYTES,
              "the table of the largest group");
static_assert(DEVICE_GROUP_TENSORS * MAX_L1_RESULTS * sizeof(uint64_t) <= DEVICE_GROUP_RESULT_BYTES,
              "the results of the largest group");
static_assert(sizeof(group_tensor) % sizeof(uint64_t) == 0,
              "copied in words, and what follows it in the table is aligned");

bool device_group_takes(const struct merge_op *op)
{
    bool gram = op->axis == AXIS_TENSOR && op->n_models == 2;
    return op->n_elems > 0 && op->n_elems <= DEVICE_GROUP_ELEMS && op->n_models <= DEVICE_GROUP_MODELS &&
           (!op->needs_gram || gram);
}

/* ---- what a tensor needs in a round ------------------------------------------------------------------------- */

static size_t chunks_of(const struct device_group_tensor *tensor)
{
    return static_cast<size_t>(device_chunks(tensor->op->n_elems));
}

/* GROUP_N_PASSES: nothing, since it waits for others. */
static enum device_group_pass pass_of(const struct device_group_tensor *tensor, bool is_last)
{
    if (tensor->statistics == nullptr || tensor->statistics->pass == STAT_READY)
        return is_last ? GROUP_COMBINE : GROUP_N_PASSES;
    return tensor->statistics->pass == STAT_GRAM        ? GROUP_GRAM
           : tensor->statistics->pass == STAT_KTH_WHOLE ? GROUP_KTH
                                                        : GROUP_L1;
}

static bool is_last_round(const struct device_group_tensor *tensors, size_t n_tensors)
{
    bool ready = true;
    for (size_t t = 0; t < n_tensors; t++)
        ready &= tensors[t].statistics == nullptr || tensors[t].statistics->pass == STAT_READY;
    return ready;
}

/* In units of 8 bytes. */
static size_t results_of(const struct device_group_tensor *tensor, enum device_group_pass pass)
{
    switch (pass) {
    case GROUP_GRAM: return 3 * chunks_of(tensor);
    case GROUP_KTH: return static_cast<size_t>(tensor->statistics->n_kth);
    case GROUP_L1: return static_cast<size_t>(2 * tensor->statistics->n_l1) * chunks_of(tensor);
    case GROUP_COMBINE: return 2 * static_cast<size_t>(1 + merge_op_n_inputs(tensor->op));
    case GROUP_N_PASSES: break;
    }
    return 0;
}

/* ---- the table ---------------------------------------------------------------------------------------------- */

/* The blocks of one pass, in the table. */
struct block_list {
    group_block *blocks;
    unsigned n;
};

static void add_block(struct block_list *list, size_t tensor, int model, size_t piece, size_t result)
{
    group_block block;
    block.tensor = static_cast<uint16_t>(tensor);
    block.model = static_cast<uint16_t>(model);
    block.piece = static_cast<uint32_t>(piece);
    block.result = static_cast<uint32_t>(result);
    list->blocks[list->n++] = block;
}

static void add_blocks(struct block_list *list, const struct device_group_tensor *tensor, size_t number,
                       enum device_group_pass pass, size_t result)
{
    const struct statistics *s = tensor->statistics;
    size_t n_chunks = chunks_of(tensor);
    if (pass == GROUP_GRAM)
        for (size_t chunk = 0; chunk < n_chunks; chunk++)
            add_block(list, number, 0, chunk, result); /* its sums lie chunk by chunk */
    else if (pass == GROUP_KTH)
        for (int i = 0; i < s->n_kth; i++)
            add_block(list, number, s->kth[i].model, static_cast<size_t>(s->kth[i].rank),
                      result + static_cast<size_t>(i));
    else if (pass == GROUP_L1)
        for (size_t i = 0; i < static_cast<size_t>(s->n_l1); i++)
            for (size_t chunk = 0; chunk < n_chunks; chunk++)
                add_block(list, number, s->l1_models[i], chunk, result + 2 * i * n_chunks + chunk);
    else if (pass == GROUP_COMBINE)
        for (size_t piece = 0; piece * GROUP_PIECE_ELEMS < tensor->tile.n_elems; piece++)
            add_block(list, number, 0, piece, result);
}

void device_group_plan(const struct device_group_tensor *tensors, size_t n_tensors, void *table,
                       struct device_group_round *round)
{
    group_tensor *described = static_cast<group_tensor *>(table);
    size_t n_results = 0, at = n_tensors * sizeof *described;
    memset(round, 0, sizeof *round);
    round->is_last = is_last_round(tensors, n_tensors);
    for (size_t t = 0; t < n_tensors; t++) {
        group_tensor of = {};
        device_op_fill(&of, tensors[t].op, &tensors[t].tile, nullptr, nullptr);
        described[t] = of;
        n_results += results_of(&tensors[t], pass_of(&tensors[t], round->is_last));
    }
    for (int pass = 0; pass < GROUP_N_PASSES; pass++) {
        struct block_list list = {reinterpret_cast<group_block *>(static_cast<char *>(table) + at), 0};
        size_t result = 0;
        for (size_t t = 0; t < n_tensors; t++) {
            enum device_group_pass own = pass_of(&tensors[t], round->is_last);
            if (own == pass)
                add_blocks(&list, &tensors[t], t, own, result);
            result += results_of(&tensors[t], own);
        }
        round->blocks_at[pass] = at;
        round->n_blocks[pass] = list.n;
        at += list.n * sizeof *list.blocks;
    }
    round->n_table_bytes = at;
    round->n_result_bytes = n_results * sizeof(uint64_t);
}

/* ---- launches and results ----------------------------------------------------------------------------------- */

cudaError_t device_group_launch(const struct device_group_round *round, const void *table, void *results,
                                cudaStream_t stream)
{
    static cudaError_t (*const launches[GROUP_N_PASSES])(const group_launch &, unsigned, cudaStream_t) = {
        group_gram_launch, group_kth_launch, group_l1_launch, group_combine_launch};
    cudaError_t err = cudaSuccess;
    for (int pass = 0; pass < GROUP_N_PASSES && err == cudaSuccess; pass++) {
        const char *blocks = static_cast<const char *>(table) + round->blocks_at[pass];
        group_launch group = {static_cast<const group_tensor *>(table), reinterpret_cast<const group_block *>(blocks),
                              static_cast<uint64_t *>(results)};
        if (round->n_blocks[pass] != 0)
            err = launches[pass](group, round->n_blocks[pass], stream);
    }
    return err;
}

static void collect_one(const struct device_group_tensor *tensor, enum device_group_pass pass, const uint64_t *results)
{
    struct statistics *s = tensor->statistics;
    size_t n_bytes = results_of(tensor, pass) * sizeof *results;
    if (pass == GROUP_GRAM)
        memcpy(s->gram, results, n_bytes);
    else if (pass == GROUP_L1)
        memcpy(s->l1, results, n_bytes);
    else if (pass == GROUP_COMBINE)
        device_report_add(reinterpret_cast<const struct device_bad *>(results), merge_op_n_inputs(tensor->op),
                          tensor->report);
    else if (pass == GROUP_KTH)
        for (int i = 0; i < s->n_kth; i++) {
            s->kth[i].threshold = static_cast<uint32_t>(results[i]);
            s->kth[i].cut_element = results[i] >> 32;
        }
}

void device_group_collect(const struct device_group_tensor *tensors, size_t n_tensors, const void *results)
{
    const uint64_t *at = static_cast<const uint64_t *>(results);
    bool is_last = is_last_round(tensors, n_tensors);
    for (size_t t = 0; t < n_tensors; t++) {
        enum device_group_pass pass = pass_of(&tensors[t], is_last);
        collect_one(&tensors[t], pass, at);
        at += results_of(&tensors[t], pass);
    }
}
