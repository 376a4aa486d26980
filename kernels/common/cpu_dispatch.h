/*
 * cpu_dispatch.h: choosing among the compiled variants of the CPU drivers.
 *
 * What lives here: the table of functions that one instruction set provides, their declarations, and the scratch memory
 * of a thread. All variants give the same bytes, so the choice is about speed alone. Plain function pointers, since
 * ifunc and target_clones run before the sanitizers do. What it must not know: what the drivers compute.
 */
#ifndef WM_KERNELS_CPU_DISPATCH_H
#define WM_KERNELS_CPU_DISPATCH_H

#include "common/cpu_isa.h"
#include "common/draw_block.h"
#include "methods/tile.h"

struct model_statistics;

struct cpu_kernels {
    const char *isa;
    void (*statistics_tile)(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                            struct cpu_scratch *scratch);
    void (*combine_tile)(const struct merge_op *op, const struct merge_tile *tile, struct cpu_scratch *scratch,
                         struct merge_report *report);
    void (*guess_tile)(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                       struct cpu_scratch *scratch, struct merge_report *report);
    void (*model_statistics_tile)(const struct merge_op *op, struct model_statistics *ms, const struct merge_tile *tile,
                                  struct cpu_scratch *scratch);
    void (*convert_tile)(const void *in, enum wm_dtype in_dtype, void *out, enum wm_dtype out_dtype, size_t n);
};

#define CPU_DECLARE_VARIANT(isa)                                                                                       \
    void statistics_tile_##isa(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,         \
                               struct cpu_scratch *scratch);                                                           \
    void combine_tile_##isa(const struct merge_op *op, const struct merge_tile *tile, struct cpu_scratch *scratch,     \
                            struct merge_report *report);                                                              \
    void guess_tile_##isa(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,              \
                          struct cpu_scratch *scratch, struct merge_report *report);                                   \
    void model_statistics_tile_##isa(const struct merge_op *op, struct model_statistics *ms,                           \
                                     const struct merge_tile *tile, struct cpu_scratch *scratch);                      \
    void convert_tile_##isa(const void *in, enum wm_dtype in_dtype, void *out, enum wm_dtype out_dtype, size_t n);
CPU_DECLARE_VARIANT(portable)
CPU_DECLARE_VARIANT(avx2)
CPU_DECLARE_VARIANT(avx512)
#undef CPU_DECLARE_VARIANT

/* ---- scratch memory of one thread --------------------------------------------------------------------------- */

enum {
    CPU_BLOCK_ELEMS = 1024,     /* elements that the drivers work on at a time: a few arrays of them fit the L1 cache */
    CPU_HISTOGRAM_BINS = 65536, /* the coarse histogram; the fine one needs half                                   */
    CPU_HISTOGRAM_COPIES = 2,   /* neighbours go to different copies, so equal ones do not wait for each other     */
    CPU_HISTOGRAM_MODELS = 4,   /* models that are counted in one walk over the base                               */
    CPU_SAMPLE_ELEMS = 32768    /* of a tile, to guess where a k-th magnitude is                                    */
};

struct cpu_scratch {
    _Alignas(64) float base[CPU_BLOCK_ELEMS];
    _Alignas(64) float inputs[METHOD_MAX_MODELS][CPU_BLOCK_ELEMS];
    _Alignas(64) float weights[CPU_BLOCK_ELEMS], sum[CPU_BLOCK_ELEMS], divisor[CPU_BLOCK_ELEMS];
    _Alignas(64) uint32_t magnitudes[CPU_BLOCK_ELEMS];
    _Alignas(64) uint16_t keys[CPU_BLOCK_ELEMS];
    _Alignas(64) uint32_t sample[CPU_SAMPLE_ELEMS], members[CPU_SAMPLE_ELEMS + 16];
    _Alignas(64) uint32_t draw_words[METHOD_MAX_MODELS][DRAW_BLOCK_WORDS(CPU_BLOCK_ELEMS)];
    _Alignas(64) double lanes[METHOD_MAX_MODELS * (METHOD_MAX_MODELS + 1) / 2][16];
    /* [models][copies][bins]; all zero between two tiles. From calloc: pages that no magnitude touches stay unmapped. */
    uint32_t *histograms;
};

#endif
