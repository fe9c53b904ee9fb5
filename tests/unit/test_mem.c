/* test_mem.c - room mem: how memory is allocated, resized, wiped and given back
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"

#include "unit.h"


/* ---- wiping ------------------------------------------------------------ */

static void
test_wipe_zeroes_the_bytes(void **state)
{
    uint8_t bytes[64];
    size_t from, len, i;

    (void)state;
    for (from = 0; from < 16; from++)
        for (len = 0; len < 32; len++) {
            memset(bytes, 0xee, sizeof bytes);
            kaws_wipe(bytes + from, len);
            for (i = 0; i < sizeof bytes; i++)
                assert_int_equal(bytes[i],
                                 i < from || i >= from + len ? 0xee : 0);
        }
    kaws_wipe(NULL, 0);
    kaws_wipe(NULL, 32);
}


#if defined(__linux__)

/* In the secret each byte is the one before and STEP, so that it can be found
 * without having a copy of it. It is long, for the search itself overwrites
 * the upper part of the dead stack that it searches. */
#define STEP        151
#define SECRET_LEN  20000
#define SEARCH_LEN  28000


static void
fill(uint8_t *secret)
{
    size_t i;

    for (i = 0; i < SECRET_LEN; i++)
        secret[i] = (uint8_t)(i * STEP);
}


/* Called so that the compiler cannot see what is behind it. */
static void (*volatile fill_it)(uint8_t *) = fill;


static void
use(int wipe)
{
    uint8_t secret[SECRET_LEN];

    fill_it(secret);
    if (wipe)
        kaws_wipe(secret, sizeof secret);
}


static void (*volatile use_it)(int) = use;


/* The longest piece of a secret in the dead stack below `top`. It is read as a
 * file, for a sanitizer minds if it is read as memory. */
static size_t
longest_piece(const void *top)
{
    static uint8_t stack[SEARCH_LEN];
    off_t from = (off_t)((uintptr_t)top - sizeof stack);
    int fd = open("/proc/self/mem", O_RDONLY);
    size_t longest = 0, run = 0, i;
    ssize_t n = pread(fd, stack, sizeof stack, from);

    close(fd);
    if (n != (ssize_t)sizeof stack)
        return SIZE_MAX;
    for (i = 1; i < sizeof stack; i++) {
        run = (uint8_t)(stack[i] - stack[i - 1]) == STEP ? run + 1 : 0;
        longest = run > longest ? run : longest;
    }
    return longest;
}


/* A function's local secret is gone from the stack after it has returned. A
 * secret that was not wiped must be found there, or the search would prove
 * nothing. */
static void
test_no_compiler_drops_a_wipe(void **state)
{
    uint8_t here = 0;
    size_t left, wiped;

    (void)state;
    use_it(0);
    left = longest_piece(&here);
    use_it(1);
    wiped = longest_piece(&here);
    print_message("found if not wiped: %lu bytes; if wiped: %lu\n",
                  (unsigned long)left, (unsigned long)wiped);
    if (left == SIZE_MAX || left < 1000)
        skip();
    assert_in_range(wiped, 0, 8);
}

#endif


/* ---- blocks ------------------------------------------------------------ */

static void
test_the_builtin_allocator(void **state)
{
    uint8_t *block = kaws__mem_builtin(NULL, NULL, 0, 100);

    (void)state;
    assert_non_null(block);
    memset(block, 1, 100);
    assert_null(kaws__mem_builtin(NULL, block, 100, 0));
    assert_null(kaws__mem_builtin(NULL, NULL, 0, 0));
}


/* The new block has what fits of the old one. The ledger checks that the old
 * one was wiped. */
static void
test_a_resize_wipes_the_old_block(void **state)
{
    static const size_t lens[] = { 1, 2, 3, 16, 255, 256, 257, 5000 };
    unit_ledger ledger;
    const kaws_hooks *hooks = unit_ledger_open(&ledger);
    size_t i, k, n;

    (void)state;
    for (i = 0; i < UNIT_COUNT(lens); i++)
        for (k = 0; k < UNIT_COUNT(lens); k++) {
            uint8_t *a = kaws__mem_resize(hooks, NULL, 0, lens[i]), *b;
            assert_non_null(a);
            for (n = 0; n < lens[i]; n++)
                a[n] = (uint8_t)(n * 7 + 1);
            b = kaws__mem_resize(hooks, a, lens[i], lens[k]);
            assert_non_null(b);
            assert_int_equal(ledger.live, 1);
            for (n = 0; n < lens[i] && n < lens[k]; n++)
                assert_int_equal(b[n], (uint8_t)(n * 7 + 1));
            assert_null(kaws__mem_resize(hooks, b, lens[k], 0));
            assert_int_equal(ledger.live, 0);
        }
    assert_null(kaws__mem_resize(hooks, NULL, 0, 0));
}


/* Without memory the old block is unchanged, and still ours. */
static void
test_a_failed_resize_changes_nothing(void **state)
{
    unit_ledger ledger;
    const kaws_hooks *hooks = unit_ledger_open(&ledger);
    uint8_t *block = kaws__mem_resize(hooks, NULL, 0, 100);
    size_t n;

    (void)state;
    memset(block, 0x5a, 100);
    ledger.fail_from = 1;
    assert_null(kaws__mem_resize(hooks, block, 100, 200));
    assert_null(kaws__mem_resize(hooks, block, 100, 50));
    assert_null(kaws__mem_new(hooks, 10));
    assert_int_equal(ledger.live, 1);
    for (n = 0; n < 100; n++)
        assert_int_equal(block[n], 0x5a);
    kaws__mem_free(hooks, block, 100);
    assert_int_equal(ledger.live, 0);
}


static void
test_a_new_block_is_zeros(void **state)
{
    unit_ledger ledger;
    const kaws_hooks *hooks = unit_ledger_open(&ledger);
    uint8_t *block = kaws__mem_new(hooks, 300);
    size_t n;

    (void)state;
    for (n = 0; n < 300; n++)
        assert_int_equal(block[n], 0);
    memset(block, 0xff, 300);
    kaws__mem_free(hooks, block, 300);
    kaws__mem_free(hooks, NULL, 17);
    kaws__mem_drop(hooks, NULL, 17);
    kaws__mem_drop(hooks, kaws__mem_new(hooks, 70), 70);
    assert_int_equal(ledger.given, 2);
    assert_int_equal(ledger.live, 0);
}


int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wipe_zeroes_the_bytes),
#if defined(__linux__)
        cmocka_unit_test(test_no_compiler_drops_a_wipe),
#endif
        cmocka_unit_test(test_the_builtin_allocator),
        cmocka_unit_test(test_a_resize_wipes_the_old_block),
        cmocka_unit_test(test_a_failed_resize_changes_nothing),
        cmocka_unit_test(test_a_new_block_is_zeros)
    };

    return cmocka_run_group_tests_name("mem", tests, NULL, NULL);
}
