/* twice.c - a second private copy of the library, for the program one.c
 *
 * story.c is in one.c, and calls the copy there. The copy here is called before
 * main.
 */

#define KEYRING_AWS_STATIC
#define KEYRING_AWS_IMPLEMENTATION
#include "keyring_aws.h"

#include <stdio.h>


__attribute__((constructor))
static void
twice_first(void)
{
    kaws_error err;
    kaws *ring;

    if (kaws_open(&ring, NULL, &err) != KAWS_ARGUMENT)
        printf("a ring without a config: %s\n", err.text);
}
