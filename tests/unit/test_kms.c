/* Room kms: names of AWS, what is sent, what each error of AWS means, when
 * a call is tried again, and which replies are believed. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "world.h"

#include <ctype.h>

#define EAST2_ID "00000002-aaaa-bbbb-cccc-1234567890ab"


/* A world without a data file: KMS calls only. */
static int
begin_bare(void **state)
{
    struct world *w;

    if (world_begin(state) != 0)
        return 1;
    w = *state;
    w->cfg.data_file = NULL;
    world_open(w);
    return 0;
}


static kaws_status
generate(struct world *w)
{
    kaws_sealed sealed;

    return kaws_kms_generate_data_key(w->ring, NULL, 16, NULL, &sealed,
                                      &w->err);
}


static void
forget_scripts(struct world *w)
{
    memset(w->f.scripts, 0, sizeof w->f.scripts);
}


/* ---- names of AWS ------------------------------------------------------ */

static const struct {
    const char *partition, *suffix, *regions;
} partitions[] = {
    { "aws", "amazonaws.com",
      "af-south-1 ap-east-1 ap-east-2 ap-northeast-1 ap-northeast-2 "
      "ap-northeast-3 ap-south-1 ap-south-2 ap-southeast-1 ap-southeast-2 "
      "ap-southeast-3 ap-southeast-4 ap-southeast-5 ap-southeast-6 "
      "ap-southeast-7 ca-central-1 ca-west-1 eu-central-1 eu-central-2 "
      "eu-north-1 eu-south-1 eu-south-2 eu-west-1 eu-west-2 eu-west-3 "
      "il-central-1 me-central-1 me-south-1 mx-central-1 sa-east-1 us-east-1 "
      "us-east-2 us-west-1 us-west-2 xx-future-12" },
    { "aws-cn", "amazonaws.com.cn", "cn-north-1 cn-northwest-1" },
    { "aws-us-gov", "amazonaws.com", "us-gov-east-1 us-gov-west-1" },
    { "aws-iso", "c2s.ic.gov", "us-iso-east-1 us-iso-west-1" },
    { "aws-iso-b", "sc2s.sgov.gov", "us-isob-east-1 us-isob-west-1" },
    { "aws-iso-e", "cloud.adc-e.uk", "eu-isoe-west-1" },
    { "aws-iso-f", "csp.hci.ic.gov", "us-isof-east-1 us-isof-south-1" },
    { "aws-eusc", "amazonaws.eu", "eusc-de-east-1" }
};


/* Each region: its host, and the one partition that its ARNs are of. */
static void
test_regions(void **state)
{
    char region[40], want[160], arn[160];
    size_t p, k;
    int n, seen = 0;

    (void)state;
    for (p = 0; p < COUNT(partitions); p++) {
        const char *rest = partitions[p].regions;
        while (sscanf(rest, "%39s%n", region, &n) == 1) {
            char url[192];
            kaws__arn parts;
            rest += n;
            seen++;
            assert_true(kaws__arn_region_ok(kaws__buf_of(region)));
            kaws__arn_url(url, sizeof url, NULL, region);
            (void)snprintf(want, sizeof want, "https://kms.%s.%s/", region,
                           partitions[p].suffix);
            assert_string_equal(url, want);
            for (k = 0; k < COUNT(partitions); k++) {
                (void)snprintf(arn, sizeof arn, "arn:%s:kms:%s:111122223333:"
                               "key/x", partitions[k].partition, region);
                assert_int_equal(kaws__arn_parse(kaws__buf_of(arn), &parts),
                                 k == p);
            }
        }
    }
    assert_int_equal(seen, 47);
}


static void
test_not_regions(void **state)
{
    static const char *const bad[] = {
        "", "us", "us-", "us-east", "us-east-", "us-east-1a", "us-east-a1",
        "us-east-123", "us-east-1-", "us-east-1-2", "us-1-east", "US-EAST-1",
        "Us-east-1", "us--east-1", "-us-east-1", "us-east-1 ", " us-east-1",
        "us-east-1\n", "us_east_1", "us-east-1.evil.com", "us-east-1/",
        "us-east-1@evil", "us-east:1", "u\xc3\xa4-east-1", "us-east-\xff",
        "us-1", "1-1-1", "aaaaaaaaaaaaaaaa-aaaaaaaaaaaaaa-1"
    };
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(bad); i++)
        if (kaws__arn_region_ok(kaws__buf_of(bad[i])))
            fail_msg("%s", bad[i]);
    assert_true(kaws__arn_region_ok(kaws__buf_of(
        "aaaaaaaaaaaaaaaa-aaaaaaaaaaaaa-1")));        /* 32 characters        */
    assert_true(kaws__arn_region_ok(kaws__buf_of("us-east-99")));
}


#define A "arn:aws:kms:us-east-1:111122223333:"

static void
test_arns(void **state)
{
    static const char *const bad[] = {
        "", "arn", "arn:", "arn:aws", "arn:aws:", "arn:aws:kms",
        "arn:aws:kms:us-east-1:111122223333",
        A, A "key", A "key/", A "alias/", A "alias", A "keys/x", A "grant/x",
        A "key/x:y", A "key/x y", A "key/x\n", A "key/\xc3\xa4", A "key/x\"",
        "ARN:aws:kms:us-east-1:111122223333:key/x",
        "arn:AWS:kms:us-east-1:111122223333:key/x",
        "arn:aws:s3:us-east-1:111122223333:key/x",
        "arn:aws:kms::111122223333:key/x",
        "arn:aws:kms:nowhere:111122223333:key/x",
        "arn:aws:kms:us-east-1.evil.com/-1:111122223333:key/x",
        "arn:aws:kms:us-east-1::key/x",
        "arn:aws:kms:us-east-1:11112222333:key/x",
        "arn:aws:kms:us-east-1:1111222233334:key/x",
        "arn:aws:kms:us-east-1:11112222333a:key/x",
        "arn:aws:kms:us-east-1:11112222333 :key/x",
        "arn::kms:us-east-1:111122223333:key/x",
        "xarn:aws:kms:us-east-1:111122223333:key/x",
        " arn:aws:kms:us-east-1:111122223333:key/x"
    };
    char text[300];
    kaws__arn arn;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(bad); i++)
        if (kaws__arn_parse(kaws__buf_of(bad[i]), &arn))
            fail_msg("%s", bad[i]);
    assert_true(kaws__arn_parse(kaws__buf_of(A "key/mrk-1f_2/3"), &arn));
    assert_memory_equal(arn.partition.at, "aws", arn.partition.len);
    assert_int_equal(arn.region.len, 9);
    assert_memory_equal(arn.region.at, "us-east-1", 9);
    assert_int_equal(arn.account.len, 12);
    assert_memory_equal(arn.account.at, "111122223333", 12);
    assert_int_equal(arn.resource.len, 14);
    assert_true(kaws__arn_parse(kaws__buf_of(A "alias/my/key"), &arn));
    for (i = 200; i < 290; i++) {
        (void)snprintf(text, sizeof text, A "key/%0*d", (int)i -
                       (int)sizeof A + 1 - 4, 7);
        assert_int_equal(strlen(text), i);
        assert_int_equal(kaws__arn_parse(kaws__buf_of(text), &arn), i <= 255);
    }
}


static void
test_aims(void **state)
{
    static const struct { const char *id, *region; } rows[] = {
        { A "key/x", "us-east-1" },
        { "arn:aws-cn:kms:cn-north-1:111122223333:key/x", "cn-north-1" },
        { A "alias/app", "us-east-1" },
        { "alias/app", "eu-west-1" },
        { "alias/a_b-c/D", "eu-west-1" },
        { "1234abcd-12ab-34cd-56ef-1234567890ab", "eu-west-1" },
        { "mrk-1234abcd12ab34cd56ef1234567890ab", "eu-west-1" },
        { "", NULL }, { "alias/a b", NULL }, { "a:b", NULL }, { "a\n", NULL },
        { "a\"", NULL }, { "\xff\xfe", NULL }, { "k\xc3\xa4", NULL },
        { "arn:aws:kms:us-east-1:1:key/x", NULL },
        { "arn:aws-cn:kms:us-east-1:111122223333:key/x", NULL }
    };
    struct world *w = *state;
    kaws__target target;
    char text[300];
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        kaws__err_clear(&w->err);
        if (rows[i].region == NULL) {
            EXPECT(w, KAWS_ARGUMENT, "is not the id, ARN or alias",
                   kaws__arn_target(&target, rows[i].id, "eu-west-1", &w->err));
        } else {
            EXPECT(w, KAWS_OK, NULL,
                   kaws__arn_target(&target, rows[i].id, "eu-west-1", &w->err));
            assert_string_equal(target.key_id, rows[i].id);
            assert_string_equal(target.region, rows[i].region);
        }
    }
    memset(text, 'k', sizeof text);
    text[256] = '\0';
    EXPECT(w, KAWS_ARGUMENT, "kkk...",
           kaws__arn_target(&target, text, "eu-west-1", &w->err));
    text[255] = '\0';
    kaws__err_clear(&w->err);
    EXPECT(w, KAWS_OK, NULL,
           kaws__arn_target(&target, text, "eu-west-1", &w->err));
}


static void
test_fits(void **state)
{
    static const struct { const char *asked, *region, *got; int fits; }
    rows[] = {
        { A "key/x", "us-east-1", A "key/x", 1 },
        { A "key/x", "us-east-1", A "key/y", 0 },
        { A "key/x", "us-east-1", A "key/xx", 0 },
        { A "key/x", "us-east-1", "arn:aws:kms:us-east-1:444455556666:key/x",
          0 },
        { A "key/x", "us-east-1", "arn:aws:kms:us-east-2:111122223333:key/x",
          0 },
        { A "key/x", "us-east-2", A "key/x", 0 },
        { A "key/x", "us-east-1", A "alias/x", 0 },
        { A "key/x", "us-east-1", "x", 0 },
        { A "key/x", "us-east-1", "", 0 },
        { A "alias/a", "us-east-1", A "key/x", 1 },
        { A "alias/a", "us-east-1", A "alias/a", 0 },
        { A "alias/a", "us-east-1",
          "arn:aws:kms:us-east-1:444455556666:key/x", 0 },
        { "alias/a", "us-east-1", A "key/x", 1 },
        { "alias/a", "us-east-1", "arn:aws:kms:us-east-2:111122223333:key/x",
          0 },
        { "alias/a", "us-east-1", A "alias/a", 0 },
        { "x", "us-east-1", A "key/x", 1 },
        { "x", "us-east-1", A "key/y", 0 },
        { "x", "us-east-1", A "key/x/y", 0 },
        { "x", "eu-west-1", A "key/x", 0 },
        { "x", "us-east-1", "arn:aws-cn:kms:us-east-1:111122223333:key/x", 0 }
    };
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        kaws__target target;
        (void)snprintf(target.key_id, sizeof target.key_id, "%s",
                       rows[i].asked);
        (void)snprintf(target.region, sizeof target.region, "%s",
                       rows[i].region);
        if (kaws__arn_fits(&target, rows[i].got) != rows[i].fits)
            fail_msg("row %lu", (unsigned long)i);
    }
}


#define B(account) "arn:aws:kms:us-east-1:" account ":key/x"

