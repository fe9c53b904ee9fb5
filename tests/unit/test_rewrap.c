/* Room rewrap: rotation, and the re-wrap: what it proves, what it does while
 * keys come and go, and that it is all or nothing. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "keys.h"

enum { MANY = 12 };


static void
test_rotate(void **state)
{
    struct world *w = *state;
    int64_t start = w->f.now_ms;

    reopen_with(w, "alias/app");
    OK(w, store(w, "k", "text"));
    w->f.requests = 0;
    OK(w, rotate(w));
    assert_int_equal(w->f.requests, 3);
    assert_int_equal(w->f.keys[0].rotations, 1);
    assert_int_equal(w->f.now_ms, start);
    expect_text(w, "k", "text");          /* old blobs stay readable          */

    w->f.rotation_ms = 3000;              /* it takes its time, and we wait   */
    OK(w, rotate(w));
    assert_int_equal(w->f.keys[0].material, 2);
    assert_in_range(w->f.now_ms - start, 3000, 5000);
    assert_int_equal(fake_logged(&w->f, 1, ""), 1);       /* the new file's   */

    w->f.rotation_ms = 60000;             /* but not for ever                 */
    start = w->f.now_ms;
    OK(w, rotate(w));
    assert_in_range(w->f.now_ms - start, 8000, 10000);
    assert_int_equal(fake_logged(&w->f, 1, "still seals with the old"), 1);
    EXPECT(w, KAWS_SERVICE, "ConflictException", rotate(w));
    w->f.now_ms += 60000;
    w->f.rotation_ms = 0;

    fake_push(&w->f, (fake_script){      /* granted; then KMS goes away       */
        .action = "GenerateDataKeyWithoutPlaintext", .skip = 1, .times = 9,
        .no_reply = "no route" });
    OK(w, rotate(w));
    assert_int_equal(fake_logged(&w->f, 1, "could not be seen"), 1);
    SCRIPTS_END();
    LATER(w);

    w->f.hides_material = 1;              /* nothing to wait for              */
    w->f.requests = 0;
    OK(w, rotate(w));
    assert_int_equal(w->f.requests, 2);
    w->f.keys[0].rotations = 25;
    EXPECT(w, KAWS_SERVICE, "rotated on demand 25 times", rotate(w));
    w->f.keys[0].error = "DisabledException";
    w->f.requests = 0;
    EXPECT(w, KAWS_KMS_KEY, "enable the KMS key", rotate(w));
    assert_int_equal(w->f.requests, 1);
}


static void
store_many(struct world *w)
{
    char name[16], text[24];
    int i;

    for (i = 0; i < MANY; i++) {
        (void)snprintf(name, sizeof name, "k%d", i);
        (void)snprintf(text, sizeof text, "text %d", i);
        w->f.now_ms += 1000;
        OK(w, store(w, name, text));
    }
}


/* The same, to be re-wrapped one after the other. */
static void
store_many_in_turn(struct world *w)
{
    w->cfg.rewrap_parallel = 1;
    world_reopen(w);
    store_many(w);
}


/* The re-wrap fails, for what KMS was told to do, and changes nothing. */
static void
expect_no_rewrap(struct world *w, kaws_status status, const char *words)
{
    snap(w);
    EXPECT(w, status, words, rewrap(w));
    SCRIPTS_END();
    LATER(w);
    expect_same_file(w);
}


/* All are there, but that one, sealed by that KMS key. */
static void
expect_many(struct world *w, int without, const char *arn)
{
    char name[16], text[24];
    int i;

    for (i = 0; i < MANY; i++) {
        (void)snprintf(name, sizeof name, "k%d", i);
        (void)snprintf(text, sizeof text, "text %d", i);
        if (i == without) {
            expect_no_key(w, name, KAWS_NOT_FOUND);
            continue;
        }
        expect_text(w, name, text);
        assert_string_equal(arn_of(w, name), arn);
    }
}


