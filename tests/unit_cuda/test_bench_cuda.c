/* A measurement on a GPU names the GPU that it was asked for, and has rows for guesses, searches, groups, whole models
 * and the engine's tile. Values are not looked at: the pretended device is no clock. */
#include "measure/measure.h"

#include "methods/device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define GPU        1
#define TILE_BYTES ((uint64_t)512 << 10) /* 16 tiles of 8 MiB: what a guess needs */

static const struct measure_row *find(const struct measure *m, const char *kernel, const char *part,
                                      uint64_t tile_elems)
{
    for (size_t i = 0; i < m->n_rows; i++)
        if (strcmp(m->rows[i].kernel, kernel) == 0 && strcmp(m->rows[i].part, part) == 0 &&
            (m->rows[i].tile_elems == tile_elems || tile_elems == 0))
            return &m->rows[i];
    return NULL;
}

static struct measure measure_only(const char *only)
{
    struct measure_options options = {
        .quick = true, .use_gpu = true, .gpu = GPU, .gpu_tile_bytes = TILE_BYTES, .n_threads = 1, .only = only};
    struct wm_error err = WM_ERROR_INIT;
    struct measure m;

    if (measure_run(&m, &options, &err) != WM_OK)
        fail_msg("%s", err.message);
    return m;
}

static void measures_the_gpu_that_was_named(void **state)
{
    struct measure m;
    struct text json;
    int device = -1;
    char *text;

    (void)state;
    assert_true(measure_n_gpus() > GPU);
    m = measure_only("passthrough");
    assert_int_equal(cudaGetDevice(&device), cudaSuccess);
    assert_int_equal(device, GPU);
    text_init(&json, 1 << 20);
    measure_json(&m, &json);
    text = text_take(&json);
    assert_non_null(strstr(text, "\"device_index\": 1,"));
    assert_non_null(strstr(text, "GPU 1, "));
    assert_non_null(find(&m, "passthrough, x 256", "group", 0));
    free(text);
    text_release(&json);
    measure_release(&m);
}

static void has_rows_for_what_the_engine_does(void **state)
{
    static const struct {
        const char *kernel, *part;
        bool is_there;
    } wanted[] = {{"ties, 3 models, density 0.5", "kth coarse", true},
                  {"ties, 3 models, density 0.5", "kth fine", true},
                  {"ties, 3 models, density 0.5", "whole", true},
                  {"ties, 3 models, density 0.5, search", "kth coarse", true},
                  {"ties, 3 models, density 0.5, search", "kth fine", false},
                  {"ties, 3 models, density 0.5, search", "whole", true},
                  {"ties, 3 models, density 0.5, guess", "kth guess", true},
                  {"ties, 3 models, density 0.5, guess", "whole", true}};
    uint64_t engine = TILE_BYTES / 2;
    struct measure m = measure_only("ties, 3 models, density 0.5");

    (void)state;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        const struct measure_row *row = find(&m, wanted[i].kernel, wanted[i].part, engine);
        if ((row != NULL) != wanted[i].is_there)
            fail_msg("%s, %s: %s", wanted[i].kernel, wanted[i].part, row ? "there" : "not there");
        if (!row)
            continue;
        assert_true(row->cold.seconds > 0 && row->n_bytes > 0 && row->n_operations > 0);
        assert_int_equal(row->batch.n_samples > 0, strcmp(row->part, "whole") != 0);
    }
    /* A search reads its inputs for the bins, for what is in one, and, where not all equal ones are kept, to count those. */
    const struct measure_row *search = find(&m, "ties, 3 models, density 0.5, search", "kth coarse", engine);
    const struct measure_row *coarse = find(&m, "ties, 3 models, density 0.5", "kth coarse", engine);
    assert_int_equal(search->n_bytes, 3 * coarse->n_bytes);
    assert_true(search->n_operations > coarse->n_operations);
    /* One tile of the largest size holds the tensor: nothing to guess. */
    assert_null(find(&m, "ties, 3 models, density 0.5, guess", "whole", (uint64_t)32 << 20));
    assert_non_null(find(&m, "ties, 3 models, density 0.5", "whole", (uint64_t)32 << 20));
    assert_int_equal(find(&m, "ties, 3 models, density 0.5, x 256", "group", 0)->n_tensors, 256);
    measure_release(&m);
}

/* The passes over a model, whose tiles share one table of counts: that they count every element once, repeats or not, is what
 * the measurement itself insists on. */
static void has_rows_for_a_whole_model(void **state)
{
    static const char *const parts[] = {"model coarse", "model fine", "model signs", "combine", "whole"};
    static const uint64_t tiles[] = {TILE_BYTES / 2, (uint64_t)32 << 20};
    struct measure m = measure_only("trim global");

    (void)state;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        for (size_t t = 0; t < 2; t++) {
            const struct measure_row *row = find(&m, "ties, 3 models, trim global", parts[i], tiles[t]);
            if (!row)
                fail_msg("%s in tiles of %llu: not there", parts[i], (unsigned long long)tiles[t]);
            assert_true(row->cold.seconds > 0 && row->n_operations > 0);
            assert_int_equal(row->batch.n_samples > 0, i < 4);
            if (i < 3)
                assert_int_equal(row->n_bytes, row->n_elems * 4 * 2);
        }
    assert_non_null(find(&m, "ties, 3 models, trim global, mixed", "model signs", 0));
    measure_release(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(measures_the_gpu_that_was_named),
                                       cmocka_unit_test(has_rows_for_what_the_engine_does),
                                       cmocka_unit_test(has_rows_for_a_whole_model)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
