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


/* Runs the operation again and again, with another allocation failing each
 * time, until none is left that could. Returns how many there were. */
static size_t
starve(struct world *w, kaws_status (*job)(struct world *), int from_then_on)
{
    size_t n, live, bytes, len, now_len;
    uint8_t *file = slurp(w->f.data, &len), *now;
    kaws_status status;
    kaws_stats stats;

    kaws_get_stats(w->ring, &stats);
    expect_usable(w, stats.keys);         /* so that KMS has answered once    */
    live = w->f.live;
    bytes = w->f.live_bytes;
    for (n = 1; ; n++) {
        w->f.failed = 0;
        w->f.fail_nth = from_then_on ? 0 : w->f.allocs + n;
        w->f.fail_from = from_then_on ? w->f.allocs + n : 0;
        status = job(w);
        w->f.fail_nth = w->f.fail_from = 0;
        if (w->f.failed == 0)
            break;
        EXPECT(w, KAWS_MEMORY, "memory", status);
        if (w->ring == NULL)
            world_open(w);
        expect_usable(w, stats.keys);
        /* A table that could grow before the failure may have grown. */
        assert_int_equal(w->f.live, live);
        assert_true(w->f.live_bytes >= bytes);
        now = slurp(w->f.data, &now_len);
        assert_int_equal(now_len, len);
        assert_memory_equal(now + 48, file + 48, len - 48);
        free(now);
        assert_true(n < 500);
    }
    EXPECT(w, KAWS_OK, NULL, status);
    free(file);
    return n - 1;
}


/* ---- the operations ---------------------------------------------------- */

static kaws_status
do_open(struct world *w)
{
    world_close(w);
    return kaws_open(&w->ring, &w->cfg, &w->err);
}


static kaws_status
do_check(struct world *w)
{
    return kaws_check(w->ring, &w->err);
}


