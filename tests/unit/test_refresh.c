/* Room vault: what other processes did to the file. Here the other process is a
 * second ring; tests/test_library.py and tests/fault have real ones. */

#include "../fault/disk.h"

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "keys.h"

#include <utime.h>
#if !defined(_WIN32)
#include <sys/wait.h>
#endif

#define refresh(w) kaws_refresh((w)->ring, &(w)->err)

static kaws *theirs;


/* The world's ring, with two keys, and theirs, which knows them. */
static int
begin_two(void **state)
{
    struct world *w;

    if (begin_open(state) != 0)
        return 1;
    w = *state;
    OK(w, store(w, "k", "text"));
    OK(w, store(w, "old", "text"));
    OK(w, kaws_open(&theirs, &w->cfg, &w->err));
    fake_forget_log(&w->f);
    disk_heal();
    return 0;
}


static int
end_two(void **state)
{
    HEAL();
    kaws_close(theirs);
    theirs = NULL;
    return end(state);
}

#define TWO(name) cmocka_unit_test_setup_teardown(name, begin_two, end_two)


/* The two change places. */
static void
turn(struct world *w)
{
    kaws *ring = w->ring;

    w->ring = theirs;
    theirs = ring;
}


static void
they_store(struct world *w, const char *key_id)
{
    turn(w);
    OK(w, store(w, key_id, "theirs"));
    fake_forget_log(&w->f);
    turn(w);
}


static void
they_drop(struct world *w, const char *key_id)
{
    turn(w);
    OK(w, drop(w, key_id));
    fake_forget_log(&w->f);
    turn(w);
}


/* What the log says of a take-over: how many keys there are, and were. */
static void
expect_told(struct world *w, int level, const char *how, int now, int before)
{
    char words[80];

    assert_int_equal(fake_logged(&w->f, level, how), 1);
    (void)snprintf(words, sizeof words, ": %d key%s, checksum begins with ",
                   now, now == 1 ? "" : "s");
    assert_int_equal(fake_logged(&w->f, level, words), 1);
    (void)snprintf(words, sizeof words, "; before, %d key%s, checksum", before,
                   before == 1 ? "" : "s");
    assert_int_equal(fake_logged(&w->f, level, words), 1);
    fake_forget_log(&w->f);
}

#define ADDED     "another process has added to the data file"
#define REFRESHED "because a refresh was asked for"


/* ---- nothing has changed ------------------------------------------------ */

static int looks, others;


static void
count_calls(const char *call)
{
    if (strcmp(call, DISK_LOOK) == 0)
        looks++;
    else
        others++;
}


static int reads;


static void
count_reads(const char *call)
{
    reads += strcmp(call, "pread") == 0;
}


/* It costs one look at the path, and nothing else; so does a missing name. */
static void
test_unchanged(void **state)
{
    struct world *w = *state;
    int reader;

    OK(w, refresh(w));                    /* their opening wrote the length   */
    for (reader = 0; reader < 2; reader++) {
        looks = others = 0;
        disk_on_call = count_calls;
        w->f.requests = 0;
        OK(w, refresh(w));
        assert_int_equal(looks, 1);
        assert_int_equal(others, HAS_LINKS ? 0 : others);
        expect_no_key(w, "none", KAWS_NOT_FOUND);
        assert_int_equal(looks, 2);
        looks = 0;
        expect_text(w, "k", "text");      /* a key that is there: none        */
        assert_int_equal(looks, 0);
        assert_int_equal(w->f.requests, 1);
        disk_on_call = NULL;
        if (reader == 0)
            EXPECT(w, KAWS_NOT_FOUND, NULL, drop(w, "none"));
        assert_int_equal(fake_logged(&w->f, -1, "KAWS-14"), 0);
        w->cfg.read_only = 1;
        world_reopen(w);
    }
    w->cfg.read_only = 0;
    world_close(w);
    w->cfg.data_file = NULL;
    world_open(w);
    EXPECT(w, KAWS_CONFIG, "data_file has to be set", refresh(w));
    EXPECT(w, KAWS_ARGUMENT, "ring", kaws_refresh(NULL, &w->err));
}


/* Only its times: it is the same file, and stays so. */
static void
test_touched(void **state)
{
    struct world *w = *state;
    int i;

    disk_trace[0] = '\0';
    for (i = 0; i < 3; i++) {
        assert_int_equal(chmod(w->f.data, i % 2 ? 0600 : 0400), 0);
        assert_int_equal(chmod(w->f.data, 0600), 0);
        OK(w, refresh(w));
        assert_int_equal(keys_of(w), 2);
        looks = others = 0;
        disk_on_call = count_calls;
        OK(w, refresh(w));
        disk_on_call = NULL;
        assert_int_equal(looks, 1);
    }
    assert_string_equal(disk_trace, "");  /* neither written nor synced       */
    assert_int_equal(fake_logged(&w->f, -1, "KAWS-14"), 0);
    OK(w, store(w, "new", "x"));
    OK(w, drop(w, "new"));
}


/* ---- they have added ---------------------------------------------------- */

/* Two rings in turns: none of them ever has to be reopened. */
static void
test_in_turns(void **state)
{
    struct world *w = *state;
    char name[16];
    int i;

    for (i = 0; i < 20; i++) {
        (void)snprintf(name, sizeof name, "k%d", i);
        OK(w, generate(w, name));
        assert_int_equal(fake_logged(&w->f, -1, ADDED), i > 0);
        if (i > 0)
            expect_told(w, 2, ADDED, i + 2, i + 1);
        fake_forget_log(&w->f);
        turn(w);
    }
    turn(w);
    OK(w, refresh(w));
    turn(w);
    OK(w, refresh(w));
    assert_int_equal(keys_of(w), 22);
    assert_int_equal(fake_logged(&w->f, 1, ""), 0);
    snap(w);
    world_reopen(w);
    assert_int_equal(keys_of(w), 22);
    assert_int_equal(fake_logged(&w->f, 1, "cut off"), 0);
    expect_same_file(w);
    turn(w);
    assert_int_equal(keys_of(w), 22);
    expect_text(w, "old", "text");
}


