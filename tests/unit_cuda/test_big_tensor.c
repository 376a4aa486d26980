/* Whole merges of tensors beyond 2^31 and 2^32 bytes: a pretended GPU, and the CPU, write every byte that the formulas say.
 * Without an argument one quick merge. `test_big_tensor long` goes beyond 2^32 elements and compares both on random
 * models as well: half an hour, 20 GB of disk, 6 GB of memory. */
#include "../unit/kernel_harness.h"

#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "common/philox.h"
#include "cuda_on_cpu.h"
#include "support/fixture.h"

#include <unistd.h>

enum { N_MODELS = 2, MAX_REGIONS = 6, PIECE_BYTES = 4 << 20 };
enum { QUICK_DISK = 5, LONG_DISK = 20 }; /* GB */

static const char *const model_names[1 + N_MODELS] = {"m0", "m1", "m2"};
static const char tensor_name[] = "model.big.weight";

struct big {
    enum wm_dtype dtype;
    uint64_t n_elems;
};

/* ---- files ------------------------------------------------------------------------------------------------------ */

static const char *weights_path(const struct fixture *f, const char *model)
{
    char name[64];

    snprintf(name, sizeof name, "%s/model.safetensors", model);
    return fixture_path(f, name);
}

static int new_weights_file(const struct fixture *f, const struct big *big, const char *model, uint64_t *data_at)
{
    const uint64_t shape[2] = {1, big->n_elems};
    const struct safetensors_entry entry = {tensor_name, big->dtype, 2,
                                            shape,       0,          big->n_elems * dtype_width(big->dtype)};
    size_t n_header;
    void *header;
    int fd;

    assert_int_equal(file_make_dir(fixture_path(f, model), NULL), WM_OK);
    assert_int_equal(safetensors_header(&entry, 1, NULL, 8, &header, &n_header, NULL), WM_OK);
    assert_int_equal(file_open_write(&fd, weights_path(f, model), true, true, NULL), WM_OK);
    assert_int_equal(file_write_at(fd, model, header, n_header, 0, NULL), WM_OK);
    assert_int_equal(ftruncate(fd, (off_t)(n_header + entry.n_bytes)), 0); /* a hole: reads as zeros, takes no disk */
    free(header);
    *data_at = n_header;
    return fd;
}

static int open_weights(const struct fixture *f, const char *model, uint64_t *n_bytes)
{
    struct file_identity identity;
    int fd;

    assert_int_equal(file_open_read(&fd, weights_path(f, model), NULL, &identity, NULL), WM_OK);
    *n_bytes = identity.n_bytes;
    return fd;
}

static void remove_weights(const struct fixture *f, const char *model)
{
    assert_int_equal(file_remove_flat_dir(fixture_path(f, model), NULL), WM_OK);
}

/* ---- merging ---------------------------------------------------------------------------------------------------- */

/* devices 0: the CPU. */
static void merge(const struct fixture *f, const char *yaml, const char *out, int devices, size_t device_memory)
{
    struct cuda_on_cpu_config machine = cuda_on_cpu_default();
    struct wm_options o = WM_OPTIONS_INIT;
    struct wm_error err = WM_ERROR_INIT;
    struct cuda_on_cpu_counts counts;
    double began = file_now_seconds();

    machine.n_devices = devices;
    machine.memory_bytes = device_memory;
    cuda_on_cpu_configure(&machine);
    o.device = devices ? WM_DEVICE_CUDA : WM_DEVICE_CPU;
    o.sync = 0;
    o.n_threads = 2;
    o.memory_bytes = (uint64_t)512 << 20;
    fixture_write_file(f, "c.yml", yaml);
    if (fixture_merge(f, "c.yml", out, &o, &err) != WM_OK)
        fail_msg("%s: %s", out, err.message);
    cuda_on_cpu_get_counts(&counts);
    assert_true((counts.launches > 0) == (devices > 0));
    printf("  %s, %d devices: %.1f s\n", out, devices, file_now_seconds() - began);
}

/* `%0` to `%2` in a recipe: the models' paths; `%a` and `%b`: these numbers. */
static void expand(const struct fixture *f, const char *recipe, const double density[N_MODELS], char *yaml, size_t room)
{
    size_t n = 0;

    for (const char *c = recipe; *c; c++) {
        if (*c != '%')
            n += (size_t)snprintf(yaml + n, room - n, "%c", *c);
        else if (*++c == 'a' || *c == 'b')
            n += (size_t)snprintf(yaml + n, room - n, "%.17g", density[*c - 'a']);
        else
            n += (size_t)snprintf(yaml + n, room - n, "%s", fixture_path(f, model_names[*c - '0']));
        assert_true(n < room);
    }
}

