/* Room ring: every public function, in good days and bad: arguments, the
 * second look, disks that fail, other processes, foreign accounts, KMS keys
 * that move, rotation, and re-wrapping under traffic. */

#include "faulty_disk.h"

#include <pthread.h>

#if !defined(_WIN32)                      /* whose locks cannot be denied     */

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
#include "world.h"

#if !defined(_WIN32)
#include <sys/wait.h>
#endif


static int
begin(void **state)
{
    disk_heal();
    return world_begin(state);
}


static int
begin_open(void **state)
{
    disk_heal();
    return world_begin_open(state);
}


static int
end(void **state)
{
    disk_heal();
    return world_end(state);
}


static kaws_status
generate(struct world *w, const char *key_id)
{
    return kaws_generate(w->ring, name_of(key_id, NULL), "AES", 32, &w->err);
}


static kaws_status
store(struct world *w, const char *key_id, const char *text)
{
    return kaws_store(w->ring, name_of(key_id, NULL), "SECRET",
                      kaws__buf_of(text), &w->err);
}


static kaws_status
drop(struct world *w, const char *key_id)
{
    return kaws_remove(w->ring, name_of(key_id, NULL), &w->err);
}


/* The key must be what was stored. */
static void
expect_text(struct world *w, const char *key_id, const char *text)
{
    kaws_key key;

    EXPECT(w, KAWS_OK, key_id,
           kaws_fetch(w->ring, name_of(key_id, NULL), &key, &w->err));
    assert_int_equal(key.len, strlen(text));
    assert_memory_equal(key.bytes, text, key.len);
    assert_string_equal(key.type, "SECRET");
    kaws_key_free(w->ring, &key);
    assert_null(key.bytes);
    assert_int_equal(key.len, 0);
}


/* It must not be to be had, for that reason, and no byte given out. */
static void
expect_no_key(struct world *w, const char *key_id, kaws_status why)
{
    static const kaws_key none;
    kaws_key key;

    memset(&key, 0x77, sizeof key);
    EXPECT(w, why, NULL,
           kaws_fetch(w->ring, name_of(key_id, NULL), &key, &w->err));
    assert_memory_equal(&key, &none, sizeof key);
}


static uint64_t
keys_of(struct world *w)
{
    kaws_stats stats;

    kaws_get_stats(w->ring, &stats);
    return stats.keys;
}


/* The ARN of the KMS key that sealed that key; "" if there is no such key. */
static const char *
arn_of(struct world *w, const char *key_id)
{
    static char arn[256];
    kaws_walk *walk;
    kaws_entry_info info;

    arn[0] = '\0';
    EXPECT(w, KAWS_OK, NULL, kaws_walk_begin(w->ring, &walk, &w->err));
    while (kaws_walk_next(walk, &info))
        if (strcmp(info.name.key_id, key_id) == 0)
            (void)snprintf(arn, sizeof arn, "%s", info.kms_key_arn);
    kaws_walk_end(walk);
    return arn;
}


static uint8_t *snapped;
static size_t snapped_len;


static void
snap(struct world *w)
{
    free(snapped);
    snapped = slurp(w->f.data, &snapped_len);
    assert_non_null(snapped);
}


/* The file is as it was, but for the cell: that may say less, or more. */
static void
expect_same_file(struct world *w)
{
    size_t len;
    uint8_t *now = slurp(w->f.data, &len);

    assert_non_null(now);
    assert_int_equal(len, snapped_len);
    assert_memory_equal(now, snapped, 32);
    assert_memory_equal(now + 48, snapped + 48, len - 48);
    free(now);
    free(snapped);
    snapped = NULL;
}


static uint64_t
cell_of(struct world *w)
{
    size_t len;
    uint8_t *all = slurp(w->f.data, &len);
    uint64_t committed;

    assert_non_null(all);
    assert_true(len >= 80);
    committed = kaws__store_get(all + 32, 8);
    free(all);
    return committed;
}


static int
there(struct world *w, const char *suffix)
{
    char path[200];
    struct stat st;

    (void)snprintf(path, sizeof path, "%s%s", w->f.data, suffix);
    return lstat(path, &st) == 0;
}


/* ---- arguments --------------------------------------------------------- */

static char long_name[300];


static void
test_bad_names(void **state)
{
    struct world *w = *state;
    kaws_bytes plain = kaws__buf_of("0123456789abcdef");
    kaws_name bad[5];
    kaws_key key;
    size_t i;

    memset(long_name, 'n', sizeof long_name);
    long_name[256] = '\0';
    bad[0] = name_of(NULL, NULL);
    bad[1] = name_of(NULL, "u");
    bad[2] = name_of("", "u");
    bad[3] = name_of(long_name, "u");
    bad[4] = name_of("k", long_name);
    for (i = 0; i < COUNT(bad); i++) {
        EXPECT(w, KAWS_ARGUMENT, i < 4 ? "the key id is" : "the user id is",
               kaws_generate(w->ring, bad[i], "AES", 32, &w->err));
        EXPECT(w, KAWS_ARGUMENT, "bad argument",
               kaws_store(w->ring, bad[i], "AES", plain, &w->err));
        EXPECT(w, KAWS_ARGUMENT, "bad argument",
               kaws_fetch(w->ring, bad[i], &key, &w->err));
        EXPECT(w, KAWS_ARGUMENT, "bad argument",
               kaws_remove(w->ring, bad[i], &w->err));
    }
    assert_int_equal(w->f.requests, 0);
}


static void
test_bad_types_and_lengths(void **state)
{
    static const char *const types[] = {
        NULL, "", "A B", "ABCDEFGHIJKLMNOP", "A\n", "\xc3\xa4", "\xff", "A%",
        "A'", "AES;"
    };
    static const size_t lengths[] = { 0, 1025, 4096, SIZE_MAX };
    static uint8_t big[5000];
    struct world *w = *state;
    kaws_name name = name_of("k", "u");
    kaws_bytes plain = { big, 16 };
    size_t i;

    for (i = 0; i < COUNT(types); i++) {
        EXPECT(w, KAWS_ARGUMENT, "the key type is not",
               kaws_generate(w->ring, name, types[i], 32, &w->err));
        EXPECT(w, KAWS_ARGUMENT, "the key type is not",
               kaws_store(w->ring, name, types[i], plain, &w->err));
    }
    for (i = 0; i < COUNT(lengths); i++)
        EXPECT(w, KAWS_ARGUMENT, "1 to 1024 bytes",
               kaws_generate(w->ring, name, "AES", lengths[i], &w->err));
    plain.len = 0;
    EXPECT(w, KAWS_ARGUMENT, "1 to 4096 bytes",
           kaws_store(w->ring, name, "AES", plain, &w->err));
    plain.len = 4097;
    EXPECT(w, KAWS_ARGUMENT, "1 to 4096 bytes",
           kaws_store(w->ring, name, "AES", plain, &w->err));
    plain.len = SIZE_MAX;
    EXPECT(w, KAWS_ARGUMENT, "1 to 4096 bytes",
           kaws_store(w->ring, name, "AES", plain, &w->err));
    plain.at = NULL;
    plain.len = 16;
    EXPECT(w, KAWS_ARGUMENT, "1 to 4096 bytes",
           kaws_store(w->ring, name, "AES", plain, &w->err));
    assert_int_equal(w->f.requests, 0);
    assert_int_equal(keys_of(w), 0);
}


#define NULLS(call) EXPECT(w, KAWS_ARGUMENT, "bad argument", call)

static void
test_null(void **state)
{
    struct world *w = *state;
    kaws_name name = name_of("k", "u");
    kaws_bytes plain = kaws__buf_of("0123456789abcdef");
    kaws_walk *walk = (kaws_walk *)(void *)w;
    kaws *ring = w->ring, *none = ring;
    kaws_key key;

    NULLS(kaws_open(NULL, &w->cfg, &w->err));
    NULLS(kaws_open(&none, NULL, &w->err));
    assert_null(none);
    NULLS(kaws_check(NULL, &w->err));
    NULLS(kaws_generate(NULL, name, "AES", 32, &w->err));
    NULLS(kaws_store(NULL, name, "AES", plain, &w->err));
    memset(&key, 0x77, sizeof key);
    NULLS(kaws_fetch(NULL, name, &key, &w->err));
    assert_null(key.bytes);
    NULLS(kaws_fetch(ring, name, NULL, &w->err));
    NULLS(kaws_remove(NULL, name, &w->err));
    NULLS(kaws_walk_begin(NULL, &walk, &w->err));
    assert_null(walk);
    NULLS(kaws_walk_begin(ring, NULL, &w->err));
    NULLS(kaws_use_kms_key(NULL, FAKE_EAST, &w->err));
    NULLS(kaws_use_kms_key(ring, NULL, &w->err));
    NULLS(kaws_use_region(NULL, "us-east-1", &w->err));
    NULLS(kaws_use_region(ring, NULL, &w->err));
    NULLS(kaws_use(NULL, FAKE_EAST, "us-east-1", &w->err));
    NULLS(kaws_try(NULL, FAKE_EAST, "us-east-1", &w->err));
    NULLS(kaws_reload_creds(NULL, &w->err));
    NULLS(kaws_rotate_kms_key(NULL, &w->err));
    NULLS(kaws_rewrap_all(NULL, &w->err));
    assert_int_equal(w->f.requests, 0);
}


static void
test_null_for_kms(void **state)
{
    struct world *w = *state;
    kaws_bytes plain = kaws__buf_of("0123456789abcdef");
    kaws *ring = w->ring;
    kaws_sealed sealed;
    uint8_t room[32];
    size_t len = sizeof room;

    memset(&sealed, 0, sizeof sealed);
    sealed.blob_len = 1;
    NULLS(kaws_kms_generate_data_key(NULL, NULL, 1, NULL, &sealed, &w->err));
    NULLS(kaws_kms_generate_data_key(ring, NULL, 1, NULL, NULL, &w->err));
    NULLS(kaws_kms_encrypt(NULL, NULL, plain, &sealed, &w->err));
    NULLS(kaws_kms_encrypt(ring, NULL, plain, NULL, &w->err));
    plain.at = NULL;
    NULLS(kaws_kms_encrypt(ring, NULL, plain, &sealed, &w->err));
    NULLS(kaws_kms_decrypt(NULL, NULL, &sealed, room, &len, &w->err));
    NULLS(kaws_kms_decrypt(ring, NULL, NULL, room, &len, &w->err));
    NULLS(kaws_kms_decrypt(ring, NULL, &sealed, NULL, &len, &w->err));
    NULLS(kaws_kms_decrypt(ring, NULL, &sealed, room, NULL, &w->err));
    NULLS(kaws_kms_reencrypt(NULL, NULL, &sealed, &sealed, &w->err));
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
    kaws_walk *walk;
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
    EXPECT(w, KAWS_OK, NULL, kaws_walk_begin(w->ring, &walk, &w->err));
    assert_int_equal(kaws_walk_next(walk, NULL), 0);
    kaws_walk_end(walk);
}


/* Without a place for the error, the answers are the same. */
static void
test_no_error_wanted(void **state)
{
    struct world *w = *state;
    kaws_name name = name_of("k", "u");
    kaws_bytes plain = kaws__buf_of("0123456789abcdef");
    kaws_config cfg = w->cfg;
    kaws_sealed sealed;
    kaws_walk *walk;
    kaws_key key;
    kaws *ring = w->ring, *none;
    uint8_t room[32];
    size_t len = sizeof room;

    cfg.region = "nowhere";
    assert_int_equal(kaws_open(&none, &cfg, NULL), KAWS_CONFIG);
    cfg = w->cfg;
    cfg.kms_key_id = "a b";
    assert_int_equal(kaws_open(&none, &cfg, NULL), KAWS_CONFIG);
    assert_int_equal(kaws_open(NULL, NULL, NULL), KAWS_ARGUMENT);
    assert_int_equal(kaws_check(ring, NULL), KAWS_OK);
    assert_int_equal(kaws_generate(ring, name, "AES", 32, NULL), KAWS_OK);
    assert_int_equal(kaws_generate(ring, name, "AES", 32, NULL), KAWS_EXISTS);
    assert_int_equal(kaws_store(ring, name, "AES", plain, NULL), KAWS_EXISTS);
    assert_int_equal(kaws_fetch(ring, name, &key, NULL), KAWS_OK);
    kaws_key_free(ring, &key);
    assert_int_equal(kaws_remove(ring, name, NULL), KAWS_OK);
    assert_int_equal(kaws_remove(ring, name, NULL), KAWS_NOT_FOUND);
    assert_int_equal(kaws_fetch(ring, name, &key, NULL), KAWS_NOT_FOUND);
    assert_int_equal(kaws_walk_begin(ring, &walk, NULL), KAWS_OK);
    kaws_walk_end(walk);
    assert_int_equal(kaws_use_kms_key(ring, FAKE_EAST2, NULL), KAWS_OK);
    assert_int_equal(kaws_use_kms_key(ring, "a b", NULL), KAWS_ARGUMENT);
    assert_int_equal(kaws_use_region(ring, "us-west-2", NULL), KAWS_OK);
    assert_int_equal(kaws_use_kms_key(ring, NULL, NULL), KAWS_ARGUMENT);
    assert_int_equal(kaws_use_region(ring, NULL, NULL), KAWS_ARGUMENT);
    assert_int_equal(kaws_try(ring, NULL, NULL, NULL), KAWS_OK);
    assert_int_equal(kaws_use(ring, NULL, NULL, NULL), KAWS_OK);
    assert_int_equal(kaws_reload_creds(ring, NULL), KAWS_OK);
    assert_int_equal(kaws_rotate_kms_key(ring, NULL), KAWS_OK);
    assert_int_equal(kaws_rewrap_all(ring, NULL), KAWS_OK);
    assert_int_equal(kaws_kms_encrypt(ring, NULL, plain, &sealed, NULL),
                     KAWS_OK);
    assert_int_equal(kaws_kms_reencrypt(ring, NULL, &sealed, &sealed, NULL),
                     KAWS_OK);
    assert_int_equal(kaws_kms_decrypt(ring, NULL, &sealed, room, &len, NULL),
                     KAWS_OK);
    assert_int_equal(kaws_kms_generate_data_key(ring, NULL, 9, NULL, &sealed,
                                                NULL), KAWS_OK);
    fake_push(&w->f, (fake_script){ .error = "AccessDeniedException" });
    assert_int_equal(kaws_check(ring, NULL), KAWS_DENIED);
}