/* What they added can be fetched, removed and re-wrapped at once, and is not
 * overwritten. */
static void
test_added(void **state)
{
    struct world *w = *state;

    they_store(w, "one");
    they_store(w, "two");
    they_store(w, "three");
    assert_int_equal(keys_of(w), 2);      /* nobody has asked yet             */
    expect_text(w, "one", "theirs");
    expect_told(w, 2, ADDED, 5, 2);
    they_store(w, "four");
    EXPECT(w, KAWS_EXISTS, "four", store(w, "four", "mine"));
    expect_text(w, "four", "theirs");
    they_store(w, "five");
    OK(w, drop(w, "five"));               /* the file is replaced             */
    expect_no_key(w, "five", KAWS_NOT_FOUND);
    turn(w);
    EXPECT(w, KAWS_CHANGED, "another file", store(w, "x", "x"));
    OK(w, refresh(w));
    expect_no_key(w, "five", KAWS_NOT_FOUND);
    OK(w, store(w, "six", "six"));
    turn(w);
    OK(w, use_key(w, FAKE_EAST2));
    OK(w, rewrap(w));
    assert_string_equal(arn_of(w, "six"), FAKE_EAST2);
    assert_string_equal(arn_of(w, "k"), FAKE_EAST2);
    expect_text(w, "six", "six");
    world_reopen(w);
    assert_int_equal(keys_of(w), 7);
    expect_text(w, "three", "theirs");
}


/* A reader needs neither locks nor the right to write. */
static void
test_reader(void **state)
{
    struct world *w = *state;
    char lock[160];
    int i;

    (void)snprintf(lock, sizeof lock, "%s.lock", w->f.data);
    for (i = 0; i < 3; i++) {
        world_close(w);
        if (i > 0)
            (void)remove(lock);
        w->cfg.read_only = 1;
        if (i == 2)
            disk_fail("fcntl", 0, ENOLCK, 1000);
        world_open(w);
        disk_heal();
        fake_forget_log(&w->f);
        they_store(w, i == 0 ? "one" : i == 1 ? "two" : "three");
        disk_trace[0] = '\0';
        if (i == 2)
            disk_fail("fcntl", 0, ENOLCK, 1000);
        expect_text(w, i == 0 ? "one" : i == 1 ? "two" : "three", "theirs");
        disk_heal();
        assert_string_equal(disk_trace, "");
        expect_told(w, 2, ADDED, i + 3, i + 2);
        expect_no_key(w, "none", KAWS_NOT_FOUND);
        all_refused(w, CHANGES, KAWS_CONFIG, "is read only");
    }
    they_drop(w, "one");
    expect_text(w, "one", "theirs");      /* as long as it knows no better    */
    expect_no_key(w, "none", KAWS_CHANGED);
    OK(w, refresh(w));
    expect_told(w, 1, REFRESHED, 4, 5);
    expect_no_key(w, "one", KAWS_NOT_FOUND);
    expect_no_key(w, "none", KAWS_NOT_FOUND);
    assert_int_equal(unlink(w->f.data), 0);
    expect_no_key(w, "none", KAWS_CHANGED);
    expect_text(w, "two", "theirs");
    EXPECT(w, KAWS_FILE, "No such file", refresh(w));
    assert_int_equal(w->err.os, ENOENT);
    expect_text(w, "two", "theirs");
    assert_false(is_there(w, ""));
    kaws__err_clear(&w->err);
}


/* Another inode with the same bytes, or with these and more, is the same file:
 * what counts is that nothing is lost. */
static void
test_copies(void **state)
{
    struct world *w = *state;
    char copy[160];

    (void)snprintf(copy, sizeof copy, "%s.copy", w->f.data);
    they_store(w, "more");
    snap(w);
    spill(copy, snapped, snapped_len);
    assert_int_equal(rename(copy, w->f.data), 0);
    expect_text(w, "more", "theirs");     /* they have made it longer         */
    expect_told(w, 2, ADDED, 3, 2);
    spill(copy, snapped, snapped_len);
    assert_int_equal(rename(copy, w->f.data), 0);
    OK(w, store(w, "mine", "x"));         /* it is the same                   */
    assert_int_equal(fake_logged(&w->f, -1, "KAWS-14"), 0);
    they_store(w, "extra");
    they_drop(w, "extra");                /* the same again, but for the inode*/
    OK(w, drop(w, "more"));
    assert_int_equal(keys_of(w), 3);
    snap(w);
    world_reopen(w);
    expect_same_file(w);
}


/* ---- anything else ------------------------------------------------------ */

static uint8_t *forged;
static size_t forged_len;


/* The file with one more entry: a second one of that name. */
static void
forge_twin(struct world *w)
{
    kaws__sha256 state = w->ring->vault.file.state;
    kaws_bytes record;

    free(forged);
    forged = slurp(w->f.data, &forged_len);
    record = kaws__store_next((kaws_bytes){ forged, forged_len }, 80);
    memcpy(forged + forged_len, record.at, record.len);
    record.at = forged + forged_len;
    forged_len += record.len + 32;
    kaws__store_digest(&state, record, forged + forged_len - 32);
}


