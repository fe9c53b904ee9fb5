/* Room remote: what container and instance are asked, and what they answer. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "reading.h"

/* What is said to requests, in their order; and what they have to be. */
typedef struct said {
    const char *request;          /* "GET http://..."                         */
    const char *header;           /* one that it has to have; NULL: none      */
    int         http;             /* 0: there is no reply                     */
    const char *body;
} said;

static const said *script;
static size_t asked;


static int
remote_send(void *ctx, const kaws_request *q, kaws_reply *r)
{
    const said *s = &script[asked++];
    char want[1200];
    size_t i = 0;

    (void)ctx;
    (void)snprintf(want, sizeof want, "%s %s", q->method, q->url);
    if (s->request == NULL || strcmp(want, s->request) != 0)
        fail_msg("%s: request %lu is %s", world_case, (unsigned long)asked,
                 want);
    while (q->headers[i] != NULL && (s->header == NULL ||
                                     strcmp(q->headers[i], s->header) != 0))
        i++;
    if (s->header != NULL && q->headers[i] == NULL)
        fail_msg("%s: it has no header %s", world_case, s->header);
    for (i = 0; q->headers[i] != NULL; i++)
        assert_true(s->header != NULL ||
                    strcmp(q->headers[i], "Accept: application/json") == 0);
    assert_true(q->direct && q->fresh_connection && q->body.len == 0);
    assert_in_range(q->connect_timeout_ms, 1, 1000);
    assert_in_range(q->timeout_ms, 1, 2000);
    assert_true(r->body_max == 65536);
    r->http = s->http;
    r->body_len = strlen(s->body);
    memcpy(r->body, s->body, r->body_len);
    if (strcmp(s->body, "long") == 0)
        r->body_len = r->body_max + 1;
    (void)snprintf(r->text, sizeof r->text, "%s", s->http == 0 ? s->body : "");
    if (asked == 1)                       /* a hook may change the environment*/
        set("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:666/x/y/z");
    return s->http == 0;
}


#define JSON(more) "{\"AccessKeyId\":\"AK\",\"SecretAccessKey\":\"S3CR\"," \
    "\"Token\":\"TOK\",\"Expiration\":\"2026-11-27T08:32:38Z\"" more "}"
#define AT "http://169.254.169.254/latest/"
#define LIST AT "meta-data/iam/security-credentials/"
#define TTL "x-aws-ec2-metadata-token-ttl-seconds: 60"
#define MINE "x-aws-ec2-metadata-token: t/1=="
#define TOKENS { "PUT " AT "api/token", TTL, 200, "t/1==" }

