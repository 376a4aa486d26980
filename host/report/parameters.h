/*
 * parameters.h: the resolved parameters of a plan, in the forms that reports need.
 *
 * What lives here: the range a parameter takes over all tensors, groups of tensors that share every value, and the
 * spelling of values. Internal to report/. What it must not know: files.
 */
#ifndef WM_REPORT_PARAMETERS_H
#define WM_REPORT_PARAMETERS_H

#include "base/text.h"
#include "plan/plan.h"

/* Whether any merged tensor has the parameter, and from where to where its values go. */
struct parameter_range {
    bool present;
    double low, high;
};

/* model: index into plan->models for a per-model parameter, ignored for others. param: index in method->params. */
struct parameter_range parameter_range(const struct plan *plan, int model, int param);
/* The shortest spelling that reads back as the same double; a point whatever the locale. */
void parameter_add_number(struct text *t, double value);
/* How many parameters or elements: "1.10 B", "22.7 M", "512". */
const char *parameter_count_text(char *buffer, size_t size, uint64_t n);
/* "0.5", "true", "inv_density"; as JSON: words in quotes. */
void parameter_add_value(struct text *t, const struct method_param *param, double value, bool as_json);
void parameter_add_range(struct text *t, const struct method_param *param, struct parameter_range range);
/* " weight 0.5  density 0.3..0.7" for one model, or the global ones with model -1; false when there are none. */
bool parameter_add_list(struct text *t, const struct plan *plan, int model, const char *separator);

/* Tensors with the same models taking part and the same values in all of them form one set. */
struct parameter_sets {
    size_t n_sets;
    size_t *first_job;  /* [n_sets] a job of the set; sets are in order of first appearance                   */
    size_t *set_of_job; /* [n_jobs] index of the set; SIZE_MAX for tensors that are copied                     */
};
enum wm_status parameter_sets_init(struct parameter_sets *sets, const struct plan *plan, struct wm_error *err);
void parameter_sets_release(struct parameter_sets *sets);

#endif
