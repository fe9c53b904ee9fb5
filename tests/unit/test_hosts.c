/* Room hosts: which switches are on, where requests then go, and the warnings.
 * (tests/test_endpoints.py has every region.) */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "reading.h"

#define FIPS_ENV "AWS_USE_FIPS_ENDPOINT"
#define DUAL_ENV "AWS_USE_DUALSTACK_ENDPOINT"
#define BOTH     (KAWS__FIPS | KAWS__DUALSTACK)


/* ---- the switches -------------------------------------------------------- */

static const struct {
    const char *auth;
    int fips, dualstack;
    const char *fips_env, *dual_env;
    int flags;
    const char *wrong;
} switches[] = {
    { NULL, 0, 0, NULL, NULL, 0, NULL },
    { NULL, 1, 0, NULL, NULL, KAWS__FIPS, NULL },
    { NULL, 0, 1, NULL, NULL, KAWS__DUALSTACK, NULL },
    { "file", 2, -1, NULL, NULL, BOTH, NULL },

    /* the variables are for native alone */
    { NULL, 0, 0, "true", "true", 0, NULL },
    { "file", 0, 0, "true", "yes", 0, NULL },
    { "Native", 0, 0, "true", "true", 0, NULL },
    { "native", 0, 0, NULL, NULL, 0, NULL },
    { "native", 0, 0, "true", NULL, KAWS__FIPS, NULL },
    { "native", 0, 0, NULL, "TRUE", KAWS__DUALSTACK, NULL },
    { "native", 0, 0, "tRuE", "True", BOTH, NULL },
    { "native", 0, 0, "false", "FALSE", 0, NULL },
    { "native", 0, 0, "", "", 0, NULL },

    /* either says so */
    { "native", 1, 0, "false", "true", BOTH, NULL },
    { "native", 0, 1, "true", "", BOTH, NULL },
    { "native", 1, 1, NULL, NULL, BOTH, NULL },

    { "native", 0, 0, "1", NULL, 0, FIPS_ENV " in the environment is '1', and "
      "has to be true or false" },
    { "native", 1, 0, "yes", NULL, 0, FIPS_ENV " in the environment is 'yes'" },
    { "native", 0, 0, " true", NULL, 0, FIPS_ENV },
    { "native", 0, 0, "true\n", NULL, 0, FIPS_ENV " in the environment is "
      "'true\\x0a'" },
    { "native", 0, 0, "true", "on", 0, DUAL_ENV " in the environment is 'on'" },
    { "native", 0, 1, NULL, "tru", 0, DUAL_ENV " in the environment is 'tru'" },
    { "native", 0, 0, NULL, "truer", 0, DUAL_ENV }
};


static void
test_switches(void **state)
{
    struct world *w = *state;
    kaws__hosts h;
    size_t i;

    for (i = 0; i < COUNT(switches); i++) {
        kaws_config cfg = { .auth = switches[i].auth, .fips = switches[i].fips,
                            .dualstack = switches[i].dualstack };
        const char *wrong = switches[i].wrong;
        char number[24];
        (void)snprintf(number, sizeof number, "row %d", (int)i);
        world_case = number;
        set(FIPS_ENV, switches[i].fips_env);
        set(DUAL_ENV, switches[i].dual_env);
        memset(&h, 0x77, sizeof h);
        kaws__err_clear(&w->err);
        EXPECT(w, wrong != NULL ? KAWS_CONFIG : KAWS_OK, wrong,
               kaws__hosts_open(&h, &w->f.hooks, &cfg, NULL, &w->err));
        if (wrong == NULL && h.flags != switches[i].flags)
            fail_msg("%s: %d", world_case, h.flags);
        assert_null(h.kms);
        assert_null(h.sts);
    }
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);
}


/* ---- endpoints that are set ---------------------------------------------- */

#define AS_SET(name, url) "[KAWS-167] fips is on, but " name " is set, and is" \
    " used as it is: see that " url " is a FIPS host"

/* An endpoint is used as it is, and what the switches mean is lost: with FIPS
 * that is a warning. */
