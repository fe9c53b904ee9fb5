/* No memory: every allocation of every public operation fails once, and then
 * all from the Nth on. The answer must be KAWS_MEMORY, the state as before, and
 * the ring as good as ever; when it closes, nothing is left, and everything
 * that was given back was wiped. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "../unit/world.h"

enum { KEYS = 5 };

static kaws_sealed sealed;                /* of the current KMS key           */


static int
begin(void **state)
{
    kaws_bytes plain = kaws__buf_of("0123456789abcdef");
    struct world *w;
    char name[16];
    int i;

    if (world_begin(state) != 0)
        return 1;
    w = *state;
    (void)snprintf(w->f.token, sizeof w->f.token, "a-session-token");
    fake_write_conf(&w->f, FAKE_ID "\n" FAKE_SECRET "\na-session-token\n");
    world_open(w);
    for (i = 0; i < KEYS; i++) {
        (void)snprintf(name, sizeof name, "k%d", i);
        EXPECT(w, KAWS_OK, NULL, kaws_store(w->ring, name_of(name, "u"),
                                            "SECRET", plain, &w->err));
    }
    world_reopen(w);                      /* as most keyrings are            */
    EXPECT(w, KAWS_OK, NULL, kaws_kms_encrypt(w->ring, NULL, plain, &sealed,
                                              &w->err));
    return 0;
}


static void
expect_usable(struct world *w, uint64_t keys)
{
    kaws_stats stats;
    kaws_key key;

    kaws_get_stats(w->ring, &stats);
    assert_int_equal(stats.keys, keys);
    assert_int_equal(stats.rewrap_total, 0);
    EXPECT(w, KAWS_OK, NULL, kaws_fetch(w->ring, name_of("k1", "u"), &key,
                                        &w->err));
    assert_memory_equal(key.bytes, "0123456789abcdef", 16);
    kaws_key_free(w->ring, &key);
}


/* The nth allocation from now on fails, or all from it on. */
static void
starve(struct world *w, size_t n, int all)
{
    w->f.failed = 0;
    w->f.fail_nth = all ? 0 : w->f.allocs + n;
    w->f.fail_from = all ? w->f.allocs + n : 0;
}


/* Whether one did; from now on none fails. */
static int
starved(struct world *w)
{
    w->f.fail_nth = w->f.fail_from = 0;
    return w->f.failed > 0;
}


/* ---- the operations ---------------------------------------------------- */

static kaws_status
do_open(struct world *w)
{
    world_close(w);
    return kaws_open(&w->ring, &w->cfg, &w->err);
}


static kaws_status
do_store(struct world *w)
{
    static uint8_t big[4096];
    kaws_bytes plain = { big, sizeof big };

    return kaws_store(w->ring, name_of("new", "u"), "SECRET", plain, &w->err);
}


static kaws_status
do_fetch(struct world *w)
{
    static const kaws_key none;
    kaws_key key;
    kaws_status status = kaws_fetch(w->ring, name_of("k3", "u"), &key,
                                    &w->err);

    if (status == KAWS_OK) {
        assert_int_equal(key.len, 16);
        kaws_key_free(w->ring, &key);
    }
    assert_memory_equal(&key, &none, sizeof key);
    return status;
}


static kaws_status
do_walk(struct world *w)
{
    kaws_walk *walk = (kaws_walk *)(void *)w;
    kaws_entry_info info;
    kaws_status status = kaws_walk_begin(w->ring, &walk, &w->err);
    int count = 0;

    if (status != KAWS_OK)
        assert_null(walk);
    else
        while (kaws_walk_next(walk, &info))
            count++;
    assert_int_equal(count, status == KAWS_OK ? KEYS : 0);
    kaws_walk_end(walk);
    return status;
}


static kaws_status
do_use_kms_key(struct world *w)
{
    kaws_status status = kaws_use_kms_key(w->ring, "alias/two", &w->err);

    assert_string_equal(w->ring->kms.trust.now.target.key_id, status == KAWS_OK
                        ? "alias/two" : FAKE_EAST);
    return status;
}


static kaws_status
do_data_key(struct world *w)
{
    uint8_t plain[32], zeros[32] = { 0 };
    kaws_sealed out;
    kaws_status status;

    memset(plain, 0x77, sizeof plain);
    status = kaws_kms_generate_data_key(w->ring, NULL, 32, plain, &out,
                                        &w->err);
    if (status != KAWS_OK)
        assert_memory_equal(plain, zeros, 32);
    return status;
}


