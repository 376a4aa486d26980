/* help.c: help texts, generated from the tables in options.c. Knows no option by name. */
#include "cli/cli.h"

#include <stdio.h>

#define COLUMN 28

static void print_option(const struct cli_option *o)
{
    char left[64];
    int n = snprintf(left, sizeof left, "  %c%c%s --%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
                     o->letter ? "," : " ", o->kind == KIND_SWITCH ? "[no-]" : "", o->name);

    if (o->value)
        n += snprintf(left + n, sizeof left - (size_t)n, " %s", o->value);
    if (n > COLUMN + 2)
        printf("%s\n%*s%s\n", left, COLUMN + 3, "", o->help);
    else
        printf("%-*s %s\n", COLUMN + 2, left, o->help);
}

static void print_group(enum cli_group group, unsigned verbs)
{
    bool any = false;

    for (size_t i = 0; i < cli_n_options; i++) {
        if (cli_options[i].group != group || !(cli_options[i].verbs & verbs))
            continue;
        if (!any)
            printf("\n%s\n", cli_group_names[group]);
        any = true;
        print_option(&cli_options[i]);
    }
}

static void print_exit_codes(void)
{
    static const enum wm_status codes[] = {WM_OK,       WM_BUG,       WM_USAGE,         WM_BAD_DATA,
                                           WM_NO_INPUT, WM_NO_DEVICE, WM_VERIFY_FAILED, WM_CANT_CREATE,
                                           WM_IO,       WM_TEMPORARY, WM_BAD_CONFIG};

    printf("\nexit codes\n ");
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        printf(" %d %s%s%s", wm_exit_code(codes[i]), wm_status_name(codes[i]),
               i + 1 < sizeof codes / sizeof *codes ? "," : "", i == 5 ? "\n " : "");
    printf(",\n  130 and 143 interrupted (run the same command again to continue)\n");
}

void help_overview(void)
{
    printf("warpmerge " WM_VERSION ": merges LLM checkpoints as a mergekit config says: exact, fast, within a memory\n"
           "budget, and resumable at any moment.\n\n"
           "usage\n  warpmerge CONFIG OUT             short for `warpmerge merge CONFIG OUT`\n"
           "  warpmerge VERB ... [OPTIONS]\n\nverbs\n");
    for (int v = 0; v < N_VERBS; v++) {
        char left[48];
        snprintf(left, sizeof left, "%s %s", cli_verbs[v].name, cli_verbs[v].operands);
        printf("  %-*s %s\n", 20, left, cli_verbs[v].summary);
    }
    printf("\nexamples\n"
           "  warpmerge plan ties.yml              what would happen, and in how much memory\n"
           "  warpmerge ties.yml out               merge; the same command continues after an interruption\n"
           "  warpmerge ties.yml out --memory 1GiB --out-shard-size 2B\n"
           "  warpmerge verify out                 every byte against the manifest\n");
    for (int g = 0; g < N_GROUPS; g++)
        if (g != GROUP_MERGEKIT)
            print_group((enum cli_group)g, ~0u);
    printf("\nmergekit-yaml's options are accepted; `warpmerge help merge` says what each means here.\n");
    print_exit_codes();
}

void help_verb(enum cli_verb verb)
{
    const struct cli_verb_info *v = &cli_verbs[verb];

    printf("warpmerge %s%s%s: %s\n", v->name, *v->operands ? " " : "", v->operands, v->summary);
    if (*v->details)
        printf("\n%s\n", v->details);
    printf("\nexamples\n%s", v->examples);
    for (int g = 0; g < N_GROUPS; g++)
        print_group((enum cli_group)g, VERB_BIT(verb));
    print_exit_codes();
}
