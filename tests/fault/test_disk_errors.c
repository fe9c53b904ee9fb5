/* test_disk_errors.c - if the disk fails, the error is clear, and nothing has
 * changed
 *
 * Each operation is run with each of its file calls failing in turn, for each
 * reason. The tests check the status and the text, that the file and the memory
 * are as before, and that the same operation succeeds with the same ring once
 * the reason is gone. Then come reasons that last: a full disk, a quota, no
 * inodes, a read-only disk, a folder that may not be changed, no more
 * descriptors, a disk that syncs no more. The last tests are about
 * KAWS_UNCERTAIN: it is returned only where no other status is true, and a ring
 * in that state still does what it can.
 */

#include "model.h"

typedef struct operation {
    const char *name;
    verb        verb;
    int         fresh;            /* there is no keyring yet                  */
    int         lags, torn;       /* the disk before it                       */
} operation;

static const operation operations[] = {
    { "create", OPEN, 1, 0, 0 }, { "open", OPEN, 0, 0, 0 },
    { "open, cell behind", OPEN, 0, 1, 0 }, { "open, torn end", OPEN, 0, 0, 1 },
    { "generate", GENERATE, 0, 0, 0 }, { "store", STORE, 0, 0, 0 },
    { "remove", REMOVE_LAST, 0, 0, 0 }, { "re-wrap", REWRAP, 0, 0, 0 }
};

enum { OPERATIONS = sizeof operations / sizeof operations[0], IS_OPEN = 1,
       IS_GENERATE = 4 };

static const int reasons[] = {
    EIO, ENOSPC, EDQUOT, EROFS, EACCES, EMFILE, ENFILE, ENOMEM, EPERM
};

static unsigned long tried;
static disk_image base;           /* the disk before the operation            */
static kaws_error err;            /* of the last call                         */


/* ---- the operations ----------------------------------------------------- */

static kaws_status
run(verb what, kaws **ring)
{
    return model_run(what, ring, &err);
}


/* Closes a ring that has so many keys, of which each can be fetched. */
static void
close_with(kaws *ring, size_t count)
{
    model keys;

    assert_int_equal(model_of(ring, &keys, &err), KAWS_OK);
    assert_int_equal(keys.count, count);
    kaws_close(ring);
}


/* All that changes something answers so. */
static void
each_answers(kaws *ring, kaws_status wanted)
{
    assert_int_equal(run(GENERATE, &ring), wanted);
    assert_int_equal(run(STORE, &ring), wanted);
    assert_int_equal(kaws_remove(ring, model_name("one"), &err), wanted);
    assert_int_equal(run(REWRAP, &ring), wanted);
}


/* A keyring of three keys, closed; or as `o` wants it. */
static void
make_disk(const operation *o)
{
    static const char *const names[] = { "one", "two", "three", "four" };
    kaws *ring;
    int i;

    disk_format();
    model_reset(1);
    if (!o->fresh) {
        ring = model_must_open();
        for (i = 0; i < 4; i++) {
            disk_break(i == 3 && o->torn ? WRITES_ENTRY : 0, 1,
                       DISK_STOP_MIDWAY, EIO);
            if (i < 3 || o->torn || o->lags)
                (void)kaws_generate(ring, model_name(names[i]), "AES", 32,
                                    &err);
        }
        disk.off |= o->lags;
        kaws_close(ring);
    }
    disk_restart();
    disk_sync_all();
    disk_copy(&base, &disk.image);
}


/* Brings that disk back, and a ring unless opening is the operation. */
static kaws *
begin(const operation *o)
{
    static const operation *made;
    kaws *ring = NULL;

    if (made != o)
        make_disk(made = o);
    disk_copy(&disk.image, &base);
    disk_restart();
    if (o->verb != OPEN)
        ring = model_must_open();
    model_reset(5);
    disk.calls = 0;
    return ring;
}


/* ---- what has to hold --------------------------------------------------- */

typedef struct before {           /* the file, the memory                     */
    uint8_t    bytes[8192];
    size_t     len;
    model      keys;
    kaws_stats stats;
} before;


