/* test_hostile.c - a data file that somebody else wrote
 *
 * First damage: the file is cut to every length, and blocks of it are changed
 * at random. A file that was closed cleanly is always refused. A file as a
 * crash leaves it is refused, or only its last entry counts as torn, and is set
 * aside. (tests/unit/test_store.c tells torn ends from damage, down to the bit,
 * and has the entries that are refused even if their digests are right.)
 *
 * Then an attacker who knows the format. The digests need no secret, so his are
 * right. He may delete our keys, but can never give us one key for another.
 * Then the files and links that he may put in the data file's place, before and
 * while it is in use.
 *
 * Damage is done on the disk of disk.h. Tests that need links, pipes and owners
 * use a folder of the real disk. The readers also get copies in blocks that end
 * where the file ends, so a sanitizer sees any read beyond the end.
 */

#include "model.h"

#include <sys/socket.h>
#include <sys/un.h>

enum { KEYS = 5 };

static const struct { const char *key_id, *user_id, *type; size_t len; }
key_list[KEYS] = {
    { "alpha", "", "AES", 32 }, { "beta", "user@host", "AES", 16 },
    { "gamma", "", "SECRET", 100 }, { "delta", "user@host", "AES", 32 },
    { "epsilon", "", "AES", 32 }
};

typedef struct bytes {            /* a file, and where its entries begin      */
    uint8_t at[8192];
    size_t  len;
    size_t  starts[KEYS + 2];
    size_t  count;
} bytes;

static bytes   whole;             /* five keys, closed                        */
static bytes   crashed;           /* the same, the cell one entry behind      */
static model   all_keys;          /* in both                                  */
static unsigned long tried;


/* ---- making files ------------------------------------------------------- */

static kaws *
open_at(const char *path, int read_only, kaws_error *err)
{
    kaws *ring = NULL;

    (void)model_open_at(path, read_only, &ring, err);
    return ring;
}


static void
add_keys(kaws *ring, size_t from, size_t to)
{
    kaws_error err;
    kaws_name name;
    size_t i;

    for (i = from; i < to; i++) {
        name.key_id = key_list[i].key_id;
        name.user_id = key_list[i].user_id;
        if (kaws_generate(ring, name, key_list[i].type, key_list[i].len,
                          &err) != KAWS_OK)
            fail_msg("%s", err.text);
    }
}


static void
find_starts(bytes *b)
{
    size_t at = KAWS__STORE_HEADER;

    for (b->count = 0; at < b->len; at += 32 + (size_t)
                                          kaws__store_get(b->at + at, 4))
        b->starts[b->count++] = at;
    b->starts[b->count] = b->len;
}


static void
take(bytes *b)
{
    const uint8_t *at = disk_bytes(DATA, &b->len);

    assert_in_range(b->len, 80, sizeof b->at);
    memcpy(b->at, at, b->len);
    find_starts(b);
}


static void
make_files(void)
{
    kaws_error err;
    kaws *ring;

    disk_format();
    model_reset(1);
    ring = model_must_open_at(DATA, 0);
    add_keys(ring, 0, KEYS);
    take(&crashed);
    assert_int_equal(model_of(ring, &all_keys, &err), KAWS_OK);
    kaws_close(ring);
    take(&whole);
    assert_int_equal(whole.count, KEYS);
    assert_int_equal(whole.len, crashed.len);
}


/* ---- damage ------------------------------------------------------------- */

/* The readers, on a block that ends with the file. */
static kaws_status
read_exactly(const uint8_t *at, size_t len)
{
    uint8_t *copy = malloc(len > 0 ? len : 1), *record;
    kaws_bytes all = { copy, len };
    kaws__found found;
    kaws__record r;
    kaws_error err;
    kaws_status status;
    kaws_bytes view;
    size_t i;

    memcpy(copy, at, len);
    status = kaws__store_check("x", all, &found, &err);
    all.len = status == KAWS_OK ? (size_t)found.good : 0;
    for (i = KAWS__STORE_HEADER;
         i < all.len && (view = kaws__store_next(all, i)).len > 0;
         i += view.len + 32) {
        record = malloc(view.len);
        memcpy(record, view.at, view.len);
        view.at = record;
        (void)kaws__store_parse(view, &r);
        free(record);
    }
    free(copy);
    return status;
}


