/* fakes.h - fakes of all that a ring needs: clock, chance, memory, log, KMS
 *
 * Include it after keyring_aws.h with its implementation. It needs no test
 * framework. A test uses it so:
 *
 *     struct fake f;
 *     fake_init(&f);                       a folder, credentials, an honest KMS
 *     kaws_config cfg = fake_config(&f);   points at all of it; change it
 *     kaws_open(&ring, &cfg, &err) ...
 *     fake_push(&f, (fake_script){ .action = "Decrypt",
 *                                  .error = "ThrottlingException" });
 *     fake_calls(&f, "Decrypt"), fake_logged(&f, 1, "words") ...
 *     fake_end(&f);                        removes the folder
 *
 * The KMS is honest: it checks the signature, the clock and the account, finds
 * keys by ARN, id and alias in the region asked, binds blobs to key, material
 * and context, and rotates. Threads may use all of it at once. The clock moves
 * only when told to, or when the ring sleeps.
 */

#if !defined(KAWS_FAKES_H)
#define KAWS_FAKES_H

#include <dirent.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#define FAKE static __attribute__((unused))

#define FAKE_ID     "AKIAFAKEFAKEFAKEFAKE"
#define FAKE_SECRET "sEcReT/fAkE+0123456789abcdefghijklmnopqr"
#define FAKE_OWN    "111122223333"        /* whose the credentials are        */
#define FAKE_OTHER  "444455556666"
#define FAKE_ARN(region, account, n) \
    "arn:aws:kms:" region ":" account ":key/0000000" n \
    "-aaaa-bbbb-cccc-1234567890ab"
#define FAKE_EAST    FAKE_ARN("us-east-1", FAKE_OWN, "1")    /* alias/app     */
#define FAKE_EAST2   FAKE_ARN("us-east-1", FAKE_OWN, "2")    /* alias/two     */
#define FAKE_WEST    FAKE_ARN("us-west-2", FAKE_OWN, "3")    /* alias/app     */
#define FAKE_FOREIGN FAKE_ARN("us-east-1", FAKE_OTHER, "4")

enum { FAKE_KEYS = 16, FAKE_SCRIPTS = 64, FAKE_SLEEPS = 256 };

typedef struct fake_key {
    char    arn[128], alias[64];          /* alias: "alias/app", or ""        */
    const char *error;                    /* why it refuses; NULL: does not   */
    int     material, rotations;
    int64_t rotates_at;                   /* 0: no rotation is under way      */
} fake_key;

/* What the KMS is to say instead of the truth, once it is asked. */
typedef struct fake_script {
    const char *action;                   /* NULL: any                        */
    int         skip, times;              /* let so many pass; then so often  */
    const char *no_reply;                 /* the transport's words            */
    int         lost;                     /* the work is done, then no reply  */
    const char *error;                    /* a type: HTTP 400 and a body      */
    int         http;                     /* 0: as it would be                */
    const char *body;                     /* NULL: as it would be             */
    size_t      body_len;                 /* 0: the body is a string          */
    const char *from, *to;                /* in the true body, this for that  */
    size_t      cut;                      /* the body ends there              */
    int64_t     date;                     /* 0: the KMS's clock; -1: none     */
    int         retry_after_ms;           /* 0: none                          */
    int         same_id;                  /* the request id of the last reply */
    int         previous;                 /* the last reply to such a request */
} fake_script;

struct fake {
    kaws_hooks hooks;
    pthread_mutex_t lock, memory_lock;
    char     dir[64], conf[96], data[96];

    int64_t  now_ms, kms_ahead_ms;        /* the KMS's clock less ours        */
    int64_t  set_ms;                      /* what now_ms has been set by      */
    int      sleeps, slept[FAKE_SLEEPS];  /* milliseconds                     */
    uint64_t seed;
    int      random_byte;                 /* all bytes are this; -1: seeded   */
    int      random_fails;

    size_t   allocs, live, live_bytes;    /* so far; now                      */
    size_t   fail_nth, fail_from;         /* 0: none fails                    */
    size_t   failed, dirty, misfreed;     /* dirty: given back unwiped        */

    char    *log;                         /* "1 text\n" ...                   */
    size_t   log_len, log_max;

    char     id[64], secret[64], token[64];   /* what the KMS knows           */
    const char *account;                  /* of these credentials             */
    fake_key keys[FAKE_KEYS];
    int      rotation_ms;                 /* how long a rotation takes        */
    int      knows_no_dry_run, hides_material;
    int      canned;                      /* see fake_canned                  */
    fake_script scripts[FAKE_SCRIPTS];
    int      requests, calls[8];
    int      replies;                     /* numbers their request ids        */
    uint8_t *previous[8];                 /* the last reply to each action    */
    size_t   previous_len[8];
    char     url[256], body[16384], scratch[16384];   /* the last request's   */
    char     authorization[640];
    int      timeout_ms, connect_timeout_ms, fresh_connection;
    size_t   reply_len;                   /* of the truth, last told          */

