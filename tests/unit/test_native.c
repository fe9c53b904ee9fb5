/* Room native: which source is configured, what it gives, and what is said of
 * one that gives nothing. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "world.h"
#include "unit.h"

#define OK(w, call) EXPECT(w, KAWS_OK, NULL, call)
#define KEYS(id) "aws_access_key_id = " id "\naws_secret_access_key = S3CR\n"

static const char *const variables[] = {
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN", "AWS_PROFILE", "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "AWS_EC2_INSTANCE_PROFILE_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME"
};

typedef struct reading {
    kaws__sources sources;
    kaws__seek    seek;
    kaws__http    http;           /* which has the `send` hook                */
    uint8_t       text[KAWS__SOURCES_TEXT_MAX];
    char          config[128], credentials[128];
} reading;


static void
paths(struct world *w, reading *r)
{
    (void)snprintf(r->config, sizeof r->config, "%s/config", w->f.dir);
    (void)snprintf(r->credentials, sizeof r->credentials, "%s/credentials",
                   w->f.dir);
}


/* A file of that text, for its owner alone; NULL: there is none. */
static void
write_file(const char *path, const char *text)
{
    (void)remove(path);
    if (text == NULL)
        return;
    spill(path, text, strlen(text));
    assert_int_equal(chmod(path, 0600), 0);
}


static kaws_status
read_again(struct world *w, reading *r)
{
    kaws__err_clear(&w->err);
    memset(&r->seek, 0, sizeof r->seek);
    memset(r->text, 0, sizeof r->text);
    r->seek.text = r->text;
    r->seek.left_ms = 10000;
    r->seek.http = &r->http;
    r->http.hooks = &w->f.hooks;
    return kaws__sources_read(&r->sources, &r->seek, &w->err);
}


static kaws_status
open_and_read(struct world *w, reading *r, const kaws_config *cfg)
{
    kaws__err_clear(&w->err);
    kaws__sources_open(&r->sources, &w->f.hooks, w->f.conf);
    EXPECT(w, KAWS_OK, NULL, kaws__native_open(&r->sources, cfg, &w->err));
    return read_again(w, r);
}


/* What was found is in the caller's memory, and nothing else of the files. */
static void
found(const reading *r, const char *const want[3])
{
    size_t i, at = 0;

    for (i = 0; i < 3; i++) {
        unit_same("found", r->seek.found[i].at, r->seek.found[i].len, want[i],
                  strlen(want[i]));
        assert_ptr_equal(r->seek.found[i].at, r->text + at);
        at += r->seek.found[i].len;
    }
    for (; at < sizeof r->text; at++)
        assert_int_equal(r->text[at], 0);
    assert_true(r->seek.expires == 0);
}


static int
begin(void **state)
{
    size_t i;

    for (i = 0; i < COUNT(variables); i++)
        (void)unsetenv(variables[i]);
    (void)setenv("AWS_EC2_METADATA_DISABLED", "true", 1);
    return world_begin(state);
}


static int
end(void **state)
{
    struct world *w = *state;
    reading r;

    paths(w, &r);
    (void)remove(r.config);
    (void)remove(r.credentials);
    return world_end(state);
}


/* ---- profiles ----------------------------------------------------------- */

static void
put_file(const unit_file *f, const char *field, const char *path)
{
    const char *value = unit_field(f, field, 0);
    uint8_t *bytes;
    size_t len;

    (void)remove(path);
    if (value == NULL)
        return;
    bytes = unit_undo(value, &len);
    spill(path, bytes, len);
    assert_int_equal(chmod(path, 0600), 0);
    free(bytes);
}


static void
test_profiles(void **state)
{
    struct world *w = *state;
    kaws_config cfg = { .auth = "native" };
    const char *wrong;
    size_t count = 0, i;
    unit_file f;
    reading r;

    paths(w, &r);
    cfg.config_file = r.config;
    cfg.credentials_file = r.credentials;
    unit_open(&f, __FILE__, "profile.txt");
    for (; unit_next(&f); count++) {
        const char *want[3] = { unit_field(&f, "id", 0),
                                unit_field(&f, "secret", 0),
                                unit_field(&f, "token", 0) };
        world_case = unit_must(&f, "case");
        put_file(&f, "config", r.config);
        put_file(&f, "credentials", r.credentials);
        cfg.profile = unit_field(&f, "profile", 0);
        wrong = unit_field(&f, "wrong", 0);
        EXPECT(w, wrong == NULL ? KAWS_OK : KAWS_CONFIG, wrong,
               open_and_read(w, &r, &cfg));
        assert_string_equal(r.sources.source->name, "the profile");
        assert_null(strstr(w->err.text, "S3CR"));
        for (i = 0; i < 3; i++)
            want[i] = want[i] != NULL ? want[i] : "";
        if (wrong == NULL)
            found(&r, want);
        else
            assert_int_equal(r.seek.found[0].len, 0);
    }
    world_case = "";
    unit_close(&f);
    assert_in_range(count, 40, 1000);
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);
}


