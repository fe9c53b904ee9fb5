/* Room http: what a reply's headers say, the wrapper around the hook, and
 * the built-in sender: alone, with a small server, and with a libcurl whose
 * calls fail. */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>

static int curl_left = -1;                /* calls until one fails; -1: none  */
static const curl_version_info_data *curl_says;   /* NULL: the truth          */
static int no_lock;                       /* the n-th cannot be had; 0: all   */
static void (*meanwhile)(void);           /* what another thread does         */
static int deaf, naps;                    /* waits for nothing; pauses        */
static int options_set, unwiped, no_ca_folder;
static CURLoption unknown;                /* to this libcurl; 0: none is      */


static int
curl_fails(void)
{
    return curl_left >= 0 && curl_left-- == 0;
}


static CURL *
poor_init(void)
{
    return curl_fails() ? NULL : curl_easy_init();
}


/* What an option's value is, its number says. */
static CURLcode
poor_setopt(CURL *easy, CURLoption option, ...)
{
    CURLcode code = CURLE_FAILED_INIT;
    va_list rest;

    options_set++;
    if (curl_fails() || option == unknown)
        return code;
    va_start(rest, option);
    if (option < CURLOPTTYPE_OBJECTPOINT)
        code = (curl_easy_setopt)(easy, option, va_arg(rest, long));
    else if (option == CURLOPT_CAPATH)
        no_ca_folder += va_arg(rest, void *) == NULL;
    else if (option < CURLOPTTYPE_FUNCTIONPOINT)
        code = (curl_easy_setopt)(easy, option, va_arg(rest, void *));
    else if (option < CURLOPTTYPE_OFF_T)
        code = (curl_easy_setopt)(easy, option,
                                  va_arg(rest, curl_free_callback));
    else
        code = (curl_easy_setopt)(easy, option, va_arg(rest, curl_off_t));
    va_end(rest);
    return code;
}


static CURLM *
poor_multi_init(void)
{
    return curl_fails() ? NULL : curl_multi_init();
}


static CURLMcode
poor_multi_setopt(CURLM *multi, CURLMoption option, long value)
{
    return curl_fails() ? CURLM_UNKNOWN_OPTION
                        : (curl_multi_setopt)(multi, option, value);
}


static CURLSH *
poor_share_init(void)
{
    return curl_fails() ? NULL : curl_share_init();
}


static CURLSHcode
poor_share_setopt(CURLSH *share, CURLSHoption option, int value)
{
    return curl_fails() ? CURLSHE_NOMEM
                        : (curl_share_setopt)(share, option, value);
}


static CURLMcode
poor_multi_add(CURLM *multi, CURL *easy)
{
    return curl_fails() ? CURLM_OUT_OF_MEMORY
                        : curl_multi_add_handle(multi, easy);
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


static struct curl_slist *
poor_append(struct curl_slist *list, const char *text)
{
    return curl_fails() ? NULL : curl_slist_append(list, text);
}


static void
poor_free_all(struct curl_slist *list)
{
    struct curl_slist *each;

    for (each = list; each != NULL; each = each->next)
        unwiped += each->data[0] != '\0';
    curl_slist_free_all(list);
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

#undef curl_easy_setopt
#define curl_easy_init()   poor_init()
#define curl_easy_setopt   poor_setopt
#undef curl_multi_setopt
#undef curl_share_setopt
#define curl_share_init()  poor_share_init()
#define curl_share_setopt  poor_share_setopt
#define curl_multi_init()  poor_multi_init()
#define curl_multi_setopt  poor_multi_setopt
#define curl_multi_add_handle poor_multi_add
#define curl_multi_wait    poor_multi_wait
#define nanosleep          poor_nap
#define curl_slist_append  poor_append
#define curl_slist_free_all(list) poor_free_all(list)
#define curl_version_info  poor_version
#define pthread_mutex_init poor_lock

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "unit.h"
#include "world.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>


/* ---- header lines ------------------------------------------------------ */

static void
give(kaws_reply *r, const char *line)
{
    kaws__http_header(r, kaws__buf_of(line));
}


static void
fresh(kaws_reply *r)
{
    memset(r, 0, sizeof *r);
    r->retry_after_ms = -1;
}


static void
test_date(void **state)
{
    static const struct { const char *line; int64_t date; } rows[] = {
        { "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", 784111777 },
        { "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", 784111777 },
        { "DATE:Sun, 06 Nov 1994 08:49:37 GMT\r\n", 784111777 },
        { "dAtE: \t Sun, 06 Nov 1994 08:49:37 GMT \t \r\n", 784111777 },
        { "Date: Sun, 06 Nov 1994 08:49:37 GMT", 784111777 },
        { "Date: Tue, 29 Feb 2028 23:59:59 GMT\r\n", 1835481599 },
        { "Date: Sunday, 06-Nov-94 08:49:37 GMT\r\n", 0 },
        { "Date: Sun Nov  6 08:49:37 1994\r\n", 0 },
        { "Date: yesterday\r\n", 0 },
        { "Date:\r\n", 0 },
        { "Date\r\n", 42 },
        { "Date : Sun, 06 Nov 1994 08:49:37 GMT\r\n", 42 },
        { "X-Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", 42 },
        { "Dat: Sun, 06 Nov 1994 08:49:37 GMT\r\n", 42 }
    };
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        kaws_reply r;
        fresh(&r);
        r.date = 42;
        give(&r, rows[i].line);
        if (r.date != rows[i].date)
            fail_msg("%s: %ld", rows[i].line, (long)r.date);
        assert_int_equal(r.retry_after_ms, -1);
        assert_string_equal(r.request_id, "");
    }
}


static void
test_retry_after(void **state)
{
    static const struct { const char *line; int ms; } rows[] = {
        { "x-amz-retry-after: 0\r\n", 0 },
        { "X-Amz-Retry-After:1500\r\n", 1500 },
        { "x-amz-retry-after: 3600000\r\n", 3600000 },
        { "x-amz-retry-after: 3600001\r\n", -1 },
        { "x-amz-retry-after: 4294967296\r\n", -1 },
        { "x-amz-retry-after: 99999999999999999999\r\n", -1 },
        { "x-amz-retry-after: -5\r\n", -1 },
        { "x-amz-retry-after: +5\r\n", -1 },
        { "x-amz-retry-after: 1e3\r\n", -1 },
        { "x-amz-retry-after: 1.5\r\n", -1 },
        { "x-amz-retry-after: soon\r\n", -1 },
        { "x-amz-retry-after:\r\n", -1 },
        { "Retry-After: 7\r\n", -1 }
    };
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        kaws_reply r;
        fresh(&r);
        give(&r, rows[i].line);
        if (r.retry_after_ms != rows[i].ms)
            fail_msg("%s: %d", rows[i].line, r.retry_after_ms);
    }
}


static void
test_request_id(void **state)
{
    kaws_reply r;
    char line[256], cut[64];

    (void)state;
    fresh(&r);
    give(&r, "x-amzn-RequestId: 1b2c-\r\n");
    assert_string_equal(r.request_id, "1b2c-");
    give(&r, "X-AMZN-REQUESTID:   other \t\r\n");
    assert_string_equal(r.request_id, "other");
    give(&r, "x-amzn-requestid:\r\n");
    assert_string_equal(r.request_id, "");
    (void)snprintf(line, sizeof line, "x-amzn-requestid: %0200d\r\n", 7);
    give(&r, line);
    assert_int_equal(strlen(r.request_id), 63);
    give(&r, "x-amz-request-id: not this one\r\n");
    assert_int_equal(strlen(r.request_id), 63);
    memcpy(cut, r.request_id, sizeof cut);
    give(&r, line);
    assert_string_equal(r.request_id, cut);
    (void)snprintf(line, sizeof line, "x-amzn-requestid: %0200d\r\n", 8);
    give(&r, line);
    assert_int_equal(strlen(r.request_id), 63);
    assert_memory_equal(r.request_id, cut, 47);
    assert_string_not_equal(r.request_id, cut);
}


