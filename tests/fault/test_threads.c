/* Threads that do all that a ring can do, at once. Each change that returned
 * KAWS_OK must be there in the end, in memory, in the file and after reopening;
 * no other change may be there. Run it under ASan and, above all, under TSan.
 * KAWS_LONG=1 makes it run longer. */

#include "../unit/lock_order.h"
#include "../unit/world.h"

#include <sched.h>

enum { OWNERS = 14, RIVALS = 6, NAMES = 24, SHARED = 5, MAX = 64 };

typedef struct thread {
    struct world *w;
    kaws      *ring;
    int        number, rounds, turns;
    int        strict;                    /* no call may fail                 */
    uint64_t   chance;
    int        there[NAMES];              /* an owner's: 0, or the version    */
    int        added[SHARED], removed[SHARED];    /* a rival's                */
    int        done;                      /* times that the job did succeed   */
    char       wrong[600];                /* cmocka cannot fail in a thread   */
    void     (*job)(struct thread *);
    pthread_t  id;
} thread;

static int stop;                          /* under the fake's lock            */
static pthread_barrier_t start;


static int
rounds(int few)
{
    return getenv("KAWS_LONG") != NULL ? 6 * few : few;
}


static void
complain(thread *t, const char *what, kaws_status status,
         const kaws_error *err)
{
    if (t->wrong[0] == '\0')
        (void)snprintf(t->wrong, sizeof t->wrong, "thread %d, %s: %s: %.400s",
                       t->number, what, kaws_status_text(status), err->text);
}


/* The answer must be that, or of a KMS that does not do as it is told; then a
 * second passes. If the clock stood still, an outage would last for as long as
 * all calls are refused for it. Whether it succeeded. */
static int
went_as(thread *t, const char *what, kaws_status status, kaws_status want,
        const kaws_error *err)
{
    int fault = status == KAWS_NETWORK || status == KAWS_THROTTLED ||
                status == KAWS_REPLY || status == KAWS_CREDENTIALS ||
                status == KAWS_SERVICE;

    if (status != want && (t->strict || !fault))
        complain(t, what, status, err);
    if (fault)
        fake_sleep_ms(&t->w->f, 1000);
    t->done += status == KAWS_OK;
    return status == KAWS_OK;
}


/* It may also succeed: that depends on the others. */
static int
went_well(thread *t, const char *what, kaws_status status, kaws_status may,
          const kaws_error *err)
{
    return went_as(t, what, status, status == KAWS_OK ? KAWS_OK : may, err);
}

#define MAY(other, call) went_well(t, #call, call, other, &err)


static size_t
random_below(thread *t, size_t n)
{
    t->chance = t->chance * 6364136223846793005u + 1442695040888963407u;
    return (size_t)(t->chance >> 33) % n;
}


/* For those who go on until they are stopped: but three times at least. */
static int
go_on(thread *t)
{
    int answer;

    sched_yield();
    pthread_mutex_lock(&t->w->f.lock);
    answer = !stop;
    pthread_mutex_unlock(&t->w->f.lock);
    return t->turns++ < 3 || answer;
}


/* ---- those who change keys --------------------------------------------- */

static const char *
worded(char out[48], const char *word, int number)
{
    (void)snprintf(out, 48, "%s%d", word, number);
    return out;
}


/* What an owner stores: of even versions text, of odd ones a key of KMS's. */
static void
text_of(char out[48], int owner, int name, int version)
{
    (void)snprintf(out, 48, "owner %d name %d version %d", owner, name,
                   version);
}


static void
check_key(thread *t, kaws_name name, int i)
{
    int version = t->there[i];
    char text[48];
    kaws_error err;
    kaws_key key;

    text_of(text, t->number, i, version);
    if (went_as(t, "fetch", kaws_fetch(t->ring, name, &key, &err),
                version > 0 ? KAWS_OK : KAWS_NOT_FOUND, &err) &&
        (version == 0 || key.len != (version % 2 ? 32 : strlen(text)) ||
         (version % 2 == 0 && memcmp(key.bytes, text, key.len) != 0)))
        complain(t, "another key was fetched", KAWS_OK, &err);
    kaws_key_free(t->ring, &key);
}