static void
test_bad_contexts(void **state)
{
    static const kaws_pair pairs[][1] = {
        { { NULL, "v" } }, { { "n", NULL } }, { { "", "v" } }, { { "n", "" } },
        { { "\xff", "v" } }, { { "n", "\xc3" } }, { { "n", "\xed\xa0\x80" } }
    };
    struct world *w = *state;
    kaws_bytes plain = kaws__buf_of("0123456789abcdef");
    kaws_context context = { NULL, 1 };
    kaws_sealed sealed;
    uint8_t room[32];
    size_t i, len = sizeof room;

    memset(&sealed, 0, sizeof sealed);
    sealed.blob_len = 1;
    for (i = 0; i <= COUNT(pairs); i++) {
        context.pairs = i < COUNT(pairs) ? pairs[i] : NULL;
        EXPECT(w, KAWS_ARGUMENT, "context", kaws_kms_generate_data_key(
            w->ring, &context, 16, NULL, &sealed, &w->err));
        EXPECT(w, KAWS_ARGUMENT, "context", kaws_kms_encrypt(
            w->ring, &context, plain, &sealed, &w->err));
        EXPECT(w, KAWS_ARGUMENT, "context", kaws_kms_decrypt(
            w->ring, &context, &sealed, room, &len, &w->err));
        EXPECT(w, KAWS_ARGUMENT, "context", kaws_kms_reencrypt(
            w->ring, &context, &sealed, &sealed, &w->err));
    }
    assert_int_equal(w->f.requests, 0);
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
        EXPECT(w, KAWS_ARGUMENT, "1 to 6144 bytes", kaws_kms_decrypt(
            w->ring, NULL, &sealed, room, &len, &w->err));
        memset(&out, 0x77, sizeof out);
        EXPECT(w, KAWS_ARGUMENT, "1 to 6144 bytes", kaws_kms_reencrypt(
            w->ring, NULL, &sealed, &out, &w->err));
        assert_memory_equal(&out, &none, sizeof out);
    }
    sealed.blob_len = 1;
    for (i = 0; i < COUNT(arns); i++) {
        (void)snprintf(sealed.kms_key_arn, sizeof sealed.kms_key_arn, "%s",
                       arns[i]);
        EXPECT(w, KAWS_ARGUMENT, "kms_key_arn", kaws_kms_decrypt(
            w->ring, NULL, &sealed, room, &len, &w->err));
        EXPECT(w, KAWS_ARGUMENT, "kms_key_arn", kaws_kms_reencrypt(
            w->ring, NULL, &sealed, &out, &w->err));
    }
    memset(sealed.kms_key_arn, 'a', sizeof sealed.kms_key_arn);
    EXPECT(w, KAWS_ARGUMENT, "has no end", kaws_kms_decrypt(
        w->ring, NULL, &sealed, room, &len, &w->err));
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
               kaws_kms_generate_data_key(w->ring, NULL, keys[i], room,
                                          &sealed, &w->err));
        for (k = 0; k < sizeof room; k++)
            assert_int_equal(room[k], i == 1 && k < 1025 ? 0 : 0x77);
        plain.len = plains[i];
        EXPECT(w, KAWS_ARGUMENT, i < 2 ? "1 to 4096 bytes" : "overlap",
               kaws_kms_encrypt(w->ring, NULL, plain, &sealed, &w->err));
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


/* Whatever is wrong, *out and the room at `plain` are zeros then. */
static void
test_failures_leave_zeros(void **state)
{
    static const kaws_pair nameless = { "", "x" };
    static const kaws_context bad = { &nameless, 1 };
    struct world *w = *state;
    kaws *rings[2];
    kaws_bytes ten = kaws__buf_of("0123456789"), none = { NULL, 10 };
    kaws_sealed in, out;
    uint8_t room[40];
    size_t len, i;

    rings[0] = NULL;
    rings[1] = w->ring;
    memset(&in, 0, sizeof in);
    for (i = 0; i < 4; i++) {
        kaws *ring = rings[i / 2];
        const kaws_context *ctx = i % 2 ? &bad : NULL;
        if (i == 2)
            fake_push(&w->f, (fake_script){ .error = "AccessDeniedException",
                                            .times = 2 });
        memset(&out, 0x77, sizeof out);
        memset(room, 0x77, sizeof room);
        assert_int_not_equal(kaws_kms_generate_data_key(
            ring, ctx, sizeof room, room, &out, &w->err), KAWS_OK);
        ALL(out, 0);
        ALL(room, 0);
        memset(&out, 0x77, sizeof out);
        assert_int_not_equal(kaws_kms_encrypt(ring, ctx, ten, &out, &w->err),
                             KAWS_OK);
        ALL(out, 0);
        memset(&out, 0x77, sizeof out);
        assert_int_equal(kaws_kms_reencrypt(ring, ctx, &in, &out, &w->err),
                         KAWS_ARGUMENT);
        ALL(out, 0);
        memset(room, 0x77, sizeof room);
        len = sizeof room;
        assert_int_equal(kaws_kms_decrypt(ring, ctx, &in, room, &len, &w->err),
                         KAWS_ARGUMENT);
        ALL(room, 0);
        ALL(len, 0);
    }
    memset(&out, 0x77, sizeof out);
    NULLS(kaws_kms_encrypt(w->ring, NULL, none, &out, &w->err));
    ALL(out, 0);
    memset(&out, 0x77, sizeof out);
    NULLS(kaws_kms_reencrypt(w->ring, NULL, NULL, &out, &w->err));
    ALL(out, 0);
    memset(room, 0x77, sizeof room);
    NULLS(kaws_kms_generate_data_key(w->ring, NULL, sizeof room, room, NULL,
                                     &w->err));
    ALL(room, 0);
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
        EXPECT(w, KAWS_ARGUMENT, "overlap", kaws_kms_generate_data_key(
            w->ring, NULL, 10, places[i], first, &w->err));
        assert_int_equal(kaws_kms_generate_data_key(NULL, NULL, 4097, places[i],
                                                    first, NULL),
                         KAWS_ARGUMENT);
        plain.at = places[i];
        EXPECT(w, KAWS_ARGUMENT, "overlap", kaws_kms_encrypt(
            w->ring, NULL, plain, first, &w->err));
        EXPECT(w, KAWS_ARGUMENT, "overlap", kaws_kms_decrypt(
            w->ring, NULL, first, places[i], &len, &w->err));
        ALL(u, 0x77);
        *inside = 10;                     /* *plain_len in *in                */
        EXPECT(w, KAWS_ARGUMENT, "overlap", kaws_kms_decrypt(
            w->ring, NULL, first, room, inside, &w->err));
        assert_int_equal(*inside, 10);    /* *plain_len in `plain`            */
        EXPECT(w, KAWS_ARGUMENT, "overlap", kaws_kms_decrypt(
            w->ring, NULL, &other, (uint8_t *)inside - i, inside, &w->err));
        assert_int_equal(*inside, 10);
        memset(&u, 0x77, sizeof u);
    }
    EXPECT(w, KAWS_ARGUMENT, "overlap", kaws_kms_reencrypt(
        w->ring, NULL, first, (kaws_sealed *)(void *)(at + 8), &w->err));
    EXPECT(w, KAWS_ARGUMENT, "overlap", kaws_kms_reencrypt(
        w->ring, NULL, (kaws_sealed *)(void *)(at + 8), first, &w->err));
    ALL(u, 0x77);
    assert_int_equal(len, sizeof room);
    assert_int_equal(w->f.requests, 0);

    EXPECT(w, KAWS_OK, NULL, kaws_kms_generate_data_key(   /* side by side    */
        w->ring, NULL, 10, end, first, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_kms_generate_data_key(
        w->ring, NULL, 10, end - 10, second, &w->err));
    plain.at = end - 10;
    EXPECT(w, KAWS_OK, NULL, kaws_kms_encrypt(w->ring, NULL, plain, second,
                                              &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_kms_reencrypt(w->ring, NULL, second, first,
                                                &w->err));
}


static void
test_bad_keys_and_regions(void **state)
{
    static const char *const keys[] = { "", "a b", "alias/\xff", "a:b",
        "arn:aws:kms:us-east-1:1:key/x", "a\n", "'; --" };
    static const char *const regions[] = { "", "us", "US-EAST-1", "us-east-1.x",
        "\xff", "us-east-1 ", "eu-central-1/../" };
    struct world *w = *state;
    size_t i;

    memset(long_name, 'k', 256);
    long_name[256] = '\0';
    for (i = 0; i < COUNT(keys); i++)
        EXPECT(w, KAWS_ARGUMENT, "is not the id, ARN or alias",
               kaws_use_kms_key(w->ring, keys[i], &w->err));
    EXPECT(w, KAWS_ARGUMENT, "is not the id, ARN or alias",
           kaws_use_kms_key(w->ring, long_name, &w->err));
    for (i = 0; i < COUNT(regions); i++)
        EXPECT(w, KAWS_ARGUMENT, "is not a region of AWS",
               kaws_use_region(w->ring, regions[i], &w->err));
    EXPECT(w, KAWS_ARGUMENT, "is not a region of AWS",
           kaws_use_region(w->ring, long_name, &w->err));
    assert_int_equal(w->f.requests, 0);
    assert_string_equal(w->ring->kms.trust.now.region, "us-east-1");
    assert_string_equal(w->ring->kms.trust.now.target.key_id, FAKE_EAST);
}


/* ---- opening ----------------------------------------------------------- */

static void
test_bad_settings(void **state)
{
    struct world *w = *state;
    kaws_config good = w->cfg;
    kaws *ring;

#define REFUSED(words) do {                                                   \
        ring = (kaws *)(void *)w;                                             \
        EXPECT(w, KAWS_CONFIG, words, kaws_open(&ring, &w->cfg, &w->err));    \
        assert_null(ring);                                                    \
        assert_int_equal(w->f.live, 0);                                       \
        w->cfg = good;                                                        \
    } while (0)

    w->cfg.conf_file = NULL;
    REFUSED("conf_file is not set");
    w->cfg.conf_file = "";
    REFUSED("cannot read the conf file");
    w->cfg.conf_file = "/nowhere/conf";
    REFUSED("/nowhere/conf");
    w->cfg.data_file = "";
    REFUSED("data_file is empty");
    w->cfg.region = "";
    REFUSED("region ''");
    w->cfg.region = "us-east-1\n";
    REFUSED("region 'us-east-1\\x0a' is not a region of AWS");
    w->cfg.kms_key_id = "";
    REFUSED("'' is not the id");
    w->cfg.kms_key_id = "alias/\xff";
    REFUSED("'alias/\\xff' is not the id");
    w->cfg.accounts = "1234";
    REFUSED("accounts is not a list");
    w->cfg.endpoint = "http://example.com";
    REFUSED("endpoint 'http://example.com' is not of the form");
    w->cfg.endpoint = "";
    REFUSED("endpoint ''");
    assert_false(there(w, ""));           /* nothing was made on the way      */
    assert_false(there(w, ".lock"));

}


static int randoms_left;


static int
random_ends(void *ctx, void *out, size_t len)
{
    return randoms_left-- > 0 ? fake_random(ctx, out, len) : EIO;
}


/* Chance is needed for the table's seed and, where a file is made, its id. */
static void
test_no_random(void **state)
{
    struct world *w = *state;
    kaws *ring;
    int n;

    w->cfg.hooks.random = random_ends;
    for (n = 0; n < 2; n++) {
        randoms_left = n;
        ring = (kaws *)(void *)w;
        EXPECT(w, KAWS_RANDOM, "no random bytes",
               kaws_open(&ring, &w->cfg, &w->err));
        assert_null(ring);
        assert_false(there(w, ""));
        assert_int_equal(w->f.live, 0);
    }
    randoms_left = 2;
    world_open(w);
    world_close(w);
    randoms_left = 1;
    world_open(w);
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
        assert_false(there(w, ".lock"));
    }
    scarce_left = -1;
    EXPECT(w, KAWS_OK, NULL, status);
    assert_int_equal(n, 8);               /* seven locks and a page           */
    assert_int_equal(locks, before + 7);
    world_close(w);
    assert_int_equal(locks, before);
}

#endif


/* A new file: its bytes, its mode, and what is said about it. */
static void
test_new_file(void **state)
{
    struct world *w = *state;
    struct stat st;
    kaws_stats stats;

    umask(0);
    world_open(w);
    umask(022);
    assert_int_equal(stat(w->f.data, &st), 0);
    assert_int_equal(st.st_size, 80);
    has_mode(w->f.data, 0600);
    assert_int_equal(cell_of(w), 80);
    assert_int_equal(fake_logged(&w->f, 1, "a new, empty keyring was made"), 1);
    assert_int_equal(fake_logged(&w->f, 1, w->f.data), 1);
    assert_int_equal(fake_logged(&w->f, 2, "0 keys, checksum begins with"), 1);
    assert_int_equal(w->f.requests, 0);
    snap(w);
    kaws_get_stats(w->ring, &stats);
    assert_memory_equal(stats.checksum, snapped + 48, 32);
    fake_forget_log(&w->f);
    world_reopen(w);
    expect_same_file(w);
    assert_int_equal(fake_logged(&w->f, 1, ""), 0);
    assert_int_equal(fake_logged(&w->f, 2, "opened"), 1);
}


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
    EXPECT(w, KAWS_OK, NULL, kaws_open(&w->ring, &cfg, &w->err));
    memset(text, 'X', sizeof text);
    memset(&cfg, 0, sizeof cfg);
    EXPECT(w, KAWS_OK, NULL, store(w, "k", "text"));
    EXPECT(w, KAWS_OK, NULL, kaws_reload_creds(w->ring, &w->err));
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
    EXPECT(w, KAWS_OK, NULL, kaws_open(&w->ring, &cfg, &w->err));
    assert_string_equal(w->ring->file.path, want);
    assert_string_equal(w->ring->kms.calls.creds.sources.conf_file, w->f.conf);
    cfg.data_file = want;
    EXPECT(w, KAWS_OK, NULL, kaws_open(&again, &cfg, &w->err));
    assert_int_equal(fake_logged(&w->f, 1, "is in use by another process"), 1);
    kaws_close(again);
    assert_int_equal(remove(w->ring->file.lock), 0);
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


/* ---- keys -------------------------------------------------------------- */

static void
test_lengths(void **state)
{
    static const size_t lengths[] = { 1, 2, 15, 16, 24, 32, 33, 1023, 1024 };
    static const size_t longer[] = { 1, 1025, 4095, 4096 };
    static uint8_t plain[4096];
    struct world *w = *state;
    kaws_bytes view;
    kaws_key key;
    char name[32];
    size_t i;

    for (i = 0; i < sizeof plain; i++)
        plain[i] = (uint8_t)(i * 13 + i / 256);
    for (i = 0; i < COUNT(lengths); i++) {
        (void)snprintf(name, sizeof name, "g%lu", (unsigned long)lengths[i]);
        EXPECT(w, KAWS_OK, NULL, kaws_generate(w->ring, name_of(name, "u"),
                                               "a-Z_9", lengths[i], &w->err));
    }
    for (i = 0; i < COUNT(longer); i++) {
        (void)snprintf(name, sizeof name, "s%lu", (unsigned long)longer[i]);
        view.at = plain;
        view.len = longer[i];
        EXPECT(w, KAWS_OK, NULL, kaws_store(w->ring, name_of(name, "u"),
                                            "ABCDEFGHIJKLMNO", view, &w->err));
    }
    assert_int_equal(fake_calls(&w->f, "GenerateDataKeyWithoutPlaintext"), 9);
    assert_int_equal(fake_calls(&w->f, "Encrypt"), 4);
    world_reopen(w);
    for (i = 0; i < COUNT(lengths); i++) {
        (void)snprintf(name, sizeof name, "g%lu", (unsigned long)lengths[i]);
        EXPECT(w, KAWS_OK, NULL,
               kaws_fetch(w->ring, name_of(name, "u"), &key, &w->err));
        assert_int_equal(key.len, lengths[i]);
        assert_string_equal(key.type, "a-Z_9");
        kaws_key_free(w->ring, &key);
    }
    for (i = 0; i < COUNT(longer); i++) {
        (void)snprintf(name, sizeof name, "s%lu", (unsigned long)longer[i]);
        EXPECT(w, KAWS_OK, NULL,
               kaws_fetch(w->ring, name_of(name, "u"), &key, &w->err));
        assert_int_equal(key.len, longer[i]);
        assert_memory_equal(key.bytes, plain, key.len);
        assert_string_equal(key.type, "ABCDEFGHIJKLMNO");
        kaws_key_free(w->ring, &key);
    }
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

    EXPECT(w, KAWS_OK, NULL, store(w, "first", "one"));
    for (i = 0; i < COUNT(rows); i++) {
        snap(w);
        fake_push(&w->f, rows[i].script);
        EXPECT(w, rows[i].status, rows[i].words,
               store(w, "k", i % 2 ? "two" : "TWO"));
        expect_same_file(w);
        expect_no_key(w, "k", KAWS_NOT_FOUND);
        memset(w->f.scripts, 0, sizeof w->f.scripts);
    }

    /* Who may not decrypt has it stored all the same. */
    fake_push(&w->f, (fake_script){ .action = "Decrypt", .times = 2,
                                    .error = "AccessDeniedException" });
    EXPECT(w, KAWS_OK, NULL, store(w, "k", "two"));
    EXPECT(w, KAWS_OK, NULL, store(w, "l", "three"));
    assert_int_equal(fake_logged(&w->f, 2, "takes kms:Decrypt"), 1);
    expect_text(w, "first", "one");
    expect_text(w, "k", "two");
    expect_text(w, "l", "three");
}


