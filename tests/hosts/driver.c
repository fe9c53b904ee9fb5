/* driver.c - the public API of keyring_aws.h as a program, for driver.py
 *
 *     cc -o driver driver.c -l:libbearssl.a -lcurl
 *
 * Reads commands from standard input, one a line, and answers each with a line:
 *
 *     ID COMMAND WORD...          is done at once
 *     ID & COMMAND WORD...        is done on a thread of its own
 *     ID - COMMAND WORD...        the same as the first, but gives no RESULT
 *
 *     ID MS STATUS HTTP OS AWS REQUEST-ID TEXT RESULT...
 *     log LEVEL TEXT              a log line, as it comes
 *
 * In a word, %XX stands for every byte that is not printable ASCII, and for %.
 * A word that is only % is empty; one that is only ~ is NULL. There is one ring
 * and one walk at a time. At the end of the input both are closed. If
 * KAWS_STACK is in the environment, threads get a stack of so many bytes.
 *
 * A command line is wiped before the answer, and no copy of it is made. So
 * after a command with - the driver itself has left no secret in the process's
 * memory, which tests/test_secrets.py searches.
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"

#define ARGS 64
#define PAIRS 8
#define LINE (1 << 17)

typedef struct arg {
    char  *at;                    /* NUL-terminated; NULL for ~               */
    size_t len;
} arg;

typedef struct job {              /* one command                              */
    char  *line;                  /* LINE bytes; the args point into it       */
    char   id[16];
    const struct command *command;
    arg    args[ARGS];
    size_t count;
    kaws_error  err;
    kaws_status status;
    FILE  *out;                   /* the results; NULL: they are not given    */
    int    quiet;
    kaws_pair pairs[PAIRS];
    kaws_context context;         /* of a KMS action                          */
} job;

typedef struct command {
    const char *name;
    size_t least, most;           /* number of arguments                      */
    kaws_status (*run)(job *j);
    int    silent;                /* it has no kaws_error                     */
} command;

static kaws *ring;
static kaws_walk *walk;
static pthread_mutex_t output = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t finished = PTHREAD_COND_INITIALIZER;
static int running;               /* jobs on threads; `output` guards it      */


/* ---- words ------------------------------------------------------------- */

static void
put_bytes(FILE *out, const void *data, size_t len)
{
    const uint8_t *at = data;
    size_t i;

    if (out == NULL)
        return;
    fputs(len == 0 ? " %" : " ", out);
    for (i = 0; i < len; i++)
        if (at[i] > 0x20 && at[i] < 0x7f && at[i] != '%' && at[i] != '~')
            fputc(at[i], out);
        else
            fprintf(out, "%%%02X", at[i]);
}


static void
put_text(FILE *out, const char *text)
{
    if (text != NULL)
        put_bytes(out, text, strlen(text));
    else if (out != NULL)
        fputs(" ~", out);
}


static void
put_number(FILE *out, uint64_t number)
{
    if (out != NULL)
        fprintf(out, " %llu", (unsigned long long)number);
}


/* Decodes a word in its place. */
static arg
take_word(char *word)
{
    arg a = { word, 0 };
    char *at = word;
    unsigned byte;

    if (strcmp(word, "~") == 0) {
        a.at = NULL;
        return a;
    }
    while (*at != '\0') {
        if (*at != '%') {
            word[a.len++] = *at++;
        } else if (strspn(at + 1, "0123456789ABCDEF") >= 2 &&
                   sscanf(at + 1, "%2x", &byte) == 1) {
            word[a.len++] = (char)byte;
            at += 3;
        } else {
            at++;
        }
    }
    word[a.len] = '\0';
    return a;
}


static long
number_of(const arg *a)
{
    return a->at != NULL ? strtol(a->at, NULL, 10) : 0;
}


#define TEXT(n)   j->args[n].at
#define NUMBER(n) number_of(&j->args[n])


static kaws_bytes
bytes_of(const arg *a)
{
    kaws_bytes bytes = { (const uint8_t *)a->at, a->len };

    return bytes;
}


