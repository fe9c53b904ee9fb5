/* Room creds: when the credentials are renewed, and what a signature takes. */

#include "lock_order.h"
#include "world.h"


/* What an operation says to the source, by the clock of the fake. */
static kaws__seek
seek_of(struct world *w)
{
    kaws__seek seek = { .now = w->f.now_ms / 1000, .left_ms = 2000 };

    return seek;
}


static kaws_status
ready(struct world *w, kaws__creds *c, int need)
{
    kaws__seek seek = seek_of(w);

    kaws__err_clear(&w->err);
    return kaws__creds_ready(c, &seek, need, &w->err);
}


static kaws_status
open_creds(struct world *w, kaws__creds *c)
{
    kaws__err_clear(&w->err);
    EXPECT(w, KAWS_OK, NULL,
           kaws__creds_open(c, &w->f.hooks, w->f.conf, &w->err));
    return ready(w, c, KAWS__TO_TELL);
}


static kaws_status
reload(struct world *w, kaws__creds *c)
{
    return ready(w, c, KAWS__TO_RENEW);
}


/* AWS refused that generation, which was signed with just now. */
static int
refused(struct world *w, kaws__creds *c, unsigned generation)
{
    kaws__seek seek = seek_of(w);

    return kaws__creds_renew(c, &seek, generation, c->told);
}


static kaws_status
sign(struct world *w, kaws__creds *c, kaws__signer *out)
{
    memset(out, 0, sizeof *out);
    if (ready(w, c, KAWS__TO_SIGN) == KAWS_OK)
        kaws__creds_signer(c, "20261118T110640Z", "eu-west-1", out);
    return w->err.status;
}


/* The credentials that are in use, and that nothing of the file is left. */
static void
holds(const kaws__creds *c, const char *id, const char *secret,
      const char *token)
{
    static const uint8_t zeros[KAWS__SOURCES_TEXT_MAX];

    assert_string_equal(c->secrets->signer.id, id);
    assert_string_equal(c->secrets->secret, secret);
    assert_string_equal(c->secrets->signer.token, token);
    assert_memory_equal(c->secrets->text, zeros, sizeof zeros);
}


/* ---- reading them again ------------------------------------------------ */

/* What is not good whole changes nothing. */
static void
test_reload(void **state)
{
    struct world *w = *state;
    kaws__creds c;

    EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
    fake_write_conf(&w->f, "new\nother\ntoken\n");
    EXPECT(w, KAWS_OK, NULL, reload(w, &c));
    holds(&c, "new", "other", "token");
    fake_write_conf(&w->f, "half\n");
    EXPECT(w, KAWS_CONFIG, "line 2", reload(w, &c));
    holds(&c, "new", "other", "token");
    kaws__err_clear(&w->err);
    assert_int_equal(unlink(w->f.conf), 0);
    EXPECT(w, KAWS_CONFIG, "No such file", reload(w, &c));
    holds(&c, "new", "other", "token");
    kaws__err_clear(&w->err);
    assert_int_equal(c.secrets->signer.generation, 2);
    fake_write_conf(&w->f, "third\nsecret\n");
    EXPECT(w, KAWS_OK, NULL, reload(w, &c));
    holds(&c, "third", "secret", "");     /* the old token is gone           */
    assert_int_equal(c.secrets->signer.generation, 3);
    kaws__creds_close(&c);
    assert_null(c.secrets);
    kaws__creds_close(&c);
}


/* AWS refused a generation: the file is read if that is the present one, and
 * until it is good. */
static void
test_refresh(void **state)
{
    struct world *w = *state;
    kaws__creds c;

    EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
    assert_int_equal(refused(w, &c, 1), 0);
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);
    fake_write_conf(&w->f, "new\n");
    assert_int_equal(refused(w, &c, 1), 0);
    assert_int_equal(refused(w, &c, 1), 0);    /* tried again        */
    assert_int_equal(fake_logged(&w->f, 1, "line 2"), 2);
    holds(&c, FAKE_ID, FAKE_SECRET, "");
    fake_write_conf(&w->f, "new\nwhole\n");
    assert_int_equal(refused(w, &c, 1), 1);
    assert_int_equal(fake_logged(&w->f, 2, "newer ones"), 1);
    holds(&c, "new", "whole", "");

    /* A refusal of an older generation finds it done. */
    fake_write_conf(&w->f, "not read\n");
    assert_int_equal(refused(w, &c, 1), 1);
    assert_int_equal(fake_logged(&w->f, -1, ""), 3);
    holds(&c, "new", "whole", "");
    kaws__creds_close(&c);
}