/* What can be told without KMS is told without KMS. */
static void
test_exists_and_not_found(void **state)
{
    struct world *w = *state;

    EXPECT(w, KAWS_OK, NULL, store(w, "k", "one"));
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
    EXPECT(w, KAWS_OK, NULL, drop(w, "k"));
    expect_no_key(w, "k", KAWS_NOT_FOUND);
    EXPECT(w, KAWS_OK, NULL, store(w, "k", "three"));
    expect_text(w, "k", "three");
    assert_int_equal(keys_of(w), 1);
}


static void
test_owners(void **state)
{
    static const char *const owners[] = { NULL, "", "u", "U", "u ", "v" };
    struct world *w = *state;
    kaws_key key;
    char text[8] = "text ?";
    size_t i;

    for (i = 0; i < COUNT(owners); i++) {
        text[5] = (char)('0' + i);
        EXPECT(w, i == 1 ? KAWS_EXISTS : KAWS_OK, NULL,
               kaws_store(w->ring, name_of("k", owners[i]), "SECRET",
                          kaws__buf_of(text), &w->err));
    }
    for (i = 0; i < COUNT(owners); i++) {
        EXPECT(w, KAWS_OK, NULL,
               kaws_fetch(w->ring, name_of("k", owners[i]), &key, &w->err));
        assert_int_equal(key.bytes[5], i == 1 ? '0' : '0' + (int)i);
        kaws_key_free(w->ring, &key);
    }
    EXPECT(w, KAWS_OK, NULL, kaws_remove(w->ring, name_of("k", ""), &w->err));
    EXPECT(w, KAWS_NOT_FOUND, NULL,
           kaws_remove(w->ring, name_of("k", NULL), &w->err));
    assert_int_equal(keys_of(w), 4);
}


/* Any bytes but NUL make a name; what KMS is told of it is printable ASCII, and
 * another for every name. */
static void
test_any_name(void **state)
{
    static const struct { const char *key, *user, *told; } rows[] = {
        { "plain name", NULL,
          "\"key_id\":\"plain name\",\"key_type\":\"AES\"}" },
        { "a", "b", "\"key_id\":\"a\",\"key_type\":\"AES\","
          "\"user_id\":\"b\"}" },
        { "100%", "%25", "\"key_id\":\"100%25\",\"key_type\":\"AES\","
          "\"user_id\":\"%2525\"}" },
        { "100%25", "%", "\"key_id\":\"100%2525\",\"key_type\":\"AES\","
          "\"user_id\":\"%25\"}" },
        { "q\"\\", "\n\x7f", "\"key_id\":\"q\\\"\\\\\",\"key_type\":\"AES\","
          "\"user_id\":\"%0A%7F\"}" },
        { "\xc3\xa4\xff\x01", "\xed\xa0\x80",
          "\"key_id\":\"%C3%A4%FF%01\",\"key_type\":\"AES\","
          "\"user_id\":\"%ED%A0%80\"}" }
    };
    struct world *w = *state;
    char key_id[256], user_id[256], want[128];
    kaws_key key;
    size_t i;

    (void)snprintf(want, sizeof want, "\"EncryptionContext\":{\"app\":"
                   "\"keyring_aws\",\"file\":\"%s\",", w->ring->file_hex);
    for (i = 0; i < COUNT(rows); i++) {
        kaws_name name = name_of(rows[i].key, rows[i].user);
        EXPECT(w, KAWS_OK, NULL, kaws_generate(w->ring, name, "AES", 32,
                                               &w->err));
        assert_non_null(strstr(w->f.body, want));
        assert_non_null(strstr(w->f.body, rows[i].told));
        EXPECT(w, KAWS_OK, NULL, kaws_fetch(w->ring, name, &key, &w->err));
        assert_non_null(strstr(w->f.body, rows[i].told));
        kaws_key_free(w->ring, &key);
    }
    for (i = 0; i < 255; i++) {
        key_id[i] = (char)(255 - i);
        user_id[i] = (char)0xff;
    }
    key_id[255] = user_id[255] = '\0';
    EXPECT(w, KAWS_OK, NULL, kaws_generate(w->ring, name_of(key_id, user_id),
                                           "AES", 32, &w->err));
    world_reopen(w);
    EXPECT(w, KAWS_OK, NULL, kaws_fetch(w->ring, name_of(key_id, user_id),
                                        &key, &w->err));
    kaws_key_free(w->ring, &key);
    assert_int_equal(keys_of(w), COUNT(rows) + 1);
}


/* Something happens while KMS is asked for that action: once. */
static struct {
    const char *action;
    int         skip, fired;
    void      (*what)(struct world *);
    kaws_status status;
} meanwhile;


static void
on_send(struct fake *f, const char *action)
{
    if (meanwhile.fired || strcmp(action, meanwhile.action) != 0 ||
        meanwhile.skip-- > 0)
        return;
    meanwhile.fired = 1;
    meanwhile.what(f->user);
}


static void
while_asked(struct world *w, const char *action, int skip,
            void (*what)(struct world *))
{
    meanwhile.action = action;
    meanwhile.skip = skip;
    meanwhile.fired = 0;
    meanwhile.what = what;
    w->f.user = w;
    w->f.on_send = on_send;
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
    EXPECT(w, KAWS_OK, NULL, store(w, "before", "x"));
    assert_int_equal(meanwhile.status, KAWS_OK);
    EXPECT(w, KAWS_OK, NULL, store(w, "after", "x"));
    assert_string_equal(arn_of(w, "before"), FAKE_EAST);
    assert_string_equal(arn_of(w, "after"), FAKE_WEST);
    world_reopen(w);
    expect_text(w, "k", "the first");
    expect_text(w, "before", "x");
    expect_text(w, "after", "x");
}


/* Replies that are no replies: neither file nor table changes. */
static void
test_bad_replies_change_nothing(void **state)
{
    static const struct { const char *from, *to; } bent[] = {
        { "{", "<" }, { "\"KeyId\"", "\"Key\"" }, { FAKE_EAST, FAKE_EAST2 },
        { FAKE_EAST, FAKE_FOREIGN }, { "\"CiphertextBlob\":\"", "\"x\":\"" },
        { "\"CiphertextBlob\":\"", "\"CiphertextBlob\":\"=" },
        { "\"Plaintext\":\"", "\"Plaintext\":\"AAAA" }
    };
    struct world *w = *state;
    kaws_status status;
    size_t i;

    EXPECT(w, KAWS_OK, NULL, store(w, "k", "text"));
    snap(w);
    for (i = 0; i < COUNT(bent); i++) {
        fake_script script = { .from = bent[i].from, .to = bent[i].to };
        if (i < 6) {
            script.action = "GenerateDataKeyWithoutPlaintext";
            fake_push(&w->f, script);
            EXPECT(w, KAWS_REPLY, NULL, generate(w, "new"));
            script.action = "Encrypt";
            fake_push(&w->f, script);
            EXPECT(w, KAWS_REPLY, NULL, store(w, "new", "x"));
            script.action = "ReEncrypt";
            fake_push(&w->f, script);
            EXPECT(w, KAWS_REPLY, "re-wrapping the key 'k' failed",
                   kaws_rewrap_all(w->ring, &w->err));
        }
        script.action = "Decrypt";
        fake_push(&w->f, script);
        status = i == 4 || i == 5 ? KAWS_OK
               : i == 6 ? KAWS_MISMATCH : KAWS_REPLY;
        if (status == KAWS_OK)
            expect_text(w, "k", "text");
        else
            expect_no_key(w, "k", status);
        memset(w->f.scripts, 0, sizeof w->f.scripts);
    }
    assert_int_equal(keys_of(w), 1);
    expect_same_file(w);
    world_reopen(w);
    expect_text(w, "k", "text");
}


/* A clock that is no clock must not make the file one that cannot be read. */
static void
test_absurd_clock(void **state)
{
    static const int64_t clocks[] = { -86400000, INT64_MIN, INT64_MAX,
                                      253402300800000, 0 };
    struct world *w = *state;
    char name[8];
    size_t i;

    w->cfg.timeout_ms = 1;
    world_reopen(w);
    for (i = 0; i < COUNT(clocks); i++) {
        w->f.now_ms = clocks[i] == INT64_MAX ? INT64_MAX - 1000 : clocks[i];
        fake_push(&w->f, (fake_script){
            .body = "{\"CiphertextBlob\":\"AAAA\",\"KeyId\":\"" FAKE_EAST
                    "\"}" });
        (void)snprintf(name, sizeof name, "k%lu", (unsigned long)i);
        EXPECT(w, KAWS_OK, NULL, generate(w, name));
    }
    w->f.now_ms = 1795000000000;
    world_reopen(w);
    assert_int_equal(keys_of(w), COUNT(clocks));
}


/* ---- rings that may do less -------------------------------------------- */

static void
test_read_only(void **state)
{
    struct world *w = *state;
    char lock[128];

    w->cfg.read_only = 1;
    EXPECT(w, KAWS_FILE, "does not exist",
           kaws_open(&w->ring, &w->cfg, &w->err));
    assert_false(there(w, ""));
    assert_false(there(w, ".lock"));

    w->cfg.read_only = 0;
    world_open(w);
    EXPECT(w, KAWS_OK, NULL, store(w, "k", "text"));
    world_close(w);
    (void)snprintf(lock, sizeof lock, "%s.lock", w->f.data);
    assert_int_equal(remove(lock), 0);
    assert_int_equal(chmod(w->f.data, 0400), 0);
    snap(w);
    w->cfg.read_only = 1;
    disk_trace[0] = '\0';
    world_open(w);
    expect_text(w, "k", "text");
    EXPECT(w, KAWS_OK, NULL, kaws_check(w->ring, &w->err));
    EXPECT(w, KAWS_CONFIG, "is read only", store(w, "new", "x"));
    EXPECT(w, KAWS_CONFIG, "is read only", generate(w, "new"));
    EXPECT(w, KAWS_CONFIG, "is read only", drop(w, "k"));
    EXPECT(w, KAWS_CONFIG, "is read only",
           kaws_rewrap_all(w->ring, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_EAST2, &w->err));
    assert_string_equal(arn_of(w, "k"), FAKE_EAST);
    world_close(w);
    assert_string_equal(disk_trace, "");
    expect_same_file(w);
    assert_false(there(w, ".lock"));
}


static void
test_without_data_file(void **state)
{
    struct world *w = *state;
    kaws_entry_info info;
    kaws_walk *walk;
    kaws_key key;

    w->cfg.data_file = NULL;
    world_open(w);
    EXPECT(w, KAWS_CONFIG, "data_file has to be set", generate(w, "k"));
    EXPECT(w, KAWS_CONFIG, "data_file has to be set", store(w, "k", "x"));
    EXPECT(w, KAWS_CONFIG, "data_file has to be set",
           kaws_fetch(w->ring, name_of("k", ""), &key, &w->err));
    EXPECT(w, KAWS_CONFIG, "data_file has to be set", drop(w, "k"));
    EXPECT(w, KAWS_CONFIG, "data_file has to be set",
           kaws_rewrap_all(w->ring, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_walk_begin(w->ring, &walk, &w->err));
    assert_false(kaws_walk_next(walk, &info));
    kaws_walk_end(walk);
    assert_int_equal(w->f.requests, 0);
    EXPECT(w, KAWS_OK, NULL, kaws_check(w->ring, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_rotate_kms_key(w->ring, &w->err));
    assert_int_equal(keys_of(w), 0);
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
    EXPECT(w, KAWS_OK, NULL, store(w, "k", "text"));
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_WEST, &w->err));
    EXPECT(w, KAWS_OK, NULL, store(w, "west", "text"));
    world_close(w);
    w->cfg.kms_key_id = NULL;
    world_open(w);
    w->f.requests = 0;
    EXPECT(w, KAWS_CONFIG, "kms_key_id has to be set", store(w, "new", "x"));
    EXPECT(w, KAWS_CONFIG, "kms_key_id has to be set", generate(w, "new"));
    EXPECT(w, KAWS_CONFIG, "kms_key_id has to be set",
           kaws_check(w->ring, &w->err));
    EXPECT(w, KAWS_CONFIG, "kms_key_id has to be set",
           kaws_rotate_kms_key(w->ring, &w->err));
    EXPECT(w, KAWS_CONFIG, "kms_key_id has to be set",
           kaws_rewrap_all(w->ring, &w->err));
    EXPECT(w, KAWS_CONFIG, "kms_key_id has to be set",
           kaws_kms_encrypt(w->ring, NULL, plain, &sealed, &w->err));
    EXPECT(w, KAWS_CONFIG, "kms_key_id has to be set",
           kaws_kms_generate_data_key(w->ring, NULL, 1, NULL, &sealed,
                                      &w->err));
    assert_int_equal(w->f.requests, 0);
    expect_text(w, "k", "text");
    expect_text(w, "west", "text");
    assert_int_equal(w->f.requests, 2);
    EXPECT(w, KAWS_FOREIGN, FAKE_FOREIGN,
           kaws_use_kms_key(w->ring, FAKE_FOREIGN, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_use_region(w->ring, "us-west-2", &w->err));
    assert_int_equal(w->f.requests, 2);           /* there is nothing to ask  */
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, "alias/app", &w->err));
    EXPECT(w, KAWS_OK, NULL, store(w, "new", "x"));
    assert_string_equal(arn_of(w, "new"), FAKE_WEST);
    EXPECT(w, KAWS_OK, NULL, drop(w, "k"));
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
    w->cfg.kms_key_id = "alias/app";
    world_open(w);
    EXPECT(w, KAWS_OK, NULL, store(w, "k", "text"));
    EXPECT(w, KAWS_FOREIGN, FAKE_FOREIGN,
           kaws_use_kms_key(w->ring, FAKE_FOREIGN, &w->err));
    world_close(w);
    w->cfg.kms_key_id = NULL;
    world_open(w);
    expect_text(w, "k", "text");
    world_close(w);

    (void)snprintf(w->f.keys[0].arn, sizeof w->f.keys[0].arn, "%s", china);
    w->cfg.kms_key_id = china;
    world_open(w);
    EXPECT(w, KAWS_OK, NULL, store(w, "china", "text"));
    expect_text(w, "china", "text");
    expect_no_key(w, "k", KAWS_FOREIGN);
    world_close(w);
    w->cfg.kms_key_id = NULL;
    world_open(w);
    expect_no_key(w, "china", KAWS_FOREIGN);
    expect_no_key(w, "k", KAWS_FOREIGN);
}


