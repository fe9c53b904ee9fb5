/* A ring without a data file: whatever goes wrong, no message speaks of a data
 * file, or of other things that the caller does not have. */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "unit.h"
#include "world.h"

static int told;                          /* sentences that were looked at    */


/* ---- the judge --------------------------------------------------------- */

/* Takes what a user without a data file has out of the text. */
static void
take_out(char *text, const char *word)
{
    char *at;

    while ((at = strstr(text, word)) != NULL)
        memset(at, '.', strlen(word));
}


/* Fails if the text is about keys in a keyring, or about its file. */
static void
judge(const char *text)
{
    static const char *const has[] = {
        "aws_secret_access_key", "no such key here",  /* AWS's words          */
        "kms_key_id", "kms_key_arn", "KMS keys", "KMS key", "access key",
        "key policy", "key ids", "key id", "key material", "data key", ":key/",
        "keyring_aws", "conf file", "conf_file", "ca_file", "CA file",
        "the file has to hold", "No such file"        /* what the conf file is*/
    };
    static const char *const has_not[] = {
        "keyring", "key", "Key '", "file", "entry", "entries", "that name",
        "reopen", "nothing was stored"
    };
    char rest[1200];
    size_t i;

    told++;
    (void)snprintf(rest, sizeof rest, "%s", text);
    for (i = 0; i < COUNT(has); i++)
        take_out(rest, has[i]);
    for (i = 0; i < COUNT(has_not); i++)
        if (strstr(rest, has_not[i]) != NULL)
            fail_msg("%s: '%s' in: %s", world_case, has_not[i], text);
}


/* What came of a call, and what was logged meanwhile. */
static void
judge_all(struct world *w, kaws_status status)
{
    char *line, *rest = w->f.log;

    assert_int_equal(status, w->err.status);
    if (status != KAWS_OK) {
        assert_true(w->err.text[0] != '\0');
        judge(w->err.text);
        judge(kaws_status_text(status));
    }
    while (w->f.log_len > 0 && (line = strtok_r(rest, "\n", &rest)) != NULL)
        judge(line);
    fake_forget_log(&w->f);
}


/* ---- the calls --------------------------------------------------------- */

static const kaws_pair who = { "who", "me" };
static const kaws_context context = { &who, 1 };
static kaws_sealed sealed;                /* by FAKE_EAST, with the context   */


static kaws_status
data_key(struct world *w)
{
    kaws_sealed out;
    uint8_t plain[16];

    return kaws_kms_generate_data_key(w->ring, &context, 16, plain, &out,
                                      &w->err);
}


static kaws_status
encrypt(struct world *w)
{
    kaws_sealed out;

    return kaws_kms_encrypt(w->ring, &context, kaws__buf_of("plain"), &out,
                            &w->err);
}


static kaws_status
decrypt(struct world *w)
{
    uint8_t plain[16];
    size_t len = sizeof plain;

    return kaws_kms_decrypt(w->ring, &context, &sealed, plain, &len, &w->err);
}


static kaws_status
decrypt_no_arn(struct world *w)
{
    kaws_sealed in = sealed;
    uint8_t plain[16];
    size_t len = sizeof plain;

    in.kms_key_arn[0] = '\0';
    return kaws_kms_decrypt(w->ring, &context, &in, plain, &len, &w->err);
}


static kaws_status
reencrypt(struct world *w)
{
    kaws_sealed out;

    return kaws_kms_reencrypt(w->ring, &context, &sealed, &out, &w->err);
}


static kaws_status
check(struct world *w)
{
    return kaws_check(w->ring, &w->err);
}


static kaws_status
rotate(struct world *w)
{
    return kaws_rotate_kms_key(w->ring, &w->err);
}


static kaws_status
use(struct world *w)
{
    return kaws_use(w->ring, FAKE_EAST2, "us-east-1", &w->err);
}


static kaws_status
use_alias(struct world *w)
{
    return kaws_use_kms_key(w->ring, "alias/two", &w->err);
}


