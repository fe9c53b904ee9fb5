/* test_replies.c - a KMS that sends random replies
 *
 * A small HTTP server on this machine answers the built-in sender, which uses
 * the system's libcurl. Its replies are random: odd framing, headers and
 * bodies, and bytes that nobody asked for. Many calls share one ring, and with
 * it libcurl's handles and connections. Whatever the server sends, these must
 * be true: a call ends in time; a call that fails returns nothing; a call that
 * succeeds returns the reply to its own request; and all memory is given back,
 * ours wiped. Each batch runs in a process of its own, so a batch that dies is
 * counted and named. KAWS_SEED=n makes another run, KAWS_LONG=1 a long one.
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "../unit/unit.h"
#include "../unit/fakes.h"
#include "../unit/listener.h"

#include <sys/wait.h>

#if defined(__SANITIZE_ADDRESS__)
extern size_t __sanitizer_get_current_allocated_bytes(void);
#define HEAP() __sanitizer_get_current_allocated_bytes()
#else
#define HEAP() ((size_t)0)
#endif

#define ARN "arn:aws:kms:us-east-1:111122223333:key/" \
            "11111111-2222-3333-4444-555555555555"
#define COUNT(array) (sizeof(array) / sizeof(array)[0])

enum {
    BATCH = 250, BATCHES = 6, BATCHES_LONG = 120, PREVHEAD_TIMES = 20,
    TIMEOUT_MS = 150, MARGIN_MS = 5000, GROWTH = 65536, KEY_LEN = 15,
    REQUEST_MAX = 32768, BODY_MAX = 40000, REPLY_MAX = 1 << 20
};


/* ---- the server --------------------------------------------------------- */

typedef enum ending { KEEP, CLOSE, RESET, SILENCE } ending;

typedef struct server {
    listener on;                  /* its lock guards all below                */
    const char *script;           /* the reply, if it is not by chance        */
    int      wild;                /* else: 0, the good one                    */
    uint64_t chance;
    char     request[REQUEST_MAX], body[BODY_MAX];
    size_t   body_len;
    char    *reply;               /* room for REPLY_MAX                       */
    size_t   len;
    size_t   pause;               /* so much is sent first, the rest apart    */
} server;


static uint32_t
draw(server *v, uint32_t below)
{
    v->chance = v->chance * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(v->chance >> 33) % below;
}


static int
once_in(server *v, uint32_t n)
{
    return draw(v, n) == 0;
}


static void
put(server *v, const void *at, size_t len)
{
    if (len > REPLY_MAX - v->len)
        len = REPLY_MAX - v->len;
    memcpy(v->reply + v->len, at, len);
    v->len += len;
}


static void
say(server *v, const char *text)
{
    put(v, text, strlen(text));
}


static void
say_number(server *v, const char *format, size_t number)
{
    char line[128];

    (void)snprintf(line, sizeof line, format, (unsigned long)number);
    say(v, line);
}


static void
say_many(server *v, const char *text, size_t times)
{
    for (; times > 0; times--)
        say(v, text);
}


/* ---- bodies ------------------------------------------------------------- */

/* What a key is in base64: the request's number, and a check on it. */
static void
key_of(uint32_t number, char out[21])
{
    (void)snprintf(out, 21, "%08x%08xKeys", (unsigned)number,
                   (unsigned)(number * 2654435761u));
}


/* What KMS would say to the request. A member too many does no harm. */
static void
good_body(server *v, uint32_t number)
{
    char key[21];

    key_of(number, key);
    v->body_len = (size_t)snprintf(v->body, sizeof v->body,
        strstr(v->request, "\"DryRun\":true") != NULL ?
        "{\"__type\":\"DryRunOperationException\",\"message\":\"%s\"}" :
        "{\"CiphertextBlob\":\"AAAA%s\",\"KeyId\":\"" ARN "\",\"Plaintext\":"
        "\"%s\",\"EncryptionAlgorithm\":\"SYMMETRIC_DEFAULT\",\"SourceKeyId\":"
        "\"" ARN "\"}", key, key);
}


