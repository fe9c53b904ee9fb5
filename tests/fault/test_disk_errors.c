/* test_disk_errors.c - a disk that refuses: clear words, and nothing changed
 *
 * Each operation, with each of its file calls failing in turn, for each reason:
 * the answer and its words, the file and the memory as they were, and the same
 * operation done once the reason is gone, with the ring that is there. Then
 * reasons that last: a full disk, a quota, no inodes, a read-only disk, a
 * folder that may not be changed, no more descriptors, a disk that syncs no
 * more. And KAWS_UNCERTAIN: in the few places that have no other, and what a
 * ring in that state still does.
 */

#include "model.h"

typedef enum verb { OPEN, GENERATE, STORE, REMOVE, REWRAP } verb;

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
    { "remove", REMOVE, 0, 0, 0 }, { "re-wrap", REWRAP, 0, 0, 0 }
};

enum { OPERATIONS = sizeof operations / sizeof operations[0], IS_OPEN = 1,
       IS_GENERATE = 4 };

static const int reasons[] = {
    EIO, ENOSPC, EDQUOT, EROFS, EACCES, EMFILE, ENFILE, ENOMEM, EPERM
};

static unsigned long tried;


/* ---- the operations ----------------------------------------------------- */

static kaws_status
run(verb what, kaws **ring, kaws_error *err)
{
    static const uint8_t plain[900] = { 1, 2, 3 };
    kaws_bytes view = { plain, sizeof plain };

    switch (what) {
    case OPEN:
        return model_open(ring, err);
    case GENERATE:
        return kaws_generate(*ring, model_name("fresh"), "AES", 32, err);
    case STORE:
        return kaws_store(*ring, model_name("stored"), "SECRET", view, err);
    case REMOVE:
        return kaws_remove(*ring, model_name("two"), err);
    default:
        return kaws_rewrap_all(*ring, err);
    }
}


/* All that changes something answers so. */
static void
each_answers(kaws *ring, kaws_status wanted, kaws_error *err)
{
    assert_int_equal(run(GENERATE, &ring, err), wanted);
    assert_int_equal(run(STORE, &ring, err), wanted);
    assert_int_equal(kaws_remove(ring, model_name("one"), err), wanted);
    assert_int_equal(run(REWRAP, &ring, err), wanted);
}


/* A keyring of three keys, closed; or as `o` wants it. */
static void
make_disk(const operation *o, disk_image *base)
{
    static const char *const names[] = { "one", "two", "three", "four" };
    kaws_error err;
    kaws *ring;
    int i;

    disk_format();
    model_reset(1);
    if (!o->fresh) {
        ring = model_must_open();
        for (i = 0; i < 4; i++) {
            disk.calls = 0;
            disk.at = i == 3 && o->torn ? WRITES_ENTRY : 0;
            disk.fault = DISK_STOP_MIDWAY;
            disk.portion = 1;
            if (i < 3 || o->torn || o->lags)
                (void)kaws_generate(ring, model_name(names[i]), "AES", 32,
                                    &err);
        }
        disk.off |= o->lags;
        kaws_close(ring);
    }
    disk_restart();
    disk_sync_all();
    disk_copy(base, &disk.image);
}


static kaws *
begin(const operation *o, const disk_image *base)
{
    kaws *ring = NULL;

    disk_copy(&disk.image, base);
    disk_restart();
    if (o->verb != OPEN)
        ring = model_must_open();
    model_reset(5);
    disk.calls = 0;
    return ring;
}


/* ---- what has to hold --------------------------------------------------- */

typedef struct before {           /* the file, the memory                     */
    uint8_t   *bytes;
    size_t     len;
    model      keys;
    kaws_stats stats;
} before;


static void
look(kaws *ring, before *b)
{
    const uint8_t *at = disk_bytes(DATA, &b->len);
    kaws_error err;

    memset(&b->stats, 0, sizeof b->stats);
    b->keys.count = 0;
    b->bytes = malloc(b->len + 1);
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
    free(is.bytes);
}


static void
check_words(const kaws_error *err, kaws_status status, int os)
{
    char number[32];

    (void)snprintf(number, sizeof number, "(errno %d)", os);
    if (err->status != status || err->os != os ||
        strstr(err->text, "/disk/ring") == NULL ||
        strstr(err->text, kaws__sys_error_text(os)) == NULL ||
        strstr(err->text, number) == NULL)
        fail_msg("status %d, os %d, \"%s\"", err->status, err->os, err->text);
}


