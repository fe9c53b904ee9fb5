/* implementation.c - the one C file of a program that has the implementation */

#define KEYRING_AWS_IMPLEMENTATION
#include "keyring_aws.h"
