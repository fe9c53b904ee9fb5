/* Room store: the data file's bytes. The files in golden/ were written by hand
 * from the manual's section 7 (version 1: empty, with two keys, and the same
 * with an epoch). This version and all later ones must read and write exactly
 * these files. The rule that tells a torn end from damage is written here a
 * second time, plainly. The two must agree on every bit and every length of a
 * small file. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "world.h"

static const uint8_t file_id[16] = { 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16,
                                     0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d,
                                     0x1e, 0x1f };


/* ---- laying files by hand ---------------------------------------------- */

typedef struct laid {
    uint8_t at[32768];
    size_t  len;
    size_t  starts[8];                    /* of the entries, and the end      */
    int     count;
} laid;


/* The digest of all bytes so far, the cell taken as zeros. */
static void
digest_of(const uint8_t *at, size_t len, uint8_t out[32])
{
    uint8_t *copy = malloc(len);
    kaws_bytes all;

    assert_non_null(copy);
    memcpy(copy, at, len);
    memset(copy + 32, 0, len < 48 ? len - 32 : 16);
    all.at = copy;
    all.len = len;
    kaws__crypto_sha256(out, all);
    free(copy);
}


static void
lay(laid *l, const void *data, size_t len)
{
    assert_true(l->len + len <= sizeof l->at);
    memcpy(l->at + l->len, data, len);
    l->len += len;
}


static void
lay_number(laid *l, uint64_t value, int bytes)
{
    int i;

    for (i = 0; i < bytes; i++)
        l->at[l->len++] = (uint8_t)(value >> (8 * i));
}


static void
lay_digest(laid *l)
{
    digest_of(l->at, l->len, l->at + l->len);
    l->len += 32;
    l->starts[l->count] = l->len;
}


static void
set_committed(laid *l, uint64_t committed)
{
    uint8_t both[24], digest[32];
    kaws_bytes view = { both, 24 };
    int i;

    memcpy(both, l->at + 16, 16);
    for (i = 0; i < 8; i++)
        both[16 + i] = (uint8_t)(committed >> (8 * i));
    kaws__crypto_sha256(digest, view);
    memcpy(l->at + 32, both + 16, 8);
    memcpy(l->at + 40, digest, 8);
}


static void
lay_header(laid *l, const uint8_t id[16], uint32_t epoch)
{
    memset(l, 0, sizeof *l);
    lay(l, "KAWSRING", 8);
    lay_number(l, 1, 4);
    lay_number(l, epoch, 4);
    lay(l, id, 16);
    lay(l, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16);
    lay_digest(l);
    set_committed(l, l->len);
}


static void
lay_entry(laid *l, const kaws__record *r)
{
    uint32_t n = (uint32_t)(32 + r->key_id.len + r->user_id.len + r->type.len +
                            r->arn.len + r->material.len + r->blob.len);

    const struct { uint64_t value; int bytes; } numbers[] = {
        { n, 4 }, { ~n & 0xffffffff, 4 }, { 1, 1 }, { r->type.len, 1 },
        { r->key_id.len, 1 }, { r->user_id.len, 1 }, { r->plain_len, 2 },
        { r->arn.len, 2 }, { r->blob.len, 2 }, { r->material.len, 2 },
        { 0, 4 }, { (uint64_t)r->created, 8 }
    };
    const kaws_bytes texts[] = { r->key_id, r->user_id, r->type, r->arn,
                                 r->material, r->blob };
    size_t i;

    for (i = 0; i < COUNT(numbers); i++)
        lay_number(l, numbers[i].value, numbers[i].bytes);
    for (i = 0; i < COUNT(texts); i++)
        lay(l, texts[i].at, texts[i].len);
    l->count++;
    lay_digest(l);
    set_committed(l, l->len);
}


/* A record of these; the blob counts up from `first` in steps of 7. */
static kaws__record
record_of(const char *key_id, const char *user_id, const char *type,
          size_t plain_len, const char *material, size_t blob_len, int first)
{
    static uint8_t blobs[4][6144];
    static int next;
    uint8_t *blob = blobs[next++ % 4];
    size_t i;

    for (i = 0; i < blob_len; i++)
        blob[i] = (uint8_t)((size_t)first + i * 7);
    return (kaws__record){
        kaws__buf_of(key_id), kaws__buf_of(user_id), kaws__buf_of(type),
        kaws__buf_of(FAKE_EAST), kaws__buf_of(material), { blob, blob_len },
        plain_len, 1795000000,
        kaws__buf_of("arn:aws:kms:us-east-1:" FAKE_OWN ":")
    };
}


