/* Room route: to which region a call goes, what it says there, how long it may
 * take, and what the caller and the log are told. The calls are made below the
 * public functions, so no scout runs. The clock moves only when it is told to.
 */

#include "lock_order.h"
#include "hosts.h"

static kaws_sealed sealed_room;
static void (*change)(kaws__op *op);      /* of the next operations           */


static kaws_status
ask(struct world *w)
{
    const kaws_bytes made = { NULL, 16 };
    kaws__op op;

    kaws__err_clear(&w->err);
    op = kaws__op_begin(&w->ring->kms, &w->err);
    if (change != NULL)
        change(&op);
    hosts_forget();
    return kaws__kms_seal(&op, NULL, made, NULL, &sealed_room);
}


/* Asks, and expects the answer after requests to these hosts. */
static void
ask_at_hosts(int line, struct world *w, kaws_status want, const char *words,
             const char *trail)
{
    expect_at(line, &w->err, ask(w), want, words);
    if (strcmp(hosts.trail, trail) != 0)
        fail_msg("line %d: %s: asked '%s' for '%s': %s", line, world_case,
                 hosts.trail, trail, w->err.text);
}

#define ASKS(w, want, words, trail) \
    ask_at_hosts(__LINE__, w, want, words, trail)


/* ---- hosts that are out ------------------------------------------------- */

static void
only_home(kaws__op *op)
{
    op->at_home = op->aside = 1;
}


static void
only_short(kaws__op *op)
{
    op->only = op->aside = 1;
}


static void
only_long(kaws__op *op)
{
    op->only = 2;
    op->aside = 1;
}


static void (*const only[HOSTS])(kaws__op *) = {
    only_home, only_short, only_long
};


/* A call to that host alone finds that it does not answer, as it seems. */
static void
put_out(struct world *w, int host)
{
    change = only[host];
    IS(host, .no_reply = "no route");
    assert_int_equal(ask(w), KAWS_NETWORK);
    IS_WELL(host);
    change = NULL;
}


/* A call to that host alone finds that it answers. */
static void
put_well(struct world *w, int host)
{
    change = only[host];
    w->f.now_ms += 5000;
    EXPECT(w, KAWS_OK, NULL, ask(w));
    change = NULL;
}


static int
begin(void **state)
{
    if (hosts_begin(state) != 0)
        return 1;
    change = NULL;
    ((struct world *)*state)->f.random_byte = 0;  /* no pauses                */
    world_open(*state);
    return 0;
}


static const char *
region_in_use(struct world *w)
{
    static kaws_stats stats;

    kaws_get_stats(w->ring, &stats);
    return stats.region_in_use;
}


static int
failovers(struct world *w)
{
    kaws_stats stats;

    kaws_get_stats(w->ring, &stats);
    return (int)stats.failovers;
}


/* ---- which place is chosen ---------------------------------------------- */

enum { WELL, OUT, DUE, STATES };


/* Each host is well, or out, or out with a probe due, in all ways: the first
 * one that is well is asked; else the first one whose probe is due; else none.
 * If the probe of any other is due, it is an errand: the first, if it comes
 * before. */
static void
test_the_first_one_that_is_well(void **state)
{
    struct world *w = *state;
    char name[80], trail[2] = "";
    int all, is[HOSTS], i, well, due;

    world_case = name;
    for (all = 0; all < STATES * STATES * STATES; all++) {
        is[HOME] = all % STATES;
        is[SHORT] = all / STATES % STATES;
        is[LONG] = all / STATES / STATES;
        (void)snprintf(name, sizeof name, "home %d, short %d, long %d",
                       is[HOME], is[SHORT], is[LONG]);
        world_reopen(w);
        for (i = 0; i < HOSTS; i++)
            if (is[i] == DUE)
                put_out(w, i);
        w->f.now_ms += 1000;
        for (i = 0; i < HOSTS; i++)
            if (is[i] == OUT)
                put_out(w, i);
        for (well = 0; well < HOSTS && is[well] != WELL; well++)
            continue;
        for (due = 0; due < HOSTS && is[due] != DUE; due++)
            continue;
        assert_int_equal(w->ring->kms.errand.what, 0);
        trail[0] = well < HOSTS ? hosts.at[well].letter
                 : due < HOSTS ? hosts.at[due].letter : '\0';
        if (trail[0] != '\0')
            ASKS(w, KAWS_OK, NULL, trail);
        else
            ASKS(w, KAWS_NETWORK, "AWS KMS at kms.eu-central-1.amazonaws.com "
                 "has been unreachable", "");
        i = well < HOSTS && due < HOSTS ? KAWS__PROBE_DUE : 0;
        i |= trail[0] == 'h' ? KAWS__CHECK_DUE : 0;
        while (due > well && is[LONG] == DUE && due < LONG)
            due++;                        /* the last of those behind         */
        if (w->ring->kms.errand.what != i || ((i & KAWS__PROBE_DUE) &&
                                              w->ring->kms.errand.only != due))
            fail_msg("%s: errand %d for %d, only %d", name,
                     w->ring->kms.errand.what, i, w->ring->kms.errand.only);
    }
    world_case = "";
}


/* Whatever keeps home from answering sends the call on, and nothing else does:
 * at home a refusal is an answer. What failed quickly is tried twice. */
static void
test_when_a_call_goes_on(void **state)
{
    static const struct {
        fake_script is; kaws_status status; const char *trail;
    } rows[] = {
        { { .no_reply = "Connection refused" }, KAWS_OK, "hhs" },
        { { .lost = 1 }, KAWS_OK, "hhs" },
        { { .http = 500, .body = "" }, KAWS_OK, "hhs" },
        { { .http = 503, .body = "<html>" }, KAWS_OK, "hhs" },
        { { .http = 599, .body = "" }, KAWS_OK, "hs" },
        { { .http = 408, .body = "" }, KAWS_OK, "hhs" },
        { { .error = "KMSInternalException" }, KAWS_OK, "hhs" },
        { { .error = "KeyUnavailableException", .http = 500 }, KAWS_OK,
          "hhs" },
        { { .error = "ThrottlingException" }, KAWS_OK, "hs" },
        { { .error = "SlowDown", .http = 503 }, KAWS_OK, "hs" },
        { { .error = "LimitExceededException" }, KAWS_SERVICE, "h" },
        { { .error = "AccessDeniedException" }, KAWS_DENIED, "h" },
        { { .error = "AccessDeniedException", .http = 503 }, KAWS_DENIED,
          "h" },
        { { .error = "NotFoundException" }, KAWS_KMS_KEY, "h" },
        { { .error = "DisabledException" }, KAWS_KMS_KEY, "h" },
        { { .error = "ValidationException" }, KAWS_ARGUMENT, "h" },
        { { .error = "UnrecognizedClientException" }, KAWS_CREDENTIALS, "h" },
        { { .error = "OptInRequired" }, KAWS_CREDENTIALS, "h" },
        { { .http = 200, .cut = 30 }, KAWS_REPLY, "h" }
    };
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        world_case = rows[i].is.error != NULL ? rows[i].is.error : "no type";
        world_reopen(w);
        hosts.at[HOME].is = rows[i].is;
        ASKS(w, rows[i].status, NULL, rows[i].trail);
        IS_WELL(HOME);
    }
    world_case = "";
}


/* A try that took half a second is no accident. */
static void
test_a_quick_failure_is_tried_twice(void **state)
{
    static const struct { int takes_ms; const char *trail; } rows[] = {
        { 0, "hhs" }, { 499, "hhs" }, { 500, "hs" }, { 900, "hs" }
    };
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        world_reopen(w);
        IS(HOME, .no_reply = "no route");
        hosts.at[HOME].takes_ms = rows[i].takes_ms;
        ASKS(w, KAWS_OK, NULL, rows[i].trail);
        ASKS(w, KAWS_OK, NULL, "s");
    }
    IS(SHORT, .no_reply = "no route");    /* likewise elsewhere               */
    ASKS(w, KAWS_OK, NULL, "ssl");
    IS_WELL(HOME);
    IS_WELL(SHORT);
    world_reopen(w);
    IS(HOME, .no_reply = "no route");
    hosts.at[HOME].takes_ms = 10;
    w->f.random_byte = 0xff;              /* after a pause                    */
    w->f.sleeps = 0;
    ASKS(w, KAWS_OK, NULL, "hhs");
    assert_int_equal(w->f.sleeps, 1);
    assert_int_equal(w->f.slept[0], 50);
}


