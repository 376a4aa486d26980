/*
 * gram_vectors.cu: dot products of all pairs of models' rows or columns, on a CUDA device.
 *
 * maths       <v_i, v_j>, i <= j, of every row or column of the matrices x_m, or x_m - b in the TASK_VECTOR family
 * shapes      any number of elements at any address; tiles begin and end anywhere in a row; F32, F16, BF16 and F64, mixed
 *             as they come; up to 64 models
 * launch      rows: blocks of 256 threads, 16 of them a row; columns: blocks of 128 threads, each a column. Two models: one
 *             launch for all pairs; more: one block of each per square of 4 x 4 models
 * bytes       width of each input read once per element (and square, from the L2 cache). Rows: 8 bytes written per row and
 *             pair. Columns: 8 bytes read and written per column, pair and tile
 * reduction   fp64. Rows: element c belongs to lane c mod 16, each lane adds in ascending order, the lanes in the tree of
 *             fixed_sum.h. Columns: in ascending order
 * limits      launches of one tensor's tiles follow each other in order on one stream: sums that a tile leaves open wait in
 *             the results for the next. Each lane of a row, and each column, is one chain of additions: a few hundred of
 *             them, however long, leave most of the device idle
 * measured    not measured yet: no GPU run so far
 */
#include "common/launch.cuh"
#include "statistics/device_passes.h"
#include "statistics/gram_walk.cuh"

#define ROW_THREADS    256
#define ROWS_PER_BLOCK (ROW_THREADS / FIXED_SUM_LANES)
#define COLUMN_THREADS 128

/* What the kernels of rows and of columns are told alike. */
template <class ARGS>
static inline ARGS vector_args(const struct merge_op *op, const struct merge_tile *tile, int *dtype)
{
    ARGS a = {};
    a.in = gram_inputs_of(op, tile, dtype);
    a.n_elems = tile->n_elems;
    a.row_elems = static_cast<size_t>(op->row_elems);
    a.column = static_cast<size_t>(tile->first_elem % op->row_elems);
    return a;
}

/* `two` for two models; more of them take n_blocks of `more` per square. */
template <class ARGS>
static inline cudaError_t launch_squares(void (*two)(ARGS), void (*more)(ARGS), unsigned n_blocks, unsigned n_threads,
                                         const ARGS &a, cudaStream_t stream)
{
    if (a.in.n_models > 2)
        return WM_LAUNCH(more, n_blocks * gram_squares<GRAM_SIDE>(a.in.n_models), n_threads, 0, stream, a);
    return WM_LAUNCH(two, n_blocks, n_threads, 0, stream, a);
}

/* ---- rows ---------------------------------------------------------------------------------------------------- */

struct gram_row_args {
    gram_inputs in;
    size_t n_elems;
    size_t row_elems, column;  /* column: of the tile's first element */
    size_t n_rows, n_pieces;   /* pieces: rows that have elements in the tile */
    double *sums;              /* [n_pairs][n_rows], of the tile's first row  */
    const double *open_before; /* [n_pairs][FIXED_SUM_LANES] of the row in whose middle the tile begins, ... */
    double *open_after;        /* ... and of the one in whose middle it ends: other memory, for another block */
};

/* fixed_sum_lanes over 16 neighbouring threads; the first one has the sum. */
static __device__ inline double sum_over_lanes(double sum)
{
#pragma unroll
    for (int half = FIXED_SUM_LANES / 2; half > 0; half /= 2)
        sum = sum + __shfl_down_sync(0xffffffffu, sum, half, FIXED_SUM_LANES);
    return sum;
}

template <class ELEMS, int SIDE>
static __global__ void __launch_bounds__(ROW_THREADS, 2) gram_row_kernel(const __grid_constant__ gram_row_args a)
{
    const unsigned n_squares = gram_squares<SIDE>(a.in.n_models);
    const gram_square square = gram_square_at<SIDE>(blockIdx.x % n_squares, a.in.n_models);
    const size_t piece = static_cast<size_t>(blockIdx.x / n_squares) * ROWS_PER_BLOCK + threadIdx.x / FIXED_SUM_LANES;
    const size_t lane = threadIdx.x % FIXED_SUM_LANES, column = piece == 0 ? a.column : 0;
    const size_t begin = piece == 0 ? 0 : piece * a.row_elems - a.column;
    const size_t row_end = (piece + 1) * a.row_elems - a.column, end = row_end < a.n_elems ? row_end : a.n_elems;
    const size_t first = begin + (lane + FIXED_SUM_LANES - column % FIXED_SUM_LANES) % FIXED_SUM_LANES;
    const bool is_here = piece < a.n_pieces;
    double sums[SIDE][SIDE] = {};
#pragma unroll
    for (int i = 0; i < SIDE; i++)
#pragma unroll
        for (int j = 0; j < SIDE; j++)
            if (is_here && column > 0 && square.i + i <= square.j + j && square.j + j < a.in.n_models) {
                const int pair = gram_pair(square.i + i, square.j + j, a.in.n_models);
                sums[i][j] = a.open_before[static_cast<size_t>(pair) * FIXED_SUM_LANES + lane];
            }
    gram_walk<ELEMS, SIDE>(a.in, square, first, FIXED_SUM_LANES,
                           is_here && first < end ? (end - first + FIXED_SUM_LANES - 1) / FIXED_SUM_LANES : 0, sums);
#pragma unroll
    for (int i = 0; i < SIDE; i++)
#pragma unroll
        for (int j = 0; j < SIDE; j++) {
            const double of_row = sum_over_lanes(sums[i][j]);
            if (!is_here || square.i + i > square.j + j || square.j + j >= a.in.n_models)
                continue;
            const size_t pair = static_cast<size_t>(gram_pair(square.i + i, square.j + j, a.in.n_models));
            if (row_end > a.n_elems)
                a.open_after[pair * FIXED_SUM_LANES + lane] = sums[i][j];
            else if (lane == 0)
                a.sums[pair * a.n_rows + piece] = of_row;
        }
}

