/* recipe_lookup.c: the value of a parameter for one tensor, with mergekit's precedence, filters and gradients. */
#include "recipe/recipe.h"
#include "recipe/recipe_reader.h"

#include <string.h>

/* mergekit's arithmetic to the letter, in doubles (its evaluate_setting): the value is the same bit for bit. */
static double interpolate(const double *points, size_t n, double depth)
{
    double s = depth * (double)(n - 1);
    size_t i0 = (size_t)s;
    size_t i1 = i0 + 1 < n ? i0 + 1 : n - 1;
    double f = s - (double)i0;

    return (1.0 - f) * points[i0] + f * points[i1];
}

static void evaluate(const struct recipe *recipe, const char *name, const struct recipe_condition *condition,
                     double depth, struct recipe_value *value)
{
    int index = recipe->method ? method_param_index(recipe->method, name) : -1;
    const struct method_param *param = index >= 0 ? &recipe->method->params[index] : NULL;
    size_t n = condition->n_points;

    if (!(depth > 0.0))
        depth = 0.0;
    if (depth > 1.0)
        depth = 1.0;
    *value = (struct recipe_value){NULL, 0.0, condition->at};
    if (param && param->type != METHOD_NUMBER)
        value->number = condition->points[(size_t)(depth * (double)(n - 1))];
    else if (n == 1)
        value->number = condition->points[0];
    else
        value->number = interpolate(condition->points, n, depth);
    if (param && param->type == METHOD_CHOICE)
        value->word = param->choices[(size_t)value->number];
}

/* The first condition that matches; none: the setting counts as not set at this level. */
static const struct recipe_condition *match(const struct recipe_params *params, const char *name, const char *tensor)
{
    const struct recipe_param *param = recipe_find_param(params, name);

    for (size_t i = 0; param && i < param->n_conditions; i++) {
        const char *filter = param->conditions[i].filter;
        if (!filter || strstr(tensor, filter))
            return &param->conditions[i];
    }
    return NULL;
}

bool recipe_lookup(const struct recipe *recipe, int model, const char *name, const char *tensor, double depth,
                   struct recipe_value *value)
{
    const struct recipe_condition *condition = NULL;

    if (model >= 0 && (size_t)model < recipe->n_models)
        condition = match(&recipe->models[model].params, name, tensor);
    if (!condition)
        condition = match(&recipe->params, name, tensor);
    if (!condition)
        return false;
    evaluate(recipe, name, condition, depth, value);
    return true;
}
