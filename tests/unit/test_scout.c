/* Room scout: a thread that finds out which regions could answer, and what it
 * tells. The calls are those of the public functions, which start it. On POSIX
 * the system gives no thread if it is told so; then the caller does the work.
 */

#if !defined(_WIN32)
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64

#include <errno.h>
#include <pthread.h>

static int no_threads, threads_given;


static int
maybe_create(pthread_t *thread, const pthread_attr_t *how,
             void *(*job)(void *), void *arg)
{
    threads_given += !no_threads;
    return no_threads ? EAGAIN : pthread_create(thread, how, job, arg);
}

#define pthread_create maybe_create

#else
static int no_threads, threads_given;
#endif

#include "lock_order.h"
#include "hosts.h"


static int
begin(void **state)
{
    if (hosts_begin(state) != 0)
        return 1;
    no_threads = threads_given = 0;
    ((struct world *)*state)->f.random_byte = 0;
    world_open(*state);
    return 0;
}


/* Returns when the errand is done, if one was started. */
static void
settle(struct world *w)
{
    kaws__scout *s = &w->ring->scout;
    int i, busy = 1;

    for (i = 0; i < 5000 && busy; i++) {
        kaws__thread_lock(&s->lock);
        busy = s->busy;
        kaws__thread_unlock(&s->lock);
        if (busy)
            kaws__sys_sleep_ms(NULL, 1);
    }
    assert_false(busy);
}


/* A call, and what the scout does after it. */
static void
call_at(int line, struct world *w, kaws_status want, const char *trail)
{
    kaws_sealed sealed;

    hosts_forget();
    expect_at(line, &w->err, kaws_kms_generate_data_key(
        w->ring, NULL, 16, NULL, &sealed, &w->err), want, NULL);
    settle(w);
    if (strcmp(hosts.trail, trail) != 0)
        fail_msg("line %d: '%s' for '%s'", line, hosts.trail, trail);
}

#define CALL(w, want, trail) call_at(__LINE__, w, want, trail)


/* Both ways in which an errand is run: by a thread, and by the caller. */
#define BOTH_WAYS(w) \
    for (no_threads = 0; no_threads < 2; no_threads++, world_reopen(w))


/* When home answers first, all other regions are asked to seal, and whether
 * they would open; one line says that they would. */
static void
test_a_check(void **state)
{
    static const char *const actions[] = {
        "GenerateDataKeyWithoutPlaintext", "GenerateDataKeyWithoutPlaintext",
        "Decrypt", "GenerateDataKeyWithoutPlaintext", "Decrypt"
    };
    struct world *w = *state;
    int i;

    BOTH_WAYS(w) {
        fake_forget_log(&w->f);
        threads_given = 0;
        CALL(w, KAWS_OK, "hssll");
        assert_int_equal(threads_given, !no_threads);
        for (i = 0; i < 5; i++) {
            assert_string_equal(hosts.sent[i].action, actions[i]);
            assert_string_equal(hosts.sent[i].key,
                                i == 0 ? HOSTS_ARN(HOSTS_HOME)
                                : i < 3 ? HOSTS_ARN(HOSTS_SHORT)
                                        : HOSTS_ARN(HOSTS_LONG));
        }
        assert_non_null(strstr(hosts.sent[4].body, "\"DryRun\":true"));
        assert_int_equal(hosts.sent[1].timeout_ms, 2000);
        assert_int_equal(fake_logged(&w->f, 2, "[KAWS-174] checked: sa-east-1, "
            "ap-northeast-1 can answer in place of eu-central-1"), 1);
        assert_int_equal(fake_logged(&w->f, -1, "KAWS-17"), 1);
        CALL(w, KAWS_OK, "h");
        w->f.now_ms += KAWS__ROUTE_DAY;   /* all is well still: no line       */
        CALL(w, KAWS_OK, "hssll");
        assert_int_equal(fake_logged(&w->f, -1, "KAWS-17"), 1);
    }
}


/* A ring that may open with a KMS key, but not seal, gets no line: its regions
 * deny what home denies. */
