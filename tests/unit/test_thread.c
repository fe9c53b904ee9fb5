/* test_thread.c - room thread: locks and their order, parallel work, the turn
 *
 * The order of locks is checked here. On POSIX the calls that start a thread,
 * make a lock or a condition, and read a clock go through functions that fail,
 * or lie, if they are told to.
 */

#if !defined(_WIN32)

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct {
    int  threads;                 /* so many are given, then none             */
    int  failing, calls;          /* the call that fails, from 1; 0: none     */
    int  live;                    /* conditions, attributes and locks         */
    long ahead;                   /* the wall clock is wrong by these seconds */
    int  asked;                   /* how often a clock was read               */
} rig;


static int
few_create(pthread_t *thread, const pthread_attr_t *how, void *(*job)(void *),
           void *arg)
{
    return rig.threads-- <= 0 ? EAGAIN
                               : pthread_create(thread, how, job, arg);
}


/* Counts what is made and what is freed; 0, or the error of the failing call.
 */
static int
made(int os)
{
    if (++rig.calls == rig.failing)
        return ENOMEM;
    rig.live++;
    return os;
}


static int
jumping_clock(clockid_t clock, struct timespec *t)
{
    int failed = clock_gettime(clock, t);

    __atomic_add_fetch(&rig.asked, 1, __ATOMIC_RELAXED);
    t->tv_sec += clock == CLOCK_REALTIME ? rig.ahead : 0;
    return failed;
}

#define pthread_create           few_create
#define pthread_condattr_init(a) made(pthread_condattr_init(a))
#define pthread_cond_init(c, a)  made(pthread_cond_init(c, a))
#define pthread_mutex_init(m, a) made(pthread_mutex_init(m, a))
#define pthread_condattr_destroy(a) (rig.live--, pthread_condattr_destroy(a))
#define pthread_cond_destroy(c)  (rig.live--, pthread_cond_destroy(c))
#define pthread_mutex_destroy(m) (rig.live--, pthread_mutex_destroy(m))
#define clock_gettime            jumping_clock

#endif

#include "lock_order.h"

#include "unit.h"


static int
many_threads(void **state)
{
    (void)state;
#if !defined(_WIN32)
    memset(&rig, 0, sizeof rig);
    rig.threads = 1000;
#endif
    return 0;
}


/* ---- locks and parallel work ------------------------------------------- */

typedef struct work {
    kaws__lock lock;
    int runs, sum;
} work;


static void
add_up(void *arg)
{
    work *w = arg;
    int i, sum;

    for (i = 0; i < 2000; i++) {
        kaws__thread_lock(&w->lock);
        sum = w->sum;
        w->sum = sum + 1;
        kaws__thread_unlock(&w->lock);
    }
    kaws__sys_sleep_ms(NULL, 5);
    kaws__thread_lock(&w->lock);
    w->runs++;
    kaws__thread_unlock(&w->lock);
}


/* As many threads as asked for do the work, but no more than there may be, or
 * than the system gives. The lock keeps them apart, and all have ended when the
 * call returns. */
static void
test_parallel_work_ends_before_it_returns(void **state)
{
    enum { MAX = KAWS__PARALLEL_MAX };
    static const struct { int count, given, runs; } rows[] = {
        { 1, MAX, 1 }, { 2, MAX, 2 }, { 16, MAX, 16 }, { MAX, MAX, MAX },
        { MAX + 1, MAX, MAX + 1 }, { 1000, MAX, MAX + 1 },
#if !defined(_WIN32)
        { 8, 0, 1 }, { 8, 1, 2 }, { 8, 3, 4 }
#endif
    };
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(rows); i++) {
        work w = { .runs = 0 };
        assert_int_equal(kaws__thread_lock_init(&w.lock, KAWS__RANK_VAULT), 0);
#if !defined(_WIN32)
        rig.threads = rows[i].given;
#endif
        kaws__thread_parallel(rows[i].count, add_up, &w);
        assert_int_equal(w.runs, rows[i].runs);
        assert_int_equal(w.sum, 2000 * rows[i].runs);
#if !defined(_WIN32)                      /* it asks once more, and no more   */
        assert_int_equal(rig.threads, rows[i].given < rows[i].count - 1 &&
                         rows[i].given < MAX ? -1
                         : rows[i].given - rows[i].runs + 1);
#endif
        kaws__thread_lock_free(&w.lock);
    }
}


/* A job aside ends before aside_end returns, and can be followed by another.
 * What does not run has ended. */