static void *
refresh_thread(void *arg)
{
    kaws__seek seek = { .left_ms = 60000 };

    assert_int_equal(kaws__creds_renew(arg, &seek, 1, 0), 1);
    return NULL;
}


/* Of many threads that were refused, one reads. */
static void
test_refresh_once_for_all(void **state)
{
    struct world *w = *state;
    pthread_t threads[8];
    kaws__creds c;
    size_t i;

    EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
    assert_int_equal(c.secrets->signer.generation, 1);
    fake_write_conf(&w->f, "new\nsecret\n");
    for (i = 0; i < COUNT(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, refresh_thread, &c),
                         0);
    for (i = 0; i < COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(c.secrets->signer.generation, 2);
    kaws__creds_close(&c);
}


/* ---- when they are renewed --------------------------------------------- */

/* A program that has its credentials from somebody, and how that goes. */
typedef struct giver {
    struct world *w;
    kaws__creds c;
    pthread_mutex_t lock;
    int     calls, told;          /* so far, and those with `refused` set     */
    int     same;                 /* 1: it gives what it gave before          */
    int64_t life;                 /* seconds; 0: they do not expire           */
    const char *fails;            /* NULL: it works                           */
    int     slow;                 /* it takes this long, in real ms; and that */
    int     held;                 /* begins when this is 0, and               */
    int     here, gone;           /* so many threads have come to sign, and   */
    int     want_here, want_gone; /* have signed; and so many                 */
    int     waiting, want_waiting;        /* wait for what it gives           */
    int     inside, at_most;      /* threads that are in it                   */
    int     cancels;              /* it is cancelled meanwhile                */
    char    id[32], secret[32], token[32];
} giver;


/* Waits until it is no longer held, and the threads have come, wait or are
 * gone. */
static void
giver_waits(giver *g)
{
    int i, ready = 0;

    for (i = 0; i < 20000 && !ready; i++) {
        pthread_mutex_lock(&g->lock);
        ready = !g->held && g->here >= g->want_here &&
                g->gone >= g->want_gone && g->waiting >= g->want_waiting;
        pthread_mutex_unlock(&g->lock);
        if (!ready)
            usleep(1000);
    }
}


/* Adds to one of its numbers, which threads share. */
static void
giver_counts(giver *g, int *number, int more)
{
    pthread_mutex_lock(&g->lock);
    *number += more;
    pthread_mutex_unlock(&g->lock);
}


/* Returns when a thread is in it. */
static void
giver_is_asked(giver *g)
{
    int i, asked = 0;

    for (i = 0; i < 20000 && !asked; i++) {
        usleep(1000);
        pthread_mutex_lock(&g->lock);
        asked = g->inside;
        pthread_mutex_unlock(&g->lock);
    }
    assert_int_equal(asked, 1);
}


static int
giver_gives(void *ctx, kaws_creds_wanted *wanted)
{
    giver *g = ((struct fake *)ctx)->user;
    int n;

    pthread_mutex_lock(&g->lock);
    n = g->calls += 1;
    g->told += wanted->refused;
    g->inside++;
    g->at_most = g->inside > g->at_most ? g->inside : g->at_most;
    pthread_mutex_unlock(&g->lock);
    giver_waits(g);
    usleep((useconds_t)g->slow * 1000);
    giver_counts(g, &g->inside, -1);
    if (wanted->cancelled != NULL && wanted->cancelled(wanted->cancelled_arg))
        return 1;
    if (g->fails != NULL) {
        (void)snprintf(wanted->text, sizeof wanted->text, "%s", g->fails);
        return 1;
    }
    if (!g->same || n == 1) {
        (void)snprintf(g->id, sizeof g->id, "ASIA%012d", n);
        (void)snprintf(g->secret, sizeof g->secret, "secret/%d", n);
        (void)snprintf(g->token, sizeof g->token, "token/%d", n);
    }
    wanted->creds = (kaws_creds){ g->id, g->secret, g->token };
    wanted->expires = g->life != 0 ? g->w->f.now_ms / 1000 + g->life : 0;
    return 0;
}


static void
giver_begin(giver *g, struct world *w, int64_t life)
{
    memset(g, 0, sizeof *g);
    g->w = w;
    g->life = life;
    pthread_mutex_init(&g->lock, NULL);
    w->f.hooks.creds = giver_gives;
    w->f.user = g;
    kaws__err_clear(&w->err);
    EXPECT(w, KAWS_OK, NULL,
           kaws__creds_open(&g->c, &w->f.hooks, NULL, &w->err));
}


static void
giver_end(giver *g)
{
    kaws__creds_close(&g->c);
    pthread_mutex_destroy(&g->lock);
}


/* Signs so many seconds later: with which credentials, after how many calls. */
static void
signs(giver *g, int64_t later_s, int with, int calls)
{
    char id[32];
    kaws__signer s;

    g->w->f.now_ms += later_s * 1000;
    EXPECT(g->w, KAWS_OK, NULL, sign(g->w, &g->c, &s));
    (void)snprintf(id, sizeof id, "ASIA%012d", with);
    assert_string_equal(s.id, id);
    assert_int_equal(g->calls, calls);
}


/* Five minutes before they expire, or a third of their life; and not before
 * somebody needs them. */
static void
test_renewed_early(void **state)
{
    static const struct { int64_t life, early; } rows[] = {
        { 3600, 300 }, { 43200, 300 }, { 901, 300 }, { 899, 299 },
        { 30, 10 }, { 3, 1 }, { 2, 0 }, { 1, 0 }
    };
    struct world *w = *state;
    giver g;
    size_t i;

    for (i = 0; i < COUNT(rows); i++) {
        giver_begin(&g, w, rows[i].life);
        assert_int_equal(g.calls, 0);
        signs(&g, 500, 1, 1);
        signs(&g, rows[i].life - rows[i].early - 1, 1, 1);
        signs(&g, 1, 2, 2);
        giver_end(&g);
    }
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);
}


