/* test_pack.c - room pack: sealed values as bytes, and what is refused
 *
 * GOLDEN was written by hand from the manual's section 7. fuzz/fuzz_sealed.c
 * searches for bytes that the room does not read as that section says.
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"

#include "unit.h"

#define ARN "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab"
#define MATERIAL "0123456789abcdef"
#define GOLDEN "KAWSSEAL" "\1\0" "\64\0" "\20\0" "\5\0" ARN MATERIAL "b\0\xff" \
               "b\n"

enum { GOLDEN_LEN = sizeof GOLDEN - 1, FIXED = 16, ARN_LEN = sizeof ARN - 1,
       MATERIAL_LEN = sizeof MATERIAL - 1, BLOB_LEN = 5 };


static kaws_sealed
value(void)
{
    kaws_sealed v;

    memset(&v, 0, sizeof v);
    memcpy(v.blob, "b\0\xff" "b\n", BLOB_LEN);
    v.blob_len = BLOB_LEN;
    memcpy(v.kms_key_arn, ARN, sizeof ARN);
    memcpy(v.key_material_id, MATERIAL, sizeof MATERIAL);
    return v;
}


/* ---- good ones --------------------------------------------------------- */

static void
same_both_ways(const kaws_sealed *v, const void *bytes, size_t len)
{
    uint8_t out[KAWS_SEALED_PACKED_MAX];
    size_t out_len = sizeof out;
    kaws_sealed again;
    kaws_error err;
    kaws_bytes packed = { unit_exact(bytes, len), len };

    memset(&err, 'x', sizeof err);
    assert_int_equal(kaws_sealed_pack(v, out, &out_len, &err), KAWS_OK);
    assert_int_equal(err.text[0], 0);
    unit_same("packed", out, out_len, bytes, len);
    memset(&again, 'x', sizeof again);
    memset(&err, 'x', sizeof err);
    assert_int_equal(kaws_sealed_unpack(packed, &again, &err), KAWS_OK);
    assert_int_equal(err.text[0], 0);
    assert_int_equal(again.blob_len, v->blob_len);
    assert_memory_equal(again.blob, v->blob, sizeof v->blob);
    assert_memory_equal(again.kms_key_arn, v->kms_key_arn, 256);
    assert_memory_equal(again.key_material_id, v->key_material_id, 65);
    free((void *)(uintptr_t)packed.at);
}


static void
test_golden(void **state)
{
    kaws_sealed v = value();

    (void)state;
    assert_int_equal(GOLDEN_LEN, 16 + 52 + 16 + 5);
    same_both_ways(&v, GOLDEN, GOLDEN_LEN);
}


/* The shortest and the longest value; the latter fills the public maximum. */
static void
test_the_longest_value_fits_the_maximum(void **state)
{
    static uint8_t bytes[KAWS_SEALED_PACKED_MAX];
    kaws_sealed v = value();
    size_t n;

    (void)state;
    memset(v.key_material_id, 0, sizeof v.key_material_id);
    v.blob[1] = v.blob[2] = v.blob[3] = v.blob[4] = 0;
    v.blob_len = 1;
    same_both_ways(&v, "KAWSSEAL" "\1\0" "\64\0" "\0\0" "\1\0" ARN "b",
                   FIXED + ARN_LEN + 1);

    memset(v.kms_key_arn + ARN_LEN, 'k', 255 - ARN_LEN);
    memset(v.key_material_id, 'M', 64);
    for (n = 0; n < sizeof v.blob; n++)
        v.blob[n] = (uint8_t)(n * 7);
    v.blob_len = sizeof v.blob;
    memcpy(bytes, "KAWSSEAL" "\1\0" "\xff\0" "\100\0" "\0\30", FIXED);
    memcpy(bytes + FIXED, v.kms_key_arn, 255);
    memcpy(bytes + FIXED + 255, v.key_material_id, 64);
    memcpy(bytes + FIXED + 255 + 64, v.blob, sizeof v.blob);
    same_both_ways(&v, bytes, sizeof bytes);
}