static void
test_rewrap(void **state)
{
    struct world *w = *state;
    kaws_entry_info before, after;
    kaws_walk *one, *two;
    kaws_stats stats;

    OK(w, rewrap(w));
    assert_int_equal(w->f.requests, 1);   /* nothing is there                 */
    store_many(w);
    OK(w, kaws_walk_begin(w->ring, &one, &w->err));
    OK(w, use_key(w, "alias/two"));
    w->f.now_ms += 100000;
    OK(w, rewrap(w));
    assert_int_equal(fake_calls(&w->f, "ReEncrypt"), MANY);
    assert_int_equal(fake_calls(&w->f, "Decrypt"), 2 * MANY + 1);   /* proofs */
    assert_int_equal(fake_logged(&w->f, 2, "re-wrapped all keys in"), 1);
    assert_int_equal(fake_logged(&w->f, 1, "nothing was renewed"), 0);
    kaws_get_stats(w->ring, &stats);
    assert_int_equal(stats.rewrap_done, 0);
    assert_int_equal(stats.rewrap_total, 0);
    OK(w, kaws_walk_begin(w->ring, &two, &w->err));
    while (kaws_walk_next(one, &before)) {        /* all else is as it was    */
        assert_true(kaws_walk_next(two, &after));
        assert_string_equal(after.name.key_id, before.name.key_id);
        assert_string_equal(after.type, before.type);
        assert_int_equal(after.len, before.len);
        assert_int_equal(after.created, before.created);
        assert_string_equal(before.kms_key_arn, FAKE_EAST);
        assert_string_equal(after.kms_key_arn, FAKE_EAST2);
    }
    assert_false(kaws_walk_next(two, &after));
    kaws_walk_end(one);
    kaws_walk_end(two);
    expect_many(w, -1, FAKE_EAST2);

    OK(w, rewrap(w));  /* the same */
    assert_int_equal(fake_logged(&w->f, 1, "nothing was renewed"), 1);
    OK(w, rotate(w));
    OK(w, rewrap(w));  /* new      */
    assert_int_equal(fake_logged(&w->f, 1, "nothing was renewed"), 1);
    world_reopen(w);
    expect_many(w, -1, FAKE_EAST2);
}


static void
move_alias(struct world *w)
{
    (void)snprintf(w->f.keys[0].alias, sizeof w->f.keys[0].alias, "alias/x");
    (void)snprintf(w->f.keys[1].alias, sizeof w->f.keys[1].alias, "alias/app");
}


/* What the alias meant at the start seals all keys. */
static void
test_rewrap_keeps_its_target(void **state)
{
    struct world *w = *state;

    reopen_with(w, "alias/app");
    store_many(w);
    while_asked(w, "ReEncrypt", 5, move_alias);
    OK(w, rewrap(w));
    expect_many(w, -1, FAKE_EAST);
}


static int64_t
no_ticks(void *ctx)
{
    (void)ctx;
    return 0;
}


/* The clock stands still: the pauses end the wait for a rotation. */
static void
test_rotate_without_a_clock(void **state)
{
    struct world *w = *state;

    w->cfg.hooks.ticks_ms = no_ticks;
    world_open(w);
    w->f.rotation_ms = 600000;
    OK(w, rotate(w));
    assert_int_equal(fake_logged(&w->f, 1, "still seals with the old"), 1);
}


/* Across regions the keys pass through us. */
static void
test_rewrap_across_regions(void **state)
{
    struct world *w = *state;

    store_many(w);
    OK(w, use_key(w, FAKE_WEST));
    OK(w, rewrap(w));
    assert_int_equal(fake_calls(&w->f, "ReEncrypt"), 0);
    assert_int_equal(fake_calls(&w->f, "Decrypt"), 4 * MANY + 1);
    assert_int_equal(fake_calls(&w->f, "Encrypt"), 2 * MANY);
    world_reopen(w);
    expect_many(w, -1, FAKE_WEST);
}


/* The reply to another ReEncrypt: its blob is not this key's. The proof finds
 * out, whatever the request ids say, and nothing is changed. */
