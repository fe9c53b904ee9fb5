/* Room trust: whose KMS keys are used, and which one seals. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "keys.h"

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
    cfg.data_file = "somewhere";
    cfg.kms_key_id = key_id;
    cfg.accounts = accounts;
    assert_int_equal(kaws__trust_open(t, &fake_plain, &cfg, &err), KAWS_OK);
}


/* The own account must be that of the ARN; "" is none. */
static void
expect_own(const kaws__trust *t, const char *arn)
{
    char whose[KAWS__TRUST_WHOSE];

    kaws__trust_whose(whose, kaws__buf_of(arn));
    if (strcmp(t->own, whose) != 0)
        fail_msg("%s: '%s' for '%s'", world_case, t->own, whose);
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
    { "alias/a", OWN, CN(OWN), 0, 1 },    /* a reply would be from there      */
    { NULL, OWN, CN(OWN), 1, 1 },
    { NULL, OWN, EAST(OTHER), 0, 0 },
    { EAST(OWN), NULL, EAST(OWN), 1, 1 },
    { "arn:aws:kms:us-east-1:" OWN ":alias/a", NULL, EAST(OWN), 1, 1 },
    { "arn:aws:kms:us-east-1:" OWN ":alias/a", NULL, EAST(OTHER), 0, 0 },
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
test_whose_kms_keys_are_trusted(void **state)
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
            expect_own(&t, own ? checks[i].key_id
                       : trusted && what == KAWS__SEALED ? checks[i].arn : "");
            kaws__trust_close(&t);
        }
}


static void
test_which_lists_are_refused(void **state)
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


static const char *const arns[] = { CN(OWN), EAST(OWN), EAST(OTHER),
                                    EAST(THIRD) };

/* A ring whose file has entries of the accounts '1' to '3', or '0', which is
 * OWN in another partition; and of as many more accounts as there are dots. */
static void
open_with_entries(kaws__trust *t, const char *key_id, const char *accounts,
                  const char *entries)
{
    char arn[] = EAST("900000000000"), list[KAWS__TRUST_LIST] = "";
    int more = 0;

    open_trust(t, key_id, accounts);
    for (; *entries != '\0'; entries++)
        if (*entries == '.') {
            (void)snprintf(arn, sizeof arn, EAST("9%011d"), more++);
            kaws__trust_entry(list, kaws__buf_of(arn));
        } else {
            kaws__trust_entry(list, kaws__buf_of(arns[*entries - '0']));
        }
    kaws__trust_entries(t, list);
}


/* If the settings do not say the own account, the entries limit what it may be;
 * and if the settings name no KMS key at all, they tell it if they agree. */
static void
test_entries_limit_the_own_account(void **state)
{
    static const struct {
        const char *key_id, *accounts, *entries;
        int own;                          /* which, or -1: it is unknown      */
        const char *opens, *seals;        /* whose KMS keys may               */
    } rows[] = {
        { NULL, NULL, "", -1, "", "0123" },
        { NULL, NULL, "1", 1, "1", "1" },
        { NULL, "", "2222", 2, "2", "2" },
        { NULL, NULL, "112", -1, "", "12" },
        { NULL, NULL, "121", -1, "", "12" },
        { NULL, NULL, "1211111", -1, "", "12" },
        { NULL, NULL, "123", -1, "", "123" },
        { NULL, NULL, "10", -1, "", "01" },
        { NULL, OTHER, "111", -1, "2", "2" },
        { NULL, OWN, "111", -1, "01", "01" },
        { "alias/a", NULL, "", -1, "", "0123" },
        { "alias/a", NULL, "111", -1, "", "1" },
        { "alias/a", NULL, "11211", -1, "", "12" },
        { "alias/a", "", "0", -1, "", "0" },
        { "alias/a", OWN, "222", -1, "1", "01" },
        { "00000009-aaaa", NULL, "2", -1, "", "2" },
        { EAST(OTHER), NULL, "111", 2, "2", "2" },
        { EAST(OTHER), OWN, "333", 2, "12", "12" },
        /* More than can be kept are as good as none of them. */
        { "alias/a", NULL, "...................1", -1, "", "" },
        { "alias/a", NULL, "1...................", -1, "", "1" },
        { NULL, NULL, "...................1", -1, "", "" }
    };
    kaws__trust t;
    char digit[2] = "0", which[32];
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++)
        for (digit[0] = '0'; digit[0] <= '3'; digit[0]++) {
            (void)snprintf(which, sizeof which, "row %lu, account %s",
                           (unsigned long)i, digit);
            world_case = which;
            open_with_entries(&t, rows[i].key_id, rows[i].accounts,
                              rows[i].entries);
            expect_own(&t, rows[i].own < 0 ? "" : arns[rows[i].own]);
            if ((kaws__trust_check(&t, arns[digit[0] - '0'], KAWS__TO_OPEN,
                                   NULL) == KAWS_OK) !=
                (strstr(rows[i].opens, digit) != NULL))
                fail_msg("%s opens, or does not", which);
            if ((kaws__trust_check(&t, arns[digit[0] - '0'], KAWS__SEALED,
                                   NULL) == KAWS_OK) !=
                (strstr(rows[i].seals, digit) != NULL))
                fail_msg("%s seals, or does not", which);
            kaws__trust_close(&t);
        }
    world_case = "";
}


