/* yaml_text.c: see yaml_text.h. */
#include "recipe/yaml_text.h"

#include "base/text.h"

#include <string.h>
#include <yaml.h>

/* Line and column (in characters, as libyaml counts) of a byte. */
static struct recipe_mark mark_of_byte(const char *text, size_t n_bytes, size_t offset)
{
    struct recipe_mark at = {1, 1};

    for (size_t i = 0; i < offset && i < n_bytes; i++) {
        if (text[i] == '\n') {
            at.line++;
            at.column = 1;
        } else if (((unsigned char)text[i] & 0xC0) != 0x80) {
            at.column++;
        }
    }
    return at;
}

/* The byte at a place, or 0 beyond the end. */
static char byte_at(const char *text, size_t n_bytes, struct recipe_mark at)
{
    const char *p = text, *end = text + n_bytes;

    for (int line = 1; line < at.line && p; line++) {
        p = memchr(p, '\n', (size_t)(end - p));
        p = p ? p + 1 : NULL;
    }
    for (int column = 1; p && p < end && column < at.column; column++)
        do
            p++;
        while (p < end && ((unsigned char)*p & 0xC0) == 0x80);
    return p && p < end ? *p : '\0';
}

static const char *syntax_hint(char at_problem, const char *context)
{
    if (at_problem == '\t')
        return "a tab cannot indent YAML: use spaces";
    if (at_problem == '@' || at_problem == '`' || at_problem == '%')
        return "a value cannot begin with this character: write it in quotes";
    if (strstr(context, "quoted"))
        return "close the quote";
    if (strstr(context, "flow"))
        return "close the bracket, or separate the values by commas";
    if (at_problem == ':')
        return "a value that contains \": \" must be written in quotes";
    return "check the indentation and the colons here and in the line above";
}

void yaml_text_report(const char *text, size_t n_bytes, const struct yaml_parser_s *parser, struct findings *findings)
{
    struct recipe_mark at = {(int)parser->problem_mark.line + 1, (int)parser->problem_mark.column + 1};
    const char *problem = parser->problem ? parser->problem : "the text cannot be read";
    const char *context = parser->context ? parser->context : "";
    const char *hint = syntax_hint(byte_at(text, n_bytes, at), context);

    if (parser->error == YAML_READER_ERROR)
        findings_add(findings, FINDING_ERROR, mark_of_byte(text, n_bytes, parser->problem_offset),
                     "a byte or character that YAML does not allow (%s); save the file as plain UTF-8 text", problem);
    else if (*context && !strstr(context, "next token")) /* that one is true of everything and helps nobody */
        findings_add(findings, FINDING_ERROR, at, "YAML syntax error: %s, %s that begins at line %d; %s", problem,
                     context, (int)parser->context_mark.line + 1, hint);
    else
        findings_add(findings, FINDING_ERROR, at, "YAML syntax error: %s; %s", problem, hint);
}

/* Bytes before the first that is not UTF-8. */
static size_t valid_prefix(const char *text, size_t n_bytes)
{
    size_t valid = 0;

    while (valid < n_bytes) {
        size_t n = 1;
        while (n <= 4 && n <= n_bytes - valid && !text_valid_utf8(text + valid, n))
            n++;
        if (n > 4 || n > n_bytes - valid)
            break;
        valid += n;
    }
    return valid;
}

bool yaml_text_check_encoding(const char *text, size_t n_bytes, struct findings *findings)
{
    size_t valid;

    if (n_bytes >= 2 && (memcmp(text, "\xFF\xFE", 2) == 0 || memcmp(text, "\xFE\xFF", 2) == 0)) {
        findings_add(findings, FINDING_ERROR, (struct recipe_mark){1, 1}, "the file is UTF-16 text; save it as UTF-8");
        return false;
    }
    if (text_valid_utf8(text, n_bytes))
        return true;
    valid = valid_prefix(text, n_bytes);
    findings_add(findings, FINDING_ERROR, mark_of_byte(text, n_bytes, valid),
                 "the byte 0x%02x is not UTF-8; save the file as UTF-8 text", (unsigned)(unsigned char)text[valid]);
    return false;
}
