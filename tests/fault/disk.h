/* disk.h - a disk that fails, forgets and stops as a test says
 *
 * Include it first, before keyring_aws.h. The product calls libc for its files
 * (open, pwrite, fdatasync, rename ...). It has no hook for these calls, and
 * should not have one for tests alone. So this file includes every system
 * header that the product includes; the product's own includes then do nothing.
 * After that it defines macros with the names of the libc functions. So the
 * product, which is compiled into the test, calls this disk. That works with
 * any linker.
 *
 * Files outside /disk are the system's. Their calls fail by rules:
 *
 *     disk_fail("fdatasync", 1, EIO, 1);   the 2nd from now on fails, once
 *     disk_heal();                         no rule holds any more
 *
 * A pwrite that fails with ENOSPC writes half of its bytes first. A pwrite or
 * pread whose rule says EAGAIN does not fail, but does half; one whose rule
 * says 0 does nothing, and returns 0. disk_trace has the calls, a letter each.
 *
 * Files in /disk are in memory. A call fails by its number:
 *
 *     disk_format();                            an empty folder /disk
 *     disk.at = 7, disk.fault = DISK_STOP_AFTER;
 *     kaws_generate(ring, ...);                 its 7th call is the last one
 *     disk_copy(&saved, &disk.image);
 *     for (i = 0; i < disk_survivals(&saved, 256); i++) {
 *         disk_copy(&disk.image, &saved);
 *         disk_survive(i, 256);                 power is back: what is left?
 *         kaws_open(&ring, ...);
 *     }
 *
 * The disk models this. In a file, each sector of 512 bytes and the size may
 * become durable at any time, one by one and in any order; fdatasync makes all
 * of them durable. In a folder, the changes of names become durable in their
 * order, each as a whole (an exchange of two names is one change); only an
 * fsync of the folder makes them durable, not a file's fdatasync. A sector that
 * was never written reads as zeros. No sector is written by half, and no
 * process is killed in the middle of a sector. A failed sync may also forget
 * what it has to write (DISK_FORGET): the next sync then succeeds without
 * writing, as on Linux. After a stop every call fails and does nothing. That is
 * as good as a dead process, and leaks nothing. The disk is for one thread.
 */

#if !defined(KAWS_DISK_H)
#define KAWS_DISK_H

#if defined(KEYRING_AWS_IMPLEMENTED)
#error "disk.h must be included before keyring_aws.h"
#endif
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#if !defined(_FILE_OFFSET_BITS)
#define _FILE_OFFSET_BITS 64
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if !defined(_WIN32)
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>

#include <bearssl.h>
#include <curl/curl.h>

#include <sys/syscall.h>
#endif

#define DISK static __attribute__((unused))


/* ---- rules, for the system's files ------------------------------------- */

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

static struct disk_rule {
    const char *call;
    int skip, times, os;
} disk_rules[8];

/* w pwrite, d fdatasync, f fsync (of a folder), t ftruncate, r rename,
 * x renameat2 that exchanges, n renameat2 that replaces nothing, l link,
 * u unlink, m mkdir */
static char disk_trace[256];

/* Not -1: whose all files are, as a file system may say (not on Windows). */
static long disk_owner = -1;

/* Not 0: files take no place on the disk, as if they had only holes. */
static int disk_holes;

/* Not 0: what a path means is on another device than what is open. */
static int disk_other_device;

/* Called before a call does its work. */
static void (*disk_on_call)(const char *call);


DISK void
disk_fail(const char *call, int skip, int os, int times)
{
    size_t i = 0;

    while (disk_rules[i].times > 0)
        i++;
    disk_rules[i] = (struct disk_rule){ call, skip, times, os };
}


DISK void
disk_heal(void)
{
    memset(disk_rules, 0, sizeof disk_rules);
    disk_owner = -1;
    disk_holes = 0;
    disk_other_device = 0;
    disk_on_call = NULL;
    disk_trace[0] = '\0';
}


/* Whether this call is to fail; errno says how. */
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
    for (i = 0; i < 8; i++)
        if (disk_rules[i].times > 0 && strcmp(disk_rules[i].call, call) == 0 &&
            disk_rules[i].skip-- <= 0) {
            disk_rules[i].times--;
            errno = disk_rules[i].os;
            return 1;
        }
    return 0;
}

#if defined(_WIN32)

#include "../unit/standin/windows/disk_calls.h"

#else

/* How many bytes a read or write of so many does, or -1. */
static ssize_t
disk_share(const char *call, char letter, size_t len)
{
    if (!disk_fails(call, letter))
        return (ssize_t)len;
    return errno == EAGAIN ? (ssize_t)(len + 1) / 2 : errno == 0 ? 0 : -1;
}


/* ---- the disk in memory ------------------------------------------------ */

enum {
    DISK_SECTOR = 512, DISK_NODES = 64, DISK_OPEN = 64, DISK_FD = 1000000,
    DISK_NAME = 80, DISK_FILES = 16, DISK_DIGITS = 256, DISK_JOURNAL = 256
};

#define DISK_SIZE  SIZE_MAX       /* in place of a sector's number: the size  */
#define DISK_NAMES (SIZE_MAX - 1) /* the names of a folder                    */

typedef enum disk_fault {
    DISK_FINE,
    DISK_ERROR,                   /* fails with disk.error, and does nothing  */
    DISK_FORGET,                  /* a sync fails, and the next has no work   */
    DISK_SHORT,                   /* a part is written or read; then fine     */
    DISK_SHORT_ERROR,             /* a part; the next such call fails         */
    DISK_STOP_BEFORE,             /* nothing happens any more                 */
    DISK_STOP_MIDWAY,             /* a part is written, then the same         */
    DISK_STOP_AFTER
} disk_fault;

typedef enum disk_kind {          /* what a call is                           */
    DISK_USES, DISK_MAKES, DISK_CLOSES, DISK_LOOKS, DISK_READS, DISK_WRITES,
    DISK_SYNCS, DISK_SYNCS_FOLDER, DISK_CUTS, DISK_RENAMES, DISK_RENAMES_NEW,
    DISK_EXCHANGES, DISK_LINKS, DISK_REMOVES, DISK_MAKES_FOLDER, DISK_LOCKS,
    DISK_UNLOCKS, DISK_ASKS,
    DISK_GROWS,                   /* no call: a write that takes new room     */
    DISK_KINDS
} disk_kind;

