/* test_disk.c - room disk: paths, files, names and locks; and a disk in trouble
 *
 * First come the tests for every system. Then come those for POSIX: links,
 * pipes, owners, modes; and, by the rules of disk.h, calls that a signal
 * interrupts, that do half, or that fail. Last come those for Windows.
 */

#include "../fault/disk.h"

#if !defined(_WIN32)
#include <sys/socket.h>
#include <sys/un.h>
#endif

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"

#include "unit.h"

#define OPEN(name, how, fd)  kaws__disk_open(in_folder(name), how, fd)
#define RENAME(from, to, how) \
    kaws__disk_rename(in_folder(from), in_folder(to), how)


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
    const char *place = kaws__sys_env("TMPDIR");
    uint8_t random[8];
    char hex[17];

    (void)state;
    if (place == NULL)
        place = kaws__sys_env("TEMP");
    assert_int_equal(kaws__sys_random(NULL, random, sizeof random), 0);
    kaws__text_hex(hex, random, sizeof random);
    snprintf(folder, sizeof folder, "%s/kaws-disk-%s",
             place != NULL ? place : "/tmp", hex);
    return kaws__disk_make_dir(folder);
}


/* Whatever a test leaves in its folder has one of these names. */
static int
teardown(void **state)
{
    static const char *const names[] = { "a", "b", "c", "link", "odd" };
    size_t i;

    (void)state;
    disk_heal();
    for (i = 0; i < UNIT_COUNT(names); i++)
        (void)remove(in_folder(names[i]));
    return rmdir(folder);
}