enum { REMOVED, REWRAPPED, OLDER, ANOTHER, CUT, FLIPPED, LONGER, TWIN, EMPTY,
       NEWER, GONE, FOLDER, WAYS };

static const struct {
    const char *words;            /* of a change                              */
    kaws_status status;           /* of a refresh                             */
    const char *why;
    int keys;                     /* after one that went well                 */
} ways[WAYS] = {
    [REMOVED] = { "another file", KAWS_OK, "", 2 },
    [REWRAPPED] = { "another file", KAWS_OK, "", 3 },
    [OLDER] = { "another file", KAWS_OK, "", 2 },
    [ANOTHER] = { "another file", KAWS_CHANGED, "reopen the keyring", 0 },
    [CUT] = { "its size", KAWS_CORRUPT, "acknowledged", 0 },
    [FLIPPED] = { "its bytes", KAWS_CORRUPT, "does not match its checksum", 0 },
    [LONGER] = { "its size", KAWS_CORRUPT, "what follows is not entries", 0 },
    [TWIN] = { "its size", KAWS_CORRUPT, "the name of an earlier one", 0 },
    [EMPTY] = { "its size", KAWS_CORRUPT, "is empty (0 bytes)", 0 },
    [NEWER] = { "its size", KAWS_CORRUPT, "use a newer one", 0 },
    [GONE] = { "No such file", KAWS_FILE, "No such file", 0 },
    [FOLDER] = { NULL, KAWS_FILE, "", 0 }
};


/* Of the file that has k, old and three, makes something else. */
static void
spoil(struct world *w, int way, const uint8_t *older, size_t older_len)
{
    uint8_t *all = slurp(w->f.data, &forged_len);
    struct utimbuf long_ago = { 1000000000, 1000000000 };
    char path[160];
    kaws_config cfg = w->cfg;
    kaws *other;

    (void)snprintf(path, sizeof path, "%s.other", w->f.data);
    if (way == REMOVED)
        they_drop(w, "old");
    if (way == REWRAPPED) {
        OK(w, kaws_rewrap_all(theirs, &w->err));
    } else if (way == OLDER) {
        spill(path, older, older_len);
    } else if (way == ANOTHER) {
        cfg.data_file = path;
        (void)remove(path);
        OK(w, kaws_open(&other, &cfg, &w->err));
        kaws_close(other);
    } else if (way == TWIN) {
        forge_twin(w);
        spill(w->f.data, forged, forged_len);
    } else if (way >= CUT && way <= NEWER) {
        forged_len += way == CUT ? (size_t)-7 : way == FLIPPED ? 0 : 9000;
        all[way == FLIPPED ? 100 : 200000] ^= 1;
        if (way == NEWER)
            all[8] = 2;
        spill(w->f.data, all, way == EMPTY ? 0 : forged_len);
        assert_int_equal(utime(w->f.data, &long_ago), 0);
    } else if (way >= GONE) {
        assert_int_equal(unlink(w->f.data), 0);
        assert_true(way == GONE || mkdir(w->f.data, 0700) == 0);
    }
    if (way == OLDER || way == ANOTHER)
        assert_int_equal(rename(path, w->f.data), 0);
    free(all);
}


/* A change is refused, and the ring as it was, until its owner refreshes it; if
 * that fails, it still is. */
static void
test_anything_else(void **state)
{
    struct world *w;
    kaws_stats before, after;
    uint8_t *older;
    size_t older_len;
    int way;

    for (way = 0; way < WAYS; way++) {
        w = *state;
        older = slurp(w->f.data, &older_len);
        OK(w, store(w, "three", "text"));
        turn(w);
        OK(w, refresh(w));
        OK(w, use_key(w, FAKE_EAST2));
        turn(w);
        kaws_get_stats(w->ring, &before);
        spoil(w, way, older, older_len);
        free(older);
        fake_forget_log(&w->f);
        disk_trace[0] = '\0';
        world_case = ways[way].words != NULL ? ways[way].words : "folder";
        all_refused(w, CHANGES, KAWS_CHANGED, ways[way].words);
        world_case = "";
        expect_no_key(w, "none", way == FLIPPED ? KAWS_NOT_FOUND
                                                : KAWS_CHANGED);
        kaws_get_stats(w->ring, &after);
        assert_memory_equal(before.checksum, after.checksum, 32);
        assert_string_equal(disk_trace, "");
        EXPECT(w, ways[way].status, ways[way].why, refresh(w));
        if (ways[way].status == KAWS_OK) {
            expect_told(w, 1, REFRESHED, ways[way].keys, 3);
            assert_int_equal(keys_of(w), ways[way].keys);
            OK(w, store(w, "new", "x"));
            OK(w, drop(w, "new"));
            if (way == REWRAPPED)
                assert_string_equal(arn_of(w, "k"), FAKE_EAST2);
        } else {
            assert_int_equal(fake_logged(&w->f, -1, "KAWS-14"), 0);
            EXPECT(w, ways[way].status, ways[way].why, refresh(w));
            EXPECT(w, KAWS_CHANGED, ways[way].words, store(w, "new", "x"));
            assert_int_equal(keys_of(w), 3);
            assert_string_equal(disk_trace, "");
        }
        expect_text(w, "k", "text");
        kaws__err_clear(&w->err);
        if (way == FOLDER)
            assert_int_equal(rmdir(w->f.data), 0);
        assert_int_equal(end_two(state), 0);
        assert_int_equal(begin_two(state), 0);
    }
    free(forged);
    forged = NULL;
}


