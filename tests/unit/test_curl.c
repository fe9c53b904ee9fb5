/* Room curl, the built-in sender: alone, with a small server, and with a
 * libcurl whose calls fail. */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <curl/curl.h>
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
static CURLoption unknown;                /* to this libcurl; 0: none is      */
static int curl_left = -1;                /* calls until one fails; -1: none  */
static const curl_version_info_data *curl_says;   /* NULL: the truth          */
static int no_lock;                       /* the n-th cannot be had; 0: all   */
static void (*meanwhile)(void);           /* what another thread does         */
static int deaf, naps;                    /* waits for nothing; pauses        */


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
    if (curl_fails() || which == unknown)
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
    return deaf > 0 && deaf-- > 0 ? CURLM_OK
         : curl_multi_wait(multi, fds, count, ms, active);
}


static int
poor_nap(const struct timespec *time, struct timespec *left)
{
    naps++;
    return nanosleep(time, left);
}


static const curl_version_info_data *
poor_version(CURLversion which)
{
    return curl_says != NULL ? curl_says : curl_version_info(which);
}


static int
poor_lock(pthread_mutex_t *lock, const pthread_mutexattr_t *how)
{
    return no_lock > 0 && --no_lock == 0 ? EAGAIN
                                         : pthread_mutex_init(lock, how);
}

#define POOR(bad, call) (curl_fails() ? (bad) : (call))
#undef curl_easy_setopt
#undef curl_multi_setopt
#undef curl_share_setopt
#define curl_easy_setopt    poor_setopt
#define curl_easy_init()    POOR(NULL, curl_easy_init())
#define curl_multi_init()   POOR(NULL, curl_multi_init())
#define curl_share_init()   POOR(NULL, curl_share_init())
#define curl_multi_setopt(multi, which, value) \
    POOR(CURLM_UNKNOWN_OPTION, curl_multi_setopt(multi, which, value))
#define curl_share_setopt(share, which, value) \
    POOR(CURLSHE_NOMEM, curl_share_setopt(share, which, value))
#define curl_multi_add_handle(multi, easy) \
    POOR(CURLM_OUT_OF_MEMORY, curl_multi_add_handle(multi, easy))
#define curl_multi_wait     poor_multi_wait
#define curl_version_info   poor_version
#define nanosleep           poor_nap
#define pthread_mutex_init  poor_lock

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "unit.h"
#include "world.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#define DAY     "Sun, 06 Nov 1994 08:49:37 GMT"
#define DAY_S   784111777
#define BEGIN   "-----BEGIN CERTIFICATE-----\n"


/* A sender with memory that keeps books. */
static void
open_http(struct world *w, kaws__http *http, const char *ca_file)
{
    static kaws_hooks hooks;

    hooks = w->f.hooks;
    hooks.send = NULL;
    kaws__err_clear(&w->err);
    EXPECT(w, KAWS_OK, NULL, kaws__http_open(http, &hooks, ca_file, 1,
                                             &w->err));
    assert_non_null(http->sender);
}


/* ---- header lines ------------------------------------------------------ */

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


/* A 100 or another 1xx may come first, and a trailer last: their headers are
 * not the reply's. */
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
        { "Date: " DAY "\r\n", DAY_S, -1, "", 0, 0 },
        { "DATE:" DAY, DAY_S, -1, "", 0, 0 },
        { "dAtE: \t " DAY " \t \r\n", DAY_S, -1, "", 0, 0 },
        { "Date: " DAY "\nDate: Sun, 06 Nov 1994 08:49:38 GMT\n", DAY_S + 1,
          -1, "", 0, 0 },
        { "Date: " DAY "\r\nDate: nonsense\r\n", 0, -1, "", 0, 0 },
        { "Date: " DAY "\r\nDate\r\nX-Date: x\r\nDat: x\r\nDate : x\r\n", DAY_S,
          -1, "", 0, 0 },
        { "x-amz-retry-after: 0\r\n", 0, 0, "", 0, 0 },
        { "X-Amz-Retry-After:1500", 0, 1500, "", 0, 0 },
        { "x-amz-retry-after: 1\nx-amz-retry-after: 3600000\n", 0, 3600000, "",
          0, 0 },
        { "x-amz-retry-after: 3600001\r\n", 0, -1, "", 0, 0 },
        { "x-amz-retry-after: 4294967296\r\n", 0, -1, "", 0, 0 },
        { "x-amz-retry-after: -5\r\n", 0, -1, "", 0, 0 },
        { "x-amz-retry-after: +5\r\n", 0, -1, "", 0, 0 },
        { "x-amz-retry-after: 1.5\r\n", 0, -1, "", 0, 0 },
        { "x-amz-retry-after:\r\n", 0, -1, "", 0, 0 },
        { "Retry-After: 7\r\n", 0, -1, "", 0, 0 },
        { "x-amzn-RequestId: 1b2c-\r\n", 0, -1, "1b2c-", 0, 0 },
        { "x-amzn-requestid: 1\nX-AMZN-REQUESTID:   other \t\r\n", 0, -1,
          "other", 0, 0 },
        { "x-amzn-requestid: longer\nx-amzn-requestid: new\n", 0, -1, "new",
          0, 0 },
        { "x-amzn-requestid: 1\nx-amzn-requestid:\r\n", 0, -1, "", 0, 0 },
        { "x-amz-request-id: not this one\r\n", 0, -1, "", 0, 0 },
        { "transfer-Encoding: chunked\r\n", 0, -1, "", 0, 1 },
        { "Transfer-Encodings: x\r\n", 0, -1, "", 0, 0 },
        { "HTTP/1.1 100 Continue\r\nDate: " DAY "\r\nx-amz-retry-after: 9\r\n"
          "x-amzn-requestid: first\r\n\r\n", DAY_S, 9, "first", 0, 0 },
        { "HTTP/1.1 103 Hints\r\nDate: " DAY "\r\nx-amz-retry-after: 9\r\n"
          "x-amzn-requestid: first\r\n\r\nHTTP/1.1 400 Bad Request: all\r\n",
          0, -1, "", 0, 0 },
        { "HTTP/1.1 100 Continue\n\nHTTP/1.0 200\nDate: " DAY "\n\n", DAY_S,
          -1, "", 1, 0 },
        { "HTTP/1.1 200 OK\r\nx-amzn-requestid: a\r\n\r\nx-amzn-requestid: b"
          "\r\nDate: " DAY "\r\ntransfer-encoding: chunked\r\n", 0, -1, "a",
          1, 0 },
        { "HTTP\r\nHTTP/\r\nHTTP/1.1 2\r\nHTTP/1.1 20\r\n", 0, -1, "", 0, 0 },
        { ":\r\n: x\r\n", 0, -1, "", 0, 0 }
    };
    static const char all[] = "x-amzn-requestid: 0123 \t\r\n";
    kaws__transfer t;
    kaws_reply r;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        memset(&t, 0, sizeof t);
        memset(&r, 0, sizeof r);
        r.retry_after_ms = -1;
        t.r = &r;
        read_head(&t, rows[i].head);
        if (r.date != rows[i].date || r.retry_after_ms != rows[i].retry_ms ||
            strcmp(r.request_id, rows[i].id) != 0 ||
            t.headed != rows[i].headed || t.overread != rows[i].overread)
            fail_msg("%s: %ld, %d, '%s', %d %d", rows[i].head, (long)r.date,
                     r.retry_after_ms, r.request_id, t.headed, t.overread);
    }
    memset(&t, 0, sizeof t);
    t.r = &r;
    for (i = 0; i < sizeof all; i++) {    /* cut anywhere                     */
        char *line = (char *)unit_exact(all, i);
        assert_int_equal(kaws__curl_on_header(line, 1, i, &t), i);
        free(line);
    }
    assert_string_equal(r.request_id, "0123");
}