/* Whose calls have a route, and to where. */
static void
test_who_has_a_route(void **state)
{
    static const kaws__action action = { "Encrypt", "KeyId", 0, { NULL } };
    static char fits[256], too_long[260];
    static const struct {
        const char *key_id, *region, *elsewhere;
        int only, at_home, places, order[2];
    } rows[] = {
        { HOSTS_ARN(HOSTS_HOME), HOSTS_HOME, NULL, 0, 0, 2, { 0, 1 } },
        { HOSTS_ARN(HOSTS_HOME), HOSTS_HOME, NULL, 0, 1, 0, { 0 } },
        { HOSTS_ARN(HOSTS_HOME), HOSTS_HOME, NULL, 1, 0, 1, { 0 } },
        { HOSTS_ARN(HOSTS_HOME), HOSTS_HOME, NULL, 2, 0, 1, { 1 } },
        { HOSTS_ID, HOSTS_HOME, NULL, 0, 0, 2, { 0, 1 } },
        { HOSTS_ARN(HOSTS_SHORT), HOSTS_SHORT, NULL, 0, 0, 1, { 1 } },
        { HOSTS_ARN("eu-west-1"), "eu-west-1", NULL, 0, 0, 2, { 0, 1 } },
        { FAKE_EAST, "us-east-1", NULL, 0, 0, 0, { 0 } },
        { "0000-mrk-1", HOSTS_HOME, NULL, 0, 0, 0, { 0 } },
        { "alias/mrk-1", HOSTS_HOME, NULL, 0, 0, 0, { 0 } },
        { "alias/multi", HOSTS_HOME, HOSTS_ID, 0, 0, 2, { 0, 1 } },
        { "alias/multi", HOSTS_HOME, "0000", 0, 0, 0, { 0 } },
        { "arn:aws-cn:kms:cn-north-1:" FAKE_OWN ":key/" HOSTS_ID, "cn-north-1",
          NULL, 0, 0, 0, { 0 } },
        { fits, HOSTS_HOME, NULL, 0, 0, 2, { 0, 1 } },
        { too_long, HOSTS_HOME, NULL, 0, 0, 0, { 0 } }
    };
    struct world *w = *state;
    kaws__target target;
    kaws__call c;
    size_t i;
    int k;

    (void)snprintf(fits, sizeof fits, "%s%0*d", HOSTS_ARN(HOSTS_HOME),
                   223 - (int)strlen(HOSTS_ARN(HOSTS_HOME)), 7);
    (void)snprintf(too_long, sizeof too_long, "%s0", fits);
    for (i = 0; i < COUNT(rows); i++) {
        kaws__op op = kaws__op_begin(&w->ring->kms, &w->err);
        op.only = rows[i].only;
        op.at_home = rows[i].at_home;
        assert_int_equal(kaws__arn_target(&target, rows[i].key_id,
                                          rows[i].region, NULL), KAWS_OK);
        kaws__calls_begin(&c, &op, &action, &target, rows[i].elsewhere);
        if (c.places != rows[i].places ||
            c.place != (c.places > 0 && op.only > 0))
            fail_msg("row %d: %d places, at %d", (int)i, c.places, c.place);
        for (k = 0; k < c.places; k++)
            assert_int_equal(c.order[k], rows[i].order[k]);
        for (k = c.places; k > 0; k--) {  /* the longest name has room        */
            kaws__route_take(&c, k);
            assert_string_equal(c.target->region, w->ring->kms.regions.to[
                rows[i].order[k - 1]].region);
            assert_int_equal(c.body.at[c.key_at + strlen(c.target->key_id) + 1],
                             '"');
            assert_true(c.key_at + c.key_room <= c.body.len);
        }
        kaws__calls_end(&c);
    }
}


/* A URL in the list is for all requests in its region; `endpoint` is for home,
 * unless home is in the list. */
static void
test_urls(void **state)
{
    static const struct {
        const char *endpoint, *list, *home, *away;
    } rows[] = {
        { NULL, HOSTS_LIST, "kms.eu-central-1.amazonaws.com",
          "kms.sa-east-1.amazonaws.com" },
        { "https://x.eu-central-1", HOSTS_LIST, "x.eu-central-1",
          "kms.sa-east-1.amazonaws.com" },
        { "https://x.eu-central-1",
          "eu-central-1=https://y.eu-central-1:8443/," HOSTS_LIST,
          "y.eu-central-1:8443", "kms.sa-east-1.amazonaws.com" },
        { NULL, "ap-northeast-1=https://z.ap-northeast-1,eu-central-1,"
          "sa-east-1=https://y.sa-east-1", "kms.eu-central-1.amazonaws.com",
          "z.ap-northeast-1" }
    };
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        char url[200];
        w->cfg.endpoint = rows[i].endpoint;
        w->cfg.failover_regions = rows[i].list;
        world_reopen(w);
        ASKS(w, KAWS_OK, NULL, "h");
        (void)snprintf(url, sizeof url, "https://%s/", rows[i].home);
        assert_string_equal(w->f.url, url);
        put_out(w, HOME);
        EXPECT(w, KAWS_OK, NULL, ask(w));
        (void)snprintf(url, sizeof url, "https://%s/", rows[i].away);
        assert_string_equal(w->f.url, url);
    }
}


/* ---- what is said in each region ---------------------------------------- */

/* After the KMS key's name there is nothing but spaces, up to the comma. */
static void
expect_named(int n, const char *key)
{
    const char *at = strstr(hosts.sent[n].body, key);

    assert_string_equal(hosts.sent[n].key, key);
    assert_non_null(at);
    at += strlen(key) + 1;
    at += strspn(at, " ");
    if (*at != ',')
        fail_msg("behind the KMS key: %s", hosts.sent[n].body);
}


/* Home is asked by the name of the settings, all others by the KMS key's id or
 * by its ARN there, be that longer or shorter; and home again by its own. */
static void
test_each_region_is_asked_by_its_name(void **state)
{
    static const struct { const char *id, *home, *away[2]; } rows[] = {
        { HOSTS_ARN(HOSTS_HOME), HOSTS_ARN(HOSTS_HOME),
          { HOSTS_ARN(HOSTS_SHORT), HOSTS_ARN(HOSTS_LONG) } },
        { HOSTS_ID, HOSTS_ID, { HOSTS_ID, HOSTS_ID } },
        { "alias/multi", "alias/multi",
          { HOSTS_ARN(HOSTS_SHORT), HOSTS_ARN(HOSTS_LONG) } }
    };
    struct world *w = *state;
    size_t i;

    w->cfg.max_attempts = 4;
    for (i = 0; i < COUNT(rows); i++) {
        world_case = rows[i].id;
        w->cfg.kms_key_id = rows[i].id;
        world_reopen(w);
        ASKS(w, KAWS_OK, NULL, "h");
        assert_string_equal(sealed_room.kms_key_arn, HOSTS_ARN(HOSTS_HOME));
        expect_named(0, rows[i].home);
        IS(HOME, .error = "Throttling");
        IS(SHORT, .error = "Throttling");
        ASKS(w, KAWS_OK, NULL, "hsl");
        assert_string_equal(sealed_room.kms_key_arn, HOSTS_ARN(HOSTS_HOME));
        IS(LONG, .error = "Throttling");
        ASKS(w, KAWS_THROTTLED, NULL, "hslhsl");
        expect_named(0, rows[i].home);
        expect_named(1, rows[i].away[0]);
        expect_named(2, rows[i].away[1]);
        expect_named(3, rows[i].home);
        IS_WELL(HOME);
        IS_WELL(SHORT);
        IS_WELL(LONG);
    }
    world_case = "";
}


