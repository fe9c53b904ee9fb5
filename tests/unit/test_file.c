/* Room file: names, locks, reading, and every step of every change failing
 * in turn. */

#include "faulty_disk.h"

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "world.h"

#include <utime.h>

#if !defined(_WIN32)
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#endif

/* What a replacement ends with. */
#if defined(_WIN32)
#define REPLACES(trace) trace "ruf"
#else
#define REPLACES(trace) trace "xuf"
#endif

/* It ends, as a keyring does, with the digest of what is before. */
#define OLD "header..cell...." \
    "\x78\x0a\x10\x37\x35\x96\xea\x28\x4f\xf7\xc9\x95\x8f\x1b\x7e\x52" \
    "\xe0\x67\x4f\xb6\x5d\x79\xea\x78\x8f\x63\xaa\xb9\x06\xf7\xfb\xd9"
#define OLD_LEN (sizeof OLD - 1)

static const char old[] = OLD;


static int
begin(void **state)
{
    int wrong;

    disk_heal();
    umask(022);
    wrong = world_begin(state);
    disk_heal();                          /* forget the folder's making       */
    return wrong;
}


static int
end(void **state)
{
    disk_heal();
    return world_end(state);
}


static kaws_status
open_file(struct world *w, kaws__file *f, int read_only)
{
    kaws__err_clear(&w->err);
    return kaws__file_open(f, &w->f.hooks, w->f.data, read_only, &w->err);
}


static kaws_status
read_file(struct world *w, kaws__file *f, kaws__buf *bytes)
{
    kaws__err_clear(&w->err);
    kaws__buf_init(bytes, &w->f.hooks);
    return kaws__file_read(f, bytes, &w->err);
}


/* A file of the old bytes, opened and known. */
static void
open_old(struct world *w, kaws__file *f)
{
    kaws__buf bytes;

    spill(w->f.data, OLD, OLD_LEN);
    EXPECT(w, KAWS_OK, NULL, open_file(w, f, 0));
    EXPECT(w, KAWS_OK, NULL, read_file(w, f, &bytes));
    kaws__buf_free(&bytes);
    assert_int_equal(f->size, OLD_LEN);
    assert_memory_equal(f->tail, &old[OLD_LEN - 32], 32);
    disk_trace[0] = '\0';
}


static void
expect_content(const char *path, const void *want, size_t len)
{
    size_t got;
    uint8_t *all = slurp(path, &got);

    assert_non_null(all);
    assert_int_equal(got, len);
    assert_memory_equal(all, want, len);
    free(all);
}


/* Gives the file another time: two changes may come in one tick of the clock
 * that files have. */
static void
age(const char *path)
{
    static time_t when = 1000000000;
    struct utimbuf times;

    times.actime = times.modtime = ++when;
    assert_int_equal(utime(path, &times), 0);
}


static int
there(struct world *w, const char *suffix)
{
    char path[200];
    struct stat st;

    (void)snprintf(path, sizeof path, "%s%s", w->f.data, suffix);
    return lstat(path, &st) == 0;
}


/* ---- names and folder -------------------------------------------------- */

static void
test_names(void **state)
{
    static const struct { const char *path, *dir, *shown, *dir_shown; }
    rows[] = {
        { "data", ".", NULL, NULL }, { "/data", "/", NULL, NULL },
        { "./data", ".", NULL, NULL }, { "a/data", "a", NULL, NULL },
        { "/a/b/data", "/a/b", NULL, NULL }, { "a//data", "a/", NULL, NULL },
        { "../data", "..", NULL, NULL },
        { "a\n/\x1b[31m", "a\n", "a\\x0a/\\x1b[31m", "a\\x0a" },
        { "u:p#w@h/\xff", "u:p#w@h", "***@h/\\xff", "***@h" }
    };
    struct world *w = *state;
    char want[64];
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        kaws__file f;
        memset(&f, 0, sizeof f);
        f.hooks = &w->f.hooks;
        f.lock_fd = -1;
        f.fd = -1;
        EXPECT(w, KAWS_OK, NULL, kaws__file_names(&f, rows[i].path, &w->err));
        assert_string_equal(f.path, rows[i].path);
        (void)snprintf(want, sizeof want, "%s.tmp", rows[i].path);
        assert_string_equal(f.tmp, want);
        (void)snprintf(want, sizeof want, "%s.lock", rows[i].path);
        assert_string_equal(f.lock, want);
        assert_string_equal(f.dir, rows[i].dir);
        assert_string_equal(f.shown, rows[i].shown != NULL ? rows[i].shown
                                                           : rows[i].path);
        assert_string_equal(f.dir_shown, rows[i].dir_shown != NULL
                                         ? rows[i].dir_shown : rows[i].dir);
        kaws__file_close(&f);
        kaws__file_close(&f);
    }
    w->f.fail_nth = w->f.allocs + 1;
    {
        kaws__file f;
        EXPECT(w, KAWS_MEMORY, "out of memory", open_file(w, &f, 0));
        kaws__file_close(&f);
    }
}


#if !defined(_WIN32)

/* However it is called: in every sentence it is as one filter shows it. */
static void
test_names_in_sentences(void **state)
{
    static const char *const calls[] = { "mkdir", "open", "fcntl", "opendir",
                                         "fstat", "fsync" };
    struct world *w = *state;
    char path[200], want[200], *at;
    size_t i, said = 0;

    (void)snprintf(path, sizeof path, "%s/n\new \x1b[31m/data", w->f.dir);
    (void)snprintf(want, sizeof want, "%s/n\\x0aew \\x1b[31m", w->f.dir);
    for (i = 0; i < COUNT(calls) * 4; i++) {
        kaws__file f;
        kaws__buf bytes;

        kaws__err_clear(&w->err);
        kaws__buf_init(&bytes, &w->f.hooks);
        disk_heal();
        disk_fail(calls[i / 4], (int)(i % 4), EIO, 1);
        if (kaws__file_open(&f, &w->f.hooks, path, 0, &w->err) == KAWS_OK &&
            kaws__file_hold(&f, 0, &w->err) == KAWS_OK &&
            kaws__file_root(&f, &w->err) == KAWS_OK)
            (void)kaws__file_read(&f, &bytes, &w->err);
        said += w->err.text[0] != '\0';
        if (w->err.text[0] != '\0' && strstr(w->err.text, want) == NULL)
            fail_msg("%s: %s", calls[i / 4], w->err.text);
        kaws__file_release(&f);
        kaws__file_close(&f);
        kaws__buf_free(&bytes);
    }
    assert_in_range(said, 5, 20);
    assert_int_not_equal(fake_logged(&w->f, 1, want), 0);
    for (at = w->f.log; *at != '\0'; at++)
        if (*at != '\n')
            assert_in_range(*at, 0x20, 0x7e);
}

#endif


static void
test_folder(void **state)
{
    struct world *w = *state;
    kaws__file f;
    struct stat st;
    char dir[128], path[200];

    (void)snprintf(dir, sizeof dir, "%s/new", w->f.dir);
    (void)snprintf(path, sizeof path, "%s/data", dir);
    EXPECT(w, KAWS_OK, NULL,
           kaws__file_open(&f, &w->f.hooks, path, 0, &w->err));
    assert_int_equal(stat(dir, &st), 0);
    has_mode(dir, 0750);
    assert_int_equal(fake_logged(&w->f, 1, "is its volume mounted?"), 1);
    assert_string_equal(disk_trace, "m");
    kaws__file_close(&f);
    EXPECT(w, KAWS_OK, NULL,
           kaws__file_open(&f, &w->f.hooks, path, 0, &w->err));
    assert_int_equal(fake_logged(&w->f, -1, ""), 1);
    kaws__file_close(&f);
    (void)snprintf(path, sizeof path, "%s/data.lock", dir);
    assert_int_equal(remove(path), 0);
    assert_int_equal(rmdir(dir), 0);

    /* One level, no more; and none for a reader. */
    (void)snprintf(path, sizeof path, "%s/new/newer/data", w->f.dir);
    EXPECT(w, KAWS_FILE, "cannot make the folder",
           kaws__file_open(&f, &w->f.hooks, path, 0, &w->err));
    assert_int_equal(w->err.os, ENOENT);
    kaws__file_close(&f);
    kaws__err_clear(&w->err);
    EXPECT(w, KAWS_OK, NULL,
           kaws__file_open(&f, &w->f.hooks, path, 1, &w->err));
    kaws__file_close(&f);
    assert_int_not_equal(stat(dir, &st), 0);

    (void)snprintf(path, sizeof path, "%s/new/data", w->f.dir);
    disk_fail("mkdir", 0, EACCES, 1);
    EXPECT(w, KAWS_FILE, "Permission denied",
           kaws__file_open(&f, &w->f.hooks, path, 0, &w->err));
    kaws__file_close(&f);
}


/* A keyring's folder must not be lost to a power cut, nor a folder above it
 * that is not ours to look at keep us from working. */
