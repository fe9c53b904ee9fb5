/* keys.h - what the tests of vault, rewrap and ring share: keys in a ring, the
 * file that they are in, and all that can be asked of a ring
 *
 * Include it after world.h. A key's plaintext is its name, unless a test says
 * otherwise.
 */

#if !defined(KAWS_KEYS_H)
#define KAWS_KEYS_H

#include "world.h"

#define OK(w, call) EXPECT(w, KAWS_OK, NULL, call)

/* What KMS is to do, in the world `w`: see fake_script. */
#define SCRIPT(...)   fake_push(&w->f, (fake_script){ __VA_ARGS__ })
#define SCRIPTS_END() memset(w->f.scripts, 0, sizeof w->f.scripts)

/* The library's functions, of the ring in a world. */
#define use_key(w, id)      kaws_use_kms_key((w)->ring, id, &(w)->err)
#define use_region(w, at)   kaws_use_region((w)->ring, at, &(w)->err)
#define use(w, id, at)      kaws_use((w)->ring, id, at, &(w)->err)
#define try_to_use(w, id, at) kaws_try((w)->ring, id, at, &(w)->err)
#define check(w)            kaws_check((w)->ring, &(w)->err)
#define rewrap(w)           kaws_rewrap_all((w)->ring, &(w)->err)
#define rotate(w)           kaws_rotate_kms_key((w)->ring, &(w)->err)
#define reload_creds(w)     kaws_reload_creds((w)->ring, &(w)->err)
#define whoami(w, who)      kaws_whoami((w)->ring, who, &(w)->err)
#define kms_generate_data_key(w, ctx, len, plain, out)                        \
    kaws_kms_generate_data_key((w)->ring, ctx, len, plain, out, &(w)->err)
#define kms_encrypt(w, ctx, plain, out)                                       \
    kaws_kms_encrypt((w)->ring, ctx, plain, out, &(w)->err)
#define kms_decrypt(w, ctx, in, plain, len)                                   \
    kaws_kms_decrypt((w)->ring, ctx, in, plain, len, &(w)->err)
#define kms_reencrypt(w, ctx, in, out)                                        \
    kaws_kms_reencrypt((w)->ring, ctx, in, out, &(w)->err)


#if defined(KAWS_FAULTY_DISK_H)
#define HEAL() disk_heal()
#else
#define HEAL() (void)0
#endif


FAKE int
begin(void **state)
{
    HEAL();
    return world_begin(state);
}


FAKE int
begin_open(void **state)
{
    HEAL();
    return world_begin_open(state);
}


FAKE int
end(void **state)
{
    HEAL();
    return world_end(state);
}

#define OPEN(name) cmocka_unit_test_setup_teardown(name, begin_open, end)
#define SHUT(name) cmocka_unit_test_setup_teardown(name, begin, end)


/* ---- keys -------------------------------------------------------------- */

FAKE kaws_status
generate(struct world *w, const char *key_id)
{
    return kaws_generate(w->ring, name_of(key_id, NULL), "AES", 32, &w->err);
}


FAKE kaws_status
store(struct world *w, const char *key_id, const char *text)
{
    return kaws_store(w->ring, name_of(key_id, NULL), "SECRET",
                      kaws__buf_of(text), &w->err);
}


FAKE kaws_status
drop(struct world *w, const char *key_id)
{
    return kaws_remove(w->ring, name_of(key_id, NULL), &w->err);
}


/* The key must be what was stored. */
FAKE void
expect_text(struct world *w, const char *key_id, const char *text)
{
    static const kaws_key none;
    kaws_key key;

    EXPECT(w, KAWS_OK, key_id,
           kaws_fetch(w->ring, name_of(key_id, NULL), &key, &w->err));
    assert_int_equal(key.len, strlen(text));
    assert_memory_equal(key.bytes, text, key.len);
    assert_string_equal(key.type, "SECRET");
    kaws_key_free(w->ring, &key);
    assert_memory_equal(&key, &none, sizeof key);
}


