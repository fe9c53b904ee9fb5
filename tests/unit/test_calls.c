/* Room calls: what is sent, and what the caller is told; when a request is sent
 * again, and how long that may take. All tests call GenerateDataKey. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "world.h"

#include <ctype.h>

#define EAST2_ID "00000002-aaaa-bbbb-cccc-1234567890ab"


/* ---- where a request goes ---------------------------------------------- */

static char type[64], host[200];          /* headers of the last request      */


static int
watch(void *ctx, const kaws_request *q, kaws_reply *r)
{
    (void)snprintf(type, sizeof type, "%s", fake_header(q, "Content-Type: "));
    (void)snprintf(host, sizeof host, "%s", fake_header(q, "Host: "));
    return fake_send(ctx, q, r);
}


/* An id is looked up in `region`, an ARN in its own. An endpoint changes the
 * host, never the region that is signed for. */
static void
test_where_it_goes(void **state)
{
    static const struct {
        const char *id, *region, *endpoint, *url, *signed_for;
    } rows[] = {
        { FAKE_EAST, NULL, NULL, "https://kms.us-east-1.amazonaws.com/",
          "/us-east-1/kms/" },
        { FAKE_WEST, NULL, NULL, "https://kms.us-west-2.amazonaws.com/",
          "/us-west-2/kms/" },
        { "alias/app", NULL, NULL, "https://kms.us-east-1.amazonaws.com/",
          "/us-east-1/kms/" },
        { "alias/app", "us-west-2", NULL,
          "https://kms.us-west-2.amazonaws.com/", "/us-west-2/kms/" },
        { EAST2_ID, NULL, NULL, "https://kms.us-east-1.amazonaws.com/",
          "/us-east-1/kms/" },
        { FAKE_WEST, "eu-west-1", "https://kms.example:8443/",
          "https://kms.example:8443/", "/us-west-2/kms/" },
        { FAKE_WEST, "eu-west-1", "http://[::1]:5000", "http://[::1]:5000/",
          "/us-west-2/kms/" }
    };
    struct world *w = *state;
    size_t i;

    w->cfg.hooks.send = watch;
    for (i = 0; i < COUNT(rows); i++) {
        w->cfg.kms_key_id = rows[i].id;
        w->cfg.region = rows[i].region;
        w->cfg.endpoint = rows[i].endpoint;
        world_reopen(w);
        ASK(w, KAWS_OK, NULL, 1);
        assert_string_equal(w->f.url, rows[i].url);
        assert_memory_equal(strstr(w->f.url, "//") + 2, host, strlen(host));
        assert_int_equal(strlen(strstr(w->f.url, "//") + 2), strlen(host) + 1);
        assert_string_equal(type, "application/x-amz-json-1.1");
        assert_non_null(strstr(w->f.authorization, rows[i].signed_for));
        assert_int_equal(w->f.fresh_connection, 0);
    }
}

#if !defined(KEYRING_AWS_NO_CURL)

/* Without a `send` hook. What is wrong with a setting is not tried again. */
static void
test_bad_proxy(void **state)
{
    struct world *w = *state;
    kaws_stats stats;

    w->cfg.hooks.send = NULL;
    world_reopen(w);
    assert_int_equal(setenv("https_proxy", "x:x", 1), 0);
    ASK(w, KAWS_CONFIG, "; check the endpoint, ca_file and the proxy", 0);
    assert_int_equal(unsetenv("https_proxy"), 0);
    kaws_get_stats(w->ring, &stats);
    assert_int_equal(stats.kms_requests, 1);
}

#endif


/* ---- what the caller is told ------------------------------------------- */

/* A type for each kind of cure: test_fault.c has them all. */
enum { CLOCK = 1, CREDS = 2, SAYS = 4, SLOW = 8, LATER = 16 };

static const struct {
    const char *type;
    kaws_status status;
    int         flags;
    const char *advice;
} faults[] = {
    { "ThrottlingException", KAWS_THROTTLED, SLOW, "call less often" },
    { "KMSInternalException", KAWS_SERVICE, LATER, "try again later" },
    { "InvalidSignatureException", KAWS_CREDENTIALS, CLOCK | CREDS, "clock" },
    { "RequestExpired", KAWS_CREDENTIALS, CLOCK, "clock" },
    { "ExpiredToken", KAWS_CREDENTIALS, CREDS, "new session token" },
    { "OptInRequired", KAWS_CREDENTIALS, 0, "enable the region" },
    { "AccessDeniedException", KAWS_DENIED, SAYS, "IAM policy" },
    { "InvalidCiphertextException", KAWS_REPLY, 0, "another request" },
    { "IncorrectKeyException", KAWS_REPLY, 0, "another request" },
    { "DryRunOperationException", KAWS_REPLY, 0, "another request" },
    { "ValidationException", KAWS_ARGUMENT, 0, "invalid" }
};


/* Status, words, attempts and pauses of an error that does not go away. */
static void
test_refusals(void **state)
{
    struct world *w = *state;
    size_t i;

    w->cfg.max_attempts = 3;              /* also of those that are throttled */
    world_reopen(w);
    w->f.random_byte = 0xff;
    for (i = 0; i < COUNT(faults); i++) {
        int again = (faults[i].flags & (SLOW | LATER)) != 0;
        int base = faults[i].flags & SLOW ? 1000 : 50;
        char id[32];
        const char *const said[] = { faults[i].type, faults[i].advice, id,
                                     "HTTP 400", w->f.url + 8 };
        size_t k;
        w->f.sleeps = 0;
        SAY(w, .error = faults[i].type, .times = 9);
        ASK(w, faults[i].status, NULL, again ? 3 : 1);
        if (w->f.sleeps != 2 * again ||
            (again && (w->f.slept[0] != base || w->f.slept[1] != 2 * base)))
            fail_msg("%s: %d ms", faults[i].type, w->f.slept[0]);
        (void)snprintf(id, sizeof id, "fake-%d", w->f.replies);
        w->f.url[strlen(w->f.url) - 1] = '\0';
        for (k = 0; k < COUNT(said); k++)
            if (strstr(w->err.text, said[k]) == NULL)
                fail_msg("'%s' is not in: %s", said[k], w->err.text);
        assert_string_equal(w->err.aws, faults[i].type);
        assert_string_equal(w->err.request_id, id);
        assert_int_equal(w->err.http, 400);
        if ((strstr(w->err.text, "(3 attempts)") != NULL) != again ||
            (strstr(w->err.text, "as scripted") != NULL) !=
                ((faults[i].flags & SAYS) != 0))
            fail_msg("%s", w->err.text);
        SAY_NO_MORE(w);
    }
}


/* The first error is one thing, the second another: the caller hears of the
 * second, and of all tries. */