static void
test_trust(void **state)
{
    static const struct {
        const char *home, *accounts, *arn;
        int trusted;
    } rows[] = {
        { "", NULL, B("111122223333"), 0 },
        { "", "", B("111122223333"), 0 },
        { "", "111122223333", B("111122223333"), 1 },
        { "", "111122223333", B("444455556666"), 0 },
        { "", "111122223333", "arn:aws-cn:kms:cn-north-1:111122223333:key/x",
          1 },
        { B("111122223333"), NULL, B("111122223333"), 1 },
        { B("111122223333"), NULL,
          "arn:aws:kms:eu-west-1:111122223333:key/y", 1 },
        { B("111122223333"), NULL, B("444455556666"), 0 },
        { B("111122223333"), "444455556666", B("444455556666"), 1 },
        { B("111122223333"), "444455556666", B("111122223333"), 1 },
        { B("111122223333"), " 444455556666 ,, 777788889999,",
          B("777788889999"), 1 },
        { B("111122223333"), "444455556666,777788889999", B("555566667777"),
          0 },
        { B("111122223333"), "444455556666",
          "arn:aws-cn:kms:cn-north-1:444455556666:key/x", 0 },
        { B("111122223333"), NULL,
          "arn:aws-cn:kms:cn-north-1:111122223333:key/x", 0 },
        { B("111122223333"), NULL, "111122223333", 0 },
        { B("111122223333"), NULL, "", 0 }
    };
    struct world *w = *state;
    kaws__trust *k = &w->ring->kms.trust;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        (void)snprintf(k->own, sizeof k->own, "%s", rows[i].home);
        k->accounts = rows[i].accounts != NULL ? rows[i].accounts : "";
        if ((kaws__trust_check(k, rows[i].arn, KAWS__TO_OPEN, NULL) ==
             KAWS_OK) != rows[i].trusted)
            fail_msg("row %lu", (unsigned long)i);
    }
    k->accounts = "";
    k->own[0] = '\0';
    assert_int_equal(kaws__trust_check(k, B("111122223333"), KAWS__SEALED,
                                       NULL), KAWS_OK);
    assert_int_equal(kaws__trust_check(k, B("444455556666"), KAWS__SEALED,
                                       NULL), KAWS_FOREIGN);
    assert_string_equal(k->own, B("111122223333"));
}


static void
test_accounts(void **state)
{
    static const char *const good[] = {
        "", "111122223333", "111122223333,444455556666",
        " 111122223333 , 444455556666 ", "111122223333 444455556666,"
    };
    static const char *const bad[] = {
        " ", ",", " ,, ", "1", "11112222333", "1111222233334",
        "111122223333;444455556666", "11112222333x", "self", "111122223333,4",
        "\xc3\xa4"
    };
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(good); i++)
        if (!kaws__trust_list_ok(good[i]))
            fail_msg("%s", good[i]);
    for (i = 0; i < COUNT(bad); i++)
        if (kaws__trust_list_ok(bad[i]))
            fail_msg("%s", bad[i]);
}


static void
test_endpoints(void **state)
{
    static const char *const good_urls[] = {
        "https://kms.example.com", "https://kms.example.com/",
        "https://h:8443", "https://127.0.0.1:1", "https://[2001:db8::1]:8443/",
        "http://127.0.0.1", "http://127.0.0.1:5000/", "http://localhost:1",
        "http://localhost/", "http://[::1]/",
        "http://[::1]:5000", "http://localhost:65535", "https://[::]",
        "https://[::ffff:a00:1]", "https://[1:2:3:4:5:6:7:8]:1/",
        "https://a_b.example:00443",
        "https://vpce-0a-b.kms.us-east-1.vpce.amazonaws.com"
    };
    static const char *const bad_urls[] = {
        "", "kms.example.com", "https://", "https:///", "ftp://h", "HTTPS://h",
        "https:/h", "https://h/path", "https://h//", "https://h?x",
        "https://h#", "https://user@h", "https://h h", "https://h\n",
        "https://h\\", "https://\xc3\xa4", "http://example.com",
        "http://127.0.0.10", "http://127.0.0.1.evil.com",
        "http://localhost.evil.com", "http://localhostx",
        "http://localhost@evil.com", "http://[::1].evil",
        "http://", "http://10.0.0.1:80",
        "https://h:1:2", "https://[::1", "https://h:", "https://h:/",
        "https://h:0", "https://h:65536", "https://h:x", "https://h:-1",
        "https://:443", "https://::1", "https://h]", "https://[h]",
        "https://[]", "https://[::1]x", "https://[::1]:", "https://[::1]:0",
        "https://[::1]:1:2", "https://[1:2]", "https://[1::2::3]",
        "https://[:::]", "https://[12345::]", "https://[::1%25lo]",
        "https://[0:0:0:0:0:0:0:0:0:0:0:0:0:0:0:0:0:0:0:0:0:0:0:0:0]",
        "http://localhost:", "http://127.0.0.1:0", "http://[::1]:x",
        "http://[::1"
    };
    char text[300];
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(good_urls); i++)
        if (!kaws__arn_endpoint_ok(good_urls[i]))
            fail_msg("%s", good_urls[i]);
    for (i = 0; i < COUNT(bad_urls); i++)
        if (kaws__arn_endpoint_ok(bad_urls[i]))
            fail_msg("%s", bad_urls[i]);
    (void)snprintf(text, sizeof text, "https://%0150d", 7);
    assert_true(kaws__arn_endpoint_ok(text));
    (void)snprintf(text, sizeof text, "https://%0151d", 7);
    assert_false(kaws__arn_endpoint_ok(text));
}


/* A ring's place may hold anything before. */
static void
test_open_and_close_anywhere(void **state)
{
    struct world *w = *state;
    kaws__kms *k = malloc(sizeof *k);

    assert_non_null(k);
    memset(k, 0x77, sizeof *k);
    w->cfg.region = "mars";
    EXPECT(w, KAWS_CONFIG, "'mars'", kaws__kms_open(k, &w->f.hooks, &w->cfg,
                                                    &w->err));
    kaws__kms_close(k);
    memset(k, 0x77, sizeof *k);
    w->cfg.region = NULL;
    w->cfg.kms_key_id = NULL;
    kaws__err_clear(&w->err);
    EXPECT(w, KAWS_OK, NULL, kaws__kms_open(k, &w->f.hooks, &w->cfg, &w->err));
    assert_string_equal(k->trust.now.target.key_id, "");
    assert_string_equal(k->trust.own, "");
    assert_int_equal(k->calls.clock_offset_s, 0);
    assert_int_equal(k->calls.stats.kms_requests, 0);
    kaws__kms_close(k);
    free(k);
}


/* ---- what is sent ------------------------------------------------------ */

typedef struct sent {                     /* the last request, as it was      */
    size_t len, spaces;
    char   type[64], host[200];
    int    count;
} sent;

static sent last;


static int
watch(void *ctx, const kaws_request *q, kaws_reply *r)
{
    last.count++;
    last.len = q->body.len;
    last.spaces = 0;
    while (last.spaces < q->body.len &&
           q->body.at[q->body.len - 1 - last.spaces] == ' ')
        last.spaces++;
    (void)snprintf(last.type, sizeof last.type, "%s",
                   fake_header(q, "Content-Type: "));
    (void)snprintf(last.host, sizeof last.host, "%s",
                   fake_header(q, "Host: "));
    return fake_send(ctx, q, r);
}


static const kaws_pair pairs[] = { { "app", "a\"b\\\n" },
                                   { "\xc3\xa4", "\xe2\x82\xac" } };
static const kaws_context context = { pairs, 2 };

#define CONTEXT "{\"app\":\"a\\\"b\\\\\\u000a\",\"\xc3\xa4\":\"\xe2\x82\xac\"}"


static void
expect_body(struct world *w, const char *want)
{
    assert_string_equal(w->f.body, want);
    assert_string_equal(last.type, "application/x-amz-json-1.1");
    assert_string_equal(last.host, "kms.us-east-1.amazonaws.com");
    assert_string_equal(w->f.url, "https://kms.us-east-1.amazonaws.com/");
}


/* The body of every action, byte for byte. That the request is well signed is
 * the fake's to say. */
static void
test_bodies_that_seal(void **state)
{
    struct world *w = *state;
    uint8_t plain[64];
    kaws_sealed sealed;
    kaws_bytes view = { (const uint8_t *)"0123456789", 10 };

    w->cfg.hooks.send = watch;
    w->cfg.data_file = NULL;
    world_open(w);
    EXPECT(w, KAWS_OK, NULL, kaws_kms_generate_data_key(
        w->ring, &context, 1024, NULL, &sealed, &w->err));
    expect_body(w, "{\"KeyId\":\"" FAKE_EAST "\",\"NumberOfBytes\":1024,"
                   "\"EncryptionContext\":" CONTEXT "}");
    assert_int_equal(fake_calls(&w->f, "GenerateDataKeyWithoutPlaintext"), 1);
    EXPECT(w, KAWS_OK, NULL, kaws_kms_generate_data_key(
        w->ring, NULL, 16, plain, &sealed, &w->err));
    expect_body(w, "{\"KeyId\":\"" FAKE_EAST "\",\"NumberOfBytes\":16}");
    assert_int_equal(fake_calls(&w->f, "GenerateDataKey"), 1);
    assert_int_equal(last.spaces, 0);
    EXPECT(w, KAWS_OK, NULL, kaws_kms_encrypt(w->ring, &context, view, &sealed,
                                              &w->err));
    expect_body(w, "{\"KeyId\":\"" FAKE_EAST "\",\"Plaintext\":\""
                   "MDEyMzQ1Njc4OQ==\",\"EncryptionContext\":" CONTEXT "}");
    assert_int_equal(last.spaces, strlen(w->f.body) + KAWS__CALLS_SPACES);
    assert_string_equal(sealed.kms_key_arn, FAKE_EAST);
    assert_string_equal(sealed.key_material_id, "");
    assert_int_equal(w->f.fresh_connection, 0);
}


static void
test_bodies_that_open(void **state)
{
    struct world *w = *state;
    uint8_t plain[64];
    size_t len = sizeof plain;
    kaws_sealed sealed, again;
    kaws_bytes view = { (const uint8_t *)"0123456789", 10 };
    kaws__buf blob;
    char want[2048];

    w->cfg.hooks.send = watch;
    w->cfg.data_file = NULL;
    world_open(w);
    EXPECT(w, KAWS_OK, NULL, kaws_kms_encrypt(w->ring, &context, view, &sealed,
                                              &w->err));
    kaws__buf_init(&blob, &fake_plain);
    view.at = sealed.blob;
    view.len = sealed.blob_len;
    kaws__text_base64(&blob, view);
    kaws__buf_byte(&blob, 0);
    EXPECT(w, KAWS_OK, NULL, kaws_kms_decrypt(w->ring, &context, &sealed,
                                              plain, &len, &w->err));
    (void)snprintf(want, sizeof want, "{\"KeyId\":\"" FAKE_EAST "\","
                   "\"CiphertextBlob\":\"%s\",\"EncryptionContext\":" CONTEXT
                   "}", (char *)blob.at);
    expect_body(w, want);
    assert_int_equal(len, 10);
    assert_memory_equal(plain, "0123456789", 10);
    EXPECT(w, KAWS_OK, NULL, kaws_kms_reencrypt(w->ring, &context, &sealed,
                                                &again, &w->err));
    (void)snprintf(want, sizeof want, "{\"CiphertextBlob\":\"%s\","
                   "\"SourceKeyId\":\"" FAKE_EAST "\","
                   "\"SourceEncryptionContext\":" CONTEXT ","
                   "\"DestinationKeyId\":\"" FAKE_EAST "\","
                   "\"DestinationEncryptionContext\":" CONTEXT "}",
                   (char *)blob.at);
    expect_body(w, want);
    kaws__buf_free(&blob);
}


static void
test_bodies_about_keys(void **state)
{
    struct world *w = *state;

    EXPECT(w, KAWS_OK, NULL, kaws_check(w->ring, &w->err));
    assert_non_null(strstr(w->f.body, "{\"app\":\"keyring_aws\"}"));
    assert_non_null(strstr(w->f.body, ",\"DryRun\":true}"));
    w->f.hides_material = 1;              /* the rotation is the last request */
    EXPECT(w, KAWS_OK, NULL, kaws_rotate_kms_key(w->ring, &w->err));
    assert_string_equal(w->f.body, "{\"KeyId\":\"" FAKE_EAST "\"}");
    assert_int_equal(fake_calls(&w->f, "RotateKeyOnDemand"), 1);
}


