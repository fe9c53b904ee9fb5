/* Room reading: the memory of a reading, what it loads and keeps, and what it
 * takes for credentials. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "reading.h"

static const char *const parts[3] = { "Id", "Secret", "Token" };

typedef struct started {
    reading       r;
    kaws__reading n;
} started;


/* Begins a reading of the conf file, with 1000 ms. */
static void
start(struct world *w, started *s)
{
    memset(s, 0, sizeof *s);
    kaws__err_clear(&w->err);
    kaws__sources_open(&s->r.sources, &w->f.hooks, w->f.conf);
    s->r.seek.left_ms = 1000;
    assert_int_equal(kaws__reading_begin(&s->n, &s->r.sources, &s->r.seek), 1);
    s->n.name = "the test";
    s->n.shown = "(x)";
}


static kaws_bytes
bytes_of(const char *text)
{
    return kaws__buf_of(text);
}


/* ---- memory and time ----------------------------------------------------- */

static void
test_its_memory(void **state)
{
    struct world *w = *state;
    started s;
    size_t i;

    start(w, &s);
    assert_ptr_equal(s.n.line, s.n.pages->line);
    assert_ptr_equal(s.n.room, s.n.pages->room);
    for (i = 0; i < sizeof *s.n.pages; i++)
        assert_int_equal(((uint8_t *)s.n.pages)[i], 0);
    assert_int_equal(s.n.role_count, 0);
    kaws__reading_end(&s.n);
    s.r.sources.role.arn = "arn";
    assert_int_equal(kaws__reading_begin(&s.n, &s.r.sources, &s.r.seek), 1);
    assert_int_equal(s.n.role_count, 1);
    assert_string_equal(s.n.roles[0].arn, "arn");
    kaws__reading_end(&s.n);
}


static void
test_its_time(void **state)
{
    struct world *w = *state;
    started s;

    start(w, &s);
    assert_int_equal(kaws__reading_left_ms(&s.n), 1000);
    w->f.now_ms += 999;
    assert_int_equal(kaws__reading_left_ms(&s.n), 1);
    w->f.now_ms += 1;
    assert_int_equal(kaws__reading_left_ms(&s.n), 0);
    w->f.now_ms += 1000000;
    assert_int_equal(kaws__reading_left_ms(&s.n), 0);
    w->f.now_ms -= 2000000;               /* a clock that goes backwards      */
    assert_int_equal(kaws__reading_left_ms(&s.n), 1000);
    kaws__reading_end(&s.n);
}


/* ---- files --------------------------------------------------------------- */

/* Each file goes behind the last one, as long as there is room. */
static void
test_loading(void **state)
{
    struct world *w = *state;
    static char text[KAWS__READING_ROOM];
    kaws_bytes one, two, three;
    char path[128];
    kaws__stat st;
    started s;

    start(w, &s);
    (void)snprintf(path, sizeof path, "%s/file", w->f.dir);
    write_file(path, "first");
    assert_int_equal(kaws__reading_load(&s.n, path, &one, &st), 0);
    assert_int_equal(kaws__reading_load(&s.n, w->f.data, &two, &st), ENOENT);
    assert_int_equal(two.len, 0);
    memset(text, 'x', sizeof text);
    spill(path, text, sizeof text);
    assert_int_equal(kaws__reading_load(&s.n, path, &three, &st), 0);
    unit_same("one", one.at, one.len, "first", 5);
    assert_ptr_equal(three.at, one.at + 5);
    assert_int_equal(three.len, KAWS__READING_ROOM - 5);
    assert_int_equal(s.n.used, KAWS__READING_ROOM);
    assert_int_equal(kaws__reading_load(&s.n, path, &two, &st), 0);
    assert_int_equal(two.len, 0);
    kaws__reading_end(&s.n);
}


#if !defined(_WIN32)