/* Kinds together, for disk_deny(). */
enum {
    DISK_ALL_ROOM = 1 << DISK_GROWS,
    DISK_ALL_WRITES = 1 << DISK_WRITES,   /* on a disk that copies: all room  */
    DISK_ALL_CUTS = 1 << DISK_CUTS,
    DISK_ALL_SYNCS = 1 << DISK_SYNCS | 1 << DISK_SYNCS_FOLDER,
    DISK_ALL_LINKS = 1 << DISK_LINKS,
    DISK_ALL_NEWER = 1 << DISK_RENAMES_NEW | 1 << DISK_EXCHANGES,
    DISK_ALL_NODES = 1 << DISK_MAKES | 1 << DISK_MAKES_FOLDER,
    DISK_ALL_NAMES = DISK_ALL_NODES | DISK_ALL_NEWER | DISK_ALL_LINKS |
                     1 << DISK_RENAMES | 1 << DISK_REMOVES,
    DISK_ALL_CHANGES = DISK_ALL_NAMES | DISK_ALL_WRITES | DISK_ALL_CUTS
};

static const char *const disk_kinds[] = {
    "open", "create", "close", "stat", "pread", "pwrite", "fdatasync",
    "fsync folder", "ftruncate", "rename", "rename to new", "exchange", "link",
    "unlink", "mkdir", "lock", "unlock", "ask"
};

typedef struct disk_list {        /* items of one size; zeros behind them     */
    void  *at;
    size_t count, max;
} disk_list;

typedef struct disk_version {     /* what a sector, or the size, came to be   */
    size_t  sector, size;
    int     forgotten;
    uint8_t bytes[DISK_SECTOR];
} disk_version;

typedef struct disk_names {       /* of a folder, between two changes of them */
    size_t count;
    struct { char name[DISK_NAME]; int node; } all[DISK_FILES];
} disk_names;

typedef struct disk_node {
    struct {
        int    folder;
        mode_t mode;
        long   mtime, ctime;      /* by disk.clock                            */
        size_t firm_len;          /* the size that is surely durable          */
    } is;
    disk_list now, firm;          /* bytes that are seen, and surely durable  */
    disk_list versions;           /* disk_version: since the last sync        */
    disk_list names;              /* disk_names: the durable ones, then those
                                   * after each change                        */
} disk_node;

typedef struct disk_image {
    disk_node nodes[DISK_NODES];
    int       count;
} disk_image;

typedef struct disk_digit {       /* one choice among what may have survived  */
    int      node;
    size_t   sector;
    unsigned radix, pick;
} disk_digit;

static struct {
    disk_image image;
    struct { int used, node, flags; short held[2]; } open[DISK_OPEN];
    unsigned   opened;            /* how many are open                        */

    unsigned   calls;             /* so far                                   */
    unsigned   at, hits;          /* the call that fails, and how many at all */
    disk_fault fault;
    int        error;
    unsigned   portion;           /* of short ones: 0 a byte, 1 half, 2 all
                                   * but a byte, 3 to the first sector's end  */
    disk_fault now;               /* of the call under way                    */
    int        follow_up;         /* the error of the next read or write      */
    int        off;               /* stopped                                  */

    int        denied[DISK_KINDS];        /* not 0: errno of all such calls   */
    int        mounted;           /* a file that is asked is a mount point    */
    long       clock;             /* goes on with each change                 */
    int        spares_locks;      /* locking does not fail                    */
    unsigned   few;               /* 0, or 1 and how many files may be open   */

    disk_kind  kinds[DISK_JOURNAL];           /* what was done, for reports   */
    char       journal[DISK_JOURNAL][96];

    disk_digit digits[DISK_DIGITS];
    size_t     digit_count;
} disk;


/* ---- images ------------------------------------------------------------ */

/* Gives the list so many items; what it did not have is zeros, and there is
 * room for a sector of them behind the end. */
DISK void
disk_resize(disk_list *list, size_t count, size_t size)
{
    size_t need = count + DISK_SECTOR / size + 1, end = list->count;

    if (need > list->max) {
        list->at = realloc(list->at, (need + need / 2) * size);
        if (list->at == NULL)
            abort();
        list->max = need + need / 2;
        memset((char *)list->at + end * size, 0, (list->max - end) * size);
    } else if (count < end) {
        memset((char *)list->at + count * size, 0, (end - count) * size);
    }
    list->count = count;
}


DISK void
disk_drop_node(disk_node *n)
{
    free(n->now.at);
    free(n->firm.at);
    free(n->versions.at);
    free(n->names.at);
    memset(n, 0, sizeof *n);
}


DISK void
disk_drop(disk_image *image)
{
    while (image->count > 0)
        disk_drop_node(&image->nodes[--image->count]);
}


DISK void
disk_copy_list(disk_list *to, const disk_list *from, size_t size)
{
    disk_resize(to, from->count, size);
    if (from->count > 0)
        memcpy(to->at, from->at, from->count * size);
}


DISK void
disk_copy(disk_image *to, const disk_image *from)
{
    int i;

    while (to->count > from->count)
        disk_drop_node(&to->nodes[--to->count]);
    for (i = 0; i < from->count; i++) {
        const disk_node *a = &from->nodes[i];
        disk_node *b = &to->nodes[i];
        disk_copy_list(&b->now, &a->now, 1);
        disk_copy_list(&b->firm, &a->firm, 1);
        disk_copy_list(&b->versions, &a->versions, sizeof(disk_version));
        disk_copy_list(&b->names, &a->names, sizeof(disk_names));
        b->is = a->is;
    }
    to->count = from->count;
}


DISK size_t
disk_sectors(size_t len)
{
    return (len + DISK_SECTOR - 1) / DISK_SECTOR;
}


/* ---- names ------------------------------------------------------------- */

/* The names of a folder as they are now. */
DISK disk_names *
disk_names_of(const disk_node *folder)
{
    return (disk_names *)folder->names.at + folder->names.count - 1;
}


