/* test_sigv4.c - room sigv4: each step by itself, and the whole
 *
 *     cc -std=c99 -g -fsanitize=address,undefined -o test_sigv4 \
 *        tests/unit/test_sigv4.c -l:libbearssl.a -lcurl -lcmocka
 *
 * tests/test_sigv4.py compares random requests with botocore.
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"

#include "unit.h"

/* What all of AWS's published examples are signed with, and when. */
#define ID     "AKIDEXAMPLE"
#define SECRET "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
#define WHEN   1440938160                 /* 20150830T123600Z                 */
#define REGION "us-east-1"

static const char *const host_only[] = { "Host: example.amazonaws.com", NULL };

static const kaws_creds creds = { ID, SECRET, NULL };


/* A request that is signed as it is; the tests change it. */
static kaws_signing
request(void)
{
    kaws_signing q;

    memset(&q, 0, sizeof q);
    q.method = "GET";
    q.path = "/";
    q.region = REGION;
    q.service = "service";
    q.headers = host_only;
    q.when = WHEN;
    return q;
}


static void
to_buf(void *to, const void *data, size_t len)
{
    kaws__buf_put(to, data, len);
}


static kaws__sink
sink_of(kaws__buf *buf)
{
    kaws__sink sink = { to_buf, NULL };

    kaws__buf_init(buf, unit_hooks());
    sink.to = buf;
    return sink;
}


/* The Authorization of a request that must be signed. */
static const char *
sign(const kaws_signing *q, kaws_creds who)
{
    static char texts[2][1024];
    static int turn;
    kaws_error err;

    turn = !turn;
    if (kaws_sign(q, who, texts[turn], sizeof texts[turn], &err) != KAWS_OK)
        fail_msg("not signed: %s", err.text);
    assert_int_equal(err.status, KAWS_OK);
    assert_int_equal(err.text[0], 0);
    return texts[turn];
}


/* The request is refused, with a sentence that has these words in it. */
static void
refused(const char *what, const kaws_signing *q, kaws_creds who,
        const char *words)
{
    char out[1024];
    kaws_error err;

    memset(out, 'x', sizeof out);
    if (kaws_sign(q, who, out, sizeof out, &err) != KAWS_ARGUMENT)
        fail_msg("%s: was signed", what);
    assert_int_equal(err.status, KAWS_ARGUMENT);
    if (strstr(err.text, words) == NULL ||
        strncmp(err.text, "cannot sign: ", 13) != 0)
        fail_msg("%s: %s", what, err.text);
    assert_int_equal(out[0], 0);
    assert_int_equal(kaws_sign(q, who, out, sizeof out, NULL), KAWS_ARGUMENT);
}


/* ---- what AWS published, step by step ---------------------------------- */

static void
check_canonical(const unit_file *f, const kaws__buf *got)
{
    const char *line;
    kaws__buf want;
    size_t i;

    kaws__buf_init(&want, unit_hooks());
    for (i = 0; (line = unit_field(f, "canonical", i)) != NULL; i++) {
        if (i > 0)
            kaws__buf_byte(&want, '\n');
        kaws__buf_text(&want, line);
    }
    if (i > 0)
        unit_same("step 1, the canonical request", got->at, got->len, want.at,
                  want.len);
    kaws__buf_free(&want);
}


static void
check_steps(const unit_file *f, const kaws_signing *q, const char *token)
{
    const char *hash = unit_must(f, "hash");
    char want[1024], hex[65];
    uint8_t digest[32];
    kaws__mac_key key;
    kaws__sigv4 s;
    kaws__buf text;
    kaws__sink sink = sink_of(&text);
    int n;

    assert_true(kaws__sigv4_gather(&s, q, token));
    assert_true(kaws__sigv4_canonical_request(&s, &sink));
    check_canonical(f, &text);
    kaws__crypto_sha256(digest, kaws__buf_view(&text));
    kaws__text_hex(hex, digest, sizeof digest);
    unit_same_text("step 2, its hash", hex, hash);
    kaws__buf_free(&text);

    sink = sink_of(&text);
    kaws__sigv4_string_to_sign(&s, hash, &sink);
    n = snprintf(want, sizeof want, "AWS4-HMAC-SHA256\n20150830T123600Z\n"
                 "20150830/us-east-1/%s/aws4_request\n%s", q->service, hash);
    unit_same("step 3, the string to sign", text.at, text.len, want,
              (size_t)n);
    assert_true(kaws__sigv4_key(&key, SECRET, s.date, REGION, q->service));
    kaws__crypto_mac(digest, &key, kaws__buf_view(&text));
    kaws__text_hex(hex, digest, sizeof digest);
    unit_same_text("step 5, the signature", hex, unit_must(f, "signature"));
    kaws__buf_free(&text);

    sink = sink_of(&text);
    kaws__sigv4_signed_headers(&s, &sink);
    kaws__buf_byte(&text, 0);
    unit_same_text("the signed headers", (char *)text.at,
                   unit_must(f, "signed"));
    kaws__buf_free(&text);
}


