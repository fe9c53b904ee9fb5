/* Room vault: the file and the table change together, even with disks that
 * fail, torn ends, other processes at the file, and threads that wait for each
 * other. */

#include "../fault/disk.h"

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "keys.h"

#if !defined(_WIN32)
#include <sys/wait.h>
#endif


/* ---- opening ----------------------------------------------------------- */

/* A new file: its bytes, its mode, and what is said about it. */
static void
test_new_file(void **state)
{
    struct world *w = *state;
    kaws_stats stats;

    umask(0);
    world_open(w);
    umask(022);
    has_mode(w->f.data, 0600);
    assert_int_equal(fake_logged(&w->f, 1, "a new, empty keyring was made"), 1);
    assert_int_equal(fake_logged(&w->f, 1, w->f.data), 1);
    assert_int_equal(fake_logged(&w->f, 2, "0 keys, checksum begins with"), 1);
    assert_int_equal(w->f.requests, 0);
    snap(w);
    assert_int_equal(snapped_len, 80);
    assert_int_equal(committed_in(w), 80);
    kaws_get_stats(w->ring, &stats);
    assert_memory_equal(stats.checksum, snapped + 48, 32);
    fake_forget_log(&w->f);
    world_reopen(w);
    expect_same_file(w);
    assert_int_equal(fake_logged(&w->f, 1, ""), 0);
    assert_int_equal(fake_logged(&w->f, 2, "opened"), 1);
    OK(w, generate(w, "one"));
    assert_int_equal(fake_logged(&w->f, 2, ": 1 key, checksum begins with"), 1);
}


static int randoms_left;


static int
random_ends(void *ctx, void *out, size_t len)
{
    return randoms_left-- > 0 ? fake_random(ctx, out, len) : EIO;
}


static void
test_no_random(void **state)
{
    struct world *w = *state;
    int n;

    w->cfg.hooks.random = random_ends;
    for (n = 0; n < 2; n++) {
        randoms_left = n;
        w->ring = (kaws *)(void *)w;
        EXPECT(w, KAWS_RANDOM, "no random bytes",
               kaws_open(&w->ring, &w->cfg, &w->err));
        assert_null(w->ring);
        assert_false(is_there(w, ""));
        assert_int_equal(w->f.live, 0);
    }
    randoms_left = 2;
    world_open(w);
}


static void
test_read_only(void **state)
{
    struct world *w = *state;
    char lock[128];

    w->cfg.read_only = 1;
    EXPECT(w, KAWS_FILE, "none is made (read_only)",
           kaws_open(&w->ring, &w->cfg, &w->err));
    assert_false(is_there(w, "") || is_there(w, ".lock"));

    w->cfg.read_only = 0;
    world_open(w);
    OK(w, store(w, "k", "text"));
    world_close(w);
    (void)snprintf(lock, sizeof lock, "%s.lock", w->f.data);
    assert_int_equal(remove(lock), 0);
    assert_int_equal(chmod(w->f.data, 0400), 0);
    snap(w);
    w->cfg.read_only = 1;
    disk_trace[0] = '\0';
    world_open(w);
    expect_text(w, "k", "text");
    all_refused(w, CHANGES, KAWS_CONFIG, "is read only");
    OK(w, use_key(w, FAKE_EAST2));
    world_close(w);
    assert_string_equal(disk_trace, "");
    expect_same_file(w);
    assert_false(is_there(w, ".lock"));
}


/* No file, and none may be made: it says so, and nothing is made beside it. */
static void
refused_as_missing(struct world *w)
{
    kaws_config cfg = w->cfg;

    disk_trace[0] = '\0';
    w->ring = (kaws *)(void *)w;
    EXPECT(w, KAWS_FILE, "none is made (must_exist",
           kaws_open(&w->ring, &cfg, &w->err));
    assert_null(w->ring);
    assert_int_equal(w->err.os, ENOENT);
    assert_non_null(strstr(w->err.text, "mount its volume, or put"));
    assert_int_equal(w->f.live, 0);
    assert_string_equal(disk_trace, "");
    kaws__err_clear(&w->err);
}


