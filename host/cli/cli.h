/*
 * cli.h: the parts of the command line tool and what they share.
 *
 * What lives here: the parsed command, the table entries, and one function per verb. The tool is written against
 * warpmerge.h alone; nothing in cli/ may include any other room. What it must not know: how anything is merged.
 */
#ifndef WM_CLI_H
#define WM_CLI_H

#include "warpmerge.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

/* ---- the command -------------------------------------------------------------------------------------------- */

enum cli_verb {
    VERB_MERGE,
    VERB_PLAN,
    VERB_STATS,
    VERB_FINISH,
    VERB_INSPECT,
    VERB_METHODS,
    VERB_VERIFY,
    VERB_ENV,
    VERB_BENCH,
    VERB_COMPLETION,
    VERB_HELP,
    N_VERBS
};
#define VERB_BIT(v) (1u << (v))

enum cli_progress { PROGRESS_AUTO, PROGRESS_BAR, PROGRESS_PLAIN, PROGRESS_JSON, PROGRESS_NONE };
enum cli_color { COLOR_AUTO, COLOR_ALWAYS, COLOR_NEVER };

#define CLI_MAX_OPERANDS 2
#define CLI_MAX_NOTES    16

struct cli_command {
    enum cli_verb verb;
    const char *operands[CLI_MAX_OPERANDS];
    int n_operands;
    struct wm_options options;
    enum cli_progress progress;
    enum cli_color color;
    bool json, quiet, verbose, help, version;
    const char *metrics;                           /* merge, stats; NULL: not given */
    int quick;                                     /* bench */
    const char *dir, *only, *csv, *svg;            /* bench; NULL: not given */
    const char *rank, *ranks, *job;                /* as given; NULL: not given */
    const struct cli_option *notes[CLI_MAX_NOTES]; /* options given that mean nothing here, each once */
    int n_notes;
};

/* ---- the one table of options (options.c) ------------------------------------------------------------------- */

enum cli_kind {
    KIND_FLAG,   /* --json                       */
    KIND_SWITCH, /* --sync and --no-sync         */
    KIND_VALUE   /* --memory SIZE, --memory=SIZE */
};
enum cli_group {
    GROUP_MERGE,
    GROUP_OUTPUT,
    GROUP_RESOURCES,
    GROUP_CLUSTER,
    GROUP_INPUTS,
    GROUP_BENCH,
    GROUP_GENERAL,
    GROUP_MERGEKIT,
    N_GROUPS
};

struct cli_option {
    const char *name;
    char letter; /* 0: none */
    enum cli_kind kind;
    const char *value;          /* name of the value in help                            */
    const char *const *choices; /* legal values, NULL-terminated; or NULL               */
    enum cli_group group;
    unsigned verbs; /* VERB_BIT of those that take it                       */
    const char *help;
    /* Stores the value (KIND_FLAG: "1"; KIND_SWITCH: "1" or "0"). NULL: accepted, means nothing here; help says why.
     * false: `problem` says what is wrong with the value. */
    bool (*apply)(struct cli_command *command, const char *value, char problem[256]);
};

extern const struct cli_option cli_options[];
extern const size_t cli_n_options;
extern const char *const cli_group_names[N_GROUPS];

struct cli_verb_info {
    const char *name, *operands, *summary, *details, *examples;
    int min_operands, max_operands;
};
extern const struct cli_verb_info cli_verbs[N_VERBS];

/* Command line to command. false: the message was put into `problem`. */
bool cli_parse(struct cli_command *command, int argc, char **argv, char problem[512]);

/* ---- help.c, completion.c ----------------------------------------------------------------------------------- */

void help_overview(void);
void help_verb(enum cli_verb verb);
/* false: no such shell. */
bool completion_print(const char *shell);

/* ---- values.c: numbers and sizes to and from text ----------------------------------------------------------- */

bool value_u64(const char *s, uint64_t *value);
/* "512MiB", "2G" (powers of 1024), "5GB" (powers of 1000). mergekit: its dialect, "5B" = 5e9 bytes. */
bool value_bytes(const char *s, bool mergekit, uint64_t *n_bytes);
const char *value_bytes_text(char *buffer, size_t size, double n_bytes);     /* "2.20 GB" */
const char *value_seconds_text(char *buffer, size_t size, double n_seconds); /* "1 min 02 s" */
/* Bytes of the UTF-8 sequence at s (RFC 3629: no overlong forms, no surrogates, up to U+10FFFF), or 0. */
size_t value_utf8_length(const char *s);
/* A JSON string, quotes included; bytes that are no UTF-8 become U+FFFD. */
void value_put_json(FILE *f, const char *s);
/* Index of the candidate nearest to name, or -1 if none is near enough to suggest. */
int value_nearest(const char *name, const char *const *candidates, size_t n_candidates);

