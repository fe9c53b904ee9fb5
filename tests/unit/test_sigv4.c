/* test_sigv4.c - room sigv4: what AWS published, and what is refused
 *
 * tests/test_sigv4.py compares random requests, and all short paths and
 * queries, with botocore.
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"

#include "unit.h"
#include "canonical.h"

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


/* The Authorization of a request that must be signed. */
static const char *
sign(const kaws_signing *q, kaws_creds who)
{
    static char texts[2][2048];
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
    static const char zeros[1024];
    char out[1024];
    kaws_error err;

    memset(out, 'x', sizeof out);
    if (kaws_sign(q, who, out, sizeof out, &err) != KAWS_ARGUMENT)
        fail_msg("%s: was signed", what);
    assert_int_equal(err.status, KAWS_ARGUMENT);
    if (strstr(err.text, words) == NULL ||
        strncmp(err.text, "cannot sign: ", 13) != 0)
        fail_msg("%s: %s", what, err.text);
    assert_memory_equal(out, zeros, sizeof out);
    assert_int_equal(kaws_sign(q, who, out, sizeof out, NULL), KAWS_ARGUMENT);
}


/* ---- what AWS published, step by step ---------------------------------- */

/* Steps 1 and 2, if the record has them; `hash` names the field of step 2. */
static void
check_steps(const unit_file *f, const kaws_signing *q, const char *query,
            const char *token, const char *hash)
{
    const char *line, *published = unit_field(f, hash, 0);
    uint8_t digest[32];
    char hex[65];
    kaws__buf got, want;
    size_t i;

    kaws__buf_init(&got, unit_hooks());
    kaws__buf_init(&want, unit_hooks());
    assert_null(canonical_request(&got, q, query, token));
    for (i = 0; (line = unit_field(f, "canonical", i)) != NULL; i++)
        kaws__buf_text(&want, i > 0 ? "\n" : "", line);
    if (i > 0 && q->expires == 0)
        unit_same("step 1, the canonical request", got.at, got.len, want.at,
                  want.len);
    kaws__crypto_sha256(digest, kaws__buf_view(&got));
    kaws__text_hex(hex, digest, sizeof digest);
    if (published != NULL)
        unit_same_text("step 2, its hash", hex, published);
    kaws__buf_free(&got);
    kaws__buf_free(&want);
}


static void
check_header(const unit_file *f, const kaws_signing *q, kaws_creds who)
{
    char whole[1024], date[17];

    check_steps(f, q, q->query, who.token, "hash");
    snprintf(whole, sizeof whole, "AWS4-HMAC-SHA256 Credential=%s/%.8s/"
             "us-east-1/%s/aws4_request, SignedHeaders=%s, Signature=%s",
             who.id, kaws_amz_date(date, q->when), q->service,
             unit_must(f, "signed"), unit_must(f, "signature"));
    unit_same_text("the Authorization", sign(q, who), whole);
}


/* The query of the same request, if it is presigned. */
static void
check_presigned(const unit_file *f, const kaws_signing *q, kaws_creds who)
{
    char query[2048], *end;

    snprintf(query, sizeof query, "%s", sign(q, who));
    end = strstr(query, "&X-Amz-Signature=");
    assert_non_null(end);
    unit_same_text("the signature in the query", strchr(end, '=') + 1,
                   unit_must(f, "presigned"));
    assert_true(strstr(query, "X-Amz-Security-Token=") != NULL ||
                who.token == NULL);
    canonical_cut(query, q);
    check_steps(f, q, query, who.token, "presigned-hash");
}


static const char *
field_or(const unit_file *f, const char *name, const char *other)
{
    const char *value = unit_field(f, name, 0);

    return value != NULL ? value : other;
}


