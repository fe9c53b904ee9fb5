/* Room kms: what each action sends, and which replies are believed. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "world.h"


/* ---- what is sent ------------------------------------------------------ */

static const kaws_pair pairs[] = { { "app", "a\"b\\\n" },
                                   { "\xc3\xa4", "\xe2\x82\xac" } };
static const kaws_context context = { pairs, 2 };

#define CONTEXT "{\"app\":\"a\\\"b\\\\\\u000a\",\"\xc3\xa4\":\"\xe2\x82\xac\"}"

static const kaws_bytes digits = { (const uint8_t *)"0123456789abcdef", 16 };
static uint8_t plain_room[64];
static kaws_sealed sealed_room, good;     /* what a call gave; a good blob    */
static size_t spaces;                     /* at the end of the last body      */


static int
watch(void *ctx, const kaws_request *q, kaws_reply *r)
{
    for (spaces = 0; q->body.at[q->body.len - 1 - spaces] == ' '; spaces++)
        continue;
    return fake_send(ctx, q, r);
}


/* The letter is an action's: see below. */
static kaws_status
act(struct world *w, char letter)
{
    size_t len = 16;

    if (letter == 'G' || letter == 'e')
        memset(plain_room, 0x77, sizeof plain_room);
    switch (letter) {
    case 'g':
    case 'G':
        return kaws_kms_generate_data_key(w->ring, &context, 16, letter == 'G'
                                          ? plain_room : NULL, &sealed_room,
                                          &w->err);
    case 'E':
        return kaws_kms_encrypt(w->ring, &context, digits, &sealed_room,
                                &w->err);
    case 'e':
        return kaws_kms_decrypt(w->ring, &context, &good, plain_room, &len,
                                &w->err);
    case 'R':
        return kaws_kms_reencrypt(w->ring, &context, &good, &sealed_room,
                                  &w->err);
    default:
        return kaws_rotate_kms_key(w->ring, &w->err);
    }
}


/* In the body, @ stands for the blob. */
static const struct action {
    char        letter;
    const char *name, *body;
} actions[] = {
    { 'g', "GenerateDataKeyWithoutPlaintext",
      "{\"KeyId\":\"" FAKE_EAST "\",\"NumberOfBytes\":16,"
      "\"EncryptionContext\":" CONTEXT "}" },
    { 'G', "GenerateDataKey",
      "{\"KeyId\":\"" FAKE_EAST "\",\"NumberOfBytes\":16,"
      "\"EncryptionContext\":" CONTEXT "}" },
    { 'E', "Encrypt",
      "{\"KeyId\":\"" FAKE_EAST "\",\"Plaintext\":"
      "\"MDEyMzQ1Njc4OWFiY2RlZg==\",\"EncryptionContext\":" CONTEXT "}" },
    { 'e', "Decrypt",
      "{\"KeyId\":\"" FAKE_EAST "\",\"CiphertextBlob\":\"@\","
      "\"EncryptionContext\":" CONTEXT "}" },
    { 'R', "ReEncrypt",
      "{\"DestinationKeyId\":\"" FAKE_EAST "\",\"CiphertextBlob\":\"@\","
      "\"SourceKeyId\":\"" FAKE_EAST "\",\"SourceEncryptionContext\":" CONTEXT
      ",\"DestinationEncryptionContext\":" CONTEXT "}" },
    { 'r', "RotateKeyOnDemand", "{\"KeyId\":\"" FAKE_EAST "\"}" }
};


/* A ring without a data file, and a good blob to open. */
static int
begin(void **state)
{
    struct world *w;

    if (world_begin_bare(state) != 0)
        return 1;
    w = *state;
    w->cfg.hooks.send = watch;
    world_reopen(w);
    EXPECT(w, KAWS_OK, NULL, act(w, 'E'));
    good = sealed_room;
    return 0;
}


/* The body of every action, byte for byte. That the request is well signed is
 * the fake's to say. */