    void   (*on_send)(struct fake *, const char *action);   /* before a reply */
    void   (*on_sleep)(struct fake *, int ms);
    void    *user;                        /* for those two                    */
};

enum { FAKE_BARE, FAKE_DATA_KEY, FAKE_ENCRYPT, FAKE_DECRYPT, FAKE_REENCRYPT,
       FAKE_ROTATE, FAKE_DESCRIBE, FAKE_UNKNOWN };

static const char *const fake_actions[8] = {
    "GenerateDataKeyWithoutPlaintext", "GenerateDataKey", "Encrypt", "Decrypt",
    "ReEncrypt", "RotateKeyOnDemand", "DescribeKey", "?"
};

static const kaws_hooks fake_plain = { .memory = kaws__mem_builtin };


/* ---- clock, chance, memory, log ---------------------------------------- */

static int64_t
fake_now_ms(void *ctx)
{
    struct fake *f = ctx;
    int64_t now;

    pthread_mutex_lock(&f->lock);
    now = f->now_ms;
    pthread_mutex_unlock(&f->lock);
    return now;
}


/* The clock that nobody sets. */
static int64_t
fake_ticks_ms(void *ctx)
{
    struct fake *f = ctx;
    int64_t now;

    pthread_mutex_lock(&f->lock);
    now = f->now_ms - f->set_ms;
    pthread_mutex_unlock(&f->lock);
    return now;
}


/* Somebody sets the wall clock. */
FAKE void
fake_set_clock(struct fake *f, int64_t by_ms)
{
    pthread_mutex_lock(&f->lock);
    f->now_ms += by_ms;
    f->set_ms += by_ms;
    pthread_mutex_unlock(&f->lock);
}


static void
fake_sleep_ms(void *ctx, int ms)
{
    struct fake *f = ctx;

    pthread_mutex_lock(&f->lock);
    f->now_ms += ms;
    f->slept[f->sleeps++ % FAKE_SLEEPS] = ms;
    pthread_mutex_unlock(&f->lock);
    if (f->on_sleep != NULL)
        f->on_sleep(f, ms);
}


/* With the lock held. */
static uint8_t
fake_byte(struct fake *f)
{
    f->seed = f->seed * 6364136223846793005u + 1442695040888963407u;
    return (uint8_t)(f->seed >> 56);
}


static int
fake_random(void *ctx, void *out, size_t len)
{
    struct fake *f = ctx;
    uint8_t *at = out;
    size_t i;

    pthread_mutex_lock(&f->lock);
    for (i = 0; i < len; i++)
        at[i] = f->random_byte >= 0 ? (uint8_t)f->random_byte : fake_byte(f);
    pthread_mutex_unlock(&f->lock);
    return f->random_fails ? EIO : 0;
}


/* Fresh memory holds rubbish; what comes back must be of the length that was
 * given, and zeros, but for what still holds the rubbish. */
static void *
fake_memory(void *ctx, void *ptr, size_t old_len, size_t new_len)
{
    struct fake *f = ctx;
    size_t *block = ptr, i;

    pthread_mutex_lock(&f->memory_lock);
    if (ptr != NULL) {
        block -= 2;
        for (i = 0; i < old_len; i++)
            if (((uint8_t *)ptr)[i] != 0 && ((uint8_t *)ptr)[i] != 0xa5)
                break;
        f->dirty += i < old_len;
        f->misfreed += block[0] != old_len || new_len != 0;
        f->live--;
        f->live_bytes -= block[0];
        free(block);
        block = NULL;
    } else {
        f->allocs++;
        if (f->allocs == f->fail_nth ||
            (f->fail_from > 0 && f->allocs >= f->fail_from))
            f->failed++;
        else
            block = malloc(new_len + 2 * sizeof *block);
        if (block != NULL) {
            f->live++;
            f->live_bytes += new_len;
            block[0] = new_len;
            memset(block + 2, 0xa5, new_len);
            block += 2;
        }
    }
    pthread_mutex_unlock(&f->memory_lock);
    return block;
}


static void
fake_log(void *ctx, int level, const char *line)
{
    struct fake *f = ctx;
    size_t n = strlen(line) + 3;

    pthread_mutex_lock(&f->lock);
    if (f->log_len + n >= f->log_max) {
        f->log_max = f->log_max * 2 + 4096;
        f->log = realloc(f->log, f->log_max);
        if (f->log == NULL)
            abort();
    }
    f->log_len += (size_t)snprintf(f->log + f->log_len, n + 1, "%d %s\n",
                                   level, line);
    pthread_mutex_unlock(&f->lock);
}


