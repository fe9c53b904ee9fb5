/* wipes.c - a recorder of wipes, for tests/test_wipes.py
 *
 *     wipes [ENDPOINT KMS_KEY]
 *
 * Runs whole operations, each with fakes of its own; with an endpoint, it runs
 * those that use the built-in sender. It is compiled with a copy of the header
 * in which WIPE replaces each call of kaws_wipe, and with gcc's hook at the end
 * of each function. It prints a line for each wipe:
 *
 *     wipe OPERATION FUNCTION BYTES WHAT
 *
 * and for each function that ended with a piece of a secret in its own frame:
 *
 *     left OPERATION FUNCTION SECRET
 *
 * At -O0 everything that a function holds is in its frame. So a "left" line
 * does not depend on what later calls happen to overwrite. The fake KMS also
 * calls our functions; these calls are left out.
 */

#define _GNU_SOURCE
#include <stddef.h>

static void wipes_wipe(const char *function, const char *what, void *at,
                       size_t len);

#define WIPE(what, len) wipes_wipe(__func__, #what, what, len)
#define KEYRING_AWS_IMPLEMENTATION
#include WIPES_HEADER
#include "../unit/fakes.h"

#define TOKEN "FwoGZXIvYXdzEXAMPLEtoken/aB3+aB4+aB5+aB6+aB7+aB8="

enum { PIECE = 12, PIECES = 4096, PLAIN = 64 };

static const char *operation;             /* NULL: nothing is recorded        */
static struct { const char *label; uint8_t bytes[PIECE]; } pieces[PIECES];
static size_t piece_count, next[PIECES], begins[65536];
static uint8_t plain[PLAIN], older[PLAIN];
static const uint8_t page_key[33] = "\x91\x3f\xa6\x07\xce\x58\x1d\xe2"
                                    "\x74\xb9\x0b\xf5\x62\xd8\x2e\x97"
                                    "\x4a\xc1\x85\x39\xfe\x10\x6d\xb4"
                                    "\x23\xea\x5c\x98\x07\xf1\x4e\xd3";


static void
wipes_wipe(const char *function, const char *what, void *at, size_t len)
{
    if (operation != NULL && at != NULL && len > 0)
        printf("wipe %s %s %lu %s\n", operation, function, (unsigned long)len,
               what);
    kaws_wipe(at, len);
}


/* ---- secrets, and the search for them ----------------------------------- */

static void
look_for(const char *label, const void *secret, size_t len)
{
    const uint8_t *at = secret;
    size_t i, n;

    for (i = 0; i + PIECE <= len && piece_count + 1 < PIECES; i++) {
        n = ++piece_count;
        pieces[n].label = label;
        memcpy(pieces[n].bytes, at + i, PIECE);
        next[n] = begins[at[i] * 256 + at[i + 1]];
        begins[at[i] * 256 + at[i + 1]] = n;
    }
}


/* A key and what HMAC makes of it; the next key is written over it. */
static void
look_for_key(uint8_t key[32], size_t len, const void *from, const char *word)
{
    br_hmac_key_context ready;
    br_hmac_context hmac;

    br_hmac_key_init(&ready, &br_sha256_vtable, from, len);
    look_for("an HMAC key's state", ready.ksi, 32);
    look_for("an HMAC key's state", ready.kso, 32);
    br_hmac_init(&hmac, &ready, 32);
    br_hmac_update(&hmac, word, strlen(word));
    br_hmac_out(&hmac, key);
    look_for("a derived key", key, 32);
}


