/* Room ring, and all below it: bytes as a script of events in a keyring's life.
 *
 *     mkdir -p build/fuzz/corpus/ring
 *     clang -std=c99 -O1 -g -fsanitize=fuzzer,address,undefined \
 *         -fno-sanitize-recover=all -o build/fuzz/fuzz_ring \
 *         fuzz/fuzz_ring.c -l:libbearssl.a -lpthread
 *     ASAN_OPTIONS=quarantine_size_mb=8 \
 *         build/fuzz/fuzz_ring -max_len=320 -len_control=0 \
 *         build/fuzz/corpus/ring fuzz/corpus/ring
 *
 * Keys are generated, stored, fetched, removed and re-wrapped; the KMS key is
 * changed and rotated; the ring is reopened. In the middle of that the disk,
 * the memory or KMS fails, the process is killed, or the power is cut. The
 * model is an array. A key that was acknowledged must be there, with its bytes.
 * A change that a crash interrupted must be done as a whole or not at all.
 * Every second ring has a cache, which must change no result. FUZZ_SHOW=1 in
 * the environment prints the script as it runs.
 */

#include "unseen_begin.h"
#define DISK_CHEAP_PAGES
#include "../tests/fault/disk.h"
#include "unseen_end.h"
#include "fuzz.h"
#include "unseen_begin.h"
#include "../tests/unit/fakes.h"
#include "unseen_end.h"

enum { NAMES = 6, CRASHES = 20, DATA_MAX = 700 };

#define DATA "/disk/keys/data"
#define CONF "/disk/conf"

typedef struct known {            /* what the model knows of a name           */
    int      there;
    int      unsure;              /* a crash: it may exist or not             */
    int      told;                /* we know its bytes                        */
    size_t   len;
    uint8_t  bytes[DATA_MAX];
    unsigned born;
} known;

enum { ARM_DISK = 1, ARM_STOP = 2, ARM_MEMORY = 4, ARM_KMS = 8 };

typedef struct world {
    struct fake fake;
    kaws       *ring;
    known       names[NAMES];
    unsigned    next_born;
    int         armed;            /* what goes wrong in the next operation    */
    int         killed;           /* the process stops, the machine goes on   */
    int         crashes, scripts, read_only;
    int         alone;            /* no script may join the one that is armed */
    uint16_t    survival;
} world;

static const kaws_name names[NAMES] = {
    { "a", NULL }, { "a", "u" }, { "b\n%\xff", "" }, { "au", "" },
    { "INNODBKey-00000000-1111-2222-3333-444444444444-1", "" },
    { "c", "user@host" }
};

static world w;


static void
show(const char *what, int number, kaws_status status)
{
    if (getenv("FUZZ_SHOW") != NULL)
        (void)fprintf(stderr, "%s %d: %s%s\n", what, number,
                      kaws_status_text(status),
                      disk.off ? " (the disk has stopped)" : "");
}


/* ---- the world --------------------------------------------------------- */

/* Makes the fakes once. Our files are on the disk, so their folder can go. */
static void
begin(void)
{
    static struct fake first;

    if (first.hooks.ctx == NULL) {
        fake_init(&first);
        fake_end(&first);
        first.log = NULL;
        first.log_len = first.log_max = 0;
    }
    memset(&w, 0, sizeof w);
    w.fake = first;
    w.fake.hooks.ctx = &w.fake;
    w.fake.rotation_ms = 700;
    pthread_mutex_init(&w.fake.lock, NULL);
    pthread_mutex_init(&w.fake.memory_lock, NULL);
    (void)snprintf(w.fake.conf, sizeof w.fake.conf, CONF);
    (void)snprintf(w.fake.data, sizeof w.fake.data, DATA);
    disk_format();
    disk_put(CONF, FAKE_ID "\n" FAKE_SECRET "\n",
             strlen(FAKE_ID "\n" FAKE_SECRET "\n"));
}


