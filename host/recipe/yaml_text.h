/*
 * yaml_text.h: what is wrong with the text of a YAML file, before it means anything.
 *
 * What lives here: the encoding check, and libyaml's syntax errors as sentences with a place and a remedy. What it must
 * not know: nodes, recipes.
 */
#ifndef WM_RECIPE_YAML_TEXT_H
#define WM_RECIPE_YAML_TEXT_H

#include "recipe/findings.h"

#include <stdbool.h>
#include <stddef.h>

struct yaml_parser_s; /* libyaml's yaml_parser_t */

/* false, with a finding, unless the text is UTF-8. libyaml would read UTF-16 as well; but the config is copied into the
 * output directory byte by byte, and other tools (mergekit among them) could not read it there. */
bool yaml_text_check_encoding(const char *text, size_t n_bytes, struct findings *findings);

/* The parser's error as a finding. */
void yaml_text_report(const char *text, size_t n_bytes, const struct yaml_parser_s *parser, struct findings *findings);

#endif
