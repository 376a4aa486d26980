/*
 * run.c: wm_merge_run and wm_merge_stats: from a plan to a finished directory, alone, as one of several ranks, as a part,
 * or as the end of parts.
 *
 * What lives here: opening the output, the engine's call, hashes, side files and the commit, and who of several processes
 * does which of these. What it must not know: how any of them works, and terminals.
 */
#include "api/merge_state.h"
#include "api/parts_file.h"
#include "api/summary.h"

#include "base/file.h"
#include "base/text.h"
#include "engine/backends.h"
#include "engine/survey.h"
#include "report/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- progress ------------------------------------------------------------------------------------------------ */

/* To the other ranks, and with what they say to the caller; true when the caller wants to stop. */
static bool deliver(struct wm_merge *merge)
{
    progress_rates_renew(&merge->rates, &merge->progress);
    if (merge->comm) {
        merge->progress.rank = merge->options.rank;
        merge->progress.n_ranks = merge->options.n_ranks;
        rank_progress_publish(&merge->rates, merge->comm, &merge->progress);
        rank_progress_sum(&merge->rank_progress, merge->comm, &merge->progress);
        if (merge->progress.slowest_rate > 0)
            merge->slowest_rank = merge->progress.slowest_rank;
    }
    return merge->options.on_progress && merge->options.on_progress(merge->options.user, &merge->progress);
}

static int on_progress(void *user, const struct wm_progress *progress)
{
    struct wm_merge *merge = user;

    merge->progress = *progress;
    if (deliver(merge))
        merge->cancel = 1; /* also when the engine has no use for the answer any more: the commit is still to come */
    return merge->cancel;
}

/* The phases around the engine's: the last numbers under another name. */
static enum wm_status tell_progress(struct wm_merge *merge, const char *phase, double began, struct wm_error *err)
{
    merge->progress.phase = phase;
    merge->progress.seconds = file_now_seconds() - began;
    if (deliver(merge))
        merge->cancel = 1;
    if (merge->cancel)
        return error_set(err, WM_CANCELLED,
                         "stopped before the output was put in place; run the same command again to finish it");
    return WM_OK;
}

static enum wm_status hash_shards(struct wm_merge *merge, const char *dir, char (**sha256)[HASH_SHA256_HEX_BYTES],
                                  struct wm_error *err)
{
    enum wm_status st = WM_OK;
    char *path = NULL;

    *sha256 = calloc((size_t)merge->plan->n_shards + 1, sizeof **sha256);
    if (!*sha256)
        return error_no_memory(err, "hashing the output");
    for (int s = 0; s < merge->plan->n_shards; s++) {
        path = file_path_join(dir, merge->plan->shards[s].name);
        if (!path) {
            st = error_no_memory(err, "hashing the output");
            goto out;
        }
        TRY(hash_sha256_file((*sha256)[s], path, &merge->cancel, err));
        free(path);
        path = NULL;
    }
out:
    free(path);
    return st;
}

static enum wm_status write_text(const char *dir, const char *name, const struct text *text, bool sync,
                                 struct wm_error *err)
{
    char *path = file_path_join(dir, name);
    enum wm_status st = path ? file_write_whole(path, text_string(text), text->n_bytes, sync, err)
                             : error_no_memory(err, "finishing the output");

    free(path);
    return st;
}

static enum wm_status remove_file(const char *dir, const char *name, struct wm_error *err)
{
    char *path = file_path_join(dir, name);
    enum wm_status st = path ? file_unlink(path, err) : error_no_memory(err, "finishing the output");

    free(path);
    return st;
}

/* The shards are durable by now. Loaders look at the index first, so it comes last: a directory without it is visibly
 * unfinished. */
