/* test_plat.c - room plat: the system, and the system in trouble
 *
 *     cc -std=c99 -g -fsanitize=address,undefined -o test_plat \
 *        tests/unit/test_plat.c -l:libbearssl.a -lcurl -lcmocka
 *
 * First what holds on every system. Then, on POSIX, what only that has: links,
 * pipes, owners, modes; and calls that are interrupted, do half, or fail. For
 * those the room's system calls go through functions that can be told to.
 */

#if !defined(_WIN32)

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* What is to happen to calls of that name: `after` of them pass, then `times`
 * fail with `os` (0: they do nothing, and say so), the rest pass again. Of a
 * read or write that passes, at most `most` bytes are done, if not 0. */
static struct plat_trouble {
    const char *call;
    int    os, after, times;
    size_t most;
    int    calls;                 /* how many there were                      */
} trouble;


static int
faulty(const char *call)
{
    if (trouble.call == NULL || strcmp(call, trouble.call) != 0)
        return 0;
    trouble.calls++;
    if (trouble.calls <= trouble.after ||
        trouble.calls > trouble.after + trouble.times)
        return 0;
    errno = trouble.os;
    return 1;
}


static size_t
at_most(const char *call, size_t len)
{
    if (trouble.call == NULL || strcmp(call, trouble.call) != 0)
        return len;
    return trouble.most > 0 && trouble.most < len ? trouble.most : len;
}


static int
my_open(const char *path, int flags, ...)
{
    va_list args;
    mode_t mode = 0;

    if (flags & O_CREAT) {
        va_start(args, flags);
        mode = va_arg(args, mode_t);
        va_end(args);
    }
    return faulty("open") ? -1 : open(path, flags, mode);
}


static ssize_t
my_read(int fd, void *at, size_t len)
{
    if (faulty("read"))
        return trouble.os == 0 ? 0 : -1;
    return read(fd, at, at_most("read", len));
}


static ssize_t
my_pread(int fd, void *at, size_t len, off_t offset)
{
    if (faulty("pread"))
        return trouble.os == 0 ? 0 : -1;
    return pread(fd, at, at_most("pread", len), offset);
}


static ssize_t
my_pwrite(int fd, const void *at, size_t len, off_t offset)
{
    if (faulty("pwrite"))
        return trouble.os == 0 ? 0 : -1;
    return pwrite(fd, at, at_most("pwrite", len), offset);
}


static int
my_fdatasync(int fd)
{
    return faulty("fdatasync") ? -1 : fdatasync(fd);
}


static int
my_fsync(int fd)
{
    return faulty("fsync") ? -1 : fsync(fd);
}


static int
my_ftruncate(int fd, off_t len)
{
    return faulty("ftruncate") ? -1 : ftruncate(fd, len);
}


static int
my_fcntl(int fd, int call, struct flock *range)
{
    return faulty("fcntl") ? -1 : fcntl(fd, call, range);
}


static void *
my_mmap(void *at, size_t len, int protection, int flags, int fd, off_t offset)
{
    return faulty("mmap") ? MAP_FAILED
                          : mmap(at, len, protection, flags, fd, offset);
}


/* What was locked last. (Under a sanitizer mlock() does nothing.) */
static struct { const void *at; size_t len; } locked;


static int
my_mlock(const void *at, size_t len)
{
    locked.at = at;
    locked.len = len;
    return mlock(at, len);
}


static int
my_pthread_create(pthread_t *thread, const pthread_attr_t *how,
                  void *(*job)(void *), void *arg)
{
    return faulty("pthread_create") ? trouble.os
                                    : pthread_create(thread, how, job, arg);
}

#define open           my_open
#define read           my_read
#define pread          my_pread
#define pwrite         my_pwrite
#define fdatasync      my_fdatasync
#define fsync          my_fsync
#define ftruncate      my_ftruncate
#define fcntl          my_fcntl
#define mmap           my_mmap
#define mlock          my_mlock
#define pthread_create my_pthread_create

#endif

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"

#if !defined(_WIN32)
#undef open
#undef read
#undef pread
#undef pwrite
#undef fdatasync
#undef fsync
#undef ftruncate
#undef fcntl
#undef mmap
#undef mlock
#undef pthread_create
#endif

#include "unit.h"


/* ---- a folder for each test -------------------------------------------- */

static char folder[300];


static const char *
in_folder(const char *name)
{
    static char paths[8][400];
    static int turn;

    turn = (turn + 1) % 8;
    snprintf(paths[turn], sizeof paths[turn], "%s/%s", folder, name);
    return paths[turn];
}


static int
setup(void **state)
{
    static const char *const places[] = { "TMPDIR", "TEMP" };
    const char *place = NULL;
    uint8_t random[8];
    char hex[17];
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(places) && place == NULL; i++)
        place = kaws__sys_env(places[i]);
    assert_int_equal(kaws__sys_random(NULL, random, sizeof random), 0);
    kaws__text_hex(hex, random, sizeof random);
    snprintf(folder, sizeof folder, "%s/kaws-plat-%s",
             place != NULL ? place : "/tmp", hex);
    return kaws__disk_make_dir(folder);
}


/* Whatever a test leaves in its folder has one of these names. */
static int
teardown(void **state)
{
    static const char *const names[] = { "a", "b", "c", "e", "link", "pipe",
                                         "socket" };
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(names); i++)
        (void)remove(in_folder(names[i]));
#if !defined(_WIN32)
    memset(&trouble, 0, sizeof trouble);
    assert_int_equal(rmdir(folder), 0);
#endif
    return 0;
}


/* A file with that text in it, opened for writing. */
static int
file_of(const char *path, const char *text)
{
    size_t done;
    int fd;

    assert_int_equal(kaws__disk_open(path, KAWS__LOCKFILE, &fd), 0);
    assert_int_equal(kaws__disk_write_at(fd, 0, text, strlen(text), &done), 0);
    assert_int_equal(done, strlen(text));
    return fd;
}


/* The file has that text and no more. */
static void
has(int fd, const char *text)
{
    char *got = (char *)unit_exact(NULL, strlen(text) + 10);
    size_t n = 0;

    assert_int_equal(kaws__disk_read_at(fd, 0, got, strlen(text) + 10, &n), 0);
    unit_same("in the file", got, n, text, strlen(text));
    free(got);
}


/* ---- time and chance --------------------------------------------------- */

static void
test_clocks(void **state)
{
    int64_t before = (int64_t)time(NULL), ticks = kaws__sys_ticks_us(), now;
    int i;

    (void)state;
    now = kaws__sys_now_ms(NULL);
    assert_true(now >= before * 1000);
    assert_true(now < ((int64_t)time(NULL) + 2) * 1000);
    for (i = 0; i < 1000; i++) {
        int64_t later = kaws__sys_ticks_us();
        assert_true(later >= ticks);
        ticks = later;
    }
}


static void
test_sleep(void **state)
{
    int64_t start = kaws__sys_ticks_us(), took;

    (void)state;
    kaws__sys_sleep_ms(NULL, 0);
    kaws__sys_sleep_ms(NULL, 30);
    took = kaws__sys_ticks_us() - start;
    assert_true(took >= 29000 && took < 10000000);
}