static void
test_published(void **state)
{
    unit_file f;
    size_t count = 0;

    (void)state;
    unit_open(&f, __FILE__, "sigv4.txt");
    while (unit_next(&f)) {
        const char *headers[UNIT_FIELDS + 1], *body, *service;
        kaws_creds who = creds;
        kaws_signing q = request();
        size_t i, len;
        uint8_t *path = unit_undo(unit_must(&f, "path"), &len);
        char whole[1024], *text = malloc(len + 1);
        assert_non_null(text);
        memcpy(text, path, len);
        text[len] = '\0';
        q.path = text;
        q.method = unit_must(&f, "method");
        q.query = unit_field(&f, "query", 0);
        for (i = 0; (headers[i] = unit_field(&f, "header", i)) != NULL; i++)
            continue;
        q.headers = headers;
        body = unit_field(&f, "body", 0);
        q.body = kaws__buf_of(body != NULL ? body : "");
        service = unit_field(&f, "service", 0);
        q.service = service != NULL ? service : "service";
        who.token = unit_field(&f, "token", 0);
        check_steps(&f, &q, who.token);
        snprintf(whole, sizeof whole, "AWS4-HMAC-SHA256 Credential=" ID
                 "/20150830/us-east-1/%s/aws4_request, SignedHeaders=%s, "
                 "Signature=%s", q.service, unit_must(&f, "signed"),
                 unit_must(&f, "signature"));
        unit_same_text("the Authorization", sign(&q, who), whole);
        free(text);
        free(path);
        count++;
    }
    unit_close(&f);
    assert_in_range(count, 31, 1000);
}


/* The examples of AWS's pages on deriving a signing key. */
static void
test_key(void **state)
{
    static const struct { const char *date, *key; } cases[] = {
        { "20150830T123600Z", "c4afb1cc5771d871763a393e44b70357"
                              "1b55cc28424d1a5e86da6ed3c154a4b9" },
        { "20120215T000000Z", "f4780e2d9f65fa895f9c67b32ce1baf0"
                              "b0d8a43505a000a1a9e090d414db404d" }
    };
    kaws__mac_key key;
    uint8_t digest[32], wanted[32], *bytes;
    size_t i, len;

    (void)state;
    for (i = 0; i < UNIT_COUNT(cases); i++) {
        assert_true(kaws__sigv4_key(&key, SECRET, cases[i].date, REGION,
                                    "iam"));
        kaws__crypto_mac(digest, &key, kaws__buf_of("a string to sign"));
        bytes = unit_unhex(cases[i].key, &len);
        kaws__crypto_hmac(wanted, unit_bytes(bytes, len),
                          kaws__buf_of("a string to sign"));
        free(bytes);
        unit_same("step 4, what the signing key makes", digest, 32, wanted,
                  32);
    }
}


/* ---- step 1: the path -------------------------------------------------- */