static enum wm_status write_side_files(struct wm_merge *merge, const char *dir,
                                       const char (*sha256)[HASH_SHA256_HEX_BYTES], struct wm_error *err)
{
    const bool sync = merge->options.sync != 0;
    enum wm_status st;
    struct report_kit kit;
    struct text text;

    text_init(&text, TEXT_MAX_BYTES);
    TRY(report_kit_write(merge->plan, &merge->options, dir, &kit, err));
    TRY(report_manifest(merge->plan, &kit, merge->result.job_hashes, sha256, &text, err));
    TRY(write_text(dir, REPORT_MANIFEST_NAME, &text, sync, err));
    text_release(&text);
    if (merge->plan->n_shards > 1) {
        TRY(report_index(merge->plan, &text, err));
        TRY(write_text(dir, REPORT_INDEX_NAME, &text, sync, err));
    } else {
        TRY(remove_file(dir, REPORT_INDEX_NAME, err));
    }
out:
    text_release(&text);
    return st;
}

/* ---- several processes ---------------------------------------------------------------------------------------- */

/* Everything of a run that has to be given back at its end. */
struct runner {
    struct wm_merge *merge;
    struct wm_options options; /* with our callbacks */
    struct output output;
    struct plan_partition *partition;
    struct engine_team team;
    struct comm *comm;
    char (*sha256)[HASH_SHA256_HEX_BYTES];
    double began;
};

/* Beside the partial directory, so that nothing of it can reach the output: "<parent>/.<name>.warpmerge-ranks". */
static char *meeting_place(const char *out_path)
{
    static const char end[] = "partial";
    char *partial = output_partial_path(out_path), *path = NULL;

    if (partial && asprintf(&path, "%.*sranks", (int)(strlen(partial) - strlen(end)), partial) < 0)
        path = NULL;
    free(partial);
    return path;
}

/* NCCL where every rank has a GPU of its own; else what the control plane does is enough (a few MB at most). */
static enum wm_status add_nccl(struct runner *r, struct wm_error *why, struct wm_error *err)
{
    int device = backends_own_device(&r->options);
    uint64_t n_with = device >= 0;
    enum wm_status st = r->comm->ops->all_reduce_u64(r->comm, &n_with, 1, err);

    if (st != WM_OK)
        return st;
    if (n_with != (uint64_t)r->comm->size) {
        if (n_with) /* without any GPU nobody expects NCCL */
            error_set(why, WM_NO_DEVICE, "only %d of %d ranks drive one GPU of their own", (int)n_with, r->comm->size);
        return WM_OK;
    }
    st = comm_open_nccl(&r->comm, r->comm, device, why);
    return st == WM_OK || st == WM_NO_DEVICE ? WM_OK : error_set(err, st, "%s", why->message);
}

/* One rank says for all what carries their data: with files in the place of NCCL a run is right, and may be slow. */
static void tell_comm(struct runner *r, const struct wm_error *why)
{
    struct wm_merge *merge = r->merge;
    struct problems problems;

    comm_describe(r->comm, merge->comm_text, sizeof merge->comm_text);
    if (r->options.rank > 0 || (why->status == WM_OK && strcmp(merge->comm_text, r->comm->ops->name) == 0))
        return;
    merge_begin_phase(merge, &problems);
    problems_add(&problems, WM_NOTE, WM_OK, "the ranks speak through %s%s%s", merge->comm_text,
                 why->status == WM_OK ? "" : ": ", why->message);
}

static enum wm_status join_ranks(struct runner *r, struct wm_error *err)
{
    struct wm_error why = WM_ERROR_INIT;
    const struct wm_options *o = &r->options;
    char *dir = meeting_place(r->merge->out_path);
    struct comm_files_options files = {
        dir, o->rank_job, o->rank, o->n_ranks, o->rank_deadline_seconds, o->on_stuck, r->merge->options.user};
    enum wm_status st = WM_OK;

