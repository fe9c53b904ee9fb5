/* test_sys.c - room sys: clocks, random bytes, locked pages, symbols, errors
 *
 * On POSIX the room's calls fail by the rules of disk.h. This file adds read()
 * and mmap() to them, and notes what mlock() is asked for.
 */

#include "../fault/disk.h"

#if !defined(_WIN32)

#include <sys/wait.h>

/* What was locked last. (Under a sanitizer mlock() does nothing.) */
static struct { const void *at; size_t len; } locked;


static ssize_t
sys_read(int fd, void *at, size_t len)
{
    ssize_t some = disk_share("read", '\0', len);

    return some <= 0 ? some : read(fd, at, (size_t)some);
}


static void *
sys_mmap(void *at, size_t len, int protection, int flags, int fd, off_t offset)
{
    return disk_fails("mmap", '\0')
         ? MAP_FAILED : mmap(at, len, protection, flags, fd, offset);
}


static int
sys_mlock(const void *at, size_t len)
{
    locked.at = at;
    locked.len = len;
    return mlock(at, len);
}

#define read  sys_read
#define mmap  sys_mmap
#define mlock sys_mlock

#endif

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"

#undef read
#undef mmap
#undef mlock

#include "unit.h"


/* ---- time and random bytes --------------------------------------------- */

/* One clock tells the time of day; the other only goes forward. Both count in
 * their unit: 30 ms of sleep are 30 of one and 30,000 of the other. */
static void
test_both_clocks_run_in_their_units(void **state)
{
    int64_t day = (int64_t)time(NULL) * 1000, now = kaws__sys_now_ms(NULL);
    int64_t start = kaws__sys_ticks_us(), took, ticks = start, later;
    int64_t day_after = (int64_t)time(NULL) * 1000;
    int i;

    (void)state;
    assert_true(now >= day && now < day_after + 2000);
    for (i = 0; i < 1000; i++, ticks = later) {
        later = kaws__sys_ticks_us();
        assert_true(later >= ticks);
    }
    ticks = kaws__sys_ticks_us() / 1000;
    later = kaws__sys_ticks_ms(NULL);
    assert_in_range(later, ticks, kaws__sys_ticks_us() / 1000);
    start = kaws__sys_ticks_us();
    kaws__sys_sleep_ms(NULL, 0);
    kaws__sys_sleep_ms(NULL, 30);
    took = kaws__sys_ticks_us() - start;
    assert_in_range(took, 29000, 10000000);
    assert_true(kaws__sys_now_ms(NULL) - now >= 29);
}


/* All bytes are filled, each with anything, and never the same way twice. */
static void
test_random_bytes_fill_the_array(void **state)
{
    uint8_t ever[64] = { 0 }, once[64], again[64] = { 0 }, seen[256] = { 0 };
    size_t i, round, kinds = 0;

    (void)state;
    for (round = 0; round < 100; round++) {
        memset(once, 0, sizeof once);
        assert_int_equal(kaws__sys_random(NULL, once, sizeof once), 0);
        assert_memory_not_equal(once, again, sizeof once);
        memcpy(again, once, sizeof once);
        for (i = 0; i < sizeof once; i++) {
            ever[i] |= once[i];
            kinds += !seen[once[i]]++;
        }
    }
    for (i = 0; i < sizeof ever; i++)
        assert_int_equal(ever[i], 0xff);
    assert_int_equal(kinds, 256);
    once[0] = 0x5a;
    assert_int_equal(kaws__sys_random(NULL, once, 0), 0);
    assert_int_equal(once[0], 0x5a);
}


/* ---- the texts of errors ----------------------------------------------- */

/* The texts are the C library's, with what to do behind a semicolon; only ours
 * say more. Each error that our calls can meet has one. */
