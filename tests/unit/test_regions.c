/* Room regions: the list of failover regions, and which KMS keys it suits. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "world.h"

#define KEY(region, id) "arn:aws:kms:" region ":111122223333:" id

static const char eight[] = "us-east-1,us-east-2,us-west-1,us-west-2,eu-west-1,"
                            "eu-west-2,eu-west-3,eu-north-1";


/* What is read, as "region endpoint;" for each. */
static void
test_lists_that_are_read(void **state)
{
    static const struct { const char *list, *region, *read; } rows[] = {
        { NULL, "us-east-1", "" }, { "", "us-east-1", "" },
        { "  \t ", "us-east-1", "" },
        { "eu-west-1", "us-east-1", "eu-west-1 ;" },
        { "us-east-1", "us-east-1", "us-east-1 ;" },
        { " \teu-west-1\t ,  us-east-2 ", "us-east-1",
          "eu-west-1 ;us-east-2 ;" },
        { "eu-west-1,us-east-2,", "us-east-1", "eu-west-1 ;us-east-2 ;" },
        { "eu-west-1 , ", "us-east-1", "eu-west-1 ;" },
        { "eu-west-1=https://h:8443/ ,us-east-2", "us-east-1",
          "eu-west-1 https://h:8443/;us-east-2 ;" },
        { "eu-west-1 \t= https://h ,us-east-2", "us-east-1",
          "eu-west-1 https://h;us-east-2 ;" },
        { "eu-west-1=http://127.0.0.1:1", "us-east-1",
          "eu-west-1 http://127.0.0.1:1;" },
        { "xx-future-9", "us-east-1", "xx-future-9 ;" },
        { "cn-northwest-1", "cn-north-1", "cn-northwest-1 ;" },
        { "us-gov-west-1", "us-gov-east-1", "us-gov-west-1 ;" },
        { eight, "us-east-1", "us-east-1 ;us-east-2 ;us-west-1 ;us-west-2 ;"
          "eu-west-1 ;eu-west-2 ;eu-west-3 ;eu-north-1 ;" }
    };
    char read[1000];
    kaws__regions r;
    kaws_error err;
    size_t i;
    int k, n;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        memset(&r, 0x55, sizeof r);       /* of an earlier use                */
        kaws__err_clear(&err);
        world_case = rows[i].list != NULL ? rows[i].list : "NULL";
        expect_at(__LINE__, &err, kaws__regions_open(&r, rows[i].list,
                                                     rows[i].region, &err),
                  KAWS_OK, NULL);
        read[0] = '\0';
        for (k = n = 0; k < r.count; k++)
            n += snprintf(read + n, sizeof read - (size_t)n, "%s %s;",
                          r.to[k].region, r.to[k].endpoint);
        assert_string_equal(read, rows[i].read);
    }
    world_case = "";
}


static const struct { const char *list, *region, *words; } bad[] = {
    { ",", "us-east-1", "'': nothing stands before one of its commas" },
    { "eu-west-1, ,us-east-2", "us-east-1", "'': nothing stands before one" },
    { ",eu-west-1", "us-east-1", "'': nothing stands before one" },
    { "eu-west-1 us-east-2", "us-east-1",
      "'eu-west-1 us-east-2': that is not a region" },
    { "eu-west-1;us-east-2", "us-east-1", "is not a region" },
    { "EU-WEST-1", "us-east-1", "is not a region" },
    { "eu-west-1.evil.com", "us-east-1", "is not a region" },
    { "=https://h", "us-east-1", "is not a region" },
    { "eu-west-1\n", "us-east-1", "is not a region" },
    { "nowhere", "us-east-1", "such as eu-west-1, or "
      "eu-west-1=https://host (in lower case, with commas between regions)" },
    { "aaaaaaaaaaaaaaaa-aaaaaaaaaaaaaa-1", "us-east-1",
      "is not a region" },
    { "eu-west-1,us-east-2,eu-west-1", "us-east-1",
      "'eu-west-1': that region is in the list twice" },
    { "eu-west-1,eu-west-1=https://h", "us-east-1", "in the list twice" },
    { "eu-west-1=", "us-east-1", "'eu-west-1=': what follows its = is not "
      "of the form https://host or https://host:port" },
    { "eu-west-1 = ", "us-east-1", "what follows its =" },
    { " = https://h", "us-east-1", "is not a region" },
    { "eu-west-1=https://h us-east-2", "us-east-1", "what follows its =" },
    { "eu-west-1=http://h", "us-east-1", "what follows its =" },
    { "eu-west-1=https://h/path", "us-east-1", "what follows its =" },
    { "eu-west-1=https://h=x", "us-east-1", "what follows its =" },
    { "cn-north-1", "us-east-1", "'cn-north-1': that region is in a "
      "different partition of AWS than the KMS key" },
    { "us-east-1", "us-gov-east-1", "a different partition" },
    { "eu-west-1,us-gov-east-1", "us-east-1", "a different partition" }
};


