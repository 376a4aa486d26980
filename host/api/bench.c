/*
 * bench.c: wm_bench_*: one measurement of this machine, and its texts.
 *
 * What lives here: options, which device, who owns the text. What it must not know: what is measured, or how.
 */
#include "api/options.h"

#include "base/file.h"
#include "measure/measure.h"
#include "plan/plan.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

struct wm_bench {
    struct measure measure;
};

#define MAX_REPORT_BYTES ((size_t)64 << 20)

static int processors(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0 ? CPU_COUNT(&set) : 1;
}

enum wm_status wm_bench_run(struct wm_bench **bench, const struct wm_bench_options *what,
                            const struct wm_options *options, struct wm_error *err)
{
    static const struct wm_bench_options defaults = WM_BENCH_OPTIONS_INIT;
    struct wm_bench_options asked = defaults;
    struct measure_options measure;
    struct wm_options checked;
    struct wm_bench *b = NULL;
    int n_gpus;
    enum wm_status st;

    *bench = NULL;
    TRY(api_options_take(&checked, options, err));
    if (what) {
        if (what->size < sizeof what->size || what->size > sizeof asked) {
            st = error_set(err, WM_USAGE, "wm_bench_options.size is wrong: initialise it with WM_BENCH_OPTIONS_INIT");
            goto out;
        }
        memcpy(&asked, what, what->size);
    }
    if (asked.dir && !file_is_dir(asked.dir)) {
        st = error_set(err, WM_NO_INPUT, "%s is not a folder; name one whose storage is to be measured", asked.dir);
        goto out;
    }
    measure = (struct measure_options){.quick = asked.quick != 0,
                                       .n_threads = checked.n_threads ? checked.n_threads : processors(),
                                       .gpu_tile_bytes = PLAN_DEVICE_TILE_BYTES,
                                       .dir = asked.dir,
                                       .only = asked.only,
                                       .on_step = asked.on_step,
                                       .user = asked.user};
    n_gpus = checked.device == WM_DEVICE_CPU ? 0 : measure_n_gpus();
    measure.use_gpu = n_gpus > 0;
    measure.gpu = checked.device == WM_DEVICE_CUDA && checked.device_index ? checked.device_index - 1 : 0;
    if (checked.device == WM_DEVICE_CUDA && !n_gpus) {
        st = error_set(err, WM_NO_DEVICE, "a GPU was asked for, but there is none to measure; use --device cpu");
        goto out;
    }
    if (measure.use_gpu && measure.gpu >= n_gpus) {
        st = error_set(err, WM_NO_DEVICE,
                       "there is no GPU %d to measure, the last one is %d; use --device cuda:%d or cpu", measure.gpu,
                       n_gpus - 1, n_gpus - 1);
        goto out;
    }
    b = calloc(1, sizeof *b);
    if (!b) {
        st = error_no_memory(err, "measuring this machine");
        goto out;
    }
    st = measure_run(&b->measure, &measure, err);
    if (st != WM_OK && st != WM_CANCELLED)
        goto out;
    *bench = b;
    b = NULL;
out:
    wm_bench_free(b);
    return st;
}

enum wm_status wm_bench_report(const struct wm_bench *bench, enum wm_bench_format format, char **text,
                               struct wm_error *err)
{
    enum wm_status st = WM_OK;
    struct text out;

    *text = NULL;
    text_init(&out, MAX_REPORT_BYTES);
    switch (format) {
    case WM_BENCH_TEXT: measure_text(&bench->measure, &out); break;
    case WM_BENCH_JSON: measure_json(&bench->measure, &out); break;
    case WM_BENCH_CSV: measure_csv(&bench->measure, &out); break;
    case WM_BENCH_SVG: measure_svg(&bench->measure, &out); break;
    default: st = error_set(err, WM_USAGE, "`format` is one of enum wm_bench_format"); goto out;
    }
    *text = text_take(&out);
    if (!*text)
        st = error_no_memory(err, "writing a report");
out:
    text_release(&out);
    return st;
}

void wm_bench_free(struct wm_bench *bench)
{
    if (!bench)
        return;
    measure_release(&bench->measure);
    free(bench);
}
