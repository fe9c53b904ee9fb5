/* Room kms, and the rooms above it: replies of KMS, through every function.
 *
 *     mkdir -p build/fuzz/corpus/reply
 *     clang -std=c99 -O1 -g -fsanitize=fuzzer,address,undefined \
 *         -fno-sanitize-recover=all -o build/fuzz/fuzz_reply \
 *         fuzz/fuzz_reply.c -l:libbearssl.a -lcurl -lpthread
 *     ASAN_OPTIONS=quarantine_size_mb=8 \
 *         build/fuzz/fuzz_reply -max_len=1500 -dict=fuzz/reply.dict \
 *         build/fuzz/corpus/reply fuzz/corpus/reply
 *
 * The input says which function is called, how the ring is set up, and whether
 * time alone bounds the attempts that KMS throttles (`timed`). It also
 * has the HTTP status, the header lines (up to a NUL) and the body of up to
 * three replies:
 *
 *     the first
 *     the later ones: with TWO, their body follows a byte 30; without it, they
 *         have the first one's body
 *     the proofs: with PROOF, a status, header lines, a body, and the choice of
 *         the proofs that are spoiled by them follow another byte 30; the other
 *         proofs are what an honest KMS says
 *
 * A model goes through the same replies, which it reads by judge.h. It says
 * whether the call succeeds, with what result, and after how many requests. If
 * the call fails, nothing has changed.
 */

#define FUZZ_HEADER_LINES

#include "unseen_begin.h"
#define DISK_CHEAP_PAGES
#include "../tests/fault/disk.h"
#include "unseen_end.h"
#include "fuzz.h"
#include "judge.h"
#include "unseen_begin.h"
#include "../tests/unit/fakes.h"
#include "unseen_end.h"

#include <regex.h>

enum { SILENT = 1, ALIAS = 2, LISTED = 4, LONG = 8, PROOF = 16, FAR = 32,
       THEN_SILENT = 64, TWO = 128 };

enum { GENERATE, STORE, FETCH, DATA_KEY, DATA_KEY_SEALED, ENCRYPT, DECRYPT,
       REENCRYPT, CHECK, ROTATE, REWRAP, USE_KEY, USE_REGION, REENCRYPT_SAME,
       CALLS };

enum { MOST = 80,                 /* requests of one call                     */
       MOST_TIMED = 400 };        /* if time alone bounds what is throttled   */

/* The key that is stored, and the one that a blob of FAKE_EAST opens to. */
#define MINE    "a key of my own"
#define MINE_64 "YSBrZXkgb2YgbXkgb3du"
#define KEPT    "0123456789abcdef0123456789abcdef"
#define KEPT_64 "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

typedef struct reply {
    int        http, silent, endless;
    kaws_reply head;              /* what the header lines say                */
    kaws_bytes body;
} reply;

typedef struct heard {            /* the request ids of the replies so far    */
    int  count;
    char ids[MOST_TIMED][128];    /* "us-east-1 1234"                         */
} heard;

static struct fake fake;
static disk_image  filled;        /* a keyring with the key "a", of 32 bytes  */
static kaws_sealed given;         /* a blob, for those who want one           */
static reply       replies[3];    /* the first, the later ones, the proofs    */
static unsigned    spoiled;       /* which proofs: a bit each, the last: more */
static int         how, the_call, timed, rotations, told_secret;


/* ---- what is in a reply ------------------------------------------------ */

enum { GENERATES, ENCRYPTS, REENCRYPTS, OPENS, ROTATES, DRY, DRY_ANEW, ASKS,
       SAYS, KINDS };

/* The members that we read in a reply; if there are none, it is not read. */
static const char *const wanted[KINDS][4] = {
    { "CiphertextBlob", "KeyId", "KeyMaterialId", "Plaintext" },
    { "CiphertextBlob", "KeyId", "KeyMaterialId", NULL },
    { "CiphertextBlob", "KeyId", "DestinationKeyMaterialId", "SourceKeyId" },
    { "Plaintext", "KeyId", NULL, NULL },
    { "KeyId", NULL, NULL, NULL },
    { NULL, NULL, NULL, NULL },
    { "Plaintext", "KeyId", NULL, NULL },
    { NULL, NULL, NULL, NULL },
    { "__type", "message", "Message", NULL }
};

typedef struct worth {
    judge   j;
    uint8_t text[24000], blob[20000], plain[20000];
    long    blob_len, plain_len;  /* of the first member, and of the fourth;
                                   * -1: not base64, or not there             */
} worth;


static int
is(kaws_bytes member, const char *text)
{
    return member.at != NULL && kaws__buf_same(member, kaws__buf_of(text));
}


/* Reads a body as one of that kind; returns 1 if it is an object, and its
 * wanted members are strings. */
