/* Rank discovery: every launcher's variables give rank, size, place on the host and a job text; nested launchers are
 * told from contradictory ones; contradictions and malformed numbers are refused by name; --ranks none asks nobody. */
#include "cluster/ranks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { max_variables = 24 };

struct row {
    const char *what;
    const char *rank, *ranks, *job; /* flags */
    bool part;
    const char *environment[max_variables]; /* "NAME=value", NULL-terminated */

    int want_rank, want_size, want_local_rank, want_local_size;
    const char *want_launcher, *want_job;
    const char *refused[4]; /* parts of the sentence; then nothing above counts */
};

#define TORCHRUN_1_OF_4 "RANK=1", "WORLD_SIZE=4"
#define TORCHRUN_PLACE  "LOCAL_RANK=1", "LOCAL_WORLD_SIZE=2", "GROUP_WORLD_SIZE=2", "GROUP_RANK=0"
#define MPI_2_OF_3      "OMPI_COMM_WORLD_RANK=2", "OMPI_COMM_WORLD_SIZE=3"
#define MPI_PLACE       "OMPI_COMM_WORLD_LOCAL_RANK=0", "OMPI_COMM_WORLD_LOCAL_SIZE=1"
#define STEP            "SLURM_JOB_ID=77", "SLURM_STEP_ID=3"
#define SLURM_5_OF_8    "SLURM_PROCID=5", "SLURM_NTASKS=8", "SLURM_STEP_NUM_TASKS=8"

#define FLAGS(rank_, ranks_, job_) .rank = (rank_), .ranks = (ranks_), .job = (job_)
#define IS(rank_, size_, local_rank_, local_size_, launcher_, job_)                                                    \
    .want_rank = (rank_), .want_size = (size_), .want_local_rank = (local_rank_), .want_local_size = (local_size_),    \
    .want_launcher = (launcher_), .want_job = (job_)