/* A request id that is too long is cut, and another that begins alike is
 * another. */
static void
test_long_request_ids(void **state)
{
    kaws__transfer t;
    kaws_reply r;
    char line[256], cut[64], id[65];

    (void)state;
    memset(&t, 0, sizeof t);
    memset(&r, 'x', sizeof r);
    t.r = &r;
    memset(id, 'i', 64);
    id[63] = id[64] = '\0';
    (void)snprintf(line, sizeof line, "x-amzn-requestid: %s\r\n", id);
    read_head(&t, line);
    assert_string_equal(r.request_id, id);        /* just fits                */
    id[63] = 'i';
    (void)snprintf(line, sizeof line, "x-amzn-requestid: %s\r\n", id);
    read_head(&t, line);
    assert_int_equal(strlen(r.request_id), 63);
    assert_memory_equal(r.request_id, id, 47);
    assert_memory_not_equal(r.request_id, id, 63);
    memcpy(cut, r.request_id, sizeof cut);
    read_head(&t, "x-amzn-requestid: i\r\n");
    read_head(&t, line);
    assert_string_equal(r.request_id, cut);
    id[63] = 'j';
    (void)snprintf(line, sizeof line, "x-amzn-requestid: %s\r\n", id);
    read_head(&t, line);
    assert_memory_equal(r.request_id, cut, 47);
    assert_string_not_equal(r.request_id, cut);
}


/* ---- what libcurl says ------------------------------------------------- */

static const char *const proxies[] = { "https_proxy", "HTTPS_PROXY",
                                       "all_proxy", "ALL_PROXY" };


/* Of a password in the environment no piece is shown, in libcurl's own words of
 * a URL that it takes for another. */
static void
test_words_of_a_proxy(void **state)
{
    static const struct { const char *proxy, *words; int shown; } rows[] = {
        { "http://proxy:3128", "Could not resolve proxy: proxy", 1 },
        { "http://proxy:x#y", "bad syntax in 'http://proxy:x#y'", 1 },
        { "http://svc:Passw0rd@proxy:3128", "Failed to connect to proxy", 1 },
        { "http://svc:Pa#ss@proxy", "bad syntax in 'http://svc:Pa#ss@p'", 0 },
        { "http://svc:Pa#ss@proxy", "Could not resolve proxy: svc", 0 },
        { "svc:Pa#ss@proxy", "Could not resolve proxy: svc", 0 },
        { "http://svc:1/ss@proxy", "Failed to connect to svc port 1", 0 },
        { "http://svc:1?ss@proxy", "Failed to connect to svc port 1", 0 },
        { "http://svc:P@ss#@proxy", "Could not resolve proxy: ss", 0 },
        { "http://svc:Pa ss@proxy", "bad syntax in 'http://svc:Pa ss@p'", 0 },
        { "http://svc:Pass@proxy:x", "bad syntax in 'http://svc:Pass@p'", 0 },
        { "http://svc:Passw0rdOf20@proxy:x", "... 'http://svc:Passw0", 0 }
    };
    static kaws__transfer t;
    kaws_reply r;
    char want[64];
    size_t i, k;

    (void)state;
    t.r = &r;
    for (k = 0; k < COUNT(proxies); k++)
        assert_int_equal(unsetenv(proxies[k]), 0);
    for (i = 0; i < COUNT(rows); i++)
        for (k = 0; k < COUNT(proxies); k++) {
            memset(&r, 0, sizeof r);
            assert_int_equal(setenv(proxies[k], rows[i].proxy, 1), 0);
            (void)snprintf(t.error, sizeof t.error, "%s", rows[i].words);
            assert_int_equal(kaws__curl_outcome(&t, CURLE_COULDNT_RESOLVE_PROXY),
                             KAWS_NETWORK);
            (void)snprintf(want, sizeof want, "%s (check %s:",
                           curl_easy_strerror(CURLE_COULDNT_RESOLVE_PROXY),
                           proxies[k]);
            if (rows[i].shown)
                assert_string_equal(r.text, rows[i].words);
            else if (strncmp(r.text, want, strlen(want)) != 0)
                fail_msg("%s: %s", rows[i].proxy, r.text);
            assert_int_equal(unsetenv(proxies[k]), 0);
        }
}


/* What can be mended by a setting is told apart from an outage; libcurl's words
 * are shown, cut to their room, or if there are none, what its code means. */