/* How many lines of that level (-1: of any) hold the words. */
FAKE int
fake_logged(struct fake *f, int level, const char *words)
{
    const char *line = f->log, *end, *found;
    int count = 0;

    for (; line != NULL && *line != '\0'; line = end + 1) {
        end = strchr(line, '\n');
        found = strstr(line + 2, words);
        count += (level < 0 || line[0] == '0' + level) && found != NULL &&
                 found < end;
    }
    return count;
}


FAKE void
fake_forget_log(struct fake *f)
{
    f->log_len = 0;
    if (f->log != NULL)
        f->log[0] = '\0';
}


/* ---- what a request asks ----------------------------------------------- */

typedef struct fake_ask {
    int         action;                   /* its place among fake_actions     */
    char        region[40];
    kaws_bytes  key, source, target, blob, plain;     /* as in the body       */
    size_t      count;
    int         dry, canned;              /* canned: no context is read       */
    uint8_t     context[2][32];           /* digests: source's, target's      */
    const char *error, *says;             /* why it is refused                */
    kaws__buf   out;                      /* the reply                        */
} fake_ask;


static void *
fake_refuse(fake_ask *ask, const char *error, const char *says)
{
    if (ask->error == NULL) {
        ask->error = error;
        ask->says = says;
    }
    return NULL;
}


/* Base64 and JSON of its own: what reads it must not be what wrote it. */
FAKE void
fake_base64(char *out, kaws_bytes in)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqr"
                                 "stuvwxyz0123456789+/";
    size_t i, k;

    for (i = 0; i < in.len; i += 3) {
        unsigned long bits = 0;
        for (k = 0; k < 3; k++)
            bits = bits << 8 | (i + k < in.len ? in.at[i + k] : 0u);
        for (k = 0; k < 4; k++)
            *out++ = i + k > in.len ? '=' : digits[bits >> (18 - 6 * k) & 63];
    }
    *out = '\0';
}


/* Adds a member to the reply. Nothing in it needs an escape. */
static void
fake_say(fake_ask *ask, const char *name, const char *value)
{
    char head[64];

    (void)snprintf(head, sizeof head, "%c\"%s\":\"",
                   ask->out.len > 0 ? ',' : '{', name);
    kaws__buf_text(&ask->out, head);
    kaws__buf_text(&ask->out, value);
    kaws__buf_text(&ask->out, "\"");
}


static void
fake_say_data(fake_ask *ask, const char *name, kaws_bytes data)
{
    char text[8300];

    fake_base64(text, data);
    fake_say(ask, name, text);
}


static const char *
fake_header(const kaws_request *q, const char *name)
{
    size_t i;

    for (i = 0; q->headers[i] != NULL; i++)
        if (strncmp(q->headers[i], name, strlen(name)) == 0)
            return q->headers[i] + strlen(name);
    return "";
}


static int
fake_order(const void *a, const void *b)
{
    const kaws_bytes *x = a, *y = b;
    int order = memcmp(x->at, y->at, x->len < y->len ? x->len : y->len);

    return order != 0 ? order : (x->len > y->len) - (x->len < y->len);
}


/* An encryption context, at its brace; what order it is in does not count. */
static void
fake_read_context(fake_ask *ask, kaws__json *j, uint8_t digest[32])
{
    kaws_bytes pairs[32][2], head;
    kaws__sha256 hash;
    uint8_t size[2];
    size_t n = 0, i;

    kaws__json_take(j, '{', "a brace");
    while (j->bad == NULL && n < 32 && kaws__json_peek(j) != '}') {
        if (n > 0)
            kaws__json_take(j, ',', "a comma");
        if (kaws__json_text(j, &pairs[n][0]) &&
            kaws__json_take(j, ':', "a colon") &&
            kaws__json_text(j, &pairs[n][1]) && pairs[n][1].len == 0)
            fake_refuse(ask, "ValidationException", "an empty value");
        n++;
    }
    kaws__json_take(j, '}', "a brace");
    if (j->bad != NULL)
        return;
    qsort(pairs, n, sizeof pairs[0], fake_order);
    kaws__crypto_init(&hash);
    for (i = 0; i < 2 * n; i++) {
        head.at = pairs[i / 2][i % 2].at;
        head.len = pairs[i / 2][i % 2].len;
        size[0] = (uint8_t)head.len;      /* the same on every machine       */
        size[1] = (uint8_t)(head.len >> 8);
        kaws__crypto_update(&hash, size, sizeof size);
        kaws__crypto_update(&hash, head.at, head.len);
    }
    kaws__crypto_out(&hash, digest);
}


