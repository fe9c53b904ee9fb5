/* Room 11, and what stands on it: one reply of KMS, through every function.
 *
 *     mkdir -p build/fuzz/corpus/reply
 *     clang -std=c99 -O1 -g -fsanitize=fuzzer,address,undefined \
 *         -fno-sanitize-recover=all -o build/fuzz/fuzz_reply \
 *         fuzz/fuzz_reply.c -l:libbearssl.a -lpthread
 *     ASAN_OPTIONS=quarantine_size_mb=8 \
 *         build/fuzz/fuzz_reply -max_len=1500 -dict=fuzz/reply.dict \
 *         build/fuzz/corpus/reply fuzz/corpus/reply
 *
 * The input says which function is called, how the ring is set up, and what the
 * HTTP status, the header lines (up to a NUL) and the body are; every request
 * gets that reply, or (TWO) the first one gets it and the rest get what is
 * behind a byte 30, or none. With one reply, judge.h says whether the call must
 * succeed, and with what; else it must not, and then nothing has changed.
 */

#include "unseen_begin.h"
#include "../tests/fault/disk.h"
#include "unseen_end.h"
#include "fuzz.h"
#include "judge.h"
#include "unseen_begin.h"
#include "../tests/unit/fakes.h"
#include "unseen_end.h"

#include <regex.h>

enum { SILENT = 1, ALIAS = 2, LISTED = 4, LONG = 8, THEN_SILENT = 64,
       TWO = 128 };

enum { GENERATE, STORE, FETCH, DATA_KEY, DATA_KEY_SEALED, ENCRYPT, DECRYPT,
       REENCRYPT, CHECK, ROTATE, REWRAP, USE_KEY, USE_REGION, CALLS };

typedef struct reply {
    int        http;
    kaws_bytes headers, body;
} reply;

static struct fake fake;
static disk_image  filled;        /* a keyring with the key "a", of 32 bytes  */
static kaws_sealed given;         /* a blob, for those who want one           */
static reply       replies[2];
static int         how, requests, rotations, told_secret;


/* ---- the world --------------------------------------------------------- */

static int
lie(void *ctx, const kaws_request *q, kaws_reply *r)
{
    int later = requests++ > 0 && (how & TWO);
    const reply *told = &replies[later];
    int silent = (how & SILENT) || (later && (how & THEN_SILENT));
    kaws_bytes rest = told->headers;
    size_t i;

    (void)ctx;
    for (i = 0; q->headers[i] != NULL; i++)
        rotations += strstr(q->headers[i], "RotateKeyOnDemand") != NULL;
    HOLDS(q->timeout_ms >= 1 && q->timeout_ms <= 10000);
    while (rest.len > 0)
        kaws__http_header(r, fuzz_until(&rest, '\n'));
    r->http = told->http;
    r->body_len = told->body.len;
    if (r->body_len > 0)
        memcpy(r->body, told->body.at, r->body_len);
    if (how & LONG) {             /* blanks to the end of the room, and more  */
        memset(r->body + r->body_len, ' ', r->body_max - r->body_len);
        r->body_len = r->body_max + 1;
    }
    if (silent)
        (void)snprintf(r->text, sizeof r->text, "no\nreply \xff");
    return silent;
}


static kaws_config
config(void)
{
    kaws_config cfg = fake_config(&fake);

    cfg.data_file = "/disk/data";
    cfg.conf_file = "/disk/conf";
    cfg.rewrap_parallel = 1;
    if (how & ALIAS)
        cfg.kms_key_id = "alias/app";
    if (how & LISTED)
        cfg.accounts = FAKE_OTHER ", 777788889999";
    return cfg;
}


static void
begin(void)
{
    kaws_config cfg;
    kaws_name a = { "a", NULL };
    kaws *ring;

    fake_init(&fake);
    fake_end(&fake);
    fake.log = NULL;
    fake.log_len = fake.log_max = 0;
    pthread_mutex_init(&fake.lock, NULL);
    pthread_mutex_init(&fake.memory_lock, NULL);
    disk_format();
    disk_put("/disk/conf", FAKE_ID "\n" FAKE_SECRET "\n",
             strlen(FAKE_ID "\n" FAKE_SECRET "\n"));
    cfg = config();
    HOLDS(kaws_open(&ring, &cfg, NULL) == KAWS_OK);
    HOLDS(kaws_generate(ring, a, "AES", 32, NULL) == KAWS_OK);
    HOLDS(kaws_kms_generate_data_key(ring, NULL, 32, NULL, &given, NULL) ==
          KAWS_OK);
    kaws_close(ring);
    disk_sync_all();
    disk_copy(&filled, &disk.image);
    fake.hooks.send = lie;
}