/* ---- models whose merge is known -------------------------------------------------------------------------------- */

/* Zeros but for a few regions of constants: at both ends, and wherever an index could wrap around. */
struct region {
    uint64_t first, n_elems;
    float base, delta[N_MODELS];
};

struct known {
    struct big big;
    int n_regions;
    struct region regions[MAX_REGIONS];
    /* What the formulas need, by model. */
    float weight[N_MODELS], scale[N_MODELS], threshold[N_MODELS];
    uint64_t tie_index[N_MODELS], mask_key[N_MODELS];
};

static void add_region(struct known *k, uint64_t first, uint64_t n_elems)
{
    static const float deltas[MAX_REGIONS][N_MODELS] = {{2, 4}, {1, -0.5f}, {1, 2}, {-1, 0.5f}, {1, -2}, {1, 2}};
    struct region *r = &k->regions[k->n_regions];

    r->first = first;
    r->n_elems = n_elems;
    r->base = 0.25f;
    memcpy(r->delta, deltas[k->n_regions], sizeof r->delta);
    k->n_regions++;
}

/* Regions of odd sizes at odd places, one of them across each power of two from 2^31 bytes on. */
static void known_init(struct known *k, enum wm_dtype dtype, uint64_t n_elems)
{
    *k = (struct known){.big = {dtype, n_elems}};
    add_region(k, 0, 20011);
    for (uint64_t at = ((uint64_t)1 << 31) / dtype_width(dtype); at + 70000 < n_elems; at *= 2)
        add_region(k, at - 30001, 60013);
    add_region(k, n_elems - 20021, 20021);
}

static void known_write(const struct fixture *f, const struct known *k)
{
    const size_t width = dtype_width(k->big.dtype);

    for (int m = 0; m < 1 + N_MODELS; m++) {
        uint64_t data_at;
        int fd = new_weights_file(f, &k->big, model_names[m], &data_at);
        for (const struct region *r = k->regions; r < k->regions + k->n_regions; r++) {
            char *data = malloc((size_t)r->n_elems * width);
            assert_non_null(data);
            for (size_t i = 0; i < r->n_elems; i++)
                ref_store(data, k->big.dtype, i, r->base + (m ? r->delta[m - 1] : 0.0f));
            assert_int_equal(file_write_at(fd, "m", data, (size_t)r->n_elems * width, data_at + r->first * width, NULL),
                             WM_OK);
            free(data);
        }
        assert_int_equal(file_close_write(&fd, "m", NULL), WM_OK);
    }
}

/* ---- the formulas ----------------------------------------------------------------------------------------------- */

/* Model 0 keeps about half of the last region, model 1 a few elements beyond 2^31 bytes: the first ones of those that
 * equal its threshold. Sets the densities that mean so many elements. */
static void know_ties(struct known *k, double density[N_MODELS])
{
    for (int m = 0; m < N_MODELS; m++) {
        const struct region *cut = &k->regions[m == 0 ? k->n_regions - 1 : 1];
        uint64_t n_kept = 0;
        k->threshold[m] = fabsf(cut->delta[m]);
        k->tie_index[m] = cut->first + (m == 0 ? 10007 : 30010);
        for (const struct region *r = k->regions; r < k->regions + k->n_regions; r++) {
            uint64_t end = r->first + r->n_elems;
            if (fabsf(r->delta[m]) > k->threshold[m] ||
                (fabsf(r->delta[m]) == k->threshold[m] && end <= k->tie_index[m]))
                n_kept += r->n_elems;
            else if (r == cut)
                n_kept += k->tie_index[m] - r->first + 1;
        }
        k->scale[m] = 1.0f;
        density[m] = ((double)n_kept + 0.5) / (double)k->big.n_elems;
    }
}

enum { DARE_KEEP_BELOW = 3 * 8192 }; /* density 0.375 */

static bool is_drawn(const struct known *k, int m, uint64_t element)
{
    return philox_mask_draw(k->mask_key[m], element) < DARE_KEEP_BELOW;
}

