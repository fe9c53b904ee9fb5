/* guest.h - what the guests share: programs that a stranger would write
 *
 *     PROGRAM DATA CONF CA URL KMS_KEY
 *
 * Each guest opens the ring that its arguments name, prints what it saw in
 * lines "name value", and ends with 0. tests/test_guests.py judges the lines.
 */

#include "../../keyring_aws.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MUST(what) do if (!(what)) {                                          \
        fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what);            \
        exit(1);                                                              \
    } while (0)

static kaws *ring;
static kaws_error err;


/* The text of the last error, if there is one. */
#define WORKS(call) do if ((call) != KAWS_OK) {                               \
        fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, err.text);         \
        exit(1);                                                              \
    } while (0)


static inline void
guest_open(char **argv, int (*cancelled)(void *))
{
    kaws_config cfg = { .data_file = argv[1], .conf_file = argv[2],
                        .ca_file = argv[3], .endpoint = argv[4],
                        .kms_key_id = argv[5], .timeout_ms = 20000,
                        .hooks.cancelled = cancelled };

    WORKS(kaws_open(&ring, &cfg, &err));
}


static inline kaws_name
guest_name(const char *key_id)
{
    kaws_name name = { key_id, "" };

    return name;
}


static inline kaws_status
guest_fetch(const char *key_id, kaws_error *why)
{
    kaws_key key;
    kaws_status status = kaws_fetch(ring, guest_name(key_id), &key, why);

    if (status == KAWS_OK)
        kaws_key_free(ring, &key);
    return status;
}
