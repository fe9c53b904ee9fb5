/* micro.c - measures inside one process
 *
 *     micro WHAT [ARGUMENT...]
 *
 * prints lines "name value", one for each round; bench.py takes their medians.
 * Things that are compared take turns in the same process, round by round, so a
 * busy machine disturbs both sides alike. If their difference is what counts,
 * each round says it, because the difference of two medians may be of two
 * rounds that the machine treated differently.
 */

#include "bench.h"
#include "../unit/canonical.h"

#include <cjson/cJSON.h>
#include <curl/curl.h>
#include <jansson.h>
#include <sys/inotify.h>

#define NOWHERE "http://127.0.0.1:9"

static volatile size_t sink;      /* keeps results from being optimised away  */
static double measured;           /* what was said last                       */


/* ---- allocations of this file and the library, counted ----------------- */

static __thread size_t allocations;    /* each thread counts its own         */

#define COUNTED(name, takes, gives)                                           \
    void *__real_##name takes;                                                \
    void *__wrap_##name takes;                                                \
                                                                              \
    void *                                                                    \
    __wrap_##name takes                                                       \
    {                                                                         \
        allocations++;                                                        \
        return __real_##name gives;                                           \
    }

COUNTED(malloc, (size_t len), (len))
COUNTED(calloc, (size_t count, size_t len), (count, len))
COUNTED(realloc, (void *ptr, size_t len), (ptr, len))


/* ---- clocks, and what is said ------------------------------------------ */

static double
clock_us(clockid_t which)
{
    struct timespec t;

    clock_gettime(which, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}


#define wall_us() clock_us(CLOCK_MONOTONIC)
#define cpu_us()  clock_us(CLOCK_THREAD_CPUTIME_ID)


static void
say_of(const char *name, const char *of, double value)
{
    measured = value;
    printf("%s%s %.4f\n", name, of, value);
}

#define say(name, value) say_of(name, "", value)


/* Says how many microseconds one of so many pieces of work takes; the work may
 * depend on `turn`. */
#define MEASURE(name, of, clock, times, work)                                 \
    do {                                                                      \
        double began = clock();                                               \
        size_t turn;                                                          \
        for (turn = 0; turn < (times); turn++)                                \
            work;                                                             \
        say_of(name, of, (clock() - began) / (double)(times));                \
    } while (0)


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

static void
append(int fd, uint64_t *end, kaws_bytes bytes)
{
    size_t done;

    bench_must(kaws__disk_write_at(fd, *end, bytes.at, bytes.len, &done) == 0 &&
               fdatasync(fd) == 0, "cannot write");
    *end += bytes.len;
}


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
    size_t r, s;

    bench_must(sizes <= 8, "too many sizes");
    bench_seal(&sealed, 7);
    for (s = 0; s < sizes; s++) {
        bench_make(path_of(path, dir, "commit", number(counts[s])),
                   number(counts[s]));
        ring[s] = bench_open(dir, path, NOWHERE, NULL, 0);
        bench_make(path_of(path, dir, "limit", number(counts[s])),
                   number(counts[s]));
        bench_must(kaws__disk_open(path, KAWS__WRITE, &fd[s]) == 0, path);
        end[s] = (uint64_t)lseek(fd[s], 0, SEEK_END);
    }
    sync();
    kaws__buf_init(&record, &bench_hooks);
    bench_record(&record, 0);
    memset(kaws__buf_grow(&record, 32), 0, 32);
    for (r = 0; r < rounds; r++) {
        for (s = 0; s < sizes; s++) {
            MEASURE("ours.", counts[s], wall_us, 1,
                    bench_commit(ring[s], 1000000 + r, &sealed));
            MEASURE("limit.", counts[s], wall_us, 1,
                    append(fd[s], &end[s], kaws__buf_view(&record)));
        }
    }
    kaws__buf_free(&record);
    for (s = 0; s < sizes; s++)
        kaws_close(ring[s]);
}


/* ---- peers ------------------------------------------------------------------
 *
 * The least that others have to do for the same result: a bare libcurl POST of
 * bytes that are there already, libcurl's own SigV4, and two JSON libraries
 * that add up the lengths of three members of a reply. */

typedef struct peer_post {
    CURL *easy;
    struct curl_slist *headers;
    size_t have;
    char reply[16384];
} peer_post;


