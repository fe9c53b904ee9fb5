/* Room breaker: who is refused while a host does not answer, who may try, and
 * what shows that it is back. By calls of GenerateDataKey, on a clock that
 * moves only when it is told to. */

#include "lock_order.h"
#include "world.h"

#if !defined(_WIN32)
#include <signal.h>
#include <sys/wait.h>
#endif

#define AWAY(w, ...) SAY(w, .times = 9999, __VA_ARGS__)
#define QUIET(w) ((void)((w)->f.now_ms += KAWS__BREAKER_QUIET))
#define REFUSED(w) ASK(w, KAWS_NETWORK, "unreachable", 0)


static int64_t takes_ms;                  /* a request                        */


static void
take_time(struct fake *f, const char *action)
{
    (void)action;
    f->now_ms += takes_ms;
}


/* KMS is away: a call finds out, by all its tries. */
static void
go_away(struct world *w)
{
    w->f.on_sleep = NULL;
    SAY_NO_MORE(w);
    AWAY(w, .no_reply = "no route");
    ASK(w, KAWS_NETWORK, "no route", 3);
}


static kaws_status
ask(kaws *ring, kaws_error *err)
{
    kaws_sealed sealed;

    return kaws_kms_generate_data_key(ring, NULL, 16, NULL, &sealed, err);
}


static kaws *
open_another(struct world *w, const char *region)
{
    kaws_config cfg = w->cfg;
    kaws *ring;

    cfg.kms_key_id = "alias/app";
    cfg.region = region;
    assert_int_equal(kaws_open(&ring, &cfg, NULL), KAWS_OK);
    return ring;
}


/* ---- what makes a host unreachable ------------------------------------- */

static void
test_what_marks(void **state)
{
    static const char page[20000];        /* longer than any reply of KMS     */
    static const struct { fake_script script; kaws_status status; int out; }
    rows[] = {
        { { .no_reply = "Connection refused" }, KAWS_NETWORK, 1 },
        { { .lost = 1 }, KAWS_NETWORK, 1 },
        { { .http = 500, .body = "<html>" }, KAWS_SERVICE, 1 },
        { { .http = 503, .body = "" }, KAWS_SERVICE, 1 },
        { { .http = 599, .body = "" }, KAWS_SERVICE, 1 },
        { { .http = 500, .error = "KMSInternalException" }, KAWS_SERVICE, 1 },
        { { .http = 503, .error = "DependencyTimeoutException" },
          KAWS_SERVICE, 1 },
        { { .http = 500, .error = "KeyUnavailableException" },
          KAWS_SERVICE, 0 },              /* it is about one KMS key          */
        { { .http = 500, .error = "WhoKnowsException" }, KAWS_SERVICE, 1 },
        { { .error = "ThrottlingException" }, KAWS_THROTTLED, 0 },
        { { .http = 429, .body = "" }, KAWS_THROTTLED, 0 },
        { { .http = 503, .error = "SlowDown" }, KAWS_THROTTLED, 0 },
        { { .error = "AccessDeniedException" }, KAWS_DENIED, 0 },
        { { .http = 503, .error = "AccessDeniedException" }, KAWS_DENIED, 0 },
        { { .http = 403, .body = "<html>" }, KAWS_DENIED, 0 },
        { { .error = "LimitExceededException" }, KAWS_SERVICE, 0 },
        { { .http = 408, .body = "" }, KAWS_SERVICE, 0 },
        { { .http = 200, .body = "<html>" }, KAWS_REPLY, 0 },
        { { .http = 302, .body = "" }, KAWS_REPLY, 0 },
        { { .http = 503, .body = page, .body_len = sizeof page },
          KAWS_SERVICE, 1 }
    };
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        fake_script script = rows[i].script;
        script.times = 99;
        fake_push(&w->f, script);
        fake_forget_log(&w->f);
        EXPECT(w, rows[i].status, NULL, ask(w->ring, &w->err));
        SAY_NO_MORE(w);
        if (fake_logged(&w->f, 1, "[KAWS-160]") != rows[i].out)
            fail_msg("row %d: %s", (int)i, w->f.log);
        if (rows[i].out)
            ASK(w, rows[i].status, "unreachable", 0);
        QUIET(w);
        ASK(w, KAWS_OK, NULL, 1);
        assert_int_equal(fake_logged(&w->f, 2, "[KAWS-161]"), rows[i].out);
    }
}


/* Less than all tries of a call proves nothing. */
static void
test_one_try_of_three(void **state)
{
    struct world *w = *state;

    SAY(w, .no_reply = "no route", .times = 2);
    ASK(w, KAWS_OK, NULL, 3);
    SAY(w, .no_reply = "no route", .times = 2);
    SAY(w, .error = "ThrottlingException");
    ASK(w, KAWS_OK, NULL, 4);             /* it did reply                     */
    SAY(w, .error = "ThrottlingException");
    SAY(w, .no_reply = "no route", .times = 3);
    ASK(w, KAWS_NETWORK, NULL, 4);        /* and here, too                    */
    ASK(w, KAWS_OK, NULL, 1);
}


static int
out_of(struct world *w, int timeout_ms, int *due)
{
    kaws__pass pass = { .hooks = &w->ring->hooks, .host = "h",
                        .way = w->ring->kms.way.id, .connect_ms = 1000,
                        .timeout_ms = timeout_ms, .url = kaws__buf_digest(
                            kaws__url_origin("https://kms.us-east-1.amazonaws"
                                             ".com/")) };

    return kaws__breaker_out(&pass, "Decrypt", due, &w->err);
}


/* Whoever only asks whether a host is out sends no probe, and takes none from
 * others; he hears why it is out, and whether a probe could be sent. */
