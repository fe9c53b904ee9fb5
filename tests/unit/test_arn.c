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
    const char *name, *suffix, *dual, *regions;
} partitions[] = {
    { "aws", "amazonaws.com", "api.aws",
      "af-south-1 ap-east-1 ap-east-2 ap-northeast-1 ap-northeast-2 "
      "ap-northeast-3 ap-south-1 ap-south-2 ap-southeast-1 ap-southeast-2 "
      "ap-southeast-3 ap-southeast-4 ap-southeast-5 ap-southeast-6 "
      "ap-southeast-7 ca-central-1 ca-west-1 eu-central-1 eu-central-2 "
      "eu-north-1 eu-south-1 eu-south-2 eu-west-1 eu-west-2 eu-west-3 "
      "il-central-1 me-central-1 me-south-1 mx-central-1 sa-east-1 us-east-1 "
      "us-east-2 us-west-1 us-west-2 xx-future-12" },
    { "aws-cn", "amazonaws.com.cn", "api.amazonwebservices.com.cn",
      "cn-north-1 cn-northwest-1" },
    { "aws-us-gov", "amazonaws.com", "api.aws",
      "us-gov-east-1 us-gov-west-1" },
    { "aws-iso", "c2s.ic.gov", "api.aws.ic.gov",
      "us-iso-east-1 us-iso-west-1" },
    { "aws-iso-b", "sc2s.sgov.gov", "api.aws.scloud",
      "us-isob-east-1 us-isob-west-1" },
    { "aws-iso-e", "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk",
      "eu-isoe-west-1" },
    { "aws-iso-f", "csp.hci.ic.gov", "api.aws.hci.ic.gov",
      "us-isof-east-1 us-isof-south-1" },
    { "aws-eusc", "amazonaws.eu", "api.amazonwebservices.eu",
      "eusc-de-east-1" }
};


/* The four hosts that a service has in a region. */
static void
check_hosts(size_t p, const char *service, const char *region)
{
    const int gov = strcmp(partitions[p].name, "aws-us-gov") == 0;
    char want[160], url[192];
    int flags;

    for (flags = 0; flags < 4; flags++) {
        const char *const suffix = flags & KAWS__DUALSTACK ? partitions[p].dual
                                                     : partitions[p].suffix;
        const int fips = (flags & KAWS__FIPS) &&
                         !(gov && flags == KAWS__FIPS && *service == 's');
        (void)snprintf(want, sizeof want, "https://%s%s.%s.%s/", service,
                       fips ? "-fips" : "", region, suffix);
        kaws__arn_url(url, sizeof url, service, NULL, region, flags);
        assert_string_equal(url, want);
        kaws__arn_url(url, sizeof url, service, "https://h:1", region, flags);
        assert_string_equal(url, "https://h:1/");
    }
}