/* All bytes are filled, each with anything, and never the same way twice. */
static void
test_random(void **state)
{
    uint8_t ever[64], once[64], again[64], seen[256];
    size_t i, round, kinds = 0;

    (void)state;
    memset(ever, 0, sizeof ever);
    memset(seen, 0, sizeof seen);
    memset(again, 0, sizeof again);
    for (round = 0; round < 100; round++) {
        memset(once, 0, sizeof once);
        assert_int_equal(kaws__sys_random(NULL, once, sizeof once), 0);
        assert_memory_not_equal(once, again, sizeof once);
        memcpy(again, once, sizeof once);
        for (i = 0; i < sizeof once; i++) {
            ever[i] |= once[i];
            seen[once[i]] = 1;
        }
    }
    for (i = 0; i < sizeof ever; i++)
        assert_int_equal(ever[i], 0xff);
    for (i = 0; i < 256; i++)
        kinds += seen[i];
    assert_int_equal(kinds, 256);
    memset(once, 0x5a, sizeof once);
    assert_int_equal(kaws__sys_random(NULL, once, 0), 0);
    assert_int_equal(once[0], 0x5a);
}


/* ---- the names of errors ----------------------------------------------- */

/* Where the words are not the C library's, they say more. */
static void
test_error_names(void **state)
{
    static const int ours[] = { ELOOP, EMFILE, ENFILE, ENXIO };
    static const int must[] = {
        EACCES, EAGAIN, EBADF, EEXIST, EFBIG, EINVAL, EIO, EISDIR, ELOOP,
        EMFILE, ENAMETOOLONG, ENFILE, ENOENT, ENOLCK, ENOMEM, ENOSPC, ENOTDIR,
        ENXIO, EPERM, EROFS, EBUSY, ENOSYS, EOPNOTSUPP, ENOTCONN, ETIMEDOUT,
#if defined(ESTALE)
        ESTALE
#endif
    };
    size_t i, k;
    int os;

    (void)state;
    for (i = 0; i < UNIT_COUNT(must); i++)
        assert_string_not_equal(kaws__sys_error_text(must[i]), "see its errno");
    for (os = -1; os < 300; os++) {
        const char *text = kaws__sys_error_text(os);
        int mine = strcmp(text, "see its errno") == 0;
        for (k = 0; k < UNIT_COUNT(ours); k++)
            mine |= os == ours[k];
#if defined(__GLIBC__)
        if (!mine) {
            char name[64];                /* behind it comes what to do       */
            (void)snprintf(name, sizeof name, "%.*s", (int)strcspn(text, ";"),
                           text);
            unit_same_text("an error's name", name, strerror(os));
        }
#endif
        assert_in_range(strlen(text), 5, 90);
    }
    unit_same_text("no error", kaws__sys_error_text(0), "see its errno");
}


/* ---- threads ----------------------------------------------------------- */

typedef struct work {
    kaws__lock lock;
    int runs, sum;
} work;


static void
add_up(void *arg)
{
    work *w = arg;
    int i, sum;

    for (i = 0; i < 2000; i++) {
        kaws__thread_lock(&w->lock);
        sum = w->sum;
        w->sum = sum + 1;
        kaws__thread_unlock(&w->lock);
    }
    kaws__sys_sleep_ms(NULL, 5);
    kaws__thread_lock(&w->lock);
    w->runs++;
    kaws__thread_unlock(&w->lock);
}


/* As many as asked for run at once, the lock keeps them apart, and all have
 * ended when it returns. */
static void
test_parallel(void **state)
{
    static const int counts[] = { 1, 2, 16, KAWS__PARALLEL_MAX };
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(counts); i++) {
        work w;
        w.runs = w.sum = 0;
        assert_int_equal(kaws__thread_lock_init(&w.lock), 0);
        kaws__thread_parallel(counts[i], add_up, &w);
        assert_int_equal(w.runs, counts[i]);
        assert_int_equal(w.sum, 2000 * counts[i]);
        kaws__thread_lock_free(&w.lock);
    }
}


/* More than there may be: the most there may be, and nobody's memory. */
static void
test_parallel_too_many(void **state)
{
    work w;

    (void)state;
    w.runs = w.sum = 0;
    assert_int_equal(kaws__thread_lock_init(&w.lock), 0);
    kaws__thread_parallel(1000, add_up, &w);
    assert_in_range(w.runs, KAWS__PARALLEL_MAX, KAWS__PARALLEL_MAX + 1);
    kaws__thread_lock_free(&w.lock);
}


typedef struct queue {
    kaws__turn turn;
    kaws__lock lock;
    int        inside, most, done, late;
} queue;


/* Each has the turn three times, for 20 ms; `late` says who could not wait. */
static void
take_turns(void *arg)
{
    queue *q = arg;
    int i;

    for (i = 0; i < 3; i++) {
        if (kaws__thread_turn_wait(&q->turn, 200) < 0) {
            kaws__thread_lock(&q->lock);
            q->late++;
            kaws__thread_unlock(&q->lock);
            continue;
        }
        kaws__thread_lock(&q->lock);
        q->most = ++q->inside > q->most ? q->inside : q->most;
        kaws__thread_unlock(&q->lock);
        kaws__sys_sleep_ms(NULL, 20);
        kaws__thread_lock(&q->lock);
        q->inside--;
        q->done++;
        kaws__thread_unlock(&q->lock);
        kaws__thread_turn_end(&q->turn, 1);
    }
}


static void
late(void *arg)
{
    queue *q = arg;
    int64_t before = kaws__sys_ticks_us();
    int waited = kaws__thread_turn_wait(&q->turn, 150);

    kaws__thread_lock(&q->lock);
    if (waited < 0 && kaws__sys_ticks_us() - before >= 140000)
        q->late++;
    else
        q->inside++;
    kaws__thread_unlock(&q->lock);
}


/* One at a time. Twenty wait longer than 200 ms in all, and none is late, as
 * long as somebody gets on; all are if nobody does. */
static void
test_turns(void **state)
{
    queue q;

    (void)state;
    memset(&q, 0, sizeof q);
    assert_int_equal(kaws__thread_turn_init(&q.turn), 0);
    assert_int_equal(kaws__thread_lock_init(&q.lock), 0);
    kaws__thread_parallel(20, take_turns, &q);
    assert_int_equal(q.most, 1);
    assert_int_equal(q.done, 60);
    assert_int_equal(q.late, 0);
    assert_int_equal(kaws__thread_turn_wait(&q.turn, 0), 0);
    kaws__thread_parallel(5, late, &q);
    assert_int_equal(q.late, 5);
    assert_int_equal(q.inside, 0);
    kaws__thread_turn_end(&q.turn, 1);
    assert_int_equal(kaws__thread_turn_wait(&q.turn, 0), 0);
    kaws__thread_lock_free(&q.lock);
    kaws__thread_turn_free(&q.turn);
}


static int once_runs;


static void
run_once(void)
{
    kaws__sys_sleep_ms(NULL, 20);
    once_runs++;
}


static void
ask_once(void *arg)
{
    kaws__thread_once(arg, run_once);
    assert_int_equal(once_runs, 1);       /* nobody goes on before it is done */
}


static void
test_once(void **state)
{
    static kaws__once once = KAWS__ONCE;

    (void)state;
    kaws__thread_parallel(8, ask_once, &once);
    kaws__thread_once(&once, run_once);
    assert_int_equal(once_runs, 1);
}


/* ---- pages ------------------------------------------------------------- */

static void
test_pages(void **state)
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


/* Only a wish: whatever is asked, the bytes and those beside them stay. */
static void
test_large_pages(void **state)
{
    const size_t size = 12 << 20;
    uint8_t *at = malloc(size);
    size_t i, at_odd;

    (void)state;
    assert_non_null(at);
    for (i = 0; i < size; i++)
        at[i] = (uint8_t)(i * 7 >> 3);
    for (at_odd = 0; at_odd < 70000; at_odd += 997) {
        kaws__sys_advise_large(at + at_odd, 0);
        kaws__sys_advise_large(at + at_odd, 100);
        kaws__sys_advise_large(at + at_odd, size - 70000);
    }
    for (i = 0; i < size; i++)
        if (at[i] != (uint8_t)(i * 7 >> 3))
            fail_msg("byte %u has changed", (unsigned)i);
    free(at);
}