static void
test_a_job_aside(void **state)
{
    work w = { .runs = 0 };
    kaws__aside aside = { .runs = 0 };
    int i;

    (void)state;
    assert_int_equal(kaws__thread_lock_init(&w.lock, KAWS__RANK_VAULT), 0);
    kaws__thread_aside_end(&aside);
    for (i = 1; i < 4; i++) {
        assert_int_not_equal(kaws__thread_aside(&aside, add_up, &w), 0);
        assert_true(aside.runs);
        kaws__thread_aside_end(&aside);
        assert_false(aside.runs);
        assert_int_equal(w.runs, i);
        kaws__thread_aside_end(&aside);
    }
#if !defined(_WIN32)
    rig.threads = 0;
    assert_int_equal(kaws__thread_aside(&aside, add_up, &w), 0);
    assert_false(aside.runs);
    kaws__thread_aside_end(&aside);
    assert_int_equal(w.runs, 3);
#endif
    kaws__thread_lock_free(&w.lock);
}


static int once_runs;


static void
run_once(void)
{
    kaws__sys_sleep_ms(NULL, 20);
    once_runs++;
}


static void
ask_once(void *arg)
{
    kaws__thread_once(arg, run_once);
    assert_int_equal(once_runs, 1);       /* nobody goes on before it is done */
}


static void
test_once_runs_once(void **state)
{
    static kaws__once once = KAWS__ONCE;

    (void)state;
    kaws__thread_parallel(8, ask_once, &once);
    kaws__thread_once(&once, run_once);
    assert_int_equal(once_runs, 1);
}


/* ---- the turn ---------------------------------------------------------- */

static const kaws_hooks no_hooks;

typedef struct queue {
    kaws__turn turn;
    kaws__lock lock;
    int        inside, most, done, late;
} queue;


static void
queue_begin(queue *q)
{
    memset(q, 0, sizeof *q);
    assert_int_equal(kaws__thread_turn_init(&q->turn, KAWS__RANK_TURN), 0);
    assert_int_equal(kaws__thread_lock_init(&q->lock, KAWS__RANK_VAULT), 0);
}


static void
queue_end(queue *q)
{
    kaws__thread_lock_free(&q->lock);
    kaws__thread_turn_free(&q->turn);
#if !defined(_WIN32)
    assert_int_equal(rig.live, 0);
#endif
}


/* Each has the turn three times, for 20 ms; `late` counts who gave up. */
static void
have_turns(void *arg)
{
    queue *q = arg;
    int i, waited;

    for (i = 0; i < 3; i++) {
        waited = kaws__thread_turn_wait(&q->turn, 500, &no_hooks);
        kaws__thread_lock(&q->lock);
        q->late += waited < 0;
        q->inside += waited >= 0;
        q->most = q->inside > q->most ? q->inside : q->most;
        kaws__thread_unlock(&q->lock);
        if (waited < 0)
            continue;
        kaws__sys_sleep_ms(NULL, 20);
        kaws__thread_lock(&q->lock);
        q->inside--;
        q->done++;
        kaws__thread_unlock(&q->lock);
        kaws__thread_turn_end(&q->turn, 1);
    }
}


/* One thread has the turn at a time. Twenty threads wait longer in all than
 * their limit, and none gives up, because the turn moves on. (It does not while
 * the machine stands still, so that there are three tries.) */
static void
test_each_thread_gets_its_turn(void **state)
{
    int tries = 3, late;
    queue q;

    (void)state;
    do {
        queue_begin(&q);
        kaws__thread_parallel(20, have_turns, &q);
        late = q.late;
        assert_int_equal(q.most, 1);
        assert_int_equal(q.done, 60 - late);
        queue_end(&q);
    } while (late > 0 && --tries > 0);
    assert_int_equal(late, 0);
}


static void
wait_in_vain(void *arg)
{
    queue *q = arg;
    int64_t before = kaws__sys_ticks_us();
    int waited = kaws__thread_turn_wait(&q->turn, 150, &no_hooks);

    kaws__thread_lock(&q->lock);
    if (waited == -1 && kaws__sys_ticks_us() - before >= 140000)
        q->late++;
    kaws__thread_unlock(&q->lock);
}


/* While the turn does not move on, all waiting threads sleep until their limit
 * and give up, whatever the wall clock does. The thread that has the turn keeps
 * it. */
