/*
 * corpus_headers.h: every kind of safetensors header that should be refused, and the odd ones that should not.
 *
 * What lives here: one table, row by row as in section 1.5 of the reliability notes, column "Ours". The unit test of
 * the reader runs over it, and make_corpus writes it out as files for the command line tool. What it must not know:
 * how the reader works.
 */
#ifndef WM_TESTS_CORPUS_HEADERS_H
#define WM_TESTS_CORPUS_HEADERS_H

#include <stddef.h>
#include <stdint.h>

enum corpus_shape {
    CORPUS_PLAIN,       /* length prefix, the text as header, n_data zero bytes                           */
    CORPUS_RAW,         /* the text is the whole file                                                     */
    CORPUS_PREFIX,      /* the prefix is `value` whatever the header's length                             */
    CORPUS_SPACES,      /* the header is padded with spaces to `value` bytes                              */
    CORPUS_NESTED,      /* "x" in the text is replaced by `value` opening and as many closing brackets    */
    CORPUS_REPEATED,    /* "#" in the text is replaced by `value` times the text of `unit`               */
    CORPUS_RAW_REPEATED /* both */
};

struct corpus_header {
    const char *name;       /* of the file, without .safetensors */
    const char *identifier; /* of the refusal; NULL: accepted */
    const char *text;
    size_t n_text; /* counted, since the text may hold NULs */
    uint64_t n_data;
    enum corpus_shape shape;
    uint64_t value;
    const char *unit;
    size_t n_tensors; /* accepted: that come out */
    unsigned n_warnings, n_strict_warnings;
};

#define H(text)                             text, sizeof(text) - 1
#define ENTRY(dtype, shape, offsets)        "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define TENSOR(name, dtype, shape, offsets) "\"" name "\":" ENTRY(dtype, shape, offsets)
#define ONE                                 TENSOR("a", "F32", "[1]", "[0,4]")
#define B2E61                               "2305843009213693951" /* 2^61 - 1 bytes: the most whose bits fit 64 bits */