/* ---- disks that fail --------------------------------------------------- */

static void
test_disk_full(void **state)
{
    static const struct { const char *call; int skip, os; } rows[] = {
        { "pwrite", 0, EIO }, { "pwrite", 1, ENOSPC }, { "fdatasync", 0, EIO },
        { DISK_LOOK, 0, EMFILE }, { "fstat", 0, EIO }, { "pread", 0, EIO },
        { "fcntl", 0, ENOLCK }, { "fcntl", DISK_OPENS == 0, ENOLCK }
    };
    struct world *w = *state;
    size_t i;

    EXPECT(w, KAWS_OK, NULL, store(w, "k", "text"));
    for (i = 0; i < COUNT(rows); i++) {
        snap(w);
        disk_fail(rows[i].call, rows[i].skip, rows[i].os, 1);
        EXPECT(w, KAWS_FILE, "data", store(w, "new", "x"));
        assert_int_equal(w->err.os, rows[i].os);
        expect_same_file(w);
        expect_no_key(w, "new", KAWS_NOT_FOUND);
        assert_int_equal(keys_of(w), 1);
        disk_heal();
        EXPECT(w, KAWS_OK, NULL, store(w, "new", "x"));
        EXPECT(w, KAWS_OK, NULL, drop(w, "new"));
    }
    world_reopen(w);
    expect_text(w, "k", "text");
}


static void
test_replace_fails(void **state)
{
    static const struct { const char *call; int skip, os; } rows[] = {
        { "unlink", 0, EPERM }, { "open", DISK_OPENS, EACCES },
        { "pwrite", 0, ENOSPC }, { "fdatasync", 0, EIO },
        { DISK_REPLACE, 0, EIO }, { DISK_LOOK, 0, EMFILE },
        { "opendir", 0, EMFILE }
    };
    struct world *w = *state;
    size_t i;
    int rewrap;

    EXPECT(w, KAWS_OK, NULL, store(w, "k", "text"));
    EXPECT(w, KAWS_OK, NULL, store(w, "other", "more"));
    for (i = 0; i < 2 * COUNT(rows); i++) {
        rewrap = i % 2;
        snap(w);
        disk_fail(rows[i / 2].call, rows[i / 2].skip, rows[i / 2].os, 1);
        EXPECT(w, KAWS_FILE, "data",
               rewrap ? kaws_rewrap_all(w->ring, &w->err) : drop(w, "k"));
        disk_heal();
        expect_same_file(w);
        assert_false(there(w, ".tmp"));
        expect_text(w, "k", "text");
        assert_int_equal(keys_of(w), 2);
    }
    EXPECT(w, KAWS_OK, NULL, drop(w, "k"));
    world_reopen(w);
    expect_text(w, "other", "more");
    assert_int_equal(keys_of(w), 1);
}


/* All changes are refused, and what is there can be fetched. */
static void
expect_uncertain(struct world *w, const char *key_id)
{
    int requests = w->f.requests;

    EXPECT(w, KAWS_UNCERTAIN, "reopen the keyring", store(w, "z", "x"));
    EXPECT(w, KAWS_UNCERTAIN, "reopen the keyring", generate(w, "z"));
    assert_int_equal(w->f.requests, requests);
    EXPECT(w, KAWS_UNCERTAIN, "reopen the keyring", drop(w, key_id));
    EXPECT(w, KAWS_UNCERTAIN, "reopen the keyring",
           kaws_rewrap_all(w->ring, &w->err));
    expect_text(w, key_id, "text");
    assert_int_equal(fake_logged(&w->f, -1, "closing the keyring"), 0);
}


/* The disk fails in the middle, and again: memory follows the file. */
static void
test_uncertain(void **state)
{
    static const struct { const char *first; int skip; const char *second;
                          int landed, torn; } rows[] = {
        { "fdatasync", 0, "ftruncate", 1, 0 },
        { "pwrite", 1, "ftruncate", 0, 1 },
        { "pwrite", 1, "fdatasync", 0, 0 },
        { "fdatasync", 0, "fdatasync", 0, 0 }
    };
    struct world *w = *state;
    size_t i;

    EXPECT(w, KAWS_OK, NULL, store(w, "k", "text"));
    for (i = 0; i < COUNT(rows); i++) {
        disk_heal();
        fake_forget_log(&w->f);
        disk_fail(rows[i].first, rows[i].skip, ENOSPC, 1);
        disk_fail(rows[i].second, 0, EIO, 1);
        EXPECT(w, KAWS_UNCERTAIN, "no more is changed",
               store(w, "new", "text"));
        disk_heal();
        if (rows[i].landed)
            expect_text(w, "new", "text");
        else
            expect_no_key(w, "new", KAWS_NOT_FOUND);
        expect_uncertain(w, "k");
        world_reopen(w);
        assert_int_equal(fake_logged(&w->f, 1, "cut off"), rows[i].torn);
        assert_int_equal(keys_of(w), 1 + (uint64_t)rows[i].landed);
        expect_text(w, "k", "text");
        if (rows[i].landed)
            EXPECT(w, KAWS_OK, NULL, drop(w, "new"));
    }
    EXPECT(w, KAWS_OK, NULL, store(w, "gone", "text"));
    disk_fail("fsync", 0, EIO, 1);        /* after the rename                 */
    EXPECT(w, KAWS_UNCERTAIN, "folder could not be synced", drop(w, "gone"));
    expect_no_key(w, "gone", KAWS_NOT_FOUND);
    expect_uncertain(w, "k");
    world_reopen(w);
    assert_int_equal(keys_of(w), 1);

    disk_fail("fsync", 0, EIO, 1);
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_EAST2, &w->err));
    EXPECT(w, KAWS_UNCERTAIN, "folder could not be synced",
           kaws_rewrap_all(w->ring, &w->err));
    assert_string_equal(arn_of(w, "k"), FAKE_EAST2);
    expect_uncertain(w, "k");
    world_reopen(w);
    assert_string_equal(arn_of(w, "k"), FAKE_EAST2);
    expect_text(w, "k", "text");
}


static void
test_new_file_fails(void **state)
{
    static const struct { const char *call; int skip, os; kaws_status status; }
    rows[] = {
        { "open", 0, EACCES, KAWS_CONFIG },       /* the conf file            */
        { "mkdir", 0, EACCES, KAWS_FILE }, { "open", 1, EACCES, KAWS_FILE },
        { "open", 2, EACCES, KAWS_FILE }, { "open", 3, EACCES, KAWS_FILE },
        { "fcntl", 0, ENOLCK, KAWS_FILE }, { "pwrite", 0, ENOSPC, KAWS_FILE },
        { "fdatasync", 0, EIO, KAWS_FILE },
        { DISK_REPLACE, 0, EIO, KAWS_FILE },
        { "fsync", 0, EIO, KAWS_FILE }, { "fsync", 1, EIO, KAWS_UNCERTAIN }
    };
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        disk_heal();
        disk_fail(rows[i].call, rows[i].skip, rows[i].os, 1);
        EXPECT(w, rows[i].status, NULL,
               kaws_open(&w->ring, &w->cfg, &w->err));
        assert_int_equal(w->err.os, rows[i].os);
        assert_null(w->ring);
        assert_int_equal(there(w, ""), rows[i].status == KAWS_UNCERTAIN);
        assert_false(there(w, ".tmp"));
        assert_int_equal(w->f.live, 0);
    }
    disk_heal();
    world_open(w);                        /* the one that was left is good    */
    assert_int_equal(fake_logged(&w->f, 1, "a new, empty keyring"), 0);
}


/* The cell trails the file while it grows, and is right when all is well. */
static void
test_cell(void **state)
{
    struct world *w = *state;
    uint64_t first, second;

    EXPECT(w, KAWS_OK, NULL, store(w, "one", "x"));
    first = w->ring->file.size;
    assert_int_equal(cell_of(w), 80);
    EXPECT(w, KAWS_OK, NULL, store(w, "two", "x"));
    second = w->ring->file.size;
    assert_int_equal(cell_of(w), first);
    world_reopen(w);
    assert_int_equal(cell_of(w), second);
    EXPECT(w, KAWS_OK, NULL, drop(w, "one"));
    assert_int_equal(cell_of(w), w->ring->file.size);
    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
    assert_int_equal(cell_of(w), w->ring->file.size);
    world_close(w);
    assert_int_equal(cell_of(w), second - first + 80 + 64);   /* material id  */
}


/* A write that a crash cut off: set aside at the next opening, and said. */
static void
test_torn_end(void **state)
{
    struct world *w = *state;
    size_t len, aside_len;
    uint8_t *all, *aside;
    char path[160];
    uint64_t good;

    EXPECT(w, KAWS_OK, NULL, store(w, "one", "text"));
    good = w->ring->file.size;
    EXPECT(w, KAWS_OK, NULL, store(w, "two", "text"));
    all = slurp(w->f.data, &len);         /* as a crash would leave it        */
    world_close(w);
    spill(w->f.data, all, len - 7);

    w->cfg.read_only = 1;
    snap(w);
    world_open(w);
    assert_int_equal(keys_of(w), 1);
    assert_int_equal(fake_logged(&w->f, 1, "never acknowledged"), 1);
    expect_text(w, "one", "text");
    world_close(w);
    expect_same_file(w);
    w->cfg.read_only = 0;

    world_open(w);
    (void)snprintf(path, sizeof path, "%s.torn-20261118T110640Z", w->f.data);
    assert_int_equal(fake_logged(&w->f, 1, path), 1);
    aside = slurp(path, &aside_len);
    assert_non_null(aside);
    assert_int_equal(aside_len, len - 7 - good);
    assert_memory_equal(aside, all + good, aside_len);
    assert_int_equal(w->ring->file.size, good);
    assert_int_equal(cell_of(w), good);
    expect_no_key(w, "two", KAWS_NOT_FOUND);
    EXPECT(w, KAWS_OK, NULL, store(w, "two", "again"));
    world_reopen(w);
    expect_text(w, "one", "text");
    expect_text(w, "two", "again");
    free(all);
    free(aside);
}


/* Without room for it elsewhere it stays where it is: the ring shows all that
 * was acknowledged, and takes no change before the end is safe. */
static void
test_torn_end_without_room(void **state)
{
    struct world *w = *state;
    size_t len, aside_len;
    uint8_t *all, *aside;
    char path[160];
    kaws_stats stats;
    uint64_t good;
    int i;

    EXPECT(w, KAWS_OK, NULL, store(w, "one", "text"));
    EXPECT(w, KAWS_OK, NULL, store(w, "two", "text"));
    good = w->ring->file.size;
    EXPECT(w, KAWS_OK, NULL, store(w, "three", "text"));
    all = slurp(w->f.data, &len);
    world_close(w);
    spill(w->f.data, all, len - 7);
    (void)snprintf(path, sizeof path, "%s.torn-20261118T110640Z", w->f.data);

    for (i = 0; i < 2; i++) {             /* closing keeps it as it is        */
        fake_forget_log(&w->f);
        disk_fail("pwrite", 0, ENOSPC, 1);
        world_open(w);
        assert_int_equal(fake_logged(&w->f, 1, "cannot set the torn end"), 1);
        assert_int_equal(keys_of(w), 2);
        kaws_get_stats(w->ring, &stats);          /* that of two keys         */
        assert_memory_equal(stats.checksum, all + good - 32, 32);
        expect_text(w, "two", "text");
        snap(w);
        disk_fail("pwrite", 0, ENOSPC, 4);
        EXPECT(w, KAWS_FILE, "No space left", store(w, "four", "x"));
        EXPECT(w, KAWS_FILE, "until then nothing is changed", drop(w, "one"));
        EXPECT(w, KAWS_FILE, "cannot set the torn end", generate(w, "four"));
        EXPECT(w, KAWS_FILE, "cannot set the torn end",
               kaws_rewrap_all(w->ring, &w->err));
        assert_int_equal(w->err.os, ENOSPC);
        expect_same_file(w);
        assert_null(slurp(path, &aside_len));
        assert_int_equal(cell_of(w), good);
        world_close(w);
        assert_int_equal(cell_of(w), good);
    }
    disk_fail("pwrite", 0, ENOSPC, 1);
    world_open(w);
    EXPECT(w, KAWS_OK, NULL, drop(w, "one"));
    aside = slurp(path, &aside_len);
    assert_non_null(aside);
    assert_int_equal(aside_len, len - 7 - good);
    assert_memory_equal(aside, all + good, aside_len);
    EXPECT(w, KAWS_OK, NULL, store(w, "three", "again"));
    world_reopen(w);
    assert_int_equal(keys_of(w), 2);
    expect_text(w, "two", "text");
    expect_text(w, "three", "again");
    free(all);
    free(aside);
}


/* ---- others at the file ------------------------------------------------ */

static void
test_another_ring_changed_it(void **state)
{
    struct world *w = *state;
    kaws *mine, *theirs;

    EXPECT(w, KAWS_OK, NULL, store(w, "k", "text"));
    mine = w->ring;
    EXPECT(w, KAWS_OK, NULL, kaws_open(&theirs, &w->cfg, &w->err));
    assert_int_equal(fake_logged(&w->f, 1, "in use by another process"), 1);
    w->ring = theirs;
    EXPECT(w, KAWS_OK, NULL, store(w, "theirs", "text"));
    snap(w);
    w->ring = mine;
    EXPECT(w, KAWS_CHANGED, "its size has changed", store(w, "mine", "x"));
    EXPECT(w, KAWS_CHANGED, NULL, generate(w, "mine"));
    EXPECT(w, KAWS_CHANGED, NULL, drop(w, "k"));
    EXPECT(w, KAWS_CHANGED, NULL, kaws_rewrap_all(w->ring, &w->err));
    expect_text(w, "k", "text");
    expect_no_key(w, "theirs", KAWS_NOT_FOUND);
    assert_int_equal(keys_of(w), 1);
    expect_same_file(w);
    world_close(w);
    assert_int_equal(fake_logged(&w->f, 1, "closing the keyring"), 1);
    w->ring = theirs;
    EXPECT(w, KAWS_OK, NULL, drop(w, "k"));       /* replaced: another inode  */
    world_reopen(w);
    assert_int_equal(keys_of(w), 1);
    expect_text(w, "theirs", "text");
}


#if !defined(_WIN32)

/* Who waits for another process holds up nobody: the ring's lock is free. */
static void
expect_free(struct fake *f, int ms)
{
    kaws *ring = f->user;

    (void)ms;
    if (pthread_mutex_trylock(&ring->lock) == 0) {
        pthread_mutex_unlock(&ring->lock);
        return;
    }
    f->on_sleep = NULL;
    f->user = NULL;
}

#endif


static void
expect_locked(struct world *w, const char *key_id)
{
    kaws *none;

#if !defined(_WIN32)
    w->f.user = w->ring;
    w->f.on_sleep = expect_free;
    EXPECT(w, KAWS_LOCKED, "another process", store(w, "new", "x"));
    EXPECT(w, KAWS_LOCKED, "another process", drop(w, key_id));
    EXPECT(w, KAWS_LOCKED, NULL, kaws_rewrap_all(w->ring, &w->err));
    assert_ptr_equal(w->f.user, w->ring);
    w->f.on_sleep = NULL;
    w->f.user = NULL;
    expect_no_key(w, "new", KAWS_NOT_FOUND);
    EXPECT(w, KAWS_NOT_FOUND, NULL, drop(w, "none"));
#endif

    EXPECT(w, KAWS_LOCKED, "another process", store(w, "new", "x"));
    EXPECT(w, KAWS_LOCKED, NULL, generate(w, "new"));
    EXPECT(w, KAWS_LOCKED, NULL, drop(w, key_id));
    EXPECT(w, KAWS_LOCKED, NULL, kaws_rewrap_all(w->ring, &w->err));
    EXPECT(w, KAWS_LOCKED, NULL, kaws_open(&none, &w->cfg, &w->err));
    expect_text(w, key_id, "text");
    assert_int_equal(keys_of(w), 1);
}


