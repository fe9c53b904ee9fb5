/* Room arn: regions and their hosts, ARNs, targets, endpoints. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "world.h"

#define A "arn:aws:kms:us-east-1:111122223333:"


static int
region_ok(const char *text)
{
    return kaws__arn_region_ok(kaws__buf_of(text));
}


static int
arn_ok(const char *text)
{
    kaws__arn arn;

    return kaws__arn_parse(kaws__buf_of(text), &arn);
}


/* The texts up to a NULL must pass, those behind it must not. */
#define JUDGE(ok, ...)                                                        \
    do {                                                                      \
        static const char *const texts[] = { __VA_ARGS__ };                   \
        size_t t;                                                             \
        int good = 1;                                                         \
        for (t = 0; t < COUNT(texts); t++)                                    \
            if (texts[t] == NULL)                                             \
                good = 0;                                                     \
            else if (ok(texts[t]) != good)                                    \
                fail_msg("%s(\"%s\") is not %d", #ok, texts[t], good);        \
    } while (0)


static const struct {
    const char *name, *suffix, *regions;
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


/* Each region has a host, and one partition, which its ARNs name. */
static void
test_each_region_has_its_host(void **state)
{
    char region[40], want[160], url[192], arn[160];
    size_t p, k;
    int n, seen = 0;

    (void)state;
    for (p = 0; p < COUNT(partitions); p++) {
        const char *rest = partitions[p].regions;
        for (; sscanf(rest, "%39s%n", region, &n) == 1; rest += n, seen++) {
            assert_true(region_ok(region));
            assert_int_equal(kaws__arn_is_known(region), region[0] != 'x');
            kaws__arn_url(url, sizeof url, "kms", NULL, region);
            (void)snprintf(want, sizeof want, "https://kms.%s.%s/", region,
                           partitions[p].suffix);
            assert_string_equal(url, want);
            for (k = 0; k < COUNT(partitions); k++) {
                (void)snprintf(arn, sizeof arn, "arn:%s:kms:%s:111122223333:"
                               "key/x", partitions[k].name, region);
                assert_int_equal(arn_ok(arn), k == p);
            }
        }
    }
    assert_int_equal(seen, 47);
    assert_false(kaws__arn_is_known("us-esat-1"));
    assert_false(kaws__arn_is_known("us-east-3"));
    assert_false(kaws__arn_is_known("east-1"));   /* a piece of a name        */
    assert_false(kaws__arn_is_known("cn-east-1"));
    JUDGE(region_ok, "aaaaaaaaaaaaaaaa-aaaaaaaaaaaaa-1", /* 32 characters    */
          "us-east-99", NULL,
          "", "us", "us-", "us-east", "us-east-", "us-east-1a", "us-east-a1",
          "us-east-123", "us-east-1-", "us-east-1-2", "us-1-east", "US-EAST-1",
          "Us-east-1", "us--east-1", "-us-east-1", "us-east-1 ", " us-east-1",
          "us-east-1\n", "us_east_1", "us-east-1.evil.com", "us-east-1/",
          "us-east-1@evil", "us-east:1", "u\xc3\xa4-east-1", "us-east-\xff",
          "us-1", "1-1-1", "aaaaaaaaaaaaaaaa-aaaaaaaaaaaaaa-1");
}


static void
test_an_arn_is_taken_apart(void **state)
{
    char text[300];
    kaws__arn arn;
    size_t i;

    (void)state;
    JUDGE(arn_ok, A "key/mrk-1f_2/3", A "alias/my/key", NULL,
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
          " arn:aws:kms:us-east-1:111122223333:key/x");
    assert_true(kaws__arn_parse(kaws__buf_of(A "key/mrk-1"), &arn));
    assert_true(kaws__buf_same(arn.partition, kaws__buf_of("aws")));
    assert_true(kaws__buf_same(arn.region, kaws__buf_of("us-east-1")));
    assert_true(kaws__buf_same(arn.account, kaws__buf_of("111122223333")));
    assert_true(kaws__buf_same(arn.resource, kaws__buf_of("key/mrk-1")));
    for (i = 250; i < 260; i++) {
        (void)snprintf(text, sizeof text, A "key/%0*d",
                       (int)(i - strlen(A "key/")), 7);
        assert_int_equal(strlen(text), i);
        assert_int_equal(arn_ok(text), i <= 255);
    }
}


static void
test_a_target_is_id_alias_or_arn(void **state)
{
    static const struct { const char *id, *region, *words; } rows[] = {
        { A "key/x", "us-east-1", NULL },
        { "arn:aws-cn:kms:cn-north-1:111122223333:key/x", "cn-north-1", NULL },
        { A "alias/app", "us-east-1", NULL },
        { "alias/app", "eu-west-1", NULL },
        { "alias/a_b-c/D", "eu-west-1", NULL },
        { "1234abcd-12ab-34cd-56ef-1234567890ab", "eu-west-1", NULL },
        { "mrk-1234abcd12ab34cd56ef1234567890ab", "eu-west-1", NULL },
        { "", NULL, NULL }, { "alias/a b", NULL, NULL },
        { "a:b", NULL, NULL }, { "a\n", NULL, NULL },
        { "a\"", NULL, NULL }, { "\xff\xfe", NULL, NULL },
        { "k\xc3\xa4", NULL, NULL },
        { "arn:aws:kms:us-east-1:1:key/x", NULL, "not 12 digits" },
        { "arn:aws:kms:us-east-1:111122223333", NULL, "six parts" },
        { "arn:aws:s3:us-east-1:111122223333:key/x", NULL, "PARTITION:kms:" },
        { "arn:aws:kms:us_east_1:111122223333:key/x", NULL, "its region is" },
        { "arn:aws:kms:us-east-1:111122223333:grant/x", NULL, "end with key/" },
        { "arn:aws-cn:kms:us-east-1:111122223333:key/x", NULL,
          "its region belongs to another partition" },
        { "arn:aws:kms:cn-north-1:111122223333:alias/x", NULL,
          "its region belongs to another partition" }
    };
    kaws__target target;
    kaws_error err;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        kaws__err_clear(&err);
        expect_at(__LINE__, &err,
                  kaws__arn_target(&target, rows[i].id, "eu-west-1", &err),
                  rows[i].region != NULL ? KAWS_OK : KAWS_ARGUMENT,
                  rows[i].words != NULL ? rows[i].words
                                        : "is not the id, ARN or alias");
        if (rows[i].region != NULL) {
            assert_string_equal(target.key_id, rows[i].id);
            assert_string_equal(target.region, rows[i].region);
        }
    }
}


static void
test_longest_target(void **state)
{
    kaws__target target;
    kaws_error err = { 0 };
    char text[300];

    (void)state;
    memset(text, 'k', sizeof text);
    text[256] = '\0';
    expect_at(__LINE__, &err, kaws__arn_target(&target, text, "x", &err),
              KAWS_ARGUMENT, "kkk...");
    text[255] = '\0';
    assert_int_equal(kaws__arn_target(&target, text, "x", NULL), KAWS_OK);
    assert_string_equal(target.key_id, text);
}


/* Which ARNs in a reply may belong to the KMS key that was asked for. */
static void
test_which_arn_fits_the_asked_key(void **state)
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
    kaws__target target;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        memcpy(target.key_id, rows[i].asked, strlen(rows[i].asked) + 1);
        memcpy(target.region, rows[i].region, strlen(rows[i].region) + 1);
        if (kaws__arn_fits(&target, rows[i].got) != rows[i].fits)
            fail_msg("row %lu", (unsigned long)i);
    }
}