/* A 100 or a proxy's 200 may come first: its headers are not the reply's. */
static void
test_another_reply_begins(void **state)
{
    kaws_reply r;

    (void)state;
    fresh(&r);
    give(&r, "HTTP/1.1 100 Continue\r\n");
    give(&r, "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
    give(&r, "x-amz-retry-after: 9\r\n");
    give(&r, "x-amzn-requestid: first\r\n");
    give(&r, "\r\n");
    assert_int_equal(r.date, 784111777);
    give(&r, "HTTP/1.1 400 Bad Request: all of it\r\n");
    assert_int_equal(r.date, 0);
    assert_int_equal(r.retry_after_ms, -1);
    assert_string_equal(r.request_id, "");
    give(&r, "HTTP\r\n");
    give(&r, "x-amzn-requestid: second\r\n");
    assert_string_equal(r.request_id, "second");
}


static void
test_a_header_twice(void **state)
{
    kaws_reply r;

    (void)state;
    fresh(&r);
    give(&r, "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
    give(&r, "Date: Sun, 06 Nov 1994 08:49:38 GMT\r\n");
    assert_int_equal(r.date, 784111778);
    give(&r, "Date: nonsense\r\n");
    assert_int_equal(r.date, 0);
    give(&r, "x-amz-retry-after: 1\r\n");
    give(&r, "x-amz-retry-after: 2\r\n");
    assert_int_equal(r.retry_after_ms, 2);
}


/* Not one byte beyond the line is looked at: each is a heap block of its own
 * length, which the sanitizer watches. */
static void
test_lines_of_any_length(void **state)
{
    static const char all[] = "x-amzn-requestid: 0123 \t\r\n";
    kaws_reply r;
    size_t n;

    (void)state;
    fresh(&r);
    for (n = 0; n < sizeof all; n++) {
        uint8_t *at = malloc(n > 0 ? n : 1);
        kaws_bytes line;
        assert_non_null(at);
        memcpy(at, all, n);
        line.at = at;
        line.len = n;
        kaws__http_header(&r, line);
        free(at);
    }
    assert_string_equal(r.request_id, "0123");
}


/* ---- the wrapper ------------------------------------------------------- */

typedef struct hooked {
    const kaws_request *q;
    int calls, answer, http, spoil, clean;
    const char *id;               /* the request id, or NULL                  */
} hooked;


static int
hook(void *ctx, const kaws_request *q, kaws_reply *r)
{
    hooked *h = ctx;

    h->calls++;
    h->q = q;
    h->clean = r->http == 0 && r->body_len == 0 && r->date == 0 &&
               r->retry_after_ms == -1 && r->request_id[0] == '\0' &&
               r->text[0] == '\0';
    r->http = h->http;
    if (h->id != NULL)
        (void)snprintf(r->request_id, sizeof r->request_id, "%s", h->id);
    if (h->spoil) {
        memset(r->request_id, 'x', sizeof r->request_id);
        memset(r->text, 'y', sizeof r->text);
    }
    return h->answer;
}


static void
test_the_hook_is_asked(void **state)
{
    struct world *w = *state;
    hooked h = { NULL, 0, 0, 200, 0, 0, NULL };
    kaws_hooks hooks = w->f.hooks;
    kaws_request q;
    kaws_reply r;
    kaws__http http;
    void *lent = &q;

    memset(&q, 0, sizeof q);
    q.url = "https://example.com/";
    memset(&r, 0x77, sizeof r);
    r.body_len = 0;
    hooks.ctx = &h;
    hooks.memory = kaws__mem_builtin;
    hooks.send = hook;
    EXPECT(w, KAWS_OK, NULL, kaws__http_open(&http, &hooks, NULL, 1, &w->err));
    assert_null(http.sender);
    assert_int_equal(kaws__http_send(&http, &q, &r, &lent), 0);
    assert_int_equal(h.calls, 1);
    assert_null(lent);
    assert_ptr_equal(h.q, &q);
    assert_true(h.clean);

    h.http = 0;                           /* 0 is ok, but no status came      */
    assert_true(kaws__http_send(&http, &q, &r, &lent));
    h.http = 200;
    h.answer = 1;
    assert_true(kaws__http_send(&http, &q, &r, &lent));
    h.answer = 0;
    h.spoil = 1;                          /* it forgot both NULs              */
    assert_int_equal(kaws__http_send(&http, &q, &r, &lent), 0);
    assert_int_equal(strlen(r.request_id), sizeof r.request_id - 1);
    assert_int_equal(strlen(r.text), sizeof r.text - 1);

    h.spoil = 0;                          /* AWS's have nothing else          */
    h.id = "1a2B-\x1b[31m3c4d\n: 'e_f'\xff";
    assert_int_equal(kaws__http_send(&http, &q, &r, &lent), 0);
    assert_string_equal(r.request_id, "1a2B-31m3c4def");
    kaws__http_close(&http);
}


/* ---- what libcurl says of a proxy -------------------------------------- */

static const char *const proxy_names[] = { "https_proxy", "HTTPS_PROXY",
                                           "all_proxy", "ALL_PROXY" };


static void
say(const char *words, char text[128])
{
    kaws_reply r;

    memset(&r, 'x', sizeof r);
    kaws__http_say(&r, words, "no proxy");
    (void)snprintf(text, 128, "%s", r.text);
}


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
    char text[128];
    size_t i, k;

    (void)state;
    for (k = 0; k < COUNT(proxy_names); k++)
        assert_int_equal(unsetenv(proxy_names[k]), 0);
    say("", text);
    assert_string_equal(text, "no proxy");
    for (i = 0; i < COUNT(rows); i++)
        for (k = 0; k < COUNT(proxy_names); k++) {
            assert_int_equal(setenv(proxy_names[k], rows[i].proxy, 1), 0);
            say(rows[i].words, text);
            if (rows[i].shown)
                assert_string_equal(text, rows[i].words);
            else if (strncmp(text, "no proxy (check ", 16) != 0 ||
                     strncmp(text + 16, proxy_names[k],
                             strlen(proxy_names[k])) != 0)
                fail_msg("%s: %s", rows[i].proxy, text);
            assert_int_equal(unsetenv(proxy_names[k]), 0);
        }
}


/* ---- what the built-in sender is told ---------------------------------- */

#define BEGIN "-----BEGIN CERTIFICATE-----\n"


/* Opens the sender, and closes it again. */
static kaws_status
settings(struct world *w, const char *ca_file, int plain)
{
    kaws_hooks hooks = w->f.hooks;
    kaws__http http;
    kaws_status status;

    hooks.send = NULL;
    kaws__err_clear(&w->err);
    status = kaws__http_open(&http, &hooks, ca_file, plain, &w->err);
    kaws__http_close(&http);
    return status;
}


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
        { 1024, BEGIN, 0 },
        { 5000, "", 0 },
        { KAWS__HTTP_CA_LOOK + 4096, "\n" BEGIN, 0 }
    };
    struct world *w = *state;
    size_t i, before;

    for (i = 0; i < COUNT(rows); i++) {
        *unit_case() = rows[i].text;
        if (rows[i].good)
            EXPECT(w, KAWS_OK, NULL, settings(w, ca_file(
                w, rows[i].before, rows[i].text), 0));
        else
            EXPECT(w, KAWS_CONFIG, "/ca: no certificate in it; it has to hold",
                   settings(w, ca_file(w, rows[i].before, rows[i].text), 1));
    }
    for (before = 900; before < 2200; before++)   /* over the pieces' edges   */
        EXPECT(w, KAWS_OK, NULL, settings(w, ca_file(w, before, "\n" BEGIN),
                                          0));
}