/* ---- what the reply is worth ------------------------------------------- */

typedef struct worth {
    judge   j;
    int     good;                 /* 200, an object, wanted members strings   */
    uint8_t text[24000], blob[20000], plain[20000];
    long    blob_len, plain_len;  /* -1: not base64, or not there             */
} worth;


static int
is(kaws_bytes member, const char *text)
{
    return member.at != NULL && kaws__buf_same(member, kaws__buf_of(text));
}


/* Reads the reply as one of a call that wants these members. The first is the
 * blob or the plaintext, the second the KeyId. */
static void
weigh(worth *x, const char *first, const char *third, const char *fourth)
{
    memset(&x->j, 0, sizeof x->j);
    x->j.want[0] = first;
    x->j.want[1] = "KeyId";
    x->j.want[2] = third;
    x->j.want[3] = third != NULL ? fourth : NULL;
    x->good = !(how & (SILENT | LONG)) && replies[0].http == 200 &&
              replies[0].body.len <= 16384 &&
              judge_object(&x->j, replies[0].body, x->text);
    x->blob_len = x->plain_len = -1;
    if (x->good && x->j.found[0].at != NULL)
        x->blob_len = judge_base64(x->j.found[0], x->blob);
    if (x->good && fourth != NULL && x->j.found[3].at != NULL)
        x->plain_len = judge_base64(x->j.found[3], x->plain);
}


static int
is_arn(kaws_bytes arn, const char *region)
{
    static regex_t like;
    static int known;
    char text[256];

    if (!known)
        HOLDS(regcomp(&like, "^arn:aws:kms:[a-z0-9-]+:[0-9]{12}:key/"
                      "[A-Za-z0-9/_-]+$", REG_EXTENDED | REG_NOSUB) == 0);
    known = 1;
    return arn.at != NULL && kaws__buf_copy_text(text, sizeof text, arn) &&
           regexec(&like, text, 0, NULL, 0) == 0 &&
           strncmp(text + 12, region, strlen(region)) == 0 &&
           text[12 + strlen(region)] == ':';
}


/* Is the account of the ARN that one? */
static int
is_of(kaws_bytes arn, const char *account)
{
    int i;

    for (i = 0; i < 4; i++)
        (void)fuzz_until(&arn, ':');
    return is(fuzz_until(&arn, ':'), account);
}


/* Where the KMS key is an alias and no accounts are listed, the first ARN that
 * KMS names says which account is trusted. */
static int
is_trusted(kaws_bytes arn)
{
    if (!(how & ALIAS) && is_of(arn, FAKE_OWN))
        return 1;
    if (how & LISTED)
        return is_of(arn, FAKE_OTHER) || is_of(arn, "777788889999");
    return (how & ALIAS) != 0;
}


/* Does it hold a blob, and name the ring's KMS key (where that is an alias: any
 * of the region)? */
static int
is_sealed(const worth *x, const char *region)
{
    return x->good && x->blob_len >= 1 && x->blob_len <= 6144 &&
           (region != NULL || (how & ALIAS)
            ? is_arn(x->j.found[1], region != NULL ? region : "us-east-1")
            : is(x->j.found[1], FAKE_EAST)) &&
           is_trusted(x->j.found[1]);
}


/* The same for a reply that generates. */
static int
generates(worth *x, const char *region)
{
    weigh(x, "CiphertextBlob", "KeyMaterialId", "Plaintext");
    return is_sealed(x, region);
}


/* Is FAKE_EAST, of which the entry is, trusted when it comes to that? Where the
 * KMS key is an alias, a reply that generates has to show its account first. */
static int
reaches_east(worth *x)
{
    return !(how & ALIAS) ||
           (generates(x, NULL) && is_of(x->j.found[1], FAKE_OWN));
}


