/* test_buf.c - room buf: bytes that grow, fill an array or feed a consumer
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"

#include "unit.h"


/* ---- borrowed bytes ---------------------------------------------------- */

/* If there are no bytes, the address does not matter. */
static void
test_equal_bytes_are_the_same(void **state)
{
    static const struct { const char *a; size_t a_len; const char *b;
                          size_t b_len; int same; } rows[] = {
        { "text", 4, "text", 4, 1 },   { "text", 4, "texT", 4, 0 },
        { "text", 4, "text", 3, 0 },   { "text", 3, "texT", 3, 1 },
        { "a\0b", 3, "a\0b", 3, 1 },   { "a\0b", 3, "a\0c", 3, 0 },
        { NULL, 0, NULL, 0, 1 },       { NULL, 0, "x", 0, 1 },
        { NULL, 0, "x", 1, 0 }
    };
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(rows); i++) {
        kaws_bytes a = unit_bytes(rows[i].a, rows[i].a_len);
        kaws_bytes b = unit_bytes(rows[i].b, rows[i].b_len);
        if (kaws__buf_same(a, b) != rows[i].same ||
            kaws__buf_same(b, a) != rows[i].same)
            fail_msg("row %lu", (unsigned long)i);
    }
    assert_int_equal(kaws__buf_of("").len, 0);
    assert_ptr_equal(kaws__buf_of(rows[0].a).at, rows[0].a);
    assert_int_equal(kaws__buf_of(rows[0].a).len, 4);
}


/* A text that does not fit, or contains a NUL, leaves the array unchanged. */
static void
test_copy_text_fits_or_changes_nothing(void **state)
{
    char odd[8] = "before";
    size_t cap, len;

    (void)state;
    for (cap = 0; cap < 8; cap++)
        for (len = 0; len < 10; len++) {
            char *out = (char *)unit_exact(NULL, cap);
            uint8_t *text = unit_exact("abcdefghij", len);
            memset(out, '?', cap > 0 ? cap : 1);
            assert_int_equal(kaws__buf_copy_text(out, cap,
                                                 unit_bytes(text, len)),
                             len < cap);
            if (len < cap)
                unit_same("copied", out, strlen(out), "abcdefghij", len);
            else
                assert_int_equal(out[0], '?');
            free(out);
            free(text);
        }
    assert_false(kaws__buf_copy_text(odd, 8, unit_bytes("\0bc", 3)));
    assert_false(kaws__buf_copy_text(odd, 8, unit_bytes("ab\0", 3)));
    unit_same_text("untouched", odd, "before");
    assert_true(kaws__buf_copy_text(odd, 1, unit_bytes(NULL, 0)));
    unit_same_text("emptied", odd, "");
}


/* ---- a buffer that grows ----------------------------------------------- */

static void
test_append_keeps_all_bytes(void **state)
{
    unit_ledger ledger;
    kaws__buf buf;

    (void)state;
    kaws__buf_init(&buf, unit_ledger_open(&ledger));
    kaws__buf_text(&buf, "", "");
    kaws__buf_put(&buf, NULL, 0);
    assert_int_equal(ledger.given + kaws__buf_view(&buf).len, 0);
    assert_non_null(kaws__buf_grow(&buf, 0));   /* nothing is no failure      */
    assert_int_equal(buf.len, 0);
    kaws__buf_text(&buf, "one", "", "two");
    kaws__buf_put(&buf, "\0three", 6);
    memcpy(kaws__buf_grow(&buf, 2), "yz", 2);
    unit_same("appended", kaws__buf_view(&buf).at, kaws__buf_view(&buf).len,
              "onetwo\0threeyz", 14);
    assert_false(buf.failed);
    kaws__buf_free(&buf);
    assert_null(buf.at);
    assert_int_equal(buf.len + buf.max + ledger.live, 0);
    kaws__buf_free(&buf);
    kaws__buf_text(&buf, "again");
    unit_same("appended after free", buf.at, buf.len, "again", 5);
    kaws__buf_free(&buf);
}


/* In lumps of one size and of random ones: the same bytes, and few allocations.
 * The ledger sees that each old block was wiped. */
static void
test_growth_wipes_old_blocks(void **state)
{
    unit_ledger ledger;
    uint8_t *want = unit_exact(NULL, 100000);
    size_t lump, len, n;
    kaws__buf buf;

    (void)state;
    unit_start();
    unit_fill(want, 100000);
    for (lump = 0; lump < 40000; lump = lump * 5 + 1) {
        kaws__buf_init(&buf, unit_ledger_open(&ledger));
        for (len = 0; len < 100000; len += n) {
            n = lump > 0 ? lump : unit_random(700);
            n = n < 100000 - len ? n : 100000 - len;
            kaws__buf_put(&buf, want + len, n);
            assert_int_equal(buf.len, len + n);
            assert_in_range(buf.max, buf.len, 2 * buf.len + 1024);
            assert_int_equal(ledger.live, buf.len > 0);
        }
        unit_same("grown", buf.at, buf.len, want, 100000);
        assert_in_range(ledger.given, 1, 12);
        kaws__buf_free(&buf);
        assert_int_equal(ledger.live, 0);
    }
    free(want);
}


