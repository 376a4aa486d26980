/*
 * measure.h: how fast this machine is, and how near the kernels come to it.
 *
 * What lives here: ceilings (storage, host memory, the wires to a GPU, its memory), every kernel timed by the same rules
 * over sizes, models and types, and the result as text, JSON, CSV and a roofline plot. What it must not know: recipes,
 * checkpoints, the engine: it drives the kernels directly, so that nothing else is in its numbers.
 */
#ifndef WM_MEASURE_H
#define WM_MEASURE_H

#include "base/error.h"
#include "base/text.h"
#include "methods/tile.h"
#include "statistics/model_statistics.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- timing by nvbench's rules (sample.c) ------------------------------------------------------------------- */

/* A measurement ends when it has min_samples, min_seconds of them, and a relative standard deviation of max_noise or
 * less; in any case after max_samples or max_seconds of clock time (a noisy machine does not get quiet by waiting). */
struct sample_rules {
    int min_samples, max_samples;
    double min_seconds, max_seconds, max_noise;
};
extern const struct sample_rules sample_thorough, sample_quick;

struct sample_time {
    double seconds; /* median of the samples; 0: not measured */
    double fastest, noise;
    int n_samples;
};

#define SAMPLE_MAX 1000

struct sampler {
    const struct sample_rules *rules;
    double began, sum, squares; /* squares: of distances from the mean so far (Welford) */
    double mean;
    int n;
    double samples[SAMPLE_MAX];
};
void sampler_begin(struct sampler *s, const struct sample_rules *rules);
bool sampler_wants_more(const struct sampler *s);
void sampler_add(struct sampler *s, double seconds);
struct sample_time sampler_end(struct sampler *s); /* sorts the samples */

/* ---- results ------------------------------------------------------------------------------------------------ */

struct measure_ceiling {
    const char *id, *what; /* "host_copy", "memcpy on 2 threads, reads and writes counted" */
    char detail[64];
    uint64_t n_bytes; /* moved per sample */
    double bytes_per_second, noise;
    int n_samples;
};

struct measure_row {
    char kernel[48];  /* "ties, 3 models, density 0.5" */
    const char *part; /* "combine", a statistics pass ("kth ..." of a tensor, "model ..." of a model of which it is the
                         only tensor), or "whole": all passes and what the host does between them; "group": many
                         tensors, statistics and merge, and what the host does for them */
    enum wm_dtype dtype;
    int n_models;
    uint64_t n_elems, tensor_bytes; /* of one tensor in its main type */
    uint64_t n_tensors, tile_elems;
    uint64_t n_bytes;         /* declared: every input that this part reads and the output, once each */
    double n_operations;      /* fp32 additions, multiplications and comparisons of the formula */
    struct sample_time cold;  /* caches emptied before every sample */
    struct sample_time batch; /* back to back, time of one         */
};

#define MEASURE_MAX_CEILINGS 16
#define MEASURE_DEVICE_BYTES 160

struct measure {
    bool quick, on_gpu, complete; /* complete: nobody stopped it */
    int n_threads, gpu;           /* gpu: its number, where on_gpu */
    char device[MEASURE_DEVICE_BYTES];
    struct measure_ceiling ceilings[MEASURE_MAX_CEILINGS];
    int n_ceilings;
    double copy_bytes_per_second; /* of the device's memory: what kernels are judged by */
    double peak_operations_per_second;
    const char *peak_source;
    struct measure_row *rows;
    size_t n_rows, capacity;
    double seconds; /* all of it */
};

struct measure_options {
    bool quick;
    bool use_gpu; /* only where measure_n_gpus is above `gpu` */
    int gpu, n_threads;
    uint64_t gpu_tile_bytes;                      /* the engine's on a GPU: measured beside the largest there is */
    const char *dir;                              /* storage is measured here; NULL: not at all                */
    const char *only;                             /* kernels whose name contains this; NULL: all               */
    int (*on_step)(void *user, const char *what); /* non-zero stops; may be NULL */
    void *user;
};