/* Has names of its own, so it knows what must be there. */
static void
own_names(thread *t)
{
    char user[48], key_id[48], text[48];
    kaws_name name = { key_id, worded(user, "owner", t->number) };
    kaws_error err;
    kaws_status status;
    int round, i, version = 0;

    for (round = 0; round < t->rounds; round++) {
        i = (int)random_below(t, NAMES);
        (void)worded(key_id, "k", i);
        text_of(text, t->number, i, ++version);
        switch (random_below(t, 4)) {
        case 0:
            status = kaws_remove(t->ring, name, &err);
            if (went_as(t, "remove", status, t->there[i] > 0
                        ? KAWS_OK : KAWS_NOT_FOUND, &err))
                t->there[i] = 0;
            break;
        case 1:
            check_key(t, name, i);
            break;
        default:
            status = version % 2 == 0
                ? kaws_store(t->ring, name, "SECRET", kaws__buf_of(text), &err)
                : kaws_generate(t->ring, name, "AES", 32, &err);
            if (went_as(t, "add", status, t->there[i] > 0
                        ? KAWS_EXISTS : KAWS_OK, &err))
                t->there[i] = version;
        }
        if (t->w->cfg.cache_seconds > 0) {
            check_key(t, name, i);
            check_key(t, name, i);
        }
    }
}


/* Fights with others for few names; each counts what it won. */
static void
fight_for_names(thread *t)
{
    char key_id[48];
    kaws_name name = { key_id, NULL };
    kaws_error err;
    kaws_key key;
    int round;

    for (round = 0; round < t->rounds; round++) {
        size_t i = random_below(t, SHARED);
        (void)worded(key_id, "shared", (int)i);
        t->added[i] += MAY(KAWS_EXISTS, kaws_generate(t->ring, name, "AES", 16,
                                                      &err));
        if (MAY(KAWS_NOT_FOUND, kaws_fetch(t->ring, name, &key, &err)) &&
            key.len != 16)
            complain(t, "a key of another length", KAWS_OK, &err);
        kaws_key_free(t->ring, &key);
        t->removed[i] += MAY(KAWS_NOT_FOUND, kaws_remove(t->ring, name, &err));
    }
}


/* ---- those who look, and those who disturb, until they are stopped ----- */

static void
walk_about(thread *t)
{
    kaws_entry_info info;
    kaws_error err;
    kaws_stats stats;
    kaws_walk *walk;

    while (go_on(t)) {
        if (!MAY(KAWS_OK, kaws_walk_begin(t->ring, &walk, &err)))
            return;
        while (kaws_walk_next(walk, &info)) {
            if (info.created == 0 || info.len == 0 ||
                strncmp(info.kms_key_arn, "arn:aws:kms:", 12) != 0)
                complain(t, "a walk saw nonsense", KAWS_OK, &err);
        }
        kaws_walk_end(walk);
        kaws_get_stats(t->ring, &stats);
        if (stats.rewrap_done > stats.rewrap_total)
            complain(t, "more re-wrapped than there are", KAWS_OK, &err);
    }
}


static void
change_kms_keys(thread *t)
{
    static const char *const keys[] = { FAKE_EAST2, FAKE_WEST, "alias/app",
                                        FAKE_EAST };
    const char *region;
    kaws_error err;
    int i;

    for (i = 0; go_on(t); i++) {
        region = i % 8 < 4 ? "us-west-2" : "us-east-1";
        (void)MAY(KAWS_OK, kaws_use_kms_key(t->ring, keys[i % 4], &err));
        (void)MAY(KAWS_OK, kaws_use_region(t->ring, region, &err));
        (void)MAY(KAWS_OK, kaws_check(t->ring, &err));
        kaws_use_timeouts(t->ring, 1000 + i % 3, 10000 + i % 5);
    }
}


static void
change_pairs(thread *t)
{
    const char *key, *region;
    kaws_error err;
    int i;

    for (i = 0; go_on(t); i++) {
        key = i % 3 ? "alias/app" : FAKE_EAST2;
        region = i % 2 ? "us-west-2" : "us-east-1";
        (void)MAY(KAWS_OK, kaws_try(t->ring, key, region, &err));
        (void)MAY(KAWS_OK, kaws_use(t->ring, key, region, &err));
    }
}