/* Bytes after the ends of the texts and the blob are not packed. */
static void
test_bytes_after_the_ends_are_not_packed(void **state)
{
    kaws_sealed v = value();
    uint8_t out[GOLDEN_LEN];
    size_t len = sizeof out;

    (void)state;
    memset(v.blob + BLOB_LEN, 0x55, sizeof v.blob - BLOB_LEN);
    memset(v.kms_key_arn + ARN_LEN + 1, 0x55, 256 - ARN_LEN - 1);
    memset(v.key_material_id + MATERIAL_LEN + 1, 0x55, 65 - MATERIAL_LEN - 1);
    assert_int_equal(kaws_sealed_pack(&v, out, &len, NULL), KAWS_OK);
    unit_same("packed", out, len, GOLDEN, GOLDEN_LEN);
}


/* ---- not packed -------------------------------------------------------- */

static void
not_packed(const kaws_sealed *v, const char *words)
{
    static const uint8_t zeros[300];
    uint8_t out[300];
    size_t len = sizeof out;
    kaws_error err;

    memset(out, 'x', sizeof out);
    assert_int_equal(kaws_sealed_pack(v, out, &len, &err), KAWS_ARGUMENT);
    assert_int_equal(err.status, KAWS_ARGUMENT);
    if (strstr(err.text, words) == NULL ||
        strncmp(err.text, "cannot pack the sealed value: ", 30) != 0)
        fail_msg("not '%s': %s", words, err.text);
    assert_int_equal(len, 0);
    assert_memory_equal(out, zeros, sizeof out);
}


static void
test_a_bad_value_is_not_packed(void **state)
{
    static const char *const arns[] = {
        "", "a", "1234abcd-12ab", "alias/a",
        "arn:aws:kms:eu-west-1:111122223333:alias/a", ARN " ", ARN "\xc3\xbc",
        "arn:aws:kms:eu-west-1:11112222333:key/a",
        "arn:aws-cn:kms:eu-west-1:111122223333:key/a",
        "arn:aws:s3:eu-west-1:111122223333:key/a", ("\n" ARN)
    };
    static const char *const materials[] = { " ", "a b", "a\n", "\xff", "a:b" };
    static const size_t lens[] = { 0, 6145, 65536, 65537, SIZE_MAX };
    kaws_sealed v;
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(arns); i++) {
        v = value();
        snprintf(v.kms_key_arn, sizeof v.kms_key_arn, "%s", arns[i]);
        not_packed(&v, "name its KMS key by an ARN");
    }
    v = value();
    memset(v.kms_key_arn + ARN_LEN, 'k', 256 - ARN_LEN);
    not_packed(&v, "name its KMS key by an ARN");
    for (i = 0; i < UNIT_COUNT(materials); i++) {
        v = value();
        snprintf(v.key_material_id, sizeof v.key_material_id, "%s",
                 materials[i]);
        not_packed(&v, "key material id cannot be one");
    }
    memset(v.key_material_id, 'm', sizeof v.key_material_id);
    not_packed(&v, "key material id cannot be one");
    for (i = 0; i < UNIT_COUNT(lens); i++) {
        v = value();
        v.blob_len = lens[i];
        not_packed(&v, "does not have 1 to 6144 bytes");
    }
    not_packed(NULL, "must not be NULL");
}


