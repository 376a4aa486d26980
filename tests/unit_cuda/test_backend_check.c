/* The sample of a GPU's work that the CPU does again: its size over a model, and every kind of wrong number is noticed. Runs
 * on the pretended device. */
#include "backend_run.h"
#include "base/hash.h"
#include "cuda_on_cpu.h"
#include "methods/device_check.h"
#include "statistics/statistics.h"

#include <stdio.h>

enum { CHUNK = TILE_CHUNK_ELEMS, N_TILES = 18 };

/* ---- how much is drawn -------------------------------------------------------------------------------------- */

static uint64_t n_seen, n_drawn, first_drawn;

static void draw(const char *name, uint64_t n_elems, unsigned per_1000)
{
    struct device_sample sample = {hash_xxh3_64(name, strlen(name), 0), per_1000};

    first_drawn = UINT64_MAX;
    for (uint64_t chunk = 0; chunk * CHUNK < n_elems; chunk++) {
        n_seen++;
        if (!device_sample_has(&sample, chunk))
            continue;
        n_drawn++;
        if (first_drawn == UINT64_MAX)
            first_drawn = chunk;
    }
}

/* The tensors of Llama-3-8B: 32 layers that are alike in everything but their names. */
static void draw_llama(unsigned per_1000, int *n_layers_alike)
{
    static const struct {
        const char *name;
        uint64_t n_elems;
    } of_layer[] = {
        {"self_attn.q_proj", 4096u * 4096u}, {"self_attn.k_proj", 1024u * 4096u}, {"self_attn.v_proj", 1024u * 4096u},
        {"self_attn.o_proj", 4096u * 4096u}, {"mlp.gate_proj", 14336u * 4096u},   {"mlp.up_proj", 14336u * 4096u},
        {"mlp.down_proj", 14336u * 4096u},   {"input_layernorm", 4096},           {"post_attention_layernorm", 4096}};
    uint64_t first_of_up_proj = 0;
    char name[100];

    n_seen = n_drawn = 0;
    *n_layers_alike = 0;
    draw("model.embed_tokens.weight", 128256u * 4096u, per_1000);
    draw("lm_head.weight", 128256u * 4096u, per_1000);
    for (int layer = 0; layer < 32; layer++)
        for (size_t t = 0; t < sizeof of_layer / sizeof *of_layer; t++) {
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, of_layer[t].name);
            draw(name, of_layer[t].n_elems, per_1000);
            if (t == 5)
                *n_layers_alike += layer > 0 && first_drawn == first_of_up_proj;
            if (t == 5 && layer == 0)
                first_of_up_proj = first_drawn;
        }
}

static void a_model_is_sampled_evenly(void **state)
{
    int n_layers_alike;

    (void)state;
    draw_llama(1, &n_layers_alike);
    assert_in_range(n_seen, 490000, 491000);
    assert_in_range(n_drawn, n_seen / 2000, n_seen / 500);
    assert_in_range(n_layers_alike, 0, 2);
    draw_llama(100, &n_layers_alike);
    assert_in_range(n_drawn, n_seen / 11, n_seen / 9);
    draw_llama(0, &n_layers_alike);
    assert_int_equal(n_drawn, 0);
    draw_llama(1000, &n_layers_alike);
    assert_int_equal(n_drawn, n_seen);
}

/* ---- a tensor with one wrong number -------------------------------------------------------------------------- */

enum spoil { NOTHING, ELEMENT, MEMORY, LOWEST_BIT, SWAP_BINS, LOSE_COUNT };

static struct {
    enum spoil what;
    enum stat_pass pass;
    uint64_t n_done;
} spoil;

cudaError_t __real_device_combine_launch(const struct merge_op *op, const struct merge_tile *tile,
                                         const float *vector_weights, struct device_report *report,
                                         cudaStream_t stream);