static void
test_outcomes(void **state)
{
    static const struct { CURLcode code; const char *words; kaws_status status; }
    rows[] = {
        { CURLE_SSL_CACERT_BADFILE, "error setting certificate", KAWS_CONFIG },
        { CURLE_URL_MALFORMAT, "Port number was not a decimal", KAWS_CONFIG },
        { CURLE_COULDNT_RESOLVE_PROXY, "Unsupported proxy syntax in 'x'",
          KAWS_CONFIG },
        { CURLE_COULDNT_RESOLVE_PROXY, "Could not resolve", KAWS_NETWORK },
        { CURLE_PEER_FAILED_VERIFICATION, "certificate", KAWS_NETWORK },
        { CURLE_OPERATION_TIMEDOUT, "", KAWS_NETWORK },
        { CURLE_OUT_OF_MEMORY, "", KAWS_NETWORK }
    };
    static kaws__transfer t;
    kaws_reply r;
    size_t i;

    (void)state;
    t.r = &r;
    for (i = 0; i < COUNT(rows); i++) {
        memset(&r, 0, sizeof r);
        (void)snprintf(t.error, sizeof t.error, "%s", rows[i].words);
        assert_int_equal(kaws__curl_outcome(&t, rows[i].code), rows[i].status);
        assert_int_equal(r.http, 0);
        assert_string_equal(r.text, *t.error ? t.error
                                             : curl_easy_strerror(rows[i].code));
    }
    memset(t.error, 'w', sizeof t.error - 1);
    assert_int_equal(kaws__curl_outcome(&t, CURLE_RECV_ERROR), KAWS_NETWORK);
    assert_int_equal(strlen(r.text), sizeof r.text - 1);
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
        { 0, BEGIN, 1 },
        { 0, "-----BEGIN TRUSTED CERTIFICATE-----\n", 1 },
        { 0, "-----BEGIN X509 CERTIFICATE-----", 1 },
        { 0, "# ours\r\n\r\n" BEGIN, 1 },
        { 0, "\xef\xbb\xbf" BEGIN, 1 },
        { 5000, "\n" BEGIN, 1 },
        { 0, "\n", 0 },
        { 0, "MIIB", 0 },
        { 0, "-----BEGIN CERTIFICATE----", 0 },
        { 0, "-----BEGIN CERTIFICATE REQUEST-----\n", 0 },
        { 0, "-----BEGIN PRIVATE KEY-----\n", 0 },
        { 0, "-----END CERTIFICATE-----\n", 0 },
        { 0, "  " BEGIN, 0 },             /* OpenSSL finds none here either   */
        { 0, "\n\xef\xbb\xbf" BEGIN, 0 },
        { 1024, BEGIN, 0 },
        { 5000, "", 0 },
        { KAWS__CURL_CA_LOOK + 4096, "\n" BEGIN, 0 },
        { KAWS__CURL_CA_LOOK - 2048, "\n" BEGIN, 1 }
    };
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        *unit_case() = rows[i].text;
        EXPECT(w, rows[i].good ? KAWS_OK : KAWS_CONFIG,
               "/ca: no certificate in it; it has to hold", kaws__curl_check_ca(
                   ca_file(w, rows[i].before, rows[i].text), &w->err));
        kaws__err_clear(&w->err);
    }
    for (i = 2000; i < 2060; i++)         /* over the edge of two pieces      */
        EXPECT(w, KAWS_OK, NULL, kaws__curl_check_ca(
            ca_file(w, i, "\n" BEGIN), &w->err));
}


/* None of them is opened in a way that waits. */
static void
test_what_is_no_ca_file(void **state)
{
    struct world *w = *state;
    struct sockaddr_un where;
    char fifo[96], link[96];
    const struct { const char *path, *words; } rows[] = {
        { "/none", "cannot read the CA file /none: No such file" },
        { "", "cannot read the CA file : No such file" },
        { "c\na\x1b[31m", "the CA file c\\x0aa\\x1b[31m: No such file" },
        { w->f.dir, "it is not a file" }, { "/dev/zero", "it is not a file" },
        { fifo, "fifo: it is not a file" },
        { where.sun_path, "Is a pipe or a device" },
        { ca_file(w, 0, ""), "it is empty" }
    };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    size_t i;

    (void)snprintf(fifo, sizeof fifo, "%s/fifo", w->f.dir);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    memset(&where, 0, sizeof where);
    where.sun_family = AF_UNIX;
    (void)snprintf(where.sun_path, sizeof where.sun_path, "%s/s", w->f.dir);
    assert_int_equal(bind(fd, (struct sockaddr *)&where, sizeof where), 0);
    for (i = 0; i < COUNT(rows); i++)
        EXPECT(w, KAWS_CONFIG, rows[i].words,
               kaws__curl_check_ca(rows[i].path, &w->err));
    kaws__err_clear(&w->err);
    (void)snprintf(link, sizeof link, "%s/link", w->f.dir);
    assert_int_equal(symlink(ca_file(w, 0, BEGIN), link), 0);
    EXPECT(w, KAWS_OK, NULL, kaws__curl_check_ca(link, &w->err));
    close(fd);
}


/* Whatever keeps the sender from being opened, it can be closed. Plain HTTP
 * uses no proxy. */
static void
test_opening(void **state)
{
    static const struct {
        const char *proxy, *key_log, *ca_file;
        int plain, no_memory, no_lock;
        kaws_status status;
        const char *words;
    } rows[] = {
        { "p", NULL, NULL, 0, 0, 0, KAWS_OK, NULL },
        { "/", NULL, NULL, 1, 0, 0, KAWS_OK, NULL },
        { "p", "/nowhere", NULL, 0, 0, 0, KAWS_OK, NULL },
        { "/", NULL, NULL, 0, 0, 0, KAWS_CONFIG, "https_proxy" },
        { "p", NULL, "/none", 1, 0, 0, KAWS_CONFIG, "CA file" },
        { "p", NULL, NULL, 0, 1, 0, KAWS_MEMORY, "out of memory" },
        { "p", NULL, NULL, 0, 0, 1, KAWS_MEMORY, "no lock" },
        { "p", NULL, NULL, 0, 0, 2, KAWS_MEMORY, "out of memory" }
    };
    struct world *w = *state;
    kaws_hooks hooks = w->f.hooks;
    kaws__http http;
    size_t i;

    hooks.send = NULL;
    assert_int_equal(unsetenv("no_proxy"), 0);
    for (i = 0; i < COUNT(rows); i++) {
        assert_int_equal(setenv("https_proxy", rows[i].proxy, 1), 0);
        assert_int_equal(unsetenv("SSLKEYLOGFILE"), 0);
        if (rows[i].key_log != NULL)
            assert_int_equal(setenv("SSLKEYLOGFILE", rows[i].key_log, 1), 0);
        fake_forget_log(&w->f);
        w->f.fail_nth = rows[i].no_memory ? w->f.allocs + 1 : 0;
        no_lock = rows[i].no_lock;
        kaws__err_clear(&w->err);
        EXPECT(w, rows[i].status, rows[i].words, kaws__http_open(
            &http, &hooks, rows[i].ca_file, rows[i].plain, &w->err));
        assert_int_equal(no_lock, 0);
        assert_int_equal(fake_logged(&w->f, 1, "SSLKEYLOGFILE"),
                         rows[i].key_log != NULL);
        kaws__http_close(&http);
        kaws__http_close(&http);
        assert_int_equal(w->f.live, 0);
    }
    assert_int_equal(unsetenv("SSLKEYLOGFILE"), 0);
    assert_int_equal(unsetenv("https_proxy"), 0);
}


/* ---- options ----------------------------------------------------------- */

static void
expect_number(CURLoption which, long number)
{
    size_t i;

    for (i = 0; i < option_count && options[i].option != which; i++)
        continue;
    if (i == option_count || options[i].number != number)
        fail_msg("option %d is not %ld", (int)which, number);
}


