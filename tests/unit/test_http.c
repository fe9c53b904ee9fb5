/* Room http: the hook, request ids, and what is wiped. */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "unit.h"
#include "world.h"


typedef struct hooked {
    const kaws_request *q;
    int calls, answer, http, spoil, clean;
    const char *id;               /* the request id, or NULL                  */
} hooked;

static uint8_t last[4];           /* the last attempt's body               */
static uint8_t theirs[99];        /* the hook's own                        */
static kaws_header wanted[2] = { { .name = "ETag" }, { .name = "x" } };


static int
hook(void *ctx, const kaws_request *q, kaws_reply *r)
{
    hooked *h = ctx;

    h->calls++;
    h->q = q;
    h->clean = r->body == last && r->body_max == sizeof last &&
               last[0] == 0 && last[3] == 0 && r->http == 0 &&
               r->body_len == 0 && r->date == 0 && r->retry_after_ms == -1 &&
               r->request_id[0] == '\0' && r->text[0] == '\0' &&
               r->headers == wanted && r->header_count == 2 &&
               wanted[0].found == 0 && wanted[0].value[0] == '\0';
    kaws_reply_line(r, "etag: 1", 7);
    if (h->spoil)                         /* as a hook of before may do       */
        *r = (kaws_reply){ .body = theirs, .body_max = sizeof theirs };
    r->http = h->http;
    if (h->id != NULL)
        (void)snprintf(r->request_id, sizeof r->request_id, "%s", h->id);
    if (h->spoil) {
        memset(r->request_id, 'x', sizeof r->request_id);
        memset(r->text, 'y', sizeof r->text);
    }
    return h->answer;
}


static const struct {
    int answer, http, spoil;
    const char *id, *left;
    kaws_status status;
} hooks_say[] = {
    { 0, 200, 0, NULL, "", KAWS_OK },
    { 0, 400, 0, "a-1", "a-1", KAWS_OK },
    { 0, 0, 0, NULL, "", KAWS_NETWORK },  /* no status came                   */
    { 0, 0, 0, "b", "b", KAWS_NETWORK },
    { 1, 200, 0, NULL, "", KAWS_NETWORK },
    { 0, 200, 0, "b", "b", KAWS_OK },     /* that of a failed one is new      */
    { 0, 200, 0, "a\n-1", "a-1", KAWS_REPLY },
    { 0, 200, 0, "1a2B-\x1b[31m3c4d\n: 'e_f'\xff", "1a2B-31m3c4def",
      KAWS_OK },
    { 0, 200, 1, NULL, NULL, KAWS_OK }
};


/* A proxy that is set is refused beside a hook, which would not use it. */
static void
test_a_hook_gets_no_proxy(void **state)
{
    const kaws_config cfg = { .proxy = "https://u:Pw@p" };
    struct world *w = *state;
    kaws__http http;

    EXPECT(w, KAWS_CONFIG, "proxy is set, and so is hooks.send",
           kaws__http_open(&http, &w->f.hooks, &cfg, 0, &w->err));
    assert_null(strstr(w->err.text, "Pw"));
    kaws__http_close(&http);
}


/* With a hook, neither the CA file nor the environment's proxy is checked. What
 * the hook fills in is corrected: it may forget both NULs, and AWS's ids have
 * only letters, digits and '-'. */
static void
test_what_a_hook_returns_is_made_fit(void **state)
{
    struct world *w = *state;
    kaws_hooks hooks = w->f.hooks;
    hooked h;
    kaws_request q = { .url = "https://example.com/" };
    kaws_reply r;
    kaws__http http;
    void *lent;
    size_t i;

    hooks.ctx = &h;
    hooks.memory = kaws__mem_builtin;
    hooks.send = hook;
    assert_int_equal(setenv("https_proxy", "/", 1), 0);
    EXPECT(w, KAWS_OK, NULL, kaws__http_open(
        &http, &hooks, &(kaws_config){ .ca_file = "/none" }, 0, &w->err));
    assert_int_equal(unsetenv("https_proxy"), 0);
    assert_null(http.sender);
    for (i = 0; i < COUNT(hooks_say); i++) {
        h = (hooked){ .answer = hooks_say[i].answer, .http = hooks_say[i].http,
                      .spoil = hooks_say[i].spoil, .id = hooks_say[i].id };
        memset(&r, 0x77, sizeof r);       /* of the last attempt              */
        memset(last, 0x77, sizeof last);
        r.body = last;
        r.body_len = 1;
        r.body_max = sizeof last;
        r.headers = wanted;
        r.header_count = 2;
        lent = &q;
        if (kaws__http_send(&http, &q, &r, &lent) != hooks_say[i].status)
            fail_msg("row %lu", (unsigned long)i);
        assert_true(h.calls == 1 && h.q == &q && h.clean && lent == NULL);
        assert_true(r.headers == wanted && r.header_count == 2);
        assert_true(r.body == last && r.body_max == sizeof last);
        assert_true(wanted[0].found == 1 && wanted[1].found == 0);
        if (hooks_say[i].left != NULL)
            assert_string_equal(r.request_id, hooks_say[i].left);
    }
    assert_int_equal(strlen(r.request_id), sizeof r.request_id - 1);
    assert_int_equal(strlen(r.text), sizeof r.text - 1);
    kaws__http_distrust(&http);           /* there is nothing to distrust     */
    kaws__http_done(&http, NULL, 0);
    kaws__http_close(&http);
}


