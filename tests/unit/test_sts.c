/* Room sts: what AWS STS is asked, and what its answers mean. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "reading.h"

#define ROLE(name) "arn:aws:iam::" FAKE_OWN ":role/" name
#define FORM(role) "Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3A" \
    "iam%3A%3A" FAKE_OWN "%3Arole%2F" role "&RoleSessionName="
#define TYPE "Content-Type: application/x-www-form-urlencoded; charset=utf-8"

/* As STS sends it. */
#define GIVES(id, secret, token, rest) \
    "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">" \
    "  <AssumeRoleResult>\n    <Credentials>\n      <AccessKeyId>" id \
    "</AccessKeyId>\n      <SecretAccessKey>" secret "</SecretAccessKey>\n" \
    "      <SessionToken>" token "</SessionToken>\n" rest \
    "    </Credentials>\n  </AssumeRoleResult>\n  <ResponseMetadata>\n" \
    "    <RequestId>c6104cbe-af31-11e0</RequestId>\n  </ResponseMetadata>\n" \
    "</AssumeRoleResponse>\n"
#define UNTIL "      <Expiration>2026-11-27T08:32:38Z</Expiration>\n"
#define GOOD GIVES("AK", "S3CR", "TOK", UNTIL)
#define REFUSES(code) \
    "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n" \
    "  <Error>\n    <Type>Sender</Type>\n    <Code>" code "</Code>\n" \
    "    <Message>S3CR</Message>\n  </Error>\n  <RequestId>c6104cbe" \
    "</RequestId>\n</ErrorResponse>\n"

enum { NOW = 1795000000, ASKED_MOST = 8 };

/* What STS says: each answer once, and the last one again and again. */
typedef struct answer {
    int         http;             /* 0: the body is why there is no reply     */
    const char *body;
    int64_t     date;             /* of the reply; 0: none                    */
} answer;

static const answer *answers;
static size_t answer_count, asked;
static int replies;               /* numbers them: no two may be the same     */
static struct {
    char url[256], body[20480], lines[6][5000];
    int  line_count;
} asks[ASKED_MOST];
static const char *const good_parts[3] = { "AK", "S3CR", "TOK" };


static int
sts_send(void *ctx, const kaws_request *q, kaws_reply *r)
{
    const answer *a = &answers[asked < answer_count ? asked : answer_count - 1];

    (void)ctx;
    assert_true(asked < ASKED_MOST && q->method == NULL && !q->direct);
    assert_true(q->fresh_connection && q->connect_timeout_ms <= 5000);
    assert_in_range(q->timeout_ms, 1, 5000);
    assert_true(q->body.len < sizeof asks[0].body);
    (void)snprintf(asks[asked].url, sizeof asks[0].url, "%s", q->url);
    (void)snprintf(asks[asked].body, sizeof asks[0].body, "%.*s",
                   (int)q->body.len, (const char *)q->body.at);
    for (asks[asked].line_count = 0; q->headers[asks[asked].line_count] != NULL;
         asks[asked].line_count++)
        (void)snprintf(asks[asked].lines[asks[asked].line_count],
                       sizeof asks[0].lines[0], "%s",
                       q->headers[asks[asked].line_count]);
    asked++;
    if (a->http == 0) {
        (void)snprintf(r->text, sizeof r->text, "%s", a->body);
        return 1;
    }
    r->http = a->http;
    r->date = a->date;
    if (strcmp(a->body, "mixed up") != 0)
        replies++;
    (void)snprintf(r->request_id, sizeof r->request_id, "sts-%d", replies);
    r->body_len = strlen(a->body);
    memcpy(r->body, a->body, r->body_len);
    if (strcmp(a->body, "long") == 0)
        r->body_len = r->body_max + 1;
    return 0;
}


/* The header of the nth request, from 0, that begins so; "": there is none. */
static const char *
header_of(size_t n, const char *name)
{
    int i;

    for (i = 0; i < asks[n].line_count; i++)
        if (strncmp(asks[n].lines[i], name, strlen(name)) == 0)
            return asks[n].lines[i] + strlen(name);
    return "";
}


/* Has these credentials signed the nth request at that time? As the public
 * function signs it, which has AWS's own vectors. */
static void
is_signed(size_t n, const char *id, const char *secret, const char *token,
          int64_t when)
{
    const char *lines[7] = { NULL };
    kaws_creds who = { id, secret, NULL };
    kaws_signing what = { .method = "POST", .path = "/", .service = "sts",
                          .region = "us-east-1", .headers = lines,
                          .body = kaws__buf_of(asks[n].body), .when = when };
    char want[1024], date[17];
    int i, count = 0;

    for (i = 0; i < asks[n].line_count; i++)
        if (strncmp(asks[n].lines[i], "Authorization: ", 15) != 0)
            lines[count++] = asks[n].lines[i];
    assert_int_equal(count, asks[n].line_count - 1);
    assert_string_equal(header_of(n, "X-Amz-Date: "), kaws_amz_date(date,
                                                                    when));
    assert_string_equal(header_of(n, "X-Amz-Security-Token: "), token);
    assert_int_equal(kaws_sign(&what, who, want, sizeof want, NULL), KAWS_OK);
    assert_string_equal(header_of(n, "Authorization: "), want);
}


/* Opens the sources of a config, with STS in us-east-1. */
static void
open_sts(struct world *w, reading *r, const kaws_config *cfg)
{
    const int native = cfg->auth != NULL;

    w->f.hooks.send = sts_send;
    memset(r, 0, sizeof *r);
    paths(w, r);
    kaws__err_clear(&w->err);
    kaws__sources_open(&r->sources, &w->f.hooks, w->f.conf);
    r->region = "us-east-1";
    OK(w, kaws__native_open(&r->sources, cfg, native, &w->err));
}


/* Reads with so much time, and these answers of STS. */
static kaws_status
read_in(struct world *w, reading *r, const answer *list, size_t count,
        int left_ms, kaws__cancel cancel)
{
    kaws_status status;

    answers = list;
    answer_count = count;
    asked = 0;
    kaws__err_clear(&w->err);
    memset(&r->seek, 0, sizeof r->seek);
    memset(r->text, 0, sizeof r->text);
    r->seek.text = r->text;
    r->seek.left_ms = left_ms;
    r->seek.now = NOW;
    r->seek.cancel = cancel;
    r->seek.http = &r->http;
    r->seek.region = r->region;
    r->http.hooks = &w->f.hooks;
    status = kaws__sources_read(&r->sources, &r->seek, &w->err);
    assert_null(strstr(w->err.text, "S3CR"));
    assert_null(strstr(w->err.text, FAKE_SECRET));
    assert_int_equal(fake_logged(&w->f, -1, "S3CR"), 0);
    return status;
}