/* An alias has no route before KMS has said what it means; and none if it means
 * a KMS key of one region, which the log says once. */
static void
test_an_alias_that_is_not_known_yet(void **state)
{
    struct world *w = *state;

    w->cfg.kms_key_id = "alias/multi";
    world_reopen(w);
    IS(HOME, .no_reply = "no route");
    ASKS(w, KAWS_NETWORK, NULL, "hhh");
    IS_WELL(HOME);
    w->f.now_ms += 5000;
    ASKS(w, KAWS_OK, NULL, "h");
    put_out(w, HOME);
    ASKS(w, KAWS_OK, NULL, "s");

    w->cfg.kms_key_id = "alias/app";
    memcpy(w->f.keys[2].arn, FAKE_ARN(HOSTS_HOME, FAKE_OWN, "3"),
           sizeof FAKE_ARN(HOSTS_HOME, FAKE_OWN, "3"));
    world_reopen(w);
    fake_forget_log(&w->f);
    ASKS(w, KAWS_OK, NULL, "h");
    ASKS(w, KAWS_OK, NULL, "h");
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-175] failover_regions is set,"
        " but the KMS key alias/app, which arn:aws:kms:eu-central-1:"), 1);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-175]"), 1);
    IS(HOME, .no_reply = "no route");
    ASKS(w, KAWS_NETWORK, NULL, "hhh");
}


/* The plaintext in the body is known as one, however the body was moved. */
static void
test_a_plaintext_is_not_echoed(void **state)
{
    static const char plain[] = "a plaintext that nobody may see";
    struct world *w = *state;
    const kaws_bytes view = kaws__buf_of(plain);
    char text[64];
    kaws__op op;
    int i;

    fake_base64(text, view);
    for (i = 0; i < HOSTS; i++)
        IS(i, .no_reply = text);
    kaws__err_clear(&w->err);
    op = kaws__op_begin(&w->ring->kms, &w->err);
    EXPECT(w, KAWS_NETWORK, "could not answer in its place",
           kaws__kms_seal(&op, NULL, view, NULL, &sealed_room));
    assert_null(strstr(w->err.text, "YSBwbGFpbnRl"));
    assert_int_equal(fake_logged(&w->f, -1, "YSBwbGFpbnRl"), 0);
    for (i = 0; i < HOSTS; i++)
        IS(i, .no_reply = "harmless");
    world_reopen(w);
    op = kaws__op_begin(&w->ring->kms, &w->err);
    EXPECT(w, KAWS_NETWORK, "harmless",
           kaws__kms_seal(&op, NULL, view, NULL, &sealed_room));
}


/* ---- how long it may take ----------------------------------------------- */

/* What each of the attempts may take, if none of the hosts ever answers. */
static void
test_time_is_shared(void **state)
{
    static const struct {
        int connect_ms, timeout_ms, out, sent[HOSTS];
    } rows[] = {
        { 0, 0, 0, { 1500, 1500, 7000 } },
        { 200, 10000, 0, { 700, 700, 8600 } },
        { 0, 3000, 0, { 1000, 1000, 1000 } },
        { 0, 4499, 0, { 1499, 1500, 1500 } },
        { 0, 2, 0, { 1, 1, 1 } },
        { 0, 10000, 1, { 10000, 0, 0 } }  /* no other region is well          */
    };
    struct world *w = *state;
    size_t i;
    int k;

    for (i = 0; i < COUNT(rows); i++) {
        world_reopen(w);
        kaws_use_timeouts(w->ring, rows[i].connect_ms, rows[i].timeout_ms);
        for (k = 0; k < HOSTS; k++) {
            if (rows[i].out && k != HOME)
                put_out(w, k);
            hosts.at[k].hangs = 1;
        }
        assert_int_equal(ask(w), KAWS_NETWORK);
        for (k = 0; k < HOSTS && rows[i].sent[k] != 0; k++)
            if (hosts.sent[k].timeout_ms != rows[i].sent[k] ||
                hosts.sent[k].connect_ms != (rows[i].connect_ms > 0
                                             ? rows[i].connect_ms : 1000))
                fail_msg("row %d, attempt %d: %d ms", (int)i, k,
                         hosts.sent[k].timeout_ms);
        assert_int_equal(hosts.count, k);
        for (k = 0; k < HOSTS; k++)
            IS_WELL(k);
    }
}


/* What comes after a region that hangs is sent at once; a probe may take a
 * second more than connecting, whoever else is out. */
static void
test_a_probe_is_brief(void **state)
{
    struct world *w = *state;
    int64_t start = w->f.now_ms;
    int i;

    hosts.at[HOME].hangs = 1;
    ASKS(w, KAWS_OK, NULL, "hs");
    assert_int_equal(w->f.now_ms - start, 1500);
    ASKS(w, KAWS_OK, NULL, "s");
    assert_int_equal(w->f.now_ms - start, 1500);
    assert_int_equal(hosts.sent[0].timeout_ms, 1500);
    for (i = 0; i < HOSTS; i++) {
        put_out(w, i);
        hosts.at[i].hangs = 1;
    }
    w->f.now_ms += 5000;
    start = w->f.now_ms;
    assert_int_equal(ask(w), KAWS_NETWORK);
    assert_int_equal(hosts.sent[0].timeout_ms, 2000);
    assert_int_equal(hosts.trail[0], 'h');
    for (i = 0; i < hosts.count; i++)
        assert_in_range(hosts.sent[i].timeout_ms, 1, 2000);
    assert_in_range(w->f.now_ms - start, 2000, 10000);
}


/* ---- what other regions refuse ------------------------------------------ */

/* It says nothing about the KMS key: the call goes on, and fails with home's
 * error, of which only the text tells more. No cache is emptied. */
static void
test_a_refusal_elsewhere_is_not_definite(void **state)
{
    static const struct { fake_script is; const char *trail, *words; } rows[] =
    {
        { { .error = "AccessDeniedException" }, "hhsl", "AccessDenied" },
        { { .error = "NotFoundException" }, "hhsl", "NotFound" },
        { { .error = "DisabledException" }, "hhsl", "Disabled" },
        { { .error = "KMSInvalidStateException" }, "hhsl", "InvalidState" },
        { { .error = "ValidationException" }, "hhsl", "Validation" },
        { { .error = "InvalidCiphertextException" }, "hhsl", "another req" },
        { { .error = "OptInRequired" }, "hhsl", "enable the region" },
        { { .error = "UnrecognizedClientException" }, "hhsl",
          "Unrecognized" },
        { { .error = "LimitExceededException" }, "hhsl", "LimitExceeded" },
        { { .error = "ThrottlingException" }, "hhsl", "Throttling" },
        { { .http = 200, .body = "<html>" }, "hhsl", "makes no sense" },
        { { .http = 200, .cut = 40 }, "hhsl", "makes no sense" },
        { { .http = 302, .body = "" }, "hhsl", "no error type" },
        { { .http = 500, .body = "" }, "hhsl", "HTTP 500" },
        { { .no_reply = "refused there" }, "hhsl", "refused there" }
    };
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        world_case = rows[i].words;
        world_reopen(w);
        IS(HOME, .no_reply = "no route");
        hosts.at[SHORT].is = rows[i].is;
        ASKS(w, KAWS_OK, NULL, rows[i].trail);
        IS_WELL(HOME);
        world_reopen(w);
        IS(HOME, .no_reply = "no route");
        hosts.at[LONG].is = rows[i].is;
        w->cfg.max_attempts = 3;
        world_reopen(w);
        ASKS(w, KAWS_NETWORK, rows[i].words, rows[i].trail);
        assert_non_null(strstr(w->err.text, "cannot reach AWS KMS at kms.eu-"
                               "central-1.amazonaws.com"));
        assert_non_null(strstr(w->err.text, "no route"));
        assert_non_null(strstr(w->err.text, "; and ap-northeast-1 could not "
                               "answer in its place: "));
        assert_non_null(strstr(w->err.text, " (4 attempts)"));
        assert_int_equal(w->err.http, 0);
        assert_string_equal(w->err.aws, "");
        assert_string_equal(w->err.request_id, "");
        assert_int_equal(failovers(w), 0);
        IS_WELL(HOME);
        IS_WELL(SHORT);
        IS_WELL(LONG);
        w->cfg.max_attempts = 0;
    }
    world_case = "";
}


