/*
 * sniff.h: what a file is that is not the safetensors file it should be.
 *
 * What lives here: the signatures of things that end up where weights belong: Git LFS pointers, pickles, archives,
 * GGUF, web pages. Recognising is all: none of them is ever opened further (a pickle is a program). What it must not
 * know: directories and names.
 */
#ifndef WM_CHECKPOINT_SNIFF_H
#define WM_CHECKPOINT_SNIFF_H

#include <stddef.h>

#define SNIFF_BYTES 512 /* of a file's beginning are enough */

struct sniffed {
    const char *identifier; /* "LFS_POINTER" */
    const char *sentence;   /* "is a Git LFS pointer: ...; remedy" without the file's name */
};

/* The kind of file that begins with these bytes, or NULL. Static storage. */
const struct sniffed *sniff(const void *head, size_t n_bytes);

#endif