/* An endpoint changes the host, never the region that is signed for. */
static void
test_endpoint(void **state)
{
    struct world *w = *state;

    w->cfg.hooks.send = watch;
    w->cfg.data_file = NULL;
    w->cfg.endpoint = "https://kms.example:8443/";
    w->cfg.kms_key_id = FAKE_WEST;
    w->cfg.region = "eu-west-1";
    world_open(w);
    EXPECT(w, KAWS_OK, NULL, generate(w));
    assert_string_equal(w->f.url, "https://kms.example:8443/");
    assert_string_equal(last.host, "kms.example:8443");
    assert_non_null(strstr(w->f.authorization, "/us-west-2/kms/"));
    world_close(w);
    w->cfg.endpoint = "http://[::1]:5000";
    world_open(w);
    EXPECT(w, KAWS_OK, NULL, generate(w));
    assert_string_equal(w->f.url, "http://[::1]:5000/");
    assert_string_equal(last.host, "[::1]:5000");
}


/* An id is looked up in `region`, an ARN in its own. */
static void
test_region_of_the_call(void **state)
{
    static const struct { const char *id, *region, *url; } rows[] = {
        { FAKE_WEST, NULL, "https://kms.us-west-2.amazonaws.com/" },
        { "alias/app", NULL, "https://kms.us-east-1.amazonaws.com/" },
        { "alias/app", "us-west-2", "https://kms.us-west-2.amazonaws.com/" },
        { EAST2_ID, NULL, "https://kms.us-east-1.amazonaws.com/" }
    };
    struct world *w = *state;
    size_t i;

    w->cfg.data_file = NULL;
    for (i = 0; i < COUNT(rows); i++) {
        w->cfg.kms_key_id = rows[i].id;
        w->cfg.region = rows[i].region;
        world_open(w);
        EXPECT(w, KAWS_OK, NULL, generate(w));
        assert_string_equal(w->f.url, rows[i].url);
        world_close(w);
    }
    w->cfg.region = "eu-west-1";
    world_open(w);
    EXPECT(w, KAWS_KMS_KEY, "check the KMS key's id and the region",
           generate(w));
    assert_string_equal(w->err.aws, "NotFoundException");
    assert_string_equal(w->f.url, "https://kms.eu-west-1.amazonaws.com/");
}


static void
test_dry_run(void **state)
{
    struct world *w = *state;

    EXPECT(w, KAWS_OK, NULL, kaws_check(w->ring, &w->err));
    assert_int_equal(w->f.requests, 2);
    fake_push(&w->f, (fake_script){ .action = "Decrypt", .http = 412,
                                    .body = "{\"__type\":"
                                            "\"DryRunOperationException\"}" });
    EXPECT(w, KAWS_OK, NULL, kaws_check(w->ring, &w->err));
    fake_push(&w->f, (fake_script){ .action = "Decrypt",
                                    .error = "AccessDeniedException" });
    EXPECT(w, KAWS_DENIED, "refused Decrypt", kaws_check(w->ring, &w->err));
    assert_int_equal(w->f.requests, 6);

    fake_push(&w->f, (fake_script){ .action = "Decrypt", .http = 500,
                                    .error = "DryRunOperationException" });
    EXPECT(w, KAWS_REPLY, "HTTP 500", kaws_check(w->ring, &w->err));
    fake_push(&w->f, (fake_script){ .action = "Decrypt",
                                    .error = "InvalidCiphertextException" });
    EXPECT(w, KAWS_REPLY, "asked to seal", kaws_check(w->ring, &w->err));
    w->f.requests = 6;

    /* Where no dry run was asked for, it is no answer. */
    fake_push(&w->f, (fake_script){ .error = "DryRunOperationException" });
    EXPECT(w, KAWS_REPLY, "DryRunOperationException", generate(w));
    assert_int_equal(w->f.requests, 7);
}


/* A 200 to a dry run is taken for another request's: KMS is asked once more,
 * over a fresh connection. A second one must fit the key, and is noted once. */
static void
test_dry_run_granted(void **state)
{
    static const char another[] = "{\"KeyId\":\"" FAKE_EAST2 "\","
                                  "\"Plaintext\":\"AA==\"}";
    struct world *w = *state;

    fake_push(&w->f, (fake_script){ .action = "Decrypt", .body = another });
    EXPECT(w, KAWS_OK, NULL, kaws_check(w->ring, &w->err));
    assert_int_equal(w->f.requests, 3);
    assert_int_equal(w->f.fresh_connection, 1);
    assert_int_equal(fake_logged(&w->f, -1, "dry run"), 0);

    fake_push(&w->f, (fake_script){ .action = "Decrypt", .body = another,
                                    .times = 2 });
    EXPECT(w, KAWS_REPLY, "KeyId is not", kaws_check(w->ring, &w->err));
    w->f.knows_no_dry_run = 1;
    fake_push(&w->f, (fake_script){ .action = "Decrypt", .skip = 1,
                                    .from = "\"Plaintext\":\"",
                                    .to = "\"Plaintext\":\"AAAA" });
    EXPECT(w, KAWS_REPLY, "asked to seal", kaws_check(w->ring, &w->err));
    w->f.requests = 0;
    EXPECT(w, KAWS_OK, NULL, kaws_check(w->ring, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_check(w->ring, &w->err));
    assert_int_equal(w->f.requests, 6);
    assert_int_equal(fake_logged(&w->f, 2, "knows no dry run"), 1);
}


/* A reply with the request id of another is another's. Asking again may bring
 * the right one; a rotation is not asked for twice. */
static void
test_same_request_id(void **state)
{
    struct world *w = *state;

    EXPECT(w, KAWS_OK, NULL, generate(w));
    fake_push(&w->f, (fake_script){ .same_id = 1 });
    EXPECT(w, KAWS_OK, NULL, generate(w));
    assert_int_equal(w->f.requests, 3);
    fake_push(&w->f, (fake_script){ .same_id = 1, .times = 3 });
    EXPECT(w, KAWS_REPLY, "the same request id", generate(w));
    assert_int_equal(w->f.requests, 6);
    assert_string_equal(w->err.request_id, "fake-2");
    fake_push(&w->f, (fake_script){ .action = "RotateKeyOnDemand",
                                    .same_id = 1 });
    EXPECT(w, KAWS_REPLY, "the same request id",
           kaws_rotate_kms_key(w->ring, &w->err));
    assert_int_equal(fake_calls(&w->f, "RotateKeyOnDemand"), 1);
}


/* ---- the errors of AWS ------------------------------------------------- */

enum { CLOCK = 1, CREDS = 2, SAYS = 4, SLOW = 8, LATER = 16 };

static const struct fault_row {
    const char *type;
    kaws_status status;
    int         flags;
    const char *words;
} fault_rows[] = {
    { "ThrottlingException", KAWS_THROTTLED, SLOW, "call less often" },
    { "Throttling", KAWS_THROTTLED, SLOW, "call less often" },
    { "ThrottledException", KAWS_THROTTLED, SLOW, "call less often" },
    { "RequestThrottledException", KAWS_THROTTLED, SLOW, "call less often" },
    { "RequestThrottled", KAWS_THROTTLED, SLOW, "call less often" },
    { "TooManyRequestsException", KAWS_THROTTLED, SLOW, "call less often" },
    { "ProvisionedThroughputExceededException", KAWS_THROTTLED, SLOW,
      "call less often" },
    { "RequestLimitExceeded", KAWS_THROTTLED, SLOW, "call less often" },
    { "BandwidthLimitExceeded", KAWS_THROTTLED, SLOW, "call less often" },
    { "SlowDown", KAWS_THROTTLED, SLOW, "call less often" },
    { "PriorRequestNotComplete", KAWS_THROTTLED, SLOW, "call less often" },

    { "KMSInternalException", KAWS_SERVICE, LATER, "try again later" },
    { "DependencyTimeoutException", KAWS_SERVICE, LATER, "try again later" },
    { "KeyUnavailableException", KAWS_SERVICE, LATER, "try again later" },
    { "InternalFailure", KAWS_SERVICE, LATER, "try again later" },
    { "InternalServerError", KAWS_SERVICE, LATER, "try again later" },
    { "ServiceUnavailable", KAWS_SERVICE, LATER, "try again later" },
    { "ServiceUnavailableException", KAWS_SERVICE, LATER, "try again later" },
    { "RequestTimeout", KAWS_SERVICE, LATER, "try again later" },
    { "RequestTimeoutException", KAWS_SERVICE, LATER, "try again later" },

    { "InvalidSignatureException", KAWS_CREDENTIALS, CLOCK | CREDS, "clock" },
    { "SignatureDoesNotMatch", KAWS_CREDENTIALS, CLOCK | CREDS, "clock" },
    { "AuthFailure", KAWS_CREDENTIALS, CLOCK | CREDS, "clock" },
    { "RequestTimeTooSkewed", KAWS_CREDENTIALS, CLOCK, "clock" },
    { "RequestExpired", KAWS_CREDENTIALS, CLOCK, "clock" },
    { "RequestInTheFuture", KAWS_CREDENTIALS, CLOCK, "clock" },
    { "UnrecognizedClientException", KAWS_CREDENTIALS, CREDS, "conf file" },
    { "InvalidClientTokenId", KAWS_CREDENTIALS, CREDS, "conf file" },
    { "ExpiredTokenException", KAWS_CREDENTIALS, CREDS, "new session token" },
    { "ExpiredToken", KAWS_CREDENTIALS, CREDS, "new session token" },
    { "IncompleteSignature", KAWS_CREDENTIALS, 0, "conf file" },
    { "IncompleteSignatureException", KAWS_CREDENTIALS, 0, "conf file" },
    { "MissingAuthenticationToken", KAWS_CREDENTIALS, 0, "conf file" },
    { "OptInRequired", KAWS_CREDENTIALS, 0, "enable the region" },

    { "AccessDeniedException", KAWS_DENIED, SAYS, "IAM policy" },
    { "AccessDenied", KAWS_DENIED, SAYS, "IAM policy" },
    { "NotAuthorized", KAWS_DENIED, SAYS, "IAM policy" },
    { "NotFoundException", KAWS_KMS_KEY, SAYS, "and the region" },
    { "InvalidArnException", KAWS_KMS_KEY, SAYS, "check the KMS key's ARN" },
    { "DisabledException", KAWS_KMS_KEY, SAYS, "enable the KMS key" },
    { "KMSInvalidStateException", KAWS_KMS_KEY, SAYS, "state of the KMS key" },
    { "InvalidKeyUsageException", KAWS_KMS_KEY, SAYS, "symmetric" },
    { "UnsupportedOperationException", KAWS_KMS_KEY, SAYS, "cannot do that" },
    { "InvalidCiphertextException", KAWS_REPLY, 0, "another request" },
    { "IncorrectKeyException", KAWS_REPLY, 0, "another request" },
    { "LimitExceededException", KAWS_SERVICE, SAYS, "25 times" },
    { "ConflictException", KAWS_SERVICE, SAYS, "try again later" },
    { "ValidationException", KAWS_ARGUMENT, 0, "invalid" },
    { "DryRunOperationException", KAWS_REPLY, 0, "another request" },
    { "SomethingNewException", KAWS_SERVICE, 0, "documentation" },
    { "Exception", KAWS_SERVICE, 0, "documentation" },
    { "notfoundexception", KAWS_SERVICE, 0, "documentation" }
};


/* Status, words, attempts and pauses of a type that does not go away. None of
 * them is advice to remove a key. */
static void
test_faults(void **state)
{
    struct world *w = *state;
    size_t i;

    w->f.random_byte = 0xff;
    for (i = 0; i < COUNT(fault_rows); i++) {
        const struct fault_row *row = &fault_rows[i];
        int again = (row->flags & (SLOW | LATER)) != 0;
        int base = row->flags & SLOW ? 1000 : 50;
        char request_id[32];
        w->f.requests = w->f.sleeps = 0;
        fake_push(&w->f, (fake_script){ .error = row->type, .times = 9 });
        if (generate(w) != row->status || w->err.status != row->status)
            fail_msg("%s: %s", row->type, w->err.text);
        if (w->f.requests != (again ? 3 : 1) || w->f.sleeps != 2 * again)
            fail_msg("%s: %d requests", row->type, w->f.requests);
        if (again && (w->f.slept[0] != base || w->f.slept[1] != 2 * base))
            fail_msg("%s: %d ms", row->type, w->f.slept[0]);
        (void)snprintf(request_id, sizeof request_id, "fake-%d",
                       w->f.replies);
        assert_string_equal(w->err.aws, row->type);
        assert_string_equal(w->err.request_id, request_id);
        assert_int_equal(w->err.http, 400);
        if (strstr(w->err.text, row->type) == NULL ||
            strstr(w->err.text, row->words) == NULL ||
            strstr(w->err.text, request_id) == NULL ||
            strstr(w->err.text, "HTTP 400") == NULL ||
            strstr(w->err.text, "kms.us-east-1.amazonaws.com") == NULL ||
            (strstr(w->err.text, "(3 attempts)") != NULL) != again ||
            (strstr(w->err.text, "as scripted") != NULL) !=
                ((row->flags & SAYS) != 0) ||
            strstr(w->err.text, "remove") != NULL ||
            strstr(w->err.text, "delete") != NULL)
            fail_msg("%s: %s", row->type, w->err.text);
        forget_scripts(w);
    }
}


/* Is the clock set by AWS's, and are the credentials read again, and only
 * then? What mends it makes the second try succeed. */
static void
test_mending(void **state)
{
    struct world *w = *state;
    size_t i;
    int creds;

    for (i = 0; i < 2 * COUNT(fault_rows); i++) {
        const struct fault_row *row = &fault_rows[i / 2];
        if ((row->flags & (SLOW | LATER)) != 0)
            continue;
        creds = i % 2;
        fake_write_conf(&w->f, FAKE_ID "\n" FAKE_SECRET "\n");
        w->f.kms_ahead_ms = 0;
        world_reopen(w);
        w->f.requests = 0;
        if (creds)
            fake_write_conf(&w->f, FAKE_ID "\r\n" FAKE_SECRET "\r\n");
        else
            w->f.kms_ahead_ms = 600000;
        fake_push(&w->f, (fake_script){ .error = row->type });
        if ((row->flags & (creds ? CREDS : CLOCK)) != 0) {
            EXPECT(w, KAWS_OK, row->type, generate(w));
            assert_int_equal(w->f.requests, 2);
            EXPECT(w, KAWS_OK, row->type, generate(w));
            assert_int_equal(w->f.requests, 3);
        } else {
            EXPECT(w, row->status, row->type, generate(w));
            assert_int_equal(w->f.requests, 1);
        }
    }
    assert_int_equal(w->f.sleeps, 0);
}


static void
test_http_statuses(void **state)
{
    static const struct { int http; kaws_status status; int tries; } rows[] = {
        { 200, KAWS_REPLY, 1 }, { 201, KAWS_REPLY, 1 }, { 204, KAWS_REPLY, 1 },
        { 299, KAWS_REPLY, 1 }, { 301, KAWS_REPLY, 1 }, { 302, KAWS_REPLY, 1 },
        { 307, KAWS_REPLY, 1 }, { 399, KAWS_REPLY, 1 }, { 400, KAWS_REPLY, 1 },
        { 401, KAWS_DENIED, 1 }, { 402, KAWS_REPLY, 1 },
        { 403, KAWS_DENIED, 1 }, { 404, KAWS_REPLY, 1 },
        { 407, KAWS_REPLY, 1 }, { 408, KAWS_SERVICE, 3 },
        { 412, KAWS_REPLY, 1 }, { 424, KAWS_REPLY, 1 },
        { 425, KAWS_SERVICE, 3 }, { 426, KAWS_REPLY, 1 },
        { 428, KAWS_REPLY, 1 }, { 429, KAWS_THROTTLED, 3 },
        { 430, KAWS_REPLY, 1 }, { 499, KAWS_REPLY, 1 },
        { 500, KAWS_SERVICE, 3 }, { 501, KAWS_SERVICE, 1 },
        { 502, KAWS_SERVICE, 3 }, { 503, KAWS_SERVICE, 3 },
        { 504, KAWS_SERVICE, 3 }, { 505, KAWS_SERVICE, 1 },
        { 599, KAWS_SERVICE, 1 }, { 600, KAWS_REPLY, 1 },
        { 99, KAWS_REPLY, 1 }, { -1, KAWS_REPLY, 1 }, { 99999, KAWS_REPLY, 1 }
    };
    static const char *const bodies[] = {
        "<html><body>Not here</body></html>", "{}", "[]", "{\"__type\":5}",
        "{\"__type\":\"\"}", "{\"__type\":\"#:\"}", "{\"type\":\"x\"}",
        "{\"__type\":\"NotFoundException\"", "NotFoundException", "\"\"",
        "{\"__type\":\"NotFoundException\",\"__type\":\"x\"}",
        "{\"__type\":\"Not Found\"}", "{\"__type\":\"NotFoundException2\"}",
        "{\"__type\":\"@Not\\n{Fo`und\\u001b[/Exception\"}",
        "{\"__type\":\"NotFoundException#wJalrXUtnFEMI/K7MDENG=\"}"
    };
    struct world *w = *state;
    size_t i, k;

    for (i = 0; i < COUNT(rows); i++)
        for (k = 0; k < COUNT(bodies); k++) {
            w->f.requests = 0;
            fake_push(&w->f, (fake_script){ .http = rows[i].http, .times = 9,
                                            .body = bodies[k] });
            if (generate(w) != rows[i].status ||
                w->err.status != rows[i].status ||
                w->f.requests != rows[i].tries || w->err.aws[0] != '\0' ||
                w->err.http != rows[i].http)
                fail_msg("%d, %s: %s", rows[i].http, bodies[k], w->err.text);
            assert_null(strstr(w->err.text, "html"));
            forget_scripts(w);
        }
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);
}


