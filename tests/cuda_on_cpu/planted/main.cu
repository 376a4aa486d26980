/*
 * main.cu: runs planted cases: "planted NAME bug", "planted NAME right", or "planted right" for all cases without bugs.
 *
 * What lives here: the choice by name and the check for leaks. Exit codes: 0 right numbers, 1 wrong ones, 2 usage, 3 a
 * call failed, 4 leaks; anything else comes from what caught the bug. What it must not know: the bugs.
 */
#include "planted.h"

#include "cuda_on_cpu.h"

#include <string.h>

static const planted_case *const LISTS[] = {BLOCK_CASES, BOUNDS_CASES, WARP_CASES, STREAM_CASES};

static int run(const planted_case *c, bool bug)
{
    bool right = c->run(bug);
    char text[256];
    if (!right)
        fprintf(stderr, "%s: wrong numbers\n", c->name);
    if (cuda_on_cpu_leaks(text, sizeof text) != 0) {
        fprintf(stderr, "%s: %s\n", c->name, text);
        return 4;
    }
    return right ? 0 : 1;
}

int main(int argc, char **argv)
{
    int worst = 0;
    bool all = argc == 2 && strcmp(argv[1], "right") == 0, found = false;
    if (!all && argc != 3)
        return 2;
    for (const planted_case *list : LISTS)
        for (const planted_case *c = list; c->name; c++) {
            if (!all && strcmp(argv[1], c->name) != 0)
                continue;
            found = true;
            int result = run(c, !all && strcmp(argv[2], "bug") == 0);
            worst = result > worst ? result : worst;
        }
    return found ? worst : 2;
}
