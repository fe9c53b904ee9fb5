/* bench.h - makes keyrings without a KMS: what micro.c and count.c share
 *
 * Includes the library's implementation. The library's own room store writes
 * keyrings of any size. Their blobs are as long as KMS's, but meaningless;
 * canned_kms.c does not look at them.
 */

#if !defined(BENCH_H)
#define BENCH_H

#define KEYRING_AWS_STATIC
#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"

#define BENCH_ARN "arn:aws:kms:us-east-1:111122223333:key/"                   \
                  "11111111-2222-3333-4444-555555555555"
#define BENCH_USER   "root@localhost"
#define BENCH_ID     "AKIDEXAMPLE"
#define BENCH_SECRET "not-a-real-secret/for-tests-only+0123456"
#define BENCH_SEALED 152          /* what KMS's sealing adds to a plaintext   */
#define BENCH_PLAIN   32

static const kaws_hooks bench_hooks = { .memory = kaws__mem_builtin };


static void
bench_must(int well, const char *what)
{
    if (well)
        return;
    fprintf(stderr, "bench: %s\n", what);
    exit(1);
}


static void
bench_name(char out[16], size_t n)
{
    (void)snprintf(out, 16, "bench-%07lu", (unsigned long)(n % 10000000));
}


/* What KMS would have answered. */
static void
bench_seal(kaws_sealed *s, size_t n)
{
    size_t i;

    memset(s, 0, sizeof *s);
    s->blob_len = BENCH_SEALED + BENCH_PLAIN;
    for (i = 0; i < s->blob_len; i++)
        s->blob[i] = (uint8_t)(n * 31 + i * 7);
    (void)snprintf(s->kms_key_arn, sizeof s->kms_key_arn, "%s", BENCH_ARN);
    memset(s->key_material_id, 'd', 64);
}


static void
bench_record(kaws__buf *out, size_t n)
{
    kaws_sealed s;
    kaws__record r;
    char name[16];

    bench_seal(&s, n);
    bench_name(name, n);
    memset(&r, 0, sizeof r);
    r.key_id = kaws__buf_of(name);
    r.user_id = kaws__buf_of(BENCH_USER);
    r.type = kaws__buf_of("AES");
    r.arn = kaws__buf_of(s.kms_key_arn);
    r.material = kaws__buf_of(s.key_material_id);
    r.blob.at = s.blob;
    r.blob.len = s.blob_len;
    r.plain_len = BENCH_PLAIN;
    r.created = 1790000000;
    kaws__store_record(out, &r);
}


/* Writes a data file of `count` keys. */
static void
bench_make(const char *path, size_t count)
{
    const uint8_t id[16] = { 'b', 'e', 'n', 'c', 'h' };
    uint8_t header[KAWS__STORE_HEADER], digest[32];
    kaws__sha256 state;
    kaws__buf record;
    FILE *file = fopen(path, "wb");
    size_t i;
    long size;

    bench_must(file != NULL, path);
    kaws__buf_init(&record, &bench_hooks);
    kaws__store_header(header, &state, id, 0, 0);
    fwrite(header, 1, sizeof header, file);
    for (i = 0; i < count; i++) {
        record.len = 0;
        bench_record(&record, i);
        kaws__store_digest(&state, kaws__buf_view(&record), digest);
        fwrite(record.at, 1, record.len, file);
        fwrite(digest, 1, sizeof digest, file);
    }
    size = ftell(file);
    kaws__store_header(header, &state, id, 0, (uint64_t)size);
    rewind(file);
    fwrite(header, 1, sizeof header, file);
    bench_must(!ferror(file) && fclose(file) == 0, path);
    kaws__buf_free(&record);
}


/* Opens a data file, with a conf file beside it; `url` is the KMS, or NULL with
 * a `send` hook. */