#define READ(w, r, list) \
    read_in(w, r, list, COUNT(list), 10000, (kaws__cancel){ 0 })


static void
found_until(reading *r, const char *const want[3])
{
    assert_true(r->seek.expires == 1795768358);
    r->seek.expires = 0;
    found(r, want);
}


/* ---- what is asked ------------------------------------------------------- */

/* The conf file's keys sign. The signatures are those of botocore 1.29, for the
 * same request. */
static void
test_the_request(void **state)
{
    static const answer good[] = { { 200, GOOD, 0 } };
    struct world *w = *state;
    kaws_config cfg = { .role_arn = ROLE("app") };
    reading r;

    open_sts(w, &r, &cfg);
    OK(w, READ(w, &r, good));
    found_until(&r, good_parts);
    assert_int_equal(asked, 1);
    assert_string_equal(asks[0].url, "https://sts.us-east-1.amazonaws.com/");
    assert_string_equal(asks[0].body, FORM("app") "keyring_aws");
    assert_int_equal(asks[0].line_count, 4);
    assert_string_equal(header_of(0, "Host: "), "sts.us-east-1.amazonaws.com");
    assert_string_equal(asks[0].lines[1], TYPE);
    assert_string_equal(header_of(0, "X-Amz-Date: "), "20261118T110640Z");
    assert_string_equal(header_of(0, "Authorization: "), "AWS4-HMAC-SHA256 "
        "Credential=" FAKE_ID "/20261118/us-east-1/sts/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date, Signature=9fd3a1ea45b59494"
        "89313e25b32bcea89c7876f4c04a6cab1dbe4e7707f457d6");
    is_signed(0, FAKE_ID, FAKE_SECRET, "", NOW);

    fake_write_conf(&w->f, FAKE_ID "\n" FAKE_SECRET "\ntok/en+=\n");
    cfg.role_external_id = "a+b=,.@:/-";
    open_sts(w, &r, &cfg);
    OK(w, READ(w, &r, good));
    assert_string_equal(asks[0].body, FORM("app") "keyring_aws&ExternalId="
                        "a%2Bb%3D%2C.%40%3A%2F-");
    assert_int_equal(asks[0].line_count, 5);
    assert_string_equal(header_of(0, "X-Amz-Security-Token: "), "tok/en+=");
    assert_string_equal(header_of(0, "Authorization: "), "AWS4-HMAC-SHA256 "
        "Credential=" FAKE_ID "/20261118/us-east-1/sts/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, "
        "Signature=88605dfe059d50535d81e1fa142d8400b779888ee85dbf07ee83230d12bc"
        "74d7");

    cfg.role_external_id = NULL;
    cfg.role_session_name = "a_+=,.@-Z9";
    cfg.role_arn = "arn:aws-cn:iam::" FAKE_OWN ":role/p+=,.@_/q-";
    open_sts(w, &r, &cfg);
    OK(w, READ(w, &r, good));
    assert_string_equal(asks[0].body, "Action=AssumeRole&Version=2011-06-15&"
                        "RoleArn=arn%3Aaws-cn%3Aiam%3A%3A" FAKE_OWN "%3Arole%2F"
                        "p%2B%3D%2C.%40_%2Fq-&RoleSessionName=a_%2B%3D%2C.%40-"
                        "Z9");
    is_signed(0, FAKE_ID, FAKE_SECRET, "tok/en+=", NOW);
}


/* An endpoint with a port: the port is in Host, and is signed. */
static void
test_an_endpoint(void **state)
{
    static const answer good[] = { { 200, GOOD, 0 } };
    struct world *w = *state;
    kaws_config cfg = { .role_arn = ROLE("app") };
    reading r;

    open_sts(w, &r, &cfg);
    r.sources.hosts.sts = "https://vpce-1.sts.example:8443";
    OK(w, READ(w, &r, good));
    assert_string_equal(asks[0].url, "https://vpce-1.sts.example:8443/");
    assert_string_equal(header_of(0, "Host: "), "vpce-1.sts.example:8443");
    is_signed(0, FAKE_ID, FAKE_SECRET, "", NOW);
}


/* The hosts that the switches mean. A region without a FIPS host of STS is
 * named once, however often STS is asked. */
static void
test_hosts(void **state)
{
    static const answer slow[] = { { 500, "", 0 }, { 200, GOOD, 0 } };
    static const struct {
        int flags;
        const char *region, *host;
        int warned;
    } rows[] = {
        { KAWS__DUALSTACK, "eu-west-1", "sts.eu-west-1.api.aws", 0 },
        { KAWS__FIPS, "us-east-2", "sts-fips.us-east-2.amazonaws.com", 0 },
        { KAWS__FIPS, "us-gov-west-1", "sts.us-gov-west-1.amazonaws.com", 0 },
        { KAWS__FIPS, "eu-west-1", "sts-fips.eu-west-1.amazonaws.com", 1 },
        { KAWS__FIPS, "eu-west-1", "sts-fips.eu-west-1.amazonaws.com", 0 },
        { KAWS__FIPS | KAWS__DUALSTACK, "eu-west-2",
          "sts-fips.eu-west-2.api.aws", 1 }
    };
    struct world *w = *state;
    kaws_config cfg = { .role_arn = ROLE("app") };
    char url[128];
    size_t i;
    reading r;

    open_sts(w, &r, &cfg);
    for (i = 0; i < COUNT(rows); i++) {
        fake_forget_log(&w->f);
        r.sources.hosts.flags = rows[i].flags;
        r.region = rows[i].region;
        OK(w, READ(w, &r, slow));
        (void)snprintf(url, sizeof url, "https://%s/", rows[i].host);
        assert_string_equal(asks[1].url, url);
        assert_string_equal(header_of(1, "Host: "), rows[i].host);
        assert_non_null(strstr(header_of(1, "Authorization: "),
                               rows[i].region));
        assert_int_equal(fake_logged(&w->f, 1, "[KAWS-166]"), rows[i].warned);
        assert_int_equal(fake_logged(&w->f, 1, "AWS STS has no FIPS host in "),
                         rows[i].warned);
    }
}