static void
test_endpoints(void **state)
{
    static const struct {
        const char *kms, *sts;
        int flags;
        const char *said[2];
    } rows[] = {
        { "https://a", "https://b", 0, { NULL } },
        { "https://a", "https://b", KAWS__DUALSTACK, { NULL } },
        { NULL, NULL, BOTH, { NULL } },
        { "https://a", NULL, KAWS__FIPS, { AS_SET("endpoint", "https://a") } },
        { NULL, "https://b", BOTH, { AS_SET("sts_endpoint", "https://b") } },
        { "https://a", "https://b:8", BOTH,
          { AS_SET("endpoint", "https://a"),
            AS_SET("sts_endpoint", "https://b:8") } }
    };
    struct world *w = *state;
    char url[192];
    kaws__hosts h;
    size_t i, k, said;

    for (i = 0; i < COUNT(rows); i++) {
        kaws_config cfg = { .endpoint = rows[i].kms, .sts_endpoint =
                            rows[i].sts, .fips = rows[i].flags & KAWS__FIPS,
                            .dualstack = rows[i].flags & KAWS__DUALSTACK };
        fake_forget_log(&w->f);
        OK(w, kaws__hosts_open(&h, &w->f.hooks, &cfg, NULL, &w->err));
        for (k = said = 0; k < 2; k++) {
            const char *const set_one = k == 0 ? h.kms : h.sts;
            said += rows[i].said[k] != NULL;
            if (rows[i].said[k] != NULL)
                assert_int_equal(fake_logged(&w->f, 1, rows[i].said[k]), 1);
            kaws__hosts_url(&h, url, sizeof url, k == 0 ? "kms" : "sts",
                            "ap-east-2", 1);
            if (set_one != NULL && (strncmp(url, set_one, strlen(set_one)) != 0
                                    || strlen(url) != strlen(set_one) + 1))
                fail_msg("row %d: %s", (int)i, url);
            assert_int_equal(strstr(url, "ap-east-2") == NULL, set_one != NULL);
            kaws__hosts_doubt(&h, &w->f.hooks, k == 0 ? "kms" : "sts",
                              "ap-east-2");
        }
        assert_int_equal(fake_logged(&w->f, 1, "[KAWS-167]"), said);
        assert_int_equal(fake_logged(&w->f, -1, "[KAWS-166]"),
                         (rows[i].flags & KAWS__FIPS) != 0 &&
                         (h.kms == NULL || h.sts == NULL));
    }
}


/* Which setting is wrong; and no secret of a URL is shown. */
static void
test_wrong_endpoints(void **state)
{
    struct world *w = *state;
    kaws_config cfg = { .endpoint = "http://example.com", .fips = 1,
                        .sts_endpoint = "https://b" };
    kaws__hosts h;

    EXPECT(w, KAWS_CONFIG, "endpoint 'http://example.com' is not of the form "
           "https://host or https://host:port",
           kaws__hosts_open(&h, &w->f.hooks, &cfg, NULL, &w->err));
    kaws__err_clear(&w->err);
    cfg.endpoint = NULL;
    cfg.sts_endpoint = "https://u:pass@b";
    EXPECT(w, KAWS_CONFIG, "sts_endpoint 'https://***@b' is not of the form",
           kaws__hosts_open(&h, &w->f.hooks, &cfg, NULL, &w->err));
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);
}


/* ---- regions without FIPS hosts ------------------------------------------ */

/* One line for each region, until another one comes between. */
static void
test_doubts(void **state)
{
    static const struct {
        const char *service, *region;
        int lines;
    } rows[] = {
        { "kms", "us-east-1", 0 }, { "kms", "ap-east-2", 1 },
        { "kms", "ap-east-2", 0 }, { "kms", "us-isob-west-1", 1 },
        { "kms", "us-isob-east-1", 0 }, { "kms", "ap-east-2", 1 },
        { "kms", "us-gov-west-1", 0 }, { "kms", "eu-west-9", 1 },
        { "sts", "us-west-2", 0 }, { "sts", "eu-west-1", 1 },
        { "sts", "us-gov-east-1", 0 }, { "sts", "us-iso-east-1", 1 },
        { "kms", "us-iso-west-1", 0 }
    };
    struct world *w = *state;
    kaws__hosts h = { .flags = KAWS__FIPS };
    char said[128];
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        fake_forget_log(&w->f);
        kaws__hosts_doubt(&h, &w->f.hooks, rows[i].service, rows[i].region);
        (void)snprintf(said, sizeof said, "[KAWS-166] fips is on, but as far as"
                       " this version knows, AWS %s has no FIPS host in the "
                       "region %s: ", rows[i].service[0] == 'k' ? "KMS" : "STS",
                       rows[i].region);
        if (fake_logged(&w->f, 1, said) != rows[i].lines ||
            fake_logged(&w->f, -1, "") != rows[i].lines)
            fail_msg("row %d: %s", (int)i, w->f.log);
    }
    fake_forget_log(&w->f);
    h = (kaws__hosts){ .flags = KAWS__DUALSTACK };
    kaws__hosts_doubt(&h, &w->f.hooks, "kms", "ap-east-2");
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);
}


/* ---- a ring -------------------------------------------------------------- */

/* The opening line, the identity and each request have the same host, in the
 * region that a KMS key's ARN names, too; but the signature's region stays. */
static void
test_a_ring(void **state)
{
    static const char url[] = "https://kms-fips.us-west-2.api.aws/";
    struct world *w = *state;
    kaws_identity who;

    w->cfg.fips = w->cfg.dualstack = 1;
    w->cfg.region = "us-west-2";
    w->cfg.kms_key_id = "alias/app";
    world_open(w);
    assert_int_equal(fake_logged(&w->f, 2, "requests go to https://kms-fips."
                                 "us-west-2.api.aws/, "), 1);
    assert_int_equal(fake_logged(&w->f, 1, "KAWS-16"), 0);
    OK(w, kaws_whoami(w->ring, &who, &w->err));
    assert_string_equal(who.endpoint, url);
    OK(w, kaws_check(w->ring, &w->err));  /* the fake checks the signature    */
    assert_string_equal(w->f.url, url);
    OK(w, kaws_use(w->ring, FAKE_EAST, NULL, &w->err));
    assert_string_equal(w->f.url, "https://kms-fips.us-east-1.api.aws/");
    OK(w, kaws_whoami(w->ring, &who, &w->err));
    assert_string_equal(who.endpoint, w->f.url);
    assert_int_equal(fake_logged(&w->f, -1, "KAWS-166"), 0);
}