static void
test_must_exist(void **state)
{
    static const char *const beside[] = { ".tmp", ".lock",
                                          ".torn-20261118T110640Z" };
    struct world *w = *state;
    char path[160], folder[128];
    size_t i;

    w->cfg.must_exist = 1;
    refused_as_missing(w);
    assert_false(is_there(w, ".lock"));
    for (i = 0; i < COUNT(beside); i++) {         /* what a crash left stays  */
        (void)snprintf(path, sizeof path, "%s%s", w->f.data, beside[i]);
        spill(path, "x", 1);
    }
    refused_as_missing(w);
    for (i = 0; i < COUNT(beside); i++)
        assert_true(is_there(w, beside[i]));

    (void)snprintf(folder, sizeof folder, "%s/none", w->f.dir);   /* no folder*/
    (void)snprintf(path, sizeof path, "%s/data", folder);
    w->cfg.data_file = path;
    refused_as_missing(w);
    assert_int_not_equal(access(folder, F_OK), 0);
    w->cfg.data_file = NULL;              /* which file?                      */
    EXPECT(w, KAWS_CONFIG, "must_exist", kaws_open(&w->ring, &w->cfg,
                                                   &w->err));
    kaws__err_clear(&w->err);

}


/* The first start makes it, and all later ones have to find it. */
static void
test_must_exist_later(void **state)
{
    struct world *w = *state;

    world_open(w);
    OK(w, store(w, "k", "text"));
    snap(w);
    world_close(w);
    w->cfg.must_exist = 1;
    world_open(w);
    expect_text(w, "k", "text");
    expect_same_file(w);
    OK(w, kaws_remove(w->ring, (kaws_name){ "k", NULL }, &w->err));
    world_reopen(w);
    world_close(w);

    disk_fail("open", 4, ENOENT, 1);      /* it goes between look and open    */
    EXPECT(w, KAWS_FILE, "none is made (must_exist",
           kaws_open(&w->ring, &w->cfg, &w->err));
    assert_int_equal(w->err.os, ENOENT);
    disk_heal();
    kaws__err_clear(&w->err);
    spill(w->f.data, "", 0);              /* empty is not missing             */
    EXPECT(w, KAWS_CORRUPT, "is empty (0 bytes)",
           kaws_open(&w->ring, &w->cfg, &w->err));
    kaws__err_clear(&w->err);
    w->cfg.read_only = 1;
    assert_int_equal(remove(w->f.data), 0);
    EXPECT(w, KAWS_FILE, "none is made (read_only", kaws_open(&w->ring,
                                                              &w->cfg,
                                                              &w->err));
    kaws__err_clear(&w->err);
#if !defined(_WIN32)
    w->cfg.read_only = 0;
    assert_int_equal(symlink("nothing", w->f.data), 0);
    EXPECT(w, KAWS_FILE, "symbolic link", kaws_open(&w->ring, &w->cfg,
                                                    &w->err));
    assert_int_equal(remove(w->f.data), 0);
#endif
}


static void
test_without_data_file(void **state)
{
    struct world *w = *state;
    kaws_entry_info info;
    kaws_walk *walk;

    w->cfg.data_file = NULL;
    world_open(w);
    all_refused(w, CHANGES | READS, KAWS_CONFIG, "data_file has to be set");
    OK(w, kaws_walk_begin(w->ring, &walk, &w->err));
    assert_false(kaws_walk_next(walk, &info));
    kaws_walk_end(walk);
    assert_int_equal(w->f.requests, 0);
    OK(w, check(w));
    OK(w, rotate(w));
    assert_int_equal(keys_of(w), 0);
}


/* A clock that is no clock must not make the file one that cannot be read. */
static void
test_absurd_clock(void **state)
{
    static const int64_t clocks[] = { -86400000, INT64_MIN, INT64_MAX - 1000,
                                      253402300800000, 0 };
    struct world *w = *state;
    char name[8];
    size_t i;

    w->cfg.timeout_ms = 1;
    world_reopen(w);
    for (i = 0; i < COUNT(clocks); i++) {
        w->f.now_ms = clocks[i];
        fake_push(&w->f, (fake_script){
            .body = "{\"CiphertextBlob\":\"AAAA\",\"KeyId\":\"" FAKE_EAST
                    "\"}" });
        (void)snprintf(name, sizeof name, "k%lu", (unsigned long)i);
        OK(w, generate(w, name));
    }
    w->f.now_ms = 1795000000000;
    world_reopen(w);
    assert_int_equal(keys_of(w), COUNT(clocks));
}