/* Segment by segment, on a stack. */
static size_t
slow_path(char *out, const char *path)
{
    struct { const char *at; size_t len; } stack[64];
    size_t depth = 0, n, i, k, used = 0, len = strlen(path);
    const char *at = path;

    for (; *at != '\0'; at += n) {
        at += *at == '/';
        n = strcspn(at, "/");
        if (n == 2 && memcmp(at, "..", 2) == 0) {
            depth -= depth > 0;
        } else if (n > 0 && !(n == 1 && *at == '.')) {
            stack[depth].at = at;
            stack[depth++].len = n;
        }
    }
    for (i = 0; i < depth; i++) {
        out[used++] = '/';
        for (k = 0; k < stack[i].len; k++) {
            int c = (uint8_t)stack[i].at[k];
            int bare = c < 0x80 && c != 0 && strchr("-._~0123456789"
                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", c);
            used += (size_t)snprintf(out + used, 4, bare ? "%c" : "%%%02X", c);
        }
    }
    if (depth == 0 || path[len - 1] == '/')
        out[used++] = '/';
    return used;
}


static void
check_path(const char *path)
{
    char want[1024];
    size_t n = slow_path(want, path);
    char *exact = (char *)unit_exact(path, strlen(path) + 1);
    kaws__buf got;
    kaws__sink sink = sink_of(&got);

    kaws__sigv4_path(&sink, exact);
    unit_same(path, got.at, got.len, want, n);
    kaws__buf_free(&got);
    free(exact);
}


static void
test_path_table(void **state)
{
    static const struct { const char *path, *canonical; } cases[] = {
        { "", "/" }, { "/", "/" }, { "//", "/" }, { "///", "/" },
        { "/.", "/" }, { "/./", "/" }, { "/..", "/" }, { "/../", "/" },
        { "/../..", "/" }, { "/a", "/a" }, { "/a/", "/a/" },
        { "/a//", "/a/" }, { "//a", "/a" }, { "/a//b", "/a/b" },
        { "/a/.", "/a" }, { "/a/./", "/a/" }, { "/a/..", "/" },
        { "/a/../", "/" }, { "/a/b/..", "/a" }, { "/a/b/../", "/a/" },
        { "/a/b/../..", "/" }, { "/a/../b", "/b" }, { "/../a", "/a" },
        { "/a/../../b", "/b" }, { "/a/b/../c/../../d", "/d" },
        { "/a/.../b", "/a/.../b" }, { "/..a", "/..a" }, { "/a..", "/a.." },
        { "/.a", "/.a" }, { "/a.", "/a." }, { "/%2e%2e/a", "/%252e%252e/a" },
        { "/a%2Fb", "/a%252Fb" }, { "/%20", "/%2520" }, { "/ ", "/%20" },
        { "/a b/", "/a%20b/" }, { "/~-_.", "/~-_." }, { "/+", "/%2B" },
        { "/a=b&c", "/a%3Db%26c" }, { "/:@!$'()*,;", "/%3A%40%21%24%27%28"
                                                     "%29%2A%2C%3B" },
        { "/\xc3\xbc", "/%C3%BC" }, { "/\xff", "/%FF" }
    };
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(cases); i++) {
        char want[64];
        unit_same(cases[i].path, want, slow_path(want, cases[i].path),
                  cases[i].canonical, strlen(cases[i].canonical));
        check_path(cases[i].path);
    }
}


/* Every path of up to nine of these characters. */
static void
test_path_all(void **state)
{
    static const char chars[] = "/.a";
    char path[12];
    size_t len, i, n, total = 1;

    (void)state;
    for (len = 1; len <= 9; len++) {
        for (i = 0; i < total; i++) {
            size_t rest = i;
            path[0] = '/';
            for (n = 1; n < len; n++, rest /= 3)
                path[n] = chars[rest % 3];
            path[len] = '\0';
            check_path(path);
        }
        total *= 3;
    }
}


/* ---- step 1: the query ------------------------------------------------- */

/* Split at &, split at =, sorted by exchanging neighbours. */
static size_t
slow_query(char *out, const char *query)
{
    char texts[16][2][24], swap[2][24];
    size_t count = 0, i, k, used = 0;
    const char *at = query;

    while (*query != '\0') {
        size_t len = strcspn(at, "&"), name = strcspn(at, "&=");
        size_t value = name < len ? name + 1 : len;
        snprintf(texts[count][0], 24, "%.*s", (int)name, at);
        snprintf(texts[count++][1], 24, "%.*s", (int)(len - value),
                 at + value);
        if (at[len] == '\0')
            break;
        at += len + 1;
    }
    for (i = 0; i < count; i++)
        for (k = 1; k < count - i; k++) {
            int order = strcmp(texts[k - 1][0], texts[k][0]);
            if (order == 0)
                order = strcmp(texts[k - 1][1], texts[k][1]);
            if (order <= 0)
                continue;
            memcpy(swap, texts[k], sizeof swap);
            memcpy(texts[k], texts[k - 1], sizeof swap);
            memcpy(texts[k - 1], swap, sizeof swap);
        }
    for (i = 0; i < count; i++)
        used += (size_t)snprintf(out + used, 64, "%s%s=%s", i > 0 ? "&" : "",
                                 texts[i][0], texts[i][1]);
    return used;
}