#define MATERIAL \
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void
golden_records(kaws__record r[2])
{
    r[0] = record_of("MyKey", "me@localhost", "AES", 32, MATERIAL, 184, 3);
    r[1] = record_of("\xc3\xa4\n'", "", "SECRET", 4096, "", 300, 11);
    r[1].created = 0;
}


static uint8_t *
golden(const char *name, size_t *len)
{
    char path[256];
    const char *slash = strrchr(__FILE__, '/');
    uint8_t *all;

    (void)snprintf(path, sizeof path, "%.*sgolden/%s",
                   slash != NULL ? (int)(slash + 1 - __FILE__) : 0, __FILE__,
                   name);
    all = slurp(path, len);
    if (all == NULL)
        fail_msg("cannot read %s", path);
    return all;
}


static void
expect_file(struct world *w, const uint8_t *want, size_t len)
{
    size_t now_len;
    uint8_t *now = slurp(w->f.data, &now_len);

    assert_int_equal(now_len, len);
    assert_memory_equal(now, want, len);
    free(now);
}


/* Nothing is lost: what was read says the same as what was written. */
static void
same_record(const kaws__record *a, const kaws__record *b)
{
    assert_true(kaws__buf_same(a->key_id, b->key_id) &&
                kaws__buf_same(a->user_id, b->user_id) &&
                kaws__buf_same(a->type, b->type) &&
                kaws__buf_same(a->arn, b->arn) &&
                kaws__buf_same(a->material, b->material) &&
                kaws__buf_same(a->blob, b->blob) &&
                kaws__buf_same(a->owner, b->owner));
    assert_int_equal(a->plain_len, b->plain_len);
    assert_int_equal(a->created, b->created);
}


/* ---- the golden files -------------------------------------------------- */

static const struct { const char *name; uint32_t epoch; size_t keys; }
goldens[] = {
    { "v1_empty.kaws", 0, 0 }, { "v1_two_keys.kaws", 0, 2 },
    { "v1_epoch.kaws", 0xfedcba98, 2 }
};


/* The files are what the test writes by hand. Reading them gives the same
 * values, and writing these gives the same bytes. */
static void
test_golden_files_are_read_and_written(void **state)
{
    uint8_t digest[32];
    kaws__record want[2], got;
    kaws__sha256 hash;
    kaws__found found;
    kaws_bytes all, record;
    kaws__buf buf;
    laid l;
    size_t i, k, at;

    (void)state;
    golden_records(want);
    for (k = 0; k < COUNT(goldens); k++) {
        uint8_t *bytes = golden(goldens[k].name, &all.len);
        all.at = bytes;
        lay_header(&l, file_id, goldens[k].epoch);
        for (i = 0; i < goldens[k].keys; i++)
            lay_entry(&l, &want[i]);
        assert_int_equal(all.len, l.len);
        assert_memory_equal(all.at, l.at, l.len);
        assert_int_equal(kaws__store_check("x", all, &found, NULL), KAWS_OK);
        assert_int_equal(found.good, all.len);
        assert_int_equal(found.committed, all.len);
        assert_int_equal(found.epoch, goldens[k].epoch);
        assert_false(found.torn);
        assert_memory_equal(found.file_id, file_id, 16);
        kaws__buf_init(&buf, &fake_plain);
        kaws__store_header(kaws__buf_grow(&buf, KAWS__STORE_HEADER), &hash,
                           found.file_id, found.epoch, found.committed);
        for (i = 0, at = KAWS__STORE_HEADER; at < all.len; i++) {
            record = kaws__store_next(all, at);
            assert_null(kaws__store_parse(record, &got));
            same_record(&got, &want[i]);
            kaws__store_record(&buf, &got);
            record.at = buf.at + at;
            kaws__store_digest(&hash, record, digest);
            kaws__buf_put(&buf, digest, sizeof digest);
            at += record.len + sizeof digest;
            assert_int_equal(buf.len, at);
        }
        assert_int_equal(i, goldens[k].keys);
        assert_memory_equal(buf.at, all.at, all.len);
        kaws__buf_free(&buf);
        free(bytes);
    }
}


