/* Room creds: the conf file in every shape, reading it again, grants, and
 * where the secret is in memory. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "world.h"

#include <inttypes.h>


static kaws_status
open_creds(struct world *w, kaws__creds *c)
{
    kaws__err_clear(&w->err);
    return kaws__creds_open(c, &w->f.hooks, w->f.conf, &w->err);
}


/* ---- right and wrong files --------------------------------------------- */

/* A row's text ends at its array's end, so NULs may be in it. In it, @ stands
 * for `fill` characters. A wrong one's message holds `says`, else the three
 * are what the ring must have read. */
typedef struct row {
    const char *text;
    size_t      len;
    int         fill;
    const char *says, *id, *secret, *token;
} row;

#define T(text) text, sizeof(text) - 1

static const row rows[] = {
    { T("id\nS3CR\n"), 0, NULL, "id", "S3CR", "" },
    { T("id\nS3CR"), 0, NULL, "id", "S3CR", "" },
    { T("id\nS3CR\ntoken\n"), 0, NULL, "id", "S3CR", "token" },
    { T("id\nS3CR\ntoken"), 0, NULL, "id", "S3CR", "token" },
    { T("id\r\nS3CR\r\ntoken\r\n"), 0, NULL, "id", "S3CR", "token" },
    { T("id \t \nS3CR\t\ntoken  \n"), 0, NULL, "id", "S3CR", "token" },
    { T("id \r\nS3CR \r\n"), 0, NULL, "id", "S3CR", "" },
    { T("id\nS3CR\n\n"), 0, NULL, "id", "S3CR", "" },
    { T("id\nS3CR\n \r\n\t\n\n"), 0, NULL, "id", "S3CR", "" },
    { T("id\nS3CR\ntoken\n\n  \n"), 0, NULL, "id", "S3CR", "token" },
    { T("!\n~\n"), 0, NULL, "!", "~", "" },

    { T(""), 0, "it is empty", NULL, NULL, NULL },
    { T("\n"), 0, "line 1", NULL, NULL, NULL },
    { T("\r\n"), 0, "line 1", NULL, NULL, NULL },
    { T("   \nS3CR\n"), 0, "line 1", NULL, NULL, NULL },
    { T("\nid\nS3CR\n"), 0, "line 1", NULL, NULL, NULL },
    { T(" id\nS3CR\n"), 0, "line 1", NULL, NULL, NULL },
    { T("i d\nS3CR\n"), 0, "line 1", NULL, NULL, NULL },
    { T("S3CR\rS3CR\n"), 0, "line 1", NULL, NULL, NULL },
    { T("\xef\xbb\xbfid\nS3CR\n"), 0, "line 1", NULL, NULL, NULL },
    { T("\xff\xfei\0d\0\n\0S3CR\n"), 0, "line 1", NULL, NULL, NULL },
    { T("i\0d\nS3CR\n"), 0, "line 1", NULL, NULL, NULL },
    { T("id\0\nS3CR\n"), 0, "line 1", NULL, NULL, NULL },
    { T("i\x1b[31md\nS3CR\n"), 0, "line 1", NULL, NULL, NULL },
    { T("i\x7f\nS3CR\n"), 0, "line 1", NULL, NULL, NULL },
    { T("i\xc3\xa4\nS3CR\n"), 0, "line 1", NULL, NULL, NULL },
    { T("S3CR"), 0, "line 2", NULL, NULL, NULL },
    { T("S3CR\n"), 0, "line 2", NULL, NULL, NULL },
    { T("id\n\nS3CR\n"), 0, "line 2", NULL, NULL, NULL },
    { T("id\n S3CR\n"), 0, "line 2", NULL, NULL, NULL },
    { T("id\nS3CR S3CR\n"), 0, "line 2", NULL, NULL, NULL },
    { T("id\nS3CR\0\n"), 0, "line 2", NULL, NULL, NULL },
    { T("id\nS3CR\x80\n"), 0, "line 2", NULL, NULL, NULL },
    { T("id\nS3CR\nto ken\n"), 0, "line 3", NULL, NULL, NULL },
    { T("id\nS3CR\n token\n"), 0, "line 3", NULL, NULL, NULL },
    { T("id\nS3CR\ntok\0en\n"), 0, "line 3", NULL, NULL, NULL },
    { T("id\nS3CR\n\0"), 0, "line 3", NULL, NULL, NULL },
    { T("id\nS3CR\ntoken\nS3CR"), 0, "line 4", NULL, NULL, NULL },
    { T("id\nS3CR\ntoken\n\n\nS3CR\n"), 0, "line 4", NULL, NULL, NULL },
    { T("id\nS3CR\n\ntoken\n"), 0, "line 4", NULL, NULL, NULL },
    { T("aws_access_key_id = S3CR\n"), 0, "line 1", NULL, NULL, NULL },
    { T("@\nS3CR\n"), 129, "line 1", NULL, NULL, NULL },
    { T("id\n@\n"), 257, "line 2", NULL, NULL, NULL },
    { T("id\nS3CR\n@\n"), 4097, "line 3", NULL, NULL, NULL },
    { T("id\nS3CR\n@\n"), 6134, "line 3", NULL, NULL, NULL },
    { T("id\nS3CR\n@\n"), 6135, "longer than 6143 bytes", NULL, NULL, NULL },
    { T("id\nS3CR\n@\n"), 100000, "longer than 6143 bytes", NULL, NULL, NULL }
};