static void
look_for_all(const char *date, const char *region)
{
    static const char start[] = "AWS4" FAKE_SECRET;
    uint8_t key[32], sts[32];
    kaws__buf text;
    size_t i;

    for (i = 0; i < PLAIN; i++)
        older[i] = (plain[i] = (uint8_t)(i * i * 37 + i * 11 + 129)) ^ 0x55;
    kaws__buf_init(&text, &fake_plain);
    for (i = 0; i < 2; i++) {
        kaws_bytes one = { i == 0 ? plain : older, PLAIN };
        text.len = 0;
        kaws__text_base64(&text, one);
        look_for("a key", one.at, one.len);
        look_for("a key in base64", text.at, text.len);
    }
    look_for("the page key", page_key, 32);
    look_for("the secret access key", FAKE_SECRET, strlen(FAKE_SECRET));
    look_for("the session token", TOKEN, strlen(TOKEN));
    look_for_key(key, sizeof start - 1, start, date);
    look_for_key(key, 32, key, region);
    memcpy(sts, key, 32);
    look_for_key(key, 32, key, "kms");
    look_for_key(key, 32, key, "aws4_request");
    look_for_key(key, 32, key, "");
    look_for_key(sts, 32, sts, "sts");
    look_for_key(sts, 32, sts, "aws4_request");
    look_for_key(sts, 32, sts, "");
    kaws__buf_free(&text);
}


static const char *
found_at(const uint8_t *at)
{
    size_t n = begins[at[0] * 256 + at[1]];

    for (; n > 0; n = next[n])
        if (memcmp(pieces[n].bytes, at, PIECE) == 0)
            return pieces[n].label;
    if (memcmp(at, "Signature=", 10) == 0 && strchr("0123456789abcdef", at[10])
        != NULL && at[10] != '\0')
        return "a signature";
    return NULL;
}


/* Clears the stack below: what others left there is not ours. */
static void
clear_stack(void)
{
    volatile char below[1 << 17];
    size_t i;

    for (i = 0; i < sizeof below; i++)
        below[i] = 0;
}


/* gcc's hooks. The frame of the function that ends lies between two frame
 * pointers; they are at a frame's high end on x86, at its low end elsewhere. */
#if defined(__x86_64__) || defined(__i386__)
enum { LOW = 0, HIGH = 1 };
#else
enum { LOW = 1, HIGH = 2 };
#endif

void __cyg_profile_func_enter(void *function, void *caller);
void __cyg_profile_func_exit(void *function, void *caller);


void
__cyg_profile_func_enter(void *function, void *caller)
{
    (void)function;
    (void)caller;
}


void
__cyg_profile_func_exit(void *function, void *caller)
{
    const uint8_t *at = (const uint8_t *)__builtin_frame_address(LOW) + 16;
    const uint8_t *end = __builtin_frame_address(HIGH);
    const char *label = NULL, *last = NULL;

    (void)caller;
    for (; operation != NULL && at + PIECE <= end; at++) {
        label = found_at(at);
        if (label != NULL && label != last)
            printf("left %s %p %s\n", operation, function, label);
        last = label != NULL ? label : last;
    }
    if (operation != NULL && function == (void *)(uintptr_t)kaws__curl_send)
        clear_stack();                    /* of what libcurl left             */
}


/* ---- a world ------------------------------------------------------------ */

typedef struct scene {
    struct fake f;
    kaws_config cfg;
    kaws       *ring;
    kaws_error  err;
    kaws_sealed sealed, out;
} scene;


static int
send_quietly(void *ctx, const kaws_request *q, kaws_reply *r)
{
    const char *before = operation;
    int answer;

    operation = NULL;
    answer = fake_send(ctx, q, r);
    clear_stack();
    operation = before;
    return answer;
}


/* What is 32 bytes long is a page key. */
static int
random_or_page_key(void *ctx, void *out, size_t len)
{
    if (len != 32)
        return fake_random(ctx, out, len);
    memcpy(out, page_key, len);
    return 0;
}


static kaws_name
name_of(const char *key_id)
{
    kaws_name name = { key_id, "u" };

    return name;
}


static void
must(scene *s, const char *what, kaws_status got, kaws_status want)
{
    if (got == want)
        return;
    printf("%s: '%s' for '%s': %s\n", what, kaws_status_text(got),
           kaws_status_text(want), s->err.text);
    exit(1);
}


static kaws_status
do_close(scene *s)
{
    kaws_close(s->ring);
    s->ring = NULL;
    return KAWS_OK;
}


static kaws_status
do_fetch(scene *s)
{
    kaws_key got;
    kaws_status status = kaws_fetch(s->ring, name_of("a"), &got, &s->err);

    if (status == KAWS_OK)
        kaws_key_free(s->ring, &got);
    return status;
}


static kaws_status
do_cache_off(scene *s)
{
    kaws_use_cache(s->ring, 0);
    return KAWS_OK;
}


