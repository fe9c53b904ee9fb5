/* Room native: which source is configured, and what is said of one that gives
 * nothing. */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <stddef.h>

#if !defined(_WIN32)                      /* whose pages cannot be denied     */
#include <sys/mman.h>

static int no_pages;                      /* there is no more memory for pages*/


static void *
may_map(void *at, size_t len, int how, int kind, int fd, off_t from)
{
    return no_pages ? MAP_FAILED : mmap(at, len, how, kind, fd, from);
}

#define mmap    may_map

#endif

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "reading.h"

/* ---- which one is configured -------------------------------------------- */

enum { ID = 1, SECRET = 2, TOKEN = 4, OLD_TOKEN = 8, NAMED = 16, EMPTY = 32,
       DEFAULT = 64, FILES = 128, BY_ENV = 256, SETTING = 512, BROKEN = 1024 };

/* What there is; which source it is then, and whose keys are found; or NULL,
 * and what is said. */
static const struct { int has; const char *source, *id, *says; } choices[] = {
    { 0, "no source", NULL, "no source of AWS credentials is configured" },
    { ID | SECRET, "the environment", "ENV", NULL },
    { ID | SECRET | TOKEN, "the environment", "ENV", NULL },
    { ID | SECRET | OLD_TOKEN, "the environment", "ENV", NULL },
    { ID | SECRET | EMPTY, "no source", NULL, "no source" },
    { ID, "the environment", NULL,
      "the environment (AWS_ACCESS_KEY_ID): AWS_SECRET_ACCESS_KEY is missing" },
    { SECRET, "the environment", NULL, "AWS_ACCESS_KEY_ID is missing" },
    { TOKEN, "no source", NULL, "no source" },
    { FILES, "the profile", NULL, "there is no profile default" },
    { FILES | BY_ENV, "no source", NULL, "no source" },
    { FILES | ID | SECRET, "the environment", "ENV", NULL },
    { FILES | DEFAULT, "the profile", "DEF", NULL },
    { FILES | DEFAULT | BY_ENV, "the profile", "DEF", NULL },
    { FILES | DEFAULT | ID | SECRET, "the environment", "ENV", NULL },
    { FILES | DEFAULT | ID, "the environment", NULL, "is missing" },
    { FILES | DEFAULT | NAMED, "the profile", "APP", NULL },
    { FILES | NAMED | ID | SECRET, "the environment", "ENV", NULL },
    { FILES | NAMED | BY_ENV, "the profile", "APP", NULL },
    { NAMED, "the profile", NULL, "there is no profile app" },
    { FILES | DEFAULT | SETTING, "the profile", "SET", NULL },
    { FILES | SETTING | NAMED | ID | SECRET | BY_ENV, "the profile", "SET",
      NULL },
    { SETTING | ID | SECRET, "the profile", NULL, "there is no profile set" },
    { FILES | BROKEN, "the profile", NULL, "line 1: a [ without its ]" },
    { FILES | BROKEN | ID | SECRET, "the environment", "ENV", NULL }
};


static void
test_the_first_configured_decides(void **state)
{
    struct world *w = *state;
    reading r;
    size_t i;

    paths(w, &r);
    for (i = 0; i < COUNT(choices); i++) {
        const int has = choices[i].has, files = has & FILES;
        kaws_config cfg = { .auth = "native" };
        world_case = choices[i].says != NULL ? choices[i].says : "found";
        set(variables[0], has & EMPTY ? "" : has & ID ? "ENV" : NULL);
        set(variables[1], has & EMPTY ? "" : has & SECRET ? "S3CR" : NULL);
        set(variables[2], has & TOKEN ? "TOK" : NULL);
        set(variables[3], has & (OLD_TOKEN | TOKEN) ? "OLD" : NULL);
        set(variables[4], has & NAMED ? "app" : NULL);
        set(variables[5], has & BY_ENV ? r.config : NULL);
        set(variables[6], has & BY_ENV ? r.credentials : NULL);
        cfg.profile = has & SETTING ? "set" : NULL;
        cfg.config_file = files && !(has & BY_ENV) ? r.config : NULL;
        cfg.credentials_file = files && !(has & BY_ENV) ? r.credentials : NULL;
        write_file(r.config, has & BROKEN ? "[\n" : "[profile set]\n"
                   KEYS("SET") "[profile app]\n" KEYS("APP"));
        write_file(r.credentials, has & DEFAULT ? "[default]\n" KEYS("DEF")
                                                : NULL);
        EXPECT(w, choices[i].id != NULL ? KAWS_OK : KAWS_CONFIG,
               choices[i].says, open_and_read(w, &r, &cfg));
        assert_string_equal(r.sources.source->name, choices[i].source);
        if (choices[i].id != NULL) {
            const char *want[3] = { choices[i].id, "S3CR", has & TOKEN ? "TOK"
                                    : has & OLD_TOKEN ? "OLD" : "" };
            found(&r, want);
        }
    }
    world_case = "";
}