static void
test_aws_published_signatures(void **state)
{
    unit_file f;
    size_t count = 0, presigned = 0;

    (void)state;
    unit_open(&f, __FILE__, "sigv4.txt");
    while (unit_next(&f)) {
        const char *headers[UNIT_FIELDS + 1];
        kaws_creds who = { field_or(&f, "id", ID),
                           field_or(&f, "secret", SECRET),
                           unit_field(&f, "token", 0) };
        kaws_signing q = request();
        size_t i, len;
        uint8_t *path = unit_undo(unit_must(&f, "path"), &len);
        char *text = malloc(len + 1);
        assert_non_null(text);
        memcpy(text, path, len);
        text[len] = '\0';
        q.path = text;
        q.method = unit_must(&f, "method");
        q.query = unit_field(&f, "query", 0);
        for (i = 0; (headers[i] = unit_field(&f, "header", i)) != NULL; i++)
            continue;
        q.headers = headers;
        q.body = kaws__buf_of(field_or(&f, "body", ""));
        q.service = field_or(&f, "service", "service");
        q.when = strtoll(field_or(&f, "when", "1440938160"), NULL, 10);
        q.path_as_sent = unit_field(&f, "path-as-sent", 0) != NULL;
        q.payload = unit_field(&f, "payload", 0);
        q.token_unsigned = unit_field(&f, "token-unsigned", 0) != NULL;
        if (unit_field(&f, "signature", 0) != NULL)
            check_header(&f, &q, who);
        q.expires = (int)strtol(field_or(&f, "expires", "3600"), NULL, 10);
        if (unit_field(&f, "presigned", 0) != NULL) {
            check_presigned(&f, &q, who);
            presigned++;
        }
        free(text);
        free(path);
        count++;
    }
    unit_close(&f);
    assert_in_range(count, 44, 1000);     /* AWS's suite has 38               */
    assert_in_range(presigned, 39, 1000);
}


/* ---- step 1: paths, queries and headers as they are signed -------------- */

/* Each row is a request's path (it begins with a slash), query (with a '?') or
 * header x, and what the canonical request has for it. */
static void
test_the_canonical_request(void **state)
{
    static const struct { const char *is, *canonical; } rows[] = {
        { "/", "/" }, { "/a/", "/a/" }, { "//a//b//", "/a/b/" },
        { "/a/.", "/a" }, { "/a/./", "/a/" }, { "/a/b/..", "/a" },
        { "/a/../", "/" }, { "/..", "/" }, { "/a/../../b", "/b" },
        { "/a/b/../c/../../d", "/d" }, { "/a/.../b", "/a/.../b" },
        { "/..a/.a/a./a..", "/..a/.a/a./a.." },
        { "/%2e%2e/a%2Fb", "/%252e%252e/a%252Fb" }, { "/ +", "/%20%2B" },
        { "/~-_.=&", "/~-_.%3D%26" }, { "/\xc3\xbc\xff", "/%C3%BC%FF" },
        { "?", "" }, { "?a", "a=" }, { "?a==", "a==" }, { "?=1", "=1" },
        { "?b=1&a=2", "a=2&b=1" }, { "?a=2&a=1&a", "a=&a=1&a=2" },
        { "?&", "=&=" }, { "?a=1&", "=&a=1" }, { "?b&&a", "=&a=&b=" },
        { "?a-b=1&ab=1&a=2", "a=2&a-b=1&ab=1" },
        { "?a=B&a=a&A=c", "A=c&a=B&a=a" }, { "?a=%20+/?", "a=%20+/?" },
        { "X-A-Name-That-Is-Longer-Than-32-Bytes: Y",
          "x-a-name-that-is-longer-than-32-bytes:Y" },
        { "X:", "x:" }, { "x: \t ", "x:" }, { "x: y", "x:y" },
        { "X:\ty\t", "x:y" }, { "x: y \t Z  z ", "x:y Z z" },
        { "x:\"y  y\",  :", "x:\"y y\", :" }, { "x:\xc3\xbc", "x:\xc3\xbc" }
    };
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(rows); i++) {
        const char *is = rows[i].is, *lines[] = { "Host: h", NULL, NULL };
        char *exact = (char *)unit_exact(is, strlen(is) + 1), want[256];
        kaws_signing q = request();
        kaws__buf got;
        q.path = *is == '/' ? exact : q.path;
        q.query = *is == '?' ? exact + 1 : q.query;
        lines[1] = *is != '/' && *is != '?' ? exact : NULL;
        q.headers = lines;
        kaws__buf_init(&got, unit_hooks());
        assert_null(canonical_request(&got, &q, q.query, NULL));
        snprintf(want, sizeof want, "GET\n%s\n%s\nhost:h\nx-amz-date:"
                 "20150830T123600Z\n", *is == '/' ? rows[i].canonical : "/",
                 *is == '?' ? rows[i].canonical : "");
        if (lines[1] != NULL)
            snprintf(want, sizeof want, "GET\n/\n\nhost:h\n%s\nx-amz-date:"
                     "20150830T123600Z\n", rows[i].canonical);
        unit_same(is, got.at, strlen(want), want, strlen(want));
        kaws__buf_free(&got);
        free(exact);
    }
}


