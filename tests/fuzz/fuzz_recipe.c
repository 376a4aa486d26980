/* Holds: no bytes make the recipe reader crash, leak, or take a recipe that look-ups then trip over. libFuzzer target:
 * clang -fsanitize=fuzzer,address,undefined; seeds in tests/configs. The first byte chooses strictness. */
#include "recipe/recipe.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void look_everything_up(const struct recipe *recipe)
{
    static const char *const tensors[] = {"model.layers.1.mlp.up_proj.weight", ""};
    struct recipe_value value;

    for (int model = -1; model < (int)recipe->n_models && model < 4; model++)
        for (int p = 0; p < recipe->method->n_params; p++)
            for (int t = 0; t < 2; t++)
                for (int quarter = 0; quarter <= 4; quarter++)
                    if (recipe_lookup(recipe, model, recipe->method->params[p].name, tensors[t], 0.25 * quarter,
                                      &value) &&
                        !(value.number - value.number == 0.0))
                        abort(); /* every value a recipe gives is finite */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    struct wm_error err = WM_ERROR_INIT;
    struct recipe *recipe = NULL;
    struct problems problems;
    enum wm_status st;

    if (n_bytes < 1)
        return 0;
    problems_init(&problems, NULL, NULL, data[0] & 1);
    st = recipe_parse(&recipe, "fuzz.yml", (const char *)data + 1, n_bytes - 1, &problems, &err);
    if ((st == WM_OK) != (recipe != NULL) || (st == WM_BAD_CONFIG) != (problems.n_errors > 0))
        abort();
    if (recipe) {
        look_everything_up(recipe);
        recipe_unsupported(recipe, &problems);
    }
    problems_end(&problems, &err);
    recipe_free(recipe);
    return 0;
}
