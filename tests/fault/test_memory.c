/* No memory: in every public operation, the Nth allocation fails alone, and
 * then all allocations from the Nth on. The status must be KAWS_MEMORY, nothing
 * may have changed, and the ring must work afterwards. When the ring is closed,
 * all memory has been given back, and was wiped before. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "../unit/keys.h"

enum { KEYS = 5 };

static struct world *here;                /* the test's                       */
static kaws_sealed sealed;                /* of the current KMS key           */


static int
begin_keys(void **state)
{
    static const char *const names[KEYS] = { "k", "k1", "k2", "k3", "k4" };
    struct world *w;
    int i;

    if (world_begin(state) != 0)
        return 1;
    w = here = *state;
    (void)snprintf(w->f.token, sizeof w->f.token, "a-session-token");
    fake_write_conf(&w->f, FAKE_ID "\n" FAKE_SECRET "\na-session-token\n");
    world_open(w);
    for (i = 0; i < KEYS; i++)
        OK(w, store(w, names[i], "0123456789abcdef"));
    world_reopen(w);                      /* as most keyrings are            */
    OK(w, kms_encrypt(w, NULL, some, &sealed));
    return 0;
}


static void
expect_usable(struct world *w, uint64_t keys)
{
    kaws_stats stats;

    kaws_get_stats(w->ring, &stats);
    assert_int_equal(stats.keys, keys);
    assert_int_equal(stats.rewrap_total, 0);
    expect_text(w, "k1", "0123456789abcdef");
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


/* ---- the operations: those of keys.h, and these ------------------------ */

static kaws_status
do_open(kaws *ring, kaws_error *err)
{
    kaws_close(ring);
    return kaws_open(&here->ring, &here->cfg, err);
}


static kaws_status
do_store_much(kaws *ring, kaws_error *err)
{
    static uint8_t big[4096];
    kaws_bytes plain = { big, sizeof big };

    return kaws_store(ring, name_of("new", "u"), "SECRET", plain, err);
}


CALL(move, kaws_use_region(ring, "us-west-2", err))


/* Of a key that KMS makes, or, with a blob, of one that it decrypts. */
static kaws_status
do_plain(kaws *ring, const kaws_sealed *in, kaws_error *err)
{
    uint8_t plain[32], zeros[32] = { 0 };
    size_t len = sizeof plain;
    kaws_sealed out;
    kaws_status status;

    memset(plain, 0x77, sizeof plain);
    status = in != NULL ? kaws_kms_decrypt(ring, NULL, in, plain, &len, err)
           : kaws_kms_generate_data_key(ring, NULL, 32, plain, &out, err);
    if (status != KAWS_OK)
        assert_memory_equal(plain, zeros, 32);
    return status;
}


CALL(data_key, do_plain(ring, NULL, err))
CALL(decrypt, do_plain(ring, &sealed, err))
CALL(reencrypt, kaws_kms_reencrypt(ring, NULL, &sealed, &scratch, err))


/* How many allocations there are at least: if there were fewer, the test would
 * see nothing. Reloading credentials and removing a key need none. */
static const struct {
    const char *name;
    kaws_status (*call)(kaws *ring, kaws_error *err);
    size_t least;
} jobs[] = {
    { "open", do_open, 5 }, { "check", kaws_check, 4 },
    { "generate", do_generate, 4 }, { "store", do_store_much, 5 },
    { "fetch", do_fetch, 3 }, { "remove", do_remove, 0 },
    { "walk", do_walk, 1 }, { "use", do_use, 4 }, { "use_region", do_move, 2 },
    { "reload", kaws_reload_creds, 0 },
    { "rewrap", kaws_rewrap_all, 5 * KEYS }, { "data_key", do_data_key, 2 },
    { "encrypt", do_kms_encrypt, 3 }, { "decrypt", do_decrypt, 2 },
    { "reencrypt", do_reencrypt, 2 }
};


/* ---- each of them starved ---------------------------------------------- */

/* Performs the operation again and again, with another allocation failing each
 * time, until none is left that could; then with all from there on. */
static void
starve_job(struct world *w, size_t job, int all)
{
    size_t n, live, bytes, len, now_len;
    uint8_t *file = slurp(w->f.data, &len), *now;
    kaws_status status;
    int failed;

    expect_usable(w, KEYS);               /* so that KMS has answered once    */
    live = w->f.live;
    bytes = w->f.live_bytes;
    for (n = 1, failed = 1; failed; n += (size_t)failed) {
        starve(w, n, all);
        status = jobs[job].call(w->ring, &w->err);
        failed = starved(w);
        EXPECT(w, failed ? KAWS_MEMORY : KAWS_OK, failed ? "memory" : NULL,
               status);
        if (!failed)
            break;
        if (w->ring == NULL)
            world_open(w);
        assert_string_equal(w->ring->kms.trust.now.target.key_id, FAKE_EAST);
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
    if (n - 1 < jobs[job].least || (n > 1 && jobs[job].least == 0))
        fail_msg("%s: %lu allocations", world_case, (unsigned long)n - 1);
    free(file);
}


static void
test_each(void **state)
{
    size_t i;

    for (i = 0; i < 2 * COUNT(jobs); i++) {
        world_case = jobs[i / 2].name;
        starve_job(here, i / 2, i % 2);
        assert_int_equal(world_end(state), 0);
        assert_int_equal(begin_keys(state), 0);
    }
    world_case = "";
}


/* Of no ring nothing can be had; who asks is told. */
static void
test_no_ring(void **state)
{
    struct world *w = *state;
    size_t i;

    for (i = 1; i < COUNT(jobs); i++) {
        world_case = jobs[i].name;
        EXPECT(w, KAWS_ARGUMENT, "NULL", jobs[i].call(NULL, &w->err));
    }
    kaws__err_clear(&w->err);
    world_case = "";
}


/* ---- operations of which more must be said ----------------------------- */

/* The table and the list grow now and then: names until all sizes were met. */
static void
test_growing(void **state)
{
    struct world *w = *state;
    kaws_status status;
    char name[16];
    size_t n;
    int i, failed, failures = 0;

    for (i = 0; i < 60; i++) {
        (void)snprintf(name, sizeof name, "g%d", i);
        for (n = 1, failed = 1; failed; n++, failures += failed) {
            starve(w, n, 0);
            status = store(w, name, "x");
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
    size_t n, len, now_len;
    uint8_t *all, *now;
    kaws_status status;
    int failed;

    OK(w, store(w, "last", "x"));
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
            status = rotate(w);
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
    OK(w, use_key(w, FAKE_WEST));
    for (n = 1, failed = 1; failed; n++) {
        starve(w, n, 0);
        status = rewrap(w);
        failed = starved(w);
        EXPECT(w, failed ? KAWS_MEMORY : KAWS_OK, NULL, status);
        expect_usable(w, KEYS);
    }
    assert_true(n > 10 * KEYS);
}


int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin_keys, world_end)
    const struct CMUnitTest tests[] = {
        TEST(test_each), TEST(test_no_ring), TEST(test_growing),
        TEST(test_new_file), TEST(test_torn_file), TEST(test_rotate),
        TEST(test_rewrap_across_regions)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
