/* cancels.c - a server that cancels the threads of clients that hang up
 *
 * A thread that is cancelled while it is in a call finishes the call first: its
 * locks are free afterwards, and the next thread goes on.
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "guest.h"

#define ROUNDS 40

static int finished;                      /* calls that ended                 */


static void *
client(void *arg)
{
    int round = *(int *)arg, state;
    kaws_error why;
    kaws_status status;
    char key_id[16];

    (void)snprintf(key_id, sizeof key_id, "key-%d", round);
    switch (round % 4) {
    case 0:
        status = guest_fetch("first", &why);
        break;
    case 1:
        status = kaws_generate(ring, guest_name(key_id), "AES", 32, &why);
        break;
    case 2:
        status = kaws_remove(ring, guest_name("none"), &why);
        MUST(status == KAWS_NOT_FOUND);
        status = KAWS_OK;
        break;
    default:
        status = kaws_check(ring, &why);
        break;
    }
    MUST(status == KAWS_OK);
    finished++;
    MUST(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &state) == 0);
    MUST(state == PTHREAD_CANCEL_ENABLE); /* as it was before the call        */
    for (;;)
        sleep(1);                         /* the client has hung up           */
}


int
main(int argc, char **argv)
{
    pthread_t thread;
    void *end;
    int round, before;

    MUST(argc == 6);
    guest_open(argv, NULL);
    WORKS(kaws_generate(ring, guest_name("first"), "AES", 32, &err));
    for (round = 0; round < ROUNDS; round++) {
        before = finished;
        MUST(pthread_create(&thread, NULL, client, &round) == 0);
        usleep((useconds_t)(rand() % 25000 + 500));
        MUST(pthread_cancel(thread) == 0);
        MUST(pthread_join(thread, &end) == 0 && end == PTHREAD_CANCELED);
        MUST(finished == before + 1);
        WORKS(guest_fetch("first", &err));
    }
    WORKS(kaws_remove(ring, guest_name("first"), &err));
    /* A thread that cannot be cancelled stays so. */
    MUST(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL) == 0);
    WORKS(kaws_check(ring, &err));
    MUST(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &round) == 0);
    MUST(round == PTHREAD_CANCEL_DISABLE);
    kaws_close(ring);
    printf("finished %d\n", finished);
    return 0;
}