/* Room for the bytes is enough, one byte less is not. */
static void
test_one_byte_less_is_too_small(void **state)
{
    kaws_sealed v = value();
    size_t room, len, i;

    (void)state;
    for (room = 0; room <= GOLDEN_LEN + 2; room++) {
        uint8_t *out = unit_exact(NULL, room);
        kaws_error err;
        memset(out, 'x', room > 0 ? room : 1);
        len = room;
        assert_int_equal(kaws_sealed_pack(&v, out, &len, &err),
                         room < GOLDEN_LEN ? KAWS_ARGUMENT : KAWS_OK);
        assert_int_equal(len, room < GOLDEN_LEN ? 0 : GOLDEN_LEN);
        assert_int_equal(strstr(err.text, "too small for it") != NULL,
                         room < GOLDEN_LEN);
        for (i = 0; i < room && room < GOLDEN_LEN; i++)
            assert_int_equal(out[i], 0);
        for (i = GOLDEN_LEN; i < room; i++)
            assert_int_equal(out[i], 'x');
        free(out);
    }
    len = 9;
    assert_int_equal(kaws_sealed_pack(&v, NULL, &len, NULL), KAWS_ARGUMENT);
    assert_int_equal(len, 0);
    assert_int_equal(kaws_sealed_pack(&v, (uint8_t[1]){ 0 }, NULL, NULL),
                     KAWS_ARGUMENT);
    assert_int_equal(kaws_sealed_pack(NULL, NULL, NULL, NULL), KAWS_ARGUMENT);
}


/* ---- not unpacked ------------------------------------------------------ */

static void
not_unpacked(const void *bytes, size_t len, const char *words)
{
    static const kaws_sealed zeros;
    uint8_t *exact = unit_exact(bytes, len);
    kaws_sealed v;
    kaws_error err;

    memset(&v, 'x', sizeof v);
    if (kaws_sealed_unpack(unit_bytes(exact, len), &v, &err) == KAWS_OK)
        fail_msg("unpacked %lu bytes: not '%s'", (unsigned long)len, words);
    assert_int_equal(err.status, KAWS_ARGUMENT);
    if (strstr(err.text, words) == NULL ||
        strncmp(err.text, "cannot unpack the sealed value: ", 32) != 0)
        fail_msg("not '%s': %s", words, err.text);
    assert_memory_equal(&v, &zeros, sizeof v);
    free(exact);
}


static void
test_cut_or_longer_bytes_are_refused(void **state)
{
    uint8_t bytes[2 * GOLDEN_LEN] = GOLDEN;
    size_t len;

    (void)state;
    for (len = 0; len < GOLDEN_LEN; len++)
        not_unpacked(bytes, len, len < FIXED ? "are not one" : "cut off");
    for (len = GOLDEN_LEN + 1; len <= sizeof bytes; len++)
        not_unpacked(bytes, len, "bytes behind its end");
    memcpy(bytes + GOLDEN_LEN, GOLDEN, GOLDEN_LEN);
    not_unpacked(bytes, sizeof bytes, "bytes behind its end");
}


/* Each row changes bytes of the golden value. */
static void
test_bad_bytes_are_not_unpacked(void **state)
{
    static const struct { size_t at; const char *is; size_t len;
                          const char *words; } rows[] = {
        { 0, "k", 1, "are not one" }, { 7, "\0", 1, "are not one" },
        { 4, "RING", 4, "are not one" },
        { 8, "\2", 1, "version 2," }, { 8, "\0", 1, "version 0," },
        { 8, "\1\1", 2, "version 257," },
        { 8, "\xff\xff", 2, "version 65535, and this keyring_aws knows version "
                            "1: use a newer one" },
        { 10, "\xff\xff\xff\xff\xff\xff", 6, "cut off" },
        { 10, "\64\1", 2, "cut off" }, { 12, "\25\0", 2, "cut off" },
        { 12, "\26\0", 2, "cut off" }, { 14, "\6", 1, "cut off" },
        { 14, "\4", 1, "bytes behind" }, { 15, "\1", 1, "cut off" },
        { 10, "\0\0\104", 3, "KMS key by an ARN" },
        { FIXED, "A", 1, "KMS key by an ARN" },
        { FIXED + 35, "\0", 1, "KMS key by an ARN" },
        { FIXED + ARN_LEN - 1, "\0", 1, "KMS key by an ARN" },
        { FIXED + ARN_LEN, "\0", 1, "material id cannot" },
        { FIXED + ARN_LEN + 15, "\n", 1, "material id cannot" }
    };
    kaws_sealed v;
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(rows); i++) {
        uint8_t bytes[GOLDEN_LEN + 1] = GOLDEN;
        memcpy(bytes + rows[i].at, rows[i].is, rows[i].len);
        not_unpacked(bytes, GOLDEN_LEN, rows[i].words);
    }
    not_unpacked(NULL, 0, "are not one");
    assert_int_equal(kaws_sealed_unpack(unit_bytes(NULL, 99), &v, NULL),
                     KAWS_ARGUMENT);
    assert_int_equal(kaws_sealed_unpack(unit_bytes(GOLDEN, GOLDEN_LEN), NULL,
                                        NULL), KAWS_ARGUMENT);
}