static const struct row rows[] = {
    {"nothing", IS(0, 1, 0, 1, "none", "")},
    {"empty values are no values", .environment = {"RANK=", "WORLD_SIZE=", "JOB_COMPLETION_INDEX=", "WARPMERGE_RANKS="},
     IS(0, 1, 0, 1, "none", "")},
    /* ---- own flags and variables */
    {"flags", FLAGS("2", "5", NULL), IS(2, 5, -1, 0, "flags", "")},
    {"flags with a job", FLAGS("0", "2", "my run/1"), IS(0, 2, -1, 0, "flags", "my run/1")},
    {"flags for one", FLAGS("0", "1", NULL), IS(0, 1, 0, 1, "flags", "")},
    {"the largest", FLAGS("4095", "4096", NULL), IS(4095, 4096, -1, 0, "flags", "")},
    {"variables", .environment = {"WARPMERGE_RANK=1", "WARPMERGE_RANKS=2", "WARPMERGE_JOB=j"},
     IS(1, 2, -1, 0, "flags", "j")},
    {"a flag beats its variable", FLAGS("1", "3", "a"),
     .environment = {"WARPMERGE_RANK=0", "WARPMERGE_RANKS=9", "WARPMERGE_JOB=b"}, IS(1, 3, -1, 0, "flags", "a")},
    {"flags and torchrun agree: it knows the place", FLAGS("1", "4", NULL),
     .environment = {TORCHRUN_1_OF_4, TORCHRUN_PLACE, "TORCHELASTIC_RUN_ID=r"},
     IS(1, 4, 1, 2, "flags", "torchrun:r.0")},
    {"--ranks none", FLAGS(NULL, "none", NULL),
     .environment = {TORCHRUN_1_OF_4, MPI_2_OF_3, "JOB_COMPLETION_INDEX=3", "PMI_RANK=x"}, IS(0, 1, 0, 1, "none", "")},
    {"--ranks none with a job", FLAGS(NULL, "none", "j"), IS(0, 1, 0, 1, "none", "j")},
    {"--ranks 1 means one process", FLAGS(NULL, "1", NULL), .environment = {TORCHRUN_1_OF_4},
     IS(0, 1, 0, 1, "none", "")},
    {"--ranks with --rank none", FLAGS("1", "none", NULL), .refused = {"--ranks none", "--rank "}},
    {"--rank without --ranks", FLAGS("1", NULL, NULL), .refused = {"--rank is 1", "--ranks N"}},
    {"--ranks without a rank", FLAGS(NULL, "4", NULL), .refused = {"--ranks is 4", "--rank K"}},
    {"WARPMERGE_RANKS without a rank", .environment = {"WARPMERGE_RANKS=4"},
     .refused = {"WARPMERGE_RANKS is 4", "--rank K"}},
    {"WARPMERGE_RANK without ranks", .environment = {"WARPMERGE_RANK=4"},
     .refused = {"WARPMERGE_RANK is 4", "--ranks N"}},
    {"rank not below size", FLAGS("4", "4", NULL), .refused = {"--rank is 4", "--ranks is 4", "the last one is 3"}},
    {"negative", FLAGS("-1", "4", NULL), .refused = {"--rank is \"-1\"", "whole number"}},
    {"not a number", FLAGS("1", "four", NULL), .refused = {"--ranks is \"four\"", "whole number"}},
    {"half a number", FLAGS("1x", "4", NULL), .refused = {"--rank is \"1x\"", "whole number"}},
    {"no text", FLAGS("", "4", NULL), .refused = {"--rank is \"\"", "whole number"}},
    {"zero ranks", FLAGS("0", "0", NULL), .refused = {"--ranks is \"0\"", "from 1 to 4096"}},
    {"too many", FLAGS("0", "4097", NULL), .refused = {"--ranks is \"4097\"", "from 1 to 4096"}},
    {"overflow", FLAGS("0", "18446744073709551617", NULL),
     .refused = {"--ranks is \"18446744073709551617\"", "whole number"}},
    {"32-bit wrap", FLAGS("4294967296", "4", NULL), .refused = {"--rank is \"4294967296\"", "whole number"}},
    {"blank", FLAGS(" 1", "4", NULL), .refused = {"--rank is \" 1\"", "whole number"}},
    {"an escape in a value", FLAGS("\033[2J", "4", NULL), .refused = {"--rank is \"\\x1b", "whole number"}},
    {"empty job", FLAGS(NULL, NULL, ""), .refused = {"--job is empty"}},
    /* ---- torchrun */
    {"torchrun",
     .environment = {TORCHRUN_1_OF_4, TORCHRUN_PLACE, "TORCHELASTIC_RUN_ID=ab", "TORCHELASTIC_RESTART_COUNT=2"},
     IS(1, 4, 1, 2, "torchrun", "torchrun:ab.2")},
    {"torchrun's default id names no run", .environment = {TORCHRUN_1_OF_4, "TORCHELASTIC_RUN_ID=none"},
     IS(1, 4, -1, 0, "torchrun", "")},
    {"torchrun of one", .environment = {"RANK=0", "WORLD_SIZE=1", "TORCHELASTIC_RUN_ID=x"},
     IS(0, 1, 0, 1, "torchrun", "torchrun:x.0")},
    {"RANK alone is anybody's", .environment = {"RANK=3"}, IS(0, 1, 0, 1, "none", "")},
    {"WORLD_SIZE alone is anybody's", .environment = {"WORLD_SIZE=3"}, IS(0, 1, 0, 1, "none", "")},
    {"torchrun malformed", .environment = {"RANK=one", "WORLD_SIZE=4"}, .refused = {"RANK is \"one\"", "--ranks none"}},
    {"torchrun negative", .environment = {"RANK=0", "WORLD_SIZE=-4"},
     .refused = {"WORLD_SIZE is \"-4\"", "--ranks none"}},
    {"torchrun out of range", .environment = {"RANK=4", "WORLD_SIZE=4"}, .refused = {"RANK is 4", "WORLD_SIZE is 4"}},
    {"torchrun's place malformed", .environment = {TORCHRUN_1_OF_4, "LOCAL_RANK=?"},
     .refused = {"LOCAL_RANK is \"?\""}},
    {"torchrun's place out of range", .environment = {TORCHRUN_1_OF_4, "LOCAL_RANK=2", "LOCAL_WORLD_SIZE=2"},
     .refused = {"LOCAL_RANK is 2", "LOCAL_WORLD_SIZE is 2"}},
    {"--ranks agrees with torchrun", FLAGS(NULL, "4", NULL), .environment = {TORCHRUN_1_OF_4},
     IS(1, 4, -1, 0, "torchrun", "")},
    {"--ranks contradicts torchrun", FLAGS(NULL, "8", NULL), .environment = {TORCHRUN_1_OF_4},
     .refused = {"--ranks is 8", "WORLD_SIZE is 4", "--ranks none"}},
    {"flags contradict torchrun's size", FLAGS("1", "2", NULL), .environment = {TORCHRUN_1_OF_4},
     .refused = {"--ranks is 2", "WORLD_SIZE is 4", "--ranks none"}},
    {"flags contradict torchrun's rank", FLAGS("2", "4", NULL), .environment = {TORCHRUN_1_OF_4},
     .refused = {"--rank is 2", "RANK is 1", "--ranks none"}},
    /* ---- Open MPI */
    {"Open MPI", .environment = {MPI_2_OF_3, MPI_PLACE, "PMIX_RANK=2", "PMIX_NAMESPACE=prterun-h-12@1"},
     IS(2, 3, 0, 1, "Open MPI", "openmpi:prterun-h-12@1")},
    {"Open MPI 3", .environment = {MPI_2_OF_3, "OMPI_MCA_ess_base_jobid=991"},
     IS(2, 3, -1, 0, "Open MPI", "openmpi:991")},
    {"Open MPI without a size", .environment = {"OMPI_COMM_WORLD_RANK=2"},
     .refused = {"OMPI_COMM_WORLD_RANK is set but OMPI_COMM_WORLD_SIZE is not"}},
    {"Open MPI without a rank", .environment = {"OMPI_COMM_WORLD_SIZE=2"},
     .refused = {"OMPI_COMM_WORLD_SIZE is set but OMPI_COMM_WORLD_RANK is not"}},
    {"Open MPI against torchrun", .environment = {TORCHRUN_1_OF_4, MPI_2_OF_3},
     .refused = {"WORLD_SIZE is 4", "OMPI_COMM_WORLD_SIZE is 3", "--ranks none"}},
    {"mpirun of one around torchrun",
     .environment = {TORCHRUN_1_OF_4, "OMPI_COMM_WORLD_RANK=0", "OMPI_COMM_WORLD_SIZE=1"},
     IS(1, 4, -1, 0, "torchrun", "")},
    {"torchrun of one around mpirun", .environment = {"RANK=0", "WORLD_SIZE=1", MPI_2_OF_3},
     IS(2, 3, -1, 0, "Open MPI", "")},
    {"mpirun starts torchrun's agents", .environment = {"RANK=5", "WORLD_SIZE=6", "GROUP_WORLD_SIZE=3", MPI_2_OF_3},
     IS(5, 6, -1, 0, "torchrun", "")},
    /* ---- Slurm */
    {"a step",
     .environment = {STEP, SLURM_5_OF_8, "SLURM_LOCALID=1", "SLURM_NODEID=1", "SLURM_STEP_TASKS_PER_NODE=4(x2)"},
     IS(5, 8, 1, 4, "Slurm", "slurm:77.3.0")},
    {"uneven nodes",
     .environment = {STEP, SLURM_5_OF_8, "SLURM_LOCALID=0", "SLURM_NODEID=2", "SLURM_STEP_TASKS_PER_NODE=3,2,3"},
     IS(5, 8, 0, 3, "Slurm", "slurm:77.3.0")},
    {"tasks per node in another spelling", .environment = {STEP, SLURM_5_OF_8, "SLURM_STEP_TASKS_PER_NODE=4(y2)"},
     IS(5, 8, -1, 0, "Slurm", "slurm:77.3.0")},
    {"a requeued step", .environment = {STEP, SLURM_5_OF_8, "SLURM_RESTART_COUNT=4"},
     IS(5, 8, -1, 0, "Slurm", "slurm:77.3.4")},
    {"a smaller step of a larger job",
     .environment = {STEP, "SLURM_PROCID=1", "SLURM_NTASKS=8", "SLURM_STEP_NUM_TASKS=2"},
     IS(1, 2, -1, 0, "Slurm", "slurm:77.3.0")},
    {"an old srun", .environment = {STEP, "SLURM_PROCID=1", "SLURM_NTASKS=2"},
     IS(1, 2, -1, 0, "Slurm", "slurm:77.3.0")},
    {"a step of one", .environment = {STEP, "SLURM_PROCID=0", "SLURM_NTASKS=1"},
     IS(0, 1, 0, 1, "Slurm", "slurm:77.3.0")},
    {"an salloc shell", .environment = {"SLURM_JOB_ID=77", "SLURM_NTASKS=8"}, IS(0, 1, 0, 1, "none", "")},
    {"a batch script", .environment = {"SLURM_JOB_ID=77", "SLURM_NTASKS=8", "SLURM_PROCID=0"},
     IS(0, 1, 0, 1, "none", "")},
    {"a batch script that is step 0xfffffffb", .environment = {"SLURM_STEP_ID=4294967291", SLURM_5_OF_8},
     IS(0, 1, 0, 1, "none", "")},
    {"an array task",
     .environment = {"SLURM_JOB_ID=78", "SLURM_ARRAY_JOB_ID=77", "SLURM_ARRAY_TASK_ID=4", "SLURM_NTASKS=1",
                     "SLURM_PROCID=0"},
     IS(0, 1, 0, 1, "none", "")},
    {"a step in an array task",
     .environment = {"SLURM_JOB_ID=78", "SLURM_STEP_ID=0", "SLURM_ARRAY_JOB_ID=77", "SLURM_ARRAY_TASK_ID=4",
                     "SLURM_PROCID=1", "SLURM_NTASKS=2"},
     IS(1, 2, -1, 0, "Slurm", "slurm:78.0.0")},
    {"Slurm malformed", .environment = {STEP, "SLURM_PROCID=0x1", "SLURM_NTASKS=2"},
     .refused = {"SLURM_PROCID is \"0x1\""}},
    {"Slurm out of range", .environment = {STEP, "SLURM_PROCID=2", "SLURM_NTASKS=2"},
     .refused = {"SLURM_PROCID is 2", "SLURM_NTASKS is 2"}},
    {"a step without tasks", .environment = {STEP, "SLURM_PROCID=2"}, .refused = {"SLURM_NTASKS is not"}},
    {"srun -n 1 around mpirun", .environment = {STEP, "SLURM_PROCID=0", "SLURM_NTASKS=1", MPI_2_OF_3},
     IS(2, 3, -1, 0, "Open MPI", "")},
    {"mpirun's daemons are a step",
     .environment = {STEP, "SLURM_PROCID=1", "SLURM_STEP_NUM_TASKS=2", "SLURM_STEP_NUM_NODES=2",
                     "OMPI_COMM_WORLD_RANK=6", "OMPI_COMM_WORLD_SIZE=8"},
     IS(6, 8, -1, 0, "Open MPI", "")},
    {"torchrun's agents are a step",
     .environment = {STEP, "SLURM_PROCID=1", "SLURM_STEP_NUM_TASKS=2", "GROUP_WORLD_SIZE=2", "PMI_RANK=1", "PMI_SIZE=2",
                     "RANK=1", "WORLD_SIZE=8"},
     IS(1, 8, -1, 0, "torchrun", "")},
    {"mpirun's daemons are a step that speaks PMI",
     .environment = {STEP, "SLURM_PROCID=1", "SLURM_STEP_NUM_TASKS=2", "SLURM_STEP_NUM_NODES=2", "PMI_RANK=1",
                     "PMI_SIZE=2", "OMPI_COMM_WORLD_RANK=6", "OMPI_COMM_WORLD_SIZE=8"},
     IS(6, 8, -1, 0, "Open MPI", "")},
    {"Slurm against Open MPI", .environment = {STEP, SLURM_5_OF_8, MPI_2_OF_3},
     .refused = {"OMPI_COMM_WORLD_SIZE is 3", "SLURM_STEP_NUM_TASKS is 8", "--ranks none"}},
    {"Slurm and PMI of one step", .environment = {STEP, SLURM_5_OF_8, "PMI_RANK=5", "PMI_SIZE=8", "PMIX_RANK=5"},
     IS(5, 8, -1, 0, "Slurm", "slurm:77.3.0")},
    {"Slurm against PMI", .environment = {STEP, SLURM_5_OF_8, "PMI_RANK=4", "PMI_SIZE=8"},
     .refused = {"SLURM_PROCID is 5", "PMI_RANK is 4", "--ranks none"}},
    {"flags against Slurm", FLAGS("0", "2", NULL), .environment = {STEP, SLURM_5_OF_8},
     .refused = {"--ranks is 2", "SLURM_STEP_NUM_TASKS is 8", "--ranks none"}},
    {"flags in a step of one", FLAGS("1", "2", NULL), .environment = {STEP, "SLURM_PROCID=0", "SLURM_NTASKS=1"},
     IS(1, 2, -1, 0, "flags", "")},
    /* ---- PMI, PMIx */
    {"MPICH", .environment = {"PMI_RANK=1", "PMI_SIZE=2", "MPI_LOCALRANKID=1", "MPI_LOCALNRANKS=2"},
     IS(1, 2, 1, 2, "PMI", "")},
    {"PMI with a job", .environment = {"PMI_RANK=1", "PMI_SIZE=2", "PMI_JOBID=5.0"}, IS(1, 2, -1, 0, "PMI", "pmi:5.0")},
    {"PMI without a size", .environment = {"PMI_RANK=1"}, .refused = {"PMI_RANK is set but PMI_SIZE is not"}},
    {"PMIx has no size", .environment = {"PMIX_RANK=1"},
     .refused = {"PMIX_RANK is 1", "WARPMERGE_RANKS", "--ranks none"}},
    {"PMIx with ours", .environment = {"PMIX_RANK=1", "WARPMERGE_RANKS=3", "PMIX_NAMESPACE=n"},
     IS(1, 3, -1, 0, "PMIx", "pmix:n")},
    /* ---- Kubernetes */
    {"an Indexed Job", .environment = {"JOB_COMPLETION_INDEX=2", "WARPMERGE_RANKS=4", "HOSTNAME=merge-7b-2"},
     IS(2, 4, -1, 0, "Kubernetes", "kubernetes:merge-7b")},
    {"an Indexed Job with its uid",
     .environment = {"JOB_COMPLETION_INDEX=2", "WARPMERGE_RANKS=4", "WARPMERGE_JOB=uid", "HOSTNAME=merge-7b-2"},
     IS(2, 4, -1, 0, "Kubernetes", "uid")},
    {"a host of another name", .environment = {"JOB_COMPLETION_INDEX=2", "WARPMERGE_RANKS=4", "HOSTNAME=node12"},
     IS(2, 4, -1, 0, "Kubernetes", "")},
    {"the size as a flag", FLAGS(NULL, "4", NULL), .environment = {"JOB_COMPLETION_INDEX=2"},
     IS(2, 4, -1, 0, "Kubernetes", "")},
    {"no size", .environment = {"JOB_COMPLETION_INDEX=2"},
     .refused = {"JOB_COMPLETION_INDEX is 2", "WARPMERGE_RANKS", "--part", "--ranks none"}},
    {"no size needed for a part", .part = true, .environment = {"JOB_COMPLETION_INDEX=2"}, IS(0, 1, 0, 1, "none", "")},
    {"index out of range", .environment = {"JOB_COMPLETION_INDEX=4", "WARPMERGE_RANKS=4"},
     .refused = {"JOB_COMPLETION_INDEX is 4", "WARPMERGE_RANKS is 4"}},
    {"index malformed", .environment = {"JOB_COMPLETION_INDEX=a", "WARPMERGE_RANKS=4"},
     .refused = {"JOB_COMPLETION_INDEX is \"a\""}},
    {"a job of one pod", .environment = {"JOB_COMPLETION_INDEX=0", "WARPMERGE_RANKS=1"},
     IS(0, 1, 0, 1, "Kubernetes", "")},
    {"pods that each run torchrun's agent", .environment = {"JOB_COMPLETION_INDEX=0", TORCHRUN_1_OF_4},
     IS(1, 4, -1, 0, "torchrun", "")},
    {"torchrun of one in each pod",
     .environment = {"JOB_COMPLETION_INDEX=1", "WARPMERGE_RANKS=2", "RANK=0", "WORLD_SIZE=1"},
     IS(1, 2, -1, 0, "Kubernetes", "")},
    {"WARPMERGE_RANKS against torchrun", .environment = {TORCHRUN_1_OF_4, "WARPMERGE_RANKS=8"},
     .refused = {"WARPMERGE_RANKS is 8", "WORLD_SIZE is 4", "--ranks none"}},
};