static kaws_status
do_generate(struct world *w)
{
    return kaws_generate(w->ring, name_of("new", NULL), "AES", 32, &w->err);
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
do_remove(struct world *w)
{
    return kaws_remove(w->ring, name_of("k2", "u"), &w->err);
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
do_use_region(struct world *w)
{
    kaws_status status = kaws_use_region(w->ring, "us-west-2", &w->err);

    assert_string_equal(w->ring->kms.trust.now.region, status == KAWS_OK
                        ? "us-west-2" : "us-east-1");
    return status;
}


static kaws_status
do_reload(struct world *w)
{
    return kaws_reload_creds(w->ring, &w->err);
}


static kaws_status
do_rewrap(struct world *w)
{
    return kaws_rewrap_all(w->ring, &w->err);
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
do_encrypt(struct world *w)
{
    kaws_sealed out;

    return kaws_kms_encrypt(w->ring, NULL, kaws__buf_of("plain"), &out,
                            &w->err);
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


static kaws_status
do_reencrypt(struct world *w)
{
    kaws_sealed out;

    return kaws_kms_reencrypt(w->ring, NULL, &sealed, &out, &w->err);
}


/* ---- each of them starved ---------------------------------------------- */

/* `least`: so many allocations there are; fewer, and the test sees nothing. */
static void
starve_both(void **state, kaws_status (*job)(struct world *), size_t least)
{
    struct world *w = *state;

    assert_true(starve(w, job, 0) >= least);
    world_end(state);
    assert_int_equal(begin(state), 0);
    w = *state;
    assert_true(starve(w, job, 1) >= least);
}


#define STARVED(name, job, least)                                             \
    static void                                                               \
    name(void **state)                                                        \
    {                                                                         \
        starve_both(state, job, least);                                       \
    }

STARVED(test_open, do_open, 6)
STARVED(test_check, do_check, 4)
STARVED(test_generate, do_generate, 5)
STARVED(test_store, do_store, 5)
STARVED(test_fetch, do_fetch, 4)
STARVED(test_remove, do_remove, 1)
STARVED(test_walk, do_walk, 1)
STARVED(test_use_kms_key, do_use_kms_key, 4)
STARVED(test_use_region, do_use_region, 3)
STARVED(test_rewrap, do_rewrap, 5 * KEYS)
STARVED(test_data_key, do_data_key, 2)
STARVED(test_encrypt, do_encrypt, 3)
STARVED(test_decrypt, do_decrypt, 2)
STARVED(test_reencrypt, do_reencrypt, 3)


/* The table and the list grow now and then: names until all sizes were met. */
static void
test_growing(void **state)
{
    struct world *w = *state;
    kaws_bytes plain = kaws__buf_of("x");
    char name[16];
    size_t n;
    int i, failures = 0;

    for (i = 0; i < 60; i++) {
        (void)snprintf(name, sizeof name, "g%d", i);
        for (n = 1; ; n++) {
            kaws_status status;
            w->f.fail_nth = w->f.allocs + n;
            w->f.failed = 0;
            status = kaws_store(w->ring, name_of(name, ""), "SECRET", plain,
                                &w->err);
            w->f.fail_nth = 0;
            if (w->f.failed == 0) {
                EXPECT(w, KAWS_OK, NULL, status);
                break;
            }
            EXPECT(w, KAWS_MEMORY, NULL, status);
            failures++;
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
    struct stat st;
    kaws_status status;
    size_t n;
    int from;

    for (from = 0; from < 2; from++)
        for (n = 1; ; n++) {
            world_close(w);
            (void)remove(w->f.data);
            w->f.failed = 0;
            w->f.fail_nth = from ? 0 : w->f.allocs + n;
            w->f.fail_from = from ? w->f.allocs + n : 0;
            status = kaws_open(&w->ring, &w->cfg, &w->err);
            w->f.fail_nth = w->f.fail_from = 0;
            if (w->f.failed == 0)
                break;
            EXPECT(w, KAWS_MEMORY, NULL, status);
            assert_null(w->ring);
            assert_int_equal(w->f.live, 0);
            assert_int_not_equal(stat(w->f.data, &st), 0);
        }
    EXPECT(w, KAWS_OK, NULL, status);
    assert_int_equal(stat(w->f.data, &st), 0);
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

    EXPECT(w, KAWS_OK, NULL, kaws_store(w->ring, name_of("last", ""), "SECRET",
                                        plain, &w->err));
    all = slurp(w->f.data, &len);
    world_close(w);
    spill(w->f.data, all, len - 5);
    for (n = 1; ; n++) {
        w->f.failed = 0;
        w->f.fail_nth = w->f.allocs + n;
        status = kaws_open(&w->ring, &w->cfg, &w->err);
        w->f.fail_nth = 0;
        if (w->f.failed == 0)
            break;
        EXPECT(w, KAWS_MEMORY, NULL, status);
        assert_int_equal(w->f.live, 0);
        now = slurp(w->f.data, &now_len);
        assert_int_equal(now_len, len - 5);
        assert_memory_equal(now, all, now_len);
        free(now);
    }
    EXPECT(w, KAWS_OK, NULL, status);
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
    int from, rotations, granted = 0;

    for (from = 0; from < 2; from++)
        for (n = 1; ; n++) {
            w->f.keys[0].rotations = rotations = 0;
            w->f.failed = 0;
            w->f.fail_nth = from ? 0 : w->f.allocs + n;
            w->f.fail_from = from ? w->f.allocs + n : 0;
            status = kaws_rotate_kms_key(w->ring, &w->err);
            w->f.fail_nth = w->f.fail_from = 0;
            if (w->f.failed == 0)
                break;
            rotations = w->f.keys[0].rotations;
            EXPECT(w, rotations > 0 ? KAWS_OK : KAWS_MEMORY, NULL, status);
            granted += rotations;
            expect_usable(w, KEYS);
        }
    EXPECT(w, KAWS_OK, NULL, status);
    assert_true(granted >= 4);
    assert_int_equal(fake_logged(&w->f, 1, "could not be seen"), granted);
}


/* Credentials need none: they have their pages. */
static void
test_reload(void **state)
{
    assert_int_equal(starve(*state, do_reload, 1), 0);
}


/* Many workers, of which any may be the one that finds no memory. */
static void
test_rewrap_across_regions(void **state)
{
    struct world *w = *state;
    kaws_status status;
    size_t n;

    w->cfg.rewrap_parallel = 1;
    world_reopen(w);
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_WEST, &w->err));
    for (n = 1; ; n++) {
        w->f.failed = 0;
        w->f.fail_nth = w->f.allocs + n;
        status = kaws_rewrap_all(w->ring, &w->err);
        w->f.fail_nth = 0;
        if (w->f.failed == 0)
            break;
        EXPECT(w, KAWS_MEMORY, NULL, status);
        expect_usable(w, KEYS);
    }
    EXPECT(w, KAWS_OK, NULL, status);
    assert_true(n > 10 * KEYS);
    expect_usable(w, KEYS);
}


int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, world_end)
    const struct CMUnitTest tests[] = {
        TEST(test_open), TEST(test_check), TEST(test_generate),
        TEST(test_store), TEST(test_fetch), TEST(test_remove),
        TEST(test_walk), TEST(test_use_kms_key), TEST(test_use_region),
        TEST(test_rewrap), TEST(test_data_key), TEST(test_encrypt),
        TEST(test_decrypt), TEST(test_reencrypt), TEST(test_growing),
        TEST(test_new_file), TEST(test_torn_file), TEST(test_rotate),
        TEST(test_reload), TEST(test_rewrap_across_regions)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