static void
check_query(const char *query)
{
    char want[1024];
    size_t n = slow_query(want, query);
    char *exact = (char *)unit_exact(query, strlen(query) + 1);
    kaws__buf got;
    kaws__sink sink = sink_of(&got);

    assert_true(kaws__sigv4_query(&sink, exact));
    unit_same(query, got.at, got.len, want, n);
    kaws__buf_free(&got);
    free(exact);
}


static void
test_query_table(void **state)
{
    static const struct { const char *query, *canonical; } cases[] = {
        { "", "" }, { "a", "a=" }, { "a=", "a=" }, { "a=1", "a=1" },
        { "a==", "a==" }, { "a=b=c", "a=b=c" }, { "=", "=" }, { "=1", "=1" },
        { "b=1&a=2", "a=2&b=1" }, { "a=2&a=1", "a=1&a=2" },
        { "a=1&a", "a=&a=1" }, { "a&b", "a=&b=" }, { "&", "=&=" },
        { "a=1&", "=&a=1" }, { "&a=1", "=&a=1" }, { "b&&a", "=&a=&b=" },
        { "a-b=1&a=2", "a=2&a-b=1" }, { "ab=1&a=2", "a=2&ab=1" },
        { "a=B&a=a&A=c", "A=c&a=B&a=a" }, { "a=%20&a=+", "a=%20&a=+" },
        { "%C3%BC=1&z=2", "%C3%BC=1&z=2" }, { "a=1/2?3", "a=1/2?3" }
    };
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(cases); i++) {
        char want[64];
        unit_same(cases[i].query, want, slow_query(want, cases[i].query),
                  cases[i].canonical, strlen(cases[i].canonical));
        check_query(cases[i].query);
    }
}


/* Every query of up to seven of these characters. */
static void
test_query_all(void **state)
{
    static const char chars[] = "&=ab";
    char query[8];
    size_t len, i, n, total = 1;

    (void)state;
    for (len = 0; len <= 7; len++) {
        for (i = 0; i < total; i++) {
            size_t rest = i;
            for (n = 0; n < len; n++, rest /= 4)
                query[n] = chars[rest % 4];
            query[len] = '\0';
            check_query(query);
        }
        total *= 4;
    }
}


/* ---- step 1: the headers ----------------------------------------------- */

static void
test_header_values(void **state)
{
    static const struct { const char *value, *canonical; } cases[] = {
        { "", "" }, { " ", "" }, { "\t \t", "" }, { "x", "x" },
        { " x", "x" }, { "x ", "x" }, { "\tx\t", "x" }, { "x y", "x y" },
        { "x  y", "x y" }, { "x\ty", "x y" }, { " x \t y  z ", "x y z" },
        { "\"x  y\"", "\"x y\"" }, { "x,  y", "x, y" }, { "x:y", "x:y" },
        { "\xc3\xbc", "\xc3\xbc" }, { "X", "X" }
    };
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(cases); i++) {
        size_t len = strlen(cases[i].value);
        uint8_t *exact = unit_exact(cases[i].value, len);
        kaws__buf got;
        kaws__sink sink = sink_of(&got);
        kaws__sigv4_value(&sink, unit_bytes(exact, len));
        unit_same(cases[i].value, got.at, got.len, cases[i].canonical,
                  strlen(cases[i].canonical));
        kaws__buf_free(&got);
        free(exact);
    }
}


/* In whatever order headers of different names come, and in whatever case. */
static void
test_header_order(void **state)
{
    const char *lines[] = {
        "Host: a", "accept: b", "X-Amz-Target: c", "content-type: d",
        "a: e", "aa: f", "a-a: g", "A_A: h", "z: i",
        "a-long-name-of-more-than-32-bytes-to-be-lowered-in-Two-Parts: j", NULL
    };
    size_t count = UNIT_COUNT(lines) - 1, round, i;
    kaws_signing q = request();
    char first[1024];

    (void)state;
    unit_start();
    q.headers = lines;
    snprintf(first, sizeof first, "%s", sign(&q, creds));
    assert_non_null(strstr(first, "SignedHeaders=a;a-a;a-long-name-of-more-"
        "than-32-bytes-to-be-lowered-in-two-parts;a_a;aa;accept;content-type;"
        "host;x-amz-date;x-amz-target;z, "));
    for (round = 0; round < 200; round++) {
        for (i = 0; i < count; i++) {
            size_t k = unit_random((uint32_t)count);
            const char *line = lines[i];
            lines[i] = lines[k];
            lines[k] = line;
        }
        unit_same_text("headers in another order", sign(&q, creds), first);
    }
}