static void
test_a_right_that_nobody_needs(void **state)
{
    static const fake_script denied = { .error = "AccessDeniedException",
        .action = "GenerateDataKeyWithoutPlaintext" };
    struct world *w = *state;
    kaws_sealed sealed;
    kaws_bytes one = { (const uint8_t *)"1", 1 };
    int i;

    for (i = 0; i < HOSTS; i++)
        hosts.at[i].is = denied;
    EXPECT(w, KAWS_OK, NULL, kaws_kms_encrypt(w->ring, NULL, one, &sealed,
                                              &w->err));
    settle(w);
    assert_string_equal(hosts.trail, "hshlh");
    assert_int_equal(fake_logged(&w->f, -1, "KAWS-17"), 0);
}


/* Each multi-region key has its own check: one may have replicas, and another
 * none. A second check waits for the first. */
static void
test_each_key_is_checked(void **state)
{
    static const char other[] = "arn:aws:kms:" HOSTS_HOME ":" FAKE_OWN
                                ":key/mrk-ffffffffffffffffffffffffffffffff";
    struct world *w = *state;

    (void)snprintf(w->f.keys[7].arn, sizeof w->f.keys[7].arn, "%s", other);
    CALL(w, KAWS_OK, "hssll");
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, other, &w->err));
    CALL(w, KAWS_OK, "hsl");
    assert_string_equal(hosts.sent[2].key, "arn:aws:kms:" HOSTS_LONG ":"
                        FAKE_OWN ":key/mrk-ffffffffffffffffffffffffffffffff");
    assert_int_equal(fake_logged(&w->f, 1, "KAWS-173"), 2);
    CALL(w, KAWS_OK, "h");
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(
        w->ring, HOSTS_ARN(HOSTS_HOME), &w->err));
    CALL(w, KAWS_OK, "h");                /* it was checked today             */
}


/* Another region that was out an hour ago is found well before home needs it,
 * so a home that hangs is left soon. */
static void
test_old_news(void **state)
{
    struct world *w = *state;
    int64_t began;

    IS(SHORT, .no_reply = "no route");
    IS(LONG, .no_reply = "no route");
    CALL(w, KAWS_OK, "hssll");
    IS_WELL(SHORT);
    IS_WELL(LONG);
    w->f.now_ms += 3600000;
    CALL(w, KAWS_OK, "hl");
    CALL(w, KAWS_OK, "hs");
    hosts.at[HOME].hangs = 1;
    began = w->f.now_ms;
    CALL(w, KAWS_OK, "hs");
    assert_in_range(w->f.now_ms - began, 1500, 1500);
}


static void
fetch(struct world *w, const char *trail)
{
    kaws_key key;

    hosts_forget();
    EXPECT(w, KAWS_OK, NULL, kaws_fetch(w->ring, name_of("a", NULL), &key,
                                        &w->err));
    kaws_key_free(w->ring, &key);
    settle(w);
    assert_string_equal(hosts.trail, trail);
}


/* A probe of home that is refused empties no cache: nobody asked for it. */
static void
test_a_probe_ends_no_right(void **state)
{
    struct world *w = *state;

    w->cfg.data_file = w->f.data;
    w->cfg.cache_seconds = 3600;
    world_reopen(w);
    EXPECT(w, KAWS_OK, NULL, kaws_generate(w->ring, name_of("a", NULL), "AES",
                                           16, &w->err));
    settle(w);
    fetch(w, "h");
    IS(HOME, .no_reply = "no route");
    CALL(w, KAWS_OK, "hhs");
    IS(HOME, .error = "AccessDeniedException");
    w->f.now_ms += 1000;
    CALL(w, KAWS_OK, "sh");
    fetch(w, "");
    CALL(w, KAWS_DENIED, "h");            /* but this is a refusal            */
    IS_WELL(HOME);
    fetch(w, "h");
}


/* A line for each region that could not answer, with what may help; each day.
 * Once all can, a line says so again. */