static void
test_each_error_has_a_text(void **state)
{
    static const int must[] = {
        EACCES, EAGAIN, EBADF, EBUSY, EEXIST, EFBIG, EINVAL, EIO, EISDIR,
        ELOOP, EMFILE, ENAMETOOLONG, ENFILE, ENODEV, ENOENT, ENOEXEC, ENOLCK,
        ENOMEM, ENOSPC, ENOSYS, ENOTCONN, ENOTDIR, ENXIO, EOPNOTSUPP, EPERM,
        EROFS, ETIMEDOUT, ETXTBSY,
#if !defined(_WIN32)
        EDQUOT, ESTALE
#endif
    };
    static const int ours[] = { ELOOP, EMFILE, ENFILE, ENXIO };
    size_t i, k, known = 0;
    int os;

    (void)state;
    for (i = 0; i < UNIT_COUNT(must); i++)
        assert_string_not_equal(kaws__sys_error_text(must[i]), "see its errno");
    for (os = -1; os < 300; os++) {
        const char *text = kaws__sys_error_text(os);
        assert_in_range(strlen(text), 5, 90);
        if (strcmp(text, "see its errno") == 0)
            continue;
        known++;
        for (k = 0; k < UNIT_COUNT(ours) && ours[k] != os; k++)
            continue;
#if defined(__GLIBC__)
        if (k == UNIT_COUNT(ours))
            unit_same("an error's text", text, strcspn(text, ";"),
                      strerror(os), strlen(strerror(os)));
#endif
    }
    assert_int_equal(known, UNIT_COUNT(must));
}


/* ---- pages and symbols ------------------------------------------------- */

static void
test_pages_are_zeros_and_writable(void **state)
{
    uint8_t *at = kaws__sys_alloc_locked(10000);
    size_t i;

    (void)state;
    assert_non_null(at);
    for (i = 0; i < 10000; i++)
        assert_int_equal(at[i], 0);
    memset(at, 0xff, 10000);
    kaws__sys_free_locked(at, 10000);
    kaws__sys_free_locked(NULL, 10000);
}


/* Whatever is advised, the bytes and those beside them stay as they are. */
static void
test_large_pages_change_no_bytes(void **state)
{
    const size_t size = 12 << 20;
    uint8_t *at = malloc(size);
    size_t i, odd;

    (void)state;
    assert_non_null(at);
    for (i = 0; i < size; i++)
        at[i] = (uint8_t)(i * 7 >> 3);
    for (odd = 0; odd < 70000; odd += 997) {
        kaws__sys_advise_large(at + odd, 0);
        kaws__sys_advise_large(at + odd, 100);
        kaws__sys_advise_large(at + odd, size - 70000);
    }
    for (i = 0; i < size; i++)
        if (at[i] != (uint8_t)(i * 7 >> 3))
            fail_msg("byte %u has changed", (unsigned)i);
    free(at);
}

#if !defined(_WIN32)

/* A read that is interrupted or incomplete goes on. A read that fails or
 * returns nothing is an error. */
static void
test_a_failed_random_read_is_an_error(void **state)
{
    static const struct { const char *call; int os, times, want; } rows[] = {
        { "open", EMFILE, 1, EMFILE }, { "read", EINTR, 2, 0 },
        { "read", EAGAIN, 3, 0 }, { "read", EIO, 1, EIO },
        { "read", 0, 1, EIO }
    };
    uint8_t out[40], zero[8] = { 0 };
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(rows); i++) {
        disk_fail("read", 0, EAGAIN, 1);              /* half of it first     */
        disk_fail(rows[i].call, 0, rows[i].os, rows[i].times);
        memset(out, 0, sizeof out);
        assert_int_equal(kaws__sys_random(NULL, out, sizeof out), rows[i].want);
        assert_int_equal(disk_rules[1].times, 0);     /* each was met         */
        if (rows[i].want == 0)
            assert_memory_not_equal(out + 32, zero, 8);
        disk_heal();
    }
}


static void
nothing(int signal)
{
    (void)signal;
}


