/* posix.h - what the tests use of POSIX and Windows lacks, or has in other
 * forms
 *
 * A test that is compiled for Windows includes it first. It is for the tests
 * only: the product has its own Windows functions, in rooms sys, thread and
 * disk.
 */

#if !defined(KAWS_STANDIN_POSIX_H)
#define KAWS_STANDIN_POSIX_H

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#define _CRT_RAND_S
#define __USE_MINGW_ANSI_STDIO 1

#include <direct.h>
#include <fcntl.h>
#include <io.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#include <dirent.h>
#include <windows.h>

#undef far                        /* words that our tests use as names       */
#undef near
#undef small

#define POSIX static __attribute__((unused))

#define mkdir(path, mode) ((void)(mode), _mkdir(path))
#define lstat(path, st)   stat(path, st)      /* there are no links           */


/* A byte is a byte. */
__attribute__((constructor))
POSIX void
posix_bytes(void)
{
    _fmode = _O_BINARY;
}


POSIX char *
mkdtemp(char *path)
{
    size_t len = strlen(path);
    unsigned chance, i;
    int tries = 0;

    do {
        if (rand_s(&chance) != 0)
            return NULL;
        for (i = 1; i <= 6; i++, chance /= 16)
            path[len - i] = "0123456789abcdef"[chance % 16];
        if (_mkdir(path) == 0)
            return path;
    } while (++tries < 100);
    return NULL;
}


POSIX void *
memmem(const void *in, size_t in_len, const void *what, size_t len)
{
    const char *at = in;
    size_t i;

    for (i = 0; i + len <= in_len; i++)
        if (memcmp(at + i, what, len) == 0)
            return (void *)(uintptr_t)(at + i);
    return NULL;
}


POSIX int
setenv(const char *name, const char *value, int over)
{
    return over || getenv(name) == NULL ? _putenv_s(name, value) : 0;
}


/* Replaces, as POSIX's does, and waits for who has the other one open: half a
 * minute, for on a loaded machine several threads may take turns with it. */
POSIX int
posix_rename(const char *from, const char *to)
{
    int tries = 0;

    while (!MoveFileExA(from, to, MOVEFILE_REPLACE_EXISTING)) {
        if (GetLastError() != ERROR_ACCESS_DENIED || ++tries == 30000)
            return -1;
        Sleep(1);
    }
    return 0;
}

#define rename(from, to) posix_rename(from, to)


/* Of files and of empty folders. */
POSIX int
posix_remove(const char *path)
{
    return remove(path) == 0 ? 0 : _rmdir(path);
}

#define remove(path) posix_remove(path)


POSIX int
unsetenv(const char *name)
{
    return _putenv_s(name, "");
}


#endif