static kaws_status
do_data_key(scene *s)
{
    static uint8_t made[32];

    return kaws_kms_generate_data_key(s->ring, NULL, sizeof made, made,
                                      &s->out, &s->err);
}


static kaws_status
do_decrypt(scene *s)
{
    static uint8_t room[100];
    size_t len = sizeof room;

    return kaws_kms_decrypt(s->ring, NULL, &s->sealed, room, &len, &s->err);
}


static kaws_status
do_sign(scene *s, int expires, size_t room)
{
    static char out[1024];
    const char *headers[] = { "Host:example.amazonaws.com", NULL };
    kaws_creds who = { FAKE_ID, FAKE_SECRET, TOKEN };
    kaws_signing what;

    memset(&what, 0, sizeof what);
    what.method = "GET";
    what.path = "/";
    what.region = "us-east-1";
    what.service = "kms";
    what.headers = headers;
    what.when = s->f.now_ms / 1000;
    what.expires = expires;
    return kaws_sign(&what, who, out, room, &s->err);
}


/* ---- what happens before ------------------------------------------------ */

static void
go_west(scene *s)
{
    must(s, "west", kaws_use_kms_key(s->ring, FAKE_WEST, &s->err), KAWS_OK);
}


static void
close_first(scene *s)
{
    (void)do_close(s);
}


static void
remove_other(scene *s)
{
    must(s, "b", kaws_remove(s->ring, name_of("b"), &s->err), KAWS_OK);
}


static void
keep_keys(scene *s)
{
    kaws_use_cache(s->ring, 60);
}


static void
keep_it(scene *s)
{
    keep_keys(s);
    must(s, "keep", do_fetch(s), KAWS_OK);
}


static void
alter_it(scene *s)
{
    keep_it(s);
    s->ring->vault.shield.oldest->bytes[0] ^= 1;
}


static void
be_unknown(scene *s)
{
    (void)snprintf(s->f.id, sizeof s->f.id, "AKIAOTHER");
}


/* The conf file has newer creds than those that KMS refuses. */
static void
be_renewed(scene *s)
{
    be_unknown(s);
    fake_write_conf(&s->f, "AKIAOTHER\n" FAKE_SECRET "\n" TOKEN "\n");
}


/* A program whose words are not fit to be shown. */
static int
give(void *ctx, kaws_creds_wanted *w)
{
    w->creds.id = FAKE_ID;
    w->creds.secret = FAKE_SECRET;
    (void)snprintf(w->text, sizeof w->text, "got %s", FAKE_SECRET);
    return ((struct fake *)ctx)->user != NULL;
}


static void
be_given(scene *s)
{
    (void)do_close(s);
    s->cfg.hooks.creds = give;
    must(s, "open", kaws_open(&s->ring, &s->cfg, &s->err), KAWS_OK);
    must(s, "give", kaws_reload_creds(s->ring, &s->err), KAWS_OK);
}


/* A ring whose credentials come from a file of AWS's tools. */
static void
be_in_a_profile(scene *s)
{
    (void)do_close(s);
    fake_write_conf(&s->f, "[default]\naws_access_key_id = " FAKE_ID "\n"
                    "aws_secret_access_key = " FAKE_SECRET "\n"
                    "aws_session_token = " TOKEN "\n");
    s->cfg.auth = "native";
    s->cfg.profile = "default";
    s->cfg.credentials_file = s->f.conf;
    must(s, "open", kaws_open(&s->ring, &s->cfg, &s->err), KAWS_OK);
}


static void
be_in_no_profile(scene *s)
{
    be_in_a_profile(s);
    fake_write_conf(&s->f, "[default]\naws_secret_access_key = " FAKE_SECRET
                    "\n[default\n");
}


/* EC2's metadata. */
static int
send_role(void *ctx, const kaws_request *q, kaws_reply *r)
{
    if (strncmp(q->url, "http:", 5) != 0)
        return send_quietly(ctx, q, r);
    r->http = 200;
    r->body_len = (size_t)snprintf((char *)r->body, r->body_max,
        strcmp(q->method, "PUT") == 0 ? TOKEN : "{\"AccessKeyId\":\"" FAKE_ID
        "\",\"SecretAccessKey\":\"" FAKE_SECRET "\",\"Token\":\"" TOKEN
        "\",\"Expiration\":\"2027-01-01T00:00:00Z\"}");
    return 0;
}