static void
write_row(struct world *w, const row *r)
{
    FILE *to = fopen(w->f.conf, "wb");
    size_t i;
    int k;

    assert_non_null(to);
    for (i = 0; i < r->len; i++) {
        if (r->fill == 0 || r->text[i] != '@')
            assert_int_not_equal(fputc(r->text[i], to), EOF);
        for (k = 0; r->text[i] == '@' && k < r->fill; k++)
            assert_int_not_equal(fputc('@', to), EOF);
    }
    assert_int_equal(fclose(to), 0);
}


static void
test_files(void **state)
{
    struct world *w = *state;
    kaws__creds c;
    kaws_status status;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        const row *r = &rows[i];
        write_row(w, r);
        status = open_creds(w, &c);
        if (r->says != NULL) {
            if (status != KAWS_CONFIG || w->err.status != KAWS_CONFIG ||
                strstr(w->err.text, r->says) == NULL)
                fail_msg("row %lu: %d %s", (unsigned long)i, (int)status,
                         w->err.text);
            assert_non_null(strstr(w->err.text, w->f.conf));
            assert_null(strstr(w->err.text, "S3CR"));
            assert_null(strstr(w->err.text, "@@"));
        } else {
            if (status != KAWS_OK)
                fail_msg("row %lu: %s", (unsigned long)i, w->err.text);
            assert_string_equal(c.secrets->id, r->id);
            assert_string_equal(c.secrets->secret, r->secret);
            assert_string_equal(c.secrets->token, r->token);
        }
        kaws__creds_close(&c);
    }
    assert_int_equal(fake_logged(&w->f, -1, "S3CR"), 0);
}


/* The longest of each, and a file of the greatest length. */
static void
test_longest(void **state)
{
    static const struct { int id, secret, token, blanks; } longest[] = {
        { 128, 256, 0, 0 }, { 1, 1, 4096, 0 }, { 128, 256, 4096, 1660 }
    };
    struct world *w = *state;
    kaws__creds c;
    size_t i;
    int k;

    for (i = 0; i < COUNT(longest); i++) {
        FILE *to = fopen(w->f.conf, "wb");
        assert_non_null(to);
        for (k = 0; k < longest[i].id; k++)
            fputc('i', to);
        fputc('\n', to);
        for (k = 0; k < longest[i].secret; k++)
            fputc('s', to);
        fputc('\n', to);
        for (k = 0; k < longest[i].token; k++)
            fputc('t', to);
        fputc('\n', to);
        for (k = 0; k < longest[i].blanks; k++)
            fputc('\n', to);
        assert_int_equal(fclose(to), 0);
        EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
        assert_int_equal(strlen(c.secrets->id), longest[i].id);
        assert_int_equal(strlen(c.secrets->secret), longest[i].secret);
        assert_int_equal(strlen(c.secrets->token), longest[i].token);
        kaws__creds_close(&c);
    }
}