static void
odd_body(server *v)
{
    static const char *const bodies[] = {
        "", "{", "}", "null", "[]", "{}", "{}{}", "\"\"", "{\"KeyId\":null}",
        "{\"KeyId\":\"" ARN "\"}", "{\"__type\":\"ThrottlingException\"}",
        "{\"__type\":\"KMSInternalException\"}", "{\"__type\":12}",
        "{\"__type\":\"x#IncorrectKeyException:y\",\"Message\":\"\\u0000\"}",
        "{\"Plaintext\":\"=\",\"KeyId\":\"\\uD800\",\"CiphertextBlob\":\"A\"}",
        "<html><body>Bad day</body></html>", "\xef\xbb\xbf{}", "{\"a\":1e999}"
    };
    const char *text = bodies[draw(v, COUNT(bodies))];
    size_t i;

    switch (draw(v, 4)) {
    case 0:                               /* a good one, spoiled              */
        for (i = draw(v, 8) + 1; i > 0; i--)
            v->body[draw(v, (uint32_t)v->body_len)] = (char)draw(v, 256);
        break;
    case 1:                               /* or cut short                     */
        v->body_len = draw(v, (uint32_t)v->body_len);
        break;
    case 2:                               /* all of one kind                  */
        v->body_len = draw(v, BODY_MAX);
        memset(v->body, "[ {\"A0\\"[draw(v, 7)], v->body_len);
        break;
    default:
        v->body_len = strlen(text);
        memcpy(v->body, text, v->body_len);
    }
}


/* ---- heads -------------------------------------------------------------- */

static void
status_line(server *v)
{
    static const char *const odd[] = {
        "HTTP/1.0 200 OK\r\n", "HTTP/1.1 200\r\n", "HTTP/1.1 999 ?\r\n",
        "HTTP/1.1 2000 OK\r\n", "HTTP/1.1  200 OK\r\n", "HTTP/1.1 20\r\n",
        "HTTP/9.9 200 OK\r\n", "HTTP/2 200\r\n", "HTTP/0.9 200 OK\r\n",
        "http/1.1 200 ok\r\n", "ICY 200 OK\r\n", "HTTP/1.1 204 No\r\n",
        "HTTP/1.1 304 No\r\n", "HTTP/1.1 101 Up\r\n", "HTTP/1.1 000 0\r\n",
        "HTTP/1.1 301 There\r\nLocation: http://127.0.0.1:1/\r\n",
        "HTTP/1.1 307 There\r\nLocation: file:///etc/passwd\r\n",
        "HTTP/1.1 401 Who\r\nWWW-Authenticate: Basic realm=\"x\"\r\n",
        "HTTP/1.1 401 Who\r\nWWW-Authenticate: NTLM\r\n",
        "HTTP/1.1 407 Who\r\nProxy-Authenticate: Digest realm=x\r\n",
        "HTTP/1.1 417 No\r\n", "HTTP/1.1 408 Late\r\n", "HTTP/1.1 425 Soon\r\n",
        "HTTP/1.1 503 No\r\n", "HTTP/1.1 500 No\r\n", "HTTP/1.1 200 OK\n",
        "HTTP/1.1 200 OK\r", "\r\n", " HTTP/1.1 200 OK\r\n", "HTTP/", "", "{}"
    };

    if (v->wild && once_in(v, 6))
        say(v, odd[draw(v, COUNT(odd))]);
    else
        say(v, strstr(v->request, "\"DryRun\":true") != NULL
               ? "HTTP/1.1 400 Bad Request\r\n" : "HTTP/1.1 200 OK\r\n");
}


static void
header_line(server *v)
{
    static const struct { const char *at; size_t len; } odd[] = {
#define LINE(text) { text, sizeof(text) - 1 }
        LINE(" folded: x\r\n"), LINE("\tfolded\r\n"), LINE(" \r\n"),
        LINE("no colon\r\n"), LINE(": no name\r\n"), LINE("x\0y: z\r\n"),
        LINE("Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"), LINE("Date:\0\r\n"),
        LINE("x-amz-retry-after: 0\r\n"), LINE("x-amz-retry-after: -1\r\n"),
        LINE("x-amzn-RequestId: the same\r\n"), LINE("x-amzn-RequestId\r\n"),
        LINE("Set-Cookie: a=b; Domain=.\r\n"), LINE("Connection: close\r\n"),
        LINE("Content-Encoding: gzip\r\n"), LINE("Connection: x, y\r\n"),
        LINE("Keep-Alive: timeout=-1, max=0\r\n"), LINE("Upgrade: h2c\r\n"),
        LINE("Alt-Svc: h2=\":1\"\r\n"), LINE("bare: cr\rfolded: x\r\n"),
        LINE("bare: lf\n"), LINE("Transfer-Encoding: gzip, chunked\r\n"),
        LINE("Transfer-Encoding: identity\r\n"), LINE("HTTP/1.1 200 OK\r\n"),
        LINE("Content-Length: 0\r\n"), LINE("Content-Range: bytes 1-2/3\r\n"),
        LINE("Content-Length: 99999999999999999999\r\n"), LINE("\r\r\n"),
        LINE("Location: //\r\n"), LINE("Trailer: x-amzn-RequestId\r\n")
#undef LINE
    };
    size_t i = draw(v, COUNT(odd) + 2);

    if (i < COUNT(odd)) {
        put(v, odd[i].at, odd[i].len);
        return;
    }
    say(v, "long: ");
    say_many(v, i == COUNT(odd) ? "0123456789abcdef" : " ", draw(v, 16384));
    say(v, "\r\n");
}


