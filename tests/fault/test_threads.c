/* Threads: all that a ring can do, at once. What was answered with KAWS_OK must
 * be there in the end, in memory, in the file and after reopening; what was
 * not, must not. To be run under ASan and, which is the point, under TSan.
 * KAWS_LONG=1 makes it go on for longer. */

#define KEYRING_AWS_CHECK_LOCKS
#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "../unit/world.h"

#include <sched.h>

enum { OWNERS = 14, RIVALS = 6, NAMES = 24, SHARED = 5, MAX = 32 };

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


/* What a KMS that does not do as it is told can make of a call. */
static int
is_fault(const thread *t, kaws_status status)
{
    static const kaws_status faults[] = { KAWS_NETWORK, KAWS_THROTTLED,
        KAWS_REPLY, KAWS_CREDENTIALS, KAWS_SERVICE };
    size_t i;

    for (i = 0; i < COUNT(faults) && !t->strict; i++)
        if (status == faults[i])
            return 1;
    return 0;
}


/* The answer must be that, or a fault. Whether it succeeded. */
static int
went_as(thread *t, const char *what, kaws_status status, kaws_status want,
        const kaws_error *err)
{
    if (status != want && !is_fault(t, status))
        complain(t, what, status, err);
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

static void
text_of(char out[48], int owner, int name, int version)
{
    (void)snprintf(out, 48, "owner %d name %d version %d", owner, name,
                   version);
}


static void
check_key(thread *t, kaws_name name, int i)
{
    char text[48];
    kaws_error err;
    kaws_key key;
    kaws_status status = kaws_fetch(t->ring, name, &key, &err);

    if (!went_as(t, "fetch", status, t->there[i] > 0 ? KAWS_OK
                                                    : KAWS_NOT_FOUND, &err))
        return;
    text_of(text, t->number, i, t->there[i]);
    if (t->there[i] == 0 ||
        (t->there[i] % 2 == 0 && (key.len != strlen(text) ||
                                  memcmp(key.bytes, text, key.len) != 0)) ||
        (t->there[i] % 2 == 1 && key.len != 32))
        complain(t, "another key was fetched", status, &err);
    kaws_key_free(t->ring, &key);
}


/* Has names of its own, so it knows what must be there. */
static void
own_names(thread *t)
{
    char user[24], key_id[24], text[48];
    kaws_error err;
    kaws_status status;
    int round, i, version = 0;

    (void)snprintf(user, sizeof user, "owner%d", t->number);
    for (round = 0; round < t->rounds; round++) {
        kaws_name name = { key_id, user };
        i = (int)random_below(t, NAMES);
        (void)snprintf(key_id, sizeof key_id, "k%d", i);
        version++;
        text_of(text, t->number, i, version);
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
    }
}


/* Fights with others for few names; each counts what it won. */
static void
fight_for_names(thread *t)
{
    char key_id[16];
    kaws_error err;
    kaws_status status;
    int round;

    for (round = 0; round < t->rounds; round++) {
        size_t i = random_below(t, SHARED);
        kaws_name name = { key_id, NULL };
        kaws_key key;
        (void)snprintf(key_id, sizeof key_id, "shared%lu", (unsigned long)i);
        status = kaws_generate(t->ring, name, "AES", 16, &err);
        t->added[i] += went_well(t, "add", status, KAWS_EXISTS, &err);
        status = kaws_fetch(t->ring, name, &key, &err);
        if (went_well(t, "fetch", status, KAWS_NOT_FOUND, &err)) {
            if (key.len != 16)
                complain(t, "a key of another length", status, &err);
            kaws_key_free(t->ring, &key);
        }
        status = kaws_remove(t->ring, name, &err);
        t->removed[i] += went_well(t, "remove", status, KAWS_NOT_FOUND, &err);
    }
}


/* ---- those who look, and those who disturb, until they are stopped ----- */

static void
walk_about(thread *t)
{
    kaws_error err;
    kaws_stats stats;

    while (go_on(t)) {
        kaws_entry_info info;
        kaws_walk *walk;
        kaws_status status = kaws_walk_begin(t->ring, &walk, &err);
        if (!went_well(t, "walk", status, KAWS_OK, &err))
            return;
        while (kaws_walk_next(walk, &info)) {
            if (info.created == 0 || info.len == 0 ||
                strncmp(info.kms_key_arn, "arn:aws:kms:", 12) != 0)
                complain(t, "a walk saw nonsense", status, &err);
        }
        kaws_walk_end(walk);
        kaws_get_stats(t->ring, &stats);
        if (stats.rewrap_done > stats.rewrap_total)
            complain(t, "more re-wrapped than there are", status, &err);
    }
}


static void
change_kms_keys(thread *t)
{
    static const char *const keys[] = { FAKE_EAST2, FAKE_WEST, "alias/app",
                                        FAKE_EAST };
    kaws_error err;
    kaws_status status;
    int i;

    for (i = 0; go_on(t); i++) {
        status = kaws_use_kms_key(t->ring, keys[i % 4], &err);
        (void)went_well(t, "use_kms_key", status, KAWS_OK, &err);
        status = kaws_use_region(t->ring, i % 8 < 4 ? "us-west-2"
                                                   : "us-east-1", &err);
        (void)went_well(t, "use_region", status, KAWS_OK, &err);
        status = kaws_check(t->ring, &err);
        (void)went_well(t, "check", status, KAWS_OK, &err);
        kaws_use_timeouts(t->ring, 1000 + i % 3, 10000 + i % 5);
    }
}


static void
change_pairs(thread *t)
{
    const char *key, *region;
    kaws_error err;
    kaws_status status;
    int i;

    for (i = 0; go_on(t); i++) {
        key = i % 3 ? "alias/app" : FAKE_EAST2;
        region = i % 2 ? "us-west-2" : "us-east-1";
        status = kaws_try(t->ring, key, region, &err);
        (void)went_well(t, "try", status, KAWS_OK, &err);
        status = kaws_use(t->ring, key, region, &err);
        (void)went_well(t, "use", status, KAWS_OK, &err);
    }
}


static void
rewrap(thread *t)
{
    kaws_error err;
    kaws_status status;

    while (go_on(t)) {
        status = kaws_rewrap_all(t->ring, &err);
        (void)went_well(t, "rewrap", status, KAWS_RUNNING, &err);
    }
}


static void
rotate(thread *t)
{
    kaws_error err;
    kaws_status status;
    int i;

    for (i = 0; i < 12 && go_on(t); i++) {
        status = kaws_rotate_kms_key(t->ring, &err);
        (void)went_well(t, "rotate", status, KAWS_OK, &err);
    }
}


static void
reload(thread *t)
{
    kaws_error err;
    kaws_status status;

    while (go_on(t)) {
        status = kaws_reload_creds(t->ring, &err);
        (void)went_well(t, "reload", status, KAWS_OK, &err);
    }
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
    char user[24], key_id[24];
    kaws_stats stats;
    kaws_key key;
    int t, i, left;

    for (t = 0; t < OWNERS; t++) {
        (void)snprintf(user, sizeof user, "owner%d", t);
        threads[t].strict = 1;
        threads[t].ring = w->ring;
        for (i = 0; i < NAMES; i++) {
            kaws_name name = { key_id, user };
            (void)snprintf(key_id, sizeof key_id, "k%d", i);
            check_key(&threads[t], name, i);
            want += threads[t].there[i] > 0;
        }
        if (threads[t].wrong[0] != '\0')
            fail_msg("%s", threads[t].wrong);
    }
    for (i = 0; i < SHARED; i++) {
        for (left = 0, t = OWNERS; t < OWNERS + RIVALS; t++)
            left += threads[t].added[i] - threads[t].removed[i];
        (void)snprintf(key_id, sizeof key_id, "shared%d", i);
        assert_in_range(left, 0, 1);
        assert_int_equal(kaws_fetch(w->ring, name_of(key_id, NULL), &key,
                                    NULL), left ? KAWS_OK : KAWS_NOT_FOUND);
        kaws_key_free(w->ring, &key);
        want += (uint64_t)left;
    }
    kaws_get_stats(w->ring, &stats);
    assert_int_equal(stats.keys, want);
}


static void
all_at_once(struct world *w, int strict)
{
    static void (*const jobs[])(thread *) = {
        walk_about, walk_about, change_kms_keys, change_pairs, rewrap, rewrap,
        rotate, reload, change_creds
    };
    static thread threads[MAX];
    int i, count = OWNERS + RIVALS + (int)COUNT(jobs) - strict;
    int rewrapped = 0;

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
    w->ring->hooks.send = fake_send;
    EXPECT(w, KAWS_OK, NULL, kaws_use_kms_key(w->ring, FAKE_EAST, &w->err));
    expect_sums(w, threads);
    world_reopen(w);
    expect_sums(w, threads);
    EXPECT(w, KAWS_OK, NULL, kaws_rewrap_all(w->ring, &w->err));
    expect_sums(w, threads);
}


static void
test_all_at_once(void **state)
{
    struct world *w = *state;
    kaws_stats stats;

    w->cfg.rewrap_parallel = 4;
    world_open(w);
    all_at_once(w, 1);
    kaws_get_stats(w->ring, &stats);
    assert_int_equal(stats.kms_errors, 0);
}


static void
test_all_at_once_with_faults(void **state)
{
    struct world *w = *state;

    w->cfg.rewrap_parallel = 4;
    w->cfg.timeout_ms = 100000000;        /* the clock runs with every sleep  */
    w->cfg.hooks.send = send_badly;
    world_open(w);
    w->cfg.hooks.send = fake_send;
    all_at_once(w, 0);
}


/* Every thread with a ring of its own on one file: as processes would. Whoever
 * is told that the file has changed opens it anew, and goes on. */
static void
share_a_file(thread *t)
{
    kaws_config cfg = t->w->cfg;
    kaws_error err;
    kaws *ring = NULL;
    char key_id[24], user[24];
    int tries, i = 0;

    (void)snprintf(user, sizeof user, "owner%d", t->number);
    for (tries = 0; tries < 20000 && i < t->rounds; tries++) {
        kaws_name name = { key_id, user };
        kaws_status status;
        if (ring == NULL && kaws_open(&ring, &cfg, &err) != KAWS_OK) {
            if (err.status != KAWS_LOCKED)
                complain(t, "open", err.status, &err);
            sched_yield();
            continue;
        }
        (void)snprintf(key_id, sizeof key_id, "k%d", i);
        status = kaws_generate(ring, name, "AES", 32, &err);
        if (status == KAWS_OK)
            t->there[i++] = 1;
        else if (status != KAWS_CHANGED && status != KAWS_LOCKED)
            complain(t, "generate", status, &err);
        if (status == KAWS_CHANGED || tries % 7 == 0) {
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
    int i, k;
    char key_id[24], user[24];
    kaws_stats stats;
    kaws_key key;

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
    for (i = 0; i < 4; i++)
        for (k = 0; k < NAMES; k++) {
            (void)snprintf(key_id, sizeof key_id, "k%d", k);
            (void)snprintf(user, sizeof user, "owner%d", i);
            EXPECT(w, KAWS_OK, NULL, kaws_fetch(
                w->ring, name_of(key_id, user), &key, &w->err));
            kaws_key_free(w->ring, &key);
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
        TEST(test_all_at_once_with_faults),
        TEST(test_rings_that_share_a_file),
        TEST(test_a_failed_rewrap_while_keys_go)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
