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

typedef struct operation {
    const char *name;
    int         fresh;            /* there is no keyring yet                  */
    int         lags, torn;       /* the disk before it                       */
    kaws_status (*run)(kaws **ring, kaws_error *err);
    int         opens;            /* is itself the opening                    */
} operation;

static const int reasons[] = {
    EIO, ENOSPC, EDQUOT, EROFS, EACCES, EMFILE, ENFILE, ENOMEM, EPERM
};

static unsigned long tried;


/* ---- the operations ----------------------------------------------------- */

static kaws_status
run_open(kaws **ring, kaws_error *err)
{
    kaws_config cfg = model_config();

    fake_forget_log(&fake);
    return kaws_open(ring, &cfg, err);
}


static kaws *
must_open(void)
{
    kaws_error err;
    kaws *ring;

    if (run_open(&ring, &err) != KAWS_OK)
        fail_msg("%s", err.text);
    return ring;
}


static kaws_status
run_generate(kaws **ring, kaws_error *err)
{
    return kaws_generate(*ring, model_name("fresh"), "AES", 32, err);
}


static kaws_status
run_store(kaws **ring, kaws_error *err)
{
    static const uint8_t plain[900] = { 1, 2, 3 };
    kaws_bytes view = { plain, sizeof plain };

    return kaws_store(*ring, model_name("stored"), "SECRET", view, err);
}


static kaws_status
run_remove(kaws **ring, kaws_error *err)
{
    return kaws_remove(*ring, model_name("two"), err);
}


static kaws_status
run_rewrap(kaws **ring, kaws_error *err)
{
    return kaws_rewrap_all(*ring, err);
}


static const operation operations[] = {
    { "create", 1, 0, 0, run_open, 1 },
    { "open", 0, 0, 0, run_open, 1 },
    { "open, cell behind", 0, 1, 0, run_open, 1 },
    { "open, torn end", 0, 0, 1, run_open, 1 },
    { "generate", 0, 0, 0, run_generate, 0 },
    { "store", 0, 0, 0, run_store, 0 },
    { "remove", 0, 0, 0, run_remove, 0 },
    { "re-wrap", 0, 0, 0, run_rewrap, 0 }
};

enum { OPERATIONS = sizeof operations / sizeof operations[0] };


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
        ring = must_open();
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
    if (!o->opens)
        ring = must_open();
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
    const uint8_t *aside;
    char path[160];
    size_t len;
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
    assert_true(torn != NULL || is.len == was->len);
    assert_true(torn == NULL || cut);
    if (torn != NULL) {
        (void)snprintf(path, sizeof path, "/disk/ring/%s", torn);
        aside = disk_bytes(path, &len);
        assert_in_range(len, was->len - is.len, was->len - 80);
        assert_memory_equal(aside, was->bytes + was->len - len, len);
    }
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
    assert_int_equal(run_generate(&ring, &err), KAWS_UNCERTAIN);
    assert_non_null(strstr(err.text, "reopen"));
    assert_non_null(strstr(err.text, DATA));
    assert_int_equal(run_store(&ring, &err), KAWS_UNCERTAIN);
    assert_int_equal(kaws_remove(ring, model_name("one"), &err),
                     KAWS_UNCERTAIN);
    assert_int_equal(run_rewrap(&ring, &err), KAWS_UNCERTAIN);
    assert_int_equal(disk.calls, calls + 4);   /* remove locks and lets go    */
    cfg.read_only = 1;
    assert_int_equal(kaws_open(&other, &cfg, &err), KAWS_OK);
    assert_int_equal(model_of(other, &file, &err), KAWS_OK);
    kaws_close(other);
    assert_true(model_same(&memory, &file));
    calls = disk.calls;
    kaws_close(ring);
    assert_int_equal(disk.calls, calls + 2);   /* the two files it has open   */
    ring = must_open();
    assert_int_equal(model_of(ring, &file, &err), KAWS_OK);
    assert_true(model_same(&memory, &file));
    assert_int_equal(kaws_generate(ring, model_name("after"), "AES", 32, &err),
                     KAWS_OK);
    assert_int_equal(kaws_remove(ring, model_name("after"), &err), KAWS_OK);
    kaws_close(ring);
}