/* Where the name stands, or behind the last one. */
DISK size_t
disk_lookup(const disk_names *names, const char *name)
{
    size_t i = 0, len = strcspn(name, "/");

    while (i < names->count && (strncmp(names->all[i].name, name, len) != 0 ||
                                names->all[i].name[len] != '\0'))
        i++;
    return i;
}


DISK int
disk_is_ours(const char *path)
{
    return strncmp(path, "/disk", 5) == 0 && (path[5] == '/' ||
                                              path[5] == '\0');
}


/* The node at the path, or -1. *folder is where its name stands (-1 if there is
 * no such folder), *name that name. */
DISK int
disk_find(const char *path, int *folder, const char **name)
{
    const disk_names *names;
    int node = 0, above[8] = { 0 };
    size_t len, i, depth = 0;

    *folder = -1;
    *name = "";
    for (path += 5 + strspn(path + 5, "/"); *path != '\0';
         path += len + strspn(path + len, "/")) {
        len = strcspn(path, "/");
        if (len == 2 && memcmp(path, "..", 2) == 0 && node >= 0) {
            node = depth > 0 ? above[--depth] : node;
            continue;
        }
        if (depth == sizeof above / sizeof above[0])
            abort();
        above[depth++] = node;
        *folder = node >= 0 && disk.image.nodes[node].is.folder ? node : -1;
        *name = path;
        node = -1;
        if (*folder < 0)
            continue;
        names = disk_names_of(&disk.image.nodes[*folder]);
        i = disk_lookup(names, path);
        node = i < names->count ? names->all[i].node : -1;
    }
    return node;
}


DISK disk_node *
disk_node_of(const char *path)
{
    const char *name;
    int folder, node = disk_find(path, &folder, &name);

    return node < 0 ? NULL : &disk.image.nodes[node];
}


/* Changes the names of a folder in one step: `name` means the node, or nothing
 * if that is -1, and so does `from` (if it is not NULL) its node. */
DISK void
disk_step(int folder, const char *name, int node, const char *from,
          int from_node)
{
    disk_node *f = &disk.image.nodes[folder];
    disk_names *names;
    size_t i;

    disk_resize(&f->names, f->names.count + 1, sizeof *names);
    names = disk_names_of(f);
    *names = names[-1];
    for (; name != NULL; name = from, node = from_node, from = NULL) {
        i = disk_lookup(names, name);
        if (node >= 0)
            disk.image.nodes[node].is.ctime = ++disk.clock;
        if (node < 0 && i < names->count)
            names->all[i] = names->all[--names->count];
        if (node < 0)
            continue;
        if (i == DISK_FILES)
            abort();
        names->count += i == names->count;
        names->all[i].node = node;
        (void)snprintf(names->all[i].name, DISK_NAME, "%.*s",
                       (int)strcspn(name, "/"), name);
    }
}


/* How many names mean the node, now or, `ever`, if the power is cut. */
DISK unsigned
disk_links(const disk_image *m, int node, int ever)
{
    unsigned links = 0;
    size_t k, j;
    int i;

    for (i = 0; i < m->count; i++) {
        const disk_names *names = m->nodes[i].names.at;
        for (k = 0; k < m->nodes[i].names.count; k++)
            for (j = 0; j < names[k].count; j++)
                links += names[k].all[j].node == node &&
                         (ever || k + 1 == m->nodes[i].names.count);
    }
    return links;
}


DISK int
disk_new_node(int folder, mode_t mode)
{
    disk_image *m = &disk.image;
    int i, k;

    for (i = 1; i < m->count; i++) {
        for (k = 0; k < DISK_OPEN; k++)
            if (disk.open[k].used && disk.open[k].node == i)
                break;
        if (k == DISK_OPEN && disk_links(m, i, 1) == 0)
            break;
    }
    if (i >= DISK_NODES)
        abort();
    m->count += i == m->count;
    disk_drop_node(&m->nodes[i]);
    m->nodes[i].is.folder = folder;
    m->nodes[i].is.mode = mode;
    if (folder)
        disk_resize(&m->nodes[i].names, 1, sizeof(disk_names));
    return i;
}


/* The names of the folder are durable as they are. */
DISK void
disk_pack(disk_node *f)
{
    disk_names *names = f->names.at;

    if (f->names.count > 1)
        names[0] = names[f->names.count - 1];
    disk_resize(&f->names, f->is.folder != 0, sizeof *names);
}


/* ---- contents ---------------------------------------------------------- */

DISK int
disk_is_firm(const disk_node *n, const disk_version *v)
{
    if (v->sector == DISK_SIZE)
        return v->size == n->is.firm_len;
    return (v->sector + 1) * DISK_SECTOR <= n->firm.max &&
           memcmp((char *)n->firm.at + v->sector * DISK_SECTOR, v->bytes,
                  DISK_SECTOR) == 0;
}


/* Notes what a sector, or the size, is now, unless that is known. */
DISK void
disk_note(disk_node *n, size_t sector)
{
    disk_version v, *known = n->versions.at;
    size_t i = n->versions.count;

    memset(&v, 0, sizeof v);
    v.sector = sector;
    if (sector == DISK_SIZE)
        v.size = n->now.count;
    else
        memcpy(v.bytes, (char *)n->now.at + sector * DISK_SECTOR, DISK_SECTOR);
    while (i > 0 && known[i - 1].sector != sector)
        i--;
    if (i == 0 ? disk_is_firm(n, &v)
               : !known[i - 1].forgotten && known[i - 1].size == v.size &&
                 memcmp(known[i - 1].bytes, v.bytes, DISK_SECTOR) == 0)
        return;
    disk_resize(&n->versions, n->versions.count + 1, sizeof v);
    ((disk_version *)n->versions.at)[n->versions.count - 1] = v;
}


/* The sectors between two places of the file, and its size, are others now. */
DISK void
disk_changed(disk_node *n, size_t from, size_t to)
{
    size_t sector;

    n->is.mtime = n->is.ctime = ++disk.clock;
    for (sector = from / DISK_SECTOR; sector < disk_sectors(to); sector++) {
        if ((sector + 1) * DISK_SECTOR > n->now.max)
            abort();
        disk_note(n, sector);
    }
    disk_note(n, DISK_SIZE);
}


