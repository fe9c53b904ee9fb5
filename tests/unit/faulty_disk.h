/* faulty_disk.h - a disk that fails when it is told to
 *
 * Include it BEFORE keyring_aws.h: room disk then calls what is here. A call
 * does its work, until a rule for its name says that it fails.
 *
 *     disk_fail("fdatasync", 1, EIO, 1);   the 2nd from now on fails, once
 *     disk_heal();                         no rule holds any more
 *
 * A pwrite that fails with ENOSPC writes half of its bytes first; one that
 * "fails" with EAGAIN does not, but does half. disk_trace has the calls that
 * were made, a letter each.
 */

#if !defined(KAWS_FAULTY_DISK_H)
#define KAWS_FAULTY_DISK_H

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#if !defined(_WIN32)
#include <sys/mman.h>
#include "renames.h"
#endif

/* How the product looks at a path, how often it opens the file and asks what it
 * is before a change, and how it gives a file the name of another, or one that
 * nobody has. */
#if defined(_WIN32)
#define DISK_LOOK    "open"
#define DISK_OPENS   2
#define DISK_STATS   2
#define DISK_REPLACE "rename"
#else
#define DISK_LOOK    "lstat"
#define DISK_OPENS   0
#define DISK_STATS   1
#define DISK_REPLACE "renameat2"
#endif

static struct {
    const char *call;
    int skip, times, os;
} disk_rules[8];

/* w pwrite, d fdatasync, f fsync (of a folder), t ftruncate, r rename,
 * x renameat2 that exchanges, n renameat2 that replaces nothing, l link,
 * u unlink, m mkdir */
static char disk_trace[256];

/* Not -1: whose all files are, as a file system may say (not on Windows). */
static long disk_owner = -1;

/* Not 0: what a path means is on another device than what is open. */
static int disk_other_device;

/* Called before a call does its work. */
static void (*disk_on_call)(const char *call);


static void
disk_fail(const char *call, int skip, int os, int times)
{
    size_t i = 0;

    while (disk_rules[i].times > 0)
        i++;
    disk_rules[i].call = call;
    disk_rules[i].skip = skip;
    disk_rules[i].os = os;
    disk_rules[i].times = times;
}


static void
disk_heal(void)
{
    memset(disk_rules, 0, sizeof disk_rules);
    disk_owner = -1;
    disk_other_device = 0;
    disk_on_call = NULL;
    disk_trace[0] = '\0';
}


/* The errno that this call is to fail with, or 0. */
static int
disk_fails(const char *call, char letter)
{
    size_t n = strlen(disk_trace), i;

    if (disk_on_call != NULL)
        disk_on_call(call);
    if (letter != '\0' && n + 1 < sizeof disk_trace) {
        disk_trace[n] = letter;
        disk_trace[n + 1] = '\0';
    }
    for (i = 0; i < 8; i++) {
        if (disk_rules[i].times == 0 || strcmp(disk_rules[i].call, call) != 0)
            continue;
        if (disk_rules[i].skip > 0) {
            disk_rules[i].skip--;
            continue;
        }
        disk_rules[i].times--;
        errno = disk_rules[i].os;
        return errno;
    }
    return 0;
}


#if defined(_WIN32)

#include "standin/windows/disk_calls.h"

#else

static ssize_t
disk_pread(int fd, void *to, size_t len, off_t at)
{
    int os = disk_fails("pread", '\0');

    if (os == EAGAIN)                     /* stands for: fewer than asked     */
        return pread(fd, to, len > 1 ? len / 2 : len, at);
    return os != 0 ? -1 : pread(fd, to, len, at);
}


static ssize_t
disk_pwrite(int fd, const void *from, size_t len, off_t at)
{
    int os = disk_fails("pwrite", 'w');

    if (os == EAGAIN)
        return pwrite(fd, from, len > 1 ? len / 2 : len, at);
    if (os == ENOSPC && pwrite(fd, from, len / 2, at) >= 0)
        errno = ENOSPC;
    return os != 0 ? -1 : pwrite(fd, from, len, at);
}


static int
disk_fdatasync(int fd)
{
    return disk_fails("fdatasync", 'd') != 0 ? -1 : fdatasync(fd);
}


static int
disk_fsync(int fd)
{
    return disk_fails("fsync", 'f') != 0 ? -1 : fsync(fd);
}


static int
disk_ftruncate(int fd, off_t len)
{
    return disk_fails("ftruncate", 't') != 0 ? -1 : ftruncate(fd, len);
}


static int
disk_rename(const char *from, const char *to)
{
    return disk_fails("rename", 'r') != 0 ? -1 : rename(from, to);
}


static int
disk_renameat2(int a, const char *from, int b, const char *to, unsigned how)
{
    if (disk_fails("renameat2", how == RENAME_EXCHANGE ? 'x' : 'n') != 0)
        return -1;
    return renameat2(a, from, b, to, how);
}


static int
disk_link(const char *from, const char *to)
{
    return disk_fails("link", 'l') != 0 ? -1 : link(from, to);
}


static int
disk_lstat(const char *path, struct stat *st)
{
    if (disk_fails("lstat", '\0') != 0 || lstat(path, st) != 0)
        return -1;
    st->st_dev += (dev_t)disk_other_device;
    return 0;
}


static int
disk_faccessat(int dir, const char *path, int mode, int flags)
{
    return disk_fails("faccessat", '\0') != 0
         ? -1 : faccessat(dir, path, mode, flags);
}


static int
disk_unlink(const char *path)
{
    return disk_fails("unlink", 'u') != 0 ? -1 : unlink(path);
}


static int
disk_mkdir(const char *path, mode_t mode)
{
    return disk_fails("mkdir", 'm') != 0 ? -1 : mkdir(path, mode);
}


/* With a mode, as room disk opens files; its folders it opens without. */
static int
disk_open(const char *path, int flags, ...)
{
    if (disk_fails(flags & O_DIRECTORY ? "opendir" : "open", '\0') != 0)
        return -1;
    return open(path, flags, 0600);
}


static int
disk_fstat(int fd, struct stat *st)
{
    if (disk_fails("fstat", '\0') != 0 || fstat(fd, st) != 0)
        return -1;
    if (disk_owner >= 0)
        st->st_uid = (uid_t)disk_owner;
    return 0;
}


static int
disk_lock(int fd, int call, struct flock *range)
{
    return disk_fails("fcntl", '\0') != 0 ? -1 : fcntl(fd, call, range);
}

#define pread     disk_pread
#define pwrite    disk_pwrite
#define fdatasync disk_fdatasync
#define fsync     disk_fsync
#define ftruncate disk_ftruncate
#define rename    disk_rename
#define renameat2 disk_renameat2
#define link      disk_link
#define lstat     disk_lstat
#define faccessat disk_faccessat
#define unlink    disk_unlink
#define mkdir     disk_mkdir
#define open      disk_open
#define fstat     disk_fstat
#define fcntl     disk_lock

#endif

#endif /* KAWS_FAULTY_DISK_H */