/* What became of a damaged file: refused (0), or opened with so many keys. All
 * of them are right, and what is gone is the end, kept aside. */
static size_t
judge(const uint8_t *at, size_t len, int read_only, kaws_error *err)
{
    size_t torn_len = 0, now_len, count;
    const uint8_t *torn = NULL, *now;
    char path[160];
    const char *name;
    model keys;
    kaws *ring;

    tried++;
    disk_put(DATA, at, len);
    (void)read_exactly(at, len);
    ring = open_at(DATA, read_only, err);
    now = disk_bytes(DATA, &now_len);
    name = disk_name("/disk/ring", "keys.torn-", 0);
    if (ring == NULL || read_only) {
        assert_int_equal(now_len, len);       /* nothing was touched          */
        assert_memory_equal(now, at, len);
        assert_null(name);
    }
    if (ring == NULL) {
        assert_int_equal(err->status, KAWS_CORRUPT);
        assert_non_null(strstr(err->text, DATA));
        return 0;
    }
    assert_int_equal(model_of(ring, &keys, err), KAWS_OK);
    assert_true(keys.count <= all_keys.count);
    assert_memory_equal(keys.keys, all_keys.keys,
                        keys.count * sizeof keys.keys[0]);
    if (name != NULL) {
        (void)snprintf(path, sizeof path, "/disk/ring/%s", name);
        torn = disk_bytes(path, &torn_len);
        assert_int_equal(now_len + torn_len, len);
        assert_memory_equal(torn, at + now_len, torn_len);
        assert_int_equal(fake_logged(&fake, 1, "was moved to"), 1);
    }
    kaws_close(ring);
    if (name != NULL)
        (void)disk_unlink(path);
    count = keys.count;
    return count;
}


static void
test_every_cut_length(void **state)
{
    kaws_error err;
    size_t len, keys, last;

    (void)state;
    make_files();
    last = crashed.starts[KEYS - 1];
    for (len = 0; len < whole.len; len++) {
        assert_int_equal(judge(whole.at, len, 0, &err), 0);
        assert_int_equal(judge(whole.at, len, 1, &err), 0);
    }
    for (len = 0; len <= crashed.len; len++) {
        keys = judge(crashed.at, len, 0, &err);
        assert_int_equal(keys, len < last ? 0 : len < crashed.len ? KEYS - 1
                                                                  : KEYS);
    }
}


static uint32_t
chance(uint32_t most)
{
    static uint64_t seed = 20261124;

    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((seed >> 33) % most);
}


/* Bytes, sectors, gaps, doubles. Returns the length. */
static size_t
damage(uint8_t *at, size_t len)
{
    size_t from = chance((uint32_t)len), n = 1 + chance(600), i;
    size_t other = chance((uint32_t)len);

    n = n < len - from ? n : len - from;
    switch (chance(6)) {
    case 0:
        for (i = 0; i < 1 + n % 8; i++)
            at[chance((uint32_t)len)] = (uint8_t)chance(256);
        return len;
    case 1:
        memset(at + from, 0, n);
        return len;
    case 2:
        from -= from % 512;
        memset(at + from, chance(2) ? 0 : 255,
               len - from < 512 ? len - from : 512);
        return len;
    case 3:
        memmove(at + from, at + from + n, len - from - n);
        return len - n;
    case 4:
        memmove(at + from + n, at + from, len - from);
        return len + n;
    default:
        memmove(at + from, at + other, n < len - other ? n : len - other);
        return len;
    }
}


/* If a file opens, it is the whole keyring or (after a crash) all but the last
 * entry. judge() checks the rest. */
static void
test_random_damage(void **state)
{
    static uint8_t copy[2 * sizeof whole.at];
    int i, rounds = model_long() ? 200000 : 4000;
    kaws_error err;
    size_t len, keys;

    (void)state;
    make_files();
    for (i = 0; i < rounds; i++) {
        const bytes *b = i % 2 ? &crashed : &whole;
        memcpy(copy, b->at, b->len);
        len = damage(copy, b->len);
        keys = judge(copy, len, 0, &err);
        if (keys == 0)
            continue;
        assert_true(keys >= (b == &whole ? KEYS : KEYS - 1));
    }
}