/* The order of headers of one name does matter. */
static void
test_header_repeated(void **state)
{
    const char *there[] = { "Host: a", "x: 1", "X: 2", "y: 3", NULL };
    const char *moved[] = { "x: 1", "y: 3", "X: 2", "host: a", NULL };
    const char *other[] = { "Host: a", "x: 2", "X: 1", "y: 3", NULL };
    const char *joined[] = { "Host: a", "x: 1,2", "y: 3", NULL };
    kaws_signing q = request();
    const char *first;

    (void)state;
    q.headers = there;
    first = sign(&q, creds);
    q.headers = moved;
    unit_same_text("moved", sign(&q, creds), first);
    q.headers = joined;
    unit_same_text("joined", sign(&q, creds), first);
    q.headers = there;
    first = sign(&q, creds);
    q.headers = other;
    assert_string_not_equal(sign(&q, creds), first);
}


/* Date and token are signed, once, be they among the headers or not. */
static void
test_date_and_token(void **state)
{
    static const char *const all[] = {
        "Host: example.amazonaws.com", "x-AMZ-date: 20150830T123600Z",
        "X-amz-SECURITY-token: a token", NULL
    };
    kaws_creds with = { ID, SECRET, "a token" }, empty = { ID, SECRET, "" };
    kaws_signing q = request();
    const char *first = sign(&q, with);

    (void)state;
    assert_non_null(strstr(first, "=host;x-amz-date;x-amz-security-token, "));
    q.headers = all;
    unit_same_text("already there", sign(&q, with), first);
    unit_same_text("as a header only", sign(&q, creds), first);
    q.headers = host_only;
    first = sign(&q, creds);
    assert_non_null(strstr(first, "SignedHeaders=host;x-amz-date, "));
    unit_same_text("an empty token is none", sign(&q, empty), first);
}


/* ---- everything that is signed, is ------------------------------------- */

static void
test_all_counts(void **state)
{
    static const char *const other_host[] = { "Host: example.com", NULL };
    kaws_signing q, plain = request();
    kaws_creds who = creds;
    char first[1024];
    int i;

    (void)state;
    plain.body = kaws__buf_of("body");
    plain.query = "a=1";
    snprintf(first, sizeof first, "%s", sign(&plain, creds));
    for (i = 0; i < 11; i++) {
        const char *now;
        q = plain;
        who = creds;
        q.method = i == 0 ? "POST" : q.method;
        q.path = i == 1 ? "/a" : q.path;
        q.query = i == 2 ? "a=2" : q.query;
        q.region = i == 3 ? "us-east-2" : q.region;
        q.service = i == 4 ? "services" : q.service;
        q.headers = i == 5 ? other_host : q.headers;
        q.body = i == 6 ? kaws__buf_of("bodY") : q.body;
        q.when += i == 7;
        who.secret = i == 8 ? "another" : who.secret;
        who.token = i == 9 ? "token" : NULL;
        who.id = i == 10 ? "AKIDOTHER" : who.id;
        now = sign(&q, who);
        if (strcmp(now, first) == 0)
            fail_msg("change %d does not matter", i);
        if (i == 10)                      /* the id is said, not signed       */
            unit_same_text("of another id", strstr(now, "Signature="),
                           strstr(first, "Signature="));
    }
    q = plain;
    q.query = NULL;
    snprintf(first, sizeof first, "%s", sign(&q, creds));
    q.query = "";
    unit_same_text("an empty query is none", sign(&q, creds), first);
    q.path = "/";
    snprintf(first, sizeof first, "%s", sign(&q, creds));
    q.path = "";
    unit_same_text("an empty path is /", sign(&q, creds), first);
}


/* ---- limits ------------------------------------------------------------ */

/* Room for the header and its NUL is enough, one byte less is not; nothing is
 * written behind it, and what is refused leaves an empty text. */