/* What a profile says of its role. */
static void
test_a_profile_s_role(void **state)
{
    static const answer good[] = { { 200, GOOD, 0 } };
    static const struct { const char *says, *more; } rows[] = {
        { "", "keyring_aws" },
        { "duration_seconds = 900\n", "keyring_aws&DurationSeconds=900" },
        { "duration_seconds = 43200\n", "keyring_aws&DurationSeconds=43200" },
        { "role_session_name = app@db-1\nexternal_id = x:1\n"
          "duration_seconds=3600\n",
          "app%40db-1&DurationSeconds=3600&ExternalId=x%3A1" }
    };
    struct world *w = *state;
    kaws_config cfg = { .auth = "native" };
    char text[512];
    reading r;
    size_t i;

    paths(w, &r);
    cfg.credentials_file = r.credentials;
    for (i = 0; i < COUNT(rows); i++) {
        (void)snprintf(text, sizeof text, "[default]\nrole_arn = " ROLE("app")
                       "\nsource_profile = b\n%s[b]\n" KEYS("AK0"),
                       rows[i].says);
        write_file(r.credentials, text);
        open_sts(w, &r, &cfg);
        OK(w, READ(w, &r, good));
        found_until(&r, good_parts);
        assert_int_equal(asked, 1);
        unit_same_text("form", strstr(asks[0].body, "Name=") + 5, rows[i].more);
        is_signed(0, "AK0", "S3CR", "", NOW);
    }
}


/* ---- one role after the other -------------------------------------------- */

#define PART(n) { 200, GIVES("AK" n, "S3CR" n, "TOK" n, UNTIL), 0 }

/* Five roles of profiles and the config's: each is assumed with what the one
 * before gave, from the keys on. */
static void
test_a_chain(void **state)
{
    static const answer parts[] = { PART("1"), PART("2"), PART("3"), PART("4"),
                                    PART("5"), { 200, GOOD, 0 } };
    static const char order[] = "edcbax";
    struct world *w = *state;
    kaws_config cfg = { .auth = "native", .profile = "a",
                        .role_arn = ROLE("x") };
    char text[2048] = "", id[24], secret[24], token[24], want[200];
    int n = 0, i;
    reading r;

    paths(w, &r);
    cfg.config_file = r.config;
    for (i = 'a'; i <= 'e'; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, "[profile %c]\nrole_"
                      "arn = " ROLE("%c") "\nsource_profile = %c\n", i, i,
                      i + 1);
    (void)snprintf(text + n, sizeof text - (size_t)n, "[profile f]\n"
                   KEYS("AK0"));
    write_file(r.config, text);
    open_sts(w, &r, &cfg);
    OK(w, READ(w, &r, parts));
    found_until(&r, good_parts);
    assert_int_equal(asked, 6);
    for (i = 0; i < 6; i++) {
        (void)snprintf(id, sizeof id, "AK%d", i);
        (void)snprintf(secret, sizeof secret, "S3CR%d", i);
        (void)snprintf(token, sizeof token, "TOK%d", i);
        if (i == 0)
            secret[4] = token[0] = '\0';
        is_signed((size_t)i, id, secret, token, NOW);
        (void)snprintf(want, sizeof want, "%%3Arole%%2F%c&", order[i]);
        assert_non_null(strstr(asks[i].body, want));
    }
}


/* At most five roles of profiles follow each other, whatever comes before. */
static void
test_six_roles(void **state)
{
    static const answer good[] = { { 200, GOOD, 0 } };
    static const char *const ends[] = {
        "source_profile = g\n[profile g]\n" KEYS("AK"),
        "credential_source = Environment\n",
        "web_identity_token_file = /no/file\n",
        "source_profile = f\n" KEYS("AK")
    };
    struct world *w = *state;
    kaws_config cfg = { .auth = "native", .profile = "a" };
    char text[2048];
    size_t i, with, n;
    reading r;
    int c;

    paths(w, &r);
    cfg.config_file = r.config;
    set("AWS_ACCESS_KEY_ID", "AK");
    set("AWS_SECRET_ACCESS_KEY", "S3CR");
    for (i = 0; i < COUNT(ends); i++)
        for (with = 0; with < 2; with++) {
            for (n = 0, c = 'a'; c <= 'e'; c++)
                n += (size_t)snprintf(text + n, sizeof text - n, "[profile %c]"
                                      "\nrole_arn = " ROLE("r") "\n"
                                      "source_profile = %c\n", c, c + 1);
            (void)snprintf(text + n, sizeof text - n, "[profile f]\nrole_arn = "
                           ROLE("r") "\n%s", ends[i]);
            write_file(r.config, text);
            cfg.role_arn = with ? ROLE("x") : NULL;
            open_sts(w, &r, &cfg);
            if (i == 3) {                 /* keys end the chain               */
                OK(w, READ(w, &r, good));
                assert_int_equal(asked, 5 + with);
                continue;
            }
            EXPECT(w, KAWS_CONFIG, "the profile f has a role, but five others "
                   "come before it", READ(w, &r, good));
            assert_int_equal(asked, 0);
        }
}


