/* test_crash.c - no acknowledged change is lost, whenever the process or the
 * power ends
 *
 * Each operation that changes the file (the scenarios below) is run on the disk
 * of disk.h. In turn, each of its file calls fails, does half, or is the last
 * one before a stop. A stop is the end of the process, or a power cut: then
 * each sector, size and name that was not synced is kept or lost, each by
 * itself. Then the keyring is reopened, and all of this must be true:
 *
 *     it opens, and is the old keyring or the new one, as a whole: the new one
 *     if the change was acknowledged, the old one if it was refused;
 *     what it shows survives a power cut right then;
 *     a torn end is in a file of its own, byte for byte, and stays there;
 *     a key can be added and one removed, durably;
 *     and all this is true again if there is another stop, at any of the calls
 *     of the first reopening, and the keyring is reopened after that.
 *
 * A disk that was seen before, with the same expectations, is not checked
 * again. The figures say how many cases there were, and how many of them
 * differed. KAWS_LONG=1 tries every place of an entry among the sectors, and
 * more ways in which the disk survives.
 */

#include "model.h"

typedef enum disk_state {         /* the disk before the change               */
    NOTHING, ODD_PATH, FOLDER, EMPTY, KEYS,
    LAGGING,                      /* right after an acknowledged change       */
    TORN,                         /* in the middle of an append               */
    UNSYNCED,                     /* between its write and its sync: a kill,
                                   * after which the system went on           */
    BEHIND,                       /* the same, by another process, at a file
                                   * that the ring had open before            */
    FULL                          /* torn, and no room to set that aside      */
} disk_state;

typedef struct scenario {
    const char *name;
    disk_state  before;
    verb        verb;
    size_t      align;            /* where in a sector the file ends          */
    unsigned    lacks;            /* kinds of calls that the system has not   */
} scenario;

typedef struct outcome {          /* what a reopened keyring may be           */
    const model *one, *other;     /* NULL: nothing else                       */
    const model *third;
} outcome;

static size_t ways;               /* to survive, that are tried at most       */
static size_t ways_again;         /* after the second stop                    */
static struct { unsigned long faults, cases, distinct; } count;
static struct { uint8_t at[8192]; size_t len; } torn_end; /* once seen, kept */
static int full_at_open;          /* errno; only before the change            */


/* ---- reports ------------------------------------------------------------ */

static size_t
trail_add(const char *format, ...)
{
    size_t was = strlen(model_trail);
    va_list args;

    va_start(args, format);
    (void)vsnprintf(model_trail + was, sizeof model_trail - was, format, args);
    va_end(args);
    return was;
}


static void
must_generate(kaws *ring, const char *key_id)
{
    kaws_error err;

    if (kaws_generate(ring, model_name(key_id), "AES", 32, &err) != KAWS_OK)
        model_fail("the keyring takes no new key", &err);
}


static void
must_model(kaws *ring, model *m)
{
    kaws_error err;

    if (model_of(ring, m, &err) != KAWS_OK)
        model_fail("a key cannot be fetched", &err);
}


/* ---- the scenarios ------------------------------------------------------ */

/* Three keys whose names are so long that the file ends at `align`. */
static void
make_keys(size_t align)
{
    char name[KAWS_NAME_MAX + 1];
    kaws *ring = model_must_open();
    size_t need, len, i, size = 80 + 3 * 290;

    need = (align + 1024 - size % 512 - 3) % 512 + 3;
    for (i = 0; i < 3; i++) {
        len = need - (2 - i);
        len = len < KAWS_NAME_MAX ? len : KAWS_NAME_MAX;
        memset(name, 'a' + (int)i, len);
        name[len] = '\0';
        must_generate(ring, name);
        need -= len;
    }
    kaws_close(ring);
    (void)disk_bytes(DATA, &size);
    assert_int_equal(size % 512, align);
}


/* An append that stops at that call (0: behind its last). */
static void
stop_append(unsigned at, disk_fault fault)
{
    kaws_error err;
    kaws *ring = model_must_open();

    if (at > 0)
        disk_sync_all();
    disk_break(at, 1, fault, EIO);
    assert_int_equal(kaws_generate(ring, model_name("the last one"), "AES", 32,
                                   &err) == KAWS_OK, at == 0);
    disk.off = 1;
    kaws_close(ring);
    disk_restart();
}