/* ---- an attacker -------------------------------------------------------- */

typedef struct forged {           /* records that he puts together            */
    uint8_t records[KEYS + 1][KAWS__STORE_RECORD_MAX];
    size_t  lens[KEYS + 1];
    size_t  count;
    uint8_t file_id[16];
} forged;


static void
forge_from(forged *f, const bytes *b)
{
    size_t i;

    f->count = b->count;
    memcpy(f->file_id, b->at + 16, 16);
    for (i = 0; i < b->count; i++) {
        f->lens[i] = b->starts[i + 1] - b->starts[i] - 32;
        memcpy(f->records[i], b->at + b->starts[i], f->lens[i]);
    }
}


static void
forge_parse(const forged *f, size_t i, kaws__record *r)
{
    kaws_bytes view = { f->records[i], f->lens[i] };

    assert_null(kaws__store_parse(view, r));
}


/* Begins with the true file, and its record `i` taken apart. */
static void
forge_begin(forged *f, size_t i, kaws__record *r)
{
    forge_from(f, &whole);
    forge_parse(f, i, r);
}


static void
forge_record(forged *f, size_t i, const kaws__record *r)
{
    kaws__buf out;

    kaws__buf_init(&out, &fake.hooks);
    kaws__store_record(&out, r);
    assert_false(out.failed);
    memmove(f->records[i], out.at, out.len);
    f->lens[i] = out.len;
    kaws__buf_free(&out);
}


/* The file: all digests and the cell as they have to be. */
static size_t
forge_write(const forged *f, uint8_t *out)
{
    kaws__sha256 state;
    uint8_t header[KAWS__STORE_HEADER];
    size_t i, len = sizeof header;
    kaws_bytes view;

    for (i = 0; i < f->count; i++)
        len += f->lens[i] + 32;
    kaws__store_header(header, &state, f->file_id, 0, len);
    memcpy(out, header, sizeof header);
    for (i = 0, len = sizeof header; i < f->count; i++) {
        memcpy(out + len, f->records[i], f->lens[i]);
        view.at = out + len;
        view.len = f->lens[i];
        kaws__store_digest(&state, view, out + len + f->lens[i]);
        len += f->lens[i] + 32;
    }
    return len;
}


static kaws *
forge_open(const forged *f, kaws_error *err)
{
    static uint8_t file[16384];
    size_t len = forge_write(f, file);

    tried++;
    (void)read_exactly(file, len);
    disk_put(DATA, file, len);
    return open_at(DATA, 0, err);
}


static const char *sought;        /* in requests                              */
static int found_sought;


static int
seeking_send(void *ctx, const kaws_request *q, kaws_reply *r)
{
    found_sought += memmem(q->body.at, q->body.len, sought,
                           strlen(sought)) != NULL;
    return fake_send(ctx, q, r);
}


/* All or nothing: the file is as it was. */
static void
check_no_rewrap(kaws *ring, kaws_status one, kaws_status other)
{
    static uint8_t was[16384];
    kaws_error err;
    size_t len, was_len;
    const uint8_t *now = disk_bytes(DATA, &was_len);
    kaws_status status;

    memcpy(was, now, was_len);
    status = kaws_rewrap_all(ring, &err);
    if (status != one && status != other)
        fail_msg("re-wrap: %d: %s", status, err.text);
    now = disk_bytes(DATA, &len);
    assert_int_equal(len, was_len);
    assert_memory_equal(now, was, len);
}


/* It opens. The keys in `bad` (a bit each) are refused with one of two
 * statuses, and so is a re-wrap (but with KAWS_OK: it does not see a key's
 * length). All others are what they were. */
