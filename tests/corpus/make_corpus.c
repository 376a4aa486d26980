/*
 * make_corpus.c: writes the corpus of malformed and odd models to a folder, with manifest.tsv: path, expected exit
 * code, expected identifier ("-": none), one line each, so that any program that opens models can be run over it.
 *
 *     make_corpus FOLDER
 */
#include "corpus.h"

int main(int argc, char **argv)
{
    char path[CORPUS_PATH_BYTES];
    FILE *manifest;

    if (argc != 2) {
        fprintf(stderr, "usage: make_corpus FOLDER   (the folder must not exist)\n");
        return 2;
    }
    corpus_need(mkdir(argv[1], 0755) == 0, argv[1]);
    corpus_path(path, "%s/headers", argv[1]);
    corpus_need(mkdir(path, 0755) == 0, path);
    corpus_path(path, "%s/indexes", argv[1]);
    corpus_need(mkdir(path, 0755) == 0, path);
    corpus_path(path, "%s/manifest.tsv", argv[1]);
    manifest = fopen(path, "w");
    corpus_need(manifest != NULL, path);
    for (size_t i = 0; i < CORPUS_N_HEADERS; i++) {
        const struct corpus_header *c = &corpus_headers[i];
        size_t n = 0;
        unsigned char *bytes = corpus_header_bytes(c, &n);
        corpus_path(path, "%s/headers/%s.safetensors", argv[1], c->name);
        corpus_write(path, bytes, n);
        free(bytes);
        fprintf(manifest, "headers/%s.safetensors\t%d\t%s\n", c->name, c->identifier ? 65 : 0,
                c->identifier ? c->identifier : "-");
    }
    corpus_path(path, "%s/indexes", argv[1]);
    for (size_t i = 0; i < CORPUS_N_INDEXES; i++) {
        const struct corpus_index *c = &corpus_indexes[i];
        corpus_write_folder(c, path);
        fprintf(manifest, "indexes/%s\t%d\t%s\n", c->name, c->exit_code, c->identifier ? c->identifier : "-");
    }
    corpus_need(fclose(manifest) == 0, "manifest.tsv");
    return 0;
}
