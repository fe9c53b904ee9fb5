/* micro.c - what is measured inside one process
 *
 *     micro WHAT [ARGUMENT...]
 *
 * prints lines "name value", one for each round; bench.py takes their medians.
 * Whatever is compared takes turns in the same process, round by round, so that
 * a busy machine disturbs both sides alike.
 */

#include "bench.h"
#include "peers.h"

#include <sys/inotify.h>

static volatile size_t sink;      /* keeps results from being optimised away  */


/* ---- allocations of this file and the library, counted ----------------- */

static size_t allocations;

void *__real_malloc(size_t len);
void *__real_calloc(size_t count, size_t len);
void *__real_realloc(void *ptr, size_t len);
void *__wrap_malloc(size_t len);
void *__wrap_calloc(size_t count, size_t len);
void *__wrap_realloc(void *ptr, size_t len);


void *
__wrap_malloc(size_t len)
{
    __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
    return __real_malloc(len);
}


void *
__wrap_calloc(size_t count, size_t len)
{
    __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
    return __real_calloc(count, len);
}


void *
__wrap_realloc(void *ptr, size_t len)
{
    __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
    return __real_realloc(ptr, len);
}


/* ---- clocks, and what is said ------------------------------------------ */


static double
clock_us(clockid_t which)
{
    struct timespec t;

    clock_gettime(which, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}


static double
wall_us(void)
{
    return clock_us(CLOCK_MONOTONIC);
}


static double
cpu_us(void)
{
    return clock_us(CLOCK_THREAD_CPUTIME_ID);
}


static void
say(const char *name, double value)
{
    printf("%s %.4f\n", name, value);
}


static void
say_n(const char *name, size_t n, double value)
{
    printf("%s.%lu %.4f\n", name, (unsigned long)n, value);
}


static size_t
number(const char *text)
{
    return (size_t)strtoul(text, NULL, 10);
}


static const char *
path_of(char out[512], const char *dir, const char *name, size_t n)
{
    (void)snprintf(out, 512, "%s/%s-%lu", dir, name, (unsigned long)n);
    return out;
}


/* ---- commit DIR ROUNDS COUNT... ---------------------------------------- */

/* Ours, and the limit: the same bytes at the end of a file of the same size,
 * kept open, with one write and one fdatasync. */
static void
commit(const char *dir, size_t rounds, char **counts, size_t sizes)
{
    kaws *ring[8];
    int fd[8];
    uint64_t end[8];
    char path[512];
    kaws_sealed sealed;
    kaws__buf record;
    size_t r, s, done;
    double t;

    bench_must(sizes <= 8, "too many sizes");
    bench_seal(&sealed, 7);
    for (s = 0; s < sizes; s++) {
        bench_make(path_of(path, dir, "commit", number(counts[s])),
                   number(counts[s]));
        ring[s] = bench_open(dir, path, "http://127.0.0.1:9", NULL, 0);
        bench_make(path_of(path, dir, "limit", number(counts[s])),
                   number(counts[s]));
        bench_must(kaws__disk_open(path, KAWS__WRITE, &fd[s]) == 0, path);
        end[s] = (uint64_t)lseek(fd[s], 0, SEEK_END);
    }
    sync();
    kaws__buf_init(&record, &ring[0]->hooks);
    bench_record(&record, 0);
    memset(kaws__buf_grow(&record, 32), 0, 32);
    for (r = 0; r < rounds; r++) {
        for (s = 0; s < sizes; s++) {
            t = wall_us();
            bench_commit(ring[s], 1000000 + r, &sealed);
            say_n("ours", number(counts[s]), wall_us() - t);
            t = wall_us();
            bench_must(kaws__disk_write_at(fd[s], end[s], record.at,
                                           record.len, &done) == 0 &&
                       fdatasync(fd[s]) == 0, "cannot write");
            say_n("limit", number(counts[s]), wall_us() - t);
            end[s] += record.len;
        }
    }
    kaws__buf_free(&record);
    for (s = 0; s < sizes; s++)
        kaws_close(ring[s]);
}


/* ---- a request as the library sends it --------------------------------- */

typedef struct caught {           /* what the `send` hook saw                 */
    char   lines[8][512];
    const char *headers[9];
    char   body[16384];
    size_t body_len;
} caught;


static int
catch_send(void *ctx, const kaws_request *q, kaws_reply *r)
{
    caught *c = ctx;
    size_t i;

    (void)r;
    for (i = 0; q->headers[i] != NULL; i++) {
        (void)snprintf(c->lines[i], sizeof c->lines[i], "%s", q->headers[i]);
        c->headers[i] = c->lines[i];
    }
    c->headers[i] = NULL;
    memcpy(c->body, q->body.at, q->body.len);
    c->body_len = q->body.len;
    return 1;
}


/* The request of a fetch, Authorization being its last header. */
static void
catch_fetch(caught *c, const char *dir, const char *data, const char *url)
{
    kaws_hooks hooks;
    kaws_config cfg;
    kaws_error err;
    kaws_key key;
    kaws *ring;
    char conf[512], name[16];
    kaws_name who = { name, BENCH_USER };

    memset(c, 0, sizeof *c);
    memset(&hooks, 0, sizeof hooks);
    memset(&cfg, 0, sizeof cfg);
    bench_conf(conf, dir);
    bench_name(name, 0);
    cfg.data_file = data;
    cfg.conf_file = conf;
    cfg.kms_key_id = BENCH_ARN;
    cfg.endpoint = url;
    cfg.max_attempts = 1;
    cfg.hooks.ctx = c;
    cfg.hooks.send = catch_send;
    bench_must(kaws_open(&ring, &cfg, &err) == KAWS_OK, err.text);
    (void)kaws_fetch(ring, who, &key, &err);
    kaws_close(ring);
    bench_must(c->body_len > 0, "no request was caught");
}


static void
fetch_one(kaws *ring, size_t n)
{
    kaws_error err;
    kaws_key key;
    char name[16];
    kaws_name who = { name, BENCH_USER };

    bench_name(name, n);
    bench_must(kaws_fetch(ring, who, &key, &err) == KAWS_OK, err.text);
    kaws_key_free(ring, &key);
}


/* ---- fetch DIR URL URL_5MS ROUNDS -------------------------------------- */

static void
fetch_batch(kaws *ring, peer_post *bare, size_t times, int warm)
{
    const char *who = ring != NULL ? "ours" : "bare";
    double t = cpu_us(), w = wall_us();
    size_t i;

    for (i = 0; i < times; i++) {
        if (ring != NULL)
            fetch_one(ring, i % 1000);
        else
            bench_must(peer_post_send(bare) > 0, "a POST failed");
    }
    if (warm) {
        printf("%s_cpu %.4f\n", who, (cpu_us() - t) / (double)times);
        printf("%s_wall %.4f\n", who, (wall_us() - w) / (double)times);
    }
}


static void
fetch(const char *dir, const char *fast, const char *slow, size_t rounds)
{
    char path[512];
    kaws *ring, *ring_slow;
    peer_post *bare, *bare_slow;
    caught c;
    size_t r;
    double w;

    bench_make(path_of(path, dir, "fetch", 1000), 1000);
    catch_fetch(&c, dir, path, fast);
    ring = bench_open(dir, path, fast, NULL, 0);
    bare = peer_post_open(fast, c.headers, c.body, c.body_len, NULL, NULL);
    for (r = 0; r < rounds + 1; r++) {
        fetch_batch(ring, NULL, 200, r > 0);
        fetch_batch(NULL, bare, 200, r > 0);
    }
    bench_make(path_of(path, dir, "fetch", 1001), 1000);
    ring_slow = bench_open(dir, path, slow, NULL, 0);
    bare_slow = peer_post_open(slow, c.headers, c.body, c.body_len, NULL,
                               NULL);
    for (r = 0; r < rounds * 10; r++) {
        w = wall_us();
        fetch_one(ring_slow, r % 1000);
        say("ours_slow", wall_us() - w);
        w = wall_us();
        bench_must(peer_post_send(bare_slow) > 0, "a POST failed");
        say("bare_slow", wall_us() - w);
    }
    peer_post_close(bare);
    peer_post_close(bare_slow);
    kaws_close(ring);
    kaws_close(ring_slow);
}


/* ---- threads DIR URL ROUNDS CALLS -------------------------------------- */

#define CROWD 16

typedef struct crowd {            /* sixteen that do the same at once         */
    pthread_barrier_t start;
    kaws *ring;                   /* ours, or with NULL the bare handles      */
    peer_post *bare[CROWD];
    size_t calls;
    int next;
} crowd;


static void *
crowd_one(void *arg)
{
    crowd *c = arg;
    int me = __atomic_fetch_add(&c->next, 1, __ATOMIC_RELAXED);
    size_t i;

    pthread_barrier_wait(&c->start);
    for (i = 0; i < c->calls; i++) {
        if (c->ring != NULL)
            fetch_one(c->ring, i % 1000);
        else
            bench_must(peer_post_send(c->bare[me]) > 0, "a POST failed");
    }
    return NULL;
}


/* Calls a second. */
static double
crowd_run(crowd *c, kaws *ring, size_t calls)
{
    pthread_t thread[CROWD];
    double t;
    int i;

    c->ring = ring;
    c->calls = calls;
    c->next = 0;
    pthread_barrier_init(&c->start, NULL, CROWD + 1);
    for (i = 0; i < CROWD; i++)
        bench_must(pthread_create(&thread[i], NULL, crowd_one, c) == 0,
                   "no thread");
    pthread_barrier_wait(&c->start);
    t = wall_us();
    for (i = 0; i < CROWD; i++)
        pthread_join(thread[i], NULL);
    t = wall_us() - t;
    pthread_barrier_destroy(&c->start);
    return (double)calls * CROWD / t * 1e6;
}


/* After the first round, all connections are there: "warm" is when bench.py
 * asks the server for the number of them, and "end" when it asks again. */
static void
threads(const char *dir, const char *url, size_t rounds, size_t calls)
{
    char path[512], line[8];
    caught c;
    crowd all;
    kaws *ring;
    size_t r;
    int i;

    bench_make(path_of(path, dir, "threads", 1000), 1000);
    catch_fetch(&c, dir, path, url);
    ring = bench_open(dir, path, url, NULL, 0);
    memset(&all, 0, sizeof all);
    for (i = 0; i < CROWD; i++)
        all.bare[i] = peer_post_open(url, c.headers, c.body, c.body_len, NULL,
                                     NULL);
    (void)crowd_run(&all, ring, calls);
    (void)crowd_run(&all, NULL, calls);
    printf("warm 1\n");
    fflush(stdout);
    bench_must(fgets(line, sizeof line, stdin) != NULL, "nobody listens");
    for (r = 0; r < rounds; r++) {
        say("ours", crowd_run(&all, ring, calls));
        say("bare", crowd_run(&all, NULL, calls));
    }
    printf("end 1\n");
    fflush(stdout);
    bench_must(fgets(line, sizeof line, stdin) != NULL, "nobody listens");
    for (i = 0; i < CROWD; i++)
        peer_post_close(all.bare[i]);
    kaws_close(ring);
}


/* ---- sign DIR URL ROUNDS ----------------------------------------------- */

static void
length_of(void *to, const void *data, size_t len)
{
    size_t *sum = to;

    (void)data;
    *sum += len;
}


/* SHA-256 blocks of a message of that length. */
static size_t
blocks_of(size_t len)
{
    return (len + 9 + 63) / 64;
}


/* How many blocks a signature cannot do without: the body, the canonical
 * request, and the HMAC of the string to sign, whose two pads and whose outer
 * digest are a block each. */
static size_t
blocks_to_sign(kaws__sigv4 *s, size_t body)
{
    size_t request = 0, text = 0;
    kaws__sink count = { length_of, NULL };

    count.to = &request;
    bench_must(kaws__sigv4_canonical_request(s, &count), "no request");
    count.to = &text;
    kaws__sigv4_string_to_sign(s, "0123456789abcdef0123456789abcdef"
                               "0123456789abcdef0123456789abcdef", &count);
    return blocks_of(body) + blocks_of(request) + 2 + blocks_of(text) + 1;
}


static double
hash_blocks(size_t blocks, size_t times)
{
    static uint8_t data[65536];
    kaws__sha256 hash;
    double t = cpu_us();
    size_t i;

    bench_must(blocks * 64 <= sizeof data, "too many blocks");
    for (i = 0; i < times; i++) {
        kaws__crypto_init(&hash);
        kaws__crypto_update(&hash, data, blocks * 64);
        sink += hash.br.val[0];
    }
    return (cpu_us() - t) / (double)times;
}


/* What the library itself does for each request, the key of the day being
 * there; and with `key` NULL all that kaws_sign() does. */
static double
sign_ours(const kaws_signing *what, const kaws__mac_key *key, size_t times)
{
    const kaws_creds who = { BENCH_ID, BENCH_SECRET, NULL };
    char out[512];
    kaws__sigv4 s;
    size_t i;
    double t = cpu_us();

    for (i = 0; i < times && key != NULL; i++)
        bench_must(kaws__sigv4_gather(&s, what, NULL) &&
                   kaws__sigv4_authorize(&s, who.id, key, out, sizeof out) ==
                   NULL, "cannot sign");
    for (; i < times; i++)
        bench_must(kaws_sign(what, who, out, sizeof out, NULL) == KAWS_OK,
                   "cannot sign");
    return (cpu_us() - t) / (double)times;
}


static double
posts(peer_post *post, size_t times)
{
    double t = cpu_us();
    size_t i;

    for (i = 0; i < times; i++)
        bench_must(peer_post_send(post) > 0, "a POST failed");
    return (cpu_us() - t) / (double)times;
}


static void
sign(const char *dir, const char *url, size_t rounds)
{
    char path[512];
    kaws__mac_key key;
    kaws__sigv4 s;
    kaws_signing what;
    caught c;
    peer_post *plain, *signing;
    size_t r, blocks, last = 0;

    bench_make(path_of(path, dir, "sign", 1), 1);
    catch_fetch(&c, dir, path, url);
    while (c.headers[last + 1] != NULL)
        last++;
    c.headers[last] = NULL;               /* Authorization                   */
    memset(&what, 0, sizeof what);
    what.method = "POST";
    what.path = "/";
    what.region = "us-east-1";
    what.service = "kms";
    what.headers = c.headers;
    what.body.at = (const uint8_t *)c.body;
    what.body.len = c.body_len;
    what.when = 1790000000;
    bench_must(kaws__sigv4_gather(&s, &what, NULL) &&
               kaws__sigv4_key(&key, BENCH_SECRET, s.date, what.region,
                               what.service), "cannot gather");
    blocks = blocks_to_sign(&s, c.body_len);
    say("blocks", (double)blocks);
    plain = peer_post_open(url, c.headers, c.body, c.body_len, NULL, NULL);
    signing = peer_post_open(url, c.headers, c.body, c.body_len,
                             "aws:amz:us-east-1:kms",
                             BENCH_ID ":" BENCH_SECRET);
    for (r = 0; r < rounds; r++) {
        say("ours", sign_ours(&what, &key, 500));
        say("limit", hash_blocks(blocks, 500));
        say("whole", sign_ours(&what, NULL, 500));
        say("whole_limit", hash_blocks(blocks + 16, 500));
        say("post", posts(plain, 200));
        say("post_signed", posts(signing, 200));
    }
    peer_post_close(plain);
    peer_post_close(signing);
}


/* ---- json ROUNDS ------------------------------------------------------- */

static size_t
json_ours(char *reply, size_t len)
{
    kaws__member want[] = { { "CiphertextBlob", { NULL, 0 } },
                            { "Plaintext",      { NULL, 0 } },
                            { "KeyId",          { NULL, 0 } } };
    size_t offset;

    bench_must(kaws__json_read((uint8_t *)reply, len, want, 3, &offset) ==
               NULL, "a reply cannot be read");
    return want[0].value.len + want[1].value.len + want[2].value.len;
}


static void
json(size_t rounds)
{
    static const struct { const char *name; size_t blob; } sizes[] = {
        { "usual", BENCH_SEALED + BENCH_PLAIN }, { "long", 6144 }
    };
    static char reply[16384];
    size_t r, s, i, len, times = 2000, right, before;
    double t;

    for (s = 0; s < 2; s++) {
        len = bench_reply(reply, sizeof reply, sizes[s].blob);
        printf("%s_bytes %lu\n", sizes[s].name, (unsigned long)len);
        before = allocations;
        right = json_ours(reply, len);
        printf("%s_allocations %lu\n", sizes[s].name,
               (unsigned long)(allocations - before));
        bench_must(peer_cjson(reply, len) == right &&
                   peer_jansson(reply, len) == right, "they do not agree");
        for (r = 0; r < rounds; r++) {
            t = cpu_us();
            for (i = 0; i < times; i++)
                sink += json_ours(reply, len);
            printf("%s_ours %.4f\n", sizes[s].name,
                   (cpu_us() - t) / (double)times);
            t = cpu_us();
            for (i = 0; i < times; i++)
                sink += peer_cjson(reply, len);
            printf("%s_cjson %.4f\n", sizes[s].name,
                   (cpu_us() - t) / (double)times);
            t = cpu_us();
            for (i = 0; i < times; i++)
                sink += peer_jansson(reply, len);
            printf("%s_jansson %.4f\n", sizes[s].name,
                   (cpu_us() - t) / (double)times);
        }
    }
}


/* ---- base64 ROUNDS ----------------------------------------------------- */

static void
base64_size(size_t rounds, size_t size, const char *encode, const char *decode)
{
    static uint8_t data[6144], back[6144];
    const kaws_bytes in = { data, size };
    kaws_bytes digits;
    kaws_hooks hooks;
    kaws__buf out;
    size_t r, i, len, times = 2000000 / (size + 500);
    double t;

    memset(&hooks, 0, sizeof hooks);
    hooks.memory = kaws__mem_builtin;
    kaws__buf_init(&out, &hooks);
    for (i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 13);
    for (r = 0; r < rounds; r++) {
        t = cpu_us();
        for (i = 0; i < times; i++) {
            out.len = 0;
            kaws__text_base64(&out, in);
        }
        say(encode, (cpu_us() - t) / (double)times);
        digits = kaws__buf_view(&out);
        t = cpu_us();
        for (i = 0; i < times; i++)
            bench_must(kaws__text_unbase64(digits, back, sizeof back, &len) &&
                       len == size, "base64");
        say(decode, (cpu_us() - t) / (double)times);
    }
    bench_must(memcmp(data, back, size) == 0, "base64 is wrong");
    kaws__buf_free(&out);
}


/* Of 6 KB; and what a fetch needs: its blob encoded, its plaintext decoded. */
static void
base64(size_t rounds)
{
    base64_size(rounds, 6144, "encode", "decode");
    base64_size(rounds, BENCH_SEALED + BENCH_PLAIN, "encode_blob", "ignored");
    base64_size(rounds, BENCH_PLAIN, "ignored", "decode_plain");
}


/* ---- rewrap DIR URL COUNT PARALLEL ------------------------------------- */

typedef struct meter {            /* a memory hook that counts                */
    size_t now, peak;
} meter;


static void *
metered(void *ctx, void *ptr, size_t old_len, size_t new_len)
{
    meter *m = ctx;
    size_t now, peak;

    if (new_len == 0) {
        __atomic_sub_fetch(&m->now, old_len, __ATOMIC_RELAXED);
        free(ptr);
        return NULL;
    }
    now = __atomic_add_fetch(&m->now, new_len, __ATOMIC_RELAXED);
    peak = __atomic_load_n(&m->peak, __ATOMIC_RELAXED);
    while (now > peak &&
           !__atomic_compare_exchange_n(&m->peak, &peak, now, 0,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        continue;
    return malloc(new_len);
}


/* How often a name in the folder became `data`'s, by a rename. */
static size_t
renames(int watch, const char *data)
{
    char events[65536];
    const char *name = strrchr(data, '/') + 1;
    struct inotify_event e;
    size_t found = 0;
    ssize_t n, at;

    while ((n = read(watch, events, sizeof events)) > 0) {
        for (at = 0; at < n; at += (ssize_t)(sizeof e + e.len)) {
            memcpy(&e, events + at, sizeof e);
            found += (e.mask & IN_MOVED_TO) && e.len > 0 &&
                     strcmp(events + at + sizeof e, name) == 0;
        }
    }
    return found;
}


static void
rewrap(const char *dir, const char *url, size_t count, int parallel)
{
    char path[512];
    kaws_hooks hooks;
    kaws_error err;
    kaws *ring;
    meter m = { 0, 0 };
    size_t before, i, fresh = 0;
    int watch = inotify_init1(IN_NONBLOCK);
    double t;

    bench_make(path_of(path, dir, "rewrap", count), count);
    memset(&hooks, 0, sizeof hooks);
    hooks.ctx = &m;
    hooks.memory = metered;
    ring = bench_open(dir, path, url, &hooks, parallel);
    bench_must(watch >= 0 &&
               inotify_add_watch(watch, dir, IN_MOVED_TO) >= 0, "no inotify");
    before = m.peak = m.now;
    t = wall_us();
    bench_must(kaws_rewrap_all(ring, &err) == KAWS_OK, err.text);
    say("seconds", (wall_us() - t) / 1e6);
    for (i = 0; i < ring->table.count; i++)
        fresh += kaws__table_record(ring->table.places[i].entry).len;
    say("extra_bytes", (double)(m.peak - before));
    say("new_bytes", (double)fresh);
    say("replaces", (double)renames(watch, path));
    kaws_close(ring);
    close(watch);
}


/* ---- open DIR COUNT ROUNDS --------------------------------------------- */

/* Ours, and the limit: SHA-256 of the same bytes, which are in memory. */
static void
open_file(const char *dir, size_t count, size_t rounds)
{
    char path[512];
    kaws *ring;
    kaws__sha256 hash;
    uint8_t *all, digest[32];
    size_t len, r;
    FILE *file;
    double t;

    bench_make(path_of(path, dir, "open", count), count);
    file = fopen(path, "rb");
    bench_must(file != NULL && fseek(file, 0, SEEK_END) == 0, path);
    len = (size_t)ftell(file);
    rewind(file);
    all = malloc(len);
    bench_must(all != NULL && fread(all, 1, len, file) == len, path);
    fclose(file);
    sync();
    say("bytes", (double)len);
    for (r = 0; r < rounds; r++) {
        t = wall_us();
        ring = bench_open(dir, path, "http://127.0.0.1:9", NULL, 0);
        say("ours", (wall_us() - t) / 1e3);
        bench_must(ring->table.count == count, "keys are missing");
        kaws_close(ring);
        t = wall_us();
        kaws__crypto_init(&hash);
        kaws__crypto_update(&hash, all, len);
        kaws__crypto_out(&hash, digest);
        say("limit", (wall_us() - t) / 1e3);
        sink += digest[0];
    }
    free(all);
}


/* ---- lookup DIR COUNT ROUNDS ------------------------------------------- */

static uint64_t
next_chance(uint64_t *chance)
{
    *chance ^= *chance << 13;
    *chance ^= *chance >> 7;
    *chance ^= *chance << 17;
    return *chance;
}


/* All names, shuffled. */
static char (*
shuffled_names(size_t count))[16]
{
    char (*names)[16] = calloc(count, sizeof *names), other[16];
    uint64_t chance = 88172645463325252u;
    size_t i, j;

    bench_must(names != NULL, "out of memory");
    for (i = 0; i < count; i++)
        bench_name(names[i], i);
    for (i = count - 1; i > 0; i--) {
        j = (size_t)(next_chance(&chance) % (i + 1));
        memcpy(other, names[i], 16);
        memcpy(names[i], names[j], 16);
        memcpy(names[j], other, 16);
    }
    return names;
}


/* The limit: one read somewhere in an array as large as the table's, and one in
 * as much memory as the entries take, each waiting for the one before it. */
static double
two_reads(uint64_t *table, size_t slots, uint64_t *entries, size_t words,
          size_t times)
{
    uint64_t at = 1;
    double t = cpu_us();
    size_t i;

    for (i = 0; i < times; i++) {
        at = table[((at + i) * 0x9e3779b97f4a7c15u >> 20) % slots];
        at = entries[((at + i) * 0xd6e8feb86659fd93u >> 20) % words];
    }
    sink += at;
    return (cpu_us() - t) * 1e3 / (double)times;
}


static void
lookup(const char *dir, size_t count, size_t rounds)
{
    char path[512], (*names)[16] = shuffled_names(count);
    kaws_bytes user = kaws__buf_of(BENCH_USER), key;
    uint64_t chance = 1, *table, *entries;
    size_t r, i, found, slots, words;
    kaws *ring;
    double t;

    bench_make(path_of(path, dir, "lookup", count), count);
    ring = bench_open(dir, path, "http://127.0.0.1:9", NULL, 0);
    slots = ring->table.slot_count * sizeof(kaws__slot) / sizeof *table;
    words = (size_t)ring->file.size / sizeof *entries;
    table = malloc(slots * sizeof *table);
    entries = malloc(words * sizeof *entries);
    bench_must(table != NULL && entries != NULL, "out of memory");
    for (i = 0; i < slots; i++)
        table[i] = next_chance(&chance);
    for (i = 0; i < words; i++)
        entries[i] = next_chance(&chance);
    for (r = 0; r < rounds; r++) {
        found = 0;
        t = cpu_us();
        for (i = 0; i < count; i++) {
            key = kaws__buf_of(names[i]);
            found += kaws__table_find(&ring->table, key, user) != NULL;
        }
        say("ours", (cpu_us() - t) * 1e3 / (double)count);
        bench_must(found == count, "names are missing");
        say("limit", two_reads(table, slots, entries, words, count));
    }
    kaws_close(ring);
    free(names);
    free(table);
    free(entries);
}


/* ---- memory DIR COUNT -------------------------------------------------- */

static double
resident(void)
{
    long pages = 0, ignored;
    FILE *file = fopen("/proc/self/statm", "r");

    bench_must(file != NULL && fscanf(file, "%ld %ld", &ignored, &pages) == 2,
               "no /proc");
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}


static void
memory(const char *dir, size_t count)
{
    char path[512];
    struct stat st;
    double before;
    kaws *ring;

    bench_make(path_of(path, dir, "memory", 1), 1);
    ring = bench_open(dir, path, "http://127.0.0.1:9", NULL, 0);
    kaws_close(ring);                     /* libcurl is there now            */
    bench_make(path_of(path, dir, "memory", count), count);
    bench_must(stat(path, &st) == 0, path);
    before = resident();
    ring = bench_open(dir, path, "http://127.0.0.1:9", NULL, 0);
    say("ours", (resident() - before) / (double)count);
    say("file", (double)st.st_size / (double)count);
    kaws_close(ring);
}


/* ---- idle DIR URL ------------------------------------------------------ */

/* An open ring with a kept connection, for bench.py to look at from outside. */
static void
idle(const char *dir, const char *url)
{
    char path[512];
    kaws *ring;

    bench_make(path_of(path, dir, "idle", 1000), 1000);
    ring = bench_open(dir, path, url, NULL, 0);
    fetch_one(ring, 1);
    printf("asleep 1\n");
    fflush(stdout);
    (void)pause();
    kaws_close(ring);
}


int
main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    char **a = argv + 2;
    int n = argc - 2;

    if (strcmp(what, "make") == 0 && n == 2)
        bench_make(a[0], number(a[1]));
    else if (strcmp(what, "commit") == 0 && n >= 3)
        commit(a[0], number(a[1]), a + 2, (size_t)n - 2);
    else if (strcmp(what, "fetch") == 0 && n == 4)
        fetch(a[0], a[1], a[2], number(a[3]));
    else if (strcmp(what, "threads") == 0 && n == 4)
        threads(a[0], a[1], number(a[2]), number(a[3]));
    else if (strcmp(what, "sign") == 0 && n == 3)
        sign(a[0], a[1], number(a[2]));
    else if (strcmp(what, "json") == 0 && n == 1)
        json(number(a[0]));
    else if (strcmp(what, "base64") == 0 && n == 1)
        base64(number(a[0]));
    else if (strcmp(what, "rewrap") == 0 && n == 4)
        rewrap(a[0], a[1], number(a[2]), (int)number(a[3]));
    else if (strcmp(what, "open") == 0 && n == 3)
        open_file(a[0], number(a[1]), number(a[2]));
    else if (strcmp(what, "lookup") == 0 && n == 3)
        lookup(a[0], number(a[1]), number(a[2]));
    else if (strcmp(what, "memory") == 0 && n == 2)
        memory(a[0], number(a[1]));
    else if (strcmp(what, "idle") == 0 && n == 2)
        idle(a[0], a[1]);
    else
        return fputs("usage: see the head of micro.c\n", stderr), 2;
    return 0;
}
