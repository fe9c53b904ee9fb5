/* runner.c - all that our tests use of cmocka, in tests that should pass, fail
 * and be skipped. It is run with cmocka and with its stand-in, to compare the
 * two. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static int counter, big = -1;
static const uint8_t left[] = { 1, 2, 3, 4 }, right[] = { 1, 2, 9, 4 };

#define TESTS(X) \
    X(true_good, assert_true(counter >= 0)) \
    X(true_bad, assert_true(counter < 0)) \
    X(true_of_a_pointer, assert_true(left[0])) \
    X(false_good, assert_false(counter < 0)) \
    X(false_bad, assert_false(left[0])) \
    X(null_good, assert_null(NULL)) \
    X(null_bad, assert_null(left)) \
    X(non_null_good, assert_non_null(left)) \
    X(non_null_bad, assert_non_null(NULL)) \
    X(int_good, assert_int_equal(big, -1)) \
    X(int_bad, assert_int_equal(big, 1)) \
    X(int_wide_bad, assert_int_equal((uint64_t)1 << 32, 0)) \
    X(int_negative_is_wide, assert_int_not_equal(big, 0xffffffffu)) \
    X(int_not_good, assert_int_not_equal(big, 1)) \
    X(int_not_bad, assert_int_not_equal(big, -1)) \
    X(ptr_good, assert_ptr_equal(left, left)) \
    X(ptr_bad, assert_ptr_equal(left, right)) \
    X(range_good, assert_in_range(3, 3, 5)) \
    X(range_good_too, assert_in_range(5, 3, 5)) \
    X(range_below_bad, assert_in_range(2, 3, 5)) \
    X(range_above_bad, assert_in_range(6, 3, 5)) \
    X(string_good, assert_string_equal("one", "one")) \
    X(string_bad, assert_string_equal("one", "onf")) \
    X(string_not_good, assert_string_not_equal("one", "on")) \
    X(string_not_bad, assert_string_not_equal("one", "one")) \
    X(memory_good, assert_memory_equal(left, right, 2)) \
    X(memory_bad, assert_memory_equal(left, right, 4)) \
    X(memory_not_good, assert_memory_not_equal(left, right, 3)) \
    X(memory_not_bad, assert_memory_not_equal(left, right, 2)) \
    X(fails, fail()) \
    X(fails_with_words, fail_msg("because of %d", counter)) \
    X(skips, skip()) \
    X(says, print_message("a message of %d\n", counter))

#define X(name, body) \
    static void \
    test_##name(void **state) \
    { \
        (void)state; \
        body; \
    }
TESTS(X)
#undef X


/* ---- what happens around a test ---------------------------------------- */

static int
group_setup(void **state)
{
    *state = &counter;
    return 0;
}


static int
count_up(void **state)
{
    ++*(int *)*state;
    return 0;
}


static int
refuse(void **state)
{
    (void)state;
    return -1;
}


static void
test_once_set_up(void **state)
{
    assert_ptr_equal(*state, &counter);
    assert_int_equal(counter, 1);
}


/* The one before was torn down as well. */
static void
test_fails_and_is_torn_down(void **state)
{
    (void)state;
    assert_int_equal(counter, 3);
    fail();
}


static void
test_was_torn_down(void **state)
{
    (void)state;
    assert_int_equal(counter, 5);
}


int
main(void)
{
#define AROUND(name, setup, teardown) \
    cmocka_unit_test_setup_teardown(name, setup, teardown)
#define X(name, body) cmocka_unit_test(test_##name),
    const struct CMUnitTest tests[] = {
        TESTS(X)
        AROUND(test_once_set_up, count_up, count_up),
        AROUND(test_fails_and_is_torn_down, count_up, count_up),
        AROUND(test_was_torn_down, count_up, NULL),
        AROUND(test_true_good, refuse, NULL)      /* is not set up           */
    };

    return cmocka_run_group_tests(tests, group_setup, NULL);
}