static kaws_status
do_decrypt(struct world *w)
{
    uint8_t plain[32], zeros[32] = { 0 };
    size_t len = sizeof plain;
    kaws_status status;

    memset(plain, 0x77, sizeof plain);
    status = kaws_kms_decrypt(w->ring, NULL, &sealed, plain, &len, &w->err);
    if (status != KAWS_OK)
        assert_memory_equal(plain, zeros, 32);
    return status;
}


/* Name, how many allocations there are at least (fewer, and the test would see
 * nothing), call. Reloading credentials and removing a key need none. */
#define JOBS(X)                                                               \
    X(open, 5, do_open(w))                                                    \
    X(check, 4, kaws_check(w->ring, &w->err))                                 \
    X(generate, 4, kaws_generate(w->ring, name_of("new", NULL), "AES", 32,    \
                                 &w->err))                                    \
    X(store, 5, do_store(w))                                                  \
    X(fetch, 3, do_fetch(w))                                                  \
    X(remove, 0, kaws_remove(w->ring, name_of("k2", "u"), &w->err))           \
    X(walk, 1, do_walk(w))                                                    \
    X(use_kms_key, 4, do_use_kms_key(w))                                      \
    X(use_region, 2, kaws_use_region(w->ring, "us-west-2", &w->err))          \
    X(reload, 0, kaws_reload_creds(w->ring, &w->err))                         \
    X(rewrap, 5 * KEYS, kaws_rewrap_all(w->ring, &w->err))                    \
    X(data_key, 2, do_data_key(w))                                            \
    X(encrypt, 3, kaws_kms_encrypt(w->ring, NULL, kaws__buf_of("plain"),      \
                                   &out, &w->err))                            \
    X(decrypt, 2, do_decrypt(w))                                              \
    X(reencrypt, 2, kaws_kms_reencrypt(w->ring, NULL, &sealed, &out, &w->err))

enum {
#define X(name, least, call) JOB_##name,
    JOBS(X)
#undef X
    JOB_COUNT
};

static const size_t leasts[] = {
#define X(name, least, call) least,
    JOBS(X)
#undef X
};


static kaws_status
perform(struct world *w, int job)
{
    static kaws_sealed out;

    switch (job) {
#define X(name, least, call) case JOB_##name: return call;
    JOBS(X)
#undef X
    }
    return KAWS_ARGUMENT;
}


/* ---- each of them starved ---------------------------------------------- */

/* Performs the operation again and again, with another allocation failing each
 * time, until none is left that could; then with all from there on. */
static void
starve_job(void **state, int job, int all)
{
    struct world *w = *state;
    size_t n, live, bytes, len, now_len;
    uint8_t *file = slurp(w->f.data, &len), *now;
    kaws_status status;
    int failed;

    expect_usable(w, KEYS);               /* so that KMS has answered once    */
    live = w->f.live;
    bytes = w->f.live_bytes;
    for (n = 1, failed = 1; failed; n += (size_t)failed) {
        starve(w, n, all);
        status = perform(w, job);
        failed = starved(w);
        EXPECT(w, failed ? KAWS_MEMORY : KAWS_OK, failed ? "memory" : NULL,
               status);
        if (!failed)
            break;
        if (w->ring == NULL)
            world_open(w);
        expect_usable(w, KEYS);
        /* A table that could grow before the failure may have grown. */
        assert_int_equal(w->f.live, live);
        assert_true(w->f.live_bytes >= bytes);
        now = slurp(w->f.data, &now_len);
        assert_int_equal(now_len, len);
        assert_memory_equal(now + 48, file + 48, len - 48);
        free(now);
        assert_true(n < 500);
    }
    assert_true(n - 1 >= leasts[job]);
    assert_true(leasts[job] > 0 || n == 1);
    free(file);
}


