/* Rooms store and vault: opening a data file that anybody may have made.
 *
 *     mkdir -p build/fuzz/corpus/store
 *     clang -std=c99 -O1 -g -fsanitize=fuzzer,address,undefined \
 *         -fno-sanitize-recover=all -o build/fuzz/fuzz_store \
 *         fuzz/fuzz_store.c -l:libbearssl.a -lpthread
 *     build/fuzz/fuzz_store -max_len=8192 -dict=fuzz/store.dict \
 *         build/fuzz/corpus/store fuzz/corpus/store
 *
 * The first byte of the input says which checks are corrected, as a forger
 * would do it. The next four bytes say where a bit is flipped, and where the
 * file is cut. The rest is the file. The rooms must accept exactly what a plain
 * reading of the manual's section 7 accepts, and writing it again must give the
 * same bytes.
 */

#include "fuzz.h"

#include <regex.h>

enum { MEND_LENGTHS = 1, MEND_COMMITTED = 2, MEND_CHAIN = 4, MEND_LAST = 8 };

enum { HEADER = 80, COMMITTED = 32, COMMITTED_LEN = 16 };


/* The digest of all bytes before `at`, with the committed length and its check
 * as zeros. */
static void
digest_at(const uint8_t *file, size_t at, uint8_t out[32])
{
    uint8_t *copy = malloc(at);
    kaws_bytes all = { copy, at };

    HOLDS(copy != NULL);
    memcpy(copy, file, at);
    if (at > COMMITTED)
        memset(copy + COMMITTED, 0, at - COMMITTED < COMMITTED_LEN
                                    ? at - COMMITTED : COMMITTED_LEN);
    kaws__crypto_sha256(out, all);
    free(copy);
}


static int
is_digest_at(const uint8_t *file, size_t at)
{
    uint8_t digest[32];

    digest_at(file, at, digest);
    return memcmp(digest, file + at, 32) == 0;
}


static uint64_t
number_at(const uint8_t *at, size_t bytes)
{
    kaws_bytes in = { at, bytes };

    return fuzz_number(&in, bytes);
}


/* The length that a record says it has; 0 if it cannot be one. */
static size_t
length_at(const uint8_t *at)
{
    uint64_t n = number_at(at, 4);

    return n + number_at(at + 4, 4) == 0xffffffff && n >= 32 && n <= 7020 ? n
                                                                          : 0;
}


/* ---- forging ----------------------------------------------------------- */

static void
mend(uint8_t *file, size_t size, int how)
{
    size_t at = HEADER, n;
    int i;

    if (size < HEADER)
        return;
    if (how & MEND_COMMITTED)
        kaws__store_committed(file + COMMITTED, file + 16,
                              number_at(file + COMMITTED, 8));
    if (how & MEND_CHAIN)
        digest_at(file, HEADER - 32, file + HEADER - 32);
    while (size - at >= 8) {
        for (i = 0; (how & MEND_LENGTHS) && i < 4; i++)
            file[at + 4 + (size_t)i] = (uint8_t)~file[at + (size_t)i];
        n = length_at(file + at);
        if (n == 0 || size - at < n + 32)
            break;
        if (how & MEND_CHAIN)
            digest_at(file, at + n, file + at + n);
        at += n + 32;
    }
    if (how & MEND_LAST)
        digest_at(file, size - 32, file + size - 32);
}


/* ---- the manual's section 7, read plainly ------------------------------ */

static int
is_zeros(const uint8_t *file, size_t from, size_t to)
{
    while (from < to && file[from] == 0)
        from++;
    return from == to;
}