static int
weigh(worth *x, kaws_bytes body, int kind)
{
    memset(&x->j, 0, sizeof x->j);
    memcpy(x->j.want, wanted[kind], sizeof wanted[kind]);
    x->blob_len = x->plain_len = -1;
    if (!judge_object(&x->j, body, x->text))
        return 0;
    if (x->j.found[0].at != NULL)
        x->blob_len = judge_base64(x->j.found[0], x->blob);
    if (x->j.found[3].at != NULL)
        x->plain_len = judge_base64(x->j.found[3], x->plain);
    return 1;
}


/* " AccessDenied " of "com.amazonaws.kms#AccessDeniedException:x"; else "". */
static void
error_type(const reply *r, char out[80])
{
    static worth x;
    kaws_bytes type, whole;
    size_t i;

    out[0] = '\0';
    if (r->endless || !weigh(&x, r->body, SAYS) || x.j.found[0].at == NULL)
        return;
    whole = type = fuzz_until(&x.j.found[0], ':');
    for (i = 0; i < whole.len; i++)
        if (whole.at[i] == '#') {
            type.at = whole.at + i + 1;
            type.len = whole.len - i - 1;
        }
    for (i = 0; i < type.len; i++)
        if ((type.at[i] | 32) < 'a' || (type.at[i] | 32) > 'z')
            return;
    type.len = type.len < 63 ? type.len : 63;
    if (type.len > 9 && memcmp(type.at + type.len - 9, "Exception", 9) == 0)
        type.len -= 9;
    if (type.len > 0)
        (void)snprintf(out, 80, " %.*s ", (int)type.len,
                       (const char *)type.at);
}


enum { LATER = 1, SLOWER = 2, CLOCK = 4, ALIVE = 8 };

typedef struct meaning {
    const char *of;               /* error types, or HTTP statuses            */
    kaws_status status;
    int         then;
} meaning;

static const meaning meanings[] = {
    { " Throttling Throttled RequestThrottled TooManyRequests SlowDown "
      "RequestLimitExceeded ProvisionedThroughputExceeded "
      "BandwidthLimitExceeded PriorRequestNotComplete 429 ",
      KAWS_THROTTLED, SLOWER },
    { " KMSInternal DependencyTimeout InternalFailure "
      "InternalServerError ServiceUnavailable RequestTimeout "
      "408 425 500 502 503 504 ", KAWS_SERVICE, LATER },
    { " KeyUnavailable ", KAWS_SERVICE, LATER | ALIVE },
    { " InvalidSignature SignatureDoesNotMatch RequestTimeTooSkewed "
      "RequestExpired RequestInTheFuture AuthFailure ",
      KAWS_CREDENTIALS, CLOCK },
    { " UnrecognizedClient InvalidClientTokenId ExpiredToken "
      "IncompleteSignature MissingAuthenticationToken OptInRequired ",
      KAWS_CREDENTIALS, 0 },
    { " LimitExceeded Conflict ", KAWS_SERVICE, 0 },
    { " AccessDenied NotAuthorized 401 403 ", KAWS_DENIED, 0 },
    { " NotFound InvalidArn Disabled KMSInvalidState InvalidKeyUsage "
      "UnsupportedOperation ", KAWS_KMS_KEY, 0 },
    { " InvalidCiphertext IncorrectKey ", KAWS_MISMATCH, 0 },
    { " Validation ", KAWS_ARGUMENT, 0 },
    { " DryRunOperation ", KAWS_OK, 0 }
};


/* What a reply with another status than 200 means. */
static meaning
refusal(const reply *r, int *typed)
{
    meaning unknown = { NULL, KAWS_REPLY, 0 };
    char of[80];
    size_t i;

    error_type(r, of);
    *typed = of[0] != '\0';
    if (!*typed)
        (void)snprintf(of, sizeof of, " %d ", r->http);
    for (i = 0; i < sizeof meanings / sizeof meanings[0]; i++)
        if (strstr(meanings[i].of, of) != NULL)
            return meanings[i];
    if (*typed && r->http >= 500) {
        unknown.status = KAWS_SERVICE;
        unknown.then = LATER;
    }
    return unknown;
}


/* ---- the world --------------------------------------------------------- */

/* The reply to the next request; NULL if it is a proof, answered honestly. */
static const reply *
next_reply(int asked[2], int proof)
{
    int n = asked[proof]++;

    if (!proof)
        return &replies[n > 0 && (how & TWO)];
    n = n < 7 ? n : 7;
    return (how & PROOF) && (spoiled >> n & 1) ? &replies[2] : NULL;
}


/* The request id of the n-th reply. One that begins with a plus differs each
 * time, as AWS's do. */
static void
request_id(const reply *r, int n, char out[64])
{
    if (r->head.request_id[0] == '+')
        (void)snprintf(out, 64, "%.40s-%d", r->head.request_id, n);
    else
        memcpy(out, r->head.request_id, 64);
}