static void
test_is_it_out(void **state)
{
    struct world *w = *state;
    int due = 9, i;

    assert_int_equal(out_of(w, 10000, &due), 0);
    assert_int_equal(due, 0);
    go_away(w);
    for (i = 0; i < 2; i++) {
        assert_int_equal(out_of(w, 10000, &due), 1);
        assert_int_equal(due, 0);
        EXPECT(w, KAWS_NETWORK, "AWS KMS at h has been unreachable for 0 s (3 "
               "attempts), so Decrypt is not sent, and the next attempt is due "
               "in 1 s", w->err.status);
        w->f.now_ms += 249;
        assert_int_equal(out_of(w, 10000, &due), 1);
        assert_int_equal(due, 0);
        w->f.now_ms += 1;
        assert_int_equal(out_of(w, 10000, &due), 1);
        assert_int_equal(due, 1);
        assert_int_equal(out_of(w, 499, &due), 1);
        assert_int_equal(due, 0);         /* others may try before            */
        w->f.now_ms -= 250;
    }
    w->f.now_ms += 250;
    SAY_NO_MORE(w);
    kaws__err_clear(&w->err);
    ASK(w, KAWS_OK, NULL, 1);             /* so the probe was nobody's yet    */
    assert_int_equal(out_of(w, 10000, &due), 0);
    assert_int_equal(due, 0);
}


/* What the lines and the error say. */
static void
test_words(void **state)
{
    struct world *w = *state;

    go_away(w);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-160] AWS KMS at kms.us-east-1"
        ".amazonaws.com is unreachable: until it answers, calls fail at once"),
        1);
    assert_int_equal(fake_logged(&w->f, 1, "no route"), 1);
    w->f.now_ms += 100;
    REFUSED(w);
    assert_string_equal(w->err.text, "AWS KMS at kms.us-east-1.amazonaws.com "
        "has been unreachable for 0 s (3 attempts), so GenerateDataKeyWithout"
        "Plaintext is not sent, and the next attempt is due in 1 s; check the "
        "network and the health of AWS; the last error was: cannot reach AWS "
        "KMS at kms.us-east-1.amazonaws.com for GenerateDataKeyWithoutPlaintext"
        ": no route");
    assert_int_equal(w->err.http, 0);
    w->f.now_ms += 150;
    ASK(w, KAWS_NETWORK, "no route", 1);  /* one probe, no line               */
    w->f.now_ms += 499;
    REFUSED(w);
    w->f.now_ms += 60000;
    ASK(w, KAWS_NETWORK, "no route", 1);
    REFUSED(w);
    assert_non_null(strstr(w->err.text, "for 60 s (5 attempts)"));
    SAY_NO_MORE(w);
    LATER(w);
    ASK(w, KAWS_OK, NULL, 1);
    assert_int_equal(fake_logged(&w->f, 2, "[KAWS-161] AWS KMS at kms.us-east-1"
        ".amazonaws.com answers again after 65 s; 6 calls failed meanwhile"),
        1);
    assert_int_equal(fake_logged(&w->f, -1, "[KAWS-16"), 2);
    ASK(w, KAWS_OK, NULL, 1);
}


static int
say_cancelled(void *ctx)
{
    struct fake *f = ctx;

    return f->user != NULL;
}


/* What is cancelled, or never left this machine, says nothing of the host. */
static void
test_neither(void **state)
{
    struct world *w = *state;
    size_t before;

    w->cfg.hooks.cancelled = say_cancelled;
    world_reopen(w);
    AWAY(w, .no_reply = "gave up");
    w->f.user = w;
    ASK(w, KAWS_CANCELLED, NULL, 0);
    w->f.user = NULL;
    SAY_NO_MORE(w);
    before = w->f.allocs;
    ASK(w, KAWS_OK, NULL, 1);
    w->f.fail_from = before + 1;
    w->f.allocs = before;
    ASK(w, KAWS_MEMORY, NULL, 0);
    w->f.fail_from = 0;
    ASK(w, KAWS_OK, NULL, 1);
    assert_int_equal(fake_logged(&w->f, -1, "[KAWS-16"), 0);
}


/* ---- probes ------------------------------------------------------------ */

/* After 0.25 s, doubling to 5 s, one try each, for connect_timeout + 1 s at
 * most and never longer than its own time. */
static void
test_probes(void **state)
{
    static const int pauses[] = { 250, 500, 1000, 2000, 4000, 5000, 5000 };
    struct world *w = *state;
    size_t i;

    w->cfg.connect_timeout_ms = 700;
    world_reopen(w);
    go_away(w);
    for (i = 0; i < COUNT(pauses); i++) {
        w->f.now_ms += pauses[i] - 1;
        REFUSED(w);
        w->f.now_ms++;
        if (i == 3)
            kaws_use_timeouts(w->ring, 700, 1200);
        ASK(w, KAWS_NETWORK, "no route", 1);
        assert_int_equal(w->f.timeout_ms, i < 3 ? 1700 : 1200);
        assert_int_equal(w->f.sleeps, 2); /* those of go_away                 */
        REFUSED(w);
    }
    kaws_use_timeouts(w->ring, 0, 0);
    SAY_NO_MORE(w);
    LATER(w);
    ASK(w, KAWS_OK, NULL, 1);             /* a probe                          */
    ASK(w, KAWS_OK, NULL, 1);
    assert_int_equal(w->f.timeout_ms, 10000);
    go_away(w);                           /* the next outage begins afresh    */
    w->f.now_ms += 250;
    ASK(w, KAWS_NETWORK, NULL, 1);
}


/* A refusal is an answer: the probe opens the way; and so does throttling. */
static void
test_a_probe_that_is_refused(void **state)
{
    struct world *w = *state;

    go_away(w);
    SAY_NO_MORE(w);
    LATER(w);
    SAY(w, .error = "AccessDeniedException");
    ASK(w, KAWS_DENIED, NULL, 1);
    ASK(w, KAWS_OK, NULL, 1);
    QUIET(w);
    go_away(w);
    SAY_NO_MORE(w);
    LATER(w);
    SAY(w, .error = "ThrottlingException");
    ASK(w, KAWS_OK, NULL, 2);
    assert_int_equal(fake_logged(&w->f, 2, "[KAWS-161]"), 2);
}


/* A hanging host: the pauses are from probe to probe, so that nobody waits more
 * than 5 s for the one that succeeds; but 250 ms are left between two. */
