/* Room sources: the conf file in every shape, whether it has changed, and what
 * a program's hook may give. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "world.h"
#include "unit.h"

#if !defined(_WIN32)
#include <grp.h>
#endif

typedef struct reading {          /* sources, and what was read last          */
    kaws__sources sources;
    kaws_bytes   *found;          /* in seek                                  */
    kaws__seek    seek;
    uint8_t       text[KAWS__SOURCES_TEXT_MAX];
} reading;


static kaws_status
read_again(struct world *w, reading *r, int refused)
{
    kaws__err_clear(&w->err);
    memset(&r->seek, 0x77, sizeof r->seek);
    r->seek.text = r->text;
    r->seek.cancel.asked = NULL;
    r->seek.secret[0] = r->seek.secret[1] = kaws__buf_of("");
    r->seek.refused = refused;
    r->seek.left_ms = 1234;
    r->found = r->seek.found;
    return kaws__sources_read(&r->sources, &r->seek, &w->err);
}


static kaws_status
open_and_read(struct world *w, reading *r)
{
    kaws__sources_open(&r->sources, &w->f.hooks, w->f.conf);
    return read_again(w, r, 0);
}


static int
is(kaws_bytes got, const char *want)
{
    return kaws__buf_same(got, kaws__buf_of(want));
}


/* ---- right and wrong files --------------------------------------------- */

/* What is found, or that the message blames what it should, and quotes none of
 * the file, which has S3CR for a secret. */
static void
check_file(struct world *w, const char *says, const char *const want[3])
{
    kaws_status status;
    reading r;
    size_t i;

    status = open_and_read(w, &r);
    if ((says == NULL) != (status == KAWS_OK) || w->err.status != status ||
        (says != NULL && (status != KAWS_CONFIG ||
                          strstr(w->err.text, says) == NULL ||
                          strstr(w->err.text, w->f.conf) == NULL ||
                          strstr(w->err.text, "S3CR") != NULL)))
        fail_msg("%s: %d %s", says, (int)status, w->err.text);
    for (i = 0; i < 3 && says == NULL; i++)
        unit_same("found", r.found[i].at, r.found[i].len, want[i],
                  strlen(want[i]));
}


static void
test_files(void **state)
{
    struct world *w = *state;
    size_t count = 0, len, i;
    unit_file f;

    unit_open(&f, __FILE__, "conf.txt");
    for (; unit_next(&f); count++) {
        const char *want[3] = { unit_field(&f, "id", 0),
                                unit_field(&f, "secret", 0),
                                unit_field(&f, "token", 0) };
        uint8_t *text = unit_undo(unit_must(&f, "file"), &len);
        *unit_case() = unit_must(&f, "file");
        for (i = 0; i < 3; i++)
            want[i] = want[i] != NULL ? want[i] : "";
        spill(w->f.conf, text, len);
        check_file(w, unit_field(&f, "wrong", 0), want);
        free(text);
    }
    unit_close(&f);
    assert_in_range(count, 40, 1000);
    assert_int_equal(fake_logged(&w->f, -1, "S3CR"), 0);
}


/* Each line as long as it may be, and a byte longer; and the longest file. */
static void
test_longest(void **state)
{
    static const struct { size_t id, secret, token, blanks; const char *says; }
    rows[] = {
        { 128, 256, 0, 0, NULL }, { 1, 1, 4096, 0, NULL },
        { 128, 256, 4096, 1661, NULL },
        { 128, 256, 4096, 1662, "longer than 6143 bytes" },
        { 129, 1, 0, 0, "line 1" }, { 1, 257, 0, 0, "line 2" },
        { 1, 1, 4097, 0, "line 3" }, { 1, 1, 6139, 0, "line 3" },
        { 1, 1, 6140, 0, "longer than 6143 bytes" },
        { 1, 1, 90000, 0, "longer than 6143 bytes" }
    };
    static char id[130], secret[260], token[90001], text[91000];
    const char *const want[3] = { id, secret, token };
    struct world *w = *state;
    size_t i, len;

    for (i = 0; i < COUNT(rows); i++) {
        memset(memset(id, 0, sizeof id), 'i', rows[i].id);
        memset(memset(secret, 0, sizeof secret), 's', rows[i].secret);
        memset(memset(token, 0, sizeof token), 't', rows[i].token);
        memset(text, 10, sizeof text);
        len = (size_t)snprintf(text, sizeof text, "%s\n%s\n%s", id, secret,
                               token);
        text[len] = '\n';                 /* where the NUL was               */
        spill(w->f.conf, text, len + rows[i].blanks);
        check_file(w, rows[i].says, want);
    }
}


