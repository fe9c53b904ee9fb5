/* test_two_names.c - two processes on one file, by one name, or each by its own
 *
 * Two names have two lock files, so only the lock on the data file itself keeps
 * the processes apart. The test makes each write 3 ms longer, and each removal
 * of a name 20 ms. Each process reopens the keyring when a call returns that
 * the other process has changed it. In the end every acknowledged key of both
 * processes is there, and can be decrypted.
 *
 * The second name is a hard link, or a mount of that single file, as docker -v
 * FILE:FILE makes one. A mount takes root, and a mount namespace of our own;
 * without these that part is skipped.
 */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>


static ssize_t
slow_pwrite(int fd, const void *from, size_t len, off_t at)
{
    usleep(3000);
    return pwrite(fd, from, len, at);
}


static int
slow_unlink(const char *path)
{
    usleep(20000);
    return unlink(path);
}

#define pwrite slow_pwrite
#define unlink slow_unlink

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "../unit/world.h"

enum { WORKERS = 2, NAME = 16, NAMES = 4096 };

typedef struct worker {
    const char *path;
    int number, keys;
    int removes;                  /* now and then                             */
    int reads;                    /* and changes nothing                      */
} worker;


static void
really_sleep(struct fake *f, int ms)
{
    (void)f;
    usleep((useconds_t)ms * 1000);
}


/* ---- a process ---------------------------------------------------------- */

/* Says what was acknowledged, right after it was: + there, - removed. */
static int
tell(int to, char what, const char *name)
{
    char line[NAME];

    memset(line, 0, sizeof line);
    (void)snprintf(line, sizeof line, "%c%s", what, name);
    return write(to, line, sizeof line) == sizeof line;
}


/* Whether that may be the answer where two change one file. */
static int
is_fair(kaws_status status, const kaws_error *err)
{
    return status == KAWS_OK || status == KAWS_CHANGED ||
           status == KAWS_LOCKED ||
           (status == KAWS_FILE && (strstr(err->text, "has 2 names") != NULL ||
                                    err->os == EBUSY));
}


static kaws_status
work_once(kaws *ring, const worker *me, int i, int to, kaws_error *err)
{
    char text[NAME];
    kaws_name name = { text, "" };
    kaws_status status;

    (void)snprintf(text, sizeof text, "w%d-%d", me->number, i);
    status = kaws_generate(ring, name, "AES", 32, err);
    if (status == KAWS_OK && !tell(to, '+', text))
        _exit(3);
    if (status == KAWS_OK && me->removes && i % 5 == 4) {
        status = kaws_remove(ring, name, err);
        if (status == KAWS_OK && !tell(to, '-', text))
            _exit(3);
        /* Another changed the file first: the key stays, and is not made again;
         * a ring that has to be opened again says so at the next one. */
        status = is_fair(status, err) ? KAWS_OK : status;
    }
    return status;
}


/* One that only reads: it sees whole files, which only grow. */
static int
read_on(kaws *ring, struct fake *f, uint64_t *seen)
{
    kaws_stats stats;

    kaws_get_stats(ring, &stats);
    if (stats.keys < *seen || fake_logged(f, 1, "never acknowledged") > 0)
        return 0;
    *seen = stats.keys;
    return 1;
}


/* Makes its keys; reopens when it has to. The exit code says what is wrong:
 * nothing, an answer that cannot be, or too little that was done. */