/* Both files may have 65535 bytes: a long one is read whole, a longer one is
 * refused, and never in part. */
static void
test_long_files(void **state)
{
    static char text[70000];
    static const char keys[] = "\n[default]\n" KEYS("AK");
    const char *const want[3] = { "AK", "S3CR", "" };
    const size_t most = 65535, n = sizeof keys - 1;
    struct world *w = *state;
    kaws_config cfg = { .auth = "native" };
    reading r;

    paths(w, &r);
    cfg.profile = "default";
    cfg.config_file = r.config;
    cfg.credentials_file = r.credentials;
    memset(text, '#', sizeof text);
    memcpy(text + most - n, keys, n);
    spill(r.credentials, text, most);
    assert_int_equal(chmod(r.credentials, 0600), 0);
    EXPECT(w, KAWS_OK, NULL, open_and_read(w, &r, &cfg));
    found(&r, want);
    spill(r.credentials, text, sizeof text);
    EXPECT(w, KAWS_CONFIG, "too long", open_and_read(w, &r, &cfg));
    spill(r.credentials, text + 10000, most - 10000);
    write_file(r.config, "#\n");
    EXPECT(w, KAWS_OK, NULL, open_and_read(w, &r, &cfg));
    spill(r.config, text, 10000);         /* one byte too many for both       */
    EXPECT(w, KAWS_OK, NULL, open_and_read(w, &r, &cfg));
    spill(r.config, text, 10001);
    EXPECT(w, KAWS_CONFIG, "the credentials file", open_and_read(w, &r, &cfg));
}


/* Parts as long as they may be, and a byte longer. */
static void
test_longest(void **state)
{
    static const struct { size_t id, secret, token; const char *says; } rows[] =
    {
        { 128, 256, 4096, NULL }, { 129, 1, 0, "aws_access_key_id: " },
        { 1, 257, 0, "aws_secret_access_key: " },
        { 1, 1, 4097, "aws_session_token: it is longer" },
        { 1, 1, 60000, "aws_session_token: it is longer" }
    };
    static char id[200], secret[300], token[60001], text[62000];
    const char *const want[3] = { id, secret, token };
    struct world *w = *state;
    kaws_config cfg = { .auth = "native" };
    reading r;
    size_t i;

    paths(w, &r);
    cfg.credentials_file = r.credentials;
    for (i = 0; i < COUNT(rows); i++) {
        memset(memset(id, 0, sizeof id), 'i', rows[i].id);
        memset(memset(secret, 0, sizeof secret), 's', rows[i].secret);
        memset(memset(token, 0, sizeof token), 't', rows[i].token);
        (void)snprintf(text, sizeof text, "[default]\naws_session_token=%s\n"
                       "aws_access_key_id=%s\naws_secret_access_key=%s\n",
                       token, id, secret);
        write_file(r.credentials, text);
        EXPECT(w, rows[i].says == NULL ? KAWS_OK : KAWS_CONFIG, rows[i].says,
               open_and_read(w, &r, &cfg));
        if (rows[i].says == NULL)
            found(&r, want);
    }
}


/* The message says which files were looked at, and how that went. */
static void
test_no_such_profile(void **state)
{
    struct world *w = *state;
    kaws_config cfg = { .auth = "native", .profile = "a\nb" };
    char want[512];
    reading r;

    paths(w, &r);
    EXPECT(w, KAWS_CONFIG, "there is no profile a\\x0ab: the credentials file "
           "is not set, and the config file is not set",
           open_and_read(w, &r, &cfg));
    cfg.config_file = r.config;
    cfg.credentials_file = r.credentials;
    write_file(r.config, "[default]\n");
    (void)snprintf(want, sizeof want, "the credentials file %s is not there, "
                   "and the config file %s does not have it", r.credentials,
                   r.config);
    EXPECT(w, KAWS_CONFIG, want, open_and_read(w, &r, &cfg));

    /* Once it is there, it is found. */
    cfg.profile = "late";
    EXPECT(w, KAWS_CONFIG, "no profile late", open_and_read(w, &r, &cfg));
    write_file(r.credentials, "[late]\n" KEYS("AK"));
    EXPECT(w, KAWS_OK, NULL, read_again(w, &r));
    write_file(r.credentials, "[late]\n" KEYS("AK2"));
    EXPECT(w, KAWS_OK, NULL, read_again(w, &r));
    assert_int_equal(r.seek.found[0].len, 3);
}


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
    { FILES, "no source", NULL, "no source" },
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
set(const char *name, const char *value)
{
    if (value == NULL)
        assert_int_equal(unsetenv(name), 0);
    else
        assert_int_equal(setenv(name, value, 1), 0);
}


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


