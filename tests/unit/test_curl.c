/* Room curl, the built-in sender: alone, with a small server, and with a
 * libcurl whose calls fail. */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <curl/curl.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

typedef struct option {                   /* as curl_easy_setopt was told     */
    CURLoption option;
    long number;
    const void *at;
} option;

static option options[64];
static size_t option_count;
static CURLoption strange;                /* to this libcurl; 0: none is      */
static int curl_left = -1;                /* calls until one fails; -1: none  */
static const curl_version_info_data *curl_says;   /* NULL: the truth          */
static const char *hidden = "";           /* a function of no library         */
static int no_lock;                       /* the n-th cannot be had; 0: all   */
static void (*meanwhile)(void);           /* what another thread does         */
static int deaf, naps;                    /* waits for nothing; pauses        */
static int stopped;                       /* our clock stands, not libcurl's  */
static CURLMcode wait_says;               /* CURLM_OK: it waits               */


static int
curl_fails(void)
{
    return curl_left >= 0 && curl_left-- == 0;
}


/* What an option's value is, its number says. */
static CURLcode
poor_setopt(CURL *easy, CURLoption which, ...)
{
    option *o = &options[option_count++ % 64];
    CURLcode code;
    va_list rest;

    memset(o, 0, sizeof *o);
    o->option = which;
    if (curl_fails() || which == strange)
        return CURLE_UNKNOWN_OPTION;
    va_start(rest, which);
    if (which < CURLOPTTYPE_OBJECTPOINT) {
        o->number = va_arg(rest, long);
        code = (curl_easy_setopt)(easy, which, o->number);
    } else if (which < CURLOPTTYPE_FUNCTIONPOINT) {
        o->at = va_arg(rest, void *);
        code = (curl_easy_setopt)(easy, which, o->at);
    } else {
        code = (curl_easy_setopt)(easy, which,
                                  va_arg(rest, curl_free_callback));
    }
    va_end(rest);
    return code;
}


static CURLMcode
poor_multi_wait(CURLM *multi, struct curl_waitfd *fds, unsigned count, int ms,
                int *active)
{
    if (meanwhile != NULL)
        meanwhile();
    *active = 0;
    return wait_says != CURLM_OK ? wait_says
         : deaf > 0 && deaf-- > 0 ? CURLM_OK
         : curl_multi_wait(multi, fds, count, ms, active);
}


/* Functions, not macros: no branch of theirs counts as one of the product's. */
#undef curl_multi_setopt
#undef curl_share_setopt
#define POOR(type, bad, name, parameters, arguments)                          \
    static type                                                               \
    poor_##name parameters                                                    \
    {                                                                         \
        return curl_fails() ? bad : name arguments;                           \
    }

POOR(CURL *, NULL, curl_easy_init, (void), ())
POOR(CURLM *, NULL, curl_multi_init, (void), ())
POOR(CURLSH *, NULL, curl_share_init, (void), ())
POOR(CURLMcode, CURLM_UNKNOWN_OPTION, curl_multi_setopt,
     (CURLM *multi, CURLMoption which, long value), (multi, which, value))
POOR(CURLSHcode, CURLSHE_NOMEM, curl_share_setopt,
     (CURLSH *share, CURLSHoption which, int value), (share, which, value))
POOR(CURLMcode, CURLM_OUT_OF_MEMORY, curl_multi_add_handle,
     (CURLM *multi, CURL *easy), (multi, easy))


static const curl_version_info_data *
poor_version_info(CURLversion which)
{
    return curl_says != NULL ? curl_says : curl_version_info(which);
}


static void *
poor_dlsym(void *library, const char *name)
{
    return strcmp(name, hidden) == 0 ? NULL : dlsym(library, name);
}


static int
poor_nanosleep(const struct timespec *time, struct timespec *left)
{
    naps++;
    return nanosleep(time, left);
}


static int
poor_clock(clockid_t which, struct timespec *time)
{
    static struct timespec then;

    if (stopped && which == CLOCK_MONOTONIC)
        *time = then;
    else if (clock_gettime(which, time) != 0)
        return -1;
    if (which == CLOCK_MONOTONIC)
        then = *time;
    return 0;
}


static int
poor_mutex_init(pthread_mutex_t *lock, const pthread_mutexattr_t *how)
{
    return no_lock > 0 && --no_lock == 0 ? EAGAIN
                                         : pthread_mutex_init(lock, how);
}


#undef curl_easy_setopt
#define curl_easy_setopt      poor_setopt
#define curl_easy_init        poor_curl_easy_init
#define curl_multi_init       poor_curl_multi_init
#define curl_share_init       poor_curl_share_init
#define curl_multi_setopt     poor_curl_multi_setopt
#define curl_share_setopt     poor_curl_share_setopt
#define curl_multi_add_handle poor_curl_multi_add_handle
#define curl_multi_wait       poor_multi_wait
#define curl_version_info     poor_version_info
#define dlsym                 poor_dlsym
#define nanosleep             poor_nanosleep
#define clock_gettime         poor_clock
#define pthread_mutex_init    poor_mutex_init

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "unit.h"
#include "world.h"

#include "listener.h"

#include <sys/un.h>

#define DAY     "Sun, 06 Nov 1994 08:49:37 GMT"
#define DAY_S   784111777
#define I16     "iiiiiiiiiiiiiiii"
#define BEGIN   "-----BEGIN CERTIFICATE-----\n"


/* A sender whose memory keeps books. */
static kaws__sender *
open_http(struct world *w, kaws__http *http, const char *ca_file)
{
    static kaws_hooks hooks;

    hooks = w->f.hooks;
    hooks.send = NULL;
    kaws__err_clear(&w->err);
    EXPECT(w, KAWS_OK, NULL, kaws__http_open(
        http, &hooks, &(kaws_config){ .ca_file = ca_file }, 1, &w->err));
    assert_non_null(http->sender);
    return http->sender;
}


/* ---- header lines ------------------------------------------------------ */

static kaws__conn no_conn;


/* Reads a head line by line; each is a heap block of its own length, so the
 * sanitizer sees a byte too far. */
static void
read_head(kaws__transfer *t, const char *head)
{
    while (*head != '\0') {
        size_t n = strcspn(head, "\n");
        char *line;
        n += head[n] == '\n';
        line = (char *)unit_exact(head, n);
        assert_int_equal(kaws__curl_on_header(line, 1, n, t), n);
        free(line);
        head += n;
    }
}


/* A head may come before, and a trailer last: their lines are not the reply's.
 */
static void
test_heads(void **state)
{
    static const struct {
        const char *head;
        int64_t date;
        int retry_ms;
        const char *id;
        int headed, overread;
    } rows[] = {
        { "dAtE: \t " DAY " \t \r\nDate\r\nX-Date: x\r\nDat: x\r\nDate : x\r\n"
          "Retry-After: 7\r\nx-amz-request-id: x\r\nTransfer-Encodings: x\r\n"
          ":\r\n: x\r\nHTTP\r\nHTTP/", DAY_S, -1, "", 0, 0 },
        { "Date:Sun, 06 Nov 1994 08:49:38 GMT\nDATE:" DAY, DAY_S, -1, "",
          0, 0 },
        { "Date: " DAY "\r\nDate: nonsense\r\n", 0, -1, "", 0, 0 },
        { "X-Amz-Retry-After:1500\nx-amz-retry-after: 0", 0, 0, "", 0, 0 },
        { "x-amz-retry-after: 3600000\r\nx-amz-retry-after: 3600001\r\n"
          "x-amz-retry-after: 4294967296\nx-amz-retry-after: -5\n"
          "x-amz-retry-after: +5\nx-amz-retry-after: 1.5\n"
          "x-amz-retry-after:\n", 0, 3600000, "", 0, 0 },
        { "x-amzn-requestid: longer\nX-AMZN-RequestId:   1b2c- \t\r\n", 0, -1,
          "1b2c-", 0, 0 },
        { "x-amzn-requestid: 1\nx-amzn-requestid:\r\n", 0, -1, "", 0, 0 },
        { "x-amzn-requestid: " I16 I16 I16 "iiiiiiiiiiiiii_", 0, -1,
          I16 I16 I16 "iiiiiiiiiiiiii_", 0, 0 },
        { "transfer-Encoding: chunked\r\n", 0, -1, "", 0, 1 },
        { "HTTP/1.1 103 Hints\r\nDate: " DAY "\r\nx-amz-retry-after: 9\r\n"
          "x-amzn-requestid: first\r\nHTTP/1.1 400 Bad Request: all\r\n",
          0, -1, "", 0, 0 },
        { "HTTP/1.0 200\nDate: " DAY "\n\n", DAY_S, -1, "", 1, 0 },
        { "HTTP/1.1 200 OK\r\nx-amzn-requestid: a\r\n\r\nx-amzn-requestid: b"
          "\r\nDate: " DAY "\r\ntransfer-encoding: chunked\r\n", 0, -1, "a",
          1, 0 }
    };
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        kaws_reply r = { .retry_after_ms = -1 };
        kaws__transfer t = { .r = &r, .conn = &no_conn };
        read_head(&t, rows[i].head);
        if (r.date != rows[i].date || r.retry_after_ms != rows[i].retry_ms ||
            strcmp(r.request_id, rows[i].id) != 0 ||
            t.headed != rows[i].headed || t.overread != rows[i].overread)
            fail_msg("%s: %ld, %d, '%s', %d %d", rows[i].head, (long)r.date,
                     r.retry_after_ms, r.request_id, t.headed, t.overread);
    }
}


/* A line may be cut anywhere. An id that is too long is cut, and another that
 * begins alike is another. */