/* Reads the body, in place. */
static void
fake_read(fake_ask *ask, char *body)
{
    static const char *const names[] = {
        "KeyId", "SourceKeyId", "DestinationKeyId", "CiphertextBlob",
        "Plaintext", "EncryptionContext", "SourceEncryptionContext",
        "DestinationEncryptionContext", "NumberOfBytes", "DryRun"
    };
    kaws_bytes *const texts[] = { &ask->key, &ask->source, &ask->target,
                                  &ask->blob, &ask->plain }, name;
    kaws__json j = { .at = (uint8_t *)body,
                     .end = (uint8_t *)body + strlen(body) };
    size_t i;
    int more = 1;

    kaws__json_take(&j, '{', "a brace");
    while (more && kaws__json_text(&j, &name) &&
           kaws__json_take(&j, ':', "a colon")) {
        for (i = 0; i < 10; i++)
            if (kaws__buf_same(name, kaws__buf_of(names[i])))
                break;
        (void)kaws__json_peek(&j);
        if (i == 8)
            ask->count = (size_t)strtoul((char *)j.at, NULL, 10);
        if (i == 9)
            ask->dry = *j.at == 't';
        if (i < 5)
            kaws__json_text(&j, texts[i]);
        else if (i < 8 && ask->canned)    /* no value has a brace            */
            j.at = (uint8_t *)strchr((char *)j.at, '}') + 1;
        else if (i < 8)
            fake_read_context(ask, &j, ask->context[i == 7]);
        else
            kaws__json_value(&j);
        more = kaws__json_peek(&j) != '}';
        if (more)
            kaws__json_take(&j, ',', "a comma");
    }
    if (j.bad != NULL)
        fake_refuse(ask, "SerializationException", j.bad);
}


/* Is the request signed as the KMS would sign it, and now? */
static void
fake_check_signature(struct fake *f, fake_ask *ask, const kaws_request *q)
{
    const char *lines[16] = { NULL };
    char want[640], id[80] = "";
    int year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0;
    kaws_creds who = { f->id, f->secret, NULL };
    kaws_signing what = { .method = "POST", .path = "/", .service = "kms",
                          .region = ask->region, .headers = lines,
                          .body = q->body };
    int64_t off;
    size_t i, n = 0;

    for (i = 0; q->headers[i] != NULL && n < 15; i++) {
        if (strncmp(q->headers[i], "Authorization: ", 15) != 0)
            lines[n++] = q->headers[i];
        if (q->headers[i][strlen(q->headers[i]) - 1] == ' ')
            fake_refuse(ask, "ValidationException", "a header without value");
    }
    if (i > n + 1)
        fake_refuse(ask, "ValidationException", "two Authorizations");
    (void)sscanf(fake_header(q, "X-Amz-Date: "), "%4d%2d%2dT%2d%2d%2dZ", &year,
                 &month, &day, &hour, &minute, &second);
    (void)sscanf(f->authorization, "AWS4-HMAC-SHA256 Credential=%79[^/]/%*[^/]"
                 "/%39[^/]", id, ask->region);
    what.when = kaws__text_days(year, month, day) * 86400 + hour * 3600 +
                minute * 60 + second;
    off = what.when * 1000 - f->now_ms - f->kms_ahead_ms;
    if (strcmp(id, f->id) != 0 ||
        strcmp(fake_header(q, "X-Amz-Security-Token: "), f->token) != 0)
        fake_refuse(ask, "UnrecognizedClientException", "who is that?");
    else if (kaws_sign(&what, who, want, sizeof want, NULL) != KAWS_OK ||
             strcmp(want, f->authorization) != 0)
        fake_refuse(ask, "InvalidSignatureException", "it does not match");
    else if (off > 300000 || off < -300000)
        fake_refuse(ask, "InvalidSignatureException", "Signature expired");
}


/* ---- an honest KMS ----------------------------------------------------- */

/* The key that the text means in the region; else the call is refused. */
static fake_key *
fake_find_key(struct fake *f, fake_ask *ask, kaws_bytes text)
{
    char region[40], account[16], id[64], alias[200];
    fake_key *k = f->keys;

    for (; k < f->keys + FAKE_KEYS && k->arn[0] != '\0'; k++) {
        int mine, named;
        (void)sscanf(k->arn, "arn:%*[^:]:kms:%39[^:]:%15[^:]:key/%63s", region,
                     account, id);
        (void)snprintf(alias, sizeof alias, "%.*s%s",
                       (int)(strstr(k->arn, "key/") - k->arn), k->arn,
                       k->alias);
        mine = strcmp(account, f->account) == 0;
        named = kaws__buf_same(text, kaws__buf_of(k->arn)) ||
                (mine && kaws__buf_same(text, kaws__buf_of(id))) ||
                (k->alias[0] != '\0' &&
                 (kaws__buf_same(text, kaws__buf_of(alias)) ||
                  (mine && kaws__buf_same(text, kaws__buf_of(k->alias)))));
        if (!named || strcmp(region, ask->region) != 0)
            continue;
        if (k->error != NULL)
            return fake_refuse(ask, k->error, "in that state");
        if (k->rotates_at > 0 && k->rotates_at <= f->now_ms) {
            k->material++;
            k->rotates_at = 0;
        }
        return k;
    }
    return fake_refuse(ask, "NotFoundException", "no such key here");
}