/* What was refused is not read again as long as it is the same; what else comes
 * to its place is, and so is the same after that. */
static void
test_refused_once(void **state)
{
    struct world *w = *state;
    char path[160];
    int i;

    (void)snprintf(path, sizeof path, "%s.other", w->f.data);
    they_store(w, "a");
    snap(w);
    they_drop(w, "k");
    they_store(w, "b");
    they_store(w, "c");                   /* longer than what is known        */
    expect_no_key(w, "none", KAWS_CHANGED);
    reads = 0;
    disk_on_call = count_reads;
    for (i = 0; i < 100; i++) {
        expect_no_key(w, "none", KAWS_CHANGED);
        EXPECT(w, KAWS_CHANGED, "another file", store(w, "x", "x"));
    }
    assert_int_equal(reads, 0);
    disk_on_call = NULL;
    assert_int_equal(rename(w->f.data, path), 0);
    spill(w->f.data, snapped, snapped_len);
    expect_text(w, "a", "theirs");
    expect_told(w, 2, ADDED, 3, 2);
    assert_int_equal(rename(path, w->f.data), 0);
    expect_no_key(w, "c", KAWS_CHANGED);
    OK(w, refresh(w));
    expect_text(w, "c", "theirs");
}


/* A wrong mode, or a file that cannot be locked, is logged at the opening, and
 * not whenever something is read in. */
static void
test_told_once(void **state)
{
    struct world *w = *state;
    char name[16];
    int i;

    assert_int_equal(chmod(w->f.data, 0644), 0);
    w->cfg.read_only = 1;
    disk_fail("fcntl", 0, ENOLCK, 1000);
    world_reopen(w);
    assert_int_equal(fake_logged(&w->f, 1, "without a lock"), 1);
    assert_int_equal(fake_logged(&w->f, 1, "may be read by others"), HAS_LINKS);
    disk_heal();
    for (i = 0; i < 3; i++) {
        (void)snprintf(name, sizeof name, "k%d", i);
        they_store(w, name);
        disk_fail("fcntl", 0, ENOLCK, 1000);
        expect_text(w, name, "theirs");
        disk_heal();
        assert_int_equal(fake_logged(&w->f, 1, ""), 0);
    }
    assert_int_equal(chmod(w->f.data, 0666), 0);
    they_store(w, "last");
    expect_text(w, "last", "theirs");
    assert_int_equal(fake_logged(&w->f, 1, "may be written by others"),
                     HAS_LINKS);
}


/* A name that they have removed is not simply there already. */
static void
test_their_removal(void **state)
{
    struct world *w = *state;

    they_drop(w, "old");
    EXPECT(w, KAWS_CHANGED, "another file", store(w, "old", "mine"));
    EXPECT(w, KAWS_CHANGED, "another file", generate(w, "old"));
    OK(w, refresh(w));
    OK(w, store(w, "old", "mine"));
    EXPECT(w, KAWS_EXISTS, NULL, store(w, "old", "mine"));
}


/* An edit in place is not hidden by what was added behind it. */
static void
test_edited_and_added(void **state)
{
    struct world *w = *state;
    size_t len;
    uint8_t *all;

    they_store(w, "more");
    all = slurp(w->f.data, &len);
    all[120] ^= 1;
    spill(w->f.data, all, len);
    free(all);
    EXPECT(w, KAWS_CHANGED, "its size", store(w, "x", "x"));
    EXPECT(w, KAWS_CORRUPT, "at byte 80", refresh(w));
    assert_int_equal(keys_of(w), 2);
    expect_text(w, "old", "text");
    kaws__err_clear(&w->err);
}


/* Who knows the format can give an edited file a good digest at its end, and
 * leave the digest that this ring has where it is. */
static void
test_forged_and_added(void **state)
{
    struct world *w = *state;
    static const uint8_t zeros[16];
    kaws__sha256 hash;
    kaws_bytes record;
    uint8_t *all;
    size_t len;

    they_store(w, "more");
    all = slurp(w->f.data, &len);
    record = kaws__store_next((kaws_bytes){ all, len }, 80);
    all[80 + record.len - 1] ^= 1;        /* a byte of a blob                 */
    kaws__crypto_init(&hash);
    kaws__crypto_update(&hash, all, 32);
    kaws__crypto_update(&hash, zeros, 16);
    kaws__crypto_update(&hash, all + 48, len - 48 - 32);
    kaws__crypto_out(&hash, all + len - 32);
    spill(w->f.data, all, len);
    free(all);
    EXPECT(w, KAWS_CHANGED, "its size", store(w, "x", "x"));
    expect_no_key(w, "more", KAWS_CHANGED);
    expect_text(w, "k", "text");
    OK(w, refresh(w));                    /* its owner has the last word      */
    expect_told(w, 1, REFRESHED, 3, 2);
    expect_no_key(w, "k", KAWS_MISMATCH);
    kaws__err_clear(&w->err);
}


/* ---- what is read in is durable ----------------------------------------- */

/* They died between their write and their sync. What they left is written again
 * and synced before anything is built on it, and before it is shown. */
static void
test_not_durable(void **state)
{
    struct world *w = *state;
    int asks;

    for (asks = 0; asks < 2; asks++) {
        they_store(w, "more");
        disk_trace[0] = '\0';
        disk_fail("fdatasync", 0, EIO, 1);
        EXPECT(w, KAWS_FILE, "make durable",
               asks ? refresh(w) : store(w, "mine", "x"));
        assert_string_equal(disk_trace, "fwd");
        assert_int_equal(keys_of(w), 2);
        disk_trace[0] = '\0';
        if (asks) {
            OK(w, refresh(w));
            assert_string_equal(disk_trace, "fwdwd");
        } else {
            OK(w, store(w, "mine", "x"));
            assert_string_equal(disk_trace, "fwdwdwwd");
            OK(w, drop(w, "mine"));
        }
        expect_text(w, "more", "theirs");
        OK(w, drop(w, "more"));
        turn(w);
        OK(w, refresh(w));
        turn(w);
    }
}