static void
rewrap(thread *t)
{
    kaws_error err;

    while (go_on(t))
        (void)MAY(KAWS_RUNNING, kaws_rewrap_all(t->ring, &err));
}


static void
rotate(thread *t)
{
    kaws_error err;
    int i;

    for (i = 0; i < 12 && go_on(t); i++)
        (void)MAY(KAWS_OK, kaws_rotate_kms_key(t->ring, &err));
}


static void
reload(thread *t)
{
    kaws_error err;

    while (go_on(t))
        (void)MAY(KAWS_OK, kaws_reload_creds(t->ring, &err));
}


/* New credentials now and then: first the file, whole, then the KMS. */
static void
change_creds(thread *t)
{
    struct fake *f = &t->w->f;
    char text[128], path[128], id[32];
    int i;

    for (i = 0; i < 400 && go_on(t); i++) {
        struct timespec pause = { 0, 2000000 };
        FILE *to;
        (void)snprintf(id, sizeof id, "ID%d", i);
        (void)snprintf(text, sizeof text, "%s\n" FAKE_SECRET "\n", id);
        (void)snprintf(path, sizeof path, "%s.new", f->conf);
        to = fopen(path, "w");
        if (to == NULL || fputs(text, to) < 0 || fclose(to) != 0 ||
            rename(path, f->conf) != 0)
            abort();
        pthread_mutex_lock(&f->lock);
        (void)snprintf(f->id, sizeof f->id, "%s", id);
        pthread_mutex_unlock(&f->lock);
        nanosleep(&pause, NULL);
        t->done++;
    }
}


/* ---- a KMS that is not at its best ------------------------------------- */

static int
send_badly(void *ctx, const kaws_request *q, kaws_reply *r)
{
    uint8_t chance;
    int answer;

    (void)fake_random(ctx, &chance, 1);
    if (chance % 8 == 7)
        sched_yield();
    if (chance < 6)
        return 1;                         /* it never arrived                 */
    answer = fake_send(ctx, q, r);
    if (chance < 10)
        return 1;                         /* the reply was lost               */
    if (chance >= 24)
        return answer;
    r->http = chance < 14 ? 503 : chance < 20 ? 429 : 200;
    r->body_len = (size_t)snprintf((char *)r->body, r->body_max, "<html>");
    return 0;
}


/* ---- the tests --------------------------------------------------------- */

static void *
run_thread(void *arg)
{
    thread *t = arg;

    pthread_barrier_wait(&start);
    t->job(t);
    return NULL;
}


/* The owners and the rivals end by themselves, and with them all the others. */
static void
run_all(thread *threads, int count)
{
    struct world *w = threads[0].w;
    int i;

    stop = 0;
    assert_int_equal(pthread_barrier_init(&start, NULL, (unsigned)count), 0);
    for (i = 0; i < count; i++)
        assert_int_equal(pthread_create(&threads[i].id, NULL, run_thread,
                                        &threads[i]), 0);
    for (i = 0; i < count; i++) {
        if (i == OWNERS + RIVALS) {
            pthread_mutex_lock(&w->f.lock);
            stop = 1;
            pthread_mutex_unlock(&w->f.lock);
        }
        pthread_join(threads[i].id, NULL);
    }
    pthread_barrier_destroy(&start);
    for (i = 0; i < count; i++)
        if (threads[i].wrong[0] != '\0')
            fail_msg("%s", threads[i].wrong);
}


/* What is in the ring is what the threads say. */
static void
expect_sums(struct world *w, thread *threads)
{
    uint64_t want = 0;
    char user[48], key_id[48];
    kaws_name name = { key_id, user };
    kaws_stats stats;
    kaws_key key;
    int t, i, left;

    LATER(w);                             /* all tries may have been in vain  */
    for (t = 0; t < OWNERS; t++) {
        (void)worded(user, "owner", t);
        threads[t].strict = 1;
        threads[t].ring = w->ring;
        for (i = 0; i < NAMES; i++) {
            (void)worded(key_id, "k", i);
            check_key(&threads[t], name, i);
            want += threads[t].there[i] > 0;
        }
        if (threads[t].wrong[0] != '\0')
            fail_msg("%s", threads[t].wrong);
    }
    name.user_id = NULL;
    for (i = 0; i < SHARED; i++) {
        for (left = 0, t = OWNERS; t < OWNERS + RIVALS; t++)
            left += threads[t].added[i] - threads[t].removed[i];
        assert_in_range(left, 0, 1);
        (void)worded(key_id, "shared", i);
        assert_int_equal(kaws_fetch(w->ring, name, &key, NULL),
                         left ? KAWS_OK : KAWS_NOT_FOUND);
        kaws_key_free(w->ring, &key);
        want += (uint64_t)left;
    }
    kaws_get_stats(w->ring, &stats);
    assert_int_equal(stats.keys, want);
}