/* A 403 of no type, from a proxy say: newer credentials may help. */
static void
test_denied_without_type(void **state)
{
    struct world *w = *state;

    fake_push(&w->f, (fake_script){ .http = 403, .body = "no", .times = 9 });
    EXPECT(w, KAWS_DENIED, "no error type", generate(w));
    assert_int_equal(w->f.requests, 1);
    fake_write_conf(&w->f, FAKE_ID "\n" FAKE_SECRET "\n\n");
    EXPECT(w, KAWS_DENIED, "(2 attempts)", generate(w));
    assert_int_equal(w->f.requests, 3);
}


/* What AWS writes around the type, and where its message stands. */
static void
test_types(void **state)
{
    static const struct {
        const char *body, *aws, *says;
        kaws_status status;
    } rows[] = {
        { "{\"__type\":\"NotFound\"}", "NotFound", NULL, KAWS_KMS_KEY },
        { "{\"__type\":\"com.amazonaws.kms#NotFoundException\"}",
          "NotFoundException", NULL, KAWS_KMS_KEY },
        { "{\"__type\":\"NotFoundException:http://internal/x\"}",
          "NotFoundException", NULL, KAWS_KMS_KEY },
        { "{\"__type\":\"a#b#NotFoundException:c#Throttling\"}",
          "NotFoundException", NULL, KAWS_KMS_KEY },
        { "{\"__type\":\"NotFoundException\",\"message\":\"small\"}",
          "NotFoundException", "small", KAWS_KMS_KEY },
        { "{\"Message\":\"Big\",\"__type\":\"NotFoundException\"}",
          "NotFoundException", "Big", KAWS_KMS_KEY },
        { "{\"message\":\"small\",\"Message\":\"Big\","
          "\"__type\":\"NotFoundException\"}",
          "NotFoundException", "small", KAWS_KMS_KEY },
        { "{\"__type\":\"NotFoundException\",\"message\":\"\"}",
          "NotFoundException", NULL, KAWS_KMS_KEY },
        { "{\"__type\":\"NotFoundException\",\"message\":\"a\\nb\\u001b\"}",
          "NotFoundException", "a\\x0ab\\x1b", KAWS_KMS_KEY },
        { "{\"a\":[{}],\"__type\":\"NotFoundException\",\"b\":{\"__type\":"
          "\"x\"}}", "NotFoundException", NULL, KAWS_KMS_KEY },
        { "{\"__type\":\"ThrottlingException\"}", "ThrottlingException", NULL,
          KAWS_THROTTLED },
        { "{\"__type\":\"4#a#NotFoundException:1\"}", "NotFoundException", NULL,
          KAWS_KMS_KEY },
        { "{\"__type\":\"Aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeee"
          "ffffffffffgggggggggg\"}",
          "Aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff...",
          NULL, KAWS_SERVICE }
    };
    static const int statuses[] = { 400, 403, 409, 412, 500, 503 };
    struct world *w = *state;
    size_t i, k;

    w->f.random_byte = 0;
    for (i = 0; i < COUNT(rows); i++)
        for (k = 0; k < COUNT(statuses); k++) {
            fake_push(&w->f, (fake_script){ .http = statuses[k], .times = 9,
                                            .body = rows[i].body });
            if (generate(w) != rows[i].status)
                fail_msg("%s: %s", rows[i].body, w->err.text);
            assert_string_equal(w->err.aws, rows[i].aws);
            assert_int_equal(w->err.http, statuses[k]);
            if (rows[i].says != NULL)
                assert_non_null(strstr(w->err.text, rows[i].says));
            forget_scripts(w);
        }

    /* An unknown type: its status says whether to try again. */
    w->f.requests = 0;
    fake_push(&w->f, (fake_script){ .error = "New", .http = 503, .times = 9 });
    EXPECT(w, KAWS_SERVICE, "try again later", generate(w));
    assert_int_equal(w->f.requests, 3);
}


/* A long message is cut, and the advice behind it is still there. */
static void
test_long_message(void **state)
{
    struct world *w = *state;
    char body[2048];

    (void)snprintf(body, sizeof body, "{\"__type\":\"AccessDeniedException\","
                   "\"message\":\"%01500d\"}", 7);
    fake_push(&w->f, (fake_script){ .http = 400, .body = body });
    EXPECT(w, KAWS_DENIED, "000...; allow it in", generate(w));
}


static struct {                           /* what the KMS repeats             */
    const char *header, *from;
    size_t      len;
} repeated;


/* Denies, and says in its message a piece of what it was sent. */
static int
repeat(void *ctx, const kaws_request *q, kaws_reply *r)
{
    const char *value = fake_header(q, repeated.header);

    (void)ctx;
    if (repeated.from != NULL)
        value = strstr(value, repeated.from) + strlen(repeated.from);
    r->http = 400;
    r->body_len = (size_t)snprintf((char *)r->body, r->body_max,
        "{\"__type\":\"AccessDeniedException\",\"message\":\"<%.*s>\"}",
        (int)repeated.len, value + 3);
    return 0;
}


/* A message helps, but not one that shows a piece of the session token or of
 * the signature, or is about a plaintext. */
