/*
 * corpus_indexes.h: every kind of model.safetensors.index.json and shard folder that should be refused, and the odd
 * ones that should not.
 *
 * What lives here: one table, row by row as in section 2.1 of the reliability notes, with the shards that lie beside
 * each index. Used as corpus_headers.h is. What it must not know: how the reader works.
 */
#ifndef WM_TESTS_CORPUS_INDEXES_H
#define WM_TESTS_CORPUS_INDEXES_H

#include <stddef.h>

enum corpus_beside { /* what else is in the folder */
                     CORPUS_NOTHING,
                     CORPUS_SINGLE,       /* model.safetensors with the one tensor "single"          */
                     CORPUS_FIFO,         /* a pipe called s.safetensors                             */
                     CORPUS_FOLDER,       /* a folder called s.safetensors                           */
                     CORPUS_LINK_INSIDE,  /* s.safetensors is a link to real.bin in the same folder  */
                     CORPUS_LINK_OUTSIDE, /* s.safetensors is a link to a file beside the folder    */
                     CORPUS_LINK_BROKEN,
                     CORPUS_LINK_LOOP
};

struct corpus_index {
    const char *name;       /* of the folder */
    const char *identifier; /* of the refusal; NULL: accepted */
    int exit_code;
    const char *index; /* the index's text; NULL: no index */
    size_t n_index;
    const char *shards; /* "file:tensor,tensor;file:tensor"; each tensor is F32 [1] */
    enum corpus_beside beside;
    size_t n_tensors; /* accepted: that come out */
    unsigned n_warnings, n_strict_errors;
};

#define X(text)  text, sizeof(text) - 1
#define MAP(map) X("{\"metadata\":{},\"weight_map\":{" map "}}")
#define PATH(p)  MAP("\"a\":\"" p "\"")
#define A_B      "s.safetensors:a;t.safetensors:b"