cudaError_t __wrap_device_combine_launch(const struct merge_op *op, const struct merge_tile *tile,
                                         const float *vector_weights, struct device_report *report,
                                         cudaStream_t stream);
cudaError_t __real_device_pass_launch(const struct merge_op *op, const struct statistics *s,
                                      const struct merge_tile *tile, void *results, cudaStream_t stream);
cudaError_t __wrap_device_pass_launch(const struct merge_op *op, const struct statistics *s,
                                      const struct merge_tile *tile, void *results, cudaStream_t stream);

cudaError_t __wrap_device_combine_launch(const struct merge_op *op, const struct merge_tile *tile,
                                         const float *vector_weights, struct device_report *report, cudaStream_t stream)
{
    const bool other_input = spoil.what == MEMORY && spoil.n_done == 0 && tile->index == 3;
    cudaError_t error = cudaSuccess;

    if (other_input) /* an element that has lain on the device since the first pass */
        error = cudaMemsetAsync((char *)(uintptr_t)tile->in[0] + 2 * (tile->n_elems - 1), 0x55, 1, stream);
    spoil.n_done += other_input;
    if (error == cudaSuccess)
        error = __real_device_combine_launch(op, tile, vector_weights, report, stream);
    if (error == cudaSuccess && spoil.what == ELEMENT && spoil.n_done == 0 && tile->index == 3) {
        spoil.n_done++;
        error = cudaMemsetAsync((char *)tile->out + 2 * (tile->n_elems - 1), 0x55, 1, stream);
    }
    return error;
}

/* The first two bins of which the counts differ are exchanged: every sum stays. */
static void swap_bins(uint64_t *counts, uint64_t n)
{
    uint64_t first = 0, other;

    while (counts[first] == 0)
        first++;
    other = first + 1;
    while (other + 1 < n && counts[other] == counts[first])
        other++;
    uint64_t kept = counts[first];
    counts[first] = counts[other];
    counts[other] = kept;
    spoil.n_done += counts[first] != counts[other];
}

/* After the pass's last tile, or the one that its first number is about. */
cudaError_t __wrap_device_pass_launch(const struct merge_op *op, const struct statistics *s,
                                      const struct merge_tile *tile, void *results, cudaStream_t stream)
{
    cudaError_t error = __real_device_pass_launch(op, s, tile, results, stream);
    uint64_t n_bytes = device_pass_bytes(op, s), n = n_bytes / sizeof(uint64_t);
    uint64_t *words = calloc(1, n_bytes + sizeof *words);

    assert_non_null(words);
    if (error == cudaSuccess && spoil.what > MEMORY && s->pass == spoil.pass && spoil.n_done == 0 &&
        tile->index == (s->pass == STAT_KTH_CUT ? s->kth[s->kth[0].pass != s->pass].cut_tile : s->n_tiles - 1)) {
        CHECK_CUDA(cudaStreamSynchronize(stream));
        CHECK_CUDA(cudaMemcpy(words, results, n_bytes, cudaMemcpyDeviceToHost));
        if (spoil.what == SWAP_BINS) {
            swap_bins(words, s->pass == STAT_KTH_COARSE ? KTH_COARSE_BINS : KTH_FINE_BINS);
        } else {
            uint64_t at = 0;
            while (spoil.what == LOSE_COUNT && at + 1 < n && words[at] == 0)
                at++;
            words[at] -= spoil.what == LOSE_COUNT;
            words[at] ^= spoil.what == LOWEST_BIT;
            spoil.n_done++;
        }
        upload(results, words, n_bytes);
    }
    free(words);
    return error;
}

struct spoilt_case {
    const char *what;
    struct method_case method;
    enum spoil spoil;
    enum stat_pass pass;
    bool speculate, whole;
    unsigned per_1000; /* that suffices */
};

