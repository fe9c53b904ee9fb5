/* tokens.c - a service whose credentials are session tokens of a broker
 *
 * The broker is the test: it answers "give" with an id, a secret, a token, and
 * when they expire. The service has sixteen threads, which fetch a key all the
 * time. No fetch may fail, and the broker is asked by one thread at a time.
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "guest.h"

#include <time.h>

#define THREADS 16
#define FETCHES 60

static char text[3][2048];                /* what the broker gave last        */
static int in_the_hook, at_most, calls, told, quiet;
static int fetched, failed;
static pthread_barrier_t start;


static long
now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}


/* Has the test do something, and returns what it says. */
static const char *
ask(const char *what)
{
    static char line[4096];

    printf("%s\n", what);
    fflush(stdout);
    MUST(fgets(line, sizeof line, stdin) != NULL);
    return line;
}


/* Only one thread is in here at a time: nothing is locked. */
static int
from_the_broker(void *ctx, kaws_creds_wanted *wanted)
{
    long long expires;

    (void)ctx;
    if (__atomic_add_fetch(&in_the_hook, 1, __ATOMIC_SEQ_CST) > at_most)
        at_most = in_the_hook;
    calls++;
    told += wanted->refused;
    if (!quiet)
        printf("call %d at %ld\n", wanted->refused, now_ms());
    MUST(wanted->timeout_ms > 0 && wanted->timeout_ms <= 20000);
    MUST(sscanf(ask("give"), "%2047s %2047s %2047s %lld", text[0], text[1],
                text[2], &expires) == 4);
    wanted->creds = (kaws_creds){ text[0], text[1], text[2] };
    wanted->expires = expires;
    usleep(30000);                        /* others would come meanwhile      */
    __atomic_sub_fetch(&in_the_hook, 1, __ATOMIC_SEQ_CST);
    return 0;
}


static void *
client(void *arg)
{
    const int count = *(const int *)arg;
    kaws_error why;
    int i;

    pthread_barrier_wait(&start);
    for (i = 0; i < count; i++) {
        if (guest_fetch("key", &why) != KAWS_OK) {
            fprintf(stderr, "%s\n", why.text);
            __atomic_add_fetch(&failed, 1, __ATOMIC_SEQ_CST);
        }
        __atomic_add_fetch(&fetched, 1, __ATOMIC_SEQ_CST);
        if (count > 1)
            usleep(170000);
    }
    return NULL;
}


static void
all_fetch(int count)
{
    pthread_t threads[THREADS];
    int i;

    for (i = 0; i < THREADS; i++)
        MUST(pthread_create(&threads[i], NULL, client, &count) == 0);
    for (i = 0; i < THREADS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
}


int
main(int argc, char **argv)
{
    kaws_config cfg = { .data_file = argv[1], .ca_file = argv[3],
                        .endpoint = argv[4], .kms_key_id = argv[5],
                        .timeout_ms = 20000, .hooks.creds = from_the_broker };
    kaws_stats before, after;
    int i, all;

    MUST(argc == 6);
    MUST(pthread_barrier_init(&start, NULL, THREADS) == 0);
    WORKS(kaws_open(&ring, &cfg, &err));
    MUST(calls == 0);
    WORKS(kaws_generate(ring, guest_name("key"), "AES", 32, &err));
    MUST(calls == 1);
    all_fetch(FETCHES);
    all = fetched;
    ask("reset");
    quiet = 1;
    for (i = 0; i < 3; i++) {
        WORKS(kaws_reload_creds(ring, &err));
        ask("revoke");
        calls = told = 0;
        kaws_get_stats(ring, &before);
        all_fetch(1);
        kaws_get_stats(ring, &after);
        printf("refused %d, asked %d, told %d\n", (int)(after.kms_errors -
               before.kms_errors), calls, told);
    }
    printf("fetched %d\nfailed %d\nin the hook %d\n", all, failed, at_most);
    kaws_close(ring);
    return 0;
}