static void
end(void)
{
    int action;

    free(w.fake.log);
    for (action = 0; action < 8; action++)
        free(w.fake.previous[action]);
    pthread_mutex_destroy(&w.fake.lock);
    pthread_mutex_destroy(&w.fake.memory_lock);
    disk_format();
}


static void
disarm(void)
{
    w.armed = w.scripts = w.alone = 0;
    memset(w.fake.scripts, 0, sizeof w.fake.scripts);
    w.fake.fail_nth = w.fake.fail_from = 0;
    w.fake.now_ms += 5000;        /* if KMS was away, the next call tries it  */
    disk.at = disk.hits = 0;
    disk.fault = DISK_FINE;
    disk.follow_up = 0;
    disk_deny(~0u, 0);
}


/* An error or a log line is one printable line, and repeats no secret. */
static void
check_words(const kaws_error *err)
{
    const char *at;

    HOLDS(strstr(err->text, FAKE_SECRET) == NULL);
    HOLDS(w.fake.log == NULL || strstr(w.fake.log, FAKE_SECRET) == NULL);
    for (at = err->text; *at != '\0'; at++)
        HOLDS(*at >= 0x20 && *at <= 0x7e);
    for (at = w.fake.log; at != NULL && *at != '\0'; at++)
        HOLDS((*at >= 0x20 && *at <= 0x7e) || *at == '\n');
    fake_forget_log(&w.fake);
}


/* ---- the model --------------------------------------------------------- */

static int
find(const kaws_entry_info *info)
{
    int i;

    for (i = 0; i < NAMES; i++)
        if (strcmp(info->name.key_id, names[i].key_id) == 0 &&
            strcmp(info->name.user_id, names[i].user_id != NULL
                                     ? names[i].user_id : "") == 0)
            return i;
    fuzz_broken("a name that nobody gave", __FILE__, __LINE__);
    return 0;
}


/* Checks that the ring has the model's names. This settles what a crash left
 * open. What the ring itself is uncertain of is settled only when it is
 * reopened. */
static void
look(void)
{
    int seen[NAMES] = { 0 }, i;
    unsigned last = 0;
    uint64_t count = 0;
    kaws_entry_info info;
    kaws_walk *walk;
    kaws_stats stats;
    const uint8_t *bytes;
    size_t len;

    HOLDS(kaws_walk_begin(w.ring, &walk, NULL) == KAWS_OK);
    for (; kaws_walk_next(walk, &info); count++) {
        i = find(&info);
        seen[i]++;
        HOLDS(info.len == w.names[i].len && strcmp(info.type, "AES") == 0);
        HOLDS(w.names[i].born > last);
        last = w.names[i].born;
    }
    kaws_walk_end(walk);
    for (i = 0; i < NAMES; i++) {
        HOLDS(seen[i] == w.names[i].there || (w.names[i].unsure &&
                                              seen[i] <= 1));
        w.names[i].there = seen[i];
        w.names[i].unsure &= w.ring->vault.uncertain || w.read_only;
    }
    kaws_get_stats(w.ring, &stats);
    HOLDS(stats.keys == count);
    bytes = disk_bytes(DATA, &len);
    HOLDS(w.ring->vault.uncertain || (bytes != NULL && len >= 80 &&
                                memcmp(bytes + len - 32, stats.checksum,
                                       32) == 0));
}


/* Whether an operation that would return `natural` may return `status` because
 * of the armed failures. */
static int
may_be(kaws_status status, kaws_status natural)
{
    if (status == natural)
        return 1;
    if (status == KAWS_OK)
        return 0;
    if (status == KAWS_MEMORY)
        return (w.armed & ARM_MEMORY) != 0;
    if (status == KAWS_FILE || status == KAWS_UNCERTAIN ||
        status == KAWS_LOCKED || status == KAWS_CHANGED)
        return (w.armed & (ARM_DISK | ARM_STOP)) != 0;
    return (w.armed & ARM_KMS) != 0 && status >= KAWS_CREDENTIALS;
}