/* A file that the settings name goes before one of the environment. */
static void
test_settings_go_before_the_environment(void **state)
{
    struct world *w = *state;
    kaws_config cfg = { .auth = "native" };
    reading r;

    paths(w, &r);
    write_file(r.credentials, "[default]\n" KEYS("SET"));
    write_file(r.config, "[default]\n" KEYS("ENV"));
    set("AWS_SHARED_CREDENTIALS_FILE", r.config);
    cfg.credentials_file = r.credentials;
    EXPECT(w, KAWS_OK, NULL, open_and_read(w, &r, &cfg));
    assert_memory_equal(r.seek.found[0].at, "SET", 3);
    cfg.credentials_file = NULL;
    EXPECT(w, KAWS_OK, NULL, open_and_read(w, &r, &cfg));
    assert_memory_equal(r.seek.found[0].at, "ENV", 3);
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


/* ---- files that others may change or read -------------------------------- */

#if !defined(_WIN32)                      /* which has no modes, no pipes in
                                           * folders, and another putenv()    */

static void
test_modes(void **state)
{
    static const struct { int config; mode_t mode; int keys;
                          const char *warned; } rows[] = {
        { 0, 0600, 1, NULL }, { 0, 0400, 1, NULL },
        { 0, 0604, 1, "the credentials file %s may be read by others" },
        { 0, 0602, 1, "the credentials file %s may be written by others" },
        { 1, 0644, 0, NULL },             /* a region is no secret            */
        { 1, 0644, 1, "the config file %s may be read by others" },
        { 1, 0666, 0, "the config file %s may be written by others" }
    };
    struct world *w = *state;
    kaws_config cfg = { .auth = "native" };
    char want[512];
    reading r;
    size_t i;

    paths(w, &r);
    cfg.config_file = r.config;
    cfg.credentials_file = r.credentials;
    for (i = 0; i < COUNT(rows); i++) {
        const char *path = rows[i].config ? r.config : r.credentials;
        write_file(r.config, rows[i].config && rows[i].keys
                   ? "[default]\n" KEYS("AK") : "[default]\nregion = x\n");
        write_file(r.credentials, rows[i].config && rows[i].keys
                   ? NULL : "[default]\n" KEYS("AK"));
        assert_int_equal(chmod(path, rows[i].mode), 0);
        fake_forget_log(&w->f);
        EXPECT(w, KAWS_OK, NULL, open_and_read(w, &r, &cfg));
        assert_int_equal(fake_logged(&w->f, -1, ""), rows[i].warned != NULL);
        (void)snprintf(want, sizeof want,
                       rows[i].warned != NULL ? rows[i].warned : "%s", path);
        assert_int_equal(fake_logged(&w->f, 1, want), rows[i].warned != NULL);
    }
}


/* A pipe is not waited for, a folder and what may not be read are told. */
static void
test_not_a_file(void **state)
{
    struct world *w = *state;
    kaws_config cfg = { .auth = "native" };
    reading r;

    paths(w, &r);
    cfg.credentials_file = r.credentials;
    assert_int_equal(mkfifo(r.credentials, 0600), 0);
    EXPECT(w, KAWS_CONFIG, "is not a file", open_and_read(w, &r, &cfg));
    assert_int_equal(unlink(r.credentials), 0);
    assert_int_equal(symlink(r.credentials, r.credentials), 0);
    EXPECT(w, KAWS_CONFIG, "cannot read the credentials file",
           open_and_read(w, &r, &cfg));
    assert_int_equal(w->err.os, ELOOP);
    assert_int_equal(unlink(r.credentials), 0);
    cfg.credentials_file = w->f.conf;     /* a link is followed               */
    assert_int_equal(symlink(r.config, r.credentials), 0);
    write_file(r.config, "[default]\n" KEYS("AK"));
    cfg.credentials_file = r.credentials;
    EXPECT(w, KAWS_OK, NULL, open_and_read(w, &r, &cfg));
}


#endif


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
                                 " from the profile app; their access key id "
                                 "ends in FAKE, and they expire: never"), 1);
    (void)snprintf(w->f.id, sizeof w->f.id, "AKIANEWNEWNEWNEWNEWN");
    EXPECT(w, KAWS_CREDENTIALS, "UnrecognizedClientException",
           kaws_check(w->ring, &w->err));
    assert_non_null(strstr(w->err.text, "come from the profile"));
    (void)snprintf(text, sizeof text, "[app]\naws_access_key_id = %s\n"
                   "aws_secret_access_key = %s\n", w->f.id, FAKE_SECRET);
    write_file(r.credentials, text);
    OK(w, kaws_check(w->ring, &w->err));
    assert_int_equal(fake_logged(&w->f, 2, "[KAWS-107] "), 1);
    assert_int_equal(fake_logged(&w->f, 2, "app; their access key id ends in "
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


/* ---- over HTTP ----------------------------------------------------------- */

/* What is said to requests, in their order; and what they have to be. */
typedef struct said {
    const char *request;          /* "GET http://..."                         */
    const char *header;           /* one that it has to have; NULL: none      */
    int         http;             /* 0: there is no reply                     */
    const char *body;
} said;

static const said *script;
static size_t asked;


static int
remote_send(void *ctx, const kaws_request *q, kaws_reply *r)
{
    const said *s = &script[asked++];
    char want[1200];
    size_t i = 0;

    (void)ctx;
    (void)snprintf(want, sizeof want, "%s %s", q->method, q->url);
    if (s->request == NULL || strcmp(want, s->request) != 0)
        fail_msg("%s: request %lu is %s", world_case, (unsigned long)asked,
                 want);
    while (q->headers[i] != NULL && (s->header == NULL ||
                                     strcmp(q->headers[i], s->header) != 0))
        i++;
    if (s->header != NULL && q->headers[i] == NULL)
        fail_msg("%s: it has no header %s", world_case, s->header);
    for (i = 0; q->headers[i] != NULL; i++)
        assert_true(s->header != NULL ||
                    strcmp(q->headers[i], "Accept: application/json") == 0);
    assert_true(q->direct && q->fresh_connection && q->body.len == 0);
    assert_in_range(q->connect_timeout_ms, 1, 1000);
    assert_in_range(q->timeout_ms, 1, 2000);
    assert_true(r->body_max == 65536);
    r->http = s->http;
    r->body_len = strlen(s->body);
    memcpy(r->body, s->body, r->body_len);
    (void)snprintf(r->text, sizeof r->text, "%s", s->http == 0 ? s->body : "");
    return s->http == 0;
}


#define JSON(more) "{\"AccessKeyId\":\"AK\",\"SecretAccessKey\":\"S3CR\"," \
    "\"Token\":\"TOK\",\"Expiration\":\"2026-11-27T08:32:38Z\"" more "}"
#define AT "http://169.254.169.254/latest/"
#define LIST AT "meta-data/iam/security-credentials/"
#define TTL "x-aws-ec2-metadata-token-ttl-seconds: 60"
#define MINE "x-aws-ec2-metadata-token: t/1=="
#define TOKENS { "PUT " AT "api/token", TTL, 200, "t/1==" }

/* What the environment is, up to a NULL; the exchange; and what is said. */
static const struct {
    const char *what, *env[8];
    said        script[4];
    kaws_status status;
    const char *says;
} exchanges[] = {
    { "instance", { NULL }, { TOKENS, { "GET " LIST, MINE, 200, "role-1" },
      { "GET " LIST "role-1", MINE, 200, JSON(",\"Code\":\"Success\"") } },
      KAWS_OK, NULL },
    { "instance: several roles, and no Code", { NULL }, { TOKENS,
      { "GET " LIST, MINE, 200, "a_+=,.@-9\r\nb" },
      { "GET " LIST "a_+=,.@-9", MINE, 200, JSON("") } }, KAWS_OK, NULL },
    { "instance: its role is known", { "AWS_EC2_INSTANCE_PROFILE_NAME", "r" },
      { TOKENS, { "GET " LIST "r", MINE, 200, JSON("") } }, KAWS_OK, NULL },
    { "instance: IPv6", { "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPV6",
      "AWS_EC2_INSTANCE_PROFILE_NAME", "r" },
      { { "PUT http://[fd00:ec2::254]/latest/api/token", TTL, 200, "t" },
        { "GET http://[fd00:ec2::254]/latest/meta-data/iam/"
          "security-credentials/r", "x-aws-ec2-metadata-token: t", 200,
          JSON("") } }, KAWS_OK, NULL },
    { "instance: endpoint goes before the mode",
      { "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv6",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9911/" },
      { { "PUT http://127.0.0.1:9911/latest/api/token", TTL, 404, "" } },
      KAWS_CREDENTIALS, "gave no AWS credentials (HTTP 404); is this" },
    { "instance: endpoint elsewhere",
      { "AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://10.0.0.1" },
      { { NULL, NULL, 0, "" } }, KAWS_CONFIG, "ENDPOINT cannot be used: its "
      "host is neither this machine" },
    { "instance: endpoint with TLS",
      { "AWS_EC2_METADATA_SERVICE_ENDPOINT", "https://10.0.0.1" },
      { { NULL, NULL, 0, "" } }, KAWS_CONFIG, "its host is neither" },
    { "instance: not there", { NULL }, { { "PUT " AT "api/token", TTL, 0,
      "timed out" } }, KAWS_NETWORK, "cannot reach the instance at " AT
      "api/token for AWS credentials: timed out; is this an EC2 instance? In a "
      "container on one, its hop limit has to be 2" },
    { "instance: forbidden", { NULL }, { { "PUT " AT "api/token", TTL, 403,
      "S3CR" } }, KAWS_CREDENTIALS, "(HTTP 403); is this an EC2" },
    { "instance: a fault of its own", { NULL }, { { "PUT " AT "api/token", TTL,
      503, "S3CR" } }, KAWS_SERVICE, "(HTTP 503)" },
    { "instance: a token in two lines", { NULL }, { { "PUT " AT "api/token",
      TTL, 200, "S3CR\nS3CR" } }, KAWS_CREDENTIALS, "a token that cannot be" },
    { "instance: no token", { NULL }, { { "PUT " AT "api/token", TTL, 200, "" }
      }, KAWS_CREDENTIALS, "a token that cannot be one" },
    { "instance: no role", { NULL }, { TOKENS, { "GET " LIST, MINE, 404, "no" }
      }, KAWS_CREDENTIALS, "has no role: attach an instance profile" },
    { "instance: an empty list", { NULL }, { TOKENS, { "GET " LIST, MINE, 200,
      "" } }, KAWS_CREDENTIALS, "no name of a role" },
    { "instance: a role that leads elsewhere", { NULL }, { TOKENS,
      { "GET " LIST, MINE, 200, "S3CR/../x" } }, KAWS_CREDENTIALS,
      "no name of a role" },
    { "instance: a redirect", { NULL }, { TOKENS, { "GET " LIST, MINE, 302,
      "" } }, KAWS_CREDENTIALS, "(HTTP 302)" },
    { "instance: Code", { "AWS_EC2_INSTANCE_PROFILE_NAME", "r" }, { TOKENS,
      { "GET " LIST "r", MINE, 200, "{\"Code\":\"AssumeRoleUnauthorized\","
        "\"Message\":\"S3CR\"}" } }, KAWS_CREDENTIALS,
      "not Success: may the service assume the role? It is AssumeRoleUnauth" },
    { "instance: no date", { "AWS_EC2_INSTANCE_PROFILE_NAME", "r" }, { TOKENS,
      { "GET " LIST "r", MINE, 200, "{\"Expiration\":\"soon\"}" } },
      KAWS_CREDENTIALS, "Expiration is not a date" },
    { "instance: no JSON", { "AWS_EC2_INSTANCE_PROFILE_NAME", "r" }, { TOKENS,
      { "GET " LIST "r", MINE, 200, "S3CR" } }, KAWS_CREDENTIALS,
      "an object was expected" },
    { "instance: half of it", { "AWS_EC2_INSTANCE_PROFILE_NAME", "r" }, {
      TOKENS, { "GET " LIST "r", MINE, 200, "{\"AccessKeyId\":\"AK\","
        "\"Expiration\":\"2026-11-27T08:32:38Z\"}" } }, KAWS_CREDENTIALS,
      "the instance (EC2): SecretAccessKey is missing" },

    { "container: ECS", { "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x?a=b",
      "AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://no" },
      { { "GET http://169.254.170.2/v2/x?a=b", NULL, 200, JSON("") } }, KAWS_OK,
      NULL },
    { "container: not a path", { "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
      "@evil/" }, { { NULL, NULL, 0, "" } }, KAWS_CONFIG,
      "the container (AWS_CONTAINER_CREDENTIALS_RELATIVE_URI) has a URL that" },
    { "container: EKS", { "AWS_CONTAINER_CREDENTIALS_FULL_URI",
      "http://169.254.170.23/v1/credentials",
      "AWS_CONTAINER_AUTHORIZATION_TOKEN", "jwt.a b" },
      { { "GET http://169.254.170.23/v1/credentials", "Authorization: jwt.a b",
          200, JSON("") } }, KAWS_OK, NULL },
    { "container: a server with TLS", { "AWS_CONTAINER_CREDENTIALS_FULL_URI",
      "https://creds.example:8443/x" },
      { { "GET https://creds.example:8443/x", NULL, 200, JSON("") } }, KAWS_OK,
      NULL },
    { "container: two lines", { "AWS_CONTAINER_CREDENTIALS_FULL_URI",
      "http://localhost/x", "AWS_CONTAINER_AUTHORIZATION_TOKEN",
      "S3CR\r\nX-Evil: 1" }, { { NULL, NULL, 0, "" } }, KAWS_CREDENTIALS,
      "what AWS_CONTAINER_AUTHORIZATION_TOKEN holds cannot be the token" },
    { "container: no token file", { "AWS_CONTAINER_CREDENTIALS_FULL_URI",
      "http://localhost/x", "AWS_CONTAINER_AUTHORIZATION_TOKEN", "S3CR",
      "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/no/where" },
      { { NULL, NULL, 0, "" } }, KAWS_CREDENTIALS,
      "cannot read the token file /no/where" },
    { "container: refused", { "AWS_CONTAINER_CREDENTIALS_FULL_URI",
      "http://localhost/x" }, { { "GET http://localhost/x", NULL, 401, "S3CR" }
      }, KAWS_CREDENTIALS, "(HTTP 401); is the container's agent up" },
    { "container: not there", { "AWS_CONTAINER_CREDENTIALS_FULL_URI",
      "http://localhost/x", "AWS_CONTAINER_AUTHORIZATION_TOKEN",
      "S3CRS3CRS3CRS3CRS3CR" },
      { { "GET http://localhost/x", "Authorization: S3CRS3CRS3CRS3CRS3CR", 0,
          "sent Authorization: S3CRS3CRS3CRS3CRS3CR" } }, KAWS_NETWORK,
      "cannot reach the container at http://localhost/x for AWS credentials: "
      "; is" },
    { "container: too long", { "AWS_CONTAINER_CREDENTIALS_FULL_URI",
      "http://localhost/x" }, { { "GET http://localhost/x", NULL, 200, "long" }
      }, KAWS_CREDENTIALS, "an object was expected" }
};


static void
test_over_http(void **state)
{
    static const char *const want[3] = { "AK", "S3CR", "TOK" };
    struct world *w = *state;
    kaws_config cfg = { .auth = "native" };
    kaws_status status;
    reading r;
    size_t i, k;

    w->f.hooks.send = remote_send;
    memset(&r, 0, sizeof r);
    assert_int_equal(kaws__thread_lock_init(&r.http.lock, KAWS__RANK_HTTP), 0);
    for (i = 0; i < COUNT(exchanges); i++) {
        for (k = 0; k < COUNT(variables); k++)
            set(variables[k], NULL);
        for (k = 0; exchanges[i].env[k] != NULL; k += 2)
            set(exchanges[i].env[k], exchanges[i].env[k + 1]);
        world_case = exchanges[i].what;
        script = exchanges[i].script;
        asked = 0;
        status = open_and_read(w, &r, &cfg);
        EXPECT(w, exchanges[i].status, exchanges[i].says, status);
        assert_null(strstr(w->err.text, "S3CR"));
        assert_int_equal(r.sources.source->remote, 1);
        for (k = 0; k < 4 && script[k].request != NULL; k++)
            continue;
        assert_int_equal(asked, k);
        if (status != KAWS_OK)
            continue;
        assert_true(r.seek.expires == 1795768358);
        r.seek.expires = 0;
        found(&r, want);
    }
    world_case = "";
    kaws__thread_lock_free(&r.http.lock);
}


static void
test_urls(void **state)
{
    static const struct { const char *url, *wrong; } rows[] = {
        { "http://169.254.170.2/x", NULL }, { "http://169.254.170.23", NULL },
        { "http://169.254.170.2:80/x?y", NULL }, { "http://LocalHost/", NULL },
        { "http://127.0.0.1/", NULL }, { "http://127.255.0.9:1/", NULL },
        { "http://[::1]:80/x", NULL }, { "http://[FD00:ec2::23]/v1", NULL },
        { "http://169.254.170.2.evil.example/", "neither" },
        { "http://169.254.170.2@10.0.0.1/", "form" },
        { "http://169.254.170.2:80@10.0.0.1/", "form" },
        { "http://10.0.0.1/169.254.170.2", "neither" },
        { "http://10.0.0.1#@127.0.0.1/", "form" },
        { "http://10.0.0.1\\@127.0.0.1/", "form" },
        { "http://10.0.0.1\\.127.0.0.1/", "form" },
        { "http://127.0.0.1?@10.0.0.1/", "form" },
        { "http://127.0.0.1?.10.0.0.1/", "form" },
        { "http://127.0.0.1.evil.example/", "neither" },
        { "http://127.1/", "neither" }, { "http://127.0.0.1.1/", "neither" },
        { "http://127.0.0.256/", "neither" }, { "http://127.0.0./", "neither" },
        { "http://0177.0.0.1/", "neither" }, { "http://127.0.0.01/",
          "neither" }, { "http://2130706433/", "neither" },
        { "http://0x7f.0.0.1/", "neither" },
        { "http://128.0.0.1/", "neither" }, { "http://localhost.evil/",
          "neither" }, { "http://evil-localhost/", "neither" },
        { "http://[::ffff:10.0.0.1]/", "neither" },
        { "http://[fe80::1]/", "neither" }, { "http://[::1%25lo]/",
          "malformed" }, { "http://[::1/", "malformed" },
        { "http:///x", "malformed" }, { "http://", "malformed" },
        { "http://127.0.0.1:99999/", "malformed" },
        { "http://127.0.0.1:/", "malformed" },
        { "http://127.0.0.1/@x", "form" }, { "http://127.0.0.1/#x", "form" },
        { "ftp://127.0.0.1/", "form" }, { "HTTP://127.0.0.1/", "form" },
        { "127.0.0.1/", "form" }, { "", "form" },
        { "http://127.0.0.1/a b", "form" }, { "http://127.0.0.1/\r\nX: y",
          "form" }, { "http://127.0.0.1/\xc3\xa4", "form" },
        { "https://10.0.0.1/x", NULL }, { "https://evil.example", NULL },
        { "https://a@b/", "form" }, { "https://a b/", "form" }
    };
    static char url[1100];
    const char *wrong;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        wrong = kaws__native_url_wrong(rows[i].url, 1);
        if ((wrong == NULL) != (rows[i].wrong == NULL) ||
            (wrong != NULL && strstr(wrong, rows[i].wrong) == NULL))
            fail_msg("%s: %s", rows[i].url, wrong);
    }
    assert_non_null(kaws__native_url_wrong("https://evil.example/", 0));
    memset(url, 'x', sizeof url);
    memcpy(url, "http://127.0.0.1/", 17);
    url[1023] = '\0';
    assert_null(kaws__native_url_wrong(url, 0));
    url[1023] = 'x';
    url[1024] = '\0';
    assert_non_null(kaws__native_url_wrong(url, 0));
}


/* The form that STS gets: what is odd in it is encoded. */
static int
sts_send(void *ctx, const kaws_request *q, kaws_reply *r)
{
    static const char form[] = "Action=AssumeRoleWithWebIdentity&Version="
        "2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fa%20b%26c&"
        "RoleSessionName=keyring_aws&WebIdentityToken=ey.a-b_c~0123456%2B%2F%3D"
        ;

    (void)ctx;
    assert_string_equal(q->url, "https://sts.eu-west-1.amazonaws.com/");
    assert_true(q->method == NULL && !q->direct);
    assert_string_equal(q->headers[0], "Content-Type: application/x-www-form-"
                        "urlencoded; charset=utf-8");
    assert_null(q->headers[1]);           /* it is not signed                 */
    unit_same("form", q->body.at, q->body.len, form, sizeof form - 1);
    (void)snprintf(r->text, sizeof r->text, "lost ey.a-b_c~0123456+/= there");
    return 1;
}


static void
test_web_identity(void **state)
{
    static char text[20002];
    struct world *w = *state;
    kaws_config cfg = { .auth = "native" };
    char token[128];
    reading r;

    w->f.hooks.send = sts_send;
    memset(&r, 0, sizeof r);
    (void)snprintf(token, sizeof token, "%s/token", w->f.dir);
    set("AWS_WEB_IDENTITY_TOKEN_FILE", token);
    set("AWS_ROLE_ARN", "arn:aws:iam::1:role/a b&c");
    write_file(token, "ey.a-b_c~0123456+/=\r\n \n");
    kaws__err_clear(&w->err);
    kaws__sources_open(&r.sources, &w->f.hooks, NULL);
    kaws__arn_url(r.sources.sts_url, sizeof r.sources.sts_url, "sts", NULL,
                  "eu-west-1");
    EXPECT(w, KAWS_OK, NULL, kaws__native_open(&r.sources, &cfg, &w->err));
    EXPECT(w, KAWS_NETWORK, "cannot reach AWS STS at https://sts.eu-west-1.",
           read_again(w, &r));
    assert_null(strstr(w->err.text, "ey."));
    memset(text, 'x', 20001);
    write_file(token, text);
    EXPECT(w, KAWS_CREDENTIALS, "does not hold 4 to 20000 bytes",
           read_again(w, &r));
    write_file(token, "abc\n");
    EXPECT(w, KAWS_CREDENTIALS, "does not hold 4 to 20000 bytes",
           read_again(w, &r));
    memset(text, '=', 20000);             /* three times as long on its way   */
    text[20000] = '\0';
    write_file(token, text);
    EXPECT(w, KAWS_CREDENTIALS, "does not hold", read_again(w, &r));
    assert_int_equal(remove(token), 0);
    EXPECT(w, KAWS_CREDENTIALS, "cannot read the token file",
           read_again(w, &r));
    set("AWS_ROLE_ARN", NULL);
    EXPECT(w, KAWS_CONFIG, "AWS_ROLE_ARN has to be", read_again(w, &r));
    kaws__err_clear(&w->err);
    w->cfg.sts_endpoint = "http://10.0.0.1";
    EXPECT(w, KAWS_CONFIG, "sts_endpoint 'http://10.0.0.1' is not of the form",
           kaws_open(&w->ring, &w->cfg, &w->err));
}


/* The token file is read for each request; a reply that does not fit is not
 * read in part. */
static void
test_token_file(void **state)
{
    static const said two[] = {
        { "GET http://localhost/x", "Authorization: first", 200, JSON("") },
        { "GET http://localhost/x", "Authorization: second", 200, JSON("") },
        { NULL, NULL, 0, "" }
    };
    struct world *w = *state;
    kaws_config cfg = { .auth = "native" };
    char token[128];
    reading r;

    w->f.hooks.send = remote_send;
    memset(&r, 0, sizeof r);
    assert_int_equal(kaws__thread_lock_init(&r.http.lock, KAWS__RANK_HTTP), 0);
    (void)snprintf(token, sizeof token, "%s/token", w->f.dir);
    set("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://localhost/x");
    set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token);
    script = two;
    asked = 0;
    write_file(token, "first\r\n");
    EXPECT(w, KAWS_OK, NULL, open_and_read(w, &r, &cfg));
    write_file(token, "second");
    EXPECT(w, KAWS_OK, NULL, read_again(w, &r));
    write_file(token, "");
    EXPECT(w, KAWS_CREDENTIALS, "cannot be the token", read_again(w, &r));
    write_file(token, "a\nX: y\n");
    EXPECT(w, KAWS_CREDENTIALS, "cannot be the token", read_again(w, &r));
    assert_int_equal(asked, 2);
    assert_int_equal(remove(token), 0);
    kaws__thread_lock_free(&r.http.lock);
}


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


#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_profiles), TEST(test_long_files), TEST(test_longest),
        TEST(test_no_such_profile), TEST(test_the_first_configured_decides),
        TEST(test_settings_go_before_the_environment),
        TEST(test_the_hook_outranks_all), TEST(test_auth),
#if !defined(_WIN32)
        TEST(test_modes), TEST(test_not_a_file),
        TEST(test_an_environment_that_changes),
#endif
        TEST(test_a_ring_with_a_profile), TEST(test_strings_are_copied),
        TEST(test_one_file_for_two), TEST(test_no_source_in_a_ring),
        TEST(test_cancelled), TEST(test_web_identity), TEST(test_over_http),
        TEST(test_urls), TEST(test_token_file),
        TEST(test_unreachable_is_remembered), TEST(test_refreshed_early),
        TEST(test_patience)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