/* What a region other than home denies empties no cache; what home denies does.
 */
static void
test_kept_keys(void **state)
{
    struct world *w = *state;
    kaws_key key;
    int home;

    w->cfg.data_file = w->f.data;
    for (home = 0; home < 2; home++) {
        world_reopen(w);
        hosts_no_check(w);                /* no thread is to run              */
        kaws_use_cache(w->ring, 60);
        if (!home)
            EXPECT(w, KAWS_OK, NULL, kaws_generate(
                w->ring, name_of("a", NULL), "AES", 16, &w->err));
        EXPECT(w, KAWS_OK, NULL, kaws_fetch(w->ring, name_of("a", NULL), &key,
                                            &w->err));
        kaws_key_free(w->ring, &key);
        if (!home)
            put_out(w, HOME);
        IS(home ? HOME : SHORT, .error = "AccessDeniedException");
        ASKS(w, home ? KAWS_DENIED : KAWS_OK, NULL, home ? "h" : "sl");
        IS_WELL(HOME);
        IS_WELL(SHORT);
        hosts_forget();
        EXPECT(w, KAWS_OK, NULL, kaws_fetch(w->ring, name_of("a", NULL), &key,
                                            &w->err));
        kaws_key_free(w->ring, &key);
        assert_string_equal(hosts.trail, home ? "h" : "");
    }
}


/* A reply from another region must name the same KMS key there. */
static void
test_another_key_answers_elsewhere(void **state)
{
    static const struct { const char *to, *words; } rows[] = {
        { "arn:aws:kms:sa-east-1:" FAKE_OTHER ":key/" HOSTS_ID,
          "another account" },
        { FAKE_ARN("sa-east-1", FAKE_OWN, "1"), "not a multi-region key" },
        { HOSTS_ARN("sa-east-1") "0", "a different multi-region key" },
        { HOSTS_ARN(HOSTS_HOME), "in another region" },
        { HOSTS_ARN(HOSTS_LONG), "in another region" },
        { "arn:aws-cn:kms:cn-north-1:" FAKE_OWN ":key/" HOSTS_ID,
          "in another region" },
        { HOSTS_ID, "not the ARN of a KMS key" }
    };
    static const kaws_bytes any = { NULL, 0 };
    struct world *w = *state;
    uint8_t plain[16];
    size_t i, len;

    ASKS(w, KAWS_OK, NULL, "h");
    for (i = 0; i < 2 * COUNT(rows); i++) {
        kaws__op op;
        world_case = rows[i / 2].to;
        world_reopen(w);
        put_out(w, HOME);
        IS(SHORT, .from = HOSTS_ARN("sa-east-1"), .to = rows[i / 2].to);
        kaws__err_clear(&w->err);
        op = kaws__op_begin(&w->ring->kms, &w->err);
        len = sizeof plain;
        if (i % 2 == 0)
            EXPECT(w, KAWS_NETWORK, "KeyId is not the", ask(w));
        else
            EXPECT(w, KAWS_NETWORK, "KeyId is not the",
                   kaws__kms_open(&op, NULL, &sealed_room, any, plain, &len));
        if (strstr(w->err.text, rows[i / 2].words) == NULL ||
            strstr(w->err.text, "unreachable") == NULL ||
            strstr(w->err.text, "sa-east-1 could not answer in its place")
            == NULL)
            fail_msg("%s: %s", rows[i / 2].words, w->err.text);
        IS_WELL(SHORT);
        world_reopen(w);
        ASKS(w, KAWS_OK, NULL, "h");
    }
    world_case = "";
}


/* What another region opens to something else than expected says nothing of
 * the blob. */
static void
test_a_mismatch_elsewhere(void **state)
{
    const kaws_bytes expect = { NULL, 17 };
    struct world *w = *state;
    uint8_t plain[32];
    size_t len = sizeof plain;
    kaws__op op;

    ASKS(w, KAWS_OK, NULL, "h");
    op = kaws__op_begin(&w->ring->kms, &w->err);
    EXPECT(w, KAWS_MISMATCH, "16 bytes", kaws__kms_open(
        &op, NULL, &sealed_room, expect, plain, &len));
    kaws__err_clear(&w->err);
    put_out(w, HOME);
    kaws__err_clear(&w->err);
    len = sizeof plain;
    EXPECT(w, KAWS_NETWORK, "could not answer in its place: the blob opens to "
           "16 bytes", kaws__kms_open(&op, NULL, &sealed_room, expect, plain,
                                      &len));
    assert_int_equal(len, 0);
}


/* An error that is our own stays, wherever the call is; one of another region
 * becomes home's, once. */
static void
test_which_errors_become_home_s(void **state)
{
    struct world *w = *state;
    kaws__target target = { "", "sa-east-1" };
    kaws__op op = { .shared = &w->ring->kms, .err = &w->err };
    kaws__call c;
    int status, place, unsent, own, home, once;

    for (status = KAWS_OK; status <= KAWS_STATUS_COUNT - 1; status++)
        for (place = 0; place < 2; place++)
            for (unsent = 0; unsent < 2; unsent++)
                for (home = 0; home < 2; home++)
                    for (once = 0; once < 2; once++) {
            memset(&c, 0, sizeof c);
            c.op = &op;
            c.place = place;
            c.target = &target;
            c.unsent = unsent;
            c.settled = once;
            c.cures = KAWS__SLOWER | KAWS__RENEW;
            c.first_cures = KAWS__LATER;
            if (home)
                (void)kaws__err_set(&c.first, KAWS_THROTTLED, "home throttles");
            kaws__err_clear(&w->err);
            if (status != KAWS_OK)
                (void)kaws__err_set(&w->err, (kaws_status)status, "away");
            own = status == KAWS_OK || status == KAWS_CANCELLED ||
                  status == KAWS_MEMORY || status == KAWS_CONFIG ||
                  (unsent && status == KAWS_CREDENTIALS);
            kaws__route_settle(&c);
            if (place == 0 || !home || own || once) {
                assert_int_equal(w->err.status, status);
                assert_string_equal(w->err.text, status != KAWS_OK ? "away"
                                                                   : "");
                assert_int_equal(c.cures, KAWS__SLOWER | KAWS__RENEW);
            } else {
                assert_int_equal(w->err.status, KAWS_THROTTLED);
                assert_string_equal(w->err.text, "home throttles; and "
                                    "sa-east-1 could not answer in its place: "
                                    "away");
                assert_int_equal(c.cures, KAWS__LATER | KAWS__SLOWER);
                assert_int_equal(c.settled, 1);
            }
        }
}


/* Home is asked at last, since no other region answers, and refuses: that is
 * definite. */
static void
test_home_refuses_at_last(void **state)
{
    struct world *w = *state;

    put_out(w, HOME);
    w->f.now_ms += 1000;
    IS(SHORT, .no_reply = "no route");
    IS(LONG, .no_reply = "no route");
    IS(HOME, .error = "AccessDeniedException");
    ASKS(w, KAWS_DENIED, "AccessDenied", "sslh");
    assert_null(strstr(w->err.text, "in its place"));
}


static int sly;                           /* what happens at the n-th look    */


/* While the breaker is asked about home, another thread finds that it is out,
 * or well again. */