/* Turns the cache off and on, if it is on; and not off before it was used: else
 * it might be off, by chance, whenever a key is fetched again. */
static void
change_cache(thread *t)
{
    kaws_stats stats;
    uint64_t hits = 0;
    int i = 0;

    while (go_on(t)) {
        kaws_get_stats(t->ring, &stats);
        if (t->w->cfg.cache_seconds > 0 &&
            (i % 3 == 1 || stats.cache_hits > hits)) {
            hits = stats.cache_hits;
            kaws_use_cache(t->ring, i++ % 3 * 30);
        }
    }
    t->done++;
}


static void
all_at_once(struct world *w, int strict)
{
    static void (*const jobs[])(thread *) = {
        walk_about, walk_about, change_kms_keys, change_pairs, rewrap, rewrap,
        rotate, reload, change_cache, change_creds
    };
    static thread threads[MAX];
    int i, count = OWNERS + RIVALS + (int)COUNT(jobs) - strict;
    int rewrapped = 0;
    kaws_stats stats;

    memset(threads, 0, sizeof threads);
    for (i = 0; i < count; i++) {
        threads[i].w = w;
        threads[i].ring = w->ring;
        threads[i].number = i;
        threads[i].strict = strict;
        threads[i].chance = (uint64_t)i * 77 + 5;
        threads[i].rounds = rounds(i < OWNERS ? 40 : 15);
        threads[i].job = i < OWNERS ? own_names
                       : i < OWNERS + RIVALS ? fight_for_names
                       : jobs[i - OWNERS - RIVALS];
    }
    run_all(threads, count);
    for (i = 0; i < (strict ? count : OWNERS + RIVALS); i++) {
        if (threads[i].job == rewrap)
            rewrapped += threads[i].done;         /* one of them may be late  */
        else
            assert_true(threads[i].done > 0);
    }
    assert_true(rewrapped > 0 || !strict);
    kaws_get_stats(w->ring, &stats);
    assert_true((stats.cache_hits > 0) == (w->cfg.cache_seconds > 0));
    w->ring->hooks.send = fake_send;
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_EAST, &w->err));
    expect_sums(w, threads);
    world_reopen(w);
    expect_sums(w, threads);
    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
    expect_sums(w, threads);
}


/* The KMS is at its best, or loses requests and replies; the cache is off, or
 * on: nobody may be told of a key that it was before. */
static void
test_all_at_once(void **state)
{
    struct world *w = *state;
    kaws_stats stats;
    int i, faults;

    for (i = 0; i < 4; i++) {
        faults = i % 2;
        w->cfg.cache_seconds = i < 2 ? 0 : 30;
        w->cfg.rewrap_parallel = 4;
        w->cfg.timeout_ms = faults ? 100000000 : 0;   /* sleeps move clocks   */
        w->cfg.hooks.send = faults ? send_badly : fake_send;
        world_open(w);
        w->cfg.hooks.send = fake_send;
        all_at_once(w, !faults);
        kaws_get_stats(w->ring, &stats);
        assert_true(faults || stats.kms_errors == 0);
        world_end(state);
        assert_int_equal(world_begin(state), 0);
        w = *state;
    }
}


/* Every thread with a ring of its own on one file: as processes would. None has
 * to open it again because of what another one adds. */
