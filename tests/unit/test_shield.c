/* Room shield: which keys are kept, for how long, and what ends it; one call to
 * KMS for all threads that want the same key; and rings without a shield. */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <pthread.h>

#if !defined(_WIN32)                      /* whose pages are not denied here  */
#include <sys/mman.h>
#include <sys/wait.h>

#undef MADV_DONTDUMP                      /* as where libc is older than the  */
#undef MADV_WIPEONFORK                    /* kernel, or a header hides them   */

enum { NO_DUMP = 16, NO_FORK = 18 };

static int refused_advice = -1, lock_refused;     /* -1: none is              */
static int no_pages;


static void *
may_map(void *at, size_t len, int how, int kind, int fd, off_t from)
{
    return no_pages ? MAP_FAILED : mmap(at, len, how, kind, fd, from);
}


static int
may_lock(const void *at, size_t len)
{
    if (!lock_refused)
        return mlock(at, len);
    errno = EPERM;
    return -1;
}


static int
may_advise(void *at, size_t len, int advice)
{
    if (advice != refused_advice)
        return madvise(at, len, advice);
    errno = EINVAL;
    return -1;
}

#define mmap    may_map
#define mlock   may_lock
#define madvise may_advise

#endif

#include "lock_order.h"
#include "keys.h"

#define SHIELD(w) (&(w)->ring->vault.shield)

enum { TTL = 60 };


static int
begin_cached(void **state)
{
    struct world *w;

    if (begin(state) != 0)
        return 1;
    w = *state;
    w->cfg.cache_seconds = TTL;
    world_open(w);
    return 0;
}

#define CACHED(name) cmocka_unit_test_setup_teardown(name, begin_cached, end)


/* The key must be right, after so many requests to KMS. */
static void
fetched_at(int line, struct world *w, const char *key_id, int requests)
{
    int before = w->f.requests;

    expect_text(w, key_id, key_id);
    if (w->f.requests - before != requests)
        fail_msg("line %d: %s: %s took %d requests, not %d", line, world_case,
                 key_id, w->f.requests - before, requests);
}

#define ASKED(w, id) fetched_at(__LINE__, w, id, 1)
#define KEPT(w, id)  fetched_at(__LINE__, w, id, 0)


static void
store_keys(struct world *w, int n)
{
    char id[16];
    int i;

    for (i = 0; i < n; i++) {
        (void)snprintf(id, sizeof id, "key-%06d", i);
        OK(w, store(w, id, id));
    }
}


static int
all_zeros(const void *at, size_t len)
{
    const uint8_t *bytes = at;

    while (len > 0 && bytes[len - 1] == 0)
        len--;
    return len == 0;
}


/* Nothing is kept, and there is no page key. */
static void
expect_empty(struct world *w)
{
    kaws__shield *s = SHIELD(w);

    assert_null(s->oldest);
    assert_null(s->youngest);
    assert_int_equal(s->keys, 0);
    assert_int_equal(s->bytes, 0);
    assert_true(s->page == NULL || all_zeros(s->page, sizeof *s->page));
}


static void
pass(struct world *w, int64_t ms)
{
    pthread_mutex_lock(&w->f.lock);
    w->f.now_ms += ms;
    pthread_mutex_unlock(&w->f.lock);
}


static uint64_t
hits(struct world *w)
{
    kaws_stats stats;

    kaws_get_stats(w->ring, &stats);
    return stats.cache_hits;
}


/* ---- on and off --------------------------------------------------------- */

static void
test_off(void **state)
{
    struct world *w = *state;

    OK(w, store(w, "k", "k"));
    ASKED(w, "k");
    ASKED(w, "k");
    assert_null(SHIELD(w)->page);
    kaws_use_cache(w->ring, -5);
    ASKED(w, "k");
    ASKED(w, "k");
    expect_empty(w);
    assert_int_equal(hits(w), 0);
}


static void
test_on(void **state)
{
    struct world *w = *state;
    uint8_t page_key[32];
    int i;

    store_keys(w, 3);
    for (i = 0; i < 3; i++)
        fetched_at(__LINE__, w, i == 1 ? "key-000001" : "key-000000", i < 2);
    KEPT(w, "key-000001");
    assert_int_equal(hits(w), 2);
    expect_no_key(w, "nobody", KAWS_NOT_FOUND);
    memcpy(page_key, SHIELD(w)->page->key, 32);

    kaws_use_cache(w->ring, TTL);         /* the same: nothing changes        */
    KEPT(w, "key-000000");
    assert_memory_equal(page_key, SHIELD(w)->page->key, 32);
    kaws_use_cache(w->ring, TTL + 1);     /* each key dies as it was meant to */
    expect_empty(w);
    ASKED(w, "key-000000");
    assert_memory_not_equal(page_key, SHIELD(w)->page->key, 32);
    kaws_use_cache(w->ring, 0);
    expect_empty(w);
    assert_null(SHIELD(w)->page);
    ASKED(w, "key-000000");
    ASKED(w, "key-000000");
    kaws_use_cache(w->ring, 1 << 30);     /* cut to a day                     */
    ASKED(w, "key-000000");
    pass(w, 86400 * 1000 - 1);
    KEPT(w, "key-000000");
    pass(w, 1);
    ASKED(w, "key-000000");
    kaws_use_cache(NULL, 5);
}