static void
prepare(const scenario *s)
{
    const uint8_t *at;
    size_t len, good;

    if (s->before == ODD_PATH)
        model_file = "/disk/ring//keys";
    if (s->before == FOLDER)
        (void)disk_mkdir("/disk/ring", 0750);
    if (s->before == EMPTY)
        kaws_close(model_must_open());
    if (s->before >= KEYS)
        make_keys(s->align);
    if (s->before >= LAGGING && s->before != BEHIND)
        stop_append(s->before == LAGGING ? 0 : WRITES_ENTRY,
                    s->before == UNSYNCED ? DISK_STOP_AFTER : DISK_STOP_MIDWAY);
    if (s->before != FULL)
        return;
    disk_sync_all();              /* the end is durable: it is never lost     */
    at = disk_bytes(DATA, &len);
    good = (size_t)kaws__store_get(at + KAWS__STORE_COMMITTED, 8);
    memcpy(torn_end.at, at + good, torn_end.len = len - good);
    full_at_open = ENOSPC;
}


static const scenario scenarios[] = {
    { "create the folder and the file", NOTHING, OPEN, 0, 0 },
    { "create them by an odd path", ODD_PATH, OPEN, 0, 0 },
    { "create the file", FOLDER, OPEN, 0, 0 },
    { "create the file by a link", FOLDER, OPEN, 0, DISK_ALL_NEWER },
    { "create the file by a rename", FOLDER, OPEN, 0,
      DISK_ALL_NEWER | DISK_ALL_LINKS },
    { "open", KEYS, OPEN, 100, 0 },
    { "open with the cell behind", LAGGING, OPEN, 100, 0 },
    { "open with a torn end", TORN, OPEN, 100, 0 },
    { "open with a torn end", TORN, OPEN, 508, 0 },
    { "open after a kill", UNSYNCED, OPEN, 100, 0 },
    { "open after a kill", UNSYNCED, OPEN, 508, 0 },
    { "generate after a torn end", TORN, GENERATE, 100, 0 },
    { "generate after a torn end", TORN, GENERATE, 508, 0 },
    { "generate, torn end on full disk", FULL, GENERATE, 100, 0 },
    { "remove, torn end on full disk", FULL, REMOVE_LAST, 508, 0 },
    { "generate the first", EMPTY, GENERATE, 0, 0 },
    { "generate", KEYS, GENERATE, 100, 0 },
    { "store 4096 bytes", KEYS, STORE, 100, 0 },
    { "remove the first", KEYS, REMOVE_FIRST, 100, 0 },
    { "remove the last", KEYS, REMOVE_LAST, 100, 0 },
    { "remove", LAGGING, REMOVE_FIRST, 100, 0 },
    { "remove by a rename", KEYS, REMOVE_FIRST, 100, DISK_ALL_NEWER },
    { "re-wrap", KEYS, REWRAP, 100, 0 },
    { "generate and close", KEYS, GENERATE_CLOSE, 100, 0 },
    { "refresh, another was killed", BEHIND, REFRESH, 100, 0 },
    { "generate, another was killed", BEHIND, GENERATE, 508, 0 },
    { "remove, another was killed", BEHIND, REMOVE_FIRST, 100, 0 },
    { "re-wrap, another was killed", BEHIND, REWRAP, 100, 0 },
    { "close, another was killed", BEHIND, CLOSE, 100, 0 },
    { "close", LAGGING, CLOSE, 100, 0 }
};


/* ---- looking at what is left -------------------------------------------- */

static uint64_t *seen;
static size_t seen_max, seen_count;


/* Whether this was looked at before; from now on it was. */
static int
seen_before(uint64_t what)
{
    size_t i, k;
    uint64_t *old = seen;

    if (seen_count * 2 >= seen_max) {
        i = seen_max;
        seen_max = seen_max == 0 ? 4096 : seen_max * 2;
        seen = calloc(seen_max, sizeof *seen);
        for (seen_count = 0; i-- > 0;)
            if (old[i] != 0)
                (void)seen_before(old[i]);
        free(old);
    }
    what += what == 0;
    for (k = (size_t)(what % seen_max); seen[k] != 0; k = (k + 1) % seen_max)
        if (seen[k] == what)
            return 1;
    seen[k] = what;
    seen_count++;
    return 0;
}


