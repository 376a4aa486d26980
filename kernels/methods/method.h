/*
 * method.h: what a merge method is, and what one tensor's merge comes down to.
 *
 * What lives here: the descriptor that every method provides (name, parameters, what it needs, how it turns parameters
 * into an operation) and `struct merge_op`, the operation that the generic drivers of every backend execute. A method
 * is one row of methods.def plus a descriptor in its family's .c file; help, validation, documentation and schema are
 * generated from the descriptor. What it must not know: files, configs, threads, devices.
 *
 * A tensor's merge is  [statistics passes -> coefficients ->] one element-wise pass  (DESIGN section 3). There are two
 * element-wise families; every method so far is one of them with the right coefficients:
 *
 *   LINEAR       r = (sum_m w_m x_m) [/ divisor]
 *   TASK_VECTOR  r = b + lambda * (sum_m agree_m * w_m * s_m * keep_m * (x_m - b)) [/ divisor]
 *
 * with keep = all, the k largest magnitudes, or a counter-based random mask; s = rescale factor; agree = sign election.
 */
#ifndef WM_KERNELS_METHOD_H
#define WM_KERNELS_METHOD_H

#include "warpmerge.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define METHOD_MAX_MODELS 64 /* besides the base */
#define METHOD_MAX_PARAMS 12

/* ---- the operation on one tensor ---------------------------------------------------------------------------- */

enum merge_family { MERGE_LINEAR, MERGE_TASK_VECTOR };
enum merge_keep { KEEP_ALL, KEEP_TOP, KEEP_RANDOM, KEEP_NONE };
enum merge_rescale { RESCALE_NONE = 0, RESCALE_L1 = 1, RESCALE_INV_DENSITY = 2 };
/* Which elements form one vector of a Gram matrix: the whole tensor, the last axis, or the first axis. */
enum merge_axis { AXIS_TENSOR, AXIS_ROWS, AXIS_COLUMNS };

struct merge_model {
    float weight; /* w_m; with a Gram statistic: filled from it                                       */
    float scale;  /* s_m: 1, 1/density, or the L1 ratio (filled by the statistics)                    */
    enum merge_keep keep;
    uint64_t k;          /* KEEP_TOP: how many elements, 0 < k < n_elems                                     */
    uint32_t threshold;  /* KEEP_TOP, filled: bits of |delta| as fp32; above it everything is kept           */
    uint64_t tie_index;  /* KEEP_TOP, filled: of the elements equal to the threshold, those up to this index */
    uint32_t keep_below; /* KEEP_RANDOM: keep when the element's 16-bit draw is below this; 0..65536         */
    uint64_t mask_key;   /* KEEP_RANDOM: Philox key from (seed, tensor name, model index)                    */
    double density;      /* model_statistics: the share of the whole task vector that is kept                */
    int index;           /* model_statistics: position in the recipe                                         */
};

struct merge_op {
    const struct method *method;
    enum merge_family family;
    bool has_base; /* input 0 is the base, inputs 1..n_models the models; else inputs 0..n_models-1 */
    int n_models;
    uint64_t n_elems;
    uint64_t n_rows, row_elems; /* n_elems = n_rows * row_elems; row_elems is the length of the last axis       */
    bool sum_from_zero;         /* sums start at +0 as torch's do (-0 + +0 = +0); false: at the first term       */
    bool consensus;             /* elect a sign per element from the weighted sum                                */
    float plus_from;            /* ... which is plus from this sum on: 0 (zero counts as plus), or the smallest positive
                                   number (zero counts as minus)                                                 */
    bool model_statistics;      /* thresholds and plus_from come from the whole model, not from this tensor: prepare
                                   leaves them open, model_statistics_apply fills them in                        */
    bool normalize;             /* divide: by `divisor`, with consensus by the sum of agreeing weights (0 -> 1)   */
    float divisor;
    float lambda; /* TASK_VECTOR: applied when != 1                                                */
    enum merge_rescale rescale;
    bool needs_gram;       /* coefficients come from the Gram matrix of the inputs (LINEAR) or deltas       */
    enum merge_axis axis;  /* ... of which vectors                                                          */
    float *vector_weights; /* axis != TENSOR, filled: [n_vectors][n_models], owned by the statistics state  */
    double user[4];        /* the method's own numbers between prepare and coefficients (slerp: t)          */
    struct merge_model models[METHOD_MAX_MODELS];
};

static inline int merge_op_n_inputs(const struct merge_op *op)
{
    return op->n_models + (op->has_base ? 1 : 0);
}

/* ---- descriptors -------------------------------------------------------------------------------------------- */

enum method_param_type { METHOD_NUMBER, METHOD_FLAG, METHOD_CHOICE };

struct method_param {
    const char *name, *help;
    enum method_param_type type;
    bool per_model; /* may differ by model (and may still be given globally) */
    bool required;
    bool no_effect;             /* accepted because mergekit has it; changes nothing      */
    double default_value;       /* CHOICE: index into choices                              */
    double min, max;            /* inclusive; NUMBER only                                 */
    const char *const *choices; /* CHOICE: words, NULL-terminated; "false" and "true" also match those booleans */
};

enum method_base {
    METHOD_BASE_ORDINARY, /* a base is one more model of the merge                                  */
    METHOD_BASE_OPTIONAL, /* with a base the method works on deltas; the base is none of the models */
    METHOD_BASE_REQUIRED, /* always works on deltas from the base                                   */
    METHOD_BASE_ONE_OF    /* two models, one of which is the base and comes first                   */
};

/* Everything that decides one tensor's merge before any element is read. */
struct method_args {
    int n_models;         /* models taking part in this tensor, base excluded if it is special */
    bool has_base;        /* a special base takes part                                        */
    const double *params; /* [n_params], by index in method->params: the global values        */
    const double (*model_params)[METHOD_MAX_PARAMS]; /* [n_models]                                       */
    const int *model_index; /* [n_models] position in the recipe: keys random masks             */
    uint64_t seed;
    const char *tensor_name;
    uint64_t n_elems, n_rows, row_elems;
    uint64_t n_first; /* length of the first axis; 0: the same as n_rows (matrices) */
};

struct method {
    const char *name;
    const char *summary; /* one line                                     */
    const char *formula; /* plain text, may have several lines           */
    const char *source;  /* paper and section, or where it is defined    */
    const char *notes;   /* differences from mergekit, advice; may be NULL */
    enum method_base base;
    int min_models, max_models; /* besides a special base; with ONE_OF and ORDINARY counting all */
    const struct method_param *params;
    int n_params;
    /* Parameters to operation. WM_BAD_CONFIG with a sentence that does not name the tensor (the caller adds it). */
    enum wm_status (*prepare)(const struct method *method, const struct method_args *args, struct merge_op *op,
                              char message[256]);
    /* Gram matrix [n][n] of one vector (row-major, fp64) to weights [n]; only with needs_gram. */
    void (*coefficients)(const struct merge_op *op, const double *gram, float *weights);
    const char *citation_url;
};

/* All methods in the order of methods.def; NULL-terminated. */
extern const struct method *const method_list[];
const struct method *method_find(const char *name);
int method_param_index(const struct method *method, const char *name); /* -1 if unknown */

#endif