/* Of a text its bytes count. */
static void
expect_pointer(CURLoption which, const void *at, int text)
{
    size_t i;

    for (i = 0; i < option_count && options[i].option != which; i++)
        continue;
    if (i == option_count || (options[i].at != at && !(
            text && at != NULL && options[i].at != NULL &&
            strcmp(options[i].at, at) == 0)))
        fail_msg("option %d", (int)which);
}


/* Every option that is set, and what to; nothing else is. An option that
 * libcurl does not know keeps the request from being sent, but for three. */
static void
test_options(void **state)
{
    static const option numbers[] = {
        { CURLOPT_NOSIGNAL, 1, NULL }, { CURLOPT_POST, 1, NULL },
        { CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_2, NULL },
        { CURLOPT_SSL_VERIFYPEER, 1, NULL }, { CURLOPT_SSL_VERIFYHOST, 2, NULL },
        { CURLOPT_FOLLOWLOCATION, 0, NULL },
        { CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1, NULL },
        { CURLOPT_SUPPRESS_CONNECT_HEADERS, 1, NULL },
        { CURLOPT_TIMEOUT_MS, 3000, NULL },
        { CURLOPT_CONNECTTIMEOUT_MS, 2000, NULL }
    };
    static const struct {
        const char *url, *body, *ca_file, *protocol, *proxy;
        int old, openssl, kept, whole;
        size_t count;
    } rows[] = {
        { "https://h/", "{}", NULL, "https", NULL, 0, 0, 0, 1, 31 },
        { "http://h/", "{}", NULL, "http", "", 0, 0, 1, 1, 31 },
        { "https://h/", "{} ", NULL, "https", NULL, 0, 1, 0, 0, 33 },
        { "https://h/", "{}", "/ca", "https", NULL, 1, 1, 0, 1, 35 }
    };
    kaws__sender s;
    kaws__conn conn;
    kaws__transfer t;
    kaws_request q;
    size_t i, k, count;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        memset(&s, 0, sizeof s);
        memset(&conn, 0, sizeof conn);
        memset(&q, 0, sizeof q);
        s.ca_file = rows[i].ca_file;
        s.old = rows[i].old;
        if (rows[i].openssl)
            kaws__curl_symbol("SSL_CTX_set_options", &s.openssl_options);
        conn.share = curl_share_init();
        conn.sock = rows[i].kept ? 7 : CURL_SOCKET_BAD;
        q.url = rows[i].url;
        q.body = kaws__buf_of(rows[i].body);
        q.timeout_ms = 3000;
        q.connect_timeout_ms = 2000;
        memset(&t, 0, sizeof t);
        t.s = &s;
        t.conn = &conn;
        t.q = &q;
        t.first = 2;
        t.easy = curl_easy_init();
        option_count = 0;
        assert_true(kaws__curl_set_options(t.easy, &t));
        assert_int_equal(option_count, rows[i].count);
        for (k = 0; k < COUNT(numbers); k++)
            expect_number(numbers[k].option, numbers[k].number);
        expect_number(CURLOPT_POSTFIELDSIZE, (long)q.body.len);
        expect_number(CURLOPT_FRESH_CONNECT, !rows[i].kept);
        expect_number(CURLOPT_VERBOSE, rows[i].old);
        expect_pointer(CURLOPT_URL, rows[i].url, 1);
        expect_pointer(CURLOPT_PROTOCOLS_STR, rows[i].protocol, 1);
        expect_pointer(CURLOPT_PROXY, rows[i].proxy, 1);
        expect_pointer(CURLOPT_USERAGENT, "keyring_aws/" KAWS_VERSION, 1);
        expect_pointer(CURLOPT_HTTPHEADER, t.lines, 0);
        expect_pointer(CURLOPT_SHARE, conn.share, 0);
        expect_pointer(CURLOPT_POSTFIELDS, rows[i].whole ? q.body.at : NULL, 0);
        expect_pointer(CURLOPT_ERRORBUFFER, t.error, 0);
        expect_pointer(CURLOPT_READDATA, &t, 0);
        expect_pointer(CURLOPT_SEEKDATA, &t, 0);
        expect_pointer(CURLOPT_WRITEDATA, &t, 0);
        expect_pointer(CURLOPT_HEADERDATA, &t, 0);
        expect_pointer(CURLOPT_DEBUGDATA, &t, 0);
        if (rows[i].ca_file != NULL) {
            expect_pointer(CURLOPT_CAINFO, rows[i].ca_file, 1);
            expect_pointer(CURLOPT_CAPATH, NULL, 0);
        }
        if (rows[i].openssl)
            expect_pointer(CURLOPT_SSL_CTX_DATA, &s, 0);
        for (k = 0, count = option_count; k < count; k++) {
            unknown = options[k].option;
            if (kaws__curl_set_options(t.easy, &t) != (
                    unknown == CURLOPT_CAPATH ||
                    unknown == CURLOPT_SSL_CTX_FUNCTION ||
                    unknown == CURLOPT_SSL_CTX_DATA))
                fail_msg("option %d", (int)unknown);
            option_count = count;
        }
        unknown = (CURLoption)0;
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
        { NULL, 0x080000, 0, 0 },
        { "GnuTLS/3.7.9", 0x074700, 0, 0 },
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
    kaws__http http;
    kaws__transfer t;
    size_t i;

    curl_says = &what;
    for (i = 0; i < COUNT(rows); i++) {
        kaws__sender *s;
        what.ssl_version = rows[i].tls;
        what.version_num = rows[i].version;
        open_http(w, &http, NULL);
        s = http.sender;
        assert_int_equal(s->openssl_options != NULL, rows[i].openssl && real);
        assert_int_equal(s->openssl_pending != NULL, real);
        assert_int_equal(s->old, rows[i].old);
        kaws__http_close(&http);
    }
    curl_says = NULL;
    for (i = 0; i < COUNT(said); i++) {
        char *words = (char *)unit_exact(said[i].words, strlen(said[i].words));
        memset(&t, 0, sizeof t);
        assert_int_equal(kaws__curl_on_words(NULL, said[i].type, words,
                                             strlen(said[i].words), &t), 0);
        assert_int_equal(t.overread, said[i].overread);
        free(words);
    }
}


static uint64_t told_options;
static int held_back;                     /* bytes in the TLS library         */


