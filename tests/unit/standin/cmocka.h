/* cmocka.h - stands in for cmocka where there is none (musl, Windows)
 *
 * The part of cmocka that our tests use, by the same names, with the same
 * judgement and the same closing lines. Tests are written for cmocka itself;
 * with this folder on the include path they are compiled for this instead.
 * What of cmocka is not here is not missing by accident: add it when a test
 * wants it, and to tests/build/runner.c, where both are compared.
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


CMOCKA_STANDIN void
cmocka_judge(int good, const char *what, const char *file, int line)
{
    if (good)
        return;
    print_error("%s\n", what);
    cmocka_leave(CMOCKA_FAILED, file, line);
}


CMOCKA_STANDIN void
cmocka_judge_numbers(uintmax_t a, uintmax_t b, int alike, const char *file,
                     int line)
{
    if ((a == b) == alike)
        return;
    print_error("%#" PRIxMAX " %s %#" PRIxMAX "\n", a, alike ? "!=" : "==", b);
    cmocka_leave(CMOCKA_FAILED, file, line);
}


CMOCKA_STANDIN void
cmocka_judge_range(uintmax_t value, uintmax_t min, uintmax_t max, int within,
                   const char *file, int line)
{
    if ((value >= min && value <= max) == within)
        return;
    print_error("%" PRIuMAX " is %swithin the range %" PRIuMAX "-%" PRIuMAX
                "\n", value, within ? "not " : "", min, max);
    cmocka_leave(CMOCKA_FAILED, file, line);
}


CMOCKA_STANDIN void
cmocka_judge_strings(const char *a, const char *b, int alike, const char *file,
                     int line)
{
    if ((strcmp(a, b) == 0) == alike)
        return;
    print_error("\"%s\" %s \"%s\"\n", a, alike ? "!=" : "==", b);
    cmocka_leave(CMOCKA_FAILED, file, line);
}


CMOCKA_STANDIN void
cmocka_judge_memory(const void *a, const void *b, size_t size, int alike,
                    const char *file, int line)
{
    const unsigned char *x = a, *y = b;
    size_t i = 0;

    while (i < size && x[i] == y[i])
        i++;
    if ((i == size) == alike)
        return;
    if (alike)
        print_error("difference at offset %lu 0x%02x 0x%02x\n",
                    (unsigned long)i, (unsigned)x[i], (unsigned)y[i]);
    else
        print_error("%lu bytes are the same\n", (unsigned long)size);
    cmocka_leave(CMOCKA_FAILED, file, line);
}


#define cmocka_number(value) ((uintmax_t)(value))
#define cmocka_address(value) cmocka_number((uintptr_t)(value))
#define cmocka_place __FILE__, __LINE__

#define assert_true(c) cmocka_judge((c) ? 1 : 0, #c, cmocka_place)
#define assert_false(c) cmocka_judge((c) ? 0 : 1, "not: " #c, cmocka_place)
#define assert_null(p) cmocka_judge((p) == NULL, "not NULL: " #p, cmocka_place)
#define assert_non_null(p) \
    cmocka_judge((p) != NULL, "NULL: " #p, cmocka_place)
#define assert_int_equal(a, b) \
    cmocka_judge_numbers(cmocka_number(a), cmocka_number(b), 1, cmocka_place)
#define assert_int_not_equal(a, b) \
    cmocka_judge_numbers(cmocka_number(a), cmocka_number(b), 0, cmocka_place)
#define assert_ptr_equal(a, b) \
    cmocka_judge_numbers(cmocka_address(a), cmocka_address(b), 1, cmocka_place)
#define assert_in_range(value, min, max) \
    cmocka_judge_range(cmocka_number(value), cmocka_number(min), \
                       cmocka_number(max), 1, cmocka_place)
#define assert_string_equal(a, b) cmocka_judge_strings(a, b, 1, cmocka_place)
#define assert_string_not_equal(a, b) \
    cmocka_judge_strings(a, b, 0, cmocka_place)
#define assert_memory_equal(a, b, size) \
    cmocka_judge_memory(a, b, size, 1, cmocka_place)
#define assert_memory_not_equal(a, b, size) \
    cmocka_judge_memory(a, b, size, 0, cmocka_place)


/* ---- running ----------------------------------------------------------- */

#define cmocka_unit_test(f) { #f, f, NULL, NULL, NULL }
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
