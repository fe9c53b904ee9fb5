/* model.h - a keyring as it should be, for the tests of files
 *
 * Includes the disk (disk.h), the product, the fakes and cmocka, in the one
 * order that works. A model is a keyring's content: the names in their order
 * and, for each name, the key that KMS decrypts its blob to.
 */

#if !defined(KAWS_MODEL_H)
#define KAWS_MODEL_H

#define DISK_CHEAP_PAGES
#include "disk.h"

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"

#include "../unit/fakes.h"

#include <setjmp.h>
#include <cmocka.h>

#define MODEL static __attribute__((unused))

#define DATA "/disk/ring/keys"

/* Calls of an append: lock lock lstat, fstat lstat pread, cell, entry,
 * fdatasync. */
enum { MODEL_KEYS = 24, WRITES_ENTRY = 8 };

typedef struct model_key {
    char    key_id[KAWS_NAME_MAX + 1], user_id[KAWS_NAME_MAX + 1];
    char    type[16];
    size_t  len;
    uint8_t sum[32];              /* SHA-256 of the key                       */
} model_key;

typedef struct model {
    size_t    count;
    model_key keys[MODEL_KEYS];
} model;


static struct fake fake;
static const char *model_file = DATA;     /* as a test writes it              */
static char model_trail[640];             /* what led here, for a report      */


/* On the disk, and with nothing that would be left to chance. */
MODEL kaws_config
model_config(void)
{
    kaws_config cfg = fake_config(&fake);

    cfg.data_file = DATA;
    cfg.rewrap_parallel = 1;              /* the disk is for one thread       */
    return cfg;
}


/* The same chance for each trial: the same keys, the same blobs. */
MODEL void
model_reset(uint64_t seed)
{
    fake.seed = seed;
    fake.now_ms = 1795000000000;
}


/* The names and, in the same order, the sums. 0, or why it cannot be had. */
MODEL kaws_status
model_of(kaws *ring, model *m, kaws_error *err)
{
    kaws_entry_info info;
    kaws_walk *walk;
    kaws_status status = kaws_walk_begin(ring, &walk, err);
    kaws_key key;

    m->count = 0;
    while (status == KAWS_OK && kaws_walk_next(walk, &info)) {
        model_key *k = &m->keys[m->count++];
        memset(k, 0, sizeof *k);
        (void)snprintf(k->key_id, sizeof k->key_id, "%s", info.name.key_id);
        (void)snprintf(k->user_id, sizeof k->user_id, "%s",
                       info.name.user_id);
        status = kaws_fetch(ring, info.name, &key, err);
        if (status != KAWS_OK)
            break;
        kaws_bytes bytes = { key.bytes, key.len };
        memcpy(k->type, key.type, sizeof k->type);
        k->len = key.len;
        kaws__crypto_sha256(k->sum, bytes);
        kaws_key_free(ring, &key);
    }
    kaws_walk_end(walk);
    return status;
}


MODEL int
model_same(const model *a, const model *b)
{
    return a->count == b->count &&
           memcmp(a->keys, b->keys, a->count * sizeof a->keys[0]) == 0;
}


/* Differs where the models do. */
MODEL uint64_t
model_hash(const model *m)
{
    return m == NULL ? 0 : disk_hash_more(UINT64_C(0x9e3779b97f4a7c15),
                                          m->keys,
                                          m->count * sizeof m->keys[0]);
}


MODEL void
model_print(FILE *out, const char *what, const model *m)
{
    size_t i;

    fprintf(out, "    %s: %lu keys:", what, (unsigned long)m->count);
    for (i = 0; i < m->count; i++)
        fprintf(out, " %.12s(%lu):%02x%02x", m->keys[i].key_id,
                (unsigned long)m->keys[i].len, m->keys[i].sum[0],
                m->keys[i].sum[1]);
    fprintf(out, "\n");
}


/* Fails the test, and says all that led here. */
MODEL void
model_fail(const char *what, const kaws_error *err)
{
    if (err != NULL)
        fprintf(stderr, "    %s (%s)\n", err->text,
                kaws_status_text(err->status));
    disk_report(stderr);
    if (fake.log != NULL)
        fprintf(stderr, "%.600s\n",
                fake.log + (fake.log_len > 600 ? fake.log_len - 600 : 0));
    fail_msg("%s: %s", model_trail, what);
}