static void
test_root(void **state)
{
    static const struct { const char *call; int os, made; kaws_status status; }
    rows[] = {
        { "fsync", EIO, 0, KAWS_FILE }, { "fsync", EIO, 1, KAWS_FILE },
        { "fsync", EINVAL, 1, KAWS_OK }, { "opendir", EACCES, 0, KAWS_OK },
        { "opendir", EACCES, 1, KAWS_FILE }, { "opendir", EIO, 0, KAWS_FILE },
        { "opendir", EINTR, 1, KAWS_OK }
    };
    struct world *w = *state;
    char path[128];
    kaws__file f;
    size_t i;

    (void)snprintf(path, sizeof path, "%s/sub/data", w->f.dir);
    EXPECT(w, KAWS_OK, NULL,
           kaws__file_open(&f, &w->f.hooks, path, 0, &w->err));
    assert_true(f.made_dir);
    for (i = 0; i < COUNT(rows); i++) {
        disk_heal();
        f.made_dir = rows[i].made;
        disk_fail(rows[i].call, 0, rows[i].os, 1);
        kaws__err_clear(&w->err);
        EXPECT(w, rows[i].status, "cannot sync the folder above",
               kaws__file_root(&f, &w->err));
    }
    disk_heal();
    kaws__err_clear(&w->err);
    EXPECT(w, KAWS_OK, NULL, kaws__file_root(&f, &w->err));
    assert_string_equal(disk_trace, "f");
    assert_string_equal(f.dir + strlen(w->f.dir), "/sub");
    kaws__file_close(&f);
    EXPECT(w, KAWS_OK, NULL,
           kaws__file_open(&f, &w->f.hooks, path, 0, &w->err));
    assert_false(f.made_dir);
    (void)snprintf(path, sizeof path, "%s/sub/data.lock", w->f.dir);
    assert_int_equal(remove(path), 0);
    kaws__file_close(&f);
}


#if !defined(_WIN32)

/* A name that leaves no room for the longest suffix is refused at once, and
 * nothing is made; the longest that is not has room for all of them. */
static void
test_long_names(void **state)
{
    static const struct { size_t name, path; int fits; } rows[] = {
        { 255 - 25, 0, 1 }, { 255 - 24, 0, 0 }, { 234, 0, 0 }, { 250, 0, 0 },
        { 255, 0, 0 }, { 256, 0, 0 }, { 4, 4095 - 25, 1 }, { 4, 4095 - 24, 0 },
        { 4, 4095 - 4, 0 }
    };
    struct world *w = *state;
    char path[5000], lock[5008];
    struct stat st;
    kaws__file f;
    size_t i, n;
    int fd;

    for (i = 0; i < COUNT(rows); i++) {
        n = (size_t)snprintf(path, sizeof path, "%s/", w->f.dir);
        while (n + rows[i].name < rows[i].path)
            n += (size_t)snprintf(path + n, sizeof path - n, "%s",
                                  (rows[i].path - rows[i].name - n) % 2 != 0
                                  ? "/" : "./");
        memset(path + n, 'n', rows[i].name);
        path[n + rows[i].name] = '\0';
        (void)snprintf(lock, sizeof lock, "%s.lock", path);
        kaws__err_clear(&w->err);
        EXPECT(w, rows[i].fits ? KAWS_OK : KAWS_FILE, "shorter name",
               kaws__file_open(&f, &w->f.hooks, path, 0, &w->err));
        assert_int_equal(w->err.os, rows[i].fits ? 0 : ENAMETOOLONG);
        assert_int_equal(stat(lock, &st) == 0, rows[i].fits);
        if (rows[i].fits) {
            assert_int_equal(kaws__disk_open(f.aside, KAWS__NEW, &fd), 0);
            kaws__disk_close(fd);
            assert_int_equal(remove(f.aside) | remove(lock), 0);
        }
        kaws__file_close(&f);
        kaws__err_clear(&w->err);                 /* a reader needs none      */
        EXPECT(w, KAWS_OK, NULL,
               kaws__file_open(&f, &w->f.hooks, path, 1, &w->err));
        kaws__file_close(&f);
    }
}


/* Where the file system says who owns a file, what is made is looked at as what
 * is opened: it would be refused at the next start. */
static void
test_forced_owner(void **state)
{
    struct world *w = *state;

    disk_owner = (long)geteuid() + 1;
    EXPECT(w, KAWS_FILE, "belongs to another user than the one",
           kaws_open(&w->ring, &w->cfg, &w->err));
    assert_false(there(w, ""));
    assert_false(there(w, ".tmp"));
    disk_owner = -1;
    kaws__err_clear(&w->err);
    world_open(w);
    EXPECT(w, KAWS_OK, NULL, kaws_generate(w->ring, name_of("a", ""), "AES",
                                           32, &w->err));
    disk_owner = (long)geteuid() + 1;     /* such as root_squash              */
    EXPECT(w, KAWS_FILE, "belongs to another user than the one",
           kaws_remove(w->ring, name_of("a", ""), &w->err));
    assert_false(there(w, ".tmp"));
    disk_owner = -1;
    EXPECT(w, KAWS_OK, NULL, kaws_remove(w->ring, name_of("a", ""), &w->err));
    world_reopen(w);
}


/* Whoever may write to the folder may replace what is in it. */
static void
test_folder_of_others(void **state)
{
    static const struct { mode_t mode; int warned; } rows[] = {
        { 0700, 0 }, { 0755, 0 }, { 0770, 1 }, { 0702, 1 }, { 01777, 1 }
    };
    struct world *w = *state;
    char want[160];
    kaws__file f;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        fake_forget_log(&w->f);
        assert_int_equal(chmod(w->f.dir, rows[i].mode), 0);
        EXPECT(w, KAWS_OK, NULL, open_file(w, &f, 0));
        kaws__file_close(&f);
        (void)snprintf(want, sizeof want, "the data file's folder %s may be "
                       "written by others than its owner: chmod 700 it",
                       w->f.dir);
        assert_int_equal(fake_logged(&w->f, -1, ""), rows[i].warned);
        assert_int_equal(fake_logged(&w->f, 1, want), rows[i].warned);
        EXPECT(w, KAWS_OK, NULL, open_file(w, &f, 1));    /* a reader, too    */
        kaws__file_close(&f);
        assert_int_equal(fake_logged(&w->f, 1, want), 2 * rows[i].warned);
    }
    assert_int_equal(chmod(w->f.dir, 0700), 0);
    fake_forget_log(&w->f);
    disk_owner = (long)geteuid() + 1;
    EXPECT(w, KAWS_OK, NULL, open_file(w, &f, 0));
    disk_owner = -1;
    kaws__file_close(&f);
    (void)snprintf(want, sizeof want, "the data file's folder %s belongs to "
                   "another user", w->f.dir);
    assert_int_equal(fake_logged(&w->f, 1, want), 1);
}


/* The folder whose name is made durable is the one above, links or not. */
static const char *synced_above;


static void
look_above(const char *call)
{
    struct stat want, got;
    char fd_path[64];
    int fd;

    if (strcmp(call, "fsync") != 0)
        return;
    assert_int_equal(stat(synced_above, &want), 0);
    for (fd = 3; fd < 64; fd++) {
        (void)snprintf(fd_path, sizeof fd_path, "/proc/self/fd/%d", fd);
        if (stat(fd_path, &got) == 0 && got.st_ino == want.st_ino &&
            got.st_dev == want.st_dev)
            return;
    }
    fail_msg("%s is not open", synced_above);
}


static void
test_root_behind_a_link(void **state)
{
    struct world *w = *state;
    char top[128], sub[140], link[128], path[140];
    kaws__file f;

    (void)snprintf(top, sizeof top, "%s/top", w->f.dir);
    (void)snprintf(sub, sizeof sub, "%s/sub", top);
    (void)snprintf(link, sizeof link, "%s/link", w->f.dir);
    (void)snprintf(path, sizeof path, "%s/keys", link);
    assert_int_equal(mkdir(top, 0700) | mkdir(sub, 0700), 0);
    assert_int_equal(symlink("top/sub", link), 0);
    EXPECT(w, KAWS_OK, NULL,
           kaws__file_open(&f, &w->f.hooks, path, 0, &w->err));
    synced_above = top;
    disk_on_call = look_above;
    EXPECT(w, KAWS_OK, NULL, kaws__file_root(&f, &w->err));
    disk_heal();
    assert_int_equal(remove(f.lock), 0);
    kaws__file_close(&f);
    assert_int_equal(rmdir(sub) | rmdir(top) | unlink(link), 0);
}

#endif


/* A name without a slash is in the folder that we are in. */
static void
test_names_without_folder(void **state)
{
    struct world *w = *state;
    char before[512];
    kaws__file f;

    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(w->f.dir), 0);
    EXPECT(w, KAWS_OK, NULL,
           kaws__file_open(&f, &w->f.hooks, "data", 0, &w->err));
    assert_true(there(w, ".lock"));
    kaws__file_close(&f);
    EXPECT(w, KAWS_OK, NULL,
           kaws__file_open(&f, &w->f.hooks, "sub/data", 0, &w->err));
    assert_int_equal(fake_logged(&w->f, 1, "made the folder sub"), 1);
    EXPECT(w, KAWS_OK, NULL, kaws__file_root(&f, &w->err));
    assert_string_equal(f.dir, "sub");
    kaws__file_close(&f);
    assert_int_equal(remove("sub/data.lock"), 0);
    assert_int_equal(chdir(before), 0);
}


/* ---- locks ------------------------------------------------------------- */