/* It must not be to be had, for that reason, and no byte given out. */
FAKE void
expect_no_key(struct world *w, const char *key_id, kaws_status why)
{
    static const kaws_key none;
    kaws_key key;

    memset(&key, 0x77, sizeof key);
    EXPECT(w, why, NULL,
           kaws_fetch(w->ring, name_of(key_id, NULL), &key, &w->err));
    assert_memory_equal(&key, &none, sizeof key);
}


FAKE uint64_t
keys_of(struct world *w)
{
    kaws_stats stats;

    kaws_get_stats(w->ring, &stats);
    return stats.keys;
}


/* The ARN of the KMS key that sealed that key; "" if there is no such key. */
FAKE const char *
arn_of(struct world *w, const char *key_id)
{
    static char arn[256];
    kaws_walk *walk;
    kaws_entry_info info;

    arn[0] = '\0';
    OK(w, kaws_walk_begin(w->ring, &walk, &w->err));
    while (kaws_walk_next(walk, &info))
        if (strcmp(info.name.key_id, key_id) == 0)
            (void)snprintf(arn, sizeof arn, "%s", info.kms_key_arn);
    kaws_walk_end(walk);
    return arn;
}


/* A key that is stored now must be sealed by that KMS key. */
FAKE void
expect_sealed_by(struct world *w, const char *key_id, const char *arn)
{
    OK(w, store(w, key_id, "x"));
    assert_string_equal(arn_of(w, key_id), arn);
}


/* Reopens the ring, with that KMS key. */
FAKE void
reopen_with(struct world *w, const char *kms_key_id)
{
    world_close(w);
    w->cfg.kms_key_id = kms_key_id;
    world_open(w);
}


/* ---- their file -------------------------------------------------------- */

static uint8_t *snapped;
static size_t snapped_len;


FAKE void
snap(struct world *w)
{
    free(snapped);
    snapped = slurp(w->f.data, &snapped_len);
    assert_non_null(snapped);
}


/* The file is as it was, but for the committed length. */
FAKE void
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


FAKE uint64_t
committed_in(struct world *w)
{
    size_t len;
    uint8_t *all = slurp(w->f.data, &len);
    uint64_t committed;

    assert_non_null(all);
    committed = kaws__store_get(all + 32, 8);
    free(all);
    return committed;
}


/* ---- what happens while KMS is asked for an action: once --------------- */

static struct {
    const char *action;
    int         skip, fired;
    void      (*what)(struct world *);
    kaws_status status;
} meanwhile;


FAKE void
on_send(struct fake *f, const char *action)
{
    if (meanwhile.fired || strcmp(action, meanwhile.action) != 0 ||
        meanwhile.skip-- > 0)
        return;
    meanwhile.fired = 1;
    meanwhile.what(f->user);
}


FAKE void
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


/* ---- all that can be asked of a ring ----------------------------------- */

static const kaws_bytes some = { (const uint8_t *)"0123456789abcdef", 16 };


#define CALL(name, call)                                                      \
    FAKE kaws_status                                                          \
    do_##name(kaws *ring, kaws_error *err)                                    \
    {                                                                         \
        return call;                                                          \
    }

static kaws_sealed scratch;               /* where results go                 */
static kaws_identity identity;

CALL(generate, kaws_generate(ring, name_of("new", ""), "AES", 32, err))
CALL(store, kaws_store(ring, name_of("new", ""), "AES", some, err))
CALL(remove, kaws_remove(ring, name_of("k", ""), err))
CALL(use_kms_key, kaws_use_kms_key(ring, FAKE_EAST, err))
CALL(use_region, kaws_use_region(ring, "us-east-1", err))
CALL(use, kaws_use(ring, FAKE_EAST2, "us-east-1", err))
CALL(try, kaws_try(ring, FAKE_EAST, NULL, err))
CALL(whoami, kaws_whoami(ring, &identity, err))
CALL(kms_generate,
     kaws_kms_generate_data_key(ring, NULL, 9, NULL, &scratch, err))
CALL(kms_encrypt, kaws_kms_encrypt(ring, NULL, some, &scratch, err))