/* Another who has the file open is in the middle of a change. */
static void
test_another_holds_it(void **state)
{
    struct world *w = *state;
    kaws__file f;

    EXPECT(w, KAWS_OK, NULL, store(w, "k", "text"));
    snap(w);
    EXPECT(w, KAWS_OK, NULL,
           kaws__file_open(&f, &w->f.hooks, w->f.data, 0, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws__file_hold(&f, 0, &w->err));
    expect_locked(w, "k");
    expect_same_file(w);
    kaws__file_close(&f);
    EXPECT(w, KAWS_OK, NULL, store(w, "new", "x"));
}


#if !defined(_WIN32)                      /* which locks <path>.lock only     */

/* By another name there is another lock file; the data file is the same. */
static void
test_another_name(void **state)
{
    struct world *w = *state;
    char name[128];
    kaws *mine = w->ring, *theirs;
    kaws__buf bytes;
    kaws__file f;

    EXPECT(w, KAWS_OK, NULL, store(w, "k", "text"));
    snap(w);
    (void)snprintf(name, sizeof name, "%s/other", w->f.dir);
    assert_int_equal(link(w->f.data, name), 0);
    kaws__buf_init(&bytes, &w->f.hooks);
    EXPECT(w, KAWS_OK, NULL,
           kaws__file_open(&f, &w->f.hooks, name, 0, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws__file_read(&f, &bytes, &w->err));
    expect_locked(w, "k");
    expect_same_file(w);
    kaws__file_close(&f);
    kaws__buf_free(&bytes);

    w->cfg.data_file = name;
    EXPECT(w, KAWS_OK, NULL, kaws_open(&theirs, &w->cfg, &w->err));
    EXPECT(w, KAWS_OK, NULL, store(w, "mine", "text"));
    w->ring = theirs;
    EXPECT(w, KAWS_CHANGED, "its size has changed", store(w, "theirs", "x"));
    w->ring = mine;
    EXPECT(w, KAWS_FILE, "has 2 names", drop(w, "k"));
    EXPECT(w, KAWS_FILE, "has 2 names", kaws_rewrap_all(w->ring, &w->err));
    expect_text(w, "k", "text");
    kaws_close(theirs);
    assert_int_equal(remove(name), 0);
    w->cfg.data_file = w->f.data;
    EXPECT(w, KAWS_OK, NULL, drop(w, "k"));
    world_reopen(w);
    assert_int_equal(keys_of(w), 1);
    expect_text(w, "mine", "text");
}


/* Another thread has the turn, and does not get on. */
static void
test_no_turn(void **state)
{
    struct world *w = *state;
    uint64_t before = (uint64_t)kaws__sys_ticks_us();

    EXPECT(w, KAWS_OK, NULL, store(w, "k", "text"));
    assert_int_equal(kaws__thread_turn_wait(&w->ring->turn, 0), 0);
    EXPECT(w, KAWS_LOCKED, "another thread", store(w, "new", "x"));
    assert_in_range((uint64_t)kaws__sys_ticks_us() - before,
                    KAWS__RING_TURN_MS * 900, KAWS__RING_TURN_MS * 1900);
    expect_text(w, "k", "text");
    kaws__thread_turn_end(&w->ring->turn, 1);
    EXPECT(w, KAWS_OK, NULL, store(w, "new", "x"));
}


static void
really_sleep(struct fake *f, int ms)
{
    (void)f;
    kaws__sys_sleep_ms(NULL, ms);
}


static void
find_it_locked(void *arg)
{
    struct world *w = arg;
    kaws_error err;

    if (kaws_remove(w->ring, name_of("k", NULL), &err) == KAWS_LOCKED &&
        strstr(err.text, "another process") != NULL) {
        kaws__thread_lock(&w->ring->lock);
        (*(int *)w->f.user)++;
        kaws__thread_unlock(&w->ring->lock);
    }
}


/* Another process holds the file: all threads have waited for it when the first
 * of them has, and none is kept longer. */
static void
test_all_wait_at_once(void **state)
{
    struct world *w = *state;
    uint64_t before;
    kaws__file f;
    int locked = 0;

    EXPECT(w, KAWS_OK, NULL, store(w, "k", "text"));
    EXPECT(w, KAWS_OK, NULL,
           kaws__file_open(&f, &w->f.hooks, w->f.data, 0, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws__file_hold(&f, 0, &w->err));
    w->f.user = &locked;
    w->f.on_sleep = really_sleep;
    before = (uint64_t)kaws__sys_ticks_us();
    kaws__thread_parallel(6, find_it_locked, w);
    assert_in_range((uint64_t)kaws__sys_ticks_us() - before,
                    KAWS__FILE_WAIT_MS * 900, KAWS__FILE_WAIT_MS * 3000);
    assert_int_equal(locked, 6);
    w->f.on_sleep = NULL;
    kaws__file_close(&f);
    EXPECT(w, KAWS_OK, NULL, drop(w, "k"));
}

#endif


#if !defined(_WIN32)                      /* test_plat has processes there    */

/* Another process is in the middle of a change, and dies. */
static void
test_another_process_holds_it(void **state)
{
    struct world *w = *state;
    int up[2], down[2], status;
    char byte = 'x';
    kaws__file f;
    pid_t child;

    EXPECT(w, KAWS_OK, NULL, store(w, "k", "text"));
    assert_int_equal(pipe(up), 0);
    assert_int_equal(pipe(down), 0);
    child = fork();
    if (child == 0) {
        int ok = kaws__file_open(&f, &w->f.hooks, w->f.data, 0, NULL) ==
                 KAWS_OK && kaws__file_hold(&f, 0, NULL) == KAWS_OK;
        ok = ok && write(up[1], &byte, 1) == 1 && read(down[0], &byte, 1) == 1;
        _exit(ok ? 0 : 1);
    }
    assert_true(child > 0);
    assert_int_equal(read(up[0], &byte, 1), 1);
    snap(w);
    expect_locked(w, "k");
    expect_same_file(w);
    assert_int_equal(write(down[1], &byte, 1), 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    EXPECT(w, KAWS_OK, NULL, store(w, "new", "x"));
    close(up[0]);
    close(up[1]);
    close(down[0]);
    close(down[1]);
}

#endif


/* ---- walking ----------------------------------------------------------- */

static void
test_walk(void **state)
{
    struct world *w = *state;
    kaws_walk *walk, *second;
    kaws_entry_info info;
    char name[16];
    int i;

    EXPECT(w, KAWS_OK, NULL, kaws_walk_begin(w->ring, &walk, &w->err));
    assert_false(kaws_walk_next(walk, &info));
    kaws_walk_end(walk);
    for (i = 0; i < 50; i++) {
        (void)snprintf(name, sizeof name, "k%d", i);
        w->f.now_ms += 1000;
        EXPECT(w, KAWS_OK, NULL, kaws_generate(
            w->ring, name_of(name, i % 2 ? "owner" : NULL), "AES",
            (size_t)(1 + i), &w->err));
    }
    EXPECT(w, KAWS_OK, NULL, drop(w, "k20"));
    EXPECT(w, KAWS_OK, NULL, generate(w, "k20"));
    EXPECT(w, KAWS_OK, NULL, kaws_walk_begin(w->ring, &walk, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_walk_begin(w->ring, &second, &w->err));
    for (i = 0; i < 10; i += 2) {
        (void)snprintf(name, sizeof name, "k%d", i);
        EXPECT(w, KAWS_OK, NULL, drop(w, name));
    }
    EXPECT(w, KAWS_OK, NULL, generate(w, "later"));
    assert_true(kaws_walk_next(second, &info));
    world_close(w);                       /* the walks live on                */
    for (i = 0; i < 49; i++) {
        int k = i < 20 ? i : i + 1;
        assert_true(kaws_walk_next(walk, &info));
        (void)snprintf(name, sizeof name, "k%d", k);
        assert_string_equal(info.name.key_id, name);
        assert_string_equal(info.name.user_id, k % 2 ? "owner" : "");
        assert_string_equal(info.type, "AES");
        assert_string_equal(info.kms_key_arn, FAKE_EAST);
        assert_int_equal(info.len, 1 + k);
        assert_int_equal(info.created, 1795000001 + k);
    }
    assert_true(kaws_walk_next(walk, &info));
    assert_string_equal(info.name.key_id, "k20");
    assert_false(kaws_walk_next(walk, &info));
    assert_false(kaws_walk_next(walk, &info));
    kaws_walk_end(walk);
    kaws_walk_end(second);
}


/* ---- what protects the keys -------------------------------------------- */

static void
test_use_kms_key(void **state)
{
    struct world *w = *state;

    EXPECT(w, KAWS_OK, NULL, store(w, "one", "x"));
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, "alias/two", &w->err));
    assert_int_equal(w->f.requests, 4);
    EXPECT(w, KAWS_OK, NULL, store(w, "two", "x"));
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_WEST, &w->err));
    EXPECT(w, KAWS_OK, NULL, store(w, "three", "x"));
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(
        w->ring, "00000002-aaaa-bbbb-cccc-1234567890ab", &w->err));
    EXPECT(w, KAWS_OK, NULL, store(w, "four", "x"));
    assert_string_equal(arn_of(w, "one"), FAKE_EAST);
    assert_string_equal(arn_of(w, "two"), FAKE_EAST2);
    assert_string_equal(arn_of(w, "three"), FAKE_WEST);
    assert_string_equal(arn_of(w, "four"), FAKE_EAST2);
    world_reopen(w);
    expect_text(w, "one", "x");
    expect_text(w, "two", "x");
    expect_text(w, "three", "x");
    expect_text(w, "four", "x");
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
        { FAKE_EAST2, { .error = "KMSInternalException", .times = 3 },
          KAWS_SERVICE, 3 },
        { FAKE_EAST2, { .error = "ThrottlingException", .times = 3 },
          KAWS_THROTTLED, 3 },
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

    EXPECT(w, KAWS_OK, NULL, store(w, "old", "text"));
    for (i = 0; i < COUNT(rows); i++) {
        w->f.requests = 0;
        if (rows[i].script.times > 0 || rows[i].script.error != NULL ||
            rows[i].script.body != NULL || rows[i].script.from != NULL)
            fake_push(&w->f, rows[i].script);
        EXPECT(w, rows[i].status, NULL,
               kaws_use_kms_key(w->ring, rows[i].id, &w->err));
        assert_int_equal(w->f.requests, rows[i].requests);
        (void)snprintf(name, sizeof name, "new%lu", (unsigned long)i);
        EXPECT(w, KAWS_OK, NULL, store(w, name, "x"));
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
               kaws_use_kms_key(w->ring, FAKE_EAST, &w->err));
        fake_push(&w->f, (fake_script){ .no_reply = "no route", .times = 3 });
        EXPECT(w, KAWS_NETWORK, NULL,
               kaws_use_kms_key(w->ring, "alias/app", &w->err));
        if (errors[i] != NULL)
            fake_push(&w->f, denied);
        EXPECT(w, KAWS_OK, NULL,
               kaws_use_kms_key(w->ring, "alias/app", &w->err));
        EXPECT(w, KAWS_FOREIGN, NULL,
               kaws_use_kms_key(w->ring, FAKE_FOREIGN, &w->err));
        world_close(w);

        w->cfg.accounts = "111122223333";
        world_open(w);
        EXPECT(w, KAWS_OK, NULL,
               kaws_use_kms_key(w->ring, FAKE_EAST, &w->err));
        EXPECT(w, KAWS_FOREIGN, NULL,
               kaws_use_kms_key(w->ring, FAKE_FOREIGN, &w->err));
        world_close(w);
    }
}


/* A KMS key that is refused, though it answered at first, leaves nothing
 * behind: not even that its account was met before any other. */
static void
test_a_refused_kms_key_is_no_home(void **state)
{
    struct world *w = *state;

    w->cfg.kms_key_id = NULL;
    world_open(w);
    fake_push(&w->f, (fake_script){ .action = "Decrypt",
                                    .error = "AccessDeniedException" });
    EXPECT(w, KAWS_DENIED, NULL,
           kaws_use_kms_key(w->ring, FAKE_FOREIGN, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_EAST, &w->err));
    EXPECT(w, KAWS_FOREIGN, NULL,
           kaws_use_kms_key(w->ring, FAKE_FOREIGN, &w->err));
}


static void
test_use_region(void **state)
{
    struct world *w = *state;

    w->cfg.kms_key_id = "alias/app";
    world_open(w);
    EXPECT(w, KAWS_OK, NULL, store(w, "east", "x"));
    EXPECT(w, KAWS_OK, NULL, kaws_use_region(w->ring, "us-west-2", &w->err));
    EXPECT(w, KAWS_OK, NULL, store(w, "west", "x"));
    assert_string_equal(arn_of(w, "west"), FAKE_WEST);
    expect_text(w, "east", "x");

    /* There is no such alias there, or no answer: all stays as it was. */
    EXPECT(w, KAWS_KMS_KEY, "ap-south-1", kaws_use_region(
        w->ring, "ap-south-1", &w->err));
    fake_push(&w->f, (fake_script){ .no_reply = "no route", .times = 3 });
    EXPECT(w, KAWS_NETWORK, "us-east-1", kaws_use_region(
        w->ring, "us-east-1", &w->err));
    fake_push(&w->f, (fake_script){ .action = "Decrypt",
                                    .error = "AccessDeniedException" });
    EXPECT(w, KAWS_DENIED, "us-east-1", kaws_use_region(
        w->ring, "us-east-1", &w->err));
    assert_string_equal(w->ring->kms.trust.now.region, "us-west-2");
    EXPECT(w, KAWS_OK, NULL, store(w, "still", "x"));
    assert_string_equal(arn_of(w, "still"), FAKE_WEST);
    EXPECT(w, KAWS_KMS_KEY, NULL, kaws_use_kms_key(w->ring, "alias/two",
                                                   &w->err));

    /* An ARN's own region goes on to be asked for it. */
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_EAST2, &w->err));
    w->f.requests = 0;
    EXPECT(w, KAWS_OK, NULL, kaws_use_region(w->ring, "us-east-1", &w->err));
    assert_int_equal(w->f.requests, 0);
    EXPECT(w, KAWS_OK, NULL, kaws_use_region(w->ring, "ap-south-1", &w->err));
    assert_int_equal(fake_calls(&w->f, "DescribeKey"), 1);
    assert_string_equal(w->f.url, "https://kms.ap-south-1.amazonaws.com/");
    EXPECT(w, KAWS_OK, NULL, store(w, "again", "x"));
    assert_string_equal(arn_of(w, "again"), FAKE_EAST2);
    fake_push(&w->f, (fake_script){ .no_reply = "no such host", .times = 3 });
    EXPECT(w, KAWS_NETWORK, "xx-nowhere-1", kaws_use_region(
        w->ring, "xx-nowhere-1", &w->err));
    fake_push(&w->f, (fake_script){ .error = "UnrecognizedClientException" });
    EXPECT(w, KAWS_CREDENTIALS, NULL, kaws_use_region(
        w->ring, "cn-north-1", &w->err));
    assert_string_equal(w->ring->kms.trust.now.region, "ap-south-1");
    EXPECT(w, KAWS_KMS_KEY, NULL, kaws_use_kms_key(w->ring, "alias/app",
                                                   &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_use_region(w->ring, "us-west-2", &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, "alias/app", &w->err));
    expect_text(w, "east", "x");
    expect_text(w, "west", "x");
    expect_text(w, "again", "x");
}