/* A row says what it needs; the rest is zero. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
static const struct corpus_header corpus_headers[] = {
    /* ---- what everybody writes */
    {"good-one", NULL, H("{" ONE "}"), 4, .n_tensors = 1},
    {"good-padded-metadata", NULL, H("{\"__metadata__\":{\"format\":\"pt\"}," ONE "}       "), 4, .n_tensors = 1},

    /* ---- framing */
    {"file-empty", "HEADER_TOO_SMALL", H(""), 0, CORPUS_RAW},
    {"file-7-bytes", "HEADER_TOO_SMALL", H("\2\0\0\0\0\0\0"), 0, CORPUS_RAW},
    {"length-only", "INVALID_HEADER_LENGTH", H("\2\0\0\0\0\0\0\0"), 0, CORPUS_RAW},
    {"length-0", "HEADER_NOT_JSON", H(""), 0},
    {"length-0-with-data", "HEADER_NOT_JSON", H(""), 64},
    {"length-past-end-by-1", "INVALID_HEADER_LENGTH", H("{}"), 0, CORPUS_PREFIX, 3},
    {"length-past-end", "INVALID_HEADER_LENGTH", H("{" ONE "}"), 4, CORPUS_PREFIX, 1000},
    {"length-100000000", "INVALID_HEADER_LENGTH", H("{" ONE "}"), 4, CORPUS_PREFIX, 100000000},
    {"length-100000001", "HEADER_TOO_LARGE", H("{" ONE "}"), 4, CORPUS_PREFIX, 100000001},
    {"length-2e63", "HEADER_TOO_LARGE", H("{" ONE "}"), 4, CORPUS_PREFIX, (uint64_t)1 << 63},
    {"length-2e64-8", "HEADER_TOO_LARGE", H("{" ONE "}"), 4, CORPUS_PREFIX, UINT64_MAX - 7},
    {"length-2e64-1", "HEADER_TOO_LARGE", H("{" ONE "}"), 4, CORPUS_PREFIX, UINT64_MAX},
    {"length-at-our-cap", NULL, H("{" ONE "}"), 4, CORPUS_SPACES, 25000000, .n_tensors = 1},
    {"length-above-our-cap", "HEADER_TOO_LARGE", H("{" ONE "}"), 4, CORPUS_SPACES, 25000001},
    {"length-short-by-1", "HEADER_NOT_JSON", H("{" ONE "}"), 4, CORPUS_PREFIX, sizeof("{" ONE "}") - 2},

    /* ---- other kinds of files */
    {"is-lfs-pointer", "LFS_POINTER",
     H("version https://git-lfs.github.com/spec/v1\n"
       "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"),
     0, CORPUS_RAW},
    {"is-zip", "PICKLE", H("PK\3\4\24\0\0\0\10\0abcdefghijklmnop"), 0, CORPUS_RAW},
    {"is-pickle-2", "PICKLE", H("\200\2}q\0X\6\0\0\0weightq\1."), 0, CORPUS_RAW},
    {"is-pickle-4", "PICKLE", H("\200\4\225\0\0\0\0\0\0\0\0}\224."), 0, CORPUS_RAW},
    {"is-pickle-4-fitting", "PICKLE", H("\200\4\0\0\0\0\0\0}#"), 0, CORPUS_RAW_REPEATED, 2000, "q"},
    {"length-like-pickle", NULL, H("{" ONE "}"), 4, CORPUS_SPACES, 0x480, .n_tensors = 1},
    {"is-gguf", "GGUF", H("GGUF\3\0\0\0\1\0\0\0\0\0\0\0"), 0, CORPUS_RAW},
    {"is-html", "HTML_PAGE", H("<!DOCTYPE html><html><body>401</body></html>"), 0, CORPUS_RAW},
    {"is-html-bare", "HTML_PAGE", H("\n <HTML><body>404</body></HTML>"), 0, CORPUS_RAW},
    {"is-gzip", "NOT_SAFETENSORS", H("\37\213\10\0\0\0\0\0\0\3abcdef"), 0, CORPUS_RAW},
    {"is-gzip-fitting", "NOT_SAFETENSORS", H("\37\213\10\0\0\0\0\0\0#"), 0, CORPUS_RAW_REPEATED, 600000, "q"},
    {"is-zstd", "NOT_SAFETENSORS", H("\50\265\57\375\44\15abcdefgh"), 0, CORPUS_RAW},
    {"is-hdf5", "NOT_SAFETENSORS", H("\211HDF\r\n\32\nabcdefgh"), 0, CORPUS_RAW},
    {"is-json", "NOT_SAFETENSORS", H("{\"metadata\": {}, \"weight_map\": {}}"), 0, CORPUS_RAW},
    {"is-json-pretty", "NOT_SAFETENSORS", H("{\n  \"metadata\": {}\n}"), 0, CORPUS_RAW},
    {"is-text", "HEADER_TOO_LARGE", H("Hello, these are no weights."), 0, CORPUS_RAW},

    /* ---- encoding */
    {"utf8-byte-ff", "HEADER_NOT_UTF8", H("{" TENSOR("a\377", "F32", "[1]", "[0,4]") "}"), 4},
    {"utf8-byte-ff-outside-string", "HEADER_NOT_UTF8", H("{\377" ONE "}"), 4},
    {"utf8-overlong", "HEADER_NOT_UTF8", H("{" TENSOR("a\300\257", "F32", "[1]", "[0,4]") "}"), 4},
    {"utf8-surrogate", "HEADER_NOT_UTF8", H("{" TENSOR("a\355\240\200", "F32", "[1]", "[0,4]") "}"), 4},
    {"utf8-truncated", "HEADER_NOT_UTF8", H("{" TENSOR("a\342\202", "F32", "[1]", "[0,4]") "}"), 4},
    {"utf8-above-10ffff", "HEADER_NOT_UTF8", H("{" TENSOR("a\364\220\200\200", "F32", "[1]", "[0,4]") "}"), 4},
    {"utf8-in-metadata-value", "HEADER_NOT_UTF8", H("{\"__metadata__\":{\"a\":\"\377\"}," ONE "}"), 4},
    {"utf8-good", NULL, H("{" TENSOR("\303\251\342\202\254\360\237\230\200", "F32", "[1]", "[0,4]") "}"), 4,
     .n_tensors = 1},
    {"utf8-bom", "HEADER_NOT_JSON", H("\357\273\277{" ONE "}"), 4},

    /* ---- grammar */
    {"json-comment", "HEADER_NOT_JSON", H("{/* hi */" ONE "}"), 4},
    {"json-trailing-comma", "HEADER_NOT_JSON", H("{" ONE ",}"), 4},
    {"json-trailing-comma-array", "HEADER_NOT_JSON", H("{" TENSOR("a", "F32", "[1,]", "[0,4]") "}"), 4},
    {"json-leading-comma", "HEADER_NOT_JSON", H("{," ONE "}"), 4},
    {"json-nan", "HEADER_NOT_JSON", H("{" TENSOR("a", "F32", "[NaN]", "[0,4]") "}"), 4},
    {"json-infinity", "HEADER_NOT_JSON", H("{" TENSOR("a", "F32", "[Infinity]", "[0,4]") "}"), 4},
    {"json-bad-escape", "HEADER_NOT_JSON", H("{" TENSOR("a\\x41", "F32", "[1]", "[0,4]") "}"), 4},
    {"json-bad-hex", "HEADER_NOT_JSON", H("{" TENSOR("a\\u00g1", "F32", "[1]", "[0,4]") "}"), 4},
    {"json-raw-control", "HEADER_NOT_JSON", H("{" TENSOR("a\1", "F32", "[1]", "[0,4]") "}"), 4},
    {"json-raw-nul", "HEADER_NOT_JSON", H("{" TENSOR("a\0b", "F32", "[1]", "[0,4]") "}"), 4},
    {"json-raw-newline", "HEADER_NOT_JSON", H("{" TENSOR("a\n", "F32", "[1]", "[0,4]") "}"), 4},
    {"json-lone-high-surrogate", "HEADER_NOT_JSON", H("{" TENSOR("a\\ud83d", "F32", "[1]", "[0,4]") "}"), 4},
    {"json-lone-low-surrogate", "HEADER_NOT_JSON", H("{" TENSOR("a\\ude00", "F32", "[1]", "[0,4]") "}"), 4},
    {"json-two-high-surrogates", "HEADER_NOT_JSON", H("{" TENSOR("\\ud83d\\ud83d", "F32", "[1]", "[0,4]") "}"), 4},
    {"json-truncated", "HEADER_NOT_JSON", H("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_off"), 0},
    {"json-truncated-in-number", "HEADER_NOT_JSON", H("{\"a\":{\"dtype\":\"F32\",\"shape\":[1"), 0},
    {"json-truncated-in-escape", "HEADER_NOT_JSON", H("{\"a\\"), 0},
    {"json-trailing-garbage", "HEADER_NOT_JSON", H("{" ONE "}x"), 4},
    {"json-two-objects", "HEADER_NOT_JSON", H("{" ONE "}{}"), 4},
    {"json-nul-padding", "HEADER_NOT_JSON", H("{" ONE "}\0\0\0\0"), 4},
    {"json-single-quotes", "HEADER_NOT_JSON", H("{'a':{'dtype':'F32','shape':[1],'data_offsets':[0,4]}}"), 4},
    {"json-bare-key", "HEADER_NOT_JSON", H("{a:" ENTRY("F32", "[1]", "[0,4]") "}"), 4},
    {"json-missing-colon", "HEADER_NOT_JSON", H("{\"a\" " ENTRY("F32", "[1]", "[0,4]") "}"), 4},
    {"json-missing-comma", "HEADER_NOT_JSON", H("{" ONE TENSOR("b", "F32", "[1]", "[4,8]") "}"), 8},
    {"json-vertical-tab", "HEADER_NOT_JSON", H("{\v" ONE "}"), 4},
    {"json-wrong-bracket", "HEADER_NOT_JSON", H("{" TENSOR("a", "F32", "[1}", "[0,4]") "}"), 4},
    {"json-number-cut", "HEADER_NOT_JSON", H("{" TENSOR("a", "F32", "[1.]", "[0,4]") "}"), 4},
    {"json-only-spaces", "HEADER_NOT_JSON", H("        "), 4},
    {"top-array", "HEADER_NOT_JSON", H("[" ENTRY("F32", "[1]", "[0,4]") "]"), 4},
    {"top-string", "HEADER_NOT_JSON", H("\"a\""), 0},
    {"top-null", "HEADER_NOT_JSON", H("null"), 0},
    {"top-number", "HEADER_NOT_JSON", H("12"), 0},
    {"top-true", "HEADER_NOT_JSON", H("true"), 0},
    {"nested-5", "HEADER_NOT_JSON", H("{\"a\":{\"more\":x}}"), 0, CORPUS_NESTED, 3},
    {"nested-200", "HEADER_NOT_JSON", H("{\"a\":{\"more\":x}}"), 0, CORPUS_NESTED, 200},
    {"nested-100000", "HEADER_NOT_JSON", H("x"), 0, CORPUS_NESTED, 100000},
    {"space-leading", NULL, H(" \t\r\n{" ONE "}"), 4, .n_tensors = 1, .n_strict_warnings = 1},
    {"space-leading-page", NULL, H("#{" ONE "}"), 4, CORPUS_REPEATED, 4000, " ", 1, .n_strict_warnings = 1},
    {"space-trailing", NULL, H("{" ONE "} \t\r\n "), 4, .n_tensors = 1},
    {"space-inside", NULL,
     H("{ \"a\" :\n{\t\"dtype\" : \"F32\" , \"shape\" : [ 1 ] ,\r\"data_offsets\" : [ 0 , 4 ] } }"), 4, .n_tensors = 1},
    {"escape-surrogate-pair", NULL, H("{" TENSOR("\\ud83d\\ude00", "F32", "[1]", "[0,4]") "}"), 4, .n_tensors = 1},
    {"escape-slash-and-quote", NULL, H("{" TENSOR("a\\/b\\\"c\\\\", "F32", "[1]", "[0,4]") "}"), 4, .n_tensors = 1},
    {"escape-in-field-names", NULL, H("{\"a\":{\"d\\u0074ype\":\"F\\u00332\",\"shape\":[1],\"data_offsets\":[0,4]}}"),
     4, .n_tensors = 1},

    /* ---- keys and metadata */
    {"key-twice-identical", "DUPLICATE_KEY", H("{" ONE "," ONE "}"), 4},
    {"key-twice-first-nonsense", "DUPLICATE_KEY", H("{" TENSOR("a", "F64", "[9]", "[3,4]") "," ONE "}"), 4},
    {"key-twice-ranges", "DUPLICATE_KEY", H("{" ONE "," TENSOR("a", "F32", "[1]", "[4,8]") "}"), 8},
    {"key-twice-escaped", "DUPLICATE_KEY", H("{" ONE "," TENSOR("\\u0061", "F32", "[1]", "[4,8]") "}"), 8},
    {"key-twice-apart", "DUPLICATE_KEY",
     H("{" ONE "," TENSOR("b", "F32", "[1]", "[4,8]") "," TENSOR("c", "F32", "[1]", "[8,12]") "," TENSOR(
         "a", "F32", "[1]", "[12,16]") "}"),
     16},
    {"metadata-twice", "DUPLICATE_KEY", H("{\"__metadata__\":{},\"__metadata__\":{}," ONE "}"), 4},
    {"metadata-key-twice", "DUPLICATE_KEY", H("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}," ONE "}"), 4},
    {"dtype-twice", "DUPLICATE_KEY",
     H("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"), 4},
    {"shape-twice", "DUPLICATE_KEY",
     H("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,4]}}"), 4},
    {"offsets-twice", "DUPLICATE_KEY",
     H("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"data_offsets\":[0,4]}}"), 4},
    {"extra-field-twice", "DUPLICATE_KEY",
     H("{\"a\":{\"x\":1,\"x\":1,\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"), 4},
    {"extra-field-inner-key-twice", "DUPLICATE_KEY",
     H("{\"a\":{\"x\":{\"y\":1,\"y\":1},\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"), 4},
    {"metadata-null", NULL, H("{\"__metadata__\":null," ONE "}"), 4, .n_tensors = 1, .n_warnings = 1,
     .n_strict_warnings = 1},
    {"metadata-array", "HEADER_SCHEMA", H("{\"__metadata__\":[]," ONE "}"), 4},
    {"metadata-string", "HEADER_SCHEMA", H("{\"__metadata__\":\"pt\"," ONE "}"), 4},
    {"metadata-value-int", "HEADER_SCHEMA", H("{\"__metadata__\":{\"a\":1}," ONE "}"), 4},
    {"metadata-value-null", "HEADER_SCHEMA", H("{\"__metadata__\":{\"a\":null}," ONE "}"), 4},
    {"metadata-value-object", "HEADER_SCHEMA", H("{\"__metadata__\":{\"a\":{}}," ONE "}"), 4},
    {"metadata-empty", NULL, H("{\"__metadata__\":{}," ONE "}"), 4, .n_tensors = 1},
    {"metadata-last", NULL, H("{" ONE ",\"__metadata__\":{\"format\":\"pt\"}}"), 4, .n_tensors = 1},
    {"metadata-escaped", NULL, H("{\"__met\\u0061data__\":{\"format\":\"pt\"}," ONE "}"), 4, .n_tensors = 1},
    {"metadata-value-newline", NULL, H("{\"__metadata__\":{\"a\":\"x\\ny\"}," ONE "}"), 4, .n_tensors = 1},
    {"metadata-key-nul", "BAD_NAME", H("{\"__metadata__\":{\"a\\u0000\":\"x\"}," ONE "}"), 4},
    {"metadata-is-tensor", "HEADER_SCHEMA", H("{" TENSOR("__metadata__", "F32", "[1]", "[0,4]") "}"), 4},
    {"name-empty", NULL, H("{" TENSOR("", "F32", "[1]", "[0,4]") "}"), 4, .n_tensors = 1},
    {"name-nul", "BAD_NAME", H("{" TENSOR("a\\u0000b", "F32", "[1]", "[0,4]") "}"), 4},
    {"name-control", "BAD_NAME", H("{" TENSOR("a\\u001b[31m", "F32", "[1]", "[0,4]") "}"), 4},
    {"name-newline", "BAD_NAME", H("{" TENSOR("a\\nb", "F32", "[1]", "[0,4]") "}"), 4},
    {"name-path", NULL, H("{" TENSOR("../../x", "F32", "[1]", "[0,4]") "}"), 4, .n_tensors = 1},
    {"name-65536-bytes", NULL, H("{" TENSOR("#", "F32", "[1]", "[0,4]") "}"), 4, CORPUS_REPEATED, 65536, "a", 1},
    {"name-65537-bytes", "BAD_NAME", H("{" TENSOR("#", "F32", "[1]", "[0,4]") "}"), 4, CORPUS_REPEATED, 65537, "a"},
    {"name-case-differs", NULL, H("{" ONE "," TENSOR("A", "F32", "[1]", "[4,8]") "}"), 8, .n_tensors = 2},

    /* ---- dtype */
    {"dtype-missing", "HEADER_SCHEMA", H("{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}"), 4},
    {"dtype-null", "HEADER_SCHEMA", H("{\"a\":{\"dtype\":null,\"shape\":[1],\"data_offsets\":[0,4]}}"), 4},
    {"dtype-integer", "HEADER_SCHEMA", H("{\"a\":{\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,4]}}"), 4},
    {"dtype-object", "HEADER_SCHEMA", H("{\"a\":{\"dtype\":{\"F32\":null},\"shape\":[1],\"data_offsets\":[0,4]}}"), 4},
    {"dtype-unknown", "UNKNOWN_DTYPE", H("{" TENSOR("a", "F33", "[1]", "[0,4]") "}"), 4},
    {"dtype-lower-case", "UNKNOWN_DTYPE", H("{" TENSOR("a", "f32", "[1]", "[0,4]") "}"), 4},
    {"dtype-empty", "UNKNOWN_DTYPE", H("{" TENSOR("a", "", "[1]", "[0,4]") "}"), 4},
    {"dtype-nul", "UNKNOWN_DTYPE", H("{" TENSOR("a", "F32\\u0000", "[1]", "[0,4]") "}"), 4},
    {"dtype-e4m3fn", "UNKNOWN_DTYPE", H("{" TENSOR("a", "F8_E4M3FN", "[4]", "[0,4]") "}"), 4},
    {"dtype-u4", "UNKNOWN_DTYPE", H("{" TENSOR("a", "U4", "[8]", "[0,4]") "}"), 4},
    {"dtype-c128", "UNKNOWN_DTYPE", H("{" TENSOR("a", "C128", "[1]", "[0,16]") "}"), 16},
    {"dtype-all-22", NULL,
     H(
         "{" TENSOR("a", "BOOL", "[1]", "[0,1]") "," TENSOR("b", "F4", "[2]", "[1,2]") "," TENSOR(
             "c", "F6_E2M3", "[4]",
             "[2,5]") "," TENSOR("d", "F6_E3M2", "[4]",
                                 "[5,8]") "," TENSOR("e", "U8", "[1]", "[8,9]") "," TENSOR("f", "I8", "[1]",
                                                                                           "[9,10]") "," TENSOR("g", "F8_E5M2", "[1]", "[10,11]") "," TENSOR("h", "F8_E4M3", "[1]", "[11,12]") "," TENSOR("i", "F8_E8M0", "[1]", "[12,13]") "," TENSOR("j", "F8_E4M3FNUZ", "[1]", "[13,14]") "," TENSOR("k", "F8_E5M2FNUZ", "[1]", "[14,15]") "," TENSOR("l",
                                                                                                                                                                                                                                                                                                                                                         "I16",
                                                                                                                                                                                                                                                                                                                                                         "[1]", "[15,17]") "," TENSOR("m",
                                                                                                                                                                                                                                                                                                                                                                                      "U16",
                                                                                                                                                                                                                                                                                                                                                                                      "[1]",
                                                                                                                                                                                                                                                                                                                                                                                      "[17,19]") "," TENSOR("n",
                                                                                                                                                                                                                                                                                                                                                                                                            "F16",
                                                                                                                                                                                                                                                                                                                                                                                                            "[1]", "[19,21]") "," TENSOR("o", "BF16", "[1]", "[21,23]") "," TENSOR("p",
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                   "I32", "[1]", "[23,27]") "," TENSOR("q",
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                       "U32", "[1]", "[27,31]") "," TENSOR("r",
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                           "F32",
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                           "[1]",
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                           "[31,35]") "," TENSOR("s",
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                 "C64",
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                 "[1]",
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                 "[35,43]") "," TENSOR("t",
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                       "F64", "[1]", "[43,51]") "," TENSOR("u",
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                           "I64", "[1]", "[51,59]") "," TENSOR("v",
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                               "U64",
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                               "[1]",
                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                               "[59,67]") "}"),
     67, .n_tensors = 22},

    /* ---- the entry itself */
    {"entry-array", "HEADER_SCHEMA", H("{\"a\":[\"F32\",[1],[0,4]]}"), 4},
    {"entry-null", "HEADER_SCHEMA", H("{\"a\":null}"), 0},
    {"entry-string", "HEADER_SCHEMA", H("{\"a\":\"F32\"}"), 0},
    {"entry-empty", "HEADER_SCHEMA", H("{\"a\":{}}"), 0},
    {"entry-extra-field", NULL,
     H("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"strides\":[1],\"note\":{\"by\":\"me\"}}}"), 4,
     .n_tensors = 1, .n_strict_warnings = 1},

    /* ---- shape */
    {"shape-missing", "HEADER_SCHEMA", H("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}"), 4},
    {"shape-null", "HEADER_SCHEMA", H("{" TENSOR("a", "F32", "null", "[0,4]") "}"), 4},
    {"shape-number", "HEADER_SCHEMA", H("{" TENSOR("a", "F32", "1", "[0,4]") "}"), 4},
    {"shape-negative", "HEADER_SCHEMA", H("{" TENSOR("a", "F32", "[-1]", "[0,4]") "}"), 4},
    {"shape-string", "HEADER_SCHEMA", H("{" TENSOR("a", "F32", "[\"1\"]", "[0,4]") "}"), 4},
    {"shape-nested", "HEADER_SCHEMA", H("{" TENSOR("a", "F32", "[[1]]", "[0,4]") "}"), 4},
    {"shape-boolean", "HEADER_SCHEMA", H("{" TENSOR("a", "F32", "[true]", "[0,4]") "}"), 4},
    {"shape-float", "HEADER_SCHEMA", H("{" TENSOR("a", "F32", "[1.0]", "[0,4]") "}"), 4},
    {"shape-exponent", "HEADER_SCHEMA", H("{" TENSOR("a", "F32", "[1e0]", "[0,4]") "}"), 4},
    {"shape-minus-zero", "HEADER_SCHEMA", H("{" TENSOR("a", "F32", "[-0]", "[0,0]") "}"), 0},
    {"shape-leading-zero", "HEADER_NOT_JSON", H("{" TENSOR("a", "F32", "[01]", "[0,4]") "}"), 4},
    {"shape-plus", "HEADER_NOT_JSON", H("{" TENSOR("a", "F32", "[+1]", "[0,4]") "}"), 4},
    {"shape-2e64", "SHAPE_OVERFLOW", H("{" TENSOR("a", "F32", "[18446744073709551616]", "[0,4]") "}"), 4},
    {"shape-product-overflows", "SHAPE_OVERFLOW", H("{" TENSOR("a", "F32", "[4294967296,4294967296]", "[0,4]") "}"), 4},
    {"shape-product-wraps-to-fit", "SHAPE_OVERFLOW",
     H("{" TENSOR("a", "U8", "[4194305,4194305,211106198978564]", "[0,4]") "}"), 4},
    {"shape-bits-overflow", "SHAPE_OVERFLOW", H("{" TENSOR("a", "F64", "[2305843009213693952]", "[0,0]") "}"), 0},
    {"shape-bits-wrap-to-fit", "SHAPE_OVERFLOW", H("{" TENSOR("a", "F32", "[576460752303423489]", "[0,4]") "}"), 4},
    {"shape-0-huge-huge", NULL, H("{" TENSOR("a", "F32", "[0,4294967296,4294967296]", "[0,0]") "}"), 0, .n_tensors = 1},
    {"shape-huge-huge-0", NULL, H("{" TENSOR("a", "F32", "[4294967296,4294967296,0]", "[0,0]") "}"), 0, .n_tensors = 1},
    {"shape-scalar", NULL, H("{" TENSOR("a", "F32", "[]", "[0,4]") "}"), 4, .n_tensors = 1},
    {"shape-2-0", NULL, H("{" TENSOR("a", "F32", "[2,0]", "[0,0]") "}"), 0, .n_tensors = 1},
    {"shape-64-dims", NULL, H("{" TENSOR("a", "F32", "[1#]", "[0,4]") "}"), 4, CORPUS_REPEATED, 63, ",1", 1},
    {"shape-65-dims", "TOO_MANY_DIMENSIONS", H("{" TENSOR("a", "F32", "[1#]", "[0,4]") "}"), 4, CORPUS_REPEATED, 64,
     ",1"},
    {"shape-1000-dims", "TOO_MANY_DIMENSIONS", H("{" TENSOR("a", "F32", "[1#]", "[0,4]") "}"), 4, CORPUS_REPEATED, 999,
     ",1"},

    /* ---- data_offsets */
    {"offsets-missing", "HEADER_SCHEMA", H("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}"), 4},
    {"offsets-empty", "HEADER_SCHEMA", H("{" TENSOR("a", "F32", "[1]", "[]") "}"), 4},
    {"offsets-one", "HEADER_SCHEMA", H("{" TENSOR("a", "F32", "[1]", "[4]") "}"), 4},
    {"offsets-three", "HEADER_SCHEMA", H("{" TENSOR("a", "F32", "[1]", "[0,4,8]") "}"), 4},
    {"offsets-negative", "HEADER_SCHEMA", H("{" TENSOR("a", "F32", "[1]", "[-4,0]") "}"), 4},
    {"offsets-float", "HEADER_SCHEMA", H("{" TENSOR("a", "F32", "[1]", "[0,4.0]") "}"), 4},
    {"offsets-object", "HEADER_SCHEMA", H("{" TENSOR("a", "F32", "[1]", "{}") "}"), 4},
    {"offsets-reversed", "BAD_OFFSET", H("{" TENSOR("a", "F32", "[1]", "[4,0]") "}"), 4},
    {"offsets-reversed-at-0", "BAD_OFFSET",
     H("{" TENSOR("z", "F32", "[0]", "[0,0]") "," TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("b", "F32", "[1]",
                                                                                                "[4,0]") "}"),
     4},
    {"offsets-gap-at-start", "BAD_OFFSET", H("{" TENSOR("a", "F32", "[1]", "[4,8]") "}"), 8},
    {"offsets-gap", "BAD_OFFSET", H("{" ONE "," TENSOR("b", "F32", "[1]", "[8,12]") "}"), 12},
    {"offsets-overlap-partly", "BAD_OFFSET", H("{" ONE "," TENSOR("b", "F32", "[1]", "[2,6]") "}"), 6},
    {"offsets-overlap-fully", "BAD_OFFSET", H("{" ONE "," TENSOR("b", "F32", "[1]", "[0,4]") "}"), 4},
    {"offsets-empty-tensor-inside", "BAD_OFFSET", H("{" ONE "," TENSOR("b", "F32", "[0]", "[2,2]") "}"), 4},
    {"offsets-empty-tensor-past-end", "BAD_OFFSET", H("{" ONE "," TENSOR("b", "F32", "[0]", "[8,8]") "}"), 4},
    {"offsets-several-empty", NULL,
     H("{" TENSOR("z", "F32", "[0]", "[0,0]") "," ONE "," TENSOR("b", "F32", "[0]", "[4,4]") "," TENSOR(
         "c", "F64", "[3,0]", "[4,4]") "," TENSOR("d", "F32", "[1]", "[4,8]") "}"),
     8, .n_tensors = 5},
    {"offsets-any-order", NULL,
     H("{" TENSOR("c", "F32", "[1]", "[8,12]") "," TENSOR("b", "F32", "[1]", "[4,8]") "," ONE "}"), 12, .n_tensors = 3},
    {"data-short", "DATA_NOT_COVERED", H("{" TENSOR("a", "F32", "[2]", "[0,8]") "}"), 7},
    {"data-left-over", "DATA_NOT_COVERED", H("{" ONE "}"), 5},
    {"data-without-tensors", "DATA_NOT_COVERED", H("{}"), 1},
    {"no-tensors", NULL, H("{}"), 0, .n_tensors = 0},
    {"only-metadata", NULL, H("{\"__metadata__\":{\"format\":\"pt\"}}"), 0, .n_tensors = 0},
    {"offsets-2e53-plus-1", "DATA_NOT_COVERED",
     H("{" TENSOR("a", "U8", "[9007199254740993]", "[0,9007199254740993]") "}"), 16},
    {"offsets-2e53-plus-1-exact", "SIZE_MISMATCH",
     H("{" TENSOR("a", "U8", "[9007199254740993]", "[0,9007199254740992]") "}"), 16},
    {"offsets-2e64", "BAD_OFFSET", H("{" TENSOR("a", "U8", "[1]", "[0,18446744073709551616]") "}"), 1},
    {"offsets-2e64-1", "SIZE_MISMATCH", H("{" TENSOR("a", "U8", "[1]", "[0,18446744073709551615]") "}"), 1},
    {"sizes-sum-to-2e64", "DATA_NOT_COVERED",
     H("{" TENSOR("a", "U8", "[" B2E61 "]", "[0," B2E61 "]") "," TENSOR(
         "b", "U8", "[" B2E61 "]",
         "[" B2E61
         ",4611686018427387902]") "," TENSOR("c", "U8", "[" B2E61 "]",
                                             "[4611686018427387902,6917529027641081853]") "," TENSOR("d", "U8",
                                                                                                     "[" B2E61 "]", "[6917529027641081853,9223372036854775804]") "," TENSOR("e",
                                                                                                                                                                            "U8",
                                                                                                                                                                            "[" B2E61 "]", "[9223372036854775804,11529215046068469755]") "," TENSOR("f",
                                                                                                                                                                                                                                                    "U8", "[" B2E61 "]", "[11529215046068469755,13835058055282163706]") "," TENSOR("g",
                                                                                                                                                                                                                                                                                                                                   "U8",
                                                                                                                                                                                                                                                                                                                                   "[" B2E61 "]", "[13835058055282163706,16140901064495857657]") "," TENSOR("h",
                                                                                                                                                                                                                                                                                                                                                                                                            "U8",
                                                                                                                                                                                                                                                                                                                                                                                                            "[" B2E61
                                                                                                                                                                                                                                                                                                                                                                                                            "]",
                                                                                                                                                                                                                                                                                                                                                                                                            "[16140901064495857657,18446744073709551608]") "}"),
     8},
    {"size-too-small", "SIZE_MISMATCH", H("{" TENSOR("a", "F32", "[2]", "[0,4]") "}"), 4},
    {"size-too-large", "SIZE_MISMATCH", H("{" TENSOR("a", "F32", "[1]", "[0,8]") "}"), 8},
    {"size-of-empty", "SIZE_MISMATCH", H("{" TENSOR("a", "F32", "[0,2]", "[0,8]") "}"), 8},
    {"f4-3", "SUBBYTE_MISALIGNED", H("{" TENSOR("a", "F4", "[3]", "[0,2]") "}"), 2},
    {"f4-scalar", "SUBBYTE_MISALIGNED", H("{" TENSOR("a", "F4", "[]", "[0,1]") "}"), 1},
    {"f6-1", "SUBBYTE_MISALIGNED", H("{" TENSOR("a", "F6_E2M3", "[1]", "[0,1]") "}"), 1},
    {"f4-1-2", NULL, H("{" TENSOR("a", "F4", "[1,2]", "[0,1]") "}"), 1, .n_tensors = 1},
    {"f6-4", NULL, H("{" TENSOR("a", "F6_E3M2", "[4]", "[0,3]") "}"), 3, .n_tensors = 1},
    {"unaligned-start", NULL, H("{" TENSOR("a", "U8", "[1]", "[0,1]") "," TENSOR("b", "F32", "[1]", "[1,5]") "}"), 5,
     .n_tensors = 2},
};
#pragma GCC diagnostic pop

#define CORPUS_N_HEADERS (sizeof corpus_headers / sizeof *corpus_headers)

#endif