static void
test_another_error_next(void **state)
{
    struct world *w = *state;

    SAY(w, .error = "ThrottlingException");
    SAY(w, .no_reply = "broken");
    ASK(w, KAWS_OK, NULL, 3);
    SAY(w, .error = "ThrottlingException");
    SAY(w, .error = "AccessDeniedException");
    ASK(w, KAWS_DENIED, "(2 attempts)", 2);
    SAY(w, .error = "ThrottlingException");
    SAY(w, .no_reply = "broken", .times = 3);
    ASK(w, KAWS_NETWORK, "broken (4 attempts)", 4);
    assert_int_equal(w->err.http, 0);
    assert_string_equal(w->err.aws, "");
    assert_string_equal(w->err.request_id, "");
}


/* A reply without a type of AWS's: its HTTP status counts, and its page is not
 * shown. */
static void
test_no_type(void **state)
{
    static const struct { int http; kaws_status status; int tries; } rows[] = {
        { 200, KAWS_REPLY, 1 }, { 302, KAWS_REPLY, 1 }, { 403, KAWS_DENIED, 1 },
        { 429, KAWS_THROTTLED, 4 }, { 500, KAWS_SERVICE, 3 },
        { -1, KAWS_REPLY, 1 }
    };
    struct world *w = *state;
    size_t i;

    kaws_use_timeouts(w->ring, 0, 4000);
    w->f.random_byte = 0xff;
    for (i = 0; i < COUNT(rows); i++) {
        SAY(w, .http = rows[i].http, .body = "<html>no</html>", .times = 9);
        ASK(w, rows[i].status, NULL, rows[i].tries);
        assert_string_equal(w->err.aws, "");
        assert_int_equal(w->err.http, rows[i].http);
        assert_null(strstr(w->err.text, "html"));
        SAY_NO_MORE(w);
        LATER(w);
    }
    SAY(w, .http = 403, .body = "no", .times = 9);
    fake_write_conf(&w->f, FAKE_ID "\n" FAKE_SECRET "\nnewer\n");
    ASK(w, KAWS_DENIED, "no error type", 2);      /* newer creds may help     */
}


/* After a reply that was not KMS's own, no idle connection is used. */
static void
test_doubtful_connections(void **state)
{
    static const struct { fake_script script; int fresh; } rows[] = {
        { { .error = "Throttling" }, 0 },
        { { .error = "Throttling", .http = 499 }, 0 },
        { { .error = "Throttling", .http = 500 }, 1 },
        { { .error = "Throttling", .http = 399 }, 1 },
        { { .error = "Throttling", .http = 408 }, 1 },
        { { .error = "Throttling", .http = 425 }, 1 },
        { { .http = 429, .body = "" }, 1 },
        { { .no_reply = "timeout" }, 1 }, { { .same_id = 1 }, 1 }
    };
    struct world *w = *state;
    size_t i;

    ASK(w, KAWS_OK, NULL, 1);
    for (i = 0; i < COUNT(rows); i++) {
        fake_push(&w->f, rows[i].script);
        ASK(w, KAWS_OK, NULL, 2);
        if (w->f.fresh_connection != rows[i].fresh)
            fail_msg("row %lu", (unsigned long)i);
        ASK(w, KAWS_OK, NULL, 1);
        assert_int_equal(w->f.fresh_connection, 0);
    }
}


static void
test_same_request_id(void **state)
{
    struct world *w = *state;

    ASK(w, KAWS_OK, NULL, 1);
    SAY(w, .same_id = 1);
    ASK(w, KAWS_OK, NULL, 2);
    SAY(w, .same_id = 1, .times = 3);
    ASK(w, KAWS_REPLY, "the same request id", 3);
    assert_string_equal(w->err.request_id, "fake-2");
}


static void
test_words_from_outside(void **state)
{
    static char body[2048];
    struct world *w = *state;

    SAY(w, .no_reply = "Could not\nresolve host", .times = 9);
    ASK(w, KAWS_NETWORK, "Could not\\x0aresolve host", 3);
    SAY_NO_MORE(w);
    LATER(w);
    (void)snprintf(body, sizeof body, "{\"__type\":\"AccessDeniedException\","
                   "\"message\":\"%01500d\"}", 7);
    SAY(w, .http = 400, .body = body);
    ASK(w, KAWS_DENIED, "000...; allow it in", 1);
    SAY(w, .http = 400, .body = "{\"__type\":\"X#AccessDeniedException:y\","
                                "\"message\":\"a\\nb\\u001b\"}");
    ASK(w, KAWS_DENIED, "a\\x0ab\\x1b", 1);
    assert_string_equal(w->err.aws, "AccessDeniedException");
    SAY(w, .lost = 1, .times = 2);
    ASK(w, KAWS_OK, NULL, 3);
}


/* ---- a KMS that echoes ------------------------------------------------- */

#define ECHO_TOKEN "FwoGZXIvYXdzEXAMPLEtokenABCDEFGHijklmnopQRSTUV=="

enum { IN_MESSAGE, IN_TYPE, IN_ID, IN_WORDS, IN_ARN, PLACES };
enum { AS_IT_IS, SWAPPED, DASHED, BOTH, SPACED, WAYS };

static struct {
    const char *secret;                   /* NULL: a piece of the signature   */
    int         place, way;
    char        signature[65];            /* the last request's               */
} echo;


/* The secret, written in that way; a type has room for nothing in between. */
static void
echo_write(char *out, size_t cap)
{
    const char *between = echo.way == SPACED ? "\\n " : "-";
    const char *at = echo.secret != NULL ? echo.secret : echo.signature;
    size_t n = 0;

    for (; *at != '\0' && n + 8 < cap; at++) {
        int c = (unsigned char)*at;
        if (echo.way == SWAPPED || echo.way == BOTH)
            c = isupper(c) ? tolower(c) : toupper(c);
        out[n++] = (char)c;
        if (echo.way >= DASHED && echo.place != IN_TYPE)
            n += (size_t)snprintf(out + n, 4, "%s", between);
    }
    out[n] = '\0';
}


static int
echo_send(void *ctx, const kaws_request *q, kaws_reply *r)
{
    const char *sent = fake_header(q, "Authorization: ");
    char secret[400];

    (void)ctx;
    (void)snprintf(echo.signature, sizeof echo.signature, "%s",
                   strstr(sent, "Signature=") + 10);
    echo_write(secret, 120);
    if (echo.place == IN_WORDS) {
        echo_write(r->text, sizeof r->text);
        return 1;
    }
    if (echo.place == IN_ID)
        echo_write(r->request_id, sizeof r->request_id);
    r->http = echo.place == IN_ARN ? 200 : 400;
    r->body_len = (size_t)(echo.place == IN_ARN
        ? snprintf((char *)r->body, r->body_max, "{\"CiphertextBlob\":\"AAAA\","
                   "\"KeyId\":\"arn:aws:kms:us-east-1:999922223333:key/%s\"}",
                   secret)
        : snprintf((char *)r->body, r->body_max,
                   "{\"__type\":\"%s\",\"message\":\"<%s>\"}",
                   echo.place == IN_TYPE ? secret : "AccessDeniedException",
                   echo.place == IN_MESSAGE ? secret : "no"));
    return 0;
}


