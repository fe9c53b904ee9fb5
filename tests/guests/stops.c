/* stops.c - a server whose users press Ctrl-C while it waits for AWS KMS
 *
 * Only the thread of the user's own session notices the Ctrl-C. Each call must
 * end within 200 ms after it, and must change nothing.
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "guest.h"

#include <fcntl.h>
#include <time.h>

static __thread int session;              /* is this its thread?              */
static int stop;                          /* by __atomic                      */
static int asked[2];                      /* by those who wait: any, our user */


static double
now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}


static int
cancelled(void *ctx)
{
    (void)ctx;
    (void)__atomic_add_fetch(&asked[session], 1, __ATOMIC_SEQ_CST);
    return session && __atomic_load_n(&stop, __ATOMIC_SEQ_CST);
}


/* Starts a call. Returns when it waits: then it has asked several times. */
static pthread_t
begin(void *(*call)(void *), void *arg, int who)
{
    pthread_t thread;

    __atomic_store_n(&asked[who], 0, __ATOMIC_SEQ_CST);
    MUST(pthread_create(&thread, NULL, call, arg) == 0);
    while (__atomic_load_n(&asked[who], __ATOMIC_SEQ_CST) < 3)
        usleep(1000);
    return thread;
}


/* ---- what the user does ------------------------------------------------ */

static kaws_status
fetch(kaws_error *e)
{
    return guest_fetch("key-1", e);
}


static kaws_status
generate(kaws_error *e)
{
    return kaws_generate(ring, guest_name("new"), "AES", 32, e);
}


static kaws_status
store(kaws_error *e)
{
    const kaws_bytes plain = { (const uint8_t *)"secret", 6 };

    return kaws_store(ring, guest_name("new"), "AES", plain, e);
}


static kaws_status
remove_one(kaws_error *e)
{
    return kaws_remove(ring, guest_name("key-0"), e);
}


static kaws_status
check(kaws_error *e)
{
    return kaws_check(ring, e);
}


static kaws_status
rotate(kaws_error *e)
{
    return kaws_rotate_kms_key(ring, e);
}


static kaws_status
rewrap(kaws_error *e)
{
    return kaws_rewrap_all(ring, e);
}


static kaws_status
use(kaws_error *e)
{
    return kaws_use_kms_key(ring, "alias/elsewhere", e);
}


static kaws_status
encrypt(kaws_error *e)
{
    const kaws_bytes plain = { (const uint8_t *)"secret", 6 };
    kaws_sealed sealed;

    return kaws_kms_encrypt(ring, NULL, plain, &sealed, e);
}


typedef struct act {
    const char *name;
    kaws_status (*call)(kaws_error *);
    kaws_error  err;
    double      ended;
} act;


static void *
act_run(void *arg)
{
    act *a = arg;

    session = 1;
    (void)a->call(&a->err);
    a->ended = now();
    return NULL;
}


/* Runs the call, cancels it when it has waited for 400 ms, and says how it
 * ended. */
static void
act_stop(const char *name, kaws_status (*call)(kaws_error *))
{
    act a = { .name = name, .call = call };
    pthread_t thread = begin(act_run, &a, 1);
    double stopped;

    usleep(400 * 1000);
    stopped = now();
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    MUST(pthread_join(thread, NULL) == 0);
    __atomic_store_n(&stop, 0, __ATOMIC_SEQ_CST);
    printf("%s: %s after %d ms: %s\n", name, kaws_status_text(a.err.status),
           (int)((a.ended - stopped) * 1000), a.err.text);
}


/* ---- what it waits for ------------------------------------------------- */

/* Another process has the lock of the file. */
static int
hold(const char *data, int fd)
{
    struct flock slot = { .l_type = fd < 0 ? F_WRLCK : F_UNLCK,
                          .l_whence = SEEK_SET, .l_start = 1, .l_len = 1 };
    char path[4096];

    (void)snprintf(path, sizeof path, "%s.lock", data);
    if (fd < 0)
        MUST((fd = open(path, O_RDWR)) >= 0);
    MUST(fcntl(fd, F_OFD_SETLK, &slot) == 0);
    return fd;
}


/* A colleague who waits as well, whom nobody stops, and who may fail. */
static void *
colleague(void *call)
{
    kaws_error e;

    (void)(*(kaws_status (**)(kaws_error *))call)(&e);
    return NULL;
}


static void
behind_a_colleague(const char *name, kaws_status (*theirs)(kaws_error *),
                   kaws_status (*ours)(kaws_error *))
{
    pthread_t thread = begin(colleague, &theirs, 0);

    act_stop(name, ours);
    MUST(pthread_join(thread, NULL) == 0);
}


/* Waits until the test has made KMS slow, or fast. */
static void
turn_page(const char *word)
{
    char line[16];

    printf("%s\n", word);
    fflush(stdout);
    MUST(fgets(line, sizeof line, stdin) != NULL);
}


int
main(int argc, char **argv)
{
    static const act slow[] = {
        { .name = "fetch", fetch }, { .name = "generate", generate },
        { .name = "store", store }, { .name = "use", use },
        { .name = "encrypt", encrypt }, { .name = "check", check },
        { .name = "rotate", rotate }, { .name = "rewrap", rewrap }
    };
    size_t i;
    int fd;

    MUST(argc == 6);
    guest_open(argv, cancelled);
    WORKS(kaws_generate(ring, guest_name("key-0"), "AES", 32, &err));
    WORKS(kaws_generate(ring, guest_name("key-1"), "AES", 32, &err));
    turn_page("slow");
    for (i = 0; i < sizeof slow / sizeof slow[0]; i++)
        act_stop(slow[i].name, slow[i].call);
    behind_a_colleague("use, behind another", use, use);
    turn_page("throttled");
    act_stop("fetch, throttled", fetch);
    turn_page("fast");
    fd = hold(argv[1], -1);
    act_stop("remove, locked", remove_one);
    behind_a_colleague("remove, behind another", generate, remove_one);
    fd = hold(argv[1], fd);
    turn_page("done");
    for (i = 0; i < sizeof slow / sizeof slow[0]; i++)
        if (slow[i].call != use)
            WORKS(slow[i].call == store ? remove_one(&err)
                                        : slow[i].call(&err));
    kaws_close(ring);
    printf("end\n");
    return 0;
}