/* What tells a key from others: of a multi-region key the id, because all that
 * have it are one key; else the ARN. */
static const char *
fake_name(const fake_key *k)
{
    const char *id = strstr(k->arn, "key/mrk-");

    return id != NULL ? id : k->arn;
}


/* For a key and one of its materials: what encrypts, and the material's id. */
static void
fake_material(const fake_key *k, int material, uint8_t key[32], char id[65])
{
    char text[160];
    uint8_t digest[32];

    (void)snprintf(text, sizeof text, "%s %d", fake_name(k), material);
    kaws__crypto_hmac(key, kaws__buf_of("fake kms"), kaws__buf_of(text));
    kaws__crypto_sha256(digest, kaws__buf_of(text));
    kaws__text_hex(id, digest, 32);
}


/* A blob: 'F', key, material, 0, 16 random bytes; the plaintext, encrypted; 32
 * bytes that bind it. This encrypts or decrypts, and makes those. */
static void
fake_cipher(const uint8_t key[32], const uint8_t context[32], uint8_t *blob,
            size_t len, int sealing, uint8_t tag[32])
{
    uint8_t block[22], stream[32], both[64];
    kaws_bytes secret = { key, 32 }, view = { block, sizeof block };
    kaws_bytes all = { blob, 20 + len }, bound = { both, sizeof both };
    size_t i;
    int pass;

    memcpy(block, blob, 20);
    for (pass = 0; pass < 2; pass++) {
        for (i = 0; pass != sealing && i < len; i++) {
            block[20] = (uint8_t)(i / 32);
            block[21] = 0;
            if (i % 32 == 0)
                kaws__crypto_hmac(stream, secret, view);
            blob[20 + i] ^= stream[i % 32];
        }
        if (pass == sealing) {
            memcpy(both, context, 32);
            kaws__crypto_sha256(both + 32, all);
            kaws__crypto_hmac(tag, secret, bound);
        }
    }
}


/* Seals into the reply: the blob, the key, and the material under `name`. */
static void
fake_seal(struct fake *f, fake_ask *ask, fake_key *k, int which,
          kaws_bytes plain, const char *name)
{
    uint8_t blob[20 + KAWS_PLAIN_MAX + 32], key[32];
    kaws_bytes view = { blob, 20 + plain.len + 32 };
    char id[65];
    size_t i;

    fake_material(k, k->material, key, id);
    blob[0] = 'F';
    blob[1] = (uint8_t)(k - f->keys);
    blob[2] = (uint8_t)k->material;
    blob[3] = 0;
    for (i = 4; i < 20; i++)
        blob[i] = fake_byte(f);
    memcpy(blob + 20, plain.at, plain.len);
    fake_cipher(key, ask->context[which], blob, plain.len, 1,
                blob + 20 + plain.len);
    fake_say_data(ask, "CiphertextBlob", view);
    fake_say(ask, "KeyId", k->arn);
    if (name != NULL && !f->hides_material)
        fake_say(ask, name, id);
}


/* GenerateDataKey, with and without the plaintext, and Encrypt. */
static void
fake_do_seal(struct fake *f, fake_ask *ask)
{
    uint8_t plain[KAWS_PLAIN_MAX];
    kaws_bytes view = { plain, ask->count <= 1024 ? ask->count : 0 };
    fake_key *k = fake_find_key(f, ask, ask->key);
    size_t i;

    for (i = 0; i < view.len; i++)
        plain[i] = fake_byte(f);
    if (ask->action == FAKE_ENCRYPT &&
        !kaws__text_unbase64(ask->plain, plain, sizeof plain, &view.len))
        view.len = 0;
    if (view.len == 0)
        fake_refuse(ask, "ValidationException", "not that length");
    if (ask->error != NULL)
        return;
    fake_seal(f, ask, k, 0, view,
              ask->action == FAKE_ENCRYPT ? NULL : "KeyMaterialId");
    if (ask->action == FAKE_DATA_KEY)
        fake_say_data(ask, "Plaintext", view);
}


