/* Room ring: every public function: arguments, settings, which KMS key seals
 * and whom it trusts, and AWS KMS by itself. */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <pthread.h>

#if !defined(_WIN32)                      /* whose locks cannot be denied     */
#include <sys/mman.h>

static int scarce_left = -1;              /* locks and pages to be had; -1: as
                                           * many as are asked for            */
static int locks;                         /* that there are                   */


static int
none_left(void)
{
    return scarce_left >= 0 && scarce_left-- == 0;
}


static int
scarce_lock(pthread_mutex_t *lock, const pthread_mutexattr_t *how)
{
    if (none_left())
        return EAGAIN;
    locks++;
    return pthread_mutex_init(lock, how);
}


static int
scarce_unlock(pthread_mutex_t *lock)
{
    locks--;
    return pthread_mutex_destroy(lock);
}


static void *
scarce_pages(void *at, size_t len, int how, int kind, int fd, off_t from)
{
    return none_left() ? MAP_FAILED : mmap(at, len, how, kind, fd, from);
}

#define pthread_mutex_init    scarce_lock
#define pthread_mutex_destroy scarce_unlock
#define mmap                  scarce_pages

#endif

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "keys.h"


/* ---- arguments --------------------------------------------------------- */

#define NULLS(call) EXPECT(w, KAWS_ARGUMENT, "bad argument", call)


static void
test_null(void **state)
{
    struct world *w = *state;
    kaws *ring = w->ring, *none = ring;
    kaws_name name = name_of("k", "u");
    kaws_sealed sealed = { { 1 }, 1, "", "" };
    uint8_t room[32];
    size_t len = sizeof room;
    kaws_bytes nothing = { NULL, 10 };

    w->ring = NULL;
    all_refused(w, -1, KAWS_ARGUMENT, "bad argument");
    w->ring = ring;
    NULLS(kaws_open(NULL, &w->cfg, &w->err));
    NULLS(kaws_open(&none, NULL, &w->err));
    assert_null(none);
    NULLS(kaws_fetch(ring, name, NULL, &w->err));
    NULLS(kaws_walk_begin(ring, NULL, &w->err));
    NULLS(kaws_use_kms_key(ring, NULL, &w->err));
    NULLS(kaws_use_region(ring, NULL, &w->err));
    NULLS(kaws_kms_generate_data_key(ring, NULL, 1, NULL, NULL, &w->err));
    NULLS(kaws_kms_encrypt(ring, NULL, some, NULL, &w->err));
    NULLS(kaws_kms_encrypt(ring, NULL, nothing, &sealed, &w->err));
    NULLS(kaws_kms_decrypt(ring, NULL, NULL, room, &len, &w->err));
    sealed.blob_len = 1;
    NULLS(kaws_kms_decrypt(ring, NULL, &sealed, NULL, &len, &w->err));
    NULLS(kaws_kms_decrypt(ring, NULL, &sealed, room, NULL, &w->err));
    NULLS(kaws_kms_reencrypt(ring, NULL, NULL, &sealed, &w->err));
    NULLS(kaws_kms_reencrypt(ring, NULL, &sealed, NULL, &w->err));
    assert_int_equal(w->f.requests, 0);
}


/* Those that answer nothing, or little. */
static void
test_null_without_an_answer(void **state)
{
    struct world *w = *state;
    kaws_entry_info info;
    kaws_stats stats;
    kaws_key key;

    kaws_close(NULL);
    kaws_walk_end(NULL);
    kaws_key_free(NULL, &key);
    kaws_key_free(w->ring, NULL);
    kaws_use_timeouts(NULL, 1, 1);
    kaws_get_stats(w->ring, NULL);
    memset(&stats, 0x77, sizeof stats);
    kaws_get_stats(NULL, &stats);
    assert_int_equal(stats.keys, 0);
    assert_int_equal(stats.checksum[31], 0);
    assert_int_equal(kaws_walk_next(NULL, &info), 0);
}


/* Without a place for the error, the answers are the same, good and bad. */
static void
test_no_error_wanted(void **state)
{
    struct world *w = *state;
    kaws_config cfg = w->cfg;
    kaws *none;
    size_t i;

    cfg.region = "nowhere";
    assert_int_equal(kaws_open(&none, &cfg, NULL), KAWS_CONFIG);
    cfg = w->cfg;
    cfg.kms_key_id = "a b";
    assert_int_equal(kaws_open(&none, &cfg, NULL), KAWS_CONFIG);
    assert_int_equal(kaws_open(NULL, NULL, NULL), KAWS_ARGUMENT);
    OK(w, store(w, "k", "text"));
    for (i = 0; i < COUNT(calls); i++) {
        kaws_status status = calls[i].call(w->ring, NULL);
        if (status != calls[i].status)
            fail_msg("%s: %s", calls[i].name, kaws_status_text(status));
    }
    OK(w, store(w, "k", "text"));
    OK(w, drop(w, "new"));
    SCRIPT(.error = "DisabledException", .times = 1000);
    for (i = 0; i < COUNT(calls); i++)
        if ((calls[i].does & ASKS) &&
            calls[i].call(w->ring, NULL) != KAWS_KMS_KEY)
            fail_msg("%s", calls[i].name);
}


/* A KMS that is away costs nothing but the call. */
static void
test_outage(void **state)
{
    struct world *w = *state;

    OK(w, store(w, "k", "text"));
    snap(w);
    SCRIPT(.no_reply = "no route", .times = 1000);
    all_refused(w, ASKS, KAWS_NETWORK, "no route");
    assert_int_equal(keys_of(w), 1);
    expect_same_file(w);
    SCRIPTS_END();
    LATER(w);
    expect_text(w, "k", "text");
    OK(w, store(w, "new", "x"));
}


/* A reply with a key of another length: of another request, perhaps. */
static void
test_fetch_of_another_length(void **state)
{
    static const char other[] = "{\"KeyId\":\"" FAKE_EAST "\",\"Plaintext\":"
                                "\"YW5vdGhlciBrZXkh\"}";
    struct world *w = *state;

    OK(w, store(w, "k", "text"));
    SCRIPT(.action = "Decrypt", .body = other);
    expect_no_key(w, "k", KAWS_MISMATCH);
    assert_non_null(strstr(w->err.text, "the length that its entry says"));
    expect_text(w, "k", "text");
}


/* What has been asked of KMS, and how it went. */
static void
test_stats(void **state)
{
    struct world *w = *state;
    kaws_stats s;

    OK(w, store(w, "k", "text"));
    SCRIPT(.error = "KMSInternalException");
    expect_text(w, "k", "text");
    kaws_get_stats(w->ring, &s);
    assert_int_equal(s.keys, 1);
    assert_int_equal(s.kms_requests, 4);
    assert_int_equal(s.kms_errors, 1);
    assert_int_equal(s.kms_retries, 1);
    assert_int_equal(s.newest, w->f.now_ms / 1000);
    snap(w);
    assert_memory_equal(s.checksum, snapped + snapped_len - 32, 32);
    expect_same_file(w);
}


/* A forked child has its parent's memory, and a different process id. */
static void
test_a_ring_of_another_process(void **state)
{
    struct world *w = *state;
    kaws_stats s, none = { 0 };
    kaws_walk *walk = (kaws_walk *)w;
    int asked;

    OK(w, store(w, "k", "text"));
    asked = fake_calls(&w->f, "Encrypt");
    w->ring->pid++;
    EXPECT(w, KAWS_CONFIG, "is its child", store(w, "k2", "text"));
    EXPECT(w, KAWS_CONFIG, "is its child", store(w, "", ""));
    EXPECT(w, KAWS_CONFIG, "is its child", kaws_walk_begin(w->ring, &walk,
                                                           &w->err));
    assert_null(walk);
    EXPECT(w, KAWS_CONFIG, "is its child", kaws_check(w->ring, &w->err));
    kaws_use_timeouts(w->ring, 7, 7);
    kaws_get_stats(w->ring, &s);
    assert_memory_equal(&s, &none, sizeof s);
    assert_int_equal(w->ring->kms.timeout_ms, 10000);
    assert_int_equal(fake_calls(&w->f, "Encrypt"), asked);
    snap(w);
    world_close(w);
    expect_same_file(w);
    world_open(w);
    expect_text(w, "k", "text");
}


static void
test_bad_types_and_lengths(void **state)
{
    static const char *const types[] = {
        NULL, "", "A B", "ABCDEFGHIJKLMNOP", "A\n", "\xc3\xa4", "\xff", "A%",
        "A'", "AES;"
    };
    static uint8_t big[5000];
    static const size_t lengths[] = { 0, 1025, 4096, SIZE_MAX };
    static const kaws_bytes plains[] = {
        { big, 0 }, { big, 4097 }, { big, SIZE_MAX }, { NULL, 16 }
    };
    struct world *w = *state;
    kaws_name name = name_of("k", "u");
    size_t i;

    for (i = 0; i < COUNT(types); i++) {
        EXPECT(w, KAWS_ARGUMENT, "the key type is not",
               kaws_generate(w->ring, name, types[i], 32, &w->err));
        EXPECT(w, KAWS_ARGUMENT, "the key type is not",
               kaws_store(w->ring, name, types[i], some, &w->err));
    }
    for (i = 0; i < COUNT(lengths); i++) {
        EXPECT(w, KAWS_ARGUMENT, "1 to 1024 bytes",
               kaws_generate(w->ring, name, "AES", lengths[i], &w->err));
        EXPECT(w, KAWS_ARGUMENT, "1 to 4096 bytes",
               kaws_store(w->ring, name, "AES", plains[i], &w->err));
    }
    assert_int_equal(w->f.requests, 0);
    assert_int_equal(keys_of(w), 0);
}


static void
test_bad_blobs(void **state)
{
    static const char *const arns[] = { "x", "alias/app", FAKE_EAST "\n",
        "arn:aws:kms:us-east-1:111122223333:alias/app",
        "arn:aws:kms:us-east-1:1111:key/x" };
    static const size_t lengths[] = { 0, 6145, SIZE_MAX };
    struct world *w = *state;
    kaws_sealed sealed, out, none;
    uint8_t room[32];
    size_t i, len = sizeof room;

    memset(&sealed, 0, sizeof sealed);
    memset(&none, 0, sizeof none);
    for (i = 0; i < COUNT(lengths); i++) {
        sealed.blob_len = lengths[i];
        EXPECT(w, KAWS_ARGUMENT, "1 to 6144 bytes", kms_decrypt(w, NULL,
                                                                &sealed, room,
                                                                &len));
        memset(&out, 0x77, sizeof out);
        EXPECT(w, KAWS_ARGUMENT, "1 to 6144 bytes", kms_reencrypt(w, NULL,
                                                                  &sealed,
                                                                  &out));
        assert_memory_equal(&out, &none, sizeof out);
    }
    sealed.blob_len = 1;
    for (i = 0; i < COUNT(arns); i++) {
        (void)snprintf(sealed.kms_key_arn, sizeof sealed.kms_key_arn, "%s",
                       arns[i]);
        EXPECT(w, KAWS_ARGUMENT, "kms_key_arn", kms_decrypt(w, NULL, &sealed,
                                                            room, &len));
        EXPECT(w, KAWS_ARGUMENT, "kms_key_arn", kms_reencrypt(w, NULL, &sealed,
                                                              &out));
    }
    memset(sealed.kms_key_arn, 'a', sizeof sealed.kms_key_arn);
    EXPECT(w, KAWS_ARGUMENT, "has no NUL", kms_decrypt(w, NULL, &sealed, room,
                                                       &len));
    assert_int_equal(w->f.requests, 0);
}


static void
test_bad_kms_lengths(void **state)
{
    static const size_t keys[] = { 0, 1025, SIZE_MAX };
    static const size_t plains[] = { 0, 4097, SIZE_MAX };
    struct world *w = *state;
    kaws_bytes plain = kaws__buf_of("0123456789abcdef");
    kaws_sealed sealed;
    uint8_t room[1026];
    size_t i, k;

    for (i = 0; i < 3; i++) {             /* the last is no length at all     */
        memset(room, 0x77, sizeof room);
        EXPECT(w, KAWS_ARGUMENT, i < 2 ? "1 to 1024 bytes" : "overlap",
               kms_generate_data_key(w, NULL, keys[i], room, &sealed));
        for (k = 0; k < sizeof room; k++)
            assert_int_equal(room[k], i == 1 && k < 1025 ? 0 : 0x77);
        plain.len = plains[i];
        EXPECT(w, KAWS_ARGUMENT, i < 2 ? "1 to 4096 bytes" : "overlap",
               kms_encrypt(w, NULL, plain, &sealed));
    }
    assert_int_equal(w->f.requests, 0);
}


static void
all_bytes(const void *at, size_t len, int value, int line)
{
    const uint8_t *bytes = at;
    size_t i;

    for (i = 0; i < len; i++)
        if (bytes[i] != value)
            fail_msg("line %d: byte %lu is %d", line, (unsigned long)i,
                     bytes[i]);
}

#define ALL(object, value) all_bytes(&(object), sizeof(object), value, __LINE__)


#define LEAVES_ZEROS(object, call) do {                                       \
        memset(&(object), 0x77, sizeof(object));                              \
        assert_int_not_equal(call, KAWS_OK);                                  \
        ALL(object, 0);                                                       \
    } while (0)