static void
on_log(void *ctx, int level, const char *line)
{
    (void)ctx;
    pthread_mutex_lock(&output);
    fprintf(stdout, "log %d", level);
    put_text(stdout, line);
    fputc('\n', stdout);
    fflush(stdout);
    pthread_mutex_unlock(&output);
}


/* ---- life -------------------------------------------------------------- */

static int64_t later_ms;          /* these three by __atomic: see commands    */
static int cancelled, cancellable;


/* Its clock is ahead of the system's by as much as it was told to. */
static int64_t
ticks_ms(void *ctx)
{
    struct timespec t;

    (void)ctx;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000 +
           __atomic_load_n(&later_ms, __ATOMIC_SEQ_CST);
}


static int
ask_cancelled(void *ctx)
{
    (void)ctx;
    return __atomic_load_n(&cancelled, __ATOMIC_SEQ_CST);
}


/* NAME=VALUE... with the members of kaws_config; cancellable=1: the ring has
 * the hook, and the command `cancel` says what it answers. */
static kaws_status
run_open(job *j)
{
    kaws_config cfg;
    const struct { const char *name; const char **text; int *number; }
    members[] = {
        { "data_file=", &cfg.data_file, NULL },
        { "kms_key_id=", &cfg.kms_key_id, NULL },
        { "region=", &cfg.region, NULL },
        { "accounts=", &cfg.accounts, NULL },
        { "conf_file=", &cfg.conf_file, NULL },
        { "auth=", &cfg.auth, NULL },
        { "profile=", &cfg.profile, NULL },
        { "config_file=", &cfg.config_file, NULL },
        { "credentials_file=", &cfg.credentials_file, NULL },
        { "endpoint=", &cfg.endpoint, NULL },
        { "sts_endpoint=", &cfg.sts_endpoint, NULL },
        { "failover_regions=", &cfg.failover_regions, NULL },
        { "role_arn=", &cfg.role_arn, NULL },
        { "role_external_id=", &cfg.role_external_id, NULL },
        { "role_session_name=", &cfg.role_session_name, NULL },
        { "ca_file=", &cfg.ca_file, NULL },
        { "proxy=", &cfg.proxy, NULL },
        { "fips=", NULL, &cfg.fips },
        { "dualstack=", NULL, &cfg.dualstack },
        { "read_only=", NULL, &cfg.read_only },
        { "must_exist=", NULL, &cfg.must_exist },
        { "must_have_creds=", NULL, &cfg.must_have_creds },
        { "connect_timeout_ms=", NULL, &cfg.connect_timeout_ms },
        { "timeout_ms=", NULL, &cfg.timeout_ms },
        { "max_attempts=", NULL, &cfg.max_attempts },
        { "rewrap_parallel=", NULL, &cfg.rewrap_parallel },
        { "cache_seconds=", NULL, &cfg.cache_seconds },
        { "cancellable=", NULL, &cancellable }
    };
    size_t i, m;

    memset(&cfg, 0, sizeof cfg);
    cancellable = 0;
    cfg.hooks.log = on_log;
    cfg.hooks.ticks_ms = ticks_ms;
    for (i = 0; i < j->count; i++)
        for (m = 0; m < sizeof members / sizeof members[0]; m++) {
            const char *value = j->args[i].at;
            size_t n = strlen(members[m].name);
            if (strncmp(value, members[m].name, n) != 0)
                continue;
            if (members[m].text != NULL)
                *members[m].text = value + n;
            else
                *members[m].number = (int)strtol(value + n, NULL, 10);
        }
    cfg.hooks.cancelled = cancellable ? ask_cancelled : NULL;
    return kaws_open(&ring, &cfg, &j->err);
}


/* ---- keys -------------------------------------------------------------- */

static kaws_name
name_of(const job *j)
{
    kaws_name name;

    name.key_id = j->args[0].at;
    name.user_id = j->args[1].at;
    return name;
}


