/*
 * device_equality.c: the CUDA kernels give the CPU's bytes: output, reports and everything the statistics fill in.
 *
 * What lives here: the operations, types and shapes of grid.h, each run on both, compared bit for bit; small tensors also
 * as groups. It needs a device, or the test build that pretends one; without one it exits with 77 (skipped). What it must
 * not know: the right answer (the CPU's own tests do), the engine.
 *
 *     device_equality [--every N]     takes one case in N of the grid (for tools that slow a kernel down)
 *     device_equality --cover         every operation in every shape, and over the shapes with all types and values
 */
#include "case_memory.h"

#include "common/number_format.h"
#include "methods/device_group.h"
#include "statistics/model_statistics.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- both sides --------------------------------------------------------------------------------------------- */

struct side {
    struct merge_op op;
    struct merge_report report;
    float *vector_weights; /* a copy; NULL: none */
};

/* `trim: global` without a whole model: thresholds that some deltas equal, weights under which they cancel, and a majority
 * for minus, unlike everywhere else. */
static void complete(struct merge_op *op)
{
    struct model_thresholds thresholds = {.n_models = op->n_models, .majority = -1};

    for (int m = 0; m < op->n_models; m++) {
        thresholds.models[m].threshold = m % 3 == 2 ? 0x39000000u : 0x3b000000u; /* 2^-13, 2^-9 */
        op->models[m].weight = 1.0f;
    }
    model_thresholds_apply(&thresholds, op);
}

static bool prepare(const struct grid_case *c, struct merge_op *op)
{
    const struct operation *o = c->operation;
    const struct method *method = method_find(o->method);
    double params[METHOD_MAX_PARAMS] = {0};
    static double model_params[METHOD_MAX_MODELS][METHOD_MAX_PARAMS];
    int model_index[METHOD_MAX_MODELS];
    char message[256] = "";
    struct method_args args = {.n_models = o->n_models,
                               .has_base = o->has_base,
                               .params = params,
                               .model_params = (const double(*)[METHOD_MAX_PARAMS])model_params,
                               .model_index = model_index,
                               .seed = 42,
                               .tensor_name = "model.layers.0.mlp.up_proj.weight",
                               .n_elems = c->n_rows * c->row_elems,
                               .n_rows = c->n_rows,
                               .row_elems = c->row_elems};

    memset(model_params, 0, sizeof model_params);
    for (int p = 0; p < method->n_params; p++) {
        params[p] = method->params[p].default_value;
        for (int s = 0; s < 3; s++)
            if (o->settings[s].name && strcmp(o->settings[s].name, method->params[p].name) == 0)
                params[p] = o->settings[s].value;
        for (int m = 0; m < o->n_models; m++)
            model_params[m][p] = strcmp(method->params[p].name, "weight") == 0 ? 0.7 - 0.21 * m : params[p];
    }
    for (int m = 0; m < o->n_models; m++)
        model_index[m] = m;
    if (method->prepare(method, &args, op, message) == WM_OK) {
        if (op->model_statistics)
            complete(op);
        return true;
    }
    printf("device_equality: %s: %s\n", o->method, message);
    return false;
}

static void tile_at(const struct grid_case *c, const struct merge_op *op, char *const *in, char *out, uint64_t index,
                    struct merge_tile *tile)
{
    uint64_t first = index * c->tile_elems, left = op->n_elems - first;

    memset(tile, 0, sizeof *tile);
    tile->first_elem = first;
    tile->n_elems = (size_t)(left < c->tile_elems ? left : c->tile_elems);
    tile->index = (size_t)index;
    tile->out_dtype = c->types[3];
    for (int i = 0; i < merge_op_n_inputs(op); i++) {
        enum wm_dtype dtype = type_of(c, i);
        tile->in[i] = in[i] + (first + (c->shifted ? 1 : 0)) * width_of(dtype);
        tile->in_dtype[i] = dtype;
    }
    tile->out = out ? out + (first + (c->shifted ? 1 : 0)) * width_of(c->types[3]) : NULL;
}