/* Where a chain may begin, and which role is then first. */
static const struct {
    const char *config, *env[5], *first, *id;
    int roles;                /* with the config's                        */
} begins[] = {
    { "[default]\nrole_arn=" ROLE("a") "\ncredential_source=Environment\n",
      { "AWS_ACCESS_KEY_ID", "ENV", "AWS_SECRET_ACCESS_KEY", "S3CR" },
      "RoleArn=arn%3Aaws%3Aiam%3A%3A" FAKE_OWN "%3Arole%2Fa&", "ENV", 2 },
    { "[default]\nrole_arn=" ROLE("a") "\nsource_profile=default\n"
      KEYS("OWN"), { NULL }, "%3Arole%2Fa&", "OWN", 2 },
    { "[default]\nrole_arn=" ROLE("a") "\nsource_profile=b\n[profile b]\n"
      "role_arn=" ROLE("b") "\nsource_profile=b\n" KEYS("OWN"), { NULL },
      "%3Arole%2Fa&", "OWN", 2 },     /* b's keys, and not its role       */
    { "[default]\nrole_arn=" ROLE("a") "\nweb_identity_token_file=%s\n",
      { NULL }, "Action=AssumeRoleWithWebIdentity&", NULL, 2 },
    { "[default]\nrole_arn=" ROLE("a") "\nweb_identity_token_file=%s\n"
      "duration_seconds=900\n", { NULL },
      "keyring_aws&DurationSeconds=900&WebIdentityToken=ey.J", NULL, 2 },
    { "[default]\nrole_arn=" ROLE("a") "\nsource_profile=b\n[profile b]\n"
      "role_arn=" ROLE("b") "\nweb_identity_token_file=%s\n", { NULL },
      "%3Arole%2Fb&", NULL, 3 },
    { "", { "AWS_WEB_IDENTITY_TOKEN_FILE", "%s", "AWS_ROLE_ARN",
      ROLE("w") }, "%3Arole%2Fw&", NULL, 2 },
    { "", { "AWS_ACCESS_KEY_ID", "ENV", "AWS_SECRET_ACCESS_KEY", "S3CR" },
      "%3Arole%2Fx&", "ENV", 1 }
};


static void
test_where_a_chain_begins(void **state)
{
    static const answer parts[] = { PART("1"), PART("2"), PART("3") };
    struct world *w = *state;
    kaws_config cfg = { .auth = "native", .role_arn = ROLE("x") };
    char text[512], token[128];
    const char *cut;
    size_t i, k;
    reading r;

    paths(w, &r);
    (void)snprintf(token, sizeof token, "%s/token", w->f.dir);
    write_file(token, "ey.J\n");
    cfg.config_file = r.config;
    for (i = 0; i < COUNT(begins); i++) {
        world_case = begins[i].config;
        for (k = 0; k < COUNT(variables); k++)
            set(variables[k], NULL);
        for (k = 0; begins[i].env[k] != NULL; k += 2)
            set(begins[i].env[k], strcmp(begins[i].env[k + 1], "%s") == 0
                ? token : begins[i].env[k + 1]);
        cut = begins[i].config + strcspn(begins[i].config, "%");
        (void)snprintf(text, sizeof text, "%.*s%s%s",
                       (int)(cut - begins[i].config), begins[i].config,
                       *cut != '\0' ? token : "", *cut != '\0' ? cut + 2 : "");
        write_file(r.config, text);
        cfg.profile = *text != '\0' ? "default" : NULL;
        open_sts(w, &r, &cfg);
        OK(w, READ(w, &r, parts));
        assert_int_equal(asked, begins[i].roles);
        assert_non_null(strstr(asks[0].body, begins[i].first));
        assert_non_null(strstr(asks[asked - 1].body, "%3Arole%2Fx&"));
        if (begins[i].id != NULL)
            is_signed(0, begins[i].id, "S3CR", "", NOW);
        else
            assert_int_equal(asks[0].line_count, 1);
        if (asked > 1)
            is_signed(1, "AK1", "S3CR1", "TOK1", NOW);
    }
    world_case = "";
}


/* ---- what it answers ----------------------------------------------------- */

/* Every row of the room's table, and one that is not in it. */
static const struct { const char *code; int http; kaws_status status;
                      size_t requests; const char *says; } refusals[] = {
    { "ExpiredToken", 400, KAWS_CREDENTIALS, 1, "the token has expired" },
    { "ExpiredTokenException", 400, KAWS_CREDENTIALS, 1, "has expired" },
    { "InvalidIdentityToken", 400, KAWS_CREDENTIALS, 3, "does IAM know the "
      "provider of the token, and is the token meant for" },
    { "IDPCommunicationError", 400, KAWS_SERVICE, 3, "AWS cannot reach the "
      "provider" },
    { "Throttling", 400, KAWS_SERVICE, 3, "it is asked too often" },
    { "ThrottlingException", 429, KAWS_SERVICE, 3, "too often" },
    { "SlowDown", 503, KAWS_SERVICE, 3, "it is asked too often" },
    { "RegionDisabledException", 403, KAWS_CREDENTIALS, 1, "switch AWS STS "
      "on in this region" },
    { "InvalidClientTokenId", 403, KAWS_CREDENTIALS, 1, "AWS does not know "
      "the access key that asked: is it deleted, switched off, or short" },
    { "SignatureDoesNotMatch", 403, KAWS_CREDENTIALS, 1, "check the secret "
      "access key that asked, this machine's clock, and that sts_endpoint, if "
      "it is set, is in the region of the KMS key" },
    { "ValidationError", 400, KAWS_CREDENTIALS, 1, "and its duration: 3600 "
      "is the most if one role assumes another" },
    { "AccessDenied", 403, KAWS_CREDENTIALS, 1, "may this identity assume "
      "the role? See the role's trust policy, and its external id" },
    { "Unheard", 400, KAWS_CREDENTIALS, 1, "trust policy" },
    { "ServiceUnavailable", 503, KAWS_SERVICE, 3, "and may recover" },
    { "InternalFailure", 500, KAWS_SERVICE, 3, "and may recover" },
    { "RequestLimitExceeded", 503, KAWS_SERVICE, 3, "asked too often" },
    { "OptInRequired", 403, KAWS_CREDENTIALS, 1, "enable the region" },
    { "RequestExpired", 400, KAWS_CREDENTIALS, 1, "this machine's clock" },
    { "TooMany", 429, KAWS_SERVICE, 3, "HTTP 429" }
};