/* Gives TYPE BYTES, and whether the key was all zeros when given back. */
static kaws_status
run_fetch(job *j)
{
    static const kaws_key none;
    kaws_key key;
    kaws_status status = kaws_fetch(ring, name_of(j), &key, &j->err);

    if (status == KAWS_OK) {
        put_text(j->out, key.type);
        put_bytes(j->out, key.bytes, key.len);
        kaws_key_free(ring, &key);
    }
    put_number(j->out, memcmp(&key, &none, sizeof key) == 0);
    return status;
}


/* ---- walking ----------------------------------------------------------- */

/* KEY-ID USER-ID TYPE LENGTH ARN CREATED */
static void
put_entry(FILE *out, const kaws_entry_info *info)
{
    put_text(out, info->name.key_id);
    put_text(out, info->name.user_id);
    put_text(out, info->type);
    put_number(out, info->len);
    put_text(out, info->kms_key_arn);
    put_number(out, (uint64_t)info->created);
}


/* Gives all entries. */
static kaws_status
run_walk(job *j)
{
    kaws_walk *own;
    kaws_entry_info info;
    kaws_status status = kaws_walk_begin(ring, &own, &j->err);

    while (kaws_walk_next(own, &info))
        put_entry(j->out, &info);
    kaws_walk_end(own);
    return status;
}


/* Gives one entry, or nothing. */
static kaws_status
run_walk_next(job *j)
{
    kaws_entry_info info;

    if (kaws_walk_next(walk, &info))
        put_entry(j->out, &info);
    return KAWS_OK;
}


/* ---- figures ----------------------------------------------------------- */

/* Gives all figures, and the checksum's bytes. */
static kaws_status
run_stats(job *j)
{
    kaws_stats s;

    kaws_get_stats(ring, &s);
    put_number(j->out, s.keys);
    put_number(j->out, s.kms_requests);
    put_number(j->out, s.kms_errors);
    put_number(j->out, s.kms_retries);
    put_number(j->out, s.kms_time_us);
    put_number(j->out, s.cache_hits);
    put_number(j->out, s.rewrap_done);
    put_number(j->out, s.rewrap_total);
    put_number(j->out, s.failovers);
    put_bytes(j->out, s.checksum, sizeof s.checksum);
    put_text(j->out, s.region_in_use);
    return KAWS_OK;
}


/* Gives all of the identity, also if that is an error. */
static kaws_status
run_whoami(job *j)
{
    kaws_identity who;
    kaws_status status = kaws_whoami(ring, &who, &j->err);

    put_text(j->out, who.source);
    put_text(j->out, who.access_key_end);
    put_text(j->out, who.account);
    put_number(j->out, (uint64_t)who.expires);
    put_text(j->out, who.region);
    put_text(j->out, who.endpoint);
    return status;
}


/* ---- AWS KMS by itself: ... [NAME VALUE]... of the context ------------- */

static const kaws_context *
context_of(job *j, size_t from)
{
    size_t n = 0;

    for (; from + 1 < j->count && n < PAIRS; from += 2, n++) {
        j->pairs[n].name = j->args[from].at;
        j->pairs[n].value = j->args[from + 1].at;
    }
    j->context.pairs = j->pairs;
    j->context.count = n;
    return n > 0 ? &j->context : NULL;
}


/* Gives BLOB ARN MATERIAL, if there are any. */
static kaws_status
put_sealed(const job *j, kaws_status status, const kaws_sealed *sealed)
{
    if (status != KAWS_OK)
        return status;
    put_bytes(j->out, sealed->blob, sealed->blob_len);
    put_text(j->out, sealed->kms_key_arn);
    put_text(j->out, sealed->key_material_id);
    return KAWS_OK;
}


/* BLOB ARN */
static void
take_sealed(const job *j, kaws_sealed *sealed)
{
    const arg *blob = &j->args[0], *arn = &j->args[1];

    memset(sealed, 0, sizeof *sealed);
    if (blob->len > sizeof sealed->blob ||
        arn->len >= sizeof sealed->kms_key_arn)
        return;                           /* refused then: 0 bytes           */
    if (blob->at != NULL)
        memcpy(sealed->blob, blob->at, blob->len);
    sealed->blob_len = blob->len;
    if (arn->at != NULL)
        memcpy(sealed->kms_key_arn, arn->at, arn->len);
}


