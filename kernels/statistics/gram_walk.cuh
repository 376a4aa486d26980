/*
 * gram_walk.cuh: dot products of a few pairs of models, added by one thread along a walk over elements.
 *
 * What lives here: the inputs of a Gram matrix as kernels take them, the squares into which its pairs are cut, and the walk
 * itself: elements first, first + step, ..., each product added to the sum before it. One thread is one lane of a block of
 * a chunk, one lane of a row, or one column, so any number of models needs no other order. What it must not know: which of
 * these it is, and where sums come from and go.
 *
 * Products of fp32 numbers are exact in fp64, so the fused multiply-add rounds as the CPU's product and sum do.
 */
#ifndef WM_KERNELS_GRAM_WALK_CUH
#define WM_KERNELS_GRAM_WALK_CUH

#include "common/vector_load.cuh"
#include "methods/task_vector_math.h"
#include "methods/tile.h"

#include <math.h>

/* Models on one side of a square: 16 sums in 32 registers. */
#define GRAM_SIDE 4

struct gram_inputs {
    const void *base; /* NULL: the vectors are the inputs */
    int base_dtype, n_models;
    int dtypes[METHOD_MAX_MODELS]; /* past the last model, which the last square may reach: the first one's */
    const void *x[METHOD_MAX_MODELS];
};
static_assert(METHOD_MAX_MODELS % GRAM_SIDE == 0, "no square reaches further");

/* From pointers of a device; *dtype becomes how all that is read can be read. */
static inline gram_inputs gram_inputs_of(const struct merge_op *op, const struct merge_tile *tile, int *dtype)
{
    gram_inputs in = {};
    int first_model = op->has_base ? 1 : 0, first_read = op->family == MERGE_TASK_VECTOR ? 0 : first_model;
    if (op->family == MERGE_TASK_VECTOR) {
        in.base = tile->in[0];
        in.base_dtype = tile->in_dtype[0];
    }
    in.n_models = op->n_models;
    for (int m = 0; m < METHOD_MAX_MODELS; m++) {
        int input = first_model + (m < op->n_models ? m : 0);
        in.x[m] = tile->in[input];
        in.dtypes[m] = tile->in_dtype[input];
    }
    *dtype = common_dtype(tile->in + first_read, tile->in_dtype + first_read, first_model + op->n_models - first_read);
    return in;
}

/* Models i.. against models j.., SIDE of each, i <= j. On the diagonal only pairs with the first one up to the second.
 * SIDE 2 is for two models (or one): there is one square then, which kernels know when they are compiled. */
struct gram_square {
    int i, j;
};

template <int SIDE> static __host__ __device__ inline unsigned gram_squares(int n_models)
{
    unsigned n = static_cast<unsigned>((n_models + SIDE - 1) / SIDE);
    return SIDE == 2 ? 1 : n * (n + 1) / 2;
}

template <int SIDE> static __device__ inline gram_square gram_square_at(unsigned number, int n_models)
{
    unsigned in_row = static_cast<unsigned>((n_models + SIDE - 1) / SIDE);
    int row = 0;
    for (; SIDE > 2 && number >= in_row; row++)
        number -= in_row--;
    return {row * SIDE, (row + static_cast<int>(number)) * SIDE};
}

/* ---- one element of an aligned input of one type, or of any other --------------------------------------------- */

template <class ELEMS> struct walk_reader {
    static const int UNROLL = 4; /* elements on their way at once */
    static __device__ inline float load(const void *data, int, size_t i)
    {
        uint32_t words[ELEMS::n_words] = {};
        words[0] =
            ELEMS::n_words == 4 ? static_cast<const uint16_t *>(data)[i] : static_cast<const uint32_t *>(data)[i];
        return ELEMS::get(words, 0);
    }
};
template <> struct walk_reader<any_elems> {
    static const int UNROLL = 1; /* it has many branches, and more of them would spill */
    static __device__ inline float load(const void *data, int dtype, size_t i)
    {
        return load_elem_any(data, dtype, i).value;
    }
};

/* Single elements of mixed types gain nothing from aligned inputs. */
#define WALK_KERNEL_BY_DTYPE(dtype, kernel, side)                                                                      \
    ((dtype) == WM_BF16  ? kernel<bf16_elems, side>                                                                    \
     : (dtype) == WM_F16 ? kernel<f16_elems, side>                                                                     \
     : (dtype) == WM_F32 ? kernel<f32_elems, side>                                                                     \
                         : kernel<any_elems, side>)

/* ---- the walk ------------------------------------------------------------------------------------------------ */

/* SAME: i == j. */
template <class ELEMS, int SIDE, bool SAME>
static __device__ inline void gram_walk_square(const gram_inputs &in, gram_square square, size_t first, size_t step,
                                               size_t n, double (&sums)[SIDE][SIDE])
{
    const void *x[2 * SIDE];
    int dtypes[2 * SIDE];
#pragma unroll
    for (int k = 0; k < (SAME ? SIDE : 2 * SIDE); k++) {
        const int m = k < SIDE ? square.i + k : square.j + k - SIDE;
        x[k] = in.x[m];
        dtypes[k] = in.dtypes[m];
    }
    [[maybe_unused]] constexpr int UNROLL = walk_reader<ELEMS>::UNROLL; /* the CPU build skips the pragma */
#pragma unroll UNROLL
    for (size_t at = 0; at < n; at++, first += step) {
        float v[2 * SIDE];
#pragma unroll
        for (int k = 0; k < (SAME ? SIDE : 2 * SIDE); k++)
            v[k] = walk_reader<ELEMS>::load(x[k], dtypes[k], first);
        float b = in.base != nullptr ? walk_reader<ELEMS>::load(in.base, in.base_dtype, first) : 0.0f;
#pragma unroll
        for (int k = 0; k < (SAME ? SIDE : 2 * SIDE); k++)
            v[k] = task_vector_delta(v[k], b); /* nothing less +0 is itself; a branch would keep loads apart */
#pragma unroll
        for (int i = 0; i < SIDE; i++)
#pragma unroll
            for (int j = SAME ? i : 0; j < SIDE; j++)
                sums[i][j] = fma(static_cast<double>(v[i]), static_cast<double>(v[SAME ? j : SIDE + j]), sums[i][j]);
    }
}

/* Adds n elements to the sums of a square. */
template <class ELEMS, int SIDE>
static __device__ inline void gram_walk(const gram_inputs &in, gram_square square, size_t first, size_t step, size_t n,
                                        double (&sums)[SIDE][SIDE])
{
    if (SIDE == 2 || square.i == square.j)
        gram_walk_square<ELEMS, SIDE, true>(in, square, first, step, n, sums);
    else
        gram_walk_square<ELEMS, SIDE, false>(in, square, first, step, n, sums);
}

#endif