static void
test_refusals(void **state)
{
    struct world *w = *state;
    kaws_config cfg = { .role_arn = ROLE("app") };
    char body[512], said[512];
    size_t i, k, known = 0;
    reading r;

    open_sts(w, &r, &cfg);
    for (i = 0; i < COUNT(refusals); i++) {
        const answer one[] = { { refusals[i].http, body, NOW } };
        world_case = refusals[i].code;
        (void)snprintf(body, sizeof body, REFUSES("%s"), refusals[i].code);
        w->f.sleeps = 0;
        EXPECT(w, refusals[i].status, refusals[i].says, READ(w, &r, one));
        assert_int_equal(asked, refusals[i].requests);
        assert_int_equal(w->f.sleeps, (int)refusals[i].requests - 1);
        (void)snprintf(said, sizeof said, "AWS STS at https://sts.us-east-1."
                       "amazonaws.com/ refused credentials for the role "
                       ROLE("app") " to the access key whose id ends in FAKE "
                       "(%s, HTTP %d, request id sts-%d); ", refusals[i].code,
                       refusals[i].http, replies);
        unit_same_text("error", strstr(w->err.text, "AWS STS at") != NULL &&
                       strstr(w->err.text, said) != NULL ? "as it should be"
                       : w->err.text, "as it should be");
        assert_string_equal(w->err.aws, refusals[i].code);
        assert_int_equal(w->err.http, refusals[i].http);
    }
    for (i = 0; i < COUNT(kaws__sts_faults); i++)
        for (k = 0; k < COUNT(refusals); k++)
            if (*kaws__sts_faults[i].code == '(' ||   /* no code of STS's     */
                strncmp(refusals[k].code, kaws__sts_faults[i].code,
                        strlen(kaws__sts_faults[i].code)) == 0) {
                known++;
                break;
            }
    assert_int_equal(known, COUNT(kaws__sts_faults));
    world_case = "";
}


/* Who asked: the identity that was found before. A web identity has none. */
static void
test_who_asked(void **state)
{
    static const answer parts[] = {
        { 200, "<A><AssumeRoleResult><AssumedRoleUser><AssumedRoleId>ARO:k"
          "</AssumedRoleId><Arn>arn:aws:sts::" FAKE_OWN ":assumed-role/a/k"
          "</Arn></AssumedRoleUser><Credentials><AccessKeyId>AK"
          "</AccessKeyId><SecretAccessKey>S3CR</SecretAccessKey><SessionToken>"
          "TOK</SessionToken><Expiration>2026-11-27T08:32:38Z</Expiration>"
          "</Credentials></AssumeRoleResult></A>", 0 },
        { 403, REFUSES("AccessDenied"), NOW }
    }, no[] = { { 403, REFUSES("AccessDenied"), NOW } };
    struct world *w = *state;
    kaws_config cfg = { .auth = "native", .role_arn = ROLE("x") };
    char text[400], token[128];
    reading r;

    paths(w, &r);
    cfg.credentials_file = r.credentials;
    write_file(r.credentials, "[default]\naws_account_id = " FAKE_OTHER "\n"
               KEYS("AK"));
    open_sts(w, &r, &cfg);
    EXPECT(w, KAWS_CREDENTIALS, "for the role " ROLE("x") " to account "
           FAKE_OTHER " (AccessDenied", READ(w, &r, no));
    write_file(r.credentials, "[default]\nrole_arn = " ROLE("a") "\n"
               "source_profile = b\n[b]\n" KEYS("AK"));
    open_sts(w, &r, &cfg);
    EXPECT(w, KAWS_CREDENTIALS, "for the role " ROLE("x") " to arn:aws:sts::"
           FAKE_OWN ":assumed-role/a/k (AccessDenied", READ(w, &r, parts));
    assert_int_equal(asked, 2);
    (void)snprintf(token, sizeof token, "%s/token", w->f.dir);
    write_file(token, "S3CR.S3CR");
    (void)snprintf(text, sizeof text, "[default]\nrole_arn = " ROLE("a") "\n"
                   "web_identity_token_file = %s\n", token);
    write_file(r.credentials, text);
    open_sts(w, &r, &cfg);
    EXPECT(w, KAWS_CREDENTIALS, "for the role " ROLE("a") " (AccessDenied",
           READ(w, &r, no));
    cfg.role_arn = NULL;
    open_sts(w, &r, &cfg);
    OK(w, READ(w, &r, parts));
    assert_string_equal(r.seek.owner, "arn:aws:sts::" FAKE_OWN
                        ":assumed-role/a/k");
}


/* What cannot be a reply is not believed, not even in part. */
static void
test_odd_replies(void **state)
{
    static const struct { int http; const char *body; kaws_status status;
                          const char *says; } rows[] = {
        { 200, "", KAWS_CREDENTIALS, "has no credentials: " },
        { 200, "S3CR", KAWS_CREDENTIALS, "has no credentials: " },
        { 200, "{\"AccessKeyId\":\"AK\"}", KAWS_CREDENTIALS, "at byte 1" },
        { 200, "<!DOCTYPE x><A/>", KAWS_CREDENTIALS, "has no credentials: " },
        { 200, "<A>" GOOD, KAWS_CREDENTIALS, "has no credentials: " },
        { 200, "long", KAWS_CREDENTIALS, "it is longer than 65536 bytes" },
        { 200, REFUSES("AccessDenied"), KAWS_CREDENTIALS,
          "its Expiration is not a date" },
        { 200, GIVES("AK", "S3CR", "TOK", ""), KAWS_CREDENTIALS,
          "its Expiration is not a date" },
        { 200, GIVES("AK", "S3CR", "TOK", "<Expiration>soon</Expiration>"),
          KAWS_CREDENTIALS, "its Expiration is not a date" },
        { 200, GIVES("", "S3CR", "TOK", UNTIL), KAWS_CREDENTIALS,
          "the reply of AWS STS for" },
        { 200, GIVES("AK", "", "TOK", UNTIL), KAWS_CREDENTIALS,
          "SecretAccessKey is missing" },
        { 200, GIVES("ASIAIOSFODNN7EXAMPLE", "S3CR", "", UNTIL),
          KAWS_CREDENTIALS, "SessionToken is missing" },
        { 200, GIVES("AK", "S3CR S3CR", "TOK", UNTIL), KAWS_CREDENTIALS,
          "SecretAccessKey: a blank" },
        { 302, GOOD, KAWS_CREDENTIALS, "(no error type, HTTP 302" },
        { 400, "S3CR", KAWS_CREDENTIALS, "(no error type, HTTP 400" },
        { 400, REFUSES(""), KAWS_CREDENTIALS, "(no error type, HTTP 400" },
        { 400, REFUSES("0123456789012345678901234567890123456789012345678901234"
                       "567890123456789"), KAWS_CREDENTIALS, "(no error type" },
        { 500, "", KAWS_SERVICE, "(no error type, HTTP 500" }
    };
    struct world *w = *state;
    kaws_config cfg = { .role_arn = ROLE("app") };
    reading r;
    size_t i;

    open_sts(w, &r, &cfg);
    for (i = 0; i < COUNT(rows); i++) {
        const answer one[] = { { rows[i].http, rows[i].body, NOW } };
        world_case = rows[i].body;
        EXPECT(w, rows[i].status, rows[i].says, READ(w, &r, one));
        assert_int_equal(r.seek.found[0].len, 0);
        assert_int_equal(asked, rows[i].http >= 500 ? 3 : 1);
    }
    world_case = "";
}