static const char *look_up(void *user, const char *name)
{
    const char *const *environment = user;
    size_t n = strlen(name);

    for (int i = 0; i < max_variables && environment[i]; i++)
        if (strncmp(environment[i], name, n) == 0 && environment[i][n] == '=')
            return environment[i] + n + 1;
    return NULL;
}

static void every_environment_means_what_it_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct row *row = &rows[i];
        struct ranks_request request = {row->rank, row->ranks, row->job, row->part};
        struct wm_error err = WM_ERROR_INIT;
        struct ranks r = {.rank = -7};
        enum wm_status st = ranks_discover(&r, &request, look_up, (void *)row->environment, &err);

        if (*row->refused) {
            if (st != WM_USAGE || err.status != WM_USAGE)
                fail_msg("%s: not refused but rank %d of %d by %s", row->what, r.rank, r.size, r.launcher);
            for (int k = 0; k < 4 && row->refused[k]; k++)
                if (!strstr(err.message, row->refused[k]))
                    fail_msg("%s: \"%s\" lacks \"%s\"", row->what, err.message, row->refused[k]);
            continue;
        }
        if (st != WM_OK)
            fail_msg("%s: %s", row->what, err.message);
        if (r.rank != row->want_rank || r.size != row->want_size || r.local_rank != row->want_local_rank ||
            r.local_size != row->want_local_size || strcmp(r.launcher, row->want_launcher) != 0 ||
            strcmp(r.job, row->want_job) != 0)
            fail_msg("%s: rank %d of %d, place %d of %d, by %s, job \"%s\"", row->what, r.rank, r.size, r.local_rank,
                     r.local_size, r.launcher, r.job);
    }
}