static void
work(const worker *me, int to)
{
    struct fake f;
    kaws_config cfg;
    kaws_error err;
    kaws *ring = NULL;
    kaws_status status = KAWS_OK;
    uint64_t seen = 0;
    int i = 0, tries;

    fake_init(&f);
    f.seed += (uint64_t)me->number;
    f.on_sleep = really_sleep;
    cfg = fake_config(&f);
    cfg.data_file = me->path;
    cfg.read_only = me->reads;
    for (tries = 0; i < me->keys && tries < 20 * me->keys; tries++) {
        if (ring == NULL)
            status = kaws_open(&ring, &cfg, &err);
        if (ring == NULL && strstr(err.text, "mount it again") != NULL)
            _exit(0);                     /* it leads to what was replaced    */
        if (status == KAWS_OK && me->reads && !read_on(ring, &f, &seen))
            _exit(4);
        if (status == KAWS_OK && !me->reads)
            status = work_once(ring, me, i, to, &err);
        i += status == KAWS_OK;
        if (!is_fair(status, &err)) {
            fprintf(stderr, "worker %d: %s\n", me->number, err.text);
            _exit(1);
        }
        if (status != KAWS_OK || me->reads) {
            kaws_close(ring);
            ring = NULL;
        }
    }
    kaws_close(ring);
    _exit(i == me->keys ? 0 : 2);
}


/* ---- what is left ------------------------------------------------------- */

static struct { char name[NAME]; int there; } known[NAMES];
static size_t known_count;


static void
learn(int from)
{
    char line[NAME];
    size_t i;

    known_count = 0;
    while (read(from, line, sizeof line) == sizeof line) {
        for (i = 0; i < known_count; i++)
            if (strcmp(known[i].name, line + 1) == 0)
                break;
        assert_in_range(i, 0, NAMES - 1);
        memcpy(known[i].name, line + 1, NAME - 1);
        known[i].there = line[0] == '+';
        known_count += i == known_count;
    }
}


/* All that was acknowledged is there, and opens; nothing else is. */
static void
check(struct world *w)
{
    kaws_stats stats;
    kaws_key key;
    size_t i, there = 0, missing = 0;

    world_open(w);
    for (i = 0; i < known_count; i++) {
        kaws_name name = { known[i].name, "" };
        kaws_status status = kaws_fetch(w->ring, name, &key, &w->err);
        kaws_key_free(w->ring, &key);
        there += known[i].there != 0;
        missing += (status == KAWS_OK) != (known[i].there != 0);
    }
    if (missing > 0)
        fail_msg("of %lu acknowledged changes %lu are not there",
                 (unsigned long)known_count, (unsigned long)missing);
    kaws_get_stats(w->ring, &stats);
    assert_int_equal(stats.keys, there);
    kaws__err_clear(&w->err);
    world_close(w);
}


/* Lets both work at once. */
static void
play(struct world *w, const worker all[WORKERS])
{
    int pipes[2], status, i;
    pid_t child[WORKERS];

    assert_int_equal(pipe(pipes), 0);
    for (i = 0; i < WORKERS; i++) {
        child[i] = fork();
        assert_true(child[i] >= 0);
        if (child[i] == 0)
            work(&all[i], pipes[1]);
    }
    close(pipes[1]);
    learn(pipes[0]);
    close(pipes[0]);
    for (i = 0; i < WORKERS; i++) {
        assert_int_equal(waitpid(child[i], &status, 0), child[i]);
        if (status != 0)
            fail_msg("worker %d ended with %d", i, status);
    }
    check(w);
}


/* ---- the tests ---------------------------------------------------------- */

typedef struct scenario {
    const char *name;
    enum { THE_SAME, LINKED, MOUNTED } second;    /* what the second name is  */
    int         removes, reads;   /* as the workers have it                   */
} scenario;


/* Gives the file its second name, which ends with the test. A mount is where
 * only we see it. */
static const char *
second_name(struct world *w, int second)
{
    static char other[128];

    (void)snprintf(other, sizeof other, "%s/other", w->f.dir);
    if (second == THE_SAME)
        return w->f.data;
    if (second == LINKED) {
        assert_int_equal(link(w->f.data, other), 0);
        return other;
    }
    spill(other, "", 0);
    if (unshare(CLONE_NEWNS) != 0 ||
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount(w->f.data, other, NULL, MS_BIND, NULL) != 0) {
        print_message("nothing can be mounted here\n");
        skip();
    }
    return other;
}


/* To remove takes a replacement, which would make two files of two links. Of a
 * mounted file, the first name's worker replaces it; the second is left with
 * what it was, is told so, and nothing that it was promised is missing. */