static void
test_messages_not_shown(void **state)
{
    static const struct { const char *header, *from; size_t len; int shown; }
    rows[] = {
        { "Host: ", NULL, 20, 1 },
        { "X-Amz-Security-Token: ", NULL, 7, 1 },
        { "X-Amz-Security-Token: ", NULL, 8, 0 },
        { "X-Amz-Security-Token: ", NULL, 30, 0 },
        { "Authorization: ", "Signature=", 7, 1 },
        { "Authorization: ", "Signature=", 8, 0 },
        { "Authorization: ", "Signature=", 61, 0 }
    };
    struct world *w = *state;
    kaws_bytes view = { (const uint8_t *)"0123456789", 10 };
    kaws_sealed sealed;
    size_t i;

    fake_write_conf(&w->f, "id\nsecret\n"
                    "0123456789abcdefghijklmnopqrstuvwxyz\n");
    w->cfg.data_file = NULL;
    w->cfg.hooks.send = repeat;
    world_open(w);
    for (i = 0; i < COUNT(rows); i++) {
        repeated.header = rows[i].header;
        repeated.from = rows[i].from;
        repeated.len = rows[i].len;
        EXPECT(w, KAWS_DENIED, "IAM policy", generate(w));
        if ((strchr(w->err.text, '<') != NULL) != rows[i].shown)
            fail_msg("row %lu: %s", (unsigned long)i, w->err.text);
        EXPECT(w, KAWS_DENIED, "IAM policy",
               kaws_kms_encrypt(w->ring, NULL, view, &sealed, &w->err));
        assert_null(strchr(w->err.text, '<'));
    }
}


/* ---- a KMS that echoes ------------------------------------------------- */

#define ECHO_TOKEN "FwoGZXIvYXdzEXAMPLEtokenABCDEFGHijklmnopQRSTUV=="

enum { IN_MESSAGE, IN_TYPE, IN_ID, IN_WORDS, IN_ARN, PLACES };
enum { AS_IT_IS, SWAPPED, DASHED, BOTH, SPACED, WAYS };

static struct {
    const char *secret;
    int place, way;
} echo;


/* The secret, written in that way; a type has room for nothing in between. */
static void
echo_write(char *out, size_t cap)
{
    const char *between = echo.way == SPACED ? "\\n " : "-", *at;
    size_t n = 0;

    for (at = echo.secret; *at != '\0' && n + 8 < cap; at++) {
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
    char secret[400];

    (void)ctx;
    (void)q;
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
    const char *at = echo.secret;
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
 * repeat the secret, the token or a plaintext's base64. Nothing of it is in the
 * error, of which every byte counts, or in the log. */
static void
test_nothing_is_echoed(void **state)
{
    static const char key[] = "a key of more than 32 bytes, in no log";
    static const struct { const char *conf, *secret; } rows[] = {
        { FAKE_ID "\n" FAKE_SECRET "\n" ECHO_TOKEN "\n", FAKE_SECRET },
        { FAKE_ID "\n" FAKE_SECRET "\n" ECHO_TOKEN "\n", ECHO_TOKEN },
        { FAKE_ID "\nAsecretOfLettersOnlySoThatItIsAType\n",
          "AsecretOfLettersOnlySoThatItIsAType" },
        { FAKE_ID "\n" FAKE_SECRET "\n", NULL }     /* the plaintext's       */
    };
    struct world *w = *state;
    kaws_bytes plain = kaws__buf_of(key);
    kaws__buf encoded;
    kaws_sealed sealed;
    size_t i;

    kaws__buf_init(&encoded, &w->f.hooks);
    kaws__text_base64(&encoded, plain);
    kaws__buf_byte(&encoded, 0);
    w->cfg.kms_key_id = "alias/app";
    w->cfg.max_attempts = 1;
    w->cfg.hooks.send = echo_send;
    for (i = 0; i < COUNT(rows); i++) {
        fake_write_conf(&w->f, rows[i].conf);
        world_reopen(w);
        echo.secret = rows[i].secret != NULL ? rows[i].secret
                                             : (const char *)encoded.at;
        for (echo.place = 0; echo.place < PLACES; echo.place++)
            for (echo.way = 0; echo.way < WAYS; echo.way++) {
                kaws_status status = rows[i].secret != NULL ? generate(w)
                    : kaws_kms_encrypt(w->ring, NULL, plain, &sealed, &w->err);
                assert_true(status != KAWS_OK || echo.place == IN_ARN);
                if (echo.place == IN_ARN && (echo.way > SWAPPED || i == 2)) {
                    fake_forget_log(&w->f);   /* like many a good ARN         */
                    continue;
                }
                check_not_echoed("the error", (const char *)&w->err,
                                 sizeof w->err);
                check_not_echoed("the log", w->f.log, w->f.log_len);
            }
        fake_forget_log(&w->f);
    }
    kaws__buf_free(&encoded);
}


static void
test_no_reply(void **state)
{
    struct world *w = *state;

    w->f.random_byte = 0xff;
    fake_push(&w->f, (fake_script){ .no_reply = "Could not\nresolve host",
                                    .times = 9 });
    EXPECT(w, KAWS_NETWORK, "Could not\\x0aresolve host", generate(w));
    assert_int_equal(w->f.requests, 3);
    assert_int_equal(w->f.slept[0], 50);
    assert_int_equal(w->f.slept[1], 100);
    assert_int_equal(w->err.http, 0);
    assert_string_equal(w->err.aws, "");
    forget_scripts(w);
    fake_push(&w->f, (fake_script){ .lost = 1, .times = 2 });
    EXPECT(w, KAWS_OK, NULL, generate(w));
    assert_int_equal(w->f.requests, 6);
}


/* ---- when it is tried again -------------------------------------------- */

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
    fake_push(&w->f, (fake_script){ .error = "Throttling", .times = 7 });
    EXPECT(w, KAWS_OK, NULL, generate(w));
    assert_int_equal(w->f.sleeps, 7);
    assert_memory_equal(w->f.slept, slow, sizeof slow);
    w->f.sleeps = w->f.requests = 0;
    fake_push(&w->f, (fake_script){ .error = "KMSInternal", .times = 20 });
    EXPECT(w, KAWS_SERVICE, "(12 attempts)", generate(w));
    assert_int_equal(w->f.sleeps, 11);
    assert_memory_equal(w->f.slept, later, sizeof later);
    assert_int_equal(w->f.requests, 12);
    forget_scripts(w);

    w->f.random_byte = 0;
    w->f.sleeps = 0;
    fake_push(&w->f, (fake_script){ .error = "Throttling", .times = 11 });
    EXPECT(w, KAWS_OK, NULL, generate(w));
    assert_int_equal(w->f.sleeps, 0);

    w->f.random_byte = -1;
    for (i = 0; i < 200; i++) {
        w->f.sleeps = 0;
        w->f.slept[0] = 0;
        fake_push(&w->f, (fake_script){ .error = "Throttling" });
        EXPECT(w, KAWS_OK, NULL, generate(w));
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
        { 3600000, 0xff, "Throttling", 6000 },
        { 3600000, 0, "Throttling", 5000 }, { 700, 0, "Throttling", 700 },
        { 4000, 0xff, "KMSInternal", 4000 },
        { 9000, 0xff, "KMSInternal", 5050 }
    };
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        w->f.sleeps = 0;
        w->f.random_byte = rows[i].chance;
        fake_push(&w->f, (fake_script){ .error = rows[i].type,
                                        .retry_after_ms = rows[i].asked });
        EXPECT(w, KAWS_OK, NULL, generate(w));
        assert_int_equal(w->f.sleeps, 1);
        assert_int_equal(w->f.slept[0], rows[i].slept);
    }
}


static void
test_attempts(void **state)
{
    struct world *w = *state;
    int max;

    for (max = 1; max < 6; max++) {
        w->cfg.max_attempts = max;
        w->cfg.timeout_ms = 1000000;
        world_reopen(w);
        w->f.requests = 0;
        fake_push(&w->f, (fake_script){ .error = "Throttling", .times = 50 });
        EXPECT(w, KAWS_THROTTLED, NULL, generate(w));
        assert_int_equal(w->f.requests, max);
        forget_scripts(w);
    }
    w->cfg.max_attempts = -7;             /* as 0: the default                */
    world_reopen(w);
    w->f.requests = 0;
    fake_push(&w->f, (fake_script){ .error = "Throttling", .times = 50 });
    EXPECT(w, KAWS_THROTTLED, NULL, generate(w));
    assert_int_equal(w->f.requests, 3);
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
    world_reopen(w);
    w->f.random_byte = 0xff;
    start = w->f.now_ms;
    fake_push(&w->f, (fake_script){ .error = "Throttling", .times = 50 });
    EXPECT(w, KAWS_THROTTLED, "(2 attempts)", generate(w));
    assert_int_equal(w->f.now_ms - start, 1000);  /* 2000 more are too many   */
    assert_int_equal(w->f.timeout_ms, 2000);
    assert_int_equal(w->f.connect_timeout_ms, 77);
    kaws_use_timeouts(w->ring, 55, 3001);
    start = w->f.now_ms;
    EXPECT(w, KAWS_THROTTLED, "(3 attempts)", generate(w));
    assert_int_equal(w->f.now_ms - start, 3000);
    assert_int_equal(w->f.timeout_ms, 1);
    assert_int_equal(w->f.connect_timeout_ms, 55);
    kaws_use_timeouts(w->ring, 0, 0);
    (void)generate(w);
    assert_int_equal(w->f.connect_timeout_ms, 1000);
    kaws_use_timeouts(w->ring, -1, -1);
    forget_scripts(w);
    EXPECT(w, KAWS_OK, NULL, generate(w));
    assert_int_equal(w->f.timeout_ms, 10000);
    assert_int_equal(w->f.connect_timeout_ms, 1000);

    w->f.random_byte = -1;
    w->f.on_send = take_time;
    for (i = 0; i < 300; i++) {
        budget = 1 + i * 37;
        call_takes_ms = i % 7 * 100;
        kaws_use_timeouts(w->ring, 0, budget);
        fake_push(&w->f, (fake_script){ .error = i % 2 ? "Throttling"
                                                       : "KMSInternal",
                                        .retry_after_ms = i % 5 * 900,
                                        .times = 50 });
        start = w->f.now_ms;
        assert_int_not_equal(generate(w), KAWS_OK);
        assert_true(w->f.now_ms - call_takes_ms - start < budget);
        assert_in_range(w->f.timeout_ms, 1, budget);
        forget_scripts(w);
    }
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
    forget_scripts(w);
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
        { { .no_reply = "Could not resolve host" }, KAWS_NETWORK },
        { { .http = 503, .body = "<html>" }, KAWS_SERVICE },
        { { .error = "KMSInternalException" }, KAWS_SERVICE },
        { { .error = "ThrottlingException" }, KAWS_THROTTLED },
        { { .error = "AccessDeniedException" }, KAWS_DENIED },
        { { .error = "DisabledException" }, KAWS_KMS_KEY },
        { { .error = "UnrecognizedClientException" }, KAWS_CREDENTIALS },
        { { .http = 200, .body = "<html>" }, KAWS_REPLY }
    };
    struct world *w = *state;
    int64_t start;
    size_t i;
    int n;

    open_patient(w);
    for (i = 0; i < COUNT(rows); i++) {
        go_away(w, rows[i].script, 20000, 30000);
        start = w->f.now_ms;
        if (i > 4) {
            EXPECT(w, rows[i].status, NULL, generate(w));
            assert_int_equal(w->f.requests, 1);
            assert_int_equal(waiting.asked + w->f.sleeps, 0);
            continue;
        }
        EXPECT(w, KAWS_OK, NULL, generate(w));
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
    EXPECT(w, KAWS_NETWORK, "attempts)", generate(w));
    assert_int_equal(w->f.now_ms - start, 30000);
    w->f.requests = 0;
    EXPECT(w, KAWS_NETWORK, "(3 attempts)", generate(w));
    assert_int_equal(w->f.requests, 3);
    waiting.until_ms -= 100000;
    EXPECT(w, KAWS_NETWORK, "(3 attempts)", generate(w));

    w->f.random_byte = 0xff;              /* patience adds, and takes nothing */
    go_away(w, (fake_script){ .error = "Throttling" }, INT_MAX, 60);
    EXPECT(w, KAWS_THROTTLED, "(3 attempts)", generate(w));
    assert_int_equal(w->f.slept[0], 60);
    assert_int_equal(w->f.slept[1], 2000);

    go_away(w, (fake_script){ .no_reply = "timeout" }, INT_MAX, 60000);
    kaws_use_timeouts(w->ring, 0, 5000);
    w->f.on_send = take_time;             /* a black hole                     */
    call_takes_ms = 5000;
    start = w->f.now_ms;
    EXPECT(w, KAWS_NETWORK, NULL, generate(w));
    assert_in_range(w->f.now_ms - start, 55000, 65000);
    assert_int_equal(w->f.timeout_ms, 5000);
}


