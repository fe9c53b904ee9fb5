/* poison.h - bans functions from the source file that is compiled after it
 *
 * A poisoned name is an error in a system header, too. So this file first
 * includes all that the product includes.
 */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <bearssl.h>
#include <curl/curl.h>

#undef alloca
#undef strdupa
#undef isalpha
#undef isalnum
#undef isdigit
#undef isspace
#undef isprint

/* what writes without end */
#pragma GCC poison strcpy strcat stpcpy sprintf vsprintf gets scanf fscanf
#pragma GCC poison wcscpy wcscat alloca strdupa strncpy strncat
/* what keeps state between calls, or asks the locale */
#pragma GCC poison strtok strerror asctime ctime gmtime localtime setlocale
#pragma GCC poison isalpha isalnum isdigit isspace isprint toupper tolower
#pragma GCC poison strcasecmp strncasecmp strcoll atof strtod
/* what hides an error, or guesses */
#pragma GCC poison atoi atol atoll tmpnam tempnam mktemp rand srand
/* what a guest in somebody's process does not do */
#pragma GCC poison abort exit _exit system popen fork execve setenv putenv
#pragma GCC poison unsetenv signal sigaction chdir umask alarm setrlimit
#pragma GCC poison puts putchar perror
/* what leaves the old bytes behind; the plugin has a list of names to grow */
#if defined(POISON_REALLOC)
#pragma GCC poison realloc
#endif