/* The torn end is in a file of its own. */
static void
check_aside(const before *was)
{
    const uint8_t *at;
    char path[160];
    size_t len;

    assert_non_null(disk_name("/disk/ring", "keys.torn", 0));
    (void)snprintf(path, sizeof path, "/disk/ring/%s",
                   disk_name("/disk/ring", "keys.torn", 0));
    at = disk_bytes(path, &len);
    assert_memory_equal(at, was->bytes + was->len - len, len);
    assert_true(len > 0);
    assert_true(kaws__store_get(was->bytes + KAWS__STORE_COMMITTED, 8) + len <=
                was->len);
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
        assert_int_equal(run_generate(&ring, &err), KAWS_FILE);
        check_words(&err, KAWS_FILE, os);
        assert_non_null(strstr(err.text, words));
        assert_int_equal(run_store(&ring, &err), KAWS_FILE);
        check_words(&err, KAWS_FILE, os);
        assert_int_equal(run_remove(&ring, &err), KAWS_FILE);
        check_words(&err, KAWS_FILE, os);
        assert_int_equal(run_rewrap(&ring, &err), KAWS_FILE);
        check_words(&err, KAWS_FILE, os);
        assert_null(disk_name("/disk/ring", "keys.torn", 0));
        kaws_close(ring);
        ring = must_open();               /* it opens again like that         */
        *cause = 0;
    }
    assert_int_equal(run_remove(&ring, &err), KAWS_OK);
    assert_int_equal(run_generate(&ring, &err), KAWS_OK);
    assert_int_equal(fake_logged(&fake, 1, "were moved to"), o->torn);
    if (o->torn)
        check_aside(was);
    assert_null(disk_name("/disk/ring", "keys.torn", (unsigned)o->torn));
    kaws_close(ring);
    ring = must_open();
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
    if (o->run(&ring, &err) != KAWS_OK)
        fail_msg("%s: the cause is gone, but: %s", o->name, err.text);
    assert_int_equal(err.text[0], '\0');
    assert_int_equal(model_of(ring, &keys, &err), KAWS_OK);
    kaws_close(ring);
    ring = must_open();
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
    status = o->run(&ring, &err);
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
    make_disk(&operations[1], &base);
    for (at = 1; at < 14; at++) {
        ring = begin(&operations[4], &base);
        assert_int_equal(run_generate(&ring, &err), KAWS_OK);
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
        ring = must_open();
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
    make_disk(&operations[1], &base);
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
under(const operation *o, int *cause, int value, kaws_status wanted, int os)
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
    *cause = value;
    status = o->run(&ring, &err);
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
        check_waits(o, ring, &was, cause, value);
    *cause = 0;
    if (status == KAWS_FILE)
        check_resumes(o, ring);
    else if (!waits)
        kaws_close(ring);
    free(was.bytes);
    disk_drop(&base);
}


static const operation *
named(const char *name)
{
    int i = 0;

    while (strcmp(operations[i].name, name) != 0)
        i++;
    return &operations[i];
}


static void
test_full(void **state)
{
    static const int why[] = { ENOSPC, EDQUOT };
    size_t i;

    (void)state;
    for (i = 0; i < 2; i++) {
        under(named("create"), &disk.full, why[i], KAWS_FILE, why[i]);
        under(named("open"), &disk.full, why[i], KAWS_OK, 0);
        under(named("open, cell behind"), &disk.full, why[i], KAWS_OK, 0);
        under(named("open, torn end"), &disk.full, why[i], KAWS_OK, 0);
        under(named("generate"), &disk.full, why[i], KAWS_FILE, why[i]);
        under(named("store"), &disk.full, why[i], KAWS_FILE, why[i]);
        under(named("remove"), &disk.full, why[i], KAWS_FILE, why[i]);
        under(named("re-wrap"), &disk.full, why[i], KAWS_FILE, why[i]);
    }
}


/* A file system that never writes over what it has takes room for that, too:
 * even so all keys can be read. */
static void
test_full_copies(void **state)
{
    (void)state;
    under(named("open"), &disk.no_room, ENOSPC, KAWS_OK, 0);
    under(named("open, cell behind"), &disk.no_room, ENOSPC, KAWS_OK, 0);
    under(named("open, torn end"), &disk.no_room, ENOSPC, KAWS_OK, 0);
    under(named("generate"), &disk.no_room, ENOSPC, KAWS_FILE, ENOSPC);
    under(named("remove"), &disk.no_room, ENOSPC, KAWS_FILE, ENOSPC);
}


static void
test_no_inodes(void **state)
{
    (void)state;
    under(named("create"), &disk.no_nodes, ENOSPC, KAWS_FILE, ENOSPC);
    under(named("open"), &disk.no_nodes, ENOSPC, KAWS_OK, 0);
    under(named("open, cell behind"), &disk.no_nodes, ENOSPC, KAWS_OK, 0);
    under(named("open, torn end"), &disk.no_nodes, ENOSPC, KAWS_OK, 0);
    under(named("generate"), &disk.no_nodes, ENOSPC, KAWS_OK, 0);
    under(named("store"), &disk.no_nodes, ENOSPC, KAWS_OK, 0);
    under(named("remove"), &disk.no_nodes, ENOSPC, KAWS_FILE, ENOSPC);
    under(named("re-wrap"), &disk.no_nodes, ENOSPC, KAWS_FILE, ENOSPC);
}