#define TIES(rescale)                                                                                                  \
    {                                                                                                                  \
        "ties", 2, true,                                                                                               \
        {                                                                                                              \
            GLOBAL("weight", 0.5), GLOBAL("density", 0.3), GLOBAL("rescale", rescale)                                  \
        }                                                                                                              \
    }
static const struct spoilt_case cases[] = {
    {"an element", {"linear", 2, false, {GLOBAL("weight", 0.3)}}, ELEMENT, STAT_READY, false, false, 1000},
    {"an input", {"slerp", 2, false, {GLOBAL("t", 0.3)}}, MEMORY, STAT_READY, false, false, 1000},
    {"a Gram sum", {"slerp", 2, false, {GLOBAL("t", 0.3)}}, LOWEST_BIT, STAT_GRAM, false, false, 1000},
    {"an L1 sum", TIES(RESCALE_L1), LOWEST_BIT, STAT_L1, false, false, 1000},
    {"coarse bins", TIES(RESCALE_NONE), SWAP_BINS, STAT_KTH_COARSE, false, false, 1000},
    {"a coarse count", TIES(RESCALE_NONE), LOSE_COUNT, STAT_KTH_COARSE, false, false, 1},
    {"fine bins", TIES(RESCALE_NONE), SWAP_BINS, STAT_KTH_FINE, false, false, 1000},
    {"a fine count", TIES(RESCALE_NONE), LOSE_COUNT, STAT_KTH_FINE, false, false, 1},
    {"equal elements", TIES(RESCALE_NONE), LOWEST_BIT, STAT_KTH_TIES, false, false, 1000},
    {"the last kept one", TIES(RESCALE_NONE), LOWEST_BIT, STAT_KTH_CUT, false, false, 1000},
    {"a guess", TIES(RESCALE_NONE), LOWEST_BIT, STAT_KTH_GUESS, true, false, 1000},
    {"a guess's element", TIES(RESCALE_NONE), ELEMENT, STAT_KTH_GUESS, true, false, 1000},
    {"a small tensor's threshold", TIES(RESCALE_NONE), LOWEST_BIT, STAT_KTH_WHOLE, false, true, 1000},
};

/* In the small budget the passes' results find room and the tensor does not stay: nothing but these passes is done. */
enum { SMALL_MIB = 8, LARGE_MIB = 64 };

static struct backend *open_backend(unsigned per_1000, unsigned memory_mib, void **thread)
{
    struct cuda_on_cpu_config machine = cuda_on_cpu_default();
    struct backend_cuda_options options = {.tile_in_bytes = 4 * CHUNK * 2,
                                           .tile_out_bytes = 4 * CHUNK * 2,
                                           .memory_bytes = (uint64_t)memory_mib << 20,
                                           .max_inputs = 3,
                                           .verify_per_1000 = per_1000,
                                           .kept_bytes = 16u << 20};
    struct wm_error err = WM_ERROR_INIT;
    struct backend *b = NULL;

    cuda_on_cpu_configure(&machine);
    assert_int_equal(backend_open_cuda(&b, &options, &err), WM_OK);
    *thread = b->ops->thread_new(b, &err);
    assert_non_null(*thread);
    return b;
}

