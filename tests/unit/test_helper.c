/* Room helper: what a credential_process is, and what it may do. The programs
 * are real ones: scripts in the test's folder. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "reading.h"

#if !defined(_WIN32)

#define JSON(more) "{\"Version\":1,\"AccessKeyId\":\"AK\"," \
    "\"SecretAccessKey\":\"S3CR\"" more "}"
#define ECHO(json) "#!/bin/sh\necho '" json "'\n"
#define LONG JSON(",\"SessionToken\":\"TOK\",\"Expiration\":" \
                  "\"2026-11-27T08:32:38Z\"")

typedef struct helper {
    reading     r;
    kaws_config cfg;
    char        path[128];        /* of the program                           */
} helper;


/* A profile with that command, in which %s is the program. */
static void
command_is(struct world *w, helper *h, const char *command)
{
    char text[9000];
    int n;

    memset(h, 0, sizeof *h);
    paths(w, &h->r);
    (void)snprintf(h->path, sizeof h->path, "%s/helper", w->f.dir);
    n = snprintf(text, sizeof text, "[default]\ncredential_process = ");
    n += snprintf(text + n, sizeof text - (size_t)n, command, h->path);
    (void)snprintf(text + n, sizeof text - (size_t)n, "\n");
    write_file(h->r.credentials, text);
    h->cfg.auth = "native";
    h->cfg.credentials_file = h->r.credentials;
    w->f.hooks.ticks_ms = kaws__sys_ticks_ms;
}


static void
script_is(const helper *h, const char *script)
{
    write_file(h->path, script);
    assert_int_equal(chmod(h->path, 0700), 0);
}


/* What it gives in so many ms. */
static kaws_status
ask(struct world *w, helper *h, int left_ms, kaws__cancel cancel)
{
    kaws_status status;

    memset(&h->r.seek, 0, sizeof h->r.seek);
    memset(h->r.text, 0, sizeof h->r.text);
    kaws__err_clear(&w->err);
    kaws__sources_open(&h->r.sources, &w->f.hooks, NULL);
    OK(w, kaws__native_open(&h->r.sources, &h->cfg, 1, &w->err));
    h->r.seek.text = h->r.text;
    h->r.seek.left_ms = left_ms;
    h->r.seek.cancel = cancel;
    status = kaws__sources_read(&h->r.sources, &h->r.seek, &w->err);
    assert_null(strstr(w->err.text, "S3CR"));
    assert_int_equal(fake_logged(&w->f, -1, "S3CR"), 0);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);     /* none is left     */
    assert_int_equal(errno, ECHILD);
    return status;
}

#define GIVES(w, h, status, words) \
    EXPECT(w, status, words, ask(w, h, 20000, (kaws__cancel){ 0 }))


/* ---- its words ----------------------------------------------------------- */

static void
test_words(void **state)
{
    char room[512], *argv[KAWS__HELPER_WORDS + 1];
    const char *wrong, *want;
    size_t count = 0, i, len, n;
    unit_file f;

    (void)state;
    unit_open(&f, __FILE__, "words.txt");
    for (; unit_next(&f); count++) {
        uint8_t *bytes = unit_undo(unit_must(&f, "command"), &len), *word;
        char command[256];
        world_case = unit_must(&f, "command");
        (void)kaws__buf_copy_text(command, sizeof command,
                                  (kaws_bytes){ bytes, len });
        free(bytes);
        memset(room, '#', sizeof room);
        wrong = kaws__helper_words(command, room, argv);
        assert_int_equal(room[len + 1], '#');
        want = unit_field(&f, "wrong", 0);
        if ((want == NULL) != (wrong == NULL) ||
            (want != NULL && strcmp(want, wrong) != 0))
            fail_msg("%s: %s", world_case, wrong != NULL ? wrong : "taken");
        for (i = 0; wrong == NULL && argv[i] != NULL; i++) {
            word = unit_undo(unit_field(&f, "word", i) != NULL
                             ? unit_field(&f, "word", i) : "(no more)", &n);
            unit_same(world_case, argv[i], strlen(argv[i]), word, n);
            free(word);
        }
        assert_true(wrong != NULL || unit_field(&f, "word", i) == NULL);
    }
    world_case = "";
    unit_close(&f);
    assert_in_range(count, 40, 1000);
}


static void
test_many_words(void **state)
{
    char command[400] = "/bin/true", room[402], *argv[KAWS__HELPER_WORDS + 1];
    int i;

    (void)state;
    for (i = 1; i < 64; i++)
        (void)snprintf(command + strlen(command), 16, " \"%d\"", i);
    assert_null(kaws__helper_words(command, room, argv));
    assert_string_equal(argv[63], "63");
    assert_null(argv[64]);
    (void)snprintf(command + strlen(command), 16, " ''");
    assert_string_equal(kaws__helper_words(command, room, argv),
                        "it has more than 64 words");
}