static void
forge_opens(const forged *f, unsigned bad, kaws_status one, kaws_status other)
{
    kaws_error err;
    kaws_entry_info info;
    kaws_walk *walk;
    kaws_key key;
    kaws_status status;
    kaws *ring = forge_open(f, &err);
    size_t i;

    if (ring == NULL)
        fail_msg("%s", err.text);
    assert_int_equal(kaws_walk_begin(ring, &walk, &err), KAWS_OK);
    for (i = 0; kaws_walk_next(walk, &info); i++) {
        status = kaws_fetch(ring, info.name, &key, &err);
        if (bad >> i & 1) {
            if (status != one && status != other)
                fail_msg("key %lu: %d: %s", (unsigned long)i, status, err.text);
            if (status == KAWS_MISMATCH && other == KAWS_MISMATCH)
                assert_non_null(strstr(err.text, "sealed for another name"));
            assert_true(key.bytes == NULL && key.len == 0);
            continue;
        }
        if (status != KAWS_OK)
            fail_msg("key %lu: %s", (unsigned long)i, err.text);
        kaws_key_free(ring, &key);
    }
    kaws_walk_end(walk);
    assert_int_equal(i, f->count);
    if (bad != 0 && other != KAWS_OK)
        check_no_rewrap(ring, one, other);
    kaws_close(ring);
}


static void
test_swapped_blobs_open_nothing(void **state)
{
    forged f;
    kaws__record a, b;
    kaws_bytes blob;
    size_t i, k;

    (void)state;
    make_files();
    for (i = 0; i < KEYS; i++)
        for (k = i + 1; k < KEYS; k++) {
            static uint8_t kept[KAWS__STORE_RECORD_MAX];
            forge_begin(&f, i, &a);
            forge_parse(&f, k, &b);
            memcpy(kept, a.blob.at, a.blob.len);
            blob.at = kept;
            blob.len = a.blob.len;
            a.blob = b.blob;
            forge_record(&f, i, &a);
            b.blob = blob;
            forge_record(&f, k, &b);
            forge_opens(&f, 1u << i | 1u << k, KAWS_MISMATCH, KAWS_MISMATCH);
        }
}


/* A blob, an entry, all entries, of a keyring with another file id. */
static void
test_blobs_of_another_file_open_nothing(void **state)
{
    forged f, g;
    kaws__record a, b;
    bytes other;
    size_t i;

    (void)state;
    make_files();
    other = whole;
    disk_format();
    model_reset(99);
    kaws *ring = model_must_open_at(DATA, 0);
    add_keys(ring, 0, KEYS);
    kaws_close(ring);
    take(&other);
    assert_memory_not_equal(other.at + 16, whole.at + 16, 16);
    for (i = 0; i < KEYS; i++) {
        forge_begin(&f, i, &a);
        forge_from(&g, &other);
        forge_parse(&g, i, &b);
        a.blob = b.blob;
        forge_record(&f, i, &a);
        forge_opens(&f, 1u << i, KAWS_MISMATCH, KAWS_MISMATCH);
        memcpy(f.records[i], g.records[i], g.lens[i]);
        f.lens[i] = g.lens[i];
        forge_opens(&f, 1u << i, KAWS_MISMATCH, KAWS_MISMATCH);
    }
    forge_from(&f, &whole);
    memcpy(f.file_id, g.file_id, 16);
    forge_opens(&f, 31, KAWS_MISMATCH, KAWS_MISMATCH);
}


/* A blob with another entry's key id, user id, type or length opens nothing,
 * because it is not bound to them. Order, date and material are not bound, and
 * open no other key. */
static void
test_changed_fields_open_nothing(void **state)
{
    static const size_t lens[] = { 1, 15, 31, 33, 4096 };
    enum { KEY_ID, USER_ID, TYPE, FREE, LENGTH, LAST = LENGTH + 4 };
    forged f;
    kaws__record r;
    size_t i;
    int what;

    (void)state;
    make_files();
    for (i = 0; i < KEYS; i++)
        for (what = KEY_ID; what <= LAST; what++) {
            forge_begin(&f, i, &r);
            switch (what) {
            case KEY_ID:
                r.key_id = kaws__buf_of("another");
                break;
            case USER_ID:
                r.user_id = kaws__buf_of(r.user_id.len > 0 ? "" : "somebody");
                break;
            case TYPE:
                r.type = kaws__buf_of("RSA");
                break;
            case FREE:
                r.created = 1;
                r.material = kaws__buf_of("");
                break;
            default:
                r.plain_len = lens[what - LENGTH];
            }
            forge_record(&f, i, &r);
            forge_opens(&f, what == FREE ? 0 : 1u << i, KAWS_MISMATCH,
                        what < LENGTH ? KAWS_MISMATCH : KAWS_OK);
        }
    forge_from(&f, &whole);
    memcpy(f.records[0], f.records[4], f.lens[4]);
    f.lens[0] = f.lens[4];
    f.count = 4;
    forge_opens(&f, 0, KAWS_OK, KAWS_OK);
}