DISK void
disk_set_len(disk_node *n, size_t len)
{
    size_t old = n->now.count;

    if (old == len)
        return;
    disk_resize(&n->now, len, 1);
    disk_changed(n, len, old);
}


DISK void
disk_write(disk_node *n, const void *data, size_t offset, size_t len)
{
    if (len == 0)
        return;
    if (offset + len > n->now.count)
        disk_resize(&n->now, offset + len, 1);
    memcpy((char *)n->now.at + offset, data, len);
    disk_changed(n, offset, offset + len);
}


DISK void
disk_apply(disk_node *n, const disk_version *v)
{
    size_t end = (v->sector + 1) * DISK_SECTOR;

    if (v->sector == DISK_SIZE) {
        n->is.firm_len = v->size;
        return;
    }
    if (end > n->firm.count)
        disk_resize(&n->firm, end, 1);
    memcpy((char *)n->firm.at + end - DISK_SECTOR, v->bytes, DISK_SECTOR);
}


/* What was not forgotten is durable now. A forgotten version lives on as a
 * possibility, until its sector is written again. */
DISK void
disk_flush(disk_node *n)
{
    disk_version *v = n->versions.at;
    size_t i, k, kept = 0;

    for (i = 0; i < n->versions.count; i++)
        if (!v[i].forgotten)
            disk_apply(n, &v[i]);
    for (i = 0; i < n->versions.count; i++) {
        for (k = i + 1; k < n->versions.count; k++)
            if (v[k].sector == v[i].sector && !v[k].forgotten)
                break;
        if (v[i].forgotten && k == n->versions.count)
            v[kept++] = v[i];
    }
    disk_resize(&n->versions, kept, sizeof *v);
    disk_resize(&n->firm, n->is.firm_len, 1);
}


/* ---- what survives ----------------------------------------------------- */

DISK void
disk_add_digit(int node, size_t sector, size_t radix)
{
    disk_digit digit = { node, sector, (unsigned)radix, 0 };

    if (disk.digit_count == DISK_DIGITS)
        abort();
    disk.digits[disk.digit_count++] = digit;
}


DISK uint64_t
disk_find_digits(const disk_image *m)
{
    uint64_t all = 1;
    size_t i, k, radix;
    int node;

    disk.digit_count = 0;
    for (node = 0; node < m->count; node++) {
        const disk_node *n = &m->nodes[node];
        const disk_version *v = n->versions.at;
        if (n->is.folder && n->names.count > 1)
            disk_add_digit(node, DISK_NAMES, n->names.count);
        if (n->is.folder || disk_links(m, node, 1) == 0)
            continue;
        for (i = 0; i < n->versions.count; i++) {
            for (k = 0; k < i && v[k].sector != v[i].sector; k++)
                continue;
            if (k < i)
                continue;
            for (radix = 2; ++k < n->versions.count;)
                radix += v[k].sector == v[i].sector;
            disk_add_digit(node, v[i].sector, radix);
        }
    }
    for (k = 0; k < disk.digit_count; k++)
        if (all < UINT64_C(1) << 40)
            all *= disk.digits[k].radix;
    return all;
}


/* How many ways to survive are to be tried: all, or if they are more than
 * `limit`, so many: nothing, everything, each thing alone, all but each, and by
 * chance. */
DISK size_t
disk_survivals(const disk_image *m, size_t limit)
{
    uint64_t all = disk_find_digits(m);

    return all < limit ? (size_t)all : limit;
}


DISK void
disk_choose(size_t number, uint64_t all, size_t limit)
{
    uint64_t left = number, seed = number * UINT64_C(0x9e3779b97f4a7c15) + 1;
    size_t i, single = number - 2, n = disk.digit_count;

    for (i = 0; i < n; i++) {
        disk_digit *d = &disk.digits[i];
        if (all <= limit) {
            d->pick = (unsigned)(left % d->radix);
            left /= d->radix;
        } else if (number < 2) {
            d->pick = number == 0 ? 0 : d->radix - 1;
        } else if (single < 2 * n) {
            d->pick = (single / 2 == i) == (single % 2 == 0) ? d->radix - 1 : 0;
        } else {
            seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
            d->pick = (unsigned)((seed >> 20) % d->radix);
        }
    }
}


/* The pick-th version of those names, that sector or size is what the disk has.
 */
DISK void
disk_pick(const disk_digit *d)
{
    disk_node *n = &disk.image.nodes[d->node];
    disk_version *v = n->versions.at;
    unsigned left = d->pick;
    size_t i;

    if (d->sector == DISK_NAMES)
        disk_resize(&n->names, d->pick + 1, sizeof(disk_names));
    for (i = 0; left > 0 && i < n->versions.count; i++)
        if (v[i].sector == d->sector && --left == 0)
            disk_apply(n, &v[i]);
}


/* The process was killed; the system goes on. */
DISK void
disk_restart(void)
{
    memset(disk.open, 0, sizeof disk.open);
    disk.opened = disk.at = disk.hits = disk.calls = 0;
    disk.off = disk.follow_up = 0;
    disk.fault = DISK_FINE;
}


/* The power was cut, and is back. `limit` as disk_survivals had it. */
DISK void
disk_survive(size_t number, size_t limit)
{
    uint64_t all = disk_find_digits(&disk.image);
    size_t k;
    int i;

    disk_choose(number, all, limit);
    for (k = 0; k < disk.digit_count; k++)
        disk_pick(&disk.digits[k]);
    for (i = 0; i < disk.image.count; i++) {
        disk_node *n = &disk.image.nodes[i];
        disk_pack(n);
        disk_resize(&n->versions, 0, sizeof(disk_version));
        disk_resize(&n->firm, n->is.firm_len, 1);
        disk_copy_list(&n->now, &n->firm, 1);
    }
    disk_restart();
}


/* All that is there becomes durable. */
DISK void
disk_sync_all(void)
{
    int i;

    for (i = 0; i < disk.image.count; i++) {
        disk_pack(&disk.image.nodes[i]);
        disk_flush(&disk.image.nodes[i]);
        disk_resize(&disk.image.nodes[i].versions, 0, sizeof(disk_version));
    }
}


