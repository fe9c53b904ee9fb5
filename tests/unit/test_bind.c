/* Room bind: names, and the encryption context that they make. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "keys.h"

#define FILE_HEX "00112233445566778899aabbccddeeff"


/* NULL and "" are the same owner. A name that is too long or empty is
 * refused. */
static void
test_which_names_are_refused(void **state)
{
    static char longest[256], longer[257];
    static const struct { const char *key_id, *user_id, *wrong; } rows[] = {
        { "k", NULL, NULL }, { "k", "", NULL }, { longest, longest, NULL },
        { NULL, NULL, "the key id is empty" }, { "", "u", "key id is empty" },
        { longer, "u", "the key id is longer than 255 bytes" },
        { "k", longer, "the user id is longer than 255 bytes" }
    };
    kaws__record r;
    kaws_error err;
    size_t i;

    (void)state;
    memset(longest, 'n', 255);
    memset(longer, 'n', 256);
    for (i = 0; i < COUNT(rows); i++) {
        kaws_name name = { rows[i].key_id, rows[i].user_id };
        memset(&r, 0x77, sizeof r);
        kaws__err_clear(&err);
        expect_at(__LINE__, &err, kaws__bind_name(name, &r, &err),
                  rows[i].wrong == NULL ? KAWS_OK : KAWS_ARGUMENT,
                  rows[i].wrong);
        if (rows[i].wrong != NULL)
            continue;
        assert_ptr_equal(r.key_id.at, rows[i].key_id);
        assert_int_equal(r.key_id.len, strlen(rows[i].key_id));
        assert_int_equal(r.user_id.len, i == 2 ? 255 : 0);
        assert_int_equal(r.type.len + r.blob.len + r.plain_len, 0);
    }
}


/* What KMS is told: these pairs, in this order, percent-encoded but for
 * printable ASCII; no user_id if there is no owner. */
static void
test_what_kms_is_told(void **state)
{
    static const struct { const char *key, *user, *key_told, *user_told; }
    rows[] = {
        { "plain name~", "", "plain name~", NULL },
        { "a", "b", "a", "b" },
        { "100%", "%25", "100%25", "%2525" },
        { "100%25", "%", "100%2525", "%25" },
        { "q\"\\", "\n\x7f", "q\"\\", "%0A%7F" },
        { "\xc3\xa4\xff\x01", "\xed\xa0\x80", "%C3%A4%FF%01", "%ED%A0%80" }
    };
    static const char *const names[] = { "app", "file", "key_id", "key_type",
                                         "user_id" };
    kaws__record r;
    kaws__bound b;
    size_t i, k;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        const char *values[5] = { "keyring_aws", FILE_HEX, rows[i].key_told,
                                  "AES", rows[i].user_told };
        kaws_name name = { rows[i].key, rows[i].user };
        assert_int_equal(kaws__bind_name(name, &r, NULL), KAWS_OK);
        r.type = kaws__buf_of("AES");
        memset(&b, 0x77, sizeof b);
        kaws__bind_key(FILE_HEX, &r, &b);
        assert_int_equal(b.context.count, values[4] != NULL ? 5 : 4);
        for (k = 0; k < b.context.count; k++) {
            assert_string_equal(b.context.pairs[k].name, names[k]);
            assert_string_equal(b.context.pairs[k].value, values[k]);
        }
    }
}


/* The longest names and type; each of their bytes takes three. */
static void
test_the_longest_context_fits(void **state)
{
    char key_id[256], user_id[256];
    kaws_name name = { key_id, user_id };
    kaws__record r;
    kaws__bound b;
    size_t i;

    (void)state;
    for (i = 0; i < 255; i++) {
        key_id[i] = (char)(255 - i);
        user_id[i] = (char)0xff;
    }
    key_id[255] = user_id[255] = '\0';
    assert_int_equal(kaws__bind_name(name, &r, NULL), KAWS_OK);
    r.type = kaws__buf_of("ABCDEFGHIJKLMNO");
    kaws__bind_key(FILE_HEX, &r, &b);
    assert_int_equal(strlen(b.key_id), 255 + 2 * (128 + 31 + 1 + 1));
    assert_int_equal(strlen(b.user_id), 3 * 255);
    assert_string_equal(b.type, "ABCDEFGHIJKLMNO");
}


/* A context is a map, so a name that is given twice is refused. Names that only
 * look alike differ. */
static void
test_a_name_given_twice_is_refused(void **state)
{
    static const struct { const char *names[3], *twice; } rows[] = {
        { { "a", "b", "a" }, "'a'" }, { { "a", "a", "b" }, "'a'" },
        { { "b", "a", "a" }, "'a'" }, { { "a", "A", "aa" }, NULL },
        { { "x", "cl\xc3\xa9", "cl\xc3\xa9" }, "'cl\\xc3\\xa9'" },
        { { "e\xcc\x81", "\xc3\xa9", "e" }, NULL }
    };
    static const char *const values[] = { "v", "w" };
    kaws_pair pairs[3];
    kaws_context ctx = { pairs, 3 };
    kaws_error err;
    size_t i, k, different;

    (void)state;
    for (i = 0; i < COUNT(rows); i++)
        for (different = 0; different < 2; different++) {
            for (k = 0; k < 3; k++) {
                pairs[k].name = rows[i].names[k];
                pairs[k].value = values[k % 2 & different];
            }
            kaws__err_clear(&err);
            expect_at(__LINE__, &err, kaws__bind_context_ok(&ctx, &err),
                      rows[i].twice != NULL ? KAWS_ARGUMENT : KAWS_OK,
                      rows[i].twice);
        }
}


/* What a caller gives as a context of its own. */
static void
test_a_callers_context_is_checked(void **state)
{
    static const struct { kaws_pair pair; kaws_status status; } rows[] = {
        { { "n", "v" }, KAWS_OK },
        { { "cl\xc3\xa9", "\xe2\x82\xac" }, KAWS_OK },
        { { NULL, "v" }, KAWS_ARGUMENT }, { { "n", NULL }, KAWS_ARGUMENT },
        { { "", "v" }, KAWS_ARGUMENT }, { { "n", "" }, KAWS_ARGUMENT },
        { { "\xff", "v" }, KAWS_ARGUMENT }, { { "n", "\xc3" }, KAWS_ARGUMENT },
        { { "n", "\xed\xa0\x80" }, KAWS_ARGUMENT }
    };
    kaws_pair pairs[2] = { { "first", "is good" }, { NULL, NULL } };
    kaws_context ctx = { pairs, 2 };
    kaws_error err;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        pairs[1] = rows[i].pair;
        kaws__err_clear(&err);
        expect_at(__LINE__, &err, kaws__bind_context_ok(&ctx, &err),
                  rows[i].status, "in the encryption context");
    }
    ctx.pairs = NULL;
    assert_int_equal(kaws__bind_context_ok(&ctx, NULL), KAWS_ARGUMENT);
    ctx.count = 0;
    assert_int_equal(kaws__bind_context_ok(&ctx, NULL), KAWS_OK);
    assert_int_equal(kaws__bind_context_ok(NULL, NULL), KAWS_OK);
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_which_names_are_refused),
        cmocka_unit_test(test_what_kms_is_told),
        cmocka_unit_test(test_the_longest_context_fits),
        cmocka_unit_test(test_a_callers_context_is_checked),
        cmocka_unit_test(test_a_name_given_twice_is_refused)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