/* A KMS key is looked up in a region: both are taken at once, or neither. */
static void
test_use_both(void **state)
{
    struct world *w = *state;

    w->cfg.kms_key_id = "alias/two";      /* not in the west                  */
    world_open(w);
    EXPECT(w, KAWS_KMS_KEY, NULL, kaws_use_region(w->ring, "us-west-2",
                                                  &w->err));
    EXPECT(w, KAWS_KMS_KEY, NULL, kaws_use(w->ring, "alias/none", "us-west-2",
                                           &w->err));
    EXPECT(w, KAWS_ARGUMENT, "not a region", kaws_use(
        w->ring, "alias/app", "mars", &w->err));
    EXPECT(w, KAWS_ARGUMENT, "alias", kaws_use(w->ring, "a b", "us-west-2",
                                               &w->err));
    fake_push(&w->f, (fake_script){ .no_reply = "no route", .skip = 2,
                                    .times = 3 });
    EXPECT(w, KAWS_NETWORK, "us-west-2", kaws_use(w->ring, FAKE_EAST,
                                                  "us-west-2", &w->err));
    EXPECT(w, KAWS_OK, NULL, store(w, "east", "x"));
    assert_string_equal(arn_of(w, "east"), FAKE_EAST2);

    EXPECT(w, KAWS_OK, NULL, kaws_use(w->ring, "alias/app", "us-west-2",
                                      &w->err));
    EXPECT(w, KAWS_OK, NULL, store(w, "west", "x"));
    assert_string_equal(arn_of(w, "west"), FAKE_WEST);
    w->f.requests = 0;                    /* the same again: is it well?      */
    EXPECT(w, KAWS_OK, NULL, kaws_use(w->ring, "alias/app", "us-west-2",
                                      &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_use(w->ring, NULL, NULL, &w->err));
    assert_int_equal(w->f.requests, 4);
    w->f.requests = 0;                    /* the ARN's region, and the other  */
    EXPECT(w, KAWS_OK, NULL, kaws_use(w->ring, FAKE_EAST, "ap-south-1",
                                      &w->err));
    assert_int_equal(w->f.requests, 3);
    assert_string_equal(w->f.url, "https://kms.ap-south-1.amazonaws.com/");
    EXPECT(w, KAWS_OK, NULL, store(w, "arn", "x"));
    assert_string_equal(arn_of(w, "arn"), FAKE_EAST);
}


/* What was tried changes nothing, and what passed is used without KMS. */
static void
test_try(void **state)
{
    struct world *w = *state;

    w->cfg.kms_key_id = "alias/two";
    world_open(w);
    EXPECT(w, KAWS_OK, NULL, store(w, "k", "x"));
    EXPECT(w, KAWS_OK, NULL, kaws_try(w->ring, "alias/app", "us-west-2",
                                      &w->err));
    EXPECT(w, KAWS_KMS_KEY, NULL, kaws_try(w->ring, NULL, "us-west-2",
                                           &w->err));
    EXPECT(w, KAWS_OK, NULL, store(w, "still", "x"));
    assert_string_equal(arn_of(w, "still"), FAKE_EAST2);
    w->f.requests = 0;
    EXPECT(w, KAWS_OK, NULL, kaws_use(w->ring, "alias/app", "us-west-2",
                                      &w->err));
    assert_int_equal(w->f.requests, 0);
    EXPECT(w, KAWS_OK, NULL, store(w, "west", "x"));
    assert_string_equal(arn_of(w, "west"), FAKE_WEST);

    EXPECT(w, KAWS_OK, NULL, kaws_try(w->ring, "alias/two", "us-east-1",
                                      &w->err));
    w->f.requests = 0;                    /* another than was tried           */
    EXPECT(w, KAWS_KMS_KEY, NULL, kaws_use(w->ring, "alias/two", NULL,
                                           &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_use(w->ring, FAKE_EAST, NULL, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_use(w->ring, "alias/two", "us-east-1",
                                      &w->err));
    assert_int_equal(w->f.requests, 5);   /* once used, it is asked about     */
    expect_text(w, "k", "x");
    expect_text(w, "west", "x");
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
    EXPECT(w, KAWS_OK, NULL, kaws_try(w->ring, "alias/app", "us-west-2",
                                      &w->err));
    while_asked(w, "Decrypt", 0, use_what_was_tried);
    EXPECT(w, KAWS_OK, NULL, kaws_use(w->ring, FAKE_EAST2, NULL, &w->err));
    assert_true(meanwhile.fired);
    assert_int_equal(meanwhile.status, KAWS_OK);
    EXPECT(w, KAWS_OK, NULL, store(w, "arn", "x"));
    assert_string_equal(arn_of(w, "arn"), FAKE_EAST2);
    EXPECT(w, KAWS_OK, NULL, kaws_use(w->ring, "alias/app", NULL, &w->err));
    EXPECT(w, KAWS_OK, NULL, store(w, "alias", "x"));
    assert_string_equal(arn_of(w, "alias"), FAKE_WEST);
}


/* A KMS key that was only tried tells nothing of whom to trust. */
static void
test_a_tried_kms_key_is_no_home(void **state)
{
    struct world *w = *state;

    w->cfg.kms_key_id = NULL;
    world_open(w);
    EXPECT(w, KAWS_OK, NULL, kaws_try(w->ring, NULL, "us-west-2", &w->err));
    EXPECT(w, KAWS_ARGUMENT, "KMS key", kaws_use(w->ring, "", "us-west-2",
                                                 &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_try(w->ring, FAKE_FOREIGN, NULL, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_use(w->ring, FAKE_EAST, NULL, &w->err));
    EXPECT(w, KAWS_FOREIGN, NULL, kaws_use(w->ring, FAKE_FOREIGN, NULL,
                                           &w->err));
    world_reopen(w);
    EXPECT(w, KAWS_OK, NULL, kaws_try(w->ring, FAKE_FOREIGN, NULL, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_use(w->ring, FAKE_FOREIGN, NULL, &w->err));
    EXPECT(w, KAWS_FOREIGN, NULL, kaws_use(w->ring, FAKE_EAST, NULL, &w->err));
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

    w->cfg.kms_key_id = FAKE_FOREIGN;     /* set so, it is trusted            */
    world_open(w);
    EXPECT(w, KAWS_OK, NULL, store(w, "theirs", "text"));
    EXPECT(w, KAWS_OK, NULL, kaws_kms_encrypt(w->ring, NULL, plain, &sealed,
                                              &w->err));
    expect_text(w, "theirs", "text");
    world_close(w);

    w->cfg.kms_key_id = FAKE_EAST;
    world_open(w);
    EXPECT(w, KAWS_OK, NULL, store(w, "mine", "text"));
    w->f.requests = 0;
    expect_no_key(w, "theirs", KAWS_FOREIGN);
    assert_non_null(strstr(w->err.text, FAKE_FOREIGN));
    EXPECT(w, KAWS_FOREIGN, NULL, kaws_kms_decrypt(
        w->ring, NULL, &sealed, room, &len, &w->err));
    EXPECT(w, KAWS_FOREIGN, NULL, kaws_kms_reencrypt(
        w->ring, NULL, &sealed, &sealed, &w->err));
    assert_int_equal(w->f.requests, 0);
    snap(w);
    EXPECT(w, KAWS_FOREIGN, "re-wrapping the key 'theirs' failed",
           kaws_rewrap_all(w->ring, &w->err));
    expect_same_file(w);
    world_close(w);

    w->cfg.kms_key_id = NULL;             /* entries of two accounts: neither */
    world_open(w);
    expect_no_key(w, "theirs", KAWS_FOREIGN);
    expect_no_key(w, "mine", KAWS_FOREIGN);
    world_close(w);
    w->cfg.accounts = FAKE_OTHER;
    world_open(w);
    expect_text(w, "theirs", "text");
    expect_no_key(w, "mine", KAWS_FOREIGN);
    world_close(w);

    w->cfg.kms_key_id = FAKE_EAST;        /* listed: all of it works          */
    world_open(w);
    expect_text(w, "theirs", "text");
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_FOREIGN, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
    assert_string_equal(arn_of(w, "mine"), FAKE_FOREIGN);
    expect_text(w, "mine", "text");
}


/* KMS says afterwards that another account's key sealed it: not kept. */
static void
test_foreign_reply(void **state)
{
    struct world *w = *state;

    w->cfg.kms_key_id = "alias/app";
    world_open(w);
    EXPECT(w, KAWS_OK, NULL, store(w, "k", "text"));
    snap(w);
    fake_push(&w->f, (fake_script){ .from = FAKE_EAST, .to = FAKE_FOREIGN });
    EXPECT(w, KAWS_FOREIGN, FAKE_FOREIGN, store(w, "new", "x"));
    fake_push(&w->f, (fake_script){ .from = FAKE_EAST, .to = FAKE_FOREIGN });
    EXPECT(w, KAWS_FOREIGN, FAKE_FOREIGN, generate(w, "new"));
    expect_same_file(w);
    assert_int_equal(keys_of(w), 1);
    world_close(w);

    w->cfg.accounts = FAKE_OTHER;         /* the list does not have our own   */
    world_open(w);
    EXPECT(w, KAWS_FOREIGN, FAKE_EAST, store(w, "new", "x"));
    expect_no_key(w, "k", KAWS_FOREIGN);
}


/* Where the KMS key is set by alias or id, its account has to be asked for:
 * with the first fetch, once. */
static void
test_home_is_asked_once(void **state)
{
    struct world *w = *state;

    w->cfg.kms_key_id = "alias/app";
    world_open(w);
    EXPECT(w, KAWS_OK, NULL, store(w, "k", "text"));
    world_reopen(w);
    w->f.requests = 0;
    fake_push(&w->f, (fake_script){ .no_reply = "no route", .times = 3 });
    expect_no_key(w, "k", KAWS_NETWORK);
    w->f.requests = 0;
    expect_text(w, "k", "text");
    assert_int_equal(w->f.requests, 2);
    expect_text(w, "k", "text");
    assert_int_equal(w->f.requests, 3);
    world_close(w);
    w->cfg.kms_key_id = FAKE_EAST;        /* an ARN says it itself            */
    world_open(w);
    w->f.requests = 0;
    expect_text(w, "k", "text");
    assert_int_equal(w->f.requests, 1);
}


/* But not for an entry whose account is listed: the alias may lead nowhere. */
static void
test_home_is_not_asked_for_a_listed_account(void **state)
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
    EXPECT(w, KAWS_OK, NULL, store(w, "listed", "text"));
    EXPECT(w, KAWS_OK, NULL, kaws_kms_encrypt(
        w->ring, NULL, kaws__buf_of("x"), &sealed, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_FOREIGN, &w->err));
    world_close(w);
    w->cfg.kms_key_id = "alias/app";
    world_open(w);
    fake_push(&w->f, away);
    w->f.requests = 0;
    expect_text(w, "listed", "text");
    EXPECT(w, KAWS_OK, NULL, kaws_kms_decrypt(w->ring, NULL, &sealed, room,
                                              &len, &w->err));
    assert_int_equal(w->f.requests, 2);
    (void)snprintf(sealed.kms_key_arn, sizeof sealed.kms_key_arn, "%s", china);
    EXPECT(w, KAWS_KMS_KEY, NULL, kaws_kms_decrypt(w->ring, NULL, &sealed,
                                                   room, &len, &w->err));
    assert_int_equal(w->f.requests, 3);   /* another partition is not listed  */
}


static void
test_alias_moves(void **state)
{
    struct world *w = *state;

    w->cfg.kms_key_id = "alias/app";
    world_open(w);
    EXPECT(w, KAWS_OK, NULL, store(w, "one", "x"));
    (void)snprintf(w->f.keys[0].alias, sizeof w->f.keys[0].alias, "alias/x");
    (void)snprintf(w->f.keys[1].alias, sizeof w->f.keys[1].alias, "alias/app");
    EXPECT(w, KAWS_OK, NULL, store(w, "two", "x"));
    assert_int_equal(fake_logged(&w->f, 1, "alias/app was " FAKE_EAST " and is "
                                 FAKE_EAST2 " now"), 1);
    EXPECT(w, KAWS_OK, NULL, store(w, "three", "x"));
    assert_int_equal(fake_logged(&w->f, 1, "and is"), 1);
    assert_string_equal(arn_of(w, "one"), FAKE_EAST);
    assert_string_equal(arn_of(w, "two"), FAKE_EAST2);
    expect_text(w, "one", "x");
    expect_text(w, "two", "x");
    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
    assert_string_equal(arn_of(w, "one"), FAKE_EAST2);
}


static void
test_check(void **state)
{
    static const struct { const char *error; kaws_status status; } rows[] = {
        { "UnrecognizedClientException", KAWS_CREDENTIALS },
        { "AccessDeniedException", KAWS_DENIED },
        { "NotFoundException", KAWS_KMS_KEY },
        { "ValidationException", KAWS_ARGUMENT },
        { "LimitExceededException", KAWS_SERVICE }
    };
    struct world *w = *state;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        fake_push(&w->f, (fake_script){ .error = rows[i].error });
        EXPECT(w, rows[i].status, rows[i].error, kaws_check(w->ring, &w->err));
    }
    EXPECT(w, KAWS_OK, NULL, kaws_check(w->ring, &w->err));
    assert_int_equal(w->f.requests, COUNT(rows) + 2);
}


static void
test_reload_creds(void **state)
{
    struct world *w = *state;

    fake_write_conf(&w->f, "half\n");
    EXPECT(w, KAWS_CONFIG, "line 2", kaws_reload_creds(w->ring, &w->err));
    EXPECT(w, KAWS_OK, NULL, store(w, "k", "x"));
    (void)snprintf(w->f.id, sizeof w->f.id, "NEW");
    fake_write_conf(&w->f, "NEW\n" FAKE_SECRET "\n");
    EXPECT(w, KAWS_OK, NULL, kaws_reload_creds(w->ring, &w->err));
    w->f.requests = 0;
    expect_text(w, "k", "x");
    assert_int_equal(w->f.requests, 1);
}


/* ---- rotating ---------------------------------------------------------- */

static void
test_rotate(void **state)
{
    struct world *w = *state;
    int64_t start = w->f.now_ms;

    w->cfg.kms_key_id = "alias/app";
    world_reopen(w);
    EXPECT(w, KAWS_OK, NULL, store(w, "k", "text"));
    w->f.requests = 0;
    EXPECT(w, KAWS_OK, NULL, kaws_rotate_kms_key(w->ring, &w->err));
    assert_int_equal(w->f.requests, 3);
    assert_int_equal(w->f.keys[0].rotations, 1);
    assert_int_equal(w->f.now_ms, start);
    expect_text(w, "k", "text");          /* old blobs stay readable          */

    w->f.rotation_ms = 3000;              /* it takes its time, and we wait   */
    EXPECT(w, KAWS_OK, NULL, kaws_rotate_kms_key(w->ring, &w->err));
    assert_int_equal(w->f.keys[0].material, 2);
    assert_in_range(w->f.now_ms - start, 3000, 5000);
    assert_int_equal(fake_logged(&w->f, 1, ""), 1);       /* the new file's   */

    w->f.rotation_ms = 60000;             /* but not for ever                 */
    start = w->f.now_ms;
    EXPECT(w, KAWS_OK, NULL, kaws_rotate_kms_key(w->ring, &w->err));
    assert_in_range(w->f.now_ms - start, 8000, 10000);
    assert_int_equal(fake_logged(&w->f, 1, "still seals with the old"), 1);
    EXPECT(w, KAWS_SERVICE, "ConflictException",
           kaws_rotate_kms_key(w->ring, &w->err));
    w->f.now_ms += 60000;
    w->f.rotation_ms = 0;

    fake_push(&w->f, (fake_script){      /* granted; then KMS goes away       */
        .action = "GenerateDataKeyWithoutPlaintext", .skip = 1, .times = 9,
        .no_reply = "no route" });
    EXPECT(w, KAWS_OK, NULL, kaws_rotate_kms_key(w->ring, &w->err));
    assert_int_equal(fake_logged(&w->f, 1, "could not be seen"), 1);
    memset(w->f.scripts, 0, sizeof w->f.scripts);

    w->f.hides_material = 1;              /* nothing to wait for              */
    w->f.requests = 0;
    EXPECT(w, KAWS_OK, NULL, kaws_rotate_kms_key(w->ring, &w->err));
    assert_int_equal(w->f.requests, 2);
    w->f.keys[0].rotations = 25;
    EXPECT(w, KAWS_SERVICE, "rotated on demand 25 times",
           kaws_rotate_kms_key(w->ring, &w->err));
    w->f.keys[0].error = "DisabledException";
    w->f.requests = 0;
    EXPECT(w, KAWS_KMS_KEY, "enable the KMS key",
           kaws_rotate_kms_key(w->ring, &w->err));
    assert_int_equal(w->f.requests, 1);
}


/* ---- re-wrapping ------------------------------------------------------- */

enum { MANY = 12 };


static void
store_many(struct world *w)
{
    char name[16], text[24];
    int i;

    for (i = 0; i < MANY; i++) {
        (void)snprintf(name, sizeof name, "k%d", i);
        (void)snprintf(text, sizeof text, "text %d", i);
        w->f.now_ms += 1000;
        EXPECT(w, KAWS_OK, NULL, store(w, name, text));
    }
}


/* All are there, but that one, sealed by that KMS key. */
static void
expect_many(struct world *w, int without, const char *arn)
{
    char name[16], text[24];
    int i;

    for (i = 0; i < MANY; i++) {
        (void)snprintf(name, sizeof name, "k%d", i);
        (void)snprintf(text, sizeof text, "text %d", i);
        if (i == without) {
            expect_no_key(w, name, KAWS_NOT_FOUND);
            continue;
        }
        expect_text(w, name, text);
        assert_string_equal(arn_of(w, name), arn);
    }
}


static void
test_rewrap(void **state)
{
    struct world *w = *state;
    kaws_entry_info before, after;
    kaws_walk *one, *two;
    kaws_stats stats;

    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
    assert_int_equal(w->f.requests, 1);   /* nothing is there                 */
    store_many(w);
    EXPECT(w, KAWS_OK, NULL, kaws_walk_begin(w->ring, &one, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, "alias/two", &w->err));
    w->f.now_ms += 100000;
    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
    assert_int_equal(fake_calls(&w->f, "ReEncrypt"), MANY);
    assert_int_equal(fake_calls(&w->f, "Decrypt"), 2 * MANY + 1);   /* proofs */
    assert_int_equal(fake_logged(&w->f, 2, "re-wrapped all keys in"), 1);
    assert_int_equal(fake_logged(&w->f, 1, "nothing was renewed"), 0);
    kaws_get_stats(w->ring, &stats);
    assert_int_equal(stats.rewrap_done, 0);
    assert_int_equal(stats.rewrap_total, 0);
    EXPECT(w, KAWS_OK, NULL, kaws_walk_begin(w->ring, &two, &w->err));
    while (kaws_walk_next(one, &before)) {        /* all else is as it was    */
        assert_true(kaws_walk_next(two, &after));
        assert_string_equal(after.name.key_id, before.name.key_id);
        assert_string_equal(after.type, before.type);
        assert_int_equal(after.len, before.len);
        assert_int_equal(after.created, before.created);
        assert_string_equal(before.kms_key_arn, FAKE_EAST);
        assert_string_equal(after.kms_key_arn, FAKE_EAST2);
    }
    assert_false(kaws_walk_next(two, &after));
    kaws_walk_end(one);
    kaws_walk_end(two);
    expect_many(w, -1, FAKE_EAST2);

    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));  /* the same */
    assert_int_equal(fake_logged(&w->f, 1, "nothing was renewed"), 1);
    EXPECT(w, KAWS_OK, NULL, kaws_rotate_kms_key(w->ring, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));  /* new      */
    assert_int_equal(fake_logged(&w->f, 1, "nothing was renewed"), 1);
    world_reopen(w);
    expect_many(w, -1, FAKE_EAST2);
}


/* Across regions the keys pass through us. */
static void
test_rewrap_across_regions(void **state)
{
    struct world *w = *state;

    store_many(w);
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_WEST, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
    assert_int_equal(fake_calls(&w->f, "ReEncrypt"), 0);
    assert_int_equal(fake_calls(&w->f, "Decrypt"), 4 * MANY + 1);
    assert_int_equal(fake_calls(&w->f, "Encrypt"), 2 * MANY);
    world_reopen(w);
    expect_many(w, -1, FAKE_WEST);
}


/* The reply to another ReEncrypt: its blob is not this key's. The proof finds
 * out, whatever the request ids say, and nothing is changed. */
static void
test_rewrap_proves(void **state)
{
    static const struct { fake_script script; kaws_status status;
                          const char *words; } rows[] = {
        { { .action = "ReEncrypt", .previous = 1 }, KAWS_REPLY,
          "asked to seal" },
        { { .action = "Decrypt", .error = "AccessDeniedException" },
          KAWS_DENIED, "kms:Decrypt" },
        { { .action = "Decrypt", .error = "InvalidCiphertextException" },
          KAWS_REPLY, "asked to seal" },
        { { .action = "Decrypt", .no_reply = "no route", .times = 3 },
          KAWS_NETWORK, "no route" },
        { { .action = "ReEncrypt", .same_id = 1, .times = 3 }, KAWS_REPLY,
          "the same request id" }
    };
    struct world *w = *state;
    size_t i;

    w->cfg.rewrap_parallel = 1;
    world_reopen(w);
    store_many(w);
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_EAST2, &w->err));
    for (i = 0; i < COUNT(rows); i++) {
        fake_script script = rows[i].script;
        script.skip = 7;
        snap(w);
        fake_push(&w->f, script);
        EXPECT(w, rows[i].status, "the key 'k7' failed, and nothing was "
               "changed", kaws_rewrap_all(w->ring, &w->err));
        if (strstr(w->err.text, rows[i].words) == NULL)
            fail_msg("row %lu: %s", (unsigned long)i, w->err.text);
        memset(w->f.scripts, 0, sizeof w->f.scripts);
        expect_same_file(w);
    }
    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
    world_reopen(w);
    expect_many(w, -1, FAKE_EAST2);
}


