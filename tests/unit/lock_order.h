/* lock_order.h - the product, with each thread's order of locks checked
 *
 * Include it in place of keyring_aws.h: it brings the product, and ends the
 * process if a thread takes a lock that stands above one that it holds (or the
 * same one) in KAWS__RANKS.
 */

#if !defined(KAWS_LOCK_ORDER_H)
#define KAWS_LOCK_ORDER_H

#define KAWS__RANK_CHECK(rank, takes) lock_order_check((int)(rank), takes)

static void lock_order_check(int rank, int takes);

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"

#define LOCK_ORDER_TEXT(name) #name,


static void
lock_order_check(int rank, int takes)
{
    static const char *const names[] = { KAWS__RANKS(LOCK_ORDER_TEXT) };
    static __thread unsigned held;        /* a bit for each rank              */
    int i = KAWS__RANK_COUNT;

    if (takes && held >> rank != 0) {
        while (!(held >> --i & 1))
            continue;
        fprintf(stderr, "keyring_aws: wrong order of locks: a thread that "
                "holds %s takes %s\n", names[i], names[rank]);
        abort();
    }
    held ^= 1u << rank;
}

#endif
