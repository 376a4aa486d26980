/* hash.c: see hash.h. xxHash is used header-only, so that its version is the one we were built with. */
#define XXH_INLINE_ALL
#include "base/hash.h"

#include "base/file.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

struct hash128 hash_xxh3(const void *data, size_t n_bytes)
{
    XXH128_hash_t h = XXH3_128bits(data, n_bytes);

    return (struct hash128){h.low64, h.high64};
}

uint64_t hash_xxh3_64(const void *data, size_t n_bytes, uint64_t seed)
{
    return XXH3_64bits_withSeed(data, n_bytes, seed);
}

int hash128_equal(struct hash128 a, struct hash128 b)
{
    return a.low == b.low && a.high == b.high;
}

const char *hash128_hex(char buffer[HASH128_HEX_BYTES], struct hash128 h)
{
    snprintf(buffer, HASH128_HEX_BYTES, "%016llx%016llx", (unsigned long long)h.high, (unsigned long long)h.low);
    return buffer;
}

void hash_pieces(const void *data, size_t n_bytes, size_t piece_bytes, struct hash128 *digests)
{
    const unsigned char *p = data;

    for (size_t i = 0; n_bytes; i++) {
        size_t n = n_bytes < piece_bytes ? n_bytes : piece_bytes;
        digests[i] = hash_xxh3(p, n);
        p += n;
        n_bytes -= n;
    }
}

struct hash128 hash_tree(const struct hash128 *digests, size_t n_digests)
{
    enum { batch = 256 };
    XXH128_canonical_t canonical[batch];
    XXH3_state_t state;
    XXH128_hash_t h;

    XXH3_128bits_reset(&state);
    for (size_t i = 0; i < n_digests; i += batch) {
        size_t n = n_digests - i < batch ? n_digests - i : batch;
        for (size_t k = 0; k < n; k++)
            XXH128_canonicalFromHash(&canonical[k], (XXH128_hash_t){digests[i + k].low, digests[i + k].high});
        XXH3_128bits_update(&state, canonical, n * sizeof *canonical);
    }
    h = XXH3_128bits_digest(&state);
    return (struct hash128){h.low64, h.high64};
}

static void to_hex(char *hex, const unsigned char *bytes, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
}

enum wm_status hash_sha256(char hex[HASH_SHA256_HEX_BYTES], const void *data, size_t n_bytes, struct wm_error *err)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;

    if (!EVP_Digest(data, n_bytes, digest, &n, EVP_sha256(), NULL) || n != 32)
        return error_set(err, WM_BUG, "libcrypto cannot compute SHA-256");
    to_hex(hex, digest, n);
    return WM_OK;
}

enum wm_status hash_sha256_file(char hex[HASH_SHA256_HEX_BYTES], const char *path, const volatile int *cancel,
                                struct wm_error *err)
{
    enum { piece_bytes = 1 << 20 };
    enum wm_status st = WM_OK;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    unsigned char digest[EVP_MAX_MD_SIZE];
    struct file_identity id;
    void *piece = malloc(piece_bytes);
    unsigned n_digest = 0;
    int fd = -1;

    if (!ctx || !piece) {
        st = error_no_memory(err, "hashing a file");
        goto out;
    }
    TRY(file_open_read(&fd, path, NULL, &id, err));
    if (!EVP_DigestInit_ex(ctx, EVP_sha256(), NULL)) {
        st = error_set(err, WM_BUG, "libcrypto cannot compute SHA-256");
        goto out;
    }
    for (uint64_t done = 0; done < id.n_bytes;) {
        size_t n = id.n_bytes - done < piece_bytes ? (size_t)(id.n_bytes - done) : piece_bytes;
        if (cancel && *cancel) {
            st = error_set(err, WM_CANCELLED, "stopped while hashing %s", path);
            goto out;
        }
        TRY(file_read_at(fd, path, piece, n, done, err));
        EVP_DigestUpdate(ctx, piece, n);
        done += n;
    }
    if (!EVP_DigestFinal_ex(ctx, digest, &n_digest) || n_digest != 32) {
        st = error_set(err, WM_BUG, "libcrypto cannot compute SHA-256");
        goto out;
    }
    to_hex(hex, digest, n_digest);
out:
    file_close(&fd);
    free(piece);
    EVP_MD_CTX_free(ctx);
    return st;
}