/* Those that do not expire are asked for once. */
static void
test_never_expire(void **state)
{
    giver g;

    giver_begin(&g, *state, 0);
    signs(&g, 0, 1, 1);
    signs(&g, INT64_C(1000000000), 1, 1);
    giver_end(&g);
}


/* While the old ones live, a failure is a line a minute; then it is an error.
 */
static void
test_early_failure(void **state)
{
    struct world *w = *state;
    kaws__signer s;
    giver g;

    giver_begin(&g, w, 3600);
    signs(&g, 0, 1, 1);
    g.fails = "vault is sealed";
    signs(&g, 3300, 1, 2);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-141] "), 1);
    assert_int_equal(fake_logged(&w->f, 1, "vault is sealed"), 1);
    signs(&g, 0, 1, 2);
    signs(&g, 59, 1, 2);
    signs(&g, 1, 1, 3);
    assert_int_equal(fake_logged(&w->f, 1, "vault is sealed"), 2);
    signs(&g, 239, 1, 4);
    w->f.now_ms += 1000;
    EXPECT(w, KAWS_CREDENTIALS, "the program (hooks.creds) gave no credentials:"
           " vault is sealed", sign(w, &g.c, &s));
    assert_int_equal(g.calls, 5);
    EXPECT(w, KAWS_CREDENTIALS, "vault is sealed", sign(w, &g.c, &s));
    assert_int_equal(g.calls, 6);
    assert_int_equal(fake_logged(&w->f, -1, ""), 3);
    g.fails = NULL;
    signs(&g, 0, 7, 7);
    assert_int_equal(g.told, 0);
    giver_end(&g);
}


/* What the hook has kept is no news: it is asked again when two thirds of the
 * rest have passed; and when it has expired, AWS's clock decides, and the hook
 * is asked once a minute. */
static void
test_the_same_again(void **state)
{
    struct world *w = *state;
    giver g;

    giver_begin(&g, w, 1200);
    g.same = 1;
    signs(&g, 0, 1, 1);
    g.life = 300;                         /* they expire when they would      */
    signs(&g, 900, 1, 2);
    assert_int_equal(g.c.secrets->signer.generation, 1);
    signs(&g, 199, 1, 2);
    g.life = 100;
    signs(&g, 1, 1, 3);
    g.life = -1;
    signs(&g, 101, 1, 4);
    signs(&g, 59, 1, 4);
    signs(&g, 1, 1, 5);
    assert_int_equal(g.c.secrets->signer.generation, 1);
    g.same = 0;
    g.life = 3600;
    signs(&g, 60, 6, 6);
    assert_int_equal(g.c.secrets->signer.generation, 2);
    assert_int_equal(fake_logged(&w->f, -1, ""), 0);
    giver_end(&g);
}