/* Neither owner, nor type, nor length is mixed up. */
static void
test_names(void **state)
{
    static const struct { const char *id, *user, *type, *text; } keys[] = {
        { "a", "", "AES", "0123456789abcdef" }, { "a", "a", "SECRET", "x" },
        { "aa", "", "SECRET", "xx" }, { "a", "b", "RSA", "y" }
    };
    struct world *w = *state;
    kaws_key key;
    size_t i;

    for (i = 0; i < COUNT(keys); i++)
        OK(w, kaws_store(w->ring, name_of(keys[i].id, keys[i].user),
                         keys[i].type, kaws__buf_of(keys[i].text), &w->err));
    w->f.requests = 0;
    for (i = 0; i < 3 * COUNT(keys); i++) {
        size_t k = i % COUNT(keys);
        OK(w, kaws_fetch(w->ring, name_of(keys[k].id, keys[k].user), &key,
                         &w->err));
        assert_string_equal(key.type, keys[k].type);
        assert_int_equal(key.len, strlen(keys[k].text));
        assert_memory_equal(key.bytes, keys[k].text, key.len);
        kaws_key_free(w->ring, &key);
    }
    assert_int_equal(w->f.requests, COUNT(keys));
}


static int
holds(const void *all, size_t len, const void *piece, size_t piece_len)
{
    const uint8_t *at = all;

    for (; len >= piece_len; at++, len--)
        if (memcmp(at, piece, piece_len) == 0)
            return 1;
    return 0;
}


/* No block that the ring has holds a piece of a key that is kept, and only the
 * page holds the page key. No two keys have one nonce. */
static void
test_nothing_plain(void **state)
{
    static const char text[] = "a key of which no piece may be found";
    struct world *w = *state;
    kaws__kept *k;
    uint8_t last[12] = { 0 };
    int i;

    for (i = 0; i < 5; i++) {
        char id[16];
        (void)snprintf(id, sizeof id, "k%d", i);
        OK(w, store(w, id, text));
        expect_text(w, id, text);
        expect_text(w, id, text);
    }
    for (k = SHIELD(w)->oldest; k != NULL; k = k->younger) {
        assert_int_equal(k->len, sizeof text - 1);
        assert_memory_not_equal(k->nonce, last, sizeof last);
        memcpy(last, k->nonce, sizeof last);
        for (i = 0; i + 4 <= (int)k->len; i++)
            assert_false(holds(k->bytes, k->len + KAWS__TAG, text + i, 4));
        assert_false(holds(k, sizeof *k + k->len, SHIELD(w)->page->key, 8));
    }
    assert_false(holds(w->ring, sizeof *w->ring, SHIELD(w)->page->key, 8));
    assert_int_equal(SHIELD(w)->nonce, 5);
}


/* ---- time --------------------------------------------------------------- */

static void
test_ttl(void **state)
{
    struct world *w = *state;
    uint8_t page_key[32];

    store_keys(w, 2);
    ASKED(w, "key-000000");
    pass(w, TTL * 1000 - 1);
    KEPT(w, "key-000000");                /* use makes it no younger          */
    ASKED(w, "key-000001");
    memcpy(page_key, SHIELD(w)->page->key, 32);
    pass(w, 1);
    KEPT(w, "key-000001");                /* any use wipes the old one        */
    assert_int_equal(SHIELD(w)->keys, 1);
    assert_ptr_equal(SHIELD(w)->oldest, SHIELD(w)->youngest);
    assert_memory_equal(page_key, SHIELD(w)->page->key, 32);
    ASKED(w, "key-000000");

    pass(w, TTL * 1000);                  /* all are too old: nor page key    */
    expect_no_key(w, "nobody", KAWS_NOT_FOUND);
    w->f.requests = 0;
    SCRIPT(.no_reply = "no route", .times = 9);
    expect_no_key(w, "key-000000", KAWS_NETWORK);
    SCRIPTS_END();
    LATER(w);
    expect_empty(w);
    ASKED(w, "key-000000");
    assert_memory_not_equal(page_key, SHIELD(w)->page->key, 32);

    fake_set_clock(&w->f, 365 * 86400000LL);      /* that is the other clock  */
    fake_set_clock(&w->f, -365 * 86400000LL);
    KEPT(w, "key-000000");
}


/* The clock that nobody sets does so all the same; the other one does not. */
static void
jump(struct world *w, int64_t ms)
{
    pthread_mutex_lock(&w->f.lock);
    w->f.set_ms -= ms;
    pthread_mutex_unlock(&w->f.lock);
}


static void
jump_back(struct world *w)
{
    jump(w, -1);
}


/* A clock that jumps ends a key too early, never too late. */
static void
test_clock_jumps(void **state)
{
    static const int64_t jumps[] = { -1, -86400000, 86400000, -50000000000,
                                     INT64_MAX / 2 };
    struct world *w = *state;
    size_t i;

    store_keys(w, 2);
    for (i = 0; i < COUNT(jumps); i++) {
        ASKED(w, "key-000000");
        jump(w, jumps[i]);
        ASKED(w, "key-000000");
        KEPT(w, "key-000000");
        kaws_use_cache(w->ring, 0);
        kaws_use_cache(w->ring, TTL);
        jump(w, -jumps[i]);
    }
    ASKED(w, "key-000000");               /* back, but not behind its birth   */
    pass(w, 50000);
    KEPT(w, "key-000000");
    jump(w, -20000);
    ASKED(w, "key-000000");
    while_asked(w, "Decrypt", 0, jump_back);      /* while KMS is asked       */
    ASKED(w, "key-000001");
    assert_int_equal(SHIELD(w)->keys, 1);
    KEPT(w, "key-000001");
}


/* ---- limits ------------------------------------------------------------- */

static void
test_too_many(void **state)
{
    enum { MANY = KAWS__SHIELD_KEYS + 40 };
    struct world *w = *state;
    char id[16];
    int i, pass_no;

    store_keys(w, MANY);
    for (i = 0; i < MANY; i++) {
        (void)snprintf(id, sizeof id, "key-%06d", i);
        ASKED(w, id);
    }
    assert_int_equal(SHIELD(w)->keys, KAWS__SHIELD_KEYS);
    for (pass_no = 0; pass_no < 2; pass_no++)
        for (i = MANY - 1; i >= 40; i--) {        /* the oldest 40 are gone   */
            (void)snprintf(id, sizeof id, "key-%06d", i);
            KEPT(w, id);
        }
    ASKED(w, "key-000000");
    KEPT(w, "key-000041");
    ASKED(w, "key-000040");
}