/* LENGTH WITH-PLAINTEXT ...; gives BLOB ARN MATERIAL [BYTES] */
static kaws_status
run_kms_generate(job *j)
{
    uint8_t plain[KAWS_GENERATE_MAX + 1];     /* a test asks for one too many */
    int with = NUMBER(1) != 0;
    size_t len = (size_t)NUMBER(0);
    kaws_sealed sealed;
    kaws_status status = kaws_kms_generate_data_key(
        ring, context_of(j, 2), len, with ? plain : NULL, &sealed, &j->err);

    (void)put_sealed(j, status, &sealed);
    if (status == KAWS_OK && with)
        put_bytes(j->out, plain, len);
    kaws_wipe(plain, sizeof plain);
    return status;
}


/* BYTES ...; gives BLOB ARN MATERIAL */
static kaws_status
run_kms_encrypt(job *j)
{
    kaws_sealed sealed;

    return put_sealed(j, kaws_kms_encrypt(ring, context_of(j, 1),
                                          bytes_of(&j->args[0]), &sealed,
                                          &j->err), &sealed);
}


/* BLOB ARN ROOM ...; gives BYTES */
static kaws_status
run_kms_decrypt(job *j)
{
    uint8_t plain[KAWS_PLAIN_MAX];
    size_t len = (size_t)NUMBER(2);
    kaws_sealed sealed;
    kaws_status status;

    take_sealed(j, &sealed);
    if (len > sizeof plain)
        len = sizeof plain;
    status = kaws_kms_decrypt(ring, context_of(j, 3), &sealed,
                              plain, &len, &j->err);
    if (status == KAWS_OK)
        put_bytes(j->out, plain, len);
    kaws_wipe(plain, sizeof plain);
    return status;
}


/* BLOB ARN ...; gives BLOB ARN MATERIAL */
static kaws_status
run_kms_reencrypt(job *j)
{
    kaws_sealed in, out;

    take_sealed(j, &in);
    return put_sealed(j, kaws_kms_reencrypt(ring, context_of(j, 2), &in, &out,
                                            &j->err), &out);
}


/* BLOB ARN MATERIAL; gives the packed BYTES */
static kaws_status
run_sealed_pack(job *j)
{
    uint8_t packed[KAWS_SEALED_PACKED_MAX];
    size_t len = sizeof packed;
    kaws_sealed sealed;
    kaws_status status;

    take_sealed(j, &sealed);
    (void)snprintf(sealed.key_material_id, sizeof sealed.key_material_id, "%s",
                   TEXT(2));
    status = kaws_sealed_pack(&sealed, packed, &len, &j->err);
    if (status == KAWS_OK)
        put_bytes(j->out, packed, len);
    return status;
}


/* BYTES; gives BLOB ARN MATERIAL */
static kaws_status
run_sealed_unpack(job *j)
{
    kaws_sealed sealed;

    return put_sealed(j, kaws_sealed_unpack(bytes_of(&j->args[0]), &sealed,
                                            &j->err), &sealed);
}


/* ---- the rest ---------------------------------------------------------- */

/* METHOD PATH QUERY REGION SERVICE BODY WHEN ID SECRET TOKEN PATH-AS-SENT
 * PAYLOAD TOKEN-UNSIGNED EXPIRES HEADER...; gives the Authorization header's
 * value or a presigned URL's query, the X-Amz-Date and the body's SHA-256. */