static void
share_a_file(thread *t)
{
    kaws_config cfg = t->w->cfg;
    kaws_error err;
    kaws *ring = NULL;
    char key_id[48], user[48];
    kaws_name name = { key_id, worded(user, "owner", t->number) };
    kaws_status status;
    int tries, i = 0;

    for (tries = 0; tries < 20000 && i < t->rounds; tries++) {
        if (ring == NULL && kaws_open(&ring, &cfg, &err) != KAWS_OK) {
            if (err.status != KAWS_LOCKED)
                complain(t, "open", err.status, &err);
            sched_yield();
            continue;
        }
        (void)worded(key_id, "k", i);
        status = kaws_generate(ring, name, "AES", 32, &err);
        if (status == KAWS_OK)
            t->there[i++] = 1;
        else if (status != KAWS_LOCKED)
            complain(t, "generate", status, &err);
        if (tries % 7 == 0) {
            kaws_close(ring);
            ring = NULL;
        }
        sched_yield();
    }
    kaws_close(ring);
    if (i < t->rounds)
        complain(t, "starved", KAWS_LOCKED, &err);
}


static void
test_rings_that_share_a_file(void **state)
{
    struct world *w = *state;
    static thread threads[MAX];
    kaws_stats stats;
    int i;

    memset(threads, 0, sizeof threads);
    for (i = 0; i < 4; i++) {
        threads[i].w = w;
        threads[i].number = i;
        threads[i].rounds = NAMES;
        threads[i].job = share_a_file;
    }
    run_all(threads, 4);
    world_open(w);
    kaws_get_stats(w->ring, &stats);
    assert_int_equal(stats.keys, 4 * NAMES);
    for (i = 0; i < 4 * NAMES; i++) {
        char user[48], key_id[48];
        kaws_key key;
        EXPECT(w, KAWS_OK, NULL, kaws_fetch(
            w->ring, name_of(worded(key_id, "k", i % NAMES),
                             worded(user, "owner", i / NAMES)), &key, &w->err));
        kaws_key_free(w->ring, &key);
    }
}


/* ---- one ring, while another process is at its file --------------------- */

static kaws *other_ring;                  /* theirs                           */
static int refreshers;                    /* threads that still do so         */


/* Another process: adds, removes, re-wraps, in turns. */
static void
change_theirs(thread *t)
{
    char key_id[48];
    kaws_error err;
    kaws_status status;
    int i;

    for (i = 0; i < 4 * t->rounds; i++) {
        kaws_name name = { worded(key_id, "theirs", i / 2), "" };
        status = kaws_refresh(other_ring, &err);
        if (status == KAWS_OK)
            status = i % 2 == 0 ? kaws_generate(other_ring, name, "AES", 32,
                                                &err)
                   : i % 8 == 7 ? kaws_rewrap_all(other_ring, &err)
                   : i % 4 == 1 ? kaws_remove(other_ring, name, &err) : KAWS_OK;
        if (status != KAWS_OK && status != KAWS_CHANGED &&
            status != KAWS_LOCKED && status != KAWS_NOT_FOUND)
            complain(t, "theirs", status, &err);
        t->done++;
        sched_yield();
    }
    __atomic_sub_fetch(&refreshers, 1, __ATOMIC_RELAXED);
}


static void
refresh_ours(thread *t)
{
    kaws_error err;
    kaws_status status;

    while (__atomic_load_n(&refreshers, __ATOMIC_RELAXED) > 0) {
        status = kaws_refresh(t->ring, &err);
        if (status != KAWS_OK && status != KAWS_LOCKED)
            complain(t, "refresh", status, &err);
        t->done++;
        sched_yield();
    }
}


/* A key that nobody removes is always there; all else has some answer. */
static void
use_ours(thread *t)
{
    kaws_error err;
    kaws_entry_info info;
    kaws_stats stats;
    kaws_walk *walk;
    kaws_status status;
    kaws_key key;
    char key_id[48];
    int n = 0, kept;

    while (__atomic_load_n(&refreshers, __ATOMIC_RELAXED) > 0) {
        status = kaws_fetch(t->ring, name_of("kept", ""), &key, &err);
        if (status != KAWS_OK)
            complain(t, "fetch", status, &err);
        kaws_key_free(t->ring, &key);
        status = kaws_fetch(t->ring, name_of(worded(key_id, "theirs", n / 9),
                                             ""), &key, &err);
        if (status != KAWS_OK && status != KAWS_NOT_FOUND &&
            status != KAWS_CHANGED && status != KAWS_LOCKED)
            complain(t, "fetch theirs", status, &err);
        kaws_key_free(t->ring, &key);
        kept = 0;
        status = kaws_walk_begin(t->ring, &walk, &err);
        while (status == KAWS_OK && kaws_walk_next(walk, &info))
            kept += strcmp(info.name.key_id, "kept") == 0;
        kaws_walk_end(walk);
        kaws_get_stats(t->ring, &stats);
        if (kept != 1 || stats.keys == 0)
            complain(t, "walk", status, &err);
        if (n++ % 16 == 0) {
            status = t->number % 2 ? kaws_rewrap_all(t->ring, &err)
                   : kaws_generate(t->ring,
                                   name_of(worded(key_id, "ours",
                                          1000 * t->number + n), ""),
                                   "AES", 32, &err);
            if (status != KAWS_OK && status != KAWS_CHANGED &&
                status != KAWS_LOCKED && status != KAWS_RUNNING)
                complain(t, "change", status, &err);
        }
        t->done++;
        sched_yield();
    }
}