static void
be_in_a_role(scene *s)
{
    (void)do_close(s);
    (void)setenv("AWS_EC2_INSTANCE_PROFILE_NAME", "r", 1);
    s->cfg.auth = "native";
    s->cfg.hooks.send = send_role;
    must(s, "open", kaws_open(&s->ring, &s->cfg, &s->err), KAWS_OK);
}


#define ROLE_ARN "arn:aws:iam::" FAKE_OWN ":role/app"

/* AWS STS, which gives the same secrets as the conf file has. */
static int
send_sts(void *ctx, const kaws_request *q, kaws_reply *r)
{
    struct fake *f = ctx;

    if (strncmp(q->url, "https://sts.", 12) != 0)
        return send_quietly(ctx, q, r);
    (void)snprintf(r->request_id, sizeof r->request_id, "sts-%d", ++f->replies);
    r->http = f->user != NULL ? 403 : 200;
    r->body_len = (size_t)snprintf((char *)r->body, r->body_max, r->http == 403
        ? "<E><Error><Code>AccessDenied</Code><Message>" TOKEN "</Message>"
        "</Error></E>" : "<A><R><Credentials><AccessKeyId>" FAKE_ID
        "</AccessKeyId><SecretAccessKey>" FAKE_SECRET "</SecretAccessKey>"
        "<SessionToken>" TOKEN "</SessionToken><Expiration>2027-01-01T00:00:00Z"
        "</Expiration></Credentials></R></A>");
    return 0;
}


/* A role that follows the conf file. */
static void
be_assumed(scene *s)
{
    (void)do_close(s);
    s->cfg.hooks.send = send_sts;
    s->cfg.role_arn = ROLE_ARN;
    must(s, "open", kaws_open(&s->ring, &s->cfg, &s->err), KAWS_OK);
}


static void
be_assumed_no_more(scene *s)
{
    be_assumed(s);
    s->f.user = s;
}


/* Two roles that follow the keys of a profile. */
static void
be_in_a_chain(scene *s)
{
    be_in_a_profile(s);
    (void)do_close(s);
    fake_write_conf(&s->f, "[default]\nrole_arn = " ROLE_ARN "\n"
                    "source_profile = b\n[b]\naws_access_key_id = " FAKE_ID
                    "\naws_secret_access_key = " FAKE_SECRET "\n"
                    "aws_session_token = " TOKEN "\n");
    be_assumed(s);
}


/* A role for a token. */
static void
be_in_a_cluster(scene *s)
{
    static char path[128];
    FILE *to;

    (void)do_close(s);
    (void)snprintf(path, sizeof path, "%s/token", s->f.dir);
    to = fopen(path, "w");
    if (to == NULL || fputs(TOKEN, to) < 0 || fclose(to) != 0)
        exit(1);
    (void)setenv("AWS_WEB_IDENTITY_TOKEN_FILE", path, 1);
    (void)setenv("AWS_ROLE_ARN", ROLE_ARN, 1);
    s->cfg.auth = "native";
    s->cfg.hooks.send = send_sts;
    must(s, "open", kaws_open(&s->ring, &s->cfg, &s->err), KAWS_OK);
}


/* What a program prints; it fails if it has an argument. */
static void
be_printed(scene *s)
{
    char path[128], text[400];
    FILE *to;

    be_in_a_profile(s);
    (void)snprintf(path, sizeof path, "%s/helper", s->f.dir);
    to = fopen(path, "w");
    if (to == NULL || fputs("#!/bin/sh\necho '{\"Version\":1,\"AccessKeyId\":"
                            "\"" FAKE_ID "\",\"SecretAccessKey\":\""
                            FAKE_SECRET "\",\"SessionToken\":\"" TOKEN
                            "\"}'\nexit $#\n", to) < 0 ||
        fclose(to) != 0 || chmod(path, 0700) != 0)
        exit(1);
    (void)snprintf(text, sizeof text, "[default]\ncredential_process = %s%s\n",
                   path, s->f.user != NULL ? " x" : "");
    fake_write_conf(&s->f, text);
}