/* Both times the same wrong key, but of another length than the entry says. */
static void
test_rewrap_far_length(void **state)
{
    static const char other[] = "{\"KeyId\":\"" FAKE_EAST "\",\"Plaintext\":"
                                "\"YW5vdGhlciBrZXkh\"}";
    struct world *w = *state;

    EXPECT(w, KAWS_OK, NULL, store(w, "k", "text"));
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_WEST, &w->err));
    snap(w);
    fake_push(&w->f, (fake_script){ .action = "Decrypt", .times = 2,
                                    .body = other });
    EXPECT(w, KAWS_MISMATCH, "nothing was changed",
           kaws_rewrap_all(w->ring, &w->err));
    expect_same_file(w);
    memset(w->f.scripts, 0, sizeof w->f.scripts);
    expect_text(w, "k", "text");
}


/* A KMS that gives two keys the same blob, and swears by each: one of them
 * would be lost. */
static void
test_rewrap_twice_the_same_blob(void **state)
{
    static const char sworn[] = "{\"__type\":\"DryRunOperationException\"}";
    struct world *w = *state;
    size_t i;

    w->cfg.rewrap_parallel = 1;
    world_reopen(w);
    store_many(w);
    for (i = 0; i < 2; i++) {
        snap(w);
        fake_push(&w->f, (fake_script){ .action = "Decrypt", .times = MANY,
                                        .http = 400, .body = sworn });
        fake_push(&w->f, (fake_script){ .action = "ReEncrypt",
                                        .skip = i == 0 ? MANY - 1 : 3,
                                        .previous = 1 });
        EXPECT(w, KAWS_REPLY, "two replies to the re-wrap were the same",
               kaws_rewrap_all(w->ring, &w->err));
        memset(w->f.scripts, 0, sizeof w->f.scripts);
        expect_same_file(w);
    }
}


/* As after more than 256 replies: http has forgotten those of the re-wrap so
 * far, and KMS begins to number anew. */
static void
begin_ids_anew(struct world *w)
{
    w->f.replies -= 10;
    memset(w->ring->kms.calls.http.ids, 0,
           sizeof w->ring->kms.calls.http.ids);
}


/* Two replies with one request id, so far apart that http does not see it. */
static void
test_rewrap_twice_the_same_id(void **state)
{
    static const char *const actions[] = { "ReEncrypt", "Decrypt" };
    struct world *w = *state;
    size_t i;

    w->cfg.rewrap_parallel = 1;
    world_reopen(w);
    store_many(w);
    for (i = 0; i < 2; i++) {
        snap(w);
        while_asked(w, actions[i], 6, begin_ids_anew);
        EXPECT(w, KAWS_REPLY, "two replies to the re-wrap were the same",
               kaws_rewrap_all(w->ring, &w->err));
        assert_true(meanwhile.fired);
        expect_same_file(w);
    }
    w->f.on_send = NULL;
    w->f.replies += 100;
    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
}


/* Likewise across regions, where a wrong key could be sealed as the right one.
 */
static void
test_rewrap_far_proves(void **state)
{
    struct world *w = *state;
    int nth;

    w->cfg.rewrap_parallel = 1;
    world_reopen(w);
    store_many(w);
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_WEST, &w->err));
    for (nth = 0; nth < 2; nth++) {       /* one of the two is another key    */
        snap(w);
        fake_push(&w->f, (fake_script){ .action = "Decrypt", .skip = 9 + nth,
                                        .from = "\"Plaintext\":\"d",
                                        .to = "\"Plaintext\":\"Z" });
        EXPECT(w, KAWS_REPLY, "the same key a second time",
               kaws_rewrap_all(w->ring, &w->err));
        memset(w->f.scripts, 0, sizeof w->f.scripts);
        expect_same_file(w);
    }
    fake_push(&w->f, (fake_script){ .action = "Encrypt", .skip = 5,
                                    .previous = 1 });
    EXPECT(w, KAWS_REPLY, "asked to seal", kaws_rewrap_all(w->ring,
                                                               &w->err));
    memset(w->f.scripts, 0, sizeof w->f.scripts);
    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
    expect_many(w, -1, FAKE_WEST);
}


/* One that cannot be re-encrypted fails the whole, and is named. */
static void
test_rewrap_fails(void **state)
{
    static const struct { fake_script script; kaws_status status; } rows[] = {
        { { .error = "InvalidCiphertextException" }, KAWS_MISMATCH },
        { { .error = "AccessDeniedException" }, KAWS_DENIED },
        { { .error = "ThrottlingException", .times = 3 }, KAWS_THROTTLED },
        { { .no_reply = "no route", .times = 3 }, KAWS_NETWORK },
        { { .body = "{}" }, KAWS_REPLY },
        { { .from = FAKE_EAST2, .to = FAKE_EAST }, KAWS_REPLY }
    };
    struct world *w = *state;
    size_t i;
    int parallel;

    store_many(w);
    for (parallel = 1; parallel <= 16; parallel += 15) {
        w->cfg.rewrap_parallel = parallel;
        w->cfg.timeout_ms = 60000;
        world_reopen(w);
        EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_EAST2,
                                                  &w->err));
        for (i = 0; i < COUNT(rows); i++) {
            fake_script script = rows[i].script;
            script.action = "ReEncrypt";
            script.skip = 7;
            if (parallel > 1)             /* several share them, so: no end   */
                script.times *= 1000;
            w->f.calls[FAKE_REENCRYPT] = 0;
            snap(w);
            fake_push(&w->f, script);
            EXPECT(w, rows[i].status, parallel == 1
                   ? "re-wrapping the key 'k7' failed, and nothing was changed"
                   : "re-wrapping the key 'k", kaws_rewrap_all(w->ring,
                                                               &w->err));
            memset(w->f.scripts, 0, sizeof w->f.scripts);
            expect_same_file(w);
            if (parallel == 1)            /* the rest was not asked for       */
                assert_true(fake_calls(&w->f, "ReEncrypt") <= 10);
        }
        expect_many(w, -1, FAKE_EAST);
    }
    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
    expect_many(w, -1, FAKE_EAST2);
}


static void
rewrap_again(struct world *w)
{
    kaws_error err;
    kaws_stats stats;

    meanwhile.status = kaws_rewrap_all(w->ring, &err);
    assert_non_null(strstr(err.text, "already running: 5 of 12 keys"));
    kaws_get_stats(w->ring, &stats);
    assert_int_equal(stats.rewrap_done, 5);
    assert_int_equal(stats.rewrap_total, MANY);
}


static void
test_rewrap_twice_at_once(void **state)
{
    struct world *w = *state;

    w->cfg.rewrap_parallel = 1;
    world_reopen(w);
    store_many(w);
    while_asked(w, "ReEncrypt", 5, rewrap_again);
    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
    assert_true(meanwhile.fired);
    assert_int_equal(meanwhile.status, KAWS_RUNNING);
    w->f.on_send = NULL;
    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
    expect_many(w, -1, FAKE_EAST);
}


/* While the sixth is on its way: the current KMS key is changed, one that is
 * done and one that is to come are removed, the one on its way and one that is
 * done are made anew, and one is added. */
static void
make_traffic(struct world *w)
{
    kaws *ring = w->ring;

    meanwhile.status =
        kaws_use_kms_key(ring, FAKE_WEST, NULL) == KAWS_OK &&
        kaws_remove(ring, name_of("k2", ""), NULL) == KAWS_OK &&
        kaws_remove(ring, name_of("k9", ""), NULL) == KAWS_OK &&
        kaws_remove(ring, name_of("k5", ""), NULL) == KAWS_OK &&
        kaws_store(ring, name_of("k5", ""), "SECRET", kaws__buf_of("new 5"),
                   NULL) == KAWS_OK &&
        kaws_remove(ring, name_of("k3", ""), NULL) == KAWS_OK &&
        kaws_store(ring, name_of("k3", ""), "SECRET", kaws__buf_of("new 3"),
                   NULL) == KAWS_OK &&
        kaws_store(ring, name_of("added", ""), "SECRET",
                   kaws__buf_of("added"), NULL) == KAWS_OK
        ? KAWS_OK : KAWS_FILE;
}