/* ---- terminal.c: everything on standard error --------------------------------------------------------------- */

struct terminal {
    bool can_redraw, color, utf8; /* can_redraw: a terminal that is not dumb */
    bool line_open;               /* a progress line is on the screen and must be cleared first */
    bool quiet;                   /* no notes                                                   */
    bool json_lines;              /* messages as JSON lines too, so that the stream stays readable for programs */
    bool started;                 /* the line that begins them was printed */
    int rank, n_ranks;     /* of one merge; 0 ranks: alone. Ranks above 0 print problems alone, with their number */
    int part, n_parts;     /* 0 parts: the whole */
    struct timespec began; /* by the wall clock */
    char first_error[WM_ERROR_BYTES];
};

void terminal_init(struct terminal *t, const struct cli_command *command);
int terminal_width(void);
void terminal_clear_line(struct terminal *t);
/* "error: ..."; control characters in `text` are made visible. */
void terminal_say(struct terminal *t, enum wm_severity severity, const char *text);
/* The failure of a phase, unless its findings have said it already. */
void terminal_fail(struct terminal *t, const struct wm_error *err);

/* ---- events.c: standard error as JSON Lines, with --progress json -------------------------------------------- */

void event_problem(struct terminal *t, enum wm_severity severity, const char *text);
void event_progress(struct terminal *t, const char *event, const struct wm_progress *now);
/* The last line. `error`: NULL where all went well; `last`: NULL where nothing was begun. */
void event_end(struct terminal *t, int exit_code, const char *error, const struct wm_progress *last);

/* ---- progress.c --------------------------------------------------------------------------------------------- */

struct progress {
    struct terminal *terminal;
    enum cli_progress mode; /* never AUTO */
    bool started;
    double last_seconds, last_share; /* of the last plain line                    */
    struct wm_progress first, latest;
};

void progress_init(struct progress *p, struct terminal *terminal, enum cli_progress mode);
void progress_update(struct progress *p, const struct wm_progress *now);
void progress_end(struct progress *p, bool ok);

/* ---- metrics.c: what a monitor scrapes, with --metrics ------------------------------------------------------- */

struct metrics {
    struct terminal *terminal;
    const char *path, *out;          /* as given; path NULL: no metrics. out may be NULL */
    char *file;                      /* where they go: with ranks, path with the rank in it */
    bool failed;                     /* said once, and not tried again */
    double written_at;               /* by wm_progress.seconds; negative: never */
    bool has_exit_code, has_success; /* of the last run that ended, this one or an earlier one */
    int exit_code;
    double success; /* seconds since 1970 */
    struct wm_progress latest;
};

void metrics_init(struct metrics *m, struct terminal *terminal, const char *path, const char *out);
void metrics_update(struct metrics *m, const struct wm_progress *now);
void metrics_end(struct metrics *m, int exit_code);

/* ---- session.c: what every verb does around its call into the library --------------------------------------- */

struct session {
    const struct cli_command *command;
    struct wm_options options; /* with callbacks into this session */
    struct terminal terminal;
    struct progress progress;
    struct metrics metrics;
    int output_errno; /* of the first write to standard output that failed */
};

void session_init(struct session *s, const struct cli_command *command);
/* Prints a result to standard output and frees it. */
void session_print(struct session *s, char *text);
/* Tells a failure (under --json also as an object on standard output) and returns the exit code. */
int session_fail(struct session *s, const struct wm_error *err);
int session_fail_with(struct session *s, const struct wm_error *err, int exit_code);
/* Exit code 0, or 74 when standard output could not take what was printed. */
int session_end(struct session *s);

/* ---- interrupt.c: SIGINT and SIGTERM stop the merge ----------------------------------------------------------- */

void interrupt_as_init(void);                 /* before anything runs: signals end a process 1 as they end any other */
void interrupt_begin(struct wm_merge *merge); /* NULL: what runs asks interrupt_came */
bool interrupt_came(void);
void interrupt_end(void);
int interrupt_exit_code(void); /* 130 or 143 */

/* ---- verbs -------------------------------------------------------------------------------------------------- */

int verb_merge(const struct cli_command *command);
int verb_plan(const struct cli_command *command);
int verb_stats(const struct cli_command *command);
int verb_finish(const struct cli_command *command);
int verb_inspect(const struct cli_command *command);
int verb_methods(const struct cli_command *command);
int verb_verify(const struct cli_command *command);
int verb_env(const struct cli_command *command);
int verb_bench(const struct cli_command *command);
int verb_completion(const struct cli_command *command);
int verb_help(const struct cli_command *command);

#endif