/* A ring reads them, and leaves them as they are. */
static void
test_a_ring_leaves_golden_files_alone(void **state)
{
    struct world *w = *state;
    kaws__record want[2];
    kaws_entry_info info;
    kaws_stats stats;
    kaws_walk *walk;
    uint8_t *all;
    size_t len, i, k;

    golden_records(want);
    for (k = 0; k < COUNT(goldens); k++) {
        all = golden(goldens[k].name, &len);
        spill(w->f.data, all, len);
        world_open(w);
        kaws_get_stats(w->ring, &stats);
        assert_int_equal(stats.keys, goldens[k].keys);
        assert_memory_equal(stats.checksum, all + len - 32, 32);
        assert_string_equal(w->ring->vault.file_hex,
                            "101112131415161718191a1b1c1d1e1f");
        EXPECT(w, KAWS_OK, NULL, kaws_walk_begin(w->ring, &walk, &w->err));
        for (i = 0; kaws_walk_next(walk, &info); i++) {
            assert_true(kaws__buf_same(kaws__buf_of(info.name.key_id),
                                       want[i].key_id));
            assert_true(kaws__buf_same(kaws__buf_of(info.name.user_id),
                                       want[i].user_id));
            assert_true(kaws__buf_same(kaws__buf_of(info.type), want[i].type));
            assert_string_equal(info.kms_key_arn, FAKE_EAST);
            assert_int_equal(info.len, want[i].plain_len);
            assert_int_equal(info.created, want[i].created);
        }
        assert_int_equal(i, goldens[k].keys);
        kaws_walk_end(walk);
        world_close(w);
        expect_file(w, all, len);
        free(all);
    }
}


static uint32_t
epoch_now(struct world *w)
{
    size_t len;
    uint8_t *all = slurp(w->f.data, &len);
    uint32_t epoch = (uint32_t)kaws__store_get(all + 12, 4);

    free(all);
    return epoch;
}


/* What a newer release has counted goes through every change, and is believed
 * only with the header's digest. A new file has 0. */