/* ---- disks that fail ---------------------------------------------------- */

/* All changes are refused, and what is there can be fetched. */
static void
expect_uncertain(struct world *w)
{
    int requests = w->f.requests;

    all_refused(w, CHANGES, KAWS_UNCERTAIN, "refresh or reopen the keyring");
    assert_int_equal(w->f.requests, requests);
    expect_text(w, "k", "text");
}


/* The disk fails in the middle, and again: memory follows the file. */
static void
test_uncertain(void **state)
{
    static const struct { const char *first; int skip; const char *second;
                          int landed, torn; } rows[] = {
        { "fdatasync", 0, "ftruncate", 1, 0 },
        { "pwrite", 1, "ftruncate", 0, 1 },
        { "pwrite", 1, "fdatasync", 0, 0 },
        { "fdatasync", 0, "fdatasync", 0, 0 }
    };
    struct world *w = *state;
    size_t i;

    OK(w, store(w, "k", "text"));
    for (i = 0; i < COUNT(rows); i++) {
        disk_heal();
        fake_forget_log(&w->f);
        disk_fail(rows[i].first, rows[i].skip, ENOSPC, 1);
        disk_fail(rows[i].second, 0, EIO, 1);
        EXPECT(w, KAWS_UNCERTAIN, "no more is changed",
               store(w, "other", "text"));
        disk_heal();
        if (rows[i].landed)
            expect_text(w, "other", "text");
        else
            expect_no_key(w, "other", KAWS_NOT_FOUND);
        expect_uncertain(w);
        disk_trace[0] = '\0';
        world_close(w);
        assert_string_equal(disk_trace, "");
        world_open(w);
        assert_int_equal(fake_logged(&w->f, -1, "its length could not be"), 0);
        assert_int_equal(fake_logged(&w->f, 1, "cut off"), rows[i].torn);
        assert_int_equal(keys_of(w), 1 + (uint64_t)rows[i].landed);
        if (rows[i].landed)
            OK(w, drop(w, "other"));
    }
}


/* Replaced, but the folder's sync failed: the new file counts. */
static void
test_uncertain_replacement(void **state)
{
    struct world *w = *state;

    OK(w, store(w, "k", "text"));
    OK(w, store(w, "gone", "text"));
    disk_fail("fsync", 0, EIO, 1);
    EXPECT(w, KAWS_UNCERTAIN, "folder could not be synced", drop(w, "gone"));
    expect_no_key(w, "gone", KAWS_NOT_FOUND);
    expect_uncertain(w);
    world_reopen(w);
    assert_int_equal(keys_of(w), 1);
    disk_fail("fsync", 0, EIO, 1);
    OK(w, use_key(w, FAKE_EAST2));
    EXPECT(w, KAWS_UNCERTAIN, "folder could not be synced", rewrap(w));
    assert_string_equal(arn_of(w, "k"), FAKE_EAST2);
    expect_uncertain(w);
    world_reopen(w);
    assert_string_equal(arn_of(w, "k"), FAKE_EAST2);
    expect_text(w, "k", "text");
}


/* A replacement that fails changes neither file nor table. */
static void
test_replace_fails(void **state)
{
    static const struct { const char *call; int skip, os; } rows[] = {
        { "unlink", 0, EPERM }, { "pwrite", 0, ENOSPC },
        { "fdatasync", 0, EIO }, { DISK_REPLACE, 0, EIO },
        { "opendir", 0, EMFILE }
    };
    struct world *w = *state;
    size_t i;

    OK(w, store(w, "k", "text"));
    OK(w, store(w, "other", "more"));
    OK(w, use_key(w, FAKE_EAST2));
    for (i = 0; i < 2 * COUNT(rows); i++) {
        snap(w);
        disk_fail(rows[i / 2].call, rows[i / 2].skip, rows[i / 2].os, 1);
        EXPECT(w, KAWS_FILE, "data", i % 2 ? rewrap(w) : drop(w, "k"));
        disk_heal();
        expect_same_file(w);
        assert_false(is_there(w, ".tmp"));
        expect_text(w, "k", "text");
        assert_string_equal(arn_of(w, "k"), FAKE_EAST);
        assert_int_equal(keys_of(w), 2);
    }
    OK(w, drop(w, "k"));                  /* and all goes on from there       */
    OK(w, store(w, "third", "text"));
    world_reopen(w);
    expect_text(w, "other", "more");
    expect_text(w, "third", "text");
}