static void
test_hanging(void **state)
{
    struct world *w = *state;
    int64_t start = w->f.now_ms, ended = start;
    int i, probes = 0;

    takes_ms = 10000;
    w->f.on_send = take_time;
    AWAY(w, .no_reply = "timeout");
    ASK(w, KAWS_NETWORK, "timeout", 1);
    assert_int_equal(w->f.now_ms - start, 10000);
    takes_ms = 2000;
    for (i = 0; i < 30000; i += 10) {
        w->f.requests = 0;
        EXPECT(w, KAWS_NETWORK, NULL, ask(w->ring, &w->err));
        assert_in_range(w->f.requests, 0, 1);
        if (w->f.requests > 0) {
            assert_true(w->f.now_ms - 2000 - ended >= 250);
            ended = w->f.now_ms;
        }
        probes += w->f.requests;
        w->f.now_ms += 10;
    }
    assert_in_range(probes, 9, 14);
    takes_ms = 0;                         /* it is back, right after a probe  */
    SAY_NO_MORE(w);
    for (i = 0; ask(w->ring, NULL) != KAWS_OK; i += 10)
        w->f.now_ms += 10;
    assert_in_range(i, 0, 5000);
}


/* When the next probe is due, at each moment of each pause. */
static void
test_when_it_is_due(void **state)
{
    static const int pauses[] = { 250, 500, 1000, 2000, 4000, 5000, 5000 };
    struct world *w = *state;
    char words[160];
    size_t i;
    int left;

    go_away(w);
    for (i = 0; i < COUNT(pauses); i++) {
        for (left = pauses[i]; left > 0; left -= 250) {
            (void)snprintf(words, sizeof words, "(%d attempts), so GenerateData"
                           "KeyWithoutPlaintext is not sent, and the next "
                           "attempt is due in %d s;", 3 + (int)i,
                           (left + 999) / 1000);
            ASK(w, KAWS_NETWORK, words, 0);
            w->f.now_ms += 250;
        }
        ASK(w, KAWS_NETWORK, "no route", 1);
    }
}


static void
come_and_go(struct world *w, int times)
{
    while (times-- > 0) {
        go_away(w);
        SAY_NO_MORE(w);
        w->f.now_ms += 250;
        ASK(w, KAWS_OK, NULL, 1);
    }
}


/* A host that comes and goes gets one pair of lines in 10 s, and the next one
 * says how many outages had none. One that lasts gets its line, late. */
static void
test_come_and_go(void **state)
{
    struct world *w = *state;
    kaws *west;
    int i;

    come_and_go(w, 1);
    come_and_go(w, 7);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-160]"), 1);
    assert_int_equal(fake_logged(&w->f, 2, "[KAWS-161]"), 1);
    QUIET(w);
    come_and_go(w, 1);
    assert_int_equal(fake_logged(&w->f, 1, "is unreachable again (and was 7 "
                     "times since the last such line): until"), 1);
    assert_int_equal(fake_logged(&w->f, 2, "[KAWS-161]"), 2);
    QUIET(w);
    come_and_go(w, 2);
    assert_int_equal(fake_logged(&w->f, 1, "is unreachable: until"), 2);
    assert_int_equal(fake_logged(&w->f, 2, "[KAWS-161]"), 3);

    go_away(w);                           /* the second since that line       */
    for (i = 0; i < 60; i++) {
        w->f.now_ms += 250;
        EXPECT(w, KAWS_NETWORK, NULL, ask(w->ring, &w->err));
    }
    assert_int_equal(fake_logged(&w->f, 1, "again (and was 1 time since"), 1);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-160]"), 4);
    SAY_NO_MORE(w);
    LATER(w);
    ASK(w, KAWS_OK, NULL, 1);
    assert_int_equal(fake_logged(&w->f, 2, "again after 20 s"), 1);
    assert_int_equal(fake_logged(&w->f, 2, "[KAWS-161]"), 4);

    fake_forget_log(&w->f);               /* each host has its own lines      */
    QUIET(w);
    come_and_go(w, 1);
    west = open_another(w, "us-west-2");
    AWAY(w, .no_reply = "no route");
    assert_int_equal(ask(west, NULL), KAWS_NETWORK);
    assert_int_equal(fake_logged(&w->f, 1, "us-west-2.amazonaws.com is "
                                 "unreachable: "), 1);
    w->f.now_ms -= 3600000;               /* a clock that jumps hides nothing */
    go_away(w);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-160]"), 3);
    kaws_close(west);                     /* which forgets the others, too    */
}


/* The success of one opens the way for all, at once and for good. */
static void
test_one_for_all(void **state)
{
    struct world *w = *state;
    kaws *rings[20];
    int i, k, seconds;

    for (i = 0; i < 20; i++)
        rings[i] = open_another(w, "us-east-1");
    for (seconds = 0; seconds < 3; seconds++) {
        go_away(w);
        w->f.now_ms += 249;
        w->f.requests = 0;
        for (i = 0; i < 20; i++)
            assert_int_equal(ask(rings[i], NULL), KAWS_NETWORK);
        assert_int_equal(w->f.requests, 0);
        w->f.now_ms++;
        SAY_NO_MORE(w);
        assert_int_equal(ask(rings[7 * seconds], NULL), KAWS_OK);
        for (k = 0; k < 2; k++)
            for (i = 0; i < 20; i++)
                assert_int_equal(ask(rings[i], NULL), KAWS_OK);
        assert_int_equal(w->f.requests, 41);
        assert_int_equal(w->f.timeout_ms, 10000);     /* none was a probe     */
    }
    for (i = 0; i < 20; i++)
        kaws_close(rings[i]);
}


/* ---- calls that overlap ------------------------------------------------ */

static struct {
    struct world *w;
    kaws      *ring;                      /* the other one                    */
    kaws_error err;
    kaws_status status;
    fake_script then;                     /* what becomes of the first call   */
    int        calls, requests, waits_ms; /* of the other; before them        */
} other;


/* While a request is under way, the other ring asks, too. */
static void
ask_meanwhile(struct fake *f, const char *action)
{
    int before = f->requests;

    (void)action;
    f->on_send = NULL;
    f->now_ms += other.waits_ms;
    while (other.calls-- > 0)
        other.status = ask(other.ring, &other.err);
    other.requests = f->requests - before;
    SAY_NO_MORE(other.w);
    if (other.then.times > 0)
        fake_push(f, other.then);
}