static uint64_t
openssl_options(void *context, uint64_t value)
{
    (void)context;
    return told_options |= value;
}


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
        int backend, session, proxy_tls, openssl, gnutls, silent;
    } rows[] = {
        { "https://h/", CURLSSLBACKEND_OPENSSL, 1, 0, 1, 0, 1 },
        { "https://h/", CURLSSLBACKEND_OPENSSL, 1, 0, 0, 1, 0 },
        { "https://h/", CURLSSLBACKEND_OPENSSL, 0, 0, 1, 1, 0 },
        { "https://h/", CURLSSLBACKEND_OPENSSL, 1, 1, 1, 1, 0 },
        { "https://h/", CURLSSLBACKEND_GNUTLS, 1, 0, 0, 1, 1 },
        { "https://h/", CURLSSLBACKEND_GNUTLS, 1, 0, 1, 0, 0 },
        { "https://h/", CURLSSLBACKEND_WOLFSSL, 1, 0, 1, 1, 0 },
        { "https://h/", CURLSSLBACKEND_NONE, 1, 0, 1, 1, 0 },
        { "http://h/", CURLSSLBACKEND_NONE, 0, 0, 1, 1, 1 }
    };
    static kaws__sender s;
    static kaws__transfer t;
    kaws_request q;
    size_t i;

    (void)state;
    memset(&q, 0, sizeof q);
    t.q = &q;
    t.s = &s;
    for (i = 0; i < COUNT(rows); i++) {
        q.url = rows[i].url;
        s.openssl_pending = rows[i].openssl ? openssl_pending : NULL;
        s.gnutls_pending = rows[i].gnutls ? gnutls_pending : NULL;
        s.proxy_tls = rows[i].proxy_tls;
        t.tls.backend = (curl_sslbackend)rows[i].backend;
        t.tls.internals = rows[i].session ? &s : NULL;
        held_back = 0;
        if (kaws__curl_tls_silent(&t) != rows[i].silent)
            fail_msg("row %lu", (unsigned long)i);
        held_back = 256;                  /* 0 as a byte                      */
        if (kaws__curl_tls_silent(&t) && q.url[4] == 's')
            fail_msg("row %lu: held back", (unsigned long)i);
    }
    s.openssl_options = openssl_options;
    assert_int_equal(kaws__curl_on_ssl(NULL, &q, &s), CURLE_OK);
    assert_int_equal(told_options, 2);
}


/* ---- bodies ------------------------------------------------------------ */

static void
test_body_is_capped_and_wiped(void **state)
{
    char data[8] = "12345678", zeros[8] = { 0 };
    kaws__transfer t;
    kaws_reply r;

    (void)state;
    memset(&t, 0, sizeof t);
    memset(&r, 0, sizeof r);
    t.r = &r;
    r.body = unit_exact(NULL, 10);
    r.body_max = 10;
    assert_int_equal(kaws__curl_on_body(data, 1, 8, &t), 8);
    assert_memory_equal(r.body, "12345678", 8);
    assert_memory_equal(data, zeros, 8);
    memcpy(data, "9A", 2);
    assert_int_equal(kaws__curl_on_body(data, 1, 2, &t), 2);
    assert_int_equal(r.body_len, 10);
    memcpy(data, "BC", 2);
    assert_int_equal(kaws__curl_on_body(data, 2, 1, &t), 0);
    assert_memory_equal(data, zeros, 8);
    assert_int_equal(r.body_len, 11);
    memcpy(data, "D", 1);                 /* nor any more after that          */
    assert_int_equal(kaws__curl_on_body(data, 1, 1, &t), 0);
    assert_memory_equal(data, zeros, 8);
    assert_int_equal(r.body_len, 11);
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
    char out[64];
    kaws_request q;
    kaws__transfer t;
    size_t i, n;

    (void)state;
    memset(&q, 0, sizeof q);
    memset(&t, 0, sizeof t);
    q.body = kaws__buf_of("secret      ");
    t.q = &q;
    t.first = 6;
    for (i = 0; i < COUNT(steps); i++) {
        if (steps[i].room == 0) {
            assert_int_equal(kaws__curl_on_seek(&t, 0, SEEK_SET),
                             CURL_SEEKFUNC_OK);
            continue;
        }
        n = kaws__curl_on_read(out, 1, steps[i].room, &t);
        unit_same("part", (uint8_t *)out, n, steps[i].part,
                  strlen(steps[i].part));
    }
    assert_int_equal(kaws__curl_on_seek(&t, 1, SEEK_SET),
                     CURL_SEEKFUNC_CANTSEEK);
    assert_int_equal(kaws__curl_on_seek(&t, 0, SEEK_END),
                     CURL_SEEKFUNC_CANTSEEK);
}


/* ---- connections ------------------------------------------------------- */

static size_t
count_idle(const kaws__sender *s)
{
    const kaws__conn *conn;
    size_t n = 0;

    for (conn = s->idle; conn != NULL; conn = conn->next)
        n++;
    return n;
}


/* As after a good reply, over a connection whose socket is this. */
static kaws__conn *
lend(kaws__sender *s, const kaws_request *q, int fd)
{
    kaws__conn *conn = kaws__curl_lend(s, q);

    assert_non_null(conn);
    assert_string_equal(conn->url, q->url);
    if (fd >= 0)
        conn->sock = fd;
    conn->used_us = kaws__sys_ticks_us();
    conn->sound = 1;
    return conn;
}


/* The pool lends, takes back, and keeps no more than it may: of each URL its
 * own, the last used first, and nothing unclean. */