/* Opens a file, with an empty log. */
MODEL kaws_status
model_open_at(const char *path, int read_only, kaws **ring, kaws_error *err)
{
    kaws_config cfg = model_config();

    cfg.data_file = path;
    cfg.read_only = read_only;
    fake_forget_log(&fake);
    return kaws_open(ring, &cfg, err);
}


MODEL kaws *
model_must_open_at(const char *path, int read_only)
{
    kaws_error err;
    kaws *ring = NULL;

    if (model_open_at(path, read_only, &ring, &err) != KAWS_OK)
        model_fail("the keyring does not open", &err);
    return ring;
}


MODEL kaws *
model_must_open(void)
{
    return model_must_open_at(model_file, 0);
}


/* What changes a keyring: opening, if nothing else. */
typedef enum verb {
    OPEN, GENERATE, STORE, REMOVE_FIRST, REMOVE_LAST, REWRAP, REFRESH, CLOSE,
    GENERATE_CLOSE
} verb;


/* Removes the n-th name of the ring. */
MODEL kaws_status
model_remove(kaws *ring, size_t number, kaws_error *err)
{
    char key_id[KAWS_NAME_MAX + 1];
    kaws_entry_info info;
    kaws_walk *walk;

    memset(&info, 0, sizeof info);
    if (kaws_walk_begin(ring, &walk, err) != KAWS_OK)
        return err->status;
    do
        assert_true(kaws_walk_next(walk, &info));
    while (number-- > 0);
    (void)snprintf(key_id, sizeof key_id, "%s", info.name.key_id);
    kaws_walk_end(walk);
    return kaws_remove(ring, (kaws_name){ key_id, "" }, err);
}


MODEL kaws_status
model_run(verb what, kaws **ring, kaws_error *err)
{
    static uint8_t plain[KAWS_PLAIN_MAX] = { 1, 7, 14 };
    kaws_bytes view = { plain, sizeof plain };
    kaws_name fresh = { "fresh", "" }, stored = { "stored", "" };
    kaws_status status = KAWS_OK;

    if (what == OPEN)
        return model_open_at(model_file, 0, ring, err);
    if (what == STORE)
        return kaws_store(*ring, stored, "SECRET", view, err);
    if (what == REMOVE_FIRST || what == REMOVE_LAST)
        return model_remove(*ring, what == REMOVE_LAST ? 2 : 0, err);
    if (what == REWRAP)
        return kaws_rewrap_all(*ring, err);
    if (what == REFRESH)
        return kaws_refresh(*ring, err);
    if (what == GENERATE || what == GENERATE_CLOSE)
        status = kaws_generate(*ring, fresh, "AES", 32, err);
    if (what == GENERATE || status != KAWS_OK)
        return status;
    kaws_close(*ring);                    /* it has to find the cell behind   */
    *ring = NULL;
    return KAWS_OK;
}


/* How long the longest file that was set aside is which has the end of those
 * bytes; 0 if there is none. */
MODEL size_t
model_aside(const uint8_t *at, size_t len)
{
    const uint8_t *aside;
    const char *name;
    char path[160];
    size_t i, aside_len, longest = 0;

    for (i = 0; (name = disk_name("/disk/ring", "keys.torn-", i)) != NULL;
         i++) {
        (void)snprintf(path, sizeof path, "/disk/ring/%s", name);
        aside = disk_bytes(path, &aside_len);
        if (aside_len > longest && aside_len <= len &&
            memcmp(aside, at + len - aside_len, aside_len) == 0)
            longest = aside_len;
    }
    return longest;
}


/* The exit code: that of the tests, or 1 if memory was left or not wiped. */
MODEL int
model_end(int failed)
{
    if (failed == 0 && (fake.live != 0 || fake.dirty != 0 ||
                        fake.misfreed != 0))
        failed = 1;
    fake_end(&fake);
    disk_drop(&disk.image);
    return failed;
}


static inline int
model_long(void)
{
    return getenv("KAWS_LONG") != NULL;
}


static inline kaws_name
model_name(const char *key_id)
{
    kaws_name name = { key_id, "" };

    return name;
}

#endif /* KAWS_MODEL_H */