static void
be_printed_in_vain(scene *s)
{
    s->f.user = s;
    be_printed(s);
}


static void
be_given_no_more(scene *s)
{
    be_given(s);
    s->f.user = s;
}


#define MULTI(region) "arn:aws:kms:" region ":" FAKE_OWN ":key/mrk-1"

/* A KMS key in two regions, of which the first does not answer. */
static int
send_elsewhere(void *ctx, const kaws_request *q, kaws_reply *r)
{
    const struct fake *f = ctx;

    if (f->user == NULL || strstr(q->url, "us-east-1") == NULL)
        return send_quietly(ctx, q, r);
    (void)snprintf(r->text, sizeof r->text, "no route");
    return 1;
}


static void
be_elsewhere(scene *s)
{
    kaws_bytes before = { older, PLAIN };
    int i;

    must(s, "a", kaws_remove(s->ring, name_of("a"), &s->err), KAWS_OK);
    (void)do_close(s);
    (void)snprintf(s->f.keys[4].arn, sizeof s->f.keys[4].arn,
                   MULTI("us-east-1"));
    (void)snprintf(s->f.keys[5].arn, sizeof s->f.keys[5].arn,
                   MULTI("eu-central-1"));
    s->cfg.hooks.send = send_elsewhere;
    s->cfg.kms_key_id = MULTI("us-east-1");
    s->cfg.failover_regions = "eu-central-1";
    must(s, "open", kaws_open(&s->ring, &s->cfg, &s->err), KAWS_OK);
    for (i = 0; i < KAWS__CHECKED_MAX; i++)       /* no thread is to run      */
        s->ring->kms.checked[i].ms = s->f.now_ms;
    must(s, "a", kaws_store(s->ring, name_of("a"), "AES", before, &s->err),
         KAWS_OK);
    s->f.user = s;
}


static void
know_no_dry_run(scene *s)
{
    s->f.knows_no_dry_run = 1;
}


#define ANSWER(text) \
    "{\"CiphertextBlob\":\"eHg=\",\"KeyId\":\"" FAKE_EAST "\"," \
    "\"KeyMaterialId\":\"0000\",\"Plaintext\":\"" text "\"}"

static const kaws_bytes key = { plain, PLAIN };

#define JOBS(X)                                                               \
    X(open, kaws_open(&s->ring, &s->cfg, &s->err))                            \
    X(close, do_close(s))                                                     \
    X(check, kaws_check(s->ring, &s->err))                                    \
    X(generate, kaws_generate(s->ring, name_of("g"), "AES", 32, &s->err))     \
    X(store, kaws_store(s->ring, name_of("s"), "AES", key, &s->err))          \
    X(fetch, do_fetch(s))                                                     \
    X(cache_off, do_cache_off(s))                                             \
    X(remove, kaws_remove(s->ring, name_of("a"), &s->err))                    \
    X(use_kms_key, kaws_use_kms_key(s->ring, "alias/two", &s->err))           \
    X(reload, kaws_reload_creds(s->ring, &s->err))                            \
    X(rotate, kaws_rotate_kms_key(s->ring, &s->err))                          \
    X(rewrap, kaws_rewrap_all(s->ring, &s->err))                              \
    X(data_key, do_data_key(s))                                               \
    X(encrypt, kaws_kms_encrypt(s->ring, NULL, key, &s->out, &s->err))        \
    X(decrypt, do_decrypt(s))                                                 \
    X(reencrypt, kaws_kms_reencrypt(s->ring, NULL, &s->sealed, &s->out,       \
                                    &s->err))                                 \
    X(sign, do_sign(s, 0, 1024))                                              \
    X(presign, do_sign(s, 60, 1024))                                          \
    X(presign_no_room, do_sign(s, 60, 270))

#define X(name, call)                                                         \
    static kaws_status                                                        \
    job_##name(scene *s)                                                      \
    {                                                                         \
        return call;                                                          \
    }
JOBS(X)
#undef X