/* A clock that is set: forwards, the new ones look expired, and are used until
 * AWS's answer tells the time; backwards, AWS refuses what has expired. Neither
 * keeps them for ever, nor asks all the time. */
static void
test_clock_is_set(void **state)
{
    struct world *w = *state;
    int64_t offset = 86400;
    giver g;
    int i;

    giver_begin(&g, w, 3600);
    signs(&g, 0, 1, 1);
    fake_set_clock(&w->f, offset * 1000);
    g.life = 3600 - offset;
    for (i = 0; i < 50; i++)
        signs(&g, 1, 2, 2);
    fake_set_clock(&w->f, -offset * 1000);      /* as a mended offset does    */
    g.life = 3600;
    for (i = 0; i < 50; i++)
        signs(&g, 10, 2, 2);
    fake_set_clock(&w->f, -offset * 1000);
    signs(&g, 4000, 2, 2);
    assert_int_equal(refused(w, &g.c, 2), 1);   /* AWS says that it is time   */
    signs(&g, 0, 3, 3);
    assert_int_equal(g.told, 1);
    giver_end(&g);
}


/* A refusal is told to the hook. What it then gives is tried if it differs; if
 * not, no more than one call is made for each refusal. */
static void
test_hook_is_told(void **state)
{
    struct world *w = *state;
    kaws__seek seek;
    giver g;

    giver_begin(&g, w, 3600);
    signs(&g, 0, 1, 1);
    assert_int_equal(refused(w, &g.c, 1), 1);
    assert_int_equal(g.told, 1);
    assert_int_equal(fake_logged(&w->f, 2, "the program (hooks.creds) has newer"
                                 " ones, which are used from now on: their "
                                 "access key id ends in 0002"), 1);
    signs(&g, 0, 2, 2);
    g.same = 1;
    assert_int_equal(refused(w, &g.c, 2), 0);
    assert_int_equal(g.told, 2);
    signs(&g, 0, 2, 3);
    seek = seek_of(w);                    /* it was told since that was signed*/
    assert_int_equal(kaws__creds_renew(&g.c, &seek, 2, g.c.told - 1), 0);
    assert_int_equal(g.calls, 3);
    assert_int_equal(refused(w, &g.c, 1), 1);   /* an old one                 */
    assert_int_equal(g.calls, 3);
    g.fails = "no";
    assert_int_equal(refused(w, &g.c, 2), 0);
    assert_int_equal(fake_logged(&w->f, 1, "[KAWS-108] "), 1);
    signs(&g, 0, 2, 4);
    g.same = 0;
    g.fails = NULL;
    EXPECT(w, KAWS_OK, NULL, reload(w, &g.c));
    assert_int_equal(g.told, 3);          /* to renew is no refusal           */
    signs(&g, 0, 5, 5);
    giver_end(&g);
}


/* ---- many threads ------------------------------------------------------ */

enum { THREADS = 16 };

typedef struct signing {
    giver *g;
    pthread_t thread;
    pthread_barrier_t *start;
    int told;                     /* 1: its generation was refused            */
    unsigned generation, told_before;
    int left_ms;
    kaws__cancel cancel;
    int waits;
    kaws_status status;
    kaws_error err;
    kaws__signer s;
    int newer;
} signing;


/* Nobody cancels it; but only who waits for another thread asks that, before
 * the source has given something. */
static int
it_waits(void *arg)
{
    signing *one = arg;

    giver_counts(one->g, &one->g->waiting, !one->waits);
    one->waits = 1;
    return 0;
}


static void *
signing_thread(void *arg)
{
    signing *one = arg;
    kaws__seek seek = { .now = one->g->w->f.now_ms / 1000,
                        .left_ms = one->left_ms, .cancel = one->cancel };

    pthread_barrier_wait(one->start);
    giver_counts(one->g, &one->g->here, 1);
    if (one->told)
        one->newer = kaws__creds_renew(&one->g->c, &seek, one->generation,
                                       one->told_before);
    else
        one->status = kaws__creds_ready(&one->g->c, &seek, KAWS__TO_SIGN,
                                        &one->err);
    if (!one->told && one->status == KAWS_OK)
        kaws__creds_signer(&one->g->c, "20261118T110640Z", "eu-west-1",
                           &one->s);
    giver_counts(one->g, &one->g->gone, 1);
    return NULL;
}