/* Not eight letters of it, be their case what it may, and what stands between
 * them. `len` bytes are looked at, whatever they are. */
static void
check_not_echoed(const char *where, const char *text, size_t len)
{
    char folded[2][8000];
    const char *at = echo.secret != NULL ? echo.secret : echo.signature;
    size_t i, n[2] = { 0, 0 };

    for (; *at != '\0'; at++)
        if (isalnum((unsigned char)*at))
            folded[0][n[0]++] = (char)tolower((unsigned char)*at);
    assert_in_range(len, 0, sizeof folded[1] - 1);
    for (i = 0; i < len; i++) {
        if (text[i] == '\\')
            i += 3;
        else if (isalnum((unsigned char)text[i]))
            folded[1][n[1]++] = (char)tolower((unsigned char)text[i]);
    }
    for (i = 0; i + 8 <= n[0]; i++)
        if (memmem(folded[1], n[1], folded[0] + i, 8) != NULL)
            fail_msg("place %d, way %d: %s: %.*s", echo.place, echo.way, where,
                     (int)len, text);
}


/* Message, type, request id, the sender's words and the KMS key's ARN may all
 * repeat the secret, the token, the signature or a plaintext's base64. Nothing
 * of it is in the error, of which every byte counts, or in the log. */
static void
test_nothing_is_echoed(void **state)
{
    static const char key[] = "a key of more than 32 bytes, in no log";
    enum { SIGNATURE = 3, PLAIN };
    static const struct { const char *conf, *secret; } rows[] = {
        { FAKE_ID "\n" FAKE_SECRET "\n" ECHO_TOKEN "\n", FAKE_SECRET },
        { FAKE_ID "\n" FAKE_SECRET "\n" ECHO_TOKEN "\n", ECHO_TOKEN },
        { FAKE_ID "\nAsecretOfLettersOnlySoThatItIsAType\n",
          "AsecretOfLettersOnlySoThatItIsAType" },
        { FAKE_ID "\n" FAKE_SECRET "\n", NULL },
        { FAKE_ID "\n" FAKE_SECRET "\n", "YSBrZXkgb2YgbW9yZSB0aGFuIDMyIGJ5d"
                                         "GVzLCBpbiBubyBsb2c=" }
    };
    struct world *w = *state;
    kaws_sealed sealed;
    kaws_status status;
    size_t i;

    w->cfg.kms_key_id = "alias/app";
    w->cfg.max_attempts = 1;
    w->cfg.hooks.send = echo_send;
    for (i = 0; i < COUNT(rows); i++) {
        fake_write_conf(&w->f, rows[i].conf);
        world_reopen(w);
        echo.secret = rows[i].secret;
        for (echo.place = 0; echo.place < PLACES; echo.place++)
            for (echo.way = 0; echo.way < WAYS; echo.way++) {
                status = i == PLAIN
                    ? kaws_kms_encrypt(w->ring, NULL, kaws__buf_of(key),
                                       &sealed, &w->err)
                    : kaws_kms_generate_data_key(w->ring, NULL, 16, NULL,
                                                 &sealed, &w->err);
                assert_true(status != KAWS_OK || echo.place == IN_ARN);
                if (echo.place == IN_ARN && (echo.way > SWAPPED || i == 2 ||
                                             i == SIGNATURE)) {
                    fake_forget_log(&w->f);   /* like many a good ARN         */
                    continue;
                }
                check_not_echoed("the error", (const char *)&w->err,
                                 sizeof w->err);
                check_not_echoed("the log", w->f.log, w->f.log_len);
            }
        fake_forget_log(&w->f);
    }
    /* Seven letters give nothing away, and a message about a plaintext may. */
    fake_write_conf(&w->f, "id\nsecret\n0123456789abcdefghijklmnopq\n");
    world_reopen(w);
    echo.place = echo.way = 0;
    echo.secret = "3456789";
    ASK(w, KAWS_DENIED, "<3456789>", 0);
    echo.secret = "3456789a";
    ASK(w, KAWS_DENIED, "; allow", 0);
    assert_null(strchr(w->err.text, '<'));
    echo.secret = "harmless";
    EXPECT(w, KAWS_DENIED, "; allow", kaws_kms_encrypt(
        w->ring, NULL, kaws__buf_of(key), &sealed, &w->err));
    assert_null(strchr(w->err.text, '<'));
}


/* ---- when it is sent again --------------------------------------------- */

/* Full jitter under a doubling cap, which ends at 20 s. */
static void
test_pauses(void **state)
{
    static const int slow[] = { 1000, 2000, 4000, 8000, 16000, 20000, 20000 };
    static const int later[] = { 50, 100, 200, 400, 800, 1600, 3200, 6400,
                                 12800, 20000, 20000 };
    struct world *w = *state;
    int i, total = 0;

    w->cfg.max_attempts = 12;
    w->cfg.timeout_ms = 10000000;
    world_reopen(w);
    w->f.random_byte = 0xff;
    SAY(w, .error = "Throttling", .times = 7);
    ASK(w, KAWS_OK, NULL, 8);
    assert_int_equal(w->f.sleeps, 7);
    assert_memory_equal(w->f.slept, slow, sizeof slow);
    w->f.sleeps = 0;
    SAY(w, .error = "KMSInternal", .times = 20);
    ASK(w, KAWS_SERVICE, "(12 attempts)", 12);
    assert_int_equal(w->f.sleeps, 11);
    assert_memory_equal(w->f.slept, later, sizeof later);
    SAY_NO_MORE(w);

    w->f.random_byte = 0;
    w->f.sleeps = 0;
    SAY(w, .error = "Throttling", .times = 11);
    ASK(w, KAWS_OK, NULL, 12);
    assert_int_equal(w->f.sleeps, 0);

    w->f.random_byte = -1;
    for (i = 0; i < 200; i++) {
        w->f.sleeps = w->f.slept[0] = 0;
        SAY(w, .error = "Throttling");
        ASK(w, KAWS_OK, NULL, 2);
        assert_in_range(w->f.slept[0], 0, 1000);
        total += w->f.slept[0];
    }
    assert_in_range(total, 80000, 120000);        /* the middle, by and large */
}