/* They were killed in the middle of an entry. */
static void
test_torn(void **state)
{
    struct world *w = *state;
    size_t whole, len;
    uint8_t *all;

    they_store(w, "more");
    whole = (size_t)theirs->vault.file.size;
    they_store(w, "torn");
    all = slurp(w->f.data, &len);
    len -= 40;
    spill(w->f.data, all, len);
    EXPECT(w, KAWS_NOT_FOUND, NULL, drop(w, "torn"));
    assert_int_equal(fake_logged(&w->f, 1, "was moved to"), 1);
    expect_told(w, 2, ADDED, 3, 2);
    assert_int_equal(w->ring->vault.file.size, whole);
    OK(w, store(w, "torn", "mine"));
    world_reopen(w);
    expect_text(w, "torn", "mine");
    expect_text(w, "more", "theirs");
    free(all);
}


/* A torn end of which this ring made a copy, but could not cut it off; it is
 * gone, and there is another one, of which there is no copy yet. */
static void
test_second_torn_end(void **state)
{
    struct world *w = *state;
    char path[160];
    size_t len, good, aside_len;
    uint8_t *all, *aside;

    OK(w, store(w, "torn", "x"));
    all = slurp(w->f.data, &len);
    kaws_close(theirs);
    theirs = NULL;
    world_close(w);
    spill(w->f.data, all, len - 7);
    free(all);
    disk_fail("ftruncate", 0, EIO, 1);
    world_open(w);
    disk_heal();
    OK(w, kaws_open(&theirs, &w->cfg, &w->err));
    good = (size_t)theirs->vault.file.size;
    they_store(w, "a longer one");
    all = slurp(w->f.data, &len);
    len -= 9;
    spill(w->f.data, all, len);
    w->f.now_ms += 5000;
    OK(w, store(w, "mine", "x"));
    (void)snprintf(path, sizeof path, "%s.torn-20261118T110645Z", w->f.data);
    aside = slurp(path, &aside_len);
    assert_non_null(aside);
    assert_int_equal(aside_len, len - good);
    assert_memory_equal(aside, all + good, aside_len);
    free(all);
    free(aside);
    world_reopen(w);
    assert_int_equal(keys_of(w), 3);
}


/* The committed length is written by half, and again: nobody knows. */
static void
test_uncertain_while_refreshed(void **state)
{
    struct world *w = *state;

    they_store(w, "more");
    disk_fail("pwrite", 1, EAGAIN, 1);
    disk_fail("pwrite", 1, EIO, 2);
    EXPECT(w, KAWS_UNCERTAIN, "no more is changed", refresh(w));
    disk_heal();
    assert_int_equal(keys_of(w), 2);
    EXPECT(w, KAWS_UNCERTAIN, "refresh or reopen", store(w, "x", "x"));
    expect_no_key(w, "more", KAWS_UNCERTAIN);     /* it may be there          */
    EXPECT(w, KAWS_CORRUPT, "committed length", refresh(w));
    EXPECT(w, KAWS_UNCERTAIN, "refresh or reopen", store(w, "x", "x"));
    expect_text(w, "k", "text");
    kaws__err_clear(&w->err);
}


/* A torn end that this ring could not set aside, and another one did. */
static void
test_torn_end_set_aside_by_them(void **state)
{
    struct world *w = *state;
    size_t len;
    uint8_t *all;

    OK(w, store(w, "torn", "x"));
    all = slurp(w->f.data, &len);
    kaws_close(theirs);
    theirs = NULL;
    world_close(w);
    spill(w->f.data, all, len - 7);
    free(all);
    disk_fail("pwrite", 0, ENOSPC, 1);
    world_open(w);
    assert_int_equal(fake_logged(&w->f, 1, "cannot set the torn end"), 1);
    disk_heal();
    OK(w, kaws_open(&theirs, &w->cfg, &w->err));
    expect_no_key(w, "torn", KAWS_NOT_FOUND);
    OK(w, store(w, "mine", "x"));
    they_store(w, "more");
    expect_text(w, "more", "theirs");
    OK(w, drop(w, "mine"));
}


/* A torn end is gone, and what they added instead is just as long. */
static void
test_as_long_as_a_torn_end(void **state)
{
    struct world *w;
    size_t len, good;
    uint8_t *all;
    int reader;

    for (reader = 0; reader < 2; reader++) {
        w = *state;
        good = (size_t)w->ring->vault.file.size;
        OK(w, store(w, "torn", "theirs"));
        all = slurp(w->f.data, &len);
        kaws_close(theirs);
        theirs = NULL;
        world_close(w);
        memset(all + good, 0, len - good);
        spill(w->f.data, all, len);
        free(all);
        w->cfg.read_only = reader;
        if (!reader)
            disk_fail("pwrite", 0, ENOSPC, 1);
        world_open(w);
        assert_int_equal(fake_logged(&w->f, 1, "torn end") +
                         fake_logged(&w->f, 1, "left as it is"), 1);
        disk_heal();
        w->cfg.read_only = 0;
        OK(w, kaws_open(&theirs, &w->cfg, &w->err));
        they_store(w, "torn");
        assert_int_equal(theirs->vault.file.size, len);
        if (reader) {
            expect_text(w, "torn", "theirs");
        } else {
            OK(w, store(w, "mine", "x"));
            EXPECT(w, KAWS_EXISTS, NULL, store(w, "torn", "x"));
        }
        assert_int_equal(end_two(state), 0);
        assert_int_equal(begin_two(state), 0);
    }
}


