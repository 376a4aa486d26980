/*
 * linear.c: the methods linear and passthrough.
 *
 * What lives here: their descriptors and how their parameters become a LINEAR operation. What it must not know:
 * elements (linear_math.h), configs, tiles.
 */
#include "methods/families.h"

#include <math.h>
#include <stdio.h>

/* ---- linear ------------------------------------------------------------------------------------------------- */

enum { LINEAR_WEIGHT, LINEAR_NORMALIZE };

static const struct method_param linear_params[] = {
    [LINEAR_WEIGHT] = {.name = "weight",
                       .help = "factor of this model",
                       .type = METHOD_NUMBER,
                       .per_model = true,
                       .required = true,
                       .min = -INFINITY,
                       .max = INFINITY},
    [LINEAR_NORMALIZE] = {.name = "normalize",
                          .help = "divide by the sum of the weights",
                          .type = METHOD_FLAG,
                          .default_value = 1.0,
                          .max = 1.0},
};

static enum wm_status linear_prepare(const struct method *method, const struct method_args *args, struct merge_op *op,
                                     char message[256])
{
    method_start_op(op, method, args);
    op->family = MERGE_LINEAR;
    op->sum_from_zero = true;
    float sum = 0.0f;
    for (int m = 0; m < args->n_models; m++) {
        enum wm_status st =
            method_weight(&op->models[m].weight, args->model_params[m][LINEAR_WEIGHT], "weight", message);
        if (st != WM_OK)
            return st;
        sum =
            sum + op->models[m].weight; /* in fp32, left to right: the divisor that mergekit uses with dtype float32 */
    }
    op->normalize = args->params[LINEAR_NORMALIZE] != 0.0;
    if (op->normalize && (sum == 0.0f || !isfinite(sum))) {
        snprintf(message, 256,
                 "the weights add up to %g, so they cannot be normalized; change a weight or set normalize: false",
                 (double)sum);
        return WM_BAD_CONFIG;
    }
    op->divisor = op->normalize ? sum : 1.0f;
    return WM_OK;
}

const struct method linear_method = {
    .name = "linear",
    .summary = "weighted average of whole models (model soup)",
    .formula = "r = (w1 x1 + w2 x2 + ...) / (w1 + w2 + ...)\n"
               "without normalize: r = w1 x1 + w2 x2 + ...",
    .source = "Wortsman et al. 2022, Model soups, arXiv 2203.05482; mergekit `linear`",
    .notes =
        "Weights are rounded to fp32, products are summed in model order in fp32, and the result is rounded once to\n"
        "the output type. mergekit divides by zero when normalized weights add up to 0; here that is an error.",
    .base = METHOD_BASE_ORDINARY,
    .min_models = 1,
    .max_models = METHOD_MAX_MODELS,
    .params = linear_params,
    .n_params = METHOD_COUNT_PARAMS(linear_params),
    .prepare = linear_prepare,
    .citation_url = "https://arxiv.org/abs/2203.05482",
};

/* ---- passthrough -------------------------------------------------------------------------------------------- */

enum { PASSTHROUGH_SCALE };

static const struct method_param passthrough_params[] = {
    [PASSTHROUGH_SCALE] = {.name = "scale",
                           .help = "multiply the model's tensors by this number; 1 copies them",
                           .type = METHOD_NUMBER,
                           .per_model = true,
                           .default_value = 1.0,
                           .min = -INFINITY,
                           .max = INFINITY},
};

static enum wm_status passthrough_prepare(const struct method *method, const struct method_args *args,
                                          struct merge_op *op, char message[256])
{
    method_start_op(op, method, args);
    op->family = MERGE_LINEAR;
    if (args->n_models != 1) {
        snprintf(message, 256,
                 "passthrough takes exactly one model, not %d; choose another merge_method to combine models",
                 args->n_models);
        return WM_BAD_CONFIG;
    }
    return method_weight(&op->models[0].weight, args->model_params[0][PASSTHROUGH_SCALE], "scale", message);
}

const struct method passthrough_method = {
    .name = "passthrough",
    .summary = "one model's tensors as they are, or scaled",
    .formula = "r = scale * x",
    .source = "mergekit `passthrough`",
    .notes = "With scale 1 values are copied exactly (the sign of zero included) and only the element type may change.",
    .base = METHOD_BASE_ORDINARY,
    .min_models = 1,
    .max_models = 1,
    .params = passthrough_params,
    .n_params = METHOD_COUNT_PARAMS(passthrough_params),
    .prepare = passthrough_prepare,
    .citation_url = "https://github.com/arcee-ai/mergekit",
};