/* What the KMS asks for counts, within 5 s above what we had in mind. */
static void
test_retry_after(void **state)
{
    static const struct { int asked, chance; const char *type; int slept; }
    rows[] = {
        { 1, 0xff, "Throttling", 1000 }, { 999, 0xff, "Throttling", 1000 },
        { 1001, 0xff, "Throttling", 1001 }, { 5999, 0xff, "Throttling", 5999 },
        { 6000, 0xff, "Throttling", 6000 }, { 6001, 0xff, "Throttling", 6000 },
        { 3600000, 0, "Throttling", 5000 }, { 700, 0, "Throttling", 700 },
        { 4000, 0xff, "KMSInternal", 4000 }, { 9000, 0xff, "KMSInternal", 5050 }
    };
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        w->f.sleeps = 0;
        w->f.random_byte = rows[i].chance;
        SAY(w, .error = rows[i].type, .retry_after_ms = rows[i].asked);
        ASK(w, KAWS_OK, NULL, 2);
        assert_int_equal(w->f.sleeps, 1);
        assert_int_equal(w->f.slept[0], rows[i].slept);
    }
}


static void
test_attempts(void **state)
{
    struct world *w = *state;
    int max;

    w->cfg.timeout_ms = 1000000;
    for (max = -1; max < 6; max++) {
        w->cfg.max_attempts = max;
        world_reopen(w);
        SAY(w, .error = "KMSInternal", .times = 50);
        ASK(w, KAWS_SERVICE, NULL, max > 0 ? max : 3);
        SAY_NO_MORE(w);
        world_reopen(w);
        SAY(w, .error = "Throttling", .times = 50);
        if (max > 0)
            ASK(w, KAWS_THROTTLED, NULL, max);
        else
            ASK(w, KAWS_OK, NULL, 51);
        SAY_NO_MORE(w);
    }
}


static int64_t
frozen_ticks(void *ctx)
{
    (void)ctx;
    return 12345;
}


/* Unless max_attempts says otherwise, who is throttled tries until his own time
 * is up: with pauses of 1 s at most, so that he gets his turn. */
static void
test_throttled(void **state)
{
    struct world *w = *state;
    int64_t start;
    int i, total = 0;

    w->f.random_byte = 0xff;
    start = w->f.now_ms;
    SAY(w, .error = "Throttling", .times = 99);
    ASK(w, KAWS_THROTTLED, "(10 attempts)", 10);
    assert_int_equal(w->f.now_ms - start, 9000);
    for (i = 0; i < 9; i++)
        assert_int_equal(w->f.slept[i], 1000);
    SAY_NO_MORE(w);
    SAY(w, .error = "Throttling", .retry_after_ms = 3000, .times = 99);
    w->f.sleeps = 0;
    ASK(w, KAWS_THROTTLED, "(4 attempts)", 4);
    assert_int_equal(w->f.slept[0], 3000);
    SAY_NO_MORE(w);

    /* What else may pass has its three attempts, and short pauses. */
    w->f.sleeps = 0;
    SAY(w, .error = "Throttling", .times = 5);
    SAY(w, .error = "KMSInternal", .times = 9);
    ASK(w, KAWS_SERVICE, "(8 attempts)", 8);
    assert_int_equal(w->f.sleeps, 7);
    assert_int_equal(w->f.slept[5], 50);
    assert_int_equal(w->f.slept[6], 100);
    SAY_NO_MORE(w);

    w->f.random_byte = -1;
    for (i = 0; i < 20; i++) {
        w->f.sleeps = w->f.slept[6] = 0;
        SAY(w, .error = "Throttling", .times = 7);
        ASK(w, KAWS_OK, NULL, 8);
        assert_in_range(w->f.slept[6], 0, 1000);
        total += w->f.slept[6];
    }
    assert_in_range(total, 7000, 13000);

    w->cfg.hooks.ticks_ms = frozen_ticks; /* the pauses alone bound it        */
    world_reopen(w);
    w->f.random_byte = 0xff;
    SAY(w, .error = "Throttling", .times = 999);
    ASK(w, KAWS_THROTTLED, "(11 attempts)", 11);
}


static int64_t call_takes_ms;


/* A slow KMS: it takes its time, or all that it is given. */
static void
take_time(struct fake *f, const char *action)
{
    (void)action;
    f->now_ms += call_takes_ms;
}


/* The budget bounds a call with its pauses and retries, and what is left of it
 * is what the transport is given. */
static void
test_budget(void **state)
{
    struct world *w = *state;
    int64_t start;
    int i, budget;

    w->cfg.connect_timeout_ms = 77;
    w->cfg.timeout_ms = 3000;
    w->cfg.max_attempts = 3;              /* so the pauses grow               */
    world_reopen(w);
    w->f.random_byte = 0xff;
    start = w->f.now_ms;
    SAY(w, .error = "Throttling", .times = 50);
    ASK(w, KAWS_THROTTLED, "(2 attempts)", 2);
    assert_int_equal(w->f.now_ms - start, 1000);  /* 2000 more are too many   */
    assert_int_equal(w->f.timeout_ms, 2000);
    assert_int_equal(w->f.connect_timeout_ms, 77);
    kaws_use_timeouts(w->ring, 55, 3001);
    start = w->f.now_ms;
    ASK(w, KAWS_THROTTLED, "(3 attempts)", 3);
    assert_int_equal(w->f.now_ms - start, 3000);
    assert_int_equal(w->f.timeout_ms, 1);
    assert_int_equal(w->f.connect_timeout_ms, 55);
    SAY_NO_MORE(w);
    w->cfg.max_attempts = 0;
    world_reopen(w);
    for (i = 0; i >= -1; i--) {
        kaws_use_timeouts(w->ring, i, i);
        ASK(w, KAWS_OK, NULL, 1);
        assert_int_equal(w->f.timeout_ms, 10000);
        assert_int_equal(w->f.connect_timeout_ms, 1000);
    }
    w->f.random_byte = -1;
    w->f.on_send = take_time;
    for (i = 0; i < 300; i++) {
        budget = 1 + i * 37;
        call_takes_ms = i % 7 * 100;
        kaws_use_timeouts(w->ring, 0, budget);
        SAY(w, .error = i % 2 ? "Throttling" : "KMSInternal",
            .retry_after_ms = i % 5 * 900, .times = 50);
        start = w->f.now_ms;
        w->f.requests = 0;
        assert_int_not_equal(kaws_check(w->ring, NULL), KAWS_OK);
        assert_true(w->f.now_ms - call_takes_ms - start < budget);
        assert_in_range(w->f.timeout_ms, 1, budget);
        SAY_NO_MORE(w);
    }
}


/* A cure is tried at once, though no time may be left for it: the sender must
 * not take that for a timeout of 0, which is none. */
static void
test_no_time_for_a_cure(void **state)
{
    struct world *w = *state;

    w->f.on_send = take_time;
    call_takes_ms = 10000;                /* all of it                        */
    fake_write_conf(&w->f, FAKE_ID "\n" FAKE_SECRET "\nnewer\n");
    memcpy(w->f.token, "newer", 6);
    SAY(w, .error = "ExpiredToken");
    ASK(w, KAWS_OK, NULL, 2);
    assert_int_equal(w->f.timeout_ms, 1);
    w->f.kms_ahead_ms = 600000;
    ASK(w, KAWS_OK, NULL, 2);
    assert_int_equal(w->f.timeout_ms, 1);
}