static void
look(kaws *ring, before *b)
{
    const uint8_t *at = disk_bytes(DATA, &b->len);

    memset(&b->stats, 0, sizeof b->stats);
    b->keys.count = 0;
    assert_in_range(b->len, 0, sizeof b->bytes);
    if (at != NULL)
        memcpy(b->bytes, at, b->len);
    if (ring == NULL)
        return;
    if (model_of(ring, &b->keys, &err) != KAWS_OK)
        fail_msg("%s", err.text);
    kaws_get_stats(ring, &b->stats);
}


/* The file is as it was, but for the cell and a torn end that is set aside, and
 * so is the memory. Nothing else is left lying about. */
static void
check_unchanged(kaws *ring, const before *was)
{
    const char *torn = disk_name("/disk/ring", "keys.torn", 0);
    unsigned i;
    int cut = 0;
    before is;

    look(ring, &is);
    assert_true(is.len <= was->len);
    if (is.len > 0) {
        assert_memory_equal(is.bytes, was->bytes, 32);
        assert_memory_equal(is.bytes + 48, was->bytes + 48, is.len - 48);
    }
    assert_null(disk_name("/disk/ring", "keys.tmp", 0));
    for (i = 0; i < disk.calls; i++)
        cut |= disk.kinds[i] == DISK_CUTS;
    assert_true(torn != NULL ? cut : is.len == was->len);
    if (torn != NULL)                     /* it has all that was cut off      */
        assert_true(model_aside(was->bytes, was->len) >= was->len - is.len);
    if (ring != NULL) {
        assert_true(model_same(&is.keys, &was->keys));
        assert_int_equal(is.stats.keys, was->stats.keys);
        assert_memory_equal(is.stats.checksum, was->stats.checksum, 32);
        assert_memory_equal(is.stats.checksum, is.bytes + is.len - 32, 32);
    }
}


static void
check_words(kaws_status status, int os)
{
    char number[32];

    (void)snprintf(number, sizeof number, "(errno %d)", os);
    if (err.status != status || err.os != os ||
        strstr(err.text, "/disk/ring") == NULL ||
        strstr(err.text, kaws__sys_error_text(os)) == NULL ||
        strstr(err.text, number) == NULL)
        fail_msg("status %d, os %d, \"%s\"", err.status, err.os, err.text);
}


/* The ring shows what the file has, fetches all of it, and changes nothing, not
 * even by closing; a new one works. */
static void
check_uncertain(kaws *ring)
{
    model memory, file;
    kaws *other;
    unsigned calls = disk.calls;

    assert_int_equal(model_of(ring, &memory, &err), KAWS_OK);
    each_answers(ring, KAWS_UNCERTAIN);
    assert_non_null(strstr(err.text, "reopen"));
    assert_non_null(strstr(err.text, DATA));
    assert_int_equal(disk.calls, calls + 4);   /* remove locks and lets go    */
    other = model_must_open_at(DATA, 1);
    assert_int_equal(model_of(other, &file, &err), KAWS_OK);
    kaws_close(other);
    assert_true(model_same(&memory, &file));
    calls = disk.calls;
    kaws_close(ring);
    assert_int_equal(disk.calls, calls + 2);   /* the two files it has open   */
    ring = model_must_open();
    assert_int_equal(model_of(ring, &file, &err), KAWS_OK);
    assert_true(model_same(&memory, &file));
    assert_int_equal(kaws_generate(ring, model_name("after"), "AES", 32, &err),
                     KAWS_OK);
    assert_int_equal(kaws_remove(ring, model_name("after"), &err), KAWS_OK);
    kaws_close(ring);
}


/* A torn end that cannot be set aside, and bytes that cannot be written again,
 * keep nobody from opening. As long as the cause lasts, all that was
 * acknowledged is shown, and nothing is changed; then the next change sets the
 * torn end aside, every byte of it, once, and goes on. */
