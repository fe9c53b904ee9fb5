/* Rooms file and save: names, locks, reading, and every step of every change
 * failing in turn. */

#include "../fault/disk.h"

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "world.h"

#include <utime.h>

#if !defined(_WIN32)
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#endif

#define OK(w, call) EXPECT(w, KAWS_OK, NULL, call)

/* What a replacement ends with. */
#if defined(_WIN32)
#define REPLACES(trace) trace "druf"
#else
#define REPLACES(trace) trace "dxuf"
#endif

/* A file of one entry; the same with that entry twice; and with none, as a
 * replacement makes it here. Rooms file and save know no more of an entry than
 * its digest. */
#define RECORD \
    "an entry of 64 bytes: only its digest is looked at, not its rest"
enum { NEW_LEN = 80, OLD_LEN = NEW_LEN + 64 + 32, TWO_LEN = OLD_LEN + 64 + 32 };

static uint8_t old[OLD_LEN], two[TWO_LEN], fresh[NEW_LEN];
static const uint8_t id[16] = "sixteen bytes..";


static void
lay(uint8_t *out, size_t len, uint64_t committed, kaws__sha256 *state)
{
    kaws_bytes record = kaws__buf_of(RECORD);
    size_t at;

    kaws__store_header(out, state, id, 7, committed);
    for (at = NEW_LEN; at < len; at += record.len + 32) {
        memcpy(out + at, record.at, record.len);
        kaws__store_digest(state, record, out + at + record.len);
    }
}