/* Whatever is wrong, *out and the room at `plain` are zeros then. */
static void
test_failures_leave_zeros(void **state)
{
    static const kaws_pair nameless = { "", "x" };
    static const kaws_context bad = { &nameless, 1 };
    struct world *w = *state;
    kaws *ring = w->ring;
    kaws_bytes ten = kaws__buf_of("0123456789"), none = { NULL, 10 };
    kaws_sealed in = { { 0 }, 0, "", "" }, out;
    uint8_t room[40];
    size_t len, i;

    for (i = 0; i < 4; i++) {
        const kaws_context *ctx = i % 2 ? &bad : NULL;
        w->ring = i < 2 ? NULL : ring;
        if (i == 2)
            SCRIPT(.error = "AccessDeniedException", .times = 3);
        len = sizeof room;
        LEAVES_ZEROS(out, kms_generate_data_key(w, ctx, len, room, &out));
        LEAVES_ZEROS(room, kms_generate_data_key(w, ctx, len, room, &out));
        LEAVES_ZEROS(out, kms_encrypt(w, ctx, ten, &out));
        LEAVES_ZEROS(out, kms_reencrypt(w, ctx, &in, &out));
        LEAVES_ZEROS(room, kms_decrypt(w, ctx, &in, room, &len));
        ALL(len, 0);
    }
    LEAVES_ZEROS(out, kms_encrypt(w, NULL, none, &out));
    LEAVES_ZEROS(out, kms_reencrypt(w, NULL, NULL, &out));
    LEAVES_ZEROS(room, kms_generate_data_key(w, NULL, 40, room, NULL));
    memset(&out, 0x77, sizeof out);       /* in its place it is left alone    */
    NULLS(kaws_kms_reencrypt(NULL, NULL, &out, &out, &w->err));
    ALL(out, 0x77);
}


/* What overlaps is refused before anything is looked at, sent or written. */
static void
test_overlaps(void **state)
{
    static union { uint8_t bytes[3 * sizeof(kaws_sealed)]; size_t align; } u;
    struct world *w = *state;
    kaws_sealed *first = (kaws_sealed *)(void *)u.bytes, *second, other;
    uint8_t room[40], *const at = u.bytes, *const end = at + sizeof *first;
    uint8_t *const places[] = { at, at + 100, end - 1 };
    kaws_bytes plain = { NULL, 10 };
    size_t i, len = sizeof room;

    second = first + 1;
    memset(&u, 0x77, sizeof u);
    memset(&other, 0x77, sizeof other);
    for (i = 0; i < 3; i++) {
        size_t *inside = (size_t *)(void *)(at + i * sizeof *inside);
        EXPECT(w, KAWS_ARGUMENT, "overlap", kms_generate_data_key(w, NULL, 10,
                                                                  places[i],
                                                                  first));
        assert_int_equal(kaws_kms_generate_data_key(NULL, NULL, 4097, places[i],
                                                    first, NULL),
                         KAWS_ARGUMENT);
        plain.at = places[i];
        EXPECT(w, KAWS_ARGUMENT, "overlap", kms_encrypt(w, NULL, plain, first));
        EXPECT(w, KAWS_ARGUMENT, "overlap", kms_decrypt(w, NULL, first,
                                                        places[i], &len));
        ALL(u, 0x77);
        *inside = 10;                     /* *plain_len in *in                */
        EXPECT(w, KAWS_ARGUMENT, "overlap", kms_decrypt(w, NULL, first, room,
                                                        inside));
        assert_int_equal(*inside, 10);    /* *plain_len in `plain`            */
        EXPECT(w, KAWS_ARGUMENT, "overlap", kms_decrypt(w, NULL, &other,
                                                        (uint8_t *)inside - i,
                                                        inside));
        assert_int_equal(*inside, 10);
        memset(&u, 0x77, sizeof u);
    }
    EXPECT(w, KAWS_ARGUMENT, "overlap",
           kms_reencrypt(w, NULL, first, (kaws_sealed *)(void *)(at + 8)));
    EXPECT(w, KAWS_ARGUMENT, "overlap",
           kms_reencrypt(w, NULL, (kaws_sealed *)(void *)(at + 8), first));
    ALL(u, 0x77);
    assert_int_equal(len, sizeof room);
    assert_int_equal(w->f.requests, 0);

    EXPECT(w, KAWS_OK, NULL, kaws_kms_generate_data_key(   /* side by side    */
        w->ring, NULL, 10, end, first, &w->err));
    OK(w, kms_generate_data_key(w, NULL, 10, end - 10, second));
    plain.at = end - 10;
    OK(w, kms_encrypt(w, NULL, plain, second));
    OK(w, kms_reencrypt(w, NULL, second, first));
}


static void
test_bad_settings(void **state)
{
#define AT(member) offsetof(kaws_config, member)
    static const struct { size_t at; const char *value, *words; } rows[] = {
        { AT(conf_file), NULL, "conf_file is not set" },
        { AT(conf_file), "", "cannot read the conf file" },
        { AT(conf_file), "/nowhere/conf", "/nowhere/conf" },
        { AT(data_file), "", "data_file is empty" },
        { AT(region), "", "region ''" },
        { AT(region), "us-east-1\n",
          "region 'us-east-1\\x0a' is not a region of AWS" },
        { AT(kms_key_id), "", "'' is not the id" },
        { AT(kms_key_id), "alias/\xff", "'alias/\\xff' is not the id" },
        { AT(accounts), "1234", "accounts is not a list" },
        { AT(endpoint), "http://example.com",
          "endpoint 'http://example.com' is not of the form" },
        { AT(endpoint), "", "endpoint ''" }
    };
    struct world *w = *state;
    kaws_config cfg;
    kaws *ring;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        ring = (kaws *)(void *)w;
        cfg = w->cfg;
        cfg.must_have_creds = 1;
        memcpy((char *)&cfg + rows[i].at, &rows[i].value,
               sizeof rows[i].value);
        EXPECT(w, KAWS_CONFIG, rows[i].words, kaws_open(&ring, &cfg, &w->err));
        assert_null(ring);
        assert_int_equal(w->f.live, 0);
    }
    assert_false(is_there(w, ""));        /* nothing was made on the way      */
    assert_false(is_there(w, ".lock"));
}


/* ---- credentials ------------------------------------------------------- */

/* What asks KMS says what is wrong with them; all else works without. */
static void
expect_no_creds(struct world *w, kaws_status status, const char *words)
{
    kaws_identity who;
    kaws_stats stats;
    char url[256];

    all_refused(w, ASKS, status, words);
    assert_int_equal(w->f.requests, 0);
    EXPECT(w, status, words, reload_creds(w));
    memset(&who, 0x77, sizeof who);
    EXPECT(w, status, words, whoami(w, &who));
    assert_string_equal(who.access_key_end, "");
    assert_string_equal(who.account, FAKE_OWN);
    assert_string_equal(who.region, "us-east-1");
    (void)snprintf(url, sizeof url, "https://kms.us-east-1.amazonaws.com/");
    assert_string_equal(who.endpoint, url);
    assert_true(who.expires == 0);
    OK(w, kaws_could_use(w->ring, FAKE_EAST2, NULL, &w->err));
    OK(w, do_walk(w->ring, &w->err));
    kaws_get_stats(w->ring, &stats);
    assert_int_equal(stats.keys, 2);
    OK(w, drop(w, "gone"));
    EXPECT(w, KAWS_NOT_FOUND, NULL, drop(w, "gone"));
}


/* A keyring of two keys, closed. */
static void
make_two(struct world *w)
{
    w->cfg.kms_key_id = FAKE_EAST;
    if (w->ring == NULL)
        world_open(w);
    if (keys_of(w) == 0)
        OK(w, store(w, "k", "text"));
    OK(w, store(w, "gone", "text"));
    world_close(w);
    w->f.requests = 0;
    fake_forget_log(&w->f);
}


/* A ring opens without credentials, and finds them once they are there. */
static void
test_no_credentials(void **state)
{
    struct world *w = *state;

    make_two(w);
    w->cfg.conf_file = NULL;
    world_open(w);
    assert_int_equal(fake_logged(&w->f, 1, ""), 0);
    assert_int_equal(fake_logged(&w->f, 2, "access key id ends in (none yet)"),
                     1);
    expect_no_creds(w, KAWS_CONFIG, "conf_file is not set: it names the file");
    world_close(w);

    w->cfg.conf_file = w->f.conf;
    world_open(w);
    make_two(w);
    assert_int_equal(remove(w->f.conf), 0);
    world_open(w);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-142] "), 1);
    assert_int_equal(fake_logged(&w->f, 1, "cannot read the conf file"), 1);
    expect_no_creds(w, KAWS_CONFIG, "cannot read the conf file");
    fake_write_conf(&w->f, FAKE_ID "\n");
    all_refused(w, ASKS, KAWS_CONFIG, "line 2");
    fake_write_conf(&w->f, FAKE_ID "\n" FAKE_SECRET "\n");
    expect_text(w, "k", "text");
    OK(w, check(w));
    assert_int_equal(fake_logged(&w->f, 1, ""), 1);
}


/* A program's own credentials. */
static int hook_calls, hook_fails, hook_cancels;

static int
hook_cancelled(void *ctx)
{
    (void)ctx;
    return hook_cancels == 1 ? hook_cancels++ : 0;      /* said only once     */
}


static int
hook(void *ctx, kaws_creds_wanted *wanted)
{
    struct fake *f = ctx;

    hook_calls++;
    (void)snprintf(wanted->text, sizeof wanted->text, "vault is sealed");
    wanted->creds = (kaws_creds){ f->id, f->secret, f->token };
    wanted->expires = (f->now_ms + f->kms_ahead_ms) / 1000 + 900;
    hook_cancels += f->hooks.cancelled != NULL && wanted->refused;
    return hook_fails || hook_cancels;
}


static void
test_hook_for_credentials(void **state)
{
    struct world *w = *state;
    kaws_identity who;

    make_two(w);
    hook_calls = 0;
    hook_fails = 1;
    w->cfg.hooks.creds = hook;            /* though there is a conf file      */
    world_open(w);
    assert_int_equal(fake_logged(&w->f, 1, ""), 0);
    assert_int_equal(hook_calls, 0);
    expect_no_creds(w, KAWS_CREDENTIALS, "the program (hooks.creds) gave no "
                    "credentials: vault is sealed");
    hook_fails = hook_calls = 0;
    OK(w, whoami(w, &who));
    OK(w, whoami(w, &who));
    assert_string_equal(who.source, "the program");
    assert_string_equal(who.access_key_end, "FAKE");
    assert_true(who.expires == w->f.now_ms / 1000 + 900);
    expect_text(w, "k", "text");
    OK(w, check(w));
    assert_int_equal(hook_calls, 1);
    OK(w, reload_creds(w));
    assert_int_equal(hook_calls, 2);
    SCRIPT(.error = "ExpiredTokenException");
    EXPECT(w, KAWS_CREDENTIALS, "; check the credentials that come from the "
           "program", check(w));
    assert_int_equal(hook_calls, 3);
    SCRIPT(.http = 403, .body = "no");
    EXPECT(w, KAWS_DENIED, "; check the credentials that come from the program;"
           " or a proxy refuses", check(w));
    w->f.now_ms += 900000;
    hook_fails = 1;
    OK(w, whoami(w, &who));               /* it needs no good ones            */
    assert_int_equal(hook_calls, 4);
    EXPECT(w, KAWS_CREDENTIALS, "vault is sealed", check(w));
    hook_fails = 0;
    OK(w, check(w));
}


/* Cancelled while the hook looks for newer ones: that is the answer, and the
 * next call works. */
static void
test_cancelled_in_the_hook(void **state)
{
    struct world *w = *state;

    w->cfg.hooks.creds = hook;
    w->cfg.hooks.cancelled = w->f.hooks.cancelled = hook_cancelled;
    hook_fails = hook_cancels = 0;
    world_open(w);
    OK(w, check(w));
    SCRIPT(.error = "ExpiredTokenException");
    EXPECT(w, KAWS_CANCELLED, "nothing was changed", check(w));
    w->f.hooks.cancelled = NULL;
    hook_cancels = 0;
    OK(w, check(w));
}


/* They expire by AWS's clock, which ours may not agree with. */
static void
test_expiry_by_the_clock_of_aws(void **state)
{
    static const int64_t ahead_ms[] = { 0, 600000, 86400000, -600000,
                                        -86400000 };
    struct world *w = *state;
    size_t i;

    hook_fails = 0;
    w->cfg.hooks.creds = hook;
    for (i = 0; i < COUNT(ahead_ms); i++) {
        w->f.kms_ahead_ms = ahead_ms[i];
        world_reopen(w);
        hook_calls = 0;
        OK(w, check(w));                  /* so the difference is known       */
        assert_int_equal(hook_calls, 1);
        w->f.now_ms += 590000;
        OK(w, check(w));
        assert_int_equal(hook_calls, 1);
        w->f.now_ms += ahead_ms[i] < 0 ? 310000 : 20000;
        OK(w, check(w));                  /* late, if they seemed short-lived */
        assert_int_equal(hook_calls, 2);
    }
}