static void
test_bodies(void **state)
{
    struct world *w = *state;
    kaws_bytes view = { good.blob, good.blob_len };
    char want[4096], blob[1024];
    size_t i;

    w->f.hides_material = 1;              /* the rotation is the last request */
    fake_base64(blob, view);
    for (i = 0; i < COUNT(actions); i++) {
        const char *at = strchr(actions[i].body, '@');
        int before = fake_calls(&w->f, actions[i].name);
        int n = at != NULL ? (int)(at - actions[i].body)
                           : (int)strlen(actions[i].body);
        (void)snprintf(want, sizeof want, "%.*s%s%s", n, actions[i].body,
                       at != NULL ? blob : "", at != NULL ? at + 1 : "");
        EXPECT(w, KAWS_OK, NULL, act(w, actions[i].letter));
        assert_string_equal(w->f.body, want);
        assert_int_equal(fake_calls(&w->f, actions[i].name), before + 1);
        assert_int_equal(spaces, strcmp(actions[i].name, "Encrypt") == 0
                         ? strlen(want) + KAWS__CALLS_SPACES : 0);
    }
    assert_memory_equal(plain_room, digits.at, 16);
    EXPECT(w, KAWS_OK, NULL, kaws_kms_generate_data_key(
        w->ring, NULL, 1024, NULL, &sealed_room, &w->err));
    assert_string_equal(w->f.body, "{\"KeyId\":\"" FAKE_EAST
                        "\",\"NumberOfBytes\":1024}");
    assert_string_equal(sealed_room.kms_key_arn, FAKE_EAST);
    assert_string_equal(sealed_room.key_material_id, "");
    EXPECT(w, KAWS_OK, NULL, kaws_check(w->ring, &w->err));
    assert_non_null(strstr(w->f.body, "{\"app\":\"keyring_aws\"}"));
    assert_non_null(strstr(w->f.body, ",\"DryRun\":true}"));
}


/* ---- dry runs, rotations, regions -------------------------------------- */

#define DRY "{\"__type\":\"DryRunOperationException\"}"
#define ANOTHER "{\"KeyId\":\"" FAKE_EAST2 "\",\"Plaintext\":\"AA==\"}"

/* What kaws_check makes of an answer to its dry run. A 200 counts as another
 * request's: KMS is asked once more, over a fresh connection. A second one must
 * fit the key. */
static void
test_dry_run(void **state)
{
    static const struct {
        fake_script script;
        kaws_status status;
        const char *words;
        int requests, fresh;
    } rows[] = {
        { { .cut = 9999 }, KAWS_OK, NULL, 2, 0 },             /* the truth    */
        { { .http = 412, .body = DRY }, KAWS_OK, NULL, 2, 0 },
        { { .http = 500, .body = DRY }, KAWS_REPLY, "HTTP 500", 2, 0 },
        { { .error = "AccessDeniedException" }, KAWS_DENIED, "refused Decrypt",
          2, 0 },
        { { .error = "InvalidCiphertextException" }, KAWS_REPLY,
          "asked to seal", 2, 0 },
        { { .body = ANOTHER }, KAWS_OK, NULL, 3, 1 },
        { { .body = "<html>" }, KAWS_OK, NULL, 3, 1 },
        { { .body = ANOTHER, .times = 2 }, KAWS_REPLY, "KeyId is not", 3, 1 },
        { { .body = "<html>", .times = 2 }, KAWS_REPLY, "makes no sense", 3,
          1 },
        { { .body = "{\"KeyId\":\"" FAKE_EAST "\",\"Plaintext\":\"AAA=\"}",
            .times = 2 }, KAWS_REPLY, "asked to seal", 3, 1 }
    };
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        fake_script script = rows[i].script;
        script.action = "Decrypt";
        w->f.requests = 0;
        fake_push(&w->f, script);
        EXPECT(w, rows[i].status, rows[i].words, kaws_check(w->ring, &w->err));
        if (w->f.requests != rows[i].requests ||
            w->f.fresh_connection != rows[i].fresh)
            fail_msg("row %lu: %d requests", (unsigned long)i, w->f.requests);
    }
    assert_int_equal(fake_logged(&w->f, -1, "dry run"), 0);
    w->f.knows_no_dry_run = 1;
    w->f.requests = 0;
    EXPECT(w, KAWS_OK, NULL, kaws_check(w->ring, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_check(w->ring, &w->err));
    assert_int_equal(w->f.requests, 6);
    assert_int_equal(fake_logged(&w->f, 2, "knows no dry run"), 1);
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
        { { .lost = 1 }, KAWS_NETWORK, 1 }, { { .same_id = 1 }, KAWS_REPLY, 1 },
        { { .http = 503, .body = "" }, KAWS_SERVICE, 1 },
        { { .http = 200, .body = "<html>" }, KAWS_REPLY, 1 },
        { { .error = "LimitExceededException" }, KAWS_SERVICE, 1 },
        { { .error = "ThrottlingException" }, KAWS_OK, 2 },
        { { .http = 429, .body = "" }, KAWS_OK, 2 }
    };
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        fake_script script = rows[i].script;
        int before = fake_calls(&w->f, "RotateKeyOnDemand");
        script.action = "RotateKeyOnDemand";
        fake_write_conf(&w->f, i % 2 ? FAKE_ID "\n" FAKE_SECRET "\n"
                                     : FAKE_ID "\n" FAKE_SECRET "\n\n");
        w->f.kms_ahead_ms = (int64_t)i % 2 * 290000;
        w->f.fresh_connection = 0;
        fake_push(&w->f, script);
        LATER(w);
        EXPECT(w, rows[i].status, NULL, act(w, 'r'));
        assert_int_equal(fake_calls(&w->f, "RotateKeyOnDemand") - before,
                         rows[i].sent);
        assert_true(rows[i].status == KAWS_OK || w->f.fresh_connection);
    }
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
        { { .error = "Throttling", .times = 99 }, KAWS_THROTTLED },
        { { .no_reply = "no such host", .times = 3 }, KAWS_NETWORK },
        { { .http = 503, .body = "", .times = 3 }, KAWS_SERVICE },
        { { .error = "Throttling" }, KAWS_DENIED }        /* then a proxy's   */
    };
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        kaws__op op = kaws__op_begin(&w->ring->kms, &w->err);
        memcpy(op.target.region, "ap-south-1", sizeof "ap-south-1");
        fake_push(&w->f, rows[i].script);
        if (i + 1 == COUNT(rows))
            SAY(w, .body = "<html>", .http = 403);
        kaws__err_clear(&w->err);
        EXPECT(w, rows[i].status, NULL, kaws__kms_ask_region(&op));
        assert_string_equal(w->f.url, "https://kms.ap-south-1.amazonaws.com/");
        LATER(w);                         /* the truth makes the host well    */
        SAY_NO_MORE(w);
        if (rows[i].status == KAWS_NETWORK || rows[i].status == KAWS_SERVICE)
            EXPECT(w, KAWS_OK, NULL, kaws__kms_ask_region(&op));
    }
}