/* ---- the committed length, and torn ends -------------------------------- */

/* It trails the file while that grows, and is right when all is well. */
static void
test_committed_length(void **state)
{
    struct world *w = *state;
    uint64_t first, second;

    OK(w, store(w, "one", "x"));
    first = w->ring->vault.file.size;
    assert_int_equal(committed_in(w), 80);
    OK(w, store(w, "two", "x"));
    second = w->ring->vault.file.size;
    assert_int_equal(committed_in(w), first);
    world_reopen(w);
    assert_int_equal(committed_in(w), second);
    OK(w, drop(w, "one"));
    assert_int_equal(committed_in(w), w->ring->vault.file.size);
    OK(w, rewrap(w));
    assert_int_equal(committed_in(w), w->ring->vault.file.size);
    world_close(w);
    assert_int_equal(committed_in(w), second - first + 80 + 64);  /* material */
}


/* The process was killed after the last key was acknowledged. Opening takes
 * note of it, so a file that loses that key from then on is refused. */
static void
test_opening_commits_what_it_finds(void **state)
{
    struct world *w = *state;
    size_t len, now_len;
    uint8_t *killed, *now;

    OK(w, store(w, "one", "text"));
    OK(w, store(w, "last", "text"));
    killed = slurp(w->f.data, &len);
    world_close(w);
    spill(w->f.data, killed, len);
    world_open(w);
    assert_int_equal(committed_in(w), len);
    now = slurp(w->f.data, &now_len);         /* it is killed again           */
    world_close(w);
    spill(w->f.data, now, now_len - 7);
    EXPECT(w, KAWS_CORRUPT, "more was written and acknowledged",
           kaws_open(&w->ring, &w->cfg, &w->err));
    free(killed);
    free(now);
}


/* Another process changes the file while we close: nothing is written. */
static void
test_closing_waits_for_no_lock(void **state)
{
    struct world *w = *state;
    kaws__file f;

    OK(w, store(w, "k", "text"));
    OK(w, kaws__file_open(&f, &w->f.hooks, w->f.data, 0, &w->err));
    OK(w, kaws__file_hold(&f, 0, &w->err));
    disk_trace[0] = '\0';
    world_close(w);
    assert_string_equal(disk_trace, "");
    assert_int_equal(committed_in(w), 80);
    kaws__file_close(&f);
    world_open(w);
    expect_text(w, "k", "text");
}


/* Two keys, of which a crash cut the second one's last 7 bytes off. */
static uint8_t *
tear(struct world *w, uint64_t *good, size_t *len)
{
    uint8_t *all;

    OK(w, store(w, "one", "text"));
    *good = w->ring->vault.file.size;
    OK(w, store(w, "two", "text"));
    all = slurp(w->f.data, len);
    world_close(w);
    *len -= 7;
    spill(w->f.data, all, *len);
    return all;
}


static void
expect_aside(struct world *w, const uint8_t *torn, size_t len)
{
    char path[160];
    size_t aside_len;
    uint8_t *aside;

    (void)snprintf(path, sizeof path, "%s.torn-20261118T110640Z", w->f.data);
    aside = slurp(path, &aside_len);
    assert_non_null(aside);
    assert_int_equal(aside_len, len);
    assert_memory_equal(aside, torn, len);
    assert_int_equal(fake_logged(&w->f, 1, path), 1);
    free(aside);
}


static void
test_torn_end(void **state)
{
    struct world *w = *state;
    uint64_t good;
    size_t len;
    uint8_t *all = tear(w, &good, &len);

    w->cfg.read_only = 1;                 /* it is left where it is           */
    snap(w);
    world_open(w);
    assert_int_equal(keys_of(w), 1);
    assert_int_equal(fake_logged(&w->f, 1, "never acknowledged"), 1);
    expect_text(w, "one", "text");
    world_close(w);
    expect_same_file(w);
    w->cfg.read_only = 0;

    world_open(w);
    expect_aside(w, all + good, len - good);
    assert_int_equal(w->ring->vault.file.size, good);
    assert_int_equal(committed_in(w), good);
    expect_no_key(w, "two", KAWS_NOT_FOUND);
    OK(w, store(w, "two", "again"));
    world_reopen(w);
    expect_text(w, "one", "text");
    expect_text(w, "two", "again");
    free(all);
}