static int64_t
sly_ticks(void *ctx)
{
    struct fake *f = ctx;
    kaws__host *h = kaws__breaker.hosts, *last = h;
    int i;

    for (i = 0; i < KAWS__BREAKER_HOSTS; i++)
        last = h[i].used > last->used ? &h[i] : last;
    if (sly > 0 && --sly == 0) {
        last->pause_ms = KAWS__BREAKER_LEAST;
        last->since_ms = last->begun_ms = last->ended_ms = f->now_ms;
        last->status = KAWS_NETWORK;
    }
    return fake_ticks_ms(ctx);
}


/* Home goes out right after we saw that it was well: a refusal elsewhere is not
 * definite then, either. */
static void
test_home_goes_out_meanwhile(void **state)
{
    struct world *w = *state;

    w->cfg.hooks.ticks_ms = sly_ticks;
    world_reopen(w);
    ASKS(w, KAWS_OK, NULL, "h");
    IS(SHORT, .error = "AccessDeniedException");
    IS(LONG, .error = "AccessDeniedException");
    sly = 2;                              /* the first is the operation's     */
    ASKS(w, KAWS_NETWORK, "could not answer in its place", "slsl");
    assert_int_equal(sly, 0);
}


static void
home_is_well(struct fake *f, const char *action)
{
    int i;

    (void)f;
    (void)action;
    for (i = 0; i < KAWS__BREAKER_HOSTS; i++)
        kaws__breaker.hosts[i].pause_ms = 0;
}


/* Home comes back while another region answers: nothing was throttled. */
static void
test_home_comes_back_meanwhile(void **state)
{
    struct world *w = *state;

    put_out(w, HOME);
    w->f.on_send = home_is_well;
    ASKS(w, KAWS_OK, NULL, "s");
    w->f.on_send = NULL;
    assert_int_equal(fake_logged(&w->f, -1, "KAWS-17"), 0);
    assert_string_equal(region_in_use(w), HOSTS_HOME);
    IS(HOME, .error = "KeyUnavailableException", .http = 500);
    (void)ask(w);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-172] AWS KMS in eu-central-1 "
        "does not answer some requests, and sa-east-1 answers those in its "
        "place (at most one such line an hour): AWS KMS at "), 1);
}


/* ---- rounds ------------------------------------------------------------- */

/* A round that nobody answered is followed by a pause and another, for as long
 * as the time lasts if home throttles. */
static void
test_the_round_is_over(void **state)
{
    struct world *w = *state;
    int i;

    w->cfg.timeout_ms = 3500;
    world_reopen(w);
    w->f.random_byte = 0xff;
    IS(HOME, .error = "Throttling");
    IS(SHORT, .error = "AccessDenied");
    IS(LONG, .error = "NotFound");
    w->f.sleeps = 0;
    ASKS(w, KAWS_THROTTLED, "ap-northeast-1 could not answer in its place",
         "hslhslhslhsl");
    assert_int_equal(w->f.sleeps, 3);
    for (i = 0; i < 3; i++)
        assert_int_equal(w->f.slept[i], 1000);
    assert_string_equal(w->err.aws, "Throttling");
    IS_WELL(LONG);
    ASKS(w, KAWS_OK, NULL, "hsl");
}


static void
come_back(struct fake *f, int ms)
{
    (void)f;
    (void)ms;
    IS_WELL(HOME);
}


static void
go_out(struct fake *f, int ms)
{
    (void)f;
    (void)ms;
    IS(HOME, .no_reply = "no route");
}


/* Nothing of a round that is over is told in the next. */
static void
test_a_round_knows_nothing_of_the_last(void **state)
{
    struct world *w = *state;

    w->f.random_byte = 0xff;
    IS(HOME, .error = "Throttling");
    IS(SHORT, .error = "AccessDenied");
    IS(LONG, .error = "NotFound");
    w->f.on_sleep = come_back;
    ASKS(w, KAWS_OK, NULL, "hslh");
    assert_int_equal(failovers(w), 0);
    IS(HOME, .error = "Throttling");
    w->f.on_sleep = go_out;
    ASKS(w, KAWS_NETWORK, "no route; and ap-northeast-1 could", "hslhsl");
    assert_null(strstr(w->err.text, "Throttling"));
    assert_string_equal(w->err.aws, "");
    IS(HOME, .error = "AccessDenied");    /* is out, and not due: not asked   */
    ASKS(w, KAWS_NETWORK, "NotFound", "slsl");
}


/* max_attempts bounds the tries at home, and whether there is another round;
 * a round ends. */
static void
test_max_attempts(void **state)
{
    static const char *const trails[] = { "hhsl", "hsl", "hhsl", "hhsl",
                                          "hhssl", "hhssl", "hhssll" };
    struct world *w = *state;
    int max, i;

    for (max = 0; max < (int)COUNT(trails); max++) {
        w->cfg.max_attempts = max;
        world_reopen(w);
        for (i = 0; i < HOSTS; i++)
            IS(i, .no_reply = "no route");
        ASKS(w, KAWS_NETWORK, "attempts)", trails[max]);
        for (i = 0; i < HOSTS; i++)
            IS_WELL(i);
    }
}


/* Whoever ran out of time is late. */
static void
test_late(void **state)
{
    const kaws_bytes made = { NULL, 16 };
    struct world *w = *state;
    kaws__op op;

    put_out(w, SHORT);
    put_out(w, LONG);
    hosts.at[HOME].hangs = 1;
    kaws__err_clear(&w->err);
    op = kaws__op_begin(&w->ring->kms, &w->err);
    EXPECT(w, KAWS_NETWORK, "timed out", kaws__kms_seal(&op, NULL, made, NULL,
                                                        &sealed_room));
    assert_true(op.late);
    world_reopen(w);
    IS_WELL(HOME);
    IS(HOME, .error = "AccessDenied");
    op = kaws__op_begin(&w->ring->kms, &w->err);
    kaws__err_clear(&w->err);
    EXPECT(w, KAWS_DENIED, NULL, kaws__kms_seal(&op, NULL, made, NULL,
                                                &sealed_room));
    assert_false(op.late);
}


/* ---- patience, and cancelling ------------------------------------------- */

static struct { int asked, until_sleeps; kaws_error why; } waiting;


static int
be_patient(void *ctx, const kaws_error *err)
{
    (void)ctx;
    waiting.asked++;
    waiting.why = *err;
    return 10000;
}


static void
come_back_later(struct fake *f, int ms)
{
    (void)ms;
    if (f->sleeps >= waiting.until_sleeps)
        IS_WELL(HOME);
}


/* A start waits for home if no region answers, be the others out or without a
 * replica; the hook hears that home does not answer. A probe has no patience.
 */
static void
test_patience(void **state)
{
    static const fake_script others[] = { { .no_reply = "no route" },
                                          { .error = "AccessDenied" } };
    struct world *w = *state;
    size_t i;

    w->cfg.hooks.patience_ms = be_patient;
    for (i = 0; i < COUNT(others); i++) {
        world_reopen(w);
        memset(&waiting, 0, sizeof waiting);
        waiting.until_sleeps = 20;
        w->f.sleeps = 0;
        w->f.random_byte = 0xff;
        w->f.on_sleep = come_back_later;
        IS(HOME, .no_reply = "home has no route");
        hosts.at[SHORT].is = hosts.at[LONG].is = others[i];
        EXPECT(w, KAWS_OK, NULL, ask(w));
        assert_in_range(w->f.sleeps, 20, 80);
        assert_int_equal(hosts.trail[(hosts.count - 1) % 127], 'h');
        assert_true(waiting.asked > 0);
        assert_int_equal(waiting.why.status, KAWS_NETWORK);
        assert_non_null(strstr(waiting.why.text,
                               "AWS KMS at kms.eu-central-1.amazonaws.com"));
        w->f.on_sleep = NULL;
        IS_WELL(SHORT);
        IS_WELL(LONG);
    }
    waiting.asked = 0;
    put_out(w, HOME);
    put_out(w, SHORT);
    change = only_short;
    ASKS(w, KAWS_NETWORK, "unreachable", "");
    assert_null(strstr(w->err.text, "in its place"));
    assert_int_equal(waiting.asked, 0);
}