static void
test_odd_request_ids(void **state)
{
    static const char *const ends[] = { I16 "ii", I16 "j", I16 "ii" };
    kaws_reply r = { .retry_after_ms = -1 };
    kaws__transfer t = { .r = &r };
    char line[128] = "x-amzn-requestid: 0123 \t\r\n", ids[3][64];
    size_t i, len = strlen(line);

    (void)state;
    for (i = 0; i <= len; i++) {
        char *cut = (char *)unit_exact(line, i);
        assert_int_equal(kaws__curl_on_header(cut, 1, i, &t), i);
        free(cut);
    }
    assert_string_equal(r.request_id, "0123");
    for (i = 0; i < 3; i++) {
        (void)snprintf(line, sizeof line, "x-amzn-requestid: " I16 I16 I16
                       "%s\r\n", ends[i]);
        read_head(&t, line);
        assert_int_equal(strlen(r.request_id), 63);
        assert_memory_equal(r.request_id, I16 I16 I16, 47);
        memcpy(ids[i], r.request_id, 64);
    }
    assert_string_equal(ids[0], ids[2]);
    assert_string_not_equal(ids[0], ids[1]);
}


/* What can be mended by a setting is told apart from an outage. libcurl's words
 * are shown, or if there are none, what its code means. Of a proxy's password
 * in the environment no piece is shown, in libcurl's own words of a URL that it
 * takes for another, or cannot use. */
static void
test_outcomes(void **state)
{
    static const char *const names[] = { "https_proxy", "HTTPS_PROXY",
                                         "all_proxy", "ALL_PROXY" };
    static const struct {
        CURLcode code;
        const char *proxy, *words;
        int shown, setting;
    } rows[] = {
        { CURLE_SSL_CACERT_BADFILE, "p", "error setting certificate", 1, 1 },
        { CURLE_URL_MALFORMAT, "p", "Port number was not a decimal", 1, 1 },
        { CURLE_COULDNT_RESOLVE_PROXY, "x:x", "Unsupported proxy 'x:x'", 1, 1 },
        { CURLE_PEER_FAILED_VERIFICATION, "p", "certificate", 1, 0 },
        { CURLE_OPERATION_TIMEDOUT, "p", "", 1, 0 },
        { CURLE_OUT_OF_MEMORY, "p", "", 1, 0 },
        { CURLE_RECV_ERROR, "http://svc:Passw0rd@p:3128", "Failed", 1, 0 },
        { CURLE_RECV_ERROR, "http://p:x#y", "in 'http://p:x'", 1, 0 },
        { CURLE_RECV_ERROR, "http://svc:Pa#ss@p", "in 'svc:Pa'", 0, 0 },
        { CURLE_RECV_ERROR, "svc:Pa#ss@p", "Could not resolve: svc", 0, 0 },
        { CURLE_RECV_ERROR, "http://svc:1/ss@p", "Failed: svc port 1", 0, 0 },
        { CURLE_RECV_ERROR, "http://svc:1?ss@p", "Failed: svc port 1", 0, 0 },
        { CURLE_RECV_ERROR, "http://svc:P@ss#@p", "no host ss", 0, 0 },
        { CURLE_RECV_ERROR, "http://svc:Pa ss@p", "in 'svc:Pa ss@p'", 0, 0 },
        { CURLE_RECV_ERROR, "http://svc:Pass@p:x", "in 'svc:Pass@p'", 0, 0 },
        { CURLE_NOT_BUILT_IN, "https://svc:Pass@p",
          "Unsupported proxy 'https://svc:Pass", 0, 1 },
        { CURLE_RECV_ERROR, "https://svc:Pass@p", "Failed", 1, 0 }
    };
    static const kaws_request q = { .url = "https://h/" };
    static kaws__sender s;
    static kaws__transfer t = { .s = &s, .q = &q };
    char want[128];
    size_t i, k;

    (void)state;
    for (i = 0; i < COUNT(rows) * 4; i++) {
        kaws_reply r = { .http = 0 };
        const char *kind = curl_easy_strerror(rows[i / 4].code);
        t.r = &r;
        for (k = 0; k < 4; k++)
            assert_int_equal(k == i % 4 ? setenv(names[k], rows[i / 4].proxy, 1)
                                        : unsetenv(names[k]), 0);
        (void)snprintf(t.error, sizeof t.error, "%s", rows[i / 4].words);
        (void)snprintf(want, sizeof want, rows[i / 4].shown ? "%s" :
                       "%s (check %s: percent-encode its user and password)",
                       rows[i / 4].shown && *t.error ? t.error : kind,
                       names[i % 4]);
        assert_int_equal(kaws__curl_outcome(&t, rows[i / 4].code),
                         rows[i / 4].setting ? KAWS_CONFIG : KAWS_NETWORK);
        unit_same_text("words", r.text, want);
        assert_int_equal(r.http, 0);
    }
    assert_int_equal(unsetenv("ALL_PROXY"), 0);
}


/* The error says that a request went through the proxy that is set. Of that
 * proxy's password no piece is shown. The environment's proxy does not count,
 * so it is not blamed. */
static void
test_outcomes_by_a_proxy_that_is_set(void **state)
{
    static const struct {
        const char *proxy, *url;
        int direct;
        const char *said, *want;
    } rows[] = {
        { "p", "https://h/", 0, "Failed", "through the proxy: Failed" },
        { "u:Pw@p", "https://h/", 0, "Failed", "through the proxy: Failed" },
        { "u:Pw@p", "https://h/", 1, "Failed", "Failed" },
        { "u:Pw@p", "http://h/", 0, "Failed", "Failed" },
        { NULL, "https://h/", 0, "Failed", "Failed" },
        { "p", "https://h/", 0, "", "through the proxy: Failure when receiving "
          "data from the peer" },
        { "https://p", "https://h/", 0, "Unsupported proxy 'https://p'",
          "through the proxy: Unsupported proxy 'https://p'" },
        { "https://u:Pw@p", "https://h/", 0, "Unsupported proxy 'https://u:Pw",
          "Failure when receiving data from the peer (check proxy: percent-"
          "encode its user and password)" }
    };
    char longest[CURL_ERROR_SIZE];
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        const kaws_request q = { .url = rows[i].url,
                                 .direct = rows[i].direct };
        kaws__sender s = { .proxy = rows[i].proxy };
        kaws_reply r = { .http = 0 };
        kaws__transfer t = { .s = &s, .q = &q, .r = &r };
        *unit_case() = rows[i].said;
        assert_int_equal(setenv("https_proxy", rows[i].proxy != NULL ?
                                "http://u:Pw#x@p" : "", 1), 0);
        (void)snprintf(t.error, sizeof t.error, "%s", rows[i].said);
        assert_int_equal(kaws__curl_outcome(&t, CURLE_RECV_ERROR),
                         rows[i].said[0] == 'U' ? KAWS_CONFIG : KAWS_NETWORK);
        unit_same_text("words", r.text, rows[i].want);
        memset(longest, 'x', sizeof longest);
        longest[sizeof longest - 1] = '\0';
        memcpy(t.error, longest, sizeof longest);
        (void)kaws__curl_outcome(&t, CURLE_RECV_ERROR);
        assert_int_equal(strlen(r.text), sizeof r.text - 1);
    }
    assert_int_equal(unsetenv("https_proxy"), 0);
}


/* ---- the CA file and other settings ------------------------------------ */

/* A CA file with that text behind `before` bytes of rubbish. */
static const char *
ca_file(struct world *w, size_t before, const char *text)
{
    static char path[96];
    char *all = calloc(1, before + strlen(text) + 1);

    assert_non_null(all);
    (void)snprintf(path, sizeof path, "%s/ca", w->f.dir);
    memset(all, '#', before / 2);         /* NULs end nothing                 */
    memcpy(all + before, text, strlen(text));
    spill(path, all, before + strlen(text));
    free(all);
    return path;
}


static void
test_ca_files(void **state)
{
    static const struct { size_t before; const char *text; int good; }
    rows[] = {
        { 0, BEGIN, 1 }, { 0, "-----BEGIN TRUSTED CERTIFICATE-----\n", 1 },
        { 0, "-----BEGIN X509 CERTIFICATE-----", 1 },
        { 0, "# ours\r\n\r\n" BEGIN, 1 }, { 0, "\xef\xbb\xbf" BEGIN, 1 },
        { 5000, "\n" BEGIN, 1 }, { KAWS__CURL_CA_LOOK - 2048, "\n" BEGIN, 1 },
        { KAWS__CURL_CA_LOOK + 4096, "\n" BEGIN, 0 },
        { 0, "-----BEGIN CERTIFICATE----", 0 }, { 0, "\n", 0 },
        { 0, "-----BEGIN CERTIFICATE REQUEST-----\n", 0 },
        { 0, "-----END CERTIFICATE-----\n", 0 },
        { 0, "  " BEGIN, 0 },             /* OpenSSL finds none here either   */
        { 0, "\n\xef\xbb\xbf" BEGIN, 0 }, { 2047, "\n\xef\xbb\xbf" BEGIN, 0 },
        { 1024, BEGIN, 0 }, { 5000, "", 0 }
    };
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        *unit_case() = rows[i].text;
        kaws__err_clear(&w->err);
        EXPECT(w, rows[i].good ? KAWS_OK : KAWS_CONFIG,
               "/ca: no certificate in it; it has to hold", kaws__curl_check_ca(
                   ca_file(w, rows[i].before, rows[i].text), &w->err));
    }
    kaws__err_clear(&w->err);
    for (i = 2000; i < 2060; i++)         /* over the edge of two pieces      */
        EXPECT(w, KAWS_OK, NULL, kaws__curl_check_ca(
            ca_file(w, i, "\n" BEGIN), &w->err));
}