/* ---- when KMS is waited for -------------------------------------------- */

static struct {
    int64_t until_ms, back_ms;            /* ticks                            */
    int     asked;
    kaws_error why;                       /* what it was asked with, last     */
} waiting;


static int
be_patient(void *ctx, const kaws_error *err)
{
    struct fake *f = ctx;

    waiting.asked++;
    waiting.why = *err;
    return (int)(waiting.until_ms - f->now_ms);
}


/* KMS comes back. */
static void
come_back(struct fake *f, int ms)
{
    (void)ms;
    if (f->now_ms >= waiting.back_ms)
        memset(f->scripts, 0, sizeof f->scripts);
}


/* From now on KMS is as the script says, for `away` ms; `patience` ms of that
 * may be waited out. */
static void
go_away(struct world *w, fake_script script, int away, int patience)
{
    SAY_NO_MORE(w);
    script.times = 9999;
    fake_push(&w->f, script);
    w->f.requests = w->f.sleeps = waiting.asked = 0;
    w->f.on_sleep = come_back;
    waiting.back_ms = w->f.now_ms + away;
    waiting.until_ms = w->f.now_ms + patience;
}


static void
open_patient(struct world *w)
{
    w->cfg.hooks.patience_ms = be_patient;
    world_reopen(w);
}


/* What is tried again is tried again until KMS is back. No pause is so long
 * that it would be noticed; and nobody is patient about what is definite. */
static void
test_patience(void **state)
{
    static const struct { fake_script script; kaws_status status; } rows[] = {
        { { .no_reply = "Connection refused" }, KAWS_NETWORK },
        { { .http = 503, .body = "<html>" }, KAWS_SERVICE },
        { { .error = "KMSInternalException" }, KAWS_SERVICE },
        { { .error = "ThrottlingException" }, KAWS_THROTTLED },
        { { .error = "AccessDeniedException" }, KAWS_DENIED },
        { { .error = "DisabledException" }, KAWS_KMS_KEY },
        { { .error = "UnrecognizedClientException" }, KAWS_CREDENTIALS },
        { { .http = 200, .body = "<html>" }, KAWS_REPLY }
    };
    struct world *w = *state;
    kaws_sealed sealed;
    int64_t start;
    size_t i;
    int n;

    open_patient(w);
    for (i = 0; i < COUNT(rows); i++) {
        go_away(w, rows[i].script, 20000, 30000);
        start = w->f.now_ms;
        if (i > 3) {
            ASK(w, rows[i].status, NULL, 1);
            assert_int_equal(waiting.asked + w->f.sleeps, 0);
            continue;
        }
        /* The hook is asked with the error even if the caller wants none. */
        assert_int_equal(kaws_kms_generate_data_key(w->ring, NULL, 16, NULL,
                                                    &sealed, NULL), KAWS_OK);
        assert_in_range(w->f.now_ms - start, 20000, 21000);
        assert_in_range(w->f.requests, 20, 80);
        assert_int_equal(waiting.why.status, rows[i].status);
        assert_int_not_equal(waiting.why.text[0], '\0');
        for (n = 0; n < w->f.sleeps && n < FAKE_SLEEPS; n++)
            assert_in_range(w->f.slept[n], 0, 1000);
    }
}


/* After the deadline, which calls share, a call is as without patience: it has
 * its attempts and its timeout. */
static void
test_patience_ends(void **state)
{
    struct world *w = *state;
    int64_t start = w->f.now_ms;

    open_patient(w);
    go_away(w, (fake_script){ .no_reply = "refused" }, INT_MAX, 30000);
    EXPECT(w, KAWS_NETWORK, "attempts)", kaws_check(w->ring, &w->err));
    assert_int_equal(w->f.now_ms - start, 30000);
    ASK(w, KAWS_NETWORK, "unreachable", 0);
    waiting.until_ms -= 100000;
    ASK(w, KAWS_NETWORK, "unreachable", 0);

    LATER(w);
    SAY_NO_MORE(w);
    ASK(w, KAWS_OK, NULL, 1);
    w->f.random_byte = 0xff;              /* patience adds, and takes nothing */
    go_away(w, (fake_script){ .error = "Throttling" }, INT_MAX, 60);
    ASK(w, KAWS_THROTTLED, "(11 attempts)", 11);
    assert_int_equal(w->f.slept[0], 60);
    assert_int_equal(w->f.slept[1], 1000);
    go_away(w, (fake_script){ .error = "Throttling" }, INT_MAX, 30000);
    start = w->f.now_ms;
    ASK(w, KAWS_THROTTLED, "(40 attempts)", 40);
    assert_int_equal(w->f.now_ms - start, 39000);

    go_away(w, (fake_script){ .no_reply = "timeout" }, INT_MAX, 60000);
    kaws_use_timeouts(w->ring, 0, 5000);
    w->f.on_send = take_time;             /* a black hole                     */
    call_takes_ms = 5000;
    start = w->f.now_ms;
    EXPECT(w, KAWS_NETWORK, NULL, kaws_check(w->ring, &w->err));
    assert_in_range(w->f.now_ms - start, 55000, 65000);
    assert_int_equal(w->f.timeout_ms, 2000);      /* a probe's                */
}


/* Whoever loses his patience in the middle waits no longer. */
static void
lose_patience(struct fake *f, int ms)
{
    (void)ms;
    if (f->sleeps == 20)
        waiting.until_ms = f->now_ms;
}


static void
test_patience_is_lost(void **state)
{
    struct world *w = *state;

    open_patient(w);
    go_away(w, (fake_script){ .no_reply = "refused" }, INT_MAX, 100000);
    w->f.on_sleep = lose_patience;
    w->f.random_byte = 0;         /* three tries at once; probes after 3, 8,  */
    ASK(w, KAWS_NETWORK, "(6 attempts)", 6);      /* and 18 pauses of 100 ms  */
    assert_int_equal(w->f.sleeps, 20);
    w->f.random_byte = -1;
    world_reopen(w);
    go_away(w, (fake_script){ .action = "RotateKeyOnDemand",
                              .no_reply = "timeout" }, INT_MAX, 100000);
    EXPECT(w, KAWS_NETWORK, NULL, kaws_rotate_kms_key(w->ring, &w->err));
    assert_int_equal(waiting.asked, 0);   /* it may have been obeyed          */
}


/* ---- cancelled --------------------------------------------------------- */

static struct {
    int at;                       /* the hook says 1 from this question on    */
    int once;                     /* and never again                          */
    int asked;
} canceller;


static int
cancelled(void *ctx)
{
    (void)ctx;
    return ++canceller.asked == canceller.at ||
           (canceller.asked > canceller.at && !canceller.once);
}