static void
test_a_check_that_finds_something(void **state)
{
    static const struct { fake_script is; const char *words; } rows[] = {
        { { .error = "NotFoundException" }, "; there may be no replica of the "
          "KMS key: make one (aws kms replicate-key)" },
        { { .error = "AccessDeniedException" }, "; a replica has a key policy "
          "of its own: allow there" },
        { { .error = "AccessDeniedException", .action = "Decrypt" },
          "; a replica has a key policy" },
        { { .error = "InvalidSignatureException" }, "; the KMS key's own "
          "region accepts them, so check whether this region is enabled" },
        { { .error = "DisabledException" }, "Disabled" },
        { { .from = HOSTS_ARN(HOSTS_SHORT), .to = FAKE_EAST },
          "not a multi-region key" },
        { { .error = "ThrottlingException" }, "Throttling" },
        { { .no_reply = "no route" }, "no route" }
    };
    struct world *w = *state;
    size_t i;

    w->cfg.max_attempts = 1;
    for (i = 0; i < COUNT(rows); i++) {
        /* If it denies, home is asked whether it denies that, too. */
        const char *trail = i == 1 ? "hshll" : i == 2 ? "hsshll" : "hsll";
        world_case = rows[i].words;
        world_reopen(w);
        fake_forget_log(&w->f);
        hosts.at[SHORT].is = rows[i].is;
        CALL(w, KAWS_OK, trail);
        if (fake_logged(&w->f, 1, "[KAWS-173] the failover region sa-east-1 "
            "could not answer in place of eu-central-1, should that fail; ")
            != 1 || fake_logged(&w->f, 1, rows[i].words) < 1)
            fail_msg("%s", w->f.log);
        assert_int_equal(fake_logged(&w->f, -1, "KAWS-17"), 1);
        SAY_NO_MORE(w);
        w->f.now_ms += KAWS__ROUTE_DAY;
        CALL(w, KAWS_OK, trail);
        assert_int_equal(fake_logged(&w->f, 1, "KAWS-173"), 2);
        IS_WELL(SHORT);
        SAY_NO_MORE(w);
        w->f.now_ms += KAWS__ROUTE_DAY;   /* if it was out, a probe is first  */
        CALL(w, KAWS_OK, rows[i].is.no_reply != NULL ? "hsssll" : "hssll");
        assert_int_equal(fake_logged(&w->f, 2, "[KAWS-174] checked: "), 1);
    }
    IS(LONG, .error = "Disabled");
    w->f.now_ms += KAWS__ROUTE_DAY;
    CALL(w, KAWS_OK, "hssl");
    IS_WELL(LONG);
    w->f.now_ms += KAWS__ROUTE_DAY;
    CALL(w, KAWS_OK, "hssll");
    assert_int_equal(fake_logged(&w->f, 2, "[KAWS-174] checked: "), 2);
    world_case = "";
}


/* Home is not checked, though the list has it; and one that is no other region
 * leaves nothing to tell. */
static void
test_home_is_in_the_list(void **state)
{
    struct world *w = *state;

    w->cfg.failover_regions = HOSTS_HOME "," HOSTS_LONG;
    world_reopen(w);
    CALL(w, KAWS_OK, "hll");
    assert_int_equal(fake_logged(&w->f, 2, "checked: ap-northeast-1 can "
                                 "answer"), 1);
    w->cfg.failover_regions = HOSTS_HOME;
    world_reopen(w);
    fake_forget_log(&w->f);
    CALL(w, KAWS_OK, "h");
    assert_int_equal(fake_logged(&w->f, -1, "KAWS-17"), 0);
}


/* While others answer, home is probed beside the calls, and taken again. */
static void
test_home_is_found_again(void **state)
{
    struct world *w = *state;

    BOTH_WAYS(w) {
        CALL(w, KAWS_OK, "hssll");
        IS(HOME, .no_reply = "no route");
        CALL(w, KAWS_OK, "hhs");
        CALL(w, KAWS_OK, "s");            /* its probe is not due             */
        w->f.now_ms += 1000;
        CALL(w, KAWS_OK, "sh");
        IS_WELL(HOME);
        CALL(w, KAWS_OK, "s");
        w->f.now_ms += 1000;
        CALL(w, KAWS_OK, "sh");
        assert_int_equal(hosts.sent[1].timeout_ms, 2000);
        assert_string_equal(hosts.sent[1].key, HOSTS_ARN(HOSTS_HOME));
        CALL(w, KAWS_OK, "h");
    }
}


