/*
 * task_vector_math.h: the arithmetic of the TASK_VECTOR family on one element.
 *
 * What lives here: r = b + lambda * (sum_m agree_m * w_m * s_m * keep_m * (x_m - b)) [/ divisor] as single fp32
 * operations in mergekit's order (mergekit notes 3.8 and 3.9): delta, mask, rescale, weight, vote, sum from +0 left to
 * right, division, lambda, base. What it must not know: types, tiles, where thresholds come from.
 *
 * Kept or not is a selection, not a product with 0: the two differ only for NaN and infinity, and an element with a
 * non-finite input is NaN in this family whatever the masks say (the drivers see to that).
 */
#ifndef WM_KERNELS_TASK_VECTOR_MATH_H
#define WM_KERNELS_TASK_VECTOR_MATH_H

#include "common/number_format.h"

HD float task_vector_delta(float x, float b)
{
    return HD_RESULT(x - b);
}

/* |delta| as 31 bits: its order as an integer is its order as a magnitude. Signed, since compares of signed integers
 * are what every vector instruction set has. Every NaN is the same one, the largest: what arithmetic makes is quiet, so
 * none is less, and how much more is the machine's (hd.h). */
HD int32_t task_vector_magnitude(float delta)
{
    int32_t magnitude = (int32_t)(float_bits(delta) & FLOAT_ABS_MASK);
    return magnitude < (int32_t)F32_NAN ? magnitude : (int32_t)F32_NAN;
}

/* KEEP_TOP: `above` is threshold - 1 up to the tie index and threshold after it; -1 keeps everything, INT32_MAX
 * nothing. Any NaN is more than an `above` that is none, and behind the tie index of a threshold that is one the element is
 * NaN, kept or not: no need to make them the same. */
HD float task_vector_keep_top(float delta, int32_t above)
{
    return (int32_t)(float_bits(delta) & FLOAT_ABS_MASK) > above ? delta : 0.0f;
}

/* KEEP_RANDOM */
HD float task_vector_keep_random(float delta, uint32_t draw, uint32_t keep_below)
{
    return draw < keep_below ? delta : 0.0f;
}

/* Weights come before the vote (mergekit 3.8, step 4); a scale of 1 changes no bit. */
HD float task_vector_value(float kept, float scale, float weight)
{
    return (kept * scale) * weight;
}

/* The least sum that elects plus. A zero sum does unless the whole model votes otherwise (struct merge_op's plus_from); a
 * NaN sum (overflow both ways) counts as minus, as PyTorch's where(total >= 0) has it. */
#define PLUS_WITH_ZERO    0.0f
#define PLUS_WITHOUT_ZERO 1.40129846e-45f /* 2^-149 */

HD int task_vector_elects_plus(float total, float plus_from)
{
    return total >= plus_from;
}

/* The sign bit that turns agreeing values positive: nothing when plus is elected. */
HD uint32_t task_vector_vote(float total, float plus_from)
{
    return task_vector_elects_plus(total, plus_from) ? 0u : 0x80000000u;
}

/* Positive exactly when the value agrees with the vote; zero and NaN agree with no sign. */
HD float task_vector_agreement(float value, uint32_t vote)
{
    return float_from_bits(float_bits(value) ^ vote);
}

HD float task_vector_vote_divisor(float agreeing_weights)
{
    return agreeing_weights == 0.0f ? 1.0f : agreeing_weights;
}

/* lambda 1 changes no bit, so it needs no branch. */
HD float task_vector_result(float b, float mixed, float lambda)
{
    return b + mixed * lambda;
}

#endif