static struct { int at, asked; } canceller;


static int
cancelled(void *ctx)
{
    (void)ctx;
    return ++canceller.asked >= canceller.at;
}


/* Wherever it is cancelled, the caller hears just that. */
static void
test_cancelled(void **state)
{
    struct world *w = *state;
    int at, seen = 0;

    w->cfg.hooks.cancelled = cancelled;
    for (at = 1; at < 40; at++) {
        canceller.at = INT_MAX;
        world_reopen(w);
        IS(HOME, .no_reply = "no route");
        IS(SHORT, .error = "AccessDenied");
        canceller.at = at;
        canceller.asked = 0;
        if (ask(w) == KAWS_OK)
            break;
        EXPECT(w, KAWS_CANCELLED, "cancelled", w->err.status);
        assert_null(strstr(w->err.text, "in its place"));
        seen |= 1 << hosts.count;
        assert_int_equal(failovers(w), 0);
    }
    assert_int_equal(seen, 1 | 2 | 4 | 8);        /* before each request      */
    assert_string_equal(hosts.trail, "hhsl");
    hosts.asks_cancel = 1;                /* while it is under way elsewhere  */
    canceller.at = INT_MAX;
    world_reopen(w);
    put_out(w, HOME);
    canceller.asked = 0;
    canceller.at = 2;
    ASKS(w, KAWS_CANCELLED, "waited for AWS KMS", "s");
    canceller.at = INT_MAX;
}


/* ---- home's own errands ------------------------------------------------- */

static void
at_home(kaws__op *op)
{
    op->at_home = 1;
}


static void
test_what_only_home_does(void **state)
{
    struct world *w = *state;

    change = at_home;
    IS(HOME, .no_reply = "no route");
    ASKS(w, KAWS_NETWORK, "; only the KMS key's own region, eu-central-1, does "
         "this, so failover_regions cannot help", "hhh");
    ASKS(w, KAWS_NETWORK, "; only the KMS key's", "");
    w->f.now_ms += 5000;
    w->cfg.max_attempts = 1;
    world_reopen(w);
    IS(HOME, .error = "Throttling");
    ASKS(w, KAWS_THROTTLED, "; only the KMS key's", "h");
    IS(HOME, .error = "AccessDenied");
    ASKS(w, KAWS_DENIED, "AccessDenied", "h");
    assert_null(strstr(w->err.text, "only the"));
    change = only_home;                   /* a probe                          */
    IS(HOME, .error = "Throttling");
    ASKS(w, KAWS_THROTTLED, NULL, "h");
    assert_null(strstr(w->err.text, "only the"));
    change = at_home;
    w->cfg.failover_regions = NULL;
    world_reopen(w);
    ASKS(w, KAWS_THROTTLED, NULL, "h");
    assert_null(strstr(w->err.text, "only the"));
    assert_int_equal(w->ring->kms.errand.what, 0);
}


/* A call for one place of the route goes nowhere else, and its error is that
 * place's own. */
static void
test_one_place_alone(void **state)
{
    struct world *w = *state;

    change = only_long;
    ASKS(w, KAWS_OK, NULL, "l");
    assert_string_equal(sealed_room.kms_key_arn, HOSTS_ARN(HOSTS_HOME));
    IS(LONG, .error = "AccessDenied");
    ASKS(w, KAWS_DENIED, "AccessDenied", "l");
    assert_string_equal(w->err.aws, "AccessDenied");
    IS(LONG, .no_reply = "gone");
    ASKS(w, KAWS_NETWORK, "gone", "ll");
    ASKS(w, KAWS_NETWORK, "kms.ap-northeast-1.amazonaws.com has been "
         "unreachable", "");
    assert_null(strstr(w->err.text, "in its place"));
    assert_int_equal(w->ring->kms.errand.what, 0);
    assert_int_equal(failovers(w), 0);
    change = NULL;
    ASKS(w, KAWS_OK, NULL, "h");          /* nothing of it stays              */
    IS_WELL(LONG);
    w->f.now_ms += 5000;
    change = only_long;
    ASKS(w, KAWS_OK, NULL, "l");
}


/* ---- what the log and the status tell ----------------------------------- */

static void
test_away_and_home_again(void **state)
{
    struct world *w = *state;
    int i;

    ASKS(w, KAWS_OK, NULL, "h");
    assert_string_equal(region_in_use(w), HOSTS_HOME);
    fake_forget_log(&w->f);
    IS(HOME, .no_reply = "no route");
    for (i = 0; i < 5; i++) {
        ASKS(w, KAWS_OK, NULL, i == 0 ? "hhs" : "s");
        w->f.now_ms += 1000;
    }
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-170] AWS KMS in sa-east-1 "
        "answers in place of eu-central-1, which does not answer: cannot reach "
        "AWS KMS at kms.eu-central-1.amazonaws.com"), 1);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-170]"), 1);
    assert_int_equal(fake_logged(&w->f, 1, "go to other regions, or"), 1);
    assert_int_equal(failovers(w), 5);
    assert_string_equal(region_in_use(w), HOSTS_SHORT);
    IS_WELL(HOME);
    put_well(w, HOME);
    assert_string_equal(region_in_use(w), HOSTS_SHORT);   /* no call yet      */
    ASKS(w, KAWS_OK, NULL, "h");
    assert_int_equal(fake_logged(&w->f, 2, "[KAWS-171] AWS KMS in eu-central-1 "
        "answers itself again; for 10 s another region did, 5 times"), 1);
    assert_string_equal(region_in_use(w), HOSTS_HOME);
    ASKS(w, KAWS_OK, NULL, "h");
    assert_int_equal(fake_logged(&w->f, 2, "[KAWS-171]"), 1);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-172]"), 0);
}


/* What only home does tells of home as well as any other call. But it has no
 * route, so it makes no check due. */
static void
test_home_is_back_for_what_only_home_does(void **state)
{
    struct world *w = *state;

    EXPECT(w, KAWS_OK, NULL, kaws_use(w->ring, HOSTS_ARN(HOSTS_HOME), NULL,
                                      &w->err));
    assert_int_equal(w->ring->kms.errand.what, 0);
    fake_forget_log(&w->f);
    put_out(w, HOME);
    ASKS(w, KAWS_OK, NULL, "s");
    assert_string_equal(region_in_use(w), HOSTS_SHORT);
    w->f.now_ms += 5000;
    EXPECT(w, KAWS_OK, NULL, kaws_use(w->ring, HOSTS_ARN(HOSTS_HOME), NULL,
                                      &w->err));
    assert_string_equal(region_in_use(w), HOSTS_HOME);
    assert_int_equal(fake_logged(&w->f, 2, "[KAWS-171] AWS KMS in eu-central-1 "
        "answers itself again; for 5 s another region did, 1 time"), 1);
    assert_int_equal(w->ring->kms.checked[0].ms, 0);
}