/* None of them is opened in a way that waits. */
static void
test_what_is_no_ca_file(void **state)
{
    struct world *w = *state;
    struct sockaddr_un where;
    char path[96];
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    EXPECT(w, KAWS_CONFIG, "cannot read the CA file /none: No such file",
           settings(w, "/none", 1));
    assert_int_equal(w->err.os, ENOENT);
    EXPECT(w, KAWS_CONFIG, "cannot read the CA file : No such file",
           settings(w, "", 1));
    EXPECT(w, KAWS_CONFIG, "the CA file c\\x0aa\\x1b[31m: No such file",
           settings(w, "c\na\x1b[31m", 1));
    EXPECT(w, KAWS_CONFIG, "it is not a file", settings(w, w->f.dir, 1));
    EXPECT(w, KAWS_CONFIG, "it is not a file", settings(w, "/dev/zero", 1));
    EXPECT(w, KAWS_CONFIG, "it is empty", settings(w, ca_file(w, 0, ""), 1));
    (void)snprintf(path, sizeof path, "%s/fifo", w->f.dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    EXPECT(w, KAWS_CONFIG, "fifo: it is not a file", settings(w, path, 1));
    memset(&where, 0, sizeof where);
    where.sun_family = AF_UNIX;
    (void)snprintf(where.sun_path, sizeof where.sun_path, "%s/s", w->f.dir);
    assert_int_equal(bind(fd, (struct sockaddr *)&where, sizeof where), 0);
    EXPECT(w, KAWS_CONFIG, "Is a pipe or a device",
           settings(w, where.sun_path, 1));
    (void)snprintf(path, sizeof path, "%s/link", w->f.dir);
    assert_int_equal(symlink(ca_file(w, 0, BEGIN), path), 0);
    EXPECT(w, KAWS_OK, NULL, settings(w, path, 1));
    close(fd);
}


static const char *const proxy_variables[] = {
    "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy",
    "NO_PROXY", "http_proxy", "HTTP_PROXY"
};


static void
no_variables(void)
{
    size_t i;

    for (i = 0; i < COUNT(proxy_variables); i++)
        assert_int_equal(unsetenv(proxy_variables[i]), 0);
}


static curl_socket_t
no_socket(void *ctx, curlsocktype purpose, struct curl_sockaddr *where)
{
    (void)ctx;
    (void)purpose;
    (void)where;
    return CURL_SOCKET_BAD;
}


/* Can libcurl read that proxy? It comes as far as to open a socket then, and
 * gets none. No name is looked up. */
static void
expect_libcurl_takes(const char *proxy)
{
    static const char *const ports[] = { "*:1:127.0.0.1", "*:443:127.0.0.1",
        "*:1080:127.0.0.1", "*:3128:127.0.0.1", "*:8443:127.0.0.1",
        "*:65535:127.0.0.1" };
    CURL *e = curl_easy_init();
    struct curl_slist *names = NULL;
    char words[CURL_ERROR_SIZE] = "";
    size_t i;

    assert_non_null(e);
    for (i = 0; i < COUNT(ports); i++)
        names = curl_slist_append(names, ports[i]);
    assert_int_equal(curl_easy_setopt(e, CURLOPT_URL, "https://h/"), 0);
    assert_int_equal(curl_easy_setopt(e, CURLOPT_PROXY, proxy), 0);
    assert_int_equal(curl_easy_setopt(e, CURLOPT_RESOLVE, names), 0);
    assert_int_equal(curl_easy_setopt(e, CURLOPT_OPENSOCKETFUNCTION,
                                      no_socket), 0);
    assert_int_equal(curl_easy_setopt(e, CURLOPT_ERRORBUFFER, words), 0);
    if (curl_easy_perform(e) != CURLE_COULDNT_CONNECT)
        fail_msg("'%s' is no proxy for libcurl: %s", proxy, words);
    curl_easy_cleanup(e);
    (curl_slist_free_all)(names);
}


#define FORM "https_proxy in the environment is not of the form"


/* What we let through, libcurl can read. */
static void
test_proxies(void **state)
{
    static const char *const good[] = {
        "p", "p:1", "p:65535", "10.0.0.1:3128", "http://p", "http://p/",
        "HTTP://P.Example:3128/", "https://p_1.x-y:8443", "socks4://p:1080",
        "socks4a://p", "socks5://p", "socks5h://p", "socks://p", "[::1]:3128",
        "http://[2001:db8::1]", "http://[1:2:3:4:5:6:7:8]:80/",
        "http://user@p:3128", "http://user:pw@p:3128", "user:pw@p:3128",
        "http://user:@p", "http://:pw@p", "http://u:a%2Fb%40c%25d@p:3128/",
        "http://u:p:w@[::1]:1", "http://u:\xc3\xa4!$&'()*+,;=@p",
        "http://p:3128/pac", "http://p//", "http://p?x", "http://p#x",
        "[::ffff:10.0.0.1]:3128"
    };
    static const char *const bad[] = {
        " ", "http://", "http:///", "://p", "ftp://p", "p://p", "http:p",
        "http:/p", "p:", "p:0", "p:65536", "p:x", "p:-1", "p:+1", "p:1:2",
        "p:99999999999", "http://p:80x", "http://p/@", "http://p?x@y",
        "http://p#@", "http://p/x@y/z", "http://@",
        "http://u:pw@", "http://u:pw@:3128", "http://u:p/w@p:3128",
        "http://u:p?w@p:3128", "http://u:p#w@p:3128", "http://u:p@w@p:3128",
        "http://u:p w@p", "http://p ", " http://p", "http://p\n",
        "http://u:\x7f@p", "http://p:31 28", "[::1", "[::1]x", "[::1]:",
        "[::1]:0", "[]", "[:]", "[:::]", "[1:2]", "[1::2::3]", "[12345::]",
        "[::1.2.3]", "[::1.2.3.4.5]", "[::1.2.3.256]", "[1.2.3.4]",
        "[::1.2.3.]",
        "[1:2:3:4:5:6:7:1.2.3.4]", "[::1.2.3.4:1]", "[::.1.2.3]",
        "[g::]", "[1:2:3:4:5:6:7:8:9]", "[::1:]", "[:1::]", "::1", "p]:1",
        "p\\:1", "p,q", "\xc3\xa4:1"
    };
    struct world *w = *state;
    size_t i;

    no_variables();
    for (i = 0; i < COUNT(good); i++) {
        *unit_case() = good[i];
        assert_int_equal(setenv("https_proxy", good[i], 1), 0);
        EXPECT(w, KAWS_OK, NULL, settings(w, NULL, 0));
        expect_libcurl_takes(good[i]);
    }
    for (i = 0; i < COUNT(bad); i++) {
        *unit_case() = bad[i];
        assert_int_equal(setenv("https_proxy", bad[i], 1), 0);
        EXPECT(w, KAWS_CONFIG, FORM, settings(w, NULL, 0));
        if (strlen(bad[i]) > 9)           /* it may hold a password           */
            assert_null(strstr(w->err.text, bad[i]));
        assert_non_null(strstr(w->err.text, "%2F %3F %23 %40 %25 %20"));
        EXPECT(w, KAWS_OK, NULL, settings(w, NULL, 1));
    }
    no_variables();
}


/* Which variable counts, as libcurl has it; "" counts for nothing. */
static void
test_proxy_variables(void **state)
{
    static const struct {
        const char *set[8];               /* by pairs                         */
        const char *counts;               /* NULL: none                       */
        int warned;
    } rows[] = {
        { { NULL }, NULL, 0 },
        { { "https_proxy", "/" }, "https_proxy", 0 },
        { { "HTTPS_PROXY", "/" }, "HTTPS_PROXY", 0 },
        { { "all_proxy", "/" }, "all_proxy", 0 },
        { { "ALL_PROXY", "/" }, "ALL_PROXY", 0 },
        { { "http_proxy", "/", "HTTP_PROXY", "/" }, NULL, 0 },
        { { "https_proxy", "p", "HTTPS_PROXY", "/", "all_proxy", "/" }, NULL,
          0 },
        { { "https_proxy", "", "HTTPS_PROXY", "/" }, "HTTPS_PROXY", 0 },
        { { "HTTPS_PROXY", "p", "all_proxy", "/" }, NULL, 0 },
        { { "all_proxy", "", "ALL_PROXY", "/" }, "ALL_PROXY", 0 },
        { { "https_proxy", "/", "no_proxy", "" }, "https_proxy", 0 },
        { { "https_proxy", "/", "no_proxy", "*" }, NULL, 0 },
        { { "https_proxy", "/", "NO_PROXY", "*" }, NULL, 0 },
        { { "https_proxy", "/", "no_proxy", "", "NO_PROXY", "*" }, NULL, 0 },
        { { "https_proxy", "/", "no_proxy", "a.b" }, NULL, 1 },
        { { "https_proxy", "/", "NO_PROXY", "*,x" }, NULL, 1 },
        { { "https_proxy", "/", "no_proxy", "a", "NO_PROXY", "*" }, NULL, 1 },
        { { "https_proxy", "p", "no_proxy", "a" }, NULL, 0 }
    };
    struct world *w = *state;
    size_t i, k;

    for (i = 0; i < COUNT(rows); i++) {
        no_variables();
        fake_forget_log(&w->f);
        for (k = 0; k < 8 && rows[i].set[k] != NULL; k += 2)
            assert_int_equal(setenv(rows[i].set[k], rows[i].set[k + 1], 1), 0);
        if (rows[i].counts != NULL)
            EXPECT(w, KAWS_CONFIG, rows[i].counts, settings(w, NULL, 0));
        else
            EXPECT(w, KAWS_OK, NULL, settings(w, NULL, 0));
        if (rows[i].counts != NULL)
            assert_ptr_equal(strstr(w->err.text, rows[i].counts), w->err.text);
        assert_int_equal(fake_logged(&w->f, 1, FORM), rows[i].warned);
        assert_int_equal(fake_logged(&w->f, -1, "_proxy"), rows[i].warned);
        assert_int_equal(settings(w, NULL, 1), KAWS_OK);
    }
    no_variables();
}


/* Who has a hook of his own is asked for neither. */
static void
test_settings_of_the_hook(void **state)
{
    struct world *w = *state;
    kaws__http http;

    assert_int_equal(setenv("https_proxy", "/", 1), 0);
    EXPECT(w, KAWS_OK, NULL, kaws__http_open(&http, &w->f.hooks, "/none", 0,
                                             &w->err));
    kaws__http_close(&http);
    no_variables();
}


/* ---- the built-in sender, as far as it goes without a server ----------- */

static void
test_sender_opens_and_closes(void **state)
{
    struct world *w = *state;
    kaws_hooks hooks = w->f.hooks;
    kaws__http http;

    hooks.send = NULL;
    assert_int_equal(unsetenv("SSLKEYLOGFILE"), 0);
    EXPECT(w, KAWS_OK, NULL, kaws__http_open(&http, &hooks, NULL, 1, &w->err));
    assert_non_null(http.sender);
    kaws__http_close(&http);
    kaws__http_close(&http);
    assert_int_equal(w->f.live, 0);
    assert_int_equal(fake_logged(&w->f, -1, "SSLKEYLOGFILE"), 0);

    assert_int_equal(setenv("SSLKEYLOGFILE", "/nowhere", 1), 0);
    EXPECT(w, KAWS_OK, NULL, kaws__http_open(&http, &hooks, NULL, 1, &w->err));
    kaws__http_close(&http);
    assert_int_equal(fake_logged(&w->f, 1, "SSLKEYLOGFILE"), 1);
    assert_int_equal(unsetenv("SSLKEYLOGFILE"), 0);

    w->f.fail_nth = w->f.allocs + 1;
    EXPECT(w, KAWS_MEMORY, "out of memory",
           kaws__http_open(&http, &hooks, NULL, 1, &w->err));
    kaws__http_close(&http);

    no_lock = 1;
    EXPECT(w, KAWS_MEMORY, "no lock",
           kaws__http_open(&http, &hooks, NULL, 1, &w->err));
    kaws__http_close(&http);
    no_lock = 2;                          /* the sender's own                 */
    EXPECT(w, KAWS_MEMORY, "out of memory",
           kaws__http_open(&http, &hooks, NULL, 1, &w->err));
    kaws__http_close(&http);
    assert_int_equal(no_lock, 0);
    assert_int_equal(w->f.live, 0);
}


static void
test_body_is_capped_and_wiped(void **state)
{
    char data[8] = "12345678", zeros[8] = { 0 };
    uint8_t *room = malloc(10);
    kaws_reply r;
    kaws__transfer t;

    (void)state;
    assert_non_null(room);
    fresh(&r);
    memset(&t, 0, sizeof t);
    t.r = &r;
    r.body = room;
    r.body_max = 10;
    assert_int_equal(kaws__http_on_body(data, 1, 8, &t), 8);
    assert_memory_equal(room, "12345678", 8);
    assert_memory_equal(data, zeros, 8);
    memcpy(data, "9A", 2);
    assert_int_equal(kaws__http_on_body(data, 1, 2, &t), 2);
    assert_int_equal(r.body_len, 10);
    assert_false(t.too_long);
    memcpy(data, "B", 1);
    assert_int_equal(kaws__http_on_body(data, 1, 1, &t), 0);
    assert_true(t.too_long);
    assert_memory_equal(data, zeros, 8);
    assert_int_equal(r.body_len, 10);
    assert_int_equal(kaws__http_on_body(data, 1, 0, &t), 0);
    free(room);
}


/* A body that ends in spaces is handed over in two parts; any other in one. */
static void
test_body_in_two_parts(void **state)
{
    static const char text[] = "secret      ";
    char out[64];
    kaws_request q;
    kaws__transfer t;

    (void)state;
    memset(&q, 0, sizeof q);
    memset(&t, 0, sizeof t);
    q.body = kaws__buf_of(text);
    t.q = &q;
    t.first = 6;
    assert_int_equal(kaws__http_on_read(out, 1, sizeof out, &t), 6);
    assert_memory_equal(out, "secret", 6);
    assert_int_equal(kaws__http_on_read(out, 1, 4, &t), 4);
    assert_int_equal(kaws__http_on_read(out, 1, sizeof out, &t), 2);
    assert_memory_equal(out, "  ", 2);
    assert_int_equal(kaws__http_on_read(out, 1, sizeof out, &t), 0);

    assert_int_equal(kaws__http_on_seek(&t, 0, SEEK_SET), CURL_SEEKFUNC_OK);
    assert_int_equal(kaws__http_on_read(out, 1, 2, &t), 2);
    assert_int_equal(kaws__http_on_read(out, 1, sizeof out, &t), 4);
    assert_int_equal(kaws__http_on_seek(&t, 12, SEEK_SET), CURL_SEEKFUNC_OK);
    assert_int_equal(kaws__http_on_read(out, 1, sizeof out, &t), 0);
    assert_int_equal(kaws__http_on_seek(&t, 13, SEEK_SET),
                     CURL_SEEKFUNC_CANTSEEK);
    assert_int_equal(kaws__http_on_seek(&t, -1, SEEK_SET),
                     CURL_SEEKFUNC_CANTSEEK);
    assert_int_equal(kaws__http_on_seek(&t, 0, SEEK_END),
                     CURL_SEEKFUNC_CANTSEEK);
    t.sent = 0;
    t.first = q.body.len;
    assert_int_equal(kaws__http_on_read(out, 1, sizeof out, &t), 12);
}


/* The pool lends, takes back, and keeps no more than it may: of each host its
 * own, the last used first, and nothing unclean. */
static void
test_pool(void **state)
{
    struct world *w = *state;
    kaws_request q = { "https://a/", NULL, { NULL, 0 }, 0, 0, 0 };
    kaws_request other = { "https://b/", NULL, { NULL, 0 }, 0, 0, 0 };
    kaws__conn *taken[KAWS__HTTP_IDLE + 3], *one;
    kaws__sender *s = kaws__http_sender(&w->f.hooks, NULL);
    int fds[2];
    size_t i;

    assert_non_null(s);
    assert_int_equal(pipe(fds), 0);       /* the read end is silent           */
    for (i = 0; i < COUNT(taken); i++) {
        taken[i] = kaws__http_take(s, &q);
        assert_non_null(taken[i]);
        assert_string_equal(taken[i]->origin, "https://a");
        assert_true(taken[i]->sock == CURL_SOCKET_BAD);
        taken[i]->sock = fds[0];
        taken[i]->used_us = kaws__sys_ticks_us();
    }
    for (i = 0; i < COUNT(taken); i++)
        kaws__http_give_back(s, taken[i], 1);
    assert_int_equal(s->count, KAWS__HTTP_IDLE);
    one = kaws__http_take(s, &q);
    assert_ptr_equal(one, taken[COUNT(taken) - 1]);
    assert_true(one->sock == fds[0]);
    assert_int_equal(s->count, KAWS__HTTP_IDLE - 1);
    kaws__http_give_back(s, one, 0);      /* unclean: not kept                */
    assert_int_equal(s->count, KAWS__HTTP_IDLE - 1);

    one = kaws__http_take(s, &other);
    assert_string_equal(one->origin, "https://b");
    assert_true(one->sock == CURL_SOCKET_BAD);
    one->surplus = 1;
    kaws__http_give_back(s, one, 1);      /* more has come than a reply       */
    assert_int_equal(s->count, KAWS__HTTP_IDLE - 1);
    one = kaws__http_take(s, &other);
    kaws__http_give_back(s, one, 1);      /* one that ended well is kept: its */
    assert_int_equal(s->count, KAWS__HTTP_IDLE);  /* TLS session can resume   */

    kaws__http_sender_free(s);
    close(fds[0]);
    close(fds[1]);
}


/* Nor one that was idle for too long, on which something has come, or that was
 * lent before a distrust. */
static void
test_pool_distrusts(void **state)
{
    struct world *w = *state;
    kaws_request q = { "https://a/", NULL, { NULL, 0 }, 0, 0, 0 };
    kaws__sender *s = kaws__http_sender(&w->f.hooks, NULL);
    kaws__conn *one;
    int fds[2], i;

    assert_int_equal(pipe(fds), 0);
    for (i = 0; i < 3; i++) {
        one = kaws__http_take(s, &q);
        one->sock = fds[0];
        one->used_us = kaws__sys_ticks_us();
        if (i == 1)
            one->used_us -= KAWS__HTTP_IDLE_S * 1000000;
        kaws__http_give_back(s, one, 1);
        if (i == 2)
            assert_int_equal(write(fds[1], "x", 1), 1);
        one = kaws__http_take(s, &q);
        assert_int_equal(one->sock == CURL_SOCKET_BAD, i > 0);
        kaws__http_give_back(s, one, 0);
    }
    one = kaws__http_take(s, &q);
    one->sock = fds[0];
    kaws__http_close_idle(s);
    kaws__http_give_back(s, one, 1);
    assert_int_equal(s->count, 0);
    kaws__http_sender_free(s);
    kaws__http_sender_free(NULL);
    close(fds[0]);
    close(fds[1]);
}


/* Where a CA file is set, it alone counts. */
static void
test_ca_folder(void **state)
{
    CURL *easy = curl_easy_init();
    kaws__sender s;

    (void)state;
    memset(&s, 0, sizeof s);
    no_ca_folder = 0;
    assert_true(kaws__http_rules(easy, &s));
    assert_int_equal(no_ca_folder, 0);
    s.ca_file = "ca";
    assert_true(kaws__http_rules(easy, &s));
    assert_int_equal(no_ca_folder, 1);
    curl_easy_cleanup(easy);
}


/* A reply that came over none of the connections that it may come over is no
 * reply; and without memory there is no conn. */
static void
test_reply_over_another_connection(void **state)
{
    struct world *w = *state;
    kaws_request q = { "https://a/", NULL, { NULL, 0 }, 0, 0, 0 };
    kaws__sender *s = kaws__http_sender(&w->f.hooks, NULL);
    kaws__transfer t;
    kaws__conn *one;

    memset(&t, 0, sizeof t);
    t.q = &q;
    t.headed = 1;
    t.easy = curl_easy_init();            /* it has opened no connection      */
    assert_non_null(t.easy);
    one = kaws__http_take(s, &q);
    assert_int_equal(kaws__http_settle(s, one, &t, CURLE_OK), CURLE_RECV_ERROR);
    assert_true(one->sock == CURL_SOCKET_BAD);
    kaws__http_give_back(s, one, 1);
    assert_int_equal(s->count, 0);
    w->f.fail_nth = w->f.allocs + 1;
    assert_null(kaws__http_take(s, &q));
    curl_easy_cleanup(t.easy);
    kaws__http_sender_free(s);
}


static kaws__sender *distrusted;


static void
distrust(void)
{
    kaws__http_close_idle(distrusted);
}


/* A distrust while an idle one is looked at on its way out: it is no longer
 * among the idle, and not lent yet. */
static void
test_distrust_between(void **state)
{
    struct world *w = *state;
    kaws_request q = { "https://a/", NULL, { NULL, 0 }, 0, 0, 0 };
    kaws__sender *s = kaws__http_sender(&w->f.hooks, NULL);
    kaws__conn *one;
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    one = kaws__http_take(s, &q);
    one->sock = fds[0];
    one->used_us = kaws__sys_ticks_us();
    kaws__http_give_back(s, one, 1);
    distrusted = s;
    meanwhile = distrust;
    assert_ptr_equal(kaws__http_take(s, &q), one);
    meanwhile = NULL;
    kaws__http_give_back(s, one, 1);
    assert_int_equal(s->count, 0);
    kaws__http_sender_free(s);
    close(fds[0]);
    close(fds[1]);
}


static void
test_header_lines(void **state)
{
    static const char *const lines[] = { "Host: a", "B: c", NULL };
    struct curl_slist *list = kaws__http_lines(lines);

    (void)state;
    assert_non_null(list);
    assert_string_equal(list->data, "Expect:");
    assert_string_equal(list->next->data,
                        "User-Agent: keyring_aws/" KAWS_VERSION);
    assert_string_equal(list->next->next->data, "Host: a");
    assert_string_equal(list->next->next->next->data, "B: c");
    assert_null(list->next->next->next->next);
    kaws__http_lines_free(list);
    assert_int_equal(unwiped, 0);
}


/* What an old libcurl says of a surplus that it drops; a new one is not asked,
 * for that takes time. */
static void
test_words_of_an_old_libcurl(void **state)
{
    static const struct { curl_infotype type; const char *words; int overread; }
    rows[] = {
        { CURLINFO_TEXT, "Excess found in a read: excess = 1", 1 },
        { CURLINFO_TEXT, "Excess found", 1 },
        { CURLINFO_TEXT, "Excess foun", 0 },
        { CURLINFO_HEADER_IN, "Excess found: no", 0 },
        { CURLINFO_TEXT, "Connection #0 to host h left intact", 0 }
    };
    curl_version_info_data what = *curl_version_info(CURLVERSION_NOW);
    kaws__transfer t;
    kaws__sender s;
    char words[64];
    CURL *easy = curl_easy_init();
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        memset(&t, 0, sizeof t);
        (void)snprintf(words, sizeof words, "%s", rows[i].words);
        assert_int_equal(kaws__http_on_words(easy, rows[i].type, words,
                                             strlen(words), &t), 0);
        assert_int_equal(t.overread, rows[i].overread);
    }
    curl_says = &what;
    options_set = 0;
    memset(&s, 0, sizeof s);
    kaws__http_know(&s);
    assert_true(kaws__http_rules(easy, &s));
    i = (size_t)options_set;
    what.version_num = 0x074600;
    kaws__http_know(&s);
    assert_true(kaws__http_rules(easy, &s));
    assert_int_equal(options_set, 2 * i + 2);
    curl_says = NULL;
    curl_easy_cleanup(easy);
}