static void
test_pool(void **state)
{
    struct world *w = *state;
    kaws_request q = { "https://a/", NULL, { NULL, 0 }, 0, 0, 0 };
    kaws_request other = { "https://b/", NULL, { NULL, 0 }, 0, 0, 0 };
    kaws_request fresh = { "https://a/", NULL, { NULL, 0 }, 0, 0, 1 };
    kaws__conn *lent[KAWS__CURL_IDLE + 3], *one;
    char url[KAWS__URL_MAX + 1];
    kaws__http http;
    kaws__sender *s;
    int fds[2];
    size_t i;

    open_http(w, &http, NULL);
    s = http.sender;
    assert_int_equal(pipe(fds), 0);       /* the read end is silent           */
    for (i = 0; i < COUNT(lent); i++) {
        lent[i] = lend(s, &q, -1);
        assert_true(lent[i]->sock == CURL_SOCKET_BAD);
        lent[i]->sock = fds[0];
    }
    for (i = 0; i < COUNT(lent); i++)
        kaws__curl_done(s, lent[i], 1);
    assert_int_equal(count_idle(s), KAWS__CURL_IDLE);
    for (one = s->idle; one->next != NULL; one = one->next)
        continue;
    assert_ptr_equal(one, lent[3]);       /* the first three made room        */
    one = lend(s, &fresh, fds[0]);
    assert_int_equal(count_idle(s), KAWS__CURL_IDLE);
    kaws__curl_done(s, one, 0);
    one = lend(s, &q, -1);
    assert_ptr_equal(one, lent[COUNT(lent) - 1]);
    assert_true(one->sock == fds[0]);
    assert_int_equal(count_idle(s), KAWS__CURL_IDLE - 1);
    kaws__curl_done(s, one, 0);           /* unclean: not kept                */
    assert_int_equal(count_idle(s), KAWS__CURL_IDLE - 1);

    one = lend(s, &other, -1);
    assert_true(one->sock == CURL_SOCKET_BAD);
    one->sound = 0;
    kaws__curl_done(s, one, 1);           /* more has come than a reply       */
    assert_int_equal(count_idle(s), KAWS__CURL_IDLE - 1);
    one = lend(s, &other, -1);
    kaws__curl_done(s, one, 1);           /* one that ended well is kept: its */
    assert_int_equal(count_idle(s), KAWS__CURL_IDLE);     /* TLS session      */

    w->f.fail_nth = w->f.allocs + 1;
    assert_null(kaws__curl_lend(s, &fresh));
    memset(url, 'u', sizeof url);
    url[KAWS__URL_MAX] = '\0';
    fresh.url = url;
    assert_null(kaws__curl_lend(s, &fresh));      /* longer than any of ours  */
    url[KAWS__URL_MAX - 1] = '\0';
    kaws__curl_done(s, lend(s, &fresh, -1), 0);
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
 * comes: while the conn is idle, is lent, or is looked at on its way out. */
static void
test_used_again(void **state)
{
    static const struct {
        int idle_s, spoken, distrust;     /* 1: lent, 2: idle, 3: between     */
        int first, second;                /* may it be used                   */
    } rows[] = {
        { 0, 0, 0, 1, 1 },
        { KAWS__CURL_IDLE_S - 1, 0, 0, 1, 1 },
        { KAWS__CURL_IDLE_S, 0, 0, 0, 1 },
        { 0, 1, 0, 0, 0 },
        { 0, 0, 1, 0, 1 },
        { 0, 0, 2, 0, 1 },
        { 0, 0, 3, 1, 0 }
    };
    struct world *w = *state;
    kaws_request q = { "https://a/", NULL, { NULL, 0 }, 0, 0, 0 };
    kaws__http http;
    kaws__conn *conn;
    int fds[2];
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        open_http(w, &http, NULL);
        distrusted = http.sender;
        assert_int_equal(pipe(fds), 0);
        conn = lend(http.sender, &q, fds[0]);
        conn->used_us -= rows[i].idle_s * (int64_t)1000000;
        if (rows[i].distrust == 1)
            distrust();
        kaws__curl_done(http.sender, conn, 1);
        if (rows[i].distrust == 2)
            distrust();
        if (rows[i].spoken)
            assert_int_equal(write(fds[1], "x", 1), 1);
        meanwhile = rows[i].distrust == 3 ? distrust : NULL;
        assert_ptr_equal(kaws__curl_lend(http.sender, &q), conn);
        meanwhile = NULL;
        if ((conn->sock == fds[0]) != rows[i].first)
            fail_msg("row %lu", (unsigned long)i);
        conn->sock = fds[0];
        conn->used_us = kaws__sys_ticks_us();
        kaws__curl_done(http.sender, conn, 1);
        conn = lend(http.sender, &q, -1);
        if ((conn->sock == fds[0]) != rows[i].second)
            fail_msg("row %lu, later", (unsigned long)i);
        kaws__curl_done(http.sender, conn, 1);
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

static const struct {
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
    { "blank", OK "  x: y\r\n" TWO "{}", KAWS_NETWORK, 0, "", "", 0, 0 },
    { "two", OK TWO "{}" OK TWO "[]", KAWS_OK, 200, "{}", "", 0, 0 },
    { "more", OK TWO "{}\r\n", KAWS_OK, 200, "{}", "", 0, 0 }
};

enum { SERVER_OPEN = 16 };

typedef struct server {
    pthread_t thread;
    pthread_mutex_t lock;                 /* guards these                     */
    int  requests, connections;
    char last[1024];                      /* the last request, head and body  */
    struct pollfd open[SERVER_OPEN];      /* the first listens                */
    nfds_t count;
    char url[32];
} server;


/* Reads one request; 0 if there is none any more. */
static int
server_hear(int fd, char *text, size_t max)
{
    size_t len = 0;
    char *body, *length;
    ssize_t n;

    do {
        n = recv(fd, text + len, max - 1 - len, 0);
        if (n <= 0)
            return 0;
        len += (size_t)n;
        text[len] = '\0';
        body = strstr(text, "\r\n\r\n");
        length = strstr(text, "Content-Length: ");
    } while (body == NULL || length == NULL ||
             len < (size_t)(body + 4 - text) + strtoul(length + 16, NULL, 10));
    return 1;
}


/* Answers one request; 0: the connection ends. */
static int
server_answer(server *v, int fd)
{
    char text[sizeof v->last], said[512];
    const char *reply = "", *test;
    size_t i, n;

    if (!server_hear(fd, text, sizeof text))
        return 0;
    pthread_mutex_lock(&v->lock);
    v->requests++;
    memcpy(v->last, text, sizeof text);
    pthread_mutex_unlock(&v->lock);
    test = strstr(text, "X-Test: ");
    for (i = 0; test != NULL && i < COUNT(replies); i++)
        if (strcspn(test + 8, "\r") == strlen(replies[i].test) &&
            strncmp(test + 8, replies[i].test, strlen(replies[i].test)) == 0)
            reply = replies[i].reply;
    n = strcspn(reply, "#");
    (void)snprintf(said, sizeof said, reply[n] == '#' ? "%.*s%d%s" : "%.*s",
                   (int)n, reply, v->requests, reply + n + 1);
    return send(fd, said, strlen(said), MSG_NOSIGNAL) > 0 &&
           (strstr(reply, "Content-Length") != NULL ||
            strstr(reply, "chunked") != NULL);
}


static void *
server_run(void *arg)
{
    server *v = arg;
    nfds_t i;

    while (poll(v->open, v->count, -1) > 0) {
        for (i = v->count - 1; i > 0; i--)
            if (v->open[i].revents != 0 && !server_answer(v, v->open[i].fd)) {
                close(v->open[i].fd);
                v->open[i] = v->open[--v->count];
            }
        if (v->open[0].revents == 0)
            continue;
        v->open[v->count].fd = accept(v->open[0].fd, NULL, NULL);
        if (v->open[v->count].fd < 0 || v->count == SERVER_OPEN - 1)
            break;
        v->open[v->count].events = POLLIN;
        v->open[v->count++].revents = 0;
        pthread_mutex_lock(&v->lock);
        v->connections++;
        pthread_mutex_unlock(&v->lock);
    }
    return NULL;
}


/* Binds a port of this machine, and writes its URL. */
static int
bind_port(char url[32])
{
    struct sockaddr_in where;
    socklen_t len = sizeof where;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    memset(&where, 0, sizeof where);
    where.sin_family = AF_INET;
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(fd, (struct sockaddr *)&where, sizeof where), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&where, &len), 0);
    (void)snprintf(url, 32, "http://127.0.0.1:%d/", ntohs(where.sin_port));
    return fd;
}