/* What the environment is, up to a NULL; the exchange; and what is said. */
static const struct {
    const char *what, *env[8];
    said        script[4];
    kaws_status status;
    const char *says;
} exchanges[] = {
    { "instance", { NULL }, { TOKENS, { "GET " LIST, MINE, 200, "role-1" },
      { "GET " LIST "role-1", MINE, 200, JSON(",\"Code\":\"Success\"") } },
      KAWS_OK, NULL },
    { "instance: several roles, and no Code", { NULL }, { TOKENS,
      { "GET " LIST, MINE, 200, "a_+=,.@-9\r\nb" },
      { "GET " LIST "a_+=,.@-9", MINE, 200, JSON("") } }, KAWS_OK, NULL },
    { "instance: its role is known", { "AWS_EC2_INSTANCE_PROFILE_NAME", "r" },
      { TOKENS, { "GET " LIST "r", MINE, 200, JSON("") } }, KAWS_OK, NULL },
    { "instance: IPv6", { "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPV6",
      "AWS_EC2_INSTANCE_PROFILE_NAME", "r" },
      { { "PUT http://[fd00:ec2::254]/latest/api/token", TTL, 200, "t" },
        { "GET http://[fd00:ec2::254]/latest/meta-data/iam/"
          "security-credentials/r", "x-aws-ec2-metadata-token: t", 200,
          JSON("") } }, KAWS_OK, NULL },
    { "instance: endpoint goes before the mode",
      { "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv6",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9911/" },
      { { "PUT http://127.0.0.1:9911/latest/api/token", TTL, 404, "" } },
      KAWS_CREDENTIALS, "gave no AWS credentials (HTTP 404); is this" },
    { "instance: endpoint elsewhere",
      { "AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://10.0.0.1" },
      { { NULL, NULL, 0, "" } }, KAWS_CONFIG, "ENDPOINT cannot be used: its "
      "host is neither this machine" },
    { "instance: endpoint with TLS",
      { "AWS_EC2_METADATA_SERVICE_ENDPOINT", "https://10.0.0.1" },
      { { NULL, NULL, 0, "" } }, KAWS_CONFIG, "its host is neither" },
    { "instance: not there", { NULL }, { { "PUT " AT "api/token", TTL, 0,
      "timed out" } }, KAWS_NETWORK, "cannot reach the instance at " AT
      "api/token for AWS credentials: timed out; is this an EC2 instance? In a "
      "container on one, its hop limit has to be 2" },
    { "instance: forbidden", { NULL }, { { "PUT " AT "api/token", TTL, 403,
      "S3CR" } }, KAWS_CREDENTIALS, "(HTTP 403); is this an EC2" },
    { "instance: a fault of its own", { NULL }, { { "PUT " AT "api/token", TTL,
      503, "S3CR" } }, KAWS_SERVICE, "(HTTP 503)" },
    { "instance: a token in two lines", { NULL }, { { "PUT " AT "api/token",
      TTL, 200, "S3CR\nS3CR" } }, KAWS_CREDENTIALS, "a token that cannot be" },
    { "instance: no token", { NULL }, { { "PUT " AT "api/token", TTL, 200, "" }
      }, KAWS_CREDENTIALS, "a token that cannot be one" },
    { "instance: no role", { NULL }, { TOKENS, { "GET " LIST, MINE, 404, "no" }
      }, KAWS_CREDENTIALS, "has no role: attach an instance profile" },
    { "instance: an empty list", { NULL }, { TOKENS, { "GET " LIST, MINE, 200,
      "" } }, KAWS_CREDENTIALS, "no name of a role" },
    { "instance: a role that leads elsewhere", { NULL }, { TOKENS,
      { "GET " LIST, MINE, 200, "S3CR/../x" } }, KAWS_CREDENTIALS,
      "no name of a role" },
    { "instance: a redirect", { NULL }, { TOKENS, { "GET " LIST, MINE, 302,
      "" } }, KAWS_CREDENTIALS, "(HTTP 302)" },
    { "instance: Code", { "AWS_EC2_INSTANCE_PROFILE_NAME", "r" }, { TOKENS,
      { "GET " LIST "r", MINE, 200, "{\"Code\":\"AssumeRoleUnauthorized\","
        "\"Message\":\"S3CR\"}" } }, KAWS_CREDENTIALS,
      "not Success: may the service assume the role? It is AssumeRoleUnauth" },
    { "instance: no date", { "AWS_EC2_INSTANCE_PROFILE_NAME", "r" }, { TOKENS,
      { "GET " LIST "r", MINE, 200, "{\"Expiration\":\"soon\"}" } },
      KAWS_CREDENTIALS, "Expiration is not a date" },
    { "instance: no JSON", { "AWS_EC2_INSTANCE_PROFILE_NAME", "r" }, { TOKENS,
      { "GET " LIST "r", MINE, 200, "S3CR" } }, KAWS_CREDENTIALS,
      "an object was expected" },
    { "instance: half of it", { "AWS_EC2_INSTANCE_PROFILE_NAME", "r" }, {
      TOKENS, { "GET " LIST "r", MINE, 200, "{\"AccessKeyId\":\"AK\","
        "\"Expiration\":\"2026-11-27T08:32:38Z\"}" } }, KAWS_CREDENTIALS,
      "the instance (EC2): SecretAccessKey is missing" },

    { "container: ECS", { "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x?a=b",
      "AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://no" },
      { { "GET http://169.254.170.2/v2/x?a=b", NULL, 200, JSON("") } }, KAWS_OK,
      NULL },
    { "container: not a path", { "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
      "@evil/" }, { { NULL, NULL, 0, "" } }, KAWS_CONFIG,
      "the container (AWS_CONTAINER_CREDENTIALS_RELATIVE_URI) has a URL that" },
    { "container: EKS", { "AWS_CONTAINER_CREDENTIALS_FULL_URI",
      "http://169.254.170.23/v1/credentials",
      "AWS_CONTAINER_AUTHORIZATION_TOKEN", "jwt.a b" },
      { { "GET http://169.254.170.23/v1/credentials", "Authorization: jwt.a b",
          200, JSON("") } }, KAWS_OK, NULL },
    { "container: a server with TLS", { "AWS_CONTAINER_CREDENTIALS_FULL_URI",
      "https://creds.example:8443/x" },
      { { "GET https://creds.example:8443/x", NULL, 200, JSON("") } }, KAWS_OK,
      NULL },
    { "container: two lines", { "AWS_CONTAINER_CREDENTIALS_FULL_URI",
      "http://localhost/x", "AWS_CONTAINER_AUTHORIZATION_TOKEN",
      "S3CR\r\nX-Evil: 1" }, { { NULL, NULL, 0, "" } }, KAWS_CREDENTIALS,
      "what AWS_CONTAINER_AUTHORIZATION_TOKEN holds cannot be the token" },
    { "container: no token file", { "AWS_CONTAINER_CREDENTIALS_FULL_URI",
      "http://localhost/x", "AWS_CONTAINER_AUTHORIZATION_TOKEN", "S3CR",
      "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/no/where" },
      { { NULL, NULL, 0, "" } }, KAWS_CREDENTIALS,
      "cannot read the token file /no/where" },
    { "container: refused", { "AWS_CONTAINER_CREDENTIALS_FULL_URI",
      "http://localhost/x" }, { { "GET http://localhost/x", NULL, 401, "S3CR" }
      }, KAWS_CREDENTIALS, "(HTTP 401); is the container's agent up" },
    { "container: not there", { "AWS_CONTAINER_CREDENTIALS_FULL_URI",
      "http://localhost/x", "AWS_CONTAINER_AUTHORIZATION_TOKEN",
      "S3CRS3CRS3CRS3CRS3CR" },
      { { "GET http://localhost/x", "Authorization: S3CRS3CRS3CRS3CRS3CR", 0,
          "sent Authorization: S3CRS3CRS3CRS3CRS3CR" } }, KAWS_NETWORK,
      "cannot reach the container at http://localhost for AWS credentials: "
      "; is" },
    { "container: too long", { "AWS_CONTAINER_CREDENTIALS_FULL_URI",
      "http://localhost/x" }, { { "GET http://localhost/x", NULL, 200, "long" }
      }, KAWS_CREDENTIALS, "is longer than 65536 bytes" },
    { "container: its Code is the token", {
      "AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://localhost/x",
      "AWS_CONTAINER_AUTHORIZATION_TOKEN", "S3CRS3CRS3CRS3CRS3CR" },
      { { "GET http://localhost/x", "Authorization: S3CRS3CRS3CRS3CRS3CR", 200,
          "{\"Code\":\"S3CRS3CRS3CRS3CRS3CR\"}" } }, KAWS_CREDENTIALS,
      "its Code is not Success" }
};


static void
test_over_http(void **state)
{
    static const char *const want[3] = { "AK", "S3CR", "TOK" };
    struct world *w = *state;
    kaws_config cfg = { .auth = "native" };
    kaws_status status;
    reading r;
    size_t i, k;

    w->f.hooks.send = remote_send;
    memset(&r, 0, sizeof r);
    assert_int_equal(kaws__thread_lock_init(&r.http.lock, KAWS__RANK_HTTP), 0);
    for (i = 0; i < COUNT(exchanges); i++) {
        for (k = 0; k < COUNT(variables); k++)
            set(variables[k], NULL);
        for (k = 0; exchanges[i].env[k] != NULL; k += 2)
            set(exchanges[i].env[k], exchanges[i].env[k + 1]);
        world_case = exchanges[i].what;
        script = exchanges[i].script;
        asked = 0;
        status = open_and_read(w, &r, &cfg);
        EXPECT(w, exchanges[i].status, exchanges[i].says, status);
        assert_null(strstr(w->err.text, "S3CR"));
        for (k = 0; k < 4 && script[k].request != NULL; k++)
            continue;
        assert_int_equal(asked, k);
        if (status != KAWS_OK)
            continue;
        assert_true(r.seek.expires == 1795768358);
        r.seek.expires = 0;
        found(&r, want);
    }
    world_case = "";
    kaws__thread_lock_free(&r.http.lock);
}


static const struct { const char *url, *wrong; } urls[] = {
    { "http://169.254.170.2/x", NULL }, { "http://169.254.170.23", NULL },
    { "http://169.254.170.2:80/x?y", NULL }, { "http://LocalHost/", NULL },
    { "http://127.0.0.1/", NULL }, { "http://127.255.0.9:1/", NULL },
    { "http://[::1]:80/x", NULL }, { "http://[FD00:ec2::23]/v1", NULL },
    { "http://169.254.170.2.evil.example/", "neither" },
    { "http://169.254.170.2@10.0.0.1/", "form" },
    { "http://169.254.170.2:80@10.0.0.1/", "form" },
    { "http://10.0.0.1/169.254.170.2", "neither" },
    { "http://10.0.0.1#@127.0.0.1/", "form" },
    { "http://10.0.0.1\\@127.0.0.1/", "form" },
    { "http://10.0.0.1\\.127.0.0.1/", "form" },
    { "http://127.0.0.1?@10.0.0.1/", "form" },
    { "http://127.0.0.1?.10.0.0.1/", "form" },
    { "http://127.0.0.1.evil.example/", "neither" },
    { "http://127.1/", "neither" }, { "http://127.0.0.1.1/", "neither" },
    { "http://127.0.0.256/", "neither" }, { "http://127.0.0./", "neither" },
    { "http://0177.0.0.1/", "neither" }, { "http://127.0.0.01/",
      "neither" }, { "http://2130706433/", "neither" },
    { "http://0x7f.0.0.1/", "neither" },
    { "http://128.0.0.1/", "neither" }, { "http://localhost.evil/",
      "neither" }, { "http://evil-localhost/", "neither" },
    { "http://[::ffff:10.0.0.1]/", "neither" },
    { "http://[fe80::1]/", "neither" }, { "http://[::1%25lo]/",
      "malformed" }, { "http://[::1/", "malformed" },
    { "http:///x", "malformed" }, { "http://", "malformed" },
    { "http://127.0.0.1:99999/", "malformed" },
    { "http://127.0.0.1:/", "malformed" },
    { "http://127.0.0.1/@x", "form" }, { "http://127.0.0.1/#x", "form" },
    { "ftp://127.0.0.1/", "form" }, { "HTTP://127.0.0.1/", "form" },
    { "127.0.0.1/", "form" }, { "", "form" },
    { "http://127.0.0.1/a b", "form" }, { "http://127.0.0.1/\r\nX: y",
      "form" }, { "http://127.0.0.1/\xc3\xa4", "form" },
    { "https://10.0.0.1/x", NULL }, { "https://evil.example", NULL },
    { "https://a@b/", "form" }, { "https://a b/", "form" }
};


/* Whose they are: the instance's role by its name, a container's as it says. */
static void
test_whose_they_are(void **state)
{
    static const struct { const char *env[4]; said script[4];
                          const char *owner; } rows[] = {
        { { "AWS_EC2_INSTANCE_PROFILE_NAME", "r" }, { TOKENS,
          { "GET " LIST "r", MINE, 200, JSON("") } },
          "the instance's role r" },
        { { "AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://localhost/x" },
          { { "GET http://localhost/x", NULL, 200, JSON(",\"RoleArn\":\"arn:aws"
              ":iam::111122223333:role/a\",\"AccountId\":\"1\"") } },
          "arn:aws:iam::111122223333:role/a" },
        { { "AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://localhost/x" },
          { { "GET http://localhost/x", NULL, 200, JSON(",\"AccountId\":"
              "\"111122223333\"") } }, "account 111122223333" },
        { { "AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://localhost/x" },
          { { "GET http://localhost/x", NULL, 200, JSON("") } }, "" }
    };
    struct world *w = *state;
    kaws_config cfg = { .auth = "native" };
    reading r;
    size_t i, k;

    w->f.hooks.send = remote_send;
    memset(&r, 0, sizeof r);
    for (i = 0; i < COUNT(rows); i++) {
        for (k = 0; k < COUNT(variables); k++)
            set(variables[k], NULL);
        set(rows[i].env[0], rows[i].env[1]);
        script = rows[i].script;
        asked = 0;
        OK(w, open_and_read(w, &r, &cfg));
        assert_string_equal(r.seek.owner, rows[i].owner);
    }
}


static void
test_urls(void **state)
{
    static char url[1100];
    const char *wrong;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(urls); i++) {
        wrong = kaws__remote_url_wrong(urls[i].url, 1);
        if ((wrong == NULL) != (urls[i].wrong == NULL) ||
            (wrong != NULL && strstr(wrong, urls[i].wrong) == NULL))
            fail_msg("%s: %s", urls[i].url, wrong);
    }
    assert_non_null(kaws__remote_url_wrong("https://evil.example/", 0));
    memset(url, 'x', sizeof url);
    memcpy(url, "http://127.0.0.1/", 17);
    url[1023] = '\0';
    assert_null(kaws__remote_url_wrong(url, 0));
    url[1023] = 'x';
    url[1024] = '\0';
    assert_non_null(kaws__remote_url_wrong(url, 0));
}