/* A program that wants to know at once. Nothing is made on the way. */
static void
test_must_have_credentials(void **state)
{
    struct world *w = *state;

    w->cfg.must_have_creds = hook_fails = 1;
    w->cfg.hooks.creds = hook;
    EXPECT(w, KAWS_CREDENTIALS, "vault is sealed",
           kaws_open(&w->ring, &w->cfg, &w->err));
    assert_null(w->ring);
    w->cfg.hooks.creds = NULL;
    w->cfg.conf_file = NULL;
    EXPECT(w, KAWS_CONFIG, "conf_file is not set",
           kaws_open(&w->ring, &w->cfg, &w->err));
    assert_null(w->ring);
    assert_false(is_there(w, ""));
    assert_false(is_there(w, ".lock"));
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);
    hook_fails = hook_calls = 0;
    w->cfg.hooks.creds = hook;
    world_open(w);
    assert_int_equal(hook_calls, 1);
    assert_int_equal(fake_logged(&w->f, 2, "access key id ends in FAKE"), 1);
    OK(w, check(w));
    assert_int_equal(hook_calls, 1);
}


/* Of an alias whose account is not known yet, and then is; and elsewhere. */
static void
test_whoami(void **state)
{
    struct world *w = *state;
    kaws_identity who;

    w->cfg.kms_key_id = "alias/app";
    w->cfg.region = "us-west-2";
    w->cfg.endpoint = "https://here:1";
    world_open(w);
    memset(&who, 0x77, sizeof who);
    OK(w, whoami(w, &who));
    assert_int_equal(w->f.requests, 0);
    assert_string_equal(who.source, "the conf file");
    assert_string_equal(who.access_key_end, "FAKE");
    assert_string_equal(who.account, "");
    assert_true(who.expires == 0);
    assert_string_equal(who.region, "us-west-2");
    assert_string_equal(who.endpoint, "https://here:1/");
    OK(w, check(w));
    OK(w, use(w, FAKE_EAST, NULL));
    OK(w, whoami(w, &who));
    assert_string_equal(who.account, FAKE_OWN);
    assert_string_equal(who.region, "us-east-1");
    world_close(w);
    w->cfg.kms_key_id = NULL;
    w->cfg.endpoint = NULL;
    w->cfg.region = "cn-north-1";
    world_open(w);
    OK(w, whoami(w, &who));
    assert_string_equal(who.region, "cn-north-1");
    assert_string_equal(who.endpoint, "https://kms.cn-north-1.amazonaws.com.cn/"
                        );
    EXPECT(w, KAWS_ARGUMENT, "ring and out", whoami(w, NULL));
    w->ring->pid++;
    memset(&who, 0x77, sizeof who);
    EXPECT(w, KAWS_CONFIG, "is its child", whoami(w, &who));
    assert_string_equal(who.region, "");
    w->ring->pid--;
}


#if !defined(_WIN32)

/* The system gives no lock, or no page for the credentials: each fails once. */
static void
test_scarce(void **state)
{
    struct world *w = *state;
    int n, before = locks;
    kaws_status status;

    for (n = 0; ; n++) {
        scarce_left = n;
        status = kaws_open(&w->ring, &w->cfg, &w->err);
        if (scarce_left >= 0)
            break;
        EXPECT(w, KAWS_MEMORY, "", status);
        assert_null(w->ring);
        assert_int_equal(w->f.live, 0);
        assert_int_equal(locks, before);
        assert_false(is_there(w, ".lock"));
    }
    scarce_left = -1;
    OK(w, status);
    assert_int_equal(n, 12);             /* eleven locks and a page          */
    assert_int_equal(locks, before + 11);
    world_close(w);
    assert_int_equal(locks, before);
}

#endif


/* The config's strings are the caller's again once the ring is open. */
static void
test_strings_are_copied(void **state)
{
    struct world *w = *state;
    char text[6][128];
    kaws_config cfg = w->cfg;

    (void)snprintf(text[0], 128, "%s", w->f.data);
    (void)snprintf(text[1], 128, "%s", w->f.conf);
    (void)snprintf(text[2], 128, "alias/app");
    (void)snprintf(text[3], 128, "us-west-2");
    (void)snprintf(text[4], 128, FAKE_OWN);
    (void)snprintf(text[5], 128, "https://endpoint.example");
    cfg.data_file = text[0];
    cfg.conf_file = text[1];
    cfg.kms_key_id = text[2];
    cfg.region = text[3];
    cfg.accounts = text[4];
    cfg.endpoint = text[5];
    OK(w, kaws_open(&w->ring, &cfg, &w->err));
    memset(text, 'X', sizeof text);
    memset(&cfg, 0, sizeof cfg);
    OK(w, store(w, "k", "text"));
    OK(w, reload_creds(w));
    assert_string_equal(w->f.url, "https://endpoint.example/");
    expect_text(w, "k", "text");
    assert_string_equal(arn_of(w, "k"), FAKE_WEST);
}


/* However a path is written, it is one path: in the log, and to the lock. */
static void
test_odd_paths(void **state)
{
    struct world *w = *state;
    char data[160], conf[160], want[160];
    kaws_config cfg = w->cfg;
    kaws *again;

    (void)snprintf(data, sizeof data, "%s/.//sub/././/keys/", w->f.dir);
    (void)snprintf(conf, sizeof conf, "%s//./conf//", w->f.dir);
    (void)snprintf(want, sizeof want, "%s/sub/keys", w->f.dir);
    cfg.data_file = data;
    cfg.conf_file = conf;
    OK(w, kaws_open(&w->ring, &cfg, &w->err));
    assert_string_equal(w->ring->vault.file.path, want);
    assert_string_equal(w->ring->kms.creds.sources.conf_file, w->f.conf);
    cfg.data_file = want;
    OK(w, kaws_open(&again, &cfg, &w->err));
    assert_int_equal(fake_logged(&w->f, 1, "is in use by another process"), 1);
    kaws_close(again);
    assert_int_equal(remove(w->ring->vault.file.lock), 0);
    assert_int_equal(remove(want), 0);
}


/* With no hooks at all: the system's clock, chance, memory, and libcurl. */
static void
test_built_in_hooks(void **state)
{
    struct world *w = *state;
    kaws_stats stats;

    memset(&w->cfg.hooks, 0, sizeof w->cfg.hooks);
#if defined(KEYRING_AWS_NO_CURL)
    EXPECT(w, KAWS_CONFIG, "hooks.send has to be set",
           kaws_open(&w->ring, &w->cfg, &w->err));
    w->cfg.hooks.send = w->f.hooks.send;
    w->cfg.hooks.ctx = &w->f;
    w->f.scripts[0] = (fake_script){ .no_reply = "127.0.0.1:1", .times = 9 };
#endif
    w->cfg.endpoint = "http://127.0.0.1:1";
    w->cfg.timeout_ms = 300;
    world_open(w);
    EXPECT(w, KAWS_NETWORK, "127.0.0.1:1", generate(w, "k"));
    kaws_get_stats(w->ring, &stats);
    assert_true(stats.kms_requests >= 1);
    assert_int_equal(w->f.allocs, 0);
    world_reopen(w);
    assert_int_equal(keys_of(w), 0);
}


static void
test_lengths(void **state)
{
    static const struct { size_t len; int store; } rows[] = {
        { 1, 0 }, { 2, 0 }, { 15, 0 }, { 16, 0 }, { 24, 0 }, { 32, 0 },
        { 33, 0 }, { 1023, 0 }, { 1024, 0 },
        { 1, 1 }, { 1025, 1 }, { 4095, 1 }, { 4096, 1 }
    };
    static uint8_t plain[4096];
    struct world *w = *state;
    kaws_bytes view = { plain, 0 };
    kaws_key key;
    char text[8];
    size_t i;

    for (i = 0; i < sizeof plain; i++)
        plain[i] = (uint8_t)(i * 13 + i / 256);
    for (i = 0; i < 2 * COUNT(rows); i++) {
        const size_t len = view.len = rows[i % COUNT(rows)].len;
        const int stored = rows[i % COUNT(rows)].store;
        const char *type = stored ? "ABCDEFGHIJKLMNO" : "a-Z_9";
        kaws_name name = name_of(text, "u");
        if (i == COUNT(rows))
            world_reopen(w);
        (void)snprintf(text, sizeof text, "%d", (int)(i % COUNT(rows)));
        if (i < COUNT(rows)) {
            OK(w, stored ? kaws_store(w->ring, name, type, view, &w->err)
                         : kaws_generate(w->ring, name, type, len, &w->err));
            continue;
        }
        OK(w, kaws_fetch(w->ring, name, &key, &w->err));
        assert_int_equal(key.len, len);
        assert_string_equal(key.type, type);
        if (stored)
            assert_memory_equal(key.bytes, plain, len);
        kaws_key_free(w->ring, &key);
    }
    assert_int_equal(fake_calls(&w->f, "GenerateDataKeyWithoutPlaintext"), 9);
    assert_int_equal(fake_calls(&w->f, "Encrypt"), 4);
    assert_int_equal(fake_calls(&w->f, "Decrypt"), 4 + 13);   /* 4 proofs     */
    assert_int_equal(w->f.requests, 30);
}


/* A store is acknowledged when KMS has opened the new blob to the key. */
static void
test_store_proves(void **state)
{
    static const struct { fake_script script; kaws_status status;
                          const char *words; } rows[] = {
        { { .action = "Decrypt", .previous = 1 }, KAWS_REPLY,
          "nothing was stored" },
        { { .action = "Encrypt", .previous = 1 }, KAWS_REPLY,
          "nothing was stored" },
        { { .action = "Decrypt", .error = "InvalidCiphertextException" },
          KAWS_REPLY, "nothing was stored" },
        { { .action = "Decrypt", .error = "DisabledException" }, KAWS_KMS_KEY,
          "enable the KMS key" },
        { { .action = "Decrypt", .body = "no", .http = 403 }, KAWS_DENIED,
          "HTTP 403" },
        { { .action = "Decrypt", .error = "AccessDeniedException",
            .http = 503 }, KAWS_DENIED, "HTTP 503" },
        { { .action = "Encrypt", .error = "InvalidCiphertextException" },
          KAWS_REPLY, "InvalidCiphertextException" },
        { { .action = "Decrypt", .no_reply = "no route", .times = 3 },
          KAWS_NETWORK, "no route" }
    };
    struct world *w = *state;
    size_t i;

    OK(w, store(w, "first", "one"));
    for (i = 0; i < COUNT(rows); i++) {
        snap(w);
        fake_push(&w->f, rows[i].script);
        EXPECT(w, rows[i].status, rows[i].words,
               store(w, "k", i % 2 ? "two" : "TWO"));
        expect_same_file(w);
        expect_no_key(w, "k", KAWS_NOT_FOUND);
        SCRIPTS_END();
        LATER(w);
    }

    /* Who may not decrypt has it stored all the same. */
    SCRIPT(.action = "Decrypt", .times = 2, .error = "AccessDeniedException");
    OK(w, store(w, "k", "two"));
    OK(w, store(w, "l", "three"));
    assert_int_equal(fake_logged(&w->f, 1, "kms:Decrypt is not allowed"), 1);
    expect_text(w, "first", "one");
    expect_text(w, "k", "two");
    expect_text(w, "l", "three");
}


/* What can be told without KMS is told without KMS. */
static void
test_exists_and_not_found(void **state)
{
    struct world *w = *state;

    OK(w, store(w, "k", "one"));
    assert_int_equal(w->f.requests, 2);
    snap(w);
    EXPECT(w, KAWS_EXISTS, "'k' is already there", store(w, "k", "two"));
    EXPECT(w, KAWS_EXISTS, NULL, generate(w, "k"));
    expect_no_key(w, "absent", KAWS_NOT_FOUND);
    assert_non_null(strstr(w->err.text, "'absent'"));
    EXPECT(w, KAWS_NOT_FOUND, "'ab\\x0asent'", drop(w, "ab\nsent"));
    assert_int_equal(w->f.requests, 2);
    expect_same_file(w);
    expect_text(w, "k", "one");
    OK(w, drop(w, "k"));
    expect_no_key(w, "k", KAWS_NOT_FOUND);
    OK(w, store(w, "k", "three"));
    expect_text(w, "k", "three");
    assert_int_equal(keys_of(w), 1);
}


static void
take_the_name(struct world *w)
{
    kaws_bytes text = kaws__buf_of("the first");

    meanwhile.status = kaws_store(w->ring, name_of("k", ""), "SECRET", text,
                                  NULL);
}


static void
take_the_key_out(struct world *w)
{
    meanwhile.status = kaws_remove(w->ring, name_of("k", ""), NULL);
}


static void
use_another(struct world *w)
{
    meanwhile.status = kaws_use_kms_key(w->ring, FAKE_WEST, NULL);
}