/* What a libcurl has to know, or nothing is sent; and what it need not. */
static void
test_options_that_must_be_had(void **state)
{
    static const struct { CURLoption option; int must; } rows[] = {
        { CURLOPT_NOSIGNAL, 1 }, { CURLOPT_SSLVERSION, 1 },
        { CURLOPT_SSL_VERIFYPEER, 1 }, { CURLOPT_SSL_VERIFYHOST, 1 },
        { CURLOPT_FOLLOWLOCATION, 1 }, { CURLOPT_HTTP_VERSION, 1 },
        { CURLOPT_SUPPRESS_CONNECT_HEADERS, 1 }, { CURLOPT_CAINFO, 1 },
        { CURLOPT_WRITEFUNCTION, 1 }, { CURLOPT_HEADERFUNCTION, 1 },
        { CURLOPT_DEBUGFUNCTION, 1 }, { CURLOPT_VERBOSE, 1 },
        { CURLOPT_CAPATH, 0 }, { CURLOPT_SSL_CTX_FUNCTION, 0 },
        { CURLOPT_TCP_NODELAY, 0 }
    };
    kaws__sender s;
    CURL *easy = curl_easy_init();
    size_t i;

    (void)state;
    memset(&s, 0, sizeof s);
    s.ca_file = "/ca";
    s.openssl = s.old = 1;
    for (i = 0; i < COUNT(rows); i++) {
        unknown = rows[i].option;
        if (kaws__http_rules(easy, &s) == rows[i].must)
            fail_msg("option %d", (int)unknown);
    }
    unknown = (CURLoption)0;
    assert_true(kaws__http_rules(easy, &s));
    curl_easy_cleanup(easy);
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


/* Each TLS library is asked by its own function, and by the first that there
 * is. Where nobody can be asked, something may be held back. */
static void
test_what_the_tls_library_holds(void **state)
{
    static const struct {
        int backend, first, session, nested, can_be_asked;
    } rows[] = {
        { CURLSSLBACKEND_OPENSSL, 0, 1, 0, 1 },
        { CURLSSLBACKEND_OPENSSL, 1, 1, 0, 1 },
        { CURLSSLBACKEND_OPENSSL, 2, 1, 0, 0 },
        { CURLSSLBACKEND_OPENSSL, 0, 0, 0, 0 },
        { CURLSSLBACKEND_OPENSSL, 0, 1, 1, 0 },
        { CURLSSLBACKEND_GNUTLS, 0, 1, 0, 1 },
        { CURLSSLBACKEND_GNUTLS, 3, 1, 0, 0 },
        { CURLSSLBACKEND_WOLFSSL, 0, 1, 0, 0 },
        { CURLSSLBACKEND_NONE, 0, 1, 0, 0 }
    };
    int (*openssl)(const void *) = openssl_pending;
    size_t (*gnutls)(void *) = gnutls_pending;
    kaws_request q;
    kaws__sender s;
    kaws__transfer t;
    size_t i, k;

    (void)state;
    memset(&q, 0, sizeof q);
    memset(&t, 0, sizeof t);
    t.q = &q;
    q.url = "https://h/";
    for (i = 0; i < COUNT(rows); i++) {
        memset(&s, 0, sizeof s);
        memcpy(&s.pending[0], &openssl, sizeof openssl);
        memcpy(&s.pending[1], &openssl, sizeof openssl);
        memcpy(&s.pending[2], &gnutls, sizeof gnutls);
        for (k = 0; k < (size_t)rows[i].first; k++)
            s.pending[k] = NULL;
        s.nested = rows[i].nested;
        t.tls = rows[i].backend;
        t.tls_session = rows[i].session ? &s : NULL;
        held_back = 0;
        if ((kaws__http_tls_silent(&s, &t) != 0) != rows[i].can_be_asked)
            fail_msg("row %lu", (unsigned long)i);
        held_back = 256;                  /* 0 as a byte                      */
        if (kaws__http_tls_silent(&s, &t))
            fail_msg("row %lu: held back", (unsigned long)i);
    }
    q.url = "http://h/";                  /* there is no TLS                  */
    t.tls = CURLSSLBACKEND_NONE;
    assert_true(kaws__http_tls_silent(&s, &t));
}


/* Nobody listens there, or it is no URL for us: no reply, and words for it. */
static void
test_no_server(void **state)
{
    static const char *const headers[] = { "Host: x", NULL };
    struct world *w = *state;
    struct sockaddr_in where;
    socklen_t len = sizeof where;
    char url[64];
    uint8_t room[16];
    kaws_hooks hooks = w->f.hooks;
    kaws__http http;
    kaws_request q;
    kaws_reply r;
    void *lent;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    memset(&where, 0, sizeof where);
    where.sin_family = AF_INET;
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(fd, (struct sockaddr *)&where, sizeof where), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&where, &len), 0);
    (void)snprintf(url, sizeof url, "http://127.0.0.1:%d/",
                   ntohs(where.sin_port));
    memset(&q, 0, sizeof q);
    memset(&r, 0, sizeof r);
    q.headers = headers;
    q.body = kaws__buf_of("{}");
    q.timeout_ms = q.connect_timeout_ms = 2000;
    r.body = room;
    r.body_max = sizeof room;
    hooks.send = NULL;
    EXPECT(w, KAWS_OK, NULL, kaws__http_open(&http, &hooks, NULL, 1, &w->err));
    q.url = url;
    assert_int_equal(kaws__http_send(&http, &q, &r, &lent), KAWS__HTTP_NONE);
    kaws__http_done(&http, lent, 0);
    assert_int_equal(r.http, 0);
    assert_string_not_equal(r.text, "");
    q.url = "file:///etc/hostname";
    assert_int_equal(kaws__http_send(&http, &q, &r, &lent), KAWS__HTTP_NONE);
    kaws__http_done(&http, lent, 0);
    assert_string_not_equal(r.text, "");
    assert_int_equal(r.body_len, 0);
    q.url = "http://127.0.0.1:x/";
    assert_int_equal(kaws__http_send(&http, &q, &r, &lent),
                     KAWS__HTTP_SETTING);
    kaws__http_done(&http, lent, 0);
    kaws__http_close(&http);
    close(fd);
}