/* ---- paths and files --------------------------------------------------- */

static void
test_last_slash(void **state)
{
    const char *path = "/var/lib/keys";

    (void)state;
    assert_ptr_equal(kaws__disk_last_slash(path), path + 8);
    assert_ptr_equal(kaws__disk_last_slash("keys"), NULL);
    assert_string_equal(kaws__disk_last_slash("a/"), "/");
}


/* What means nothing goes, and nothing else. */
static void
test_tidy(void **state)
{
    static const char *const rows[][2] = {
        { "", "" }, { "/", "/" }, { "a", "a" }, { "/a/b.c/d", "/a/b.c/d" },
        { "top/sub//keys", "top/sub/keys" }, { "/a///b////c", "/a/b/c" },
        { "a/", "a" }, { "/a//", "/a" }, { ".", "." }, { "./", "." },
        { "././/.", "." }, { "/.", "/" }, { "/./", "/" }, { "./a", "a" },
        { ".//a/././b/.", "a/b" }, { "/./a", "/a" },
        { "..", ".." }, { "../", ".." }, { "a/../b", "a/../b" },
        { "a/./../b", "a/../b" }, { ".a/..b/...", ".a/..b/..." },
        { "a/b.", "a/b." }, { "a./b", "a./b" }, { " /\n", " /\n" },
#if defined(_WIN32)
        { "C:\\a\\.\\b\\\\c", "C:\\a\\b\\c" }, { "a\\/b/\\c\\", "a/b\\c" },
        { "\\\\server\\\\share\\.\\a", "\\\\server\\share\\a" }
#else
        { "//a", "/a" }, { "///", "/" }, { "//./a//b\\\\.\\", "/a/b\\\\.\\" }
#endif
    };
    char path[64];
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(rows); i++) {
        (void)snprintf(path, sizeof path, "%s", rows[i][0]);
        kaws__disk_tidy_path(path);
        assert_string_equal(path, rows[i][1]);
    }
}


static void
test_open(void **state)
{
    static const int old[] = { KAWS__READ, KAWS__WRITE, KAWS__READ_LINKED };
    const char *path = in_folder("a");
    size_t i;
    int fd;

    (void)state;
    for (i = 0; i < UNIT_COUNT(old); i++) {
        assert_int_equal(kaws__disk_open(path, old[i], &fd), ENOENT);
        assert_int_equal(fd, -1);
    }
    assert_int_equal(kaws__disk_open(path, KAWS__NEW, &fd), 0);
    kaws__disk_close(fd);
    assert_int_equal(kaws__disk_open(path, KAWS__NEW, &fd), EEXIST);
    assert_int_equal(fd, -1);
    assert_int_equal(kaws__disk_open(in_folder("b"), KAWS__LOCKFILE, &fd), 0);
    kaws__disk_close(fd);
    assert_int_equal(kaws__disk_open(in_folder("b"), KAWS__LOCKFILE, &fd), 0);
    kaws__disk_close(fd);
    for (i = 0; i < UNIT_COUNT(old); i++) {
        assert_int_equal(kaws__disk_open(path, old[i], &fd), 0);
        kaws__disk_close(fd);
    }
    kaws__disk_close(-1);
}