/* Whether the n-th reply's id came from there before; remembers the id. */
static int
heard_again(heard *h, const char *from, const reply *r, int n)
{
    char id[128], name[64];
    size_t len = (size_t)snprintf(id, sizeof id, "%s ", from), i, before = len;

    request_id(r, n, name);
    for (i = 0; name[i] != '\0'; i++)
        if (name[i] == '-' || kaws__text_folded(name[i]))
            id[len++] = name[i];
    id[len] = '\0';
    for (i = 0; i < (size_t)h->count; i++)
        if (len > before && strcmp(h->ids[i], id) == 0)
            return 1;
    HOLDS(h->count < MOST_TIMED);
    memcpy(h->ids[h->count++], id, sizeof id);
    return 0;
}


static const char *
region(void)
{
    return (how & FAR) ? "us-west-2" : "us-east-1";
}


/* Whether the call decrypts an entry's blob to seal it in another region. */
static int
moves(void)
{
    return (how & FAR) && (the_call == REENCRYPT || the_call == REWRAP ||
                           the_call == REENCRYPT_SAME);
}


/* What the sender has seen of the call that is running. */
static struct {
    int        requests, asked[2], unclean;
    heard      heard;
    char       url[256];          /* of the last request                      */
    uint8_t    body[16384];       /* of the last request                      */
    size_t     body_len;
    const reply *sealed_by;       /* the reply with the last new blob         */
    char       context[1024];     /* that this blob must be bound to          */
} seen;


/* A proof is about the blob that was sealed last. But if a key moves to another
 * region, the blob that is decrypted is the old one. */
static void
check_proof(const kaws_request *q, int dry, kaws_bytes *key)
{
    static worth asked, told;
    static const char *const want[2] = { "CiphertextBlob", "KeyId" };

    memset(&asked.j, 0, sizeof asked.j);
    memcpy(asked.j.want, want, sizeof want);
    HOLDS(judge_object(&asked.j, q->body, asked.text));
    *key = asked.j.found[1];
    if (moves() && !dry) {
        HOLDS(is(*key, FAKE_EAST));
        return;
    }
    HOLDS(seen.sealed_by != NULL);
    HOLDS(weigh(&told, seen.sealed_by->body, ENCRYPTS));
    HOLDS(kaws__buf_same(*key, told.j.found[1]));
    HOLDS(kaws__buf_same(asked.j.found[0], told.j.found[0]));
    HOLDS(memmem(q->body.at, q->body.len, seen.context,
                 strlen(seen.context)) != NULL);
}


/* Keeps `EncryptionContext":{...}`, in which no name or value has a brace. */
static void
note_sealing(const kaws_request *q, const reply *r)
{
    static const char name[] = "EncryptionContext\":{";
    const uint8_t *at = memmem(q->body.at, q->body.len, name, strlen(name));
    kaws_bytes rest = { at, 0 };

    seen.sealed_by = r;
    seen.context[0] = '\0';
    if (at == NULL)
        return;
    rest.len = q->body.len - (size_t)(at - q->body.at);
    HOLDS(kaws__buf_copy_text(seen.context, sizeof seen.context,
                              fuzz_until(&rest, '}')));
}


/* A repeated request uses another connection, unless the reply to the first one
 * was KMS's own, and clean. */
static void
check_fresh(const kaws_request *q)
{
    if (seen.unclean && strcmp(q->url, seen.url) == 0 &&
        q->body.len == seen.body_len &&
        memcmp(q->body.at, seen.body, seen.body_len) == 0)
        HOLDS(q->fresh_connection);
    HOLDS(q->body.len <= sizeof seen.body);
    memcpy(seen.body, q->body.at, q->body.len);
    seen.body_len = q->body.len;
    (void)snprintf(seen.url, sizeof seen.url, "%s", q->url);
}


static int
is_unclean(const reply *r, int dry, int again)
{
    int typed;

    if (r->silent || r->http == 0 || r->endless || again)
        return 1;
    if (r->http == 200)
        return dry;
    (void)refusal(r, &typed);
    return !typed || r->http < 400 || r->http > 499 || r->http == 408 ||
           r->http == 425;
}


static void
be_honest(kaws_reply *r, int dry, kaws_bytes key)
{
    char *to = (char *)r->body;
    const char *plain = the_call == STORE ? MINE_64 : KEPT_64;

    r->http = dry ? 400 : 200;
    if (dry)
        (void)snprintf(to, r->body_max, "{\"__type\":\"%s\"}",
                       "com.amazonaws.kms#DryRunOperationException");
    else
        (void)snprintf(to, r->body_max, "{\"KeyId\":\"%.*s\","
                       "\"Plaintext\":\"%s\"}", (int)key.len,
                       (const char *)key.at, plain);
    r->body_len = strlen(to);
}