/* None of these is opened in a way that waits; a link is followed. */
static void
test_what_is_no_ca_file(void **state)
{
    struct world *w = *state;
    struct sockaddr_un where = { .sun_family = AF_UNIX };
    char fifo[96], link[96], empty[96];
    const struct { const char *path, *words; } rows[] = {
        { "/none", "cannot read the CA file /none: No such file" },
        { "", "cannot read the CA file : No such file" },
        { "c\na\x1b[31m", "the CA file c\\x0aa\\x1b[31m: No such file" },
        { w->f.dir, "it is not a file" }, { "/dev/zero", "it is not a file" },
        { fifo, "fifo: it is not a file" }, { empty, "it is empty" },
        { where.sun_path, "Is a pipe or a device" }, { link, NULL }
    };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    size_t i;

    (void)snprintf(fifo, sizeof fifo, "%s/fifo", w->f.dir);
    (void)snprintf(link, sizeof link, "%s/link", w->f.dir);
    (void)snprintf(empty, sizeof empty, "%s/empty", w->f.dir);
    (void)snprintf(where.sun_path, sizeof where.sun_path, "%s/s", w->f.dir);
    spill(empty, "", 0);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(symlink(ca_file(w, 0, BEGIN), link), 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&where, sizeof where), 0);
    for (i = 0; i < COUNT(rows); i++) {
        kaws__err_clear(&w->err);
        EXPECT(w, rows[i].words != NULL ? KAWS_CONFIG : KAWS_OK, rows[i].words,
               kaws__curl_check_ca(rows[i].path, &w->err));
    }
    close(fd);
}


static const struct {
    const char *proxy, *key_log, *ca_file;
    int plain, no_memory, no_lock;
    kaws_status status;
    const char *words, *set;
    int tls;
} openings[] = {
    { "/", NULL, NULL, 0, 0, 0, KAWS_OK, NULL, "p", 0 },
    { "/", NULL, NULL, 0, 0, 0, KAWS_OK, NULL, "https://u:w@p", 1 },
    { "https://p", NULL, NULL, 0, 0, 0, KAWS_OK, NULL, "p", 0 },
    { "https://p", NULL, NULL, 0, 0, 0, KAWS_OK, NULL, NULL, 1 },
    { "p", NULL, NULL, 1, 0, 0, KAWS_OK, NULL, "https://p", 1 },
    { "p", NULL, NULL, 0, 0, 0, KAWS_CONFIG, "proxy is not", "/", 0 },
    { "p", NULL, NULL, 1, 0, 0, KAWS_CONFIG, "proxy is not", "", 0 },
    { "p", NULL, "/none", 0, 0, 0, KAWS_CONFIG, "CA file", "/", 0 },
    { "p", NULL, NULL, 0, 0, 0, KAWS_OK, NULL, NULL, 0 },
    { "/", NULL, NULL, 1, 0, 0, KAWS_OK, NULL, NULL, 0 },
    { "p", "/nowhere", NULL, 0, 0, 0, KAWS_OK, NULL, NULL, 0 },
    { "/", NULL, NULL, 0, 0, 0, KAWS_CONFIG, "https_proxy", NULL, 0 },
    { "p", NULL, "/none", 1, 0, 0, KAWS_CONFIG, "CA file", NULL, 0 },
    { "p", NULL, NULL, 0, 1, 0, KAWS_MEMORY, "out of memory", NULL, 0 },
    { "p", NULL, NULL, 0, 0, 1, KAWS_MEMORY, "no lock", NULL, 0 },
    { "p", NULL, NULL, 0, 0, 2, KAWS_MEMORY, "out of memory", NULL, 0 }
};


/* Whatever keeps the sender from being opened, it can be closed. Plain HTTP
 * uses no proxy, so that of the environment may be wrong then; one that is set
 * may never be. */
static void
test_opening(void **state)
{
    struct world *w = *state;
    kaws_hooks hooks = w->f.hooks;
    kaws_config cfg = w->cfg;
    kaws__http http;
    size_t i;

    hooks.send = NULL;
    assert_int_equal(unsetenv("no_proxy"), 0);
    for (i = 0; i < COUNT(openings); i++) {
        assert_int_equal(setenv("https_proxy", openings[i].proxy, 1), 0);
        assert_int_equal(unsetenv("SSLKEYLOGFILE"), 0);
        if (openings[i].key_log != NULL)
            assert_int_equal(setenv("SSLKEYLOGFILE", openings[i].key_log, 1),
                             0);
        fake_forget_log(&w->f);
        w->f.fail_nth = openings[i].no_memory ? w->f.allocs + 1 : 0;
        no_lock = openings[i].no_lock;
        kaws__err_clear(&w->err);
        cfg.ca_file = openings[i].ca_file;
        cfg.proxy = openings[i].set;
        EXPECT(w, openings[i].status, openings[i].words, kaws__http_open(
            &http, &hooks, &cfg, openings[i].plain, &w->err));
        if (openings[i].status == KAWS_OK) {
            const kaws__sender *s = http.sender;
            assert_ptr_equal(s->proxy, openings[i].set);
            assert_int_equal(s->proxy_tls, openings[i].tls);
        }
        assert_int_equal(no_lock, 0);
        assert_int_equal(fake_logged(&w->f, 1, "SSLKEYLOGFILE"),
                         openings[i].key_log != NULL);
        kaws__http_close(&http);
        kaws__http_close(&http);
        assert_int_equal(w->f.live, 0);
    }
    assert_int_equal(unsetenv("SSLKEYLOGFILE"), 0);
    assert_int_equal(unsetenv("https_proxy"), 0);
}


/* A ring keeps a copy of the proxy, and nothing that it says has the password.
 * (A copy that was not wiped at the end would make the world fail.) */
static void
test_a_ring_with_a_proxy(void **state)
{
    static const char proxy[] = "http://svc:Xy7qWv8z@127.0.0.1:1";
    struct world *w = *state;
    char mine[sizeof proxy];
    const kaws__sender *s;
    kaws_identity who;

    memcpy(mine, proxy, sizeof mine);
    w->cfg.proxy = mine;
    w->cfg.hooks.send = NULL;
    world_open(w);
    memset(mine, 'x', sizeof mine - 1);
    s = w->ring->kms.http.sender;
    assert_string_equal(s->proxy, proxy);
    EXPECT(w, KAWS_NETWORK, "through the proxy: ", kaws_check(w->ring,
                                                              &w->err));
    assert_null(strstr(w->err.text, "Wv8z"));
    kaws_whoami(w->ring, &who, &w->err);
    assert_null(strstr(who.endpoint, "Wv8z"));
    assert_int_equal(fake_logged(&w->f, -1, "svc"), 0);
    assert_int_equal(fake_logged(&w->f, -1, "Wv8z"), 0);
    assert_true(fake_logged(&w->f, 1, "through the proxy: ") > 0);
    world_close(w);
    assert_int_equal(w->f.live, 0);
    assert_int_equal(w->f.dirty, 0);
    mine[0] = '\0';                       /* set, and no proxy: it is refused */
    EXPECT(w, KAWS_CONFIG, "proxy is not of the form",
           kaws_open(&w->ring, &w->cfg, &w->err));
    kaws__err_clear(&w->err);
}


/* ---- options ----------------------------------------------------------- */

static uint64_t told_options;


static uint64_t
openssl_options(void *context, uint64_t value)
{
    (void)context;
    return told_options |= value;
}


/* Was the option set, to that value? Of a text its bytes count. */
static void
expect_option(CURLoption which, long number, const void *at, int text)
{
    size_t i = 0;

    while (i < option_count && options[i].option != which)
        i++;
    if (i == option_count || options[i].number != number ||
        (text && at != NULL && options[i].at != NULL
         ? strcmp(options[i].at, at) != 0 : options[i].at != at))
        fail_msg("%s: option %d", *unit_case(), (int)which);
}


/* An option that libcurl does not know keeps the request from being sent, but
 * for three. */
static void
expect_needed(const kaws__transfer *t)
{
    option set[64];
    size_t i, count = option_count;

    memcpy(set, options, sizeof set);
    for (i = 0; i < count; i++) {
        strange = set[i].option;
        if (kaws__curl_set_options(t->easy, t) != (
                strange == CURLOPT_CAPATH || strange == CURLOPT_SSL_CTX_DATA ||
                strange == CURLOPT_SSL_CTX_FUNCTION))
            fail_msg("%s: option %d", *unit_case(), (int)strange);
    }
    strange = (CURLoption)0;
}


static const struct kind {                /* of request and of libcurl        */
    const char *url, *body, *ca_file, *protocol, *proxy;
    int old, openssl, kept;
    size_t count;
    const char *method;
    CURLoption how;
    const char *set;                      /* the config's proxy               */
    int direct;
} kinds[] = {
    { "https://g/", "{}", NULL, "https", "u:pw@p", 0, 0, 0, 32, NULL,
      CURLOPT_POST, "u:pw@p", 0 },
    { "https://i/x", "", NULL, "https", "", 0, 0, 0, 32, "GET",
      CURLOPT_HTTPGET, "u:pw@p", 1 },
    { "https://j/x", "", NULL, "https", "", 0, 0, 0, 31, "GET",
      CURLOPT_HTTPGET, NULL, 1 },
    { "http://k/", "{}", NULL, "http", "", 0, 0, 1, 32, "POST", CURLOPT_POST,
      "u:pw@p", 0 },
    { "https://h/", "{}", NULL, "https", NULL, 0, 0, 0, 31, NULL,
      CURLOPT_POST, NULL, 0 },
    { "http://h/", "{}", NULL, "http", "", 0, 0, 1, 31, "POST", CURLOPT_POST,
      NULL, 0 },
    { "https://b/", "{} ", NULL, "https", NULL, 0, 1, 0, 33, NULL,
      CURLOPT_POST, NULL, 0 },
    { "https://c/", "{}", "/ca", "https", NULL, 1, 1, 0, 35, NULL,
      CURLOPT_POST, NULL, 0 },
    { "https://d/x", "", NULL, "https", NULL, 0, 0, 0, 31, "GET",
      CURLOPT_HTTPGET, NULL, 0 },
    { "https://e/x", "", NULL, "https", NULL, 0, 0, 0, 31, "HEAD",
      CURLOPT_NOBODY, NULL, 0 },
    { "https://f/x", "{}", NULL, "https", NULL, 0, 0, 0, 31, "PUT",
      CURLOPT_UPLOAD, NULL, 0 }
};


