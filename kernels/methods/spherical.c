/*
 * spherical.c: the methods slerp and nuslerp.
 *
 * What lives here: their descriptors, and the two coefficients that each of them takes from the Gram matrix of its two
 * vectors, in double precision on the host. What it must not know: elements, tiles, how dot products are summed.
 */
#include "methods/families.h"

#include <math.h>
#include <stdio.h>

/* ---- slerp -------------------------------------------------------------------------------------------------- */

enum { SLERP_T };
enum { USER_T }; /* index into merge_op.user */

static const struct method_param slerp_params[] = {
    [SLERP_T] = {.name = "t",
                 .help = "position between the base (0) and the other model (1)",
                 .type = METHOD_NUMBER,
                 .required = true,
                 .min = -INFINITY,
                 .max = INFINITY},
};

static enum wm_status slerp_prepare(const struct method *method, const struct method_args *args, struct merge_op *op,
                                    char message[256])
{
    method_start_op(op, method, args);
    op->family = MERGE_LINEAR;
    if (args->n_models < 1 || args->n_models > 2 || args->has_base) {
        snprintf(message, 256, "slerp takes two models, one of them the base_model, not %d", args->n_models);
        return WM_BAD_CONFIG;
    }
    float t;
    enum wm_status st = method_weight(&t, args->params[SLERP_T], "t", message);
    if (st != WM_OK)
        return st;
    op->user[USER_T] = args->params[SLERP_T];
    op->needs_gram = args->n_models == 2; /* only one model has the tensor: it is copied, as mergekit does */
    return WM_OK;
}

/* mergekit notes 3.5, in fp64. The weights apply to the vectors as they are, not to their unit vectors. */
static void slerp_coefficients(const struct merge_op *op, const double *gram, float *weights)
{
    double t = op->user[USER_T];
    double norm0 = sqrt(gram[0]), norm1 = sqrt(gram[3]);
    double cosine = gram[1];
    if (norm0 > 1e-8)
        cosine /= norm0;
    if (norm1 > 1e-8)
        cosine /= norm1;
    if (fabs(cosine) > 0.9995) {
        weights[0] = (float)(1.0 - t);
        weights[1] = (float)t;
        return;
    }
    double theta = acos(cosine), sine = sin(theta), angle = theta * t;
    weights[0] = (float)(sin(theta - angle) / sine);
    weights[1] = (float)(sin(angle) / sine);
}

const struct method slerp_method = {
    .name = "slerp",
    .summary = "spherical interpolation between two models, tensor by tensor",
    .formula = "c = <x0, x1> / (|x0| |x1|), a = arccos(c)\n"
               "r = sin((1-t) a)/sin(a) x0 + sin(t a)/sin(a) x1\n"
               "if |c| > 0.9995: r = (1-t) x0 + t x1",
    .source = "Shoemake 1985, Animating rotation with quaternion curves; mergekit `slerp`",
    .notes =
        "x0 is the base_model's tensor, seen as one vector; a norm of 1e-8 or less is not divided by. Fine-tunes of\n"
        "one base are nearly parallel, so most of their tensors take the straight line; nuslerp with a base_model\n"
        "rotates the task vectors instead. Dot products are summed in double precision.",
    .base = METHOD_BASE_ONE_OF,
    .min_models = 2,
    .max_models = 2,
    .params = slerp_params,
    .n_params = METHOD_COUNT_PARAMS(slerp_params),
    .prepare = slerp_prepare,
    .coefficients = slerp_coefficients,
    .citation_url = "https://doi.org/10.1145/325165.325242",
};

/* ---- nuslerp ------------------------------------------------------------------------------------------------ */

enum { NUSLERP_WEIGHT, NUSLERP_FLATTEN, NUSLERP_ROW_WISE };

static const struct method_param nuslerp_params[] = {
    [NUSLERP_WEIGHT] = {.name = "weight",
                        .help = "relative weight of this model; t = w1 / (w0 + w1)",
                        .type = METHOD_NUMBER,
                        .per_model = true,
                        .required = true,
                        .min = -INFINITY,
                        .max = INFINITY},
    [NUSLERP_FLATTEN] = {.name = "nuslerp_flatten",
                         .help = "treat the whole tensor as one vector; false: each row by itself",
                         .type = METHOD_FLAG,
                         .default_value = 1.0,
                         .max = 1.0},
    [NUSLERP_ROW_WISE] = {.name = "nuslerp_row_wise",
                          .help =
                              "with nuslerp_flatten: false, take columns (the first axis) as vectors instead of rows",
                          .type = METHOD_FLAG,
                          .max = 1.0},
};