/* Whoever loses his patience in the middle waits no longer. */
static void
lose_patience(struct fake *f, int ms)
{
    (void)ms;
    if (f->sleeps == 10)
        waiting.until_ms = f->now_ms;
}


static void
test_patience_is_lost(void **state)
{
    struct world *w = *state;

    open_patient(w);
    go_away(w, (fake_script){ .no_reply = "refused" }, INT_MAX, 100000);
    w->f.on_sleep = lose_patience;
    EXPECT(w, KAWS_NETWORK, "(11 attempts)", generate(w));
    assert_int_equal(w->f.requests, 11);

    go_away(w, (fake_script){ .action = "RotateKeyOnDemand",
                              .no_reply = "timeout" }, INT_MAX, 100000);
    EXPECT(w, KAWS_NETWORK, NULL, kaws_rotate_kms_key(w->ring, &w->err));
    assert_int_equal(waiting.asked, 0);   /* it may have been obeyed          */
}


/* A KMS key can be rotated so many times, so the request is not repeated where
 * it may have been obeyed. */
static void
test_rotation_is_sent_once(void **state)
{
    static const struct { fake_script script; kaws_status status; int sent; }
    rows[] = {
        { { .error = "KMSInternalException" }, KAWS_SERVICE, 1 },
        { { .error = "InvalidSignatureException" }, KAWS_CREDENTIALS, 1 },
        { { .error = "ExpiredTokenException" }, KAWS_CREDENTIALS, 1 },
        { { .no_reply = "timeout" }, KAWS_NETWORK, 1 },
        { { .lost = 1 }, KAWS_NETWORK, 1 },
        { { .http = 503, .body = "" }, KAWS_SERVICE, 1 },
        { { .http = 200, .body = "<html>" }, KAWS_REPLY, 1 },
        { { .error = "LimitExceededException" }, KAWS_SERVICE, 1 },
        { { .error = "ThrottlingException" }, KAWS_OK, 2 },
        { { .http = 429, .body = "" }, KAWS_OK, 2 }
    };
    struct world *w = *state;
    size_t i;
    int before;

    for (i = 0; i < COUNT(rows); i++) {
        fake_script script = rows[i].script;
        before = fake_calls(&w->f, "RotateKeyOnDemand");
        script.action = "RotateKeyOnDemand";
        fake_write_conf(&w->f, i % 2 ? FAKE_ID "\n" FAKE_SECRET "\n"
                                     : FAKE_ID "\n" FAKE_SECRET "\n\n");
        w->f.kms_ahead_ms = (int64_t)i % 2 * 290000;
        w->f.fresh_connection = 0;
        fake_push(&w->f, script);
        EXPECT(w, rows[i].status, NULL, kaws_rotate_kms_key(w->ring, &w->err));
        assert_int_equal(fake_calls(&w->f, "RotateKeyOnDemand") - before,
                         rows[i].sent);
        if (rows[i].status != KAWS_OK)
            assert_true(w->f.fresh_connection);
    }
}


/* ---- the clock, and the credentials ------------------------------------ */

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
        w->f.requests = 0;
        fake_forget_log(&w->f);
        EXPECT(w, KAWS_OK, NULL, generate(w));
        assert_int_equal(w->f.requests, 2);
        assert_int_equal(fake_logged(&w->f, 1, "clock"), 1);
        assert_int_equal(w->f.sleeps, 0);
        EXPECT(w, KAWS_OK, NULL, generate(w));
        assert_int_equal(w->f.requests, 3);
        w->f.kms_ahead_ms = 0;            /* somebody set the clock           */
        EXPECT(w, KAWS_OK, NULL, generate(w));
        assert_int_equal(w->f.requests, 5);
        EXPECT(w, KAWS_OK, NULL, generate(w));
        assert_int_equal(w->f.requests, 6);
    }
    w->f.kms_ahead_ms = 240000;           /* AWS takes that                   */
    fake_forget_log(&w->f);
    EXPECT(w, KAWS_OK, NULL, generate(w));
    assert_int_equal(w->f.requests, 7);
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);
}


/* A Date that is missing, absurd, or too near to ours to be the reason. */
static void
test_dates_not_believed(void **state)
{
    struct world *w = *state;
    int64_t now = w->f.now_ms / 1000;
    const struct { int64_t date; int tries; } rows[] = {
        { -1, 1 }, { 1, 1 }, { 1577836799, 1 }, { 4102444800, 1 },
        { INT64_MAX, 1 }, { now, 1 }, { now + 240, 1 }, { now - 240, 1 },
        { now + 241, 2 }, { now - 241, 2 }, { 1577836800, 2 },
        { 4102444799, 2 }
    };
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        world_reopen(w);
        w->f.requests = 0;
        fake_push(&w->f, (fake_script){ .error = "InvalidSignatureException",
                                        .date = rows[i].date, .times = 2 });
        EXPECT(w, KAWS_CREDENTIALS, NULL, generate(w));
        if (w->f.requests != rows[i].tries)
            fail_msg("row %lu", (unsigned long)i);
        assert_int_equal(w->ring->kms.calls.clock_offset_s,
                         rows[i].tries == 1 ? 0 : rows[i].date - now);
        forget_scripts(w);
    }
}


/* The clock that was wrong is right again: that is what the log says. */
static void
test_clock_set_right(void **state)
{
    struct world *w = *state;

    w->f.kms_ahead_ms = 3600000;
    EXPECT(w, KAWS_OK, NULL, generate(w));
    assert_int_equal(fake_logged(&w->f, 1, "is 3600 seconds behind that of "
                                 "AWS"), 1);
    fake_set_clock(&w->f, 3600000);
    w->f.kms_ahead_ms = 0;
    fake_forget_log(&w->f);
    EXPECT(w, KAWS_OK, NULL, generate(w));
    assert_int_equal(fake_logged(&w->f, 1, "agrees with that of AWS"), 1);
    assert_int_equal(fake_logged(&w->f, -1, "seconds"), 0);
    w->f.requests = 0;
    EXPECT(w, KAWS_OK, NULL, generate(w));
    assert_int_equal(w->f.requests, 1);
}


static int64_t jumps_ms;                  /* with each request                */
static int worst_ms;                      /* the longest timeout handed out   */


static void
jump(struct fake *f, const char *action)
{
    (void)action;
    fake_set_clock(f, jumps_ms);
    if (f->timeout_ms > worst_ms)
        worst_ms = f->timeout_ms;
}


/* Whoever sets the wall clock changes no timeout. */
static void
test_wall_clock_jumps(void **state)
{
    static const int64_t jumps[] = { -3600000, 3600000, -864000000,
                                     864000000, -1 };
    struct world *w = *state;
    size_t i;

    w->cfg.timeout_ms = 500;
    world_reopen(w);
    w->f.on_send = jump;
    for (i = 0; i < COUNT(jumps); i++) {
        jumps_ms = jumps[i];
        worst_ms = w->f.requests = 0;
        fake_push(&w->f, (fake_script){ .no_reply = "lost", .times = 9 });
        EXPECT(w, KAWS_NETWORK, "(3 attempts)", generate(w));
        assert_int_equal(w->f.requests, 3);
        assert_in_range(worst_ms, 1, 500);
        assert_in_range(w->f.timeout_ms, 1, 500);
        forget_scripts(w);
    }
}


static int64_t mad_ticks_ms, mad_step_ms;


static int64_t
mad_ticks(void *ctx)
{
    (void)ctx;
    mad_ticks_ms += mad_step_ms;
    return mad_ticks_ms;
}


/* Even a monotonic clock that is none makes nothing endless: what is handed
 * out stays between 1 and the timeout, and all loops come to an end. */
static void
test_mad_ticks(void **state)
{
    static const int64_t steps[] = { 0, -1, -3600000, 838957296, 1,
                                     INT64_MAX / 64, INT64_MIN / 64 };
    struct world *w = *state;
    size_t i;

    w->cfg.timeout_ms = 2000;
    w->cfg.hooks.ticks_ms = mad_ticks;
    w->f.on_send = jump;
    w->f.rotation_ms = 1000000000;
    jumps_ms = 0;
    for (i = 0; i < COUNT(steps); i++) {
        mad_ticks_ms = 0;
        mad_step_ms = steps[i];
        world_reopen(w);
        w->f.requests = worst_ms = 0;
        fake_push(&w->f, (fake_script){ .error = "Throttling", .times = 9 });
        EXPECT(w, KAWS_THROTTLED, NULL, generate(w));
        assert_in_range(w->f.requests, 1, 3);
        forget_scripts(w);
        w->f.keys[0].rotations = 0;
        w->f.keys[0].rotates_at = 0;
        EXPECT(w, KAWS_OK, NULL, kaws_rotate_kms_key(w->ring, &w->err));
        assert_in_range(w->f.requests, 3, 20);
        assert_in_range(worst_ms, 1, 2000);
    }
}


/* The timeout is for the whole of what the caller asked for: Encrypt and its
 * proof, the question whose account it is and the Decrypt. */
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
    world_reopen(w);                      /* the account is to be asked for   */
    EXPECT(w, KAWS_OK, NULL, kaws_fetch(w->ring, name, &key, &w->err));
    kaws_key_free(w->ring, &key);
    assert_int_equal(w->f.timeout_ms, 600);
    call_takes_ms = 1500;
    EXPECT(w, KAWS_OK, NULL, kaws_check(w->ring, &w->err));
    assert_int_equal(w->f.timeout_ms, 1);
}


static int least_ms;                      /* the shortest timeout handed out  */


static void
take_time_and_look(struct fake *f, const char *action)
{
    take_time(f, action);
    if (f->timeout_ms < least_ms)
        least_ms = f->timeout_ms;
}


/* But each step of a re-wrap, and of a rotation, has the whole of it anew: a
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
    w->cfg.timeout_ms = least_ms = 1000;
    w->cfg.rewrap_parallel = 1;
    world_reopen(w);
    for (i = 0; i < COUNT(names); i++)
        EXPECT(w, KAWS_OK, NULL, kaws_store(w->ring, name_of(names[i], NULL),
                                            "AES", plain, &w->err));
    (void)generate(w);                    /* it has the whole, too            */
    w->f.on_send = take_time_and_look;
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


/* What is mended at once is beyond the attempts, which are for KMS. */
static void
test_remedies_are_no_attempts(void **state)
{
    struct world *w = *state;

    w->cfg.max_attempts = 1;
    world_reopen(w);
    w->f.kms_ahead_ms = 600000;
    EXPECT(w, KAWS_OK, NULL, generate(w));
    assert_int_equal(w->f.requests, 2);
    w->cfg.max_attempts = 3;
    world_reopen(w);
    w->f.requests = 0;
    fake_push(&w->f, (fake_script){ .skip = 1, .error = "Throttling",
                                    .times = 9 });
    EXPECT(w, KAWS_THROTTLED, "(4 attempts)", generate(w));
    assert_int_equal(w->f.requests, 4);
}


