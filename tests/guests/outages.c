/* outages.c - a busy server whose KMS comes and goes
 *
 * 16 threads ask all the time, by two rings. KMS hangs, or refuses connections,
 * and comes back: the calls that fail meanwhile fail at once, and soon after
 * KMS is back all threads work again.
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "guest.h"

#include <time.h>

enum { THREADS = 16, TIMEOUT_MS = 1000 };

static kaws *second;                      /* in the same process              */
static int stop, out;                     /* by __atomic: KMS is away         */
static int worst_ms, sent;                /* of those refused; others that    */
static int good[THREADS];                 /* failed; calls that succeeded     */


static int
now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int)(t.tv_sec % 1000000 * 1000 + t.tv_nsec / 1000000);
}


static int
get(int *at)
{
    return __atomic_load_n(at, __ATOMIC_SEQ_CST);
}


static void
set(int *at, int value)
{
    __atomic_store_n(at, value, __ATOMIC_SEQ_CST);
}


static kaws_status
ask(int number, kaws_error *why)
{
    kaws_sealed sealed;

    if (number % 2 == 0)
        return guest_fetch("key", why);
    return kaws_kms_generate_data_key(second, NULL, 16, NULL, &sealed, why);
}


static void *
work(void *arg)
{
    const int number = (int)((int *)arg - good);
    kaws_status status;
    kaws_error why;
    int began, took, max;

    while (!get(&stop)) {
        began = now_ms();
        status = ask(number, &why);
        took = now_ms() - began;
        if (status == KAWS_OK) {
            __atomic_add_fetch(&good[number], 1, __ATOMIC_SEQ_CST);
        } else if (status != KAWS_NETWORK && status != KAWS_SERVICE) {
            fprintf(stderr, "%s\n", why.text);
            exit(1);
        } else if (strstr(why.text, "has been unreachable") == NULL) {
            __atomic_add_fetch(&sent, get(&out), __ATOMIC_SEQ_CST);
        } else {
            max = get(&worst_ms);
            while (took > max && !__atomic_compare_exchange_n(
                       &worst_ms, &max, took, 0, __ATOMIC_SEQ_CST,
                       __ATOMIC_SEQ_CST))
                continue;
        }
        usleep(2000);
    }
    return NULL;
}


/* The test does what the word says. */
static void
page(const char *word)
{
    char line[16];

    printf("%s\n", word);
    fflush(stdout);
    MUST(fgets(line, sizeof line, stdin) != NULL);
}


static int
all_work(int before[THREADS])
{
    int i, yes = 1;

    for (i = 0; i < THREADS; i++)
        yes = yes && get(&good[i]) > before[i];
    return yes;
}


static int
any_works(const int before[THREADS])
{
    int i, yes = 0;

    for (i = 0; i < THREADS; i++)
        yes = yes || get(&good[i]) > before[i];
    return yes;
}


static void
outage(const char *how)
{
    int before[THREADS], i, back;

    page(how);
    usleep(1000 * (TIMEOUT_MS + 800));    /* all have found out               */
    set(&worst_ms, 0);
    set(&sent, 0);
    set(&out, 1);
    page("look");                         /* it counts the connections        */
    set(&out, 0);
    printf("%s: refused within %d ms, %d sent\n", how, get(&worst_ms),
           get(&sent));
    for (i = 0; i < THREADS; i++)
        before[i] = get(&good[i]);
    page("back");
    back = now_ms();
    while (!any_works(before) && now_ms() - back < 20000)
        usleep(1000);
    printf("%s: back within %d ms\n", how, now_ms() - back);
    while (!all_work(before) && now_ms() - back < 20000)
        usleep(1000);
    printf("%s: all within %d ms\n", how, now_ms() - back);
}


int
main(int argc, char **argv)
{
    kaws_config cfg = { .conf_file = argv[2], .ca_file = argv[3],
                        .endpoint = argv[4], .kms_key_id = argv[5] };
    pthread_t threads[THREADS];
    int i;

    MUST(argc == 6);
    guest_open(argv, NULL);
    WORKS(kaws_open(&second, &cfg, &err));
    kaws_use_timeouts(ring, 500, TIMEOUT_MS);
    kaws_use_timeouts(second, 500, TIMEOUT_MS);
    WORKS(kaws_generate(ring, guest_name("key"), "AES", 32, &err));
    for (i = 0; i < THREADS; i++)
        MUST(pthread_create(&threads[i], NULL, work, &good[i]) == 0);
    outage("hang");
    outage("refuse");
    set(&stop, 1);
    for (i = 0; i < THREADS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    kaws_close(second);
    kaws_close(ring);
    return 0;
}