static enum wm_status nuslerp_prepare(const struct method *method, const struct method_args *args, struct merge_op *op,
                                      char message[256])
{
    method_start_op(op, method, args);
    op->family = args->has_base ? MERGE_TASK_VECTOR : MERGE_LINEAR;
    if (args->has_base ? args->n_models != 2 && args->n_models != 0 : args->n_models < 1 || args->n_models > 2) {
        snprintf(message, 256, "nuslerp interpolates between exactly two models%s, not %d",
                 args->has_base ? " besides the base_model" : "", args->n_models);
        return WM_BAD_CONFIG;
    }
    if (args->n_models != 2)
        return WM_OK; /* only one model has the tensor: it is copied */
    double w0 = args->model_params[0][NUSLERP_WEIGHT], w1 = args->model_params[1][NUSLERP_WEIGHT];
    if (!isfinite(w0) || !isfinite(w1)) {
        snprintf(message, 256, "the weights %g and %g are not both finite; use ordinary numbers", w0, w1);
        return WM_BAD_CONFIG;
    }
    op->user[USER_T] = fabs(w0 + w1) < 1e-6 ? 0.5 : w1 / (w0 + w1);
    op->needs_gram = true;
    if (args->params[NUSLERP_FLATTEN] != 0.0)
        return WM_OK;
    /* The drivers know matrices only. Rows: vectors along the last axis. Columns (mergekit calls them row-wise): along
     * the first axis, whatever lies between. A tensor that is one vector needs no vectors. */
    if (args->params[NUSLERP_ROW_WISE] != 0.0) {
        uint64_t n_first = args->n_first != 0 ? args->n_first : args->n_rows;
        if (n_first > 1 && n_first < args->n_elems) {
            op->axis = AXIS_COLUMNS;
            op->n_rows = n_first;
            op->row_elems = args->n_elems / n_first;
        }
    } else if (args->n_rows > 1) {
        op->axis = AXIS_ROWS;
    }
    return WM_OK;
}

/* mergekit notes 3.6, in fp64: no 0.9995 cut-off; the straight line only where the sine vanishes. A zero vector counts as
 * orthogonal to everything. mergekit compares the sine with 1e-8, but rounding the cosine of parallel vectors to fp64
 * alone leaves sines up to 2e-8, so there opposite vectors would be divided by noise; below 1e-6 the two formulas for
 * parallel vectors agree to fp64 precision. */
static void nuslerp_coefficients(const struct merge_op *op, const double *gram, float *weights)
{
    double t = op->user[USER_T];
    double norm0 = sqrt(gram[0]), norm1 = sqrt(gram[3]);
    double cosine = gram[1] / ((norm0 < 1e-7 ? 1e-7 : norm0) * (norm1 < 1e-7 ? 1e-7 : norm1));
    cosine = cosine > 1.0 ? 1.0 : cosine;
    cosine = cosine < -1.0 ? -1.0 : cosine;
    double theta = acos(cosine), sine = sin(theta);
    if (fabs(sine) < 1e-6) {
        weights[0] = (float)(1.0 - t);
        weights[1] = (float)t;
        return;
    }
    weights[0] = (float)(sin((1.0 - t) * theta) / sine);
    weights[1] = (float)(sin(t * theta) / sine);
}

const struct method nuslerp_method = {
    .name = "nuslerp",
    .summary = "spherical interpolation between two models or, with a base, between their task vectors",
    .formula = "t = w1 / (w0 + w1)  (0.5 if the weights add up to less than 1e-6)\n"
               "c = <v0, v1> / (|v0| |v1|), a = arccos(c)\n"
               "r = [b +] sin((1-t) a)/sin(a) v0 + sin(t a)/sin(a) v1\n"
               "with v = x, or v = x - b when there is a base_model; if |sin(a)| < 1e-6: r = [b +] (1-t) v0 + t v1",
    .source = "mergekit `nuslerp`",
    .notes =
        "One vector is the whole tensor, a row (nuslerp_flatten: false) or a column (and nuslerp_row_wise: true).\n"
        "mergekit computes the angle in the model's type, where bf16 rounds most cosines to 1; here it is exact.",
    .base = METHOD_BASE_OPTIONAL,
    .min_models = 2,
    .max_models = 2,
    .params = nuslerp_params,
    .n_params = METHOD_COUNT_PARAMS(nuslerp_params),
    .prepare = nuslerp_prepare,
    .coefficients = nuslerp_coefficients,
    .citation_url = "https://github.com/arcee-ai/mergekit",
};