/* ---- which replies are believed ---------------------------------------- */

#define BLOB  "\"CiphertextBlob\":\""
#define KEY   "\"KeyId\":\"" FAKE_EAST "\""
#define PLAIN "\"Plaintext\":\""
#define SOURCE "\"SourceKeyId\":\"" FAKE_EAST "\""
#define EXTRA "\"Extra\":\""
#define LONG "0123456789012345678901234567890123456789012345678901234567890123"


/* The action is answered with that, takes it for nonsense, tries no more, and
 * leaves no plaintext; and nothing is learned. */
static void
expect_nonsense(struct world *w, const struct action *a, fake_script script,
                const char *words)
{
    static const uint8_t zeros[16];
    int before;

    w->f.keys[0].rotations = 0;
    (void)kaws_use_kms_key(w->ring, FAKE_EAST, NULL);
    before = fake_calls(&w->f, a->name);
    script.action = a->name;
    fake_push(&w->f, script);
    if (act(w, a->letter) != KAWS_REPLY || w->err.status != KAWS_REPLY ||
        strstr(w->err.text, words) == NULL)
        fail_msg("%s: %s -> %s (cut at %lu, '%.40s'): %s", a->name,
                 script.from ? script.from : "", script.to ? script.to : "",
                 (unsigned long)script.cut, script.body ? script.body : "",
                 w->err.text);
    assert_int_equal(fake_calls(&w->f, a->name), before + 1);
    if (a->letter == 'G' || a->letter == 'e')
        assert_memory_equal(plain_room, zeros, 16);
    assert_string_equal(w->ring->kms.trust.now.arn, FAKE_EAST);
    SAY_NO_MORE(w);
}