/* A `send` hook that asks, and gives up. */
static int
send_asks(void *ctx, const kaws_request *q, kaws_reply *r)
{
    struct fake *f = ctx;

    f->requests++;
    (void)snprintf(r->text, sizeof r->text, "gave up");
    return q->cancelled(q->cancelled_arg) ? -1 : fake_send(ctx, q, r);
}


/* The hook is asked before each attempt, after one without a reply (the `send`
 * hook may have given up because of it), and every 100 ms of a pause. It need
 * say so only once. */
static void
test_cancelled(void **state)
{
    static const fake_script slower = { .error = "ThrottlingException",
                                        .retry_after_ms = 1000, .times = 9 },
                             none = { .no_reply = "refused", .times = 9 };
    static const struct {
        const fake_script *script; int at, requests, sleeps; int64_t slept;
    } rows[] = {
        { &slower, 1, 0, 0, 0 }, { &slower, 2, 1, 0, 0 },
        { &slower, 3, 1, 1, 100 }, { &slower, 6, 1, 4, 400 },
        { &slower, 12, 1, 10, 1000 }, { &slower, 13, 1, 10, 1000 },
        { &slower, 14, 2, 10, 1000 }, { &none, 1, 0, 0, 0 },
        { &none, 2, 1, 0, 0 }
    };
    struct world *w = *state;
    int64_t start;
    size_t i, k;

    w->cfg.hooks.cancelled = cancelled;
    world_reopen(w);
    for (k = 0; k < 2 * COUNT(rows); k++) {
        i = k / 2;
        canceller.once = (int)(k % 2);
        canceller.asked = 0;
        canceller.at = rows[i].at;
        w->f.requests = w->f.sleeps = 0;
        start = w->f.now_ms;
        fake_push(&w->f, *rows[i].script);
        EXPECT(w, KAWS_CANCELLED, "waited for AWS KMS, and nothing was changed",
               kaws_check(w->ring, &w->err));
        SAY_NO_MORE(w);
        if (w->f.requests != rows[i].requests || w->f.sleeps != rows[i].sleeps
            || w->f.now_ms - start != rows[i].slept ||
            canceller.asked > rows[i].at + 1)
            fail_msg("row %d: %d requests, %d sleeps of %d ms, asked %d times",
                     (int)i, w->f.requests, w->f.sleeps,
                     (int)(w->f.now_ms - start), canceller.asked);
    }
    canceller.at = INT_MAX;               /* nothing of it stays              */
    ASK(w, KAWS_OK, NULL, 1);

    w->cfg.hooks.send = send_asks;        /* who asks, hears it; who asks     */
    world_reopen(w);                      /* later must not hear otherwise    */
    canceller.once = 1;
    canceller.asked = 0;
    canceller.at = 2;
    ASK(w, KAWS_CANCELLED, NULL, 1);
    canceller.at = INT_MAX;
    ASK(w, KAWS_OK, NULL, 2);
}


/* Nobody knows whether KMS has done what it was asked to do when the call was
 * cancelled, so nobody says that it has not. */
static void
test_cancelled_rotation(void **state)
{
    struct world *w = *state;

    w->cfg.hooks.cancelled = cancelled;
    world_reopen(w);
    canceller.once = 0;
    canceller.asked = 0;
    canceller.at = 2;                     /* before it is sent                */
    EXPECT(w, KAWS_CANCELLED, "nothing was changed",
           kaws_rotate_kms_key(w->ring, &w->err));
    assert_int_equal(w->f.keys[0].rotations, 0);
    canceller.asked = 0;
    canceller.at = 3;                     /* while it is under way            */
    SAY(w, .action = "RotateKeyOnDemand", .lost = 1);
    EXPECT(w, KAWS_CANCELLED, "RotateKeyOnDemand, which KMS may have done",
           kaws_rotate_kms_key(w->ring, &w->err));
    assert_int_equal(w->f.keys[0].rotations, 1);
    assert_null(strstr(w->err.text, "nothing was changed"));

    canceller.asked = 0;                  /* while it is waited for: enough   */
    canceller.at = 4;
    canceller.once = 1;
    w->f.rotation_ms = 60000;
    w->f.requests = w->f.sleeps = 0;
    EXPECT(w, KAWS_OK, NULL, kaws_rotate_kms_key(w->ring, &w->err));
    assert_int_equal(w->f.requests, 3);
    assert_int_equal(w->f.sleeps, 0);
    canceller.at = INT_MAX;
}


/* ---- the clock, and the credentials ------------------------------------ */

/* Is the clock set by AWS's, and are the credentials read again, and only
 * then? What cures it makes the second try succeed, and stays. */
static void
test_cures(void **state)
{
    struct world *w = *state;
    size_t i;
    int creds, cured;

    for (i = 0; i < 2 * COUNT(faults); i++) {
        creds = i % 2;
        if ((faults[i / 2].flags & (SLOW | LATER)) != 0)
            continue;
        cured = (faults[i / 2].flags & (creds ? CREDS : CLOCK)) != 0;
        fake_write_conf(&w->f, FAKE_ID "\n" FAKE_SECRET "\n");
        w->f.kms_ahead_ms = 0;
        w->f.token[0] = '\0';
        world_reopen(w);
        if (creds && cured)
            memcpy(w->f.token, "newer", 6);
        if (creds)
            fake_write_conf(&w->f, FAKE_ID "\r\n" FAKE_SECRET "\r\nnewer\r\n");
        else
            w->f.kms_ahead_ms = 600000;
        SAY(w, .error = faults[i / 2].type);
        ASK(w, cured ? KAWS_OK : faults[i / 2].status, NULL, cured ? 2 : 1);
        if (cured)
            ASK(w, KAWS_OK, NULL, 1);
    }
    assert_int_equal(w->f.sleeps, 0);
}


static void
test_clock(void **state)
{
    static const int64_t ahead[] = { 600000, -600000, 86400000 * 365ll,
                                     -86400000 * 365ll, 301000, -301000 };
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(ahead); i++) {
        world_reopen(w);
        w->f.kms_ahead_ms = ahead[i];
        fake_forget_log(&w->f);
        ASK(w, KAWS_OK, NULL, 2);
        assert_int_equal(fake_logged(&w->f, 1, "clock"), 1);
        assert_int_equal(fake_logged(&w->f, 1, ahead[i] > 0 ? "behind"
                                               : "ahead of"), 1);
        ASK(w, KAWS_OK, NULL, 1);
        w->f.kms_ahead_ms = 0;            /* somebody set AWS's clock         */
        ASK(w, KAWS_OK, NULL, 2);
        ASK(w, KAWS_OK, NULL, 1);
    }
    assert_int_equal(w->f.sleeps, 0);
    w->f.kms_ahead_ms = 240000;           /* AWS takes that                   */
    fake_forget_log(&w->f);
    ASK(w, KAWS_OK, NULL, 1);
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);

    /* Ours was wrong, and is right again: that is what the log says. */
    w->f.kms_ahead_ms = 3600000;
    ASK(w, KAWS_OK, NULL, 2);
    assert_int_equal(fake_logged(&w->f, 1, "is 3600 seconds behind that of "
                                 "AWS"), 1);
    fake_set_clock(&w->f, 3600000);
    w->f.kms_ahead_ms = 0;
    fake_forget_log(&w->f);
    ASK(w, KAWS_OK, NULL, 2);
    assert_int_equal(fake_logged(&w->f, 1, "agrees with that of AWS"), 1);
    assert_int_equal(fake_logged(&w->f, -1, "seconds"), 0);
    ASK(w, KAWS_OK, NULL, 1);
}


