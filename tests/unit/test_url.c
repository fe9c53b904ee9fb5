/* Room url: which hosts and which proxies are well formed. */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <curl/curl.h>

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "unit.h"
#include "world.h"

#define FORM "in the environment is not of the form"
#define SET_FORM "proxy is not of the form"


static void
unset_variables(void)
{
    static const char *const names[] = {
        "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy",
        "NO_PROXY", "http_proxy", "HTTP_PROXY"
    };
    size_t i;

    for (i = 0; i < COUNT(names); i++)
        assert_int_equal(unsetenv(names[i]), 0);
}


static curl_socket_t
no_socket(void *ctx, curlsocktype purpose, struct curl_sockaddr *where)
{
    (void)ctx;
    (void)purpose;
    (void)where;
    return CURL_SOCKET_BAD;
}


/* Can libcurl read that proxy, and does it want that host? It comes as far as
 * to open a socket then, and gets none. No other name is known, and none is
 * looked up. */
static void
expect_libcurl_takes(const char *proxy, const char *host)
{
    static const int ports[] = { 1, 80, 443, 1080, 3128, 8443, 65535 };
    CURL *e = curl_easy_init();
    struct curl_slist *names = NULL;
    char words[CURL_ERROR_SIZE] = "", name[64];
    size_t i;

    assert_non_null(e);
    for (i = 0; i < COUNT(ports); i++) {
        (void)snprintf(name, sizeof name, "%s:%d:127.0.0.1", host, ports[i]);
        names = curl_slist_append(names, name);
    }
    assert_int_equal(curl_easy_setopt(e, CURLOPT_URL, "https://h/"), 0);
    assert_int_equal(curl_easy_setopt(e, CURLOPT_PROXY, proxy), 0);
    assert_int_equal(curl_easy_setopt(e, CURLOPT_RESOLVE, names), 0);
    assert_int_equal(curl_easy_setopt(e, CURLOPT_OPENSOCKETFUNCTION,
                                      no_socket), 0);
    assert_int_equal(curl_easy_setopt(e, CURLOPT_ERRORBUFFER, words), 0);
    if (curl_easy_perform(e) != CURLE_COULDNT_CONNECT)
        fail_msg("'%s' is no proxy for libcurl: %s", proxy, words);
    curl_easy_cleanup(e);
    curl_slist_free_all(names);
}


static const struct { const char *proxy, *host; } good[] = {
    { "p", "p" }, { "p:1", "p" }, { "p:65535", "p" },
    { "10.0.0.1:3128", "*" }, { "http://p", "p" }, { "http://p/", "p" },
    { "HTTP://P.Example:3128/", "p.example" },
    { "https://p_1.x-y:8443", "p_1.x-y" }, { "HttpS://p", "p" },
    { "socks4://p:1080", "*" }, { "socks4a://p", "p" },
    { "socks5://p", "*" }, { "socks5h://p", "p" }, { "socks://p", "*" },
    { "[::1]:3128", "*" }, { "http://[2001:db8::1]", "*" },
    { "http://[1:2:3:4:5:6:7:8]:80/", "*" }, { "http://user@p:3128", "p" },
    { "http://user:pw@p:3128", "p" }, { "user:pw@p:3128", "p" },
    { "http://user:@p", "p" }, { "http://:pw@p", "p" },
    { "http://u:a%2Fb%40c%25d@p:3128/", "p" },
    { "http://u:p:w@[::1]:1", "*" },
    { "http://u:\xc3\xa4!$&'()*+,;=@p", "p" }, { "http://p:3128/pac", "p" },
    { "http://p//", "p" }, { "http://p?x", "p" }, { "http://p#x", "p" },
    { "[::ffff:10.0.0.1]:3128", "*" },
    { "[1:2:3:4:5:6:1.2.3.255]", "*" }
};
static const char *const bad[] = {
    " ", "http://", "http:///", "://p", "ftp://p", "p://p", "http:p",
    "http:/p", "p:", "p:0", "p:65536", "p:99999999999", "p:x", "p:+1",
    "p:1:2", "http://p:80x", "http://p/@",
    "http://p?x@y", "http://p#@", "http://p/x@y/z", "http://@",
    "http://u:pw@", "http://u:pw@:3128", "http://u:p/w@p:3128",
    "http://u:p?w@p:3128", "http://u:p#w@p:3128", "http://u:p@w@p:3128",
    "http://u:p w@p", "http://p ", " http://p", "http://p\n",
    "http://u:\x7f@p", "http://u:\x01@p", "http://p:31 28", "[::1]:0",
    "http://[::1", "[::1]x", "[]", "[p]", "[1:2]", "[1::2::3]", "[12345::]",
    "[1.2.3.4]", "[::1.2.3.256]", "[::1%lo]", "::1", "p]", "p\\", "p,q",
    "\xc3\xa4:1", "httpss://p", "https:///@"
};