/* Whichever allocation fails, the buffer keeps its bytes and takes no more,
 * even if there is memory later. Freeing it does not clear the failure. */
static void
test_failed_stays_failed(void **state)
{
    unit_ledger ledger;
    kaws__buf buf;
    size_t n, i, kept;

    (void)state;
    for (n = 1; n <= 4; n++) {
        kaws__buf_init(&buf, unit_ledger_open(&ledger));
        ledger.fail_at = n;
        for (i = 0; i < 12000; i++)
            kaws__buf_put(&buf, &(uint8_t){ (uint8_t)i }, 1);
        assert_true(buf.failed);
        assert_int_equal(ledger.given, n);
        kept = n == 1 ? 0 : (size_t)512 << (n - 1);
        assert_int_equal(buf.len, kept);
        for (i = 0; i < kept; i++)
            assert_int_equal(buf.at[i], (uint8_t)i);
        assert_null(kaws__buf_grow(&buf, 1));
        kaws__buf_text(&buf, "more");
        assert_int_equal(buf.len, kept);
        kaws__buf_free(&buf);
        assert_int_equal(ledger.live, 0);
        kaws__buf_text(&buf, "more");
        assert_true(buf.failed);
        assert_int_equal(buf.len, 0);
        assert_int_equal(ledger.given, n);
    }
}


/* A size that cannot exist is not asked for; the largest one that can is. */
static void
test_too_much_is_not_asked_for(void **state)
{
    unit_ledger ledger;
    kaws__buf buf;
    size_t i;

    (void)state;
    for (i = 0; i < 2; i++) {
        kaws__buf_init(&buf, unit_ledger_open(&ledger));
        ledger.fail_from = 2;
        kaws__buf_text(&buf, "abc");
        assert_null(kaws__buf_grow(&buf, SIZE_MAX - 2 - i));
        assert_true(buf.failed);
        assert_int_equal(ledger.given, 1 + i);
        assert_int_equal(buf.len, 3);
        kaws__buf_free(&buf);
        assert_int_equal(ledger.live, 0);
    }
}


/* ---- an array, and a consumer ------------------------------------------ */

/* An array takes each piece that fits as a whole, and nothing after a piece
 * that did not fit. */
static void
test_an_array_takes_what_fits(void **state)
{
    size_t cap;

    (void)state;
    for (cap = 1; cap < 9; cap++) {
        char *array = (char *)unit_exact(NULL, cap);
        kaws__buf buf = kaws__buf_fixed(array, cap);
        kaws__buf_text(&buf, "abc", "defg");
        assert_int_equal(buf.failed, cap < 7);
        unit_same("what fits", array, buf.len, "abcdefg",
                  cap < 3 ? 0 : cap < 7 ? 3 : 7);
        kaws__buf_put(&buf, "h", 1);
        assert_int_equal(buf.len, cap < 3 ? 0 : cap < 7 ? 3 : cap);
        assert_int_equal(buf.max, cap);
        free(array);
    }
}


static void
count(void *consumer, const void *data, size_t len)
{
    size_t *counted = consumer;

    assert_non_null(data);
    assert_int_not_equal(len, 0);
    *counted += 100 + len;
}


/* A consumer gets each piece as it is written, and never an empty one. */
static void
test_a_consumer_gets_each_piece(void **state)
{
    size_t counted = 0;
    kaws__buf buf = { .feed = count, .consumer = &counted };

    (void)state;
    kaws__buf_put(&buf, NULL, 0);
    kaws__buf_text(&buf, "ab", "", "c");
    assert_int_equal(counted, 203);
    assert_int_equal(buf.failed, 0);
}


int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_bytes_are_the_same),
        cmocka_unit_test(test_copy_text_fits_or_changes_nothing),
        cmocka_unit_test(test_append_keeps_all_bytes),
        cmocka_unit_test(test_growth_wipes_old_blocks),
        cmocka_unit_test(test_failed_stays_failed),
        cmocka_unit_test(test_too_much_is_not_asked_for),
        cmocka_unit_test(test_an_array_takes_what_fits),
        cmocka_unit_test(test_a_consumer_gets_each_piece)
    };

    return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