static int
begin(void **state)
{
    kaws__sha256 unused;
    int wrong;

    lay(old, OLD_LEN, OLD_LEN, &unused);
    lay(two, TWO_LEN, OLD_LEN, &unused);
    lay(fresh, NEW_LEN, NEW_LEN, &unused);
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
open_at(struct world *w, kaws__file *f, const char *path, int read_only)
{
    kaws__err_clear(&w->err);
    return kaws__file_open(f, &w->f.hooks, path, read_only, &w->err);
}


static kaws_status
open_file(struct world *w, kaws__file *f, int read_only)
{
    return open_at(w, f, w->f.data, read_only);
}


/* Only `want`, if it is not NULL, may be read. */
static kaws_status
read_as(struct world *w, kaws__file *f, const void *want, size_t len)
{
    kaws__buf bytes;
    kaws_status status;

    kaws__err_clear(&w->err);
    kaws__buf_init(&bytes, &w->f.hooks);
    status = kaws__file_read(f, &bytes, &w->err);
    if (want != NULL) {
        assert_int_equal(bytes.len, len);
        assert_memory_equal(bytes.at, want, len);
    }
    kaws__buf_free(&bytes);
    return status;
}


static kaws_status
read_file(struct world *w, kaws__file *f)
{
    return read_as(w, f, NULL, 0);
}


/* What a check of the old file finds, of which `good` bytes count. */
static kaws__found
found_of(size_t good)
{
    kaws__found found;

    memset(&found, 0, sizeof found);
    memcpy(found.file_id, id, sizeof id);
    found.epoch = 7;
    found.committed = found.good = good;
    found.torn = good < OLD_LEN;
    lay(old, good, OLD_LEN, &found.state);
    return found;
}


/* The old file, opened, accepted and locked. */
static void
open_old(struct world *w, kaws__file *f)
{
    kaws__found found = found_of(OLD_LEN);
    kaws_bytes all = { old, OLD_LEN };

    spill(w->f.data, old, OLD_LEN);
    OK(w, open_file(w, f, 0));
    OK(w, read_file(w, f));
    OK(w, kaws__save_accept(f, all, &found, &w->err));
    assert_memory_equal(kaws__file_sum(f), &old[OLD_LEN - 32], 32);
    assert_memory_equal(kaws__file_id(f), id, 16);
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


/* A path: the data file's with that suffix, or (after a slash) in its folder. A
 * test may have eight of them. */
static const char *
beside(struct world *w, const char *suffix)
{
    static char paths[8][200];
    static int next;
    char *path = paths[next++ % 8];

    (void)snprintf(path, sizeof paths[0], "%s%s", *suffix == '/' ? w->f.dir
                   : w->f.data, suffix);
    return path;
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
        OK(w, kaws__file_names(&f, rows[i].path, &w->err));
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
    const char *path = beside(w, "/n\new \x1b[31m/data");
    const char *want = beside(w, "/n\\x0aew \\x1b[31m");
    char *at;
    size_t i, said = 0;

    for (i = 0; i < COUNT(calls) * 4; i++) {
        kaws__file f;
        kaws__buf bytes;

        kaws__err_clear(&w->err);
        kaws__buf_init(&bytes, &w->f.hooks);
        disk_heal();
        disk_fail(calls[i / 4], (int)(i % 4), EIO, 1);
        if (open_at(w, &f, path, 0) == KAWS_OK &&
            kaws__file_hold(&f, 0, &w->err) == KAWS_OK &&
            kaws__file_read(&f, &bytes, &w->err) == KAWS_OK && !f.exists)
            (void)kaws__save_create(&f, &w->err);
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
    const char *dir = beside(w, "/new");
    char path[200];

    (void)snprintf(path, sizeof path, "%s/data", dir);
    OK(w, open_at(w, &f, path, 0));
    assert_int_equal(stat(dir, &st), 0);
    has_mode(dir, 0750);
    assert_int_equal(fake_logged(&w->f, 1, "is its volume mounted?"), 1);
    assert_string_equal(disk_trace, "m");
    kaws__file_close(&f);
    OK(w, open_at(w, &f, path, 0));
    assert_int_equal(fake_logged(&w->f, -1, ""), 1);
    kaws__file_close(&f);
    (void)snprintf(path, sizeof path, "%s/data.lock", dir);
    assert_int_equal(remove(path), 0);
    assert_int_equal(rmdir(dir), 0);

    /* One level, no more; and none for a reader. */
    (void)snprintf(path, sizeof path, "%s/new/newer/data", w->f.dir);
    EXPECT(w, KAWS_FILE, "cannot make the folder", open_at(w, &f, path, 0));
    assert_int_equal(w->err.os, ENOENT);
    kaws__file_close(&f);
    kaws__err_clear(&w->err);
    OK(w, open_at(w, &f, path, 1));
    kaws__file_close(&f);
    assert_int_not_equal(stat(dir, &st), 0);
}


/* A keyring's folder must not be lost to a power cut, nor a folder above it
 * that is not ours to look at keep us from working. */
static void
test_folder_above(void **state)
{
    static const struct { const char *call; int os, made; kaws_status status; }
    rows[] = {
        { "fsync", EIO, 0, KAWS_FILE }, { "fsync", EIO, 1, KAWS_FILE },
        { "fsync", EINVAL, 1, KAWS_OK }, { "opendir", EACCES, 0, KAWS_OK },
        { "opendir", EACCES, 1, KAWS_FILE }, { "opendir", EIO, 0, KAWS_FILE },
        { "opendir", EINTR, 1, KAWS_OK }, { "none", 0, 1, KAWS_OK }
    };
    struct world *w = *state;
    const char *path = beside(w, "/sub/data");
    kaws__file f;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        disk_heal();
        OK(w, open_at(w, &f, path, 0));
        assert_int_equal(f.made_dir, i == 0);
        f.made_dir = rows[i].made;
        disk_fail(rows[i].call, 0, rows[i].os, 1);
        EXPECT(w, rows[i].status, "cannot sync the folder above",
               kaws__save_create(&f, &w->err));
        kaws__err_clear(&w->err);
        assert_int_equal(f.exists, rows[i].status == KAWS_OK);
        assert_int_equal(remove(path) == 0, rows[i].status == KAWS_OK);
        if (i + 1 == COUNT(rows))
            assert_int_equal(strncmp(disk_trace, "mfu", 3), 0);
        assert_int_equal(remove(f.lock), 0);
        kaws__file_close(&f);
    }
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
               open_at(w, &f, path, 0));
        assert_int_equal(w->err.os, rows[i].fits ? 0 : ENAMETOOLONG);
        assert_int_equal(stat(lock, &st) == 0, rows[i].fits);
        if (rows[i].fits) {
            assert_int_equal(kaws__disk_open(f.aside, KAWS__NEW, &fd), 0);
            kaws__disk_close(fd);
            assert_int_equal(remove(f.aside) | remove(lock), 0);
        }
        kaws__file_close(&f);
        kaws__err_clear(&w->err);                 /* a reader needs none      */
        OK(w, open_at(w, &f, path, 1));
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
    assert_false(is_there(w, ""));
    assert_false(is_there(w, ".tmp"));
    disk_owner = -1;
    kaws__err_clear(&w->err);
    world_open(w);
    OK(w, kaws_generate(w->ring, name_of("a", ""), "AES", 32, &w->err));
    disk_owner = (long)geteuid() + 1;     /* such as root_squash              */
    EXPECT(w, KAWS_FILE, "belongs to another user than the one",
           kaws_remove(w->ring, name_of("a", ""), &w->err));
    assert_false(is_there(w, ".tmp"));
    disk_owner = -1;
    OK(w, kaws_remove(w->ring, name_of("a", ""), &w->err));
    world_reopen(w);
}


/* Whoever may write to the folder may replace what is in it. A reader is told,
 * too. (test_disk.c has all modes, and test_err.c what is said of each.) */
static void
test_folder_of_others(void **state)
{
    struct world *w = *state;
    char want[2][160];
    kaws__file f;
    int i;

    (void)snprintf(want[0], sizeof want[0], "the data file's folder %s may be "
                   "written by others than its owner: run chmod 700", w->f.dir);
    (void)snprintf(want[1], sizeof want[1], "the data file's folder %s belongs "
                   "to another user", w->f.dir);
    for (i = 0; i < 6; i++) {             /* theirs to write; ours; theirs    */
        fake_forget_log(&w->f);
        assert_int_equal(chmod(w->f.dir, i < 2 ? 0702 : 0755), 0);
        disk_owner = i < 4 ? -1 : (long)geteuid() + 1;
        OK(w, open_file(w, &f, i % 2));
        kaws__file_close(&f);
        assert_int_equal(fake_logged(&w->f, -1, ""), i / 2 != 1);
        assert_int_equal(fake_logged(&w->f, 1, want[i / 4]), i / 2 != 1);
    }
    disk_owner = -1;
    assert_int_equal(chmod(w->f.dir, 0700), 0);
}


/* The folder whose name is made durable is the one above, links or not. */
static const char *synced_above;


static void
look_above(const char *call)
{
    struct stat want, got;
    char fd_path[64];
    int fd;

    if (synced_above == NULL || strcmp(call, "fsync") != 0)
        return;
    assert_int_equal(stat(synced_above, &want), 0);
    for (fd = 3; fd < 64; fd++) {
        (void)snprintf(fd_path, sizeof fd_path, "/proc/self/fd/%d", fd);
        if (stat(fd_path, &got) == 0 && got.st_ino == want.st_ino &&
            got.st_dev == want.st_dev) {
            synced_above = NULL;          /* the next is that of the folder   */
            return;
        }
    }
    fail_msg("%s is not open", synced_above);
}


static void
test_root_behind_a_link(void **state)
{
    struct world *w = *state;
    const char *top = beside(w, "/top"), *link = beside(w, "/link");
    char sub[140], path[140];
    kaws__file f;

    (void)snprintf(sub, sizeof sub, "%s/sub", top);
    (void)snprintf(path, sizeof path, "%s/keys", link);
    assert_int_equal(mkdir(top, 0700) | mkdir(sub, 0700), 0);
    assert_int_equal(symlink("top/sub", link), 0);
    OK(w, open_at(w, &f, path, 0));
    synced_above = top;
    disk_on_call = look_above;
    OK(w, kaws__save_create(&f, &w->err));
    disk_heal();
    assert_int_equal(remove(f.lock) | remove(f.path), 0);
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
    OK(w, open_at(w, &f, "data", 0));
    assert_true(is_there(w, ".lock"));
    kaws__file_close(&f);
    OK(w, open_at(w, &f, "sub/data", 0));
    assert_int_equal(fake_logged(&w->f, 1, "made the folder sub"), 1);
    OK(w, kaws__save_create(&f, &w->err));
    kaws__file_close(&f);
    assert_int_equal(remove("sub/data.lock") | remove("sub/data"), 0);
    assert_int_equal(chdir(before), 0);
}


/* ---- locks ------------------------------------------------------------- */

static void
test_lock_file(void **state)
{
    struct world *w = *state;
    const char *lock = beside(w, ".lock"), *target = beside(w, "/elsewhere");
    struct stat st;
    kaws__file f, g;

    OK(w, open_file(w, &g, 1));  /* a reader makes none    */
    assert_int_equal(g.lock_fd, -1);
    OK(w, kaws__file_hold(&g, 0, &w->err));
    kaws__file_release(&g);
    kaws__file_close(&g);
    assert_false(is_there(w, ".lock"));

    OK(w, open_file(w, &f, 0));
    has_mode(lock, 0600);
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);
    OK(w, open_file(w, &g, 0));  /* both are told          */
    assert_int_equal(fake_logged(&w->f, 1, "in use by another process"), 1);
    kaws__file_close(&g);
    OK(w, open_file(w, &g, 1));
    assert_int_equal(fake_logged(&w->f, 1, "in use by another process"), 2);
    kaws__file_close(&g);
    kaws__file_close(&f);
    OK(w, open_file(w, &f, 0));
    assert_int_equal(fake_logged(&w->f, 1, "in use by another process"), 2);
    kaws__file_close(&f);
    assert_true(is_there(w, ".lock"));

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

    OK(w, open_file(w, &f, 0));
    OK(w, open_file(w, &g, 0));
    OK(w, kaws__file_hold(&f, 0, &w->err));
    EXPECT(w, KAWS_LOCKED, "data.lock", kaws__file_hold(&g, 0, &w->err));
    assert_int_equal(w->f.sleeps, 400);
    assert_int_equal(w->f.slept[0], 5);
    kaws__err_clear(&w->err);

    w->f.sleeps = 0;
    w->f.user = &f;
    w->f.on_sleep = let_go;
    OK(w, kaws__file_hold(&g, 0, &w->err));
    assert_int_equal(w->f.sleeps, 7);
    w->f.on_sleep = NULL;
    fd = open(g.lock, O_RDONLY);          /* closing it lets go of nothing    */
    close(fd);
    EXPECT(w, KAWS_LOCKED, NULL, kaws__file_hold(&f, 0, &w->err));
    kaws__err_clear(&w->err);
    kaws__file_release(&g);

    OK(w, open_file(w, &r1, 1)); /* readers share          */
    OK(w, open_file(w, &r2, 1));
    OK(w, kaws__file_hold(&r1, 0, &w->err));
    OK(w, kaws__file_hold(&r2, 0, &w->err));
    EXPECT(w, KAWS_LOCKED, NULL, kaws__file_hold(&f, 0, &w->err));
    kaws__err_clear(&w->err);
    kaws__file_close(&r1);                /* closing does let go              */
    kaws__file_release(&r2);
    OK(w, kaws__file_hold(&f, 0, &w->err));
    EXPECT(w, KAWS_LOCKED, NULL, kaws__file_hold(&r2, 0, &w->err));
    kaws__err_clear(&w->err);
    kaws__file_release(&f);
    disk_fail("fcntl", 0, EBADF, 1);
    EXPECT(w, KAWS_FILE, "cannot lock", kaws__file_hold(&f, 0, &w->err));
    kaws__err_clear(&w->err);
    disk_fail("fcntl", 0, EINTR, 3);
    OK(w, kaws__file_hold(&f, 0, &w->err));
    kaws__file_close(&r2);
    kaws__file_close(&g);
    kaws__file_close(&f);
}