static void
test_too_much(void **state)
{
    enum { LARGE = KAWS__SHIELD_BYTES / KAWS_PLAIN_MAX, MANY = LARGE + 5 };
    static uint8_t bytes[KAWS_PLAIN_MAX];
    struct world *w = *state;
    char id[16];
    kaws_key key;
    int i;

    memset(bytes, 'x', sizeof bytes);
    for (i = 0; i < 2 * MANY; i++) {
        (void)snprintf(id, sizeof id, "large-%d", i % MANY);
        bytes[17] = (uint8_t)(i % MANY);
        if (i < MANY)
            OK(w, kaws_store(w->ring, name_of(id, NULL), "SECRET",
                             (kaws_bytes){ bytes, sizeof bytes }, &w->err));
        w->f.requests = 0;
        OK(w, kaws_fetch(w->ring, name_of(id, NULL), &key, &w->err));
        assert_int_equal(w->f.requests, 1);       /* in turn: gone just before*/
        assert_memory_equal(key.bytes, bytes, sizeof bytes);
        kaws_key_free(w->ring, &key);
        assert_in_range(SHIELD(w)->bytes, 1, KAWS__SHIELD_BYTES);
    }
    assert_int_equal(SHIELD(w)->keys, LARGE);
}


/* ---- what empties it ---------------------------------------------------- */

static kaws_status
ev_remove(struct world *w)
{
    return drop(w, "key-000001");
}


static kaws_status
ev_rewrap(struct world *w)
{
    return rewrap(w);
}


static kaws_status
ev_use_key(struct world *w)
{
    return use_key(w, FAKE_EAST2);
}


static kaws_status
ev_use_tried(struct world *w)
{
    if (try_to_use(w, "alias/app", "us-west-2") != KAWS_OK ||
        SHIELD(w)->keys != 1)
        return KAWS_REPLY;
    return use(w, "alias/app", "us-west-2");
}


static kaws_status
ev_use_region(struct world *w)
{
    return use_region(w, "us-west-2");
}


static kaws_status
ev_off(struct world *w)
{
    kaws_use_cache(w->ring, 0);
    kaws_use_cache(w->ring, TTL);
    return KAWS_OK;
}


static kaws_status
ev_add(struct world *w)
{
    return generate(w, "new");
}


static kaws_status
ev_reload(struct world *w)
{
    return reload_creds(w);
}


static kaws_status
ev_rotate(struct world *w)
{
    return rotate(w);
}


static kaws_status
ev_check(struct world *w)
{
    return check(w);
}


static kaws_status
ev_fetch_other(struct world *w)
{
    kaws_key key;
    kaws_status status = kaws_fetch(w->ring, name_of("key-000002", NULL), &key,
                                    &w->err);

    kaws_key_free(w->ring, &key);
    return status;
}


static kaws_status
ev_remove_nobody(struct world *w)
{
    return drop(w, "nobody");
}


static kaws_status
ev_seal(struct world *w)
{
    return store(w, "sealed", "x");
}