/* The path as S3 wants it: nothing is removed, and what is encoded stays. */
static void
test_s3_paths_stay_as_they_are(void **state)
{
    static const struct { const char *is, *canonical; } rows[] = {
        { "", "/" }, { "/", "/" }, { "//a//b//", "//a//b//" },
        { "/a/./../b/.", "/a/./../b/." }, { "/..", "/.." },
        { "/%2e%2F%20", "/%2e%2F%20" }, { "/a b+c", "/a%20b%2Bc" },
        { "/$,:@&=;!*'()", "/%24%2C%3A%40%26%3D%3B%21%2A%27%28%29" },
        { "/~-_.aZ09", "/~-_.aZ09" }, { "/\xc3\xbc\xff", "/%C3%BC%FF" },
        { "/?#", "/%3F%23" }, { "/%", "/%" }
    };
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(rows); i++) {
        char *exact = (char *)unit_exact(rows[i].is, strlen(rows[i].is) + 1);
        kaws_signing q = request();
        kaws__buf got;
        char want[256];
        q.path = exact;
        q.path_as_sent = 1;
        kaws__buf_init(&got, unit_hooks());
        assert_null(canonical_request(&got, &q, NULL, NULL));
        snprintf(want, sizeof want, "GET\n%s\n\nhost:", rows[i].canonical);
        unit_same(rows[i].is, got.at, strlen(want), want, strlen(want));
        kaws__buf_free(&got);
        free(exact);
    }
}


/* Date and token are signed, once, be they among the headers or not. */
static void
test_date_and_token_are_signed_once(void **state)
{
    static const char *const all[] = {
        "Host: example.amazonaws.com", "x-AMZ-date: 20150830T123600Z",
        "X-amz-SECURITY-token: a token", NULL
    };
    static const char *const twice[] = { "Host: h", "X: a", "x: b", NULL };
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
    q.headers = twice;                    /* one name, in two cases           */
    assert_non_null(strstr(sign(&q, creds), "=host;x;x-amz-date, "));
}


/* The payload takes the body's place, and is signed as a header, once. */
static void
test_a_payload_is_signed_once(void **state)
{
    static const char *const listed[] = {
        "Host: example.amazonaws.com",
        "x-AMZ-content-sha256: UNSIGNED-PAYLOAD", NULL
    };
    kaws_signing q = request();
    char hex[65], first[1024];
    kaws__buf got;

    (void)state;
    q.body = kaws__buf_of("Param1=value1");
    unit_same_text("the body's hash", kaws_payload_sha256(hex, q.body),
                   "9095672bbd1f56dfc5b65f3e153adc87"
                   "31a4a654192329106275f4c7b24d0b6e");
    snprintf(first, sizeof first, "%s", sign(&q, creds));
    q.payload = "";
    unit_same_text("an empty payload is none", sign(&q, creds), first);
    q.payload = "UNSIGNED-PAYLOAD";
    snprintf(first, sizeof first, "%s", sign(&q, creds));
    assert_non_null(strstr(first, "=host;x-amz-content-sha256;x-amz-date, "));
    q.headers = listed;
    unit_same_text("already there", sign(&q, creds), first);
    q.headers = host_only;
    q.body = kaws__buf_of("other");
    unit_same_text("the body is not looked at", sign(&q, creds), first);
    kaws__buf_init(&got, unit_hooks());
    assert_null(canonical_request(&got, &q, NULL, NULL));
    unit_same("its end", got.at + got.len - 17, 17, "\nUNSIGNED-PAYLOAD", 17);
    kaws__buf_free(&got);
}