/* How the run of a case ends; *n_checked: blocks, of all passes; *n_stayed: tiles of later passes, without the host's bytes. */
static enum wm_status run_case(const struct spoilt_case *c, unsigned per_1000, unsigned memory_mib, uint64_t *n_checked,
                               int *n_stayed)
{
    const uint64_t n = c->whole ? 4 * CHUNK : N_TILES * CHUNK - 5;
    struct tiles_run run = {.tile_elems = c->whole ? 4 * CHUNK : CHUNK, .speculate = c->speculate};
    struct merge_tile arrays = {.n_elems = (size_t)n, .out_dtype = WM_BF16};
    void *thread, *base = new_weights((size_t)n, WM_BF16, 5), *inputs[TILE_MAX_INPUTS] = {NULL};
    struct backend *b = open_backend(per_1000, memory_mib, &thread);
    struct merge_op op;
    char message[256] = "", leaks[300];

    assert_int_equal(
        prepare_op(&op, c->method.method, c->method.n_models, c->method.has_base, 1, n, 9, c->method.settings, message),
        WM_OK);
    for (int i = 0; i < merge_op_n_inputs(&op); i++) {
        int m = i - (c->method.has_base ? 1 : 0);
        inputs[i] = m < 0 ? base : new_model(NORMAL, base, WM_BF16, (size_t)n, WM_BF16, m);
        arrays.in[i] = inputs[i];
        arrays.in_dtype[i] = WM_BF16;
    }
    arrays.out = new_array((size_t)n, WM_BF16);
    run_tensor(b, thread, &op, &arrays, &run);
    *n_checked = b->n_checked;
    *n_stayed = run.n_stayed;
    b->ops->thread_free(b, thread);
    b->ops->close(b);
    if (cuda_on_cpu_leaks(leaks, sizeof leaks))
        fail_msg("%s", leaks);
    for (int i = 0; i < TILE_MAX_INPUTS; i++)
        if (inputs[i] != base)
            free(inputs[i]);
    free(base);
    free(arrays.out);
    return run.status;
}

/* Stopped where the number is wrong, not where it is right, and every block has been looked at. */
static void expect_noticed(const struct spoilt_case *c, unsigned per_1000, unsigned memory_mib, int *n_stayed)
{
    uint64_t n_checked;

    spoil.what = c->spoil;
    spoil.pass = c->pass;
    spoil.n_done = 0;
    if (run_case(c, per_1000, memory_mib, &n_checked, n_stayed) != WM_VERIFY_FAILED || !spoil.n_done)
        fail_msg("%s: was not noticed", c->what);
    spoil.what = NOTHING;
    if (run_case(c, 1000, memory_mib, &n_checked, n_stayed) != WM_OK)
        fail_msg("%s: noticed where nothing is wrong", c->what);
    if (n_checked < (c->whole ? 8 : c->pass == STAT_READY ? N_TILES : 2 * N_TILES))
        fail_msg("%s: only %llu blocks were checked", c->what, (unsigned long long)n_checked);
}

/* Without a sample it passes; with one it does not, and the same work without the wrong number does. */
static void a_wrong_number_is_noticed(void **state)
{
    uint64_t n_checked;
    int n_stayed;

    (void)state;
    for (size_t i = 0; i<sizeof cases / sizeof *cases; i += EVERY> 1 ? 3 : 1) {
        const struct spoilt_case *c = &cases[i];
        spoil.what = c->spoil;
        spoil.pass = c->pass;
        spoil.n_done = 0;
        if (run_case(c, 0, SMALL_MIB, &n_checked, &n_stayed) != WM_OK)
            fail_msg("%s: stopped although nothing was to be checked", c->what);
        assert_int_equal(n_checked, 0);
        if (!spoil.n_done)
            fail_msg("%s: was not spoilt", c->what);
        expect_noticed(c, c->per_1000, SMALL_MIB, &n_stayed);
    }
}

/* Nor does it pass where the host has let go of the tensor after the first pass: the input of what is checked is what came
 * from the host, so that the device's memory is on trial as well. */
static void a_wrong_number_of_a_tensor_that_stays_is_noticed(void **state)
{
    int n_stayed;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i += UNDER_TSAN ? 5 : EVERY > 1 ? 3 : 1) {
        expect_noticed(&cases[i], 1000, LARGE_MIB, &n_stayed);
        if (strcmp(cases[i].method.method, "linear") != 0 && !n_stayed)
            fail_msg("%s: nothing has stayed", cases[i].what);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_is_sampled_evenly),
        cmocka_unit_test(a_wrong_number_is_noticed),
        cmocka_unit_test(a_wrong_number_of_a_tensor_that_stays_is_noticed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