static void
test_not_a_file(void **state)
{
    struct world *w = *state;
    kaws__creds c;

    assert_int_equal(unlink(w->f.conf), 0);
    EXPECT(w, KAWS_CONFIG, "No such file", open_creds(w, &c));
    assert_int_equal(w->err.os, ENOENT);
    kaws__creds_close(&c);

    assert_int_equal(mkdir(w->f.conf, 0700), 0);
    EXPECT(w, KAWS_CONFIG, "is not a file", open_creds(w, &c));
    kaws__creds_close(&c);
    assert_int_equal(rmdir(w->f.conf), 0);
}


#if !defined(_WIN32)                      /* which has no pipes in folders, and
                                           * keeps access lists, not modes    */

static void
test_pipe_or_link(void **state)
{
    struct world *w = *state;
    char path[128];
    kaws__creds c;

    assert_int_equal(unlink(w->f.conf), 0);
    assert_int_equal(mkfifo(w->f.conf, 0600), 0);   /* must not hang          */
    EXPECT(w, KAWS_CONFIG, "is not a file", open_creds(w, &c));
    kaws__creds_close(&c);
    assert_int_equal(unlink(w->f.conf), 0);

    assert_int_equal(symlink(w->f.conf, w->f.conf), 0);
    EXPECT(w, KAWS_CONFIG, w->f.conf, open_creds(w, &c));
    assert_int_equal(w->err.os, ELOOP);
    kaws__creds_close(&c);
    assert_int_equal(unlink(w->f.conf), 0);

    (void)snprintf(path, sizeof path, "%s.real", w->f.conf);
    assert_int_equal(symlink(path, w->f.conf), 0);
    EXPECT(w, KAWS_CONFIG, "No such file", open_creds(w, &c));
    kaws__creds_close(&c);
    spill(path, "id\nS3CR\n", 8);
    EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));    /* links are allowed      */
    assert_string_equal(c.secrets->secret, "S3CR");
    kaws__creds_close(&c);
}


static void
test_modes(void **state)
{
    static const struct { mode_t mode; int warned; } modes[] = {
        { 0600, 0 }, { 0400, 0 }, { 0640, 1 }, { 0604, 1 }, { 0644, 1 },
        { 0622, 1 }
    };
    struct world *w = *state;
    kaws__creds c;
    size_t i;

    for (i = 0; i < COUNT(modes); i++) {
        assert_int_equal(chmod(w->f.conf, modes[i].mode), 0);
        fake_forget_log(&w->f);
        EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
        assert_int_equal(fake_logged(&w->f, 1, "chmod 600"), modes[i].warned);
        assert_int_equal(fake_logged(&w->f, -1, ""), modes[i].warned);
        kaws__creds_close(&c);
    }
    if (geteuid() != 0)
        return;
    assert_int_equal(chown(w->f.conf, 12345, (gid_t)-1), 0);
    fake_forget_log(&w->f);
    EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
    assert_int_equal(fake_logged(&w->f, 1, "belongs to another user"), 1);
    assert_int_equal(fake_logged(&w->f, -1, ""), 1);
    kaws__creds_close(&c);
}

#endif


/* ---- reading it again -------------------------------------------------- */

