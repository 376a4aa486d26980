/*
 * cases.c: which kernels are measured, on what values, and how much arithmetic their formulas hold.
 *
 * What lives here: the table of methods and model counts, the operation of one case, and synthetic weights whose deltas
 * are a few ulps of bf16, as fine-tunes' are (equal magnitudes are common, which the k-th magnitude kernels feel). What
 * it must not know: clocks, devices.
 */
#include "measure/measure.h"

#include "base/dtype.h"
#include "common/number_format.h"

#include <stdio.h>
#include <string.h>

#define ROW_ELEMS   2048
#define TRIM_GLOBAL 1 /* as the parameter of ties has it */

static const struct measure_case cases[] = {
    {.kernel = "passthrough", "passthrough", 1, .group = true},
    {.kernel = "linear, 2 models", "linear", 2},
    {.kernel = "linear, 3 models", "linear", 3, .group = true},
    {.kernel = "linear, 4 models", "linear", 4}, /* as many inputs as TIES on 3 models: what that is judged by */
    {.kernel = "linear, 8 models", "linear", 8},
    {.kernel = "linear, 16 models", "linear", 16},
    {.kernel = "linear, 3 models, mixed types", "linear", 3, .mixed = true},
    {.kernel = "slerp, 2 models", "slerp", 2, .settings = {{"t", 0.4}}, .group = true},
    {.kernel = "slerp, 2 models, mixed types", "slerp", 2, .settings = {{"t", 0.4}}, .mixed = true},
    {.kernel = "nuslerp, 2 models, base", "nuslerp", 2, true},
    {.kernel = "nuslerp, 2 models, base, rows", "nuslerp", 2, true, {{"nuslerp_flatten", 0}}},
    {.kernel = "nuslerp, 2 models, base, columns",
     "nuslerp",
     2,
     true,
     {{"nuslerp_flatten", 0}, {"nuslerp_row_wise", 1}}},
    {.kernel = "task_arithmetic, 2 models", "task_arithmetic", 2, true},
    {.kernel = "task_arithmetic, 3 models", "task_arithmetic", 3, true},
    {.kernel = "task_arithmetic, 8 models", "task_arithmetic", 8, true},
    {.kernel = "task_arithmetic, 16 models", "task_arithmetic", 16, true},
    {.kernel = "mergealign, 2 models", "mergealign", 2, true},
    {.kernel = "ties, 2 models, density 0.5", "ties", 2, true, {{"density", 0.5}}},
    {.kernel = "ties, 3 models, density 0.5", "ties", 3, true, {{"density", 0.5}}, .group = true},
    {.kernel = "ties, 3 models, density 0.5, search", "ties", 3, true, {{"density", 0.5}}, .way = WAY_SEARCH},
    {.kernel = "ties, 3 models, density 0.5, guess", "ties", 3, true, {{"density", 0.5}}, .way = WAY_GUESS},
    {.kernel = "ties, 3 models, density 0.2", "ties", 3, true, {{"density", 0.2}}},
    {.kernel = "ties, 3 models, 0.5, l1 rescale", "ties", 3, true, {{"density", 0.5}, {"rescale", RESCALE_L1}}},
    {.kernel = "ties, 3 models, mixed types", "ties", 3, true, {{"density", 0.5}}, .mixed = true},
    {.kernel = "ties, 3 models, trim global", "ties", 3, true, {{"density", 0.5}, {"trim", TRIM_GLOBAL}}},
    {.kernel = "ties, 3 models, trim global, mixed",
     "ties",
     3,
     true,
     {{"density", 0.5}, {"trim", TRIM_GLOBAL}},
     .mixed = true},
    {.kernel = "ties, 8 models, density 0.5", "ties", 8, true, {{"density", 0.5}}},
    {.kernel = "ties, 16 models, density 0.5", "ties", 16, true, {{"density", 0.5}}},
    {.kernel = "dare_ties, 2 models, density 0.5", "dare_ties", 2, true, {{"density", 0.5}}},
    {.kernel = "dare_ties, 3 models, density 0.5", "dare_ties", 3, true, {{"density", 0.5}}, .group = true},
    {.kernel = "dare_ties, 8 models, density 0.5", "dare_ties", 8, true, {{"density", 0.5}}},
    {.kernel = "dare_linear, 3 models, 1/density",
     "dare_linear",
     3,
     true,
     {{"density", 0.5}, {"rescale", RESCALE_INV_DENSITY}}},
};