/* ---- reading ----------------------------------------------------------- */

static void
test_read(void **state)
{
    struct world *w = *state;
    kaws__file f;

    OK(w, open_file(w, &f, 0));
    OK(w, read_file(w, &f));
    assert_false(f.exists);
    spill(w->f.data, "", 0);
    OK(w, read_as(w, &f, "", 0));
    assert_true(f.exists);
    spill(w->f.data, old, OLD_LEN);
    disk_fail("pread", 0, EAGAIN, 3);     /* bit by bit                       */
    disk_fail("pread", 0, EINTR, 2);
    OK(w, read_as(w, &f, old, OLD_LEN));
    w->f.fail_nth = w->f.allocs + 1;
    EXPECT(w, KAWS_MEMORY, "out of memory", read_file(w, &f));
    kaws__file_close(&f);
}


/* A large file that has holes is surveyed before memory is asked for, and there
 * is no memory. One without holes is not. */
static void
test_read_large(void **state)
{
    enum { SIZE = KAWS__FILE_SMALL + 1, MOST = KAWS__STORE_APPEND_MAX,
           STEP = (8188 - 80) / 2 };      /* a block ends inside a length     */
    static const struct {
        size_t good;                      /* where the lengths end            */
        int    full;                      /* it has no holes                  */
        int    skip, os;                  /* which look at the disk fails     */
        kaws_status status;
        const char *words;
    } rows[] = {
        { SIZE, 0, 9999, 0, KAWS_MEMORY, "out of memory" },
        { SIZE - MOST + 1, 0, 9999, 0, KAWS_MEMORY, "out of memory" },
        { SIZE - MOST - 1, 0, 9999, 0, KAWS_CORRUPT, "what follows is not" },
        { 0, 0, 9999, 0, KAWS_CORRUPT, "byte 80: what follows is not entries" },
#if !defined(_WIN32)
        { 0, 1, 9999, 0, KAWS_MEMORY, "out of memory" },
#endif
        { SIZE, 0, 0, EIO, KAWS_FILE, "cannot read the data file" },
        { SIZE, 0, 1, EIO, KAWS_FILE, "cannot read the data file" }
    };
    struct world *w = *state;
    static uint8_t large[SIZE];
    kaws__file f;
    size_t i, at, len;

    OK(w, open_file(w, &f, 0));
    for (i = 0; i < COUNT(rows); i++) {
        memset(large, 0, sizeof large);
        memcpy(large, fresh, NEW_LEN);
        for (at = NEW_LEN; at < rows[i].good; at += len) {
            len = rows[i].good - at < 2 * STEP ? rows[i].good - at : STEP;
            len = len > STEP ? len / 2 : len;
            kaws__store_put(large + at, len - KAWS__STORE_DIGEST, 4);
            kaws__store_put(large + at + 4, ~(len - KAWS__STORE_DIGEST), 4);
        }
        spill(w->f.data, large, sizeof large);
        disk_holes = !rows[i].full;
        disk_fail("pread", rows[i].skip, rows[i].os, 1);
        w->f.fail_nth = w->f.allocs + 1;
        EXPECT(w, rows[i].status, rows[i].words, read_file(w, &f));
        assert_int_equal(w->f.allocs == w->f.fail_nth,
                         rows[i].status == KAWS_MEMORY);
        disk_heal();
    }
    kaws__file_close(&f);
}


/* Somebody does something to that path, just before the call of that name that
 * comes after `skip` others, and after `seen` is in the trace. */
static struct meddler {
    char        act;                      /* 0: nothing, or it is done        */
    const char *path, *call, *seen;
    int         skip;
} meddler;


static void
meddle(const char *call)
{
    struct meddler m = meddler;
    char other[160];
    FILE *to;

    if (m.act == 0 || strcmp(call, m.call) != 0 ||
        (m.seen != NULL && strstr(disk_trace, m.seen) == NULL) ||
        meddler.skip-- > 0)
        return;
    meddler.act = 0;
    (void)snprintf(other, sizeof other, "%s.theirs", m.path);
    switch (m.act) {
    case 'm':                             /* moves a file of his own there    */
        spill(other, "theirs", 6);
        assert_int_equal(rename(other, m.path), 0);
        return;
    case 'r':                             /* removes it                       */
        assert_int_equal(remove(m.path), 0);
        return;
    case 's':                             /* cuts it short                    */
        assert_int_equal(truncate(m.path, 40), 0);
        return;
#if !defined(_WIN32)
    case 'l':                             /* gives it a second name           */
        assert_int_equal((link)(m.path, other), 0);
        return;
#endif
    default:                              /* adds to it, or edits it          */
        to = fopen(m.path, m.act == 'a' ? "ab" : "r+b");
        assert_non_null(to);
        assert_int_equal(fputs("X", to) >= 0, 1);
        assert_int_equal(fclose(to), 0);
    }
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
        spill(path, old, OLD_LEN);
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
        spill(path, old, OLD_LEN);
        assert_int_equal(rename(path, w->f.data), 0);
        break;
    default:
        break;
    }
}


#if !defined(_WIN32)                      /* which keeps access lists         */

static void
test_modes_and_owner(void **state)
{
    struct world *w = *state;
    kaws__file f;

    spill(w->f.data, old, OLD_LEN);
    OK(w, open_file(w, &f, 0));
    OK(w, read_file(w, &f));
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);
    assert_int_equal(chmod(w->f.data, 0604), 0);
    OK(w, read_file(w, &f));
    assert_int_equal(fake_logged(&w->f, 1, "be read"), 1);
    disk_owner = (long)geteuid() + 1;
    EXPECT(w, KAWS_FILE, "belongs to another user", read_file(w, &f));
    disk_owner = -1;
    kaws__file_close(&f);
}

#endif


/* ---- changes: the file must be the one we know ------------------------- */

enum { APPEND, REPLACE, ASIDE, LOOK, REOPEN, READ };