static void
test_rewrap_under_traffic(void **state)
{
    static const struct { const char *name, *text, *arn; } want[] = {
        { "k0", "text 0", FAKE_EAST2 }, { "k1", "text 1", FAKE_EAST2 },
        { "k4", "text 4", FAKE_EAST2 }, { "k6", "text 6", FAKE_EAST2 },
        { "k7", "text 7", FAKE_EAST2 }, { "k8", "text 8", FAKE_EAST2 },
        { "k10", "text 10", FAKE_EAST2 }, { "k11", "text 11", FAKE_EAST2 },
        { "k5", "new 5", FAKE_WEST }, { "k3", "new 3", FAKE_WEST },
        { "added", "added", FAKE_WEST }
    };
    struct world *w = *state;
    kaws_entry_info info;
    kaws_walk *walk;
    size_t i;
    int parallel, again;

    for (parallel = 1; parallel <= 4; parallel += 3) {
        w->cfg.rewrap_parallel = parallel;
        world_reopen(w);
        store_many(w);
        EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_EAST2,
                                                  &w->err));
        while_asked(w, "ReEncrypt", 5, make_traffic);
        EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
        w->f.on_send = NULL;
        assert_true(meanwhile.fired);
        assert_int_equal(meanwhile.status, KAWS_OK);
        for (again = 0; again < 2; again++) {
            EXPECT(w, KAWS_OK, NULL, kaws_walk_begin(w->ring, &walk, &w->err));
            for (i = 0; i < COUNT(want); i++) {
                assert_true(kaws_walk_next(walk, &info));
                assert_string_equal(info.name.key_id, want[i].name);
                assert_string_equal(info.kms_key_arn, want[i].arn);
                expect_text(w, want[i].name, want[i].text);
            }
            assert_false(kaws_walk_next(walk, &info));
            kaws_walk_end(walk);
            world_reopen(w);
        }
        for (i = 0; i < COUNT(want); i++)
            EXPECT(w, KAWS_OK, NULL, drop(w, want[i].name));
    }
}


static void
remove_all(struct world *w)
{
    char name[16];
    int i;

    for (i = 0; i < MANY; i++) {
        (void)snprintf(name, sizeof name, "k%d", i);
        meanwhile.status = kaws_remove(w->ring, name_of(name, ""), NULL);
    }
}


static void
test_rewrap_of_what_is_gone(void **state)
{
    struct world *w = *state;

    store_many(w);
    while_asked(w, "ReEncrypt", 3, remove_all);
    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
    assert_int_equal(keys_of(w), 0);
    world_reopen(w);
    assert_int_equal(keys_of(w), 0);
}


/* All go while the re-wrap asks for its own memory. */
static void *
memory_and_remove_all(void *ctx, void *ptr, size_t old_len, size_t new_len)
{
    struct fake *f = ctx;

    if (new_len == MANY * sizeof(kaws__row))
        remove_all(f->user);
    return fake_memory(ctx, ptr, old_len, new_len);
}


static void
test_rewrap_of_nothing_left(void **state)
{
    struct world *w = *state;

    store_many(w);
    w->f.user = w;
    w->ring->hooks.memory = memory_and_remove_all;
    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
    assert_int_equal(keys_of(w), 0);
    assert_int_equal(fake_calls(&w->f, "ReEncrypt"), 0);
    assert_int_equal(fake_logged(&w->f, 1, "nothing was renewed"), 0);
    world_reopen(w);
    assert_int_equal(keys_of(w), 0);
}


static struct { pthread_mutex_t lock; int now, most; } flight = {
    PTHREAD_MUTEX_INITIALIZER, 0, 0
};


static int
send_slowly(void *ctx, const kaws_request *q, kaws_reply *r)
{
    struct timespec t = { 0, 5000000 };
    int answer;

    pthread_mutex_lock(&flight.lock);
    flight.now++;
    flight.most = flight.now > flight.most ? flight.now : flight.most;
    pthread_mutex_unlock(&flight.lock);
    nanosleep(&t, NULL);
    answer = fake_send(ctx, q, r);
    pthread_mutex_lock(&flight.lock);
    flight.now--;
    pthread_mutex_unlock(&flight.lock);
    return answer;
}


/* So many calls at a time, and no more. */
static void
test_rewrap_in_parallel(void **state)
{
    static const int asked[] = { 1, 3, 0, -5, 1000 };
    struct world *w = *state;
    size_t i;

    w->cfg.hooks.send = send_slowly;
    world_open(w);
    store_many(w);
    for (i = 0; i < COUNT(asked); i++) {
        w->cfg.rewrap_parallel = asked[i];
        world_reopen(w);
        flight.most = 0;
        EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
        if (i < 2)
            assert_in_range(flight.most, 1 + i, asked[i]);
        else
            assert_in_range(flight.most, 2, MANY);
    }
    assert_int_equal(w->ring->rewrap_parallel, 64);
    expect_many(w, -1, FAKE_EAST);
}


/* ---- KMS by itself ----------------------------------------------------- */

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

    EXPECT(w, KAWS_OK, NULL, kaws_kms_encrypt(w->ring, &context, plain,
                                              &sealed, &w->err));
    assert_string_equal(sealed.kms_key_arn, FAKE_EAST);
    EXPECT(w, KAWS_OK, NULL, kaws_kms_decrypt(w->ring, &other, &sealed, room,
                                              &len, &w->err));
    assert_int_equal(len, 10);
    assert_memory_equal(room, "0123456789", 10);
    other.count = 1;                      /* another context: not opened      */
    len = sizeof room;
    memset(room, 0x77, sizeof room);
    EXPECT(w, KAWS_MISMATCH, NULL, kaws_kms_decrypt(
        w->ring, &other, &sealed, room, &len, &w->err));
    assert_memory_equal(room, zeros, sizeof room);
    memset(room, 0x77, sizeof room);
    len = 9;                              /* too little room                  */
    EXPECT(w, KAWS_ARGUMENT, "10 bytes, and there is room for 9",
           kaws_kms_decrypt(w->ring, &context, &sealed, room, &len, &w->err));
    assert_int_equal(len, 0);
    assert_memory_equal(room, zeros, 9);
    assert_int_equal(room[9], 0x77);
    sealed.kms_key_arn[0] = '\0';         /* the current one is meant         */
    len = sizeof room;
    EXPECT(w, KAWS_OK, NULL, kaws_kms_decrypt(w->ring, &context, &sealed, room,
                                              &len, &w->err));
    assert_int_equal(len, 10);
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_EAST2, &w->err));
    EXPECT(w, KAWS_MISMATCH, "another KMS key", kaws_kms_decrypt(
        w->ring, &context, &sealed, room, &len, &w->err));
}


/* A context without pairs is none. */
static void
test_empty_context(void **state)
{
    static const kaws_context empty = { NULL, 0 };
    struct world *w = *state;
    kaws_sealed sealed;
    uint8_t room[64];
    size_t len = sizeof room;

    EXPECT(w, KAWS_OK, NULL, kaws_kms_encrypt(
        w->ring, &empty, kaws__buf_of("0123456789"), &sealed, &w->err));
    assert_null(strstr(w->f.body, "EncryptionContext"));
    EXPECT(w, KAWS_OK, NULL, kaws_kms_decrypt(w->ring, NULL, &sealed, room,
                                              &len, &w->err));
    assert_int_equal(len, 10);
    len = sizeof room;
    EXPECT(w, KAWS_OK, NULL, kaws_kms_decrypt(w->ring, &empty, &sealed, room,
                                              &len, &w->err));
    assert_int_equal(len, 10);
}


static void
test_reencrypt(void **state)
{
    struct world *w = *state;
    kaws_bytes plain = kaws__buf_of("0123456789");
    kaws_sealed sealed, again, kept, none;
    uint8_t room[64];
    size_t len = sizeof room;

    EXPECT(w, KAWS_OK, NULL, kaws_kms_encrypt(w->ring, &context, plain,
                                              &sealed, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_EAST2, &w->err));
    kept = sealed;
    memset(&none, 0, sizeof none);
    memset(&again, 0x77, sizeof again);
    fake_push(&w->f, (fake_script){ .action = "ReEncrypt", .times = 2,
                                    .from = "\"KeyId\"", .to = "\"Key\"" });
    EXPECT(w, KAWS_REPLY, NULL, kaws_kms_reencrypt(w->ring, &context, &sealed,
                                                   &again, &w->err));
    assert_memory_equal(&again, &none, sizeof none);
    EXPECT(w, KAWS_REPLY, NULL, kaws_kms_reencrypt(w->ring, &context, &sealed,
                                                   &sealed, &w->err));
    assert_memory_equal(&sealed, &kept, sizeof kept);
    EXPECT(w, KAWS_OK, NULL, kaws_kms_reencrypt(w->ring, &context, &sealed,
                                                &again, &w->err));
    assert_int_equal(fake_calls(&w->f, "ReEncrypt"), 3);
    assert_string_equal(again.kms_key_arn, FAKE_EAST2);
    assert_int_equal(strlen(again.key_material_id), 64);
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_WEST, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_kms_reencrypt(w->ring, &context, &again,
                                                &again, &w->err));
    assert_int_equal(fake_calls(&w->f, "ReEncrypt"), 3);
    assert_string_equal(again.kms_key_arn, FAKE_WEST);
    EXPECT(w, KAWS_OK, NULL, kaws_kms_decrypt(w->ring, &context, &again, room,
                                              &len, &w->err));
    assert_int_equal(len, 10);
    assert_memory_equal(room, "0123456789", 10);
}


static void
test_data_key(void **state)
{
    struct world *w = *state;
    kaws_sealed sealed;
    uint8_t room[1024], again[1024] = { 0 };
    size_t len = sizeof again;

    memset(room, 0, sizeof room);
    EXPECT(w, KAWS_OK, NULL, kaws_kms_generate_data_key(
        w->ring, &context, 1024, room, &sealed, &w->err));
    assert_memory_not_equal(room, again, 1024);
    EXPECT(w, KAWS_OK, NULL, kaws_kms_decrypt(w->ring, &context, &sealed,
                                              again, &len, &w->err));
    assert_int_equal(len, 1024);
    assert_memory_equal(room, again, 1024);
}


/* A KMS that is away costs nothing but the call. */
static void
test_outage(void **state)
{
    struct world *w = *state;

    EXPECT(w, KAWS_OK, NULL, store(w, "k", "text"));
    snap(w);
    fake_push(&w->f, (fake_script){ .no_reply = "no route", .times = 1000 });
    EXPECT(w, KAWS_NETWORK, NULL, kaws_check(w->ring, &w->err));
    EXPECT(w, KAWS_NETWORK, NULL, generate(w, "new"));
    EXPECT(w, KAWS_NETWORK, NULL, store(w, "new", "x"));
    expect_no_key(w, "k", KAWS_NETWORK);
    EXPECT(w, KAWS_NETWORK, NULL, kaws_rewrap_all(w->ring, &w->err));
    EXPECT(w, KAWS_NETWORK, NULL, kaws_rotate_kms_key(w->ring, &w->err));
    assert_int_equal(keys_of(w), 1);
    expect_same_file(w);
    memset(w->f.scripts, 0, sizeof w->f.scripts);
    expect_text(w, "k", "text");
    EXPECT(w, KAWS_OK, NULL, store(w, "new", "x"));
}


static void
test_small_things(void **state)
{
    static const char bytes[4] = { 1, 2, 3, 4 };
    char copy[4];
    int i, k;

    (void)state;
    assert_string_equal(kaws_version(), "1.0.0");
    for (i = 0; i < KAWS_STATUS_COUNT; i++) {
        assert_string_not_equal(kaws_status_text((kaws_status)i), "");
        for (k = 0; k < i; k++)
            assert_string_not_equal(kaws_status_text((kaws_status)i),
                                    kaws_status_text((kaws_status)k));
    }
    assert_string_equal(kaws_status_text(KAWS_OK), "ok");
    assert_string_equal(kaws_status_text(KAWS_RUNNING),
                        "a re-wrap is already running");
    assert_string_equal(kaws_status_text(KAWS_STATUS_COUNT), "no such status");
    memcpy(copy, bytes, 4);
    kaws_wipe(copy + 1, 2);
    assert_memory_equal(copy, "\1\0\0\4", 4);
    kaws_wipe(NULL, 5);
    kaws_wipe(copy, 0);
    assert_int_equal(copy[0], 1);
}


int
main(void)
{
#define OPEN(name) cmocka_unit_test_setup_teardown(name, begin_open, end)
#define SHUT(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        OPEN(test_bad_names), OPEN(test_bad_types_and_lengths), OPEN(test_null),
        OPEN(test_null_for_kms), OPEN(test_null_without_an_answer),
        OPEN(test_no_error_wanted), OPEN(test_bad_contexts),
        OPEN(test_bad_blobs), OPEN(test_bad_kms_lengths),
        OPEN(test_failures_leave_zeros), OPEN(test_overlaps),
        OPEN(test_bad_keys_and_regions), SHUT(test_bad_settings),
        SHUT(test_no_random),
#if !defined(_WIN32)
        SHUT(test_scarce),
#endif
        SHUT(test_new_file), SHUT(test_strings_are_copied),
        SHUT(test_odd_paths),
        SHUT(test_built_in_hooks), OPEN(test_lengths),
        OPEN(test_store_proves),
        OPEN(test_exists_and_not_found), OPEN(test_owners), OPEN(test_any_name),
        OPEN(test_meanwhile), OPEN(test_bad_replies_change_nothing),
        OPEN(test_absurd_clock), SHUT(test_read_only),
        SHUT(test_without_data_file), SHUT(test_without_kms_key),
        SHUT(test_empty_accounts),
        OPEN(test_disk_full), OPEN(test_replace_fails), OPEN(test_uncertain),
        SHUT(test_new_file_fails), OPEN(test_cell), OPEN(test_torn_end),
        OPEN(test_torn_end_without_room),
        OPEN(test_another_ring_changed_it), OPEN(test_another_holds_it),
#if !defined(_WIN32)
        OPEN(test_another_process_holds_it),
        OPEN(test_another_name),
        OPEN(test_no_turn),
        OPEN(test_all_wait_at_once),
#endif
        OPEN(test_walk), OPEN(test_use_kms_key), OPEN(test_use_kms_key_refused),
        SHUT(test_use_kms_key_after_a_bad_one),
        SHUT(test_a_refused_kms_key_is_no_home),
        SHUT(test_use_region), SHUT(test_use_both), SHUT(test_try),
        SHUT(test_taken_meanwhile),
        SHUT(test_a_tried_kms_key_is_no_home), SHUT(test_foreign_entry),
        SHUT(test_foreign_reply), SHUT(test_home_is_asked_once),
        SHUT(test_home_is_not_asked_for_a_listed_account),
        SHUT(test_alias_moves), OPEN(test_check), OPEN(test_reload_creds),
        OPEN(test_rotate), OPEN(test_rewrap), OPEN(test_rewrap_across_regions),
        OPEN(test_rewrap_proves), OPEN(test_rewrap_twice_the_same_blob),
        OPEN(test_rewrap_twice_the_same_id),
        OPEN(test_rewrap_far_proves), OPEN(test_rewrap_far_length),
        OPEN(test_rewrap_fails), OPEN(test_rewrap_twice_at_once),
        SHUT(test_rewrap_under_traffic), OPEN(test_rewrap_of_what_is_gone),
        OPEN(test_rewrap_of_nothing_left),
        SHUT(test_rewrap_in_parallel), OPEN(test_encrypt_and_decrypt),
        OPEN(test_empty_context), OPEN(test_reencrypt), OPEN(test_data_key),
        OPEN(test_outage),
        cmocka_unit_test(test_small_things)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