/* Who may write to a token file may choose the identity. */
static void
test_a_token_file_of_others(void **state)
{
    static const struct { mode_t mode; int warned; } rows[] = {
        { 0600, 0 }, { 0644, 0 }, { 0440, 0 }, { 0620, 1 }, { 0602, 1 }
    };
    struct world *w = *state;
    char path[128], want[300];
    kaws_bytes token;
    started s;
    size_t i;

    start(w, &s);
    (void)snprintf(path, sizeof path, "%s/token", w->f.dir);
    write_file(path, "S3CR");
    (void)snprintf(want, sizeof want, "the token file %s may be written by "
                   "others", path);
    for (i = 0; i < COUNT(rows); i++) {
        assert_int_equal(chmod(path, rows[i].mode), 0);
        fake_forget_log(&w->f);
        assert_int_equal(kaws__reading_load_token(&s.n, path, &token), 0);
        unit_same("token", token.at, token.len, "S3CR", 4);
        assert_int_equal(fake_logged(&w->f, -1, want), rows[i].warned);
        assert_int_equal(fake_logged(&w->f, -1, ""), rows[i].warned);
    }
    kaws__reading_end(&s.n);
}

#endif


/* What is kept stays where it is; what has no room is not kept in part. */
static void
test_keeping(void **state)
{
    static char text[KAWS__READING_KEPT];
    struct world *w = *state;
    const char *one, *two;
    started s;

    start(w, &s);
    memset(text, 'x', sizeof text);
    assert_null(kaws__reading_keep(&s.n, (kaws_bytes){ NULL, 0 }));
    one = kaws__reading_keep(&s.n, bytes_of("one"));
    assert_null(kaws__reading_keep(&s.n, (kaws_bytes){ (uint8_t *)text,
                                          KAWS__READING_KEPT - 4 }));
    two = kaws__reading_keep(&s.n, (kaws_bytes){ (uint8_t *)text,
                                          KAWS__READING_KEPT - 5 });
    assert_string_equal(one, "one");
    assert_int_equal(strlen(two), KAWS__READING_KEPT - 5);
    assert_ptr_equal(two + strlen(two) + 1, s.n.line);
    assert_null(kaws__reading_keep(&s.n, bytes_of("x")));
    kaws__reading_end(&s.n);
}


/* ---- credentials --------------------------------------------------------- */

static void
test_parts(void **state)
{
    static const struct { const char *date; int must; int64_t expires;
                          const char *wrong; } rows[] = {
        { "2026-11-27T08:32:38Z", 1, 1795768358, NULL },
        { "2026-11-27T08:32:38Z", 0, 1795768358, NULL },
        { NULL, 0, 0, NULL }, { NULL, 1, 0, "its Expiration is not a date" },
        { "", 0, 0, "its Expiration is not a date" },
        { "1969-12-31T23:59:59Z", 0, 0, "its Expiration is not a date" },
        { "1970-01-01T00:00:00Z", 1, 0, "its Expiration is not a date" }
    };
    struct world *w = *state;
    const char *wrong;
    started s;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        kaws__member want[4] = { { .value = bytes_of("i") },
                                 { .value = bytes_of("s") },
                                 { .value = bytes_of("t") }, { .name = "" } };
        if (rows[i].date != NULL)
            want[3].value = bytes_of(rows[i].date);
        start(w, &s);
        s.r.seek.expires = 77;            /* an earlier step's                */
        wrong = kaws__reading_parts(&s.n, want, rows[i].must);
        assert_true((wrong == NULL) == (rows[i].wrong == NULL));
        if (wrong == NULL) {
            assert_true(s.r.seek.expires == rows[i].expires);
            assert_int_equal(*s.r.seek.found[2].at, 't');
        } else {
            assert_string_equal(wrong, rows[i].wrong);
        }
        kaws__reading_end(&s.n);
    }
}


/* A step's parts are copied to where the next step has them, and an earlier
 * step's are gone. */