/* All at once; `first` asks before the others come. */
static void
all_sign(giver *g, signing all[THREADS], int told, const kaws__cancel *first)
{
    pthread_barrier_t start, alone;
    int i;

    pthread_barrier_init(&start, NULL, THREADS - (first != NULL));
    pthread_barrier_init(&alone, NULL, 1);
    g->here = g->gone = g->waiting = 0;
    for (i = 0; i < THREADS; i++) {
        all[i] = (signing){ .g = g, .start = &start, .told = told,
                            .generation = g->c.secrets->signer.generation,
                            .told_before = g->c.told, .left_ms = 5000 };
        if (g->want_waiting > 0)
            all[i].cancel = (kaws__cancel){ it_waits, &all[i] };
        if (i == 0 && first != NULL) {
            all[i].start = &alone;
            all[i].cancel = *first;
        }
    }
    for (i = 0; i < THREADS; i++) {
        pthread_create(&all[i].thread, NULL, signing_thread, &all[i]);
        if (i == 0 && first != NULL)
            giver_is_asked(g);
    }
    for (i = 0; i < THREADS; i++)
        pthread_join(all[i].thread, NULL);
    pthread_barrier_destroy(&start);
    pthread_barrier_destroy(&alone);
    assert_in_range(g->at_most, 0, 1);
}


/* One asks. With none, or with expired ones, all wait for it; its success is
 * theirs, and so is its failure. With some that live a little, nobody waits. */
static void
test_one_asks(void **state)
{
    struct world *w = *state;
    signing all[THREADS];
    giver g;
    int i, round, old;

    giver_begin(&g, w, 3600);
    for (round = 0; round < 4; round++) {
        g.fails = round == 2 ? "no" : NULL;
        w->f.now_ms += round == 3 ? 3300000 : round > 0 ? 3600000 : 0;
        if (round == 3) {
            g.want_waiting = 0;
            signs(&g, 0, 4, 4);
            w->f.now_ms += 3300000;
        }
        g.want_waiting = round < 3 ? THREADS - 1 : 0;
        g.want_gone = round == 3 ? THREADS - 1 : 0;
        all_sign(&g, all, 0, NULL);
        assert_int_equal(g.calls, round == 3 ? 5 : round + 1);
        for (i = old = 0; i < THREADS; i++) {
            if (all[i].status != (round == 2 ? KAWS_CREDENTIALS : KAWS_OK) ||
                all[i].err.status != all[i].status)
                fail_msg("round %d: %s", round, all[i].err.text);
            if (round == 2)
                assert_non_null(strstr(all[i].err.text, "gave no cred"));
            else if (round == 3)
                old += strcmp(all[i].s.id, "ASIA000000000004") == 0;
            else
                assert_string_equal(all[i].s.id, g.id);
        }
        assert_in_range(old, round == 3 ? THREADS / 2 : 0,
                        round == 3 ? THREADS - 1 : 0);
    }
    giver_end(&g);
}


/* So it is if AWS refuses all of them: newer ones, none, or a failure. */
static void
test_one_tells(void **state)
{
    struct world *w = *state;
    signing all[THREADS];
    giver g;
    int i, round;

    giver_begin(&g, w, 3600);
    signs(&g, 0, 1, 1);
    g.slow = 50;
    for (round = 0; round < 3; round++) {
        g.same = round == 1;
        g.fails = round == 2 ? "no" : NULL;
        all_sign(&g, all, 1, NULL);
        assert_int_equal(g.calls, round + 2);
        assert_int_equal(g.told, round + 1);
        for (i = 0; i < THREADS; i++)
            assert_int_equal(all[i].newer, round == 0);
        signs(&g, 0, 2, round + 2);       /* they can still be signed with    */
    }
    giver_end(&g);
}


static int
is_cancelled(void *arg)
{
    (void)arg;
    return 1;
}


/* A thread that is cancelled while it asks hands over: its failure is its own.
 */