    if (!dir) {
        st = error_no_memory(err, "meeting the other ranks");
        goto out;
    }
    TRY(comm_open_files(&r->comm, &files, err));
    r->comm->cancel = &r->merge->cancel;
    TRY(r->comm->ops->barrier(r->comm, err));
    TRY(add_nccl(r, &why, err));
    tell_comm(r, &why);
    r->comm->cancel = &r->merge->cancel;
    TRY(plan_partition_new(&r->partition, r->merge->plan, o->n_ranks, PARTITION_RANKS, err));
    r->merge->comm = r->comm;
    memset(&r->merge->rank_progress, 0, sizeof r->merge->rank_progress);
    for (int i = 0; i < o->n_ranks; i++) {
        struct engine_team other = {.index = i, .partition = r->partition, .comm = r->comm};
        r->merge->rank_progress.all_to_read += engine_bytes_to_read(r->merge->plan, &other);
        r->merge->rank_progress.all_to_write += r->partition->shares[i].n_bytes_written;
        r->merge->rank_progress.all_tensors += r->partition->shares[i].n_ranges;
    }
    r->team.partition = r->partition;
    r->team.comm = r->comm;
out:
    free(dir);
    return st;
}

static enum wm_status begin_part(struct runner *r, struct wm_error *err)
{
    const struct wm_options *o = &r->options;
    enum wm_status st = WM_OK;

    if (o->restart) {
        st = error_set(err, WM_USAGE,
                       "--restart would throw other parts' work away; to start over, remove the unfinished output "
                       "folder (.NAME.warpmerge-partial) and run the parts again");
        goto out;
    }
    TRY(plan_partition_new(&r->partition, r->merge->plan, o->n_parts, PARTITION_PARTS, err));
    r->team.partition = r->partition;
out:
    return st;
}

/* Parts do not talk, so what must be known of the whole model has to be there before they start; a part that looked for it
 * alone would read every model in full, and so would all the others. */
static enum wm_status check_survey(const struct runner *r, struct wm_error *err)
{
    struct model_thresholds ignored;
    char *path;
    enum wm_status st = WM_OK;

    if (r->team.role != OUTPUT_PART || !r->merge->plan->n_survey_passes)
        return WM_OK;
    path = file_path_join(r->output.partial_path, SURVEY_FILE_NAME);
    if (!path)
        st = error_no_memory(err, "looking for the statistics");
    else if (!file_exists(path))
        st = error_set(err, WM_USAGE,
                       "this method needs statistics of the whole model, which a part alone does not have; run "
                       "\"warpmerge stats CONFIG OUT\" first, once, and then the parts");
    else if (!survey_load(r->output.partial_path, r->merge->plan, NULL, &ignored))
        st = error_set(err, WM_USAGE,
                       "the statistics in %s belong to another recipe, inputs or options: run \"warpmerge stats CONFIG "
                       "OUT\" again, with the options of the parts, and then the parts",
                       path);
    free(path);
    return st;
}

static struct engine_team choose_role(const struct wm_merge *merge, const struct wm_options *o)
{
    if (merge->n_finishes)
        return (struct engine_team){OUTPUT_FINISH, 0, merge->n_finishes, NULL, NULL};
    if (o->n_parts)
        return (struct engine_team){OUTPUT_PART, o->part, o->n_parts, NULL, NULL};
    if (o->n_ranks > 1)
        return (struct engine_team){o->rank ? OUTPUT_RANK : OUTPUT_ALONE, o->rank, o->n_ranks, NULL, NULL};
    return (struct engine_team){OUTPUT_ALONE, 0, 1, NULL, NULL};
}

static enum wm_status open_output(struct runner *r, struct wm_error *err)
{
    struct wm_merge *merge = r->merge;
    struct problems problems;
    enum wm_status st;

    merge_begin_phase(merge, &problems);
    st = output_open(&r->output, merge->out_path, merge->plan, &merge->options, r->team.role, r->team.index, &problems,
                     err);
    return merge_end_phase(&problems, st, err);
}

/* Rank 0 locks the output before it calls the others together. Without names a second run of the same command would meet in
 * the place of the first and end it: it stays away then, and its other ranks find theirs taken. Whatever else keeps rank 0
 * from the output, the others hear of it. */