/* Only OpenSSL is told to wipe; a libcurl that has several names them all, the
 * ones that it does not use in brackets. */
static void
test_which_tls(void **state)
{
    static const struct { const char *says; int openssl; } rows[] = {
        { NULL, 0 },
        { "GnuTLS/3.7.9", 0 },
        { "OpenSSL/3.0.17", 1 },
        { "(OpenSSL/3.0.17) GnuTLS/3.7.9", 1 },
        { "LibreSSL/3.8.2", 0 }
    };
    curl_version_info_data what;
    kaws__sender s;
    CURL *easy;
    size_t i;

    (void)state;
    memset(&what, 0, sizeof what);
    curl_says = &what;
    for (i = 0; i < COUNT(rows); i++) {
        what.ssl_version = rows[i].says;
        memset(&s, 0, sizeof s);
        kaws__http_know(&s);
        assert_int_equal(s.openssl != 0, rows[i].openssl);
        easy = curl_easy_init();
        assert_non_null(easy);
        assert_true(kaws__http_rules(easy, &s));
        curl_easy_cleanup(easy);
    }
    curl_says = NULL;
}


/* ---- a small server ---------------------------------------------------- */

/* What it answers to which path, # being the number of the request. One without
 * a length ends the connection. */
static const struct { const char *path, *reply; } replies[] = {
    { "/good", "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
               "x-amzn-RequestId: r-#\r\nContent-Length: 2\r\n\r\n{}" },
    { "/sorry", "HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nno!" },
    { "/lines", "HTTP/1.1 200 OK\nContent-Length: 2\n\n{}" },
    { "/full", "HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n"
               "0123456789abcdef" },
    { "/long", "HTTP/1.1 500 No\r\nContent-Length: 17\r\n\r\n"
               "0123456789abcdefg" },
    { "/bare", "HTTP/1.1 200 OK\r\n" },
    { "/half", "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n" },
    { "/trail", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
                "Trailer: Date\r\nx-amzn-RequestId: t-1\r\n\r\n2\r\n{}\r\n0\r\n"
                "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
                "x-amzn-RequestId: t-2\r\nContent-Length: 9\r\n\r\n" },
    { "/early", "HTTP/1.1 103 Early Hints\r\nx-amzn-RequestId: e-1\r\n\r\n"
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}" },
    { "/blank", "HTTP/1.1 200 OK\r\n  x: y\r\nContent-Length: 2\r\n\r\n{}" },
    { "/two", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
              "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]" },
    { "/more", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}\r\n" },
    { "/chunks", "HTTP/1.1 200 OK\r\ntransfer-Encoding: chunked\r\n\r\n"
                 "2\r\n{}\r\n0\r\n\r\n"
                 "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]" },
    { "/gone", "" }
};