/* A request to a stranger's KMS key would tell him what we ask, and open what
 * he sealed. So nothing is sent. A different KMS key of ours opens nothing. */
static void
test_a_foreign_kms_key_is_not_asked(void **state)
{
    static const char *const foreign[] = {
        FAKE_FOREIGN,
        "arn:aws-cn:kms:cn-north-1:" FAKE_OWN ":key/00000001",
        FAKE_ARN("us-east-1", "111122223334", "1")
    };
    forged f;
    kaws__record r;
    size_t i, k;

    (void)state;
    make_files();
    fake.hooks.send = seeking_send;
    for (i = 0; i < KEYS; i++)
        for (k = 0; k < 4; k++) {
            forge_begin(&f, i, &r);
            r.arn = kaws__buf_of(k < 3 ? foreign[k] : FAKE_EAST2);
            forge_record(&f, i, &r);
            sought = k < 3 ? foreign[k] : "never";
            if (k < 3)
                forge_opens(&f, 1u << i, KAWS_FOREIGN, KAWS_FOREIGN);
            else
                forge_opens(&f, 1u << i, KAWS_MISMATCH, KAWS_KMS_KEY);
        }
    fake.hooks.send = fake_send;
    assert_int_equal(found_sought, 0);
}


/* ---- in the file's place (on the real disk) ----------------------------- */

enum { OLDER, OTHER_RING, CUT_SHORT, REWRITTEN, LINK, DEAD_LINK, PIPE, FOLDER,
       SOCKET, NOTHING, COPY, OTHERS_COPY, PLACES };

static const char *const places[PLACES] = {
    "an older file", "another keyring", "the file, cut short",
    "the file, its end rewritten", "a link to the file", "a dead link",
    "a pipe", "a folder", "a socket", "nothing", "a copy",
    "somebody else's file"
};

static char kept[128];            /* where the true file is meanwhile         */
static char older[128], other[128];


static void
copy_file(const char *from, const char *to)
{
    char command[400];

    (void)snprintf(command, sizeof command, "cp '%s' '%s'", from, to);
    assert_int_equal(system(command), 0);
}


static void
change_last_byte(const char *path)
{
    int fd = open(path, O_RDWR);
    off_t end = lseek(fd, 0, SEEK_END);
    uint8_t byte;

    assert_int_equal(pread(fd, &byte, 1, end - 1), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, end - 1), 1);
    close(fd);
}


static void
put_socket(const char *path)
{
    struct sockaddr_un address;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    close(fd);
}


/* Puts something in the file's place. 0: this process may not. */
static int
put_place(int place)
{
    const char *path = fake.data;

    assert_int_equal(rename(path, kept), 0);
    switch (place) {
    case OLDER:
        copy_file(older, path);
        break;
    case OTHER_RING:
        copy_file(other, path);
        break;
    case CUT_SHORT:
        assert_int_equal(rename(kept, path), 0);
        copy_file(path, kept);
        assert_int_equal(truncate(path, 90), 0);
        break;
    case REWRITTEN:
        assert_int_equal(rename(kept, path), 0);
        copy_file(path, kept);
        change_last_byte(path);
        break;
    case LINK:
        assert_int_equal(symlink(kept, path), 0);
        break;
    case DEAD_LINK:
        assert_int_equal(symlink("/nowhere/at/all", path), 0);
        break;
    case PIPE:
        assert_int_equal(mkfifo(path, 0600), 0);
        break;
    case FOLDER:
        assert_int_equal(mkdir(path, 0700), 0);
        break;
    case SOCKET:
        put_socket(path);
        break;
    case NOTHING:
        break;
    default:
        copy_file(kept, path);
        return place == COPY || chown(path, 12345, 12345) == 0;
    }
    return 1;
}