static void
test_lists_that_are_refused(void **state)
{
    kaws__regions r;
    kaws_error err;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(bad); i++) {
        kaws__err_clear(&err);
        world_case = bad[i].list;
        expect_at(__LINE__, &err, kaws__regions_open(&r, bad[i].list,
                                                     bad[i].region, &err),
                  KAWS_CONFIG, bad[i].words);
        assert_memory_equal(err.text, "failover_regions: ", 18);
    }
    world_case = "";
}


static void
test_the_longest_lists(void **state)
{
    char text[400];
    kaws__regions r;
    kaws_error err;

    (void)state;
    (void)snprintf(text, sizeof text, "%s,sa-east-1", eight);
    kaws__err_clear(&err);
    expect_at(__LINE__, &err, kaws__regions_open(&r, text, "us-east-1", &err),
              KAWS_CONFIG, "'sa-east-1': there can be 8 regions at most");
    (void)snprintf(text, sizeof text, "eu-west-1=https://%0151d", 7);
    kaws__err_clear(&err);
    expect_at(__LINE__, &err, kaws__regions_open(&r, text, "us-east-1", &err),
              KAWS_CONFIG, "what follows its =");
    (void)snprintf(text, sizeof text, "eu-west-1=https://%0150d/", 7);
    kaws__err_clear(&err);
    expect_at(__LINE__, &err, kaws__regions_open(&r, text, "us-east-1", &err),
              KAWS_OK, NULL);
    assert_int_equal(strlen(r.to[0].endpoint), 159);
}


/* With a list, a KMS key that is named by id or ARN must be a multi-region key;
 * of an alias nobody knows. */
static void
test_which_keys_suit(void **state)
{
    static const struct { const char *list, *key_id; int suits; } rows[] = {
        { "eu-west-1", KEY("us-east-1", "key/mrk-1"), 1 },
        { "eu-west-1", "mrk-1", 1 },
        { "eu-west-1", "alias/app", 1 },
        { "eu-west-1", KEY("us-east-1", "alias/app"), 1 },
        { "eu-west-1", "", 1 },
        { NULL, KEY("us-east-1", "key/1"), 1 },
        { " ", "1", 1 },
        { "eu-west-1", KEY("us-east-1", "key/1"), 0 },
        { "eu-west-1", "1", 0 },
        { "eu-west-1", "a-mrk-1", 0 },
        { "eu-west-1", KEY("us-east-1", "key/a-mrk-1"), 0 }
    };
    kaws__regions r;
    kaws_error err;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        kaws__err_clear(&err);
        world_case = rows[i].key_id;
        assert_int_equal(kaws__regions_open(&r, rows[i].list, "us-east-1",
                                            &err), KAWS_OK);
        expect_at(__LINE__, &err, kaws__regions_suit(&r, rows[i].key_id, &err),
                  rows[i].suits ? KAWS_OK : KAWS_CONFIG,
                  "is not a multi-region key, which exists in several regions "
                  "and has an id that begins with mrk-: make one (aws kms "
                  "create-key --multi-region) and its replicas");
        if (!rows[i].suits)
            assert_non_null(strstr(err.text, rows[i].key_id));
    }
    world_case = "";
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lists_that_are_read),
        cmocka_unit_test(test_lists_that_are_refused),
        cmocka_unit_test(test_the_longest_lists),
        cmocka_unit_test(test_which_keys_suit)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