/* Decrypt and ReEncrypt. */
static void
fake_do_open(struct fake *f, fake_ask *ask)
{
    int re = ask->action == FAKE_REENCRYPT;
    fake_key *k = fake_find_key(f, ask, re ? ask->source : ask->key), *to = k;
    uint8_t blob[6144], key[32], tag[32];
    kaws_bytes view = { blob + 20, 0 };
    size_t len = 0;
    char id[65];

    if (re && k != NULL)
        to = fake_find_key(f, ask, ask->target);
    if (!kaws__text_unbase64(ask->blob, blob, sizeof blob, &len) ||
        len <= 52 || blob[0] != 'F')
        fake_refuse(ask, "InvalidCiphertextException", "");
    else if (strcmp(fake_name(&f->keys[blob[1] % FAKE_KEYS]), k != NULL
                    ? fake_name(k) : "") != 0)
        fake_refuse(ask, "IncorrectKeyException", "another key's");
    if (ask->error != NULL)
        return;
    view.len = len - 52;
    fake_material(k, blob[2], key, id);
    fake_cipher(key, ask->context[0], blob, view.len, 0, tag);
    if (memcmp(tag, blob + 20 + view.len, 32) != 0 || blob[2] > k->material)
        fake_refuse(ask, "InvalidCiphertextException", "");
    if (ask->dry && !f->knows_no_dry_run)
        fake_refuse(ask, "DryRunOperationException", "it would work");
    if (ask->error != NULL)
        return;
    if (re)
        fake_seal(f, ask, to, 1, view, "DestinationKeyMaterialId");
    fake_say(ask, re ? "SourceKeyId" : "KeyId", k->arn);
    if (!re)
        fake_say_data(ask, "Plaintext", view);
}


/* RotateKeyOnDemand and DescribeKey. */
static void
fake_do_key(struct fake *f, fake_ask *ask)
{
    fake_key *k = fake_find_key(f, ask, ask->key);
    int rotate = ask->action == FAKE_ROTATE;

    if (k == NULL)
        return;
    if (rotate && strstr(f->body, "alias/") != NULL)
        fake_refuse(ask, "InvalidArnException", "an ARN is wanted");
    if (rotate && k->rotations >= 25)
        fake_refuse(ask, "LimitExceededException", "25 times already");
    if (rotate && k->rotates_at > 0)
        fake_refuse(ask, "ConflictException", "a rotation is under way");
    if (rotate && ask->error == NULL) {
        k->rotations++;
        k->rotates_at = f->now_ms + f->rotation_ms;
    }
    fake_say(ask, rotate ? "KeyId" : "Arn", k->arn);
}


/* What a benchmark wants: replies of KMS's shape and size to any KMS key, which
 * seal and verify nothing. A blob has 152 bytes more than its plaintext, as
 * KMS's have, and no two are the same. */
static void
fake_canned(struct fake *f, fake_ask *ask)
{
    static const char material[] = "0123456789abcdef0123456789abcdef"
                                   "0123456789abcdef0123456789abcdef";
    static uint8_t bytes[6144];
    int re = ask->action == FAKE_REENCRYPT, opens = ask->action >= FAKE_DECRYPT;
    kaws_bytes view = { bytes, ask->count }, from = opens ? ask->blob
                                                          : ask->plain;
    kaws_bytes key = re ? ask->target : ask->key;
    char arn[256];

    if (from.len > 0 &&
        !kaws__text_unbase64(from, bytes, sizeof bytes, &view.len))
        view.len = 0;
    view.len -= opens && view.len > 152 ? 152 : 0;
    memset(bytes, 0, view.len);
    (void)kaws__buf_copy_text(arn, sizeof arn, key);
    if (ask->dry || view.len == 0) {
        fake_refuse(ask, ask->dry ? "DryRunOperationException"
                                  : "ValidationException", "");
    } else if (opens && !re) {
        fake_say(ask, "EncryptionAlgorithm", "SYMMETRIC_DEFAULT");
        fake_say(ask, "KeyId", arn);
        fake_say(ask, "KeyMaterialId", material);
        fake_say_data(ask, "Plaintext", view);
    } else {
        memcpy(bytes, &f->replies, sizeof f->replies);
        view.len += 152;
        fake_say_data(ask, "CiphertextBlob", view);
        fake_say(ask, "KeyId", arn);
        fake_say(ask, re ? "DestinationKeyMaterialId" : "KeyMaterialId",
                 material);
        (void)kaws__buf_copy_text(arn, sizeof arn, ask->source);
    }
    if (re && ask->error == NULL) {
        fake_say(ask, "SourceKeyId", arn);
        fake_say(ask, "SourceKeyMaterialId", material);
        fake_say(ask, "SourceEncryptionAlgorithm", "SYMMETRIC_DEFAULT");
        fake_say(ask, "DestinationEncryptionAlgorithm", "SYMMETRIC_DEFAULT");
    }
}


/* ---- the `send` hook --------------------------------------------------- */

static int
fake_action(const kaws_request *q)
{
    const char *name = fake_header(q, "X-Amz-Target: TrentService.");
    int i = 0;

    while (i < FAKE_UNKNOWN && strcmp(fake_actions[i], name) != 0)
        i++;
    return i;
}