static void
test_reload(void **state)
{
    struct world *w = *state;
    kaws__creds c;

    EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
    fake_write_conf(&w->f, "new\nother\ntoken\n");
    EXPECT(w, KAWS_OK, NULL, kaws__creds_reload(&c, &w->err));
    assert_string_equal(c.secrets->id, "new");
    assert_string_equal(c.secrets->token, "token");

    fake_write_conf(&w->f, "half\n");
    EXPECT(w, KAWS_CONFIG, "line 2", kaws__creds_reload(&c, &w->err));
    assert_string_equal(c.secrets->id, "new");
    assert_string_equal(c.secrets->secret, "other");
    assert_string_equal(c.secrets->token, "token");
    kaws__err_clear(&w->err);

    assert_int_equal(unlink(w->f.conf), 0);
    EXPECT(w, KAWS_CONFIG, "No such file", kaws__creds_reload(&c, &w->err));
    assert_string_equal(c.secrets->id, "new");
    kaws__err_clear(&w->err);

    fake_write_conf(&w->f, "third\nsecret\n");
    EXPECT(w, KAWS_OK, NULL, kaws__creds_reload(&c, &w->err));
    assert_string_equal(c.secrets->id, "third");
    assert_string_equal(c.secrets->token, "");      /* the old is gone  */
    kaws__creds_close(&c);
}


/* When the conf file was written, in nanoseconds. */
static int64_t
time_of(struct world *w)
{
    kaws__stat st;
    int fd;

    assert_int_equal(kaws__disk_open(w->f.conf, KAWS__READ, &fd), 0);
    assert_int_equal(kaws__disk_stat(fd, &st), 0);
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
    assert_true(SetFileTime(kaws__disk_handle(fd), NULL, NULL, &time));
    kaws__disk_close(fd);
#else
    struct timespec times[2] = { { 0, UTIME_OMIT }, { 0, 0 } };

    times[1].tv_sec = (time_t)(ns / 1000000000);
    times[1].tv_nsec = (long)(ns % 1000000000);
    assert_int_equal(utimensat(AT_FDCWD, w->f.conf, times, 0), 0);
#endif
    assert_true(time_of(w) == ns);
}


static void
test_refresh_when_changed(void **state)
{
    struct world *w = *state;
    kaws__creds c;
    int64_t then = 1000000000000000500;
    char path[128];
    unsigned was;

    EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
    was = c.generation;
    assert_int_equal(kaws__creds_refresh(&c, was), 0);
    assert_int_equal(c.generation, was);
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);

    /* The same size and inode: the time tells. */
    set_time(w, then);
    assert_int_equal(kaws__creds_refresh(&c, was), 1);
    assert_int_equal(c.generation, was + 1);
    assert_int_equal(fake_logged(&w->f, 2, "newer ones"), 1);
    assert_int_equal(kaws__creds_refresh(&c, was + 1), 0);

    /* The size tells. */
    fake_write_conf(&w->f, "a\nb\n");
    set_time(w, then);
    assert_int_equal(kaws__creds_refresh(&c, was + 1), 1);
    assert_string_equal(c.secrets->id, "a");

    /* The inode tells. */
    (void)snprintf(path, sizeof path, "%s.new", w->f.conf);
    spill(path, "x\ny\n", 4);
    assert_int_equal(rename(path, w->f.conf), 0);
    set_time(w, then);
    assert_int_equal(kaws__creds_refresh(&c, was + 2), 1);
    assert_string_equal(c.secrets->id, "x");

    /* Nothing tells: it is taken for the same, and not read. */
    fake_write_conf(&w->f, "p\nq\n");
    set_time(w, then);
    assert_int_equal(kaws__creds_refresh(&c, was + 3), 0);
    assert_string_equal(c.secrets->id, "x");
    kaws__creds_close(&c);
}