static void
overlap(struct world *w, int calls, int waits_ms, fake_script then)
{
    if (other.w != w)                     /* a test that failed left its ring */
        other.ring = NULL;
    other.w = w;
    other.calls = calls;
    other.waits_ms = waits_ms;
    other.then = then;
    if (other.ring == NULL)
        EXPECT(w, KAWS_OK, NULL, kaws_open(&other.ring, &w->cfg, &w->err));
    w->f.on_send = ask_meanwhile;
}


static void
close_other(void)
{
    kaws_close(other.ring);
    other.ring = NULL;
}


/* A call began, another one got its answer, and then the first one fails: that
 * is old news. A call that begins later may mark the host. */
static void
test_a_late_failure(void **state)
{
    struct world *w = *state;
    fake_script fails = { .no_reply = "reset", .times = 9999 };

    overlap(w, 1, 0, fails);
    ASK(w, KAWS_NETWORK, "reset", 4);
    assert_int_equal(other.status, KAWS_OK);
    assert_int_equal(fake_logged(&w->f, -1, "[KAWS-16"), 0);
    ASK(w, KAWS_NETWORK, "reset", 3);
    REFUSED(w);
    close_other();
}


/* And an answer outweighs a failure, though its call began before. */
static void
test_a_late_answer(void **state)
{
    struct world *w = *state;

    AWAY(w, .no_reply = "reset");
    overlap(w, 2, 0, (fake_script){ .times = 0 });
    ASK(w, KAWS_OK, NULL, 4);             /* the other's three, and its own   */
    assert_int_equal(other.status, KAWS_NETWORK);
    assert_non_null(strstr(other.err.text, "unreachable"));
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-160]"), 1);
    assert_int_equal(fake_logged(&w->f, 2, "[KAWS-161]"), 1);
    assert_int_equal(ask(other.ring, NULL), KAWS_OK);
    close_other();
}


/* What failed beside it changes no pause: only probes do. */
static void
test_failures_that_are_no_probes(void **state)
{
    struct world *w = *state;

    w->cfg.max_attempts = 1;
    world_reopen(w);
    AWAY(w, .no_reply = "reset");
    overlap(w, 1, 0, (fake_script){ .no_reply = "reset", .times = 9999 });
    ASK(w, KAWS_NETWORK, "reset", 2);
    REFUSED(w);
    assert_non_null(strstr(w->err.text, "(2 attempts)"));
    w->f.now_ms += 250;
    ASK(w, KAWS_NETWORK, "reset", 1);
    close_other();
}


/* While a probe is under way, all others are refused, for as long as it can
 * take. One that never comes back keeps nobody out for ever. */
static void
test_one_probe_at_a_time(void **state)
{
    struct world *w = *state;
    fake_script fails = { .no_reply = "no route", .times = 9999 };

    go_away(w);
    LATER(w);
    overlap(w, 5, 6999, fails);
    ASK(w, KAWS_NETWORK, "no route", 1);
    assert_int_equal(other.requests, 0);
    assert_non_null(strstr(other.err.text, ", and an attempt is under way; "));
    LATER(w);
    overlap(w, 5, 7000, fails);           /* 1 s + 1 s + 5 s                  */
    ASK(w, KAWS_NETWORK, "no route", 2);
    assert_int_equal(other.requests, 1);

    /* The second one found it well: the first one's failure is old news. */
    LATER(w);
    overlap(w, 1, 7000, fails);
    w->f.requests = 0;
    SAY_NO_MORE(w);
    EXPECT(w, KAWS_NETWORK, "no route", ask(w->ring, &w->err));
    assert_int_equal(other.status, KAWS_OK);
    SAY_NO_MORE(w);
    ASK(w, KAWS_OK, NULL, 1);
    close_other();
}


/* A call whose host is found unreachable by another one, between two of its
 * tries, ends there, and its own words do not become the reason. */
static void
test_between_two_tries(void **state)
{
    struct world *w = *state;

    AWAY(w, .http = 503, .body = "");
    overlap(w, 1, 0, (fake_script){ .no_reply = "reset", .times = 9999 });
    ASK(w, KAWS_SERVICE, "HTTP 503", 4);
    assert_non_null(strstr(w->err.text, "(3 attempts)"));
    assert_int_equal(w->err.http, 0);
    ASK(w, KAWS_SERVICE, "last error was: AWS KMS at kms.us-east-1.amazonaws."
        "com refused", 0);
    assert_null(strstr(strstr(w->err.text, "unreachable") + 1, "unreachable"));
    close_other();
}


static void
cancel_it(struct fake *f, const char *action)
{
    (void)action;
    f->user = f;
}


/* A probe that was cancelled leaves things as they were: the next call is one.
 */
static void
test_a_cancelled_probe(void **state)
{
    struct world *w = *state;

    w->cfg.hooks.cancelled = say_cancelled;
    world_reopen(w);
    go_away(w);
    w->f.now_ms += 250;
    w->f.on_send = cancel_it;
    ASK(w, KAWS_CANCELLED, NULL, 1);
    w->f.on_send = NULL;
    w->f.user = NULL;
    ASK(w, KAWS_NETWORK, "no route", 1);
    REFUSED(w);
    w->f.now_ms += 499;                   /* it counted as no probe           */
    REFUSED(w);
    w->f.now_ms++;
    ASK(w, KAWS_NETWORK, "no route", 1);
}


/* ---- whose failure proves something ------------------------------------ */

/* Who waits for less than half a second proves nothing by that; and his probes,
 * which prove nothing either, do not keep others from theirs. */
