/* test_buf.c - room buf: bytes that grow, and fail quietly
 *
 *     cc -std=c99 -g -fsanitize=address,undefined -o test_buf \
 *        tests/unit/test_buf.c -l:libbearssl.a -lcurl -lcmocka
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"

#include "unit.h"


/* ---- borrowed bytes ---------------------------------------------------- */

static void
test_of_and_same(void **state)
{
    static const char text[] = "some text";
    char copy[] = "some text";
    kaws_bytes a = kaws__buf_of(text), b = kaws__buf_of(copy);

    (void)state;
    assert_ptr_equal(a.at, text);
    assert_int_equal(a.len, 9);
    assert_true(kaws__buf_same(a, b));
    copy[8] = 'T';
    assert_false(kaws__buf_same(a, b));
    b.len = a.len = 8;
    assert_true(kaws__buf_same(a, b));
    b.len = 7;
    assert_false(kaws__buf_same(a, b));
    assert_false(kaws__buf_same(b, a));
    assert_true(kaws__buf_same(unit_bytes("a\0b", 3), unit_bytes("a\0b", 3)));
    assert_false(kaws__buf_same(unit_bytes("a\0b", 3), unit_bytes("a\0c", 3)));
    assert_int_equal(kaws__buf_of("").len, 0);
}


/* Of no bytes, the address does not matter. */
static void
test_same_empty(void **state)
{
    (void)state;
    assert_true(kaws__buf_same(unit_bytes(NULL, 0), unit_bytes(NULL, 0)));
    assert_true(kaws__buf_same(unit_bytes(NULL, 0), unit_bytes("x", 0)));
    assert_true(kaws__buf_same(unit_bytes("x", 0), unit_bytes(NULL, 0)));
    assert_false(kaws__buf_same(unit_bytes(NULL, 0), unit_bytes("x", 1)));
    assert_false(kaws__buf_same(unit_bytes("x", 1), unit_bytes(NULL, 0)));
}


static void
test_copy_text(void **state)
{
    size_t cap, len;

    (void)state;
    for (cap = 1; cap < 8; cap++)
        for (len = 0; len < 10; len++) {
            char *out = (char *)unit_exact(NULL, cap);
            uint8_t *text = unit_exact("abcdefghij", len);
            memset(out, '?', cap);
            if (kaws__buf_copy_text(out, cap, unit_bytes(text, len))) {
                assert_in_range(len, 0, cap - 1);
                unit_same("copied", out, strlen(out), "abcdefghij", len);
            } else {
                assert_in_range(len, cap, 10);
                assert_int_equal(out[0], '?');
            }
            free(out);
            free(text);
        }
}


static void
test_copy_text_odd(void **state)
{
    char out[8] = "before";

    (void)state;
    assert_false(kaws__buf_copy_text(out, 0, unit_bytes(NULL, 0)));
    assert_false(kaws__buf_copy_text(out, 8, unit_bytes("\0bc", 3)));
    assert_false(kaws__buf_copy_text(out, 8, unit_bytes("ab\0", 3)));
    unit_same_text("untouched", out, "before");
    assert_true(kaws__buf_copy_text(out, 1, unit_bytes(NULL, 0)));
    unit_same_text("emptied", out, "");
}


/* ---- a buffer that grows ----------------------------------------------- */

static void
test_append(void **state)
{
    unit_ledger ledger;
    kaws__buf buf;
    kaws_bytes view;

    (void)state;
    kaws__buf_init(&buf, unit_ledger_open(&ledger));
    assert_int_equal(ledger.given, 0);
    view = kaws__buf_view(&buf);
    assert_int_equal(view.len, 0);
    kaws__buf_text(&buf, "");
    kaws__buf_put(&buf, NULL, 0);
    assert_int_equal(buf.len, 0);
    kaws__buf_text(&buf, "one");
    kaws__buf_byte(&buf, 0);
    kaws__buf_byte(&buf, 0x1ff);          /* its lowest eight bits           */
    kaws__buf_put(&buf, "\0two", 4);
    memcpy(kaws__buf_grow(&buf, 2), "yz", 2);
    view = kaws__buf_view(&buf);
    unit_same("appended", view.at, view.len, "one\0\xff\0twoyz", 11);
    assert_false(buf.failed);
    kaws__buf_free(&buf);
    assert_null(buf.at);
    assert_int_equal(buf.len + buf.max, 0);
    assert_int_equal(ledger.live, 0);
    kaws__buf_free(&buf);
    kaws__buf_text(&buf, "again");
    unit_same("appended after free", buf.at, buf.len, "again", 5);
    kaws__buf_free(&buf);
}


/* Room for nothing is no failure. */
static void
test_grow_nothing(void **state)
{
    unit_ledger ledger;
    kaws__buf buf;

    (void)state;
    kaws__buf_init(&buf, unit_ledger_open(&ledger));
    assert_non_null(kaws__buf_grow(&buf, 0));
    assert_false(buf.failed);
    assert_int_equal(buf.len, 0);
    kaws__buf_free(&buf);
    assert_int_equal(ledger.live, 0);
}