static const struct row {
    const char *name;
    kaws_status (*job)(scene *);
    kaws_status want;
    void      (*before)(scene *);
    fake_script script;
} rows[] = {
    { "open", job_open, KAWS_OK, close_first, { NULL } },
    { "close", job_close, KAWS_OK, NULL, { NULL } },
    { "check", job_check, KAWS_OK, NULL, { NULL } },
    { "generate", job_generate, KAWS_OK, NULL, { NULL } },
    { "store", job_store, KAWS_OK, NULL, { NULL } },
    { "store-unproved", job_store, KAWS_OK, NULL,
      { "Decrypt", .error = "AccessDeniedException" } },
    { "store-mixed-up", job_store, KAWS_REPLY, NULL,
      { "Decrypt", .previous = 1 } },
    { "store-lost", job_store, KAWS_NETWORK, NULL,
      { "Encrypt", .times = 9, .lost = 1 } },
    { "fetch", job_fetch, KAWS_OK, NULL, { NULL } },
    { "fetch-denied", job_fetch, KAWS_DENIED, NULL,
      { "Decrypt", .error = "AccessDeniedException" } },
    { "fetch-throttled", job_fetch, KAWS_OK, NULL,
      { "Decrypt", .error = "ThrottlingException" } },
    { "fetch-unknown", job_fetch, KAWS_CREDENTIALS, be_unknown, { NULL } },
    { "fetch-renewed", job_fetch, KAWS_OK, be_renewed, { NULL } },
    { "fetch-short", job_fetch, KAWS_MISMATCH, NULL,
      { "Decrypt", .body = ANSWER("AAAA") } },
    { "fetch-nonsense", job_fetch, KAWS_REPLY, NULL,
      { "Decrypt", .from = "KeyId", .to = "KeyIs" } },
    { "fetch-cut", job_fetch, KAWS_REPLY, NULL,
      { "Decrypt", .times = 9, .cut = 120 } },
    { "fetch-elsewhere", job_fetch, KAWS_OK, be_elsewhere, { NULL } },
    { "store-elsewhere", job_store, KAWS_OK, be_elsewhere, { NULL } },
    { "fetch-and-keep", job_fetch, KAWS_OK, keep_keys, { NULL } },
    { "fetch-kept", job_fetch, KAWS_OK, keep_it, { NULL } },
    { "fetch-altered", job_fetch, KAWS_OK, alter_it, { NULL } },
    { "cache-off", job_cache_off, KAWS_OK, keep_it, { NULL } },
    { "remove", job_remove, KAWS_OK, NULL, { NULL } },
    { "remove-last", job_remove, KAWS_OK, remove_other, { NULL } },
    { "use-kms-key", job_use_kms_key, KAWS_OK, NULL, { NULL } },
    { "reload", job_reload, KAWS_OK, NULL, { NULL } },
    { "reload-hook", job_reload, KAWS_OK, be_given, { NULL } },
    { "reload-hook-fails", job_reload, KAWS_CREDENTIALS, be_given_no_more,
      { NULL } },
    { "reload-profile", job_reload, KAWS_OK, be_in_a_profile, { NULL } },
    { "reload-no-profile", job_reload, KAWS_CONFIG, be_in_no_profile,
      { NULL } },
    { "reload-role", job_reload, KAWS_OK, be_in_a_role, { NULL } },
    { "reload-assumed", job_reload, KAWS_OK, be_assumed, { NULL } },
    { "reload-denied", job_reload, KAWS_CREDENTIALS, be_assumed_no_more,
      { NULL } },
    { "reload-chain", job_reload, KAWS_OK, be_in_a_chain, { NULL } },
    { "reload-program", job_reload, KAWS_OK, be_printed, { NULL } },
    { "reload-program-fails", job_reload, KAWS_SERVICE, be_printed_in_vain,
      { NULL } },
    { "reload-web", job_reload, KAWS_OK, be_in_a_cluster, { NULL } },
    { "rotate", job_rotate, KAWS_OK, NULL, { NULL } },
    { "rewrap", job_rewrap, KAWS_OK, NULL, { NULL } },
    { "rewrap-across", job_rewrap, KAWS_OK, go_west, { NULL } },
    { "rewrap-fails", job_rewrap, KAWS_DENIED, NULL,
      { "ReEncrypt", .skip = 1, .error = "AccessDeniedException" } },
    { "rewrap-no-dry-run", job_rewrap, KAWS_OK, know_no_dry_run, { NULL } },
    { "data-key", job_data_key, KAWS_OK, NULL, { NULL } },
    { "data-key-short", job_data_key, KAWS_REPLY, NULL,
      { "GenerateDataKey", .body = ANSWER("AAAA") } },
    { "encrypt", job_encrypt, KAWS_OK, NULL, { NULL } },
    { "decrypt", job_decrypt, KAWS_OK, NULL, { NULL } },
    { "reencrypt", job_reencrypt, KAWS_OK, NULL, { NULL } },
    { "reencrypt-across", job_reencrypt, KAWS_OK, go_west, { NULL } },
    { "sign", job_sign, KAWS_OK, NULL, { NULL } },
    { "presign", job_presign, KAWS_OK, NULL, { NULL } },
    { "presign-no-room", job_presign_no_room, KAWS_ARGUMENT, NULL, { NULL } }
};


