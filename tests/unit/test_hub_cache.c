/* Models in the hub cache: where it is looked for, ids and revisions, links into blobs and nowhere else, SHA-256 from
 * blob names, and what is missing is named with the command that fetches it. */
#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/hub_cache.h"
#include "temp_dir.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define COMMIT       "0123456789abcdef0123456789abcdef01234567"
#define OTHER_COMMIT "89abcdef0123456789abcdef0123456789abcdef"
#define SHA256       "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define SHA1         "da39a3ee5e6b4b0d3255bfef95601890afd80709"

static void make_dir(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void make_dir(const char *format, ...)
{
    char path[CORPUS_PATH_BYTES];
    va_list args;

    va_start(args, format);
    vsnprintf(path, sizeof path, format, args);
    va_end(args);
    corpus_need(mkdir(path, 0755) == 0, path);
}

static void write_text(const char *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void write_text(const char *text, const char *format, ...)
{
    char path[CORPUS_PATH_BYTES];
    va_list args;

    va_start(args, format);
    vsnprintf(path, sizeof path, format, args);
    va_end(args);
    corpus_write(path, text, strlen(text));
}

static void make_link(const char *target, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void make_link(const char *target, const char *format, ...)
{
    char path[CORPUS_PATH_BYTES];
    va_list args;

    va_start(args, format);
    vsnprintf(path, sizeof path, format, args);
    va_end(args);
    corpus_need(symlink(target, path) == 0, path);
}

/* A cache with org/name at main: config.json and model.safetensors in blobs, linked from the snapshot. */
static int set_up(void **state)
{
    char path[CORPUS_PATH_BYTES];

    root_set_up(state);
    make_dir("%s/hub", root);
    make_dir("%s/hub/models--org--name", root);
    make_dir("%s/hub/models--org--name/blobs", root);
    make_dir("%s/hub/models--org--name/refs", root);
    make_dir("%s/hub/models--org--name/snapshots", root);
    make_dir("%s/hub/models--org--name/snapshots/" COMMIT, root);
    write_text(COMMIT, "%s/hub/models--org--name/refs/main", root);
    corpus_path(path, "%s/hub/models--org--name/blobs/" SHA256, root);
    corpus_write_shard(path, "a,b");
    write_text("{\"model_type\":\"x\"}", "%s/hub/models--org--name/blobs/" SHA1, root);
    make_link("../../blobs/" SHA256, "%s/hub/models--org--name/snapshots/" COMMIT "/model.safetensors", root);
    make_link("../../blobs/" SHA1, "%s/hub/models--org--name/snapshots/" COMMIT "/config.json", root);
    unsetenv("HF_HUB_CACHE");
    unsetenv("HUGGINGFACE_HUB_CACHE");
    unsetenv("HF_HOME");
    unsetenv("XDG_CACHE_HOME");
    setenv("HOME", "/nowhere", 1);
    return 0;
}

static enum wm_status open_model(struct ckpt **ckpt, const char *reference, const char *revision, struct wm_error *err)
{
    char hub[CORPUS_PATH_BYTES];
    const struct ckpt_options options = {.hub_cache = hub};

    corpus_path(hub, "%s/hub", root);
    *err = (struct wm_error)WM_ERROR_INIT;
    return ckpt_open(ckpt, reference, revision, &options, NULL, err);
}

static void assert_refused(const char *reference, const char *revision, enum wm_status status, const char *identifier,
                           const char *part)
{
    struct wm_error err;
    struct ckpt *ckpt;

    assert_int_equal(open_model(&ckpt, reference, revision, &err), status);
    assert_null(ckpt);
    if (!strstr(err.message, identifier) || !strstr(err.message, part))
        fail_msg("expected %s and \"%s\", got: %s", identifier, part, err.message);
}

/* ---- where the cache is ------------------------------------------------------------------------------------- */

static void the_folder_comes_from_the_environment(void **state)
{
    static const struct {
        const char *hub_cache, *legacy, *home, *xdg, *option, *expected;
    } cases[] = {
        {NULL, NULL, NULL, NULL, NULL, "/nowhere/.cache/huggingface/hub"},
        {NULL, NULL, NULL, "/xdg", NULL, "/xdg/huggingface/hub"},
        {NULL, NULL, "/hf", "/xdg", NULL, "/hf/hub"},
        {NULL, "/legacy", "/hf", "/xdg", NULL, "/legacy"},
        {"/cache", "/legacy", "/hf", "/xdg", NULL, "/cache"},
        {"/cache", "/legacy", "/hf", "/xdg", "/option", "/option"},
        {"", "", "", "", "", "/nowhere/.cache/huggingface/hub"},
        {"~/c", NULL, NULL, NULL, NULL, "/nowhere/c"},
        {"~", NULL, NULL, NULL, NULL, "/nowhere"},
        {"/a/~/b", NULL, NULL, NULL, NULL, "/a/~/b"},
        {"~other/c", NULL, NULL, NULL, NULL, "~other/c"},
        {"$HOME/c", NULL, NULL, NULL, NULL, "/nowhere/c"},
        {"${HOME}/c$HOME", NULL, NULL, NULL, NULL, "/nowhere/c/nowhere"},
        {"/x/$WM_NOT_SET/${WM_NOT_SET}/$/${", NULL, NULL, NULL, NULL, "/x/$WM_NOT_SET/${WM_NOT_SET}/$/${"},
        {NULL, NULL, "$XDG_CACHE_HOME/y", "/xdg", NULL, "/xdg/y/hub"},
        {NULL, NULL, NULL, NULL, "~/as/it/is", "~/as/it/is"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *names[] = {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"};
        const char *values[] = {cases[i].hub_cache, cases[i].legacy, cases[i].home, cases[i].xdg};
        struct wm_error err = WM_ERROR_INIT;
        struct arena arena;
        const char *dir;
        for (int k = 0; k < 4; k++)
            if (values[k])
                setenv(names[k], values[k], 1);
            else
                unsetenv(names[k]);
        arena_init(&arena, 1 << 20);
        assert_int_equal(hub_cache_dir(&dir, cases[i].option, &arena, &err), WM_OK);
        assert_string_equal(dir, cases[i].expected);
        arena_release(&arena);
    }
}

static void a_model_is_found_through_the_environment(void **state)
{
    struct wm_error err = WM_ERROR_INIT;
    struct ckpt *ckpt;

    (void)state;
    setenv("HF_HOME", root, 1);
    assert_int_equal(ckpt_open(&ckpt, "org/name", NULL, NULL, NULL, &err), WM_OK);
    assert_int_equal(ckpt->n_tensors, 2);
    ckpt_free(ckpt);
    setenv("HF_HOME", "/nowhere", 1);
    assert_int_equal(ckpt_open(&ckpt, "org/name", NULL, NULL, NULL, &err), WM_NO_INPUT);
    assert_non_null(strstr(err.message,
                           "in the hub cache /nowhere/hub; fetch it first: hf download org/name --revision main "
                           "[NOT_IN_CACHE]"));
}

static void ids_follow_the_rules_of_the_hub(void **state)
{
    static const struct {
        const char *id;
        bool good;
    } cases[] = {{"org/name", true},  {"gpt2", true},  {"Qwen/Qwen2.5-0.5B_x", true},
                 {"_a/b_", true},     {"", false},     {"a/b/c", false},
                 {"/a", false},       {"a/", false},   {"a--b/c", false},
                 {"a/b--c", false},   {"a/..", false}, {"../a", false},
                 {"a..b/c", false},   {".a/b", false}, {"a/b.", false},
                 {"-a/b", false},     {"a/b-", false}, {"a b/c", false},
                 {"a/b;rm", false},   {"a\\b", false}, {"\303\251/b", false},
                 {"a/b@main", false}, {"./a", false},  {"~/a", false},
                 {"a//b", false},     {"C:/a", false}};
    char long_id[98];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (hub_is_repo_id(cases[i].id) != cases[i].good)
            fail_msg("%s", cases[i].id);
    memset(long_id, 'a', sizeof long_id);
    long_id[97] = '\0';
    assert_false(hub_is_repo_id(long_id));
    long_id[96] = '\0';
    assert_true(hub_is_repo_id(long_id));
}

/* ---- snapshots ---------------------------------------------------------------------------------------------- */

static void a_snapshot_opens_by_id_revision_and_path(void **state)
{
    char dir[CORPUS_PATH_BYTES], link[CORPUS_PATH_BYTES], file[CORPUS_PATH_BYTES], real[CORPUS_PATH_BYTES];
    const struct {
        const char *reference, *revision;
    } cases[] = {{"org/name", NULL}, {"org/name", "main"}, {"org/name", COMMIT}, {"org/name", "refs/pr/1"},
                 {dir, NULL},        {link, NULL},         {file, NULL}};

    (void)state;
    make_dir("%s/hub/models--org--name/refs/refs", root);
    make_dir("%s/hub/models--org--name/refs/refs/pr", root);
    write_text(COMMIT "\n", "%s/hub/models--org--name/refs/refs/pr/1", root);
    corpus_path(dir, "%s/hub/models--org--name/snapshots/" COMMIT "/", root);
    corpus_path(link, "%s/link", root);
    corpus_path(file, "%s/model.safetensors", dir);
    make_link(dir, "%s/link", root);
    assert_non_null(realpath(dir, real));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct wm_error err;
        struct ckpt *ckpt;
        if (open_model(&ckpt, cases[i].reference, cases[i].revision, &err) != WM_OK)
            fail_msg("%s", err.message);
        assert_string_equal(ckpt->reference, cases[i].reference);
        assert_string_equal(ckpt->dir, real);
        assert_string_equal(ckpt->commit, COMMIT);
        assert_int_equal(ckpt->n_files, 1);
        assert_string_equal(ckpt->files[0].name, "model.safetensors");
        assert_string_equal(ckpt->files[0].sha256, SHA256);
        assert_non_null(ckpt->config);
        assert_int_equal(ckpt->n_tensors, 2);
        ckpt_free(ckpt);
    }
}

/* File systems without links: the cache holds plain files and maybe no blobs. */
static void plain_files_in_a_snapshot_are_fine(void **state)
{
    char path[CORPUS_PATH_BYTES];
    struct wm_error err;
    struct ckpt *ckpt;

    (void)state;
    make_dir("%s/hub/models--gpt2", root);
    make_dir("%s/hub/models--gpt2/refs", root);
    make_dir("%s/hub/models--gpt2/snapshots", root);
    make_dir("%s/hub/models--gpt2/snapshots/" OTHER_COMMIT, root);
    write_text(OTHER_COMMIT, "%s/hub/models--gpt2/refs/main", root);
    corpus_path(path, "%s/hub/models--gpt2/snapshots/" OTHER_COMMIT "/model.safetensors", root);
    corpus_write_shard(path, "a");
    assert_int_equal(open_model(&ckpt, "gpt2", NULL, &err), WM_OK);
    assert_null(ckpt->files[0].sha256);
    assert_null(ckpt->config);
    ckpt_free(ckpt);
}

static void what_is_missing_is_named_with_the_command(void **state)
{
    char command[CORPUS_PATH_BYTES];

    (void)state;
    corpus_path(command, "hf download org/other --revision main --cache-dir '%s/hub' [NOT_IN_CACHE]", root);
    assert_refused("org/other", NULL, WM_NO_INPUT, "no such path here, and no such model", command);
    assert_refused("org/name", "v2", WM_NO_INPUT, "[NOT_IN_CACHE]", "hf download org/name --revision v2 --cache-dir");
    assert_refused("org/name", OTHER_COMMIT, WM_NO_INPUT, "[NOT_IN_CACHE]",
                   "its snapshot is not there; fetch it first: hf download org/name --revision " OTHER_COMMIT);
    assert_refused("no/such/path", NULL, WM_NO_INPUT, "[NO_SUCH_MODEL]", "no such file or folder");
}

static void an_incomplete_snapshot_names_all_that_is_missing(void **state)
{
    char dir[CORPUS_PATH_BYTES];

    (void)state;
    write_text(
        "{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\",\"b\":\"model-00002-of-00002.safetensors\"}}",
        "%s/hub/models--org--name/blobs/" OTHER_COMMIT, root);
    make_link("../../blobs/" OTHER_COMMIT, "%s/hub/models--org--name/snapshots/" COMMIT "/model.safetensors.index.json",
              root);
    make_link("../../blobs/gone", "%s/hub/models--org--name/snapshots/" COMMIT "/model-00001-of-00002.safetensors",
              root);
    assert_refused("org/name", NULL, WM_NO_INPUT, "[INDEX_SHARD_MISSING]",
                   "2 of 2 shards are missing: model-00001-of-00002.safetensors, model-00002-of-00002.safetensors; "
                   "complete the snapshot: hf download org/name --revision main");
    /* The same folder given as a path: the revision is its commit. */
    corpus_path(dir, "%s/hub/models--org--name/snapshots/" COMMIT, root);
    assert_refused(dir, NULL, WM_NO_INPUT, "[INDEX_SHARD_MISSING]",
                   "complete the snapshot: hf download org/name --revision " COMMIT " [");
}

static void broken_links_are_an_incomplete_snapshot(void **state)
{
    char path[CORPUS_PATH_BYTES];

    (void)state;
    corpus_path(path, "%s/hub/models--org--name/blobs/" SHA1, root);
    assert_int_equal(unlink(path), 0);
    assert_refused("org/name", NULL, WM_NO_INPUT, "[LINK_BROKEN]", "config.json");
    corpus_path(path, "%s/hub/models--org--name/blobs/" SHA256, root);
    assert_int_equal(unlink(path), 0);
    assert_refused(
        "org/name", NULL, WM_NO_INPUT, "[LINK_BROKEN]",
        "model.safetensors: it is a link whose target is missing; complete the snapshot: hf download org/name");
    corpus_path(path, "%s/hub/models--org--name/snapshots/" COMMIT "/model.safetensors", root);
    assert_int_equal(unlink(path), 0);
    assert_refused("org/name", NULL, WM_NO_INPUT, "[NO_WEIGHTS]", "complete it: hf download org/name --revision main");
}

/* ---- what must not be followed ------------------------------------------------------------------------------ */

static void links_that_leave_the_repository_are_refused(void **state)
{
    char file[CORPUS_PATH_BYTES], path[CORPUS_PATH_BYTES];

    (void)state;
    make_dir("%s/hub/models--org--name2", root);
    make_dir("%s/hub/models--org--name2/blobs", root);
    corpus_path(file, "%s/hub/models--org--name2/blobs/" SHA256, root);
    corpus_write_shard(file, "a");
    corpus_path(path, "%s/hub/models--org--name/snapshots/" COMMIT "/model.safetensors", root);
    /* Another repository's blob, a blob through a link in blobs, and a folder whose name begins like blobs. */
    assert_int_equal(unlink(path), 0);
    make_link("../../../models--org--name2/blobs/" SHA256, "%s", path);
    assert_refused("org/name", NULL, WM_BAD_DATA, "[LINK_OUTSIDE_MODEL]", "models--org--name2");
    assert_int_equal(unlink(path), 0);
    make_link(file, "%s/hub/models--org--name/blobs/evil", root);
    make_link("../../blobs/evil", "%s", path);
    assert_refused("org/name", NULL, WM_BAD_DATA, "[LINK_OUTSIDE_MODEL]", "models--org--name2");
    assert_int_equal(unlink(path), 0);
    make_dir("%s/hub/models--org--name/blobs2", root);
    corpus_path(file, "%s/hub/models--org--name/blobs2/" SHA256, root);
    corpus_write_shard(file, "a");
    make_link("../../blobs2/" SHA256, "%s", path);
    assert_refused("org/name", NULL, WM_BAD_DATA, "[LINK_OUTSIDE_MODEL]", "blobs2");
    /* config.json is held to the same rule. */
    assert_int_equal(unlink(path), 0);
    make_link("../../blobs/" SHA256, "%s", path);
    corpus_path(path, "%s/hub/models--org--name/snapshots/" COMMIT "/config.json", root);
    assert_int_equal(unlink(path), 0);
    make_link("/etc/passwd", "%s", path);
    assert_refused("org/name", NULL, WM_BAD_DATA, "[LINK_OUTSIDE_MODEL]", "/etc/passwd");
}

static void linked_cache_folders_are_refused(void **state)
{
    char from[CORPUS_PATH_BYTES], to[CORPUS_PATH_BYTES];

    (void)state;
    corpus_path(from, "%s/hub/models--org--name/blobs", root);
    corpus_path(to, "%s/elsewhere", root);
    assert_int_equal(rename(from, to), 0);
    make_link("../../elsewhere", "%s", from);
    assert_refused("org/name", NULL, WM_BAD_DATA, "[LINK_OUTSIDE_MODEL]", "this folder of the hub cache is a link");
    assert_int_equal(unlink(from), 0);
    assert_int_equal(rename(to, from), 0);
    corpus_path(from, "%s/hub/models--org--name/snapshots/" COMMIT, root);
    assert_int_equal(rename(from, to), 0);
    make_link(to, "%s", from);
    assert_refused("org/name", NULL, WM_BAD_DATA, "[LINK_OUTSIDE_MODEL]", "this folder of the hub cache is a link");
}

/* The cache as a whole may lie behind a link: people move it to another disk. */
static void a_linked_cache_is_followed(void **state)
{
    struct wm_error err;
    struct ckpt *ckpt;
    char from[CORPUS_PATH_BYTES], to[CORPUS_PATH_BYTES];

    (void)state;
    corpus_path(from, "%s/hub", root);
    corpus_path(to, "%s/disk", root);
    assert_int_equal(rename(from, to), 0);
    make_link("disk", "%s", from);
    if (open_model(&ckpt, "org/name", NULL, &err) != WM_OK)
        fail_msg("%s", err.message);
    assert_string_equal(ckpt->files[0].sha256, SHA256);
    ckpt_free(ckpt);
}

static void refs_are_checked(void **state)
{
    static const char *const contents[] = {"",
                                           "main",
                                           "0123456789abcdef0123456789abcdef0123456",
                                           COMMIT "0",
                                           COMMIT " ",
                                           COMMIT "\n\n",
                                           "../../../../../etc/0123456789abcdef01234",
                                           "0123456789ABCDEF0123456789ABCDEF01234567",
                                           COMMIT COMMIT COMMIT};
    static const char *const revisions[] = {"",     "../refs/main", "/etc/passwd", "a b",   "a;b",  "a\nb",
                                            "a//b", "./main",       "-x",          "main/", "a\\b", "$(x)"};

    (void)state;
    for (size_t i = 0; i < sizeof contents / sizeof *contents; i++) {
        write_text(contents[i], "%s/hub/models--org--name/refs/main", root);
        assert_refused("org/name", NULL, WM_BAD_DATA, "[BAD_REF]", "refs/main: ");
    }
    for (size_t i = 0; i < sizeof revisions / sizeof *revisions; i++)
        assert_refused("org/name", revisions[i], WM_BAD_DATA, "[BAD_REVISION]", "is no revision");
}

static void only_snapshot_folders_are_recognised(void **state)
{
    static const struct {
        const char *dir, *repo_id;
    } cases[] = {
        {"/c/models--org--name/snapshots/" COMMIT, "org/name"},
        {"/models--gpt2/snapshots/" COMMIT, "gpt2"},
        {"/c/models--org--name/snapshots/main", NULL},
        {"/c/models--org--name/" COMMIT, NULL},
        {"/c/datasets--org--name/snapshots/" COMMIT, NULL},
        {"/c/models--org--a--b/snapshots/" COMMIT, NULL},
        {"/c/models--/snapshots/" COMMIT, NULL},
        {"/snapshots/" COMMIT, NULL},
        {"/" COMMIT, NULL},
        {COMMIT, NULL},
        {"/", NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct wm_error err = WM_ERROR_INIT;
        struct hub_snapshot snapshot;
        struct arena arena;
        arena_init(&arena, 1 << 20);
        assert_int_equal(hub_recognise(&snapshot, cases[i].dir, &arena, &err), WM_OK);
        if (cases[i].repo_id)
            assert_string_equal(snapshot.repo_id, cases[i].repo_id);
        else
            assert_null(snapshot.repo_id);
        arena_release(&arena);
    }
}

static void only_blobs_of_64_digits_are_hashes(void **state)
{
    const struct hub_snapshot snapshot = {.blobs = "/c/blobs"}, without = {.blobs = NULL};

    (void)state;
    assert_string_equal(hub_blob_sha256(&snapshot, "/c/blobs/" SHA256), SHA256);
    assert_null(hub_blob_sha256(&snapshot, "/c/blobs/" SHA1));
    assert_null(hub_blob_sha256(&snapshot, "/c/blobs/" SHA256 ".incomplete"));
    assert_null(hub_blob_sha256(&snapshot, "/c/other/" SHA256));
    assert_null(hub_blob_sha256(&snapshot, "/c/blobs/x/" SHA256));
    assert_null(hub_blob_sha256(&snapshot, "/d/c/blobs/" SHA256));
    assert_null(hub_blob_sha256(&without, "/" SHA256));
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, root_tear_down)
    static const struct CMUnitTest tests[] = {
        CASE(the_folder_comes_from_the_environment),
        CASE(a_model_is_found_through_the_environment),
        CASE(ids_follow_the_rules_of_the_hub),
        CASE(a_snapshot_opens_by_id_revision_and_path),
        CASE(plain_files_in_a_snapshot_are_fine),
        CASE(what_is_missing_is_named_with_the_command),
        CASE(an_incomplete_snapshot_names_all_that_is_missing),
        CASE(broken_links_are_an_incomplete_snapshot),
        CASE(links_that_leave_the_repository_are_refused),
        CASE(linked_cache_folders_are_refused),
        CASE(a_linked_cache_is_followed),
        CASE(refs_are_checked),
        CASE(only_snapshot_folders_are_recognised),
        CASE(only_blobs_of_64_digits_are_hashes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
