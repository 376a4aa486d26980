/*
 * warpmerge.h: the public C API, one page.
 *
 * What lives here: everything a program needs to merge checkpoints, and nothing else. The command line tool is
 * written against this header alone. What it must not know: how a merge is planned, streamed or stored.
 *
 * The smallest complete program:
 *
 *     struct wm_error err = WM_ERROR_INIT;
 *     struct wm_options opt = WM_OPTIONS_INIT;
 *     struct wm_merge *merge = NULL;
 *     if (wm_merge_open(&merge, "config.yml", &opt, &err) || wm_merge_plan(merge, "out", &err) ||
 *         wm_merge_run(merge, &err))
 *         fprintf(stderr, "%s\n", err.message);
 *     wm_merge_free(merge);
 *
 * Ownership: a `struct wm_merge *` is freed with wm_merge_free; text returned through `char **` is freed with
 * wm_text_free; a `struct wm_error` and a `struct wm_options` belong to the caller. Strings given in options must
 * live as long as the object they were given to. Nothing here prints, exits or aborts. Different objects may be used
 * from different threads at once; one object from one thread at a time (wm_merge_cancel excepted).
 */
#ifndef WARPMERGE_H
#define WARPMERGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default) /* the library is built with -fvisibility=hidden: this page is what it exports */

#define WM_VERSION "0.1.0"

/* ---- errors ------------------------------------------------------------------------------------------------- */

/* Who has to act. wm_exit_code gives the documented process exit code of each. */
enum wm_status {
    WM_OK = 0,
    WM_USAGE,         /*  2 the call or command line is wrong                                        */
    WM_BAD_DATA,      /* 65 an input file is malformed, or its values are refused                    */
    WM_NO_INPUT,      /* 66 an input is missing or cannot be read                                    */
    WM_NO_DEVICE,     /* 69 no usable GPU although one was asked for                                 */
    WM_VERIFY_FAILED, /* 70 a check of finished work failed                                          */
    WM_CANT_CREATE,   /* 73 the output cannot be created, exists, or does not fit                    */
    WM_IO,            /* 74 reading or writing failed                                                */
    WM_TEMPORARY,     /* 75 out of memory, output in use, ...: run again, it resumes                 */
    WM_BAD_CONFIG,    /* 78 the recipe is wrong                                                      */
    WM_CANCELLED,     /* 130 stopped on request; resumable                                           */
    WM_BUG            /*  1 an invariant of ours is broken                                           */
};

#define WM_ERROR_BYTES 2048

/* Filled on failure, untouched on success: a full sentence that names file, tensor or line, and the remedy.
 * The first error wins: functions do not overwrite a status that is already set. */
struct wm_error {
    enum wm_status status;
    char message[WM_ERROR_BYTES];
};
#define WM_ERROR_INIT                                                                                                  \
    {                                                                                                                  \
        WM_OK,                                                                                                         \
        {                                                                                                              \
            0                                                                                                          \
        }                                                                                                              \
    }

int wm_exit_code(enum wm_status status);
const char *wm_status_name(enum wm_status status); /* "bad config", for logs; static storage */

enum wm_severity { WM_NOTE, WM_WARNING, WM_ERROR };

/* One finding of a phase (parsing, opening, planning). All findings of a phase are delivered before it fails.
 * `text` is a complete line, with its location in front where there is one; valid during the call only. */
struct wm_problem {
    enum wm_severity severity;
    enum wm_status status; /* what it would end the run with; WM_OK for notes and warnings */
    const char *text;
};

/* ---- element types ------------------------------------------------------------------------------------------ */

/* The 22 types of safetensors, in the reference writer's order (huggingface/safetensors, tensor.rs). */
enum wm_dtype {
    WM_BOOL,
    WM_F4,
    WM_F6_E2M3,
    WM_F6_E3M2,
    WM_U8,
    WM_I8,
    WM_F8_E5M2,
    WM_F8_E4M3,
    WM_F8_E8M0,
    WM_F8_E4M3FNUZ,
    WM_F8_E5M2FNUZ,
    WM_I16,
    WM_U16,
    WM_F16,
    WM_BF16,
    WM_I32,
    WM_U32,
    WM_F32,
    WM_C64,
    WM_F64,
    WM_I64,
    WM_U64,
    WM_N_DTYPES
};

/* ---- options ------------------------------------------------------------------------------------------------ */

enum wm_policy { WM_POLICY_ERROR = 0, WM_POLICY_PROPAGATE };
enum wm_device { WM_DEVICE_AUTO = 0, WM_DEVICE_CPU, WM_DEVICE_CUDA };
enum wm_direct_io { WM_DIRECT_AUTO = 0, WM_DIRECT_ON, WM_DIRECT_OFF };