/* ---- crashes and reopening --------------------------------------------- */

static void
close_ring(void)
{
    kaws_close(w.ring);
    w.ring = NULL;
    HOLDS(w.fake.live == 0 && w.fake.dirty == 0 && w.fake.misfreed == 0);
    HOLDS(disk.opened == 0);
}


/* The process is gone, and perhaps the power was. */
static void
crash(void)
{
    disk.off = 1;                 /* so that closing does not reach the disk  */
    close_ring();
    if (w.killed)
        disk_restart();
    else
        disk_survive(w.survival, 64);
    w.fake.now_ms += 1000;
    w.crashes++;
    show(w.killed ? "killed" : "power cut", w.survival, KAWS_OK);
}


static kaws_status
try_open(int read_only)
{
    kaws_config cfg = fake_config(&w.fake);
    kaws_error err;
    kaws_status status;

    cfg.rewrap_parallel = 1;
    cfg.cache_seconds = w.next_born % 2 == 0 ? 60 : 0;
    cfg.read_only = w.read_only = read_only;
    status = kaws_open(&w.ring, &cfg, &err);
    HOLDS((status == KAWS_OK) == (w.ring != NULL));
    show(read_only ? "open to read" : "open", w.armed, status);
    check_words(&err);
    return status;
}


/* Opening may fail because of the armed failures. Then it is tried once more,
 * and must succeed. */
static void
open_ring(int read_only)
{
    kaws_status status = try_open(read_only);

    HOLDS(status == KAWS_CONFIG ? w.armed & (ARM_DISK | ARM_STOP)
                                : may_be(status, KAWS_OK));
    if (disk.off)
        crash();
    disarm();
    if (w.ring == NULL)
        HOLDS(try_open(read_only) == KAWS_OK);
    look();
}


/* ---- operations -------------------------------------------------------- */

/* Runs after every operation. `name`: the name that it was about, or -1. */
static void
after(kaws_status status, kaws_status natural, int name, const kaws_error *err)
{
    HOLDS(err->status == status && (err->text[0] == '\0') == (status == 0));
    HOLDS(may_be(status, natural));
    check_words(err);
    if (name >= 0 && status != KAWS_OK && natural == KAWS_OK &&
        (disk.off || w.ring->vault.uncertain))
        w.names[name].unsure = 1;
    if (disk.off) {
        crash();
        disarm();
        open_ring(0);
    } else {
        disarm();
        look();
    }
}


static kaws_status
natural_change(int name, int adds)
{
    if (w.read_only)
        return KAWS_CONFIG;
    if (!adds && !w.names[name].there)
        return KAWS_NOT_FOUND;
    if (w.ring->vault.uncertain)
        return KAWS_UNCERTAIN;
    return adds && w.names[name].there ? KAWS_EXISTS : KAWS_OK;
}


/* Stores a key, or has one generated. */
static void
add(kaws_bytes *in, int store)
{
    int n = (int)(fuzz_number(in, 1) % NAMES), size;
    size_t lens[] = { 1, 16, 32, 600 }, i;
    kaws_status natural = natural_change(n, 1), status;
    kaws_error err;
    known fresh = w.names[n];
    kaws_bytes plain = { fresh.bytes, 0 };

    size = (int)fuzz_number(in, 1);
    plain.len = lens[size % 4];
    if (natural == KAWS_OK) {
        fresh.len = plain.len;
        fresh.born = ++w.next_born;
        fresh.told = store;
        for (i = 0; store && i < plain.len; i++)
            fresh.bytes[i] = (uint8_t)(size + (int)fresh.born * 31 + (int)i);
        w.names[n] = fresh;
    }
    status = store ? kaws_store(w.ring, names[n], "AES", plain, &err)
                   : kaws_generate(w.ring, names[n], "AES", plain.len, &err);
    show(store ? "store" : "generate", n, status);
    if (status == KAWS_OK)
        w.names[n].there = 1;
    after(status, natural, n, &err);
}