static enum wm_status open_with_others(struct runner *r, struct wm_error *err)
{
    struct wm_error unheard = WM_ERROR_INIT;
    enum wm_status st = open_output(r, err), joined;

    if (st == WM_TEMPORARY && !*r->options.rank_job) {
        char *place = meeting_place(r->merge->out_path);
        bool occupied = place && file_is_dir(place);
        free(place);
        if (occupied)
            return st;
    }
    joined = join_ranks(r, st == WM_OK ? err : &unheard);
    return st == WM_OK ? joined : st;
}

static enum wm_status begin(struct runner *r, struct wm_error *err)
{
    enum wm_status st = WM_OK;

    r->team = choose_role(r->merge, &r->options);
    if (r->team.size > 1 && r->team.role != OUTPUT_PART && r->team.role != OUTPUT_FINISH)
        return open_with_others(r, err);
    if (r->team.role == OUTPUT_PART)
        TRY(begin_part(r, err));
    if (r->team.role == OUTPUT_FINISH) {
        TRY(plan_partition_new(&r->partition, r->merge->plan, r->team.size, PARTITION_PARTS, err));
        r->team.partition = r->partition;
    }
    TRY(open_output(r, err));
    TRY(check_survey(r, err));
    if (r->team.role == OUTPUT_PART)
        TRY(parts_file_write(r->output.partial_path, r->merge->config_path, &r->merge->options, err));
out:
    return st;
}

/* ---- the run ----------------------------------------------------------------------------------------------------- */

static void pass_notice_on(struct wm_merge *merge, const struct engine_result *result)
{
    struct problems problems;

    if (!result->notice[0])
        return;
    merge_begin_phase(merge, &problems);
    problems_add(&problems, WM_WARNING, WM_OK, "%s", result->notice);
}

static enum wm_status merge_tensors(struct runner *r, struct wm_error *err)
{
    struct wm_merge *merge = r->merge;
    bool is_alone = r->team.role == OUTPUT_ALONE && !r->comm;
    bool finishes = r->team.role == OUTPUT_FINISH;
    const struct plan_rank_share *share = r->partition && !finishes ? &r->partition->shares[r->team.index] : NULL;
    enum wm_status st;

    engine_result_release(&merge->result);
    merge->progress =
        (struct wm_progress){.bytes_to_read = engine_bytes_to_read(merge->plan, is_alone ? NULL : &r->team),
                             .bytes_to_write = share ? share->n_bytes_written : merge->plan->bytes_out,
                             .n_tensors = share ? share->n_ranges : merge->plan->n_jobs,
                             .shard = ""};
    /* A caller sees the start however short the merge is. */
    TRY(tell_progress(merge,
                      finishes                       ? "checking"
                      : merge->plan->n_survey_passes ? "surveying"
                                                     : "merging",
                      r->began, err));
    TRY(engine_run(merge->plan, &r->output, &r->options, is_alone ? NULL : &r->team, &merge->cancel, &merge->result,
                   err));
    pass_notice_on(merge, &merge->result);
out:
    return st;
}

/* Runs that were killed under another job's name leave their letters. Whoever has the output's lock knows that none of
 * them is alive; our own ranks still need theirs for the last barrier. */
static void clear_meeting_place(const struct runner *r)
{
    char *place = meeting_place(r->merge->out_path);

    if (place && file_is_dir(place))
        comm_files_clear(place, r->comm ? r->options.rank_job : NULL);
    free(place);
}

static enum wm_status put_in_place(struct runner *r, struct wm_error *err)
{
    struct wm_merge *merge = r->merge;
    enum wm_status st = WM_OK;

