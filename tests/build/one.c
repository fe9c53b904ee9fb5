/* one.c - a whole program in one file, with everything private to it */

#define KEYRING_AWS_STATIC
#define KEYRING_AWS_IMPLEMENTATION
#include "keyring_aws.h"

#include "story.c"