static void
test_not_a_file(void **state)
{
    struct world *w = *state;
    reading r;

    kaws__sources_open(&r.sources, &w->f.hooks, NULL);
    EXPECT(w, KAWS_CONFIG, "conf_file is not set", read_again(w, &r, 0));
    assert_int_equal(unlink(w->f.conf), 0);
    EXPECT(w, KAWS_CONFIG, "No such file", open_and_read(w, &r));
    assert_int_equal(w->err.os, ENOENT);
    assert_int_equal(mkdir(w->f.conf, 0700), 0);
    EXPECT(w, KAWS_CONFIG, "is not a file", open_and_read(w, &r));
    assert_int_equal(rmdir(w->f.conf), 0);
}


#if !defined(_WIN32)                      /* which has no pipes in folders, and
                                           * keeps access lists, not modes    */

static void
test_pipe_or_link(void **state)
{
    struct world *w = *state;
    char path[128];
    reading r;

    assert_int_equal(unlink(w->f.conf), 0);
    assert_int_equal(mkfifo(w->f.conf, 0600), 0);   /* must not hang          */
    EXPECT(w, KAWS_CONFIG, "is not a file", open_and_read(w, &r));
    assert_int_equal(unlink(w->f.conf), 0);

    assert_int_equal(symlink(w->f.conf, w->f.conf), 0);
    EXPECT(w, KAWS_CONFIG, w->f.conf, open_and_read(w, &r));
    assert_int_equal(w->err.os, ELOOP);
    assert_int_equal(unlink(w->f.conf), 0);

    (void)snprintf(path, sizeof path, "%s.real", w->f.conf);
    assert_int_equal(symlink(path, w->f.conf), 0);
    spill(path, "id\nS3CR\n", 8);
    EXPECT(w, KAWS_OK, NULL, open_and_read(w, &r));     /* links are allowed  */
    assert_true(is(r.found[1], "S3CR"));
}


static void
check_mode(struct world *w, mode_t mode, const char *warned)
{
    reading r;

    assert_int_equal(chmod(w->f.conf, mode), 0);
    fake_forget_log(&w->f);
    EXPECT(w, KAWS_OK, NULL, open_and_read(w, &r));
    if (fake_logged(&w->f, -1, "") != (warned != NULL) ||
        (warned != NULL && fake_logged(&w->f, 1, warned) != 1))
        fail_msg("mode %o: not '%s'", (unsigned)mode,
                 warned != NULL ? warned : "nothing");
}


static void
test_modes(void **state)
{
    struct world *w = *state;

    if (geteuid() == 0)                   /* root's and root's group's        */
        assert_int_equal(chown(w->f.conf, 0, 12345), 0);
    check_mode(w, 0600, NULL);
    check_mode(w, 0400, NULL);
    check_mode(w, 0640, "chmod 600");
    check_mode(w, 0604, "chmod 600");
    check_mode(w, 0622, "chmod 600");
    if (geteuid() != 0 || chown(w->f.conf, 12345, (gid_t)-1) != 0)
        return;
    check_mode(w, 0600, "belongs to another user");
    assert_int_equal(chown(w->f.conf, 12345, 0), 0);
    check_mode(w, 0640, "belongs to another user");
}


/* The same as check_mode, run as a user who is not root, in that group. */
static void
check_as_user(struct world *w, gid_t group, const char *warned)
{
    kaws_status status;
    reading r;

    fake_forget_log(&w->f);
    assert_int_equal(setegid(group), 0);
    assert_int_equal(seteuid(12345), 0);
    status = open_and_read(w, &r);
    assert_int_equal(seteuid(0), 0);
    assert_int_equal(setegid(0), 0);
    assert_int_equal(status, KAWS_OK);
    assert_int_equal(fake_logged(&w->f, -1, ""), warned != NULL);
    if (warned != NULL)
        assert_int_equal(fake_logged(&w->f, 1, warned), 1);
}