/* The second look: the lock was not held while KMS was asked. */
static void
test_meanwhile(void **state)
{
    struct world *w = *state;

    while_asked(w, "GenerateDataKeyWithoutPlaintext", 0, take_the_name);
    EXPECT(w, KAWS_EXISTS, "'k' is already there", generate(w, "k"));
    assert_true(meanwhile.fired);
    assert_int_equal(meanwhile.status, KAWS_OK);
    expect_text(w, "k", "the first");
    assert_int_equal(keys_of(w), 1);

    while_asked(w, "Decrypt", 0, take_the_key_out);
    expect_text(w, "k", "the first");     /* it was there when asked for      */
    assert_int_equal(meanwhile.status, KAWS_OK);
    expect_no_key(w, "k", KAWS_NOT_FOUND);

    while_asked(w, "Encrypt", 0, take_the_name);
    meanwhile.skip = 0;
    EXPECT(w, KAWS_EXISTS, NULL, store(w, "k", "the second"));
    expect_text(w, "k", "the first");

    while_asked(w, "Encrypt", 0, use_another);    /* aimed is aimed           */
    OK(w, store(w, "before", "x"));
    assert_int_equal(meanwhile.status, KAWS_OK);
    OK(w, store(w, "after", "x"));
    assert_string_equal(arn_of(w, "before"), FAKE_EAST);
    assert_string_equal(arn_of(w, "after"), FAKE_WEST);
    world_reopen(w);
    expect_text(w, "k", "the first");
    expect_text(w, "before", "x");
    expect_text(w, "after", "x");
}


/* Without a KMS key nothing is sealed, but the one account that all entries
 * have is trusted, and they are fetched. */
static void
test_without_kms_key(void **state)
{
    struct world *w = *state;
    kaws_sealed sealed;
    kaws_bytes plain = kaws__buf_of("x");

    world_open(w);
    OK(w, store(w, "k", "text"));
    OK(w, use_key(w, FAKE_WEST));
    OK(w, store(w, "west", "text"));
    reopen_with(w, NULL);
    w->f.requests = 0;
    EXPECT(w, KAWS_CONFIG, "kms_key_id has to be set", store(w, "new", "x"));
    EXPECT(w, KAWS_CONFIG, "kms_key_id has to be set", generate(w, "new"));
    EXPECT(w, KAWS_CONFIG, "kms_key_id has to be set", check(w));
    EXPECT(w, KAWS_CONFIG, "kms_key_id has to be set", rotate(w));
    EXPECT(w, KAWS_CONFIG, "kms_key_id has to be set", rewrap(w));
    EXPECT(w, KAWS_CONFIG, "kms_key_id has to be set",
           kms_encrypt(w, NULL, plain, &sealed));
    EXPECT(w, KAWS_CONFIG, "kms_key_id has to be set",
           kms_generate_data_key(w, NULL, 1, NULL, &sealed));
    assert_int_equal(w->f.requests, 0);
    expect_text(w, "k", "text");
    expect_text(w, "west", "text");
    assert_int_equal(w->f.requests, 2);
    EXPECT(w, KAWS_FOREIGN, FAKE_FOREIGN, use_key(w, FAKE_FOREIGN));
    OK(w, use_region(w, "us-west-2"));
    assert_int_equal(w->f.requests, 2);           /* there is nothing to ask  */
    OK(w, use_key(w, "alias/app"));
    expect_sealed_by(w, "new", FAKE_WEST);
    OK(w, drop(w, "k"));
}


/* An empty list of accounts is none: the KMS key's own is trusted, be it known
 * from its alias or from the entries; in another partition it is another's. */
static void
test_empty_accounts(void **state)
{
    static const char china[] =
        "arn:aws-cn:kms:cn-north-1:" FAKE_OWN ":key/00000009-aaaa-bbbb";
    struct world *w = *state;

    w->cfg.accounts = "";
    reopen_with(w, "alias/app");
    OK(w, store(w, "k", "text"));
    EXPECT(w, KAWS_FOREIGN, FAKE_FOREIGN, use_key(w, FAKE_FOREIGN));
    reopen_with(w, NULL);
    expect_text(w, "k", "text");
    world_close(w);

    (void)snprintf(w->f.keys[0].arn, sizeof w->f.keys[0].arn, "%s", china);
    reopen_with(w, china);
    OK(w, store(w, "china", "text"));
    expect_text(w, "china", "text");
    expect_no_key(w, "k", KAWS_FOREIGN);
    reopen_with(w, NULL);
    expect_no_key(w, "china", KAWS_FOREIGN);
    expect_no_key(w, "k", KAWS_FOREIGN);
}


/* Whatever is wrong with the new one, the old one stays. */
static void
test_use_kms_key_refused(void **state)
{
    static const struct {
        const char *id;
        fake_script script;
        kaws_status status;
        int requests;
    } rows[] = {
        { "alias/none", { .times = 0 }, KAWS_KMS_KEY, 1 },
        { "00000009-aaaa-bbbb-cccc-1234567890ab", { .times = 0 },
          KAWS_KMS_KEY, 1 },
        { FAKE_FOREIGN, { .times = 0 }, KAWS_FOREIGN, 0 },
        { "arn:aws:kms:us-east-1:444455556666:alias/x", { .times = 0 },
          KAWS_FOREIGN, 0 },
        { "arn:aws-cn:kms:cn-north-1:111122223333:key/x", { .times = 0 },
          KAWS_FOREIGN, 0 },
        { FAKE_EAST2, { .error = "DisabledException" }, KAWS_KMS_KEY, 1 },
        { FAKE_EAST2, { .error = "AccessDeniedException" }, KAWS_DENIED, 1 },
        { FAKE_EAST2, { .action = "Decrypt",
                        .error = "AccessDeniedException" }, KAWS_DENIED, 2 },
        { FAKE_EAST2, { .no_reply = "no route", .times = 3 },
          KAWS_NETWORK, 3 },
        { FAKE_EAST2, { .body = "<html>" }, KAWS_REPLY, 1 },
        { FAKE_EAST2, { .from = FAKE_EAST2, .to = FAKE_EAST }, KAWS_REPLY, 1 },
        { "alias/two", { .from = FAKE_EAST2, .to = FAKE_FOREIGN },
          KAWS_FOREIGN, 1 }
    };
    struct world *w = *state;
    char name[16];
    size_t i;

    OK(w, store(w, "old", "text"));
    for (i = 0; i < COUNT(rows); i++) {
        w->f.requests = 0;
        if (rows[i].script.times > 0 || rows[i].script.error != NULL ||
            rows[i].script.body != NULL || rows[i].script.from != NULL)
            fake_push(&w->f, rows[i].script);
        EXPECT(w, rows[i].status, NULL, use_key(w, rows[i].id));
        assert_int_equal(w->f.requests, rows[i].requests);
        LATER(w);
        (void)snprintf(name, sizeof name, "new%lu", (unsigned long)i);
        OK(w, store(w, name, "x"));
        assert_string_equal(arn_of(w, name), FAKE_EAST);
        expect_text(w, "old", "text");
    }
    assert_int_equal(fake_logged(&w->f, 1, "KMS key"), 0);
}


/* A first KMS key that KMS does not know, or denies, does not stand in the way
 * of the right one; but an ARN is taken only where its account is listed. */
static void
test_use_kms_key_after_a_bad_one(void **state)
{
    static const char *const errors[] = { NULL, "AccessDeniedException" };
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(errors); i++) {
        fake_script denied = { .error = errors[i] };
        w->cfg.kms_key_id = "alias/nobody";
        w->cfg.accounts = NULL;
        world_open(w);
        EXPECT(w, KAWS_KMS_KEY, NULL, generate(w, "x"));
        if (errors[i] != NULL)
            fake_push(&w->f, denied);
        EXPECT(w, errors[i] != NULL ? KAWS_DENIED : KAWS_KMS_KEY, NULL,
               use_key(w, FAKE_EAST));
        SCRIPT(.no_reply = "no route", .times = 3);
        EXPECT(w, KAWS_NETWORK, NULL, use_key(w, "alias/app"));
        LATER(w);
        if (errors[i] != NULL)
            fake_push(&w->f, denied);
        OK(w, use_key(w, "alias/app"));
        EXPECT(w, KAWS_FOREIGN, NULL, use_key(w, FAKE_FOREIGN));
        world_close(w);

        w->cfg.accounts = "111122223333";
        world_open(w);
        OK(w, use_key(w, FAKE_EAST));
        EXPECT(w, KAWS_FOREIGN, NULL, use_key(w, FAKE_FOREIGN));
        world_close(w);
    }
}


/* A KMS key that is refused, though it answered at first, leaves nothing
 * behind: not even that its account was met before any other. */
static void
test_a_refused_kms_key_is_not_trusted(void **state)
{
    struct world *w = *state;

    reopen_with(w, NULL);
    SCRIPT(.action = "Decrypt", .error = "AccessDeniedException");
    EXPECT(w, KAWS_DENIED, NULL, use_key(w, FAKE_FOREIGN));
    OK(w, use_key(w, FAKE_EAST));
    EXPECT(w, KAWS_FOREIGN, NULL, use_key(w, FAKE_FOREIGN));
}


static void
test_use_region(void **state)
{
    struct world *w = *state;

    reopen_with(w, "alias/app");
    OK(w, store(w, "east", "x"));
    OK(w, use_region(w, "us-west-2"));
    expect_sealed_by(w, "west", FAKE_WEST);
    expect_text(w, "east", "x");

    /* There is no such alias there, or no answer: all stays as it was. */
    EXPECT(w, KAWS_KMS_KEY, "ap-south-1", use_region(w, "ap-south-1"));
    SCRIPT(.no_reply = "no route", .times = 3);
    EXPECT(w, KAWS_NETWORK, "us-east-1", use_region(w, "us-east-1"));
    LATER(w);
    SCRIPT(.action = "Decrypt", .error = "AccessDeniedException");
    EXPECT(w, KAWS_DENIED, "us-east-1", use_region(w, "us-east-1"));
    assert_string_equal(w->ring->kms.trust.now.region, "us-west-2");
    expect_sealed_by(w, "still", FAKE_WEST);
    EXPECT(w, KAWS_KMS_KEY, NULL, use_key(w, "alias/two"));

    /* An ARN's own region goes on to be asked for it. */
    OK(w, use_key(w, FAKE_EAST2));
    w->f.requests = 0;
    OK(w, use_region(w, "us-east-1"));
    assert_int_equal(w->f.requests, 0);
    OK(w, use_region(w, "ap-south-1"));
    assert_int_equal(fake_calls(&w->f, "DescribeKey"), 1);
    assert_string_equal(w->f.url, "https://kms.ap-south-1.amazonaws.com/");
    expect_sealed_by(w, "again", FAKE_EAST2);
    SCRIPT(.no_reply = "no such host", .times = 3);
    EXPECT(w, KAWS_NETWORK, "xx-nowhere-1", use_region(w, "xx-nowhere-1"));
    SCRIPT(.error = "UnrecognizedClientException");
    EXPECT(w, KAWS_CREDENTIALS, NULL, use_region(w, "cn-north-1"));
    assert_string_equal(w->ring->kms.trust.now.region, "ap-south-1");
    EXPECT(w, KAWS_KMS_KEY, NULL, use_key(w, "alias/app"));
    OK(w, use_region(w, "us-west-2"));
    OK(w, use_key(w, "alias/app"));
    expect_text(w, "east", "x");
    expect_text(w, "west", "x");
    expect_text(w, "again", "x");
}


/* A KMS key is looked up in a region: both are taken at once, or neither. */
static void
test_use_both(void **state)
{
    struct world *w = *state;

    reopen_with(w, "alias/two");      /* not in the west                  */
    EXPECT(w, KAWS_KMS_KEY, NULL, use_region(w, "us-west-2"));
    EXPECT(w, KAWS_KMS_KEY, NULL, use(w, "alias/none", "us-west-2"));
    EXPECT(w, KAWS_ARGUMENT, "not a region", use(w, "alias/app", "mars"));
    EXPECT(w, KAWS_ARGUMENT, "alias", use(w, "a b", "us-west-2"));
    SCRIPT(.no_reply = "no route", .skip = 2, .times = 3);
    EXPECT(w, KAWS_NETWORK, "us-west-2", use(w, FAKE_EAST, "us-west-2"));
    LATER(w);
    expect_sealed_by(w, "east", FAKE_EAST2);

    OK(w, use(w, "alias/app", "us-west-2"));
    expect_sealed_by(w, "west", FAKE_WEST);
    w->f.requests = 0;                    /* the same again: is it well?      */
    OK(w, use(w, "alias/app", "us-west-2"));
    OK(w, use(w, NULL, NULL));
    assert_int_equal(w->f.requests, 4);
    w->f.requests = 0;                    /* the ARN's region, and the other  */
    OK(w, use(w, FAKE_EAST, "ap-south-1"));
    assert_int_equal(w->f.requests, 3);
    assert_string_equal(w->f.url, "https://kms.ap-south-1.amazonaws.com/");
    expect_sealed_by(w, "arn", FAKE_EAST);
}


/* What was tried changes nothing, and what passed is used without KMS. */
static void
test_try(void **state)
{
    struct world *w = *state;

    reopen_with(w, "alias/two");
    OK(w, store(w, "k", "x"));
    OK(w, try_to_use(w, "alias/app", "us-west-2"));
    EXPECT(w, KAWS_KMS_KEY, NULL, try_to_use(w, NULL, "us-west-2"));
    expect_sealed_by(w, "still", FAKE_EAST2);
    w->f.requests = 0;
    OK(w, use(w, "alias/app", "us-west-2"));
    assert_int_equal(w->f.requests, 0);
    expect_sealed_by(w, "west", FAKE_WEST);

    OK(w, try_to_use(w, "alias/two", "us-east-1"));
    w->f.requests = 0;                    /* another than was tried           */
    EXPECT(w, KAWS_KMS_KEY, NULL, use(w, "alias/two", NULL));
    OK(w, use(w, FAKE_EAST, NULL));
    OK(w, use(w, "alias/two", "us-east-1"));
    assert_int_equal(w->f.requests, 5);   /* once used, it is asked about     */
    expect_text(w, "k", "x");
    expect_text(w, "west", "x");
}