/* Must the call succeed with that one reply? x has what it must give. */
static int
must_succeed(int call, worth *x)
{
    switch (call) {
    case GENERATE:
    case DATA_KEY_SEALED:
    case CHECK:
    case ROTATE:
        return generates(x, NULL);
    case DATA_KEY:
        return generates(x, NULL) && x->plain_len == 32;
    case STORE:
    case ENCRYPT:
        weigh(x, "CiphertextBlob", "KeyMaterialId", NULL);
        return is_sealed(x, NULL);
    case FETCH:
    case DECRYPT:
        if (!reaches_east(x))
            return 0;
        weigh(x, "Plaintext", NULL, NULL);
        return x->good && is(x->j.found[1], FAKE_EAST) &&
               (call == FETCH ? x->blob_len == 32
                              : x->blob_len >= 1 && x->blob_len <= 64);
    case REENCRYPT:
    case REWRAP:
        if (!reaches_east(x) || (call == REWRAP && !generates(x, NULL)))
            return 0;
        weigh(x, "CiphertextBlob", "DestinationKeyMaterialId", "SourceKeyId");
        return is_sealed(x, NULL) && is(x->j.found[3], FAKE_EAST);
    case USE_KEY:
        return generates(x, "us-east-1");
    default:
        return (how & ALIAS) && generates(x, "eu-west-1");
    }
}


/* ---- the calls --------------------------------------------------------- */

static void
check_sealed(const kaws_sealed *out, const worth *x)
{
    kaws_bytes material = x->j.found[2];
    size_t i;
    int word = material.len > 0 && material.len <= 64;

    HOLDS(out->blob_len == (size_t)x->blob_len);
    HOLDS(memcmp(out->blob, x->blob, out->blob_len) == 0);
    HOLDS(is(x->j.found[1], out->kms_key_arn));
    for (i = 0; i < material.len; i++)
        word &= material.at[i] != 0 && strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef"
                                              "ghijklmnopqrstuvwxyz0123456789-_"
                                              "/", material.at[i]) != NULL;
    HOLDS(word ? is(material, out->key_material_id)
               : out->key_material_id[0] == '\0');
}


/* The entry is in the ring, sealed as the reply says. */
static void
check_entry(kaws *ring, const char *key_id, const worth *x)
{
    kaws__entry *e = kaws__cache_find(&ring->cache, kaws__buf_of(key_id),
                                      kaws__buf_of(""));
    kaws__record r;
    kaws_sealed out;

    HOLDS(e != NULL);
    HOLDS(kaws__store_parse(kaws__cache_record(e), &r) == NULL);
    kaws__ring_sealed(&r, &out);
    check_sealed(&out, x);
}


/* The four of KMS by itself. What is given is compared with what must be given;
 * x is NULL where nobody can say that. */
static kaws_status
call_kms(kaws *ring, int call, kaws_bytes mine, const worth *x, kaws_error *err)
{
    uint8_t room[64], zeros[64] = { 0 };
    size_t len = call == DATA_KEY ? 32 : sizeof room, whole = len;
    kaws_sealed out;
    kaws_status status;

    memset(room, 0xa5, sizeof room);
    if (call == ENCRYPT)
        status = kaws_kms_encrypt(ring, NULL, mine, &out, err);
    else if (call == DECRYPT)
        status = kaws_kms_decrypt(ring, NULL, &given, room, &len, err);
    else if (call == REENCRYPT)
        status = kaws_kms_reencrypt(ring, NULL, &given, &out, err);
    else
        status = kaws_kms_generate_data_key(ring, NULL, 32, call == DATA_KEY
                                            ? room : NULL, &out, err);
    if (status != KAWS_OK && (call == DATA_KEY || call == DECRYPT))
        HOLDS(memcmp(room, zeros, whole) == 0);
    if (status != KAWS_OK || x == NULL)
        return status;
    if (call == DATA_KEY)
        HOLDS(memcmp(room, x->plain, 32) == 0);
    if (call == DECRYPT)
        HOLDS(len == (size_t)x->blob_len && memcmp(room, x->blob, len) == 0);
    else
        check_sealed(&out, x);
    return status;
}