/* A Date that is missing, absurd, or too near to ours to be the reason. */
static void
test_dates_not_believed(void **state)
{
    struct world *w = *state;
    int64_t now = w->f.now_ms / 1000;
    const struct { int64_t date; int tries; } rows[] = {
        { -1, 1 }, { 1, 1 }, { 1577836799, 1 }, { 4102444800, 1 },
        { INT64_MIN, 1 },
        { INT64_MAX, 1 }, { now, 1 }, { now + 240, 1 }, { now - 240, 1 },
        { now + 241, 2 }, { now - 241, 2 }, { 1577836800, 2 },
        { 4102444799, 2 }
    };
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        world_reopen(w);
        SAY(w, .error = "InvalidSignatureException", .date = rows[i].date,
            .times = 2);
        ASK(w, KAWS_CREDENTIALS, NULL, rows[i].tries);
        assert_int_equal(w->ring->kms.clock_offset_s,
                         rows[i].tries == 1 ? 0 : rows[i].date - now);
        SAY_NO_MORE(w);
    }
}


static int64_t jumps_ms;                  /* with each request                */
static int worst_ms, least_ms;            /* the timeouts handed out          */


static void
jump(struct fake *f, const char *action)
{
    (void)action;
    fake_set_clock(f, jumps_ms);
    f->now_ms += call_takes_ms;
    worst_ms = f->timeout_ms > worst_ms ? f->timeout_ms : worst_ms;
    least_ms = f->timeout_ms < least_ms ? f->timeout_ms : least_ms;
}


static int64_t mad_ticks_ms, mad_step_ms;


static int64_t
mad_ticks(void *ctx)
{
    (void)ctx;
    mad_ticks_ms += mad_step_ms;
    return mad_ticks_ms;
}


/* Whoever sets the wall clock changes no timeout. And even a monotonic clock
 * that is none makes nothing endless: what is handed out stays between 1 and
 * the timeout, and all loops come to an end. */
static void
test_mad_clocks(void **state)
{
    static const int64_t jumps[] = { -3600000, 3600000, -864000000,
                                     864000000, -1 };
    static const int64_t steps[] = { 0, -1, -3600000, 838957296, 1,
                                     INT64_MAX / 64, INT64_MIN / 64 };
    struct world *w = *state;
    size_t i;

    w->cfg.timeout_ms = 500;
    world_reopen(w);
    call_takes_ms = 0;
    w->f.on_send = jump;
    for (i = 0; i < COUNT(jumps); i++) {
        jumps_ms = jumps[i];
        worst_ms = 0;
        world_reopen(w);
        SAY(w, .no_reply = "lost", .times = 3);
        ASK(w, KAWS_NETWORK, "(3 attempts)", 3);
        assert_in_range(worst_ms, 1, 500);
        assert_in_range(w->f.timeout_ms, 1, 500);
    }
    jumps_ms = 0;
    w->cfg.hooks.ticks_ms = mad_ticks;
    w->f.rotation_ms = 1000000000;
    for (i = 0; i < COUNT(steps); i++) {
        mad_ticks_ms = 0;
        mad_step_ms = steps[i];
        world_reopen(w);
        w->f.requests = worst_ms = 0;
        SAY(w, .error = "Throttling", .times = 999);
        EXPECT(w, KAWS_THROTTLED, NULL, kaws_check(w->ring, &w->err));
        assert_in_range(w->f.requests, 1, 10);
        SAY_NO_MORE(w);
        w->f.keys[0].rotations = 0;
        w->f.keys[0].rotates_at = 0;
        EXPECT(w, KAWS_OK, NULL, kaws_rotate_kms_key(w->ring, &w->err));
        assert_in_range(w->f.requests, 3, 20);
        assert_in_range(worst_ms, 1, 500);
    }
}


/* What is cured at once is beyond the attempts, which are for KMS; and whatever
 * KMS says next, each cure is tried once a call. */
static void
test_cures_are_no_attempts(void **state)
{
    struct world *w = *state;

    w->cfg.max_attempts = 1;
    world_reopen(w);
    w->f.kms_ahead_ms = 600000;
    ASK(w, KAWS_OK, NULL, 2);
    w->cfg.max_attempts = 3;
    world_reopen(w);
    SAY(w, .skip = 1, .error = "Throttling", .times = 9);
    ASK(w, KAWS_THROTTLED, "(4 attempts)", 4);
    SAY_NO_MORE(w);

    world_reopen(w);
    fake_write_conf(&w->f, "unknown\nsecret\n");
    SAY(w, .error = "InvalidSignatureException", .times = 9);
    ASK(w, KAWS_CREDENTIALS, "(3 attempts)", 3);
    ASK(w, KAWS_CREDENTIALS, NULL, 1);
}


static void
test_newer_credentials(void **state)
{
    struct world *w = *state;

    (void)snprintf(w->f.id, sizeof w->f.id, "NEWID");
    (void)snprintf(w->f.secret, sizeof w->f.secret, "newsecret");
    ASK(w, KAWS_CREDENTIALS, "UnrecognizedClientException", 1);
    fake_write_conf(&w->f, "NEWID\n");            /* half of it is there      */
    ASK(w, KAWS_CREDENTIALS, NULL, 1);
    assert_int_equal(fake_logged(&w->f, 1, "line 2"), 1);
    fake_write_conf(&w->f, "NEWID\nnewsecret\n");
    ASK(w, KAWS_OK, NULL, 2);
    assert_int_equal(w->f.sleeps, 0);

    (void)snprintf(w->f.token, sizeof w->f.token, "session");
    fake_write_conf(&w->f, "NEWID\nnewsecret\nsession\n");
    ASK(w, KAWS_OK, NULL, 2);
    (void)snprintf(w->f.token, sizeof w->f.token, "expired");
    ASK(w, KAWS_CREDENTIALS, NULL, 1);
    fake_write_conf(&w->f, "NEWID\nwrong-secret\nexpired\n");
    ASK(w, KAWS_CREDENTIALS, "InvalidSignatureException", 2);
    fake_write_conf(&w->f, "NEWID\nnewsecret\nexpired\n");
    EXPECT(w, KAWS_OK, NULL, kaws_reload_creds(w->ring, &w->err));
    ASK(w, KAWS_OK, NULL, 1);

    w->f.token[0] = '\0';                 /* the token is gone with its line  */
    fake_write_conf(&w->f, "NEWID\nnewsecret\n");
    ASK(w, KAWS_OK, NULL, 2);
    ASK(w, KAWS_OK, NULL, 1);
}