/* The last answer about a pair counts: what passed and was refused later is
 * asked about again. What is refused in between says nothing of it. */
static void
test_tried_twice(void **state)
{
    struct world *w = *state;

    reopen_with(w, "alias/two");
    OK(w, try_to_use(w, "alias/app", "us-west-2"));
    SCRIPT(.error = "DisabledException", .times = 2);
    EXPECT(w, KAWS_KMS_KEY, NULL, try_to_use(w, "alias/app", "us-west-2"));
    EXPECT(w, KAWS_KMS_KEY, NULL, use(w, "alias/app", "us-west-2"));
    expect_sealed_by(w, "still", FAKE_EAST2);

    OK(w, try_to_use(w, "alias/app", "us-west-2"));
    EXPECT(w, KAWS_KMS_KEY, NULL, try_to_use(w, "alias/no", "us-west-2"));
    EXPECT(w, KAWS_KMS_KEY, NULL, try_to_use(w, "alias/two", "us-west-2"));
    EXPECT(w, KAWS_ARGUMENT, NULL, try_to_use(w, "no key", "us-west-2"));
    w->f.requests = 0;
    OK(w, use(w, "alias/app", "us-west-2"));
    assert_int_equal(w->f.requests, 0);
}


/* What can be told of a KMS key and a region without asking KMS. */
static void
test_could_use(void **state)
{
    static const struct {
        const char *first, *accounts, *key, *region;
        kaws_status status;
    } rows[] = {
        { FAKE_EAST, NULL, FAKE_WEST, "us-east-1", KAWS_OK },
        { FAKE_EAST, NULL, "alias/nobody", "eu-west-1", KAWS_OK },
        { FAKE_EAST, NULL, NULL, "eu-west-1", KAWS_OK },
        { FAKE_EAST, NULL, NULL, NULL, KAWS_OK },
        { FAKE_EAST, NULL, "alias/nobody", NULL, KAWS_OK },
        { FAKE_EAST, NULL, FAKE_FOREIGN, NULL, KAWS_FOREIGN },
        { FAKE_EAST, FAKE_OTHER, FAKE_FOREIGN, NULL, KAWS_OK },
        { "alias/app", FAKE_OWN, FAKE_FOREIGN, NULL, KAWS_FOREIGN },
        { "alias/app", NULL, FAKE_FOREIGN, NULL, KAWS_OK },     /* ask later  */
        { FAKE_EAST, NULL, "alias/ app", NULL, KAWS_ARGUMENT },
        { FAKE_EAST, NULL, "", NULL, KAWS_ARGUMENT },
        { FAKE_EAST, NULL, "alias/app", "eu_west", KAWS_ARGUMENT },
        { FAKE_EAST, NULL, NULL, "", KAWS_ARGUMENT }
    };
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        w->cfg.accounts = rows[i].accounts;
        reopen_with(w, rows[i].first);
        if (kaws_could_use(w->ring, rows[i].key, rows[i].region, &w->err) !=
            rows[i].status || w->err.status != rows[i].status)
            fail_msg("row %lu: %s", (unsigned long)i, w->err.text);
    }
    assert_int_equal(w->f.requests, 0);
    expect_sealed_by(w, "still", FAKE_EAST);
    assert_int_equal(kaws_could_use(NULL, FAKE_EAST, NULL, NULL),
                     KAWS_ARGUMENT);
}


static void
use_what_was_tried(struct world *w)
{
    meanwhile.status = kaws_use(w->ring, "alias/app", "us-west-2", NULL);
}


/* A tried pair is taken while a KMS key is judged with the region of before. */
static void
test_taken_meanwhile(void **state)
{
    struct world *w = *state;

    world_open(w);
    OK(w, try_to_use(w, "alias/app", "us-west-2"));
    while_asked(w, "Decrypt", 0, use_what_was_tried);
    OK(w, use(w, FAKE_EAST2, NULL));
    assert_true(meanwhile.fired);
    assert_int_equal(meanwhile.status, KAWS_OK);
    expect_sealed_by(w, "arn", FAKE_EAST2);
    OK(w, use(w, "alias/app", NULL));
    expect_sealed_by(w, "alias", FAKE_WEST);
}


/* A KMS key that was only tried tells nothing of whom to trust. */
static void
test_a_tried_kms_key_is_not_trusted(void **state)
{
    struct world *w = *state;

    reopen_with(w, NULL);
    OK(w, try_to_use(w, NULL, "us-west-2"));
    EXPECT(w, KAWS_ARGUMENT, "KMS key", use(w, "", "us-west-2"));
    OK(w, try_to_use(w, FAKE_FOREIGN, NULL));
    OK(w, use(w, FAKE_EAST, NULL));
    EXPECT(w, KAWS_FOREIGN, NULL, use(w, FAKE_FOREIGN, NULL));
    world_reopen(w);
    OK(w, try_to_use(w, FAKE_FOREIGN, NULL));
    OK(w, use(w, FAKE_FOREIGN, NULL));
    EXPECT(w, KAWS_FOREIGN, NULL, use(w, FAKE_EAST, NULL));
}


/* The file names a KMS key of an account that nobody said to trust: nothing is
 * sent for it. */
static void
test_foreign_entry(void **state)
{
    struct world *w = *state;
    kaws_sealed sealed;
    kaws_bytes plain = kaws__buf_of("x");
    uint8_t room[8];
    size_t len = sizeof room;

    reopen_with(w, FAKE_FOREIGN);     /* set so, it is trusted            */
    OK(w, store(w, "theirs", "text"));
    OK(w, kms_encrypt(w, NULL, plain, &sealed));
    expect_text(w, "theirs", "text");
    reopen_with(w, FAKE_EAST);
    OK(w, store(w, "mine", "text"));
    w->f.requests = 0;
    expect_no_key(w, "theirs", KAWS_FOREIGN);
    assert_non_null(strstr(w->err.text, FAKE_FOREIGN));
    EXPECT(w, KAWS_FOREIGN, NULL, kms_decrypt(w, NULL, &sealed, room, &len));
    EXPECT(w, KAWS_FOREIGN, NULL, kms_reencrypt(w, NULL, &sealed, &sealed));
    assert_int_equal(w->f.requests, 0);
    snap(w);
    EXPECT(w, KAWS_FOREIGN, "re-wrapping the key 'theirs' failed", rewrap(w));
    expect_same_file(w);
    reopen_with(w, NULL);             /* entries of two accounts: neither */
    expect_no_key(w, "theirs", KAWS_FOREIGN);
    expect_no_key(w, "mine", KAWS_FOREIGN);
    world_close(w);
    w->cfg.accounts = FAKE_OTHER;
    world_open(w);
    expect_text(w, "theirs", "text");
    expect_no_key(w, "mine", KAWS_FOREIGN);
    reopen_with(w, FAKE_EAST);        /* listed: all of it works          */
    expect_text(w, "theirs", "text");
    OK(w, use_key(w, FAKE_FOREIGN));
    OK(w, rewrap(w));
    assert_string_equal(arn_of(w, "mine"), FAKE_FOREIGN);
    expect_text(w, "mine", "text");
}


/* KMS says afterwards that another account's key sealed it: not kept. */
static void
test_foreign_reply(void **state)
{
    struct world *w = *state;
    kaws_sealed out;

    reopen_with(w, "alias/app");
    OK(w, store(w, "k", "text"));
    snap(w);
    SCRIPT(.from = FAKE_EAST, .to = FAKE_FOREIGN);
    EXPECT(w, KAWS_FOREIGN, FAKE_FOREIGN, store(w, "new", "x"));
    SCRIPT(.from = FAKE_EAST, .to = FAKE_FOREIGN);
    EXPECT(w, KAWS_FOREIGN, FAKE_FOREIGN, generate(w, "new"));
    SCRIPT(.from = FAKE_EAST, .to = FAKE_FOREIGN);
    memset(&out, 0x77, sizeof out);
    EXPECT(w, KAWS_FOREIGN, FAKE_FOREIGN, kms_encrypt(w, NULL, some, &out));
    ALL(out, 0);
    expect_same_file(w);
    assert_int_equal(keys_of(w), 1);
    world_close(w);

    w->cfg.accounts = FAKE_OTHER;         /* the list does not have our own   */
    world_open(w);
    EXPECT(w, KAWS_FOREIGN, FAKE_EAST, store(w, "new", "x"));
    expect_no_key(w, "k", KAWS_FOREIGN);
}


/* Others write the conf file: credentials of their account, which has an alias
 * of the same name; and then it is as it was. */
static void
swap_credentials(struct world *w, int to_theirs)
{
    fake_key *theirs = &w->f.keys[3];

    assert_string_equal(theirs->arn, FAKE_FOREIGN);
    w->f.account = to_theirs ? FAKE_OTHER : FAKE_OWN;
    (void)snprintf(theirs->alias, sizeof theirs->alias, "alias/app");
}


/* Whoever writes the conf file does not choose the account that seals: not when
 * the ring is opened with it, and not while it is open, be the account known
 * already or not. */
static void
test_the_conf_file_moves_no_trust(void **state)
{
    static const char *const known[] = { "opened", "unknown", "known" };
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(known); i++) {
        reopen_with(w, "alias/app");
        if (i == 0) {
            OK(w, generate(w, "k"));
            OK(w, store(w, "stays", "text"));
            swap_credentials(w, 1);
            world_reopen(w);
        } else if (i == 2) {
            expect_text(w, "stays", "text");
        }
        swap_credentials(w, 1);
        snap(w);
        w->f.requests = 0;
        all_refused(w, i == 2 ? SEALS : ASKS, KAWS_FOREIGN, NULL);
        EXPECT(w, KAWS_FOREIGN, "444455556666:key/00000004", check(w));
        EXPECT(w, KAWS_FOREIGN, "trusted ones (aws 111122223333)", check(w));
        EXPECT(w, KAWS_FOREIGN, "(aws 111122223333)", use_key(w, "alias/app"));
        EXPECT(w, KAWS_FOREIGN, NULL, use_key(w, FAKE_FOREIGN));
        EXPECT(w, KAWS_FOREIGN, NULL, try_to_use(w, "alias/app", "us-east-1"));
        EXPECT(w, KAWS_FOREIGN, NULL, use(w, "alias/app", "us-east-1"));
        assert_int_equal(fake_calls(&w->f, "ReEncrypt"), 0);
        assert_int_equal(fake_calls(&w->f, "RotateKeyOnDemand"), 0);
        expect_same_file(w);
        assert_int_equal(keys_of(w), 2);
        assert_int_equal(fake_logged(&w->f, -1, FAKE_FOREIGN), 0);
        swap_credentials(w, 0);
        expect_text(w, "stays", "text");
        OK(w, check(w));
    }
}


#define ALIAS_ARN "arn:aws:kms:us-east-1:" FAKE_OTHER ":alias/app"

/* What an honest administrator may do to the settings of a keyring that has a
 * key: then KMS keys seal, and the old key opens, or not. */
static const struct {
    const char *first, *accounts;     /* with which the key was made      */
    const char *then, *accounts_then;
    int swapped;                      /* credentials are the other's then */
    int region;                       /* another one is set               */
    int opens, seals;
} changes[] = {
    { "alias/app", NULL, "alias/app", NULL, 0, 0, 1, 1 },
    { "alias/app", NULL, "alias/two", NULL, 0, 0, 1, 1 },
    { "alias/app", NULL, "alias/app", NULL, 0, 1, 1, 1 },
    { "alias/app", NULL, FAKE_EAST2, NULL, 0, 0, 1, 1 },
    { "alias/app", NULL, NULL, NULL, 0, 0, 1, 0 },
    { FAKE_EAST, NULL, "alias/app", NULL, 0, 0, 1, 1 },
    { FAKE_EAST, NULL, "00000001-aaaa-bbbb-cccc-1234567890ab", NULL,
      0, 0, 1, 1 },
    { FAKE_WEST, NULL, "alias/app", NULL, 0, 0, 1, 1 },
    /* A KMS key of another account than the credentials' */
    { FAKE_FOREIGN, NULL, FAKE_FOREIGN, NULL, 0, 0, 1, 1 },
    { FAKE_FOREIGN, NULL, NULL, NULL, 0, 0, 1, 0 },
    { ALIAS_ARN, NULL, ALIAS_ARN, NULL, 0, 0, 1, 1 },
    { FAKE_FOREIGN, NULL, ALIAS_ARN, NULL, 0, 0, 1, 1 },
    { FAKE_FOREIGN, FAKE_OTHER, "alias/app", FAKE_OTHER "," FAKE_OWN,
      0, 0, 1, 1 },
    /* Moving to another account */
    { "alias/app", NULL, FAKE_FOREIGN, NULL, 0, 0, 0, 1 },
    { "alias/app", NULL, FAKE_FOREIGN, NULL, 1, 0, 0, 1 },
    { "alias/app", NULL, ALIAS_ARN, NULL, 0, 0, 0, 1 },
    { "alias/app", NULL, FAKE_FOREIGN, FAKE_OWN, 0, 0, 1, 1 },
    { "alias/app", NULL, "alias/app", FAKE_OWN "," FAKE_OTHER,
      1, 0, 1, 1 },
    { "alias/app", NULL, "alias/app", FAKE_OTHER, 1, 0, 0, 1 },
    { "alias/app", NULL, "alias/app", NULL, 1, 0, 0, 0 },
    { "alias/app", NULL, "alias/app", FAKE_OWN, 1, 0, 1, 0 }
};


