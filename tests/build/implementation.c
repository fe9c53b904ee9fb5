/* implementation.c - the one C file of its program with the implementation */

#define KEYRING_AWS_IMPLEMENTATION
#include "keyring_aws.h"