static void know_dare(struct known *k, double density[N_MODELS])
{
    for (int m = 0; m < N_MODELS; m++) {
        double all = 0.0, kept = 0.0; /* exact: few multiples of a half */
        k->mask_key[m] = philox_mask_key(0, tensor_name, (uint32_t)m);
        for (const struct region *r = k->regions; r < k->regions + k->n_regions; r++)
            for (uint64_t i = 0; i < r->n_elems; i++) {
                double magnitude = fabs((double)r->delta[m]);
                all += magnitude;
                kept += is_drawn(k, m, r->first + i) ? magnitude : 0.0;
            }
        k->scale[m] = (float)(all / kept);
        density[m] = 0.375;
    }
}

static void know_slerp(struct known *k, double density[N_MODELS])
{
    double dot[3] = {0}; /* exact */
    double theta, t = 0.4;

    for (const struct region *r = k->regions; r < k->regions + k->n_regions; r++) {
        double x0 = (double)(r->base + r->delta[0]), x1 = (double)(r->base + r->delta[1]);
        dot[0] += (double)r->n_elems * x0 * x0;
        dot[1] += (double)r->n_elems * x0 * x1;
        dot[2] += (double)r->n_elems * x1 * x1;
    }
    theta = acos(dot[1] / sqrt(dot[0]) / sqrt(dot[2]));
    assert_true(theta > 0.1); /* else it would be a straight line */
    k->weight[0] = (float)(sin((1.0 - t) * theta) / sin(theta));
    k->weight[1] = (float)(sin(t * theta) / sin(theta));
    density[0] = t;
}

/* A sum of models, or of task vectors with a vote. */
static float linear_value(const struct known *k, const struct region *r, uint64_t element)
{
    (void)element;
    return k->weight[0] * (r->base + r->delta[0]) + k->weight[1] * (r->base + r->delta[1]);
}

static float voted(const struct known *k, const struct region *r, const bool kept[N_MODELS], bool normalize)
{
    float value[N_MODELS], total = 0.0f, mixed = 0.0f, divisor = 0.0f;

    for (int m = 0; m < N_MODELS; m++) {
        value[m] = kept[m] ? r->delta[m] * k->scale[m] * k->weight[m] : 0.0f;
        total += value[m];
    }
    for (int m = 0; m < N_MODELS; m++)
        if (total >= 0.0f ? value[m] > 0.0f : value[m] < 0.0f) {
            mixed += value[m];
            divisor += k->weight[m];
        }
    return r->base + (normalize && divisor != 0.0f ? mixed / divisor : mixed);
}

static float ties_value(const struct known *k, const struct region *r, uint64_t element)
{
    bool kept[N_MODELS];

    for (int m = 0; m < N_MODELS; m++)
        kept[m] = fabsf(r->delta[m]) > k->threshold[m] ||
                  (fabsf(r->delta[m]) == k->threshold[m] && element <= k->tie_index[m]);
    return voted(k, r, kept, true);
}

static float dare_value(const struct known *k, const struct region *r, uint64_t element)
{
    const bool kept[N_MODELS] = {is_drawn(k, 0, element), is_drawn(k, 1, element)};

    return voted(k, r, kept, false);
}

static void know_weights(struct known *k, double density[N_MODELS])
{
    (void)k;
    (void)density;
}

static const struct formula {
    const char *name, *recipe;
    void (*know)(struct known *k, double density[N_MODELS]);
    float (*value)(const struct known *k, const struct region *r, uint64_t element);
} formulas[] = {
    {"ties",
     "{merge_method: ties, base_model: '%0', models: [{model: '%1', parameters: {weight: 0.5, density: %a}}, "
     "{model: '%2', parameters: {weight: 0.25, density: %b}}]}",
     know_ties, ties_value},
    {"dare_ties",
     "{merge_method: dare_ties, base_model: '%0', models: [{model: '%1', parameters: {weight: 0.5, density: %a}}, "
     "{model: '%2', parameters: {weight: 0.25, density: %b}}]}",
     know_dare, dare_value},
    {"slerp", "{merge_method: slerp, base_model: '%1', parameters: {t: %a}, models: [{model: '%2'}]}", know_slerp,
     linear_value},
    {"linear",
     "{merge_method: linear, models: [{model: '%1', parameters: {weight: 0.5}}, {model: '%2', parameters: {weight: "
     "0.25}}], parameters: {normalize: false}}",
     know_weights, linear_value},
};
enum { TIES, DARE_TIES, SLERP, LINEAR, N_FORMULAS };

/* ---- whole outputs ---------------------------------------------------------------------------------------------- */