static int
never_asked(void *ctx, kaws_creds_wanted *wanted)
{
    (void)ctx;
    (void)wanted;
    return 1;
}


/* The program's hook outranks all, and then no file is looked at. */
static void
test_the_hook_outranks_all(void **state)
{
    struct world *w = *state;
    kaws_config cfg = { .auth = "native", .profile = "p" };
    reading r;

    set("AWS_ACCESS_KEY_ID", "ENV");
    w->f.hooks.creds = never_asked;
    EXPECT(w, KAWS_CREDENTIALS, "the program (hooks.creds)",
           open_and_read(w, &r, &cfg));
    assert_int_equal(r.sources.native, 0);
}


/* ---- in a ring ----------------------------------------------------------- */


static void
test_auth(void **state)
{
    struct world *w = *state;
    kaws_identity who;
    reading r;

    paths(w, &r);
    w->cfg.auth = "Native";
    EXPECT(w, KAWS_CONFIG, "auth is 'Native', and has to be 'file' or 'native'",
           kaws_open(&w->ring, &w->cfg, &w->err));
    kaws__err_clear(&w->err);
    w->cfg.auth = "";
    EXPECT(w, KAWS_CONFIG, "auth is ''",
           kaws_open(&w->ring, &w->cfg, &w->err));
    kaws__err_clear(&w->err);
    w->cfg.auth = "file";
    w->cfg.profile = "none";              /* counts for native alone          */
    world_open(w);
    OK(w, kaws_whoami(w->ring, &who, &w->err));
    assert_string_equal(who.source, "the conf file");
    world_close(w);
    assert_int_equal(fake_logged(&w->f, -1, "KAWS-165"), 0);
}


/* A ring without a conf file: with a profile it works, says whose credentials
 * it uses, and takes new ones when AWS refuses the old. */
static void
test_a_ring_with_a_profile(void **state)
{
    struct world *w = *state;
    char text[256];
    kaws_identity who;
    reading r;

    paths(w, &r);
    (void)snprintf(text, sizeof text, "[app]\naws_access_key_id = %s\n"
                   "aws_secret_access_key = %s\n", FAKE_ID, FAKE_SECRET);
    write_file(r.credentials, text);
    assert_int_equal(unlink(w->f.conf), 0);
    w->cfg.auth = "native";
    w->cfg.profile = "app";
    w->cfg.credentials_file = r.credentials;
    w->cfg.must_have_creds = 1;
    world_open(w);
    OK(w, kaws_check(w->ring, &w->err));
    OK(w, kaws_whoami(w->ring, &who, &w->err));
    assert_string_equal(who.source, "the profile");
    assert_string_equal(who.access_key_end, "FAKE");
    assert_int_equal(fake_logged(&w->f, 2, "[KAWS-165] the AWS credentials come"
                                 " from the profile app; they belong to an "
                                 "account that it does not name, their access "
                                 "key id ends in FAKE, and they expire: never"),
                     1);
    (void)snprintf(w->f.id, sizeof w->f.id, "AKIANEWNEWNEWNEWNEWN");
    EXPECT(w, KAWS_CREDENTIALS, "UnrecognizedClientException",
           kaws_check(w->ring, &w->err));
    assert_non_null(strstr(w->err.text, "come from the profile"));
    (void)snprintf(text, sizeof text, "[app]\naws_access_key_id = %s\n"
                   "aws_secret_access_key = %s\n", w->f.id, FAKE_SECRET);
    write_file(r.credentials, text);
    OK(w, kaws_check(w->ring, &w->err));
    assert_int_equal(fake_logged(&w->f, 2, "[KAWS-107] "), 1);
    assert_int_equal(fake_logged(&w->f, 2, "name, their access key id ends in "
                                 "NEWN"), 1);
    assert_int_equal(fake_logged(&w->f, -1, FAKE_SECRET), 0);
}