/* Whatever the KMS says next, each remedy is tried once a call. */
static void
test_each_remedy_once(void **state)
{
    struct world *w = *state;

    w->f.kms_ahead_ms = 600000;
    fake_write_conf(&w->f, "unknown\nsecret\n");
    fake_push(&w->f, (fake_script){ .error = "InvalidSignatureException",
                                    .times = 9 });
    EXPECT(w, KAWS_CREDENTIALS, "(3 attempts)", generate(w));
    assert_int_equal(w->f.requests, 3);
    EXPECT(w, KAWS_CREDENTIALS, NULL, generate(w));
    assert_int_equal(w->f.requests, 4);
}


static void
test_newer_credentials(void **state)
{
    struct world *w = *state;

    (void)snprintf(w->f.id, sizeof w->f.id, "NEWID");
    (void)snprintf(w->f.secret, sizeof w->f.secret, "newsecret");
    EXPECT(w, KAWS_CREDENTIALS, "UnrecognizedClientException", generate(w));
    assert_int_equal(w->f.requests, 1);
    fake_write_conf(&w->f, "NEWID\n");            /* half of it is there      */
    EXPECT(w, KAWS_CREDENTIALS, NULL, generate(w));
    assert_int_equal(w->f.requests, 2);
    assert_int_equal(fake_logged(&w->f, 1, "line 2"), 1);
    fake_write_conf(&w->f, "NEWID\nnewsecret\n");
    EXPECT(w, KAWS_OK, NULL, generate(w));
    assert_int_equal(w->f.requests, 4);
    assert_int_equal(w->f.sleeps, 0);

    (void)snprintf(w->f.token, sizeof w->f.token, "session");
    fake_write_conf(&w->f, "NEWID\nnewsecret\nsession\n");
    EXPECT(w, KAWS_OK, NULL, generate(w));
    (void)snprintf(w->f.token, sizeof w->f.token, "expired");
    EXPECT(w, KAWS_CREDENTIALS, NULL, generate(w));
    fake_write_conf(&w->f, "NEWID\nwrong-secret\nexpired\n");
    EXPECT(w, KAWS_CREDENTIALS, "InvalidSignatureException", generate(w));
    fake_write_conf(&w->f, "NEWID\nnewsecret\nexpired\n");
    EXPECT(w, KAWS_OK, NULL, kaws_reload_creds(w->ring, &w->err));
    w->f.requests = 0;
    EXPECT(w, KAWS_OK, NULL, generate(w));
    assert_int_equal(w->f.requests, 1);
}


/* ---- which replies are believed ---------------------------------------- */

#define BLOB  "\"CiphertextBlob\":\""
#define KEY   "\"KeyId\":\"" FAKE_EAST "\""
#define PLAIN "\"Plaintext\":\""
#define SOURCE "\"SourceKeyId\":\"" FAKE_EAST "\""
#define EXTRA "\"Extra\":\""
#define LONG "0123456789012345678901234567890123456789012345678901234567890123"

static uint8_t plain_room[64];
static kaws_sealed sealed_room, good;


static kaws_status
do_bare(struct world *w)
{
    return kaws_kms_generate_data_key(w->ring, &context, 16, NULL,
                                      &sealed_room, &w->err);
}


static kaws_status
do_data_key(struct world *w)
{
    memset(plain_room, 0x77, sizeof plain_room);
    return kaws_kms_generate_data_key(w->ring, &context, 16, plain_room,
                                      &sealed_room, &w->err);
}


static kaws_status
do_encrypt(struct world *w)
{
    kaws_bytes view = { (const uint8_t *)"0123456789abcdef", 16 };

    return kaws_kms_encrypt(w->ring, &context, view, &sealed_room, &w->err);
}


static kaws_status
do_decrypt(struct world *w)
{
    size_t len = 16;

    memset(plain_room, 0x77, sizeof plain_room);
    return kaws_kms_decrypt(w->ring, &context, &good, plain_room, &len,
                            &w->err);
}


static kaws_status
do_reencrypt(struct world *w)
{
    return kaws_kms_reencrypt(w->ring, &context, &good, &sealed_room, &w->err);
}


static kaws_status
do_rotate(struct world *w)
{
    return kaws_rotate_kms_key(w->ring, &w->err);
}


static const struct action {
    const char *name;
    kaws_status (*call)(struct world *);
    int         gives_plain;
} actions[] = {
    { "GenerateDataKeyWithoutPlaintext", do_bare, 0 },
    { "GenerateDataKey", do_data_key, 1 },
    { "Encrypt", do_encrypt, 0 },
    { "Decrypt", do_decrypt, 1 },
    { "ReEncrypt", do_reencrypt, 0 },
    { "RotateKeyOnDemand", do_rotate, 0 }
};


/* The action is answered with that, takes it for nonsense, tries no more, and
 * leaves no plaintext. */
static void
expect_nonsense(struct world *w, const struct action *a, fake_script script,
                const char *words)
{
    static const uint8_t zeros[16];
    kaws_status status;
    int before;

    w->f.keys[0].rotations = 0;
    (void)kaws_use_kms_key(w->ring, FAKE_EAST, NULL);
    before = fake_calls(&w->f, a->name);
    script.action = a->name;
    fake_push(&w->f, script);
    status = a->call(w);
    if (status != KAWS_REPLY || w->err.status != KAWS_REPLY ||
        strstr(w->err.text, words) == NULL)
        fail_msg("%s: %s -> %s (cut at %lu, '%.40s'): '%s', %s", a->name,
                 script.from ? script.from : "", script.to ? script.to : "",
                 (unsigned long)script.cut, script.body ? script.body : "",
                 kaws_status_text(status), w->err.text);
    assert_int_equal(fake_calls(&w->f, a->name), before + 1);
    if (a->gives_plain)
        assert_memory_equal(plain_room, zeros, 16);
    assert_string_equal(w->ring->kms.trust.now.target.key_id, FAKE_EAST);
    assert_string_equal(w->ring->kms.trust.now.arn, FAKE_EAST);
    forget_scripts(w);
}


static void
test_bodies_of_nonsense(void **state)
{
    static const char *const bodies[] = {
        "<html>", "null", "true", "[]", "[{}]", "\"x\"", "{", "}", "{]", "{}x",
        "{} {}", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{,}", "{a:1}",
        "{'a':1}", "{\"a\":01}", "{\"a\":+1}", "{\"a\":nul}", "{\"a\":\"\n\"}",
        "{\"a\":\"\\x\"}", "{\"a\":\"\\ud800\"}", "{\"a\":\"\xff\"}",
        "{\"a\":\"\xc0\x80\"}", "\xef\xbb\xbf{}", "{\"KeyId\":1}",
        "{\"KeyId\":null}", "{\"KeyId\":[]}", "{\"KeyId\":{}}",
        "{\"KeyId\":true}", "{\"KeyId\":\"a\",\"KeyId\":\"a\"}", "{}", " "
    };
    struct world *w = *state;
    size_t i, k;

    good.blob_len = 0;
    EXPECT(w, KAWS_OK, NULL, do_encrypt(w));
    good = sealed_room;
    for (k = 0; k < COUNT(actions); k++) {
        for (i = 0; i < COUNT(bodies); i++)
            expect_nonsense(w, &actions[k], (fake_script){ .body = bodies[i] },
                            "makes no sense");
        expect_nonsense(w, &actions[k],
                        (fake_script){ .body = "{\0}", .body_len = 3 },
                        "makes no sense");
        expect_nonsense(w, &actions[k], (fake_script){ .body = "" },
                        "makes no sense");
    }
}


/* A good reply that ends too early, wherever that is. */
static void
test_cut_replies(void **state)
{
    struct world *w = *state;
    size_t k, cut, len;

    EXPECT(w, KAWS_OK, NULL, do_encrypt(w));
    good = sealed_room;
    for (k = 0; k < COUNT(actions); k++) {
        EXPECT(w, KAWS_OK, NULL, actions[k].call(w));
        len = k < 5 ? w->f.reply_len : strlen("{" KEY "}");
        for (cut = 1; cut < len; cut++)
            expect_nonsense(w, &actions[k], (fake_script){ .cut = cut },
                            "makes no sense");
        assert_in_range(cut, 80, 1000);
    }
}


/* Nested as deeply as a reply's room allows, and a reply too long for it. */
static void
test_deep_and_long(void **state)
{
    static char deep[16384], longest[16386];
    struct world *w = *state;
    size_t k;

    EXPECT(w, KAWS_OK, NULL, do_encrypt(w));
    good = sealed_room;
    memset(deep, '[', sizeof deep - 1);
    memcpy(deep, "{\"a\":", 5);
    memset(longest, ' ', sizeof longest - 1);
    longest[0] = '{';
    for (k = 0; k < COUNT(actions); k++) {
        expect_nonsense(w, &actions[k], (fake_script){ .body = deep },
                        "nested too deeply");
        expect_nonsense(w, &actions[k], (fake_script){ .body = longest },
                        "longer than 16384 bytes");
        longest[16384] = '\0';
        expect_nonsense(w, &actions[k], (fake_script){ .body = longest },
                        "at byte 16384");
        longest[16384] = ' ';
        expect_nonsense(w, &actions[k],
                        (fake_script){ .body = longest, .http = 400,
                                       .body_len = 16385 },
                        "longer than 16384 bytes");
    }
}


/* For each action: which member of a good reply is bent, into what. */
static const struct {
    const char *actions;                  /* some of "gGEeRr"                 */
    const char *from, *to, *words;
} bent[] = {
    { "gGEeRr", "{", "[", "an object was expected" },
    { "gGEeRr", "}", "},", "something follows" },
    { "gGEeRr", "}", "", "a comma or an end was expected" },

    { "gGER", BLOB, EXTRA, "CiphertextBlob is missing" },
    { "gGER", BLOB, "\"ciphertextBlob\":\"", "CiphertextBlob is missing" },
    { "gGER", BLOB, BLOB "\"," EXTRA, "CiphertextBlob is missing" },
    { "gGER", BLOB, BLOB "=", "not base64" },
    { "gGER", BLOB, BLOB "AAA", "not base64" },
    { "gGER", BLOB, BLOB "AA=A", "not base64" },
    { "gGER", BLOB, BLOB "AAA-", "not base64" },
    { "gGER", BLOB, BLOB "AA\\n\\n", "not base64" },
    { "gGER", BLOB, "\"CiphertextBlob\":7," EXTRA, "a string was expected" },
    { "gGER", BLOB, "\"CiphertextBlob\":null," EXTRA, "a string was expected" },
    { "gGER", BLOB, "\"CiphertextBlob\":[\"AAAA\"]," EXTRA,
      "a string was expected" },
    { "gGER", BLOB, BLOB "AAAA\"," BLOB, "there twice" },

    { "gGEeRr", KEY, EXTRA "\"", "KeyId is not" },
    { "gGEeRr", KEY, "\"KeyId\":\"\"", "KeyId is not" },
    { "gGEeRr", KEY, "\"KeyId\":null", "a string was expected" },
    { "gGEeRr", KEY, "\"KeyId\":7", "a string was expected" },
    { "gGEeRr", KEY, KEY "," KEY, "there twice" },
    { "gGEeRr", KEY, "\"KeyId\":\"" FAKE_EAST2 "\"", "KeyId is not" },
    { "gGEeRr", KEY, "\"KeyId\":\"" FAKE_WEST "\"", "KeyId is not" },
    { "gGEeRr", KEY, "\"KeyId\":\"" FAKE_FOREIGN "\"", "KeyId is not" },
    { "gGEeRr", KEY, "\"KeyId\":\"" FAKE_EAST "x\"", "KeyId is not" },
    { "gGEeRr", KEY, "\"KeyId\":\"" FAKE_EAST "\\u0000\"", "KeyId is not" },
    { "gGEeRr", KEY, "\"KeyId\":\"alias/app\"", "KeyId is not" },
    { "gGEeRr", KEY, "\"KeyId\":\"" LONG LONG LONG LONG LONG "\"",
      "KeyId is not" },
    { "gGEeR", KEY, "\"KeyId\":\"00000001-aaaa-bbbb-cccc-1234567890ab\"",
      "KeyId is not" },

    { "gG", "\"KeyMaterialId\":\"", "\"KeyMaterialId\":1," EXTRA,
      "a string was expected" },
    { "R", "\"DestinationKeyMaterialId\":\"",
      "\"DestinationKeyMaterialId\":{}," EXTRA, "a string was expected" },

    { "Ge", PLAIN, EXTRA, "Plaintext is missing" },
    { "Ge", PLAIN, PLAIN "\"," EXTRA, "Plaintext is missing" },
    { "G", PLAIN, PLAIN "AAAA", "too long" },
    { "Ge", PLAIN, PLAIN "=", "not base64" },
    { "Ge", PLAIN, "\"Plaintext\":7," EXTRA, "a string was expected" },
    { "Ge", PLAIN, PLAIN "AAAA\"," PLAIN, "there twice" },
    { "G", PLAIN, PLAIN "AAAA\"," EXTRA, "another length" },
    { "G", PLAIN, PLAIN "AAAAAAAAAAAAAAAAAAAAAAAA\"," EXTRA,
      "too long" },

    { "R", SOURCE, EXTRA "\"", "SourceKeyId is not" },
    { "R", SOURCE, "\"SourceKeyId\":\"" FAKE_EAST2 "\"", "SourceKeyId is not" },
    { "R", SOURCE, "\"SourceKeyId\":\"\"", "SourceKeyId is not" },
    { "R", SOURCE, "\"SourceKeyId\":3", "a string was expected" }
};