/* So is a region that is before the one that answers. */
static void
test_a_region_is_found_again(void **state)
{
    struct world *w = *state;

    CALL(w, KAWS_OK, "hssll");
    IS(HOME, .no_reply = "no route");
    IS(SHORT, .no_reply = "no route");
    CALL(w, KAWS_OK, "hhsl");
    w->f.now_ms += 1000;
    CALL(w, KAWS_OK, "lh");               /* home is due first                */
    IS_WELL(SHORT);
    CALL(w, KAWS_OK, "ls");
    assert_string_equal(hosts.sent[1].key, HOSTS_ARN(HOSTS_SHORT));
    CALL(w, KAWS_OK, "s");
}


/* A ring whose KMS key is an alias that has sealed nothing yet. A fetch has its
 * regions checked for the KMS key that sealed the entry, by its id. */
static void
test_an_alias_is_checked_by_id(void **state)
{
    struct world *w = *state;
    kaws_key key;
    int i;

    w->cfg.data_file = w->f.data;
    world_reopen(w);
    EXPECT(w, KAWS_OK, NULL, kaws_generate(w->ring, name_of("a", NULL), "AES",
                                           16, &w->err));
    settle(w);
    w->cfg.kms_key_id = "alias/multi";
    world_reopen(w);
    hosts_forget();
    EXPECT(w, KAWS_OK, NULL, kaws_fetch(w->ring, name_of("a", NULL), &key,
                                        &w->err));
    kaws_key_free(w->ring, &key);
    settle(w);
    assert_string_equal(hosts.trail, "hssll");
    for (i = 1; i < 5; i += 2)
        assert_string_equal(hosts.sent[i].key, HOSTS_ID);
}


/* What the scout learns of accounts is believed by nobody else. */
static void
test_a_scout_teaches_nothing(void **state)
{
    struct world *w = *state;

    w->cfg.kms_key_id = "alias/multi";
    world_reopen(w);
    w->ring->kms.errand.what = KAWS__CHECK_DUE;
    assert_int_equal(kaws__arn_target(&w->ring->kms.errand.checked, HOSTS_ID,
                                      HOSTS_HOME, NULL), KAWS_OK);
    kaws__scout_run(&w->ring->scout);
    settle(w);
    assert_string_equal(hosts.trail, "ssll");
    assert_string_equal(w->ring->kms.trust.own, "");
    assert_string_equal(w->ring->kms.trust.now.arn, "");
    assert_int_equal(w->ring->kms.stats.failovers, 0);
}


/* An errand has no patience. */
static int
never(void *ctx, const kaws_error *err)
{
    (void)ctx;
    (void)err;
    fail_msg("the scout is patient");
    return 0;
}


static void
test_no_patience(void **state)
{
    struct world *w = *state;

    w->cfg.hooks.patience_ms = never;
    w->cfg.max_attempts = 1;
    world_reopen(w);
    no_threads = 1;
    IS(SHORT, .error = "Throttling");
    IS(LONG, .no_reply = "no route");
    CALL(w, KAWS_OK, "hsl");
    assert_int_equal(fake_logged(&w->f, 1, "KAWS-173"), 2);
}


/* ---- the thread --------------------------------------------------------- */

static struct { pthread_mutex_t lock; int held, asked; } gate;


/* Holds the request of another region, until `held` is 0 or it is cancelled. */
static int
gated_send(void *ctx, const kaws_request *q, kaws_reply *r)
{
    int held = strstr(q->url, HOSTS_HOME) == NULL, i;

    for (i = 0; held && i < 5000; i++) {
        pthread_mutex_lock(&gate.lock);
        gate.asked++;
        held = gate.held;
        pthread_mutex_unlock(&gate.lock);
        if (held && q->cancelled(q->cancelled_arg))
            return 1;
        if (held)
            kaws__sys_sleep_ms(NULL, 1);
    }
    return hosts_send(ctx, q, r);
}


static int
gate_asked(void)
{
    int asked;

    pthread_mutex_lock(&gate.lock);
    asked = gate.asked;
    pthread_mutex_unlock(&gate.lock);
    return asked;
}


static void
open_gated(struct world *w)
{
    memset(&gate, 0, sizeof gate);
    pthread_mutex_init(&gate.lock, NULL);
    gate.held = 1;
    w->cfg.hooks.send = gated_send;
    world_reopen(w);
}