/* What a merge has done so far. */
struct wm_progress {
    uint64_t bytes_read, bytes_to_read;     /* input tensor bytes, statistics passes included; while surveying:
                                               of that phase */
    uint64_t bytes_written, bytes_to_write; /* output tensor bytes, resumed ranges included            */
    uint64_t bytes_resumed;                 /* of bytes_written: taken over from an earlier run        */
    uint64_t tensors_done, n_tensors;
    double seconds;               /* since wm_merge_run began                                */
    double read_rate, write_rate; /* bytes per second, of the last ten seconds or so; 0 while no tensor bytes move */
    const char *phase;            /* "surveying", "merging", "syncing", "hashing", ...; static */
    const char *shard;            /* file name of the shard last written; may be ""          */

    /* Several ranks on one merge; all of it 0 where a process is alone. What is above is this rank's own share. */
    int rank, n_ranks;
    /* On rank 0 alone: the sums over all ranks, as far as they were heard of, from a few seconds ago. */
    int n_ranks_heard;
    uint64_t ranks_bytes_read, ranks_bytes_to_read, ranks_bytes_written, ranks_bytes_to_write, ranks_bytes_resumed;
    uint64_t ranks_tensors_done, ranks_n_tensors;
    double ranks_read_rate, ranks_write_rate; /* bytes per second, of the last ten seconds or so */
    /* Bytes per second, read and written together: the slowest rank that has work left, and the median of all. 0 until
     * two ranks have been measured. */
    double slowest_rate, median_rate;
    int slowest_rank;
    const char *slowest_host; /* valid during the call */
};

struct wm_options {
    size_t size; /* sizeof(struct wm_options): the version of this struct */

    /* findings and progress; either may be NULL. progress runs on the thread in wm_merge_run, about 5 times a second;
     * a non-zero return cancels. */
    void (*on_problem)(void *user, const struct wm_problem *problem);
    int (*on_progress)(void *user, const struct wm_progress *progress);
    void *user;

    int strict;            /* unknown keys and parameters are errors, not warnings            */
    uint64_t memory_bytes; /* budget for the whole process; 0: 2 GiB                          */
    uint64_t tile_bytes;   /* bytes of one tile of the widest input; 0: chosen. 64 KiB..64 MiB */
    int n_threads;         /* compute threads; 0: the processors this process may use         */
    int n_io_threads;      /* reader threads; 0: chosen                                       */
    uint64_t shard_bytes;  /* largest output shard; 0: 5,000,000,000 (mergekit's)             */
    uint64_t seed;         /* of random masks; 0 is a seed like any other                     */
    enum wm_device device;
    enum wm_direct_io direct_io;
    enum wm_policy nonfinite;     /* NaN or Inf in an input                                          */
    enum wm_policy overflow;      /* a finite value that the output type cannot hold                 */
    int copy_tokenizer;           /* copy tokenizer and generation files from the donor              */
    int write_card;               /* README.md and mergekit_config.yml                               */
    int sha256;                   /* add SHA-256 of every output shard to the manifest               */
    int restart;                  /* throw an unfinished earlier run away instead of resuming it     */
    int overwrite;                /* replace a non-empty output directory at the commit              */
    int sync;                     /* fsync before the commit (0 only for benchmarks and tests)       */
    const char *hub_cache;        /* hub cache directory; NULL: HF_HUB_CACHE, HF_HOME, ...           */
    int device_index;             /* with WM_DEVICE_CUDA: 0 every GPU, else the n-th, counted from 1 */
    uint64_t device_memory_bytes; /* budget on each GPU; 0: nine tenths of what is free             */
    int verify_per_1000;          /* blocks of GPU work that the CPU does again to compare, of 1,000 */
    int n_ranks;                  /* processes that merge together, see wm_options_find_ranks; 0 or 1: this one alone.
                                     wm_merge_describe shows who of them does what                   */
    int rank;                     /* which of them this is, from 0                                   */
    int local_rank, local_size;   /* and which of the processes on this machine; local_size 0: unknown */
    char rank_job[128];           /* the same on every rank of this run; "": they find out           */
    double rank_deadline_seconds; /* a rank without a sign of life for so long is lost; 0: 60        */
    int part, n_parts;            /* n_parts > 0: compute the part-th (from 0) of so many parts, without talking to the
                                     others; wm_merge_open_parts finishes                             */
    /* This rank of several hangs for twice the deadline, in storage that does not answer, and wm_merge_run may never return.
     * From a thread of its own; what a program can do is to say why and end itself. NULL: it hangs. */
    void (*on_stuck)(void *user, const struct wm_error *why);
};
#define WM_OPTIONS_INIT                                                                                                \
    {                                                                                                                  \
        .size = sizeof(struct wm_options), .copy_tokenizer = 1, .write_card = 1, .sync = 1, .verify_per_1000 = 1       \
    }

/* ---- merging, in order of use ------------------------------------------------------------------------------- */

struct wm_merge;

/* Reads and checks a recipe (a mergekit YAML config). Every problem goes to options->on_problem, the first error also
 * to `err`. Fails with WM_BAD_CONFIG, WM_NO_INPUT, WM_USAGE (options). */
enum wm_status wm_merge_open(struct wm_merge **merge, const char *config_path, const struct wm_options *options,
                             struct wm_error *err);

/* Opens every checkpoint's headers, checks them against each other and fixes the complete output layout. No tensor
 * byte is read. `out_path` may be NULL to plan without an output directory. */