/* The config's strings are the caller's again once the ring is open. */
static void
test_strings_are_copied(void **state)
{
    struct world *w = *state;
    char text[3][128];
    reading r;

    paths(w, &r);
    write_file(r.credentials, "[app]\n" KEYS("AK"));
    (void)snprintf(text[0], 128, "native");
    (void)snprintf(text[1], 128, "app");
    (void)snprintf(text[2], 128, "%s//./credentials/", w->f.dir);
    w->cfg.auth = text[0];
    w->cfg.profile = text[1];
    w->cfg.credentials_file = text[2];
    world_open(w);
    memset(text, 'X', sizeof text);
    OK(w, kaws_reload_creds(w->ring, &w->err));
    assert_string_equal(w->ring->kms.creds.sources.files[1], r.credentials);
}


/* No file of credentials may be one that the keyring replaces; the conf file is
 * not looked at. */
static void
test_one_file_for_two(void **state)
{
    struct world *w = *state;
    char path[160];
    reading r;

    paths(w, &r);
    set("AWS_ACCESS_KEY_ID", FAKE_ID);
    set("AWS_SECRET_ACCESS_KEY", FAKE_SECRET);
    (void)snprintf(path, sizeof path, "%s.tmp", w->f.data);
    spill(path, "#\n", 2);
    w->cfg.auth = "native";
    w->cfg.conf_file = path;
    w->cfg.config_file = path;
    EXPECT(w, KAWS_CONFIG, "config_file and data_file name the same file",
           kaws_open(&w->ring, &w->cfg, &w->err));
    kaws__err_clear(&w->err);
    w->cfg.config_file = NULL;
    set("AWS_SHARED_CREDENTIALS_FILE", path);
    EXPECT(w, KAWS_CONFIG, "credentials_file and data_file name the same file",
           kaws_open(&w->ring, &w->cfg, &w->err));
    kaws__err_clear(&w->err);
    set("AWS_SHARED_CREDENTIALS_FILE", NULL);
    world_open(w);                        /* it is not looked at              */
    (void)remove(path);
}


#if !defined(_WIN32)

/* What the environment had when the ring was opened may be gone. */
static void
test_an_environment_that_changes(void **state)
{
    struct world *w = *state;
    char *profile = strdup("AWS_PROFILE=one"), file[160];
    reading r;

    paths(w, &r);
    write_file(r.credentials, "[one]\n" KEYS("AK1") "[two]\n" KEYS("AK2"));
    (void)snprintf(file, sizeof file, "AWS_SHARED_CREDENTIALS_FILE=%s",
                   r.credentials);
    assert_int_equal(putenv(profile), 0);
    assert_int_equal(putenv(file), 0);
    w->cfg.auth = "native";
    world_open(w);
    set("AWS_PROFILE", "two");
    set("AWS_SHARED_CREDENTIALS_FILE", r.credentials);
    memset(profile, 'x', strlen(profile));
    memset(file, 'x', sizeof file);
    free(profile);
    OK(w, kaws_reload_creds(w->ring, &w->err));
    assert_string_equal(w->ring->kms.creds.secrets->signer.id, "AK2");
    set("AWS_PROFILE", NULL);
    EXPECT(w, KAWS_CONFIG, "there is no profile",
           kaws_reload_creds(w->ring, &w->err));
    kaws__err_clear(&w->err);
}