static void
check_waits(const operation *o, kaws *ring, const before *was, unsigned denied,
            int os)
{
    const char *words = o->lags ? "cannot make durable"
                                : "cannot set the torn end";
    size_t count = o->lags ? 4 : 3;
    const uint8_t *at;
    model keys;
    size_t len;

    assert_int_equal(fake_logged(&fake, 1, "; keys can be read"), 1);
    at = disk_bytes(DATA, &len);
    assert_int_equal(model_of(ring, &keys, &err), KAWS_OK);
    assert_int_equal(keys.count, count);
    if (denied != 0) {
        assert_int_equal(len, was->len);
        assert_memory_equal(at + 48, was->bytes + 48, len - 48);
        assert_int_equal(run(GENERATE, &ring), KAWS_FILE);
        assert_non_null(strstr(err.text, words));
        each_answers(ring, KAWS_FILE);
        check_words(KAWS_FILE, os);
        assert_null(disk_name("/disk/ring", "keys.torn", 0));
        kaws_close(ring);
        ring = model_must_open();         /* it opens again like that         */
        disk_deny(denied, 0);
    }
    assert_int_equal(run(REMOVE_LAST, &ring), KAWS_OK);
    assert_int_equal(run(GENERATE, &ring), KAWS_OK);
    assert_int_equal(fake_logged(&fake, 1, "was moved to"), o->torn);
    if (o->torn)
        assert_true(model_aside(was->bytes, was->len) + kaws__store_get(
                    was->bytes + KAWS__STORE_COMMITTED, 8) == was->len);
    assert_null(disk_name("/disk/ring", "keys.torn", (unsigned)o->torn));
    kaws_close(ring);
    close_with(model_must_open(), count);
}


/* ---- one call fails ----------------------------------------------------- */

static int
is_rename(disk_kind kind)
{
    return kind >= DISK_RENAMES && kind <= DISK_EXCHANGES;
}


static int
was_renamed_before(unsigned at)
{
    unsigned i;

    for (i = 0; i + 1 < at; i++)
        if (is_rename(disk.kinds[i]))
            return 1;
    return 0;
}


/* What the operation has to answer when its call number `at` fails. */
static kaws_status
expected(unsigned at)
{
    const disk_kind *kind = disk.kinds + at - 1;

    switch (*kind) {
    case DISK_CLOSES:
    case DISK_UNLOCKS:
    case DISK_ASKS:
        return KAWS_OK;
    case DISK_SYNCS_FOLDER:
        return was_renamed_before(at) ? KAWS_UNCERTAIN : KAWS_FILE;
    case DISK_REMOVES:                    /* at the end: of the old file      */
        return was_renamed_before(at) ? KAWS_OK : KAWS_FILE;
    case DISK_LOOKS:
        if (at == 1 || (at <= 4 && kind[-1] == DISK_LOCKS))
            return KAWS_OK;               /* has anybody added? It looks again*/
        /* what the times are after all */
        if (at > 3 && kind[-1] == DISK_READS && kind[-2] == DISK_LOOKS &&
            kind[-3] == DISK_SYNCS)
            return KAWS_OK;
        kind -= at > 2 && kind[-1] == DISK_CLOSES;
        return at > 2 && (kind[-1] == DISK_REMOVES || kind[-1] == DISK_SYNCS)
             ? KAWS_OK : KAWS_FILE;
    default:
        return KAWS_FILE;
    }
}


/* Again, with nothing in the way: the ring does it. */
static void
check_resumes(const operation *o, kaws *ring)
{
    model keys;

    disk.at = 0;
    if (run(o->verb, &ring) != KAWS_OK)
        fail_msg("%s: the cause is gone, but: %s", o->name, err.text);
    assert_int_equal(err.text[0], '\0');
    assert_int_equal(model_of(ring, &keys, &err), KAWS_OK);
    kaws_close(ring);
    close_with(model_must_open(), keys.count);
}


