/*
 * options.c: the one table of options and verbs.
 *
 * What lives here: every option's name, meaning and effect, once; parsing (parse.c), help and completions are generated
 * from it. What it must not know: how a command line is split, or what a verb does.
 */
#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- effects ------------------------------------------------------------------------------------------------ */

static const char *const policies[] = {"error", "propagate", NULL};
static const char *const devices[] = {"auto", "cpu", "cuda", NULL};
static const char *const direct_modes[] = {"auto", "on", "off", NULL};
static const char *const progress_modes[] = {"auto", "bar", "plain", "json", "none", NULL};
static const char *const color_modes[] = {"auto", "always", "never", NULL};

static int choice_of(const char *const *choices, const char *value, char problem[256])
{
    int n = 0;

    for (int i = 0; choices[i]; i++)
        if (strcmp(choices[i], value) == 0)
            return i;
    n = snprintf(problem, 256, "takes one of");
    for (int i = 0; choices[i] && n < 200; i++)
        n += snprintf(problem + n, (size_t)(256 - n), "%s %s", i ? "," : "", choices[i]);
    return -1;
}

/* A setter of one field of the command: a switch, a count, a size, a choice. */
#define SETS_BOOL(name, field, on)                                                                                     \
    static bool name(struct cli_command *c, const char *value, char problem[256])                                      \
    {                                                                                                                  \
        (void)problem;                                                                                                 \
        c->field = (*value == '1') == (on);                                                                            \
        return true;                                                                                                   \
    }
#define SETS_CHOICE(name, field, type, choices)                                                                        \
    static bool name(struct cli_command *c, const char *value, char problem[256])                                      \
    {                                                                                                                  \
        int i = choice_of(choices, value, problem);                                                                    \
        if (i >= 0)                                                                                                    \
            c->field = (type)i;                                                                                        \
        return i >= 0;                                                                                                 \
    }

static bool set_count(int *field, const char *value, char problem[256])
{
    uint64_t n;

    if (!value_u64(value, &n) || n < 1 || n > 1024) {
        snprintf(problem, 256, "takes a number from 1 to 1024");
        return false;
    }
    *field = (int)n;
    return true;
}

static bool set_bytes(uint64_t *field, const char *value, char problem[256])
{
    if (value_bytes(value, false, field) && *field > 0)
        return true;
    snprintf(problem, 256, "takes a size such as 512MiB, 2G or 5GB");
    return false;
}

SETS_BOOL(set_strict, options.strict, true)
SETS_BOOL(set_copy_tokenizer, options.copy_tokenizer, true)
SETS_BOOL(set_write_card, options.write_card, true)
SETS_BOOL(set_sha256, options.sha256, true)
SETS_BOOL(set_restart, options.restart, true)
SETS_BOOL(set_overwrite, options.overwrite, true)
SETS_BOOL(set_sync, options.sync, true)
SETS_BOOL(set_json, json, true)
SETS_BOOL(set_quiet, quiet, true)
SETS_BOOL(set_verbose, verbose, true)
SETS_BOOL(set_help, help, true)
SETS_BOOL(set_version, version, true)
SETS_CHOICE(set_nonfinite, options.nonfinite, enum wm_policy, policies)
SETS_CHOICE(set_overflow, options.overflow, enum wm_policy, policies)
SETS_CHOICE(set_direct_io, options.direct_io, enum wm_direct_io, direct_modes)
SETS_CHOICE(set_progress, progress, enum cli_progress, progress_modes)
SETS_CHOICE(set_color, color, enum cli_color, color_modes)

static bool set_memory(struct cli_command *c, const char *value, char problem[256])
{
    return set_bytes(&c->options.memory_bytes, value, problem);
}

static bool set_tile(struct cli_command *c, const char *value, char problem[256])
{
    return set_bytes(&c->options.tile_bytes, value, problem);
}

static bool set_threads(struct cli_command *c, const char *value, char problem[256])
{
    return set_count(&c->options.n_threads, value, problem);
}

static bool set_io_threads(struct cli_command *c, const char *value, char problem[256])
{
    return set_count(&c->options.n_io_threads, value, problem);
}