/* What tells one thing to look at from another, beside what it may be. */
static uint64_t
looked_at(void)
{
    return disk_hash() ^ disk_hash_more(1, torn_end.at, torn_end.len);
}


static void
seen_forget(void)
{
    free(seen);
    seen = NULL;
    seen_max = seen_count = 0;
}


static int
may_be(outcome may, const model *is)
{
    return model_same(is, may.one) ||
           (may.other != NULL && model_same(is, may.other)) ||
           (may.third != NULL && model_same(is, may.third));
}


/* There is a file of these bytes, set aside. */
static void
check_aside(const uint8_t *at, size_t len)
{
    if (model_aside(at, len) != len)
        model_fail("the torn end is in no file of its own", NULL);
}


/* The torn end, if there was one, is in a file of its own. *torn says how long
 * it was. */
static void
check_torn(const uint8_t *before, size_t before_len, size_t *torn)
{
    size_t len;
    const uint8_t *now = disk_bytes(DATA, &len);

    *torn = 0;
    if (before == NULL || len >= before_len)
        return;
    if (memcmp(now, before, 32) != 0 ||
        memcmp(now + 48, before + 48, len - 48) != 0)
        model_fail("more than the end of the file was changed", NULL);
    if (fake_logged(&fake, 1, "was moved to") != 1)
        model_fail("nothing was said about a torn end", NULL);
    check_aside(before + len, before_len - len);
    *torn = before_len - len;
}


/* Opens what is there; the ring is what it may be. */
static kaws *
reopen(outcome may, model *is)
{
    size_t len = 0, torn;
    const uint8_t *at = disk_bytes(DATA, &len);
    uint8_t *before = at == NULL ? NULL : malloc(len + 1);
    int settled = disk_is_settled();
    kaws *ring;

    if (before != NULL)
        memcpy(before, at, len);
    ring = model_must_open();
    check_torn(before, len, &torn);
    if (torn_end.len > 0)
        check_aside(torn_end.at, torn_end.len);
    else if (torn > 0 && settled)
        memcpy(torn_end.at, before + len - torn, torn_end.len = torn);
    free(before);
    must_model(ring, is);
    if (!may_be(may, is)) {
        model_print(stderr, "it is", is);
        model_print(stderr, "it may be", may.one);
        if (may.other != NULL)
            model_print(stderr, "or", may.other);
        if (may.third != NULL)
            model_print(stderr, "or", may.third);
        model_fail("the reopened keyring is not what it may be", NULL);
    }
    return ring;
}


/* However the power goes now, this is what remains. Leaves the disk as it was
 * and nothing open. */
static void
check_durable(const model *is, const char *what)
{
    disk_image saved = { .count = 0 };
    outcome may = { is, NULL, NULL };
    model found;
    kaws *ring;
    size_t i, n, was = trail_add("; %s; power cut", what);

    disk_copy(&saved, &disk.image);
    n = disk_survivals(&saved, ways_again);
    for (i = 0; i < n; i++) {
        disk_copy(&disk.image, &saved);
        disk_survive(i, ways_again);
        count.cases++;
        if (seen_before(looked_at() ^ model_hash(is)))
            continue;
        count.distinct++;
        ring = reopen(may, &found);
        disk.off = 1;                     /* its closing leaves no trace      */
        kaws_close(ring);
    }
    disk_copy(&disk.image, &saved);
    disk_restart();
    disk_drop(&saved);
    model_trail[was] = '\0';
}


/* The same, of a disk as it was. */
static void
check_was_durable(const disk_image *then, const model *is, const char *what)
{
    disk_copy(&disk.image, then);
    disk_restart();
    check_durable(is, what);
}


/* The ring takes a key, gives it up again, and closes, all of it durably. */
static void
check_goes_on(kaws *ring, const model *is)
{
    disk_image added = { .count = 0 }, removed = { .count = 0 };
    kaws_error err;
    model more;

    model_reset(77);
    must_generate(ring, "one more");
    must_model(ring, &more);
    if (more.count != is->count + 1 ||
        memcmp(more.keys, is->keys, is->count * sizeof is->keys[0]) != 0)
        model_fail("with one more key it is not what it was and that", NULL);
    disk_copy(&added, &disk.image);
    if (kaws_remove(ring, model_name("one more"), &err) != KAWS_OK)
        model_fail("the keyring does not give up a key", &err);
    disk_copy(&removed, &disk.image);
    kaws_close(ring);
    check_durable(is, "a key more, removed, closed");
    check_was_durable(&added, &more, "a key more");
    check_was_durable(&removed, is, "a key more, removed");
    disk_drop(&added);
    disk_drop(&removed);
}