#endif


static int
once(void *ctx)
{
    return ((struct fake *)ctx)->user != NULL &&
           ++*(int *)((struct fake *)ctx)->user == 1;
}


static int
send_cancelled(void *ctx, const kaws_request *q, kaws_reply *r)
{
    (void)ctx;
    (void)snprintf(r->text, sizeof r->text, "cancelled");
    return !q->cancelled(q->cancelled_arg) + 1;
}


/* A caller that says so once, while a role is asked for, is heard. */
static void
test_cancelled(void **state)
{
    struct world *w = *state;
    int asks = -1000;

    set("AWS_EC2_METADATA_DISABLED", NULL);
    w->cfg.auth = "native";
    w->cfg.hooks.send = send_cancelled;
    w->cfg.hooks.cancelled = once;
    w->f.user = &asks;
    world_open(w);
    asks = 0;
    EXPECT(w, KAWS_CANCELLED, "waited for AWS credentials",
           kaws_reload_creds(w->ring, &w->err));
    kaws__err_clear(&w->err);
}


/* Without any source the ring opens, as it does without a conf file, unless it
 * must have credentials. */
static void
test_no_source_in_a_ring(void **state)
{
    struct world *w = *state;

    w->cfg.auth = "native";
    world_open(w);                        /* a warning, and no conf file      */
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-142] there are no AWS "), 1);
    EXPECT(w, KAWS_CONFIG, "no source of AWS credentials is configured",
           kaws_check(w->ring, &w->err));
    world_close(w);
    kaws__err_clear(&w->err);
    w->cfg.must_have_creds = 1;
    EXPECT(w, KAWS_CONFIG, "no source of AWS credentials is configured",
           kaws_open(&w->ring, &w->cfg, &w->err));
}


/* ---- a role that follows a source ---------------------------------------- */

#define ROLE_ID  "ASIAROLEROLEROLEROLE"
#define ROLE_ARN "arn:aws:iam::" FAKE_OWN ":role/app"
#define ROLE_IS  "arn:aws:sts::" FAKE_OWN ":assumed-role/app/keyring_aws"

static int sts_asked, sts_fails, role_life;
static const char *sts_caller;    /* the id that has to sign                  */


/* AWS STS, which gives what the fake KMS knows; and the fake KMS. */
static int
sts_and_kms_send(void *ctx, const kaws_request *q, kaws_reply *r)
{
    struct fake *f = ctx;
    char date[17], signer[64];

    if (strncmp(q->url, "https://sts.us-east-1.", 22) != 0)
        return fake_send(ctx, q, r);
    sts_asked++;
    (void)snprintf(signer, sizeof signer, "AWS4-HMAC-SHA256 Credential=%s/",
                   sts_caller);
    assert_memory_equal(fake_header(q, "Authorization: "), signer,
                        strlen(signer));
    (void)snprintf(r->request_id, sizeof r->request_id, "sts-%d", ++f->replies);
    r->http = sts_fails ? sts_fails : 200;
    kaws_amz_date(date, f->now_ms / 1000 + role_life);
    r->body_len = (size_t)snprintf((char *)r->body, r->body_max, sts_fails
        ? "<E><Error><Code>No</Code></Error></E>" : "<A><AssumeRoleResult>"
        "<AssumedRoleUser><Arn>" ROLE_IS "</Arn></AssumedRoleUser><Credentials>"
        "<AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey>"
        "<SessionToken>%s</SessionToken><Expiration>%.4s-%.2s-%.2sT%.2s:%.2s:"
        "%.2sZ</Expiration></Credentials></AssumeRoleResult></A>", f->id,
        f->secret, f->token, date, date + 4, date + 6, date + 9, date + 11,
        date + 13);
    return 0;
}


/* The fake KMS knows the role alone; the conf file has the keys of a user. */
static void
begin_role(struct world *w)
{
    (void)snprintf(w->f.id, sizeof w->f.id, ROLE_ID);
    (void)snprintf(w->f.token, sizeof w->f.token, "role/token+1");
    w->cfg.role_arn = ROLE_ARN;
    w->cfg.must_have_creds = 1;
    w->cfg.hooks.send = sts_and_kms_send;
    sts_asked = sts_fails = 0;
    role_life = 3600;
    sts_caller = FAKE_ID;
}