static void
test_read_only_disk(void **state)
{
    int i;

    (void)state;
    for (i = 0; i < OPERATIONS; i++)
        under(&operations[i], &disk.read_only, EROFS, KAWS_FILE, EROFS);
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
        make_disk(named(torn ? "open, torn end" : "open"), &base);
        disk.read_only = EROFS;
        cfg = model_config();
        cfg.read_only = 1;
        assert_int_equal(kaws_open(&ring, &cfg, &err), KAWS_OK);
        assert_int_equal(model_of(ring, &keys, &err), KAWS_OK);
        assert_int_equal(keys.count, 3);
        assert_int_equal(run_generate(&ring, &err), KAWS_CONFIG);
        assert_int_equal(run_remove(&ring, &err), KAWS_CONFIG);
        assert_int_equal(run_rewrap(&ring, &err), KAWS_CONFIG);
        kaws_close(ring);
        tried++;
    }
    disk_drop(&base);
}


static void
test_read_only_folder(void **state)
{
    (void)state;
    under(named("create"), &disk.denied, EACCES, KAWS_FILE, EACCES);
    under(named("open"), &disk.denied, EACCES, KAWS_OK, 0);
    under(named("open, cell behind"), &disk.denied, EACCES, KAWS_OK, 0);
    under(named("open, torn end"), &disk.denied, EACCES, KAWS_OK, 0);
    under(named("generate"), &disk.denied, EACCES, KAWS_OK, 0);
    under(named("store"), &disk.denied, EACCES, KAWS_OK, 0);
    under(named("remove"), &disk.denied, EACCES, KAWS_FILE, EACCES);
    under(named("re-wrap"), &disk.denied, EACCES, KAWS_FILE, EACCES);
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
        make_disk(named("open"), &base);
        disk.mounted = mounted;
        kaws_close(must_open());
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
            status = o->run(&ring, &err);
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
                        o->run == run_generate || o->run == run_store);
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
    make_disk(named("open"), &base);
    ring = begin(named("generate"), &base);
    disk.no_sync = EIO;
    assert_int_equal(run_remove(&ring, &err), KAWS_FILE);
    check_words(&err, KAWS_FILE, EIO);
    assert_int_equal(run_generate(&ring, &err), KAWS_UNCERTAIN);
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
    make_disk(named("open"), &base);
    for (i = 0; i < 3; i++) {
        ring = begin(named("generate"), &base);
        disk.at = cases[i].at;
        disk.hits = cases[i].hits;
        disk.fault = cases[i].fault;
        disk.portion = 1;
        disk.error = EIO;
        if (cases[i].fault == DISK_SHORT_ERROR)
            disk.no_cut = EIO;
        assert_int_equal(run_generate(&ring, &err), KAWS_UNCERTAIN);
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
    make_disk(named("open"), &base);
    ring = begin(named("generate"), &base);
    disk.at = WRITES_ENTRY - 1;
    disk.fault = DISK_SHORT_ERROR;
    disk.portion = 1;
    disk.error = EIO;
    assert_int_equal(run_generate(&ring, &err), KAWS_OK);
    kaws_close(ring);

    ring = begin(named("generate"), &base);
    disk.at = WRITES_ENTRY - 1;
    disk.hits = 3;                        /* half, the rest, all of it again  */
    disk.fault = DISK_SHORT_ERROR;
    assert_int_equal(run_generate(&ring, &err), KAWS_UNCERTAIN);
    check_words(&err, KAWS_UNCERTAIN, EIO);
    disk.at = 0;
    kaws_close(ring);
    tried += 2;
    disk_drop(&base);
}


int
main(void)
{
    struct CMUnitTest tests[OPERATIONS + 13] = {
        cmocka_unit_test(test_close),
        cmocka_unit_test(test_conf_file),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_full_copies),
        cmocka_unit_test(test_no_inodes),
        cmocka_unit_test(test_read_only_disk),
        cmocka_unit_test(test_read_only_ring),
        cmocka_unit_test(test_read_only_folder),
        cmocka_unit_test(test_mounted),
        cmocka_unit_test(test_no_descriptors),
        cmocka_unit_test(test_no_sync),
        cmocka_unit_test(test_no_cut),
        cmocka_unit_test(test_half_a_cell)
    };
    int i, failed;

    fake_init(&fake);
    for (i = 0; i < OPERATIONS; i++) {
        tests[13 + i].name = operations[i].name;
        tests[13 + i].test_func = test_each_call;
        tests[13 + i].initial_state = (void *)(uintptr_t)&operations[i];
    }
    failed = cmocka_run_group_tests_name("disk errors", tests, NULL, NULL);
    printf("  %lu failures of the disk were tried\n", tried);
    if (failed == 0 && (fake.live != 0 || fake.dirty != 0 ||
                        fake.misfreed != 0))
        failed = 1;
    fake_end(&fake);
    disk_drop(&disk.image);
    return failed;
}