/* A proxy that is set counts alone: whatever the environment says, it is
 * refused, or the answer is whether it speaks TLS. */
static void
expect_set(struct world *w, const char *proxy, int ok, int tls)
{
    int over_tls = 0, i;

    for (i = 0; i < 3; i++) {             /* nothing; a bad proxy; for none   */
        assert_int_equal(setenv("https_proxy", i > 0 ? "https:///" : "", 1), 0);
        assert_int_equal(setenv("no_proxy", i > 1 ? "*" : "", 1), 0);
        over_tls = 0;
        fake_forget_log(&w->f);
        kaws__err_clear(&w->err);
        EXPECT(w, ok ? KAWS_OK : KAWS_CONFIG, ok ? NULL : SET_FORM,
               kaws__url_check_proxy(&w->f.hooks, proxy, &over_tls, &w->err));
        assert_int_equal(fake_logged(&w->f, -1, "proxy"), 0);
        if (ok)
            assert_int_equal(over_tls, tls);
        else
            assert_ptr_equal(strstr(w->err.text, SET_FORM), w->err.text);
        if (!ok && strlen(proxy) > 9)
            assert_null(strstr(w->err.text, proxy));
    }
    assert_int_equal(unsetenv("no_proxy"), 0);
}


/* libcurl can read what we accept, and finds the same host in it. (socks4 and
 * socks5 are asked for the URL's host.) */
static void
test_libcurl_reads_the_same_proxy(void **state)
{
    struct world *w = *state;
    char longest[1025];
    size_t i;
    int tls;

    unset_variables();
    for (i = 0; i < COUNT(good); i++) {
        const int https = (good[i].proxy[0] | 32) == 'h' &&
                          (good[i].proxy[4] | 32) == 's';
        *unit_case() = good[i].proxy;
        expect_set(w, good[i].proxy, 1, https);
        assert_int_equal(setenv("https_proxy", good[i].proxy, 1), 0);
        tls = 0;
        EXPECT(w, KAWS_OK, NULL, kaws__url_check_proxy(&w->f.hooks, NULL, &tls,
                                                       &w->err));
        assert_int_equal(tls, https);
        expect_libcurl_takes(good[i].proxy, good[i].host);
    }
    for (i = 0; i < COUNT(bad); i++) {
        *unit_case() = bad[i];
        expect_set(w, bad[i], 0, 0);
        assert_int_equal(setenv("https_proxy", bad[i], 1), 0);
        EXPECT(w, KAWS_CONFIG, "https_proxy " FORM, kaws__url_check_proxy(
            &w->f.hooks, NULL, &tls, &w->err));
        if (strlen(bad[i]) > 9)           /* it may hold a password           */
            assert_null(strstr(w->err.text, bad[i]));
        assert_non_null(strstr(w->err.text, "%2F %3F %23 %40 %25 %20"));
    }
    expect_set(w, "", 0, 0);              /* set, and so none of ours         */
    memset(longest, 'p', sizeof longest);
    longest[1024] = '\0';
    assert_false(kaws__url_proxy_ok(longest));
    longest[1023] = '\0';
    assert_true(kaws__url_proxy_ok(longest));
    unset_variables();
}


