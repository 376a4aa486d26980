/* sniff.c: see sniff.h. */
#include "checkpoint/sniff.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

#define PICKLE_REMEDY                                                                                                  \
    "which can run code when loaded and is never opened here; convert it on a machine you trust, for example: python " \
    "-c \"import sys; from transformers import AutoModelForCausalLM as M; "                                            \
    "M.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2], safe_serialization=True)\" OLD_DIR NEW_DIR"

static const struct {
    const char *signature;
    size_t n_bytes;
    bool is_text; /* compared without case, after white space */
    struct sniffed result;
} signatures[] = {
    {"version https://git-lfs",
     23,
     true,
     {"LFS_POINTER", "this is a Git LFS pointer: the weights themselves were not downloaded; run `git lfs pull` in the "
                     "model's folder, or fetch the model with `hf download`"}},
    {"PK\x03\x04",
     4,
     false,
     {"PICKLE",
      "this is a zip archive (PyTorch's .bin and .pt files are zip archives with a pickle inside), " PICKLE_REMEDY}},
    {"\x80\x02", 2, false, {"PICKLE", "this is a Python pickle, " PICKLE_REMEDY}},
    {"\x80\x03", 2, false, {"PICKLE", "this is a Python pickle, " PICKLE_REMEDY}},
    {"\x80\x04", 2, false, {"PICKLE", "this is a Python pickle, " PICKLE_REMEDY}},
    {"\x80\x05", 2, false, {"PICKLE", "this is a Python pickle, " PICKLE_REMEDY}},
    {"GGUF",
     4,
     false,
     {"GGUF", "this is a GGUF file (llama.cpp), whose weights are packed for inference; get the model's original "
              "safetensors files"}},
    {"<!doctype html",
     14,
     true,
     {"HTML_PAGE", "this is a web page, not weights: the download met a login or error page; download the file again"}},
    {"<html",
     5,
     true,
     {"HTML_PAGE", "this is a web page, not weights: the download met a login or error page; download the file again"}},
    {"\x1F\x8B", 2, false, {"NOT_SAFETENSORS", "this is a gzip archive; unpack it first"}},
    {"\x28\xB5\x2F\xFD", 4, false, {"NOT_SAFETENSORS", "this is a zstd archive; unpack it first"}},
    {"\x89HDF\r\n", 6, false, {"NOT_SAFETENSORS", "this is an HDF5 file (Keras); get the model's safetensors files"}},
    {"{\"",
     2,
     true,
     {"NOT_SAFETENSORS", "this is JSON text without the length in front that begins a safetensors file; if it is an "
                         "index, give its folder"}},
    {"{\n",
     2,
     true,
     {"NOT_SAFETENSORS", "this is JSON text without the length in front that begins a safetensors file; if it is an "
                         "index, give its folder"}},
};

const struct sniffed *sniff(const void *head, size_t n_bytes)
{
    const char *bytes = head, *text = head;
    size_t n_text = n_bytes;

    while (n_text && memchr(" \t\r\n", *text, 4)) {
        text++;
        n_text--;
    }
    for (size_t i = 0; i < sizeof signatures / sizeof *signatures; i++) {
        size_t n = signatures[i].n_bytes;
        if (signatures[i].is_text ? n_text >= n && strncasecmp(text, signatures[i].signature, n) == 0
                                  : n_bytes >= n && memcmp(bytes, signatures[i].signature, n) == 0)
            return &signatures[i].result;
    }
    return NULL;
}