/* Whether all files' bytes are durable as they are. */
DISK int
disk_is_settled(void)
{
    int i = 0;

    while (i < disk.image.count && disk.image.nodes[i].versions.count == 0)
        i++;
    return i == disk.image.count;
}


DISK void
disk_format(void)
{
    disk_drop(&disk.image);
    memset(&disk, 0, sizeof disk);
    disk.image.count = 1;
    disk.image.nodes[0].is.folder = 1;
    disk.image.nodes[0].is.mode = S_IFDIR | 0755;
    disk_resize(&disk.image.nodes[0].names, 1, sizeof(disk_names));
}


/* From now on the call of that number, and those after it up to `hits`, have
 * that fault; a call that is to be done in part does half. */
DISK void
disk_break(unsigned at, unsigned hits, disk_fault fault, int error)
{
    disk.calls = 0;
    disk.at = at;
    disk.hits = hits;
    disk.fault = fault;
    disk.error = error;
    disk.portion = 1;
}


/* From now on all calls of these kinds fail so; with 0, none does. */
DISK void
disk_deny(unsigned kinds, int os)
{
    int i;

    for (i = 0; i < DISK_KINDS; i++)
        if (kinds >> i & 1)
            disk.denied[i] = os;
}


/* ---- for tests to look and to put -------------------------------------- */

/* The bytes of a file as a process sees them, or NULL. */
DISK const uint8_t *
disk_bytes(const char *path, size_t *len)
{
    disk_node *n = disk_node_of(path);

    *len = n == NULL ? 0 : n->now.count;
    if (n != NULL)
        disk_resize(&n->now, n->now.count, 1);    /* an empty file's, too     */
    return n == NULL ? NULL : n->now.at;
}


/* Makes or replaces a file's bytes, durably. */
DISK void
disk_put(const char *path, const void *data, size_t len)
{
    const char *name;
    int folder, node = disk_find(path, &folder, &name);

    if (node < 0) {
        node = disk_new_node(0, S_IFREG | 0600);
        disk_step(folder, name, node, NULL, -1);
    }
    disk_set_len(&disk.image.nodes[node], 0);
    disk_write(&disk.image.nodes[node], data, 0, len);
    disk_sync_all();
}


/* The n-th name in a folder that begins so, or NULL. */
DISK const char *
disk_name(const char *folder, const char *begin, size_t number)
{
    const disk_node *f = disk_node_of(folder);
    const disk_names *names = f != NULL ? disk_names_of(f) : NULL;
    size_t i;

    for (i = 0; names != NULL && i < names->count; i++)
        if (strncmp(names->all[i].name, begin, strlen(begin)) == 0 &&
            number-- == 0)
            return names->all[i].name;
    return NULL;
}


DISK uint64_t
disk_hash_more(uint64_t h, const void *data, size_t len)
{
    const uint8_t *at = data;
    size_t i;

    h ^= len;
    for (i = 0; i < len; i++)
        h = (h ^ at[i]) * UINT64_C(0x100000001b3);
    return h ^ h >> 29;
}


/* Tells two disks apart, by what is seen and by what may survive. */
DISK uint64_t
disk_hash(void)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    size_t k, j;
    int i;

    for (i = 0; i < disk.image.count; i++) {
        const disk_node *n = &disk.image.nodes[i];
        const disk_version *v = n->versions.at;
        const disk_names *names = n->names.at;
        if (i > 0 && disk_links(&disk.image, i, 1) == 0)
            continue;
        h = disk_hash_more(h ^ (unsigned)i, n->now.at, n->now.count);
        for (k = 0; k < n->versions.count; k++)
            h = disk_hash_more(h ^ v[k].sector ^ v[k].size << 8 ^
                               (unsigned)v[k].forgotten << 20, v[k].bytes,
                               DISK_SECTOR);
        if (n->versions.count > 0)
            h = disk_hash_more(h, n->firm.at, n->firm.count);
        for (k = 0; k < n->names.count; k++)
            for (j = 0; j < names[k].count; j++)
                h = disk_hash_more(h ^ (unsigned)names[k].all[j].node ^ k << 12,
                                   names[k].all[j].name,
                                   strlen(names[k].all[j].name));
    }
    return h;
}


/* What was done, and what survived: for a report. */
DISK void
disk_report(FILE *out)
{
    unsigned i = disk.calls > DISK_JOURNAL ? disk.calls - DISK_JOURNAL : 0;
    size_t k;

    for (; i < disk.calls; i++)
        fprintf(out, "    %s\n", disk.journal[i % DISK_JOURNAL]);
    for (k = 0; k < disk.digit_count; k++) {
        const disk_digit *d = &disk.digits[k];
        fprintf(out, "    node %d %s %ld: %u of 0..%u survived\n", d->node,
                d->sector == DISK_SIZE ? "size" : d->sector == DISK_NAMES
                ? "names" : "sector", (long)d->sector, d->pick, d->radix - 1);
    }
}


/* ---- a call ------------------------------------------------------------ */

/* Begins a call: 0, or the errno that it fails with at once. */
DISK int
disk_enter(disk_kind kind, const char *what, size_t offset, size_t len)
{
    char *line = disk.journal[disk.calls % DISK_JOURNAL];
    const char *name = strrchr(what, '/');
    int error = 0;

    disk.now = DISK_FINE;
    if (disk.off)
        return EIO;
    disk.kinds[disk.calls % DISK_JOURNAL] = kind;
    disk.calls++;
    if (disk.at > 0 && disk.calls >= disk.at &&
        disk.calls < disk.at + (disk.hits > 0 ? disk.hits : 1))
        disk.now = disk.fault;
    (void)snprintf(line, sizeof disk.journal[0], "%u %s %.30s %lu+%lu%s",
                   disk.calls, disk_kinds[kind],
                   name != NULL ? name + 1 : what, (unsigned long)offset,
                   (unsigned long)len, disk.now != DISK_FINE ? " <-" : "");
    if (disk.follow_up != 0 && (kind == DISK_READS || kind == DISK_WRITES)) {
        error = disk.follow_up;
        disk.follow_up = 0;
        return error;
    }
    if (disk.now == DISK_ERROR)
        return disk.error;
    disk.off = disk.now == DISK_STOP_BEFORE;
    return disk.off ? EIO : 0;
}