static bool set_seed(struct cli_command *c, const char *value, char problem[256])
{
    if (value_u64(value, &c->options.seed))
        return true;
    snprintf(problem, 256, "takes a whole number from 0 to 18446744073709551615");
    return false;
}

static bool set_shard_size(struct cli_command *c, const char *value, char problem[256])
{
    if (strcmp(value, "-1") == 0) { /* mergekit's "no limit" */
        c->options.shard_bytes = UINT64_MAX;
        return true;
    }
    if (value_bytes(value, true, &c->options.shard_bytes) && c->options.shard_bytes > 0)
        return true;
    snprintf(problem, 256, "takes a size in bytes such as 5B (5e9, as in mergekit), 500M or 4GiB, or -1 for one shard");
    return false;
}

/* cuda: every GPU; cuda:N the one with that number. */
static bool set_device(struct cli_command *c, const char *value, char problem[256])
{
    bool one = strncmp(value, "cuda:", 5) == 0;
    uint64_t number = 0;
    int i = choice_of(devices, one ? "cuda" : value, problem);

    if (one && (!value_u64(value + 5, &number) || number > 1000)) {
        snprintf(problem, 256, "takes auto, cpu, cuda or cuda:N with the number of a GPU");
        return false;
    }
    if (i >= 0)
        c->options.device = (enum wm_device)i;
    c->options.device_index = one ? (int)number + 1 : 0;
    return i >= 0;
}

static bool set_device_memory(struct cli_command *c, const char *value, char problem[256])
{
    if (value_bytes(value, false, &c->options.device_memory_bytes) && c->options.device_memory_bytes > 0)
        return true;
    snprintf(problem, 256, "takes a size such as 8GiB");
    return false;
}

/* A percentage, kept as tiles per thousand. */
static bool set_verify_sample(struct cli_command *c, const char *value, char problem[256])
{
    char *end;
    double percent = strtod(value, &end);

    if (*value && !*end && percent >= 0.0 && percent <= 100.0) {
        c->options.verify_per_1000 = (int)(percent * 10.0 + 0.5);
        return true;
    }
    snprintf(problem, 256, "takes a percentage from 0 to 100");
    return false;
}

/* For a merge the launcher's variables have a say as well (wm_options_find_ranks): the words are kept. */
static bool set_ranks(struct cli_command *c, const char *value, char problem[256])
{
    uint64_t n = 0;

    c->ranks = value;
    if (strcmp(value, "none") == 0 || (value_u64(value, &n) && n >= 1 && n <= 4096)) {
        c->options.n_ranks = (int)n;
        return true;
    }
    snprintf(problem, 256, "takes a number from 1 to 4096, or none");
    return false;
}

static bool set_rank(struct cli_command *c, const char *value, char problem[256])
{
    uint64_t n;

    c->rank = value;
    snprintf(problem, 256, "takes a number from 0 to 4095");
    return value_u64(value, &n) && n < 4096;
}

static bool set_part(struct cli_command *c, const char *value, char problem[256])
{
    const char *slash = strchr(value, '/');
    char first[16] = "";
    uint64_t part, n_parts;

    if (slash && slash - value < (long)sizeof first)
        memcpy(first, value, (size_t)(slash - value));
    if (slash && value_u64(first, &part) && value_u64(slash + 1, &n_parts) && part < n_parts && n_parts <= 65536) {
        c->options.part = (int)part;
        c->options.n_parts = (int)n_parts;
        return true;
    }
    snprintf(problem, 256, "takes K/N, a part from 0 to N-1 and the number of parts, such as 0/8");
    return false;
}

static bool set_deadline(struct cli_command *c, const char *value, char problem[256])
{
    char *end;

    c->options.rank_deadline_seconds = strtod(value, &end);
    snprintf(problem, 256, "takes seconds, from 1 to 86400");
    return *value && !*end && c->options.rank_deadline_seconds >= 1.0 && c->options.rank_deadline_seconds <= 86400.0;
}

static bool set_cuda(struct cli_command *c, const char *value, char problem[256])
{
    (void)problem;
    c->options.device = *value == '1' ? WM_DEVICE_CUDA : WM_DEVICE_CPU;
    return true;
}

static bool set_gpu_rich(struct cli_command *c, const char *value, char problem[256])
{
    (void)value;
    (void)problem;
    c->options.device = WM_DEVICE_AUTO;
    return true;
}