static const struct {
    const char *name;
    kaws_status (*what)(struct world *);
    int empties;
    fake_script script;
    kaws_status status;
} events[] = {
    { "remove", ev_remove, 1, { .action = NULL }, KAWS_OK },
    { "rewrap", ev_rewrap, 1, { .action = NULL }, KAWS_OK },
    { "KMS key", ev_use_key, 1, { .action = NULL }, KAWS_OK },
    { "tried", ev_use_tried, 1, { .action = NULL }, KAWS_OK },
    { "region", ev_use_region, 1, { .action = NULL }, KAWS_OK },
    { "off", ev_off, 1, { .action = NULL }, KAWS_OK },
    { "add", ev_add, 0, { .action = NULL }, KAWS_OK },
    { "reload", ev_reload, 0, { .action = NULL }, KAWS_OK },
    { "rotate", ev_rotate, 0, { .action = NULL }, KAWS_OK },
    { "check", ev_check, 0, { .action = NULL }, KAWS_OK },
    { "fetch", ev_fetch_other, 0, { .action = NULL }, KAWS_OK },
    { "nobody", ev_remove_nobody, 0, { .action = NULL }, KAWS_NOT_FOUND },
#define SAYS(what, empties, type, status)                                     \
    { type, what, empties, { .error = type, .times = 99 }, KAWS_##status }
    SAYS(ev_fetch_other, 1, "AccessDeniedException", DENIED),
    SAYS(ev_fetch_other, 1, "NotAuthorizedException", DENIED),
    SAYS(ev_fetch_other, 1, "DisabledException", KMS_KEY),
    SAYS(ev_fetch_other, 1, "KMSInvalidStateException", KMS_KEY),
    SAYS(ev_fetch_other, 1, "NotFoundException", KMS_KEY),
    SAYS(ev_check, 1, "DisabledException", KMS_KEY),
    SAYS(ev_seal, 1, "KMSInvalidStateException", KMS_KEY),
    SAYS(ev_rewrap, 1, "AccessDeniedException", DENIED),
    SAYS(ev_fetch_other, 0, "ExpiredTokenException", CREDENTIALS),
    SAYS(ev_fetch_other, 0, "UnrecognizedClientException", CREDENTIALS),
    SAYS(ev_fetch_other, 0, "InvalidSignatureException", CREDENTIALS),
    SAYS(ev_fetch_other, 0, "ThrottlingException", THROTTLED),
    SAYS(ev_fetch_other, 0, "KMSInternalException", SERVICE),
    SAYS(ev_fetch_other, 0, "KeyUnavailableException", SERVICE),
    SAYS(ev_fetch_other, 0, "InvalidCiphertextException", MISMATCH),
    { "no reply", ev_fetch_other, 0, { .no_reply = "x", .times = 9 },
      KAWS_NETWORK },
    { "a proxy", ev_fetch_other, 0, { .http = 403, .body = "no",
      .times = 9 }, KAWS_DENIED },
    { "nonsense", ev_fetch_other, 0, { .body = "{", .times = 9 },
      KAWS_REPLY }
};


static void
test_emptied(void **state)
{
    struct world *w;
    uint8_t page_key[32];
    size_t i;

    for (i = 0; i < COUNT(events); i++) {
        w = *state;
        world_case = events[i].name;
        if (events[i].what == ev_use_tried || events[i].what == ev_use_region)
            reopen_with(w, "alias/app");
        store_keys(w, 3);
        ASKED(w, "key-000000");
        memcpy(page_key, SHIELD(w)->page->key, 32);
        if (events[i].script.times > 0)
            fake_push(&w->f, events[i].script);
        if (events[i].what(w) != events[i].status)
            fail_msg("%s: %s", world_case, w->err.text);
        SCRIPTS_END();
        kaws__err_clear(&w->err);
        if (events[i].empties) {
            expect_empty(w);
            ASKED(w, "key-000000");
            assert_memory_not_equal(page_key, SHIELD(w)->page->key, 32);
        } else {
            assert_memory_equal(page_key, SHIELD(w)->page->key, 32);
        }
        KEPT(w, "key-000000");
        assert_int_equal(end(state), 0);
        assert_int_equal(begin_cached(state), 0);
    }
    world_case = "";
}


/* A dry run that ends as it should refuses nothing. */
static void
test_proofs_do_not_empty(void **state)
{
    struct world *w = *state;

    OK(w, store(w, "k", "k"));
    ASKED(w, "k");
    OK(w, check(w));
    OK(w, store(w, "other", "x"));
    KEPT(w, "k");
}


static void
exchange_key(struct world *w)
{
    meanwhile.status = drop(w, "k");
    if (meanwhile.status == KAWS_OK)
        meanwhile.status = store(w, "k", "other");
}


static void
empty_it(struct world *w)
{
    meanwhile.status = use_key(w, FAKE_EAST2);
}


static void
turn_off(struct world *w)
{
    kaws_use_cache(w->ring, 0);
}


static void
turn_off_and_on(struct world *w)
{
    kaws_use_cache(w->ring, 0);
    kaws_use_cache(w->ring, TTL);
}


/* What KMS was asked for before is not kept. */
static void
test_emptied_meanwhile(void **state)
{
    struct world *w = *state;

    OK(w, store(w, "k", "k"));
    while_asked(w, "Decrypt", 0, exchange_key);
    expect_text(w, "k", "k");             /* as it was when it was looked up  */
    assert_true(meanwhile.fired);
    assert_int_equal(meanwhile.status, KAWS_OK);
    expect_empty(w);
    expect_text(w, "k", "other");
    OK(w, drop(w, "k"));
    OK(w, store(w, "k", "k"));

    while_asked(w, "Decrypt", 0, empty_it);
    expect_text(w, "k", "k");
    assert_int_equal(meanwhile.status, KAWS_OK);
    expect_empty(w);
    ASKED(w, "k");
    KEPT(w, "k");

    OK(w, use_key(w, FAKE_EAST));
    while_asked(w, "Decrypt", 0, turn_off_and_on);
    expect_text(w, "k", "k");
    expect_empty(w);
    while_asked(w, "Decrypt", 0, turn_off);
    expect_text(w, "k", "k");
    expect_empty(w);
    ASKED(w, "k");
}


/* Another process: what it adds empties nothing, what it replaces does. */
static void
test_refreshed(void **state)
{
    struct world *w = *state;
    kaws *ours = w->ring;

    store_keys(w, 2);
    OK(w, store(w, "k", "k"));
    ASKED(w, "k");
    world_open(w);
    OK(w, store(w, "added", "added"));
    world_close(w);
    w->ring = ours;
    OK(w, kaws_refresh(w->ring, &w->err));
    ASKED(w, "added");
    KEPT(w, "k");
    KEPT(w, "added");

    world_open(w);
    OK(w, drop(w, "k"));
    OK(w, store(w, "k", "other"));
    world_close(w);
    w->ring = ours;
    KEPT(w, "k");                         /* what the ring knows              */
    OK(w, kaws_refresh(w->ring, &w->err));
    expect_empty(w);
    expect_text(w, "k", "other");
    OK(w, kaws_refresh(w->ring, &w->err));
    assert_int_equal(SHIELD(w)->keys, 1);
}


/* A thread that had looked a key up before the file was replaced. */
static void
test_looked_up_before(void **state)
{
    struct world *w = *state;
    kaws__copy *copy = calloc(1, sizeof *copy);
    uint8_t bytes[5];
    kaws_key key = { "", bytes, 1 };

    assert_non_null(copy);
    OK(w, store(w, "k", "k"));
    OK(w, kaws__bind_name(name_of("k", ""), &copy->record, &w->err));
    OK(w, kaws__vault_look(&w->ring->vault, KAWS__TO_FETCH, copy, &w->err));
    assert_int_not_equal(copy->id, 0);
    OK(w, drop(w, "k"));
    OK(w, store(w, "k", "other"));
    expect_text(w, "k", "other");
    kaws__ring_fetch(w->ring, copy, &key, &w->err);
    EXPECT(w, KAWS_OK, NULL, w->err.status);
    assert_memory_equal(key.bytes, "k", 1);
    assert_int_equal(SHIELD(w)->keys, 1);
    w->f.requests = 0;
    expect_text(w, "k", "other");
    assert_int_equal(w->f.requests, 0);
    free(copy);
}


/* ---- what is wrong ------------------------------------------------------ */

/* Any byte of a key that is kept, and of the page key. */
static void
test_altered(void **state)
{
    struct world *w = *state;
    size_t i, len = strlen("key-000000") + KAWS__TAG;
    kaws__shield *s = SHIELD(w);

    store_keys(w, 2);
    for (i = 0; i < len + 32; i++) {
        ASKED(w, "key-000000");
        ASKED(w, "key-000001");
        if (i < len)
            s->oldest->bytes[i] ^= (uint8_t)(1 << i % 8);
        else
            s->page->key[i - len] ^= (uint8_t)(1 << i % 8);
        ASKED(w, "key-000000");
        expect_empty(w);
        assert_int_equal(fake_logged(&w->f, 1, "[KAWS-155]"), i + 1);
        assert_int_equal(hits(w), 0);
        kaws_use_cache(w->ring, 0);
        kaws_use_cache(w->ring, TTL);
    }
    ASKED(w, "key-000000");               /* another key in a key's place     */
    ASKED(w, "key-000001");
    memcpy(s->oldest->bytes, s->youngest->bytes, len);
    memcpy(s->oldest->nonce, s->youngest->nonce, sizeof s->oldest->nonce);
    ASKED(w, "key-000000");
    expect_empty(w);
}


#if !defined(_WIN32)

static void
test_no_page(void **state)
{
    struct world *w = *state;
    int i;

    for (i = 0; i < 3; i++) {
        lock_refused = i == 0;
        refused_advice = i == 1 ? NO_DUMP : i == 2 ? NO_FORK : -1;
        world_open(w);
        OK(w, store(w, "k", "k"));
        ASKED(w, "k");
        ASKED(w, "k");
        kaws_use_cache(w->ring, TTL);     /* as the plugin does all the time  */
        ASKED(w, "k");
        OK(w, drop(w, "k"));
        expect_empty(w);
        assert_null(SHIELD(w)->page);
        assert_int_equal(fake_logged(&w->f, 1, i > 0 ? "Invalid argument" :
                                     "[KAWS-153]"), i > 1 ? 2 : 1);
        lock_refused = 0;
        refused_advice = -1;
        kaws_use_cache(w->ring, TTL + 1); /* it may be had now                */
        OK(w, store(w, "k", "k"));
        ASKED(w, "k");
        KEPT(w, "k");
        OK(w, drop(w, "k"));
        world_close(w);
    }
}


static void
test_no_memory_for_a_page(void **state)
{
    struct world *w = *state;

    OK(w, store(w, "k", "k"));
    ASKED(w, "k");
    no_pages = 1;
    kaws_use_cache(w->ring, TTL + 1);
    no_pages = 0;
    ASKED(w, "k");
    ASKED(w, "k");
    expect_empty(w);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-153]"), 1);
    kaws_use_cache(w->ring, TTL);
    ASKED(w, "k");
    KEPT(w, "k");
}


