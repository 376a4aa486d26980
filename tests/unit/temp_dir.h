/*
 * temp_dir.h: a folder of a test's own.
 *
 * What lives here: making it, naming files in it, and removing it with all that is inside, for one test or as cmocka's
 * set-up and tear-down of each. Failures of the machine end the program. What it must not know: what the files are.
 */
#ifndef WM_TESTS_TEMP_DIR_H
#define WM_TESTS_TEMP_DIR_H

#include "base/file.h"
#include "corpus/corpus.h"

#include <dirent.h>

static inline void temp_dir_make(char path[64])
{
    snprintf(path, 64, "/tmp/wm_test_XXXXXX");
    corpus_need(mkdtemp(path) != NULL, path);
}

/* Removes a file or a folder with its contents; links are removed, not followed. */
static inline void temp_dir_remove(const char *path)
{
    struct stat sb;
    struct dirent *entry;
    DIR *dir;

    if (lstat(path, &sb) < 0)
        return;
    if (!S_ISDIR(sb.st_mode)) {
        unlink(path);
        return;
    }
    dir = opendir(path);
    corpus_need(dir != NULL, path);
    while ((entry = readdir(dir)) != NULL) {
        char inner[CORPUS_PATH_BYTES];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        corpus_path(inner, "%s/%s", path, entry->d_name);
        temp_dir_remove(inner);
    }
    closedir(dir);
    rmdir(path);
}

static char root[64];

static inline int root_set_up(void **state)
{
    (void)state;
    temp_dir_make(root);
    return 0;
}

/* No test leaves its faults to the next one. */
static inline int root_tear_down(void **state)
{
    (void)state;
    file_fault = NULL;
    temp_dir_remove(root);
    return 0;
}

#endif