static void
take_place(int place)
{
    if (place == CUT_SHORT || place == REWRITTEN) {
        char command[400];            /* the same inode, its bytes as before  */
        (void)snprintf(command, sizeof command, "cat '%s' > '%s'", kept,
                       fake.data);
        assert_int_equal(system(command), 0);
        return;
    }
    if (unlink(fake.data) != 0 && errno != ENOENT)
        assert_int_equal(rmdir(fake.data), 0);
    assert_int_equal(rename(kept, fake.data), 0);
}


/* Enough of what stands there to see that it was left alone. */
static void
look_at(const char *path, char *seen, size_t max)
{
    struct stat st;
    uint8_t digest[32];
    static uint8_t all[16384];
    kaws_bytes view = { all, 0 };
    ssize_t n = -1;
    int fd;

    memset(seen, 0, max);
    if (lstat(path, &st) != 0)
        return;
    if (S_ISREG(st.st_mode)) {
        fd = open(path, O_RDONLY);
        n = pread(fd, all, sizeof all, 0);
        close(fd);
        view.len = n > 0 ? (size_t)n : 0;
    }
    kaws__crypto_sha256(digest, view);
    (void)snprintf(seen, max, "%lu %o %u %ld %02x%02x%02x%02x",
                   (unsigned long)st.st_ino, (unsigned)st.st_mode,
                   (unsigned)st.st_uid, (long)n, digest[0], digest[1],
                   digest[2], digest[3]);
}


/* A ring of five keys at fake.data, an older copy of four, another ring. */
static kaws *
make_real(void)
{
    kaws *ring;
    char *const names[] = { fake.data, older, other, kept };
    char extra[160];
    size_t i;

    (void)snprintf(older, sizeof older, "%s/older", fake.dir);
    (void)snprintf(other, sizeof other, "%s/other", fake.dir);
    (void)snprintf(kept, sizeof kept, "%s/kept", fake.dir);
    for (i = 0; i < 4; i++) {
        (void)unlink(names[i]);
        (void)snprintf(extra, sizeof extra, "%s.lock", names[i]);
        (void)unlink(extra);
    }
    model_reset(3);
    ring = model_must_open_at(other, 0);
    add_keys(ring, 0, KEYS);
    kaws_close(ring);
    ring = model_must_open_at(fake.data, 0);
    add_keys(ring, 0, KEYS - 1);
    copy_file(fake.data, older);
    add_keys(ring, KEYS - 1, KEYS);
    return ring;
}


/* Under a running ring: it notices, touches nothing, goes on reading; and goes
 * on changing when the true file is back. Closing, too, it leaves alone what is
 * not its file. */
static void
test_a_running_ring_touches_no_other_file(void **state)
{
    kaws *ring;
    char before[200], after[200], tmp[160];
    kaws_error err;
    model was, is;
    int place, closing;

    (void)state;
    (void)snprintf(tmp, sizeof tmp, "%s.tmp", fake.data);
    (void)alarm(60);                      /* a pipe would be waited for       */
    for (place = 0; place < PLACES; place++) {
        if (place == COPY)
            continue;
        ring = make_real();
        assert_int_equal(model_of(ring, &was, &err), KAWS_OK);
        for (closing = 0; closing < 2 && put_place(place); closing++) {
            tried++;
            look_at(fake.data, before, sizeof before);
            if (kaws_generate(ring, model_name("x"), "AES", 32, &err) !=
                KAWS_CHANGED)
                fail_msg("%s: %s", places[place], err.text);
            assert_non_null(strstr(err.text, fake.data));
            assert_int_equal(kaws_remove(ring, model_name("alpha"), &err),
                             KAWS_CHANGED);
            assert_int_equal(kaws_rewrap_all(ring, &err), KAWS_CHANGED);
            assert_int_equal(access(tmp, F_OK), -1);
            assert_int_equal(model_of(ring, &is, &err), KAWS_OK);
            assert_true(model_same(&is, &was));
            fake_forget_log(&fake);
            if (closing)
                kaws_close(ring);
            assert_int_equal(fake_logged(&fake, 1, "its length could not be"),
                             closing);
            look_at(fake.data, after, sizeof after);
            assert_string_equal(before, after);
            take_place(place);
            if (closing)
                continue;
            assert_int_equal(kaws_generate(ring, model_name("x"), "AES", 32,
                                           &err), KAWS_OK);
            assert_int_equal(kaws_remove(ring, model_name("x"), &err),
                             KAWS_OK);
        }
        if (closing < 2) {
            printf("  left out (needs root): %s\n", places[place]);
            take_place(place);
            kaws_close(ring);
        }
    }
    (void)alarm(0);
}