static void
headers(server *v)
{
    size_t n = once_in(v, 3) ? draw(v, 8) + 1 : 0, i;
    size_t place = once_in(v, 4) ? draw(v, 8) : 0;

    for (i = 0; i <= n; i++)
        if (i == place)
            say_number(v, "x-amzn-RequestId: chance-%lu\r\n",
                       draw(v, 1u << 30));
        else
            header_line(v);
    if (once_in(v, 200))                  /* and no end of them               */
        say_many(v, "on: and on\r\n", REPLY_MAX / 12);
}


/* ---- framing: a length, chunks, or the end of the connection ------------ */

static void
chunks(server *v)
{
    static const char *const sizes[] = {
        "0%lx", "%lx;name=\"value\"", "%lx ", " %lx", "%lX", "-%lx", "+%lx",
        "0x%lx", "zz%lx", "fffffffffffffffff%lx", "%lx\r", ";%lx"
    };
    static const char *const ends[] = {
        "0\r\n\r\n", "0\r\nx-amzn-RequestId: trailer\r\n\r\n", "0\r\n",
        "0\r\n folded: x\r\n\r\n", "0\r\n\tx\r\nno colon\r\n\r\n", "", "0",
        "00000\r\nContent-Length: 7\r\n\r\n", "0\r\n\r\n0\r\n\r\n", "\r\n"
    };
    size_t at = 0, n;

    say(v, "Transfer-Encoding: chunked\r\n\r\n");
    for (; at < v->body_len; at += n) {
        n = v->body_len - at;
        if (n > 1)
            n = draw(v, (uint32_t)n) + 1;
        say_number(v, once_in(v, 8) ? sizes[draw(v, COUNT(sizes))] : "%lx", n);
        say(v, "\r\n");
        put(v, v->body + at, n);
        say(v, once_in(v, 30) ? "" : "\r\n");
    }
    say(v, ends[once_in(v, 2) ? 0 : draw(v, COUNT(ends))]);
}


static ending
odd_length(server *v)
{
    static const char *const lengths[] = {
        "-%lu", "+%lu", "0x%lu", "%lu, %lu", "%lu, 1", " %lu ", "0000%lu",
        "%lu1", "1", "", "x", "1%lu\r\nContent-Length: 3", "%lu\r\n folded",
        "18446744073709551615", "9223372036854775807", "%lu\r\nContent-Length:"
    };
    const char *form = lengths[draw(v, COUNT(lengths))];
    char line[128];

    (void)snprintf(line, sizeof line, "Content-Length: %s\r\n\r\n", form);
    say_number(v, line, v->body_len);
    put(v, v->body, v->body_len);
    return CLOSE;
}


/* Says when the connection may be kept: where the client knows the end. */
static ending
frame(server *v)
{
    switch (draw(v, 12)) {
    case 0:
    case 1:
    case 2:
        chunks(v);
        return once_in(v, 40) ? KEEP : CLOSE;
    case 3:
        return odd_length(v);
    case 4:                               /* longer than it says              */
        say_number(v, "Content-Length: %lu\r\n\r\n", v->body_len / 2);
        put(v, v->body, v->body_len);
        return KEEP;
    case 5:                               /* shorter                          */
        say_number(v, "Content-Length: %lu\r\n\r\n", v->body_len + 1);
        put(v, v->body, v->body_len);
        return once_in(v, 20) ? SILENCE : CLOSE;
    case 6:                               /* as long as the connection        */
        say(v, "\r\n");
        put(v, v->body, v->body_len);
        return CLOSE;
    default:
        say_number(v, "Content-Length: %lu\r\n\r\n", v->body_len);
        put(v, v->body, v->body_len);
        return KEEP;
    }
}


