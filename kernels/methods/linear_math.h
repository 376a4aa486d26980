/*
 * linear_math.h: the arithmetic of the LINEAR family on one element.
 *
 * What lives here: r = (sum_m w_m x_m) [/ divisor] as single fp32 operations in mergekit's order (mergekit notes 3.3):
 * each product is rounded, the sum runs left to right, the division comes last. What it must not know: types, tiles.
 */
#ifndef WM_KERNELS_LINEAR_MATH_H
#define WM_KERNELS_LINEAR_MATH_H

#include "common/hd.h"

HD float linear_term(float weight, float x)
{
    return weight * x;
}

/* The first term of a sum. torch.sum starts at +0, which turns a sum of -0 terms into +0. */
HD float linear_first(float term, int sum_from_zero)
{
    return sum_from_zero ? 0.0f + term : term;
}

#endif