/* A home that comes and goes gets a line in ten seconds. */
static void
test_lines_are_limited(void **state)
{
    struct world *w = *state;
    int i;

    ASKS(w, KAWS_OK, NULL, "h");
    fake_forget_log(&w->f);
    put_out(w, HOME);
    ASKS(w, KAWS_OK, NULL, "s");          /* told                             */
    put_out(w, SHORT);
    ASKS(w, KAWS_OK, NULL, "l");          /* not told                         */
    assert_string_equal(region_in_use(w), HOSTS_LONG);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-170]"), 1);
    for (i = 0; i < 2; i++) {
        change = only[i];
        w->f.now_ms += 1000;
        EXPECT(w, KAWS_OK, NULL, ask(w));
        change = NULL;
    }
    ASKS(w, KAWS_OK, NULL, "h");          /* told, since going away was       */
    assert_int_equal(fake_logged(&w->f, 2, "[KAWS-171] AWS KMS in eu-central-1 "
        "answers itself again; for 2 s another region did, 2 times"), 1);
    put_out(w, HOME);
    ASKS(w, KAWS_OK, NULL, "s");          /* not told, 2 s after the first    */
    w->f.now_ms += 300;
    change = only_home;
    EXPECT(w, KAWS_OK, NULL, ask(w));
    change = NULL;
    ASKS(w, KAWS_OK, NULL, "h");          /* nor this                         */
    assert_int_equal(fake_logged(&w->f, 2, "[KAWS-171]"), 1);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-170]"), 1);
    w->f.now_ms += KAWS__ROUTE_QUIET - 2300 - 1;
    put_out(w, HOME);
    ASKS(w, KAWS_OK, NULL, "s");          /* 1 ms too early                   */
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-170]"), 1);
    w->f.now_ms += 300;
    change = only_home;
    EXPECT(w, KAWS_OK, NULL, ask(w));
    change = NULL;
    ASKS(w, KAWS_OK, NULL, "h");
    put_out(w, HOME);
    ASKS(w, KAWS_OK, NULL, "s");
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-170] AWS KMS in sa-east-1 "
        "answers in place of eu-central-1, which does not answer again (and 3 "
        "times since the last such line): "), 1);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-170]"), 2);
    put_out(w, SHORT);
    w->f.now_ms += KAWS__ROUTE_QUIET;
    put_out(w, SHORT);
    ASKS(w, KAWS_OK, NULL, "l");          /* the next region is told of, too  */
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-170] AWS KMS in "
        "ap-northeast-1 answers in place of eu-central-1, which does not "
        "answer: "), 1);
}


/* If going away got no line, there is one once it lasts; also if the clock was
 * set back. What a probe finds says that calls go elsewhere, too. */
static void
test_an_outage_that_lasts(void **state)
{
    struct world *w = *state;
    int i;

    for (i = 0; i < 2; i++) {
        world_reopen(w);
        fake_forget_log(&w->f);
        put_out(w, HOME);
        assert_int_equal(fake_logged(&w->f, 1, "calls go to other regions, or "
                                     "fail at once"), 1);
        ASKS(w, KAWS_OK, NULL, "s");
        put_well(w, HOME);
        ASKS(w, KAWS_OK, NULL, "h");
        put_out(w, HOME);
        ASKS(w, KAWS_OK, NULL, "s");      /* too early for a line             */
        assert_int_equal(fake_logged(&w->f, 1, "[KAWS-170]"), 1);
        w->f.now_ms += i == 0 ? KAWS__ROUTE_QUIET - 5000 : -60000;
        ASKS(w, KAWS_OK, NULL, "s");
        assert_int_equal(fake_logged(&w->f, 1, "[KAWS-170]"), 2);
        assert_int_equal(fake_logged(&w->f, 1, "which does not answer: "), 2);
        w->f.now_ms += KAWS__ROUTE_QUIET;
        ASKS(w, KAWS_OK, NULL, "s");
        assert_int_equal(fake_logged(&w->f, 1, "[KAWS-170]"), 2);
        put_well(w, HOME);
        ASKS(w, KAWS_OK, NULL, "h");
        assert_int_equal(fake_logged(&w->f, 2, "[KAWS-171]"), 2);
    }
}


/* Two KMS keys with different homes. If one home is away, the answers of the
 * other do not say that it is back. */
static void
test_two_homes(void **state)
{
    struct world *w = *state;
    kaws_sealed sealed = sealed_room;
    uint8_t plain[16];
    size_t len = sizeof plain;

    ASKS(w, KAWS_OK, NULL, "h");
    sealed = sealed_room;
    w->cfg.kms_key_id = HOSTS_ARN(HOSTS_LONG);
    world_reopen(w);
    hosts_no_check(w);
    fake_forget_log(&w->f);
    IS(HOME, .no_reply = "no route");
    EXPECT(w, KAWS_OK, NULL, kaws_kms_decrypt(w->ring, NULL, &sealed, plain,
                                              &len, &w->err));
    ASKS(w, KAWS_OK, NULL, "l");
    len = sizeof plain;
    EXPECT(w, KAWS_OK, NULL, kaws_kms_decrypt(w->ring, NULL, &sealed, plain,
                                              &len, &w->err));
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-170]"), 1);
    assert_int_equal(fake_logged(&w->f, 2, "[KAWS-171]"), 0);
    assert_string_equal(region_in_use(w), HOSTS_LONG);    /* the current key's*/
    assert_int_equal(failovers(w), 2);

    /* If nobody needs the first one's keys for an hour, it is forgotten. */
    IS(LONG, .no_reply = "no route");
    w->f.now_ms += KAWS__ROUTE_HOUR - 1;
    hosts_no_check(w);
    assert_int_equal(ask(w), KAWS_OK);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-170]"), 1);
    assert_string_equal(region_in_use(w), HOSTS_LONG);
    w->f.now_ms += 1;
    assert_int_equal(ask(w), KAWS_OK);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-170] AWS KMS in sa-east-1 "
                                 "answers in place of ap-northeast-1"), 1);
    assert_string_equal(region_in_use(w), HOSTS_SHORT);
}


/* What home throttles, others answer; but home is not away. A line an hour. */
static void
test_throttled_home(void **state)
{
    struct world *w = *state;
    int i;

    IS(HOME, .error = "ThrottlingException");
    for (i = 0; i < 3; i++)
        ASKS(w, KAWS_OK, NULL, "hs");
    assert_int_equal(failovers(w), 3);
    assert_string_equal(region_in_use(w), HOSTS_HOME);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-172] AWS KMS in eu-central-1 "
        "throttles requests, and sa-east-1 answers those in its place"), 1);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-17"), 1);
    w->f.now_ms += KAWS__ROUTE_HOUR - 1;
    ASKS(w, KAWS_OK, NULL, "hs");
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-172]"), 1);
    w->f.now_ms += 1;
    ASKS(w, KAWS_OK, NULL, "hs");
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-172]"), 2);
    assert_int_equal(w->ring->kms.errand.what, 0);
    put_out(w, HOME);                     /* and then it is away              */
    ASKS(w, KAWS_OK, NULL, "s");
    assert_string_equal(region_in_use(w), HOSTS_SHORT);
    put_well(w, HOME);
    IS(HOME, .error = "ThrottlingException");
    ASKS(w, KAWS_OK, NULL, "hs");
    assert_string_equal(region_in_use(w), HOSTS_SHORT);
    IS_WELL(HOME);
    ASKS(w, KAWS_OK, NULL, "h");
    assert_string_equal(region_in_use(w), HOSTS_HOME);
    assert_int_equal(fake_logged(&w->f, 2, "2 times"), 1);
    assert_int_equal(failovers(w), 7);
}


/* The regions are checked when home answers first, and once a day of use. */
static void
test_a_check_a_day(void **state)
{
    struct world *w = *state;
    kaws__shared *k = &w->ring->kms;
    kaws__errand got;

    change = only_home;                   /* not by what an errand sends      */
    ASKS(w, KAWS_OK, NULL, "h");
    assert_int_equal(k->errand.what, 0);
    change = at_home;
    ASKS(w, KAWS_OK, NULL, "h");
    assert_int_equal(k->errand.what, 0);
    change = NULL;
    ASKS(w, KAWS_OK, NULL, "h");
    got = kaws__route_errand(k, KAWS__ANY_DUE);
    assert_int_equal(got.what, KAWS__CHECK_DUE);
    assert_int_equal(got.only, 0);
    assert_string_equal(got.checked.key_id, HOSTS_ARN(HOSTS_HOME));
    assert_string_equal(got.checked.region, HOSTS_HOME);
    assert_int_equal(kaws__route_errand(k, KAWS__ANY_DUE).what, 0);
    w->f.now_ms += KAWS__ROUTE_DAY - 1;
    ASKS(w, KAWS_OK, NULL, "h");
    assert_int_equal(k->errand.what, 0);
    w->f.now_ms += 1;
    ASKS(w, KAWS_OK, NULL, "h");
    assert_int_equal(kaws__route_errand(k, KAWS__ANY_DUE).what,
                     KAWS__CHECK_DUE);
    ASKS(w, KAWS_OK, NULL, "h");
    assert_int_equal(k->errand.what, 0);
    w->f.now_ms -= 1000;                  /* a clock that is none             */
    ASKS(w, KAWS_OK, NULL, "h");
    assert_int_equal(kaws__route_errand(k, KAWS__ANY_DUE).what,
                     KAWS__CHECK_DUE);
    w->f.now_ms += KAWS__ROUTE_DAY;
    put_out(w, HOME);
    ASKS(w, KAWS_OK, NULL, "s");          /* while home is away, none is due  */
    assert_int_equal(k->errand.what, 0);
}