/* Every option that is set, and what to. */
static void
expect_options(const kaws__transfer *t, const struct kind *k)
{
    const kaws_bytes body = t->q->body;
    const struct { CURLoption option; long number; const void *at; } want[] = {
        { CURLOPT_NOSIGNAL, 1, NULL }, { k->how, 1, NULL },
        { CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_2, NULL },
        { CURLOPT_SSL_VERIFYPEER, 1, NULL },
        { CURLOPT_SSL_VERIFYHOST, 2, NULL },
        { CURLOPT_FOLLOWLOCATION, 0, NULL },
        { CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1, NULL },
        { CURLOPT_SUPPRESS_CONNECT_HEADERS, 1, NULL },
        { CURLOPT_CONNECTTIMEOUT_MS, 2000, NULL },
        { CURLOPT_TIMEOUT_MS, 3000, NULL },
        { CURLOPT_POSTFIELDSIZE, (long)body.len, NULL },
        { CURLOPT_INFILESIZE, (long)body.len, NULL },
        { CURLOPT_FRESH_CONNECT, !k->kept, NULL },
        { CURLOPT_VERBOSE, k->old, NULL },
        { CURLOPT_POSTFIELDS, 0, body.len == 2 && k->how == CURLOPT_POST
                                 ? body.at : NULL },
        { CURLOPT_SHARE, 0, t->conn->share }, { CURLOPT_READDATA, 0, t },
        { CURLOPT_HTTPHEADER, 0, t->lines }, { CURLOPT_SEEKDATA, 0, t },
        { CURLOPT_ERRORBUFFER, 0, t->error }, { CURLOPT_WRITEDATA, 0, t },
        { CURLOPT_HEADERDATA, 0, t }, { CURLOPT_DEBUGDATA, 0, t }
    };
    size_t i;

    assert_int_equal(option_count, k->count);
    for (i = 0; i < COUNT(want); i++)
        expect_option(want[i].option, want[i].number, want[i].at, 0);
    expect_option(CURLOPT_URL, 0, k->url, 1);
    expect_option(CURLOPT_PROTOCOLS_STR, 0, k->protocol, 1);
    expect_option(CURLOPT_PROXY, 0, k->proxy, 1);
    if (k->set != NULL)                   /* no_proxy must not count          */
        expect_option(CURLOPT_NOPROXY, 0, "", 1);
    if (k->ca_file != NULL)
        expect_option(CURLOPT_CAINFO, 0, k->ca_file, 1);
    if (k->openssl)
        expect_option(CURLOPT_SSL_CTX_DATA, 0, t->s, 0);
}


static void
test_options(void **state)
{
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(kinds); i++) {
        const struct kind *k = &kinds[i];
        kaws__sender s = { .ca_file = k->ca_file, .proxy = k->set,
                           .old = k->old };
        kaws__conn conn = { .sock = k->kept ? 7 : CURL_SOCKET_BAD,
                            .share = curl_share_init() };
        kaws_request q = { .url = k->url, .body = kaws__buf_of(k->body),
                           .connect_timeout_ms = 2000, .timeout_ms = 3000,
                           .method = k->method, .direct = k->direct };
        kaws__transfer t = { .s = &s, .conn = &conn, .q = &q,
                             .first = q.body.len < 2 ? q.body.len : 2,
                             .easy = curl_easy_init() };
        *unit_case() = k->url;
        s.openssl_options = k->openssl ? openssl_options : NULL;
        option_count = 0;
        assert_true(kaws__curl_set_options(t.easy, &t));
        expect_options(&t, k);
        expect_needed(&t);
        told_options = 0;
        if (k->openssl)
            assert_int_equal(kaws__curl_on_ssl(NULL, &q, &s), CURLE_OK);
        assert_int_equal(told_options, k->openssl ? 2 : 0);
        curl_easy_cleanup(t.easy);
        (void)curl_share_cleanup(conn.share);
    }
}


/* Only OpenSSL is told to wipe; a libcurl that has several TLS libraries names
 * them all, those that it does not use in brackets. Before 7.71 libcurl's words
 * are listened to: a newer one is not asked, for that takes time. */
static void
test_versions(void **state)
{
    static const struct { const char *tls; unsigned version; int openssl, old; }
    rows[] = {
        { NULL, 0x080000, 0, 0 }, { "GnuTLS/3.7.9", 0x074700, 0, 0 },
        { "OpenSSL/3.0.17", 0x074700, 1, 0 },
        { "OpenSSL/1.0.2", 0x0746ff, 1, 1 },
        { "(OpenSSL/3.0.17) GnuTLS/3.7.9", 0x073600, 1, 1 },
        { "LibreSSL/3.8.2", 0x074700, 0, 0 }
    };
    static const struct { curl_infotype type; const char *words; int overread; }
    said[] = {
        { CURLINFO_TEXT, "Excess found in a read: excess = 1", 1 },
        { CURLINFO_TEXT, "Excess found", 1 },
        { CURLINFO_TEXT, "Excess foun", 0 },
        { CURLINFO_HEADER_IN, "Excess found: no", 0 },
        { CURLINFO_TEXT, "Connection #0 to host h left intact", 0 }
    };
    struct world *w = *state;
    curl_version_info_data what = *curl_version_info(CURLVERSION_NOW);
    const int real = strstr(what.ssl_version, "OpenSSL/") != NULL;
    size_t i;

    curl_says = &what;
    for (i = 0; i < COUNT(rows); i++) {
        kaws__http http;
        kaws__sender *s;
        hidden = i == 0 ? "SSL_has_pending" : "";     /* OpenSSL before 1.1.0 */
        what.ssl_version = rows[i].tls;
        what.version_num = rows[i].version;
        s = open_http(w, &http, NULL);
        assert_int_equal(s->openssl_options != NULL, rows[i].openssl && real);
        assert_int_equal(s->openssl_version != NULL, rows[i].openssl && real);
        assert_int_equal(s->openssl_ctrl != NULL, rows[i].openssl && real);
        assert_int_equal(s->openssl_group != NULL, rows[i].openssl && real);
        assert_true(dlsym(RTLD_DEFAULT, *hidden ? "SSL_pending" :
                          "SSL_has_pending") == *(void **)&s->openssl_pending);
        assert_int_equal(s->old, rows[i].old);
        kaws__http_close(&http);
    }
    curl_says = NULL;
    for (i = 0; i < COUNT(said); i++) {
        size_t len = strlen(said[i].words);
        char *words = (char *)unit_exact(said[i].words, len);
        kaws__transfer t = { .s = NULL };
        assert_int_equal(kaws__curl_on_words(NULL, said[i].type, words, len,
                                             &t), 0);
        assert_int_equal(t.overread, said[i].overread);
        free(words);
    }
}


static int held_back;                     /* bytes in the TLS library         */


static int
openssl_pending(const void *session)
{
    return session != NULL && held_back > 0;
}


static size_t
gnutls_pending(void *session)
{
    return session != NULL ? (size_t)held_back : 1;
}


/* Each TLS library is asked by its own function. Where nobody can be asked,
 * something may be held back. */
static void
test_what_the_tls_library_holds(void **state)
{
    static const struct {
        const char *url;
        curl_sslbackend backend;
        int session, proxy_tls, openssl, gnutls, silent;
    } rows[] = {
        { "https://h/", CURLSSLBACKEND_OPENSSL, 1, 0, 1, 0, 1 },
        { "https://h/", CURLSSLBACKEND_OPENSSL, 1, 0, 0, 1, 0 },
        { "https://h/", CURLSSLBACKEND_OPENSSL, 0, 0, 1, 1, 0 },
        { "https://h/", CURLSSLBACKEND_OPENSSL, 1, 1, 1, 1, 0 },
        { "https://h/", CURLSSLBACKEND_GNUTLS, 1, 0, 0, 1, 1 },
        { "https://h/", CURLSSLBACKEND_GNUTLS, 1, 0, 1, 0, 0 },
        { "https://h/", CURLSSLBACKEND_WOLFSSL, 1, 0, 1, 1, 0 },
        { "http://h/", CURLSSLBACKEND_NONE, 0, 0, 1, 1, 1 }
    };
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows) * 2; i++) {
        size_t k = i / 2;
        kaws_request q = { .url = rows[k].url };
        kaws__sender s = {
            .openssl_pending = rows[k].openssl ? openssl_pending : NULL,
            .gnutls_pending = rows[k].gnutls ? gnutls_pending : NULL,
            .proxy_tls = rows[k].proxy_tls
        };
        kaws__transfer t = { .s = &s, .q = &q, .tls = {
            rows[k].backend, rows[k].session ? &s : NULL } };
        held_back = i % 2 ? 256 : 0;      /* 0 as a byte                      */
        if (kaws__curl_tls_silent(&t) != (
                rows[k].silent && (!held_back || q.url[4] == ':')))
            fail_msg("row %lu, %d bytes", (unsigned long)k, held_back);
    }
}


/* ---- what the log is told of TLS --------------------------------------- */

/* A conn as after a good reply over a connection of that socket, if it is one;
 * whether it had a connection to use again is left in *again. */
static kaws__conn *
lend(kaws__sender *s, const char *url, int fresh, int fd, int *again)
{
    kaws_request q = { .url = url, .fresh_connection = fresh };
    kaws__conn *conn = kaws__curl_lend(s, &q);

    assert_non_null(conn);
    assert_true(kaws__buf_same(kaws__buf_of(conn->origin),
                               kaws__url_origin(url)));
    *again = conn->sock != CURL_SOCKET_BAD;
    conn->sock = fd;
    conn->used_us = kaws__sys_ticks_us();
    conn->sound = 1;
    return conn;
}