size_t measure_cases(const struct measure_case **all)
{
    *all = cases;
    return sizeof cases / sizeof *cases;
}

enum wm_status measure_prepare(const struct measure_case *c, uint64_t n_elems, struct merge_op *op,
                               struct wm_error *err)
{
    const struct method *method = method_find(c->method);
    double params[METHOD_MAX_PARAMS] = {0}, model_params[METHOD_MAX_MODELS][METHOD_MAX_PARAMS];
    int model_index[METHOD_MAX_MODELS] = {0};
    char message[256] = "";
    uint64_t row_elems = n_elems % ROW_ELEMS == 0 ? ROW_ELEMS : n_elems;
    struct method_args args = {.n_models = c->n_models,
                               .has_base = c->has_base,
                               .params = params,
                               .model_params = (const double(*)[METHOD_MAX_PARAMS])model_params,
                               .model_index = model_index,
                               .tensor_name = "bench",
                               .n_elems = n_elems,
                               .n_rows = n_elems / row_elems,
                               .row_elems = row_elems};

    if (!method)
        return error_set(err, WM_BUG, "there is no method %s to measure", c->method);
    memset(model_params, 0, sizeof model_params);
    for (int p = 0; p < method->n_params; p++) {
        params[p] = method->params[p].default_value;
        for (int s = 0; s < 3; s++)
            if (c->settings[s].name && strcmp(c->settings[s].name, method->params[p].name) == 0)
                params[p] = c->settings[s].value;
        for (int m = 0; m < c->n_models; m++)
            model_params[m][p] = strcmp(method->params[p].name, "weight") == 0 ? 0.3 + 0.05 * m : params[p];
    }
    for (int m = 0; m < c->n_models; m++)
        model_index[m] = m;
    if (method->prepare(method, &args, op, message) != WM_OK)
        return error_set(err, WM_BUG, "measuring %s: %s", c->kernel, message);
    return WM_OK;
}

enum wm_dtype measure_input_type(enum wm_dtype dtype, bool mixed, int input)
{
    enum wm_dtype types[3] = {WM_F32, dtype, WM_F16};

    return mixed ? types[input % 3] : dtype;
}

static void place(struct merge_tile *tile, const struct measure_device *device, const struct merge_op *op,
                  uint64_t first, bool out)
{
    enum wm_dtype dtype = device->tensors.dtype;

    tile->out_dtype = dtype;
    for (int i = 0; i < merge_op_n_inputs(op); i++) {
        tile->in_dtype[i] = device->tensors.in_dtype[i];
        tile->in[i] = device->tensors.in[i] + first * dtype_bits(tile->in_dtype[i]) / 8;
    }
    tile->out = out ? device->tensors.out + first * dtype_bits(dtype) / 8 : NULL;
}

void measure_tile(struct merge_tile *tile, const struct measure_device *device, const struct merge_op *op,
                  uint64_t index, bool out)
{
    uint64_t first = index * device->tile_elems, left = op->n_elems - first;

    memset(tile, 0, sizeof *tile);
    tile->first_elem = first;
    tile->n_elems = (size_t)(left < device->tile_elems ? left : device->tile_elems);
    tile->index = (size_t)index;
    place(tile, device, op, first, out);
}

void measure_group_tile(struct merge_tile *tile, const struct measure_device *device, const struct merge_op *op,
                        size_t n)
{
    memset(tile, 0, sizeof *tile);
    tile->n_elems = (size_t)op->n_elems;
    place(tile, device, op, n * op->n_elems, true);
}