static kaws_status
make_call(kaws *ring, int call, const worth *x, kaws_error *err)
{
    static const uint8_t bytes[] = "a key of my own";
    kaws_bytes mine = { bytes, sizeof bytes };
    kaws_name a = { "a", NULL }, b = { "b", NULL };
    kaws_key key;
    kaws_status status;

    switch (call) {
    case GENERATE:
    case STORE:
        status = call == STORE ? kaws_store(ring, b, "AES", mine, err)
                               : kaws_generate(ring, b, "AES", 32, err);
        if (x != NULL && status == KAWS_OK)
            check_entry(ring, "b", x);
        return status;
    case FETCH:
        status = kaws_fetch(ring, a, &key, err);
        HOLDS((key.bytes != NULL) == (status == KAWS_OK));
        if (x != NULL && status == KAWS_OK)
            HOLDS(key.len == 32 && memcmp(key.bytes, x->blob, 32) == 0);
        kaws_key_free(ring, &key);
        return status;
    case REWRAP:
        status = kaws_rewrap_all(ring, err);
        if (x != NULL && status == KAWS_OK)
            check_entry(ring, "a", x);
        return status;
    case ROTATE:
        return kaws_rotate_kms_key(ring, err);
    case CHECK:
        return kaws_check(ring, err);
    case USE_KEY:
        return kaws_use_kms_key(ring, "alias/two", err);
    case USE_REGION:
        return kaws_use_region(ring, "eu-west-1", err);
    default:
        return call_kms(ring, call, mine, x, err);
    }
}


static void
check_words(const kaws_error *err, kaws_status status)
{
    const char *at;

    HOLDS(err->status == status);
    HOLDS((err->text[0] == '\0') == (status == KAWS_OK));
    HOLDS(strlen(err->request_id) < 64 && strlen(err->aws) < 64);
    for (at = err->text; *at != '\0'; at++)
        HOLDS(*at >= 0x20 && *at <= 0x7e);
    for (at = fake.log; at != NULL && *at != '\0'; at++)
        HOLDS((*at >= 0x20 && *at <= 0x7e) || *at == '\n');
    if (!told_secret) {           /* else it is KMS that says it             */
        HOLDS(strstr(err->text, FAKE_SECRET) == NULL);
        HOLDS(fake.log == NULL || strstr(fake.log, FAKE_SECRET) == NULL);
    }
    fake_forget_log(&fake);
}


static void
try_reply(int call)
{
    static worth x;
    kaws_config cfg = config();
    int must = !(how & TWO) && must_succeed(call, &x);
    int64_t started;
    kaws_error err;
    kaws__aim aim;
    kaws_status status;
    uint64_t before;
    kaws *ring;

    requests = rotations = 0;
    started = fake.now_ms = 1795000000000;
    fake.seed = (uint64_t)how;
    HOLDS(kaws_open(&ring, &cfg, &err) == KAWS_OK);
    before = disk_hash();
    aim = ring->kms.aim;
    status = make_call(ring, call, must ? &x : NULL, &err);
    check_words(&err, status);
    HOLDS(fake.now_ms - started <= 40000 && requests <= 80);
    HOLDS(rotations <= 1 || status == KAWS_THROTTLED);
    if (!(how & TWO) && !(call == USE_REGION && !(how & ALIAS)))
        HOLDS((status == KAWS_OK) == must);
    if (status != KAWS_OK || (call != GENERATE && call != STORE &&
                              call != REWRAP))
        HOLDS(disk_hash() == before);
    if (status != KAWS_OK)
        HOLDS(memcmp(&aim, &ring->kms.aim, sizeof aim) == 0 &&
              strcmp(ring->kms.region, "us-east-1") == 0);
    kaws_close(ring);
    HOLDS(fake.live == 0 && fake.dirty == 0 && fake.misfreed == 0);
    HOLDS(disk.opened == 0);
    HOLDS(kaws_open(&ring, &cfg, &err) == KAWS_OK);
    HOLDS(ring->cache.count == (status == KAWS_OK && call <= STORE ? 2 : 1));
    kaws_close(ring);
    fake_forget_log(&fake);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int statuses[] = { 400, 403, 500, 503, 429, 301, 204, 0 };
    static int begun;
    kaws_bytes in = { data, size };
    int call, http;

    if (size > 1500)
        return 0;
    how = 0;
    if (!begun)
        begin();
    begun = 1;
    told_secret = memmem(data, size, FAKE_SECRET, strlen(FAKE_SECRET)) != NULL;
    call = (int)(fuzz_number(&in, 1) % CALLS);
    how = (int)fuzz_number(&in, 1);
    http = (int)fuzz_number(&in, 1);
    replies[0].http = http < 128 ? 200 : statuses[http % 8];
    replies[1].http = http % 3 == 0 ? statuses[http / 3 % 8] : 200;
    replies[0].headers = replies[1].headers = fuzz_until(&in, 0);
    replies[0].body = (how & TWO) ? fuzz_until(&in, 30) : in;
    replies[1].body = in;
    disk_copy(&disk.image, &filled);
    disk_restart();
    try_reply(call);
    return 0;
}