#define X(name, least, call)                                                  \
    static void                                                               \
    test_##name(void **state)                                                 \
    {                                                                         \
        starve_job(state, JOB_##name, 0);                                     \
        world_end(state);                                                     \
        assert_int_equal(begin(state), 0);                                    \
        starve_job(state, JOB_##name, 1);                                     \
    }
JOBS(X)
#undef X


/* ---- operations of which more must be said ----------------------------- */

/* The table and the list grow now and then: names until all sizes were met. */
static void
test_growing(void **state)
{
    struct world *w = *state;
    kaws_bytes plain = kaws__buf_of("x");
    kaws_status status;
    char name[16];
    size_t n;
    int i, failed, failures = 0;

    for (i = 0; i < 60; i++) {
        (void)snprintf(name, sizeof name, "g%d", i);
        for (n = 1, failed = 1; failed; n++, failures += failed) {
            starve(w, n, 0);
            status = kaws_store(w->ring, name_of(name, ""), "SECRET", plain,
                                &w->err);
            failed = starved(w);
            EXPECT(w, failed ? KAWS_MEMORY : KAWS_OK, NULL, status);
        }
    }
    assert_true(failures > 60 * 5);
    world_reopen(w);
    expect_usable(w, KEYS + 60);
}


/* A new file: it is there, whole, or not at all. */
static void
test_new_file(void **state)
{
    struct world *w = *state;
    kaws_status status;
    size_t n;
    int all, failed;

    for (all = 0; all < 2; all++)
        for (n = 1, failed = 1; failed; n++) {
            world_close(w);
            (void)remove(w->f.data);
            starve(w, n, all);
            status = kaws_open(&w->ring, &w->cfg, &w->err);
            failed = starved(w);
            EXPECT(w, failed ? KAWS_MEMORY : KAWS_OK, NULL, status);
            assert_int_equal(w->ring == NULL && w->f.live == 0, failed);
            assert_int_equal(access(w->f.data, F_OK) != 0, failed);
        }
}


/* A torn end is set aside, or all stays as it is. */
static void
test_torn_file(void **state)
{
    struct world *w = *state;
    kaws_bytes plain = kaws__buf_of("x");
    size_t n, len, now_len;
    uint8_t *all, *now;
    kaws_status status;
    int failed;

    EXPECT(w, KAWS_OK, NULL, kaws_store(w->ring, name_of("last", ""), "SECRET",
                                        plain, &w->err));
    all = slurp(w->f.data, &len);
    world_close(w);
    spill(w->f.data, all, len - 5);
    for (n = 1, failed = 1; failed; n++) {
        starve(w, n, 0);
        status = kaws_open(&w->ring, &w->cfg, &w->err);
        failed = starved(w);
        EXPECT(w, failed ? KAWS_MEMORY : KAWS_OK, NULL, status);
        assert_true(!failed || w->f.live == 0);
        now = slurp(w->f.data, &now_len);
        assert_int_equal(failed, now_len == len - 5);
        assert_memory_equal(now + (failed ? 0 : 48), all + (failed ? 0 : 48),
                            now_len - (failed ? 0 : 48));
        free(now);
    }
    assert_int_equal(fake_logged(&w->f, 1, ".torn-"), 1);
    expect_usable(w, KEYS);
    free(all);
}


/* Granted is granted: what fails after that does not fail the rotation. */
static void
test_rotate(void **state)
{
    struct world *w = *state;
    kaws_status status;
    size_t n;
    int all, failed, done, after = 0;

    for (all = 0; all < 2; all++)
        for (n = 1, failed = 1; failed; n++) {
            w->f.keys[0].rotations = 0;
            starve(w, n, all);
            status = kaws_rotate_kms_key(w->ring, &w->err);
            failed = starved(w);
            done = w->f.keys[0].rotations;
            EXPECT(w, done > 0 ? KAWS_OK : KAWS_MEMORY, NULL, status);
            after += failed ? done : 0;
            expect_usable(w, KEYS);
        }
    assert_true(after >= 4);
    assert_int_equal(fake_logged(&w->f, 1, "could not be seen"), after);
}


/* Many workers, of which any may be the one that finds no memory. */
static void
test_rewrap_across_regions(void **state)
{
    struct world *w = *state;
    kaws_status status;
    size_t n;
    int failed;

    w->cfg.rewrap_parallel = 1;
    world_reopen(w);
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_WEST, &w->err));
    for (n = 1, failed = 1; failed; n++) {
        starve(w, n, 0);
        status = kaws_rewrap_all(w->ring, &w->err);
        failed = starved(w);
        EXPECT(w, failed ? KAWS_MEMORY : KAWS_OK, NULL, status);
        expect_usable(w, KEYS);
    }
    assert_true(n > 10 * KEYS);
}


int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, world_end)
#define X(name, least, call) TEST(test_##name),
    const struct CMUnitTest tests[] = {
        JOBS(X)
        TEST(test_growing), TEST(test_new_file), TEST(test_torn_file),
        TEST(test_rotate), TEST(test_rewrap_across_regions)
    };
#undef X

    return cmocka_run_group_tests(tests, NULL, NULL);
}