static void
test_workers(void **state)
{
    const scenario *s = *state;
    int keys = getenv("KAWS_LONG") != NULL ? 400 : 40;
    int mounted = s->second == MOUNTED;
    worker all[WORKERS] = { { NULL, 1, keys, s->removes, 0 },
                            { NULL, 2, keys, s->removes, s->reads } };
    void *world;
    struct world *w;
    kaws *none;

    assert_int_equal(world_begin(&world), 0);
    w = world;
    world_open(w);
    world_close(w);
    all[0].path = w->f.data;
    all[1].path = second_name(w, s->second);
    w->cfg.data_file = all[1].path;
    world_open(w);
#if defined(STATX_ATTR_MOUNT_ROOT)        /* else nobody can tell             */
    assert_int_equal(fake_logged(&w->f, 1, "is a mount point"), mounted);
#endif
    world_close(w);
    w->cfg.data_file = w->f.data;
    play(w, all);
    assert_in_range(known_count, s->removes && !mounted ? WORKERS * keys
                                                           : keys,
                    WORKERS * keys);
    if (mounted && s->removes) {
        w->cfg.data_file = all[1].path;
        EXPECT(w, KAWS_CHANGED, "mount it again",
               kaws_open(&none, &w->cfg, &w->err));
        kaws__err_clear(&w->err);
    }
    if (mounted)
        assert_int_equal(umount(all[1].path), 0);
    assert_int_equal(world_end(&world), 0);
}


/* In one process, to see what each of the two rings says. */
static void
test_a_replaced_mounted_file_is_noticed(void **state)
{
    struct world *w = *state;
    kaws_name name = { "k", "" };
    kaws *mine, *theirs;
    kaws_key key;

    world_open(w);
    EXPECT(w, KAWS_OK, NULL, kaws_generate(w->ring, name, "AES", 32, &w->err));
    mine = w->ring;
    w->cfg.data_file = second_name(w, MOUNTED);
    EXPECT(w, KAWS_OK, NULL, kaws_open(&theirs, &w->cfg, &w->err));
    assert_int_equal(fake_logged(&w->f, 1, "by another name"), 1);
    EXPECT(w, KAWS_FILE, "Device or resource busy",
           kaws_remove(theirs, name, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_remove(mine, name, &w->err));
    EXPECT(w, KAWS_CHANGED, "it was replaced under another name",
           kaws_remove(theirs, name, &w->err));
    EXPECT(w, KAWS_CHANGED, NULL,
           kaws_generate(theirs, name_of("other", ""), "AES", 32, &w->err));
    EXPECT(w, KAWS_OK, NULL,
           kaws_generate(mine, name_of("other", ""), "AES", 32, &w->err));
    EXPECT(w, KAWS_CHANGED, "mount it again",
           kaws_fetch(theirs, name_of("other", ""), &key, &w->err));
    EXPECT(w, KAWS_CHANGED, "mount it again", kaws_refresh(theirs, &w->err));
    kaws_close(theirs);
    kaws__err_clear(&w->err);
    assert_int_equal(umount(w->cfg.data_file), 0);
}


int
main(void)
{
    static scenario all[] = {
        { "one name, removes", THE_SAME, 1, 0 },
        { "hard link", LINKED, 0, 0 }, { "hard link, removes", LINKED, 1, 0 },
        { "hard link, reads", LINKED, 0, 1 }, { "mounted file", MOUNTED, 0, 0 },
        { "mounted file, removes", MOUNTED, 1, 0 }
    };
    enum { N = sizeof all / sizeof all[0] };
    struct CMUnitTest tests[N + 1] = {
        cmocka_unit_test_setup_teardown(test_a_replaced_mounted_file_is_noticed,
                                        world_begin, world_end)
    };
    int i;

    for (i = 0; i < N; i++) {
        tests[i + 1].name = all[i].name;
        tests[i + 1].test_func = test_workers;
        tests[i + 1].initial_state = &all[i];
    }
    return cmocka_run_group_tests_name("two names", tests, NULL, NULL);
}