static void
test_brief(void **state)
{
    struct world *w = *state;
    int i;

    w->f.on_send = take_time;
    AWAY(w, .no_reply = "timeout");
    for (i = 0; i < 3; i++) {
        takes_ms = 499 - i;               /* a timer may end too early        */
        kaws_use_timeouts(w->ring, 1000, 499);
        ASK(w, KAWS_NETWORK, "timeout", 1);
    }
    assert_int_equal(fake_logged(&w->f, -1, "[KAWS-160]"), 0);
    takes_ms = 0;                         /* a refused connection is one      */
    ASK(w, KAWS_NETWORK, NULL, 3);
    REFUSED(w);

    overlap(w, 0, 0, (fake_script){ .times = 0 });
    w->f.on_send = take_time;
    w->f.now_ms += 250;                   /* others first                     */
    REFUSED(w);
    w->f.now_ms += 250;
    takes_ms = 499;
    ASK(w, KAWS_NETWORK, "timeout", 1);
    for (i = 0; i < 100; i++)
        REFUSED(w);
    takes_ms = 0;
    assert_int_equal(ask(other.ring, &other.err), KAWS_NETWORK);
    assert_null(strstr(other.err.text, "unreachable"));
    for (i = 0; i < 8; i++) {             /* and no longer than 250 ms after  */
        LATER(w);
        EXPECT(w, KAWS_NETWORK, NULL, ask(other.ring, &w->err));
    }
    w->f.now_ms += 5249;
    REFUSED(w);
    w->f.now_ms++;
    ASK(w, KAWS_NETWORK, "no", 1);
    close_other();

    world_reopen(w);
    takes_ms = 500;
    kaws_use_timeouts(w->ring, 1000, 500);
    ASK(w, KAWS_NETWORK, "timeout", 1);
    REFUSED(w);
}


/* A try that has little time because those before it took it. */
static void
test_the_rest_of_the_time(void **state)
{
    struct world *w = *state;

    kaws_use_timeouts(w->ring, 1000, 1000);
    w->f.random_byte = 0;
    w->f.on_send = take_time;
    AWAY(w, .no_reply = "reset");
    takes_ms = 450;                       /* twice that, then no time is left */
    ASK(w, KAWS_NETWORK, "reset", 2);
    REFUSED(w);
}


/* It answers after 3 s, if it is given them. */
static int
answer_slowly(void *ctx, const kaws_request *q, kaws_reply *r)
{
    struct fake *f = ctx;

    if (q->timeout_ms < 3000)
        fake_push(f, (fake_script){ .no_reply = "timeout" });
    f->now_ms += q->timeout_ms < 3000 ? q->timeout_ms : 3000;
    return fake_send(ctx, q, r);
}


/* A host that is always slower than a probe stays unreachable, until connecting
 * may take longer. */
static void
test_slow(void **state)
{
    struct world *w = *state;
    int i;

    w->cfg.hooks.send = answer_slowly;
    world_reopen(w);
    ASK(w, KAWS_OK, NULL, 1);
    go_away(w);
    SAY_NO_MORE(w);
    for (i = 0; i < 20; i++) {
        LATER(w);
        ASK(w, KAWS_NETWORK, "timeout", 1);
    }
    LATER(w);
    kaws_use_timeouts(w->ring, 2000, 10000);
    ASK(w, KAWS_OK, NULL, 1);
    kaws_use_timeouts(w->ring, 1000, 10000);
    ASK(w, KAWS_OK, NULL, 1);
}


/* Timeouts beyond all reason: a probe is still bounded by its own. */
static void
test_endless(void **state)
{
    struct world *w = *state;

    go_away(w);
    w->f.now_ms += 250;
    kaws_use_timeouts(w->ring, INT_MAX, 10000);
    ASK(w, KAWS_NETWORK, "no route", 1);
    assert_int_equal(w->f.timeout_ms, 10000);
    LATER(w);
    kaws_use_timeouts(w->ring, INT_MAX, INT_MAX);
    ASK(w, KAWS_NETWORK, "no route", 1);
    assert_true(w->f.timeout_ms > 1000000000);
    REFUSED(w);
}


/* ---- whose state it is ------------------------------------------------- */

/* Rings share what they know of a host, also if they are opened later; another
 * host is another matter. */
static void
test_rings_and_hosts(void **state)
{
    struct world *w = *state;
    kaws *early = open_another(w, "us-east-1"), *late, *west;
    kaws_error err;

    go_away(w);
    late = open_another(w, "us-east-1");
    west = open_another(w, "us-west-2");
    w->f.requests = 0;
    assert_int_equal(ask(early, &err), KAWS_NETWORK);
    assert_non_null(strstr(err.text, "unreachable"));
    assert_int_equal(ask(late, &err), KAWS_NETWORK);
    assert_int_equal(w->f.requests, 0);
    SAY_NO_MORE(w);
    assert_int_equal(ask(west, NULL), KAWS_OK);
    REFUSED(w);
    LATER(w);
    assert_int_equal(ask(late, NULL), KAWS_OK);
    w->f.requests = 0;
    assert_int_equal(ask(early, NULL), KAWS_OK);
    ASK(w, KAWS_OK, NULL, 1);
    kaws_close(early);
    kaws_close(late);
    kaws_close(west);
}


/* Who lets connecting take less than half a second may be the only one whom the
 * host does not answer in time. */
static void
test_brief_connects(void **state)
{
    struct world *w = *state;
    kaws *brief = open_another(w, "us-east-1");
    kaws *same = open_another(w, "us-east-1");

    w->f.on_send = take_time;
    takes_ms = 50;
    AWAY(w, .no_reply = "Connection timed out after 50 ms");
    kaws_use_timeouts(brief, 50, 10000);
    assert_int_equal(ask(brief, NULL), KAWS_NETWORK);
    w->f.requests = 0;
    assert_int_equal(ask(brief, NULL), KAWS_NETWORK);
    kaws_use_timeouts(same, 50, 10000);
    assert_int_equal(ask(same, NULL), KAWS_NETWORK);
    assert_int_equal(w->f.requests, 0);
    kaws_use_timeouts(same, 499, 10000);
    assert_int_equal(ask(same, NULL), KAWS_NETWORK);
    assert_int_equal(w->f.requests, 3);
    SAY_NO_MORE(w);
    ASK(w, KAWS_OK, NULL, 1);
    kaws_use_timeouts(brief, 500, 10000);
    assert_int_equal(ask(brief, NULL), KAWS_OK);
    kaws_close(brief);
    kaws_close(same);
}