static void
test_refresh_half_written(void **state)
{
    struct world *w = *state;
    kaws__creds c;
    unsigned was;

    EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
    was = c.generation;
    fake_write_conf(&w->f, "new\n");
    assert_int_equal(kaws__creds_refresh(&c, was), 0);
    assert_string_equal(c.secrets->id, FAKE_ID);
    assert_int_equal(fake_logged(&w->f, 1, "line 2"), 1);
    assert_int_equal(kaws__creds_refresh(&c, was), 0);   /* tried again */
    assert_int_equal(fake_logged(&w->f, 1, "line 2"), 2);
    assert_int_equal(unlink(w->f.conf), 0);
    assert_int_equal(kaws__creds_refresh(&c, was), 0);
    assert_string_equal(c.secrets->secret, FAKE_SECRET);
    fake_write_conf(&w->f, "new\nwhole\n");
    assert_int_equal(kaws__creds_refresh(&c, was), 1);
    assert_string_equal(c.secrets->secret, "whole");

    /* Whoever was refused with an older generation finds it done. */
    fake_write_conf(&w->f, "not read\n");
    assert_int_equal(kaws__creds_refresh(&c, was), 1);
    assert_string_equal(c.secrets->secret, "whole");
    kaws__creds_close(&c);
}


static void *
refresh_thread(void *arg)
{
    kaws__creds *c = arg;

    assert_int_equal(kaws__creds_refresh(c, 1), 1);
    return NULL;
}


/* Of many threads that were refused, one reads. */
static void
test_refresh_once_for_all(void **state)
{
    struct world *w = *state;
    pthread_t threads[8];
    kaws__creds c;
    size_t i;

    EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
    assert_int_equal(c.generation, 1);
    fake_write_conf(&w->f, "new\nsecret\n");
    for (i = 0; i < COUNT(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, refresh_thread, &c),
                         0);
    for (i = 0; i < COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(c.generation, 2);
    kaws__creds_close(&c);
}


/* ---- grants ------------------------------------------------------------ */

/* The signing key, made step by step as AWS's page says. */
static void
expect_key(const kaws__mac_key *key, const char *secret, const char *date,
           const char *region)
{
    uint8_t want[32], got[32];
    kaws_bytes running = { want, 32 };
    char first[300];

    (void)snprintf(first, sizeof first, "AWS4%s", secret);
    kaws__crypto_hmac(want, kaws__buf_of(first), kaws__buf_of(date));
    kaws__crypto_hmac(want, running, kaws__buf_of(region));
    kaws__crypto_hmac(want, running, kaws__buf_of("kms"));
    kaws__crypto_hmac(want, running, kaws__buf_of("aws4_request"));
    kaws__crypto_hmac(want, running, kaws__buf_of("signed"));
    kaws__crypto_mac(got, key, kaws__buf_of("signed"));
    assert_memory_equal(got, want, 32);
}


static void
test_grants(void **state)
{
    struct world *w = *state;
    kaws__creds c;
    kaws__grant g;

    fake_write_conf(&w->f, "id\nfirst\ntoken\n");
    EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
    kaws__creds_grant(&c, "20261118T110640Z", "eu-west-1", &g);
    assert_string_equal(g.id, "id");
    assert_string_equal(g.token, "token");
    assert_int_equal(g.generation, c.generation);
    expect_key(&g.key, "first", "20261118", "eu-west-1");
    kaws__creds_grant(&c, "20261118T235959Z", "eu-west-1", &g);
    expect_key(&g.key, "first", "20261118", "eu-west-1");
    kaws__creds_grant(&c, "20261119T000000Z", "eu-west-1", &g);
    expect_key(&g.key, "first", "20261119", "eu-west-1");
    kaws__creds_grant(&c, "20261119T000000Z", "us-gov-west-1", &g);
    expect_key(&g.key, "first", "20261119", "us-gov-west-1");

    /* New credentials: the key of the day is not the old secret's. */
    fake_write_conf(&w->f, "id2\nsecond\n");
    EXPECT(w, KAWS_OK, NULL, kaws__creds_reload(&c, &w->err));
    kaws__creds_grant(&c, "20261119T000000Z", "us-gov-west-1", &g);
    expect_key(&g.key, "second", "20261119", "us-gov-west-1");
    assert_string_equal(g.id, "id2");
    assert_string_equal(g.token, "");
    assert_int_equal(g.generation, c.generation);
    kaws__creds_close(&c);
    kaws__creds_close(&c);
}


/* ---- where the secret is ----------------------------------------------- */

/* 40 characters that stand nowhere in this program as they are. */
static void
make_secret(char out[41], int mask)
{
    int i;

    for (i = 0; i < 40; i++)
        out[i] = (char)(('a' + i * 7 % 26) ^ mask);
    out[40] = '\0';
}


/* This process's memory, looked at from outside. */
#if defined(_WIN32)

typedef struct scan {
    uintptr_t at;
} scan;


static void
scan_begin(scan *s)
{
    s->at = 0;
}


/* The next piece that can be written to; 0: there is none. */
static int
scan_next(scan *s, uintptr_t *start, uintptr_t *end)
{
    MEMORY_BASIC_INFORMATION i;

    while (VirtualQuery((void *)s->at, &i, sizeof i) == sizeof i) {
        *start = (uintptr_t)i.BaseAddress;
        *end = s->at = *start + i.RegionSize;
        if (i.State == MEM_COMMIT && i.Protect == PAGE_READWRITE)
            return 1;
    }
    return 0;
}


static size_t
scan_copy(const scan *s, uintptr_t at, void *to, size_t len)
{
    SIZE_T n = 0;

    (void)s;
    return ReadProcessMemory(GetCurrentProcess(), (void *)at, to, len, &n)
         ? n : 0;
}


static void
scan_end(scan *s)
{
    (void)s;
}

#else

typedef struct scan {
    FILE *maps;
    int   mem;
} scan;


static void
scan_begin(scan *s)
{
    s->maps = fopen("/proc/self/maps", "r");
    s->mem = open("/proc/self/mem", O_RDONLY);
    assert_non_null(s->maps);
    assert_true(s->mem >= 0);
}


/* The next piece that can be written to; 0: there is none. */
static int
scan_next(scan *s, uintptr_t *start, uintptr_t *end)
{
    char line[512], mode[8];

    while (fgets(line, sizeof line, s->maps) != NULL)
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %7s", start, end,
                   mode) == 3 && mode[0] == 'r' && mode[1] == 'w')
            return 1;
    return 0;
}