static void
test_read_and_write(void **state)
{
    int fd = file_of(in_folder("a"), "0123456789");
    uint8_t *out = unit_exact(NULL, 4);
    size_t n;

    (void)state;
    has(fd, "0123456789");
    assert_int_equal(kaws__disk_read_at(fd, 3, out, 4, &n), 0);
    unit_same("in the middle", out, n, "3456", 4);
    assert_int_equal(kaws__disk_read_at(fd, 8, out, 4, &n), 0);
    unit_same("at the end", out, n, "89", 2);
    assert_int_equal(kaws__disk_read_at(fd, 10, out, 4, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(kaws__disk_read_at(fd, 5000, out, 4, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(kaws__disk_read_at(fd, 0, out, 0, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(kaws__disk_write_at(fd, 4, "ab", 2, &n), 0);
    assert_int_equal(n, 2);
    has(fd, "0123ab6789");
    assert_int_equal(kaws__disk_write_at(fd, 2, "", 0, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(kaws__disk_write_at(fd, 9, "xyz", 3, &n), 0);
    has(fd, "0123ab678xyz");
    assert_int_equal(kaws__disk_sync(fd), 0);
    kaws__disk_close(fd);
    free(out);
}


/* What was opened for reading is not written to, and not cut. */
static void
test_read_only(void **state)
{
    size_t n;
    int fd = file_of(in_folder("a"), "text");

    (void)state;
    kaws__disk_close(fd);
    assert_int_equal(kaws__disk_open(in_folder("a"), KAWS__READ, &fd), 0);
    assert_int_not_equal(kaws__disk_write_at(fd, 0, "x", 1, &n), 0);
    assert_int_equal(n, 0);
    assert_int_not_equal(kaws__disk_truncate(fd, 1), 0);
    has(fd, "text");
    kaws__disk_close(fd);
}


static void
test_stat_and_cut(void **state)
{
    int fd = file_of(in_folder("a"), "0123456789"), other;
    kaws__stat a, b;

    (void)state;
    other = file_of(in_folder("b"), "");
    memset(&a, 0xff, sizeof a);
    assert_int_equal(kaws__disk_stat(fd, &a), 0);
    assert_int_equal(kaws__disk_stat(other, &b), 0);
    assert_true(a.size == 10 && b.size == 0);
    assert_true(a.dev == b.dev && a.ino != b.ino);
    assert_true(a.regular && b.regular && a.mine && b.mine);
    assert_true(a.mtime_ns / 1000000000 > (int64_t)time(NULL) - 600);
    assert_int_equal(kaws__disk_truncate(fd, 4), 0);
    has(fd, "0123");
    assert_int_equal(kaws__disk_stat(fd, &b), 0);
    assert_true(b.size == 4 && b.ino == a.ino);
    assert_int_equal(kaws__disk_truncate(fd, 0), 0);
    has(fd, "");
    kaws__disk_close(fd);
    kaws__disk_close(other);
}


static void
test_names(void **state)
{
    int fd = file_of(in_folder("a"), "old");

    (void)state;
    kaws__disk_close(fd);
    fd = file_of(in_folder("b"), "new");
    kaws__disk_close(fd);
    assert_int_equal(kaws__disk_rename(in_folder("b"), in_folder("a")), 0);
    assert_int_equal(kaws__disk_open(in_folder("b"), KAWS__READ, &fd), ENOENT);
    assert_int_equal(kaws__disk_open(in_folder("a"), KAWS__READ, &fd), 0);
    has(fd, "new");
    kaws__disk_close(fd);
    assert_int_equal(kaws__disk_rename(in_folder("b"), in_folder("a")), ENOENT);
    assert_int_equal(kaws__disk_remove(in_folder("a")), 0);
    assert_int_equal(kaws__disk_remove(in_folder("a")), 0);
    assert_int_equal(kaws__disk_open(in_folder("a"), KAWS__READ, &fd), ENOENT);
    assert_int_equal(kaws__disk_make_dir(folder), EEXIST);
    assert_int_equal(kaws__disk_make_dir(in_folder("b/c")), ENOENT);
    assert_int_equal(kaws__disk_make_dir(in_folder("b")), 0);
    assert_int_equal(kaws__disk_open_dir(folder, &fd), 0);
    assert_int_equal(kaws__disk_sync_dir(fd), 0);
    kaws__disk_close(fd);
    assert_int_equal(kaws__disk_open_dir(in_folder("c"), &fd), ENOENT);
}


/* A name is given only if nobody has it, and by a look at the path alone a file
 * is known again. */
static void
test_new_names(void **state)
{
    kaws__stat a, b;
    int fd = file_of(in_folder("a"), "one"), os;

    (void)state;
    kaws__disk_close(fd);
    fd = file_of(in_folder("b"), "two");
    assert_int_equal(kaws__disk_stat(fd, &b), 0);
    assert_int_equal(kaws__disk_rename_new(in_folder("b"), in_folder("a")),
                     EEXIST);
    assert_int_equal(kaws__disk_rename_new(in_folder("b"), in_folder("c")), 0);
    assert_int_equal(kaws__disk_stat_path(in_folder("c"), &a), 0);
    assert_int_equal(a.size, 3);
    assert_int_equal(a.dev, b.dev);
    assert_int_equal(a.ino, b.ino);
    assert_int_equal(a.links, 1);
    assert_int_equal(kaws__disk_stat_path(in_folder("b"), &a), ENOENT);
    assert_int_equal(kaws__disk_rename_new(in_folder("b"), in_folder("d")),
                     ENOENT);
    os = kaws__disk_exchange(in_folder("a"), in_folder("c"));
    kaws__disk_close(fd);
    if (os == 0) {
        assert_int_equal(kaws__disk_open(in_folder("a"), KAWS__READ, &fd), 0);
        has(fd, "two");
        kaws__disk_close(fd);
        assert_int_equal(kaws__disk_stat_path(in_folder("c"), &a), 0);
        assert_int_not_equal(a.ino, b.ino);
        assert_int_equal(kaws__disk_exchange(in_folder("a"), in_folder("b")),
                         ENOENT);
    } else {
        assert_int_equal(os, ENOSYS);
    }
    assert_int_equal(kaws__disk_may_change(folder), 0);
    assert_false(kaws__disk_is_mount(in_folder("a")));
}


/* ---- locks ------------------------------------------------------------- */

/* Two descriptors of one process see each other's locks, and the two slots do
 * not know of each other. */
static void
test_hold(void **state)
{
    int a = file_of(in_folder("a"), ""), b = file_of(in_folder("a"), "");
    int slot;

    (void)state;
    for (slot = 0; slot < 2; slot++) {
        assert_int_equal(kaws__disk_lock(a, slot, 1), 0);
        assert_int_equal(kaws__disk_lock(b, slot, 1), EAGAIN);
        assert_int_equal(kaws__disk_lock(b, slot, 0), EAGAIN);
        assert_true(kaws__disk_locked_by_others(b, slot));
        assert_false(kaws__disk_locked_by_others(a, slot));
        assert_false(kaws__disk_locked_by_others(b, 1 - slot));
        assert_int_equal(kaws__disk_lock(b, 1 - slot, 1), 0);
        kaws__disk_unlock(b, 1 - slot);
        kaws__disk_unlock(b, slot);      /* not his to release               */
        assert_int_equal(kaws__disk_lock(b, slot, 1), EAGAIN);
        kaws__disk_unlock(a, slot);
        assert_int_equal(kaws__disk_lock(b, slot, 1), 0);
        assert_int_equal(kaws__disk_lock(a, slot, 1), EAGAIN);
        kaws__disk_unlock(b, slot);
    }
    kaws__disk_close(a);
    kaws__disk_close(b);
}


static void
test_hold_shared(void **state)
{
    int a = file_of(in_folder("a"), ""), b = file_of(in_folder("a"), "");

    (void)state;
    assert_false(kaws__disk_locked_by_others(a, 0));
    assert_int_equal(kaws__disk_lock(a, 0, 0), 0);
    assert_false(kaws__disk_locked_by_others(a, 0));
    assert_true(kaws__disk_locked_by_others(b, 0));
    assert_int_equal(kaws__disk_lock(b, 0, 0), 0);
    assert_true(kaws__disk_locked_by_others(a, 0));
    assert_int_equal(kaws__disk_lock(a, 0, 1), EAGAIN);
    kaws__disk_close(b);
    assert_false(kaws__disk_locked_by_others(a, 0));
    assert_int_equal(kaws__disk_lock(a, 0, 1), 0);
    kaws__disk_close(a);
}


/* Closing another descriptor of the file lets nothing go; closing its own
 * does. */
static void
test_hold_until_closed(void **state)
{
    int a = file_of(in_folder("a"), ""), b = file_of(in_folder("a"), ""), c;

    (void)state;
    assert_int_equal(kaws__disk_lock(a, 1, 1), 0);
    assert_int_equal(kaws__disk_open(in_folder("a"), KAWS__READ, &c), 0);
    kaws__disk_close(c);
    assert_int_equal(kaws__disk_lock(b, 1, 1), EAGAIN);
    kaws__disk_close(a);
    assert_int_equal(kaws__disk_lock(b, 1, 1), 0);
    kaws__disk_close(b);
}

#if !defined(_WIN32)

/* ---- POSIX: what signals and forks do ---------------------------------- */

static void
nothing(int signal)
{
    (void)signal;
}


/* A signal does not cut the sleep short. */
static void
test_sleep_interrupted(void **state)
{
    struct sigaction act, before;
    timer_t timer;
    struct sigevent event;
    struct itimerspec soon;
    int64_t start;

    (void)state;
    memset(&act, 0, sizeof act);
    memset(&event, 0, sizeof event);
    memset(&soon, 0, sizeof soon);
    act.sa_handler = nothing;
    assert_int_equal(sigaction(SIGUSR1, &act, &before), 0);
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGUSR1;
    assert_int_equal(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
    soon.it_value.tv_nsec = soon.it_interval.tv_nsec = 7000000;
    start = kaws__sys_ticks_us();
    assert_int_equal(timer_settime(timer, 0, &soon, NULL), 0);
    kaws__sys_sleep_ms(NULL, 60);
    timer_delete(timer);
    sigaction(SIGUSR1, &before, NULL);
    assert_true(kaws__sys_ticks_us() - start >= 59000);
}


typedef struct masks {
    pthread_t caller;
    pthread_mutex_t lock;
    int open_to_all, deaf;
} masks;


static void
look_at_mask(void *arg)
{
    static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGALRM,
                                   SIGCHLD, SIGPIPE };
    masks *m = arg;
    sigset_t now;
    size_t i;
    int blocked = 0;

    pthread_sigmask(SIG_SETMASK, NULL, &now);
    for (i = 0; i < UNIT_COUNT(signals); i++)
        blocked += sigismember(&now, signals[i]);
    pthread_mutex_lock(&m->lock);
    if (pthread_equal(pthread_self(), m->caller))
        m->open_to_all += blocked == 0;
    else
        m->deaf += blocked == (int)UNIT_COUNT(signals);
    pthread_mutex_unlock(&m->lock);
    kaws__sys_sleep_ms(NULL, 5);
}


/* The new threads take no signal, the caller's still takes all. */
static void
test_parallel_signals(void **state)
{
    masks m;
    sigset_t before, after;

    (void)state;
    memset(&m, 0, sizeof m);
    m.caller = pthread_self();
    pthread_mutex_init(&m.lock, NULL);
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    kaws__thread_parallel(5, look_at_mask, &m);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    assert_int_equal(m.open_to_all, 1);
    assert_int_equal(m.deaf, 4);
    assert_int_equal(sigismember(&before, SIGTERM),
                     sigismember(&after, SIGTERM));
    pthread_mutex_destroy(&m.lock);
}


/* Where the system gives fewer threads, fewer do the work. */
static void
test_parallel_fewer(void **state)
{
    int given;

    (void)state;
    for (given = 0; given < 4; given++) {
        work w;
        w.runs = w.sum = 0;
        assert_int_equal(kaws__thread_lock_init(&w.lock), 0);
        trouble = (struct plat_trouble){ "pthread_create", EAGAIN, given, 1000,
                                         0, 0 };
        kaws__thread_parallel(8, add_up, &w);
        assert_int_equal(w.runs, given + 1);
        assert_int_equal(trouble.calls, given + 1);
        kaws__thread_lock_free(&w.lock);
    }
}


static void
test_env(void **state)
{
    (void)state;
    unsetenv("KAWS_TEST_PLAT");
    assert_null(kaws__sys_env("KAWS_TEST_PLAT"));
    setenv("KAWS_TEST_PLAT", "", 1);
    assert_null(kaws__sys_env("KAWS_TEST_PLAT"));
    setenv("KAWS_TEST_PLAT", "value", 1);
    unit_same_text("in the environment", kaws__sys_env("KAWS_TEST_PLAT"),
                   "value");
    unsetenv("KAWS_TEST_PLAT");
}


/* What the kernel says of the mapping at that address; 0 if it says nothing. */
static int
kernel_flags(const void *at, char *flags, size_t cap)
{
    FILE *maps = fopen("/proc/self/smaps", "r");
    char line[512];
    unsigned long from, to, place = (unsigned long)(uintptr_t)at;
    int here = 0, found = 0;

    while (maps != NULL && !found && fgets(line, sizeof line, maps) != NULL) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            here = place >= from && place < to;
        found = here && strncmp(line, "VmFlags:", 8) == 0;
    }
    if (maps != NULL)
        fclose(maps);
    if (found)
        snprintf(flags, cap, "%s", line + 8);
    return found;
}


/* Locked, left out of dumps, and not a child's. */
static void
test_pages_hidden(void **state)
{
    uint8_t *at = kaws__sys_alloc_locked(4096);
    char flags[512];
    pid_t child;
    int status;

    (void)state;
    assert_non_null(at);
    assert_ptr_equal(locked.at, at);
    assert_int_equal(locked.len, 4096);
    memset(at, 0x5a, 4096);
    if (kernel_flags(at, flags, sizeof flags)) {
        assert_non_null(strstr(flags, " dd"));
        assert_non_null(strstr(flags, " wf"));
        child = fork();
        assert_true(child >= 0);
        if (child == 0)
            _exit(at[0] | at[4095]);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
    assert_int_equal(at[0], 0x5a);
    kaws__sys_free_locked(at, 4096);
}


/* Pages that are given back are gone. */
static void
test_pages_gone(void **state)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *at = kaws__sys_alloc_locked(page);
    unsigned char there;

    (void)state;
    assert_int_equal(mincore(at, page, &there), 0);
    kaws__sys_free_locked(at, page);
    assert_int_equal(mincore(at, page, &there), -1);
    assert_int_equal(errno, ENOMEM);
    trouble = (struct plat_trouble){ "mmap", ENOMEM, 0, 1, 0, 0 };
    assert_null(kaws__sys_alloc_locked(page));
    assert_int_equal(trouble.calls, 1);
}


/* A lock is its open file's: a child that opens the file itself is another. */
static void
test_hold_other_process(void **state)
{
    int a = file_of(in_folder("a"), ""), b = -1, status;
    pid_t child;

    (void)state;
    assert_int_equal(kaws__disk_lock(a, 1, 1), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int os = kaws__disk_open(in_folder("a"), KAWS__WRITE, &b);
        if (os == 0)
            os = kaws__disk_lock(b, 1, 1) == EAGAIN ? 0 : 1;
        if (os == 0)
            os = kaws__disk_locked_by_others(b, 1) ? 0 : 2;
        _exit(os);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(kaws__disk_lock(a, 1, 1), 0);
    kaws__disk_close(a);
}


/* ---- POSIX: what may stand in a file's place --------------------------- */

/* A link at the end of the path is followed only by whom it is allowed; one
 * that leads nowhere makes no file there. */
static void
test_open_link(void **state)
{
    static const struct { int how, os; } all[] = {
        { KAWS__READ, ELOOP }, { KAWS__WRITE, ELOOP }, { KAWS__NEW, EEXIST },
        { KAWS__LOCKFILE, ELOOP }, { KAWS__READ_LINKED, 0 }
    };
    int fd = file_of(in_folder("a"), "text"), dangling;
    size_t i;

    (void)state;
    kaws__disk_close(fd);
    for (dangling = 0; dangling < 2; dangling++) {
        assert_int_equal(symlink(dangling ? "b" : "a", in_folder("link")), 0);
        for (i = 0; i < UNIT_COUNT(all); i++) {
            int os = kaws__disk_open(in_folder("link"), all[i].how, &fd);
            assert_int_equal(os, all[i].os != 0 ? all[i].os
                                 : dangling ? ENOENT : 0);
            kaws__disk_close(fd);
            assert_int_equal(access(in_folder("b"), F_OK), -1);
        }
        assert_int_equal(unlink(in_folder("link")), 0);
    }
    assert_int_equal(symlink(".", in_folder("link")), 0);
    assert_int_equal(kaws__disk_open(in_folder("link/a"), KAWS__READ, &fd), 0);
    has(fd, "text");                      /* a link on the way is the owner's */
    kaws__disk_close(fd);
}


/* Pipe, socket, folder, device: at once, no waiting, and not regular. */
static void
test_open_odd(void **state)
{
    static const int old[] = { KAWS__READ, KAWS__WRITE, KAWS__LOCKFILE,
                               KAWS__READ_LINKED };
    struct sockaddr_un name;
    const char *paths[4];
    kaws__stat st;
    size_t p, i;
    int s = socket(AF_UNIX, SOCK_STREAM, 0), fd, os;

    (void)state;
    paths[0] = in_folder("pipe");
    paths[1] = in_folder("socket");
    paths[2] = folder;
    paths[3] = "/dev/null";
    memset(&name, 0, sizeof name);
    name.sun_family = AF_UNIX;
    assert_in_range(strlen(paths[1]), 1, sizeof name.sun_path - 1);
    memcpy(name.sun_path, paths[1], strlen(paths[1]));
    assert_int_equal(mkfifo(paths[0], 0600), 0);
    assert_int_equal(bind(s, (struct sockaddr *)&name, sizeof name), 0);
    alarm(20);
    for (p = 0; p < UNIT_COUNT(paths); p++)
        for (i = 0; i < UNIT_COUNT(old); i++) {
            os = kaws__disk_open(paths[p], old[i], &fd);
            if (os != 0) {
                assert_true(os == ENXIO || os == EISDIR);
                assert_string_not_equal(kaws__sys_error_text(os),
                                        "see its errno");
                continue;
            }
            assert_int_equal(kaws__disk_stat(fd, &st), 0);
            assert_false(st.regular);
            kaws__disk_close(fd);
        }
    alarm(0);
    close(s);
}


/* No descriptor of ours is inherited by a program that the server starts, and
 * no file of ours can be read by others, whatever the umask. */
static void
test_open_modes(void **state)
{
    mode_t mask = umask(0);
    struct stat st;
    int how, fd;

    (void)state;
    for (how = KAWS__NEW; how <= KAWS__LOCKFILE; how++) {
        assert_int_equal(kaws__disk_open(in_folder("a"), how, &fd), 0);
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        kaws__disk_close(fd);
        assert_int_equal(unlink(in_folder("a")), 0);
    }
    assert_int_equal(kaws__disk_make_dir(in_folder("b")), 0);
    assert_int_equal(stat(in_folder("b"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0750);
    assert_int_equal(kaws__disk_open_dir(in_folder("b"), &fd), 0);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    kaws__disk_close(fd);
    umask(mask);
}


static void
test_stat_owner(void **state)
{
    static const struct { mode_t mode; int read, write; } modes[] = {
        { 0600, 0, 0 }, { 0400, 0, 0 }, { 0640, 1, 0 }, { 0604, 1, 0 },
        { 0620, 0, 1 }, { 0602, 0, 1 }, { 0666, 1, 1 }, { 0700, 0, 0 },
        { 0611, 0, 0 }
    };
    int fd = file_of(in_folder("a"), "");
    kaws__stat st;
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(modes); i++) {
        assert_int_equal(fchmod(fd, modes[i].mode), 0);
        assert_int_equal(kaws__disk_stat(fd, &st), 0);
        assert_int_equal(st.others_read, modes[i].read);
        assert_int_equal(st.others_write, modes[i].write);
        assert_true(st.mine);
    }
    if (geteuid() == 0) {
        assert_int_equal(fchown(fd, 1, 1), 0);
        assert_int_equal(kaws__disk_stat(fd, &st), 0);
        assert_false(st.mine);
    }
    kaws__disk_close(fd);
    assert_int_equal(kaws__disk_stat(fd, &st), EBADF);
}


static void
test_names_odd(void **state)
{
    int fd = file_of(in_folder("a"), "");

    (void)state;
    kaws__disk_close(fd);
    assert_int_equal(kaws__disk_open_dir(in_folder("a"), &fd), ENOTDIR);
    assert_int_equal(kaws__disk_open(in_folder("a/b"), KAWS__READ, &fd),
                     ENOTDIR);
    assert_int_not_equal(kaws__disk_remove(folder), 0);
    assert_int_equal(kaws__disk_make_dir(in_folder("b")), 0);
    assert_int_equal(kaws__disk_rename(in_folder("a"), in_folder("b")), EISDIR);
    assert_int_equal(kaws__disk_remove(in_folder("a/b")), ENOTDIR);
}


/* What a file is, by its path: a link at its end is itself, and links count;
 * each change of its bytes or its name moves a time. */
static void
test_look(void **state)
{
    kaws__stat st, before;
    size_t n;
    int fd = file_of(in_folder("a"), "x");

    (void)state;
    assert_int_equal(link(in_folder("a"), in_folder("b")), 0);
    assert_int_equal(kaws__disk_stat_path(in_folder("b"), &st), 0);
    assert_int_equal(st.links, 2);
    assert_true(st.regular);
    assert_int_equal(kaws__disk_remove(in_folder("a")), 0);
    assert_int_equal(kaws__disk_remove(in_folder("b")), 0);
    assert_int_equal(kaws__disk_stat(fd, &st), 0);
    assert_int_equal(st.links, 0);
    kaws__disk_close(fd);
    assert_int_equal(symlink("nowhere", in_folder("c")), 0);
    assert_int_equal(kaws__disk_stat_path(in_folder("c"), &st), 0);
    assert_false(st.regular);
    assert_int_equal(kaws__disk_may_change(in_folder("d")), ENOENT);

    fd = file_of(in_folder("e"), "x");
    assert_int_equal(kaws__disk_stat(fd, &before), 0);
    kaws__sys_sleep_ms(NULL, 20);
    assert_int_equal(kaws__disk_write_at(fd, 0, "y", 1, &n), 0);
    assert_int_equal(kaws__disk_stat(fd, &st), 0);
    assert_true(st.mtime_ns > before.mtime_ns && st.ctime_ns > before.ctime_ns);
    before = st;
    kaws__sys_sleep_ms(NULL, 20);
    assert_int_equal(fchmod(fd, 0640), 0);
    assert_int_equal(kaws__disk_stat(fd, &st), 0);
    assert_true(st.mtime_ns == before.mtime_ns &&
                st.ctime_ns > before.ctime_ns);
    kaws__disk_close(fd);
}


/* ---- POSIX: calls that fail, or do half -------------------------------- */

/* Interrupted thrice before each, and a few bytes at a time: all is done. */
static void
test_interrupted(void **state)
{
    static const char text[] = "what is interrupted goes on where it was";
    size_t len = sizeof text - 1, n;
    char out[64];
    int fd;

    (void)state;
    trouble = (struct plat_trouble){ "open", EINTR, 0, 3, 0, 0 };
    assert_int_equal(kaws__disk_open(in_folder("a"), KAWS__NEW, &fd), 0);
    assert_int_equal(trouble.calls, 4);
    trouble = (struct plat_trouble){ "pwrite", EINTR, 2, 3, 5, 0 };
    assert_int_equal(kaws__disk_write_at(fd, 0, text, len, &n), 0);
    assert_int_equal(n, len);
    assert_int_equal(trouble.calls, 8 + 3);
    has(fd, text);
    trouble = (struct plat_trouble){ "pread", EINTR, 2, 3, 5, 0 };
    assert_int_equal(kaws__disk_read_at(fd, 0, out, len, &n), 0);
    unit_same("read in parts", out, n, text, len);
    assert_int_equal(trouble.calls, 8 + 3);
    trouble = (struct plat_trouble){ "fdatasync", EINTR, 0, 3, 0, 0 };
    assert_int_equal(kaws__disk_sync(fd), 0);
    assert_int_equal(trouble.calls, 4);
    trouble = (struct plat_trouble){ "ftruncate", EINTR, 0, 3, 0, 0 };
    assert_int_equal(kaws__disk_truncate(fd, 4), 0);
    has(fd, "what");
    kaws__disk_close(fd);
    trouble = (struct plat_trouble){ "open", EINTR, 0, 3, 0, 0 };
    assert_int_equal(kaws__disk_open_dir(folder, &fd), 0);
    trouble = (struct plat_trouble){ "fsync", EINTR, 0, 3, 0, 0 };
    assert_int_equal(kaws__disk_sync_dir(fd), 0);
    assert_int_equal(trouble.calls, 4);
    kaws__disk_close(fd);
}


/* What was done before the failure is told, and not done twice. */
static void
test_failing(void **state)
{
    int fd = file_of(in_folder("a"), "0123456789");
    char out[16];
    size_t n;

    (void)state;
    trouble = (struct plat_trouble){ "pwrite", ENOSPC, 2, 1, 3, 0 };
    assert_int_equal(kaws__disk_write_at(fd, 0, "abcdefghij", 10, &n), ENOSPC);
    assert_int_equal(n, 6);
    trouble.call = NULL;
    has(fd, "abcdef6789");
    trouble = (struct plat_trouble){ "pwrite", 0, 1, 9, 3, 0 };
    assert_int_equal(kaws__disk_write_at(fd, 0, "xyzxyz", 6, &n), EIO);
    assert_int_equal(n, 3);
    assert_int_equal(trouble.calls, 2);
    trouble = (struct plat_trouble){ "pread", EIO, 1, 1, 4, 0 };
    assert_int_equal(kaws__disk_read_at(fd, 0, out, 10, &n), EIO);
    assert_int_equal(n, 4);
    trouble = (struct plat_trouble){ "fdatasync", EIO, 0, 1, 0, 0 };
    assert_int_equal(kaws__disk_sync(fd), EIO);
    assert_int_equal(trouble.calls, 1);
    trouble = (struct plat_trouble){ "ftruncate", EIO, 0, 1, 0, 0 };
    assert_int_equal(kaws__disk_truncate(fd, 0), EIO);
    trouble.call = NULL;
    has(fd, "xyzdef6789");
    kaws__disk_close(fd);
    assert_int_equal(kaws__disk_sync(fd), EBADF);
    assert_int_equal(kaws__disk_read_at(fd, 0, out, 1, &n), EBADF);
    assert_int_equal(kaws__disk_write_at(fd, 0, out, 1, &n), EBADF);
    assert_int_equal(kaws__disk_truncate(fd, 0), EBADF);
}


/* A file system that cannot sync folders is not one that failed to. */
static void
test_sync_dir_failing(void **state)
{
    int fd;

    (void)state;
    assert_int_equal(kaws__disk_open_dir(folder, &fd), 0);
    trouble = (struct plat_trouble){ "fsync", EINVAL, 0, 1, 0, 0 };
    assert_int_equal(kaws__disk_sync_dir(fd), 0);
    trouble = (struct plat_trouble){ "fsync", EIO, 0, 1, 0, 0 };
    assert_int_equal(kaws__disk_sync_dir(fd), EIO);
    kaws__disk_close(fd);
    assert_int_equal(kaws__disk_sync_dir(fd), EBADF);
}


/* The real thing: a file that may not grow. */
static void
test_file_size_limit(void **state)
{
    int fd = file_of(in_folder("a"), "");
    static char block[3000];
    struct rlimit before, low;
    void (*old)(int) = signal(SIGXFSZ, SIG_IGN);
    size_t n;
    int os;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    low = before;
    low.rlim_cur = 2000;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    os = kaws__disk_write_at(fd, 0, block, sizeof block, &n);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, old);
    assert_int_equal(os, EFBIG);
    assert_int_equal(n, 2000);
    kaws__disk_close(fd);
}


static void
test_random_failing(void **state)
{
    uint8_t out[40], zero[40];

    (void)state;
    trouble = (struct plat_trouble){ "open", EMFILE, 0, 1, 0, 0 };
    assert_int_equal(kaws__sys_random(NULL, out, sizeof out), EMFILE);
    trouble = (struct plat_trouble){ "read", EINTR, 1, 2, 7, 0 };
    memset(out, 0, sizeof out);
    memset(zero, 0, sizeof zero);
    assert_int_equal(kaws__sys_random(NULL, out, sizeof out), 0);
    assert_int_equal(trouble.calls, 6 + 2);
    assert_memory_not_equal(out + 32, zero, 8);
    trouble = (struct plat_trouble){ "read", EIO, 1, 1, 7, 0 };
    assert_int_equal(kaws__sys_random(NULL, out, sizeof out), EIO);
    trouble = (struct plat_trouble){ "read", 0, 0, 1, 0, 0 };
    assert_int_equal(kaws__sys_random(NULL, out, sizeof out), EIO);
}


static void
test_hold_failing(void **state)
{
    int a = file_of(in_folder("a"), ""), b;

    (void)state;
    trouble = (struct plat_trouble){ "fcntl", EINTR, 0, 2, 0, 0 };
    assert_int_equal(kaws__disk_lock(a, 0, 1), 0);
    assert_int_equal(trouble.calls, 3);
    trouble = (struct plat_trouble){ "fcntl", EACCES, 0, 1, 0, 0 };
    assert_int_equal(kaws__disk_lock(a, 0, 1), EAGAIN);
    trouble = (struct plat_trouble){ "fcntl", ENOLCK, 0, 1, 0, 0 };
    assert_int_equal(kaws__disk_lock(a, 0, 1), ENOLCK);
    trouble = (struct plat_trouble){ "fcntl", ENOLCK, 0, 1, 0, 0 };
    assert_false(kaws__disk_locked_by_others(a, 0));
    trouble.call = NULL;
    assert_int_equal(kaws__disk_open(in_folder("a"), KAWS__READ, &b), 0);
    assert_int_equal(kaws__disk_lock(b, 1, 1), EBADF);
    assert_int_equal(kaws__disk_lock(b, 1, 0), 0);
    kaws__disk_close(b);
    kaws__disk_close(a);
}


/* The C library's memcpy, found by the program and by a library of its own. */
static void
test_symbol(void **state)
{
    void *(*copy)(void *, const void *, size_t) = memcpy;
    void *caller, *found;
    char out[4] = "";

    (void)state;
    memcpy(&caller, &copy, sizeof caller);
    assert_null(kaws__sys_symbol("kaws_no_such_function", caller));
    found = kaws__sys_symbol("memcpy", caller);
    assert_non_null(found);
    memcpy(&copy, &found, sizeof copy);
    copy(out, "abc", 4);
    unit_same_text("copied by the found one", out, "abc");
}

#else

/* ---- Windows: processes, names, and who has a file open ---------------- */

/* What the other process does: it holds the file until its input ends. */
static int
hold_for_parent(const char *path)
{
    int fd;

    if (kaws__disk_open(path, KAWS__WRITE, &fd) != 0 ||
        kaws__disk_lock(fd, 1, 1) != 0 || kaws__disk_lock(fd, 0, 0) != 0)
        return 1;
    putchar('x');
    fflush(stdout);
    (void)getchar();
    return 0;
}


/* A second process of this program, which holds the file when this returns, and
 * ends when *input is closed. */
static HANDLE
another_process(const char *path, HANDLE *input)
{
    SECURITY_ATTRIBUTES inherited = { sizeof inherited, NULL, TRUE };
    char program[MAX_PATH], line[2 * MAX_PATH + 16], byte = 0;
    PROCESS_INFORMATION process;
    STARTUPINFOA start;
    HANDLE output;
    DWORD n;

    memset(&start, 0, sizeof start);
    start.cb = sizeof start;
    start.dwFlags = STARTF_USESTDHANDLES;
    assert_true(CreatePipe(&start.hStdInput, input, &inherited, 0));
    assert_true(CreatePipe(&output, &start.hStdOutput, &inherited, 0));
    assert_true(SetHandleInformation(*input, HANDLE_FLAG_INHERIT, 0));
    start.hStdError = GetStdHandle(STD_ERROR_HANDLE);
    assert_in_range(GetModuleFileNameA(NULL, program, sizeof program), 1,
                    sizeof program - 1);
    snprintf(line, sizeof line, "\"%s\" hold \"%s\"", program, path);
    assert_true(CreateProcessA(program, line, NULL, NULL, TRUE, 0, NULL, NULL,
                               &start, &process));
    CloseHandle(process.hThread);
    CloseHandle(start.hStdInput);
    CloseHandle(start.hStdOutput);
    assert_true(ReadFile(output, &byte, 1, &n, NULL));
    assert_int_equal(byte, 'x');
    CloseHandle(output);
    return process.hProcess;
}


/* The other process holds both slots; it lets go by ending, or by being
 * killed. */
static void
test_hold_other_process(void **state)
{
    int a = file_of(in_folder("a"), ""), killed;
    HANDLE process, input;

    (void)state;
    for (killed = 0; killed < 2; killed++) {
        process = another_process(in_folder("a"), &input);
        assert_int_equal(kaws__disk_lock(a, 1, 1), EAGAIN);
        assert_int_equal(kaws__disk_lock(a, 1, 0), EAGAIN);
        assert_int_equal(kaws__disk_lock(a, 0, 1), EAGAIN);
        assert_int_equal(kaws__disk_lock(a, 0, 0), 0);
        assert_true(kaws__disk_locked_by_others(a, 0));
        assert_true(kaws__disk_locked_by_others(a, 1));
        if (killed)
            assert_true(TerminateProcess(process, 9));
        CloseHandle(input);
        assert_int_equal(WaitForSingleObject(process, 60000), WAIT_OBJECT_0);
        CloseHandle(process);
        assert_int_equal(kaws__disk_lock(a, 1, 1), 0);
        assert_false(kaws__disk_locked_by_others(a, 0));
        kaws__disk_unlock(a, 0);
        kaws__disk_unlock(a, 1);
    }
    kaws__disk_close(a);
}


static DWORD WINAPI
close_later(void *handle)
{
    Sleep(50);
    CloseHandle(handle);
    return 0;
}


/* What somebody has open and shares is replaced and removed at once; what he
 * does not share, when he is done. */
static void
test_replace_what_is_open(void **state)
{
    int old = file_of(in_folder("a"), "old"), fd;
    HANDLE other, thread;

    (void)state;
    fd = file_of(in_folder("b"), "new");
    kaws__disk_close(fd);
    assert_int_equal(kaws__disk_open(in_folder("b"), KAWS__READ, &fd), 0);
    kaws__disk_close(old);
    assert_int_equal(kaws__disk_rename(in_folder("b"), in_folder("a")), 0);
    has(fd, "new");                       /* still the same, by another name  */
    kaws__disk_close(fd);
    kaws__disk_close(file_of(in_folder("b"), "newer"));
    other = CreateFileA(in_folder("a"), GENERIC_READ, FILE_SHARE_READ, NULL,
                        OPEN_EXISTING, 0, NULL);
    assert_true(other != INVALID_HANDLE_VALUE);
    assert_int_equal(kaws__disk_remove(in_folder("a")), EACCES);
    thread = CreateThread(NULL, 0, close_later, other, 0, NULL);
    assert_non_null(thread);
    assert_int_equal(kaws__disk_rename(in_folder("b"), in_folder("a")), 0);
    assert_int_equal(WaitForSingleObject(thread, 60000), WAIT_OBJECT_0);
    CloseHandle(thread);
    assert_int_equal(kaws__disk_open(in_folder("a"), KAWS__READ, &fd), 0);
    has(fd, "newer");
    kaws__disk_close(fd);
}


/* Folders where files are wanted and the other way round; names that are no
 * UTF-8, that are, and that are too long. */
static void
test_names_odd(void **state)
{
    char longer[400];
    kaws__stat st;
    int fd = file_of(in_folder("a"), "");

    (void)state;
    kaws__disk_close(fd);
    assert_int_equal(kaws__disk_open_dir(in_folder("a"), &fd), ENOTDIR);
    assert_int_equal(kaws__disk_open(folder, KAWS__WRITE, &fd), EISDIR);
    assert_int_equal(kaws__disk_remove(folder), EISDIR);
    assert_int_equal(kaws__disk_make_dir(in_folder("b")), 0);
    assert_int_equal(kaws__disk_rename(in_folder("a"), in_folder("b")), EISDIR);
    assert_int_equal(kaws__disk_open(folder, KAWS__READ, &fd), 0);
    assert_int_equal(kaws__disk_stat(fd, &st), 0);
    assert_false(st.regular);
    kaws__disk_close(fd);
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    assert_int_equal(kaws__disk_open(longer, KAWS__READ, &fd), ENAMETOOLONG);
    assert_int_equal(kaws__disk_rename(in_folder("a"), longer), ENAMETOOLONG);
    assert_int_equal(kaws__disk_remove(longer), ENAMETOOLONG);
    assert_int_equal(kaws__disk_make_dir(longer), ENAMETOOLONG);
    assert_int_equal(kaws__disk_open_dir(longer, &fd), ENAMETOOLONG);
    assert_int_equal(kaws__disk_open("\xff", KAWS__READ, &fd), EINVAL);
    fd = file_of(in_folder("\xc3\xa4\xe2\x82\xac"), "named");
    kaws__disk_close(fd);
    assert_int_equal(kaws__disk_rename(in_folder("\xc3\xa4\xe2\x82\xac"),
                                       in_folder("c")), 0);
    assert_int_equal(kaws__disk_open(in_folder("c"), KAWS__READ, &fd), 0);
    has(fd, "named");
    kaws__disk_close(fd);
}


/* What cannot be done with a file for reading, or with a folder, is said. */
static void
test_failing(void **state)
{
    int fd = file_of(in_folder("a"), "text");
    size_t n;

    (void)state;
    kaws__disk_close(fd);
    assert_int_equal(kaws__disk_open(in_folder("a"), KAWS__READ, &fd), 0);
    assert_int_equal(kaws__disk_write_at(fd, 0, "x", 1, &n), EACCES);
    assert_int_not_equal(kaws__disk_truncate(fd, 0), 0);
    assert_int_equal(kaws__disk_sync(fd), EACCES);
    has(fd, "text");
    kaws__disk_close(fd);
    assert_int_equal(kaws__disk_open(in_folder("a"), KAWS__NEW, &fd), EEXIST);
    assert_int_equal(fd, -1);
    assert_int_equal(kaws__disk_open_dir(folder, &fd), 0);
    assert_int_not_equal(kaws__disk_write_at(fd, 0, "x", 1, &n), 0);
    kaws__disk_close(fd);
}

#endif

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, setup, teardown)


int
main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clocks),
        cmocka_unit_test(test_sleep),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_error_names),
        cmocka_unit_test(test_parallel),
        cmocka_unit_test(test_parallel_too_many),
        cmocka_unit_test(test_turns), cmocka_unit_test(test_once),
        cmocka_unit_test(test_pages),
        cmocka_unit_test(test_large_pages),
        cmocka_unit_test(test_last_slash), cmocka_unit_test(test_tidy),
        IN_FOLDER(test_open),
        IN_FOLDER(test_read_and_write),
        IN_FOLDER(test_read_only),
        IN_FOLDER(test_stat_and_cut),
        IN_FOLDER(test_names),
        IN_FOLDER(test_new_names),
        IN_FOLDER(test_hold),
        IN_FOLDER(test_hold_shared),
        IN_FOLDER(test_hold_until_closed),
#if !defined(_WIN32)
        cmocka_unit_test(test_sleep_interrupted),
        cmocka_unit_test(test_parallel_signals),
        IN_FOLDER(test_parallel_fewer),
        cmocka_unit_test(test_env),
        cmocka_unit_test(test_pages_hidden),
        IN_FOLDER(test_pages_gone),
        IN_FOLDER(test_hold_other_process),
        IN_FOLDER(test_open_link),
        IN_FOLDER(test_open_odd),
        IN_FOLDER(test_open_modes),
        IN_FOLDER(test_stat_owner),
        IN_FOLDER(test_names_odd),
        IN_FOLDER(test_look),
        IN_FOLDER(test_interrupted),
        IN_FOLDER(test_failing),
        IN_FOLDER(test_sync_dir_failing),
        IN_FOLDER(test_file_size_limit),
        IN_FOLDER(test_random_failing),
        IN_FOLDER(test_hold_failing),
        cmocka_unit_test(test_symbol),
#else
        IN_FOLDER(test_hold_other_process),
        IN_FOLDER(test_replace_what_is_open),
        IN_FOLDER(test_names_odd),
        IN_FOLDER(test_failing),
#endif
    };

#if defined(_WIN32)
    if (argc == 3 && strcmp(argv[1], "hold") == 0)
        return hold_for_parent(argv[2]);
#endif
    (void)argc;
    (void)argv;
    return cmocka_run_group_tests_name("plat", tests, NULL, NULL);
}