static uint64_t tiles_of(const struct grid_case *c)
{
    return (c->n_rows * c->row_elems + c->tile_elems - 1) / c->tile_elems;
}

static void room_for_results(struct buffers *b, uint64_t n_bytes)
{
    if (n_bytes <= b->results_capacity)
        return;
    free(b->results);
    CUDA(cudaFree(b->device_results));
    b->results = host_memory((size_t)n_bytes);
    CUDA(cudaMalloc((void **)&b->device_results, (size_t)n_bytes));
    b->results_capacity = n_bytes;
}

/* What follows COARSE where the device ends the search alone. */
static void search(const struct grid_case *c, struct buffers *b, const struct merge_op *op, struct statistics *s,
                   const struct device_select *plan)
{
    const void **table = host_memory((size_t)plan->n_table_bytes);
    char *choices = b->results + plan->choices_at;
    struct merge_tile tile;

    for (uint64_t t = 0; t < tiles_of(c); t++) {
        tile_at(c, op, b->device, NULL, t, &tile);
        memcpy(table + t * (uint64_t)plan->n_inputs, tile.in, (size_t)plan->n_inputs * sizeof *table);
    }
    CUDA(cudaMemcpyAsync(b->device_results + plan->table_at, table, (size_t)plan->n_table_bytes, cudaMemcpyHostToDevice,
                         b->stream));
    CUDA(device_select_launch(s, plan, table, tile.in_dtype, b->device_results, b->stream));
    CUDA(cudaMemcpyAsync(choices, b->device_results + plan->choices_at, (size_t)plan->n_choice_bytes,
                         cudaMemcpyDeviceToHost, b->stream));
    CUDA(cudaStreamSynchronize(b->stream));
    device_select_collect(s, choices);
    free(table);
}

static void device_pass(const struct grid_case *c, struct buffers *b, const struct merge_op *op, struct statistics *s,
                        uint64_t n_bytes)
{
    struct device_select plan;
    struct merge_tile tile;

    device_select_plan(op, s, &plan);
    if (c->searches && plan.n_result_bytes)
        n_bytes = plan.n_result_bytes;
    room_for_results(b, n_bytes);
    CUDA(cudaMemsetAsync(b->device_results, 0, (size_t)n_bytes, b->stream));
    for (uint64_t i = 0; i < tiles_of(c); i++) { /* backwards where it may be: order must not show */
        uint64_t t = statistics_in_order(s) ? i : tiles_of(c) - 1 - i;
        if (!statistics_needs_tile(s, (size_t)t))
            continue;
        tile_at(c, op, b->device, NULL, t, &tile);
        CUDA(device_pass_launch(op, s, &tile, b->device_results, b->stream));
    }
    if (c->searches && plan.n_result_bytes) {
        search(c, b, op, s, &plan);
        return;
    }
    CUDA(cudaMemcpyAsync(b->results, b->device_results, (size_t)n_bytes, cudaMemcpyDeviceToHost, b->stream));
    CUDA(cudaStreamSynchronize(b->stream));
    device_pass_collect(op, s, b->results);
}

static void cpu_pass(const struct grid_case *c, struct buffers *b, const struct merge_op *op, struct statistics *s,
                     struct cpu_scratch *scratch)
{
    struct merge_tile tile;

    for (uint64_t t = 0; t < tiles_of(c); t++)
        if (statistics_needs_tile(s, (size_t)t)) {
            tile_at(c, op, b->host, NULL, t, &tile);
            cpu_statistics_tile(op, s, &tile, scratch);
        }
}