FAKE kaws_status
do_fetch(kaws *ring, kaws_error *err)
{
    static const kaws_key none;
    kaws_key key;
    kaws_status status = kaws_fetch(ring, name_of("k", ""), &key, err);

    if (status == KAWS_OK)
        kaws_key_free(ring, &key);
    assert_memory_equal(&key, &none, sizeof key);
    return status;
}


FAKE kaws_status
do_walk(kaws *ring, kaws_error *err)
{
    kaws_walk *walk = (kaws_walk *)(void *)&walk;
    kaws_status status = kaws_walk_begin(ring, &walk, err);

    assert_int_equal(walk == NULL, status != KAWS_OK);
    kaws_walk_end(walk);
    return status;
}


/* Of a blob that KMS will not open. */
FAKE kaws_status
do_kms_decrypt(kaws *ring, kaws_error *err)
{
    kaws_sealed sealed = { { 1 }, 1, "", "" };
    uint8_t room[32];
    size_t len = sizeof room;

    return kaws_kms_decrypt(ring, NULL, &sealed, room, &len, err);
}


FAKE kaws_status
do_kms_reencrypt(kaws *ring, kaws_error *err)
{
    kaws_sealed sealed = { { 1 }, 1, "", "" };

    return kaws_kms_reencrypt(ring, NULL, &sealed, &sealed, err);
}

enum {                            /* what a call does                         */
    CHANGES = 1,                  /* the file                                 */
    READS   = 2,                  /* keys of the file                         */
    SEALS   = 4,                  /* with the KMS key of the settings         */
    ASKS    = 8                   /* KMS                                      */
};

/* In an order in which all succeed, one after the other, if key k is there. */
static const struct {
    const char *name;
    kaws_status (*call)(kaws *ring, kaws_error *err);
    int does;
    kaws_status status;           /* if nothing is wrong                      */
} calls[] = {
    { "check", kaws_check, SEALS | ASKS, KAWS_OK },
    { "generate", do_generate, CHANGES | SEALS | ASKS, KAWS_OK },
    { "store", do_store, CHANGES | SEALS | ASKS, KAWS_EXISTS },
    { "fetch", do_fetch, READS | ASKS, KAWS_OK },
    { "walk", do_walk, 0, KAWS_OK },
    { "use_kms_key", do_use_kms_key, ASKS, KAWS_OK },
    { "use_region", do_use_region, 0, KAWS_OK },
    { "use", do_use, ASKS, KAWS_OK },
    { "try", do_try, ASKS, KAWS_OK },
    { "reload_creds", kaws_reload_creds, 0, KAWS_OK },
    { "refresh", kaws_refresh, READS, KAWS_OK },
    { "whoami", do_whoami, 0, KAWS_OK },
    { "rotate", kaws_rotate_kms_key, SEALS | ASKS, KAWS_OK },
    { "rewrap", kaws_rewrap_all, CHANGES | SEALS | ASKS, KAWS_OK },
    { "remove", do_remove, CHANGES, KAWS_OK },
    { "kms_generate_data_key", do_kms_generate, SEALS | ASKS, KAWS_OK },
    { "kms_encrypt", do_kms_encrypt, SEALS | ASKS, KAWS_OK },
    { "kms_decrypt", do_kms_decrypt, SEALS | ASKS, KAWS_MISMATCH },
    { "kms_reencrypt", do_kms_reencrypt, SEALS | ASKS, KAWS_MISMATCH }
};


/* All calls that do such things must answer so, and say those words. What is
 * wrong with the settings is found without KMS. */
FAKE void
all_refused(struct world *w, int does, kaws_status status, const char *words)
{
    int requests = w->f.requests;
    size_t i;

    for (i = 0; i < COUNT(calls); i++) {
        if (!(calls[i].does & does))
            continue;
        world_case = calls[i].name;
        EXPECT(w, status, words, calls[i].call(w->ring, &w->err));
    }
    world_case = "";
    if (status == KAWS_CONFIG || status == KAWS_ARGUMENT)
        assert_int_equal(w->f.requests, requests);
}

#endif /* KAWS_KEYS_H */
