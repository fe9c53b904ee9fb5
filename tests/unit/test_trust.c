/* Room trust: whose KMS keys are obeyed, and which one seals. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "world.h"

#define EAST(account) "arn:aws:kms:us-east-1:" account ":key/x"
#define CN(account)   "arn:aws-cn:kms:cn-north-1:" account ":key/x"
#define OWN   "111122223333"
#define OTHER "444455556666"
#define THIRD "777788889999"


static void
open_trust(kaws__trust *t, const char *key_id, const char *accounts)
{
    kaws_config cfg;
    kaws_error err;

    memset(&cfg, 0, sizeof cfg);
    memset(t, 0, sizeof *t);
    cfg.kms_key_id = key_id;
    cfg.accounts = accounts;
    assert_int_equal(kaws__trust_open(t, &cfg, &err), KAWS_OK);
}


/* Who is trusted, by the KMS key and the accounts of the settings: to open a
 * blob, and to seal. */
static const struct {
    const char *key_id, *accounts, *arn;
    int opens, seals;
} checks[] = {
    { "alias/a", NULL, EAST(OWN), 0, 1 },
    { "alias/a", "", EAST(OWN), 0, 1 },
    { NULL, NULL, EAST(OWN), 0, 1 },
    { "alias/a", OWN, EAST(OWN), 1, 1 },
    { "alias/a", OWN, EAST(OTHER), 0, 0 },
    { "alias/a", OWN, CN(OWN), 1, 1 },
    { EAST(OWN), NULL, EAST(OWN), 1, 1 },
    { EAST(OWN), NULL, "arn:aws:kms:eu-west-1:" OWN ":key/y", 1, 1 },
    { EAST(OWN), NULL, EAST(OTHER), 0, 0 },
    { EAST(OWN), OTHER, EAST(OTHER), 1, 1 },
    { EAST(OWN), OTHER, EAST(OWN), 1, 1 },
    { EAST(OWN), " " OTHER " ,, " THIRD ",", EAST(THIRD), 1, 1 },
    { EAST(OWN), OTHER "," THIRD, EAST("555566667777"), 0, 0 },
    { EAST(OWN), OTHER "," THIRD, EAST("566667777888"), 0, 0 },
    { EAST(OWN), OTHER, CN(OTHER), 0, 0 },
    { EAST(OWN), NULL, CN(OWN), 0, 0 },
    { EAST(OWN), NULL, OWN, 0, 0 },
    { EAST(OWN), NULL, "", 0, 0 },
    { "alias/a", OWN, "", 0, 0 }
};


static void
test_check(void **state)
{
    kaws__trust t;
    kaws_error err;
    size_t i;
    int what;

    (void)state;
    for (i = 0; i < COUNT(checks); i++)
        for (what = KAWS__TO_OPEN; what <= KAWS__SEALED; what++) {
            int trusted = what == KAWS__TO_OPEN ? checks[i].opens
                                                : checks[i].seals;
            int own = checks[i].key_id != NULL && checks[i].key_id[1] == 'r';
            open_trust(&t, checks[i].key_id, checks[i].accounts);
            kaws__err_clear(&err);
            if ((kaws__trust_check(&t, checks[i].arn, what, &err) == KAWS_OK) !=
                trusted || err.status != (trusted ? KAWS_OK : KAWS_FOREIGN))
                fail_msg("row %lu, what %d: %s", (unsigned long)i, what,
                         err.text);
            /* Only what sealed is learned; and nothing, if that is known. */
            assert_string_equal(t.own, own ? checks[i].key_id
                                : trusted && what == KAWS__SEALED
                                ? checks[i].arn : "");
            kaws__trust_close(&t);
        }
}


static void
test_lists(void **state)
{
    static const char *const good[] = {
        "", OWN, OWN "," OTHER, " " OWN " , " OTHER " ", OWN " " OTHER ","
    };
    static const char *const bad[] = {
        " ", ",", " ,, ", "1", "11112222333", "1111222233334",
        OWN ";" OTHER, "11112222333x", "self", OWN ",4", "\xc3\xa4"
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


/* The entries tell the own account if the settings name nothing, and if they
 * all agree: '1' to '3' are the accounts, '0' is OWN in another partition. */
static void
test_entries(void **state)
{
    static const char *const arns[] = { CN(OWN), EAST(OWN), EAST(OTHER),
                                        EAST(THIRD) };
    static const struct {
        const char *key_id, *accounts, *entries;
        int own;                          /* which, or -1: it is unknown      */
    } rows[] = {
        { NULL, NULL, "", -1 }, { NULL, NULL, "1", 1 },
        { NULL, "", "2222", 2 }, { NULL, NULL, "112", -1 },
        { NULL, NULL, "121", -1 }, { NULL, NULL, "1211111", -1 },
        { NULL, NULL, "10", -1 }, { NULL, OTHER, "111", -1 },
        { NULL, OWN, "111", -1 }, { "alias/a", NULL, "111", -1 },
        { EAST(OTHER), NULL, "111", 2 }
    };
    kaws__trust t;
    const char *at;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        open_trust(&t, rows[i].key_id, rows[i].accounts);
        for (at = rows[i].entries; *at != '\0'; at++)
            kaws__trust_entry(&t, kaws__buf_of(arns[*at - '0']));
        if (strcmp(t.own, rows[i].own < 0 ? "" : arns[rows[i].own]) != 0)
            fail_msg("row %lu: %s", (unsigned long)i, t.own);
        kaws__trust_close(&t);
    }
}


/* Does KMS have to be asked for the own account first? */
static void
test_ask_first(void **state)
{
    static const struct { const char *key_id, *accounts, *arn; int ask; }
    rows[] = {
        { NULL, NULL, EAST(OWN), 0 },             /* nothing to ask with      */
        { EAST(OWN), NULL, EAST(OTHER), 0 },      /* it is known              */
        { "alias/a", NULL, EAST(OWN), 1 },
        { "alias/a", NULL, NULL, 1 },
        { "alias/a", OWN, NULL, 1 },
        { "alias/a", OWN, EAST(OWN), 0 },         /* it is listed             */
        { "alias/a", OWN, EAST(OTHER), 1 },
        { "alias/a", OWN, CN(OWN), 1 }            /* in another partition     */
    };
    kaws__trust t;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        open_trust(&t, rows[i].key_id, rows[i].accounts);
        if (kaws__trust_ask_first(&t, &t.now.target, rows[i].arn) !=
            rows[i].ask)
            fail_msg("row %lu", (unsigned long)i);
        kaws__trust_close(&t);
    }
}