/* A copy has all keys, so the ring goes on in it. It does not go on in the
 * original, which is then an older file. */
static void
test_a_running_ring_goes_on_in_a_copy(void **state)
{
    kaws *ring = make_real();
    char before[200], after[200];
    kaws_error err;

    (void)state;
    tried++;
    assert_true(put_place(COPY));
    look_at(kept, before, sizeof before);
    assert_int_equal(kaws_generate(ring, model_name("x"), "AES", 32, &err),
                     KAWS_OK);
    assert_int_equal(kaws_remove(ring, model_name("alpha"), &err), KAWS_OK);
    look_at(kept, after, sizeof after);
    assert_string_equal(before, after);
    take_place(COPY);
    assert_int_equal(kaws_generate(ring, model_name("y"), "AES", 32, &err),
                     KAWS_CHANGED);
    kaws_close(ring);
    look_at(fake.data, after, sizeof after);
    assert_string_equal(before, after);
}


/* At the start, anything but a plain file of ours is not opened, and not waited
 * for. A file whose digests are right is used. */
static void
test_what_is_no_file_of_ours_is_not_opened(void **state)
{
    static const kaws_status wanted[PLACES] = {
        KAWS_OK, KAWS_OK, KAWS_CORRUPT, KAWS_CORRUPT, KAWS_FILE, KAWS_FILE,
        KAWS_FILE, KAWS_FILE, KAWS_FILE, KAWS_OK, KAWS_OK, KAWS_FILE
    };
    kaws *ring = make_real();
    char before[200], after[200];
    kaws_error err;
    int place, read_only;

    (void)state;
    kaws_close(ring);
    (void)alarm(60);
    for (place = 0; place < PLACES; place++)
        for (read_only = 0; read_only < 2; read_only++) {
            if (!put_place(place)) {
                take_place(place);
                continue;
            }
            tried++;
            look_at(fake.data, before, sizeof before);
            ring = open_at(fake.data, read_only, &err);
            if (wanted[place] != KAWS_OK || (place == NOTHING && read_only)) {
                assert_null(ring);
                assert_int_equal(err.status, place == NOTHING ? KAWS_FILE
                                                              : wanted[place]);
                assert_non_null(strstr(err.text, fake.data));
                look_at(fake.data, after, sizeof after);
                assert_string_equal(before, after);
            } else if (ring == NULL) {
                fail_msg("%s: %s", places[place], err.text);
            }
            if (place == NOTHING && !read_only)
                assert_int_equal(fake_logged(&fake, 1, "new, empty keyring"),
                                 1);
            kaws_close(ring);
            take_place(place);
        }
    (void)alarm(0);
}


static int
finish(void **state)
{
    (void)state;
    printf("  %lu files were tried\n", tried);
    disk_drop(&disk.image);
    fake_end(&fake);
    return fake.live != 0 || fake.dirty != 0 || fake.misfreed != 0;
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_cut_length),
        cmocka_unit_test(test_random_damage),
        cmocka_unit_test(test_swapped_blobs_open_nothing),
        cmocka_unit_test(test_blobs_of_another_file_open_nothing),
        cmocka_unit_test(test_changed_fields_open_nothing),
        cmocka_unit_test(test_a_foreign_kms_key_is_not_asked),
        cmocka_unit_test(test_a_running_ring_touches_no_other_file),
        cmocka_unit_test(test_a_running_ring_goes_on_in_a_copy),
        cmocka_unit_test(test_what_is_no_file_of_ours_is_not_opened)
    };

    fake_init(&fake);
    return cmocka_run_group_tests_name("hostile", tests, NULL, finish);
}