static void
test_refreshed_while_used(void **state)
{
    struct world *w = *state;
    static thread threads[MAX];
    kaws_key key;
    int i;

    world_open(w);
    EXPECT(w, KAWS_OK, NULL, kaws_generate(w->ring, name_of("kept", ""), "AES",
                                           32, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_open(&other_ring, &w->cfg, &w->err));
    memset(threads, 0, sizeof threads);
    refreshers = 1;
    for (i = 0; i < 6; i++) {
        threads[i].w = w;
        threads[i].ring = w->ring;
        threads[i].number = i;
        threads[i].rounds = rounds(10);
        threads[i].job = i == 0 ? change_theirs : i == 1 ? refresh_ours
                       : use_ours;
    }
    run_all(threads, 6);
    kaws_close(other_ring);
    EXPECT(w, KAWS_OK, NULL, kaws_refresh(w->ring, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_fetch(w->ring, name_of("kept", ""), &key,
                                        &w->err));
    kaws_key_free(w->ring, &key);
    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
    world_reopen(w);
}


/* ---- whom to trust, learned by all at once ----------------------------- */

static void
fetch_one(thread *t)
{
    static const char *const names[] = { "east", "east2", "west" };
    kaws_error err;
    kaws_key key;
    kaws_status status;

    status = kaws_fetch(t->ring, name_of(names[t->number % 3], ""), &key, &err);
    (void)went_as(t, "fetch", status, KAWS_OK, &err);
    kaws_key_free(t->ring, &key);
}


/* The account of an alias is unknown until somebody asks: all do, for keys that
 * its KMS key sealed, or another one did. */
static void
test_first_fetches(void **state)
{
    static const char *const arns[] = { FAKE_EAST, FAKE_EAST2, FAKE_WEST };
    static const char *const names[] = { "east", "east2", "west" };
    static thread threads[9];
    struct world *w = *state;
    kaws_stats stats;
    int round, i;

    world_open(w);
    for (i = 0; i < 3; i++) {
        EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, arns[i], &w->err));
        EXPECT(w, KAWS_OK, NULL, kaws_generate(w->ring, name_of(names[i], ""),
                                               "AES", 32, &w->err));
    }
    w->cfg.kms_key_id = "alias/app";
    for (round = 0; round < rounds(30); round++) {
        world_reopen(w);
        memset(threads, 0, sizeof threads);
        for (i = 0; i < (int)COUNT(threads); i++) {
            threads[i].w = w;
            threads[i].ring = w->ring;
            threads[i].number = i;
            threads[i].strict = 1;
            threads[i].job = fetch_one;
        }
        run_all(threads, (int)COUNT(threads));
        kaws_get_stats(w->ring, &stats);
        assert_in_range(stats.kms_requests, 9, 18);
        assert_string_equal(w->ring->kms.trust.own, "aws " FAKE_OWN);
    }
}


/* ---- one call for a crowd ----------------------------------------------- */

static void
fetch_often(thread *t)
{
    int i;

    for (i = 0; i < t->rounds; i++)
        fetch_one(t);
}


