/* completion.c: completions for bash, zsh and fish, generated from the tables in options.c. Knows no option by name. */
#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

static void print_words(unsigned verbs)
{
    for (size_t i = 0; i < cli_n_options; i++) {
        if (!(cli_options[i].verbs & verbs))
            continue;
        printf(" --%s", cli_options[i].name);
        if (cli_options[i].kind == KIND_SWITCH)
            printf(" --no-%s", cli_options[i].name);
    }
}

static void print_bash(void)
{
    printf("_warpmerge()\n{\n    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}\n"
           "    case $before in\n");
    for (size_t i = 0; i < cli_n_options; i++) {
        if (!cli_options[i].choices)
            continue;
        printf("    --%s) COMPREPLY=($(compgen -W \"", cli_options[i].name);
        for (int c = 0; cli_options[i].choices[c]; c++)
            printf("%s%s", c ? " " : "", cli_options[i].choices[c]);
        printf("\" -- \"$word\")); return ;;\n");
    }
    printf("    esac\n    if [[ $word == -* ]]; then\n        case ${COMP_WORDS[1]} in\n");
    for (int v = 0; v < N_VERBS; v++) {
        printf("        %s) COMPREPLY=($(compgen -W \"", cli_verbs[v].name);
        print_words(VERB_BIT(v));
        printf("\" -- \"$word\")) ;;\n");
    }
    printf("        *) COMPREPLY=($(compgen -W \"");
    print_words(VERB_BIT(VERB_MERGE));
    printf("\" -- \"$word\")) ;;\n        esac\n    elif [[ $COMP_CWORD == 1 ]]; then\n        COMPREPLY=($(compgen -f "
           "-W \"");
    for (int v = 0; v < N_VERBS; v++)
        printf("%s%s", v ? " " : "", cli_verbs[v].name);
    printf("\" -- \"$word\"))\n    else\n        COMPREPLY=($(compgen -f -- \"$word\"))\n    fi\n}\n"
           "complete -o filenames -F _warpmerge warpmerge\n");
}

/* Help texts stand in single quotes; none of them may end the quotes. */
static void print_quoted(const char *s)
{
    putchar('\'');
    for (; *s; s++) {
        if (*s == '\'')
            printf("'\\''");
        else
            putchar(*s);
    }
    putchar('\'');
}

static void print_fish(void)
{
    for (int v = 0; v < N_VERBS; v++) {
        printf("complete -c warpmerge -n __fish_use_subcommand -a %s -d ", cli_verbs[v].name);
        print_quoted(cli_verbs[v].summary);
        printf("\n");
    }
    for (size_t i = 0; i < cli_n_options; i++) {
        const struct cli_option *o = &cli_options[i];
        for (int twin = 0; twin <= (o->kind == KIND_SWITCH); twin++) {
            printf("complete -c warpmerge -l %s%s", twin ? "no-" : "", o->name);
            if (o->letter && !twin)
                printf(" -s %c", o->letter);
            if (o->kind == KIND_VALUE)
                printf(o->choices ? " -x -a '" : " -r");
            for (int c = 0; o->choices && o->choices[c]; c++)
                printf("%s%s", c ? " " : "", o->choices[c]);
            printf(o->choices ? "' -d " : " -d ");
            print_quoted(o->help);
            printf("\n");
        }
    }
}

bool completion_print(const char *shell)
{
    if (strcmp(shell, "bash") == 0) {
        print_bash();
    } else if (strcmp(shell, "zsh") == 0) {
        printf("#compdef warpmerge\nautoload -U +X bashcompinit && bashcompinit\n");
        print_bash();
    } else if (strcmp(shell, "fish") == 0) {
        print_fish();
    } else {
        return false;
    }
    return true;
}