/* They reach the program as they are; nothing is expanded. */
static void
test_the_program_gets_its_words(void **state)
{
    struct world *w = *state;
    char told[128], script[400];
    uint8_t *text;
    size_t len;
    helper h;

    command_is(w, &h, "\"%s\" 'a  b' $HOME ~ * \"c\\\"d\" e\\ f `x` | > y ''");
    (void)snprintf(told, sizeof told, "%s/told", w->f.dir);
    (void)snprintf(script, sizeof script, "#!/bin/sh\nprintf '%%s|' \"$@\" "
                   ">%s\necho '%s'\n", told, JSON(""));
    script_is(&h, script);
    GIVES(w, &h, KAWS_OK, NULL);
    text = slurp(told, &len);
    unit_same("words", text, len,
              "a  b|$HOME|~|*|c\"d|e f|`x`|||>|y||", 34);
    free(text);
}


/* ---- what it prints ------------------------------------------------------ */

static const struct {
    const char *script;
    kaws_status status;
    const char *says;
} replies[] = {
    { ECHO(LONG), KAWS_OK, NULL },
    { "#!/bin/sh\nprintf '%s' '" LONG "'\n", KAWS_OK, NULL },
    { "#!/bin/sh\nfor i in `seq 30`; do echo; sleep 0.01; done; echo '" LONG
      "'\n", KAWS_OK, NULL },
    { "#!/bin/sh\necho S3CR >&2; echo '" LONG "'\n", KAWS_OK, NULL },
    { "#!/bin/sh\n(sleep 1000; echo no) &\necho '" LONG "'\n", KAWS_OK,
      NULL },
    { "#!/bin/sh\necho '" LONG "'; exec >&-; sleep 0.2\n", KAWS_OK, NULL },
    { "#!/bin/sh\necho '" LONG "'; exec >&-; sleep 0.1; exit 9\n",
      KAWS_SERVICE, "its exit status is 9" },
    { "#!/bin/sh\necho '" LONG "'; exit 3\n", KAWS_SERVICE, "gave no "
      "credentials: its exit status is 3; run it as the server's user, "
      "in the server's environment, to see why" },
    { "#!/bin/sh\necho '" LONG "'; kill -9 $$\n", KAWS_SERVICE,
      "a signal ended it" },
    { "#!/bin/sh\nexit 0\n", KAWS_CREDENTIALS, "not one object of JSON" },
    { ECHO("S3CR"), KAWS_CREDENTIALS, "it is not one object of JSON" },
    { ECHO("[" LONG "]"), KAWS_CREDENTIALS, "it is not one object of JSON" },
    { ECHO(LONG LONG), KAWS_CREDENTIALS, "it is not one object of JSON" },
    { ECHO("{\"AccessKeyId\":\"AK\",\"SecretAccessKey\":\"S3CR\"}"),
      KAWS_CREDENTIALS, "its Version is not the number 1" },
    { ECHO("{\"Version\":2,\"AccessKeyId\":\"AK\",\"SecretAccessKey\":"
          "\"S3CR\"}"), KAWS_CREDENTIALS, "its Version is not" },
    { ECHO(JSON(",\"Expiration\":\"S3CR\"")), KAWS_CREDENTIALS,
      "its Expiration is not a date" },
    { ECHO(JSON(",\"Expiration\":\"\"")), KAWS_CREDENTIALS,
      "its Expiration is not a date" },
    { ECHO("{\"Version\":1,\"AccessKeyId\":\"AK\"}"), KAWS_CREDENTIALS,
      "the profile default: SecretAccessKey is missing" },
    { ECHO("{\"Version\":1,\"SecretAccessKey\":\"S3CR\"}"),
      KAWS_CREDENTIALS,
      "the profile default: AccessKeyId is missing" },
    { ECHO("{\"Version\":1,\"AccessKeyId\":\"ASIAIOSFODNN7EXAMPLE\","
          "\"SecretAccessKey\":\"S3CR\"}"), KAWS_CREDENTIALS,
      "SessionToken is missing" },
    { ECHO(JSON(",\"SessionToken\":\"S3CR S3CR\"")), KAWS_CREDENTIALS,
      "SessionToken: a blank" }
};