static void
test_a_held_turn_ends_at_the_limit(void **state)
{
    int64_t before = kaws__sys_ticks_us();
    queue q;

    (void)state;
    queue_begin(&q);
#if !defined(_WIN32)
    rig.ahead = 3600;
#endif
    assert_int_equal(kaws__thread_turn_wait(&q.turn, 0, &no_hooks), 0);
    lock_order_check(KAWS__RANK_TURN, 0);       /* as if another's          */
    kaws__thread_parallel(5, wait_in_vain, &q);
    assert_int_equal(q.late, 5);
    assert_in_range(kaws__sys_ticks_us() - before, 140000, 600000000);
#if !defined(_WIN32)
    assert_in_range(rig.asked, 1, 100);
#endif
    lock_order_check(KAWS__RANK_TURN, 1);
    kaws__thread_turn_end(&q.turn, 1);
    assert_int_equal(kaws__thread_turn_wait(&q.turn, 0, &no_hooks), 0);
    kaws__thread_turn_end(&q.turn, 1);
    queue_end(&q);
}


static int
cancel_third(void *asked)
{
    return ++*(int *)asked >= 3;
}


/* A thread that is cancelled gives up, and the thread that has the turn keeps
 * it. */
static void
test_a_cancelled_wait_ends(void **state)
{
    int asked = 0;
    const kaws_hooks hooks = { .cancelled = cancel_third, .ctx = &asked };
    int64_t before = kaws__sys_ticks_us();
    queue q;

    (void)state;
    queue_begin(&q);
    assert_int_equal(kaws__thread_turn_wait(&q.turn, 0, &hooks), 0);
    assert_int_equal(asked, 0);
    lock_order_check(KAWS__RANK_TURN, 0);       /* as if another's          */
    assert_int_equal(kaws__thread_turn_wait(&q.turn, 150, &hooks),
                     KAWS__TOO_LONG);
    asked = 0;
    assert_int_equal(kaws__thread_turn_wait(&q.turn, 90000, &hooks),
                     KAWS__GIVEN_UP);
    assert_int_equal(asked, 3);
    assert_in_range(kaws__sys_ticks_us() - before, 430000, 5000000);
    assert_int_equal(kaws__thread_turn_wait(&q.turn, 0, &hooks),
                     KAWS__TOO_LONG);
    lock_order_check(KAWS__RANK_TURN, 1);
    kaws__thread_turn_end(&q.turn, 1);
    queue_end(&q);
}


/* Who has the turn keeps it for 150 ms, from when the other waits: both have
 * read the clock for a try then, and the other for its wait. */
static void
wait_long(void *arg)
{
    queue *q = arg;
    int i, waited;

    if (kaws__thread_turn_wait(&q->turn, 0, &no_hooks) == 0) {
#if !defined(_WIN32)
        for (i = 0; i < 2000 && kaws__thread_peek(&rig.asked) < 3; i++)
            kaws__sys_sleep_ms(NULL, 5);
#endif
        for (i = 0; i < 3; i++)
            kaws__sys_sleep_ms(NULL, 50);
        kaws__thread_turn_end(&q->turn, 0);
        return;
    }
    waited = kaws__thread_turn_wait(&q->turn, 30000, &no_hooks);
    kaws__thread_lock(&q->lock);
    q->most = waited;
    kaws__thread_unlock(&q->lock);
    kaws__thread_turn_end(&q->turn, 1);
}


/* The thread that gets the turn wakes at once. It is told for how long the turn
 * had not moved on, so the whole wait can be limited. */
static void
test_turn_tells_the_wait(void **state)
{
    queue q;

    (void)state;
    queue_begin(&q);
    kaws__thread_parallel(2, wait_long, &q);
    assert_in_range(q.most, 50, 10000);
    queue_end(&q);
}

#if !defined(_WIN32)

/* ---- POSIX ------------------------------------------------------------- */

/* A turn that cannot be made is not left half made. */
static void
test_a_turn_that_cannot_be_made(void **state)
{
    kaws__turn turn;

    (void)state;
    for (rig.failing = 1; rig.failing <= 3; rig.failing++) {
        rig.calls = 0;
        assert_int_equal(kaws__thread_turn_init(&turn, KAWS__RANK_TURN),
                         ENOMEM);
        assert_int_equal(rig.live, 0);
    }
}


typedef struct masks {
    pthread_t caller;
    kaws__lock lock;
    int open_to_all, deaf;
} masks;


static void
look_at_mask(void *arg)
{
    static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGALRM,
                                   SIGCHLD, SIGPIPE };
    masks *m = arg;
    sigset_t now;
    size_t i;
    int blocked = 0;

    pthread_sigmask(SIG_SETMASK, NULL, &now);
    for (i = 0; i < UNIT_COUNT(signals); i++)
        blocked += sigismember(&now, signals[i]);
    kaws__thread_lock(&m->lock);
    if (pthread_equal(pthread_self(), m->caller))
        m->open_to_all += blocked == 0;
    else
        m->deaf += blocked == (int)UNIT_COUNT(signals);
    kaws__thread_unlock(&m->lock);
    kaws__sys_sleep_ms(NULL, 5);
}