/* A ring with hooks is closed while another one with the same hooks is open. */
static void
test_one_of_two_is_closed(void **state)
{
    struct world *w = *state;
    kaws *twin = open_another(w, "us-east-1");

    go_away(w);
    kaws_close(twin);
    REFUSED(w);
    kaws_close(open_another(w, "us-east-1"));
    REFUSED(w);
    SAY_NO_MORE(w);
    world_reopen(w);                      /* nobody was left                  */
    ASK(w, KAWS_OK, NULL, 1);
}


static int64_t
my_ticks(void *ctx)
{
    return fake_ticks_ms(ctx) + 77;
}


static uint64_t
way_of(const kaws_hooks *hooks, const char *ca_file, const char *proxy)
{
    kaws_config cfg = { .ca_file = ca_file, .proxy = proxy };

    return kaws__breaker_way(hooks, &cfg);
}


/* Who reaches a host in another way knows for himself; and when a ring with
 * hooks is closed, what they knew is forgotten, because the next ring with such
 * hooks may be in another world. */
static void
test_ways(void **state)
{
    struct world *w = *state;
    kaws_hooks built_in = { .ticks_ms = kaws__sys_ticks_ms }, mine = built_in;
    uint64_t plain = way_of(&built_in, NULL, NULL);
    kaws *one;

    mine.ctx = w;                         /* not asked by any hook            */
    assert_true(way_of(&mine, NULL, NULL) == plain);
    assert_true(way_of(&built_in, "ca", NULL) != plain);
    assert_true(way_of(&built_in, "ca", NULL) == way_of(&mine, "ca", NULL));
    assert_true(way_of(&built_in, NULL, "p") != plain);
    assert_true(way_of(&built_in, NULL, "p") == way_of(&mine, NULL, "p"));
    assert_true(way_of(&mine, NULL, "p") != way_of(&mine, NULL, "other"));
    assert_true(way_of(&mine, NULL, "x") != way_of(&mine, "x", NULL));
    mine.ticks_ms = my_ticks;             /* a clock does not check TLS       */
    assert_true(way_of(&mine, "ca", NULL) != way_of(&mine, "other ca", NULL));
    mine.ticks_ms = built_in.ticks_ms;
    mine.send = fake_send;
    assert_true(way_of(&mine, NULL, NULL) != plain);
    assert_true(way_of(&mine, NULL, NULL) !=
                way_of(&w->cfg.hooks, NULL, NULL));
    plain = way_of(&mine, NULL, NULL);
    mine.ctx = state;                     /* the same hook, of another world  */
    assert_true(way_of(&mine, NULL, NULL) != plain);

    go_away(w);
    w->cfg.hooks.ticks_ms = my_ticks;
    one = open_another(w, "us-east-1");
    w->f.requests = 0;
    assert_int_equal(ask(one, NULL), KAWS_NETWORK);
    assert_int_equal(w->f.requests, 3);
    kaws_close(one);
    REFUSED(w);
    w->cfg.hooks.ticks_ms = fake_ticks_ms;
    SAY_NO_MORE(w);
    world_reopen(w);
    ASK(w, KAWS_OK, NULL, 1);
}


/* More hosts than there is room for: the well one goes that was not used for
 * longest. One that is unreachable stays, while there are others. */
static void
test_many_hosts(void **state)
{
    struct world *w = *state;
    kaws__pass pass = { .hooks = &w->cfg.hooks, .host = "x", .way = 5,
                        .timeout_ms = 1000 };
    kaws_error err = { .status = KAWS_NETWORK };
    kaws__way five = { .id = 5 };
    unsigned i;

    for (i = 1; i <= 3; i++) {
        pass.url = i;
        pass.begun = 0;
        assert_int_equal(kaws__breaker_ask(&pass, "a", 0, &err), 0);
        kaws__breaker_end(&pass, 1, 1, &err);
    }
    for (i = 4; i < 100; i++) {
        pass.url = i;
        pass.begun = 0;
        assert_int_equal(kaws__breaker_ask(&pass, "a", 0, &err), 0);
        kaws__breaker_well(&pass);
        pass.url = 1 + i % 3;
        assert_true(kaws__breaker_ask(&pass, "a", 0, &err) > 0);
    }
    for (i = 100; i < 200; i++) {         /* all of them: no call is lost     */
        pass.url = i;
        pass.begun = 0;
        assert_int_equal(kaws__breaker_ask(&pass, "a", 0, &err), 0);
        err.status = KAWS_SERVICE;
        kaws__breaker_end(&pass, 1, 1, &err);
        assert_true(kaws__breaker_ask(&pass, "a", 0, &err) > 0);
        assert_int_equal(err.status, KAWS_SERVICE);
    }
    kaws__breaker_part(&five, &w->cfg.hooks);
    assert_int_equal(kaws__breaker_ask(&pass, "a", 0, &err), 0);
    kaws__breaker_part(&five, &w->cfg.hooks);
}


/* A clock that is set back or forth, though nobody should: a probe comes sooner
 * than it is due, and nobody is kept out. */
static void
test_jumps(void **state)
{
    static const int64_t jumps[] = { -3600000, 3600000, -1, -86400000 * 365ll,
                                     86400000 * 365ll };
    struct world *w = *state;
    fake_script fails = { .no_reply = "no route", .times = 9999 };
    size_t i;

    for (i = 0; i < COUNT(jumps); i++) {
        go_away(w);
        w->f.now_ms += jumps[i];
        ASK(w, KAWS_NETWORK, "no route", 1);
        REFUSED(w);
        assert_null(strstr(w->err.text, "for -"));
        SAY_NO_MORE(w);
        LATER(w);
        ASK(w, KAWS_OK, NULL, 1);
        assert_int_equal(fake_logged(&w->f, 2, "after -"), 0);

        go_away(w);                       /* and while a probe is under way   */
        LATER(w);
        overlap(w, 1, (int)(jumps[i] % 4000000), fails);
        EXPECT(w, KAWS_NETWORK, "no route", ask(w->ring, &w->err));
        LATER(w);
        ASK(w, KAWS_NETWORK, "no route", 1);
        SAY_NO_MORE(w);
        LATER(w);
        ASK(w, KAWS_OK, NULL, 1);
    }
    close_other();

    go_away(w);                           /* forth in a probe, and back       */
    LATER(w);
    overlap(w, 0, 3600000, fails);
    ASK(w, KAWS_NETWORK, "no route", 1);
    w->f.now_ms -= 3600000;
    ASK(w, KAWS_NETWORK, "no route", 1);
    close_other();

    SAY_NO_MORE(w);
    LATER(w);
    ASK(w, KAWS_OK, NULL, 1);
    go_away(w);                           /* back: there is still one probe   */
    w->f.now_ms -= 3600000;
    overlap(w, 5, 0, fails);
    ASK(w, KAWS_NETWORK, "no route", 1);
    assert_int_equal(other.requests, 0);
    close_other();
}