/* ---- exploring ---------------------------------------------------------- */

/* A disk after a crash: it holds one of the two, what it shows is durable, and
 * it goes on. Returns how many calls it took to reopen, or 0 if this very disk
 * was seen before. */
static unsigned
explore_once(outcome may)
{
    disk_image opened = { .count = 0 };
    unsigned calls;
    model is;
    kaws *ring;

    count.cases++;
    if (seen_before(looked_at() * 31 ^ model_hash(may.one) * 3 ^
                    model_hash(may.other) ^ model_hash(may.third) * 7))
        return 0;
    count.distinct++;
    ring = reopen(may, &is);
    calls = disk.calls;
    disk_copy(&opened, &disk.image);
    check_goes_on(ring, &is);
    check_was_durable(&opened, &is, "reopened");
    disk_drop(&opened);
    return calls;
}


/* All that can become of the disk as it is: the power is cut, or it was merely
 * the process that ended. Each is a disk for explore_once; *calls (if wanted)
 * is told what it was and what it took. */
static void
explore_ends(outcome may, size_t limit,
             void (*more)(const disk_image *, outcome, unsigned))
{
    disk_image end = { .count = 0 }, start = { .count = 0 };
    size_t i, n, was = strlen(model_trail), kept = torn_end.len;
    unsigned calls;

    disk_copy(&end, &disk.image);
    n = disk_survivals(&end, limit);
    for (i = 0; i <= n; i++) {
        disk_copy(&disk.image, &end);
        if (i < n) {
            disk_survive(i, limit);
            trail_add("; power cut %lu of %lu", (unsigned long)i,
                      (unsigned long)n);
        } else {
            disk_restart();
            trail_add("; killed");
        }
        disk_copy(&start, &disk.image);
        calls = explore_once(may);
        if (calls > 0 && more != NULL)
            more(&start, may, calls);
        if (kept == 0)
            torn_end.len = 0;
        model_trail[was] = '\0';
    }
    disk_drop(&end);
    disk_drop(&start);
}


/* Stops the reopening of `start` at each of its calls. */
static void
explore_stops(const disk_image *start, outcome may, unsigned calls)
{
    static const struct { disk_fault fault; const char *words; } stops[] = {
        { DISK_STOP_BEFORE, "before" }, { DISK_STOP_AFTER, "after" },
        { DISK_STOP_MIDWAY, "in" }
    };
    kaws_error err;
    kaws *ring;
    unsigned at, i;
    size_t was = strlen(model_trail);

    for (at = 1; at <= calls; at++)
        for (i = 0; i < 3; i++) {
            disk_copy(&disk.image, start);
            disk_restart();
            disk_break(at, 1, stops[i].fault, EIO);
            (void)model_run(OPEN, &ring, &err);
            kaws_close(ring);
            trail_add("; reopening stopped %s %s", stops[i].words,
                      disk.journal[at - 1]);
            explore_ends(may, ways_again, NULL);
            model_trail[was] = '\0';
        }
}


/* ---- one scenario ------------------------------------------------------- */

static struct {
    const scenario *s;
    disk_image base;
    model      old, theirs, fresh;        /* theirs: with what they left      */
    unsigned   calls;             /* of the change, when nothing fails        */
    disk_kind  kinds[DISK_JOURNAL];
} one;


/* Another process adds a key, and dies before it is durable. */
static void
add_theirs(void)
{
    kaws_error err;
    kaws *ring = model_must_open();

    model_reset(3);
    disk_break(WRITES_ENTRY + 1, 2, DISK_ERROR, EIO);
    assert_int_equal(kaws_generate(ring, model_name("theirs"), "AES", 32, &err),
                     KAWS_UNCERTAIN);
    disk.at = 0;
    kaws_close(ring);
}


/* Brings back the disk before the change, and a ring unless opening is it. */
static kaws *
begin(void)
{
    kaws *ring = NULL;

    disk_copy(&disk.image, &one.base);
    disk_restart();
    disk_deny(DISK_ALL_ROOM, full_at_open);
    if (one.s->verb != OPEN)
        ring = model_must_open();
    disk_deny(DISK_ALL_ROOM, 0);
    if (one.s->before == BEHIND)
        add_theirs();
    model_reset(5);
    disk.calls = 0;
    disk.digit_count = 0;
    return ring;
}


