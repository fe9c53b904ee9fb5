/* test_crypto.c - room crypto: SHA-256, HMAC, comparing, ChaCha20-Poly1305
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
test_sha256_of_a_million_bytes(void **state)
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
test_equal_compares_each_byte(void **state)
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


/* ---- ChaCha20-Poly1305 ------------------------------------------------- */

/* Opens a copy; what is not right must come back as zeros. */
static void
aead_opens(int wanted, const uint8_t *key, const uint8_t *nonce,
           kaws_bytes about, kaws_bytes cipher, const uint8_t *tag,
           const uint8_t *plain)
{
    uint8_t *data = unit_exact(cipher.at, cipher.len);
    uint8_t *zeros = calloc(1, cipher.len + 1), given[KAWS__TAG];

    assert_non_null(zeros);
    memcpy(given, tag, KAWS__TAG);
    assert_int_equal(kaws__crypto_aead(key, nonce, about, 0, data, cipher.len,
                                       given), wanted);
    unit_same("opened", data, cipher.len, wanted ? plain : zeros, cipher.len);
    assert_memory_equal(given, tag, KAWS__TAG);
    free(data);
    free(zeros);
}


/* Any bit that is changed anywhere is noticed: `what` is what it is in. */
static void
aead_flips(uint8_t *what, size_t len, const uint8_t *key, const uint8_t *nonce,
           kaws_bytes about, kaws_bytes cipher, const uint8_t *tag)
{
    size_t i;

    for (i = 0; i < 8 * len; i++) {
        what[i / 8] ^= (uint8_t)(1 << i % 8);
        aead_opens(0, key, nonce, about, cipher, tag, NULL);
        what[i / 8] ^= (uint8_t)(1 << i % 8);
    }
}


static void
test_aead_vectors(void **state)
{
    static const char *const names[] = { "key", "nonce", "about", "plain",
                                         "cipher", "tag" };
    unit_file f;
    size_t len[6], count = 0, i;
    uint8_t *v[6], tag[KAWS__TAG];
    kaws_bytes about, cipher;

    (void)state;
    unit_open(&f, __FILE__, "aead.txt");
    for (; unit_next(&f); count++) {
        for (i = 0; i < 6; i++)
            v[i] = unit_unhex(unit_must(&f, names[i]), &len[i]);
        about = unit_bytes(v[2], len[2]);
        cipher = unit_bytes(v[4], len[4]);
        assert_int_equal(len[3], len[4]);
        aead_opens(1, v[0], v[1], about, cipher, v[5], v[3]);
        for (i = 0; i < 6; i++)
            if (i != 3)
                aead_flips(v[i], len[i], v[0], v[1], about, cipher, v[5]);
        about.len--;                      /* less, and split elsewhere        */
        aead_opens(0, v[0], v[1], about, cipher, v[5], NULL);
        about.len++;
        cipher.len--;
        aead_opens(0, v[0], v[1], about, cipher, v[5], NULL);
        cipher.len++;
        assert_true(kaws__crypto_aead(v[0], v[1], about, 1, v[3], len[3], tag));
        unit_same("sealed", v[3], len[3], cipher.at, cipher.len);
        unit_same("tag", tag, sizeof tag, v[5], len[5]);
        for (i = 0; i < 6; i++)
            free(v[i]);
    }
    unit_close(&f);
    assert_int_equal(count, 2);
}


int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256_vectors),
        cmocka_unit_test(test_sha256_of_a_million_bytes),
        cmocka_unit_test(test_hmac_vectors),
        cmocka_unit_test(test_equal_compares_each_byte),
        cmocka_unit_test(test_aead_vectors)
    };

    return cmocka_run_group_tests_name("crypto", tests, NULL, NULL);
}