static int
try_call(const operation *o, unsigned at, int reason)
{
    kaws *ring = begin(o);
    kaws_status status, wanted;
    before was;
    int waits;

    look(ring, &was);
    disk_break(at, 1, DISK_ERROR, reason);
    disk.spares_locks = reason == EACCES;     /* there it means: held         */
    status = run(o->verb, &ring);
    disk.at = 0;
    disk.spares_locks = 0;
    if (disk.calls < at) {                /* there are no more calls          */
        kaws_close(ring);
        return 0;
    }
    tried++;
    wanted = (reason == EACCES && disk.kinds[at - 1] == DISK_LOCKS) ||
             (reason == EPERM && is_rename(disk.kinds[at - 1]))
           ? KAWS_OK : expected(at);      /* held; there is another way       */
    if (reason == ENOMEM && status == KAWS_MEMORY && wanted == KAWS_FILE)
        wanted = KAWS_MEMORY;             /* that is a word for it, too       */
    waits = fake_logged(&fake, 1, "; keys can be read") == 1;
    if (waits)
        wanted = KAWS_OK;
    if (status != wanted)
        fail_msg("%s, %s: %d instead of %d: %s", o->name, disk.journal[at - 1],
                 status, wanted, err.text);
    if (status != KAWS_OK)
        check_words(status, reason);
    if (status == KAWS_FILE || status == KAWS_MEMORY)
        check_unchanged(ring, &was);
    if (status == KAWS_UNCERTAIN && ring != NULL)
        check_uncertain(ring);
    else if (status == KAWS_OK && waits)
        check_waits(o, ring, &was, 0, 0);
    else if (status == KAWS_OK)
        kaws_close(ring);
    else
        check_resumes(o, ring);
    return 1;
}


static void
test_each_call(void **state)
{
    const operation *o = *state;
    unsigned at;
    size_t i;

    for (i = 0; i < sizeof reasons / sizeof reasons[0]; i++)
        for (at = 1; try_call(o, at, reasons[i]); at++)
            continue;
}


/* A file that is written in a minute is read as well: a close that cannot write
 * the cell says so, and harms nobody. */
static void
test_a_close_that_cannot_write_harms_nobody(void **state)
{
    unsigned at;
    kaws *ring;

    (void)state;
    for (at = 1; at < 14; at++) {
        ring = begin(&operations[IS_GENERATE]);
        assert_int_equal(run(GENERATE, &ring), KAWS_OK);
        fake_forget_log(&fake);
        disk_break(at, 1, DISK_ERROR, EIO);
        kaws_close(ring);
        disk.at = 0;
        tried++;
        if (disk.calls >= at && disk.kinds[at - 1] != DISK_LOCKS &&
            expected(at) != KAWS_OK)
            assert_int_equal(fake_logged(&fake, 1, "its length could"), 1);
        close_with(model_must_open(), 4);
    }
}


/* The conf file is read at the opening if a ring must have credentials.
 * Otherwise the first request says what was wrong with it. */
static void
test_a_conf_file_that_cannot_be_read(void **state)
{
    static const char conf[] = FAKE_ID "\n" FAKE_SECRET "\n";
    kaws_config cfg = model_config();
    kaws *ring;
    unsigned at;
    size_t i;

    (void)state;
    cfg.conf_file = "/disk/ring/conf";
    cfg.must_have_creds = 1;
    for (i = 0; i < sizeof reasons / sizeof reasons[0]; i++)
        for (at = 1; at <= 3; at++, tried++) {
            (void)begin(&operations[IS_OPEN]);
            disk_put(cfg.conf_file, conf, sizeof conf - 1);
            disk_break(at, 1, DISK_ERROR, reasons[i]);
            assert_int_equal(kaws_open(&ring, &cfg, &err), KAWS_CONFIG);
            check_words(KAWS_CONFIG, reasons[i]);
            assert_non_null(strstr(err.text, cfg.conf_file));
            assert_null(ring);
            disk.at = 0;
            assert_int_equal(kaws_open(&ring, &cfg, &err), KAWS_OK);
            kaws_close(ring);
            cfg.must_have_creds = 0;
            disk_break(at, 1, DISK_ERROR, reasons[i]);
            assert_int_equal(kaws_open(&ring, &cfg, &err), KAWS_OK);
            disk_break(at, 1, DISK_ERROR, reasons[i]);
            assert_int_equal(kaws_reload_creds(ring, &err), KAWS_CONFIG);
            check_words(KAWS_CONFIG, reasons[i]);
            disk.at = 0;
            assert_int_equal(kaws_check(ring, &err), KAWS_OK);
            kaws_close(ring);
            cfg.must_have_creds = 1;
        }
}