static void
test_lock_file(void **state)
{
    struct world *w = *state;
    char lock[128], target[128];
    struct stat st;
    kaws__file f, g;

    (void)snprintf(lock, sizeof lock, "%s.lock", w->f.data);
    (void)snprintf(target, sizeof target, "%s/elsewhere", w->f.dir);

    EXPECT(w, KAWS_OK, NULL, open_file(w, &g, 1));  /* a reader makes none    */
    assert_int_equal(g.lock_fd, -1);
    EXPECT(w, KAWS_OK, NULL, kaws__file_hold(&g, 0, &w->err));
    kaws__file_release(&g);
    kaws__file_close(&g);
    assert_false(there(w, ".lock"));

    EXPECT(w, KAWS_OK, NULL, open_file(w, &f, 0));
    has_mode(lock, 0600);
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);
    EXPECT(w, KAWS_OK, NULL, open_file(w, &g, 0));  /* both are told          */
    assert_int_equal(fake_logged(&w->f, 1, "in use by another process"), 1);
    kaws__file_close(&g);
    EXPECT(w, KAWS_OK, NULL, open_file(w, &g, 1));
    assert_int_equal(fake_logged(&w->f, 1, "in use by another process"), 2);
    kaws__file_close(&g);
    kaws__file_close(&f);
    EXPECT(w, KAWS_OK, NULL, open_file(w, &f, 0));
    assert_int_equal(fake_logged(&w->f, 1, "in use by another process"), 2);
    kaws__file_close(&f);
    assert_true(there(w, ".lock"));

    disk_fail("fcntl", 0, ENOLCK, 1);
    EXPECT(w, KAWS_FILE, "No locks available", open_file(w, &f, 0));
    kaws__file_close(&f);
    assert_int_equal(remove(lock), 0);
    if (HAS_LINKS) {
        assert_int_equal(symlink(target, lock), 0);
        EXPECT(w, KAWS_FILE, "cannot open and lock", open_file(w, &f, 0));
        kaws__file_close(&f);
        assert_int_not_equal(stat(target, &st), 0);
        assert_int_equal(remove(lock), 0);
    }
    assert_int_equal(mkdir(lock, 0700), 0);
    EXPECT(w, KAWS_FILE, "Is a directory", open_file(w, &f, 0));
    kaws__file_close(&f);
}


/* Who waits sees the other let go, or gives up after two seconds. */
static void
let_go(struct fake *f, int ms)
{
    (void)ms;
    if (f->sleeps == 7)
        kaws__file_release(f->user);
}