/* A later errand takes the place of one that nobody has taken, but a check
 * stays due. */
static void
test_errands_are_posted(void **state)
{
    struct world *w = *state;
    kaws__shared *k = &w->ring->kms;
    kaws__errand got;

    ASKS(w, KAWS_OK, NULL, "h");
    put_out(w, HOME);
    ASKS(w, KAWS_OK, NULL, "s");
    assert_int_equal(k->errand.what, KAWS__CHECK_DUE);    /* not due yet      */
    w->f.now_ms += 1000;
    ASKS(w, KAWS_OK, NULL, "s");
    assert_int_equal(k->errand.what, KAWS__CHECK_DUE | KAWS__PROBE_DUE);
    got = kaws__route_errand(k, KAWS__ANY_DUE);
    assert_int_equal(got.only, 0);
    put_out(w, HOME);
    put_out(w, SHORT);
    w->f.now_ms += 300;
    put_out(w, HOME);
    ASKS(w, KAWS_OK, NULL, "l");
    got = kaws__route_errand(k, KAWS__ANY_DUE);
    assert_int_equal(got.what, KAWS__PROBE_DUE);
    assert_int_equal(got.only, 1);        /* home's is not due                */
    assert_string_equal(got.probed.region, HOSTS_HOME);

    world_reopen(w);                      /* a place that a call passes by    */
    put_out(w, SHORT);
    w->f.now_ms += 1000;
    IS(HOME, .error = "Throttling");
    ASKS(w, KAWS_OK, NULL, "hl");
    got = kaws__route_errand(&w->ring->kms, KAWS__ANY_DUE);
    assert_int_equal(got.what, KAWS__PROBE_DUE);
    assert_int_equal(got.only, 1);
}


/* ---- credentials of another region -------------------------------------- */

/* A role's credentials come from AWS STS in the region that the call goes to:
 * so if STS fails at home, another region may do. */
static void
test_sts_of_another_region(void **state)
{
    struct world *w = *state;

    memcpy(w->f.token, "session", sizeof "session");
    w->cfg.role_arn = "arn:aws:iam::" FAKE_OWN ":role/app";
    hosts.at[HOME].no_sts = 1;
    world_reopen(w);
    ASKS(w, KAWS_OK, NULL, "s");          /* home's failure is remembered     */
    assert_int_equal(hosts.stss, 1);
    assert_string_equal(region_in_use(w), HOSTS_HOME);
    hosts.at[SHORT].no_sts = hosts.at[LONG].no_sts = 1;
    world_reopen(w);
    assert_int_not_equal(ask(w), KAWS_OK);
    assert_string_equal(hosts.trail, "");
    assert_int_equal(hosts.stss, 2 * 3);
    if (strstr(w->err.text, "no STS in eu-central-1") == NULL)
        fail_msg("%s", w->err.text);
    hosts.at[SHORT].no_sts = hosts.at[LONG].no_sts = 2;
    world_reopen(w);                      /* a refusal there is not definite  */
    assert_int_equal(ask(w), KAWS_NETWORK);
    if (strstr(w->err.text, "could not answer in its place") == NULL)
        fail_msg("%s", w->err.text);
    hosts_forget();
    assert_int_equal(ask(w), KAWS_NETWORK);
    assert_string_equal(hosts.asked_sts, "sl");       /* home is not, again   */
    hosts.at[SHORT].no_sts = 0;
    hosts.at[LONG].no_sts = 0;
    w->cfg.sts_endpoint = "https://sts.eu-central-1.x";
    world_reopen(w);
    assert_int_not_equal(ask(w), KAWS_OK);
    assert_int_equal(hosts.stss, 0);      /* it is the same for all regions   */
}


/* ---- the first fetch ---------------------------------------------------- */

/* A ring whose KMS key is an alias, and whose account nobody has told: while
 * home is away, the entry's id opens the blob elsewhere, and that tells. */
static void
test_the_first_decrypt_elsewhere(void **state)
{
    static const kaws_bytes any = { NULL, 0 };
    struct world *w = *state;
    uint8_t plain[16];
    size_t len = sizeof plain;
    kaws_sealed in;
    kaws__op op;

    ASKS(w, KAWS_OK, NULL, "h");
    in = sealed_room;
    w->cfg.kms_key_id = "alias/multi";
    world_reopen(w);
    put_out(w, HOME);
    assert_string_equal(w->ring->kms.trust.own, "");
    hosts_forget();
    kaws__err_clear(&w->err);
    op = kaws__op_begin(&w->ring->kms, &w->err);
    EXPECT(w, KAWS_OK, NULL, kaws__kms_open(&op, NULL, &in, any, plain, &len));
    assert_string_equal(hosts.trail, "s");
    assert_string_equal(hosts.sent[0].key, HOSTS_ID);
    assert_int_equal(len, 16);
    assert_string_equal(w->ring->kms.trust.own, "aws " FAKE_OWN);

    /* An entry of another account is not opened so. */
    world_reopen(w);
    put_out(w, HOME);
    (void)snprintf(in.kms_key_arn, sizeof in.kms_key_arn, "arn:aws:kms:%s:%s:"
                   "key/%s", HOSTS_HOME, FAKE_OTHER, HOSTS_ID);
    op = kaws__op_begin(&w->ring->kms, &w->err);
    kaws__err_clear(&w->err);
    EXPECT(w, KAWS_NETWORK, "KeyId is not the KMS key", kaws__kms_open(
        &op, NULL, &in, any, plain, &len));
    assert_string_equal(w->ring->kms.trust.own, "");
}


int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, world_end)
    const struct CMUnitTest tests[] = {
        TEST(test_the_first_one_that_is_well), TEST(test_when_a_call_goes_on),
        TEST(test_a_quick_failure_is_tried_twice), TEST(test_who_has_a_route),
        TEST(test_urls), TEST(test_each_region_is_asked_by_its_name),
        TEST(test_an_alias_that_is_not_known_yet),
        TEST(test_a_plaintext_is_not_echoed), TEST(test_time_is_shared),
        TEST(test_a_probe_is_brief),
        TEST(test_a_refusal_elsewhere_is_not_definite),
        TEST(test_kept_keys), TEST(test_another_key_answers_elsewhere),
        TEST(test_a_mismatch_elsewhere), TEST(test_which_errors_become_home_s),
        TEST(test_home_refuses_at_last), TEST(test_the_round_is_over),
        TEST(test_a_round_knows_nothing_of_the_last), TEST(test_max_attempts),
        TEST(test_late), TEST(test_patience), TEST(test_cancelled),
        TEST(test_what_only_home_does), TEST(test_one_place_alone),
        TEST(test_away_and_home_again),
        TEST(test_home_is_back_for_what_only_home_does),
        TEST(test_lines_are_limited), TEST(test_an_outage_that_lasts),
        TEST(test_two_homes), TEST(test_home_goes_out_meanwhile),
        TEST(test_home_comes_back_meanwhile),
        TEST(test_throttled_home), TEST(test_a_check_a_day),
        TEST(test_errands_are_posted), TEST(test_sts_of_another_region),
        TEST(test_the_first_decrypt_elsewhere)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
