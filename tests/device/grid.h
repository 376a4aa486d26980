/*
 * grid.h: the grid of device_equality.c.
 *
 * What lives here: operations of every method, element types, shapes around every edge, and kinds of data. What it must not
 * know: how they are run.
 */
#ifndef WM_TESTS_DEVICE_GRID_H
#define WM_TESTS_DEVICE_GRID_H

#include "methods/tile.h"

struct setting {
    const char *name;
    double value;
};

struct operation {
    const char *method;
    int n_models;
    bool has_base;
    struct setting settings[3];
};

static const struct operation operations[] = {
    {"passthrough", 1, false, {{0}}},
    {"linear", 1, false, {{0}}},
    {"linear", 2, false, {{0}}},
    {"linear", 3, false, {{"normalize", 0}}},
    {"linear", 4, false, {{0}}},
    {"linear", 5, false, {{0}}},
    {"linear", 8, false, {{0}}},
    {"linear", 9, false, {{0}}},
    {"linear", 16, false, {{"normalize", 0}}},
    {"linear", 33, false, {{0}}},
    {"linear", 64, false, {{0}}},
    {"slerp", 2, false, {{"t", 0.3}}},
    {"nuslerp", 2, false, {{0}}},
    {"nuslerp", 2, true, {{0}}},
    {"nuslerp", 2, false, {{"nuslerp_flatten", 0}}},
    {"nuslerp", 2, true, {{"nuslerp_flatten", 0}}},
    {"nuslerp", 2, false, {{"nuslerp_flatten", 0}, {"nuslerp_row_wise", 1}}},
    {"nuslerp", 2, true, {{"nuslerp_flatten", 0}, {"nuslerp_row_wise", 1}}},
    {"task_arithmetic", 1, true, {{0}}},
    {"task_arithmetic", 2, true, {{"lambda", 0.7}}},
    {"task_arithmetic", 3, true, {{"normalize", 1}}},
    {"task_arithmetic", 7, true, {{0}}},
    {"task_arithmetic", 8, true, {{0}}},
    {"task_arithmetic", 13, true, {{0}}},
    {"task_arithmetic", 33, true, {{"normalize", 1}, {"lambda", 0.7}}},
    {"mergealign", 2, true, {{0}}},
    {"ties", 1, true, {{"density", 0.5}}},
    {"ties", 2, true, {{"density", 0.5}}},
    {"ties", 2, true, {{"density", 1.0}}},
    {"ties", 2, true, {{"density", 0.0}}},
    {"ties", 3, true, {{"density", 0.2}, {"lambda", 0.5}}},
    {"ties", 3, true, {{"density", 0.9}, {"normalize", 0}, {"rescale", RESCALE_L1}}},
    {"ties", 5, true, {{"density", 0.01}}},
    {"ties", 8, true, {{"density", 0.5}}},
    {"ties", 11, true, {{"density", 0.4}}},
    {"ties", 16, true, {{"density", 0.5}, {"normalize", 0}}},
    {"ties", 64, true, {{"density", 0.3}}},
    {"ties", 2, true, {{"density", 0.5}, {"trim", 1}}},
    {"ties", 4, true, {{"density", 0.5}, {"trim", 1}, {"lambda", 0.7}}},
    {"ties", 9, true, {{"density", 0.5}, {"trim", 1}}},
    {"dare_linear", 2, true, {{"density", 0.5}, {"rescale", RESCALE_INV_DENSITY}}},
    {"dare_linear", 3, true, {{"density", 0.3}, {"rescale", RESCALE_L1}}},
    {"dare_linear", 16, true, {{"density", 0.4}, {"rescale", RESCALE_INV_DENSITY}}},
    {"dare_ties", 2, true, {{"density", 0.5}, {"rescale", RESCALE_NONE}}},
    {"dare_ties", 3, true, {{"density", 0.1}, {"normalize", 1}}},
    {"dare_ties", 8, true, {{"density", 0.7}}},
    {"dare_ties", 10, true, {{"density", 0.5}}},
    {"dare_ties", 33, true, {{"density", 0.6}, {"normalize", 1}}},
    {"dare_ties", 64, true, {{"density", 0.2}}},
};
#define N_OPERATIONS (sizeof operations / sizeof *operations)

/* Types of the base, of even and of odd models, and of the output. */
static const enum wm_dtype types[][4] = {
    {WM_BF16, WM_BF16, WM_BF16, WM_BF16}, {WM_F16, WM_F16, WM_F16, WM_F16},   {WM_F32, WM_F32, WM_F32, WM_F32},
    {WM_BF16, WM_F32, WM_F16, WM_BF16},   {WM_F32, WM_BF16, WM_BF16, WM_F16}, {WM_F64, WM_F64, WM_F32, WM_F64},
};
#define N_TYPES (sizeof types / sizeof *types)

/* Rows and columns: DESIGN section 7's edges, around groups of 8, warps, and the chunk of 16384. */
static const struct {
    uint64_t n_rows, row_elems;
} shapes[] = {{1, 1},     {1, 7},      {31, 1},    {4, 8},      {3, 11},    {5, 13},    {1, 511},
              {8, 512},   {37, 129},   {1, 16383}, {128, 128},  {1, 16385}, {3, 16384}, {7, 9362},
              {96, 1024}, {1, 131071}, {513, 257}, {640, 1000}, {3, 40001}, {40000, 3}};
#define N_SHAPES (sizeof shapes / sizeof *shapes)

/* What the inputs hold. */
enum values { VALUES_USUAL, VALUES_EQUAL, VALUES_WILD, N_VALUES };
static const char *const value_names[N_VALUES] = {"fine-tunes", "equal deltas", "infinities and NaN"};

struct grid_case {
    const struct operation *operation;
    const enum wm_dtype *types;
    uint64_t n_rows, row_elems, tile_elems;
    enum values values;
    bool shifted;  /* tensors start one element past an aligned address */
    bool searches; /* the device ends the search for k-th magnitudes alone, else the host leads it pass by pass */
};

#endif