static void
test_hold(void **state)
{
    struct world *w = *state;
    kaws__file f, g, r1, r2;
    int fd;

    EXPECT(w, KAWS_OK, NULL, open_file(w, &f, 0));
    EXPECT(w, KAWS_OK, NULL, open_file(w, &g, 0));
    EXPECT(w, KAWS_OK, NULL, kaws__file_hold(&f, 0, &w->err));
    EXPECT(w, KAWS_LOCKED, "data.lock", kaws__file_hold(&g, 0, &w->err));
    assert_int_equal(w->f.sleeps, 400);
    assert_int_equal(w->f.slept[0], 5);
    kaws__err_clear(&w->err);

    w->f.sleeps = 0;
    w->f.user = &f;
    w->f.on_sleep = let_go;
    EXPECT(w, KAWS_OK, NULL, kaws__file_hold(&g, 0, &w->err));
    assert_int_equal(w->f.sleeps, 7);
    w->f.on_sleep = NULL;
    fd = open(g.lock, O_RDONLY);          /* closing it lets go of nothing    */
    close(fd);
    EXPECT(w, KAWS_LOCKED, NULL, kaws__file_hold(&f, 0, &w->err));
    kaws__err_clear(&w->err);
    kaws__file_release(&g);

    EXPECT(w, KAWS_OK, NULL, open_file(w, &r1, 1)); /* readers share          */
    EXPECT(w, KAWS_OK, NULL, open_file(w, &r2, 1));
    EXPECT(w, KAWS_OK, NULL, kaws__file_hold(&r1, 0, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws__file_hold(&r2, 0, &w->err));
    EXPECT(w, KAWS_LOCKED, NULL, kaws__file_hold(&f, 0, &w->err));
    kaws__err_clear(&w->err);
    kaws__file_close(&r1);                /* closing does let go              */
    kaws__file_release(&r2);
    EXPECT(w, KAWS_OK, NULL, kaws__file_hold(&f, 0, &w->err));
    EXPECT(w, KAWS_LOCKED, NULL, kaws__file_hold(&r2, 0, &w->err));
    kaws__err_clear(&w->err);
    kaws__file_release(&f);
    disk_fail("fcntl", 0, EBADF, 1);
    EXPECT(w, KAWS_FILE, "cannot lock", kaws__file_hold(&f, 0, &w->err));
    kaws__err_clear(&w->err);
    disk_fail("fcntl", 0, EINTR, 3);
    EXPECT(w, KAWS_OK, NULL, kaws__file_hold(&f, 0, &w->err));
    kaws__file_close(&r2);
    kaws__file_close(&g);
    kaws__file_close(&f);
}


#if !defined(_WIN32)                      /* there test_plat does it          */

/* Another process holds it, and lets go by dying. */
static void
test_hold_across_processes(void **state)
{
    struct world *w = *state;
    int up[2], down[2], status;
    kaws__file f;
    pid_t child;
    char byte = 'x';

    EXPECT(w, KAWS_OK, NULL, open_file(w, &f, 0));
    assert_int_equal(pipe(up), 0);
    assert_int_equal(pipe(down), 0);
    child = fork();
    if (child == 0) {
        kaws__file g;
        int ok = open_file(w, &g, 0) == KAWS_OK &&
                 kaws__file_hold(&g, 0, &w->err) == KAWS_OK;
        ok = ok && write(up[1], &byte, 1) == 1 && read(down[0], &byte, 1) == 1;
        _exit(ok ? 0 : 1);
    }
    assert_true(child > 0);
    assert_int_equal(read(up[0], &byte, 1), 1);
    EXPECT(w, KAWS_LOCKED, "more than 2 seconds",
           kaws__file_hold(&f, 0, &w->err));
    assert_int_equal(write(down[1], &byte, 1), 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    kaws__err_clear(&w->err);
    EXPECT(w, KAWS_OK, NULL, kaws__file_hold(&f, 0, &w->err));
    kaws__file_close(&f);
    close(up[0]);
    close(up[1]);
    close(down[0]);
    close(down[1]);
}

#endif


/* ---- reading ----------------------------------------------------------- */

static void
test_read(void **state)
{
    struct world *w = *state;
    kaws__file f;
    kaws__buf bytes;

    EXPECT(w, KAWS_OK, NULL, open_file(w, &f, 0));
    EXPECT(w, KAWS_OK, NULL, read_file(w, &f, &bytes));
    assert_false(f.exists);
    spill(w->f.data, "", 0);
    EXPECT(w, KAWS_OK, NULL, read_file(w, &f, &bytes));
    assert_true(f.exists);
    assert_int_equal(bytes.len, 0);
    spill(w->f.data, OLD, OLD_LEN);
    disk_fail("pread", 0, EAGAIN, 3);     /* bit by bit                       */
    disk_fail("pread", 0, EINTR, 2);
    EXPECT(w, KAWS_OK, NULL, read_file(w, &f, &bytes));
    assert_int_equal(bytes.len, OLD_LEN);
    assert_memory_equal(bytes.at, OLD, OLD_LEN);
    assert_memory_equal(f.tail, &old[OLD_LEN - 32], 32);
    kaws__buf_free(&bytes);

    disk_fail("open", 0, EINTR, 1);
    disk_fail("open", 0, EACCES, 1);
    EXPECT(w, KAWS_FILE, "Permission denied", read_file(w, &f, &bytes));
    disk_fail("fstat", 0, EIO, 1);
    EXPECT(w, KAWS_FILE, "Input/output error", read_file(w, &f, &bytes));
    disk_fail("fstat", 1, EIO, 1);
    EXPECT(w, KAWS_FILE, "Input/output error", read_file(w, &f, &bytes));
    kaws__buf_free(&bytes);
    disk_fail("pread", 0, EIO, 1);
    EXPECT(w, KAWS_FILE, "cannot read the data file",
           read_file(w, &f, &bytes));
    assert_int_equal(w->err.os, EIO);
    kaws__buf_free(&bytes);
    w->f.fail_nth = w->f.allocs + 1;
    EXPECT(w, KAWS_MEMORY, "out of memory", read_file(w, &f, &bytes));
    kaws__buf_free(&bytes);
    kaws__file_close(&f);
}


static const char *growing;


static void
grow(const char *call)
{
    FILE *to;

    if (strcmp(call, "pread") != 0 || growing == NULL)
        return;
    to = fopen(growing, "ab");
    growing = NULL;
    assert_non_null(to);
    assert_int_equal(fputc('x', to), 'x');
    assert_int_equal(fclose(to), 0);
}


static void
shrink(const char *call)
{
    if (strcmp(call, "pread") == 0 && growing != NULL) {
        assert_int_equal(truncate(growing, 40), 0);
        growing = NULL;
    }
}


/* In place, after all of it was read: what is in memory is not what is there,
 * but for its size and its end. */
static void
edit_unseen(const char *call)
{
    static int reads;
    FILE *to;

    reads += strcmp(call, "pread") == 0;
    if (growing == NULL || reads == 0 || strcmp(call, "fstat") != 0)
        return;
    to = fopen(growing, "r+b");
    growing = NULL;
    assert_non_null(to);
    assert_int_equal(fputc('X', to), 'X');
    assert_int_equal(fclose(to), 0);
}


static void
test_read_while_it_changes(void **state)
{
    struct world *w = *state;
    kaws__file f;
    kaws__buf bytes;

    spill(w->f.data, OLD, OLD_LEN);
    EXPECT(w, KAWS_OK, NULL, open_file(w, &f, 0));
    growing = w->f.data;
    disk_on_call = grow;
    EXPECT(w, KAWS_CHANGED, "changed while it was being read",
           read_file(w, &f, &bytes));
    kaws__buf_free(&bytes);
    growing = w->f.data;
    disk_on_call = shrink;
    EXPECT(w, KAWS_CHANGED, "changed while it was being read",
           read_file(w, &f, &bytes));
    kaws__buf_free(&bytes);
    spill(w->f.data, OLD, OLD_LEN);
    age(w->f.data);
    growing = w->f.data;
    disk_on_call = edit_unseen;
    EXPECT(w, KAWS_CHANGED, "changed while it was being read",
           read_file(w, &f, &bytes));
    kaws__buf_free(&bytes);
    kaws__file_close(&f);
}


/* A pipe or a socket. */
static void
put_odd(const char *path, char what)
{
#if !defined(_WIN32)
    struct sockaddr_un at;
    int fd;

    if (what == 'p') {
        assert_int_equal(mkfifo(path, 0600), 0);
        return;
    }
    memset(&at, 0, sizeof at);
    at.sun_family = AF_UNIX;
    (void)snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    close(fd);
#else
    fail_msg("no '%c' for %s", what, path);
#endif
}


/* Puts something else in the file's place. */
static void
put(struct world *w, char what)
{
    char path[128];

    (void)snprintf(path, sizeof path, "%s.other", w->f.data);
    (void)remove(path);
    if (what != 'c')
        assert_true(remove(w->f.data) == 0 || errno == ENOENT);
    switch (what) {
    case 'l':                             /* a link to the very same bytes    */
        spill(path, OLD, OLD_LEN);
        assert_int_equal(symlink(path, w->f.data), 0);
        break;
    case 'd':
        assert_int_equal(mkdir(w->f.data, 0700), 0);
        break;
    case 'p':
    case 's':
        put_odd(w->f.data, what);
        break;
    case 'c':                             /* a copy: another inode            */
        spill(path, OLD, OLD_LEN);
        assert_int_equal(rename(path, w->f.data), 0);
        break;
    default:
        break;
    }
}


static void
test_read_something_else(void **state)
{
    static const struct { char what; const char *words; } rows[] = {
        { 'd', "is not a plain file" },
#if !defined(_WIN32)
        { 'l', "symbolic link" }, { 'p', "is not a plain file" },
        { 's', "pipe or a device" }
#endif
    };
    struct world *w = *state;
    kaws__file f;
    kaws__buf bytes;
    size_t i;

    EXPECT(w, KAWS_OK, NULL, open_file(w, &f, 0));
    for (i = 0; i < COUNT(rows); i++) {
        put(w, rows[i].what);
        EXPECT(w, KAWS_FILE, rows[i].words, read_file(w, &f, &bytes));
        kaws__buf_free(&bytes);
        assert_false(f.exists);
    }
    kaws__file_close(&f);
}


#if !defined(_WIN32)                      /* which keeps access lists         */

static void
test_modes_and_owner(void **state)
{
    static const struct { mode_t mode; const char *words; } rows[] = {
        { 0600, NULL }, { 0400, NULL }, { 0640, "be read" },
        { 0604, "be read" }, { 0620, "be written" }, { 0602, "be written" },
        { 0666, "be written" }
    };
    struct world *w = *state;
    kaws__file f;
    kaws__buf bytes;
    size_t i;

    spill(w->f.data, OLD, OLD_LEN);
    EXPECT(w, KAWS_OK, NULL, open_file(w, &f, 0));
    for (i = 0; i < COUNT(rows); i++) {
        fake_forget_log(&w->f);
        assert_int_equal(chmod(w->f.data, rows[i].mode), 0);
        EXPECT(w, KAWS_OK, NULL, read_file(w, &f, &bytes));
        kaws__buf_free(&bytes);
        assert_int_equal(fake_logged(&w->f, -1, ""), rows[i].words != NULL);
        if (rows[i].words != NULL)
            assert_int_equal(fake_logged(&w->f, 1, rows[i].words), 1);
    }
    if (geteuid() == 0) {
        assert_int_equal(chown(w->f.data, 12345, (gid_t)-1), 0);
        EXPECT(w, KAWS_FILE, "belongs to another user",
               read_file(w, &f, &bytes));
    }
    kaws__file_close(&f);
}

#endif


/* ---- changes: the file must be the one we know ------------------------- */

static kaws_status
change(struct world *w, kaws__file *f, int how)
{
    kaws_bytes patch = kaws__buf_of("CELL"), more = kaws__buf_of(OLD);
    kaws_bytes all = kaws__buf_of(OLD);
    kaws__writer writer;
    kaws_status status;
    int landed = 7;

    kaws__err_clear(&w->err);
    switch (how) {
    case 0:
        status = kaws__file_append(f, 8, patch, more, &landed, &w->err);
        assert_int_equal(landed, status == KAWS_OK);
        return status;
    case 1:
        status = kaws__file_begin(f, &writer, &w->err);
        if (status != KAWS_OK)
            return status;
        kaws__file_put(&writer, "new", 3);
        return kaws__file_commit(f, &writer, &landed, &w->err);
    case 2:
        kaws__file_mark_torn(f, all, 40);
        return kaws__file_set_aside(f, all, 1792926400, &w->err);
    default:
        return kaws__file_verify(f, &w->err);
    }
}


static void
test_another_file_in_its_place(void **state)
{
    static const struct { const char *what, *words; } rows[] = {
        { "copy", "another file has taken its place" },
#if !defined(_WIN32)
        { "pipe", "another file has taken its place" },
        { "link", "another file has taken its place" },
        { "sock", "another file has taken its place" },
#endif
        { "dir", NULL }, { "none", "No such file" }
    };
    struct world *w = *state;
    struct stat st, after;
    kaws__file f;
    size_t i;
    int how;

    for (i = 0; i < COUNT(rows); i++)
        for (how = 0; how < 4; how++) {
            (void)remove(w->f.data);
            open_old(w, &f);
            put(w, rows[i].what[0]);
            disk_trace[0] = '\0';
            memset(&st, 0, sizeof st);
            memset(&after, 0, sizeof after);
            (void)lstat(w->f.data, &st);
            EXPECT(w, KAWS_CHANGED, rows[i].words, change(w, &f, how));
            (void)lstat(w->f.data, &after);
            assert_memory_equal(&st, &after, sizeof st);
            assert_false(there(w, ".tmp"));
            assert_string_equal(disk_trace, "");
            assert_int_equal(f.size, OLD_LEN);
            kaws__file_close(&f);
        }
}


static void
test_other_bytes_in_it(void **state)
{
    struct world *w = *state;
    char bytes[OLD_LEN + 1];
    kaws__file f;
    int fd, how;
    size_t i;

    for (how = 0; how < 4; how++) {
        open_old(w, &f);
        assert_int_equal(truncate(w->f.data, OLD_LEN - 1), 0);
        EXPECT(w, KAWS_CHANGED, "its size is another", change(w, &f, how));
        assert_int_equal(truncate(w->f.data, 0), 0);
        EXPECT(w, KAWS_CHANGED, "its size is another", change(w, &f, how));
        spill(w->f.data, OLD "x", OLD_LEN + 1);
        EXPECT(w, KAWS_CHANGED, "its size is another", change(w, &f, how));
        for (i = OLD_LEN - 32; i < OLD_LEN; i++) {
            memcpy(bytes, OLD, OLD_LEN);
            bytes[i] ^= 1;
            fd = open(w->f.data, O_WRONLY);
            assert_int_equal(ftruncate(fd, OLD_LEN), 0);
            assert_int_equal(write(fd, bytes, OLD_LEN), OLD_LEN);
            close(fd);
            disk_trace[0] = '\0';
            EXPECT(w, KAWS_CHANGED, "its checksum is another",
                   change(w, &f, how));
            assert_string_equal(disk_trace, "");
        }
        expect_content(w->f.data, bytes, OLD_LEN);
        kaws__file_close(&f);
    }
}


/* That it cannot be looked at is not that it has changed. */
static void
test_cannot_look(void **state)
{
    struct world *w = *state;
    kaws__file f;
    int how;

    open_old(w, &f);
    for (how = 0; how < 4; how++) {
        disk_fail(DISK_LOOK, 0, EACCES, 1);
        EXPECT(w, KAWS_FILE, "Permission denied", change(w, &f, how));
        disk_fail("fstat", 0, EIO, 1);
        EXPECT(w, KAWS_FILE, "Input/output error", change(w, &f, how));
        disk_fail("pread", 0, EIO, 1);
        EXPECT(w, KAWS_FILE, "Input/output error", change(w, &f, how));
        assert_string_equal(disk_trace, "");
    }
    expect_content(w->f.data, OLD, OLD_LEN);
    kaws__file_close(&f);
}


/* ---- two names, and what is in the way --------------------------------- */

#if !defined(_WIN32)                      /* which locks <path>.lock only     */

/* By its other name it has another lock file, but it is the same file. */
static void
test_two_names(void **state)
{
    struct world *w = *state;
    char other[128];
    kaws__file f, g;
    kaws__buf bytes;
    int how;

    (void)snprintf(other, sizeof other, "%s/other", w->f.dir);
    spill(w->f.data, OLD, OLD_LEN);
    assert_int_equal(link(w->f.data, other), 0);
    for (how = 0; how < 2; how++) {
        fake_forget_log(&w->f);
        open_old(w, &f);
        EXPECT(w, KAWS_OK, NULL, kaws__file_hold(&f, 0, &w->err));
        assert_int_equal(fake_logged(&w->f, 1, "has 2 names (hard links)"), 1);
        assert_int_equal(fake_logged(&w->f, 1, "in use"), 0);
        EXPECT(w, KAWS_OK, NULL, kaws__file_open(&g, &w->f.hooks, other, how,
                                                 &w->err));
        EXPECT(w, KAWS_OK, NULL, kaws__file_hold(&g, 0, &w->err));
        EXPECT(w, KAWS_LOCKED, other, read_file(w, &g, &bytes));
        kaws__file_release(&f);
        EXPECT(w, KAWS_OK, NULL, read_file(w, &g, &bytes));
        assert_int_equal(fake_logged(&w->f, 1, "another process, too, by "
                                     "another name"), 1);
        kaws__buf_free(&bytes);
        EXPECT(w, KAWS_LOCKED, w->f.data, kaws__file_hold(&f, 0, &w->err));
        kaws__err_clear(&w->err);
        kaws__file_release(&g);
        EXPECT(w, KAWS_OK, NULL, kaws__file_hold(&f, 0, &w->err));
        kaws__file_close(&g);
        kaws__file_close(&f);
    }
}


/* Somebody has removed the lock file, before a change or in the middle of one:
 * the old file is locked, and the new one before it has its name. */
static void
test_lock_file_removed(void **state)
{
    struct world *w = *state;
    char lock[128];
    kaws__file f, g;
    kaws__buf bytes;
    int replaced;

    (void)snprintf(lock, sizeof lock, "%s.lock", w->f.data);
    for (replaced = 0; replaced < 2; replaced++) {
        fake_forget_log(&w->f);
        open_old(w, &f);
        EXPECT(w, KAWS_OK, NULL, kaws__file_hold(&f, 0, &w->err));
        if (replaced)
            EXPECT(w, KAWS_OK, NULL, change(w, &f, 1));
        assert_int_equal(remove(lock), 0);
        EXPECT(w, KAWS_OK, NULL, open_file(w, &g, 0));
        EXPECT(w, KAWS_OK, NULL, kaws__file_hold(&g, 0, &w->err));
        assert_int_equal(fake_logged(&w->f, 1, "in use"), 0);
        EXPECT(w, KAWS_LOCKED, NULL, read_file(w, &g, &bytes));
        kaws__file_release(&f);
        EXPECT(w, KAWS_OK, NULL, read_file(w, &g, &bytes));
        assert_int_equal(fake_logged(&w->f, 1, "its .lock was removed"), 1);
        kaws__buf_free(&bytes);
        kaws__file_close(&g);
        kaws__file_close(&f);
    }
}


/* All names see what is added; to replace it by one would make two files. */
static void
test_two_names_changed(void **state)
{
    struct world *w = *state;
    char other[128];
    kaws__file f;

    (void)snprintf(other, sizeof other, "%s/other", w->f.dir);
    open_old(w, &f);
    assert_int_equal(link(w->f.data, other), 0);
    disk_trace[0] = '\0';
    EXPECT(w, KAWS_OK, NULL, change(w, &f, 3));
    EXPECT(w, KAWS_FILE, "has 2 names", change(w, &f, 1));
    assert_string_equal(disk_trace, "");
    assert_false(there(w, ".tmp"));
    EXPECT(w, KAWS_OK, NULL, change(w, &f, 2));
    expect_content(other, OLD, 40);
    assert_int_equal(remove(other), 0);
    spill(w->f.data, OLD, OLD_LEN);
    kaws__file_close(&f);

    /* The second name is what a crash left. */
    open_old(w, &f);
    kaws__file_close(&f);
    (void)snprintf(other, sizeof other, "%s.tmp", w->f.data);
    assert_int_equal(link(w->f.data, other), 0);
    fake_forget_log(&w->f);
    open_old(w, &f);
    assert_false(there(w, ".tmp"));
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);
    assert_int_equal(link(w->f.data, other), 0);
    EXPECT(w, KAWS_OK, NULL, change(w, &f, 1));
    assert_false(there(w, ".tmp"));
    kaws__file_close(&f);
}


/* What goes wrong on file servers is said with what to do about it. */
static void
test_no_locks(void **state)
{
    static const struct { int os; const char *words; } rows[] = {
        { ENOLCK, "mount its file system with locks (errno" },
        { ENOSYS, "the program out of its sandbox (errno" },
        { EINVAL, "the program out of its sandbox (errno" },
        { EOPNOTSUPP, "move the file to a local disk (errno" },
        { ESTALE, "mount its file system again (errno" },
        { ENOTCONN, "mount it again (errno" },
        { ETIMEDOUT, "does the file server answer? (errno" }
    };
    struct world *w = *state;
    kaws__file f;
    kaws__buf bytes;
    size_t i;
    int nth;

    for (i = 0; i < COUNT(rows); i++)
        for (nth = 0; nth < 2; nth++) {
            spill(w->f.data, OLD, OLD_LEN);
            EXPECT(w, KAWS_OK, NULL, open_file(w, &f, 0));
            disk_fail("fcntl", nth, rows[i].os, 1);
            EXPECT(w, KAWS_FILE, rows[i].words, read_file(w, &f, &bytes));
            kaws__file_close(&f);

            disk_fail("fcntl", 0, rows[i].os, 1);     /* of the lock file */
            EXPECT(w, KAWS_OK, NULL, open_file(w, &f, 1));
            assert_int_equal(f.lock_fd, -1);
            disk_fail("fcntl", nth, rows[i].os, 1);
            fake_forget_log(&w->f);
            EXPECT(w, KAWS_OK, NULL, read_file(w, &f, &bytes));
            assert_int_equal(fake_logged(&w->f, 1, rows[i].words), 1);
            assert_int_equal(fake_logged(&w->f, 1, "without a lock"), 1);
            kaws__buf_free(&bytes);
            kaws__file_close(&f);
        }
}


/* Months may go by until the first remove: what will be in its way is said. */
static void
test_foreseen(void **state)
{
    static const int reasons[] = { EACCES, EROFS };
    struct world *w = *state;
    kaws__file f;
    size_t i;

    for (i = 0; i < COUNT(reasons); i++) {
        fake_forget_log(&w->f);
        disk_fail("faccessat", 0, reasons[i], 1);
        open_old(w, &f);
        assert_int_equal(fake_logged(&w->f, 1, "cannot be changed, so no key "
                                     "can be removed"), 1);
        assert_int_equal(fake_logged(&w->f, 1,
                                     kaws__sys_error_text(reasons[i])),
                         1);
        kaws__file_close(&f);
    }
    fake_forget_log(&w->f);
    open_old(w, &f);
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);
    kaws__file_close(&f);
}