static void
fake_note_request(struct fake *f, const kaws_request *q)
{
    size_t n = q->body.len;

    while (n > 0 && q->body.at[n - 1] == ' ')
        n--;
    f->requests++;
    f->calls[fake_action(q)]++;
    (void)snprintf(f->url, sizeof f->url, "%s", q->url);
    (void)snprintf(f->body, sizeof f->body, "%.*s", (int)n,
                   (const char *)q->body.at);
    (void)snprintf(f->authorization, sizeof f->authorization, "%s",
                   fake_header(q, "Authorization: "));
    f->timeout_ms = q->timeout_ms;
    f->connect_timeout_ms = q->connect_timeout_ms;
    f->fresh_connection = q->fresh_connection;
}


/* The first script that is for this action; all zeros: the truth is wanted. */
static void
fake_next_script(struct fake *f, const char *action, fake_script *out)
{
    fake_script *s = f->scripts;

    memset(out, 0, sizeof *out);
    for (; s < f->scripts + FAKE_SCRIPTS; s++) {
        if (s->times == 0 || (s->action != NULL &&
                              strcmp(s->action, action) != 0))
            continue;
        if (s->skip == 0) {
            s->times--;
            *out = *s;
            return;
        }
        s->skip--;
    }
}


/* The truth. Returns its HTTP status. */
static int
fake_answer(struct fake *f, fake_ask *ask, const kaws_request *q)
{
    memcpy(f->scratch, f->body, strlen(f->body) + 1);
    if (!f->canned)
        fake_check_signature(f, ask, q);
    fake_read(ask, f->scratch);
    if (f->canned)
        fake_canned(f, ask);
    else if (ask->error == NULL && ask->action <= FAKE_ENCRYPT)
        fake_do_seal(f, ask);
    else if (ask->error == NULL && ask->action <= FAKE_REENCRYPT)
        fake_do_open(f, ask);
    else if (ask->error == NULL && ask->action < FAKE_UNKNOWN)
        fake_do_key(f, ask);
    else
        fake_refuse(ask, "UnknownOperationException", "");
    if (ask->error != NULL) {
        ask->out.len = 0;
        fake_say(ask, "__type", ask->error);
        fake_say(ask, "message", ask->says);
    }
    kaws__buf_text(&ask->out, "}");
    return ask->error != NULL ? 400 : 200;
}


/* Bends the true reply as the script wants it. */
static void
fake_bend(const fake_script *s, kaws__buf *out, kaws_reply *r)
{
    kaws__buf bent = { .hooks = NULL };
    size_t from = s->from != NULL ? strlen(s->from) : 0, before;
    uint8_t *found = NULL;

    for (before = 0; from > 0 && before + from <= out->len; before++)
        if (found == NULL && memcmp(out->at + before, s->from, from) == 0)
            found = out->at + before;
    kaws__buf_init(&bent, &fake_plain);
    if (s->error != NULL) {
        kaws__buf_text(&bent, "{\"__type\":\"");
        kaws__buf_text(&bent, s->error);
        kaws__buf_text(&bent, "\",\"message\":\"as scripted\"}");
        r->http = 400;
    } else if (s->body != NULL) {
        kaws__buf_put(&bent, s->body,
                      s->body_len > 0 ? s->body_len : strlen(s->body));
    } else {
        before = found != NULL ? (size_t)(found - out->at) : out->len;
        kaws__buf_put(&bent, out->at, before);
        if (found != NULL) {
            kaws__buf_text(&bent, s->to);
            kaws__buf_put(&bent, found + from, out->len - before - from);
        }
    }
    kaws__buf_free(out);
    *out = bent;
    if (s->cut > 0 && s->cut < out->len)
        out->len = s->cut;
    if (s->http != 0)
        r->http = s->http;
    if (s->date != 0)
        r->date = s->date > 0 ? s->date : 0;
    r->retry_after_ms = s->retry_after_ms > 0 ? s->retry_after_ms : -1;
    if (s->no_reply != NULL || s->lost) {
        r->http = 0;
        (void)snprintf(r->text, sizeof r->text, "%s",
                       s->no_reply != NULL ? s->no_reply : "lost");
    }
}


/* Keeps the true reply for later, or gives what was kept instead of it. */
static void
fake_previous(struct fake *f, int action, int wanted, kaws__buf *out)
{
    uint8_t *before = f->previous[action];
    size_t len = f->previous_len[action];

    f->previous[action] = malloc(out->len + 1);
    if (f->previous[action] == NULL)
        abort();
    memcpy(f->previous[action], out->at, out->len);
    f->previous_len[action] = out->len;
    if (wanted && before != NULL) {
        kaws__buf_free(out);
        kaws__buf_put(out, before, len);
    }
    free(before);
}