/* How much of the file is good; 0 if the file is refused. */
static size_t
good_part(const uint8_t *file, size_t size, int *chained)
{
    uint8_t length[16];
    size_t at = HEADER, n = 0, left, start;

    *chained = 0;
    if (size < HEADER || memcmp(file, "KAWSRING\1\0\0\0", 12) != 0)
        return 0;
    kaws__store_committed(length, file + 16, number_at(file + COMMITTED, 8));
    if (memcmp(length, file + COMMITTED, COMMITTED_LEN) != 0 ||
        number_at(file + COMMITTED, 8) > size)
        return 0;
    if (!is_digest_at(file, HEADER - 32))
        return 0;
    while (size - at >= 8) {
        n = length_at(file + at);
        if (n == 0 || size - at < n + 32 || !is_digest_at(file, at + n))
            break;
        at += n + 32;
    }
    *chained = at == size;
    if (is_digest_at(file, size - 32))
        return size;
    left = size - at;
    n = left >= 8 ? length_at(file + at) : 0;
    if (at < number_at(file + COMMITTED, 8) || left > 7020 + 32 ||
        (n > 0 && left > n + 32))
        return 0;
    for (start = at; start < size; start = (start / 512 + 1) * 512) {
        size_t end = (start / 512 + 1) * 512;
        if (is_zeros(file, start, end < size ? end : size))
            return at;                    /* no byte of it was ever written  */
    }
    return left < 8 || (n > 0 && left < n + 32) ? at : 0;
}


static int
is_word(kaws_bytes text, const char *pattern, regex_t *compiled, int *known)
{
    char copy[256];

    if (!*known)
        HOLDS(regcomp(compiled, pattern, REG_EXTENDED | REG_NOSUB) == 0);
    *known = 1;
    return kaws__buf_copy_text(copy, sizeof copy, text) &&
           regexec(compiled, copy, 0, NULL, 0) == 0;
}


/* Reads a record's name; returns 0 if it is no record. */
static int
entry_at(kaws_bytes entry, kaws_bytes *key_id, kaws_bytes *user_id)
{
    static regex_t type_like, arn_like;
    static int type_known, arn_known;
    const uint8_t *at = entry.at;
    kaws_bytes rest = { at + 32, entry.len - 32 }, type, arn;
    uint64_t a = number_at(at + 14, 2), b = number_at(at + 16, 2);
    uint64_t m = number_at(at + 18, 2), plain = number_at(at + 12, 2);

    if (at[8] != 1 || entry.len != 32u + at[9] + at[10] + at[11] + a + b + m)
        return 0;
    *key_id = fuzz_take(&rest, at[10]);
    *user_id = fuzz_take(&rest, at[11]);
    type = fuzz_take(&rest, at[9]);
    arn = fuzz_take(&rest, (size_t)a);
    return key_id->len > 0
        && memchr(at + 32, 0, key_id->len + user_id->len) == NULL
        && is_word(type, "^[A-Za-z0-9_-]{1,15}$", &type_like, &type_known)
        && is_word(arn, "^arn:aws[a-z-]*:kms:[a-z]+(-[a-z]+)+-[0-9]{1,2}:"
                   "[0-9]{12}:key/[A-Za-z0-9/_-]+$", &arn_like, &arn_known)
        && kaws__arn_parse(arn, &(kaws__arn){ .region = { NULL, 0 } })
        && m <= 64 && b > 0 && b <= 6144 && plain > 0 && plain <= 4096
        && number_at(at + 20, 4) == 0
        && number_at(at + 24, 8) <= UINT64_C(253402300799);
}


/* Whether the good part can be opened as a keyring. */
static int
may_open(const uint8_t *file, size_t good)
{
    kaws_bytes key[64], user[64];
    size_t at = HEADER, count = 0, i;

    while (at < good) {
        kaws_bytes entry = { file + at, 0 };
        entry.len = good - at >= 8 ? length_at(file + at) : 0;
        if (entry.len == 0 || good - at < entry.len + 32 ||
            !entry_at(entry, &key[count], &user[count]))
            return 0;
        for (i = 0; i < count; i++)
            if (kaws__buf_same(key[i], key[count]) &&
                kaws__buf_same(user[i], user[count]))
                return 0;
        count++;
        at += entry.len + 32;
    }
    return 1;
}


/* ---- the same by the rooms --------------------------------------------- */