static void
test_room(void **state)
{
    kaws_signing q = request();
    const char *want = sign(&q, creds);
    size_t cap, len = strlen(want);

    (void)state;
    for (cap = 0; cap <= len + 2; cap++) {
        char *out = (char *)unit_exact(NULL, cap);
        kaws_error err;
        kaws_status status;
        memset(out, 'x', cap > 0 ? cap : 1);
        status = kaws_sign(&q, creds, out, cap, &err);
        if (cap > len) {
            assert_int_equal(status, KAWS_OK);
            unit_same_text("in that room", out, want);
        } else {
            assert_int_equal(status, KAWS_ARGUMENT);
            assert_non_null(strstr(err.text, "room for the Authorization"));
            assert_int_equal(out[0], cap > 0 ? 0 : 'x');
        }
        free(out);
    }
}


static void
test_most_headers(void **state)
{
    static char lines[66][24];
    const char *headers[67];
    kaws_signing q = request();
    size_t count, i;

    (void)state;
    q.headers = headers;
    for (count = 63; count <= 66; count++) {
        for (i = 0; i < count; i++) {
            snprintf(lines[i], sizeof lines[i], "X-%02u: %u",
                     (unsigned)(i * 7 % 66), (unsigned)i);
            headers[i] = lines[i];
        }
        headers[0] = "Host: a";
        headers[count] = NULL;
        if (count <= 64)
            (void)sign(&q, (kaws_creds){ ID, SECRET, "token" });
        else
            refused("too many headers", &q, creds, "more than 64 headers");
    }
}


static void
test_most_parameters(void **state)
{
    char query[64 * 4 + 8];
    kaws_signing q = request();
    size_t i, used = 0;

    (void)state;
    q.query = query;
    for (i = 0; i < 64; i++)
        used += (size_t)snprintf(query + used, sizeof query - used, "%s%02u",
                                 i > 0 ? "&" : "", (unsigned)(i * 5 % 64));
    (void)sign(&q, creds);
    query[used] = '&';
    query[used + 1] = '\0';
    refused("too many parameters", &q, creds, "more than 64 query parameters");
}


/* Names of region and service share a room of 133 bytes, a secret has 256. */
static void
test_long_names(void **state)
{
    char region[200], secret[300];
    kaws_signing q = request();
    kaws_creds who = creds;
    size_t n;

    (void)state;
    q.region = region;
    q.service = "kms";
    for (n = 120; n < 140; n++) {
        memset(region, 'r', n);
        region[n] = '\0';
        if (n + 3 <= 133)
            (void)sign(&q, creds);
        else
            refused("long region", &q, creds, "region and service");
    }
    q.region = REGION;
    who.secret = secret;
    for (n = 250; n < 260; n++) {
        memset(secret, 's', n);
        secret[n] = '\0';
        if (n <= 256)
            (void)sign(&q, who);
        else
            refused("long secret", &q, who, "longer than 256");
    }
}


/* A secret is hashed whole, to its last byte. */
static void
test_whole_secret(void **state)
{
    char secret[257];
    kaws_creds who = { ID, NULL, NULL };
    kaws_signing q = request();
    const char *first;

    (void)state;
    who.secret = secret;
    memset(secret, 's', 256);
    secret[256] = '\0';
    first = sign(&q, who);
    secret[255] = 't';
    assert_string_not_equal(sign(&q, who), first);
}


/* ---- absurd arguments -------------------------------------------------- */

static void
test_null(void **state)
{
    char out[1024];
    kaws_error err;
    kaws_creds who;
    kaws_signing q;
    int i;

    (void)state;
    for (i = 0; i < 8; i++) {
        kaws_status status;
        memset(out, 'x', sizeof out);
        q = request();
        who = creds;
        q.method = i == 0 ? NULL : q.method;
        q.path = i == 1 ? NULL : q.path;
        q.region = i == 2 ? NULL : q.region;
        q.service = i == 3 ? NULL : q.service;
        who.id = i == 4 ? NULL : who.id;
        who.secret = i == 5 ? NULL : who.secret;
        status = kaws_sign(i == 6 ? NULL : &q, who, i == 7 ? NULL : out,
                           sizeof out, &err);
        assert_int_equal(status, KAWS_ARGUMENT);
        assert_non_null(strstr(err.text, "must not be NULL"));
        assert_int_equal(out[0], i == 7 ? 'x' : 0);
    }
    assert_int_equal(kaws_sign(NULL, creds, NULL, 0, NULL), KAWS_ARGUMENT);
    q = request();
    q.headers = NULL;
    refused("no headers", &q, creds, "no Host header");
    q = request();
    q.body.len = 1;
    refused("no body", &q, creds, "the body is NULL");
}