/* Once the own account is known, the entries make no other one trusted. */
static void
test_entries_do_not_change_a_known_account(void **state)
{
    kaws__trust t;

    (void)state;
    open_with_entries(&t, "alias/a", NULL, "12");
    assert_int_equal(kaws__trust_check(&t, EAST(OTHER), KAWS__SEALED, NULL),
                     KAWS_OK);
    assert_int_equal(kaws__trust_check(&t, EAST(OWN), KAWS__SEALED, NULL),
                     KAWS_FOREIGN);
    assert_int_equal(kaws__trust_check(&t, EAST(OWN), KAWS__TO_OPEN, NULL),
                     KAWS_FOREIGN);
    expect_own(&t, EAST(OTHER));
    kaws__trust_close(&t);
}


/* The text names both accounts, and says what to do. */
static void
test_a_refusal_names_both_accounts(void **state)
{
    static const struct {
        const char *key_id, *accounts, *entries, *arn;
        int what;
        const char *words;
    } rows[] = {
        { "alias/a", NULL, "1", EAST(OTHER), KAWS__SEALED,
          "AWS KMS sealed with the KMS key " EAST(OTHER) ", whose account is "
          "not among the trusted ones (aws " OWN "): if you trust that account"
          ", name the KMS key by its ARN, or add it to the list of accounts" },
        { "alias/a", NULL, "1213", CN(OWN), KAWS__SEALED,
          "trusted ones (aws " OWN ", aws " OTHER ", aws " THIRD "): if" },
        { EAST(OWN), NULL, "", EAST(OTHER), KAWS__TO_OPEN,
          "the blob was sealed by the KMS key " EAST(OTHER) ", whose account "
          "is not among the trusted ones (aws " OWN "): if you trust that "
          "account, add it to the list of accounts" },
        { EAST(OWN), THIRD, "", EAST(OTHER), KAWS__TO_SEAL,
          "(aws " OWN ", " THIRD "): if you trust that account, add" },
        { "alias/a", OWN "," THIRD, "", EAST(OTHER), KAWS__SEALED,
          "(" OWN "," THIRD "): if you" },
        { NULL, NULL, "12", EAST(OWN), KAWS__TO_OPEN, "(none): if you" },
        { NULL, NULL, "", EAST(OWN), KAWS__TO_OPEN, "(none): if you" }
    };
    kaws__trust t;
    kaws_error err;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        open_with_entries(&t, rows[i].key_id, rows[i].accounts,
                          rows[i].entries);
        expect_at(__LINE__, &err, kaws__trust_check(&t, rows[i].arn,
                                                    rows[i].what, &err),
                  KAWS_FOREIGN, rows[i].words);
        kaws__trust_close(&t);
    }
}


/* An account that is known only by the credentials is logged, once. */
static void
test_the_first_account_is_logged(void **state)
{
    static const struct {
        const char *data_file, *key_id, *accounts;
        int entry, told;
    } rows[] = {
        { "f", "alias/a", NULL, 0, 1 }, { "f", NULL, "", 0, 1 },
        { "f", "alias/a", NULL, 1, 0 }, { "f", NULL, NULL, 1, 0 },
        { "f", "alias/a", OWN, 0, 0 }, { "f", EAST(OWN), NULL, 0, 0 },
        { NULL, "alias/a", NULL, 0, 0 }   /* there is nothing to protect      */
    };
    struct world *w = *state;
    char list[KAWS__TRUST_LIST] = "";
    kaws__trust t;
    size_t i;
    int n;

    for (i = 0; i < COUNT(rows); i++) {
        w->cfg.data_file = rows[i].data_file;
        w->cfg.kms_key_id = rows[i].key_id;
        w->cfg.accounts = rows[i].accounts;
        memset(&t, 0, sizeof t);
        OK(w, kaws__trust_open(&t, &w->f.hooks, &w->cfg, &w->err));
        list[0] = '\0';
        if (rows[i].entry)
            kaws__trust_entry(list, kaws__buf_of(EAST(OWN)));
        kaws__trust_entries(&t, list);
        fake_forget_log(&w->f);
        (void)kaws__trust_check(&t, EAST(OWN), KAWS__TO_SEAL, NULL);
        assert_int_equal(fake_logged(&w->f, -1, ""), 0);
        for (n = 0; n < 3; n++)
            OK(w, kaws__trust_check(&t, EAST(OWN), KAWS__SEALED, &w->err));
        if (fake_logged(&w->f, 2, "is trusted from here on, " OWN " (") !=
            rows[i].told || fake_logged(&w->f, -1, "") != rows[i].told)
            fail_msg("row %lu", (unsigned long)i);
        kaws__trust_close(&t);
    }
}