static kaws_status
run_sign(job *j)
{
    const char *headers[ARGS + 1];
    char out[4096], date[17], hash[65];
    kaws_signing what = {
        .method = TEXT(0), .path = TEXT(1), .query = TEXT(2),
        .region = TEXT(3), .service = TEXT(4), .headers = headers,
        .body = bytes_of(&j->args[5]), .when = NUMBER(6),
        .path_as_sent = (int)NUMBER(10), .payload = TEXT(11),
        .token_unsigned = (int)NUMBER(12), .expires = (int)NUMBER(13)
    };
    kaws_creds who = { TEXT(7), TEXT(8), TEXT(9) };
    kaws_status status;
    size_t i, n = 0;

    for (i = 14; i < j->count; i++)
        headers[n++] = j->args[i].at;
    headers[n] = NULL;
    status = kaws_sign(&what, who, out, sizeof out, &j->err);
    if (status == KAWS_OK) {
        put_text(j->out, out);
        put_text(j->out, kaws_amz_date(date, what.when));
        put_text(j->out, kaws_payload_sha256(hash, what.body));
    }
    kaws_wipe(out, sizeof out);
    return status;
}


/* Gives the version and the texts of all statuses. */
static kaws_status
run_texts(job *j)
{
    int i;

    put_text(j->out, kaws_version());
    for (i = 0; i < KAWS_STATUS_COUNT; i++)
        put_text(j->out, kaws_status_text((kaws_status)i));
    return KAWS_OK;
}


/* NAME, as texts show it. */
static kaws_status
run_show(job *j)
{
    char out[256];

    put_text(j->out, kaws_show(out, sizeof out, j->args[0].at));
    return KAWS_OK;
}


/* LINE, of a reply's head; gives the request id and the ETag that it has. */
static kaws_status
run_reply_line(job *j)
{
    kaws_header etag = { .name = "etag" };
    kaws_reply r = { .headers = &etag, .header_count = 1 };

    kaws_reply_line(&r, j->args[0].at, j->args[0].len);
    put_text(j->out, r.request_id);
    put_text(j->out, etag.value);
    return KAWS_OK;
}


/* BYTES; gives what wiping leaves of them. */
static kaws_status
run_wipe(job *j)
{
    kaws_wipe(j->args[0].at, j->args[0].len);
    put_bytes(j->out, j->args[0].at, j->args[0].len);
    return KAWS_OK;
}


/* [SECONDS], or as many as it takes for a host that did not answer to be tried
 * again. */
static kaws_status
run_later(job *j)
{
    int64_t ms = j->count > 0 ? NUMBER(0) * (int64_t)1000 : 10000;

    __atomic_add_fetch(&later_ms, ms, __ATOMIC_SEQ_CST);
    return KAWS_OK;
}


/* KEY-ID USER-ID, and then as for open. A forked child tries to fetch a key,
 * closes the ring, opens one of its own, and fetches the key. Gives the two
 * statuses of the fetches, as numbers, and how many ms it took to close. */
static kaws_status
run_child(job *j)
{
    job own = *j;
    uint8_t said[3] = { 0, 0, 0 };
    int64_t began;
    int ends[2];
    kaws_key key;
    pid_t pid;

    if (pipe(ends) != 0)
        abort();
    pthread_mutex_lock(&output);          /* the log, and stdout, are at rest */
    pid = fork();
    pthread_mutex_unlock(&output);
    if (pid == 0) {
        said[0] = (uint8_t)kaws_fetch(ring, name_of(j), &key, NULL);
        began = kaws__sys_ticks_ms(NULL);
        kaws_close(ring);
        began = kaws__sys_ticks_ms(NULL) - began;
        said[2] = (uint8_t)(began < 255 ? began : 255);
        memmove(own.args, own.args + 2, sizeof own.args - 2 * sizeof (arg));
        own.count -= 2;
        said[1] = (uint8_t)run_open(&own);
        if (said[1] == KAWS_OK)
            said[1] = (uint8_t)kaws_fetch(ring, name_of(j), &key, NULL);
        _exit(write(ends[1], said, sizeof said) != (ssize_t)sizeof said);
    }
    if (pid < 0 || read(ends[0], said, sizeof said) != (ssize_t)sizeof said ||
        waitpid(pid, NULL, 0) != pid)
        abort();
    close(ends[0]);
    close(ends[1]);
    put_number(j->out, said[0]);
    put_number(j->out, said[1]);
    put_number(j->out, said[2]);
    return KAWS_OK;
}