static void
test_replies(void **state)
{
    const char *const want[3] = { "AK", "S3CR", "TOK" };
    struct world *w = *state;
    char said[256];
    helper h;
    size_t i;

    for (i = 0; i < COUNT(replies); i++) {
        world_case = replies[i].script;
        command_is(w, &h, "%s");
        script_is(&h, replies[i].script);
        GIVES(w, &h, replies[i].status, replies[i].says);
        if (replies[i].status == KAWS_OK) {
            assert_true(h.r.seek.expires == 1795768358);
            h.r.seek.expires = 0;
            found(&h.r, want);
        } else if (strstr(w->err.text, "missing") == NULL &&
                   strstr(w->err.text, "blank") == NULL) {
            (void)snprintf(said, sizeof said, "the credential_process %s of the"
                           " profile default gave no credentials: ", h.path);
            assert_non_null(strstr(w->err.text, said));
        }
    }
    world_case = "";
}


/* Token and date may be missing, then they never expire; the account is told.
 * A version in quotes is none. */
static void
test_what_may_be_missing(void **state)
{
    const char *const want[3] = { "AK", "S3CR", "" };
    struct world *w = *state;
    helper h;

    command_is(w, &h, "%s");
    script_is(&h, ECHO(JSON("")));
    GIVES(w, &h, KAWS_OK, NULL);
    found(&h.r, want);
    assert_string_equal(h.r.seek.owner, "");
    script_is(&h, ECHO(JSON(",\"AccountId\":\"111122223333\",\"X\":\"y\"")));
    GIVES(w, &h, KAWS_OK, NULL);
    found(&h.r, want);
    assert_string_equal(h.r.seek.owner, "account 111122223333");
    script_is(&h, ECHO(JSON(",\"AccountId\":\"S3CR\"")));
    GIVES(w, &h, KAWS_OK, NULL);
    assert_string_equal(h.r.seek.owner, "");
    script_is(&h, ECHO(JSON(",\"AccountId\":null,\"SessionToken\":null,"
                            "\"Expiration\":null")));
    GIVES(w, &h, KAWS_OK, NULL);
    found(&h.r, want);
    script_is(&h, ECHO("{\"Version\":1,\"AccessKeyId\":null,"
                       "\"SecretAccessKey\":\"S3CR\"}"));
    GIVES(w, &h, KAWS_CREDENTIALS, "it is not one object of JSON");
    script_is(&h, ECHO("{\"Version\":\"1\",\"AccessKeyId\":\"AK\","
                       "\"SecretAccessKey\":\"S3CR\"}"));
    GIVES(w, &h, KAWS_CREDENTIALS, "its Version is not the number 1");
}


/* 65535 bytes are read whole; one more, or no end, is too much. */
static void
test_how_much(void **state)
{
    struct world *w = *state;
    char script[300];
    int more;
    helper h;

    command_is(w, &h, "%s");
    for (more = 0; more < 2; more++) {
        (void)snprintf(script, sizeof script, "#!/bin/sh\nprintf '%%%ds' ''; "
                       "printf '%%s' '%s'; exit 0\n",
                       65535 - (int)strlen(LONG) + more, LONG);
        script_is(&h, script);
        GIVES(w, &h, more ? KAWS_CREDENTIALS : KAWS_OK,
              "it printed more than 65535 bytes");
    }
    script_is(&h, "#!/bin/sh\nyes S3CR | head -c 100000000; exit 0\n");
    GIVES(w, &h, KAWS_CREDENTIALS, "it printed more than 65535 bytes");
}


/* ---- how long it takes --------------------------------------------------- */

static void
test_the_time(void **state)
{
    static const char *const scripts[] = {
        "#!/bin/sh\nsleep 1000\n",
        "#!/bin/sh\necho '" LONG "'\nexec >&-\nsleep 1000\n",
        "#!/bin/sh\ntrap '' TERM HUP INT\nwhile :; do sleep 1; done\n",
        "#!/bin/sh\nwhile :; do echo; sleep 0.01; done\n",
        "#!/bin/sh\n(trap '' TERM; sleep 1000) &\nwait\n"
    };
    struct world *w = *state;
    int64_t took;
    helper h;
    size_t i;

    for (i = 0; i < COUNT(scripts); i++) {
        command_is(w, &h, "%s");
        script_is(&h, scripts[i]);
        took = -kaws__sys_ticks_ms(NULL);
        EXPECT(w, KAWS_NETWORK, "gave no credentials: it did not end in time, "
               "and was ended", ask(w, &h, 300, (kaws__cancel){ 0 }));
        took += kaws__sys_ticks_ms(NULL);
        assert_in_range(took, 295, 5000);
    }
}


static int
cancel_later(void *arg)
{
    return --*(int *)arg == 0;            /* says so only once                */
}