/* KMS gets the role's credentials. If it refuses them, the role is assumed
 * again, though the conf file has not changed. */
static void
test_a_role_after_the_conf_file(void **state)
{
    struct world *w = *state;
    char want[500];
    kaws_identity who;

    begin_role(w);
    world_open(w);
    OK(w, kaws_check(w->ring, &w->err));
    OK(w, kaws_check(w->ring, &w->err));
    assert_int_equal(sts_asked, 1);
    OK(w, kaws_whoami(w->ring, &who, &w->err));
    assert_string_equal(who.source, "the conf file");
    assert_string_equal(who.access_key_end, "ROLE");
    assert_true(who.expires == w->f.now_ms / 1000 + 3600);
    (void)snprintf(want, sizeof want, "[KAWS-165] the AWS credentials come from"
                   " the conf file %s; they belong to " ROLE_IS ", their access"
                   " key id ends in ROLE, and they expire: 20261118T120640Z",
                   w->f.conf);
    assert_int_equal(fake_logged(&w->f, 2, want), 1);

    (void)snprintf(w->f.id, sizeof w->f.id, "ASIANEXTNEXTNEXTNEXT");
    OK(w, kaws_check(w->ring, &w->err));
    assert_int_equal(sts_asked, 2);
    assert_int_equal(fake_logged(&w->f, 2, "[KAWS-107] "), 1);
    assert_int_equal(fake_logged(&w->f, 2, "they belong to " ROLE_IS ", their "
                                 "access key id ends in NEXT"), 1);

    /* New keys in the conf file count from the next exchange. */
    fake_write_conf(&w->f, "AKIAUSERUSERUSERUSER\n" FAKE_SECRET "\n");
    OK(w, kaws_check(w->ring, &w->err));
    assert_int_equal(sts_asked, 2);
    sts_caller = "AKIAUSERUSERUSERUSER";
    (void)snprintf(w->f.id, sizeof w->f.id, "ASIALASTLASTLASTLAST");
    OK(w, kaws_check(w->ring, &w->err));
    assert_int_equal(sts_asked, 3);
    assert_int_equal(fake_logged(&w->f, -1, FAKE_SECRET), 0);
    assert_int_equal(fake_logged(&w->f, -1, "role/token"), 0);
}


/* Those of the conf file are never used for KMS, even if KMS would take them
 * and STS refuses. */
static void
test_no_role_no_credentials(void **state)
{
    struct world *w = *state;

    begin_role(w);
    (void)snprintf(w->f.id, sizeof w->f.id, FAKE_ID);
    w->f.token[0] = '\0';
    sts_fails = 403;
    EXPECT(w, KAWS_CREDENTIALS, "refused credentials for the role " ROLE_ARN
           " to the access key whose id ends in FAKE (No, HTTP 403",
           kaws_open(&w->ring, &w->cfg, &w->err));
    kaws__err_clear(&w->err);
    assert_int_equal(w->f.requests, 0);
    w->cfg.must_have_creds = 0;
    world_open(w);
    EXPECT(w, KAWS_CREDENTIALS, "refused credentials for the role",
           kaws_check(w->ring, &w->err));
    kaws__err_clear(&w->err);
    assert_int_equal(w->f.requests, 0);
}


static int
give_user(void *ctx, kaws_creds_wanted *w)
{
    struct fake *f = ctx;

    *(int *)f->user += 1;
    w->creds.id = "AKIAHOOKHOOKHOOKHOOK";
    w->creds.secret = FAKE_SECRET;
    w->expires = f->now_ms / 1000 + 60;   /* STS's answer counts              */
    return 0;
}