const char *measure_pass_name(enum stat_pass pass)
{
    switch (pass) {
    case STAT_GRAM: return "gram";
    case STAT_KTH_WHOLE: return "kth whole";
    case STAT_KTH_SAMPLE: return "kth sample";
    case STAT_KTH_GUESS: return "kth guess";
    case STAT_KTH_COARSE: return "kth coarse";
    case STAT_KTH_FINE: return "kth fine";
    case STAT_KTH_TIES: return "kth ties";
    case STAT_KTH_CUT: return "kth cut";
    case STAT_L1: return "l1";
    case STAT_READY: break;
    }
    return "combine";
}

const char *measure_model_pass_name(enum model_pass pass)
{
    switch (pass) {
    case MODEL_COARSE: return "model coarse";
    case MODEL_FINE: return "model fine";
    case MODEL_SIGNS: return "model signs";
    case MODEL_READY: break;
    }
    return "combine";
}

/* From the formulas, widening and rounding not counted. Deltas are one subtraction; a k-th magnitude pass compares. */
double measure_operations(const struct merge_op *op, enum stat_pass pass)
{
    int n = op->n_models;
    double delta = op->family == MERGE_TASK_VECTOR || (op->has_base && pass == STAT_GRAM) ? n : 0;

    switch (pass) {
    case STAT_GRAM: return delta + n * (n + 1.0); /* a product and a sum a pair */
    case STAT_KTH_WHOLE:
    case STAT_KTH_SAMPLE:
    case STAT_KTH_GUESS:
    case STAT_KTH_COARSE:
    case STAT_KTH_FINE:
    case STAT_KTH_TIES:
    case STAT_KTH_CUT: return delta + n;
    case STAT_L1: return delta + 2.0 * n;
    case STAT_READY: break;
    }
    if (op->family == MERGE_LINEAR)
        return 2.0 * n - 1 + op->normalize;
    double operations = delta + 2.0 * n + 2; /* weight, sum, lambda, base */
    for (int m = 0; m < n; m++)
        operations += (op->models[m].keep != KEEP_ALL) + (op->models[m].scale != 1.0f);
    if (op->consensus)
        operations += 3.0 * n; /* vote, agreement, sum of agreeing weights */
    return operations + op->normalize;
}

/* Subtraction and comparison; SIGNS adds the values up as the combine does, and compares the sum twice. */
double measure_model_operations(const struct merge_op *op, enum model_pass pass)
{
    double operations = 3.0 * op->n_models + 2; /* subtraction, weight, sum */

    if (pass != MODEL_SIGNS)
        return 2.0 * op->n_models;
    for (int m = 0; m < op->n_models; m++)
        operations += (op->models[m].keep != KEEP_ALL) + (op->models[m].scale != 1.0f);
    return operations;
}

/* ---- values ------------------------------------------------------------------------------------------------- */

#define FRESH_ELEMS ((uint64_t)1 << 18) /* then they repeat, which no kernel can see */

static uint64_t next_random(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Four 16-bit uniform numbers added up: near enough to normal, standard deviation 1. */
static double bell(uint64_t *state)
{
    uint64_t bits = next_random(state);
    double sum = 0;

    for (int i = 0; i < 4; i++)
        sum += (double)((bits >> (16 * i)) & 0xffff) / 65536.0;
    return (sum - 2.0) * 1.7320508;
}

void measure_fill(void *data, enum wm_dtype dtype, uint64_t n_elems, int input)
{
    uint64_t base_state = 1, state = 1000u + (uint64_t)input, n_fresh = n_elems < FRESH_ELEMS ? n_elems : FRESH_ELEMS;
    uint16_t *half = data;
    float *single = data;
    size_t width = dtype_bits(dtype) / 8;

    for (uint64_t e = 0; e < n_fresh; e++) {
        float x = bf16_to_f32(f32_to_bf16((float)(0.02 * bell(&base_state))));
        if (input > 0)
            x += (float)(1e-4 * bell(&state));
        if (dtype == WM_F32)
            single[e] = x;
        else
            half[e] = dtype == WM_F16 ? f32_to_f16(x) : f32_to_bf16(x);
    }
    for (uint64_t e = n_fresh; e < n_elems; e += n_fresh) {
        uint64_t left = n_elems - e;
        memcpy((char *)data + e * width, data, (size_t)(left < n_fresh ? left : n_fresh) * width);
    }
}
