/* select_small.h: k-th magnitudes of small tensors, samples and guesses on the CPU, one function per instruction set. */
#ifndef WM_KERNELS_SELECT_SMALL_H
#define WM_KERNELS_SELECT_SMALL_H

#include "common/cpu_isa.h"
#include "statistics/statistics.h"

/* STAT_KTH_WHOLE and STAT_KTH_SAMPLE. */
void CPU_ISA_NAME(select_small_tile)(struct statistics *s, const struct merge_tile *tile, struct cpu_scratch *scratch);

#endif