static void
test_bent_replies(void **state)
{
    static const char letters[] = "gGEeRr";
    struct world *w = *state;
    size_t i, k;

    EXPECT(w, KAWS_OK, NULL, do_encrypt(w));
    good = sealed_room;
    for (i = 0; i < COUNT(bent); i++)
        for (k = 0; k < COUNT(actions); k++)
            if (strchr(bent[i].actions, letters[k]) != NULL)
                expect_nonsense(w, &actions[k],
                                (fake_script){ .from = bent[i].from,
                                               .to = bent[i].to },
                                bent[i].words);
}


/* A blob of 6144 bytes is taken, one of 6145 is not. */
static void
test_longest_blob(void **state)
{
    static char body[9000];
    struct world *w = *state;
    size_t n = strlen("{" BLOB);

    memcpy(body, "{" BLOB, n);
    memset(body + n, 'A', 8192);
    (void)snprintf(body + n + 8192, sizeof body - n - 8192, "\"," KEY "}");
    fake_push(&w->f, (fake_script){ .body = body });
    EXPECT(w, KAWS_OK, NULL, do_bare(w));
    assert_int_equal(sealed_room.blob_len, 6144);
    memset(body + n, 'A', 8196);
    (void)snprintf(body + n + 8192, sizeof body - n - 8192, "AAA=\"," KEY "}");
    fake_push(&w->f, (fake_script){ .body = body });
    EXPECT(w, KAWS_REPLY, "too long", do_bare(w));
}


/* What we do not need may be missing, or strange, or more. */
static void
test_what_is_tolerated(void **state)
{
    static const struct { const char *from, *to; int has_material; } rows[] = {
        { "\"KeyMaterialId\":\"", EXTRA, 0 },
        { "\"KeyMaterialId\":\"", "\"KeyMaterialId\":\"\"," EXTRA, 0 },
        { "\"KeyMaterialId\":\"", "\"KeyMaterialId\":\"x", 0 },   /* 65      */
        { "\"KeyMaterialId\":\"", "\"KeyMaterialId\":\"a b\"," EXTRA, 0 },
        { "\"KeyMaterialId\":\"", "\"KeyMaterialId\":\"a\\u0000\"," EXTRA, 0 },
        { "{", " \r\n\t{ ", 1 },
        { "{", "{\"New\":{\"a\":[1,-2.5e+3,true,false,null,\"\\ud83d\\ude00\"]"
               "},", 1 },
        { "}", "} \n", 1 },
        { "\"KeyId\"", "\"\\u004beyId\"", 1 },
        { "arn:aws", "ar\\u006e:aws", 1 }
    };
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        fake_push(&w->f, (fake_script){ .from = rows[i].from,
                                        .to = rows[i].to });
        EXPECT(w, KAWS_OK, NULL, do_bare(w));
        assert_int_equal(strlen(sealed_room.key_material_id),
                         rows[i].has_material ? 64 : 0);
        assert_string_equal(sealed_room.kms_key_arn, FAKE_EAST);
    }
    fake_push(&w->f, (fake_script){      /* an id will do for this one       */
        .action = "RotateKeyOnDemand", .from = FAKE_EAST,
        .to = "00000001-aaaa-bbbb-cccc-1234567890ab" });
    EXPECT(w, KAWS_OK, NULL, do_rotate(w));
}


/* An alias may mean any key of the region, but none of a foreign account. */
static void
test_alias_of_a_foreign_account(void **state)
{
    struct world *w = *state;

    w->cfg.data_file = NULL;
    w->cfg.kms_key_id = "alias/app";
    world_open(w);
    EXPECT(w, KAWS_OK, NULL, do_bare(w));
    assert_string_equal(w->ring->kms.trust.now.arn, FAKE_EAST);
    fake_push(&w->f, (fake_script){ .from = FAKE_EAST, .to = FAKE_FOREIGN });
    EXPECT(w, KAWS_FOREIGN, FAKE_FOREIGN, do_bare(w));
    assert_string_equal(w->ring->kms.trust.now.arn, FAKE_EAST);
    fake_push(&w->f, (fake_script){ .from = FAKE_EAST, .to = FAKE_WEST });
    EXPECT(w, KAWS_REPLY, "KeyId is not", do_bare(w));
    fake_push(&w->f, (fake_script){ .from = FAKE_EAST, .to = FAKE_FOREIGN });
    EXPECT(w, KAWS_FOREIGN, NULL, do_data_key(w));
    assert_int_equal(plain_room[0], 0);
    assert_int_equal(fake_logged(&w->f, 1, "is now"), 0);
    fake_push(&w->f, (fake_script){ .from = FAKE_EAST, .to = FAKE_EAST2 });
    EXPECT(w, KAWS_OK, NULL, do_bare(w));
    assert_int_equal(fake_logged(&w->f, 1, "was " FAKE_EAST " and is "
                                 FAKE_EAST2 " now"), 1);
}


/* ---- counting, and asking a region ------------------------------------- */

static void
take_real_time(struct fake *f, const char *action)
{
    struct timespec t = { 0, 3000000 };

    (void)f;
    (void)action;
    nanosleep(&t, NULL);
}


static void
test_counting(void **state)
{
    struct world *w = *state;
    kaws_stats stats;

    w->f.on_send = take_real_time;
    fake_push(&w->f, (fake_script){ .error = "Throttling", .times = 2 });
    EXPECT(w, KAWS_OK, NULL, generate(w));
    kaws_get_stats(w->ring, &stats);
    assert_int_equal(stats.kms_requests, 3);
    assert_int_equal(stats.kms_errors, 2);
    assert_int_equal(stats.kms_retries, 2);
    assert_in_range(stats.kms_time_us, 9000, 9000000);
    fake_push(&w->f, (fake_script){ .body = "nonsense" });
    EXPECT(w, KAWS_REPLY, NULL, generate(w));
    fake_push(&w->f, (fake_script){ .no_reply = "no", .times = 3 });
    EXPECT(w, KAWS_NETWORK, NULL, generate(w));
    EXPECT(w, KAWS_OK, NULL, kaws_check(w->ring, &w->err));
    kaws_get_stats(w->ring, &stats);
    assert_int_equal(stats.kms_requests, 9);
    assert_int_equal(stats.kms_errors, 6);
    assert_int_equal(stats.kms_retries, 4);
}


/* Any refusal by KMS itself shows that it is there. */
static void
test_ask_region(void **state)
{
    static const struct { fake_script script; kaws_status status; } rows[] = {
        { { .cut = 9999 }, KAWS_OK },     /* the truth: NotFoundException    */
        { { .error = "InvalidArnException" }, KAWS_OK },
        { { .error = "AccessDeniedException" }, KAWS_OK },
        { { .error = "ValidationException" }, KAWS_OK },
        { { .body = "{}" }, KAWS_OK },
        { { .body = "<html>", .http = 403 }, KAWS_DENIED },
        { { .body = "<html>", .http = 404 }, KAWS_REPLY },
        { { .error = "UnrecognizedClientException" }, KAWS_CREDENTIALS },
        { { .error = "OptInRequired" }, KAWS_CREDENTIALS },
        { { .error = "Throttling", .times = 3 }, KAWS_THROTTLED },
        { { .no_reply = "no such host", .times = 3 }, KAWS_NETWORK },
        { { .http = 503, .body = "", .times = 3 }, KAWS_SERVICE }
    };
    struct world *w = *state;
    kaws__target target;
    size_t i;

    (void)snprintf(target.key_id, sizeof target.key_id, "%s", FAKE_EAST);
    (void)snprintf(target.region, sizeof target.region, "ap-south-1");
    for (i = 0; i < COUNT(rows); i++) {
        kaws__op op = kaws__kms_begin(&w->ring->kms, &w->err);
        fake_push(&w->f, rows[i].script);
        kaws__err_clear(&w->err);
        EXPECT(w, rows[i].status, NULL,
               kaws__kms_ask_region(&op, "ap-south-1"));
        assert_string_equal(w->f.url,
                            "https://kms.ap-south-1.amazonaws.com/");
    }
}


int
main(void)
{
#define BARE(name) cmocka_unit_test_setup_teardown(name, begin_bare, world_end)
#define SHUT(name) cmocka_unit_test_setup_teardown(name, world_begin, world_end)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_regions),
        cmocka_unit_test(test_not_regions),
        cmocka_unit_test(test_arns),
        SHUT(test_aims),
        cmocka_unit_test(test_fits),
        BARE(test_trust),
        cmocka_unit_test(test_accounts),
        cmocka_unit_test(test_endpoints),
        SHUT(test_bodies_that_seal),
        SHUT(test_bodies_that_open),
        BARE(test_bodies_about_keys),
        SHUT(test_open_and_close_anywhere),
        SHUT(test_endpoint),
        SHUT(test_region_of_the_call),
        BARE(test_dry_run),
        BARE(test_dry_run_granted),
        BARE(test_same_request_id), BARE(test_faults),
        BARE(test_mending),
        BARE(test_http_statuses),
        BARE(test_denied_without_type),
        BARE(test_types),
        BARE(test_long_message),
        SHUT(test_messages_not_shown),
        BARE(test_nothing_is_echoed),
        BARE(test_no_reply),
        BARE(test_pauses),
        BARE(test_retry_after),
        BARE(test_attempts),
        BARE(test_budget),
        BARE(test_patience), BARE(test_patience_ends),
        BARE(test_patience_is_lost),
        BARE(test_rotation_is_sent_once),
        BARE(test_clock),
        BARE(test_clock_set_right),
        BARE(test_wall_clock_jumps),
        BARE(test_mad_ticks),
        BARE(test_one_budget),
        BARE(test_a_budget_for_each_step),
        BARE(test_remedies_are_no_attempts),
        BARE(test_dates_not_believed),
        BARE(test_each_remedy_once),
        BARE(test_newer_credentials),
        BARE(test_bodies_of_nonsense),
        BARE(test_cut_replies),
        BARE(test_deep_and_long),
        BARE(test_bent_replies),
        BARE(test_longest_blob),
        BARE(test_what_is_tolerated),
        SHUT(test_alias_of_a_foreign_account),
        BARE(test_counting), BARE(test_ask_region)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