static void
test_honest_changes(void **state)
{
    struct world *w = *state;
    char row[16];
    size_t i;

    for (i = 0; i < COUNT(changes); i++) {
        (void)snprintf(row, sizeof row, "row %lu", (unsigned long)i);
        swap_credentials(w, 0);
        w->cfg.region = NULL;
        if (strcmp(changes[i].first, FAKE_WEST) == 0)
            w->cfg.region = "us-west-2";
        w->cfg.accounts = changes[i].accounts;
        reopen_with(w, changes[i].first);
        OK(w, store(w, row, "text"));
        swap_credentials(w, changes[i].swapped);
        w->cfg.region = changes[i].region ? "us-west-2" : NULL;
        w->cfg.accounts = changes[i].accounts_then;
        reopen_with(w, changes[i].then);
        world_case = row;
        if (changes[i].opens)
            expect_text(w, row, "text");
        else
            expect_no_key(w, row, KAWS_FOREIGN);
        EXPECT(w, changes[i].seals ? KAWS_OK : changes[i].then == NULL
               ? KAWS_CONFIG : KAWS_FOREIGN, NULL, check(w));
        if (changes[i].opens && changes[i].seals)
            OK(w, rewrap(w));
        OK(w, drop(w, row));
        world_case = "";
    }
}


/* After a move, the entries of both accounts may stay: an alias of either is
 * believed, but the other's entries are not trusted for being there. */
static void
test_entries_of_two_accounts(void **state)
{
    struct world *w = *state;
    int theirs;

    w->cfg.accounts = FAKE_OWN "," FAKE_OTHER;
    reopen_with(w, "alias/app");
    OK(w, store(w, "ours", "text"));
    OK(w, use_key(w, FAKE_FOREIGN));
    OK(w, store(w, "theirs", "text"));
    w->cfg.accounts = NULL;
    for (theirs = 0; theirs < 2; theirs++) {
        swap_credentials(w, theirs);
        world_reopen(w);
        expect_text(w, theirs ? "theirs" : "ours", "text");
        expect_no_key(w, theirs ? "ours" : "theirs", KAWS_FOREIGN);
        OK(w, check(w));
        EXPECT(w, KAWS_FOREIGN, NULL, rewrap(w));
        world_reopen(w);                  /* the other one is asked for first */
        expect_no_key(w, theirs ? "ours" : "theirs", KAWS_FOREIGN);
        expect_text(w, theirs ? "theirs" : "ours", "text");
    }
    OK(w, drop(w, "ours"));
    swap_credentials(w, 0);
    world_reopen(w);
    EXPECT(w, KAWS_FOREIGN, "(aws 444455556666)", check(w));
    world_close(w);
    w->cfg.kms_key_id = NULL;             /* then the entries say it all      */
    world_open(w);
    expect_text(w, "theirs", "text");
    EXPECT(w, KAWS_FOREIGN, "(aws 444455556666)", use_key(w, FAKE_EAST));
    OK(w, use_key(w, FAKE_FOREIGN));
}


/* A pair that passed is not taken any more once the own account is known, and
 * is another's. */
static void
test_tried_before_the_account_is_known(void **state)
{
    struct world *w = *state;

    reopen_with(w, "alias/late");
    OK(w, try_to_use(w, "alias/app", "us-east-1"));
    swap_credentials(w, 1);
    (void)snprintf(w->f.keys[3].alias, sizeof w->f.keys[3].alias, "alias/late");
    OK(w, check(w));
    w->f.account = FAKE_OWN;
    EXPECT(w, KAWS_FOREIGN, NULL, use(w, "alias/app", "us-east-1"));
    w->f.account = FAKE_OTHER;
    expect_sealed_by(w, "still", FAKE_FOREIGN);
}


/* An empty file says nothing: the first account is believed, and logged. What
 * was learned stays while the ring is open, whatever is in the file. */
static void
test_the_first_account(void **state)
{
    static const char told[] = "trusted from here on, 111122223333 (";
    struct world *w = *state;

    reopen_with(w, "alias/app");
    fake_forget_log(&w->f);
    OK(w, check(w));
    assert_int_equal(fake_logged(&w->f, 2, told), 1);
    assert_int_equal(fake_logged(&w->f, 1, ""), 0);
    OK(w, generate(w, "k"));
    OK(w, drop(w, "k"));
    swap_credentials(w, 1);
    EXPECT(w, KAWS_FOREIGN, "(aws 111122223333)", check(w));
    EXPECT(w, KAWS_FOREIGN, "(aws 111122223333)", generate(w, "k"));
    swap_credentials(w, 0);
    OK(w, generate(w, "k"));
    world_reopen(w);
    OK(w, check(w));
    assert_int_equal(fake_logged(&w->f, -1, told), 1);

    /* The last entry goes before anything was asked of KMS. */
    world_reopen(w);
    OK(w, drop(w, "k"));
    swap_credentials(w, 1);
    EXPECT(w, KAWS_FOREIGN, "(aws 111122223333)", generate(w, "k"));
    world_reopen(w);                      /* an empty file again              */
    OK(w, generate(w, "k"));
    assert_int_equal(fake_logged(&w->f, 2, "here on, 444455556666 ("), 1);
    assert_string_equal(arn_of(w, "k"), FAKE_FOREIGN);
}


/* ---- how often KMS is asked -------------------------------------------- */

/* A fetch, and how many requests it takes. */
static void
fetch_takes(struct world *w, const char *key_id, int requests)
{
    int before = w->f.requests;

    expect_text(w, key_id, "text");
    if (w->f.requests - before != requests)
        fail_msg("%s: %d requests for %d", world_case, w->f.requests - before,
                 requests);
}


/* However the KMS key is named, a fetch takes one request, though no account is
 * known yet: KMS tells it with the key. */
static void
test_a_fetch_is_one_request(void **state)
{
    static const struct { const char *key_id, *accounts; } rows[] = {
        { FAKE_EAST, NULL }, { "arn:aws:kms:us-east-1:" FAKE_OWN ":alias/app",
          NULL }, { "alias/app", NULL }, { "alias/app", FAKE_OWN },
        { "alias/two", FAKE_OWN }, { FAKE_EAST2, NULL },
        { "00000001-aaaa-bbbb-cccc-1234567890ab", NULL },
        { NULL, FAKE_OWN }, { NULL, NULL }
    };
    struct world *w = *state;
    kaws_sealed sealed;
    uint8_t room[8];
    size_t len, i;

    OK(w, store(w, "k", "text"));
    OK(w, kms_encrypt(w, NULL, kaws__buf_of("x"), &sealed));
    for (i = 0; i < COUNT(rows); i++) {
        world_case = rows[i].key_id;
        w->cfg.accounts = rows[i].accounts;
        reopen_with(w, rows[i].key_id);
        fetch_takes(w, "k", 1);
        fetch_takes(w, "k", 1);
        world_reopen(w);
        w->f.requests = 0;
        len = sizeof room;
        OK(w, kms_decrypt(w, NULL, &sealed, room, &len));
        assert_int_equal(w->f.requests, 1);
        world_case = "";
    }
}


/* The first request names the KMS key as the settings do; from then on, and if
 * the account needs not be learned, it names the entry's. */
static void
test_what_the_first_fetch_names(void **state)
{
    struct world *w = *state;

    OK(w, store(w, "k", "text"));
    reopen_with(w, "alias/app");
    expect_text(w, "k", "text");
    assert_non_null(strstr(w->f.body, "{\"KeyId\":\"alias/app\","));
    expect_text(w, "k", "text");
    assert_non_null(strstr(w->f.body, "{\"KeyId\":\"" FAKE_EAST "\","));
    world_reopen(w);
    OK(w, check(w));
    expect_text(w, "k", "text");
    assert_non_null(strstr(w->f.body, "{\"KeyId\":\"" FAKE_EAST "\","));
}


/* If another KMS key sealed it, the account is asked for, once. */
static void
test_a_fetch_of_another_kms_key(void **state)
{
    static const struct {
        const char *key_id, *region;
        fake_script script;
        int requests;
    } rows[] = {
        { "alias/two", NULL, { .times = 0 }, 3 },
        { "00000002-aaaa-bbbb-cccc-1234567890ab", NULL, { .times = 0 }, 2 },
        { "alias/app", "us-west-2", { .times = 0 }, 2 },
        { "alias/app", NULL, { .action = "Decrypt", .times = 1,
                               .error = "AccessDeniedException" }, 3 },
        { "alias/app", NULL, { .action = "Decrypt", .times = 1,
                               .error = "DisabledException" }, 3 }
    };
    struct world *w = *state;
    size_t i;

    OK(w, store(w, "k", "text"));
    for (i = 0; i < COUNT(rows); i++) {
        world_case = rows[i].key_id;
        w->cfg.region = rows[i].region;
        reopen_with(w, rows[i].key_id);
        if (rows[i].script.times > 0)
            fake_push(&w->f, rows[i].script);
        fetch_takes(w, "k", rows[i].requests);
        fetch_takes(w, "k", 1);
        world_case = "";
    }

    /* An outage is an outage: nothing else is tried. */
    w->cfg.region = NULL;
    reopen_with(w, "alias/app");
    w->f.requests = 0;
    SCRIPT(.no_reply = "no route", .times = 3);
    expect_no_key(w, "k", KAWS_NETWORK);
    assert_int_equal(w->f.requests, 3);
    LATER(w);
    SCRIPT(.error = "DisabledException", .times = 9);
    expect_no_key(w, "k", KAWS_KMS_KEY);
    SCRIPTS_END();
    fetch_takes(w, "k", 1);
}


/* Only a reply that fits in all it says teaches the account: not that of
 * another KMS key, nor of another length. */
static void
test_a_bad_fetch_teaches_nothing(void **state)
{
    static const char *const bad[2] = {
        "{\"KeyId\":\"" FAKE_EAST2 "\",\"Plaintext\":\"dGV4dA==\"}",
        "{\"KeyId\":\"" FAKE_EAST "\",\"Plaintext\":\"eA==\"}"
    };
    struct world *w = *state;
    kaws_sealed theirs;
    uint8_t room[8];
    size_t len = sizeof room, i;

    OK(w, store(w, "k", "text"));
    reopen_with(w, FAKE_FOREIGN);
    OK(w, kms_encrypt(w, NULL, kaws__buf_of("x"), &theirs));
    reopen_with(w, "alias/app");
    for (i = 0; i < 2; i++) {
        SCRIPT(.action = "Decrypt", .times = 1, .body = bad[i]);
        SCRIPT(.action = "GenerateDataKeyWithoutPlaintext",
               .no_reply = "no route", .times = 3);
        expect_no_key(w, "k", KAWS_NETWORK);
        assert_string_equal(w->ring->kms.trust.own, "");
        LATER(w);
    }
    swap_credentials(w, 1);               /* their alias opens it, but no key */
    memset(room, 0x77, sizeof room);      /* of the file is theirs            */
    EXPECT(w, KAWS_FOREIGN, "(aws 111122223333)",
           kms_decrypt(w, NULL, &theirs, room, &len));
    ALL(room, 0);
    assert_int_equal(len, 0);
    assert_string_equal(w->ring->kms.trust.own, "");
}


/* What is wrong with a blob is said as if the account was known, and also if
 * the right to ask for the account is missing. */
static void
test_a_wrong_blob_first(void **state)
{
    static const struct {
        const char *arn, *value, *key_id; /* altered; of the context          */
        const char *error;                /* of the first Decrypt             */
        kaws_status status, denied;       /* and if the account is a secret   */
        const char *words, *more;
    } rows[] = {
        { FAKE_EAST, "other", "alias/app", NULL, KAWS_MISMATCH, KAWS_MISMATCH,
          "another encryption context", "refused GenerateDataKeyWithout" },
        { FAKE_EAST2, NULL, "alias/app", NULL, KAWS_MISMATCH, KAWS_MISMATCH,
          "another KMS key sealed the blob", "refused GenerateDataKeyWithout" },
        { FAKE_FOREIGN, NULL, "alias/app", NULL, KAWS_FOREIGN, KAWS_MISMATCH,
          "another KMS key sealed the blob", "refused GenerateDataKeyWithout" },
        { FAKE_EAST, NULL, "alias/app", "AccessDeniedException", KAWS_OK,
          KAWS_DENIED, "refused Decrypt", "refused GenerateDataKeyWithout" },
        { FAKE_EAST, NULL, "alias/two", NULL, KAWS_OK, KAWS_DENIED,
          "refused GenerateDataKeyWithout", "allow it" }
    };
    struct world *w = *state;
    kaws_sealed sealed;
    uint8_t room[8];
    size_t i, len;
    int denied;

    OK(w, kms_encrypt(w, NULL, kaws__buf_of("x"), &sealed));
    for (i = 0; i < COUNT(rows); i++)
        for (denied = 0; denied < 2; denied++) {
            kaws_pair pair = { "is", rows[i].value };
            kaws_context ctx = { &pair, pair.value != NULL };
            memcpy(sealed.kms_key_arn, rows[i].arn, sizeof FAKE_EAST);
            reopen_with(w, world_case = rows[i].key_id);
            if (rows[i].error != NULL)
                SCRIPT(.action = "Decrypt", .times = 1, .error = rows[i].error);
            if (denied)
                SCRIPT(.action = "GenerateDataKeyWithoutPlaintext", .times = 1,
                       .error = "AccessDeniedException");
            len = sizeof room;
            EXPECT(w, denied ? rows[i].denied : rows[i].status,
                   denied ? rows[i].words : NULL,
                   kms_decrypt(w, &ctx, &sealed, room, &len));
            assert_int_equal(len, w->err.status == KAWS_OK);
            if (denied && strstr(w->err.text, rows[i].more) == NULL)
                fail_msg("row %lu: %s", (unsigned long)i, w->err.text);
            SCRIPTS_END();
            world_case = "";
        }
}