/* A row says what it needs; the rest is zero. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
static const struct corpus_index corpus_indexes[] = {
    {"good", NULL, 0, MAP("\"a\":\"s.safetensors\",\"b\":\"t.safetensors\""), A_B, .n_tensors = 2},
    {"odd-shard-name", NULL, 0, PATH("model.safetensors-00003-of-00004.safetensors"),
     "model.safetensors-00003-of-00004.safetensors:a", .n_tensors = 1},
    {"unicode-shard-name", NULL, 0, PATH("\303\251.safetensors"), "\303\251.safetensors:a", .n_tensors = 1},
    {"no-metadata", NULL, 0, X("{\"weight_map\":{\"a\":\"s.safetensors\"}}"), "s.safetensors:a", .n_tensors = 1},
    {"more-members", NULL, 0, X("{\"weight_map\":{\"a\":\"s.safetensors\"},\"note\":[{\"x\":null}]}"),
     "s.safetensors:a", .n_tensors = 1},

    /* ---- paths */
    {"path-absolute", "INDEX_BAD_PATH", 65, PATH("/etc/x.safetensors"), "s.safetensors:a"},
    {"path-drive", "INDEX_BAD_PATH", 65, PATH("C:s.safetensors"), "s.safetensors:a"},
    {"path-drive-root", "INDEX_BAD_PATH", 65, PATH("C:\\\\s.safetensors"), "s.safetensors:a"},
    {"path-unc", "INDEX_BAD_PATH", 65, PATH("\\\\\\\\host\\\\share\\\\s.safetensors"), "s.safetensors:a"},
    {"path-unc-slashes", "INDEX_BAD_PATH", 65, PATH("//host/share/s.safetensors"), "s.safetensors:a"},
    {"path-parent", "INDEX_BAD_PATH", 65, PATH("../s.safetensors"), "s.safetensors:a"},
    {"path-parent-inside", "INDEX_BAD_PATH", 65, PATH("x/../s.safetensors"), "s.safetensors:a"},
    {"path-parent-escaped", "INDEX_BAD_PATH", 65, PATH("\\u002e\\u002e\\u002fs.safetensors"), "s.safetensors:a"},
    {"path-backslash", "INDEX_BAD_PATH", 65, PATH("..\\\\s.safetensors"), "s.safetensors:a"},
    {"path-nul", "INDEX_BAD_PATH", 65, PATH("s.safetensors\\u0000.safetensors"), "s.safetensors:a"},
    {"path-newline", "INDEX_BAD_PATH", 65, PATH("s\\n.safetensors"), "s.safetensors:a"},
    {"path-empty", "INDEX_BAD_PATH", 65, PATH(""), "s.safetensors:a"},
    {"path-only-extension", "INDEX_BAD_PATH", 65, PATH(".safetensors"), "s.safetensors:a"},
    {"path-bin", "INDEX_BAD_PATH", 65, PATH("pytorch_model.bin"), "s.safetensors:a"},
    {"path-upper-extension", "INDEX_BAD_PATH", 65, PATH("s.SAFETENSORS"), "s.safetensors:a"},
    {"path-dots", "INDEX_BAD_PATH", 65, PATH(".."), "s.safetensors:a"},
    {"path-sub-folder", "INDEX_BAD_PATH", 65, PATH("sub/s.safetensors"), "s.safetensors:a"},
    {"path-256-bytes", "INDEX_BAD_PATH", 65,
     PATH("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789ab"
          "cde"
          "f0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789a"
          "bcd"
          "ef01234567890123456789.safetensors"),
     "s.safetensors:a"},

    /* ---- what the name leads to */
    {"link-inside", NULL, 0, PATH("s.safetensors"), "", CORPUS_LINK_INSIDE, 1},
    {"link-outside", "LINK_OUTSIDE_MODEL", 65, PATH("s.safetensors"), "", CORPUS_LINK_OUTSIDE},
    {"link-broken", "INDEX_SHARD_MISSING", 66, PATH("s.safetensors"), "", CORPUS_LINK_BROKEN},
    {"link-loop", "CANNOT_OPEN", 65, PATH("s.safetensors"), "", CORPUS_LINK_LOOP},
    {"fifo", "NOT_A_REGULAR_FILE", 65, PATH("s.safetensors"), "", CORPUS_FIFO},
    {"folder", "NOT_A_REGULAR_FILE", 65, PATH("s.safetensors"), "", CORPUS_FOLDER},
    {"shard-missing", "INDEX_SHARD_MISSING", 66, MAP("\"a\":\"s.safetensors\",\"b\":\"t.safetensors\""),
     "s.safetensors:a"},
    {"shards-missing", "INDEX_SHARD_MISSING", 66,
     MAP("\"a\":\"s.safetensors\",\"b\":\"t.safetensors\",\"c\":\"u.safetensors\""), "s.safetensors:a"},

    /* ---- index against shards */
    {"tensor-missing", "INDEX_TENSOR_MISSING", 65, MAP("\"a\":\"s.safetensors\",\"c\":\"s.safetensors\""),
     "s.safetensors:a"},
    {"tensor-in-other-shard", "INDEX_TENSOR_MISSING", 65, MAP("\"a\":\"t.safetensors\",\"b\":\"t.safetensors\""), A_B},
    {"tensor-unlisted", NULL, 0, PATH("s.safetensors"), "s.safetensors:a,b,c", .n_tensors = 1, .n_warnings = 1,
     .n_strict_errors = 1},
    {"tensor-in-two-shards", NULL, 0, MAP("\"a\":\"s.safetensors\",\"b\":\"t.safetensors\""),
     "s.safetensors:a;t.safetensors:a,b", .n_tensors = 2, .n_warnings = 1, .n_strict_errors = 1},
    {"no-index-two-shards", NULL, 0, X(""), "model-00001-of-00002.safetensors:a;model-00002-of-00002.safetensors:b",
     .n_tensors = 2, .n_warnings = 1},
    {"no-index-tensor-twice", "DUPLICATE_TENSOR", 65, X(""),
     "model-00001-of-00002.safetensors:a;model-00002-of-00002.safetensors:a"},
    {"no-index-shard-missing", "INDEX_SHARD_MISSING", 66, X(""),
     "model-00001-of-00003.safetensors:a;model-00003-of-00003.safetensors:b"},
    {"no-index-last-missing", "INDEX_SHARD_MISSING", 66, X(""),
     "model-00001-of-00003.safetensors:a;model-00002-of-00003.safetensors:b"},
    {"no-index-two-models", "AMBIGUOUS_WEIGHTS", 65, X(""), "x.safetensors:a;y.safetensors:b"},
    {"no-index-two-sets", "AMBIGUOUS_WEIGHTS", 65, X(""),
     "x-00001-of-00002.safetensors:a;y-00002-of-00002.safetensors:b"},
    {"no-index-one-file", NULL, 0, X(""), "weights.safetensors:a,b", .n_tensors = 2, .n_warnings = 1},
    {"index-and-single", NULL, 0, PATH("s.safetensors"), "s.safetensors:a", CORPUS_SINGLE, 1, .n_warnings = 1},
    {"only-single", NULL, 0, X(""), "", CORPUS_SINGLE, 1},
    {"shard-malformed", "HEADER_NOT_JSON", 65, PATH("s.safetensors"), "s.safetensors:a\x80"},

    /* ---- form */
    {"total-size-right", NULL, 0, X("{\"metadata\":{\"total_size\":4},\"weight_map\":{\"a\":\"s.safetensors\"}}"),
     "s.safetensors:a", .n_tensors = 1},
    {"total-size-float", NULL, 0, X("{\"metadata\":{\"total_size\":4.0},\"weight_map\":{\"a\":\"s.safetensors\"}}"),
     "s.safetensors:a", .n_tensors = 1},
    {"total-size-wrong", NULL, 0, X("{\"metadata\":{\"total_size\":8},\"weight_map\":{\"a\":\"s.safetensors\"}}"),
     "s.safetensors:a", .n_tensors = 1, .n_warnings = 1},
    {"total-size-text", NULL, 0, X("{\"metadata\":{\"total_size\":\"4\"},\"weight_map\":{\"a\":\"s.safetensors\"}}"),
     "s.safetensors:a", .n_tensors = 1},
    {"metadata-null", NULL, 0, X("{\"metadata\":null,\"weight_map\":{\"a\":\"s.safetensors\"}}"), "s.safetensors:a",
     .n_tensors = 1},
    {"map-key-twice", "DUPLICATE_KEY", 65, MAP("\"a\":\"s.safetensors\",\"a\":\"s.safetensors\""), A_B},
    {"map-key-twice-escaped", "DUPLICATE_KEY", 65, MAP("\"a\":\"s.safetensors\",\"\\u0061\":\"t.safetensors\""), A_B},
    {"map-twice", "DUPLICATE_KEY", 65, X("{\"weight_map\":{\"a\":\"s.safetensors\"},\"weight_map\":{}}"), A_B},
    {"metadata-key-twice", "DUPLICATE_KEY", 65,
     X("{\"metadata\":{\"x\":1,\"x\":1},\"weight_map\":{\"a\":\"s.safetensors\"}}"), A_B},
    {"other-key-twice", "DUPLICATE_KEY", 65,
     X("{\"other\":{\"x\":1,\"x\":1},\"weight_map\":{\"a\":\"s.safetensors\"}}"), A_B},
    {"map-empty", "INDEX_SCHEMA", 65, MAP(""), A_B},
    {"map-missing", "INDEX_SCHEMA", 65, X("{\"metadata\":{}}"), A_B},
    {"map-array", "INDEX_SCHEMA", 65, X("{\"weight_map\":[\"s.safetensors\"]}"), A_B},
    {"map-null", "INDEX_SCHEMA", 65, X("{\"weight_map\":null}"), A_B},
    {"value-number", "INDEX_SCHEMA", 65, MAP("\"a\":1"), A_B},
    {"value-null", "INDEX_SCHEMA", 65, MAP("\"a\":null"), A_B},
    {"value-array", "INDEX_SCHEMA", 65, MAP("\"a\":[\"s.safetensors\"]"), A_B},
    {"top-array", "INDEX_SCHEMA", 65, X("[]"), A_B},
    {"top-string", "INDEX_SCHEMA", 65, X("\"s.safetensors\""), A_B},
    {"json-cut", "INDEX_NOT_JSON", 65, X("{\"weight_map\":{\"a\":\"s.safeten"), A_B},
    {"json-trailing", "INDEX_NOT_JSON", 65, X("{\"weight_map\":{\"a\":\"s.safetensors\"}} x"), A_B},
    {"json-utf8", "INDEX_NOT_JSON", 65, MAP("\"\377\":\"s.safetensors\""), A_B},
    {"json-bom", "INDEX_NOT_JSON", 65, X("\357\273\277{\"weight_map\":{\"a\":\"s.safetensors\"}}"), A_B},
    {"json-deep", "INDEX_NOT_JSON", 65,
     X("{\"metadata\":[[[[[[[[[[]]]]]]]]]],\"weight_map\":{\"a\":\"s.safetensors\"}}"), A_B},
    {"map-key-control", "BAD_NAME", 65, MAP("\"a\\u0000\":\"s.safetensors\""), A_B},
    {"is-lfs-pointer", "LFS_POINTER", 65, X("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
     A_B},
    {"is-html", "HTML_PAGE", 65, X("<!doctype html><title>Sign in</title>"), A_B},
};
#pragma GCC diagnostic pop

#define CORPUS_N_INDEXES (sizeof corpus_indexes / sizeof *corpus_indexes)

#endif