static const struct {
    const char *set;
    const char *counts;               /* NULL: none                       */
    int warned, tls;
} rows[] = {
    { "", NULL, 0, 0 }, { "https_proxy=/", "https_proxy", 0, 0 },
    { "HTTPS_PROXY=/", "HTTPS_PROXY", 0, 0 },
    { "all_proxy=/", "all_proxy", 0, 0 }, { "ALL_PROXY=/", "ALL_PROXY", 0, 0 },
    { "http_proxy=/ HTTP_PROXY=/", NULL, 0, 0 },
    { "https_proxy=p HTTPS_PROXY=/ all_proxy=/", NULL, 0, 0 },
    { "https_proxy= HTTPS_PROXY=/", "HTTPS_PROXY", 0, 0 },
    { "HTTPS_PROXY=p all_proxy=/", NULL, 0, 0 },
    { "all_proxy= ALL_PROXY=/", "ALL_PROXY", 0, 0 },
    { "https_proxy=/ no_proxy=", "https_proxy", 0, 0 },
    { "https_proxy=/ no_proxy=*", NULL, 0, 0 },
    { "https_proxy=/ NO_PROXY=*", NULL, 0, 0 },
    { "https_proxy=/ no_proxy= NO_PROXY=*", NULL, 0, 0 },
    { "https_proxy=/ no_proxy=a.b", NULL, 1, 0 },
    { "https_proxy=/ NO_PROXY=*,x", NULL, 1, 0 },
    { "https_proxy=/ no_proxy=a NO_PROXY=*", NULL, 1, 0 },
    { "https_proxy=p no_proxy=a", NULL, 0, 0 },
    { "https_proxy=https://p no_proxy=*", NULL, 0, 0 },
    { "HTTPS_PROXY=HTTPS://p no_proxy=a", NULL, 0, 1 },
    { "https_proxy=https://u:p/w@p no_proxy=a", NULL, 1, 1 },
    { "https_proxy=https://u:p/w@p", "https_proxy", 0, 1 }
};


/* The variable counts that libcurl uses; "" counts as none. */
static void
test_which_proxy_variable_counts(void **state)
{
    struct world *w = *state;
    char text[64], *at, *value;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        int tls = 0;
        *unit_case() = rows[i].set;
        unset_variables();
        fake_forget_log(&w->f);
        (void)snprintf(text, sizeof text, "%s", rows[i].set);
        for (at = strtok_r(text, " ", &value); at != NULL;
             at = strtok_r(NULL, " ", &value)) {
            at[strcspn(at, "=")] = '\0';
            assert_int_equal(setenv(at, at + strlen(at) + 1, 1), 0);
        }
        EXPECT(w, rows[i].counts != NULL ? KAWS_CONFIG : KAWS_OK,
               rows[i].counts, kaws__url_check_proxy(&w->f.hooks, NULL, &tls,
                                                     &w->err));
        if (rows[i].counts != NULL)
            assert_ptr_equal(strstr(w->err.text, rows[i].counts), w->err.text);
        kaws__err_clear(&w->err);
        assert_int_equal(tls, rows[i].tls);
        assert_int_equal(fake_logged(&w->f, 1, FORM), rows[i].warned);
        assert_int_equal(fake_logged(&w->f, -1, "_proxy"), rows[i].warned);
    }
    unset_variables();
}


/* An origin is scheme, host and port, and nothing after them. */
static void
test_an_origin_is_scheme_host_and_port(void **state)
{
    static const struct { const char *url, *origin; } urls[] = {
        { "https://h/", "https://h" }, { "https://h", "https://h" },
        { "https://h:8443/a:b/c?d#e", "https://h:8443" },
        { "http://[::1]:80/?x", "http://[::1]:80" },
        { "https://h?x=https://i/", "https://h" },
        { "https://h#/", "https://h" }, { "h/x", "h" }, { "", "" }
    };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof urls / sizeof urls[0]; i++) {
        kaws_bytes origin = kaws__url_origin(urls[i].url);
        unit_same("origin", origin.at, origin.len, urls[i].origin,
                  strlen(urls[i].origin));
    }
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_origin_is_scheme_host_and_port),
        cmocka_unit_test_setup_teardown(test_libcurl_reads_the_same_proxy,
                                        world_begin, world_end),
        cmocka_unit_test_setup_teardown(test_which_proxy_variable_counts,
                                        world_begin, world_end)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
