/* count.c - work whose instructions tests/test_instructions.py counts
 *
 *     valgrind --tool=callgrind --collect-atstart=no count DIR
 *
 * runs each piece of work a few times and has callgrind dump its costs under
 * the name of the work. Nothing in it depends on the time or on chance, so the
 * same program always takes the same number of instructions.
 */

#include "bench.h"

#include <valgrind/callgrind.h>

#define ROUNDS 10

typedef struct desk {             /* what the works share                     */
    kaws *ring, *large;
    kaws_hooks hooks;
    kaws_signing what;
    char reply[16384];
    size_t reply_len;
    uint8_t bytes[6144];
    kaws__mac_key key;
    kaws__buf digits;
    kaws_sealed sealed;
    size_t next;                  /* number of the next key to be committed   */
    volatile size_t sink;
} desk;


static const char *const headers[] = {
    "Host: kms.us-east-1.amazonaws.com",
    "Content-Type: application/x-amz-json-1.1",
    "X-Amz-Target: TrentService.Decrypt", "X-Amz-Date: 20260921T131640Z", NULL
};

static const char body[] =
    "{\"KeyId\":\"" BENCH_ARN "\",\"CiphertextBlob\":\"AQIDAHhBCDEFGHIJKLMNOP\""
    ",\"EncryptionContext\":{\"app\":\"keyring_aws\",\"file\":"
    "\"62656e63680000000000000000000000\",\"key_id\":\"bench-0000001\","
    "\"key_type\":\"AES\",\"user_id\":\"root@localhost\"}}";


static int64_t
stopped_clock(void *ctx)
{
    (void)ctx;
    return 1790000000000;
}


static int
no_chance(void *ctx, void *out, size_t len)
{
    (void)ctx;
    memset(out, 0x42, len);
    return 0;
}


/* Answers a Decrypt at once. */
static int
answer(void *ctx, const kaws_request *q, kaws_reply *r)
{
    static const char text[] =
        "{\"EncryptionAlgorithm\":\"SYMMETRIC_DEFAULT\",\"KeyId\":\"" BENCH_ARN
        "\",\"Plaintext\":\"WlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlo=\"}";

    (void)ctx;
    (void)q;
    r->http = 200;
    r->body_len = sizeof text - 1;
    memcpy(r->body, text, r->body_len);
    return 0;
}


/* ---- the works --------------------------------------------------------- */

static void
base64(desk *d)
{
    kaws_bytes in = { d->bytes, sizeof d->bytes };
    size_t len;

    d->digits.len = 0;
    kaws__text_base64(&d->digits, in);
    bench_must(kaws__text_unbase64(kaws__buf_view(&d->digits), d->bytes,
                                   sizeof d->bytes, &len), "base64");
}


static void
lookup(desk *d)
{
    static const char *const names[] = { "bench-0000000", "bench-0002345",
                                         "bench-0004999", "bench-0008888" };
    uint64_t hash;
    size_t i;

    for (i = 0; i < 4; i++)
        bench_must((kaws__table_find(&d->large->vault.table,
                                     kaws__buf_of(names[i]),
                                     kaws__buf_of(BENCH_USER), &hash) != NULL)
                   == (i < 3), names[i]);
}


#define WORKS(X)                                                              \
    X(sign, bench_sign(&d->what, &d->key))                                    \
    X(json, d->sink += bench_json(d->reply, d->reply_len))                    \
    X(base64, base64(d))                                                      \
    X(base64_of_others, base64(d))                                            \
    X(commit, bench_commit(d->ring, d->next++, &d->sealed))                   \
    X(commit_to_5000, bench_commit(d->large, d->next++, &d->sealed))          \
    X(lookup, lookup(d))                                                      \
    X(fetch, bench_fetch(d->ring, 1))                                         \
    X(kept, bench_fetch(d->large, 1))

#define X(name, call)                                                         \
    static void                                                               \
    work_##name(desk *d)                                                      \
    {                                                                         \
        call;                                                                 \
    }
WORKS(X)
#undef X


static const struct {
    const char *name;
    void (*work)(desk *d);
} works[] = {
#define X(name, call) { #name, work_##name },
    WORKS(X)
#undef X
};


/* ---- setting up -------------------------------------------------------- */

static void
set_up(desk *d, const char *dir)
{
    char path[512];

    memset(d, 0, sizeof *d);
    d->hooks.now_ms = stopped_clock;
    d->hooks.random = no_chance;
    d->hooks.send = answer;
    (void)snprintf(path, sizeof path, "%s/small", dir);
    bench_make(path, 10);
    d->ring = bench_open(dir, path, NULL, &d->hooks, 0);
    (void)snprintf(path, sizeof path, "%s/large", dir);
    bench_make(path, 5000);
    d->large = bench_open(dir, path, NULL, &d->hooks, 0);
    kaws_use_cache(d->large, 86400);
    d->next = 1000000;
    bench_seal(&d->sealed, 1);
    d->reply_len = bench_reply(d->reply, sizeof d->reply,
                               BENCH_SEALED + BENCH_PLAIN);
    kaws__buf_init(&d->digits, &d->ring->hooks);
    bench_signing(&d->what, &d->key, headers, body, sizeof body - 1);
}


int
main(int argc, char **argv)
{
    static desk d;
    size_t i, r;

    bench_must(argc == 2, "usage: count DIR");
    set_up(&d, argv[1]);
    for (i = 0; i < sizeof works / sizeof works[0]; i++) {
        if (strcmp(works[i].name, "base64_of_others") == 0)
            for (r = 0; r < sizeof d.bytes; r++)
                d.bytes[r] = (uint8_t)(r * 2654435761u >> 13);
        works[i].work(&d);                /* so that what is lazy is there   */
        CALLGRIND_ZERO_STATS;
        CALLGRIND_TOGGLE_COLLECT;
        for (r = 0; r < ROUNDS; r++)
            works[i].work(&d);
        CALLGRIND_TOGGLE_COLLECT;
        CALLGRIND_DUMP_STATS_AT(works[i].name);
    }
    kaws_close(d.ring);
    kaws_close(d.large);
    return 0;
}