#endif


/* ---- changed in between -------------------------------------------------- */

/* A byte that is neither size nor checksum, changed in place. */
static void
test_edited_in_place(void **state)
{
    struct world *w = *state;
    kaws__file f;
    int how, fd;

    for (how = 0; how < 4; how++) {
        open_old(w, &f);
        fd = open(w->f.data, O_WRONLY);
        assert_int_equal(write(fd, "H", 1), 1);
        close(fd);
        age(w->f.data);
        disk_trace[0] = '\0';
        EXPECT(w, KAWS_CHANGED, "its bytes are others", change(w, &f, how));
        EXPECT(w, KAWS_CHANGED, "its bytes are others", change(w, &f, how));
        assert_string_equal(disk_trace, "");
        kaws__file_close(&f);
    }
}


/* Only its times are others: it is read again, once, and found to be the same.
 * The cell, which no digest covers, does not matter. */
static void
test_touched(void **state)
{
    static uint8_t big[KAWS__STORE_HEADER + 10000];
    struct world *w = *state;
    kaws_bytes all = { big, sizeof big - 32 };
    kaws_bytes patch = { big, 16 };
    kaws__file f;
    kaws__buf bytes;
    int fd;

    memset(big, 'x', sizeof big);
    memset(big + KAWS__STORE_CELL, 0, 16);
    kaws__crypto_sha256(big + sizeof big - 32, all);
    spill(w->f.data, big, sizeof big);
    EXPECT(w, KAWS_OK, NULL, open_file(w, &f, 0));
    EXPECT(w, KAWS_OK, NULL, read_file(w, &f, &bytes));
    kaws__buf_free(&bytes);
    EXPECT(w, KAWS_OK, NULL, kaws__file_note(&f, KAWS__STORE_CELL, patch,
                                             &w->err));
    age(w->f.data);
    disk_fail("pread", 1, EIO, 1);
    EXPECT(w, KAWS_FILE, "Input/output error", change(w, &f, 3));
    EXPECT(w, KAWS_OK, NULL, change(w, &f, 3));
    disk_fail("pread", 1, EIO, 1);        /* not again                        */
    EXPECT(w, KAWS_OK, NULL, change(w, &f, 3));
    disk_heal();
#if !defined(_WIN32)
    assert_int_equal(chmod(w->f.data, 0640), 0);
    EXPECT(w, KAWS_OK, NULL, change(w, &f, 3));
#endif
    fd = open(w->f.data, O_WRONLY);
    assert_int_equal(lseek(fd, 9000, SEEK_SET), 9000);
    assert_int_equal(write(fd, "X", 1), 1);
    close(fd);
    age(w->f.data);
    EXPECT(w, KAWS_CHANGED, "its bytes are others", change(w, &f, 3));
    kaws__file_close(&f);
}


static const char *moved_to, *moved_at;


/* Somebody moves a file there, just before that call. */
static void
move_there(const char *call)
{
    char from[160];

    if (moved_to == NULL || strcmp(call, moved_at) != 0)
        return;
    (void)snprintf(from, sizeof from, "%s.new", moved_to);
    spill(from, "theirs", 6);
    assert_int_equal(rename(from, moved_to), 0);
    moved_to = NULL;
}


/* A file that appears where there was none is not overwritten, whatever the
 * system has for that. */