static size_t
scan_copy(const scan *s, uintptr_t at, void *to, size_t len)
{
    ssize_t n = pread(s->mem, to, len, (off_t)at);

    return n > 0 ? (size_t)n : 0;
}


static void
scan_end(scan *s)
{
    fclose(s->maps);
    close(s->mem);
}

#endif


/* Counts the secret in all memory of this process that can be written, but for
 * [from, to). What is found in here does not count either. */
static int
count_in_memory(const char masked[41], const void *from, const void *to)
{
    static struct { uint8_t chunk[1 << 20]; char wanted[40]; } own;
    uintptr_t start, end, at;
    int count = 0, i;
    scan s;

    scan_begin(&s);
    for (i = 0; i < 40; i++)
        own.wanted[i] = (char)(masked[i] ^ 0x55);
    while (scan_next(&s, &start, &end)) {
        if (end - start > 256ul << 20)
            continue;                     /* a sanitizer's shadow             */
        for (at = start; at < end; at += sizeof own.chunk - 64) {
            size_t want = end - at < sizeof own.chunk ? end - at
                                                      : sizeof own.chunk;
            size_t n = scan_copy(&s, at, own.chunk, want);
            uint8_t *next = own.chunk, *stop = own.chunk + n;
            while ((next = memmem(next, (size_t)(stop - next), own.wanted,
                                  40)) != NULL) {
                uintptr_t there = at + (uintptr_t)(next++ - own.chunk);
                count += (there < (uintptr_t)from || there >= (uintptr_t)to) &&
                         (there < (uintptr_t)&own ||
                          there >= (uintptr_t)(&own + 1));
            }
        }
    }
    scan_end(&s);
    kaws_wipe(&own, sizeof own);
    return count;
}