/* The new threads take no signal; the caller's still takes all, even if a
 * thread could not be had. */
static void
test_new_threads_take_no_signal(void **state)
{
    masks m = { .caller = pthread_self() };

    (void)state;
    assert_int_equal(kaws__thread_lock_init(&m.lock, KAWS__RANK_VAULT), 0);
    rig.threads = 4;
    kaws__thread_parallel(9, look_at_mask, &m);
    assert_int_equal(m.open_to_all, 1);
    assert_int_equal(m.deaf, 4);
    look_at_mask(&m);
    assert_int_equal(m.open_to_all, 2);
    kaws__thread_lock_free(&m.lock);
}


/* Takes one lock and then the other (the turn, if it is its rank), in a child;
 * 0, or the signal that ended it. *said has what it wrote. */
static int
take_two(kaws__rank first, kaws__rank second, char said[200])
{
    kaws__rank ranks[2] = { first, second };
    kaws__lock locks[2];
    kaws__turn turn;
    int pipes[2], status, i;
    ssize_t n;
    pid_t child;

    assert_int_equal(pipe(pipes), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(pipes[1], 2);
        if (kaws__thread_turn_init(&turn, KAWS__RANK_TURN) != 0)
            _exit(1);
        for (i = 0; i < 2; i++) {
            if (kaws__thread_lock_init(&locks[i], ranks[i]) != 0)
                _exit(1);
            if (ranks[i] == KAWS__RANK_TURN)
                (void)kaws__thread_turn_wait(&turn, 10, &no_hooks);
            else
                kaws__thread_lock(&locks[i]);
        }
        _exit(0);
    }
    close(pipes[1]);
    n = read(pipes[0], said, 199);
    said[n > 0 ? n : 0] = '\0';
    close(pipes[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}


/* Each pair of locks may be taken in one order alone, and a lock only once. */
static void
test_locks_have_one_order(void **state)
{
    char said[200];
    int a, b;

    (void)state;
    for (a = 0; a < KAWS__RANK_COUNT; a++)
        for (b = 0; b < KAWS__RANK_COUNT; b++)
            assert_int_equal(take_two((kaws__rank)a, (kaws__rank)b, said),
                             a < b ? 0 : SIGABRT);
    (void)take_two(KAWS__RANK_TRUST, KAWS__RANK_TURN, said);
    assert_string_equal(said, "keyring_aws: wrong order of locks: a thread "
                        "that holds TRUST takes TURN\n");
}


/* A lock that was given back is not held any more, in whatever order. */
static void
test_a_lock_given_back_is_not_held(void **state)
{
    kaws__lock ring, kms;
    kaws__turn turn;

    (void)state;
    assert_int_equal(kaws__thread_turn_init(&turn, KAWS__RANK_TURN), 0);
    assert_int_equal(kaws__thread_lock_init(&ring, KAWS__RANK_VAULT), 0);
    assert_int_equal(kaws__thread_lock_init(&kms, KAWS__RANK_TRUST), 0);
    assert_int_equal(kaws__thread_turn_wait(&turn, 0, &no_hooks), 0);
    kaws__thread_lock(&ring);
    kaws__thread_lock(&kms);
    kaws__thread_unlock(&ring);
    kaws__thread_unlock(&kms);
    kaws__thread_lock(&ring);
    kaws__thread_unlock(&ring);
    kaws__thread_turn_end(&turn, 1);
    assert_int_equal(kaws__thread_turn_wait(&turn, 0, &no_hooks), 0);
    kaws__thread_turn_end(&turn, 1);
    kaws__thread_lock_free(&ring);
    kaws__thread_lock_free(&kms);
    kaws__thread_turn_free(&turn);
}

#endif

#define TEST(test) cmocka_unit_test_setup_teardown(test, many_threads, NULL)


int
main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_parallel_work_ends_before_it_returns),
        TEST(test_a_job_aside),
        TEST(test_once_runs_once),
        TEST(test_each_thread_gets_its_turn),
        TEST(test_a_cancelled_wait_ends),
        TEST(test_a_held_turn_ends_at_the_limit),
        TEST(test_turn_tells_the_wait),
#if !defined(_WIN32)
        TEST(test_a_turn_that_cannot_be_made),
        TEST(test_new_threads_take_no_signal),
        TEST(test_locks_have_one_order),
        TEST(test_a_lock_given_back_is_not_held),
#endif
    };

    return cmocka_run_group_tests_name("thread", tests, NULL, NULL);
}