/* An unsigned token changes nothing that is signed. */
static void
test_an_unsigned_token_changes_nothing(void **state)
{
    kaws_creds with = { ID, SECRET, "a/token=" };
    kaws_signing q = request();
    char first[2048], whole[2048];
    size_t len;

    (void)state;
    snprintf(first, sizeof first, "%s", sign(&q, creds));
    q.token_unsigned = 1;
    unit_same_text("a header", sign(&q, with), first);
    unit_same_text("without a token", sign(&q, creds), first);
    q.expires = 60;
    snprintf(first, sizeof first, "%s", sign(&q, creds));
    len = strlen(first) - strlen("&X-Amz-Signature=") - 64;
    snprintf(whole, sizeof whole, "%.*s&X-Amz-Security-Token=a%%2Ftoken%%3D%s",
             (int)len, first, first + len);
    unit_same_text("a query", sign(&q, with), whole);
}


/* ---- presigned URLs ---------------------------------------------------- */

static void
test_a_presigned_url_has_the_signature(void **state)
{
    static const char *const headers[] = {
        "Host: h", "X!y: 1", "X-Amz-Meta_a: 2", "range:bytes=0-9", NULL
    };
    static const char want[] =
        "b=1&a=%20&&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2B"
        "%2F20150830%2Fus-east-1%2Fservice%2Faws4_request&X-Amz-Date="
        "20150830T123600Z&X-Amz-Expires=604800&X-Amz-SignedHeaders="
        "host%3Brange%3Bx%21y%3Bx-amz-meta_a&X-Amz-Security-Token=%2B%2F%20%C3"
        "&X-Amz-Signature=";
    kaws_creds who = { "AK+", SECRET, "+/ \xc3" };
    kaws_signing q = request();
    char first[2048], date[17];

    (void)state;
    q.query = "b=1&a=%20&";
    q.headers = headers;
    q.expires = 604800;
    snprintf(first, sizeof first, "%s", sign(&q, who));
    unit_same("the query", first, strlen(first) - 64, want, strlen(want));
    assert_int_equal(strspn(first + strlen(want), "0123456789abcdef"), 64);
    q.expires--;
    assert_null(strstr(sign(&q, who), first + strlen(want)));
    q = request();
    q.expires = 1;
    assert_non_null(strstr(sign(&q, creds), "&X-Amz-Expires=1&X-Amz-Signed"));
    assert_int_equal(strncmp(sign(&q, creds), "X-Amz-Algorithm=", 16), 0);
    assert_non_null(strstr(sign(&q, creds), kaws_amz_date(date, q.when)));
    assert_non_null(strstr(sign(&q, creds), "SignedHeaders=host&X-Amz-Sig"));
    snprintf(first, sizeof first, "%s", sign(&q, creds));
    who.id = ID;
    who.token = "";
    q.query = "";
    unit_same_text("nothing is none", sign(&q, who), first);
    q.payload = "UNSIGNED-PAYLOAD";       /* signed, but it adds no header   */
    assert_non_null(strstr(sign(&q, creds), "SignedHeaders=host&X-Amz-Sig"));
}


/* 5 parameters are ours, 6 with a token, 5 again if it is not signed; 64 are
 * signed at most. */