static const char *group_name;            /* of the group 4588; NULL: no name */


static const char *
openssl_version(const void *session)
{
    return session != NULL ? "TLSv1.3" : NULL;
}


static long
openssl_ctrl(void *session, int what, long n, void *at)
{
    return session != NULL && what == 134 && n == 0 && at == NULL ? 4588 : -1;
}


static const char *
openssl_group(void *session, int group)
{
    return session != NULL && group == 4588 ? group_name : "another";
}


enum { VERSION = 1, CTRL = 2, GROUP = 4, ALL = 7 };

static const struct {
    const char *url;
    curl_sslbackend backend;
    int session, functions;
    const char *group, *line;         /* NULL: none                       */
} tellings[] = {
    { "https://h:8/x", CURLSSLBACKEND_OPENSSL, 1, ALL, "X25519MLKEM768",
      "h:8 answers over TLSv1.3, with the key exchange X25519MLKEM768" },
    { "https://h/", CURLSSLBACKEND_OPENSSL, 1, ALL, NULL,
      "h answers over TLSv1.3" },
    { "https://h/", CURLSSLBACKEND_OPENSSL, 1, VERSION | CTRL, "g",
      "h answers over TLSv1.3" },
    { "https://h/", CURLSSLBACKEND_OPENSSL, 1, VERSION | GROUP, "g",
      "h answers over TLSv1.3" },
    { "https://h/", CURLSSLBACKEND_OPENSSL, 1, CTRL | GROUP, "g",
      "h answers over TLS" },
    { "https://[::1]:8/", CURLSSLBACKEND_OPENSSL, 0, ALL, "g",
      "[::1]:8 answers over TLS" },
    { "https://h/", CURLSSLBACKEND_GNUTLS, 1, ALL, "g",
      "h answers over TLS" },
    { "https://h/", CURLSSLBACKEND_NONE, 1, ALL, "g",
      "h answers over TLS" },
    { "https://h/", CURLSSLBACKEND_OPENSSL, 1, ALL,
      "a123456789b123456789c123456789d123456789e123456789",
      "h answers over TLSv1.3, with the key exchange "
      "a123456789b123456789c123456789d123456789e123456" },
    { "http://127.0.0.1/", CURLSSLBACKEND_NONE, 0, ALL, "g", NULL }
};


/* The line has as much as the TLS library tells, if that is OpenSSL and has the
 * functions. Of any other library nothing is asked. */
static void
test_what_is_told(void **state)
{
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(tellings); i++) {
        kaws__http http;
        kaws__sender *s = open_http(w, &http, NULL);
        kaws_request q = { .url = tellings[i].url };
        kaws__transfer t = { .s = s, .q = &q, .tls = {
            tellings[i].backend, tellings[i].session ? s : NULL } };
        char line[160];
        int again;
        t.conn = lend(s, tellings[i].url, 0, CURL_SOCKET_BAD, &again);
        assert_false(t.conn->told);
        group_name = tellings[i].group;
        s->openssl_version = tellings[i].functions & VERSION ? openssl_version
                                                             : NULL;
        s->openssl_ctrl = tellings[i].functions & CTRL ? openssl_ctrl : NULL;
        s->openssl_group = tellings[i].functions & GROUP ? openssl_group : NULL;
        fake_forget_log(&w->f);
        kaws__curl_note_tls(&t);
        kaws__curl_tell_tls(&t);
        assert_true(t.conn->told);
        (void)snprintf(line, sizeof line, "2 [KAWS-168] %s\n",
                       tellings[i].line != NULL ? tellings[i].line : "");
        if (tellings[i].line == NULL ? w->f.log_len != 0
                                     : strcmp(w->f.log, line) != 0)
            fail_msg("row %lu: %s", (unsigned long)i, w->f.log);
        kaws__curl_done(s, t.conn, 0);
        kaws__http_close(&http);
    }
}


/* Says what the TLS of that host is, over a connection of its own. */
static void
tell(kaws__sender *s, int host)
{
    char url[32];
    kaws_request q = { .url = url };
    kaws__transfer t = { .s = s, .q = &q };
    int again;

    (void)snprintf(url, sizeof url, "https://h%d/", host);
    t.conn = lend(s, url, 1, CURL_SOCKET_BAD, &again);
    assert_false(t.conn->told);
    kaws__curl_tell_tls(&t);
    assert_true(t.conn->told);
    kaws__curl_done(s, t.conn, 0);
}


/* One line for each host, however many connections it has, in whatever order.
 * Beyond 32 hosts the first is forgotten, and only that. */
static void
test_each_host_is_told_once(void **state)
{
    struct world *w = *state;
    kaws__http http;
    kaws__sender *s = open_http(w, &http, NULL);
    int i, k;

    fake_forget_log(&w->f);
    for (i = 0; i < KAWS__CURL_TOLD; i++)
        for (k = i; k >= 0; k--) {
            tell(s, k);
            assert_int_equal(fake_logged(&w->f, 2, "[KAWS-168]"), i + 1);
        }
    tell(s, KAWS__CURL_TOLD);
    for (i = 1; i <= KAWS__CURL_TOLD; i++)
        tell(s, i);
    assert_int_equal(fake_logged(&w->f, 2, "[KAWS-168]"), KAWS__CURL_TOLD + 1);
    tell(s, 0);
    tell(s, 0);
    assert_int_equal(fake_logged(&w->f, 2, "] h0 answers over TLS"), 2);
    kaws__http_close(&http);
}


/* ---- bodies ------------------------------------------------------------ */

/* What did not fit stays out, whatever comes behind it. */
static void
test_body_is_capped_and_wiped(void **state)
{
    static const struct { const char *data; size_t taken, len; } steps[] = {
        { "12345678", 8, 8 }, { "9A", 2, 10 }, { "BC", 0, 11 }, { "D", 0, 11 }
    };
    kaws_reply r = { .body = unit_exact(NULL, 10), .body_max = 10 };
    kaws__transfer t = { .r = &r };
    char data[9], zeros[9] = { 0 };
    size_t i, len;

    (void)state;
    for (i = 0; i < COUNT(steps); i++) {
        len = strlen(steps[i].data);
        memcpy(data, steps[i].data, len);
        assert_int_equal(kaws__curl_on_body(data, 1, len, &t), steps[i].taken);
        assert_memory_equal(data, zeros, len);
        assert_int_equal(r.body_len, steps[i].len);
    }
    assert_memory_equal(r.body, "123456789A", 10);
    free(r.body);
}


/* A body that ends in spaces is handed over in two parts; any other in one. */
static void
test_body_in_two_parts(void **state)
{
    static const struct { size_t room; const char *part; } steps[] = {
        { 64, "secret" }, { 4, "    " }, { 64, "  " }, { 64, "" },
        { 0, "again" }, { 2, "se" }, { 64, "cret" }, { 64, "      " },
    };
    kaws_request q = { .body = kaws__buf_of("secret      ") };
    kaws__transfer t = { .q = &q, .first = 6 };
    uint8_t out[64];
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(steps); i++)
        if (steps[i].room == 0)
            assert_int_equal(kaws__curl_on_seek(&t, 0, SEEK_SET),
                             CURL_SEEKFUNC_OK);
        else
            unit_same("part", out, kaws__curl_on_read(
                (char *)out, 1, steps[i].room, &t), steps[i].part,
                      strlen(steps[i].part));
    assert_int_equal(kaws__curl_on_seek(&t, 1, SEEK_SET),
                     CURL_SEEKFUNC_CANTSEEK);
    assert_int_equal(kaws__curl_on_seek(&t, 0, SEEK_END),
                     CURL_SEEKFUNC_CANTSEEK);
}


/* ---- connections ------------------------------------------------------- */

static int
count_idle(const kaws__sender *s)
{
    const kaws__conn *conn;
    int n = 0;

    for (conn = s->idle; conn != NULL; conn = conn->next)
        n++;
    return n;
}


/* The pool lends, takes back, and keeps no more than it may: of each URL its
 * own, the last used first, and nothing unclean. */
static void
test_pool(void **state)
{
    static const struct {
        const char *url;
        int fresh, again, sound, clean, kept;     /* kept: more or fewer idle */
    } steps[] = {
        { "https://a/", 1, 0, 1, 0, 0 },  /* unclean: not kept                */
        { "https://a/", 0, 1, 1, 0, -1 },
        { "https://b/", 0, 0, 0, 1, 0 },  /* more has come than a reply       */
        { "https://b/", 0, 0, 1, 1, 1 },
        { "https://b/", 1, 0, 1, 0, 0 },
        { "https://b/", 0, 1, 1, 1, 0 }
    };
    struct world *w = *state;
    kaws__conn *lent[KAWS__CURL_IDLE + 3], *conn;
    char url[KAWS__URL_MAX + 1];
    kaws_request q = { .url = url };
    kaws__http http;
    kaws__sender *s = open_http(w, &http, NULL);
    int fds[2], again, idle;
    size_t i;

    assert_int_equal(pipe(fds), 0);       /* the read end is silent           */
    for (i = 0; i < COUNT(lent); i++)
        lent[i] = lend(s, "https://a/", 0, fds[0], &again);
    assert_false(again);
    for (i = 0; i < COUNT(lent); i++)
        kaws__curl_done(s, lent[i], 1);
    assert_int_equal(count_idle(s), KAWS__CURL_IDLE);
    assert_ptr_equal(s->idle, lent[COUNT(lent) - 1]);
    for (conn = s->idle; conn->next != NULL; conn = conn->next)
        continue;
    assert_ptr_equal(conn, lent[3]);      /* the first three made room        */
    for (i = 0; i < COUNT(steps); i++) {
        idle = count_idle(s);
        conn = lend(s, steps[i].url, steps[i].fresh, fds[0], &again);
        if (again != steps[i].again)
            fail_msg("step %lu", (unsigned long)i);
        conn->sound = steps[i].sound;
        kaws__curl_done(s, conn, steps[i].clean);
        if (count_idle(s) != idle + steps[i].kept)
            fail_msg("step %lu: %d idle", (unsigned long)i, count_idle(s));
    }
    conn = lend(s, "https://c/", 0, CURL_SOCKET_BAD, &again);
    kaws__curl_done(s, conn, 1);          /* its TLS session can be resumed   */
    assert_ptr_equal(s->idle, conn);

    memset(url, 'u', sizeof url);
    url[KAWS__URL_MAX] = '\0';
    assert_null(kaws__curl_lend(s, &q));  /* longer than any of ours          */
    url[KAWS__URL_MAX - 1] = '\0';
    kaws__curl_done(s, lend(s, url, 0, fds[0], &again), 0);
    w->f.fail_nth = w->f.allocs + 1;
    assert_null(kaws__curl_lend(s, &q));
    kaws__http_close(&http);
    close(fds[0]);
    close(fds[1]);
}


