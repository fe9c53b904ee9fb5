/* cmocka.h - stands in for cmocka where there is none (musl, Windows)
 *
 * It has the part of cmocka that our tests use, with the same names, verdicts
 * and closing lines. Tests are written for cmocka itself; with this folder on
 * the include path they are compiled with this file instead. If a test needs
 * more of cmocka, add it here, and to tests/build/runner.c, which compares the
 * two.
 *
 * A test ends by longjmp where it fails, so cmocka's own rule holds here too:
 * what the test had open then stays open. One program is one C file.
 */

#if !defined(KAWS_STANDIN_CMOCKA_H)
#define KAWS_STANDIN_CMOCKA_H

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define CMOCKA_STANDIN static __attribute__((unused))

typedef int (*CMFixtureFunction)(void **state);

struct CMUnitTest {
    const char *name;
    void      (*test_func)(void **state);
    CMFixtureFunction setup_func, teardown_func;
    void       *initial_state;
};

typedef enum {
    CMOCKA_PASSED, CMOCKA_FAILED, CMOCKA_SKIPPED, CMOCKA_ERROR
} cmocka_result;

static jmp_buf cmocka_way_out;        /* of the test that runs                */
static cmocka_result cmocka_outcome;


/* ---- words ------------------------------------------------------------- */

__attribute__((format(printf, 1, 2)))
CMOCKA_STANDIN void
print_message(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vprintf(format, args);
    va_end(args);
    (void)fflush(stdout);
}


__attribute__((format(printf, 1, 2)))
CMOCKA_STANDIN void
print_error(const char *format, ...)
{
    va_list args;

    (void)fflush(stdout);
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fflush(stderr);
}


/* ---- the end of a test ------------------------------------------------- */

__attribute__((noreturn))
CMOCKA_STANDIN void
cmocka_leave(cmocka_result outcome, const char *file, int line)
{
    if (outcome == CMOCKA_FAILED)
        print_error("%s:%d: error: Failure!\n\n", file, line);
    cmocka_outcome = outcome;
    longjmp(cmocka_way_out, 1);
}


#define fail() cmocka_leave(CMOCKA_FAILED, __FILE__, __LINE__)
#define skip() cmocka_leave(CMOCKA_SKIPPED, __FILE__, __LINE__)
#define fail_msg(...) \
    do { \
        print_error("ERROR: " __VA_ARGS__); \
        print_error("\n"); \
        fail(); \
    } while (0)


/* Ends the test if it is not good, and says what it found. */
__attribute__((format(printf, 4, 5)))
CMOCKA_STANDIN void
cmocka_judge(int good, const char *file, int line, const char *format, ...)
{
    va_list args;

    if (good)
        return;
    (void)fflush(stdout);
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    print_error("\n");
    cmocka_leave(CMOCKA_FAILED, file, line);
}


#define cmocka_compare(type, a, b, good, format) \
    do { \
        type a_ = (type)(a); \
        type b_ = (type)(b); \
        cmocka_judge(good, cmocka_place, format, a_, b_); \
    } while (0)
#define cmocka_place __FILE__, __LINE__
#define cmocka_of(format) "%" format " and %" format