static void
test_an_endpoint_is_https_and_a_host(void **state)
{
    char text[300];

    (void)state;
    JUDGE(kaws__arn_endpoint_ok,
          "https://kms.example.com", "https://kms.example.com/",
          "https://h:8443", "https://127.0.0.1:1",
          "https://[2001:db8::1]:8443/", "http://127.0.0.1",
          "http://127.0.0.1:5000/", "http://localhost:1", "http://localhost/",
          "http://[::1]/", "http://[::1]:5000", "http://localhost:65535",
          "https://[::]", "https://[::ffff:a00:1]",
          "https://[1:2:3:4:5:6:7:8]:1/", "https://a_b.example:00443",
          "https://vpce-0a-b.kms.us-east-1.vpce.amazonaws.com", NULL,
          "", "kms.example.com", "https://", "https:///", "ftp://h",
          "HTTPS://h", "https:/h", "https://h/path", "https://h//",
          "https://h?x", "https://h#", "https://user@h", "https://h h",
          "https://h\n", "https://h\\", "https://\xc3\xa4",
          "http://example.com", "http://127.0.0.10",
          "http://127.0.0.1.evil.com", "http://localhost.evil.com",
          "http://localhostx", "http://localhost@evil.com",
          "http://[::1].evil", "http://", "http://10.0.0.1:80",
          "https://h:1:2", "https://[::1", "https://h:", "https://h:/",
          "https://h:0", "https://h:65536", "https://h:x", "https://h:-1",
          "https://:443", "https://::1", "https://h]", "https://[h]",
          "https://[]", "https://[::1]x", "https://[::1]:", "https://[::1]:0",
          "https://[::1]:1:2", "https://[1:2]", "https://[1::2::3]",
          "https://[:::]", "https://[12345::]", "https://[::1%25lo]",
          "https://[0:0:0:0:0:0:0:0:0:0:0:0:0:0:0:0:0:0:0:0:0:0:0:0:0]",
          "http://localhost:", "http://127.0.0.1:0", "http://[::1]:x",
          "http://[::1");
    (void)snprintf(text, sizeof text, "https://%0150d", 7);
    assert_true(kaws__arn_endpoint_ok(text));
    (void)snprintf(text, sizeof text, "https://%0151d", 7);
    assert_false(kaws__arn_endpoint_ok(text));
    kaws__arn_url(text, sizeof text, "kms", "https://h:1", "eu-west-1");
    assert_string_equal(text, "https://h:1/");
    kaws__arn_url(text, sizeof text, "kms", "https://h:1/", "eu-west-1");
    assert_string_equal(text, "https://h:1/");
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_region_has_its_host),
        cmocka_unit_test(test_an_arn_is_taken_apart),
        cmocka_unit_test(test_a_target_is_id_alias_or_arn),
        cmocka_unit_test(test_longest_target),
        cmocka_unit_test(test_which_arn_fits_the_asked_key),
        cmocka_unit_test(test_an_endpoint_is_https_and_a_host)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