/* Reads each record, writes all of them again, and compares. */
static void
write_anew(const kaws *ring, kaws_bytes good, const kaws__found *found,
           int chained)
{
    uint8_t header[HEADER], digest[32];
    kaws__sha256 state;
    kaws__record r;
    kaws__buf out;
    uint64_t hash;
    size_t i;

    kaws__buf_init(&out, &fuzz_hooks);
    kaws__store_header(header, &state, found->file_id, found->epoch,
                       found->committed);
    kaws__buf_put(&out, header, sizeof header);
    for (i = 0; i < ring->vault.table.count; i++) {
        kaws__entry *e = ring->vault.table.rows[i].entry;
        kaws_bytes record = kaws__table_record(e);
        size_t start = out.len;
        HOLDS(kaws__store_parse(record, &r) == NULL);
        HOLDS(kaws__table_find(&ring->vault.table, r.key_id, r.user_id,
                               &hash) == e);
        kaws__store_record(&out, &r);
        HOLDS(out.len - start == record.len);
        HOLDS(memcmp(out.at + start, good.at + start, record.len) == 0);
        kaws__store_digest(&state, record, digest);
        kaws__buf_put(&out, digest, sizeof digest);
    }
    HOLDS(out.len == good.len);
    HOLDS(!chained || memcmp(out.at, good.at, good.len) == 0);
    kaws__buf_free(&out);
}


static void
open_as_ring(kaws_bytes good, const kaws__found *found, int chained)
{
    kaws *ring = calloc(1, sizeof *ring);
    char accounts[KAWS__TRUST_LIST] = "";
    const uint64_t seed[2] = { 1, 2 };
    uint8_t digest[32], want[32];
    kaws__buf image;
    kaws_error err;
    int opens;

    HOLDS(ring != NULL);
    ring->hooks = fuzz_hooks;
    ring->vault.hooks = &ring->hooks;
    kaws__table_open(&ring->vault.table, &ring->hooks, seed);
    kaws__err_clear(&err);
    kaws__buf_init(&image, &ring->hooks);
    kaws__buf_put(&image, good.at, good.len);
    (void)kaws__table_adopt(&ring->vault.table, &image);
    opens = kaws__vault_load("keys", &ring->vault.table, good.len, accounts,
                             &err) == KAWS_OK;
    HOLDS(opens == may_open(good.at, good.len));
    HOLDS(opens || err.status == KAWS_CORRUPT);
    if (opens)
        write_anew(ring, good, found, chained);
    kaws__crypto_out(&found->state, digest);
    digest_at(good.at, good.len, want);
    HOLDS(memcmp(digest, want, 32) == 0);
    kaws__table_close(&ring->vault.table);
    free(ring);
}


/* Opens the file; returns how much of it is good, or 0 for none. */
static size_t
look(const uint8_t *file, size_t size, kaws__found *found)
{
    kaws_bytes all = { file, size };
    kaws_error err;
    const char *place;

    all.at = fuzz_copy(all);
    kaws__err_clear(&err);
    if (kaws__store_check("keys", all, found, &err) != KAWS_OK) {
        HOLDS(err.status == KAWS_CORRUPT);
        place = strstr(err.text, "at byte ");
        HOLDS(place == NULL || strtoul(place + 8, NULL, 10) <= size);
        found->good = 0;
    }
    free((void *)(uintptr_t)all.at);
    return (size_t)found->good;
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kaws_bytes in = { data, size }, good;
    int how = (int)fuzz_number(&in, 1), chained;
    size_t turn = (size_t)fuzz_number(&in, 2);
    size_t cut = (size_t)fuzz_number(&in, 2);
    uint8_t *file;
    kaws__found found;

    if (in.len > 8192)
        return 0;
    file = fuzz_copy(in);
    mend(file, in.len, how);
    HOLDS(look(file, in.len, &found) == good_part(file, in.len, &chained));
    good.at = file;
    good.len = (size_t)found.good;
    if (found.good > 0) {
        uint64_t committed = found.committed;
        HOLDS(found.torn == (found.good < in.len));
        HOLDS(found.good >= committed || !found.torn);
        open_as_ring(good, &found, chained || found.torn);

        /* A flipped bit or a cut end is noticed. Only bytes that were never
         * acknowledged may be set aside because of it. */
        cut %= in.len;
        (void)look(file, cut, &found);
        HOLDS(found.good == 0 || (found.good >= committed && cut >= committed));
        turn %= in.len * 8;
        file[turn / 8] = (uint8_t)(file[turn / 8] ^ 1 << turn % 8);
        (void)look(file, in.len, &found);
        HOLDS(found.good == 0 || (found.torn && turn / 8 >= committed));
    }
    free(file);
    return 0;
}