static void device_combine(const struct grid_case *c, struct buffers *b, struct side *side)
{
    struct device_report home;
    struct merge_tile tile;
    float *weights = NULL;

    if (side->op.vector_weights) {
        size_t n_vectors = (size_t)(side->op.axis == AXIS_COLUMNS ? side->op.row_elems : side->op.n_rows);
        size_t n_bytes = n_vectors * (size_t)side->op.n_models * sizeof(float);
        if (n_bytes > b->weights_capacity) {
            CUDA(cudaFree(b->weights));
            CUDA(cudaMalloc((void **)&b->weights, n_bytes));
            b->weights_capacity = n_bytes;
        }
        CUDA(cudaMemcpyAsync(b->weights, side->op.vector_weights, n_bytes, cudaMemcpyHostToDevice, b->stream));
        weights = b->weights;
    }
    CUDA(cudaMemsetAsync(b->report, 0, sizeof *b->report, b->stream));
    for (uint64_t t = tiles_of(c); t-- > 0;) {
        tile_at(c, &side->op, b->device, b->device_out, t, &tile);
        CUDA(device_combine_launch(&side->op, &tile, weights, b->report, b->stream));
    }
    CUDA(cudaMemcpyAsync(&home, b->report, sizeof home, cudaMemcpyDeviceToHost, b->stream));
    CUDA(cudaMemcpyAsync(b->device_out_home, b->device_out, b->capacity, cudaMemcpyDeviceToHost, b->stream));
    CUDA(cudaStreamSynchronize(b->stream));
    device_report_collect(&home, &side->report);
}

/* All passes and the combine on one side. */
static bool run_side(const struct grid_case *c, struct buffers *b, struct side *side, bool on_device, int *n_on_cpu,
                     struct cpu_scratch *scratch)
{
    struct statistics *s = NULL;
    struct merge_tile tile;

    memset(side, 0, sizeof *side);
    merge_report_init(&side->report);
    if (!prepare(c, &side->op))
        return false;
    if (statistics_first_pass(&side->op) != STAT_READY) {
        s = statistics_new(&side->op, c->tile_elems);
        if (s && on_device && statistics_can_speculate(&side->op, c->tile_elems))
            statistics_speculate(s); /* another way to the same threshold */
        while (s && statistics_pass(s) != STAT_READY) {
            uint64_t n_bytes = on_device ? device_pass_bytes(&side->op, s) : 0;
            if (n_bytes > 0)
                device_pass(c, b, &side->op, s, n_bytes);
            else
                cpu_pass(c, b, &side->op, s, scratch);
            *n_on_cpu += on_device && n_bytes == 0;
            statistics_finish_pass(s, &side->op);
        }
    }
    if (on_device) {
        device_combine(c, b, side);
    } else {
        for (uint64_t t = 0; t < tiles_of(c); t++) {
            tile_at(c, &side->op, b->host, b->out, t, &tile);
            cpu_combine_tile(&side->op, s, &tile, scratch, &side->report);
        }
    }
    if (side->op.vector_weights) {
        size_t n = (size_t)(side->op.axis == AXIS_COLUMNS ? side->op.row_elems : side->op.n_rows);
        side->vector_weights = host_memory(n * (size_t)side->op.n_models * sizeof(float));
        memcpy(side->vector_weights, side->op.vector_weights, n * (size_t)side->op.n_models * sizeof(float));
    }
    statistics_free(s);
    return true;
}

static bool same_report(const struct merge_report *a, const struct merge_report *b, int n_inputs)
{
    bool same = a->n_bad_out == b->n_bad_out && (a->n_bad_out == 0 || a->first_bad_out == b->first_bad_out);

    for (int i = 0; i < n_inputs; i++)
        same = same && a->n_bad_in[i] == b->n_bad_in[i] &&
               (a->n_bad_in[i] == 0 || a->first_bad_in[i] == b->first_bad_in[i]);
    return same;
}

static bool same_number(float a, float b)
{
    return float_bits(a) == float_bits(b) || (a != a && b != b); /* which NaN it is depends on the processor */
}

static bool same_models(const struct merge_op *a, const struct merge_op *b)
{
    bool same = true;

    for (int m = 0; m < a->n_models; m++) {
        const struct merge_model *x = &a->models[m], *y = &b->models[m];
        same = same && same_number(x->weight, y->weight) && same_number(x->scale, y->scale) && x->keep == y->keep &&
               x->threshold == y->threshold && x->tie_index == y->tie_index;
    }
    return same;
}