static int
lie(void *ctx, const kaws_request *q, kaws_reply *r)
{
    static const char dry_run[] = "\"DryRun\":true";
    int action = fake_action(q), proof, dry;
    kaws_bytes key = { NULL, 0 };
    const reply *told;

    (void)ctx;
    dry = memmem(q->body.at, q->body.len, dry_run, strlen(dry_run)) != NULL;
    HOLDS(!dry || action == FAKE_DECRYPT);
    proof = action == FAKE_DECRYPT && (dry || the_call == STORE || moves());
    HOLDS(q->timeout_ms >= 1 && q->timeout_ms <= 10000);
    HOLDS(q->fresh_connection || action != FAKE_ROTATE);
    check_fresh(q);
    if (proof)
        check_proof(q, dry, &key);
    fake_set_clock(&fake, seen.requests++ % 2 ? -7200000 : 7200000);
    rotations += action == FAKE_ROTATE;
    told = next_reply(seen.asked, proof);
    if (action <= FAKE_ENCRYPT || action == FAKE_REENCRYPT)
        note_sealing(q, told);
    seen.unclean = 0;
    if (told == NULL) {
        be_honest(r, dry, key);
        return 0;
    }
    *r = (kaws_reply){ .http = told->http, .body = r->body,
                       .body_len = told->body.len, .body_max = r->body_max,
                       .date = told->head.date,
                       .retry_after_ms = told->head.retry_after_ms };
    request_id(told, seen.requests, r->request_id);
    if (r->body_len > 0)
        memcpy(r->body, told->body.at, r->body_len);
    if (told->endless) {          /* blanks to the end of the array, and more */
        memset(r->body + r->body_len, ' ', r->body_max - r->body_len);
        r->body_len = r->body_max + 1;
    }
    seen.unclean = is_unclean(told, dry, !told->silent && told->http != 0 &&
                              heard_again(&seen.heard, q->url, told,
                                          seen.requests));
    if (told->silent)
        (void)snprintf(r->text, sizeof r->text, "no\nreply \xff");
    return told->silent;
}


static kaws_config
config(void)
{
    kaws_config cfg = fake_config(&fake);

    cfg.data_file = "/disk/data";
    cfg.conf_file = "/disk/conf";
    cfg.rewrap_parallel = 1;
    cfg.max_attempts = timed ? 0 : 3;
    cfg.region = region();
    if (how & ALIAS)
        cfg.kms_key_id = "alias/app";
    else if (how & FAR)
        cfg.kms_key_id = FAKE_WEST;
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


/* ---- the model: what must come of the replies -------------------------- */

typedef struct model {
    int   asked[2], requests;
    heard heard;
    int   waited_ms;              /* of this operation, at most               */
    int   unsure;                 /* it may have tried again, or not          */
    int   out;                    /* KMS does not answer: none is sent        */
    int   typed, honest, told;    /* the last reply: an error with a type; our
                                   * own; DryRunOperation, to a dry run       */
    int   refused;                /* and it was a 4xx                         */
    char  home[13];               /* the account that is trusted              */
    worth x, y;                   /* what the call must give; what else       */
} model;

static model m;


/* Reads one reply. `then`: what to do next if it is no success. */
static kaws_status
hear(worth *x, const reply *r, const char *from, int kind, int *then)
{
    int dry = kind == DRY || kind == DRY_ANEW;
    meaning means;

    m.typed = m.told = m.refused = *then = 0;
    m.honest = r == NULL;
    if (r == NULL) {
        m.told = dry;
        return KAWS_OK;
    }
    *then = LATER;
    if (r->silent || r->http == 0)
        return KAWS_NETWORK;
    if (heard_again(&m.heard, from, r, m.requests))
        return KAWS_REPLY;
    *then = 0;
    if (r->endless && r->http < 500)
        return KAWS_REPLY;
    if (r->http == 200)
        return wanted[kind][0] == NULL || weigh(x, r->body, kind)
             ? KAWS_OK : KAWS_REPLY;
    means = refusal(r, &m.typed);
    *then = means.then;
    m.refused = r->http / 100 == 4;
    m.told = means.status == KAWS_OK && dry && m.refused &&
             r->http != 408 && r->http != 425;
    if (means.status == KAWS_MISMATCH && kind != OPENS && kind != REENCRYPTS &&
        !dry)
        *then = 0;                /* it is the answer to another request      */
    return (means.status == KAWS_OK && !m.told) ||
           (means.status == KAWS_MISMATCH && kind != OPENS &&
            kind != REENCRYPTS && !dry) ? KAWS_REPLY : means.status;
}


/* Our pause is random, so this is the longest. */
static void
wait_for(const reply *r, int then, int attempt)
{
    int base = (then & SLOWER ? 1000 : 50) * attempt, most = base;
    int asked = r->head.retry_after_ms, own = asked < base ? asked : base;

    if (asked > 0 && own + (asked < 5000 ? asked : 5000) > base)
        most = own + (asked < 5000 ? asked : 5000);
    m.waited_ms += most;
    m.unsure |= m.waited_ms >= 10000;
}


/* Sends one request, and repeats it as often as that helps. */
static kaws_status
ask(worth *x, const char *from, int kind)
{
    int proof = kind == DRY || kind == DRY_ANEW ||
                (kind == OPENS && (the_call == STORE || moves()));
    int attempt = 1, mended = 0, vain = 1, then;
    const reply *r;
    kaws_status status;

    if (m.out)
        return KAWS_NETWORK;      /* no time has passed, so no probe is due   */
    for (;;) {
        r = next_reply(m.asked, proof);
        m.requests++;
        status = hear(x, r, from, kind, &then);
        if (kind == ROTATES)
            then &= SLOWER;
        if ((then & CLOCK) && !mended && r->head.date >= 1577836800 &&
            r->head.date < 4102444800) {
            mended = m.unsure = 1;        /* how far off it is, who knows?   */
            continue;
        }
        vain &= status == KAWS_NETWORK ||
                (status == KAWS_SERVICE && r->http >= 500 &&
                 !(then & ALIVE));
        if (timed && (then & SLOWER)) {   /* who knows how often?             */
            m.unsure = 1;
            return status;
        }
        if (!(then & (LATER | SLOWER)) || attempt == 3) {
            m.out = vain;
            return status;
        }
        wait_for(r, then, attempt++);
    }
}


static int
is_arn(kaws_bytes arn, const char *of)
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
           strncmp(text + 12, of, strlen(of)) == 0 &&
           text[12 + strlen(of)] == ':';
}