/* Nor is a reply that was made for an earlier request. */
static void
test_mixed_up(void **state)
{
    static const answer good[] = { { 200, GOOD, 0 } },
        mixed[] = { { 200, "mixed up", 0 } };
    struct world *w = *state;
    kaws_config cfg = { .role_arn = ROLE("app") };
    reading r;

    open_sts(w, &r, &cfg);
    OK(w, READ(w, &r, good));
    EXPECT(w, KAWS_NETWORK, "cannot ask AWS STS at https://sts.us-east-1.amazon"
           "aws.com/ for AWS credentials: its reply answers another request",
           READ(w, &r, mixed));
    assert_int_equal(asked, 3);
}


/* Neither the sender's words nor STS's code may show a token. */
static void
test_no_token_is_shown(void **state)
{
    static const answer lost[] = { { 0, "sent tok/en+0123456789abcdef and", 0 }
        }, told[] = { { 400, REFUSES("tok/en+0123456789abcdef"), NOW } };
    struct world *w = *state;
    kaws_config cfg = { .role_arn = ROLE("app") };
    reading r;

    fake_write_conf(&w->f, FAKE_ID "\n" FAKE_SECRET
                    "\ntok/en+0123456789abcdef\n");
    open_sts(w, &r, &cfg);
    EXPECT(w, KAWS_NETWORK, "cannot reach AWS STS at https://sts.us-east-1.",
           READ(w, &r, lost));
    assert_null(strstr(w->err.text, "tok/en"));
    EXPECT(w, KAWS_CREDENTIALS, "(no error type, HTTP 400", READ(w, &r, told));
    assert_null(strstr(w->err.text, "tok/en"));
}


/* ---- attempts ------------------------------------------------------------ */

static int
cancel_later(void *arg)
{
    return --*(int *)arg == 0;            /* says so only once                */
}


/* At most three, with a pause between them that leaves time for the next. */
static void
test_attempts(void **state)
{
    static const answer busy[] = { { 503, REFUSES("SlowDown"), NOW } },
        once[] = { { 400, REFUSES("Throttling"), NOW }, { 200, GOOD, 0 } },
        lost[] = { { 0, "reset", 0 }, { 0, "reset", 0 }, { 200, GOOD, 0 } },
        mixed[] = { { 0, "reset", 0 }, { 403, REFUSES("AccessDenied"), NOW } };
    struct world *w = *state;
    kaws_config cfg = { .role_arn = ROLE("app") };
    int64_t began;
    int left = 3;
    reading r;

    open_sts(w, &r, &cfg);
    began = w->f.now_ms;
    EXPECT(w, KAWS_SERVICE, "SlowDown", READ(w, &r, busy));
    assert_int_equal(asked, 3);
    assert_true(w->f.now_ms - began == 750);
    OK(w, READ(w, &r, once));
    assert_int_equal(asked, 2);
    found_until(&r, good_parts);
    OK(w, READ(w, &r, lost));
    assert_int_equal(asked, 3);
    EXPECT(w, KAWS_CREDENTIALS, "AccessDenied", READ(w, &r, mixed));
    assert_int_equal(asked, 2);
    EXPECT(w, KAWS_SERVICE, "SlowDown", read_in(w, &r, busy, 1, 499,
                                                (kaws__cancel){ 0 }));
    assert_int_equal(asked, 1);
    EXPECT(w, KAWS_SERVICE, "SlowDown", read_in(w, &r, busy, 1, 500,
                                                (kaws__cancel){ 0 }));
    assert_int_equal(asked, 2);
    EXPECT(w, KAWS_SERVICE, "SlowDown", read_in(w, &r, busy, 1, 1250,
                                                (kaws__cancel){ 0 }));
    assert_int_equal(asked, 3);
    EXPECT(w, KAWS_CANCELLED, "waited for AWS credentials",
           read_in(w, &r, busy, 1, 9000, (kaws__cancel){ cancel_later,
                                                         &left }));
    assert_int_equal(asked, 1);
    assert_int_equal(left, 0);
}


/* A role in the middle of a chain is asked for again with the same keys. */
static void
test_attempts_in_a_chain(void **state)
{
    static const answer parts[] = { PART("1"), { 503, REFUSES("x"), NOW },
        { 503, "", NOW }, { 200, GOOD, 0 } };
    struct world *w = *state;
    kaws_config cfg = { .auth = "native", .role_arn = ROLE("x") };
    reading r;

    paths(w, &r);
    cfg.credentials_file = r.credentials;
    write_file(r.credentials, "[default]\nrole_arn = " ROLE("a") "\n"
               "source_profile = b\n[b]\n" KEYS("AK0"));
    open_sts(w, &r, &cfg);
    OK(w, READ(w, &r, parts));
    found_until(&r, good_parts);
    assert_int_equal(asked, 4);
    is_signed(0, "AK0", "S3CR", "", NOW);
    is_signed(1, "AK1", "S3CR1", "TOK1", NOW);
    is_signed(3, "AK1", "S3CR1", "TOK1", NOW);
    assert_string_equal(asks[1].body, asks[3].body);
}


static void
renew_token(struct fake *f, int ms)
{
    (void)ms;
    write_file(f->user, "new.token");
}