static struct server the_server;


/* A world with a server in it. */
static int
serve(void **state)
{
    server *v = &the_server;

    memset(v, 0, sizeof *v);
    v->open[0].fd = bind_port(v->url);
    v->open[0].events = POLLIN;
    v->count = 1;
    return listen(v->open[0].fd, 16) != 0 ||
           pthread_mutex_init(&v->lock, NULL) != 0 ||
           pthread_create(&v->thread, NULL, server_run, v) != 0 ||
           world_begin(state);
}


static int
serve_no_more(void **state)
{
    server *v = &the_server;

    assert_int_equal(shutdown(v->open[0].fd, SHUT_RDWR), 0);
    assert_int_equal(pthread_join(v->thread, NULL), 0);
    while (v->count > 0)
        close(v->open[--v->count].fd);
    pthread_mutex_destroy(&v->lock);
    return world_end(state);
}


static void
count_from(int requests)
{
    pthread_mutex_lock(&the_server.lock);
    the_server.requests = requests;
    the_server.connections = 0;
    pthread_mutex_unlock(&the_server.lock);
}


/* How many requests, and over how many new connections, there were. */
static void
expect_served(int requests, int connections)
{
    pthread_mutex_lock(&the_server.lock);
    if (the_server.requests != requests ||
        the_server.connections != connections)
        fail_msg("%s: %d requests, %d connections", *unit_case(),
                 the_server.requests, the_server.connections);
    pthread_mutex_unlock(&the_server.lock);
}


/* One request; what kaws__http_send says. */
static kaws_status
ask(kaws__http *http, const char *url, const char *test, const char *body,
    int fresh_connection, kaws_reply *r)
{
    static uint8_t room[16];
    char line[64];
    const char *const headers[] = { line, NULL };
    kaws_request q = { url, headers, kaws__buf_of(body), 20000, 20000,
                       fresh_connection };
    kaws_status status;
    void *lent;

    (void)snprintf(line, sizeof line, "X-Test: %s", test);
    memset(r, 0, sizeof *r);
    r->body = room;
    r->body_max = sizeof room;
    status = kaws__http_send(http, &q, r, &lent);
    kaws__http_done(http, lent, status == KAWS_OK && r->http == 200);
    assert_int_equal(r->text[0] != '\0', status == KAWS_NETWORK ||
                                         status == KAWS_CONFIG);
    return status;
}


/* What is made of each reply, and which leave a connection that is used again:
 * the next request counts the connections. */
static void
test_replies(void **state)
{
    struct world *w = *state;
    const char *url = the_server.url;
    kaws__http http;
    kaws_reply r;
    size_t i;
    int n;

    for (i = 0; i < COUNT(replies); i++) {
        *unit_case() = replies[i].test;
        n = 100 * (int)i;
        open_http(w, &http, NULL);
        count_from(n);
        if (ask(&http, url, replies[i].test, "{}", 0, &r) != replies[i].status)
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
        assert_int_equal(ask(&http, url, "good", "{}", 0, &r), KAWS_OK);
        unit_same("body", r.body, r.body_len, "{}", 2);
        expect_served(n + 2, replies[i].kept ? 1 : 2);
        assert_int_equal(ask(&http, url, "good", "{}", 0, &r), KAWS_OK);
        expect_served(n + 3, replies[i].kept ? 1 : 2);
        kaws__http_close(&http);
    }
}


/* Nobody listens there, or it is no URL for us: no reply, and words for it. */
static void
test_no_server(void **state)
{
    struct world *w = *state;
    kaws__http http;
    kaws_reply r;
    char url[32];
    int fd = bind_port(url);

    open_http(w, &http, NULL);
    assert_int_equal(ask(&http, url, "good", "{}", 0, &r), KAWS_NETWORK);
    assert_int_equal(r.http, 0);
    assert_int_equal(ask(&http, "file:///etc/hostname", "good", "{}", 0, &r),
                     KAWS_NETWORK);
    assert_int_equal(r.body_len, 0);
    assert_int_equal(ask(&http, "http://127.0.0.1:x/", "good", "{}", 0, &r),
                     KAWS_CONFIG);
    kaws__http_close(&http);
    close(fd);
}


static int waits;                         /* the sixth lets the server answer */


static void
let_go(void)
{
    if (++waits == 6)
        pthread_mutex_unlock(&the_server.lock);
}


/* That libcurl had nothing to wait for once is no reason to pause: an old one
 * says so with a socket, too, when a timer of its own is due. */
static void
test_pauses(void **state)
{
    struct world *w = *state;
    kaws__http http;
    kaws_reply r;

    open_http(w, &http, NULL);
    naps = 0;
    deaf = 1;
    assert_int_equal(ask(&http, the_server.url, "good", "{}", 1, &r), KAWS_OK);
    assert_int_equal(naps, 0);
    deaf = 1000;
    meanwhile = let_go;
    pthread_mutex_lock(&the_server.lock);
    assert_int_equal(ask(&http, the_server.url, "good", "{}", 1, &r), KAWS_OK);
    meanwhile = NULL;
    deaf = 0;
    assert_int_equal(naps, waits - 1);
    kaws__http_close(&http);
}


/* A body that ends in spaces arrives whole, spaces and all; one connection is
 * kept and used again, but for who asks for one of his own. The header lines
 * are handed to libcurl where they are, because they hold secrets. */
static void
test_bodies_and_connections(void **state)
{
    static const char *const bodies[] = { "{}", "{}    ", "    ", "" };
    struct world *w = *state;
    const char *url = the_server.url;
    kaws__http http;
    kaws_reply r;
    int i;

    open_http(w, &http, NULL);
    for (i = 0; i < (int)COUNT(bodies); i++) {
        assert_int_equal(ask(&http, url, "good", bodies[i], 0, &r), KAWS_OK);
        unit_same_text("body", strstr(the_server.last, "\r\n\r\n") + 4,
                       bodies[i]);
        assert_non_null(strstr(the_server.last, "POST / HTTP/1.1\r\n"));
        assert_non_null(strstr(the_server.last, "X-Test: good\r\n"));
        assert_non_null(strstr(the_server.last, "User-Agent: keyring_aws/"
                               KAWS_VERSION "\r\n"));
        assert_null(strstr(the_server.last, "Expect"));
        expect_served(i + 1, 1);
    }
    assert_int_equal(ask(&http, url, "good", "{}", 1, &r), KAWS_OK);
    expect_served(5, 2);
    assert_int_equal(ask(&http, url, "good", "{}", 0, &r), KAWS_OK);
    expect_served(6, 2);                  /* over the first                   */
    assert_int_equal(ask(&http, url, "good", "{}", 1, &r), KAWS_OK);
    expect_served(7, 3);                  /* the second was not kept          */
    kaws__http_close(&http);
}


