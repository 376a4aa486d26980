/*
 * task_vector.c: task_arithmetic, ties, dare_linear, dare_ties and mergealign.
 *
 * What lives here: these methods as rows of one table (sparsifier x consensus, with mergekit's defaults), and how their
 * parameters become a TASK_VECTOR operation. What it must not know: elements (task_vector_math.h), how the k-th
 * magnitude is found, configs, tiles.
 */
#include "common/philox.h"
#include "methods/families.h"

#include <math.h>
#include <stdio.h>

enum { P_WEIGHT, P_DENSITY, P_NORMALIZE, P_RESCALE, P_LAMBDA, P_INT8_MASK, P_TRIM };

enum { TRIM_TENSOR, TRIM_GLOBAL };
static const char *const trim_words[] = {[TRIM_TENSOR] = "tensor", [TRIM_GLOBAL] = "global", NULL};

static const char *const rescale_words[] = {
    [RESCALE_NONE] = "false", [RESCALE_L1] = "true", [RESCALE_INV_DENSITY] = "inv_density", NULL};

/* One parameter list for all; methods differ in defaults and in which parameters do anything. */
#define TASK_VECTOR_PARAMS(sparse, weight_is_required, normalize_default, rescale_default)                             \
    [P_WEIGHT] = {.name = "weight",                                                                                    \
                  .help = "factor of this model's task vector",                                                        \
                  .type = METHOD_NUMBER,                                                                               \
                  .per_model = true,                                                                                   \
                  .required = (weight_is_required),                                                                    \
                  .default_value = 0.5,                                                                                \
                  .min = -INFINITY,                                                                                    \
                  .max = INFINITY},                                                                                    \
    [P_DENSITY] = {.name = "density",                                                                                  \
                   .help = "fraction of this model's task vector that is kept",                                        \
                   .type = METHOD_NUMBER,                                                                              \
                   .per_model = true,                                                                                  \
                   .no_effect = !(sparse),                                                                             \
                   .default_value = 1.0,                                                                               \
                   .min = 0.0,                                                                                         \
                   .max = 1.0},                                                                                        \
    [P_NORMALIZE] = {.name = "normalize",                                                                              \
                     .help = "divide by the sum of the weights that take part in an element",                          \
                     .type = METHOD_FLAG,                                                                              \
                     .default_value = (normalize_default),                                                             \
                     .max = 1.0},                                                                                      \
    [P_RESCALE] = {.name = "rescale",                                                                                  \
                   .help = "true: restore the task vector's L1 norm after sparsifying; inv_density: divide by the "    \
                           "density, as the DARE paper does",                                                          \
                   .type = METHOD_CHOICE,                                                                              \
                   .no_effect = !(sparse),                                                                             \
                   .default_value = (rescale_default),                                                                 \
                   .max = RESCALE_INV_DENSITY,                                                                         \
                   .choices = rescale_words},                                                                          \
    [P_LAMBDA] = {.name = "lambda",                                                                                    \
                  .help = "factor of the merged task vector",                                                          \
                  .type = METHOD_NUMBER,                                                                               \
                  .default_value = 1.0,                                                                                \
                  .min = -INFINITY,                                                                                    \
                  .max = INFINITY},                                                                                    \
    [P_INT8_MASK] = {.name = "int8_mask",                                                                              \
                     .help = "accepted for mergekit's sake; changes no number",                                        \
                     .type = METHOD_FLAG,                                                                              \
                     .no_effect = true,                                                                                \
                     .max = 1.0}

static const struct method_param task_arithmetic_params[] = {TASK_VECTOR_PARAMS(false, true, 0.0, RESCALE_NONE)};
static const struct method_param ties_params[] = {
    TASK_VECTOR_PARAMS(true, true, 1.0, RESCALE_NONE),
    [P_TRIM] = {.name = "trim",
                .help =
                    "tensor: keep the largest changes of each tensor; global: those of the whole model, as the paper",
                .type = METHOD_CHOICE,
                .default_value = TRIM_TENSOR,
                .max = TRIM_GLOBAL,
                .choices = trim_words},
};
static const struct method_param dare_params[] = {TASK_VECTOR_PARAMS(true, true, 0.0, RESCALE_L1)};
static const struct method_param mergealign_params[] = {TASK_VECTOR_PARAMS(false, false, 1.0, RESCALE_NONE)};

/* ---- parameters to operation -------------------------------------------------------------------------------- */

/* KEEP_TOP with k = trunc(density * N) in double, as Python's int() has it, and at least 1 for a positive density (since
 * mergekit 0.1.5; before, it stopped with an assertion). */
static void keep_top(struct merge_model *model, double density, uint64_t n_elems)
{
    double k = fmax(trunc(density * (double)n_elems), 1.0);
    if (!(density > 0.0)) {
        model->keep = KEEP_NONE;
    } else if (density >= 1.0 || k >= (double)n_elems) {
        model->keep = KEEP_ALL;
    } else {
        model->keep = KEEP_TOP;
        model->k = (uint64_t)k;
    }
}