/* ---- reasons that last -------------------------------------------------- */

/* One operation under a lasting cause: the status, the words; then without. */
static void
under(const operation *o, unsigned denied, int os, kaws_status wanted)
{
    kaws_status status;
    kaws *ring;
    before was;
    int waits;

    ring = begin(o);
    look(ring, &was);
    disk_deny(denied, os);
    status = run(o->verb, &ring);
    tried++;
    if (status != wanted)
        fail_msg("%s, errno %d: %d instead of %d: %s", o->name, os, status,
                 wanted, err.text);
    if (status == KAWS_FILE) {
        check_words(status, os);
        check_unchanged(ring, &was);      /* and what is there still opens    */
    }
    waits = status == KAWS_OK &&
            (o->torn || (o->lags && denied == DISK_ALL_WRITES));
    if (waits)
        check_waits(o, ring, &was, denied, os);
    disk_deny(denied, 0);
    if (status == KAWS_FILE)
        check_resumes(o, ring);
    else if (!waits)
        kaws_close(ring);
}


/* What each operation answers as long as the cause lasts: F KAWS_FILE, . OK. */
static void
test_what_each_operation_answers_to_a_cause(void **state)
{
    static const struct { unsigned denied; int os; const char *answers; }
    rows[] = {
        { DISK_ALL_ROOM,    ENOSPC, "F...FFFF" },
        { DISK_ALL_ROOM,    EDQUOT, "F...FFFF" },
        { DISK_ALL_WRITES,  ENOSPC, " ...FFFF" },
        { DISK_ALL_NODES,   ENOSPC, "F.....FF" },
        { DISK_ALL_CHANGES, EROFS,  "FFFFFFFF" },
        { DISK_ALL_NAMES,   EACCES, "F.....FF" }
    };
    size_t i;
    int k;

    (void)state;
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (k = 0; k < OPERATIONS; k++)
            if (rows[i].answers[k] != ' ')
                under(&operations[k], rows[i].denied, rows[i].os,
                      rows[i].answers[k] == 'F' ? KAWS_FILE : KAWS_OK);
}


/* On a read-only disk a keyring can be read if read_only is set, even one with
 * a torn end. */
static void
test_a_read_only_disk_can_be_read(void **state)
{
    kaws *ring;
    int torn;

    (void)state;
    for (torn = 0; torn < 2; torn++) {
        (void)begin(&operations[torn ? 3 : IS_OPEN]);
        disk_deny(DISK_ALL_CHANGES, EROFS);
        ring = model_must_open_at(DATA, 1);
        each_answers(ring, KAWS_CONFIG);
        close_with(ring, 3);
        disk_deny(DISK_ALL_CHANGES, 0);
        tried++;
    }
}


/* A mount point, as docker -v FILE:FILE makes one, cannot be replaced. The
 * opening says so. */
static void
test_a_mount_point_cannot_be_replaced(void **state)
{
    int mounted;

    (void)state;
    for (mounted = 0; mounted <= 1; mounted++) {
        (void)begin(&operations[IS_OPEN]);
        disk.mounted = mounted;
        kaws_close(model_must_open());
        assert_int_equal(fake_logged(&fake, 1, "is a mount point"), mounted);
        assert_int_equal(fake_logged(&fake, 1, "mount its folder"), mounted);
        tried++;
    }
    disk.mounted = 0;
}


/* With few descriptors left, an operation is done as a whole or not at all. */
static void
test_without_descriptors_nothing_is_half_done(void **state)
{
    const operation *o;
    kaws_status status = KAWS_FILE;
    kaws *ring;
    before was;
    int i, left;

    (void)state;
    for (i = 0; i < OPERATIONS; i++)
        for (left = 0; left < 5; left++) {
            o = &operations[i];
            ring = begin(o);
            look(ring, &was);
            disk.few = 1 + disk.opened + (unsigned)left;
            status = run(o->verb, &ring);
            disk.few = 0;
            tried++;
            if (status != KAWS_OK) {
                assert_int_equal(status, KAWS_FILE);
                check_words(status, EMFILE);
                check_unchanged(ring, &was);
                check_resumes(o, ring);
            } else {
                kaws_close(ring);
            }
            assert_true(left > 0 || status == KAWS_FILE ||
                        o->verb == GENERATE || o->verb == STORE);
            assert_true(left < 4 || status == KAWS_OK);
        }
}