/* Each region has hosts, and one partition, which its ARNs name. */
static void
test_each_region_has_its_host(void **state)
{
    char region[40], arn[160];
    size_t p, k;
    int n, seen = 0;

    (void)state;
    for (p = 0; p < COUNT(partitions); p++) {
        const char *rest = partitions[p].regions;
        for (; sscanf(rest, "%39s%n", region, &n) == 1; rest += n, seen++) {
            assert_true(region_ok(region));
            assert_int_equal(kaws__arn_is_known(region), region[0] != 'x');
            check_hosts(p, "kms", region);
            check_hosts(p, "sts", region);
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


/* Of each partition one region that has them, if one has, and one that has not.
 */
static void
test_where_fips_hosts_are(void **state)
{
    static const struct { const char *region; int kms, sts; } rows[] = {
        { "us-east-1", 1, 1 }, { "us-west-2", 1, 1 }, { "af-south-1", 1, 0 },
        { "ap-east-1", 1, 0 }, { "ap-east-2", 0, 0 },
        { "ap-southeast-6", 0, 0 }, { "ap-southeast-7", 1, 0 },
        { "cn-north-1", 0, 0 }, { "us-gov-east-1", 1, 1 },
        { "us-iso-west-1", 1, 0 }, { "us-isob-east-1", 1, 0 },
        { "us-isob-west-1", 0, 0 }, { "eu-isoe-west-1", 1, 0 },
        { "us-isof-south-1", 1, 0 }, { "eusc-de-east-1", 0, 0 },
        { "eu-west-9", 0, 0 }
    };
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++)
        if (kaws__arn_has_fips("kms", rows[i].region) != rows[i].kms ||
            kaws__arn_has_fips("sts", rows[i].region) != rows[i].sts)
            fail_msg("%s", rows[i].region);
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
    assert_non_null(strstr(err.text, "255 bytes at most"));
    memcpy(text, A "alias/", sizeof A "alias/" - 1);
    expect_at(__LINE__, &err, kaws__arn_target(&target, text, "x", &err),
              KAWS_ARGUMENT, "it is too long");
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
test_which_names_are_of_multi_region_keys(void **state)
{
    (void)state;
    JUDGE(kaws__arn_is_multi, "mrk-1", "mrk-", A "key/mrk-1",
          "arn:aws-cn:kms:cn-north-1:111122223333:key/mrk-1", NULL,
          "", "1", "mrk", "MRK-1", "a-mrk-1", "mrk-1/2", "alias/mrk-1",
          "key/mrk-1", A "key/1", A "key/a/mrk-1", A "alias/mrk-1",
          "arn:aws:kms:cn-north-1:111122223333:key/mrk-1",
          "arn:aws:kms:us-east-1:1:key/mrk-1");
}


/* Only the region of an ARN changes, be it longer or shorter; an id stays. */
static void
test_a_name_is_moved(void **state)
{
    static const struct { const char *id, *region, *want; } rows[] = {
        { "mrk-1", "eu-west-1", "mrk-1" },
        { A "key/mrk-1", "us-east-1", A "key/mrk-1" },
        { A "key/mrk-us-east-1", "eu-central-1",
          "arn:aws:kms:eu-central-1:111122223333:key/mrk-us-east-1" },
        { "arn:aws:kms:ap-northeast-1:111122223333:key/mrk-1", "sa-east-1",
          "arn:aws:kms:sa-east-1:111122223333:key/mrk-1" },
        { "arn:aws-cn:kms:cn-north-1:111122223333:key/mrk-1", "cn-northwest-1",
          "arn:aws-cn:kms:cn-northwest-1:111122223333:key/mrk-1" },
        { "arn:aws-us-gov:kms:us-gov-east-1:111122223333:key/mrk-1",
          "us-gov-west-1",
          "arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/mrk-1" }
    };
    char longest[256], back[256];
    kaws__target moved;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        memset(&moved, 'x', sizeof moved);        /* of an earlier use        */
        kaws__arn_move(&moved, rows[i].id, rows[i].region);
        assert_string_equal(moved.key_id, rows[i].want);
        assert_string_equal(moved.region, rows[i].region);
    }
    (void)snprintf(longest, sizeof longest, A "key/mrk-%0*d",
                   255 - 23 - (int)strlen(A "key/mrk-"), 7);
    assert_int_equal(strlen(longest), 255 - 23);
    kaws__arn_move(&moved, longest, "aaaaaaaaaaaaaaaa-aaaaaaaaaaaaa-1");
    assert_int_equal(strlen(moved.key_id), 255);  /* nothing is cut           */
    assert_string_equal(strstr(moved.key_id, ":1111"),
                        strstr(longest, ":1111"));
    memcpy(back, moved.key_id, sizeof back);
    kaws__arn_move(&moved, back, "us-east-1");
    assert_string_equal(moved.key_id, longest);
}


/* Whether a reply's ARN is the wanted key's in the region that was asked. */
static void
test_why_an_arn_is_unrelated(void **state)
{
#define GOT(region, account, rest) \
    "arn:aws:kms:" region ":" account ":" rest
    static const struct { const char *want, *got, *region, *why; } rows[] = {
        { A "key/mrk-1", GOT("eu-west-1", "111122223333", "key/mrk-1"),
          "eu-west-1", NULL },
        { "mrk-1", GOT("eu-west-1", "444455556666", "key/mrk-1"), "eu-west-1",
          NULL },
        { A "key/mrk-1", A "key/mrk-1", "us-east-1", NULL },
        { A "key/mrk-1", "", "us-east-1", "not the ARN of a KMS key" },
        { A "key/mrk-1", "mrk-1", "us-east-1", "not the ARN of a KMS key" },
        { A "key/mrk-1", GOT("eu-west-1", "111122223333", "key/1"),
          "eu-west-1", "it is not a multi-region key" },
        { A "key/mrk-1", GOT("eu-west-1", "111122223333", "alias/mrk-1"),
          "eu-west-1", "it is not a multi-region key" },
        { A "key/mrk-1", A "key/mrk-1", "eu-west-1", "in another region than "
          "the one that was asked" },
        { A "key/mrk-1", GOT("eu-west-1", "444455556666", "key/mrk-1"),
          "eu-west-1", "it belongs to another account" },
        { A "key/mrk-1", "arn:aws-cn:kms:cn-north-1:111122223333:key/mrk-1",
          "cn-north-1", "it belongs to another account" },
        { A "key/mrk-1", GOT("eu-west-1", "111122223333", "key/mrk-2"),
          "eu-west-1", "it is a different multi-region key" },
        { A "key/mrk-1", GOT("eu-west-1", "111122223333", "key/mrk-11"),
          "eu-west-1", "it is a different multi-region key" },
        { "mrk-1", GOT("eu-west-1", "111122223333", "key/mrk-2"), "eu-west-1",
          "it is a different multi-region key" },
        { "mrk-1", GOT("eu-west-1", "111122223333", "key/mrk-1/2"),
          "eu-west-1", "it is a different multi-region key" }
    };
    const char *why;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        why = kaws__arn_unrelated(rows[i].want, kaws__buf_of(rows[i].got),
                                  rows[i].region);
        if ((why == NULL) != (rows[i].why == NULL) ||
            (why != NULL && strstr(why, rows[i].why) == NULL))
            fail_msg("row %lu: %s", (unsigned long)i, why != NULL ? why : "");
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
    kaws__arn_url(text, sizeof text, "kms", "https://h:1", "eu-west-1", 0);
    assert_string_equal(text, "https://h:1/");
    kaws__arn_url(text, sizeof text, "kms", "https://h:1/", "eu-west-1", 0);
    assert_string_equal(text, "https://h:1/");
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_region_has_its_host),
        cmocka_unit_test(test_where_fips_hosts_are),
        cmocka_unit_test(test_an_arn_is_taken_apart),
        cmocka_unit_test(test_a_target_is_id_alias_or_arn),
        cmocka_unit_test(test_longest_target),
        cmocka_unit_test(test_which_arn_fits_the_asked_key),
        cmocka_unit_test(test_which_names_are_of_multi_region_keys),
        cmocka_unit_test(test_a_name_is_moved),
        cmocka_unit_test(test_why_an_arn_is_unrelated),
        cmocka_unit_test(test_an_endpoint_is_https_and_a_host)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
