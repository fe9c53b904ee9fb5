/* renames.h - renameat2() for libcs that have none (musl, before glibc 2.28)
 *
 * The product asks the kernel then. Tests that stand in between need the
 * function and its two constants.
 */

#if !defined(KAWS_RENAMES_H)
#define KAWS_RENAMES_H

#include <stdio.h>

#if !defined(RENAME_EXCHANGE)
#include <sys/syscall.h>
#include <unistd.h>

#define RENAME_NOREPLACE 1
#define RENAME_EXCHANGE  2


static int
renameat2(int a, const char *from, int b, const char *to, unsigned how)
{
    return (int)syscall(SYS_renameat2, a, from, b, to, how);
}

#endif

#endif /* KAWS_RENAMES_H */