/* Sixty-four threads and three keys: three calls, until the time is up. */
static void
test_a_crowd(void **state)
{
    static const char *const names[] = { "east", "east2", "west" };
    static thread threads[MAX];
    struct world *w = *state;
    kaws_stats stats;
    int round, i;

    w->cfg.cache_seconds = 1;
    world_open(w);
    for (i = 0; i < 3; i++)
        EXPECT(w, KAWS_OK, NULL, kaws_generate(w->ring, name_of(names[i], ""),
                                               "AES", 32, &w->err));
    for (round = 1; round <= rounds(10); round++) {
        memset(threads, 0, sizeof threads);
        for (i = 0; i < MAX; i++) {
            threads[i].w = w;
            threads[i].ring = w->ring;
            threads[i].number = i;
            threads[i].strict = 1;
            threads[i].rounds = 50;
            threads[i].job = fetch_often;
        }
        run_all(threads, MAX);
        kaws_get_stats(w->ring, &stats);
        assert_int_equal(stats.kms_requests, 3 + 3 * round);
        w->f.now_ms += 1000;
    }
}


/* ---- what a failed re-wrap gives back, while keys go ------------------- */

static struct meeting {
    pthread_t rewrapper;
    kaws     *ring;
    int       failing, met;               /* atomic, and order nothing        */
} meeting;


/* Memory as malloc has it: a lock of the fake's would order all that we want to
 * see unordered. The first fresh entry that is given back waits a while. */
static void *
meet(void *ctx, void *ptr, size_t old_len, size_t new_len)
{
    (void)ctx;
    if (new_len > 0)
        return malloc(new_len);
    if (__atomic_load_n(&meeting.failing, __ATOMIC_RELAXED) &&
        pthread_equal(pthread_self(), meeting.rewrapper) && old_len > 100 &&
        old_len < 500 && !__atomic_exchange_n(&meeting.met, 1,
                                              __ATOMIC_RELAXED))
        usleep(50000);
    free(ptr);
    return NULL;
}


/* Lets the second key fail. */
static int
fail_second(void *ctx, const kaws_request *q, kaws_reply *r)
{
    static int seen;
    int answer = fake_send(ctx, q, r), i;

    for (i = 0; q->headers[i] != NULL; i++)
        if (strstr(q->headers[i], "TrentService.ReEncrypt") != NULL &&
            ++seen == 2) {
            r->body_len = 2;
            memcpy(r->body, "{}", 2);
            __atomic_store_n(&meeting.failing, 1, __ATOMIC_RELAXED);
        }
    return answer;
}


static void *
remove_both(void *unused)
{
    (void)unused;
    while (!__atomic_load_n(&meeting.met, __ATOMIC_RELAXED))
        usleep(100);
    (void)kaws_remove(meeting.ring, name_of("a", ""), NULL);
    (void)kaws_remove(meeting.ring, name_of("b", ""), NULL);
    return NULL;
}


/* The bytes of the file go with the last key in them, and must not while the
 * new entries are let go, which are looked for among them. */
static void
test_a_failed_rewrap_while_keys_go(void **state)
{
    struct world *w = *state;
    kaws_stats stats;
    pthread_t remover;

    w->cfg.rewrap_parallel = 1;
    w->cfg.hooks.memory = meet;
    w->cfg.hooks.send = fail_second;
    world_open(w);
    EXPECT(w, KAWS_OK, NULL, kaws_generate(w->ring, name_of("a", ""), "AES",
                                           32, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_generate(w->ring, name_of("b", ""), "AES",
                                           32, &w->err));
    world_reopen(w);
    meeting.rewrapper = pthread_self();
    meeting.ring = w->ring;
    assert_int_equal(pthread_create(&remover, NULL, remove_both, NULL), 0);
    EXPECT(w, KAWS_REPLY, "re-wrapping the key 'b'",
           kaws_rewrap_all(w->ring, &w->err));
    assert_int_equal(pthread_join(remover, NULL), 0);
    kaws_get_stats(w->ring, &stats);
    assert_int_equal(stats.keys, 0);
    assert_int_equal(__atomic_load_n(&meeting.met, __ATOMIC_RELAXED), 1);
    world_close(w);
}


int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, world_begin, world_end)
    const struct CMUnitTest tests[] = {
        TEST(test_all_at_once),
        TEST(test_rings_that_share_a_file),
        TEST(test_refreshed_while_used),
        TEST(test_first_fetches),
        TEST(test_a_crowd),
        TEST(test_a_failed_rewrap_while_keys_go)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