static void
test_rewrap_proves(void **state)
{
    static const struct { fake_script script; kaws_status status;
                          const char *words; } rows[] = {
        { { .action = "ReEncrypt", .previous = 1 }, KAWS_REPLY,
          "asked to seal" },
        { { .action = "Decrypt", .error = "AccessDeniedException" },
          KAWS_DENIED, "kms:Decrypt" },
        { { .action = "Decrypt", .error = "InvalidCiphertextException" },
          KAWS_REPLY, "asked to seal" },
        { { .action = "Decrypt", .no_reply = "no route", .times = 3 },
          KAWS_NETWORK, "no route" },
        { { .action = "ReEncrypt", .same_id = 1, .times = 3 }, KAWS_REPLY,
          "the same request id" }
    };
    struct world *w = *state;
    size_t i;

    store_many_in_turn(w);
    OK(w, use_key(w, FAKE_EAST2));
    for (i = 0; i < COUNT(rows); i++) {
        fake_script script = rows[i].script;
        script.skip = 7;
        fake_push(&w->f, script);
        expect_no_rewrap(w, rows[i].status, "the key 'k7' failed, and nothing "
                         "was changed");
        if (strstr(w->err.text, rows[i].words) == NULL)
            fail_msg("row %lu: %s", (unsigned long)i, w->err.text);
    }
    OK(w, rewrap(w));
    world_reopen(w);
    expect_many(w, -1, FAKE_EAST2);
}


/* Both times the same wrong key, but of another length than the entry says. */
static void
test_rewrap_far_length(void **state)
{
    static const char other[] = "{\"KeyId\":\"" FAKE_EAST "\",\"Plaintext\":"
                                "\"YW5vdGhlciBrZXkh\"}";
    struct world *w = *state;

    OK(w, store(w, "k", "text"));
    OK(w, use_key(w, FAKE_WEST));
    SCRIPT(.action = "Decrypt", .times = 2, .body = other);
    expect_no_rewrap(w, KAWS_MISMATCH, "nothing was changed");
    expect_text(w, "k", "text");
}


/* A KMS that gives two keys the same blob, and swears by each: one of them
 * would be lost. */
static void
test_rewrap_twice_the_same_blob(void **state)
{
    static const char sworn[] = "{\"__type\":\"DryRunOperationException\"}";
    struct world *w = *state;
    size_t i;

    store_many_in_turn(w);
    for (i = 0; i < 2; i++) {
        SCRIPT(.action = "Decrypt", .times = MANY, .http = 400, .body = sworn);
        SCRIPT(.action = "ReEncrypt", .skip = i == 0 ? MANY - 1 : 3,
               .previous = 1);
        expect_no_rewrap(w, KAWS_REPLY, "two replies to the re-wrap were the "
                         "same");
    }
}


/* As after more than 256 replies: http has forgotten those of the re-wrap so
 * far, and KMS numbers from the start. */
static void
begin_ids_anew(struct world *w)
{
    kaws__http *http = &w->ring->kms.http;

    w->f.replies -= 10;
    memset(http->seen, 0, sizeof http->seen);
}


/* Two replies with one request id, so far apart that http does not see it. */
static void
test_rewrap_twice_the_same_id(void **state)
{
    static const char *const actions[] = { "ReEncrypt", "Decrypt" };
    struct world *w = *state;
    size_t i;

    store_many_in_turn(w);
    for (i = 0; i < 2; i++) {
        while_asked(w, actions[i], 6, begin_ids_anew);
        expect_no_rewrap(w, KAWS_REPLY, "two replies to the re-wrap were the "
                         "same");
        assert_true(meanwhile.fired);
    }
    w->f.on_send = NULL;
    w->f.replies += 100;
    OK(w, rewrap(w));
}


/* Likewise across regions, where a wrong key could be sealed as the right one.
 */
static void
test_rewrap_far_proves(void **state)
{
    struct world *w = *state;
    int nth;

    store_many_in_turn(w);
    OK(w, use_key(w, FAKE_WEST));
    for (nth = 0; nth < 2; nth++) {       /* one of the two is another key    */
        SCRIPT(.action = "Decrypt", .skip = 9 + nth,
               .from = "\"Plaintext\":\"d", .to = "\"Plaintext\":\"Z");
        expect_no_rewrap(w, KAWS_REPLY, "the same bytes a second time");
    }
    SCRIPT(.action = "Encrypt", .skip = 5, .previous = 1);
    expect_no_rewrap(w, KAWS_REPLY, "asked to seal");
    OK(w, rewrap(w));
    expect_many(w, -1, FAKE_WEST);
}