/* ---- what is one call --------------------------------------------------- */

/* X(command, arguments, silent, call); keys are KEY-ID USER-ID ... */
#define CALLS(X)                                                              \
    X(check, 0, 0, kaws_check(ring, &j->err))                                 \
    X(reload_creds, 0, 0, kaws_reload_creds(ring, &j->err))                   \
    X(refresh, 0, 0, kaws_refresh(ring, &j->err))                             \
    X(rotate, 0, 0, kaws_rotate_kms_key(ring, &j->err))                       \
    X(rewrap, 0, 0, kaws_rewrap_all(ring, &j->err))                           \
    X(remove, 2, 0, kaws_remove(ring, name_of(j), &j->err))                   \
    X(generate, 4, 0,                                                         \
      kaws_generate(ring, name_of(j), TEXT(2), (size_t)NUMBER(3), &j->err))   \
    X(store, 4, 0,                                                            \
      kaws_store(ring, name_of(j), TEXT(2), bytes_of(&j->args[3]), &j->err))  \
    X(use_kms_key, 1, 0, kaws_use_kms_key(ring, TEXT(0), &j->err))            \
    X(use_region, 1, 0, kaws_use_region(ring, TEXT(0), &j->err))              \
    X(use, 2, 0, kaws_use(ring, TEXT(0), TEXT(1), &j->err))                   \
    X(try, 2, 0, kaws_try(ring, TEXT(0), TEXT(1), &j->err))                   \
    X(could_use, 2, 0, kaws_could_use(ring, TEXT(0), TEXT(1), &j->err))       \
    X(walk_begin, 0, 0,                                                       \
      (kaws_walk_end(walk), kaws_walk_begin(ring, &walk, &j->err)))           \
    X(walk_end, 0, 1, (kaws_walk_end(walk), walk = NULL, KAWS_OK))            \
    X(close, 0, 1, (kaws_close(ring), ring = NULL, KAWS_OK))                  \
    X(cancel, 1, 1,                                                           \
      (__atomic_store_n(&cancelled, (int)NUMBER(0), __ATOMIC_SEQ_CST),        \
       KAWS_OK))                                                              \
    X(use_timeouts, 2, 1,                                                     \
      (kaws_use_timeouts(ring, (int)NUMBER(0), (int)NUMBER(1)), KAWS_OK))     \
    X(use_cache, 1, 1, (kaws_use_cache(ring, (int)NUMBER(0)), KAWS_OK))

#define X(name, count, silent, call)                                          \
    static kaws_status                                                        \
    run_##name(job *j)                                                        \
    {                                                                         \
        (void)j;                                                              \
        return call;                                                          \
    }
CALLS(X)
#undef X