static void
test_presigned_urls_take_64_parameters(void **state)
{
    char query[2 * 64 + 1] = "";
    kaws_creds with = { ID, SECRET, "t" };
    size_t count;

    (void)state;
    for (count = 1; count <= 62; count++) {
        kaws_signing q = request();
        q.expires = 60;
        snprintf(query + 2 * (count - 1), 3, "a&");
        query[2 * count - 1] = '\0';
        q.query = query;
        if (count <= 59)
            (void)sign(&q, creds);
        else
            refused("parameters", &q, creds, "more than 64 query parameters");
        if (count <= 58)
            (void)sign(&q, with);
        else
            refused("parameters", &q, with, "more than 64 query parameters");
        q.token_unsigned = 1;
        if (count <= 59)
            (void)sign(&q, with);
        query[2 * count - 1] = '&';
    }
}


static void
test_which_presigned_urls_are_refused(void **state)
{
    static const int times[] = { -1, INT_MIN, 604801, INT_MAX };
    kaws_signing q = request();
    char twice[2048];
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(times); i++) {
        q.expires = times[i];
        refused("seconds", &q, creds, "expires after 1 to 604800 seconds");
    }
    q.expires = 60;
    snprintf(twice, sizeof twice, "%s", sign(&q, creds));
    q.query = twice;
    refused("twice", &q, creds, "is that of a presigned URL");
    q.expires = 0;                        /* as a query it is any other      */
    (void)sign(&q, creds);
    q.query = NULL;
    q.expires = 60;
    q.headers = NULL;
    refused("without Host", &q, creds, "no Host header");
}


/* ---- what the caller sends --------------------------------------------- */

static void
test_amz_date(void **state)
{
    static const struct { int64_t when; const char *date; } rows[] = {
        { 1, "19700101T000001Z" }, { WHEN, "20150830T123600Z" },
        { 951782400, "20000229T000000Z" },
        { 253402300799, "99991231T235959Z" }, { 0, "" }, { -1, "" },
        { 253402300800, "" }, { INT64_MIN, "" }, { INT64_MAX, "" }
    };
    char out[17];
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(rows); i++) {
        memset(out, 'x', sizeof out);
        assert_ptr_equal(kaws_amz_date(out, rows[i].when), out);
        unit_same_text("the date", out, rows[i].date);
    }
}


/* ---- everything that is signed, is ------------------------------------- */

