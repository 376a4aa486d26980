/* hash.h: checksums: XXH3-128 for work on its way through, SHA-256 for identity. Wraps xxHash and libcrypto. */
#ifndef WM_BASE_HASH_H
#define WM_BASE_HASH_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct hash128 {
    uint64_t low, high;
};

#define HASH128_HEX_BYTES     33
#define HASH_SHA256_HEX_BYTES 65

struct hash128 hash_xxh3(const void *data, size_t n_bytes);
uint64_t hash_xxh3_64(const void *data, size_t n_bytes, uint64_t seed);
int hash128_equal(struct hash128 a, struct hash128 b);
/* 32 lower-case hex digits in xxHash's canonical (big-endian, high first) order, as `xxhsum -H128` prints. */
const char *hash128_hex(char buffer[HASH128_HEX_BYTES], struct hash128 h);

/* The tree hash of a tensor: XXH3-128 over the concatenated canonical digests (16 bytes, high first) of consecutive
 * pieces of `piece_bytes`. Pieces can be hashed in any order by any thread; the last one may be short. */
void hash_pieces(const void *data, size_t n_bytes, size_t piece_bytes, struct hash128 *digests);
struct hash128 hash_tree(const struct hash128 *digests, size_t n_digests);

/* SHA-256 of a whole file; stops early with WM_CANCELLED when *cancel becomes non-zero (cancel may be NULL). */
enum wm_status hash_sha256_file(char hex[HASH_SHA256_HEX_BYTES], const char *path, const volatile int *cancel,
                                struct wm_error *err);
enum wm_status hash_sha256(char hex[HASH_SHA256_HEX_BYTES], const void *data, size_t n_bytes, struct wm_error *err);

#endif
