/*
 * device_check.h: a sample of what a CUDA device computes, computed again by the CPU.
 *
 * What lives here: which blocks are drawn, and the CPU's turn at them for every pass. A device that computes wrongly
 * (memory without ECC, a broken unit, a kernel's bug) raises no error: only other numbers show it. What it must not know:
 * streams, where tiles come from.
 *
 * Blocks are chunks of TILE_CHUNK_ELEMS, drawn by tensor and chunk number: layers of one shape have blocks of their own,
 * and the same merge checks the same ones. Merged blocks and sums are compared bit for bit. Of a histogram, which is one for
 * the whole tensor, the drawn blocks' own counts must be contained, and no count may be missing or too many. What a pass
 * tells per tile (elements at a threshold, a tie index) is compared for tiles of which the first block is drawn.
 */
#ifndef WM_KERNELS_DEVICE_CHECK_H
#define WM_KERNELS_DEVICE_CHECK_H

#include "methods/tile.h"

struct device_sample {
    uint64_t tensor;   /* a number of the tensor's own, well mixed: a hash of its name */
    unsigned per_1000; /* of the blocks; 0: none, and nothing is compared              */
};

bool device_sample_has(const struct device_sample *sample, uint64_t chunk);

/* The merged tile is on the host. False: block *first_bad of the tensor holds other bytes than the CPU computes. `block` has
 * room for TILE_CHUNK_ELEMS results. Adds the blocks that were compared to *n_blocks. */
bool device_check_combine(const struct merge_op *op, const struct merge_tile *tile, const struct device_sample *sample,
                          struct cpu_scratch *scratch, void *block, uint64_t *n_blocks, uint64_t *first_bad);

/* One tile of the current pass, whose inputs are on the host: the CPU's numbers of its drawn blocks go into s, where
 * device_pass_collect will put the device's. */
void device_check_tile(const struct merge_op *op, struct statistics *s, const struct merge_tile *tile,
                       const struct device_sample *sample, struct cpu_scratch *scratch, void *block,
                       uint64_t *n_blocks);
/* Does the current pass compare this tile as a whole? Else its drawn blocks alone do for device_check_tile, each as a tile. */
bool device_check_wants_tile(const struct statistics *s, const struct device_sample *sample,
                             const struct merge_tile *tile);
/* After the last tile, before device_pass_collect: do the host's copy of the results and the CPU's numbers agree? Of the
 * tensor's tiles, n_tiles from first_tile on are this process's. */
bool device_check_pass(const struct statistics *s, const struct device_sample *sample, size_t first_tile,
                       size_t n_tiles, const void *results);

#endif
