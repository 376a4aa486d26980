/*
 * cpu_dispatch.c: the CPU drivers' entry points.
 *
 * What lives here: the choice of an instruction set, made when first asked for and repeatable in tests, the scratch
 * memory of a thread, and adding reports. What it must not know: what the drivers compute.
 */
#include "common/cpu_dispatch.h"
#include "convert/convert.h"
#include "statistics/model_statistics.h"

#include <stdlib.h>
#include <string.h>

#define VARIANT(name)                                                                                                  \
    {                                                                                                                  \
#name, statistics_tile_##name, combine_tile_##name, guess_tile_##name, model_statistics_tile_##name,           \
            convert_tile_##name                                                                                        \
    }
/* Best first. */
static const struct cpu_kernels variants[] = {
#ifdef WM_HAVE_X86_VARIANTS
    VARIANT(avx512),
    VARIANT(avx2),
#endif
    VARIANT(portable),
};
#undef VARIANT
enum { N_VARIANTS = sizeof variants / sizeof variants[0] };

static bool machine_has(const struct cpu_kernels *variant)
{
#ifdef WM_HAVE_X86_VARIANTS
    if (strcmp(variant->isa, "avx512") == 0)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (strcmp(variant->isa, "avx2") == 0)
        return __builtin_cpu_supports("avx2");
#endif
    return strcmp(variant->isa, "portable") == 0;
}

/* The one piece of process-wide state: which variant, as index + 1; 0: not chosen yet. Every value gives the same
 * results, so a race between two first callers is harmless. */
static int chosen;

static const struct cpu_kernels *kernels(void)
{
    int index = __atomic_load_n(&chosen, __ATOMIC_RELAXED);
    if (index == 0) {
        while (!machine_has(&variants[index]))
            index++;
        index++;
        __atomic_store_n(&chosen, index, __ATOMIC_RELAXED);
    }
    return &variants[index - 1];
}

const char *cpu_isa(void)
{
    return kernels()->isa;
}

bool cpu_isa_force(const char *isa)
{
    int index = 0;
    if (isa != NULL) {
        while (index < N_VARIANTS && strcmp(variants[index].isa, isa) != 0)
            index++;
        if (index == N_VARIANTS || !machine_has(&variants[index]))
            return false;
        index++;
    }
    __atomic_store_n(&chosen, index, __ATOMIC_RELAXED);
    return true;
}

/* ---- entry points ------------------------------------------------------------------------------------------- */

void cpu_statistics_tile(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                         struct cpu_scratch *scratch)
{
    kernels()->statistics_tile(op, s, tile, scratch);
}

void cpu_combine_tile(const struct merge_op *op, const struct statistics *s, const struct merge_tile *tile,
                      struct cpu_scratch *scratch, struct merge_report *report)
{
    (void)s; /* everything the CPU needs is in op */
    kernels()->combine_tile(op, tile, scratch, report);
}

void cpu_guess_tile(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                    struct cpu_scratch *scratch, struct merge_report *report)
{
    kernels()->guess_tile(op, s, tile, scratch, report);
}

void cpu_model_statistics_tile(const struct merge_op *op, struct model_statistics *ms, const struct merge_tile *tile,
                               struct cpu_scratch *scratch)
{
    kernels()->model_statistics_tile(op, ms, tile, scratch);
}

void cpu_convert_tile(const void *in, enum wm_dtype in_dtype, void *out, enum wm_dtype out_dtype, size_t n_elems)
{
    kernels()->convert_tile(in, in_dtype, out, out_dtype, n_elems);
}

/* ---- scratch and reports ------------------------------------------------------------------------------------ */

#define HISTOGRAM_WORDS ((size_t)CPU_HISTOGRAM_MODELS * CPU_HISTOGRAM_COPIES * CPU_HISTOGRAM_BINS)

struct cpu_scratch *cpu_scratch_new(void)
{
    struct cpu_scratch *scratch = aligned_alloc(64, sizeof *scratch); /* a multiple of 64 by its members' alignment */
    if (scratch == NULL)
        return NULL;
    scratch->histograms = calloc(HISTOGRAM_WORDS, sizeof *scratch->histograms);
    if (scratch->histograms == NULL) {
        free(scratch);
        return NULL;
    }
    return scratch;
}

void cpu_scratch_free(struct cpu_scratch *scratch)
{
    if (scratch == NULL)
        return;
    free(scratch->histograms);
    free(scratch);
}

uint64_t cpu_scratch_bytes(void)
{
    return sizeof(struct cpu_scratch) + HISTOGRAM_WORDS * sizeof(uint32_t);
}

void merge_report_init(struct merge_report *r)
{
    memset(r, 0, sizeof *r);
}

static void add_count(uint64_t *n, uint64_t *first, uint64_t more, uint64_t more_first)
{
    if (more == 0)
        return;
    if (*n == 0 || more_first < *first)
        *first = more_first;
    *n += more;
}

void merge_report_add(struct merge_report *sum, const struct merge_report *tile)
{
    for (int i = 0; i < TILE_MAX_INPUTS; i++)
        add_count(&sum->n_bad_in[i], &sum->first_bad_in[i], tile->n_bad_in[i], tile->first_bad_in[i]);
    add_count(&sum->n_bad_out, &sum->first_bad_out, tile->n_bad_out, tile->first_bad_out);
}