static void
test_cancelled(void **state)
{
    struct world *w = *state;
    int left = 5;
    helper h;

    command_is(w, &h, "%s");
    script_is(&h, "#!/bin/sh\nsleep 1000\n");
    EXPECT(w, KAWS_CANCELLED, "waited for AWS credentials",
           ask(w, &h, 20000, (kaws__cancel){ cancel_later, &left }));
    assert_int_equal(left, 0);
}


/* ---- which programs are run ---------------------------------------------- */

static void
test_commands(void **state)
{
    static const struct { const char *command, *says; } rows[] = {
        { "helper", "has a credential_process that cannot be run: the program "
          "must be named by its full path" },
        { "\"\"", "the program must be named by its full path" },
        { "/bin/true \"S3CR", "a quote has no partner" },
        { "/bin/true S3CR\\", "it ends with a backslash" },
        { "/tmp", "its credential_process /tmp is not a file" },
        { "/S3/not/there S3CR", "cannot read the program of its "
          "credential_process, /S3/not/there" }
    };
    static char text[4200];
    struct world *w = *state;
    helper h;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        command_is(w, &h, rows[i].command);
        GIVES(w, &h, KAWS_CONFIG, rows[i].says);
    }
    memset(text, 'x', sizeof text - 1);
    memcpy(text, "/bin/true ", 10);
    command_is(w, &h, text);
    GIVES(w, &h, KAWS_CONFIG, "a credential_process of more than 4096 bytes");
    text[4097] = '\0';
    command_is(w, &h, text);
    GIVES(w, &h, KAWS_CONFIG, "a credential_process of more than 4096 bytes");
    text[4096] = '\0';
    command_is(w, &h, text);
    GIVES(w, &h, KAWS_CREDENTIALS, "it is not one object of JSON");
}


/* Who may change it could run anything as us. */
static void
test_who_may_change_it(void **state)
{
    static const char changed[] = "is not run, because other users may change "
                                  "it: it must belong to root or to the server'"
                                  "s user";
    static const struct { mode_t mode; kaws_status status; const char *says; }
    rows[] = {
        { 0700, KAWS_OK, NULL }, { 0755, KAWS_OK, NULL },
        { 0500, KAWS_OK, NULL }, { 0720, KAWS_CONFIG, changed },
        { 0702, KAWS_CONFIG, changed }, { 0777, KAWS_CONFIG, changed }
    };
    struct world *w = *state;
    char link[160];
    helper h;
    size_t i;

    command_is(w, &h, "%s");
    script_is(&h, ECHO(LONG));
    for (i = 0; i < COUNT(rows); i++) {
        assert_int_equal(chmod(h.path, rows[i].mode), 0);
        GIVES(w, &h, rows[i].status, rows[i].says);
    }
    (void)snprintf(link, sizeof link, "%s/link", w->f.dir);
    assert_int_equal(symlink(h.path, link), 0);
    command_is(w, &h, link);
    assert_int_equal(chmod(h.path, 0722), 0);
    GIVES(w, &h, KAWS_CONFIG, changed);
    assert_int_equal(chmod(h.path, 0755), 0);
    GIVES(w, &h, KAWS_OK, NULL);
    if (geteuid() != 0)
        return;                           /* the rest takes other owners      */
    assert_int_equal(chown(h.path, 65533, 0), 0);
    GIVES(w, &h, KAWS_CONFIG, changed);
    assert_int_equal(chmod(w->f.dir, 0711), 0);
    assert_int_equal(chown(h.r.credentials, 65532, 0), 0);
    assert_int_equal(seteuid(65532), 0);
    GIVES(w, &h, KAWS_CONFIG, changed);
    assert_int_equal(seteuid(0), 0);
    assert_int_equal(chown(h.path, 65532, 0), 0);
    assert_int_equal(seteuid(65532), 0);
    GIVES(w, &h, KAWS_OK, NULL);
    assert_int_equal(seteuid(0), 0);
    assert_int_equal(chown(h.path, 0, 0), 0);
    assert_int_equal(seteuid(65532), 0);
    GIVES(w, &h, KAWS_OK, NULL);
    assert_int_equal(seteuid(0), 0);
}


static void
test_it_cannot_be_run(void **state)
{
    struct world *w = *state;
    helper h;

    command_is(w, &h, "%s");
    script_is(&h, ECHO(LONG));
    assert_int_equal(chmod(h.path, 0600), 0);
    GIVES(w, &h, KAWS_CONFIG, "the profile default: cannot run its "
          "credential_process /");
    assert_int_equal(w->err.os, EACCES);
    script_is(&h, "#!/no/such/shell\n");
    GIVES(w, &h, KAWS_CONFIG, "the profile default: cannot run its "
          "credential_process /");
    assert_int_equal(w->err.os, ENOENT);
}