static void
test_a_role_after_the_hook(void **state)
{
    struct world *w = *state;
    kaws_identity who;
    int given = 0;

    begin_role(w);
    w->cfg.auth = "native";
    w->cfg.hooks.creds = give_user;
    w->f.user = &given;
    sts_caller = "AKIAHOOKHOOKHOOKHOOK";
    world_open(w);
    OK(w, kaws_check(w->ring, &w->err));
    assert_int_equal(sts_asked, 1);
    assert_int_equal(given, 1);
    OK(w, kaws_whoami(w->ring, &who, &w->err));
    assert_string_equal(who.source, "the program");
    assert_true(who.expires == w->f.now_ms / 1000 + 3600);
    assert_int_equal(fake_logged(&w->f, 2, "come from the program (hooks.creds)"
                                 "; they belong to " ROLE_IS), 1);
    (void)snprintf(w->f.id, sizeof w->f.id, "ASIANEXTNEXTNEXTNEXT");
    OK(w, kaws_check(w->ring, &w->err));
    assert_int_equal(sts_asked, 2);
    assert_int_equal(given, 2);
}


/* Renewed early, kept while STS fails, and not used beyond their end. */
static void
test_a_role_expires(void **state)
{
    struct world *w = *state;

    begin_role(w);
    world_open(w);
    OK(w, kaws_check(w->ring, &w->err));
    w->f.now_ms += 3299000;
    OK(w, kaws_check(w->ring, &w->err));
    assert_int_equal(sts_asked, 1);
    w->f.now_ms += 1000;                  /* 300 s are left                   */
    OK(w, kaws_check(w->ring, &w->err));
    assert_int_equal(sts_asked, 2);
    w->f.now_ms += 3300000;
    sts_fails = 400;
    OK(w, kaws_check(w->ring, &w->err));
    OK(w, kaws_check(w->ring, &w->err));
    assert_int_equal(sts_asked, 3);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-141] "), 1);
    w->f.now_ms += 300000;
    EXPECT(w, KAWS_CREDENTIALS, "refused credentials for the role",
           kaws_check(w->ring, &w->err));
    kaws__err_clear(&w->err);
    sts_fails = 0;
    role_life = 900;                      /* a third of it: five minutes      */
    OK(w, kaws_check(w->ring, &w->err));
    assert_int_equal(sts_asked, 5);
    w->f.now_ms += 601000;
    OK(w, kaws_check(w->ring, &w->err));
    assert_int_equal(sts_asked, 6);
}


/* The config's strings of a role are the caller's again, too. */
static void
test_a_role_s_strings_are_copied(void **state)
{
    struct world *w = *state;
    char text[3][80];

    begin_role(w);
    (void)snprintf(text[0], 80, ROLE_ARN);
    (void)snprintf(text[1], 80, "outer-id");
    (void)snprintf(text[2], 80, "db-1");
    w->cfg.role_arn = text[0];
    w->cfg.role_external_id = text[1];
    w->cfg.role_session_name = text[2];
    world_open(w);
    memset(text, 'X', sizeof text);
    OK(w, kaws_reload_creds(w->ring, &w->err));
    assert_string_equal(w->ring->kms.creds.sources.role.arn, ROLE_ARN);
    assert_string_equal(w->ring->kms.creds.sources.role.external_id,
                        "outer-id");
    assert_string_equal(w->ring->kms.creds.sources.role.session, "db-1");
}


/* Without a role, none of this happens: the conf file is all that is asked. */
static void
test_no_role_no_sts(void **state)
{
    struct world *w = *state;

    begin_role(w);
    (void)snprintf(w->f.id, sizeof w->f.id, FAKE_ID);
    w->f.token[0] = '\0';
    w->cfg.role_arn = NULL;
    world_open(w);
    OK(w, kaws_check(w->ring, &w->err));
    assert_int_equal(sts_asked, 0);
    assert_null(w->ring->kms.creds.sources.then);
    assert_int_equal(fake_logged(&w->f, -1, "KAWS-165"), 0);
}


#if !defined(_WIN32)

/* A reading takes pages: when the ring opens, for a native source, and for a
 * role after another source. */