/* The provider's keys may be newer than the token: it is read again. */
static void
test_a_token_is_read_again(void **state)
{
    static const answer parts[] = {
        { 400, REFUSES("InvalidIdentityToken"), NOW }, { 200, GOOD, 0 } };
    struct world *w = *state;
    kaws_config cfg = { .auth = "native" };
    char token[128];
    reading r;

    (void)snprintf(token, sizeof token, "%s/token", w->f.dir);
    write_file(token, "old.token");
    set("AWS_WEB_IDENTITY_TOKEN_FILE", token);
    set("AWS_ROLE_ARN", ROLE("w"));
    set("AWS_ROLE_SESSION_NAME", "pod");
    w->f.on_sleep = renew_token;
    w->f.user = token;
    open_sts(w, &r, &cfg);
    OK(w, READ(w, &r, parts));
    assert_int_equal(asked, 2);
    assert_non_null(strstr(asks[0].body, "RoleSessionName=pod&WebIdentityToken="
                           "old.token"));
    assert_non_null(strstr(asks[1].body, "WebIdentityToken=new.token"));
}


/* The longest token has room behind the longest files. */
static void
test_the_longest_token(void **state)
{
    static const answer good[] = { { 200, GOOD, 0 } };
    static char text[65535], token[20001];
    struct world *w = *state;
    kaws_config cfg = { .auth = "native" };
    char path[128];
    reading r;
    int n;

    paths(w, &r);
    cfg.config_file = r.config;
    (void)snprintf(path, sizeof path, "%s/token", w->f.dir);
    memset(token, 't', sizeof token - 1);
    write_file(path, token);
    memset(text, '#', sizeof text);
    n = snprintf(text, sizeof text, "[default]\nrole_arn = " ROLE("a") "\n"
                 "web_identity_token_file = %s\n", path);
    text[n] = '#';
    spill(r.config, text, sizeof text);
    open_sts(w, &r, &cfg);
    OK(w, READ(w, &r, good));
    found_until(&r, good_parts);
    assert_non_null(strstr(asks[0].body, "&WebIdentityToken="));
    unit_same_text("token", strstr(asks[0].body, "&WebIdentityToken=") + 18,
                   token);
}


/* If our clock is off by more than 4 minutes, the next request has STS's time;
 * so have those for the roles that follow. */
static void
test_our_clock(void **state)
{
    static const struct { int http; int64_t date; int again; } rows[] = {
        { 403, NOW + 241, 1 }, { 403, NOW - 241, 1 }, { 403, NOW + 86400, 1 },
        { 403, NOW + 240, 0 }, { 403, NOW - 240, 0 }, { 403, NOW, 0 },
        { 403, 0, 0 }, { 400, NOW + 86400, 0 }
    };
    struct world *w = *state;
    kaws_config cfg = { .auth = "native", .role_arn = ROLE("x") };
    const answer web[] = { { 403, REFUSES("AccessDenied"), NOW + 9999 } };
    char token[128];
    reading r;
    size_t i;

    paths(w, &r);
    cfg.credentials_file = r.credentials;
    write_file(r.credentials, "[default]\nrole_arn = " ROLE("a") "\n"
               "source_profile = b\n[b]\n" KEYS("AK0"));
    open_sts(w, &r, &cfg);
    for (i = 0; i < COUNT(rows); i++) {
        const answer parts[] = {
            { rows[i].http, REFUSES("SignatureDoesNotMatch"), rows[i].date },
            PART("1"), { 200, GOOD, 0 } };
        EXPECT(w, rows[i].again ? KAWS_OK : KAWS_CREDENTIALS,
               "SignatureDoesNotMatch", READ(w, &r, parts));
        assert_int_equal(asked, rows[i].again ? 3 : 1);
        is_signed(0, "AK0", "S3CR", "", NOW);
        if (!rows[i].again)
            continue;
        is_signed(1, "AK0", "S3CR", "", rows[i].date);
        is_signed(2, "AK1", "S3CR1", "TOK1", rows[i].date);
    }
    (void)snprintf(token, sizeof token, "%s/token", w->f.dir);
    write_file(token, "S3CR.S3CR");       /* which needs no clock of ours     */
    set("AWS_WEB_IDENTITY_TOKEN_FILE", token);
    set("AWS_ROLE_ARN", ROLE("w"));
    cfg.credentials_file = NULL;
    open_sts(w, &r, &cfg);
    EXPECT(w, KAWS_CREDENTIALS, "AccessDenied", READ(w, &r, web));
    assert_int_equal(asked, 1);
}


/* ---- what a role may be -------------------------------------------------- */

static const char bad_arn[] = "cannot use the role: the ARN of the role is not "
                          "of the form arn:aws:iam::111122223333:role/NAME";
static const char bad_name[] = "cannot use the role: the role's session name "
                           "must have 2 to 64";
static const char bad_id[] = "cannot use the role: the role's external id must "
                         "have 2 to 1224";
static const char alone[] = "cannot use the role: role_external_id or "
                            "role_session_name is set, but not role_arn";
static char name64[66], id1224[1226], path576[640];

static const struct { const char *arn, *session, *id, *says; } settings[] = {
    { ROLE("a"), NULL, NULL, NULL },
    { "arn:aws-us-gov:iam::" FAKE_OWN ":role/a/b/c", "ab", "ab", NULL },
    { ROLE("a"), name64, id1224, NULL },
    { path576, NULL, NULL, NULL },
    { "", NULL, NULL, bad_arn }, { "app", NULL, NULL, bad_arn },
    { "arn:aws:iam::" FAKE_OWN ":user/a", NULL, NULL, bad_arn },
    { "arn:aws:iam::" FAKE_OWN ":role/", NULL, NULL, bad_arn },
    { "arn:aws:iam::11112222333:role/a", NULL, NULL, bad_arn },
    { "arn:aws:iam::1111222233334:role/a", NULL, NULL, bad_arn },
    { "arn:aws:iam::" FAKE_OWN ":role/a b", NULL, NULL, bad_arn },
    { "arn:aws:iam::" FAKE_OWN ":role/a\n", NULL, NULL, bad_arn },
    { "arn:aws:sts::" FAKE_OWN ":assumed-role/a/b", NULL, NULL, bad_arn },
    { "arn:AWS:iam::" FAKE_OWN ":role/a", NULL, NULL, bad_arn },
    { " " ROLE("a"), NULL, NULL, bad_arn },
    { "arn:aws:sts:iam::" FAKE_OWN ":role/a", NULL, NULL, bad_arn },
    { ROLE("a"), "a", NULL, bad_name }, { ROLE("a"), "", NULL, bad_name },
    { ROLE("a"), "a/b", NULL, bad_name }, { ROLE("a"), "a b", NULL, bad_name },
    { ROLE("a"), "a&Action=x", NULL, bad_name },
    { ROLE("a"), NULL, "a", bad_id }, { ROLE("a"), NULL, "", bad_id },
    { ROLE("a"), NULL, "a b", bad_id }, { ROLE("a"), NULL, "a&b", bad_id },
    { NULL, "ab", NULL, alone }, { NULL, NULL, "ab", alone }
};


