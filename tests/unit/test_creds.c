/* Room creds: reading the credentials again, and what a signature takes. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "world.h"


static kaws_status
open_creds(struct world *w, kaws__creds *c)
{
    kaws__err_clear(&w->err);
    return kaws__creds_open(c, &w->f.hooks, w->f.conf, &w->err);
}


/* The credentials that are in use, and that nothing of the file is left. */
static void
holds(const kaws__creds *c, const char *id, const char *secret,
      const char *token)
{
    static const uint8_t zeros[KAWS__SOURCES_TEXT_MAX];

    assert_string_equal(c->secrets->signer.id, id);
    assert_string_equal(c->secrets->secret, secret);
    assert_string_equal(c->secrets->signer.token, token);
    assert_memory_equal(c->secrets->text, zeros, sizeof zeros);
}


/* ---- reading them again ------------------------------------------------ */

/* What is not good whole changes nothing. */
static void
test_reload(void **state)
{
    struct world *w = *state;
    kaws__creds c;

    EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
    fake_write_conf(&w->f, "new\nother\ntoken\n");
    EXPECT(w, KAWS_OK, NULL, kaws__creds_reload(&c, 0, &w->err));
    holds(&c, "new", "other", "token");
    fake_write_conf(&w->f, "half\n");
    EXPECT(w, KAWS_CONFIG, "line 2", kaws__creds_reload(&c, 0, &w->err));
    holds(&c, "new", "other", "token");
    kaws__err_clear(&w->err);
    assert_int_equal(unlink(w->f.conf), 0);
    EXPECT(w, KAWS_CONFIG, "No such file", kaws__creds_reload(&c, 0, &w->err));
    holds(&c, "new", "other", "token");
    kaws__err_clear(&w->err);
    assert_int_equal(c.secrets->signer.generation, 2);
    fake_write_conf(&w->f, "third\nsecret\n");
    EXPECT(w, KAWS_OK, NULL, kaws__creds_reload(&c, 0, &w->err));
    holds(&c, "third", "secret", "");     /* the old token is gone           */
    assert_int_equal(c.secrets->signer.generation, 3);
    kaws__creds_close(&c);
    assert_null(c.secrets);
    kaws__creds_close(&c);
}


/* AWS refused a generation: the file is read if that is the present one, and
 * until it is good. */
static void
test_refresh(void **state)
{
    struct world *w = *state;
    kaws__creds c;

    EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
    assert_int_equal(kaws__creds_refresh(&c, 1), 0);
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);
    fake_write_conf(&w->f, "new\n");
    assert_int_equal(kaws__creds_refresh(&c, 1), 0);
    assert_int_equal(kaws__creds_refresh(&c, 1), 0);    /* tried again        */
    assert_int_equal(fake_logged(&w->f, 1, "line 2"), 2);
    holds(&c, FAKE_ID, FAKE_SECRET, "");
    fake_write_conf(&w->f, "new\nwhole\n");
    assert_int_equal(kaws__creds_refresh(&c, 1), 1);
    assert_int_equal(fake_logged(&w->f, 2, "newer ones"), 1);
    holds(&c, "new", "whole", "");

    /* A refusal of an older generation finds it done. */
    fake_write_conf(&w->f, "not read\n");
    assert_int_equal(kaws__creds_refresh(&c, 1), 1);
    assert_int_equal(fake_logged(&w->f, -1, ""), 3);
    holds(&c, "new", "whole", "");
    kaws__creds_close(&c);
}


static void *
refresh_thread(void *arg)
{
    kaws__creds *c = arg;

    assert_int_equal(kaws__creds_refresh(c, 1), 1);
    return NULL;
}