/* To re-encrypt is to open, too: without a list the account is asked for. */
static void
test_the_first_call_reencrypts(void **state)
{
    struct world *w = *state;
    kaws_sealed sealed, theirs, out;

    OK(w, kms_encrypt(w, NULL, kaws__buf_of("x"), &sealed));
    reopen_with(w, FAKE_FOREIGN);
    OK(w, kms_encrypt(w, NULL, kaws__buf_of("x"), &theirs));
    reopen_with(w, "alias/two");
    w->f.requests = 0;
    EXPECT(w, KAWS_FOREIGN, FAKE_FOREIGN, kms_reencrypt(w, NULL, &theirs,
                                                        &out));
    assert_int_equal(w->f.requests, 1);
    world_reopen(w);
    w->f.requests = 0;
    OK(w, kms_reencrypt(w, NULL, &sealed, &out));
    assert_int_equal(w->f.requests, 2);
    assert_string_equal(out.kms_key_arn, FAKE_EAST2);
    w->cfg.accounts = FAKE_OWN;
    world_reopen(w);
    w->f.requests = 0;
    OK(w, kms_reencrypt(w, NULL, &sealed, &out));
    assert_int_equal(w->f.requests, 1);
}


static void
check_meanwhile(struct world *w)
{
    meanwhile.status = kaws_check(w->ring, NULL);
}


/* Another thread learns the account while the first fetch is under way: then
 * there is nothing to ask, and nothing of the first request is in the error. */
static void
test_learned_meanwhile(void **state)
{
    struct world *w = *state;
    kaws_key key;

    OK(w, store(w, "ours", "text"));
    reopen_with(w, FAKE_FOREIGN);
    OK(w, store(w, "planted", "text"));
    reopen_with(w, "alias/app");
    while_asked(w, "Decrypt", 0, check_meanwhile);
    w->f.requests = 0;
    EXPECT(w, KAWS_FOREIGN, FAKE_FOREIGN,
           kaws_fetch(w->ring, name_of("planted", NULL), &key, &w->err));
    assert_int_equal(meanwhile.status, KAWS_OK);
    assert_int_equal(w->f.requests, 3);
    assert_int_equal(w->err.http, 0);
    assert_string_equal(w->err.aws, "");
    assert_string_equal(w->err.request_id, "");
    w->f.on_send = NULL;
}


/* Others write the data file: entries of a KMS key of theirs, which lets us in;
 * none but theirs, or among ours. Nothing is sent for it. */
static void
test_planted_entries(void **state)
{
    struct world *w = *state;
    int alone;

    w->cfg.rewrap_parallel = 1;           /* the planted one is the first     */
    for (alone = 0; alone < 2; alone++) {
        reopen_with(w, FAKE_FOREIGN);
        OK(w, store(w, "planted", "text"));
        if (!alone) {
            reopen_with(w, FAKE_EAST);
            OK(w, store(w, "ours", "text"));
        }
        reopen_with(w, "alias/app");
        w->f.requests = 0;
        expect_no_key(w, "planted", KAWS_FOREIGN);
        assert_int_equal(w->f.requests, 2);
        assert_null(strstr(w->f.body, FAKE_FOREIGN));
        EXPECT(w, KAWS_FOREIGN, NULL, rewrap(w));
        EXPECT(w, KAWS_FOREIGN, NULL, use_key(w, FAKE_FOREIGN));
        assert_int_equal(fake_calls(&w->f, "ReEncrypt"), 0);
        assert_null(strstr(w->f.body, FAKE_FOREIGN));
        if (!alone)
            expect_text(w, "ours", "text");
        EXPECT(w, alone ? KAWS_FOREIGN : KAWS_OK, NULL, check(w));
        OK(w, drop(w, "planted"));
        if (!alone)
            OK(w, drop(w, "ours"));
    }
}


/* An account in the list need not be asked for: the alias may lead nowhere. */
static void
test_a_listed_account_needs_no_question(void **state)
{
    static const fake_script away = { .error = "DisabledException",
        .action = "GenerateDataKeyWithoutPlaintext", .times = 99 };
    static const char china[] =
        "arn:aws-cn:kms:cn-north-1:" FAKE_OTHER ":key/00000009-aaaa-bbbb";
    struct world *w = *state;
    kaws_sealed sealed;
    uint8_t room[8];
    size_t len = sizeof room;

    w->cfg.kms_key_id = FAKE_FOREIGN;
    w->cfg.accounts = FAKE_OTHER;
    world_open(w);
    OK(w, store(w, "listed", "text"));
    OK(w, kms_encrypt(w, NULL, kaws__buf_of("x"), &sealed));
    OK(w, use_key(w, FAKE_FOREIGN));
    reopen_with(w, "alias/app");
    fake_push(&w->f, away);
    w->f.requests = 0;
    expect_text(w, "listed", "text");
    OK(w, kms_decrypt(w, NULL, &sealed, room, &len));
    assert_int_equal(w->f.requests, 2);
    (void)snprintf(sealed.kms_key_arn, sizeof sealed.kms_key_arn, "%s", china);
    EXPECT(w, KAWS_FOREIGN, NULL, kms_decrypt(w, NULL, &sealed, room, &len));
    assert_int_equal(w->f.requests, 2);   /* another partition is not listed  */
}


static void
test_alias_moves(void **state)
{
    struct world *w = *state;

    reopen_with(w, "alias/app");
    OK(w, store(w, "one", "x"));
    (void)snprintf(w->f.keys[0].alias, sizeof w->f.keys[0].alias, "alias/x");
    (void)snprintf(w->f.keys[1].alias, sizeof w->f.keys[1].alias, "alias/app");
    OK(w, store(w, "two", "x"));
    assert_int_equal(fake_logged(&w->f, 1, "alias/app was " FAKE_EAST " and is "
                                 FAKE_EAST2 " now"), 1);
    OK(w, store(w, "three", "x"));
    assert_int_equal(fake_logged(&w->f, 1, "and is"), 1);
    assert_string_equal(arn_of(w, "one"), FAKE_EAST);
    assert_string_equal(arn_of(w, "two"), FAKE_EAST2);
    expect_text(w, "one", "x");
    expect_text(w, "two", "x");
    OK(w, rewrap(w));
    assert_string_equal(arn_of(w, "one"), FAKE_EAST2);
}


static const kaws_pair purpose[] = { { "purpose", "test" }, { "n", "1" } };
static const kaws_context context = { purpose, 2 };


static void
test_encrypt_and_decrypt(void **state)
{
    static const kaws_pair turned[] = { { "n", "1" }, { "purpose", "test" } };
    kaws_context other = { turned, 2 };
    struct world *w = *state;
    kaws_bytes plain = kaws__buf_of("0123456789");
    kaws_sealed sealed;
    uint8_t room[64], zeros[64] = { 0 };
    size_t len = sizeof room;

    OK(w, kms_encrypt(w, &context, plain, &sealed));
    assert_string_equal(sealed.kms_key_arn, FAKE_EAST);
    OK(w, kms_decrypt(w, &other, &sealed, room, &len));
    assert_int_equal(len, 10);
    assert_memory_equal(room, "0123456789", 10);
    other.count = 1;                      /* another context: not opened      */
    len = sizeof room;
    memset(room, 0x77, sizeof room);
    EXPECT(w, KAWS_MISMATCH, NULL, kms_decrypt(w, &other, &sealed, room, &len));
    assert_memory_equal(room, zeros, sizeof room);
    memset(room, 0x77, sizeof room);
    len = 9;                              /* too little room                  */
    EXPECT(w, KAWS_ARGUMENT, "10 bytes, and there is room for 9",
           kms_decrypt(w, &context, &sealed, room, &len));
    assert_int_equal(len, 0);
    assert_memory_equal(room, zeros, 9);
    assert_int_equal(room[9], 0x77);
    sealed.kms_key_arn[0] = '\0';         /* the current one is meant         */
    len = sizeof room;
    OK(w, kms_decrypt(w, &context, &sealed, room, &len));
    assert_int_equal(len, 10);
    OK(w, use_key(w, FAKE_EAST2));
    EXPECT(w, KAWS_MISMATCH, "another KMS key", kms_decrypt(w, &context,
                                                            &sealed, room,
                                                            &len));
}


static void
test_reencrypt(void **state)
{
    struct world *w = *state;
    kaws_bytes plain = kaws__buf_of("0123456789");
    kaws_sealed sealed, again, kept, none;
    uint8_t room[64];
    size_t len = sizeof room;

    OK(w, kms_encrypt(w, &context, plain, &sealed));
    OK(w, use_key(w, FAKE_EAST2));
    kept = sealed;
    memset(&none, 0, sizeof none);
    memset(&again, 0x77, sizeof again);
    SCRIPT(.action = "ReEncrypt", .times = 2,
                                    .from = "\"KeyId\"", .to = "\"Key\"");
    EXPECT(w, KAWS_REPLY, NULL, kms_reencrypt(w, &context, &sealed, &again));
    assert_memory_equal(&again, &none, sizeof none);
    EXPECT(w, KAWS_REPLY, NULL, kms_reencrypt(w, &context, &sealed, &sealed));
    assert_memory_equal(&sealed, &kept, sizeof kept);
    OK(w, kms_reencrypt(w, &context, &sealed, &again));
    assert_int_equal(fake_calls(&w->f, "ReEncrypt"), 3);
    assert_string_equal(again.kms_key_arn, FAKE_EAST2);
    assert_int_equal(strlen(again.key_material_id), 64);
    OK(w, use_key(w, FAKE_WEST));
    OK(w, kms_reencrypt(w, &context, &again, &again));
    assert_int_equal(fake_calls(&w->f, "ReEncrypt"), 3);
    assert_string_equal(again.kms_key_arn, FAKE_WEST);
    OK(w, kms_decrypt(w, &context, &again, room, &len));
    assert_int_equal(len, 10);
    assert_memory_equal(room, "0123456789", 10);
}


/* One line says what the ring was opened with, and nothing of a secret, even
 * if that stands where the access key id should be. */
static void
test_opening_says_it_all(void **state)
{
    static const struct {
        const char *key, *region, *endpoint, *accounts, *conf, *said;
    } rows[] = {
        { FAKE_EAST, NULL, NULL, NULL, FAKE_ID "\n" FAKE_SECRET "\n",
          "; version " KAWS_VERSION ", KMS key " FAKE_EAST " in us-east-1, "
          "requests go to https://kms.us-east-1.amazonaws.com/, accounts "
          "trusted: " FAKE_OWN ", access key id ends in FAKE, timeouts "
          "1000 ms to connect and 10000 ms in all" },
        { FAKE_EAST, "us-west-2", "https://here:1", FAKE_OTHER, NULL,
          FAKE_EAST " in us-east-1, requests go to https://here:1/, accounts "
          "trusted: " FAKE_OWN ", " FAKE_OTHER ", access" },
        { "alias/app", "us-west-2", NULL, NULL, NULL,
          "KMS key alias/app in us-west-2, requests go to https://kms.us-west-2"
          ".amazonaws.com/, accounts trusted: that of the KMS key, access" },
        { "alias/app", "cn-north-1", NULL, FAKE_OTHER, NULL,
          "requests go to https://kms.cn-north-1.amazonaws.com.cn/, accounts "
          "trusted: " FAKE_OTHER ", access" },
        { NULL, "us-west-2", NULL, NULL, NULL, "KMS key (not set) in us-west-2,"
          " requests go to https://kms.us-west-2.amazonaws.com/, accounts" },
        { FAKE_EAST, NULL, NULL, NULL, "sEcReT+fAkE+mnopqr\n" FAKE_SECRET "\n",
          "access key id ends in (not shown), timeouts" },
        { FAKE_EAST, NULL, NULL, NULL, "AKID\n" FAKE_SECRET "\n",
          "access key id ends in (not shown), timeouts" }
    };
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        fake_write_conf(&w->f, rows[i].conf != NULL ? rows[i].conf
                                                    : rows[0].conf);
        w->cfg.kms_key_id = rows[i].key;
        w->cfg.region = rows[i].region;
        w->cfg.endpoint = rows[i].endpoint;
        w->cfg.accounts = rows[i].accounts;
        fake_forget_log(&w->f);
        world_reopen(w);
        if (fake_logged(&w->f, 2, "[KAWS-101] opened ") != 1 ||
            fake_logged(&w->f, 2, rows[i].said) != 1)
            fail_msg("row %lu: %s", (unsigned long)i, w->f.log);
    }
    assert_int_equal(fake_logged(&w->f, -1, "qr,"), 0);
    w->cfg.data_file = NULL;
    fake_forget_log(&w->f);
    world_reopen(w);
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);
}