enum { SERVER_OPEN = 16 };

typedef struct server {
    pthread_t thread;
    pthread_mutex_t lock;                 /* guards these                     */
    int  requests, connections;
    char last[1024];                      /* the last request, head and body  */
    struct pollfd open[SERVER_OPEN];      /* the first listens                */
    nfds_t count;
    char host[32];                        /* its URL without a path           */
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
    const char *reply = "";
    size_t i, n;

    if (!server_hear(fd, text, sizeof text))
        return 0;
    pthread_mutex_lock(&v->lock);
    v->requests++;
    memcpy(v->last, text, sizeof text);
    pthread_mutex_unlock(&v->lock);
    for (i = 0; i < COUNT(replies); i++) {
        n = strlen(replies[i].path);
        if (strncmp(text + 5, replies[i].path, n) == 0 && text[5 + n] == ' ')
            reply = replies[i].reply;
    }
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


static void
server_open(server *v)
{
    struct sockaddr_in where;
    socklen_t len = sizeof where;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    memset(v, 0, sizeof *v);
    memset(&where, 0, sizeof where);
    where.sin_family = AF_INET;
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(fd, (struct sockaddr *)&where, sizeof where), 0);
    assert_int_equal(listen(fd, 16), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&where, &len), 0);
    (void)snprintf(v->host, sizeof v->host, "http://127.0.0.1:%d",
                   ntohs(where.sin_port));
    v->open[0].fd = fd;
    v->open[0].events = POLLIN;
    v->count = 1;
    assert_int_equal(setenv("no_proxy", "*", 1), 0);
    assert_int_equal(pthread_mutex_init(&v->lock, NULL), 0);
    assert_int_equal(pthread_create(&v->thread, NULL, server_run, v), 0);
}