static void
test_secret_stays_in_its_pages(void **state)
{
    struct world *w = *state;
    char masked[41], text[64];
    kaws__creds c;
    kaws__grant g;
    int fd = open(w->f.conf, O_WRONLY | O_TRUNC);

    make_secret(text + 3, 0);
    memcpy(text, "id\n", 3);
    text[43] = '\n';
    assert_int_equal(write(fd, text, 44), 44);
    assert_int_equal(close(fd), 0);
    make_secret(masked, 0x55);
    assert_int_not_equal(count_in_memory(masked, NULL, NULL), 0);
    kaws_wipe(text, sizeof text);
    assert_int_equal(count_in_memory(masked, NULL, NULL), 0);

    EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
    kaws__creds_grant(&c, "20261118T110640Z", "eu-west-1", &g);
    EXPECT(w, KAWS_OK, NULL, kaws__creds_reload(&c, &w->err));
    kaws__creds_grant(&c, "20261119T110640Z", "eu-west-1", &g);
    assert_int_equal(count_in_memory(masked, c.secrets, c.secrets + 1), 0);
    assert_int_equal(count_in_memory(masked, NULL, NULL), 1);
    assert_memory_equal(c.secrets->file, "\0\0\0\0\0\0\0\0", 8);
    kaws__creds_close(&c);
    assert_null(c.secrets);
    assert_int_equal(count_in_memory(masked, NULL, NULL), 0);
}


/* ---- what a text may not hold ------------------------------------------ */

/* A piece of the secret or of the token, but not of the id; in any case, and
 * with anything in between. The creds that count are the newest. */
static void
test_what_is_in_a_text(void **state)
{
    static const struct { const char *text; int is; } cases[] = {
        { "", 0 }, { "id AKIAFAKEFAKEFAKEFAKE", 0 }, { "sEcReT/fAk", 1 },
        { "the secret f-a-k-e", 1 }, { "sEcReT/f", 0 }, { "KLMNOPQR", 1 },
        { "a\\x0ab bcdefghi\\x0aj", 1 }, { "TOKEN+of/a", 1 },
        { "a token of A", 1 }, { "a token of", 0 }, { "session=12345678", 1 }
    };
    struct world *w = *state;
    kaws__creds c;
    size_t i;

    fake_write_conf(&w->f, FAKE_ID "\n" FAKE_SECRET "\n"
                    "Token/of+a/Session==12345678\n");
    EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
    for (i = 0; i < COUNT(cases); i++)
        if (kaws__creds_in(&c, kaws__buf_of(cases[i].text)) != cases[i].is)
            fail_msg("%s", cases[i].text);
    fake_write_conf(&w->f, FAKE_ID "\nAnother/Secret\n");
    EXPECT(w, KAWS_OK, NULL, kaws__creds_reload(&c, &w->err));
    assert_false(kaws__creds_in(&c, kaws__buf_of("Token/of+a/Session")));
    assert_false(kaws__creds_in(&c, kaws__buf_of(FAKE_SECRET)));
    assert_true(kaws__creds_in(&c, kaws__buf_of("another secret")));
    kaws__creds_close(&c);
}


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
    kaws__creds c;
    size_t i;

    for (i = 0; i < COUNT(cases); i++) {
        EXPECT(w, KAWS_CONFIG, cases[i].shown,
               kaws__creds_open(&c, &w->f.hooks, cases[i].path, &w->err));
        kaws__creds_close(&c);
    }
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
#endif
        TEST(test_reload),
        TEST(test_refresh_when_changed),
        TEST(test_refresh_half_written),
        TEST(test_refresh_once_for_all),
        TEST(test_grants),
        TEST(test_what_is_in_a_text),
        TEST(test_name_of_the_file),
        TEST(test_secret_stays_in_its_pages)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