#endif


static void
test_no_random(void **state)
{
    struct world *w = *state;

    store_keys(w, 2);
    ASKED(w, "key-000000");
    w->f.random_fails = 1;
    ASKED(w, "key-000001");               /* there is a page key already      */
    KEPT(w, "key-000001");
    kaws_use_cache(w->ring, 0);
    kaws_use_cache(w->ring, TTL);
    ASKED(w, "key-000000");
    ASKED(w, "key-000000");
    expect_empty(w);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-154]"), 1);
    w->f.random_fails = 0;
    ASKED(w, "key-000000");               /* it stays off, until it is set    */
    ASKED(w, "key-000000");
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-154]"), 1);
    kaws_use_cache(w->ring, TTL + 1);
    ASKED(w, "key-000000");
    KEPT(w, "key-000000");
}


/* Without memory a key is fetched all the same, as long as KMS can be asked. */
static void
test_no_memory(void **state)
{
    struct world *w = *state;
    size_t live = 0, n;
    int kept = 0, well = 0;
    kaws_key key;
    kaws_status status;

    OK(w, store(w, "k", "k"));
    ASKED(w, "k");
    for (n = 1; n < 12; n++) {
        kaws_use_cache(w->ring, 0);
        kaws_use_cache(w->ring, TTL);
        if (live == 0)
            live = w->f.live;
        assert_int_equal(w->f.live, live);
        w->f.failed = 0;
        w->f.fail_nth = w->f.allocs + n;
        status = kaws_fetch(w->ring, name_of("k", NULL), &key, &w->err);
        w->f.fail_nth = 0;
        assert_true(status == KAWS_OK || w->f.failed);
        EXPECT(w, status == KAWS_OK ? KAWS_OK : KAWS_MEMORY, NULL, status);
        kaws_key_free(w->ring, &key);
        well += status == KAWS_OK && w->f.failed;
        kept += SHIELD(w)->keys > 0;
        expect_text(w, "k", "k");
        assert_null(SHIELD(w)->flights);
    }
    assert_int_equal(well, 2);            /* the flight, and the place        */
    assert_true(kept >= 3);
}


/* ---- a fork ------------------------------------------------------------- */

#if !defined(_WIN32)

/* The child has no key and no page key, and may close the ring; that a thread
 * of its parent's asks KMS meanwhile, and another waits, changes nothing. */
static void
in_a_child(struct world *w)
{
    int code = -1;
    kaws_key key;
    pid_t child = fork();

    if (child == 0) {
        alarm(20);
        code = SHIELD(w)->page == NULL ||
               !all_zeros(SHIELD(w)->page, sizeof *SHIELD(w)->page) ? 1
             : kaws_fetch(w->ring, name_of("k", NULL), &key, NULL) !=
               KAWS_CONFIG ? 2 : 0;
        kaws_use_cache(w->ring, 5);
        kaws_close(w->ring);
        _exit(code);
    }
    assert_int_equal(waitpid(child, &code, 0), child);
    assert_int_equal(code, 0);
}