static void
fetch(kaws_bytes *in)
{
    int n = (int)(fuzz_number(in, 1) % NAMES);
    known *k = &w.names[n];
    kaws_error err;
    kaws_key key;
    kaws_status status = kaws_fetch(w.ring, names[n], &key, &err);

    show("fetch", n, status);
    if (status == KAWS_OK) {
        HOLDS(key.len == k->len && strcmp(key.type, "AES") == 0);
        HOLDS(!k->told || memcmp(key.bytes, k->bytes, key.len) == 0);
        memcpy(k->bytes, key.bytes, key.len);
        k->told = 1;
    } else {
        HOLDS(key.bytes == NULL && key.len == 0);
    }
    kaws_key_free(w.ring, &key);
    after(status, k->there ? KAWS_OK : KAWS_NOT_FOUND, -1, &err);
}


static void
take_out(kaws_bytes *in)
{
    int n = (int)(fuzz_number(in, 1) % NAMES);
    kaws_status natural = natural_change(n, 0);
    kaws_error err;
    kaws_status status = kaws_remove(w.ring, names[n], &err);

    show("remove", n, status);
    if (status == KAWS_OK)
        w.names[n].there = 0;
    after(status, natural, n, &err);
}


/* Does an operation that is about no name, by its number. */
static void
maintain(kaws_bytes *in, int what)
{
    static const struct { const char *id; kaws_status natural; } ids[] = {
        { FAKE_EAST, KAWS_OK }, { FAKE_EAST2, KAWS_OK }, { FAKE_WEST, KAWS_OK },
        { "alias/two", KAWS_OK }, { "alias/nobody", KAWS_KMS_KEY },
        { FAKE_FOREIGN, KAWS_FOREIGN }, { "no key!", KAWS_ARGUMENT }
    };
    size_t id = (size_t)fuzz_number(in, 1) % 7;
    kaws_status natural = KAWS_OK, status;
    kaws_error err;
    int i, pending = 0;

    switch (what) {
    case 0:
        natural = w.read_only ? KAWS_CONFIG
                : w.ring->vault.uncertain ? KAWS_UNCERTAIN : KAWS_OK;
        status = kaws_rewrap_all(w.ring, &err);
        break;
    case 1:
        natural = ids[id].natural;
        status = kaws_use_kms_key(w.ring, ids[id].id, &err);
        break;
    case 2:
        for (i = 0; i < FAKE_KEYS; i++)
            pending |= w.fake.keys[i].rotates_at > w.fake.now_ms ||
                       w.fake.keys[i].rotations >= 25;
        status = kaws_rotate_kms_key(w.ring, &err);
        if (status == KAWS_SERVICE && pending)
            natural = KAWS_SERVICE;   /* KMS allows no more rotations        */
        break;
    case 3:
        status = kaws_reload_creds(w.ring, &err);
        if (status == KAWS_CONFIG && (w.armed & (ARM_DISK | ARM_STOP)))
            natural = KAWS_CONFIG;
        break;
    default:
        w.fake.knows_no_dry_run = id == 6;
        status = kaws_check(w.ring, &err);
    }
    show("maintain", what, status);
    after(status, natural, -1, &err);
}


/* Another process adds a key, and may remove one. If it only adds, our ring has
 * the key at once. Otherwise our ring changes nothing until it is refreshed. */