static void
test_the_first_leaves(void **state)
{
    const kaws__cancel cancel = { is_cancelled, NULL };
    struct world *w = *state;
    signing all[THREADS];
    giver g;
    int i;

    giver_begin(&g, w, 3600);
    g.slow = 200;
    g.want_here = THREADS;
    all_sign(&g, all, 0, &cancel);
    assert_int_equal(all[0].status, KAWS_CANCELLED);
    assert_int_equal(g.calls, 2);
    for (i = 1; i < THREADS; i++)
        assert_string_equal(all[i].s.id, "ASIA000000000002");
    giver_end(&g);
}


/* Who waits for another thread's question waits no longer than it may, and can
 * be cancelled. */
static void
test_waiting_ends(void **state)
{
    const kaws__cancel cancel = { is_cancelled, NULL };
    struct world *w = *state;
    pthread_barrier_t alone;
    signing slow = { .start = &alone, .left_ms = 5000 };
    kaws__seek seek = seek_of(w);
    giver g;

    pthread_barrier_init(&alone, NULL, 1);
    giver_begin(&g, w, 3600);
    g.held = 1;
    slow.g = &g;
    pthread_create(&slow.thread, NULL, signing_thread, &slow);
    giver_is_asked(&g);
    seek.left_ms = 100;
    EXPECT(w, KAWS_NETWORK, "no AWS credentials have come: another thread has "
           "been asking the program for them for 100 ms",
           kaws__creds_ready(&g.c, &seek, KAWS__TO_SIGN, &w->err));
    kaws__err_clear(&w->err);
    seek.left_ms = 5000;
    seek.cancel = cancel;
    EXPECT(w, KAWS_CANCELLED, "while it waited for the credentials",
           kaws__creds_ready(&g.c, &seek, KAWS__TO_SIGN, &w->err));
    giver_counts(&g, &g.held, -1);
    pthread_join(slow.thread, NULL);
    assert_int_equal(slow.status, KAWS_OK);
    assert_int_equal(g.calls, 1);
    pthread_barrier_destroy(&alone);
    giver_end(&g);
}


/* ---- words and secrets ------------------------------------------------- */

/* A hook's words may not repeat what it gave. */
static void
test_words_with_a_secret(void **state)
{
    struct world *w = *state;
    kaws__signer s;
    giver g;

    giver_begin(&g, w, 100);
    signs(&g, 0, 1, 1);
    g.fails = "cannot renew secret/1, sorry";
    w->f.now_ms += 100000;
    EXPECT(w, KAWS_CREDENTIALS, "no reason that may be shown",
           sign(w, &g.c, &s));
    assert_null(strstr(w->err.text, "secret/1"));
    giver_end(&g);
}


/* What is told of them: the end of the id only if it looks like one. */
static void
test_tell(void **state)
{
    static const kaws_identity none;
    struct world *w = *state;
    kaws_identity who = none;
    kaws__creds c;
    giver g;

    giver_begin(&g, w, 3600);
    assert_string_equal(kaws__creds_tell(&g.c, &who), "(none yet)");
    assert_string_equal(who.source, "the program");
    assert_string_equal(who.access_key_end, "");
    signs(&g, 0, 1, 1);
    assert_string_equal(kaws__creds_tell(&g.c, &who), "0001");
    assert_string_equal(who.access_key_end, "0001");
    assert_true(who.expires == w->f.now_ms / 1000 + 3600);
    giver_end(&g);
    w->f.hooks.creds = NULL;
    fake_write_conf(&w->f, "an id\nsecret\n");
    EXPECT(w, KAWS_CONFIG, "blank", open_creds(w, &c));
    fake_write_conf(&w->f, "not-an-id\nsecret\n");
    EXPECT(w, KAWS_OK, NULL, ready(w, &c, KAWS__TO_TELL));
    who = none;
    assert_string_equal(kaws__creds_tell(&c, &who), "(not shown)");
    assert_string_equal(who.access_key_end, "");
    assert_string_equal(who.source, "the conf file");
    assert_true(who.expires == 0);
    kaws__creds_close(&c);
}


/* ---- what a signature takes -------------------------------------------- */