static kaws_status
change(struct world *w, kaws__file *f, int how)
{
    kaws_bytes more = kaws__buf_of(RECORD), all = { old, OLD_LEN };
    uint64_t size = f->size;
    kaws__found found;
    kaws__writer writer;
    kaws_status status;
    int landed = 7;

    kaws__err_clear(&w->err);
    switch (how) {
    case APPEND:
        status = kaws__save_append(f, more, &landed, &w->err);
        assert_int_equal(landed, f->size > size);
        assert_true(landed || status != KAWS_OK);
        return status;
    case REPLACE:
        status = kaws__save_begin(f, &writer, &w->err);
        if (status != KAWS_OK)
            return status;
        return kaws__save_commit(f, &writer, &landed, &w->err);
    case ASIDE:
        if (f->torn == 0) {               /* what is behind the header is     */
            found = found_of(NEW_LEN);
            kaws__file_advance(f, NEW_LEN, old + NEW_LEN - 32, &found.state);
            f->torn = OLD_LEN - NEW_LEN;
            memcpy(f->tail, old + OLD_LEN - 32, 32);
        }
        return kaws__save_mend(f, all, &w->err);
    case REOPEN:                          /* it could not be kept open        */
        kaws__disk_close(f->fd);
        f->fd = -1;
        return kaws__file_change(f, &w->err);
    case READ:
        return read_file(w, f);
    default:
        return kaws__file_change(f, &w->err);
    }
}


static void
test_another_file_in_its_place(void **state)
{
    static const char another[] = "another file has taken its place";
    static const char odd[] = "is not a plain file", none[] = "No such file";
    static const struct { const char *what, *words, *opened, *read; } rows[] = {
        { "copy", another, another, NULL },
#if !defined(_WIN32)
        { "pipe", another, another, odd },
        { "link", another, "symbolic link", "symbolic link" },
        { "sock", another, "pipe or a device", "pipe or a device" },
#endif
        { "dir", NULL, "Is a directory", odd }, { "none", none, none, NULL }
    };
    struct world *w = *state;
    struct stat st, after;
    kaws__file f;
    size_t i;
    int how;

    for (i = 0; i < COUNT(rows); i++)
        for (how = 0; how <= REOPEN; how++) {
            (void)remove(w->f.data);
            open_old(w, &f);
            put(w, rows[i].what[0]);
            disk_trace[0] = '\0';
            memset(&st, 0, sizeof st);
            memset(&after, 0, sizeof after);
            (void)lstat(w->f.data, &st);
            EXPECT(w, KAWS_CHANGED, how == REOPEN ? rows[i].opened
                                                  : rows[i].words,
                   change(w, &f, how));
            (void)lstat(w->f.data, &after);
            assert_memory_equal(&st, &after, sizeof st);
            assert_false(is_there(w, ".tmp"));
            assert_string_equal(disk_trace, "");
            assert_int_equal(f.size + f.torn, OLD_LEN);
            f.exists = 0;
            EXPECT(w, rows[i].read != NULL ? KAWS_FILE : KAWS_OK, rows[i].read,
                   read_file(w, &f));
            assert_int_equal(f.exists, i == 0);
            kaws__file_close(&f);
        }
}


#if !defined(_WIN32)

/* The same inode number on another device, as when a clone of the volume is
 * mounted over it: another file. */
static void
test_another_device(void **state)
{
    struct world *w = *state;
    kaws__file f;
    int how;

    for (how = 0; how < 4; how++) {
        open_old(w, &f);
        disk_other_device = 1;
        EXPECT(w, KAWS_CHANGED, "another file has taken its place",
               change(w, &f, how));
        EXPECT(w, KAWS_CHANGED, "another file has taken its place",
               read_file(w, &f));
        assert_string_equal(disk_trace, "");
        disk_heal();
        kaws__file_close(&f);
    }
    kaws__err_clear(&w->err);
}

#endif


static void
test_other_bytes_in_it(void **state)
{
    struct world *w = *state;
    uint8_t bytes[OLD_LEN + 1] = { 0 };
    kaws__file f;
    int fd, how;
    size_t i;

    for (how = 0; how < 4; how++) {
        open_old(w, &f);
        assert_int_equal(truncate(w->f.data, OLD_LEN - 1), 0);
        EXPECT(w, KAWS_CHANGED, "its size has changed", change(w, &f, how));
        assert_int_equal(truncate(w->f.data, 0), 0);
        EXPECT(w, KAWS_CHANGED, "its size has changed", change(w, &f, how));
        memcpy(bytes, old, OLD_LEN);
        spill(w->f.data, bytes, OLD_LEN + 1);
        EXPECT(w, KAWS_CHANGED, "its size has changed", change(w, &f, how));
        for (i = OLD_LEN - 32; i < OLD_LEN; i++) {
            memcpy(bytes, old, OLD_LEN);
            bytes[i] ^= 1;
            fd = open(w->f.data, O_WRONLY);
            assert_int_equal(ftruncate(fd, OLD_LEN), 0);
            assert_int_equal(write(fd, bytes, OLD_LEN), OLD_LEN);
            close(fd);
            disk_trace[0] = '\0';
            EXPECT(w, KAWS_CHANGED, "its checksum has changed",
                   change(w, &f, how));
            assert_string_equal(disk_trace, "");
        }
        expect_content(w->f.data, bytes, OLD_LEN);
        kaws__file_close(&f);

        open_old(w, &f);                  /* neither size nor checksum        */
        fd = open(w->f.data, O_WRONLY);
        assert_int_equal(write(fd, "H", 1), 1);
        close(fd);
        age(w->f.data);
        disk_trace[0] = '\0';
        EXPECT(w, KAWS_CHANGED, "its bytes have changed", change(w, &f, how));
        EXPECT(w, KAWS_CHANGED, "its bytes have changed", change(w, &f, how));
        assert_string_equal(disk_trace, "");
        kaws__file_close(&f);
    }
}


/* ---- two names, and what is in the way --------------------------------- */

#if !defined(_WIN32)                      /* which locks <path>.lock only     */

/* Another lock file, but the same file: by its other name, or because somebody
 * has removed the lock file, before a change or in the middle of one (the old
 * file is locked, and the new one before it has its name). */