static void
test_fork(void **state)
{
    struct world *w = *state;

    OK(w, store(w, "k", "k"));
    ASKED(w, "k");
    in_a_child(w);
    KEPT(w, "k");
}

#endif


/* ---- single flight ------------------------------------------------------ */

enum { CROWD = 64 };

typedef struct flyer {            /* a thread that fetches "k"                */
    struct world *w;
    pthread_t   thread;
    int         cancel, done, out_of_memory;
    kaws_status status;
    kaws_error  err;
    char        text[16];
} flyer;

static __thread flyer *me;

static struct {                   /* where each Decrypt waits to be let in    */
    pthread_mutex_t lock;
    pthread_cond_t  moved;
    int came, may;
} gate = { .lock = PTHREAD_MUTEX_INITIALIZER,
           .moved = PTHREAD_COND_INITIALIZER };


static void
at_the_gate(struct fake *f, const char *action)
{
    int number;

    (void)f;
    if (strcmp(action, "Decrypt") != 0)
        return;
    pthread_mutex_lock(&gate.lock);
    number = ++gate.came;
    pthread_cond_broadcast(&gate.moved);
    while (number > gate.may)
        pthread_cond_wait(&gate.moved, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
}


static void
let_in(int n)
{
    pthread_mutex_lock(&gate.lock);
    gate.may += n;
    pthread_cond_broadcast(&gate.moved);
    pthread_mutex_unlock(&gate.lock);
}


static void
wait_for_calls(int n)
{
    pthread_mutex_lock(&gate.lock);
    while (gate.came < n)
        pthread_cond_wait(&gate.moved, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
}


static int
was_cancelled(void *ctx)
{
    (void)ctx;
    return me != NULL && __atomic_load_n(&me->cancel, __ATOMIC_RELAXED);
}


static int
begin_gated(void **state)
{
    struct world *w;

    if (begin(state) != 0)
        return 1;
    w = *state;
    w->cfg.cache_seconds = TTL;
    w->cfg.timeout_ms = 2000;
    w->cfg.max_attempts = 1;
    w->cfg.hooks.cancelled = was_cancelled;
    world_open(w);
    OK(w, store(w, "k", "k"));
    w->f.on_send = at_the_gate;
    gate.came = gate.may = 0;
    return 0;
}

#define GATED(name) cmocka_unit_test_setup_teardown(name, begin_gated, end)


static void *
fly(void *arg)
{
    flyer *f = me = arg;
    kaws_key key;

    f->status = kaws_fetch(f->w->ring, name_of("k", NULL), &key, &f->err);
    if (f->status == KAWS_OK)
        memcpy(f->text, key.bytes, key.len);
    kaws_key_free(f->w->ring, &key);
    __atomic_store_n(&f->done, 1, __ATOMIC_RELEASE);
    return NULL;
}


static void
start(struct world *w, flyer *f)
{
    memset(f, 0, sizeof *f);
    f->w = w;
    assert_int_equal(pthread_create(&f->thread, NULL, fly, f), 0);
}


static void
landed_at(int line, flyer *f, kaws_status status, const char *words)
{
    pthread_join(f->thread, NULL);
    expect_at(line, &f->err, f->status, status, words);
    if (status == KAWS_OK)
        assert_string_equal(f->text, words != NULL ? words : "k");
}

#define LANDED(f, status, words) landed_at(__LINE__, f, status, words)


/* Waits until so many threads are in the flights that are not over. */
static void
wait_for_crowd(struct world *w, int n)
{
    const kaws__flight *f;
    int all;

    do {
        kaws__sys_sleep_ms(NULL, 1);
        kaws__thread_lock(&SHIELD(w)->lock);
        for (all = 0, f = SHIELD(w)->flights; f != NULL; f = f->next)
            all += f->over ? 0 : f->threads;
        kaws__thread_unlock(&SHIELD(w)->lock);
    } while (all != n);
}


/* A leader and so many others in one flight. */
static void
take_off(struct world *w, flyer *all, int n)
{
    int i;

    start(w, &all[0]);
    wait_for_calls(gate.may + 1);
    for (i = 1; i < n; i++)
        start(w, &all[i]);
    wait_for_crowd(w, n);
}


static void
test_one_call(void **state)
{
    struct world *w = *state;
    flyer all[CROWD];
    int i;

    take_off(w, all, CROWD);
    let_in(1);
    for (i = 0; i < CROWD; i++)
        LANDED(&all[i], KAWS_OK, NULL);
    assert_int_equal(gate.came, 1);
    assert_int_equal(hits(w), CROWD - 1);
    assert_null(SHIELD(w)->flights);
}


/* Who waits sleeps, if nobody can cancel it, and is woken when the key comes.
 */
static void
test_woken(void **state)
{
    struct world *w = *state;
    int64_t began;
    flyer all[8];
    int i;

    world_close(w);
    w->cfg.hooks.cancelled = NULL;
    w->cfg.timeout_ms = 60000;
    world_open(w);
    take_off(w, all, 8);
    began = kaws__sys_ticks_us();
    let_in(1);
    for (i = 0; i < 8; i++)
        LANDED(&all[i], KAWS_OK, NULL);
    assert_in_range(kaws__sys_ticks_us() - began, 0, 20000000);
}


/* Each would have made the same call, and got the same answer. */
static void
test_failure_is_for_all(void **state)
{
    static const struct { fake_script says; kaws_status status; } rows[] = {
        { { .error = "DisabledException" }, KAWS_KMS_KEY },
        { { .error = "ThrottlingException" }, KAWS_THROTTLED },
        { { .no_reply = "no route" }, KAWS_NETWORK },
        { { .error = "InvalidCiphertextException" }, KAWS_MISMATCH }
    };
    struct world *w = *state;
    flyer all[8];
    size_t i, k;

    for (i = 0; i < COUNT(rows); i++) {
        LATER(w);
        fake_push(&w->f, rows[i].says);
        take_off(w, all, 8);
        let_in(1);
        for (k = 0; k < 8; k++)
            LANDED(&all[k], rows[i].status, NULL);
        assert_int_equal(gate.came, i + 1);
        assert_null(SHIELD(w)->flights);
    }
}


/* A leader that is cancelled: one who waits leads in its place; and if that one
 * is cancelled as well, another. */
static void
test_leader_cancelled(void **state)
{
    struct world *w = *state;
    flyer all[4];
    int i;

    SCRIPT(.no_reply = "given up", .times = 3);
    for (i = 0; i < 4; i++) {
        start(w, &all[i]);                /* to wait for the one before it    */
        wait_for_crowd(w, i == 0 ? 1 : 2);
        if (i == 0)
            continue;
        wait_for_calls(i);
        __atomic_store_n(&all[i - 1].cancel, 1, __ATOMIC_RELAXED);
        let_in(1);
        LANDED(&all[i - 1], KAWS_CANCELLED, NULL);
        wait_for_calls(i + 1);
    }
    let_in(1);
    LANDED(&all[3], KAWS_OK, NULL);
    assert_int_equal(gate.came, 4);
    assert_null(SHIELD(w)->flights);
    assert_int_equal(SHIELD(w)->keys, 1);
}


/* A leader whose own time is up: who came later has time left, and leads. */
static void
test_leader_out_of_time(void **state)
{
    struct world *w = *state;
    flyer all[2];

    kaws_use_timeouts(w->ring, 0, 400);   /* which proves nothing of KMS      */
    start(w, &all[0]);
    wait_for_calls(1);
    pass(w, 300);
    start(w, &all[1]);
    wait_for_crowd(w, 2);
    SCRIPT(.no_reply = "timed out");
    pass(w, 100);
    let_in(1);
    LANDED(&all[0], KAWS_NETWORK, "timed out");
    wait_for_calls(2);
    let_in(1);
    LANDED(&all[1], KAWS_OK, NULL);
    assert_int_equal(gate.came, 2);
}


/* A leader that AWS throttles until its time is almost up: the same. */
static void
test_leader_throttled(void **state)
{
    struct world *w = *state;
    flyer all[2];

    w->ring->kms.max_attempts = 0;        /* time alone bounds what is tried  */
    start(w, &all[0]);
    wait_for_calls(1);
    pass(w, 1900);
    start(w, &all[1]);
    wait_for_crowd(w, 2);
    SCRIPT(.error = "ThrottlingException");
    let_in(1);
    LANDED(&all[0], KAWS_THROTTLED, "ThrottlingException");
    wait_for_calls(2);
    let_in(1);
    LANDED(&all[1], KAWS_OK, NULL);
    assert_int_equal(gate.came, 2);
}


/* The same, after a time that shows that KMS does not answer: who leads next is
 * refused at once, and so are all who wait. */
static void
test_leader_finds_an_outage(void **state)
{
    struct world *w = *state;
    flyer all[8];
    int i;

    start(w, &all[0]);
    wait_for_calls(1);
    pass(w, 1500);
    for (i = 1; i < 8; i++)
        start(w, &all[i]);
    wait_for_crowd(w, 8);
    SCRIPT(.no_reply = "timed out");
    pass(w, 500);
    let_in(1);
    LANDED(&all[0], KAWS_NETWORK, "timed out");
    for (i = 1; i < 8; i++)
        LANDED(&all[i], KAWS_NETWORK, "unreachable");
    assert_int_equal(gate.came, 1);
    assert_null(SHIELD(w)->flights);
}


static void *
scarce_memory(void *ctx, void *ptr, size_t old_len, size_t new_len)
{
    if (ptr == NULL && new_len == KAWS__CALLS_REPLY_MAX && me != NULL &&
        me->out_of_memory) {
        wait_for_crowd(me->w, 2);
        return NULL;
    }
    return fake_memory(ctx, ptr, old_len, new_len);
}


/* A leader without memory to ask KMS: who waits has some, and leads. */
static void
test_leader_out_of_memory(void **state)
{
    struct world *w = *state;
    flyer all[2];

    world_close(w);
    w->cfg.hooks.memory = scarce_memory;
    world_open(w);
    all[0] = (flyer){ .w = w, .out_of_memory = 1 };
    assert_int_equal(pthread_create(&all[0].thread, NULL, fly, &all[0]), 0);
    wait_for_crowd(w, 1);
    start(w, &all[1]);
    LANDED(&all[0], KAWS_MEMORY, NULL);
    let_in(1);
    LANDED(&all[1], KAWS_OK, NULL);
    assert_int_equal(gate.came, 1);
}


/* One who waits has a budget, and can be cancelled, as if it asked itself. */
static void
test_waiter_gives_up(void **state)
{
    struct world *w = *state;
    flyer all[3];

    take_off(w, all, 2);
    pass(w, 1999);
    start(w, &all[2]);
    wait_for_crowd(w, 3);
    pass(w, 1);
    LANDED(&all[1], KAWS_NETWORK, "another thread");
    __atomic_store_n(&all[2].cancel, 1, __ATOMIC_RELAXED);
    LANDED(&all[2], KAWS_CANCELLED, "another thread");
    assert_int_equal(gate.came, 1);
    let_in(1);
    LANDED(&all[0], KAWS_OK, NULL);       /* late, and good all the same      */
    assert_int_equal(SHIELD(w)->keys, 1);
}


static int patience;


static int
be_patient(void *ctx, const kaws_error *err)
{
    (void)ctx;
    assert_int_equal(err->status, KAWS_NETWORK);
    return patience;
}


/* A program that cannot do without its key waits for longer. */
static void
test_waiter_with_patience(void **state)
{
    struct world *w = *state;
    flyer all[2];

    world_close(w);
    w->cfg.hooks.patience_ms = be_patient;
    world_open(w);
    patience = 1;
    take_off(w, all, 2);
    pass(w, 2500);
    kaws__sys_sleep_ms(NULL, 300);
    assert_false(__atomic_load_n(&all[1].done, __ATOMIC_ACQUIRE));
    let_in(1);
    LANDED(&all[0], KAWS_OK, NULL);
    LANDED(&all[1], KAWS_OK, NULL);
    assert_int_equal(gate.came, 1);
}


/* What began before the key was replaced, or before the shield was emptied, is
 * not for those who come after that. */
static void
test_emptied_in_flight(void **state)
{
    struct world *w = *state;
    flyer old[2], new[2];
    int i;

    for (i = 0; i < 2; i++) {
        gate.came = gate.may = 0;
        take_off(w, old, 2);
        if (i == 0) {
            w->f.on_send = NULL;          /* storing takes a Decrypt          */
            OK(w, drop(w, "k"));
            OK(w, store(w, "k", "new"));
        } else {
            w->f.on_send = NULL;
            OK(w, use_key(w, FAKE_EAST2));
        }
        w->f.on_send = at_the_gate;
        start(w, &new[0]);
        wait_for_calls(2);                /* a call of its own                */
        start(w, &new[1]);
        wait_for_crowd(w, 4);
        let_in(2);
        if (i == 0)                       /* the old one that has waited      */
            wait_for_calls(3);
        let_in(1);
        LANDED(&new[0], KAWS_OK, "new");
        LANDED(&new[1], KAWS_OK, "new");
        LANDED(&old[0], KAWS_OK, i == 0 ? "k" : "new");
        LANDED(&old[1], KAWS_OK, i == 0 ? "k" : "new");
        assert_int_equal(gate.came, i == 0 ? 3 : 2);
        assert_null(SHIELD(w)->flights);
        kaws_use_cache(w->ring, 0);
        kaws_use_cache(w->ring, TTL);
    }
}


/* Who fetches with new credentials is not told how the old ones fared. */
static void
test_new_credentials_in_flight(void **state)
{
    struct world *w = *state;
    flyer old[2], new;

    fake_push(&w->f, (fake_script){ .error = "IncompleteSignature" });
    take_off(w, old, 2);
    OK(w, reload_creds(w));
    start(w, &new);
    wait_for_calls(2);                    /* a call of its own                */
    let_in(1);
    LANDED(&old[0], KAWS_CREDENTIALS, NULL);
    LANDED(&old[1], KAWS_CREDENTIALS, NULL);
    let_in(1);
    LANDED(&new, KAWS_OK, NULL);
    expect_text(w, "k", "k");
    assert_int_equal(gate.came, 2);       /* the new one is kept              */
    OK(w, reload_creds(w));
    expect_text(w, "k", "k");             /* by them, too                     */
    assert_int_equal(gate.came, 2);
}


/* If the key cannot be kept, nobody gets it from the leader. */
static void
test_no_random_in_flight(void **state)
{
    struct world *w = *state;
    flyer all[4];
    int i;

    w->f.random_fails = 1;
    take_off(w, all, 4);
    let_in(4);
    for (i = 0; i < 4; i++)
        LANDED(&all[i], KAWS_OK, NULL);
    assert_int_equal(gate.came, 4);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-154]"), 1);
}


static void
test_off_in_flight(void **state)
{
    struct world *w = *state;
    flyer all[4];
    int i;

    take_off(w, all, 4);
    kaws_use_cache(w->ring, 0);
    let_in(4);
    for (i = 0; i < 4; i++)
        LANDED(&all[i], KAWS_OK, NULL);
    assert_null(SHIELD(w)->flights);
    expect_empty(w);
}


/* With the cache off each thread asks for itself, as always. */
static void
test_off_has_no_flights(void **state)
{
    struct world *w = *state;
    flyer all[4];
    int i;

    kaws_use_cache(w->ring, 0);
    for (i = 0; i < 4; i++)
        start(w, &all[i]);
    wait_for_calls(4);
    let_in(4);
    for (i = 0; i < 4; i++)
        LANDED(&all[i], KAWS_OK, NULL);
}


#if !defined(_WIN32)

static void
test_fork_in_flight(void **state)
{
    struct world *w = *state;
    flyer all[3];
    int i;

    take_off(w, all, 3);
    in_a_child(w);
    let_in(1);
    for (i = 0; i < 3; i++)
        LANDED(&all[i], KAWS_OK, NULL);
}

#endif


int
main(void)
{
#if !defined(_WIN32)
    (void)alarm(300);                     /* for threads that nobody wakes    */
#endif
    const struct CMUnitTest tests[] = {
        OPEN(test_off), CACHED(test_on), CACHED(test_names),
        CACHED(test_nothing_plain), CACHED(test_ttl), CACHED(test_clock_jumps),
        CACHED(test_too_many), CACHED(test_too_much), CACHED(test_emptied),
        CACHED(test_proofs_do_not_empty), CACHED(test_emptied_meanwhile),
        CACHED(test_refreshed), CACHED(test_looked_up_before),
        CACHED(test_altered),
#if !defined(_WIN32)
        SHUT(test_no_page), CACHED(test_no_memory_for_a_page),
        CACHED(test_fork), GATED(test_fork_in_flight),
#endif
        CACHED(test_no_random), CACHED(test_no_memory),
        GATED(test_one_call), GATED(test_woken),
        GATED(test_failure_is_for_all),
        GATED(test_leader_cancelled), GATED(test_leader_out_of_time),
        GATED(test_leader_throttled), GATED(test_leader_finds_an_outage),
        GATED(test_leader_out_of_memory),
        GATED(test_waiter_gives_up), GATED(test_waiter_with_patience),
        GATED(test_emptied_in_flight), GATED(test_no_random_in_flight),
        GATED(test_new_credentials_in_flight),
        GATED(test_off_in_flight), GATED(test_off_has_no_flights)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