/* The header lines go to libcurl where they are, because they hold secrets; so
 * there is room for so many and no more. */
static void
test_header_lines(void **state)
{
    struct world *w = *state;
    const char *headers[KAWS__CURL_LINES + 1];
    kaws_request q = { the_server.url, headers, { NULL, 0 }, 20000, 20000, 0 };
    kaws__http http;
    kaws_reply r;
    void *lent;
    size_t i;

    for (i = 0; i < COUNT(headers); i++)
        headers[i] = "X: y";
    headers[0] = "X-Test: good";
    headers[KAWS__CURL_LINES - 1] = headers[KAWS__CURL_LINES] = NULL;
    memset(&r, 0, sizeof r);
    q.body = kaws__buf_of("{}");
    open_http(w, &http, NULL);
    r.body = (uint8_t *)the_server.last;
    r.body_max = 16;
    assert_int_equal(kaws__http_send(&http, &q, &r, &lent), KAWS_OK);
    kaws__http_done(&http, lent, 1);
    expect_served(1, 1);
    headers[KAWS__CURL_LINES - 1] = "Z: one too many";
    assert_int_equal(kaws__http_send(&http, &q, &r, &lent), KAWS_NETWORK);
    assert_string_equal(r.text, curl_easy_strerror(CURLE_OUT_OF_MEMORY));
    kaws__http_done(&http, lent, 0);
    expect_served(1, 1);
    kaws__http_close(&http);
}


/* The reply that had the id first may have been the wrong one, and its own may
 * still come over that connection: so none is used again. */
static void
test_an_id_over_two_connections(void **state)
{
    struct world *w = *state;
    const char *url = the_server.url;
    kaws__http http;
    kaws_reply r;

    open_http(w, &http, NULL);
    assert_int_equal(ask(&http, url, "good", "{}", 0, &r), KAWS_OK);
    assert_int_equal(ask(&http, url, "good", "{}", 1, &r), KAWS_OK);
    expect_served(2, 2);
    count_from(0);
    assert_int_equal(ask(&http, url, "good", "{}", 0, &r), KAWS_REPLY);
    expect_served(1, 0);
    count_from(2);
    assert_int_equal(ask(&http, url, "good", "{}", 0, &r), KAWS_OK);
    expect_served(3, 1);
    kaws__http_close(&http);
}


/* A reply that came over none of the connections that it may come over is no
 * reply. */
static void
test_reply_over_another_connection(void **state)
{
    struct world *w = *state;
    kaws_request q = { the_server.url, NULL, { NULL, 0 }, 0, 0, 0 };
    static const struct { int before, status; } rows[] = {
        { 1, CURLE_OK }, { 0, CURLE_RECV_ERROR }, { 2, CURLE_RECV_ERROR }
    };
    kaws__http http;
    kaws__conn *conn;
    kaws_reply r;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        kaws__transfer t = { .q = &q, .r = &r };
        uint8_t room[16];
        open_http(w, &http, NULL);
        assert_int_equal(ask(&http, q.url, "good", "{}", 0, &r), KAWS_OK);
        r.body = room;
        r.body_len = 0;
        t.s = http.sender;
        t.conn = conn = kaws__curl_lend(http.sender, &q);
        t.easy = curl_easy_init();
        assert_true(kaws__curl_set_options(t.easy, &t));
        assert_int_equal((curl_easy_setopt)(t.easy, CURLOPT_POSTFIELDS, "{}"),
                         0);
        assert_int_equal((curl_easy_setopt)(t.easy, CURLOPT_POSTFIELDSIZE, 2L),
                         0);
        t.lines[0].data = (char *)(uintptr_t)"X-Test: full";
        if (rows[i].before != 1)
            conn->sock = rows[i].before == 0 ? CURL_SOCKET_BAD : 1000;
        assert_int_equal(kaws__curl_perform(&t), rows[i].status);
        assert_int_equal(conn->sound, rows[i].status == CURLE_OK);
        assert_int_equal(conn->sock == CURL_SOCKET_BAD,
                         rows[i].status != CURLE_OK);
        (void)curl_multi_remove_handle(conn->multi, t.easy);
        curl_easy_cleanup(t.easy);
        kaws__curl_done(http.sender, conn, 1);
        assert_int_equal(count_idle(http.sender), rows[i].status == CURLE_OK);
        kaws__http_close(&http);
    }
}


/* Every call of libcurl fails once. Either it was one of those that may, and
 * the reply comes; or nothing was sent, and the reason is told. The sender is
 * as good as before. */
static void
test_libcurl_fails(void **state)
{
    struct world *w = *state;
    kaws__http http;
    kaws_reply r;
    int n, failures = 0, fired;

    for (n = 0, fired = 1; fired; n++) {
        open_http(w, &http, ca_file(w, 0, BEGIN));
        count_from(0);
        curl_left = n;
        if (ask(&http, the_server.url, "good", "{}", 0, &r) != KAWS_OK) {
            failures++;
            assert_string_equal(r.text, curl_easy_strerror(
                                            CURLE_OUT_OF_MEMORY));
            expect_served(0, 0);
        } else {
            assert_int_equal(r.http, 200);
        }
        fired = curl_left < 0;
        curl_left = -1;
        assert_int_equal(ask(&http, the_server.url, "good", "{}", 0, &r),
                         KAWS_OK);
        assert_int_equal(r.http, 200);
        kaws__http_close(&http);
    }
    assert_true(failures >= 30);
}


#define IN_WORLD(test) \
    cmocka_unit_test_setup_teardown(test, world_begin, world_end)
#define SERVED(test) cmocka_unit_test_setup_teardown(test, serve, serve_no_more)


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_heads),
        cmocka_unit_test(test_long_request_ids),
        cmocka_unit_test(test_words_of_a_proxy),
        cmocka_unit_test(test_outcomes),
        IN_WORLD(test_ca_files),
        IN_WORLD(test_what_is_no_ca_file),
        IN_WORLD(test_opening),
        cmocka_unit_test(test_options),
        IN_WORLD(test_versions),
        cmocka_unit_test(test_what_the_tls_library_holds),
        cmocka_unit_test(test_body_is_capped_and_wiped),
        cmocka_unit_test(test_body_in_two_parts),
        IN_WORLD(test_pool),
        IN_WORLD(test_used_again),
        IN_WORLD(test_no_server),
        SERVED(test_replies),
        SERVED(test_pauses),
        SERVED(test_bodies_and_connections),
        SERVED(test_header_lines),
        SERVED(test_an_id_over_two_connections),
        SERVED(test_reply_over_another_connection),
        SERVED(test_libcurl_fails)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