/* A file with that text in it, opened for writing. */
static int
file_of(const char *name, const char *text)
{
    size_t done;
    int fd;

    assert_int_equal(OPEN(name, KAWS__LOCKFILE, &fd), 0);
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


static void
has_named(const char *name, const char *text)
{
    int fd;

    assert_int_equal(OPEN(name, KAWS__READ, &fd), 0);
    has(fd, text);
    kaws__disk_close(fd);
}


/* ---- paths and files --------------------------------------------------- */

static void
test_paths(void **state)
{
    static const char *const tidy[][2] = {
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
    static const struct { const char *path; int slash; } slashes[] = {
        { "/var/lib/keys", 8 }, { "keys", -1 }, { "a/", 1 }, { "/", 0 },
        { "", -1 },
#if defined(_WIN32)
        { "C:\\keys", 2 }, { "a\\b/c", 3 }
#else
        { "a/b\\c", 1 }
#endif
    };
    char path[64];
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(tidy); i++) {
        (void)snprintf(path, sizeof path, "%s", tidy[i][0]);
        kaws__disk_tidy_path(path);
        assert_string_equal(path, tidy[i][1]);
    }
    for (i = 0; i < UNIT_COUNT(slashes); i++)
        assert_ptr_equal(kaws__disk_last_slash(slashes[i].path),
                         slashes[i].slash < 0
                         ? NULL : slashes[i].path + slashes[i].slash);
}


static void
test_open_makes_or_finds_a_file(void **state)
{
    static const int old[] = { KAWS__READ, KAWS__WRITE, KAWS__READ_LINKED };
    size_t i;
    int fd, again;

    (void)state;
    for (i = 0; i < UNIT_COUNT(old); i++) {
        assert_int_equal(OPEN("a", old[i], &fd), ENOENT);
        assert_int_equal(fd, -1);
    }
    assert_int_equal(OPEN("a", KAWS__NEW, &fd), 0);
    kaws__disk_close(fd);
    assert_int_equal(OPEN("a", KAWS__NEW, &fd), EEXIST);
    assert_int_equal(fd, -1);
    for (again = 0; again < 2; again++) {
        assert_int_equal(OPEN("b", KAWS__LOCKFILE, &fd), 0);
        kaws__disk_close(fd);
    }
    for (i = 0; i < UNIT_COUNT(old); i++) {
        assert_int_equal(OPEN("a", old[i], &fd), 0);
        kaws__disk_close(fd);
    }
    assert_int_equal(OPEN("a", KAWS__FOLDER, &fd), ENOTDIR);
    assert_int_equal(OPEN("c", KAWS__FOLDER, &fd), ENOENT);
    assert_int_equal(kaws__disk_open(folder, KAWS__WRITE, &fd), EISDIR);
    kaws__disk_close(-1);
}


static void
test_read_and_write(void **state)
{
    static const struct { uint64_t at; size_t len; const char *want; }
    reads[] = {
        { 3, 4, "3456" }, { 8, 4, "89" }, { 10, 4, "" }, { 5000, 4, "" },
        { 0, 0, "" }
    };
    static const struct { uint64_t at; const char *text, *want; } writes[] = {
        { 4, "ab", "0123ab6789" }, { 2, "", "0123ab6789" },
        { 9, "xyz", "0123ab678xyz" }
    };
    int fd = file_of("a", "0123456789");
    uint8_t *out = unit_exact(NULL, 4);
    size_t i, n;

    (void)state;
    for (i = 0; i < UNIT_COUNT(reads); i++) {
        assert_int_equal(kaws__disk_read_at(fd, reads[i].at, out, reads[i].len,
                                            &n), 0);
        unit_same("read", out, n, reads[i].want, strlen(reads[i].want));
    }
    for (i = 0; i < UNIT_COUNT(writes); i++) {
        assert_int_equal(kaws__disk_write_at(fd, writes[i].at, writes[i].text,
                                             strlen(writes[i].text), &n), 0);
        assert_int_equal(n, strlen(writes[i].text));
        has(fd, writes[i].want);
    }
    assert_int_equal(kaws__disk_sync(fd), 0);
    kaws__disk_close(fd);
    free(out);
    assert_int_equal(OPEN("a", KAWS__READ, &fd), 0);
    assert_int_not_equal(kaws__disk_write_at(fd, 0, "x", 1, &n), 0);
    assert_int_equal(n, 0);
    assert_int_not_equal(kaws__disk_truncate(fd, 1), 0);
    has(fd, "0123ab678xyz");              /* opened for reading alone         */
    kaws__disk_close(fd);
}


static void
test_stat_and_truncate(void **state)
{
    int fd = file_of("a", "0123456789"), other = file_of("b", "");
    kaws__stat a, b;

    (void)state;
    memset(&a, 0xff, sizeof a);
    assert_int_equal(kaws__disk_stat(fd, NULL, &a), 0);
    assert_int_equal(kaws__disk_stat(other, NULL, &b), 0);
    assert_true(a.size == 10 && b.size == 0);
    assert_true(a.dev == b.dev && a.ino != b.ino);
    assert_true(a.regular && b.regular && a.mine && b.mine);
    assert_true(a.links == 1 && !a.others_read && !a.others_write);
    assert_true(a.mtime_ns / 1000000000 > (int64_t)time(NULL) - 600);
    assert_int_equal(kaws__disk_truncate(fd, 4), 0);
    has(fd, "0123");
    assert_int_equal(kaws__disk_stat(fd, NULL, &b), 0);
    assert_true(b.size == 4 && b.ino == a.ino);
    assert_int_equal(kaws__disk_truncate(fd, 0), 0);
    has(fd, "");
    kaws__disk_close(fd);
    kaws__disk_close(other);
    memset(&b, 0xff, sizeof b);
    assert_int_equal(kaws__disk_stat(fd, NULL, &b), EBADF);
    memset(&a, 0, sizeof a);
    assert_memory_equal(&a, &b, sizeof a);
    assert_int_equal(kaws__disk_stat(-1, in_folder("c"), &b), ENOENT);
}


/* A file that is renamed takes the place of what has the name, or gets only a
 * name that nothing has, or changes places; it is the same by its new name. */
static void
test_rename(void **state)
{
    kaws__stat before, after;
    int fd = file_of("a", "one"), os;

    (void)state;
    kaws__disk_close(fd);
    fd = file_of("b", "second");
    assert_int_equal(kaws__disk_stat(fd, NULL, &before), 0);
    kaws__disk_close(fd);
    assert_int_equal(RENAME("b", "a", KAWS__RENAME_NEW), EEXIST);
    assert_int_equal(RENAME("b", "c", KAWS__RENAME_NEW), 0);
    assert_int_equal(kaws__disk_stat(-1, in_folder("c"), &after), 0);
    assert_true(after.size == 6 && after.links == 1);
    assert_true(after.dev == before.dev && after.ino == before.ino);
    assert_int_equal(kaws__disk_stat(-1, in_folder("b"), &after), ENOENT);
    os = RENAME("a", "c", KAWS__EXCHANGE);
    assert_true(os == 0 || os == ENOSYS);
    has_named("a", os == 0 ? "second" : "one");
    has_named("c", os == 0 ? "one" : "second");
    assert_int_equal(RENAME("c", "a", KAWS__REPLACE), 0);
    has_named("a", os == 0 ? "one" : "second");
    assert_int_equal(RENAME("c", "a", KAWS__REPLACE), ENOENT);
    assert_int_equal(RENAME("c", "b", KAWS__RENAME_NEW), ENOENT);
    if (os == 0)
        assert_int_equal(RENAME("a", "b", KAWS__EXCHANGE), ENOENT);
}


/* A file that is not there counts as removed, even if its folder is not
 * there. */
static void
test_a_missing_file_counts_as_removed(void **state)
{
    int fd = file_of("a", "");

    (void)state;
    kaws__disk_close(fd);
    assert_int_equal(kaws__disk_remove(in_folder("a")), 0);
    assert_int_equal(OPEN("a", KAWS__READ, &fd), ENOENT);
    assert_int_equal(kaws__disk_remove(in_folder("a")), 0);
    assert_int_equal(kaws__disk_remove(in_folder("b/c")), 0);
    assert_int_not_equal(kaws__disk_remove(folder), 0);
    assert_int_equal(kaws__disk_make_dir(folder), EEXIST);
    assert_int_equal(kaws__disk_make_dir(in_folder("b/c")), ENOENT);
    assert_int_equal(kaws__disk_make_dir(in_folder("b")), 0);
    fd = file_of("a", "");
    kaws__disk_close(fd);
    assert_int_equal(RENAME("a", "b", KAWS__REPLACE), EISDIR);
    assert_int_equal(kaws__disk_open(folder, KAWS__FOLDER, &fd), 0);
    assert_int_equal(kaws__disk_sync_dir(fd), 0);
    kaws__disk_close(fd);
    assert_int_equal(kaws__disk_may_change(folder), 0);
    assert_false(kaws__disk_is_mount(in_folder("a")));
}


/* ---- locks ------------------------------------------------------------- */

/* Two descriptors of one process see each other's locks, the two slots do not
 * know of each other, and what another holds cannot be released. */
static void
test_two_descriptors_exclude_each_other(void **state)
{
    int a = file_of("a", ""), b = file_of("a", ""), slot;

    (void)state;
    for (slot = 0; slot < 2; slot++) {
        assert_int_equal(kaws__disk_lock(a, slot, 1), 0);
        assert_int_equal(kaws__disk_lock(b, slot, 1), EAGAIN);
        assert_int_equal(kaws__disk_lock(b, slot, 0), EAGAIN);
        assert_true(kaws__disk_locked_by_others(b, slot));
        assert_false(kaws__disk_locked_by_others(b, 1 - slot));
        assert_int_equal(kaws__disk_lock(b, 1 - slot, 1), 0);
        (void)kaws__disk_unlock(b, 1 - slot);
        (void)kaws__disk_unlock(b, slot);
        assert_int_equal(kaws__disk_lock(b, slot, 1), EAGAIN);
        (void)kaws__disk_unlock(a, slot);
        assert_int_equal(kaws__disk_lock(b, slot, 1), 0);
        assert_int_equal(kaws__disk_lock(a, slot, 1), EAGAIN);
        (void)kaws__disk_unlock(b, slot);
    }
    kaws__disk_close(a);
    kaws__disk_close(b);
}


/* A share keeps off who wants it all, is seen by all but its holder, and is
 * there after asking. Closing another descriptor of the file lets nothing go;
 * closing its own does. */
static void
test_a_share_excludes_the_whole_lock(void **state)
{
    int a = file_of("a", ""), b = file_of("a", ""), c;

    (void)state;
    assert_false(kaws__disk_locked_by_others(a, 0));
    assert_int_equal(kaws__disk_lock(a, 0, 0), 0);
    assert_false(kaws__disk_locked_by_others(a, 0));
    assert_true(kaws__disk_locked_by_others(b, 0));
    assert_int_equal(kaws__disk_lock(b, 0, 1), EAGAIN);
    assert_int_equal(kaws__disk_lock(b, 0, 0), 0);
    assert_true(kaws__disk_locked_by_others(a, 0));
    assert_int_equal(OPEN("a", KAWS__READ, &c), 0);
    assert_int_equal(kaws__disk_lock(c, 1, 0), 0);
    kaws__disk_close(c);
    assert_true(kaws__disk_locked_by_others(a, 0));
    kaws__disk_close(b);
    assert_false(kaws__disk_locked_by_others(a, 0));
    assert_int_equal(OPEN("a", KAWS__WRITE, &b), 0);
    assert_int_equal(kaws__disk_lock(b, 0, 1), EAGAIN);
    kaws__disk_close(a);
    assert_int_equal(kaws__disk_lock(b, 0, 1), 0);
    kaws__disk_close(b);
}

/* ---- calls that fail --------------------------------------------------- */

/* What room disk answers to a request that makes that call. */
static int
ask_call(const char *call, int file, int dir)
{
    static const char *const calls[] = {
        "open", "opendir", DISK_LOOK, "rename", "renameat2", "unlink", "mkdir",
        "pread", "pwrite", "fdatasync", "ftruncate", "fcntl", "fsync"
    };
    int fd = -1, os = -1;
    size_t n, i = 0;
    kaws__stat st;
    char out[16];

    while (strcmp(calls[i], call) != 0)
        i++;
    switch (i) {
    case 0: os = OPEN("a", KAWS__WRITE, &fd); break;
    case 1: os = kaws__disk_open(folder, KAWS__FOLDER, &fd); break;
    case 2: os = kaws__disk_stat(-1, in_folder("a"), &st); break;
    case 3: os = RENAME("a", "b", KAWS__REPLACE); break;
    case 4: os = RENAME("a", "a", KAWS__EXCHANGE); break;
    case 5: os = kaws__disk_remove(in_folder("c")); break;
    case 6: os = kaws__disk_make_dir(in_folder("c")); break;
    case 7: os = kaws__disk_read_at(file, 0, out, 10, &n); break;
    case 8: os = kaws__disk_write_at(file, 0, "0123456789", 10, &n); break;
    case 9: os = kaws__disk_sync(file); break;
    case 10: os = kaws__disk_truncate(file, 10); break;
    case 11: os = kaws__disk_lock(file, 0, 1); break;
    default: os = kaws__disk_sync_dir(dir); break;
    }
    kaws__disk_close(fd);
    return os;
}


/* A call that a signal interrupts is repeated. A call that does a part goes on.
 * A call that fails tells why, and is not repeated. */
static void
test_interrupted_calls_are_made_again(void **state)
{
    static const struct { const char *call; int times, os, want; } rows[] = {
        { "open", 3, EINTR, 0 }, { "open", 1, EMFILE, EMFILE },
        { "opendir", 3, EINTR, 0 }, { "opendir", 1, EACCES, EACCES },
        { "pread", 3, EINTR, 0 }, { "pread", 3, EAGAIN, 0 },
        { "pread", 1, EIO, EIO }, { "pwrite", 3, EINTR, 0 },
        { "pwrite", 3, EAGAIN, 0 }, { "pwrite", 1, ENOSPC, ENOSPC },
        { "fdatasync", 3, EINTR, 0 }, { "fdatasync", 1, EIO, EIO },
        { "fdatasync", 1, EINVAL, EINVAL },
        { "fsync", 3, EINTR, 0 }, { "fsync", 1, EIO, EIO },
        { "fsync", 1, EINVAL, 0 },        /* it cannot sync folders           */
        { "ftruncate", 3, EINTR, 0 }, { "ftruncate", 1, EIO, EIO },
        { "fcntl", 3, EINTR, 0 }, { "fcntl", 1, ENOLCK, ENOLCK },
        { "unlink", 1, EPERM, EPERM }, { "mkdir", 1, EROFS, EROFS },
#if defined(_WIN32)
        { "open", 1, EACCES, EACCES }, { "pread", 1, EBADF, EBADF },
        { "pwrite", 1, EROFS, EROFS }, { "fcntl", 1, EINVAL, EINVAL },
        { "fsync", 1, EACCES, 0 }
#else
        { "pread", 1, 0, 0 }, { "pwrite", 1, 0, EIO },
        { "fcntl", 1, EACCES, EAGAIN }, { "fcntl", 1, EINVAL, ENOSYS },
        { "renameat2", 1, EINVAL, ENOSYS }, { "renameat2", 1, EIO, EIO },
        { "renameat2", 1, EPERM, ENOSYS },
        { "renameat2", 1, EOPNOTSUPP, ENOSYS },
        { "renameat2", 1, ENOSYS, ENOSYS },
        { "rename", 1, EXDEV, EXDEV }, { "unlink", 1, ENOENT, 0 },
        { DISK_LOOK, 1, EACCES, EACCES }
#endif
    };
    int fd = file_of("a", "0123456789"), dir;
    size_t i;

    (void)state;
    assert_int_equal(kaws__disk_open(folder, KAWS__FOLDER, &dir), 0);
    for (i = 0; i < UNIT_COUNT(rows); i++) {
        disk_fail(rows[i].call, 0, rows[i].os, rows[i].times);
        if (ask_call(rows[i].call, fd, dir) != rows[i].want)
            fail_msg("%s, errno %d: not %d", rows[i].call, rows[i].os,
                     rows[i].want);
        assert_int_equal(disk_rules[0].times, 0);         /* all were asked   */
        disk_heal();
        has(fd, "0123456789");
    }
    kaws__disk_close(fd);
    kaws__disk_close(dir);
    for (i = 0; i < UNIT_COUNT(rows); i++)
        if (strcmp(rows[i].call, "pread") == 0 || rows[i].call[0] == 'f' ||
            strcmp(rows[i].call, "pwrite") == 0)
            assert_int_equal(ask_call(rows[i].call, fd, dir), EBADF);
}


#if !defined(_WIN32)

/* ---- POSIX: what may stand in a file's place --------------------------- */

/* Only READ_LINKED follows a link at the end of the path; a link that leads
 * nowhere makes no file there. A link on the way is the owner's. */
static void
test_only_read_linked_follows_a_link(void **state)
{
    static const struct { int how, os; } all[] = {
        { KAWS__READ, ELOOP }, { KAWS__WRITE, ELOOP }, { KAWS__NEW, EEXIST },
        { KAWS__LOCKFILE, ELOOP }, { KAWS__READ_LINKED, 0 }
    };
    int fd = file_of("a", "text"), dangling;
    kaws__stat st;
    size_t i;

    (void)state;
    kaws__disk_close(fd);
    for (dangling = 0; dangling < 2; dangling++) {
        assert_int_equal(symlink(dangling ? "b" : "a", in_folder("link")), 0);
        for (i = 0; i < UNIT_COUNT(all); i++) {
            assert_int_equal(OPEN("link", all[i].how, &fd), all[i].os != 0
                             ? all[i].os : dangling ? ENOENT : 0);
            kaws__disk_close(fd);
            assert_int_equal(access(in_folder("b"), F_OK), -1);
        }
        assert_int_equal(kaws__disk_stat(-1, in_folder("link"), &st), 0);
        assert_false(st.regular);
        assert_int_equal(kaws__disk_remove(in_folder("link")), 0);
    }
    assert_int_equal(symlink(".", in_folder("link")), 0);
    has_named("link/a", "text");
}


/* Pipe, socket, folder, device: opened or refused at once, with an error that
 * has words, and not regular. */
static void
test_odd_files_are_refused_at_once(void **state)
{
    struct sockaddr_un name = { .sun_family = AF_UNIX };
    const char *paths[] = { in_folder("odd"), in_folder("b"), folder,
                            "/dev/null" };
    int s = socket(AF_UNIX, SOCK_STREAM, 0), how, fd, os;
    kaws__stat st;
    size_t p;

    (void)state;
    assert_in_range(strlen(paths[1]), 1, sizeof name.sun_path - 1);
    memcpy(name.sun_path, paths[1], strlen(paths[1]));
    assert_int_equal(mkfifo(paths[0], 0600), 0);
    assert_int_equal(bind(s, (struct sockaddr *)&name, sizeof name), 0);
    alarm(20);
    for (p = 0; p < UNIT_COUNT(paths); p++)
        for (how = KAWS__READ; how <= KAWS__READ_LINKED; how++) {
            os = how == KAWS__NEW ? ENXIO
                                  : kaws__disk_open(paths[p], how, &fd);
            assert_true(os == 0 || os == ENXIO || os == EISDIR);
            if (os != 0)
                continue;
            assert_int_equal(kaws__disk_stat(fd, NULL, &st), 0);
            assert_false(st.regular);
            kaws__disk_close(fd);
        }
    alarm(0);
    close(s);
}


/* No descriptor of ours is inherited by a program that the server starts, and
 * no file of ours can be read by others, whatever the umask. */
static void
test_no_file_is_inherited_or_readable(void **state)
{
    mode_t mask = umask(0);
    struct stat st;
    int how, fd;

    (void)state;
    for (how = KAWS__NEW; how <= KAWS__LOCKFILE; how++) {
        assert_int_equal(OPEN("a", how, &fd), 0);
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        assert_true((fcntl)(fd, F_GETFD) & FD_CLOEXEC);
        kaws__disk_close(fd);
        assert_int_equal(kaws__disk_remove(in_folder("a")), 0);
    }
    assert_int_equal(kaws__disk_make_dir(in_folder("b")), 0);
    assert_int_equal(stat(in_folder("b"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0750);
    assert_int_equal(OPEN("b", KAWS__FOLDER, &fd), 0);
    assert_true((fcntl)(fd, F_GETFD) & FD_CLOEXEC);
    kaws__disk_close(fd);
    umask(mask);
}


/* In a process that has closed 0, 1 and 2, whoever prints would print into a
 * file of ours with such a number. If no other is free, the file stays closed.
 */
static void
test_no_file_is_where_others_print(void **state)
{
    int kept[3], fds[2 * (KAWS__FOLDER + 1)], results[2 * (KAWS__FOLDER + 1)];
    int i, how, count = 0;

    (void)state;
    for (i = 0; i <= 2; i++) {
        kept[i] = (fcntl)(i, F_DUPFD_CLOEXEC, 10);
        (close)(i);
    }
    for (i = 0; i < 2; i++)
        for (how = KAWS__NEW; how >= 0; how--) {
            if (i == 1)
                disk_fail("fcntl", 0, EMFILE, 1);
            results[count] = OPEN(i == 0 || how != KAWS__NEW ? "a" : "b", how,
                                  &fds[count]);
            count++;
        }
    for (i = 0; i <= 2; i++) {
        assert_int_equal(dup2(kept[i], i), i);
        (close)(kept[i]);
    }
    for (i = 0; i < count; i++) {
        assert_int_equal(results[i], i < count / 2 ? 0 : EMFILE);
        if (results[i] == 0) {
            assert_in_range(fds[i], 3, 1000);
            assert_true((fcntl)(fds[i], F_GETFD) & FD_CLOEXEC);
        }
        kaws__disk_close(fds[i]);
    }
}


/* Whose a file is, who else may use it, and how many names it has; each change
 * of its bytes or of its name moves a time. */
static void
test_stat_tells_owner_mode_and_names(void **state)
{
    static const struct { mode_t mode; int read, write; } modes[] = {
        { 0600, 0, 0 }, { 0400, 0, 0 }, { 0640, 1, 0 }, { 0604, 1, 0 },
        { 0620, 0, 1 }, { 0602, 0, 1 }, { 0666, 1, 1 }, { 0700, 0, 0 },
        { 0611, 0, 0 }
    };
    int fd = file_of("a", "x");
    kaws__stat st, before;
    size_t i, n;

    (void)state;
    for (i = 0; i < UNIT_COUNT(modes); i++) {
        assert_int_equal(fchmod(fd, modes[i].mode), 0);
        assert_int_equal(kaws__disk_stat(fd, NULL, &st), 0);
        assert_int_equal(st.others_read, modes[i].read);
        assert_int_equal(st.others_write, modes[i].write);
        assert_true(st.mine);
    }
    disk_owner = 1;
    assert_int_equal(kaws__disk_stat(fd, NULL, &before), 0);
    assert_int_equal(before.mine, geteuid() == 1);
    kaws__sys_sleep_ms(NULL, 20);
    assert_int_equal(kaws__disk_write_at(fd, 0, "y", 1, &n), 0);
    assert_int_equal(kaws__disk_stat(fd, NULL, &st), 0);
    assert_true(st.mtime_ns > before.mtime_ns && st.ctime_ns > before.ctime_ns);
    before = st;
    kaws__sys_sleep_ms(NULL, 20);
    assert_int_equal(link(in_folder("a"), in_folder("b")), 0);
    assert_int_equal(kaws__disk_stat(-1, in_folder("b"), &st), 0);
    assert_true(st.links == 2 && st.mtime_ns == before.mtime_ns &&
                st.ctime_ns > before.ctime_ns);
    assert_int_equal(kaws__disk_remove(in_folder("a")), 0);
    assert_int_equal(kaws__disk_remove(in_folder("b")), 0);
    assert_int_equal(kaws__disk_stat(fd, NULL, &st), 0);
    assert_int_equal(st.links, 0);
    kaws__disk_close(fd);
    assert_int_equal(kaws__disk_may_change(in_folder("c")), ENOENT);
}


/* ---- POSIX: calls that do half, or lack -------------------------------- */

/* The bytes that were done before the failure are counted, and are in the
 * file. */
static void
test_bytes_done_before_a_failure_count(void **state)
{
    int fd = file_of("a", "0123456789");
    char out[16];
    size_t n;

    (void)state;
    disk_fail("pwrite", 0, EAGAIN, 1);
    disk_fail("pwrite", 0, EINTR, 1);
    disk_fail("pwrite", 0, EIO, 1);
    assert_int_equal(kaws__disk_write_at(fd, 0, "abcdefghij", 10, &n), EIO);
    assert_int_equal(n, 5);
    has(fd, "abcde56789");
    disk_fail("pread", 0, EAGAIN, 2);
    disk_fail("pread", 0, EIO, 1);
    assert_int_equal(kaws__disk_read_at(fd, 1, out, 8, &n), EIO);
    unit_same("read before the failure", out, n, "bcde56", 6);
    kaws__disk_close(fd);
}


/* If two names cannot be exchanged, nothing is done. If a rename cannot refuse
 * to replace a file, a link does it, and the first name stays. */
static void
test_rename_falls_back(void **state)
{
    static const struct { int os, link, want; } rows[] = {
        { ENOSYS, 0, 0 }, { EINVAL, 0, 0 }, { EPERM, EPERM, ENOSYS },
        { EOPNOTSUPP, EMLINK, ENOSYS }, { EINVAL, EEXIST, EEXIST },
        { EIO, 0, EIO }, { EEXIST, 0, EEXIST }
    };
    int fd = file_of("a", "text");
    size_t i;

    (void)state;
    kaws__disk_close(fd);
    for (i = 0; i < UNIT_COUNT(rows); i++) {
        disk_fail("renameat2", 0, rows[i].os, 2);
        if (rows[i].link != 0)
            disk_fail("link", 0, rows[i].link, 1);
        assert_int_equal(RENAME("a", "b", KAWS__EXCHANGE),
                         rows[i].os == EIO || rows[i].os == EEXIST
                         ? rows[i].os : ENOSYS);
        assert_int_equal(RENAME("a", "b", KAWS__RENAME_NEW), rows[i].want);
        assert_int_equal(access(in_folder("b"), F_OK), rows[i].want == 0 ? 0
                                                                         : -1);
        has_named("a", "text");
        disk_heal();
        assert_int_equal(kaws__disk_remove(in_folder("b")), 0);
    }
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
test_another_process_excludes_us(void **state)
{
    int a = file_of("a", ""), killed;
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
        (void)kaws__disk_unlock(a, 0);
        (void)kaws__disk_unlock(a, 1);
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


/* A file that another has open and shares is replaced and removed at once; a
 * file that he does not share, when he is done. */
static void
test_replace_what_is_open(void **state)
{
    int old = file_of("a", "old"), fd;
    HANDLE other, thread;

    (void)state;
    fd = file_of("b", "new");
    kaws__disk_close(fd);
    assert_int_equal(OPEN("b", KAWS__READ, &fd), 0);
    kaws__disk_close(old);
    assert_int_equal(RENAME("b", "a", KAWS__REPLACE), 0);
    has(fd, "new");                       /* still the same, by another name  */
    kaws__disk_close(fd);
    kaws__disk_close(file_of("b", "newer"));
    other = CreateFileA(in_folder("a"), GENERIC_READ, FILE_SHARE_READ, NULL,
                        OPEN_EXISTING, 0, NULL);
    assert_true(other != INVALID_HANDLE_VALUE);
    assert_int_equal(kaws__disk_remove(in_folder("a")), EACCES);
    thread = CreateThread(NULL, 0, close_later, other, 0, NULL);
    assert_non_null(thread);
    assert_int_equal(RENAME("b", "a", KAWS__REPLACE), 0);
    assert_int_equal(WaitForSingleObject(thread, 60000), WAIT_OBJECT_0);
    CloseHandle(thread);
    assert_int_equal(OPEN("a", KAWS__READ, &fd), 0);
    has(fd, "newer");
    kaws__disk_close(fd);
}


/* Names that are no UTF-8, that are, and that are too long. */
static void
test_names_that_are_no_utf8(void **state)
{
    char longer[400];
    kaws__stat st;
    int fd = file_of("\xc3\xa4\xe2\x82\xac", "named");

    (void)state;
    kaws__disk_close(fd);
    assert_int_equal(RENAME("\xc3\xa4\xe2\x82\xac", "c", KAWS__REPLACE), 0);
    has_named("c", "named");
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    assert_int_equal(kaws__disk_open(longer, KAWS__READ, &fd), ENAMETOOLONG);
    assert_int_equal(kaws__disk_open(longer, KAWS__FOLDER, &fd), ENAMETOOLONG);
    assert_int_equal(kaws__disk_rename(in_folder("c"), longer, KAWS__REPLACE),
                     ENAMETOOLONG);
    assert_int_equal(kaws__disk_remove(longer), ENAMETOOLONG);
    assert_int_equal(kaws__disk_make_dir(longer), ENAMETOOLONG);
    assert_int_equal(kaws__disk_open("\xff", KAWS__READ, &fd), EINVAL);
    assert_int_equal(kaws__disk_open(folder, KAWS__READ, &fd), 0);
    assert_int_equal(kaws__disk_stat(fd, NULL, &st), 0);
    assert_false(st.regular);
    kaws__disk_close(fd);
    assert_int_equal(kaws__disk_remove(folder), EISDIR);
}


#endif

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, setup, teardown)


int
main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paths),
        IN_FOLDER(test_open_makes_or_finds_a_file),
        IN_FOLDER(test_read_and_write),
        IN_FOLDER(test_stat_and_truncate),
        IN_FOLDER(test_rename),
        IN_FOLDER(test_a_missing_file_counts_as_removed),
        IN_FOLDER(test_two_descriptors_exclude_each_other),
        IN_FOLDER(test_a_share_excludes_the_whole_lock),
        IN_FOLDER(test_interrupted_calls_are_made_again),
#if !defined(_WIN32)
        IN_FOLDER(test_only_read_linked_follows_a_link),
        IN_FOLDER(test_odd_files_are_refused_at_once),
        IN_FOLDER(test_no_file_is_inherited_or_readable),
        IN_FOLDER(test_no_file_is_where_others_print),
        IN_FOLDER(test_stat_tells_owner_mode_and_names),
        IN_FOLDER(test_bytes_done_before_a_failure_count),
        IN_FOLDER(test_rename_falls_back),
#else
        IN_FOLDER(test_another_process_excludes_us),
        IN_FOLDER(test_replace_what_is_open),
        IN_FOLDER(test_names_that_are_no_utf8),
#endif
    };

#if defined(_WIN32)
    if (argc == 3 && strcmp(argv[1], "hold") == 0)
        return hold_for_parent(argv[2]);
#endif
    (void)argc;
    (void)argv;
    return cmocka_run_group_tests_name("disk", tests, NULL, NULL);
}