/* KEEP_TOP with a threshold that the statistics of the whole model find; all that equal it are kept. */
static void keep_top_of_model(struct merge_model *model, double density, int index)
{
    model->keep = !(density > 0.0) ? KEEP_NONE : density >= 1.0 ? KEEP_ALL : KEEP_TOP;
    model->tie_index = UINT64_MAX;
    model->density = density;
    model->index = index;
}

static void keep_random(struct merge_model *model, double density)
{
    double below = floor(density * 65536.0 + 0.5);
    if (below >= 65536.0) {
        model->keep = KEEP_ALL;
        model->keep_below = 65536;
    } else if (!(below >= 1.0)) {
        model->keep = KEEP_NONE;
    } else {
        model->keep = KEEP_RANDOM;
        model->keep_below = (uint32_t)below;
    }
}

static enum wm_status task_vector_prepare(const struct method_args *args, struct merge_op *op,
                                          enum merge_keep sparsifier, char message[256])
{
    op->family = MERGE_TASK_VECTOR;
    op->sum_from_zero = args->n_models > 0; /* no task vector at all: the base is copied */
    if (!args->has_base) {
        snprintf(message, 256, "%s works on differences from a base model; name it as base_model", op->method->name);
        return WM_BAD_CONFIG;
    }
    enum merge_rescale rescale = sparsifier == KEEP_ALL ? RESCALE_NONE : (enum merge_rescale)args->params[P_RESCALE];
    float sum = 0.0f;
    for (int m = 0; m < args->n_models; m++) {
        struct merge_model *model = &op->models[m];
        enum wm_status st = method_weight(&model->weight, args->model_params[m][P_WEIGHT], "weight", message);
        if (st != WM_OK)
            return st;
        sum = sum + model->weight;
        double density = args->model_params[m][P_DENSITY];
        if (op->model_statistics)
            keep_top_of_model(model, density, args->model_index[m]);
        else if (sparsifier == KEEP_TOP)
            keep_top(model, density, args->n_elems);
        else if (sparsifier == KEEP_RANDOM)
            keep_random(model, density);
        if (model->keep == KEEP_RANDOM)
            model->mask_key = philox_mask_key(args->seed, args->tensor_name, (uint32_t)args->model_index[m]);
        if (rescale == RESCALE_INV_DENSITY && model->keep == KEEP_RANDOM)
            model->scale = (float)(65536.0 / (double)model->keep_below);
        else if (rescale == RESCALE_INV_DENSITY && model->keep == KEEP_TOP)
            model->scale = (float)(1.0 / density);
        if ((model->keep == KEEP_TOP || model->keep == KEEP_RANDOM) && rescale != RESCALE_NONE)
            op->rescale = rescale;
    }
    if (op->model_statistics && op->rescale == RESCALE_L1) {
        snprintf(message, 256,
                 "`rescale: true` restores each tensor's norm, but `trim: global` trims the model as a whole; use "
                 "rescale: false or inv_density, or trim: tensor");
        return WM_BAD_CONFIG;
    }
    op->normalize = args->params[P_NORMALIZE] != 0.0;
    /* Without a vote the divisor is known now; mergekit replaces a sum near zero by 1 (3.8, step 5). */
    op->divisor = op->normalize && !(fabsf(sum) < 1e-8f) ? sum : 1.0f;
    return method_weight(&op->lambda, args->params[P_LAMBDA], "lambda", message);
}

/* Each method is a sparsifier and a way to agree on signs. */
#define DEFINE_PREPARE(prepare_name, sparsifier, vote)                                                                 \
    static enum wm_status prepare_name(const struct method *method, const struct method_args *args,                    \
                                       struct merge_op *op, char message[256])                                         \
    {                                                                                                                  \
        method_start_op(op, method, args);                                                                             \
        op->consensus = (vote);                                                                                        \
        return task_vector_prepare(args, op, (sparsifier), message);                                                   \
    }

DEFINE_PREPARE(task_arithmetic_prepare, KEEP_ALL, false)
DEFINE_PREPARE(dare_linear_prepare, KEEP_RANDOM, false)
DEFINE_PREPARE(dare_ties_prepare, KEEP_RANDOM, true)

static enum wm_status ties_prepare(const struct method *method, const struct method_args *args, struct merge_op *op,
                                   char message[256])
{
    method_start_op(op, method, args);
    op->consensus = true;
    op->model_statistics = args->n_models > 0 && args->params[P_TRIM] == TRIM_GLOBAL;
    return task_vector_prepare(args, op, KEEP_TOP, message);
}

/* ---- descriptors -------------------------------------------------------------------------------------------- */

#define TASK_VECTOR_METHOD(param_list, fewest, prepare_function)                                                       \
    .base = METHOD_BASE_REQUIRED, .min_models = (fewest), .max_models = METHOD_MAX_MODELS, .params = (param_list),     \
    .n_params = METHOD_COUNT_PARAMS(param_list), .prepare = (prepare_function)