static kaws_status
change(kaws **ring, kaws_error *err)
{
    kaws_status status = model_run(one.s->verb, ring, err);

    disk.at = 0;
    disk.fault = DISK_FINE;
    disk.follow_up = 0;
    return status;
}


/* What the disk shows, without changing it. */
static void
check_seen(const model *is)
{
    kaws *ring = model_must_open_at(DATA, 1);
    model m;

    must_model(ring, &m);
    kaws_close(ring);
    if (!model_same(is, &m)) {
        model_print(stderr, "the ring has", is);
        model_print(stderr, "the file has", &m);
        model_fail("ring and file differ", NULL);
    }
}


/* Something failed, or seemed to, and the process lives on. */
static void
check_failed(kaws *ring, kaws_status status, outcome may)
{
    kaws_error err;
    model is;

    if (one.s->before == BEHIND && status != KAWS_UNCERTAIN &&
        kaws_refresh(ring, &err) != KAWS_OK)
        model_fail("it cannot be refreshed", &err);
    must_model(ring, &is);
    if (!may_be(may, &is))
        model_fail("in memory it is not what it may be", NULL);
    if (one.s->before != BEHIND || status != KAWS_UNCERTAIN)
        check_seen(&is);
    if (status == KAWS_UNCERTAIN) {
        if (kaws_generate(ring, model_name("x"), "AES", 32, &err) !=
            KAWS_UNCERTAIN || kaws_rewrap_all(ring, &err) != KAWS_UNCERTAIN ||
            (is.count > 0 &&
             kaws_remove(ring, model_name(is.keys[0].key_id), &err) !=
             KAWS_UNCERTAIN))
            model_fail("it goes on although it is uncertain", &err);
        kaws_close(ring);
        return;
    }
    check_goes_on(ring, &is);
}


static void
try_fault(unsigned at, unsigned hits, disk_fault fault, unsigned portion)
{
    disk_image end = { .count = 0 };
    outcome may = { &one.old, NULL, NULL };
    kaws_error err = { KAWS_OK, 0, 0, "", "", "" };
    kaws *ring = begin();
    kaws_status status;

    count.faults++;
    disk_break(at, hits, fault, EIO);
    disk.portion = portion;
    status = change(&ring, &err);
    model_trail[0] = '\0';
    trail_add("%s (%lu): fault %d.%u, %u times, at %s: %s", one.s->name,
              (unsigned long)one.s->align, (int)fault, portion, hits,
              disk.journal[at - 1], kaws_status_text(status));
    if (status == KAWS_OK)
        may.one = &one.fresh;
    else if (status == KAWS_UNCERTAIN || disk.off || one.s->verb == OPEN)
        may.other = &one.fresh;
    if (status != KAWS_OK || one.s->verb == CLOSE)
        may.third = one.s->before == BEHIND ? &one.theirs : NULL;
    if (one.s->before == BEHIND && one.s->verb == CLOSE)
        may.other = &one.old;             /* which does not have to read it   */
    disk_copy(&end, &disk.image);
    if (disk.off || ring == NULL)
        kaws_close(ring);
    else
        check_failed(ring, status, may);
    disk_copy(&disk.image, &end);
    explore_ends(may, ways, disk.off || hits == 1 ? explore_stops : NULL);
    disk_drop(&end);
}


/* Each fault that a call of that kind can have, in each portion. */
static void
try_call(unsigned at)
{
    disk_kind kind = one.kinds[at - 1];
    int moves = kind == DISK_READS || kind == DISK_WRITES;
    const unsigned portions[] = {
        [DISK_ERROR] = 1, [DISK_FORGET] = kind == DISK_SYNCS,
        [DISK_SHORT] = moves ? 4 : 0, [DISK_SHORT_ERROR] = moves ? 4 : 0,
        [DISK_STOP_BEFORE] = 1, [DISK_STOP_AFTER] = 1,
        [DISK_STOP_MIDWAY] = kind == DISK_WRITES ? 4 : 0
    };
    int fault;
    unsigned portion;

    for (fault = DISK_ERROR; fault <= DISK_STOP_AFTER; fault++)
        for (portion = 0; portion < portions[fault]; portion++)
            try_fault(at, 1, (disk_fault)fault, portion);
    try_fault(at, 2, DISK_ERROR, 0);
    try_fault(at, 3, DISK_ERROR, 0);
    try_fault(at, UINT_MAX / 2, DISK_ERROR, 0);
}