static void
test_epoch_is_carried(void **state)
{
    struct world *w = *state;
    size_t len;
    uint8_t *all = golden("v1_epoch.kaws", &len);
    const uint32_t epoch = 0xfedcba98;

    world_open(w);
    assert_int_equal(epoch_now(w), 0);
    world_close(w);
    spill(w->f.data, all, len);
    world_open(w);
    world_reopen(w);
    expect_file(w, all, len);
    EXPECT(w, KAWS_OK, NULL, kaws_generate(w->ring, name_of("a", ""), "AES",
                                           32, &w->err));
    assert_int_equal(epoch_now(w), epoch);
    world_reopen(w);
    assert_int_equal(epoch_now(w), epoch);
    EXPECT(w, KAWS_OK, NULL, kaws_remove(w->ring, name_of("MyKey",
                                                          "me@localhost"),
                                         &w->err));
    assert_int_equal(epoch_now(w), epoch);
    world_reopen(w);
    EXPECT(w, KAWS_OK, NULL, kaws_remove(w->ring, name_of("\xc3\xa4\n'", ""),
                                         &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
    assert_int_equal(epoch_now(w), epoch);
    world_reopen(w);
    world_close(w);
    all[12] ^= 1;
    spill(w->f.data, all, len);
    EXPECT(w, KAWS_CORRUPT, "the header's checksum is wrong",
           kaws_open(&w->ring, &w->cfg, &w->err));
    free(all);
}


/* ---- records ----------------------------------------------------------- */

static void
test_a_record_is_read_as_written(void **state)
{
    static const size_t names[] = { 1, 2, 254, 255 }, blobs[] = { 1, 255, 256,
                                                                  6143, 6144 };
    static char key[256], user[256];
    kaws__record r, got;
    kaws__buf buf;
    size_t i, k, n = 0;

    (void)state;
    for (i = 0; i < COUNT(names); i++)
        for (k = 0; k < COUNT(blobs); k++, n++) {
            memset(key, (int)(1 + n), sizeof key);
            memset(user, (int)(255 - n), sizeof user);
            key[names[i]] = '\0';
            user[names[(i + n) % 4] - (n % 3 == 0)] = '\0';
            r = record_of(key, user, n % 2 ? "a" : "ABCDEFGHIJ-_123",
                          n % 2 ? 1 : 4096, n % 2 ? MATERIAL : "", blobs[k],
                          (int)n);
            r.created = n % 2 ? 253402300799 : 0;
            kaws__buf_init(&buf, &fake_plain);
            kaws__store_record(&buf, &r);
            assert_int_equal(kaws__store_record_len(buf.at), buf.len);
            assert_null(kaws__store_parse(kaws__buf_view(&buf), &got));
            same_record(&got, &r);
            kaws__buf_free(&buf);
        }
}


/* The record with some bytes changed, or in another length, is refused so. */
static void
expect_wrong(const kaws__record *r, size_t at, int bytes, uint64_t value,
             const char *words)
{
    kaws__record got;
    kaws__buf buf;
    const char *wrong;

    kaws__buf_init(&buf, &fake_plain);
    kaws__store_record(&buf, r);
    kaws__store_put(buf.at + at, value, bytes);
    wrong = kaws__store_parse(kaws__buf_view(&buf), &got);
    if (wrong == NULL || strstr(wrong, words) == NULL)
        fail_msg("%lu at %lu, '%.*s': %s", (unsigned long)value,
                 (unsigned long)at, (int)r->arn.len, (const char *)r->arn.at,
                 wrong != NULL ? wrong : "fine");
    kaws__buf_free(&buf);
}


/* Fields that no record can have. In a file their digest would be right: anyone
 * who can write the file can compute it. */
static void
test_impossible_fields_are_refused(void **state)
{
    static const char newer[] = "newer version", sum[] = "do not add up",
                      no[] = "no entry can have", arn[] = "not the ARN";
    static const struct {
        size_t at;
        int bytes;
        uint64_t value;
        const char *wrong;
    } rows[] = {
        { 0, 4, 0, "does not match its check" },
        { 4, 4, 0, "does not match its check" },
        { 8, 1, 0, newer }, { 8, 1, 2, newer }, { 8, 1, 255, newer },
        { 12, 2, 0, no }, { 12, 2, 4097, no }, { 12, 2, 65535, no },
        { 20, 4, 1, no }, { 20, 4, 0x80000000, no },
        { 24, 8, UINT64_MAX, no }, { 24, 8, UINT64_C(1) << 63, no },
        { 24, 8, 253402300800, no },
        { 32, 1, 0, no }, { 48, 1, 0, no },   /* a NUL in key id and user id  */
        { 49, 1, ' ', no }, { 49, 1, 0xe4, no }, { 51, 1, 0, no }, /* type    */
        { 52, 1, 'x', arn }, { 52, 1, 0, arn }, { 56, 1, '-', arn },
        { 87, 1, 'a', arn }                               /* "aey/"           */
    };
    static const struct { size_t at; int bytes; } lengths[] = {
        { 9, 1 }, { 10, 1 }, { 11, 1 }, { 14, 2 }, { 16, 2 }, { 18, 2 }
    };
    kaws__record r = record_of("MyKey", "me@localhost", "AES", 32, MATERIAL,
                               184, 3);
    kaws__buf buf;
    size_t i;
    uint64_t k;

    (void)state;
    for (i = 0; i < COUNT(rows); i++)
        expect_wrong(&r, rows[i].at, rows[i].bytes, rows[i].value,
                     rows[i].wrong);
    kaws__buf_init(&buf, &fake_plain);
    kaws__store_record(&buf, &r);
    for (i = 0; i < COUNT(lengths); i++)
        for (k = 0; k < (lengths[i].bytes == 1 ? 256 : 65536);
             k += k < 300 ? 1 : 251)
            if (k != kaws__store_get(buf.at + lengths[i].at, lengths[i].bytes))
                expect_wrong(&r, lengths[i].at, lengths[i].bytes, k, sum);
    kaws__buf_free(&buf);
}


/* Lengths of zero, or too large ones, whose sum is right; and texts that are no
 * ARN of a key. */
static void
test_impossible_lengths_are_refused(void **state)
{
    static const char *const arns[] = {
        "", "arn", "arn:aws:kms:us-east-1:111122223333:alias/app",
        "arn:aws:s3:us-east-1:111122223333:key/1",
        "arn:aws:kms:us-east-1:11112222333:key/1",
        "arn:aws:kms::111122223333:key/1",
        "arn:aws:kms:us-east-1:111122223333:key/", "key/1",
        "arn:aws:kms:us-east-1.evil.example/:111122223333:key/1",
        "arn:aws:kms:us-east-1:111122223333:key/1\n"
    };
    static uint8_t big[6145];
    kaws__record rows[6], got;
    kaws_bytes view = { big, 0 };
    size_t i;

    (void)state;
    memset(big, 'm', sizeof big);
    for (i = 0; i < COUNT(rows); i++)
        rows[i] = record_of("k", "u", "AES", 32, MATERIAL, 100, 1);
    rows[0].key_id.len = 0;
    rows[1].type.len = 0;
    rows[2].type = kaws__buf_of("ABCDEFGHIJKLMNOP");
    rows[3].material.at = big;
    rows[3].material.len = 65;
    rows[4].blob.len = 0;
    rows[5].blob.at = big;
    rows[5].blob.len = sizeof big;
    for (i = 0; i < COUNT(rows); i++)
        expect_wrong(&rows[i], 0, 0, 0, "no entry can have");
    for (i = 0; i < COUNT(arns); i++) {
        rows[0] = record_of("k", "u", "AES", 32, MATERIAL, 100, 1);
        rows[0].arn = kaws__buf_of(arns[i]);
        expect_wrong(&rows[0], 0, 0, 0, "not the ARN");
    }
    for (view.len = 0; view.len < 40; view.len++)
        if (kaws__store_parse(view, &got) == NULL)
            fail_msg("%lu bytes", (unsigned long)view.len);
}


static void
test_record_len(void **state)
{
    static const struct { uint32_t len, check; size_t answer; } rows[] = {
        { 32, ~32u, 32 }, { 31, ~31u, 0 }, { 0, ~0u, 0 }, { 33, ~32u, 0 },
        { 33, 33, 0 }, { 7020, ~7020u, 7020 }, { 7021, ~7021u, 0 },
        { 0xffffffff, 0, 0 }, { 0x80000020, ~0x80000020u, 0 }
    };
    uint8_t at[8];
    size_t i;

    (void)state;
    assert_int_equal(KAWS__STORE_RECORD_MAX, 7020);
    for (i = 0; i < COUNT(rows); i++) {
        kaws__store_put(at, rows[i].len, 4);
        kaws__store_put(at + 4, rows[i].check, 4);
        assert_int_equal(kaws__store_record_len(at), rows[i].answer);
    }
}


static void
test_which_types_are_refused(void **state)
{
    static const char *const types[] = {
        "A", "AES", "aes", "SECRET", "a-b_c", "0", "ABCDEFGHIJKLMNO",
        "", "ABCDEFGHIJKLMNOP", "A S", "A\n", "A%", "\xc3\xa4", "A."
    };
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(types); i++)    /* the first seven are types        */
        if (kaws__store_type_ok(kaws__buf_of(types[i])) != (i < 7))
            fail_msg("'%s'", types[i]);
}


/* ---- torn, or damaged: the rule, once more ----------------------------- */

typedef struct verdict {
    char   what;                          /* 'o' ok, 't' torn, 'd' damaged    */
    size_t at;                            /* where the good part ends         */
} verdict;


/* A stretch of zeros between neighbours among: the start, the multiples of
 * 512, the end. */
static int
model_hole(const uint8_t *all, size_t start, size_t len)
{
    size_t edges[64], n = 0, i, k;

    edges[n++] = start;
    for (i = 0; i < len; i += 512)
        if (i > start)
            edges[n++] = i;
    edges[n++] = len;
    for (i = 0; i + 1 < n; i++) {
        for (k = edges[i]; k < edges[i + 1] && all[k] == 0; k++)
            continue;
        if (k == edges[i + 1])
            return 1;
    }
    return 0;
}


static size_t
model_length(const uint8_t *at)
{
    uint32_t n = 0, c = 0;
    int i;

    for (i = 3; i >= 0; i--) {
        n = n << 8 | at[i];
        c = c << 8 | at[i + 4];
    }
    return (n ^ c) == 0xffffffff && n >= 32 && n <= 7020 ? n : 0;
}


static verdict
model(const uint8_t *all, size_t len)
{
    verdict v = { 'd', 0 };
    uint8_t digest[32];
    uint64_t committed = 0;
    laid cell;
    size_t n, left;
    int i;

    if (len < 80 || memcmp(all, "KAWSRING\1\0\0", 12) != 0)
        return v;
    for (i = 7; i >= 0; i--)
        committed = committed << 8 | all[32 + i];
    memcpy(cell.at, all, 80);
    set_committed(&cell, committed);
    v.at = 32;
    if (memcmp(cell.at + 40, all + 40, 8) != 0)
        return v;
    v.at = len;
    if (committed > len)
        return v;
    v.at = 0;
    digest_of(all, 48, digest);
    if (memcmp(digest, all + 48, 32) != 0)
        return v;
    for (v.at = 80; v.at < len; v.at += n + 32) {
        left = len - v.at;
        n = left >= 8 ? model_length(all + v.at) : 0;
        if (n > 0 && left >= n + 32) {
            digest_of(all, v.at + n, digest);
            if (memcmp(digest, all + v.at + n, 32) == 0)
                continue;
        }
        if (v.at < committed || left > 7020 + 32)
            return v;
        if (left < 8 || (n > 0 && left < n + 32) ||
            ((n == 0 || left == n + 32) && model_hole(all, v.at, len)))
            v.what = 't';
        return v;
    }
    v.what = 'o';
    return v;
}


/* Both are asked, and agree; the product's sentence has the place in it. */
static verdict
judge(const uint8_t *at, size_t len)
{
    verdict want = model(at, len), got = { 'o', 0 };
    uint8_t *exact = malloc(len > 0 ? len : 1);   /* no byte more can be read */
    kaws_bytes all = { exact, 0 };
    kaws__found found;
    kaws_error err;
    char place[64];

    assert_non_null(exact);
    memcpy(exact, at, len);
    all.len = len;
    kaws__err_clear(&err);
    if (kaws__store_check("name", all, &found, &err) != KAWS_OK) {
        got.what = 'd';
        got.at = want.at;
        assert_int_equal(err.status, KAWS_CORRUPT);
        (void)snprintf(place, sizeof place, "at byte %lu",
                       (unsigned long)want.at);
        if (len > 0 && strstr(err.text, place) == NULL &&
            strstr(err.text, "at byte 8,") == NULL)
            fail_msg("not %s: %s", place, err.text);
    } else {
        got.what = found.torn ? 't' : 'o';
        got.at = (size_t)found.good;
    }
    free(exact);
    if (got.what != want.what || got.at != want.at)
        fail_msg("length %lu: '%c' at %lu for '%c' at %lu", (unsigned long)len,
                 got.what, (unsigned long)got.at, want.what,
                 (unsigned long)want.at);
    return got;
}


/* Three small entries; the bytes have no long run of zeros. */
static void
lay_three(laid *l)
{
    kaws__record r;

    lay_header(l, file_id, 0);
    r = record_of("one", "u", "AES", 32, MATERIAL, 60, 5);
    lay_entry(l, &r);
    r = record_of("two", "", "AES", 16, "", 70, 9);
    lay_entry(l, &r);
    r = record_of("three", "someone", "SECRET", 9, MATERIAL, 80, 13);
    lay_entry(l, &r);
    assert_int_equal(judge(l->at, l->len).what, 'o');
}


/* A file that ends too early. A file that was closed says how long it was, so
 * nothing counts as torn; after a crash the last record may count as torn. */
static void
test_each_cut_is_torn_or_damaged(void **state)
{
    laid l;
    size_t len, last;
    verdict v;

    (void)state;
    lay_three(&l);
    last = l.starts[2];
    for (len = 0; len < l.len; len++) {
        v = judge(l.at, len);
        assert_int_equal(v.what, 'd');
        assert_int_equal(v.at, len < 80 ? 0 : len);
    }
    set_committed(&l, last);
    for (len = 0; len <= l.len; len++) {
        v = judge(l.at, len);
        assert_int_equal(v.what, len < last ? 'd'
                         : len == last || len == l.len ? 'o' : 't');
        if (v.what == 't')
            assert_int_equal(v.at, last);
    }
    for (len = last; len <= l.len; len++) {       /* in the middle: no append */
        set_committed(&l, len);
        v = judge(l.at, l.len - 1);
        assert_int_equal(v.what, len == last ? 't' : 'd');
    }
    set_committed(&l, 80);                /* nothing but the header is safe   */
    for (len = 80; len <= l.len; len++) {
        int whole = len == 80 || len == l.starts[1] || len == last ||
                    len == l.len;
        v = judge(l.at, len);
        assert_int_equal(v.what, whole ? 'o' : 't');
    }
}


/* Each flipped bit is found, and its place, with each committed length. A flip
 * beyond the committed length never counts as a torn end, unless it makes the
 * last record's length greater. */
static void
test_each_flipped_bit_is_found(void **state)
{
    laid l;
    size_t bit, at;
    verdict v;
    int k;

    (void)state;
    lay_three(&l);
    for (k = 0; k < 3; k++) {
        set_committed(&l, k == 0 ? l.len : k == 1 ? l.starts[2] : 80);
        for (bit = 0; bit < 8 * l.len; bit++) {
            at = bit / 8;
            l.at[at] ^= (uint8_t)(1 << bit % 8);
            v = judge(l.at, l.len);
            assert_int_equal(v.what, 'd');
            if (at >= 80)
                assert_int_equal(v.at, at < l.starts[1] ? 80
                                 : at < l.starts[2] ? l.starts[1]
                                                    : l.starts[2]);
            else if (at >= 32 && at < 48)
                assert_int_equal(v.at, 32);
            l.at[at] ^= (uint8_t)(1 << bit % 8);
        }
    }
    assert_int_equal(judge(l.at, l.len).what, 'o');
}


/* Two bits: the length of the last entry and its check, so that it asks for
 * more than there is (torn) or less (damaged). */
static void
test_a_changed_length_is_torn_or_damaged(void **state)
{
    laid l;
    size_t n, len, start;

    (void)state;
    lay_three(&l);
    start = l.starts[2];
    len = l.len - 32 - start;
    set_committed(&l, start);
    for (n = 0; n < 8000; n++) {
        kaws__store_put(l.at + start, n, 4);
        kaws__store_put(l.at + start + 4, ~n, 4);
        assert_int_equal(judge(l.at, l.len).what,
                         n == len ? 'o'
                         : n > len && n <= 7020 ? 't' : 'd');
    }
    kaws__store_put(l.at + start, len, 4);
    kaws__store_put(l.at + start + 4, ~len, 4);
    set_committed(&l, l.len);             /* acknowledged: never torn         */
    kaws__store_put(l.at + start, len + 9, 4);
    kaws__store_put(l.at + start + 4, ~(len + 9), 4);
    assert_int_equal(judge(l.at, l.len).what, 'd');
}


/* Sectors of a long last entry never reached the disk. */
static void
test_zero_sectors_count_as_torn(void **state)
{
    kaws__record r;
    laid l, copy;
    size_t start, from, to, k;
    int torn = 0, damaged = 0;

    (void)state;
    lay_header(&l, file_id, 0);
    r = record_of("one", "u", "AES", 32, MATERIAL, 300, 5);
    lay_entry(&l, &r);
    start = l.len;
    r = record_of("two", "", "AES", 16, "", 2000, 9);
    lay_entry(&l, &r);
    for (k = 0; k < 2; k++) {
        set_committed(&l, k == 0 ? start : l.len);
        for (from = start; from < l.len; from = (from / 512 + 1) * 512)
            for (to = (from / 512 + 1) * 512; ; to += 512) {
                copy = l;
                memset(copy.at + from, 0, (to < l.len ? to : l.len) - from);
                assert_int_equal(judge(copy.at, l.len).what,
                                 k == 0 ? 't' : 'd');
                if (to >= l.len)
                    break;
            }
    }
    set_committed(&l, start);
    for (from = start; from < l.len; from += 61)  /* no whole sector, or one  */
        for (to = from + 1; to <= l.len && to < from + 1100; to += 97) {
            copy = l;
            memset(copy.at + from, 0, to - from);
            if (judge(copy.at, l.len).what == 't')
                torn++;
            else
                damaged++;
        }
    assert_true(torn > 20 && damaged > 20);

    for (k = 1; k < 9000; k += k > 7040 && k < 7060 ? 1 : 7) { /* it grew     */
        memset(copy.at, 0, sizeof copy.at);
        memcpy(copy.at, l.at, start);
        assert_int_equal(judge(copy.at, start + k).what,
                         k <= 7020 + 32 ? 't' : 'd');
    }
}


/* Bytes after a good file are refused if they count as written, or are more
 * than an entry can have. */
static void
test_rubbish_after_the_end_is_refused(void **state)
{
    laid l;
    size_t i;

    (void)state;
    lay_three(&l);
    for (i = 0; i < 7000; i++)
        l.at[l.len + i] = (uint8_t)(1 + i % 255);
    assert_int_equal(judge(l.at, l.len + 3).what, 't');
    assert_int_equal(judge(l.at, l.len + 8).what, 'd');
    assert_int_equal(judge(l.at, l.len + 7000).what, 'd');
    set_committed(&l, l.len + 3);
    assert_int_equal(judge(l.at, l.len + 3).what, 'd');
}


/* ---- files as a ring meets them ---------------------------------------- */

/* Opening must fail so, and leave the file, and the folder, as they are. */
static void
expect_refused(struct world *w, const laid *l, size_t len, const char *words)
{
    char path[200];
    struct stat st;

    spill(w->f.data, l->at, len);
    EXPECT(w, KAWS_CORRUPT, words, kaws_open(&w->ring, &w->cfg, &w->err));
    assert_null(w->ring);
    assert_non_null(strstr(w->err.text, w->f.data));
    expect_file(w, l->at, len);
    (void)snprintf(path, sizeof path, "%s.torn-20261118T110640Z", w->f.data);
    assert_int_not_equal(stat(path, &st), 0);
    (void)snprintf(path, sizeof path, "%s.tmp", w->f.data);
    assert_int_not_equal(stat(path, &st), 0);
}


static void
test_refused(void **state)
{
    struct world *w = *state;
    kaws__record r;
    laid l;

    lay_three(&l);
    expect_refused(w, &l, 0, "only if it has had no key yet, remove it");
    expect_refused(w, &l, 79, "not a data file of keyring_aws");
    expect_refused(w, &l, l.len - 1, "more was written and acknowledged");
    l.at[0] ^= 1;
    expect_refused(w, &l, l.len, "not a data file of keyring_aws");

    lay_three(&l);
    l.at[8] = 2;                          /* a good file of version 2         */
    digest_of(l.at, 48, l.at + 48);
    expect_refused(w, &l, l.len, "format version 2, at byte 8, and this "
                   "keyring_aws knows version 1: use a newer one");

    /* The name of an earlier one, under good digests. */
    lay_header(&l, file_id, 0);
    r = record_of("same", "u", "AES", 32, MATERIAL, 60, 5);
    lay_entry(&l, &r);
    r = record_of("same", "", "AES", 32, MATERIAL, 60, 5);
    lay_entry(&l, &r);
    spill(w->f.data, l.at, l.len);
    world_open(w);                        /* another owner's: fine            */
    world_close(w);
    r = record_of("same", "u", "SECRET", 16, "", 61, 6);
    lay_entry(&l, &r);
    assert_int_equal(l.starts[2], 80 + 2 * (32 + 4 + 3 + 75 + 64 + 60 + 32) +
                                  1);
    expect_refused(w, &l, l.len, "damaged at byte 621: the entry there has "
                   "the name of an earlier one");

    /* A newer rule of the context, and an ARN that is none. */
    lay_header(&l, file_id, 0);
    r = record_of("k", "u", "AES", 32, MATERIAL, 60, 5);
    lay_entry(&l, &r);
    l.at[80 + 8] = 2;
    l.len -= 32;
    lay_digest(&l);
    expect_refused(w, &l, l.len, "at byte 80: an entry was written by a newer");
    lay_header(&l, file_id, 0);
    r.arn = kaws__buf_of("arn:aws:kms:us-east-1.evil.com/:111122223333:key/1");
    lay_entry(&l, &r);
    expect_refused(w, &l, l.len, "at byte 80: an entry's KMS key is not");
}


/* A header and one small entry. */
static void
lay_one(laid *l)
{
    kaws__record r = record_of("k", "u", "AES", 32, MATERIAL, 60, 5);

    lay_header(l, file_id, 0);
    lay_entry(l, &r);
}


/* After an entry come fewer bytes than an entry has, with a right digest of the
 * whole. That digest is the file's last 32 bytes, so it may overlap the
 * entry's. */
static void
test_a_rest_too_short_is_refused(void **state)
{
    struct world *w = *state;
    char words[80];
    size_t rest;
    laid l;

    for (rest = 1; rest < 72; rest++) {
        lay_one(&l);
        (void)snprintf(words, sizeof words, "damaged at byte %lu: an entry's "
                       "length does not match its check",
                       (unsigned long)l.len);
        l.len = l.len + rest - 32;
        lay_digest(&l);
        set_committed(&l, l.len);
        expect_refused(w, &l, l.len, words);
    }
}


/* Lengths that lead beyond the file, with a right digest of the whole. */
static void
test_lengths_beyond_the_file_are_refused(void **state)
{
    static const uint32_t lengths[] = { 0, 1, 31, 32, 33, 300, 7020, 7021,
                                        0x7fffffff, 0xffffffe0, 0xffffffff };
    struct world *w = *state;
    laid l;
    size_t i;

    for (i = 0; i < COUNT(lengths); i++) {
        lay_one(&l);
        kaws__store_put(l.at + 80, lengths[i], 4);
        kaws__store_put(l.at + 84, ~lengths[i], 4);
        l.len -= 32;
        lay_digest(&l);
        expect_refused(w, &l, l.len, "damaged at byte 80");
    }
    lay_header(&l, file_id, 0);           /* a last entry of a few bytes      */
    lay(&l, "\1\2\3", 3);
    lay_digest(&l);
    set_committed(&l, l.len);
    expect_refused(w, &l, l.len, "damaged at byte 80");
}


int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, world_begin, world_end)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_files_are_read_and_written),
        TEST(test_a_ring_leaves_golden_files_alone),
        TEST(test_epoch_is_carried),
        cmocka_unit_test(test_a_record_is_read_as_written),
        cmocka_unit_test(test_impossible_fields_are_refused),
        cmocka_unit_test(test_impossible_lengths_are_refused),
        cmocka_unit_test(test_record_len),
        cmocka_unit_test(test_which_types_are_refused),
        cmocka_unit_test(test_each_cut_is_torn_or_damaged),
        cmocka_unit_test(test_each_flipped_bit_is_found),
        cmocka_unit_test(test_a_changed_length_is_torn_or_damaged),
        cmocka_unit_test(test_zero_sectors_count_as_torn),
        cmocka_unit_test(test_rubbish_after_the_end_is_refused),
        TEST(test_refused),
        TEST(test_a_rest_too_short_is_refused),
        TEST(test_lengths_beyond_the_file_are_refused)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