static void
test_two_lock_files(void **state)
{
    static const struct { int read_only, removed, replaced; } rows[] = {
        { 0, 0, 0 }, { 1, 0, 0 }, { 0, 1, 0 }, { 0, 1, 1 }
    };
    struct world *w = *state;
    const char *other = beside(w, "/other"), *lock = beside(w, ".lock"), *path;
    kaws__file f, g;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        path = rows[i].removed ? w->f.data : other;
        spill(w->f.data, old, OLD_LEN);
        assert_true(rows[i].removed || link(w->f.data, other) == 0);
        fake_forget_log(&w->f);
        open_old(w, &f);
        OK(w, kaws__file_hold(&f, 0, &w->err));
        assert_int_equal(fake_logged(&w->f, 1, "has 2 names (hard links)"),
                         !rows[i].removed);
        if (rows[i].replaced)
            OK(w, change(w, &f, REPLACE));
        if (rows[i].removed)
            assert_int_equal(remove(lock), 0);
        OK(w, open_at(w, &g, path, rows[i].read_only));
        OK(w, kaws__file_hold(&g, 0, &w->err));
        assert_int_equal(fake_logged(&w->f, 1, "in use"), 0);
        EXPECT(w, KAWS_LOCKED, path, read_file(w, &g));
        kaws__file_release(&f);
        OK(w, read_file(w, &g));
        assert_int_equal(fake_logged(&w->f, 1, rows[i].removed
                                     ? "its .lock was removed"
                                     : "too, by another name"), 1);
        EXPECT(w, KAWS_LOCKED, w->f.data, kaws__file_hold(&f, 0, &w->err));
        kaws__err_clear(&w->err);
        kaws__file_release(&g);
        OK(w, kaws__file_hold(&f, 0, &w->err));
        kaws__file_close(&g);
        kaws__file_close(&f);
        (void)remove(other);
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
    OK(w, change(w, &f, LOOK));
    EXPECT(w, KAWS_FILE, "has 2 names", change(w, &f, REPLACE));
    assert_string_equal(disk_trace, "");
    assert_false(is_there(w, ".tmp"));
    OK(w, change(w, &f, ASIDE));
    expect_content(other, old, NEW_LEN);
    assert_int_equal(remove(other), 0);
    spill(w->f.data, old, OLD_LEN);
    kaws__file_close(&f);

    /* The second name is what a crash left. */
    open_old(w, &f);
    kaws__file_close(&f);
    (void)snprintf(other, sizeof other, "%s.tmp", w->f.data);
    assert_int_equal(link(w->f.data, other), 0);
    fake_forget_log(&w->f);
    open_old(w, &f);
    assert_false(is_there(w, ".tmp"));
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);
    assert_int_equal(link(w->f.data, other), 0);
    OK(w, change(w, &f, REPLACE));
    assert_false(is_there(w, ".tmp"));
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
    size_t i;
    int nth;

    for (i = 0; i < COUNT(rows); i++)
        for (nth = 0; nth < 2; nth++) {
            spill(w->f.data, old, OLD_LEN);
            OK(w, open_file(w, &f, 0));
            disk_fail("fcntl", nth, rows[i].os, 1);
            EXPECT(w, KAWS_FILE, rows[i].words, read_file(w, &f));
            kaws__file_close(&f);

            disk_fail("fcntl", 0, rows[i].os, 1);     /* of the lock file */
            OK(w, open_file(w, &f, 1));
            assert_int_equal(f.lock_fd, -1);
            disk_fail("fcntl", nth, rows[i].os, 1);
            fake_forget_log(&w->f);
            OK(w, read_file(w, &f));
            assert_int_equal(fake_logged(&w->f, 1, rows[i].words), 1);
            assert_int_equal(fake_logged(&w->f, 1, "without a lock"), 1);
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

/* Only its times are others: it is read again, once, and found to be the same.
 * The committed length, which no digest covers, does not matter. */
static void
test_touched(void **state)
{
    static uint8_t big[KAWS__STORE_HEADER + 10000];
    struct world *w = *state;
    kaws_bytes rest = { big + NEW_LEN, sizeof big - NEW_LEN - 32 };
    kaws_bytes all = { big, sizeof big };
    kaws__found found;
    kaws__file f;
    int fd;

    memset(big, 'x', sizeof big);
    memset(&found, 0, sizeof found);
    memcpy(found.file_id, id, sizeof id);
    found.committed = NEW_LEN;            /* so it is written                 */
    found.good = sizeof big;
    kaws__store_header(big, &found.state, id, 0, NEW_LEN);
    kaws__store_digest(&found.state, rest, big + sizeof big - 32);
    spill(w->f.data, big, sizeof big);
    OK(w, open_file(w, &f, 0));
    OK(w, read_file(w, &f));
    OK(w, kaws__save_accept(&f, all, &found, &w->err));
    kaws__store_committed(big + 32, id, sizeof big);
    expect_content(w->f.data, big, sizeof big);
    age(w->f.data);
    disk_fail("pread", 1, EIO, 1);
    EXPECT(w, KAWS_FILE, "Input/output error", change(w, &f, LOOK));
    OK(w, change(w, &f, LOOK));
    disk_fail("pread", 1, EIO, 1);        /* not again                        */
    OK(w, change(w, &f, LOOK));
    disk_heal();
#if !defined(_WIN32)
    assert_int_equal(chmod(w->f.data, 0640), 0);
    OK(w, change(w, &f, LOOK));
#endif
    fd = open(w->f.data, O_WRONLY);
    assert_int_equal(lseek(fd, 9000, SEEK_SET), 9000);
    assert_int_equal(write(fd, "X", 1), 1);
    close(fd);
    age(w->f.data);
    EXPECT(w, KAWS_CHANGED, "its bytes have changed", change(w, &f, LOOK));
    meddler = (struct meddler){ 's', w->f.data, "pread", NULL, 1 };
    disk_on_call = meddle;                /* cut short while it is read       */
    EXPECT(w, KAWS_CHANGED, "its bytes have changed", change(w, &f, LOOK));
    kaws__file_close(&f);
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
    size_t i;

    for (i = 0; i < 2 * COUNT(rows); i++) {
        disk_heal();
        (void)remove(w->f.data);
        OK(w, open_file(w, &f, 0));
        OK(w, read_file(w, &f));
        assert_false(f.exists);
        memcpy(f.file_id, id, sizeof id);
        f.epoch = 7;
        if (rows[i / 2].lacks > 0)
            disk_fail("renameat2", 0, i % 2 == 0 ? EINVAL : EPERM, 1);
        if (rows[i / 2].lacks > 1)
            disk_fail("link", 0, i % 2 == 0 ? EPERM : EACCES, 1);
        meddler = (struct meddler){ i % 2 == 0 ? 'm' : 0, w->f.data,
                                    rows[i / 2].at, NULL, 0 };
        disk_on_call = meddle;
        EXPECT(w, i % 2 == 0 ? KAWS_CHANGED : KAWS_OK,
               "a file has appeared in its place", change(w, &f, REPLACE));
        if (i % 2 == 0)
            expect_content(w->f.data, "theirs", 6);
        else
            expect_content(w->f.data, fresh, NEW_LEN);
        assert_false(is_there(w, ".tmp"));
        assert_int_equal(f.exists, i % 2);
        if (i % 2 == 1)
            assert_int_equal(f.stat.links, 1);
        kaws__file_close(&f);
    }
}


#if !defined(_WIN32)

/* Somebody comes in between: he loses nothing, we change nothing more, and that
 * is said. Where there is no exchange, what comes before the last look is safe.
 */
#define READING "changed while it was being read"
#define OPENING "was replaced while it was being opened"
#define ANOTHER "another file has taken its place"

static const struct meddling {
    int         how;
    char        act;
    const char *call, *seen;
    int         skip, lacks;          /* errno of the exchange            */
    const char *words, *trace;        /* an r is the meddler's            */
    int         left;                 /* 't'heirs, 'o'ld, or not asked    */
} meddlings[] = {
    { READ, 'a', "pread", NULL, 0, 0, READING, "", 0 },
    { READ, 's', "pread", NULL, 0, 0, READING, "", 0 },
    { READ, 'e', "fstat", NULL, 2, 0, READING, "", 0 },
    { READ, 'l', "fstat", NULL, 2, 0, READING, "", 0 },
    { READ, 'm', "fcntl", NULL, 0, 0, OPENING, "r", 't' },
    { READ, 'r', "fcntl", NULL, 0, 0, OPENING, "", 0 },
    { ASIDE, 'a', "fdatasync", "t", 0, 0, "while its torn end was cut off",
      "wdftd", 0 },
    { REPLACE, 'r', "renameat2", NULL, 0, 0, "No such file", "uwwdxu", 0 },
    { REPLACE, 'l', "renameat2", NULL, 0, 0, "a hard link", "uwwdxxfu",
      'o' },
    { REPLACE, 'm', "renameat2", NULL, 0, 0, ANOTHER, "uwwdxxfu", 't' },
    { REPLACE, 'm', "lstat", NULL, 1, EINVAL, ANOTHER, "uwwdxru", 't' },
    { REPLACE, 'm', "lstat", NULL, 1, ENOSYS, ANOTHER, "uwwdxru", 't' },
    { REPLACE, 'm', "lstat", NULL, 1, EPERM, ANOTHER, "uwwdxru", 't' },
    { REPLACE, 'm', "lstat", NULL, 1, EOPNOTSUPP, ANOTHER, "uwwdxru", 't' }
};


static void
meddle_with(struct world *w, const struct meddling *m)
{
    kaws__file f;
    int fd;

    (void)remove(w->f.data);
    if (m->how == READ) {
        spill(w->f.data, old, OLD_LEN);
        age(w->f.data);
        OK(w, open_file(w, &f, 0));
    } else {
        open_old(w, &f);
    }
    if (m->lacks != 0)
        disk_fail("renameat2", 0, m->lacks, 1);
    disk_trace[0] = '\0';
    fd = f.fd;
    meddler = (struct meddler){ m->act, w->f.data, m->call, m->seen, m->skip };
    disk_on_call = meddle;
    if (m->how == READ) {
        EXPECT(w, KAWS_CHANGED, m->words, read_file(w, &f));
    } else {
        EXPECT(w, KAWS_CHANGED, m->words, change(w, &f, m->how));
        assert_int_equal(f.fd, fd);
    }
    disk_on_call = NULL;
    if (meddler.act != 0 || strcmp(disk_trace, m->trace) != 0)
        fail_msg("row %lu: %s", (unsigned long)(m - meddlings), disk_trace);
    if (m->left != 0)
        expect_content(w->f.data, m->left == 't' ? (const void *)"theirs" : old,
                       m->left == 't' ? 6 : OLD_LEN);
    assert_false(is_there(w, ".tmp"));
    if (m->how == ASIDE) {                /* what he added is not ours        */
        EXPECT(w, KAWS_CHANGED, "its size has changed", change(w, &f, APPEND));
        assert_string_equal(disk_trace, m->trace);
    }
    if (m->act == 'l' && m->how == REPLACE) {
        OK(w, change(w, &f, LOOK));
        EXPECT(w, KAWS_FILE, "has 2 names", change(w, &f, REPLACE));
    }
    kaws__err_clear(&w->err);
    kaws__file_close(&f);
}


static void
test_meddled(void **state)
{
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(meddlings); i++) {
        disk_heal();
        meddle_with(w, &meddlings[i]);
    }
}