/* The signing key, made step by step as AWS's page says. */
static void
expect_key(const kaws__mac_key *key, const char *secret, const char *date,
           const char *region)
{
    uint8_t want[32], got[32];
    kaws_bytes running = { want, 32 };
    char first[300];

    (void)snprintf(first, sizeof first, "AWS4%s", secret);
    kaws__crypto_hmac(want, kaws__buf_of(first), kaws__buf_of(date));
    kaws__crypto_hmac(want, running, kaws__buf_of(region));
    kaws__crypto_hmac(want, running, kaws__buf_of("kms"));
    kaws__crypto_hmac(want, running, kaws__buf_of("aws4_request"));
    kaws__crypto_hmac(want, running, kaws__buf_of("signed"));
    kaws__crypto_mac(got, key, kaws__buf_of("signed"));
    assert_memory_equal(got, want, 32);
}


/* The key follows the day, the region and the secret. */
static void
test_signer(void **state)
{
    static const struct { const char *conf, *date, *region, *secret; } rows[] =
    {
        { "id1\nfirst\ntoken\n", "20261118T110640Z", "eu-west-1", "first" },
        { NULL, "20261118T235959Z", "eu-west-1", "first" },
        { NULL, "20261119T000000Z", "eu-west-1", "first" },
        { NULL, "20261119T000000Z", "us-gov-west-1", "first" },
        { "id2\nsecond\n", "20261119T000000Z", "us-gov-west-1", "second" }
    };
    static const uint8_t zeros[offsetof(kaws__signer, token) + 5];
    struct world *w = *state;
    kaws__creds c;
    kaws__signer s;
    size_t i;

    EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
    for (i = 0; i < COUNT(rows); i++) {
        char day[9] = "";
        if (rows[i].conf != NULL) {
            fake_write_conf(&w->f, rows[i].conf);
            EXPECT(w, KAWS_OK, NULL, reload(w, &c));
        }
        kaws__creds_signer(&c, rows[i].date, rows[i].region, &s);
        memcpy(day, rows[i].date, 8);
        expect_key(&s.key, rows[i].secret, day, rows[i].region);
        assert_string_equal(s.id, i < 4 ? "id1" : "id2");
        assert_string_equal(s.token, i < 4 ? "token" : "");
        assert_int_equal(s.generation, i < 4 ? 2 : 3);
        kaws__creds_wipe(&s);
        assert_memory_equal(&s, zeros, sizeof zeros - (i < 4 ? 0 : 5));
    }
    kaws__creds_close(&c);
}


/* ---- regions ------------------------------------------------------------ */

/* That AWS STS of a region does not answer is remembered for a minute, for
 * three regions at once. Any other answer ends that; so does too little time to
 * learn anything. */
static void
test_unmet_regions(void **state)
{
    static const struct {
        const char *region;
        kaws_status status;
        int left_ms, passed_ms;
        const char *unmet;                /* of a, b, c, d                    */
    } rows[] = {
        { "a", KAWS_NETWORK, 1000, 10, "a" },
        { "b", KAWS_SERVICE, 1000, 10, "ab" },
        { "b", KAWS_NETWORK, 1000, 59970, "ab" },
        { "c", KAWS_NETWORK, 1000, 10, "bc" },      /* a's minute is over     */
        { "d", KAWS_NETWORK, 1000, 10, "bcd" },
        { "a", KAWS_NETWORK, 1000, 10, "acd" },     /* b's is the oldest      */
        { "b", KAWS_NETWORK, 499, 10, "acd" },      /* proves nothing         */
        { "c", KAWS_NETWORK, 499, 10, "acd" },
        { "b", KAWS_CREDENTIALS, 1000, 10, "acd" },
        { "c", KAWS_CREDENTIALS, 1000, 10, "ad" },
        { "b", KAWS_NETWORK, 500, 10, "abd" },
        { "a", KAWS_OK, 1000, 10, "" }
    };
    struct world *w = *state;
    kaws__seek seek = { .left_ms = 1000 };
    const kaws_error *why;
    kaws__creds c;
    char name[2] = "a", unmet[5];
    size_t i, n;

    EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
    for (i = 0; i < COUNT(rows); i++) {
        seek.region = rows[i].region;
        seek.left_ms = rows[i].left_ms;
        kaws__err_clear(&w->err);
        if (rows[i].status != KAWS_OK)
            (void)kaws__err_set(&w->err, rows[i].status, "%s", seek.region);
        c.asked_ms = c.hooks->ticks_ms(c.hooks->ctx);
        kaws__creds_remember(&c, &seek, &w->err);
        w->f.now_ms += rows[i].passed_ms;
        memset(unmet, 0, sizeof unmet);
        n = 0;
        seek.region = name;
        for (name[0] = 'a'; name[0] <= 'd'; name[0]++)
            if ((why = kaws__creds_unmet(&c, &seek)) != NULL) {
                assert_string_equal(why->text, name);
                unmet[n++] = name[0];
            }
        if (strcmp(unmet, rows[i].unmet) != 0)
            fail_msg("row %d: '%s'", (int)i, unmet);
    }
    kaws__creds_close(&c);
}


