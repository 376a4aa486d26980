/*
 * method_list.c: the table of methods and look-ups in it.
 *
 * What lives here: methods.def as an array, search by name, and the parts of prepare that all families share. What it
 * must not know: what any method computes.
 */
#include "methods/families.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define METHOD(symbol) &symbol,
const struct method *const method_list[] = {
#include "methods/methods.def"
    NULL};
#undef METHOD

const struct method *method_find(const char *name)
{
    for (size_t i = 0; method_list[i] != NULL; i++)
        if (strcmp(method_list[i]->name, name) == 0)
            return method_list[i];
    return NULL;
}

int method_param_index(const struct method *method, const char *name)
{
    for (int i = 0; i < method->n_params; i++)
        if (strcmp(method->params[i].name, name) == 0)
            return i;
    return -1;
}

void method_start_op(struct merge_op *op, const struct method *method, const struct method_args *args)
{
    memset(op, 0, sizeof *op);
    op->method = method;
    op->has_base = args->has_base;
    op->n_models = args->n_models;
    op->n_elems = args->n_elems;
    op->n_rows = args->n_rows;
    op->row_elems = args->row_elems;
    op->divisor = 1.0f;
    op->lambda = 1.0f;
    op->axis = AXIS_TENSOR;
    for (int m = 0; m < args->n_models; m++) {
        op->models[m].weight = 1.0f;
        op->models[m].scale = 1.0f;
        op->models[m].keep = KEEP_ALL;
    }
}

enum wm_status method_weight(float *weight, double value, const char *name, char message[256])
{
    float rounded = (float)value;
    if (!isfinite(rounded)) {
        snprintf(message, 256, "the %s %g is not a finite single-precision number; use an ordinary number", name,
                 value);
        return WM_BAD_CONFIG;
    }
    *weight = rounded;
    return WM_OK;
}