/* It cannot be put back, or not durably. */
static void
test_not_put_back(void **state)
{
    struct world *w = *state;
    const char *tmp = beside(w, ".tmp");
    kaws__writer writer;
    kaws__file f;
    int landed, i;

    for (i = 0; i < 2; i++) {
        disk_heal();
        open_old(w, &f);
        OK(w, kaws__save_begin(&f, &writer, &w->err));
        meddler = (struct meddler){ 'm', w->f.data, "renameat2", NULL, 0 };
        disk_on_call = meddle;
        disk_fail(i == 0 ? "renameat2" : "fsync", i == 0, EIO, 1);
        EXPECT(w, KAWS_UNCERTAIN, i == 0 ? "is .tmp now, save it"
                                         : "durably",
               kaws__save_commit(&f, &writer, &landed, &w->err));
        assert_int_equal(landed, i == 0);
        if (i == 0)
            expect_content(w->f.data, fresh, NEW_LEN);
        expect_content(i == 0 ? tmp : w->f.data, "theirs", 6);
        assert_int_equal(is_there(w, ".tmp"), i == 0);
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
    fd = (open)(meddler.path, O_RDWR);
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
    const char *tmp = beside(w, ".tmp");
    kaws__file f;

    open_old(w, &f);
    OK(w, kaws__file_hold(&f, 0, &w->err));
    meddler.path = tmp;
    disk_on_call = want_old;
    OK(w, change(w, &f, REPLACE));
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
    kaws__file f;

    open_old(w, &f);
    OK(w, change(w, &f, APPEND));
    assert_string_equal(disk_trace, "wwd");       /* length, entry, sync      */
    expect_content(w->f.data, two, TWO_LEN);
    assert_memory_equal(kaws__file_sum(&f), &two[TWO_LEN - 32], 32);
    OK(w, change(w, &f, LOOK));

    disk_fail("pwrite", 1, EAGAIN, 3);    /* bit by bit                       */
    disk_fail("fdatasync", 0, EINTR, 2);
    OK(w, change(w, &f, APPEND));
    assert_int_equal(f.size, 2 * TWO_LEN - OLD_LEN);
    OK(w, change(w, &f, LOOK));
    kaws__file_close(&f);
}


/* ---- replacing --------------------------------------------------------- */

static void
test_replace(void **state)
{
    enum { ENTRIES = 500 };
    static uint8_t big[NEW_LEN + ENTRIES * (64 + 32)];
    struct world *w = *state;
    kaws_bytes record = kaws__buf_of(RECORD);
    const char *stale = beside(w, ".tmp"), *target = beside(w, "/elsewhere");
    char trace[32];
    kaws__sha256 unused;
    kaws__writer writer;
    struct stat st;
    uint64_t before;
    kaws__file f;
    int landed, i;

    lay(big, sizeof big, sizeof big, &unused);
    open_old(w, &f);
    before = f.stat.ino;
    if (HAS_LINKS)
        assert_int_equal(symlink(target, stale), 0);  /* a trap               */
    else
        spill(stale, "stale", 5);
    umask(0);
    OK(w, kaws__save_begin(&f, &writer, &w->err));
    for (i = 0; i < ENTRIES; i++)
        kaws__save_put(&writer, record);
    disk_fail("pwrite", 0, EAGAIN, 1);
    OK(w, kaws__save_commit(&f, &writer, &landed, &w->err));
    assert_int_equal(landed, 1);
    expect_content(w->f.data, big, sizeof big);
    has_mode(w->f.data, 0600);
    assert_true(f.stat.ino != before);
    assert_int_not_equal(lstat(target, &st), 0);
    assert_false(is_there(w, ".tmp"));
    (void)snprintf(trace, sizeof trace, "u%.*s%s",
                   (int)(sizeof big / KAWS__SAVE_BLOCK + 1 + 2),
                   "wwwwwwwwwwwwwwwwwwwwww", REPLACES(""));
    assert_string_equal(disk_trace, trace);
    assert_int_equal(f.size, sizeof big);
    assert_memory_equal(kaws__file_sum(&f), big + sizeof big - 32, 32);
    OK(w, change(w, &f, LOOK));
    OK(w, change(w, &f, APPEND));   /* its state is right       */
    kaws__file_close(&f);
}


/* After a write that failed nothing more is written. */
static void
test_replace_stops(void **state)
{
    struct world *w = *state;
    kaws_bytes record = kaws__buf_of(RECORD);
    kaws__writer writer;
    kaws__file f;
    int landed, i;

    open_old(w, &f);
    OK(w, kaws__save_begin(&f, &writer, &w->err));
    disk_fail("pwrite", 1, EIO, 1);
    for (i = 0; i < 500; i++)
        kaws__save_put(&writer, record);
    EXPECT(w, KAWS_FILE, "data", kaws__save_commit(&f, &writer, &landed,
                                              &w->err));
    assert_int_equal(landed, 0);
    assert_int_equal(w->err.os, EIO);
    assert_string_equal(disk_trace, "uwwu");
    expect_content(w->f.data, old, OLD_LEN);
    assert_false(is_there(w, ".tmp"));
    kaws__file_close(&f);
}


/* What stands in the way of the new file is not written to. */
static void
test_replace_in_the_way(void **state)
{
    struct world *w = *state;
    const char *tmp = beside(w, ".tmp");
    kaws__file f;

    open_old(w, &f);
    spill(tmp, "stale", 5);
    OK(w, change(w, &f, REPLACE));
    assert_int_equal(mkdir(tmp, 0700), 0);
    kaws__file_close(&f);
    open_old(w, &f);
    EXPECT(w, KAWS_FILE, "Is a directory", change(w, &f, REPLACE));
    expect_content(w->f.data, old, OLD_LEN);
    kaws__file_close(&f);
}


/* ---- a torn end -------------------------------------------------------- */

static void
test_set_aside(void **state)
{
    struct world *w = *state;
    uint8_t want[OLD_LEN];
    kaws__sha256 unused;
    const char *path = beside(w, ".torn-20261118T110640Z");
    kaws__file f;

    open_old(w, &f);
    umask(0);
    OK(w, change(w, &f, ASIDE));
    assert_string_equal(disk_trace, "wdftd");
    expect_content(path, &old[NEW_LEN], OLD_LEN - NEW_LEN);
    has_mode(path, 0600);
    assert_int_equal(fake_logged(&w->f, 1, path), 1);
    expect_content(w->f.data, old, NEW_LEN);
    assert_int_equal(f.torn, 0);
    assert_int_equal(f.size, NEW_LEN);
    assert_memory_equal(kaws__file_sum(&f), &old[NEW_LEN - 32], 32);
    OK(w, change(w, &f, APPEND));   /* it goes on from there    */
    lay(want, OLD_LEN, NEW_LEN, &unused);
    expect_content(w->f.data, want, OLD_LEN);
    kaws__file_close(&f);
}


#if !defined(_WIN32)

/* A link that somebody planted under that name is neither followed nor removed:
 * the torn end has the next name. */
static void
test_set_aside_beside_a_link(void **state)
{
    struct world *w = *state;
    const char *link = beside(w, ".torn-20261118T110640Z");
    const char *target = beside(w, "/elsewhere");
    char next[170];
    struct stat st;
    kaws__file f;

    (void)snprintf(next, sizeof next, "%s-1", link);
    assert_int_equal(symlink(target, link), 0);
    open_old(w, &f);
    OK(w, change(w, &f, ASIDE));
    assert_int_not_equal(lstat(target, &st), 0);
    assert_int_equal(lstat(link, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    expect_content(next, &old[NEW_LEN], OLD_LEN - NEW_LEN);
    kaws__file_close(&f);
}

#endif


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
        OK(w, change(w, &f, ASIDE));
        (void)snprintf(suffix, sizeof suffix, i == 0
                       ? ".torn-20261118T110640Z"
                       : ".torn-20261118T110640Z-%d", i);
        assert_true(is_there(w, suffix));
        kaws__file_close(&f);
    }
    open_old(w, &f);
    EXPECT(w, KAWS_FILE, "File exists", change(w, &f, ASIDE));
    expect_content(w->f.data, old, OLD_LEN);
    kaws__file_close(&f);
}


/* ---- calls that fail --------------------------------------------------- */

/* Which call of a change fails (with `then`, a later one, too), what it answers
 * and does, and how much of the two entries the file has then. The folder's
 * sync fails when the new file is there. Nothing is cut off before its copy is
 * safe; a copy that is not, goes, and one that is, is not made again. That the
 * file cannot be looked at is not that it has changed. */
#define UNKNOWN(what) KAWS_UNCERTAIN, what
#define KNOWN         KAWS_FILE, "data"
#define COPIED        KAWS_FILE, "cannot set the torn end"

static const struct failing {
    int         how;
    const char *call;
    int         skip, os;
    const char *then;
    kaws_status status;
    const char *words, *trace;
    size_t      len;              /* 0: it is the new file                    */
} failings[] = {
    { APPEND, "pwrite", 0, EIO, NULL, KNOWN, "w", OLD_LEN },
    { APPEND, "pwrite", 1, EIO, NULL, KNOWN, "wwtd", OLD_LEN },
    { APPEND, "pwrite", 1, ENOSPC, NULL, KNOWN, "wwtd", OLD_LEN },
    { APPEND, "fdatasync", 0, EIO, NULL, KNOWN, "wwdtd", OLD_LEN },
    { APPEND, "pwrite", 1, ENOSPC, "ftruncate", UNKNOWN("no more is changed"),
      "wwt", OLD_LEN + (TWO_LEN - OLD_LEN) / 2 },
    { APPEND, "pwrite", 1, ENOSPC, "fdatasync", UNKNOWN("no more is changed"),
      "wwtd", OLD_LEN },
    { APPEND, "fdatasync", 0, EIO, "ftruncate", UNKNOWN("no more is changed"),
      "wwdt", TWO_LEN },
    { APPEND, "fdatasync", 0, EIO, "fdatasync", UNKNOWN("no more is changed"),
      "wwdtd", OLD_LEN },
    { REPLACE, "unlink", 0, EPERM, NULL, KNOWN, "u", OLD_LEN },
    { REPLACE, "open", DISK_OPENS, EACCES, NULL, KNOWN, "u", OLD_LEN },
    { REPLACE, "pwrite", 0, ENOSPC, NULL, KNOWN, "uwu", OLD_LEN },
    { REPLACE, "pwrite", 1, EIO, NULL, KNOWN, "uwwu", OLD_LEN },
    { REPLACE, "fdatasync", 0, EIO, NULL, KNOWN, "uwwdu", OLD_LEN },
    { REPLACE, "fstat", DISK_STATS, EIO, NULL, KNOWN, "uu", OLD_LEN },
    { REPLACE, "fstat", DISK_STATS + 1, EIO, NULL, KNOWN, "uwwdu", OLD_LEN },
    { REPLACE, "fcntl", 0, ENOLCK, NULL, KNOWN, "uwwdu", OLD_LEN },
    { REPLACE, "fcntl", 1, ENOLCK, NULL, KNOWN, "uwwdu", OLD_LEN },
    { REPLACE, "opendir", 0, EMFILE, NULL, KNOWN, "uwwdu", OLD_LEN },
#if defined(_WIN32)
    { REPLACE, "rename", 0, EIO, NULL, KNOWN, "uwwdru", OLD_LEN },
#else
    { REPLACE, "renameat2", 0, EIO, NULL, KNOWN, "uwwdxu", OLD_LEN },
    { REPLACE, "fstat", 3, EIO, NULL, KNOWN, "uwwdxxfu", OLD_LEN },
    { REPLACE, "lstat", 1, EIO, NULL, KNOWN, "uwwdxxfu", OLD_LEN },
    { REPLACE, "pread", 1, EIO, NULL, KNOWN, "uwwdxxfu", OLD_LEN },
#endif
    { REPLACE, "fsync", 0, EIO, NULL, UNKNOWN("could not be synced"),
      REPLACES("uww"), 0 },
    { ASIDE, "open", DISK_OPENS, ENOSPC, NULL, COPIED, "", OLD_LEN },
    { ASIDE, "pwrite", 0, ENOSPC, NULL, COPIED, "wu", OLD_LEN },
    { ASIDE, "fdatasync", 0, EIO, NULL, COPIED, "wdu", OLD_LEN },
    { ASIDE, "fsync", 0, EIO, NULL, COPIED, "wdfu", OLD_LEN },
    { ASIDE, "opendir", 0, EMFILE, NULL, COPIED, "wdu", OLD_LEN },
    { ASIDE, "ftruncate", 0, EIO, NULL, COPIED, "wdft", OLD_LEN },
    { ASIDE, "fdatasync", 1, EIO, NULL, COPIED, "wdftd", NEW_LEN },
    { LOOK, DISK_LOOK, 0, EACCES, NULL, KNOWN, "", OLD_LEN },
    { LOOK, "fstat", 0, EIO, NULL, KNOWN, "", OLD_LEN },
    { LOOK, "pread", 0, EIO, NULL, KNOWN, "", OLD_LEN },
    { READ, "open", 0, EACCES, NULL, KNOWN, "", OLD_LEN },
    { READ, "fstat", 0, EIO, NULL, KNOWN, "", OLD_LEN },
    { READ, "fstat", 1, EIO, NULL, KNOWN, "", OLD_LEN },
    { READ, "fstat", 2, EIO, NULL, KNOWN, "", OLD_LEN },
    { READ, DISK_LOOK, DISK_OPENS / 2, EIO, NULL, KNOWN, "", OLD_LEN },
    { READ, "pread", 0, EIO, NULL, KNOWN, "", OLD_LEN }
};


static void
test_calls_fail(void **state)
{
    struct world *w = *state;
    const char *aside = beside(w, ".torn-20261118T110640Z");
    const struct failing *r;
    kaws__file f, before;

    for (r = failings; r < failings + COUNT(failings); r++) {
        world_case = r->call;
        open_old(w, &f);
        before = f;
        disk_fail(r->call, r->skip, r->os, 1);
        if (r->then != NULL)
            disk_fail(r->then, 0, r->os, 1);
        EXPECT(w, r->status, r->words, change(w, &f, r->how));
        if (w->err.os != r->os || strcmp(disk_trace, r->trace) != 0)
            fail_msg("row %d: %s", (int)(r - failings), disk_trace);
        expect_content(w->f.data, r->len > 0 ? two : fresh,
                       r->len > 0 ? r->len : NEW_LEN);
        assert_false(is_there(w, ".tmp"));
        if (r->then == NULL)
            assert_int_equal(f.size + f.torn, r->len > 0 ? r->len : NEW_LEN);
        if (r->how == REPLACE && r->len > 0)
            assert_memory_equal(&f, &before, sizeof f);
        disk_heal();
        if (r->status == KAWS_FILE) {     /* once more, for good              */
            w->f.fail_nth = r->how != READ ? w->f.allocs + 1 : 0;
            OK(w, change(w, &f, f.torn > 0 || r->how != ASIDE ? r->how : LOOK));
            w->f.fail_nth = 0;
        }
        assert_int_equal(is_there(w, ".torn-20261118T110640Z"),
                         r->how == ASIDE);
        (void)remove(aside);
        assert_false(is_there(w, ".torn-20261118T110640Z-1"));
        kaws__file_close(&f);
    }
    world_case = "";
}


/* ---- what was found is made durable ------------------------------------ */

static void
test_settle(void **state)
{
    static const struct { const char *call; int skip, os; const char *trace,
                          *words; } rows[] = {
        { "none", 0, 0, "fwdwd", "" },    /* folder, bytes, then the length   */
        { "opendir", 0, EMFILE, "", "cannot sync the folder" },
        { "fsync", 0, EIO, "f", "cannot sync the folder" },
        { DISK_LOOK, 0, EACCES, "f", "cannot look at" },
        { "pwrite", 0, ENOSPC, "fwd", "cannot make durable" },
        { "fdatasync", 0, EIO, "fwd", "cannot make durable" },
        { "pwrite", 1, EIO, "fwdw", "cannot write to" },
        { "fdatasync", 1, EIO, "fwdwd", "cannot sync the data file" }
    };
    struct world *w = *state;
    kaws_bytes all = { old, OLD_LEN };
    uint8_t length[16];
    kaws__file f;
    size_t i;
    int fd;

    for (i = 0; i < COUNT(rows); i++) {
        disk_heal();
        open_old(w, &f);
        f.unsettled = 1;
        f.committed = NEW_LEN;
        f.synced = 0;
        kaws__store_committed(length, id, NEW_LEN);
        fd = open(w->f.data, O_WRONLY);
        assert_int_equal(lseek(fd, 32, SEEK_SET), 32);
        assert_int_equal(write(fd, length, 16), 16);
        close(fd);
        disk_fail(rows[i].call, rows[i].skip, rows[i].os, 1);
        kaws__err_clear(&w->err);
        EXPECT(w, rows[i].os == 0 ? KAWS_OK : KAWS_FILE, rows[i].words,
               kaws__save_mend(&f, all, &w->err));
        assert_string_equal(disk_trace, rows[i].trace);
        assert_int_equal(f.synced, i == 0 || i == 4 || i > 5);
        assert_int_equal(f.unsettled, i != 0);
        kaws__err_clear(&w->err);         /* the cause is gone                */
        OK(w, kaws__save_mend(&f, all, &w->err));
        expect_content(w->f.data, old, OLD_LEN);
        assert_int_equal(f.unsettled, 0);
        kaws__file_close(&f);
    }
    open_old(w, &f);
    f.unsettled = 1;                      /* all of it was acknowledged, but  */
    OK(w, kaws__save_mend(&f, all, &w->err));
    assert_string_equal(disk_trace, "fd");        /* it may have been cut     */
    put(w, 'c');
    f.unsettled = 1;
    EXPECT(w, KAWS_CHANGED, NULL, kaws__save_mend(&f, all, &w->err));
    kaws__file_close(&f);
}


/* A clean close writes the length, under the lock; one that cannot lock, or
 * whose file is not settled or not to be changed, writes nothing. */
static void
test_finish(void **state)
{
    static const struct { int held, unsettled, read_only; const char *trace; }
    rows[] = {
        { 0, 0, 0, "wd" }, { 1, 0, 0, "" }, { 0, 1, 0, "" }, { 0, 0, 1, "" }
    };
    struct world *w = *state;
    kaws__file f, g;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        open_old(w, &f);
        OK(w, open_file(w, &g, 0));
        if (rows[i].held)
            OK(w, kaws__file_hold(&g, 0, &w->err));
        f.unsettled = rows[i].unsettled;
        f.read_only = rows[i].read_only;
        disk_trace[0] = '\0';
        kaws__save_finish(&f);
        if (strcmp(disk_trace, rows[i].trace) != 0)
            fail_msg("row %lu: %s", (unsigned long)i, disk_trace);
        if (!rows[i].held)                /* and nothing stays locked         */
            OK(w, kaws__file_hold(&g, 0, &w->err));
        kaws__file_close(&g);
        kaws__file_close(&f);
    }
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
        TEST(test_folder_above),
        TEST(test_names_without_folder),
        TEST(test_lock_file),
        TEST(test_hold),
#if !defined(_WIN32)
        TEST(test_modes_and_owner),
#endif
        TEST(test_read), TEST(test_read_large),
        TEST(test_another_file_in_its_place),
        TEST(test_other_bytes_in_it),
#if !defined(_WIN32)
        TEST(test_another_device),
        TEST(test_two_lock_files),
        TEST(test_two_names_changed),
        TEST(test_no_locks),
        TEST(test_foreseen),
        TEST(test_meddled),
        TEST(test_not_put_back),
        TEST(test_old_stays_locked),
        TEST(test_set_aside_beside_a_link),
#endif
        TEST(test_touched),
        TEST(test_appears),
        TEST(test_append),
        TEST(test_replace),
        TEST(test_replace_stops),
        TEST(test_replace_in_the_way),
        TEST(test_set_aside),
        TEST(test_set_aside_again),
        TEST(test_calls_fail),
        TEST(test_settle),
        TEST(test_finish)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
