/* select_kth.h: the k-th magnitude passes of the CPU driver, one function per instruction set. */
#ifndef WM_KERNELS_SELECT_KTH_H
#define WM_KERNELS_SELECT_KTH_H

#include "common/cpu_isa.h"
#include "statistics/statistics.h"

void CPU_ISA_NAME(select_kth_tile)(struct statistics *s, const struct merge_tile *tile, struct cpu_scratch *scratch);

#endif