/* ---- patience ---------------------------------------------------------- */

static int64_t until_ms, back_ms;
static int asked;


static int
be_patient(void *ctx, const kaws_error *err)
{
    struct fake *f = ctx;

    assert_int_not_equal(err->text[0], '\0');
    asked++;
    return until_ms > f->now_ms ? (int)(until_ms - f->now_ms) : 0;
}


static void
come_back(struct fake *f, int ms)
{
    (void)ms;
    if (f->now_ms >= back_ms)
        memset(f->scripts, 0, sizeof f->scripts);
}


/* It accepts, and never answers. */
static int
hang(void *ctx, const kaws_request *q, kaws_reply *r)
{
    struct fake *f = ctx;

    f->now_ms += q->timeout_ms;
    return fake_send(ctx, q, r);
}


/* A server that starts while KMS hangs: all its fetches share one deadline, and
 * a thousand of them take no longer than one. */
static void
test_a_start_with_a_thousand_tables(void **state)
{
    struct world *w = *state;
    int64_t start;
    int i, failed = 0;

    w->cfg.hooks.patience_ms = be_patient;
    w->cfg.hooks.send = hang;
    world_reopen(w);
    start = w->f.now_ms;
    until_ms = start + 10000 + 30000;
    AWAY(w, .no_reply = "timeout");
    w->f.requests = 0;
    for (i = 0; i < 1001; i++) {
        failed += ask(w->ring, NULL) == KAWS_NETWORK;
        w->f.now_ms++;
        if (i == 0)
            assert_in_range(w->f.now_ms - start, 40000, 40501);
    }
    assert_int_equal(failed, 1001);
    assert_in_range(w->f.now_ms - start, 40000, 41502);
    assert_in_range(w->f.requests, 10, 16);
    assert_int_equal(w->f.timeout_ms, 500);       /* the last probe           */
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-160]"), 1);
}


/* While there is patience, a call that finds the host unreachable waits, asks
 * about once a second, and gets a time of its own again. */
static void
test_waiting(void **state)
{
    struct world *w = *state;
    int64_t start;
    int i;

    w->cfg.hooks.patience_ms = be_patient;
    world_reopen(w);
    until_ms = 0;
    go_away(w);
    for (i = 0; i < 8; i++) {             /* the pauses grow to 5 s           */
        LATER(w);
        ASK(w, KAWS_NETWORK, NULL, 1);
    }
    start = w->f.now_ms;
    until_ms = start + 30000;
    back_ms = start + 20000;
    w->f.on_sleep = come_back;
    w->f.requests = w->f.sleeps = 0;
    EXPECT(w, KAWS_OK, NULL, ask(w->ring, &w->err));
    assert_in_range(w->f.now_ms - start, 20000, 21100);
    assert_in_range(w->f.requests, 15, 25);
    for (i = 0; i < w->f.sleeps && i < FAKE_SLEEPS; i++)
        assert_in_range(w->f.slept[i], 0, 1000);
    assert_int_equal(fake_logged(&w->f, 2, "[KAWS-161]"), 1);
}


/* A call that waits begins again each time: it may have begun before an answer
 * came, but what it tries later counts. */
static void
test_a_patient_call_begins_again(void **state)
{
    struct world *w = *state;

    w->cfg.hooks.patience_ms = be_patient;
    world_reopen(w);
    until_ms = w->f.now_ms + 30000;
    overlap(w, 1, 0, (fake_script){ .no_reply = "reset", .times = 9999 });
    EXPECT(w, KAWS_NETWORK, NULL, ask(w->ring, &w->err));
    assert_int_equal(other.status, KAWS_OK);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-160]"), 1);
    close_other();
}


/* Another ring's answer ends the wait; cancelling does, at once. */
static void
answer_another(struct fake *f, int ms)
{
    (void)ms;
    f->on_sleep = NULL;
    memset(f->scripts, 0, sizeof f->scripts);
    kaws__breaker_well(&(kaws__pass){ .hooks = &f->hooks, .host = "",
        .way = other.ring->kms.way.id, .url = kaws__buf_digest(
            kaws__buf_of("https://kms.us-east-1.amazonaws.com")) });
}


static void
cancel_in_sleep(struct fake *f, int ms)
{
    (void)ms;
    f->user = f->sleeps == 1 ? f : NULL;
}


static void
test_the_wait_ends(void **state)
{
    struct world *w = *state;
    int64_t start;

    w->cfg.hooks.patience_ms = be_patient;
    w->cfg.hooks.cancelled = say_cancelled;
    world_reopen(w);
    until_ms = 0;
    overlap(w, 0, 0, (fake_script){ .times = 0 });
    w->f.on_send = NULL;
    go_away(w);
    until_ms = w->f.now_ms + 60000;
    start = w->f.now_ms;
    w->f.on_sleep = answer_another;
    ASK(w, KAWS_OK, NULL, 1);
    assert_in_range(w->f.now_ms - start, 1, 100);
    close_other();

    until_ms = 0;
    go_away(w);
    until_ms = w->f.now_ms + 60000;
    start = w->f.now_ms;
    w->f.sleeps = 0;
    w->f.on_sleep = cancel_in_sleep;
    ASK(w, KAWS_CANCELLED, "nothing was changed", 0);
    assert_int_equal(w->f.now_ms - start, 100);
    w->f.user = NULL;
}