static int
is_trusted(const char *account)
{
    return strcmp(m.home, account) == 0 ||
           ((how & LISTED) && (strcmp(account, FAKE_OTHER) == 0 ||
                               strcmp(account, "777788889999") == 0));
}


/* If the KMS key is an alias, the first ARN that KMS names tells the own
 * account, if that account is listed. If none is listed, the entry in the file
 * must have that account. */
static int
learn(kaws_bytes arn)
{
    char account[13];
    int i;

    for (i = 0; i < 4; i++)
        (void)fuzz_until(&arn, ':');
    HOLDS(kaws__buf_copy_text(account, sizeof account, fuzz_until(&arn, ':')));
    if (m.home[0] == '\0' && ((how & LISTED) ? is_trusted(account)
                                             : strcmp(account, FAKE_OWN) == 0))
        memcpy(m.home, account, sizeof account);
    return is_trusted(account);
}


/* Gets a blob that the KMS key `arn` sealed; NULL: any one of the region. */
static kaws_status
seal(worth *x, int kind, const char *of, const char *arn)
{
    kaws_status status = ask(x, of, kind);

    if (status != KAWS_OK)
        return status;
    if (kind == REENCRYPTS && !is(x->j.found[3], FAKE_EAST))
        return KAWS_REPLY;
    if (x->blob_len < 1 || x->blob_len > 6144 ||
        !(arn != NULL ? is(x->j.found[1], arn) : is_arn(x->j.found[1], of)))
        return KAWS_REPLY;
    return learn(x->j.found[1]) ? KAWS_OK : KAWS_FOREIGN;
}


/* The same with the ring's KMS key, whose name may be an alias. */
static kaws_status
seal_here(worth *x, int kind)
{
    return seal(x, kind, region(), (how & ALIAS) ? NULL
                                 : (how & FAR) ? FAKE_WEST : FAKE_EAST);
}


/* The alias's account must be known before a blob is decrypted, unless accounts
 * are listed. */
static kaws_status
know_home(void)
{
    return m.home[0] != '\0' || (how & LISTED)
         ? KAWS_OK : seal_here(&m.y, GENERATES);
}


/* Decrypts an entry's blob of FAKE_EAST. Returns the key's length, or 0. */
static long
open_old(worth *x, uint8_t plain[KAWS_PLAIN_MAX])
{
    long len;

    if (!is_trusted(FAKE_OWN) || ask(x, "us-east-1", OPENS) != KAWS_OK)
        return 0;
    if (m.honest) {
        memcpy(plain, KEPT, strlen(KEPT));
        return (long)strlen(KEPT);
    }
    len = x->blob_len;
    if (!is(x->j.found[1], FAKE_EAST) || len < 1 || len > KAWS_PLAIN_MAX)
        return 0;
    memcpy(plain, x->blob, (size_t)len);
    return len;
}


/* The same for the caller. If the alias means the blob's KMS key, KMS says so
 * in the same reply. */
static long
open_for_caller(worth *x, uint8_t plain[KAWS_PLAIN_MAX])
{
    kaws_status status;

    if (m.home[0] == '\0' && !(how & (LISTED | FAR))) {
        status = ask(x, "us-east-1", OPENS);
        if (status == KAWS_OK && !is(x->j.found[1], FAKE_EAST))
            status = KAWS_MISMATCH;
        if (status == KAWS_OK && (x->blob_len < 1 ||
                                  x->blob_len > KAWS_PLAIN_MAX))
            return 0;
        if (status == KAWS_OK && (the_call != FETCH || x->blob_len == 32)) {
            memcpy(plain, x->blob, (size_t)x->blob_len);
            return x->blob_len;
        }
        if (status != KAWS_OK && status != KAWS_MISMATCH &&
            status != KAWS_DENIED && status != KAWS_KMS_KEY)
            return 0;
    }
    return know_home() == KAWS_OK ? open_old(x, plain) : 0;
}