static size_t
on_body(char *data, size_t size, size_t count, void *to)
{
    peer_post *p = to;

    if (size * count > sizeof p->reply - p->have)
        return 0;
    memcpy(p->reply + p->have, data, size * count);
    p->have += size * count;
    return size * count;
}


/* With `sigv4` ("aws:amz:region:service") libcurl signs, as `creds` says. */
static peer_post *
peer_post_open(const char *url, const char *const *headers, const void *body,
               size_t len, const char *sigv4, const char *creds)
{
    peer_post *p = calloc(1, sizeof *p);

    bench_must(p != NULL, "out of memory");
    p->easy = curl_easy_init();
    p->headers = curl_slist_append(NULL, "Expect:");
    for (; *headers != NULL; headers++)
        p->headers = curl_slist_append(p->headers, *headers);
    curl_easy_setopt(p->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(p->easy, CURLOPT_URL, url);
    curl_easy_setopt(p->easy, CURLOPT_HTTPHEADER, p->headers);
    curl_easy_setopt(p->easy, CURLOPT_POSTFIELDSIZE, (long)len);
    curl_easy_setopt(p->easy, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(p->easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(p->easy, CURLOPT_WRITEDATA, p);
    if (sigv4 != NULL) {
        curl_easy_setopt(p->easy, CURLOPT_AWS_SIGV4, sigv4);
        curl_easy_setopt(p->easy, CURLOPT_USERPWD, creds);
    }
    return p;
}


static void
post(peer_post *p)
{
    p->have = 0;
    bench_must(curl_easy_perform(p->easy) == CURLE_OK && p->have > 0,
               "a POST failed");
}


static void
peer_post_close(peer_post *p)
{
    curl_easy_cleanup(p->easy);
    curl_slist_free_all(p->headers);
    free(p);
}


static const char *const wanted[] = { "CiphertextBlob", "Plaintext", "KeyId" };


static size_t
peer_cjson(const char *reply, size_t len)
{
    cJSON *root = cJSON_ParseWithLength(reply, len);
    const char *text;
    size_t i, sum = 0;

    for (i = 0; i < 3; i++) {
        text = cJSON_GetStringValue(
            cJSON_GetObjectItemCaseSensitive(root, wanted[i]));
        sum += text != NULL ? strlen(text) : 0;
    }
    cJSON_Delete(root);
    return sum;
}


static size_t
peer_jansson(const char *reply, size_t len)
{
    json_t *root = json_loadb(reply, len, JSON_REJECT_DUPLICATES, NULL);
    size_t i, sum = 0;

    for (i = 0; i < 3; i++)
        sum += json_string_length(json_object_get(root, wanted[i]));
    json_decref(root);
    return sum;
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


static void
do_not_sleep(void *ctx, int ms)
{
    (void)ctx;
    (void)ms;
}


/* The request of a fetch, Authorization being its last header. */
static void
catch_fetch(caught *c, const char *dir, const char *data, const char *url)
{
    kaws_hooks hooks = { .ctx = c, .send = catch_send,
                         .sleep_ms = do_not_sleep };
    kaws_name who = { "bench-0000000", BENCH_USER };
    kaws *ring = bench_open(dir, data, url, &hooks, 0);
    kaws_key key;

    (void)kaws_fetch(ring, who, &key, NULL);
    kaws_close(ring);
    bench_must(c->body_len > 0, "no request was caught");
}


static peer_post *
open_peer(const char *url, const caught *c)
{
    return peer_post_open(url, c->headers, c->body, c->body_len, NULL, NULL);
}


/* ---- fetch DIR URL ROUNDS, and fetch_slow DIR URL_5MS ROUNDS ------------ */

static kaws *
fetch_open(const char *dir, const char *url, peer_post **bare)
{
    static caught c;
    char path[512];
    kaws *ring;

    bench_make(path_of(path, dir, "fetch", 1000), 1000);
    catch_fetch(&c, dir, path, url);
    ring = bench_open(dir, path, url, NULL, 0);
    *bare = open_peer(url, &c);
    return ring;
}


static void
fetch(const char *dir, const char *url, size_t rounds)
{
    peer_post *bare;
    kaws *ring = fetch_open(dir, url, &bare);
    double ours;
    size_t r;

    for (r = 0; r < rounds + 1; r++) {    /* the first warms up               */
        const char *cold = r > 0 ? "" : "_cold";

        MEASURE("ours_cpu", cold, cpu_us, 200, bench_fetch(ring, turn));
        ours = measured;
        MEASURE("bare_cpu", cold, cpu_us, 200, post(bare));
        say_of("beyond", cold, ours - measured);
    }
    peer_post_close(bare);
    kaws_close(ring);
}


static void
fetch_slow(const char *dir, const char *url, size_t rounds)
{
    peer_post *bare;
    kaws *ring = fetch_open(dir, url, &bare);
    size_t r;

    for (r = 0; r < rounds; r++) {
        MEASURE("ours_slow", "", wall_us, 1, bench_fetch(ring, r % 1000));
        MEASURE("bare_slow", "", wall_us, 1, post(bare));
    }
    peer_post_close(bare);
    kaws_close(ring);
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
            bench_fetch(c->ring, i % 1000);
        else
            post(c->bare[me]);
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


/* Says something at once, and waits until bench.py has heard it. */
static void
say_and_wait(const char *word)
{
    char line[8];

    printf("%s 1\n", word);
    fflush(stdout);
    bench_must(fgets(line, sizeof line, stdin) != NULL, "nobody listens");
}


/* After the first round, all connections are there: at "warm" bench.py asks the
 * server for the number of them, and at "end" again. */
static void
threads(const char *dir, const char *url, size_t rounds, size_t calls)
{
    static caught c;
    static crowd all;
    char path[512];
    kaws *ring;
    size_t r;
    int i;

    bench_make(path_of(path, dir, "threads", 1000), 1000);
    catch_fetch(&c, dir, path, url);
    ring = bench_open(dir, path, url, NULL, 0);
    for (i = 0; i < CROWD; i++)
        all.bare[i] = open_peer(url, &c);
    (void)crowd_run(&all, ring, calls);
    (void)crowd_run(&all, NULL, calls);
    say_and_wait("warm");
    for (r = 0; r < rounds; r++) {
        say("ours", crowd_run(&all, ring, calls));
        say("bare", crowd_run(&all, NULL, calls));
    }
    say_and_wait("end");
    for (i = 0; i < CROWD; i++)
        peer_post_close(all.bare[i]);
    kaws_close(ring);
}


/* ---- kept DIR URL ROUNDS CALLS ----------------------------------------- */

/* Out of the cache: by one thread, and by sixteen; in fetches a second. The CPU
 * time of one tells what it costs. */
static void
kept(const char *dir, const char *url, size_t rounds, size_t calls)
{
    static crowd all;
    char path[512];
    kaws *ring;
    kaws_stats stats;
    size_t r, i;
    double start;

    bench_make(path_of(path, dir, "kept", 1000), 1000);
    ring = bench_open(dir, path, url, NULL, 0);
    kaws_use_cache(ring, 86400);
    for (i = 0; i < 1000; i++)
        bench_fetch(ring, i);
    for (r = 0; r < rounds; r++) {
        MEASURE("cpu", "", cpu_us, calls, bench_fetch(ring, turn % 1000));
        start = wall_us();
        for (i = 0; i < calls; i++)
            bench_fetch(ring, i % 1000);
        say("one", (double)calls / (wall_us() - start) * 1e6);
        say("sixteen", crowd_run(&all, ring, calls));
    }
    kaws_get_stats(ring, &stats);
    bench_must(stats.kms_requests == 1000, "it was not the cache");
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
#define BLOCKS(len) (((len) + 9 + 63) / 64)


/* How many blocks a signature cannot do without: the body, the canonical
 * request, and the HMAC of the string to sign, whose two pads and whose outer
 * digest are a block each. */
static size_t
blocks_to_sign(const kaws_signing *what)
{
    static const char text[] = "AWS4-HMAC-SHA256\n20260921T131640Z\n"
                               "20260921/us-east-1/kms/aws4_request\n"
                               "0123456789abcdef0123456789abcdef"
                               "0123456789abcdef0123456789abcdef";
    size_t request = 0;
    kaws__buf count = { .feed = length_of, .consumer = &request };

    bench_must(canonical_request(&count, what, NULL, NULL) == NULL,
               "no request");
    return BLOCKS(what->body.len) + BLOCKS(request) + 2 +
           BLOCKS(sizeof text - 1) + 1;
}


static void
hash_blocks(size_t blocks)
{
    static uint8_t data[65536];
    kaws__sha256 hash;

    bench_must(blocks * 64 <= sizeof data, "too many blocks");
    kaws__crypto_init(&hash);
    kaws__crypto_update(&hash, data, blocks * 64);
    sink += hash.val[0];
}


/* All that kaws_sign() does, the key of the day included. */
static void
sign_whole(const kaws_signing *what)
{
    const kaws_creds who = { BENCH_ID, BENCH_SECRET, NULL };
    char out[512];

    bench_must(kaws_sign(what, who, out, sizeof out, NULL) == KAWS_OK,
               "cannot sign");
}


static void
sign(const char *dir, const char *url, size_t rounds)
{
    static caught c;
    char path[512];
    kaws__mac_key key;
    kaws_signing what;
    peer_post *plain, *signing;
    size_t r, blocks, last = 0;
    double unsigned_us;

    bench_make(path_of(path, dir, "sign", 1), 1);
    catch_fetch(&c, dir, path, url);
    while (c.headers[last + 1] != NULL)
        last++;
    c.headers[last] = NULL;               /* Authorization                   */
    bench_signing(&what, &key, c.headers, c.body, c.body_len);
    blocks = blocks_to_sign(&what);
    say("blocks", (double)blocks);
    plain = open_peer(url, &c);
    signing = peer_post_open(url, c.headers, c.body, c.body_len,
                             "aws:amz:us-east-1:kms",
                             BENCH_ID ":" BENCH_SECRET);
    for (r = 0; r < rounds; r++) {
        MEASURE("ours", "", cpu_us, 500, bench_sign(&what, &key));
        MEASURE("limit", "", cpu_us, 500, hash_blocks(blocks));
        MEASURE("whole", "", cpu_us, 500, sign_whole(&what));
        MEASURE("whole_limit", "", cpu_us, 500, hash_blocks(blocks + 16));
        MEASURE("post", "", cpu_us, 200, post(plain));
        unsigned_us = measured;
        MEASURE("post_signed", "", cpu_us, 200, post(signing));
        say("curl", measured - unsigned_us);
    }
    peer_post_close(plain);
    peer_post_close(signing);
}


/* ---- json ROUNDS ------------------------------------------------------- */

static void
json(size_t rounds)
{
    static const struct { const char *name; size_t blob; } sizes[] = {
        { "usual_", BENCH_SEALED + BENCH_PLAIN }, { "long_", 6144 }
    };
    static char reply[16384];
    const char *name;
    size_t r, s, len, right, before;

    for (s = 0; s < 2; s++) {
        name = sizes[s].name;
        len = bench_reply(reply, sizeof reply, sizes[s].blob);
        say_of(name, "bytes", (double)len);
        before = allocations;
        right = bench_json(reply, len);
        say_of(name, "allocations", (double)(allocations - before));
        bench_must(peer_cjson(reply, len) == right &&
                   peer_jansson(reply, len) == right, "they do not agree");
        for (r = 0; r < rounds; r++) {
            MEASURE(name, "ours", cpu_us, 2000, sink += bench_json(reply, len));
            MEASURE(name, "cjson", cpu_us, 2000,
                    sink += peer_cjson(reply, len));
            MEASURE(name, "jansson", cpu_us, 2000,
                    sink += peer_jansson(reply, len));
        }
    }
}


/* ---- base64 ROUNDS ----------------------------------------------------- */

static void
encode(kaws__buf *out, kaws_bytes in)
{
    out->len = 0;
    kaws__text_base64(out, in);
}


static void
base64_size(size_t rounds, size_t size, const char *encoding,
            const char *decoding)
{
    static uint8_t data[6144], back[6144];
    const kaws_bytes in = { data, size };
    kaws__buf out;
    size_t r, i, len, times = 2000000 / (size + 500);

    kaws__buf_init(&out, &bench_hooks);
    for (i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 13);
    for (r = 0; r < rounds; r++) {
        MEASURE(encoding, "", cpu_us, times, encode(&out, in));
        MEASURE(decoding, "", cpu_us, times,
                bench_must(kaws__text_unbase64(kaws__buf_view(&out), back,
                                               sizeof back, &len) &&
                           len == size, "base64"));
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
    meter m = { 0, 0 };
    kaws_hooks hooks = { .ctx = &m, .memory = metered };
    kaws_error err;
    kaws *ring;
    struct stat st;
    size_t before;
    int watch = inotify_init1(IN_NONBLOCK);
    double t;

    bench_make(path_of(path, dir, "rewrap", count), count);
    ring = bench_open(dir, path, url, &hooks, parallel);
    bench_must(watch >= 0 &&
               inotify_add_watch(watch, dir, IN_MOVED_TO) >= 0, "no inotify");
    before = m.peak = m.now;
    t = wall_us();
    bench_must(kaws_rewrap_all(ring, &err) == KAWS_OK, err.text);
    say("seconds", (wall_us() - t) / 1e6);
    say("extra_bytes", (double)(m.peak - before));
    bench_must(stat(path, &st) == 0, path);
    say("new_bytes", (double)st.st_size - KAWS__STORE_HEADER -
                     32.0 * (double)count);   /* less the digests             */
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
    kaws_stats stats;
    struct stat st;
    uint8_t *all, digest[32];
    kaws_bytes view;
    size_t r;
    FILE *file;

    bench_make(path_of(path, dir, "open", count), count);
    file = fopen(path, "rb");
    bench_must(file != NULL && stat(path, &st) == 0, path);
    view.len = (size_t)st.st_size;
    view.at = all = malloc(view.len);
    bench_must(all != NULL && fread(all, 1, view.len, file) == view.len, path);
    fclose(file);
    sync();
    say("bytes", (double)view.len);
    for (r = 0; r < rounds; r++) {
        MEASURE("ours", "", wall_us, 1,
                ring = bench_open(dir, path, NOWHERE, NULL, 0));
        kaws_get_stats(ring, &stats);
        bench_must(stats.keys == count, "keys are missing");
        kaws_close(ring);
        MEASURE("limit", "", wall_us, 1, kaws__crypto_sha256(digest, view));
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
static void
two_reads(const uint64_t *slots, size_t slot_count, const uint64_t *words,
          size_t word_count, size_t turn)
{
    static uint64_t at = 1;

    at = slots[((at + turn) * 0x9e3779b97f4a7c15u >> 20) % slot_count];
    at = words[((at + turn) * 0xd6e8feb86659fd93u >> 20) % word_count];
    sink += at;
}


static uint64_t *
chances(size_t count)
{
    uint64_t *all = malloc(count * sizeof *all), chance = 1;
    size_t i;

    bench_must(all != NULL, "out of memory");
    for (i = 0; i < count; i++)
        all[i] = next_chance(&chance);
    return all;
}


static void
lookup(const char *dir, size_t count, size_t rounds)
{
    char path[512], (*names)[16] = shuffled_names(count);
    kaws_bytes user = kaws__buf_of(BENCH_USER);
    uint64_t *slots, *words, hash;
    size_t r, found, slot_count, word_count;
    struct stat st;
    kaws *ring;

    bench_make(path_of(path, dir, "lookup", count), count);
    ring = bench_open(dir, path, NOWHERE, NULL, 0);
    bench_must(stat(path, &st) == 0, path);
    slot_count = ring->vault.table.slot_count * sizeof(kaws__slot) /
                 sizeof *slots;
    word_count = (size_t)st.st_size / sizeof *words;
    slots = chances(slot_count);
    words = chances(word_count);
    for (r = 0; r < rounds; r++) {
        found = 0;
        MEASURE("ours", "", cpu_us, count, found += kaws__table_find(
                &ring->vault.table, kaws__buf_of(names[turn]), user,
                &hash) != NULL);
        bench_must(found == count, "names are missing");
        MEASURE("limit", "", cpu_us, count,
                two_reads(slots, slot_count, words, word_count, turn));
    }
    kaws_close(ring);
    free(names);
    free(slots);
    free(words);
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
    ring = bench_open(dir, path, NOWHERE, NULL, 0);
    kaws_close(ring);                     /* libcurl is there now            */
    bench_make(path_of(path, dir, "memory", count), count);
    bench_must(stat(path, &st) == 0, path);
    before = resident();
    ring = bench_open(dir, path, NOWHERE, NULL, 0);
    say("ours", (resident() - before) / (double)count);
    say("file", (double)st.st_size / (double)count);
    kaws_close(ring);
}


/* ---- fleet DIR URL RINGS CALLS CACHE ------------------------------------
 *
 * So many servers start at once: each is a ring of its own, with the defaults,
 * that fetches the same key again and again, as InnoDB does for its tables. A
 * fetch that fails is asked for again, until it succeeds: what a server could
 * have needed is needed still. */

typedef struct ship {             /* one ring of the fleet                    */
    pthread_barrier_t *start;
    kaws  *ring;
    size_t calls, failed, late;   /* late: fetches of over ten seconds        */
    double took, longest;
} ship;


static kaws *
ship_open(const char *dir, const char *url, size_t n, size_t cache)
{
    char path[512], conf[512];
    kaws_config cfg;
    kaws_error err;
    kaws *ring;

    bench_make(path_of(path, dir, "fleet", n), 1);
    kaws_close(bench_open(dir, path, url, NULL, 0));   /* writes conf        */
    (void)snprintf(conf, sizeof conf, "%s/conf", dir);
    memset(&cfg, 0, sizeof cfg);
    cfg.data_file = path;
    cfg.conf_file = conf;
    cfg.kms_key_id = BENCH_ARN;
    cfg.endpoint = url;
#if defined(BENCH_CACHE)
    cfg.cache_seconds = (int)cache;
#else
    bench_must(cache == 0, "this library knows no cache");
#endif
    bench_must(kaws_open(&ring, &cfg, &err) == KAWS_OK, err.text);
    return ring;
}


static void *
ship_sail(void *arg)
{
    const kaws_name who = { "bench-0000000", BENCH_USER };
    ship *s = arg;
    double began, asked;
    kaws_error err;
    kaws_key key;
    size_t i;

    pthread_barrier_wait(s->start);
    began = wall_us();
    for (i = 0; i < s->calls; i++) {
        asked = wall_us();
        while (kaws_fetch(s->ring, who, &key, &err) != KAWS_OK) {
            bench_must(err.status == KAWS_THROTTLED, err.text);
            s->failed++;
        }
        kaws_key_free(s->ring, &key);
        asked = (wall_us() - asked) / 1e6;
        s->longest = asked > s->longest ? asked : s->longest;
        s->late += asked > 10;
    }
    s->took = (wall_us() - began) / 1e6;
    return NULL;
}


static void
fleet(const char *dir, const char *url, size_t rings, size_t calls,
      size_t cache)
{
    static ship ships[1000];
    static pthread_t threads_of[1000];
    pthread_barrier_t start;
    double failed = 0, late = 0, longest = 0, slowest = 0;
    size_t i;

    bench_must(rings <= 1000, "too many rings");
    pthread_barrier_init(&start, NULL, (unsigned)rings);
    for (i = 0; i < rings; i++) {
        ships[i].ring = ship_open(dir, url, i, cache);
        ships[i].start = &start;
        ships[i].calls = calls;
    }
    for (i = 0; i < rings; i++)
        bench_must(pthread_create(&threads_of[i], NULL, ship_sail,
                                  &ships[i]) == 0, "no thread");
    for (i = 0; i < rings; i++) {
        pthread_join(threads_of[i], NULL);
        kaws_close(ships[i].ring);
        say("ring", ships[i].took);
        failed += (double)ships[i].failed;
        late += (double)ships[i].late;
        longest = ships[i].longest > longest ? ships[i].longest : longest;
        slowest = ships[i].took > slowest ? ships[i].took : slowest;
    }
    say("failed", failed);
    say("late", late);
    say("longest", longest);
    say("slowest", slowest);
    pthread_barrier_destroy(&start);
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
    bench_fetch(ring, 1);
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

#define WHAT(name, least, call)                                               \
    if (strcmp(what, name) == 0 && n >= least)                                \
        call;                                                                 \
    else
    WHAT("make", 2, bench_make(a[0], number(a[1])))
    WHAT("commit", 3, commit(a[0], number(a[1]), a + 2, (size_t)n - 2))
    WHAT("fetch", 3, fetch(a[0], a[1], number(a[2])))
    WHAT("fetch_slow", 3, fetch_slow(a[0], a[1], number(a[2])))
    WHAT("threads", 4, threads(a[0], a[1], number(a[2]), number(a[3])))
    WHAT("kept", 4, kept(a[0], a[1], number(a[2]), number(a[3])))
    WHAT("sign", 3, sign(a[0], a[1], number(a[2])))
    WHAT("json", 1, json(number(a[0])))
    WHAT("base64", 1, base64(number(a[0])))
    WHAT("rewrap", 4, rewrap(a[0], a[1], number(a[2]), (int)number(a[3])))
    WHAT("open", 3, open_file(a[0], number(a[1]), number(a[2])))
    WHAT("lookup", 3, lookup(a[0], number(a[1]), number(a[2])))
    WHAT("memory", 2, memory(a[0], number(a[1])))
    WHAT("fleet", 5, fleet(a[0], a[1], number(a[2]), number(a[3]),
                           number(a[4])))
    WHAT("idle", 2, idle(a[0], a[1]))
        return fputs("usage: see the head of micro.c\n", stderr), 2;
    return 0;
}