/* So do containers mount a secret: it is root's, and a group of ours may read
 * it, but nobody may write it. */
static void
test_lent_by_root(void **state)
{
    static const struct { mode_t mode; const char *root, *user; } rows[] = {
        { 0440, NULL, NULL }, { 0640, NULL, NULL },
        { 0444, "read by others", "another user" },
        { 0660, "written by others", "another user" },
        { 0644, "read by others", "another user" },
        { 0650, "read by others", "another user" }
    };
    const gid_t ours[] = { 54322, 54321 }, groups[] = { 54321, 54322, 0 };
    struct world *w = *state;
    char folder[128];
    size_t i, k;

    if (geteuid() != 0 || setgroups(2, ours) != 0)
        skip();
    (void)snprintf(folder, sizeof folder, "%.*s",
                   (int)(strrchr(w->f.conf, '/') - w->f.conf), w->f.conf);
    assert_int_equal(chmod(folder, 0711), 0);
    for (i = 0; i < COUNT(rows); i++) {
        assert_int_equal(chmod(w->f.conf, rows[i].mode), 0);
        for (k = 0; k < COUNT(groups); k++) {
            assert_int_equal(chown(w->f.conf, 0, groups[k]), 0);
            check_mode(w, rows[i].mode, rows[i].root);
        }
        assert_int_equal(chown(w->f.conf, 0, 54321), 0);
        check_as_user(w, 54322, rows[i].user);      /* by a second group      */
        assert_int_equal(setgroups(0, NULL), 0);
        check_as_user(w, 54321, rows[i].user);      /* by the first           */
        assert_int_equal(setgroups(2, ours), 0);
    }
    assert_int_equal(chown(w->f.conf, 0, 12345), 0);
    check_mode(w, 0440, "read by others");          /* not a group of ours    */
    assert_int_equal(setgroups(0, NULL), 0);
}

#endif


/* Whatever the file is called: its name neither ends the line, nor colours the
 * terminal, nor shows a secret that somebody put in its place. */
static void
test_name_of_the_file(void **state)
{
    static const struct { const char *path, *shown; } cases[] = {
        { "no\nsuch\x1b[31m\xc3\xa4", "no\\x0asuch\\x1b[31m\\xc3\\xa4:" },
        { "http://me:pa#ss@host/conf", "http://***@host/conf:" },
        { "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "file wJal...:" }
    };
    struct world *w = *state;
    reading r;
    size_t i;

    for (i = 0; i < COUNT(cases); i++) {
        kaws__sources_open(&r.sources, &w->f.hooks, cases[i].path);
        EXPECT(w, KAWS_CONFIG, cases[i].shown, read_again(w, &r, 0));
    }
}


/* ---- has it changed? --------------------------------------------------- */

/* When the conf file was written, in nanoseconds. */
static int64_t
time_of(struct world *w)
{
    kaws__stat st;
    int fd;

    assert_int_equal(kaws__disk_open(w->f.conf, KAWS__READ, &fd), 0);
    assert_int_equal(kaws__disk_stat(fd, NULL, &st), 0);
    kaws__disk_close(fd);
    return st.mtime_ns;
}


static void
set_time(struct world *w, int64_t ns)
{
#if defined(_WIN32)
    uint64_t since_1601 = (uint64_t)(ns / 100 + 116444736000000000);
    FILETIME time = { (DWORD)since_1601, (DWORD)(since_1601 >> 32) };
    int fd;

    assert_int_equal(kaws__disk_open(w->f.conf, KAWS__WRITE, &fd), 0);
    assert_true(SetFileTime(KAWS__HANDLE(fd), NULL, NULL, &time));
    kaws__disk_close(fd);
#else
    struct timespec times[2] = { { 0, UTIME_OMIT }, { 0, 0 } };

    times[1].tv_sec = (time_t)(ns / 1000000000);
    times[1].tv_nsec = (long)(ns % 1000000000);
    assert_int_equal(utimensat(AT_FDCWD, w->f.conf, times, 0), 0);
#endif
    assert_true(time_of(w) == ns);
}


/* Time, size or inode tell that it has changed; if none does, it is not read. A
 * file that is not good is read again the next time. */
static void
test_if_changed(void **state)
{
    static const struct {
        const char *text;         /* NULL: as it was                          */
        int replaced;             /* by another file                          */
        int64_t time;
        kaws_status status;
        const char *found;        /* NULL: nothing                            */
    } rows[] = {
        { NULL, 0, 0, KAWS_OK, NULL },
        { NULL, 0, 5, KAWS_OK, "" },            /* the time tells            */
        { "a\nb\n", 0, 5, KAWS_OK, "a" },       /* the size                  */
        { "x\ny\n", 1, 5, KAWS_OK, "x" },       /* the inode                 */
        { "p\nq\n", 0, 5, KAWS_OK, NULL },
        { "half\n", 0, 5, KAWS_CONFIG, NULL },
        { "half\n", 0, 5, KAWS_CONFIG, NULL },
        { "p\nq\n", 0, 6, KAWS_OK, "p" }
    };
    struct world *w = *state;
    char path[128];
    reading r;
    size_t i;

    (void)snprintf(path, sizeof path, "%s.new", w->f.conf);
    EXPECT(w, KAWS_OK, NULL, open_and_read(w, &r));
    for (i = 0; i < COUNT(rows); i++) {
        if (rows[i].text != NULL)
            spill(rows[i].replaced ? path : w->f.conf, rows[i].text,
                  strlen(rows[i].text));
        if (rows[i].replaced)
            assert_int_equal(rename(path, w->f.conf), 0);
        if (rows[i].time > 0)
            set_time(w, 1000000000000000000 + 100 * rows[i].time);
        if (read_again(w, &r, 1) != rows[i].status)
            fail_msg("row %lu: %s", (unsigned long)i, w->err.text);
        if ((r.found[0].len > 0) != (rows[i].found != NULL) ||
            (rows[i].found != NULL && *rows[i].found != '\0' &&
             !is(r.found[0], rows[i].found)))
            fail_msg("row %lu: %lu bytes", (unsigned long)i,
                     (unsigned long)r.found[0].len);
    }
    EXPECT(w, KAWS_OK, NULL, read_again(w, &r, 0));     /* asked to: it is    */
    assert_true(is(r.found[0], "p"));
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);
}