/* Whether KMS must be asked for the own account first. */
static void
test_when_kms_is_asked_first(void **state)
{
    static const struct { const char *key_id, *accounts; int ask; } rows[] = {
        { NULL, NULL, 0 },                /* there is nothing to ask with     */
        { EAST(OWN), NULL, 0 },           /* it is known                      */
        { "alias/a", NULL, 1 }, { "alias/a", "", 1 },
        { "alias/a", OWN, 0 }             /* the list says all                */
    };
    kaws__trust t;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        open_with_entries(&t, rows[i].key_id, rows[i].accounts, "1");
        if (kaws__trust_ask_first(&t, &t.now.target) != rows[i].ask)
            fail_msg("row %lu", (unsigned long)i);
        (void)kaws__trust_check(&t, EAST(OWN), KAWS__SEALED, NULL);
        assert_false(kaws__trust_ask_first(&t, &t.now.target));
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
test_a_choice_counts_unless_it_is_stale(void **state)
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
    expect_own(&t, "");
    assert_false(kaws__trust_choose_tried(&t, "alias/b", "eu-west-2"));
    assert_false(kaws__trust_choose_tried(&t, "alias/a", "eu-west-1"));
    assert_true(kaws__trust_choose_tried(&t, "alias/a", "eu-west-2"));
    expect_now(&t, "alias/a", "eu-west-2", "eu-west-2");
    expect_own(&t, EAST(OWN));
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


/* If an alias comes to mean a different KMS key, one line is logged, and only
 * if that alias is in use. */
static void
test_a_moved_alias_is_logged_once(void **state)
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
    t.hooks = &w->f.hooks;
    for (i = 0; i < COUNT(rows); i++) {
        assert_int_equal(kaws__arn_target(&target, rows[i].id, rows[i].region,
                                          NULL), KAWS_OK);
        fake_forget_log(&w->f);
        kaws__trust_notice(&t, &target, rows[i].arn);
        if (fake_logged(&w->f, 1, "the KMS key alias/a was arn:") !=
            rows[i].told)
            fail_msg("row %lu", (unsigned long)i);
    }
    kaws__trust_close(&t);
}


/* What sealed last is known for the current choice alone. */
static void
test_what_sealed_last(void **state)
{
    static const struct { const char *id, *region; int known; } rows[] = {
        { "alias/a", "us-east-1", 1 }, { "alias/b", "us-east-1", 0 },
        { "alias/a", "us-east-2", 0 }
    };
    kaws__target target;
    kaws__trust t;
    char arn[KAWS__ARN_MAX + 1];
    size_t i;

    (void)state;
    open_trust(&t, "alias/a", NULL);
    assert_int_equal(kaws__arn_target(&target, "alias/a", "us-east-1", NULL),
                     KAWS_OK);
    memcpy(arn, "before", sizeof "before");
    kaws__trust_sealed(&t, &target, arn);
    assert_string_equal(arn, "");
    kaws__trust_notice(&t, &target, EAST(OWN));
    for (i = 0; i < COUNT(rows); i++) {
        assert_int_equal(kaws__arn_target(&target, rows[i].id, rows[i].region,
                                          NULL), KAWS_OK);
        memcpy(arn, "before", sizeof "before");
        kaws__trust_sealed(&t, &target, arn);
        assert_string_equal(arn, rows[i].known ? EAST(OWN) : "");
    }
    kaws__trust_close(&t);
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whose_kms_keys_are_trusted),
        cmocka_unit_test(test_which_lists_are_refused),
        cmocka_unit_test(test_entries_limit_the_own_account),
        cmocka_unit_test(test_entries_do_not_change_a_known_account),
        cmocka_unit_test(test_a_refusal_names_both_accounts),
        cmocka_unit_test(test_when_kms_is_asked_first),
        cmocka_unit_test_setup_teardown(test_the_first_account_is_logged,
                                        world_begin, world_end),
        cmocka_unit_test(test_a_choice_counts_unless_it_is_stale),
        cmocka_unit_test_setup_teardown(test_a_moved_alias_is_logged_once,
                                        world_begin, world_end),
        cmocka_unit_test(test_what_sealed_last)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