/* Re-encrypts the blob under `arn`; NULL: under the ring's KMS key. */
static int
reseal(const char *arn)
{
    static uint8_t once[KAWS_PLAIN_MAX], twice[KAWS_PLAIN_MAX];
    long len;

    if (!moves())
        return is_trusted(FAKE_OWN) &&
               (arn != NULL ? seal(&m.x, REENCRYPTS, region(), arn)
                            : seal_here(&m.x, REENCRYPTS)) == KAWS_OK;
    len = open_old(&m.y, once);
    return (the_call == REWRAP ? len == 32 : len > 0) &&
           (arn != NULL ? seal(&m.x, ENCRYPTS, region(), arn)
                        : seal_here(&m.x, ENCRYPTS)) == KAWS_OK &&
           open_old(&m.y, twice) == len &&
           memcmp(once, twice, (size_t)len) == 0;
}


/* Whether KMS has said that the blob in x decrypts to `len` bytes. */
static int
proves(const worth *x, const char *of, long len)
{
    kaws_bytes arn = x->j.found[1];

    if (ask(&m.y, of, DRY) != KAWS_OK)
        return 0;
    if (m.told)
        return 1;
    return ask(&m.y, of, DRY_ANEW) == KAWS_OK &&
           (m.told || (m.y.j.found[1].at != NULL && m.y.blob_len == len &&
                       kaws__buf_same(m.y.j.found[1], arn)));
}


/* Whether the blob in m.x decrypts to the stored key, or we may not ask. */
static int
opens_to_mine(void)
{
    kaws_bytes arn = m.x.j.found[1];
    kaws_status status = ask(&m.y, region(), OPENS);

    if (status != KAWS_OK)
        return status == KAWS_DENIED && m.typed && m.refused;
    return m.honest || (m.y.j.found[1].at != NULL &&
                        kaws__buf_same(m.y.j.found[1], arn) &&
                        m.y.blob_len == (long)strlen(MINE) &&
                        memcmp(m.y.blob, MINE, strlen(MINE)) == 0);
}


/* The calls that need the ARN of the ring's KMS key first. */
static int
goes_on(int call)
{
    char arn[256];

    if (seal_here(&m.y, GENERATES) != KAWS_OK)
        return 0;
    HOLDS(kaws__buf_copy_text(arn, sizeof arn, m.y.j.found[1]));
    m.waited_ms = 0;              /* each step has a time of its own          */
    if (call == ROTATE)
        return ask(&m.y, region(), ROTATES) == KAWS_OK &&
               (is(m.y.j.found[0], arn) ||
                is(m.y.j.found[0], strchr(arn, '/') + 1));
    if (!reseal(arn))
        return 0;
    m.waited_ms = 0;
    return proves(&m.x, region(), 32);
}


static int
use(int call)
{
    kaws_status status;

    if (call == USE_KEY) {
        status = know_home();
        return (status == KAWS_OK || status == KAWS_KMS_KEY ||
                status == KAWS_DENIED) &&
               seal(&m.x, GENERATES, region(), NULL) == KAWS_OK &&
               proves(&m.x, region(), 1);
    }
    if (how & ALIAS)
        return seal(&m.x, GENERATES, "eu-west-1", NULL) == KAWS_OK &&
               proves(&m.x, "eu-west-1", 1);
    status = ask(&m.y, "eu-west-1", ASKS);
    return status == KAWS_OK ||
           (m.typed && (status == KAWS_DENIED || status == KAWS_KMS_KEY ||
                        status == KAWS_ARGUMENT));
}