/* One that cannot be re-encrypted fails the whole, and is named. */
static void
test_rewrap_fails(void **state)
{
    static const struct { fake_script script; kaws_status status; } rows[] = {
        { { .error = "InvalidCiphertextException" }, KAWS_MISMATCH },
        { { .error = "AccessDeniedException" }, KAWS_DENIED },
        { { .error = "ThrottlingException", .times = 3 }, KAWS_THROTTLED },
        { { .no_reply = "no route", .times = 3 }, KAWS_NETWORK },
        { { .body = "{}" }, KAWS_REPLY },
        { { .from = FAKE_EAST2, .to = FAKE_EAST }, KAWS_REPLY }
    };
    struct world *w = *state;
    size_t i;
    int parallel;

    store_many(w);
    for (parallel = 1; parallel <= 16; parallel += 15) {
        w->cfg.rewrap_parallel = parallel;
        w->cfg.timeout_ms = 60000;
        w->cfg.max_attempts = 3;
        world_reopen(w);
        OK(w, use_key(w, FAKE_EAST2));
        for (i = 0; i < COUNT(rows); i++) {
            fake_script script = rows[i].script;
            script.action = "ReEncrypt";
            script.skip = 7;
            if (parallel > 1)             /* several share them, so: no end   */
                script.times *= 1000;
            w->f.calls[FAKE_REENCRYPT] = 0;
            fake_push(&w->f, script);
            expect_no_rewrap(w, rows[i].status, parallel == 1
                             ? "key 'k7' failed, and nothing was changed"
                             : "re-wrapping the key 'k");
            if (rows[i].status == KAWS_MISMATCH)
                assert_non_null(strstr(w->err.text, "for another name"));
            if (parallel == 1)            /* the rest was not asked for       */
                assert_true(fake_calls(&w->f, "ReEncrypt") <= 10);
        }
        expect_many(w, -1, FAKE_EAST);
    }
    OK(w, rewrap(w));
    expect_many(w, -1, FAKE_EAST2);
}


static void
rewrap_again(struct world *w)
{
    kaws_error err;
    kaws_stats stats;

    meanwhile.status = kaws_rewrap_all(w->ring, &err);
    assert_non_null(strstr(err.text, "already running: 5 of 12 keys"));
    kaws_get_stats(w->ring, &stats);
    assert_int_equal(stats.rewrap_done, 5);
    assert_int_equal(stats.rewrap_total, MANY);
}


static void
test_rewrap_twice_at_once(void **state)
{
    struct world *w = *state;

    store_many_in_turn(w);
    while_asked(w, "ReEncrypt", 5, rewrap_again);
    OK(w, rewrap(w));
    assert_true(meanwhile.fired);
    assert_int_equal(meanwhile.status, KAWS_RUNNING);
    w->f.on_send = NULL;
    OK(w, rewrap(w));
    expect_many(w, -1, FAKE_EAST);
}


/* While the sixth is on its way: the current KMS key is changed, one that is
 * done and one that is to come are removed, the one on its way and one that is
 * done are made again, and one is added. */
static void
make_traffic(struct world *w)
{
    kaws *ring = w->ring;

    meanwhile.status =
        kaws_use_kms_key(ring, FAKE_WEST, NULL) == KAWS_OK &&
        kaws_remove(ring, name_of("k2", ""), NULL) == KAWS_OK &&
        kaws_remove(ring, name_of("k9", ""), NULL) == KAWS_OK &&
        kaws_remove(ring, name_of("k5", ""), NULL) == KAWS_OK &&
        kaws_store(ring, name_of("k5", ""), "SECRET", kaws__buf_of("new 5"),
                   NULL) == KAWS_OK &&
        kaws_remove(ring, name_of("k3", ""), NULL) == KAWS_OK &&
        kaws_store(ring, name_of("k3", ""), "SECRET", kaws__buf_of("new 3"),
                   NULL) == KAWS_OK &&
        kaws_store(ring, name_of("added", ""), "SECRET", kaws__buf_of("added"),
                   NULL) == KAWS_OK ? KAWS_OK : KAWS_FILE;
}