/* A signal does not cut the sleep short. */
static void
test_a_signal_does_not_end_a_sleep(void **state)
{
    struct sigaction act = { .sa_handler = nothing }, before;
    struct sigevent event = { .sigev_notify = SIGEV_SIGNAL,
                              .sigev_signo = SIGUSR1 };
    struct itimerspec soon = { { 0, 7000000 }, { 0, 7000000 } };
    timer_t timer;
    int64_t start;

    (void)state;
    assert_int_equal(sigaction(SIGUSR1, &act, &before), 0);
    assert_int_equal(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
    start = kaws__sys_ticks_us();
    assert_int_equal(timer_settime(timer, 0, &soon, NULL), 0);
    kaws__sys_sleep_ms(NULL, 60);
    timer_delete(timer);
    sigaction(SIGUSR1, &before, NULL);
    assert_true(kaws__sys_ticks_us() - start >= 59000);
}


static void
test_env(void **state)
{
    (void)state;
    unsetenv("KAWS_TEST_SYS");
    assert_null(kaws__sys_env("KAWS_TEST_SYS"));
    setenv("KAWS_TEST_SYS", "", 1);
    assert_null(kaws__sys_env("KAWS_TEST_SYS"));
    setenv("KAWS_TEST_SYS", "value", 1);
    unit_same_text("the value", kaws__sys_env("KAWS_TEST_SYS"), "value");
    unsetenv("KAWS_TEST_SYS");
}


/* What the kernel says of the mapping at that address; empty if nothing. */
static void
kernel_flags(const void *at, char flags[512])
{
    FILE *maps = fopen("/proc/self/smaps", "r");
    unsigned long from, to, place = (unsigned long)(uintptr_t)at;
    int here = 0, found = 0;

    while (maps != NULL && !found && fgets(flags, 512, maps) != NULL) {
        if (sscanf(flags, "%lx-%lx ", &from, &to) == 2)
            here = place >= from && place < to;
        found = here && strncmp(flags, "VmFlags:", 8) == 0;
    }
    if (maps != NULL)
        fclose(maps);
    if (!found)
        flags[0] = '\0';
}


/* The pages are locked, left out of dumps, wiped in a child, and gone when they
 * are given back. If there are none, NULL says so. */
static void
test_pages_are_locked_and_not_dumped(void **state)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *at = kaws__sys_alloc_locked(page);
    unsigned char there;
    char flags[512];
    pid_t child;
    int status;

    (void)state;
    assert_non_null(at);
    assert_ptr_equal(locked.at, at);
    assert_int_equal(locked.len, page);
    memset(at, 0x5a, page);
    kernel_flags(at, flags);
    if (flags[0] != '\0') {
        assert_non_null(strstr(flags, " dd"));
        assert_non_null(strstr(flags, " wf"));
        child = fork();
        assert_true(child >= 0);
        if (child == 0)
            _exit(at[0] | at[4095]);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
    }
    assert_int_equal(at[0], 0x5a);
    assert_int_equal(mincore(at, page, &there), 0);
    kaws__sys_free_locked(at, page);
    assert_int_equal(mincore(at, page, &there), -1);
    assert_int_equal(errno, ENOMEM);
    disk_fail("mmap", 0, ENOMEM, 1);
    assert_null(kaws__sys_alloc_locked(page));
    disk_heal();
}


/* A function that everybody sees is found for every caller: for the C
 * library, which does not know it, for the program, and for an address that
 * is nobody's. */
static void
test_a_symbol_is_the_one_that_all_see(void **state)
{
    static const char *const names[] = { "kaws_no_such_function", "memcpy",
                                         "curl_easy_init" };
    void *(*copy)(void *, const void *, size_t) = memcpy;
    void (*own)(void **) = test_a_symbol_is_the_one_that_all_see;
    void *callers[3] = { NULL, NULL, callers }, *found = NULL;
    size_t i;

    (void)state;
    memcpy(&callers[0], &copy, sizeof callers[0]);
    memcpy(&callers[1], &own, sizeof callers[1]);
    for (i = 0; i < 9; i++) {
        found = kaws__sys_symbol(names[i / 3], callers[i % 3]);
        assert_ptr_equal(found, dlsym(RTLD_DEFAULT, names[i / 3]));
        assert_int_equal(found == NULL, i < 3);
    }
}

#endif


int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_clocks_run_in_their_units),
        cmocka_unit_test(test_random_bytes_fill_the_array),
        cmocka_unit_test(test_each_error_has_a_text),
        cmocka_unit_test(test_pages_are_zeros_and_writable),
        cmocka_unit_test(test_large_pages_change_no_bytes),
#if !defined(_WIN32)
        cmocka_unit_test(test_a_failed_random_read_is_an_error),
        cmocka_unit_test(test_a_signal_does_not_end_a_sleep),
        cmocka_unit_test(test_env),
        cmocka_unit_test(test_pages_are_locked_and_not_dumped),
        cmocka_unit_test(test_a_symbol_is_the_one_that_all_see),
#endif
    };

    return cmocka_run_group_tests_name("sys", tests, NULL, NULL);
}