static int
fake_send(void *ctx, const kaws_request *q, kaws_reply *r)
{
    struct fake *f = ctx;
    fake_script script;
    fake_ask ask = { .action = fake_action(q), .canned = f->canned };

    if (f->on_send != NULL)
        f->on_send(f, fake_actions[ask.action]);
    pthread_mutex_lock(&f->lock);
    fake_note_request(f, q);
    fake_next_script(f, fake_actions[ask.action], &script);
    kaws__buf_init(&ask.out, &fake_plain);
    r->http = 200;
    if (script.no_reply == NULL && script.error == NULL && script.body == NULL)
        r->http = fake_answer(f, &ask, q);
    if (ask.out.len > 0 && !f->canned)
        fake_previous(f, ask.action, script.previous, &ask.out);
    f->reply_len = ask.out.len;
    r->date = (f->now_ms + f->kms_ahead_ms) / 1000;
    (void)snprintf(r->request_id, sizeof r->request_id, "fake-%d",
                   script.same_id ? f->replies : ++f->replies);
    fake_bend(&script, &ask.out, r);
    pthread_mutex_unlock(&f->lock);
    r->body_len = ask.out.len;
    if (ask.out.len > 0 && ask.out.len <= r->body_max)
        memcpy(r->body, ask.out.at, ask.out.len);
    kaws__buf_free(&ask.out);
    return r->http == 0;
}


/* ---- all of it --------------------------------------------------------- */

/* Writes the conf file; lines end in '\n'. */
FAKE void
fake_write_conf(struct fake *f, const char *text)
{
    FILE *to = fopen(f->conf, "w");

    if (to == NULL || fputs(text, to) < 0 || fclose(to) != 0 ||
        chmod(f->conf, 0600) != 0)
        abort();
}


FAKE void
fake_init(struct fake *f)
{
    static const fake_key keys[] = {
        { .arn = FAKE_EAST, .alias = "alias/app" },
        { .arn = FAKE_EAST2, .alias = "alias/two" },
        { .arn = FAKE_WEST, .alias = "alias/app" }, { .arn = FAKE_FOREIGN }
    };
    const char *tmp = getenv("TMPDIR");
    unsigned n = 0;

    memset(f, 0, sizeof *f);
    pthread_mutex_init(&f->lock, NULL);
    pthread_mutex_init(&f->memory_lock, NULL);
    if (tmp == NULL)                      /* where syncs cost nothing         */
        tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    do {
        (void)snprintf(f->dir, sizeof f->dir, "%s/kaws-%ld-%u", tmp,
                       (long)getpid(), n++);
    } while (mkdir(f->dir, 0700) != 0 && errno == EEXIST);
    (void)snprintf(f->conf, sizeof f->conf, "%s/conf", f->dir);
    (void)snprintf(f->data, sizeof f->data, "%s/data", f->dir);
    fake_write_conf(f, FAKE_ID "\n" FAKE_SECRET "\n");
    (void)snprintf(f->id, sizeof f->id, FAKE_ID);
    (void)snprintf(f->secret, sizeof f->secret, FAKE_SECRET);
    f->account = FAKE_OWN;
    memcpy(f->keys, keys, sizeof keys);
    f->now_ms = 1795000000000;            /* 2026-11-18T11:06:40Z            */
    f->random_byte = -1;
    f->hooks = (kaws_hooks){
        .ctx = f, .memory = fake_memory, .now_ms = fake_now_ms,
        .ticks_ms = fake_ticks_ms, .sleep_ms = fake_sleep_ms,
        .random = fake_random, .send = fake_send, .log = fake_log
    };
}


FAKE kaws_config
fake_config(struct fake *f)
{
    return (kaws_config){ .data_file = f->data, .conf_file = f->conf,
                          .kms_key_id = FAKE_EAST, .hooks = f->hooks };
}


FAKE void
fake_push(struct fake *f, fake_script script)
{
    int i = 0;

    if (script.times == 0)
        script.times = 1;
    pthread_mutex_lock(&f->lock);
    while (i < FAKE_SCRIPTS && f->scripts[i].times != 0)
        i++;
    if (i == FAKE_SCRIPTS)
        abort();
    f->scripts[i] = script;
    pthread_mutex_unlock(&f->lock);
}


/* Calls of that action since the start. */
FAKE int
fake_calls(struct fake *f, const char *action)
{
    int i = 0;

    while (i < FAKE_UNKNOWN && strcmp(fake_actions[i], action) != 0)
        i++;
    return f->calls[i];
}


/* Removes the folder and what is in it: files, links, empty folders. */
FAKE void
fake_end(struct fake *f)
{
    DIR *dir = opendir(f->dir);
    struct dirent *entry;
    int action = 8;

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        char path[400];
        (void)snprintf(path, sizeof path, "%s/%s", f->dir, entry->d_name);
        if (unlink(path) != 0)
            (void)rmdir(path);
    }
    if (dir != NULL)
        closedir(dir);
    (void)rmdir(f->dir);
    free(f->log);
    while (action > 0)
        free(f->previous[--action]);
    pthread_mutex_destroy(&f->lock);
    pthread_mutex_destroy(&f->memory_lock);
}

#endif /* KAWS_FAKES_H */