/* Each call of the disk fails once, while the keys of others are read in: by
 * a change, a fetch, or a refresh. All is as before, or as it has to be. */
static kaws_status
take_over(struct world *w, int how)
{
    kaws_key key;
    kaws_status status;

    if (how == 0)
        return refresh(w);
    if (how == 1)
        return store(w, "mine", "x");
    if (how == 2)
        return drop(w, "more");
    status = kaws_fetch(w->ring, name_of("more", NULL), &key, &w->err);
    kaws_key_free(w->ring, &key);
    return status;
}


static void
test_disk_fails(void **state)
{
    static const char *const names[] = { "open", "fstat", "lstat", "pread",
        "fcntl", "pwrite", "fdatasync", "fsync", "opendir", "unlink",
        "renameat2" };
    struct world *w;
    kaws_status status;
    size_t i;
    int how, skip, hit, n;

    for (how = 0; how < 4; how++)
        for (i = 0; i < COUNT(names); i++)
            for (skip = 0, hit = 1; hit; skip++) {
                w = *state;
                they_store(w, "more");
                disk_fail(names[i], skip, EIO, 1);
                status = take_over(w, how);
                hit = disk_rules[0].times == 0;
                disk_heal();
                n = (int)keys_of(w);
                if (status != KAWS_OK && status != KAWS_FILE &&
                    status != KAWS_UNCERTAIN &&       /* our own lock stays   */
                    (status != KAWS_LOCKED || strcmp(names[i], "fcntl")) &&
                    (status != KAWS_CHANGED ||
                     (strcmp(names[i], DISK_LOOK) != 0 &&
                      (HAS_LINKS || strcmp(names[i], "fstat") != 0))))
                    fail_msg("%d %s %d: %s", how, names[i], skip, w->err.text);
                if (status == KAWS_FILE && n != 2 && n != 3)
                    fail_msg("%d %s %d: %d keys", how, names[i], skip, n);
                expect_text(w, "k", "text");
                OK(w, refresh(w));
                expect_text(w, "old", "text");
                if (how != 2 || status == KAWS_FILE)
                    expect_text(w, "more", "theirs");
                OK(w, store(w, "last", "x"));
                snap(w);
                n = (int)keys_of(w);
                world_reopen(w);
                assert_int_equal(keys_of(w), n);
                expect_same_file(w);
                assert_int_equal(end_two(state), 0);
                assert_int_equal(begin_two(state), 0);
            }
}


/* ---- after a disk failure in the middle of a change ---------------------- */

static void
test_uncertain(void **state)
{
    static const struct { const char *first; int skip; const char *second;
                          int landed; } rows[] = {
        { "fdatasync", 0, "ftruncate", 1 }, { "pwrite", 1, "ftruncate", 0 },
        { "pwrite", 1, "fdatasync", 0 }, { "fdatasync", 0, "fdatasync", 0 }
    };
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        disk_fail(rows[i].first, rows[i].skip, ENOSPC, 1);
        disk_fail(rows[i].second, 0, EIO, 1);
        EXPECT(w, KAWS_UNCERTAIN, "no more is changed", store(w, "x", "x"));
        disk_heal();
        EXPECT(w, KAWS_UNCERTAIN, "refresh or reopen", store(w, "y", "y"));
        expect_no_key(w, "none", KAWS_NOT_FOUND);     /* the table follows    */
        disk_fail("fdatasync", 0, EIO, 1);
        EXPECT(w, KAWS_FILE, "", refresh(w));     /* not well: as before      */
        disk_heal();
        EXPECT(w, KAWS_UNCERTAIN, "refresh or reopen", store(w, "y", "y"));
        turn(w);
        OK(w, refresh(w));                /* what they add changes nothing    */
        turn(w);
        they_store(w, "theirs");
        EXPECT(w, KAWS_UNCERTAIN, "refresh or reopen", drop(w, "k"));
        expect_no_key(w, "theirs", KAWS_UNCERTAIN);
        EXPECT(w, KAWS_UNCERTAIN, "refresh or reopen", drop(w, "theirs"));
        they_drop(w, "theirs");
        fake_forget_log(&w->f);
        disk_trace[0] = '\0';
        OK(w, refresh(w));
        assert_int_equal(strncmp(disk_trace, "f", 1), 0);
        assert_non_null(strchr(disk_trace, 'd'));
        assert_int_equal(fake_logged(&w->f, 1, REFRESHED), 1);
        assert_int_equal(keys_of(w), 2 + (uint64_t)rows[i].landed);
        OK(w, store(w, "y", "y"));
        OK(w, drop(w, "y"));
        if (rows[i].landed)
            OK(w, drop(w, "x"));
        snap(w);
        world_reopen(w);
        expect_same_file(w);
        assert_int_equal(keys_of(w), 2);
    }
    disk_fail("fsync", 0, EIO, 1);        /* replaced, its folder not synced  */
    EXPECT(w, KAWS_UNCERTAIN, "folder could not be synced", drop(w, "old"));
    turn(w);
    OK(w, refresh(w));
    OK(w, drop(w, "k"));
    turn(w);
    fake_forget_log(&w->f);
    expect_no_key(w, "none", KAWS_UNCERTAIN);     /* nothing by itself        */
    OK(w, refresh(w));
    expect_told(w, 1, REFRESHED, 0, 1);
}