static bool same_weights(const struct side *a, const struct side *b)
{
    size_t n = (size_t)(a->op.axis == AXIS_COLUMNS ? a->op.row_elems : a->op.n_rows) * (size_t)a->op.n_models;

    for (size_t i = 0; a->vector_weights && i < n; i++)
        if (!same_number(a->vector_weights[i], b->vector_weights[i]))
            return false;
    return !a->vector_weights == !b->vector_weights;
}

static bool is_different(const struct grid_case *c, const char *wrong, size_t at, bool in_group)
{
    printf("DIFFERENT: %s%s, %d models%s, %llu x %llu, types %d %d %d -> %d, tiles of %llu, %s%s%s: %s %zu\n",
           in_group ? "in a group: " : "", c->operation->method, c->operation->n_models,
           c->operation->has_base ? " and a base" : "", (unsigned long long)c->n_rows, (unsigned long long)c->row_elems,
           (int)c->types[0], (int)c->types[1], (int)c->types[2], (int)c->types[3], (unsigned long long)c->tile_elems,
           value_names[c->values], c->shifted ? ", shifted" : "", c->searches ? ", searched by the device" : "", wrong,
           at);
    return false;
}

/* b->out is the CPU's output, `device` the device's with everything around it. */
static bool compare(const struct grid_case *c, const struct buffers *b, const struct side *cpu, const struct side *gpu,
                    const char *device, bool in_group)
{
    size_t at = 0;

    if (!same_models(&cpu->op, &gpu->op) || !same_weights(cpu, gpu))
        return is_different(c, "coefficients of the models", 0, in_group);
    if (!same_report(&cpu->report, &gpu->report, merge_op_n_inputs(&cpu->op)))
        return is_different(c, "report of values that are not finite", 0, in_group);
    while (at < b->capacity && b->out[at] == device[at])
        at++;
    return at == b->capacity || is_different(c, "output byte", at, in_group);
}

/* `trim: global`: every count of every pass, as if the tensor were the whole model. */
static bool same_model_counts(const struct grid_case *c, struct buffers *b, const struct merge_op *op,
                              struct cpu_scratch *scratch)
{
    struct model_statistics ms;
    struct merge_tile tile;
    char message[256];
    bool same = true;

    model_statistics_init(&ms);
    if (model_statistics_add(&ms, op, message) != WM_OK || !model_statistics_begin(&ms))
        return is_different(c, "statistics of a model that cannot begin", 0, false);
    room_for_results(b, model_statistics_bytes(&ms));
    while (same && ms.pass != MODEL_READY) {
        size_t n;
        const uint64_t *counts = model_statistics_counts(&ms, &n);
        CUDA(cudaMemsetAsync(b->device_results, 0, n * sizeof *counts, b->stream));
        for (uint64_t t = tiles_of(c); t-- > 0;) {
            tile_at(c, op, b->device, NULL, t, &tile);
            CUDA(device_model_launch(op, &ms, &tile, (uint64_t *)(void *)b->device_results, b->stream));
            tile_at(c, op, b->host, NULL, t, &tile);
            cpu_model_statistics_tile(op, &ms, &tile, scratch);
        }
        CUDA(cudaMemcpyAsync(b->results, b->device_results, n * sizeof *counts, cudaMemcpyDeviceToHost, b->stream));
        CUDA(cudaStreamSynchronize(b->stream));
        same = memcmp(b->results, counts, n * sizeof *counts) == 0 ||
               is_different(c, "counts of the whole model in pass", (size_t)ms.pass, false);
        same = same && model_statistics_finish_pass(&ms);
    }
    model_statistics_release(&ms);
    return same;
}

static bool run_case(const struct grid_case *c, struct buffers *b, int *n_on_cpu, struct cpu_scratch *scratch)
{
    struct side cpu, device;
    bool same;

    memset(b->out, 0x33, b->capacity); /* a byte outside the tensor that changes shows as well */
    CUDA(cudaMemsetAsync(b->device_out, 0x33, b->capacity, b->stream));
    if (!run_side(c, b, &cpu, false, n_on_cpu, scratch) || !run_side(c, b, &device, true, n_on_cpu, scratch))
        return false;
    same = compare(c, b, &cpu, &device, b->device_out_home, false);
    if (cpu.op.model_statistics)
        same = same_model_counts(c, b, &cpu.op, scratch) && same;
    free(cpu.vector_weights);
    free(device.vector_weights);
    return same;
}