/* Words that go between the slashes of the scope. */
static void
test_absurd_words(void **state)
{
    static const char *const bad[] = {
        "", " ", "a b", "a/b", "/", "a\n", "\ta", "a\x7f", "\xc3\xbc", "a\r\nb"
    };
    size_t i, k;

    (void)state;
    for (i = 0; i < UNIT_COUNT(bad); i++)
        for (k = 0; k < 4; k++) {
            kaws_signing q = request();
            kaws_creds who = creds;
            q.method = k == 0 ? bad[i] : q.method;
            q.region = k == 1 ? bad[i] : q.region;
            q.service = k == 2 ? bad[i] : q.service;
            who.id = k == 3 ? bad[i] : who.id;
            refused(bad[i], &q, who, "must be words");
        }
}


/* A line break could make one header look like two. */
static void
test_absurd_texts(void **state)
{
    static const struct {
        const char *path, *query, *token, *secret, *words;
    } cases[] = {
        { "a", NULL, NULL, "s", "begin with a slash" },
        { "?a", NULL, NULL, "s", "begin with a slash" },
        { "\n/", NULL, NULL, "s", "begin with a slash" },
        { "/\n", NULL, NULL, "s", "line break" },
        { "/a\rb", NULL, NULL, "s", "line break" },
        { "/", "a\nb", NULL, "s", "line break" },
        { "/", "a\r", NULL, "s", "line break" },
        { "/", NULL, "token\nx: y", "s", "line break" },
        { "/", NULL, NULL, "", "secret is empty" }
    };
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(cases); i++) {
        kaws_signing q = request();
        kaws_creds who = { ID, NULL, NULL };
        q.path = cases[i].path;
        q.query = cases[i].query;
        who.token = cases[i].token;
        who.secret = cases[i].secret;
        refused(cases[i].words, &q, who, cases[i].words);
    }
}


static void
test_absurd_headers(void **state)
{
    static const struct { const char *line, *words; } cases[] = {
        { "", "no name" }, { ":", "no name" }, { ": value", "no name" },
        { "name", "no colon" }, { "name value", "no colon" },
        { "name : value", "no colon" }, { "na me: value", "no colon" },
        { " name: value", "no name" }, { "na\tme: value", "no colon" },
        { "na\nme: value", "no colon" }, { "name: a\nother: b", "line break" },
        { "name: a\r\n b", "line break" }, { "name:\n", "line break" }
    };
    const char *lines[3] = { "Host: a", NULL, NULL };
    kaws_signing q = request();
    size_t i;

    (void)state;
    q.headers = lines;
    for (i = 0; i < UNIT_COUNT(cases); i++) {
        lines[1] = cases[i].line;
        refused(cases[i].line, &q, creds, cases[i].words);
    }
    lines[0] = "X-Host: a";
    lines[1] = NULL;
    refused("no Host", &q, creds, "no Host header");
}


static void
test_absurd_times(void **state)
{
    static const int64_t bad[] = { 0, -1, INT64_MIN, 253402300800, INT64_MAX };
    kaws_signing q = request();
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(bad); i++) {
        q.when = bad[i];
        refused("the time", &q, creds, "between the years");
    }
    q.when = 1;
    assert_non_null(strstr(sign(&q, creds), "/19700101/"));
    q.when = 253402300799;
    assert_non_null(strstr(sign(&q, creds), "/99991231/"));
}


int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published),
        cmocka_unit_test(test_key),
        cmocka_unit_test(test_path_table),
        cmocka_unit_test(test_path_all),
        cmocka_unit_test(test_query_table),
        cmocka_unit_test(test_query_all),
        cmocka_unit_test(test_header_values),
        cmocka_unit_test(test_header_order),
        cmocka_unit_test(test_header_repeated),
        cmocka_unit_test(test_date_and_token),
        cmocka_unit_test(test_all_counts),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_most_headers),
        cmocka_unit_test(test_most_parameters),
        cmocka_unit_test(test_long_names),
        cmocka_unit_test(test_whole_secret),
        cmocka_unit_test(test_null),
        cmocka_unit_test(test_absurd_words),
        cmocka_unit_test(test_absurd_texts),
        cmocka_unit_test(test_absurd_headers),
        cmocka_unit_test(test_absurd_times)
    };

    return cmocka_run_group_tests_name("sigv4", tests, NULL, NULL);
}
