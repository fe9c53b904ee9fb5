/* Room native: which source is configured, what it gives, and what is said of
 * one that gives nothing. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "world.h"
#include "unit.h"

#define KEYS(id) "aws_access_key_id = " id "\naws_secret_access_key = S3CR\n"

static const char *const variables[] = {
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN", "AWS_PROFILE", "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE"
};

typedef struct reading {
    kaws__sources sources;
    kaws__seek    seek;
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
    assert_null(r.sources.files[0]);
}


/* ---- files that others may change or read -------------------------------- */

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


/* ---- in a ring ----------------------------------------------------------- */

#define OK(w, call) EXPECT(w, KAWS_OK, NULL, call)


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


#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_profiles), TEST(test_long_files), TEST(test_longest),
        TEST(test_no_such_profile), TEST(test_the_first_configured_decides),
        TEST(test_settings_go_before_the_environment),
        TEST(test_the_hook_outranks_all), TEST(test_modes),
        TEST(test_not_a_file), TEST(test_auth),
        TEST(test_a_ring_with_a_profile), TEST(test_strings_are_copied),
        TEST(test_one_file_for_two), TEST(test_no_source_in_a_ring)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