/* ---- groups ------------------------------------------------------------------------------------------------- */

/* All operations that a group takes, on the same inputs. */
struct group_run {
    struct side sides[N_OPERATIONS];
    struct device_group_tensor tensors[N_OPERATIONS];
    struct grid_case cases[N_OPERATIONS];
    size_t n;
    char *device_out, *out, *device_table, *table, *device_results, *results;
};

static bool group_fill(const struct grid_case *c, struct buffers *b, int max_inputs, struct group_run *g)
{
    g->n = 0;
    for (size_t o = 0; o < N_OPERATIONS; o++) {
        struct side *side = &g->sides[g->n];
        struct device_group_tensor *tensor = &g->tensors[g->n];
        struct grid_case *own = &g->cases[g->n];
        if (operations[o].n_models + operations[o].has_base > max_inputs)
            continue;
        memset(side, 0, sizeof *side);
        memset(tensor, 0, sizeof *tensor);
        merge_report_init(&side->report);
        *own = *c;
        own->operation = &operations[o];
        own->tile_elems = DEVICE_GROUP_ELEMS;
        if (!prepare(own, &side->op))
            return false;
        if (!device_group_takes(&side->op))
            continue;
        tensor->op = &side->op;
        tensor->report = &side->report;
        tile_at(own, &side->op, b->device, g->device_out + g->n * b->capacity, 0, &tensor->tile);
        if (statistics_first_pass(&side->op) != STAT_READY)
            tensor->statistics = statistics_new(&side->op, DEVICE_GROUP_ELEMS);
        g->n++;
    }
    return true;
}

static bool run_group(const struct grid_case *c, struct buffers *b, int max_inputs, struct cpu_scratch *scratch)
{
    struct group_run *g = host_memory(sizeof *g);
    struct device_group_round round;
    int n_on_cpu = 0;
    bool same;

    CUDA(cudaMalloc((void **)&g->device_out, N_OPERATIONS * b->capacity));
    CUDA(cudaMalloc((void **)&g->device_table, DEVICE_GROUP_TABLE_BYTES));
    CUDA(cudaMalloc((void **)&g->device_results, DEVICE_GROUP_RESULT_BYTES));
    g->table = host_memory(DEVICE_GROUP_TABLE_BYTES);
    g->results = host_memory(DEVICE_GROUP_RESULT_BYTES);
    g->out = host_memory(N_OPERATIONS * b->capacity);
    CUDA(cudaMemsetAsync(g->device_out, 0x33, N_OPERATIONS * b->capacity, b->stream));
    same = group_fill(c, b, max_inputs, g);
    do {
        device_group_plan(g->tensors, g->n, g->table, &round);
        CUDA(cudaMemcpyAsync(g->device_table, g->table, round.n_table_bytes, cudaMemcpyHostToDevice, b->stream));
        CUDA(cudaMemsetAsync(g->device_results, 0, round.n_result_bytes, b->stream));
        CUDA(device_group_launch(&round, g->device_table, g->device_results, b->stream));
        CUDA(cudaMemcpyAsync(g->results, g->device_results, round.n_result_bytes, cudaMemcpyDeviceToHost, b->stream));
        CUDA(cudaStreamSynchronize(b->stream));
        device_group_collect(g->tensors, g->n, g->results);
        for (size_t i = 0; i < g->n; i++)
            if (g->tensors[i].statistics)
                statistics_finish_pass(g->tensors[i].statistics, &g->sides[i].op);
    } while (!round.is_last);
    CUDA(cudaMemcpyAsync(g->out, g->device_out, N_OPERATIONS * b->capacity, cudaMemcpyDeviceToHost, b->stream));
    CUDA(cudaStreamSynchronize(b->stream));
    for (size_t i = 0; i < g->n; i++) {
        struct side cpu;
        memset(b->out, 0x33, b->capacity);
        same = run_side(&g->cases[i], b, &cpu, false, &n_on_cpu, scratch) && same;
        same = compare(&g->cases[i], b, &cpu, &g->sides[i], g->out + i * b->capacity, true) && same;
        statistics_free(g->tensors[i].statistics);
    }
    CUDA(cudaFree(g->device_out));
    CUDA(cudaFree(g->device_table));
    CUDA(cudaFree(g->device_results));
    free(g->table);
    free(g->results);
    free(g->out);
    free(g);
    return same;
}