/* The scenario without a fault: what it changes, and its calls. */
static void
rehearse(const scenario *s)
{
    kaws_error err = { KAWS_OK, 0, 0, "", "", "" };
    kaws *ring;

    one.s = s;
    torn_end.len = 0;
    model_file = DATA;
    full_at_open = 0;
    model_trail[0] = '\0';
    trail_add("%s", s->name);
    disk_format();
    disk_deny(s->lacks & DISK_ALL_NEWER, EINVAL);
    disk_deny(s->lacks & DISK_ALL_LINKS, EPERM);
    model_reset(1);
    prepare(s);
    disk_copy(&one.base, &disk.image);
    if (s->verb == OPEN)
        disk_survive(0, 1);               /* the least that opening may find  */
    ring = s->verb == OPEN ? model_must_open() : begin();
    must_model(ring, &one.old);
    if (s->before == BEHIND && kaws_refresh(ring, &err) != KAWS_OK)
        model_fail("it cannot be refreshed", &err);
    must_model(ring, &one.theirs);
    kaws_close(ring);
    ring = begin();
    if (change(&ring, &err) != KAWS_OK)
        model_fail("it fails although nothing failed", &err);
    one.calls = disk.calls;
    assert_in_range(one.calls, 1, DISK_JOURNAL);
    memcpy(one.kinds, disk.kinds, sizeof one.kinds);
    if (ring == NULL)
        ring = model_must_open();
    must_model(ring, &one.fresh);
    kaws_close(ring);
}


/* Says what was done since the last time. */
static void
tell(const char *name)
{
    static struct { unsigned long faults, cases, distinct; } was;

    printf("  %-31s %3u calls, %6lu faults, %8lu cases, %7lu different\n",
           name, one.calls, count.faults - was.faults,
           count.cases - was.cases, count.distinct - was.distinct);
    was.faults = count.faults;
    was.cases = count.cases;
    was.distinct = count.distinct;
}


static void
test_scenario(void **state)
{
    const scenario *s = *state;
    unsigned at;

    seen_forget();
    rehearse(s);
    for (at = 1; at <= one.calls; at++)
        try_call(at);
    tell(s->name);
}


/* The same append, beginning at every place in a sector: only stops, from the
 * writing of the committed length on. */
static void
test_every_place_of_an_append(void **state)
{
    static const size_t few[] = { 0, 7, 217, 508, 511 };
    scenario s = { "generate, begun anywhere", KEYS, GENERATE, 0, 0 };
    size_t i, places = model_long() ? DISK_SECTOR : sizeof few / sizeof few[0];
    unsigned at, portion;

    (void)state;
    for (i = 0; i < places; i++) {
        s.align = model_long() ? i : few[i];
        seen_forget();
        rehearse(&s);
        for (at = WRITES_ENTRY - 1; at <= WRITES_ENTRY + 1; at++) {
            try_fault(at, 1, DISK_STOP_BEFORE, 0);
            try_fault(at, 1, DISK_STOP_AFTER, 0);
            for (portion = 0; portion < 4 && at <= WRITES_ENTRY; portion++)
                try_fault(at, 1, DISK_STOP_MIDWAY, portion);
        }
    }
    tell(s.name);
}


int
main(void)
{
    enum { N = sizeof scenarios / sizeof scenarios[0] };
    struct CMUnitTest tests[N + 1] = {
        cmocka_unit_test(test_every_place_of_an_append)
    };
    int i, failed;

    ways = model_long() ? 1024 : 12;
    ways_again = model_long() ? 64 : 8;
    fake_init(&fake);
    for (i = 0; i < N; i++) {
        tests[i + 1].name = scenarios[i].name;
        tests[i + 1].test_func = test_scenario;
        tests[i + 1].initial_state = (void *)(uintptr_t)&scenarios[i];
    }
    failed = cmocka_run_group_tests_name("crash", tests, NULL, NULL);
    printf("  %lu faults, %lu cases, %lu of them different\n", count.faults,
           count.cases, count.distinct);
    seen_forget();
    disk_drop(&one.base);
    return model_end(failed);
}