/* What runs beside the calls signs with what is there, and asks nobody. */
static void
test_a_probe_asks_nobody(void **state)
{
    struct world *w = *state;
    kaws__seek seek = { .now = w->f.now_ms / 1000, .left_ms = 1000 };
    kaws__creds c;
    unsigned answers;

    EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
    kaws__err_clear(&w->err);
    assert_int_equal(kaws__creds_ready(&c, &seek, KAWS__TO_PROBE, &w->err),
                     KAWS_OK);
    answers = c.answers;
    c.expires = seek.now + 10;            /* to be renewed                    */
    c.early = 100;
    assert_int_equal(kaws__creds_ready(&c, &seek, KAWS__TO_PROBE, &w->err),
                     KAWS_OK);
    seek.now += 20;
    assert_int_equal(kaws__creds_ready(&c, &seek, KAWS__TO_PROBE, &w->err),
                     KAWS_CANCELLED);
    assert_int_equal(c.answers, answers);
    kaws__err_clear(&w->err);
    assert_int_equal(kaws__creds_ready(&c, &seek, KAWS__TO_SIGN, &w->err),
                     KAWS_OK);
    assert_int_equal(c.answers, answers + 1);
    kaws__creds_close(&c);
}


/* ---- what a text may not hold ------------------------------------------ */

/* A piece of the secret or of the token, but not of the id; in any case, and
 * with anything in between. The creds that count are the newest. */
static void
test_what_is_in_a_text(void **state)
{
    static const struct { const char *text; int is; } cases[] = {
        { "", 0 }, { "id AKIAFAKEFAKEFAKEFAKE", 0 }, { "sEcReT/fAk", 1 },
        { "the secret f-a-k-e", 1 }, { "sEcReT/f", 0 }, { "KLMNOPQR", 1 },
        { "a\\x0ab bcdefghi\\x0aj", 1 }, { "TOKEN+of/a", 1 },
        { "a token of A", 1 }, { "a token of", 0 }, { "session=12345678", 1 }
    };
    struct world *w = *state;
    kaws__creds c;
    size_t i;

    fake_write_conf(&w->f, FAKE_ID "\n" FAKE_SECRET "\n"
                    "Token/of+a/Session==12345678\n");
    EXPECT(w, KAWS_OK, NULL, open_creds(w, &c));
    for (i = 0; i < COUNT(cases); i++)
        if (kaws__creds_leak_in(&c, kaws__buf_of(cases[i].text)) != cases[i].is)
            fail_msg("%s", cases[i].text);
    fake_write_conf(&w->f, FAKE_ID "\nAnother/Secret\n");
    EXPECT(w, KAWS_OK, NULL, reload(w, &c));
    assert_false(kaws__creds_leak_in(&c, kaws__buf_of("Token/of+a/Session")));
    assert_false(kaws__creds_leak_in(&c, kaws__buf_of(FAKE_SECRET)));
    assert_true(kaws__creds_leak_in(&c, kaws__buf_of("another secret")));
    kaws__creds_close(&c);
}


int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, world_begin, world_end)
    const struct CMUnitTest tests[] = {
        TEST(test_reload),
        TEST(test_refresh),
        TEST(test_refresh_once_for_all),
        TEST(test_renewed_early),
        TEST(test_never_expire),
        TEST(test_early_failure),
        TEST(test_the_same_again),
        TEST(test_clock_is_set),
        TEST(test_hook_is_told),
        TEST(test_one_asks),
        TEST(test_one_tells),
        TEST(test_the_first_leaves),
        TEST(test_waiting_ends),
        TEST(test_words_with_a_secret),
        TEST(test_tell),
        TEST(test_signer),
        TEST(test_unmet_regions),
        TEST(test_a_probe_asks_nobody),
        TEST(test_what_is_in_a_text)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