/* Each host's last 256 request ids are known, however busy the others are. */
static void
test_a_hosts_last_request_ids_are_known(void **state)
{
    static kaws__http http;
    struct world *w = *state;
    char id[64], url[64];
    int i;

    EXPECT(w, KAWS_OK, NULL, kaws__http_open(
        &http, &w->f.hooks, &(kaws_config){ .region = NULL }, 1, &w->err));
    for (i = 0; i < KAWS__HTTP_HOSTS - 1; i++) {
        (void)snprintf(url, sizeof url, "https://quiet-%d/", i);
        assert_true(kaws__http_note_id(&http, url, "id-0"));
    }
    for (i = 0; i < 3000; i++) {
        (void)snprintf(id, sizeof id, "id-%d", i);
        assert_true(kaws__http_note_id(&http, "https://busy/", id));
        assert_false(kaws__http_note_id(&http, "https://busy/", id));
        assert_false(kaws__http_note_id(&http, "https://busy/a/b?c", id));
    }
    for (i = 2999; i >= 3000 - KAWS__HTTP_IDS; i--) {
        (void)snprintf(id, sizeof id, "id-%d", i);
        assert_false(kaws__http_note_id(&http, "https://busy/", id));
    }
    (void)snprintf(id, sizeof id, "id-%d", i);
    assert_true(kaws__http_note_id(&http, "https://busy/", id));
    for (i = 0; i < KAWS__HTTP_HOSTS - 1; i++) {
        (void)snprintf(url, sizeof url, "https://quiet-%d/", i);
        assert_false(kaws__http_note_id(&http, url, "id-0"));
    }
    assert_true(kaws__http_note_id(&http, "https://one-more/", "id-0"));
    assert_false(kaws__http_note_id(&http, "https://one-more/", "id-0"));
    assert_false(kaws__http_note_id(&http, "https://quiet-1/", "id-0"));
    assert_true(kaws__http_note_id(&http, "https://quiet-0/", "id-0"));
    kaws__http_close(&http);
}


/* All that was written of a body is wiped; a hook may fill the whole array. */
static void
test_bodies_are_wiped(void **state)
{
    static const struct { size_t len; int sender; size_t wiped; } rows[] = {
        { 5, 1, 5 }, { 8, 1, 8 }, { 9, 1, 8 }, { 0, 1, 0 },
        { 5, 0, 8 }, { 0, 0, 8 }, { 9, 0, 8 }
    };
    static kaws__http http;
    uint8_t room[9], zeros[9] = { 0 };
    kaws_reply r;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        memset(&r, 0, sizeof r);
        memset(room, 'k', sizeof room);
        r.body = room;
        r.body_max = 8;
        r.body_len = rows[i].len;
        http.sender = rows[i].sender ? &http : NULL;
        kaws__http_forget(&http, &r);
        assert_int_equal(r.body_len, 0);
        assert_memory_equal(room, zeros, rows[i].wiped);
        assert_int_equal(room[rows[i].wiped], 'k');
    }
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_hook_gets_no_proxy, world_begin,
                                        world_end),
        cmocka_unit_test_setup_teardown(test_what_a_hook_returns_is_made_fit,
                                        world_begin, world_end),
        cmocka_unit_test_setup_teardown(test_a_hosts_last_request_ids_are_known,
                                        world_begin, world_end),
        cmocka_unit_test(test_bodies_are_wiped)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