/* No caller waits for the thread, and none starts a second one. */
static void
test_one_thread(void **state)
{
    struct world *w = *state;
    kaws_sealed sealed;
    int i;

    open_gated(w);
    threads_given = 0;
    for (i = 0; i < 3; i++) {
        EXPECT(w, KAWS_OK, NULL, kaws_kms_generate_data_key(
            w->ring, NULL, 16, NULL, &sealed, &w->err));
        w->f.now_ms += KAWS__ROUTE_DAY;   /* another check is due             */
    }
    assert_int_equal(threads_given, 1);
    assert_int_equal(w->ring->kms.errand.what, KAWS__CHECK_DUE);
    pthread_mutex_lock(&gate.lock);
    gate.held = 0;
    pthread_mutex_unlock(&gate.lock);
    settle(w);
    CALL(w, KAWS_OK, "hssll");            /* it was kept                      */
    assert_int_equal(threads_given, 2);
    assert_int_equal(w->ring->kms.errand.what, 0);
}


static int asked;


static int
cancels(void *ctx)
{
    (void)ctx;
    return ++asked > 3;
}


/* Without a thread the errand is a part of the caller's call: the program may
 * end it, and the next one runs all the same. */
static void
test_alone_is_cancelled(void **state)
{
    struct world *w = *state;
    kaws_sealed sealed;

    w->cfg.hooks.cancelled = cancels;
    asked = -1000;
    open_gated(w);
    gate.held = 0;
    no_threads = 1;
    hosts_no_check(w);
    CALL(w, KAWS_OK, "h");
    w->f.now_ms += KAWS__ROUTE_DAY;
    gate.held = 1;
    hosts_forget();
    asked = -10;
    EXPECT(w, KAWS_OK, NULL, kaws_kms_generate_data_key(
        w->ring, NULL, 16, NULL, &sealed, &w->err));
    assert_true(asked > 3);
    assert_string_equal(hosts.trail, "h");
    assert_int_equal(fake_logged(&w->f, -1, "KAWS-17"), 0);
    asked = -1000000;
    gate.held = 0;
    w->f.now_ms += KAWS__ROUTE_DAY;
    CALL(w, KAWS_OK, "hssll");
}


/* Closing the ring ends the errand, and tells nothing of it. */
static void
test_a_ring_is_closed(void **state)
{
    struct world *w = *state;
    kaws_sealed sealed;
    int i;

    open_gated(w);
    EXPECT(w, KAWS_OK, NULL, kaws_kms_generate_data_key(
        w->ring, NULL, 16, NULL, &sealed, &w->err));
    for (i = 0; i < 5000 && gate_asked() == 0; i++)
        kaws__sys_sleep_ms(NULL, 1);
    fake_forget_log(&w->f);
    world_close(w);
    assert_string_equal(hosts.trail, "h");
    assert_int_equal(fake_logged(&w->f, -1, "KAWS-17"), 0);
}


/* Without a list nothing of this room runs. */
static void
test_no_list(void **state)
{
    struct world *w = *state;

    w->cfg.failover_regions = NULL;
    world_reopen(w);
    threads_given = 0;
    IS(HOME, .no_reply = "no route");
    CALL(w, KAWS_NETWORK, "hhh");
    IS_WELL(HOME);
    w->f.now_ms += KAWS__ROUTE_DAY;
    CALL(w, KAWS_OK, "h");
    assert_int_equal(threads_given, 0);
}


int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, world_end)
    const struct CMUnitTest tests[] = {
        TEST(test_a_check), TEST(test_a_check_that_finds_something),
        TEST(test_a_right_that_nobody_needs), TEST(test_each_key_is_checked),
        TEST(test_old_news), TEST(test_a_probe_ends_no_right),
        TEST(test_home_is_in_the_list), TEST(test_home_is_found_again),
        TEST(test_a_region_is_found_again),
        TEST(test_an_alias_is_checked_by_id),
        TEST(test_a_scout_teaches_nothing), TEST(test_no_patience),
        TEST(test_one_thread), TEST(test_alone_is_cancelled),
        TEST(test_a_ring_is_closed), TEST(test_no_list)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