/* ---- in a ring ----------------------------------------------------------- */

/* It tells that it has run, and fails if there is a file named bad. */
static const char told_script[] = "#!/bin/sh\nprintf x >>%s/told\n"
    "[ ! -e %s/bad ] || exit 3\nprintf '{\"Version\": 1, \"AccessKeyId\": "
    "\"%%s\", \"SecretAccessKey\": \"%s\", \"AccountId\": \"" FAKE_OWN "\"}' "
    "`cat %s/id`\n";


static size_t
times_run(struct world *w)
{
    char path[128];
    size_t len;

    (void)snprintf(path, sizeof path, "%s/told", w->f.dir);
    free(slurp(path, &len));
    return len;
}


/* Says who they are, runs it again when AWS refuses what it gave; and after a
 * failure, not for a minute. */
static void
test_in_a_ring(void **state)
{
    struct world *w = *state;
    char text[600], id[128], bad[128];
    kaws_identity who;
    helper h;

    command_is(w, &h, "%s");
    (void)snprintf(text, sizeof text, told_script, w->f.dir, w->f.dir,
                   FAKE_SECRET, w->f.dir);
    script_is(&h, text);
    (void)snprintf(id, sizeof id, "%s/id", w->f.dir);
    (void)snprintf(bad, sizeof bad, "%s/bad", w->f.dir);
    write_file(id, FAKE_ID);
    w->cfg.auth = "native";
    w->cfg.credentials_file = h.r.credentials;
    world_open(w);
    OK(w, kaws_check(w->ring, &w->err));
    OK(w, kaws_whoami(w->ring, &who, &w->err));
    assert_string_equal(who.source, "the profile");
    assert_int_equal(times_run(w), 1);
    assert_int_equal(fake_logged(&w->f, 2, "[KAWS-165] the AWS credentials come"
                                 " from the profile default; they belong to "
                                 "account " FAKE_OWN ", their access key id "
                                 "ends in FAKE, and they expire: never"), 1);
    (void)snprintf(w->f.id, sizeof w->f.id, "AKIANEWNEWNEWNEWNEWN");
    write_file(id, w->f.id);
    OK(w, kaws_check(w->ring, &w->err));
    assert_int_equal(times_run(w), 2);
    write_file(bad, "");
    w->f.id[4] = 'X';
    EXPECT(w, KAWS_CREDENTIALS, "UnrecognizedClient",
           kaws_check(w->ring, &w->err));
    kaws__err_clear(&w->err);
    EXPECT(w, KAWS_CREDENTIALS, NULL, kaws_check(w->ring, &w->err));
    kaws__err_clear(&w->err);
    assert_int_equal(times_run(w), 3);
    world_close(w);
    world_open(w);
    EXPECT(w, KAWS_SERVICE, "its exit status is 3",
           kaws_check(w->ring, &w->err));
    kaws__err_clear(&w->err);
    EXPECT(w, KAWS_SERVICE, "its exit status is 3",
           kaws_check(w->ring, &w->err));
    kaws__err_clear(&w->err);
    assert_int_equal(times_run(w), 4);
    w->f.now_ms += 60000;
    write_file(id, w->f.id);
    assert_int_equal(unlink(bad), 0);
    OK(w, kaws_check(w->ring, &w->err));
    assert_int_equal(times_run(w), 5);
}

#else

/* On Windows no program is run. */
static void
test_not_offered(void **state)
{
    struct world *w = *state;
    kaws_config cfg = { .auth = "native" };
    reading r;

    paths(w, &r);
    cfg.credentials_file = r.credentials;
    write_file(r.credentials, "[default]\ncredential_process = C:\\a.exe\n");
    EXPECT(w, KAWS_CONFIG, "it is not offered on Windows",
           open_and_read(w, &r, &cfg));
}

#endif


int
main(void)
{
    const struct CMUnitTest tests[] = {
#if !defined(_WIN32)
        cmocka_unit_test(test_words), cmocka_unit_test(test_many_words),
        TEST(test_the_program_gets_its_words), TEST(test_replies),
        TEST(test_what_may_be_missing), TEST(test_how_much),
        TEST(test_the_time), TEST(test_cancelled), TEST(test_commands),
        TEST(test_who_may_change_it), TEST(test_it_cannot_be_run),
        TEST(test_in_a_ring)
#else
        TEST(test_not_offered)
#endif
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