/* ---- operations of several calls --------------------------------------- */

static void
test_operations(void **state)
{
    struct world *w = *state;
    kaws_bytes plain = { (const uint8_t *)"x", 1 };
    char name[16];
    int i;

    w->cfg.data_file = w->f.data;
    w->cfg.kms_key_id = "alias/app";
    world_reopen(w);
    for (i = 0; i < 40; i++) {
        (void)snprintf(name, sizeof name, "k%d", i);
        EXPECT(w, KAWS_OK, NULL, kaws_store(w->ring, name_of(name, NULL),
                                            "SECRET", plain, &w->err));
    }
    /* KMS goes between Encrypt and its proof: nothing is stored. */
    AWAY(w, .action = "Decrypt", .no_reply = "no route");
    w->f.requests = 0;
    EXPECT(w, KAWS_NETWORK, "no route", kaws_store(
        w->ring, name_of("new", NULL), "SECRET", plain, &w->err));
    assert_int_equal(w->f.requests, 4);
    EXPECT(w, KAWS_NETWORK, "unreachable", kaws_store(
        w->ring, name_of("new", NULL), "SECRET", plain, &w->err));
    assert_int_equal(w->f.requests, 4);
    SAY_NO_MORE(w);
    LATER(w);                             /* the first of both is the probe   */
    EXPECT(w, KAWS_OK, NULL, kaws_store(w->ring, name_of("new", NULL),
                                        "SECRET", plain, &w->err));

    /* It goes during a re-wrap of 16 at a time: each finds out for itself at
     * most. (Here the pauses take no time, so an answer from before may be read
     * after a host was found unreachable.) */
    QUIET(w);
    AWAY(w, .skip = 21, .no_reply = "no route");
    w->f.requests = 0;
    fake_forget_log(&w->f);
    EXPECT(w, KAWS_NETWORK, NULL, kaws_rewrap_all(w->ring, &w->err));
    assert_in_range(w->f.requests, 21 + 3, 21 + 3 * 16);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-160]"), 1);
    assert_in_range(fake_logged(&w->f, 2, "[KAWS-161]"), 0, 1);
    SAY_NO_MORE(w);
    LATER(w);
    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
}


/* ---- processes --------------------------------------------------------- */

#if !defined(_WIN32) && !defined(KEYRING_AWS_NO_THREADS)

static pthread_barrier_t held, forked;


static void *
hold_the_lock(void *arg)
{
    kaws__breaker_enter();
    pthread_barrier_wait(&held);
    pthread_barrier_wait(&forked);
    kaws__breaker_leave();
    return arg;
}


/* Many threads of the child at once find the lock that its parent's thread
 * held: one of them takes it over, and no two have it at a time. */
static void *
count_in_the_lock(void *arg)
{
    int i, *count = arg;

    for (i = 0; i < 20000; i++) {
        kaws__breaker_enter();
        ++*count;
        kaws__breaker_leave();
    }
    return NULL;
}


/* Another thread holds the lock when the process forks. The child knows of no
 * outage, and works with a ring of its own. */
static void
test_fork(void **state)
{
    struct world *w = *state;
    pthread_t thread, threads[8];
    int status, i, count = 0;
    kaws *mine;
    pid_t pid;

    go_away(w);
    assert_int_equal(pthread_barrier_init(&held, NULL, 2), 0);
    assert_int_equal(pthread_barrier_init(&forked, NULL, 2), 0);
    assert_int_equal(pthread_create(&thread, NULL, hold_the_lock, NULL), 0);
    pthread_barrier_wait(&held);
    if ((pid = fork()) == 0) {
        alarm(30);
        for (i = 0; i < 8; i++)
            if (pthread_create(&threads[i], NULL, count_in_the_lock, &count))
                _exit(2);
        for (i = 0; i < 8; i++)
            pthread_join(threads[i], NULL);
        if (count != 8 * 20000)
            _exit(3);
        SAY_NO_MORE(w);
        mine = open_another(w, "us-east-1");
        if (ask(mine, NULL) != KAWS_OK || mine->kms.way.next != NULL)
            _exit(4);                     /* nor of the parent's rings        */
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    pthread_barrier_wait(&forked);
    assert_int_equal(pthread_join(thread, NULL), 0);
    REFUSED(w);                           /* the parent knows what it knew    */
    LATER(w);
    if ((pid = fork()) == 0) {            /* while nobody holds it            */
        alarm(30);
        SAY_NO_MORE(w);
        _exit(ask(open_another(w, "us-east-1"), NULL) != KAWS_OK ||
              fake_logged(&w->f, -1, "[KAWS-161]") > 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

#endif


int
main(void)
{
#define BARE(name)                                                            \
    cmocka_unit_test_setup_teardown(name, world_begin_bare, world_end)
    const struct CMUnitTest tests[] = {
        BARE(test_what_marks), BARE(test_one_try_of_three),
        BARE(test_is_it_out), BARE(test_words),
        BARE(test_neither), BARE(test_probes),
        BARE(test_a_probe_that_is_refused), BARE(test_hanging),
        BARE(test_when_it_is_due), BARE(test_come_and_go),
        BARE(test_one_for_all),
        BARE(test_a_late_failure), BARE(test_a_late_answer),
        BARE(test_one_probe_at_a_time), BARE(test_a_cancelled_probe),
        BARE(test_failures_that_are_no_probes), BARE(test_between_two_tries),
        BARE(test_a_patient_call_begins_again),
        BARE(test_brief), BARE(test_slow), BARE(test_endless),
        BARE(test_brief_connects),
        BARE(test_one_of_two_is_closed), BARE(test_the_rest_of_the_time),
        BARE(test_rings_and_hosts), BARE(test_ways), BARE(test_many_hosts),
        BARE(test_jumps), BARE(test_a_start_with_a_thousand_tables),
        BARE(test_waiting), BARE(test_the_wait_ends), BARE(test_operations),
#if !defined(_WIN32) && !defined(KEYRING_AWS_NO_THREADS)
        BARE(test_fork),
#endif
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