/* 0 where the build has no CUDA, or no device is there. */
int measure_n_gpus(void);
enum wm_status measure_run(struct measure *m, const struct measure_options *options, struct wm_error *err);
void measure_release(struct measure *m);
const struct measure_ceiling *measure_find_ceiling(const struct measure *m, const char *id); /* NULL: not measured */
double measure_row_seconds(const struct measure_row *row); /* batch where it was taken, else cold */
/* Bytes moved per second, as a share of the measured copy bandwidth. */
double measure_row_share(const struct measure *m, const struct measure_row *row);
/* Operational intensity below the ridge of the roofline: bound by memory. */
bool measure_row_memory_bound(const struct measure *m, const struct measure_row *row);

void measure_text(const struct measure *m, struct text *out);
void measure_json(const struct measure *m, struct text *out);
void measure_csv(const struct measure *m, struct text *out);
void measure_svg(const struct measure *m, struct text *out);

/* ---- inside: what the parts above are made of --------------------------------------------------------------- */

#define MEASURE_MAX_INPUTS 17 /* a base and sixteen models */

/* How thresholds are found: pass by pass; by a guess that most tiles are merged with at once, as where a tensor is streamed;
 * in one go on the device, as where a tensor stays there. */
enum measure_way { WAY_PASSES, WAY_GUESS, WAY_SEARCH };

struct measure_case {
    char kernel[40];
    const char *method;
    int n_models;
    bool has_base;
    struct {
        const char *name;
        double value;
    } settings[3];
    enum measure_way way;
    bool mixed, group; /* group: measured over many small tensors as well */
};
/* Every kernel once; returns their number. */
size_t measure_cases(const struct measure_case **cases);
enum wm_status measure_prepare(const struct measure_case *c, uint64_t n_elems, struct merge_op *op,
                               struct wm_error *err);
/* The types of inputs where they are mixed: F32, `dtype`, F16 and so on; everywhere else `dtype`. */
enum wm_dtype measure_input_type(enum wm_dtype dtype, bool mixed, int input);
/* Inputs 0 (base) and on: weights and fine-tunes of them, deltas of a few ulps of bf16. data: n elements. */
void measure_fill(void *data, enum wm_dtype dtype, uint64_t n_elems, int input);
const char *measure_pass_name(enum stat_pass pass);
const char *measure_model_pass_name(enum model_pass pass);
double measure_operations(const struct merge_op *op, enum stat_pass pass); /* per element; STAT_READY: combine */
double measure_model_operations(const struct merge_op *op, enum model_pass pass);