/* Without room for it elsewhere it stays where it is: the ring shows all that
 * was acknowledged, and takes no change before the end is safe. */
static void
test_torn_end_without_room(void **state)
{
    struct world *w = *state;
    kaws_stats stats;
    uint64_t good;
    size_t len;
    uint8_t *all;
    int i;

    OK(w, store(w, "k", "text"));
    all = tear(w, &good, &len);
    for (i = 0; i < 2; i++) {             /* closing keeps it as it is        */
        fake_forget_log(&w->f);
        disk_fail("pwrite", 0, ENOSPC, 1);
        world_open(w);
        assert_int_equal(fake_logged(&w->f, 1, "cannot set the torn end"), 1);
        assert_int_equal(fake_logged(&w->f, 1, "keys can be read"), 1);
        assert_int_equal(keys_of(w), 2);
        kaws_get_stats(w->ring, &stats);          /* that of two keys         */
        assert_memory_equal(stats.checksum, all + good - 32, 32);
        expect_text(w, "one", "text");
        snap(w);
        disk_fail("pwrite", 0, ENOSPC, 4);
        all_refused(w, CHANGES, KAWS_FILE, "cannot set the torn end");
        assert_int_equal(w->err.os, ENOSPC);
        expect_same_file(w);
        world_close(w);
        assert_int_equal(committed_in(w), good);
    }
    disk_fail("pwrite", 0, ENOSPC, 1);
    world_open(w);
    OK(w, drop(w, "one"));
    expect_aside(w, all + good, len - good);
    OK(w, store(w, "two", "again"));
    world_reopen(w);
    assert_int_equal(keys_of(w), 2);
    expect_text(w, "k", "text");
    expect_text(w, "two", "again");
    free(all);
}


/* What was found could not be made durable at open. Then the disk fails in the
 * middle of the committed length, and again: no more is changed. */
static void
test_uncertain_committed_length(void **state)
{
    struct world *w = *state;
    size_t len;
    uint8_t *all;

    OK(w, store(w, "k", "text"));
    all = slurp(w->f.data, &len);
    world_close(w);
    spill(w->f.data, all, len);
    disk_fail("pwrite", 0, ENOSPC, 1);
    world_open(w);
    assert_int_equal(fake_logged(&w->f, 1, "keys can be read"), 1);
    disk_heal();
    disk_fail("pwrite", 1, EAGAIN, 1);    /* half of it; then no more         */
    disk_fail("pwrite", 1, EIO, 2);
    EXPECT(w, KAWS_UNCERTAIN, "no more is changed", drop(w, "k"));
    disk_heal();
    expect_uncertain(w);
    free(all);
}


/* ---- others at the file ------------------------------------------------- */

/* What another ring adds is read in (test_refresh.c); anything else is not.
 */
static void
test_another_ring_changed_it(void **state)
{
    struct world *w = *state;
    kaws *mine = w->ring, *theirs;

    OK(w, store(w, "k", "text"));
    OK(w, store(w, "gone", "text"));
    OK(w, kaws_open(&theirs, &w->cfg, &w->err));
    assert_int_equal(fake_logged(&w->f, 1, "in use by another process"), 1);
    w->ring = theirs;
    OK(w, store(w, "theirs", "text"));
    OK(w, drop(w, "gone"));               /* replaced: another inode          */
    snap(w);
    w->ring = mine;
    all_refused(w, CHANGES, KAWS_CHANGED, "another file has taken its place");
    expect_text(w, "k", "text");
    expect_text(w, "gone", "text");
    expect_no_key(w, "theirs", KAWS_CHANGED);
    assert_int_equal(keys_of(w), 2);
    expect_same_file(w);
    world_close(w);
    assert_int_equal(fake_logged(&w->f, 1, "its length could not be"), 1);
    w->ring = theirs;
    OK(w, drop(w, "k"));
    world_reopen(w);
    assert_int_equal(keys_of(w), 1);
    expect_text(w, "theirs", "text");
}