static void
test_appears(void **state)
{
    static const struct { const char *at; int lacks; } rows[] = {
        { DISK_REPLACE, 0 },
#if !defined(_WIN32)
        { "link", 1 }, { "lstat", 2 }
#endif
    };
    struct world *w = *state;
    kaws__file f;
    kaws__buf bytes;
    size_t i;

    for (i = 0; i < 2 * COUNT(rows); i++) {
        disk_heal();
        (void)remove(w->f.data);
        EXPECT(w, KAWS_OK, NULL, open_file(w, &f, 0));
        EXPECT(w, KAWS_OK, NULL, read_file(w, &f, &bytes));
        assert_false(f.exists);
        if (rows[i / 2].lacks > 0)
            disk_fail("renameat2", 0, i % 2 == 0 ? EINVAL : EPERM, 1);
        if (rows[i / 2].lacks > 1)
            disk_fail("link", 0, i % 2 == 0 ? EPERM : EACCES, 1);
        moved_to = i % 2 == 0 ? w->f.data : NULL;
        moved_at = rows[i / 2].at;
        disk_on_call = move_there;
        EXPECT(w, i % 2 == 0 ? KAWS_CHANGED : KAWS_OK,
               "a file has appeared in its place", change(w, &f, 1));
        expect_content(w->f.data, i % 2 == 0 ? "theirs" : "new",
                       i % 2 == 0 ? 6 : 3);
        assert_false(there(w, ".tmp"));
        assert_int_equal(f.exists, i % 2);
        if (i % 2 == 1 && !moved_to)
            assert_int_equal(f.links, 1);
        kaws__file_close(&f);
    }
}


#if !defined(_WIN32)

/* A file that is moved there after the look comes back, and ours does not stay.
 * Where there is no exchange, one that comes before the last look is safe. */
static void
test_taken_away(void **state)
{
    static const struct { const char *at; int os; const char *trace; }
    rows[] = {
        { "renameat2", 0, "uwdxxfu" },
        { "lstat", EINVAL, "uwdxru" },    /* the r is move_there's            */
        { "lstat", ENOSYS, "uwdxru" },
        { "lstat", EPERM, "uwdxru" },     /* in a sandbox                     */
        { "lstat", EOPNOTSUPP, "uwdxru" }
    };
    struct world *w = *state;
    kaws__file f;
    size_t i;
    int fd;

    for (i = 0; i < COUNT(rows); i++) {
        disk_heal();
        open_old(w, &f);
        if (rows[i].os != 0)
            disk_fail("renameat2", 0, rows[i].os, 1);
        fd = f.fd;
        EXPECT(w, KAWS_OK, NULL, change(w, &f, 3));
        moved_to = w->f.data;
        moved_at = rows[i].at;
        disk_on_call = i == 0 ? move_there : NULL;
        if (i > 0) {                      /* between the two looks            */
            kaws__writer writer;
            int landed;
            EXPECT(w, KAWS_OK, NULL, kaws__file_begin(&f, &writer, &w->err));
            kaws__file_put(&writer, "new", 3);
            disk_on_call = move_there;
            EXPECT(w, KAWS_CHANGED, "another file has taken its place",
                   kaws__file_commit(&f, &writer, &landed, &w->err));
            assert_int_equal(landed, 0);
        } else {
            EXPECT(w, KAWS_CHANGED, "another file has taken its place",
                   change(w, &f, 1));
        }
        assert_string_equal(disk_trace, rows[i].trace);
        expect_content(w->f.data, "theirs", 6);
        assert_false(there(w, ".tmp"));
        assert_int_equal(f.fd, fd);
        kaws__err_clear(&w->err);
        kaws__file_close(&f);
    }
}


/* Somebody removes it, just before that call. */
static void
take_away(const char *call)
{
    if (moved_to == NULL || strcmp(call, moved_at) != 0)
        return;
    assert_int_equal(remove(moved_to), 0);
    moved_to = NULL;
}


/* It is not there any more; or it is another, while we wait to read it. */
static void
test_gone(void **state)
{
    struct world *w = *state;
    kaws__file f;
    kaws__buf bytes;

    open_old(w, &f);
    moved_to = w->f.data;
    moved_at = "renameat2";
    disk_on_call = take_away;
    EXPECT(w, KAWS_CHANGED, "No such file", change(w, &f, 1));
    assert_false(there(w, ""));
    assert_false(there(w, ".tmp"));
    kaws__file_close(&f);

    spill(w->f.data, OLD, OLD_LEN);
    kaws__err_clear(&w->err);
    EXPECT(w, KAWS_OK, NULL, open_file(w, &f, 0));
    moved_to = w->f.data;
    moved_at = "fcntl";
    disk_on_call = move_there;
    EXPECT(w, KAWS_CHANGED, "was replaced while it was being opened",
           read_file(w, &f, &bytes));
    moved_to = w->f.data;
    disk_on_call = take_away;
    EXPECT(w, KAWS_CHANGED, "was replaced while it was being opened",
           read_file(w, &f, &bytes));
    spill(w->f.data, OLD, OLD_LEN);
    disk_fail("lstat", 0, EIO, 1);
    EXPECT(w, KAWS_FILE, "cannot look at", read_file(w, &f, &bytes));
    kaws__err_clear(&w->err);
    kaws__file_close(&f);
}


/* Somebody gives it a second name, just before that call. */
static void
link_it(const char *call)
{
    char other[160];

    if (moved_to == NULL || strcmp(call, moved_at) != 0)
        return;
    (void)snprintf(other, sizeof other, "%s.link", moved_to);
    assert_int_equal((link)(moved_to, other), 0);
    moved_to = NULL;
}


/* To go on would leave the other name with a keyring of its own. */
static void
test_linked_meanwhile(void **state)
{
    struct world *w = *state;
    kaws__file f;

    open_old(w, &f);
    moved_to = w->f.data;
    moved_at = "renameat2";
    disk_on_call = link_it;
    EXPECT(w, KAWS_CHANGED, "a hard link", change(w, &f, 1));
    disk_heal();
    expect_content(w->f.data, OLD, OLD_LEN);
    assert_false(there(w, ".tmp"));
    EXPECT(w, KAWS_OK, NULL, change(w, &f, 3));
    EXPECT(w, KAWS_FILE, "has 2 names", change(w, &f, 1));
    kaws__file_close(&f);
}


/* It cannot be put back, or not durably. */
static void
test_not_put_back(void **state)
{
    struct world *w = *state;
    char tmp[128];
    kaws__writer writer;
    kaws__file f;
    int landed, i;

    (void)snprintf(tmp, sizeof tmp, "%s.tmp", w->f.data);
    for (i = 0; i < 2; i++) {
        disk_heal();
        open_old(w, &f);
        EXPECT(w, KAWS_OK, NULL, kaws__file_begin(&f, &writer, &w->err));
        kaws__file_put(&writer, "new", 3);
        moved_to = w->f.data;
        moved_at = "renameat2";
        disk_on_call = move_there;
        disk_fail(i == 0 ? "renameat2" : "fsync", i == 0, EIO, 1);
        EXPECT(w, KAWS_UNCERTAIN, i == 0 ? "is .tmp now: save it" : "durably",
               kaws__file_commit(&f, &writer, &landed, &w->err));
        assert_int_equal(landed, i == 0);
        expect_content(w->f.data, i == 0 ? "new" : "theirs", i == 0 ? 3 : 6);
        if (i == 0)
            expect_content(tmp, "theirs", 6);
        assert_int_equal(there(w, ".tmp"), i == 0);
        kaws__err_clear(&w->err);
        kaws__file_close(&f);
    }
}



static int refused;


/* Somebody else, who has the old file open, wants to add to it. */
static void
want_old(const char *call)
{
    struct flock range = { .l_type = F_WRLCK, .l_start = 1, .l_len = 1 };
    int fd;

    if (strcmp(call, "unlink") != 0 || strchr(disk_trace, 'x') == NULL)
        return;
    fd = (open)(moved_to, O_RDWR);
    assert_true(fd >= 0);
    refused += (fcntl)(fd, F_OFD_SETLK, &range) != 0;
    close(fd);
}


/* As long as the file that was replaced has a name, it is locked: who has it by
 * another, a mount of that one file, would take it for the keyring. */
static void
test_old_stays_locked(void **state)
{
    struct world *w = *state;
    char tmp[128];
    kaws__file f;

    (void)snprintf(tmp, sizeof tmp, "%s.tmp", w->f.data);
    open_old(w, &f);
    EXPECT(w, KAWS_OK, NULL, kaws__file_hold(&f, 0, &w->err));
    moved_to = tmp;
    disk_on_call = want_old;
    EXPECT(w, KAWS_OK, NULL, change(w, &f, 1));
    assert_int_equal(refused, 1);
    disk_heal();
    kaws__file_release(&f);
    kaws__file_close(&f);
}

#endif


/* ---- appending --------------------------------------------------------- */

static void
test_append(void **state)
{
    struct world *w = *state;
    char want[2 * OLD_LEN + 1];
    kaws__file f;

    open_old(w, &f);
    EXPECT(w, KAWS_OK, NULL, change(w, &f, 0));
    assert_string_equal(disk_trace, "wwd");       /* cell, bytes, sync */
    (void)snprintf(want, sizeof want, "%s%s", OLD, OLD);
    memcpy(want + 8, "CELL", 4);
    expect_content(w->f.data, want, 2 * OLD_LEN);
    assert_int_equal(f.size, 2 * OLD_LEN);
    assert_memory_equal(f.tail, &old[OLD_LEN - 32], 32);
    EXPECT(w, KAWS_OK, NULL, change(w, &f, 3));

    disk_fail("pwrite", 1, EAGAIN, 3);    /* bit by bit                       */
    disk_fail("fdatasync", 0, EINTR, 2);
    EXPECT(w, KAWS_OK, NULL, change(w, &f, 0));
    assert_int_equal(f.size, 3 * OLD_LEN);
    EXPECT(w, KAWS_OK, NULL, change(w, &f, 3));
    kaws__file_close(&f);
}