/* The machine that a kernel runs on. Seconds are what its clock says of the kernels alone. */
struct measure_device;
struct measure_group {
    struct merge_op *ops; /* [n_tensors], as prepared: their statistics change them */
    size_t n_tensors;
    uint64_t tensor_elems;
};
struct measure_device_ops {
    void (*describe)(const struct measure_device *device, char text[MEASURE_DEVICE_BYTES]);
    uint64_t (*tensor_limit)(const struct measure_device *device, int n_inputs); /* largest tensor, in bytes */
    /* Tile sizes that are measured, first the one that is judged; 0: no such. */
    uint64_t (*tile_elems)(const struct measure_device *device, int which, enum wm_dtype dtype);
    /* Makes device->tensors' memory, as many and as large as they say; the former ones are released. */
    enum wm_status (*load)(struct measure_device *device, struct wm_error *err);
    void (*unload)(struct measure_device *device);
    enum wm_status (*flush)(struct measure_device *device, struct wm_error *err); /* empties the caches */
    /* Tiles that a guess has merged already are left out. s: NULL where there are no statistics. */
    enum wm_status (*combine)(struct measure_device *device, const struct merge_op *op, const struct statistics *s,
                              int n_repeats, double *seconds, struct wm_error *err);
    /* One statistics pass over all tiles that need it, its results home in s. seconds: of one repeat. after: seconds for
     * what follows the kernels: the way home of the results. Where `repeats` is false n_repeats is 1. */
    enum wm_status (*pass)(struct measure_device *device, const struct merge_op *op, struct statistics *s,
                           int n_repeats, double *seconds, double *after, struct wm_error *err);
    /* The same for a pass over a whole model: its counts home in ms. */
    enum wm_status (*model_pass)(struct measure_device *device, const struct merge_op *op, struct model_statistics *ms,
                                 int n_repeats, double *seconds, double *after, struct wm_error *err);
    bool repeats;  /* a pass may run again and again: its results are cleared each time */
    bool searches; /* knows WAY_SEARCH */
    /* Many small tensors, one behind the other in device->tensors, as the engine merges them. */
    enum wm_status (*group)(struct measure_device *device, struct measure_group *group, double *seconds,
                            struct wm_error *err);
    enum wm_status (*ceilings)(struct measure_device *device, struct measure *m, const struct sample_rules *rules,
                               struct wm_error *err);
    void (*close)(struct measure_device *device);
};
struct measure_device {
    const struct measure_device_ops *ops;
    uint64_t tile_elems; /* of what runs */
    bool searching;      /* WAY_SEARCH   */
    struct {
        int n_inputs;
        enum wm_dtype in_dtype[MEASURE_MAX_INPUTS], dtype; /* dtype: of the output */
        uint64_t n_elems;
        char *in[MEASURE_MAX_INPUTS], *out;
    } tensors;
};
/* Tile `index` of an operation on the device's tensors; `out` false: a statistics pass. */
void measure_tile(struct merge_tile *tile, const struct measure_device *device, const struct merge_op *op,
                  uint64_t index, bool out);
/* The n-th tensor of a group, as one tile. */
void measure_group_tile(struct merge_tile *tile, const struct measure_device *device, const struct merge_op *op,
                        size_t n);
enum wm_status measure_open_cpu(struct measure_device **device, int n_threads, struct wm_error *err);
#ifdef WM_HAVE_CUDA
enum wm_status measure_open_cuda(struct measure_device **device, int gpu, uint64_t tile_bytes, struct wm_error *err);
#endif

/* What has to be read, written and computed is added to a row (work.c): by a statistics pass that comes next, by the search that
 * follows COARSE on a device that ends it alone (when it is over), and by a pass over a whole model. */
void measure_pass_work(const struct measure_device *device, const struct merge_op *op, const struct statistics *s,
                       struct measure_row *row);
void measure_search_work(const struct measure_device *device, const struct merge_op *op, struct measure_row *row);
void measure_model_pass_work(const struct measure_device *device, const struct merge_op *op,
                             const struct model_statistics *ms, struct measure_row *row);
/* Elements of the tiles that the element-wise pass still has to do. */
uint64_t measure_elements_left(const struct merge_op *op, const struct statistics *s, uint64_t tile_elems);
/* Bytes of one element in every input. */
uint64_t measure_input_bytes(const struct measure_device *device, int n_inputs);

/* A function on n threads at once: worker 0 is the caller. Threads live as long as the team. */
struct measure_team;
struct measure_team *measure_team_new(int n_threads); /* NULL: out of memory or threads */
void measure_team_free(struct measure_team *team);
int measure_team_size(const struct measure_team *team);
void measure_team_run(struct measure_team *team, void (*work)(void *user, int worker), void *user);

struct measure_ceiling *measure_add_ceiling(struct measure *m, const char *id, const char *what);
void measure_set_ceiling(struct measure_ceiling *c, uint64_t n_bytes, const struct sample_time *time);
enum wm_status measure_host_copy(struct measure *m, struct measure_team *team, const struct sample_rules *rules,
                                 struct wm_error *err);
double measure_peak_operations(struct measure_team *team); /* fp32 operations per second of all threads, no fma */
enum wm_status measure_storage(struct measure *m, const char *dir, struct measure_team *team, bool quick,
                               struct wm_error *err);

#endif