enum wm_status wm_merge_plan(struct wm_merge *merge, const char *out_path, struct wm_error *err);

/* The plan for people, or as one JSON object (as_json). */
enum wm_status wm_merge_describe(const struct wm_merge *merge, int as_json, char **text, struct wm_error *err);

/* Runs the merge, or continues an interrupted one: the same bytes either way. On success `out_path` is a complete
 * Hugging Face model directory; until then that name does not exist (or is untouched). Where this very merge has put it in
 * place already nothing is done, and that is a success (unless options->overwrite or restart ask for more). */
enum wm_status wm_merge_run(struct wm_merge *merge, struct wm_error *err);

/* Which of several processes this one is: from what the user says (NULL: nothing; ranks may be "none") and from the
 * variables of torchrun, Open MPI, Slurm, PMI and Kubernetes. Fills n_ranks, rank, local_rank, local_size and rank_job.
 * What a launcher's binding wastes goes to options->on_problem. WM_USAGE when statements contradict each other. */
enum wm_status wm_options_find_ranks(struct wm_options *options, const char *rank, const char *ranks, const char *job,
                                     struct wm_error *err);

/* After all parts (options.n_parts) of a merge into out_path have been run: opens and plans the merge that verifies them
 * and puts the output in place with wm_merge_run. Config and the options that decide bytes are those of the parts. Relative
 * paths are taken from where the parts ran: the working directory must be that one. WM_NO_INPUT, WM_USAGE; running it
 * fails with WM_TEMPORARY while parts are missing, and does nothing where out_path is complete and no part is left. */
enum wm_status wm_merge_open_parts(struct wm_merge **merge, const char *out_path, const struct wm_options *options,
                                   struct wm_error *err);

/* What must be known of whole models before the merge (ties with trim: global), found ahead of it: wm_merge_run with the
 * same recipe, inputs and options does not look for it again. Ranks find it together. Nothing to do for other recipes. What
 * was found goes to `text`, as text or one JSON object. */
enum wm_status wm_merge_stats(struct wm_merge *merge, int as_json, char **text, struct wm_error *err);

/* What the run did: bytes, seconds, peak memory, share resumed, the limiting stage. As text or one JSON object. */
enum wm_status wm_merge_summary(const struct wm_merge *merge, int as_json, char **text, struct wm_error *err);

/* Asks a running merge to stop soon (async-signal-safe, any thread). wm_merge_run then returns WM_CANCELLED. */
void wm_merge_cancel(struct wm_merge *merge);

void wm_merge_free(struct wm_merge *merge); /* NULL is allowed */

/* ---- looking at things -------------------------------------------------------------------------------------- */

/* Headers of a model: files, tensors, types, sizes. `model` is a directory, a .safetensors file or a cached hub id. */
enum wm_status wm_inspect(const char *model, const struct wm_options *options, int as_json, char **text,
                          struct wm_error *err);
/* Re-reads a finished output directory and compares it with its warpmerge-manifest.json. */
enum wm_status wm_verify(const char *out_path, const struct wm_options *options, int as_json, char **text,
                         struct wm_error *err);
/* All methods, or one in detail (formula, parameters, source). NULL lists all. */
enum wm_status wm_methods(const char *name, int as_json, char **text, struct wm_error *err);
/* Everything a bug report needs: version, build, processor, memory, devices, caches. */
enum wm_status wm_env(const struct wm_options *options, int as_json, char **text, struct wm_error *err);

void wm_text_free(char *text);

/* ---- measuring this machine --------------------------------------------------------------------------------- */

struct wm_bench_options {
    size_t size;      /* sizeof(struct wm_bench_options)                                   */
    int quick;        /* seconds instead of minutes, with fewer sizes and samples          */
    const char *dir;  /* measure the storage of this folder (2 GiB, removed); NULL: do not */
    const char *only; /* only kernels whose name contains this; NULL: all                  */
    int (*on_step)(void *user, const char *what); /* before each step; non-zero stops. May be NULL */
    void *user;
};
#define WM_BENCH_OPTIONS_INIT                                                                                          \
    {                                                                                                                  \
        .size = sizeof(struct wm_bench_options)                                                                        \
    }

enum wm_bench_format { WM_BENCH_TEXT, WM_BENCH_JSON, WM_BENCH_CSV, WM_BENCH_SVG };
struct wm_bench;

/* Measures storage, memory and wires, then every kernel on the device that `options` names (device, n_threads).
 * Either may be NULL. WM_USAGE, WM_NO_DEVICE, WM_NO_INPUT; WM_CANCELLED: on_step stopped it, and *bench has what was
 * measured until then. In all other cases of failure it is NULL. */
enum wm_status wm_bench_run(struct wm_bench **bench, const struct wm_bench_options *what,
                            const struct wm_options *options, struct wm_error *err);
enum wm_status wm_bench_report(const struct wm_bench *bench, enum wm_bench_format format, char **text,
                               struct wm_error *err);
void wm_bench_free(struct wm_bench *bench); /* NULL is allowed */

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