/* Which calls fail, and what then holds. */
static void
test_append_fails(void **state)
{
    static const struct {
        const char *call[3];
        int         skip[3], os;
        kaws_status status;
        int         landed;
        const char *trace;
        size_t      len;
    } rows[] = {
        { { "pwrite" }, { 0 }, EIO, KAWS_FILE, 0, "w", OLD_LEN },
        { { "pwrite" }, { 1 }, EIO, KAWS_FILE, 0, "wwtd", OLD_LEN },
        { { "pwrite" }, { 1 }, ENOSPC, KAWS_FILE, 0, "wwtd", OLD_LEN },
        { { "fdatasync" }, { 0 }, EIO, KAWS_FILE, 0, "wwdtd", OLD_LEN },
        { { "pwrite", "ftruncate" }, { 1, 0 }, ENOSPC, KAWS_UNCERTAIN, 0,
          "wwt", OLD_LEN + OLD_LEN / 2 },
        { { "pwrite", "fdatasync" }, { 1, 0 }, ENOSPC, KAWS_UNCERTAIN, 0,
          "wwtd", OLD_LEN },
        { { "fdatasync", "ftruncate" }, { 0, 0 }, EIO, KAWS_UNCERTAIN, 1,
          "wwdt", 2 * OLD_LEN },
        { { "fdatasync", "fdatasync" }, { 0, 0 }, EIO, KAWS_UNCERTAIN, 0,
          "wwdtd", OLD_LEN }
    };
    struct world *w = *state;
    kaws_bytes patch = kaws__buf_of("CELL"), more = kaws__buf_of(OLD);
    struct stat st;
    kaws__file f;
    size_t i, k;
    int landed;

    for (i = 0; i < COUNT(rows); i++) {
        disk_heal();
        open_old(w, &f);
        for (k = 0; k < 3 && rows[i].call[k] != NULL; k++)
            disk_fail(rows[i].call[k], rows[i].skip[k], rows[i].os, 1);
        kaws__err_clear(&w->err);
        EXPECT(w, rows[i].status,
               rows[i].status == KAWS_UNCERTAIN ? "no more is changed"
                                                : "the data file",
               kaws__file_append(&f, 8, patch, more, &landed, &w->err));
        assert_int_equal(w->err.os, rows[i].os);
        assert_string_equal(disk_trace, rows[i].trace);
        assert_int_equal(stat(w->f.data, &st), 0);
        assert_int_equal(st.st_size, rows[i].len);
        if (landed != rows[i].landed)
            fail_msg("row %lu", (unsigned long)i);
        assert_int_equal(f.size, landed ? 2 * OLD_LEN : OLD_LEN);
        kaws__file_close(&f);
    }
}


/* ---- replacing --------------------------------------------------------- */

static void
test_replace(void **state)
{
    struct world *w = *state;
    size_t n = 3 * KAWS__FILE_BLOCK + 17, i, step;
    char stale[128], target[128];
    uint8_t *big = malloc(n);
    struct stat st;
    uint64_t before;
    kaws__writer writer;
    kaws__file f;
    int landed;

    assert_non_null(big);
    for (i = 0; i < n; i++)
        big[i] = (uint8_t)(i * 7 + i / 256);
    open_old(w, &f);
    before = f.ino;
    (void)snprintf(stale, sizeof stale, "%s.tmp", w->f.data);
    (void)snprintf(target, sizeof target, "%s/elsewhere", w->f.dir);
    if (HAS_LINKS)
        assert_int_equal(symlink(target, stale), 0);  /* a trap               */
    else
        spill(stale, "stale", 5);
    umask(0);
    EXPECT(w, KAWS_OK, NULL, kaws__file_begin(&f, &writer, &w->err));
    for (i = 0; i < n; i += step) {
        step = 1 + i * 31 % 50000;
        step = step < n - i ? step : n - i;
        kaws__file_put(&writer, big + i, step);
    }
    disk_fail("pwrite", 0, EAGAIN, 1);
    EXPECT(w, KAWS_OK, NULL, kaws__file_commit(&f, &writer, &landed,
                                              &w->err));
    expect_content(w->f.data, big, n);
    has_mode(w->f.data, 0600);
    assert_true(f.ino != before);
    assert_int_not_equal(lstat(target, &st), 0);
    assert_false(there(w, ".tmp"));
    assert_string_equal(disk_trace, REPLACES("uwwwwwd"));
    assert_int_equal(f.size, n);
    assert_memory_equal(f.tail, big + n - 32, 32);
    EXPECT(w, KAWS_OK, NULL, change(w, &f, 3));

    /* Begun, and thought better of. */
    EXPECT(w, KAWS_OK, NULL, kaws__file_begin(&f, &writer, &w->err));
    kaws__file_put(&writer, "x", 1);
    assert_true(there(w, ".tmp"));
    kaws__file_abandon(&f, &writer);
    assert_false(there(w, ".tmp"));
    expect_content(w->f.data, big, n);
    kaws__file_close(&f);
    free(big);
}


static void
test_replace_fails(void **state)
{
    static const struct { const char *call; int skip, os; const char *trace; }
    rows[] = {
        { "unlink", 0, EPERM, "u" },
        { "open", DISK_OPENS, EACCES, "u" },
        { "pwrite", 0, ENOSPC, "uwu" },
        { "pwrite", 0, EIO, "uwu" },
        { "fdatasync", 0, EIO, "uwdu" },
        { "fstat", DISK_STATS, EIO, "uu" },
        { "fstat", DISK_STATS + 1, EIO, "uwdu" },
        { "fcntl", 0, ENOLCK, "uwdu" },
        { "fcntl", 1, ENOLCK, "uwdu" },
        { "opendir", 0, EMFILE, "uwdu" },
#if defined(_WIN32)
        { "rename", 0, EIO, "uwdru" }
#else
        { "renameat2", 0, EIO, "uwdxu" },
        { "fstat", 3, EIO, "uwdxxfu" },   /* what came out cannot be seen     */
        { "lstat", 1, EIO, "uwdxxfu" },
        { "pread", 1, EIO, "uwdxxfu" }
#endif
    };
    struct world *w = *state;
    kaws__file f, before;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        disk_heal();
        open_old(w, &f);
        before = f;
        disk_fail(rows[i].call, rows[i].skip, rows[i].os, 1);
        EXPECT(w, KAWS_FILE, "data", change(w, &f, 1));
        assert_int_equal(w->err.os, rows[i].os);
        assert_string_equal(disk_trace, rows[i].trace);
        assert_memory_equal(&f, &before, sizeof f);
        expect_content(w->f.data, OLD, OLD_LEN);
        assert_false(there(w, ".tmp"));
        EXPECT(w, KAWS_OK, NULL, change(w, &f, 1));   /* and the next goes    */
        expect_content(w->f.data, "new", 3);
        kaws__file_close(&f);
    }
    open_old(w, &f);
    w->f.fail_nth = w->f.allocs + 1;
    EXPECT(w, KAWS_MEMORY, "out of memory", change(w, &f, 1));
    expect_content(w->f.data, OLD, OLD_LEN);
    kaws__file_close(&f);
}


/* After a write that failed nothing more is written. */
static void
test_replace_stops(void **state)
{
    static uint8_t big[3 * KAWS__FILE_BLOCK];
    struct world *w = *state;
    kaws__writer writer;
    kaws__file f;
    int landed;

    open_old(w, &f);
    EXPECT(w, KAWS_OK, NULL, kaws__file_begin(&f, &writer, &w->err));
    disk_fail("pwrite", 1, EIO, 1);
    kaws__file_put(&writer, big, sizeof big);
    EXPECT(w, KAWS_FILE, "data", kaws__file_commit(&f, &writer, &landed,
                                              &w->err));
    assert_int_equal(w->err.os, EIO);
    assert_string_equal(disk_trace, "uwwu");
    expect_content(w->f.data, OLD, OLD_LEN);
    assert_false(there(w, ".tmp"));
    kaws__file_close(&f);
}


/* The folder's sync fails after the rename: the new file is there, and known,
 * but who knows for how long. A file system that cannot sync says EINVAL. */
static void
test_replace_uncertain(void **state)
{
    static const struct { int os; kaws_status status; } rows[] = {
        { EIO, KAWS_UNCERTAIN }, { EINVAL, KAWS_OK }, { EINTR, KAWS_OK }
    };
    struct world *w = *state;
    kaws__file f;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        open_old(w, &f);
        disk_fail("fsync", 0, rows[i].os, 1);
        EXPECT(w, rows[i].status, "could not be synced", change(w, &f, 1));
        expect_content(w->f.data, "new", 3);
        assert_int_equal(f.size, 3);
        assert_false(there(w, ".tmp"));
        kaws__file_close(&f);
    }
}


/* What stands in the way of the new file is not written to. */
static void
test_replace_in_the_way(void **state)
{
    struct world *w = *state;
    char tmp[128];
    kaws__file f;

    open_old(w, &f);
    (void)snprintf(tmp, sizeof tmp, "%s.tmp", w->f.data);
    spill(tmp, "stale", 5);
    EXPECT(w, KAWS_OK, NULL, change(w, &f, 1));
    assert_int_equal(mkdir(tmp, 0700), 0);
    kaws__file_close(&f);
    open_old(w, &f);
    EXPECT(w, KAWS_FILE, "Is a directory", change(w, &f, 1));
    expect_content(w->f.data, OLD, OLD_LEN);
    kaws__file_close(&f);
}