static void
test_no_pages(void **state)
{
    static const char no_memory[] = "reading the AWS credentials";
    struct world *w = *state;
    kaws_config cfg = { .auth = "native" };
    reading r;

    set(variables[0], FAKE_ID);
    set(variables[1], FAKE_SECRET);
    OK(w, open_and_read(w, &r, &cfg));
    no_pages = 1;
    EXPECT(w, KAWS_MEMORY, no_memory, read_again(w, &r));
    kaws__err_clear(&w->err);
    EXPECT(w, KAWS_MEMORY, "looking for AWS credentials",
           kaws__native_open(&r.sources, &cfg, 1, &w->err));
    cfg.role_arn = ROLE_ARN;
    kaws__err_clear(&w->err);
    kaws__sources_open(&r.sources, &w->f.hooks, w->f.conf);
    OK(w, kaws__native_open(&r.sources, &cfg, 0, &w->err));
    EXPECT(w, KAWS_MEMORY, "asking for a role's credentials",
           read_again(w, &r));
    no_pages = 0;
}

#endif


/* ---- a source that cannot be reached ------------------------------------- */

static int remote_down, remote_asked, kms_life;


/* An instance, which may be down, and the fake KMS. */
static int
both_send(void *ctx, const kaws_request *q, kaws_reply *r)
{
    struct fake *f = ctx;
    char date[17];

    if (strncmp(q->url, "http://", 7) != 0)
        return fake_send(ctx, q, r);
    remote_asked++;
    if (remote_down) {
        (void)snprintf(r->text, sizeof r->text, "it is down");
        return 1;
    }
    r->http = 200;
    kaws_amz_date(date, f->now_ms / 1000 + kms_life);
    r->body_len = (size_t)snprintf((char *)r->body, r->body_max,
        strcmp(q->method, "PUT") == 0 ? "token" : "{\"AccessKeyId\":\"%s\","
        "\"SecretAccessKey\":\"%s\",\"Expiration\":\"%.4s-%.2s-%.2sT%.2s:%.2s:"
        "%.2sZ\"}", f->id, f->secret, date, date + 4, date + 6, date + 9,
        date + 11, date + 13);
    return 0;
}


static void
begin_instance(struct world *w)
{
    set("AWS_EC2_METADATA_DISABLED", NULL);
    set("AWS_EC2_INSTANCE_PROFILE_NAME", "r");
    w->cfg.auth = "native";
    w->cfg.must_have_creds = 1;
    w->cfg.hooks.send = both_send;
    remote_down = remote_asked = 0;
    kms_life = 3600;
}


/* It is asked again after a minute, or if the caller asks for that; a ring that
 * must have credentials opens without it, because that may pass. */
static void
test_unreachable_is_remembered(void **state)
{
    struct world *w = *state;
    int i;

    begin_instance(w);
    remote_down = 1;
    world_open(w);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-142] "), 1);
    assert_int_equal(remote_asked, 1);
    for (i = 0; i < 5; i++) {
        w->f.now_ms += 10000;
        EXPECT(w, KAWS_NETWORK, "cannot reach the instance",
               kaws_check(w->ring, &w->err));
        assert_null(strstr(w->err.text, "attempts"));
        kaws__err_clear(&w->err);
    }
    assert_int_equal(remote_asked, 1);
    EXPECT(w, KAWS_NETWORK, "it is down", kaws_reload_creds(w->ring, &w->err));
    assert_int_equal(remote_asked, 2);
    w->f.now_ms += 59999;
    EXPECT(w, KAWS_NETWORK, "it is down", kaws_check(w->ring, &w->err));
    assert_int_equal(remote_asked, 2);
    remote_down = 0;
    w->f.now_ms += 1;
    OK(w, kaws_check(w->ring, &w->err));
    assert_int_equal(remote_asked, 4);
}


/* A call that had no time to ask says nothing about the source to others. */
static void
test_too_little_time_proves_nothing(void **state)
{
    struct world *w = *state;

    begin_instance(w);
    w->cfg.must_have_creds = 0;
    remote_down = 1;
    w->cfg.timeout_ms = 100;
    world_open(w);
    EXPECT(w, KAWS_NETWORK, "it is down", kaws_check(w->ring, &w->err));
    remote_down = 0;
    OK(w, kaws_check(w->ring, &w->err));
}