/* What STS would not take is refused when the ring opens, in one line. */
static void
test_settings(void **state)
{
    struct world *w = *state;
    size_t i;

    memset(name64, 'n', 64);
    memset(id1224, 'i', 1224);
    (void)snprintf(path576, sizeof path576, "%s", ROLE(""));
    memset(path576 + strlen(path576), 'p', 576);
    for (i = 0; i < COUNT(settings); i++) {
        world_case = settings[i].arn != NULL ? settings[i].arn : "(none)";
        w->cfg.role_arn = settings[i].arn;
        w->cfg.role_session_name = settings[i].session;
        w->cfg.role_external_id = settings[i].id;
        w->cfg.auth = i & 1 ? "native" : NULL;
        EXPECT(w, settings[i].says != NULL ? KAWS_CONFIG : KAWS_OK,
               settings[i].says, kaws_open(&w->ring, &w->cfg, &w->err));
        assert_true((w->ring == NULL) == (settings[i].says != NULL));
        world_close(w);
        kaws__err_clear(&w->err);
    }
    world_case = "";
    name64[64] = id1224[1224] = path576[strlen(path576)] = 'x';
    w->cfg.role_arn = ROLE("a");
    w->cfg.role_session_name = name64;
    w->cfg.role_external_id = NULL;
    EXPECT(w, KAWS_CONFIG, bad_name, kaws_open(&w->ring, &w->cfg, &w->err));
    kaws__err_clear(&w->err);
    w->cfg.role_session_name = NULL;
    w->cfg.role_external_id = id1224;
    EXPECT(w, KAWS_CONFIG, bad_id, kaws_open(&w->ring, &w->cfg, &w->err));
    kaws__err_clear(&w->err);
    w->cfg.role_external_id = NULL;
    w->cfg.role_arn = path576;
    EXPECT(w, KAWS_CONFIG, bad_arn, kaws_open(&w->ring, &w->cfg, &w->err));
    kaws__err_clear(&w->err);
}


/* ---- a web identity ------------------------------------------------------ */

/* The form that STS gets: what is odd in it is encoded. */
static int
web_send(void *ctx, const kaws_request *q, kaws_reply *r)
{
    static const char form[] = "Action=AssumeRoleWithWebIdentity&Version="
        "2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A111122223333%3Arole%2Fa%2Bb"
        "%3Dc&RoleSessionName=keyring_aws&WebIdentityToken="
        "ey.a-b_c~0123456%2B%2F%3D";

    (void)ctx;
    assert_string_equal(q->url, "https://sts.eu-west-1.amazonaws.com/");
    assert_true(q->method == NULL && !q->direct);
    assert_string_equal(q->headers[0], "Content-Type: application/x-www-form-"
                        "urlencoded; charset=utf-8");
    assert_null(q->headers[1]);           /* it is not signed                 */
    unit_same("form", q->body.at, q->body.len, form, sizeof form - 1);
    (void)snprintf(r->text, sizeof r->text, "lost ey.a-b_c~0123456+/= there");
    return 1;
}


static void
test_web_identity(void **state)
{
    static char text[20002];
    struct world *w = *state;
    kaws_config cfg = { .auth = "native" };
    char token[128];
    reading r;

    w->f.hooks.send = web_send;
    memset(&r, 0, sizeof r);
    (void)snprintf(token, sizeof token, "%s/token", w->f.dir);
    set("AWS_WEB_IDENTITY_TOKEN_FILE", token);
    set("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/a+b=c");
    write_file(token, "ey.a-b_c~0123456+/=\r\n \n");
    kaws__err_clear(&w->err);
    kaws__sources_open(&r.sources, &w->f.hooks, NULL);
    r.region = "eu-west-1";
    EXPECT(w, KAWS_OK, NULL, kaws__native_open(&r.sources, &cfg, 1,
                                           &w->err));
    EXPECT(w, KAWS_NETWORK, "cannot reach AWS STS at https://sts.eu-west-1.",
           read_again(w, &r));
    assert_null(strstr(w->err.text, "ey."));
    memset(text, 'x', 20001);
    write_file(token, text);
    EXPECT(w, KAWS_CREDENTIALS, "does not hold 4 to 20000 bytes",
           read_again(w, &r));
    write_file(token, "abc\n");
    EXPECT(w, KAWS_CREDENTIALS, "does not hold 4 to 20000 bytes",
           read_again(w, &r));
    memset(text, '=', 20000);             /* three times as long on its way   */
    text[20000] = '\0';
    write_file(token, text);
    EXPECT(w, KAWS_CREDENTIALS, "does not hold", read_again(w, &r));
    assert_int_equal(remove(token), 0);
    EXPECT(w, KAWS_CREDENTIALS, "cannot read the token file",
           read_again(w, &r));
    set("AWS_ROLE_ARN", NULL);
    EXPECT(w, KAWS_CONFIG, "AWS_ROLE_ARN has to be", read_again(w, &r));
    kaws__err_clear(&w->err);
    w->cfg.sts_endpoint = "http://10.0.0.1";
    EXPECT(w, KAWS_CONFIG, "sts_endpoint 'http://10.0.0.1' is not of the form",
           kaws_open(&w->ring, &w->cfg, &w->err));
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_the_request), TEST(test_an_endpoint), TEST(test_hosts),
        TEST(test_a_profile_s_role), TEST(test_a_chain), TEST(test_six_roles),
        TEST(test_where_a_chain_begins), TEST(test_refusals),
        TEST(test_who_asked), TEST(test_odd_replies), TEST(test_mixed_up),
        TEST(test_no_token_is_shown), TEST(test_attempts),
        TEST(test_attempts_in_a_chain), TEST(test_a_token_is_read_again),
        TEST(test_the_longest_token),
        TEST(test_our_clock), TEST(test_settings), TEST(test_web_identity)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