/* A byte at a time and in lumps: the same bytes, and few allocations. The
 * ledger sees that each old block was wiped. */
static void
test_growth(void **state)
{
    unit_ledger ledger;
    uint8_t *want = malloc(100000);
    size_t lump, len, n;
    kaws__buf buf;

    (void)state;
    assert_non_null(want);
    unit_start();
    unit_fill(want, 100000);
    for (lump = 1; lump < 40000; lump = lump * 5 + 1) {
        kaws__buf_init(&buf, unit_ledger_open(&ledger));
        for (len = 0; len < 100000; len += n) {
            n = lump < 100000 - len ? lump : 100000 - len;
            kaws__buf_put(&buf, want + len, n);
            assert_int_equal(buf.len, len + n);
            assert_in_range(buf.max, buf.len, 2 * buf.len + 1024);
            assert_int_equal(ledger.live, 1);
        }
        unit_same("grown", buf.at, buf.len, want, 100000);
        assert_in_range(ledger.given, 1, 12);
        kaws__buf_free(&buf);
        assert_int_equal(ledger.live, 0);
    }
    free(want);
}


/* ---- failing ----------------------------------------------------------- */

/* Whichever allocation fails: what is there stays, no more is taken, later
 * memory or not, and freeing does not make it good. */
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
            kaws__buf_byte(&buf, (int)i);
        assert_true(buf.failed);
        assert_int_equal(ledger.given, n);
        kept = n == 1 ? 0 : (size_t)512 << (n - 1);
        assert_int_equal(buf.len, kept);
        for (i = 0; i < kept; i++)
            assert_int_equal(buf.at[i], (uint8_t)i);
        assert_null(kaws__buf_grow(&buf, 1));
        kaws__buf_text(&buf, "more");
        kaws__buf_put(&buf, "more", 4);
        assert_int_equal(buf.len, kept);
        kaws__buf_free(&buf);
        assert_int_equal(ledger.live, 0);
        kaws__buf_text(&buf, "more");
        assert_true(buf.failed);
        assert_int_equal(buf.len, 0);
        assert_int_equal(ledger.given, n);
    }
}


/* More than can be is not asked for at all. */
static void
test_overflow(void **state)
{
    unit_ledger ledger;
    kaws__buf buf;

    (void)state;
    kaws__buf_init(&buf, unit_ledger_open(&ledger));
    kaws__buf_text(&buf, "abc");
    assert_null(kaws__buf_grow(&buf, SIZE_MAX - 2));
    assert_true(buf.failed);
    assert_int_equal(ledger.given, 1);
    assert_int_equal(buf.len, 3);
    kaws__buf_free(&buf);

    kaws__buf_init(&buf, unit_ledger_open(&ledger));
    kaws__buf_text(&buf, "abc");
    ledger.fail_from = 2;
    assert_null(kaws__buf_grow(&buf, SIZE_MAX - 3));
    assert_true(buf.failed);
    assert_int_equal(ledger.given, 2);
    kaws__buf_free(&buf);
    assert_int_equal(ledger.live, 0);
}


/* ---- against a plain model --------------------------------------------- */

static void
test_random(void **state)
{
    static uint8_t model[70000], chunk[700];
    size_t round, i;

    (void)state;
    unit_start();
    for (round = 0; round < 50; round++) {
        unit_ledger ledger;
        size_t len = 0;
        kaws__buf buf;
        kaws__buf_init(&buf, unit_ledger_open(&ledger));
        for (i = 0; i < 100; i++) {
            size_t n = unit_random(sizeof chunk);
            unit_fill(chunk, n);
            if (unit_random(3) == 0) {
                n = 1;
                kaws__buf_byte(&buf, chunk[0]);
            } else {
                kaws__buf_put(&buf, chunk, n);
            }
            memcpy(model + len, chunk, n);
            len += n;
            assert_int_equal(buf.len, len);
        }
        unit_same("appended", buf.at, buf.len, model, len);
        kaws__buf_free(&buf);
        assert_int_equal(ledger.live, 0);
    }
}


/* ---- sinks ------------------------------------------------------------- */

static void
count_put(void *to, const void *data, size_t len)
{
    size_t *calls = to;

    assert_non_null(data);
    assert_int_not_equal(len, 0);
    ++*calls;
}


/* Nothing is not put. */
static void
test_sink(void **state)
{
    size_t calls = 0;
    kaws__sink sink = { count_put, NULL };

    (void)state;
    sink.to = &calls;
    kaws__buf_sink(&sink, NULL, 0);
    kaws__buf_sink(&sink, "", 0);
    assert_int_equal(calls, 0);
    kaws__buf_sink(&sink, "ab", 2);
    assert_int_equal(calls, 1);
}


int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_of_and_same),
        cmocka_unit_test(test_same_empty),
        cmocka_unit_test(test_copy_text),
        cmocka_unit_test(test_copy_text_odd),
        cmocka_unit_test(test_append),
        cmocka_unit_test(test_grow_nothing),
        cmocka_unit_test(test_growth),
        cmocka_unit_test(test_failed_stays_failed),
        cmocka_unit_test(test_overflow),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_sink)
    };

    return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