/* Bodies that are no object, or no good one; nested as deeply as a reply's room
 * allows; and too long for it. */
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
        "{\"KeyId\":true}", "{\"KeyId\":\"a\",\"KeyId\":\"a\"}", "{}", " ", ""
    };
    static char deep[16384], longest[16386];
    struct world *w = *state;
    const struct action *a;
    size_t i;

    memset(deep, '[', sizeof deep - 1);
    memcpy(deep, "{\"a\":", 5);
    memset(longest, ' ', sizeof longest - 1);
    longest[0] = '{';
    for (a = actions; a < actions + COUNT(actions); a++) {
        for (i = 0; i < COUNT(bodies); i++)
            expect_nonsense(w, a, (fake_script){ .body = bodies[i] },
                            "makes no sense");
        expect_nonsense(w, a, (fake_script){ .body = "{\0}", .body_len = 3 },
                        "makes no sense");
        expect_nonsense(w, a, (fake_script){ .body = deep },
                        "nested too deeply");
        for (i = 0; i < 2; i++)
            expect_nonsense(w, a, (fake_script){ .body = longest,
                                                 .http = i ? 400 : 0 },
                            "longer than 16384 bytes");
        expect_nonsense(w, a, (fake_script){ .body = longest,
                                             .body_len = 16384 },
                        "at byte 16384");
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
    { "G", PLAIN, PLAIN "AAAA\"," EXTRA, "does not have the length" },
    { "G", PLAIN, PLAIN "AAAAAAAAAAAAAAAAAAAAAAAA\"," EXTRA,
      "too long" },

    { "R", SOURCE, EXTRA "\"", "SourceKeyId is not" },
    { "R", SOURCE, "\"SourceKeyId\":\"" FAKE_EAST2 "\"", "SourceKeyId is not" },
    { "R", SOURCE, "\"SourceKeyId\":\"\"", "SourceKeyId is not" },
    { "R", SOURCE, "\"SourceKeyId\":3", "a string was expected" }
};


/* Each of these, and a good reply that ends too early, wherever that is. */
static void
test_bent_replies(void **state)
{
    struct world *w = *state;
    size_t i, k, len;

    for (k = 0; k < COUNT(actions); k++) {
        for (i = 0; i < COUNT(bent); i++)
            if (strchr(bent[i].actions, actions[k].letter) != NULL)
                expect_nonsense(w, &actions[k],
                                (fake_script){ .from = bent[i].from,
                                               .to = bent[i].to },
                                bent[i].words);
        EXPECT(w, KAWS_OK, NULL, act(w, actions[k].letter));
        len = k < 5 ? w->f.reply_len : strlen("{" KEY "}");
        for (i = 1; i < len; i++)
            expect_nonsense(w, &actions[k], (fake_script){ .cut = i },
                            "makes no sense");
        assert_in_range(len, 80, 1000);
    }
}


/* What we do not need may be missing, or strange, or more. A blob of 6144 bytes
 * is taken, one of 6145 is not. */
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
    static char body[9000];
    struct world *w = *state;
    size_t i, n = strlen("{" BLOB);

    for (i = 0; i < COUNT(rows); i++) {
        SAY(w, .from = rows[i].from, .to = rows[i].to);
        EXPECT(w, KAWS_OK, NULL, act(w, 'g'));
        assert_int_equal(strlen(sealed_room.key_material_id),
                         rows[i].has_material ? 64 : 0);
        assert_string_equal(sealed_room.kms_key_arn, FAKE_EAST);
    }
    SAY(w, .action = "RotateKeyOnDemand",         /* an id will do for this   */
        .from = FAKE_EAST, .to = "00000001-aaaa-bbbb-cccc-1234567890ab");
    EXPECT(w, KAWS_OK, NULL, act(w, 'r'));

    memcpy(body, "{" BLOB, n);
    memset(body + n, 'A', 8196);
    (void)snprintf(body + n + 8192, sizeof body - n - 8192, "\"," KEY "}");
    SAY(w, .body = body);
    EXPECT(w, KAWS_OK, NULL, act(w, 'g'));
    assert_int_equal(sealed_room.blob_len, 6144);
    (void)snprintf(body + n + 8192, sizeof body - n - 8192, "AAA=\"," KEY "}");
    SAY(w, .body = body);
    EXPECT(w, KAWS_REPLY, "too long", act(w, 'g'));
}


/* An alias may mean any key of the region, but none of a foreign account. And
 * what a reply says of the account counts only if the rest of it fits. */