/* Ends a call, for better or for worse. */
DISK int
disk_leave(int error, int result)
{
    if (disk.now == DISK_STOP_AFTER)
        disk.off = 1;
    disk.now = DISK_FINE;
    if (error == 0)
        return result;
    errno = error;
    return -1;
}


/* How much of a read or write is done. */
DISK size_t
disk_part(size_t offset, size_t len)
{
    size_t first = DISK_SECTOR - offset % DISK_SECTOR;
    size_t parts[4] = { 1, len / 2, len - 1, first < len ? first : len - 1 };

    if ((disk.now != DISK_SHORT && disk.now != DISK_SHORT_ERROR &&
         disk.now != DISK_STOP_MIDWAY) || len < 2)
        return len;
    if (disk.now == DISK_SHORT_ERROR)
        disk.follow_up = disk.error;
    return parts[disk.portion];
}


/* Begins a call of an open file, whose node is *n: 0, or the errno. */
DISK int
disk_enter_fd(disk_kind kind, int fd, size_t offset, size_t len, disk_node **n)
{
    int i = fd - DISK_FD, error = disk_enter(kind, "", offset, len);

    *n = i >= 0 && i < DISK_OPEN && disk.open[i].used
       ? &disk.image.nodes[disk.open[i].node] : NULL;
    return error == 0 && *n == NULL ? EBADF : error;
}


/* ---- the calls --------------------------------------------------------- */

/* Why the file cannot be opened so. */
DISK int
disk_open_error(int folder, int node, int flags)
{
    int writes = (flags & O_ACCMODE) != O_RDONLY;

    if (node < 0 && (folder < 0 || !(flags & O_CREAT)))
        return ENOENT;
    if (node >= 0 && (flags & O_CREAT) && (flags & O_EXCL))
        return EEXIST;
    if (node >= 0 && disk.image.nodes[node].is.folder && writes)
        return EISDIR;
    if (node >= 0 && !disk.image.nodes[node].is.folder && flags & O_DIRECTORY)
        return ENOTDIR;
    if (writes && disk.denied[DISK_WRITES] == EROFS)
        return EROFS;
    if (node < 0 && disk.denied[DISK_MAKES] != 0)
        return disk.denied[DISK_MAKES];
    return disk.few > 0 && disk.opened + 1 >= disk.few ? EMFILE : 0;
}


/* With a mode, as room disk opens files. */
DISK int
disk_open(const char *path, int flags, ...)
{
    const char *name;
    int folder, node, error, i = 0;

    if (!disk_is_ours(path))
        return disk_fails(flags & O_DIRECTORY ? "opendir" : "open", '\0')
             ? -1 : open(path, flags, 0600);
    node = disk_find(path, &folder, &name);
    error = disk_enter(node < 0 && (flags & O_CREAT) ? DISK_MAKES : DISK_USES,
                       path, 0, 0);
    if (error == 0)
        error = disk_open_error(folder, node, flags);
    if (error != 0)
        return disk_leave(error, -1);
    if (node < 0) {
        node = disk_new_node(0, S_IFREG | 0600);
        disk_step(folder, name, node, NULL, -1);
    }
    while (disk.open[i].used)
        if (++i == DISK_OPEN)
            abort();
    disk.open[i].used = 1;
    disk.open[i].node = node;
    disk.open[i].flags = flags;
    disk.open[i].held[0] = disk.open[i].held[1] = F_UNLCK;
    disk.opened++;
    return disk_leave(0, DISK_FD + i);
}


DISK int
disk_close(int fd)
{
    disk_node *n;
    int error;

    if (fd < DISK_FD)
        return close(fd);
    error = disk_enter_fd(DISK_CLOSES, fd, 0, 0, &n);
    if (n != NULL) {                      /* whatever it answers              */
        disk.open[fd - DISK_FD].used = 0;
        disk.opened--;
    }
    return disk_leave(error, 0);
}


/* Of an open file, or of what a path means. */
DISK int
disk_stat(int error, const disk_node *n, struct stat *st)
{
    if (error != 0)
        return disk_leave(error, -1);
    memset(st, 0, sizeof *st);
    st->st_dev = 4711;
    st->st_ino = (ino_t)(n - disk.image.nodes + 1);
    st->st_mode = n->is.mode;
    st->st_uid = geteuid();
    st->st_nlink = disk_links(&disk.image, (int)(n - disk.image.nodes), 0);
    st->st_size = (off_t)n->now.count;
    st->st_mtim.tv_sec = n->is.mtime;
    st->st_ctim.tv_sec = n->is.ctime;
    return disk_leave(0, 0);
}


DISK int
disk_fstat(int fd, struct stat *st)
{
    disk_node *n;
    int error;

    if (fd >= DISK_FD) {
        error = disk_enter_fd(DISK_LOOKS, fd, 0, 0, &n);
        return disk_stat(error, n, st);
    }
    if (disk_fails("fstat", '\0') || fstat(fd, st) != 0)
        return -1;
    if (disk_owner >= 0)
        st->st_uid = (uid_t)disk_owner;
    if (disk_holes)
        st->st_blocks = 0;
    return 0;
}


DISK int
disk_lstat(const char *path, struct stat *st)
{
    const disk_node *n;
    int error;

    if (disk_is_ours(path)) {
        error = disk_enter(DISK_LOOKS, path, 0, 0);
        n = disk_node_of(path);
        return disk_stat(error == 0 && n == NULL ? ENOENT : error, n, st);
    }
    if (disk_fails("lstat", '\0') || lstat(path, st) != 0)
        return -1;
    st->st_dev += (dev_t)disk_other_device;
    return 0;
}


/* Whether it is a mount point, and no more. */
DISK int
disk_SYS_statx(int dir, const char *path, int flags, unsigned mask,
               uint64_t *out)
{
    if (!disk_is_ours(path))
        return (int)syscall(SYS_statx, dir, path, flags, mask, out);
    out[1] = disk.mounted ? 0x2000 : 0;   /* STATX_ATTR_MOUNT_ROOT            */
    return disk_leave(disk_enter(DISK_ASKS, path, 0, 0), 0);
}