/* The ring shows what the file has, fetches all of it, and changes nothing, not
 * even by closing; a new one works. */
static void
check_uncertain(kaws *ring)
{
    kaws_config cfg = model_config();
    kaws_error err;
    model memory, file;
    kaws *other;
    unsigned calls = disk.calls;

    assert_int_equal(model_of(ring, &memory, &err), KAWS_OK);
    each_answers(ring, KAWS_UNCERTAIN, &err);
    assert_non_null(strstr(err.text, "reopen"));
    assert_non_null(strstr(err.text, DATA));
    assert_int_equal(disk.calls, calls + 4);   /* remove locks and lets go    */
    cfg.read_only = 1;
    assert_int_equal(kaws_open(&other, &cfg, &err), KAWS_OK);
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
check_waits(const operation *o, kaws *ring, const before *was, int *cause,
            int os)
{
    const char *words = o->lags ? "cannot make durable"
                                : "cannot set the torn end";
    size_t count = o->lags ? 4 : 3;
    const uint8_t *at;
    kaws_error err;
    model keys;
    size_t len;

    assert_int_equal(fake_logged(&fake, 1, "; keys can be read"), 1);
    at = disk_bytes(DATA, &len);
    assert_int_equal(model_of(ring, &keys, &err), KAWS_OK);
    assert_int_equal(keys.count, count);
    if (cause != NULL && *cause != 0) {
        assert_int_equal(len, was->len);
        assert_memory_equal(at + 48, was->bytes + 48, len - 48);
        assert_int_equal(run(GENERATE, &ring, &err), KAWS_FILE);
        assert_non_null(strstr(err.text, words));
        each_answers(ring, KAWS_FILE, &err);
        check_words(&err, KAWS_FILE, os);
        assert_null(disk_name("/disk/ring", "keys.torn", 0));
        kaws_close(ring);
        ring = model_must_open();         /* it opens again like that         */
        *cause = 0;
    }
    assert_int_equal(run(REMOVE, &ring, &err), KAWS_OK);
    assert_int_equal(run(GENERATE, &ring, &err), KAWS_OK);
    assert_int_equal(fake_logged(&fake, 1, "were moved to"), o->torn);
    if (o->torn)
        assert_true(model_aside(was->bytes, was->len) + kaws__store_get(
                    was->bytes + KAWS__STORE_COMMITTED, 8) == was->len);
    assert_null(disk_name("/disk/ring", "keys.torn", (unsigned)o->torn));
    kaws_close(ring);
    ring = model_must_open();
    assert_int_equal(model_of(ring, &keys, &err), KAWS_OK);
    assert_int_equal(keys.count, count);
    kaws_close(ring);
}


/* ---- one call fails ----------------------------------------------------- */

static int
was_renamed_before(unsigned at)
{
    unsigned i;

    for (i = 0; i + 1 < at; i++)
        if (disk.kinds[i] == DISK_RENAMES || disk.kinds[i] == DISK_EXCHANGES)
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
    case DISK_LOOKS:                      /* what the times are after all     */
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
    kaws_error err;
    model keys;

    disk.at = 0;
    if (run(o->verb, &ring, &err) != KAWS_OK)
        fail_msg("%s: the cause is gone, but: %s", o->name, err.text);
    assert_int_equal(err.text[0], '\0');
    assert_int_equal(model_of(ring, &keys, &err), KAWS_OK);
    kaws_close(ring);
    ring = model_must_open();
    assert_int_equal(model_of(ring, &keys, &err), KAWS_OK);
    kaws_close(ring);
}


static int
try_call(const operation *o, const disk_image *base, unsigned at, int reason)
{
    kaws_error err;
    kaws *ring = begin(o, base);
    kaws_status status, wanted;
    before was;
    int waits;

    look(ring, &was);
    disk.calls = 0;
    disk.at = at;
    disk.fault = DISK_ERROR;
    disk.error = reason;
    disk.spares_locks = reason == EACCES;     /* there it means: held         */
    status = run(o->verb, &ring, &err);
    disk.at = 0;
    disk.spares_locks = 0;
    if (disk.calls < at) {                /* there are no more calls          */
        free(was.bytes);
        kaws_close(ring);
        return 0;
    }
    tried++;
    wanted = (reason == EACCES && disk.kinds[at - 1] == DISK_LOCKS) ||
             (reason == EPERM && (disk.kinds[at - 1] == DISK_RENAMES ||
                                  disk.kinds[at - 1] == DISK_EXCHANGES))
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
        check_words(&err, status, reason);
    if (status == KAWS_FILE || status == KAWS_MEMORY)
        check_unchanged(ring, &was);
    if (status == KAWS_UNCERTAIN && ring != NULL)
        check_uncertain(ring);
    else if (status == KAWS_OK && waits)
        check_waits(o, ring, &was, NULL, 0);
    else if (status == KAWS_OK)
        kaws_close(ring);
    else
        check_resumes(o, ring);
    free(was.bytes);
    return 1;
}


static void
test_each_call(void **state)
{
    static disk_image base;
    const operation *o = *state;
    unsigned at;
    size_t i;

    make_disk(o, &base);
    for (i = 0; i < sizeof reasons / sizeof reasons[0]; i++)
        for (at = 1; try_call(o, &base, at, reasons[i]); at++)
            continue;
    disk_drop(&base);
}


/* A file that is written in a minute is read as well: a close that cannot write
 * the cell says so, and harms nobody. */
static void
test_close(void **state)
{
    static disk_image base;
    unsigned at;
    kaws *ring;
    kaws_error err;
    model keys;

    (void)state;
    make_disk(&operations[IS_OPEN], &base);
    for (at = 1; at < 14; at++) {
        ring = begin(&operations[IS_GENERATE], &base);
        assert_int_equal(run(GENERATE, &ring, &err), KAWS_OK);
        fake_forget_log(&fake);
        disk.calls = 0;
        disk.at = at;
        disk.fault = DISK_ERROR;
        disk.error = EIO;
        kaws_close(ring);
        disk.at = 0;
        tried++;
        if (disk.calls >= at && disk.kinds[at - 1] != DISK_LOCKS &&
            expected(at) != KAWS_OK)
            assert_int_equal(fake_logged(&fake, 1, "closing the keyring"), 1);
        ring = model_must_open();
        assert_int_equal(model_of(ring, &keys, &err), KAWS_OK);
        assert_int_equal(keys.count, 4);
        kaws_close(ring);
    }
    disk_drop(&base);
}


/* The conf file is read in the same way. */
static void
test_conf_file(void **state)
{
    static const char conf[] = FAKE_ID "\n" FAKE_SECRET "\n";
    static disk_image base;
    kaws_config cfg;
    kaws_error err;
    kaws *ring;
    unsigned at;
    size_t i;

    (void)state;
    make_disk(&operations[IS_OPEN], &base);
    disk_put("/disk/ring/conf", conf, sizeof conf - 1);
    disk_copy(&base, &disk.image);
    for (i = 0; i < sizeof reasons / sizeof reasons[0]; i++)
        for (at = 1; at <= 3; at++) {
            cfg = model_config();
            cfg.conf_file = "/disk/ring/conf";
            disk_copy(&disk.image, &base);
            disk_restart();
            disk.at = at;
            disk.fault = DISK_ERROR;
            disk.error = reasons[i];
            tried++;
            assert_int_equal(kaws_open(&ring, &cfg, &err), KAWS_CONFIG);
            check_words(&err, KAWS_CONFIG, reasons[i]);
            assert_non_null(strstr(err.text, "/disk/ring/conf"));
            assert_null(ring);
            disk.at = 0;
            assert_int_equal(kaws_open(&ring, &cfg, &err), KAWS_OK);
            kaws_close(ring);
        }
    disk_drop(&base);
}


/* ---- reasons that last -------------------------------------------------- */

/* One operation under a lasting cause: the status, the words; then without. */
static void
under(const operation *o, int *cause, int os, kaws_status wanted)
{
    static disk_image base;
    kaws_error err;
    kaws_status status;
    kaws *ring;
    before was;
    int waits;

    make_disk(o, &base);
    ring = begin(o, &base);
    look(ring, &was);
    *cause = os;
    status = run(o->verb, &ring, &err);
    tried++;
    if (status != wanted)
        fail_msg("%s, errno %d: %d instead of %d: %s", o->name, os, status,
                 wanted, err.text);
    if (status == KAWS_FILE) {
        check_words(&err, status, os);
        check_unchanged(ring, &was);      /* and what is there still opens    */
    }
    waits = status == KAWS_OK &&
            (o->torn || (o->lags && cause == &disk.no_room));
    if (waits)
        check_waits(o, ring, &was, cause, os);
    *cause = 0;
    if (status == KAWS_FILE)
        check_resumes(o, ring);
    else if (!waits)
        kaws_close(ring);
    free(was.bytes);
    disk_drop(&base);
}


/* What each operation answers as long as the cause lasts: F KAWS_FILE, . OK. */
static void
test_causes(void **state)
{
    static const struct { int *cause; int os; const char *answers; } rows[] = {
        { &disk.full,      ENOSPC, "F...FFFF" },
        { &disk.full,      EDQUOT, "F...FFFF" },
        { &disk.no_room,   ENOSPC, " ...FFFF" },   /* it copies: btrfs, ZFS   */
        { &disk.no_nodes,  ENOSPC, "F.....FF" },
        { &disk.read_only, EROFS,  "FFFFFFFF" },
        { &disk.denied,    EACCES, "F.....FF" }    /* the folder's names      */
    };
    size_t i;
    int k;

    (void)state;
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (k = 0; k < OPERATIONS; k++)
            if (rows[i].answers[k] != ' ')
                under(&operations[k], rows[i].cause, rows[i].os,
                      rows[i].answers[k] == 'F' ? KAWS_FILE : KAWS_OK);
}


/* On a read-only disk a keyring can still be read, if it is said so; even one
 * whose end is torn. */
static void
test_read_only_ring(void **state)
{
    static disk_image base;
    kaws_config cfg;
    kaws_error err;
    kaws *ring;
    model keys;
    int torn;

    (void)state;
    for (torn = 0; torn < 2; torn++) {
        make_disk(&operations[torn ? 3 : IS_OPEN], &base);
        disk.read_only = EROFS;
        cfg = model_config();
        cfg.read_only = 1;
        assert_int_equal(kaws_open(&ring, &cfg, &err), KAWS_OK);
        assert_int_equal(model_of(ring, &keys, &err), KAWS_OK);
        assert_int_equal(keys.count, 3);
        each_answers(ring, KAWS_CONFIG, &err);
        kaws_close(ring);
        tried++;
    }
    disk_drop(&base);
}


/* A mount point, as docker -v FILE:FILE makes one, cannot be replaced: that is
 * said at once. */
static void
test_mounted(void **state)
{
    static disk_image base;
    int mounted;

    (void)state;
    for (mounted = 0; mounted <= DISK_MOUNTS; mounted++) {
        make_disk(&operations[IS_OPEN], &base);
        disk.mounted = mounted;
        kaws_close(model_must_open());
#if defined(STATX_ATTR_MOUNT_ROOT)        /* else nobody can tell             */
        assert_int_equal(fake_logged(&fake, 1, "is a mount point"), mounted);
        assert_int_equal(fake_logged(&fake, 1, "mount its folder"), mounted);
#endif
        tried++;
    }
    disk.mounted = 0;
    disk_drop(&base);
}


/* With so few descriptors left an operation is done or not, but never half. */
static void
test_no_descriptors(void **state)
{
    static disk_image base;
    const operation *o;
    kaws_error err;
    kaws_status status = KAWS_FILE;
    kaws *ring;
    before was;
    int i, left;

    (void)state;
    for (i = 0; i < OPERATIONS; i++)
        for (left = 0; left < 5; left++) {
            o = &operations[i];
            make_disk(o, &base);
            ring = begin(o, &base);
            look(ring, &was);
            disk.few = 1 + disk.opened + (unsigned)left;
            status = run(o->verb, &ring, &err);
            disk.few = 0;
            tried++;
            if (status != KAWS_OK) {
                assert_int_equal(status, KAWS_FILE);
                check_words(&err, status, EMFILE);
                check_unchanged(ring, &was);
                check_resumes(o, ring);
            } else {
                kaws_close(ring);
            }
            assert_true(left > 0 || status == KAWS_FILE ||
                        o->verb == GENERATE || o->verb == STORE);
            assert_true(left < 4 || status == KAWS_OK);
            free(was.bytes);
        }
    disk_drop(&base);
}


/* ---- uncertain ---------------------------------------------------------- */

/* A sync that fails for good: an append can neither be made nor taken back for
 * sure; a replacement is given up in time. */
static void
test_no_sync(void **state)
{
    static disk_image base;
    kaws_error err;
    kaws *ring;
    model keys;

    (void)state;
    make_disk(&operations[IS_OPEN], &base);
    ring = begin(&operations[IS_GENERATE], &base);
    disk.no_sync = EIO;
    assert_int_equal(run(REMOVE, &ring, &err), KAWS_FILE);
    check_words(&err, KAWS_FILE, EIO);
    assert_int_equal(run(GENERATE, &ring, &err), KAWS_UNCERTAIN);
    check_words(&err, KAWS_UNCERTAIN, EIO);
    disk.no_sync = 0;
    assert_int_equal(model_of(ring, &keys, &err), KAWS_OK);
    assert_int_equal(keys.count, 3);      /* it was cut off again             */
    check_uncertain(ring);
    tried += 2;
    disk_drop(&base);
}


/* The append or its sync fails, and then the cut. */
static void
test_no_cut(void **state)
{
    static const struct { unsigned at, hits; disk_fault fault; size_t keys; }
    cases[] = {
        { WRITES_ENTRY, 2, DISK_ERROR, 3 },       /* not written, not cut     */
        { WRITES_ENTRY + 1, 2, DISK_ERROR, 4 },   /* written, not synced      */
        { WRITES_ENTRY, 3, DISK_SHORT_ERROR, 3 }  /* half of it, see below    */
    };
    static disk_image base;
    kaws_error err;
    kaws *ring;
    model keys;
    size_t i;

    (void)state;
    make_disk(&operations[IS_OPEN], &base);
    for (i = 0; i < 3; i++) {
        ring = begin(&operations[IS_GENERATE], &base);
        disk.at = cases[i].at;
        disk.hits = cases[i].hits;
        disk.fault = cases[i].fault;
        disk.portion = 1;
        disk.error = EIO;
        if (cases[i].fault == DISK_SHORT_ERROR)
            disk.no_cut = EIO;
        assert_int_equal(run(GENERATE, &ring, &err), KAWS_UNCERTAIN);
        check_words(&err, KAWS_UNCERTAIN, EIO);
        disk.at = 0;
        disk.no_cut = 0;
        tried++;
        assert_int_equal(model_of(ring, &keys, &err), KAWS_OK);
        assert_int_equal(keys.count, cases[i].keys);
        check_uncertain(ring);
    }
    disk_drop(&base);
}


/* The cell is written by half, and the second try fails as well, or not. */
static void
test_half_a_cell(void **state)
{
    static disk_image base;
    kaws_error err;
    kaws *ring;

    (void)state;
    make_disk(&operations[IS_OPEN], &base);
    ring = begin(&operations[IS_GENERATE], &base);
    disk.at = WRITES_ENTRY - 1;
    disk.fault = DISK_SHORT_ERROR;
    disk.portion = 1;
    disk.error = EIO;
    assert_int_equal(run(GENERATE, &ring, &err), KAWS_OK);
    kaws_close(ring);

    ring = begin(&operations[IS_GENERATE], &base);
    disk.at = WRITES_ENTRY - 1;
    disk.hits = 3;                        /* half, the rest, all of it again  */
    disk.fault = DISK_SHORT_ERROR;
    assert_int_equal(run(GENERATE, &ring, &err), KAWS_UNCERTAIN);
    check_words(&err, KAWS_UNCERTAIN, EIO);
    disk.at = 0;
    kaws_close(ring);
    tried += 2;
    disk_drop(&base);
}


int
main(void)
{
    struct CMUnitTest tests[OPERATIONS + 9] = {
        cmocka_unit_test(test_close),
        cmocka_unit_test(test_conf_file),
        cmocka_unit_test(test_causes),
        cmocka_unit_test(test_read_only_ring),
        cmocka_unit_test(test_mounted),
        cmocka_unit_test(test_no_descriptors),
        cmocka_unit_test(test_no_sync),
        cmocka_unit_test(test_no_cut),
        cmocka_unit_test(test_half_a_cell)
    };
    int i, failed;

    fake_init(&fake);
    for (i = 0; i < OPERATIONS; i++) {
        tests[9 + i].name = operations[i].name;
        tests[9 + i].test_func = test_each_call;
        tests[9 + i].initial_state = (void *)(uintptr_t)&operations[i];
    }
    failed = cmocka_run_group_tests_name("disk errors", tests, NULL, NULL);
    printf("  %lu failures of the disk were tried\n", tried);
    return model_end(failed);
}