static kaws__sender *distrusted;


static void
distrust(void)
{
    kaws__curl_distrust(distrusted);
}


/* What keeps a connection from being used again. A distrust counts whenever it
 * comes: while the conn is lent, is idle, or is looked at on its way out. */
static void
test_used_again(void **state)
{
    enum { NEVER, LENT, IDLE, BETWEEN, BLIND };
    static const struct { int idle_s, spoken, distrust, first, second; }
    rows[] = {
        { 0, 0, NEVER, 1, 1 }, { KAWS__CURL_IDLE_S - 1, 0, NEVER, 1, 1 },
        { KAWS__CURL_IDLE_S, 0, NEVER, 0, 1 }, { 0, 1, NEVER, 0, 0 },
        { 0, 0, LENT, 0, 1 }, { 0, 0, IDLE, 0, 1 }, { 0, 0, BETWEEN, 1, 0 },
        { 0, 0, BLIND, 0, 1 }             /* whether it is silent, who knows? */
    };
    const char *url = "https://a/";
    kaws__http http;
    kaws__conn *conn;
    int fds[2], again;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        distrusted = open_http(*state, &http, NULL);
        assert_int_equal(pipe(fds), 0);
        conn = lend(distrusted, url, 0, fds[0], &again);
        conn->used_us -= rows[i].idle_s * (int64_t)1000000;
        if (rows[i].distrust == LENT)
            distrust();
        kaws__curl_done(distrusted, conn, 1);
        if (rows[i].distrust == IDLE)
            distrust();
        if (rows[i].spoken)
            assert_int_equal(write(fds[1], "x", 1), 1);
        meanwhile = rows[i].distrust == BETWEEN ? distrust : NULL;
        wait_says = rows[i].distrust == BLIND ? CURLM_BAD_SOCKET : CURLM_OK;
        assert_ptr_equal(lend(distrusted, url, 0, fds[0], &again), conn);
        meanwhile = NULL;
        wait_says = CURLM_OK;
        if (again != rows[i].first)
            fail_msg("row %lu", (unsigned long)i);
        kaws__curl_done(distrusted, conn, 1);
        kaws__curl_done(distrusted, lend(distrusted, url, 0, fds[0], &again),
                        1);
        if (again != rows[i].second)
            fail_msg("row %lu, later", (unsigned long)i);
        kaws__http_close(&http);
        close(fds[0]);
        close(fds[1]);
    }
}


/* ---- a small server ---------------------------------------------------- */

/* What it answers to which X-Test, # being the number of the request. A reply
 * without a length ends the connection. */
#define OK      "HTTP/1.1 200 OK\r\n"
#define TWO     "Content-Length: 2\r\n\r\n"

static const struct reply {
    const char *test, *reply;
    kaws_status status;
    int http;
    const char *body, *id;                /* NULL: longer than its room       */
    int64_t date;
    int kept;                             /* the connection, if it is clean   */
} replies[] = {
    { "good", OK "Date: " DAY "\r\nx-amzn-RequestId: r-#\r\n" TWO "{}",
      KAWS_OK, 200, "{}", "r-", DAY_S, 1 },
    { "sorry", "HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nno!",
      KAWS_OK, 400, "no!", "", 0, 0 },    /* send() finds 200 alone clean     */
    { "moved", "HTTP/1.1 307 No\r\nLocation: /\r\n" TWO "{}", KAWS_OK, 307,
      "{}", "", 0, 0 },
    { "lines", "HTTP/1.1 200 OK\nContent-Length: 2\n\n{}", KAWS_OK, 200, "{}",
      "", 0, 1 },
    { "full", OK "Content-Length: 16\r\n\r\n0123456789abcdef", KAWS_OK, 200,
      "0123456789abcdef", "", 0, 1 },
    { "long", "HTTP/1.1 500 No\r\nContent-Length: 17\r\n\r\n0123456789abcdefg",
      KAWS_OK, 500, NULL, "", 0, 0 },
    { "bare", OK, KAWS_NETWORK, 0, "", "", 0, 0 },
    { "half", OK "Date: " DAY "\r\n", KAWS_NETWORK, 0, "", "", DAY_S, 0 },
    { "gone", "", KAWS_NETWORK, 0, "", "", 0, 0 },
    { "close", OK "Connection: close\r\n" TWO "{}", KAWS_OK, 200, "{}", "",
      0, 0 },
    { "trail", OK "Transfer-Encoding: chunked\r\nTrailer: Date\r\n"
      "x-amzn-RequestId: t-#\r\n\r\n2\r\n{}\r\n0\r\nDate: " DAY "\r\n"
      "x-amzn-RequestId: t-2\r\nContent-Length: 9\r\n\r\n", KAWS_OK, 200, "{}",
      "t-", 0, 0 },                       /* for all we know                  */
    { "chunks", OK "transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
      OK TWO "[]", KAWS_OK, 200, "{}", "", 0, 0 },
    { "early", "HTTP/1.1 103 Early Hints\r\nx-amzn-RequestId: e-1\r\n\r\n"
      OK TWO "{}", KAWS_OK, 200, "{}", "", 0, 1 },
    { "hints", "HTTP/1.1 103 A\r\nx-amzn-RequestId: e-2\r\n\r\nHTTP/1.1 100 B"
      "\r\nDate: " DAY "\r\n\r\n" OK "x-amzn-RequestId: h-#\r\n" TWO "{}",
      KAWS_OK, 200, "{}", "h-", 0, 1 },
    { "spaces", "HTTP/1.1   103 Early\r\nx-amzn-RequestId: s-1\r\nDate: " DAY
      "\r\n\r\n" OK TWO "{}", KAWS_OK, 200, "{}", "", 0, 1 },
    { "switch", "HTTP/1.1 101 So\r\n" TWO "{}", KAWS_NETWORK, 0, "{}", "",
      0, 0 },
    { "blank", OK "  x: y\r\n" TWO "{}", KAWS_NETWORK, 0, "", "", 0, 0 },
    { "two", OK TWO "{}" OK TWO "[]", KAWS_OK, 200, "{}", "", 0, 0 },
    { "more", OK TWO "{}\r\n", KAWS_OK, 200, "{}", "", 0, 0 }
}, more[] = {                             /* to other methods                 */
    { "tagged", OK "etag: \"1-2\"\r\nServer: AmazonS3\r\n" TWO "{}", 0, 0, "",
      "", 0, 0 },
    { "tagged!", OK "etag: \"1-2\"\r\n" TWO, 0, 0, "", "", 0, 0 },
    { "none", "HTTP/1.1 204 No Content\r\n\r\n", 0, 0, "", "", 0, 0 },
    { "same", "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\nContent-Length: "
      "9\r\n\r\n", 0, 0, "", "", 0, 0 },
    { "twice", OK "ETag: a\r\nETag: b\r\n" TWO "{}", 0, 0, "", "", 0, 0 },
    { "folded", OK "ETag: a\r\n b\r\n" TWO "{}", 0, 0, "", "", 0, 0 },
    { "empty", OK "Content-Length: 0\r\nETAG:\"2\"\r\n\r\n", 0, 0, "", "",
      0, 0 },
    { "empty!", OK "Content-Length: 0\r\nETAG:\"2\"\r\n\r\n" OK TWO "{}", 0, 0,
      "", "", 0, 0 },
    { "go on", "HTTP/1.1 100 Continue\r\nETag: no\r\n\r\n" OK
      "ETag: \"3\"\r\n" TWO "{}", 0, 0, "", "", 0, 0 },
    { "large", OK "Content-Length: 4000000000\r\nETag: \"4\"\r\n\r\n", 0, 0,
      "", "", 0, 0 }
};

static int die_once;                      /* instead of an answer             */
static listener server;
static char last[1024];                   /* the last request, head and body  */


/* Answers with a head of so many bytes: in lines, in heads of interim replies,
 * in one line, or in a trailer. 0: that is not asked for. */
static int
flood(int fd, const char *test)
{
    static const struct { const char *test, *first, *line, *last; } kind[] = {
        { "flood ", OK, "X: y\r\n", TWO "{}" },
        { "hints ", "", "HTTP/1.1 103 Early Hints\r\n\r\n", OK TWO "{}" },
        { "wide ", OK "X: ", "x", "\r\n" TWO "{}" },
        { "trail ", OK "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
          "X: y\r\n", "\r\n" }
    };
    static char all[90000];
    const size_t max = sizeof all;
    size_t i, n, most;

    for (i = 0; i < COUNT(kind); i++)
        if (strncmp(test, kind[i].test, strlen(kind[i].test)) == 0)
            break;
    if (i == COUNT(kind))
        return 0;
    most = strtoul(test + strlen(kind[i].test), NULL, 10);
    n = (size_t)snprintf(all, max, "%s", kind[i].first);
    while (n < most)
        n += (size_t)snprintf(all + n, max - n, "%s", kind[i].line);
    n += (size_t)snprintf(all + n, max - n, "%s", kind[i].last);
    return send(fd, all, n, MSG_NOSIGNAL) >= 0 || 1;
}


