/*
 * parse.c: from argv to a command, by the table in options.c.
 *
 * What lives here: long and short options, values, --no- twins, suggestions for what was mistyped, and mergekit's
 * shortcut `warpmerge CONFIG OUT`. What it must not know: what any option does.
 */
#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_WORDS 64

struct parse {
    struct cli_command *command;
    int argc, at;
    char **argv;
    const char *words[CLI_MAX_OPERANDS + 2]; /* what is no option: the verb and operands */
    int n_words;
    const struct cli_option *given[MAX_WORDS];
    int n_given;
    char *problem; /* [512] */
};

static bool fail(struct parse *p, const char *what, const char *name, const char *more)
{
    snprintf(p->problem, 512, "%s %.120s%s", what, name, more);
    return false;
}

static bool unknown_option(struct parse *p, const char *name, size_t n)
{
    const char *names[128];
    char plain[64], more[160] = "; see `warpmerge --help`";
    int nearest, n_names = 0;
    bool negated = n > 3 && strncmp(name, "no-", 3) == 0;

    snprintf(plain, sizeof plain, "%.*s", (int)(negated ? n - 3 : n), negated ? name + 3 : name);
    for (size_t i = 0; i < cli_n_options && n_names < 128; i++)
        names[n_names++] = cli_options[i].name;
    nearest = value_nearest(plain, names, (size_t)n_names);
    if (nearest >= 0)
        snprintf(more, sizeof more, "; did you mean --%s%s?",
                 negated && cli_options[nearest].kind == KIND_SWITCH ? "no-" : "", names[nearest]);
    snprintf(plain, sizeof plain, "--%.*s", (int)(n < 50 ? n : 50), name);
    return fail(p, "unknown option", plain, more);
}

static const struct cli_option *find_long(const char *name, size_t n)
{
    for (size_t i = 0; i < cli_n_options; i++)
        if (strlen(cli_options[i].name) == n && memcmp(cli_options[i].name, name, n) == 0)
            return &cli_options[i];
    return NULL;
}

static bool apply(struct parse *p, const struct cli_option *o, const char *value)
{
    char problem[256] = "", name[64];

    if (p->n_given < MAX_WORDS)
        p->given[p->n_given++] = o;
    if (!o->apply) {
        for (int i = 0; i < p->command->n_notes; i++)
            if (p->command->notes[i] == o)
                return true;
        if (p->command->n_notes < CLI_MAX_NOTES)
            p->command->notes[p->command->n_notes++] = o;
        return true;
    }
    if (o->apply(p->command, value, problem))
        return true;
    snprintf(name, sizeof name, "--%s%s", o->kind == KIND_SWITCH && *value == '0' ? "no-" : "", o->name);
    if (o->kind == KIND_SWITCH)
        snprintf(p->problem, 512, "%s %s", name, problem);
    else
        snprintf(p->problem, 512, "%s %s, not \"%.100s\"", name, problem, value);
    return false;
}

static bool parse_long(struct parse *p, const char *arg)
{
    const char *name = arg + 2, *equals = strchr(name, '=');
    size_t n = equals ? (size_t)(equals - name) : strlen(name);
    const struct cli_option *o = find_long(name, n);

    if (!o && n > 3 && strncmp(name, "no-", 3) == 0) {
        o = find_long(name + 3, n - 3);
        if (o && o->kind == KIND_SWITCH && !equals)
            return apply(p, o, "0");
        o = NULL;
    }
    if (!o)
        return unknown_option(p, name, n);
    if (o->kind != KIND_VALUE)
        return equals ? fail(p, "no value goes with", arg, "") : apply(p, o, "1");
    if (equals)
        return apply(p, o, equals + 1);
    if (p->at + 1 >= p->argc)
        return fail(p, "a value is missing after", arg, "");
    return apply(p, o, p->argv[++p->at]);
}