static void
server_close(server *v)
{
    assert_int_equal(shutdown(v->open[0].fd, SHUT_RDWR), 0);
    assert_int_equal(pthread_join(v->thread, NULL), 0);
    while (v->count > 0)
        close(v->open[--v->count].fd);
    pthread_mutex_destroy(&v->lock);
}


/* One request over the sender; what kaws__http_send says. */
static int
ask(kaws__http *http, const server *v, const char *path, const char *body,
    int fresh_connection, kaws_reply *r)
{
    static const char *const headers[] = { "X-Test: one", NULL };
    static uint8_t room[16];
    kaws_request q;
    char url[64];
    void *lent;
    int outcome;

    (void)snprintf(url, sizeof url, "%s%s", v->host, path);
    memset(&q, 0, sizeof q);
    memset(r, 0, sizeof *r);
    q.url = url;
    q.headers = headers;
    q.body = kaws__buf_of(body);
    q.timeout_ms = q.connect_timeout_ms = 20000;
    q.fresh_connection = fresh_connection;
    r->body = room;
    r->body_max = sizeof room;
    outcome = kaws__http_send(http, &q, r, &lent);
    kaws__http_done(http, lent, outcome == KAWS__HTTP_REPLY && r->http == 200);
    return outcome;
}


/* How many requests, and over how many connections, there were. */
static void
expect_served(server *v, int requests, int connections)
{
    pthread_mutex_lock(&v->lock);
    assert_int_equal(v->requests, requests);
    if (v->connections != connections)
        fail_msg("%s: %d connections", *unit_case(), v->connections);
    pthread_mutex_unlock(&v->lock);
}


static void
test_replies(void **state)
{
    static const struct {
        const char *path;
        int failed, http;
        const char *body;                 /* NULL: longer than its room       */
    } rows[] = {
        { "/good", 0, 200, "{}" },
        { "/sorry", 0, 400, "no!" },
        { "/lines", 0, 200, "{}" },
        { "/full", 0, 200, "0123456789abcdef" },
        { "/long", 0, 500, NULL },
        { "/bare", 1, 0, "" },
        { "/half", 1, 0, "" },
        { "/gone", 1, 0, "" },
        { "/trail", 0, 200, "{}" },
        { "/early", 0, 200, "{}" },
        { "/blank", 1, 0, "" },           /* old libcurls died of this        */
        { "/two", 0, 200, "{}" },
        { "/good", 0, 200, "{}" }
    };
    struct world *w = *state;
    kaws_hooks hooks = w->f.hooks;
    kaws__http http;
    kaws_reply r;
    server v;
    size_t i;

    server_open(&v);
    hooks.send = NULL;
    EXPECT(w, KAWS_OK, NULL, kaws__http_open(&http, &hooks, NULL, 1, &w->err));
    for (i = 0; i < COUNT(rows); i++) {
        *unit_case() = rows[i].path;
        if ((ask(&http, &v, rows[i].path, "{}", 0, &r) != 0) != rows[i].failed)
            fail_msg("%s: %s", rows[i].path, r.text);
        assert_int_equal(r.http, rows[i].http);
        assert_int_equal(r.text[0] != '\0', rows[i].failed);
        if (strcmp(rows[i].path, "/trail") == 0) {
            assert_string_equal(r.request_id, "t-1");
            assert_int_equal(r.date, 0);  /* the trailer's does not count    */
        }
        if (strcmp(rows[i].path, "/early") == 0)
            assert_string_equal(r.request_id, "");
        if (rows[i].body == NULL)
            assert_true(r.body_len > r.body_max);
        else
            unit_same("body", r.body, r.body_len, rows[i].body,
                      strlen(rows[i].body));
    }
    assert_memory_equal(r.request_id, "r-", 2);
    assert_int_equal(r.date, 784111777);
    kaws__http_close(&http);
    server_close(&v);
}


static server *held;                      /* answers from the sixth wait on   */
static int waits;


static void
let_go(void)
{
    if (++waits == 6)
        pthread_mutex_unlock(&held->lock);
}


/* That libcurl had nothing to wait for once is no reason to pause: an old one
 * says so with a socket, too, when a timer of its own is due. */
static void
test_pauses(void **state)
{
    struct world *w = *state;
    kaws_hooks hooks = w->f.hooks;
    kaws__http http;
    kaws_reply r;
    server v;

    server_open(&v);
    hooks.send = NULL;
    EXPECT(w, KAWS_OK, NULL, kaws__http_open(&http, &hooks, NULL, 1, &w->err));
    naps = 0;
    deaf = 1;
    assert_int_equal(ask(&http, &v, "/good", "{}", 1, &r), 0);
    assert_int_equal(naps, 0);
    deaf = 1000;
    held = &v;
    meanwhile = let_go;
    pthread_mutex_lock(&v.lock);
    assert_int_equal(ask(&http, &v, "/good", "{}", 1, &r), 0);
    meanwhile = NULL;
    deaf = 0;
    assert_int_equal(naps, waits - 1);
    kaws__http_close(&http);
    server_close(&v);
}


/* A body that ends in spaces arrives whole, spaces and all; one connection is
 * kept and used again, but for who asks for one of his own. */
static void
test_bodies_and_connections(void **state)
{
    static const char *const bodies[] = { "{}", "{}    ", "    ", "" };
    struct world *w = *state;
    kaws_hooks hooks = w->f.hooks;
    kaws__http http;
    kaws_reply r;
    server v;
    size_t i;

    server_open(&v);
    hooks.send = NULL;
    EXPECT(w, KAWS_OK, NULL, kaws__http_open(&http, &hooks, NULL, 1, &w->err));
    for (i = 0; i < COUNT(bodies); i++) {
        assert_int_equal(ask(&http, &v, "/good", bodies[i], 0, &r), 0);
        unit_same_text("body", strstr(v.last, "\r\n\r\n") + 4, bodies[i]);
        assert_non_null(strstr(v.last, "X-Test: one\r\n"));
        assert_non_null(strstr(v.last, "User-Agent: keyring_aws/"));
        assert_null(strstr(v.last, "Expect"));
        expect_served(&v, (int)i + 1, 1);
    }
    assert_int_equal(ask(&http, &v, "/good", "{}", 1, &r), 0);
    expect_served(&v, 5, 2);
    assert_int_equal(ask(&http, &v, "/good", "{}", 0, &r), 0);
    expect_served(&v, 6, 2);              /* over the first                   */
    assert_int_equal(ask(&http, &v, "/good", "{}", 1, &r), 0);
    expect_served(&v, 7, 3);              /* the second was not kept          */
    kaws__http_close(&http);
    server_close(&v);
}


/* Which replies leave a connection that is used again: the next request counts
 * the connections. */
