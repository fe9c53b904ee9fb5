/* reading.h - what the tests of the rooms between sources and creds share: an
 * environment, the files of AWS's tools, and a reading of what they mean
 *
 * Include it after keyring_aws.h with its implementation. Every test begins
 * without any variable of AWS, and on no instance.
 */

#if !defined(KAWS_READING_H)
#define KAWS_READING_H

#include "world.h"
#include "unit.h"

#define OK(w, call) EXPECT(w, KAWS_OK, NULL, call)
#define KEYS(id) "aws_access_key_id = " id "\naws_secret_access_key = S3CR\n"

FAKE const char *const variables[] = {
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN", "AWS_PROFILE", "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "AWS_EC2_INSTANCE_PROFILE_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME",
    "AWS_ACCOUNT_ID", "AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"
};

typedef struct reading {
    kaws__sources sources;
    kaws__seek    seek;
    const char   *region;         /* of the KMS key; NULL: us-east-1          */
    kaws__http    http;           /* which has the `send` hook                */
    uint8_t       text[KAWS__SOURCES_TEXT_MAX];
    char          config[128], credentials[128];
} reading;


FAKE void
paths(struct world *w, reading *r)
{
    r->region = NULL;
    (void)snprintf(r->config, sizeof r->config, "%s/config", w->f.dir);
    (void)snprintf(r->credentials, sizeof r->credentials, "%s/credentials",
                   w->f.dir);
}


/* A file of that text, for its owner alone; NULL: there is none. */
FAKE void
write_file(const char *path, const char *text)
{
    (void)remove(path);
    if (text == NULL)
        return;
    spill(path, text, strlen(text));
    assert_int_equal(chmod(path, 0600), 0);
}


FAKE kaws_status
read_again(struct world *w, reading *r)
{
    kaws__err_clear(&w->err);
    memset(&r->seek, 0, sizeof r->seek);
    memset(r->text, 0, sizeof r->text);
    r->seek.text = r->text;
    r->seek.left_ms = 10000;
    r->seek.http = &r->http;
    r->seek.region = r->region != NULL ? r->region : "us-east-1";
    r->http.hooks = &w->f.hooks;
    return kaws__sources_read(&r->sources, &r->seek, &w->err);
}


FAKE kaws_status
open_and_read(struct world *w, reading *r, const kaws_config *cfg)
{
    r->region = NULL;
    kaws__err_clear(&w->err);
    kaws__sources_open(&r->sources, &w->f.hooks, w->f.conf);
    EXPECT(w, KAWS_OK, NULL, kaws__native_open(&r->sources, cfg, 1, &w->err));
    return read_again(w, r);
}


/* What was found is in the caller's memory, and nothing else of the files. */
FAKE void
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


FAKE int
begin(void **state)
{
    size_t i;

    for (i = 0; i < COUNT(variables); i++)
        (void)unsetenv(variables[i]);
    (void)setenv("AWS_EC2_METADATA_DISABLED", "true", 1);
    return world_begin(state);
}


FAKE int
end(void **state)
{
    struct world *w = *state;
    reading r;

    paths(w, &r);
    (void)remove(r.config);
    (void)remove(r.credentials);
    return world_end(state);
}


FAKE void
set(const char *name, const char *value)
{
    if (value == NULL)
        assert_int_equal(unsetenv(name), 0);
    else
        assert_int_equal(setenv(name, value, 1), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

#endif /* KAWS_READING_H */