static void
intrude(kaws_bytes *in)
{
    kaws *ours = w.ring;
    int how = (int)(fuzz_number(in, 1) % (2 * NAMES)), n = how % NAMES, gone;
    uint64_t before;
    kaws_error err;

    if (w.read_only || w.ring->vault.uncertain ||
        natural_change(n, 1) != KAWS_OK)
        return;
    disarm();
    HOLDS(try_open(0) == KAWS_OK);
    w.names[n].len = 32;
    w.names[n].told = 0;
    w.names[n].born = ++w.next_born;
    HOLDS(kaws_generate(w.ring, names[n], "AES", 32, &err) == KAWS_OK);
    for (gone = 0; gone < NAMES && !w.names[gone].there;)
        gone++;
    if (how < NAMES || gone == NAMES)
        gone = -1;
    else
        HOLDS(kaws_remove(w.ring, names[gone], &err) == KAWS_OK);
    kaws_close(w.ring);
    w.ring = ours;
    w.names[n].there = 1;
    before = disk_hash();
    if (gone >= 0) {
        w.names[gone].there = 0;
        HOLDS(kaws_generate(ours, names[gone], "AES", 16, &err) ==
              KAWS_CHANGED);
        HOLDS(kaws_generate(ours, names[n], "AES", 16, &err) == KAWS_CHANGED);
        HOLDS(kaws_remove(ours, names[n], &err) == KAWS_CHANGED);
        HOLDS(disk_hash() == before);
        HOLDS(kaws_refresh(ours, &err) == KAWS_OK);
    }
    HOLDS(kaws_generate(ours, names[n], "AES", 16, &err) == KAWS_EXISTS);
    show("intrude", how, KAWS_OK);
}


/* ---- what goes wrong --------------------------------------------------- */

static void
arm_disk(kaws_bytes *in, int stop)
{
    static const int errors[] = { EIO, ENOSPC, EDQUOT, EROFS, EINTR, EMFILE,
                                  EACCES, EAGAIN };
    static const disk_fault faults[] = { DISK_ERROR, DISK_FORGET, DISK_SHORT,
                                         DISK_SHORT_ERROR };
    static const disk_fault stops[] = { DISK_STOP_BEFORE, DISK_STOP_MIDWAY,
                                        DISK_STOP_AFTER };
    unsigned call = (unsigned)fuzz_number(in, 1);
    unsigned how = (unsigned)fuzz_number(in, 1);

    if (stop && w.crashes >= CRASHES)
        return;
    w.armed |= stop ? ARM_STOP : ARM_DISK;
    disk.calls = 0;
    disk.at = 1 + call % 40;
    disk.hits = 1 + (call / 40 == 5) * 40;
    disk.portion = how / 16 % 4;
    disk.error = errors[how % 8];
    disk.fault = stop ? stops[how % 3] : faults[how / 8 % 4];
    w.killed = how / 64 % 2;
    w.survival = (uint16_t)(stop ? fuzz_number(in, 2) : 0);
    if (disk.error == EINTR) {    /* nothing was lost, and it does not last   */
        disk.fault = disk.fault == DISK_FORGET ? DISK_ERROR : disk.fault;
        disk.hits = 1;
    }
    if (disk.fault == DISK_SHORT_ERROR)
        disk.hits = 1;            /* a committed length that is half written
                                   * twice ruins the file: nothing mends that */
    if (getenv("FUZZ_SHOW") != NULL)
        (void)fprintf(stderr, "  call %u: fault %d, error %d\n", disk.at,
                      (int)disk.fault, disk.error);
}


/* Arms a state of the disk that lasts for one operation. */
static void
arm_state(kaws_bytes *in)
{
    static const struct { unsigned kinds; int os; } states[] = {
        { DISK_ALL_ROOM, ENOSPC }, { DISK_ALL_CHANGES, EROFS },
        { DISK_ALL_NAMES, EACCES }, { DISK_ALL_SYNCS, EIO },
        { DISK_ALL_NODES, ENOSPC }
    };
    unsigned which = (unsigned)fuzz_number(in, 1) % 5;

    w.armed |= ARM_DISK;
    disk_deny(states[which].kinds, states[which].os);
}


static void
arm_memory(kaws_bytes *in)
{
    size_t n = (size_t)fuzz_number(in, 1);

    w.armed |= ARM_MEMORY;
    if (n % 2 == 0)
        w.fake.fail_nth = w.fake.allocs + 1 + n / 2 % 48;
    else
        w.fake.fail_from = w.fake.allocs + 1 + n / 2 % 48;
}