/* A job is compared as a whole: two long ones that differ at the end stay two. */
static void long_jobs_are_hashed_not_cut(void **state)
{
    struct wm_error err = WM_ERROR_INIT;
    struct ranks r[3];
    char job[300];

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct ranks_request request = {.rank = "0", .ranks = "2", .job = job};
        const char *nothing[1] = {NULL};
        memset(job, 'a', sizeof job - 1);
        job[sizeof job - 2] = i == 2 ? 'b' : 'a';
        job[sizeof job - 1] = '\0';
        assert_int_equal(ranks_discover(&r[i], &request, look_up, nothing, &err), WM_OK);
        assert_int_equal(strlen(r[i].job), 32);
    }
    assert_string_equal(r[0].job, r[1].job);
    assert_string_not_equal(r[0].job, r[2].job);
}

/* The sources are read in one order: with the sizes equal and the ranks equal, the first one gives its name. */
static void the_first_source_gives_the_name(void **state)
{
    static const char *const all[] = {
        "WARPMERGE_RANK=1",       "WARPMERGE_RANKS=2", "RANK=1",         "WORLD_SIZE=2", "OMPI_COMM_WORLD_RANK=1",
        "OMPI_COMM_WORLD_SIZE=2", "SLURM_PROCID=1",    "SLURM_NTASKS=2", "PMI_RANK=1",   "PMI_SIZE=2"};
    static const char *const order[] = {"flags", "torchrun", "Open MPI", "Slurm", "PMI"};

    (void)state;
    for (int first = 0; first < 5; first++) {
        const char *environment[max_variables] = {"SLURM_STEP_ID=0"};
        struct ranks_request request = {0};
        struct wm_error err = WM_ERROR_INIT;
        struct ranks r;
        int n = 1;
        for (int i = 2 * first; i < 10; i++)
            environment[n++] = all[i];
        if (ranks_discover(&r, &request, look_up, environment, &err) != WM_OK)
            fail_msg("%s", err.message);
        assert_string_equal(r.launcher, order[first]);
        assert_int_equal(r.rank, 1);
        assert_int_equal(r.size, 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_environment_means_what_it_says),
        cmocka_unit_test(long_jobs_are_hashed_not_cut),
        cmocka_unit_test(the_first_source_gives_the_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