/* Answers one request; 0: the connection ends. */
static int
answer(listener *v, int fd)
{
    char text[sizeof last], said[512];
    const char *reply = "", *test;
    const struct reply *row;
    size_t i, n;

    if (!listener_hear(fd, text, sizeof text))
        return 0;
    pthread_mutex_lock(&v->lock);
    v->requests++;
    memcpy(last, text, sizeof text);
    pthread_mutex_unlock(&v->lock);
    test = strstr(text, "X-Test: ");
    if (test != NULL && flood(fd, test + 8))
        return 1;
    if (die_once)
        return die_once = 0;
    for (i = 0; test != NULL && i < COUNT(replies) + COUNT(more); i++) {
        row = i < COUNT(replies) ? &replies[i] : &more[i - COUNT(replies)];
        if (strcspn(test + 8, "\r") == strlen(row->test) &&
            strncmp(test + 8, row->test, strlen(row->test)) == 0)
            reply = row->reply;
    }
    n = strcspn(reply, "#");
    (void)snprintf(said, sizeof said, reply[n] == '#' ? "%.*s%d%s" : "%.*s",
                   (int)n, reply, v->requests, reply + n + 1);
    return send(fd, said, strlen(said), MSG_NOSIGNAL) > 0 &&
           (strstr(reply, "Content-Length") != NULL ||
            strstr(reply, "chunked") != NULL || strstr(reply, "204") != NULL);
}


/* A world with a server in it. */
static int
serve(void **state)
{
    return !listener_open(&server, answer) || world_begin(state);
}


static int
serve_no_more(void **state)
{
    listener_close(&server);
    return world_end(state);
}


static void
count_from(int requests)
{
    pthread_mutex_lock(&server.lock);
    server.requests = requests;
    server.connections = 0;
    pthread_mutex_unlock(&server.lock);
}


/* How many requests, and over how many new connections, there were. */
static void
expect_served(int requests, int connections)
{
    pthread_mutex_lock(&server.lock);
    if (server.requests != requests ||
        server.connections != connections)
        fail_msg("%s: %d requests, %d connections", *unit_case(),
                 server.requests, server.connections);
    pthread_mutex_unlock(&server.lock);
}


static size_t more_lines;                 /* that ask() sends                 */
static const char *method, *path = "";    /* of what it sends                 */
static kaws_header etag = { .name = "ETag" };


/* One request; what kaws__http_send says. */
static kaws_status
ask(kaws__http *http, const char *test, const char *body, int fresh,
    kaws_reply *r)
{
    static uint8_t room[16];
    char line[64];
    const char *headers[KAWS__CURL_LINES + 2] = { line };
    char url[300];
    kaws_request q = { .url = url, .headers = headers,
                       .body = kaws__buf_of(body), .connect_timeout_ms = 9000,
                       .timeout_ms = 9000, .fresh_connection = fresh,
                       .method = method };
    kaws_status status;
    void *lent;
    size_t i;

    (void)snprintf(url, sizeof url, "%s%s", server.url, path);
    (void)snprintf(line, sizeof line, "X-Test: %s", test);
    for (i = 0; i < more_lines; i++)
        headers[i + 1] = "X: y";
    *r = (kaws_reply){ .body = room, .body_max = sizeof room,
                       .headers = &etag, .header_count = 1 };
    status = kaws__http_send(http, &q, r, &lent);
    kaws__http_done(http, lent, status == KAWS_OK && r->http == 200);
    assert_int_equal(r->text[0] != '\0', status == KAWS_NETWORK ||
                                         status == KAWS_CONFIG);
    return status;
}


/* A good reply, and how many requests, over how many new connections, there
 * were by then. */
static void
expect_good(kaws__http *http, const char *body, int fresh, int requests,
            int connections)
{
    kaws_reply r;

    if (ask(http, "good", body, fresh, &r) != KAWS_OK)
        fail_msg("%s: %s", *unit_case(), r.text);
    unit_same("body", r.body, r.body_len, "{}", 2);
    expect_served(requests, connections);
}


/* What is made of each reply, and which leave a connection that is used again:
 * the next request counts the connections. */
static void
test_replies(void **state)
{
    kaws__http http;
    kaws_reply r;
    size_t i;
    int n;

    for (i = 0; i < COUNT(replies); i++) {
        *unit_case() = replies[i].test;
        n = 100 * (int)i;
        (void)open_http(*state, &http, NULL);
        count_from(n);
        if (ask(&http, replies[i].test, "{}", 0, &r) != replies[i].status)
            fail_msg("%s: %s", replies[i].test, r.text);
        assert_int_equal(r.http, replies[i].http);
        assert_int_equal(r.date, replies[i].date);
        assert_memory_equal(r.request_id, replies[i].id,
                            strlen(replies[i].id));
        assert_int_equal(r.request_id[0] == '\0', replies[i].id[0] == '\0');
        if (replies[i].body == NULL)
            assert_true(r.body_len > r.body_max);
        else
            unit_same("body", r.body, r.body_len, replies[i].body,
                      strlen(replies[i].body));
        expect_served(n + 1, 1);
        expect_good(&http, "{}", 0, n + 2, replies[i].kept ? 1 : 2);
        expect_good(&http, "{}", 0, n + 3, replies[i].kept ? 1 : 2);
        kaws__http_close(&http);
    }
}


/* What each method sends, and which replies to it leave a connection that is
 * used again, whatever its path is. Who asked finds 200 alone clean. */
static const struct {
    const char *method, *test, *body;
    kaws_status status;
    int http;
    const char *got, *etag;               /* NULL: it cannot be used          */
    int kept;
} methods[] = {
    { "GET", "tagged", "", KAWS_OK, 200, "{}", "\"1-2\"", 1 },
    { "GET", "none", "", KAWS_OK, 204, "", "", 0 },
    { "GET", "same", "", KAWS_OK, 304, "", "\"1\"", 0 },
    { "GET", "two", "", KAWS_OK, 200, "{}", "", 0 },
    { "GET", "twice", "", KAWS_OK, 200, "{}", NULL, 1 },
    { "GET", "folded", "", KAWS_OK, 200, "{}", NULL, 1 },
    { "GET", "bare", "", KAWS_NETWORK, 0, "", "", 0 },
    { "PUT", "tagged", "{} {}", KAWS_OK, 200, "{}", "\"1-2\"", 1 },
    { "PUT", "tagged", "key    ", KAWS_OK, 200, "{}", "\"1-2\"", 1 },
    { "PUT", "empty", "", KAWS_OK, 200, "", "\"2\"", 0 },
    { "PUT", "empty!", "{}", KAWS_OK, 200, "", "\"2\"", 0 },
    { "PUT", "go on", "{}", KAWS_OK, 200, "{}", "\"3\"", 1 },
    { "HEAD", "tagged!", "", KAWS_OK, 200, "", "\"1-2\"", 0 },
    { "HEAD", "tagged", "", KAWS_OK, 200, "", "\"1-2\"", 0 },
    { "HEAD", "large", "", KAWS_OK, 200, "", "\"4\"", 0 },
    { "POST", "tagged", "{}", KAWS_OK, 200, "{}", "\"1-2\"", 1 }
};


static void
expect_sent(size_t row)
{
    const char *how = methods[row].method;
    char line[40];

    (void)snprintf(line, sizeof line, "%s /a/b?c=d%%20e HTTP/1.1\r\n", how);
    assert_int_equal(strncmp(last, line, strlen(line)), 0);
    unit_same_text("sent", strstr(last, "\r\n\r\n") + 4, methods[row].body);
    assert_int_equal(strstr(last, "Content-Length: ") != NULL, how[0] == 'P');
    assert_null(strstr(last, "Expect"));
    assert_null(strstr(last, "Transfer-Encoding"));
}


static void
test_methods(void **state)
{
    kaws__http http;
    kaws_reply r;
    size_t i;

    for (i = 0; i < COUNT(methods); i++) {
        const char *tag = methods[i].etag, *got = methods[i].got;
        *unit_case() = methods[i].test;
        (void)open_http(*state, &http, NULL);
        count_from(0);
        method = methods[i].method;
        path = "a/b?c=d%20e";
        if (ask(&http, methods[i].test, methods[i].body, 0, &r) !=
            methods[i].status)
            fail_msg("%s: %s", methods[i].test, r.text);
        expect_sent(i);
        assert_int_equal(r.http, methods[i].http);
        unit_same("body", r.body, r.body_len, got, strlen(got));
        if (r.http != 0) {
            assert_int_equal(etag.found, tag == NULL ? -1 : *tag != '\0');
            assert_string_equal(etag.value, tag == NULL ? "" : tag);
        }
        method = NULL;
        path = "";
        expect_good(&http, "{}", 0, 2, methods[i].kept ? 1 : 2);
        assert_int_equal(etag.found, 0);
        kaws__http_close(&http);
    }
}


/* A method that the sender does not know is not sent as another one. A long
 * path is no reason not to keep a connection; a long host is. */
static void
test_odd_methods(void **state)
{
    static const char *const unknown[] = { "", "get", "PUTS", "DELETE" };
    char long_path[251];
    kaws__http http;
    kaws_reply r;
    size_t i;

    (void)open_http(*state, &http, NULL);
    for (i = 0; i < COUNT(unknown); i++) {
        method = unknown[i];
        assert_int_equal(ask(&http, "tagged", "", 0, &r), KAWS_NETWORK);
        method = NULL;
    }
    expect_served(0, 0);
    memset(long_path, 'p', sizeof long_path - 1);
    long_path[sizeof long_path - 1] = '\0';
    path = long_path;
    expect_good(&http, "{}", 0, 1, 1);
    path = "";
    expect_good(&http, "{}", 0, 2, 1);
    kaws__http_close(&http);
}