/* One operation on a ring with two keys, which it has from its file. */
static void
perform_row(const struct row *row)
{
    static scene scenes[1];
    kaws_bytes before = { older, PLAIN };
    scene *s = scenes;

    memset(s, 0, sizeof *s);
    fake_init(&s->f);
    s->f.hooks.send = send_quietly;
    s->f.hooks.random = random_or_page_key;
    (void)snprintf(s->f.token, sizeof s->f.token, TOKEN);
    fake_write_conf(&s->f, FAKE_ID "\n" FAKE_SECRET "\n" TOKEN "\n");
    s->cfg = fake_config(&s->f);
    s->cfg.rewrap_parallel = 1;
    must(s, "open", job_open(s), KAWS_OK);
    must(s, "a", kaws_store(s->ring, name_of("a"), "AES", before, &s->err),
         KAWS_OK);
    must(s, "b", kaws_generate(s->ring, name_of("b"), "AES", 32, &s->err),
         KAWS_OK);
    (void)do_close(s);
    must(s, "open", job_open(s), KAWS_OK);
    must(s, "encrypt", kaws_kms_encrypt(s->ring, NULL, before, &s->sealed,
                                        &s->err), KAWS_OK);
    if (row->before != NULL)
        row->before(s);
    if (row->script.action != NULL)
        fake_push(&s->f, row->script);
    clear_stack();
    operation = row->name;
    must(s, row->name, row->job(s), row->want);
    operation = NULL;
    (void)do_close(s);
    if (s->f.dirty > 0)
        printf("left %s 0 memory that was given back unwiped\n", row->name);
    fake_end(&s->f);
}


/* The built-in sender, to a KMS that another process plays. */
static void
perform_sending(const char *endpoint, const char *kms_key)
{
    scene *s = calloc(1, sizeof *s);
    kaws_key got;

    fake_init(&s->f);
    fake_write_conf(&s->f, FAKE_ID "\n" FAKE_SECRET "\n" TOKEN "\n");
    s->cfg = fake_config(&s->f);
    memset(&s->cfg.hooks, 0, sizeof s->cfg.hooks);
    s->cfg.endpoint = endpoint;
    s->cfg.kms_key_id = kms_key;
    must(s, "open", job_open(s), KAWS_OK);
    clear_stack();
    operation = "send-store";
    must(s, operation, job_store(s), KAWS_OK);
    operation = "send-fetch";
    must(s, operation, kaws_fetch(s->ring, name_of("s"), &got, &s->err),
         KAWS_OK);
    kaws_key_free(s->ring, &got);
    operation = NULL;
    (void)do_close(s);
    fake_end(&s->f);
    free(s);
}


int
main(int argc, char **argv)
{
    time_t now = argc > 2 ? time(NULL) : 1795000000;
    char date[16];
    size_t i;

    (void)strftime(date, sizeof date, "%Y%m%d", gmtime(&now));
    look_for_all(date, "us-east-1");
    if (argc > 2)
        perform_sending(argv[1], argv[2]);
    else
        for (i = 0; i < sizeof rows / sizeof rows[0]; i++)
            perform_row(&rows[i]);
    puts("end");
    return 0;
}