static cudaError_t launch_rows(const struct merge_op *op, const struct statistics *s, const struct merge_tile *tile,
                               double *results, cudaStream_t stream)
{
    int dtype;
    gram_row_args a = vector_args<gram_row_args>(op, tile, &dtype);
    a.n_rows = static_cast<size_t>(op->n_rows);
    a.n_pieces = (a.column + a.n_elems + a.row_elems - 1) / a.row_elems;
    a.sums = results + tile->first_elem / op->row_elems;
    double *open = results + device_open_rows_at(s);
    size_t n_open = static_cast<size_t>(s->n_pairs) * FIXED_SUM_LANES;
    a.open_before = open + tile->index % 2 * n_open;
    a.open_after = open + (tile->index + 1) % 2 * n_open;
    return launch_squares(WALK_KERNEL_BY_DTYPE(dtype, gram_row_kernel, 2),
                          WALK_KERNEL_BY_DTYPE(dtype, gram_row_kernel, GRAM_SIDE),
                          launch_blocks(a.n_pieces, ROWS_PER_BLOCK), ROW_THREADS, a, stream);
}

/* ---- columns ------------------------------------------------------------------------------------------------- */

struct gram_column_args {
    gram_inputs in;
    size_t n_elems;
    size_t row_elems, column; /* column: of the tile's first element               */
    size_t n_columns;         /* that have elements in the tile, counted from this one */
    double *sums;             /* [n_pairs][row_elems] */
};

template <class ELEMS, int SIDE>
static __global__ void __launch_bounds__(COLUMN_THREADS, 4)
    gram_column_kernel(const __grid_constant__ gram_column_args a)
{
    const unsigned n_squares = gram_squares<SIDE>(a.in.n_models);
    const gram_square square = gram_square_at<SIDE>(blockIdx.x % n_squares, a.in.n_models);
    const size_t first = static_cast<size_t>(blockIdx.x / n_squares) * COLUMN_THREADS + threadIdx.x;
    if (first >= a.n_columns)
        return;
    const size_t column = a.column + first < a.row_elems ? a.column + first : a.column + first - a.row_elems;
    double sums[SIDE][SIDE] = {};
#pragma unroll
    for (int i = 0; i < SIDE; i++)
#pragma unroll
        for (int j = 0; j < SIDE; j++)
            if (square.i + i <= square.j + j && square.j + j < a.in.n_models) {
                const int pair = gram_pair(square.i + i, square.j + j, a.in.n_models);
                sums[i][j] = a.sums[static_cast<size_t>(pair) * a.row_elems + column];
            }
    gram_walk<ELEMS, SIDE>(a.in, square, first, a.row_elems, (a.n_elems - first + a.row_elems - 1) / a.row_elems, sums);
#pragma unroll
    for (int i = 0; i < SIDE; i++)
#pragma unroll
        for (int j = 0; j < SIDE; j++)
            if (square.i + i <= square.j + j && square.j + j < a.in.n_models) {
                const int pair = gram_pair(square.i + i, square.j + j, a.in.n_models);
                a.sums[static_cast<size_t>(pair) * a.row_elems + column] = sums[i][j];
            }
}

static cudaError_t launch_columns(const struct merge_op *op, const struct merge_tile *tile, double *results,
                                  cudaStream_t stream)
{
    int dtype;
    gram_column_args a = vector_args<gram_column_args>(op, tile, &dtype);
    a.n_columns = a.n_elems < a.row_elems ? a.n_elems : a.row_elems;
    a.sums = results;
    return launch_squares(WALK_KERNEL_BY_DTYPE(dtype, gram_column_kernel, 2),
                          WALK_KERNEL_BY_DTYPE(dtype, gram_column_kernel, GRAM_SIDE),
                          launch_blocks(a.n_columns, COLUMN_THREADS), COLUMN_THREADS, a, stream);
}

cudaError_t device_vector_gram_launch(const struct merge_op *op, const struct statistics *s,
                                      const struct merge_tile *tile, double *results, cudaStream_t stream)
{
    return op->axis == AXIS_ROWS ? launch_rows(op, s, tile, results, stream)
                                 : launch_columns(op, tile, results, stream);
}