/* -v, -vv, -j4, -j 4, -qj4 */
static bool parse_short(struct parse *p, const char *arg)
{
    for (const char *c = arg + 1; *c; c++) {
        const struct cli_option *o = NULL;
        char name[3] = {'-', *c, '\0'};
        for (size_t i = 0; i < cli_n_options; i++)
            if (cli_options[i].letter == *c)
                o = &cli_options[i];
        if (!o)
            return fail(p, "unknown option", name, "; see `warpmerge --help`");
        if (o->kind != KIND_VALUE) {
            if (!apply(p, o, "1"))
                return false;
            continue;
        }
        if (c[1])
            return apply(p, o, c + 1);
        if (p->at + 1 >= p->argc)
            return fail(p, "a value is missing after", name, "");
        return apply(p, o, p->argv[++p->at]);
    }
    return true;
}

static bool take_word(struct parse *p, const char *word)
{
    if (p->n_words == CLI_MAX_OPERANDS + 1)
        return fail(p, "one argument too many:", word, "; see `warpmerge --help`");
    p->words[p->n_words++] = word;
    return true;
}

static bool looks_like_config(const char *word)
{
    size_t n = strlen(word);

    return (n > 4 && strcmp(word + n - 4, ".yml") == 0) || (n > 5 && strcmp(word + n - 5, ".yaml") == 0) ||
           strchr(word, '/') || access(word, F_OK) == 0;
}

static bool choose_verb(struct parse *p)
{
    struct cli_command *c = p->command;
    const char *names[N_VERBS];
    char more[128];
    int nearest, first = 1;

    for (int v = 0; v < N_VERBS; v++) {
        names[v] = cli_verbs[v].name;
        if (p->n_words && strcmp(p->words[0], names[v]) == 0) {
            c->verb = (enum cli_verb)v;
            goto found;
        }
    }
    c->verb = VERB_MERGE;
    first = 0;
    if (p->n_words && !looks_like_config(p->words[0])) {
        nearest = value_nearest(p->words[0], names, N_VERBS);
        snprintf(more, sizeof more, nearest >= 0 ? "; did you mean `%s`?" : "; see `warpmerge --help`",
                 nearest >= 0 ? names[nearest] : "");
        return fail(p, "there is no verb or config", p->words[0], more);
    }
found:
    for (int i = first; i < p->n_words && c->n_operands < CLI_MAX_OPERANDS; i++)
        c->operands[c->n_operands++] = p->words[i];
    if (p->n_words - first > CLI_MAX_OPERANDS || c->n_operands > cli_verbs[c->verb].max_operands)
        return fail(p, "one argument too many:", p->words[p->n_words - 1], "");
    return true;
}

static bool check_use(struct parse *p)
{
    const struct cli_command *c = p->command;
    const struct cli_verb_info *verb = &cli_verbs[c->verb];
    char text[400];

    if (c->help || c->version)
        return true;
    for (int i = 0; i < p->n_given; i++) {
        if (p->given[i]->verbs & VERB_BIT(c->verb))
            continue;
        snprintf(text, sizeof text, " has no meaning for `%s`; see `warpmerge help %s`", verb->name, verb->name);
        snprintf(p->problem, 512, "--%s%s", p->given[i]->name, text);
        return false;
    }
    if (c->n_operands < verb->min_operands) {
        snprintf(p->problem, 512, "`%s` needs more: warpmerge %s %s", verb->name, verb->name, verb->operands);
        return false;
    }
    return true;
}

bool cli_parse(struct cli_command *command, int argc, char **argv, char problem[512])
{
    static const struct wm_options defaults = WM_OPTIONS_INIT;
    struct parse p = {.command = command, .argc = argc, .argv = argv, .problem = problem};
    bool only_words = false;

    memset(command, 0, sizeof *command);
    command->options = defaults;
    command->verb = VERB_HELP;
    for (p.at = 1; p.at < argc; p.at++) {
        const char *arg = argv[p.at];
        if (!only_words && strcmp(arg, "--") == 0)
            only_words = true;
        else if (!only_words && strncmp(arg, "--", 2) == 0 ? !parse_long(&p, arg)
                 : !only_words && arg[0] == '-' && arg[1]  ? !parse_short(&p, arg)
                                                           : !take_word(&p, arg))
            return false;
    }
    if (p.n_words == 0)
        return true; /* help, version, or nothing at all */
    return choose_verb(&p) && check_use(&p);
}