/* ---- a program's hook -------------------------------------------------- */

#define ID     "AKIAIOSFODNN7EXAMPLE"
#define BRIEF  "ASIAIOSFODNN7EXAMPLE"
#define SECRET "S3CRETutnFEMIxK7MDENG"

static char chars[4200];                  /* many of one                      */

/* What the hook gives, and what is said of it; NULL: it is good. */
static const struct { const char *id, *secret, *token; int64_t expires;
                      const char *says; } gifts[] = {
    { ID, SECRET, NULL, 0, NULL },
    { ID, SECRET, "", 1, NULL },
    { BRIEF, SECRET, "tok", 253402300799, NULL },
    { "x", "y", chars + 103, 0, NULL },
    { NULL, NULL, NULL, 0, "the access key id is missing" },
    { "", SECRET, NULL, 0, "the access key id is missing" },
    { ID, NULL, "tok", 0, "the secret access key is missing" },
    { BRIEF, SECRET, NULL, 0, "the session token is missing; an id that begins "
      "with ASIA needs one" },
    { BRIEF, SECRET, "", 0, "the session token is missing" },
    { ID, ID, NULL, 0, "the secret access key has the form of an access key "
      "id; are the two swapped?" },
    { "a b", SECRET, NULL, 0, "the access key id: a blank" },
    { ID, "S3CR\n", NULL, 0, "the secret access key: a byte that is not" },
    { ID, SECRET, "S3CR\xe4", 0, "the session token: a byte that is not" },
    { ID, SECRET, "S3CR\x7f", 0, "the session token: a byte that is not" },
    { chars, SECRET, NULL, 0, "the access key id: it is longer than" },
    { ID, chars, NULL, 0, "the secret access key: it is longer than" },
    { ID, SECRET, chars + 102, 0, "the session token: it is longer than" },
    { ID, SECRET, NULL, -1, "expire at no time in Unix seconds" },
    { ID, SECRET, NULL, 253402300800, "expire at no time" },
    { ID, SECRET, NULL, 1795000000000, "expire at no time" }  /* milliseconds */
};