static kaws_status
use_region(struct world *w)
{
    return kaws_use_region(w->ring, "us-west-2", &w->err);
}


static kaws_status
try_foreign(struct world *w)
{
    return kaws_try(w->ring, FAKE_FOREIGN, NULL, &w->err);
}


static kaws_status
could_use(struct world *w)
{
    return kaws_could_use(w->ring, FAKE_FOREIGN, "us-east-1", &w->err);
}


static kaws_status
reload(struct world *w)
{
    return kaws_reload_creds(w->ring, &w->err);
}


static const struct {
    const char *name;
    kaws_status (*make)(struct world *);
} calls[] = {
    { "data key", data_key }, { "encrypt", encrypt }, { "decrypt", decrypt },
    { "decrypt without an ARN", decrypt_no_arn }, { "reencrypt", reencrypt },
    { "check", check }, { "rotate", rotate }, { "use", use },
    { "use alias", use_alias }, { "use region", use_region },
    { "try", try_foreign }, { "could use", could_use }, { "reload", reload }
};

/* How the ring is set up: by ARN, by alias, in another region (so that it does
 * not re-encrypt there), with accounts, without a KMS key. */
static const struct { const char *key_id, *region, *accounts; } setups[] = {
    { FAKE_EAST, NULL, NULL }, { "alias/app", NULL, NULL },
    { FAKE_WEST, "us-west-2", NULL }, { "alias/app", "us-west-2", FAKE_OTHER },
    { FAKE_FOREIGN, NULL, NULL }, { NULL, "xx-moon-1", NULL },
    { "app", "us-east-1", FAKE_OWN }
};

static const fake_script troubles[] = {
    { .http = 200 }, { .no_reply = "gone" }, { .http = 403, .body = "<html>" },
    { .http = 400, .body = "{}" }, { .http = 503, .body = "" },
    { .http = 301, .body = "" }, { .http = 200, .body = "{" },
    { .http = 200, .body = "{}" }, { .from = FAKE_OWN, .to = FAKE_OTHER },
    { .from = FAKE_EAST, .to = FAKE_EAST2 }, { .from = FAKE_EAST, .to = "x" },
    { .from = "\"Plaintext\":\"", .to = "\"Plaintext\":\"YWJj" },
    { .from = "\"CiphertextBlob\":\"", .to = "\"CiphertextBlob\":\"!" },
    { .same_id = 1 }, { .error = "DryRunOperationException" },
    { .date = 1900000000, .error = "InvalidSignatureException" }
};


static void
setup(struct world *w, size_t i)
{
    world_close(w);
    w->cfg.kms_key_id = setups[i].key_id;
    w->cfg.region = setups[i].region;
    w->cfg.accounts = setups[i].accounts;
    judge_all(w, kaws_open(&w->ring, &w->cfg, &w->err));
    assert_non_null(w->ring);
}


/* Seals what is to be opened, by FAKE_EAST. */
static int
begin(void **state)
{
    struct world *w;

    if (world_begin_bare(state) != 0)
        return 1;
    w = *state;
    EXPECT(w, KAWS_OK, NULL, kaws_kms_encrypt(w->ring, &context,
                                              kaws__buf_of("mine"), &sealed,
                                              &w->err));
    return 0;
}


/* Each call, where nothing else goes wrong, and where KMS says this or that
 * from its first, second or third reply on. */
static void
test_kms_says(void **state)
{
    struct world *w = *state;
    size_t i, k, n;
    int skip;

    for (i = 0; i < COUNT(calls) * COUNT(setups); i++) {
        world_case = calls[i / COUNT(setups)].name;
        for (n = 0; n < 3 * COUNT(troubles); n++) {
            fake_script s = troubles[n / 3];
            setup(w, i % COUNT(setups));
            skip = (int)(n % 3);
            s.skip = skip;
            s.times = 99;
            fake_push(&w->f, s);
            judge_all(w, calls[i / COUNT(setups)].make(w));
            SAY_NO_MORE(w);
        }
    }
    for (i = 0; i < COUNT(kaws__faults) * COUNT(calls); i++) {
        char names[300], *rest = names, *type;
        k = i % COUNT(calls);
        world_case = calls[k].name;
        (void)snprintf(names, sizeof names, "%s",
                       kaws__faults[i / COUNT(calls)].names);
        while ((type = strtok_r(rest, " ", &rest)) != NULL) {
            setup(w, 0);
            SAY(w, .error = type, .times = 99);
            judge_all(w, calls[k].make(w));
            SAY_NO_MORE(w);
        }
    }
}