/* The token file is read for each request; a reply that does not fit is not
 * read in part. */
static void
test_token_file(void **state)
{
    static const said two[] = {
        { "GET http://localhost/x", "Authorization: first", 200, JSON("") },
        { "GET http://localhost/x", "Authorization: second", 200, JSON("") },
        { NULL, NULL, 0, "" }
    };
    struct world *w = *state;
    kaws_config cfg = { .auth = "native" };
    char token[128];
    reading r;

    w->f.hooks.send = remote_send;
    memset(&r, 0, sizeof r);
    assert_int_equal(kaws__thread_lock_init(&r.http.lock, KAWS__RANK_HTTP), 0);
    (void)snprintf(token, sizeof token, "%s/token", w->f.dir);
    set("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://localhost/x");
    set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token);
    script = two;
    asked = 0;
    write_file(token, "first\r\n");
    EXPECT(w, KAWS_OK, NULL, open_and_read(w, &r, &cfg));
    write_file(token, "second");
    EXPECT(w, KAWS_OK, NULL, read_again(w, &r));
    write_file(token, "");
    EXPECT(w, KAWS_CREDENTIALS, "cannot be the token", read_again(w, &r));
    write_file(token, "a\nX: y\n");
    EXPECT(w, KAWS_CREDENTIALS, "cannot be the token", read_again(w, &r));
    assert_int_equal(asked, 2);
    assert_int_equal(remove(token), 0);
    kaws__thread_lock_free(&r.http.lock);
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_over_http), TEST(test_whose_they_are), TEST(test_urls),
        TEST(test_token_file)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