/* ---- a re-wrap meanwhile ------------------------------------------------ */

static void
add_theirs(struct world *w)
{
    kaws_error err;

    (void)w;
    meanwhile.status = kaws_store(theirs, name_of("theirs", NULL), "SECRET",
                                  some, &err);
}


static void
test_added_while_rewrapped(void **state)
{
    struct world *w = *state;

    they_store(w, "before");
    OK(w, use_key(w, FAKE_EAST2));
    while_asked(w, "ReEncrypt", 1, add_theirs);
    OK(w, rewrap(w));
    assert_int_equal(meanwhile.status, KAWS_OK);
    assert_string_equal(arn_of(w, "k"), FAKE_EAST2);
    assert_string_equal(arn_of(w, "before"), FAKE_EAST2);
    assert_string_equal(arn_of(w, "theirs"), FAKE_EAST);
    world_reopen(w);
    assert_int_equal(keys_of(w), 4);
    assert_string_equal(arn_of(w, "old"), FAKE_EAST2);
    expect_text(w, "k", "text");
    expect_text(w, "before", "theirs");
}


static const char *gone[3];


static void
replace_theirs(struct world *w)
{
    kaws_error err;
    int i;

    for (i = 0; i < 3 && gone[i] != NULL; i++)
        assert_int_equal(kaws_remove(theirs, name_of(gone[i], NULL), &err),
                         KAWS_OK);
    meanwhile.status = kaws_refresh(w->ring, &err);
}


/* What was re-wrapped is not what is there: nothing of it is written, also if
 * the keys have the same names, or are none. */
static void
test_refreshed_while_rewrapped(void **state)
{
    static const char *const sets[][3] = { { "old" }, { "k" }, { "k", "old" } };
    struct world *w;
    size_t i;
    int skip;

    for (i = 0; i < COUNT(sets); i++)
        for (skip = 0; skip < 2; skip++) {
            w = *state;
            memcpy(gone, sets[i], sizeof gone);
            w->cfg.rewrap_parallel = 1;
            world_reopen(w);
            OK(w, use_key(w, FAKE_EAST2));
            while_asked(w, "ReEncrypt", skip, replace_theirs);
            EXPECT(w, KAWS_CHANGED, "read again", rewrap(w));
            assert_true(meanwhile.fired);
            assert_int_equal(meanwhile.status, KAWS_OK);
            if (i != 1 && i != 2)
                assert_string_equal(arn_of(w, "k"), FAKE_EAST);
            OK(w, rewrap(w));
            OK(w, store(w, "new", "x"));
            assert_string_equal(arn_of(w, "new"), FAKE_EAST2);
            assert_int_equal(keys_of(w), i == 2 ? 1 : 2);
            world_reopen(w);
            expect_text(w, "new", "x");
            assert_int_equal(end_two(state), 0);
            assert_int_equal(begin_two(state), 0);
        }
}


static void
refresh_only(struct world *w)
{
    kaws_error err;

    they_store(w, "meanwhile");
    meanwhile.status = kaws_refresh(w->ring, &err);
}


/* A store that is under way goes on where it stands. */
static void
test_refreshed_while_stored(void **state)
{
    struct world *w = *state;

    while_asked(w, "Decrypt", 0, refresh_only);
    OK(w, store(w, "mine", "x"));
    assert_int_equal(meanwhile.status, KAWS_OK);
    assert_int_equal(keys_of(w), 4);
    memcpy(gone, (const char *[3]){ "k" }, sizeof gone);
    turn(w);
    OK(w, refresh(w));
    turn(w);
    while_asked(w, "Decrypt", 0, replace_theirs);
    OK(w, store(w, "mine too", "x"));
    assert_int_equal(meanwhile.status, KAWS_OK);
    assert_int_equal(keys_of(w), 4);
    world_reopen(w);
    assert_int_equal(keys_of(w), 4);
}


/* ---- memory, trust, locks, closing -------------------------------------- */

/* Every allocation fails in turn, and then all from there on. */
static void
test_memory(void **state)
{
    struct world *w = *state;
    kaws_status status;
    size_t n, live, tried = 0;
    int all, how;

    for (how = 0; how < 2; how++)
        for (all = 0; all < 2; all++)
            for (n = 1;; n++) {
                they_store(w, "more");
                if (how == 1)
                    they_drop(w, "old");
                live = w->f.live;
                w->f.failed = 0;
                w->f.fail_nth = all ? 0 : w->f.allocs + n;
                w->f.fail_from = all ? w->f.allocs + n : 0;
                status = refresh(w);
                w->f.fail_nth = w->f.fail_from = 0;
                if (w->f.failed > 0) {
                    EXPECT(w, KAWS_MEMORY, "out of memory", status);
                    assert_int_equal(keys_of(w), 2);
                    assert_int_equal(w->f.live, live);
                    expect_text(w, "old", "text");
                    tried++;
                }
                OK(w, refresh(w));
                if (how == 1)
                    OK(w, store(w, "old", "text"));
                OK(w, drop(w, "more"));
                turn(w);
                OK(w, refresh(w));
                turn(w);
                OK(w, refresh(w));
                assert_int_equal(keys_of(w), 2);
                if (status == KAWS_OK)
                    break;
            }
    assert_in_range(tried, 8, 100);
}


/* A reader of an empty keyring, which names no KMS key, learns whose keys they
 * are from the first that it sees; another account's do not change that. */