static void
two_seconds_pass(struct fake *f, const char *action)
{
    (void)action;
    f->now_ms += 2000;
}


/* KMS does not answer once, and then there are no credentials for the next
 * attempt: that is not KMS's failure, and KMS is asked as soon as there are. */
static void
test_it_is_not_kms_s_failure(void **state)
{
    struct world *w = *state;

    begin_instance(w);
    kms_life = 1;
    world_open(w);
    fake_push(&w->f, (fake_script){ .no_reply = "reset" });
    w->f.on_send = two_seconds_pass;
    remote_down = 1;
    EXPECT(w, KAWS_NETWORK, "cannot reach the instance",
           kaws_check(w->ring, &w->err));
    assert_int_equal(fake_logged(&w->f, -1, "[KAWS-160]"), 0);
}


/* Renewed early; if that fails, the old ones are used, with one line a minute,
 * until they have expired. */
static void
test_refreshed_early(void **state)
{
    struct world *w = *state;
    int i;

    begin_instance(w);
    world_open(w);
    OK(w, kaws_check(w->ring, &w->err));
    assert_int_equal(remote_asked, 2);
    w->f.now_ms += 3299000;
    OK(w, kaws_check(w->ring, &w->err));
    assert_int_equal(remote_asked, 2);
    remote_down = 1;
    for (i = 0; i < 4; i++) {
        w->f.now_ms += 1000;
        OK(w, kaws_check(w->ring, &w->err));
    }
    assert_int_equal(remote_asked, 3);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-141] "), 1);
    w->f.now_ms += 60000;
    OK(w, kaws_check(w->ring, &w->err));
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-141] "), 2);
    w->f.now_ms += 300000;
    EXPECT(w, KAWS_NETWORK, "it is down", kaws_check(w->ring, &w->err));
    EXPECT(w, KAWS_NETWORK, "it is down", kaws_check(w->ring, &w->err));
    assert_int_equal(remote_asked, 5);
    remote_down = 0;
    w->f.now_ms += 60000;
    OK(w, kaws_check(w->ring, &w->err));
}


static int patience_left;


static int
has_patience(void *ctx, const kaws_error *err)
{
    (void)ctx;
    assert_int_equal(err->status, KAWS_NETWORK);
    if (patience_left == 1)
        remote_down = 0;
    return patience_left-- > 0 ? 30000 : 0;
}


/* Who has patience waits for the source as for KMS: it is asked each time. */
static void
test_patience(void **state)
{
    struct world *w = *state;

    begin_instance(w);
    w->cfg.hooks.patience_ms = has_patience;
    remote_down = 1;
    patience_left = 4;
    world_open(w);
    OK(w, kaws_check(w->ring, &w->err));
    assert_int_equal(remote_asked, 1 + 3 + 2);
    world_close(w);
    remote_down = 1;
    patience_left = 0;
    world_open(w);
    EXPECT(w, KAWS_NETWORK, "it is down", kaws_check(w->ring, &w->err));
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_the_first_configured_decides),
        TEST(test_the_hook_outranks_all), TEST(test_auth),
#if !defined(_WIN32)
        TEST(test_an_environment_that_changes), TEST(test_no_pages),
#endif
        TEST(test_a_ring_with_a_profile), TEST(test_strings_are_copied),
        TEST(test_one_file_for_two), TEST(test_no_source_in_a_ring),
        TEST(test_cancelled), TEST(test_a_role_after_the_conf_file),
        TEST(test_no_role_no_credentials), TEST(test_a_role_after_the_hook),
        TEST(test_a_role_expires), TEST(test_a_role_s_strings_are_copied),
        TEST(test_no_role_no_sts), TEST(test_unreachable_is_remembered),
        TEST(test_refreshed_early), TEST(test_too_little_time_proves_nothing),
        TEST(test_it_is_not_kms_s_failure), TEST(test_patience)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