static void
test_rewrap_under_traffic(void **state)
{
    static const struct { const char *name, *text, *arn; } want[] = {
        { "k0", "text 0", FAKE_EAST2 }, { "k1", "text 1", FAKE_EAST2 },
        { "k4", "text 4", FAKE_EAST2 }, { "k6", "text 6", FAKE_EAST2 },
        { "k7", "text 7", FAKE_EAST2 }, { "k8", "text 8", FAKE_EAST2 },
        { "k10", "text 10", FAKE_EAST2 }, { "k11", "text 11", FAKE_EAST2 },
        { "k5", "new 5", FAKE_WEST }, { "k3", "new 3", FAKE_WEST },
        { "added", "added", FAKE_WEST }
    };
    struct world *w = *state;
    kaws_entry_info info;
    kaws_walk *walk;
    size_t i;
    int parallel, again;

    for (parallel = 1; parallel <= 4; parallel += 3) {
        w->cfg.rewrap_parallel = parallel;
        world_reopen(w);
        store_many(w);
        OK(w, use_key(w, FAKE_EAST2));
        while_asked(w, "ReEncrypt", 5, make_traffic);
        OK(w, rewrap(w));
        w->f.on_send = NULL;
        assert_true(meanwhile.fired);
        assert_int_equal(meanwhile.status, KAWS_OK);
        for (again = 0; again < 2; again++) {
            OK(w, kaws_walk_begin(w->ring, &walk, &w->err));
            for (i = 0; i < COUNT(want); i++) {
                assert_true(kaws_walk_next(walk, &info));
                assert_string_equal(info.name.key_id, want[i].name);
                assert_string_equal(info.kms_key_arn, want[i].arn);
                expect_text(w, want[i].name, want[i].text);
            }
            assert_false(kaws_walk_next(walk, &info));
            kaws_walk_end(walk);
            world_reopen(w);
        }
        for (i = 0; i < COUNT(want); i++)
            OK(w, drop(w, want[i].name));
    }
}


static void
remove_all(struct world *w)
{
    char name[16];
    int i;

    for (i = 0; i < MANY; i++) {
        (void)snprintf(name, sizeof name, "k%d", i);
        meanwhile.status = kaws_remove(w->ring, name_of(name, ""), NULL);
    }
}


static void
test_rewrap_of_what_is_gone(void **state)
{
    struct world *w = *state;

    store_many(w);
    while_asked(w, "ReEncrypt", 3, remove_all);
    OK(w, rewrap(w));
    assert_int_equal(keys_of(w), 0);
    world_reopen(w);
    assert_int_equal(keys_of(w), 0);
}


/* All go while the re-wrap asks for its own memory. */
static void *
memory_and_remove_all(void *ctx, void *ptr, size_t old_len, size_t new_len)
{
    struct fake *f = ctx;

    if (new_len == MANY * (sizeof(kaws__row) + 24))
        remove_all(f->user);
    return fake_memory(ctx, ptr, old_len, new_len);
}


static void
test_rewrap_of_nothing_left(void **state)
{
    struct world *w = *state;

    store_many(w);
    w->f.user = w;
    w->ring->hooks.memory = memory_and_remove_all;
    OK(w, rewrap(w));
    assert_int_equal(keys_of(w), 0);
    assert_int_equal(fake_calls(&w->f, "ReEncrypt"), 0);
    assert_int_equal(fake_logged(&w->f, 1, "nothing was renewed"), 0);
    world_reopen(w);
    assert_int_equal(keys_of(w), 0);
}


static struct { pthread_mutex_t lock; int now, most; } flight = {
    PTHREAD_MUTEX_INITIALIZER, 0, 0
};