/* The bytes of elements first .. first + n - 1 as they must be. */
static void expected_piece(const struct known *k, const struct formula *formula, uint64_t first, size_t n, char *piece)
{
    const size_t width = dtype_width(k->big.dtype);

    memset(piece, 0, n * width);
    for (const struct region *r = k->regions; r < k->regions + k->n_regions; r++) {
        uint64_t begin = r->first > first ? r->first : first;
        uint64_t end = r->first + r->n_elems < first + n ? r->first + r->n_elems : first + n;
        for (uint64_t e = begin; e < end; e++)
            ref_store(piece, k->big.dtype, (size_t)(e - first), formula->value(k, r, e));
    }
}

static void expect_formula(const struct fixture *f, const struct known *k, const struct formula *formula,
                           const char *out)
{
    const size_t width = dtype_width(k->big.dtype), n_piece = PIECE_BYTES / width;
    char *got = malloc(PIECE_BYTES), *expected = malloc(PIECE_BYTES);
    uint64_t n_bytes, data_at;
    int fd = open_weights(f, out, &n_bytes);

    assert_non_null(got);
    assert_non_null(expected);
    assert_true(n_bytes > k->big.n_elems * width);
    data_at = n_bytes - k->big.n_elems * width; /* the only tensor ends with the file */
    for (uint64_t first = 0; first < k->big.n_elems; first += n_piece) {
        size_t n = (size_t)(k->big.n_elems - first < n_piece ? k->big.n_elems - first : n_piece);
        char what[96];
        assert_int_equal(file_read_at(fd, out, got, n * width, data_at + first * width, NULL), WM_OK);
        expected_piece(k, formula, first, n, expected);
        snprintf(what, sizeof what, "%s, %s, elements from %llu on", formula->name, out, (unsigned long long)first);
        if (memcmp(got, expected, n * width) != 0)
            assert_same_elements(got, expected, k->big.dtype, n, what);
    }
    file_close(&fd);
    free(expected);
    free(got);
}

static void expect_same_file(const struct fixture *f, const char *a, const char *b)
{
    char *left = malloc(PIECE_BYTES), *right = malloc(PIECE_BYTES);
    uint64_t n_left, n_right;
    int fd_left = open_weights(f, a, &n_left), fd_right = open_weights(f, b, &n_right);

    assert_non_null(left);
    assert_non_null(right);
    assert_int_equal(n_left, n_right);
    for (uint64_t at = 0; at < n_left; at += PIECE_BYTES) {
        size_t n = (size_t)(n_left - at < PIECE_BYTES ? n_left - at : PIECE_BYTES);
        assert_int_equal(file_read_at(fd_left, a, left, n, at, NULL), WM_OK);
        assert_int_equal(file_read_at(fd_right, b, right, n, at, NULL), WM_OK);
        if (memcmp(left, right, n) != 0)
            fail_msg("%s and %s differ between bytes %llu and %llu", a, b, (unsigned long long)at,
                     (unsigned long long)(at + n));
    }
    file_close(&fd_left);
    file_close(&fd_right);
    free(left);
    free(right);
}

/* ---- tests ------------------------------------------------------------------------------------------------------ */

/* A test that fails leaves no gigabytes behind. */
static int set_up(void **state)
{
    static struct fixture f;

    fixture_init(&f);
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    fixture_release(*state);
    return 0;
}

#define BIG_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

static bool has_disk(unsigned gb)
{
    uint64_t n_bytes = 0;

    return file_free_space("/tmp", &n_bytes, NULL) == WM_OK && n_bytes >= (uint64_t)gb * 1000000000u;
}

static void check_formula(const struct fixture *f, struct known *k, const struct formula *formula, int devices)
{
    double density[N_MODELS] = {0.0, 0.0};
    const char *out = devices ? "gpu" : "cpu";
    char yaml[2048];

    k->weight[0] = 0.5f;
    k->weight[1] = 0.25f;
    formula->know(k, density);
    expand(f, formula->recipe, density, yaml, sizeof yaml);
    printf("%s, %llu elements\n", formula->name, (unsigned long long)k->big.n_elems);
    merge(f, yaml, out, devices, (size_t)256 << 20);
    expect_formula(f, k, formula, out);
    remove_weights(f, out);
}

static void just_above_2_31_bytes(void **state)
{
    struct known k;

    known_init(&k, WM_F32, ((uint64_t)1 << 29) + 100003);
    known_write(*state, &k);
    check_formula(*state, &k, &formulas[TIES], 1);
}

/* ---- tests that take minutes ------------------------------------------------------------------------------------ */