/* Memory that runs out, and a user who cancels, at every point of each call. */
static int answers;                       /* until the user cancels           */


static int
cancelled(void *ctx)
{
    (void)ctx;
    return answers >= 0 && answers-- == 0;
}


static void
test_calls_that_end_early(void **state)
{
    struct world *w = *state;
    size_t i, n;

    w->cfg.hooks.cancelled = cancelled;
    answers = -1;
    for (i = 0; i < COUNT(calls); i++)
        for (n = 0; n < 12; n++) {
            world_case = calls[i].name;
            setup(w, 2);
            w->f.fail_nth = w->f.allocs + 1 + n;
            judge_all(w, calls[i].make(w));
            w->f.fail_nth = 0;
            answers = (int)n;
            judge_all(w, calls[i].make(w));
            answers = -1;
        }
    world_case = "opening";
    for (n = 0; n < 12; n++) {
        world_close(w);
        w->f.fail_nth = w->f.allocs + 1 + n;
        judge_all(w, kaws_open(&w->ring, &w->cfg, &w->err));
        w->f.fail_nth = 0;
    }
}


/* Settings that cannot be used. */
static void
test_settings(void **state)
{
    static const struct { const char *conf, *key_id, *region, *accounts,
                          *endpoint; } rows[] = {
        { "", NULL, NULL, NULL, NULL }, { "x\n", NULL, NULL, NULL, NULL },
        { NULL, "arn:aws:kms:x", NULL, NULL, NULL },
        { NULL, "a b", NULL, NULL, NULL }, { NULL, NULL, "x y", NULL, NULL },
        { NULL, NULL, NULL, "123", NULL },
        { NULL, NULL, NULL, NULL, "http://example.com" }
    };
    struct world *w = *state;
    kaws_config cfg;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        world_close(w);
        cfg = w->cfg;
        if (rows[i].conf != NULL)
            fake_write_conf(&w->f, rows[i].conf);
        cfg.kms_key_id = rows[i].key_id;
        cfg.region = rows[i].region;
        cfg.accounts = rows[i].accounts;
        cfg.endpoint = rows[i].endpoint;
        judge_all(w, kaws_open(&w->ring, &cfg, &w->err));
        if (w->ring == NULL)
            assert_int_equal(w->err.status, KAWS_CONFIG);
        fake_write_conf(&w->f, FAKE_ID "\n" FAKE_SECRET "\n");
    }
    cfg = w->cfg;
    cfg.conf_file = "/none";
    judge_all(w, kaws_open(&w->ring, &cfg, &w->err));
    world_close(w);
}