DISK ssize_t
disk_pread(int fd, void *out, size_t len, off_t offset)
{
    disk_node *n;
    size_t at = (size_t)offset;
    ssize_t some;
    int error;

    if (fd < DISK_FD) {
        some = disk_share("pread", '\0', len);
        return some <= 0 ? some : pread(fd, out, (size_t)some, offset);
    }
    error = disk_enter_fd(DISK_READS, fd, at, len, &n);
    if (error == 0) {
        len = at >= n->now.count ? 0 : len < n->now.count - at
                                     ? len : n->now.count - at;
        len = disk_part(at, len);
        if (len > 0)
            memcpy(out, (char *)n->now.at + at, len);
    }
    return disk_leave(error, (int)len);
}


/* On a full disk a write fills the sectors that the file has, and fails where
 * it needs another. */
DISK int
disk_fit(const disk_node *n, size_t at, size_t *len)
{
    size_t room = disk_sectors(n->now.count) * DISK_SECTOR;

    if (disk.denied[DISK_GROWS] == 0 || at + *len <= room)
        return 0;
    if (at >= room)
        return disk.denied[DISK_GROWS];
    *len = room - at;
    return 0;
}


DISK ssize_t
disk_real_pwrite(int fd, const void *data, size_t len, off_t offset)
{
    ssize_t some = disk_share("pwrite", 'w', len);

    if (some < 0 && errno == ENOSPC && pwrite(fd, data, len / 2, offset) >= 0)
        errno = ENOSPC;
    return some <= 0 ? some : pwrite(fd, data, (size_t)some, offset);
}


DISK ssize_t
disk_pwrite(int fd, const void *data, size_t len, off_t offset)
{
    disk_node *n;
    size_t at = (size_t)offset;
    int error;

    if (fd < DISK_FD)
        return disk_real_pwrite(fd, data, len, offset);
    error = disk_enter_fd(DISK_WRITES, fd, at, len, &n);
    if (error == 0)
        error = disk.open[fd - DISK_FD].flags & O_RDWR
              ? disk.denied[DISK_WRITES] : EBADF;
    if (error == 0)
        error = disk_fit(n, at, &len);
    if (error == 0 && disk.now == DISK_STOP_MIDWAY &&
        at + len <= n->now.count &&
        at / DISK_SECTOR == (at + len - 1) / DISK_SECTOR)
        len = 0;
    if (error == 0) {
        len = disk_part(at, len);
        disk_write(n, data, at, len);
    }
    if (error == 0 && disk.now == DISK_STOP_MIDWAY) {
        disk.off = 1;
        error = EIO;
    }
    return disk_leave(error, (int)len);
}


/* A file's bytes become durable, or a folder's names. */
DISK int
disk_sync(disk_kind kind, int fd)
{
    disk_node *n;
    disk_version *v;
    size_t i;
    int error = disk_enter_fd(kind, fd, 0, 0, &n);

    if (error == 0)
        error = n->is.folder != (kind == DISK_SYNCS_FOLDER)
              ? EBADF : disk.denied[kind];
    if (error == 0 && disk.now == DISK_FORGET) {
        for (i = 0, v = n->versions.at; i < n->versions.count; i++)
            v[i].forgotten = v[i].sector != DISK_SIZE;
        error = disk.error;
    }
    if (error == 0 && n->is.folder)
        disk_pack(n);
    else if (error == 0)
        disk_flush(n);
    return disk_leave(error, 0);
}


DISK int
disk_fdatasync(int fd)
{
    if (fd >= DISK_FD)
        return disk_sync(DISK_SYNCS, fd);
    return disk_fails("fdatasync", 'd') ? -1 : fdatasync(fd);
}


DISK int
disk_fsync(int fd)
{
    if (fd >= DISK_FD)
        return disk_sync(DISK_SYNCS_FOLDER, fd);
    return disk_fails("fsync", 'f') ? -1 : fsync(fd);
}


DISK int
disk_ftruncate(int fd, off_t len)
{
    disk_node *n;
    int error;

    if (fd < DISK_FD)
        return disk_fails("ftruncate", 't') ? -1 : ftruncate(fd, len);
    error = disk_enter_fd(DISK_CUTS, fd, 0, (size_t)len, &n);
    if (error == 0)
        error = disk.denied[DISK_CUTS];
    if (error == 0)
        disk_set_len(n, (size_t)len);
    return disk_leave(error, 0);
}


DISK int
disk_faccessat(int dir, const char *path, int mode, int flags)
{
    int error;

    if (!disk_is_ours(path))
        return disk_fails("faccessat", '\0')
             ? -1 : faccessat(dir, path, mode, flags);
    error = disk_enter(DISK_ASKS, path, 0, 0);
    return disk_leave(error != 0 ? error : disk.denied[DISK_REMOVES], 0);
}


/* From one name to another; both in one folder. A link leaves the old name. */
DISK int
disk_move(disk_kind kind, const char *from, const char *to)
{
    const char *old_name, *new_name;
    int old_folder, new_folder;
    int node = disk_find(from, &old_folder, &old_name);
    int other = disk_find(to, &new_folder, &new_name);
    int error = disk_enter(kind, to, 0, 0);

    if (error == 0)
        error = node < 0 || old_folder != new_folder ? ENOENT
              : disk.denied[kind] != 0 ? disk.denied[kind]
              : kind == DISK_EXCHANGES && other < 0 ? ENOENT
              : (kind == DISK_LINKS || kind == DISK_RENAMES_NEW) && other >= 0
              ? EEXIST : 0;
    if (error == 0) {
        disk_step(new_folder, new_name, node,
                  kind == DISK_LINKS ? NULL : old_name,
                  kind == DISK_EXCHANGES ? other : -1);
        if (other >= 0)
            disk.image.nodes[other].is.ctime = ++disk.clock;
    }
    return disk_leave(error, 0);
}


DISK int
disk_rename(const char *from, const char *to)
{
    if (disk_is_ours(from))
        return disk_move(DISK_RENAMES, from, to);
    return disk_fails("rename", 'r') ? -1 : rename(from, to);
}


DISK int
disk_SYS_renameat2(int a, const char *from, int b, const char *to, int how)
{
    int exchanges = how == 2;             /* RENAME_EXCHANGE                  */

    if (disk_is_ours(from))
        return disk_move(exchanges ? DISK_EXCHANGES : DISK_RENAMES_NEW, from,
                         to);
    return disk_fails("renameat2", exchanges ? 'x' : 'n')
         ? -1 : (int)syscall(SYS_renameat2, a, from, b, to, how);
}