static bool set_hub_cache(struct cli_command *c, const char *value, char problem[256])
{
    if (!*value) {
        snprintf(problem, 256, "takes a directory");
        return false;
    }
    c->options.hub_cache = value;
    return true;
}

/* A name that must not be empty. */
#define SETS_NAME(name, field)                                                                                         \
    static bool name(struct cli_command *c, const char *value, char problem[256])                                      \
    {                                                                                                                  \
        c->field = value;                                                                                              \
        snprintf(problem, 256, "takes a name");                                                                        \
        return *value != '\0';                                                                                         \
    }
SETS_NAME(set_dir, dir)
SETS_NAME(set_only, only)
SETS_NAME(set_csv, csv)
SETS_NAME(set_svg, svg)
SETS_NAME(set_job, job)
SETS_NAME(set_metrics, metrics)
SETS_BOOL(set_quick, quick, true)

static bool set_safe_serialization(struct cli_command *c, const char *value, char problem[256])
{
    (void)c;
    if (*value == '1')
        return true;
    snprintf(problem, 256, "is refused: warpmerge writes safetensors only, never pickles");
    return false;
}

/* ---- the table ---------------------------------------------------------------------------------------------- */

#define MERGING  (VERB_BIT(VERB_MERGE) | VERB_BIT(VERB_PLAN) | VERB_BIT(VERB_STATS))
#define RUNNING  (MERGING | VERB_BIT(VERB_FINISH))
#define RANKED   (VERB_BIT(VERB_MERGE) | VERB_BIT(VERB_STATS))
#define WATCHED  (VERB_BIT(VERB_MERGE) | VERB_BIT(VERB_STATS) | VERB_BIT(VERB_FINISH))
#define ANY      (VERB_BIT(N_VERBS) - 1)
#define PRINTING (ANY & ~VERB_BIT(VERB_HELP) & ~VERB_BIT(VERB_COMPLETION))
#define BENCH    VERB_BIT(VERB_BENCH)
#define OPENING  (MERGING | VERB_BIT(VERB_INSPECT))

const char *const cli_group_names[N_GROUPS] = {
    [GROUP_MERGE] = "merging",       [GROUP_OUTPUT] = "output",
    [GROUP_RESOURCES] = "resources", [GROUP_CLUSTER] = "several processes",
    [GROUP_INPUTS] = "inputs",       [GROUP_BENCH] = "measuring",
    [GROUP_GENERAL] = "general",     [GROUP_MERGEKIT] = "mergekit-yaml's options",
};