static int
send_slowly(void *ctx, const kaws_request *q, kaws_reply *r)
{
    struct timespec t = { 0, 5000000 };
    int answer;

    pthread_mutex_lock(&flight.lock);
    flight.now++;
    flight.most = flight.now > flight.most ? flight.now : flight.most;
    pthread_mutex_unlock(&flight.lock);
    nanosleep(&t, NULL);
    answer = fake_send(ctx, q, r);
    pthread_mutex_lock(&flight.lock);
    flight.now--;
    pthread_mutex_unlock(&flight.lock);
    return answer;
}


/* So many calls at a time, and no more. */
static void
test_rewrap_in_parallel(void **state)
{
    static const int asked[] = { 1, 3, 0, -5, 1000 };
    struct world *w = *state;
    size_t i;

    w->cfg.hooks.send = send_slowly;
    world_open(w);
    store_many(w);
    for (i = 0; i < COUNT(asked); i++) {
        w->cfg.rewrap_parallel = asked[i];
        world_reopen(w);
        flight.most = 0;
        OK(w, rewrap(w));
        if (i < 2)
            assert_in_range(flight.most, 1 + i, asked[i]);
        else
            assert_in_range(flight.most, 2, MANY);
    }
    assert_int_equal(w->ring->rewrap.parallel, 64);
    expect_many(w, -1, FAKE_EAST);
}


/* ---- cancelled --------------------------------------------------------- */

static __thread int caller;       /* is this the thread of the caller?        */
static int cancel, hanging;       /* by __atomic                              */


static int
cancelled(void *ctx)
{
    (void)ctx;
    return caller && __atomic_load_n(&cancel, __ATOMIC_SEQ_CST);
}


/* The caller's own key is done at once, and then the call is cancelled. All
 * other threads hang until they learn of it. */
static int
hang(void *ctx, const kaws_request *q, kaws_reply *r)
{
    struct world *w = ctx;
    int i, there = 0;

    if (caller) {
        for (i = 0; i < 5000 && !there &&
             strstr(q->headers[2], "ReEncrypt") != NULL; i++) {
            there = __atomic_load_n(&hanging, __ATOMIC_SEQ_CST);
            kaws__sys_sleep_ms(NULL, 1);
        }
        __atomic_store_n(&cancel, there, __ATOMIC_SEQ_CST);
        return fake_send(&w->f, q, r);
    }
    __atomic_store_n(&hanging, 1, __ATOMIC_SEQ_CST);
    for (i = 0; i < 5000 && !q->cancelled(q->cancelled_arg); i++)
        kaws__sys_sleep_ms(NULL, 1);
    assert_in_range(i, 0, 4999);
    return -1;
}


/* Only the caller's thread knows that the re-wrap is cancelled, and it has
 * nothing left to do. */
static void
test_rewrap_cancelled(void **state)
{
    struct world *w = *state;

    OK(w, store(w, "k0", "text 0"));
    OK(w, store(w, "k1", "text 1"));
    w->cfg.hooks.cancelled = cancelled;
    w->cfg.rewrap_parallel = 2;
    w->f.hooks = w->cfg.hooks;
    world_reopen(w);
    OK(w, rewrap(w));
    caller = 1;
    w->ring->hooks.send = hang;
    w->ring->hooks.ctx = w;
    expect_no_rewrap(w, KAWS_CANCELLED, "while it waited for AWS KMS");
    assert_int_equal(hanging, 1);
    cancel = 0;
    w->ring->hooks = w->f.hooks;
    OK(w, rewrap(w));
    caller = 0;
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        OPEN(test_rotate), SHUT(test_rewrap_keeps_its_target),
        SHUT(test_rotate_without_a_clock),
        OPEN(test_rewrap), OPEN(test_rewrap_across_regions),
        OPEN(test_rewrap_proves), OPEN(test_rewrap_far_length),
        OPEN(test_rewrap_twice_the_same_blob),
        OPEN(test_rewrap_twice_the_same_id), OPEN(test_rewrap_far_proves),
        OPEN(test_rewrap_fails), OPEN(test_rewrap_twice_at_once),
        OPEN(test_rewrap_cancelled),
        SHUT(test_rewrap_under_traffic), OPEN(test_rewrap_of_what_is_gone),
        OPEN(test_rewrap_of_nothing_left), SHUT(test_rewrap_in_parallel)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
