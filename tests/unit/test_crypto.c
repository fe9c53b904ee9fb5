/* test_crypto.c - room crypto: SHA-256, HMAC, comparing
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"

#include "unit.h"


static void
same_digest(const char *what, const uint8_t got[32], const char *want)
{
    char hex[65];

    kaws__text_hex(hex, got, 32);
    unit_same(what, hex, strlen(want), want, strlen(want));
}


/* ---- SHA-256 ----------------------------------------------------------- */

/* A running state is asked after every byte, and copied, and the copy goes to
 * the end at once: neither disturbs it. */
static void
sha256_running(const uint8_t *data, size_t len, const char *want)
{
    kaws__sha256 hash, copy;
    uint8_t out[32], whole[32];
    size_t i;

    kaws__crypto_init(&hash);
    for (i = 0; i <= len; i++) {
        uint8_t *rest = unit_exact(data + i, len - i);
        kaws__crypto_out(&hash, out);
        kaws__crypto_sha256(whole, unit_bytes(data, i));
        unit_same("asked on the way", out, 32, whole, 32);
        copy = hash;
        kaws__crypto_update(&copy, rest, len - i);
        kaws__crypto_out(&copy, out);
        same_digest("the copy, to the end", out, want);
        kaws__crypto_update(&hash, rest, i < len);
        free(rest);
    }
    kaws__crypto_out(&hash, out);
    same_digest("byte by byte", out, want);
}


static void
test_sha256_vectors(void **state)
{
    unit_file f;
    size_t count = 0, len;

    (void)state;
    unit_open(&f, __FILE__, "sha256.txt");
    while (unit_next(&f)) {
        uint8_t *data = unit_unhex(unit_must(&f, "message"), &len);
        const char *want = unit_must(&f, "digest");
        sha256_running(data, len, want);
        free(data);
        count++;
    }
    unit_close(&f);
    assert_in_range(count, 9, 1000);
}


/* NIST's million times "a", in parts of growing size; and nothing at all. */
static void
test_sha256_million(void **state)
{
    static const uint8_t part[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                                  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    kaws__sha256 hash;
    size_t left = 1000000, n = 0;
    uint8_t out[32];

    (void)state;
    kaws__crypto_init(&hash);
    for (; left > 0; left -= n) {
        n = (n + 1) % sizeof part;
        n = n < left ? n : left;
        kaws__crypto_update(&hash, part, n);
    }
    kaws__crypto_out(&hash, out);
    same_digest("a million", out, "cdc76e5c9914fb9281a1c7e284d73e67"
                                  "f1809a48a497200e046d39ccc7112cd0");
    kaws__crypto_sha256(out, unit_bytes(NULL, 0));
    same_digest("of nothing", out, "e3b0c44298fc1c149afbf4c8996fb924"
                                   "27ae41e4649b934ca495991b7852b855");
}


/* ---- HMAC -------------------------------------------------------------- */

static void
test_hmac_vectors(void **state)
{
    unit_file f;
    size_t count = 0, key_len, len;
    uint8_t digest[32], again[32];

    (void)state;
    unit_open(&f, __FILE__, "hmac.txt");
    while (unit_next(&f)) {
        uint8_t *key = unit_unhex(unit_must(&f, "key"), &key_len);
        uint8_t *data = unit_unhex(unit_must(&f, "data"), &len);
        uint8_t *out = unit_exact(NULL, 32);
        kaws__crypto_hmac(out, unit_bytes(key, key_len),
                          unit_bytes(data, len));
        same_digest("HMAC", out, unit_must(&f, "hmac"));
        memcpy(digest, out, 32);
        kaws__crypto_hmac(digest, unit_bytes(digest, 32),
                          unit_bytes(data, len));
        kaws__crypto_hmac(again, unit_bytes(out, 32), unit_bytes(data, len));
        unit_same("HMAC in the place of its key", digest, 32, again, 32);
        free(key);
        free(data);
        free(out);
        count++;
    }
    unit_close(&f);
    assert_int_equal(count, 7);
}


/* ---- comparing --------------------------------------------------------- */

static void
test_equal(void **state)
{
    uint8_t *a = unit_exact(NULL, 32), *b = unit_exact(NULL, 32);
    size_t i;
    int bit;

    (void)state;
    unit_start();
    unit_fill(a, 32);
    memcpy(b, a, 32);
    assert_true(kaws__crypto_equal(a, b));
    assert_true(kaws__crypto_equal(a, a));
    for (i = 0; i < 32; i++)
        for (bit = 0; bit < 8; bit++) {
            b[i] ^= (uint8_t)(1 << bit);
            assert_false(kaws__crypto_equal(a, b));
            assert_false(kaws__crypto_equal(b, a));
            b[i] ^= (uint8_t)(1 << bit);
        }
    b[0] ^= 0x55;                         /* differences that cancel out     */
    b[31] ^= 0x55;
    assert_false(kaws__crypto_equal(a, b));
    free(a);
    free(b);
}


int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256_vectors),
        cmocka_unit_test(test_sha256_million),
        cmocka_unit_test(test_hmac_vectors),
        cmocka_unit_test(test_equal)
    };

    return cmocka_run_group_tests_name("crypto", tests, NULL, NULL);
}