static kaws *
bench_open(const char *dir, const char *data, const char *url,
           const kaws_hooks *hooks, int parallel)
{
    kaws_config cfg;
    kaws_error err;
    char conf[512];
    FILE *file;
    kaws *ring;

    (void)snprintf(conf, sizeof conf, "%s/conf", dir);
    file = fopen(conf, "w");
    bench_must(file != NULL, conf);
    fprintf(file, "%s\n%s\n", BENCH_ID, BENCH_SECRET);
    bench_must(fclose(file) == 0, conf);
    memset(&cfg, 0, sizeof cfg);
    cfg.data_file = data;
    cfg.conf_file = conf;
    cfg.kms_key_id = BENCH_ARN;
    cfg.endpoint = url;
    cfg.rewrap_parallel = parallel;
    cfg.timeout_ms = 60000;
    cfg.hooks = hooks != NULL ? *hooks : cfg.hooks;
    bench_must(kaws_open(&ring, &cfg, &err) == KAWS_OK, err.text);
    return ring;
}


/* The durable part of a store, KMS's answer being there already. */
static void
bench_commit(kaws *ring, size_t n, const kaws_sealed *sealed)
{
    kaws__record key;
    kaws_error err;
    char name[16];

    bench_name(name, n);
    memset(&key, 0, sizeof key);
    key.key_id = kaws__buf_of(name);
    key.user_id = kaws__buf_of(BENCH_USER);
    key.type = kaws__buf_of("AES");
    key.plain_len = BENCH_PLAIN;
    bench_must(kaws__vault_add(&ring->vault, &key, sealed, &err) == KAWS_OK,
               err.text);
}


/* A reply of KMS with all that may be asked of one. */
static size_t
bench_reply(char *out, size_t cap, size_t blob)
{
    static uint8_t bytes[6144];
    kaws__buf buf;
    kaws_bytes view = { bytes, blob };
    size_t len;

    memset(bytes, 0x5a, sizeof bytes);
    kaws__buf_init(&buf, &bench_hooks);
    kaws__json_begin(&buf);
    kaws__json_name(&buf, "CiphertextBlob");
    kaws__json_base64(&buf, view);
    kaws__json_name(&buf, "KeyId");
    kaws__json_string(&buf, kaws__buf_of(BENCH_ARN));
    kaws__json_name(&buf, "KeyMaterialId");
    kaws__json_string(&buf, kaws__buf_of(
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"));
    kaws__json_name(&buf, "Plaintext");
    view.len = BENCH_PLAIN;
    kaws__json_base64(&buf, view);
    kaws__json_end(&buf);
    len = buf.len;
    bench_must(len < cap, "a reply is too long");
    memcpy(out, buf.at, len);
    out[len] = '\0';
    kaws__buf_free(&buf);
    return len;
}



/* ---- pieces of work ------------------------------------------------------ */

static void
bench_fetch(kaws *ring, size_t n)
{
    kaws_error err;
    kaws_key key;
    char name[16];
    kaws_name who = { name, BENCH_USER };

    bench_name(name, n);
    bench_must(kaws_fetch(ring, who, &key, &err) == KAWS_OK, err.text);
    kaws_key_free(ring, &key);
}


/* The three members that a data key's reply is asked for: their lengths. */
static size_t
bench_json(char *reply, size_t len)
{
    kaws__member want[] = { { .name = "CiphertextBlob" },
                            { .name = "Plaintext" },
                            { .name = "KeyId" } };
    size_t offset;

    bench_must(kaws__json_read((uint8_t *)reply, len, want, 3, &offset) ==
               NULL, "a reply cannot be read");
    return want[0].value.len + want[1].value.len + want[2].value.len;
}


/* A POST to KMS that is to be signed, and the key of the day. */
static void
bench_signing(kaws_signing *what, kaws__mac_key *key,
              const char *const *headers, const void *body, size_t len)
{
    memset(what, 0, sizeof *what);
    what->method = "POST";
    what->path = "/";
    what->region = "us-east-1";
    what->service = "kms";
    what->headers = headers;
    what->body.at = body;
    what->body.len = len;
    what->when = 1790000000;
    kaws__sigv4_key(key, BENCH_SECRET, "20260921", what->region,
                    what->service);
}


/* What the library does for each request. */
static void
bench_sign(const kaws_signing *what, const kaws__mac_key *key)
{
    const kaws_creds who = { BENCH_ID, NULL, NULL };
    char out[512];

    bench_must(kaws__sigv4_authorize(what, who, key, out, sizeof out) == NULL,
               "cannot sign");
}

#endif