/* Whether the call must succeed. m.x has the result that it must give. */
static int
must_succeed(int call)
{
    static uint8_t plain[KAWS_PLAIN_MAX];
    long len;

    m.asked[0] = m.asked[1] = m.requests = m.heard.count = 0;
    m.waited_ms = m.unsure = m.out = 0;
    (void)snprintf(m.home, sizeof m.home, "%s", (how & ALIAS) ? "" : FAKE_OWN);
    switch (call) {
    case GENERATE:
    case DATA_KEY_SEALED:
        return seal_here(&m.x, GENERATES) == KAWS_OK;
    case DATA_KEY:
        return seal_here(&m.x, GENERATES) == KAWS_OK && m.x.plain_len == 32;
    case CHECK:
        return seal_here(&m.x, GENERATES) == KAWS_OK &&
               proves(&m.x, region(), 1);
    case ENCRYPT:
        return seal_here(&m.x, ENCRYPTS) == KAWS_OK;
    case STORE:
        return seal_here(&m.x, ENCRYPTS) == KAWS_OK && opens_to_mine();
    case FETCH:
    case DECRYPT:
        len = open_for_caller(&m.x, plain);
        return call == FETCH ? len == 32 : len >= 1 && len <= 64;
    case REENCRYPT:
    case REENCRYPT_SAME:
        return know_home() == KAWS_OK && reseal(NULL);
    case ROTATE:
    case REWRAP:
        return goes_on(call);
    default:
        return use(call);
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


/* Checks that the entry is in the ring, sealed as the reply says. */
static void
check_entry(kaws *ring, const char *key_id, const worth *x)
{
    uint64_t hash;
    kaws__entry *e = kaws__table_find(&ring->vault.table, kaws__buf_of(key_id),
                                      kaws__buf_of(""), &hash);
    kaws__record r;
    kaws_sealed out;

    HOLDS(e != NULL);
    HOLDS(kaws__store_parse(kaws__table_record(e), &r) == NULL);
    memset(&out, 0, sizeof out);
    memcpy(out.blob, r.blob.at, r.blob.len);
    out.blob_len = r.blob.len;
    (void)kaws__buf_copy_text(out.kms_key_arn, sizeof out.kms_key_arn, r.arn);
    (void)kaws__buf_copy_text(out.key_material_id, sizeof out.key_material_id,
                              r.material);
    check_sealed(&out, x);
}


/* The four calls that need no data file. Compares their result with x; x is
 * NULL if there must be no result. */
static kaws_status
call_kms(kaws *ring, int call, kaws_bytes own, const worth *x, kaws_error *err)
{
    static const kaws_sealed nothing;
    uint8_t room[64], zeros[64] = { 0 };
    size_t len = call == DATA_KEY ? 32 : sizeof room, whole = len;
    kaws_sealed out = given;
    kaws_status status;

    memset(room, 0xa5, sizeof room);
    if (call == ENCRYPT)
        status = kaws_kms_encrypt(ring, NULL, own, &out, err);
    else if (call == DECRYPT)
        status = kaws_kms_decrypt(ring, NULL, &given, room, &len, err);
    else if (call == REENCRYPT || call == REENCRYPT_SAME)
        status = kaws_kms_reencrypt(ring, NULL, call == REENCRYPT ? &given
                                    : &out, &out, err);
    else
        status = kaws_kms_generate_data_key(ring, NULL, 32, call == DATA_KEY
                                            ? room : NULL, &out, err);
    if (status != KAWS_OK && (call == DATA_KEY || call == DECRYPT))
        HOLDS(memcmp(room, zeros, whole) == 0);
    if (status != KAWS_OK && call == DECRYPT)
        HOLDS(len == 0);
    else if (status != KAWS_OK)
        HOLDS(memcmp(&out, call == REENCRYPT_SAME ? &given : &nothing,
                     sizeof out) == 0);
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
    kaws_bytes own = kaws__buf_of(MINE);
    kaws_name a = { "a", NULL }, b = { "b", NULL };
    kaws_key key;
    kaws_status status;

    switch (call) {
    case GENERATE:
    case STORE:
        status = call == STORE ? kaws_store(ring, b, "AES", own, err)
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
        return call_kms(ring, call, own, x, err);
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
    if (!told_secret) {           /* else KMS says it                        */
        HOLDS(strstr(err->text, FAKE_SECRET) == NULL);
        HOLDS(fake.log == NULL || strstr(fake.log, FAKE_SECRET) == NULL);
    }
    fake_forget_log(&fake);
}


/* Checks what must be true of every call, besides what the model says. */
static void
check_after(kaws *ring, kaws_status status, const kaws__target *target,
            uint64_t before)
{
    int64_t took = fake.now_ms - fake.set_ms - 1795000000000;
    int steps = the_call == ROTATE ? 4 : the_call == REWRAP ? 3 : 1;

    HOLDS(took >= 0 && took <= steps * 10000 &&
          seen.requests <= (timed ? MOST_TIMED : MOST));
    HOLDS(rotations <= 1 || status == KAWS_THROTTLED);
    if (status != KAWS_OK || (the_call != GENERATE && the_call != STORE &&
                              the_call != REWRAP))
        HOLDS(disk_hash() == before);
    if (status != KAWS_OK)
        HOLDS(memcmp(target, &ring->kms.trust.now.target,
                     sizeof *target) == 0 &&
              strcmp(ring->kms.trust.now.region, region()) == 0);
}


static void
try_reply(int call)
{
    kaws_config cfg = config();
    int must = must_succeed(call);
    kaws_error err;
    kaws__target target;
    kaws_status status;
    uint64_t before;
    kaws *ring;

    memset(&seen.asked, 0, sizeof seen.asked);
    seen.requests = seen.unclean = seen.heard.count = rotations = 0;
    seen.sealed_by = NULL;
    seen.body_len = 0;
    fake.now_ms = 1795000000000;
    fake.set_ms = 0;
    fake.seed = (uint64_t)how;
    HOLDS(kaws_open(&ring, &cfg, &err) == KAWS_OK);
    before = disk_hash();
    target = ring->kms.trust.now.target;
    status = make_call(ring, call, must ? &m.x : NULL, &err);
    check_words(&err, status);
    check_after(ring, status, &target, before);
    HOLDS(must || status != KAWS_OK);
    if (!m.unsure) {
        HOLDS(!must || status == KAWS_OK);
        HOLDS(seen.requests == m.requests || (call == ROTATE && must));
    }
    kaws_close(ring);
    HOLDS(fake.live == 0 && fake.dirty == 0 && fake.misfreed == 0);
    HOLDS(disk.opened == 0);
    HOLDS(kaws_open(&ring, &cfg, &err) == KAWS_OK);
    HOLDS(ring->vault.table.count ==
          (status == KAWS_OK && call <= STORE ? 2 : 1));
    kaws_close(ring);
    fake_forget_log(&fake);
}


/* ---- the input --------------------------------------------------------- */

static const int statuses[] = { 400, 403, 500, 503, 429, 301, 204, 0,
                                408, 425 };


/* What the lines up to an empty one say of ETag, a header that is wanted. */
static void
check_etag(kaws_bytes lines, const kaws_header *etag)
{
    char value[2048] = "";
    int found = 0;

    while (lines.len > 0 && *lines.at != '\r') {
        kaws_bytes line = fuzz_until(&lines, '\n');
        char *text = calloc(1, line.len + 6), *at = text + 5;
        size_t n;
        HOLDS(text != NULL && line.len < sizeof value);
        if (line.len > 0)
            memcpy(text, line.at, line.len);
        if (strlen(text) > 5 && strncmp(text, "HTTP/", 5) == 0)
            found = 0;
        if (*text == ' ' || *text == '\t')
            found = -1;
        if (strncasecmp(text, "etag:", 5) == 0) {
            at += strspn(at, " \t\r");
            for (n = strlen(at); n > 0 && strchr(" \t\r", at[n - 1]); n--)
                at[n - 1] = '\0';
            found = found == 0 && n < 256 ? 1 : -1;
            for (n = 0; at[n] != '\0'; n++)
                if (at[n] < ' ' || at[n] > '~')
                    found = -1;
            (void)snprintf(value, sizeof value, "%s", at);
        }
        free(text);
    }
    HOLDS(etag->found == found);
    HOLDS(strcmp(etag->value, found == 1 ? value : "") == 0);
}


static void
read_headers(kaws_bytes lines, kaws_reply *head)
{
    kaws_header etag = { .name = "ETag" };
    const kaws_bytes all = lines;
    kaws__conn kept = { .told = 1 };      /* the log knows its TLS            */
    kaws__transfer t = { .r = head, .conn = &kept };

    memset(head, 0, sizeof *head);
    head->retry_after_ms = -1;
    head->headers = &etag;
    head->header_count = 1;
    while (lines.len > 0) {
        kaws_bytes line = fuzz_until(&lines, '\n');
        (void)kaws__curl_on_header((char *)line.at, 1, line.len, &t);
    }
    check_etag(all, &etag);
    head->headers = NULL;
}


static void
read_proofs(kaws_bytes *in)
{
    reply *r = &replies[2];
    int http;

    memset(r, 0, sizeof *r);
    spoiled = (unsigned)fuzz_number(in, 1);
    http = (int)fuzz_number(in, 1);
    r->endless = http >= 248;
    r->http = http < 128 || r->endless ? 200 : statuses[http % 10];
    read_headers(fuzz_until(in, 0), &r->head);
    r->body = *in;
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int begun;
    kaws_bytes in = { data, size };
    int http;

    if (size > 1500)
        return 0;
    how = 0;
    if (!begun)
        begin();
    begun = 1;
    told_secret = memmem(data, size, FAKE_SECRET, strlen(FAKE_SECRET)) != NULL;
    the_call = (int)fuzz_number(&in, 1);
    timed = the_call >= 10 * CALLS;
    the_call %= CALLS;
    how = (int)fuzz_number(&in, 1);
    http = (int)fuzz_number(&in, 1);
    replies[0].http = http < 128 ? 200 : statuses[http % 8];
    replies[0].silent = (how & SILENT) != 0;
    replies[0].endless = (how & LONG) != 0;
    read_headers(fuzz_until(&in, 0), &replies[0].head);
    replies[1] = replies[0];
    replies[1].http = http % 3 == 0 ? statuses[http / 3 % 8] : 200;
    replies[1].silent |= (how & THEN_SILENT) != 0;
    replies[0].body = (how & (TWO | PROOF)) ? fuzz_until(&in, 30) : in;
    if (how & TWO)
        replies[1].body = (how & PROOF) ? fuzz_until(&in, 30) : in;
    if (how & PROOF)
        read_proofs(&in);
    disk_copy(&disk.image, &filled);
    disk_restart();
    try_reply(the_call);
    return 0;
}