const struct cli_option cli_options[] = {
    {"strict", 0, KIND_FLAG, NULL, NULL, GROUP_MERGE, OPENING, "unknown keys and odd files are errors, not warnings",
     set_strict},
    {"seed", 0, KIND_VALUE, "N", NULL, GROUP_MERGE, MERGING, "seed of random masks (DARE); default 0", set_seed},
    {"nonfinite", 0, KIND_VALUE, "POLICY", policies, GROUP_MERGE, MERGING,
     "NaN or infinity in an input: error (default) or propagate", set_nonfinite},
    {"overflow", 0, KIND_VALUE, "POLICY", policies, GROUP_MERGE, MERGING,
     "a result that the output type cannot hold: error (default) or propagate", set_overflow},

    {"out-shard-size", 0, KIND_VALUE, "SIZE", NULL, GROUP_OUTPUT, MERGING,
     "largest shard in bytes, 5B = 5e9 (default) as in mergekit; -1: one shard", set_shard_size},
    {"copy-tokenizer", 0, KIND_SWITCH, NULL, NULL, GROUP_OUTPUT, MERGING, "copy tokenizer files (default: yes)",
     set_copy_tokenizer},
    {"write-model-card", 0, KIND_SWITCH, NULL, NULL, GROUP_OUTPUT, MERGING,
     "write README.md and mergekit_config.yml (default: yes)", set_write_card},
    {"sha256", 0, KIND_FLAG, NULL, NULL, GROUP_OUTPUT, RUNNING, "put the SHA-256 of every shard into the manifest",
     set_sha256},
    {"overwrite", 0, KIND_FLAG, NULL, NULL, GROUP_OUTPUT, MERGING,
     "replace a non-empty output directory once the merge is complete", set_overwrite},
    {"restart", 0, KIND_FLAG, NULL, NULL, GROUP_OUTPUT, MERGING,
     "throw an unfinished merge away instead of continuing it", set_restart},
    {"sync", 0, KIND_SWITCH, NULL, NULL, GROUP_OUTPUT, RUNNING,
     "make the output durable before it appears (default: yes; no: benchmarks)", set_sync},

    {"memory", 0, KIND_VALUE, "SIZE", NULL, GROUP_RESOURCES, RUNNING,
     "memory budget of the whole process; default 2GiB", set_memory},
    {"threads", 'j', KIND_VALUE, "N", NULL, GROUP_RESOURCES, RUNNING | BENCH | VERB_BIT(VERB_VERIFY),
     "compute threads; default: the processors this process may use", set_threads},
    {"io-threads", 0, KIND_VALUE, "N", NULL, GROUP_RESOURCES, RUNNING, "reader threads; default: chosen",
     set_io_threads},
    {"tile", 0, KIND_VALUE, "SIZE", NULL, GROUP_RESOURCES, MERGING,
     "bytes of one tile, 64KiB to 64MiB; default: chosen", set_tile},
    {"device", 0, KIND_VALUE, "DEVICE", devices, GROUP_RESOURCES, MERGING | BENCH,
     "auto (default), cpu, cuda (every GPU) or cuda:N", set_device},
    {"device-memory", 0, KIND_VALUE, "SIZE", NULL, GROUP_RESOURCES, MERGING,
     "memory budget on each GPU (default: nine tenths of what is free)", set_device_memory},
    {"verify-sample", 0, KIND_VALUE, "PERCENT", NULL, GROUP_RESOURCES, MERGING,
     "blocks of GPU work that the CPU does again and compares (default 0.1)", set_verify_sample},
    {"ranks", 0, KIND_VALUE, "N", NULL, GROUP_CLUSTER, RUNNING,
     "processes that merge together (default: the launcher's; or none)", set_ranks},
    {"rank", 0, KIND_VALUE, "K", NULL, GROUP_CLUSTER, RANKED,
     "which of them this is, from 0 (default: what the launcher says)", set_rank},
    {"job", 0, KIND_VALUE, "ID", NULL, GROUP_CLUSTER, RANKED,
     "a name that is the same on all ranks of one run (default: the launcher's)", set_job},
    {"deadline", 0, KIND_VALUE, "SECONDS", NULL, GROUP_CLUSTER, RANKED,
     "a rank without a sign of life for so long is lost (default 60)", set_deadline},
    {"part", 0, KIND_VALUE, "K/N", NULL, GROUP_CLUSTER, VERB_BIT(VERB_MERGE),
     "merge the K-th of N parts (from 0), alone; see warpmerge finish", set_part},
    {"direct-io", 0, KIND_VALUE, "MODE", direct_modes, GROUP_RESOURCES, MERGING,
     "read past the page cache: auto (default), on, off", set_direct_io},

    {"hub-cache", 0, KIND_VALUE, "DIR", NULL, GROUP_INPUTS, OPENING | VERB_BIT(VERB_FINISH) | VERB_BIT(VERB_ENV),
     "Hugging Face cache; default: HF_HUB_CACHE, HF_HOME, ~/.cache", set_hub_cache},

    {"quick", 0, KIND_FLAG, NULL, NULL, GROUP_BENCH, BENCH, "seconds instead of minutes: fewer sizes and samples",
     set_quick},
    {"dir", 0, KIND_VALUE, "DIR", NULL, GROUP_BENCH, BENCH, "measure the storage of this folder too (2 GiB, removed)",
     set_dir},
    {"only", 0, KIND_VALUE, "WORD", NULL, GROUP_BENCH, BENCH, "only kernels whose name contains WORD", set_only},
    {"csv", 0, KIND_VALUE, "FILE", NULL, GROUP_BENCH, BENCH, "write every measurement as CSV", set_csv},
    {"svg", 0, KIND_VALUE, "FILE", NULL, GROUP_BENCH, BENCH, "write a roofline plot", set_svg},

    {"json", 0, KIND_FLAG, NULL, NULL, GROUP_GENERAL, PRINTING, "the result as one JSON object on standard output",
     set_json},
    {"progress", 0, KIND_VALUE, "MODE", progress_modes, GROUP_GENERAL, WATCHED | BENCH,
     "auto (default), bar, plain, json (lines on standard error), none", set_progress},
    {"metrics", 0, KIND_VALUE, "FILE", NULL, GROUP_GENERAL, WATCHED,
     "keep numbers for Prometheus' node_exporter in FILE (README)", set_metrics},
    {"quiet", 'q', KIND_FLAG, NULL, NULL, GROUP_GENERAL, PRINTING, "no progress, plan or notes; only the result's path",
     set_quiet},
    {"verbose", 'v', KIND_FLAG, NULL, NULL, GROUP_GENERAL, ANY, "accepted; errors are always complete", set_verbose},
    {"color", 0, KIND_VALUE, "WHEN", color_modes, GROUP_GENERAL, ANY,
     "auto (default), always or never; NO_COLOR counts", set_color},
    {"help", 'h', KIND_FLAG, NULL, NULL, GROUP_GENERAL, ANY, "this help; with a verb, that verb's", set_help},
    {"version", 'V', KIND_FLAG, NULL, NULL, GROUP_GENERAL, ANY, "print the version", set_version},

    {"random-seed", 0, KIND_VALUE, "N", NULL, GROUP_MERGEKIT, MERGING, "same as --seed", set_seed},
    {"num-threads", 0, KIND_VALUE, "N", NULL, GROUP_MERGEKIT, MERGING, "same as --threads", set_threads},
    {"transformers-cache", 0, KIND_VALUE, "DIR", NULL, GROUP_MERGEKIT, MERGING, "same as --hub-cache", set_hub_cache},
    {"cuda", 0, KIND_SWITCH, NULL, NULL, GROUP_MERGEKIT, MERGING, "same as --device cuda", set_cuda},
    {"gpu-rich", 0, KIND_FLAG, NULL, NULL, GROUP_MERGEKIT, MERGING,
     "same as --device auto: a GPU is used if there is one", set_gpu_rich},
    {"safe-serialization", 0, KIND_SWITCH, NULL, NULL, GROUP_MERGEKIT, MERGING, "always so: pickles are never written",
     set_safe_serialization},
    {"allow-crimes", 0, KIND_SWITCH, NULL, NULL, GROUP_MERGEKIT, MERGING,
     "not needed: models are compared by tensor names and shapes", NULL},
    {"trust-remote-code", 0, KIND_SWITCH, NULL, NULL, GROUP_MERGEKIT, MERGING,
     "not needed: no code of a model is ever run", NULL},
    {"lazy-unpickle", 0, KIND_SWITCH, NULL, NULL, GROUP_MERGEKIT, MERGING,
     "not needed: safetensors are always streamed, and pickles are not read", NULL},
    {"low-cpu-memory", 0, KIND_SWITCH, NULL, NULL, GROUP_MERGEKIT, MERGING, "not needed: see --memory", NULL},
    {"clone-tensors", 0, KIND_SWITCH, NULL, NULL, GROUP_MERGEKIT, MERGING,
     "not needed: every output tensor has bytes of its own", NULL},
    {"read-to-gpu", 0, KIND_SWITCH, NULL, NULL, GROUP_MERGEKIT, MERGING, "not needed: the fastest way is taken", NULL},
    {"multi-gpu", 0, KIND_SWITCH, NULL, NULL, GROUP_MERGEKIT, MERGING, "not needed: see --device", NULL},
    {"async-write", 0, KIND_SWITCH, NULL, NULL, GROUP_MERGEKIT, MERGING,
     "not needed: reading, computing and writing always overlap", NULL},
    {"write-threads", 0, KIND_VALUE, "N", NULL, GROUP_MERGEKIT, MERGING, "not needed: chosen", NULL},
    {"lora-merge-cache", 0, KIND_VALUE, "DIR", NULL, GROUP_MERGEKIT, MERGING,
     "not needed: nothing intermediate is stored", NULL},
    {"lora-merge-dtype", 0, KIND_VALUE, "TYPE", NULL, GROUP_MERGEKIT, MERGING, "not needed: arithmetic is in fp32",
     NULL},
};
const size_t cli_n_options = sizeof cli_options / sizeof *cli_options;