/* ---- which KMS key seals ----------------------------------------------- */

static void
expect_now(kaws__trust *t, const char *key_id, const char *region,
           const char *own_region)
{
    assert_string_equal(t->now.target.key_id, key_id);
    assert_string_equal(t->now.target.region, region);
    assert_string_equal(t->now.region, own_region);
}


static void
test_choices(void **state)
{
    kaws__choice first, second;
    kaws__trust t;

    (void)state;
    open_trust(&t, NULL, NULL);
    expect_now(&t, "", "", "us-east-1");
    assert_int_equal(kaws__trust_choice(&t, NULL, "eu-west-1", &first, NULL),
                     KAWS_OK);
    assert_int_equal(kaws__trust_choice(&t, "alias/a", NULL, &second, NULL),
                     KAWS_OK);
    assert_true(kaws__trust_choose(&t, &first, 1));
    expect_now(&t, "", "", "eu-west-1");
    assert_false(kaws__trust_choose(&t, &second, 1));     /* it is stale      */
    assert_false(kaws__trust_choose(&t, &second, 0));
    assert_string_equal(t.tried.target.key_id, "");
    expect_now(&t, "", "", "eu-west-1");

    /* A choice that was only tried changes nothing until it is taken. */
    assert_int_equal(kaws__trust_choice(&t, "alias/a", "eu-west-2", &second,
                                        NULL), KAWS_OK);
    memcpy(second.arn, EAST(OWN), sizeof EAST(OWN));
    assert_true(kaws__trust_choose(&t, &second, 0));
    expect_now(&t, "", "", "eu-west-1");
    assert_string_equal(t.own, "");
    assert_false(kaws__trust_choose_tried(&t, "alias/b", "eu-west-2"));
    assert_false(kaws__trust_choose_tried(&t, "alias/a", "eu-west-1"));
    assert_true(kaws__trust_choose_tried(&t, "alias/a", "eu-west-2"));
    expect_now(&t, "alias/a", "eu-west-2", "eu-west-2");
    assert_string_equal(t.own, EAST(OWN));
    assert_false(kaws__trust_choose_tried(&t, "alias/a", "eu-west-2"));

    /* An ARN's region is its own; the region is for what comes after it. */
    assert_int_equal(kaws__trust_choice(&t, EAST(OWN), NULL, &first, NULL),
                     KAWS_OK);
    assert_true(kaws__trust_choose(&t, &first, 1));
    expect_now(&t, EAST(OWN), "us-east-1", "eu-west-2");
    assert_int_equal(kaws__trust_choice(&t, "a b", NULL, &first, NULL),
                     KAWS_ARGUMENT);
    assert_int_equal(kaws__trust_choice(&t, NULL, "", &first, NULL),
                     KAWS_ARGUMENT);
    kaws__trust_close(&t);
}


/* An alias that comes to mean another KMS key is told of once, and only if it
 * is the one in use. */
static void
test_notice(void **state)
{
    static const struct { const char *id, *region, *arn; int told; } rows[] = {
        { "alias/a", "us-east-1", EAST(OWN), 0 },
        { "alias/a", "us-east-1", EAST(OWN), 0 },
        { "alias/b", "us-east-1", EAST(OTHER), 0 },
        { "alias/a", "us-east-2", EAST(OTHER), 0 },
        { "alias/a", "us-east-1", EAST(OTHER), 1 },
        { "alias/a", "us-east-1", EAST(OTHER), 0 },
        { "alias/a", "us-east-1", EAST(OWN), 1 }
    };
    struct world *w = *state;
    kaws__target target;
    kaws__trust t;
    size_t i;

    open_trust(&t, "alias/a", NULL);
    for (i = 0; i < COUNT(rows); i++) {
        assert_int_equal(kaws__arn_target(&target, rows[i].id, rows[i].region,
                                          NULL), KAWS_OK);
        fake_forget_log(&w->f);
        kaws__trust_notice(&t, &w->f.hooks, &target, rows[i].arn);
        if (fake_logged(&w->f, 1, "the KMS key alias/a was arn:") !=
            rows[i].told)
            fail_msg("row %lu", (unsigned long)i);
    }
    kaws__trust_close(&t);
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_check), cmocka_unit_test(test_lists),
        cmocka_unit_test(test_entries), cmocka_unit_test(test_ask_first),
        cmocka_unit_test(test_choices),
        cmocka_unit_test_setup_teardown(test_notice, world_begin, world_end)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