#if !defined(_WIN32)                      /* which locks <path>.lock alone,
                                           * and has its processes elsewhere  */

/* Who waits for another process holds up nobody: the vault's lock is free. */
static void
expect_free(struct fake *f, int ms)
{
    kaws *ring = ((struct world *)f->user)->ring;

    (void)ms;
    if (pthread_mutex_trylock((pthread_mutex_t *)(void *)&ring->vault.lock) !=
        0)
        f->user = NULL;
    else
        pthread_mutex_unlock((pthread_mutex_t *)(void *)&ring->vault.lock);
    if (f->user == NULL)
        f->on_sleep = NULL;
}


static void
expect_locked(struct world *w)
{
    kaws *none;

    w->f.user = w;
    w->f.on_sleep = expect_free;
    all_refused(w, CHANGES, KAWS_LOCKED, "another process");
    assert_ptr_equal(w->f.user, w);
    w->f.on_sleep = NULL;
    EXPECT(w, KAWS_NOT_FOUND, NULL, drop(w, "none"));     /* without waiting  */
    EXPECT(w, KAWS_LOCKED, NULL, kaws_open(&none, &w->cfg, &w->err));
    expect_text(w, "k", "text");
    assert_int_equal(keys_of(w), 1);
    expect_same_file(w);
}