/* Arguments that cannot be used. */
static void
test_arguments(void **state)
{
    struct world *w = *state;
    static const kaws_pair twice[] = { { "a", "b" }, { "a", "c" } };
    static const kaws_context bad = { twice, 2 };
    kaws_sealed out, in = sealed;
    uint8_t plain[KAWS_PLAIN_MAX + 1] = { 0 };
    kaws_bytes none = { NULL, 0 }, most = { plain, sizeof plain };
    size_t len = sizeof plain, little = 1;
    kaws *r = w->ring;
    kaws_error *err = &w->err;

    judge_all(w, kaws_kms_generate_data_key(r, NULL, 1025, NULL, &out, err));
    judge_all(w, kaws_kms_generate_data_key(r, &bad, 1, NULL, &out, err));
    judge_all(w, kaws_kms_encrypt(r, NULL, none, &out, err));
    judge_all(w, kaws_kms_encrypt(r, NULL, most, &out, err));
    judge_all(w, kaws_kms_encrypt(NULL, NULL, most, &out, err));
    judge_all(w, kaws_kms_decrypt(r, &context, &in, plain, NULL, err));
    judge_all(w, kaws_kms_decrypt(r, &context, &in, plain, &little, err));
    assert_int_equal(err->status, KAWS_ARGUMENT);
    judge_all(w, kaws_kms_decrypt(r, NULL, &in, plain, &len, err));
    assert_int_equal(err->status, KAWS_MISMATCH);
    judge_all(w, kaws_kms_reencrypt(r, NULL, &in, &out, err));
    assert_int_equal(err->status, KAWS_MISMATCH);
    in.blob_len = 0;
    judge_all(w, kaws_kms_reencrypt(r, NULL, &in, &out, err));
    in.blob_len = 1;
    (void)snprintf(in.kms_key_arn, sizeof in.kms_key_arn, "alias/app");
    judge_all(w, kaws_kms_decrypt(r, NULL, &in, plain, &len, err));
    memset(in.kms_key_arn, 'a', sizeof in.kms_key_arn);
    judge_all(w, kaws_kms_decrypt(r, NULL, &in, plain, &len, err));
    judge_all(w, kaws_use_kms_key(r, NULL, err));
    judge_all(w, kaws_use_kms_key(r, "x y", err));
    judge_all(w, kaws_use_region(r, "x y", err));
    assert_true(told > 20);
}


/* What needs a data file says that there is none; no more. */
static void
test_what_needs_a_data_file(void **state)
{
    static const char want[] = "the ring has no data file: data_file has to be "
                               "set";
    struct world *w = *state;
    kaws_name a = { "a", NULL };
    kaws_entry_info info;
    kaws_walk *walk;
    kaws_key key;
    int i;

    for (i = 0; i < 2; i++) {
        EXPECT(w, KAWS_CONFIG, want, kaws_generate(w->ring, a, "AES", 16,
                                                   &w->err));
        EXPECT(w, KAWS_CONFIG, want, kaws_store(
            w->ring, a, "AES", kaws__buf_of("x"), &w->err));
        EXPECT(w, KAWS_CONFIG, want, kaws_fetch(w->ring, a, &key, &w->err));
        EXPECT(w, KAWS_CONFIG, want, kaws_remove(w->ring, a, &w->err));
        EXPECT(w, KAWS_CONFIG, want, kaws_rewrap_all(w->ring, &w->err));
        assert_string_equal(w->err.text, want);
        kaws__err_clear(&w->err);
        EXPECT(w, KAWS_OK, NULL, kaws_walk_begin(w->ring, &walk, &w->err));
        assert_false(kaws_walk_next(walk, &info));
        kaws_walk_end(walk);
        w->cfg.read_only = 1;
        world_reopen(w);
    }
    world_close(w);
    w->cfg.must_exist = 1;
    EXPECT(w, KAWS_CONFIG, "data_file is not set",
           kaws_open(&w->ring, &w->cfg, &w->err));
}


/* A rotation that takes long, and an alias that moves. */
static void
test_what_is_logged(void **state)
{
    struct world *w = *state;

    w->f.rotation_ms = 1000000;
    judge_all(w, rotate(w));
    setup(w, 1);
    judge_all(w, encrypt(w));
    SAY(w, .from = FAKE_EAST, .to = FAKE_EAST2, .times = 1);
    told = 0;
    judge_all(w, encrypt(w));
    assert_int_equal(told, 1);
    kaws_use_timeouts(w->ring, 5000, 1000);
    judge_all(w, KAWS_OK);
    assert_int_equal(told, 2);
}


#define ALONE(test) cmocka_unit_test_setup_teardown(test, begin, world_end)


int
main(void)
{
    const struct CMUnitTest tests[] = {
        ALONE(test_kms_says),
        ALONE(test_calls_that_end_early),
        ALONE(test_settings),
        ALONE(test_arguments),
        ALONE(test_what_needs_a_data_file),
        ALONE(test_what_is_logged)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