/* ---- a torn end -------------------------------------------------------- */

static void
test_set_aside(void **state)
{
    struct world *w = *state;
    char path[160];
    kaws__file f;

    open_old(w, &f);
    umask(0);
    EXPECT(w, KAWS_OK, NULL, change(w, &f, 2));
    assert_string_equal(disk_trace, "wdftd");
    (void)snprintf(path, sizeof path, "%s.torn-20261025T110640Z", w->f.data);
    expect_content(path, &old[40], OLD_LEN - 40);
    has_mode(path, 0600);
    assert_string_equal(f.aside, path);
    expect_content(w->f.data, OLD, 40);
    assert_int_equal(f.torn, 0);
    assert_int_equal(f.size, 40);
    assert_memory_equal(f.tail, &old[8], 32);
    kaws__file_close(&f);
}


static const char *grown;


static void
lengthen(const char *call)
{
    FILE *file;

    if (strcmp(call, "fdatasync") != 0 || disk_trace[0] == '\0' ||
        strchr(disk_trace, 't') == NULL)
        return;
    file = fopen(grown, "ab");
    assert_non_null(file);
    assert_int_equal(fputs("much more than there was before it was cut off, "
                           "and all of it somebody else's", file) >= 0, 1);
    assert_int_equal(fclose(file), 0);
}


/* Somebody makes the file longer while its end is cut off: what we have read is
 * not what is there, and nothing of our memory beyond it may be written. */
static void
test_set_aside_grows(void **state)
{
    struct world *w = *state;
    kaws_bytes all = kaws__buf_of(OLD);
    kaws__file f;

    open_old(w, &f);
    grown = w->f.data;
    disk_on_call = lengthen;
    EXPECT(w, KAWS_CHANGED, "while its torn end was cut off",
           change(w, &f, 2));
    disk_heal();
    assert_true(f.size > OLD_LEN);
    kaws__err_clear(&w->err);
    EXPECT(w, KAWS_CHANGED, "changed while",
           kaws__file_settle(&f, all, 40, &w->err));
    assert_string_equal(disk_trace, "f");
    kaws__file_close(&f);
}


/* Several in one second get names of their own; a hundred are too many. */
static void
test_set_aside_again(void **state)
{
    struct world *w = *state;
    char suffix[64];
    kaws__file f;
    int i;

    for (i = 0; i < 99; i++) {
        open_old(w, &f);
        EXPECT(w, KAWS_OK, NULL, change(w, &f, 2));
        (void)snprintf(suffix, sizeof suffix, i == 0
                       ? ".torn-20261025T110640Z"
                       : ".torn-20261025T110640Z-%d", i);
        assert_true(there(w, suffix));
        kaws__file_close(&f);
    }
    open_old(w, &f);
    EXPECT(w, KAWS_FILE, "File exists", change(w, &f, 2));
    expect_content(w->f.data, OLD, OLD_LEN);
    kaws__file_close(&f);
}


/* Nothing is cut off before its copy is safe; a copy that is not, goes, and one
 * that is, is not made again. No memory is needed. */
static void
test_set_aside_fails(void **state)
{
    static const struct { const char *call; int skip, os; size_t len; }
    rows[] = {
        { "open", DISK_OPENS, ENOSPC, OLD_LEN },
        { "pwrite", 0, ENOSPC, OLD_LEN },
        { "fdatasync", 0, EIO, OLD_LEN }, { "fsync", 0, EIO, OLD_LEN },
        { "opendir", 0, EMFILE, OLD_LEN }, { "ftruncate", 0, EIO, OLD_LEN },
        { "fdatasync", 1, EIO, 40 }, { "fstat", DISK_STATS, EIO, 40 }
    };
    struct world *w = *state;
    kaws__file f;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        disk_heal();
        open_old(w, &f);
        disk_fail(rows[i].call, rows[i].skip, rows[i].os, 1);
        EXPECT(w, KAWS_FILE, "cannot set the torn end", change(w, &f, 2));
        assert_int_equal(w->err.os, rows[i].os);
        expect_content(w->f.data, OLD, rows[i].len);
        assert_int_equal(there(w, ".torn-20261025T110640Z"), i >= 5);
        assert_int_equal(f.torn, rows[i].len - 40);
        disk_heal();
        w->f.fail_nth = w->f.allocs + 1;
        if (f.torn > 0)                           /* once more, for good      */
            EXPECT(w, KAWS_OK, NULL, change(w, &f, 2));
        w->f.fail_nth = 0;
        EXPECT(w, KAWS_OK, NULL, change(w, &f, 3));
        expect_content(w->f.data, OLD, 40);
        assert_true(there(w, ".torn-20261025T110640Z"));
        assert_false(there(w, ".torn-20261025T110640Z-1"));
        kaws__file_close(&f);
        put(w, '-');
        (void)snprintf(w->f.body, sizeof w->f.body,
                       "%s.torn-20261025T110640Z", w->f.data);
        (void)remove(w->f.body);
    }
}


/* ---- what was found is made durable ------------------------------------ */

static void
test_settle(void **state)
{
    static const struct { const char *call; int skip, os; const char *words; }
    rows[] = {
        { "opendir", 0, EMFILE, "cannot sync the folder" },
        { "fsync", 0, EIO, "cannot sync the folder" },
        { DISK_LOOK, 0, EACCES, "cannot look at" },
        { "pwrite", 0, ENOSPC, "cannot make durable" },
        { "fdatasync", 0, EIO, "cannot make durable" }
    };
    struct world *w = *state;
    kaws_bytes all = kaws__buf_of(OLD);
    kaws__file f;
    size_t i;

    open_old(w, &f);
    EXPECT(w, KAWS_OK, NULL, kaws__file_settle(&f, all, 40, &w->err));
    assert_string_equal(disk_trace, "fwd");
    expect_content(w->f.data, OLD, OLD_LEN);
    disk_trace[0] = '\0';
    EXPECT(w, KAWS_OK, NULL, kaws__file_settle(&f, all, OLD_LEN, &w->err));
    assert_string_equal(disk_trace, "fd");        /* it may have been cut     */
    for (i = 0; i < COUNT(rows); i++) {
        disk_heal();
        disk_fail(rows[i].call, rows[i].skip, rows[i].os, 1);
        kaws__err_clear(&w->err);
        f.synced = 0;
        EXPECT(w, KAWS_FILE, rows[i].words,
               kaws__file_settle(&f, all, 40, &w->err));
        assert_int_equal(f.synced, strcmp(rows[i].call, "pwrite") == 0);
        expect_content(w->f.data, OLD, OLD_LEN);
    }
    put(w, 'c');
    kaws__err_clear(&w->err);
    EXPECT(w, KAWS_CHANGED, NULL, kaws__file_settle(&f, all, 40, &w->err));
    kaws__file_close(&f);
}


/* A patch that stopped in the middle is tried again. */
static void
test_half_a_patch(void **state)
{
    struct world *w = *state;
    char want[OLD_LEN + 1];
    kaws__file f;

    memcpy(want, OLD, sizeof want);
    memcpy(want + 8, "CELL", 4);
    open_old(w, &f);
    disk_fail("pwrite", 0, EAGAIN, 1);
    disk_fail("pwrite", 0, EIO, 1);
    EXPECT(w, KAWS_OK, NULL, change(w, &f, 0));
    assert_string_equal(disk_trace, "wwwwd");
    assert_int_equal(f.size, 2 * OLD_LEN);
    kaws__file_close(&f);

    open_old(w, &f);
    disk_fail("pwrite", 0, EAGAIN, 1);
    disk_fail("pwrite", 0, EIO, 2);
    EXPECT(w, KAWS_UNCERTAIN, "again when that was repeated",
           change(w, &f, 0));
    assert_string_equal(disk_trace, "www");
    assert_int_equal(f.size, OLD_LEN);
    kaws__file_close(&f);
}


int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(test_names),
#if !defined(_WIN32)
        TEST(test_names_in_sentences),
        TEST(test_long_names),
        TEST(test_forced_owner),
        TEST(test_folder_of_others),
        TEST(test_root_behind_a_link),
#endif
        TEST(test_folder),
        TEST(test_root),
        TEST(test_names_without_folder),
        TEST(test_lock_file),
        TEST(test_hold),
#if !defined(_WIN32)
        TEST(test_hold_across_processes),
        TEST(test_modes_and_owner),
#endif
        TEST(test_read),
        TEST(test_read_while_it_changes),
        TEST(test_read_something_else),
        TEST(test_another_file_in_its_place),
        TEST(test_other_bytes_in_it),
        TEST(test_cannot_look),
#if !defined(_WIN32)
        TEST(test_two_names),
        TEST(test_lock_file_removed),
        TEST(test_two_names_changed),
        TEST(test_no_locks),
        TEST(test_foreseen),
        TEST(test_taken_away),
        TEST(test_gone),
        TEST(test_linked_meanwhile),
        TEST(test_not_put_back),
        TEST(test_old_stays_locked),
#endif
        TEST(test_edited_in_place),
        TEST(test_touched),
        TEST(test_appears),
        TEST(test_append),
        TEST(test_append_fails),
        TEST(test_replace),
        TEST(test_replace_fails),
        TEST(test_replace_stops),
        TEST(test_replace_uncertain),
        TEST(test_replace_in_the_way),
        TEST(test_set_aside),
        TEST(test_set_aside_grows),
        TEST(test_set_aside_again),
        TEST(test_set_aside_fails),
        TEST(test_settle),
        TEST(test_half_a_patch)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