/* ---- operations of several calls --------------------------------------- */

/* The timeout is for the whole of what the caller asked for: Encrypt and its
 * proof; a Decrypt with another KMS key, the question whose account it is, and
 * the Decrypt with the entry's. */
static void
test_one_budget(void **state)
{
    struct world *w = *state;
    kaws_bytes plain = { (const uint8_t *)"x", 1 };
    kaws_name name = name_of("b", NULL);
    kaws_key key;

    w->cfg.data_file = w->f.data;
    w->cfg.kms_key_id = "alias/app";
    w->cfg.timeout_ms = 1000;
    world_reopen(w);
    w->f.on_send = take_time;
    call_takes_ms = 400;
    EXPECT(w, KAWS_OK, NULL, kaws_store(w->ring, name, "AES", plain, &w->err));
    assert_int_equal(fake_calls(&w->f, "Decrypt"), 1);
    assert_int_equal(w->f.timeout_ms, 600);
    w->cfg.kms_key_id = "alias/two";
    world_reopen(w);                      /* the account is to be asked for   */
    EXPECT(w, KAWS_OK, NULL, kaws_fetch(w->ring, name, &key, &w->err));
    kaws_key_free(w->ring, &key);
    assert_int_equal(w->f.timeout_ms, 200);
    call_takes_ms = 1500;
    EXPECT(w, KAWS_OK, NULL, kaws_check(w->ring, &w->err));
    assert_int_equal(w->f.timeout_ms, 1);
}


/* But each step of a re-wrap, and of a rotation, has all of it again: a
 * keyring of any size can be re-wrapped. A rotation ends in four of them. */
static void
test_a_budget_for_each_step(void **state)
{
    struct world *w = *state;
    kaws_bytes plain = { (const uint8_t *)"x", 1 };
    const char *const names[] = { "a", "b", "c" };
    int64_t start;
    size_t i;

    w->cfg.data_file = w->f.data;
    w->cfg.timeout_ms = 1000;
    w->cfg.rewrap_parallel = 1;
    world_reopen(w);
    for (i = 0; i < COUNT(names); i++)
        EXPECT(w, KAWS_OK, NULL, kaws_store(w->ring, name_of(names[i], NULL),
                                            "AES", plain, &w->err));
    ASK(w, KAWS_OK, NULL, 1);             /* it has the whole, too            */
    least_ms = 1000;
    jumps_ms = 0;
    w->f.on_send = jump;
    w->f.requests = 0;
    call_takes_ms = 900;
    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
    assert_int_equal(w->f.requests, 1 + 2 * 3);
    w->f.rotation_ms = 1000000000;        /* it is never seen to be done      */
    for (call_takes_ms = 100; call_takes_ms <= 1000; call_takes_ms += 100) {
        w->f.keys[0].rotations = 0;
        w->f.keys[0].rotates_at = 0;
        start = w->f.now_ms;
        EXPECT(w, KAWS_OK, NULL, kaws_rotate_kms_key(w->ring, &w->err));
        assert_in_range(w->f.now_ms - start, 3 * call_takes_ms, 4 * 1000);
    }
    assert_int_equal(least_ms, 1000);
    assert_int_equal(w->f.timeout_ms, 1000);
}


static void
take_real_time(struct fake *f, const char *action)
{
    struct timespec t = { 0, 3000000 };

    (void)f;
    (void)action;
    nanosleep(&t, NULL);
}


static int
give_slowly(void *ctx, kaws_creds_wanted *wanted)
{
    struct timespec t = { 1, 0 };

    (void)ctx;
    nanosleep(&t, NULL);
    wanted->creds = (kaws_creds){ FAKE_ID, FAKE_SECRET, NULL };
    return 0;
}


/* What the credentials take is not KMS's time. */
static void
test_slow_credentials(void **state)
{
    struct world *w = *state;
    kaws_stats stats;

    w->cfg.hooks.creds = give_slowly;
    world_reopen(w);
    ASK(w, KAWS_OK, NULL, 1);
    kaws_get_stats(w->ring, &stats);
    assert_int_equal(stats.kms_requests, 1);
    assert_in_range(stats.kms_time_us, 0, 900000);
}


static void
test_counting(void **state)
{
    struct world *w = *state;
    kaws_stats stats;

    w->f.on_send = take_real_time;
    SAY(w, .error = "Throttling", .times = 2);
    ASK(w, KAWS_OK, NULL, 3);
    kaws_get_stats(w->ring, &stats);
    assert_int_equal(stats.kms_requests, 3);
    assert_int_equal(stats.kms_errors, 2);
    assert_int_equal(stats.kms_retries, 2);
    assert_in_range(stats.kms_time_us, 9000, 9000000);
    SAY(w, .body = "nonsense");
    ASK(w, KAWS_REPLY, NULL, 1);
    SAY(w, .no_reply = "no", .times = 3);
    ASK(w, KAWS_NETWORK, NULL, 3);
    LATER(w);
    EXPECT(w, KAWS_OK, NULL, kaws_check(w->ring, &w->err));
    kaws_get_stats(w->ring, &stats);
    assert_int_equal(stats.kms_requests, 9);
    assert_int_equal(stats.kms_errors, 6);
    assert_int_equal(stats.kms_retries, 4);
    assert_int_equal(stats.keys + stats.rewrap_done + stats.rewrap_total, 0);
}


int
main(void)
{
#define BARE(name)                                                            \
    cmocka_unit_test_setup_teardown(name, world_begin_bare, world_end)
    const struct CMUnitTest tests[] = {
#if !defined(KEYRING_AWS_NO_CURL)
        BARE(test_bad_proxy),
#endif
        BARE(test_where_it_goes), BARE(test_refusals),
        BARE(test_another_error_next),
        BARE(test_no_type), BARE(test_doubtful_connections),
        BARE(test_same_request_id), BARE(test_words_from_outside),
        BARE(test_nothing_is_echoed),
        BARE(test_pauses), BARE(test_retry_after), BARE(test_attempts),
        BARE(test_throttled),
        BARE(test_budget), BARE(test_no_time_for_a_cure),
        BARE(test_patience), BARE(test_patience_ends),
        BARE(test_patience_is_lost), BARE(test_cancelled),
        BARE(test_cancelled_rotation),
        BARE(test_cures), BARE(test_clock), BARE(test_dates_not_believed),
        BARE(test_mad_clocks), BARE(test_cures_are_no_attempts),
        BARE(test_newer_credentials),
        BARE(test_one_budget), BARE(test_a_budget_for_each_step),
        BARE(test_slow_credentials), BARE(test_counting)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