static const command commands[] = {
#define X(name, count, silent, call)                                          \
    { #name, count, count, run_##name, silent },
    CALLS(X)
#undef X
    { "open", 0, ARGS, run_open, 0 },
    { "fetch", 2, 2, run_fetch, 0 },
    { "walk", 0, 0, run_walk, 0 },
    { "walk_next", 0, 0, run_walk_next, 1 },
    { "stats", 0, 0, run_stats, 1 },
    { "later", 0, 1, run_later, 1 },
    { "child", 2, ARGS, run_child, 1 },
    { "whoami", 0, 0, run_whoami, 0 },
    { "kms_generate", 2, ARGS, run_kms_generate, 0 },
    { "kms_encrypt", 1, ARGS, run_kms_encrypt, 0 },
    { "kms_decrypt", 3, ARGS, run_kms_decrypt, 0 },
    { "kms_reencrypt", 2, ARGS, run_kms_reencrypt, 0 },
    { "sealed_pack", 3, 3, run_sealed_pack, 0 },
    { "sealed_unpack", 1, 1, run_sealed_unpack, 0 },
    { "sign", 14, ARGS, run_sign, 0 },
    { "texts", 0, 0, run_texts, 1 },
    { "show", 1, 1, run_show, 1 },
    { "reply_line", 1, 1, run_reply_line, 1 },
    { "wipe", 1, 1, run_wipe, 1 }
};


/* ---- jobs -------------------------------------------------------------- */

static const char *
status_word(kaws_status status)
{
    static const char *const words[] = {
#define X(name, text) #name,
        KAWS_STATUSES(X)
#undef X
    };

    return words[status];
}


static void *
do_job(void *given)
{
    job *j = given;
    char *results = NULL;
    size_t len;
    int64_t began = kaws__sys_ticks_us(), took;

    j->out = j->quiet ? NULL : open_memstream(&results, &len);
    if (!j->command->silent)              /* it has to be filled or emptied  */
        memset(&j->err, 'x', sizeof j->err - 1);
    j->status = j->command->run(j);
    took = kaws__sys_ticks_us() - began;
    if (j->out != NULL)
        fclose(j->out);
    kaws_wipe(j->line, LINE);
    pthread_mutex_lock(&output);
    fprintf(stdout, "%s %.3f %s %d %d", j->id, (double)took / 1000,
            status_word(j->status), j->err.http, j->err.os);
    put_text(stdout, j->err.aws);
    put_text(stdout, j->err.request_id);
    put_text(stdout, j->err.text);
    fprintf(stdout, "%s\n", results != NULL ? results : "");
    fflush(stdout);
    pthread_mutex_unlock(&output);
    free(results);
    free(j->line);
    free(j);
    return NULL;
}


static void *
do_apart(void *given)
{
    do_job(given);
    pthread_mutex_lock(&output);
    running--;
    pthread_cond_signal(&finished);
    pthread_mutex_unlock(&output);
    return NULL;
}


static void
start_apart(job *j)
{
    const char *stack = getenv("KAWS_STACK");
    pthread_attr_t detached;
    pthread_t thread;

    pthread_mutex_lock(&output);
    running++;
    pthread_mutex_unlock(&output);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    if (stack != NULL &&
        pthread_attr_setstacksize(&detached, strtoul(stack, NULL, 10)) != 0)
        abort();
    if (pthread_create(&thread, &detached, do_apart, j) != 0)
        abort();
    pthread_attr_destroy(&detached);
}


/* Splits the line, which becomes the job's; NULL if it makes no sense. */
static job *
read_job(char *line, int *apart)
{
    job *j = calloc(1, sizeof *j);
    char *save = NULL, *word;
    size_t i;

    line[strcspn(line, "\n")] = '\0';
    j->line = line;
    (void)snprintf(j->id, sizeof j->id, "%s", strtok_r(line, " ", &save));
    word = strtok_r(NULL, " ", &save);
    *apart = word != NULL && strcmp(word, "&") == 0;
    j->quiet = word != NULL && strcmp(word, "-") == 0;
    if (*apart || j->quiet)
        word = strtok_r(NULL, " ", &save);
    for (i = 0; word != NULL && i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(word, commands[i].name) == 0)
            j->command = &commands[i];
    while (j->count < ARGS && (word = strtok_r(NULL, " ", &save)) != NULL)
        j->args[j->count++] = take_word(word);
    if (j->command != NULL && j->count >= j->command->least &&
        j->count <= j->command->most)
        return j;
    fprintf(stderr, "driver: no such command, or not so many words: %s\n",
            j->command != NULL ? j->command->name : "?");
    free(line);
    free(j);
    return NULL;
}


int
main(void)
{
    char *line;
    int apart;
    job *j;

    setvbuf(stdin, NULL, _IONBF, 0);
    while ((line = malloc(LINE)) != NULL && fgets(line, LINE, stdin) != NULL) {
        j = read_job(line, &apart);
        if (j == NULL)
            return 2;
        if (apart)
            start_apart(j);
        else
            do_job(j);
    }
    free(line);
    pthread_mutex_lock(&output);
    while (running > 0)
        pthread_cond_wait(&finished, &output);
    pthread_mutex_unlock(&output);
    kaws_walk_end(walk);
    kaws_close(ring);
    curl_global_cleanup();
    return 0;
}
