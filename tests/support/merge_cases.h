/*
 * merge_cases.h: one set of small models and recipes for every test that runs whole merges.
 *
 * What lives here: four models m0 (the base) to m3 with sizes around chunk and tile borders, mixed types, an empty tensor
 * and integers, and a recipe for each way through the kernels. For tests only.
 */
#ifndef WM_TESTS_MERGE_CASES_H
#define WM_TESTS_MERGE_CASES_H

#include "support/fixture.h"

void merge_cases_write_models(const struct fixture *f);
/* <dir>/<name> with %0 to %3 in yaml replaced by the models' paths. */
void merge_cases_write_config(const struct fixture *f, const char *name, const char *yaml);

extern const char *const merge_cases_recipes[];
extern const size_t merge_cases_count;

#endif