DISK int
disk_link(const char *from, const char *to)
{
    if (disk_is_ours(from))
        return disk_move(DISK_LINKS, from, to);
    return disk_fails("link", 'l') ? -1 : link(from, to);
}


DISK int
disk_unlink(const char *path)
{
    const char *name;
    int folder, node, error;

    if (!disk_is_ours(path))
        return disk_fails("unlink", 'u') ? -1 : unlink(path);
    error = disk_enter(DISK_REMOVES, path, 0, 0);
    node = disk_find(path, &folder, &name);
    if (error == 0)
        error = node < 0 ? ENOENT : disk.image.nodes[node].is.folder
              ? EISDIR : disk.denied[DISK_REMOVES];
    if (error == 0) {
        disk_step(folder, name, -1, NULL, -1);
        disk.image.nodes[node].is.ctime = ++disk.clock;
    }
    return disk_leave(error, 0);
}


DISK int
disk_mkdir(const char *path, mode_t mode)
{
    const char *name;
    int folder, node, error;

    if (!disk_is_ours(path))
        return disk_fails("mkdir", 'm') ? -1 : mkdir(path, mode);
    error = disk_enter(DISK_MAKES_FOLDER, path, 0, 0);
    node = disk_find(path, &folder, &name);
    if (error == 0)
        error = node >= 0 ? EEXIST : folder < 0
              ? ENOENT : disk.denied[DISK_MAKES_FOLDER];
    if (error == 0)
        disk_step(folder, name, disk_new_node(1, S_IFDIR | mode), NULL, -1);
    return disk_leave(error, 0);
}


/* Whether another open file holds byte `slot` of the node in a way that `type`
 * cannot be beside. */
DISK int
disk_is_held(int self, int slot, short type)
{
    int i;

    for (i = 0; i < DISK_OPEN; i++)
        if (i != self && disk.open[i].used &&
            disk.open[i].node == disk.open[self].node &&
            disk.open[i].held[slot] != F_UNLCK &&
            (type == F_WRLCK || disk.open[i].held[slot] == F_WRLCK))
            return 1;
    return 0;
}


/* Locks that belong to the open file (F_OFD_SETLK and F_OFD_GETLK). Letting go
 * of one does not fail: no local file system's does. */
DISK int
disk_lock(int fd, int call, struct flock *range)
{
    int error, held, slot = (int)range->l_start;
    disk_fault fault = disk.fault;
    disk_kind kind = call == F_OFD_GETLK ? DISK_ASKS
                   : range->l_type == F_UNLCK ? DISK_UNLOCKS : DISK_LOCKS;
    disk_node *n;

    if (fd < DISK_FD)
        return disk_fails("fcntl", '\0') ? -1 : fcntl(fd, call, range);
    if (fault == DISK_ERROR && (kind == DISK_UNLOCKS || disk.spares_locks))
        disk.fault = DISK_FINE;
    error = disk_enter_fd(kind, fd, (size_t)slot, (size_t)range->l_type, &n);
    disk.fault = fault;
    if (error != 0)
        return disk_leave(error, -1);
    if (slot < 0 || slot > 1)
        abort();
    held = disk_is_held(fd - DISK_FD, slot, range->l_type);
    if (kind == DISK_LOCKS && held)
        return disk_leave(EAGAIN, -1);
    if (call == F_OFD_SETLK)
        disk.open[fd - DISK_FD].held[slot] = range->l_type;
    else if (!held)
        range->l_type = F_UNLCK;
    return disk_leave(0, 0);
}


/* The numbers of this disk's files are above 2, so that only a real file is
 * ever duplicated. */
DISK int
disk_fcntl(int fd, int call, ...)
{
    struct flock *range = NULL;
    int least = 0;
    va_list args;

    va_start(args, call);
    if (call == F_DUPFD_CLOEXEC)
        least = va_arg(args, int);
    else
        range = va_arg(args, struct flock *);
    va_end(args);
    if (range != NULL)
        return disk_lock(fd, call, range);
    return disk_fails("fcntl", '\0') ? -1 : fcntl(fd, call, least);
}


/* Programs are not part of the disk. */
DISK int
disk_SYS_pipe2(int ends[2], int flags)
{
    return pipe2(ends, flags);
}


DISK void *
disk_pages(size_t len)
{
    void *at = calloc(1, len);

    return at != NULL ? at : MAP_FAILED;
}


/* From here on these names mean the disk. */
#define open(...)             disk_open(__VA_ARGS__)
#define close(fd)             disk_close(fd)
#define fstat(fd, st)         disk_fstat(fd, st)
#define lstat(path, st)       disk_lstat(path, st)
#define faccessat(d, p, m, f) disk_faccessat(d, p, m, f)
#define pread(fd, p, n, at)   disk_pread(fd, p, n, at)
#define pwrite(fd, p, n, at)  disk_pwrite(fd, p, n, at)
#define fdatasync(fd)         disk_fdatasync(fd)
#define fsync(fd)             disk_fsync(fd)
#define ftruncate(fd, n)      disk_ftruncate(fd, n)
#define rename(from, to)      disk_rename(from, to)
#define kaws__sys_call(call, ...) disk_##call(__VA_ARGS__)
#define link(from, to)        disk_link(from, to)
#define unlink(path)          disk_unlink(path)
#define mkdir(path, mode)     disk_mkdir(path, mode)
#define fcntl(...)            disk_fcntl(__VA_ARGS__)

/* With DISK_CHEAP_PAGES the creds' pages come from malloc: a test that opens a
 * keyring a hundred thousand times would spend most of its time on them, and so
 * a sanitizer sees to them, too. */
#if defined(DISK_CHEAP_PAGES)
#define mmap(at, len, prot, flags, fd, offset) disk_pages(len)
#define munmap(at, len)       ((void)(len), free(at))
#define mlock(at, len)        ((void)(at), (void)(len), 0)
#define madvise(at, len, how) ((void)(at), (void)(len), 0)
#endif

#endif

#endif /* KAWS_DISK_H */