/* Changes bytes of the whole, cuts it, or adds to it. */
static ending
spoil(server *v, ending how)
{
    size_t all = v->len, n;
    char noise;

    v->pause = once_in(v, 2) ? all : 0;
    switch (draw(v, 16)) {
    case 0:
        for (n = draw(v, 6) + 1; n > 0 && all > 0; n--)
            v->reply[draw(v, (uint32_t)all)] = (char)draw(v, 256);
        return CLOSE;
    case 1:
        v->len = draw(v, (uint32_t)all + 1);
        return once_in(v, 10) ? SILENCE : CLOSE;
    case 2:
        for (n = draw(v, 3000); n > 0; n--) {
            noise = (char)draw(v, 256);
            put(v, &noise, 1);
        }
        return how;
    case 3:
        say(v, "\r\n");
        return how;
    case 4:
    case 5:                               /* the same once more               */
        put(v, v->reply, all < REPLY_MAX / 2 ? all : 0);
        return how;
    case 6:
        say(v, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n");
        return how;
    case 7:
        return RESET;
    default:
        return how;
    }
}


static ending
compose(server *v)
{
    ending how;
    size_t n;

    v->len = v->pause = 0;
    if (v->script != NULL || !v->wild) {
        say(v, v->script != NULL ? v->script : "");
        if (v->script == NULL) {
            status_line(v);
            say_number(v, "x-amzn-RequestId: good-%lu\r\n",
                       (size_t)v->on.requests);
            say_number(v, "Content-Length: %lu\r\n\r\n", v->body_len);
            put(v, v->body, v->body_len);
        }
        return KEEP;
    }
    if (once_in(v, 3))
        odd_body(v);
    for (n = once_in(v, 10) ? draw(v, 4) : 0; n > 0; n--)
        say(v, once_in(v, 2) ? "HTTP/1.1 100 Continue\r\n\r\n"
                             : "HTTP/1.1 103 Early\r\n x\r\nLink: <>\r\n\r\n");
    status_line(v);
    headers(v);
    how = frame(v);
    return spoil(v, how);
}


/* ---- the server at work ------------------------------------------------- */

static int
send_all(int fd, const char *at, size_t len)
{
    ssize_t n = 1;

    for (; len > 0 && n > 0; at += n, len -= (size_t)n) {
        n = send(fd, at, len, MSG_NOSIGNAL);
        if (n < 0)
            return 0;
    }
    return 1;
}


/* Answers one request; 0: the connection ends. The lock is held to the last
 * byte, so that no surplus comes during the next request: see asked(). */
static int
answer(listener *on, int fd)
{
    struct linger at_once = { 1, 0 };
    server *v = (server *)on;
    ending how;
    int sent;

    if (!listener_hear(fd, v->request, REQUEST_MAX))
        return 0;
    pthread_mutex_lock(&on->lock);
    good_body(v, (uint32_t)++on->requests);
    how = compose(v);
    if (v->pause > v->len)
        v->pause = v->len;
    sent = send_all(fd, v->reply, v->pause) &&
           send_all(fd, v->reply + v->pause, v->len - v->pause);
    pthread_mutex_unlock(&on->lock);
    if (!sent)
        return 0;
    if (how == RESET)
        (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    return how == KEEP || how == SILENCE;
}


static int
server_open(server *v, uint64_t seed)
{
    memset(v, 0, sizeof *v);
    v->chance = seed;
    v->reply = malloc(REPLY_MAX);
    return v->reply != NULL && listener_open(&v->on, answer);
}


static void
server_close(server *v)
{
    listener_close(&v->on);
    free(v->reply);
}


/* The last request's number, once its reply has gone out. */
static uint32_t
asked(server *v)
{
    uint32_t requests;

    pthread_mutex_lock(&v->on.lock);
    requests = (uint32_t)v->on.requests;
    pthread_mutex_unlock(&v->on.lock);
    return requests;
}


/* From now on: good replies, replies by chance, or the one given. */
static void
server_says(server *v, int wild, const char *script)
{
    pthread_mutex_lock(&v->on.lock);
    v->wild = wild;
    v->script = script;
    pthread_mutex_unlock(&v->on.lock);
}


/* ---- the client, in a process of its own -------------------------------- */

static struct fake fake;          /* keeps the books of memory; a conf file   */
static int wrong;                 /* cmocka cannot fail in a child            */


static void
expect(int good, const char *what, const kaws_error *err)
{
    if (good)
        return;
    print_error("%s: %s: %s\n", what, kaws_status_text(err->status),
                err->text);
    wrong++;
}


static int64_t passed_ms;         /* between calls: see play                  */


static int64_t
ticks_ms(void *ctx)
{
    return kaws__sys_ticks_ms(ctx) + passed_ms;
}


static kaws *
ring_open(const server *v)
{
    kaws_config cfg;
    kaws_error err;
    kaws *ring = NULL;

    memset(&cfg, 0, sizeof cfg);
    cfg.hooks.ctx = &fake;
    cfg.hooks.memory = fake_memory;
    cfg.hooks.ticks_ms = ticks_ms;
    cfg.kms_key_id = ARN;
    cfg.conf_file = fake.conf;
    cfg.endpoint = v->on.url;
    cfg.max_attempts = 1;
    cfg.timeout_ms = cfg.connect_timeout_ms = TIMEOUT_MS;
    expect(kaws_open(&ring, &cfg, &err) == KAWS_OK, "open", &err);
    return ring;
}


/* The number of the request that a key came from; 0 if it is not whole. */
static uint32_t
number_of(const uint8_t *key)
{
    kaws_bytes bytes = { key, KEY_LEN };
    char want[21], got[21], digits[9];
    kaws__buf b64;
    uint32_t number;

    kaws__buf_init(&b64, &fake_plain);
    kaws__text_base64(&b64, bytes);
    (void)kaws__buf_copy_text(got, sizeof got, kaws__buf_view(&b64));
    kaws__buf_free(&b64);
    (void)snprintf(digits, sizeof digits, "%.8s", got);
    number = (uint32_t)strtoul(digits, NULL, 16);
    key_of(number, want);
    return strcmp(got, want) == 0 ? number : 0;
}


typedef struct call {             /* what one call came to                    */
    kaws_status status;
    uint8_t     plain[KEY_LEN];
    size_t      plain_len;
    kaws_sealed sealed;
    kaws_error  err;
} call;


enum { DECRYPT, GENERATE, CHECK, ENCRYPT, REENCRYPT, JOBS };


static void
do_job(kaws *ring, size_t job, call *c)
{
    kaws_sealed in;

    memset(&in, 0, sizeof in);
    memset(in.blob, 'b', 40);
    in.blob_len = 40;
    memcpy(in.kms_key_arn, ARN, sizeof ARN);
    c->plain_len = KEY_LEN;
    if (job == DECRYPT)
        c->status = kaws_kms_decrypt(ring, NULL, &in, c->plain, &c->plain_len,
                                     &c->err);
    else if (job == GENERATE)
        c->status = kaws_kms_generate_data_key(ring, NULL, KEY_LEN, c->plain,
                                               &c->sealed, &c->err);
    else if (job == CHECK)
        c->status = kaws_check(ring, &c->err);
    else if (job == ENCRYPT)
        c->status = kaws_kms_encrypt(ring, NULL, kaws__buf_of("a plaintext"),
                                     &c->sealed, &c->err);
    else
        c->status = kaws_kms_reencrypt(ring, NULL, &in, &c->sealed, &c->err);
}


/* One call, and what must hold of it whatever came; `must`: it succeeds, for it
 * has time enough on a busy machine. It is so late that it is sent, though the
 * one before was in vain. */
static kaws_status
play(kaws *ring, server *v, size_t job, int must)
{
    static const call none;
    int64_t began = kaws__sys_ticks_us(), took;
    int limit_ms = must ? MARGIN_MS : TIMEOUT_MS;
    uint32_t mine, last;
    call c;

    memset(&c, 0, sizeof c);
    passed_ms += 10000;
    kaws_use_timeouts(ring, limit_ms, limit_ms);
    do_job(ring, job, &c);
    took = (kaws__sys_ticks_us() - began) / 1000;
    expect(took < 2 * limit_ms + MARGIN_MS, "it takes too long", &c.err);
    last = asked(v);
    if (c.status != KAWS_OK) {
        expect(memcmp(c.plain, none.plain, sizeof c.plain) == 0 &&
               memcmp(&c.sealed, &none.sealed, sizeof c.sealed) == 0,
               "a failed call leaves something", &c.err);
        expect(c.err.status == c.status && c.err.text[0] != '\0' &&
               strpbrk(c.err.text, "\r\n\t") == NULL, "no sentence", &c.err);
        expect(!must, "a good reply is refused", &c.err);
        return c.status;
    }
    mine = job <= GENERATE && c.plain_len == KEY_LEN ? number_of(c.plain) : 0;
    expect(mine == 0 || mine == last, "another request's key", &c.err);
    return c.status;
}


/* ---- the tests ----------------------------------------------------------- */

typedef void part(server *v, kaws *ring, uint64_t seed);


static void
run(part *what, uint64_t seed)
{
    static server v;
    size_t before, after;
    kaws *ring;
    int again;

    if (!server_open(&v, seed)) {
        wrong++;
        return;
    }
    for (again = 0, before = 0; again < 2; again++) {
        ring = ring_open(&v);             /* once to warm up                  */
        server_says(&v, 0, NULL);
        if (ring != NULL)
            (void)play(ring, &v, 0, 1);
        if (ring != NULL && again)
            what(&v, ring, seed);
        kaws_close(ring);
        after = HEAP();
        before = again ? before : after;
    }
    server_close(&v);
    if (after > before + GROWTH || fake.live != 0 || fake.dirty != 0) {
        print_error("%lu bytes more, %lu of them ours; %lu blocks unwiped\n",
                    (unsigned long)(after - before), (unsigned long)fake.live,
                    (unsigned long)fake.dirty);
        wrong++;
    }
}


/* Runs it in a process of its own; 1 if that ends well. */
static int
survives(part *what, uint64_t seed)
{
    int status = -1;
    pid_t child;

    fflush(NULL);
    child = fork();
    if (child == 0) {
        run(what, seed);
        exit(wrong != 0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        print_error("KAWS_SEED=%lu, part %lu: status 0x%x\n", unit_seed(),
                    (unsigned long)seed, (unsigned)status);
    return status == 0;
}


static void
by_chance(server *v, kaws *ring, uint64_t seed)
{
    uint32_t first = asked(v);
    size_t i, good = 0;

    (void)seed;
    server_says(v, 1, NULL);
    for (i = 0; asked(v) - first < BATCH && i < 2 * BATCH && wrong == 0; i++)
        good += play(ring, v, i % JOBS, 0) == KAWS_OK;
    if (wrong == 0 && (good < BATCH / 20 || asked(v) - first < BATCH)) {
        print_error("%lu calls, of them %lu good: that proves nothing\n",
                    (unsigned long)i, (unsigned long)good);
        wrong++;
    }
    server_says(v, 0, NULL);
    for (i = 0; i < 3 * JOBS; i++)         /* as good as ever          */
        (void)play(ring, v, i % JOBS, i >= JOBS);
}


static void
test_replies_by_chance(void **state)
{
    uint64_t i, batches = getenv("KAWS_LONG") != NULL ? BATCHES_LONG : BATCHES;
    size_t good = 0;

    (void)state;
    for (i = 0; i < batches; i++)
        good += (size_t)survives(by_chance, unit_seed() * 100003 + i);
    assert_int_equal(good, batches);
}


/* libcurl before 8.1 takes such a line for the end of the header line before,
 * which was another reply's and is long freed. */
static void
blank_first(server *v, kaws *ring, uint64_t seed)
{
    static const char *const replies[] = {
        "HTTP/1.1 200 OK\r\n folded: x\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\n\tfolded: x\r\nContent-Length: 2\r\n\r\n{}",
        ("HTTP/1.1 100 Go on\r\n x\r\n\r\nHTTP/1.1 200 OK\r\n x\r\n"
        "Content-Length: 2\r\n\r\n{}"),
        " HTTP/1.1 200 OK\r\n x\r\nContent-Length: 2\r\n\r\n{}"
    };
    int i;

    for (i = 0; i < 3; i++) {
        server_says(v, 0, NULL);
        (void)play(ring, v, 0, 0);
        server_says(v, 0, replies[(seed + (uint64_t)i) % COUNT(replies)]);
        (void)play(ring, v, 0, 0);
    }
    server_says(v, 0, NULL);
    (void)play(ring, v, 0, 0);
    (void)play(ring, v, 0, 1);
}


static void
test_first_header_line_begins_with_a_blank(void **state)
{
    size_t good = 0, i;

    (void)state;
    for (i = 0; i < PREVHEAD_TIMES; i++)
        good += (size_t)survives(blank_first, i);
    assert_int_equal(good, PREVHEAD_TIMES);
}


static int
begin(void **state)
{
    (void)state;
    fake_init(&fake);
    return 0;
}


static int
end(void **state)
{
    (void)state;
    fake_end(&fake);
    return 0;
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_header_line_begins_with_a_blank),
        cmocka_unit_test(test_replies_by_chance)
    };

    return cmocka_run_group_tests(tests, begin, end);
}