/* More than 2^31 elements, and with them 2^32 bytes; then more than 2^32 elements. */
static void known_answers(void **state)
{
    struct known k;

    known_init(&k, WM_BF16, ((uint64_t)1 << 31) + 1234567);
    known_write(*state, &k);
    for (int i = 0; i < N_FORMULAS; i++)
        for (int devices = 0; devices <= 1; devices++)
            check_formula(*state, &k, &formulas[i], devices);
}

static void more_than_2_32_elements(void **state)
{
    struct known k;

    known_init(&k, WM_BF16, ((uint64_t)1 << 32) + 7654321);
    known_write(*state, &k);
    for (int devices = 0; devices <= 1; devices++)
        check_formula(*state, &k, &formulas[TIES], devices);
}

/* The same random numbers again and again, so that writing them takes no longer than the disk does. A prime number of
 * them: every repetition lies differently in the tiles. */
static void write_random(const struct fixture *f, const struct big *big)
{
    enum { BLOCK_ELEMS = 16777259 };
    void *base = new_weights(BLOCK_ELEMS, big->dtype, 1);

    for (int m = 0; m < 1 + N_MODELS; m++) {
        void *data = m ? new_fine_tune(base, big->dtype, BLOCK_ELEMS, big->dtype, 3e-4, 77 + (uint64_t)m) : base;
        uint64_t data_at;
        int fd = new_weights_file(f, big, model_names[m], &data_at);
        for (uint64_t first = 0; first < big->n_elems; first += BLOCK_ELEMS) {
            uint64_t n = big->n_elems - first < BLOCK_ELEMS ? big->n_elems - first : BLOCK_ELEMS;
            assert_int_equal(file_write_at(fd, "m", data, (size_t)n * dtype_width(big->dtype),
                                           data_at + first * dtype_width(big->dtype), NULL),
                             WM_OK);
        }
        assert_int_equal(file_close_write(&fd, "m", NULL), WM_OK);
        if (m)
            free(data);
    }
    free(base);
}

/* Values everywhere, of which no formula says the result: the CPU is the judge. In tiles that pass through a small device,
 * and with all inputs at once on a large one, in whose memory offsets go beyond 2^32. */
static void random_models(void **state)
{
    static const struct {
        const char *recipe;
        size_t device_memory;
    } cases[] = {
        {"{merge_method: dare_ties, base_model: '%0', parameters: {weight: 0.5, density: 0.4}, models: [{model: '%1'}, "
         "{model: '%2'}]}",
         (size_t)256 << 20},
        {"{merge_method: slerp, base_model: '%1', parameters: {t: 0.3}, models: [{model: '%2'}]}", (size_t)5 << 30},
        {"{merge_method: ties, base_model: '%0', parameters: {weight: 0.5, rescale: true}, models: [{model: '%1', "
         "parameters: {density: 0.37}}, {model: '%2', parameters: {density: 0.61}}]}",
         (size_t)256 << 20},
    };
    const struct big big = {WM_F32, ((uint64_t)1 << 29) + 100003};
    const double unused[N_MODELS] = {0.0, 0.0};
    struct fixture *f = *state;

    write_random(f, &big);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        char yaml[2048];
        expand(f, cases[c].recipe, unused, yaml, sizeof yaml);
        printf("%.24s..., %llu elements\n", cases[c].recipe, (unsigned long long)big.n_elems);
        merge(f, yaml, "cpu", 0, 0);
        merge(f, yaml, "gpu", 1, cases[c].device_memory);
        expect_same_file(f, "gpu", "cpu");
        remove_weights(f, "cpu");
        remove_weights(f, "gpu");
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest quick_tests[] = {BIG_TEST(just_above_2_31_bytes)};
    const struct CMUnitTest long_tests[] = {BIG_TEST(known_answers), BIG_TEST(random_models),
                                            BIG_TEST(more_than_2_32_elements)};
    bool is_long = argc == 2 && strcmp(argv[1], "long") == 0;

    if (argc > 1 && !is_long) {
        printf("usage: test_big_tensor [long]\n");
        return 2;
    }
    if (!has_disk(is_long ? LONG_DISK : QUICK_DISK)) {
        printf("skipped: /tmp has less than %d GB free\n", is_long ? LONG_DISK : QUICK_DISK);
        return 77;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    return is_long ? cmocka_run_group_tests(long_tests, NULL, NULL) : cmocka_run_group_tests(quick_tests, NULL, NULL);
}