static void
test_only_clean_and_silent(void **state)
{
    static const struct { const char *path; int kept; } rows[] = {
        { "/good", 1 }, { "/full", 1 }, { "/early", 1 }, { "/lines", 1 },
        { "/two", 0 },                    /* a surplus reply                  */
        { "/chunks", 0 },                 /* one that libcurl would drop      */
        { "/trail", 0 },                  /* for all we know                  */
        { "/more", 0 },                   /* a surplus line                   */
        { "/sorry", 0 },                  /* ask() finds 200 alone clean      */
        { "/long", 0 }, { "/bare", 0 }, { "/half", 0 }, { "/gone", 0 },
        { "/blank", 0 }
    };
    struct world *w = *state;
    kaws_hooks hooks = w->f.hooks;
    kaws__http http;
    kaws_reply r;
    server v;
    size_t i;

    server_open(&v);
    hooks.send = NULL;
    for (i = 0; i < COUNT(rows); i++) {
        *unit_case() = rows[i].path;
        EXPECT(w, KAWS_OK, NULL, kaws__http_open(&http, &hooks, NULL, 1,
                                                 &w->err));
        pthread_mutex_lock(&v.lock);
        v.requests = 100 * (int)i;
        v.connections = 0;
        pthread_mutex_unlock(&v.lock);
        (void)ask(&http, &v, rows[i].path, "{}", 0, &r);
        assert_int_equal(ask(&http, &v, "/good", "{}", 0, &r), 0);
        unit_same("body", r.body, r.body_len, "{}", 2);
        expect_served(&v, 100 * (int)i + 2, rows[i].kept ? 1 : 2);
        assert_int_equal(ask(&http, &v, "/good", "{}", 0, &r), 0);
        expect_served(&v, 100 * (int)i + 3, rows[i].kept ? 1 : 2);
        kaws__http_close(&http);
    }
    server_close(&v);
}


/* A request id counts once for each host, of its last 256. */
static void
test_request_ids(void **state)
{
    struct world *w = *state;
    kaws_reply r;
    kaws__http http;
    int i;

    EXPECT(w, KAWS_OK, NULL, kaws__http_open(&http, &w->f.hooks, NULL, 1,
                                             &w->err));
    memset(&r, 0, sizeof r);
    for (i = 0; i < 3; i++)               /* none at all is as it was         */
        assert_int_equal(kaws__http_first(&http, "https://a/", &r),
                         KAWS__HTTP_REPLY);
    for (i = 0; i < 300; i++) {
        (void)snprintf(r.request_id, sizeof r.request_id, "id-%d", i);
        assert_int_equal(kaws__http_first(&http, "https://a/", &r),
                         KAWS__HTTP_REPLY);
        assert_int_equal(kaws__http_first(&http, "https://a/", &r),
                         KAWS__HTTP_REPEATED);
        assert_int_equal(kaws__http_first(&http, "https://b/", &r),
                         KAWS__HTTP_REPLY);
    }
    (void)snprintf(r.request_id, sizeof r.request_id, "id-44");
    assert_int_equal(kaws__http_first(&http, "https://b/", &r),
                     KAWS__HTTP_REPEATED);
    (void)snprintf(r.request_id, sizeof r.request_id, "id-43");
    assert_int_equal(kaws__http_first(&http, "https://b/", &r),
                     KAWS__HTTP_REPLY);
    w->f.fail_nth = w->f.allocs + 1;
    assert_int_equal(kaws__http_first(&http, "https://c/", &r),
                     KAWS__HTTP_MEMORY);
    kaws__http_close(&http);
}


/* The reply that had the id first may have been the wrong one, and its own may
 * still come over that connection: so all are closed. */
static void
test_an_id_over_two_connections(void **state)
{
    struct world *w = *state;
    kaws_hooks hooks = w->f.hooks;
    kaws__http http;
    kaws_reply r;
    server v;

    server_open(&v);
    hooks.send = NULL;
    EXPECT(w, KAWS_OK, NULL, kaws__http_open(&http, &hooks, NULL, 1, &w->err));
    assert_int_equal(ask(&http, &v, "/good", "{}", 0, &r), 0);
    assert_int_equal(ask(&http, &v, "/good", "{}", 1, &r), 0);
    expect_served(&v, 2, 2);
    pthread_mutex_lock(&v.lock);
    v.requests = 0;
    pthread_mutex_unlock(&v.lock);
    assert_int_equal(ask(&http, &v, "/good", "{}", 0, &r),
                     KAWS__HTTP_REPEATED);
    expect_served(&v, 1, 2);
    pthread_mutex_lock(&v.lock);
    v.requests = 2;
    pthread_mutex_unlock(&v.lock);
    assert_int_equal(ask(&http, &v, "/good", "{}", 0, &r), 0);
    expect_served(&v, 3, 3);
    kaws__http_close(&http);
    server_close(&v);
}


/* Every call of libcurl fails once. Either it was one of those that may, and
 * the reply comes; or nothing was sent, and the reason is told. The sender is
 * as good as before. */
static void
test_libcurl_fails(void **state)
{
    struct world *w = *state;
    kaws_hooks hooks = w->f.hooks;
    kaws__http http;
    kaws_reply r;
    server v;
    int n, failures = 0, fired;

    server_open(&v);
    hooks.send = NULL;
    for (n = 0, fired = 1; fired; n++) {
        EXPECT(w, KAWS_OK, NULL, kaws__http_open(
            &http, &hooks, ca_file(w, 0, BEGIN), 1, &w->err));
        v.requests = v.connections = 0;
        curl_left = n;
        if (ask(&http, &v, "/good", "{}", 0, &r) != 0) {
            failures++;
            assert_string_equal(r.text, curl_easy_strerror(
                                            CURLE_OUT_OF_MEMORY));
            expect_served(&v, 0, 0);
        } else {
            assert_int_equal(r.http, 200);
        }
        fired = curl_left < 0;
        curl_left = -1;
        assert_int_equal(ask(&http, &v, "/good", "{}", 0, &r), 0);
        assert_int_equal(r.http, 200);
        kaws__http_close(&http);
    }
    assert_true(failures >= 30);
    assert_int_equal(unwiped, 0);
    server_close(&v);
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_date),
        cmocka_unit_test(test_retry_after),
        cmocka_unit_test(test_request_id),
        cmocka_unit_test(test_another_reply_begins),
        cmocka_unit_test(test_a_header_twice),
        cmocka_unit_test(test_lines_of_any_length),
        cmocka_unit_test_setup_teardown(test_the_hook_is_asked, world_begin,
                                        world_end),
        cmocka_unit_test(test_words_of_a_proxy),
        cmocka_unit_test_setup_teardown(test_ca_files, world_begin, world_end),
        cmocka_unit_test_setup_teardown(test_what_is_no_ca_file, world_begin,
                                        world_end),
        cmocka_unit_test_setup_teardown(test_proxies, world_begin, world_end),
        cmocka_unit_test_setup_teardown(test_proxy_variables, world_begin,
                                        world_end),
        cmocka_unit_test_setup_teardown(test_settings_of_the_hook, world_begin,
                                        world_end),
        cmocka_unit_test_setup_teardown(test_sender_opens_and_closes,
                                        world_begin, world_end),
        cmocka_unit_test(test_body_is_capped_and_wiped),
        cmocka_unit_test(test_body_in_two_parts),
        cmocka_unit_test_setup_teardown(test_pool, world_begin, world_end),
        cmocka_unit_test_setup_teardown(test_reply_over_another_connection,
                                        world_begin, world_end),
        cmocka_unit_test_setup_teardown(test_distrust_between, world_begin,
                                        world_end),
        cmocka_unit_test_setup_teardown(test_pool_distrusts, world_begin,
                                        world_end),
        cmocka_unit_test(test_header_lines),
        cmocka_unit_test(test_ca_folder),
        cmocka_unit_test(test_words_of_an_old_libcurl),
        cmocka_unit_test(test_options_that_must_be_had),
        cmocka_unit_test(test_what_the_tls_library_holds),
        cmocka_unit_test_setup_teardown(test_no_server, world_begin,
                                        world_end),
        cmocka_unit_test(test_which_tls),
        cmocka_unit_test_setup_teardown(test_replies, world_begin, world_end),
        cmocka_unit_test_setup_teardown(test_pauses, world_begin, world_end),
        cmocka_unit_test_setup_teardown(test_bodies_and_connections,
                                        world_begin, world_end),
        cmocka_unit_test_setup_teardown(test_only_clean_and_silent, world_begin,
                                        world_end),
        cmocka_unit_test_setup_teardown(test_request_ids, world_begin,
                                        world_end),
        cmocka_unit_test_setup_teardown(test_an_id_over_two_connections,
                                        world_begin, world_end),
        cmocka_unit_test_setup_teardown(test_libcurl_fails, world_begin,
                                        world_end)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