    if (r->options.sha256) {
        TRY(tell_progress(merge, "hashing", r->began, err));
        TRY(hash_shards(merge, r->output.partial_path, &r->sha256, err));
    }
    TRY(tell_progress(merge, "finishing", r->began, err));
    TRY(write_side_files(merge, r->output.partial_path, (const char(*)[HASH_SHA256_HEX_BYTES])r->sha256, err));
    TRY(tell_progress(merge, "finishing", r->began, err));
    if (r->comm && r->comm->ops->failed(r->comm, err)) {
        st = err->status;
        goto out;
    }
    clear_meeting_place(r);
    TRY(output_commit(&r->output, &r->options, err));
out:
    return st;
}

static void end(struct runner *r, enum wm_status st, const struct wm_error *err)
{
    r->merge->comm = NULL;
    if (r->comm) {
        if (st != WM_OK)
            r->comm->ops->abort(r->comm, err);
        r->comm->ops->close(r->comm);
    }
    output_release(&r->output);
    plan_partition_free(r->partition);
    free(r->sha256);
}

static enum wm_status end_commit(struct wm_merge *merge, struct wm_error *err)
{
    struct problems problems;

    merge_begin_phase(merge, &problems);
    return merge_end_phase(&problems, output_commit_ready(merge->out_path, &merge->options, &problems, err), err);
}

enum wm_status wm_merge_run(struct wm_merge *merge, struct wm_error *err)
{
    struct runner r = {.merge = merge, .output = {NULL, NULL, -1, -1, false, false}};
    enum wm_status st;

    if (merge && merge->ready) {
        st = end_commit(merge, err);
        if (st != WM_OK)
            return st;
        merge->complete = true;
    }
    if (merge && merge->complete) {
        merge->done = true;
        return WM_OK;
    }
    if (!merge || !merge->plan || !merge->out_path)
        return error_set(err, WM_USAGE, "there is no plan with an output directory to run; call wm_merge_plan first");
    if (merge->done)
        return error_set(err, WM_USAGE, "this merge has been run; call wm_merge_plan again to run another");
    r.began = file_now_seconds();
    r.options = merge->options;
    r.options.on_progress = on_progress;
    merge->rates = (struct progress_rates){0};
    r.options.user = merge;
    merge->slowest_rank = -1;
    TRY(begin(&r, err));
    TRY(merge_tensors(&r, err));
    if (r.team.role == OUTPUT_ALONE || r.team.role == OUTPUT_FINISH)
        TRY(put_in_place(&r, err));
    if (r.comm) /* no rank ends well unless the output is in place */
        TRY(rank_progress_barrier(r.comm, &r.options, &merge->progress, err));
    merge->result.seconds = file_now_seconds() - r.began;
    merge->done = true;
out:
    end(&r, st, err);
    return st;
}

/* The first phase of wm_merge_run alone. The partial directory with its result stays for the merge. */
enum wm_status wm_merge_stats(struct wm_merge *merge, int as_json, char **text, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    struct runner r = {.merge = merge, .output = {NULL, NULL, -1, -1, false, false}};
    struct engine_result found;
    struct text out;

    *text = NULL;
    if (!merge || !merge->plan || !merge->out_path)
        return error_set(err, WM_USAGE, "there is no plan with an output directory; call wm_merge_plan first");
    text_init(&out, TEXT_MAX_BYTES);
    memset(&found, 0, sizeof found);
    r.options = merge->options;
    r.options.on_progress = on_progress;
    r.options.user = merge;
    merge->rates = (struct progress_rates){0};
    if (merge->plan->n_survey_passes && !merge->complete) {
        TRY(begin(&r, err));
        TRY(engine_survey(merge->plan, &r.output, &r.options, r.comm ? &r.team : NULL, &merge->cancel, &found, err));
        pass_notice_on(merge, &found);
    }
    if (merge->complete)
        api_complete_summary(merge->out_path, as_json, &out);
    else
        api_survey_summary(merge->plan, &found, merge->out_path, as_json, &out);
    *text = text_take(&out);
    st = *text ? WM_OK : error_no_memory(err, "summing up");
out:
    end(&r, st, err);
    return st;
}