/* Which part of the grid is run. */
struct choice {
    unsigned long every;
    bool covers;
    unsigned long number; /* of cases that were asked for */
};

/* The factors have no divisor in common with the number of types and values, so that over the shapes an operation meets all. */
static bool is_chosen(struct choice *choice, size_t shape, size_t operation, size_t t)
{
    if (choice->covers)
        return t == (5 * operation + 7 * shape) % (N_TYPES * N_VALUES);
    return choice->number++ % choice->every == 0;
}

int main(int argc, char **argv)
{
    struct buffers b = {0};
    struct cpu_scratch *scratch;
    struct choice choice = {1, false, 0};
    unsigned long n_run = 0, n_failed = 0;
    int n_devices = 0, n_on_cpu = 0;

    if (argc == 3 && strcmp(argv[1], "--every") == 0)
        choice.every = strtoul(argv[2], NULL, 10);
    choice.covers = argc == 2 && strcmp(argv[1], "--cover") == 0;
    if ((argc != 1 && argc != 3 && !choice.covers) || choice.every == 0) {
        printf("usage: device_equality [--every N | --cover]\n");
        return 2;
    }
    if (cudaGetDeviceCount(&n_devices) != cudaSuccess || n_devices == 0) {
        printf("skipped: no CUDA device\n");
        return 77;
    }
    scratch = cpu_scratch_new();
    if (!scratch)
        return 1;
    for (size_t shape = 0; shape < N_SHAPES; shape++) {
        uint64_t n_elems = shapes[shape].n_rows * shapes[shape].row_elems;
        uint64_t tile_sizes[2] = {(n_elems + TILE_CHUNK_ELEMS - 1) / TILE_CHUNK_ELEMS * TILE_CHUNK_ELEMS,
                                  2 * TILE_CHUNK_ELEMS};
        /* Many models only where they are small: what they share with few is tested there. */
        int max_inputs = n_elems > 20000 ? 12 : MAX_INPUTS;
        buffers_open(&b, n_elems, max_inputs);
        for (size_t t = 0; t < N_TYPES * N_VALUES; t++) {
            struct grid_case c = {NULL,
                                  types[t / N_VALUES],
                                  shapes[shape].n_rows,
                                  shapes[shape].row_elems,
                                  tile_sizes[t % 2],
                                  (enum values)(t % N_VALUES),
                                  t % 4 == 3,
                                  false};
            bool is_filled = false; /* a tool that slows copies down takes a small part of the grid */
            for (size_t o = 0; o < N_OPERATIONS; o++) {
                c.operation = &operations[o];
                c.searches = (o + t) % 2 == 0;
                if (operations[o].n_models + operations[o].has_base > max_inputs || !is_chosen(&choice, shape, o, t))
                    continue;
                if (!is_filled)
                    fill(&c, &b, max_inputs, n_elems);
                is_filled = true;
                n_run++;
                n_failed += !run_case(&c, &b, &n_on_cpu, scratch);
            }
            if (n_elems <= DEVICE_GROUP_ELEMS && is_chosen(&choice, shape, 0, t)) {
                if (!is_filled)
                    fill(&c, &b, max_inputs, n_elems);
                n_run++;
                n_failed += !run_group(&c, &b, max_inputs, scratch);
            }
        }
        buffers_close(&b, max_inputs);
        memset(&b, 0, sizeof b);
    }
    cpu_scratch_free(scratch);
    printf("%lu cases, %lu different, %d statistics passes without a kernel\n", n_run, n_failed, n_on_cpu);
    return n_failed || n_run == 0 ? 1 : 0;
}