const struct method task_arithmetic_method = {
    .name = "task_arithmetic",
    .summary = "base plus the weighted sum of task vectors",
    .formula = "r = b + lambda (w1 (x1 - b) + w2 (x2 - b) + ...)",
    .source = "Ilharco et al. 2023, Editing models with task arithmetic, arXiv 2212.04089; mergekit `task_arithmetic`",
    .notes = "normalize is false by default, so weights that add up to more than 1 move further than any one model.",
    .citation_url = "https://arxiv.org/abs/2212.04089",
    TASK_VECTOR_METHOD(task_arithmetic_params, 1, task_arithmetic_prepare),
};

const struct method ties_method = {
    .name = "ties",
    .summary = "trim small changes, elect a sign per element, merge the task vectors that agree",
    .formula = "d_m = the k = trunc(density N) largest |x_m - b| of the tensor, the rest 0\n"
               "v_m = w_m d_m, s = sign(v1 + v2 + ...), a zero sum counting as plus\n"
               "r = b + lambda (sum of v_m with sign s) / (sum of their w_m)\n"
               "trim: global: d_m = the |x_m - b| of the whole model from its (1 + trunc(density N))-th largest on, N\n"
               "counting the model; a zero sum takes the sign that most elements of the model elected",
    .source = "Yadav et al. 2023, TIES-Merging, arXiv 2306.01708, section 4; `trim: global` as the authors' code, the "
              "default as mergekit `ties`",
    .notes =
        "As in mergekit, the trim is per tensor with exactly k elements kept (equal magnitudes: lowest index first),\n"
        "weights apply before the vote, and the divisor counts agreeing models only. A positive density keeps at "
        "least\n"
        "one element (as mergekit 0.1.5). `trim: global` is the paper's rule, with weight 1: one threshold per model,\n"
        "found in three more passes over all checkpoints; every element that equals it is kept; each model needs one\n"
        "density for all tensors (0 still keeps none). If no sign has the majority, a zero sum counts as minus.",
    .citation_url = "https://arxiv.org/abs/2306.01708",
    TASK_VECTOR_METHOD(ties_params, 1, ties_prepare),
};

const struct method dare_linear_method = {
    .name = "dare_linear",
    .summary = "drop random elements of each task vector, rescale, then add",
    .formula = "d_m = (x_m - b) where a random draw keeps it (probability density), else 0, times s_m\n"
               "r = b + lambda (w1 d1 + w2 d2 + ...)",
    .source = "Yu et al. 2024, Language models are Super Mario (DARE), arXiv 2311.03099; mergekit `dare_linear`",
    .notes =
        "rescale: true makes s_m restore the tensor's L1 norm (mergekit since 0.1); inv_density is the paper's\n"
        "s_m = 1/density. Draws depend on seed, tensor name, model and element only: the same mask for any number of\n"
        "threads, devices or tiles. The density is drawn in steps of 2^-16. Masks differ from mergekit's.",
    .citation_url = "https://arxiv.org/abs/2311.03099",
    TASK_VECTOR_METHOD(dare_params, 1, dare_linear_prepare),
};

const struct method dare_ties_method = {
    .name = "dare_ties",
    .summary = "drop random elements of each task vector, rescale, elect signs, merge what agrees",
    .formula = "d_m as in dare_linear, v_m = w_m d_m, s = sign(v1 + v2 + ...), a zero sum counting as plus\n"
               "r = b + lambda (sum of v_m with sign s)\n"
               "with normalize: divided by the sum of the agreeing w_m",
    .source = "Yu et al. 2024, DARE, arXiv 2311.03099, with the vote of TIES, arXiv 2306.01708; mergekit `dare_ties`",
    .notes = "normalize is false by default (mergekit), unlike ties. See dare_linear for rescale and the masks.",
    .citation_url = "https://arxiv.org/abs/2311.03099",
    TASK_VECTOR_METHOD(dare_params, 1, dare_ties_prepare),
};

const struct method mergealign_method = {
    .name = "mergealign",
    .summary = "interpolate domain and alignment task vectors to keep both skill and safety",
    .formula = "r = b + lambda (w_d (x_expert - b) + w_a (x_aligned - b)) / (w_d + w_a)",
    .source = "Thakkar et al. 2025, Combining domain and alignment vectors (MergeAlign), arXiv 2411.06824",
    .notes =
        "List the domain expert(s) and the aligned (instruct) model; base_model is what both were tuned from. The\n"
        "paper calls it an interpolation of the two task vectors but prints no coefficients: equal weights of 0.5\n"
        "are our assumption. It is task_arithmetic with normalize: true and optional weights.",
    .citation_url = "https://arxiv.org/abs/2411.06824",
    TASK_VECTOR_METHOD(mergealign_params, 2, task_arithmetic_prepare),
};