/* Another process is in the middle of a change, and ends. */
static void
test_another_process_holds_it(void **state)
{
    struct world *w = *state;
    int up[2], down[2], status;
    char byte = 'x';
    kaws__file f;
    pid_t child;

    OK(w, store(w, "k", "text"));
    assert_int_equal(pipe(up), 0);
    assert_int_equal(pipe(down), 0);
    child = fork();
    if (child == 0) {
        int ok = kaws__file_open(&f, &w->f.hooks, w->f.data, 0, NULL) ==
                 KAWS_OK && kaws__file_hold(&f, 0, NULL) == KAWS_OK;
        ok = ok && write(up[1], &byte, 1) == 1 && read(down[0], &byte, 1) == 1;
        _exit(ok ? 0 : 1);
    }
    assert_int_equal(read(up[0], &byte, 1), 1);
    snap(w);
    expect_locked(w);
    assert_int_equal(write(down[1], &byte, 1), 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    OK(w, store(w, "new", "x"));
    close(up[0]);
    close(up[1]);
    close(down[0]);
    close(down[1]);
}


/* What a process by another name does while it has the file's lock: it adds a
 * key, and releases the lock. */
static void
add_and_release(struct fake *f, int ms)
{
    int fd = *(int *)f->user;
    size_t done;

    (void)ms;
    assert_int_equal(kaws__disk_write_at(fd, 0, snapped, snapped_len, &done),
                     0);
    kaws__disk_unlock(fd, 1);
    f->on_sleep = NULL;
}


/* Opening waits for another process's change, and reads what that one left. */
static void
test_opening_waits_for_a_change(void **state)
{
    struct world *w = *state;
    size_t len;
    uint8_t *one;
    int fd;

    OK(w, store(w, "k", "text"));
    one = slurp(w->f.data, &len);
    OK(w, store(w, "new", "x"));
    snap(w);
    world_close(w);
    spill(w->f.data, one, len);
    free(one);
    assert_int_equal(kaws__disk_open(w->f.data, KAWS__WRITE, &fd), 0);
    assert_int_equal(kaws__disk_lock(fd, 1, 1), 0);
    w->f.user = &fd;
    w->f.on_sleep = add_and_release;
    world_open(w);
    assert_null(w->f.on_sleep);
    kaws__disk_close(fd);
    assert_int_equal(keys_of(w), 2);
    expect_text(w, "new", "x");
}


/* By another name there is another lock file; the data file is the same. */
static void
test_another_name(void **state)
{
    struct world *w = *state;
    char name[128];
    kaws *mine = w->ring, *theirs;
    kaws__buf bytes;
    kaws__file f;

    OK(w, store(w, "k", "text"));
    snap(w);
    (void)snprintf(name, sizeof name, "%s/other", w->f.dir);
    assert_int_equal(link(w->f.data, name), 0);
    kaws__buf_init(&bytes, &w->f.hooks);
    OK(w, kaws__file_open(&f, &w->f.hooks, name, 0, &w->err));
    OK(w, kaws__file_read(&f, &bytes, &w->err));
    expect_locked(w);
    kaws__file_close(&f);
    kaws__buf_free(&bytes);

    w->cfg.data_file = name;
    OK(w, kaws_open(&theirs, &w->cfg, &w->err));
    OK(w, store(w, "mine", "text"));
    w->ring = theirs;
    OK(w, store(w, "theirs", "x"));
    w->ring = mine;
    EXPECT(w, KAWS_FILE, "has 2 names", drop(w, "k"));
    EXPECT(w, KAWS_FILE, "has 2 names", rewrap(w));
    kaws_close(theirs);
    assert_int_equal(remove(name), 0);
    w->cfg.data_file = w->f.data;
    OK(w, drop(w, "k"));
    world_reopen(w);
    assert_int_equal(keys_of(w), 2);
    expect_text(w, "mine", "text");
    expect_text(w, "theirs", "x");
}


/* Another thread changes the file, and does not get on. */
static void
test_another_thread_holds_it(void **state)
{
    struct world *w = *state;
    uint64_t before = (uint64_t)kaws__sys_ticks_us();

    OK(w, store(w, "k", "text"));
    assert_int_equal(kaws__thread_turn_wait(&w->ring->vault.turn, 0,
                                            &w->ring->hooks), 0);
    EXPECT(w, KAWS_LOCKED, "another thread", store(w, "new", "x"));
    assert_in_range((uint64_t)kaws__sys_ticks_us() - before,
                    KAWS__VAULT_TURN_MS * 900, KAWS__VAULT_TURN_MS * 1900);
    expect_text(w, "k", "text");
    kaws__thread_turn_end(&w->ring->vault.turn, 1);
    OK(w, store(w, "new", "x"));
}


static void
really_sleep(struct fake *f, int ms)
{
    (void)f;
    kaws__sys_sleep_ms(NULL, ms);
}


static void
find_it_locked(void *arg)
{
    struct world *w = arg;
    kaws_error err;

    if (kaws_remove(w->ring, name_of("k", NULL), &err) == KAWS_LOCKED &&
        strstr(err.text, "another process") != NULL) {
        pthread_mutex_lock(&w->f.lock);
        (*(int *)w->f.user)++;
        pthread_mutex_unlock(&w->f.lock);
    }
}


/* Another process holds the file: all threads have waited for it when the first
 * of them has, and none is kept longer, unless it comes late. */
static void
test_all_wait_at_once(void **state)
{
    struct world *w = *state;
    uint64_t before;
    kaws__file f;
    int locked = 0;

    OK(w, store(w, "k", "text"));
    OK(w, kaws__file_open(&f, &w->f.hooks, w->f.data, 0, &w->err));
    OK(w, kaws__file_hold(&f, 0, &w->err));
    w->f.user = &locked;
    w->f.on_sleep = really_sleep;
    w->f.sleeps = 0;
    before = (uint64_t)kaws__sys_ticks_us();
    kaws__thread_parallel(6, find_it_locked, w);
    assert_true((uint64_t)kaws__sys_ticks_us() - before >=
                KAWS__FILE_WAIT_MS * 900);
    assert_in_range(w->f.sleeps, KAWS__FILE_WAIT_MS / 5,
                    2 * KAWS__FILE_WAIT_MS / 5);
    assert_int_equal(locked, 6);
    w->f.on_sleep = NULL;
    kaws__file_close(&f);
    OK(w, drop(w, "k"));
}

#endif


/* ---- looking up --------------------------------------------------------- */

/* A copy needs no lock, and the shield knows a key by the whole hash of its
 * name. A name that is not free is still the caller's. */
static void
test_what_a_look_copies(void **state)
{
    static kaws__copy copy;
    const kaws_name name = name_of("k", "owner");
    struct world *w = *state;
    const kaws__table *t = &w->ring->vault.table;
    int cache;

    OK(w, kaws_generate(w->ring, name, "AES", 32, &w->err));
    for (cache = 0; cache < 2; cache++) {
        kaws_use_cache(w->ring, cache);
        memset(&copy, 0xff, sizeof copy);
        OK(w, kaws__bind_name(name, &copy.record, &w->err));
        OK(w, kaws__vault_look(&w->ring->vault, KAWS__TO_FETCH, &copy,
                               &w->err));
        assert_true(copy.id == (cache ? kaws__table_hash(t, kaws__buf_of("k"),
                                kaws__buf_of("owner")) : 0));
        assert_true(!cache || copy.id > UINT32_MAX);
        assert_true(copy.generation == w->ring->vault.shield.generation);
        assert_ptr_not_equal(copy.record.key_id.at, name.key_id);
        assert_true(kaws__buf_same(copy.record.type, kaws__buf_of("AES")));
        assert_string_equal(copy.sealed.kms_key_arn, FAKE_EAST);
        assert_int_equal(copy.sealed.blob_len, copy.record.blob.len);
        assert_memory_equal(copy.sealed.blob, copy.record.blob.at,
                            copy.record.blob.len);
    }
    OK(w, kaws__bind_name(name, &copy.record, &w->err));
    EXPECT(w, KAWS_EXISTS, "already there",
           kaws__vault_look(&w->ring->vault, KAWS__TO_ADD, &copy, &w->err));
    assert_ptr_equal(copy.record.key_id.at, name.key_id);
    assert_int_equal(copy.record.type.len, 0);
}


/* ---- walking ------------------------------------------------------------ */

static void
test_walk(void **state)
{
    struct world *w = *state;
    kaws_walk *walk, *second;
    kaws_entry_info info;
    char name[16];
    int i;

    OK(w, kaws_walk_begin(w->ring, &walk, &w->err));
    assert_false(kaws_walk_next(walk, &info));
    assert_false(kaws_walk_next(walk, NULL));
    kaws_walk_end(walk);
    for (i = 0; i < 50; i++) {
        (void)snprintf(name, sizeof name, "k%d", i);
        w->f.now_ms += 1000;
        OK(w, kaws_generate(w->ring, name_of(name, i % 2 ? "owner" : NULL),
                            "AES", (size_t)(1 + i), &w->err));
    }
    OK(w, drop(w, "k20"));
    OK(w, generate(w, "k20"));
    OK(w, kaws_walk_begin(w->ring, &walk, &w->err));
    OK(w, kaws_walk_begin(w->ring, &second, &w->err));
    for (i = 0; i < 10; i += 2) {         /* the walks are of before          */
        (void)snprintf(name, sizeof name, "k%d", i);
        OK(w, drop(w, name));
    }
    OK(w, generate(w, "later"));
    assert_true(kaws_walk_next(second, &info));
    world_close(w);                       /* and live on                      */
    for (i = 0; i < 49; i++) {
        int k = i < 20 ? i : i + 1;
        assert_true(kaws_walk_next(walk, &info));
        (void)snprintf(name, sizeof name, "k%d", k);
        assert_string_equal(info.name.key_id, name);
        assert_string_equal(info.name.user_id, k % 2 ? "owner" : "");
        assert_string_equal(info.type, "AES");
        assert_string_equal(info.kms_key_arn, FAKE_EAST);
        assert_int_equal(info.len, 1 + k);
        assert_int_equal(info.created, 1795000001 + k);
    }
    assert_true(kaws_walk_next(walk, &info));
    assert_string_equal(info.name.key_id, "k20");
    assert_false(kaws_walk_next(walk, &info));
    assert_false(kaws_walk_next(walk, &info));
    kaws_walk_end(walk);
    kaws_walk_end(second);
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        SHUT(test_new_file), SHUT(test_no_random), SHUT(test_read_only),
        SHUT(test_must_exist), SHUT(test_must_exist_later),
        SHUT(test_without_data_file), OPEN(test_absurd_clock),
        OPEN(test_uncertain), OPEN(test_uncertain_replacement),
        OPEN(test_replace_fails), OPEN(test_committed_length),
        OPEN(test_opening_commits_what_it_finds),
        OPEN(test_closing_waits_for_no_lock), OPEN(test_torn_end),
        OPEN(test_torn_end_without_room),
        OPEN(test_uncertain_committed_length),
        OPEN(test_another_ring_changed_it),
#if !defined(_WIN32)
        OPEN(test_another_process_holds_it), OPEN(test_another_name),
        OPEN(test_opening_waits_for_a_change),
        OPEN(test_another_thread_holds_it), OPEN(test_all_wait_at_once),
#endif
        OPEN(test_what_a_look_copies), OPEN(test_walk)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