static void
test_taking(void **state)
{
    struct world *w = *state;
    char id[] = "AK", secret[] = "S3CR", token[] = "TOK";
    started s;
    int i;

    start(w, &s);
    s.r.seek.found[0] = bytes_of(id);
    s.r.seek.found[1] = bytes_of(secret);
    s.r.seek.found[2] = bytes_of(token);
    OK(w, kaws__reading_take(&s.n, parts, &w->err));
    memset(secret, 'x', 4);
    for (i = 0; i < 3; i++)
        assert_ptr_equal(s.r.seek.found[i].at, s.n.pages->creds[i]);
    assert_string_equal(s.n.pages->creds[1], "S3CR");
    assert_string_equal(s.n.pages->creds[2], "TOK");
    s.r.seek.found[2] = (kaws_bytes){ NULL, 0 };
    OK(w, kaws__reading_take(&s.n, parts, &w->err));
    assert_string_equal(s.n.pages->creds[1], "S3CR");
    assert_string_equal(s.n.pages->creds[2], "");
    s.r.seek.found[1].len = 0;
    EXPECT(w, KAWS_CONFIG, "the test (x): Secret is missing",
           kaws__reading_take(&s.n, parts, &w->err));
    kaws__err_clear(&w->err);
    s.n.asked = 1;                        /* then it is not the settings      */
    EXPECT(w, KAWS_CREDENTIALS, "the test (x): Secret is missing",
           kaws__reading_take(&s.n, parts, &w->err));
    kaws__reading_end(&s.n);
}


/* Only an account or an ARN is remembered, whole, and no secret. */
static void
test_whose_they_are(void **state)
{
    static char long_one[193];
    static const struct { const char *what, *whose, *owner; } rows[] = {
        { "account ", FAKE_OWN, "account " FAKE_OWN }, { "account ", "", "" },
        { "", "arn:aws:sts::" FAKE_OWN ":assumed-role/a_+=,.@-/b",
          "arn:aws:sts::" FAKE_OWN ":assumed-role/a_+=,.@-/b" },
        { "account ", "1111 2222", "" }, { "", "arn\nx", "" },
        { "", "arn%x", "" }, { "", "arn\xc3\xa4", "" },
        { "", "s3cr3t-0123456789-abcdef", "" },
        { "", "t0k.nopqrstuvwxyz+fed", "" }, { "", long_one, "" },
        { "", long_one + 1, long_one + 1 }
    };
    struct world *w = *state;
    started s;
    size_t i;

    memset(long_one, 'a', 192);
    for (i = 0; i < COUNT(rows); i++) {
        start(w, &s);
        s.r.seek.found[1] = bytes_of("s3cr3t-0123456789-abcdef");
        s.r.seek.found[2] = bytes_of("t0k.nopqrstuvwxyz+fed");
        (void)snprintf(s.r.seek.owner, sizeof s.r.seek.owner, "before");
        kaws__reading_belongs(&s.n, rows[i].what, bytes_of(rows[i].whose));
        assert_string_equal(s.r.seek.owner, rows[i].owner);
        kaws__reading_end(&s.n);
    }
}


/* What is wrong names the variable. */
static void
test_the_environment(void **state)
{
    static const struct { const char *id, *secret, *token, *account, *owner,
                                     *says; } rows[] = {
        { "AK", "S3CR", "", "", "", NULL },
        { "AK", "S3CR", "TOK", FAKE_OWN, "account " FAKE_OWN, NULL },
        { "AK", "", "", "", "", "the test (x): AWS_SECRET_ACCESS_KEY is mis" },
        { "", "S3CR", "", "", "", "the test (x): AWS_ACCESS_KEY_ID is mis" },
        { "AK", "S3CR", "T T", "", "", "the test (x): AWS_SESSION_TOKEN: a bl" }
    };
    struct world *w = *state;
    started s;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        set(variables[0], rows[i].id);
        set(variables[1], rows[i].secret);
        set(variables[2], rows[i].token);
        set("AWS_ACCOUNT_ID", rows[i].account);
        start(w, &s);
        EXPECT(w, rows[i].says == NULL ? KAWS_OK : KAWS_CONFIG, rows[i].says,
               kaws__reading_environment(&s.n, &w->err));
        assert_string_equal(s.r.seek.owner, rows[i].owner);
        if (rows[i].says == NULL)
            assert_string_equal(s.n.pages->creds[2], rows[i].token);
        assert_null(strstr(w->err.text, "S3CR"));
        kaws__reading_end(&s.n);
    }
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_its_memory), TEST(test_its_time), TEST(test_loading),
#if !defined(_WIN32)
        TEST(test_a_token_file_of_others),
#endif
        TEST(test_keeping), TEST(test_parts), TEST(test_taking),
        TEST(test_whose_they_are), TEST(test_the_environment)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