/* A region without a FIPS host is named at the start, and when it is chosen. */
static void
test_a_ring_without_fips_hosts(void **state)
{
    struct world *w = *state;

    w->cfg.fips = 1;
    w->cfg.kms_key_id = "alias/app";
    w->cfg.region = "cn-north-1";
    world_open(w);
    assert_int_equal(fake_logged(&w->f, 1, "AWS KMS has no FIPS host in the "
                                 "region cn-north-1"), 1);
    world_close(w);
    w->cfg.kms_key_id = "arn:aws:kms:ap-southeast-6:" FAKE_OWN ":key/x";
    w->cfg.region = "us-west-2";
    world_open(w);
    assert_int_equal(fake_logged(&w->f, 1, "region ap-southeast-6: no "), 1);
    world_close(w);
    w->cfg.kms_key_id = FAKE_EAST;
    w->cfg.region = NULL;
    fake_forget_log(&w->f);
    world_open(w);
    assert_int_equal(fake_logged(&w->f, -1, "KAWS-166"), 0);
    (void)kaws_use_region(w->ring, "ap-east-2", &w->err);
    assert_int_equal(fake_logged(&w->f, -1, "KAWS-166"), 0);  /* not used     */
    kaws__err_clear(&w->err);
    (void)kaws_use_kms_key(w->ring, "arn:aws:kms:ap-east-2:" FAKE_OWN ":key/x",
                           &w->err);
    assert_int_equal(fake_logged(&w->f, 1, "in the region ap-east-2: "), 1);
}


/* The regions that may answer in another's place are doubted, too. */
static void
test_a_route(void **state)
{
    struct world *w = *state;

    w->cfg.kms_key_id = "alias/app";
    w->cfg.failover_regions = "ap-east-2, us-west-2, ap-southeast-6,"
                              "eu-west-1=https://h:1";
    world_open(w);
    assert_int_equal(fake_logged(&w->f, -1, "KAWS-16"), 0);
    world_close(w);
    w->cfg.fips = 1;
    world_open(w);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-166]"), 2);
    assert_int_equal(fake_logged(&w->f, 1, "in the region ap-east-2: "), 1);
    assert_int_equal(fake_logged(&w->f, 1, "the region ap-southeast-6: "), 1);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-167]"), 1);
    assert_int_equal(fake_logged(&w->f, 1, AS_SET("failover_regions",
                                                  "https://h:1")), 1);
}


/* A URL of the list says where requests in that region go, home or not. So its
 * FIPS host is not missed. `endpoint` serves home alone, even if the list has
 * it, too. A region without a FIPS host is named once. */
static void
test_urls_of_the_list(void **state)
{
    static const struct {
        const char *region;
        int at_home;
        const char *url;
    } rows[] = {
        { "ap-east-2", 1, "https://h:1/" }, { "ap-east-2", 0, "https://h:1/" },
        { "us-west-2", 1, "https://e/" },
        { "us-west-2", 0, "https://kms-fips.us-west-2.amazonaws.com/" }
    };
    static const struct {
        const char *endpoint, *list;
        int lines;
    } rings[] = {
        { "https://e", "us-west-2,ap-east-2", 0 },
        { NULL, "us-west-2,ap-east-2", 1 },
        { NULL, "us-west-2,ap-east-2=https://h:1", 0 }
    };
    struct world *w = *state;
    char url[192];
    size_t i;

    w->cfg.fips = 1;
    w->cfg.kms_key_id = "alias/app";
    w->cfg.endpoint = "https://e";
    w->cfg.failover_regions = "ap-east-2=https://h:1,us-west-2";
    w->cfg.region = "ap-east-2";
    world_open(w);
    for (i = 0; i < COUNT(rows); i++) {
        kaws__hosts_url(&w->ring->kms.hosts, url, sizeof url, "kms",
                        rows[i].region, rows[i].at_home);
        assert_string_equal(url, rows[i].url);
    }
    assert_int_equal(fake_logged(&w->f, -1, "[KAWS-166]"), 0);
    for (i = 0; i < COUNT(rings); i++) {
        world_close(w);
        w->cfg.endpoint = rings[i].endpoint;
        w->cfg.failover_regions = rings[i].list;
        fake_forget_log(&w->f);
        world_open(w);
        assert_int_equal(fake_logged(&w->f, -1, "[KAWS-166]"), rings[i].lines);
    }
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_switches), TEST(test_endpoints), TEST(test_wrong_endpoints),
        TEST(test_doubts), TEST(test_a_ring),
        TEST(test_a_ring_without_fips_hosts), TEST(test_a_route),
        TEST(test_urls_of_the_list)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
