/* Room profile: the files of AWS's tools, and what they say of a profile. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "reading.h"

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
        EXPECT(w, wrong == NULL ? KAWS_OK
               : unit_field(&f, "status", 0) != NULL ? KAWS_CREDENTIALS
               : KAWS_CONFIG, wrong, open_and_read(w, &r, &cfg));
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
    spill(r.config, text, 10000);
    EXPECT(w, KAWS_OK, NULL, open_and_read(w, &r, &cfg));
    spill(r.config, text, 10001);         /* one byte too many for both       */
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


int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_profiles), TEST(test_long_files), TEST(test_longest),
        TEST(test_no_such_profile),
        TEST(test_settings_go_before_the_environment),
#if !defined(_WIN32)
        TEST(test_modes), TEST(test_not_a_file),
#endif
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