#define assert_true(c) cmocka_judge((c) ? 1 : 0, cmocka_place, "%s", #c)
#define assert_false(c) cmocka_judge((c) ? 0 : 1, cmocka_place, "not: %s", #c)
#define assert_null(p) \
    cmocka_judge((p) == NULL, cmocka_place, "not NULL: %s", #p)
#define assert_non_null(p) \
    cmocka_judge((p) != NULL, cmocka_place, "NULL: %s", #p)
#define assert_int_equal(a, b) \
    cmocka_compare(uintmax_t, a, b, a_ == b_, cmocka_of("#" PRIxMAX))
#define assert_int_not_equal(a, b) \
    cmocka_compare(uintmax_t, a, b, a_ != b_, cmocka_of("#" PRIxMAX))
#define assert_ptr_equal(a, b) \
    cmocka_compare(uintptr_t, a, b, a_ == b_, cmocka_of("#" PRIxPTR))
#define assert_in_range(value, min, max) \
    do { \
        uintmax_t value_ = (uintmax_t)(value); \
        cmocka_compare(uintmax_t, min, max, a_ <= value_ && value_ <= b_, \
                       #value " is not within " cmocka_of(PRIuMAX)); \
    } while (0)
#define assert_string_equal(a, b) \
    cmocka_compare(const char *, a, b, strcmp(a_, b_) == 0, cmocka_of("s"))
#define assert_string_not_equal(a, b) \
    cmocka_compare(const char *, a, b, strcmp(a_, b_) != 0, cmocka_of("s"))
#define assert_memory_equal(a, b, size) \
    cmocka_compare(const void *, a, b, memcmp(a_, b_, size) == 0, \
                   "bytes differ: " cmocka_of("p"))
#define assert_memory_not_equal(a, b, size) \
    cmocka_compare(const void *, a, b, memcmp(a_, b_, size) != 0, \
                   "the bytes are the same: " cmocka_of("p"))


/* ---- running ----------------------------------------------------------- */

#define cmocka_unit_test(f) { #f, f, NULL, NULL, NULL }
#define cmocka_unit_test_setup(f, setup) { #f, f, setup, NULL, NULL }
#define cmocka_unit_test_setup_teardown(f, setup, teardown) \
    { #f, f, setup, teardown, NULL }

#define cmocka_run_group_tests(tests, setup, teardown) \
    cmocka_run(#tests, tests, sizeof (tests) / sizeof (tests)[0], setup, \
               teardown)
#define cmocka_run_group_tests_name(name, tests, setup, teardown) \
    cmocka_run(name, tests, sizeof (tests) / sizeof (tests)[0], setup, \
               teardown)


/* One step of a test; where it left early, what it said is its outcome. */
static cmocka_result
cmocka_step(void (*job)(void **), CMFixtureFunction fixture, void **state)
{
    if (setjmp(cmocka_way_out) != 0)
        return cmocka_outcome;
    if (job != NULL)
        job(state);
    if (fixture != NULL && fixture(state) != 0)
        return CMOCKA_FAILED;
    return CMOCKA_PASSED;
}


static cmocka_result
cmocka_run_one(const struct CMUnitTest *test, void *group_state)
{
    static const char *const words[] = { "       OK", "  FAILED ",
                                         "  SKIPPED", "  ERROR  " };
    void *state = group_state != NULL ? group_state : test->initial_state;
    cmocka_result outcome, after;

    print_message("[ RUN      ] %s\n", test->name);
    outcome = cmocka_step(NULL, test->setup_func, &state);
    if (outcome == CMOCKA_FAILED)
        outcome = CMOCKA_ERROR;
    if (outcome == CMOCKA_PASSED)
        outcome = cmocka_step(test->test_func, NULL, &state);
    after = cmocka_step(NULL, test->teardown_func, &state);
    if (outcome == CMOCKA_PASSED)
        outcome = after;
    print_message("[%s ] %s\n", words[outcome], test->name);
    return outcome;
}


static int
cmocka_run(const char *group, const struct CMUnitTest *tests, size_t count,
           CMFixtureFunction setup, CMFixtureFunction teardown)
{
    cmocka_result outcomes[512];
    int totals[4] = { 0, 0, 0, 0 };
    void *state = NULL;
    size_t i;

    if (count > sizeof outcomes / sizeof outcomes[0])
        return 255;
    print_message("[==========] %s: Running %d test(s).\n", group, (int)count);
    if (cmocka_step(NULL, setup, &state) != CMOCKA_PASSED) {
        print_error("[  FAILED  ] GROUP SETUP\n");
        return (int)count;
    }
    for (i = 0; i < count; i++) {
        outcomes[i] = cmocka_run_one(&tests[i], state);
        totals[outcomes[i]]++;
    }
    if (cmocka_step(NULL, teardown, &state) != CMOCKA_PASSED)
        print_error("[  FAILED  ] GROUP TEARDOWN\n");
    print_message("[==========] %s: %d test(s) run.\n", group, (int)count);
    print_error("[  PASSED  ] %d test(s).\n", totals[CMOCKA_PASSED]);
    if (totals[CMOCKA_SKIPPED] > 0)
        print_error("[  SKIPPED ] %d test(s).\n", totals[CMOCKA_SKIPPED]);
    if (totals[CMOCKA_FAILED] > 0)
        print_error("[  FAILED  ] %d test(s), listed below:\n",
                    totals[CMOCKA_FAILED]);
    for (i = 0; i < count; i++)
        if (outcomes[i] == CMOCKA_FAILED)
            print_error("[  FAILED  ] %s\n", tests[i].name);
    return totals[CMOCKA_FAILED] + totals[CMOCKA_ERROR];
}

#endif /* KAWS_STANDIN_CMOCKA_H */