const struct cli_verb_info cli_verbs[N_VERBS] = {
    [VERB_MERGE] =
        {"merge", "CONFIG OUT", "merge as CONFIG says into the directory OUT",
         "CONFIG is a mergekit YAML file. OUT appears when it is complete and durable, not before. After an\n"
         "interruption or a crash the same command continues and ends with the same bytes.",
         "  warpmerge merge ties.yml out\n"
         "  warpmerge merge ties.yml out --memory 1GiB --threads 8 --sha256\n"
         "  warpmerge merge ties.yml out --json --progress none > summary.json\n",
         2, 2},
    [VERB_PLAN] = {"plan", "CONFIG [OUT]", "show what a merge would do, read only headers",
                   "Checks the config and every model against each other and prints the layout of the output, the\n"
                   "memory it would take and the bytes it would read. No tensor is read and nothing is written.",
                   "  warpmerge plan ties.yml\n  warpmerge plan ties.yml out --memory 512MiB --json\n"
                   "  warpmerge plan ties.yml --ranks 8\n",
                   1, 2},
    [VERB_FINISH] =
        {"finish", "OUT", "put an output in place that was merged in parts",
         "After every part (merge --part K/N) has ended: reads everything they have written, compares it with\n"
         "their journals, and puts OUT in place. Exit code 75 while parts are missing.",
         "  warpmerge merge ties.yml out --part 0/2\n  warpmerge merge ties.yml out --part 1/2\n"
         "  warpmerge finish out\n",
         1, 1},
    [VERB_STATS] =
        {"stats", "CONFIG OUT", "only find what a merge must know of whole models",
         "For ties with trim: global: reads every model as often as the thresholds need it and keeps them in the\n"
         "unfinished directory beside OUT, where merge finds them. A merge does this by itself; this verb is for\n"
         "jobs that merge in parts and share the result. Give the same options to both.",
         "  warpmerge stats ties.yml out\n  warpmerge stats ties.yml out --json\n", 2, 2},
    [VERB_INSPECT] = {"inspect", "MODEL", "show files, types and tensors of a model",
                      "MODEL is a directory, a .safetensors file, or an id in the Hugging Face cache (org/name,\n"
                      "org/name@revision).",
                      "  warpmerge inspect ./model\n  warpmerge inspect org/name --json\n", 1, 1},
    [VERB_METHODS] = {"methods", "[NAME]", "list merge methods, or show one with its formula",
                      "Formula, parameters with their ranges and defaults, source, and differences from mergekit.",
                      "  warpmerge methods\n  warpmerge methods ties\n", 0, 1},
    [VERB_VERIFY] =
        {"verify", "OUT", "check a merged directory against its manifest",
         "Reads every tensor again and compares it with the hashes in warpmerge-manifest.json. Exit code 70\n"
         "and the name of the tensor when a byte differs.",
         "  warpmerge verify out\n", 1, 1},
    [VERB_ENV] = {"env", "", "print what a bug report needs", "Version, compiler, processor, memory, limits, caches.",
                  "  warpmerge env\n", 0, 0},
    [VERB_BENCH] =
        {"bench", "", "measure this machine and the kernels",
         "First the ceilings: storage, memory, and with a GPU its wires and memory; then every kernel over\n"
         "sizes, types and (on a GPU) tiles, and its share of the memory's measured copy bandwidth. With\n"
         "--device cuda that is GPU 0, with cuda:N GPU N; the first line says which.",
         "  warpmerge bench --quick\n  warpmerge bench --dir /scratch --svg roofline.svg --json > bench.json\n", 0, 0},
    [VERB_COMPLETION] = {"completion", "SHELL", "print completions for bash, zsh or fish",
                         "Put the output where your shell looks for completions.",
                         "  warpmerge completion bash > ~/.local/share/bash-completion/completions/warpmerge\n", 1, 1},
    [VERB_HELP] = {"help", "[VERB]", "show help, or all about one verb", "", "  warpmerge help merge\n", 0, 1},
};