/* Of many threads that were refused, one reads. */
static void
test_refresh_once_for_all(void **state)
{
    struct world *w = *state;
    pthread_t threads[8];
    kaws__creds c;
    size_t i;

    EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
    assert_int_equal(c.secrets->signer.generation, 1);
    fake_write_conf(&w->f, "new\nsecret\n");
    for (i = 0; i < COUNT(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, refresh_thread, &c),
                         0);
    for (i = 0; i < COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(c.secrets->signer.generation, 2);
    kaws__creds_close(&c);
}


/* ---- what a signature takes -------------------------------------------- */

/* The signing key, made step by step as AWS's page says. */
static void
expect_key(const kaws__mac_key *key, const char *secret, const char *date,
           const char *region)
{
    uint8_t want[32], got[32];
    kaws_bytes running = { want, 32 };
    char first[300];

    (void)snprintf(first, sizeof first, "AWS4%s", secret);
    kaws__crypto_hmac(want, kaws__buf_of(first), kaws__buf_of(date));
    kaws__crypto_hmac(want, running, kaws__buf_of(region));
    kaws__crypto_hmac(want, running, kaws__buf_of("kms"));
    kaws__crypto_hmac(want, running, kaws__buf_of("aws4_request"));
    kaws__crypto_hmac(want, running, kaws__buf_of("signed"));
    kaws__crypto_mac(got, key, kaws__buf_of("signed"));
    assert_memory_equal(got, want, 32);
}


/* The key follows the day, the region and the secret. */
static void
test_signer(void **state)
{
    static const struct { const char *conf, *date, *region, *secret; } rows[] =
    {
        { "id1\nfirst\ntoken\n", "20261118T110640Z", "eu-west-1", "first" },
        { NULL, "20261118T235959Z", "eu-west-1", "first" },
        { NULL, "20261119T000000Z", "eu-west-1", "first" },
        { NULL, "20261119T000000Z", "us-gov-west-1", "first" },
        { "id2\nsecond\n", "20261119T000000Z", "us-gov-west-1", "second" }
    };
    static const uint8_t zeros[offsetof(kaws__signer, token) + 5];
    struct world *w = *state;
    kaws__creds c;
    kaws__signer s;
    size_t i;

    EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
    for (i = 0; i < COUNT(rows); i++) {
        char day[9] = "";
        if (rows[i].conf != NULL) {
            fake_write_conf(&w->f, rows[i].conf);
            EXPECT(w, KAWS_OK, NULL, kaws__creds_reload(&c, 0, &w->err));
        }
        kaws__creds_signer(&c, rows[i].date, rows[i].region, &s);
        memcpy(day, rows[i].date, 8);
        expect_key(&s.key, rows[i].secret, day, rows[i].region);
        assert_string_equal(s.id, i < 4 ? "id1" : "id2");
        assert_string_equal(s.token, i < 4 ? "token" : "");
        assert_int_equal(s.generation, i < 4 ? 2 : 3);
        kaws__creds_wipe(&s);
        assert_memory_equal(&s, zeros, sizeof zeros - (i < 4 ? 0 : 5));
    }
    kaws__creds_close(&c);
}


/* ---- what a text may not hold ------------------------------------------ */

/* A piece of the secret or of the token, but not of the id; in any case, and
 * with anything in between. The creds that count are the newest. */
static void
test_what_is_in_a_text(void **state)
{
    static const struct { const char *text; int is; } cases[] = {
        { "", 0 }, { "id AKIAFAKEFAKEFAKEFAKE", 0 }, { "sEcReT/fAk", 1 },
        { "the secret f-a-k-e", 1 }, { "sEcReT/f", 0 }, { "KLMNOPQR", 1 },
        { "a\\x0ab bcdefghi\\x0aj", 1 }, { "TOKEN+of/a", 1 },
        { "a token of A", 1 }, { "a token of", 0 }, { "session=12345678", 1 }
    };
    struct world *w = *state;
    kaws__creds c;
    size_t i;

    fake_write_conf(&w->f, FAKE_ID "\n" FAKE_SECRET "\n"
                    "Token/of+a/Session==12345678\n");
    EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
    for (i = 0; i < COUNT(cases); i++)
        if (kaws__creds_leak_in(&c, kaws__buf_of(cases[i].text)) != cases[i].is)
            fail_msg("%s", cases[i].text);
    fake_write_conf(&w->f, FAKE_ID "\nAnother/Secret\n");
    EXPECT(w, KAWS_OK, NULL, kaws__creds_reload(&c, 0, &w->err));
    assert_false(kaws__creds_leak_in(&c, kaws__buf_of("Token/of+a/Session")));
    assert_false(kaws__creds_leak_in(&c, kaws__buf_of(FAKE_SECRET)));
    assert_true(kaws__creds_leak_in(&c, kaws__buf_of("another secret")));
    kaws__creds_close(&c);
}


int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, world_begin, world_end)
    const struct CMUnitTest tests[] = {
        TEST(test_reload),
        TEST(test_refresh),
        TEST(test_refresh_once_for_all),
        TEST(test_signer),
        TEST(test_what_is_in_a_text)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