static void
test_each_signed_part_counts(void **state)
{
    static const char *const other_host[] = { "Host: example.com", NULL };
    kaws_signing q, plain = request();
    kaws_creds who = creds;
    const struct { const char **field, *value; } changes[] = {
        { &q.method, "POST" }, { &q.path, "/a" }, { &q.query, "a=2" },
        { &q.region, "us-east-2" }, { &q.service, "services" },
        { &who.secret, "another" }, { &who.token, "token" },
        { &who.id, "AKIDOTHER" }
    };
    char first[1024];
    size_t i;

    (void)state;
    plain.body = kaws__buf_of("body");
    plain.query = "a=1";
    snprintf(first, sizeof first, "%s", sign(&plain, creds));
    for (i = 0; i < 13; i++) {
        q = plain;
        who = creds;
        if (i < UNIT_COUNT(changes))
            *changes[i].field = changes[i].value;
        q.headers = i == 8 ? other_host : q.headers;
        q.body = i == 9 ? kaws__buf_of("bodY") : q.body;
        q.when += i == 10;
        q.payload = i == 11 ? "UNSIGNED-PAYLOAD" : NULL;
        q.expires = i == 12;
        if (strcmp(sign(&q, who), first) == 0)
            fail_msg("change %lu does not matter", (unsigned long)i);
        if (i == 7)                       /* the id is said, not signed       */
            unit_same_text("of another id", strstr(sign(&q, who), "Signature="),
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

/* Room for the result and its NUL is enough, one byte less is not; nothing is
 * written behind it, and what is refused leaves zeros. */
static void
check_room(const kaws_signing *q, const char *words)
{
    kaws_creds with = { ID, SECRET, "a/secret/token" };
    const char *want = sign(q, with);
    size_t cap, len = strlen(want), i;

    for (cap = 0; cap <= len + 2; cap++) {
        char *out = (char *)unit_exact(NULL, cap);
        kaws_error err;
        memset(out, 'x', cap > 0 ? cap : 1);
        assert_int_equal(kaws_sign(q, with, out, cap, &err),
                         cap > len ? KAWS_OK : KAWS_ARGUMENT);
        assert_int_equal(strstr(err.text, words) != NULL, cap <= len);
        if (cap > len)
            unit_same_text("in that room", out, want);
        for (i = 0; cap <= len && i < cap; i++)
            assert_int_equal(out[i], 0);
        if (cap == 0)
            assert_int_equal(out[0], 'x');
        free(out);
    }
}


static void
test_one_byte_less_is_too_small(void **state)
{
    kaws_signing q = request();

    (void)state;
    check_room(&q, "room for the Authorization");
    q.expires = 3600;
    q.query = "a=1";
    check_room(&q, "room for the query");
    q.token_unsigned = 1;
    check_room(&q, "room for the query");
}


/* 64 headers, with the three that are added, and 64 parameters are signed; 65
 * are refused. */
static void
test_64_headers_and_parameters_are_signed(void **state)
{
    static char lines[66][24];
    const char *headers[67];
    char query[66 * 2 + 1] = "";
    size_t count, i;

    (void)state;
    for (count = 1; count <= 66; count++) {
        kaws_signing q = request();
        for (i = 0; i < count; i++) {
            snprintf(lines[i], sizeof lines[i], "X-%02u: %u",
                     (unsigned)(i * 7 % 66), (unsigned)i);
            headers[i] = i > 0 ? lines[i] : "Host: a";
        }
        headers[count] = NULL;
        snprintf(query + 2 * (count - 1), 3, "a&");
        if (count < 63)
            continue;
        q.headers = headers;
        q.payload = "UNSIGNED-PAYLOAD";
        if (count <= 64)
            (void)sign(&q, (kaws_creds){ ID, SECRET, "token" });
        else
            refused("headers", &q, creds, "more than 64 headers");
        q = request();
        q.query = query;                  /* the last parameter is empty     */
        if (count < 64)
            (void)sign(&q, creds);
        else
            refused("query", &q, creds, "more than 64 query parameters");
    }
}


/* A path may have any length: here 5,000 segments, all but one of them undone
 * again. */
static void
test_a_path_of_any_length_is_signed(void **state)
{
    static char path[3 * 10000];
    kaws_signing q = request();
    const char *want;
    size_t i;

    (void)state;
    q.path = "/ab/c";
    want = sign(&q, creds);
    for (i = 0; i < 9999; i++)
        memcpy(path + 3 * i, i < 5000 ? "/ab" : "/..", 3);
    memcpy(path + 3 * i, "/c", 3);
    q.path = path;
    unit_same_text("a long path", sign(&q, creds), want);
}


/* Names of region and service share a room of 133 bytes, a secret has 256. */
static void
test_how_long_names_may_be(void **state)
{
    char region[200], secret[300];
    kaws_signing q = request();
    kaws_creds who = creds;
    const char *first;
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
        if (n > 256) {
            refused("long secret", &q, who, "longer than 256");
            continue;
        }
        first = sign(&q, who);            /* to its last byte                */
        secret[n - 1] = 't';
        assert_string_not_equal(sign(&q, who), first);
    }
}


/* ---- absurd arguments -------------------------------------------------- */

/* NULL, and what cannot stand between the slashes of the scope. */
static void
test_bad_scope_words_are_refused(void **state)
{
    static const char *const bad[] = { NULL, "", " ", "a b", "a/b", "/", "a\n",
                                       "\ta", "a\x7f", "\xc3\xbc", "a\r\nb" };
    kaws_signing q = request();
    kaws_creds who = creds;
    const char **const fields[] = { &q.payload, &q.method, &q.region,
                                    &q.service, &who.id, &who.secret,
                                    &q.path };
    size_t i, k;

    (void)state;
    for (i = 0; i < UNIT_COUNT(bad); i++)
        for (k = i <= 1; k < (i == 0 ? 7 : 5); k++) {
            *fields[k] = bad[i];
            refused("a word", &q, who, i == 0 ? "must not be NULL"
                                              : "must be words");
            q = request();
            who = creds;
        }
    refused("nothing", NULL, creds, "must not be NULL");
    assert_int_equal(kaws_sign(&q, creds, NULL, 99, NULL), KAWS_ARGUMENT);
    assert_int_equal(kaws_sign(NULL, creds, NULL, 0, NULL), KAWS_ARGUMENT);
}


/* Everything else that is refused: a line break above all, because it could
 * make one header look like two. */
static void
test_refused(void **state)
{
    enum { PATH, QUERY, TOKEN, KEY, HEADER };
    static const struct { int what; const char *is, *words; } rows[] = {
        { PATH, "a", "begin with a slash" }, { PATH, "?a", "with a slash" },
        { PATH, "\n/", "begin with a slash" }, { PATH, "/\n", "line break" },
        { PATH, "/a\rb", "line break" }, { QUERY, "a\nb", "line break" },
        { QUERY, "a\r", "line break" }, { TOKEN, "t\nx: y", "line break" },
        { KEY, "", "secret is empty" },
        { HEADER, "", "no name" }, { HEADER, ":", "no name" },
        { HEADER, ": value", "no name" }, { HEADER, " name: v", "no name" },
        { HEADER, "name", "no colon" }, { HEADER, "name : v", "no colon" },
        { HEADER, "na me: v", "no colon" }, { HEADER, "na\tme: v", "no colon" },
        { HEADER, "na\nme: v", "no colon" },
        { HEADER, "name: a\nother: b", "line break" },
        { HEADER, "name: a\r\n b", "line break" },
        { HEADER, "name:\n", "line break" }
    };
    static const int64_t times[] = { 0, -1, INT64_MIN, 253402300800,
                                     INT64_MAX };
    const char *lines[3] = { "Host: a", NULL, NULL };
    kaws_signing q;
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(rows); i++) {
        kaws_creds who = creds;
        const char *is = rows[i].is;
        q = request();
        q.headers = lines;
        q.path = rows[i].what == PATH ? is : q.path;
        q.query = rows[i].what == QUERY ? is : q.query;
        who.token = rows[i].what == TOKEN ? is : who.token;
        who.secret = rows[i].what == KEY ? is : who.secret;
        lines[1] = rows[i].what == HEADER ? is : NULL;
        refused(is, &q, who, rows[i].words);
    }
    q = request();
    q.headers = NULL;
    refused("no headers", &q, creds, "no Host header");
    q.headers = lines;
    lines[0] = "X-Host: a";
    lines[1] = NULL;
    refused("no Host", &q, creds, "no Host header");
    q = request();
    q.body.len = 1;
    refused("no body", &q, creds, "the body is NULL");
    q = request();
    for (i = 0; i < UNIT_COUNT(times); i++) {
        q.when = times[i];
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
        cmocka_unit_test(test_aws_published_signatures),
        cmocka_unit_test(test_the_canonical_request),
        cmocka_unit_test(test_s3_paths_stay_as_they_are),
        cmocka_unit_test(test_date_and_token_are_signed_once),
        cmocka_unit_test(test_a_payload_is_signed_once),
        cmocka_unit_test(test_an_unsigned_token_changes_nothing),
        cmocka_unit_test(test_a_presigned_url_has_the_signature),
        cmocka_unit_test(test_presigned_urls_take_64_parameters),
        cmocka_unit_test(test_which_presigned_urls_are_refused),
        cmocka_unit_test(test_amz_date),
        cmocka_unit_test(test_each_signed_part_counts),
        cmocka_unit_test(test_one_byte_less_is_too_small),
        cmocka_unit_test(test_64_headers_and_parameters_are_signed),
        cmocka_unit_test(test_a_path_of_any_length_is_signed),
        cmocka_unit_test(test_how_long_names_may_be),
        cmocka_unit_test(test_bad_scope_words_are_refused),
        cmocka_unit_test(test_refused)
    };

    return cmocka_run_group_tests_name("sigv4", tests, NULL, NULL);
}