/* Parts have lengths that they cannot have, although the sum is right. */
static void
test_bad_lengths_of_parts_are_refused(void **state)
{
    static const struct { size_t part, len; const char *words; } rows[] = {
        { 0, 0, "KMS key by an ARN" }, { 0, 256, "KMS key by an ARN" },
        { 1, 65, "material id cannot" }, { 1, 65535, "material id cannot" },
        { 2, 0, "1 to 6144 bytes" }, { 2, 6145, "1 to 6144 bytes" }
    };
    static uint8_t bytes[FIXED + 70000];
    size_t row, i, k;

    (void)state;
    for (row = 0; row < UNIT_COUNT(rows); row++) {
        size_t lens[] = { ARN_LEN, MATERIAL_LEN, BLOB_LEN }, at = FIXED;
        lens[rows[row].part] = rows[row].len;
        memcpy(bytes, GOLDEN, FIXED);
        for (i = 0; i < 3; i++) {
            bytes[10 + 2 * i] = (uint8_t)lens[i];
            bytes[11 + 2 * i] = (uint8_t)(lens[i] >> 8);
            for (k = 0; k < lens[i]; k++)
                bytes[at + k] = i == 0 && k < ARN_LEN ? (uint8_t)ARN[k] : 'k';
            at += lens[i];
        }
        not_unpacked(bytes, at, rows[row].words);
    }
}


/* Whichever bit is flipped, the bytes are refused, or they are those of a
 * different value. */
static void
test_no_flipped_bit_is_read_as_before(void **state)
{
    uint8_t out[GOLDEN_LEN];
    size_t bit, len;

    (void)state;
    for (bit = 0; bit < 8 * GOLDEN_LEN; bit++) {
        uint8_t bytes[GOLDEN_LEN + 1] = GOLDEN;
        kaws_sealed v;
        bytes[bit / 8] = (uint8_t)(bytes[bit / 8] ^ 1 << bit % 8);
        if (kaws_sealed_unpack(unit_bytes(bytes, GOLDEN_LEN), &v, NULL) != 0) {
            assert_in_range(bit, 0, 8 * (GOLDEN_LEN - BLOB_LEN) - 1);
            continue;
        }
        assert_in_range(bit, 8 * FIXED, 8 * GOLDEN_LEN);
        len = sizeof out;
        assert_int_equal(kaws_sealed_pack(&v, out, &len, NULL), KAWS_OK);
        unit_same("packed again", out, len, bytes, GOLDEN_LEN);
    }
}


int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_the_longest_value_fits_the_maximum),
        cmocka_unit_test(test_bytes_after_the_ends_are_not_packed),
        cmocka_unit_test(test_a_bad_value_is_not_packed),
        cmocka_unit_test(test_one_byte_less_is_too_small),
        cmocka_unit_test(test_cut_or_longer_bytes_are_refused),
        cmocka_unit_test(test_bad_bytes_are_not_unpacked),
        cmocka_unit_test(test_bad_lengths_of_parts_are_refused),
        cmocka_unit_test(test_no_flipped_bit_is_read_as_before)
    };

    return cmocka_run_group_tests_name("pack", tests, NULL, NULL);
}