/* A kept connection may die right when it is used again. libcurl sends the PUT
 * once more then, the whole body; but not over a connection that is new. */
static void
test_put_over_a_dead_connection(void **state)
{
    kaws__http http;
    kaws_reply r;

    (void)open_http(*state, &http, NULL);
    expect_good(&http, "{}", 0, 1, 1);
    method = "PUT";
    die_once = 1;
    assert_int_equal(ask(&http, "tagged", "whole    ", 0, &r), KAWS_OK);
    unit_same_text("sent", strstr(last, "\r\n\r\n") + 4, "whole    ");
    expect_served(3, 2);
    die_once = 1;
    assert_int_equal(ask(&http, "tagged", "whole", 1, &r), KAWS_NETWORK);
    expect_served(4, 3);
    method = NULL;
    kaws__http_close(&http);
}


/* A head is read up to 64 KiB, however it is made up. */
static void
test_head_floods(void **state)
{
    static const struct { const char *test; kaws_status status; } rows[] = {
        { "flood 60000", KAWS_OK }, { "flood 70000", KAWS_NETWORK },
        { "hints 60000", KAWS_OK }, { "hints 70000", KAWS_NETWORK },
        { "wide 60000", KAWS_OK }, { "wide 70000", KAWS_NETWORK },
        { "trail 60000", KAWS_OK }, { "trail 70000", KAWS_NETWORK }
    };
    kaws__http http;
    kaws_reply r;
    size_t i;

    (void)open_http(*state, &http, NULL);
    method = "GET";
    for (i = 0; i < COUNT(rows); i++) {
        *unit_case() = rows[i].test;
        if (ask(&http, rows[i].test, "", 0, &r) != rows[i].status)
            fail_msg("%s: %s", rows[i].test, r.text);
        if (rows[i].status != KAWS_OK)
            assert_string_equal(r.text, "the reply's headers are far too long, "
                                "or out of memory");
    }
    method = NULL;
    kaws__http_close(&http);
}


static int waits;                         /* the sixth lets the server answer */


static void
let_go(void)
{
    if (++waits == 6)
        pthread_mutex_unlock(&server.lock);
}


/* That libcurl had nothing to wait for once is no reason to pause: an old one
 * says so with a socket, too, when a timer of its own is due. (Nor is it one
 * after 50 ms: so the clock must not see a machine that stands still.) */
static void
test_pauses(void **state)
{
    kaws__http http;
    kaws_reply r;

    (void)open_http(*state, &http, NULL);
    naps = 0;
    deaf = 1;
    expect_good(&http, "{}", 1, 1, 1);
    assert_int_equal(naps, 0);
    deaf = 1000;
    stopped = 1;
    meanwhile = let_go;
    pthread_mutex_lock(&server.lock);
    assert_int_equal(ask(&http, "good", "{}", 1, &r), KAWS_OK);
    meanwhile = NULL;
    deaf = stopped = 0;
    assert_int_equal(naps, waits - 1);
    kaws__http_close(&http);
}


/* A body that ends in spaces arrives whole, spaces and all. There is room for
 * so many header lines and no more. One connection is kept and used again, but
 * not by a request for a new one. */
static void
test_bodies_and_connections(void **state)
{
    static const char *const bodies[] = { "{}", "{}    ", "    ", "" };
    static const char *const lines[] = {
        "POST / HTTP/1.1\r\n", "\r\nX-Test: good\r\n",
        "\r\nUser-Agent: keyring_aws/" KAWS_VERSION "\r\n"
    };
    kaws__http http;
    kaws_reply r;
    int i;
    size_t k;

    (void)open_http(*state, &http, NULL);
    for (i = 0; i < (int)COUNT(bodies); i++) {
        expect_good(&http, bodies[i], 0, i + 1, 1);
        unit_same_text("body", strstr(last, "\r\n\r\n") + 4,
                       bodies[i]);
        for (k = 0; k < COUNT(lines); k++)
            assert_non_null(strstr(last, lines[k]));
        assert_null(strstr(last, "Expect"));
    }
    more_lines = KAWS__CURL_LINES - 3;    /* with two of ours: all there are  */
    expect_good(&http, "{}", 1, 5, 2);
    more_lines++;
    assert_int_equal(ask(&http, "good", "{}", 1, &r), KAWS_NETWORK);
    assert_string_equal(r.text, curl_easy_strerror(CURLE_OUT_OF_MEMORY));
    more_lines = 0;
    expect_good(&http, "{}", 0, 6, 2);    /* over the first                   */
    expect_good(&http, "{}", 1, 7, 3);    /* the second was not kept          */
    kaws__http_close(&http);
}


/* The reply that had the id first may have been the wrong one, and its own may
 * still come over that connection: so none is used again. */
static void
test_an_id_over_two_connections(void **state)
{
    kaws__http http;
    kaws_reply r;

    (void)open_http(*state, &http, NULL);
    expect_good(&http, "{}", 0, 1, 1);
    expect_good(&http, "{}", 1, 2, 2);
    count_from(0);
    assert_int_equal(ask(&http, "good", "{}", 0, &r), KAWS_REPLY);
    expect_served(1, 0);
    count_from(2);
    expect_good(&http, "{}", 0, 3, 1);
    kaws__http_close(&http);
}


/* A reply that came over none of the connections that it may come over is no
 * reply: here libcurl has a connection, of which we do not know, or another. */
static void
test_reply_over_another_connection(void **state)
{
    static const struct {
        const char *line;
        curl_socket_t known;
        CURLcode code;
    } rows[] = {
        { "X-Test: full", 0, CURLE_OK }, { "X-Test: close", 0, CURLE_OK },
        { "X-Test: full", CURL_SOCKET_BAD, CURLE_RECV_ERROR },
        { "X-Test: close", CURL_SOCKET_BAD, CURLE_RECV_ERROR },
        { "X-Test: full", 1000, CURLE_RECV_ERROR }
    };
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        uint8_t room[16];
        kaws_request q = { .url = server.url, .body = kaws__buf_of("{}") };
        kaws_reply r = { .body = room, .body_max = sizeof room };
        kaws__transfer t = { .q = &q, .r = &r, .first = 2 };
        kaws__http http;
        t.s = open_http(*state, &http, NULL);
        count_from(0);
        expect_good(&http, "{}", 0, 1, 1);
        t.conn = kaws__curl_lend(t.s, &q);
        t.lines[0].data = (char *)(uintptr_t)rows[i].line;
        t.easy = curl_easy_init();
        assert_true(kaws__curl_set_options(t.easy, &t));
        if (rows[i].known != 0)
            t.conn->sock = rows[i].known;
        assert_int_equal(kaws__curl_perform(&t), rows[i].code);
        expect_served(2, 1);
        assert_int_equal(t.conn->sound, rows[i].code == CURLE_OK);
        assert_int_equal(t.conn->sock != CURL_SOCKET_BAD, i == 0);
        (void)curl_multi_remove_handle(t.conn->multi, t.easy);
        curl_easy_cleanup(t.easy);
        kaws__curl_done(t.s, t.conn, 1);
        kaws__http_close(&http);
    }
}


/* Every call of libcurl fails once. Either it was one of those that may, and
 * the reply comes; or nothing was sent, and the reason is told. The sender is
 * as good as before. */
static void
test_libcurl_fails(void **state)
{
    kaws__http http;
    kaws_reply r;
    int n, failures = 0, fired, good;

    for (n = 0, fired = 1; fired; n++) {
        (void)open_http(*state, &http, ca_file(*state, 0, BEGIN));
        count_from(0);
        curl_left = n;
        good = ask(&http, "good", "{}", 0, &r) == KAWS_OK;
        if (!good)
            assert_string_equal(r.text, curl_easy_strerror(
                                            CURLE_OUT_OF_MEMORY));
        failures += !good;
        expect_served(good, good);
        fired = curl_left < 0;
        curl_left = -1;
        expect_good(&http, "{}", 0, good + 1, 1);
        kaws__http_close(&http);
    }
    assert_true(failures >= 29);
}


#define IN_WORLD(test) \
    cmocka_unit_test_setup_teardown(test, world_begin, world_end)
#define SERVED(test) cmocka_unit_test_setup_teardown(test, serve, serve_no_more)


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_heads),
        cmocka_unit_test(test_odd_request_ids),
        cmocka_unit_test(test_outcomes),
        cmocka_unit_test(test_outcomes_by_a_proxy_that_is_set),
        IN_WORLD(test_ca_files),
        IN_WORLD(test_what_is_no_ca_file),
        IN_WORLD(test_opening),
        IN_WORLD(test_a_ring_with_a_proxy),
        cmocka_unit_test(test_options),
        IN_WORLD(test_versions),
        cmocka_unit_test(test_what_the_tls_library_holds),
        IN_WORLD(test_what_is_told),
        IN_WORLD(test_each_host_is_told_once),
        cmocka_unit_test(test_body_is_capped_and_wiped),
        cmocka_unit_test(test_body_in_two_parts),
        IN_WORLD(test_pool),
        IN_WORLD(test_used_again),
        SERVED(test_replies),
        SERVED(test_methods),
        SERVED(test_odd_methods),
        SERVED(test_put_over_a_dead_connection),
        SERVED(test_head_floods),
        SERVED(test_pauses),
        SERVED(test_bodies_and_connections),
        SERVED(test_an_id_over_two_connections),
        SERVED(test_reply_over_another_connection),
        SERVED(test_libcurl_fails)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