/* ---- uncertain ---------------------------------------------------------- */

/* An append is uncertain if it can neither be made nor undone for sure. A
 * replacement is given up in time. */
static void
test_when_a_change_is_uncertain(void **state)
{
    static const struct {
        verb        verb;
        unsigned    at, hits;
        disk_fault  fault;
        unsigned    denied;
        kaws_status wanted;
        size_t      keys;
    } rows[] = {
        { REMOVE_LAST, 0, 0, DISK_FINE, DISK_ALL_SYNCS, KAWS_FILE, 3 },
        { GENERATE, 0, 0, DISK_FINE, DISK_ALL_SYNCS, KAWS_UNCERTAIN, 3 },
        /* not written, not cut; written, not synced; half of it, not cut */
        { GENERATE, WRITES_ENTRY, 2, DISK_ERROR, 0, KAWS_UNCERTAIN, 3 },
        { GENERATE, WRITES_ENTRY + 1, 2, DISK_ERROR, 0, KAWS_UNCERTAIN, 4 },
        { GENERATE, WRITES_ENTRY, 3, DISK_SHORT_ERROR, DISK_ALL_CUTS,
          KAWS_UNCERTAIN, 3 },
        /* the cell: half of it; half, the rest, and all of it again */
        { GENERATE, WRITES_ENTRY - 1, 1, DISK_SHORT_ERROR, 0, KAWS_OK, 4 },
        { GENERATE, WRITES_ENTRY - 1, 3, DISK_SHORT_ERROR, 0, KAWS_UNCERTAIN,
          3 }
    };
    kaws *ring;
    model keys;
    size_t i;

    (void)state;
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++, tried++) {
        ring = begin(&operations[IS_GENERATE]);
        disk_break(rows[i].at, rows[i].hits, rows[i].fault, EIO);
        disk_deny(rows[i].denied, EIO);
        if (run(rows[i].verb, &ring) != rows[i].wanted)
            fail_msg("row %d: %s", (int)i, err.text);
        if (rows[i].wanted != KAWS_OK)
            check_words(rows[i].wanted, EIO);
        disk.at = 0;
        disk_deny(rows[i].denied, 0);
        assert_int_equal(model_of(ring, &keys, &err), KAWS_OK);
        assert_int_equal(keys.count, rows[i].keys);
        if (rows[i].wanted == KAWS_UNCERTAIN)
            check_uncertain(ring);
        else
            kaws_close(ring);
    }
}


int
main(void)
{
    struct CMUnitTest tests[OPERATIONS + 7] = {
        cmocka_unit_test(test_a_close_that_cannot_write_harms_nobody),
        cmocka_unit_test(test_a_conf_file_that_cannot_be_read),
        cmocka_unit_test(test_what_each_operation_answers_to_a_cause),
        cmocka_unit_test(test_a_read_only_disk_can_be_read),
        cmocka_unit_test(test_a_mount_point_cannot_be_replaced),
        cmocka_unit_test(test_without_descriptors_nothing_is_half_done),
        cmocka_unit_test(test_when_a_change_is_uncertain)
    };
    int i, failed;

    fake_init(&fake);
    for (i = 0; i < OPERATIONS; i++) {
        tests[7 + i].name = operations[i].name;
        tests[7 + i].test_func = test_each_call;
        tests[7 + i].initial_state = (void *)(uintptr_t)&operations[i];
    }
    failed = cmocka_run_group_tests_name("disk errors", tests, NULL, NULL);
    disk_drop(&base);
    printf("  %lu failures of the disk were tried\n", tried);
    return model_end(failed);
}
