/* options.c: see options.h. */
#include "api/options.h"

#include "cluster/comm.h"
#include "engine/engine.h"

#include "plan/plan_partition.h"

#include <string.h>

#define MAX_THREADS      1024
#define MIN_MEMORY_BYTES ((uint64_t)64 << 20)

static enum wm_status refuse(struct wm_error *err, const char *what)
{
    return error_set(err, WM_USAGE, "%s", what);
}

static bool is_flag(int value)
{
    return value == 0 || value == 1;
}

static enum wm_status check(const struct wm_options *o, struct wm_error *err)
{
    if (o->memory_bytes && o->memory_bytes < MIN_MEMORY_BYTES)
        return refuse(err,
                      "the memory budget (--memory) is below 64 MiB; give at least that, or leave it out for 2 GiB");
    if (o->tile_bytes && (o->tile_bytes < PLAN_MIN_TILE_BYTES || o->tile_bytes > PLAN_MAX_TILE_BYTES))
        return refuse(err, "the tile size (--tile) must be from 64 KiB to 64 MiB; leave it out to have it chosen");
    if (o->n_threads < 0 || o->n_threads > MAX_THREADS || o->n_io_threads < 0 || o->n_io_threads > MAX_THREADS)
        return refuse(err,
                      "numbers of threads (--threads, --io-threads) must be from 1 to 1024, or 0 to have them chosen");
    if ((int)o->nonfinite < WM_POLICY_ERROR || o->nonfinite > WM_POLICY_PROPAGATE ||
        (int)o->overflow < WM_POLICY_ERROR || o->overflow > WM_POLICY_PROPAGATE)
        return refuse(err, "the policies `nonfinite` and `overflow` are WM_POLICY_ERROR or WM_POLICY_PROPAGATE");
    if ((int)o->direct_io < WM_DIRECT_AUTO || o->direct_io > WM_DIRECT_OFF)
        return refuse(err, "`direct_io` is WM_DIRECT_AUTO, WM_DIRECT_ON or WM_DIRECT_OFF");
    if (!is_flag(o->strict) || !is_flag(o->copy_tokenizer) || !is_flag(o->write_card) || !is_flag(o->sha256) ||
        !is_flag(o->restart) || !is_flag(o->overwrite) || !is_flag(o->sync))
        return refuse(err, "a flag in wm_options is neither 0 nor 1; initialise the struct with WM_OPTIONS_INIT");
    if (o->device_index < 0 || o->verify_per_1000 < 0 || o->verify_per_1000 > 1000)
        return refuse(err,
                      "the GPU's number and the share of verified tiles cannot be negative, nor the share above 1");
    if (o->n_ranks < 0 || o->n_ranks > COMM_MAX_RANKS)
        return refuse(err, "the number of ranks (--ranks) must be from 1 to 4096, or 0 for one process alone");
    if (o->n_ranks > 1 && (o->rank < 0 || o->rank >= o->n_ranks))
        return refuse(err, "the rank (--rank) must be from 0 to one less than the number of ranks (--ranks)");
    if (o->n_parts < 0 || o->n_parts > PARTITION_MAX_RANKS || (o->n_parts && (o->part < 0 || o->part >= o->n_parts)))
        return refuse(err,
                      "a part (--part K/N) is one of N, counted from 0: K must be less than N, and N at most 65536");
    if (o->n_parts && o->n_ranks > 1)
        return refuse(err, "parts (--part) are processes that do not talk, ranks are processes that do: choose one "
                           "(--ranks none switches the launcher's ranks off)");
    if (!(o->rank_deadline_seconds >= 0) || o->rank_deadline_seconds > 86400)
        return refuse(err, "the deadline (--deadline) is in seconds, from 0 (chosen) to 86400");
    if ((int)o->device >= WM_DEVICE_AUTO && o->device <= WM_DEVICE_CUDA)
        return backends_check(o, err);
    return refuse(err, "`device` is WM_DEVICE_AUTO, WM_DEVICE_CPU or WM_DEVICE_CUDA");
}

enum wm_status api_options_take(struct wm_options *options, const struct wm_options *given, struct wm_error *err)
{
    static const struct wm_options defaults = WM_OPTIONS_INIT;

    *options = defaults;
    if (given) {
        if (given->size < offsetof(struct wm_options, strict) || given->size > sizeof *options)
            return refuse(err, "wm_options.size is wrong: initialise the struct with WM_OPTIONS_INIT, and use the "
                               "warpmerge.h that belongs to this library");
        memcpy(options, given, given->size);
        options->size = sizeof *options;
    }
    return check(options, err);
}