static void
arm_kms(kaws_bytes *in)
{
    static const fake_script scripts[] = {
        { .no_reply = "Connection refused" },
        { .lost = 1 },
        { .error = "ThrottlingException", .retry_after_ms = 300 },
        { .error = "KMSInternalException" },
        { .error = "AccessDeniedException" },
        { .error = "DisabledException" },
        { .error = "InvalidCiphertextException" },
        { .error = "UnrecognizedClientException" },
        { .error = "InvalidSignatureException", .date = 1700000000 },
        { .error = "com.amazonaws.kms#NotFoundException:x" },
        { .error = "DryRunOperationException" },
        { .http = 500 }, { .http = 301, .body = "<html>" }, { .body = "{}" },
        { .body = "[]" }, { .body = "{\"KeyId\":null}" },
        { .from = "key/", .to = "key/9" }, { .from = "\"}", .to = "\"" },
        { .from = "Blob\":\"", .to = "Blob\":\"=" },
        { .from = "\"KeyId", .to = "\"KeyID" },
        { .from = "111122223333", .to = "444455556666" },
        { .from = "us-east-1", .to = "us-west-2" },
        { .cut = 1 }, { .cut = 40 }, { .cut = 100 }, { .cut = 200 },
        { .same_id = 1 }, { .action = "Encrypt", .previous = 1 },
        { .action = "ReEncrypt", .previous = 1 }, { .http = 408 },
        { .http = 425 }, { .action = "Decrypt", .http = 204 }
    };
    unsigned which = (unsigned)fuzz_number(in, 1), when;
    fake_script script = scripts[which % (sizeof scripts / sizeof scripts[0])];

    when = (unsigned)fuzz_number(in, 1);
    /* Another key's blob, and then a false proof of it, would be believed. */
    if (w.alone || (script.previous && w.scripts > 0) ||
        w.scripts++ >= FAKE_SCRIPTS / 2)
        return;
    w.alone = script.previous;
    w.armed |= ARM_KMS;
    script.skip = (int)(when % 4);
    script.times = when / 4 % 3 == 2 ? 50 : 1 + (int)(when / 4 % 3);
    fake_push(&w.fake, script);
}


static void
step(kaws_bytes *in)
{
    unsigned op = (unsigned)fuzz_number(in, 1) % 24;

    if (op < 5) {
        add(in, op > 2);
    } else if (op < 7) {
        fetch(in);
    } else if (op < 9) {
        take_out(in);
    } else if (op < 14) {
        maintain(in, (int)op - 9);
    } else if (op == 14) {
        close_ring();
        open_ring(fuzz_number(in, 1) % 4 == 0);
    } else if (op == 15) {
        w.killed = (int)fuzz_number(in, 1) % 2;
        w.survival = (uint16_t)fuzz_number(in, 2);
        if (w.crashes < CRASHES) {
            crash();
            disarm();
            open_ring(0);
        }
    } else if (op == 16) {
        intrude(in);
    } else if (op == 17) {
        arm_state(in);
    } else if (op < 20) {
        arm_disk(in, 1);
    } else if (op < 22) {
        arm_disk(in, 0);
    } else if (op == 22) {
        arm_memory(in);
    } else {
        arm_kms(in);
    }
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t every[NAMES] = { 0, 1, 2, 3, 4, 5 };
    kaws_bytes in = { data, size }, all = { every, NAMES };

    if (size > 320)
        return 0;
    begin();
    while (in.len > 0 && in.at[0] % 24 >= 17)
        step(&in);                /* something may go wrong at once           */
    open_ring(0);
    while (in.len > 0)
        step(&in);
    disarm();
    while (all.len > 0)           /* at the end every key must give its bytes */
        fetch(&all);
    close_ring();
    end();
    return 0;
}