static int
give(void *ctx, kaws_creds_wanted *w)
{
    struct fake *f = ctx;
    const int i = *(int *)f->user;

    assert_int_equal(w->refused, i % 2);
    assert_int_equal(w->timeout_ms, 1234);
    assert_null(w->cancelled);
    assert_null(w->creds.id);
    assert_null(w->creds.secret);
    assert_null(w->creds.token);
    assert_true(w->expires == 0 && w->text[0] == '\0');
    w->creds = (kaws_creds){ gifts[i].id, gifts[i].secret, gifts[i].token };
    w->expires = gifts[i].expires;
    return 0;
}


/* It outranks the conf file. Its values are checked like those of a file, and
 * none is in an error. */
static void
test_hook(void **state)
{
    struct world *w = *state;
    reading r;
    int i;

    memset(chars, 'c', sizeof chars - 1);
    w->f.hooks.creds = give;
    w->f.user = &i;
    kaws__sources_open(&r.sources, &w->f.hooks, w->f.conf);
    for (i = 0; i < (int)COUNT(gifts); i++) {
        world_case = gifts[i].says;
        EXPECT(w, gifts[i].says == NULL ? KAWS_OK : KAWS_CREDENTIALS,
               gifts[i].says, read_again(w, &r, i % 2));
        if (gifts[i].says != NULL) {
            assert_non_null(strstr(w->err.text, "the program (hooks.creds) "));
            assert_null(strstr(w->err.text, "S3CR"));
            assert_int_equal(r.found[0].len, 0);
            continue;
        }
        assert_true(is(r.found[0], gifts[i].id));
        assert_true(is(r.found[1], gifts[i].secret));
        assert_true(is(r.found[2], gifts[i].token != NULL ? gifts[i].token
                                                          : ""));
        assert_true(r.seek.expires == gifts[i].expires);
    }
    world_case = "";
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);
}


static int
give_none(void *ctx, kaws_creds_wanted *w)
{
    const struct fake *f = ctx;

    w->creds = (kaws_creds){ ID, SECRET, NULL };  /* which does not count     */
    w->expires = 77;
    if (f->user != NULL)
        memcpy(w->text, f->user, sizeof w->text);
    return -1;
}


static int
twice(void *arg)
{
    ++*(int *)arg;
    return 1;
}


/* It says why, in words that are made safe; also without a NUL. */
static void
test_hook_fails(void **state)
{
    static const struct { char says[128]; const char *want; } rows[] = {
        { "vault is sealed", "gave no credentials: vault is sealed" },
        { "", "gave no credentials: it gave no reason that may be shown" },
        { "a\nb\x1b[31m\xc3", "gave no credentials: a\\x0ab\\x1b[31m\\xc3" },
        { "at https://me:pass@vault/", "at https://***@vault/" },
        { "wJalrXUtnFEMIxK7MDENGxbPxRfiCYEXAMPLEKEY", "credentials: wJal..." },
        { "123456789 123456789 123456789 123456789 123456789 123456789 12345678"
          "9 123456789 123456789 123456789 123456789 123456789 12345678",
          "123456789 1234567" }
    };
    struct world *w = *state;
    int asked = 0;
    reading r;
    size_t i;

    w->f.hooks.creds = give_none;
    kaws__sources_open(&r.sources, &w->f.hooks, NULL);
    for (i = 0; i < COUNT(rows); i++) {
        w->f.user = (void *)(uintptr_t)rows[i].says;
        EXPECT(w, KAWS_CREDENTIALS, rows[i].want, read_again(w, &r, 0));
        assert_int_equal(r.found[0].len, 0);
    }
    w->f.user = NULL;                     /* it fails because it is cancelled */
    kaws__err_clear(&w->err);
    r.seek.cancel = (kaws__cancel){ twice, &asked };
    EXPECT(w, KAWS_CANCELLED, "while it waited for the program's credentials",
           kaws__sources_read(&r.sources, &r.seek, &w->err));
    assert_int_equal(asked, 1);
}


int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, world_begin, world_end)
    const struct CMUnitTest tests[] = {
        TEST(test_files),
        TEST(test_longest),
        TEST(test_not_a_file),
#if !defined(_WIN32)
        TEST(test_pipe_or_link),
        TEST(test_modes),
        TEST(test_lent_by_root),
#endif
        TEST(test_name_of_the_file),
        TEST(test_if_changed),
        TEST(test_hook),
        TEST(test_hook_fails)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