static void
test_trust(void **state)
{
    struct world *w = *state;
    kaws_config cfg = w->cfg;
    kaws_name west = name_of("k", NULL);
    kaws *reader, *writer;
    kaws_key key;

    world_open(w);
    cfg.read_only = 1;
    cfg.kms_key_id = NULL;
    OK(w, kaws_open(&reader, &cfg, &w->err));
    OK(w, store(w, "k", "text"));
    OK(w, kaws_fetch(reader, west, &key, &w->err));
    kaws_key_free(reader, &key);

    world_close(w);
    w->cfg.kms_key_id = FAKE_FOREIGN;
    w->cfg.accounts = FAKE_OWN "," FAKE_OTHER;
    writer = NULL;
    OK(w, kaws_open(&writer, &w->cfg, &w->err));
    w->ring = writer;
    OK(w, store(w, "foreign", "text"));
    EXPECT(w, KAWS_FOREIGN, NULL,
           kaws_fetch(reader, name_of("foreign", NULL), &key, &w->err));
    OK(w, kaws_fetch(reader, west, &key, &w->err));
    kaws_key_free(reader, &key);
    OK(w, drop(w, "k"));
    OK(w, kaws_refresh(reader, &w->err));
    EXPECT(w, KAWS_FOREIGN, NULL,
           kaws_fetch(reader, name_of("foreign", NULL), &key, &w->err));
    kaws__err_clear(&w->err);
    kaws_close(reader);
}


#if !defined(_WIN32)

static int cancels;


static int
cancel(void *ctx)
{
    (void)ctx;
    return cancels;
}


/* Another process is in the middle of a change: it is waited for, in vain. */
static void
test_locked(void **state)
{
    struct world *w = *state;
    kaws__file f;

    they_store(w, "more");
    OK(w, kaws__file_open(&f, &w->f.hooks, w->f.data, 0, &w->err));
    OK(w, kaws__file_hold(&f, 0, &w->err));
    EXPECT(w, KAWS_LOCKED, "another process", refresh(w));
    expect_no_key(w, "more", KAWS_LOCKED);
    EXPECT(w, KAWS_LOCKED, "another process", drop(w, "more"));
    EXPECT(w, KAWS_LOCKED, "another process", rewrap(w));
    cancels = 1;
    EXPECT(w, KAWS_CANCELLED, "another process", refresh(w));
    expect_no_key(w, "more", KAWS_CANCELLED);
    cancels = 0;
    expect_text(w, "k", "text");          /* what is there is not waited for  */
    assert_int_equal(keys_of(w), 2);
    kaws__file_close(&f);
    OK(w, refresh(w));
    expect_text(w, "more", "theirs");
}


static pid_t forked;


/* A child has what its parent has open, until it ends. */
static void
fork_once(const char *call)
{
    if (strcmp(call, "pread") != 0 || forked != 0)
        return;
    forked = fork();
    while (forked == 0)
        pause();
}


/* A fork in the middle of a refresh that fails: the child keeps no lock. */
static void
test_fork_meanwhile(void **state)
{
    struct world *w = *state;
    int status;

    they_store(w, "more");
    forked = 0;
    disk_fail("fdatasync", 0, EIO, 1);
    disk_on_call = fork_once;
    EXPECT(w, KAWS_FILE, "make durable", refresh(w));
    disk_heal();
    assert_true(forked > 0);
    turn(w);
    status = (int)store(w, "again", "x");
    turn(w);
    (void)kill(forked, SIGKILL);
    (void)waitpid(forked, NULL, 0);
    EXPECT(w, KAWS_OK, NULL, (kaws_status)status);
    OK(w, refresh(w));
    assert_int_equal(keys_of(w), 4);
}

static int
begin_cancellable(void **state)
{
    struct world *w;

    if (begin(state) != 0)
        return 1;
    w = *state;
    w->cfg.hooks.cancelled = cancel;
    world_open(w);
    OK(w, store(w, "k", "text"));
    OK(w, store(w, "old", "text"));
    OK(w, kaws_open(&theirs, &w->cfg, &w->err));
    return 0;
}

#endif


/* A ring that is behind closes without a word, and sets the length. */
static void
test_close(void **state)
{
    struct world *w = *state;
    uint64_t size;

    they_store(w, "more");
    size = theirs->vault.file.size;
    assert_true(committed_in(w) < size);
    fake_forget_log(&w->f);
    world_close(w);
    assert_int_equal(fake_logged(&w->f, 1, ""), 0);
    assert_int_equal(committed_in(w), size);
    turn(w);
    OK(w, store(w, "last", "x"));         /* and nobody is disturbed          */
    world_reopen(w);
    assert_int_equal(keys_of(w), 4);
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        TWO(test_unchanged), TWO(test_touched), TWO(test_in_turns),
        TWO(test_added), TWO(test_reader), TWO(test_copies),
        TWO(test_anything_else), TWO(test_refused_once), TWO(test_told_once),
        TWO(test_their_removal), TWO(test_edited_and_added),
        TWO(test_forged_and_added),
        TWO(test_not_durable), TWO(test_torn), TWO(test_second_torn_end),
        TWO(test_uncertain_while_refreshed),
        TWO(test_torn_end_set_aside_by_them), TWO(test_as_long_as_a_torn_end),
        TWO(test_disk_fails),
        TWO(test_uncertain), TWO(test_added_while_rewrapped),
        TWO(test_refreshed_while_rewrapped), TWO(test_refreshed_while_stored),
        TWO(test_memory), SHUT(test_trust),
#if !defined(_WIN32)
        cmocka_unit_test_setup_teardown(test_locked, begin_cancellable,
                                        end_two),
        TWO(test_fork_meanwhile),
#endif
        TWO(test_close)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