/* ---- settings that contradict each other ------------------------------- */

#define EU_ARN "arn:aws:kms:eu-west-1:111122223333:key/x"
static const struct {
    const char *key, *region, *endpoint;
    int connect, all, parallel;
    const char *warned;
} doubts[] = {
    { FAKE_EAST, NULL, NULL, 0, 0, 0, NULL },
    { NULL, NULL, NULL, 0, 0, 0, NULL },
    { "alias/app", "eu-west-1", NULL, 0, 0, 0, NULL },

    /* the ARN's region, and the other one */
    { EU_ARN, NULL, NULL, 0, 0, 0, NULL },
    { EU_ARN, "us-east-1", NULL, 0, 0, 0, NULL },   /* the default        */
    { EU_ARN, "eu-west-1", NULL, 0, 0, 0, NULL },
    { EU_ARN, "us-west-2", NULL, 0, 0, 0,
      "region is us-west-2, but the ARN of the KMS key is in eu-west-1: "
      "requests for it go there" },
    { EU_ARN, "cn-north-1", NULL, 0, 0, 0, "a different partition of AWS" },
    { "arn:aws-cn:kms:cn-north-1:111122223333:key/x", NULL, NULL, 0, 0, 0,
      NULL },

    /* regions that nobody knows */
    { "alias/app", "us-esat-1", NULL, 0, 0, 0,
      "the region us-esat-1 is not among those that this version knows" },
    { NULL, "eu-west-9", NULL, 0, 0, 0, "region eu-west-9 is not among" },
    { "arn:aws:kms:us-esat-1:111122223333:key/x", NULL, NULL, 0, 0, 0,
      "region us-esat-1 is not among" },

    /* timeouts */
    { FAKE_EAST, NULL, NULL, 0, 500, 0, NULL },     /* the default        */
    { FAKE_EAST, NULL, NULL, 2000, 2000, 0, NULL },
    { FAKE_EAST, NULL, NULL, 2001, 2000, 0,
      "connect_timeout is 2001 ms, but timeout, which limits the whole "
      "operation, is 2000 ms" },
    { FAKE_EAST, NULL, NULL, 10001, 0, 0, "is 10000 ms" },

    { "app", NULL, NULL, 0, 0, 0, "'app' is looked up as a key id" },
    { "mrk-1234abcd12ab34cd56ef1234567890ab", NULL, NULL, 0, 0, 0, NULL },
    { "1234abcd-12ab-34cd-56ef-1234567890ab", NULL, NULL, 0, 0, 0, NULL }
};


/* Opens with these settings: that warning, and no others. NULL: none. */
static void
check_doubt(struct world *w, const kaws_config *cfg, const char *warned)
{
    world_case = warned != NULL ? warned : "no warning";
    fake_forget_log(&w->f);
    kaws__err_clear(&w->err);
    EXPECT(w, KAWS_OK, NULL, kaws_open(&w->ring, cfg, &w->err));
    if (fake_logged(&w->f, 1, "") != (warned != NULL) ||
        (warned != NULL && fake_logged(&w->f, 1, warned) != 1))
        fail_msg("not logged: %s", world_case);
    world_close(w);
}


static void
test_doubts(void **state)
{
    struct world *w = *state;
    kaws_config cfg;
    size_t i;

    world_open(w);                        /* so that the file is there        */
    world_close(w);
    for (i = 0; i < COUNT(doubts); i++) {
        cfg = w->cfg;
        cfg.kms_key_id = doubts[i].key;
        cfg.region = doubts[i].region;
        cfg.endpoint = doubts[i].endpoint;
        cfg.connect_timeout_ms = doubts[i].connect;
        cfg.timeout_ms = doubts[i].all;
        cfg.rewrap_parallel = doubts[i].parallel;
        check_doubt(w, &cfg, doubts[i].warned);
    }
}


/* What is changed while it is open is told once, not at each call. */
static void
test_doubts_at_run_time(void **state)
{
    struct world *w = *state;
    int i;

    fake_forget_log(&w->f);
    for (i = 0; i < 3; i++) {
        kaws_use_timeouts(w->ring, 5000, 4000);
        OK(w, kaws_check(w->ring, &w->err));
    }
    assert_int_equal(fake_logged(&w->f, 1, "connect_timeout is 5000 ms"), 1);
    kaws_use_timeouts(w->ring, 4000, 4000);
    kaws_use_timeouts(w->ring, 5000, 4000);
    assert_int_equal(fake_logged(&w->f, 1, "connect_timeout is 5000 ms"), 2);

    for (i = 0; i < 2; i++)
        (void)kaws_use_region(w->ring, i == 0 ? "us-esat-1" : "us-east-1",
                              &w->err);
    assert_int_equal(fake_logged(&w->f, 1, "us-esat-1 is not among"), 1);
    assert_int_equal(fake_logged(&w->f, 1, "is not among"), 1);
}


/* One file for two purposes, by whatever name: nothing is written. */
static void
test_one_file_for_two(void **state)
{
    static const char *const places[] = { "", ".tmp", ".lock" };
    struct world *w = *state;
    kaws_config cfg = w->cfg;
    char conf[160], link_to[160];
    size_t i, k;

    (void)snprintf(link_to, sizeof link_to, "%s/linked", w->f.dir);
    for (i = 0; i < COUNT(places); i++)
        for (k = 0; k < 4; k++) {
            (void)snprintf(conf, sizeof conf, "%s%s", w->f.data, places[i]);
            spill(conf, FAKE_ID "\n" FAKE_SECRET "\n",
                  sizeof FAKE_ID + sizeof FAKE_SECRET);
            assert_int_equal(chmod(conf, 0600), 0);
            cfg.conf_file = k == 0 || k == 3 ? conf : link_to;
            cfg.ca_file = NULL;
            if (k == 3) {
                cfg.conf_file = w->f.conf;
                cfg.ca_file = conf;
            }
#if defined(_WIN32)
            if (k == 1 || k == 2)
                continue;
#else
            if (k == 1)
                assert_int_equal(link(conf, link_to), 0);
            if (k == 2)
                assert_int_equal(symlink(conf, link_to), 0);
#endif
            EXPECT(w, KAWS_CONFIG, k == 3 ? "ca_file and data_file name the "
                   "same file" : "conf_file and data_file name the same file",
                   kaws_open(&w->ring, &cfg, &w->err));
            kaws__err_clear(&w->err);
            (void)remove(link_to);
            assert_int_equal(remove(conf), 0);
        }
#if !defined(_WIN32)
    (void)snprintf(conf, sizeof conf, "%s.tmp", w->f.data);
    assert_int_equal(symlink(w->f.conf, conf), 0);
    cfg = w->cfg;
    cfg.conf_file = conf;                 /* the link would be removed        */
    EXPECT(w, KAWS_CONFIG, "conf_file and data_file name the same file",
           kaws_open(&w->ring, &cfg, &w->err));
    kaws__err_clear(&w->err);
    assert_int_equal(remove(conf), 0);
#endif
    assert_int_not_equal(access(w->f.data, F_OK), 0);
    world_open(w);                        /* each with its own                */
}


#if !defined(_WIN32)

/* ---- a thread that is cancelled ---------------------------------------- */

static int cancels;                       /* hooks where it could have ended  */


static void *
where_it_may_end(void *ctx, void *ptr, size_t old_len, size_t new_len)
{
    __atomic_add_fetch(&cancels, 1, __ATOMIC_RELAXED);
    pthread_testcancel();
    return fake_memory(ctx, ptr, old_len, new_len);
}


static void
log_where_it_may_end(void *ctx, int level, const char *line)
{
    __atomic_add_fetch(&cancels, 1, __ATOMIC_RELAXED);
    pthread_testcancel();
    fake_log(ctx, level, line);
}


static void
end_key(struct world *w)
{
    static kaws_key key;

    if (key.bytes == NULL)
        (void)kaws_fetch(w->ring, name_of("k", NULL), &key, NULL);
    kaws_key_free(w->ring, &key);
}


static void
end_walk(struct world *w)
{
    kaws_walk *walk;

    if (kaws_walk_begin(w->ring, &walk, NULL) == KAWS_OK)
        kaws_walk_end(walk);
}


static void
use_odd_timeouts(struct world *w)
{
    kaws_use_timeouts(w->ring, 3000, 2000);
}


static void
use_no_cache(struct world *w)
{
    kaws_use_cache(w->ring, 0);
}

static struct {
    const char *name;
    void (*call)(struct world *);
    struct world *w;
    int done;
} ends[] = {
    { "key_free", end_key, NULL, 0 }, { "walk_end", end_walk, NULL, 0 },
    { "use_timeouts", use_odd_timeouts, NULL, 0 },
    { "use_cache", use_no_cache, NULL, 0 }
};


static void *
cancelled_thread(void *arg)
{
    size_t i = *(size_t *)arg;

    pthread_cancel(pthread_self());       /* at the next place where it may   */
    ends[i].call(ends[i].w);
    ends[i].done = 1;
    pthread_testcancel();
    return NULL;
}


/* It ends after the call, not in a hook of it, whatever it calls. */
static void
test_cancelled_threads(void **state)
{
    struct world *w = *state;
    pthread_t thread;
    void *end;
    size_t i;

    w->cfg.hooks.memory = where_it_may_end;
    w->cfg.hooks.log = log_where_it_may_end;
    w->cfg.cache_seconds = 60;
    world_open(w);
    OK(w, store(w, "k", "k"));
    expect_text(w, "k", "k");
    for (i = 0; i < COUNT(ends); i++) {
        world_case = ends[i].name;
        ends[i].w = w;
        cancels = 0;
        assert_int_equal(pthread_create(&thread, NULL, cancelled_thread, &i),
                         0);
        assert_int_equal(pthread_join(thread, &end), 0);
        if (end != PTHREAD_CANCELED || !ends[i].done || cancels == 0)
            fail_msg("%s: %d", ends[i].name, cancels);
    }
    world_case = "";
}

#endif


int
main(void)
{
    const struct CMUnitTest tests[] = {
#if !defined(_WIN32)
        SHUT(test_scarce), SHUT(test_cancelled_threads),
#endif
        OPEN(test_null), OPEN(test_null_without_an_answer),
        OPEN(test_no_error_wanted), OPEN(test_outage), OPEN(test_stats),
        OPEN(test_a_ring_of_another_process),
        OPEN(test_fetch_of_another_length),
        OPEN(test_bad_types_and_lengths), OPEN(test_bad_blobs),
        OPEN(test_bad_kms_lengths), OPEN(test_failures_leave_zeros),
        OPEN(test_overlaps), SHUT(test_bad_settings),
        SHUT(test_no_credentials), SHUT(test_hook_for_credentials),
        SHUT(test_cancelled_in_the_hook),
        SHUT(test_expiry_by_the_clock_of_aws),
        SHUT(test_must_have_credentials), SHUT(test_whoami),
        SHUT(test_strings_are_copied), SHUT(test_odd_paths),
        SHUT(test_built_in_hooks), OPEN(test_lengths), OPEN(test_store_proves),
        OPEN(test_exists_and_not_found), OPEN(test_meanwhile),
        SHUT(test_without_kms_key), SHUT(test_empty_accounts),
        OPEN(test_use_kms_key_refused), SHUT(test_use_kms_key_after_a_bad_one),
        SHUT(test_a_refused_kms_key_is_not_trusted), SHUT(test_use_region),
        SHUT(test_use_both), SHUT(test_try), SHUT(test_tried_twice),
        SHUT(test_could_use),
        SHUT(test_taken_meanwhile),
        SHUT(test_a_tried_kms_key_is_not_trusted), SHUT(test_foreign_entry),
        SHUT(test_foreign_reply), SHUT(test_the_conf_file_moves_no_trust),
        SHUT(test_honest_changes), SHUT(test_entries_of_two_accounts),
        SHUT(test_the_first_account),
        SHUT(test_tried_before_the_account_is_known),
        OPEN(test_a_fetch_is_one_request),
        OPEN(test_what_the_first_fetch_names),
        OPEN(test_a_fetch_of_another_kms_key),
        OPEN(test_a_bad_fetch_teaches_nothing),
        OPEN(test_the_first_call_reencrypts), OPEN(test_learned_meanwhile),
        OPEN(test_a_wrong_blob_first),
        SHUT(test_planted_entries),
        SHUT(test_a_listed_account_needs_no_question),
        SHUT(test_alias_moves), SHUT(test_opening_says_it_all),
        OPEN(test_encrypt_and_decrypt), OPEN(test_reencrypt),
        SHUT(test_doubts), OPEN(test_doubts_at_run_time),
        SHUT(test_one_file_for_two)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