static void
test_alias_of_a_foreign_account(void **state)
{
    struct world *w = *state;
    kaws__trust *t;

    w->cfg.kms_key_id = "alias/app";
    world_reopen(w);
    t = &w->ring->kms.trust;
    SAY(w, .from = PLAIN, .to = EXTRA);
    EXPECT(w, KAWS_REPLY, "Plaintext is missing", act(w, 'G'));
    assert_string_equal(t->own, "");
    EXPECT(w, KAWS_OK, NULL, act(w, 'g'));
    assert_string_equal(t->now.arn, FAKE_EAST);
    assert_string_equal(t->own, "aws " FAKE_OWN);
    SAY(w, .from = FAKE_EAST, .to = FAKE_FOREIGN);
    EXPECT(w, KAWS_FOREIGN, FAKE_FOREIGN, act(w, 'g'));
    assert_string_equal(t->now.arn, FAKE_EAST);
    SAY(w, .from = FAKE_EAST, .to = FAKE_WEST);
    EXPECT(w, KAWS_REPLY, "KeyId is not", act(w, 'g'));
    SAY(w, .from = FAKE_EAST, .to = FAKE_FOREIGN);
    EXPECT(w, KAWS_FOREIGN, NULL, act(w, 'G'));
    assert_int_equal(plain_room[0], 0);
}


/* While a KMS key is only tried, what it tells of accounts is believed by the
 * trial, and by nobody else: not by a fetch in the middle of it, and not after.
 */
static void
fetch_in_between(struct fake *f, const char *action)
{
    kaws_key key;

    if (strcmp(action, "Decrypt") == 0) {
        f->on_send = NULL;
        assert_int_equal(kaws_fetch(f->user, name_of("a", NULL), &key, NULL),
                         KAWS_FOREIGN);
    }
}


static void
test_a_trial_teaches_nothing(void **state)
{
    struct world *w = *state;

    w->cfg.data_file = w->f.data;         /* an entry of either account       */
    w->cfg.accounts = FAKE_OTHER;
    world_reopen(w);
    EXPECT(w, KAWS_OK, NULL, kaws_generate(w->ring, name_of("a", NULL), "AES",
                                           16, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_FOREIGN, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_generate(w->ring, name_of("b", NULL), "AES",
                                           16, &w->err));
    w->cfg.kms_key_id = w->cfg.accounts = NULL;   /* so nobody is trusted     */
    world_reopen(w);
    w->f.user = w->ring;
    w->f.on_send = fetch_in_between;
    EXPECT(w, KAWS_OK, NULL, kaws_try(w->ring, FAKE_EAST, NULL, &w->err));
    assert_null(w->f.on_send);
    assert_string_equal(w->ring->kms.trust.own, "");
}


/* Without a first KMS key, nothing is sent for one that is not in the list. */
static void
test_nothing_is_sent_for_a_foreign_key(void **state)
{
    struct world *w = *state;

    w->cfg.kms_key_id = NULL;
    w->cfg.accounts = FAKE_OWN;
    world_reopen(w);
    w->f.requests = 0;
    EXPECT(w, KAWS_FOREIGN, "that is the KMS key",
           kaws_use_kms_key(w->ring, FAKE_FOREIGN, &w->err));
    assert_int_equal(w->f.requests, 0);
}


/* A reply to a proof may have the request id of the reply before it, and be
 * taken, because that was another region's: but no re-wrap ends well so. */
static void
test_proof_repeats_an_id(void **state)
{
    struct world *w = *state;

    w->cfg.data_file = w->f.data;
    world_reopen(w);
    EXPECT(w, KAWS_OK, NULL, kaws_generate(w->ring, name_of("a", NULL), "AES",
                                           16, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_WEST, &w->err));
    SAY(w, .action = "Decrypt", .skip = 2, .same_id = 1);
    EXPECT(w, KAWS_REPLY, "two replies to the re-wrap were the same",
           kaws_rewrap_all(w->ring, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
}


int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, world_end)
    const struct CMUnitTest tests[] = {
        TEST(test_bodies), TEST(test_dry_run), TEST(test_rotation_is_sent_once),
        TEST(test_ask_region), TEST(test_bodies_of_nonsense),
        TEST(test_bent_replies), TEST(test_what_is_tolerated),
        TEST(test_alias_of_a_foreign_account),
        TEST(test_a_trial_teaches_nothing),
        TEST(test_nothing_is_sent_for_a_foreign_key),
        TEST(test_proof_repeats_an_id)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
